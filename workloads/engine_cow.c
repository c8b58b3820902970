// SPDX-License-Identifier: MIT
/*
 * engine-cow: the load of snapshot-cow through our own copy engine, in a process whose memory is limited.
 *
 * The writes to the origin are there all at once, as write-back hands them to dm-snapshot, each of a chunk that no
 * snapshot has yet. Without its bounds the engine has as much memory in flight as there are chunks to copy, and the OOM
 * killer takes it; with them it holds a little for as long as it takes.
 *
 * Engine and kernel share the layout of the stores. So the kernel may have begun (`kernel_pct` of the writes went
 * through dm-snapshot, into stores that the engine then takes up), and what is proved afterwards is proved twice: each
 * snapshot is read through the engine, and then, mapped anew, through dm-snapshot. A load that was killed leaves its
 * stores as the last write left them; they must hold the old data all the same.
 */
#include "workloads/common/cow_stack.h"
#include "workloads/common/memory_limit.h"

#include "base/clock.h"
#include "base/pattern.h"
#include "cgroups/scope.h"
#include "dev/dmdev.h"
#include "engine/snap.h"
#include "run/facts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ENGINE_GROUP	  CGROUP_PARENT "/engine"
#define ENGINE_COMM	  "hr-engine"
#define DEFAULT_COW_LIMIT 2048 /* DEFAULT_COW_THRESHOLD, drivers/md/dm-snap.c; seed 000 */
#define NO_COW_LIMIT	  "4294967295"
#define DATA_BLOCKS	  64	      /* different chunks of new data; what a chunk holds says which chunks it may be */
#define NEW_DATA	  0x6e6577ULL /* key of their pattern, against that of the old data */
#define ROUND_MS	  100	      /* between two looks at the time */
#define TELL_MS		  2	      /* between two looks at the counters */
#define COW_LIMIT	  "engine-cow-limit"
#define STAGING_CAP	  "engine-staging-cap"
#define GATHER		  "engine-gather"
#define CALLBACK_SPLIT	  "engine-callback-split"

struct engine_opts {
	uint64_t snapshots, chunk_kib, origin_mib, write_mib, limit_mib, queue_depth, kernel_pct;
	uint64_t cow_threshold, staging_mib, gather_jobs;
	bool callback_split, durable;
	unsigned pattern, damage;
};

static const char *const pattern_choices[] = { "seq", "random", NULL };

#define FIELD(name) offsetof(struct engine_opts, name)
static const struct opt engine_options[] = {
	{ "snapshots", OPT_U64, FIELD(snapshots), "8", 1, SNAP_MAX_STORES, NULL, NULL, "snapshots of the one origin" },
	{ "chunk_kib", OPT_U64, FIELD(chunk_kib), "4", 4, 512, NULL, "KiB", "chunk size, a power of two" },
	{ "origin_mib", OPT_U64, FIELD(origin_mib), "128", 8, 1 << 20, NULL, "MiB", "size of the origin" },
	{ "write_mib", OPT_U64, FIELD(write_mib), "0", 0, 1 << 20, NULL, "MiB", "written to the origin; 0: all of it" },
	{ "pattern", OPT_ENUM, FIELD(pattern), "random", 0, 0, pattern_choices, NULL, "order of the writes" },
	{ "queue_depth", OPT_U64, FIELD(queue_depth), "0", 0, 1 << 24, NULL, NULL,
	  "writes of a chunk that are handed over at a time; 0: all" },
	{ "limit_mib", OPT_U64, FIELD(limit_mib), "64", 16, 1 << 20, NULL, "MiB", "memory.max of the engine's group" },
	{ "kernel_pct", OPT_U64, FIELD(kernel_pct), "0", 0, 90, NULL, "%",
	  "of the writes go through dm-snapshot first, into the same stores" },
	{ "durable", OPT_BOOL, FIELD(durable), "yes", 0, 0, NULL, NULL, "flush and FUA: right after a power cut too" },
	{ "damage", OPT_ENUM, FIELD(damage), "none", 0, 0, cow_damage_choices, NULL,
	  "spoil a block behind the engine's back after the load, to see that the proof sees it" },
	{ "cow_threshold", OPT_U64, FIELD(cow_threshold), "2048", 0, UINT32_MAX, NULL, NULL,
	  "chunks being copied at which writes wait (mitigation " COW_LIMIT ")" },
	{ "staging_mib", OPT_U64, FIELD(staging_mib), "16", 0, 1 << 20, NULL, "MiB",
	  "memory for copies; 0: as much as they come to (mitigation " STAGING_CAP ")" },
	{ "gather_jobs", OPT_U64, FIELD(gather_jobs), "1", 0, 1 << 20, NULL, NULL,
	  "copy jobs at which chunks wait to be copied together; 0: never (mitigation " GATHER ")" },
	{ "callback_split", OPT_BOOL, FIELD(callback_split), "yes", 0, 0, NULL, NULL,
	  "callbacks are called a list at a time (mitigation " CALLBACK_SPLIT ")" },
	{ 0 },
};

