// SPDX-License-Identifier: MIT
/*
 * Groups, and what their objects are charged: bytes from a thread's stock, which is filled by pages that are charged to
 * the group and to all above it, as obj_cgroup_charge() and page_counter_try_charge() of mm/memcontrol.c do.
 */
#include "engine/slab_int.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>

static uint64_t pages_of(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}

/* --- With group_lock held --- */

static void uncharge_chain(struct slab_group *g, const struct slab_group *end, uint64_t pages)
{
	for (; g != end; g = g->parent)
		g->pages -= pages;
}

static int charge_chain(struct slab_group *group, uint64_t pages)
{
	for (struct slab_group *g = group; g; g = g->parent) {
		if (g->limit && g->pages + pages > g->limit) {
			uncharge_chain(group, g, pages);
			return -EDQUOT;
		}
		g->pages += pages;
	}
	return 0;
}

static void release(struct slabs *s, uint32_t id)
{
	struct objcg *o = &s->objcg[id];

	LIST_REMOVE(o, at);
	o->group = NULL;
	o->next_free = s->free_id;
	s->free_id = id;
}

/* Whole pages that nobody needs go back; and with the last of a dead group's it goes too. */
static void give_back(struct slabs *s, uint32_t id)
{
	struct objcg *o = &s->objcg[id];
	uint64_t pages = o->bytes / PAGE_BYTES;

	uncharge_chain(o->group, NULL, pages);
	o->pages -= pages;
	o->bytes -= pages * PAGE_BYTES;
	if (o->dead && !o->pages)
		release(s, id);
}

static void unstock(struct slabs *s, struct stock *stock)
{
	uint32_t id = stock_id(stock->word);

	if (id != STOCK_EMPTY) {
		s->objcg[id].bytes += stock_bytes(stock->word);
		give_back(s, id);
	}
	stock->word = stock_word(STOCK_EMPTY, 0);
}

/* --- Stocks --- */

/* Pages for a stock that has too few bytes; near a limit no more than it takes. Those it has are in *has. */
static int fill(struct slabs *s, uint32_t id, uint32_t *has, uint32_t bytes)
{
	struct objcg *o = &s->objcg[id];
	uint64_t pages = s->config.stock_pages, least;
	int err;

	*has += (uint32_t)o->bytes; /* less than a page */
	o->bytes = 0;
	if (*has >= bytes)
		return 0;
	least = pages_of(bytes - *has);
	err = pages > least ? charge_chain(o->group, pages) : -EDQUOT;
	if (err) {
		pages = least;
		err = charge_chain(o->group, pages);
	}
	if (err)
		return err;
	o->pages += pages;
	*has += (uint32_t)(pages * PAGE_BYTES);
	return 0;
}

int group_charge(struct slab_thread *t, uint32_t id, uint32_t bytes)
{
	struct slabs *s = t->slabs;
	struct stock *stock = &t->stock[id % STOCKS];
	uint32_t has;
	int err;

	counter_add(&t->stock_misses, 1);
	pthread_mutex_lock(&s->group_lock);
	if (stock_id(stock->word) != id)
		unstock(s, stock);
	has = stock_bytes(stock->word);
	err = fill(s, id, &has, bytes);
	stock->word = stock_word(id, err ? has : has - bytes);
	pthread_mutex_unlock(&s->group_lock);
	return err;
}

/* A dead group gets no stock any more: who would give it back? */
void group_uncharge(struct slab_thread *t, uint32_t id, uint32_t bytes)
{
	struct slabs *s = t->slabs;
	struct stock *stock = &t->stock[id % STOCKS];
	struct objcg *o = &s->objcg[id];

	counter_add(&t->stock_misses, 1);
	pthread_mutex_lock(&s->group_lock);
	if (o->dead) {
		o->bytes += bytes;
		give_back(s, id);
	} else {
		if (stock_id(stock->word) != id || stock_bytes(stock->word) + bytes > t->stock_max)
			unstock(s, stock);
		stock->word = stock_word(id, stock_bytes(stock->word) + bytes);
	}
	pthread_mutex_unlock(&s->group_lock);
}

void group_unstock(struct slab_thread *t)
{
	struct slabs *s = t->slabs;

	pthread_mutex_lock(&s->group_lock);
	for (unsigned i = 0; i < STOCKS; i++)
		unstock(s, &t->stock[i]);
	pthread_mutex_unlock(&s->group_lock);
}

