// SPDX-License-Identifier: MIT
/* What a run leaves on disk to be taken up again: the undo log, the journal, run.json; and the plan in it. */
#include "commands.h"
#include "run/journal.h"
#include "run/run.h"
#include "run/undo.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else
#define __lsan_disable()
#define __lsan_enable()
#endif

static struct run r;
static char *dir;

static int make(void **state)
{
	(void)state;
	dir = t_dir();
	return 0;
}

static int drop(void **state)
{
	(void)state;
	t_remove(dir);
	return 0;
}

static const char *in_dir(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned next;
	char *p = path[next++ % 4];

	snprintf(p, PATH_MAX, "%s/%s", dir, name);
	return p;
}

static void expect_text(const char *name, const char *expected)
{
	char *text = t_read(dir, name);

	assert_string_equal(text, expected);
	free(text);
}

static bool exists(const char *name)
{
	return access(in_dir(name), F_OK) == 0;
}

/* What is expected to go wrong is said on stderr; not into the test's output. */
static int quietly(int (*fn)(void *), void *arg)
{
	int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY), rc;

	assert_true(saved >= 0 && null >= 0 && dup2(null, STDERR_FILENO) >= 0);
	close(null);
	__lsan_disable(); /* a loaded run.json stays for as long as the program runs */
	rc = fn(arg);
	__lsan_enable();
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	close(saved);
	return rc;
}

/* --- The undo log --- */

static int play(void *name)
{
	return undo_play(in_dir(name));
}

static void knobs_are_put_back_newest_first(void **state)
{
	(void)state;
	t_write(dir, "knob", "1");
	assert_int_equal(undo_open(in_dir("undo.log")), 0);
	assert_int_equal(undo_note("knob", in_dir("knob"), "1"), 0);
	t_write(dir, "knob", "2");
	assert_int_equal(undo_note("knob", in_dir("knob"), "2"), 0);
	t_write(dir, "knob", "3");
	assert_int_equal(undo_play(in_dir("undo.log")), 0);
	expect_text("knob", "1"); /* oldest first would leave 2 */
	assert_false(exists("undo.log"));
}

static void groups_go_after_what_is_in_them(void **state)
{
	(void)state;
	assert_int_equal(undo_open(in_dir("undo.log")), 0);
	assert_int_equal(undo_note("cgroup", in_dir("outer"), NULL), 0);
	assert_int_equal(mkdir(in_dir("outer"), 0755), 0);
	assert_int_equal(undo_note("cgroup", in_dir("outer/inner"), NULL), 0);
	assert_int_equal(mkdir(in_dir("outer/inner"), 0755), 0);
	assert_int_equal(undo_play(in_dir("undo.log")), 0);
	assert_false(exists("outer"));
}

static void undoing_twice_is_undoing_once(void **state)
{
	char *log;

	(void)state;
	t_write(dir, "knob", "9");
	assert_int_equal(undo_open(in_dir("undo.log")), 0);
	assert_int_equal(undo_note("knob", in_dir("knob"), "1"), 0);
	assert_int_equal(undo_note("cgroup", in_dir("never-made"), NULL), 0); /* noted, then killed before mkdir */
	assert_int_equal(undo_note("knob", in_dir("gone"), "1"), 0);
	log = t_read(dir, "undo.log");
	assert_int_equal(undo_play(in_dir("undo.log")), 0);
	assert_int_equal(undo_play(in_dir("undo.log")), 0); /* no log: nothing to do */
	t_write(dir, "undo.log", log);			    /* killed between the last line and the removal */
	assert_int_equal(undo_play(in_dir("undo.log")), 0);
	expect_text("knob", "1");
	free(log);
}

static void values_keep_their_blanks_and_tabs(void **state)
{
	(void)state;
	t_write(dir, "printk", "9\t9\t9\t9");
	assert_int_equal(undo_open(in_dir("undo.log")), 0);
	assert_int_equal(undo_note("knob", in_dir("printk"), "4\t4 1\t7"), 0);
	assert_int_equal(undo_play(in_dir("undo.log")), 0);
	expect_text("printk", "4\t4 1\t7");
}

static void a_log_that_is_there_is_not_written_over(void **state)
{
	(void)state;
	t_write(dir, "undo.log", "knob\t/nonexistent\t1\n");
	assert_int_equal(undo_open(in_dir("undo.log")), -EEXIST);
	assert_int_equal(undo_note("knob", "/nonexistent", "2"), -EBADF); /* so the change is not made */
	expect_text("undo.log", "knob\t/nonexistent\t1\n");
	assert_int_equal(undo_open(in_dir("no/such/dir")), -ENOENT);
}

static void a_note_that_does_not_fit_is_refused(void **state)
{
	char *value = malloc(3000);

	(void)state;
	memset(value, 'x', 2999);
	value[2999] = '\0';
	assert_int_equal(undo_open(in_dir("undo.log")), 0);
	assert_int_equal(undo_note("knob", in_dir("knob"), value), -ENAMETOOLONG);
	expect_text("undo.log", "");
	free(value);
}

static void garbage_is_counted_and_the_rest_is_undone(void **state)
{
	(void)state;
	t_write(dir, "knob", "9");
	FILE *f = fopen(in_dir("undo.log"), "w");

	assert_non_null(f);
	fprintf(f, "\nknob\nknob\t\nunknown\tx\ty\n%05000d\nknob\t%s\t1\n\t\t\n", 1, in_dir("knob"));
	fclose(f);
	assert_int_equal(quietly(play, "undo.log"), 6);
	expect_text("knob", "1");
	assert_true(exists("undo.log")); /* somebody should look at it */
}

