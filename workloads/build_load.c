// SPDX-License-Identifier: MIT
/*
 * build-load: what a compilation does to the memory of its group, for a table like that of seed 002 (Bharata B Rao,
 * 30 January 2020): the peaks of the group's kernel memory, of all its memory and of the machine's slab, looked at
 * every five seconds while `make -j` runs in a group.
 *
 * It has the shape of a build, not its code: so many jobs at a time, each unit a process that looks for headers along
 * an include path, reads them, works in memory of its own, and hands the result through a pipe to a second process,
 * which writes the object file. What is there lies on a tmpfs in a mount namespace of its own, which goes with the last
 * process of the build: there is nothing to undo. A tmpfs keeps no dentries of what is not there, as the disk of a
 * build does: so the directories in which a header is looked for in vain are the root of the system.
 */
#include "base/clock.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "run/workload.h"
#include "workloads/kmem_mitigations.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUILD_GROUP CGROUP_PARENT "/build"
#define TREE	    "/tmp" /* covered by the tmpfs */
#define MAX_JOBS    256
#define DIRECTORIES 12		/* of the include path */
#define FILE_BYTES  (16 * 1024) /* of a header and of an object file, about what those of the kernel have */
#define PAGE	    4096

struct build_opts {
	uint64_t time_s, sample_s, jobs, headers, includes, units, unit_mib;
};

#define FIELD(name) offsetof(struct build_opts, name)
static const struct opt build_options[] = {
	{ "time_s", OPT_U64, FIELD(time_s), "60", 1, 86400, NULL, "s", "for so long units are built" },
	{ "sample_s", OPT_U64, FIELD(sample_s), "5", 1, 3600, NULL, "s", "between two looks at the memory" },
	{ "jobs", OPT_U64, FIELD(jobs), "8", 1, MAX_JOBS, NULL, NULL, "units that are built at the same time" },
	{ "headers", OPT_U64, FIELD(headers), "500", 1, 100000, NULL, NULL, "in the tree" },
	{ "includes", OPT_U64, FIELD(includes), "40", 0, 100000, NULL, NULL,
	  "headers that a unit looks for and reads" },
	{ "units", OPT_U64, FIELD(units), "500", 1, 1000000, NULL, NULL,
	  "that there are: when all were built, the first is built again" },
	{ "unit_mib", OPT_U64, FIELD(unit_mib), "4", 1, 65536, NULL, "MiB", "of memory that a unit works in" },
	{ 0 },
};

static const struct mitigation build_mitigations[] = { KMEM_MITIGATIONS, { 0 } };

static const struct metric build_metrics[] = {
	{ "build_kernel_peak_kib", "KiB", LESS, "kernel memory of the build's group, peak of its samples" },
	{ "build_slab_peak_kib", "KiB", LESS, "slab of the build's group, peak of its samples" },
	{ "build_memory_peak_kib", "KiB", LESS, "memory of the build's group, peak of its samples" },
	{ "meminfo_slab_peak_kib", "KiB", LESS, "slab of the machine, peak of the build's samples" },
	{ "meminfo_slab_start_kib", "KiB", LESS, "slab of the machine before the build" },
	{ "units_s", "units/s", MORE, "rate of building units" },
	{ 0 },
};

static const char build_name[] = "hr-build";

static uint64_t slab_before_kib; /* setup() looks, and run() is a fork of it */

/* Told by the build, which is a process of its own, to run(). */
static struct built {
	_Atomic uint64_t units;
	_Atomic int64_t took_ns;
} * built;

/* --- One unit --- */

static void header_path(uint64_t directory, uint64_t header, char *buf, size_t size)
{
	snprintf(buf, size, TREE "/include-%" PRIu64 "/header-%" PRIu64 ".h", directory, header);
}

/* Somewhere on the include path: all before it are looked at in vain. */
static int include(uint64_t header)
{
	static char text[FILE_BYTES];
	uint64_t directory = header % DIRECTORIES;
	char path[PATH_MAX];
	struct stat st;
	int fd;

	for (uint64_t i = 0; i < directory; i++) {
		snprintf(path, sizeof(path), "/headroom-include-%" PRIu64 "-header-%" PRIu64 ".h", i, header);
		if (stat(path, &st) == 0)
			return -EEXIST;
	}
	header_path(directory, header, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
	return 0;
}

/* The second process: from the pipe into the object file, which takes its name when it is whole. */
static int assemble(int from, uint64_t unit)
{
	char path[64], temporary[80], text[PAGE];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), TREE "/unit-%" PRIu64 ".o", unit);
	snprintf(temporary, sizeof(temporary), "%s.tmp", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	while ((n = read(from, text, sizeof(text))) > 0)
		if (write(fd, text, (size_t)n) != n)
			return -EIO;
	close(fd);
	return n < 0 || rename(temporary, path) < 0 ? -errno : 0;
}

