// SPDX-License-Identifier: MIT
#include "engine/snap.h"

#include "base/clock.h"
#include "engine/counter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* drivers/md/dm-snap.c: DEFAULT_COW_THRESHOLD. */
#define COW_THRESHOLD 2048
/*
 * Batches in flight from which on chunks gather. Measured on virtio-blk against 8, medians: chunks of 4 KiB 9 % more at
 * QD 32, 7 % more into four stores at QD 128, the same at QD 128 and with 64 KiB; 2 is what 8 is. None gathering is 15
 * to 20 % slower, and takes half as much CPU time again.
 */
#define GATHER_JOBS 1
/* Of up to COPY_MAX_PIECES chunks each. 16 to 256 differ by less than the noise; one takes 4 KiB. */
#define BATCHES	    64
#define BUCKET_BITS 13 /* of chunks being copied: four times the default threshold */
#define BUCKETS	    (1U << BUCKET_BITS)
/* Chunks that one request may have in flight ahead of the one it waits for. */
#define WINDOW COPY_MAX_PIECES
/* Writes of what a store must say before others may go on, until it is given up. */
#define META_TRIES 8

TAILQ_HEAD(pending_list, pending);
TAILQ_HEAD(batch_list, batch);

/* A chunk of the origin that is being copied, or waits for it. */
struct pending {
	TAILQ_ENTRY(pending) at; /* in todo, or free */
	struct pending *next;	 /* in its bucket */
	uint32_t chunk;
	uint32_t lack; /* the stores that it goes to, a bit each */
	struct req_list waiters;
};

/* Chunks that are copied by one job; they go to the same stores, there in one piece. */
struct batch {
	struct copy_job job;
	struct snap *snap;
	unsigned n;
	struct pending *chunks[COPY_MAX_PIECES];
	struct copy_piece pieces[COPY_MAX_PIECES];
	bool copied, own_memory;
	uint32_t lack;		       /* stores in which it is not committed yet */
	uint8_t dest[SNAP_MAX_STORES]; /* which of the job's destinations a store is */
	struct {
		TAILQ_ENTRY(batch) at;
		uint64_t slot;
	} store[SNAP_MAX_STORES];
	TAILQ_ENTRY(batch) at; /* free */
};

enum store_state {
	STORE_NONE,
	STORE_LIVE,
	STORE_DYING, /* its header is to say that it is invalid */
	STORE_INVALID,
	STORE_MERGING,	/* it is what the origin looks like; nobody can read it by itself */
	STORE_DELETING, /* its header is being wiped; writes are held until it is */
};

struct store {
	struct snap *snap;
	unsigned number;
	enum store_state state;
	struct exstore x;
	struct batch_list batches; /* that have slots in it and are not committed, in the order of the slots */
	unsigned committing;	   /* how many of them the commit that goes on has */
	unsigned users;		   /* reads of the snapshot, and copies into it */
	bool mark_waits;	   /* it is dying, and a commit has to end before its header can say so */
	unsigned mark_tries;
	enum store_state was; /* before it was to be deleted */
};

/*
 * A merge copies exceptions back, from the last to the first as dm-snapshot does, so that the store is right at any
 * moment: what is in the origin is taken out of the table, durably, before anybody may write there again.
 */
enum merge_state {
	MERGE_NONE,
	MERGE_MARKING, /* the store's header is to say so */
	MERGE_CUT,     /* it says so since a merge that did not end; whoever attached it has not said to go on */
	MERGE_NEXT,
	MERGE_DRAINING, /* writes that are at the store or the origin end */
	MERGE_SAVING,	/* other stores get what the origin has there */
	MERGE_COPYING,
	MERGE_FLUSHING,
	MERGE_DROPPING, /* from the table */
	MERGE_LEAVING,	/* all is copied; reads of the origin that found it in the store end */
	MERGE_WIPING,
	MERGE_FAILED, /* the origin goes on looking like the snapshot */
};

struct merge {
	enum merge_state state;
	unsigned store;
	uint32_t chunk, n; /* being merged: n from here on */
	uint64_t slot;
	unsigned tries; /* to drop them */
	struct copy_job job;
	struct io io;
	struct snap_req req;	 /* stands for the write to the origin, where writes have to wait */
	struct req_list waiters; /* writes to these chunks */
};

struct snap {
	struct io_loop *loop;
	struct copy_client *copy;
	struct target *origin;
	struct snap_opts opts;
	uint32_t batch_chunks;
	unsigned chunk_shift;
	struct store stores[SNAP_MAX_STORES];
	uint32_t live; /* stores that want copies, a bit each */
	uint64_t sequence;

	struct pending *buckets[BUCKETS];
	struct pending *pendings;
	struct batch *batches;
	struct pending_list free_pendings, todo;
	struct batch_list free_batches;
	unsigned n_todo;

	struct req_list gated;	 /* writes for whose copies there is no room */
	struct req_list held;	 /* while a snapshot is made, or a store is dying */
	unsigned holds;		 /* reasons for it */
	struct req_list failed;	 /* to be told of it */
	struct req_list tracked; /* reads of snapshots that are at the origin */
	uint64_t origin_writes;	 /* at the origin */
	uint64_t requests;	 /* not told yet */
	struct merge merge;
	struct io flush; /* of the origin, before a snapshot is made */
	bool flushing;
	int call_err; /* of the deletion, or the beginning of a merge, that ended last */
	uint64_t memory;
	struct snap_counters count;
};

void snap_opts_default(struct snap_opts *opts)
{
	*opts = (struct snap_opts){ .chunk_bytes = EXSTORE_MIN_CHUNK,
				    .cow_threshold = COW_THRESHOLD,
				    .durable = true,
				    .gather_jobs = GATHER_JOBS };
}

static void write_on(struct snap *s, struct snap_req *r);
static void store_changes(struct exstore *x, int err);

static uint32_t chunk_of(const struct snap *s, uint64_t offset)
{
	return (uint32_t)(offset >> s->chunk_shift);
}

/* --- Requests that end --- */

static void finish(struct snap_req *r, int err)
{
	r->err = err;
	r->snap->requests--;
	r->done(r);
}