static const struct mitigation engine_mitigations[] = {
	{
		.name = COW_LIMIT,
		.summary = "a cap on the chunks in flight in the copy engine",
		.seed = "000",
		.knobs = { { "engine.cow_threshold", NULL } },
		.option = "cow_threshold",
		.off = NO_COW_LIMIT,
		.on = "2048",
		.value_help = "chunks in flight; 0 means one at a time, not unlimited",
	},
	{
		.name = STAGING_CAP,
		.summary = "a cap on the memory for copies in the engine: a job that finds none waits",
		.seed = "000",
		.knobs = { { "engine.staging_mib", NULL } },
		.option = "staging_mib",
		.off = "0",
		.on = "16",
		.value_help = "MiB; 0: no cap",
	},
	{
		.name = GATHER,
		.summary = "chunks wait for the copies before them, and are copied together",
		.seed = "000",
		.knobs = { { "engine.gather_jobs", NULL } },
		.option = "gather_jobs",
		.off = "0",
		.on = "1",
		.value_help = "copy jobs at which chunks begin to wait; 0: each is a job at once, as in dm-snapshot",
	},
	{
		.name = CALLBACK_SPLIT,
		.summary = "the engine calls a list of callbacks at a time, not what they add to it",
		.seed = "000",
		.knobs = { { "engine.callback_split", NULL } },
		.option = "callback_split",
		.off = "no",
		.on = "yes",
		.value_help = "yes or no",
	},
	{ 0 },
};

static const struct metric engine_metrics[] = {
	{ "write_mib_s", "MiB/s", MORE, "rate of the writes, until they were on disk" },
	{ "engine_memory_peak_kib", "KiB", LESS, "memory of the engine's group, at most" },
	{ "in_flight_peak", "", LESS, "chunks being copied, at most" },
	{ "gate_waits", "", NEITHER, "writes that waited at the cap" },
	{ "gate_wait_s", "s", NEITHER, "time that they waited, all together" },
	{ "staging_peak_kib", "KiB", LESS, "memory for copies, at most" },
	{ "staging_waits", "", NEITHER, "copy jobs that waited for memory" },
	{ "chunks_copied", "", NEITHER, "chunks that were copied to the snapshots" },
	{ "copy_batches", "", NEITHER, "copy jobs that they took" },
	{ "jobs_peak", "", LESS, "copy jobs at a time, at most" },
	{ "commits", "", NEITHER, "writes of exceptions" },
	{ "callbacks_run_max", "", LESS, "callbacks called one after the other, at most" },
	{ "callbacks_run_max_ms", "ms", LESS, "the longest that took" },
	{ "snapshots_verified", "", MORE, "snapshots found to hold the old data, by engine and kernel" },
	{ "verify_s", "s", NEITHER, "time to verify origin and snapshots" },
	{ 0 },
};

/* What the engine tells us while it runs: it may not live to the end. */
struct telling {
	struct snap_counters snap;
	struct copy_counters copy;
	int64_t took_ns; /* 0: it did not come to its end */
};

