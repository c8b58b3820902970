// SPDX-License-Identifier: MIT
/*
 * Cgroups (v2) for the processes of a cell, through libcgroup: who belongs to what can be told from the kernel's own
 * OOM report. Groups are named relative to the hierarchy's root, as "headroom/workload". All return 0 or -errno.
 */
#ifndef HEADROOM_SCOPE_H
#define HEADROOM_SCOPE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The group that holds all groups of a cell. */
#define CGROUP_PARENT "headroom"

/* Find the mounted hierarchy. -ENODEV when there is no cgroup v2. */
int scope_init(void);
/* Make a group with the memory controller; one that is there already is taken as it is. */
int scope_create(const char *group);
/*
 * Let the groups below this one have these controllers (NULL ends them): the one call where it has them itself, the
 * other with all on the way down to it, which keep them. There must be no process in it.
 */
int scope_delegate(const char *group, const char *const *controllers);
int scope_enable(const char *group, const char *const *controllers);
int scope_attach(const char *group, pid_t pid);
/* fork(2), the child being in the group from its first moment (CLONE_INTO_CGROUP, since Linux 5.7). -1 with errno. */
pid_t scope_fork(const char *group);
/* Set a limit of the memory controller: "memory.high", "1M". */
int scope_limit(const char *group, const char *limit, const char *value);
/* Write into one of the group's own files that is no limit: "cgroup.subtree_control", "memory.reclaim". */
int scope_set(const char *group, const char *file, const char *value);
/*
 * A number from one of its files: after `key` in a file of "name value" lines (memory.stat, memory.events), else the
 * whole file.
 */
int scope_get(const char *group, const char *file, const char *key, uint64_t *value);
/*
 * Kill all that is in the group and below it, and wait until nobody is left. -ETIMEDOUT when somebody still is at the
 * deadline (CLOCK_MONOTONIC ns): he hangs in the kernel.
 */
int scope_kill(const char *group, int64_t deadline_ns);
/* Remove the group with all below it, in which nobody is left. 0 also when there is none; -EBUSY when somebody is. */
int scope_remove(const char *group);
/* Kill, then remove. */
int scope_destroy(const char *group, int64_t deadline_ns);
/*
 * One group, made or removed by the bare system call: what churn does thousands of times (`churn-rates` has what
 * libcgroup costs beside). -EBUSY: somebody is in it, or was a moment ago.
 */
int scope_mkdir(const char *group);
int scope_rmdir(const char *group);
/* The group's directory, into buf. */
void scope_path(const char *group, char *buf, size_t size);

#endif
