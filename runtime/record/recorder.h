// SPDX-License-Identifier: MIT
/*
 * The flight recorder: a process of its own that watches the machine and writes into a black box.
 *
 * It must not need what the storm takes away. Before it reports ready it has opened every file, taken and locked all
 * its memory, and protected itself from the OOM killer; from then on it reads with pread(2) into fixed buffers and
 * formats into fixed buffers. What can block on the system under test (the workqueue canary, slabinfo, device-mapper
 * ioctls, cgroup files, kernel threads) has a thread of its own, so that the sampler is late only when the machine does
 * not run it. Kernel threads come and go with the load: to follow them is the one thing that opens files later on.
 *
 * Every loss is counted: ticks left out, log records overwritten before they were read, records refused by a full box.
 */
#ifndef HEADROOM_RECORDER_H
#define HEADROOM_RECORDER_H

#include "record/blackbox.h"

#include <sys/types.h>

#define RECORDER_MAX_DM	    64	/* device-mapper devices watched; dmtest's largest set needs 17 */
#define RECORDER_MAX_GROUPS 24	/* five of every cell, two of each of eight workloads */
#define RECORDER_MAX_NAMES  16	/* of kernel threads */
#define RECORDER_MAX_TASKS  512 /* kernel threads followed, each with an open file: half of the usual RLIMIT_NOFILE */

/*
 * slabinfo costs more than all other files together, and reading it takes the locks that the load needs. It is in every
 * sample while the slab grows or shrinks, by a hundredth since it was last read; else once in this time, and in the
 * last sample.
 */
#define RECORDER_SLAB_MS 1000

/* A cgroup (v2) to watch. Both strings must last as long as the recorder. */
struct recorder_group {
	const char *name; /* in the record: the path below the hierarchy's root, "/" for that */
	const char *dir;
};

struct recorder_config {
	unsigned period_ms;		 /* between samples: 10 to 60000; the suite uses 100 (10 Hz) */
	unsigned slab_ms;		 /* see RECORDER_SLAB_MS; 0: slabinfo is in every sample */
	unsigned canary_ms;		 /* between probes of the workqueues; 0: none */
	unsigned dm_ms;			 /* between looks at the dm devices */
	const char *dm[RECORDER_MAX_DM]; /* names; NULL ends them */
	unsigned group_ms;		 /* between looks at the cgroups */
	struct recorder_group groups[RECORDER_MAX_GROUPS + 1]; /* no name ends them */
	unsigned thread_ms;				       /* between looks at the kernel threads */
	/*
	 * Whose CPU time is added up, by how the names begin, those of work queues for kworkers; NULL ends them. What
	 * fits two names belongs to the first.
	 */
	const char *threads[RECORDER_MAX_NAMES + 1];
	int kmsg_fd; /* > 0: a non-blocking stand-in for /dev/kmsg, for tests */
	int proc_fd; /* > 0: a directory in place of /proc for the kernel threads, for tests */
};

struct recorder {
	pid_t pid;
	struct recorder_shared *shared;
};

/*
 * Start recording into the box. Returns when the recorder is ready and its first sample is about to be taken, or
 * -errno. Files that this kernel does not have are left out of the samples.
 */
int recorder_start(struct recorder *r, struct bb *box, const struct recorder_config *config);
/* Take the last sample and end. 0, or -ETIMEDOUT when it had to be killed (5 s). */
int recorder_stop(struct recorder *r);

/* Add a line of text to the kernel log, so that both clocks meet in it. */
int recorder_mark(const char *text);

#endif
