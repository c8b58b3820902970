// SPDX-License-Identifier: MIT
#include "engine/protect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER /* <linux/prctl.h> since Linux 5.6 */
#define PR_SET_IO_FLUSHER 57
#endif

/* include/linux/sched.h; both together are PR_IO_FLUSHER of kernel/sys.c. */
#define PF_MEMALLOC_NOIO  0x00080000U
#define PF_LOCAL_THROTTLE 0x00100000U
#define IO_FLUSHER_FLAGS  (PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE)

#define NAME_SIZE 16   /* TASK_COMM_LEN */
#define STAT_SIZE 1024 /* 52 numbers of at most 20 digits are not reached: the flags are the 9th */
#define LINE_SIZE 512  /* of status and smaps; what is longer is a path, and its end is left out */

/* --- Asking --- */

static int ask_io_flusher(void)
{
	return prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) ? -errno : 0;
}

static int ask_mlock(void)
{
	return mlockall(MCL_CURRENT | MCL_FUTURE) ? -errno : 0;
}

static int ask_oom_score(void)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", PROTECT_OOM_SCORE_ADJ), err = 0;
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ssize_t written;

	if (fd < 0)
		return -errno;
	written = write(fd, text, (size_t)n);
	if (written < 0)
		err = -errno;
	else if (written != n)
		err = -EIO;
	close(fd);
	return err;
}

/* --- Reading --- */

/* Lines of a file in /proc, without the memory that stdio takes. */
struct lines {
	int fd;
	size_t at, end;
	char buf[4096];
};

/* The next line, without its end, cut off where it does not fit. 1, 0: there is none; or -errno. */
static int next_line(struct lines *l, char *line, size_t size)
{
	size_t len = 0;
	bool any = false;

	for (;;) {
		if (l->at == l->end) {
			ssize_t n = read(l->fd, l->buf, sizeof(l->buf));

			if (n < 0)
				return -errno;
			if (!n)
				break;
			l->at = 0;
			l->end = (size_t)n;
		}
		any = true;
		if (l->buf[l->at] == '\n') {
			l->at++;
			break;
		}
		if (len + 1 < size)
			line[len++] = l->buf[l->at];
		l->at++;
	}
	line[len] = '\0';
	return any;
}

/* Have fn called with each line until it returns something else than 0, which is returned. */
static int each_line(int dir, const char *name, int (*fn)(const char *line, void *arg), void *arg)
{
	struct lines l = { .fd = openat(dir, name, O_RDONLY | O_CLOEXEC) };
	char line[LINE_SIZE];
	int err = 0, more;

	if (l.fd < 0)
		return -errno;
	while (!err && (more = next_line(&l, line, sizeof(line))))
		err = more < 0 ? more : fn(line, arg);
	close(l.fd);
	return err;
}

/* --- Threads --- */

struct thread {
	char name[NAME_SIZE];
	uint32_t flags;
};

/* "TID (name) S ppid pgrp session tty tpgid flags ...": a name may have parentheses and spaces in it. */
static int read_thread(int tasks, const char *tid, struct thread *t)
{
	char path[32], text[STAT_SIZE];
	const char *open, *close_at;
	ssize_t n;
	int fd, err = 0;

	snprintf(path, sizeof(path), "%.16s/stat", tid);
	fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		err = -errno;
	close(fd);
	if (err)
		return err;
	text[n] = '\0';
	open = strchr(text, '(');
	close_at = strrchr(text, ')');
	if (!open || !close_at || close_at < open ||
	    sscanf(close_at + 1, " %*c %*d %*d %*d %*d %*d %u", &t->flags) != 1)
		return -EBADMSG;
	snprintf(t->name, sizeof(t->name), "%.*s", (int)(close_at - open - 1), open + 1);
	return 0;
}

/* io_uring/io-wq.c and sqpoll.c: their names. No code of ours runs in them: they have what they inherited. */
static bool is_of_io_uring(const struct thread *t)
{
	return !strncmp(t->name, "iou-wrk-", 8) || !strncmp(t->name, "iou-sqp-", 8);
}

