// SPDX-License-Identifier: MIT
#include "run/workload.h"

#include <string.h>

const struct workload *workload_find(const char *name)
{
	for (const struct workload *const *w = __start_workloads; w < __stop_workloads; w++)
		if (strcmp((*w)->name, name) == 0)
			return *w;
	return NULL;
}

/* The section is in link order; what people see is in order of names. */
const struct workload *workload_nth(size_t i)
{
	for (const struct workload *const *w = __start_workloads; w < __stop_workloads; w++) {
		size_t before = 0;

		for (const struct workload *const *v = __start_workloads; v < __stop_workloads; v++)
			before += strcmp((*v)->name, (*w)->name) < 0;
		if (before == i)
			return *w;
	}
	return NULL;
}
