// SPDX-License-Identifier: MIT
/*
 * Memory that nobody uses goes back when it is short: a thread waits for the kernel to say so (a PSI trigger,
 * Documentation/accounting/psi.rst) and trims an allocator, once an interval at most.
 */
#ifndef HEADROOM_ENGINE_TRIM_H
#define HEADROOM_ENGINE_TRIM_H

#include "engine/slab.h"

#define TRIM_STALL_US	 150000	 /* the example of psi.rst: tasks stalled for so long */
#define TRIM_WINDOW_US	 1000000 /* within this time */
#define TRIM_INTERVAL_MS 1000	 /* as the window: the kernel says it no more often */

struct trim_counters {
	uint64_t trims;
	uint64_t bytes; /* given back by them */
	uint64_t lost;	/* 1: there is nothing to wait for any more, the group has gone */
};

struct trim;

/*
 * Register a trigger with "/proc/pressure/memory" or a group's memory.pressure: some task stalled for stall_us within
 * window_us (0: the values above). Returns a descriptor that polls POLLPRI, or -errno: -EOPNOTSUPP: no PSI; -EPERM,
 * -EINVAL: the window is none of the kernel's (500 ms to 10 s; without privilege whole multiples of 2 s).
 */
int trim_trigger(const char *pressure_file, unsigned stall_us, unsigned window_us);
/*
 * Trim whenever `fd` polls POLLPRI, every interval_ms at most (0: as above). The descriptor is the trim's if 0 is
 * returned. 0, or -errno.
 */
int trim_start(struct slabs *s, int fd, unsigned interval_ms, struct trim **trim);
/* Waits for a trim that goes on, and closes the descriptor. NULL is none. To be called before slab_close(). */
void trim_stop(struct trim *t);
/* A moment's values, by any thread. */
void trim_read_counters(const struct trim *t, struct trim_counters *counters);

#endif
