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

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* ThreadSanitizer knows nothing of membarrier(2). */
#ifdef __SANITIZE_THREAD__
#define BUSY_ORDER memory_order_seq_cst
#define GATE_ORDER memory_order_seq_cst
#else
#define BUSY_ORDER memory_order_relaxed
#define GATE_ORDER memory_order_acquire
#endif

/* Of caches of groups, until a thread needs its own. */
static struct magazine no_magazine;
static struct slab no_slab;

/* --- A thread at its own --- */

static inline bool is_gate_closed(struct slab_thread *t)
{
	atomic_store_explicit(&t->busy, 1, BUSY_ORDER);
	/* The processor may still exchange the two; membarrier() in gate_close() sees to it. */
	atomic_signal_fence(memory_order_seq_cst);
	return unlikely(atomic_load_explicit(&t->gate, GATE_ORDER));
}

/* What leave() is where the gate was open. */
static inline void leave_open(struct slab_thread *t)
{
	atomic_store_explicit(&t->busy, 0, memory_order_release);
}

static void enter(struct slab_thread *t)
{
	if (!is_gate_closed(t))
		return;
	leave_open(t);
	pthread_mutex_lock(&t->lock);
	t->locked = true;
}

static void leave(struct slab_thread *t)
{
	if (t->locked) {
		t->locked = false;
		pthread_mutex_unlock(&t->lock);
		return;
	}
	leave_open(t);
}

/* --- Others at a thread's --- */

static void gate_close(struct slab_thread *t)
{
	pthread_mutex_lock(&t->lock);
	atomic_store(&t->gate, 1);
	syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
	while (atomic_load(&t->busy))
		sched_yield();
}

static void gate_open(struct slab_thread *t)
{
	atomic_store(&t->gate, 0);
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

/* Magazines that hold nothing are empty and full at once: always the slow way. */
static void set_direct(struct slab_thread *t, bool direct)
{
	t->direct = direct;
	for (uint32_t i = 0; i < t->slabs->n_caches; i++)
		if (t->mag[i] != &no_magazine)
			t->mag[i]->max = direct ? 0 : cache_at(t->slabs, i)->mag_objects;
}

void threads_direct(struct slabs *s, bool direct)
{
	struct slab_thread *t;

	pthread_mutex_lock(&s->threads_lock);
	s->direct = direct;
	LIST_FOREACH (t, &s->threads, at) {
		gate_close(t);
		thread_flush(t, NULL);
		set_direct(t, direct);
		gate_open(t);
	}
	pthread_mutex_unlock(&s->threads_lock);
}

/* --- Magazines --- */

static inline void mag_set(struct magazine *m, uint64_t held)
{
	__atomic_store_n(&m->held, held, __ATOMIC_RELAXED);
}

static inline void *mag_pop(struct magazine *m, uint64_t held)
{
	mag_set(m, held + MAG_ALLOC - 1);
	return m->object[mag_n(held) - 1];
}

static inline void mag_push(struct magazine *m, uint64_t held, void *object)
{
	m->object[mag_n(held)] = object;
	mag_set(m, held + 1);
}

/* From the cache, or back to it. */
static void mag_move(struct magazine *m, int n)
{
	counter_add(&m->moved, (uint64_t)n);
	mag_set(m, m->held + (uint64_t)n);
}

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
		uint32_t n = mag_n(m->held);

		if (!n)
			continue;
		put(s, i, m->object, n);
		mag_move(m, -(int)n);
	}
	group_unstock(t);
	count(&s->counters.drains, 1);
}

/* Touched, so that it is there when it is needed. */
static struct magazine *make_magazine(const struct slab_cache *c, bool objcg)
{
	size_t size = sizeof(struct magazine) + c->mag_objects * sizeof(void *);
	struct magazine *m = malloc(size);

	if (!m)
		return NULL;
	memset(m, 0, size);
	m->max = c->mag_objects;
	m->charge = objcg ? c->charge : 0;
	return m;
}

/* One object, and half a magazine with it. */
static __attribute__((noinline)) int take_slowly(struct slab_thread *t, uint32_t cache, void **object)
{
	struct slabs *s = t->slabs;
	struct slab_cache *c = cache_at(s, cache);
	struct magazine *m = t->mag[cache];
	int n;

	counter_add(&t->mag_misses, 1);
	if (m == &no_magazine && !t->direct) {
		struct magazine *own = make_magazine(c, t->objcg);

		if (own) {
			__atomic_store_n(&t->mag[cache], own, __ATOMIC_RELEASE);
			m = own;
		}
	}
	pthread_mutex_lock(&c->lock);
	n = m->max ? cache_take(s, c, m->object, m->max / 2) : cache_take(s, c, object, 1);
	pthread_mutex_unlock(&c->lock);
	grow_ahead(s);
	if (n < 0)
		return n;
	if (m->max) {
		mag_move(m, n);
		*object = mag_pop(m, m->held);
	} else {
		counter_add(&t->allocs, 1);
	}
	return 0;
}

