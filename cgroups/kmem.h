// SPDX-License-Identifier: MIT
/*
 * Kernel memory that a task has charged to its cgroup, by kind: as much of each as is asked for, through the system
 * calls that any program would use. What is held stays until the task ends.
 */
#ifndef HEADROOM_KMEM_H
#define HEADROOM_KMEM_H

#include <stdbool.h>
#include <stdint.h>

/* How many of each kind. */
struct kmem_load {
	uint64_t dentries; /* looked up and not there: negative ones, which nobody holds */
	uint64_t inodes;   /* anonymous files */
	uint64_t pipes, sockets, epolls;
	uint64_t percpu; /* BPF maps with KMEM_PERCPU_BYTES on each CPU; charged since Linux 5.11 */
	uint64_t stacks; /* threads that sleep */
	bool migrate;	 /* to the next CPU with each allocation, so that it leaves slabs on all of them */
};

#define KMEM_PERCPU_BYTES 1024
#define KMEM_THREAD_STACK (64 * 1024) /* in user space, where the usual 8 MiB of each would be a load of their own */

/* Allocate all of it. 0 or -errno of the first that failed. */
int kmem_load(const struct kmem_load *l);
void kmem_dentries(uint64_t n);
/* Start n threads that sleep for as long as the process lives. 0 or -errno. */
int kmem_stacks(uint64_t n);

#endif
