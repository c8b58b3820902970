// SPDX-License-Identifier: MIT
/*
 * New memory, and what is done when there is none: as module/os/linux/spl/spl-kmem-cache.c of OpenZFS does it. One
 * thread touches pages, because that may wait as long as the kernel likes, perhaps for the very caller. Who needs them
 * waits for a bounded time, once; then all know that it is stuck, and take emergency objects until a growth has ended.
 */
#include "engine/slab_int.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>

#define AHEAD_BYTES (64ULL * PAGE_BYTES) /* what one growth brings */

static int grow_once(struct slabs *s)
{
	int err = s->config.grow_hook ? s->config.grow_hook(s->config.grow_arg) : 0;

	return err ? err : page_grow(s);
}

static void *grow(void *arg)
{
	struct slabs *s = arg;

	pthread_mutex_lock(&s->grow_lock);
	while (!s->stop) {
		int64_t begin;
		int err;

		if (!s->growing) {
			pthread_cond_wait(&s->grow, &s->grow_lock);
			continue;
		}
		pthread_mutex_unlock(&s->grow_lock);
		begin = clock_ns();
		err = grow_once(s);
		/* Who has seen the growth finds how long it took. */
		count_max(&s->counters.grow_ns_max, (uint64_t)(clock_ns() - begin));
		count(&s->counters.grows, !err);
		pthread_mutex_lock(&s->grow_lock);
		s->grow_err = err;
		s->growing = s->deadlocked = false;
		s->grown_n++;
		pthread_cond_broadcast(&s->grown);
	}
	pthread_mutex_unlock(&s->grow_lock);
	return NULL;
}

/* With grow_lock held. */
static void begin_growth(struct slabs *s)
{
	if (s->growing)
		return;
	s->growing = true;
	pthread_cond_signal(&s->grow);
}

void grow_ahead(struct slabs *s)
{
	if (__atomic_load_n(&s->counters.ready_bytes, __ATOMIC_RELAXED) >= AHEAD_BYTES)
		return;
	pthread_mutex_lock(&s->grow_lock);
	/* When all is in use only who needs more may ask again. */
	if (s->grow_err != -ENOSPC)
		begin_growth(s);
	pthread_mutex_unlock(&s->grow_lock);
}

/* The growth that goes on ends, until then. With grow_lock held. */
static bool growth_ends(struct slabs *s, int64_t until_ns)
{
	struct timespec until = clock_timespec(until_ns);
	uint64_t n = s->grown_n;
	int err = 0;

	while (s->grown_n == n && err != ETIMEDOUT)
		err = pthread_cond_timedwait(&s->grown, &s->grow_lock, &until);
	return s->grown_n != n;
}

/* The same by who needs it. */
static bool wait_for_growth(struct slabs *s, int64_t until_ns)
{
	int64_t begin = clock_ns();
	bool ended = growth_ends(s, until_ns);

	count(&s->counters.waits, 1);
	count(&s->counters.wait_ns, (uint64_t)(clock_ns() - begin));
	return ended;
}

void grow_settle(struct slabs *s)
{
	pthread_mutex_lock(&s->grow_lock);
	if (s->growing)
		growth_ends(s, clock_ns() + s->config.emerg_wait_ms * NS_PER_MS);
	pthread_mutex_unlock(&s->grow_lock);
}

/* With grow_lock held. */
static int outcome(const struct slabs *s)
{
	if (!s->grow_err)
		return 0;
	if (s->grow_err == -ENOSPC)
		return -ENOMEM;
	return s->config.emerg == SLAB_EMERG_OFF ? -ENOMEM : -EDEADLK;
}

static int wait_with_emergency(struct slabs *s, int64_t deadline_ns)
{
	int64_t bound_ns = clock_ns() + s->config.emerg_wait_ms * NS_PER_MS;

	if (s->deadlocked || deadline_ns == SLAB_NOWAIT)
		return -EDEADLK;
	if (wait_for_growth(s, bound_ns < deadline_ns ? bound_ns : deadline_ns))
		return outcome(s);
	if (deadline_ns < bound_ns)
		return -ETIMEDOUT;
	if (!s->deadlocked)
		count(&s->counters.dlock, 1);
	s->deadlocked = true;
	return -EDEADLK;
}

