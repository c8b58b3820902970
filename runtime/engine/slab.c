// SPDX-License-Identifier: MIT
#include "engine/slab_int.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/membarrier.h>

#define PER_THREAD 4 /* counters that threads keep for themselves, the last of struct slab_counters */

static bool is_valid(const struct slab_config *c)
{
	return c->size && c->pretouch <= c->size && c->acct <= SLAB_ACCT_PER_GROUP &&
	       c->reparent <= SLAB_REPARENT_WALK && c->emerg <= SLAB_EMERG_OFF &&
	       c->stock_pages < UINT32_MAX / PAGE_BYTES;
}

static void set_defaults(struct slab_config *c)
{
	if (!c->groups)
		c->groups = SLAB_GROUPS;
	if (!c->stock_pages)
		c->stock_pages = SLAB_STOCK_PAGES;
	if (!c->emerg_wait_ms)
		c->emerg_wait_ms = SLAB_EMERG_WAIT_MS;
}

static int make_caches(struct slabs *s)
{
	/* By id of group, from 1 on; only with caches per group is there another than the root's. */
	s->n_caches = (s->config.acct == SLAB_ACCT_PER_GROUP ? s->config.groups + 1 : 2) * CLASSES;
	s->cache = calloc(s->n_caches, sizeof(*s->cache));
	s->shared = calloc(CLASSES, sizeof(*s->shared));
	if (!s->cache || !s->shared)
		return -ENOMEM;
	for (unsigned i = 0; i < CLASSES; i++)
		cache_init(s, &s->shared[i], i, ROOT_ID * CLASSES + i, NULL);
	return 0;
}

static void free_caches(struct slabs *s)
{
	for (uint32_t i = 2 * CLASSES; s->cache && i < s->n_caches; i += CLASSES)
		free(s->cache[i]);
	free(s->cache);
	free(s->shared);
}

static void destroy(struct slabs *s)
{
	grow_close(s);
	group_exit(s);
	free_caches(s);
	page_close(s);
	pthread_mutex_destroy(&s->page_lock);
	pthread_mutex_destroy(&s->group_lock);
	pthread_mutex_destroy(&s->threads_lock);
	pthread_mutex_destroy(&s->offline_lock);
	free(s);
}

int slab_open(struct slabs **slabs, const struct slab_config *config)
{
	struct slabs *s;
	int err;

	if (!is_valid(config))
		return -EINVAL;
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) < 0)
		return -ENOSYS;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->config = *config;
	set_defaults(&s->config);
	pthread_mutex_init(&s->page_lock, NULL);
	pthread_mutex_init(&s->group_lock, NULL);
	pthread_mutex_init(&s->threads_lock, NULL);
	pthread_mutex_init(&s->offline_lock, NULL);
	LIST_INIT(&s->threads);
	err = make_caches(s);
	if (!err)
		err = group_init(s);
	if (!err)
		err = page_open(s);
	if (!err)
		err = grow_open(s);
	if (err) {
		destroy(s);
		return err;
	}
	/* The root's caches are charged too, once there is a root. */
	for (unsigned i = 0; i < CLASSES && s->config.acct == SLAB_ACCT_PER_GROUP; i++)
		s->shared[i].group = s->root;
	*slabs = s;
	return 0;
}

static bool in_use(struct slabs *s)
{
	bool threads, groups;

	pthread_mutex_lock(&s->threads_lock);
	threads = !LIST_EMPTY(&s->threads);
	pthread_mutex_unlock(&s->threads_lock);
	pthread_mutex_lock(&s->group_lock);
	groups = s->root->children;
	pthread_mutex_unlock(&s->group_lock);
	cache_reap_all(s);
	return threads || groups || __atomic_load_n(&s->counters.emerg_cur, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&s->counters.slabs, __ATOMIC_RELAXED);
}

int slab_close(struct slabs *s)
{
	if (!s)
		return 0;
	if (in_use(s))
		return -EBUSY;
	destroy(s);
	return 0;
}

void slab_counters(struct slabs *s, struct slab_counters *counters)
{
	struct slab_thread *t;

	pthread_mutex_lock(&s->threads_lock);
	counter_copy(counters, &s->counters, sizeof(*counters) / sizeof(uint64_t));
	LIST_FOREACH (t, &s->threads, at) {
		uint64_t kept[PER_THREAD];

		counter_copy(kept, &t->allocs, PER_THREAD);
		thread_count(t, &counters->allocs, &counters->frees);
		counters->allocs += kept[0];
		counters->frees += kept[1];
		counters->mag_misses += kept[2];
		counters->stock_misses += kept[3];
	}
	pthread_mutex_unlock(&s->threads_lock);
	for (uint32_t i = 0; i < s->n_caches; i++) {
		struct slab_cache *c = cache_at(s, i);

		if (c)
			counters->empty_bytes += __atomic_load_n(&c->empty, __ATOMIC_RELAXED) * c->pages * PAGE_BYTES;
	}
}

uint64_t slab_trim(struct slabs *s)
{
	uint64_t bytes;

	slab_drain(s);
	/* Or what it brings comes when all has gone. */
	grow_settle(s);
	pthread_mutex_lock(&s->offline_lock);
	cache_reap_all(s);
	bytes = page_give_back(s);
	pthread_mutex_unlock(&s->offline_lock);
	return bytes;
}