/* Not from here: who submits does not expect it. */
static void fail_later(struct snap *s, struct snap_req *r, int err)
{
	r->err = err;
	TAILQ_INSERT_TAIL(&s->failed, r, at);
}

/* Requests that waited for something look again at all that they need. */
static void go_on_all(struct snap *s, struct req_list *waiters)
{
	struct req_list list = TAILQ_HEAD_INITIALIZER(list);
	struct snap_req *r;

	TAILQ_CONCAT(&list, waiters, at);
	while ((r = TAILQ_FIRST(&list))) {
		TAILQ_REMOVE(&list, r, at);
		write_on(s, r);
	}
}

/* --- Chunks being copied --- */

static struct pending **bucket(struct snap *s, uint32_t chunk)
{
	/* Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4): the high bits are the good ones. */
	return &s->buckets[(chunk * 2654435769U) >> (32 - BUCKET_BITS)];
}

static struct pending *find_pending(struct snap *s, uint32_t chunk)
{
	struct pending *p = *bucket(s, chunk);

	while (p && p->chunk != chunk)
		p = p->next;
	return p;
}

static void take_memory(struct snap *s, size_t bytes)
{
	s->memory += bytes;
	counter_max(&s->count.memory_bytes, s->memory);
}

/* With a threshold there is always one: as many were taken as can be in flight. */
static struct pending *new_pending(struct snap *s)
{
	struct pending *p = TAILQ_FIRST(&s->free_pendings);

	if (p) {
		TAILQ_REMOVE(&s->free_pendings, p, at);
		return p;
	}
	p = malloc(sizeof(*p));
	if (p)
		take_memory(s, sizeof(*p));
	return p;
}

/* NULL: there is no memory. */
static struct pending *add_pending(struct snap *s, uint32_t chunk, uint32_t lack)
{
	struct pending *p = new_pending(s), **b = bucket(s, chunk);

	if (!p)
		return NULL;
	p->chunk = chunk;
	p->lack = lack;
	p->next = *b;
	*b = p;
	TAILQ_INIT(&p->waiters);
	TAILQ_INSERT_TAIL(&s->todo, p, at);
	s->n_todo++;
	counter_add(&s->count.in_progress, 1);
	counter_max(&s->count.in_progress_peak, s->count.in_progress);
	if (s->opts.cow_threshold < s->count.in_progress - 1)
		counter_max(&s->count.overshoot, s->count.in_progress - 1 - s->opts.cow_threshold);
	return p;
}

static bool gate_is_closed(const struct snap *s)
{
	return s->count.in_progress > s->opts.cow_threshold;
}

static void open_gate(struct snap *s)
{
	struct snap_req *r;

	while (!gate_is_closed(s) && (r = TAILQ_FIRST(&s->gated))) {
		TAILQ_REMOVE(&s->gated, r, at);
		counter_add(&s->count.gate_wait_ns, (uint64_t)(clock_ns() - r->gated_ns));
		write_on(s, r);
	}
}

/* All stores that want it have it. */
static void end_pending(struct snap *s, struct pending *p)
{
	struct pending **at = bucket(s, p->chunk);
	struct req_list waiters = TAILQ_HEAD_INITIALIZER(waiters);

	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	TAILQ_CONCAT(&waiters, &p->waiters, at);
	TAILQ_INSERT_HEAD(&s->free_pendings, p, at);
	counter_add(&s->count.in_progress, (uint64_t)-1);
	go_on_all(s, &waiters);
}

/* --- Stores that become invalid --- */

static void end_batch(struct batch *b);

/* It has no slots in this store any more. */
static void leave_store(struct batch *b, struct store *st)
{
	if (!(b->lack & 1U << st->number))
		return;
	b->lack &= ~(1U << st->number);
	TAILQ_REMOVE(&st->batches, b, store[st->number].at);
	if (b->copied && !b->lack)
		end_batch(b);
}

static void invalidate(struct store *st)
{
	struct snap *s = st->snap;
	struct batch *b, *next;

	if (st->state != STORE_LIVE)
		return;
	counter_add(&s->count.invalidated, 1);
	st->state = STORE_DYING;
	s->live &= ~(1U << st->number);
	/* Until the header says so, no write may go on that this store would have had to see. */
	s->holds++;
	for (b = TAILQ_FIRST(&st->batches); b; b = next) {
		next = TAILQ_NEXT(b, store[st->number].at);
		leave_store(b, st);
	}
	st->committing = 0;
	st->mark_tries = 0;
	st->mark_waits = st->x.busy;
	if (!st->mark_waits)
		exstore_mark(&st->x, EXSTORE_INVALID);
}

static void release_hold(struct snap *s)
{
	if (--s->holds)
		return;
	go_on_all(s, &s->held);
}

/* --- Commits --- */

static void commit_what_is_copied(struct store *st)
{
	struct batch *b;

	if (st->state != STORE_LIVE || st->x.busy || st->committing)
		return;
	TAILQ_FOREACH (b, &st->batches, store[st->number].at) {
		if (!b->copied || exstore_room(&st->x) < b->n)
			break;
		for (unsigned i = 0; i < b->n; i++)
			exstore_add(&st->x, b->chunks[i]->chunk, b->store[st->number].slot + i);
		st->committing++;
	}
	if (!st->committing)
		return;
	counter_add(&st->snap->count.commits, 1);
	exstore_commit(&st->x);
}

static void end_commit(struct store *st)
{
	/* Ending a batch lets writes go on, which may end others: those in this commit are counted first. */
	unsigned n = st->committing;

	st->committing = 0;
	while (n--) {
		struct batch *b = TAILQ_FIRST(&st->batches);

		counter_add(&st->snap->count.exceptions, b->n);
		leave_store(b, st);
		if (st->state != STORE_LIVE)
			return;
	}
	commit_what_is_copied(st);
}

static void merge_goes_on(struct snap *s, int err);
static void end_delete(struct store *st, int err);

