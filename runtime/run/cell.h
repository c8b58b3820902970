// SPDX-License-Identifier: MIT
/*
 * One cell, on the machine under test: set up, start line, load, proof, undo. Everything worth knowing goes into the
 * black box; the verdict is found later, where the record is read.
 */
#ifndef HEADROOM_CELL_H
#define HEADROOM_CELL_H

#include "record/blackbox.h"
#include "run/spec.h"

/*
 * Run the cell and leave the box at stage BB_DONE. `state_dir` (a writable directory that survives kill -9 where the
 * machine is not thrown away) takes the undo log. Returns 0, or -errno when the cell could not be carried through;
 * the box says why.
 */
int cell_run(const struct spec *spec, struct bb *box, const char *state_dir, const char *work_dir);

/* Roles of processes; each lives in the cgroup CGROUP_PARENT/ROLE. */
#define ROLE_WORKLOAD  "workload"
#define ROLE_BYSTANDER "bystander"
#define ROLE_HARNESS   "harness"

/* The phase in which the machine is disturbed by us. */
#define PHASE_SHRINK "shrink"

/* The setting, as the record has it, that makes the kernel say why memory does not go offline: "+p" or "-p". */
#define OFFLINE_REASONS "dynamic_debug mm/memory_hotplug.c"

#endif
