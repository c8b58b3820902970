// SPDX-License-Identifier: MIT
/* Slabs that groups share, and each remedy with what happens when it is off. */
#include "workloads/common/sparse.h"
#include "engine/slab.h"

#include "base/clock.h"
#include "t.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MIB	(1UL << 20)
#define SHORT_S 2  /* a wait that has to end without success */
#define LONG_S	30 /* one that has to end with it */

static uint64_t random_next(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return *state >> 33;
}

static int64_t in_seconds(int s)
{
	return clock_ns() + s * NS_PER_S;
}

static struct slabs *open_slabs(const struct slab_config *config, struct slab_thread **t)
{
	struct slabs *s;

	assert_int_equal(slab_open(&s, config), 0);
	assert_int_equal(slab_thread_open(s, t), 0);
	return s;
}

static void close_slabs(struct slabs *s, struct slab_thread *t)
{
	slab_thread_close(t);
	assert_int_equal(slab_close(s), 0);
}

static void *must_alloc(struct slab_thread *t, struct slab_group *g, size_t size)
{
	void *object = slab_alloc(t, g, size, in_seconds(LONG_S));

	assert_non_null(object);
	return object;
}

/* 0, or why there is none. */
static int try_alloc(struct slab_thread *t, struct slab_group *g, size_t size, int64_t deadline_ns, void **object)
{
	*object = slab_alloc(t, g, size, deadline_ns);
	return *object ? 0 : -errno;
}

static struct slab_counters counters_of(struct slabs *s)
{
	struct slab_counters c;

	slab_counters(s, &c);
	return c;
}

/* --- Objects --- */

static void objects_lie_apart_and_keep_what_was_written(void **state)
{
	enum { EACH = 200 };
	static char *object[SLAB_MAX_SIZE / 16][EACH];
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 512 * MIB }, &t);

	(void)state;
	for (unsigned k = 0; k < SLAB_MAX_SIZE / 16; k++)
		for (unsigned i = 0; i < EACH; i++) {
			object[k][i] = must_alloc(t, NULL, (k + 1) * 16);
			memset(object[k][i], (int)(k * 7 + i), (k + 1) * 16);
		}
	for (unsigned k = 0; k < SLAB_MAX_SIZE / 16; k++)
		for (unsigned i = 0; i < EACH; i++) {
			for (unsigned b = 0; b < (k + 1) * 16; b++)
				assert_int_equal((unsigned char)object[k][i][b], (unsigned char)(k * 7 + i));
			slab_free(t, object[k][i]);
		}
	assert_int_equal(counters_of(s).allocs, counters_of(s).frees);
	close_slabs(s, t);
}

static void a_class_wastes_no_more_than_a_fifth(void **state)
{
	(void)state;
	assert_int_equal(slab_class_size(0), 0);
	assert_int_equal(slab_class_size(SLAB_MAX_SIZE + 1), 0);
	assert_int_equal(slab_class_size(1), 64);
	for (size_t size = 64; size <= SLAB_MAX_SIZE; size++) {
		assert_true(slab_class_size(size) >= size);
		assert_true((slab_class_size(size) - size) * 5 <= slab_class_size(size));
	}
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct slab_thread *t;
	struct slabs *s;
	void *object;

	(void)state;
	assert_int_equal(slab_open(&s, &(struct slab_config){ .size = 0 }), -EINVAL);
	assert_int_equal(slab_open(&s, &(struct slab_config){ .size = MIB, .pretouch = 2 * MIB }), -EINVAL);
	assert_int_equal(slab_open(&s, &(struct slab_config){ .size = MIB, .acct = 9 }), -EINVAL);
	assert_int_equal(slab_close(NULL), 0);
	s = open_slabs(&(struct slab_config){ .size = MIB }, &t);
	assert_int_equal(try_alloc(t, NULL, 0, SLAB_FOREVER, &object), -EINVAL);
	assert_int_equal(try_alloc(t, NULL, SLAB_MAX_SIZE + 1, SLAB_FOREVER, &object), -EINVAL);
	assert_int_equal(slab_online(s, 0), -EINVAL);
	assert_int_equal(slab_offline(s, 99, &(struct slab_offline){ .deadline_ns = in_seconds(1) }), -EINVAL);
	close_slabs(s, t);
}

static void nothing_is_closed_that_is_in_use(void **state)
{
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 2 * MIB, .acct = SLAB_ACCT_OBJCG }, &t);
	struct slab_group *g, *below;
	void *object = must_alloc(t, NULL, 100);

	(void)state;
	assert_int_equal(slab_close(s), -EBUSY);
	slab_free(t, object);
	assert_int_equal(slab_group_open(s, NULL, 0, &g), 0);
	assert_int_equal(slab_group_open(s, g, 0, &below), 0);
	assert_int_equal(slab_group_close(g), -EBUSY);
	assert_int_equal(slab_group_close(below), 0);
	assert_int_equal(slab_group_close(g), 0);
	close_slabs(s, t);
}

/* In a process of its own: it does not survive that. */
static void expect_abort(void (*crime)(struct slab_thread *t))
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct slab_thread *t;
		struct slabs *s;

		signal(SIGABRT, SIG_DFL);
		if (!freopen("/dev/null", "w", stderr) ||
		    slab_open(&s, &(struct slab_config){ .size = 2 * MIB, .acct = SLAB_ACCT_OBJCG }) ||
		    slab_thread_open(s, &t))
			_exit(9);
		crime(t);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void free_twice(struct slab_thread *t)
{
	void *object;

	if (try_alloc(t, NULL, 64, in_seconds(LONG_S), &object))
		_exit(9);
	slab_free(t, object);
	slab_free(t, object);
}

