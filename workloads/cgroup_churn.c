// SPDX-License-Identifier: MIT
/*
 * cgroup-churn: groups come and go, and what they leave in the slab decides how much memory the kernel wastes.
 *
 * Each worker makes a group, lets tasks in it have kernel memory charged to it (dentries, inodes, pipes, sockets, epoll
 * instances, stacks), keeps so many groups alive at a time and removes the oldest. What is pinned beyond a group's life
 * (a page of a file that somebody else holds open) keeps the group dying: removed, and not freed (seed 002).
 *
 * The groups are made beside those of the cell, below headroom/churn, because a group with processes of its own can
 * have no groups with controllers below it. All of it is in the undo log as one tree.
 */
#include "base/clock.h"
#include "base/latency.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "run/undo.h"
#include "run/workload.h"

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
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHURN_GROUP CGROUP_PARENT "/churn"
#define MAX_WORKERS 64
#define MAX_TASKS   1000
#define MAX_LIVE    4096
#define RMDIR_MS    5000 /* a group is busy until its last task is reaped; more is a finding */
#define SETTLE_MS   100
#define STACK_BYTES                                                                                                    \
	(64 * 1024) /* of a thread that only makes system calls: a thousand of the usual 8 MiB would be a load */

struct churn_opts {
	uint64_t groups, time_s, rate, workers, live, depth, tasks, dentries, inodes, pipes, sockets, epolls, pin_pct,
		settle_s;
	unsigned method, population, controllers;
	bool migrate;
};

enum method { METHOD_RAW, METHOD_LIBCGROUP, METHOD_TOOLS, METHOD_SHELL };
enum population { POPULATION_PROCESSES, POPULATION_THREADS };

static const char *const method_choices[] = { "raw", "libcgroup", "tools", "shell", NULL };
static const char *const population_choices[] = { "processes", "threads", NULL };
static const char *const controller_choices[] = { "none", "memory", "all", NULL };
static const char *const controllers_on[] = { NULL, "+memory", "+memory +pids +cpu +io" };

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
	  "how groups are made and removed: mkdir(2) and rmdir(2), libcgroup, or, to compare with, its programs "
	  "cgcreate and "
	  "cgdelete, or a shell loop of mkdir and rmdir" },
	{ "tasks", OPT_U64, FIELD(tasks), "0", 0, MAX_TASKS, NULL, NULL,
	  "in each group, for as long as it takes them to load" },
	{ "population", OPT_ENUM, FIELD(population), "processes", 0, 0, population_choices, NULL,
	  "what the tasks are; threads are those of one process" },
	{ "dentries", OPT_U64, FIELD(dentries), "0", 0, 10000000, NULL, NULL,
	  "looked up by each task and not there: negative dentries" },
	{ "inodes", OPT_U64, FIELD(inodes), "0", 0, 10000, NULL, NULL, "that each task holds: anonymous files" },
	{ "pipes", OPT_U64, FIELD(pipes), "0", 0, 10000, NULL, NULL, "that each task holds" },
	{ "sockets", OPT_U64, FIELD(sockets), "0", 0, 10000, NULL, NULL, "that each task holds" },
	{ "epolls", OPT_U64, FIELD(epolls), "0", 0, 10000, NULL, NULL, "that each task holds" },
	{ "migrate", OPT_BOOL, FIELD(migrate), "no", 0, 0, NULL, NULL,
	  "a task moves to the next processor with each allocation, so that it leaves slabs on all of them" },
	{ "pin_pct", OPT_U64, FIELD(pin_pct), "0", 0, 100, NULL, "%",
	  "groups of which somebody else holds a page beyond their life: they stay dying" },
	{ "settle_s", OPT_U64, FIELD(settle_s), "30", 1, 3600, NULL, "s",
	  "time that removed groups have to be freed when all pins are gone" },
	{ 0 },
};

