// SPDX-License-Identifier: MIT
/* hotplug/waitfor: what a stack says, and cycles of waiting. */
#include "hotplug/waitfor.h"
#include "base/clock.h"
#include "t.h"

static struct waiter task(pid_t pid, const char *comm, char state, pid_t dumps, bool fails, const char *stack)
{
	struct waiter t = { .pid = pid, .state = state, .dumps = dumps };

	snprintf(t.comm, sizeof(t.comm), "%s", comm);
	waitfor_classify(&t, stack, strlen(stack), fails);
	return t;
}

/* As 6.1 prints them; the numbers behind the names are left out. */
static const char offliner[] =
	"[<0>] offline_pages+0x24f/0x5d0\n[<0>] memory_subsys_offline+0x9f/0x1b0\n"
	"[<0>] device_offline+0xe3/0x110\n[<0>] state_store+0x95/0xa0\n[<0>] vfs_write+0x1/0x2\n";
static const char lru_gen[] = "[<0>] percpu_rwsem_wait+0x112/0x150\n[<0>] __percpu_down_read+0x5e/0x80\n"
			      "[<0>] get_online_mems+0x3e/0x50\n[<0>] store_enabled+0x14a/0x6e0\n";
static const char dumper[] = "[<0>] pipe_write+0x3c2/0x650\n[<0>] __kernel_write_iter+0xfe/0x220\n"
			     "[<0>] dump_user_range+0x14f/0x310\n[<0>] elf_core_dump+0xf1d/0x10f0\n"
			     "[<0>] do_coredump+0xf48/0x1740\n[<0>] get_signal+0x954/0x9a0\n";
static const char asker[] = "[<0>] proc_cgroup_show+0x45/0x2e0\n[<0>] proc_single_show+0x52/0xc0\n";
static const char maker[] = "[<0>] cgroup_kn_lock_live+0x55/0xe0\n[<0>] cgroup_mkdir+0x59/0x4d0\n";

#define PUZZLE_TASKS 5

static void the_puzzle(struct waiter tasks[PUZZLE_TASKS], const char *helper, bool fails)
{
	tasks[0] = task(900, "mkdir", 'D', 0, false, maker); /* a bystander: waits, and nobody for it */
	tasks[1] = task(310, "offline", 'R', 0, fails, offliner);
	tasks[2] = task(320, "lru_gen", 'D', 0, false, lru_gen);
	tasks[3] = task(300, "victim", 'S', 0, false, dumper);
	tasks[4] = task(301, "helper", helper ? 'D' : 'S', 300, false, helper ? helper : "[<0>] pipe_read+0x1/0x2\n");
}

static void the_four_threads_of_the_seed_are_a_cycle(void **state)
{
	static const char *const helpers[] = { asker, maker };
	struct waiter tasks[PUZZLE_TASKS];
	struct waitfor_cycle c;
	char words[1024];

	(void)state;
	for (int i = 0; i < 2; i++) {
		the_puzzle(tasks, helpers[i], true);
		assert_true(waitfor_cycle(tasks, PUZZLE_TASKS, &c));
		assert_int_equal(c.n, 4);
		assert_int_equal(c.steps[0].pid, 300);
		assert_string_equal(c.steps[0].waits, "the pipe of the core of 300");
		assert_int_equal(c.steps[1].pid, 301);
		assert_string_equal(c.steps[1].waits, "cgroup_mutex");
		assert_int_equal(c.steps[2].pid, 320);
		assert_string_equal(c.steps[2].waits, "mem_hotplug_lock");
		assert_int_equal(c.steps[3].pid, 310);
		assert_string_equal(c.steps[3].waits, "pages that are in use");
	}
	waitfor_words(&c, words, sizeof(words));
	assert_non_null(strstr(
		words, "lru_gen (pid 320) in get_online_mems waits for mem_hotplug_lock, held by offline (pid 310)"));
	assert_non_null(strstr(words, "held by victim (pid 300)"));
	waitfor_words(&c, words, 40);
	assert_int_equal(strlen(words), 39);
}

/* A task that runs has no stack to read: but that pages fail is said by one who is in the loop. */
static void an_offliner_that_runs_is_known_by_its_pages(void **state)
{
	struct waiter t = { .pid = 310, .state = 'R', .offlines = true };

	(void)state;
	waitfor_classify(&t, "", 0, true);
	assert_string_equal(t.waits, "pages that are in use");
	assert_string_equal(t.holds[1], "mem_hotplug_lock");
	waitfor_classify(&t, "", 0, false);
	assert_true(!*t.waits && !t.n_holds);
}