static void free_what_is_none(struct slab_thread *t)
{
	int none;

	slab_free(t, &none);
}

static void a_wrong_free_ends_the_program(void **state)
{
	(void)state;
	expect_abort(free_twice);
	expect_abort(free_what_is_none);
}

/* --- Groups --- */

static void a_group_is_charged_for_its_objects(void **state)
{
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 8 * MIB, .acct = SLAB_ACCT_OBJCG }, &t);
	struct slab_group *parent, *g;
	void *object[1000];

	(void)state;
	assert_int_equal(slab_group_open(s, NULL, 0, &parent), 0);
	assert_int_equal(slab_group_open(s, parent, 0, &g), 0);
	for (unsigned i = 0; i < 1000; i++)
		object[i] = must_alloc(t, g, 200);
	/* With the owner's entry in the vector; the kernel's is a pointer, ours four bytes. */
	assert_int_equal(slab_group_bytes(g), 1000 * (slab_class_size(200) + 4));
	assert_int_equal(slab_group_bytes(parent), 0);
	assert_int_equal(slab_group_pages(g), (1000 * (slab_class_size(200) + 4) + 4095) / 4096);
	assert_int_equal(slab_group_pages(parent), slab_group_pages(g));
	for (unsigned i = 0; i < 1000; i++)
		slab_free(t, object[i]);
	assert_int_equal(slab_group_bytes(g), 0);
	assert_int_equal(slab_group_pages(parent), 0);
	assert_int_equal(slab_group_close(g), 0);
	assert_int_equal(slab_group_close(parent), 0);
	close_slabs(s, t);
}

/* `group` is where objects are made, `limited` it or its parent. */
static void expect_limit(enum slab_acct acct, bool limit_parent)
{
	enum { LIMIT = 64 * 4096, SIZE = 1024 };
	struct slab_thread *t, *other;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 8 * MIB, .acct = acct }, &t);
	struct slab_group *parent, *g;
	void *object[LIMIT / SIZE + 1];
	unsigned n = 0;
	int err;

	assert_int_equal(slab_group_open(s, NULL, limit_parent ? LIMIT : 0, &parent), 0);
	assert_int_equal(slab_group_open(s, parent, limit_parent ? 0 : LIMIT, &g), 0);
	/* A stock or a magazine that another thread has is no reason to fail. */
	assert_int_equal(slab_thread_open(s, &other), 0);
	slab_free(other, must_alloc(other, g, SIZE));
	while (!(err = try_alloc(t, g, SIZE, in_seconds(LONG_S), &object[n])))
		assert_in_range(++n, 1, LIMIT / SIZE);
	assert_int_equal(err, -ENOMEM);
	assert_true(n >= LIMIT / (SIZE + 4) - (acct == SLAB_ACCT_PER_GROUP ? 8 : 0));
	assert_true(slab_group_pages(parent) <= LIMIT / 4096);
	assert_int_equal(try_alloc(t, NULL, SIZE, in_seconds(LONG_S), &object[n]), 0);
	slab_free(t, object[n]);
	slab_free(t, object[--n]);
	assert_int_equal(try_alloc(t, g, SIZE, in_seconds(LONG_S), &object[n]), 0);
	for (unsigned i = 0; i <= n; i++)
		slab_free(t, object[i]);
	slab_thread_close(other);
	slab_trim(s);
	assert_int_equal(slab_group_pages(parent), 0);
	assert_int_equal(slab_group_close(g), 0);
	assert_int_equal(slab_group_close(parent), 0);
	close_slabs(s, t);
}

static void a_limit_is_met_and_nothing_is_lost(void **state)
{
	(void)state;
	expect_limit(SLAB_ACCT_OBJCG, false);
	expect_limit(SLAB_ACCT_OBJCG, true);
	expect_limit(SLAB_ACCT_PER_GROUP, false);
	expect_limit(SLAB_ACCT_PER_GROUP, true);
}

/* What a group leaves behind is its parent's. Returns the objects that were looked at for it. */
static uint64_t leave_objects_behind(enum slab_acct acct, enum slab_reparent reparent)
{
	enum { N = 5000 };
	static void *object[N];
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 16 * MIB, .acct = acct, .reparent = reparent }, &t);
	struct slab_group *top, *g, *below;
	uint64_t looked_at;

	assert_int_equal(slab_group_open(s, NULL, 0, &top), 0);
	assert_int_equal(slab_group_open(s, top, 0, &g), 0);
	assert_int_equal(slab_group_open(s, g, 0, &below), 0);
	for (unsigned i = 0; i < N; i++)
		object[i] = must_alloc(t, i % 2 ? below : g, 100);
	assert_int_equal(slab_group_close(below), 0);
	if (acct == SLAB_ACCT_OBJCG)
		assert_int_equal(slab_group_bytes(g), N * (slab_class_size(100) + 4));
	assert_int_equal(slab_group_close(g), 0);
	if (acct == SLAB_ACCT_OBJCG)
		assert_int_equal(slab_group_bytes(top), N * (slab_class_size(100) + 4));
	assert_true(slab_group_bytes(top) >= N * slab_class_size(100));
	looked_at = counters_of(s).walk_objs;
	for (unsigned i = 0; i < N; i++)
		slab_free(t, object[i]);
	slab_trim(s);
	assert_int_equal(slab_group_bytes(top), 0);
	assert_int_equal(slab_group_pages(top), 0);
	assert_int_equal(slab_group_close(top), 0);
	assert_int_equal(counters_of(s).reparents, 3);
	close_slabs(s, t);
	return looked_at;
}

