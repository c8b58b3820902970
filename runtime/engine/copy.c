// SPDX-License-Identifier: MIT
#include "engine/copy.h"

#include "base/clock.h"
#include "engine/counter.h"
#include "engine/nt.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SUBJOB_KIB    512
#define SPLIT	      8
#define STAGING_BYTES (64ULL << 20)
/* Of drivers/md/dm-kcopyd.c: SLEEP_USEC, MAX_SLEEPS; the window is 2^ACCOUNT_INTERVAL_SHIFT jiffies, about a second. */
#define SLEEP_NS     (100 * NS_PER_MS)
#define MAX_SLEEPS   10
#define ACCOUNT_BITS 30 /* of nanoseconds: 1.07 s */

enum part_state { PART_READ, PART_WRITE, PART_COPY };

/* Memory of one sub-job, and what is done with it. */
struct copy_part {
	TAILQ_ENTRY(copy_part) at;
	struct copy_client *client;
	struct copy_job *job;
	enum part_state state;
	bool own_memory; /* beyond the cap: goes back to the system */
	bool refused;	 /* PART_COPY: by one of its destinations, at least */
	unsigned slept;
	uint64_t start; /* of the job's bytes */
	uint32_t len;
	unsigned inflight;
	char *data;
	struct io ios[]; /* reads, then writes; part_size() of them */
};

TAILQ_HEAD(job_list, copy_job);
TAILQ_HEAD(part_list, copy_part);

struct copy_client {
	struct io_loop *loop;
	uint32_t subjob_bytes;
	unsigned split;
	bool unbounded, callback_split;
	char *staging;
	size_t staging_bytes;
	char *parts;
	size_t parts_bytes;
	struct job_list callback, complete, pages;
	struct part_list io, free;
	uint64_t staging_now;
	/* Throttle: as kcopyd accounts for it. */
	unsigned throttle_pct;
	unsigned io_jobs; /* parts in flight */
	uint64_t io_period_ns, total_period_ns;
	int64_t last_ns;
	int64_t sleep_until_ns; /* 0: not asleep */
	struct copy_counters count;
};

/* --- Parts --- */

/*
 * With requests for each piece of the smallest size, and for each destination. Of a small sub-job that is few: else its
 * parts are larger than what they copy.
 */
static size_t part_size(const struct copy_client *c)
{
	size_t pieces = c->subjob_bytes / COPY_MIN_PIECE;

	if (pieces < COPY_MAX_DESTS)
		pieces = COPY_MAX_DESTS;
	else if (pieces > COPY_MAX_PIECES)
		pieces = COPY_MAX_PIECES;
	return sizeof(struct copy_part) + pieces * sizeof(struct io);
}

static struct copy_part *part_from_system(struct copy_client *c)
{
	struct copy_part *p = calloc(1, part_size(c));

	if (!p)
		return NULL;
	p->client = c;
	p->own_memory = true;
	p->data = mmap(NULL, c->subjob_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->data == MAP_FAILED) {
		free(p);
		return NULL;
	}
	c->staging_now += c->subjob_bytes;
	counter_max(&c->count.staging_bytes_peak, c->staging_now);
	return p;
}

static struct copy_part *part_get(struct copy_client *c)
{
	struct copy_part *p = TAILQ_FIRST(&c->free);

	if (p) {
		TAILQ_REMOVE(&c->free, p, at);
		if (TAILQ_EMPTY(&c->free))
			counter_add(&c->count.from_reserve, 1);
	} else if (c->unbounded) {
		p = part_from_system(c);
	}
	if (!p)
		return NULL;
	counter_add(&c->count.parts, 1);
	counter_max(&c->count.parts_peak, c->count.parts);
	return p;
}

static void part_put(struct copy_part *p)
{
	struct copy_client *c = p->client;

	counter_add(&c->count.parts, (uint64_t)-1);
	if (!p->own_memory) {
		TAILQ_INSERT_HEAD(&c->free, p, at);
		return;
	}
	munmap(p->data, c->subjob_bytes);
	c->staging_now -= c->subjob_bytes;
	free(p);
}

/* --- The throttle --- */

