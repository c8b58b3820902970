// SPDX-License-Identifier: MIT
/*
 * Inside of slab*.c. Locks, in the order in which they are taken:
 *   offline_lock -> threads_lock -> a thread's lock -> a cache's lock -> page_lock, group_lock
 * grow_lock and emerg_lock come last. Who stops a thread holds none but the first two: the thread may be about to take
 * the others.
 */
#ifndef HEADROOM_ENGINE_SLAB_INT_H
#define HEADROOM_ENGINE_SLAB_INT_H

#include "engine/addrtree.h"
#include "engine/counter.h"
#include "engine/slab.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#define PAGE_BYTES  4096U
#define ARENA_PAGES (SLAB_ARENA_BYTES / PAGE_BYTES)
#define ARENA_WORDS (ARENA_PAGES / 64)
#define CLASSES	    25
#define STOCKS	    16 /* groups a thread has a stock of at a time; a power of two */
#define ROOT_ID	    1  /* of the root group's objects; 0 in a vector: the object is free */
#define OWNER_BYTES ((uint32_t)sizeof(uint32_t))

/* One slab: guarded by its cache's lock, but for an object's owner, which belongs to whoever has the object. */
struct slab {
	char *base;
	uint64_t free; /* bit n: object n lies here, and not in a magazine or with a user */
	LIST_ENTRY(slab) at;
	uint32_t reciprocal; /* of the size of its objects, times 2^32 */
	uint32_t cache;
	uint8_t pages, objects;
	bool aside;	  /* in the cache's list of that name */
	uint32_t owner[]; /* SLAB_ACCT_OBJCG; else not there */
};

LIST_HEAD(slab_list, slab);

struct slab_cache {
	pthread_mutex_t lock;
	uint32_t index; /* in the table of caches */
	uint32_t size, charge;
	uint32_t reciprocal;
	uint8_t pages, objects;
	uint16_t header; /* bytes of a slab's descriptor */
	uint16_t mag_objects;
	struct slab_group *group; /* SLAB_ACCT_PER_GROUP: who is charged for its slabs */
	uint64_t listed;	  /* bit n - 1: by_free[n] is not empty */
	uint64_t empty;		  /* slabs with no object out */
	struct slab_list by_free[65];
	struct slab_list aside; /* have free objects, and lie in an arena that goes offline */
};

/*
 * A thread's free objects of one cache. How many it holds and, times MAG_ALLOC, how many were ever taken from it are
 * one word, so that an allocation changes one; how many were freed into it follows from that and from `moved`.
 */
struct magazine {
	uint64_t held;
	uint32_t max;
	uint32_t charge; /* of an object; 0: none is charged */
	uint64_t moved;	 /* from the cache, less those that went back */
	void *object[];
};

#define MAG_ALLOC (1ULL << 16)

static inline uint32_t mag_n(uint64_t held)
{
	return held % MAG_ALLOC;
}

/*
 * What a thread may charge a group: the group's id and, below it, bytes. With one word an allocation takes and checks
 * both, for what takes too much borrows from the id.
 */
struct stock {
	uint64_t word;
};

#define STOCK_EMPTY UINT32_MAX /* as an id: it is no object's, not even a free one's */

static inline uint64_t stock_word(uint32_t id, uint32_t bytes)
{
	return (uint64_t)id << 32 | bytes;
}

static inline uint32_t stock_id(uint64_t word)
{
	return (uint32_t)(word >> 32);
}

static inline uint32_t stock_bytes(uint64_t word)
{
	return (uint32_t)word;
}

struct slab_thread {
	_Atomic int busy; /* its thread is at its magazines and stocks */
	_Atomic int gate; /* not 0: they are not to be touched, but with the lock held */
	bool locked;	  /* its thread holds the lock */
	bool direct;	  /* it goes without magazines; written with it stopped */
	bool objcg;
	uint32_t group_caches; /* of a group of its own: CLASSES, or 0 */
	uint32_t stock_max;    /* bytes */
	struct slab *last;     /* the slab it looked up last */
	struct slabs *slabs;
	char *base; /* of the slabs, as the next two, for speed */
	size_t size;
	size_t quick_size; /* as size, or 0: nothing is charged */
	struct slab **slab_of_page;
	uint64_t allocs, frees; /* that no magazine has counted; as the next two, written by its thread only */
	uint64_t mag_misses, stock_misses;
	struct stock stock[STOCKS];
	pthread_mutex_t lock;
	LIST_ENTRY(slab_thread) at;
	struct magazine *mag[]; /* by cache; of a group's own, one that holds nothing until it is needed */
};

