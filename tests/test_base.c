// SPDX-License-Identifier: MIT
/* base/: options, control files, child programs. */
#include "base/clock.h"
#include "base/opts.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "base/ticker.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>

struct sample_opts {
	uint64_t size;
	bool sync;
	unsigned order;
};

static const char *const orders[] = { "seq", "random", NULL };
static const struct opt table[] = {
	{ "size", OPT_U64, offsetof(struct sample_opts, size), "16", 1, 1024, NULL, "MiB", "how much" },
	{ "sync", OPT_BOOL, offsetof(struct sample_opts, sync), "yes", 0, 0, NULL, NULL, "or not" },
	{ "order", OPT_ENUM, offsetof(struct sample_opts, order), "random", 0, 0, orders, NULL, "of writes" },
	{ 0 },
};

static void options_have_their_defaults_and_read_back(void **state)
{
	struct sample_opts o, again;
	char err[256], text[64];

	(void)state;
	opts_defaults(table, &o);
	assert_int_equal(o.size, 16);
	assert_true(o.sync);
	assert_int_equal(o.order, 1);
	memset(&again, 0, sizeof(again));
	for (const struct opt *opt = table; opt->name; opt++) {
		opts_format(opt, &o, text, sizeof(text));
		assert_int_equal(opts_set(table, &again, opt->name, text, err, sizeof(err)), 0);
	}
	assert_int_equal(again.size, o.size);
	assert_int_equal(again.sync, o.sync);
	assert_int_equal(again.order, o.order);
}

static void bad_values_are_refused_with_what_is_allowed(void **state)
{
	static const char *const bad_sizes[] = { "",	"0",	"1025",
						 "-1",	"1e3",	"16 ",
						 " 16", "0x10", "99999999999999999999999" };
	struct sample_opts o;
	char err[256];

	(void)state;
	opts_defaults(table, &o);
	for (size_t i = 0; i < sizeof(bad_sizes) / sizeof(bad_sizes[0]); i++) {
		assert_int_equal(opts_set(table, &o, "size", bad_sizes[i], err, sizeof(err)), -EINVAL);
		assert_non_null(strstr(err, "from 1 to 1024 MiB"));
	}
	assert_int_equal(o.size, 16);
	assert_int_equal(opts_set(table, &o, "sync", "perhaps", err, sizeof(err)), -EINVAL);
	assert_int_equal(opts_set(table, &o, "order", "rand", err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "one of seq, random"));
	assert_int_equal(opts_set(table, &o, "siz", "1", err, sizeof(err)), -ENOENT);
	assert_non_null(strstr(err, "size sync order"));
}

static void a_short_error_buffer_is_not_overrun(void **state)
{
	struct sample_opts o;
	char err[8];

	(void)state;
	opts_set(table, &o, "an-option-with-a-very-long-name", "1", err, sizeof(err));
	opts_set(table, &o, "order", "a-value-that-is-very-long", err, sizeof(err));
	assert_true(strlen(err) < sizeof(err));
}

static void control_files_report_every_error(void **state)
{
	char *dir = t_dir(), path[PATH_MAX], text[64];
	uint64_t value;

	(void)state;
	t_write(dir, "knob", "2048\n");
	snprintf(path, sizeof(path), "%s/knob", dir);
	assert_int_equal(sysfile_read(path, text, sizeof(text)), 4);
	assert_string_equal(text, "2048");
	assert_int_equal(sysfile_read_u64(path, &value), 0);
	assert_int_equal(value, 2048);
	t_write(dir, "knob", "no number");
	assert_int_equal(sysfile_read_u64(path, &value), -EINVAL);
	assert_int_equal(sysfile_write("/proc/version", "x") < 0, 1);
	assert_int_equal(sysfile_write("/nonexistent/file", "x"), -ENOENT);
	assert_int_equal(sysfile_write("/dev/full", "x"), -ENOSPC);
	snprintf(path, sizeof(path), "%s/a/b/c", dir);
	assert_int_equal(sysfile_mkdirs(path), 0);
	assert_int_equal(sysfile_mkdirs(path), 0);
	t_remove(dir);
}

static void a_number_is_found_after_its_key(void **state)
{
	char *dir = t_dir(), path[PATH_MAX];
	uint64_t value = 7;

	(void)state;
	snprintf(path, sizeof(path), "%s/stat", dir);
	t_write(dir, "stat",
		"SlabOther: 1 kB\nSlab:       12345 kB\nkernel 18446744073709551615\nempty\nword x\nbig "
		"99999999999999999999\n");
	assert_int_equal(sysfile_read_key(path, "Slab", &value), 0);
	assert_int_equal(value, 12345);
	assert_int_equal(sysfile_read_key(path, "kernel", &value), 0);
	assert_true(value == UINT64_MAX);
	assert_int_equal(sysfile_read_key(path, "kern", &value), -ENODATA);
	assert_int_equal(sysfile_read_key(path, "empty", &value), -ENODATA);
	assert_int_equal(sysfile_read_key(path, "word", &value), -EINVAL);
	assert_int_equal(sysfile_read_key(path, "big", &value), -ERANGE);
	t_write(dir, "stat", "");
	assert_int_equal(sysfile_read_key(path, "Slab", &value), -ENODATA);
	assert_int_equal(sysfile_read_key("/proc/no-such-file", "Slab", &value), -ENOENT);
	t_remove(dir);
}