static void account(struct copy_client *c)
{
	int64_t now = clock_ns();
	uint64_t passed = (uint64_t)(now - c->last_ns);

	c->last_ns = now;
	if (c->io_jobs)
		c->io_period_ns += passed;
	c->total_period_ns += passed;
	/* The past fades: both lose so many bits that the window is left. */
	if (c->total_period_ns >> ACCOUNT_BITS) {
		unsigned shift = 64 - (unsigned)__builtin_clzll(c->total_period_ns >> ACCOUNT_BITS);

		c->io_period_ns >>= shift;
		c->total_period_ns >>= shift;
	}
}

/*
 * May this part begin its I/O? kcopyd sleeps here, up to ten times for one; this thread has others to serve, so the
 * list waits instead.
 */
static bool throttled(struct copy_client *c, struct copy_part *p)
{
	if (c->throttle_pct >= 100)
		return false;
	account(c);
	if (c->io_period_ns <= c->total_period_ns / 100 * c->throttle_pct || p->slept >= MAX_SLEEPS)
		return false;
	p->slept++;
	c->sleep_until_ns = c->last_ns + SLEEP_NS;
	counter_add(&c->count.throttle_sleeps, 1);
	return true;
}

static void io_begins(struct copy_client *c)
{
	account(c);
	c->io_jobs++;
}

static void io_ends(struct copy_client *c)
{
	account(c);
	c->io_jobs--;
}

void copy_set_throttle(struct copy_client *c, unsigned pct)
{
	c->throttle_pct = pct && pct < 100 ? pct : 100;
}

/* --- Steps: 0: it has moved on, above 0: not now --- */

/* More of the job than its parts have? */
static bool has_more(const struct copy_job *job)
{
	return job->next < job->len && !job->read_err;
}

static void wait_for_parts(struct copy_client *c, struct copy_job *job, bool first)
{
	if (first)
		TAILQ_INSERT_HEAD(&c->pages, job, at);
	else
		TAILQ_INSERT_TAIL(&c->pages, job, at);
	job->queued = true;
}

static void end_part(struct copy_part *p)
{
	struct copy_client *c = p->client;
	struct copy_job *job = p->job;

	part_put(p);
	job->parts--;
	if (job->queued)
		return;
	if (has_more(job))
		wait_for_parts(c, job, false);
	else if (!job->parts)
		TAILQ_INSERT_TAIL(&c->complete, job, at);
}

static void written(struct io *io)
{
	struct copy_part *p = io->owner;
	size_t dest = (size_t)(io - p->ios);

	if (io->err)
		p->job->write_err[dest] = io->err;
	else
		counter_add(&p->client->count.bytes, io->len);
	if (--p->inflight)
		return;
	io_ends(p->client);
	end_part(p);
}

static void was_read(struct io *io)
{
	struct copy_part *p = io->owner;

	if (io->err)
		p->job->read_err = io->err;
	if (--p->inflight)
		return;
	io_ends(p->client);
	if (p->job->read_err) {
		end_part(p);
		return;
	}
	p->state = PART_WRITE;
	TAILQ_INSERT_TAIL(&p->client->io, p, at);
}

static void was_copied(struct io *io)
{
	struct copy_part *p = io->owner;
	struct copy_client *c = p->client;

	if (io->err)
		p->refused = true;
	if (--p->inflight)
		return;
	io_ends(c);
	if (!p->refused) {
		counter_add(&c->count.bytes, (uint64_t)p->len * p->job->n_dests);
		end_part(p);
		return;
	}
	p->job->staged = true;
	p->state = PART_READ;
	TAILQ_INSERT_TAIL(&c->io, p, at);
}

static struct io *prepare(struct copy_part *p, struct target *t, enum io_op op, uint64_t offset, char *data,
			  uint32_t len)
{
	struct io *io = &p->ios[p->inflight++];

	*io = (struct io){ .target = t,
			   .op = op,
			   .offset = offset,
			   .data = data,
			   .len = len,
			   .owner = p,
			   .done = op == IO_READ ? was_read : written };
	return io;
}

