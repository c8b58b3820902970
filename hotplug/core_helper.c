// SPDX-License-Identifier: MIT
/*
 * `headroom core-helper ASK FIRST DIR PID`: what kernel.core_pattern runs when the scenario's program crashes (seed
 * 002). It is to read the dump from its standard input, and it wants to know something about cgroups: with FIRST "asks"
 * before it reads, as helpers do that look for the container a crash belongs to. Then it waits with its question until
 * DIR/go is there, so that the others have their locks. ASK "read" reads /proc/PID/cgroup, "mkdir" makes a group.
 */
#include "base/clock.h"
#include "cgroups/scope.h"
#include "commands.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define HELPER_GROUP CGROUP_PARENT "/deadlock/helper"
#define GO_MS	     60000
#define LOOK_MS	     50

static void wait_for_go(const char *dir)
{
	int64_t deadline = clock_ns() + GO_MS * NS_PER_MS;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/go", dir);
	while (access(path, F_OK) < 0 && clock_ns() < deadline)
		clock_sleep_ms(LOOK_MS);
}

static int ask(const char *how, const char *pid)
{
	char path[64], text[4096];
	int fd, err = 0;

	if (strcmp(how, "mkdir") == 0)
		return scope_mkdir(HELPER_GROUP);
	snprintf(path, sizeof(path), "/proc/%s/cgroup", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (read(fd, text, sizeof(text)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static void drain(void)
{
	static char text[65536];

	while (read(STDIN_FILENO, text, sizeof(text)) > 0)
		;
}

int cmd_core_helper(int argc, char **argv)
{
	int err;

	if (argc != 5)
		return EXIT_USAGE;
	prctl(PR_SET_NAME, "hr-core-helper"); /* a record that says "headroom" waits would be misread */
	if (strcmp(argv[2], "drains") == 0)
		drain();
	else
		wait_for_go(argv[3]);
	err = ask(argv[1], argv[4]);
	drain();
	return err ? EXIT_BROKEN : EXIT_DONE;
}
