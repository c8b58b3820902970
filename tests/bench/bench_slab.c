// SPDX-License-Identifier: MIT
/*
 * What bench_engine.py measures allocators with; each role prints one line of JSON. Every object is written to once,
 * as whoever allocates one does.
 *
 *   lifo     one object, and away with it
 *   batch    1000, and then the same 1000 in the same order
 *   random   one of 8192, at random, replaced by a new one
 *   cross    allocated by one thread, freed by another
 *   sparse   how much of the memory taken is objects: 200 groups with 50 objects each, of twenty sizes; then nine
 *            tenths of them are freed, and then half are there again
 *
 * `from=malloc` is whatever malloc() is: glibc's, or that of a library loaded in front of it. `from=list` is the least
 * that is possible: a list of free objects of one size, no owner, one thread. The caches of a group each, as arenas of
 * jemalloc and heaps of mimalloc, if they are loaded, are for `sparse` only.
 */
#include "base/clock.h"
#include "base/opts.h"
#include "engine/slab.h"
#include "workloads/common/sparse.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH	 1000
#define REPLACED 8192
#define RING	 1024
#define BYTES	 (256UL << 20) /* of the mapping of the slabs, and of the list at most */
#define GROUPS	 200
#define EACH	 50

enum from {
	FROM_SLAB,
	FROM_NO_OWNERS,
	FROM_PER_GROUP,
	FROM_MALLOC,
	FROM_LIST,
	FROM_JEMALLOC_ARENAS,
	FROM_MIMALLOC_HEAPS
};

static struct options {
	uint64_t size, groups, ms, seed;
	unsigned from;
} o;

static const char *const froms[] = { "slab", "no-owners",	"per-group",	  "malloc",
				     "list", "jemalloc-arenas", "mimalloc-heaps", NULL };

static const struct opt table[] = {
	{ "from", OPT_ENUM, offsetof(struct options, from), "slab", .choices = froms, .help = "what is measured" },
	{ "size", OPT_U64, offsetof(struct options, size), "64", 8, SLAB_MAX_SIZE, .help = "bytes of an object" },
	{ "groups", OPT_U64, offsetof(struct options, groups), "8", 1, GROUPS, .help = "owners, in turn" },
	{ "ms", OPT_U64, offsetof(struct options, ms), "150", 1, 60000, .help = "it is done again for so long" },
	{ "seed", OPT_U64, offsetof(struct options, seed), "1", 1, UINT64_MAX, .help = "of what is random" },
	{ 0 },
};

static struct slabs *slabs;
static struct slab_thread *thread;
static struct slab_group *group[GROUPS];

static _Noreturn void die(const char *what, int err)
{
	fprintf(stderr, "bench_slab: %s: %s\n", what, strerror(err < 0 ? -err : err));
	exit(1);
}

static void check(int err, const char *what)
{
	if (err < 0)
		die(what, err);
}

static uint32_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (uint32_t)(*state >> 32);
}

/* --- The allocators; `i` tells whose the object is --- */

struct allocator {
	void *(*alloc)(size_t size, uint64_t i);
	void (*free)(void *object);
};

static inline void *from_slab(size_t size, uint64_t i)
{
	return slab_alloc(thread, group[i & (o.groups - 1)], size, SLAB_FOREVER);
}

static inline void to_slab(void *object)
{
	slab_free(thread, object);
}

static inline void *from_malloc(size_t size, uint64_t i)
{
	void *object = malloc(size);

	(void)i;
	if (!object)
		die("malloc", ENOMEM);
	return object;
}

static void *list;

static __attribute__((noinline)) void *from_list(size_t size, uint64_t i)
{
	void *object = list;

	(void)size;
	(void)i;
	list = *(void **)object;
	return object;
}

static __attribute__((noinline)) void to_list(void *object)
{
	*(void **)object = list;
	list = object;
}

