// SPDX-License-Identifier: MIT
/*
 * A plain model of an origin and its snapshots, and the engine at work beside it: random requests, faults, requests
 * that end in any order, and the power gone at any moment. All from one seed.
 */
#ifndef HEADROOM_TEST_SNAP_MODEL_H
#define HEADROOM_TEST_SNAP_MODEL_H

#include "engine_sim.h"

#include "base/clock.h"
#include "engine/snap.h"

#include <inttypes.h>

#define DEADLINE_S 60 /* no call takes a hundredth of it, but for what a test does meanwhile */
#define BLOCK	   SIM_SECTOR
#define MAX_REQS   32
#define CANDIDATES 64
#define STAGING	   (2 << 20)
#define UNKNOWN	   UINT32_MAX /* of a block: a write of it failed */

static int64_t deadline(void)
{
	return clock_ns() + DEADLINE_S * NS_PER_S;
}

/* --- The model --- */

/*
 * A block of the origin holds one value; a power cut may bring back the last that was flushed, or any that came after
 * it.
 */
struct block {
	uint32_t value, flushed;
	unsigned n; /* of candidates */
	uint32_t candidates[CANDIDATES];
	uint64_t acked[CANDIDATES]; /* when the write was told to have ended; UINT64_MAX: not yet */
};

struct model_snap {
	bool there, valid, persistent, untold; /* untold: a call that makes or deletes it goes on */
	struct sim_disk *disk;
	uint64_t disk_id;
	uint32_t *blocks;
};

/* Its disk has gone when it was merged, before the model knows. */
static bool has_disk(const struct model_snap *m)
{
	return m->there && m->disk->target && m->disk->id == m->disk_id;
}

struct req {
	struct snap_req r;
	struct test *test;
	bool busy;
	uint32_t first, n;
	uint64_t begun;
	char *data;
	uint32_t value; /* of the first block; each has the next */
};

struct test {
	uint64_t seed, random;
	struct sim sim;
	struct copy_client *copy;
	struct target *origin;
	struct snap *snap;
	struct snap_opts opts;
	uint32_t blocks;
	struct block *block;
	struct model_snap snaps[SNAP_MAX_STORES];
	struct req reqs[MAX_REQS];
	uint32_t next_value;
	uint64_t clock;
	bool merging;
	int merged; /* the store of which a call makes the origin; or -1 */
	/* Faults that are to be survived (short transfers and shortages), and disks that break. */
	bool faults;
	unsigned faults_left;
	/* The one transfer that goes wrong, and how: -errno, or bytes at the most. */
	uint64_t transfers, wrong_at;
	int64_t wrong;
	bool went_wrong;
	bool hit, hit_origin; /* it was an error; where the origin's data was */
	unsigned failed;      /* requests of the origin */
	/* The power. */
	uint64_t cut_at, cuts;
	enum sim_left left;
};

static uint64_t pick(struct test *t, uint64_t n)
{
	return sim_random(&t->random) % n;
}

static void fill(char *data, uint32_t value)
{
	for (uint32_t i = 0; i < BLOCK; i += sizeof(value))
		memcpy(data + i, &value, sizeof(value));
}

static uint32_t value_of(const char *data, const struct test *t, const char *what, uint32_t block)
{
	uint32_t value, again;

	memcpy(&value, data, sizeof(value));
	for (uint32_t i = 0; i < BLOCK; i += sizeof(value)) {
		memcpy(&again, data + i, sizeof(again));
		if (again != value)
			fail_msg("seed %" PRIu64 ": %s, block %u is torn: %u and %u", t->seed, what, block, value,
				 again);
	}
	return value;
}

static void expect_block(const struct test *t, const char *what, uint32_t block, uint32_t got, uint32_t want)
{
	if (want != UNKNOWN && got != want)
		fail_msg("seed %" PRIu64 ": %s, block %u: %u, not %u", t->seed, what, block, got, want);
}

/* --- Faults --- */

