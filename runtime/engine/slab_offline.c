// SPDX-License-Identifier: MIT
/*
 * An arena is taken away: offline_pages() of mm/memory_hotplug.c, with its loop, and what was done at one time or
 * another about pages that lie free where nobody looks for them.
 */
#include "engine/slab_int.h"

#include "base/clock.h"

#include <errno.h>

#define PAUSE_MS 1 /* between two loops in which nothing could be done */

/* May it be somebody's? A free one in a magazine is no one's, but only owners tell. */
static bool may_be_out(const struct slabs *s, const struct slab *slab, unsigned i)
{
	return s->config.acct != SLAB_ACCT_OBJCG || owner_get(slab, i);
}

/*
 * Objects of the slab at this page that are not in it; noted under its cache's lock, for it may be freed at any time.
 * Nobody gives it to another cache meanwhile: offline_lock is held.
 */
static unsigned objects_out(struct slabs *s, size_t page, void **object, size_t *size)
{
	uint32_t cache, now;
	struct slab *slab = page_slab_at(s, page, &cache);
	struct slab_cache *c;
	unsigned n = 0;

	if (!slab)
		return 0;
	c = cache_at(s, cache);
	pthread_mutex_lock(&c->lock);
	if (page_slab_at(s, page, &now) == slab && now == cache) {
		for (unsigned i = 0; i < slab->objects; i++)
			if (!(slab->free & 1ULL << i) && may_be_out(s, slab, i))
				object[n++] = slab->base + i * c->size;
		*size = c->size;
	}
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* Was one moved? */
static bool move_objects(struct slabs *s, unsigned arena, const struct slab_offline *how)
{
	size_t first = (size_t)arena * ARENA_PAGES, size = 0;
	bool moved = false;

	for (size_t page = first; how->move && page < first + ARENA_PAGES; page++) {
		void *object[64];
		unsigned n = objects_out(s, page, object, &size);

		for (unsigned i = 0; i < n; i++) {
			bool ok = !how->move(how->arg, object[i], size);

			count(ok ? &s->counters.migrate_ok : &s->counters.migrate_fail, 1);
			moved |= ok;
			/* Or the next is moved to the place of this, which lies on top of the mover's magazine. */
			if (ok && how->pcp == SLAB_PCP_DRAIN_RETRY)
				slab_drain(s);
		}
	}
	return moved;
}

static int take_away(struct slabs *s, unsigned arena, const struct slab_offline *how)
{
	for (;;) {
		if (page_take_arena(s, arena))
			return 0;
		count(&s->counters.offline_loops, 1);
		if (atomic_load(&s->cancel))
			return -EINTR;
		if (clock_ns() >= how->deadline_ns)
			return -EBUSY;
		if (!move_objects(s, arena, how))
			clock_sleep_ms(PAUSE_MS);
		if (how->pcp == SLAB_PCP_DRAIN_RETRY)
			slab_drain(s);
	}
}

struct stuck {
	unsigned arena;
	uint64_t n;
};

static void count_stuck(struct slab_thread *t, void *arg)
{
	struct stuck *stuck = arg;

	for (uint32_t i = 0; i < t->slabs->n_caches; i++)
		for (uint32_t k = 0; k < mag_n(t->mag[i]->held); k++)
			if (page_of(t->slabs, t->mag[i]->object[k]) / ARENA_PAGES == stuck->arena)
				stuck->n++;
}

static void undo(struct slabs *s, unsigned arena)
{
	struct stuck stuck = { .arena = arena };

	for_each_thread(s, count_stuck, &stuck);
	count(&s->counters.pcp_stuck, stuck.n);
	page_isolate(s, arena, false);
	cache_sort_out_all(s);
}

static int offline(struct slabs *s, unsigned arena, const struct slab_offline *how)
{
	int err = page_isolate(s, arena, true);

	if (err)
		return err;
	cache_sort_out_all(s);
	if (how->pcp == SLAB_PCP_DISABLE)
		threads_direct(s, true);
	else if (how->pcp != SLAB_PCP_NONE)
		slab_drain(s);
	err = take_away(s, arena, how);
	if (err)
		undo(s, arena);
	if (how->pcp == SLAB_PCP_DISABLE)
		threads_direct(s, false);
	return err;
}

int slab_offline(struct slabs *s, unsigned arena, const struct slab_offline *how)
{
	int err;

	/* Another one may be going on. */
	while (pthread_mutex_trylock(&s->offline_lock)) {
		if (clock_ns() >= how->deadline_ns)
			return -EBUSY;
		clock_sleep_ms(PAUSE_MS);
	}
	atomic_store(&s->cancel, false);
	err = offline(s, arena, how);
	pthread_mutex_unlock(&s->offline_lock);
	return err;
}

int slab_online(struct slabs *s, unsigned arena)
{
	return page_online(s, arena);
}

void slab_offline_cancel(struct slabs *s)
{
	atomic_store(&s->cancel, true);
}

unsigned slab_arenas(const struct slabs *s)
{
	return s->n_arenas;
}

int slab_arena_of(const struct slabs *s, const void *object)
{
	size_t offset = (size_t)((const char *)object - s->base);

	return offset < s->size ? (int)(offset / SLAB_ARENA_BYTES) : -ENOENT;
}