LIST_HEAD(slab_threads, slab_thread);

/* What objects are charged to: a group, and after that its parent. Under group_lock. */
struct objcg {
	uint64_t pages; /* charged through it */
	uint64_t bytes; /* of these pages, of no object and in no stock: nr_charged_bytes */
	bool dead;	/* its group is gone; it goes with the last object */
	uint32_t next_free;
	struct slab_group *group; /* NULL: the id is free */
	LIST_ENTRY(objcg) at;
};

LIST_HEAD(objcgs, objcg);

struct slab_group {
	uint32_t id;
	struct slabs *slabs;
	struct slab_group *parent;
	struct objcgs objcgs;	   /* its own, and those of its dead children */
	struct slab_cache *caches; /* SLAB_ACCT_PER_GROUP: CLASSES of them */
	uint64_t pages, limit;	   /* pages, of it and of those below */
	unsigned children;
};

/* Of each arena, under page_lock. A page is free, in a slab, or being touched by the growing thread. */
struct arena {
	uint64_t free[ARENA_WORDS];
	uint64_t touched[ARENA_WORDS];
	unsigned n_free, n_ready; /* free; free and touched */
	_Atomic bool isolated;	  /* also read under a cache's lock */
	bool offline;
};

struct emergency {
	struct addrnode node;
	LIST_ENTRY(emergency) at;
	uint32_t id;
	uint32_t charge;
};

LIST_HEAD(emergencies, emergency);

struct slabs {
	struct slab_config config;
	char *base;
	size_t size;
	struct slab **slab_of_page; /* of a page that is in a slab; under page_lock */
	struct slab_cache **cache;
	uint32_t n_caches;	   /* places in the table */
	struct slab_cache *shared; /* CLASSES of them: the root group's */
	struct slab_group *root;

	pthread_mutex_t page_lock;
	struct arena *arena;
	unsigned n_arenas;
	unsigned first_ready; /* no arena before it has ready pages */
	char *meta;
	size_t meta_size, meta_used, meta_touched;
	struct slab *free_headers[64]; /* by bytes / 8, linked through base */

	pthread_mutex_t group_lock;
	struct objcg *objcg; /* by id */
	uint32_t free_id, n_ids;

	pthread_mutex_t threads_lock;
	struct slab_threads threads;
	bool direct; /* magazines are out of use */

	pthread_mutex_t offline_lock;
	_Atomic bool cancel;

	pthread_mutex_t grow_lock;
	pthread_cond_t grow, grown;
	pthread_t grower;
	bool has_grower, growing, deadlocked, stop;
	uint64_t grown_n; /* growths that have ended */
	int grow_err;	  /* of the last */

	pthread_mutex_t emerg_lock;
	struct addrtree emerg_tree;
	struct emergencies emerg_list;

	struct slab_counters counters; /* atomically; those of threads: of those that are closed */
};

