// SPDX-License-Identifier: MIT
#include "run/scenario.h"

#include "base/paths.h"
#include "guest/dimm.h"
#include "record/blackbox.h"
#include "run/mitigation.h"
#include "run/verdict.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTION_SCENARIO "scenario"
#define DIMM_STEP_MIB	 128	 /* of x86 with less than 64 GiB (arch/x86/mm/init_64.c, probe_memory_block_size()) */
#define SECTOR_ALIGN	 2048ULL /* 1 MiB */

const char *const scenario_thp_choices[] = { "as-is", "never", "madvise", "always", NULL };
static const char *const lru_gen_choices[] = { "off", "on", "as-is", NULL };

#define FIELD(name) offsetof(struct scenario_opts, name)
const struct opt scenario_options[] = {
	{ "memory", OPT_U64, FIELD(memory), "768", 192, 1 << 20, NULL, "MiB", "memory of the guest" },
	{ "dimms", OPT_U64, FIELD(dimms), "0", 0, DIMM_MAX, NULL, NULL,
	  "that the guest has beside, whose memory is for movable pages only and can be taken away again" },
	{ "dimm_mib", OPT_U64, FIELD(dimm_mib), "256", 128, 1 << 20, NULL, "MiB", "size of each, a multiple of 128" },
	{ "cpus", OPT_U64, FIELD(cpus), "2", 1, 64, NULL, NULL, "processors of the guest" },
	{ "setup_s", OPT_U64, FIELD(setup_s), "60", 1, 86400, NULL, "s", "time allowed for the set-up" },
	{ "run_s", OPT_U64, FIELD(run_s), "60", 10, 604800, NULL, "s", "time allowed for the load" },
	{ "ramp_s", OPT_U64, FIELD(ramp_s), "0", 0, 86400, NULL, "s",
	  "from the beginning of one workload to that of the next, in the file's order" },
	{ "overlap_s", OPT_U64, FIELD(overlap_s), "0", 0, 604800, NULL, "s",
	  "after which, all having begun, those that are not in `until` are told to stop; 0: only by `until`" },
	{ "verify_s", OPT_U64, FIELD(verify_s), "60", 10, 86400, NULL, "s", "time allowed for verifying the data" },
	{ "silence_s", OPT_U64, FIELD(silence_s), "30", 2, 3600, NULL, "s",
	  "a guest whose recorder is silent for so long is taken to hang" },
	{ "slack_s", OPT_U64, FIELD(slack_s), "60", 1, 3600, NULL, "s",
	  "added to boot and phases for tear-down; the guest is ended after the sum of all" },
	{ "typical_s", OPT_U64, FIELD(typical_s), "60", 1, 604800, NULL, "s",
	  "what a cell usually takes; only for the time left that is shown" },
	{ "bystander", OPT_U64, FIELD(bystander), "32", 0, 1 << 20, NULL, "MiB",
	  "memory that a process holds that takes no part, and takes again for moments; 0: none" },
	{ "period_ms", OPT_U64, FIELD(period_ms), "100", 10, 60000, NULL, "ms", "between two samples" },
	{ "canary_ms", OPT_U64, FIELD(canary_ms), "250", 0, 60000, NULL, "ms",
	  "between two probes of the workqueues; 0: none" },
	{ "wq_trace", OPT_BOOL, FIELD(wq_trace), "no", 0, 0, NULL, NULL,
	  "follow the workqueue tracepoints: how long each work waits, and for whom" },
	{ "wq_trace_kib", OPT_U64, FIELD(wq_trace_kib), "4096", 64, 1 << 20, NULL, "KiB",
	  "the kernel's trace buffer for each processor, out of the guest's memory" },
	{ "wq_trace_ms", OPT_U64, FIELD(wq_trace_ms), "1000", 1, 60000, NULL, "ms",
	  "a wait so long is told as a stall of its own" },
	{ "dirty_ratio", OPT_U64, FIELD(dirty_ratio), "0", 0, 100, NULL, "%",
	  "vm.dirty_ratio: how much memory may be dirty before writers must write; 0: the kernel's own" },
	{ "dirty_background_ratio", OPT_U64, FIELD(dirty_background_ratio), "0", 0, 100, NULL, "%",
	  "vm.dirty_background_ratio: from where on the kernel writes by itself; 0: the kernel's own" },
	/* Debian's 6.1 has it off, 6.12 on: kernels are compared under the same reclaim unless one asks otherwise. */
	{ "lru_gen", OPT_ENUM, FIELD(lru_gen), "off", 0, 0, lru_gen_choices, NULL, "multi-generational LRU" },
	/* From 512 MiB of memory on; its daemon raises min_free_kbytes to up to 5 % of memory (mm/khugepaged.c). */
	{ "thp", OPT_ENUM, FIELD(thp), "as-is", 0, 0, scenario_thp_choices, NULL, "transparent huge pages" },
	{ "panic_on_oom", OPT_BOOL, FIELD(panic_on_oom), "no", 0, 0, NULL, NULL,
	  "vm.panic_on_oom: the kernel panics where it would kill" },
	{ 0 },
};