static int64_t fault(void *arg, const struct io *io, uint32_t len)
{
	struct test *t = arg;

	if (t->transfers++ == t->wrong_at) {
		t->went_wrong = true;
		t->hit = t->wrong < 0 && t->wrong != -EINTR && t->wrong != -EAGAIN;
		t->hit_origin = t->hit && (io->target == t->origin || t->merging);
		return io->op == IO_FLUSH && t->wrong > 0 ? (int64_t)len : t->wrong;
	}
	if (!t->faults_left || pick(t, 8))
		return len;
	t->faults_left--;
	switch (pick(t, 3)) {
	case 0:
		return -EINTR;
	case 1:
		return -EAGAIN;
	default:
		return io->op == IO_FLUSH || len <= BLOCK ? (int64_t)len : BLOCK;
	}
}

/* May this have come of the one transfer that went wrong? */
static bool is_of_the_hit(const struct test *t, int err)
{
	return t->hit && err == (int)t->wrong;
}

/* --- Requests --- */

static bool overlaps(const struct test *t, uint32_t first, uint32_t n, bool reads_too)
{
	for (int i = 0; i < MAX_REQS; i++) {
		const struct req *r = &t->reqs[i];

		if (r->busy && r->r.store == SNAP_ORIGIN && r->r.op != IO_FLUSH && (reads_too || r->r.op == IO_WRITE) &&
		    r->first < first + n && first < r->first + r->n)
			return true;
	}
	return false;
}

static void check_read(struct test *t, struct req *r)
{
	for (uint32_t i = 0; i < r->n; i++) {
		uint32_t b = r->first + i;
		uint32_t got = value_of(r->data + (size_t)i * BLOCK, t, "read", b);

		if (r->r.store == SNAP_ORIGIN)
			expect_block(t, "origin", b, got, t->block[b].value);
		else
			expect_block(t, "snapshot", b, got, t->snaps[r->r.store].blocks[b]);
	}
}

static void wrote(struct test *t, struct req *r)
{
	for (uint32_t i = 0; i < r->n; i++) {
		struct block *b = &t->block[r->first + i];

		b->value = r->value + i;
		b->acked[b->n - 1] = t->clock;
	}
}

/* What was told before the flush began cannot be lost any more. */
static void flushed(struct test *t, const struct req *r)
{
	for (uint32_t i = 0; i < t->blocks; i++) {
		struct block *b = &t->block[i];
		unsigned keep = 0;

		while (keep < b->n && b->acked[keep] < r->begun)
			b->flushed = b->candidates[keep++];
		b->n -= keep;
		memmove(b->candidates, b->candidates + keep, b->n * sizeof(*b->candidates));
		memmove(b->acked, b->acked + keep, b->n * sizeof(*b->acked));
	}
}

static void told(struct snap_req *sr)
{
	struct req *r = sr->owner;
	struct test *t = r->test;

	t->clock++;
	r->busy = false;
	if (sr->err && is_of_the_hit(t, sr->err)) {
		t->failed += sr->store == SNAP_ORIGIN;
		for (uint32_t i = 0; sr->op == IO_WRITE && i < r->n; i++)
			t->block[r->first + i].value = UNKNOWN;
	} else if (sr->store != SNAP_ORIGIN && sr->err) {
		/* Only of a store that could not take a copy. */
		if (sr->err != -EIO)
			fail_msg("seed %" PRIu64 ": read of snapshot %d: %s", t->seed, sr->store, strerror(-sr->err));
		t->snaps[sr->store].valid = false;
	} else if (sr->err) {
		fail_msg("seed %" PRIu64 ": request of the origin: %s", t->seed, strerror(-sr->err));
	} else if (sr->op == IO_READ) {
		check_read(t, r);
	} else if (sr->op == IO_WRITE) {
		wrote(t, r);
	} else {
		flushed(t, r);
	}
	free(r->data);
}

static struct req *free_req(struct test *t)
{
	for (int i = 0; i < MAX_REQS; i++)
		if (!t->reqs[i].busy)
			return &t->reqs[i];
	return NULL;
}

static bool room_for_candidates(const struct test *t, uint32_t first, uint32_t n)
{
	while (n--)
		if (t->block[first + n].n == CANDIDATES)
			return false;
	return true;
}

