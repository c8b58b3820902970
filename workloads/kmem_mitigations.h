// SPDX-License-Identifier: MIT
/* The mitigations of kernel memory in groups (seed 002), for the tables of all workloads that show them. */
#ifndef HEADROOM_KMEM_MITIGATIONS_H
#define HEADROOM_KMEM_MITIGATIONS_H

#include "run/workload.h"

#define KMEM_MITIGATIONS                                                                                               \
	{                                                                                                              \
		.name = "kmem-accounting",                                                                             \
		.summary = "kernel memory is charged to groups, at less cost than with one set of caches a group",     \
		.seed = "002",                                                                                         \
		.knobs = { { "boot cgroup.memory", NULL } },                                                           \
		.boot = "cgroup.memory",                                                                               \
		.off = "nokmem",                                                                                       \
		.on = "default",                                                                                       \
		.value_help = "a value of the kernel parameter cgroup.memory",                                         \
	},                                                                                                             \
	{                                                                                                              \
		.name = "slab-sharing", .summary = "groups share slab pages: no set of caches for each group",         \
		.seed = "002", .knobs = { { "kernel.memcg_deactivate_kmem_caches", NULL } },                           \
		.gone = "memcg_deactivate_kmem_caches", .off = "present", .on = "absent", .since = "Linux 5.9",        \
	}

#endif