static int feed(int to, const char *text)
{
	for (size_t at = 0; at < FILE_BYTES; at += PAGE)
		if (write(to, text + at, PAGE) != PAGE)
			return -errno;
	return 0;
}

/* An exit code (here an errno), or 128 + N when signal N ended it: as cell_wait(). */
static int code_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* 0, -errno, or what became of the second process. */
static int write_object(const char *text, uint64_t unit)
{
	pid_t pid, parent = getpid();
	int fds[2], err, status;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		spawn_die_with(parent);
		close(fds[1]);
		_exit(-assemble(fds[0], unit));
	}
	err = pid < 0 ? -errno : 0;
	close(fds[0]);
	if (!err)
		err = feed(fds[1], text);
	close(fds[1]);
	/* Why the second gave up says more than that nobody reads any more. */
	if (pid > 0 && waitpid(pid, &status, 0) == pid && status)
		err = code_of(status);
	return err;
}

/* 0, -errno, or an exit code. */
static int build_unit(const struct build_opts *o, uint64_t unit, uint64_t seed)
{
	size_t size = (size_t)o->unit_mib << 20;
	unsigned short random[3] = { (unsigned short)unit, (unsigned short)(unit >> 16), (unsigned short)seed };
	char *memory;
	int err = 0;

	for (uint64_t i = 0; !err && i < o->includes; i++)
		err = include((uint64_t)nrand48(random) % o->headers);
	if (err)
		return err;
	signal(SIGPIPE, SIG_IGN);
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return -errno;
	for (size_t at = 0; at < size; at += PAGE)
		memory[at] = (char)unit;
	return write_object(memory, unit);
}

/* --- The build: its processes are in the group --- */

static int make_tree(const struct build_opts *o)
{
	static const char text[FILE_BYTES];
	char path[PATH_MAX];
	int err = 0;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("headroom-build", TREE, "tmpfs", 0, "mode=0700") < 0)
		return -errno;
	for (uint64_t i = 0; i < DIRECTORIES; i++) {
		snprintf(path, sizeof(path), TREE "/include-%" PRIu64, i);
		if (mkdir(path, 0755) < 0)
			return -errno;
	}
	for (uint64_t i = 0; !err && i < o->headers; i++) {
		int fd;

		header_path(i % DIRECTORIES, i, path, sizeof(path));
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd < 0)
			return -errno;
		err = write(fd, text, sizeof(text)) == sizeof(text) ? 0 : -EIO;
		close(fd);
	}
	return err;
}

static pid_t begin_unit(const struct build_opts *o, uint64_t unit, uint64_t seed)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		spawn_die_with(parent);
		_exit(abs(build_unit(o, unit, seed)));
	}
	return pid < 0 ? -errno : pid;
}

/* As make -j: a new unit is begun whenever one has ended, until the time is up or one failed. 0 or an exit code. */
static int build(const struct cell *c)
{
	const struct build_opts *o = c->opts;
	int64_t begin = clock_ns(), end = begin + (int64_t)o->time_s * NS_PER_S;
	uint64_t begun = 0, running = 0;
	int rc = 0, status;

	while (running || (!rc && clock_ns() < end)) {
		if (running < o->jobs && !rc && clock_ns() < end) {
			pid_t pid = begin_unit(o, begun++ % o->units, c->seed);

			if (pid < 0)
				rc = -pid;
			else
				running++;
			continue;
		}
		if (waitpid(-1, &status, 0) < 0)
			return errno;
		running--;
		if (status)
			rc = code_of(status);
		else
			atomic_fetch_add(&built->units, 1);
	}
	atomic_store(&built->took_ns, clock_ns() - begin);
	return rc;
}

/* --- Looking at it --- */

struct looks {
	const char *file, *key; /* of the group; NULL: /proc/meminfo */
	unsigned shift;		/* from bytes to KiB, where the file has bytes */
	const char *metric;
};

/* The columns of the table. `kernel` is there since Linux 5.18. */
static const struct looks looks[] = {
	{ "memory.current", NULL, 10, "build_memory_peak_kib" },
	{ "memory.stat", "kernel", 10, "build_kernel_peak_kib" },
	{ "memory.stat", "slab", 10, "build_slab_peak_kib" },
	{ NULL, "Slab", 0, "meminfo_slab_peak_kib" },
};

