// SPDX-License-Identifier: MIT
/* hotplug/detector: a /proc in which four tasks wait for each other, and ones that look like it. */
#include "hotplug/detector.h"
#include "base/clock.h"
#include "t.h"

#include <sys/stat.h>
#include <unistd.h>

static char *proc;

static void put(int pid, const char *file, const char *text, size_t len)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%d", proc, pid);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%d/%s", proc, pid, file);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	fclose(f);
}

static void task(int pid, const char *name, char state, const char *stack, const char *wchan)
{
	char text[256];

	snprintf(text, sizeof(text), "%d (%s) %c 1 1 1 0 -1 4194304\n", pid, name, state);
	put(pid, "stat", text, strlen(text));
	snprintf(text, sizeof(text), "Name:\t%s\nvoluntary_ctxt_switches:\t%d\nnonvoluntary_ctxt_switches:\t1\n", name,
		 10);
	put(pid, "status", text, strlen(text));
	put(pid, "stack", stack, strlen(stack));
	put(pid, "wchan", wchan, strlen(wchan));
	put(pid, "cmdline", name, strlen(name) + 1);
}

static void pages_fail(unsigned n)
{
	char text[64];

	snprintf(text, sizeof(text), "nr_free_pages 1\npgmigrate_fail %u\n", n);
	t_write(proc, "vmstat", text);
}

static void the_puzzle(void)
{
	static const char helper[] = "helper\0-x\000300\0\000100";

	task(1, "init", 'S', "[<0>] do_wait+0x1/0x2\n", "do_wait");
	task(2, "odd ) D name", 'R', "", "0");
	task(310, "offline", 'R', "[<0>] offline_pages+0x24f/0x5d0\n[<0>] memory_subsys_offline+0x9f/0x1b0\n", "0");
	task(320, "lru_gen", 'D',
	     "[<0>] percpu_rwsem_wait+0x1/0x2\n[<0>] get_online_mems+0x3e/0x50\n[<0>] store_enabled+0x1/0x2\n",
	     "percpu_rwsem_wait");
	task(300, "victim", 'S', "[<0>] pipe_write+0x1/0x2\n[<0>] dump_user_range+0x1/0x2\n[<0>] do_coredump+0x1/0x2\n",
	     "pipe_write");
	task(301, "helper", 'D', "[<0>] proc_cgroup_show+0x45/0x2e0\n", "proc_cgroup_show");
	put(301, "cmdline", helper, sizeof(helper));
	/* Writes into a pipe, and dumps nothing. */
	task(400, "yes", 'S', "[<0>] pipe_write+0x1/0x2\n[<0>] vfs_write+0x1/0x2\n", "pipe_write");
	pages_fail(100);
}

static int setup(void **state)
{
	(void)state;
	proc = t_dir();
	the_puzzle();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	t_remove(proc);
	return 0;
}

static bool looks(struct detector *d, unsigned n)
{
	bool found = false;

	for (unsigned i = 0; i < n; i++) {
		found = detector_look(d, (int64_t)(100 + i) * NS_PER_S);
		pages_fail(101 + i + (unsigned)d->migrate_failed);
	}
	return found;
}

static void the_cycle_is_found_when_it_stays(void **state)
{
	struct detector d = { .proc = proc, .offliner = 310, .looks = 3, .hold_ns = 2 * NS_PER_S };

	(void)state;
	assert_false(looks(&d, 3)); /* of the first nobody knows yet whether pages fail */
	assert_true(looks(&d, 4));
	assert_int_equal(d.watch.cycle.n, 4);
	assert_int_equal(d.watch.cycle.steps[0].pid, 300);
	assert_int_equal(d.dropped, 0);
}

static void an_offliner_that_nobody_named_is_not_looked_at(void **state)
{
	struct detector d = { .proc = proc, .looks = 2 };

	(void)state;
	assert_false(looks(&d, 5));
}

static void a_dump_that_is_read_is_no_deadlock(void **state)
{
	struct detector d = { .proc = proc, .offliner = 310, .looks = 2 };

	(void)state;
	task(301, "helper", 'S', "[<0>] pipe_read+0x1/0x2\n", "pipe_read");
	assert_false(looks(&d, 5));
}

/* A guest that stands still for a moment counts no failures meanwhile. */
static void one_look_without_a_failure_is_no_progress(void **state)
{
	struct detector d = { .proc = proc, .offliner = 310, .looks = 3, .hold_ns = 3 * NS_PER_S };

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		if (i != 4)
			pages_fail(200 + i);
		assert_int_equal(detector_look(&d, (int64_t)(100 + i) * NS_PER_S), i >= 4);
	}
	/* Two seconds of it are. */
	assert_false(detector_look(&d, 110 * NS_PER_S));
}

/* They have the highest pids, and are what it is all about. */
static void the_offliner_has_its_place_among_hundreds(void **state)
{
	struct detector d = { .proc = proc, .offliner = 310, .looks = 2 };

	(void)state;
	for (int pid = 1000; pid < 1000 + WAITFOR_MAX_TASKS; pid++)
		task(pid, "blocked", 'D', "[<0>] io_schedule+0x1/0x2\n", "io_schedule");
	detector_look(&d, 100 * NS_PER_S);
	assert_int_equal(d.n_tasks, WAITFOR_MAX_TASKS);
	assert_int_equal(d.tasks[0].pid, 310);
	assert_true(d.dropped > 0);
}

/* Reading its command line would wait for its mmap_lock, here: for a writer of a pipe. */
static void one_that_stands_in_a_page_fault_is_not_asked_who_it_is(void **state)
{
	struct detector d = { .proc = proc, .offliner = 310, .looks = 2 };
	char path[PATH_MAX];

	(void)state;
	task(410, "faulting", 'D', "[<0>] migration_entry_wait_on_locked+0x1/0x2\n[<0>] do_swap_page+0x1/0x2\n", "0");
	snprintf(path, sizeof(path), "%s/410/cmdline", proc);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	alarm(20);
	assert_true(looks(&d, 5));
	alarm(0);
}

static void damaged_files_are_stepped_over(void **state)
{
	struct detector d = { .proc = proc, .offliner = 310, .looks = 2 };

	(void)state;
	put(500, "stat", "", 0);
	put(501, "stat", "501 (x", 6);
	put(502, "stat", "502 )x( D", 9);
	put(503, "stat", "503 (gone) D", 12); /* and no other file */
	put(301, "stack", "[<0>", 4);
	assert_false(looks(&d, 5));
	d.proc = "/no/such/proc";
	assert_false(detector_look(&d, NS_PER_S));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_cycle_is_found_when_it_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(an_offliner_that_nobody_named_is_not_looked_at, setup, teardown),
		cmocka_unit_test_setup_teardown(a_dump_that_is_read_is_no_deadlock, setup, teardown),
		cmocka_unit_test_setup_teardown(one_look_without_a_failure_is_no_progress, setup, teardown),
		cmocka_unit_test_setup_teardown(the_offliner_has_its_place_among_hundreds, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_stands_in_a_page_fault_is_not_asked_who_it_is, setup,
						teardown),
		cmocka_unit_test_setup_teardown(damaged_files_are_stepped_over, setup, teardown),
	};

	return cmocka_run_group_tests_name("detector", tests, NULL, NULL);
}
