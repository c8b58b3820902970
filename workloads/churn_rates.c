// SPDX-License-Identifier: MIT
/*
 * churn-rates: how fast groups can be made and removed, by each way there is, one after the other on the same machine.
 *
 * The ways are ours (mkdir(2) and rmdir(2) from one process), libcgroup, and what others use: its programs cgcreate and
 * cgdelete, a shell loop of mkdir and rmdir, and stress-ng's own stressor of cgroups where its version has one. In
 * every round each of them has its turn, so that a machine that grows slower meanwhile does so for all; a ratio is of
 * one round, and the figures are medians of the rounds.
 */
#include "base/clock.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "run/workload.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RATES_GROUP CGROUP_PARENT "/rates"
#define MAX_ROUNDS  31
#define BUSY_MS	    5000

struct rates_opts {
	uint64_t groups, slow_groups, rounds, stress_s;
};

#define FIELD(name) offsetof(struct rates_opts, name)
static const struct opt rates_options[] = {
	{ "groups", OPT_U64, FIELD(groups), "200", 1, 1000000, NULL, NULL,
	  "made and removed in one round by system calls, and by libcgroup" },
	{ "slow_groups", OPT_U64, FIELD(slow_groups), "40", 1, 1000000, NULL, NULL,
	  "the same, by programs that are started for each group" },
	{ "rounds", OPT_U64, FIELD(rounds), "5", 1, MAX_ROUNDS, NULL, NULL, "in which each way has its turn" },
	{ "stress_s", OPT_U64, FIELD(stress_s), "5", 1, 600, NULL, "s", "that stress-ng's stressor has in a round" },
	{ 0 },
};

enum way { RAW, LIBCGROUP, TOOLS, SHELL, STRESSOR, N_WAYS };

static const struct {
	const char *name, *rate, *ratio;
} ways[N_WAYS] = {
	[RAW] = { "raw", "raw_groups_s", NULL },
	[LIBCGROUP] = { "libcgroup", "libcgroup_groups_s", "raw_to_libcgroup" },
	[TOOLS] = { "cgcreate and cgdelete", "cgcreate_groups_s", "raw_to_cgcreate" },
	[SHELL] = { "a shell loop", "shell_groups_s", "raw_to_shell" },
	[STRESSOR] = { "stress-ng", "stress_ng_groups_s", "raw_to_stress_ng" },
};

static const struct metric rates_metrics[] = {
	{ "raw_groups_s", "groups/s", MORE, "made and removed by mkdir(2) and rmdir(2)" },
	{ "libcgroup_groups_s", "groups/s", MORE, "made and removed by libcgroup" },
	{ "cgcreate_groups_s", "groups/s", MORE, "made and removed by cgcreate and cgdelete" },
	{ "shell_groups_s", "groups/s", MORE, "made and removed by a shell loop" },
	{ "stress_ng_groups_s", "groups/s", MORE, "made and removed by stress-ng's stressor of cgroups" },
	{ "raw_to_libcgroup", "", NEITHER, "rate by system calls, as a multiple of libcgroup's" },
	{ "raw_to_cgcreate", "", NEITHER, "rate by system calls, as a multiple of that of cgcreate and cgdelete" },
	{ "raw_to_shell", "", NEITHER, "rate by system calls, as a multiple of the shell loop's" },
	{ "raw_to_stress_ng", "", NEITHER, "rate by system calls, as a multiple of stress-ng's" },
	{ 0 },
};

/* --- Each way: groups per second, ABSENT when there is no such way here, FAILED after cell_fail(). --- */

#define ABSENT (-1.0)
#define FAILED 0.0

static double rate_of(uint64_t groups, int64_t took_ns)
{
	return took_ns > 0 ? (double)groups * NS_PER_S / (double)took_ns : 0;
}

static int make_and_remove(enum way way, const char *group)
{
	int64_t deadline = clock_ns() + BUSY_MS * NS_PER_MS;
	int err = way == RAW ? scope_mkdir(group) : scope_create(group);

	while (!err && (err = way == RAW ? scope_rmdir(group) : scope_remove(group)) == -EBUSY &&
	       clock_ns() < deadline) {
		sched_yield();
		err = 0;
	}
	return err;
}

static double by_call(struct cell *c, enum way way)
{
	const struct rates_opts *o = c->opts;
	int64_t begin = clock_ns();

	for (uint64_t i = 0; i < o->groups; i++) {
		char group[64];
		int err;

		snprintf(group, sizeof(group), RATES_GROUP "/%" PRIu64, i);
		err = cell_should_stop(c) ? -ETIMEDOUT : make_and_remove(way, group);
		if (err) {
			cell_fail(c, "%s, group %s: %s", ways[way].name, group, strerror(-err));
			return FAILED;
		}
	}
	return rate_of(o->groups, clock_ns() - begin);
}

static double by_script(struct cell *c, enum way way, const char *script)
{
	const struct rates_opts *o = c->opts;
	char groups[24], path[PATH_MAX];
	const char *argv[] = { "sh", "-c", script, "sh", groups, RATES_GROUP, path, NULL };
	int64_t begin = clock_ns();
	int rc;

	snprintf(groups, sizeof(groups), "%" PRIu64, o->slow_groups);
	scope_path(RATES_GROUP, path, sizeof(path));
	rc = cell_tool(c, "peer", argv);
	if (rc) {
		cell_fail(c, "%s: %s", ways[way].name, rc < 0 ? strerror(-rc) : "see peer.err");
		return FAILED;
	}
	return rate_of(o->slow_groups, clock_ns() - begin);
}

