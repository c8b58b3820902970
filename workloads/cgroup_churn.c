// SPDX-License-Identifier: MIT
/*
 * cgroup-churn: groups come and go, and what they leave in the slab decides how much memory the kernel wastes.
 *
 * Each worker makes a group, lets tasks in it have kernel memory charged to it, keeps so many groups alive at a time
 * and removes the oldest. What is pinned beyond a group's life keeps it dying: removed, and not freed (seed 002).
 *
 * Is anything left when all groups are gone? verify() gives the kernel its time, then has it drop what it only keeps
 * because nobody needed the room, and compares with the levels of before the first group, which were taken so as well.
 */
#include "base/clock.h"
#include "base/latency.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/kmem.h"
#include "cgroups/scope.h"
#include "run/facts.h"
#include "run/workload.h"
#include "workloads/kmem_mitigations.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHURN_GROUP    CGROUP_PARENT "/churn"
#define MAX_WORKERS    64
#define MAX_TASKS      1000 /* as many threads as the kernel's own test has in a group (test_kmem.c) */
#define MAX_LIVE       4096
#define RMDIR_MS       5000   /* a group is busy until its last task is reaped; more is a finding */
#define SETTLE_MS      100    /* between looks, and for work items to free groups */
#define START_MS       500    /* for what RCU frees, and for what is in use to come back */
#define RETURN_MS      10000  /* after the drop: what is freed by RCU and by work items */
#define MARGIN_MS      1000   /* before the hook's deadline, to say what was found */
#define MAX_RESIDENTS  100000 /* tasks that stay, of one worker */
#define RECLAIM_MS     250    /* four times a second, as the option says */
#define RECLAIM_MAX_MS 8000   /* a pass over 1000 dying groups took about one under emulation */
#define RECLAIM_NAME   "hr-reclaim"
#define MANY_LIVE      100	 /* below that many, what a group takes is lost in what else the machine does */
#define MAX_FDS	       (1 << 20) /* as many as the kernel allows by default (fs.nr_open) */
#define PAGE	       4096

struct churn_opts {
	uint64_t groups, time_s, rate, workers, live, depth, tasks, populated_pct, pin_pct, settle_s, leak_kib;
	struct kmem_load load;
	bool stay, leaks;
	unsigned method, population, entry, controllers, pin, reclaim;
};

enum method { METHOD_RAW, METHOD_LIBCGROUP };
enum population { POPULATION_PROCESSES, POPULATION_THREADS };
enum entry { ENTRY_ATTACH, ENTRY_CLONE };
enum pin { PIN_FILE, PIN_DENTRY, PIN_CACHE };
enum reclaim { RECLAIM_NONE, RECLAIM_GROUP, RECLAIM_DROP };

static const char *const method_choices[] = { "raw", "libcgroup", NULL };
static const char *const population_choices[] = { "processes", "threads", NULL };
static const char *const controller_choices[] = { "none", "memory", "all", NULL };
static const char *const entry_choices[] = { "attach", "clone", NULL };
static const char *const pin_choices[] = { "file", "dentry", "cache", NULL };
static const char *const reclaim_choices[] = { "none", "memory.reclaim", "drop", NULL };
static const char *const controllers_on[][5] = { { NULL }, { "memory" }, { "memory", "pids", "cpu", "io" } };