static const struct mitigation churn_mitigations[] = {
	{
		.name = "kmem-accounting",
		.summary = "kernel memory is charged to groups, at less cost than with one set of caches a group",
		.seed = "002",
		.knobs = { { "boot cgroup.memory", NULL } },
		.boot = "cgroup.memory",
		.off = "nokmem",
		.on = "default",
		.value_help = "a value of the kernel parameter cgroup.memory",
	},
	{
		.name = "slab-sharing",
		.summary = "groups share slab pages: no set of caches for each group",
		.seed = "002",
		.knobs = { { "kernel.memcg_deactivate_kmem_caches", NULL } },
		.gone = "memcg_deactivate_kmem_caches",
		.off = "present",
		.on = "absent",
		.since = "Linux 5.9",
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
	{ "dying_left", "", LESS, "removed groups that were not freed in time" },
	{ "settle_s", "s", LESS, "until all removed groups were freed" },
	{ "memory_left_kib", "KiB", LESS, "still charged to the groups' parent when they are gone" },
	{ 0 },
};

static int check(const void *opts, char *err, size_t err_size)
{
	const struct churn_opts *o = opts;
	uint64_t loads = o->dentries + o->inodes + o->pipes + o->sockets + o->epolls;

	if (!o->tasks && (loads || o->pin_pct))
		snprintf(err, err_size, "tasks = '0': what is charged or pinned needs a task in the group");
	else if (o->method >= METHOD_TOOLS &&
		 (o->tasks || o->depth > 1 || o->live > 1 || o->workers > 1 || o->rate || o->time_s))
		snprintf(err, err_size, "method = '%s': only makes and removes groups, one after the other",
			 method_choices[o->method]);
	else if (o->pin_pct && !o->controllers)
		snprintf(err, err_size, "controllers = 'none': nothing is charged that could be pinned");
	else
		return 0;
	return -EINVAL;
}

/* --- Groups --- */

struct shared {
	struct latency mkdir, rmdir, attach;
	_Atomic uint64_t begun, made, removed;
	_Atomic int64_t last_made_ns;
	_Atomic int error;
};

struct churn {
	const struct cell *cell;
	const struct churn_opts *opts;
	struct shared *shared;
	uint64_t worker;
	int64_t begin_ns;
	char base[PATH_MAX];
};

static int make_one(const struct churn *c, const char *name)
{
	char path[PATH_MAX];
	int64_t begin = clock_ns();
	int err;

	scope_path(name, path, sizeof(path));
	if (c->opts->method == METHOD_LIBCGROUP)
		err = scope_create(name);
	else
		err = mkdir(path, 0755) < 0 ? -errno : 0;
	if (!err)
		latency_add(&c->shared->mkdir, (uint64_t)(clock_ns() - begin));
	return err;
}

static int remove_one(const struct churn *c, const char *name)
{
	int64_t begin = clock_ns(), deadline = begin + RMDIR_MS * NS_PER_MS;
	char path[PATH_MAX];
	int err;

	scope_path(name, path, sizeof(path));
	do {
		if (c->opts->method == METHOD_LIBCGROUP)
			err = scope_remove(name);
		else
			err = rmdir(path) < 0 ? -errno : 0;
		if (err == -EBUSY)
			sched_yield();
	} while (err == -EBUSY && clock_ns() < deadline);
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
	const char *on = controllers_on[c->opts->controllers];
	char name[PATH_MAX];
	int err = 0;

	for (uint64_t depth = 1; !err && depth <= c->opts->depth; depth++) {
		name_group(c, n, depth, name, sizeof(name));
		err = make_one(c, name);
		if (!err && on && depth < c->opts->depth)
			err = scope_set(name, "cgroup.subtree_control", on);
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
	return err;
}

/* --- What is charged --- */

static void move_on(const struct churn *c)
{
	static unsigned next;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	if (!c->opts->migrate || cpus < 2)
		return;
	CPU_ZERO(&set);
	CPU_SET(next++ % (unsigned)cpus, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* It stays open: the end of the task closes it. 0 or an errno. */
static int held(int fd)
{
	return fd < 0 ? errno : 0;
}

/* What a task has charged to its group. The descriptors stay open until it ends. 0 or an errno. */
static int load(const struct churn *c)
{
	const struct churn_opts *o = c->opts;
	int fds[2], err = 0;

	for (uint64_t i = 0; i < o->dentries; i++) {
		char path[PATH_MAX];
		struct stat st;

		/* As long as those of the kernel's own test (tools/testing/selftests/cgroup/test_kmem.c). */
		snprintf(path, sizeof(path), "/something-non-existent-with-a-long-name-%" PRIu64 "-%d", i, gettid());
		move_on(c);
		stat(path, &st);
	}
	for (uint64_t i = 0; !err && i < o->inodes; i++, move_on(c))
		err = held(memfd_create("churn", MFD_CLOEXEC));
	for (uint64_t i = 0; !err && i < o->pipes; i++, move_on(c))
		err = held(pipe2(fds, O_CLOEXEC));
	for (uint64_t i = 0; !err && i < o->sockets; i++, move_on(c))
		err = held(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	for (uint64_t i = 0; !err && i < o->epolls; i++, move_on(c))
		err = held(epoll_create1(EPOLL_CLOEXEC));
	return err;
}

static void *load_of_thread(void *arg)
{
	return (void *)(intptr_t)load(arg);
}

/* 0 or an errno. */
static int load_in_threads(const struct churn *c)
{
	pthread_t threads[MAX_TASKS];
	pthread_attr_t attr;
	uint64_t n = 0;
	int err = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	for (; !err && n < c->opts->tasks; n += err == 0)
		err = pthread_create(&threads[n], &attr, load_of_thread, (void *)c);
	for (uint64_t i = 0; i < n; i++) {
		void *ended;

		pthread_join(threads[i], &ended);
		if (ended && !err)
			err = (int)(intptr_t)ended;
	}
	return err;
}

/* A task that goes into the group by itself. `pin` is a file of somebody else's, of which it takes the first page. */
static int task(const struct churn *c, const char *group, int pin)
{
	int64_t begin;
	char procs[PATH_MAX];
	int err;

	scope_path(group, procs, sizeof(procs) - sizeof("/cgroup.procs"));
	strcat(procs, "/cgroup.procs");
	begin = clock_ns();
	err = c->opts->method == METHOD_LIBCGROUP ? scope_attach(group, getpid()) : sysfile_write(procs, "0");
	if (err)
		return -err;
	latency_add(&c->shared->attach, (uint64_t)(clock_ns() - begin));
	if (pin >= 0 && write(pin, "x", 1) != 1)
		return errno;
	return c->opts->population == POPULATION_THREADS ? load_in_threads(c) : load(c);
}

/* Wait for a task until the hook's deadline. 0 or -errno; one that overruns it is ended with the hook. */
static int await_task(const struct churn *c, pid_t pid)
{
	int status;

	if (!spawn_wait_until(pid, c->cell->deadline_ns, &status))
		return -ETIMEDOUT;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EINTR;
}

static int populate(const struct churn *c, uint64_t n, int pin)
{
	uint64_t processes = c->opts->population == POPULATION_THREADS && c->opts->tasks ? 1 : c->opts->tasks,
		 begun = 0;
	pid_t pids[MAX_TASKS], parent = getpid();
	char name[PATH_MAX];
	int err = 0;

	name_group(c, n, c->opts->depth, name, sizeof(name));
	for (; !err && begun < processes; begun++) {
		pids[begun] = fork();
		if (pids[begun] == 0) {
			spawn_die_with(parent);
			_exit(task(c, name, begun == 0 ? pin : -1));
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

/* Of so many groups evenly: of the n-th when n * pin_pct passes another hundred. What it is stays open until we end. */
static int make_pin(const struct churn *c, uint64_t n, int *pin)
{
	*pin = -1;
	if ((n + 1) * c->opts->pin_pct / 100 == n * c->opts->pin_pct / 100)
		return 0;
	*pin = memfd_create("churn-pin", MFD_CLOEXEC);
	if (*pin >= 0)
		return 0;
	cell_fail(c->cell, "a file to pin group %" PRIu64 " of worker %" PRIu64 ": %s", n, c->worker, strerror(errno));
	return -errno;
}

static int one_group(const struct churn *c, uint64_t n)
{
	int pin, err = make_group(c, n);

	if (err)
		return err;
	atomic_store(&c->shared->last_made_ns, clock_ns());
	atomic_fetch_add(&c->shared->made, 1);
	err = make_pin(c, n, &pin);
	return err ? err : populate(c, n, pin);
}

static int work(const struct churn *c)
{
	uint64_t n = 0, oldest = 0;
	int err = 0;

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
	uint64_t made = atomic_load(&c->shared->made), removed = atomic_load(&c->shared->removed);
	int64_t making = atomic_load(&c->shared->last_made_ns) - c->begin_ns, all = clock_ns() - c->begin_ns;

	cell_metric_u64(c->cell, "groups_made", made);
	if (made && making > 0)
		cell_metric_fixed(c->cell, "groups_made_s", (int64_t)((double)made * 1e3 * NS_PER_S / (double)making),
				  3);
	if (removed && all > 0)
		cell_metric_fixed(c->cell, "groups_removed_s",
				  (int64_t)((double)removed * 1e3 * NS_PER_S / (double)all), 3);
	tell_latency(c->cell, "mkdir", &c->shared->mkdir);
	tell_latency(c->cell, "rmdir", &c->shared->rmdir);
	tell_latency(c->cell, "attach", &c->shared->attach);
}

static int setup(struct cell *c)
{
	const struct churn_opts *o = c->opts;
	int err = undo_note("cgroup-tree", CHURN_GROUP, NULL);

	if (!err)
		err = scope_create(CHURN_GROUP);
	if (!err && controllers_on[o->controllers])
		err = scope_set(CHURN_GROUP, "cgroup.subtree_control", controllers_on[o->controllers]);
	if (err)
		cell_fail(c, "cgroup %s: %s", CHURN_GROUP, strerror(-err));
	return err;
}

/* What others do, for the same figures: one group after the other, each by programs of its own. */
static int run_peer(struct cell *c)
{
	static const char tools[] =
		"i=0; while [ $i -lt $1 ]; do cgcreate -g memory:$2/$i && cgdelete -g memory:$2/$i || exit 1; "
		"i=$((i+1)); done";
	static const char shell[] =
		"i=0; while [ $i -lt $1 ]; do mkdir $3/$i && rmdir $3/$i || exit 1; i=$((i+1)); done";
	const struct churn_opts *o = c->opts;
	char groups[24], path[PATH_MAX];
	const char *argv[] = { "sh", "-c", o->method == METHOD_TOOLS ? tools : shell, "sh", groups, CHURN_GROUP,
			       path, NULL };
	int64_t begin = clock_ns(), took;
	int rc;

	snprintf(groups, sizeof(groups), "%" PRIu64, o->groups);
	scope_path(CHURN_GROUP, path, sizeof(path));
	rc = cell_tool(c, "peer", argv);
	took = clock_ns() - begin;
	if (rc) {
		cell_fail(c, "%s: %s", method_choices[o->method], rc < 0 ? strerror(-rc) : "see peer.err");
		return rc < 0 ? rc : -ECANCELED;
	}
	cell_metric_u64(c, "groups_made", o->groups);
	if (took > 0)
		cell_metric_fixed(c, "groups_removed_s", (int64_t)((double)o->groups * 1e3 * NS_PER_S / (double)took),
				  3);
	return 0;
}

static int run(struct cell *c)
{
	struct churn churn = { .cell = c, .opts = c->opts };
	pid_t pids[MAX_WORKERS];
	struct shared *shared;
	uint64_t n = 0;
	int err = 0;

	if (churn.opts->method >= METHOD_TOOLS)
		return run_peer(c);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		err = -errno;
		cell_fail(c, "shared memory: %s", strerror(-err));
		return err;
	}
	churn.shared = shared;
	churn.begin_ns = clock_ns();
	for (; !err && n < churn.opts->workers; n++) {
		churn.worker = n;
		pids[n] = cell_child(c, "hr-churn");
		if (pids[n] == 0)
			_exit(work(&churn) ? 1 : 0);
		if (pids[n] < 0)
			err = pids[n];
	}
	if (err)
		n--;
	for (uint64_t i = 0; i < n; i++) {
		int rc = cell_wait(c, "hr-churn", pids[i]);

		if (rc && !err)
			err = rc < 0 ? rc : -ECANCELED;
	}
	tell(&churn);
	return err;
}

/* All pins are gone with their worker: do the groups go too, and is nothing charged for them any more? */
static int verify(struct cell *c)
{
	const struct churn_opts *o = c->opts;
	int64_t begin = clock_ns(), deadline = begin + (int64_t)(o->settle_s * NS_PER_S);
	uint64_t dying = 0, bytes;
	int err;

	if (deadline > c->deadline_ns)
		deadline = c->deadline_ns;
	for (;;) {
		err = scope_get(CHURN_GROUP, "cgroup.stat", "nr_dying_descendants", &dying);
		if (err || !dying || clock_ns() >= deadline)
			break;
		clock_sleep_ms(SETTLE_MS);
	}
	if (err) {
		cell_fail(c, "cgroup.stat of %s: %s", CHURN_GROUP, strerror(-err));
		return err;
	}
	cell_metric_u64(c, "dying_left", dying);
	if (!dying)
		cell_metric_fixed(c, "settle_s", (clock_ns() - begin) / NS_PER_MS, 3);
	if (scope_get(CHURN_GROUP, "memory.current", NULL, &bytes) == 0)
		cell_metric_u64(c, "memory_left_kib", bytes / 1024);
	return 0;
}

static const struct workload cgroup_churn = {
	.name = "cgroup-churn",
	.summary = "cgroups come and go, with kernel memory charged to them, some of it pinned beyond their life",
	.programs = (const char *const[]){ "cgcreate?", "cgdelete?", NULL },
	.exercises = (const char *const[]){ "cgroup_mkdir", "cgroup_rmdir", "mem_cgroup_css_offline",
					    "memcg_reparent_objcgs", "memcg_slab_post_alloc_hook", NULL },
	.opts = churn_options,
	.opts_size = sizeof(struct churn_opts),
	.mitigations = churn_mitigations,
	.metrics = churn_metrics,
	.check = check,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(cgroup_churn);