static void replacing_a_file_leaves_the_old_one_when_it_fails(void **state)
{
	char *dir = t_dir(), path[PATH_MAX], text[64];

	(void)state;
	snprintf(path, sizeof(path), "%s/result", dir);
	assert_int_equal(sysfile_replace(path, "one", 3), 0);
	snprintf(text, sizeof(text), "%s/result.tmp", dir);
	assert_int_equal(sysfile_mkdirs(text), 0); /* the temporary name is taken by a directory */
	assert_true(sysfile_replace(path, "two", 3) < 0);
	assert_int_equal(sysfile_read(path, text, sizeof(text)), 3);
	assert_string_equal(text, "one");
	t_remove(dir);
}

static int run(const char *script, char *out, size_t size, int timeout_s)
{
	const char *argv[] = { "/bin/sh", "-c", script, NULL };
	struct spawn s = { .argv = argv, .out = out, .out_size = size, .timeout_s = timeout_s };
	int status = 12345;

	assert_int_equal(spawn_run(&s, &status), 0);
	return status;
}

static void children_give_status_and_output(void **state)
{
	char out[32];

	(void)state;
	assert_int_equal(run("echo hello; exit 3", out, sizeof(out), 10), 3);
	assert_string_equal(out, "hello\n");
	assert_int_equal(run("kill -9 $$", out, sizeof(out), 10), 128 + 9);
	assert_int_equal(run("yes | head -c 100000", out, sizeof(out), 10), 0);
	assert_int_equal(strlen(out), sizeof(out) - 1);
}

static void a_program_that_is_not_there_is_127(void **state)
{
	const char *argv[] = { "headroom-no-such-program", NULL };
	struct spawn s = { .argv = argv, .timeout_s = 5 };
	int status;

	(void)state;
	assert_int_equal(spawn_run(&s, &status), 0);
	assert_int_equal(status, 127);
}

static void a_child_that_takes_too_long_is_ended_with_its_children(void **state)
{
	char out[32];
	int64_t begin = clock_ns();

	(void)state;
	assert_int_equal(run("sleep 100 & sleep 100", out, sizeof(out), 1), SPAWN_TIMEOUT);
	assert_true(clock_ns() - begin < 10 * NS_PER_S);
}

/* --- Progress that nobody waits for --- */

/* What comes out of a pipe that takes the place of stderr while `fn` runs. */
static void with_stderr(int end, void (*fn)(struct ticker *))
{
	int saved = dup(STDERR_FILENO);
	struct ticker *t;

	assert_true(saved >= 0 && dup2(end, STDERR_FILENO) >= 0);
	assert_int_equal(ticker_start(&t), 0);
	fn(t);
	ticker_end(t);
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	close(saved);
}

static void say_two(struct ticker *t)
{
	ticker_say(t, "first\n");
	ticker_say(t, "last\n");
}

static void what_was_said_last_is_shown(void **state)
{
	char text[64] = "";
	int ends[2];

	(void)state;
	assert_int_equal(pipe(ends), 0);
	with_stderr(ends[1], say_two);
	close(ends[1]);
	assert_true(read(ends[0], text, sizeof(text) - 1) >= 5);
	assert_non_null(strstr(text, "last\n"));
	close(ends[0]);
}

static void say_much(struct ticker *t)
{
	for (int i = 0; i < 1000; i++)
		ticker_say(t, "again\n");
	clock_sleep_ms(100);
	ticker_say(t, "and again\n");
}

static void nobody_waits_for_a_reader_that_does_not_read(void **state)
{
	int64_t began_ns = clock_ns();
	int ends[2], size;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	size = fcntl(ends[1], F_SETPIPE_SZ, 4096);
	assert_true(size > 0);
	for (int i = 0; i < size; i++)
		assert_int_equal(write(ends[1], "x", 1), 1);
	with_stderr(ends[1], say_much);
	/* Without a deadline of its own it would stand here for ever. */
	assert_true(clock_ns() - began_ns < 30 * NS_PER_S);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_have_their_defaults_and_read_back),
		cmocka_unit_test(bad_values_are_refused_with_what_is_allowed),
		cmocka_unit_test(a_short_error_buffer_is_not_overrun),
		cmocka_unit_test(control_files_report_every_error),
		cmocka_unit_test(a_number_is_found_after_its_key),
		cmocka_unit_test(replacing_a_file_leaves_the_old_one_when_it_fails),
		cmocka_unit_test(children_give_status_and_output),
		cmocka_unit_test(a_program_that_is_not_there_is_127),
		cmocka_unit_test(a_child_that_takes_too_long_is_ended_with_its_children),
		cmocka_unit_test(what_was_said_last_is_shown),
		cmocka_unit_test(nobody_waits_for_a_reader_that_does_not_read),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
