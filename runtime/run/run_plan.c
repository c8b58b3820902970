// SPDX-License-Identifier: MIT
/* From a request to a plan, and whether this machine can carry it out. */
#include "run/run.h"

#include "base/log.h"
#include "base/module.h"
#include "base/pattern.h"
#include "base/sysfile.h"
#include "commands.h"
#include "run/needs.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ERR_SIZE       1200
#define SPARE_DISK_MIB 512 /* left free beside what a cell may write at most */
#define CGROUP_V2      "/sys/fs/cgroup"
#define SPARE_MEM_MIB  256 /* QEMU itself, and the host's breath */
#define LABEL_SIZE     24  /* of a kernel's name in names of files */

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

/* A kernel in names of files: of a path the end, and nothing that a shell would read. */
static void file_name(const char *spec, char *buf, size_t size)
{
	const char *slash = strrchr(spec, '/');

	snprintf(buf, size, "%s", slash && slash[1] ? slash + 1 : spec);
	for (char *c = buf; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("._+", *c))
			*c = '-';
}

/* The same; two of one name, as A/bzImage and B/bzImage are, get their places in the list as well. */
static void kernel_label(const struct run_request *q, size_t kernel, char *buf, size_t size)
{
	char other[LABEL_SIZE];
	bool twin = false;

	file_name(q->kernels[kernel], buf, LABEL_SIZE); /* cut as the others are, to compare */
	for (size_t i = 0; i < q->n_kernels; i++) {
		file_name(q->kernels[i], other, sizeof(other));
		twin |= i != kernel && strcmp(buf, other) == 0;
	}
	if (twin)
		snprintf(buf + strlen(buf), size - strlen(buf), ".%zu", kernel + 1);
}

/* The number in front keeps names apart, whatever of the rest is cut off. */
static void name_cell(const struct run *r, struct planned_cell *c, const char *arm)
{
	char label[LABEL_SIZE + 4];

	if (r->request.n_kernels == 1) {
		snprintf(c->name, sizeof(c->name), "%03zu-%.60s-%u", r->n_cells, arm, c->repeat);
		return;
	}
	kernel_label(&r->request, c->kernel, label, sizeof(label));
	snprintf(c->name, sizeof(c->name), "%03zu-%.43s-%s-%u", r->n_cells, arm, label, c->repeat);
}

struct planned_cell *run_add_cell(struct run *r, const char *arm, unsigned kernel, unsigned repeat)
{
	struct planned_cell *c = &r->plan[r->n_cells];

	if (r->n_cells == RUN_MAX_CELLS)
		return NULL;
	r->n_cells++;
	memset(c, 0, sizeof(*c));
	snprintf(c->arm, sizeof(c->arm), "%s", arm);
	c->kernel = kernel;
	c->repeat = repeat;
	name_cell(r, c, arm);
	/* The same data for all arms and kernels of a repeat: pairs differ in one of them alone. */
	c->seed = r->request.seed + repeat - 1;
	return c;
}

/* What runs once a repeat: each arm on each kernel. */
struct round {
	struct {
		char arm[64];
		unsigned kernel;
	} cells[RUN_MAX_CELLS];
	unsigned n;
};

static int too_many_cells(void)
{
	log_err("the plan has more than %d cells: fewer arms, kernels or repeats", RUN_MAX_CELLS);
	return EXIT_USAGE;
}

/* The arms of one kernel; `arms` is taken apart. */
static int add_arms(const struct run *r, struct round *round, unsigned kernel, char *arms)
{
	unsigned first = round->n;
	char err[ERR_SIZE], *name;
	struct arm arm;

	while ((name = strsep(&arms, ", "))) {
		if (!*name)
			continue;
		if (scenario_arm(&r->scenario, name, &arm, err, sizeof(err)))
			return usage_error(err);
		for (unsigned i = first; i < round->n; i++)
			if (strcmp(round->cells[i].arm, name) == 0)
				return usage_error("--arms: an arm is named twice");
		if (round->n == RUN_MAX_CELLS)
			return too_many_cells();
		snprintf(round->cells[round->n].arm, sizeof(round->cells[0].arm), "%s", name);
		round->cells[round->n++].kernel = kernel;
	}
	return round->n > first ? 0 : usage_error("--arms: no arm is named");
}

