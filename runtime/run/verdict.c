// SPDX-License-Identifier: MIT
#include "run/verdict.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const names[N_VERDICTS] = {
	[VERDICT_OK] = "ok",	       [VERDICT_OOM] = "oom",		[VERDICT_LOCKUP] = "lockup",
	[VERDICT_HUNG] = "hung",       [VERDICT_LIVELOCK] = "livelock", [VERDICT_DEADLOCK] = "deadlock",
	[VERDICT_PANIC] = "panic",     [VERDICT_STUCK] = "stuck",	[VERDICT_CORRUPT] = "corrupt",
	[VERDICT_SKIPPED] = "skipped", [VERDICT_BROKEN] = "broken",
};

const char *verdict_name(enum verdict v)
{
	return names[v];
}

enum verdict verdict_find(const char *name)
{
	int v = 0;

	while (v < N_VERDICTS && strcmp(names[v], name) != 0)
		v++;
	return (enum verdict)v;
}

static void say(struct judgement *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct judgement *j, const char *fmt, ...)
{
	size_t len = strlen(j->reason);
	va_list ap;

	if (len)
		len += (size_t)snprintf(j->reason + len, sizeof(j->reason) - len, "; ");
	if (len >= sizeof(j->reason))
		return;
	va_start(ap, fmt);
	vsnprintf(j->reason + len, sizeof(j->reason) - len, fmt, ap);
	va_end(ap);
}

/* --- Livelock --- */

static bool has_room(const struct swap_point *p)
{
	return 100.0 * (double)p->free_kib > LIVELOCK_FREE_PCT * (double)p->total_kib;
}

/* The counters tell of the whole time between two samples, whether there are others in between or not. */
static bool stands_still(const struct facts *f, const struct swap_point *a, const struct swap_point *b)
{
	double seconds = b->t - a->t, pages = LIVELOCK_PAGES_S * (f->cpus ? f->cpus : 1) * seconds;

	return a->kills == b->kills && (double)(b->out - a->out) < pages && (double)(b->in - a->in) < pages &&
	       b->some_us - a->some_us >= LIVELOCK_PRESSURE * seconds * 1e6;
}

static void describe(const struct swap_point *a, const struct swap_point *b, struct livelock *found)
{
	*found = (struct livelock){
		.from_t = a->t,
		.to_t = b->t,
		.out_pages_s = (double)(b->out - a->out) / (b->t - a->t),
		.in_pages_s = (double)(b->in - a->in) / (b->t - a->t),
		.free_pct = 100.0 * (double)b->free_kib / (double)b->total_kib,
	};
}

/*
 * By the mean over LIVELOCK_S, moved from sample to sample, because reclaim writes in bursts: a second is often empty
 * and a crawl's next second over any floor. Such windows that overlap are one livelock.
 */
bool verdict_livelock(const struct facts *f, struct livelock *found)
{
	const struct swap_point *p = f->points, *begin = NULL, *end = NULL;
	size_t first = 0;

	for (size_t last = 0; last < f->n_points; last++) {
		if (!p[last].in_load || !has_room(&p[last])) {
			first = last + 1;
			continue;
		}
		/* The shortest window of the length that ends here. */
		while (first < last && p[last].t - p[first + 1].t >= LIVELOCK_S)
			first++;
		if (begin && &p[first] > end)
			break;
		if (p[last].t - p[first].t < LIVELOCK_S || !stands_still(f, &p[first], &p[last]))
			continue;
		if (!begin)
			begin = &p[first];
		end = &p[last];
	}
	if (begin)
		describe(begin, end, found);
	return begin != NULL;
}

/* --- Findings --- */

/*
 * The share of swap that was free when the OOM killer came too early; < 0: it did not. Its first victim alone shows it,
 * because with each the swap that it had filled becomes free. A group's own limit is none of swap's business.
 */
static double premature_pct(const struct facts *f)
{
	json_t *victim, *t;
	double pct;
	size_t i;

	json_array_foreach (f->victims, i, victim) {
		if (strcmp(json_string_value(json_object_get(victim, "constraint")), "global") != 0)
			continue;
		t = json_object_get(victim, "t");
		pct = json_is_number(t) ? facts_swap_free_pct(f, json_number_value(t)) : -1;
		return pct > PREMATURE_FREE_PCT ? pct : -1;
	}
	return -1;
}

static void say_kills(const struct facts *f, const struct kill_count *counted, struct judgement *j)
{
	double free_pct = premature_pct(f);

	say(j, "%" PRIu64 " OOM kill%s", counted->kills, counted->kills > 1 ? "s" : "");
	if (f->first_oom_t > FACTS_NEVER) {
		size_t len = strlen(j->reason);

		snprintf(j->reason + len, sizeof(j->reason) - len, ", first at %.1f s: %s", f->first_oom_t,
			 f->first_victim);
	}
	if (free_pct >= 0) {
		say(j, "premature: %.0f %% of swap was free", free_pct);
		if (!j->outcome)
			j->outcome = "premature-oom";
	}
	if (!counted->agree)
		say(j, "%s", counted->why);
}

