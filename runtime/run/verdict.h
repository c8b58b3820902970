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

/*
 * The OOM killer came too early when more of swap than this was free at its first kill. Seed 003 asks why one would
 * kill at all while swap is free; half leaves out what it may have been too late for: swap that filled up since the
 * last sample.
 */
#define PREMATURE_FREE_PCT 50.0

/*
 * A livelock: for this long, under pressure, hardly a page goes out to swap or comes in, though there is room and
 * nobody is killed. Long against whatever waits on that way by design: mempool_alloc() for 5 s (mm/mempool.c), a
 * throttled writer for 0.1 s; short against the "dozens minutes" of seed 003.
 */
#define LIVELOCK_S 60.0
/*
 * Pages a second for each processor, out as well as in. In seed 003 a worker of dm-crypt sleeps 0.1 s for each
 * allocation, and there are as many as processors (max_active of kcryptd, drivers/md/dm-crypt.c): ten a second each.
 * Twice that is still little for a slow device that is sound: a disk that does 80 requests a second swaps in 640 pages,
 * eight at a time (page_cluster 3, mm/swap.c).
 */
#define LIVELOCK_PAGES_S 20.0
/* For this share of the time some task waits for memory (PSI some). Without PSI no livelock is looked for. */
#define LIVELOCK_PRESSURE 0.5
/* With less of swap free than this, little can go out for want of room. */
#define LIVELOCK_FREE_PCT 5.0

/*
 * Alive, but hardly: the load stood still for as long as mempool_alloc() waits in one go (5 s, mm/mempool.c), or for
 * half of its time all tasks waited for memory, so that it took at least twice as long as its work.
 */
#define THROTTLED_STANDSTILL_S 5.0
#define THROTTLED_FULL_SHARE   0.5

struct livelock {
	double from_t, to_t;
	double out_pages_s, in_pages_s; /* mean */
	double free_pct;		/* of swap, at its end */
};

/* The first livelock while the load ran. False: none was seen. */
bool verdict_livelock(const struct facts *f, struct livelock *found);

void verdict_find_out(const struct facts *f, enum end end, bool was_interrupted, struct judgement *out);

#endif