static void what_cannot_be_undone_keeps_the_log(void **state)
{
	(void)state;
	assert_int_equal(mkdir(in_dir("full"), 0755), 0);
	t_write(dir, "full/file", "x");
	assert_int_equal(undo_open(in_dir("undo.log")), 0);
	assert_int_equal(undo_note("cgroup", in_dir("full"), NULL), 0);
	assert_int_equal(quietly(play, "undo.log"), 1);
	assert_true(exists("undo.log"));
	assert_int_equal(unlink(in_dir("full/file")), 0);
	assert_int_equal(undo_play(in_dir("undo.log")), 0);
	assert_false(exists("undo.log"));
}

/* Where nobody can plug it in again, it must not read as undone. */
static void a_dimm_that_nobody_plugs_in_keeps_the_log(void **state)
{
	(void)state;
	assert_int_equal(undo_open(in_dir("undo.log")), 0);
	assert_int_equal(undo_note("dimm", "0", NULL), 0);
	assert_int_equal(undo_note("dimm", "none", NULL), 0);
	assert_int_equal(quietly(play, "undo.log"), 2);
	assert_true(exists("undo.log"));
}

/* A line that was cut off was never on disk when its change would have been made, and half of 120 is not 120. */
static void a_last_line_that_was_cut_off_is_not_played(void **state)
{
	FILE *f;

	(void)state;
	t_write(dir, "one", "9");
	t_write(dir, "two", "120");
	f = fopen(in_dir("undo.log"), "w");
	assert_non_null(f);
	fprintf(f, "knob\t%s\t1\nknob\t%s\t60", in_dir("one"), in_dir("two")); /* of "600\n" */
	fclose(f);
	assert_int_equal(quietly(play, "undo.log"), 0);
	expect_text("one", "1");
	expect_text("two", "120");
}

static void no_log_is_nothing_to_undo(void **state)
{
	(void)state;
	assert_int_equal(undo_play(in_dir("undo.log")), 0);
	assert_true(undo_play(dir) != 0);
}

/* --- The journal --- */

static void the_journal_grows_by_lines(void **state)
{
	static const char *const start[] = { "cell", "001-before-1", "arm", NULL, "reason", "a \"b\"\n", NULL };
	char *text, *second;
	json_t *line;

	(void)state;
	assert_int_equal(journal_write(dir, "run-start", NULL), 0);
	assert_int_equal(journal_write(dir, "cell-start", start), 0);
	text = t_read(dir, "journal.jsonl");
	second = strchr(text, '\n') + 1;
	assert_int_equal(text[strlen(text) - 1], '\n');
	line = json_loads(second, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(line, "event")), "cell-start");
	assert_string_equal(json_string_value(json_object_get(line, "cell")), "001-before-1");
	assert_string_equal(json_string_value(json_object_get(line, "reason")), "a \"b\"\n");
	assert_null(json_object_get(line, "arm"));
	assert_int_equal(strlen(json_string_value(json_object_get(line, "utc"))), 20);
	json_decref(line);
	free(text);
	assert_int_equal(journal_write("/nonexistent", "run-start", NULL), -ENOENT);
}

static void a_line_that_is_too_long_is_refused_as_a_whole(void **state)
{
	char *reason = malloc(10000);
	const char *pairs[] = { "reason", reason, NULL };

	(void)state;
	memset(reason, 'x', 9999);
	reason[9999] = '\0';
	assert_int_equal(journal_write(dir, "cell-end", pairs), -ENOSPC);
	assert_false(exists("journal.jsonl"));
	free(reason);
}

static void stamps_have_their_two_forms(void **state)
{
	char buf[24];

	(void)state;
	utc_stamp(buf, false);
	assert_int_equal(strlen(buf), 20);
	assert_true(buf[4] == '-' && buf[10] == 'T' && buf[13] == ':' && buf[19] == 'Z');
	utc_stamp(buf, true);
	assert_int_equal(strlen(buf), 16);
	assert_true(buf[8] == 'T' && buf[15] == 'Z');
}

/* --- The plan --- */

#define SCENARIO "[scenario]\nsummary = a test\nexpect-after = ok\n[snapshot-cow]\n[arm strict]\ncow-limit = 64\n"

static void request(const char *arms, uint64_t repeat, uint64_t seed)
{
	memset(&r, 0, sizeof(r));
	r.request = (struct run_request){ .scenario = "test",
					  .kernels = { "6.1" },
					  .n_kernels = 1,
					  .repeat = repeat,
					  .seed = seed,
					  .arms = arms,
					  .out = dir };
}

static int plan_now(void *text)
{
	return run_plan(&r, text);
}

static int plan(const char *arms, uint64_t repeat, uint64_t seed)
{
	request(arms, repeat, seed);
	return quietly(plan_now, (void *)SCENARIO);
}

