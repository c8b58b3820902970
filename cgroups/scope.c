// SPDX-License-Identifier: MIT
#include "cgroups/scope.h"

#include "base/clock.h"
#include "base/sysfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libcgroup.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HIERARCHY     "/sys/fs/cgroup" /* where systemd and our guest mount v2 */
#define KILL_PAUSE_MS 20

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

int scope_delegate(const char *group, const char *const *controllers)
{
	char below[256] = "";
	size_t len = 0;

	for (; *controllers; controllers++) {
		len += (size_t)snprintf(below + len, sizeof(below) - len, "+%s ", *controllers);
		if (len >= sizeof(below))
			return -E2BIG;
	}
	return scope_set(group, "cgroup.subtree_control", below);
}

/* Not libcgroup: it switches controllers on only on the way to a group that it makes. */
int scope_enable(const char *group, const char *const *controllers)
{
	char above[PATH_MAX];
	int err = scope_delegate("", controllers);

	for (const char *end = strchr(group, '/'); !err; end = strchr(end + 1, '/')) {
		snprintf(above, sizeof(above), "%.*s", (int)(end ? end - group : (ptrdiff_t)strlen(group)), group);
		err = scope_delegate(above, controllers);
		if (!end)
			break;
	}
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

static void file_path(const char *group, const char *file, char *buf, size_t size)
{
	snprintf(buf, size, HIERARCHY "/%s/%s", group, file);
}

int scope_set(const char *group, const char *file, const char *value)
{
	char path[PATH_MAX];

	file_path(group, file, path, sizeof(path));
	return sysfile_write(path, value);
}

pid_t scope_fork(const char *group)
{
	struct clone_args args = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	char path[PATH_MAX];
	pid_t pid;
	int fd;

	scope_path(group, path, sizeof(path));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	args.cgroup = (uint64_t)fd;
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	close(fd);
	return pid;
}

int scope_limit(const char *group, const char *limit, const char *value)
{
	struct cgroup *cg = cgroup_new_cgroup(group);
	struct cgroup_controller *memory;
	int err;

	if (!cg)
		return -ENOMEM;
	memory = cgroup_add_controller(cg, "memory");
	err = memory ? to_errno(cgroup_add_value_string(memory, limit, value)) : -ENOMEM;
	if (!err)
		err = to_errno(cgroup_modify_cgroup(cg));
	cgroup_free(&cg);
	return err;
}

int scope_get(const char *group, const char *file, const char *key, uint64_t *value)
{
	char path[PATH_MAX];

	file_path(group, file, path, sizeof(path));
	return key ? sysfile_read_key(path, key, value) : sysfile_read_u64(path, value);
}

/* Before Linux 5.14 there is no cgroup.kill, which would reach the groups below too. */
static void kill_each(const char *group)
{
	char path[PATH_MAX], child[PATH_MAX];
	struct dirent *e;
	int pid;
	FILE *f;
	DIR *d;

	file_path(group, "cgroup.procs", path, sizeof(path));
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &pid) == 1)
		kill(pid, SIGKILL);
	if (f)
		fclose(f);
	scope_path(group, path, sizeof(path));
	d = opendir(path);
	while (d && (e = readdir(d)))
		if (e->d_type == DT_DIR && e->d_name[0] != '.' &&
		    snprintf(child, sizeof(child), "%s/%s", group, e->d_name) < (int)sizeof(child))
			kill_each(child);
	if (d)
		closedir(d);
}

int scope_kill(const char *group, int64_t deadline_ns)
{
	uint64_t populated;

	for (;;) {
		int err = scope_get(group, "cgroup.events", "populated", &populated);

		if (err == -ENOENT || err == -ENODEV)
			return 0;
		if (err || !populated)
			return err;
		if (clock_ns() >= deadline_ns)
			return -ETIMEDOUT;
		if (scope_set(group, "cgroup.kill", "1"))
			kill_each(group);
		clock_sleep_ms(KILL_PAUSE_MS);
	}
}

int scope_remove(const char *group)
{
	struct cgroup *cg = cgroup_new_cgroup(group);
	char path[PATH_MAX];
	int err;

	if (!cg)
		return -ENOMEM;
	err = cgroup_add_controller(cg, "memory")
		      ? to_errno(cgroup_delete_cgroup_ext(cg, CGFLAG_DELETE_RECURSIVE | CGFLAG_DELETE_IGNORE_MIGRATION))
		      : -ENOMEM;
	cgroup_free(&cg);
	scope_path(group, path, sizeof(path));
	return access(path, F_OK) < 0 && errno == ENOENT ? 0 : err ? err : -EBUSY;
}

int scope_destroy(const char *group, int64_t deadline_ns)
{
	int err = scope_kill(group, deadline_ns);

	/* A group is busy for a moment after its last process was reaped. */
	while (!err && (err = scope_remove(group)) == -EBUSY && clock_ns() < deadline_ns) {
		err = 0;
		clock_sleep_ms(KILL_PAUSE_MS);
	}
	return err;
}

int scope_mkdir(const char *group)
{
	char path[PATH_MAX];

	scope_path(group, path, sizeof(path));
	return mkdir(path, 0755) < 0 ? -errno : 0;
}

int scope_rmdir(const char *group)
{
	char path[PATH_MAX];

	scope_path(group, path, sizeof(path));
	return rmdir(path) < 0 ? -errno : 0;
}

void scope_path(const char *group, char *buf, size_t size)
{
	snprintf(buf, size, HIERARCHY "/%s", group);
}
