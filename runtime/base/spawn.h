// SPDX-License-Identifier: MIT
/*
 * Child programs with a deadline. The child runs in its own process group, dies with us, and is killed as a group
 * when its time is up or when we are interrupted.
 */
#ifndef HEADROOM_SPAWN_H
#define HEADROOM_SPAWN_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Set by SIGINT and SIGTERM once spawn_catch_signals() was called: the signal's number. Long waits look at it. */
extern volatile sig_atomic_t interrupted;
void spawn_catch_signals(void);

/* What the exit status of a child reads like when it did not run to its end. */
#define SPAWN_TIMEOUT	  (-1)
#define SPAWN_INTERRUPTED (-2)

struct spawn {
	const char *const *argv; /* NULL-terminated; argv[0] is looked up on PATH */
	const char *stdout_path; /* NULL: ours, or captured */
	const char *stderr_path; /* NULL: ours */
	char *out;		 /* captures stdout, NUL-terminated; what exceeds out_size is dropped */
	size_t out_size;
	int timeout_s; /* > 0 */
};

/*
 * Run to the end. Returns 0 with the outcome in *status: the exit code, 128 + N when signal N ended it, or one of the
 * values above; or -errno when it could not be started (a missing program is 127, as in a shell).
 */
int spawn_run(const struct spawn *s, int *status);

/* After fork, in the child: die when the parent does. Pass the parent's pid from before the fork. */
void spawn_die_with(pid_t parent);
/* Wait for a child until the deadline (CLOCK_MONOTONIC ns). Returns 1 when it ended, 0 when the time is up. */
int spawn_wait_until(pid_t pid, int64_t deadline_ns, int *wait_status);

#endif
