// SPDX-License-Identifier: MIT
/* Directories of several runs, as far as no guest is needed. */
#include "run/suite.h"
#include "commands.h"
#include "t.h"

#include <sys/stat.h>

static char *dir;

static int setup(void **state)
{
	(void)state;
	dir = t_dir();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	t_remove(dir);
	return 0;
}

static void a_directory_with_a_list_is_one(void **state)
{
	(void)state;
	assert_false(suite_is(dir));
	t_write(dir, "suite.json", "{}");
	assert_true(suite_is(dir));
	assert_false(suite_is("/no/such/directory"));
}

/* Nothing outside of it is ever taken for a run of it, and a list that is cut off runs nothing. */
static void a_damaged_list_runs_nothing(void **state)
{
	static const char *const lists[] = {
		"",
		"{",
		"[]",
		"{\"runs\": []}",
		"{\"runs\": \"one\"}",
		"{\"runs\": [7]}",
		"{\"runs\": [\"one\", \"../other\"]}",
		"{\"runs\": [\"/tmp\"]}",
		"{\"runs\": [\"..\"]}",
	};
	const struct run_request how = { .no_report = true };

	(void)state;
	assert_int_equal(suite_walk(dir, &how), EXIT_NEED);
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		t_write(dir, "suite.json", lists[i]);
		assert_int_equal(suite_walk(dir, &how), EXIT_NEED);
	}
}

static void a_run_that_is_not_there_is_a_need(void **state)
{
	const struct run_request how = { .no_report = true };

	(void)state;
	t_write(dir, "suite.json", "{\"runs\": [\"20261121T093000Z-snapshot\"]}");
	assert_int_equal(suite_walk(dir, &how), EXIT_NEED);
}

static void a_scenario_that_does_not_exist_makes_no_list(void **state)
{
	char *const scenarios[] = { "snapshot", "no-such-scenario" };
	const struct run_request q = { .out = dir, .repeat = 1, .kernels = { "/no/such/kernel" }, .n_kernels = 1 };
	char path[PATH_MAX];

	(void)state;
	assert_int_not_equal(suite_create(&q, scenarios, 2, path), 0);
	assert_false(suite_is(path));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_directory_with_a_list_is_one, setup, teardown),
		cmocka_unit_test_setup_teardown(a_damaged_list_runs_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_run_that_is_not_there_is_a_need, setup, teardown),
		cmocka_unit_test_setup_teardown(a_scenario_that_does_not_exist_makes_no_list, setup, teardown),
	};

	return cmocka_run_group_tests_name("suite", tests, NULL, NULL);
}
