// SPDX-License-Identifier: MIT
/*
 * lock protects the reserve, the stock, and who waits. An element is out, in the reserve, or with the backing. The
 * memory of reserve and stock is one mapping, whose elements never go anywhere else; with a backing of the caller's the
 * reserve is filled from that, and elements of both mix, as in the kernel.
 */
#include "engine/mempool.h"

#include "base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct element {
	struct element *next;
};

struct mempool {
	_Atomic uint64_t asked; /* elements beyond the reserve, and those asked for */
	struct mempool_config config;
	struct mempool_counters counters;
	pthread_mutex_t lock;
	pthread_cond_t freed; /* an element is back in the reserve, or the pool stops */
	pthread_cond_t turn;  /* of waiting in mempool_alloc_many() */
	struct element *reserve, *stock;
	_Atomic unsigned in_reserve; /* written with the lock held */
	_Atomic unsigned out;
	bool turn_taken;
	_Atomic bool stopped; /* set with the lock held */
	void *memory;	      /* of reserve and stock */
	size_t memory_size;
};

static uint64_t count(_Atomic uint64_t *counter, uint64_t n)
{
	return atomic_fetch_add_explicit(counter, n, memory_order_relaxed) + n;
}

static void push(struct element **list, void *element)
{
	struct element *e = element;

	e->next = *list;
	*list = e;
}

static void *pop(struct element **list)
{
	struct element *e = *list;

	if (e)
		*list = e->next;
	return e;
}

static void *stock_alloc(void *arg, size_t size, enum mempool_how how)
{
	struct mempool *p = arg;
	void *element;

	(void)size;
	(void)how;
	pthread_mutex_lock(&p->lock);
	element = pop(&p->stock);
	pthread_mutex_unlock(&p->lock);
	return element;
}

static void stock_free(void *arg, void *element, size_t size)
{
	struct mempool *p = arg;

	(void)size;
	pthread_mutex_lock(&p->lock);
	push(&p->stock, element);
	pthread_mutex_unlock(&p->lock);
}

/* Room below the cap, kept for who asks until he has an element or gives up. */
static bool under_cap(struct mempool *p)
{
	uint64_t asked = atomic_fetch_add(&p->asked, 1) + 1;

	if (!p->config.cap || asked <= p->config.cap)
		return true;
	atomic_fetch_sub(&p->asked, 1);
	count(&p->counters.cap_rejects, 1);
	return false;
}

static void now_in_use(struct mempool *p)
{
	uint64_t cur = atomic_fetch_add(&p->counters.cur, 1) + 1, peak = atomic_load(&p->counters.peak);

	while (cur > peak && !atomic_compare_exchange_weak(&p->counters.peak, &peak, cur))
		;
}

static void *take_backing(struct mempool *p, enum mempool_how how, _Atomic uint64_t *counter)
{
	void *element;

	if (!under_cap(p))
		return NULL;
	element = p->config.backing.alloc(p->config.backing.arg, p->config.size, how);
	if (!element) {
		atomic_fetch_sub(&p->asked, 1);
		return NULL;
	}
	now_in_use(p);
	count(counter, 1);
	return element;
}

static void *take_reserve(struct mempool *p)
{
	void *element;

	pthread_mutex_lock(&p->lock);
	element = pop(&p->reserve);
	if (element)
		atomic_fetch_sub(&p->in_reserve, 1);
	pthread_mutex_unlock(&p->lock);
	if (element)
		count(&p->counters.from_pool, 1);
	return element;
}

/* Without waiting; `slow`: for somebody who would wait otherwise. */
static void *take(struct mempool *p, bool slow)
{
	void *element = take_backing(p, MEMPOOL_AT_ONCE, &p->counters.alloc_fast);

	if (!element)
		element = take_reserve(p);
	if (!element && slow)
		element = take_backing(p, MEMPOOL_MAY_BLOCK, &p->counters.alloc_slow);
	if (!element && p->config.mode == MEMPOOL_MEMALLOC)
		element = take_backing(p, MEMPOOL_LAST_RESERVE, &p->counters.last_reserve);
	return element;
}

