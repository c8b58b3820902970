// SPDX-License-Identifier: MIT
/*
 * cgroup-churn: groups come and go, and what they leave in the slab decides how much memory the kernel wastes.
 *
 * Each worker makes a group, lets tasks in it have kernel memory charged to it, keeps so many groups alive at a time
 * and removes the oldest. What is pinned beyond a group's life keeps it dying: removed, and not freed (seed 002).
 *
 * Is anything left when all groups are gone? verify() gives the kernel its time, then has it drop what it only keeps
 * because nobody needed the room, and compares with the levels of before the first group.
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
#define MAX_TASKS      1000
#define MAX_LIVE       4096
#define RMDIR_MS       5000 /* a group is busy until its last task is reaped; more is a finding */
#define SETTLE_MS      100
#define RETURN_MS      10000 /* after the drop: what is freed by RCU and by work items */
#define RECLAIM_MS     250
#define RECLAIM_MAX_MS 8000
#define RECLAIM_NAME   "hr-reclaim"
#define MANY_LIVE      100	 /* below that many, what a group takes is lost in what else the machine does */
#define MAX_FDS	       (1 << 20) /* as many as the kernel allows by default (fs.nr_open) */
#define PAGE	       4096
#define STACK_BYTES                                                                                                    \
	(64 * 1024) /* of a thread that only makes system calls: a thousand of the usual 8 MiB would be a load */

struct churn_opts {
	uint64_t groups, time_s, rate, workers, live, depth, tasks, pin_pct, settle_s, leak_kib;
	struct kmem_load load;
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
	{ "tasks", OPT_U64, FIELD(tasks), "0", 0, MAX_TASKS, NULL, NULL,
	  "in each group, for as long as it takes them to load" },
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
	  "groups that have something pinned beyond their life, until the churn ends" },
	{ "pin", OPT_ENUM, FIELD(pin), "file", 0, 0, pin_choices, NULL,
	  "what that is: a page in an anonymous file that somebody else holds, a dentry with its inode that somebody "
	  "else has opened, or a page of a disk in the page cache, which reclaim can take" },
	{ "reclaim", OPT_ENUM, FIELD(reclaim), "none", 0, 0, reclaim_choices, NULL,
	  "what is done about dying groups, four times a second, less often where it is in vain: memory.reclaim of "
	  "their parent, or drop_caches" },
	{ "settle_s", OPT_U64, FIELD(settle_s), "30", 1, 3600, NULL, "s",
	  "time that removed groups have to be freed when all pins are gone" },
	{ "leak_kib", OPT_U64, FIELD(leak_kib), "4096", 0, 1 << 30, NULL, "KiB",
	  "more than so much above the level of before the first group is left over, after that time and a drop of "
	  "the caches" },
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
	{ "dying_left", "", LESS, "removed groups that were not freed in time" },
	{ "settle_s", "s", LESS, "until all removed groups were freed" },
	{ "returned_s", "s", LESS, "until all was as before the first group, the caches having been dropped" },
	{ "dying_leaked", "", LESS, "removed groups that were not freed even when the caches were dropped" },
	{ "slab_left_kib", "KiB", LESS, "slab of the machine above the level of before the first group" },
	{ "percpu_left_kib", "KiB", LESS, "per-CPU memory above the level of before the first group" },
	{ "stack_left_kib", "KiB", LESS, "kernel stacks above the level of before the first group" },
	{ "memory_left_kib", "KiB", LESS, "still charged to the groups' parent when they are gone" },
	{ 0 },
};

static int check(const void *opts, char *err, size_t err_size)
{
	const struct churn_opts *o = opts;
	const struct kmem_load *l = &o->load;
	uint64_t loads = l->dentries + l->inodes + l->pipes + l->sockets + l->epolls + l->percpu + l->stacks;

	if (!o->tasks && (loads || o->pin_pct))
		snprintf(err, err_size, "tasks = '0': what is charged or pinned needs a task in the group");
	else if (o->pin_pct && !o->controllers)
		snprintf(err, err_size, "controllers = 'none': nothing is charged that could be pinned");
	else
		return 0;
	return -EINVAL;
}

/* --- Groups --- */

struct shared {
	struct latency mkdir, rmdir, attach;
	_Atomic uint64_t begun, made, removed, pins, alive, slab_kib, charged_bytes;
	_Atomic int64_t last_made_ns;
	_Atomic int error;
};

/* What the kernel has on all of the machine, in KiB. */
static const struct level {
	const char *key, *metric;
} levels[] = { { "Slab", "slab_left_kib" }, { "Percpu", "percpu_left_kib" }, { "KernelStack", "stack_left_kib" } };

#define N_LEVELS (sizeof(levels) / sizeof(levels[0]))

/* Before the first group: setup() looks, and both run() and verify() are forks of it. 0: could not be read. */
static uint64_t start_kib[N_LEVELS];