static void a_pointer_reparents_all_objects_and_a_walk_looks_at_each(void **state)
{
	(void)state;
	assert_int_equal(leave_objects_behind(SLAB_ACCT_OBJCG, SLAB_REPARENT_POINTER), 0);
	/* Two groups went, and each time all of both. */
	assert_true(leave_objects_behind(SLAB_ACCT_OBJCG, SLAB_REPARENT_WALK) >= 10000);
	assert_true(leave_objects_behind(SLAB_ACCT_PER_GROUP, SLAB_REPARENT_POINTER) >= 5000);
}

static void the_ids_of_dead_groups_come_back(void **state)
{
	struct slab_config config = { .size = 2 * MIB, .acct = SLAB_ACCT_OBJCG, .groups = 3 };
	struct slab_thread *t;
	struct slabs *s = open_slabs(&config, &t);
	struct slab_group *g, *h, *more;
	void *object;

	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(slab_group_open(s, NULL, 0, &g), 0);
		object = must_alloc(t, g, 64);
		assert_int_equal(slab_group_close(g), 0);
		assert_int_equal(slab_group_open(s, NULL, 0, &h), 0);
		/* The root, the dead one and this. */
		assert_int_equal(slab_group_open(s, NULL, 0, &more), -ENOSPC);
		slab_free(t, object);
		assert_int_equal(slab_group_open(s, NULL, 0, &more), 0);
		assert_int_equal(slab_group_close(h), 0);
		assert_int_equal(slab_group_close(more), 0);
	}
	close_slabs(s, t);
}

/* --- How full slabs are: many groups, each with few objects of each size --- */

enum { SPARSE_GROUPS = 200, SPARSE_EACH = 50 };

static double utilisation(struct slabs *s, uint64_t live_bytes)
{
	struct slab_counters c;

	slab_trim(s);
	c = counters_of(s);
	return (double)live_bytes / (double)(c.slab_bytes + c.meta_bytes);
}

struct sparse {
	struct slab_thread *t;
	struct slab_group *g[SPARSE_GROUPS];
	struct {
		void *object;
		size_t size;
	} o[SPARSE_GROUPS * SPARSE_EACH];
	uint64_t random, live;
};

static void sparse_alloc(struct sparse *p, unsigned i)
{
	p->o[i].size = sparse_sizes[random_next(&p->random) % SPARSE_SIZES];
	p->o[i].object = must_alloc(p->t, p->g[i / SPARSE_EACH], p->o[i].size);
	p->live += p->o[i].size;
}

static void sparse_free(struct sparse *p, unsigned i)
{
	slab_free(p->t, p->o[i].object);
	p->o[i].object = NULL;
	p->live -= p->o[i].size;
}

/* When all is there, and when nine tenths went and half came back. */
static void fill_sparsely(enum slab_acct acct, double *full, double *refilled)
{
	static struct sparse p;
	unsigned n = SPARSE_GROUPS * SPARSE_EACH;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 256 * MIB, .acct = acct }, &p.t);

	p.random = 1;
	p.live = 0;
	for (unsigned i = 0; i < SPARSE_GROUPS; i++)
		assert_int_equal(slab_group_open(s, NULL, 0, &p.g[i]), 0);
	for (unsigned i = 0; i < n; i++)
		sparse_alloc(&p, i);
	*full = utilisation(s, p.live);
	for (unsigned i = 0; i < n; i++)
		if (random_next(&p.random) % 10)
			sparse_free(&p, i);
	slab_trim(s);
	for (unsigned i = 0; i < n; i++)
		if (!p.o[i].object && random_next(&p.random) % 9 < 4)
			sparse_alloc(&p, i);
	*refilled = utilisation(s, p.live);
	for (unsigned i = 0; i < n; i++)
		if (p.o[i].object)
			sparse_free(&p, i);
	for (unsigned i = 0; i < SPARSE_GROUPS; i++)
		assert_int_equal(slab_group_close(p.g[i]), 0);
	close_slabs(s, p.t);
}

static void groups_that_share_slabs_fill_them_and_slabs_of_their_own_stay_half_empty(void **state)
{
	double full, refilled;

	(void)state;
	fill_sparsely(SLAB_ACCT_OBJCG, &full, &refilled);
	print_message("shared: %.3f full, %.3f refilled to half\n", full, refilled);
	assert_true(full >= 0.94 && refilled >= 0.82);
	fill_sparsely(SLAB_ACCT_PER_GROUP, &full, &refilled);
	print_message("per group: %.3f full, %.3f refilled to half\n", full, refilled);
	assert_true(full < 0.55 && refilled < 0.40);
}

/* --- Growth --- */

struct growth {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool stuck;
	int err;
	_Atomic unsigned calls;
};

static int grow_hook(void *arg)
{
	struct growth *g = arg;
	int err;

	pthread_mutex_lock(&g->lock);
	g->calls++;
	while (g->stuck)
		pthread_cond_wait(&g->cond, &g->lock);
	err = g->err;
	pthread_mutex_unlock(&g->lock);
	return err;
}

