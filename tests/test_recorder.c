// SPDX-License-Identifier: MIT
/*
 * The recorder's process as a whole, on this machine: that it needs nothing after the start line, and that what it
 * could not record is counted. Runs with and without root; without, some files and the memory lock are refused.
 */
#include "base/clock.h"
#include "record/blackbox.h"
#include "record/recorder.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define WAIT_MS	  20000
#define PERIOD_MS 20
#define NO_BUFFER "EPIPE" /* what the stand-in for /dev/kmsg sends to make a read fail as an overrun does */

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
/* Of sanitizer/allocator_interface.h, which gcc does not install. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *p, size_t size),
					      void (*on_free)(const volatile void *p));
#else
#define WITH_ASAN 0
#endif

/* Allocations of this program and its children, in memory that they share. */
static _Atomic unsigned long *allocations;

static void count_allocation(void)
{
	if (allocations)
		atomic_fetch_add(allocations, 1);
}

#if WITH_ASAN
static void on_malloc(const volatile void *p, size_t size)
{
	(void)p;
	(void)size;
	count_allocation();
}

static void on_free(const volatile void *p)
{
	(void)p;
}
#else
/* A program's own malloc takes the place of libc's everywhere, in libc too; these are what it replaces. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);

void *malloc(size_t size)
{
	count_allocation();
	return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	count_allocation();
	return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	count_allocation();
	return __libc_realloc(p, size);
}

void *memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size)
{
	count_allocation();
	return __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
	return memalign(align, size);
}

int posix_memalign(void **p, size_t align, size_t size)
{
	*p = memalign(align, size);
	return *p ? 0 : ENOMEM;
}

void free(void *p)
{
	__libc_free(p);
}
#endif

/* /dev/kmsg fails with EPIPE when records were overwritten before they were read; no socket can do that. */
ssize_t read(int fd, void *buf, size_t size)
{
	ssize_t n = syscall(SYS_read, fd, buf, size);

	if (n == (ssize_t)strlen(NO_BUFFER) && memcmp(buf, NO_BUFFER, (size_t)n) == 0) {
		errno = EPIPE;
		return -1;
	}
	return n;
}

/* A file of /proc fails where its task is gone, or memory is; no file of a directory does. */
ssize_t pread(int fd, void *buf, size_t size, off_t offset)
{
	ssize_t n = syscall(SYS_pread64, fd, buf, size, offset);

	if (n != 5 && n != 6)
		return n;
	if (memcmp(buf, "ESRCH", (size_t)n) == 0 || memcmp(buf, "ENOMEM", (size_t)n) == 0) {
		errno = n == 5 ? ESRCH : ENOMEM;
		return -1;
	}
	return n;
}

static void *shared_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(memory != MAP_FAILED);
	return memory;
}

static struct bb fresh_box(uint64_t size)
{
	struct bb box;

	bb_format(&box, shared_memory(size), size);
	return box;
}

static void wait_for(const _Atomic uint64_t *counter, uint64_t at_least)
{
	int64_t deadline = clock_ns() + WAIT_MS * NS_PER_MS;

	while (atomic_load(counter) < at_least) {
		if (clock_ns() > deadline)
			fail_msg("%" PRIu64 " of %" PRIu64 " after %d ms", atomic_load(counter), at_least, WAIT_MS);
		clock_sleep_ms(1);
	}
}

static size_t count(const struct bb *box, enum bb_area area)
{
	struct bb_cursor c = bb_read(box, area);
	struct bb_record r;
	size_t n = 0;

	while (bb_next(&c, &r))
		n++;
	assert_int_equal(c.torn, 0);
	return n;
}

struct needs {
	unsigned long minor_faults, major_faults, pages, allocations;
};

static struct needs needs_of(pid_t pid)
{
	struct needs n = { .allocations = atomic_load(allocations) };
	char path[64], text[1024];
	const char *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "r");
	assert_non_null(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
	p = strrchr(text, ')');
	assert_non_null(p);
	/* After the name: state ppid pgrp session tty tpgid flags minflt cminflt majflt, ten more, vsize */
	assert_int_equal(sscanf(p,
				") %*c %*d %*d %*d %*d %*d %*u %lu %*u %lu %*u %*u %*u %*d %*d %*d %*d %*d %*d %*u %lu",
				&n.minor_faults, &n.major_faults, &n.pages),
			 3);
	n.allocations = atomic_load(allocations); /* ours, for reading this, are over */
	return n;
}

