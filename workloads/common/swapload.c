// SPDX-License-Identifier: MIT
#include "swapload.h"

#include "base/clock.h"
#include "base/pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS	  50
#define TELL_MS	  100 /* a standstill that is not worth a word is shorter */
#define STOP_LOOK 64  /* pages between two looks at the clock */
#define AHEAD	  64  /* pages that are asked for at once */
#define MEBI	  ((uint64_t)1 << 20)

/* Between the allocators and the hook that watches them. Locked in memory: the hook must not wait for it. */
struct shared {
	_Atomic int64_t last_ns;    /* when the last page came, whoever got it */
	_Atomic int64_t longest_ns; /* between two pages */
	_Atomic uint64_t written, compared;
	_Atomic uint64_t writing; /* allocators that have not turned to reading back */
	_Atomic bool stop;	  /* the time for writing is over */
};

struct load {
	const struct cell *cell;
	const struct swapload_opts *opts;
	struct shared *shared;
	uint64_t pages; /* of one allocator */
	pid_t pids[SWAPLOAD_MAX_ALLOCATORS], stress;
	uint64_t n;
};

static const char allocator_name[] = "hr-allocator";

static void keep_longest(struct shared *s, int64_t ns)
{
	int64_t longest = atomic_load(&s->longest_ns);

	while (ns > longest && !atomic_compare_exchange_weak(&s->longest_ns, &longest, ns))
		;
}

/* Whoever was put to sleep between his look at the clock and here has nothing to say: others got pages since. */
static void got_page(struct shared *s)
{
	int64_t now = clock_ns(), last = atomic_load(&s->last_ns);

	while (now > last) {
		if (atomic_compare_exchange_weak(&s->last_ns, &last, now)) {
			keep_longest(s, now - last);
			break;
		}
	}
}

/* The data of a page is of its round, so that what an older round left cannot pass for it. */
static uint64_t key_of(const struct cell *c, uint64_t allocator, uint64_t round)
{
	return c->seed ^ pattern_mix(round << 32 | allocator);
}

/* What an allocator's memory holds: the pages below `next` data of `round`, the others of the one before, if any. */
struct filled {
	char *memory;
	uint64_t round, next;
};

static bool came_back(const struct load *l, uint64_t allocator, const struct filled *f, uint64_t i)
{
	uint64_t round = i < f->next ? f->round : f->round - 1;

	if (!pattern_matches(key_of(l->cell, allocator, round), i, f->memory + i * PATTERN_BLOCK)) {
		cell_corrupt(l->cell,
			     "allocator %" PRIu64 ", page %" PRIu64 " of %" PRIu64 ": not the data that round %" PRIu64
			     " wrote",
			     allocator, i, l->pages, round);
		return false;
	}
	atomic_fetch_add(&l->shared->compared, 1);
	return true;
}

/* At the deadline the hook ends us, and says so: an end of our own would look like a failure. */
static void await_deadline(const struct load *l, uint64_t i)
{
	while (i % STOP_LOOK == 0 && clock_ns() >= l->cell->deadline_ns)
		pause();
}

/* One round, or what of it the time allows; from the second round on each page is compared before it is written. */
static int write_round(const struct load *l, uint64_t allocator, struct filled *f)
{
	for (f->next = 0; f->next < l->pages && !atomic_load(&l->shared->stop); f->next++) {
		if (f->round > 0 && !came_back(l, allocator, f, f->next))
			return 1;
		pattern_fill(key_of(l->cell, allocator, f->round), f->next, f->memory + f->next * PATTERN_BLOCK);
		atomic_fetch_add(&l->shared->written, 1);
		got_page(l->shared);
		await_deadline(l, f->next);
	}
	return 0;
}

/*
 * Compare all pages, the newest first, and give each back: what is still in memory need not be swapped out for it. The
 * kernel is asked for the next piece meanwhile, or each page would wait for the one before to be decrypted.
 */
