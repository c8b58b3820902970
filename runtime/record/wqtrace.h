// SPDX-License-Identifier: MIT
/*
 * Follows the workqueue tracepoints through a trace instance of its own, in a process of its own, and writes what
 * wqlatency.h makes of them into the black box: `wq-trace-on` when it begins, a `wq-stall` for each wait over the
 * threshold as soon as it is known, and one `wq-trace` at the end. Without tracefs there is one `wq-trace` with an
 * `error`, and the cell goes on: it is an observer among others.
 *
 * It is part of the load: the kernel's ring buffers (buffer_kib for each CPU, not to be swapped or reclaimed), four
 * events for each work, and the process that reads them: about 2 MiB of symbols and 1 MiB of tables. The events say
 * how much it was. What the readers were too slow for is overwritten and counted.
 */
#ifndef HEADROOM_WQTRACE_H
#define HEADROOM_WQTRACE_H

#include "record/blackbox.h"

#include <sys/types.h>

struct wqtrace_config {
	unsigned buffer_kib;   /* for each CPU */
	unsigned threshold_ms; /* of a stall */
};

struct wqtrace {
	pid_t pid;
	struct wqtrace_shared *shared; /* NULL: it is not running */
};

/* 0 when the events come in, or -errno; the box says why. */
int wqtrace_start(struct wqtrace *t, struct bb *box, const struct wqtrace_config *config);
/*
 * Write the result and take the instance away. 0; -EBUSY when that is still under way, because the kernel's workers do
 * not get to it (the result is written); -ETIMEDOUT when the process had to be killed.
 */
int wqtrace_stop(struct wqtrace *t);

#endif
