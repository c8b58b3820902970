// SPDX-License-Identifier: MIT
/*
 * What a process in the write-back path asks for, and what /proc says it has: from a /proc of our own, and from the
 * real one in a child, because most of it cannot be undone.
 */
#include "engine/protect.h"

#include "base/clock.h"
#include "t.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* AddressSanitizer and ThreadSanitizer make nothing of mlockall(), and say that it went well. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MLOCK_WORKS false
#else
#define MLOCK_WORKS true
#endif

/* --- A /proc of our own --- */

/* As Linux 6.1 has it, with both flags, with one, and without. */
#define STAT_BOTH  "S 1 1 1 0 -1 5767424 166 0 0 0\n" /* 0x580100 */
#define STAT_NOIO  "S 1 1 1 0 -1 4718848 166 0 0 0\n" /* 0x480100 */
#define STAT_NONE  "S 1 1 1 0 -1 4194560 166 0 0 0\n" /* 0x400100 */
#define LOCKED_ALL "Name:\tx\nVmPeak:\t 2476 kB\nVmLck:\t     140 kB\nVmRSS:\t    2452 kB\n"
#define SMAPS                                                                                                          \
	"55870733f000-558707340000 r--p 00000000 fe:00 99   /tmp/p\nSize: 4 kB\nVmFlags: rd mr mw me lo \n"            \
	"55871dc54000-55871dc75000 rw-p 00000000 00:00 0    [heap]\nSize: 132 kB\nVmFlags: rd wr mr mw me lo ac \n"    \
	"7f3d7e96d000-7f3d7e96f000 r-xp 00000000 00:00 0    [vdso]\nSize: 8 kB\nVmFlags: rd ex mr mw me de \n"         \
	"7f3d7e970000-7f3d7e980000 rw-s 00000000 00:0f 0    anon_inode:[io_uring]\nVmFlags: rd wr sh pf io de dd \n"   \
	"7f3d7e990000-7f3d7e991000 rw-p 00000000 00:00 0 \nSize: 4 kB\nVmFlags: rd wr mr mw me lo ac sd \n"            \
	"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\nSize: 4 kB\nVmFlags: ex \n"

static void add_thread(const char *proc, int tid, const char *name, const char *rest)
{
	char dir[128], text[256];

	snprintf(dir, sizeof(dir), "%s/task/%d", proc, tid);
	assert_int_equal(mkdir(dir, 0755), 0);
	snprintf(text, sizeof(text), "%d (%s) %s", tid, name, rest);
	t_write(dir, "stat", text);
}

/* One with all that can be had. */
static const char *good_proc(void)
{
	char *dir = t_dir(), tasks[128];

	snprintf(tasks, sizeof(tasks), "%s/task", dir);
	assert_int_equal(mkdir(tasks, 0755), 0);
	add_thread(dir, 10, "headroom", STAT_BOTH);
	add_thread(dir, 11, "odd) R 1 (name", STAT_BOTH);
	add_thread(dir, 12, "iou-wrk-10", STAT_BOTH);
	t_write(dir, "status", LOCKED_ALL);
	t_write(dir, "smaps", SMAPS);
	t_write(dir, "oom_score_adj", "-1000\n");
	return dir;
}

static void attest(const char *proc, struct protect_report *r, int err)
{
	memset(r, 0, sizeof(*r));
	assert_int_equal(protect_attest(proc, r), err);
	t_remove(proc);
}

static void expect(const struct protect_report *r, enum protect_kind kind, enum protect_state state,
		   const char *evidence)
{
	if (r->of[kind].seen != state || strcmp(r->of[kind].evidence, evidence))
		fail_msg("%s: %s, %s", protect_name(kind), protect_state_name(r->of[kind].seen), r->of[kind].evidence);
}

