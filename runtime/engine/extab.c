// SPDX-License-Identifier: MIT
#include "engine/extab.h"

#include <errno.h>
#include <sys/mman.h>

struct extab_entry {
	uint32_t key; /* the chunk + 1; 0: free */
	uint32_t slot;
};

/*
 * At most this part of the places is taken: linear probing looks at 2 of them then for what is there, at 5 for what is
 * not (Knuth, The Art of Computer Programming 3, 6.4).
 */
#define LOAD_NUMERATOR	 2
#define LOAD_DENOMINATOR 3

#define GROUP_BITS 3 /* eight entries of 8 bytes: a line of the cache */
#define GROUP	   (1U << GROUP_BITS)

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
	t->shift = 32 - (unsigned)__builtin_ctzll(size / GROUP);
	t->n = 0;
	t->max = max;
	return 0;
}

size_t extab_bytes(const struct extab *t)
{
	return t->entries ? ((size_t)t->mask + 1) * sizeof(*t->entries) : 0;
}

void extab_close(struct extab *t)
{
	if (t->entries)
		munmap(t->entries, extab_bytes(t));
	t->entries = NULL;
}

/*
 * Neighbours lie in one line of the cache. Their groups are spread by Fibonacci hashing (Knuth, ibid.), whose high bits
 * are the good ones: the low bits of chunks a power of two apart are all the same.
 */
static uint32_t home(const struct extab *t, uint32_t chunk)
{
	return (chunk / GROUP * 2654435769U) >> t->shift << GROUP_BITS | (chunk & (GROUP - 1));
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

uint32_t extab_farthest(const struct extab *t)
{
	uint32_t farthest = 0;

	for (uint32_t at = 0; at <= t->mask; at++) {
		uint32_t away = t->entries[at].key ? (at - home(t, t->entries[at].key - 1)) & t->mask : 0;

		if (away > farthest)
			farthest = away;
	}
	return farthest;
}