static void without_one_of_the_four_there_is_none(void **state)
{
	struct waiter tasks[PUZZLE_TASKS];
	struct waitfor_cycle c;

	(void)state;
	the_puzzle(tasks, asker, false); /* the offliner moves its pages */
	assert_false(waitfor_cycle(tasks, PUZZLE_TASKS, &c));
	the_puzzle(tasks, NULL, true); /* the helper reads its pipe */
	assert_false(waitfor_cycle(tasks, PUZZLE_TASKS, &c));
	for (int gone = 1; gone < PUZZLE_TASKS; gone++) {
		the_puzzle(tasks, asker, true);
		tasks[gone] = task(1, "init", 'S', 0, false, "");
		assert_false(waitfor_cycle(tasks, PUZZLE_TASKS, &c));
	}
	the_puzzle(tasks, asker, true);
	tasks[4].dumps = 0; /* the helper of another */
	waitfor_classify(&tasks[4], asker, strlen(asker), false);
	assert_false(waitfor_cycle(tasks, PUZZLE_TASKS, &c));
}

static void only_a_cycle_that_stays_is_told(void **state)
{
	struct waiter tasks[PUZZLE_TASKS];
	struct waitfor_watch w = { 0 };
	int64_t now = 100 * NS_PER_S;

	(void)state;
	the_puzzle(tasks, asker, true);
	assert_false(waitfor_add(&w, tasks, PUZZLE_TASKS, now, 3, 10 * NS_PER_S));
	assert_false(waitfor_add(&w, tasks, PUZZLE_TASKS, now + 20 * NS_PER_S, 3, 10 * NS_PER_S));
	assert_true(waitfor_add(&w, tasks, PUZZLE_TASKS, now + 21 * NS_PER_S, 3, 10 * NS_PER_S));
	/* Somebody has moved: it is a slow system. */
	tasks[2].switches++;
	assert_false(waitfor_add(&w, tasks, PUZZLE_TASKS, now + 22 * NS_PER_S, 3, 10 * NS_PER_S));
	tasks[2].switches++;
	assert_false(waitfor_add(&w, tasks, PUZZLE_TASKS, now + 33 * NS_PER_S, 2, 10 * NS_PER_S));
	/* The offliner, who runs all the time, may. */
	tasks[1].switches += 100;
	assert_true(waitfor_add(&w, tasks, PUZZLE_TASKS, now + 44 * NS_PER_S, 2, 10 * NS_PER_S));
	the_puzzle(tasks, asker, false);
	assert_false(waitfor_add(&w, tasks, PUZZLE_TASKS, now + 60 * NS_PER_S, 2, 10 * NS_PER_S));
	assert_int_equal(w.cycle.n, 0);
}

/* Nobody here has the page: but who would end the offline waits as well. */
static void a_supervisor_that_asks_first_is_in_the_ring(void **state)
{
	struct waiter tasks[PUZZLE_TASKS];
	struct waitfor_cycle c;

	(void)state;
	for (int variant = 0; variant < 3; variant++) {
		the_puzzle(tasks, asker, true);
		if (variant < 2)
			tasks[3] = task(300, "reader", 'S', 0, false, "[<0>] pipe_read+0x1/0x2\n");
		tasks[4].dumps = 0;
		tasks[4].supervises = variant != 1;
		waitfor_classify(&tasks[4], asker, strlen(asker), false);
		waitfor_supervised(tasks, PUZZLE_TASKS);
		assert_int_equal(waitfor_cycle(tasks, PUZZLE_TASKS, &c), variant == 0);
	}
	the_puzzle(tasks, asker, true);
	tasks[3] = task(300, "reader", 'S', 0, false, "");
	tasks[4] =
		task(301, "supervisor", 'S', 0, false, "[<0>] hrtimer_nanosleep+0x1/0x2\n"); /* it waits for no lock */
	tasks[4].supervises = true;
	waitfor_classify(&tasks[4], "", 0, false);
	waitfor_supervised(tasks, PUZZLE_TASKS);
	assert_string_equal(tasks[1].waits, "the signal of its supervisor");
	assert_false(waitfor_cycle(tasks, PUZZLE_TASKS, &c));
}