static int wait_without(struct slabs *s, int64_t deadline_ns)
{
	if (deadline_ns == SLAB_NOWAIT)
		return -EAGAIN;
	return wait_for_growth(s, deadline_ns) ? outcome(s) : -ETIMEDOUT;
}

int grow_wait(struct slabs *s, int64_t deadline_ns)
{
	int err;

	pthread_mutex_lock(&s->grow_lock);
	begin_growth(s);
	err = s->config.emerg == SLAB_EMERG_OFF ? wait_without(s, deadline_ns) : wait_with_emergency(s, deadline_ns);
	pthread_mutex_unlock(&s->grow_lock);
	return err;
}

/* --- Emergency objects: each behind its node --- */

int emergency_alloc(struct slabs *s, uint32_t id, size_t size, uint32_t charge, void **object)
{
	struct emergency *e = malloc(sizeof(*e) + size);

	if (!e)
		return -ENOMEM;
	e->id = id;
	e->charge = charge;
	pthread_mutex_lock(&s->emerg_lock);
	LIST_INSERT_HEAD(&s->emerg_list, e, at);
	if (s->config.emerg == SLAB_EMERG_RBTREE)
		addrtree_add(&s->emerg_tree, &e->node);
	count(&s->counters.emerg_total, 1);
	count(&s->counters.emerg_cur, 1);
	count_max(&s->counters.emerg_max, s->counters.emerg_cur);
	pthread_mutex_unlock(&s->emerg_lock);
	*object = e + 1;
	return 0;
}

/* The address may be any, so nothing is read there before it is known. */
static bool has(struct slabs *s, const struct emergency *wanted, uint64_t *steps)
{
	struct emergency *e;

	if (s->config.emerg == SLAB_EMERG_RBTREE)
		return addrtree_has(&s->emerg_tree, wanted, steps);
	LIST_FOREACH (e, &s->emerg_list, at) {
		++*steps;
		if (e == wanted)
			return true;
	}
	return false;
}

bool emergency_free(struct slabs *s, void *object, struct emergency *was)
{
	struct emergency *e = (struct emergency *)object - 1;
	uint64_t steps = 0;
	bool found;

	pthread_mutex_lock(&s->emerg_lock);
	found = has(s, e, &steps);
	if (found) {
		LIST_REMOVE(e, at);
		if (s->config.emerg == SLAB_EMERG_RBTREE)
			addrtree_remove(&s->emerg_tree, &e->node);
		count(&s->counters.emerg_cur, -1ULL);
		*was = *e;
	}
	count(&s->counters.emerg_steps, steps);
	pthread_mutex_unlock(&s->emerg_lock);
	if (found)
		free(e);
	return found;
}

uint64_t emergency_reparent(struct slabs *s, uint32_t from, uint32_t to)
{
	struct emergency *e;
	uint64_t n = 0;

	pthread_mutex_lock(&s->emerg_lock);
	LIST_FOREACH (e, &s->emerg_list, at) {
		n++;
		if (e->id == from)
			e->id = to;
	}
	pthread_mutex_unlock(&s->emerg_lock);
	return n;
}

int grow_open(struct slabs *s)
{
	int err;

	pthread_mutex_init(&s->grow_lock, NULL);
	pthread_mutex_init(&s->emerg_lock, NULL);
	LIST_INIT(&s->emerg_list);
	err = clock_cond_init(&s->grow);
	if (!err)
		err = clock_cond_init(&s->grown);
	if (!err)
		err = -pthread_create(&s->grower, NULL, grow, s);
	s->has_grower = !err;
	return err;
}

void grow_close(struct slabs *s)
{
	if (!s->has_grower)
		return;
	pthread_mutex_lock(&s->grow_lock);
	s->stop = true;
	pthread_cond_signal(&s->grow);
	pthread_mutex_unlock(&s->grow_lock);
	pthread_join(s->grower, NULL);
	pthread_cond_destroy(&s->grow);
	pthread_cond_destroy(&s->grown);
	pthread_mutex_destroy(&s->grow_lock);
	pthread_mutex_destroy(&s->emerg_lock);
}
