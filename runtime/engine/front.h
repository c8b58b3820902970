// SPDX-License-Identifier: MIT
/*
 * Writes of many threads to the one origin of an engine: each thread waits for its own, the engine's thread takes them
 * over in front_run().
 *
 * What bounds the chunks in flight is the engine's own gate, at which a write waits in a list and nobody with it
 * (snap.h). As an arm there is what dm-snapshot had at first (kernel.org commit 721b1d98fb51): a semaphore, for which a
 * thread waits while it holds the origin's lock. A copy that has ended needs that lock before it gives its place back,
 * so that with all places taken nobody goes on any more (b21555786f18 made it a list). Here the wait has a deadline,
 * which counts the deadlock and ends it.
 */
#ifndef HEADROOM_ENGINE_FRONT_H
#define HEADROOM_ENGINE_FRONT_H

#include "engine/snap.h"

#define FRONT_STUCK_MS 10000

enum front_bound {
	FRONT_GATE,	 /* the engine's; the front has none of its own */
	FRONT_SEMAPHORE, /* give the engine SNAP_UNLIMITED */
};

struct front_opts {
	enum front_bound bound;
	uint32_t places;   /* of the semaphore; 0: no bound, as there */
	unsigned stuck_ms; /* after which a wait for it is a deadlock; 0: FRONT_STUCK_MS */
};

/* Nothing but counters; see counter.h. */
struct front_counters {
	uint64_t writes;
	uint64_t waits, wait_ns; /* for the semaphore */
	uint64_t deadlocks;
};

struct front;

/*
 * To be called by the engine's thread, as front_run() and front_close(): the loop must have no descriptor of its own to
 * watch (io_loop_watch()). 0 or -errno.
 */
int front_open(struct io_loop *loop, struct snap *snap, const struct front_opts *opts, struct front **front);
/* After the last write has returned. NULL is none. */
void front_close(struct front *f);
/* One round of everything, as snap_run(), and the writes that have come meanwhile. */
int front_run(struct front *f, int64_t deadline_ns);
/*
 * By any thread but the engine's: offset and len as in struct snap_req. Returns when it was done, and as pwrite(2) not
 * before, for the data is the engine's until then: 0, what the engine says, or -EDEADLK: nobody went on for stuck_ms,
 * and nothing was written. The engine's thread has to be in front_run() until all have returned.
 */
int front_write(struct front *f, uint64_t offset, char *data, uint32_t len);
/* A moment's values, by any thread. */
void front_read_counters(struct front *f, struct front_counters *counters);

#endif
