// SPDX-License-Identifier: MIT
/*
 * Pools whose users always make progress: what mm/mempool.c does, in userspace.
 *
 * An element comes from the backing allocator if that has one at once; else from the pool's own reserve, taken and
 * touched when the pool is made; else from the backing allocator that may now take its time; else the caller waits for
 * one to come back. An element that is freed fills the reserve first and wakes who waits. So as long as every user
 * frees what it has, and nobody needs more at a time than the reserve has, nobody waits for ever, whatever the backing
 * does.
 *
 * Requests of several elements could still wait for each other, each with half of the reserve: mempool_alloc_many()
 * lets one at a time wait (dm-crypt's bio_alloc_lock).
 */
#ifndef HEADROOM_ENGINE_MEMPOOL_H
#define HEADROOM_ENGINE_MEMPOOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEMPOOL_NOWAIT	  0 /* as a deadline */
#define MEMPOOL_FOREVER	  INT64_MAX
#define MEMPOOL_LOOP_MS	  5000 /* mm/mempool.c: who waits looks at the backing allocator again this often */
#define MEMPOOL_CAP_PAGES 4096 /* dm-crypt: a client's cap is never below 16 * BIO_MAX_VECS pages */
#define MEMPOOL_CAP_PCT	  2    /* DM_CRYPT_MEMORY_PERCENT */

/* What the backing allocator is told. */
enum mempool_how {
	MEMPOOL_AT_ONCE,      /* what is free above its last reserve, without waiting */
	MEMPOOL_MAY_BLOCK,    /* it may reclaim */
	MEMPOOL_LAST_RESERVE, /* it may give away what it keeps for the system's own progress */
};

/*
 * Where elements beyond the reserve come from. alloc returns NULL when it has none; both are called from any thread,
 * without a lock of the pool's.
 */
struct mempool_backing {
	void *(*alloc)(void *arg, size_t size, enum mempool_how how);
	void (*free)(void *arg, void *element, size_t size);
	void *arg;
};

/*
 * The order when the backing allocator and the reserve are empty. MEMPOOL_MEMALLOC is what commit f9054c70d28b
 * (Linux 4.6) made of it for whoever swaps, as the report that had it reverted describes it: before it waits, the user
 * takes all that is left of the system's memory.
 */
enum mempool_mode { MEMPOOL_NOMEMALLOC, MEMPOOL_MEMALLOC };

struct mempool_config {
	size_t size;	  /* of an element, bytes: at least that of a pointer */
	unsigned reserve; /* elements; 0: none, as if there were no pool */
	unsigned stock;	  /* without a backing: elements made at creation, which take its place */
	unsigned cap;	  /* elements in use beyond the reserve; 0: no cap */
	enum mempool_mode mode;
	bool no_many_lock;		/* mempool_alloc_many() waits for its elements as it comes: can deadlock */
	unsigned loop_ms;		/* 0: MEMPOOL_LOOP_MS */
	struct mempool_backing backing; /* alloc NULL: the stock */
};

/* All since the pool was made; read them at any time. */
struct mempool_counters {
	_Atomic uint64_t alloc_fast;	 /* elements from the backing at once */
	_Atomic uint64_t from_pool;	 /* from the reserve */
	_Atomic uint64_t alloc_slow;	 /* from the backing that was let wait */
	_Atomic uint64_t last_reserve;	 /* from the system's last reserve: MEMPOOL_MEMALLOC only */
	_Atomic uint64_t waits, wait_ns; /* for an element */
	_Atomic uint64_t cap_rejects;	 /* not asked of the backing: over the cap */
	_Atomic uint64_t mutex_waits;	 /* requests that had to queue for their second try */
	_Atomic uint64_t cur, peak;	 /* elements in use beyond the reserve: now, at most */
};

struct mempool;

/*
 * Make a pool; its reserve and stock are there, touched, when this returns. 0 or -EINVAL, -ENOMEM (also: the backing
 * did not give the reserve).
 */
int mempool_create(struct mempool **pool, const struct mempool_config *config);
/* -EBUSY, and the pool stays, while elements are out. NULL is none. */
int mempool_destroy(struct mempool *pool);
/*
 * One element, not cleared, to be given back by mempool_free() in any thread. Waits until `deadline_ns` (clock_ns()).
 * Returns 0; -EAGAIN: MEMPOOL_NOWAIT and none there; -ETIMEDOUT; -ECANCELED: mempool_stop().
 */
int mempool_alloc(struct mempool *pool, int64_t deadline_ns, void **element);
void mempool_free(struct mempool *pool, void *element);
/* `n` elements or none. n must not exceed the reserve, else -EINVAL; else as mempool_alloc(). */
int mempool_alloc_many(struct mempool *pool, int64_t deadline_ns, void **element, unsigned n);
void mempool_free_many(struct mempool *pool, void **element, unsigned n);
/* From now on nobody waits: who does ends with -ECANCELED. */
void mempool_stop(struct mempool *pool);
const struct mempool_counters *mempool_counters(const struct mempool *pool);
/* dm-crypt's cap for one of `clients`, in pages: `percent` of `total_pages`, at least MEMPOOL_CAP_PAGES. */
uint64_t mempool_cap(unsigned percent, uint64_t total_pages, unsigned clients);

#endif