static void submit(struct test *t, enum io_op op, int store, uint32_t first, uint32_t n)
{
	struct req *r = free_req(t);

	if (!r || (op == IO_WRITE && (overlaps(t, first, n, true) || !room_for_candidates(t, first, n))) ||
	    (op == IO_READ && store == SNAP_ORIGIN && overlaps(t, first, n, false)))
		return;
	*r = (struct req){ .test = t, .busy = true, .first = first, .n = n, .begun = ++t->clock };
	if (n) {
		r->data = malloc((size_t)n * BLOCK);
		assert_non_null(r->data);
	}
	if (op == IO_WRITE) {
		r->value = t->next_value;
		t->next_value += n;
		for (uint32_t i = 0; i < n; i++) {
			struct block *b = &t->block[first + i];

			fill(r->data + (size_t)i * BLOCK, r->value + i);
			b->candidates[b->n] = r->value + i;
			b->acked[b->n++] = UINT64_MAX;
		}
	}
	r->r = (struct snap_req){ .op = op,
				  .store = store,
				  .offset = (uint64_t)first * BLOCK,
				  .data = r->data,
				  .len = n * BLOCK,
				  .done = told,
				  .owner = r };
	snap_submit(t->snap, &r->r);
}

static void settle(struct test *t)
{
	int64_t until = deadline();

	for (int i = 0; i < MAX_REQS; i++)
		while (t->reqs[i].busy) {
			assert_int_equal(snap_run(t->snap, until), 0);
			if (clock_ns() > until)
				fail_msg("seed %" PRIu64 ": a request does not end", t->seed);
		}
}

/* --- Snapshots --- */

static void drop_model(struct model_snap *m)
{
	free(m->blocks);
	memset(m, 0, sizeof(*m));
}

/*
 * What a disk held before: a store, but for its header, as a deletion leaves it. Whoever reads an area that was not
 * emptied finds exceptions. For the caller to free.
 */
static char *stale(struct test *t, uint64_t size)
{
	char *data = calloc(1, size);
	uint64_t chunks = size / t->opts.chunk_bytes;

	assert_non_null(data);
	for (uint64_t at = t->opts.chunk_bytes; at < size; at += 2 * sizeof(uint64_t)) {
		uint64_t exception[2] = { pick(t, (uint64_t)t->blocks * BLOCK / t->opts.chunk_bytes),
					  2 + pick(t, chunks) };

		memcpy(data + at, exception, sizeof(exception));
	}
	return data;
}

static void create(struct test *t)
{
	struct snap_store_opts how = { .persistent = pick(t, 4) > 0, .name = "one" };
	/* One in four has not the room for all. */
	uint64_t chunks = (uint64_t)t->blocks * BLOCK / t->opts.chunk_bytes;
	uint64_t size = (pick(t, 4) ? 2 * chunks + 8 : 3 + pick(t, chunks)) * t->opts.chunk_bytes;
	struct target *target;
	char *before;
	struct model_snap *m;
	int n, number = 0;

	while (number < SNAP_MAX_STORES && t->snaps[number].there)
		number++;
	if (number == SNAP_MAX_STORES || t->merging)
		return;
	settle(t); /* so that the model knows what it is a snapshot of */
	before = stale(t, size);
	target = sim_disk(&t->sim, size, before);
	free(before);
	m = &t->snaps[number];
	*m = (struct model_snap){
		.there = true, .valid = true, .persistent = how.persistent, .untold = true, .disk = target->own
	};
	m->disk_id = m->disk->id;
	m->blocks = malloc(t->blocks * sizeof(*m->blocks));
	assert_non_null(m->blocks);
	for (uint32_t i = 0; i < t->blocks; i++)
		m->blocks[i] = t->block[i].value;
	n = snap_create(t->snap, target, &how, deadline());
	if (n < 0 && is_of_the_hit(t, n)) {
		drop_model(m);
		target_close(target);
		return;
	}
	assert_int_equal(n, number);
	m->untold = false;
	for (uint32_t i = 0; i < t->blocks; i++) {
		if (t->opts.durable) {
			/* It flushes the origin. */
			t->block[i].flushed = t->block[i].value;
			t->block[i].n = 0;
		}
	}
}

