// SPDX-License-Identifier: MIT
#include "engine/trim.h"

#include "engine/counter.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct trim {
	struct slabs *slabs;
	int fd, stop_fd;
	unsigned interval_ms;
	pthread_t thread;
	struct trim_counters counters; /* written by the thread */
};

int trim_trigger(const char *pressure_file, unsigned stall_us, unsigned window_us)
{
	char words[64];
	int fd = open(pressure_file, O_RDWR | O_NONBLOCK | O_CLOEXEC), err = 0;
	int n = snprintf(words, sizeof(words), "some %u %u", stall_us ? stall_us : TRIM_STALL_US,
			 window_us ? window_us : TRIM_WINDOW_US);

	if (fd < 0)
		return -errno;
	/* With the NUL: the kernel takes the last byte for one. */
	if (write(fd, words, (size_t)n + 1) < 0)
		err = -errno;
	if (err)
		close(fd);
	return err ? err : fd;
}

/* Told to stop within so many ms (-1: wait)? `fd`, if it is one, may end the wait earlier. */
static bool is_stopped(struct trim *t, int fd, int ms, short *events)
{
	struct pollfd fds[] = { { .fd = t->stop_fd, .events = POLLIN }, { .fd = fd, .events = POLLPRI } };

	while (poll(fds, 2, ms) < 0 && errno == EINTR)
		;
	*events = fds[1].revents;
	return fds[0].revents;
}

/* After an event nobody looks at the trigger for an interval; the kernel keeps the next until then. */
static void *trim_when_short(void *arg)
{
	struct trim *t = arg;
	short events;

	while (!is_stopped(t, t->fd, -1, &events)) {
		if (events & (POLLERR | POLLNVAL)) {
			counter_add(&t->counters.lost, 1);
			break;
		}
		if (!(events & POLLPRI))
			continue;
		counter_add(&t->counters.bytes, slab_trim(t->slabs));
		counter_add(&t->counters.trims, 1);
		if (is_stopped(t, -1, (int)t->interval_ms, &events))
			break;
	}
	return NULL;
}

int trim_start(struct slabs *s, int fd, unsigned interval_ms, struct trim **trim)
{
	struct trim *t = calloc(1, sizeof(*t));
	int err = 0;

	if (!t)
		return -ENOMEM;
	*t = (struct trim){ .slabs = s, .fd = fd, .interval_ms = interval_ms ? interval_ms : TRIM_INTERVAL_MS };
	t->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (t->stop_fd < 0)
		err = -errno;
	if (!err)
		err = -pthread_create(&t->thread, NULL, trim_when_short, t);
	if (err) {
		if (t->stop_fd >= 0)
			close(t->stop_fd);
		free(t);
		return err;
	}
	*trim = t;
	return 0;
}

void trim_stop(struct trim *t)
{
	if (!t)
		return;
	eventfd_write(t->stop_fd, 1);
	pthread_join(t->thread, NULL);
	close(t->stop_fd);
	close(t->fd);
	free(t);
}

void trim_read_counters(const struct trim *t, struct trim_counters *counters)
{
	counter_copy(counters, &t->counters, sizeof(*counters) / sizeof(uint64_t));
}
