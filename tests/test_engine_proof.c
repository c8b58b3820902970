// SPDX-License-Identifier: MIT
/*
 * What the snapshot engine does when the power goes at any write, and when any one transfer goes wrong in any one way:
 * all of them, one after the other, for HEADROOM_PROOF_SEEDS seeds from HEADROOM_SEED on.
 */
#include "snap_model.h"

#define SEEDS 2
#define OPS   40

static const enum sim_left leavings[] = { SIM_SOME, SIM_NOTHING, SIM_ALL };

/* Whenever something has begun to be written, or has been. */
static void cut_always(void *arg)
{
	struct test *t = arg;

	cut_power(t, t->left);
}

/* What of many sectors is left is chance. */
static void cut_often(void *arg)
{
	struct test *t = arg;

	for (int i = 0; i < 16; i++)
		cut_power(t, SIM_SOME);
}

/* A few operations of every kind; fewer blocks than elsewhere, because all of them are looked at again and again. */
static struct test *small_test(uint64_t seed)
{
	uint64_t random = seed;
	struct snap_opts opts = some_opts(&random);

	return test_open(seed, 64 + (uint32_t)(sim_random(&random) % 64), &opts);
}

static void some_of_everything(struct test *t)
{
	int store;

	create(t);
	for (int i = 0; i < OPS; i++)
		operate(t);
	create(t);
	for (int i = 0; i < OPS; i++)
		operate(t);
	look_at_merge(t);
	store = some_snap(t);
	if (store >= 0)
		merge(t, store);
	for (int i = 0; i < OPS; i++)
		operate(t);
	verify(t);
}

static void for_all_seeds(void (*fn)(uint64_t seed))
{
	uint64_t first = from_environment("HEADROOM_SEED", 1), n = from_environment("HEADROOM_PROOF_SEEDS", SEEDS);

	for (uint64_t seed = first; seed < first + n; seed++)
		fn(seed);
}

static void cut_at_every_write(uint64_t seed)
{
	for (size_t i = 0; i < sizeof(leavings) / sizeof(leavings[0]); i++) {
		struct test *t = small_test(seed);

		t->left = leavings[i];
		t->sim.at_io = cut_always;
		some_of_everything(t);
		assert_true(t->cuts > 100);
		test_close(t);
	}
}

static void the_power_may_go_at_every_write(void **state)
{
	(void)state;
	for_all_seeds(cut_at_every_write);
}

/* An area has 256 exceptions: the next is begun, and when the snapshot is merged, left again. */
static void the_power_may_go_where_an_area_ends(void **state)
{
	const uint32_t per_area = EXSTORE_MIN_CHUNK / 16, in_chunk = EXSTORE_MIN_CHUNK / BLOCK;
	struct snap_opts opts;

	(void)state;
	snap_opts_default(&opts);
	for (size_t i = 0; i < sizeof(leavings) / sizeof(leavings[0]); i++) {
		struct test *t = test_open(i, (per_area + 8) * in_chunk, &opts);
		struct snap_info info;

		t->left = leavings[i];
		while (!t->snaps[0].there || !t->snaps[0].persistent ||
		       t->snaps[0].disk->size < t->blocks * BLOCK * 2) {
			if (t->snaps[0].there)
				delete (t, 0);
			create(t);
		}
		for (uint32_t chunk = 0; chunk < per_area - 4; chunk += 4) {
			submit(t, IO_WRITE, SNAP_ORIGIN, chunk * in_chunk, 4 * in_chunk);
			settle(t);
		}
		t->sim.at_io = cut_always;
		for (uint32_t chunk = per_area - 4; chunk < per_area + 8; chunk++)
			submit(t, IO_WRITE, SNAP_ORIGIN, chunk * in_chunk, 1);
		settle(t);
		assert_int_equal(snap_store_info(t->snap, 0, &info), 0);
		assert_int_equal(info.exceptions, per_area + 8);
		merge(t, 0);
		for (int rounds = 0; rounds < 60; rounds++)
			assert_int_equal(snap_run(t->snap, deadline()), 0);
		assert_true(t->cuts > 50);
		t->sim.at_io = NULL;
		verify(t);
		test_close(t);
	}
}

/* One that takes several sectors, of which any may be missing: 32 exceptions each, a fourth of the chunks. */
static void the_power_may_go_in_a_long_commit(void **state)
{
	struct snap_opts opts;

	(void)state;
	snap_opts_default(&opts);
	for (uint64_t seed = 1; seed < 3; seed++) {
		struct test *t = test_open(seed, 128 * EXSTORE_MIN_CHUNK / BLOCK, &opts);

		create(t);
		t->sim.at_io = cut_often;
		for (uint32_t i = 0; i < t->blocks; i += t->blocks / 8)
			submit(t, IO_WRITE, SNAP_ORIGIN, i, t->blocks / 8);
		settle(t);
		t->sim.at_io = NULL;
		verify(t);
		test_close(t);
	}
}

/* Does the run have a transfer of that number? */
static bool one_goes_wrong(uint64_t seed, uint64_t number, int64_t how)
{
	struct test *t = small_test(seed);
	bool went_wrong;

	t->wrong_at = number;
	t->wrong = how;
	some_of_everything(t);
	/* What was said to have been done outlives it. */
	for (size_t i = 0; i < sizeof(leavings) / sizeof(leavings[0]); i++)
		cut_power(t, leavings[i]);
	went_wrong = t->went_wrong;
	/* What a store does wrong is nobody's business who reads or writes the origin. */
	if (t->failed > t->hit_origin)
		fail_msg("seed %" PRIu64 ", transfer %" PRIu64 ": %u requests failed", seed, number, t->failed);
	test_close(t);
	return went_wrong;
}

static void every_transfer_goes_wrong(uint64_t seed)
{
	static const int64_t ways[] = { -EIO, -ENOSPC, -EAGAIN, -EINTR, BLOCK };

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		for (uint64_t number = 0; one_goes_wrong(seed, number, ways[i]); number++)
			;
}

static void any_transfer_may_go_wrong_in_any_way(void **state)
{
	(void)state;
	for_all_seeds(every_transfer_goes_wrong);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_power_may_go_at_every_write),
		cmocka_unit_test(the_power_may_go_where_an_area_ends),
		cmocka_unit_test(the_power_may_go_in_a_long_commit),
		cmocka_unit_test(any_transfer_may_go_wrong_in_any_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
