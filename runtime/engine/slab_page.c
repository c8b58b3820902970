// SPDX-License-Identifier: MIT
/*
 * Pages of the one mapping. The lowest arena that has touched pages gives them, so that the others empty; a slab's
 * pages lie in one word of the bitmaps. Descriptors are carved from a mapping of their own and never go back to the
 * system: 1 to 7 % of the slabs they have described at most.
 */
#include "engine/slab_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HEADER_MAX   (sizeof(struct slab) + 64 * OWNER_BYTES) /* of a slab of 64 objects */
#define HEADER_SIZES 2048 /* bytes: the sum of all sizes of descriptors, which do not share their free lists */

static void *reserve(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	/* cppcheck-suppress memleak ; it is what is returned */
	return memory == MAP_FAILED ? NULL : memory;
}

/* Kernels before 5.14 do not know the advice; the pages are there all the same. */
static void touch(char *memory, size_t size)
{
	if (!madvise(memory, size, MADV_POPULATE_WRITE))
		return;
	for (size_t i = 0; i < size; i += PAGE_BYTES)
		*(volatile char *)(memory + i) = 0;
}

/* The first of `n` neighbours in a word, or -1. */
static int find_run(uint64_t word, unsigned n)
{
	for (unsigned i = 1; i < n; i++)
		word &= word >> 1;
	return word ? __builtin_ctzll(word) : -1;
}

static int take_run(struct slabs *s, unsigned n, size_t *page)
{
	for (unsigned a = s->first_ready; a < s->n_arenas; a++) {
		struct arena *arena = &s->arena[a];

		if (!arena->n_ready && a == s->first_ready)
			s->first_ready++;
		if (arena->n_ready < n || atomic_load(&arena->isolated) || arena->offline)
			continue;
		for (unsigned w = 0; w < ARENA_WORDS; w++) {
			int bit = find_run(arena->free[w] & arena->touched[w], n);

			if (bit < 0)
				continue;
			arena->free[w] &= ~(((1ULL << n) - 1) << bit);
			arena->n_free -= n;
			arena->n_ready -= n;
			*page = (size_t)a * ARENA_PAGES + w * 64 + (unsigned)bit;
			return 0;
		}
	}
	return -EAGAIN;
}

static void put_run(struct slabs *s, size_t page, unsigned n)
{
	unsigned a = (unsigned)(page / ARENA_PAGES);
	struct arena *arena = &s->arena[a];

	arena->free[page % ARENA_PAGES / 64] |= ((1ULL << n) - 1) << page % 64;
	arena->n_free += n;
	arena->n_ready += n;
	if (a < s->first_ready)
		s->first_ready = a;
}

static struct slab *take_header(struct slabs *s, unsigned size)
{
	struct slab *slab = s->free_headers[size / 8];

	if (slab) {
		s->free_headers[size / 8] = (struct slab *)(void *)slab->base;
		return slab;
	}
	if (s->meta_used + size > s->meta_size)
		return NULL;
	slab = (struct slab *)(void *)(s->meta + s->meta_used);
	s->meta_used += size;
	count(&s->counters.meta_bytes, size);
	return slab;
}

static void put_header(struct slabs *s, struct slab *slab, unsigned size)
{
	slab->base = (char *)s->free_headers[size / 8];
	s->free_headers[size / 8] = slab;
}

static void init_slab(struct slabs *s, const struct slab_cache *c, struct slab *slab, size_t page)
{
	memset(slab, 0, c->header);
	slab->base = s->base + page * PAGE_BYTES;
	slab->free = c->objects == 64 ? UINT64_MAX : (1ULL << c->objects) - 1;
	slab->reciprocal = c->reciprocal;
	slab->cache = c->index;
	slab->pages = c->pages;
	slab->objects = c->objects;
	for (unsigned i = 0; i < c->pages; i++)
		s->slab_of_page[page + i] = slab;
}

int page_take_slab(struct slabs *s, const struct slab_cache *c, struct slab **slab)
{
	size_t page;
	int err;

	pthread_mutex_lock(&s->page_lock);
	err = take_run(s, c->pages, &page);
	if (!err) {
		*slab = take_header(s, c->header);
		if (*slab) {
			init_slab(s, c, *slab, page);
		} else {
			put_run(s, page, c->pages);
			err = -ENOMEM;
		}
	}
	pthread_mutex_unlock(&s->page_lock);
	if (err)
		return err;
	count(&s->counters.slabs, 1);
	count(&s->counters.slab_bytes, c->pages * PAGE_BYTES);
	count(&s->counters.ready_bytes, -(uint64_t)(c->pages * PAGE_BYTES));
	return 0;
}

void page_put_slab(struct slabs *s, const struct slab_cache *c, struct slab *slab)
{
	size_t page = page_of(s, slab->base);

	pthread_mutex_lock(&s->page_lock);
	for (unsigned i = 0; i < c->pages; i++)
		s->slab_of_page[page + i] = NULL;
	put_run(s, page, c->pages);
	put_header(s, slab, c->header);
	pthread_mutex_unlock(&s->page_lock);
	count(&s->counters.slabs, -1ULL);
	count(&s->counters.slab_bytes, -(uint64_t)(c->pages * PAGE_BYTES));
	count(&s->counters.ready_bytes, c->pages * PAGE_BYTES);
}

