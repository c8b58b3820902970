// SPDX-License-Identifier: MIT
/*
 * I/O of one thread: requests are started, and what has ended is told by callbacks from io_run(), in that same thread.
 *
 * A target is a file or a block device behind a back end. Which one is found by trying what the file can do:
 *   uring  O_DIRECT through io_uring, where the file system takes such requests without handing them to a thread
 *   map    memory: the whole of a file that lies in memory anyway (tmpfs) and has all its pages
 *   sync   pread(2) and pwrite(2), which on tmpfs and in the page cache are faster than a ring, which would hand each
 *          request to a thread (60 to 79 us against 1.4 us for 4 KiB)
 * A test brings one of its own.
 *
 * Requests beyond what a target takes at a time wait in its list: the kernel would let the submitter sleep there.
 * Short transfers go on where they stopped, EINTR and EAGAIN are tried again; the caller sees the end.
 */
#ifndef HEADROOM_ENGINE_IO_H
#define HEADROOM_ENGINE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct io_loop;
struct target;

/* IO_COPY: the kernel copies from one file to another, where target_copies_from() says that it may be asked to. */
enum io_op { IO_READ, IO_WRITE, IO_FLUSH, IO_COPY };

/* One request. It is the caller's, and must stay where it is until done() was called. */
struct io {
	TAILQ_ENTRY(io) at;
	struct target *target;
	enum io_op op;
	bool durable;	 /* a write is not done before it is on the medium (FUA); not of what was written before it */
	uint64_t offset; /* this, `data` and `len` are multiples of the target's block */
	char *data;
	uint32_t len;
	struct target *source; /* IO_COPY: from there; data is not used */
	uint64_t source_offset;
	/*
	 * 0 or -errno. -ENODATA: the file is shorter than it was. What a read finds beyond the end of a file is zero.
	 */
	int err;
	void (*done)(struct io *io);
	void *owner; /* the caller's */

	/* The loop's. */
	uint32_t moved; /* bytes so far */
	uint32_t now;	/* bytes that the present transfer is asked for */
	unsigned tries; /* since something moved */
};

TAILQ_HEAD(io_list, io);

/* A back end. */
struct target_ops {
	/*
	 * Begin the present transfer (io_part()); the outcome goes to io_result(), now or later.
	 * -EBUSY: there is no room, ask again when something has ended.
	 */
	int (*start)(struct target *t, struct io *io);
	void (*close)(struct target *t);
};

enum target_back { TARGET_AUTO, TARGET_URING, TARGET_SYNC, TARGET_MAP, TARGET_OWN };

struct target {
	const struct target_ops *ops;
	struct io_loop *loop;
	enum target_back back;
	int fd;		/* -1: a test's */
	int file_index; /* in the ring's table of files, or -1 */
	bool is_block;	/* a block device */
	uint64_t size;	/* bytes */
	uint32_t block; /* bytes: what requests are multiples of, power of two */
	char *map;	/* TARGET_MAP: all of it; else NULL */
	unsigned limit; /* requests at a time */
	unsigned inflight;
	struct io_list waiting;
	bool listed; /* among the loop's targets with waiting requests */
	TAILQ_ENTRY(target) at;
	void *own; /* TARGET_OWN: its maker's */
};

/*
 * What a target takes at a time, below the 256 of a block device's queue (nr_requests): a submitter beyond it sleeps in
 * blk_mq_get_tag().
 */
#define TARGET_LIMIT 192

enum { TARGET_READ = 0, TARGET_WRITE = 1, TARGET_CREATE = 2, TARGET_EXCLUSIVE = 4 };

/*
 * Open a file or a block device (TARGET_*: to write, make it if it is not there, claim the device for us alone; a file
 * that is to be made and claimed must not be there).
 * `back`: TARGET_AUTO, or the one to take. TARGET_MAP allocates all blocks of a file that is written (fallocate) and
 * brings them in. -ENOTBLK: neither a regular file nor a block device; -EINVAL: it cannot have that back end.
 */
int target_open(struct io_loop *loop, const char *path, unsigned flags, enum target_back back, struct target **target);
/*
 * The same, of one that no other process that asks this way has (flock(2)). -EWOULDBLOCK: one has it, as it may for a
 * moment after it was killed: io_uring gives back what it had open only when its requests have ended.
 */
int target_open_alone(struct io_loop *loop, const char *path, unsigned flags, enum target_back back,
		      struct target **target);
/* One with a back end of the caller's. */
int target_make(struct io_loop *loop, const struct target_ops *ops, uint64_t size, uint32_t block, void *own,
		struct target **target);
/* Nothing of it may be in flight. */
void target_close(struct target *t);
/* A regular file's new size in bytes. */
int target_resize(struct target *t, uint64_t size);
const char *target_back_name(enum target_back back);
/*
 * Can the kernel be asked to copy from one to the other, page cache to page cache? It may still refuse.
 */
bool target_copies_from(const struct target *t, const struct target *source);

struct io_opts {
	unsigned entries; /* of the submission queue; 0: 256 */
	bool no_uring;	  /* as if the kernel had none */
	/*
	 * For tests: called before each transfer begins. `len` or more: nothing happens; 1 to len - 1: no more than
	 * that (in whole blocks) is transferred; 0 and below: that is the result, and nothing is transferred.
	 */
	int64_t (*fault)(void *arg, const struct io *io, uint32_t len);
	void *fault_arg;
};

/* Without io_uring (old kernel, forbidden) a loop works, and all back ends are sync or map. */
int io_loop_open(const struct io_opts *opts, struct io_loop **loop);
/* All targets are closed. */
void io_loop_close(struct io_loop *loop);
/*
 * Memory from which data is mostly transferred, so that the kernel pins it once. 0, or -errno: it goes without. May be
 * called once; the memory must outlive the loop.
 */
int io_loop_memory(struct io_loop *loop, void *memory, size_t size);
/*
 * Have fn called from io_run() when the descriptor can be read. One per loop, until it is closed.
 */
int io_loop_watch(struct io_loop *loop, int fd, void (*fn)(void *arg), void *arg);

/*
 * Have fn called at the beginning of each io_run(), before that may wait: what has ended by then is told to others
 * together. One per loop.
 */
void io_loop_each_round(struct io_loop *loop, void (*fn)(void *arg), void *arg);

/* Start a request. Its done() is called from io_run(), never from here. */
void io_start(struct io_loop *loop, struct io *io);
/*
 * One round: what waits is begun if there is room, what has ended is told. Nothing to tell: wait for it until the
 * deadline (CLOCK_MONOTONIC; 0: do not wait). Returns how many requests ended, or -errno of the ring.
 */
int io_run(struct io_loop *loop, int64_t deadline_ns);
/* Requests that have not ended. */
uint64_t io_pending(const struct io_loop *loop);

/* --- For back ends --- */

/* An empty pipe of PIPE_BYTES, or of what can be had: [0] to read from. Kept for the next. 0 or -errno. */
#define PIPE_BYTES (1 << 20)
int io_loop_pipe(struct io_loop *loop, int ends[2]);
/* There is something in it that nobody wants. */
void io_loop_drop_pipe(struct io_loop *loop);

struct io_part {
	uint64_t offset;
	char *data;
	uint32_t len;
};

/* The present transfer. */
struct io_part io_part(const struct io *io);
/* What became of a transfer: bytes, or -errno. */
void io_result(struct io *io, int64_t res);

#endif
