// SPDX-License-Identifier: MIT
/*
 * Looks at the tasks of the machine for a deadlock around memory hot-remove, once a second or so.
 *
 * It opens nothing that could join the cycle: no /proc/PID/cgroup, nothing of cgroupfs, no memory block. Of each task
 * it reads stat; stack and status only of those that sleep uninterruptibly, of the offliner, and of those that sleep
 * where a core dump does (wchan); cmdline of who sleeps while somebody dumps, to find the one that is to read that
 * dump.
 */
#ifndef HEADROOM_DETECTOR_H
#define HEADROOM_DETECTOR_H

#include "hotplug/waitfor.h"

struct detector {
	const char *proc; /* "/proc"; a fixture tree in tests */
	pid_t offliner;	  /* whose write to a block's state is under way; 0: nobody's is known */
	unsigned looks;	  /* a cycle must be there for so many looks in a row */
	int64_t hold_ns;  /* and for so long */
	/* Its own. */
	uint64_t migrate_failed; /* as of the last look */
	bool looked;
	struct waitfor_watch watch;
	struct waiter tasks[WAITFOR_MAX_TASKS];
	unsigned n_tasks;
	uint64_t dropped; /* tasks of interest that there was no room for, so far */
};

/* Look once, at `now_ns`. True when there is a deadlock: d->watch.cycle. */
bool detector_look(struct detector *d, int64_t now_ns);

#endif
