// SPDX-License-Identifier: MIT
#ifndef HEADROOM_MEMORY_LIMIT_H
#define HEADROOM_MEMORY_LIMIT_H

#include "run/workload.h"

/* memory.max of the workload's group, and no swap, which would let it grow on. 0 or -errno, which has been told. */
int limit_memory(const struct cell *c, const char *group, uint64_t mib);

#endif
