// SPDX-License-Identifier: MIT
#include "hotplug/stress.h"

#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

pid_t stress_start(const struct cell *c, uint64_t stressors, uint64_t bytes)
{
	char number[24], size[32], timeout[24];
	/*
	 * Not --vm-keep: pages that were moved out of the way once would stay there, and no block had any again.
	 * zero-one fills and reads back; with --verify what comes back is compared.
	 */
	const char *argv[] = { STRESSOR,   "--vm",	number,	 "--vm-bytes",	size,	     "--vm-method", "zero-one",
			       "--verify", "--timeout", timeout, "--temp-path", c->work_dir, "--oom-avoid", NULL };

	if (!stressors)
		return 0;
	snprintf(number, sizeof(number), "%" PRIu64, stressors);
	snprintf(size, sizeof(size), "%" PRIu64 "K", bytes / 1024); /* stress-ng itself divides it among them */
	snprintf(timeout, sizeof(timeout), "%" PRId64, (int64_t)((c->deadline_ns - clock_ns()) / NS_PER_S + 60));
	return cell_tool_start(c, "stress", argv);
}

/* stress-ng's words when a check of --verify fails: "vm: detected 3 bit errors while stressing memory". */
static bool found_bit_errors(const struct cell *c)
{
	char path[PATH_MAX], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/stress.err", c->work_dir);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, "detected") && strstr(line, "bit errors");
	if (f)
		fclose(f);
	return found;
}

int stress_stop(const struct cell *c, pid_t pid)
{
	siginfo_t info = { 0 };
	bool early;
	int rc;

	if (pid <= 0)
		return 0;
	early = waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid;
	kill(pid, SIGTERM);
	rc = cell_wait(c, STRESSOR, pid);
	if (found_bit_errors(c))
		cell_corrupt(c, "stress-ng found memory that was not as it had been written: see stress.err");
	else if (!early && (rc == 0 || rc == 128 + SIGTERM))
		return 0;
	else
		cell_fail(c, "stress-ng ended %swith %d, see stress.err", early ? "before the load was over, " : "",
			  rc);
	return -ECANCELED;
}
