// SPDX-License-Identifier: MIT
/*
 * The snapshot engine against a plain model: random requests, random faults, requests that end in any order, and the
 * power gone at any moment. HEADROOM_SEEDS says how many seeds (`make check-long`), HEADROOM_SEED which is the first.
 */
#include "engine_sim.h"

#include "base/clock.h"
#include "engine/snap.h"

#include <inttypes.h>

#define SEEDS	   300
#define DEADLINE_S 20 /* no call takes a hundredth of it */
#define BLOCK	   SIM_SECTOR
#define MAX_BLOCKS 6400
#define MAX_REQS   32
#define OPS	   120
#define CANDIDATES 64

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
	bool faults, merging;
	unsigned faults_left; /* short transfers and shortages: to be survived */
	/* A power cut. */
	uint64_t cut_at;
	bool cut, in_merge_call;
	char *cut_origin, *cut_stores[SNAP_MAX_STORES];
	uint64_t cut_sizes[SNAP_MAX_STORES];
	struct model_snap cut_snaps[SNAP_MAX_STORES];
	struct block *cut_block;
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
	if (got != want)
		fail_msg("seed %" PRIu64 ": %s, block %u: %u, not %u", t->seed, what, block, got, want);
}

/* --- Faults and the power --- */

static int64_t fault(void *arg, const struct io *io, uint32_t len)
{
	struct test *t = arg;

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

static void cut_power(void *arg)
{
	struct test *t = arg;

	if (t->cut || t->in_merge_call || t->sim.steps < t->cut_at)
		return;
	t->cut = true;
	t->cut_origin = sim_cut(&t->sim, t->origin);
	t->cut_block = malloc(t->blocks * sizeof(*t->cut_block));
	assert_non_null(t->cut_block);
	memcpy(t->cut_block, t->block, t->blocks * sizeof(*t->cut_block));
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		struct model_snap *m = &t->snaps[i];

		t->cut_snaps[i] = *m;
		/* A broken device cannot be told that it is invalid. */
		t->cut_snaps[i].there = has_disk(m) && m->persistent && !m->disk->fail;
		t->cut_snaps[i].blocks = NULL;
		if (!t->cut_snaps[i].there)
			continue;
		t->cut_sizes[i] = m->disk->size;
		t->cut_stores[i] = sim_cut(&t->sim, m->disk->target);
		t->cut_snaps[i].blocks = malloc(t->blocks * sizeof(uint32_t));
		memcpy(t->cut_snaps[i].blocks, m->blocks, t->blocks * sizeof(uint32_t));
	}
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
	if (sr->store != SNAP_ORIGIN && sr->err) {
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

static void create(struct test *t)
{
	struct snap_store_opts how = { .persistent = pick(t, 4) > 0, .name = "one" };
	/* One in four has not the room for all. */
	uint64_t chunks = (uint64_t)t->blocks * BLOCK / t->opts.chunk_bytes;
	uint64_t size = (pick(t, 4) ? 2 * chunks + 8 : 3 + pick(t, chunks)) * t->opts.chunk_bytes;
	struct target *target;
	struct model_snap *m;
	int n, number = 0;

	while (number < SNAP_MAX_STORES && t->snaps[number].there)
		number++;
	if (number == SNAP_MAX_STORES || t->merging)
		return;
	settle(t); /* so that the model knows what it is a snapshot of */
	target = sim_disk(&t->sim, size, NULL);
	n = snap_create(t->snap, target, &how, deadline());
	assert_int_equal(n, number);
	m = &t->snaps[n];
	*m = (struct model_snap){ .there = true, .valid = true, .persistent = how.persistent, .disk = target->own };
	m->disk_id = m->disk->id;
	m->blocks = malloc(t->blocks * sizeof(*m->blocks));
	assert_non_null(m->blocks);
	for (uint32_t i = 0; i < t->blocks; i++) {
		m->blocks[i] = t->block[i].value;
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

		if (!t->faults && !full)
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
	if (t->faults && err) {
		assert_int_equal(err, -EIO);
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
	t->in_merge_call = true;
	err = snap_merge(t->snap, n, deadline());
	assert_int_equal(err, 0);
	for (uint32_t i = 0; i < t->blocks; i++) {
		/* What lies in the origin alone was flushed when the snapshot was made, and not written since. */
		t->block[i].value = t->block[i].flushed = m->blocks[i];
		t->block[i].n = 0;
	}
	t->merging = true;
	/* After a cut it is attached too, and the merge goes on; by itself it cannot be read. */
	m->untold = true;
	t->in_merge_call = false;
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

static int read_all(struct snap *snap, int store, uint64_t size, char *data)
{
	struct whole w = { .data = data };
	int64_t until = deadline();

	w.r = (struct snap_req){
		.op = IO_READ, .store = store, .data = data, .len = (uint32_t)size, .done = whole_read, .owner = &w
	};
	snap_submit(snap, &w.r);
	while (!w.ended) {
		assert_int_equal(snap_run(snap, until), 0);
		assert_true(clock_ns() < until);
	}
	return w.r.err;
}

static void verify(struct test *t)
{
	char *data = malloc((size_t)t->blocks * BLOCK);
	int err;

	assert_non_null(data);
	settle(t);
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

static bool may_hold(const struct block *b, uint32_t value)
{
	if (value == b->flushed)
		return true;
	for (unsigned i = 0; i < b->n; i++)
		if (value == b->candidates[i])
			return true;
	return false;
}

/* Stores that were as the model knows them, or, `untold`, those that a call was at work on: merged, deleted. */
static void attach_cut(struct test *t, struct sim *sim, struct snap *snap, bool untold, int *numbers)
{
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		struct model_snap *m = &t->cut_snaps[i];
		struct target *store;

		if (!m->there || m->untold != untold)
			continue;
		store = sim_disk(sim, t->cut_sizes[i], t->cut_stores[i]);
		numbers[i] = snap_attach(snap, store, deadline());
		if (numbers[i] < 0)
			target_close(store);
		/* That it has become invalid may not have been told yet. */
		if (numbers[i] < 0 && m->valid && !untold && numbers[i] != -ESTALE)
			fail_msg("seed %" PRIu64 ": store %d after the cut: %s", t->seed, i, strerror(-numbers[i]));
	}
}

/* may_be_full: a merge copies into them. */
static void verify_cut_snaps(struct test *t, struct snap *snap, const int *numbers, bool may_be_full, char *data)
{
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		struct model_snap *m = &t->cut_snaps[i];
		int err;

		if (!m->there || m->untold || numbers[i] < 0)
			continue;
		err = read_all(snap, numbers[i], (uint64_t)t->blocks * BLOCK, data);
		if (err == -EIO && may_be_full)
			continue;
		assert_int_equal(err, 0);
		for (uint32_t b = 0; b < t->blocks; b++)
			expect_block(t, "snapshot after the cut", b,
				     value_of(data + (size_t)b * BLOCK, t, "snapshot", b), m->blocks[b]);
	}
}

static void verify_cut_origin(struct test *t, struct snap *snap, char *data)
{
	assert_int_equal(read_all(snap, SNAP_ORIGIN, (uint64_t)t->blocks * BLOCK, data), 0);
	for (uint32_t b = 0; b < t->blocks; b++) {
		uint32_t value = value_of(data + (size_t)b * BLOCK, t, "origin", b);

		if (!may_hold(&t->cut_block[b], value))
			fail_msg("seed %" PRIu64 ": origin after the cut, block %u: %u, flushed was %u", t->seed, b,
				 value, t->cut_block[b].flushed);
	}
}

/* The machine is on again: what was cut is opened, and is right, also while a merge that was cut goes on. */
static void verify_cut(struct test *t)
{
	struct sim sim;
	struct copy_client *copy;
	struct snap *snap;
	struct target *origin;
	char *data = malloc((size_t)t->blocks * BLOCK);
	int numbers[SNAP_MAX_STORES];

	assert_non_null(data);
	sim_open(&sim, t->seed, NULL, NULL);
	assert_int_equal(copy_client_open(sim.loop, &(struct copy_opts){ .staging_bytes = 2 << 20 }, &copy), 0);
	origin = sim_disk(&sim, (uint64_t)t->blocks * BLOCK, t->cut_origin);
	assert_int_equal(snap_open(sim.loop, copy, origin, &t->opts, &snap), 0);
	attach_cut(t, &sim, snap, false, numbers);
	verify_cut_snaps(t, snap, numbers, false, data);
	attach_cut(t, &sim, snap, true, numbers);
	verify_cut_origin(t, snap, data);
	verify_cut_snaps(t, snap, numbers, true, data);
	assert_int_equal(snap_close(snap, deadline()), 0);
	copy_client_close(copy);
	target_close(origin);
	sim_close(&sim);
	free(data);
}

/* --- One seed --- */

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

static void one_seed(uint64_t seed)
{
	static const uint32_t thresholds[] = { 0, 1, 4, 64, 2048, SNAP_UNLIMITED };
	struct test *t = calloc(1, sizeof(*t));
	struct snap_counters counters;

	assert_non_null(t);
	t->seed = t->random = seed;
	t->next_value = 1;
	snap_opts_default(&t->opts);
	t->opts.cow_threshold = thresholds[pick(t, 6)];
	t->opts.chunk_bytes = 4096U << pick(t, 3);
	t->opts.gather_jobs = (unsigned)pick(t, 10);
	/* One in eight fills areas of exceptions, of which one has 256 and more. */
	t->blocks = pick(t, 8) ? 200 + (uint32_t)pick(t, 400) : MAX_BLOCKS;
	t->block = calloc(t->blocks, sizeof(*t->block));
	assert_non_null(t->block);
	t->faults = !pick(t, 3);
	t->faults_left = (unsigned)pick(t, 200);
	t->cut_at = pick(t, 1200);
	sim_open(&t->sim, seed, fault, t);
	t->sim.at_step = cut_power;
	t->sim.arg = t;
	assert_int_equal(copy_client_open(t->sim.loop, &(struct copy_opts){ .staging_bytes = 2 << 20 }, &t->copy), 0);
	t->origin = sim_disk(&t->sim, (uint64_t)t->blocks * BLOCK, NULL);
	assert_int_equal(snap_open(t->sim.loop, t->copy, t->origin, &t->opts, &t->snap), 0);
	create(t);
	for (int i = 0; i < OPS; i++)
		operate(t);
	verify(t);
	snap_read_counters(t->snap, &counters);
	if (t->opts.cow_threshold != SNAP_UNLIMITED)
		assert_true(counters.in_progress_peak <= t->opts.cow_threshold + 1ULL);
	if (t->cut)
		verify_cut(t);
	/* It asserts that nothing is left in any list. */
	assert_int_equal(snap_close(t->snap, deadline()), 0);
	copy_client_close(t->copy);
	target_close(t->origin);
	assert_int_equal(io_pending(t->sim.loop), 0);
	sim_close(&t->sim);
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		free(t->snaps[i].blocks);
		free(t->cut_snaps[i].blocks);
		free(t->cut_stores[i]);
	}
	free(t->cut_origin);
	free(t->cut_block);
	free(t->block);
	free(t);
}

/* --- Devices that do not answer --- */

#define SHORT_MS 50
#define CHUNKS	 16

struct mute {
	struct sim sim;
	struct copy_client *copy;
	struct target *origin;
	struct snap *snap;
	struct whole write;
	char data[EXSTORE_MIN_CHUNK];
};

static int64_t soon(void)
{
	return clock_ns() + SHORT_MS * NS_PER_MS;
}

static int mute_setup(void **state)
{
	struct mute *m = calloc(1, sizeof(*m));
	struct snap_opts opts;

	assert_non_null(m);
	snap_opts_default(&opts);
	sim_open(&m->sim, 1, NULL, NULL);
	assert_int_equal(copy_client_open(m->sim.loop, &(struct copy_opts){ .staging_bytes = 1 << 20 }, &m->copy), 0);
	m->origin = sim_disk(&m->sim, CHUNKS * EXSTORE_MIN_CHUNK, NULL);
	assert_int_equal(snap_open(m->sim.loop, m->copy, m->origin, &opts, &m->snap), 0);
	*state = m;
	return 0;
}

static int mute_teardown(void **state)
{
	struct mute *m = *state;

	assert_int_equal(snap_close(m->snap, deadline()), 0);
	copy_client_close(m->copy);
	target_close(m->origin);
	sim_close(&m->sim);
	free(m);
	return 0;
}

static int make_store(struct mute *m, struct sim_disk **disk, bool answers)
{
	struct target *t = sim_disk(&m->sim, 2 * CHUNKS * EXSTORE_MIN_CHUNK, NULL);
	int n;

	*disk = t->own;
	(*disk)->mute = !answers;
	n = snap_create(m->snap, t, &(struct snap_store_opts){ .persistent = true }, answers ? deadline() : soon());
	if (n < 0 && n != -EINPROGRESS)
		target_close(t);
	return n;
}

static void submit_write(struct mute *m)
{
	m->write = (struct whole){ .r = { .op = IO_WRITE,
					  .store = SNAP_ORIGIN,
					  .data = m->data,
					  .len = sizeof(m->data),
					  .done = whole_read,
					  .owner = &m->write } };
	snap_submit(m->snap, &m->write.r);
}

static bool ends_until(struct mute *m, int64_t until)
{
	while (!m->write.ended && clock_ns() < until)
		assert_int_equal(snap_run(m->snap, until), 0);
	return m->write.ended;
}

static void a_store_that_does_not_answer_stays_invalid_until_it_is_deleted(void **state)
{
	struct mute *m = *state;
	struct sim_disk *disk;
	struct snap_info info;

	assert_int_equal(make_store(m, &disk, false), -EINPROGRESS);
	assert_int_equal(snap_store_info(m->snap, 0, &info), 0);
	assert_false(info.valid);
	submit_write(m);
	assert_true(ends_until(m, deadline()));
	assert_int_equal(snap_delete(m->snap, 0, soon()), -ETIMEDOUT);
	disk->mute = false;
	assert_int_equal(snap_delete(m->snap, 0, deadline()), 0);
	assert_int_equal(snap_store_info(m->snap, 0, &info), -ENOENT);
}

static void writes_wait_for_a_deletion_that_goes_on(void **state)
{
	struct mute *m = *state;
	struct sim_disk *disk;
	struct snap_info info;

	assert_int_equal(make_store(m, &disk, true), 0);
	disk->mute = true;
	assert_int_equal(snap_delete(m->snap, 0, soon()), -ETIMEDOUT);
	assert_int_equal(snap_delete(m->snap, 0, soon()), -EBUSY);
	submit_write(m);
	assert_false(ends_until(m, soon()));
	disk->mute = false;
	assert_true(ends_until(m, deadline()));
	assert_int_equal(m->write.r.err, 0);
	assert_int_equal(snap_store_info(m->snap, 0, &info), -ENOENT);
}

static void a_deletion_that_cannot_be_written_leaves_the_snapshot(void **state)
{
	struct mute *m = *state;
	struct sim_disk *disk;
	struct snap_info info;

	assert_int_equal(make_store(m, &disk, true), 0);
	disk->fail = -EIO;
	assert_int_equal(snap_delete(m->snap, 0, deadline()), -EIO);
	assert_int_equal(snap_store_info(m->snap, 0, &info), 0);
	assert_true(info.valid);
	disk->fail = 0;
	assert_int_equal(snap_delete(m->snap, 0, deadline()), 0);
}

static void an_origin_that_does_not_answer_gets_no_snapshot_yet(void **state)
{
	struct mute *m = *state;
	struct sim_disk *disk, *origin = m->origin->own;

	origin->mute = true;
	assert_int_equal(make_store(m, &disk, false), -ETIMEDOUT);
	assert_int_equal(make_store(m, &disk, false), -EBUSY);
	origin->mute = false;
	submit_write(m);
	assert_true(ends_until(m, deadline()));
	assert_int_equal(make_store(m, &disk, true), 0);
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static void what_is_done_in_any_order_is_what_the_model_says_also_after_a_power_cut(void **state)
{
	uint64_t first = from_environment("HEADROOM_SEED", 1), n = from_environment("HEADROOM_SEEDS", SEEDS);

	(void)state;
	for (uint64_t seed = first; seed < first + n; seed++)
		one_seed(seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_done_in_any_order_is_what_the_model_says_also_after_a_power_cut),
		cmocka_unit_test_setup_teardown(a_store_that_does_not_answer_stays_invalid_until_it_is_deleted,
						mute_setup, mute_teardown),
		cmocka_unit_test_setup_teardown(writes_wait_for_a_deletion_that_goes_on, mute_setup, mute_teardown),
		cmocka_unit_test_setup_teardown(a_deletion_that_cannot_be_written_leaves_the_snapshot, mute_setup,
						mute_teardown),
		cmocka_unit_test_setup_teardown(an_origin_that_does_not_answer_gets_no_snapshot_yet, mute_setup,
						mute_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
