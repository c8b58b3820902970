// SPDX-License-Identifier: MIT
#include "workloads/common/memory_limit.h"

#include "cgroups/scope.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int limit_memory(const struct cell *c, const char *group, uint64_t mib)
{
	char bytes[32];
	int err;

	snprintf(bytes, sizeof(bytes), "%" PRIu64 "M", mib);
	err = scope_limit(group, "memory.max", bytes);
	if (!err)
		err = scope_limit(group, "memory.swap.max", "0");
	if (err)
		cell_fail(c, "memory.max and memory.swap.max of %s: %s", group, strerror(-err));
	return err;
}
