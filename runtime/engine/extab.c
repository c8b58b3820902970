// SPDX-License-Identifier: MIT
#include "engine/extab.h"

#include <errno.h>
#include <sys/mman.h>

struct extab_entry {
	uint32_t key; /* the chunk + 1; 0: free */
	uint32_t slot;
};

/* At most this part of the places is taken: linear probing looks at 2.5 of them then when there is nothing to find. */
#define LOAD_NUMERATOR	 2
#define LOAD_DENOMINATOR 3

int extab_open(struct extab *t, uint64_t max)
{
	uint64_t size = 16;

	if (max > UINT32_MAX / 2)
		return -EFBIG;
	while (size * LOAD_NUMERATOR / LOAD_DENOMINATOR < max)
		size *= 2;
	t->entries = mmap(NULL, size * sizeof(*t->entries), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (t->entries == MAP_FAILED)
		return -ENOMEM;
	t->mask = (uint32_t)(size - 1);
	t->n = 0;
	t->max = max;
	return 0;
}

size_t extab_bytes(const struct extab *t)
{
	return ((size_t)t->mask + 1) * sizeof(*t->entries);
}

void extab_close(struct extab *t)
{
	if (t->entries)
		munmap(t->entries, extab_bytes(t));
	t->entries = NULL;
}

/* Neighbours lie in one line of the cache, and strides of a power of two do not meet. */
static uint32_t home(const struct extab *t, uint32_t chunk)
{
	/* Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4) of groups of eight. */
	return (((chunk >> 3) * 2654435769U) >> 3 << 3 | (chunk & 7)) & t->mask;
}

static struct extab_entry *look(const struct extab *t, uint32_t chunk)
{
	uint32_t at = home(t, chunk);

	while (t->entries[at].key && t->entries[at].key != chunk + 1)
		at = (at + 1) & t->mask;
	return &t->entries[at];
}

bool extab_find(const struct extab *t, uint32_t chunk, uint32_t *slot)
{
	const struct extab_entry *e = look(t, chunk);

	*slot = e->slot;
	return e->key;
}

int extab_add(struct extab *t, uint32_t chunk, uint32_t slot)
{
	struct extab_entry *e = look(t, chunk);

	if (e->key)
		return -EEXIST;
	if (t->n >= t->max)
		return -ENOSPC;
	*e = (struct extab_entry){ .key = chunk + 1, .slot = slot };
	t->n++;
	return 0;
}

bool extab_remove(struct extab *t, uint32_t chunk)
{
	uint32_t hole = (uint32_t)(look(t, chunk) - t->entries), at = hole;

	if (!t->entries[hole].key)
		return false;
	/* What was put behind it because the place was taken moves up; a mark instead would stay for ever. */
	for (;;) {
		uint32_t from;

		at = (at + 1) & t->mask;
		if (!t->entries[at].key)
			break;
		from = home(t, t->entries[at].key - 1);
		if (((at - from) & t->mask) < ((at - hole) & t->mask))
			continue;
		t->entries[hole] = t->entries[at];
		hole = at;
	}
	t->entries[hole] = (struct extab_entry){ 0 };
	t->n--;
	return true;
}