/* Until the reserve has an element; the backing is not asked for who it has none, so for no longer than a loop. */
static int wait_for_element(struct mempool *p, int64_t deadline_ns)
{
	int64_t begin = clock_ns(), until = begin + p->config.loop_ms * NS_PER_MS;
	struct timespec ts = clock_timespec(until < deadline_ns ? until : deadline_ns);
	int err = 0;

	pthread_mutex_lock(&p->lock);
	while (!p->reserve && !atomic_load(&p->stopped) && !err)
		err = pthread_cond_timedwait(&p->freed, &p->lock, &ts);
	pthread_mutex_unlock(&p->lock);
	count(&p->counters.waits, 1);
	count(&p->counters.wait_ns, (uint64_t)(clock_ns() - begin));
	if (atomic_load(&p->stopped))
		return -ECANCELED;
	return err && clock_ns() >= deadline_ns ? -ETIMEDOUT : 0;
}

int mempool_alloc(struct mempool *p, int64_t deadline_ns, void **element)
{
	bool may_wait = deadline_ns != MEMPOOL_NOWAIT;
	int err = 0;

	for (;;) {
		*element = take(p, may_wait);
		if (*element) {
			atomic_fetch_add(&p->out, 1);
			return 0;
		}
		if (!may_wait)
			return -EAGAIN;
		if (err)
			return err;
		err = wait_for_element(p, deadline_ns);
	}
}

/*
 * in_reserve may be read without the lock, as in mm/mempool.c: whoever took an element from the reserve took it before
 * it is freed here, so a reserve that this element made smaller is seen to be.
 */
static bool refill_reserve(struct mempool *p, void *element)
{
	bool taken = false;

	if (atomic_load(&p->in_reserve) >= p->config.reserve)
		return false;
	pthread_mutex_lock(&p->lock);
	if (atomic_load(&p->in_reserve) < p->config.reserve) {
		push(&p->reserve, element);
		atomic_fetch_add(&p->in_reserve, 1);
		pthread_cond_signal(&p->freed);
		taken = true;
	}
	pthread_mutex_unlock(&p->lock);
	return taken;
}

void mempool_free(struct mempool *p, void *element)
{
	if (!refill_reserve(p, element)) {
		/* Before somebody can have it again: the counter is never above what is out. */
		count(&p->counters.cur, -1ULL);
		p->config.backing.free(p->config.backing.arg, element, p->config.size);
		atomic_fetch_sub(&p->asked, 1);
	}
	atomic_fetch_sub(&p->out, 1);
}

void mempool_free_many(struct mempool *p, void **element, unsigned n)
{
	while (n)
		mempool_free(p, element[--n]);
}

static int alloc_all(struct mempool *p, int64_t deadline_ns, void **element, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int err = mempool_alloc(p, deadline_ns, &element[i]);

		if (err) {
			mempool_free_many(p, element, i);
			return err;
		}
	}
	return 0;
}

static int take_turn(struct mempool *p, int64_t deadline_ns)
{
	struct timespec ts = clock_timespec(deadline_ns);
	int err = 0;

	pthread_mutex_lock(&p->lock);
	if (p->turn_taken)
		count(&p->counters.mutex_waits, 1);
	while (p->turn_taken && !atomic_load(&p->stopped) && !err)
		err = pthread_cond_timedwait(&p->turn, &p->lock, &ts);
	if (atomic_load(&p->stopped))
		err = ECANCELED;
	else if (!p->turn_taken)
		err = 0;
	if (!err)
		p->turn_taken = true;
	pthread_mutex_unlock(&p->lock);
	return -err;
}

static void pass_turn(struct mempool *p)
{
	pthread_mutex_lock(&p->lock);
	p->turn_taken = false;
	pthread_cond_signal(&p->turn);
	pthread_mutex_unlock(&p->lock);
}