/* Something that the exception store had to write is written. */
static void store_changes(struct exstore *x, int err)
{
	struct store *st = x->owner;

	if (st->state == STORE_DYING && st->mark_waits) {
		st->mark_waits = false;
		exstore_mark(x, EXSTORE_INVALID);
	} else if (st->state == STORE_DYING && err && ++st->mark_tries < META_TRIES) {
		exstore_mark(x, EXSTORE_INVALID);
	} else if (st->state == STORE_DYING) {
		/* That the header cannot be written either is what it looks like: the device is gone. */
		counter_add(&st->snap->count.unmarked, err != 0);
		st->state = STORE_INVALID;
		release_hold(st->snap);
	} else if (st->state == STORE_MERGING) {
		merge_goes_on(st->snap, err);
	} else if (st->state == STORE_DELETING) {
		end_delete(st, err);
	} else if (err) {
		invalidate(st);
	} else {
		end_commit(st);
	}
}

/* --- Batches --- */

static struct batch *new_batch(struct snap *s)
{
	struct batch *b = TAILQ_FIRST(&s->free_batches);

	if (b) {
		TAILQ_REMOVE(&s->free_batches, b, at);
		return b;
	}
	/* Without a threshold nothing is bounded: that is what it is compared with. */
	if (s->opts.cow_threshold != SNAP_UNLIMITED)
		return NULL;
	b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	take_memory(s, sizeof(*b));
	b->own_memory = true;
	b->snap = s;
	return b;
}

static void free_batch(struct batch *b)
{
	struct snap *s = b->snap;

	if (!b->own_memory) {
		TAILQ_INSERT_HEAD(&s->free_batches, b, at);
		return;
	}
	s->memory -= sizeof(*b);
	free(b);
}

static void end_batch(struct batch *b)
{
	struct snap *s = b->snap;
	struct pending *chunks[COPY_MAX_PIECES];
	unsigned n = b->n;

	memcpy(chunks, b->chunks, n * sizeof(*chunks));
	counter_add(&s->count.chunks, n);
	free_batch(b);
	for (unsigned i = 0; i < n; i++)
		end_pending(s, chunks[i]);
}

static void copied(struct copy_job *job)
{
	struct batch *b = job->owner;
	struct snap *s = b->snap;
	uint32_t lack = b->lack;

	/* Not b->copied yet, so that it does not end while we look at it. */
	for (unsigned i = 0; i < SNAP_MAX_STORES; i++) {
		struct store *st = &s->stores[i];

		if (b->dest[i] == UINT8_MAX)
			continue;
		st->users--;
		if (lack & 1U << i && (job->read_err || job->write_err[b->dest[i]]))
			invalidate(st);
	}
	b->copied = true;
	lack = b->lack;
	if (!lack)
		end_batch(b);
	for (unsigned i = 0; i < SNAP_MAX_STORES; i++)
		if (lack & 1U << i)
			commit_what_is_copied(&s->stores[i]);
}

/* Chunks that lack the same as the first, in the order of their coming. */
static void pick_chunks(struct snap *s, struct batch *b, uint32_t lack, unsigned most)
{
	struct pending *p, *next;

	b->n = 0;
	for (p = TAILQ_FIRST(&s->todo); p && b->n < most; p = next) {
		next = TAILQ_NEXT(p, at);
		if ((p->lack & s->live) != lack)
			continue;
		TAILQ_REMOVE(&s->todo, p, at);
		s->n_todo--;
		b->pieces[b->n] = (struct copy_piece){ .offset = (uint64_t)p->chunk << s->chunk_shift,
						       .len = s->opts.chunk_bytes };
		b->chunks[b->n++] = p;
	}
}

/* How many slots in a row all of these stores have; one that has none becomes invalid and leaves *lack. */
static uint32_t common_run(struct snap *s, uint32_t *lack)
{
	uint32_t run = s->batch_chunks;

	for (unsigned i = 0; i < SNAP_MAX_STORES; i++) {
		uint32_t n;

		if (!(*lack & 1U << i))
			continue;
		n = exstore_run(&s->stores[i].x, run);
		if (!n) {
			*lack &= ~(1U << i);
			invalidate(&s->stores[i]);
		} else {
			run = n;
		}
	}
	return run;
}

static void give_slots(struct snap *s, struct batch *b)
{
	struct copy_job *job = &b->job;

	memset(b->dest, UINT8_MAX, sizeof(b->dest));
	job->n_dests = 0;
	for (unsigned i = 0; i < SNAP_MAX_STORES; i++) {
		struct store *st = &s->stores[i];

		if (!(b->lack & 1U << i))
			continue;
		b->dest[i] = (uint8_t)job->n_dests;
		b->store[i].slot = exstore_give(&st->x, b->n);
		job->dests[job->n_dests++] =
			(struct copy_dest){ st->x.target, exstore_offset(&st->x, b->store[i].slot) };
		TAILQ_INSERT_TAIL(&st->batches, b, store[i].at);
		st->users++;
	}
}

static void submit_batch(struct snap *s, struct batch *b, uint32_t lack, uint32_t run)
{
	pick_chunks(s, b, lack, run);
	b->lack = lack;
	b->copied = false;
	give_slots(s, b);
	b->job.source = s->origin;
	b->job.pieces = b->pieces;
	b->job.n_pieces = b->n;
	b->job.done = copied;
	b->job.owner = b;
	counter_add(&s->count.batches, 1);
	copy_submit(s->copy, &b->job);
}

/* Is there enough for a job, or nothing better to do? */
static bool worth_a_batch(const struct snap *s)
{
	return s->n_todo >= s->batch_chunks || copy_jobs(s->copy) < s->opts.gather_jobs || !s->opts.gather_jobs;
}

static void form_batches(struct snap *s)
{
	struct pending *first;

	while ((first = TAILQ_FIRST(&s->todo)) && worth_a_batch(s)) {
		uint32_t lack = first->lack & s->live;
		uint32_t run = common_run(s, &lack);
		struct batch *b;

		/* Nobody wants it any more. */
		if (!lack) {
			TAILQ_REMOVE(&s->todo, first, at);
			s->n_todo--;
			end_pending(s, first);
			continue;
		}
		/* A store has left: others may have the same now. */
		if (lack != (first->lack & s->live))
			continue;
		b = new_batch(s);
		if (!b)
			break;
		submit_batch(s, b, lack, s->opts.gather_jobs ? run : 1);
	}
}

