// SPDX-License-Identifier: MIT
/*
 * Slabs of one size class. The fullest slab with a free object gives it, so that others empty. Empty slabs stay until
 * somebody needs their pages (cache_reap_all()).
 */
#include "engine/slab_int.h"

#include <assert.h>
#include <errno.h>

/* Four sizes to each doubling: at most a fifth of an object is lost by rounding up. */
static const uint16_t class_size[CLASSES] = {
	64,  80,  96,  112,  128,  160,	 192,  224,  256,  320,	 384,  448,  512,
	640, 768, 896, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096,
};

#define TWO(class)  class, class
#define FOUR(class) TWO(class), TWO(class)
/* A doubling's: `n` times each of its four. */
#define DOUBLING(n, class) n(class), n(class + 1), n(class + 2), n(class + 3)
#define EIGHT(class)	   FOUR(class), FOUR(class)
#define SIXTEEN(class)	   EIGHT(class), EIGHT(class)
#define THIRTY_TWO(class)  SIXTEEN(class), SIXTEEN(class)
#define ONE(class)	   class

const uint8_t slab_class[SLAB_MAX_SIZE / 16] = {
	FOUR(0),
	DOUBLING(ONE, 1),
	DOUBLING(TWO, 5),
	DOUBLING(FOUR, 9),
	DOUBLING(EIGHT, 13),
	DOUBLING(SIXTEEN, 17),
	DOUBLING(THIRTY_TWO, 21),
};

size_t slab_class_size(size_t size)
{
	return size && size <= SLAB_MAX_SIZE ? class_size[slab_class[(size - 1) / 16]] : 0;
}

/*
 * The fewest pages whose tail is at most 1/16, and 64 objects, which is what a bitmap has. Against order 0 up to a tail
 * of 1/8 this measured .02 more when full and as much after refilling; a smaller tail takes larger slabs, and those
 * stay half empty (.80 instead of .88).
 */
static unsigned pages_for(unsigned size)
{
	unsigned pages = 1;

	while (pages < 8 && pages * PAGE_BYTES % size > pages * PAGE_BYTES / 16)
		pages++;
	return pages;
}

/* Up to 256 objects (SPL's bound), and up to 256 KiB; so no fewer than 64. */
static unsigned magazine_objects(unsigned size)
{
	unsigned n = 256 * 1024 / size;

	return n > 256 ? 256 : n;
}

void cache_init(struct slabs *s, struct slab_cache *c, unsigned class, uint32_t index, struct slab_group *group)
{
	bool owners = s->config.acct == SLAB_ACCT_OBJCG;

	pthread_mutex_init(&c->lock, NULL);
	c->index = index;
	c->size = class_size[class];
	c->pages = (uint8_t)pages_for(c->size);
	c->objects = (uint8_t)(c->pages * PAGE_BYTES / c->size);
	c->charge = c->size + (owners ? OWNER_BYTES : 0);
	/* Exact for offsets below 2^15: the error is below 2^15 / 2^32, and a size's share of that is less than 1. */
	c->reciprocal = (uint32_t)(((1ULL << 32) + c->size - 1) / c->size);
	c->header = (uint16_t)((sizeof(struct slab) + (owners ? c->objects * OWNER_BYTES : 0) + 7) & ~7U);
	c->mag_objects = (uint16_t)magazine_objects(c->size);
	c->group = group;
	LIST_INIT(&c->aside);
	__atomic_store_n(&s->cache[index], c, __ATOMIC_RELEASE);
}

static bool is_empty(const struct slab *slab)
{
	return __builtin_popcountll(slab->free) == slab->objects;
}

/* With at least one free object. */
static void list_slab(struct slabs *s, struct slab_cache *c, struct slab *slab)
{
	unsigned n = (unsigned)__builtin_popcountll(slab->free);

	slab->aside = atomic_load_explicit(&arena_of(s, slab)->isolated, memory_order_relaxed);
	if (slab->aside) {
		LIST_INSERT_HEAD(&c->aside, slab, at);
		return;
	}
	if (n == slab->objects)
		counter_add(&c->empty, 1);
	LIST_INSERT_HEAD(&c->by_free[n], slab, at);
	c->listed |= 1ULL << (n - 1);
}

static void unlist_slab(struct slab_cache *c, struct slab *slab)
{
	unsigned n = (unsigned)__builtin_popcountll(slab->free);

	LIST_REMOVE(slab, at);
	if (slab->aside)
		return;
	if (LIST_EMPTY(&c->by_free[n]))
		c->listed &= ~(1ULL << (n - 1));
	if (n == slab->objects)
		counter_add(&c->empty, -1ULL);
}