static void all_that_there_is_is_seen(void **state)
{
	struct protect_report r;

	(void)state;
	attest(good_proc(), &r, 0);
	expect(&r, PROTECT_IO_FLUSHER, PROTECT_ON, "flags 0x180000 in all of 3 threads, 1 of io_uring");
	expect(&r, PROTECT_MLOCK, PROTECT_ON, "VmLck 140 of 140 KiB, 0 KiB not locked");
	expect(&r, PROTECT_OOM_SCORE, PROTECT_ON, "oom_score_adj -1000");
	assert_int_equal(r.io_flushers, 1);
}

static void one_flag_of_the_two_is_not_enough(void **state)
{
	const char *proc = good_proc();
	struct protect_report r;

	(void)state;
	add_thread(proc, 13, "late", STAT_NOIO);
	attest(proc, &r, 0);
	expect(&r, PROTECT_IO_FLUSHER, PROTECT_PARTLY,
	       "flags 0x180000 in 3 of 4 threads, 1 of 1 of io_uring; late has 0x480100");
}

static void a_thread_of_io_uring_without_the_flags_is_named(void **state)
{
	const char *proc = good_proc();
	struct protect_report r;

	(void)state;
	add_thread(proc, 13, "iou-sqp-10", STAT_NONE);
	attest(proc, &r, 0);
	expect(&r, PROTECT_IO_FLUSHER, PROTECT_PARTLY,
	       "flags 0x180000 in 3 of 4 threads, 1 of 2 of io_uring; iou-sqp-10 has 0x400100");
}

static void a_thread_that_has_ended_is_left_out(void **state)
{
	const char *proc = good_proc();
	char dir[128];
	struct protect_report r;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/task/13", proc);
	assert_int_equal(mkdir(dir, 0755), 0);
	attest(proc, &r, 0);
	assert_int_equal(r.threads, 3);
}

static void what_is_no_stat_is_unknown_and_the_rest_is_there(void **state)
{
	static const char *const hostile[] = { "", "S", "S 1 1 1 0 -1", "S 1 1 1 0 -1 x", ") S 1 (" };
	struct protect_report r;

	(void)state;
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		const char *proc = good_proc();

		add_thread(proc, 13, "x", hostile[i]);
		attest(proc, &r, -EBADMSG);
		expect(&r, PROTECT_IO_FLUSHER, PROTECT_UNKNOWN, "task/*/stat: Bad message");
		expect(&r, PROTECT_OOM_SCORE, PROTECT_ON, "oom_score_adj -1000");
	}
}

static const struct {
	const char *status, *smaps;
	enum protect_state seen;
	const char *evidence;
} memories[] = {
	{ "VmLck:\t 0 kB\n", "1000-3000 rw-p 0 0 0\nVmFlags: rd wr \n", PROTECT_OFF,
	  "VmLck 0 of 8 KiB, 8 KiB not locked" },
	{ "VmLck:\t 4 kB\n", "1000-2000 rw-p 0 0 0\nVmFlags: rd lo \n2000-3000 rw-p 0 0 0\nVmFlags: rd\n",
	  PROTECT_PARTLY, "VmLck 4 of 8 KiB, 4 KiB not locked" },
	/* The sum may be right while a mapping is not. */
	{ "VmLck:\t 8 kB\n", "1000-2000 rw-p 0 0 0\nVmFlags: rd lo \n2000-3000 rw-p 0 0 0\nVmFlags: rd wr\n",
	  PROTECT_PARTLY, "VmLck 8 of 8 KiB, 4 KiB not locked" },
	{ "VmLck:\t 4 kB\n", "1000-3000 rw-p 0 0 0\nVmFlags: rd lo \n", PROTECT_PARTLY,
	  "VmLck 4 of 8 KiB, 0 KiB not locked" },
	{ "", SMAPS, PROTECT_UNKNOWN, "status, smaps: Bad message" },
	{ "VmLck: many kB\n", SMAPS, PROTECT_UNKNOWN, "status, smaps: Bad message" },
	{ LOCKED_ALL, "", PROTECT_UNKNOWN, "status, smaps: Bad message" },
	{ LOCKED_ALL, "3000-1000 rw-p\nVmFlags: lo\n", PROTECT_UNKNOWN, "status, smaps: Bad message" },
};