/* Does this shell command succeed? -errno when nobody knows. */
static int there(struct cell *c, const char *command)
{
	int rc = cell_tool(c, "peer", (const char *const[]){ "sh", "-c", command, NULL });

	if (rc < 0)
		cell_fail(c, "%s: %s", command, strerror(-rc));
	return rc < 0 ? rc : rc == 0;
}

static double by_tools(struct cell *c)
{
	static const char loop[] = "i=0; while [ $i -lt $1 ]; do "
				   "cgcreate -g memory:$2/$i && cgdelete -g memory:$2/$i || exit 1; i=$((i+1)); done";

	int rc = there(c, "command -v cgcreate && command -v cgdelete");

	if (rc <= 0)
		return rc < 0 ? FAILED : ABSENT;
	return by_script(c, TOOLS, loop);
}

static double by_shell(struct cell *c)
{
	return by_script(c, SHELL,
			 "i=0; while [ $i -lt $1 ]; do mkdir $3/$i && rmdir $3/$i || exit 1; i=$((i+1)); done");
}

/*
 * Its bogo operation is one group: but also a mount of the hierarchy, reads of what is in it, and a process that is
 * moved, so that its rate is no measure of the kernel's.
 */
static double by_stressor(struct cell *c)
{
	const struct rates_opts *o = c->opts;
	char timeout[24], yaml[PATH_MAX], text[16384], *ops, *took;
	const char *argv[] = { "stress-ng", "--cgroup", "1",	       "--timeout", timeout, "--metrics",
			       "--yaml",    yaml,	"--temp-path", c->work_dir, NULL };
	uint64_t done;
	int rc = there(c, "stress-ng --stressors | grep -qw cgroup");

	if (rc <= 0)
		return rc < 0 ? FAILED : ABSENT;
	snprintf(timeout, sizeof(timeout), "%" PRIu64, o->stress_s);
	snprintf(yaml, sizeof(yaml), "%s/stress-ng.yaml", c->work_dir);
	rc = cell_tool(c, "peer", argv);
	if (rc || sysfile_read(yaml, text, sizeof(text)) < 0) {
		cell_fail(c, "stress-ng: %s", rc < 0 ? strerror(-rc) : "see peer.err");
		return FAILED;
	}
	ops = strstr(text, "bogo-ops: ");
	took = strstr(text, "wall-clock-time: ");
	done = ops ? strtoull(ops + strlen("bogo-ops: "), NULL, 10) : 0;
	if (!done || !took) {
		cell_fail(c, "stress-ng: not one group in %" PRIu64 " s, see stress-ng.yaml", o->stress_s);
		return FAILED;
	}
	return rate_of(done, (int64_t)(strtod(took + strlen("wall-clock-time: "), NULL) * NS_PER_S));
}

static double rate_by(struct cell *c, enum way way)
{
	switch (way) {
	case TOOLS:
		return by_tools(c);
	case SHELL:
		return by_shell(c);
	case STRESSOR:
		return by_stressor(c);
	default:
		return by_call(c, way);
	}
}

/* --- Figures --- */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void tell_median(const struct cell *c, const char *metric, double *values, uint64_t n)
{
	double median;

	qsort(values, n, sizeof(*values), by_value);
	median = (values[(n - 1) / 2] + values[n / 2]) / 2;
	cell_metric_fixed(c, metric, (int64_t)(median * 1e3), 3);
}

static void tell_way(const struct cell *c, enum way way, double rates[N_WAYS][MAX_ROUNDS], uint64_t rounds)
{
	double ratios[MAX_ROUNDS], sorted[MAX_ROUNDS];

	if (rates[way][0] == ABSENT) {
		cell_finding(c, "%s: not on this machine", ways[way].name);
		return;
	}
	for (uint64_t i = 0; i < rounds; i++)
		ratios[i] = rates[RAW][i] / rates[way][i];
	memcpy(sorted, rates[way], rounds * sizeof(*sorted));
	tell_median(c, ways[way].rate, sorted, rounds);
	if (ways[way].ratio)
		tell_median(c, ways[way].ratio, ratios, rounds);
}

static int setup(struct cell *c)
{
	int err = scope_enable(RATES_GROUP, (const char *const[]){ "memory", NULL });

	if (err)
		cell_fail(c, "cgroup %s: %s", RATES_GROUP, strerror(-err));
	return err;
}

static int run(struct cell *c)
{
	const struct rates_opts *o = c->opts;
	double rates[N_WAYS][MAX_ROUNDS];

	for (uint64_t i = 0; i < o->rounds; i++) {
		for (enum way way = RAW; way < N_WAYS; way++) {
			rates[way][i] = rate_by(c, way);
			if (rates[way][i] == FAILED)
				return -ECANCELED;
		}
	}
	for (enum way way = RAW; way < N_WAYS; way++)
		tell_way(c, way, rates, o->rounds);
	return 0;
}

static int verify(struct cell *c)
{
	(void)c;
	return 0;
}

static const struct workload churn_rates = {
	.name = "churn-rates",
	.summary = "how fast groups can be made and removed: by us, by libcgroup, and by what others use",
	.programs = (const char *const[]){ "cgcreate?", "cgdelete?", "stress-ng?", NULL },
	.exercises = (const char *const[]){ "cgroup_mkdir", "cgroup_rmdir", NULL },
	.group = RATES_GROUP,
	.opts = rates_options,
	.opts_size = sizeof(struct rates_opts),
	.metrics = rates_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(churn_rates);
