// SPDX-License-Identifier: MIT
/*
 * One guest, from its start to its end. It is watched through the black box (stage and heartbeat), through QMP events
 * and as a process; it always ends, by itself or by us, and it dies with us.
 */
#ifndef HEADROOM_QEMU_H
#define HEADROOM_QEMU_H

#include "record/blackbox.h"
#include "run/watch.h"

#include <stdbool.h>

#define QEMU_BINARY "qemu-system-x86_64"

/* What a DIMM of the guest is called, with its number behind, in the monitor's words. */
#define GUEST_DIMM "dimm"

struct guest_config {
	const char *accel; /* "kvm" or "tcg" */
	unsigned cpus, memory_mib;
	unsigned dimms, dimm_mib; /* hot-pluggable memory beside: so many, each of this size */
	const char *kernel, *initramfs, *image;
	const char *scratch;  /* NULL: no scratch disk */
	const char *box_path; /* the black box's file, formatted, `box` maps it */
	uint64_t box_size;
	const char *console_log; /* gets the serial console */
	const char *cmdline;
	struct watch_limits limits;
};

/* The command line, for showing and for running; NULL-terminated, owned by the caller, freed by guest_argv_free(). */
char **guest_argv(const struct guest_config *g, int qmp_fd);
void guest_argv_free(char **argv);

/* Run to the end. 0 with the result, or -errno when QEMU could not be started (-ENOENT: not installed). */
int guest_run(const struct guest_config *g, struct bb *box, watch_progress_fn *progress, void *arg,
	      struct ending *ending);

#endif