static void unstock_thread(struct slab_thread *t, void *unused)
{
	(void)unused;
	group_unstock(t);
}

void group_drain_stocks(struct slabs *s)
{
	count(&s->counters.stock_drains, 1);
	for_each_thread(s, unstock_thread, NULL);
}

/* --- Slabs of a group's own caches --- */

int group_charge_slab(struct slab_group *g, unsigned pages)
{
	int err;

	pthread_mutex_lock(&g->slabs->group_lock);
	err = charge_chain(g, pages);
	if (!err)
		g->slabs->objcg[g->id].pages += pages;
	pthread_mutex_unlock(&g->slabs->group_lock);
	return err;
}

void group_uncharge_slab(struct slab_group *g, unsigned pages)
{
	pthread_mutex_lock(&g->slabs->group_lock);
	g->slabs->objcg[g->id].bytes += (uint64_t)pages * PAGE_BYTES;
	give_back(g->slabs, g->id);
	pthread_mutex_unlock(&g->slabs->group_lock);
}

/* --- Groups --- */

static int take_id(struct slabs *s, struct slab_group *g)
{
	uint32_t id = s->free_id;

	if (id)
		s->free_id = s->objcg[id].next_free;
	else if (s->n_ids < s->config.groups)
		id = ++s->n_ids;
	else
		return -ENOSPC;
	g->id = id;
	s->objcg[id] = (struct objcg){ .group = g };
	LIST_INSERT_HEAD(&g->objcgs, &s->objcg[id], at);
	if (g->parent)
		g->parent->children++;
	return 0;
}

static int make_caches(struct slabs *s, struct slab_group *g)
{
	uint32_t first = g->id * CLASSES;

	/* The caches of a group that is gone stay in the table: a thread may be looking there (cache_reap_all()). */
	if (s->cache[first]) {
		g->caches = s->cache[first];
		for (unsigned i = 0; i < CLASSES; i++)
			g->caches[i].group = g;
		return 0;
	}
	g->caches = calloc(CLASSES, sizeof(*g->caches));
	if (!g->caches)
		return -ENOMEM;
	for (unsigned i = 0; i < CLASSES; i++)
		cache_init(s, &g->caches[i], i, first + i, g);
	return 0;
}

static void free_group(struct slab_group *g)
{
	pthread_mutex_lock(&g->slabs->group_lock);
	if (g->parent)
		g->parent->children--;
	release(g->slabs, g->id);
	pthread_mutex_unlock(&g->slabs->group_lock);
	free(g);
}

int slab_group_open(struct slabs *s, struct slab_group *parent, uint64_t limit_bytes, struct slab_group **group)
{
	struct slab_group *g = calloc(1, sizeof(*g));
	int err;

	if (!g)
		return -ENOMEM;
	g->slabs = s;
	g->parent = parent ? parent : s->root;
	g->limit = limit_bytes ? limit_bytes / PAGE_BYTES + !(limit_bytes / PAGE_BYTES) : 0;
	pthread_mutex_lock(&s->group_lock);
	err = take_id(s, g);
	pthread_mutex_unlock(&s->group_lock);
	if (err) {
		free(g);
		return err;
	}
	if (s->config.acct == SLAB_ACCT_PER_GROUP)
		err = make_caches(s, g);
	if (err) {
		free_group(g);
		return err;
	}
	*group = g;
	return 0;
}

/* What they point at points at the parent: as many steps as there are dead groups below, however many objects. */
static void reparent_by_pointer(struct slab_group *g)
{
	struct slabs *s = g->slabs;
	struct objcg *o;

	pthread_mutex_lock(&s->group_lock);
	s->objcg[g->id].dead = true;
	LIST_FOREACH (o, &g->objcgs, at)
		o->group = g->parent;
	while ((o = LIST_FIRST(&g->objcgs))) {
		LIST_REMOVE(o, at);
		LIST_INSERT_HEAD(&g->parent->objcgs, o, at);
	}
	give_back(s, g->id);
	g->parent->children--;
	pthread_mutex_unlock(&s->group_lock);
	/* From here on no thread gets a stock of it; those that have one would keep it for ever. */
	group_drain_stocks(s);
	free(g);
}