/* Pieces that lie one behind the other in the source too are read as one. */
static void prepare_reads(struct copy_part *p)
{
	const struct copy_job *job = p->job;
	struct io *last = NULL;
	char *data = p->data;

	if (!job->n_pieces) {
		prepare(p, job->source, IO_READ, job->offset + p->start, data, p->len);
		return;
	}
	for (unsigned i = 0; i < job->n_pieces; i++) {
		const struct copy_piece *piece = &job->pieces[i];

		if (last && last->offset + last->len == piece->offset) {
			last->len += piece->len;
			counter_add(&p->client->count.merged, 1);
		} else {
			last = prepare(p, job->source, IO_READ, piece->offset, data, piece->len);
		}
		data += piece->len;
	}
}

static void prepare_writes(struct copy_part *p)
{
	for (unsigned i = 0; i < p->job->n_dests; i++)
		prepare(p, p->job->dests[i].target, IO_WRITE, p->job->dests[i].offset + p->start, p->data, p->len);
}

static void prepare_copies(struct copy_part *p)
{
	const struct copy_job *job = p->job;

	p->refused = false;
	for (unsigned i = 0; i < job->n_dests; i++) {
		struct io *io =
			prepare(p, job->dests[i].target, IO_COPY, job->dests[i].offset + p->start, NULL, p->len);

		io->source = job->source;
		io->source_offset = job->offset + p->start;
		io->done = was_copied;
	}
}

static int run_io(struct copy_client *c, struct copy_part *p)
{
	unsigned n;

	if (throttled(c, p))
		return 1;
	p->inflight = 0;
	if (p->state == PART_READ) {
		prepare_reads(p);
		counter_add(&c->count.reads, p->inflight);
	} else if (p->state == PART_COPY) {
		prepare_copies(p);
		counter_add(&c->count.writes, p->inflight);
	} else {
		prepare_writes(p);
		counter_add(&c->count.writes, p->inflight);
	}
	io_begins(c);
	n = p->inflight;
	for (unsigned i = 0; i < n; i++)
		io_start(c->loop, &p->ios[i]);
	return 0;
}

/* All in memory: nothing needs to be staged. */
static bool in_memory(const struct copy_job *job)
{
	if (!job->source->map)
		return false;
	for (unsigned i = 0; i < job->n_dests; i++)
		if (!job->dests[i].target->map)
			return false;
	return true;
}

static bool within(const struct target *t, uint64_t offset, uint64_t len)
{
	return offset <= t->size && len <= t->size - offset;
}

/* One copy in the kernel, instead of one out of it and one into it. */
static bool in_kernel(const struct copy_job *job)
{
	if (job->staged || job->n_pieces || !within(job->source, job->offset, job->len))
		return false;
	for (unsigned i = 0; i < job->n_dests; i++)
		if (!target_copies_from(job->dests[i].target, job->source))
			return false;
	return true;
}

static void copy_piece_in_memory(struct copy_client *c, struct copy_job *job, uint64_t from, uint64_t at, uint32_t len)
{
	uint64_t room = from < job->source->size ? job->source->size - from : 0;
	uint32_t there = room < len ? (uint32_t)room : len;

	for (unsigned i = 0; i < job->n_dests; i++) {
		const struct copy_dest *d = &job->dests[i];

		if (!within(d->target, d->offset + at, len)) {
			job->write_err[i] = -ENOSPC;
			continue;
		}
		nt_copy(d->target->map + d->offset + at, job->source->map + from, there);
		memset(d->target->map + d->offset + at + there, 0, len - there);
		counter_add(&c->count.bytes, len);
	}
}

static void copy_in_memory(struct copy_client *c, struct copy_job *job)
{
	uint64_t at = 0;

	if (!job->n_pieces)
		/* In steps, so that the second destination finds the source in the cache. */
		for (; at < job->len; at += c->subjob_bytes)
			copy_piece_in_memory(
				c, job, job->offset + at, at,
				(uint32_t)(job->len - at < c->subjob_bytes ? job->len - at : c->subjob_bytes));
	for (unsigned i = 0; i < job->n_pieces; at += job->pieces[i++].len)
		copy_piece_in_memory(c, job, job->pieces[i].offset, at, job->pieces[i].len);
	job->next = job->len;
	TAILQ_INSERT_TAIL(&c->complete, job, at);
}