#define FIELD(name) offsetof(struct churn_opts, name)
static const struct opt churn_options[] = {
	{ "groups", OPT_U64, FIELD(groups), "1000", 1, 100000000, NULL, NULL,
	  "groups made and removed, by all workers" },
	{ "time_s", OPT_U64, FIELD(time_s), "0", 0, 86400, NULL, "s",
	  "no new group after so long; 0: until all were made" },
	{ "rate", OPT_U64, FIELD(rate), "0", 0, 1000000, NULL, "groups/s", "of all workers; 0: as fast as it goes" },
	{ "workers", OPT_U64, FIELD(workers), "1", 1, MAX_WORKERS, NULL, NULL,
	  "processes that do it at the same time" },
	{ "live", OPT_U64, FIELD(live), "1", 1, MAX_LIVE, NULL, NULL, "groups that each worker keeps alive at a time" },
	{ "depth", OPT_U64, FIELD(depth), "1", 1, 16, NULL, NULL,
	  "a group is so many, one in another; tasks go into the innermost" },
	{ "controllers", OPT_ENUM, FIELD(controllers), "memory", 0, 0, controller_choices, NULL, "of the groups" },
	{ "method", OPT_ENUM, FIELD(method), "raw", 0, 0, method_choices, NULL,
	  "how groups are made and removed: mkdir(2) and rmdir(2), or libcgroup" },
	{ "tasks", OPT_U64, FIELD(tasks), "0", 0, MAX_TASKS, NULL, NULL, "in each group" },
	{ "populated_pct", OPT_U64, FIELD(populated_pct), "100", 1, 100, NULL, "%",
	  "groups that get tasks; the others stay empty" },
	{ "stay", OPT_BOOL, FIELD(stay), "no", 0, 0, NULL, NULL,
	  "the tasks stay until their group is removed; else they end when they have loaded" },
	{ "population", OPT_ENUM, FIELD(population), "processes", 0, 0, population_choices, NULL,
	  "what the tasks are; threads are those of one process" },
	{ "entry", OPT_ENUM, FIELD(entry), "attach", 0, 0, entry_choices, NULL,
	  "how a task gets into its group: by cgroup.procs, where it waits for an RCU grace period, or by clone3(2), "
	  "which is there since Linux 5.7" },
	{ "dentries", OPT_U64, FIELD(load.dentries), "0", 0, 10000000, NULL, NULL,
	  "looked up by each task and not there: negative dentries" },
	{ "inodes", OPT_U64, FIELD(load.inodes), "0", 0, 10000, NULL, NULL, "that each task holds: anonymous files" },
	{ "pipes", OPT_U64, FIELD(load.pipes), "0", 0, 10000, NULL, NULL, "that each task holds" },
	{ "sockets", OPT_U64, FIELD(load.sockets), "0", 0, 10000, NULL, NULL, "that each task holds" },
	{ "epolls", OPT_U64, FIELD(load.epolls), "0", 0, 10000, NULL, NULL, "that each task holds" },
	{ "percpu", OPT_U64, FIELD(load.percpu), "0", 0, 10000, NULL, NULL,
	  "BPF maps that each task holds, of 1 KiB on each CPU; charged since Linux 5.11" },
	{ "stacks", OPT_U64, FIELD(load.stacks), "0", 0, MAX_TASKS, NULL, NULL,
	  "threads that each task holds, for their kernel stacks" },
	{ "migrate", OPT_BOOL, FIELD(load.migrate), "no", 0, 0, NULL, NULL,
	  "a task moves to the next processor with each allocation, so that it leaves slabs on all of them" },
	{ "pin_pct", OPT_U64, FIELD(pin_pct), "0", 0, 100, NULL, "%",
	  "populated groups that have something pinned beyond their life, until the churn ends" },
	{ "pin", OPT_ENUM, FIELD(pin), "file", 0, 0, pin_choices, NULL,
	  "what that is: a page in an anonymous file that somebody else holds, a dentry with its inode that somebody "
	  "else has opened, or a page of a disk in the page cache, which reclaim can take" },
	{ "reclaim", OPT_ENUM, FIELD(reclaim), "none", 0, 0, reclaim_choices, NULL,
	  "what is done about dying groups, four times a second, less often where it is in vain: memory.reclaim of "
	  "their parent, or drop_caches" },
	{ "settle_s", OPT_U64, FIELD(settle_s), "30", 1, 3600, NULL, "s",
	  "time that removed groups have to be freed when all pins are gone" },
	{ "leaks", OPT_BOOL, FIELD(leaks), "no", 0, 0, NULL, NULL,
	  "look for what is left over: before the first group and at the end the kernel drops what it only keeps, and "
	  "the levels are compared" },
	{ "leak_kib", OPT_U64, FIELD(leak_kib), "4096", 0, 1 << 30, NULL, "KiB",
	  "above a level of before the first group that is not yet called left over" },
	{ 0 },
};

#define RECLAIM_KNOB "cgroup_churn.reclaim"

static const struct mitigation churn_mitigations[] = {
	KMEM_MITIGATIONS,
	{
		.name = "cpu-partial",
		.summary = "processors keep no partly used slabs of dentries for themselves",
		.seed = "002",
		.knobs = { { "slab.dentry.cpu_partial", "/sys/kernel/slab/dentry/cpu_partial" } },
		.off = "x1",
		.on = "0",
		.value_help = "objects, or xN of what the kernel chose; 0: none",
		.since = "CONFIG_SLUB_CPU_PARTIAL",
	},
	{
		.name = "dying-reclaim",
		.summary = "what keeps dying groups is reclaimed, before memory runs short",
		.seed = "002",
		.knobs = { { RECLAIM_KNOB, NULL } },
		.option = "reclaim",
		.off = "none",
		.on = "memory.reclaim",
		.value_help = "none, memory.reclaim or drop",
		.since = "Linux 5.19",
	},
	{ 0 },
};

static const struct metric churn_metrics[] = {
	{ "groups_made", "", NEITHER, "groups made" },
	{ "groups_made_s", "groups/s", MORE, "rate of making groups" },
	{ "groups_removed_s", "groups/s", MORE, "rate of making and removing groups, all in all" },
	{ "mkdir_p50_us", "us", LESS, "making a group, median" },
	{ "mkdir_p99_us", "us", LESS, "making a group, 99th percentile" },
	{ "mkdir_max_us", "us", LESS, "making a group, longest" },
	{ "rmdir_p50_us", "us", LESS, "removing a group, median" },
	{ "rmdir_p99_us", "us", LESS, "removing a group, 99th percentile" },
	{ "rmdir_max_us", "us", LESS, "removing a group, longest" },
	{ "attach_p50_us", "us", LESS, "moving a task into a group, median" },
	{ "attach_p99_us", "us", LESS, "moving a task into a group, 99th percentile" },
	{ "attach_max_us", "us", LESS, "moving a task into a group, longest" },
	{ "slab_per_group_kib", "KiB", LESS, "slab of the machine for each living group" },
	{ "charged_per_group_kib", "KiB", NEITHER, "memory charged to each living group" },
	{ "reclaims", "", NEITHER, "times that dying groups were reclaimed" },
	{ "dying_left", "", LESS, "removed groups that were not freed in time" },
	{ "settle_s", "s", LESS, "until all removed groups were freed, at most" },
	{ "returned_s", "s", LESS, "until all was as before the first group, the caches having been dropped" },
	{ "dying_leaked", "", LESS, "removed groups that were not freed even when the caches were dropped" },
	{ "slab_left_kib", "KiB", LESS, "slab of the machine above the level of before the first group" },
	{ "percpu_left_kib", "KiB", LESS, "per-CPU memory above the level of before the first group" },
	{ "stack_left_kib", "KiB", LESS, "kernel stacks above the level of before the first group" },
	{ "memory_left_kib", "KiB", LESS, "still charged to the groups' parent when they are gone, caches and all" },
	{ 0 },
};