/* Does the engine say of it what the model does? A store may turn invalid only for want of room, or by a fault. */
static void look_at(struct test *t, int n)
{
	struct model_snap *m = &t->snaps[n];
	struct snap_info info;

	assert_int_equal(snap_store_info(t->snap, n, &info), 0);
	if (!info.valid && m->valid) {
		bool full = info.used + t->opts.chunk_bytes / 16 + 2 >= info.chunks ||
			    m->disk->size / t->opts.chunk_bytes < 2 * t->blocks;

		if (!t->faults && !t->hit && !full)
			fail_msg("seed %" PRIu64 ": store %d is invalid", t->seed, n);
		m->valid = false;
	}
}

static int some_snap(struct test *t)
{
	int n = (int)pick(t, SNAP_MAX_STORES);

	for (int i = 0; i < SNAP_MAX_STORES; i++, n = (n + 1) % SNAP_MAX_STORES)
		if (t->snaps[n].there)
			return n;
	return -1;
}

static bool is_read(const struct test *t, int store)
{
	for (int i = 0; i < MAX_REQS; i++)
		if (t->reqs[i].busy && t->reqs[i].r.store == store)
			return true;
	return false;
}

static void delete (struct test *t, int n)
{
	int err;

	if (is_read(t, n))
		return;
	if (t->snaps[n].untold) {
		assert_int_equal(snap_delete(t->snap, n, deadline()), -EBUSY);
		return;
	}
	t->snaps[n].untold = true;
	err = snap_delete(t->snap, n, deadline());
	if (err && (t->faults || t->hit)) {
		assert_int_equal(err, t->hit ? (int)t->wrong : -EIO);
		t->snaps[n].untold = false;
		return;
	}
	assert_int_equal(err, 0);
	drop_model(&t->snaps[n]);
}

static void merge(struct test *t, int n)
{
	struct model_snap *m = &t->snaps[n];
	int err;

	look_at(t, n);
	if (t->merging || !m->valid || !m->persistent || t->faults)
		return;
	settle(t);
	look_at(t, n);
	if (!m->valid)
		return;
	t->merged = n;
	err = snap_merge(t->snap, n, deadline());
	t->merged = -1;
	if (err && is_of_the_hit(t, err))
		return;
	assert_int_equal(err, 0);
	for (uint32_t i = 0; i < t->blocks; i++) {
		/* What lies in the origin alone was flushed when the snapshot was made, and not written since. */
		t->block[i].value = t->block[i].flushed = m->blocks[i];
		t->block[i].n = 0;
	}
	t->merging = true;
	/* After a cut it is attached too, and the merge goes on; by itself it cannot be read. */
	m->untold = true;
}

static void look_at_merge(struct test *t)
{
	struct snap_info info;

	if (!t->merging)
		return;
	for (int n = 0; n < SNAP_MAX_STORES; n++) {
		if (!t->snaps[n].there || !t->snaps[n].untold)
			continue;
		if (snap_store_info(t->snap, n, &info) == -ENOENT) {
			t->merging = false;
			drop_model(&t->snaps[n]);
		}
	}
}

/* --- Verification --- */

struct whole {
	struct snap_req r;
	bool ended;
	char *data;
};

static void whole_read(struct snap_req *r)
{
	((struct whole *)r->owner)->ended = true;
}

static int whole_io(struct snap *snap, enum io_op op, int store, uint64_t offset, uint64_t size, char *data)
{
	struct whole w = { .data = data };
	int64_t until = deadline();

	w.r = (struct snap_req){ .op = op,
				 .store = store,
				 .offset = offset,
				 .data = data,
				 .len = (uint32_t)size,
				 .done = whole_read,
				 .owner = &w };
	snap_submit(snap, &w.r);
	while (!w.ended) {
		assert_int_equal(snap_run(snap, until), 0);
		assert_true(clock_ns() < until);
	}
	return w.r.err;
}

static int read_all(struct snap *snap, int store, uint64_t size, char *data)
{
	return whole_io(snap, IO_READ, store, 0, size, data);
}