/* --- Where a request's data is --- */

/* A stretch of a request that lies in one piece, in the origin or in a store. */
struct stretch {
	struct target *target;
	uint64_t offset;
	uint32_t len;
	bool in_origin;
};

/* Of one chunk: the slot that this store has of it; false: the origin's. x may be NULL. */
static bool in_store(const struct exstore *x, uint32_t chunk, uint32_t *slot)
{
	return x && extab_find(&x->table, chunk, slot);
}

static struct stretch find_stretch(const struct snap *s, const struct exstore *x, uint64_t offset, uint32_t len)
{
	uint32_t chunk = chunk_of(s, offset), first, slot, in_chunk = (uint32_t)(offset & (s->opts.chunk_bytes - 1));
	struct stretch str = {
		.target = s->origin, .offset = offset, .len = s->opts.chunk_bytes - in_chunk, .in_origin = true
	};

	if (in_store(x, chunk, &first)) {
		str = (struct stretch){ .target = x->target,
					.offset = exstore_offset(x, first) + in_chunk,
					.len = str.len };
		for (uint32_t n = 1; str.len < len && in_store(x, chunk + n, &slot) && slot == first + n; n++)
			str.len += s->opts.chunk_bytes;
	} else {
		for (uint32_t n = 1; str.len < len && !in_store(x, chunk + n, &slot); n++)
			str.len += s->opts.chunk_bytes;
	}
	if (str.len > len)
		str.len = len;
	return str;
}

/* Who reads or writes the origin sees the snapshot that is being merged into it, once its header says so. */
static const struct exstore *view_of_origin(const struct snap *s)
{
	return s->merge.state <= MERGE_MARKING ? NULL : &s->stores[s->merge.store].x;
}

static void start_stretch(struct snap *s, struct snap_req *r, const struct stretch *str, void (*done)(struct io *io))
{
	r->io = (struct io){ .target = str->target,
			     .op = r->op,
			     .durable = r->durable,
			     .offset = str->offset,
			     .data = r->data + r->moved,
			     .len = str->len,
			     .owner = r,
			     .done = done };
	io_start(s->loop, &r->io);
}

/* A store must stay as long as somebody's I/O is in it, or in the origin on its behalf. */
static void use(struct snap_req *r, struct store *st)
{
	r->uses = st;
	st->users++;
}

static void leave(struct snap_req *r)
{
	struct store *st = r->uses;

	if (st)
		st->users--;
	r->uses = NULL;
}

/* --- Reading --- */

static void read_on(struct snap *s, struct snap_req *r);

static void untrack(struct snap *s, struct snap_req *r)
{
	if (!r->tracked)
		return;
	r->tracked = false;
	TAILQ_REMOVE(&s->tracked, r, tracked_at);
	go_on_all(s, &r->blocked);
}

static void was_read(struct io *io)
{
	struct snap_req *r = io->owner;
	struct snap *s = r->snap;

	untrack(s, r);
	leave(r);
	r->moved += io->len;
	if (!io->err && r->moved < r->len)
		read_on(s, r);
	else
		finish(r, io->err);
}

static void read_on(struct snap *s, struct snap_req *r)
{
	bool of_origin = r->store == SNAP_ORIGIN;
	const struct exstore *x = of_origin ? view_of_origin(s) : &s->stores[r->store].x;
	struct stretch str;

	if (!of_origin && s->stores[r->store].state != STORE_LIVE) {
		fail_later(s, r, s->stores[r->store].state == STORE_MERGING ? -EBUSY : -EIO);
		return;
	}
	str = find_stretch(s, x, r->offset + r->moved, r->len - r->moved);
	if (!of_origin || !str.in_origin)
		use(r, x->owner);
	/* A write must not overtake it: it waits until what we read has left the origin. */
	if (!of_origin && str.in_origin) {
		r->tracked = true;
		TAILQ_INSERT_TAIL(&s->tracked, r, tracked_at);
	}
	start_stretch(s, r, &str, was_read);
}

/* --- Writing --- */

static void was_written(struct io *io)
{
	struct snap_req *r = io->owner;
	struct snap *s = r->snap;

	s->origin_writes--;
	r->moved += io->len;
	if (!io->err && r->moved < r->len)
		write_on(s, r);
	else
		finish(r, io->err);
}

/* The stores that would lose what is in this chunk. */
static uint32_t stores_that_lack(const struct snap *s, uint32_t chunk)
{
	uint32_t lack = 0;

	for (uint32_t left = s->live; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);

		if (!extab_has(&s->stores[i].x.table, chunk))
			lack |= 1U << i;
	}
	return lack;
}

/*
 * Is what these chunks have in all stores that want it? If not, r waits: for the first that is missing, while those
 * after it are copied too.
 */
static bool all_copied(struct snap *s, struct snap_req *r, uint32_t first, uint32_t last)
{
	struct pending *wait_for = NULL;

	if (last - first >= WINDOW)
		last = first + WINDOW - 1;
	for (uint32_t chunk = first; s->live && chunk <= last; chunk++) {
		/* Asked first: a store has it in its table before the commit of it has ended. */
		struct pending *p = s->count.in_progress ? find_pending(s, chunk) : NULL;
		uint32_t lack = p ? p->lack : stores_that_lack(s, chunk);

		if (!lack)
			continue;
		if (!p && gate_is_closed(s)) {
			if (wait_for)
				break;
			counter_add(&s->count.gate_waits, 1);
			r->gated_ns = clock_ns();
			TAILQ_INSERT_TAIL(&s->gated, r, at);
			return false;
		}
		if (!p)
			p = add_pending(s, chunk, lack);
		if (!p) {
			fail_later(s, r, -ENOMEM);
			return false;
		}
		if (!wait_for)
			wait_for = p;
	}
	if (!wait_for)
		return true;
	TAILQ_INSERT_TAIL(&wait_for->waiters, r, at);
	return false;
}

/* A snapshot's read that is at these bytes of the origin. */
static struct snap_req *reader_of(struct snap *s, uint64_t offset, uint32_t len)
{
	struct snap_req *r;

