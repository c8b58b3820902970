// SPDX-License-Identifier: MIT
#include "hotplug/detector.h"

#include "base/clock.h"
#include "base/sysfile.h"

#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS	 500
#define FAILS_MS 2000 /* for which pages that could not be moved count as not to be moved */

static ssize_t read_of(const struct detector *d, pid_t pid, const char *file, char *buf, size_t size)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%d/%s", d->proc, (int)pid, file);
	return sysfile_read(path, buf, size);
}

/* "pid (name) state ...": the name may hold anything. */
static bool read_stat(const struct detector *d, pid_t pid, struct waiter *t)
{
	char text[512], *open, *close;

	if (read_of(d, pid, "stat", text, sizeof(text)) <= 0)
		return false;
	open = strchr(text, '(');
	close = strrchr(text, ')');
	if (!open || !close || close < open || close[1] != ' ' || !close[2])
		return false;
	*close = '\0';
	*t = (struct waiter){ .pid = pid, .state = close[2] };
	snprintf(t->comm, sizeof(t->comm), "%s", open + 1);
	return true;
}

static bool dumps_core(const struct detector *d, pid_t pid)
{
	char wchan[64];

	return read_of(d, pid, "wchan", wchan, sizeof(wchan)) > 0 && strcmp(wchan, "pipe_write") == 0;
}

static bool of_interest(const struct detector *d, const struct waiter *t)
{
	return t->state == 'D' || (t->state == 'S' && dumps_core(d, t->pid));
}

static void take(struct detector *d, const struct waiter *t)
{
	if (d->n_tasks < WAITFOR_MAX_TASKS)
		d->tasks[d->n_tasks++] = *t;
	else
		d->dropped++;
}

static void take_known(struct detector *d, pid_t pid)
{
	struct waiter t;

	if (pid && read_stat(d, pid, &t))
		take(d, &t);
}

static void classify(struct detector *d, struct waiter *t, bool migrating_fails)
{
	char path[PATH_MAX], stack[STACK_TEXT];
	ssize_t n = read_of(d, t->pid, "stack", stack, sizeof(stack));

	snprintf(path, sizeof(path), "%s/%d/status", d->proc, (int)t->pid);
	if (sysfile_read_key(path, "voluntary_ctxt_switches", &t->switches))
		t->switches = 0;
	t->offlines = t->pid == d->offliner;
	t->supervises = d->offliner && t->pid == d->supervisor;
	waitfor_classify(t, stack, n > 0 ? (size_t)n : 0, migrating_fails);
}

/* The helper of core_pattern gets the pid of the dumped task as an argument (%P or %p). */
static bool has_argument(const char *cmdline, size_t len, pid_t pid)
{
	char wanted[16];

	snprintf(wanted, sizeof(wanted), "%d", (int)pid);
	for (const char *arg = cmdline, *end = cmdline + len; arg < end; arg += strlen(arg) + 1)
		if (arg > cmdline && strcmp(arg, wanted) == 0)
			return true;
	return false;
}

/* Whose dump this task is to read; 0: nobody's. */
static pid_t dump_read_by(const struct detector *d, pid_t pid)
{
	char cmdline[1024];
	ssize_t n = read_of(d, pid, "cmdline", cmdline, sizeof(cmdline));

	for (unsigned i = 0; n > 0 && i < d->n_tasks; i++)
		if (strcmp(d->tasks[i].where, "pipe_write") == 0 && d->tasks[i].pid != pid &&
		    has_argument(cmdline, (size_t)n, d->tasks[i].pid))
			return d->tasks[i].pid;
	return 0;
}

/*
 * Reading a command line takes the task's mmap_lock, which who stands still in a page fault may hold. So only those are
 * asked whose stack says that they wait for a lock of ours, outside of any fault, and only while somebody dumps.
 */
static void find_readers(struct detector *d, bool migrating_fails)
{
	bool dumping = false;

	for (unsigned i = 0; i < d->n_tasks; i++)
		dumping |= strcmp(d->tasks[i].where, "pipe_write") == 0;
	for (unsigned i = 0; dumping && i < d->n_tasks; i++) {
		struct waiter *t = &d->tasks[i];

		if (t->state != 'D' || !*t->waits)
			continue;
		t->dumps = dump_read_by(d, t->pid);
		if (t->dumps)
			classify(d, t, migrating_fails);
	}
}

bool detector_look(struct detector *d, int64_t now_ns)
{
	char path[PATH_MAX];
	uint64_t failed = d->migrate_failed;
	DIR *dir = opendir(d->proc);
	struct dirent *e;
	bool fails, deadlock;

	if (!dir)
		return false;
	d->looked_n++;
	snprintf(path, sizeof(path), "%s/vmstat", d->proc);
	if (sysfile_read_key(path, "pgmigrate_fail", &failed) == 0 && d->looked && failed > d->migrate_failed)
		d->failed_ns = now_ns;
	/* A guest may stand still for a moment: one look without a failure is no progress. */
	fails = d->failed_ns && now_ns - d->failed_ns < FAILS_MS * NS_PER_MS;
	d->migrate_failed = failed;
	d->looked = true;
	d->n_tasks = 0;
	/* These first: they are young, and /proc lists them behind all others. */
	take_known(d, d->offliner);
	take_known(d, d->supervisor);
	while ((e = readdir(dir))) {
		struct waiter t;
		char *end;
		long pid = strtol(e->d_name, &end, 10);

		if (pid > 0 && !*end && pid != d->offliner && pid != d->supervisor && read_stat(d, (pid_t)pid, &t) &&
		    of_interest(d, &t))
			take(d, &t);
	}
	closedir(dir);
	for (unsigned i = 0; i < d->n_tasks; i++)
		classify(d, &d->tasks[i], fails);
	find_readers(d, fails);
	waitfor_supervised(d->tasks, d->n_tasks);
	deadlock = waitfor_add(&d->watch, d->tasks, d->n_tasks, now_ns, d->looks, d->hold_ns);
	d->cycles_n += d->watch.looks > 0;
	return deadlock;
}

bool detector_wait(struct detector *d, struct memblock_try *t, int64_t until_ns)
{
	int64_t now;

	d->offliner = t->pid;
	while ((now = clock_ns()) < until_ns) {
		int64_t next = now + LOOK_MS * NS_PER_MS;

		if (memblock_ended(t, next < until_ns ? next : until_ns))
			return false;
		if (detector_look(d, clock_ns()))
			return true;
	}
	return false;
}
