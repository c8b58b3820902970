// SPDX-License-Identifier: MIT
#include "dev/dmdev.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <libdevmapper.h>
#include <stdio.h>
#include <string.h>

#define REMOVE_TRIES 100 /* of 20 ms: a bio that just ended may still hold the device */

/* The library prints by itself otherwise. What matters comes back as an errno. */
static void on_library_message(int level, const char *file, int line, int dm_errno, const char *fmt, ...)
{
	(void)level, (void)file, (void)line, (void)dm_errno, (void)fmt;
}

static struct dm_task *new_task(int type, const char *name)
{
	static int set_up;
	struct dm_task *task;

	if (!set_up) {
		dm_log_with_errno_init(on_library_message);
		dm_udev_set_sync_support(0);
		dm_udev_set_checking(0);
		set_up = 1;
	}
	task = dm_task_create(type);
	if (task && !dm_task_set_name(task, name)) {
		dm_task_destroy(task);
		return NULL;
	}
	/* A table may have a key in it: the library and the kernel wipe their copies. */
	if (task)
		dm_task_secure_data(task);
	return task;
}

static int run_task(struct dm_task *task)
{
	int err = 0;

	if (!dm_task_run(task)) {
		err = -dm_task_get_errno(task);
		if (!err)
			err = -EIO;
	}
	dm_task_destroy(task);
	/* The library only notes which nodes to make or remove; this does it. */
	dm_task_update_nodes();
	return err;
}

static int run_plain(int type, const char *name)
{
	struct dm_task *task = new_task(type, name);

	return task ? run_task(task) : -ENOMEM;
}

static int run_with_table(int type, const char *name, uint64_t sectors, const char *target, const char *params)
{
	struct dm_task *task = new_task(type, name);

	if (!task)
		return -ENOMEM;
	if (!dm_task_add_target(task, 0, sectors, target, params)) {
		dm_task_destroy(task);
		return -ENOMEM;
	}
	return run_task(task);
}

int dmdev_create(const char *name, uint64_t sectors, const char *target, const char *params)
{
	return run_with_table(DM_DEVICE_CREATE, name, sectors, target, params);
}

int dmdev_swap_table(const char *name, uint64_t sectors, const char *target, const char *params,
		     int (*between)(void *arg), void *arg)
{
	int err = run_with_table(DM_DEVICE_RELOAD, name, sectors, target, params);
	int resumed;

	if (err)
		return err;
	err = run_plain(DM_DEVICE_SUSPEND, name);
	if (err)
		return err;
	if (between)
		err = between(arg);
	/* Resumed whatever happened: a device left suspended stops everything that touches it. */
	resumed = run_plain(DM_DEVICE_RESUME, name);
	return err ? err : resumed;
}

int dmdev_suspend(const char *name)
{
	return run_plain(DM_DEVICE_SUSPEND, name);
}

int dmdev_resume(const char *name)
{
	return run_plain(DM_DEVICE_RESUME, name);
}

int dmdev_remove(const char *name)
{
	int err = -EBUSY;

	for (int i = 0; i < REMOVE_TRIES && err == -EBUSY; i++) {
		if (i == 1)
			dmdev_resume(name);
		if (i)
			clock_sleep_ms(20);
		err = run_plain(DM_DEVICE_REMOVE, name);
	}
	return err;
}

static int only_target(int request, const char *name, char *buf, size_t size)
{
	struct dm_task *task = new_task(request, name);
	char *type = NULL, *params = NULL;
	uint64_t start, length;
	int err = 0;

	if (!task)
		return -ENOMEM;
	if (!dm_task_run(task)) {
		err = -dm_task_get_errno(task);
		if (!err)
			err = -EIO;
	} else {
		dm_get_next_target(task, NULL, &start, &length, &type, &params);
		snprintf(buf, size, "%s", params ? params : "");
	}
	dm_task_destroy(task);
	return err;
}

int dmdev_status(const char *name, char *buf, size_t size)
{
	return only_target(DM_DEVICE_STATUS, name, buf, size);
}

int dmdev_table(const char *name, char *buf, size_t size)
{
	return only_target(DM_DEVICE_TABLE, name, buf, size);
}

int dmdev_have_target(const char *target)
{
	struct dm_task *task = dm_task_create(DM_DEVICE_LIST_VERSIONS);
	struct dm_versions *v;
	int found = 0;

	if (!task || !dm_task_run(task)) {
		if (task)
			dm_task_destroy(task);
		return 0;
	}
	v = dm_task_get_versions(task);
	while (v) {
		found |= strcmp(v->name, target) == 0;
		v = v->next ? (struct dm_versions *)((char *)v + v->next) : NULL;
	}
	dm_task_destroy(task);
	return found;
}
