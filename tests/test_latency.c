// SPDX-License-Identifier: MIT
/* Distributions of latencies: quantiles within their bucket, the largest value exactly. */
#include "base/latency.h"
#include "t.h"

static struct latency l;

static int begin(void **state)
{
	(void)state;
	memset(&l, 0, sizeof(l));
	return 0;
}

static void nothing_has_no_quantile(void **state)
{
	(void)state;
	assert_int_equal(latency_quantile(&l, 0.5), 0);
	assert_int_equal(latency_quantile(&l, 1), 0);
}

static void small_values_are_exact(void **state)
{
	(void)state;
	for (uint64_t ns = 1; ns <= 50; ns++)
		latency_add(&l, ns);
	assert_int_equal(latency_quantile(&l, 0.5), 25);
	assert_int_equal(latency_quantile(&l, 0.98), 49);
	assert_int_equal(latency_quantile(&l, 1), 50);
	assert_int_equal(latency_quantile(&l, 0), 1);
}

static void large_values_are_within_three_per_cent(void **state)
{
	(void)state;
	for (uint64_t ns = 100; ns < UINT64_MAX / 3; ns = ns * 3 / 2) {
		begin(NULL);
		latency_add(&l, ns);
		latency_add(&l, UINT64_MAX);
		assert_in_range(latency_quantile(&l, 0.5), ns, ns + ns / 31);
		assert_true(latency_quantile(&l, 1) == UINT64_MAX);
	}
}

static void a_rare_stall_is_in_the_tail_alone(void **state)
{
	(void)state;
	for (int i = 0; i < 999; i++)
		latency_add(&l, 1000);
	latency_add(&l, 5000000);
	assert_in_range(latency_quantile(&l, 0.99), 1000, 1031);
	assert_int_equal(latency_quantile(&l, 1), 5000000);
	latency_add(&l, 0);
	assert_int_equal(latency_quantile(&l, 0), 0);
}

#define TEST(fn) cmocka_unit_test_setup(fn, begin)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(nothing_has_no_quantile),
		TEST(small_values_are_exact),
		TEST(large_values_are_within_three_per_cent),
		TEST(a_rare_stall_is_in_the_tail_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
