// SPDX-License-Identifier: MIT
#include "dev/swapdev.h"

#include "base/clock.h"
#include "base/spawn.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILL_WAIT_MS 2000

int swapdev_on(const char *path, int priority)
{
	int flags = SWAP_FLAG_PREFER | ((priority << SWAP_FLAG_PRIO_SHIFT) & SWAP_FLAG_PRIO_MASK);

	return swapon(path, flags) < 0 ? -errno : 0;
}

/* /proc/swaps writes a blank in a name as "\040" (fs/seq_file.c, mangle_path). */
static void unescape(char *name)
{
	char *to = name;

	for (const char *p = name; *p; p++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' && p[3] >= '0' &&
		    p[3] <= '7') {
			*to++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
			p += 3;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
}

static bool same_device(const char *a, const char *b)
{
	struct stat x, y;

	if (strcmp(a, b) == 0)
		return true;
	if (stat(a, &x) < 0 || stat(b, &y) < 0)
		return false;
	if (S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode))
		return x.st_rdev == y.st_rdev;
	return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Look for a device, or for any with `path` NULL. */
static int look(const char *proc_swaps, const char *path, char *buf, size_t size)
{
	FILE *f = fopen(proc_swaps, "re");
	char *line = NULL;
	size_t room = 0;
	int found = 0;

	/* A kernel without swap has no such file. */
	if (!f)
		return errno == ENOENT ? 0 : -errno;
	/* "Filename Type Size Used Priority", then a line each. */
	for (bool head = true; !found && getline(&line, &room, f) > 0; head = false) {
		char *name = line;

		name[strcspn(name, " \t\n")] = '\0';
		if (head || !*name)
			continue;
		unescape(name);
		found = !path || same_device(name, path);
		if (found)
			snprintf(buf, size, "%s", name);
	}
	free(line);
	fclose(f);
	return found;
}

int swapdev_any(const char *proc_swaps, char *buf, size_t size)
{
	return look(proc_swaps, NULL, buf, size);
}

int swapdev_is_on(const char *proc_swaps, const char *path)
{
	char name[16];

	return look(proc_swaps, path, name, sizeof(name));
}

int swapdev_off(const char *path, unsigned timeout_ms)
{
	pid_t parent = getpid(), pid;
	int status;

	if (access(path, F_OK) < 0)
		return -errno;
	if (swapdev_is_on("/proc/swaps", path) == 0)
		return 0;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		spawn_die_with(parent);
		_exit(swapoff(path) < 0 ? errno : 0);
	}
	if (!spawn_wait_until(pid, clock_ns() + timeout_ms * NS_PER_MS, &status)) {
		/* try_to_unuse() looks for signals: it stops, and what was brought back stays in memory. */
		kill(pid, SIGKILL);
		spawn_wait_until(pid, clock_ns() + KILL_WAIT_MS * NS_PER_MS, &status);
		return -ETIMEDOUT;
	}
	if (WIFSIGNALED(status))
		return -ENOMEM; /* of the OOM killer: nobody else knows of this child */
	return -WEXITSTATUS(status);
}