/* Objects of the slab that are `from`'s; those that lie free are looked at too. */
static void give_objects(struct slab *slab, uint32_t from, uint32_t to)
{
	for (unsigned i = 0; i < slab->objects; i++)
		if (owner_get(slab, i) == from)
			owner_set(slab, i, to);
}

/* Pages, too; the groups above have them already. */
static void give_charges(struct slabs *s, uint32_t from, uint32_t to)
{
	struct objcg *f = &s->objcg[from], *t = &s->objcg[to];

	pthread_mutex_lock(&s->group_lock);
	t->pages += f->pages;
	t->bytes += f->bytes;
	*f = (struct objcg){ .group = f->group, .at = f->at };
	give_back(s, to);
	pthread_mutex_unlock(&s->group_lock);
}

static void give_slab(struct slabs *s, const struct slab_group *g, struct slab *slab, uint32_t cache)
{
	struct slab_cache *from = cache_at(s, cache), *to;

	if (from->group != g)
		return;
	to = &g->parent->caches[from - g->caches];
	pthread_mutex_lock(&from->lock);
	pthread_mutex_lock(&to->lock);
	cache_adopt(s, from, to, slab);
	pthread_mutex_unlock(&to->lock);
	pthread_mutex_unlock(&from->lock);
}

/* All threads are stopped. */
static uint64_t walk(const struct slab_group *g)
{
	struct slabs *s = g->slabs;
	uint64_t looked_at = 0;

	for (size_t page = 0; page < s->size / PAGE_BYTES; page++) {
		uint32_t cache;
		struct slab *slab = page_slab_at(s, page, &cache);

		if (!slab)
			continue;
		looked_at += slab->objects;
		if (s->config.acct == SLAB_ACCT_PER_GROUP)
			give_slab(s, g, slab, cache);
		else
			give_objects(slab, g->id, g->parent->id);
	}
	return looked_at;
}

/* It waits for an arena that goes offline: as a dying cgroup did, in the kernel, for memory hot-remove. */
static void reparent_by_walk(struct slab_group *g)
{
	struct slabs *s = g->slabs;
	uint32_t to = g->parent->id;

	pthread_mutex_lock(&s->offline_lock);
	threads_stop(s);
	count(&s->counters.walk_objs, walk(g) + emergency_reparent(s, g->id, to));
	give_charges(s, g->id, to);
	threads_start(s);
	pthread_mutex_unlock(&s->offline_lock);
	free_group(g);
}

int slab_group_close(struct slab_group *g)
{
	struct slabs *s = g->slabs;
	int64_t begin = clock_ns();
	unsigned children;

	pthread_mutex_lock(&s->group_lock);
	children = g->children;
	pthread_mutex_unlock(&s->group_lock);
	if (children)
		return -EBUSY;
	if (s->config.acct == SLAB_ACCT_NONE)
		free_group(g);
	else if (s->config.acct == SLAB_ACCT_OBJCG && s->config.reparent == SLAB_REPARENT_POINTER)
		reparent_by_pointer(g);
	else
		reparent_by_walk(g);
	count(&s->counters.reparents, 1);
	count(&s->counters.reparent_ns, (uint64_t)(clock_ns() - begin));
	return 0;
}

uint64_t slab_group_bytes(struct slab_group *g)
{
	uint64_t bytes = 0;
	struct objcg *o;

	group_drain_stocks(g->slabs);
	pthread_mutex_lock(&g->slabs->group_lock);
	LIST_FOREACH (o, &g->objcgs, at)
		bytes += o->pages * PAGE_BYTES - o->bytes;
	pthread_mutex_unlock(&g->slabs->group_lock);
	return bytes;
}

uint64_t slab_group_pages(struct slab_group *g)
{
	uint64_t pages;

	pthread_mutex_lock(&g->slabs->group_lock);
	pages = g->pages;
	pthread_mutex_unlock(&g->slabs->group_lock);
	return pages;
}

int group_init(struct slabs *s)
{
	struct slab_group *root = calloc(1, sizeof(*root));

	s->objcg = calloc(s->config.groups + 1, sizeof(*s->objcg));
	if (!root || !s->objcg) {
		free(root);
		return -ENOMEM;
	}
	root->slabs = s;
	root->caches = s->shared;
	s->root = root;
	return take_id(s, root);
}

void group_exit(struct slabs *s)
{
	free(s->root);
	free(s->objcg);
}