static int check(const void *opts, char *err, size_t err_size)
{
	const struct churn_opts *o = opts;
	const struct kmem_load *l = &o->load;
	uint64_t loads = l->dentries + l->inodes + l->pipes + l->sockets + l->epolls + l->percpu + l->stacks;

	if (!o->tasks && (loads || o->pin_pct))
		snprintf(err, err_size, "tasks = '0': what is charged or pinned needs a task in the group");
	else if (o->stay && o->live * o->tasks > MAX_RESIDENTS)
		snprintf(err, err_size, "stay = 'yes': live * tasks is more than %d", MAX_RESIDENTS);
	else if (o->method == METHOD_LIBCGROUP && !o->controllers)
		snprintf(err, err_size,
			 "controllers = 'none': libcgroup makes groups with at least the memory controller");
	else if (o->pin_pct && !o->controllers)
		snprintf(err, err_size, "controllers = 'none': nothing is charged that could be pinned");
	else
		return 0;
	return -EINVAL;
}

/* --- Groups --- */

/* What the kernel has on all of the machine, in KiB. */
static const struct level {
	const char *key, *metric;
} levels[] = { { "Slab", "slab_left_kib" }, { "Percpu", "percpu_left_kib" }, { "KernelStack", "stack_left_kib" } };

#define N_LEVELS (sizeof(levels) / sizeof(levels[0]))

struct shared {
	struct latency mkdir, rmdir, attach;
	_Atomic uint64_t begun, made, removed, pins, reclaims;
	_Atomic uint64_t alive, full;			  /* groups; workers that once had as many as they may */
	_Atomic uint64_t many, many_slab_kib, many_bytes; /* groups that lived when all had, and what they took */
	_Atomic int64_t last_made_ns, ended_ns;
	_Atomic int error;
	_Atomic uint64_t start_kib[N_LEVELS]; /* before the first group, when the recorder has long begun */
};

/* Of all processes of the workload: setup() makes it. */
static struct shared *shared;

static int level_kib(size_t i, uint64_t *kib)
{
	return sysfile_read_key("/proc/meminfo", levels[i].key, kib);
}

struct churn {
	const struct cell *cell;
	const struct churn_opts *opts;
	uint64_t worker;
	uint64_t populated; /* groups of this worker so far that got tasks */
	pid_t *residents;   /* those that stay: `processes` for each of `live` groups; 0: none */
	int64_t begin_ns;
	int disk; /* the scratch disk, when pages of it are the pins; else -1 */
};

static int make_one(const struct churn *c, const char *name)
{
	int64_t begin = clock_ns();
	int err = c->opts->method == METHOD_LIBCGROUP ? scope_create(name) : scope_mkdir(name);

	if (!err)
		latency_add(&shared->mkdir, (uint64_t)(clock_ns() - begin));
	return err;
}

static int remove_one(const struct churn *c, const char *name)
{
	int64_t begin = clock_ns(), deadline = begin + RMDIR_MS * NS_PER_MS;
	int err;

	while ((err = c->opts->method == METHOD_LIBCGROUP ? scope_remove(name) : scope_rmdir(name)) == -EBUSY &&
	       clock_ns() < deadline)
		sched_yield();
	if (!err)
		latency_add(&shared->rmdir, (uint64_t)(clock_ns() - begin));
	return err;
}

/* Group number n of this worker, `depth` of them one in the other. */
static void name_group(const struct churn *c, uint64_t n, uint64_t depth, char *buf, size_t size)
{
	size_t len = (size_t)snprintf(buf, size, CHURN_GROUP "/w%" PRIu64 "-%" PRIu64, c->worker, n);

	for (uint64_t i = 1; i < depth && len < size; i++)
		len += (size_t)snprintf(buf + len, size - len, "/%" PRIu64, i);
}

static int make_group(const struct churn *c, uint64_t n)
{
	const char *const *on = controllers_on[c->opts->controllers];
	char name[PATH_MAX];
	int err = 0;

	for (uint64_t depth = 1; !err && depth <= c->opts->depth; depth++) {
		name_group(c, n, depth, name, sizeof(name));
		err = make_one(c, name);
		if (!err && *on && depth < c->opts->depth)
			err = scope_delegate(name, on);
	}
	if (err)
		cell_fail(c->cell, "make group %s: %s", name, strerror(-err));
	return err;
}

static int remove_group(const struct churn *c, uint64_t n)
{
	char name[PATH_MAX];
	int err = 0;

	for (uint64_t depth = c->opts->depth; !err && depth > 0; depth--) {
		name_group(c, n, depth, name, sizeof(name));
		err = remove_one(c, name);
	}
	if (err)
		cell_fail(c->cell, "remove group %s: %s", name, strerror(-err));
	else
		atomic_fetch_add(&shared->removed, 1);
	atomic_fetch_sub(&shared->alive, 1);
	return err;
}

