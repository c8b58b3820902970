// SPDX-License-Identifier: MIT
#include "run/undo.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "dev/dmdev.h"
#include "dev/loopdev.h"
#include "dev/nbddev.h"
#include "dev/swapdev.h"
#include "hotplug/memrange.h"
#include "run/devguard.h"
#include "run/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024
#define TREE_MS	       10000
#define SWAPOFF_MS     20000 /* it reads back what is still out there */
#define DIMM_MS	       25000 /* the host bounds plugging in; then its blocks come online */
#define END_MS	       5000  /* for a process to end when it is asked to; then it is killed */
#define RMDIR_TRIES    100   /* of 20 ms: a group is busy until its last process is reaped */

static int log_fd = -1;

int undo_open(const char *path)
{
	if (log_fd >= 0)
		close(log_fd);
	log_fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	return log_fd < 0 ? -errno : 0;
}

int undo_note(const char *kind, const char *what, const char *old)
{
	char line[LINE_MAX_BYTES];
	int len = snprintf(line, sizeof(line), "%s\t%s\t%s\n", kind, what, old ? old : "");
	ssize_t n;

	if (log_fd < 0)
		return -EBADF;
	if (len >= (int)sizeof(line))
		return -ENAMETOOLONG;
	n = write(log_fd, line, (size_t)len);
	if (n < 0)
		return -errno;
	if (n != len)
		return -EIO;
	return fdatasync(log_fd) < 0 ? -errno : 0;
}

/* When it was started, in ticks since boot; 0: it is not there, or has ended and is only not waited for. */
static unsigned long long started_at(pid_t pid)
{
	char path[64], text[1024], state;
	unsigned long long ticks;
	const char *after;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (sysfile_read(path, text, sizeof(text)) <= 0)
		return 0;
	after = strrchr(text, ')');
	/* proc(5): the state is the 3rd field, this one the 22nd. */
	if (!after ||
	    sscanf(after + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
		   &state, &ticks) != 2)
		return 0;
	return state == 'Z' || state == 'X' ? 0 : ticks;
}

int undo_note_process(pid_t pid)
{
	char what[16], old[24];

	snprintf(what, sizeof(what), "%d", (int)pid);
	snprintf(old, sizeof(old), "%llu", started_at(pid));
	return undo_note("process", what, old);
}

static bool ends_within(pid_t pid, unsigned long long ticks, int64_t ms)
{
	int64_t until = clock_ns() + ms * NS_PER_MS;

	while (started_at(pid) == ticks) {
		if (clock_ns() >= until)
			return false;
		clock_sleep_ms(20);
	}
	return true;
}

/* Not another that has got its number since. */
static int end_process(const char *number, const char *started)
{
	unsigned long long ticks;
	pid_t pid;

	if (sscanf(number, "%d", &pid) != 1 || sscanf(started, "%llu", &ticks) != 1 || pid <= 1)
		return -EINVAL;
	if (!ticks || started_at(pid) != ticks)
		return 0;
	kill(pid, SIGTERM);
	if (ends_within(pid, ticks, END_MS))
		return 0;
	kill(pid, SIGKILL);
	return ends_within(pid, ticks, END_MS) ? 0 : -EBUSY;
}