static struct cow_stack stack_of(const struct cell *c, const struct engine_opts *o)
{
	struct cow_stack s = {
		.cell = c,
		.origin = o->origin_mib * COW_SECTORS_PER_MIB,
		.chunk = o->chunk_kib * 2,
		.n = (unsigned)o->snapshots,
		.persistent = true,
	};

	s.store = cow_store_sectors(s.origin, s.chunk, true);
	return s;
}

static uint64_t chunk_bytes(const struct engine_opts *o)
{
	return o->chunk_kib * 1024;
}

/* Chunks that are written, of which the first are the kernel's. */
static uint64_t chunks_written(const struct engine_opts *o)
{
	return (o->write_mib ? o->write_mib : o->origin_mib) * 1024 / o->chunk_kib;
}

static uint64_t kernels_chunks(const struct engine_opts *o)
{
	return chunks_written(o) * o->kernel_pct / 100;
}

static int check(const void *opts, char *err, size_t err_size)
{
	const struct engine_opts *o = opts;

	if (o->chunk_kib & (o->chunk_kib - 1))
		snprintf(err, err_size, "chunk_kib = '%" PRIu64 "': must be a power of two", o->chunk_kib);
	else if (o->write_mib > o->origin_mib)
		snprintf(err, err_size, "write_mib = '%" PRIu64 "': must not exceed origin_mib (%" PRIu64 ")",
			 o->write_mib, o->origin_mib);
	else
		return 0;
	return -EINVAL;
}

static uint64_t scratch_sectors(const void *opts, uint64_t memory_mib)
{
	struct cow_stack s = stack_of(NULL, opts);

	(void)memory_mib;
	return cow_stack_sectors(&s);
}

/* --- The order of the writes, and what they write --- */

/* As an array, so that a write costs no more than it has to. NULL: no memory. */
static uint32_t *order_of(const struct cell *c, const struct engine_opts *o)
{
	uint64_t n = chunks_written(o);
	uint32_t *order = malloc(n * sizeof(*order));

	for (uint64_t i = 0; order && i < n; i++)
		order[i] = (uint32_t)i;
	/* Fisher and Yates. */
	for (uint64_t i = n; order && o->pattern && i > 1; i--) {
		uint64_t j = pattern_mix(c->seed + i) % i;
		uint32_t chunk = order[i - 1];

		order[i - 1] = order[j];
		order[j] = chunk;
	}
	return order;
}

static void new_data(const struct cell *c, uint64_t chunk, char *data, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += COW_STACK_BLOCK)
		pattern_fill(c->seed ^ NEW_DATA, chunk % DATA_BLOCKS * (bytes / COW_STACK_BLOCK) + at / COW_STACK_BLOCK,
			     data + at);
}

/* --- Set-up --- */

