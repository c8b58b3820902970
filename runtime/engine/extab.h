// SPDX-License-Identifier: MIT
/*
 * Exceptions of one store: which chunk of the origin lies in which of its slots. Open addressing, 8 bytes an entry, all
 * of it taken and touched when it is made, for as many exceptions as the store has room for.
 */
#ifndef HEADROOM_ENGINE_EXTAB_H
#define HEADROOM_ENGINE_EXTAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXTAB_MAX_CHUNK (UINT32_MAX - 1) /* the largest number of a chunk, and of a slot */

struct extab {
	struct extab_entry *entries;
	uint32_t mask;
	unsigned shift; /* of a hash, to the number of a group */
	uint64_t n, max;
};

/* For up to `max` exceptions. 0, -ENOMEM, or -EFBIG: more than 2^31. */
int extab_open(struct extab *t, uint64_t max);
void extab_close(struct extab *t);
bool extab_find(const struct extab *t, uint32_t chunk, uint32_t *slot);
static inline bool extab_has(const struct extab *t, uint32_t chunk)
{
	uint32_t slot;

	return extab_find(t, chunk, &slot);
}
/* 0, -EEXIST: the chunk has one; -ENOSPC: the table is full. */
int extab_add(struct extab *t, uint32_t chunk, uint32_t slot);
/* False: there was none. */
bool extab_remove(struct extab *t, uint32_t chunk);
size_t extab_bytes(const struct extab *t);
/* How far from its place the entry is that is the farthest from it. Looks at all of them. */
uint32_t extab_farthest(const struct extab *t);

#endif
