// SPDX-License-Identifier: MIT
#include "hotplug/policy.h"

#include "base/clock.h"

/* Fewest refusals first, where they count; then the one that has waited longest; then the lowest number. */
static bool goes_before(const struct policy *p, const struct policy_block *a, const struct policy_block *b)
{
	if (p->back_off && a->refusals != b->refusals)
		return a->refusals < b->refusals;
	return a->turn < b->turn;
}

struct policy_block *policy_choose(const struct policy *p, struct policy_block *blocks, size_t n, uint64_t round,
				   int64_t now_ns, int64_t *wait_until)
{
	struct policy_block *best = NULL;

	*wait_until = 0;
	for (size_t i = 0; i < n; i++) {
		struct policy_block *b = &blocks[i];

		if (b->offline || (!p->back_off && b->round == round))
			continue;
		if (p->back_off && b->not_before > now_ns) {
			if (!*wait_until || b->not_before < *wait_until)
				*wait_until = b->not_before;
			continue;
		}
		if (!best || goes_before(p, b, best))
			best = b;
	}
	return best;
}

uint64_t policy_tried(const struct policy *p, struct policy_block *b, uint64_t round, uint64_t turn, bool went,
		      int64_t now_ns)
{
	uint64_t ms;

	b->round = round;
	b->turn = turn;
	b->offline = went;
	b->refusals = went ? 0 : b->refusals + 1;
	if (went || !p->back_off)
		return 0;
	ms = p->pause_ms << (b->refusals - 1 < POLICY_DOUBLINGS ? b->refusals - 1 : POLICY_DOUBLINGS);
	b->not_before = now_ns + (int64_t)ms * NS_PER_MS;
	return ms;
}