/* Free pages of a word that are not touched yet, taken. 0: it has none. */
static uint64_t take_untouched_of(struct arena *arena, unsigned w)
{
	uint64_t pages = arena->free[w] & ~arena->touched[w];

	arena->free[w] &= ~pages;
	arena->n_free -= (unsigned)__builtin_popcountll(pages);
	return pages;
}

/* Those of the first word that has some, and which it is. 0: there are none. */
static uint64_t take_untouched(struct slabs *s, size_t *word)
{
	uint64_t pages = 0;

	pthread_mutex_lock(&s->page_lock);
	for (unsigned a = 0; a < s->n_arenas && !pages; a++) {
		struct arena *arena = &s->arena[a];

		if (arena->n_free == arena->n_ready || atomic_load(&arena->isolated) || arena->offline)
			continue;
		for (unsigned w = 0; w < ARENA_WORDS && !pages; w++) {
			pages = take_untouched_of(arena, w);
			*word = (size_t)a * ARENA_WORDS + w;
		}
	}
	pthread_mutex_unlock(&s->page_lock);
	return pages;
}

static void touch_pages(char *base, uint64_t pages)
{
	while (pages) {
		unsigned from = (unsigned)__builtin_ctzll(pages);
		uint64_t rest = pages >> from;
		unsigned n = rest == UINT64_MAX ? 64 : (unsigned)__builtin_ctzll(~rest);

		touch(base + (size_t)from * PAGE_BYTES, (size_t)n * PAGE_BYTES);
		pages &= n == 64 ? 0 : ~(((1ULL << n) - 1) << from);
	}
}

