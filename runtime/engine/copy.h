// SPDX-License-Identifier: MIT
/*
 * Copy jobs in the shape of dm-kcopyd: one source, up to COPY_MAX_DESTS destinations, read once and written to each.
 *
 * A job is where it is in the lists of its client, and nothing else holds its state:
 *
 *   pages      more of it is to be copied, as soon as there are parts (memory of one sub-job each)
 *   callback   it has nothing to copy, or was finished by others: its callback is to be called
 *   complete   all of it is copied: likewise
 *
 * and its parts are in the list `io`, each to be read or to be written, or in flight. One call of copy_work() goes
 * through callback, complete, pages and io in this order: what completes frees memory for what waits for it.
 *
 * Where the kernel can copy by itself it is asked to, and the part has no data; what it refuses, or fails at, is read
 * and written as ever, and fails there.
 *
 * Memory: parts are taken when the client is made. When they run out, jobs wait at the head of `pages`; a
 * job that has one needs nothing else to come to the end of it and give it back. All calls, and all callbacks, are of
 * the loop's one thread.
 */
#ifndef HEADROOM_ENGINE_COPY_H
#define HEADROOM_ENGINE_COPY_H

#include "engine/io.h"

#define COPY_MAX_DESTS 16
/* Regions that a gathering job reads; 512 KiB of the smallest chunks, 4 KiB. */
#define COPY_MAX_PIECES 128
#define COPY_MIN_PIECE	4096U

struct copy_client;

struct copy_opts {
	/*
	 * Bytes of a sub-job, at most: KiB, 4 to 1024, a power of two; 0: 512, as dm-kcopyd has it
	 * (DEFAULT_SUB_JOB_SIZE_KB of drivers/md/dm-kcopyd.c; 64 -> 512 gave 96 % more bandwidth there).
	 */
	unsigned subjob_kib;
	/* Bytes of memory for parts; UINT64_MAX: as much as they come to, which is the mitigation's `off`. 0: 64 MiB.
	 */
	uint64_t staging_bytes;
	/* Sub-jobs of a job at a time; 0: 8 (SPLIT_COUNT there). */
	unsigned split;
	/* Percent of time in which there may be I/O in flight; 100: no throttle. 0 is read as 100. */
	unsigned throttle_pct;
	/* As dm-kcopyd before 5.0: what callbacks finish is called in the same run, however much follows from it. */
	bool no_callback_split;
};

struct copy_piece {
	uint64_t offset;
	uint32_t len;
};

struct copy_dest {
	struct target *target;
	uint64_t offset;
};

/* The submitter's, until done() is called. Offsets and lengths are multiples of all targets' blocks. */
struct copy_job {
	struct target *source;
	/* One region, or, with n_pieces, several regions of the source, one behind the other in each destination. */
	uint64_t offset, len;
	const struct copy_piece *pieces;
	unsigned n_pieces; /* of COPY_MIN_PIECE bytes at least, together no more than a sub-job */
	unsigned n_dests;  /* 0: there is nothing to copy */
	struct copy_dest dests[COPY_MAX_DESTS];
	void (*done)(struct copy_job *job);
	void *owner;

	/* The outcome: -errno of the read, which then reached no destination as a whole; of the write to each. */
	int read_err;
	int write_err[COPY_MAX_DESTS];

	/* The client's. */
	TAILQ_ENTRY(copy_job) at;
	uint64_t next; /* bytes of it that were handed out to parts */
	unsigned parts;
	bool queued; /* in `pages` */
	bool staged; /* the kernel was asked to copy it, and did not */
};

/* Readable from any thread. */
struct copy_counters {
	uint64_t jobs, jobs_peak;    /* not yet told, now and at the most */
	uint64_t parts, parts_peak;  /* in use */
	uint64_t staging_bytes_peak; /* memory of parts, at the most */
	uint64_t waits;		     /* for a part */
	uint64_t from_reserve;	     /* the part was the last one */
	uint64_t bytes;		     /* copied, once for each destination */
	uint64_t reads, writes;	     /* requests */
	uint64_t merged;	     /* pieces that were read together with the one before */
	uint64_t throttle_sleeps;    /* of 100 ms */
	uint64_t run_max;	     /* callbacks in one run, at the most */
	uint64_t run_ns_max;	     /* the longest run of callbacks */
};

/* The loop's registered memory becomes the client's parts. 0 or -errno. */
int copy_client_open(struct io_loop *loop, const struct copy_opts *opts, struct copy_client **client);
/* No job is left: the submitter has seen to it (copy_client_idle()). */
void copy_client_close(struct copy_client *c);
bool copy_client_idle(const struct copy_client *c);
void copy_set_throttle(struct copy_client *c, unsigned pct);

void copy_submit(struct copy_client *c, struct copy_job *job);
/* Have done() called in turn with the others, although nothing is copied: also from other callbacks. */
void copy_do_callback(struct copy_client *c, struct copy_job *job);
/* Do what can be done now. True: it called back, or can at once: who waits for I/O first might wait for nothing. */
bool copy_work(struct copy_client *c);
/* When the throttle lets go on (CLOCK_MONOTONIC); INT64_MAX: nothing waits for it. */
int64_t copy_next_ns(const struct copy_client *c);
unsigned copy_subjob_bytes(const struct copy_client *c);
uint64_t copy_jobs(const struct copy_client *c);
void copy_read_counters(const struct copy_client *c, struct copy_counters *counters);

#endif
