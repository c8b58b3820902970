// SPDX-License-Identifier: MIT
/*
 * A stretch of physical memory, such as a DIMM: the blocks that the kernel has made of it, and whether it takes it for
 * memory at all.
 */
#ifndef HEADROOM_MEMRANGE_H
#define HEADROOM_MEMRANGE_H

#include "hotplug/memblock.h"

#define MEMRANGE_IOMEM "/proc/iomem"

struct memrange {
	uint64_t begin, bytes;
};

/* The blocks below `root` that lie in it, by their numbers, up to `max`. How many, or -errno. */
int memrange_blocks(const char *root, const struct memrange *r, struct memblock *blocks, size_t max);
/* Is all of it online? */
bool memrange_is_online(const char *root, const struct memrange *r);
/*
 * How much of it is System RAM by /proc/iomem (`path`). 0 or -errno; -EACCES: the addresses are hidden, as from
 * everybody who is not root.
 */
int memrange_ram(const char *path, const struct memrange *r, uint64_t *bytes);

#endif