/* mlockall succeeds or it does not; it never locks a part. AddressSanitizer makes it do nothing. */
static bool memory_is_locked(pid_t pid)
{
	char path[64], line[128];
	unsigned long kib = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f) && sscanf(line, "VmLck: %lu", &kib) != 1)
		;
	fclose(f);
	return kib > 0;
}

/* Whether this machine lets us lock as much as the recorder needs. */
static bool may_lock(void)
{
	size_t size = 32 << 20;
	void *memory = shared_memory(size);
	bool may = mlock(memory, size) == 0;

	munmap(memory, size);
	return may;
}

static void send_record(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
}

static void after_the_start_it_allocates_nothing_and_takes_no_fault(void **state)
{
	struct bb box = fresh_box(8 << 20);
	struct recorder_config config = { .period_ms = PERIOD_MS, .canary_ms = PERIOD_MS };
	static const char groups[] = "\"groups\":{\"/\":{\"anon\":4096,\"slab\":8192}}";
	static const char threads[] = "\"threads\":{\"age_ms\":";
	struct needs before = { 0 }, after;
	unsigned with_groups = 0, with_threads = 0;
	struct bb_cursor c;
	struct bb_record r;
	struct recorder recorder;
	unsigned long mine;
	void *volatile seen;
	char *dir;
	bool locked;
	int fds[2];

	(void)state;
	mine = atomic_load(allocations);
	seen = malloc(1);
	free(seen);
	assert_int_equal(atomic_load(allocations), mine + 1); /* the hook works */

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	config.kmsg_fd = fds[0];
	dir = t_dir();
	t_write(dir, "memory.stat", "anon 4096\nslab 8192\n");
	config.group_ms = PERIOD_MS;
	config.groups[0] = (struct recorder_group){ "/", dir };
	config.thread_ms = PERIOD_MS;
	config.threads[0] = "kswapd";
	assert_int_equal(recorder_start(&recorder, &box, &config), 0);
	for (uint64_t i = 1; i <= 5 + 50; i++) {
		char record[64];

		/* The start line is drawn some samples after the recorder is ready (BASELINE_MS of cell.c). */
		if (i == 6) {
			before = needs_of(recorder.pid);
			mine = before.allocations;
		}
		snprintf(record, sizeof(record), "6,%" PRIu64 ",5000,-;with a gap of one\n", 2 * i);
		send_record(fds[1], record);
		wait_for(&box.head->samples_taken, i);
	}
	assert_int_equal(atomic_load(allocations), mine);
	after = needs_of(recorder.pid);
	locked = memory_is_locked(recorder.pid);
	assert_int_equal(recorder_stop(&recorder), 0);
	t_remove(dir);
	c = bb_read(&box, BB_SAMPLES);
	while (bb_next(&c, &r)) {
		with_groups += memmem(r.data, r.len, groups, sizeof(groups) - 1) != NULL;
		with_threads += memmem(r.data, r.len, threads, sizeof(threads) - 1) != NULL;
	}
	assert_true(with_groups > 10);
	assert_true(with_threads > 10);
	assert_int_equal(after.pages, before.pages);
	assert_int_equal(atomic_load(&box.head->kmsg_lost), 54);
	close(fds[0]);
	close(fds[1]);
	bb_unmap(&box);
	if (!WITH_ASAN && may_lock())
		assert_true(locked);
	if (!locked) {
		print_message("%lu page faults in 50 samples, not judged: %s\n",
			      after.minor_faults - before.minor_faults,
			      WITH_ASAN ? "AddressSanitizer makes mlockall do nothing"
					: "mlockall was refused (RLIMIT_MEMLOCK, no root)");
		return;
	}
	assert_int_equal(after.major_faults - before.major_faults, 0);
	assert_int_equal(after.minor_faults - before.minor_faults, 0);
}