static void memory_is_locked_all_or_in_part_or_not(void **state)
{
	struct protect_report r;

	(void)state;
	for (size_t i = 0; i < sizeof(memories) / sizeof(memories[0]); i++) {
		const char *proc = good_proc();

		t_write(proc, "status", memories[i].status);
		t_write(proc, "smaps", memories[i].smaps);
		attest(proc, &r, memories[i].seen == PROTECT_UNKNOWN ? -EBADMSG : 0);
		expect(&r, PROTECT_MLOCK, memories[i].seen, memories[i].evidence);
	}
}

/* In a path, somebody else's choice, there may be anything; what is beyond the room for a line is no line of its own.
 */
static void a_long_path_in_smaps_is_cut_off_not_read_as_more(void **state)
{
	const char *proc = good_proc();
	char smaps[8192] = "1000-2000 rw-p 0 0 0 /abc ";
	struct protect_report r;

	(void)state;
	for (int i = 0; i < 500; i++)
		strcat(smaps, "VmFlags: rd ");
	strcat(smaps, "\nVmFlags: rd wr lo \n");
	t_write(proc, "status", "VmLck:\t4 kB");
	t_write(proc, "smaps", smaps);
	attest(proc, &r, 0);
	expect(&r, PROTECT_MLOCK, PROTECT_ON, "VmLck 4 of 4 KiB, 0 KiB not locked");
}

static void another_score_is_off_and_none_is_unknown(void **state)
{
	const char *proc = good_proc();
	struct protect_report r;

	(void)state;
	t_write(proc, "oom_score_adj", "-500\n");
	attest(proc, &r, 0);
	expect(&r, PROTECT_OOM_SCORE, PROTECT_OFF, "oom_score_adj -500");
	proc = good_proc();
	t_write(proc, "oom_score_adj", "");
	attest(proc, &r, -EBADMSG);
	expect(&r, PROTECT_OOM_SCORE, PROTECT_UNKNOWN, "oom_score_adj: Bad message");
	assert_int_equal(protect_attest("/proc/self/nothing", &r), -ENOENT);
}

/* --- The real one, in a child --- */

#define SKIPPED	   77
#define DEADLINE_S 20

/* Failed checks say what they saw. */
#define CHECK(cond, ...)                                                                                               \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: not " #cond ": ", __FILE__, __LINE__);                                 \
			fprintf(stderr, __VA_ARGS__);                                                                  \
			fputc('\n', stderr);                                                                           \
			return 1;                                                                                      \
		}                                                                                                      \
	} while (0)

/* False: it could not be tried here. */
static bool in_child(int (*body)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(body());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == SKIPPED)
		return false;
	assert_int_equal(WEXITSTATUS(status), 0);
	return true;
}

static int ask_for_nothing(void)
{
	struct protect_report r;

	CHECK(!protect_apply(0, &r), "%d", r.of[0].err);
	CHECK(!protect_attest(NULL, &r), "%s", r.of[0].evidence);
	for (int kind = 0; kind < PROTECT_KINDS; kind++)
		CHECK(!r.of[kind].asked && r.of[kind].seen == PROTECT_OFF, "%s: %s", protect_name(kind),
		      r.of[kind].evidence);
	CHECK(r.threads >= 1 && r.lockable_kib > 0, "%u, %lu", r.threads, r.lockable_kib);
	return 0;
}

static void what_was_not_asked_for_is_off(void **state)
{
	(void)state;
	assert_true(in_child(ask_for_nothing));
}