static void every_arm_runs_once_a_repeat(void **state)
{
	(void)state;
	assert_int_equal(plan(NULL, 1, 42), 0);
	assert_int_equal(r.n_cells, 2);
	assert_string_equal(r.plan[0].name, "001-before-1");
	assert_string_equal(r.plan[1].name, "002-after-1");
	assert_int_equal(plan("all", 3, 42), 0);
	assert_int_equal(r.n_cells % 3, 0);
	for (unsigned repeat = 1; repeat <= 3; repeat++) {
		static const char *const arms[] = { "before", "after", "strict" };
		size_t each = r.n_cells / 3;

		for (size_t a = 0; a < 3; a++) {
			unsigned n = 0;

			for (size_t i = (repeat - 1) * each; i < repeat * each; i++)
				n += strcmp(r.plan[i].arm, arms[a]) == 0 && r.plan[i].repeat == repeat;
			assert_int_equal(n, 1);
		}
	}
	assert_int_equal(plan(" strict,, after ", 1, 42), 0);
	assert_int_equal(r.n_cells, 2);
	assert_string_equal(r.plan[0].arm, "strict"); /* the first repeat: as asked for */
}

static void names_say_place_arm_and_repeat(void **state)
{
	char expected[96];

	(void)state;
	assert_int_equal(plan("all", 5, 7), 0);
	for (size_t i = 0; i < r.n_cells; i++) {
		snprintf(expected, sizeof(expected), "%03zu-%s-%u", i + 1, r.plan[i].arm, r.plan[i].repeat);
		assert_string_equal(r.plan[i].name, expected);
		assert_int_equal(r.plan[i].state, CELL_OPEN);
	}
}

static void arms_of_a_repeat_share_their_seed(void **state)
{
	(void)state;
	assert_int_equal(plan("all", 4, 1000), 0);
	for (size_t i = 0; i < r.n_cells; i++)
		assert_int_equal(r.plan[i].seed, 1000 + r.plan[i].repeat - 1);
}

static void the_order_follows_from_the_seed(void **state)
{
	static struct planned_cell first[RUN_MAX_CELLS];
	bool other = false, moved = false;

	(void)state;
	assert_int_equal(plan("all", 20, 42), 0);
	memcpy(first, r.plan, sizeof(first));
	for (size_t i = 0; i < r.n_cells; i++)
		moved |= strcmp(r.plan[i].arm, r.plan[i % 3].arm) != 0;
	assert_true(moved);
	assert_int_equal(plan("all", 20, 42), 0);
	assert_memory_equal(first, r.plan, sizeof(first));
	assert_int_equal(plan("all", 20, 43), 0);
	for (size_t i = 0; i < r.n_cells; i++)
		other |= strcmp(first[i].arm, r.plan[i].arm) != 0;
	assert_true(other);
}

