// SPDX-License-Identifier: MIT
/* Many descriptors behind the one that an I/O loop watches: epoll(7), level-triggered. */
#ifndef HEADROOM_EVSET_H
#define HEADROOM_EVSET_H

#include <stdint.h>
#include <sys/epoll.h>

/* A descriptor to look at; the caller's. */
struct ev {
	int fd;
	/*
	 * EPOLLIN and so on. May be called once more after evset_del(), when both were in one round: it is for the
	 * callee to know whether there is still something there.
	 */
	void (*fn)(struct ev *e, uint32_t events);
	void *owner;
};

/* A descriptor, or -errno; the others 0 or -errno. */
int evset_open(void);
int evset_add(int set, struct ev *e, uint32_t events);
int evset_change(int set, struct ev *e, uint32_t events);
void evset_del(int set, struct ev *e);
/* Call for what is ready now. */
void evset_run(int set);

#endif