static void verify(struct test *t)
{
	char *data = malloc((size_t)t->blocks * BLOCK);
	int err;

	assert_non_null(data);
	settle(t);
	t->wrong_at = UINT64_MAX;
	assert_int_equal(read_all(t->snap, SNAP_ORIGIN, (uint64_t)t->blocks * BLOCK, data), 0);
	for (uint32_t i = 0; i < t->blocks; i++)
		expect_block(t, "origin at the end", i, value_of(data + (size_t)i * BLOCK, t, "origin", i),
			     t->block[i].value);
	for (int n = 0; n < SNAP_MAX_STORES; n++) {
		if (!t->snaps[n].there || t->snaps[n].untold)
			continue;
		look_at(t, n);
		if (!t->snaps[n].valid || t->snaps[n].disk->fail)
			continue;
		err = read_all(t->snap, n, (uint64_t)t->blocks * BLOCK, data);
		look_at(t, n);
		if (err && !t->snaps[n].valid)
			continue;
		assert_int_equal(err, 0);
		for (uint32_t i = 0; i < t->blocks; i++)
			expect_block(t, "snapshot at the end", i, value_of(data + (size_t)i * BLOCK, t, "snapshot", i),
				     t->snaps[n].blocks[i]);
	}
	free(data);
}

/* --- The power --- */

/* What a power cut has left, and what the model knew then. */
struct cut {
	struct test *t;
	struct sim sim;
	struct copy_client *copy;
	struct target *origin;
	struct snap *snap;
	char *disk, *stores[SNAP_MAX_STORES], *data;
	struct target *targets[SNAP_MAX_STORES];
	int numbers[SNAP_MAX_STORES]; /* of stores that could be attached; or -errno */
	bool merging;		      /* the call that is to make the origin of a snapshot has got so far */
};

static void cut_fails(const struct cut *cut, int store, const char *what)
{
	fail_msg("seed %" PRIu64 ", cut %" PRIu64 ": store %d: %s", cut->t->seed, cut->t->cuts, store, what);
}

/* A call was at work on it: it is being made, deleted, or the origin. */
static bool is_untold(const struct test *t, int i)
{
	return t->snaps[i].untold || t->merged == i;
}

static void attach_cut(struct cut *cut, bool untold)
{
	struct test *t = cut->t;

	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		const struct model_snap *m = &t->snaps[i];
		struct snap_info info;

		if (!cut->stores[i] || is_untold(t, i) != untold)
			continue;
		cut->targets[i] = sim_disk(&cut->sim, m->disk->size, cut->stores[i]);
		cut->numbers[i] = snap_attach(cut->snap, cut->targets[i], deadline());
		if (cut->numbers[i] < 0)
			target_close(cut->targets[i]);
		/* That it has become invalid may not have been told yet. */
		if (cut->numbers[i] < 0 && m->valid && !untold && cut->numbers[i] != -ESTALE)
			cut_fails(cut, i, strerror(-cut->numbers[i]));
		if (cut->numbers[i] < 0 || i != t->merged)
			continue;
		assert_int_equal(snap_store_info(cut->snap, cut->numbers[i], &info), 0);
		cut->merging = info.merging;
	}
}

/* may_be_full: a merge copies into them. */
static void verify_cut_snaps(struct cut *cut, bool untold, bool may_be_full)
{
	const struct test *t = cut->t;

	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		int err;

		if (cut->numbers[i] < 0 || is_untold(t, i) != untold)
			continue;
		err = read_all(cut->snap, cut->numbers[i], (uint64_t)t->blocks * BLOCK, cut->data);
		/* One that is merged cannot be read, and is gone at the end. */
		if ((err == -EIO && may_be_full) || (untold && (err == -EBUSY || err == -ENOENT)))
			continue;
		if (err)
			cut_fails(cut, i, strerror(-err));
		for (uint32_t b = 0; b < t->blocks; b++)
			expect_block(t, "snapshot after the cut", b,
				     value_of(cut->data + (size_t)b * BLOCK, t, "snapshot", b), t->snaps[i].blocks[b]);
	}
}

