// SPDX-License-Identifier: MIT
/*
 * Memory blocks (/sys/devices/system/memory): what there is, and taking it offline and online.
 *
 * An offline that cannot move a page goes on for ever, and a handled signal only makes it begin again where it waits
 * for the lock of hotplug: so each write is made by a child of its own, which is ended with SIGKILL when its time is
 * up. Whether a block can go is not asked of `removable`, which says nothing since Linux 5.8, but found out.
 */
#ifndef HEADROOM_MEMBLOCK_H
#define HEADROOM_MEMBLOCK_H

#include "hotplug/stack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MEMBLOCK_ROOT "/sys/devices/system/memory"
#define MEMBLOCK_MAX  4096 /* half a TiB in blocks of 128 MiB */

enum memblock_state { MEMBLOCK_ONLINE, MEMBLOCK_OFFLINE, MEMBLOCK_GOING };

struct memblock {
	unsigned id;	     /* N of memoryN: its directory */
	uint64_t phys_index; /* of its first byte, in block sizes */
	enum memblock_state state;
	char zones[64]; /* valid_zones: "Movable", "Normal Movable"; "none": cannot go offline, or is not online */
};

/* How large a block is. 0 or -errno; -ENOENT: the kernel has no hotplug of memory. */
int memblock_size(const char *root, uint64_t *bytes);
/* The blocks by their numbers, up to `max`. How many, or -errno. One that goes away meanwhile is left out. */
int memblock_list(const char *root, struct memblock *blocks, size_t max);
int memblock_read(const char *root, unsigned id, struct memblock *b);
/* Is all of it in zone Movable: what a kernel that keeps its word can empty? */
bool memblock_movable(const struct memblock *b);

/* The physical address of a page of this process that it has touched (/proc/self/pagemap; root). 0: not known. */
uint64_t memblock_address(const void *page);
/* The block that has this physical address. 0 or -errno; -ENOENT: none has. */
int memblock_at(const char *root, uint64_t address, struct memblock *b);

/* One attempt to change a block's state. */
struct memblock_try {
	const char *root, *state; /* as given: owned by the caller */
	unsigned id;
	pid_t pid;		/* of the child that writes */
	int err;		/* 0, or -errno as the kernel said it: -EINTR when it was ended at the bound */
	bool ended;		/* at the bound, by us */
	bool hangs;		/* and did not even end then */
	char where[STACK_NAME]; /* the part of the offline that it was in when it was to be ended; empty: not known */
	int64_t begin_ns, bound_ns; /* as given */
	int64_t took_ns;	    /* until the write came back, or was given up */
	bool counted;		    /* these two could be read: */
	uint64_t migrated;	    /* pages, all over the machine meanwhile (pgmigrate_success) */
	uint64_t failed;	    /* attempts (pgmigrate_fail) */
};

/*
 * Begin to write `state` into the block's file, in a child. -errno in .err when there is none. bound_ns: after which it
 * is to be ended; whoever began it does that (memblock_kill()), and where he cannot, the child does it by itself a
 * moment later. 0: no bound.
 *
 * For he may not come to it: an offline takes thousands of pages off the LRU lists before it moves them, and while more
 * are away than are left on the inactive list, everybody who needs memory waits (too_many_isolated(), mm/vmscan.c), the
 * offline for the pages that it moves them to, and who looks after it as well. On 6.1 that stood for two minutes.
 */
struct memblock_try memblock_begin(const char *root, unsigned id, const char *state, int64_t bound_ns);
/* Has it come back? Waits until `until_ns` (CLOCK_MONOTONIC). Then the rest of *t is filled in. */
bool memblock_ended(struct memblock_try *t, int64_t until_ns);
/*
 * End it with SIGKILL; fills in the rest of *t. It may take long: the kernel looks for a signal only when it has tried
 * all pages of the block once (mm/memory_hotplug.c, offline_pages()).
 */
void memblock_kill(struct memblock_try *t);
/*
 * The three in one: write `state` ("offline", "online", "online_movable", "online_kernel") into the block's file.
 * bound_ns: how long the write may take; 0: no bound but `deadline_ns` (CLOCK_MONOTONIC), where everything ends.
 * Returns what became of it.
 */
struct memblock_try memblock_write(const char *root, unsigned id, const char *state, int64_t bound_ns,
				   int64_t deadline_ns);

#endif