static void an_overrun_of_the_kernel_log_is_counted_from_the_gap(void **state)
{
	struct bb box = fresh_box(8 << 20);
	struct recorder_config config = { .period_ms = PERIOD_MS };
	uint64_t lost[4], seq[4];
	struct recorder recorder;
	struct bb_cursor c;
	struct bb_record r;
	size_t n = 0;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	config.kmsg_fd = fds[0];
	assert_int_equal(recorder_start(&recorder, &box, &config), 0);
	send_record(fds[1], "6,100,5000,-;the first: nothing is known about those before it\n");
	send_record(fds[1], "6,101,5001,-;in order\n");
	send_record(fds[1], NO_BUFFER);
	send_record(fds[1], "6,250,5002,-;after an overrun\n");
	send_record(fds[1], NO_BUFFER);
	send_record(fds[1], NO_BUFFER);
	send_record(fds[1], "6,251,5003,-;an overrun that cost nothing\n");
	send_record(fds[1], "6,253,5004,-;a gap that nobody announced\n");
	send_record(fds[1], "no record at all\n");
	send_record(fds[1], "4,254,5005,-;and on\n SUBSYSTEM=block\n");
	assert_int_equal(recorder_stop(&recorder), 0); /* reads to the end of the log */

	c = bb_read(&box, BB_EVENTS);
	while (bb_next(&c, &r)) {
		json_t *event = json_loadb(r.data, r.len, 0, NULL);

		assert_non_null(event);
		assert_string_equal(json_string_value(json_object_get(event, "kind")), "kmsg-lost");
		assert_true(n < 4);
		lost[n] = (uint64_t)json_integer_value(json_object_get(event, "lost"));
		seq[n++] = (uint64_t)json_integer_value(json_object_get(event, "seq"));
		json_decref(event);
	}
	assert_int_equal(n, 2);
	assert_int_equal(lost[0], 250 - 102);
	assert_int_equal(seq[0], 250);
	assert_int_equal(lost[1], 1);
	assert_int_equal(seq[1], 253);
	assert_int_equal(atomic_load(&box.head->kmsg_lost), 250 - 102 + 1);
	assert_int_equal(count(&box, BB_KERNEL_LOG), 7); /* what was read is there, whatever it looked like */
	close(fds[0]);
	close(fds[1]);
	bb_unmap(&box);
}

struct tick {
	int64_t due_us, missed;
};

/* The ticks that the samples in the box were taken for, but for the last sample, which is taken at the stop. */
static size_t ticks(const struct bb *box, struct tick *t, size_t max)
{
	struct bb_cursor c = bb_read(box, BB_SAMPLES);
	struct bb_record r;
	size_t n = 0;

	while (bb_next(&c, &r)) {
		json_t *sample = json_loadb(r.data, r.len, 0, NULL);

		assert_non_null(sample);
		assert_true(n < max);
		assert_true(json_number_value(json_object_get(sample, "late_ms")) >= 0);
		t[n].due_us = (int64_t)(json_number_value(json_object_get(sample, "t")) * 1e6 + 0.5) -
			      (int64_t)(json_number_value(json_object_get(sample, "late_ms")) * 1e3 + 0.5);
		t[n++].missed = json_integer_value(json_object_get(sample, "missed"));
		json_decref(sample);
	}
	assert_int_equal(c.torn, 0);
	return n - 1;
}

static void every_tick_is_a_sample_or_is_counted_as_missed(void **state)
{
	enum { STOPPED_MS = 1000, MAX = 4096 };
	static struct tick t[MAX];
	struct bb box = fresh_box(32 << 20);
	struct recorder_config config = { .period_ms = PERIOD_MS };
	struct recorder recorder;
	int64_t missed = 0, most = 0;
	uint64_t taken;
	size_t n;

	(void)state;
	assert_int_equal(recorder_start(&recorder, &box, &config), 0);
	wait_for(&box.head->samples_taken, 10);
	assert_int_equal(kill(recorder.pid, SIGSTOP), 0);
	clock_sleep_ms(STOPPED_MS);
	taken = atomic_load(&box.head->samples_taken);
	assert_int_equal(kill(recorder.pid, SIGCONT), 0);
	wait_for(&box.head->samples_taken, taken + 10);
	assert_int_equal(recorder_stop(&recorder), 0);

	n = ticks(&box, t, MAX);
	assert_int_equal(n + 1, atomic_load(&box.head->samples_taken));
	for (size_t i = 0; i < n; i++) {
		missed += t[i].missed;
		if (t[i].missed > most)
			most = t[i].missed;
		if (i == 0)
			continue;
		/* Both figures of a sample are cut to microseconds. */
		assert_in_range(t[i].due_us - t[i - 1].due_us - (t[i].missed + 1) * PERIOD_MS * 1000 + 2, 0, 4);
	}
	assert_int_equal(missed, atomic_load(&box.head->samples_missed));
	assert_true(most >= STOPPED_MS / PERIOD_MS - 2);
	assert_true(atomic_load(&box.head->late_max_ns) >= (STOPPED_MS - 2 * PERIOD_MS) * NS_PER_MS);
	bb_unmap(&box);
}