	TAILQ_FOREACH (r, &s->tracked, tracked_at)
		if (r->io.offset < offset + len && r->io.offset + r->io.len > offset)
			return r;
	return NULL;
}

static bool is_being_merged(const struct merge *m, uint32_t first, uint32_t last)
{
	return m->n && first < m->chunk + m->n && last >= m->chunk;
}

static void merge_save(struct snap *s);

/* Start what comes next of a write, or have it wait for what stands in its way. */
static void write_on(struct snap *s, struct snap_req *r)
{
	uint64_t offset = r->offset + r->moved;
	uint32_t first = chunk_of(s, offset), last;
	struct snap_req *reader;
	struct stretch str;

	if (r == &s->merge.req) {
		merge_save(s);
		return;
	}
	str = find_stretch(s, view_of_origin(s), offset, r->len - r->moved);
	if (str.in_origin && str.len > (uint32_t)WINDOW << s->chunk_shift)
		str.len = (uint32_t)(((uint64_t)(first + WINDOW) << s->chunk_shift) - offset);
	last = chunk_of(s, offset + str.len - 1);
	if (s->holds) {
		TAILQ_INSERT_TAIL(&s->held, r, at);
		return;
	}
	if (is_being_merged(&s->merge, first, last) && s->merge.state == MERGE_FAILED) {
		fail_later(s, r, -EIO);
		return;
	}
	if (is_being_merged(&s->merge, first, last)) {
		TAILQ_INSERT_TAIL(&s->merge.waiters, r, at);
		return;
	}
	if (str.in_origin) {
		if (!all_copied(s, r, first, last))
			return;
		reader = reader_of(s, offset, str.len);
		if (reader) {
			TAILQ_INSERT_TAIL(&reader->blocked, r, at);
			return;
		}
	}
	s->origin_writes++;
	start_stretch(s, r, &str, was_written);
}

/* --- Flushing --- */

static void flush_on(struct snap *s, struct snap_req *r);

static void was_flushed(struct io *io)
{
	struct snap_req *r = io->owner;

	leave(r);
	if (io->err)
		finish(r, io->err);
	else
		flush_on(r->snap, r);
}

/*
 * The origin, and where its data may be meanwhile: a store that is being merged. Other stores are flushed as they are
 * written to, or by this where that was not asked for. r->moved counts what is done.
 */
static void flush_on(struct snap *s, struct snap_req *r)
{
	struct target *t = r->moved ? NULL : s->origin;

	while (!t && r->moved <= SNAP_MAX_STORES) {
		struct store *st = &s->stores[r->moved - 1];

		/* Also when the table is empty: that may not be on the medium yet. */
		bool merging =
			st->state == STORE_MERGING && s->merge.state != MERGE_LEAVING && s->merge.state != MERGE_WIPING;

		if (merging || (st->state == STORE_LIVE && st->x.persistent && !s->opts.durable)) {
			t = st->x.target;
			use(r, st);
		} else {
			r->moved++;
		}
	}
	if (!t) {
		finish(r, 0);
		return;
	}
	r->moved++;
	r->io = (struct io){ .target = t, .op = IO_FLUSH, .owner = r, .done = was_flushed };
	io_start(s->loop, &r->io);
}

/* --- Submitting --- */

static int check(const struct snap *s, const struct snap_req *r)
{
	if (r->store != SNAP_ORIGIN) {
		if (r->store < 0 || r->store >= SNAP_MAX_STORES || s->stores[r->store].state == STORE_NONE)
			return -ENOENT;
		if (r->op != IO_READ)
			return -EROFS;
		if (s->stores[r->store].state != STORE_LIVE)
			return s->stores[r->store].state == STORE_MERGING ? -EBUSY : -EIO;
	}
	if (r->op != IO_FLUSH && (r->offset > s->origin->size || r->len > s->origin->size - r->offset))
		return -EINVAL;
	return 0;
}

void snap_submit(struct snap *s, struct snap_req *r)
{
	int err = check(s, r);

	r->snap = s;
	r->moved = 0;
	r->err = 0;
	r->tracked = false;
	r->uses = NULL;
	TAILQ_INIT(&r->blocked);
	s->requests++;
	if (err || (!r->len && r->op != IO_FLUSH)) {
		fail_later(s, r, err);
	} else if (r->op == IO_FLUSH) {
		flush_on(s, r);
	} else if (r->op == IO_READ) {
		counter_add(&s->count.reads, 1);
		read_on(s, r);
	} else {
		counter_add(&s->count.writes, 1);
		write_on(s, r);
	}
}

/* --- Merging --- */

/* `fenced`: what was being merged can be read, but not written any more. */
static void merge_fails(struct snap *s, bool fenced)
{
	s->merge.state = MERGE_FAILED;
	if (!fenced)
		s->merge.n = 0;
	go_on_all(s, &s->merge.waiters);
}

static void merge_drop(struct snap *s)
{
	s->merge.state = MERGE_DROPPING;
	s->merge.tries = 0;
	exstore_drop(&s->stores[s->merge.store].x, s->merge.n);
}

static void merge_flushed(struct io *io)
{
	struct snap *s = io->owner;

	if (io->err)
		merge_fails(s, false);
	else
		merge_drop(s);
}

static void merge_copied(struct copy_job *job)
{
	struct snap *s = job->owner;
	struct merge *m = &s->merge;

	if (job->read_err || job->write_err[0]) {
		merge_fails(s, false);
	} else if (s->opts.durable) {
		m->state = MERGE_FLUSHING;
		m->io = (struct io){ .target = s->origin, .op = IO_FLUSH, .owner = s, .done = merge_flushed };
		io_start(s->loop, &m->io);
	} else {
		merge_drop(s);
	}
}

static void merge_copy(struct snap *s)
{
	struct merge *m = &s->merge;
	struct exstore *x = &s->stores[m->store].x;
	uint64_t offset = (uint64_t)m->chunk << s->chunk_shift, len = (uint64_t)m->n << s->chunk_shift;

	m->state = MERGE_COPYING;
	m->job = (struct copy_job){ .source = x->target,
				    .offset = exstore_offset(x, m->slot),
				    .len = len < s->origin->size - offset ? len : s->origin->size - offset,
				    .n_dests = 1,
				    .dests = { { s->origin, offset } },
				    .done = merge_copied,
				    .owner = s };
	copy_submit(s->copy, &m->job);
}