static void set_growth(struct growth *g, bool stuck, int err)
{
	pthread_mutex_lock(&g->lock);
	g->stuck = stuck;
	g->err = err;
	pthread_cond_broadcast(&g->cond);
	pthread_mutex_unlock(&g->lock);
}

#define GROWTH                                                                                                         \
	{                                                                                                              \
		.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER                                    \
	}

static struct slab_config stuck_config(struct growth *g, enum slab_emerg emerg)
{
	return (struct slab_config){
		.size = 64 * MIB, .acct = SLAB_ACCT_OBJCG, .emerg = emerg, .grow_hook = grow_hook, .grow_arg = g
	};
}

static void a_growth_that_is_stuck_is_waited_for_once_and_then_emergency_objects_do(void **state)
{
	struct growth g = GROWTH;
	struct slab_config config = stuck_config(&g, SLAB_EMERG_RBTREE);
	struct slab_thread *t;
	struct slabs *s = open_slabs(&config, &t);
	struct slab_counters c;
	void *object[100];
	int64_t begin, took;

	(void)state;
	set_growth(&g, true, 0);
	begin = clock_ns();
	for (unsigned i = 0; i < 100; i++) {
		object[i] = must_alloc(t, NULL, 500);
		memset(object[i], (int)i, 500);
		assert_int_equal(slab_arena_of(s, object[i]), -ENOENT);
	}
	took = clock_ns() - begin;
	assert_in_range(took / NS_PER_MS, SLAB_EMERG_WAIT_MS, SLAB_EMERG_WAIT_MS * 20);
	c = counters_of(s);
	assert_int_equal(c.dlock, 1);
	assert_int_equal(c.emerg_cur, 100);
	clock_sleep_ms(SLAB_EMERG_WAIT_MS); /* the growth may have begun after the wait for it */
	/* When it ends all is as before; what is out goes back whenever it is freed. */
	set_growth(&g, false, 0);
	while (!counters_of(s).grows)
		clock_sleep_ms(1);
	slab_free(t, must_alloc(t, NULL, 500));
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(((unsigned char *)object[i])[499], i);
		slab_free(t, object[i]);
	}
	c = counters_of(s);
	assert_int_equal(c.emerg_cur, 0);
	assert_int_equal(c.emerg_max, 100);
	assert_int_equal(c.emerg_total, 100);
	assert_true(c.grow_ns_max >= SLAB_EMERG_WAIT_MS * NS_PER_MS);
	close_slabs(s, t);
}

static void without_emergency_objects_it_is_waited_for_until_the_deadline(void **state)
{
	struct growth g = GROWTH;
	struct slab_config config = stuck_config(&g, SLAB_EMERG_OFF);
	struct slab_thread *t;
	struct slabs *s = open_slabs(&config, &t);
	int64_t begin = clock_ns();
	void *object;

	(void)state;
	set_growth(&g, true, 0);
	assert_int_equal(try_alloc(t, NULL, 64, SLAB_NOWAIT, &object), -EAGAIN);
	assert_int_equal(try_alloc(t, NULL, 64, in_seconds(SHORT_S), &object), -ETIMEDOUT);
	assert_true(clock_ns() - begin >= SHORT_S * NS_PER_S);
	assert_int_equal(counters_of(s).emerg_total, 0);
	set_growth(&g, false, 0);
	slab_free(t, must_alloc(t, NULL, 64));
	close_slabs(s, t);
}

static void who_may_not_wait_gets_an_emergency_object_at_once(void **state)
{
	struct growth g = GROWTH;
	struct slab_config config = stuck_config(&g, SLAB_EMERG_LIST);
	struct slab_thread *t;
	struct slabs *s = open_slabs(&config, &t);
	int64_t begin;
	void *object;

	(void)state;
	set_growth(&g, true, 0);
	begin = clock_ns();
	assert_int_equal(try_alloc(t, NULL, 64, SLAB_NOWAIT, &object), 0);
	assert_true(clock_ns() - begin < SLAB_EMERG_WAIT_MS * NS_PER_MS);
	slab_free(t, object);
	set_growth(&g, false, 0);
	close_slabs(s, t);
}

/* Nodes looked at to free so many, the oldest first. */
static uint64_t emergency_steps(enum slab_emerg emerg, unsigned n)
{
	struct growth g = GROWTH;
	struct slab_config config = stuck_config(&g, emerg);
	struct slab_thread *t;
	struct slabs *s = open_slabs(&config, &t);
	void **object = calloc(n, sizeof(*object));
	uint64_t steps;

	set_growth(&g, true, 0);
	for (unsigned i = 0; i < n; i++)
		object[i] = must_alloc(t, NULL, 64);
	for (unsigned i = 0; i < n; i++)
		slab_free(t, object[i]);
	steps = counters_of(s).emerg_steps;
	set_growth(&g, false, 0);
	close_slabs(s, t);
	free(object);
	return steps;
}

static void the_tree_finds_an_emergency_object_in_a_few_steps_and_the_list_in_many(void **state)
{
	enum { N = 2000 };

	(void)state;
	assert_true(emergency_steps(SLAB_EMERG_RBTREE, N) <= N * 22);
	assert_true(emergency_steps(SLAB_EMERG_LIST, N) >= N * N / 2);
}