static int run_pages(struct copy_client *c, struct copy_job *job)
{
	if (in_memory(job)) {
		copy_in_memory(c, job);
		return 0;
	}
	while (has_more(job) && job->parts < c->split) {
		struct copy_part *p = part_get(c);

		if (!p) {
			counter_add(&c->count.waits, 1);
			return 1;
		}
		p->job = job;
		p->state = in_kernel(job) ? PART_COPY : PART_READ;
		p->slept = 0;
		p->start = job->next;
		p->len = (uint32_t)(job->len - job->next < c->subjob_bytes ? job->len - job->next : c->subjob_bytes);
		job->next += p->len;
		job->parts++;
		TAILQ_INSERT_TAIL(&c->io, p, at);
	}
	/* It failed while it waited here, and nobody else will tell. */
	if (!has_more(job) && !job->parts)
		TAILQ_INSERT_TAIL(&c->complete, job, at);
	return 0;
}

static void run_complete(struct copy_client *c, struct copy_job *job)
{
	counter_add(&c->count.jobs, (uint64_t)-1);
	job->done(job);
}

/* --- The lists --- */

/* Was there one? */
static bool process_complete(struct copy_client *c)
{
	struct copy_job *job;
	uint64_t n = 0;
	int64_t begin = 0;

	while ((job = TAILQ_FIRST(&c->complete))) {
		if (!n++)
			begin = clock_ns();
		TAILQ_REMOVE(&c->complete, job, at);
		run_complete(c, job);
	}
	if (!n)
		return false;
	counter_max(&c->count.run_max, n);
	counter_max(&c->count.run_ns_max, (uint64_t)(clock_ns() - begin));
	return true;
}

static void process_pages(struct copy_client *c)
{
	struct copy_job *job;

	while ((job = TAILQ_FIRST(&c->pages))) {
		TAILQ_REMOVE(&c->pages, job, at);
		job->queued = false;
		if (run_pages(c, job) > 0) {
			wait_for_parts(c, job, true);
			break;
		}
	}
}

static void process_io(struct copy_client *c)
{
	struct copy_part *p;

	if (c->sleep_until_ns) {
		if (clock_ns() < c->sleep_until_ns)
			return;
		c->sleep_until_ns = 0;
	}
	while ((p = TAILQ_FIRST(&c->io))) {
		TAILQ_REMOVE(&c->io, p, at);
		if (run_io(c, p) > 0) {
			TAILQ_INSERT_HEAD(&c->io, p, at);
			break;
		}
	}
}

bool copy_work(struct copy_client *c)
{
	bool called;

	/* Once: a callback that makes another one is not served before the copies had their turn. */
	TAILQ_CONCAT(&c->complete, &c->callback, at);
	called = process_complete(c);
	process_pages(c);
	process_io(c);
	return called || !TAILQ_EMPTY(&c->callback) || !TAILQ_EMPTY(&c->complete);
}

int64_t copy_next_ns(const struct copy_client *c)
{
	return c->sleep_until_ns && !TAILQ_EMPTY(&c->io) ? c->sleep_until_ns : INT64_MAX;
}

/* --- Jobs --- */

static void add_job(struct copy_client *c, struct copy_job *job)
{
	job->next = 0;
	job->parts = 0;
	job->queued = false;
	job->staged = false;
	job->read_err = 0;
	memset(job->write_err, 0, sizeof(job->write_err));
	counter_add(&c->count.jobs, 1);
	counter_max(&c->count.jobs_peak, c->count.jobs);
}

void copy_do_callback(struct copy_client *c, struct copy_job *job)
{
	add_job(c, job);
	if (c->callback_split)
		TAILQ_INSERT_TAIL(&c->callback, job, at);
	else
		TAILQ_INSERT_TAIL(&c->complete, job, at);
}