/* Descriptors for all pages that are ready, of the largest size; so that nobody but this thread waits for memory. */
static void touch_meta(struct slabs *s)
{
	uint64_t ready = __atomic_load_n(&s->counters.ready_bytes, __ATOMIC_RELAXED) / PAGE_BYTES;
	size_t from, to;

	pthread_mutex_lock(&s->page_lock);
	from = s->meta_touched;
	to = (s->meta_used + ready * HEADER_MAX + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	if (to > s->meta_size)
		to = s->meta_size;
	if (to > from)
		s->meta_touched = to;
	pthread_mutex_unlock(&s->page_lock);
	if (to <= from || !madvise(s->meta + from, to - from, MADV_POPULATE_WRITE))
		return;
	/* Somebody may be writing there already. */
	for (; from < to; from += PAGE_BYTES)
		__atomic_fetch_add(s->meta + from, 0, __ATOMIC_RELAXED);
}

int page_grow(struct slabs *s)
{
	size_t word = 0;
	uint64_t pages = take_untouched(s, &word);
	unsigned n = (unsigned)__builtin_popcountll(pages), a = (unsigned)(word / ARENA_WORDS), w = word % ARENA_WORDS;

	if (!pages)
		return -ENOSPC;
	touch_pages(s->base + word * 64 * PAGE_BYTES, pages);
	count(&s->counters.ready_bytes, (uint64_t)n * PAGE_BYTES);
	touch_meta(s);
	pthread_mutex_lock(&s->page_lock);
	s->arena[a].free[w] |= pages;
	s->arena[a].touched[w] |= pages;
	s->arena[a].n_free += n;
	s->arena[a].n_ready += n;
	if (a < s->first_ready)
		s->first_ready = a;
	pthread_mutex_unlock(&s->page_lock);
	return 0;
}

/* MADV_DONTNEED refuses memory that is locked; Linux 5.18 has an advice that does not. */
static bool give_back(char *memory, size_t size)
{
	return !madvise(memory, size, MADV_DONTNEED) || !madvise(memory, size, MADV_DONTNEED_LOCKED);
}

static unsigned give_back_word(struct slabs *s, unsigned a, unsigned w)
{
	struct arena *arena = &s->arena[a];
	unsigned n = 0;

	for (unsigned bit = 0; bit < 64; bit++) {
		uint64_t mask = 1ULL << bit;
		size_t page = (size_t)a * ARENA_PAGES + w * 64 + bit;

		if (!(arena->free[w] & arena->touched[w] & mask) || !give_back(s->base + page * PAGE_BYTES, PAGE_BYTES))
			continue;
		arena->touched[w] &= ~mask;
		n++;
	}
	arena->n_ready -= n;
	return n;
}

/* All pages of an arena that are free. With page_lock held. */
static uint64_t give_back_arena(struct slabs *s, unsigned a)
{
	uint64_t n = 0;

	if (s->arena[a].n_ready == ARENA_PAGES && give_back(s->base + (size_t)a * SLAB_ARENA_BYTES, SLAB_ARENA_BYTES)) {
		memset(s->arena[a].touched, 0, sizeof(s->arena[a].touched));
		s->arena[a].n_ready = 0;
		n = ARENA_PAGES;
	}
	for (unsigned w = 0; w < ARENA_WORDS && s->arena[a].n_ready; w++)
		n += give_back_word(s, a, w);
	count(&s->counters.returned_bytes, n * PAGE_BYTES);
	count(&s->counters.ready_bytes, -(n * PAGE_BYTES));
	return n * PAGE_BYTES;
}

/* Of descriptors, what was made ready for pages that have just gone. */
static void give_back_meta(struct slabs *s)
{
	size_t from = (s->meta_used + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

	if (from < s->meta_touched && give_back(s->meta + from, s->meta_touched - from))
		s->meta_touched = from;
}

uint64_t page_give_back(struct slabs *s)
{
	uint64_t bytes = 0;

	for (unsigned a = 0; a < s->n_arenas; a++) {
		pthread_mutex_lock(&s->page_lock);
		bytes += give_back_arena(s, a);
		pthread_mutex_unlock(&s->page_lock);
	}
	pthread_mutex_lock(&s->page_lock);
	give_back_meta(s);
	pthread_mutex_unlock(&s->page_lock);
	return bytes;
}

int page_isolate(struct slabs *s, unsigned a, bool isolated)
{
	int err = 0;

	if (a >= s->n_arenas)
		return -EINVAL;
	pthread_mutex_lock(&s->page_lock);
	if (s->arena[a].offline)
		err = -EINVAL;
	else
		atomic_store(&s->arena[a].isolated, isolated);
	if (!isolated && a < s->first_ready)
		s->first_ready = a;
	pthread_mutex_unlock(&s->page_lock);
	return err;
}

int page_online(struct slabs *s, unsigned a)
{
	int err = -EINVAL;

	if (a >= s->n_arenas)
		return err;
	pthread_mutex_lock(&s->page_lock);
	if (s->arena[a].offline)
		err = 0;
	s->arena[a].offline = false;
	pthread_mutex_unlock(&s->page_lock);
	return err;
}

struct slab *page_slab_at(struct slabs *s, size_t page, uint32_t *cache)
{
	struct slab *slab;

	pthread_mutex_lock(&s->page_lock);
	slab = s->slab_of_page[page];
	if (slab && page_of(s, slab->base) != page)
		slab = NULL;
	if (slab)
		*cache = slab->cache;
	pthread_mutex_unlock(&s->page_lock);
	return slab;
}

bool page_take_arena(struct slabs *s, unsigned a)
{
	bool free;

	pthread_mutex_lock(&s->page_lock);
	free = s->arena[a].n_free == ARENA_PAGES;
	if (free) {
		give_back_arena(s, a);
		s->arena[a].offline = true;
		atomic_store(&s->arena[a].isolated, false);
	}
	pthread_mutex_unlock(&s->page_lock);
	return free;
}

/* The mapping begins at a multiple of an arena: what is before and behind goes back. */
static int map_all(struct slabs *s, size_t size)
{
	char *memory = reserve(size + SLAB_ARENA_BYTES);
	size_t skip;

	if (!memory)
		return -ENOMEM;
	skip = -(uintptr_t)memory % SLAB_ARENA_BYTES;
	if (skip)
		munmap(memory, skip);
	munmap(memory + skip + size, SLAB_ARENA_BYTES - skip);
	s->base = memory + skip;
	s->size = size;
	s->slab_of_page = reserve(size / PAGE_BYTES * sizeof(*s->slab_of_page));
	s->meta_size = size / PAGE_BYTES * HEADER_SIZES;
	s->meta = reserve(s->meta_size);
	s->arena = calloc(size / SLAB_ARENA_BYTES, sizeof(*s->arena));
	return s->slab_of_page && s->meta && s->arena ? 0 : -ENOMEM;
}

int page_open(struct slabs *s)
{
	size_t size = (s->config.size + SLAB_ARENA_BYTES - 1) & ~(size_t)(SLAB_ARENA_BYTES - 1);
	int err = map_all(s, size);

	if (err)
		return err;
	s->n_arenas = (unsigned)(size / SLAB_ARENA_BYTES);
	for (unsigned a = 0; a < s->n_arenas; a++) {
		memset(s->arena[a].free, 0xff, sizeof(s->arena[a].free));
		s->arena[a].n_free = ARENA_PAGES;
	}
	/* Fewer misses of the TLB where the memory is there anyway; elsewhere it would take 2 MiB for a page. */
	madvise(s->base, size, MADV_NOHUGEPAGE);
	if (s->config.pretouch)
		madvise(s->base, s->config.pretouch / SLAB_ARENA_BYTES * SLAB_ARENA_BYTES, MADV_HUGEPAGE);
	for (size_t done = 0; done < s->config.pretouch && !err; done += 64 * PAGE_BYTES)
		err = page_grow(s);
	return 0;
}

void page_close(struct slabs *s)
{
	if (s->base)
		munmap(s->base, s->size);
	if (s->slab_of_page)
		munmap(s->slab_of_page, s->size / PAGE_BYTES * sizeof(*s->slab_of_page));
	if (s->meta)
		munmap(s->meta, s->meta_size);
	free(s->arena);
}