/* The older half makes room: what was freed last is the warmest. */
static __attribute__((noinline)) void put_slowly(struct slab_thread *t, uint32_t cache, void *object)
{
	struct magazine *m = t->mag[cache];
	uint32_t half;

	counter_add(&t->mag_misses, 1);
	if (!m->max) {
		put(t->slabs, cache, &object, 1);
		counter_add(&t->frees, 1);
		return;
	}
	half = m->max / 2;
	put(t->slabs, cache, m->object, half);
	mag_move(m, -(int)half);
	memmove(m->object, m->object + half, mag_n(m->held) * sizeof(void *));
	mag_push(m, m->held, object);
}

/* --- Owners --- */

static int charge(struct slab_thread *t, uint32_t id, uint32_t bytes)
{
	struct stock *stock = &t->stock[id % STOCKS];

	if (stock_id(stock->word - bytes) != id)
		return group_charge(t, id, bytes);
	stock->word -= bytes;
	return 0;
}

static void uncharge(struct slab_thread *t, uint32_t id, uint32_t bytes)
{
	struct stock *stock = &t->stock[id % STOCKS];

	if (stock_id(stock->word) != id || stock_bytes(stock->word) + bytes > t->stock_max)
		group_uncharge(t, id, bytes);
	else
		stock->word += bytes;
}

/*
 * The slab at this offset. Mostly it is that of the last one, so go on with that while the processor reads which it is;
 * what hides one from the compiler is that it would wait. False: there is none.
 */
static inline bool find_slab(struct slab_thread *t, size_t offset, struct slab **found)
{
	struct slab *slab = t->slab_of_page[offset / PAGE_BYTES];
	struct slab *last = t->last;

	if (unlikely(slab != last)) {
		*found = slab;
		if (slab)
			t->last = slab;
		return slab;
	}
	__asm__("" : "+r"(last));
	*found = last;
	return true;
}

static inline size_t offset_of(const struct slab_thread *t, const void *object)
{
	return (size_t)((const char *)object - t->base);
}

_Noreturn static void bad_free(const void *object, const char *what)
{
	fprintf(stderr, "slab_free(%p): %s\n", object, what);
	abort();
}

static inline uint32_t cache_of(const struct slab_thread *t, uint32_t id, size_t size)
{
	return (id - ROOT_ID) * t->group_caches + CLASSES + slab_class[(size - 1) / 16];
}

static inline void own(struct slab_thread *t, const void *object, uint32_t id)
{
	struct slab *slab;

	find_slab(t, offset_of(t, object), &slab);
	owner_set(slab, index_in(slab, object), id);
}

