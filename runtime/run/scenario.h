// SPDX-License-Identifier: MIT
/*
 * Scenario files: what to run, how large, for how long, and under which arms. The dialect is fio's:
 *
 *	[scenario]                 options of the scenario itself
 *	summary = one line
 *	memory = 768
 *	arms = before, after       run when none are named on the command line
 *	expect-after = ok          verdicts that count as expected in arm `after`
 *	with = swap, snapshot      of the workloads below only these: names, or parts that only one has
 *	until = snapshot, swap     when these have ended the others are told to stop
 *	[snapshot-cow]             a workload and its options; a section for each one that runs
 *	snapshots = 8
 *	origin_mib = 20%           an option in MiB, as a share of the scenario's memory
 *	[arm strict]               an arm of one's own: mitigations (on, off or a value) and options
 *	cow-limit = 64
 *	snapshot-cow.snapshots = 4
 *
 * An unknown section, key or value is refused with file and line.
 */
#ifndef HEADROOM_SCENARIO_H
#define HEADROOM_SCENARIO_H

#include "run/spec.h"

#include <limits.h>

#define SCENARIO_MAX_ARMS	  32
#define SCENARIO_MAX_ARM_SETTINGS 32
#define SCENARIO_MAX_SHARES	  32
#define SCENARIO_MAX_TEXT	  (64 * 1024)

struct scenario_opts {
	uint64_t memory, cpus, dimms, dimm_mib, setup_s, run_s, ramp_s, overlap_s, verify_s, silence_s, bystander,
		period_ms, canary_ms, wq_trace_kib, wq_trace_ms, slack_s, typical_s, dirty_ratio,
		dirty_background_ratio;
	unsigned lru_gen, thp;
	bool panic_on_oom, wq_trace;
};

struct arm_setting {
	const struct mitigation *mitigation; /* or NULL: */
	char section[48], option[48];	     /* an option of the scenario or of a workload */
	char value[64];
};

struct arm {
	char name[64];
	struct arm_setting settings[SCENARIO_MAX_ARM_SETTINGS];
	size_t n_settings;
};

/* An option that was given as a share of memory. */
struct share {
	const struct workload *workload; /* NULL: of the scenario itself */
	const struct opt *opt;
	uint64_t pct;
};

struct expectation {
	char arm[64];
	unsigned verdicts; /* bit mask by enum verdict */
};

struct scenario {
	char name[64], path[PATH_MAX], summary[256], default_arms[256];
	char text[SCENARIO_MAX_TEXT];
	struct scenario_opts opts;
	struct spec_workload workloads[SPEC_MAX_WORKLOADS];
	size_t n_workloads;
	struct arm arms[SCENARIO_MAX_ARMS]; /* the file's own */
	size_t n_arms;
	struct expectation expect[SCENARIO_MAX_ARMS];
	size_t n_expect;
	struct share shares[SCENARIO_MAX_SHARES];
	size_t n_shares;
	char with[256], until[256];
};

extern const struct opt scenario_options[];
extern const char *const scenario_thp_choices[]; /* the first leaves it as it is */

/*
 * Load by name (workloads/scenarios/NAME.ini) or by path (with a '/' or ending in .ini). 0, or -EINVAL with one line
 * in err: FILE:LINE: what is wrong and what is allowed.
 */
int scenario_load(struct scenario *s, const char *name, char *err, size_t err_size);
/* The same from text that was stored with a run; `name` only names it. */
int scenario_parse(struct scenario *s, const char *name, const char *text, char *err, size_t err_size);
/* --set SECTION.OPTION=VALUE. */
int scenario_set(struct scenario *s, const char *assignment, char *err, size_t err_size);
/*
 * Take over what is given as a share of memory, which a later option may have changed, and see whether the options fit
 * together.
 */
int scenario_check(struct scenario *s, char *err, size_t err_size);
/* Sectors of scratch disk that the workloads need, and where each one's part starts (MiB-aligned). */
uint64_t scenario_place(struct scenario *s);
/* How large the black box of a cell has to be for all its phases. */
uint64_t scenario_box_size(const struct scenario *s);

/* The i-th mitigation of all the scenario's workloads, or NULL. */
const struct mitigation *scenario_mitigation(const struct scenario *s, size_t i);
/*
 * Resolve an arm: `before`, `after`, `only-X`, `without-X` or one of the file's. Every mitigation of the scenario gets
 * a value. 0 or -EINVAL with the arms there are in err.
 */
int scenario_arm(const struct scenario *s, const char *name, struct arm *arm, char *err, size_t err_size);
/*
 * Names of all arms, separated by commas: what `--arms all` stands for on a kernel of this version ("6.1"; "" for any).
 * Mitigations that it does not have give no arms of their own: they would be `before` and `after` again.
 */
void scenario_all_arms(const struct scenario *s, const char *kernel, char *buf, size_t size);
/* Apply to a copy of the scenario what an arm sets of options, by name or for a mitigation. */
int scenario_apply(struct scenario *s, const struct arm *arm, char *err, size_t err_size);

#endif
