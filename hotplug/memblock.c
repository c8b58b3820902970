// SPDX-License-Identifier: MIT
#include "hotplug/memblock.h"

#include "base/clock.h"
#include "base/spawn.h"
#include "base/sysfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * A signal is looked at between two passes over a block. A pass over 128 MiB that are in use took up to 12 s under
 * emulation, beside another guest.
 */
#define KILL_MS	    60000
#define ALONE_MS    500 /* past its bound, when nobody has ended it */
#define STACK_LOOKS 20	/* of 10 ms: of a task that runs the stack cannot always be read */

static int read_hex(const char *path, uint64_t *value)
{
	char text[32], *end;
	ssize_t n = sysfile_read(path, text, sizeof(text));

	if (n < 0)
		return (int)n;
	if (!n)
		return -EINVAL;
	errno = 0;
	*value = strtoull(text, &end, 16); /* without "0x" */
	return errno ? -errno : *end ? -EINVAL : 0;
}

int memblock_size(const char *root, uint64_t *bytes)
{
	char path[PATH_MAX];
	int err;

	snprintf(path, sizeof(path), "%s/block_size_bytes", root);
	err = read_hex(path, bytes);
	return err ? err : *bytes ? 0 : -EINVAL;
}

static int read_state(const char *text, enum memblock_state *state)
{
	static const char *const names[] = {
		[MEMBLOCK_ONLINE] = "online", [MEMBLOCK_OFFLINE] = "offline", [MEMBLOCK_GOING] = "going-offline"
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(text, names[i]) == 0) {
			*state = (enum memblock_state)i;
			return 0;
		}
	}
	return -EINVAL;
}

int memblock_read(const char *root, unsigned id, struct memblock *b)
{
	char path[PATH_MAX], text[64];
	ssize_t n;
	int err;

	*b = (struct memblock){ .id = id };
	snprintf(path, sizeof(path), "%s/memory%u/phys_index", root, id);
	err = read_hex(path, &b->phys_index);
	if (err)
		return err;
	snprintf(path, sizeof(path), "%s/memory%u/state", root, id);
	n = sysfile_read(path, text, sizeof(text));
	err = n < 0 ? (int)n : read_state(text, &b->state);
	if (err)
		return err;
	strcpy(b->zones, "none");
	/*
	 * Of a block that is just being added 6.1 does not know the node yet, and who reads its valid_zones follows a
	 * NULL pointer (zone_for_pfn_range()).
	 */
	if (b->state != MEMBLOCK_ONLINE)
		return 0;
	/* Kernels without CONFIG_MEMORY_HOTREMOVE have none. */
	snprintf(path, sizeof(path), "%s/memory%u/valid_zones", root, id);
	if (sysfile_read(path, b->zones, sizeof(b->zones)) < 0)
		strcpy(b->zones, "none");
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct memblock *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

int memblock_list(const char *root, struct memblock *blocks, size_t max)
{
	DIR *d = opendir(root);
	struct dirent *e;
	size_t n = 0;

	if (!d)
		return -errno;
	while (n < max && (e = readdir(d))) {
		unsigned id;
		char rest;

		if (sscanf(e->d_name, "memory%u%c", &id, &rest) == 1 && memblock_read(root, id, &blocks[n]) == 0)
			n++;
	}
	closedir(d);
	qsort(blocks, n, sizeof(*blocks), by_id);
	return (int)n;
}

bool memblock_movable(const struct memblock *b)
{
	return strcmp(b->zones, "Movable") == 0;
}

uint64_t memblock_address(const void *page)
{
	static const char path[] = "/proc/self/pagemap";
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / size * sizeof(entry))) != sizeof(entry))
		entry = 0;
	close(fd);
	/* Bit 63: it is in memory; bits 0 to 54: its frame (Documentation/admin-guide/mm/pagemap.rst). */
	return entry >> 63 ? (entry & ((1ULL << 55) - 1)) * size : 0;
}

int memblock_at(const char *root, uint64_t address, struct memblock *b)
{
	static struct memblock blocks[MEMBLOCK_MAX];
	int n = memblock_list(root, blocks, MEMBLOCK_MAX);
	uint64_t size;
	int err = memblock_size(root, &size);

	if (err || n < 0)
		return err ? err : n;
	for (int i = 0; i < n; i++) {
		if (blocks[i].phys_index == address / size) {
			*b = blocks[i];
			return 0;
		}
	}
	return -ENOENT;
}