#define N_LOOKS (sizeof(looks) / sizeof(looks[0]))

struct peak {
	uint64_t kib;
	bool known;
};

static bool look(size_t i, uint64_t *kib)
{
	const struct looks *l = &looks[i];
	int err =
		l->file ? scope_get(BUILD_GROUP, l->file, l->key, kib) : sysfile_read_key("/proc/meminfo", l->key, kib);

	*kib >>= err ? 0 : l->shift;
	return err == 0;
}

/* Until the build has ended: a line for each look into build.csv of the record, and the peaks. */
static void watch(const struct cell *c, pid_t pid, struct peak peaks[N_LOOKS])
{
	const struct build_opts *o = c->opts;
	int64_t begin = clock_ns(), next = begin;
	char path[PATH_MAX];
	siginfo_t info;
	FILE *f;

	snprintf(path, sizeof(path), "%s/build.csv", c->work_dir);
	f = fopen(path, "we");
	if (!f)
		cell_finding(c, "%s: %s", path, strerror(errno));
	else
		fprintf(f, "t_s,memory_current_kib,kernel_kib,slab_kib,meminfo_slab_kib\n");
	do {
		if (f)
			fprintf(f, "%.1f", (double)(clock_ns() - begin) / NS_PER_S);
		for (size_t i = 0; i < N_LOOKS; i++) {
			uint64_t kib = 0;
			bool known = look(i, &kib);

			peaks[i].known |= known;
			if (known && kib > peaks[i].kib)
				peaks[i].kib = kib;
			if (f && known)
				fprintf(f, ",%" PRIu64, kib);
			else if (f)
				fprintf(f, ",");
		}
		if (f)
			fprintf(f, "\n");
		next += (int64_t)o->sample_s * NS_PER_S;
		info.si_pid = 0;
		while (!info.si_pid && clock_ns() < next && clock_ns() < c->deadline_ns) {
			clock_sleep_ms(100);
			if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0)
				break;
		}
	} while (!info.si_pid && clock_ns() < c->deadline_ns);
	if (f)
		fclose(f);
}

/* --- Hooks --- */

static int setup(struct cell *c)
{
	(void)c;
	if (sysfile_read_key("/proc/meminfo", "Slab", &slab_before_kib))
		slab_before_kib = 0;
	return 0;
}

static int run(struct cell *c)
{
	const struct build_opts *o = c->opts;
	struct peak peaks[N_LOOKS] = { 0 };
	char words[64];
	int64_t took_ns;
	pid_t pid;
	int rc;

	built = mmap(NULL, sizeof(*built), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (built == MAP_FAILED) {
		cell_fail(c, "shared memory: %s", strerror(errno));
		return -ENOMEM;
	}
	pid = cell_child(c, build_name);
	if (pid < 0)
		return pid;
	if (pid == 0) {
		int err = scope_attach(BUILD_GROUP, getpid());

		if (!err)
			err = make_tree(o);
		cell_fork_without_record();
		_exit(err ? -err : build(c));
	}
	watch(c, pid, peaks);
	rc = cell_wait(c, build_name, pid);
	if (rc) {
		cell_fail(c, "the build: %s", cell_end_words(rc, words, sizeof(words)));
		return rc < 0 ? rc : -ECANCELED;
	}
	for (size_t i = 0; i < N_LOOKS; i++)
		if (peaks[i].known)
			cell_metric_u64(c, looks[i].metric, peaks[i].kib);
	if (slab_before_kib)
		cell_metric_u64(c, "meminfo_slab_start_kib", slab_before_kib);
	took_ns = atomic_load(&built->took_ns);
	if (took_ns > 0)
		cell_metric_fixed(c, "units_s",
				  (int64_t)((double)atomic_load(&built->units) * 1e3 * NS_PER_S / (double)took_ns), 3);
	return 0;
}

static int verify(struct cell *c)
{
	(void)c;
	return 0;
}

static const struct workload build_load = {
	.name = "build-load",
	.summary = "what a compilation does to the memory of its group, with the peaks in a table",
	.exercises =
		(const char *const[]){ "memcg_slab_post_alloc_hook", "obj_cgroup_charge", "d_alloc_parallel", NULL },
	.group = BUILD_GROUP,
	.opts = build_options,
	.opts_size = sizeof(struct build_opts),
	.mitigations = build_mitigations,
	.metrics = build_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(build_load);
