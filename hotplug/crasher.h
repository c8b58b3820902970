// SPDX-License-Identifier: MIT
/*
 * A program that crashes while somebody wants its memory: its core goes into a pipe, and while the pipe is full the
 * kernel holds the page that it is about to write (fs/coredump.c, dump_user_range()). That page cannot be moved.
 *
 * Who is to read the pipe is `headroom core-helper` (core_helper.c), as kernel.core_pattern says.
 */
#ifndef HEADROOM_CRASHER_H
#define HEADROOM_CRASHER_H

#include <stdint.h>
#include <sys/types.h>

#define CRASHER_CORE_PATTERN "/proc/sys/kernel/core_pattern"

/*
 * Let cores go to a helper, which asks ASK ("read", "mkdir") and does FIRST ("asks", "drains") first, with
 * its word in DIR; ASK NULL: into a file in DIR, core.PID. Noted in the undo log. 0 or -errno.
 */
int crasher_set_pattern(const char *ask, const char *first, const char *dir);
/* The helper may ask, and read. 0 or -errno. */
int crasher_go(const char *dir);
/* Take that back, and the core of `pid` if there is one: neither is worth keeping in the record. */
void crasher_sweep(const char *dir, pid_t pid);

struct crasher {
	int say, wait; /* of the parent: what the child says, and where its word goes */
	pid_t pid;
	uint64_t address; /* physical, of the page that is going to be held */
};

/*
 * Start one, by `start` (a fork that returns as fork(2) does, errors as -errno). It stands ready when this returns 0,
 * and its page is known; crasher_crash() makes it crash. On an error it is gone.
 */
int crasher_start(struct crasher *k, pid_t (*start)(void *arg), void *arg);
int crasher_crash(struct crasher *k);

#endif
