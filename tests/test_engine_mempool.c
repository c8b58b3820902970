// SPDX-License-Identifier: MIT
/* Pools with a reserve: who has one makes progress whatever the backing allocator does, and what happens without. */
#include "engine/mempool.h"

#include "base/clock.h"
#include "t.h"

#include <errno.h>
#include <pthread.h>

#define SIZE	 4096
#define SHORT_MS 200   /* a wait that has to end without success */
#define LONG_MS	 30000 /* one that has to end with it */

/* A machine with `free` elements above its last reserve of `last`. */
struct machine {
	_Atomic int free, last;
	_Atomic int live;
};

static bool take_one(_Atomic int *n)
{
	int have = atomic_load(n);

	while (have > 0)
		if (atomic_compare_exchange_weak(n, &have, have - 1))
			return true;
	return false;
}

static void *machine_alloc(void *arg, size_t size, enum mempool_how how)
{
	struct machine *m = arg;

	if (!take_one(&m->free) && (how != MEMPOOL_LAST_RESERVE || !take_one(&m->last)))
		return NULL;
	atomic_fetch_add(&m->live, 1);
	return malloc(size);
}

static void machine_free(void *arg, void *element, size_t size)
{
	struct machine *m = arg;

	(void)size;
	free(element);
	atomic_fetch_sub(&m->live, 1);
}

static struct mempool *pool_on(struct machine *m, struct mempool_config config)
{
	struct mempool *pool;

	config.size = SIZE;
	if (m)
		config.backing = (struct mempool_backing){ machine_alloc, machine_free, m };
	assert_int_equal(mempool_create(&pool, &config), 0);
	return pool;
}

static int64_t in_ms(int64_t ms)
{
	return clock_ns() + ms * NS_PER_MS;
}

static void the_backing_comes_first(void **state)
{
	struct machine m = { .free = 6 };
	struct mempool *pool = pool_on(&m, (struct mempool_config){ .reserve = 4 });
	const struct mempool_counters *c = mempool_counters(pool);
	void *e[7];

	(void)state;
	assert_int_equal(m.free, 2);
	for (int i = 0; i < 6; i++) {
		assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &e[i]), 0);
		assert_int_equal(c->from_pool, i < 2 ? 0 : i - 1);
	}
	assert_int_equal(c->alloc_fast, 2);
	assert_int_equal(c->cur, 2);
	assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &e[6]), -EAGAIN);
	/* The reserve is filled first, the backing gets what is left. */
	for (int i = 0; i < 4; i++)
		mempool_free(pool, e[i]);
	assert_int_equal(m.live, 6);
	assert_int_equal(mempool_destroy(pool), -EBUSY);
	mempool_free(pool, e[4]);
	assert_int_equal(m.live, 5);
	mempool_free(pool, e[5]);
	assert_int_equal(c->cur, 0);
	assert_int_equal(mempool_destroy(pool), 0);
	assert_int_equal(m.live, 0);
}

static void the_reserve_is_there_or_the_pool_is_not(void **state)
{
	struct machine m = { .free = 3 };
	struct mempool_config config = { .size = SIZE, .reserve = 4, .backing = { machine_alloc, machine_free, &m } };
	struct mempool *pool;

	(void)state;
	assert_int_equal(mempool_create(&pool, &config), -ENOMEM);
	assert_int_equal(m.live, 0);
	config.size = sizeof(void *) - 1;
	assert_int_equal(mempool_create(&pool, &config), -EINVAL);
}

/* The same with and without: a machine that has run out, one request. */
static int request_when_there_is_nothing(unsigned reserve, struct mempool_config config)
{
	struct machine m = { .free = (int)reserve };
	struct mempool *pool;
	void *element;
	int err;

	config.reserve = reserve;
	config.loop_ms = 10;
	pool = pool_on(&m, config);
	err = mempool_alloc(pool, in_ms(SHORT_MS), &element);
	if (!err)
		mempool_free(pool, element);
	else
		assert_true(mempool_counters(pool)->waits > 1);
	assert_int_equal(mempool_destroy(pool), 0);
	return err;
}

static void without_a_reserve_there_is_no_progress(void **state)
{
	(void)state;
	assert_int_equal(request_when_there_is_nothing(1, (struct mempool_config){ 0 }), 0);
	assert_int_equal(request_when_there_is_nothing(0, (struct mempool_config){ 0 }), -ETIMEDOUT);
}

