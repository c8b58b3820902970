// SPDX-License-Identifier: MIT
/*
 * What a process in the write-back path does for itself, besides needing no memory:
 *
 *   io-flusher   PR_SET_IO_FLUSHER: what it allocates is not waited for at its own device
 *   mlock        mlockall(): its pages are never written out, so it needs no I/O to go on
 *   oom-protect  oom_score_adj: the OOM killer takes others
 *
 * None of them implies another, each can be refused, and io-flusher is of one thread. So asking and having are two
 * things: protect_apply() asks, protect_attest() says what /proc shows, of every thread, those of io_uring too.
 */
#ifndef HEADROOM_ENGINE_PROTECT_H
#define HEADROOM_ENGINE_PROTECT_H

#include <stdbool.h>
#include <stdint.h>

enum protect_kind { PROTECT_IO_FLUSHER, PROTECT_MLOCK, PROTECT_OOM_SCORE, PROTECT_KINDS };

#define PROTECT_BIT(kind)     (1U << (kind))
#define PROTECT_ALL	      (PROTECT_BIT(PROTECT_KINDS) - 1)
#define PROTECT_OOM_SCORE_ADJ (-1000) /* OOM_SCORE_ADJ_MIN of <linux/oom.h>: never chosen */

enum protect_state {
	PROTECT_UNKNOWN, /* could not be read */
	PROTECT_OFF,
	PROTECT_PARTLY, /* of some threads, of some of the memory */
	PROTECT_ON,
};

struct protect_fact {
	bool asked; /* protect_apply() had it in its mask */
	int err;    /* of asking: 0 or -errno, and then it was not applied */
	enum protect_state seen;
	char evidence[192]; /* why: the figures, and that it was not applied */
};

struct protect_report {
	struct protect_fact of[PROTECT_KINDS];
	/* What `seen` was found from. */
	unsigned threads, flushers;	   /* all; those that have io-flusher */
	unsigned io_threads, io_flushers;  /* those of io_uring among both */
	uint64_t locked_kib, lockable_kib; /* VmLck; what there is that mlockall() locks */
	int oom_score_adj;
};

const char *protect_name(enum protect_kind kind);
const char *protect_state_name(enum protect_state state);
/* False: there is none of the name. */
bool protect_find(const char *name, enum protect_kind *kind);
/*
 * Ask for the protections in `mask`, PROTECT_BIT()s, for this process. io-flusher becomes the calling thread's and that
 * of all it will start: call it before there are others. Without CAP_SYS_RESOURCE, or with a small RLIMIT_MEMLOCK, one
 * may be refused, which hinders no other. Begins a new report. 0, or the first -errno.
 */
int protect_apply(unsigned mask, struct protect_report *r);
/*
 * Look what there is, and write it beside what was asked for; r was begun by protect_apply(). `proc`: the directory of
 * a process in /proc; NULL: this one's. A thread that ends meanwhile is left out. Allocates, so it is nothing for the
 * I/O path. 0, or the first -errno of what could not be read: that is PROTECT_UNKNOWN then, and the rest is there.
 */
int protect_attest(const char *proc, struct protect_report *r);

#endif
