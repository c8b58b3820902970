// SPDX-License-Identifier: MIT
#include "cgroups/scope.h"

#include <errno.h>
#include <libcgroup.h>
#include <stdio.h>
#include <unistd.h>

#define HIERARCHY "/sys/fs/cgroup" /* where systemd and our guest mount v2 */

static int to_errno(int err)
{
	switch (err) {
	case 0:
		return 0;
	case ECGOTHER:
		return cgroup_get_last_errno() > 0 ? -cgroup_get_last_errno() : -EIO;
	case ECGROUPNOTEXIST:
	case ECGROUPNOTMOUNTED:
		return -ENODEV;
	case ECGROUPNOTALLOWED:
	case ECGROUPNOTOWNER:
		return -EPERM;
	default:
		return -EIO;
	}
}

int scope_init(void)
{
	if (access(HIERARCHY "/cgroup.controllers", F_OK) < 0)
		return -ENODEV;
	return to_errno(cgroup_init());
}

int scope_create(const char *group)
{
	struct cgroup *cg = cgroup_new_cgroup(group);
	int err;

	if (!cg)
		return -ENOMEM;
	err = cgroup_add_controller(cg, "memory") ? to_errno(cgroup_create_cgroup(cg, 1)) : -ENOMEM;
	cgroup_free(&cg);
	return err;
}

int scope_attach(const char *group, pid_t pid)
{
	struct cgroup *cg = cgroup_new_cgroup(group);
	int err;

	if (!cg)
		return -ENOMEM;
	err = cgroup_add_controller(cg, "memory") ? to_errno(cgroup_attach_task_pid(cg, pid)) : -ENOMEM;
	cgroup_free(&cg);
	return err;
}

void scope_path(const char *group, char *buf, size_t size)
{
	snprintf(buf, size, HIERARCHY "/%s", group);
}