static bool count_pages(uint64_t *migrated, uint64_t *failed)
{
	return sysfile_read_key("/proc/vmstat", "pgmigrate_success", migrated) == 0 &&
	       sysfile_read_key("/proc/vmstat", "pgmigrate_fail", failed) == 0;
}

/* A timer of the kernel's, which needs nobody's memory and no processor time of ours. */
static void die_after(int64_t ns)
{
	struct sigevent kill = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
	struct itimerspec when = { .it_value = { .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S } };
	timer_t timer;

	if (timer_create(CLOCK_MONOTONIC, &kill, &timer) == 0)
		timer_settime(timer, 0, &when, NULL);
}

struct memblock_try memblock_begin(const char *root, unsigned id, const char *state, int64_t bound_ns)
{
	struct memblock_try t = {
		.root = root, .state = state, .id = id, .begin_ns = clock_ns(), .bound_ns = bound_ns
	};
	pid_t parent = getpid();
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/memory%u/state", root, id);
	t.counted = count_pages(&t.migrated, &t.failed);
	t.pid = fork();
	if (t.pid == 0) {
		spawn_die_with(parent);
		prctl(PR_SET_NAME, "hr-offline");
		if (bound_ns)
			die_after(bound_ns + ALONE_MS * NS_PER_MS);
		_exit(-sysfile_write(path, state));
	}
	if (t.pid < 0)
		t.err = -errno;
	return t;
}

/* The kernel looks for signals before the last steps: a write that a signal ended may have done its work. */
static bool came_about(const struct memblock_try *t)
{
	struct memblock b;

	return memblock_read(t->root, t->id, &b) == 0 &&
	       b.state == (strcmp(t->state, "offline") == 0 ? MEMBLOCK_OFFLINE : MEMBLOCK_ONLINE);
}

/* The child is over, with this status, or hangs. The counters were as of the beginning until now. */
static void finish(struct memblock_try *t, int status)
{
	uint64_t migrated, failed;

	t->took_ns = clock_ns() - t->begin_ns;
	t->err = t->hangs ? -EBUSY : !WIFSIGNALED(status) ? -WEXITSTATUS(status) : came_about(t) ? 0 : -EINTR;
	t->counted = t->counted && count_pages(&migrated, &failed);
	t->migrated = t->counted ? migrated - t->migrated : 0;
	t->failed = t->counted ? failed - t->failed : 0;
}

bool memblock_ended(struct memblock_try *t, int64_t until_ns)
{
	int status = 0;

	if (!spawn_wait_until(t->pid, until_ns, &status))
		return false;
	finish(t, status);
	/* By its own timer; before its bound it was somebody else. */
	t->ended = t->bound_ns && t->took_ns >= t->bound_ns && t->err == -EINTR;
	return true;
}

/* What offline_pages() had called, else the innermost function. */
static void find_place(struct memblock_try *t)
{
	struct stack s = { .n = 0 };
	unsigned in;

	for (int i = 0; !s.n && i < STACK_LOOKS; i++) {
		if (i)
			clock_sleep_ms(10);
		stack_read(&s, "/proc", t->pid);
	}
	in = stack_find(&s, "offline_pages");
	if (s.n)
		snprintf(t->where, sizeof(t->where), "%s", s.names[in < s.n && in > 0 ? in - 1 : 0]);
	t->where[strcspn(t->where, ".")] = '\0'; /* "do_migrate_range.isra.0": as this compiler cut it */
}

void memblock_kill(struct memblock_try *t)
{
	int status = 0;

	find_place(t);
	kill(t->pid, SIGKILL);
	t->hangs = !spawn_wait_until(t->pid, clock_ns() + KILL_MS * NS_PER_MS, &status);
	finish(t, status);
	/* It may have come back before the signal was there. */
	t->ended = t->hangs || (t->err == -EINTR && WIFSIGNALED(status));
}

struct memblock_try memblock_write(const char *root, unsigned id, const char *state, int64_t bound_ns,
				   int64_t deadline_ns)
{
	struct memblock_try t = memblock_begin(root, id, state, bound_ns);
	int64_t until = bound_ns && t.begin_ns + bound_ns < deadline_ns ? t.begin_ns + bound_ns : deadline_ns;

	if (t.pid > 0 && !memblock_ended(&t, until))
		memblock_kill(&t);
	return t;
}