static void a_full_box_costs_the_oldest_samples_and_no_event(void **state)
{
	static const char event[] = "{\"t\":1,\"kind\":\"phase\",\"raw\":\"\"}\n";
	static struct tick t[4096];
	struct bb box = fresh_box(1 << 20);
	struct recorder_config config = { .period_ms = 10 };
	struct recorder recorder;
	uint64_t taken;
	size_t n;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	config.kmsg_fd = fds[0];
	assert_int_equal(recorder_start(&recorder, &box, &config), 0);
	wait_for(&box.head->dropped[BB_SAMPLES], 50);
	taken = atomic_load(&box.head->samples_taken);
	/* The kernel's words and ours still get in; it lives, and goes on. */
	send_record(fds[1], "6,1,5000,-;one line\n");
	assert_int_equal(bb_append(&box, BB_EVENT, event, sizeof(event) - 1), 0);
	wait_for(&box.head->samples_taken, taken + 5);
	assert_int_equal(recorder_stop(&recorder), 0);
	assert_int_equal(count(&box, BB_KERNEL_LOG), 1);
	assert_int_equal(count(&box, BB_EVENTS), 1);
	assert_int_equal(atomic_load(&box.head->lost), 0);

	taken = atomic_load(&box.head->samples_taken);
	n = ticks(&box, t, sizeof(t) / sizeof(t[0])) + 1;
	assert_int_equal(n + atomic_load(&box.head->dropped[BB_SAMPLES]), taken);
	close(fds[0]);
	close(fds[1]);
	bb_unmap(&box);
}

/* In the first and in the last, and where nothing moves only now and then between. */
static void slabinfo_is_left_out_while_the_slab_stands_still(void **state)
{
	struct bb box = fresh_box(32 << 20);
	struct recorder_config config = { .period_ms = PERIOD_MS, .slab_ms = 60000 };
	struct recorder recorder;
	struct bb_cursor c;
	struct bb_record r;
	unsigned n = 0, with = 0;
	bool last = false;

	(void)state;
	if (access("/proc/slabinfo", R_OK) < 0)
		skip();
	assert_int_equal(recorder_start(&recorder, &box, &config), 0);
	wait_for(&box.head->samples_taken, 30);
	assert_int_equal(recorder_stop(&recorder), 0);
	c = bb_read(&box, BB_SAMPLES);
	while (bb_next(&c, &r)) {
		json_t *sample = json_loadb(r.data, r.len, 0, NULL);

		last = json_object_get(sample, "slab") != NULL;
		with += last;
		if (!n++)
			assert_true(last);
		json_decref(sample);
	}
	assert_true(last);
	assert_true(with < n);
	bb_unmap(&box);
}

/*
 * As fast as a machine can talk, which is faster than any kernel log: what came through the log is in the box, or was
 * given up for newer lines, and both are counted. The rate itself is a benchmark's business.
 */