static int ask_for_all(void)
{
	struct protect_report r;
	int err = protect_apply(PROTECT_ALL, &r), first = 0;

	CHECK(!protect_attest(NULL, &r), "%s", r.of[0].evidence);
	for (int kind = 0; kind < PROTECT_KINDS; kind++) {
		const struct protect_fact *f = &r.of[kind];
		bool on = !f->err && (kind != PROTECT_MLOCK || MLOCK_WORKS);

		first = first ? first : f->err;
		CHECK(f->asked && f->seen == (on ? PROTECT_ON : PROTECT_OFF), "%s: %s, %s", protect_name(kind),
		      protect_state_name(f->seen), f->evidence);
		CHECK(!f->err == !strstr(f->evidence, "not applied: "), "%s: %s", protect_name(kind), f->evidence);
	}
	CHECK(err == first, "%d", err);
	return 0;
}

static void what_was_asked_for_is_on_or_not_applied(void **state)
{
	(void)state;
	assert_true(in_child(ask_for_all));
}

static int ask_without_privilege(void)
{
	struct rlimit none = { 0, 0 };
	struct protect_report r;

	if (setrlimit(RLIMIT_MEMLOCK, &none) || (geteuid() == 0 && setuid(65534)))
		return SKIPPED;
	CHECK(protect_apply(PROTECT_ALL, &r) == -EPERM, "%d", r.of[0].err);
	CHECK(r.of[PROTECT_IO_FLUSHER].err == -EPERM, "%d", r.of[PROTECT_IO_FLUSHER].err);
	CHECK(r.of[PROTECT_MLOCK].err == (MLOCK_WORKS ? -EPERM : 0), "%d", r.of[PROTECT_MLOCK].err);
	CHECK(r.of[PROTECT_OOM_SCORE].err == -EACCES, "%d", r.of[PROTECT_OOM_SCORE].err);
	CHECK(!protect_attest(NULL, &r), "%s", r.of[0].evidence);
	for (int kind = 0; kind < PROTECT_KINDS; kind++) {
		const struct protect_fact *f = &r.of[kind];

		CHECK(f->asked && f->seen == PROTECT_OFF, "%s: %s", protect_name(kind), f->evidence);
		CHECK(!f->err || !strncmp(f->evidence, "not applied: ", 13), "%s: %s", protect_name(kind), f->evidence);
	}
	return 0;
}

static void what_is_refused_is_said_to_be(void **state)
{
	(void)state;
	if (!in_child(ask_without_privilege))
		skip();
}

static int lock_a_page(void)
{
	static char page[8192];
	struct protect_report r = { 0 };

	if (!MLOCK_WORKS || mlock(page, 4096))
		return SKIPPED;
	CHECK(!protect_attest(NULL, &r), "%s", r.of[PROTECT_MLOCK].evidence);
	CHECK(r.of[PROTECT_MLOCK].seen == PROTECT_PARTLY, "%s", r.of[PROTECT_MLOCK].evidence);
	return 0;
}

static void a_page_that_is_locked_is_not_all(void **state)
{
	(void)state;
	if (!in_child(lock_a_page))
		skip();
}

/* --- Threads, and those of io_uring --- */

struct other {
	sem_t started, finish;
	pthread_t thread;
};

static void *stay(void *arg)
{
	struct other *o = arg;

	sem_post(&o->started);
	sem_wait(&o->finish);
	return NULL;
}

static void start_other(struct other *o)
{
	sem_init(&o->started, 0, 0);
	sem_init(&o->finish, 0, 0);
	pthread_create(&o->thread, NULL, stay, o);
	sem_wait(&o->started);
}

static void stop_other(struct other *o)
{
	sem_post(&o->finish);
	pthread_join(o->thread, NULL);
}

static int count_threads(void)
{
	struct protect_report r = { 0 };
	struct other other;
	unsigned before;

	CHECK(!protect_attest(NULL, &r), "%s", r.of[0].evidence);
	before = r.threads;
	start_other(&other);
	CHECK(!protect_attest(NULL, &r), "%s", r.of[0].evidence);
	/* A sanitizer may have started one of its own. */
	CHECK(r.threads > before, "%u, %u", before, r.threads);
	stop_other(&other);
	return 0;
}

