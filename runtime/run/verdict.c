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

/* The findings, most serious first: the first one that holds gives the verdict, all of them stand in the reason. */
static enum verdict from_findings(const struct facts *f, enum guest_end end, struct judgement *j)
{
	enum verdict v = VERDICT_OK;
	struct kill_count counted = facts_count_kills(f);
	uint64_t kills = counted.kills;

#define FOUND(which) (v == VERDICT_OK ? (v = (which)) : v)
	if (f->corrupt) {
		FOUND(VERDICT_CORRUPT);
		say(j, "%s", f->corrupt_text);
	}
	if (f->panicked || end == GUEST_PANIC) {
		FOUND(VERDICT_PANIC);
		if (f->panicked)
			say(j, "kernel panic at %.1f s: %s", f->panic_t, f->panic_reason);
		else
			say(j, "kernel panic, its words were lost");
	}
	if (end == GUEST_HANG) {
		FOUND(VERDICT_HUNG);
		say(j, "the machine stopped answering after %.1f s", f->last_t);
	}
	if (kills) {
		FOUND(VERDICT_OOM);
		say(j, "%" PRIu64 " OOM kill%s", kills, kills > 1 ? "s" : "");
		if (f->first_oom_t > FACTS_NEVER) {
			size_t len = strlen(j->reason);

			snprintf(j->reason + len, sizeof(j->reason) - len, ", first at %.1f s: %s", f->first_oom_t,
				 f->first_victim);
		}
		if (!counted.agree)
			say(j, "%s", counted.why);
	}
	if (f->oopses) {
		FOUND(VERDICT_PANIC);
		say(j, "%" PRIu64 " kernel bug%s reported", f->oopses, f->oopses > 1 ? "s" : "");
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
	if (end == GUEST_DEADLINE || f->stuck) {
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
		say(j, "QEMU ended before the cell was over");
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

void verdict_find_out(const struct facts *f, enum guest_end end, bool was_interrupted, struct judgement *out)
{
	memset(out, 0, sizeof(*out));
	if (end == GUEST_NO_BOOT) {
		out->verdict = VERDICT_BROKEN;
		say(out, "the guest did not boot");
		return;
	}
	if (was_interrupted || end == GUEST_SIGNAL) {
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
}