static void bad_arms_are_usage_errors(void **state)
{
	static const char *const bad[] = {
		"", ",", " ", "befor", "before,befor", "before,before", "all,before", "only-nothing", "../x", "strict;"
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (plan(bad[i], 1, 1) != EXIT_USAGE)
			fail_msg("arms '%s' were taken", bad[i]);
}

static void a_plan_that_is_too_long_is_a_usage_error(void **state)
{
	(void)state;
	assert_int_equal(plan("before,after", 256, 1), 0);
	assert_int_equal(r.n_cells, RUN_MAX_CELLS);
	assert_int_equal(plan("before,after", 257, 1), EXIT_USAGE);
	assert_int_equal(plan("before,after", UINT64_MAX, 1), EXIT_USAGE);
}

static void what_changes_the_scenario_is_checked(void **state)
{
	(void)state;
	request(NULL, 1, 1);
	r.request.sets[r.request.n_sets++] = "snapshot-cow.snapshots=4";
	r.request.memory_mib = 1024;
	r.request.cpus = 4;
	assert_int_equal(quietly(plan_now, (void *)SCENARIO), 0);
	assert_int_equal(r.scenario.opts.memory, 1024);
	assert_int_equal(r.scenario.opts.cpus, 4);
	request(NULL, 1, 1);
	r.request.sets[r.request.n_sets++] = "snapshot-cow.no-such=4";
	assert_int_equal(quietly(plan_now, (void *)SCENARIO), EXIT_USAGE);
	request(NULL, 1, 1);
	r.request.memory_mib = 1;
	assert_int_equal(quietly(plan_now, (void *)SCENARIO), EXIT_USAGE);
	request(NULL, 1, 1);
	assert_int_equal(quietly(plan_now, (void *)"[no-such]\n"), EXIT_USAGE);
}

/* A cell's name is a directory's: an arm that makes none is refused before anything runs. */
static void an_arm_that_is_no_file_name_is_refused(void **state)
{
	(void)state;
	request("a/b", 1, 1);
	assert_int_equal(quietly(plan_now, (void *)"[snapshot-cow]\n[arm a/b]\ncow-limit = 64\n"), EXIT_USAGE);
	request("x/../../y", 1, 1);
	assert_int_equal(quietly(plan_now, (void *)"[snapshot-cow]\n[arm x/../../y]\ncow-limit = 64\n"), EXIT_USAGE);
}

/* --- Several kernels --- */

/* crypt-split is there since Linux 6.12 only. */
#define SWAP_SCENARIO "[scenario]\nsummary = a test\n[swap-crypt]\n"

static void request_on(const char *const *kernels, const char *arms, uint64_t repeat)
{
	request(arms, repeat, 42);
	for (r.request.n_kernels = 0; kernels[r.request.n_kernels]; r.request.n_kernels++)
		r.request.kernels[r.request.n_kernels] = kernels[r.request.n_kernels];
}

static int plan_on(const char *const *kernels, const char *arms, uint64_t repeat)
{
	request_on(kernels, arms, repeat);
	return quietly(plan_now, (void *)SCENARIO);
}

static const char *const two_kernels[] = { "6.1", "6.12", NULL };

static void every_arm_runs_on_each_kernel(void **state)
{
	static const char *const names[] = { "001-before-6.1-1", "002-after-6.1-1", "003-before-6.12-1",
					     "004-after-6.12-1" };

	(void)state;
	assert_int_equal(plan_on(two_kernels, NULL, 1), 0);
	assert_int_equal(r.n_cells, 4);
	for (size_t i = 0; i < 4; i++) {
		assert_string_equal(r.plan[i].name, names[i]);
		assert_string_equal(r.plan[i].arm, i % 2 ? "after" : "before");
		assert_int_equal(r.plan[i].kernel, i / 2);
		assert_int_equal(r.plan[i].seed, 42);
	}
}

/* The order of a repeat mixes kernels as it mixes arms: else a kernel would have the machine of another hour. */
static void kernels_are_interleaved_within_a_repeat(void **state)
{
	bool mixed = false;

	(void)state;
	assert_int_equal(plan_on(two_kernels, "before,after,strict", 6), 0);
	assert_int_equal(r.n_cells, 36);
	for (size_t i = 0; i < r.n_cells; i++) {
		const struct planned_cell *c = &r.plan[i];
		unsigned same = 0;

		assert_int_equal(c->repeat, i / 6 + 1);
		for (size_t k = i / 6 * 6; k < i / 6 * 6 + 6; k++)
			same += r.plan[k].kernel == c->kernel && strcmp(r.plan[k].arm, c->arm) == 0;
		assert_int_equal(same, 1);
		mixed |=
			i % 6 == 2 && r.plan[i - 2].kernel != r.plan[i - 1].kernel && r.plan[i - 1].kernel != c->kernel;
	}
	assert_true(mixed);
}

static unsigned count_arm(const char *arm, unsigned kernel)
{
	unsigned n = 0;

	for (size_t i = 0; i < r.n_cells; i++)
		n += r.plan[i].kernel == kernel && strcmp(r.plan[i].arm, arm) == 0;
	return n;
}

static void all_arms_are_those_of_each_kernel(void **state)
{
	(void)state;
	request_on(two_kernels, "all", 1);
	assert_int_equal(quietly(plan_now, (void *)SWAP_SCENARIO), 0);
	for (unsigned kernel = 0; kernel < 2; kernel++) {
		assert_int_equal(count_arm("before", kernel), 1);
		assert_int_equal(count_arm("only-swap-limit", kernel), 1);
		assert_int_equal(count_arm("only-crypt-split", kernel), kernel);
		assert_int_equal(count_arm("without-crypt-split", kernel), kernel);
	}
}

#define LONG_ARM "an-arm-with-the-longest-name-there-may-be"

static void kernels_make_names_of_files(void **state)
{
	static const char *const kernels[] = { "/a/bzImage",	      "b/bzImage", "debug:6.12+lockdep",
					       "/boot/vmlinuz 6.1;x", "/a/../..",  NULL };
	static const char *const names[] = { "001-after-bzImage.1-1", "002-after-bzImage.2-1",
					     "003-after-debug-6.12+lockdep-1", "004-after-vmlinuz-6.1-x-1",
					     "005-after-..-1" };
	char long_name[400];
	const char *const long_kernels[] = { "6.1", long_name, NULL };
	static const char *const long_twins[] = { "/a/vmlinuz-6.1.0-56-amd64-own", "/b/vmlinuz-6.1.0-56-amd64-own",
						  NULL };

	(void)state;
	assert_int_equal(plan_on(kernels, "after", 1), 0);
	for (size_t i = 0; i < r.n_cells; i++)
		assert_string_equal(r.plan[i].name, names[i]);
	assert_int_equal(plan_on(long_twins, "after", 1), 0);
	assert_string_equal(r.plan[0].name, "001-after-vmlinuz-6.1.0-56-amd64-.1-1");
	assert_string_equal(r.plan[1].name, "002-after-vmlinuz-6.1.0-56-amd64-.2-1");
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	request_on(long_kernels, LONG_ARM, 100);
	assert_int_equal(quietly(plan_now, (void *)("[snapshot-cow]\n[arm " LONG_ARM "]\ncow-limit = 64\n")), 0);
	for (size_t i = 0; i < r.n_cells; i++)
		assert_int_equal(strtol(strrchr(r.plan[i].name, '-') + 1, NULL, 10), r.plan[i].repeat);
}

static void wrong_kernels_are_usage_errors(void **state)
{
	static const char *const twice[] = { "6.1", "6.12", "6.1", NULL };
	static const char *const paths[] = { "/a/bzImage", "/b/bzImage", NULL };

	(void)state;
	assert_int_equal(plan_on(twice, NULL, 1), EXIT_USAGE);
	assert_int_equal(plan_on(paths, NULL, 1), 0);
	request_on(paths, NULL, 1);
	r.request.modules = "/a";
	assert_int_equal(quietly(plan_now, (void *)SCENARIO), EXIT_USAGE);
	request_on(paths + 1, NULL, 1);
	r.request.modules = "/a";
	assert_int_equal(quietly(plan_now, (void *)SCENARIO), 0);
	assert_int_equal(plan_on(two_kernels, "before,after", 128), 0);
	assert_int_equal(plan_on(two_kernels, "before,after", 129), EXIT_USAGE);
}

/* Kernels differ in it when they are left to themselves. */
static void mglru_is_the_same_on_every_kernel(void **state)
{
	(void)state;
	assert_int_equal(plan_on(two_kernels, NULL, 1), 0);
	assert_int_equal(r.scenario.opts.lru_gen, 0); /* off */
}

/* --- Taking a run up --- */

static const char stored_head[] =
	"{ \"schema\": \"headroom.run/1\", \"run_id\": \"hr-00c0ffee\", \"scenario\": \"test\", \"seed\": 42,\n"
	"  \"scenario_text\": \"[snapshot-cow]\\n\", \"options\": { \"kernel\": \"6.1\", \"memory_mib\": 768, "
	"\"repeat\": 1,\n"
	"  \"arms\": \"before,after\", \"set\": [ \"snapshot-cow.snapshots=4\" ] },\n  \"plan\": [\n";
static const char stored_plan[] = "{ \"cell\": \"001-before-1\", \"arm\": \"before\", \"repeat\": 1, \"seed\": 42 },\n"
				  "{ \"cell\": \"002-after-1\", \"arm\": \"after\", \"repeat\": 1, \"seed\": 42 },\n"
				  "{ \"cell\": \"003-before-1\", \"arm\": \"before\", \"repeat\": 1, \"seed\": 42,\n"
				  "  \"replaces\": \"001-before-1\" } ] }\n";
#define START_LINE(cell) "{\"utc\":\"x\",\"event\":\"cell-start\",\"cell\":\"" cell "\",\"arm\":\"before\"}\n"
#define END_LINE(cell, verdict)                                                                                        \
	"{\"utc\":\"x\",\"event\":\"cell-end\",\"cell\":\"" cell "\",\"verdict\":\"" verdict "\",\"reason\":\"why\"}"  \
	"\n"

static int load_now(void *name)
{
	memset(&r, 0, sizeof(r));
	return run_load(&r, name);
}

static int load(const char *plan_text, const char *journal)
{
	char text[4096];

	snprintf(text, sizeof(text), "%s%s", stored_head, plan_text);
	t_write(dir, "run.json", text);
	t_write(dir, "journal.jsonl", journal);
	return quietly(load_now, dir);
}

static void a_run_is_taken_up_as_it_was_asked_for(void **state)
{
	char with_slashes[PATH_MAX];

	(void)state;
	assert_int_equal(load(stored_plan, ""), 0);
	assert_string_equal(r.run_id, "hr-00c0ffee");
	assert_string_equal(r.request.kernels[0], "6.1");
	assert_int_equal(r.request.seed, 42);
	assert_int_equal(r.request.n_sets, 1);
	assert_int_equal(r.scenario.opts.memory, 768);
	assert_int_equal(r.n_cells, 3);
	assert_string_equal(r.plan[2].name, "003-before-1");
	assert_string_equal(r.plan[2].replaces, "001-before-1");
	snprintf(with_slashes, sizeof(with_slashes), "%s///", dir);
	assert_int_equal(quietly(load_now, with_slashes), 0);
	assert_string_equal(r.dir, dir);
}

static void the_journal_says_how_far_it_got(void **state)
{
	(void)state;
	assert_int_equal(load(stored_plan, "{\"event\":\"run-start\"}\n" START_LINE("001-before-1")
						   END_LINE("001-before-1", "oom") START_LINE("002-after-1")),
			 0);
	assert_int_equal(r.plan[0].state, CELL_ENDED);
	assert_int_equal(r.plan[0].verdict, VERDICT_OOM);
	assert_string_equal(r.plan[0].reason, "why");
	assert_false(r.plan[0].interrupted);
	assert_int_equal(r.plan[1].state, CELL_STARTED);
	assert_int_equal(r.plan[2].state, CELL_OPEN);
}

/* As docs/record.md has it, and as older runs wrote it. */
static void a_cell_that_was_cut_off_is_known(void **state)
{
	(void)state;
	assert_int_equal(
		load(stored_plan,
		     START_LINE(
			     "001-before-1") "{\"event\":\"cell-end\",\"cell\":\"001-before-1\",\"verdict\":\"broken\","
					     "\"interrupted\":true}\n"),
		0);
	assert_true(r.plan[0].interrupted);
	assert_int_equal(
		load(stored_plan,
		     START_LINE(
			     "001-before-1") "{\"event\":\"cell-end\",\"cell\":\"001-before-1\",\"verdict\":\"broken\","
					     "\"interrupted\":\"yes\"}\n"),
		0);
	assert_true(r.plan[0].interrupted);
	assert_int_equal(
		load(stored_plan,
		     START_LINE("001-before-1") "{\"event\":\"cell-end\",\"cell\":\"001-before-1\",\"verdict\":\"ok\","
						"\"interrupted\":false}\n"),
		0);
	assert_false(r.plan[0].interrupted);
}

static void a_journal_cut_off_anywhere_is_read(void **state)
{
	static const char journal[] = "{\"event\":\"run-start\"}\n" START_LINE("001-before-1")
		END_LINE("001-before-1", "ok") START_LINE("002-after-1");
	char part[sizeof(journal)];
	enum cell_state before = CELL_OPEN;

	(void)state;
	for (size_t len = 0; len < sizeof(journal); len++) {
		snprintf(part, len + 1, "%s", journal);
		assert_int_equal(load(stored_plan, part), 0);
		assert_true(r.plan[0].state >= before); /* it only ever goes on */
		before = r.plan[0].state;
		assert_int_equal(r.plan[2].state, CELL_OPEN);
	}
	assert_int_equal(before, CELL_ENDED);
}

/* The line after one that was cut off must not be lost with it. */
static void the_journal_goes_on_behind_a_line_that_was_cut_off(void **state)
{
	static const char *const pairs[] = { "cell", "001-before-1", "verdict", "oom", NULL };

	(void)state;
	assert_int_equal(load(stored_plan, START_LINE("001-before-1") "{\"utc\":\"x\",\"event\":\"cell-e"), 0);
	assert_int_equal(r.plan[0].state, CELL_STARTED);
	assert_int_equal(journal_write(dir, "cell-end", pairs), 0);
	assert_int_equal(quietly(load_now, dir), 0);
	assert_int_equal(r.plan[0].state, CELL_ENDED);
}

static void strange_journal_lines_change_nothing(void **state)
{
	(void)state;
	assert_int_equal(load(stored_plan, "\n\nnull\n[]\n7\ngarbage\n{\"event\":7}\n{\"event\":\"cell-end\"}\n"
					   "{\"event\":\"cell-start\",\"cell\":{}}\n" START_LINE("../../x")
						   START_LINE("004-before-1") END_LINE("001-before-1", "fine") END_LINE(
							   "001-before-1", "") END_LINE("002-after-1", "\\u0000")),
			 0);
	for (size_t i = 0; i < r.n_cells; i++)
		assert_int_equal(r.plan[i].state, CELL_OPEN);
}

/* Killed between run.json and the first line. */
static void a_run_without_a_journal_has_not_begun(void **state)
{
	(void)state;
	assert_int_equal(load(stored_plan, ""), 0);
	assert_int_equal(unlink(in_dir("journal.jsonl")), 0);
	assert_int_equal(quietly(load_now, dir), 0);
	assert_int_equal(r.plan[0].state, CELL_OPEN);
}

static void run_json_cut_off_anywhere_is_refused(void **state)
{
	char text[4096], part[4096];
	size_t whole;

	(void)state;
	snprintf(text, sizeof(text), "%s%s", stored_head, stored_plan);
	whole = strlen(text);
	t_write(dir, "journal.jsonl", "");
	for (size_t len = 0; len < whole - 1; len++) {
		snprintf(part, len + 1, "%s", text);
		t_write(dir, "run.json", part);
		assert_int_equal(quietly(load_now, dir), EXIT_NEED);
	}
}

static void expect_refused(const char *json)
{
	t_write(dir, "run.json", json);
	t_write(dir, "journal.jsonl", "");
	if (quietly(load_now, dir) != EXIT_NEED)
		fail_msg("this was taken: %s", json);
}

static void what_is_no_run_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"{}",
		"[]",
		"7",
		"null",
		"{\"schema\":\"headroom.run/2\"}",
		"{\"schema\":7}",
		"{\"schema\":\"headroom.run/1\"}",
		"{\"schema\":\"headroom.run/1\",\"run_id\":7,\"scenario\":[],\"options\":{},\"plan\":{}}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect_refused(bad[i]);
	assert_int_equal(quietly(load_now, (void *)"/nonexistent"), EXIT_NEED);
	assert_int_equal(quietly(load_now, (void *)""), EXIT_NEED);
}