/* What any write to the origin has to wait for. */
static void merge_save(struct snap *s)
{
	struct merge *m = &s->merge;
	struct snap_req *reader;

	if (s->holds) {
		TAILQ_INSERT_TAIL(&s->held, &m->req, at);
		return;
	}
	if (!all_copied(s, &m->req, m->chunk, m->chunk + m->n - 1))
		return;
	reader = reader_of(s, (uint64_t)m->chunk << s->chunk_shift, m->n << s->chunk_shift);
	if (reader)
		TAILQ_INSERT_TAIL(&reader->blocked, &m->req, at);
	else
		merge_copy(s);
}

static void merge_no_memory(struct snap_req *r)
{
	r->snap->requests++; /* it never was one */
	merge_fails(r->snap, false);
}

static void merge_next(struct snap *s)
{
	struct merge *m = &s->merge;
	struct exstore *x = &s->stores[m->store].x;

	m->n = exstore_last(x, s->batch_chunks, &m->chunk, &m->slot);
	if (!m->n) {
		m->state = MERGE_LEAVING;
		return;
	}
	m->state = MERGE_DRAINING;
	s->holds++;
}

static void merge_drained(struct snap *s)
{
	struct merge *m = &s->merge;

	m->state = MERGE_SAVING;
	m->req = (struct snap_req){ .op = IO_WRITE, .store = SNAP_ORIGIN, .snap = s, .done = merge_no_memory };
	release_hold(s);
	merge_save(s);
}

static void merge_step(struct snap *s)
{
	if (s->merge.state == MERGE_NEXT)
		merge_next(s);
	if (s->merge.state == MERGE_DRAINING && !s->origin_writes)
		merge_drained(s);
	if (s->merge.state == MERGE_LEAVING && !s->stores[s->merge.store].users) {
		s->merge.state = MERGE_WIPING;
		exstore_mark(&s->stores[s->merge.store].x, EXSTORE_WIPED);
	}
}

static void close_store(struct store *st)
{
	st->snap->memory -= extab_bytes(&st->x.table);
	exstore_close(&st->x);
	target_close(st->x.target);
	st->state = STORE_NONE;
}

/* Whether its header says that it is merged is not known. It must not, once the origin has gone on without. */
static void merge_does_not_begin(struct snap *s)
{
	struct store *st = &s->stores[s->merge.store];

	s->merge.state = MERGE_NONE;
	st->state = STORE_LIVE;
	s->live |= 1U << st->number;
	invalidate(st);
}

/*
 * Whether what was merged is in the store's table is not known. The origin has the same data: it can be read there, but
 * a write would be lost if the store, opened again, said otherwise.
 */
static void merge_cannot_drop(struct snap *s)
{
	if (++s->merge.tries < META_TRIES)
		exstore_drop(&s->stores[s->merge.store].x, 0);
	else
		merge_fails(s, true);
}

/* The exception store has done what the merge asked of it. */
static void merge_goes_on(struct snap *s, int err)
{
	struct merge *m = &s->merge;

	if (m->state == MERGE_MARKING)
		s->call_err = err;
	if (err && m->state == MERGE_MARKING) {
		merge_does_not_begin(s);
	} else if (err && m->state == MERGE_DROPPING) {
		merge_cannot_drop(s);
	} else if (err) {
		merge_fails(s, false);
	} else if (m->state == MERGE_WIPING) {
		m->state = MERGE_NONE;
		close_store(&s->stores[m->store]);
	} else {
		m->state = MERGE_NEXT;
		m->n = 0;
		go_on_all(s, &m->waiters);
	}
}

/* --- Rounds --- */

/* Was there one? */
static bool tell_failed(struct snap *s)
{
	struct req_list list = TAILQ_HEAD_INITIALIZER(list);
	struct snap_req *r;
	bool told = false;

	TAILQ_CONCAT(&list, &s->failed, at);
	while ((r = TAILQ_FIRST(&list))) {
		TAILQ_REMOVE(&list, r, at);
		finish(r, r->err);
		told = true;
	}
	return told;
}

static bool has_work(const struct snap *s)
{
	return !TAILQ_EMPTY(&s->failed) || s->merge.state == MERGE_NEXT ||
	       (!TAILQ_EMPTY(&s->todo) && worth_a_batch(s) && !TAILQ_EMPTY(&s->free_batches));
}

int snap_run(struct snap *s, int64_t deadline_ns)
{
	bool told = tell_failed(s), more;
	int n;

	open_gate(s);
	merge_step(s);
	form_batches(s);
	/* Last, so that nothing that was given to it is left lying while we wait. */
	more = copy_work(s->copy);
	if (told || more || has_work(s))
		deadline_ns = 0;
	else if (copy_next_ns(s->copy) < deadline_ns)
		deadline_ns = copy_next_ns(s->copy);
	n = io_run(s->loop, deadline_ns);
	return n < 0 ? n : 0;
}

bool snap_idle(const struct snap *s)
{
	return !s->requests && !s->count.in_progress && !s->flushing &&
	       (s->merge.state == MERGE_NONE || s->merge.state == MERGE_CUT || s->merge.state == MERGE_FAILED);
}

void snap_read_counters(const struct snap *s, struct snap_counters *counters)
{
	counter_copy(counters, &s->count, sizeof(*counters) / sizeof(uint64_t));
}

static int run_until(struct snap *s, bool (*cond)(const struct snap *s, const struct store *st), const struct store *st,
		     int64_t deadline_ns)
{
	while (!cond(s, st)) {
		int err = snap_run(s, deadline_ns);

		if (err)
			return err;
		if (clock_ns() >= deadline_ns && !cond(s, st))
			return -ETIMEDOUT;
	}
	return 0;
}

/* --- Snapshots --- */

/* No write is at the origin, or in front of it but for those that are held. */
static bool is_quiet(const struct snap *s, const struct store *st)
{
	(void)st;
	return !s->origin_writes && !s->count.in_progress;
}

