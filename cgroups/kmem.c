// SPDX-License-Identifier: MIT
#include "cgroups/kmem.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Round the processors that the thread might run on when it began. */
struct tour {
	bool on;
	cpu_set_t cpus;
	int at;
};

static int begin_tour(struct tour *t, bool migrate)
{
	*t = (struct tour){ .on = migrate };
	return migrate && sched_getaffinity(0, sizeof(t->cpus), &t->cpus) < 0 ? -errno : 0;
}

static int move_on(struct tour *t)
{
	cpu_set_t next;

	if (!t->on)
		return 0;
	do
		t->at = (t->at + 1) % CPU_SETSIZE;
	while (!CPU_ISSET(t->at, &t->cpus));
	CPU_ZERO(&next);
	CPU_SET(t->at, &next);
	return sched_setaffinity(0, sizeof(next), &next) < 0 ? -errno : 0;
}

/*
 * Named as by the kernel's own test (tools/testing/selftests/cgroup/test_kmem.c), too long to be inline. The number
 * begins with the clock: a name that was looked up before would charge nothing, and pids come again.
 */
static void look_up(uint64_t i)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "/something-non-existent-with-a-long-name-%64" PRIu64 "-%d", i, gettid());
	stat(path, &st);
}

void kmem_dentries(uint64_t n)
{
	uint64_t first = (uint64_t)clock_ns();

	for (uint64_t i = 0; i < n; i++)
		look_up(first + i);
}

static int inode(void)
{
	return memfd_create("headroom-kmem", MFD_CLOEXEC);
}

static int a_pipe(void)
{
	int fds[2];

	return pipe2(fds, O_CLOEXEC);
}

static int a_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int epoll(void)
{
	return epoll_create1(EPOLL_CLOEXEC);
}

static int percpu(void)
{
	union bpf_attr map = {
		.map_type = BPF_MAP_TYPE_PERCPU_ARRAY,
		.key_size = sizeof(uint32_t),
		.value_size = KMEM_PERCPU_BYTES,
		.max_entries = 1,
	};

	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof(map));
}

/* Nobody closes the descriptors: the end of the task does. */
static int hold(int (*make)(void), uint64_t n, struct tour *t)
{
	int err = 0;

	for (uint64_t i = 0; !err && i < n; i++) {
		err = move_on(t);
		if (!err && make() < 0)
			err = -errno;
	}
	return err;
}

static void *sleep_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int kmem_stacks(uint64_t n)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err = 0;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, KMEM_THREAD_STACK);
	for (uint64_t i = 0; !err && i < n; i++)
		err = pthread_create(&thread, &attr, sleep_for_ever, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

int kmem_load(const struct kmem_load *l)
{
	const struct {
		int (*make)(void);
		uint64_t n;
	} held[] = { { inode, l->inodes },
		     { a_pipe, l->pipes },
		     { a_socket, l->sockets },
		     { epoll, l->epolls },
		     { percpu, l->percpu } };
	uint64_t first = (uint64_t)clock_ns();
	struct tour tour;
	int err = begin_tour(&tour, l->migrate);

	for (uint64_t i = 0; !err && i < l->dentries; i++) {
		err = move_on(&tour);
		look_up(first + i);
	}
	for (size_t i = 0; !err && i < sizeof(held) / sizeof(held[0]); i++)
		err = hold(held[i].make, held[i].n, &tour);
	return err ? err : kmem_stacks(l->stacks);
}
