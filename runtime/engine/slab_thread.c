// SPDX-License-Identifier: MIT
/*
 * Threads with their magazines and stocks. What a thread does there costs it two plain stores and a load; who wants to
 * look into another's makes up for that with membarrier(2).
 */
#include "engine/slab_int.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/membarrier.h>

#define unlikely(x) __builtin_expect(!!(x), 0)

/* ThreadSanitizer knows nothing of membarrier(2). */
#ifdef __SANITIZE_THREAD__
#define BUSY_ORDER memory_order_seq_cst
#define GATE_ORDER memory_order_seq_cst
#else
#define BUSY_ORDER memory_order_relaxed
#define GATE_ORDER memory_order_acquire
#endif

/* --- A thread at its own --- */

static void enter_slowly(struct slab_thread *t)
{
	atomic_store_explicit(&t->busy, 0, memory_order_release);
	pthread_mutex_lock(&t->lock);
	t->locked = true;
	t->direct = atomic_load(&t->gate) == GATE_DIRECT;
}

static inline void enter(struct slab_thread *t)
{
	atomic_store_explicit(&t->busy, 1, BUSY_ORDER);
	/* The processor may still exchange the two; membarrier() in gate_close() sees to it. */
	atomic_signal_fence(memory_order_seq_cst);
	if (unlikely(atomic_load_explicit(&t->gate, GATE_ORDER) != GATE_OPEN))
		enter_slowly(t);
}

static inline void leave(struct slab_thread *t)
{
	if (unlikely(t->locked)) {
		t->locked = t->direct = false;
		pthread_mutex_unlock(&t->lock);
		return;
	}
	atomic_store_explicit(&t->busy, 0, memory_order_release);
}

/* --- Others at a thread's --- */

static void gate_close(struct slab_thread *t)
{
	pthread_mutex_lock(&t->lock);
	atomic_store(&t->gate, GATE_STOP);
	syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	while (atomic_load(&t->busy))
		sched_yield();
}

static void gate_open(struct slab_thread *t)
{
	atomic_store(&t->gate, t->slabs->direct ? GATE_DIRECT : GATE_OPEN);
	pthread_mutex_unlock(&t->lock);
}

void for_each_thread(struct slabs *s, void (*fn)(struct slab_thread *t, void *arg), void *arg)
{
	struct slab_thread *t;

	pthread_mutex_lock(&s->threads_lock);
	LIST_FOREACH (t, &s->threads, at) {
		gate_close(t);
		fn(t, arg);
		gate_open(t);
	}
	pthread_mutex_unlock(&s->threads_lock);
}

void threads_stop(struct slabs *s)
{
	struct slab_thread *t;

	pthread_mutex_lock(&s->threads_lock);
	LIST_FOREACH (t, &s->threads, at) {
		gate_close(t);
	}
	LIST_FOREACH (t, &s->threads, at) {
		thread_flush(t, NULL);
	}
}

void threads_start(struct slabs *s)
{
	struct slab_thread *t;

	LIST_FOREACH (t, &s->threads, at) {
		gate_open(t);
	}
	pthread_mutex_unlock(&s->threads_lock);
}

void threads_direct(struct slabs *s, bool direct)
{
	struct slab_thread *t;

	pthread_mutex_lock(&s->threads_lock);
	s->direct = direct;
	LIST_FOREACH (t, &s->threads, at) {
		gate_close(t);
		thread_flush(t, NULL);
		gate_open(t);
	}
	pthread_mutex_unlock(&s->threads_lock);
}

/* --- Magazines --- */

static void put(struct slabs *s, uint32_t cache, void *const *object, uint32_t n)
{
	struct slab_cache *c = cache_at(s, cache);

	pthread_mutex_lock(&c->lock);
	cache_put(s, c, object, n);
	pthread_mutex_unlock(&c->lock);
}

void thread_flush(struct slab_thread *t, void *unused)
{
	struct slabs *s = t->slabs;

	(void)unused;
	for (uint32_t i = 0; i < s->n_caches; i++) {
		struct magazine *m = t->mag[i];

		if (!m->n)
			continue;
		put(s, i, m->object, m->n);
		m->n = 0;
	}
	group_unstock(t);
	count(&s->counters.drains, 1);
}

/* Empty and full: always the slow way, where a thread gets its own. */
static struct magazine no_magazine;

/* Touched, so that it is there when it is needed. */
static struct magazine *make_magazine(const struct slab_cache *c)
{
	size_t size = sizeof(struct magazine) + c->mag_objects * sizeof(void *);
	struct magazine *m = malloc(size);

	if (!m)
		return NULL;
	memset(m, 0, size);
	m->max = c->mag_objects;
	m->charge = c->charge;
	return m;
}