static int fail(char *err, size_t err_size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int fail(char *err, size_t err_size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, err_size, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int copy(char *to, size_t size, const char *from, const char *what, char *err, size_t err_size)
{
	if (strlen(from) >= size)
		return fail(err, err_size, "%s is longer than %zu characters", what, size - 1);
	strcpy(to, from);
	return 0;
}

/*
 * Does one of the workloads before the n-th show the same mitigation? A setting of the machine is one and the same for
 * all; an option is its workload's own.
 */
static bool shown_before(const struct scenario *s, size_t n, const struct mitigation *same)
{
	if (same->option)
		return false;
	for (size_t w = 0; w < n; w++)
		for (const struct mitigation *m = s->workloads[w].workload->mitigations; m && m->name; m++)
			if (strcmp(m->name, same->name) == 0)
				return true;
	return false;
}

const struct mitigation *scenario_mitigation(const struct scenario *s, size_t i)
{
	for (size_t w = 0; w < s->n_workloads; w++)
		for (const struct mitigation *m = s->workloads[w].workload->mitigations; m && m->name; m++)
			if (!shown_before(s, w, m) && i-- == 0)
				return m;
	return NULL;
}

static const struct mitigation *find_mitigation(const struct scenario *s, const char *name)
{
	const struct mitigation *m;

	for (size_t i = 0; (m = scenario_mitigation(s, i)); i++)
		if (strcmp(m->name, name) == 0)
			return m;
	return NULL;
}

static const struct mitigation *find_switchable(const struct scenario *s, const char *name)
{
	const struct mitigation *m = find_mitigation(s, name);

	return m && mitigation_switchable(m) ? m : NULL;
}

/* The workload that a mitigation belongs to. */
static struct spec_workload *owner_of(struct scenario *s, const struct mitigation *wanted)
{
	for (size_t i = 0; i < s->n_workloads; i++)
		for (const struct mitigation *m = s->workloads[i].workload->mitigations; m && m->name; m++)
			if (m == wanted)
				return &s->workloads[i];
	return NULL;
}

/* The mitigation that an option of a workload belongs to: an arm sets it, in every cell. */
static const struct mitigation *mitigation_of(const struct workload *w, const char *option)
{
	for (const struct mitigation *m = w->mitigations; m && m->name; m++)
		if (m->option && strcmp(m->option, option) == 0)
			return m;
	return NULL;
}

static struct spec_workload *find_workload(struct scenario *s, const char *name)
{
	for (size_t i = 0; i < s->n_workloads; i++)
		if (strcmp(s->workloads[i].workload->name, name) == 0)
			return &s->workloads[i];
	return NULL;
}

/* --- Reading --- */

struct reading {
	struct scenario *s;
	const char *p; /* what inih has not seen yet */
	int line;
	int error_line; /* of the first error; 0: none */
	char *err;
	size_t err_size;
};

static int on_section(struct reading *r, const char *name)
{
	struct scenario *s = r->s;
	const struct workload *w;

	if (strcmp(name, SECTION_SCENARIO) == 0)
		return 0;
	if (strncmp(name, "arm ", 4) == 0) {
		if (strcspn(name + 4, "/, ") != strlen(name + 4) || !name[4])
			return fail(r->err, r->err_size, "[%s]: an arm's name has no '/', ',' or blank", name);
		if (s->n_arms == SCENARIO_MAX_ARMS)
			return fail(r->err, r->err_size, "more than %d arms", SCENARIO_MAX_ARMS);
		return copy(s->arms[s->n_arms++].name, sizeof(s->arms[0].name), name + 4, "the arm's name", r->err,
			    r->err_size);
	}
	w = workload_find(name);
	if (!w) {
		size_t len =
			(size_t)snprintf(r->err, r->err_size,
					 "unknown section [%s]: must be [scenario], [arm NAME] or a workload:", name);

		for (size_t i = 0; (w = workload_nth(i)) && len < r->err_size; i++)
			len += (size_t)snprintf(r->err + len, r->err_size - len, " %s", w->name);
		return -EINVAL;
	}
	if (find_workload(s, name))
		return fail(r->err, r->err_size, "section [%s] is there twice", name);
	if (s->n_workloads == SPEC_MAX_WORKLOADS)
		return fail(r->err, r->err_size, "more than %d workloads", SPEC_MAX_WORKLOADS);
	s->workloads[s->n_workloads].workload = w;
	opts_defaults(w->opts, s->workloads[s->n_workloads].opts);
	s->n_workloads++;
	return 0;
}

static int on_expect(struct scenario *s, const char *arm, const char *value, char *err, size_t err_size)
{
	struct expectation *e = &s->expect[s->n_expect];
	char words[256], *rest = words, *word;

	if (s->n_expect == SCENARIO_MAX_ARMS)
		return fail(err, err_size, "more than %d expectations", SCENARIO_MAX_ARMS);
	if (copy(e->arm, sizeof(e->arm), arm, "the arm's name", err, err_size) ||
	    copy(words, sizeof(words), value, "the list of verdicts", err, err_size))
		return -EINVAL;
	e->verdicts = 0;
	while ((word = strsep(&rest, ", "))) {
		enum verdict v = verdict_find(word);

		if (!*word)
			continue;
		if (v == N_VERDICTS) {
			size_t len = (size_t)snprintf(err, err_size, "unknown verdict '%s': must be one of", word);

			for (int i = 0; i < N_VERDICTS && len < err_size; i++)
				len += (size_t)snprintf(err + len, err_size - len, " %s", verdict_name(i));
			return -EINVAL;
		}
		e->verdicts |= 1U << v;
	}
	s->n_expect++;
	return 0;
}

/* The workload of that name, or the only one whose name has it as a part. NULL, with why in err. */
static struct spec_workload *find_part(struct scenario *s, const char *part, char *err, size_t err_size)
{
	struct spec_workload *found = find_workload(s, part);
	unsigned n = found ? 1 : 0;
	size_t len;

	for (size_t i = 0; !n && i < s->n_workloads; i++)
		if (strstr(s->workloads[i].workload->name, part))
			found = &s->workloads[i];
	for (size_t i = 0; !find_workload(s, part) && i < s->n_workloads; i++)
		n += strstr(s->workloads[i].workload->name, part) != NULL;
	if (n == 1)
		return found;
	len = (size_t)snprintf(err, err_size, "'%s' is %s of this scenario's workloads:", part,
			       n ? "a part of more than one" : "none");
	for (size_t i = 0; i < s->n_workloads && len < err_size; i++)
		len += (size_t)snprintf(err + len, err_size - len, " %s", s->workloads[i].workload->name);
	return NULL;
}

/* Call `fn` for each workload of a list of such names. 0, or -EINVAL with why in err. */
static int for_each_part(struct scenario *s, const char *list, void (*fn)(struct spec_workload *w), const char *key,
			 char *err, size_t err_size)
{
	char words[sizeof(s->with)], what[512], *rest = words, *word;

	snprintf(words, sizeof(words), "%s", list);
	while ((word = strsep(&rest, ", "))) {
		struct spec_workload *w = *word ? find_part(s, word, what, sizeof(what)) : NULL;

		if (*word && !w)
			return fail(err, err_size, "%s = %s: %s", key, list, what);
		if (w && fn)
			fn(w);
	}
	return 0;
}

static int on_share(struct scenario *s, const struct workload *w, const struct opt *opt, uint64_t pct, char *err,
		    size_t err_size)
{
	if (s->n_shares == SCENARIO_MAX_SHARES)
		return fail(err, err_size, "more than %d options as shares of memory", SCENARIO_MAX_SHARES);
	s->shares[s->n_shares++] = (struct share){ w, opt, pct };
	return 0;
}

static void drop_share(struct scenario *s, const struct workload *w, const struct opt *opt)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->n_shares; i++)
		if (s->shares[i].workload != w || s->shares[i].opt != opt)
			s->shares[kept++] = s->shares[i];
	s->n_shares = kept;
}

