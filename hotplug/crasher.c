// SPDX-License-Identifier: MIT
#include "hotplug/crasher.h"

#include "base/clock.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "hotplug/memblock.h"
#include "run/undo.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/*
 * The lowest mapping is dumped first: at the least address that a process may have (vm.mmap_min_addr is 64 KiB), larger
 * than the 64 KiB that a pipe takes, so that the dump stops in the middle of it.
 */
#define LOW_ADDRESS 0x20000UL
#define LOW_BYTES   (3UL << 20)
#define PAGE	    4096UL
#define START_MS    10000 /* to touch those 3 MiB, and to die: moments, even under emulation */
#define HELD_PAGE   14	  /* about where the pipe is full: headers and notes come before */

int crasher_set_pattern(const char *ask, const char *first, const char *dir)
{
	char old[256], now[PATH_MAX], self[PATH_MAX];
	ssize_t n = sysfile_read(CRASHER_CORE_PATTERN, old, sizeof(old));
	int err = n < 0 ? (int)n : undo_note("knob", CRASHER_CORE_PATTERN, old);

	if (ask)
		snprintf(now, sizeof(now), "|%s core-helper %s %s %s %%P", paths_self(self), ask, first, dir);
	else
		snprintf(now, sizeof(now), "%s/core.%%p", dir);
	return err ? err : sysfile_write(CRASHER_CORE_PATTERN, now);
}

static void go_path(char *path, const char *dir)
{
	snprintf(path, PATH_MAX, "%s/go", dir);
}

int crasher_go(const char *dir)
{
	char path[PATH_MAX];
	int fd;

	go_path(path, dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

void crasher_sweep(const char *dir, pid_t pid)
{
	char path[PATH_MAX];

	go_path(path, dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/core.%d", dir, (int)pid);
	unlink(path);
}

/* Says where its page lies, waits for the word, and crashes. */
__attribute__((noreturn)) static void crash(int say, int wait)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	char *memory = mmap((void *)LOW_ADDRESS, LOW_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	uint64_t address = 0;
	char word;

	if (memory == (char *)LOW_ADDRESS) {
		madvise(memory, LOW_BYTES, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < LOW_BYTES; at += PAGE)
			memory[at] = 1;
		address = memblock_address(memory + HELD_PAGE * PAGE);
	}
	setrlimit(RLIMIT_CORE, &all);
	prctl(PR_SET_DUMPABLE, 1);
	if (write(say, &address, sizeof(address)) == sizeof(address) && read(wait, &word, 1) == 1) {
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	_exit(1);
}

static void close_both(const int fds[2])
{
	close(fds[0]);
	close(fds[1]);
}

int crasher_start(struct crasher *k, pid_t (*start)(void *arg), void *arg)
{
	int up[2], down[2], err = 0;

	if (pipe2(up, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(down, O_CLOEXEC) < 0) {
		err = -errno;
		close_both(up);
		return err;
	}
	*k = (struct crasher){ .say = up[0], .wait = down[1], .pid = start(arg) };
	if (k->pid == 0) {
		/* Else it would never see the end of what it waits for. */
		close(up[0]);
		close(down[1]);
		crash(up[1], down[0]);
	}
	close(up[1]);
	close(down[0]);
	if (k->pid < 0)
		err = k->pid;
	else if (poll(&(struct pollfd){ .fd = k->say, .events = POLLIN }, 1, START_MS) != 1)
		err = -ETIMEDOUT;
	else if (read(k->say, &k->address, sizeof(k->address)) != sizeof(k->address) || !k->address)
		err = -EIO;
	close(k->say);
	if (err)
		close(k->wait);
	if (err && k->pid > 0) {
		kill(k->pid, SIGKILL);
		spawn_wait_until(k->pid, clock_ns() + START_MS * NS_PER_MS, NULL);
	}
	return err;
}

int crasher_crash(struct crasher *k)
{
	int err = write(k->wait, "!", 1) == 1 ? 0 : -errno;

	close(k->wait);
	return err;
}