static void free_slab(struct slabs *s, struct slab_cache *c, struct slab *slab)
{
	page_put_slab(s, c, slab);
	if (c->group)
		group_uncharge_slab(c->group, c->pages);
}

static int new_slab(struct slabs *s, struct slab_cache *c, struct slab **slab)
{
	int err = c->group ? group_charge_slab(c->group, c->pages) : 0;

	if (err)
		return err;
	err = page_take_slab(s, c, slab);
	if (err && c->group)
		group_uncharge_slab(c->group, c->pages);
	return err;
}

static unsigned take_from(struct slab *slab, uint32_t size, void **object, unsigned want)
{
	unsigned n = 0;

	for (; n < want && slab->free; n++) {
		object[n] = slab->base + (unsigned)__builtin_ctzll(slab->free) * size;
		slab->free &= slab->free - 1;
	}
	return n;
}

int cache_take(struct slabs *s, struct slab_cache *c, void **object, unsigned want)
{
	unsigned got = 0;

	while (got < want) {
		struct slab *slab;

		if (c->listed) {
			slab = LIST_FIRST(&c->by_free[__builtin_ctzll(c->listed) + 1]);
			unlist_slab(c, slab);
		} else {
			int err = got ? -EAGAIN : new_slab(s, c, &slab);

			if (err)
				return got ? (int)got : err;
		}
		got += take_from(slab, c->size, object + got, want - got);
		if (slab->free)
			list_slab(s, c, slab);
	}
	return (int)got;
}

static struct slab *slab_at(struct slabs *s, const void *object)
{
	return s->slab_of_page[page_of(s, object)];
}

/* Those at the beginning that lie in one slab, as they often do. Returns how many. */
static unsigned put_some(struct slabs *s, struct slab_cache *c, void *const *object, unsigned n)
{
	struct slab *slab = slab_at(s, *object);
	unsigned i = 0;

	if (slab->free)
		unlist_slab(c, slab);
	do {
		uint64_t bit = 1ULL << index_in(slab, object[i]);

		assert(!(slab->free & bit)); /* freed twice */
		slab->free |= bit;
	} while (++i < n && slab_at(s, object[i]) == slab);
	if (is_empty(slab) && atomic_load_explicit(&arena_of(s, slab)->isolated, memory_order_relaxed))
		free_slab(s, c, slab);
	else
		list_slab(s, c, slab);
	return i;
}

void cache_put(struct slabs *s, struct slab_cache *c, void *const *object, unsigned n)
{
	for (unsigned i = 0; i < n;)
		i += put_some(s, c, object + i, n - i);
}

void cache_adopt(struct slabs *s, struct slab_cache *from, struct slab_cache *to, struct slab *slab)
{
	if (slab->free)
		unlist_slab(from, slab);
	slab->cache = to->index;
	if (slab->free)
		list_slab(s, to, slab);
}

static uint64_t reap(struct slabs *s, struct slab_cache *c)
{
	struct slab *slab;
	uint64_t slabs = 0;

	while ((slab = LIST_FIRST(&c->by_free[c->objects]))) {
		unlist_slab(c, slab);
		free_slab(s, c, slab);
		slabs++;
	}
	return slabs * c->pages * PAGE_BYTES;
}

uint64_t cache_reap_all(struct slabs *s)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < s->n_caches; i++) {
		struct slab_cache *c = cache_at(s, i);

		if (!c || !__atomic_load_n(&c->empty, __ATOMIC_RELAXED))
			continue;
		pthread_mutex_lock(&c->lock);
		bytes += reap(s, c);
		pthread_mutex_unlock(&c->lock);
	}
	return bytes;
}

/* Each slab of a list is listed anew, or, if it is empty and its arena is to be, freed. */
static void sort_out(struct slabs *s, struct slab_cache *c, struct slab_list *list)
{
	struct slab *slab, *next;

	for (slab = LIST_FIRST(list); slab; slab = next) {
		bool isolated = atomic_load_explicit(&arena_of(s, slab)->isolated, memory_order_relaxed);

		next = LIST_NEXT(slab, at);
		if (isolated == slab->aside && !(isolated && is_empty(slab)))
			continue;
		unlist_slab(c, slab);
		if (isolated && is_empty(slab))
			free_slab(s, c, slab);
		else
			list_slab(s, c, slab);
	}
}

void cache_sort_out_all(struct slabs *s)
{
	for (uint32_t i = 0; i < s->n_caches; i++) {
		struct slab_cache *c = cache_at(s, i);

		if (!c)
			continue;
		pthread_mutex_lock(&c->lock);
		for (unsigned n = 1; n <= c->objects; n++)
			sort_out(s, c, &c->by_free[n]);
		sort_out(s, c, &c->aside);
		pthread_mutex_unlock(&c->lock);
	}
}
