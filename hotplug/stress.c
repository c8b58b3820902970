// SPDX-License-Identifier: MIT
#include "hotplug/stress.h"

#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

pid_t stress_start(const struct cell *c, uint64_t stressors, uint64_t bytes)
{
	char number[24], size[32], timeout[24];
	/* Not --vm-keep: pages that were moved out of the way once would stay there, and no block had any again. */
	const char *argv[] = { STRESSOR,      "--vm",	     number,	  "--vm-bytes", size,
			       "--vm-method", "write64",     "--timeout", timeout,	"--temp-path",
			       c->work_dir,   "--oom-avoid", NULL };

	if (!stressors)
		return 0;
	snprintf(number, sizeof(number), "%" PRIu64, stressors);
	snprintf(size, sizeof(size), "%" PRIu64 "K", bytes / stressors / 1024);
	snprintf(timeout, sizeof(timeout), "%" PRId64, (int64_t)((c->deadline_ns - clock_ns()) / NS_PER_S + 60));
	return cell_tool_start(c, "stress", argv);
}

int stress_stop(const struct cell *c, pid_t pid)
{
	int rc;

	if (pid <= 0)
		return 0;
	kill(pid, SIGTERM);
	rc = cell_wait(c, STRESSOR, pid);
	/* 128 + SIGTERM, or its own 0: it was we who ended it. 2 is a failure, 3 no resources (stress-ng(1)). */
	if (rc == 0 || rc == 128 + SIGTERM)
		return 0;
	cell_fail(c, "stress-ng ended with %d, see stress.err", rc);
	return -ECANCELED;
}
