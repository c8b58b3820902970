// SPDX-License-Identifier: MIT
/* hotplug/reasons: why the kernel did not take a block offline, from a log in the manner of /dev/kmsg. */
#include "hotplug/reasons.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static struct reasons reasons;
static int log_fd;
static unsigned seq;

/* A pipe in packet mode gives a record a read(2), as /dev/kmsg does. */
static int setup(void **state)
{
	char path[64];
	int fds[2];

	(void)state;
	seq = 0;
	assert_int_equal(pipe2(fds, O_NONBLOCK | O_DIRECT | O_CLOEXEC), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[0]);
	assert_int_equal(reasons_open(&reasons, path), 0);
	close(fds[0]);
	log_fd = fds[1];
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	reasons_close(&reasons);
	close(log_fd);
	return 0;
}

static void says(const char *text)
{
	char record[512];
	int len = snprintf(record, sizeof(record), "7,%u,1000,-;%s\n", seq++, text);

	assert_int_equal(write(log_fd, record, (size_t)len), len);
}

static const char *last(uint64_t begin)
{
	static char words[64];

	return reasons_last(&reasons, begin, words, sizeof(words)) ? words : NULL;
}

static void the_reason_of_this_block_is_told_once(void **state)
{
	(void)state;
	assert_null(last(0x100000000));
	says("memory offlining [mem 0x100000000-0x107ffffff] failed due to signal backoff");
	assert_string_equal(last(0x100000000), "signal backoff");
	assert_null(last(0x100000000));
}

static void the_newest_one_counts(void **state)
{
	(void)state;
	says("memory offlining [mem 0x100000000-0x107ffffff] failed due to signal backoff");
	says("Offlined Pages 32768");
	says("memory offlining [mem 0x100000000-0x107ffffff] failed due to unmovable page");
	assert_string_equal(last(0x100000000), "unmovable page");
}

static void that_of_another_block_is_not_this_ones(void **state)
{
	(void)state;
	says("memory offlining [mem 0x108000000-0x10fffffff] failed due to unmovable page");
	assert_null(last(0x100000000));
	assert_null(last(0x108000000)); /* it was told of then, and nobody asked */
}

static void hostile_records_say_nothing(void **state)
{
	(void)state;
	says("memory offlining [mem ");
	says("memory offlining [mem 0x100000000-0x107ffffff] failed"); /* 4.19: no reason */
	says("memory offlining [mem zebra] failed due to it");
	says("");
	assert_int_equal(write(log_fd, "garbage", 7), 7);
	assert_int_equal(write(log_fd, "\0\0\0", 3), 3);
	assert_null(last(0x100000000));
	assert_int_equal(reasons_open(&(struct reasons){ 0 }, "/no/such/log"), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_reason_of_this_block_is_told_once, setup, teardown),
		cmocka_unit_test_setup_teardown(the_newest_one_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(that_of_another_block_is_not_this_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(hostile_records_say_nothing, setup, teardown),
	};

	return cmocka_run_group_tests_name("reasons", tests, NULL, NULL);
}