/* opts_set(), which an option in MiB may also be a share of memory for: "20%". */
static int set_value(struct scenario *s, struct spec_workload *w, const char *key, const char *value, char *err,
		     size_t err_size)
{
	const struct workload *workload = w ? w->workload : NULL;
	const struct opt *table = w ? workload->opts : scenario_options, *opt = table;
	size_t len = strlen(value);
	char number[16];
	uint64_t pct;

	while (opt->name && strcmp(opt->name, key) != 0)
		opt++;
	if (opt->name)
		drop_share(s, workload, opt);
	if (!opt->name || len < 2 || value[len - 1] != '%' || !opt->unit || strcmp(opt->unit, "MiB") != 0 ||
	    strcmp(key, "memory") == 0)
		return opts_set(table, w ? (void *)w->opts : &s->opts, key, value, err, err_size) ? -EINVAL : 0;
	snprintf(number, sizeof(number), "%.*s", (int)len - 1, value);
	if (parse_u64(number, 1, 10000, &pct))
		return fail(err, err_size, "%s = '%s': must be a share of memory from 1%% to 10000%%, or MiB", key,
			    value);
	return on_share(s, workload, opt, pct, err, err_size);
}

static int apply_shares(struct scenario *s, char *err, size_t err_size)
{
	for (size_t i = 0; i < s->n_shares; i++) {
		const struct share *h = &s->shares[i];
		struct spec_workload *w = h->workload ? find_workload(s, h->workload->name) : NULL;
		uint64_t mib = s->opts.memory * h->pct / 100;
		char text[24];

		if (h->workload && !w)
			continue; /* not among those that run */
		if (strcmp(h->opt->name, "dimm_mib") == 0)
			mib = (mib + DIMM_STEP_MIB - 1) / DIMM_STEP_MIB * DIMM_STEP_MIB;
		snprintf(text, sizeof(text), "%" PRIu64, mib);
		if (opts_set(h->workload ? h->workload->opts : scenario_options, w ? (void *)w->opts : &s->opts,
			     h->opt->name, text, err, err_size))
			return -EINVAL;
	}
	return 0;
}

