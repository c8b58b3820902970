// SPDX-License-Identifier: MIT
/* hotplug/policy: which block is tried next, and for how long one that refused is left alone. */
#include "hotplug/policy.h"
#include "base/clock.h"
#include "t.h"

#define N 3

static const struct policy plain = { .pause_ms = 500 };
static const struct policy back_off = { .back_off = true, .pause_ms = 500 };

static struct policy_block blocks[N];
static uint64_t turn;

static int setup(void **state)
{
	(void)state;
	turn = 0;
	for (unsigned i = 0; i < N; i++)
		blocks[i] = (struct policy_block){ .id = 32 + i };
	return 0;
}

/* The number of the block that is chosen, 0 for none. */
static unsigned chosen(const struct policy *p, uint64_t round, int64_t now_ms)
{
	int64_t wait;
	const struct policy_block *b = policy_choose(p, blocks, N, round, now_ms * NS_PER_MS, &wait);

	return b ? b->id : 0;
}

static uint64_t tried(const struct policy *p, unsigned id, uint64_t round, bool went, int64_t now_ms)
{
	return policy_tried(p, &blocks[id - 32], round, ++turn, went, now_ms * NS_PER_MS);
}

static void without_back_off_each_is_tried_once_a_round(void **state)
{
	int64_t wait = 1;

	(void)state;
	assert_int_equal(chosen(&plain, 1, 0), 32);
	assert_int_equal(tried(&plain, 32, 1, false, 0), 0);
	assert_int_equal(chosen(&plain, 1, 0), 33);
	tried(&plain, 33, 1, false, 0);
	tried(&plain, 34, 1, true, 0);
	assert_null(policy_choose(&plain, blocks, N, 1, 0, &wait));
	assert_int_equal(wait, 0); /* and none will be */
	blocks[2].offline = false;
	assert_int_equal(chosen(&plain, 2, 0), 32); /* though it refused: its turn has come again */
}

static void without_back_off_the_blocks_take_turns(void **state)
{
	(void)state;
	for (uint64_t round = 1; round <= 7; round++) {
		assert_int_equal(chosen(&plain, round, 0), 32 + (round - 1) % N);
		tried(&plain, 32 + (unsigned)(round - 1) % N, round, true, 0);
		blocks[(round - 1) % N].offline = false;
	}
}

static void one_that_refused_is_left_alone_for_a_growing_while(void **state)
{
	static const uint64_t pauses[] = { 500, 1000, 2000, 4000, 8000, 8000, 8000 };
	int64_t now = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++) {
		assert_int_equal(tried(&back_off, 32, 1, false, now), pauses[i]);
		assert_int_equal(blocks[0].not_before, (now + (int64_t)pauses[i]) * NS_PER_MS);
		now += (int64_t)pauses[i];
	}
	assert_int_equal(tried(&back_off, 32, 1, true, now), 0);
	blocks[0].offline = false;
	assert_int_equal(tried(&back_off, 32, 2, false, now), 500); /* it went: all is forgotten */
}

static void with_back_off_others_go_first(void **state)
{
	int64_t wait;

	(void)state;
	tried(&back_off, 32, 1, false, 0);
	assert_int_equal(chosen(&back_off, 1, 499), 33);
	tried(&back_off, 33, 1, true, 100);
	blocks[1].offline = false;
	assert_int_equal(chosen(&back_off, 1, 501), 34); /* fewest refusals, and longest not tried */
	tried(&back_off, 34, 1, false, 501);
	assert_int_equal(chosen(&back_off, 1, 502), 33);
	blocks[1].offline = true;
	assert_int_equal(chosen(&back_off, 1, 502), 32); /* its pause is over: again, in the same round */
	tried(&back_off, 32, 1, false, 502);
	assert_null(policy_choose(&back_off, blocks, N, 1, 503 * NS_PER_MS, &wait));
	assert_int_equal(wait, 1001 * NS_PER_MS); /* when the next pause ends */
}

static void nothing_is_chosen_of_nothing(void **state)
{
	int64_t wait = 1;

	(void)state;
	assert_null(policy_choose(&back_off, blocks, 0, 1, 0, &wait));
	assert_int_equal(wait, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(without_back_off_each_is_tried_once_a_round, setup),
		cmocka_unit_test_setup(without_back_off_the_blocks_take_turns, setup),
		cmocka_unit_test_setup(one_that_refused_is_left_alone_for_a_growing_while, setup),
		cmocka_unit_test_setup(with_back_off_others_go_first, setup),
		cmocka_unit_test_setup(nothing_is_chosen_of_nothing, setup),
	};

	return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