static void a_growth_that_fails_is_told_or_replaced(void **state)
{
	struct growth g = GROWTH;
	struct slab_config with = stuck_config(&g, SLAB_EMERG_RBTREE), without = stuck_config(&g, SLAB_EMERG_OFF);
	struct slab_thread *t;
	struct slabs *s = open_slabs(&without, &t);
	void *object;

	(void)state;
	set_growth(&g, false, -ENOMEM);
	assert_int_equal(try_alloc(t, NULL, 64, in_seconds(LONG_S), &object), -ENOMEM);
	close_slabs(s, t);
	s = open_slabs(&with, &t);
	object = must_alloc(t, NULL, 64);
	assert_int_equal(counters_of(s).emerg_cur, 1);
	slab_free(t, object);
	set_growth(&g, false, 0);
	close_slabs(s, t);
}

static void when_all_of_the_mapping_is_in_use_that_is_told(void **state)
{
	enum { N = 2 * MIB / SLAB_MAX_SIZE };
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 2 * MIB }, &t);
	void *object[N], *small;

	(void)state;
	for (unsigned i = 0; i < N; i++)
		object[i] = must_alloc(t, NULL, SLAB_MAX_SIZE);
	assert_int_equal(try_alloc(t, NULL, SLAB_MAX_SIZE, in_seconds(LONG_S), &small), -ENOMEM);
	assert_int_equal(try_alloc(t, NULL, 64, in_seconds(LONG_S), &small), -ENOMEM);
	for (unsigned i = 0; i < N; i++)
		slab_free(t, object[i]);
	/* Other sizes' empty slabs make room, once they lie in no magazine. */
	slab_drain(s);
	slab_free(t, must_alloc(t, NULL, 64));
	close_slabs(s, t);
}

/* --- Giving back --- */

static size_t resident(const void *from, size_t size)
{
	static unsigned char in[64 * MIB / 4096];
	size_t n = 0;

	assert_int_equal(mincore((void *)from, size, in), 0);
	for (size_t i = 0; i < size / 4096; i++)
		n += in[i] & 1;
	return n * 4096;
}

static void what_is_free_goes_back_to_the_system(void **state)
{
	enum { N = 8000 };
	static char *object[N];
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 32 * MIB }, &t);
	uint64_t bytes;
	char *base;

	(void)state;
	for (unsigned i = 0; i < N; i++)
		object[i] = must_alloc(t, NULL, 1024);
	base = (char *)((uintptr_t)object[0] & ~(SLAB_ARENA_BYTES - 1UL));
	assert_true(resident(base, 8 * MIB) >= 7 * MIB);
	for (unsigned i = 0; i < N; i++)
		slab_free(t, object[i]);
	bytes = slab_trim(s);
	assert_true(bytes >= N * 1024);
	assert_int_equal(resident(base, 8 * MIB), 0);
	assert_int_equal(counters_of(s).returned_bytes, bytes);
	assert_int_equal(counters_of(s).ready_bytes, 0);
	slab_free(t, must_alloc(t, NULL, 1024));
	close_slabs(s, t);
}

/* A table of objects of which some lie in the arena; who moves one looks it up here. */
struct movable {
	struct slab_thread *t;
	void *object[3000];
	unsigned n, refuse;
};

static int move_one(void *arg, void *object, size_t size)
{
	struct movable *m = arg;

	for (unsigned i = 0; i < m->n; i++) {
		void *to;

		if (m->object[i] != object)
			continue;
		if (m->refuse && !--m->refuse)
			return -EAGAIN;
		to = must_alloc(m->t, NULL, size);
		memcpy(to, object, size);
		slab_free(m->t, object);
		m->object[i] = to;
		return 0;
	}
	return -ENOENT;
}

static struct slabs *open_movable(struct movable *m)
{
	struct slab_config config = { .size = 16 * MIB, .acct = SLAB_ACCT_OBJCG };
	struct slabs *s = open_slabs(&config, &m->t);

	m->n = sizeof(m->object) / sizeof(*m->object);
	m->refuse = 0;
	for (unsigned i = 0; i < m->n; i++) {
		m->object[i] = must_alloc(m->t, NULL, 1000);
		memset(m->object[i], (int)i, 1000);
	}
	return s;
}

static void close_movable(struct slabs *s, struct movable *m)
{
	for (unsigned i = 0; i < m->n; i++) {
		assert_int_equal(((unsigned char *)m->object[i])[999], i & 255);
		slab_free(m->t, m->object[i]);
	}
	close_slabs(s, m->t);
}

static int take_first_arena(struct slabs *s, struct movable *m, enum slab_pcp pcp, int seconds)
{
	struct slab_offline how = { .deadline_ns = in_seconds(seconds), .pcp = pcp, .move = move_one, .arg = m };

	return slab_offline(s, (unsigned)slab_arena_of(s, m->object[0]), &how);
}

static void an_arena_is_emptied_and_comes_back(void **state)
{
	static struct movable m;
	struct slabs *s = open_movable(&m);
	unsigned arena = (unsigned)slab_arena_of(s, m.object[0]);
	char *base = (char *)((uintptr_t)m.object[0] & ~(SLAB_ARENA_BYTES - 1UL));

	(void)state;
	m.refuse = 5; /* one does not want to, the first time */
	assert_int_equal(take_first_arena(s, &m, SLAB_PCP_DISABLE, LONG_S), 0);
	assert_int_equal(resident(base, SLAB_ARENA_BYTES), 0);
	for (unsigned i = 0; i < m.n; i++)
		assert_int_not_equal(slab_arena_of(s, m.object[i]), arena);
	assert_true(counters_of(s).migrate_ok >= 1000 && counters_of(s).migrate_fail >= 1);
	assert_int_equal(slab_offline(s, arena, &(struct slab_offline){ .deadline_ns = in_seconds(1) }), -EINVAL);
	assert_int_equal(slab_online(s, arena), 0);
	assert_int_equal(slab_online(s, arena), -EINVAL);
	close_movable(s, &m);
}

