// SPDX-License-Identifier: MIT
#include "engine/extab.h"
#include "engine_sim.h"

#define CHUNKS 4096
#define MAX    1024
#define OPS    200000

static void it_holds_what_a_plain_table_holds(void **state)
{
	static uint32_t model[CHUNKS]; /* the slot + 1; 0: none */
	uint64_t random = 7;
	struct extab t;
	uint64_t n = 0;

	(void)state;
	assert_int_equal(extab_open(&t, MAX), 0);
	for (int i = 0; i < OPS; i++) {
		/* Half of them from a corner, so that many are added twice and are found. */
		uint32_t chunk = (uint32_t)(sim_random(&random) % (i & 1 ? CHUNKS : MAX)), slot;
		bool there = model[chunk];

		assert_int_equal(extab_find(&t, chunk, &slot), there);
		if (there)
			assert_int_equal(slot, model[chunk] - 1);
		if (sim_random(&random) % 2) {
			assert_int_equal(extab_add(&t, chunk, (uint32_t)i), there ? -EEXIST : n == MAX ? -ENOSPC : 0);
			if (!there && n < MAX) {
				model[chunk] = (uint32_t)i + 1;
				n++;
			}
		} else {
			assert_int_equal(extab_remove(&t, chunk), there);
			n -= there;
			model[chunk] = 0;
		}
		assert_int_equal(t.n, n);
	}
	extab_close(&t);
}

/* A file system's chunks come at such distances: superblocks of groups, stripes. */
static void chunks_a_power_of_two_apart_lie_near_their_places(void **state)
{
	(void)state;
	for (unsigned shift = 0; shift < 22; shift++) {
		struct extab t;

		assert_int_equal(extab_open(&t, MAX), 0);
		for (uint32_t i = 0; i < MAX; i++)
			assert_int_equal(extab_add(&t, i << shift, i), 0);
		if (extab_farthest(&t) > MAX / 16)
			fail_msg("%u apart: %u places away", 1U << shift, extab_farthest(&t));
		extab_close(&t);
	}
}

static void more_than_there_are_numbers_for_is_refused(void **state)
{
	struct extab t;

	(void)state;
	assert_int_equal(extab_open(&t, UINT32_MAX), -EFBIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_holds_what_a_plain_table_holds),
		cmocka_unit_test(chunks_a_power_of_two_apart_lie_near_their_places),
		cmocka_unit_test(more_than_there_are_numbers_for_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