static int on_scenario_key(struct scenario *s, const char *key, const char *value, char *err, size_t err_size)
{
	if (strcmp(key, "with") == 0)
		return copy(s->with, sizeof(s->with), value, "with", err, err_size);
	if (strcmp(key, "until") == 0)
		return copy(s->until, sizeof(s->until), value, "until", err, err_size);
	if (strcmp(key, "summary") == 0)
		return copy(s->summary, sizeof(s->summary), value, "summary", err, err_size);
	if (strcmp(key, "arms") == 0)
		return copy(s->default_arms, sizeof(s->default_arms), value, "arms", err, err_size);
	if (strncmp(key, "expect-", 7) == 0)
		return on_expect(s, key + 7, value, err, err_size);
	return set_value(s, NULL, key, value, err, err_size);
}

static int on_arm_key(struct arm *arm, const char *key, const char *value, char *err, size_t err_size)
{
	struct arm_setting *set = &arm->settings[arm->n_settings];
	const char *dot = strchr(key, '.');

	if (arm->n_settings == SCENARIO_MAX_ARM_SETTINGS)
		return fail(err, err_size, "more than %d settings in an arm", SCENARIO_MAX_ARM_SETTINGS);
	memset(set, 0, sizeof(*set));
	/* Whether the names exist is known when the whole file has been read. */
	if (dot)
		snprintf(set->section, sizeof(set->section), "%.*s", (int)(dot - key), key);
	arm->n_settings++;
	if (copy(set->option, sizeof(set->option), dot ? dot + 1 : key, "the key", err, err_size))
		return -EINVAL;
	return copy(set->value, sizeof(set->value), value, "the value", err, err_size);
}

static int on_key(void *user, const char *section, const char *key, const char *value)
{
	struct reading *r = user;
	struct scenario *s = r->s;
	const struct mitigation *m;
	struct spec_workload *w;
	int err;

	if (r->error_line)
		return 1;
	if (!*section)
		err = fail(r->err, r->err_size, "'%s' stands before the first [section]", key);
	else if (strcmp(section, SECTION_SCENARIO) == 0)
		err = on_scenario_key(s, key, value, r->err, r->err_size);
	else if (strncmp(section, "arm ", 4) == 0)
		err = on_arm_key(&s->arms[s->n_arms - 1], key, value, r->err, r->err_size);
	else if ((w = find_workload(s, section)) && (m = mitigation_of(w->workload, key)))
		err = fail(r->err, r->err_size, "%s: the mitigation %s sets it: give an arm a value of that", key,
			   m->name);
	else if (w)
		err = set_value(s, w, key, value, r->err, r->err_size);
	else
		err = -EINVAL; /* on_section() has said why */
	if (err)
		r->error_line = r->line;
	return 1;
}

