// SPDX-License-Identifier: MIT
#include "run/metal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "hotplug/memblock.h"
#include "run/cell.h"
#include "run/devguard.h"
#include "run/undo.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOCK_FILE  "/run/headroom.lock"
#define WORK_DIR   "work"
#define WRITE_FILE "can-write"
#define LOOK_MS	   20
#define TERM_MS	   2000
#define KILL_MS	   10000 /* what is still there then hangs in the kernel */
#define UNDO_S	   60	 /* swapping off takes the most */
#define RESTORE_S  90	 /* with those who have to end before */
#define SAY_S	   5
#define WRITE_S	   30 /* for a few bytes; what takes longer does not come to an end */

/* --- The machine --- */

static uint64_t movable_bytes(void)
{
	static struct memblock blocks[MEMBLOCK_MAX];
	int n = memblock_list(MEMBLOCK_ROOT, blocks, MEMBLOCK_MAX);
	uint64_t block_bytes, bytes = 0;

	if (memblock_size(MEMBLOCK_ROOT, &block_bytes))
		return 0;
	for (int i = 0; i < n; i++)
		if (blocks[i].state == MEMBLOCK_ONLINE && memblock_movable(&blocks[i]))
			bytes += block_bytes;
	return bytes;
}

int metal_look(struct metal_machine *m)
{
	struct utsname uts;
	uint64_t total_kib;
	int err = sysfile_read_key("/proc/meminfo", "MemTotal", &total_kib);

	if (err)
		return err;
	uname(&uts);
	snprintf(m->kernel, sizeof(m->kernel), "%s", uts.release);
	m->cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	m->movable_mib = movable_bytes() >> 20;
	m->memory_mib = total_kib / 1024;
	/* Where all of it is movable there is no telling what would stay: it counts as a whole. */
	if (m->movable_mib < m->memory_mib)
		m->memory_mib -= m->movable_mib;
	return 0;
}

void metal_kernel(const struct metal_machine *m, struct kernel *k)
{
	snprintf(k->spec, sizeof(k->spec), "running");
	snprintf(k->version, sizeof(k->version), "%s", m->kernel);
	snprintf(k->source, sizeof(k->source), "this machine's");
	/* Where Debian has it, until 6.x and since. */
	snprintf(k->config, sizeof(k->config), "/boot/config-%s", m->kernel);
	if (access(k->config, R_OK) < 0)
		snprintf(k->config, sizeof(k->config), "/lib/modules/%s/config", m->kernel);
	if (access(k->config, R_OK) < 0)
		k->config[0] = '\0';
}

int metal_lock(void)
{
	static int fd = -1;

	if (fd >= 0)
		return 0;
	fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		int err = errno == EWOULDBLOCK ? -EBUSY : -errno;

		close(fd);
		fd = -1;
		return err;
	}
	return 0;
}

/* --- Its disk --- */

static struct devguard disk = { .fd = -1 };

int metal_claim_disk(const char *name, uint64_t bytes, char *err, size_t err_size)
{
	return devguard_take(&disk, &devguard_this_machine, name, bytes, err, err_size);
}

int metal_blank_disk(uint64_t bytes)
{
	return devguard_blank(&disk, bytes);
}

void metal_release_disk(void)
{
	devguard_release(&disk);
}

/* --- A cell --- */

/* We look after it, so it must not be us who are killed for it. */
static void protect_ourselves(void)
{
	if (sysfile_write("/proc/self/oom_score_adj", "-1000"))
		log_warn("oom_score_adj: %s; the OOM killer may take this program", strerror(errno));
}

/*
 * Nor must we wait for a page of ours: one of a program's text that was dropped is read back from a file system that
 * may stand still, and after a fork the first write to a page needs a new one. So all is brought in and stays, but for
 * the box, which has tens of MiB; we look at its first page.
 */
static void hold_pages(const struct bb *box)
{
	uintptr_t from, to, head = (uintptr_t)box->head;
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[PATH_MAX + 128];

	/* What is still to come, as the stack grows; and the box as far as it was looked at. */
	if (!maps || mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		log_warn("this program's pages are not held: %s", strerror(errno));
	while (maps && fgets(line, sizeof(line), maps))
		/* What cannot be held is the kernel's own: [vvar], [vsyscall]. */
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) == 2 && (head < from || head >= to))
			mlock((const void *)from, to - from);
	if (maps)
		fclose(maps);
}

