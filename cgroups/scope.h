// SPDX-License-Identifier: MIT
/*
 * Cgroups (v2) for the processes of a cell, through libcgroup: who belongs to what can be told from the kernel's own
 * OOM report. Groups are named relative to the hierarchy's root, as "headroom/workload". All return 0 or -errno.
 */
#ifndef HEADROOM_SCOPE_H
#define HEADROOM_SCOPE_H

#include <stddef.h>
#include <sys/types.h>

/* The group that holds all groups of a cell. */
#define CGROUP_PARENT "headroom"

/* Find the mounted hierarchy. -ENODEV when there is no cgroup v2. */
int scope_init(void);
/* Make a group with the memory controller; one that is there already is taken as it is. */
int scope_create(const char *group);
int scope_attach(const char *group, pid_t pid);
/* The group's directory, into buf. */
void scope_path(const char *group, char *buf, size_t size);

#endif
