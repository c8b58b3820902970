// SPDX-License-Identifier: MIT
#include "run/filecopy.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES ((uint64_t)FILECOPY_SUBJOB_KIB << 10)
#define JOB_BYTES   (FILECOPY_SPLIT * PIECE_BYTES)
/* Of a hole at a time: zeroing a device may be writing to it, and the caller wants to hear of us. */
#define ZERO_BYTES (256ULL << 20)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t round_down(const struct filecopy *f, uint64_t offset)
{
	return offset & ~(uint64_t)(f->align - 1);
}

static uint64_t round_up(const struct filecopy *f, uint64_t offset)
{
	return round_down(f, offset + f->align - 1);
}

/* --- Data and holes --- */

/* Where data begins at or after `from`; the file's end if there is none. *end: where it ends. */
static uint64_t find_data(const struct target *t, uint64_t from, uint64_t size, uint64_t *end)
{
	off_t data = lseek(t->fd, (off_t)from, SEEK_DATA), hole;

	*end = size;
	if (data < 0)
		return errno == ENXIO ? size : from;
	hole = lseek(t->fd, data, SEEK_HOLE);
	if (hole > data)
		*end = min_u64((uint64_t)hole, size);
	return min_u64((uint64_t)data, size);
}

/* 0, or -errno: it cannot be had without writing zeros. */
static int make_zero(const struct target *t, uint64_t from, uint64_t len)
{
	uint64_t range[2] = { from, len };

	if (fallocate(t->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)len) == 0)
		return 0;
	/* A device that cannot forget can still be told once, instead of being sent the zeros. */
	return t->is_block && ioctl(t->fd, BLKZEROOUT, range) == 0 ? 0 : -errno;
}

/* From `next` on there is a hole up to `end`. */
static void pass_hole(struct filecopy *f, uint64_t end)
{
	uint64_t len = f->dest_is_zero ? end - f->next : min_u64(end - f->next, ZERO_BYTES);

	if (!f->dest_is_zero && make_zero(f->dest, f->next, len)) {
		f->holes_are_data = true;
		return;
	}
	f->holes_bytes += min_u64(len, f->size - f->next);
	f->next += len;
}

/* --- Copying --- */

static void look_how_far(struct filecopy *f)
{
	f->done = f->next;
	for (unsigned i = 0; i < FILECOPY_JOBS; i++)
		if (f->jobs[i].busy && f->jobs[i].from < f->done)
			f->done = f->jobs[i].from;
	if (f->err && f->err_at < f->done)
		f->done = f->err_at;
}

static void job_done(struct copy_job *job)
{
	struct filecopy *f = job->owner;
	struct filecopy_job *j = (struct filecopy_job *)((char *)job - offsetof(struct filecopy_job, job));
	int err = job->read_err ? job->read_err : job->write_err[0];

	j->busy = false;
	f->n_busy--;
	if (err && (!f->err || j->from < f->err_at)) {
		f->err = err;
		f->err_at = j->from;
		f->err_is_read = job->read_err != 0;
	}
	if (!err)
		f->data_bytes += min_u64(job->len, f->size - j->from);
	look_how_far(f);
}

static struct filecopy_job *free_job(struct filecopy *f)
{
	for (unsigned i = 0; i < FILECOPY_JOBS; i++)
		if (!f->jobs[i].busy)
			return &f->jobs[i];
	return NULL;
}

static void begin_job(struct filecopy *f, struct filecopy_job *j)
{
	uint64_t len = min_u64(f->data_end - f->next, JOB_BYTES);

	*j = (struct filecopy_job){ .job = { .source = f->source,
					     .offset = f->next,
					     .len = len,
					     .n_dests = 1,
					     .dests = { { f->dest, f->next } },
					     .done = job_done,
					     .owner = f },
				    .busy = true,
				    .from = f->next };
	f->next += len;
	f->n_busy++;
	copy_submit(f->client, &j->job);
}

static void begin_next(struct filecopy *f)
{
	struct filecopy_job *j;
	uint64_t data, end;

	while (!f->err && f->next < f->size && (j = free_job(f))) {
		if (f->next >= f->data_end) {
			data = f->next;
			end = f->size;
			if (f->source_has_holes && !f->holes_are_data)
				data = find_data(f->source, f->next, f->size, &end);
			data = data < f->size ? round_down(f, data) : round_up(f, data);
			f->data_end = round_up(f, end);
			if (data > f->next) {
				f->data_end = f->next;
				pass_hole(f, data);
				return;
			}
		}
		begin_job(f, j);
	}
}

static bool has_more(const struct filecopy *f)
{
	return f->next < f->size && !f->err;
}

int filecopy_step(struct filecopy *f, bool stop, int64_t deadline_ns)
{
	int n;

	/* Who stops us does not want to wait for what sleeps. */
	if (stop)
		copy_set_throttle(f->client, 100);
	else
		begin_next(f);
	look_how_far(f);
	if (copy_work(f->client) || (!stop && has_more(f) && f->n_busy < FILECOPY_JOBS))
		deadline_ns = 0;
	else if (copy_next_ns(f->client) < deadline_ns)
		deadline_ns = copy_next_ns(f->client);
	if (!f->n_busy && !f->flushing)
		return 0;
	n = io_run(f->loop, deadline_ns);
	return n < 0 ? n : 0;
}

bool filecopy_at_rest(const struct filecopy *f)
{
	return !f->n_busy && !f->flushing;
}

static void was_flushed(struct io *io)
{
	struct filecopy *f = io->owner;

	f->flushing = false;
	f->flush_err = io->err;
	if (!io->err)
		f->flushed = f->flush_mark;
}