static bool is_unused(const struct snap *s, const struct store *st)
{
	return is_quiet(s, st) && !st->users && !st->x.busy && st->state != STORE_DYING;
}

static bool is_deleted_or_not(const struct snap *s, const struct store *st)
{
	(void)s;
	return st->state != STORE_DELETING;
}

static bool is_flushed(const struct snap *s, const struct store *st)
{
	(void)st;
	return !s->flushing;
}

static bool is_marked(const struct snap *s, const struct store *st)
{
	(void)st;
	return s->merge.state != MERGE_MARKING;
}

static struct store *free_store(struct snap *s)
{
	for (unsigned i = 0; i < SNAP_MAX_STORES; i++)
		if (s->stores[i].state == STORE_NONE)
			return &s->stores[i];
	return NULL;
}

/*
 * Take in the store that was made or opened, with this outcome. One whose device still owes an answer is kept too, as
 * an invalid one, because its request needs it.
 */
static int enlist(struct snap *s, struct store *st, int err)
{
	if (err && !st->x.busy)
		return err;
	st->x.committed = store_changes;
	st->x.owner = st;
	TAILQ_INIT(&st->batches);
	st->committing = st->users = 0;
	st->mark_waits = false;
	take_memory(s, extab_bytes(&st->x.table));
	st->state = err ? STORE_INVALID : STORE_LIVE;
	if (err)
		return -EINPROGRESS;
	s->live |= 1U << st->number;
	if (st->x.sequence >= s->sequence)
		s->sequence = st->x.sequence + 1;
	return 0;
}

static void origin_flushed(struct io *io)
{
	struct snap *s = io->owner;

	s->flushing = false;
}

static int flush_origin(struct snap *s, int64_t deadline_ns)
{
	int err;

	s->flushing = true;
	s->flush = (struct io){ .target = s->origin, .op = IO_FLUSH, .owner = s, .done = origin_flushed };
	io_start(s->loop, &s->flush);
	err = run_until(s, is_flushed, NULL, deadline_ns);
	return err ? err : s->flush.err;
}

/* Writes are held, whatever comes of it, and with 0 none is at the origin; *st is the place for one more store. */
static int begin_store(struct snap *s, struct store **st, int64_t deadline_ns)
{
	s->holds++;
	*st = free_store(s);
	if (!*st)
		return -ENOSPC;
	/* A flush that was not waited for to its end has not ended yet. */
	if ((s->merge.state != MERGE_NONE && s->merge.state != MERGE_CUT) || s->flushing)
		return -EBUSY;
	return run_until(s, is_quiet, NULL, deadline_ns);
}

int snap_create(struct snap *s, struct target *t, const struct snap_store_opts *opts, int64_t deadline_ns)
{
	struct exstore_opts how = { .chunk_bytes = s->opts.chunk_bytes,
				    .persistent = opts->persistent,
				    .durable = opts->persistent && s->opts.durable,
				    .name = opts->name,
				    .origin_bytes = s->origin->size,
				    .sequence = s->sequence };
	struct store *st;
	int err = s->merge.state == MERGE_CUT ? -EBUSY : 0;

	if (err)
		return err;
	err = begin_store(s, &st, deadline_ns);
	/* The snapshot is what its chunks in the origin are: they must not be lost behind its back. */
	if (!err && s->opts.durable)
		err = flush_origin(s, deadline_ns);
	if (!err)
		err = enlist(s, st, exstore_make(&st->x, s->loop, t, &how, deadline_ns));
	release_hold(s);
	return err ? err : (int)st->number;
}

static void begin_merge(struct snap *s, struct store *st, enum merge_state state)
{
	st->state = STORE_MERGING;
	s->live &= ~(1U << st->number);
	s->merge.store = st->number;
	s->merge.n = 0;
	s->merge.state = state;
	TAILQ_INIT(&s->merge.waiters);
}

static int can_take_up(const struct snap *s, const struct exstore *x)
{
	if (x->chunk_bytes != s->opts.chunk_bytes)
		return -EINVAL;
	return x->merging && s->merge.state == MERGE_CUT ? -EBUSY : 0;
}

int snap_attach(struct snap *s, struct target *t, int64_t deadline_ns)
{
	struct exstore_opts how = { .durable = s->opts.durable, .origin_bytes = s->origin->size };
	struct store *st;
	int err = begin_store(s, &st, deadline_ns);

	if (!err) {
		err = exstore_open(&st->x, s->loop, t, &how, deadline_ns);
		if (!err) {
			err = can_take_up(s, &st->x);
			if (err)
				exstore_close(&st->x);
		}
		err = enlist(s, st, err);
	}
	if (!err && st->x.merging)
		begin_merge(s, st, MERGE_CUT);
	release_hold(s);
	return err ? err : (int)st->number;
}

void snap_resume_merge(struct snap *s)
{
	if (s->merge.state == MERGE_CUT)
		s->merge.state = MERGE_NEXT;
}

static struct store *find_store(struct snap *s, int store)
{
	if (store < 0 || store >= SNAP_MAX_STORES || s->stores[store].state == STORE_NONE)
		return NULL;
	return &s->stores[store];
}

/* Its header is wiped, or could not be: then it is what it was. */
static void end_delete(struct store *st, int err)
{
	struct snap *s = st->snap;

	if (err) {
		st->state = st->was;
	} else {
		s->live &= ~(1U << st->number);
		close_store(st);
	}
	s->call_err = err;
	release_hold(s);
}

int snap_delete(struct snap *s, int store, int64_t deadline_ns)
{
	struct store *st = find_store(s, store);
	int err;

	if (!st)
		return -ENOENT;
	if (st->state == STORE_MERGING || st->state == STORE_DELETING)
		return -EBUSY;
	s->holds++;
	err = run_until(s, is_unused, st, deadline_ns);
	if (err) {
		release_hold(s);
		return err;
	}
	st->was = st->state;
	st->state = STORE_DELETING;
	exstore_mark(&st->x, EXSTORE_WIPED);
	err = run_until(s, is_deleted_or_not, st, deadline_ns);
	return err ? err : s->call_err;
}

