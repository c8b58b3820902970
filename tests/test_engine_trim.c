// SPDX-License-Identifier: MIT
/*
 * What a PSI trigger does to poll(2), data out of band does to a socket's: that stands in for the kernel's pressure
 * here, and stays until it is read. The real one is in the guest's tests (engine-slab).
 */
#include "base/clock.h"
#include "engine/trim.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define LONG_MS 10000
#define IDLE_MS 100

struct fixture {
	struct slabs *slabs;
	struct slab_thread *thread;
	struct trim *trim;
	int tell; /* the kernel's end */
};

static void make_pair(int *ours, int *theirs)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	*ours = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(*ours, (struct sockaddr *)&address, len), 0);
	*theirs = accept(listener, NULL, NULL);
	assert_true(*theirs >= 0);
	close(listener);
}

static void begin(struct fixture *f, unsigned interval_ms)
{
	int fd;

	assert_int_equal(slab_open(&f->slabs, &(struct slab_config){ .size = 16 << 20 }), 0);
	assert_int_equal(slab_thread_open(f->slabs, &f->thread), 0);
	make_pair(&fd, &f->tell);
	assert_int_equal(trim_start(f->slabs, fd, interval_ms, &f->trim), 0);
}

static void end(struct fixture *f)
{
	trim_stop(f->trim);
	close(f->tell);
	slab_thread_close(f->thread);
	assert_int_equal(slab_close(f->slabs), 0);
}

static struct trim_counters counters_of(const struct fixture *f)
{
	struct trim_counters c;

	trim_read_counters(f->trim, &c);
	return c;
}

static void wait_for_trims(const struct fixture *f, uint64_t n)
{
	int64_t until = clock_ns() + LONG_MS * NS_PER_MS;

	while (counters_of(f).trims < n && clock_ns() < until)
		clock_sleep_ms(1);
	assert_true(counters_of(f).trims >= n);
}

/* Memory that was used, and is not any more. */
static void use_and_free(struct fixture *f)
{
	static void *object[2000];
	enum { N = sizeof(object) / sizeof(*object) };

	for (unsigned i = 0; i < N; i++) {
		object[i] = slab_alloc(f->thread, NULL, 1024, SLAB_FOREVER);
		assert_non_null(object[i]);
	}
	for (unsigned i = 0; i < N; i++)
		slab_free(f->thread, object[i]);
}

static void press(const struct fixture *f)
{
	assert_int_equal(send(f->tell, "!", 1, MSG_OOB), 1);
}

static void memory_goes_back_when_it_is_short_and_not_before(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f, LONG_MS);
	use_and_free(&f);
	clock_sleep_ms(IDLE_MS);
	assert_int_equal(counters_of(&f).trims, 0);
	press(&f);
	wait_for_trims(&f, 1);
	assert_true(counters_of(&f).bytes >= 2000 * 1024);
	end(&f);
}

static void pressure_that_goes_on_is_heard_once_an_interval(void **state)
{
	struct fixture f;
	int64_t from = clock_ns();
	uint64_t trims;

	(void)state;
	begin(&f, IDLE_MS);
	press(&f); /* and nobody takes it away */
	wait_for_trims(&f, 3);
	trims = counters_of(&f).trims;
	assert_true(trims <= 1 + (uint64_t)((clock_ns() - from) / (IDLE_MS * NS_PER_MS)));
	end(&f);
}

static void a_stop_does_not_wait_for_the_interval(void **state)
{
	struct fixture f;
	int64_t from;

	(void)state;
	begin(&f, 600 * 1000);
	press(&f);
	wait_for_trims(&f, 1);
	from = clock_ns();
	end(&f);
	assert_true(clock_ns() - from < LONG_MS * NS_PER_MS);
}

static void a_trigger_is_written_as_the_kernel_reads_it(void **state)
{
	char path[] = "/tmp/test_trim.XXXXXX", words[64] = "";
	int fd = mkstemp(path);

	(void)state;
	close(fd);
	fd = trim_trigger(path, 0, 2000000);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, words, sizeof(words), 0), sizeof("some 150000 2000000"));
	assert_string_equal(words, "some 150000 2000000");
	close(fd);
	unlink(path);
}

static void without_pressure_files_there_is_no_trigger(void **state)
{
	(void)state;
	assert_int_equal(trim_trigger("/proc/no/such/file", 0, 0), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_goes_back_when_it_is_short_and_not_before),
		cmocka_unit_test(pressure_that_goes_on_is_heard_once_an_interval),
		cmocka_unit_test(a_stop_does_not_wait_for_the_interval),
		cmocka_unit_test(a_trigger_is_written_as_the_kernel_reads_it),
		cmocka_unit_test(without_pressure_files_there_is_no_trigger),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
