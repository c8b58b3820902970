// SPDX-License-Identifier: MIT
/*
 * An origin with old data on it and the devices that become its snapshots' stores, as slices of the scratch disk, the
 * origin first; and the proof that a snapshot still holds the old data. For all workloads that copy on write.
 *
 * Devices are named RUN-real (the origin), RUN-cow-N (the stores) and RUN-snap-N (what reads as the snapshot).
 */
#ifndef HEADROOM_COW_STACK_H
#define HEADROOM_COW_STACK_H

#include "run/workload.h"

#define COW_STACK_MAX	    64
#define COW_STACK_BLOCK	    4096U      /* PATTERN_BLOCK: unit of the old data's pattern and of its verification */
#define COW_STACK_STEP	    (1U << 20) /* read and written at once */
#define COW_SECTORS_PER_MIB 2048ULL

/* Sizes are in 512-byte sectors. */
struct cow_stack {
	const struct cell *cell;
	uint64_t origin, store, chunk;
	unsigned n; /* stores, up to COW_STACK_MAX */
	bool persistent;
	bool zeros; /* the old data is zeros, which need not be written */
};

/* A device-mapper device's name, and the node that it has. */
struct cow_name {
	char text[64];
};
struct cow_node {
	char path[96];
};

struct cow_name cow_name(const char *run_id, const char *what);
struct cow_name cow_numbered(const char *run_id, const char *what, uint64_t i);
struct cow_node cow_node(struct cow_name name);

/* What a store needs for a copy of every chunk. */
uint64_t cow_store_sectors(uint64_t origin, uint64_t chunk, bool persistent);
/* On the scratch disk. */
uint64_t cow_stack_sectors(const struct cow_stack *s);

/* What follows says itself what went wrong (cell_fail()), and returns 0 or -errno. */

/* A device of ours, noted in the undo log. */
int cow_create(const struct cell *c, struct cow_name name, uint64_t sectors, const char *target, const char *params);
/* The origin, with the old data on it; a store, with no header that a persistent snapshot would take up. */
int cow_make_origin(const struct cow_stack *s);
int cow_make_store(const struct cow_stack *s, uint64_t number);
/* Have dm-snapshot read (and write) RUN-snap-N. */
int cow_map_snapshot(const struct cow_stack *s, uint64_t number);
enum cow_damage { COW_DAMAGE_NONE, COW_DAMAGE_ORIGIN, COW_DAMAGE_SNAPSHOT };
extern const char *const cow_damage_choices[];
/* One block of noise, past who copies: onto the origin's device, or into the first store. To see that the proof sees
 * it. */
int cow_do_damage(const struct cow_stack *s, enum cow_damage damage);
/* What `len` bytes from `offset` of the origin held before. */
void cow_old_data(const struct cow_stack *s, uint64_t offset, void *buf, size_t len);

/* A snapshot that is compared with the old data. */
struct cow_check {
	uint64_t number;
	int fd;
	uint64_t bad_blocks;
};

/* Those from `first` on, which dm-snapshot has not given up: it is told of the others. */
int cow_open_snapshots(const struct cow_stack *s, uint64_t first, struct cow_check *checks, size_t *n);
/* All of them at a time; a block that differs is corruption (cell_corrupt()), and counted. */
int cow_compare(const struct cow_stack *s, struct cow_check *checks, size_t n);
/* Closes them. How many hold the old data. */
uint64_t cow_close_snapshots(struct cow_check *checks, size_t n);

#endif