static int one_that_was_there_before(void)
{
	struct protect_report r;
	struct other before, after;

	start_other(&before);
	if (protect_apply(PROTECT_BIT(PROTECT_IO_FLUSHER), &r))
		return SKIPPED;
	start_other(&after);
	CHECK(!protect_attest(NULL, &r), "%s", r.of[0].evidence);
	CHECK(r.of[PROTECT_IO_FLUSHER].seen == PROTECT_PARTLY && r.flushers == 2, "%s",
	      r.of[PROTECT_IO_FLUSHER].evidence);
	stop_other(&before);
	stop_other(&after);
	return 0;
}

static void every_thread_is_looked_at(void **state)
{
	(void)state;
	assert_true(in_child(count_threads));
}

static void a_thread_that_was_there_before_goes_without(void **state)
{
	(void)state;
	if (!in_child(one_that_was_there_before))
		skip();
}

/* A read of an empty pipe that is told to be asynchronous keeps a worker of io_uring's. */
static int keep_a_worker(struct io_uring *ring, int pipe_fd[2], struct protect_report *r)
{
	static char byte;
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;
	struct io_uring_sqe *sqe;

	if (pipe(pipe_fd) || io_uring_queue_init(4, ring, 0))
		return SKIPPED;
	sqe = io_uring_get_sqe(ring);
	io_uring_prep_read(sqe, pipe_fd[0], &byte, 1, 0);
	sqe->flags |= IOSQE_ASYNC;
	CHECK(io_uring_submit(ring) == 1, "%d", errno);
	do {
		CHECK(!protect_attest(NULL, r), "%s", r->of[0].evidence);
		CHECK(clock_ns() < until, "%u threads", r->threads);
	} while (!r->io_threads);
	return 0;
}

static int ask_with_a_worker(unsigned mask)
{
	struct protect_report r;
	struct io_uring ring;
	int pipe_fd[2], err;

	if (protect_apply(mask, &r))
		return SKIPPED;
	err = keep_a_worker(&ring, pipe_fd, &r);
	if (err)
		return err;
	CHECK(r.io_flushers == (mask ? r.io_threads : 0), "%s", r.of[PROTECT_IO_FLUSHER].evidence);
	CHECK(write(pipe_fd[1], "x", 1) == 1, "%d", errno);
	io_uring_queue_exit(&ring);
	return 0;
}

static int worker_without(void)
{
	return ask_with_a_worker(0);
}

static int worker_with(void)
{
	return ask_with_a_worker(PROTECT_BIT(PROTECT_IO_FLUSHER));
}

static void threads_of_io_uring_are_looked_at(void **state)
{
	(void)state;
	if (!in_child(worker_without))
		skip();
}

static void threads_of_io_uring_inherit_the_flags(void **state)
{
	(void)state;
	if (!in_child(worker_with))
		skip();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_that_there_is_is_seen),
		cmocka_unit_test(one_flag_of_the_two_is_not_enough),
		cmocka_unit_test(a_thread_of_io_uring_without_the_flags_is_named),
		cmocka_unit_test(a_thread_that_has_ended_is_left_out),
		cmocka_unit_test(what_is_no_stat_is_unknown_and_the_rest_is_there),
		cmocka_unit_test(memory_is_locked_all_or_in_part_or_not),
		cmocka_unit_test(a_long_path_in_smaps_is_cut_off_not_read_as_more),
		cmocka_unit_test(another_score_is_off_and_none_is_unknown),
		cmocka_unit_test(what_was_not_asked_for_is_off),
		cmocka_unit_test(what_was_asked_for_is_on_or_not_applied),
		cmocka_unit_test(what_is_refused_is_said_to_be),
		cmocka_unit_test(a_page_that_is_locked_is_not_all),
		cmocka_unit_test(every_thread_is_looked_at),
		cmocka_unit_test(a_thread_that_was_there_before_goes_without),
		cmocka_unit_test(threads_of_io_uring_are_looked_at),
		cmocka_unit_test(threads_of_io_uring_inherit_the_flags),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
