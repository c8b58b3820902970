// SPDX-License-Identifier: MIT
/*
 * Which block to try next when memory is to go offline, and how long to leave one alone that refused.
 *
 * Without back-off the blocks take turns, each once a round: one that cannot go costs its bound every time. With
 * back-off a block that refused is left alone for a pause that doubles with each refusal in a row, up to 16 times the
 * first, others go first, and it is tried again in the same round when its pause is over and more is wanted.
 */
#ifndef HEADROOM_POLICY_H
#define HEADROOM_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define POLICY_DOUBLINGS 4 /* of the first pause at most, so that a block is tried again within a round */

struct policy {
	bool back_off;
	uint64_t pause_ms; /* the first one, > 0 */
};

struct policy_block {
	unsigned id;	    /* of memoryN */
	uint64_t begin;	    /* physical address */
	const char *online; /* what is to be written into its state to have it back in its zone */
	uint64_t refusals;  /* in a row */
	uint64_t turn;	    /* of its last try; 0: none */
	uint64_t round;	    /* of its last try */
	int64_t not_before; /* CLOCK_MONOTONIC: end of its pause */
	bool offline;
};

/*
 * The block to try now, of n. NULL: none may be tried. Then *wait_until says when one may, or is 0 when none will be in
 * this round.
 */
struct policy_block *policy_choose(const struct policy *p, struct policy_block *blocks, size_t n, uint64_t round,
				   int64_t now_ns, int64_t *wait_until);
/* What came of the try of it, the turn-th of all: it went, or refused. Returns its pause from now on, in ms. */
uint64_t policy_tried(const struct policy *p, struct policy_block *b, uint64_t round, uint64_t turn, bool went,
		      int64_t now_ns);

#endif