/* fgets for inih. It also sees the section lines, of which inih tells us nothing when they have no keys. */
static char *next_line(char *to, int size, void *user)
{
	struct reading *r = user;
	const char *end, *p = r->p;
	size_t len;

	if (!*p)
		return NULL;
	end = strchr(p, '\n');
	len = end ? (size_t)(end - p + 1) : strlen(p);
	r->line++;
	if (len >= (size_t)size) {
		if (!r->error_line) {
			fail(r->err, r->err_size, "the line is longer than %d characters", size - 1);
			r->error_line = r->line;
		}
		len = (size_t)size - 1;
	}
	memcpy(to, p, len);
	to[len] = '\0';
	r->p = end ? end + 1 : p + strlen(p);
	while (isspace((unsigned char)*p))
		p++;
	if (*p == '[' && p < r->p) {
		char name[64];
		const char *close = memchr(p, ']', (size_t)(r->p - p));

		if (close && !r->error_line) {
			snprintf(name, sizeof(name), "%.*s", (int)(close - p - 1), p + 1);
			if (on_section(r, name))
				r->error_line = r->line;
		}
	}
	return to;
}

static bool is_switch(const char *value)
{
	return strcmp(value, "on") == 0 || strcmp(value, "off") == 0;
}

static int resolve_own_arms(struct scenario *s, char *err, size_t err_size)
{
	char names[256];

	for (size_t a = 0; a < s->n_arms; a++) {
		struct scenario trial = *s;

		for (size_t i = 0; i < s->arms[a].n_settings; i++) {
			struct arm_setting *set = &s->arms[a].settings[i];

			if (*set->section)
				continue;
			set->mitigation = find_mitigation(s, set->option);
			if (!set->mitigation)
				return fail(err, err_size,
					    "[arm %s]: unknown mitigation '%s' (headroom list mitigations)",
					    s->arms[a].name, set->option);
			if (!mitigation_switchable(set->mitigation))
				return fail(err, err_size,
					    "[arm %s]: %s cannot be switched: it is in the kernel for good",
					    s->arms[a].name, set->option);
			if (set->mitigation->boot && strpbrk(set->value, " \t\""))
				return fail(err, err_size, "[arm %s]: %s = %s: a kernel parameter's value has no blank",
					    s->arms[a].name, set->option, set->value);
			if (!is_switch(set->value) && !mitigation_value_fits(set->mitigation, set->value))
				return fail(err, err_size,
					    "[arm %s]: %s = %s: must be on, off or a value for each of %s, with '/' "
					    "between",
					    s->arms[a].name, set->option, set->value,
					    mitigation_knob_names(set->mitigation, names, sizeof(names)));
		}
		if (scenario_apply(&trial, &s->arms[a], err, err_size))
			return -EINVAL;
	}
	return 0;
}

/* --- Which of the workloads --- */

static void mark_followed(struct spec_workload *w)
{
	w->follows = false;
}

/* Who ends by himself, and who is told to. */
static int resolve_until(struct scenario *s, char *err, size_t err_size)
{
	for (size_t i = 0; i < s->n_workloads; i++)
		s->workloads[i].follows = *s->until != '\0';
	return for_each_part(s, s->until, mark_followed, "until", err, err_size);
}

static void mark_kept(struct spec_workload *w)
{
	w->kept = true;
}

/* Of an arm of the file: only what is about workloads that are there. */
static void narrow_arm(struct scenario *s, struct arm *arm)
{
	size_t n = 0;

	for (size_t i = 0; i < arm->n_settings; i++) {
		const struct arm_setting *set = &arm->settings[i];

		if (set->mitigation ? find_mitigation(s, set->mitigation->name) == set->mitigation
				    : strcmp(set->section, SECTION_SCENARIO) == 0 || find_workload(s, set->section))
			arm->settings[n++] = *set;
	}
	arm->n_settings = n;
}