static int take(struct slab_thread *t, uint32_t cache, uint32_t id, void **object)
{
	struct magazine *m = t->mag[cache];
	int err = t->objcg ? charge(t, id, m->charge) : 0;

	if (err)
		return err;
	if (mag_n(m->held))
		*object = mag_pop(m, m->held);
	else
		err = take_slowly(t, cache, object);
	if (err && t->objcg)
		uncharge(t, id, m->charge);
	if (err)
		return err;
	if (t->objcg)
		own(t, *object, id);
	return 0;
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

static void *fail(int err)
{
	errno = -err;
	return NULL;
}

static __attribute__((noinline)) void *alloc_slowly(struct slab_thread *t, struct slab_group *group, size_t size,
						    int64_t deadline_ns)
{
	uint32_t id = group ? group->id : ROOT_ID;
	bool drained = false;
	void *object;
	int err;

	if (!size || size > SLAB_MAX_SIZE)
		return fail(-EINVAL);
	do {
		enter(t);
		err = take(t, cache_of(t, id, size), id, &object);
		leave(t);
		if (!err)
			return object;
		err = make_room(t, err, deadline_ns, &drained);
	} while (!err);
	if (err == -EDEADLK)
		err = alloc_emergency(t, id, size, &object);
	return err ? fail(err) : object;
}

/* As a thread has no stocks where nothing is charged, its objects come this way. */
static __attribute__((noinline)) void *alloc_less_quickly(struct slab_thread *t, struct slab_group *group, size_t size,
							  int64_t deadline_ns)
{
	if (!t->objcg && size - 1 < SLAB_MAX_SIZE && !is_gate_closed(t)) {
		struct magazine *m = t->mag[cache_of(t, group ? group->id : ROOT_ID, size)];

		if (mag_n(m->held)) {
			void *object = mag_pop(m, m->held);

			leave_open(t);
			return object;
		}
	}
	leave_open(t);
	return alloc_slowly(t, group, size, deadline_ns);
}

/* From the thread's magazine and stock, if there is enough of both. */
void *slab_alloc(struct slab_thread *t, struct slab_group *group, size_t size, int64_t deadline_ns)
{
	uint32_t id = group ? group->id : ROOT_ID;
	struct stock *stock = &t->stock[id % STOCKS];
	struct magazine *m;
	uint64_t held, left;
	void *object;

	if (unlikely(size - 1 >= SLAB_MAX_SIZE || is_gate_closed(t)))
		goto less_quickly;
	m = t->mag[CLASSES + slab_class[(size - 1) / 16]];
	held = m->held;
	left = stock->word - m->charge;
	if (unlikely(stock_id(left) != id || !mag_n(held)))
		goto less_quickly;
	stock->word = left;
	object = mag_pop(m, held);
	own(t, object, id);
	leave_open(t);
	return object;

less_quickly:
	return alloc_less_quickly(t, group, size, deadline_ns);
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

static void disown(struct slab_thread *t, struct slab *slab, const void *object, uint32_t bytes)
{
	unsigned i = index_in(slab, object);
	uint32_t id = owner_get(slab, i);

	if (!id)
		bad_free(object, "it is free already");
	owner_set(slab, i, 0);
	uncharge(t, id, bytes);
}

static __attribute__((noinline)) void free_slowly(struct slab_thread *t, void *object)
{
	struct magazine *m;
	struct slab *slab;

	leave_open(t); /* of slab_free() */
	if (offset_of(t, object) >= t->size) {
		free_emergency(t, object);
		return;
	}
	enter(t);
	if (!find_slab(t, offset_of(t, object), &slab))
		bad_free(object, "it lies in no slab");
	m = t->mag[slab->cache];
	if (t->objcg)
		disown(t, slab, object, m->charge);
	if (mag_n(m->held) == m->max)
		put_slowly(t, slab->cache, object);
	else
		mag_push(m, m->held, object);
	leave(t);
}

void slab_free(struct slab_thread *t, void *object)
{
	size_t offset = offset_of(t, object);
	struct slab *slab;
	struct magazine *m;
	struct stock *stock;
	uint64_t held, more;
	uint32_t id;
	unsigned i;

	if (unlikely(offset >= t->quick_size || is_gate_closed(t) || !find_slab(t, offset, &slab)))
		goto slowly;
	m = t->mag[slab->cache];
	held = m->held;
	if (unlikely(mag_n(held) == m->max))
		goto slowly;
	i = index_in(slab, object);
	id = owner_get(slab, i);
	stock = &t->stock[id % STOCKS];
	more = stock->word + m->charge;
	if (unlikely(stock_id(more) != id || stock_bytes(more) > t->stock_max))
		goto slowly;
	owner_set(slab, i, 0);
	stock->word = more;
	mag_push(m, held, object);
	leave_open(t);
	return;

slowly:
	free_slowly(t, object);
}

static void free_thread(struct slab_thread *t)
{
	for (uint32_t i = 0; i < t->slabs->n_caches; i++)
		if (t->mag[i] != &no_magazine)
			free(t->mag[i]);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

void thread_count(const struct slab_thread *t, uint64_t *allocs, uint64_t *frees)
{
	for (uint32_t i = 0; i < t->slabs->n_caches; i++) {
		const struct magazine *m = __atomic_load_n(&t->mag[i], __ATOMIC_ACQUIRE);
		uint64_t held = __atomic_load_n(&m->held, __ATOMIC_RELAXED);

		*allocs += held / MAG_ALLOC;
		*frees += held / MAG_ALLOC + mag_n(held) - __atomic_load_n(&m->moved, __ATOMIC_RELAXED);
	}
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
	t->group_caches = s->config.acct == SLAB_ACCT_PER_GROUP ? CLASSES : 0;
	t->quick_size = t->objcg ? s->size : 0;
	t->last = &no_slab;
	for (unsigned i = 0; i < STOCKS; i++)
		t->stock[i].word = stock_word(STOCK_EMPTY, 0);
	t->stock_max = s->config.stock_pages * PAGE_BYTES;
	pthread_mutex_init(&t->lock, NULL);
	for (uint32_t i = 0; i < s->n_caches; i++)
		t->mag[i] = &no_magazine;
	for (uint32_t i = 0; i < CLASSES && !err; i++) {
		struct magazine *m = make_magazine(&s->shared[i], t->objcg);

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
	set_direct(t, s->direct);
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
	thread_count(t, &t->allocs, &t->frees);
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
