// SPDX-License-Identifier: MIT
/*
 * kmem-checks: what the kernel promises about kernel memory of groups, as six assertions.
 *
 * They are those of the kernel's own test (tools/testing/selftests/cgroup/test_kmem.c, by its names, with its numbers
 * and tolerances), so that a failure means what it means there. Here they also run beside other loads, and the values
 * that decided stand in the record whether they held or not.
 */
#include "base/clock.h"
#include "cgroups/kmem.h"
#include "cgroups/scope.h"
#include "run/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KMEM_GROUP	CGROUP_PARENT "/kmem"
#define CHECK_GROUP	KMEM_GROUP "/check"
#define DESTROY_MS	10000
#define MEBI		(1UL << 20)
#define BASIC_DENTRIES	100000
#define BASIC_HIGH	"1M"
#define BASIC_WAIT_MS	1000
#define DELETION_GROUPS 100
#define GROUP_DENTRIES	100
#define DEAD_GROUPS	30
#define DEAD_POLLS	80
#define DEAD_POLL_MS	100
#define PERCPU_GROUPS	1000
#define STACK_THREADS	1000
#define STACK_BYTES	4096 /* the least that a stack can be; x86 has 16 KiB */
#define KPAGE_READ	1024

static const char check_name[] = "hr-kmem-check";

enum held { FAILED, HELD, NOT_DECIDED, BROKEN };

struct check {
	const char *name;
	enum held (*fn)(const struct cell *c, char *values, size_t size);
};

static const struct metric kmem_metrics[] = {
	{ "kmem_basic", "", MORE, "negative dentries are charged, and go when memory.high asks" },
	{ "kmem_memcg_deletion", "", MORE, "after a hundred groups the parent's charge is the sum of its parts" },
	{ "kmem_proc_kpagecgroup", "", MORE, "/proc/kpagecgroup can be read to its end" },
	{ "kmem_kernel_stacks", "", MORE, "stacks of a thousand threads are charged" },
	{ "kmem_dead_cgroups", "", MORE, "thirty removed groups are freed within 8 s" },
	{ "percpu_basic", "", MORE, "percpu memory of a thousand groups is charged to their parent" },
	{ "kmem_checks_held", "", MORE, "assertions that held, of six" },
	{ 0 },
};

