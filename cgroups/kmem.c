// SPDX-License-Identifier: MIT
#include "cgroups/kmem.h"

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

#define THREAD_STACK (64 * 1024) /* in user space, where the usual 8 MiB of each would be a load of their own */

static void move_on(bool migrate)
{
	static _Thread_local unsigned next;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	cpu_set_t set;

	if (!migrate || cpus < 2)
		return;
	CPU_ZERO(&set);
	CPU_SET(next++ % (unsigned)cpus, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void look_up(uint64_t i)
{
	char path[128];
	struct stat st;

	/* As the kernel's own test names them (tools/testing/selftests/cgroup/test_kmem.c): too long to be inline. */
	snprintf(path, sizeof(path), "/something-non-existent-with-a-long-name-%64" PRIu64 "-%d", i, gettid());
	stat(path, &st);
}

void kmem_dentries(uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		look_up(i);
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
static int hold(int (*make)(void), uint64_t n, bool migrate)
{
	for (uint64_t i = 0; i < n; i++) {
		move_on(migrate);
		if (make() < 0)
			return -errno;
	}
	return 0;
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
	pthread_attr_setstacksize(&attr, THREAD_STACK);
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
	int err = 0;

	for (uint64_t i = 0; i < l->dentries; i++) {
		move_on(l->migrate);
		look_up(i);
	}
	for (size_t i = 0; !err && i < sizeof(held) / sizeof(held[0]); i++)
		err = hold(held[i].make, held[i].n, l->migrate);
	return err ? err : kmem_stacks(l->stacks);
}