static void open_slabs(enum slab_acct acct)
{
	struct slab_config config = { .size = BYTES, .acct = acct };

	check(slab_open(&slabs, &config), "slab_open");
	check(slab_thread_open(slabs, &thread), "slab_thread_open");
	for (uint64_t i = 0; i < o.groups; i++)
		check(slab_group_open(slabs, NULL, 0, &group[i]), "slab_group_open");
}

static void fill_list(void)
{
	char *memory = aligned_alloc(4096, (size_t)REPLACED * SLAB_MAX_SIZE);

	if (!memory)
		die("memory", ENOMEM);
	for (size_t i = REPLACED; i-- > 0;)
		to_list(memory + i * o.size);
}

/* --- Roles --- */

/* Inlined for each allocator, so that none is called through a pointer. */
#define INLINE static inline __attribute__((always_inline))

INLINE void use(void *object, uint64_t i)
{
	*(volatile uint64_t *)object = i;
}

INLINE uint64_t lifo(struct allocator a)
{
	for (uint64_t i = 0; i < BATCH; i++) {
		void *object = a.alloc(o.size, i);

		use(object, i);
		a.free(object);
	}
	return BATCH;
}

INLINE uint64_t batch(struct allocator a)
{
	static void *object[BATCH];

	for (uint64_t i = 0; i < BATCH; i++) {
		object[i] = a.alloc(o.size, i);
		use(object[i], i);
	}
	for (uint64_t i = 0; i < BATCH; i++)
		a.free(object[i]);
	return BATCH;
}

INLINE uint64_t replace(struct allocator a)
{
	static void *object[REPLACED];
	static uint64_t random;

	if (!random) {
		random = o.seed;
		/* One less, for a list that has no more. */
		for (uint64_t i = 0; i < REPLACED; i++)
			object[i] = a.alloc(o.size, i);
	}
	for (uint64_t i = 0; i < BATCH; i++) {
		uint32_t at = next_random(&random) % REPLACED;

		a.free(object[at]);
		object[at] = a.alloc(o.size, i);
		use(object[at], i);
	}
	return BATCH;
}

/* Objects on their way from one thread to the other. */
static struct {
	_Alignas(64) _Atomic uint64_t put;
	_Alignas(64) _Atomic uint64_t got;
	_Atomic bool stop;
	void *object[RING];
} ring;

INLINE void free_what_comes(struct allocator a)
{
	for (uint64_t i = 0; !atomic_load_explicit(&ring.stop, memory_order_acquire); i++) {
		while (atomic_load_explicit(&ring.put, memory_order_acquire) == i)
			if (atomic_load(&ring.stop))
				return;
		a.free(ring.object[i % RING]);
		atomic_store_explicit(&ring.got, i + 1, memory_order_release);
	}
}

static struct slab_thread *other;

static inline void other_to_slab(void *object)
{
	slab_free(other, object);
}

static void *free_slab(void *arg)
{
	(void)arg;
	free_what_comes((struct allocator){ NULL, other_to_slab });
	return NULL;
}

static void *free_malloc(void *arg)
{
	(void)arg;
	free_what_comes((struct allocator){ NULL, free });
	return NULL;
}

INLINE uint64_t cross(struct allocator a)
{
	static uint64_t n;

	for (uint64_t i = 0; i < BATCH; i++, n++) {
		void *object = a.alloc(o.size, i);

		use(object, i);
		while (n - atomic_load_explicit(&ring.got, memory_order_acquire) == RING)
			;
		ring.object[n % RING] = object;
		atomic_store_explicit(&ring.put, n + 1, memory_order_release);
	}
	return BATCH;
}

enum what { LIFO, BATCHES, RANDOM, CROSS, SPARSE };

INLINE uint64_t once(enum what what, struct allocator a)
{
	switch (what) {
	case LIFO:
		return lifo(a);
	case BATCHES:
		return batch(a);
	case RANDOM:
		return replace(a);
	default:
		return cross(a);
	}
}