/* One object, and half a magazine with it. */
static __attribute__((noinline)) int take_slowly(struct slab_thread *t, uint32_t cache, void **object)
{
	struct slabs *s = t->slabs;
	struct slab_cache *c = cache_at(s, cache);
	struct magazine *m = t->mag[cache];
	bool use;
	int n;

	counter_add(&t->mag_misses, 1);
	if (m == &no_magazine && !t->direct) {
		struct magazine *own = make_magazine(c);

		if (own)
			m = t->mag[cache] = own;
	}
	use = m->max && !t->direct;
	pthread_mutex_lock(&c->lock);
	n = use ? cache_take(s, c, m->object, m->max / 2) : cache_take(s, c, object, 1);
	pthread_mutex_unlock(&c->lock);
	grow_ahead(s);
	if (n < 0)
		return n;
	if (use) {
		*object = m->object[n - 1];
		m->n = (uint32_t)n - 1;
	}
	return 0;
}

/* The older half makes room: what was freed last is the warmest. */
static __attribute__((noinline)) void put_slowly(struct slab_thread *t, uint32_t cache, void *object)
{
	struct magazine *m = t->mag[cache];
	uint32_t half;

	counter_add(&t->mag_misses, 1);
	if (!m->max || t->direct) {
		put(t->slabs, cache, &object, 1);
		return;
	}
	half = m->max / 2;
	put(t->slabs, cache, m->object, half);
	m->n -= half;
	memmove(m->object, m->object + half, m->n * sizeof(void *));
	m->object[m->n++] = object;
}

/* --- Owners --- */

static inline int charge(struct slab_thread *t, uint32_t id, uint32_t bytes)
{
	struct stock *stock = &t->stock[id % STOCKS];

	if (unlikely(stock->id != id || stock->bytes < bytes))
		return group_charge(t, id, bytes);
	stock->bytes -= bytes;
	return 0;
}

static inline void uncharge(struct slab_thread *t, uint32_t id, uint32_t bytes)
{
	struct stock *stock = &t->stock[id % STOCKS];

	if (unlikely(stock->id != id || stock->bytes + bytes > t->stock_max))
		group_uncharge(t, id, bytes);
	else
		stock->bytes += bytes;
}

static inline struct slab *slab_of(const struct slab_thread *t, const void *object)
{
	return t->slab_of_page[(size_t)((const char *)object - t->base) / PAGE_BYTES];
}

_Noreturn static void bad_free(const void *object, const char *what)
{
	fprintf(stderr, "slab_free(%p): %s\n", object, what);
	abort();
}

static inline int take(struct slab_thread *t, uint32_t cache, uint32_t id, void **object)
{
	struct magazine *m = t->mag[cache];
	int err = t->objcg ? charge(t, id, m->charge) : 0;

	if (unlikely(err))
		return err;
	if (unlikely(!m->n || t->direct)) {
		err = take_slowly(t, cache, object);
		if (err && t->objcg)
			uncharge(t, id, m->charge);
		if (err)
			return err;
	} else {
		*object = m->object[--m->n];
	}
	if (t->objcg) {
		struct slab *slab = slab_of(t, *object);

		owner_set(slab, index_in(slab, *object), id);
	}
	counter_add(&t->allocs, 1);
	return 0;
}

static inline void disown(struct slab_thread *t, struct slab *slab, const void *object, uint32_t bytes)
{
	unsigned i = index_in(slab, object);
	uint32_t id = owner_get(slab, i);

	if (unlikely(!id))
		bad_free(object, "it is free already");
	owner_set(slab, i, 0);
	uncharge(t, id, bytes);
}

/* --- To the outside --- */

/* What those need who came too late: memory, or a charge. 0: try again. */
static int make_room(struct slab_thread *t, int err, int64_t deadline_ns, bool *drained)
{
	struct slabs *s = t->slabs;
	uint64_t reaped;

	if (err == -EDQUOT && !*drained) {
		*drained = true;
		slab_drain(s);
		cache_reap_all(s);
		return 0;
	}
	if (err != -EAGAIN)
		return err == -EDQUOT ? -ENOMEM : err;
	enter(t); /* so that who stops all threads need not think of it */
	reaped = cache_reap_all(s);
	leave(t);
	return reaped ? 0 : grow_wait(s, deadline_ns);
}

static int alloc_emergency(struct slab_thread *t, uint32_t id, size_t size, void **object)
{
	uint32_t bytes = t->objcg ? (uint32_t)slab_class_size(size) + OWNER_BYTES : 0;
	int err;

	enter(t);
	err = t->objcg ? charge(t, id, bytes) : 0;
	leave(t);
	if (err)
		return -ENOMEM;
	err = emergency_alloc(t->slabs, id, size, bytes, object);
	enter(t);
	if (err && t->objcg)
		uncharge(t, id, bytes);
	if (!err)
		counter_add(&t->allocs, 1);
	leave(t);
	return err;
}

