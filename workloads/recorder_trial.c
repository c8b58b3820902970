// SPDX-License-Identifier: MIT
/*
 * recorder-trial: what a flight recorder has to live through, one after the other.
 *
 *   clock steps   CLOCK_REALTIME jumps a day forward and back: the record's times must not notice;
 *   starvation    a real-time task on every CPU runs for seconds: the ticks left out must be counted, no more, no less;
 *   memcg OOM     all that belongs to the cell is killed at once by memory.oom.group: every kill must be there, named.
 *
 * Whether the record says all this is seen there, not here: the test of this workload does it.
 */
#include "base/clock.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "run/workload.h"

#include <errno.h>
#include <linux/limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STEP_S		  86400
#define STEP_EVERY_MS	  300
#define MAX_TASKS	  64
#define START_TOGETHER_MS 500

struct trial_opts {
	uint64_t clock_steps, starve_s, oom_tasks, oom_mib;
};

#define FIELD(name) offsetof(struct trial_opts, name)
static const struct opt trial_options[] = {
	{ "clock_steps", OPT_U64, FIELD(clock_steps), "6", 0, 1000, NULL, NULL,
	  "how often the wall clock jumps a day forward and back" },
	{ "starve_s", OPT_U64, FIELD(starve_s), "10", 0, 25, NULL, "s", "how long no CPU is left for the recorder" },
	{ "oom_tasks", OPT_U64, FIELD(oom_tasks), "4", 0, MAX_TASKS, NULL, NULL,
	  "tasks that fill the cell's cgroup until all in it is killed; 0: none" },
	{ "oom_mib", OPT_U64, FIELD(oom_mib), "64", 16, 1 << 20, NULL, "MiB", "memory.max of the cell's cgroup then" },
	{ 0 },
};

static const struct metric trial_metrics[] = {
	{ "starved_s", "s", NEITHER, "time in which real-time tasks held every CPU" },
	{ 0 },
};

static int step_clock(const struct cell *c, int64_t seconds)
{
	struct timespec now;
	int err;

	clock_gettime(CLOCK_REALTIME, &now);
	now.tv_sec += seconds;
	if (clock_settime(CLOCK_REALTIME, &now) == 0)
		return 0;
	err = -errno;
	cell_fail(c, "set the clock: %s", strerror(-err));
	return err;
}

static int clock_steps(const struct cell *c, uint64_t steps)
{
	int err = 0;

	for (uint64_t i = 0; !err && i < steps; i++) {
		err = step_clock(c, STEP_S);
		clock_sleep_ms(STEP_EVERY_MS);
		if (!err)
			err = step_clock(c, -STEP_S);
		clock_sleep_ms(STEP_EVERY_MS);
	}
	return err;
}

/* Above the recorder, which is at priority 1 of SCHED_RR. What sched_rt_runtime_us leaves is for others than both. */
static void hog(int cpu, int64_t from_ns, int64_t until_ns)
{
	struct sched_param param = { .sched_priority = 50 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		_exit(1);
	clock_sleep_ms((from_ns - clock_ns()) / NS_PER_MS);
	if (sched_setscheduler(0, SCHED_FIFO, &param) < 0)
		_exit(1);
	while (clock_ns() < until_ns)
		;
	_exit(0);
}

static int starve(const struct cell *c, uint64_t seconds)
{
	/* All at the same moment, or the first keeps the others from being started. */
	int64_t from = clock_ns() + START_TOGETHER_MS * NS_PER_MS, until = from + (int64_t)seconds * NS_PER_S;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int started = 0, status, err = 0;

	for (int cpu = 0; cpu < cpus; cpu++) {
		pid_t pid = fork();

		if (pid == 0)
			hog(cpu, from, until);
		started += pid > 0;
	}
	for (int i = 0; i < started; i++)
		if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
			err = -ECANCELED;
	if (err || started != cpus)
		cell_fail(c, "real-time tasks: not one on each of %ld CPUs", cpus);
	else
		cell_metric_fixed(c, "starved_s", (clock_ns() - from) / NS_PER_MS, 3);
	return started == cpus ? err : -EAGAIN;
}

/* Takes memory until it is killed. */
static void fill(void)
{
	size_t step = 1 << 20;

	for (;;) {
		char *memory = mmap(NULL, step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			_exit(1);
		memset(memory, 1, step);
	}
}

/* Does not return where it works: the hook belongs to those that are killed. */
static int oom_of_everything(const struct cell *c, uint64_t tasks, uint64_t mib)
{
	char dir[PATH_MAX], path[PATH_MAX + 32], value[32];
	int err;

	scope_path(CGROUP_PARENT, dir, sizeof(dir));
	snprintf(path, sizeof(path), "%s/memory.oom.group", dir);
	err = sysfile_write(path, "1");
	snprintf(path, sizeof(path), "%s/memory.max", dir);
	snprintf(value, sizeof(value), "%llu", (unsigned long long)mib << 20);
	if (!err)
		err = sysfile_write(path, value);
	if (err) {
		cell_fail(c, "%s: %s", path, strerror(-err));
		return err;
	}
	for (uint64_t i = 0; i < tasks; i++) {
		pid_t pid = fork();

		if (pid == 0)
			fill();
		if (pid < 0) {
			err = -errno;
			cell_fail(c, "fork: %s", strerror(-err));
			return err;
		}
	}
	while (!cell_should_stop(c))
		clock_sleep_ms(100);
	cell_fail(c, "nothing was killed at %s bytes", value);
	return -ETIMEDOUT;
}

static int nothing(struct cell *c)
{
	(void)c;
	return 0;
}

static int run(struct cell *c)
{
	const struct trial_opts *o = c->opts;
	int err = clock_steps(c, o->clock_steps);

	if (!err && o->starve_s)
		err = starve(c, o->starve_s);
	if (!err && o->oom_tasks)
		err = oom_of_everything(c, o->oom_tasks, o->oom_mib);
	return err;
}

static const struct workload recorder_trial = {
	.name = "recorder-trial",
	.summary = "clock steps, starvation by real-time tasks, and the OOM of a whole cgroup: a load for the recorder",
	.exercises =
		(const char *const[]){ "do_settimeofday64", "pick_next_task_rt", "mem_cgroup_get_oom_group", NULL },
	.opts = trial_options,
	.opts_size = sizeof(struct trial_opts),
	.metrics = trial_metrics,
	.setup = nothing,
	.run = run,
	.verify = nothing,
};
WORKLOAD_REGISTER(recorder_trial);
