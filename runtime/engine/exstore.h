// SPDX-License-Identifier: MIT
/*
 * An exception store: where the old contents of an origin's chunks are kept for one snapshot, and the table that says
 * which lie where.
 *
 * Persistent, it has the layout of the kernel's dm-snapshot (drivers/md/dm-snap-persistent.c, version 1), so that
 * either can go on with what the other has written:
 *
 *   chunk 0       header
 *   chunk 1       area 0: chunk_bytes / 16 exceptions { chunk of the origin, slot }, the unused ones zero
 *   then          the slots of area 0, then area 1, its slots, ...
 *
 * Exceptions are appended in the order in which slots were given out, so a zero ends them. An area is written only when
 * the data of all exceptions that are new in it is in its slots; an area that becomes full, only when the next one is
 * zeros. Torn in the middle, such a write has lost nothing but what was not committed. In a sector of the header that
 * the kernel does not use stands what it does not know: name, size and mark of the origin, and whether the store is
 * being merged.
 *
 * Transient, it is slots alone, and what is in them is lost with the process.
 */
#ifndef HEADROOM_ENGINE_EXSTORE_H
#define HEADROOM_ENGINE_EXSTORE_H

#include "engine/extab.h"
#include "engine/io.h"

#define EXSTORE_NAME	  64
#define EXSTORE_MIN_CHUNK 4096U
#define EXSTORE_MAX_CHUNK (512U << 10)

enum exstore_mark { EXSTORE_INVALID, EXSTORE_MERGING, EXSTORE_WIPED };

struct exstore {
	struct io_loop *loop;
	struct target *target; /* the caller's */
	struct extab table;
	uint32_t chunk_bytes;
	uint64_t chunks; /* in the whole store */
	bool persistent, durable;
	char name[EXSTORE_NAME];
	uint64_t origin_bytes; /* 0: the store does not say (a kernel's) */
	uint64_t sequence;     /* of its making, among the stores of its origin */
	int64_t made_s;	       /* CLOCK_REALTIME */
	bool merging;

	uint64_t next_slot;
	uint64_t given; /* slots given out: the exceptions that will be */

	/* The present area: the last that has an exception, or the first. */
	uint32_t per_area, area_n;
	uint64_t area;
	char *buf;    /* its contents; nothing may be changed while it is written */
	char *header; /* for writing it */
	uint32_t dirty_from;

	/* A commit that goes on. */
	bool busy;
	int err;
	enum exstore_mark mark; /* that is being written */
	struct io io;
	void (*then)(struct exstore *x);
	void (*committed)(struct exstore *x, int err);
	void *owner;
};

struct exstore_opts {
	uint32_t chunk_bytes; /* power of two, EXSTORE_MIN_CHUNK to EXSTORE_MAX_CHUNK */
	bool persistent;
	bool durable; /* flush and FUA: right after a power cut too, not only after the end of the process */
	const char *name;
	uint64_t origin_bytes, sequence;
};

/*
 * Make an empty store of all of the target; what it held is lost. Waits for the writes until the deadline. 0, -EINVAL:
 * no such chunk size, or the target's blocks are too large; -ENOSPC: no room for a single chunk; -EFBIG: more than 2^31
 * chunks; or -errno of a write. Where it was not to be waited for (-ETIMEDOUT, or an error of the loop) the request
 * goes on: `busy` says so, and the store is to be closed when it has ended. Else an error leaves nothing behind.
 */
int exstore_make(struct exstore *x, struct io_loop *loop, struct target *t, const struct exstore_opts *opts,
		 int64_t deadline_ns);
/*
 * Open a persistent one; what a power cut has torn in it is put in order. -EBADMSG: what it holds is no store, or
 * contradicts itself (a slot twice, beyond the end, in an area; a chunk twice or beyond the origin): nothing of it can
 * be trusted. -ESTALE: it is one, marked invalid. Of opts only `durable` and origin_bytes are used.
 */
int exstore_open(struct exstore *x, struct io_loop *loop, struct target *t, const struct exstore_opts *opts,
		 int64_t deadline_ns);
/* Nothing goes on in it. */
void exstore_close(struct exstore *x);

/* --- Appending --- */

/* How many slots in a row can be given out now, `most` at the most. 0: it is full. */
uint32_t exstore_run(const struct exstore *x, uint32_t most);
/* Give out so many; the first. */
uint64_t exstore_give(struct exstore *x, uint32_t n);
uint64_t exstore_offset(const struct exstore *x, uint64_t slot);
/* How many exceptions can be added before the next commit; none while one goes on. */
uint32_t exstore_room(const struct exstore *x);
/* Its data is in the slot. In the table at once. */
void exstore_add(struct exstore *x, uint32_t chunk, uint64_t slot);
/* Make what was added part of the store; then committed() is called, from io_run(). A transient store's is called at
 * once. */
void exstore_commit(struct exstore *x);

/* --- Taking away, for merging: from the end --- */

/*
 * The last exceptions, as many as follow each other in both the origin and the store, `most` at the most, in the
 * present area: the lowest chunk and slot. 0: there are none left.
 */
uint32_t exstore_last(const struct exstore *x, uint32_t most, uint32_t *chunk, uint64_t *slot);
/*
 * Take away the last n and commit that. After an error they are not in the table any more, and it is not known whether
 * they are in the store: with 0 it is tried again.
 */
void exstore_drop(struct exstore *x, uint32_t n);

/* --- Header --- */

/* Write what has become of the store; committed() is called then. Also while it is not to be used for anything else. */
void exstore_mark(struct exstore *x, enum exstore_mark mark);

#endif