static void a_field_that_is_missing_or_wrong_is_refused(void **state)
{
	static const char *const fields[] = { "schema", "run_id", "scenario", "scenario_text", "options", "plan" };
	static const char *const of_options[] = { "kernel", "repeat" };
	static const char *const sets[] = { "[7]", "[\"x\"]", "[\"snapshot-cow.snapshots=0\"]" };
	char text[4096], *cut;
	json_t *root, *options;

	(void)state;
	snprintf(text, sizeof(text), "%s%s", stored_head, stored_plan);
	for (size_t i = 0; i < 6 + 2 + 3; i++) {
		root = json_loads(text, 0, NULL);
		assert_non_null(root);
		options = json_object_get(root, "options");
		if (i < 6)
			json_object_del(root, fields[i]);
		else if (i < 8)
			json_object_del(options, of_options[i - 6]);
		else
			json_object_set_new(options, "set", json_loads(sets[i - 8], 0, NULL));
		cut = json_dumps(root, 0);
		expect_refused(cut);
		free(cut);
		json_decref(root);
	}
}

static void names_that_lead_out_of_the_directory_are_refused(void **state)
{
	static const char *const bad[] = { "../../x", "..", ".", "", "/etc/x", "a/b", ".hidden" };
	char plan_text[512], name[200];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(plan_text, sizeof(plan_text), "{ \"cell\": \"%s\", \"arm\": \"before\" } ] }", bad[i]);
		assert_int_equal(load(plan_text, ""), EXIT_NEED);
	}
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	snprintf(plan_text, sizeof(plan_text), "{ \"cell\": \"%s\", \"arm\": \"before\" } ] }", name);
	assert_int_equal(load(plan_text, ""), EXIT_NEED);
	assert_int_equal(load("{ \"cell\": \"001-before-1\" } ] }", ""), EXIT_NEED);
	assert_int_equal(load("{ \"arm\": \"before\" } ] }", ""), EXIT_NEED);
	assert_int_equal(load("7, null ] }", ""), EXIT_NEED);
	assert_int_equal(load("] }", ""), EXIT_NEED);
}