static unsigned last_reserve_after_a_flood(enum mempool_mode mode, uint64_t *eaten)
{
	struct machine m = { .free = 4, .last = 16 };
	struct mempool *pool = pool_on(&m, (struct mempool_config){ .reserve = 4, .mode = mode });
	void *e[32];
	unsigned n = 0, left;

	while (n < 32 && !mempool_alloc(pool, MEMPOOL_NOWAIT, &e[n]))
		n++;
	left = (unsigned)m.last;
	*eaten = mempool_counters(pool)->last_reserve;
	mempool_free_many(pool, e, n);
	assert_int_equal(mempool_destroy(pool), 0);
	return left;
}

static void memalloc_eats_the_last_reserve_of_the_system(void **state)
{
	uint64_t eaten;

	(void)state;
	assert_int_equal(last_reserve_after_a_flood(MEMPOOL_NOMEMALLOC, &eaten), 16);
	assert_int_equal(eaten, 0);
	assert_int_equal(last_reserve_after_a_flood(MEMPOOL_MEMALLOC, &eaten), 0);
	assert_int_equal(eaten, 16);
}

static void over_the_cap_only_the_reserve_is_left(void **state)
{
	struct machine m = { .free = 1000 };
	struct mempool *pool = pool_on(&m, (struct mempool_config){ .reserve = 4, .cap = 10 });
	const struct mempool_counters *c = mempool_counters(pool);
	void *e[15];

	(void)state;
	for (int i = 0; i < 14; i++)
		assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &e[i]), 0);
	assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &e[14]), -EAGAIN);
	assert_int_equal(c->peak, 10);
	assert_int_equal(c->cap_rejects, 5);
	assert_int_equal(m.live, 14);
	mempool_free_many(pool, e, 14);
	assert_int_equal(mempool_destroy(pool), 0);
	/* Off. */
	pool = pool_on(&m, (struct mempool_config){ .reserve = 4 });
	for (int i = 0; i < 15; i++)
		assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &e[i]), 0);
	assert_int_equal(mempool_counters(pool)->peak, 15);
	mempool_free_many(pool, e, 15);
	assert_int_equal(mempool_destroy(pool), 0);
	assert_int_equal(mempool_cap(2, 1000000, 1), 20000);
	assert_int_equal(mempool_cap(2, 1000000, 4), 5000);
	assert_int_equal(mempool_cap(2, 1000000, 100), MEMPOOL_CAP_PAGES);
}

struct waiter {
	struct mempool *pool;
	pthread_t thread;
	void *element;
	int64_t deadline_ns;
	int err;
};

static void *wait_for_one(void *arg)
{
	struct waiter *w = arg;

	w->err = mempool_alloc(w->pool, w->deadline_ns, &w->element);
	return NULL;
}

static void wait_until(const _Atomic uint64_t *counter, uint64_t wanted)
{
	int64_t until = in_ms(LONG_MS);

	while (atomic_load(counter) < wanted && clock_ns() < until)
		clock_sleep_ms(1);
	assert_true(atomic_load(counter) >= wanted);
}

/* The loop is longer than the test may take, so only being woken helps. */
static void who_waits_gets_what_is_freed(void **state)
{
	struct mempool *pool = pool_on(NULL, (struct mempool_config){ .reserve = 1, .loop_ms = 1000000 });
	struct waiter w = { .pool = pool, .deadline_ns = in_ms(LONG_MS) };
	void *element;

	(void)state;
	assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &element), 0);
	assert_int_equal(pthread_create(&w.thread, NULL, wait_for_one, &w), 0);
	clock_sleep_ms(20);
	mempool_free(pool, element);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.err, 0);
	mempool_free(pool, w.element);
	assert_int_equal(mempool_destroy(pool), 0);
}

