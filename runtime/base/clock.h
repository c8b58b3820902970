// SPDX-License-Identifier: MIT
/* CLOCK_MONOTONIC in nanoseconds. Deadlines and stamps use this clock and no other. */
#ifndef HEADROOM_CLOCK_H
#define HEADROOM_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_MS 1000000LL
#define NS_PER_S  1000000000LL

static inline int64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

static inline struct timespec clock_timespec(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };
}

/* A condition whose timed waits take such deadlines. 0 or -errno. */
static inline int clock_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	int err = -pthread_condattr_init(&attr);

	if (err)
		return err;
	err = -pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!err)
		err = -pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
	return err;
}

static inline void clock_sleep_ms(int64_t ms)
{
	struct timespec ts = clock_timespec(ms * NS_PER_MS);

	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

#endif
