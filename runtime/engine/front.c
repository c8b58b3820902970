// SPDX-License-Identifier: MIT
#include "engine/front.h"

#include "base/clock.h"
#include "engine/counter.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* On the stack of the thread that waits for it. */
struct waiting {
	struct snap_req req;
	struct front *front;
	bool done;
	pthread_cond_t cond;
	TAILQ_ENTRY(waiting) at;
};

TAILQ_HEAD(waiting_list, waiting);

struct front {
	struct snap *snap;
	struct front_opts opts;
	int fd; /* can be read when something has come */
	/* _origins_lock of dm-snap.c. Taken before the next. */
	pthread_mutex_t origin_lock;
	pthread_mutex_t lock; /* of what follows */
	struct waiting_list come;
	pthread_cond_t place; /* there is one */
	uint32_t places;
	struct front_counters counters;
};

/* What has come is taken in front_run(), which this wakes. */
static void clear_event(void *arg)
{
	struct front *f = arg;
	eventfd_t n;

	eventfd_read(f->fd, &n);
}

int front_open(struct io_loop *loop, struct snap *snap, const struct front_opts *opts, struct front **front)
{
	struct front *f = calloc(1, sizeof(*f));
	int err;

	if (!f)
		return -ENOMEM;
	*f = (struct front){ .snap = snap, .opts = *opts, .places = opts->places };
	if (!f->opts.stuck_ms)
		f->opts.stuck_ms = FRONT_STUCK_MS;
	TAILQ_INIT(&f->come);
	pthread_mutex_init(&f->origin_lock, NULL);
	pthread_mutex_init(&f->lock, NULL);
	err = clock_cond_init(&f->place);
	f->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!err && f->fd < 0)
		err = -errno;
	if (!err)
		err = io_loop_watch(loop, f->fd, clear_event, f);
	if (err) {
		if (f->fd >= 0)
			close(f->fd);
		free(f);
		return err;
	}
	*front = f;
	return 0;
}

void front_close(struct front *f)
{
	if (!f)
		return;
	close(f->fd);
	pthread_cond_destroy(&f->place);
	pthread_mutex_destroy(&f->lock);
	pthread_mutex_destroy(&f->origin_lock);
	free(f);
}

static bool has_semaphore(const struct front *f)
{
	return f->opts.bound == FRONT_SEMAPHORE && f->opts.places;
}

/* down(), with the origin's lock held: that is what is wrong with it. */
static int take_place(struct front *f)
{
	int64_t from = clock_ns();
	struct timespec ts = clock_timespec(from + f->opts.stuck_ms * NS_PER_MS);
	int err = 0;

	pthread_mutex_lock(&f->lock);
	if (!f->places)
		counter_add(&f->counters.waits, 1);
	while (!f->places && !err)
		err = pthread_cond_timedwait(&f->place, &f->lock, &ts);
	if (f->places) {
		f->places--;
		err = 0;
	}
	counter_add(&f->counters.wait_ns, (uint64_t)(clock_ns() - from));
	counter_add(&f->counters.deadlocks, err ? 1 : 0);
	pthread_mutex_unlock(&f->lock);
	return err ? -EDEADLK : 0;
}

static void write_ended(struct snap_req *r)
{
	struct waiting *w = r->owner;
	struct front *f = w->front;
	bool semaphore = has_semaphore(f);

	/* As pending_complete(), whose writes that waited went on through do_origin(). */
	if (semaphore)
		pthread_mutex_lock(&f->origin_lock);
	pthread_mutex_lock(&f->lock);
	w->done = true;
	pthread_cond_signal(&w->cond);
	if (semaphore) {
		f->places++;
		pthread_cond_signal(&f->place);
	}
	pthread_mutex_unlock(&f->lock);
	if (semaphore)
		pthread_mutex_unlock(&f->origin_lock);
}

int front_run(struct front *f, int64_t deadline_ns)
{
	struct waiting_list come = TAILQ_HEAD_INITIALIZER(come);
	struct waiting *w;

	pthread_mutex_lock(&f->lock);
	TAILQ_CONCAT(&come, &f->come, at);
	pthread_mutex_unlock(&f->lock);
	while ((w = TAILQ_FIRST(&come))) {
		TAILQ_REMOVE(&come, w, at);
		snap_submit(f->snap, &w->req);
	}
	return snap_run(f->snap, deadline_ns);
}

static void hand_over(struct front *f, struct waiting *w)
{
	pthread_mutex_lock(&f->lock);
	TAILQ_INSERT_TAIL(&f->come, w, at);
	counter_add(&f->counters.writes, 1);
	pthread_mutex_unlock(&f->lock);
	eventfd_write(f->fd, 1);
}

int front_write(struct front *f, uint64_t offset, char *data, uint32_t len)
{
	struct waiting w = { .front = f };
	int err = clock_cond_init(&w.cond);

	if (err)
		return err;
	w.req = (struct snap_req){ .op = IO_WRITE,
				   .store = SNAP_ORIGIN,
				   .offset = offset,
				   .data = data,
				   .len = len,
				   .done = write_ended,
				   .owner = &w };
	if (has_semaphore(f)) {
		pthread_mutex_lock(&f->origin_lock);
		err = take_place(f);
		if (!err)
			hand_over(f, &w);
		pthread_mutex_unlock(&f->origin_lock);
	} else {
		hand_over(f, &w);
	}
	if (!err) {
		pthread_mutex_lock(&f->lock);
		while (!w.done)
			pthread_cond_wait(&w.cond, &f->lock);
		pthread_mutex_unlock(&f->lock);
		err = w.req.err;
	}
	pthread_cond_destroy(&w.cond);
	return err;
}

void front_read_counters(struct front *f, struct front_counters *counters)
{
	counter_copy(counters, &f->counters, sizeof(*counters) / sizeof(uint64_t));
}