/* The first writes, with the stores in the kernel's hands. */
static int write_by_kernel(const struct cow_stack *s, struct cow_name origin)
{
	const struct engine_opts *o = s->cell->opts;
	uint32_t *order = order_of(s->cell, o);
	char *data = aligned_alloc(COW_STACK_BLOCK, chunk_bytes(o));
	int fd = open(cow_node(origin).path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	int err = !order || !data ? -ENOMEM : fd < 0 ? -errno : 0;

	for (uint64_t i = 0; !err && i < kernels_chunks(o); i++) {
		ssize_t n;

		new_data(s->cell, order[i], data, chunk_bytes(o));
		n = pwrite(fd, data, chunk_bytes(o), (off_t)(order[i] * chunk_bytes(o)));
		err = n < 0 ? -errno : (size_t)n != chunk_bytes(o) ? -EIO : cell_should_stop(s->cell) ? -ETIMEDOUT : 0;
	}
	if (!err && fsync(fd) < 0)
		err = -errno;
	if (fd >= 0)
		close(fd);
	free(data);
	free(order);
	if (err)
		cell_fail(s->cell, "write %s: %s", origin.text, strerror(-err));
	return err;
}

static int unmap(const struct cell *c, struct cow_name name)
{
	int err = dmdev_remove(name.text);

	if (err)
		cell_fail(c, "remove %s: %s", name.text, strerror(-err));
	return err;
}

static int begin_by_kernel(const struct cow_stack *s)
{
	const char *id = s->cell->run_id;
	struct cow_name origin = cow_name(id, "origin");
	char params[160];
	int err = 0;

	snprintf(params, sizeof(params), "%s", cow_node(cow_name(id, "real")).path);
	for (uint64_t i = 0; !err && i < s->n; i++)
		err = cow_map_snapshot(s, i);
	if (!err)
		err = cow_create(s->cell, origin, s->origin, "snapshot-origin", params);
	if (!err)
		err = write_by_kernel(s, origin);
	if (!err)
		err = unmap(s->cell, origin);
	for (uint64_t i = 0; !err && i < s->n; i++)
		err = unmap(s->cell, cow_numbered(id, "snap", i));
	return err;
}

static void tell_knobs(const struct engine_opts *o)
{
	char value[32];

	snprintf(value, sizeof(value), "%" PRIu64, o->cow_threshold);
	cell_knob("engine.cow_threshold", value, value);
	snprintf(value, sizeof(value), "%" PRIu64, o->staging_mib);
	cell_knob("engine.staging_mib", value, value);
	snprintf(value, sizeof(value), "%" PRIu64, o->gather_jobs);
	cell_knob("engine.gather_jobs", value, value);
	cell_knob("engine.callback_split", o->callback_split ? "yes" : "no", o->callback_split ? "yes" : "no");
}

static int setup(struct cell *c)
{
	const struct engine_opts *o = c->opts;
	const struct cow_stack s = stack_of(c, o);
	int err = limit_memory(c, ENGINE_GROUP, o->limit_mib);

	tell_knobs(o);
	if (!err)
		err = cow_make_origin(&s);
	for (uint64_t i = 0; !err && i < s.n; i++)
		err = cow_make_store(&s, i);
	return err || !o->kernel_pct ? err : begin_by_kernel(&s);
}

/* --- The engine, with its devices --- */

struct engine {
	struct io_loop *loop;
	struct copy_client *copy;
	struct target *origin;
	struct snap *snap;
};

static int open_engine(struct engine *e, const struct cell *c)
{
	const struct engine_opts *o = c->opts;
	/* A job of a single chunk needs no more memory than that. */
	const struct copy_opts copy = { .subjob_kib = o->gather_jobs ? 0 : (unsigned)o->chunk_kib,
					.staging_bytes = o->staging_mib ? o->staging_mib << 20 : UINT64_MAX,
					.no_callback_split = !o->callback_split };
	struct snap_opts snap;
	int err = io_loop_open(&(struct io_opts){ 0 }, &e->loop);

	snap_opts_default(&snap);
	snap.chunk_bytes = (uint32_t)chunk_bytes(o);
	snap.cow_threshold = (uint32_t)o->cow_threshold;
	snap.durable = o->durable;
	snap.gather_jobs = (unsigned)o->gather_jobs;
	if (!err)
		err = copy_client_open(e->loop, &copy, &e->copy);
	if (!err)
		err = target_open(e->loop, cow_node(cow_name(c->run_id, "real")).path, TARGET_WRITE, TARGET_AUTO,
				  &e->origin);
	if (!err)
		err = snap_open(e->loop, e->copy, e->origin, &snap, &e->snap);
	return err;
}

/* Make the snapshots, or take up those that are there. */
static int open_stores(struct engine *e, const struct cell *c, bool make)
{
	const struct engine_opts *o = c->opts;
	int err = 0;

	for (uint64_t i = 0; err >= 0 && i < o->snapshots; i++) {
		struct cow_name name = cow_numbered(c->run_id, "cow", i);
		const struct snap_store_opts how = { .persistent = true, .name = name.text };
		struct target *t;

		err = target_open(e->loop, cow_node(name).path, TARGET_WRITE, TARGET_AUTO, &t);
		if (!err)
			err = make ? snap_create(e->snap, t, &how, c->deadline_ns)
				   : snap_attach(e->snap, t, c->deadline_ns);
	}
	return err < 0 ? err : 0;
}

static int close_engine(struct engine *e, const struct cell *c)
{
	int err = e->snap ? snap_close(e->snap, c->deadline_ns) : 0;

	if (err)
		return err; /* something is in flight: nothing may be freed */
	if (e->origin)
		target_close(e->origin);
	if (e->copy)
		copy_client_close(e->copy);
	if (e->loop)
		io_loop_close(e->loop);
	return 0;
}

/* --- The load --- */

struct load {
	const struct cell *cell;
	struct engine engine;
	struct telling *telling;
	pthread_t teller;
	_Atomic bool over;
	uint32_t *order;
	char *data; /* DATA_BLOCKS chunks */
	struct snap_req *reqs;
	uint64_t n, begun, ended;
	int err; /* the first */
};

static void tell(struct load *l)
{
	snap_read_counters(l->engine.snap, &l->telling->snap);
	copy_read_counters(l->engine.copy, &l->telling->copy);
}

/* Beside the engine, which may be killed in the first round of its loop. */
static void *tell_all_the_time(void *arg)
{
	struct load *l = arg;

	while (!l->over) {
		tell(l);
		clock_sleep_ms(TELL_MS);
	}
	tell(l);
	return NULL;
}

static void write_ended(struct snap_req *r)
{
	struct load *l = r->owner;

	l->ended++;
	if (r->err && !l->err)
		l->err = r->err;
}

static void submit(struct load *l, enum io_op op, uint64_t chunk)
{
	const struct engine_opts *o = l->cell->opts;
	struct snap_req *r = &l->reqs[l->begun++];
	uint64_t bytes = chunk_bytes(o);

	*r = (struct snap_req){ .op = op, .store = SNAP_ORIGIN, .done = write_ended, .owner = l };
	if (op == IO_WRITE) {
		r->offset = chunk * bytes;
		r->len = (uint32_t)bytes;
		r->data = l->data + chunk % DATA_BLOCKS * bytes;
	}
	snap_submit(l->engine.snap, r);
}

static int one_round(struct load *l)
{
	int err = snap_run(l->engine.snap, clock_ns() + ROUND_MS * NS_PER_MS);

	if (!err)
		err = l->err;
	return err ? err : cell_should_stop(l->cell) ? -ETIMEDOUT : 0;
}

/* All writes, so many at a time, and then that they are on disk. */
static int write_all(struct load *l, uint64_t first)
{
	const struct engine_opts *o = l->cell->opts;
	uint64_t depth = o->queue_depth ? o->queue_depth : UINT64_MAX;
	int64_t began_ns = clock_ns();
	int err = 0;

	while (!err && l->ended < l->n) {
		while (l->begun < l->n && l->begun - l->ended < depth)
			submit(l, IO_WRITE, l->order[first + l->begun]);
		err = one_round(l);
	}
	if (!err)
		submit(l, IO_FLUSH, 0);
	while (!err && l->ended < l->begun)
		err = one_round(l);
	if (!err)
		l->telling->took_ns = clock_ns() - began_ns;
	return err;
}

static int engine_load(const struct cell *c, struct telling *telling)
{
	const struct engine_opts *o = c->opts;
	uint64_t first = kernels_chunks(o), bytes = chunk_bytes(o);
	struct load l = { .cell = c, .telling = telling, .n = chunks_written(o) - first };
	int err;

	l.order = order_of(c, o);
	l.data = aligned_alloc(COW_STACK_BLOCK, DATA_BLOCKS * bytes);
	l.reqs = calloc(l.n + 1, sizeof(*l.reqs));
	err = l.order && l.data && l.reqs ? open_engine(&l.engine, c) : -ENOMEM;
	if (!err)
		err = open_stores(&l.engine, c, !o->kernel_pct);
	if (!err) {
		for (uint64_t i = 0; i < DATA_BLOCKS; i++)
			new_data(c, i, l.data + i * bytes, bytes);
		err = -pthread_create(&l.teller, NULL, tell_all_the_time, &l);
	}
	if (!err) {
		err = write_all(&l, first);
		l.over = true;
		pthread_join(l.teller, NULL);
	}
	return err ? err : close_engine(&l.engine, c);
}

static void tell_metrics(const struct cell *c, const struct telling *t)
{
	const struct engine_opts *o = c->opts;
	uint64_t peak, mib = (chunks_written(o) - kernels_chunks(o)) * o->chunk_kib / 1024;

	if (t->took_ns > 0)
		cell_metric_fixed(c, "write_mib_s", (int64_t)mib * 1000 * 1000 / (t->took_ns / NS_PER_MS + 1), 3);
	if (scope_get(ENGINE_GROUP, "memory.peak", NULL, &peak) == 0)
		cell_metric_u64(c, "engine_memory_peak_kib", peak / 1024);
	cell_metric_u64(c, "in_flight_peak", t->snap.in_progress_peak);
	cell_metric_u64(c, "gate_waits", t->snap.gate_waits);
	cell_metric_fixed(c, "gate_wait_s", (int64_t)(t->snap.gate_wait_ns / NS_PER_MS), 3);
	cell_metric_u64(c, "staging_peak_kib", t->copy.staging_bytes_peak / 1024);
	cell_metric_u64(c, "staging_waits", t->copy.waits);
	cell_metric_u64(c, "chunks_copied", t->snap.chunks);
	cell_metric_u64(c, "copy_batches", t->snap.batches);
	cell_metric_u64(c, "jobs_peak", t->copy.jobs_peak);
	cell_metric_u64(c, "commits", t->snap.commits);
	cell_metric_u64(c, "callbacks_run_max", t->copy.run_max);
	cell_metric_fixed(c, "callbacks_run_max_ms", (int64_t)(t->copy.run_ns_max / 1000), 3);
}

static int run(struct cell *c)
{
	const struct engine_opts *o = c->opts;
	const struct cow_stack s = stack_of(c, o);
	struct telling *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char words[64];
	pid_t pid;
	int rc;

	if (t == MAP_FAILED)
		return -errno;
	memset(t, 0, sizeof(*t)); /* charged to us, not to the engine's group */
	pid = cell_child(c, ENGINE_COMM);
	if (pid == 0) {
		rc = scope_attach(ENGINE_GROUP, getpid());
		_exit(-(rc ? rc : engine_load(c, t)));
	}
	rc = pid < 0 ? pid : cell_wait(c, ENGINE_COMM, pid);
	tell_metrics(c, t);
	munmap(t, sizeof(*t));
	if (rc)
		cell_fail(c, "the engine: %s", cell_end_words(rc, words, sizeof(words)));
	else
		rc = cow_do_damage(&s, o->damage);
	return rc > 0 ? -ECANCELED : rc;
}

/* --- The proof --- */

struct read_done {
	bool ended;
	int err;
};

static void read_ended(struct snap_req *r)
{
	struct read_done *d = r->owner;

	d->ended = true;
	d->err = r->err;
}

static int read_snapshot(struct engine *e, const struct cell *c, int store, uint64_t offset, char *data, uint32_t len)
{
	struct read_done d = { 0 };
	struct snap_req r = { .op = IO_READ,
			      .store = store,
			      .offset = offset,
			      .data = data,
			      .len = len,
			      .done = read_ended,
			      .owner = &d };
	int err = 0;

	snap_submit(e->snap, &r);
	while (!err && !d.ended) {
		err = snap_run(e->snap, clock_ns() + ROUND_MS * NS_PER_MS);
		if (!err && cell_should_stop(c))
			err = -ETIMEDOUT;
	}
	return err ? err : d.err;
}

/* *good: snapshots that hold the old data when they are read through the engine. */
static int compare_by_engine(const struct cow_stack *s, struct engine *e, uint64_t *good)
{
	char *want = aligned_alloc(COW_STACK_BLOCK, COW_STACK_STEP),
	     *got = aligned_alloc(COW_STACK_BLOCK, COW_STACK_STEP);
	int err = want && got ? 0 : -ENOMEM;

	for (unsigned i = 0; !err && i < s->n; i++) {
		bool same = true;

		for (uint64_t at = 0; !err && same && at < s->origin * 512; at += COW_STACK_STEP) {
			cow_old_data(s, at, want, COW_STACK_STEP);
			err = read_snapshot(e, s->cell, (int)i, at, got, COW_STACK_STEP);
			same = err || memcmp(want, got, COW_STACK_STEP) == 0;
			if (!same)
				cell_corrupt(
					s->cell,
					"snapshot %u, through the engine: not the old data in the MiB at byte %" PRIu64,
					i, at);
		}
		*good += !err && same;
	}
	free(want);
	free(got);
	return err;
}

static int verify_by_engine(const struct cow_stack *s, uint64_t *good)
{
	struct engine e = { 0 };
	int err = open_engine(&e, s->cell), closed;

	if (!err)
		err = open_stores(&e, s->cell, false);
	if (!err)
		err = compare_by_engine(s, &e, good);
	closed = close_engine(&e, s->cell);
	if (!err)
		err = closed;
	if (err)
		cell_fail(s->cell, "read the snapshots through the engine: %s", strerror(-err));
	return err;
}

static int verify_by_kernel(const struct cow_stack *s, uint64_t *good)
{
	struct cow_check checks[COW_STACK_MAX];
	size_t n = 0;
	int err = 0;

	for (uint64_t i = 0; !err && i < s->n; i++)
		err = cow_map_snapshot(s, i);
	if (!err)
		err = cow_open_snapshots(s, 0, checks, &n);
	if (!err)
		err = cow_compare(s, checks, n);
	*good = cow_close_snapshots(checks, n);
	return err;
}

/* After a load that came to its end what was written is new; else each chunk is one or the other. */
static bool chunk_is_right(const struct cow_stack *s, uint64_t chunk, const char *got, char *want)
{
	const struct engine_opts *o = s->cell->opts;
	uint64_t bytes = chunk_bytes(o);
	bool written = chunk < chunks_written(o);

	new_data(s->cell, chunk, want, bytes);
	if (written && memcmp(got, want, bytes) == 0)
		return true;
	cow_old_data(s, chunk * bytes, want, bytes);
	return !(written && s->cell->run_ok) && memcmp(got, want, bytes) == 0;
}

static int verify_origin(const struct cow_stack *s)
{
	uint64_t bytes = chunk_bytes(s->cell->opts);
	char *got = aligned_alloc(COW_STACK_BLOCK, COW_STACK_STEP), *want = malloc(bytes);
	int fd = open(cow_node(cow_name(s->cell->run_id, "real")).path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	int err = !got || !want ? -ENOMEM : fd < 0 ? -errno : 0;
	bool right = true;

	for (uint64_t at = 0; !err && right && at < s->origin * 512; at += COW_STACK_STEP) {
		ssize_t n = pread(fd, got, COW_STACK_STEP, (off_t)at);

		err = n < 0 ? -errno : n != COW_STACK_STEP ? -EIO : cell_should_stop(s->cell) ? -ETIMEDOUT : 0;
		for (uint64_t i = 0; !err && right && i < COW_STACK_STEP; i += bytes) {
			right = chunk_is_right(s, (at + i) / bytes, got + i, want);
			if (!right)
				cell_corrupt(s->cell, "origin: the chunk at byte %" PRIu64 " is not what was written",
					     at + i);
		}
	}
	if (fd >= 0)
		close(fd);
	free(got);
	free(want);
	if (err)
		cell_fail(s->cell, "verify the origin: %s", strerror(-err));
	return err;
}

static int verify(struct cell *c)
{
	const struct cow_stack s = stack_of(c, c->opts);
	int64_t begin = clock_ns();
	uint64_t by_engine = 0, by_kernel = 0;
	int err = verify_by_engine(&s, &by_engine);

	if (!err)
		err = verify_by_kernel(&s, &by_kernel);
	if (!err)
		err = verify_origin(&s);
	if (!err) {
		cell_metric_u64(c, "snapshots_verified", by_engine < by_kernel ? by_engine : by_kernel);
		cell_metric_fixed(c, "verify_s", (clock_ns() - begin) / NS_PER_MS, 3);
	}
	return err;
}

/* --- The mitigations, from the record --- */

/*
 * A cap: off, did the load go beyond what it would have allowed; on, did anybody wait for it, and did it hold?
 * `on_limit`: what it is when it is on.
 */
static void attest_cap(const struct facts *f, struct attestation *a, const char *what, const char *peak_of,
		       const char *waits_of, uint64_t on_limit, uint64_t allowance)
{
	uint64_t peak = facts_metric(f, peak_of), waits = facts_metric(f, waits_of);

	if (!json_object_get(f->metrics, peak_of)) {
		a->exercised = UNKNOWN;
		snprintf(a->evidence, sizeof(a->evidence), "the engine did not say");
		return;
	}
	if (a->state == MITIGATION_OFF) {
		a->exercised = peak > on_limit ? YES : NO;
		snprintf(a->evidence, sizeof(a->evidence),
			 "%s peak %" PRIu64 " %s %" PRIu64 ", what the cap would allow", what, peak,
			 peak > on_limit ? ">" : "<=", on_limit);
		return;
	}
	a->exercised = waits ? YES : NO;
	if (peak > on_limit + allowance)
		a->state = MITIGATION_FAILED;
	snprintf(a->evidence, sizeof(a->evidence), "%s peak %" PRIu64 " of %" PRIu64 " allowed, %" PRIu64 " waited",
		 what, peak, on_limit, waits);
}

/* What it saves is jobs: chunks of their own that others were copied with. */
static void attest_gather(const struct facts *f, struct attestation *a)
{
	uint64_t chunks = facts_metric(f, "chunks_copied"), batches = facts_metric(f, "copy_batches");

	if (a->state == MITIGATION_OFF)
		a->exercised = facts_metric(f, "jobs_peak") > strtoull(a->mitigation->on, NULL, 10) ? YES : NO;
	else
		a->exercised = batches < chunks ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " chunks in %" PRIu64 " copy jobs, %" PRIu64 " at a time",
		 chunks, batches, facts_metric(f, "jobs_peak"));
}

static void attest_split(const struct facts *f, struct attestation *a)
{
	uint64_t longest = facts_metric(f, "callbacks_run_max");

	/* One by one there is nothing to split. */
	a->exercised = longest > 1 ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " callbacks one after the other, at most, in %.3f ms",
		 longest, json_number_value(json_object_get(f->metrics, "callbacks_run_max_ms")));
}

