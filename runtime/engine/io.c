// SPDX-License-Identifier: MIT
#include "engine/io.h"

#include "base/clock.h"
#include "engine/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRIES 256 /* of the submission queue: the 192 requests of one target, and the poll, in one go */
/*
 * How often a transfer is tried again that moves nothing. EAGAIN is a shortage that passes, so it is many; one that
 * does not pass must be told some day.
 */
#define TRIES 1000

TAILQ_HEAD(target_list, target);

struct io_loop {
	struct io_opts opts;
	struct ring *ring;	   /* NULL: the kernel gives none */
	struct target_list hungry; /* those with waiting requests */
	struct io_list ended;	   /* to be told */
	uint64_t pending;
	int watched; /* descriptor, or -1 */
	bool readable;
	void (*watch_fn)(void *arg);
	void *watch_arg;
	void (*round_fn)(void *arg);
	void *round_arg;
	int pipe[2]; /* both -1: there is none */
};

int io_loop_open(const struct io_opts *opts, struct io_loop **loop)
{
	struct io_loop *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	if (opts)
		l->opts = *opts;
	TAILQ_INIT(&l->hungry);
	TAILQ_INIT(&l->ended);
	l->watched = l->pipe[0] = l->pipe[1] = -1;
	if (!l->opts.no_uring && ring_open(l->opts.entries ? l->opts.entries : ENTRIES, &l->ring))
		l->ring = NULL;
	*loop = l;
	return 0;
}

void io_loop_close(struct io_loop *l)
{
	if (!l)
		return;
	if (l->ring)
		ring_close(l->ring);
	io_loop_drop_pipe(l);
	free(l);
}