static bool may_hold(const struct block *b, uint32_t value)
{
	if (value == b->flushed || b->flushed == UNKNOWN || b->value == UNKNOWN)
		return true;
	for (unsigned i = 0; i < b->n; i++)
		if (value == b->candidates[i])
			return true;
	return false;
}

static void verify_cut_origin(struct cut *cut)
{
	const struct test *t = cut->t;

	assert_int_equal(read_all(cut->snap, SNAP_ORIGIN, (uint64_t)t->blocks * BLOCK, cut->data), 0);
	for (uint32_t b = 0; b < t->blocks; b++) {
		uint32_t value = value_of(cut->data + (size_t)b * BLOCK, t, "origin", b);

		if (cut->merging)
			expect_block(t, "origin that is the snapshot after the cut", b, value,
				     t->snaps[t->merged].blocks[b]);
		else if (!may_hold(&t->block[b], value))
			fail_msg("seed %" PRIu64 ": origin after the cut, block %u: %u, flushed was %u", t->seed, b,
				 value, t->block[b].flushed);
	}
}

static void cut_open(struct cut *cut)
{
	/* There are thousands of these, and memory that is touched costs time. */
	const struct copy_opts little = { .staging_bytes = 256 << 10, .subjob_kib = 64 };
	struct test *t = cut->t;

	for (int i = 0; i < SNAP_MAX_STORES; i++)
		cut->numbers[i] = -ENOENT;
	sim_open(&cut->sim, t->seed, NULL, NULL);
	assert_int_equal(copy_client_open(cut->sim.loop, &little, &cut->copy), 0);
	cut->origin = sim_disk(&cut->sim, (uint64_t)t->blocks * BLOCK, cut->disk);
	assert_int_equal(snap_open(cut->sim.loop, cut->copy, cut->origin, &t->opts, &cut->snap), 0);
}

static void cut_close(struct cut *cut)
{
	assert_int_equal(snap_close(cut->snap, deadline()), 0);
	copy_client_close(cut->copy);
	target_close(cut->origin);
	sim_close(&cut->sim);
}

/*
 * All of the origin is written, or the end of it, so that what the stores hold grows over what the cut has left behind;
 * and opened again. Only those that a call was not at work on.
 */
static void go_on_after_cut(struct cut *cut)
{
	struct test *t = cut->t;
	uint64_t bytes = (uint64_t)(t->blocks / (t->cuts % 2 ? 1 : 4)) * BLOCK;
	uint64_t offset = (uint64_t)t->blocks * BLOCK - bytes;

	cut_open(cut);
	attach_cut(cut, false);
	memset(cut->data, 0x5a, bytes);
	assert_int_equal(whole_io(cut->snap, IO_WRITE, SNAP_ORIGIN, offset, bytes, cut->data), 0);
	memcpy(cut->disk + offset, cut->data, bytes);
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		struct snap_info info;

		if (cut->numbers[i] >= 0)
			assert_int_equal(snap_store_info(cut->snap, cut->numbers[i], &info), 0);
		if (cut->numbers[i] < 0 || !info.valid) {
			free(cut->stores[i]);
			cut->stores[i] = NULL;
		} else {
			memcpy(cut->stores[i], ((struct sim_disk *)cut->targets[i]->own)->now, t->snaps[i].disk->size);
		}
	}
	cut_close(cut);
	cut_open(cut);
	attach_cut(cut, false);
	verify_cut_snaps(cut, false, false);
	cut_close(cut);
}

/* The machine is on again: what was cut is opened, and is right, also while a merge that was cut goes on. */
static void verify_cut(struct cut *cut)
{
	bool untold_first = cut->t->cuts % 2;

	cut_open(cut);
	attach_cut(cut, untold_first);
	if (!untold_first)
		verify_cut_snaps(cut, false, false);
	attach_cut(cut, !untold_first);
	verify_cut_origin(cut);
	snap_resume_merge(cut->snap);
	verify_cut_origin(cut);
	verify_cut_snaps(cut, false, true);
	verify_cut_snaps(cut, true, true);
	cut_close(cut);
}

