// SPDX-License-Identifier: MIT
/*
 * What bench_recorder.py measures with, one role a process:
 *
 *   record PERIOD_MS       our recorder with all its sources; prints its pid, records until stdin ends
 *   record-all PERIOD_MS   the same, with slabinfo in every sample
 *   pread PERIOD_MS        the physical limit: the same files, read and thrown away, at the same rate
 *   files                  what one read of each of these files costs, in microseconds
 *   work ITERATIONS        a fixed piece of work on every CPU; prints the milliseconds and the CPU milliseconds it took
 */
#include "base/clock.h"
#include "record/blackbox.h"
#include "record/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT_SIZE     (256 * 1024)
#define FILES_PAUSE_S 3
#define WORK_BYTES    (16UL << 20) /* more than a core's own caches */
#define WORK_FRESH    (2UL << 20)  /* taken from the kernel anew in every iteration */

static const char *const paths[] = {
	"/proc/meminfo",      "/proc/vmstat",	"/proc/pressure/memory", "/proc/pressure/io",
	"/proc/pressure/cpu", "/proc/slabinfo", "/proc/zoneinfo",	 "/proc/diskstats",
};
#define N_PATHS (sizeof(paths) / sizeof(paths[0]))

static char text[TEXT_SIZE];

_Noreturn static void die(const char *what, int err)
{
	fprintf(stderr, "bench_recorder: %s: %s\n", what, strerror(err));
	exit(4);
}

static int record(unsigned period_ms, unsigned slab_ms)
{
	struct recorder_config config = { .period_ms = period_ms, .slab_ms = slab_ms, .canary_ms = 250, .dm_ms = 1000 };
	struct recorder recorder;
	struct bb box;
	void *memory = mmap(NULL, BB_MIN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int err;
	char c;

	if (memory == MAP_FAILED)
		die("black box", errno);
	bb_format(&box, memory, BB_MIN_SIZE);
	err = recorder_start(&recorder, &box, &config);
	if (err)
		die("recorder", -err);
	printf("%d\n", (int)recorder.pid);
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	err = recorder_stop(&recorder);
	printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", atomic_load(&box.head->samples_taken),
	       atomic_load(&box.head->samples_missed), atomic_load(&box.head->late_max_ns), bb_bytes(&box));
	return err ? 4 : 0;
}

static void open_files(int fds[N_PATHS])
{
	for (size_t i = 0; i < N_PATHS; i++)
		fds[i] = open(paths[i], O_RDONLY | O_CLOEXEC);
}

static size_t read_file(int fd)
{
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(text) && (n = pread(fd, text + len, sizeof(text) - len, (off_t)len)) > 0)
		len += (size_t)n;
	return len;
}

/* As privileged as the recorder, and at its rate: a file read ten times a second is cold in the caches. */
_Noreturn static void limit(unsigned period_ms)
{
	struct sched_param param = { .sched_priority = 1 };
	int64_t due = clock_ns();
	int fds[N_PATHS];

	open_files(fds);
	sched_setscheduler(0, SCHED_RR, &param);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	printf("%d\n", (int)getpid());
	fflush(stdout);
	for (;;) {
		struct timespec ts = { .tv_sec = due / NS_PER_S, .tv_nsec = due % NS_PER_S };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		for (size_t i = 0; i < N_PATHS; i++)
			if (fds[i] >= 0)
				read_file(fds[i]);
		due += period_ms * NS_PER_MS;
	}
}

static int by_value(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static int files(void)
{
	enum { TURNS = FILES_PAUSE_S * 10 };
	static int64_t took[N_PATHS][TURNS];
	int fds[N_PATHS];

	open_files(fds);
	for (int turn = 0; turn < TURNS; turn++) {
		clock_sleep_ms(100);
		for (size_t i = 0; i < N_PATHS; i++) {
			int64_t begin = clock_ns();

			if (fds[i] >= 0)
				read_file(fds[i]);
			took[i][turn] = clock_ns() - begin;
		}
	}
	for (size_t i = 0; i < N_PATHS; i++) {
		qsort(took[i], TURNS, sizeof(took[i][0]), by_value);
		if (fds[i] >= 0)
			printf("%s %zu %.1f\n", paths[i], read_file(fds[i]), (double)took[i][TURNS / 2] / 1e3);
	}
	return 0;
}

/* Arithmetic, a walk that misses the caches, and pages that the kernel has to find and clear. */
static uint64_t work_once(uint64_t *memory, uint64_t x)
{
	size_t words = WORK_BYTES / sizeof(*memory);
	char *fresh = mmap(NULL, WORK_FRESH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int i = 0; i < 40000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memory[x % words] += x;
	}
	if (fresh != MAP_FAILED) {
		for (size_t i = 0; i < WORK_FRESH; i += 4096)
			fresh[i] = 1;
		munmap(fresh, WORK_FRESH);
	}
	return x;
}

static int64_t own_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static int work(unsigned long iterations)
{
	struct took {
		int64_t wall_ns, cpu_ns;
	} sum = { 0 }, *took;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	took = mmap(NULL, (size_t)cpus * sizeof(*took), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (took == MAP_FAILED)
		die("work", errno);
	for (long cpu = 0; cpu < cpus; cpu++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork", errno);
		if (pid == 0) {
			uint64_t *memory = malloc(WORK_BYTES), x = 88172645463325252ULL;
			int64_t begin, begin_cpu;

			if (!memory)
				_exit(4);
			memset(memory, 1, WORK_BYTES);
			begin = clock_ns();
			begin_cpu = own_cpu_ns();
			for (unsigned long i = 0; i < iterations; i++)
				x = work_once(memory, x);
			took[cpu].cpu_ns = own_cpu_ns() - begin_cpu;
			took[cpu].wall_ns = clock_ns() - begin;
			_exit(x == 0);
		}
	}
	for (long cpu = 0; cpu < cpus; cpu++)
		wait(NULL);
	for (long cpu = 0; cpu < cpus; cpu++) {
		sum.wall_ns += took[cpu].wall_ns;
		sum.cpu_ns += took[cpu].cpu_ns;
	}
	printf("%.3f %.3f\n", (double)sum.wall_ns / (double)cpus / 1e6, (double)sum.cpu_ns / (double)cpus / 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	const char *role = argc > 1 ? argv[1] : "";
	unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;

	if (strcmp(role, "record") == 0 && n >= 10 && n <= 60000)
		return record((unsigned)n, RECORDER_SLAB_MS);
	if (strcmp(role, "record-all") == 0 && n >= 10 && n <= 60000)
		return record((unsigned)n, 0);
	if (strcmp(role, "pread") == 0 && n >= 10 && n <= 60000)
		limit((unsigned)n);
	if (strcmp(role, "files") == 0)
		return files();
	if (strcmp(role, "work") == 0 && n)
		return work(n);
	fprintf(stderr, "usage: bench_recorder record MS | record-all MS | pread MS | files | work ITERATIONS\n");
	return 2;
}