void filecopy_flush(struct filecopy *f)
{
	f->flushing = true;
	f->flush_mark = f->done;
	f->flush = (struct io){ .target = f->dest, .op = IO_FLUSH, .owner = f, .done = was_flushed };
	io_start(f->loop, &f->flush);
}

/* --- Comparing --- */

static void look_at(struct filecopy *f, const struct filecopy_pair *p)
{
	uint64_t len = min_u64(p->io[0].len, f->size - p->offset);

	if (memcmp(p->data[0], p->data[1], len) == 0)
		return;
	for (uint64_t i = 0; i < len; i++) {
		if (p->data[0][i] == p->data[1][i])
			continue;
		f->differing_bytes++;
		if (p->offset + i < f->differs_at)
			f->differs_at = p->offset + i;
	}
}

static void was_read(struct io *io)
{
	struct filecopy_pair *p = io->owner;
	struct filecopy *f = p->f;

	if (io->err && !f->err) {
		f->err = io->err;
		f->err_at = p->offset;
		f->err_is_read = io == &p->io[0];
	}
	if (--p->left)
		return;
	f->n_pairs--;
	if (!f->err)
		look_at(f, p);
}

static void begin_pair(struct filecopy *f, struct filecopy_pair *p)
{
	uint64_t len = min_u64(round_up(f, f->size) - f->compared, PIECE_BYTES);
	struct target *sides[2] = { f->source, f->dest };

	p->offset = f->compared;
	p->left = 2;
	f->n_pairs++;
	f->compared += len;
	for (int i = 0; i < 2; i++) {
		p->io[i] = (struct io){ .target = sides[i],
					.op = IO_READ,
					.offset = p->offset,
					.data = p->data[i],
					.len = (uint32_t)len,
					.done = was_read,
					.owner = p };
		io_start(f->loop, &p->io[i]);
	}
}

/* Where neither has data there is nothing to compare. */
static void pass_common_hole(struct filecopy *f)
{
	uint64_t source = f->compared, dest = f->compared, end;

	if (!f->source_has_holes || f->dest->is_block)
		return;
	source = find_data(f->source, f->compared, f->size, &end);
	dest = find_data(f->dest, f->compared, f->size, &end);
	source = min_u64(source, dest);
	if (source > f->compared)
		f->compared = source < f->size ? round_down(f, source) : round_up(f, source);
}

int filecopy_compare_begin(struct filecopy *f)
{
	size_t bytes = FILECOPY_SLOTS * 2 * PIECE_BYTES;

	f->pairs = mmap(NULL, FILECOPY_SLOTS * sizeof(*f->pairs), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	f->pair_data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (f->pairs == MAP_FAILED || f->pair_data == MAP_FAILED)
		return -ENOMEM;
	for (unsigned i = 0; i < FILECOPY_SLOTS; i++) {
		f->pairs[i].f = f;
		for (unsigned side = 0; side < 2; side++)
			f->pairs[i].data[side] = f->pair_data + (2ULL * i + side) * PIECE_BYTES;
	}
	f->compared = 0;
	f->differs_at = UINT64_MAX;
	/* What lies in the page cache says nothing of what is on the disk. */
	posix_fadvise(f->source->fd, 0, 0, POSIX_FADV_DONTNEED);
	posix_fadvise(f->dest->fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

int filecopy_compare_step(struct filecopy *f, bool stop, int64_t deadline_ns)
{
	int n;

	for (unsigned i = 0; i < FILECOPY_SLOTS && !stop && !f->err; i++) {
		if (f->pairs[i].left)
			continue;
		pass_common_hole(f);
		if (f->compared >= f->size)
			break;
		begin_pair(f, &f->pairs[i]);
	}
	if (!f->n_pairs)
		return 0;
	n = io_run(f->loop, deadline_ns);
	return n < 0 ? n : 0;
}

bool filecopy_compare_ended(const struct filecopy *f)
{
	return !f->n_pairs && (f->err || f->compared >= f->size);
}

/* --- Opening and closing --- */

int filecopy_open(struct filecopy *f, struct io_loop *loop, struct target *source, struct target *dest,
		  unsigned throttle_pct)
{
	/* What the kernel copies needs no memory, and it does so one at a time. */
	struct copy_opts opts = { .subjob_kib = FILECOPY_SUBJOB_KIB,
				  .split = FILECOPY_SPLIT,
				  .staging_bytes =
					  target_copies_from(dest, source) ? PIECE_BYTES : FILECOPY_JOBS * JOB_BYTES,
				  .throttle_pct = throttle_pct };

	memset(f, 0, sizeof(*f));
	f->loop = loop;
	f->source = source;
	f->dest = dest;
	f->size = source->size;
	f->align = source->block > dest->block ? source->block : dest->block;
	f->source_has_holes = !source->is_block;
	return copy_client_open(loop, &opts, &f->client);
}

void filecopy_close(struct filecopy *f)
{
	assert(filecopy_at_rest(f) && !f->n_pairs);
	copy_client_close(f->client);
	if (f->pairs && f->pairs != MAP_FAILED)
		munmap(f->pairs, FILECOPY_SLOTS * sizeof(*f->pairs));
	if (f->pair_data && f->pair_data != MAP_FAILED)
		munmap(f->pair_data, FILECOPY_SLOTS * 2 * PIECE_BYTES);
}

void filecopy_start_at(struct filecopy *f, uint64_t offset)
{
	f->next = f->done = f->flushed = f->data_end = round_down(f, offset);
}