int io_loop_pipe(struct io_loop *l, int ends[2])
{
	if (l->pipe[0] < 0) {
		if (pipe2(l->pipe, O_CLOEXEC) < 0)
			return -errno;
		/* Beyond what one user may have it stays at 64 KiB, and more transfers are needed. */
		fcntl(l->pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
	}
	memcpy(ends, l->pipe, sizeof(l->pipe));
	return 0;
}

void io_loop_drop_pipe(struct io_loop *l)
{
	for (int i = 0; i < 2; i++) {
		if (l->pipe[i] >= 0)
			close(l->pipe[i]);
		l->pipe[i] = -1;
	}
}

int io_loop_memory(struct io_loop *l, void *memory, size_t size)
{
	return l->ring ? ring_memory(l->ring, memory, size) : -EOPNOTSUPP;
}

int io_loop_watch(struct io_loop *l, int fd, void (*fn)(void *arg), void *arg)
{
	if (l->watched >= 0)
		return -EBUSY;
	l->watched = fd;
	l->watch_fn = fn;
	l->watch_arg = arg;
	return 0;
}

void io_loop_each_round(struct io_loop *l, void (*fn)(void *arg), void *arg)
{
	l->round_fn = fn;
	l->round_arg = arg;
}

struct ring *io_loop_ring(const struct io_loop *l)
{
	return l->ring;
}

uint64_t io_pending(const struct io_loop *l)
{
	return l->pending;
}

struct io_part io_part(const struct io *io)
{
	return (struct io_part){ .offset = io->offset + io->moved, .data = io->data + io->moved, .len = io->now };
}

static void wait_turn(struct target *t, struct io *io, bool first)
{
	if (first)
		TAILQ_INSERT_HEAD(&t->waiting, io, at);
	else
		TAILQ_INSERT_TAIL(&t->waiting, io, at);
	if (!t->listed)
		TAILQ_INSERT_TAIL(&t->loop->hungry, t, at);
	t->listed = true;
}

void io_start(struct io_loop *l, struct io *io)
{
	io->moved = 0;
	io->tries = 0;
	io->err = 0;
	l->pending++;
	wait_turn(io->target, io, false);
}

static void end(struct io *io, int err)
{
	io->err = err;
	TAILQ_INSERT_TAIL(&io->target->loop->ended, io, at);
}

/* What moved counts in whole blocks: the rest of a request is aligned like the request. */
static void go_on(struct io *io, uint32_t bytes)
{
	struct target *t = io->target;
	bool at_end = io->op == IO_READ && io->offset + io->moved + bytes >= t->size;
	uint32_t whole = at_end ? bytes : bytes & ~(t->block - 1);

	if (whole > io->len - io->moved)
		whole = io->len - io->moved;
	io->moved += whole;
	io->tries = whole ? 0 : io->tries + 1;
	if (io->moved == io->len)
		return end(io, 0);
	if (at_end) {
		memset(io->data + io->moved, 0, io->len - io->moved);
		return end(io, 0);
	}
	if (io->tries > TRIES)
		return end(io, -EIO);
	wait_turn(t, io, true);
}

void io_result(struct io *io, int64_t res)
{
	struct target *t = io->target;

	t->inflight--;
	if (res == -EINTR || res == -EAGAIN) {
		if (++io->tries > TRIES)
			return end(io, (int)res);
		return wait_turn(t, io, true);
	}
	if (res < 0 || io->op == IO_FLUSH)
		return end(io, res < 0 ? (int)res : 0);
	if (res == 0 && (io->op == IO_COPY || (io->op == IO_READ && io->offset + io->moved < t->size)))
		return end(io, -ENODATA);
	go_on(io, (uint32_t)res);
}

/* What a test has this transfer come to. True: that is its result; else it may be shorter. */
static bool fault(struct io_loop *l, struct io *io, int64_t *res)
{
	uint32_t block = io->target->block;

	if (!l->opts.fault)
		return false;
	*res = l->opts.fault(l->opts.fault_arg, io, io->now);
	if (*res <= 0 && (io->op != IO_FLUSH || *res))
		return true;
	if (*res < io->now)
		io->now = ((uint32_t)*res + block - 1) & ~(block - 1);
	return false;
}

/* What of the rest of a read the target has, in whole blocks; the end of a file need not be that of one. */
static uint32_t readable(const struct target *t, const struct io *io)
{
	uint64_t at = io->offset + io->moved, room = at < t->size ? t->size - at : 0;
	uint32_t left = io->len - io->moved;

	room = (room + t->block - 1) & ~(uint64_t)(t->block - 1);
	return room < left ? (uint32_t)room : left;
}

/* 0, or -EBUSY: the back end has no room. */
static int start_one(struct io_loop *l, struct target *t, struct io *io)
{
	int64_t res = 0;
	int err = 0;

	t->inflight++;
	io->now = io->op == IO_READ ? readable(t, io) : io->len - io->moved;
	/* Wholly beyond the end of the file there is nothing to ask for. */
	if ((io->op == IO_READ && !io->now) || fault(l, io, &res))
		io_result(io, res);
	else
		err = t->ops->start(t, io);
	if (err)
		t->inflight--;
	return err;
}

static void start_waiting(struct io_loop *l)
{
	/*
	 * Who cannot begin all it has is put back, and has its turn in the next round: first the kernel must be given
	 * what it has room for.
	 */
	struct target_list hungry = TAILQ_HEAD_INITIALIZER(hungry);
	struct target *t;

	TAILQ_CONCAT(&hungry, &l->hungry, at);
	while ((t = TAILQ_FIRST(&hungry))) {
		/* What is tried again is put at the head of the list by io_result(): not twice in a round. */
		struct io_list list = TAILQ_HEAD_INITIALIZER(list);
		struct io *io;

		TAILQ_REMOVE(&hungry, t, at);
		t->listed = false;
		TAILQ_CONCAT(&list, &t->waiting, at);
		while (t->inflight < t->limit && (io = TAILQ_FIRST(&list))) {
			TAILQ_REMOVE(&list, io, at);
			if (start_one(l, t, io)) {
				TAILQ_INSERT_HEAD(&list, io, at);
				break;
			}
		}
		if (TAILQ_EMPTY(&list))
			continue;
		TAILQ_CONCAT(&t->waiting, &list, at);
		if (!t->listed)
			TAILQ_INSERT_TAIL(&l->hungry, t, at);
		t->listed = true;
	}
}

static int tell(struct io_loop *l)
{
	struct io_list list = TAILQ_HEAD_INITIALIZER(list);
	struct io *io;
	int n = 0;

	/* Once: what ends while we tell of these has its turn in the next round. */
	TAILQ_CONCAT(&list, &l->ended, at);
	while ((io = TAILQ_FIRST(&list))) {
		TAILQ_REMOVE(&list, io, at);
		l->pending--;
		n++;
		io->done(io);
	}
	return n;
}

/* Without a ring nothing of ours is in flight: only others can wake us. */
static void wait_for_watched(struct io_loop *l, int64_t deadline_ns)
{
	int64_t left_ns = deadline_ns - clock_ns();
	struct timespec ts = { 0 };
	struct pollfd p = { .fd = l->watched, .events = POLLIN };

	if (left_ns > 0)
		ts = clock_timespec(left_ns);
	if (ppoll(&p, 1, &ts, NULL) > 0)
		l->readable = true;
}

static void look_at_watched(struct io_loop *l)
{
	if (!l->readable)
		return;
	l->readable = false;
	l->watch_fn(l->watch_arg);
}

/* Is there something that the next round can begin, although nothing has ended? */
static bool can_start(const struct io_loop *l)
{
	const struct target *t;

	TAILQ_FOREACH (t, &l->hungry, at)
		if (t->inflight < t->limit)
			return true;
	return false;
}

int io_run(struct io_loop *l, int64_t deadline_ns)
{
	bool wait;
	int err = 0;

	if (l->round_fn)
		l->round_fn(l->round_arg);
	start_waiting(l);
	wait = deadline_ns && TAILQ_EMPTY(&l->ended) && !can_start(l);
	if (l->ring) {
		if (l->watched >= 0)
			ring_poll(l->ring, l->watched, &l->readable);
		err = ring_enter(l->ring, wait, deadline_ns);
	} else if (l->watched >= 0 || wait) {
		wait_for_watched(l, wait ? deadline_ns : 0);
	}
	look_at_watched(l);
	return err ? err : tell(l);
}
