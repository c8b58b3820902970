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

/*
 * Take a disk for cells that need `bytes` of it, or look again at the one that is held (see devguard_take()). Held
 * until the program ends, but for the cells.
 */
int metal_claim_disk(const char *name, uint64_t bytes, char *err, size_t err_size);
/* Make its first `bytes` read as zero. 0 or -errno. */
int metal_blank_disk(uint64_t bytes);
/* Let go of it: a cell claims it by itself. What is forked while it is held holds it too. */
void metal_release_disk(void);

struct metal_config {
	const struct spec *spec; /* its scratch is a file, or a device, that may be overwritten */
	const char *dir;	 /* takes the undo log, and the directory that tools work in */
	const char *log;	 /* file that gets what the cell says */
	struct watch_limits limits;
};

/*
 * Run one cell to its end; what it changed is undone then (see metal_undo()). While it runs nothing that is done here
 * opens, reads or writes a file or needs memory: `progress` must not either. 0, or -errno when it was not started.
 */
int metal_run(const struct metal_config *m, struct bb *box, watch_progress_fn *progress, void *arg,
	      struct ending *ending);
/*
 * End whoever is left of a cell in this directory, put back what its undo log has, and remove what its tools worked
 * with. 0, also where there is none of it, or -errno: the log stays. -ETIMEDOUT: somebody hangs in the kernel.
 */
int metal_undo(const char *dir);
/* Can a file be written in this directory, to the disk? 0, -errno, or -ETIMEDOUT when that does not come to an end. */
int metal_can_write(const char *dir);
/* An error message on stderr, which may lead to where nothing can be written any more: then it is given up. */
void metal_say(const char *text);

#endif