/* --- What is charged --- */

static void *load_of_thread(void *arg)
{
	const struct churn *c = arg;

	return (void *)(intptr_t)kmem_load(&c->opts->load);
}

static int load_in_threads(const struct churn *c)
{
	pthread_t threads[MAX_TASKS];
	pthread_attr_t attr;
	uint64_t n = 0;
	int err = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, KMEM_THREAD_STACK);
	for (; !err && n < c->opts->tasks; n += err == 0)
		err = -pthread_create(&threads[n], &attr, load_of_thread, (void *)c);
	for (uint64_t i = 0; i < n; i++) {
		void *ended;

		pthread_join(threads[i], &ended);
		if (ended && !err)
			err = (int)(intptr_t)ended;
	}
	return err;
}

/* --- What outlives the group --- */

static uint64_t pins_of(const struct churn_opts *o, uint64_t groups)
{
	return groups * o->pin_pct / 100;
}

static void pin_path(const struct churn *c, uint64_t n, char *buf, size_t size)
{
	snprintf(buf, size, "%s/pin-%" PRIu64 "-%" PRIu64, c->cell->work_dir, c->worker, n);
}

/* By a task in the group, so that the group is charged for it. */
static int pin_in_group(const struct churn *c, uint64_t n, int file)
{
	static char page[PAGE];
	char path[PATH_MAX];
	uint64_t nth;
	int fd;

	switch ((enum pin)c->opts->pin) {
	case PIN_FILE:
		return write(file, "x", 1) == 1 ? 0 : -errno;
	case PIN_DENTRY:
		pin_path(c, n, path, sizeof(path));
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		return fd < 0 ? -errno : 0;
	case PIN_CACHE:
		nth = atomic_fetch_add(&shared->pins, 1);
		return pread(c->disk, page, PAGE, (off_t)(c->cell->scratch_start * 512 + nth * PAGE)) == PAGE ? 0
													      : -EIO;
	}
	return -EINVAL;
}

/* By the worker, before: a file for the task to write into, where it is one of the pins; else -1. */
static int pin_prepare(const struct churn *c)
{
	int fd = c->opts->pin == PIN_FILE ? memfd_create("churn-pin", MFD_CLOEXEC) : -1;

	return fd < 0 && c->opts->pin == PIN_FILE ? -errno : fd;
}

/* By the worker, when the task has ended: open what it made, where that is the pin. */
static int pin_hold(const struct churn *c, uint64_t n)
{
	static int last; /* neither it nor those before are closed until the worker ends */
	char path[PATH_MAX];

	if (c->opts->pin != PIN_DENTRY)
		return 0;
	pin_path(c, n, path, sizeof(path));
	last = open(path, O_RDONLY | O_CLOEXEC);
	return last < 0 || unlink(path) < 0 ? -errno : 0;
}

/* --- Tasks --- */

/* The first thing it does: into the group, by itself. */
static int enter(const struct churn *c, const char *group)
{
	int64_t begin = clock_ns();
	int err = c->opts->method == METHOD_LIBCGROUP ? scope_attach(group, getpid())
						      : scope_set(group, "cgroup.procs", "0");

	if (!err)
		latency_add(&shared->attach, (uint64_t)(clock_ns() - begin));
	return err;
}

/* 0 or -errno. */
static int task(const struct churn *c, const char *group, bool pins, uint64_t n, int pin_file)
{
	int err = c->opts->entry == ENTRY_ATTACH ? enter(c, group) : 0;

	if (!err && pins)
		err = pin_in_group(c, n, pin_file);
	if (err)
		return err;
	return c->opts->population == POPULATION_THREADS ? load_in_threads(c) : kmem_load(&c->opts->load);
}

/* At the deadline the hook ends us, and says so: less than was asked for is not done. */
static void wait_for_the_end(void)
{
	for (;;)
		pause();
}

static uint64_t processes_of(const struct churn_opts *o)
{
	return o->population == POPULATION_THREADS && o->tasks ? 1 : o->tasks;
}