static void a_cycle_is_told_with_its_stacks(void **state)
{
	struct waiter tasks[PUZZLE_TASKS];
	struct waitfor_cycle c;
	struct jsonw j;
	char text[4096];

	(void)state;
	the_puzzle(tasks, asker, true);
	assert_true(waitfor_cycle(tasks, PUZZLE_TASKS, &c));
	jsonw_init(&j, text, sizeof(text));
	jsonw_object(&j, NULL);
	waitfor_json(&j, &c);
	jsonw_object_end(&j);
	assert_true(jsonw_line(&j) > 0);
	assert_non_null(strstr(text, "{\"steps\":[{\"pid\":300,\"comm\":\"victim\",\"where\":\"pipe_write\","
				     "\"waits\":\"the pipe of the core of 300\",\"stack\":[\"pipe_write\","));
	assert_non_null(strstr(text, "\"waits\":\"mem_hotplug_lock\",\"stack\":[\"percpu_rwsem_wait\","));
}

static void hostile_stacks_say_nothing(void **state)
{
	static const char *const texts[] = {
		"",
		"\n\n\n",
		"]",
		"] ",
		"[<0>]",
		"[<0>] ",
		"[<0>] +0x1",
		"get_online_mems",
		"[<0>] get_online_mems_not+0x1",
		"[<0>] xget_online_mems+0x1\n",
		"[<0>] get_online_memsget_online_memsget_online_memsget_online_mems+0x1/0x2\n",
	};
	char many[8192] = "";

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_int_equal(task(1, "x", 'D', 0, true, texts[i]).waits[0], '\0');
	for (int i = 0; i < 200; i++)
		strcat(many, "[<0>] schedule+0x1/0x2\n");
	strcat(many, "[<0>] get_online_mems+0x1/0x2\n"); /* beyond what is looked at */
	assert_int_equal(task(1, "x", 'D', 0, true, many).waits[0], '\0');
	for (size_t len = 0; len <= strlen(lru_gen); len++) {
		struct waiter t = { .pid = 1, .state = 'D' };
		char *copy = malloc(len + 1); /* exactly as long, for the sanitizer */

		memcpy(copy, lru_gen, len);
		waitfor_classify(&t, copy, len, true);
		free(copy);
	}
}

/* Against the plain definition: who can be reached from himself. */
static void random_graphs_agree_with_a_plain_model(void **state)
{
	enum { N = 12 };

	(void)state;
	for (unsigned seed = 1; seed <= 2000; seed++) {
		struct waiter tasks[N] = { 0 };
		bool reach[N][N] = { 0 }, cyclic = false;
		struct waitfor_cycle c;

		srandom(seed);
		for (int i = 0; i < N; i++) {
			tasks[i].pid = 100 + i;
			if (random() % 3)
				snprintf(tasks[i].waits, WAITFOR_NAME, "lock %ld", random() % N);
			tasks[i].n_holds = (unsigned)(random() % 3);
			for (unsigned k = 0; k < tasks[i].n_holds; k++)
				snprintf(tasks[i].holds[k], WAITFOR_NAME, "lock %ld", random() % N);
		}
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++)
				for (unsigned k = 0; i != j && *tasks[i].waits && k < tasks[j].n_holds; k++)
					reach[i][j] |= strcmp(tasks[i].waits, tasks[j].holds[k]) == 0;
		for (int k = 0; k < N; k++)
			for (int i = 0; i < N; i++)
				for (int j = 0; j < N; j++)
					reach[i][j] |= reach[i][k] && reach[k][j];
		for (int i = 0; i < N; i++)
			cyclic |= reach[i][i];
		assert_int_equal(waitfor_cycle(tasks, N, &c), cyclic);
		for (unsigned i = 0; i < c.n; i++) {
			const struct waiter *next = &tasks[c.steps[(i + 1) % c.n].pid - 100];
			bool held = false;

			for (unsigned k = 0; k < next->n_holds; k++)
				held |= strcmp(next->holds[k], c.steps[i].waits) == 0;
			assert_true(held);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_four_threads_of_the_seed_are_a_cycle),
		cmocka_unit_test(an_offliner_that_runs_is_known_by_its_pages),
		cmocka_unit_test(without_one_of_the_four_there_is_none),
		cmocka_unit_test(only_a_cycle_that_stays_is_told),
		cmocka_unit_test(a_supervisor_that_asks_first_is_in_the_ring),
		cmocka_unit_test(a_cycle_is_told_with_its_stacks),
		cmocka_unit_test(hostile_stacks_say_nothing),
		cmocka_unit_test(random_graphs_agree_with_a_plain_model),
	};

	return cmocka_run_group_tests_name("waitfor", tests, NULL, NULL);
}
