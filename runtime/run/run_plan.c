// SPDX-License-Identifier: MIT
/* From a request to a plan, and whether this machine can carry it out. */
#include "run/run.h"

#include "base/log.h"
#include "base/pattern.h"
#include "base/sysfile.h"
#include "commands.h"
#include "run/needs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ERR_SIZE       1200
#define SPARE_DISK_MIB 512 /* left free beside what a cell may write at most */
#define SPARE_MEM_MIB  256 /* QEMU itself, and the host's breath */

static int usage_error(const char *text)
{
	log_err("%s", text);
	return EXIT_USAGE;
}

/* splitmix64, for the order of arms. */
static uint64_t next_random(uint64_t *state)
{
	return pattern_mix(*state += 0x9e3779b97f4a7c15ULL);
}

static void shuffle(unsigned *order, unsigned n, uint64_t seed)
{
	for (unsigned i = n; i > 1; i--) {
		unsigned k = (unsigned)(next_random(&seed) % i), swap = order[i - 1];

		order[i - 1] = order[k];
		order[k] = swap;
	}
}

struct planned_cell *run_add_cell(struct run *r, const char *arm, unsigned kernel, unsigned repeat)
{
	struct planned_cell *c = &r->plan[r->n_cells];

	if (r->n_cells == RUN_MAX_CELLS)
		return NULL;
	r->n_cells++;
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%03zu-%.60s-%u", r->n_cells, arm, repeat);
	snprintf(c->arm, sizeof(c->arm), "%s", arm);
	c->kernel = kernel;
	c->repeat = repeat;
	/* The same data for all arms of a repeat: pairs differ in the arm alone. */
	c->seed = r->request.seed + repeat - 1;
	return c;
}

/* Every arm once a repeat. The first repeat in the order that was asked for, the others in an order from the seed. */
static int plan_cells(struct run *r, char *arms)
{
	const char *names[SCENARIO_MAX_ARMS * 2];
	unsigned n = 0, order[SCENARIO_MAX_ARMS * 2];
	char err[ERR_SIZE], *name;
	struct arm arm;

	while ((name = strsep(&arms, ", "))) {
		if (!*name)
			continue;
		if (n == SCENARIO_MAX_ARMS * 2)
			return usage_error("more arms than a plan can hold");
		if (scenario_arm(&r->scenario, name, &arm, err, sizeof(err)))
			return usage_error(err);
		for (unsigned i = 0; i < n; i++)
			if (strcmp(names[i], name) == 0)
				return usage_error("--arms: an arm is named twice");
		names[n++] = name;
	}
	if (!n)
		return usage_error("--arms: no arm is named");
	for (unsigned repeat = 1; repeat <= r->request.repeat; repeat++) {
		for (unsigned i = 0; i < n; i++)
			order[i] = i;
		if (repeat > 1)
			shuffle(order, n, r->request.seed + repeat);
		for (unsigned i = 0; i < n; i++) {
			if (run_add_cell(r, names[order[i]], 0, repeat))
				continue;
			log_err("the plan has more than %d cells: fewer arms or repeats", RUN_MAX_CELLS);
			return EXIT_USAGE;
		}
	}
	return 0;
}

int run_plan(struct run *r, const char *scenario_text)
{
	const struct run_request *q = &r->request;
	char err[ERR_SIZE], arms[2048], set[64];
	struct scenario *s = &r->scenario;

	if (scenario_text ? scenario_parse(s, q->scenario, scenario_text, err, sizeof(err))
			  : scenario_load(s, q->scenario, err, sizeof(err)))
		return usage_error(err);
	for (size_t i = 0; i < q->n_sets; i++)
		if (scenario_set(s, q->sets[i], err, sizeof(err)))
			return usage_error(err);
	snprintf(set, sizeof(set), "scenario.memory=%" PRIu64, q->memory_mib);
	if (q->memory_mib && scenario_set(s, set, err, sizeof(err)))
		return usage_error(err);
	snprintf(set, sizeof(set), "scenario.cpus=%" PRIu64, q->cpus);
	if (q->cpus && scenario_set(s, set, err, sizeof(err)))
		return usage_error(err);
	if (scenario_check(s, err, sizeof(err)))
		return usage_error(err);
	if (!q->arms)
		snprintf(arms, sizeof(arms), "%s", s->default_arms);
	else if (strcmp(q->arms, "all") == 0)
		scenario_all_arms(s, q->kernels[0], arms, sizeof(arms));
	else
		snprintf(arms, sizeof(arms), "%s", q->arms);
	return plan_cells(r, arms);
}

/* --- Needs --- */

static int missing(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int missing(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_err("%s", text);
	return EXIT_NEED;
}

/* The most that a cell of any arm may write, and the largest guest. */
static void largest_cell(const struct run *r, uint64_t *disk_mib, uint64_t *memory_mib)
{
	static struct scenario s;
	char err[ERR_SIZE];
	struct arm arm;

	*disk_mib = *memory_mib = 0;
	for (size_t i = 0; i < r->n_cells; i++) {
		uint64_t mib;

		s = r->scenario;
		if (scenario_arm(&s, r->plan[i].arm, &arm, err, sizeof(err)) ||
		    scenario_apply(&s, &arm, err, sizeof(err)))
			continue; /* refused when the plan was made */
		mib = (scenario_place(&s) * 512 + scenario_box_size(&s)) >> 20;
		*disk_mib = mib > *disk_mib ? mib : *disk_mib;
		mib = s.opts.memory + s.opts.dimms * s.opts.dimm_mib;
		*memory_mib = mib > *memory_mib ? mib : *memory_mib;
	}
}

int run_check_needs(const struct run *r)
{
	const struct scenario *s = &r->scenario;
	uint64_t disk_need, memory, have;
	int err;

	largest_cell(r, &disk_need, &memory);
	disk_need += SPARE_DISK_MIB;
	if (!need_program(QEMU_BINARY))
		return missing("%s is not installed: run 'make deps' (package qemu-system-x86)", QEMU_BINARY);
	for (size_t i = 0; i < s->n_workloads; i++)
		for (const char *const *p = s->workloads[i].workload->programs; p && *p; p++)
			if (!need_program(*p))
				return missing("%s is not installed, workload %s needs it: run 'make deps'", *p,
					       s->workloads[i].workload->name);
	have = need_memory_mib();
	if (have < memory + SPARE_MEM_MIB)
		return missing("%" PRIu64 " MiB of memory are available, a guest of %" PRIu64 " MiB needs %" PRIu64
			       ": --memory MIB makes it smaller",
			       have, memory, memory + SPARE_MEM_MIB);
	err = need_disk_mib(r->request.out, &have);
	if (err)
		return missing("--out %s: %s", r->request.out, strerror(-err));
	if (have < disk_need)
		return missing("%s: %" PRIu64 " MiB are free, a cell may write %" PRIu64
			       ": --out DIR puts results elsewhere",
			       r->request.out, have, disk_need);
	return 0;
}