static void cell_process(const struct metal_config *m, struct bb *box, const char *work_dir)
{
	int fd = open(m->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	setpgid(0, 0); /* Ctrl-C is for who looks after it */
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	log_set_stamps(1);
	bb_stage(box, BB_BOOTED);
	_exit(cell_run(m->spec, box, m->dir, work_dir) ? 1 : 0);
}

/* Not spawn_wait_until(), which opens a file descriptor: that takes memory. */
static bool ended_within(pid_t pid, int64_t ms, int *status)
{
	int64_t deadline_ns = clock_ns() + ms * NS_PER_MS;

	while (waitpid(pid, status, WNOHANG) != pid) {
		if (clock_ns() >= deadline_ns)
			return false;
		clock_sleep_ms(LOOK_MS);
	}
	return true;
}

/* Its children die with it. One that does not even die of SIGKILL is left, and *status as it was. */
static void end_process(pid_t pid, int *status)
{
	kill(pid, SIGTERM);
	if (ended_within(pid, TERM_MS, status))
		return;
	kill(pid, SIGKILL);
	ended_within(pid, KILL_MS, status);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path) < 0 ? -1 : 0;
}

int metal_run(const struct metal_config *m, struct bb *box, watch_progress_fn *progress, void *arg,
	      struct ending *ending)
{
	struct watch w = watch_begin(m->limits);
	pid_t parent = getpid(), pid;
	char work_dir[PATH_MAX];
	bool ended_by_us = false;
	int status = 0, err;
	enum end why;

	snprintf(work_dir, sizeof(work_dir), "%s/" WORK_DIR, m->dir);
	err = sysfile_mkdirs(work_dir);
	if (err)
		return err;
	protect_ourselves();
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		spawn_die_with(parent);
		cell_process(m, box, work_dir);
	}
	hold_pages(box);
	while (!ended_within(pid, WATCH_POLL_MS, &status)) {
		watch_look(&w, box);
		if (watch_must_end(&w, &why)) {
			ended_by_us = true;
			end_process(pid, &status);
			break;
		}
		progress(box, (double)(clock_ns() - w.begin_ns) / 1e9, arg);
	}
	watch_look(&w, box);
	*ending = watch_end(&w, ended_by_us ? &why : NULL, status);
	ending->boot_s = -1;
	return 0;
}

/* `what` in a child, which may hang where a load has left a mess. What it returns, 0 or -errno, or -ETIMEDOUT. */
static int within(unsigned timeout_s, int (*what)(const char *), const char *with)
{
	pid_t parent = getpid(), pid = fork();
	int status;

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		spawn_die_with(parent);
		setpgid(0, 0);
		_exit(-what(with));
	}
	if (ended_within(pid, timeout_s * 1000LL, &status))
		return WIFEXITED(status) ? -WEXITSTATUS(status) : -EINTR;
	kill(-pid, SIGKILL);
	return -ETIMEDOUT;
}

static int undo_all(const char *dir)
{
	char log[PATH_MAX], work_dir[PATH_MAX];

	snprintf(work_dir, sizeof(work_dir), "%s/" WORK_DIR, dir);
	nftw(work_dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	snprintf(log, sizeof(log), "%s/" UNDO_LOG, dir);
	if (access(log, F_OK) < 0)
		return 0;
	if (scope_init() == 0)
		scope_kill(CGROUP_PARENT, clock_ns() + KILL_MS * NS_PER_MS);
	return undo_play_within(log, UNDO_S);
}

int metal_undo(const char *dir)
{
	return within(RESTORE_S, undo_all, dir);
}

static int write_a_file(const char *dir)
{
	char path[PATH_MAX];
	int err;

	snprintf(path, sizeof(path), "%s/" WRITE_FILE, dir);
	err = sysfile_replace(path, "", 0);
	unlink(path);
	return err;
}

int metal_can_write(const char *dir)
{
	return within(WRITE_S, write_a_file, dir);
}

static int say(const char *text)
{
	log_err("%s", text);
	return 0;
}

void metal_say(const char *text)
{
	within(SAY_S, say, text);
}