INLINE void time_it(enum what what, struct allocator a)
{
	uint64_t n = 0;
	int64_t from, until;

	/* What is taken the first time is no part of it. */
	for (unsigned i = 0; i < 20; i++)
		once(what, a);
	from = clock_ns();
	until = from + (int64_t)o.ms * NS_PER_MS;
	do {
		for (unsigned i = 0; i < 20; i++)
			n += once(what, a);
	} while (clock_ns() < until);
	printf("{\"ns\": %.3f, \"n\": %" PRIu64 "}\n", (double)(clock_ns() - from) / (double)n, n);
}

INLINE void time_from(enum what what, struct allocator a)
{
	switch (what) {
	case LIFO:
		time_it(LIFO, a);
		break;
	case BATCHES:
		time_it(BATCHES, a);
		break;
	case RANDOM:
		time_it(RANDOM, a);
		break;
	default:
		time_it(CROSS, a);
	}
}

static int speed(enum what what)
{
	void *(*freer)(void *) = o.from <= FROM_NO_OWNERS ? free_slab : free_malloc;
	pthread_t t;

	if (o.groups & (o.groups - 1) || o.from == FROM_PER_GROUP || o.from > FROM_LIST ||
	    (what == CROSS && o.from == FROM_LIST))
		die("these options together", EINVAL);
	if (o.from <= FROM_NO_OWNERS)
		open_slabs(o.from == FROM_SLAB ? SLAB_ACCT_OBJCG : SLAB_ACCT_NONE);
	else if (o.from == FROM_LIST)
		fill_list();
	if (what == CROSS && o.from <= FROM_NO_OWNERS)
		check(slab_thread_open(slabs, &other), "slab_thread_open");
	if (what == CROSS && pthread_create(&t, NULL, freer, NULL))
		die("thread", EAGAIN);
	if (o.from <= FROM_NO_OWNERS)
		time_from(what, (struct allocator){ from_slab, to_slab });
	else if (o.from == FROM_MALLOC)
		time_from(what, (struct allocator){ from_malloc, free });
	else
		time_from(what, (struct allocator){ from_list, to_list });
	if (what == CROSS) {
		atomic_store(&ring.stop, true);
		pthread_join(t, NULL);
	}
	return 0;
}

/* --- How much of the memory is objects --- */

/* What a library that is loaded in front has; NULL: it is not. */
static void *of_library(const char *name)
{
	return dlsym(RTLD_DEFAULT, name);
}

static void *need(const char *name)
{
	void *function = of_library(name);

	if (!function)
		die(name, ENOSYS);
	return function;
}

static void (*free_one)(void *object);
static int (*je_ctl)(const char *name, void *old, size_t *old_len, void *new, size_t new_len);
static void *(*je_alloc)(size_t size, int flags);
static void *(*mi_alloc)(void *heap, size_t size);
static unsigned arena[GROUPS];
static void *heap[GROUPS];

static void open_allocator(void)
{
	void *(*heap_new)(void);
	size_t len = sizeof(*arena);

	free_one = free;
	if (o.from <= FROM_PER_GROUP) {
		static const enum slab_acct acct[] = { SLAB_ACCT_OBJCG, SLAB_ACCT_NONE, SLAB_ACCT_PER_GROUP };

		free_one = to_slab;
		open_slabs(acct[o.from]);
	}
	if (o.from == FROM_JEMALLOC_ARENAS) {
		*(void **)&je_ctl = need("mallctl");
		*(void **)&je_alloc = need("mallocx");
		for (uint64_t i = 0; i < o.groups; i++)
			check(-je_ctl("arenas.create", &arena[i], &len, NULL, 0), "arenas.create");
	}
	if (o.from == FROM_MIMALLOC_HEAPS) {
		*(void **)&heap_new = need("mi_heap_new");
		*(void **)&mi_alloc = need("mi_heap_malloc");
		for (uint64_t i = 0; i < o.groups; i++)
			heap[i] = heap_new();
	}
}

