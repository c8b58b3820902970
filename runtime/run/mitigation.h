// SPDX-License-Identifier: MIT
/* What a row of a workload's table of mitigations says, in the forms in which it is needed. */
#ifndef HEADROOM_MITIGATION_H
#define HEADROOM_MITIGATION_H

#include "run/workload.h"

/* Can arms switch it? */
bool mitigation_switchable(const struct mitigation *m);
unsigned mitigation_knobs(const struct mitigation *m);
/* The names of its knobs with '/' between. Returns buf. */
const char *mitigation_knob_names(const struct mitigation *m, char *buf, size_t size);
/* The part of a value that belongs to knob number i. False where the value has no such part or buf is too small. */
bool mitigation_value(const char *value, unsigned i, char *buf, size_t size);
/*
 * The value of a kernel parameter in a command line, BOOT_DEFAULT where it is not there; the last one counts, as for
 * the kernel. Returns buf.
 */
#define BOOT_DEFAULT "default"
const char *mitigation_boot_value(const char *cmdline, const char *parameter, char *buf, size_t size);
/* Has the value one part for each knob? */
bool mitigation_value_fits(const struct mitigation *m, const char *value);
/* Has a kernel of this version ("6.1", "6.12.95-amd64") the knob? Yes where the version is not a number. */
bool mitigation_in_kernel(const struct mitigation *m, const char *version);

#endif