static int remove_group(const char *path)
{
	for (int i = 0; i < RMDIR_TRIES; i++) {
		if (rmdir(path) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return -errno;
		clock_sleep_ms(20);
	}
	return -EBUSY;
}

/* Switch those off that were not on before. One that somebody else has come to use stays on. */
static int restore_controllers(const char *path, const char *before)
{
	char now[256], had[258], word[80], off[80], *rest = now, *name;
	int err = 0;

	if (sysfile_read(path, now, sizeof(now)) < 0)
		return -errno;
	snprintf(had, sizeof(had), " %s ", before);
	while (!err && (name = strsep(&rest, " "))) {
		snprintf(word, sizeof(word), " %.64s ", name);
		snprintf(off, sizeof(off), "-%.64s", name);
		if (*name && !strstr(had, word))
			err = sysfile_write(path, off);
		if (err == -EBUSY)
			err = 0;
	}
	return err;
}

/* One that is online already refuses. */
static int block_online(const char *path, const char *state)
{
	char now[32];

	if (sysfile_read(path, now, sizeof(now)) >= 0 && strcmp(now, "online") == 0)
		return 0;
	return sysfile_write(path, state);
}

/* Blocks come online by themselves; before that their own lines, which are next, would find nothing. */
static int plug_in(const char *number)
{
	int64_t deadline_ns = clock_ns() + DIMM_MS * NS_PER_MS;
	struct cell_dimm answer;
	unsigned dimm;
	int err;

	if (sscanf(number, "%u", &dimm) != 1)
		return -EINVAL;
	err = cell_dimm(CELL_DIMM_WHERE, dimm, deadline_ns, &answer);
	if (err != -ENODEV)
		return err;
	err = cell_dimm(CELL_DIMM_PLUG, dimm, deadline_ns, &answer);
	while (!err && !memrange_is_online(MEMBLOCK_ROOT, &(struct memrange){ answer.address, answer.bytes })) {
		if (clock_ns() >= deadline_ns)
			return -ETIMEDOUT;
		clock_sleep_ms(20);
	}
	return err;
}

static int undo_line(char *line)
{
	char *rest = line;
	const char *kind = strsep(&rest, "\t");
	const char *what = strsep(&rest, "\t");
	const char *old = strsep(&rest, "\n");
	int err = -EINVAL;

	if (!what || !old)
		err = -EINVAL;
	else if (strcmp(kind, "knob") == 0)
		err = sysfile_write(what, old);
	else if (strcmp(kind, "dm") == 0)
		err = dmdev_remove(what);
	else if (strcmp(kind, "loop") == 0)
		err = loopdev_detach(what, old);
	else if (strcmp(kind, "disk") == 0)
		err = devguard_clear(what, old);
	else if (strcmp(kind, "controllers") == 0)
		err = restore_controllers(what, old);
	else if (strcmp(kind, "cgroup") == 0)
		err = remove_group(what);
	else if (strcmp(kind, "cgroup-tree") == 0)
		err = scope_destroy(what, clock_ns() + TREE_MS * NS_PER_MS);
	else if (strcmp(kind, "memory-block") == 0)
		err = block_online(what, old);
	else if (strcmp(kind, "dimm") == 0)
		err = plug_in(what);
	else if (strcmp(kind, "swap") == 0)
		err = swapdev_off(what, SWAPOFF_MS);
	else if (strcmp(kind, "nbd") == 0)
		err = nbddev_disconnect(what);
	else if (strcmp(kind, "process") == 0)
		err = end_process(what, old);
	if (err == -ENOENT || err == -ENXIO)
		err = 0; /* gone already */
	if (err)
		log_warn("undo %s %s: %s", kind, what ? what : "?", strerror(-err));
	return err;
}

int undo_play(const char *path)
{
	FILE *f = fopen(path, "re");
	char **lines = NULL, *line = NULL;
	size_t n = 0, cap = 0;
	ssize_t len;
	int failed = 0;

	if (log_fd >= 0) {
		close(log_fd);
		log_fd = -1;
	}
	if (!f)
		return errno == ENOENT ? 0 : -errno;
	while ((len = getline(&line, &cap, f)) > 0) {
		/* Cut off: the note never came back, so the change was not made. */
		if (line[len - 1] != '\n')
			break;
		char **more = realloc(lines, (n + 1) * sizeof(*lines));

		if (!more) {
			failed++;
			break;
		}
		lines = more;
		lines[n++] = line;
		line = NULL;
		cap = 0;
	}
	free(line);
	fclose(f);
	while (n > 0) {
		failed += undo_line(lines[--n]) != 0;
		free(lines[n]);
	}
	free(lines);
	if (!failed && unlink(path) < 0)
		return -errno;
	return failed;
}

int undo_play_within(const char *path, unsigned timeout_s)
{
	pid_t parent = getpid(), pid = fork();
	int status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		spawn_die_with(parent);
		setpgid(0, 0);
		_exit(undo_play(path) == 0 ? 0 : 1);
	}
	if (spawn_wait_until(pid, clock_ns() + timeout_s * NS_PER_S, &status))
		return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
	kill(-pid, SIGKILL);
	return -ETIMEDOUT;
}