static __attribute__((noinline)) int alloc_slowly(struct slab_thread *t, uint32_t cache, uint32_t id, size_t size,
						  int64_t deadline_ns, int err, void **object)
{
	bool drained = false;

	while (err) {
		err = make_room(t, err, deadline_ns, &drained);
		if (err == -EDEADLK)
			return alloc_emergency(t, id, size, object);
		if (err)
			return err;
		enter(t);
		err = take(t, cache, id, object);
		leave(t);
	}
	return 0;
}

int slab_alloc(struct slab_thread *t, struct slab_group *group, size_t size, int64_t deadline_ns, void **object)
{
	uint32_t id = group ? group->id : ROOT_ID, cache;
	int err;

	if (unlikely(!size || size > SLAB_MAX_SIZE))
		return -EINVAL;
	cache = (t->per_group ? id : ROOT_ID) * CLASSES + class_of(size);
	enter(t);
	err = take(t, cache, id, object);
	leave(t);
	return unlikely(err) ? alloc_slowly(t, cache, id, size, deadline_ns, err, object) : 0;
}

static __attribute__((noinline)) void free_emergency(struct slab_thread *t, void *object)
{
	struct emergency was;

	if (!emergency_free(t->slabs, object, &was))
		bad_free(object, "it is no object of this allocator");
	enter(t);
	if (t->objcg)
		uncharge(t, was.id, was.charge);
	counter_add(&t->frees, 1);
	leave(t);
}

void slab_free(struct slab_thread *t, void *object)
{
	struct magazine *m;
	struct slab *slab;

	if (unlikely((size_t)((char *)object - t->base) >= t->size)) {
		free_emergency(t, object);
		return;
	}
	enter(t);
	slab = slab_of(t, object);
	if (unlikely(!slab))
		bad_free(object, "it lies in no slab");
	m = t->mag[slab->cache];
	if (t->objcg)
		disown(t, slab, object, m->charge);
	if (unlikely(m->n == m->max || t->direct))
		put_slowly(t, slab->cache, object);
	else
		m->object[m->n++] = object;
	counter_add(&t->frees, 1);
	leave(t);
}

static void free_thread(struct slab_thread *t)
{
	for (uint32_t i = 0; i < t->slabs->n_caches; i++)
		if (t->mag[i] != &no_magazine)
			free(t->mag[i]);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

int slab_thread_open(struct slabs *s, struct slab_thread **thread)
{
	struct slab_thread *t = calloc(1, sizeof(*t) + s->n_caches * sizeof(*t->mag));
	int err = 0;

	if (!t)
		return -ENOMEM;
	t->slabs = s;
	t->base = s->base;
	t->size = s->size;
	t->slab_of_page = s->slab_of_page;
	t->objcg = s->config.acct == SLAB_ACCT_OBJCG;
	t->per_group = s->config.acct == SLAB_ACCT_PER_GROUP;
	t->stock_max = s->config.stock_pages * PAGE_BYTES;
	pthread_mutex_init(&t->lock, NULL);
	for (uint32_t i = 0; i < s->n_caches; i++)
		t->mag[i] = &no_magazine;
	for (uint32_t i = 0; i < CLASSES && !err; i++) {
		struct magazine *m = make_magazine(&s->shared[i]);

		if (m)
			t->mag[CLASSES + i] = m;
		else
			err = -ENOMEM;
	}
	if (err) {
		free_thread(t);
		return err;
	}
	pthread_mutex_lock(&s->threads_lock);
	atomic_store(&t->gate, s->direct ? GATE_DIRECT : GATE_OPEN);
	LIST_INSERT_HEAD(&s->threads, t, at);
	pthread_mutex_unlock(&s->threads_lock);
	*thread = t;
	return 0;
}

void slab_thread_close(struct slab_thread *t)
{
	struct slabs *s = t->slabs;

	pthread_mutex_lock(&s->threads_lock);
	LIST_REMOVE(t, at);
	count(&s->counters.allocs, t->allocs);
	count(&s->counters.frees, t->frees);
	count(&s->counters.mag_misses, t->mag_misses);
	count(&s->counters.stock_misses, t->stock_misses);
	pthread_mutex_unlock(&s->threads_lock);
	thread_flush(t, NULL);
	free_thread(t);
}

void slab_drain(struct slabs *s)
{
	for_each_thread(s, thread_flush, NULL);
}
