// SPDX-License-Identifier: MIT
/* Was a mitigation in force in a cell, and did the load reach the point where it makes a difference? */
#ifndef HEADROOM_ATTEST_H
#define HEADROOM_ATTEST_H

#include "run/facts.h"

/*
 * From the record of the cell. What the knobs read decides first; where that is what was asked for, the workload's own
 * attest() has the last word.
 */
void attest(const struct facts *f, const struct workload *w, const void *opts, const struct mitigation *m,
	    const char *requested, struct attestation *out);

#endif
