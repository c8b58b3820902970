// SPDX-License-Identifier: MIT
/*
 * An origin and its snapshots, as dm-snapshot has them: the first write to a chunk of the origin copies what is there
 * to every store that lacks it, before the write goes on.
 *
 *   write of a chunk that a store lacks -> gate (cap on chunks in flight) -> todo -> batch, one copy job: read once,
 *   written to all stores -> exceptions committed, in each store in the order in which its slots were given out -> the
 *   writes that waited go to the origin
 *
 * Chunks that wait in `todo` for the copies before them are copied together, and neighbours among them by one request:
 * where little is going on nothing waits, where much is, a batch has many and costs few requests.
 *
 * A store that is full, or fails, becomes invalid, alone: its header says so before any write that it would have had to
 * see goes on. A write that finds the gate closed waits in a list, without a lock; completions never wait.
 *
 * One thread makes all calls and gets all callbacks. Functions with a deadline serve the others' requests while they
 * wait, and must not be called from callbacks.
 */
#ifndef HEADROOM_ENGINE_SNAP_H
#define HEADROOM_ENGINE_SNAP_H

#include "engine/copy.h"
#include "engine/exstore.h"

#define SNAP_MAX_STORES COPY_MAX_DESTS
#define SNAP_ORIGIN	(-1)
#define SNAP_UNLIMITED	UINT32_MAX

struct snap;

struct snap_opts {
	uint32_t chunk_bytes; /* EXSTORE_MIN_CHUNK to EXSTORE_MAX_CHUNK, and no more than a sub-job; default 4096 */
	/*
	 * Chunks being copied at which writes that need another copy begin to wait: dm-snapshot's
	 * snapshot_cow_threshold, default 2048, SNAP_UNLIMITED: none. As there, the check is for more than it, so that
	 * 0 is one at a time.
	 */
	uint32_t cow_threshold;
	bool durable; /* stores that are right after a power cut: flush and FUA; default true */
	/*
	 * With so many copy jobs unfinished, chunks wait for their number to be worth a job; default 1, 0: every
	 * chunk is a job of its own at once (dm-snapshot).
	 */
	unsigned gather_jobs;
};

void snap_opts_default(struct snap_opts *opts);

TAILQ_HEAD(req_list, snap_req);

/* A request. It is the submitter's until done() was called, from snap_run() or what calls it, never from snap_submit().
 */
struct snap_req {
	enum io_op op; /* snapshots can only be read */
	int store;     /* SNAP_ORIGIN, or the number of a store */
	bool durable;
	uint64_t offset; /* this and len: multiples of the targets' blocks; within the origin */
	char *data;
	uint32_t len;
	int err; /* 0; -EINVAL: outside; -EROFS; -ENOENT: no such store; -EIO: it is invalid; or what the device said */
	void (*done)(struct snap_req *r);
	void *owner;

	/* The engine's. */
	TAILQ_ENTRY(snap_req) at;
	TAILQ_ENTRY(snap_req) tracked_at;
	struct req_list blocked; /* writes that wait for this read of a snapshot to leave the origin */
	struct snap *snap;
	bool tracked;
	void *uses; /* the store that has to stay for it */
	uint32_t moved;
	int64_t gated_ns;
	struct io io;
};

/* Readable from any thread. */
struct snap_counters {
	uint64_t in_progress, in_progress_peak; /* chunks being copied */
	uint64_t gate_waits, gate_wait_ns;
	uint64_t overshoot; /* in_progress_peak beyond the threshold + 1, at the most; 0 without a threshold */
	uint64_t chunks;    /* copied, each once however many stores got it */
	uint64_t batches;
	uint64_t exceptions;	/* committed, in all stores */
	uint64_t commits;	/* writes of metadata that committed them */
	uint64_t invalidated;	/* stores */
	uint64_t unmarked;	/* of them, those whose device would not take that: opened again, they look valid */
	uint64_t writes, reads; /* requests */
	uint64_t memory_bytes;	/* for chunks, batches and tables, at the most */
};

/* The origin and the client stay the caller's, and outlive it. 0, -EINVAL or -ENOMEM. */
int snap_open(struct io_loop *loop, struct copy_client *copy, struct target *origin, const struct snap_opts *opts,
	      struct snap **snap);
/*
 * Finish what goes on, and close; stores keep what they have. -ETIMEDOUT: something does not end, and nothing is
 * freed.
 */
int snap_close(struct snap *s, int64_t deadline_ns);

/* --- Requests --- */

void snap_submit(struct snap *s, struct snap_req *r);
/*
 * One round of everything: copies, commits, I/O. Waits for something to end until the deadline when there is nothing to
 * do (CLOCK_MONOTONIC; 0: does not wait). 0 or -errno of the loop.
 */
int snap_run(struct snap *s, int64_t deadline_ns);
bool snap_idle(const struct snap *s);
void snap_read_counters(const struct snap *s, struct snap_counters *counters);

/* --- Snapshots. Numbers are 0 to SNAP_MAX_STORES - 1, and are used again. --- */

struct snap_store_opts {
	bool persistent;
	const char *name;
};

struct snap_info {
	char name[EXSTORE_NAME];
	bool valid, persistent, merging;
	uint64_t used, chunks; /* slots; slots in all */
	uint64_t exceptions;
	uint64_t sequence;
	int64_t made_s;
};

/*
 * Make a snapshot of the origin as it is now in an empty store on all of the target, which is the engine's from here on
 * and is closed with it. The number, or -errno: -ENOSPC: there are SNAP_MAX_STORES, or no room for a chunk; -EBUSY: one
 * is being merged; -ETIMEDOUT: writes to the origin did not end. The target is the caller's again then. -EINPROGRESS:
 * its device does not answer; the store stays, invalid, until it is deleted.
 */
int snap_create(struct snap *s, struct target *t, const struct snap_store_opts *opts, int64_t deadline_ns);
/*
 * Take up a persistent store. As above, and exstore_open()'s errors; -EBUSY: another's merge was cut as well. No write
 * of the origin may come before all its stores are there.
 */
int snap_attach(struct snap *s, struct target *t, int64_t deadline_ns);
/* All are: if the merge of one was cut, it goes on. Until then the origin only looks like that snapshot. */
void snap_resume_merge(struct snap *s);
/*
 * Its data is lost, and its target closed. -ENOENT; -EBUSY: it is merged, or deleted; -ETIMEDOUT: somebody still reads
 * from it, or its device does not answer (then it goes on, and writes to the origin wait for it); or -errno of the
 * wipe: the snapshot is what it was.
 */
int snap_delete(struct snap *s, int store, int64_t deadline_ns);
/*
 * Have the origin become what this snapshot is, from now on for all who read the origin, while it is copied back; other
 * snapshots keep what they are. The store is deleted when all is copied. Goes on in snap_run(), and after a crash by
 * snap_resume_merge(). 0, -ENOENT, -EBUSY: one is merged already; -EIO: it is invalid; -EINVAL: it is not
 * persistent; or -errno of the header's write: then the snapshot is lost, and the origin what it was.
 */
int snap_merge(struct snap *s, int store, int64_t deadline_ns);
/* 0, or -ENOENT. */
int snap_store_info(const struct snap *s, int store, struct snap_info *info);

#endif
