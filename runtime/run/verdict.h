// SPDX-License-Identifier: MIT
/* The verdict on a cell, from facts alone, with its reason in one line. */
#ifndef HEADROOM_VERDICT_H
#define HEADROOM_VERDICT_H

#include "guest/qemu.h"
#include "run/facts.h"

enum verdict {
	VERDICT_OK,
	VERDICT_OOM,
	VERDICT_LOCKUP,
	VERDICT_HUNG,
	VERDICT_LIVELOCK,
	VERDICT_DEADLOCK,
	VERDICT_PANIC,
	VERDICT_STUCK,
	VERDICT_CORRUPT,
	VERDICT_SKIPPED,
	VERDICT_BROKEN,
	N_VERDICTS,
};

const char *verdict_name(enum verdict v);
/* N_VERDICTS when there is no such verdict. */
enum verdict verdict_find(const char *name);

struct judgement {
	enum verdict verdict;
	const char *outcome; /* what happened beside the verdict's own meaning, or NULL */
	char reason[400];
};

/*
 * A canary that waited longer than this counts as a lockup: the kernel's own default for a stalled pool
 * (wq_watchdog_thresh, kernel/workqueue.c).
 */
#define LOCKUP_S 30.0

void verdict_find_out(const struct facts *f, enum guest_end end, bool was_interrupted, struct judgement *out);

#endif