static void count_thread(struct protect_report *r, const struct thread *t, struct thread *without)
{
	bool flusher = (t->flags & IO_FLUSHER_FLAGS) == IO_FLUSHER_FLAGS;

	if (!flusher && r->threads == r->flushers)
		*without = *t;
	r->threads++;
	r->flushers += flusher;
	r->io_threads += is_of_io_uring(t);
	r->io_flushers += is_of_io_uring(t) && flusher;
}

/* `without`: the first that has it not. */
static int read_threads(int proc, struct protect_report *r, struct thread *without)
{
	int tasks = openat(proc, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;
	DIR *dir = tasks < 0 ? NULL : fdopendir(tasks);
	struct dirent *e;
	struct thread t;

	if (!dir) {
		err = -errno;
		if (tasks >= 0)
			close(tasks);
		return err;
	}
	while (!err && (e = readdir(dir))) {
		if (e->d_name[0] == '.')
			continue;
		err = read_thread(tasks, e->d_name, &t);
		if (!err)
			count_thread(r, &t, without);
		else if (err == -ENOENT || err == -ESRCH)
			err = 0; /* it has ended */
	}
	closedir(dir);
	return err ? err : r->threads ? 0 : -ENOENT;
}

/* --- Saying --- */

static void say(struct protect_fact *f, enum protect_state seen, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static void say(struct protect_fact *f, enum protect_state seen, const char *format, ...)
{
	int n = 0;
	va_list ap;

	f->seen = seen;
	if (f->err)
		n = snprintf(f->evidence, sizeof(f->evidence), "not applied: %s; ", strerror(-f->err));
	va_start(ap, format);
	vsnprintf(f->evidence + n, sizeof(f->evidence) - (size_t)n, format, ap);
	va_end(ap);
}

static enum protect_state state_of(uint64_t have, uint64_t all)
{
	return have >= all ? PROTECT_ON : have ? PROTECT_PARTLY : PROTECT_OFF;
}

static int attest_io_flusher(int proc, struct protect_report *r)
{
	struct protect_fact *f = &r->of[PROTECT_IO_FLUSHER];
	struct thread without = { "", 0 };
	int err = read_threads(proc, r, &without);

	if (err)
		say(f, PROTECT_UNKNOWN, "task/*/stat: %s", strerror(-err));
	else if (r->flushers == r->threads)
		say(f, PROTECT_ON, "flags 0x%x in all of %u threads, %u of io_uring", IO_FLUSHER_FLAGS, r->threads,
		    r->io_threads);
	else
		say(f, state_of(r->flushers, r->threads),
		    "flags 0x%x in %u of %u threads, %u of %u of io_uring; %s has 0x%x", IO_FLUSHER_FLAGS, r->flushers,
		    r->threads, r->io_flushers, r->io_threads, without.name, without.flags);
	return err;
}

/* --- Memory --- */

struct mapping {
	uint64_t kib, lockable_kib, unlocked_kib;
	bool is_gate;
};

static bool has_flag(const char *flags, const char *flag)
{
	const char *at = strstr(flags, flag);

	/* All are of two letters, with a space before each. */
	return at && at[-1] == ' ';
}

/*
 * Of what mlockall() leaves out, mm/mlock.c: mlock_fixup() at the letters of fs/proc/task_mmu.c. What is no page of
 * the process's own (io, pf, mm, de: the rings of io_uring, the vdso) or of huge pages is never written out; what may
 * be dropped (dp) is not needed.
 */
static bool is_lockable(const char *flags)
{
	static const char *const left_out[] = { "io", "pf", "mm", "de", "ht", "dp" };

	for (size_t i = 0; i < sizeof(left_out) / sizeof(left_out[0]); i++)
		if (has_flag(flags, left_out[i]))
			return false;
	return true;
}

static int add_mapping(const char *line, void *arg)
{
	struct mapping *m = arg;
	uint64_t from, to;

	if (sscanf(line, "%lx-%lx %*4s", &from, &to) == 2) {
		if (to < from)
			return -EBADMSG;
		m->kib = (to - from) >> 10;
		/* The vsyscall page, which is the kernel's. */
		m->is_gate = from >> 63;
	} else if (!strncmp(line, "VmFlags:", 8) && !m->is_gate && is_lockable(line)) {
		m->lockable_kib += m->kib;
		m->unlocked_kib += has_flag(line, "lo") ? 0 : m->kib;
	}
	return 0;
}

static int find_locked(const char *line, void *arg)
{
	return sscanf(line, "VmLck: %lu kB", (uint64_t *)arg) == 1;
}

static int attest_mlock(int proc, struct protect_report *r)
{
	struct protect_fact *f = &r->of[PROTECT_MLOCK];
	struct mapping m = { 0 };
	int err = each_line(proc, "status", find_locked, &r->locked_kib);

	if (err == 1)
		err = each_line(proc, "smaps", add_mapping, &m);
	else if (!err)
		err = -EBADMSG;
	if (!err && !m.lockable_kib)
		err = -EBADMSG;
	r->lockable_kib = m.lockable_kib;
	if (err)
		say(f, PROTECT_UNKNOWN, "status, smaps: %s", strerror(-err));
	else
		say(f, m.unlocked_kib && r->locked_kib ? PROTECT_PARTLY : state_of(r->locked_kib, r->lockable_kib),
		    "VmLck %lu of %lu KiB, %lu KiB not locked", r->locked_kib, r->lockable_kib, m.unlocked_kib);
	return err;
}

/* --- The OOM killer --- */

static int find_number(const char *line, void *arg)
{
	return sscanf(line, "%d", (int *)arg) == 1 ? 1 : -EBADMSG;
}

static int attest_oom_score(int proc, struct protect_report *r)
{
	struct protect_fact *f = &r->of[PROTECT_OOM_SCORE];
	int err = each_line(proc, "oom_score_adj", find_number, &r->oom_score_adj);

	if (err == 1) {
		say(f, r->oom_score_adj == PROTECT_OOM_SCORE_ADJ ? PROTECT_ON : PROTECT_OFF, "oom_score_adj %d",
		    r->oom_score_adj);
		return 0;
	}
	err = err ? err : -EBADMSG;
	say(f, PROTECT_UNKNOWN, "oom_score_adj: %s", strerror(-err));
	return err;
}

/* --- All --- */

static const struct {
	const char *name;
	int (*ask)(void);
	int (*attest)(int proc, struct protect_report *r);
} kinds[PROTECT_KINDS] = {
	[PROTECT_IO_FLUSHER] = { "io-flusher", ask_io_flusher, attest_io_flusher },
	[PROTECT_MLOCK] = { "mlock", ask_mlock, attest_mlock },
	[PROTECT_OOM_SCORE] = { "oom-protect", ask_oom_score, attest_oom_score },
};

const char *protect_name(enum protect_kind kind)
{
	return kinds[kind].name;
}

bool protect_find(const char *name, enum protect_kind *kind)
{
	for (*kind = 0; *kind < PROTECT_KINDS; ++*kind)
		if (strcmp(name, kinds[*kind].name) == 0)
			return true;
	return false;
}

const char *protect_state_name(enum protect_state state)
{
	static const char *const names[] = {
		[PROTECT_UNKNOWN] = "unknown", [PROTECT_OFF] = "off", [PROTECT_PARTLY] = "partly", [PROTECT_ON] = "on"
	};

	return names[state];
}

int protect_apply(unsigned mask, struct protect_report *r)
{
	int first = 0;

	memset(r, 0, sizeof(*r));
	for (unsigned kind = 0; kind < PROTECT_KINDS; kind++) {
		struct protect_fact *f = &r->of[kind];

		if (!(mask & PROTECT_BIT(kind)))
			continue;
		f->asked = true;
		f->err = kinds[kind].ask();
		first = first ? first : f->err;
	}
	return first;
}

int protect_attest(const char *proc, struct protect_report *r)
{
	int dir = open(proc ? proc : "/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC), first = 0;

	if (dir < 0)
		return -errno;
	r->threads = r->flushers = r->io_threads = r->io_flushers = 0;
	for (unsigned kind = 0; kind < PROTECT_KINDS; kind++) {
		int err = kinds[kind].attest(dir, r);

		first = first ? first : err;
	}
	close(dir);
	return first;
}