/* What became of a task, as cell_wait() has it. */
static int await_task(const struct churn *c, pid_t pid)
{
	int status;

	if (!spawn_wait_until(pid, c->cell->deadline_ns, &status))
		wait_for_the_end();
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Tasks that stay say when they have loaded, or with which error they did not. */
static int await_loaded(const struct churn *c, int fd, uint64_t n)
{
	int rc = 0;

	for (uint64_t i = 0; !rc && i < n; i++) {
		struct pollfd said = { .fd = fd, .events = POLLIN };
		int64_t left_ms = (c->cell->deadline_ns - clock_ns()) / NS_PER_MS;

		if (poll(&said, 1, left_ms > 0 ? (int)left_ms : 0) != 1)
			wait_for_the_end();
		if (read(fd, &rc, sizeof(rc)) != sizeof(rc))
			rc = ECHILD; /* the last of them ended without a word */
	}
	return rc;
}

static void stay(int fd, int rc)
{
	if (write(fd, &rc, sizeof(rc)) == sizeof(rc) && !rc)
		wait_for_the_end();
}

/* Begin the tasks of a group; those that were begun are in pids, also after an error. 0 or -errno. */
static int begin_tasks(const struct churn *c, const char *group, bool pins, uint64_t n, const int loaded[2],
		       pid_t *pids)
{
	int pin_file = pins ? pin_prepare(c) : -1,
	    err = pins && c->opts->pin == PIN_FILE && pin_file < 0 ? pin_file : 0;
	pid_t parent = getpid();

	for (uint64_t i = 0; !err && i < processes_of(c->opts); i++) {
		pid_t pid = c->opts->entry == ENTRY_CLONE ? scope_fork(group) : fork();

		if (pid == 0) {
			int rc;

			spawn_die_with(parent);
			close(loaded[0]);
			rc = -task(c, group, pins && i == 0, n, pin_file);
			if (c->opts->stay)
				stay(loaded[1], rc);
			_exit(rc);
		}
		if (pid < 0)
			err = -errno;
		else
			pids[i] = pid;
	}
	return err;
}

/* Until they have ended, or have loaded and stay. */
static int await_tasks(const struct churn *c, int loaded, pid_t *pids)
{
	int rc = 0;

	if (c->opts->stay)
		return await_loaded(c, loaded, processes_of(c->opts));
	for (uint64_t i = 0; i < processes_of(c->opts); i++) {
		int ended = await_task(c, pids[i]);

		rc = rc ? rc : ended;
		pids[i] = 0;
	}
	return rc;
}

static pid_t *residents_of(const struct churn *c, uint64_t n)
{
	return c->residents + n % c->opts->live * processes_of(c->opts);
}

/* Of so many evenly. */
static bool turn_comes(uint64_t pct, uint64_t n)
{
	return (n + 1) * pct / 100 > n * pct / 100;
}

static int populate(struct churn *c, uint64_t n)
{
	int loaded[2] = { -1, -1 }, rc;
	char name[PATH_MAX], words[64];
	bool pins;

	if (!c->opts->tasks || !turn_comes(c->opts->populated_pct, n))
		return 0;
	pins = turn_comes(c->opts->pin_pct, c->populated++);
	name_group(c, n, c->opts->depth, name, sizeof(name));
	rc = c->opts->stay && pipe2(loaded, O_CLOEXEC) < 0 ? -errno : 0;
	if (!rc)
		rc = begin_tasks(c, name, pins, n, loaded, residents_of(c, n));
	close(loaded[1]);
	if (!rc)
		rc = await_tasks(c, loaded[0], residents_of(c, n));
	close(loaded[0]);
	if (!rc && pins)
		rc = pin_hold(c, n);
	if (rc)
		cell_fail(c->cell, "tasks of group %s: %s", name, cell_end_words(rc, words, sizeof(words)));
	return rc;
}

static void depopulate(const struct churn *c, uint64_t n)
{
	pid_t *pids = residents_of(c, n);

	for (uint64_t i = 0; i < processes_of(c->opts); i++)
		if (pids[i])
			kill(pids[i], SIGKILL);
	for (uint64_t i = 0; i < processes_of(c->opts); i++) {
		if (pids[i])
			await_task(c, pids[i]);
		pids[i] = 0;
	}
}

/* --- The churn --- */

static bool another(const struct churn *c)
{
	const struct churn_opts *o = c->opts;
	int64_t now = clock_ns();
	uint64_t n;

	if (now >= c->cell->deadline_ns)
		wait_for_the_end();
	if (atomic_load(&shared->error) || cell_told_to_stop(c->cell) ||
	    (o->time_s && now - c->begin_ns >= (int64_t)(o->time_s * NS_PER_S)))
		return false;
	n = atomic_fetch_add(&shared->begun, 1);
	if (n >= o->groups)
		return false;
	if (o->rate) {
		int64_t due = c->begin_ns + (int64_t)(n * NS_PER_S / o->rate);

		if (due > now)
			clock_sleep_ms((due - now) / NS_PER_MS);
	}
	return true;
}

/* What they take, once, when every worker has as many as it may. */
static void look_at_many(void)
{
	uint64_t bytes, slab_kib;

	if (level_kib(0, &slab_kib) || scope_get(CHURN_GROUP, "memory.current", NULL, &bytes))
		return;
	atomic_store(&shared->many_slab_kib, slab_kib);
	atomic_store(&shared->many_bytes, bytes);
	atomic_store(&shared->many, atomic_load(&shared->alive));
}

static int one_group(struct churn *c, uint64_t n)
{
	int err = make_group(c, n);

	if (err)
		return err;
	atomic_store(&shared->last_made_ns, clock_ns());
	atomic_fetch_add(&shared->made, 1);
	atomic_fetch_add(&shared->alive, 1);
	err = populate(c, n);
	if (n + 1 == c->opts->live && atomic_fetch_add(&shared->full, 1) + 1 == c->opts->workers)
		look_at_many();
	return err;
}

/* The tasks of a group go before it. */
static int end_group(struct churn *c, uint64_t n)
{
	depopulate(c, n);
	return remove_group(c, n);
}

static int work(struct churn *c)
{
	uint64_t n = 0, oldest = 0;
	int err = 0;

	c->residents = calloc(c->opts->live * processes_of(c->opts) + 1, sizeof(*c->residents));
	if (!c->residents) {
		cell_fail(c->cell, "memory for %" PRIu64 " groups: %s", c->opts->live, strerror(errno));
		err = -ENOMEM;
	}
	cell_fork_without_record();
	while (!err && another(c)) {
		err = one_group(c, n++);
		if (!err && n - oldest >= c->opts->live)
			err = end_group(c, oldest++);
	}
	while (!err && oldest < n)
		err = end_group(c, oldest++);
	if (err)
		atomic_store(&shared->error, 1);
	return err;
}

static void tell_latency(const struct cell *c, const char *what, const struct latency *l)
{
	static const struct {
		const char *name;
		double q;
	} points[] = { { "p50", 0.5 }, { "p99", 0.99 }, { "max", 1 } };
	char name[32];

	for (size_t i = 0; atomic_load(&l->count) && i < sizeof(points) / sizeof(points[0]); i++) {
		snprintf(name, sizeof(name), "%s_%s_us", what, points[i].name);
		cell_metric_fixed(c, name, (int64_t)latency_quantile(l, points[i].q), 3);
	}
}

static void tell_rate(const struct churn *c, const char *metric, uint64_t groups, int64_t took_ns)
{
	if (groups && took_ns > 0)
		cell_metric_fixed(c->cell, metric, (int64_t)((double)groups * 1e3 * NS_PER_S / (double)took_ns), 3);
}

static void tell(const struct churn *c)
{
	uint64_t slab_kib = atomic_load(&shared->many_slab_kib), many = atomic_load(&shared->many),
		 start_kib = atomic_load(&shared->start_kib[0]);

	cell_metric_u64(c->cell, "groups_made", atomic_load(&shared->made));
	tell_rate(c, "groups_made_s", atomic_load(&shared->made), atomic_load(&shared->last_made_ns) - c->begin_ns);
	tell_rate(c, "groups_removed_s", atomic_load(&shared->removed), atomic_load(&shared->ended_ns) - c->begin_ns);
	if (c->cell->alone && many >= MANY_LIVE && slab_kib > start_kib)
		cell_metric_fixed(c->cell, "slab_per_group_kib", (int64_t)((slab_kib - start_kib) * 1000 / many), 3);
	if (many >= MANY_LIVE)
		cell_metric_fixed(c->cell, "charged_per_group_kib",
				  (int64_t)(atomic_load(&shared->many_bytes) * 1000 / 1024 / many), 3);
	tell_latency(c->cell, "mkdir", &shared->mkdir);
	tell_latency(c->cell, "rmdir", &shared->rmdir);
	tell_latency(c->cell, "attach", &shared->attach);
}

/* --- Dying groups --- */

/* Does the kernel have what was asked for? Before 5.19 memory.reclaim is not there. */
static bool can_reclaim(const struct churn_opts *o)
{
	char path[PATH_MAX];

	scope_path(CHURN_GROUP "/memory.reclaim", path, sizeof(path));
	return o->reclaim != RECLAIM_GROUP || access(path, W_OK) == 0;
}

static void tell_reclaim(const struct churn_opts *o)
{
	cell_knob(RECLAIM_KNOB, reclaim_choices[o->reclaim], can_reclaim(o) ? reclaim_choices[o->reclaim] : NULL);
}

/* What the mitigation was asked to do did not work: the record must not say that it is in force. */
static void reclaim_failed(int err)
{
	cell_knob(RECLAIM_KNOB, NULL, strerror(-err));
}

static int drop_caches(void)
{
	return sysfile_write("/proc/sys/vm/drop_caches", "3");
}

static uint64_t dying_now(void)
{
	uint64_t dying;

	return scope_get(CHURN_GROUP, "cgroup.stat", "nr_dying_descendants", &dying) ? 0 : dying;
}

/* Take what keeps dying groups: from their parent, who inherits it, or everywhere. */
static int reclaim_once(const struct churn *c)
{
	char bytes[24];
	uint64_t charged;
	int err;

	if (c->opts->reclaim == RECLAIM_DROP)
		return drop_caches();
	err = scope_get(CHURN_GROUP, "memory.current", NULL, &charged);
	if (err)
		return err;
	snprintf(bytes, sizeof(bytes), "%" PRIu64, charged);
	err = scope_set(CHURN_GROUP, "memory.reclaim", bytes);
	return err == -EAGAIN ? 0 : err; /* not all of it could be had, as was to be expected */
}

/* In vain it keeps a processor busy, which looks through every group: the next pause is twice as long then. */
static void reclaim_for_ever(const struct churn *c)
{
	int64_t pause_ms = RECLAIM_MS;
	int err = 0;

	for (; !err; clock_sleep_ms(pause_ms)) {
		uint64_t dying = dying_now();

		if (!dying)
			continue;
		err = reclaim_once(c);
		atomic_fetch_add(&shared->reclaims, err == 0);
		clock_sleep_ms(SETTLE_MS); /* groups are freed by work items */
		if (dying_now() <= dying / 2)
			pause_ms = RECLAIM_MS;
		else if (pause_ms < RECLAIM_MAX_MS)
			pause_ms *= 2;
	}
	reclaim_failed(err);
	_exit(-err);
}

static pid_t start_reclaim(const struct churn *c)
{
	pid_t pid;

	if (c->opts->reclaim == RECLAIM_NONE || !can_reclaim(c->opts))
		return 0;
	pid = cell_child(c->cell, RECLAIM_NAME);
	if (pid == 0)
		reclaim_for_ever(c);
	return pid;
}

static void stop_reclaim(const struct churn *c, pid_t pid)
{
	int rc;

	if (pid <= 0)
		return;
	kill(pid, SIGTERM);
	rc = cell_wait(c->cell, RECLAIM_NAME, pid);
	if (rc < 0 || (rc > 128 && rc != 128 + SIGTERM))
		reclaim_failed(-ECHILD); /* any other end it has told of itself */
	cell_metric_u64(c->cell, "reclaims", atomic_load(&shared->reclaims));
}

/* --- Hooks --- */

static uint64_t scratch_sectors(const void *opts, uint64_t memory_mib)
{
	const struct churn_opts *o = opts;

	(void)memory_mib;
	return o->pin_pct && o->pin == PIN_CACHE ? (pins_of(o, o->groups) + o->workers) * (PAGE / 512) : 0;
}

static int setup(struct cell *c)
{
	const struct churn_opts *o = c->opts;
	const char *const *on = controllers_on[o->controllers];
	int err = *on ? scope_enable(CHURN_GROUP, on) : 0;

	if (err) {
		cell_fail(c, "cgroup %s: %s", CHURN_GROUP, strerror(-err));
		return err;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		cell_fail(c, "shared memory: %s", strerror(errno));
		return -ENOMEM;
	}
	tell_reclaim(o);
	return 0;
}

/* Make what run() needs beside its workers. -errno after cell_fail(). */
static int prepare(struct churn *churn)
{
	const struct rlimit fds = { MAX_FDS, MAX_FDS };

	setrlimit(RLIMIT_NOFILE, &fds); /* where it is not allowed, what is held says EMFILE */
	churn->disk = -1;
	if (!scratch_sectors(churn->opts, 0))
		return 0;
	/* Held until the end: the page cache of a disk goes with the last who has it open. */
	churn->disk = open(churn->cell->scratch, O_RDONLY | O_CLOEXEC);
	if (churn->disk < 0) {
		int err = -errno;

		cell_fail(churn->cell, "%s: %s", churn->cell->scratch, strerror(-err));
		return err;
	}
	posix_fadvise(churn->disk, 0, 0, POSIX_FADV_RANDOM); /* one page a group, none read ahead */
	return 0;
}

/* Without what was only kept, as at the end; what is in use comes back at once. -errno after cell_fail(). */
static int take_start_levels(const struct cell *c)
{
	const struct churn_opts *o = c->opts;
	int err = o->leaks ? cell_drop() : 0;

	if (!err && o->leaks)
		clock_sleep_ms(START_MS);
	for (size_t i = 0; !err && i < N_LEVELS; i++) {
		uint64_t kib;

		err = level_kib(i, &kib);
		if (!err)
			atomic_store(&shared->start_kib[i], kib);
	}
	if (err)
		cell_fail(c, "the levels before the first group: %s", strerror(-err));
	return err;
}

static int run(struct cell *c)
{
	struct churn churn = { .cell = c, .opts = c->opts };
	pid_t pids[MAX_WORKERS], reclaimer;
	uint64_t n = 0;
	int err = prepare(&churn);

	if (!err)
		err = take_start_levels(c);
	if (err)
		return err;
	reclaimer = start_reclaim(&churn);
	if (reclaimer < 0)
		return reclaimer;
	churn.begin_ns = clock_ns();
	for (; n < churn.opts->workers; n++) {
		churn.worker = n;
		pids[n] = cell_child(c, "hr-churn");
		if (pids[n] == 0)
			_exit(work(&churn) ? 1 : 0);
		if (pids[n] < 0) {
			err = pids[n];
			break;
		}
	}
	for (uint64_t i = 0; i < n; i++) {
		int rc = cell_wait(c, "hr-churn", pids[i]);

		if (rc && !err)
			err = rc < 0 ? rc : -ECANCELED;
	}
	atomic_store(&shared->ended_ns, clock_ns());
	tell(&churn);
	stop_reclaim(&churn, reclaimer);
	return err;
}

/* How many groups there are below the parent that are dying. -errno after cell_fail(). */
static int count_dying(const struct cell *c, uint64_t *dying)
{
	int err = scope_get(CHURN_GROUP, "cgroup.stat", "nr_dying_descendants", dying);

	if (err)
		cell_fail(c, "cgroup.stat of %s: %s", CHURN_GROUP, strerror(-err));
	return err;
}

static double since_the_churn_s(void)
{
	return (double)(clock_ns() - atomic_load(&shared->ended_ns)) / NS_PER_S;
}

/* Until all removed groups are freed, or the time that they have is up. */
static int settle(struct cell *c, uint64_t *dying)
{
	const struct churn_opts *o = c->opts;
	int64_t deadline = clock_ns() + (int64_t)(o->settle_s * NS_PER_S),
		last = c->deadline_ns - (RETURN_MS + MARGIN_MS) * NS_PER_MS;
	uint64_t bytes;
	int err;

	if (deadline > last)
		deadline = last;
	while (!(err = count_dying(c, dying)) && *dying && clock_ns() < deadline)
		clock_sleep_ms(SETTLE_MS);
	if (err)
		return err;
	cell_metric_u64(c, "dying_left", *dying);
	if (scope_get(CHURN_GROUP, "memory.current", NULL, &bytes) == 0)
		cell_metric_u64(c, "memory_left_kib", bytes / 1024);
	if (!*dying)
		cell_metric_fixed(c, "settle_s", (int64_t)(since_the_churn_s() * 1000), 3);
	return 0;
}

/* What is above the levels of before, in KiB; the charge of the parent, which was new, is the last of them. */
static int read_left(uint64_t left_kib[N_LEVELS + 1])
{
	uint64_t now;
	int err = 0;

	for (size_t i = 0; !err && i < N_LEVELS; i++) {
		uint64_t start = atomic_load(&shared->start_kib[i]);

		err = level_kib(i, &now);
		left_kib[i] = !err && now > start ? now - start : 0;
	}
	if (!err)
		err = scope_get(CHURN_GROUP, "memory.current", NULL, &now);
	left_kib[N_LEVELS] = err ? 0 : now / 1024;
	return err;
}

static bool within(const uint64_t left_kib[N_LEVELS + 1], uint64_t allowed_kib)
{
	for (size_t i = 0; i <= N_LEVELS; i++)
		if (left_kib[i] > allowed_kib)
			return false;
	return true;
}

/* What the kernel only kept is dropped; what is still there then has leaked. */
static int look_for_leaks(struct cell *c)
{
	const struct churn_opts *o = c->opts;
	int64_t deadline = clock_ns() + RETURN_MS * NS_PER_MS;
	uint64_t dying = 0, left_kib[N_LEVELS + 1];
	bool back;
	int err;

	/* Each drop may free what the next can free more of. */
	do {
		err = cell_drop();
		clock_sleep_ms(START_MS);
		if (!err)
			err = count_dying(c, &dying);
		if (!err)
			err = read_left(left_kib);
		back = !err && !dying && within(left_kib, o->leak_kib);
	} while (!err && !back && clock_ns() < deadline);
	if (err) {
		cell_fail(c, "looking for leaks: %s", strerror(-err));
		return err;
	}
	cell_metric_u64(c, "dying_leaked", dying);
	for (size_t i = 0; i < N_LEVELS; i++)
		cell_metric_u64(c, levels[i].metric, left_kib[i]);
	if (back)
		cell_metric_fixed(c, "returned_s", (int64_t)(since_the_churn_s() * 1000), 3);
	cell_finding(c,
		     "%s %.1f s after the churn: %" PRIu64 " dying, slab %" PRIu64 ", per-CPU %" PRIu64
		     ", stacks %" PRIu64 " KiB above the level of before the first group, %" PRIu64
		     " KiB charged to their parent (%" PRIu64 " KiB allowed for each)",
		     back ? "nothing left over" : "left over", since_the_churn_s(), dying, left_kib[0], left_kib[1],
		     left_kib[2], left_kib[N_LEVELS], o->leak_kib);
	return 0;
}

/* All pins are gone with their worker: do the groups go too, and is nothing left of them? */
static int verify(struct cell *c)
{
	const struct churn_opts *o = c->opts;
	uint64_t dying = 0, living;
	int err = scope_get(CHURN_GROUP, "cgroup.stat", "nr_descendants", &living);

	if (err) {
		cell_fail(c, "cgroup.stat of %s: %s", CHURN_GROUP, strerror(-err));
		return err;
	}
	if (!c->run_ok) {
		cell_finding(c, "the churn did not come to its end: %" PRIu64 " groups live, nothing was looked for",
			     living);
		return 0;
	}
	if (living) {
		cell_fail(c, "%" PRIu64 " groups live after a churn that removed all of its own", living);
		return -EBUSY;
	}
	err = settle(c, &dying);
	if (!err && o->leaks)
		return look_for_leaks(c);
	if (!err)
		cell_finding(c, "%" PRIu64 " groups dying %.1f s after the churn", dying, since_the_churn_s());
	return err;
}

/* What reclaim is for: were there dying groups that it could have freed? */
static void attest_churn(const struct facts *f, const void *opts, struct attestation *a)
{
	const struct churn_opts *o = opts;

	snprintf(a->evidence, sizeof(a->evidence), "reads %s", a->read_back);
	if (strcmp(a->mitigation->name, "dying-reclaim") != 0 || !f->have_dying)
		return;
	a->exercised = f->dying_peak && o->pin_pct && o->pin == PIN_CACHE ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " dying groups at most, kept by %s", f->dying_peak,
		 !o->pin_pct	       ? "nothing that lasts"
		 : o->pin == PIN_CACHE ? "page cache that can be reclaimed"
				       : "what somebody holds, which no reclaim can take");
}

static const struct workload cgroup_churn = {
	.name = "cgroup-churn",
	.summary = "cgroups come and go, with kernel memory charged to them, some of it pinned beyond their life",
	.exercises = (const char *const[]){ "cgroup_mkdir", "cgroup_rmdir", "mem_cgroup_css_offline",
					    "memcg_reparent_objcgs", "memcg_slab_post_alloc_hook", NULL },
	.group = CHURN_GROUP,
	.opts = churn_options,
	.opts_size = sizeof(struct churn_opts),
	.mitigations = churn_mitigations,
	.metrics = churn_metrics,
	.check = check,
	.scratch_sectors = scratch_sectors,
	.setup = setup,
	.run = run,
	.verify = verify,
	.attest = attest_churn,
};
WORKLOAD_REGISTER(cgroup_churn);
