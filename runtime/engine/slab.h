// SPDX-License-Identifier: MIT
/*
 * Slab caches that groups share: what mm/slub.c, the slab controller of Linux 5.9 and SPL's kmem cache do, in
 * userspace, with each remedy an option that can be off.
 *
 * Objects of up to 4096 bytes come from slabs of 1 to 8 pages of one size class; slabs from arenas of 2 MiB, into which
 * one mapping is divided that is reserved when the allocator is made. Each thread keeps free objects in magazines of
 * its own and looks at nobody's lock while those last. The owner of an object stands in a vector beside its slab, so a
 * slab holds objects of any groups; what a group has is charged in pages, of which each thread keeps a stock.
 *
 * New memory is touched by one thread of the allocator's own, because a page fault may wait for memory as long as it
 * likes. Who needs it waits a bounded time, and then takes one emergency object from malloc() (SPL).
 *
 * An arena can be taken away under load: no slab of it is used any more, its objects are moved by their user or freed,
 * the threads' magazines are emptied, its memory goes back.
 */
#ifndef HEADROOM_ENGINE_SLAB_H
#define HEADROOM_ENGINE_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLAB_MAX_SIZE	   4096U
#define SLAB_ARENA_BYTES   (2U << 20)
#define SLAB_NOWAIT	   0 /* as a deadline */
#define SLAB_FOREVER	   INT64_MAX
#define SLAB_EMERG_WAIT_MS 100 /* spl-kmem-cache.c waits HZ/10 for a growth; 2012 it was HZ, at first one tick */
#define SLAB_STOCK_PAGES   64  /* MEMCG_CHARGE_BATCH */
#define SLAB_GROUPS	   4096

/* Whom an object belongs to. */
enum slab_acct {
	SLAB_ACCT_NONE,
	SLAB_ACCT_OBJCG,     /* a vector of owners beside each slab */
	SLAB_ACCT_PER_GROUP, /* until Linux 5.9: each group has caches of its own, charged by the slab */
};

/* What becomes of the objects of a group that goes away. SLAB_ACCT_PER_GROUP always walks. */
enum slab_reparent {
	SLAB_REPARENT_POINTER, /* what they point at points at the parent */
	SLAB_REPARENT_WALK,    /* each is looked at and given to the parent, while everybody waits */
};

/* Where emergency objects are found again when they are freed. */
enum slab_emerg {
	SLAB_EMERG_RBTREE, /* since October 2012 */
	SLAB_EMERG_LIST,
	SLAB_EMERG_OFF, /* there are none: who needs memory waits until his deadline */
};

/* What is done about free objects in threads' magazines while an arena goes offline. */
enum slab_pcp {
	SLAB_PCP_DISABLE,     /* no magazines meanwhile: zone_pcp_disable(), Linux 5.11 */
	SLAB_PCP_DRAIN_RETRY, /* emptied again in every loop, and after every object moved */
	SLAB_PCP_DRAIN_ONCE,  /* once, at the beginning: what comes into one later stays there */
	SLAB_PCP_NONE,
};

struct slab_config {
	size_t size;	 /* bytes of the mapping, rounded up to arenas; memory is taken as it is used */
	size_t pretouch; /* bytes of it that are there when slab_open() returns */
	enum slab_acct acct;
	enum slab_reparent reparent;
	unsigned groups;      /* at most, those that live on by their objects too; 0: SLAB_GROUPS */
	unsigned stock_pages; /* charged at a time; 0: SLAB_STOCK_PAGES */
	enum slab_emerg emerg;
	unsigned emerg_wait_ms; /* 0: SLAB_EMERG_WAIT_MS */
	/*
	 * Called by the growing thread before it touches new memory, so that tests can make that slow, stuck, or, by
	 * -errno, impossible this time. NULL: nothing is. It must return before slab_close().
	 */
	int (*grow_hook)(void *arg);
	void *grow_arg;
};

/* All since slab_open() but for those that say "now". Nothing but counters; see counter.h. */
struct slab_counters {
	uint64_t slabs;		 /* now */
	uint64_t slab_bytes;	 /* in slabs, now */
	uint64_t empty_bytes;	 /* of that, in slabs with no object out, now */
	uint64_t meta_bytes;	 /* in descriptors and vectors of owners */
	uint64_t ready_bytes;	 /* touched, and in no slab, now */
	uint64_t returned_bytes; /* given back to the system */
	uint64_t grows, grow_ns_max;
	uint64_t emerg_cur;   /* emergency objects, now */
	uint64_t emerg_max;   /* at most at a time */
	uint64_t emerg_total; /* ever */
	uint64_t emerg_steps; /* looked at to find one again */
	uint64_t dlock;	      /* growths that somebody waited for in vain */
	uint64_t waits, wait_ns;
	uint64_t reparents, reparent_ns, walk_objs;
	uint64_t charge_fails, stock_drains;
	uint64_t offline_loops, migrate_ok, migrate_fail;
	uint64_t pcp_stuck; /* objects of an arena that were in magazines when its time was over */
	uint64_t drains;    /* of a thread's magazines by another */
	/* Of threads that are open and those that were. */
	uint64_t allocs, frees;
	uint64_t mag_misses;   /* magazines filled or emptied by half */
	uint64_t stock_misses; /* objects whose charge did not come from, or go to, the thread's stock */
};