/* Nobody frees anything, but the machine has memory again: it is looked at once a loop. */
static void who_waits_looks_at_the_backing_again(void **state)
{
	struct machine m = { .free = 1 };
	struct mempool *pool = pool_on(&m, (struct mempool_config){ .reserve = 1, .loop_ms = 5 });
	struct waiter w = { .pool = pool, .deadline_ns = in_ms(LONG_MS) };
	void *element;

	(void)state;
	assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &element), 0);
	assert_int_equal(pthread_create(&w.thread, NULL, wait_for_one, &w), 0);
	wait_until(&mempool_counters(pool)->waits, 2);
	atomic_store(&m.free, 1);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.err, 0);
	assert_true(mempool_counters(pool)->wait_ns > 5 * NS_PER_MS);
	mempool_free(pool, element);
	mempool_free(pool, w.element);
	assert_int_equal(mempool_destroy(pool), 0);
}

static void stop_ends_every_wait(void **state)
{
	struct mempool *pool = pool_on(NULL, (struct mempool_config){ .reserve = 1 });
	struct waiter w = { .pool = pool, .deadline_ns = MEMPOOL_FOREVER };
	void *element;

	(void)state;
	assert_int_equal(mempool_alloc(pool, MEMPOOL_NOWAIT, &element), 0);
	assert_int_equal(pthread_create(&w.thread, NULL, wait_for_one, &w), 0);
	mempool_stop(pool);
	pthread_join(w.thread, NULL);
	assert_int_equal(w.err, -ECANCELED);
	mempool_free(pool, element);
	assert_int_equal(mempool_destroy(pool), 0);
}

/* --- requests of several elements ------------------------------------------------------------------------------------
 */

#define HALF	 8
#define REQUESTS 200

/*
 * Two users of 2 * HALF elements each, from a pool of as many. Their first elements are handed out in turn, so that
 * without the lock each has its half and waits for the other's.
 */
struct user {
	struct mempool *pool;
	pthread_barrier_t *both;
	pthread_t thread;
	int64_t deadline_ns;
	unsigned requests, done;
	int err;
};

static void *request_many(void *arg)
{
	struct user *u = arg;
	void *e[2 * HALF];

	pthread_barrier_wait(u->both);
	for (u->done = 0; u->done < u->requests; u->done++) {
		u->err = mempool_alloc_many(u->pool, u->deadline_ns, e, 2 * HALF);
		if (u->err)
			break;
		sched_yield();
		mempool_free_many(u->pool, e, 2 * HALF);
	}
	return NULL;
}

/* The machine itself sees to the worst order: it lets one in only when the other has had as many. */
struct turns {
	_Atomic unsigned rank;
	_Atomic unsigned got[2];
};

static _Thread_local int my_rank = -1;

static void *nothing_but_turns(void *arg, size_t size, enum mempool_how how)
{
	struct turns *t = arg;
	int64_t until = in_ms(SHORT_MS / 10);

	(void)size;
	if (how != MEMPOOL_AT_ONCE)
		return NULL;
	if (my_rank < 0)
		my_rank = (int)(atomic_fetch_add(&t->rank, 1) & 1);
	while (atomic_load(&t->got[my_rank]) > atomic_load(&t->got[!my_rank]) && clock_ns() < until)
		sched_yield();
	atomic_fetch_add(&t->got[my_rank], 1);
	return NULL;
}

static void nothing_to_free(void *arg, void *element, size_t size)
{
	(void)arg;
	(void)size;
	free(element);
}

static void *fill_only(void *arg, size_t size, enum mempool_how how)
{
	struct turns *t = arg;

	return t->rank == UINT_MAX ? malloc(size) : nothing_but_turns(arg, size, how);
}

static int two_users(bool no_many_lock, int64_t ms, unsigned requests, uint64_t *mutex_waits)
{
	struct turns t = { .rank = UINT_MAX };
	struct mempool_config config = { .size = SIZE,
					 .reserve = 2 * HALF,
					 .no_many_lock = no_many_lock,
					 .loop_ms = 10,
					 .backing = { fill_only, nothing_to_free, &t } };
	struct mempool *pool;
	pthread_barrier_t both;
	struct user u[2];
	int err = 0;

	assert_int_equal(mempool_create(&pool, &config), 0);
	atomic_store(&t.rank, 0);
	pthread_barrier_init(&both, NULL, 2);
	for (int i = 0; i < 2; i++) {
		u[i] = (struct user){ .pool = pool, .both = &both, .deadline_ns = in_ms(ms), .requests = requests };
		assert_int_equal(pthread_create(&u[i].thread, NULL, request_many, &u[i]), 0);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(u[i].thread, NULL);
		if (u[i].err)
			err = u[i].err;
		else
			assert_int_equal(u[i].done, requests);
	}
	*mutex_waits = mempool_counters(pool)->mutex_waits;
	pthread_barrier_destroy(&both);
	assert_int_equal(mempool_destroy(pool), 0);
	return err;
}