static void cut_power(struct test *t, enum sim_left left)
{
	struct cut cut = { .t = t };

	t->cuts++;
	cut.data = malloc((size_t)t->blocks * BLOCK);
	assert_non_null(cut.data);
	cut.disk = sim_cut(&t->sim, t->origin, left);
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		const struct model_snap *m = &t->snaps[i];

		/* A broken device cannot be told that it is invalid. */
		if (has_disk(m) && m->persistent && !m->disk->fail)
			cut.stores[i] = sim_cut(&t->sim, m->disk->target, left);
	}
	verify_cut(&cut);
	go_on_after_cut(&cut);
	for (int i = 0; i < SNAP_MAX_STORES; i++)
		free(cut.stores[i]);
	free(cut.disk);
	free(cut.data);
}

/* --- Operations --- */

static void operate(struct test *t)
{
	uint32_t first = (uint32_t)pick(t, t->blocks), n = 1 + (uint32_t)pick(t, pick(t, 4) ? 8 : 64);
	int store = some_snap(t);

	if (n > t->blocks - first)
		n = t->blocks - first;
	switch (pick(t, 40)) {
	case 0:
		create(t);
		break;
	case 1:
		if (store >= 0)
			delete (t, store);
		break;
	case 2:
		if (store >= 0 && pick(t, 2))
			merge(t, store);
		break;
	case 3:
	case 4:
		submit(t, IO_FLUSH, SNAP_ORIGIN, 0, 0);
		break;
	case 5:
		/* The device of a store breaks. */
		if (t->faults && store >= 0 && has_disk(&t->snaps[store]) && !pick(t, 4))
			t->snaps[store].disk->fail = -EIO;
		break;
	case 6 ... 13:
		submit(t, IO_READ, SNAP_ORIGIN, first, n);
		break;
	case 14 ... 19:
		if (store >= 0 && !t->snaps[store].untold)
			submit(t, IO_READ, store, first, n);
		break;
	default:
		submit(t, IO_WRITE, SNAP_ORIGIN, first, n);
	}
	if (pick(t, 2))
		assert_int_equal(snap_run(t->snap, clock_ns() + NS_PER_MS), 0);
	for (int i = 0; i < SNAP_MAX_STORES; i++)
		if (t->snaps[i].there && !t->snaps[i].untold)
			look_at(t, i);
	look_at_merge(t);
}

/* The engine and its model; `blocks` of the origin. */
static struct test *test_open(uint64_t seed, uint32_t blocks, const struct snap_opts *opts)
{
	struct test *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->seed = t->random = seed;
	t->next_value = 1;
	t->merged = -1;
	t->wrong_at = UINT64_MAX;
	t->opts = *opts;
	t->blocks = blocks;
	t->block = calloc(blocks, sizeof(*t->block));
	assert_non_null(t->block);
	sim_open(&t->sim, seed, fault, t);
	t->sim.arg = t;
	assert_int_equal(copy_client_open(t->sim.loop, &(struct copy_opts){ .staging_bytes = STAGING }, &t->copy), 0);
	t->origin = sim_disk(&t->sim, (uint64_t)blocks * BLOCK, NULL);
	assert_int_equal(snap_open(t->sim.loop, t->copy, t->origin, &t->opts, &t->snap), 0);
	return t;
}

static void test_close(struct test *t)
{
	/* It asserts that nothing is left in any list. */
	assert_int_equal(snap_close(t->snap, deadline()), 0);
	copy_client_close(t->copy);
	target_close(t->origin);
	assert_int_equal(io_pending(t->sim.loop), 0);
	sim_close(&t->sim);
	for (int i = 0; i < SNAP_MAX_STORES; i++)
		free(t->snaps[i].blocks);
	free(t->block);
	free(t);
}

/* Options of all kinds. */
static struct snap_opts some_opts(uint64_t *random)
{
	static const uint32_t thresholds[] = { 0, 1, 4, 64, 2048, SNAP_UNLIMITED };
	struct snap_opts opts;

	snap_opts_default(&opts);
	opts.cow_threshold = thresholds[sim_random(random) % 6];
	opts.chunk_bytes = 4096U << sim_random(random) % 3;
	opts.gather_jobs = (unsigned)(sim_random(random) % 10);
	return opts;
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

#endif