void copy_submit(struct copy_client *c, struct copy_job *job)
{
	uint64_t gathered = 0;

	for (unsigned i = 0; i < job->n_pieces; i++) {
		assert(job->pieces[i].len >= COPY_MIN_PIECE);
		gathered += job->pieces[i].len;
	}
	assert(job->n_dests <= COPY_MAX_DESTS && job->n_pieces <= COPY_MAX_PIECES && gathered <= c->subjob_bytes);
	if (job->n_pieces)
		job->len = gathered;
	if (!job->n_dests || !job->len) {
		copy_do_callback(c, job);
		return;
	}
	add_job(c, job);
	wait_for_parts(c, job, false);
}

/* --- Clients --- */

static int make_parts(struct copy_client *c, struct io_loop *loop)
{
	size_t n = c->staging_bytes / c->subjob_bytes, size = part_size(c);

	/* Never none: one more than nothing is the reserve with which a job can always go on. */
	if (!n)
		n = 1;
	c->staging_bytes = n * c->subjob_bytes;
	c->staging = mmap(NULL, c->staging_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->staging == MAP_FAILED)
		return -errno;
	/* Fewer pages to pin. It may not be had, and goes without. */
	madvise(c->staging, c->staging_bytes, MADV_HUGEPAGE);
	memset(c->staging, 0, c->staging_bytes);
	c->parts_bytes = n * size;
	c->parts =
		mmap(NULL, c->parts_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (c->parts == MAP_FAILED) {
		munmap(c->staging, c->staging_bytes);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		struct copy_part *p = (struct copy_part *)(void *)(c->parts + i * size);

		p->client = c;
		p->data = c->staging + i * c->subjob_bytes;
		TAILQ_INSERT_TAIL(&c->free, p, at);
	}
	io_loop_memory(loop, c->staging, c->staging_bytes);
	c->staging_now = c->staging_bytes;
	c->count.staging_bytes_peak = c->staging_bytes;
	return 0;
}

int copy_client_open(struct io_loop *loop, const struct copy_opts *opts, struct copy_client **client)
{
	unsigned subjob_kib = opts && opts->subjob_kib ? opts->subjob_kib : SUBJOB_KIB;
	struct copy_client *c;
	int err;

	if (subjob_kib < 4 || subjob_kib > 1024 || subjob_kib & (subjob_kib - 1))
		return -EINVAL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->subjob_bytes = subjob_kib << 10;
	c->split = opts && opts->split ? opts->split : SPLIT;
	c->callback_split = !(opts && opts->no_callback_split);
	c->unbounded = opts && opts->staging_bytes == UINT64_MAX;
	/* Without a cap it begins with dm-kcopyd's reserve, one sub-job (RESERVE_PAGES). */
	c->staging_bytes = c->unbounded			 ? c->subjob_bytes
			   : opts && opts->staging_bytes ? opts->staging_bytes
							 : STAGING_BYTES;
	copy_set_throttle(c, opts ? opts->throttle_pct : 0);
	c->last_ns = clock_ns();
	TAILQ_INIT(&c->callback);
	TAILQ_INIT(&c->complete);
	TAILQ_INIT(&c->pages);
	TAILQ_INIT(&c->io);
	TAILQ_INIT(&c->free);
	err = make_parts(c, loop);
	if (err) {
		free(c);
		return err;
	}
	*client = c;
	return 0;
}

bool copy_client_idle(const struct copy_client *c)
{
	return !c->count.jobs;
}

void copy_client_close(struct copy_client *c)
{
	if (!c)
		return;
	assert(!c->count.jobs && !c->io_jobs);
	assert(TAILQ_EMPTY(&c->callback) && TAILQ_EMPTY(&c->complete) && TAILQ_EMPTY(&c->pages) && TAILQ_EMPTY(&c->io));
	munmap(c->staging, c->staging_bytes);
	munmap(c->parts, c->parts_bytes);
	free(c);
}

unsigned copy_subjob_bytes(const struct copy_client *c)
{
	return c->subjob_bytes;
}

uint64_t copy_jobs(const struct copy_client *c)
{
	return c->count.jobs;
}

void copy_read_counters(const struct copy_client *c, struct copy_counters *counters)
{
	counter_copy(counters, &c->count, sizeof(*counters) / sizeof(uint64_t));
}
