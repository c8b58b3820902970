// SPDX-License-Identifier: MIT
/*
 * Cells on this very machine. The same cell as in a guest runs in a process of its own; what it changes is undone by
 * itself, or from its undo log when it was ended.
 */
#ifndef HEADROOM_METAL_H
#define HEADROOM_METAL_H

#include "guest/provision.h"
#include "run/spec.h"
#include "run/watch.h"

#include <stdint.h>

struct metal_machine {
	char kernel[128]; /* uname -r */
	unsigned cpus;
	uint64_t memory_mib;  /* without those blocks that can be taken offline */
	uint64_t movable_mib; /* in those blocks */
};

/* 0, or -errno when /proc/meminfo cannot be read. */
int metal_look(struct metal_machine *m);
/* This kernel, as a guest's is described. */
void metal_kernel(const struct metal_machine *m, struct kernel *k);
/* Only one run at a time: groups and knobs are the machine's. Held until the program ends. 0, or -errno (-EBUSY). */
int metal_lock(void);

struct metal_config {
	const struct spec *spec; /* its scratch is a file, or a device, that may be overwritten */
	const char *dir;	 /* takes the undo log, and the directory that tools work in */
	const char *log;	 /* file that gets what the cell says */
	struct watch_limits limits;
};

/* Run one cell to its end; what it changed is undone then (see metal_undo()). 0, or -errno when it was not started. */
int metal_run(const struct metal_config *m, struct bb *box, watch_progress_fn *progress, void *arg,
	      struct ending *ending);
/*
 * End whoever is left of a cell in this directory, put back what its undo log has, and remove what its tools worked
 * with. 0, also where there is none of it, or -errno: the log stays.
 */
int metal_undo(const char *dir);

#endif