static void magazines_that_are_not_emptied_again_hold_an_arena(void **state)
{
	static const struct {
		enum slab_pcp pcp;
		int outcome;
	} modes[] = {
		{ SLAB_PCP_NONE, -EBUSY },
		{ SLAB_PCP_DRAIN_ONCE, -EBUSY },
		{ SLAB_PCP_DRAIN_RETRY, 0 },
		{ SLAB_PCP_DISABLE, 0 },
	};
	static struct movable m;

	(void)state;
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		struct slabs *s = open_movable(&m);
		bool held = modes[i].outcome;

		/* What is moved is freed, into the magazine of who moves it. */
		assert_int_equal(take_first_arena(s, &m, modes[i].pcp, held ? SHORT_S : LONG_S), modes[i].outcome);
		assert_int_equal(counters_of(s).pcp_stuck > 0, held);
		close_movable(s, &m);
	}
}

static void an_arena_with_an_object_in_it_is_in_use_again_after_the_deadline(void **state)
{
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 2 * MIB }, &t);
	struct slab_offline how = { .deadline_ns = in_seconds(1) };
	void *object = must_alloc(t, NULL, 64), *more;

	(void)state;
	assert_int_equal(slab_offline(s, 0, &how), -EBUSY);
	/* It is the only one there is. */
	more = must_alloc(t, NULL, 3000);
	slab_free(t, more);
	slab_free(t, object);
	close_slabs(s, t);
}

static void *cancel_soon(void *arg)
{
	clock_sleep_ms(50);
	slab_offline_cancel(arg);
	return NULL;
}

static void an_offline_is_cancelled(void **state)
{
	struct slab_thread *t;
	struct slabs *s = open_slabs(&(struct slab_config){ .size = 2 * MIB }, &t);
	struct slab_offline how = { .deadline_ns = SLAB_FOREVER };
	void *object = must_alloc(t, NULL, 64);
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, cancel_soon, s), 0);
	assert_int_equal(slab_offline(s, 0, &how), -EINTR);
	pthread_join(thread, NULL);
	slab_free(t, object);
	close_slabs(s, t);
}

/* --- Many threads --- */

enum { THREADS = 3, SHARED = 512, ROUNDS = 20000 };

struct crowd {
	struct slabs *s;
	struct slab_group *top;
	_Atomic(void *)
		shared[SHARED]; /* objects that any thread may free; their first byte says what is in the rest */
	_Atomic bool over;
};

static void fill_object(void *object, size_t size, unsigned char what)
{
	memset(object, what, size);
	((uint16_t *)object)[1] = (uint16_t)size;
}

static void check_object(const void *object)
{
	const unsigned char *bytes = object;
	uint16_t size = ((const uint16_t *)object)[1];

	for (uint16_t i = 4; i < size; i++)
		if (bytes[i] != bytes[0])
			abort();
}

static void *be_one_of_many(void *arg)
{
	struct crowd *c = arg;
	uint64_t random = (uintptr_t)&random;
	struct slab_group *g = NULL;
	struct slab_thread *t;

	if (slab_thread_open(c->s, &t))
		abort();
	for (unsigned i = 0; i < ROUNDS; i++) {
		size_t size = 8 + random_next(&random) % 1000;
		void *object;

		if (i % 500 == 0) {
			if (g && slab_group_close(g))
				abort();
			if (slab_group_open(c->s, c->top, 0, &g))
				abort();
		}
		if (try_alloc(t, g, size, in_seconds(LONG_S), &object))
			abort();
		fill_object(object, size, (unsigned char)random_next(&random));
		object = atomic_exchange(&c->shared[random_next(&random) % SHARED], object);
		if (!object)
			continue;
		check_object(object);
		slab_free(t, object);
	}
	if (slab_group_close(g))
		abort();
	slab_thread_close(t);
	return NULL;
}

static void *disturb(void *arg)
{
	struct crowd *c = arg;
	unsigned arena = 0;

	while (!c->over) {
		struct slab_offline how = { .deadline_ns = clock_ns() + 20 * NS_PER_MS,
					    .pcp = (enum slab_pcp)(arena % 4) };

		arena = (arena + 1) % slab_arenas(c->s);
		if (!slab_offline(c->s, arena, &how) && slab_online(c->s, arena))
			abort();
		slab_trim(c->s);
		counters_of(c->s);
		clock_sleep_ms(1);
	}
	return NULL;
}

static void threads_do_as_they_like(enum slab_acct acct, enum slab_reparent reparent)
{
	static struct crowd c;
	struct slab_config config = { .size = 32 * MIB, .acct = acct, .reparent = reparent, .stock_pages = 2 };
	pthread_t thread[THREADS], disturber;
	struct slab_thread *t;

	memset(&c, 0, sizeof(c));
	c.s = open_slabs(&config, &t);
	assert_int_equal(slab_group_open(c.s, NULL, 0, &c.top), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, be_one_of_many, &c), 0);
	assert_int_equal(pthread_create(&disturber, NULL, disturb, &c), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	c.over = true;
	pthread_join(disturber, NULL);
	for (unsigned i = 0; i < SHARED; i++) {
		if (!c.shared[i])
			continue;
		check_object(c.shared[i]);
		slab_free(t, c.shared[i]);
	}
	slab_trim(c.s);
	assert_int_equal(slab_group_bytes(c.top), 0);
	assert_int_equal(slab_group_pages(c.top), 0);
	assert_int_equal(slab_group_close(c.top), 0);
	close_slabs(c.s, t);
}

