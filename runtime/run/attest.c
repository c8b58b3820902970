// SPDX-License-Identifier: MIT
#include "run/attest.h"

#include "run/mitigation.h"

#include <stdio.h>
#include <string.h>

/* What the knobs of a mitigation read when they had been set, with '/' between. False where one could not be read. */
static bool read_back(const struct facts *f, const struct mitigation *m, char *buf, size_t size)
{
	size_t len = 0;

	for (unsigned i = 0; i < mitigation_knobs(m) && len < size; i++) {
		const char *now = json_string_value(json_object_get(f->knobs, m->knobs[i].name));

		if (!now)
			return false;
		len += (size_t)snprintf(buf + len, size - len, "%s%s", i ? "/" : "", now);
	}
	return mitigation_knobs(m) > 0;
}

/* Does every knob read what it was to read? "xN" was resolved where the machine's own value was known. */
static bool in_force(const struct facts *f, const struct mitigation *m, const char *requested)
{
	char want[64];

	for (unsigned i = 0; i < mitigation_knobs(m); i++) {
		const char *now = json_string_value(json_object_get(f->knobs, m->knobs[i].name));
		const char *resolved = json_string_value(json_object_get(f->knob_values, m->knobs[i].name));

		if (!mitigation_value(requested, i, want, sizeof(want)))
			return false;
		if (!now || strcmp(now, *want == 'x' && resolved ? resolved : want) != 0)
			return false;
	}
	return true;
}

/* A fix that took a function out: the kernel's own list of its functions tells. */
static void attest_gone(struct attestation *a)
{
	const char *function = a->mitigation->gone;

	if (!a->known) {
		a->state = MITIGATION_FAILED;
		snprintf(a->evidence, sizeof(a->evidence), "the kernel's symbols could not be read");
	} else if (strcmp(a->read_back, a->mitigation->on) == 0) {
		a->state = MITIGATION_ON;
		snprintf(a->evidence, sizeof(a->evidence), "this kernel has no %s(): it cannot be switched off",
			 function);
	} else {
		a->state = MITIGATION_OFF;
		snprintf(a->evidence, sizeof(a->evidence), "this kernel still has %s()", function);
	}
}

/* Did the machine look for a knob and find none? A record that was cut off does not say so. */
static bool not_there(const struct facts *f, const struct mitigation *m)
{
	for (unsigned i = 0; i < mitigation_knobs(m); i++)
		if (json_is_null(json_object_get(f->knobs, m->knobs[i].name)))
			return true;
	return false;
}

void attest(const struct facts *f, const struct workload *w, const void *opts, const struct mitigation *m,
	    const char *requested, struct attestation *out)
{
	*out = (struct attestation){ .mitigation = m, .requested = requested, .exercised = UNKNOWN };
	out->known = read_back(f, m, out->read_back, sizeof(out->read_back));
	out->state = strcmp(requested, m->off) == 0 ? MITIGATION_OFF : MITIGATION_ON;
	if (m->gone) {
		attest_gone(out);
	} else if (m->since && not_there(f, m)) {
		out->state = MITIGATION_ABSENT;
		snprintf(out->evidence, sizeof(out->evidence), "this kernel has no such knob (there since %s)",
			 m->since);
	} else if (m->only && not_there(f, m)) {
		out->state = MITIGATION_ABSENT;
		snprintf(out->evidence, sizeof(out->evidence), "only %s has such a knob", m->only);
	} else if (!in_force(f, m, requested)) {
		out->state = MITIGATION_FAILED;
		snprintf(out->evidence, sizeof(out->evidence), "asked for %s, the kernel has %s", requested,
			 out->known	   ? out->read_back
			 : not_there(f, m) ? "no such knob"
					   : "not told");
	} else if (w->attest) {
		w->attest(f, opts, out);
	} else {
		snprintf(out->evidence, sizeof(out->evidence), "knob reads %s", out->read_back);
	}
}
