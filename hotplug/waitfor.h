// SPDX-License-Identifier: MIT
/*
 * Who waits for whom: a wait-for graph of tasks and of what they hold, and the cycles in it.
 *
 * The kernel names nobody: a lock has no list of its owners. But where a task stands says what it holds and what it
 * waits for, and /proc/PID/stack says where it stands. This file knows the places that meet in a memory hot-remove
 * (seed 002): what a function that is on a stack means. It reads nothing by itself: not /proc/PID/cgroup, not a file of
 * cgroupfs, which take the very lock that may be part of the cycle.
 */
#ifndef HEADROOM_WAITFOR_H
#define HEADROOM_WAITFOR_H

#include "base/jsonw.h"
#include "hotplug/stack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WAITFOR_MAX_TASKS  256
#define WAITFOR_MAX_CLAIMS 4
#define WAITFOR_NAME	   STACK_NAME
#define WAITFOR_FRAMES	   6 /* of a stack, kept to be shown */

/* A task at one moment. */
struct waiter {
	pid_t pid;
	char comm[17];
	char state;	   /* of /proc/PID/stat: 'D', 'S', 'R' */
	uint64_t switches; /* voluntary ones so far: who sleeps and wakes goes on, who stands still does not */
	bool offlines; /* its write to a block's state is known to be under way: a running task has no stack to read */
	pid_t dumps;   /* the task whose core this one is to read from a pipe (the helper of core_pattern); 0: none */
	bool supervises; /* it is to end the offliner by a signal when that takes too long */
	char holds[WAITFOR_MAX_CLAIMS][WAITFOR_NAME];
	unsigned n_holds;
	char waits[WAITFOR_NAME]; /* empty: for nothing that is known here */
	char where[WAITFOR_NAME]; /* the function that says so, else the innermost */
	char frames[WAITFOR_FRAMES][WAITFOR_NAME];
	unsigned n_frames;
};

/*
 * Fill in what it holds and waits for, from the text of /proc/PID/stack: one line a frame, innermost first,
 * "[<0>] percpu_rwsem_wait+0x112/0x150". `migrating_fails`: pages of a block that is going offline could not be moved
 * since the last look: then the offliner waits for who has one of them. An empty or damaged text leaves it with
 * nothing.
 */
void waitfor_classify(struct waiter *t, const char *stack, size_t len, bool migrating_fails);

/*
 * When all of them are classified: an offliner whose pages nobody here is known to hold, and that has a supervisor,
 * waits for its signal.
 */
void waitfor_supervised(struct waiter *tasks, unsigned n);

/* A cycle: each waits for what the next one holds, and the last for what the first does. */
struct waitfor_cycle {
	unsigned n;
	struct {
		pid_t pid;
		char comm[17];
		char waits[WAITFOR_NAME]; /* what the next one holds */
		char where[WAITFOR_NAME];
		uint64_t switches;
		char frames[WAITFOR_FRAMES][WAITFOR_NAME];
		unsigned n_frames;
	} steps[WAITFOR_MAX_TASKS];
};

/* Find a cycle among n tasks (at most WAITFOR_MAX_TASKS); it begins with the task of the smallest pid in it. */
bool waitfor_cycle(const struct waiter *tasks, unsigned n, struct waitfor_cycle *c);

/* A cycle that stays, look after look. A slow system has cycles that come and go. */
struct waitfor_watch {
	struct waitfor_cycle cycle;
	int64_t since_ns;
	unsigned looks;
};

/*
 * Add a look at `now_ns`. True when the same cycle, in which nobody that sleeps uninterruptibly has moved, has been
 * there for `looks` looks and `hold_ns`: it is in w->cycle.
 */
bool waitfor_add(struct waitfor_watch *w, const struct waiter *tasks, unsigned n, int64_t now_ns, unsigned looks,
		 int64_t hold_ns);
/* The cycle in words: "T1 (pid 12) waits for mem_hotplug_lock, held by ..." into buf. Returns buf. */
const char *waitfor_words(const struct waitfor_cycle *c, char *buf, size_t size);
/* The cycle as the member "steps" of an event (docs/record.md); `cycle` is a struct waitfor_cycle. */
void waitfor_json(struct jsonw *j, const void *cycle);

#endif