int mempool_alloc_many(struct mempool *p, int64_t deadline_ns, void **element, unsigned n)
{
	int err;

	if (n > p->config.reserve && p->config.reserve)
		return -EINVAL;
	if (p->config.no_many_lock)
		return alloc_all(p, deadline_ns, element, n);
	err = alloc_all(p, MEMPOOL_NOWAIT, element, n);
	if (err != -EAGAIN || deadline_ns == MEMPOOL_NOWAIT)
		return err;
	err = take_turn(p, deadline_ns);
	if (err)
		return err;
	err = alloc_all(p, deadline_ns, element, n);
	pass_turn(p);
	return err;
}

void mempool_stop(struct mempool *p)
{
	pthread_mutex_lock(&p->lock);
	atomic_store(&p->stopped, true);
	pthread_cond_broadcast(&p->freed);
	pthread_cond_broadcast(&p->turn);
	pthread_mutex_unlock(&p->lock);
}

const struct mempool_counters *mempool_counters(const struct mempool *p)
{
	return &p->counters;
}

uint64_t mempool_cap(unsigned percent, uint64_t total_pages, unsigned clients)
{
	uint64_t pages = total_pages / 100 * percent / (clients ? clients : 1);

	return pages > MEMPOOL_CAP_PAGES ? pages : MEMPOOL_CAP_PAGES;
}

static int init_lock(struct mempool *p)
{
	int err = -pthread_mutex_init(&p->lock, NULL);

	if (!err)
		err = clock_cond_init(&p->freed);
	if (!err)
		err = clock_cond_init(&p->turn);
	return err;
}

/* Elements on cache lines of their own; touched by being linked, the rest of a page with them. */
static int map_memory(struct mempool *p)
{
	size_t stride = (p->config.size + 63) & ~(size_t)63, n = (size_t)p->config.reserve + p->config.stock;

	if (!n)
		return 0;
	if (__builtin_mul_overflow(stride, n, &p->memory_size))
		return -EINVAL;
	p->memory =
		mmap(NULL, p->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p->memory == MAP_FAILED) {
		p->memory = NULL;
		return -ENOMEM;
	}
	while (n--)
		push(n < p->config.reserve ? &p->reserve : &p->stock, (char *)p->memory + n * stride);
	atomic_store(&p->in_reserve, p->config.reserve);
	return 0;
}

static int fill_reserve(struct mempool *p)
{
	const struct mempool_backing *b = &p->config.backing;

	while (atomic_load(&p->in_reserve) < p->config.reserve) {
		void *element = b->alloc(b->arg, p->config.size, MEMPOOL_MAY_BLOCK);

		if (!element)
			return -ENOMEM;
		memset(element, 0, p->config.size);
		push(&p->reserve, element);
		atomic_fetch_add(&p->in_reserve, 1);
	}
	return 0;
}

static void release(struct mempool *p)
{
	const struct mempool_backing *b = &p->config.backing;

	if (b->arg != p)
		for (void *element; (element = pop(&p->reserve));)
			b->free(b->arg, element, p->config.size);
	if (p->memory)
		munmap(p->memory, p->memory_size);
	pthread_cond_destroy(&p->turn);
	pthread_cond_destroy(&p->freed);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int mempool_create(struct mempool **pool, const struct mempool_config *config)
{
	struct mempool *p;
	int err;

	if (config->size < sizeof(struct element) || (config->backing.alloc && config->stock))
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->config = *config;
	if (!p->config.loop_ms)
		p->config.loop_ms = MEMPOOL_LOOP_MS;
	err = init_lock(p);
	if (err) {
		free(p);
		return err;
	}
	if (config->backing.alloc) {
		err = fill_reserve(p);
	} else {
		p->config.backing = (struct mempool_backing){ stock_alloc, stock_free, p };
		err = map_memory(p);
	}
	if (err) {
		release(p);
		return err;
	}
	*pool = p;
	return 0;
}

int mempool_destroy(struct mempool *p)
{
	if (!p)
		return 0;
	if (atomic_load(&p->out))
		return -EBUSY;
	release(p);
	return 0;
}