int snap_merge(struct snap *s, int store, int64_t deadline_ns)
{
	struct store *st = find_store(s, store);
	int err;

	if (!st)
		return -ENOENT;
	if (st->state == STORE_DYING || st->state == STORE_INVALID)
		return -EIO;
	if (s->merge.state != MERGE_NONE || st->state != STORE_LIVE || !st->x.persistent)
		return st->x.persistent ? -EBUSY : -EINVAL;
	s->holds++;
	err = run_until(s, is_unused, st, deadline_ns);
	if (!err && st->state != STORE_LIVE)
		err = -EIO;
	if (!err) {
		begin_merge(s, st, MERGE_MARKING);
		exstore_mark(&st->x, EXSTORE_MERGING);
		err = run_until(s, is_marked, NULL, deadline_ns);
		if (!err)
			err = s->call_err;
	}
	release_hold(s);
	return err;
}

int snap_store_info(const struct snap *s, int store, struct snap_info *info)
{
	const struct store *st = find_store((struct snap *)s, store);

	if (!st)
		return -ENOENT;
	*info = (struct snap_info){ .valid = st->state == STORE_LIVE || st->state == STORE_MERGING,
				    .persistent = st->x.persistent,
				    .merging = st->state == STORE_MERGING,
				    .used = st->x.given,
				    .chunks = st->x.table.max,
				    .exceptions = st->x.table.n,
				    .sequence = st->x.sequence,
				    .made_s = st->x.made_s };
	memcpy(info->name, st->x.name, sizeof(info->name));
	return 0;
}

/* --- Opening and closing --- */

static int take_pools(struct snap *s)
{
	/* As many chunks as the gate lets through, and none to spare: it is checked before each. */
	size_t n = s->opts.cow_threshold == SNAP_UNLIMITED ? COW_THRESHOLD : s->opts.cow_threshold + 1ULL;

	s->pendings = calloc(n, sizeof(*s->pendings));
	s->batches = calloc(BATCHES, sizeof(*s->batches));
	if (!s->pendings || !s->batches)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		/* Touched: calloc() may have left it to the first fault. */
		s->pendings[i].lack = UINT32_MAX;
		TAILQ_INSERT_TAIL(&s->free_pendings, &s->pendings[i], at);
	}
	for (size_t i = 0; i < BATCHES; i++) {
		s->batches[i].snap = s;
		memset(s->batches[i].dest, UINT8_MAX, sizeof(s->batches[i].dest));
		TAILQ_INSERT_TAIL(&s->free_batches, &s->batches[i], at);
	}
	take_memory(s, sizeof(*s) + n * sizeof(*s->pendings) + BATCHES * sizeof(*s->batches));
	return 0;
}

static void free_snap(struct snap *s)
{
	struct pending *p, *next;

	/* Without a threshold some are of their own. */
	for (p = TAILQ_FIRST(&s->free_pendings); p; p = next) {
		size_t n = s->opts.cow_threshold == SNAP_UNLIMITED ? COW_THRESHOLD : s->opts.cow_threshold + 1ULL;

		next = TAILQ_NEXT(p, at);
		if (p < s->pendings || p >= s->pendings + n)
			free(p);
	}
	free(s->pendings);
	free(s->batches);
	free(s);
}

int snap_open(struct io_loop *loop, struct copy_client *copy, struct target *origin, const struct snap_opts *opts,
	      struct snap **snap)
{
	struct snap *s;
	int err;

	if (opts->chunk_bytes < EXSTORE_MIN_CHUNK || opts->chunk_bytes > EXSTORE_MAX_CHUNK ||
	    opts->chunk_bytes & (opts->chunk_bytes - 1) || opts->chunk_bytes > copy_subjob_bytes(copy) ||
	    opts->chunk_bytes % origin->block || origin->size % origin->block || !origin->size ||
	    origin->size / opts->chunk_bytes >= EXTAB_MAX_CHUNK)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->loop = loop;
	s->copy = copy;
	s->origin = origin;
	s->opts = *opts;
	s->chunk_shift = (unsigned)__builtin_ctz(opts->chunk_bytes);
	s->batch_chunks = copy_subjob_bytes(copy) / opts->chunk_bytes;
	if (s->batch_chunks > COPY_MAX_PIECES)
		s->batch_chunks = COPY_MAX_PIECES;
	TAILQ_INIT(&s->free_pendings);
	TAILQ_INIT(&s->todo);
	TAILQ_INIT(&s->free_batches);
	TAILQ_INIT(&s->gated);
	TAILQ_INIT(&s->held);
	TAILQ_INIT(&s->failed);
	TAILQ_INIT(&s->tracked);
	TAILQ_INIT(&s->merge.waiters);
	for (unsigned i = 0; i < SNAP_MAX_STORES; i++) {
		s->stores[i].snap = s;
		s->stores[i].number = i;
	}
	err = take_pools(s);
	if (err) {
		free_snap(s);
		return err;
	}
	*snap = s;
	return 0;
}

/* A merge is taken up again when its store is attached: it is left between two of its steps. */
static bool may_close(const struct snap *s, const struct store *st)
{
	(void)st;
	for (unsigned i = 0; i < SNAP_MAX_STORES; i++)
		if (s->stores[i].state != STORE_NONE && s->stores[i].x.busy)
			return false;
	return !s->requests && !s->count.in_progress &&
	       (s->merge.state == MERGE_NONE || s->merge.state == MERGE_CUT || s->merge.state == MERGE_NEXT ||
		s->merge.state == MERGE_FAILED);
}

int snap_close(struct snap *s, int64_t deadline_ns)
{
	int err = run_until(s, may_close, NULL, deadline_ns);

	if (err)
		return err;
	assert(TAILQ_EMPTY(&s->todo) && TAILQ_EMPTY(&s->gated) && TAILQ_EMPTY(&s->held) && TAILQ_EMPTY(&s->failed));
	assert(TAILQ_EMPTY(&s->tracked) && !s->origin_writes);
	for (unsigned i = 0; i < SNAP_MAX_STORES; i++)
		if (s->stores[i].state != STORE_NONE)
			close_store(&s->stores[i]);
	free_snap(s);
	return 0;
}