static void attest(const struct facts *f, const void *opts, struct attestation *a)
{
	const struct engine_opts *o = opts;
	const char *name = a->mitigation->name;

	if (strcmp(name, COW_LIMIT) == 0)
		attest_cap(f, a, "in-flight", "in_flight_peak", "gate_waits",
			   a->state == MITIGATION_OFF ? DEFAULT_COW_LIMIT
			   : o->cow_threshold	      ? o->cow_threshold
						      : 1,
			   1);
	else if (strcmp(name, STAGING_CAP) == 0)
		attest_cap(f, a, "KiB of copies:", "staging_peak_kib", "staging_waits",
			   (a->state == MITIGATION_OFF ? strtoull(a->mitigation->on, NULL, 10) : o->staging_mib) * 1024,
			   0);
	else if (strcmp(name, GATHER) == 0)
		attest_gather(f, a);
	else
		attest_split(f, a);
}

static const struct workload engine_cow = {
	.name = "engine-cow",
	.summary = "writes to an origin with snapshots through our copy engine, in a group with little memory",
	.modules = (const char *const[]){ "dm-mod", "dm-snapshot", NULL },
	.group = ENGINE_GROUP,
	.opts = engine_options,
	.opts_size = sizeof(struct engine_opts),
	.mitigations = engine_mitigations,
	.metrics = engine_metrics,
	.check = check,
	.scratch_sectors = scratch_sectors,
	.setup = setup,
	.run = run,
	.verify = verify,
	.attest = attest,
};
WORKLOAD_REGISTER(engine_cow);