static void a_plan_of_a_thousand_cells_is_refused(void **state)
{
	char *text = malloc(200000), *at = text;

	(void)state;
	at += sprintf(at, "%s", stored_head);
	for (int i = 0; i < 1000; i++)
		at += sprintf(at, "%s{ \"cell\": \"%04d-before-1\", \"arm\": \"before\" }", i ? "," : "", i);
	sprintf(at, "] }");
	expect_refused(text);
	free(text);
}

static int write_now(void *unused)
{
	(void)unused;
	return run_write_json(&r);
}

/* What run writes, resume reads. */
static void a_plan_survives_the_way_through_run_json(void **state)
{
	static struct run written;

	(void)state;
	assert_int_equal(plan("all", 6, 77), 0);
	snprintf(r.dir, sizeof(r.dir), "%s", dir);
	strcpy(r.run_id, "hr-12345678");
	r.request.sets[r.request.n_sets++] = "snapshot-cow.snapshots=4";
	strcpy(r.plan[4].replaces, "001-before-1");
	assert_int_equal(quietly(write_now, NULL), 0);
	t_write(dir, "journal.jsonl", "");
	written = r;
	assert_int_equal(quietly(load_now, dir), 0);
	assert_int_equal(r.n_cells, written.n_cells);
	for (size_t i = 0; i < r.n_cells; i++)
		assert_memory_equal(&r.plan[i], &written.plan[i], sizeof(r.plan[i]));
	assert_string_equal(r.request.arms, "all");
	assert_string_equal(r.request.sets[0], "snapshot-cow.snapshots=4");
	assert_string_equal(r.run_id, "hr-12345678");
}