static void of_a_flood_every_line_is_kept_or_counted(void **state)
{
	enum { LINES = 200000 };
	struct bb box = fresh_box(8 << 20);
	struct recorder_config config = { .period_ms = PERIOD_MS };
	struct recorder recorder;
	struct bb_cursor c;
	struct bb_record r;
	int64_t begin, took;
	uint64_t kept = 0;
	int fds[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
	config.kmsg_fd = fds[0];
	assert_int_equal(recorder_start(&recorder, &box, &config), 0);
	begin = clock_ns();
	for (int i = 0; i < LINES; i++) {
		char record[200];

		/* One in ten is the kernel's own, and one of them says that it killed. */
		if (i == LINES / 4)
			snprintf(record, sizeof(record),
				 "3,%d,%d,-;Out of memory: Killed process 4711 (victim) total-vm:1kB, anon-rss:1kB, "
				 "file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:4kB oom_score_adj:0\n",
				 i, 5000 + i);
		else
			snprintf(record, sizeof(record),
				 "%d,%d,%d,-;flood: line %d of very many, none of which anybody reads\n",
				 i % 10 ? 14 : 6, i, 5000 + i, i);
		send_record(fds[1], record);
	}
	took = (clock_ns() - begin) / (int64_t)NS_PER_MS;
	assert_int_equal(recorder_stop(&recorder), 0);
	print_message("%d lines in %" PRId64 " ms\n", LINES, took);
	for (int area = BB_KERNEL_LOG; area <= BB_USER_LOG; area++) {
		assert_true(atomic_load(&box.head->dropped[area]) > 0);
		kept += count(&box, (enum bb_area)area) + atomic_load(&box.head->dropped[area]);
	}
	assert_int_equal(kept, LINES);
	/* The line that said so gave way long ago; what it said did not. */
	assert_int_equal(count(&box, BB_EVENTS), 1);
	c = bb_read(&box, BB_EVENTS);
	assert_true(bb_next(&c, &r));
	assert_int_equal(r.type, BB_KERNEL_EVENT);
	assert_non_null(memmem(r.data, r.len, "\"kind\":\"oom-kill\"", 17));
	assert_non_null(memmem(r.data, r.len, "\"seq\":50000", 11));
	assert_int_equal(atomic_load(&box.head->lost), 0);
	assert_int_equal(atomic_load(&box.head->kmsg_lost), 0);
	close(fds[0]);
	close(fds[1]);
	bb_unmap(&box);
}

/* --- Kernel threads, of a directory in place of /proc --- */

#define LOOK_MS 100
#define KTHREAD 69238880 /* PF_KTHREAD and others, of a 6.1 guest */
#define PROGRAM 4194560

struct proc {
	char *dir;
	struct bb box;
	struct recorder recorder;
	struct recorder_config config;
	unsigned witness; /* ticks of a thread that shows which look a sample is of */
};

static void put_task(const struct proc *p, int pid, const char *name, unsigned flags, unsigned ticks, unsigned start)
{
	char path[PATH_MAX], text[512];

	snprintf(path, sizeof(path), "%s/%d", p->dir, pid);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%d/stat", pid);
	snprintf(text, sizeof(text), "%d (%s) I 2 0 0 0 -1 %u 0 0 0 0 %u %u 0 0 20 0 1 0 %u 0 0 0\n", pid, name, flags,
		 ticks / 3, ticks - ticks / 3, start);
	t_write(p->dir, path, text);
}

static void put_witness(struct proc *p)
{
	put_task(p, 999999, "witness", KTHREAD, p->witness, 1);
}

static void end_task(const struct proc *p, int pid)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%d/stat", p->dir, pid);
	assert_int_equal(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/%d", p->dir, pid);
	assert_int_equal(rmdir(path), 0);
}

static void begin_proc(struct proc *p)
{
	*p = (struct proc){ .dir = t_dir(), .box = fresh_box(32 << 20) };
	p->config = (struct recorder_config){ .period_ms = PERIOD_MS,
					      .thread_ms = LOOK_MS,
					      .threads = { "kcryptd", "dmcrypt_write", "kswapd", "witness" } };
	/* What is no process. */
	t_write(p->dir, "meminfo", "");
	t_write(p->dir, "10x", "");
}

static void watch(struct proc *p)
{
	p->config.proc_fd = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(p->config.proc_fd > 0);
	put_witness(p);
	assert_int_equal(recorder_start(&p->recorder, &p->box, &p->config), 0);
}

static void end_proc(struct proc *p)
{
	assert_int_equal(recorder_stop(&p->recorder), 0);
	close(p->config.proc_fd);
	t_remove(p->dir);
	bb_unmap(&p->box);
}

/* Whether the newest sample with kernel threads has this. */
static bool newest_has(const struct proc *p, const char *text)
{
	struct bb_cursor c = bb_read(&p->box, BB_SAMPLES);
	struct bb_record r;
	bool has = false;

	while (bb_next(&c, &r))
		if (memmem(r.data, r.len, "\"threads\":", 10))
			has = memmem(r.data, r.len, text, strlen(text)) != NULL;
	return has;
}

static void wait_for_text(const struct proc *p, const char *text)
{
	int64_t deadline = clock_ns() + WAIT_MS * NS_PER_MS;

	while (!newest_has(p, text)) {
		if (clock_ns() > deadline)
			fail_msg("no %s after %d ms", text, WAIT_MS);
		clock_sleep_ms(PERIOD_MS);
	}
}

/* Until a look has begun after now and is over: the one that sees the first change of the witness may be under way. */
static void await_look(struct proc *p)
{
	char text[64];

	for (int i = 0; i < 2; i++) {
		p->witness++;
		put_witness(p);
		snprintf(text, sizeof(text), "\"witness\":{\"cpu_ms\":%u}", p->witness * 10);
		wait_for_text(p, text);
	}
}

/* Just these groups, and no others when it has looked again. */
static void becomes(struct proc *p, const char *groups)
{
	char text[256];

	snprintf(text, sizeof(text), "\"groups\":{%s\"witness\":", groups);
	wait_for_text(p, text);
	await_look(p);
	if (!newest_has(p, text))
		fail_msg("%s does not last", groups);
}

static void cpu_of_kernel_threads_is_added_up_by_name(void **state)
{
	struct proc p;

	(void)state;
	begin_proc(&p);
	put_task(&p, 2, "kthreadd", KTHREAD, 1000, 1);
	put_task(&p, 40, "kswapd0", KTHREAD, 100, 10);
	put_task(&p, 41, "kswapd1", KTHREAD, 200, 10);
	put_task(&p, 50, "kworker/u4:1-kcryptd/254:0", KTHREAD, 300, 20);
	put_task(&p, 51, "kworker/u4:2+kcryptd/254:0", KTHREAD, 400, 20);
	put_task(&p, 52, "kworker/0:1-events", KTHREAD, 500, 20);
	put_task(&p, 99, "kswapd0", PROGRAM, 600, 30); /* somebody calls himself so */
	t_write(p.dir, "99/comm", "kswapd0\n");
	watch(&p);
	/* What they used before is not ours. dmcrypt_write does not exist. */
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":0},\"kswapd\":{\"cpu_ms\":0},");
	put_task(&p, 2, "kthreadd", KTHREAD, 2000, 1);
	put_task(&p, 40, "kswapd0", KTHREAD, 101, 10);
	put_task(&p, 41, "kswapd1", KTHREAD, 250, 10);
	put_task(&p, 50, "kworker/u4:1-kcryptd/254:0", KTHREAD, 307, 20);
	put_task(&p, 51, "kworker/u4:2+kcryptd/254:0", KTHREAD, 410, 20);
	put_task(&p, 52, "kworker/0:1-events", KTHREAD, 900, 20);
	put_task(&p, 99, "kswapd0", PROGRAM, 700, 30);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":170},\"kswapd\":{\"cpu_ms\":510},");
	t_write(p.dir, "99/stat", "no task at all");
	t_write(p.dir, "40/stat", "");
	t_write(p.dir, "41/stat", "41 (kswapd1) I 2 0 0 0 -1 69238880 0 0 0 0 9999");
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":170},\"kswapd\":{\"cpu_ms\":510},");
	put_task(&p, 40, "kswapd0", KTHREAD, 102, 10);
	put_task(&p, 41, "kswapd1", KTHREAD, 251, 10);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":170},\"kswapd\":{\"cpu_ms\":530},");
	assert_int_equal(count(&p.box, BB_EVENTS), 0);
	end_proc(&p);
}