struct slabs;
struct slab_group;
struct slab_thread;

/* Returns 0; -EINVAL; -ENOMEM; -ENOSYS: no membarrier(2), by which a thread's magazines are taken from it. */
int slab_open(struct slabs **slabs, const struct slab_config *config);
/* -EBUSY, and all stays, while there is an object, a group or a thread. NULL is none. */
int slab_close(struct slabs *s);
/* A moment's values; callable by any thread while others work. */
void slab_counters(struct slabs *s, struct slab_counters *counters);
/* Bytes an object of `size` really takes: those of its class. 0: too large. */
size_t slab_class_size(size_t size);

/*
 * What a thread allocates with. It is used by one thread at a time. Closing it gives back what it keeps.
 * Returns 0 or -ENOMEM.
 */
int slab_thread_open(struct slabs *s, struct slab_thread **thread);
void slab_thread_close(struct slab_thread *t);

/*
 * An object for a group (NULL: for none in particular), not cleared. Waits until `deadline_ns` (clock_ns()), unless it
 * gets an emergency object before. NULL, with errno: EINVAL: no such size; ENOMEM: over a limit, or all of the mapping
 * is in use; EAGAIN: SLAB_NOWAIT and none there; ETIMEDOUT. As malloc(), because an object that goes through a
 * pointer is a store and a load more, one after the other: 7.3 ns with its free against 6.8 (bench_slab lifo).
 */
void *slab_alloc(struct slab_thread *t, struct slab_group *group, size_t size, int64_t deadline_ns);
/* By any thread, of whatever group; not NULL. What is no object ends the program. */
void slab_free(struct slab_thread *t, void *object);

/*
 * A group below `parent` (NULL: the root). What it and those below it have never exceeds limit_bytes (0: no limit),
 * in whole pages, stocks included. Returns 0, -ENOMEM, or -ENOSPC: there are `groups` already.
 */
int slab_group_open(struct slabs *s, struct slab_group *parent, uint64_t limit_bytes, struct slab_group **group);
/* Its objects become its parent's. Nobody allocates for it any more. -EBUSY: it has children. */
int slab_group_close(struct slab_group *group);
/*
 * Bytes of its objects and of those it inherited, each with its entry in the vector, but not of its children's. The
 * stocks are given back first. SLAB_ACCT_PER_GROUP: of its slabs.
 */
uint64_t slab_group_bytes(struct slab_group *group);
/* Charged to it and to those below it, with stocks. */
uint64_t slab_group_pages(struct slab_group *group);

/* Take from every thread what it keeps. */
void slab_drain(struct slabs *s);
/*
 * The same, and give all memory that is in no use back to the system. Returns the bytes. Waits for a growth that goes
 * on, for emerg_wait_ms at most, and for an arena that goes offline, until that one's deadline.
 */
uint64_t slab_trim(struct slabs *s);

struct slab_offline {
	int64_t deadline_ns; /* SLAB_FOREVER: Linux has none */
	enum slab_pcp pcp;
	/*
	 * Called, in the caller's thread and without a lock, for each object of the arena: move it (allocate, copy,
	 * free). 0, or -errno: it stays for now. Without SLAB_ACCT_OBJCG it is called for objects too that lie free in
	 * a magazine, which its user does not know. NULL: wait until all have been freed.
	 */
	int (*move)(void *arg, void *object, size_t size);
	void *arg;
};

unsigned slab_arenas(const struct slabs *s);
/* The arena of an object, or -ENOENT: it is an emergency object. */
int slab_arena_of(const struct slabs *s, const void *object);
/*
 * Take an arena out of use and give its memory back. Returns 0; -EINVAL: no such arena, or it is offline; -EBUSY: the
 * deadline has come; -EINTR: slab_offline_cancel(). Unless 0 the arena is in use again.
 */
int slab_offline(struct slabs *s, unsigned arena, const struct slab_offline *how);
/* -EINVAL: it is not offline. */
int slab_online(struct slabs *s, unsigned arena);
/* End the slab_offline() that is going on now, if one is. */
void slab_offline_cancel(struct slabs *s);

#endif