/* How far vmstat's per-CPU counters may be off (MAX_VMSTAT_ERROR). */
static uint64_t tolerance(void)
{
	return (uint64_t)sysconf(_SC_PAGESIZE) * 64 * (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
}

static bool near(uint64_t a, uint64_t b)
{
	return (a > b ? a - b : b - a) < tolerance();
}

/* --- In a group --- */

/* Run fn(arg) in a process of the group, until it ends or the hook's time is up. 0, -errno, or as cell_wait(). */
static int in_group(const struct cell *c, const char *group, void (*fn)(uint64_t arg), uint64_t arg)
{
	pid_t pid = cell_child(c, check_name);
	int rc;

	if (pid < 0)
		return pid;
	if (pid == 0) {
		int err = scope_attach(group, getpid());

		if (!err)
			fn(arg);
		_exit(-err);
	}
	rc = cell_wait(c, check_name, pid);
	return rc > 0 && rc < 128 ? -rc : rc;
}

static int destroy(const char *group)
{
	return scope_destroy(group, clock_ns() + DESTROY_MS * NS_PER_MS);
}

/* The kernel lacks what would decide; any other error is ours, and no answer. */
static enum held no_answer(char *values, size_t size, const char *what, int err)
{
	char words[64];

	snprintf(values, size, "%s: %s", what, cell_end_words(err, words, sizeof(words)));
	return err == -ENODATA || err == -ENOENT ? NOT_DECIDED : BROKEN;
}

static int stat_of(const char *group, const char *key, uint64_t *value)
{
	return scope_get(group, "memory.stat", key, value);
}

/* --- The assertions --- */

static enum held kmem_basic(const struct cell *c, char *values, size_t size)
{
	uint64_t before, after, current;
	int err = in_group(c, CHECK_GROUP, kmem_dentries, BASIC_DENTRIES);

	if (!err)
		err = stat_of(CHECK_GROUP, "slab", &before);
	if (!err)
		err = scope_limit(CHECK_GROUP, "memory.high", BASIC_HIGH);
	clock_sleep_ms(BASIC_WAIT_MS);
	if (!err)
		err = stat_of(CHECK_GROUP, "slab", &after);
	if (!err)
		err = scope_get(CHECK_GROUP, "memory.current", NULL, &current);
	if (err)
		return no_answer(values, size, "kmem_basic", err);
	snprintf(values, size,
		 "slab %" PRIu64 " bytes, after memory.high = 1M slab %" PRIu64 ", memory.current %" PRIu64, before,
		 after, current);
	return before >= MEBI && after < before / 2 && current < before / 2 ? HELD : FAILED;
}

static void *dentries_of_thread(void *unused)
{
	(void)unused;
	kmem_dentries(GROUP_DENTRIES);
	return NULL;
}

static void dentries_of_threads(uint64_t n)
{
	pthread_t threads[256];
	uint64_t started = 0;

	while (started < n && started < sizeof(threads) / sizeof(threads[0]) &&
	       pthread_create(&threads[started], NULL, dentries_of_thread, NULL) == 0)
		started++;
	for (uint64_t i = 0; i < started; i++)
		pthread_join(threads[i], NULL);
}

/* Groups one after the other, each with something charged to it, each removed. */
static int come_and_go(const struct cell *c, unsigned groups, void (*fn)(uint64_t), uint64_t arg)
{
	int err = 0;

	for (unsigned i = 0; !err && i < groups; i++) {
		char group[64];

		snprintf(group, sizeof(group), CHECK_GROUP "/%u", i);
		err = scope_create(group);
		if (!err)
			err = in_group(c, group, fn, arg);
		if (!err)
			err = destroy(group);
		if (!err && cell_should_stop(c))
			err = -ETIMEDOUT;
	}
	return err;
}

static enum held kmem_memcg_deletion(const struct cell *c, char *values, size_t size)
{
	static const char *const parts[] = { "anon", "file", "kernel", "sock" };
	uint64_t current, part, sum = 0;
	int err = come_and_go(c, DELETION_GROUPS, dentries_of_threads, 2 * (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));

	if (!err)
		err = scope_get(CHECK_GROUP, "memory.current", NULL, &current);
	for (size_t i = 0; !err && i < sizeof(parts) / sizeof(parts[0]); i++) {
		/* `kernel` is there since Linux 5.18: without it the parts are not all known. */
		err = stat_of(CHECK_GROUP, parts[i], &part);
		sum += err ? 0 : part;
	}
	if (err)
		return no_answer(values, size, "kmem_memcg_deletion", err);
	snprintf(values, size,
		 "memory.current %" PRIu64 " bytes, anon + file + kernel + sock %" PRIu64 ", tolerance %" PRIu64,
		 current, sum, tolerance());
	return near(current, sum) ? HELD : FAILED;
}

static enum held kmem_proc_kpagecgroup(const struct cell *c, char *values, size_t size)
{
	int fd = open("/proc/kpagecgroup", O_RDONLY | O_CLOEXEC), err = 0;
	char buf[KPAGE_READ];
	uint64_t bytes = 0;
	ssize_t n = 0;

	if (fd < 0)
		return no_answer(values, size, "/proc/kpagecgroup", -errno);
	while (!err && (n = read(fd, buf, sizeof(buf))) > 0) {
		bytes += (uint64_t)n;
		if (cell_should_stop(c))
			err = -ETIMEDOUT;
	}
	if (n < 0)
		err = -errno;
	close(fd);
	if (err == -ETIMEDOUT)
		return no_answer(values, size, "/proc/kpagecgroup", err);
	snprintf(values, size, "%" PRIu64 " bytes read, %s", bytes, err ? strerror(-err) : "to the end");
	return err ? FAILED : HELD;
}

/* Says on the pipe when its threads are there, or which error kept them away, and stays until it is ended. */
static void many_threads(int ready)
{
	int err = kmem_stacks(STACK_THREADS);

	if (write(ready, &err, sizeof(err)) == sizeof(err) && !err)
		pause();
}

/* Wait until they all are there: the process says so, or ends, or the hook's time is up. 0 or -errno. */
static int await_threads(const struct cell *c, int fd)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	int64_t left_ms = (c->deadline_ns - clock_ns()) / NS_PER_MS;
	int err;

	if (poll(&ready, 1, left_ms > 0 ? (int)left_ms : 0) != 1)
		return -ETIMEDOUT;
	return read(fd, &err, sizeof(err)) == sizeof(err) ? err : -EIO;
}

static enum held kmem_kernel_stacks(const struct cell *c, char *values, size_t size)
{
	uint64_t bytes = 0;
	int ends[2], err;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return no_answer(values, size, "pipe", -errno);
	pid = cell_child(c, check_name);
	if (pid == 0) {
		close(ends[0]);
		err = scope_attach(CHECK_GROUP, getpid());
		if (!err)
			many_threads(ends[1]);
		_exit(-err);
	}
	close(ends[1]);
	err = pid < 0 ? pid : await_threads(c, ends[0]);
	close(ends[0]);
	if (!err)
		err = stat_of(CHECK_GROUP, "kernel_stack", &bytes);
	if (pid > 0) {
		kill(pid, SIGTERM);
		cell_wait(c, check_name, pid);
	}
	if (err)
		return no_answer(values, size, "threads", err);
	snprintf(values, size, "kernel_stack %" PRIu64 " bytes of %d threads, at least %d expected", bytes,
		 STACK_THREADS, STACK_THREADS * STACK_BYTES);
	return bytes >= (uint64_t)STACK_THREADS * STACK_BYTES ? HELD : FAILED;
}