static inline void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static inline void count_max(uint64_t *counter, uint64_t value)
{
	uint64_t max = __atomic_load_n(counter, __ATOMIC_RELAXED);

	while (value > max &&
	       !__atomic_compare_exchange_n(counter, &max, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static inline size_t page_of(const struct slabs *s, const void *address)
{
	return (size_t)((const char *)address - s->base) / PAGE_BYTES;
}

static inline unsigned index_in(const struct slab *slab, const void *object)
{
	return (unsigned)((uint64_t)((const char *)object - slab->base) * slab->reciprocal >> 32);
}

static inline struct arena *arena_of(const struct slabs *s, const struct slab *slab)
{
	return &s->arena[page_of(s, slab->base) / ARENA_PAGES];
}

/* Whose an object is may be looked at by who moves or walks objects, while it changes. */
static inline uint32_t owner_get(const struct slab *slab, unsigned object)
{
	return __atomic_load_n(&slab->owner[object], __ATOMIC_RELAXED);
}

static inline void owner_set(struct slab *slab, unsigned object, uint32_t id)
{
	__atomic_store_n(&slab->owner[object], id, __ATOMIC_RELAXED);
}

/* The class of a size: by (size - 1) / 16, because all sizes of classes are multiples of that. */
extern const uint8_t slab_class[SLAB_MAX_SIZE / 16];

static inline struct slab_cache *cache_at(const struct slabs *s, uint32_t index)
{
	return __atomic_load_n(&s->cache[index], __ATOMIC_ACQUIRE);
}

/* slab_page.c: pages and arenas. Page_lock is taken inside. */
int page_open(struct slabs *s);
void page_close(struct slabs *s);
/* A slab of a cache from pages that are there. -EAGAIN: there are none now. */
int page_take_slab(struct slabs *s, const struct slab_cache *c, struct slab **slab);
void page_put_slab(struct slabs *s, const struct slab_cache *c, struct slab *slab);
/* Touch some more. -ENOSPC: there is nothing left to touch. */
int page_grow(struct slabs *s);
uint64_t page_give_back(struct slabs *s);
/* No slab is taken from it any more, or again. -EINVAL: there is no such arena, or it is offline. */
int page_isolate(struct slabs *s, unsigned a, bool isolated);
/* Offline, if all of it is free. */
bool page_take_arena(struct slabs *s, unsigned a);
/* -EINVAL: there is no such arena, or it is not offline. */
int page_online(struct slabs *s, unsigned a);
/* The slab that begins with this page, and its cache; or NULL. It may be freed unless the cache's lock is held. */
struct slab *page_slab_at(struct slabs *s, size_t page, uint32_t *cache);

/* slab_cache.c: slabs of a cache, its lock held but for the last three. */
void cache_init(struct slabs *s, struct slab_cache *c, unsigned class, uint32_t index, struct slab_group *group);
/* Up to `want` objects of slabs that are there, the fullest first; else of a new one. Returns how many, or -errno. */
int cache_take(struct slabs *s, struct slab_cache *c, void **object, unsigned want);
void cache_put(struct slabs *s, struct slab_cache *c, void *const *object, unsigned n);
/* A slab of another cache of the class, whose lock is held too, becomes one of this. */
void cache_adopt(struct slabs *s, struct slab_cache *from, struct slab_cache *to, struct slab *slab);
/* Free all slabs with no object out. Returns the bytes. */
uint64_t cache_reap_all(struct slabs *s);
/* Slabs of arenas that are isolated out of use, those of others into use. */
void cache_sort_out_all(struct slabs *s);

/* slab_thread.c */
/* Each thread in turn stopped, while `fn` is at its magazines and stocks. */
void for_each_thread(struct slabs *s, void (*fn)(struct slab_thread *t, void *arg), void *arg);
/* All of them at once, their magazines and stocks empty, from here to the next, which only who stopped them calls. */
void threads_stop(struct slabs *s);
void threads_start(struct slabs *s);
/* What magazines have counted. */
void thread_count(const struct slab_thread *t, uint64_t *allocs, uint64_t *frees);
/* All that a thread keeps goes back; by itself, or with it stopped. */
void thread_flush(struct slab_thread *t, void *unused);
/* From now on no thread has magazines, or may have them again. */
void threads_direct(struct slabs *s, bool direct);

/* slab_group.c */
int group_init(struct slabs *s);
void group_exit(struct slabs *s);
/* Into, or out of, the thread's stock; its thread or with it stopped. -EDQUOT: over a limit. */
int group_charge(struct slab_thread *t, uint32_t id, uint32_t bytes);
void group_uncharge(struct slab_thread *t, uint32_t id, uint32_t bytes);
void group_unstock(struct slab_thread *t);
void group_drain_stocks(struct slabs *s);
int group_charge_slab(struct slab_group *g, unsigned pages);
void group_uncharge_slab(struct slab_group *g, unsigned pages);

/* slab_grow.c */
int grow_open(struct slabs *s);
void grow_close(struct slabs *s);
/* Have more memory made ready before it is needed, if there is little. */
void grow_ahead(struct slabs *s);
/* Let a growth that goes on end, if it does within the time that an allocation would wait for it. */
void grow_settle(struct slabs *s);
/*
 * New memory. 0: look again; -EDEADLK: an emergency object is the way; -EAGAIN, -ENOMEM, -ETIMEDOUT: as slab_alloc().
 */
int grow_wait(struct slabs *s, int64_t deadline_ns);
int emergency_alloc(struct slabs *s, uint32_t id, size_t size, uint32_t charge, void **object);
/* It is no more, and whose it was and what it was charged is in *was. False: there is no such object. */
bool emergency_free(struct slabs *s, void *object, struct emergency *was);
/* Of one owner to another. Returns how many were looked at. */
uint64_t emergency_reparent(struct slabs *s, uint32_t from, uint32_t to);

#endif
