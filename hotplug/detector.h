// SPDX-License-Identifier: MIT
/*
 * Looks at the tasks of the machine for a deadlock around memory hot-remove, once a second or so.
 *
 * It opens nothing that could join the cycle: no /proc/PID/cgroup, nothing of cgroupfs, no memory block. Of each task
 * it reads stat; stack and status only of those that sleep uninterruptibly, of the offliner, and of those that sleep
 * where a core dump does (wchan); cmdline of who waits for a lock while somebody dumps, to find the one that is
 * to read that dump.
 *
 * Who looks should have locked its memory (mlockall(2)): a page fault may wait for what it looks for.
 */
#ifndef HEADROOM_DETECTOR_H
#define HEADROOM_DETECTOR_H

#include "hotplug/memblock.h"
#include "hotplug/waitfor.h"

struct detector {
	const char *proc; /* "/proc"; a fixture tree in tests */
	pid_t offliner;	  /* whose write to a block's state is under way; 0: nobody's is known */
	pid_t supervisor; /* who is to end the offliner by a signal; 0: somebody who waits for nothing, as we do */
	unsigned looks;	  /* a cycle must be there for so many looks in a row */
	int64_t hold_ns;  /* and for so long */
	/* Its own. */
	uint64_t migrate_failed; /* as of the last look */
	int64_t failed_ns;	 /* when it had grown last; 0: not yet */
	bool looked;
	struct waitfor_watch watch;
	struct waiter tasks[WAITFOR_MAX_TASKS];
	unsigned n_tasks;
	/* So far. */
	uint64_t looked_n; /* looks */
	uint64_t cycles_n; /* of them with a cycle, which need not have stayed */
	uint64_t dropped;  /* tasks of interest that there was no room for */
};

/* Look once, at `now_ns`. True when there is a deadlock: d->watch.cycle. */
bool detector_look(struct detector *d, int64_t now_ns);
/*
 * Wait for a write to a block's state until it has come back, `until_ns` is there, or there is a deadlock around it,
 * looking twice a second. True when there is.
 */
bool detector_wait(struct detector *d, struct memblock_try *t, int64_t until_ns);

#endif