static enum held kmem_dead_cgroups(const struct cell *c, char *values, size_t size)
{
	int err = come_and_go(c, DEAD_GROUPS, kmem_dentries, GROUP_DENTRIES);
	int64_t begin = clock_ns();
	uint64_t dying = 1;

	for (int i = 0; !err && dying && i < DEAD_POLLS; i++) {
		err = scope_get(CHECK_GROUP, "cgroup.stat", "nr_dying_descendants", &dying);
		if (!err && dying)
			clock_sleep_ms(DEAD_POLL_MS);
	}
	if (err)
		return no_answer(values, size, "kmem_dead_cgroups", err);
	snprintf(values, size, "%" PRIu64 " of %d groups dying after %.1f s", dying, DEAD_GROUPS,
		 (double)(clock_ns() - begin) / NS_PER_S);
	return dying ? FAILED : HELD;
}

static enum held percpu_basic(const struct cell *c, char *values, size_t size)
{
	uint64_t current, percpu, slab;
	int err = 0;

	for (unsigned i = 0; !err && i < PERCPU_GROUPS; i++) {
		char group[64];

		snprintf(group, sizeof(group), CHECK_GROUP "/%u", i);
		err = scope_create(group);
		if (!err && cell_should_stop(c))
			err = -ETIMEDOUT;
	}
	if (!err)
		err = scope_get(CHECK_GROUP, "memory.current", NULL, &current);
	if (!err)
		err = stat_of(CHECK_GROUP, "percpu", &percpu);
	if (!err)
		err = stat_of(CHECK_GROUP, "slab", &slab);
	if (err)
		return no_answer(values, size, "percpu_basic", err);
	snprintf(values, size,
		 "memory.current %" PRIu64 " bytes, percpu %" PRIu64 " + slab %" PRIu64 ", tolerance %" PRIu64, current,
		 percpu, slab, tolerance());
	return current && percpu && near(current, percpu + slab) ? HELD : FAILED;
}

static const struct check checks[] = {
	{ "kmem_basic", kmem_basic },
	{ "kmem_memcg_deletion", kmem_memcg_deletion },
	{ "kmem_proc_kpagecgroup", kmem_proc_kpagecgroup },
	{ "kmem_kernel_stacks", kmem_kernel_stacks },
	{ "kmem_dead_cgroups", kmem_dead_cgroups },
	{ "percpu_basic", percpu_basic },
};

/* --- Hooks --- */

static int setup(struct cell *c)
{
	(void)c;
	return 0;
}

/* Each in a group of its own. What was not decided is no figure. */
static int run(struct cell *c)
{
	static const char *const words[] = { "failed", "held", "was not decided" };
	uint64_t held = 0;
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(checks) / sizeof(checks[0]); i++) {
		char values[256] = "";
		enum held result;

		err = scope_create(CHECK_GROUP);
		if (err) {
			cell_fail(c, "cgroup %s: %s", CHECK_GROUP, strerror(-err));
			break;
		}
		result = checks[i].fn(c, values, sizeof(values));
		if (result == BROKEN) {
			cell_fail(c, "%s: %s", checks[i].name, values);
			err = -ECANCELED;
			break;
		}
		held += result == HELD;
		cell_finding(c, "%s %s: %s", checks[i].name, words[result], values);
		if (result == FAILED)
			cell_corrupt(c, "%s does not hold: %s", checks[i].name, values);
		if (result != NOT_DECIDED)
			cell_metric_bool(c, checks[i].name, result == HELD);
		err = destroy(CHECK_GROUP);
		if (err)
			cell_fail(c, "remove %s: %s", CHECK_GROUP, strerror(-err));
	}
	if (!err)
		cell_metric_u64(c, "kmem_checks_held", held);
	return err;
}

static int verify(struct cell *c)
{
	(void)c;
	return 0;
}

static const struct opt kmem_options[] = { { 0 } };

static const struct workload kmem_checks = {
	.name = "kmem-checks",
	.summary = "six assertions about kernel memory of cgroups, as the kernel's own test makes them",
	.exercises = (const char *const[]){ "memcg_slab_post_alloc_hook", "mem_cgroup_css_offline", "kpagecgroup_read",
					    "pcpu_memcg_post_alloc_hook", NULL },
	.group = KMEM_GROUP,
	.opts = kmem_options,
	.opts_size = 1,
	.metrics = kmem_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(kmem_checks);