static void threads_share_objects_while_all_is_taken_from_them(void **state)
{
	(void)state;
	threads_do_as_they_like(SLAB_ACCT_NONE, SLAB_REPARENT_POINTER);
	threads_do_as_they_like(SLAB_ACCT_OBJCG, SLAB_REPARENT_POINTER);
	threads_do_as_they_like(SLAB_ACCT_OBJCG, SLAB_REPARENT_WALK);
	threads_do_as_they_like(SLAB_ACCT_PER_GROUP, SLAB_REPARENT_WALK);
}

/* --- Against a plain model --- */

enum { MODEL_OBJECTS = 2000, MODEL_GROUPS = 10, MODEL_STEPS = 4000, MODEL_SEEDS = 40 };

struct model_object {
	unsigned char *at;
	size_t size;
	unsigned group; /* 0: the top */
	unsigned char what;
};

struct model {
	uint64_t random;
	struct slab_config config;
	struct slabs *s;
	struct slab_thread *t[2]; /* of two threads that take turns */
	struct slab_group *group[MODEL_GROUPS];
	unsigned parent[MODEL_GROUPS];
	struct model_object o[MODEL_OBJECTS];
	int offline; /* the arena that is, or -1 */
};

static unsigned pick(struct model *m, unsigned n)
{
	return (unsigned)(random_next(&m->random) % n);
}

static struct slab_thread *any_thread(struct model *m)
{
	return m->t[pick(m, 2)];
}

static int fail_at_times(void *arg)
{
	struct model *m = arg;
	static _Atomic unsigned n;

	(void)m;
	return ++n % 3 ? 0 : -ENOMEM;
}

static void model_check_object(const struct model_object *o)
{
	for (size_t i = 0; i < o->size; i++)
		assert_int_equal(o->at[i], o->what);
}

static void model_alloc(struct model *m, struct model_object *o)
{
	unsigned g = pick(m, MODEL_GROUPS);
	void *object;
	int err;

	if (!m->group[g])
		g = 0;
	o->size = 1 + pick(m, pick(m, 4) ? 300 : SLAB_MAX_SIZE);
	err = try_alloc(any_thread(m), m->group[g], o->size, in_seconds(LONG_S), &object);
	if (err) {
		assert_int_equal(err, -ENOMEM);
		return;
	}
	o->at = object;
	o->group = g;
	o->what = (unsigned char)pick(m, 256);
	memset(o->at, o->what, o->size);
}

static void model_free(struct model *m, struct model_object *o)
{
	model_check_object(o);
	slab_free(any_thread(m), o->at);
	o->at = NULL;
}

static void model_open_group(struct model *m)
{
	unsigned g = 1 + pick(m, MODEL_GROUPS - 1), parent = pick(m, MODEL_GROUPS);

	if (m->group[g] || !m->group[parent])
		return;
	assert_int_equal(slab_group_open(m->s, m->group[parent], pick(m, 2) ? 0 : 40 * 4096, &m->group[g]), 0);
	m->parent[g] = parent;
}

static void model_close_group(struct model *m)
{
	unsigned g = 1 + pick(m, MODEL_GROUPS - 1);
	bool parent = false;

	if (!m->group[g])
		return;
	for (unsigned i = 1; i < MODEL_GROUPS; i++)
		parent |= m->group[i] && m->parent[i] == g;
	assert_int_equal(slab_group_close(m->group[g]), parent ? -EBUSY : 0);
	if (parent)
		return;
	m->group[g] = NULL;
	for (unsigned i = 0; i < MODEL_OBJECTS; i++)
		if (m->o[i].at && m->o[i].group == g)
			m->o[i].group = m->parent[g];
}

/* Its owner stays who he is. */
static int model_move(void *arg, void *object, size_t size)
{
	struct model *m = arg;

	(void)size;
	for (unsigned i = 0; i < MODEL_OBJECTS; i++) {
		struct model_object *o = &m->o[i];
		void *to;

		if (o->at != object)
			continue;
		if (try_alloc(m->t[0], m->group[o->group], o->size, in_seconds(LONG_S), &to))
			return -ENOMEM;
		memcpy(to, object, o->size);
		slab_free(m->t[0], object);
		o->at = to;
		return 0;
	}
	return -ENOENT;
}

static void model_offline(struct model *m)
{
	struct slab_offline how = { .deadline_ns = clock_ns() + 3 * NS_PER_MS,
				    .pcp = (enum slab_pcp)pick(m, 4),
				    .move = pick(m, 4) ? model_move : NULL,
				    .arg = m };
	unsigned arena = pick(m, slab_arenas(m->s));
	int err;

	if (m->offline >= 0) {
		assert_int_equal(slab_online(m->s, (unsigned)m->offline), 0);
		m->offline = -1;
	}
	err = slab_offline(m->s, arena, &how);
	assert_true(!err || err == -EBUSY);
	if (!err)
		m->offline = (int)arena;
}

