// SPDX-License-Identifier: MIT
#include "serve/evset.h"

#include <errno.h>

#define ROUND 64 /* at a time; the rest is still ready in the next round */

int evset_open(void)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		return -errno;
	return fd;
}

static int control(int set, int op, struct ev *e, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = e };

	return epoll_ctl(set, op, e->fd, &event) < 0 ? -errno : 0;
}

int evset_add(int set, struct ev *e, uint32_t events)
{
	return control(set, EPOLL_CTL_ADD, e, events);
}

int evset_change(int set, struct ev *e, uint32_t events)
{
	return control(set, EPOLL_CTL_MOD, e, events);
}

void evset_del(int set, struct ev *e)
{
	control(set, EPOLL_CTL_DEL, e, 0);
}

void evset_run(int set)
{
	struct epoll_event events[ROUND];
	int n = epoll_wait(set, events, ROUND, 0);

	for (int i = 0; i < n; i++) {
		struct ev *e = events[i].data.ptr;

		e->fn(e, events[i].events);
	}
}