/* Leave only the workloads that `with` names. */
static int narrow(struct scenario *s, char *err, size_t err_size)
{
	size_t n = 0;

	if (!*s->with)
		return 0;
	for (size_t i = 0; i < s->n_workloads; i++)
		s->workloads[i].kept = false;
	if (for_each_part(s, s->with, mark_kept, "with", err, err_size))
		return -EINVAL;
	for (size_t i = 0; i < s->n_workloads; i++)
		if (s->workloads[i].kept)
			s->workloads[n++] = s->workloads[i];
	if (!n)
		return fail(err, err_size, "with = %s: names no workload", s->with);
	s->n_workloads = n;
	for (size_t i = 0; i < s->n_arms; i++)
		narrow_arm(s, &s->arms[i]);
	return 0;
}

static int read_text(struct scenario *s, char *err, size_t err_size)
{
	FILE *f = fopen(s->path, "re");
	size_t len;

	if (!f)
		return fail(err, err_size, "%s: %s", s->path, strerror(errno));
	len = fread(s->text, 1, sizeof(s->text), f);
	fclose(f);
	if (len == sizeof(s->text))
		return fail(err, err_size, "%s: larger than %zu bytes", s->path, sizeof(s->text) - 1);
	s->text[len] = '\0';
	if (strlen(s->text) != len)
		return fail(err, err_size, "%s: not a text file", s->path);
	return 0;
}

static int find_file(struct scenario *s, const char *name, char *err, size_t err_size)
{
	const char *base = strrchr(name, '/'), *dot;
	char relative[PATH_MAX];

	if (strlen(name) >= sizeof(s->name))
		if (!base || strlen(base) >= sizeof(s->name))
			return fail(err, err_size, "scenario '%.80s...': the name is too long", name);
	if (base || strstr(name, ".ini")) {
		snprintf(s->path, sizeof(s->path), "%s", name);
		base = base ? base + 1 : name;
		dot = strstr(base, ".ini");
		snprintf(s->name, sizeof(s->name), "%.*s", dot ? (int)(dot - base) : (int)strlen(base), base);
		return 0;
	}
	snprintf(s->name, sizeof(s->name), "%s", name);
	snprintf(relative, sizeof(relative), "workloads/scenarios/%s.ini", name);
	paths_in_home(s->path, relative);
	if (access(s->path, F_OK) < 0)
		return fail(err, err_size, "unknown scenario '%s' (headroom list scenarios)", name);
	return 0;
}

static void set_defaults(struct scenario *s)
{
	memset(s, 0, sizeof(*s));
	opts_defaults(scenario_options, &s->opts);
	strcpy(s->default_arms, "before,after");
}

static int check_arm_names(const struct scenario *s, char *err, size_t err_size)
{
	char arms[sizeof(s->default_arms)], *rest = arms, *name;
	struct arm arm;

	strcpy(arms, s->default_arms);
	while ((name = strsep(&rest, ", ")))
		if (*name && scenario_arm(s, name, &arm, err, err_size))
			return -EINVAL;
	for (size_t i = 0; i < s->n_expect; i++)
		if (scenario_arm(s, s->expect[i].arm, &arm, err, err_size))
			return -EINVAL;
	return 0;
}

static int parse_text(struct scenario *s, char *err, size_t err_size)
{
	char what[1024] = "";
	struct reading r = { .s = s, .p = s->text, .err = what, .err_size = sizeof(what) };
	int bad = ini_parse_stream(next_line, &r, on_key, &r);

	if (r.error_line)
		return fail(err, err_size, "%s:%d: %s", s->path, r.error_line, what);
	if (bad)
		return fail(err, err_size, "%s:%d: neither a [section], KEY = VALUE nor a comment", s->path, bad);
	if (!s->n_workloads)
		return fail(err, err_size, "%s: no workload: a section such as [%s] is needed", s->path,
			    workload_nth(0)->name);
	if (resolve_until(s, what, sizeof(what)) || scenario_check(s, what, sizeof(what)) ||
	    resolve_own_arms(s, what, sizeof(what)) || narrow(s, what, sizeof(what)) ||
	    check_arm_names(s, what, sizeof(what)) || scenario_check(s, what, sizeof(what)))
		return fail(err, err_size, "%s: %s", s->path, what);
	return 0;
}

int scenario_load(struct scenario *s, const char *name, char *err, size_t err_size)
{
	set_defaults(s);
	if (find_file(s, name, err, err_size) || read_text(s, err, err_size))
		return -EINVAL;
	return parse_text(s, err, err_size);
}

