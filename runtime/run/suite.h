// SPDX-License-Identifier: MIT
/*
 * Several scenarios in one go: a directory with the run of each in a directory of its own, and suite.json, which names
 * them in their order (docs/record.md). All are made before the first one runs, so that what is missing comes up at
 * once, and so that a suite that was cut off is taken up like a run.
 */
#ifndef HEADROOM_SUITE_H
#define HEADROOM_SUITE_H

#include "run/run.h"

#define SUITE_MAX 64

/* Make it, below q->out; its path into `dir` (PATH_MAX). 0 or an exit code, after a line on stderr. */
int suite_create(const struct run_request *q, char *const *scenarios, size_t n, char *dir);
/* Is this the directory of one? */
bool suite_is(const char *dir);
/* Run what is open in each of its runs, then make the report over all. The program's exit code: the worst. */
int suite_walk(const char *dir, const struct run_request *how);

#endif