static void provisioned(size_t kernel, const char *spec, const char *version)
{
	struct kernel *k = &r.kernels[kernel].kernel;

	strcpy(k->spec, spec);
	strcpy(k->version, version);
	strcpy(k->source, "a package");
}

/* Written as a run on two kernels writes it, with a cell that is run again. */
static void write_run_on_two(void)
{
	static const char *const kernels[] = { "default", "6.12", NULL };

	assert_int_equal(plan_on(kernels, "before,after", 3), 0);
	snprintf(r.dir, sizeof(r.dir), "%s", dir);
	strcpy(r.run_id, "hr-12345678");
	provisioned(0, "default", "6.1.0-42-amd64");
	provisioned(1, "6.12", "6.12.9-amd64");
	assert_non_null(run_add_cell(&r, "after", 1, 2));
	strcpy(r.plan[12].replaces, r.plan[5].name);
	assert_int_equal(quietly(write_now, NULL), 0);
	t_write(dir, "journal.jsonl", START_LINE("003-before-6.12-1") END_LINE("003-before-6.12-1", "oom"));
}

static void a_run_on_two_kernels_is_taken_up_on_those(void **state)
{
	static struct run written;

	(void)state;
	write_run_on_two();
	written = r;
	assert_int_equal(quietly(load_now, dir), 0);
	assert_int_equal(r.request.n_kernels, 2);
	assert_string_equal(r.request.kernels[0], "default");
	assert_string_equal(r.kernels[0].begun_with, "6.1.0-42-amd64"); /* whatever it stands for by now */
	assert_string_equal(r.kernels[1].begun_with, "6.12.9-amd64");
	assert_int_equal(r.n_cells, 13);
	assert_string_equal(r.plan[12].name, "013-after-6.12-2");
	assert_int_equal(r.plan[2].state, CELL_ENDED);
	r.plan[2] = written.plan[2];
	for (size_t i = 0; i < r.n_cells; i++)
		assert_memory_equal(&r.plan[i], &written.plan[i], sizeof(r.plan[i]));
}

static json_t *load_json(const char *name)
{
	json_t *root = json_load_file(in_dir(name), 0, NULL);

	assert_non_null(root);
	return root;
}

/* "command repeats the run": also after the run was taken up again, by another command line. */
static void a_run_that_is_taken_up_keeps_what_it_began_with(void **state)
{
	static char *first[] = { "run", "my/own.ini", NULL }, *second[] = { "resume", "x", NULL };
	static const char *const kept[] = { "started_utc", "argv", "command", "scenario_file" };
	json_t *before, *after;

	(void)state;
	request(NULL, 1, 5);
	r.request.scenario = in_dir("own.ini");
	r.request.argc = 2;
	r.request.argv = first;
	t_write(dir, "own.ini", SCENARIO);
	assert_int_equal(quietly(plan_now, NULL), 0);
	snprintf(r.dir, sizeof(r.dir), "%s", dir);
	strcpy(r.run_id, "hr-12345678");
	assert_int_equal(quietly(write_now, NULL), 0);
	t_write(dir, "journal.jsonl", "");
	before = load_json("run.json");
	assert_int_equal(quietly(load_now, dir), 0);
	r.request.argc = 2;
	r.request.argv = second;
	assert_int_equal(quietly(write_now, NULL), 0);
	after = load_json("run.json");
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
		if (!json_equal(json_object_get(before, kept[i]), json_object_get(after, kept[i])))
			print_error("%s has changed\n", kept[i]);
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
		assert_true(json_equal(json_object_get(before, kept[i]), json_object_get(after, kept[i])));
	json_decref(before);
	json_decref(after);
}