static int read_back(const struct load *l, uint64_t allocator, const struct filled *f)
{
	for (uint64_t i = f->round > 0 ? l->pages : f->next; i-- > 0;) {
		char *page = f->memory + i * PATTERN_BLOCK;

		if (i % AHEAD == 0 && i)
			madvise(page - AHEAD * PATTERN_BLOCK, AHEAD * PATTERN_BLOCK, MADV_WILLNEED);
		if (!came_back(l, allocator, f, i))
			return 1;
		madvise(page, PATTERN_BLOCK, MADV_DONTNEED);
		got_page(l->shared);
		await_deadline(l, i);
	}
	return 0;
}

static int allocate(const struct load *l, uint64_t allocator)
{
	const struct swapload_opts *o = l->opts;
	uint64_t bytes = l->pages * PATTERN_BLOCK;
	/* Not reserved: that the machine has less is the point. */
	struct filled f = {
		.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
	};
	int err = 0;

	if (f.memory == MAP_FAILED) {
		cell_fail(l->cell, "allocator: %" PRIu64 " MiB: %s", bytes / MEBI, strerror(errno));
		return 1;
	}
	if (madvise(f.memory, bytes, o->huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0 && o->huge_pages)
		cell_event("no-huge-pages", "%s", strerror(errno));
	for (;;) {
		err = write_round(l, allocator, &f);
		if (err || (o->time_s ? atomic_load(&l->shared->stop) : f.round + 1 == o->rounds))
			break;
		f.round++;
	}
	atomic_fetch_sub(&l->shared->writing, 1);
	return err ? err : read_back(l, allocator, &f);
}

static int start_allocators(struct load *l)
{
	const struct swapload_opts *o = l->opts;

	for (; l->n < o->allocators; l->n++) {
		pid_t pid = cell_child(l->cell, allocator_name);

		if (pid == 0)
			_exit(allocate(l, l->n));
		if (pid < 0) {
			cell_fail(l->cell, "fork: %s", strerror(-pid));
			return pid;
		}
		l->pids[l->n] = pid;
	}
	return 0;
}

static int start_stress(struct load *l, uint64_t bytes)
{
	const struct swapload_opts *o = l->opts;
	char vms[16], each[32], timeout[32];
	const char *argv[] = { "stress-ng",
			       "--vm",
			       vms,
			       "--vm-bytes",
			       each,
			       "--vm-method",
			       "rand-set",
			       "--vm-keep",
			       "--oomable",
			       "--verify",
			       "--timeout",
			       timeout,
			       "--vm-madvise",
			       o->huge_pages ? "hugepage" : "nohugepage",
			       "--temp-path",
			       l->cell->work_dir,
			       NULL };

	snprintf(vms, sizeof(vms), "%" PRIu64, o->stressors);
	snprintf(each, sizeof(each), "%" PRIu64 "k", bytes / o->stressors / 1024);
	snprintf(timeout, sizeof(timeout), "%" PRId64 "s",
		 (int64_t)((l->cell->deadline_ns - clock_ns()) / NS_PER_S + 1));
	l->stress = cell_tool_start(l->cell, "stress-ng", argv);
	if (l->stress < 0)
		cell_fail(l->cell, "stress-ng: %s", strerror(-l->stress));
	return l->stress < 0 ? l->stress : 0;
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static bool allocators_ended(const struct load *l)
{
	for (uint64_t i = 0; i < l->n; i++)
		if (!has_ended(l->pids[i]))
			return false;
	return true;
}

static void tell_standstill(const struct load *l, int64_t ns)
{
	cell_metric_fixed(l->cell, "standstill_max_ms", ns / 1000, 3);
}

/* Its words for memory that is not as it was written (stress-vm.c). It ends with status 2 then, and for more besides.
 */
static bool stress_found_bad_data(const struct cell *c)
{
	char path[PATH_MAX], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/stress-ng.err", c->work_dir);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, "fail") && strstr(line, "detected");
	if (f)
		fclose(f);
	return found;
}

/* stress-ng goes on until it is told to end. */
static int end_stress(struct load *l)
{
	bool told = !has_ended(l->stress);
	int rc;

	if (told)
		kill(l->stress, SIGTERM);
	rc = cell_wait(l->cell, "stress-ng", l->stress);
	l->stress = 0;
	if (rc > 0 && stress_found_bad_data(l->cell))
		cell_corrupt(l->cell, "stress-ng: memory is not as it was written, see stress-ng.err");
	if (rc < 0 || (rc && !told)) {
		cell_fail(l->cell, "stress-ng: %s",
			  rc < 0 ? strerror(-rc) : "ended before its time, see stress-ng.err");
		return rc < 0 ? rc : -ECANCELED;
	}
	return 0;
}

/*
 * Watch until the allocators are done. The longest standstill is told when it has doubled: the record has it even when
 * nobody lives to see its end, and the storm is no time for many words.
 */
static int watch(struct load *l, int (*look)(void *arg, bool all_written), void *arg)
{
	const struct swapload_opts *o = l->opts;
	int64_t told = TELL_MS * NS_PER_MS / 2, begin = clock_ns(), last;
	int err = 0;

	while (!err && !allocators_ended(l) && clock_ns() < l->cell->deadline_ns) {
		clock_sleep_ms(LOOK_MS);
		if (o->time_s && clock_ns() - begin >= (int64_t)(o->time_s * NS_PER_S))
			atomic_store(&l->shared->stop, true);
		if (l->stress > 0 && !atomic_load(&l->shared->writing))
			err = end_stress(l);
		last = atomic_load(&l->shared->last_ns);
		keep_longest(l->shared, clock_ns() - last);
		if (atomic_load(&l->shared->longest_ns) > 2 * told) {
			told = atomic_load(&l->shared->longest_ns);
			tell_standstill(l, told);
		}
		if (!err && look)
			err = look(arg, atomic_load(&l->shared->written) >= l->pages * l->n);
	}
	tell_standstill(l, atomic_load(&l->shared->longest_ns));
	return err;
}

static int end_load(struct load *l)
{
	int err = l->stress > 0 ? end_stress(l) : 0;

	for (uint64_t i = 0; i < l->n; i++) {
		int rc = cell_wait(l->cell, allocator_name, l->pids[i]);

		if (rc > 0 && !err)
			cell_fail(l->cell, "allocator %" PRIu64 " ended with status %d", i, rc);
		if (rc && !err)
			err = rc < 0 ? rc : -ECANCELED;
	}
	return err;
}

static void tell_rate(const struct cell *c, uint64_t pages, int64_t ns)
{
	double mib = (double)pages * PATTERN_BLOCK / MEBI, s = (double)ns / NS_PER_S;

	if (s > 0)
		cell_metric_fixed(c, "allocator_mib_s", (int64_t)(mib / s * 1000), 3);
}

int swapload_run(const struct cell *c, const struct swapload_opts *o, uint64_t swap_bytes,
		 int (*look)(void *arg, bool all_written), void *arg)
{
	struct load l = { .cell = c, .opts = o };
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * PATTERN_BLOCK;
	uint64_t bytes = memory * o->load_memory_pct / 100 + swap_bytes * o->load_swap_pct / 100;
	uint64_t stress_bytes = bytes * o->stress_pct / 100;
	struct shared *shared;
	int64_t begin;
	int err, ended;

	/* A small process that must see what happens to the large ones. Best effort: without it, it is late. */
	mlockall(MCL_CURRENT | MCL_FUTURE);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		err = -errno;
		cell_fail(c, "shared memory: %s", strerror(-err));
		return err;
	}
	l.shared = shared;
	l.pages = (bytes - stress_bytes) / PATTERN_BLOCK / o->allocators;
	cell_metric_u64(c, "load_mib", bytes / MEBI);

	begin = clock_ns();
	atomic_store(&l.shared->last_ns, begin);
	atomic_store(&l.shared->writing, o->allocators);
	err = start_allocators(&l);
	if (!err && stress_bytes)
		err = start_stress(&l, stress_bytes);
	if (!err)
		err = watch(&l, look, arg);
	if (err)
		for (uint64_t i = 0; i < l.n; i++)
			kill(l.pids[i], SIGTERM); /* a SIGKILL is for the record somebody else's */
	ended = end_load(&l);
	cell_metric_u64(c, "pages_compared", atomic_load(&l.shared->compared));
	if (!err && !ended)
		tell_rate(c, atomic_load(&l.shared->written), clock_ns() - begin);
	return err ? err : ended;
}