static void a_kworker_gives_its_growth_to_the_queue_that_it_serves(void **state)
{
	struct proc p;

	(void)state;
	begin_proc(&p);
	put_task(&p, 50, "kworker/u4:1-events_unbound", KTHREAD, 300, 20);
	watch(&p);
	becomes(&p, "");
	put_task(&p, 50, "kworker/u4:1+kcryptd/254:0", KTHREAD, 310, 20);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":100},");
	put_task(&p, 50, "kworker/u4:1-writeback", KTHREAD, 350, 20);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":100},");
	put_task(&p, 50, "kworker/u4:1-kcryptd/254:0", KTHREAD, 351, 20);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":110},");
	end_proc(&p);
}

static void threads_that_come_and_go_are_counted_once(void **state)
{
	struct proc p;

	(void)state;
	begin_proc(&p);
	put_task(&p, 50, "kworker/u4:1-kcryptd/254:0", KTHREAD, 300, 20);
	put_task(&p, 60, "bash", PROGRAM, 10, 30);
	watch(&p);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":0},");
	put_task(&p, 50, "kworker/u4:1-kcryptd/254:0", KTHREAD, 310, 20);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":100},");
	/* It ends; what was counted stays. */
	end_task(&p, 50);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":100},");
	/* A new one, of the same pid: all of its time is since the last look. */
	put_task(&p, 50, "kworker/u4:3-kcryptd/254:0", KTHREAD, 5, 31);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":150},");
	/* Ended and begun between two looks. */
	put_task(&p, 50, "kworker/u4:4-kcryptd/254:0", KTHREAD, 7, 32);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":220},");
	/* So is it where the file that was open tells that its task is gone. */
	t_write(p.dir, "50/stat", "ESRCH");
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":220},");
	put_task(&p, 50, "kworker/u4:4-kcryptd/254:0", KTHREAD, 1, 33);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":230},");
	/* A pid that was a program's becomes a kernel thread's. */
	put_task(&p, 60, "kworker/u4:5-kcryptd/254:0", KTHREAD, 9, 33);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":320},");
	/* And one from before the record that could not be read until now. */
	put_task(&p, 70, "kworker/u4:6-kcryptd/254:0", KTHREAD, 4000, 25);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":320},");
	put_task(&p, 70, "kworker/u4:6-kcryptd/254:0", KTHREAD, 4001, 25);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":330},");
	/* A read that fails for a while costs nothing. */
	t_write(p.dir, "70/stat", "ENOMEM");
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":330},");
	put_task(&p, 70, "kworker/u4:6-kcryptd/254:0", KTHREAD, 4003, 25);
	becomes(&p, "\"kcryptd\":{\"cpu_ms\":350},");
	end_proc(&p);
}