static uint64_t level_kib(size_t i)
{
	uint64_t kib;

	return sysfile_read_key("/proc/meminfo", levels[i].key, &kib) ? 0 : kib;
}

struct churn {
	const struct cell *cell;
	const struct churn_opts *opts;
	struct shared *shared;
	uint64_t worker;
	int64_t begin_ns;
	int disk; /* the scratch disk, when pages of it are the pins; else -1 */
};

static int make_one(const struct churn *c, const char *name)
{
	int64_t begin = clock_ns();
	int err = c->opts->method == METHOD_LIBCGROUP ? scope_create(name) : scope_mkdir(name);

	if (!err)
		latency_add(&c->shared->mkdir, (uint64_t)(clock_ns() - begin));
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
		latency_add(&c->shared->rmdir, (uint64_t)(clock_ns() - begin));
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
		atomic_fetch_add(&c->shared->removed, 1);
	atomic_fetch_sub(&c->shared->alive, 1);
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
	pthread_attr_setstacksize(&attr, STACK_BYTES);
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
		nth = atomic_fetch_add(&c->shared->pins, 1);
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
		latency_add(&c->shared->attach, (uint64_t)(clock_ns() - begin));
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

/* Wait for a task until the hook's deadline. 0 or -errno; one that overruns it is ended with the hook. */
static int await_task(const struct churn *c, pid_t pid)
{
	int status;

	if (!spawn_wait_until(pid, c->cell->deadline_ns, &status))
		return -ETIMEDOUT;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EINTR;
}

static int populate(const struct churn *c, uint64_t n)
{
	uint64_t processes = c->opts->population == POPULATION_THREADS && c->opts->tasks ? 1 : c->opts->tasks,
		 begun = 0;
	bool pins = pins_of(c->opts, n + 1) > pins_of(c->opts, n); /* evenly: one of so many */
	pid_t pids[MAX_TASKS], parent = getpid();
	char name[PATH_MAX];
	int err = 0, pin_file = pins ? pin_prepare(c) : -1;

	if (pin_file < -1)
		err = pin_file;
	name_group(c, n, c->opts->depth, name, sizeof(name));
	for (; !err && begun < processes; begun++) {
		pids[begun] = c->opts->entry == ENTRY_CLONE ? scope_fork(name) : fork();
		if (pids[begun] == 0) {
			spawn_die_with(parent);
			_exit(-task(c, name, pins && begun == 0, n, pin_file));
		}
		if (pids[begun] < 0) {
			err = -errno;
			break;
		}
	}
	for (uint64_t i = 0; i < begun; i++) {
		int ended = await_task(c, pids[i]);

		err = err ? err : ended;
	}
	if (!err && pins)
		err = pin_hold(c, n);
	if (err)
		cell_fail(c->cell, "tasks of group %s: %s", name, strerror(-err));
	return err;
}

/* --- The churn --- */

static bool another(const struct churn *c)
{
	const struct churn_opts *o = c->opts;
	int64_t now = clock_ns();
	uint64_t n;

	/* At the deadline the hook ends us, and says so: less than was asked for is not done. */
	while (clock_ns() >= c->cell->deadline_ns)
		pause();
	if (atomic_load(&c->shared->error) || (o->time_s && now - c->begin_ns >= (int64_t)(o->time_s * NS_PER_S)))
		return false;
	n = atomic_fetch_add(&c->shared->begun, 1);
	if (n >= o->groups)
		return false;
	if (o->rate) {
		int64_t due = c->begin_ns + (int64_t)(n * NS_PER_S / o->rate);

		if (due > now)
			clock_sleep_ms((due - now) / NS_PER_MS);
	}
	return true;
}

/* How many groups live at the same time at most. */
static uint64_t most_alive(const struct churn_opts *o)
{
	uint64_t all = o->workers * o->live;

	return all < o->groups ? all : o->groups;
}

/* What they take, once, when as many live as ever will. */
static void look_at_many(const struct churn *c)
{
	uint64_t bytes;

	if (atomic_load(&c->shared->slab_kib))
		return;
	atomic_store(&c->shared->slab_kib, level_kib(0));
	if (scope_get(CHURN_GROUP, "memory.current", NULL, &bytes) == 0)
		atomic_store(&c->shared->charged_bytes, bytes);
}

static int one_group(const struct churn *c, uint64_t n)
{
	int err = make_group(c, n);

	if (err)
		return err;
	atomic_store(&c->shared->last_made_ns, clock_ns());
	atomic_fetch_add(&c->shared->made, 1);
	err = populate(c, n);
	if (atomic_fetch_add(&c->shared->alive, 1) + 1 == most_alive(c->opts) && most_alive(c->opts) >= MANY_LIVE)
		look_at_many(c);
	return err;
}

static int work(const struct churn *c)
{
	uint64_t n = 0, oldest = 0;
	int err = 0;

	cell_fork_without_record();
	while (!err && another(c)) {
		err = one_group(c, n++);
		if (!err && n - oldest >= c->opts->live)
			err = remove_group(c, oldest++);
	}
	while (!err && oldest < n)
		err = remove_group(c, oldest++);
	if (err)
		atomic_store(&c->shared->error, -err);
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

static void tell(const struct churn *c)
{
	uint64_t made = atomic_load(&c->shared->made), removed = atomic_load(&c->shared->removed),
		 slab_kib = atomic_load(&c->shared->slab_kib), charged = atomic_load(&c->shared->charged_bytes),
		 alive = most_alive(c->opts);
	int64_t making = atomic_load(&c->shared->last_made_ns) - c->begin_ns, all = clock_ns() - c->begin_ns;

	cell_metric_u64(c->cell, "groups_made", made);
	if (made && making > 0)
		cell_metric_fixed(c->cell, "groups_made_s", (int64_t)((double)made * 1e3 * NS_PER_S / (double)making),
				  3);
	if (removed && all > 0)
		cell_metric_fixed(c->cell, "groups_removed_s",
				  (int64_t)((double)removed * 1e3 * NS_PER_S / (double)all), 3);
	if (start_kib[0] && slab_kib > start_kib[0])
		cell_metric_fixed(c->cell, "slab_per_group_kib", (int64_t)((slab_kib - start_kib[0]) * 1000 / alive),
				  3);
	if (charged)
		cell_metric_fixed(c->cell, "charged_per_group_kib", (int64_t)(charged * 1000 / 1024 / alive), 3);
	tell_latency(c->cell, "mkdir", &c->shared->mkdir);
	tell_latency(c->cell, "rmdir", &c->shared->rmdir);
	tell_latency(c->cell, "attach", &c->shared->attach);
}

/* --- Dying groups --- */

/* Does the kernel have what was asked for? Before 5.19 memory.reclaim is not there. */
static void tell_reclaim(const struct churn_opts *o)
{
	const char *asked = reclaim_choices[o->reclaim];
	char path[PATH_MAX];

	scope_path(CHURN_GROUP "/memory.reclaim", path, sizeof(path));
	cell_knob(RECLAIM_KNOB, asked, o->reclaim == RECLAIM_GROUP && access(path, W_OK) < 0 ? NULL : asked);
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
static void reclaim_once(const struct churn *c)
{
	char bytes[24];
	uint64_t charged;

	if (c->opts->reclaim == RECLAIM_DROP) {
		drop_caches();
	} else if (scope_get(CHURN_GROUP, "memory.current", NULL, &charged) == 0) {
		snprintf(bytes, sizeof(bytes), "%" PRIu64, charged);
		/* -EAGAIN: not all of it could be had, as was to be expected. */
		scope_set(CHURN_GROUP, "memory.reclaim", bytes);
	}
}

/* In vain it keeps a processor busy, which looks through every group: the next pause is twice as long then. */
static void reclaim_for_ever(const struct churn *c)
{
	int64_t pause_ms = RECLAIM_MS;

	for (;; clock_sleep_ms(pause_ms)) {
		uint64_t dying = dying_now();

		if (!dying)
			continue;
		reclaim_once(c);
		if (dying_now() <= dying / 2)
			pause_ms = RECLAIM_MS;
		else if (pause_ms < RECLAIM_MAX_MS)
			pause_ms *= 2;
	}
}

static pid_t start_reclaim(const struct churn *c)
{
	pid_t pid;

	if (c->opts->reclaim == RECLAIM_NONE)
		return 0;
	pid = cell_child(c->cell, RECLAIM_NAME);
	if (pid == 0)
		reclaim_for_ever(c);
	return pid;
}

static void stop_reclaim(const struct churn *c, pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGTERM);
	cell_wait(c->cell, RECLAIM_NAME, pid);
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
	tell_reclaim(o);
	for (size_t i = 0; i < N_LEVELS; i++)
		start_kib[i] = level_kib(i);
	return 0;
}

/* Make what run() needs beside its workers. -errno after cell_fail(). */
static int prepare(struct churn *churn)
{
	const struct rlimit fds = { MAX_FDS, MAX_FDS };
	int err;

	churn->shared = mmap(NULL, sizeof(*churn->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (churn->shared == MAP_FAILED) {
		err = -errno;
		cell_fail(churn->cell, "shared memory: %s", strerror(-err));
		return err;
	}
	setrlimit(RLIMIT_NOFILE, &fds); /* where it is not allowed, what is held says EMFILE */
	churn->disk = -1;
	if (!scratch_sectors(churn->opts, 0))
		return 0;
	/* Held until the end: the page cache of a disk goes with the last who has it open. */
	churn->disk = open(churn->cell->scratch, O_RDONLY | O_CLOEXEC);
	if (churn->disk < 0) {
		err = -errno;
		cell_fail(churn->cell, "%s: %s", churn->cell->scratch, strerror(-err));
		return err;
	}
	posix_fadvise(churn->disk, 0, 0, POSIX_FADV_RANDOM); /* one page a group, none read ahead */
	return 0;
}

static int run(struct cell *c)
{
	struct churn churn = { .cell = c, .opts = c->opts };
	pid_t pids[MAX_WORKERS], reclaimer;
	uint64_t n = 0;
	int err = prepare(&churn);

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
	tell(&churn);
	stop_reclaim(&churn, reclaimer);
	return err;
}

/* Dying groups, when there are none any more or the time is up. */
static int await_freed(int64_t deadline, uint64_t *dying)
{
	int err;

	for (;;) {
		err = scope_get(CHURN_GROUP, "cgroup.stat", "nr_dying_descendants", dying);
		if (err || !*dying || clock_ns() >= deadline)
			return err;
		clock_sleep_ms(SETTLE_MS);
	}
}

/* Nothing dying, and no level higher than before by more than is allowed? `left` gets what is above, in KiB. */
static bool returned(const struct churn_opts *o, uint64_t dying, uint64_t left[N_LEVELS])
{
	bool back = !dying;

	for (size_t i = 0; i < N_LEVELS; i++) {
		uint64_t now = level_kib(i);

		left[i] = now > start_kib[i] ? now - start_kib[i] : 0;
		back &= left[i] <= o->leak_kib;
	}
	return back;
}

/* What the kernel kept only because nobody needed the room is dropped; what is still there then has leaked. */
static int look_for_leaks(struct cell *c, int64_t begin)
{
	const struct churn_opts *o = c->opts;
	int64_t deadline = clock_ns() + RETURN_MS * NS_PER_MS;
	uint64_t dying = 0, bytes, left[N_LEVELS] = { 0 };
	char levels_text[160];
	int err = c->alone ? drop_caches() : 0;
	bool back = false;

	while (!err && !back && clock_ns() < deadline && clock_ns() < c->deadline_ns) {
		clock_sleep_ms(SETTLE_MS);
		err = await_freed(0, &dying);
		back = !err && (c->alone ? returned(o, dying, left) : !dying);
	}
	if (err) {
		cell_fail(c, "looking for leaks: %s", strerror(-err));
		return err;
	}
	cell_metric_u64(c, "dying_leaked", dying);
	for (size_t i = 0; i < N_LEVELS; i++)
		if (c->alone && start_kib[i])
			cell_metric_u64(c, levels[i].metric, left[i]);
	if (scope_get(CHURN_GROUP, "memory.current", NULL, &bytes) == 0)
		cell_metric_u64(c, "memory_left_kib", bytes / 1024);
	if (back)
		cell_metric_fixed(c, "returned_s", (clock_ns() - begin) / NS_PER_MS, 3);
	snprintf(levels_text, sizeof(levels_text),
		 ", slab %" PRIu64 ", per-CPU %" PRIu64 ", stacks %" PRIu64
		 " KiB above the level of before the first (%" PRIu64 " KiB allowed)",
		 left[0], left[1], left[2], o->leak_kib);
	cell_finding(c, "%s %.1f s after the last group: %" PRIu64 " dying%s", back ? "nothing left over" : "left over",
		     (double)(clock_ns() - begin) / NS_PER_S, dying, c->alone ? levels_text : "");
	return 0;
}

/* All pins are gone with their worker: do the groups go too, and is nothing left of them? */
static int verify(struct cell *c)
{
	const struct churn_opts *o = c->opts;
	int64_t begin = clock_ns(), deadline = begin + (int64_t)(o->settle_s * NS_PER_S);
	uint64_t dying;
	int err;

	if (deadline > c->deadline_ns)
		deadline = c->deadline_ns;
	err = await_freed(deadline, &dying);
	if (err) {
		cell_fail(c, "cgroup.stat of %s: %s", CHURN_GROUP, strerror(-err));
		return err;
	}
	cell_metric_u64(c, "dying_left", dying);
	if (!dying)
		cell_metric_fixed(c, "settle_s", (clock_ns() - begin) / NS_PER_MS, 3);
	return look_for_leaks(c, begin);
}

/* What reclaim is for: were there dying groups that it could have freed? */
static void attest_churn(const struct facts *f, const void *opts, struct attestation *a)
{
	const struct churn_opts *o = opts;

	snprintf(a->evidence, sizeof(a->evidence), "reads %s", a->read_back);
	if (strcmp(a->mitigation->name, "dying-reclaim") != 0 || !f->have_dying)
		return;
	a->exercised = f->dying_peak && o->pin == PIN_CACHE ? YES : NO;
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