/* The findings, most serious first: the first one that holds gives the verdict, all of them stand in the reason. */
static enum verdict from_findings(const struct facts *f, enum end end, struct judgement *j)
{
	enum verdict v = VERDICT_OK;
	struct kill_count counted = facts_count_kills(f);
	struct livelock livelock;

#define FOUND(which) (v == VERDICT_OK ? (v = (which)) : v)
	if (f->corrupt) {
		FOUND(VERDICT_CORRUPT);
		say(j, "%s", f->corrupt_text);
	}
	if (f->panicked || end == END_PANIC) {
		FOUND(VERDICT_PANIC);
		if (f->panicked)
			say(j, "kernel panic at %.1f s: %s", f->panic_t, f->panic_reason);
		else
			say(j, "kernel panic, its words were lost");
	}
	if (end == END_HANG) {
		FOUND(VERDICT_HUNG);
		say(j, "the machine stopped answering after %.1f s", f->last_t);
	}
	if (counted.kills) {
		FOUND(VERDICT_OOM);
		say_kills(f, &counted, j);
	}
	if (f->oopses) {
		FOUND(VERDICT_PANIC);
		say(j, "%" PRIu64 " kernel bug%s reported", f->oopses, f->oopses > 1 ? "s" : "");
	}
	/* Before the hung tasks, which are those that stand in it. */
	if (f->deadlock) {
		FOUND(VERDICT_DEADLOCK);
		say(j, "%s", f->deadlock_text);
	}
	/* Before the lockups and hung tasks: they are what such a machine reports, if it reports anything. */
	if (verdict_livelock(f, &livelock)) {
		FOUND(VERDICT_LIVELOCK);
		say(j, "livelock for %.1f s from %.1f s on: %.1f pages out and %.1f in a second, %.0f %% of swap free",
		    livelock.to_t - livelock.from_t, livelock.from_t, livelock.out_pages_s, livelock.in_pages_s,
		    livelock.free_pct);
	}
	if (f->wq_lockups + f->soft_lockups + f->rcu_stalls) {
		FOUND(VERDICT_LOCKUP);
		say(j, "%" PRIu64 " lockup report%s, first at %.1f s", f->wq_lockups + f->soft_lockups + f->rcu_stalls,
		    f->wq_lockups + f->soft_lockups + f->rcu_stalls > 1 ? "s" : "", f->first_lockup_t);
	} else if (f->canary_max_ms >= LOCKUP_S * 1000) {
		FOUND(VERDICT_LOCKUP);
		say(j, "work waited %.1f s for a kernel worker", f->canary_max_ms / 1000);
	}
	if (f->hung_tasks) {
		FOUND(VERDICT_HUNG);
		say(j, "%" PRIu64 " hung task%s, first at %.1f s", f->hung_tasks, f->hung_tasks > 1 ? "s" : "",
		    f->first_hung_t);
	}
	if (end == END_DEADLINE || f->stuck) {
		FOUND(VERDICT_STUCK);
		say(j, f->run_ended && !f->load_stuck ? "not over at the deadline"
						      : "the load was not over at its deadline");
	}
#undef FOUND
	return v;
}

/* What is said of a cell in which nothing was found. */
static enum verdict without_findings(const struct facts *f, struct judgement *j)
{
	if (!f->started && *f->skip_text) {
		say(j, "%s", f->skip_text);
		return VERDICT_SKIPPED;
	}
	if (!f->started) {
		say(j, "the set-up failed: %s", *f->fail_text ? f->fail_text : "the record does not say why");
	} else if (f->overflow) {
		say(j, "%s: %s", j->outcome, f->overflow_text);
	} else if (!f->done) {
		say(j, "its process ended before the cell was over");
	} else if (*f->fail_text) {
		say(j, "%s", f->fail_text);
	} else if (!f->verified) {
		say(j, "the data could not be verified");
	} else {
		say(j, "finished in %.1f s, data verified", f->run_end_t);
		return VERDICT_OK;
	}
	return VERDICT_BROKEN;
}

/* Beside a verdict that leaves the machine alive. */
static void find_throttling(const struct facts *f, struct judgement *j)
{
	double standstill_s = json_number_value(json_object_get(f->metrics, "standstill_max_ms")) / 1000;

	if (standstill_s >= THROTTLED_STANDSTILL_S)
		say(j, "throttled but alive: stood still for %.1f s at most", standstill_s);
	else if (f->psi_full_share >= THROTTLED_FULL_SHARE)
		say(j, "throttled but alive: for %.0f %% of the load all tasks waited for memory",
		    100 * f->psi_full_share);
	else
		return;
	j->outcome = "throttled";
}

void verdict_find_out(const struct facts *f, enum end end, bool was_interrupted, struct judgement *out)
{
	memset(out, 0, sizeof(*out));
	if (end == END_NO_BOOT) {
		out->verdict = VERDICT_BROKEN;
		say(out, "the guest did not boot");
		return;
	}
	if (was_interrupted || end == END_SIGNAL) {
		out->verdict = VERDICT_BROKEN;
		say(out, "interrupted before the cell was over");
		return;
	}
	if (f->panicked && strstr(f->panic_reason, "Attempted to kill init")) {
		out->verdict = VERDICT_BROKEN;
		say(out, "our own first process died: %s", f->panic_reason);
		return;
	}
	if (f->overflow) {
		/* dm-snapshot's own words for a COW device that is full (drivers/md/dm-snap.c, -ENOMEM). */
		bool full = strstr(f->overflow_text, "Unable to allocate exception") != NULL;

		out->outcome = full ? "snapshot-overflow" : "snapshot-invalid";
	}
	out->verdict = from_findings(f, end, out);
	if (out->verdict == VERDICT_OK || (!f->started && out->verdict == VERDICT_STUCK))
		out->verdict = without_findings(f, out);
	if (!out->outcome && (out->verdict == VERDICT_OK || out->verdict == VERDICT_STUCK))
		find_throttling(f, out);
}