static void several_kernels_are_a_list_in_the_record(void **state)
{
	json_t *root, *kernels, *row;
	size_t i;

	(void)state;
	write_run_on_two();
	root = load_json("run.json");
	kernels = json_object_get(root, "kernels");
	assert_null(json_object_get(root, "kernel"));
	assert_int_equal(json_array_size(kernels), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(kernels, 1), "version")), "6.12.9-amd64");
	assert_non_null(
		strstr(json_string_value(json_object_get(root, "command")), " --kernel default --kernel 6.12 "));
	json_array_foreach (json_object_get(root, "plan"), i, row)
		assert_string_equal(json_string_value(json_object_get(row, "kernel")),
				    r.plan[i].kernel ? "6.12" : "default");
	json_decref(root);
	assert_int_equal(plan("before", 1, 42), 0);
	snprintf(r.dir, sizeof(r.dir), "%s", dir);
	provisioned(0, "6.1", "6.1.0-42-amd64");
	assert_int_equal(quietly(write_now, NULL), 0);
	root = load_json("run.json");
	assert_null(json_object_get(root, "kernels"));
	assert_string_equal(json_string_value(json_object_get(json_object_get(root, "kernel"), "spec")), "6.1");
	assert_string_equal(json_string_value(json_object_get(json_object_get(root, "options"), "kernel")), "6.1");
	assert_null(json_object_get(json_array_get(json_object_get(root, "plan"), 0), "kernel"));
	json_decref(root);
}

static void a_cell_of_no_kernel_of_the_run_is_refused(void **state)
{
	static const char *const kernels[] = { "\"6.1\"", "\"\"", "7", "null" };
	static const char *const lists[] = {
		"[]",	 "[\"6.12\"]", "7",
		"[7,8]", "{}",	       "[\"6.12\",\"6.12\"]",
		"null",	 "[1,2,3]",    "[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]"
	};
	json_t *root;
	char *text;

	(void)state;
	for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]) + sizeof(lists) / sizeof(lists[0]); i++) {
		bool cell = i < sizeof(kernels) / sizeof(kernels[0]);

		write_run_on_two();
		root = load_json("run.json");
		if (cell)
			json_object_set_new(json_array_get(json_object_get(root, "plan"), 3), "kernel",
					    json_loads(kernels[i], JSON_DECODE_ANY, NULL));
		else
			json_object_set_new(
				json_object_get(root, "options"), "kernels",
				json_loads(lists[i - sizeof(kernels) / sizeof(kernels[0])], JSON_DECODE_ANY, NULL));
		text = json_dumps(root, 0);
		expect_refused(text);
		free(text);
		json_decref(root);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(knobs_are_put_back_newest_first),
		TEST(groups_go_after_what_is_in_them),
		TEST(undoing_twice_is_undoing_once),
		TEST(values_keep_their_blanks_and_tabs),
		TEST(a_log_that_is_there_is_not_written_over),
		TEST(a_note_that_does_not_fit_is_refused),
		TEST(garbage_is_counted_and_the_rest_is_undone),
		TEST(what_cannot_be_undone_keeps_the_log),
		TEST(a_dimm_that_nobody_plugs_in_keeps_the_log),
		TEST(a_last_line_that_was_cut_off_is_not_played),
		TEST(no_log_is_nothing_to_undo),
		TEST(the_journal_grows_by_lines),
		TEST(a_line_that_is_too_long_is_refused_as_a_whole),
		TEST(stamps_have_their_two_forms),
		TEST(every_arm_runs_once_a_repeat),
		TEST(names_say_place_arm_and_repeat),
		TEST(arms_of_a_repeat_share_their_seed),
		TEST(the_order_follows_from_the_seed),
		TEST(bad_arms_are_usage_errors),
		TEST(a_plan_that_is_too_long_is_a_usage_error),
		TEST(what_changes_the_scenario_is_checked),
		TEST(an_arm_that_is_no_file_name_is_refused),
		TEST(every_arm_runs_on_each_kernel),
		TEST(kernels_are_interleaved_within_a_repeat),
		TEST(all_arms_are_those_of_each_kernel),
		TEST(kernels_make_names_of_files),
		TEST(wrong_kernels_are_usage_errors),
		TEST(mglru_is_the_same_on_every_kernel),
		TEST(a_run_is_taken_up_as_it_was_asked_for),
		TEST(the_journal_says_how_far_it_got),
		TEST(a_cell_that_was_cut_off_is_known),
		TEST(a_journal_cut_off_anywhere_is_read),
		TEST(the_journal_goes_on_behind_a_line_that_was_cut_off),
		TEST(strange_journal_lines_change_nothing),
		TEST(a_run_without_a_journal_has_not_begun),
		TEST(run_json_cut_off_anywhere_is_refused),
		TEST(what_is_no_run_is_refused),
		TEST(a_field_that_is_missing_or_wrong_is_refused),
		TEST(names_that_lead_out_of_the_directory_are_refused),
		TEST(a_plan_of_a_thousand_cells_is_refused),
		TEST(a_plan_survives_the_way_through_run_json),
		TEST(a_run_that_is_taken_up_keeps_what_it_began_with),
		TEST(a_run_on_two_kernels_is_taken_up_on_those),
		TEST(several_kernels_are_a_list_in_the_record),
		TEST(a_cell_of_no_kernel_of_the_run_is_refused),
	};

	return cmocka_run_group_tests_name("run files", tests, NULL, NULL);
}