static void half_filled_requests_wait_for_each_other(void **state)
{
	uint64_t mutex_waits;

	(void)state;
	assert_int_equal(two_users(true, SHORT_MS, 1, &mutex_waits), -ETIMEDOUT);
	assert_int_equal(mutex_waits, 0);
	assert_int_equal(two_users(false, LONG_MS, 1, &mutex_waits), 0);
}

static void a_request_larger_than_the_reserve_is_refused(void **state)
{
	struct mempool *pool = pool_on(NULL, (struct mempool_config){ .reserve = HALF, .stock = HALF });
	void *e[2 * HALF];

	(void)state;
	assert_int_equal(mempool_alloc_many(pool, MEMPOOL_FOREVER, e, HALF + 1), -EINVAL);
	assert_int_equal(mempool_alloc_many(pool, MEMPOOL_NOWAIT, e, HALF), 0);
	assert_int_equal(mempool_counters(pool)->from_pool, 0);
	assert_int_equal(mempool_alloc_many(pool, MEMPOOL_NOWAIT, e + HALF, HALF), 0);
	assert_int_equal(mempool_counters(pool)->from_pool, HALF);
	mempool_free_many(pool, e, 2 * HALF);
	assert_int_equal(mempool_alloc_many(pool, MEMPOOL_NOWAIT, e, HALF), 0);
	/* Half of it is there: nothing of a request that fails stays out. */
	mempool_free(pool, e[0]);
	mempool_free_many(pool, e + 1, HALF - 1);
	assert_int_equal(mempool_destroy(pool), 0);
}

/* Threads that take, write, check and give back: an element that two had would be seen. */
static void *churn(void *arg)
{
	struct user *u = arg;
	uintptr_t *e[4];
	unsigned n = 0;

	for (u->done = 0; u->done < u->requests && !u->err; u->done++) {
		n = 1 + u->done % 4;
		u->err = mempool_alloc_many(u->pool, u->deadline_ns, (void **)e, n);
		for (unsigned i = 0; !u->err && i < n; i++)
			e[i][1] = (uintptr_t)&e[i] + u->done;
		for (unsigned i = 0; !u->err && i < n; i++)
			if (e[i][1] != (uintptr_t)&e[i] + u->done)
				u->err = -EBADMSG;
		if (!u->err)
			mempool_free_many(u->pool, (void **)e, n);
	}
	return NULL;
}

static void nobody_shares_an_element_and_all_come_back(void **state)
{
	struct mempool *pool = pool_on(NULL, (struct mempool_config){ .reserve = 4, .stock = 2 });
	const struct mempool_counters *c = mempool_counters(pool);
	struct user u[4];

	(void)state;
	for (int i = 0; i < 4; i++) {
		u[i] = (struct user){ .pool = pool, .deadline_ns = in_ms(LONG_MS), .requests = REQUESTS * 20 };
		assert_int_equal(pthread_create(&u[i].thread, NULL, churn, &u[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(u[i].thread, NULL);
		assert_int_equal(u[i].err, 0);
	}
	assert_int_equal(c->cur, 0);
	assert_true(c->peak <= 2);
	assert_true(c->from_pool > 0);
	assert_int_equal(mempool_destroy(pool), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_backing_comes_first),
		cmocka_unit_test(the_reserve_is_there_or_the_pool_is_not),
		cmocka_unit_test(without_a_reserve_there_is_no_progress),
		cmocka_unit_test(memalloc_eats_the_last_reserve_of_the_system),
		cmocka_unit_test(over_the_cap_only_the_reserve_is_left),
		cmocka_unit_test(who_waits_gets_what_is_freed),
		cmocka_unit_test(who_waits_looks_at_the_backing_again),
		cmocka_unit_test(stop_ends_every_wait),
		cmocka_unit_test(half_filled_requests_wait_for_each_other),
		cmocka_unit_test(a_request_larger_than_the_reserve_is_refused),
		cmocka_unit_test(nobody_shares_an_element_and_all_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