int scenario_parse(struct scenario *s, const char *name, const char *text, char *err, size_t err_size)
{
	set_defaults(s);
	if (copy(s->name, sizeof(s->name), name, "the scenario's name", err, err_size) ||
	    copy(s->text, sizeof(s->text), text, "the scenario", err, err_size))
		return -EINVAL;
	snprintf(s->path, sizeof(s->path), "(stored) %s", name);
	return parse_text(s, err, err_size);
}

/* --- Changing --- */

static int set_option(struct scenario *s, const char *section, const char *option, const char *value, char *err,
		      size_t err_size)
{
	const struct mitigation *m;
	struct spec_workload *w;

	w = find_workload(s, section);
	/* By its own name too: storm.with. */
	if (strcmp(section, SECTION_SCENARIO) == 0 || (!w && strcmp(section, s->name) == 0)) {
		int rc = on_scenario_key(s, option, value, err, err_size);

		if (!rc && strcmp(option, "with") == 0)
			rc = narrow(s, err, err_size);
		if (!rc && strcmp(option, "until") == 0)
			rc = resolve_until(s, err, err_size);
		return rc;
	}
	if (w && (m = mitigation_of(w->workload, option)))
		return fail(err, err_size, "%s: the mitigation %s sets it: choose an arm", option, m->name);
	if (!w) {
		size_t len = (size_t)snprintf(err, err_size,
					      "unknown section '%s' in this scenario (there are: scenario", section);

		for (size_t i = 0; i < s->n_workloads && len < err_size; i++)
			len += (size_t)snprintf(err + len, err_size - len, " %s", s->workloads[i].workload->name);
		if (len < err_size)
			snprintf(err + len, err_size - len, ")");
		return -EINVAL;
	}
	return set_value(s, w, option, value, err, err_size);
}

int scenario_set(struct scenario *s, const char *assignment, char *err, size_t err_size)
{
	char text[256], what[512];
	char *dot, *equals;

	if (copy(text, sizeof(text), assignment, "--set", err, err_size))
		return -EINVAL;
	dot = strchr(text, '.');
	equals = strchr(text, '=');
	if (!dot || !equals || dot > equals || dot == text || equals == dot + 1)
		return fail(err, err_size, "--set %s: must be SECTION.OPTION=VALUE", assignment);
	*dot = *equals = '\0';
	if (set_option(s, text, dot + 1, equals + 1, what, sizeof(what)))
		return fail(err, err_size, "--set %s: %s", assignment, what);
	return 0;
}

/* Is there one that ends by itself, or a time at which the others are told to? */
static int check_end(const struct scenario *s, char *err, size_t err_size)
{
	bool led = false;

	for (size_t i = 0; i < s->n_workloads; i++)
		led |= !s->workloads[i].follows;
	if (!led && !s->opts.overlap_s)
		return fail(err, err_size,
			    "with = %s: all of these follow others and would never stop: overlap_s must be set",
			    s->with);
	if (!*s->until && s->opts.overlap_s)
		return fail(err, err_size, "overlap_s = '%" PRIu64 "': nobody follows others: until must be set",
			    s->opts.overlap_s);
	return 0;
}

int scenario_check(struct scenario *s, char *err, size_t err_size)
{
	char what[512];

	if (check_end(s, err, err_size))
		return -EINVAL;
	if (apply_shares(s, err, err_size))
		return -EINVAL;
	if (s->opts.dimm_mib % DIMM_STEP_MIB)
		return fail(err, err_size,
			    "dimm_mib = '%" PRIu64 "': must be a multiple of %d, the size of a memory block",
			    s->opts.dimm_mib, DIMM_STEP_MIB);
	for (size_t i = 0; i < s->n_workloads; i++) {
		const struct spec_workload *w = &s->workloads[i];

		if (w->workload->check && w->workload->check(w->opts, what, sizeof(what)))
			return fail(err, err_size, "[%s]: %s", w->workload->name, what);
	}
	return 0;
}

uint64_t scenario_place(struct scenario *s)
{
	uint64_t next = SECTOR_ALIGN; /* the first MiB stays empty, as partitioning tools leave it */

	for (size_t i = 0; i < s->n_workloads; i++) {
		struct spec_workload *w = &s->workloads[i];

		w->start_sector = next;
		w->sectors = w->workload->scratch_sectors ? w->workload->scratch_sectors(w->opts, s->opts.memory) : 0;
		next += (w->sectors + SECTOR_ALIGN - 1) / SECTOR_ALIGN * SECTOR_ALIGN;
	}
	return next;
}