static void model_check_charges(struct model *m)
{
	uint64_t bytes[MODEL_GROUPS] = { 0 };

	for (unsigned i = 0; i < MODEL_OBJECTS; i++) {
		if (!m->o[i].at)
			continue;
		bytes[m->o[i].group] += slab_class_size(m->o[i].size) + 4;
		if (m->offline >= 0)
			assert_int_not_equal(slab_arena_of(m->s, m->o[i].at), m->offline);
	}
	for (unsigned g = 0; g < MODEL_GROUPS && m->config.acct == SLAB_ACCT_OBJCG; g++)
		if (m->group[g])
			assert_int_equal(slab_group_bytes(m->group[g]), bytes[g]);
}

static void model_step(struct model *m)
{
	struct model_object *o = &m->o[pick(m, MODEL_OBJECTS)];
	unsigned what = pick(m, 1000);

	if (what < 970 && o->at)
		model_free(m, o);
	else if (what < 970)
		model_alloc(m, o);
	else if (what < 980)
		model_open_group(m);
	else if (what < 986)
		model_close_group(m);
	else if (what < 990)
		model_offline(m);
	else if (what < 993)
		slab_trim(m->s);
	else if (what < 996)
		slab_drain(m->s);
	else
		model_check_charges(m);
}

static void model_end(struct model *m)
{
	struct slab_counters c;

	for (unsigned i = 0; i < MODEL_OBJECTS; i++)
		if (m->o[i].at)
			model_free(m, &m->o[i]);
	slab_trim(m->s);
	c = counters_of(m->s);
	assert_int_equal(c.allocs, c.frees);
	assert_int_equal(c.slabs, 0);
	assert_int_equal(c.slab_bytes, 0);
	assert_int_equal(c.emerg_cur, 0);
	assert_int_equal(c.ready_bytes, 0);
	for (unsigned left = 1; left;) {
		left = 0;
		for (unsigned g = 1; g < MODEL_GROUPS; g++) {
			if (!m->group[g])
				continue;
			assert_int_equal(slab_group_pages(m->group[g]), 0);
			if (slab_group_close(m->group[g]))
				left++;
			else
				m->group[g] = NULL;
		}
	}
	assert_int_equal(slab_group_close(m->group[0]), 0);
	slab_thread_close(m->t[1]);
	close_slabs(m->s, m->t[0]);
}

static void run_model(uint64_t seed)
{
	static struct model m;

	memset(&m, 0, sizeof(m));
	m.random = seed * 2654435761;
	m.offline = -1;
	m.config = (struct slab_config){ .size = 8 * MIB,
					 .acct = (enum slab_acct)pick(&m, 3),
					 .reparent = (enum slab_reparent)pick(&m, 2),
					 .emerg = (enum slab_emerg)pick(&m, 3),
					 .stock_pages = 1 + pick(&m, 64),
					 .pretouch = pick(&m, 2) ? 0 : MIB,
					 .grow_hook = pick(&m, 2) ? fail_at_times : NULL,
					 .grow_arg = &m };
	m.s = open_slabs(&m.config, &m.t[0]);
	assert_int_equal(slab_thread_open(m.s, &m.t[1]), 0);
	assert_int_equal(slab_group_open(m.s, NULL, 0, &m.group[0]), 0);
	for (unsigned i = 0; i < MODEL_STEPS; i++)
		model_step(&m);
	model_end(&m);
}

static void random_operations_agree_with_a_plain_model(void **state)
{
	const char *seeds = getenv("HEADROOM_SEEDS");
	uint64_t n = seeds ? strtoull(seeds, NULL, 10) : MODEL_SEEDS;

	(void)state;
	for (uint64_t seed = 1; seed <= n; seed++) {
		run_model(seed);
		if (seed % 1000 == 0)
			print_message("%llu seeds\n", (unsigned long long)seed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(objects_lie_apart_and_keep_what_was_written),
		cmocka_unit_test(a_class_wastes_no_more_than_a_fifth),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(nothing_is_closed_that_is_in_use),
		cmocka_unit_test(a_wrong_free_ends_the_program),
		cmocka_unit_test(a_group_is_charged_for_its_objects),
		cmocka_unit_test(a_limit_is_met_and_nothing_is_lost),
		cmocka_unit_test(a_pointer_reparents_all_objects_and_a_walk_looks_at_each),
		cmocka_unit_test(the_ids_of_dead_groups_come_back),
		cmocka_unit_test(groups_that_share_slabs_fill_them_and_slabs_of_their_own_stay_half_empty),
		cmocka_unit_test(a_growth_that_is_stuck_is_waited_for_once_and_then_emergency_objects_do),
		cmocka_unit_test(without_emergency_objects_it_is_waited_for_until_the_deadline),
		cmocka_unit_test(who_may_not_wait_gets_an_emergency_object_at_once),
		cmocka_unit_test(the_tree_finds_an_emergency_object_in_a_few_steps_and_the_list_in_many),
		cmocka_unit_test(a_growth_that_fails_is_told_or_replaced),
		cmocka_unit_test(when_all_of_the_mapping_is_in_use_that_is_told),
		cmocka_unit_test(what_is_free_goes_back_to_the_system),
		cmocka_unit_test(an_arena_is_emptied_and_comes_back),
		cmocka_unit_test(magazines_that_are_not_emptied_again_hold_an_arena),
		cmocka_unit_test(an_arena_with_an_object_in_it_is_in_use_again_after_the_deadline),
		cmocka_unit_test(an_offline_is_cancelled),
		cmocka_unit_test(threads_share_objects_while_all_is_taken_from_them),
		cmocka_unit_test(random_operations_agree_with_a_plain_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