/* The first repeat in the order that was asked for, kernel by kernel; the others in an order from the seed. */
static int plan_cells(struct run *r, const struct round *round)
{
	unsigned order[RUN_MAX_CELLS];

	for (unsigned repeat = 1; repeat <= r->request.repeat; repeat++) {
		for (unsigned i = 0; i < round->n; i++)
			order[i] = i;
		if (repeat > 1)
			shuffle(order, round->n, r->request.seed + repeat);
		for (unsigned i = 0; i < round->n; i++)
			if (!run_add_cell(r, round->cells[order[i]].arm, round->cells[order[i]].kernel, repeat))
				return too_many_cells();
	}
	return 0;
}

static int check_kernels(const struct run_request *q)
{
	if (q->modules && q->n_kernels > 1)
		return usage_error("--modules: goes with a single --kernel, the path of a bzImage; of several kernels "
				   "each has its own, in the tree that it lies in");
	for (size_t i = 0; i < q->n_kernels; i++)
		for (size_t k = 0; k < i; k++)
			if (strcmp(q->kernels[i], q->kernels[k]) == 0) {
				log_err("--kernel %s: named twice; --repeat N runs each kernel N times", q->kernels[i]);
				return EXIT_USAGE;
			}
	return 0;
}

/* Which arms there are depends on the kernel, where all are asked for. */
static int plan_round(const struct run *r, struct round *round)
{
	const struct run_request *q = &r->request;
	char arms[2048];
	int rc = 0;

	round->n = 0;
	for (unsigned kernel = 0; !rc && kernel < q->n_kernels; kernel++) {
		if (!q->arms)
			snprintf(arms, sizeof(arms), "%s", r->scenario.default_arms);
		else if (strcmp(q->arms, "all") == 0)
			scenario_all_arms(&r->scenario, q->kernels[kernel], arms, sizeof(arms));
		else
			snprintf(arms, sizeof(arms), "%s", q->arms);
		rc = add_arms(r, round, kernel, arms);
	}
	return rc;
}

/* On metal the machine is what it is; what is sized by memory can be sized as for another one. */
static int take_machine(struct run *r)
{
	int err = metal_look(&r->metal);

	if (err)
		log_err("/proc/meminfo: %s", strerror(-err));
	else if (!r->request.memory_mib)
		r->request.memory_mib = r->metal.memory_mib;
	return err;
}