uint64_t scenario_box_size(const struct scenario *s)
{
	uint64_t recorded_s = s->opts.run_s + s->opts.verify_s + s->opts.slack_s;

	return bb_size_for(recorded_s * 1000 / s->opts.period_ms);
}

/* --- Arms --- */

void scenario_all_arms(const struct scenario *s, const char *kernel, char *buf, size_t size)
{
	size_t len = (size_t)snprintf(buf, size, "before,after");
	const struct mitigation *m;

	size_t n = 0;

	for (size_t i = 0; (m = scenario_mitigation(s, i)); i++)
		n += mitigation_switchable(m);
	/* With one mitigation only-X and without-X are `after` and `before` again. */
	for (size_t i = 0; n > 1 && (m = scenario_mitigation(s, i)) && len < size; i++)
		if (mitigation_switchable(m) && mitigation_in_kernel(m, kernel))
			len += (size_t)snprintf(buf + len, size - len, ",only-%s,without-%s", m->name, m->name);
	for (size_t i = 0; i < s->n_arms && len < size; i++)
		len += (size_t)snprintf(buf + len, size - len, ",%s", s->arms[i].name);
}

static void set_mitigation(struct arm *arm, const struct mitigation *m, const char *value)
{
	struct arm_setting *set = NULL;

	for (size_t i = 0; i < arm->n_settings; i++)
		if (arm->settings[i].mitigation == m)
			set = &arm->settings[i];
	if (!set) {
		if (arm->n_settings == SCENARIO_MAX_ARM_SETTINGS)
			return;
		set = &arm->settings[arm->n_settings++];
		memset(set, 0, sizeof(*set));
		set->mitigation = m;
	}
	if (strcmp(value, "on") == 0)
		value = m->on;
	else if (strcmp(value, "off") == 0)
		value = m->off;
	snprintf(set->value, sizeof(set->value), "%s", value);
}

int scenario_arm(const struct scenario *s, const char *name, struct arm *arm, char *err, size_t err_size)
{
	const struct arm *own = NULL;
	const struct mitigation *m, *one = NULL;
	bool base_on = false, known = true;
	char all[1024];

	memset(arm, 0, sizeof(*arm));
	for (size_t i = 0; i < s->n_arms; i++)
		if (strcmp(s->arms[i].name, name) == 0)
			own = &s->arms[i];
	if (own || strcmp(name, "before") == 0)
		base_on = false;
	else if (strcmp(name, "after") == 0)
		base_on = true;
	else if (strncmp(name, "only-", 5) == 0)
		known = (one = find_switchable(s, name + 5));
	else if (strncmp(name, "without-", 8) == 0)
		known = base_on = (one = find_switchable(s, name + 8));
	else
		known = false;
	if (!known) {
		scenario_all_arms(s, "", all, sizeof(all));
		return fail(err, err_size, "unknown arm '%s' (there are: %s)", name, all);
	}
	snprintf(arm->name, sizeof(arm->name), "%s", name);
	for (size_t i = 0; (m = scenario_mitigation(s, i)); i++)
		set_mitigation(arm, m, !mitigation_switchable(m) || (m == one) != base_on ? "on" : "off");
	for (size_t i = 0; own && i < own->n_settings; i++) {
		if (own->settings[i].mitigation)
			set_mitigation(arm, own->settings[i].mitigation, own->settings[i].value);
		else if (arm->n_settings < SCENARIO_MAX_ARM_SETTINGS)
			arm->settings[arm->n_settings++] = own->settings[i];
	}
	return 0;
}

int scenario_apply(struct scenario *s, const struct arm *arm, char *err, size_t err_size)
{
	char what[512];

	for (size_t i = 0; i < arm->n_settings; i++) {
		const struct arm_setting *set = &arm->settings[i];
		const struct mitigation *m = set->mitigation;
		struct spec_workload *w = m && m->option ? owner_of(s, m) : NULL;

		if (w && opts_set(w->workload->opts, w->opts, m->option, set->value, what, sizeof(what)))
			return fail(err, err_size, "[arm %s]: %s: %s", arm->name, m->name, what);
		if (m)
			continue;
		if (set_option(s, set->section, set->option, set->value, what, sizeof(what)))
			return fail(err, err_size, "[arm %s]: %s", arm->name, what);
	}
	return scenario_check(s, err, err_size);
}