static void more_kernel_threads_than_it_can_follow_are_told(void **state)
{
	struct bb_cursor c;
	struct bb_record r;
	struct proc p;

	(void)state;
	begin_proc(&p);
	/* Programs are no load for the table. */
	for (int pid = 1; pid <= RECORDER_MAX_TASKS; pid++)
		put_task(&p, pid, "bash", PROGRAM, 10, 30);
	for (int i = 1; i < RECORDER_MAX_TASKS; i++)
		put_task(&p, 10000 + i, "kworker/0:1-events", KTHREAD, 10, 30);
	watch(&p);
	becomes(&p, "");
	assert_int_equal(count(&p.box, BB_EVENTS), 0);
	for (int i = 1; i <= 3; i++)
		put_task(&p, 30000 + i, "kworker/0:1-events", KTHREAD, 10, 31);
	await_look(&p);
	await_look(&p);
	assert_int_equal(recorder_stop(&p.recorder), 0);
	assert_int_equal(count(&p.box, BB_EVENTS), 1); /* once */
	c = bb_read(&p.box, BB_EVENTS);
	assert_true(bb_next(&c, &r));
	assert_non_null(memmem(r.data, r.len, "\"kind\":\"threads-left-out\"", 25));
	close(p.config.proc_fd);
	t_remove(p.dir);
	bb_unmap(&p.box);
}

static int set_up(void **state)
{
	(void)state;
	allocations = shared_memory(sizeof(*allocations));
#if WITH_ASAN
	return __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) ? 0 : -1;
#else
	return 0;
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(after_the_start_it_allocates_nothing_and_takes_no_fault),
		cmocka_unit_test(an_overrun_of_the_kernel_log_is_counted_from_the_gap),
		cmocka_unit_test(every_tick_is_a_sample_or_is_counted_as_missed),
		cmocka_unit_test(a_full_box_costs_the_oldest_samples_and_no_event),
		cmocka_unit_test(slabinfo_is_left_out_while_the_slab_stands_still),
		cmocka_unit_test(of_a_flood_every_line_is_kept_or_counted),
		cmocka_unit_test(cpu_of_kernel_threads_is_added_up_by_name),
		cmocka_unit_test(a_kworker_gives_its_growth_to_the_queue_that_it_serves),
		cmocka_unit_test(threads_that_come_and_go_are_counted_once),
		cmocka_unit_test(more_kernel_threads_than_it_can_follow_are_told),
	};

	return cmocka_run_group_tests_name("recorder", tests, set_up, NULL);
}