int run_plan(struct run *r, const char *scenario_text)
{
	const struct run_request *q = &r->request;
	char err[ERR_SIZE], set[64];
	struct scenario *s = &r->scenario;
	struct round round;
	int rc;

	if (scenario_text ? scenario_parse(s, q->scenario, scenario_text, err, sizeof(err))
			  : scenario_load(s, q->scenario, err, sizeof(err)))
		return usage_error(err);
	for (size_t i = 0; i < q->n_sets; i++)
		if (scenario_set(s, q->sets[i], err, sizeof(err)))
			return usage_error(err);
	if (q->on_metal && take_machine(r))
		return EXIT_NEED;
	snprintf(set, sizeof(set), "scenario.memory=%" PRIu64, q->memory_mib);
	if (q->memory_mib && scenario_set(s, set, err, sizeof(err)))
		return usage_error(err);
	snprintf(set, sizeof(set), "scenario.cpus=%" PRIu64, q->cpus);
	if (q->cpus && scenario_set(s, set, err, sizeof(err)))
		return usage_error(err);
	if (q->on_metal)
		s->opts.cpus = r->metal.cpus;
	if (scenario_check(s, err, sizeof(err)))
		return usage_error(err);
	rc = check_kernels(q);
	if (!rc)
		rc = plan_round(r, &round);
	return rc ? rc : plan_cells(r, &round);
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

/* The largest cell of any arm: what it may write onto its scratch disk, all that it may write, its guest's memory. */
struct largest {
	uint64_t scratch_bytes, disk_mib, memory_mib;
};

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static struct largest largest_cell(const struct run *r)
{
	struct largest most = { 0 };
	static struct scenario s;
	char err[ERR_SIZE];
	struct arm arm;

	for (size_t i = 0; i < r->n_cells; i++) {
		uint64_t scratch;

		s = r->scenario;
		if (scenario_arm(&s, r->plan[i].arm, &arm, err, sizeof(err)) ||
		    scenario_apply(&s, &arm, err, sizeof(err)))
			continue; /* refused when the plan was made */
		scratch = scenario_place(&s) * 512;
		most.scratch_bytes = larger(most.scratch_bytes, scratch);
		most.disk_mib =
			larger(most.disk_mib, ((r->request.device ? 0 : scratch) + scenario_box_size(&s)) >> 20);
		most.memory_mib = larger(most.memory_mib, s.opts.memory + s.opts.dimms * s.opts.dimm_mib);
	}
	return most;
}

/* What the guests that we make have, and this machine may lack. */
static int check_metal(const struct scenario *s, bool has_disk)
{
	bool dm = has_disk; /* which device mapper holds for us */

	if (geteuid() != 0)
		return missing("--on metal: only root may make devices and groups and change the kernel's settings; "
			       "without root: --on guest");
	if (access(CGROUP_V2 "/cgroup.controllers", F_OK) < 0)
		return missing("--on metal: no cgroup v2 at " CGROUP_V2
			       ": boot with systemd.unified_cgroup_hierarchy=1, or "
			       "mount -t cgroup2 none " CGROUP_V2);
	for (size_t i = 0; i < s->n_workloads; i++)
		for (const char *const *m = s->workloads[i].workload->modules; m && *m; m++)
			dm |= strncmp(*m, "dm-", 3) == 0 && !strchr(*m, '?');
	if (!has_disk)
		module_load("loop?");
	if (!has_disk && access("/dev/loop-control", R_OK | W_OK) < 0)
		return missing("--on metal: /dev/loop-control: %s: the scratch disk is a file behind a loop device",
			       strerror(errno));
	if (dm)
		module_load("dm-mod?");
	if (dm && access("/dev/mapper/control", R_OK | W_OK) < 0)
		return missing("--on metal: /dev/mapper/control: %s: this kernel has no device mapper",
			       strerror(errno));
	return 0;
}

int run_check_needs(const struct run *r)
{
	const struct scenario *s = &r->scenario;
	const struct largest most = largest_cell(r);
	uint64_t disk_need = most.disk_mib + SPARE_DISK_MIB, have;
	int err, rc;

	rc = r->request.on_metal ? check_metal(s, r->request.device) : 0;
	if (rc)
		return rc;
	if (!r->request.on_metal && !need_program(QEMU_BINARY))
		return missing("%s is not installed: run 'make deps' (package qemu-system-x86)", QEMU_BINARY);
	for (size_t i = 0; i < s->n_workloads; i++)
		for (const char *const *p = s->workloads[i].workload->programs; p && *p; p++)
			if (!need_program(*p))
				return missing("%s is not installed, workload %s needs it: run 'make deps'", *p,
					       s->workloads[i].workload->name);
	have = need_memory_mib();
	if (!r->request.on_metal && have < most.memory_mib + SPARE_MEM_MIB)
		return missing("%" PRIu64 " MiB of memory are available, a guest of %" PRIu64 " MiB needs %" PRIu64
			       ": --memory MIB makes it smaller",
			       have, most.memory_mib, most.memory_mib + SPARE_MEM_MIB);
	err = need_disk_mib(r->request.out, &have);
	if (err)
		return missing("--out %s: %s", r->request.out, strerror(-err));
	if (have < disk_need)
		return missing("%s: %" PRIu64 " MiB are free, a cell may write %" PRIu64
			       ": --out DIR puts results elsewhere",
			       r->request.out, have, disk_need);
	return 0;
}

int run_claim_disk(const struct run *r)
{
	char text[2 * PATH_MAX];
	int err;

	if (!r->request.device)
		return 0;
	err = metal_claim_disk(r->request.device, largest_cell(r).scratch_bytes, text, sizeof(text));
	if (err)
		log_err("%s", text);
	return err == -EINVAL ? EXIT_USAGE : err ? EXIT_NEED : 0;
}