static void *alloc_for(uint64_t g, size_t size)
{
	switch (o.from) {
	case FROM_MALLOC:
		return from_malloc(size, g);
	case FROM_JEMALLOC_ARENAS:
		/* MALLOCX_ARENA() and MALLOCX_TCACHE_NONE, or what is freed lies in the thread's own. */
		return je_alloc(size, (int)(arena[g] + 1) << 20 | 1 << 8);
	case FROM_MIMALLOC_HEAPS:
		return mi_alloc(heap[g], size);
	default:
		return slab_alloc(thread, group[g], size, SLAB_FOREVER);
	}
}

/* All that is in no use, back to the system. */
static void purge(void)
{
	void (*release)(void), (*collect)(bool), (*flush)(const char *, void *, size_t *, void *, size_t);

	*(void **)&release = of_library("MallocExtension_ReleaseFreeMemory");
	*(void **)&collect = of_library("mi_collect");
	*(void **)&flush = of_library("mallctl");
	if (slabs)
		slab_trim(slabs);
	if (release)
		release();
	if (collect)
		collect(true);
	if (flush) {
		flush("thread.tcache.flush", NULL, NULL, NULL, 0);
		flush("arena.4096.purge", NULL, NULL, NULL, 0); /* MALLCTL_ARENAS_ALL */
	}
	if (!release && !collect && !flush)
		malloc_trim(0);
}

static uint64_t resident_bytes(void)
{
	unsigned long size, pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (!f || fscanf(f, "%lu %lu", &size, &pages) != 2)
		die("/proc/self/statm", EIO);
	fclose(f);
	return pages * 4096;
}

static struct {
	void *object;
	size_t size;
} sparse_object[GROUPS * EACH];

static uint64_t live, base;

static double utilisation(void)
{
	purge();
	return (double)live / (double)(resident_bytes() - base);
}

static void put_sparse(uint64_t i, uint64_t *random)
{
	size_t size = sparse_sizes[next_random(random) % SPARSE_SIZES];

	sparse_object[i].size = size;
	sparse_object[i].object = alloc_for(i / EACH, size);
	memset(sparse_object[i].object, 1, size);
	live += size;
}

static void drop_sparse(uint64_t i)
{
	free_one(sparse_object[i].object);
	sparse_object[i].object = NULL;
	live -= sparse_object[i].size;
}

static int sparse(void)
{
	uint64_t random = o.seed, n = GROUPS * EACH;
	double full, dropped;

	o.groups = GROUPS;
	memset(sparse_object, 1, sizeof(sparse_object)); /* it is there, and no part of what is measured */
	open_allocator();
	utilisation();
	base = resident_bytes();
	for (uint64_t i = 0; i < n; i++)
		put_sparse(i, &random);
	full = utilisation();
	for (uint64_t i = 0; i < n; i++)
		if (next_random(&random) % 10)
			drop_sparse(i);
	dropped = utilisation();
	for (uint64_t i = 0; i < n; i++)
		if (!sparse_object[i].object && next_random(&random) % 9 < 4)
			put_sparse(i, &random);
	printf("{\"full\": %.4f, \"dropped\": %.4f, \"refilled\": %.4f}\n", full, dropped, utilisation());
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const roles[] = { "lifo", "batch", "random", "cross", "sparse" };
	char name[32], err[256];

	opts_defaults(table, &o);
	for (int i = 2; i < argc; i++) {
		size_t n = strcspn(argv[i], "=");

		snprintf(name, sizeof(name), "%.*s", (int)n, argv[i]);
		if (opts_set(table, &o, name, argv[i][n] ? argv[i] + n + 1 : "", err, sizeof(err))) {
			fprintf(stderr, "bench_slab: %s\n", err);
			return 2;
		}
	}
	for (unsigned i = 0; argc > 1 && i < sizeof(roles) / sizeof(*roles); i++)
		if (strcmp(argv[1], roles[i]) == 0)
			return i == SPARSE ? sparse() : speed((enum what)i);
	fprintf(stderr, "usage: bench_slab lifo|batch|random|cross|sparse [OPTION=VALUE...]\n");
	return 2;
}
