// SPDX-License-Identifier: MIT
/*
 * One file or device copied to another through the copy engine, from its start to its end: a few jobs at a time, each a
 * stretch of data. Holes of the source are holes of the destination, or zeros where it cannot have any.
 *
 * All calls are of one thread, and return at the deadline or before (CLOCK_MONOTONIC), so that the caller can tell how
 * far it is and stop it.
 */
#ifndef HEADROOM_FILECOPY_H
#define HEADROOM_FILECOPY_H

#include "engine/copy.h"

/* Measured: 4 or 8 sub-jobs of 1 MiB need two thirds of the CPU time of 8 of 512 KiB, and are as fast. */
#define FILECOPY_SUBJOB_KIB 1024
#define FILECOPY_SPLIT	    8
#define FILECOPY_JOBS	    2 /* so that the next begins before the last of the parts of one has ended */
#define FILECOPY_SLOTS	    4 /* of a comparison: pieces that are read at a time */

struct filecopy_job {
	struct copy_job job;
	bool busy;
	uint64_t from;
};

struct filecopy;

/* A piece that is read from both sides. */
struct filecopy_pair {
	struct filecopy *f;
	struct io io[2];
	char *data[2];
	uint64_t offset;
	unsigned left;
};

struct filecopy {
	struct io_loop *loop;
	struct copy_client *client;
	struct target *source, *dest;
	uint64_t size;	/* bytes of the source */
	uint32_t align; /* what requests are multiples of */

	/* Set by the caller before the first step. */
	bool dest_is_zero; /* holes need nothing to be done */

	uint64_t next; /* all before it was begun */
	uint64_t done; /* all before it is in the destination */
	uint64_t flushed;
	uint64_t data_end;     /* of the stretch of data that `next` is in */
	uint64_t data_bytes;   /* copied */
	uint64_t holes_bytes;  /* not copied */
	bool holes_are_data;   /* the destination cannot be made zero without writing zeros */
	bool source_has_holes; /* it can be asked for them */

	/* The first failure: -errno, where (to the job), and on which side. */
	int err;
	uint64_t err_at;
	bool err_is_read;

	struct filecopy_job jobs[FILECOPY_JOBS];
	unsigned n_busy;
	struct io flush;
	bool flushing;
	uint64_t flush_mark;
	int flush_err;

	/* The comparison. */
	struct filecopy_pair *pairs;
	char *pair_data;
	uint64_t compared; /* all before it was read; it may still be looked at */
	unsigned n_pairs;
	uint64_t differs_at, differing_bytes;
};

/* Both are open; they stay the caller's. 0 or -errno. */
int filecopy_open(struct filecopy *f, struct io_loop *loop, struct target *source, struct target *dest,
		  unsigned throttle_pct);
/* What is in flight has ended. */
void filecopy_close(struct filecopy *f);
/* All before this offset is there already. */
void filecopy_start_at(struct filecopy *f, uint64_t offset);

/* One round: begin what there is room for, unless `stop`; wait for something to end. 0, or -errno of the loop. */
int filecopy_step(struct filecopy *f, bool stop, int64_t deadline_ns);
/* Everything is copied, or nothing is in flight after a failure or a stop. */
bool filecopy_at_rest(const struct filecopy *f);
/* Begin to flush the destination; `flushed` says when it has ended, and flush_err what came of it. */
void filecopy_flush(struct filecopy *f);

/* Compare both sides, all that either has data in. As filecopy_step(). */
int filecopy_compare_begin(struct filecopy *f);
int filecopy_compare_step(struct filecopy *f, bool stop, int64_t deadline_ns);
bool filecopy_compare_ended(const struct filecopy *f);

#endif
