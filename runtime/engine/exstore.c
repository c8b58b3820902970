// SPDX-License-Identifier: MIT
#include "engine/exstore.h"

#include "base/clock.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* drivers/md/dm-snap-persistent.c: SNAP_MAGIC, SNAPSHOT_DISK_VERSION, NUM_SNAPSHOT_HDR_CHUNKS. */
#define SNAP_MAGIC    0x70416e53U
#define SNAP_VERSION  1
#define HEADER_CHUNKS 1
#define SECTOR	      512U
#define ALIGN	      4096U

struct disk_header {
	uint32_t magic, valid, version, chunk_sectors;
};

struct disk_exception {
	uint64_t chunk, slot; /* `slot` is a number of a chunk of the store: 0 ends the table */
};

/* Ours, in the second sector of the header. */
#define NOTE_MAGIC   0x6d6f6f7264616568ULL /* "headroom" */
#define NOTE_VERSION 1
#define NOTE_MERGING 1

struct disk_note {
	uint64_t magic;
	uint32_t version, flags;
	uint64_t origin_bytes, sequence;
	int64_t made_s;
	char name[EXSTORE_NAME];
	uint64_t sum; /* of all before it */
};

/* FNV-1a, 64 bits: enough to tell a torn or foreign sector. */
static uint64_t sum_of(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64_t sum = 0xcbf29ce484222325ULL;

	while (len--)
		sum = (sum ^ *p++) * 0x100000001b3ULL;
	return sum;
}

/* --- Requests --- */

static void step_done(struct io *io)
{
	struct exstore *x = io->owner;

	if (io->err && !x->err)
		x->err = io->err;
	x->then(x);
}

static void step(struct exstore *x, enum io_op op, uint64_t offset, char *data, uint32_t len,
		 void (*then)(struct exstore *x))
{
	x->then = then;
	x->io = (struct io){ .target = x->target,
			     .op = op,
			     .durable = op == IO_WRITE && x->durable,
			     .offset = offset,
			     .data = data,
			     .len = len,
			     .owner = x,
			     .done = step_done };
	io_start(x->loop, &x->io);
}

static void nothing_more(struct exstore *x)
{
	x->busy = false;
}

/* One request, waited for. */
static int step_now(struct exstore *x, enum io_op op, uint64_t offset, char *data, uint32_t len, int64_t deadline_ns)
{
	int err;

	x->err = 0;
	x->busy = true;
	step(x, op, offset, data, len, nothing_more);
	while (x->busy) {
		err = io_run(x->loop, deadline_ns);
		if (err < 0)
			return err;
		if (x->busy && clock_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
	return x->err;
}

/* --- Layout --- */

static uint64_t area_chunk(const struct exstore *x, uint64_t area)
{
	return HEADER_CHUNKS + area * (x->per_area + 1ULL);
}

/* Of persistent stores, a slot is the number of its chunk in the store; those of areas and the header are none. */
static bool is_slot(const struct exstore *x, uint64_t chunk)
{
	return chunk > HEADER_CHUNKS && chunk < x->chunks && (chunk - HEADER_CHUNKS) % (x->per_area + 1ULL);
}

/* The first slot from here on. */
static uint64_t slot_from(const struct exstore *x, uint64_t chunk)
{
	return x->persistent && (chunk - HEADER_CHUNKS) % (x->per_area + 1ULL) == 0 ? chunk + 1 : chunk;
}

uint64_t exstore_offset(const struct exstore *x, uint64_t slot)
{
	return slot * x->chunk_bytes;
}

static int lay_out(struct exstore *x, uint32_t chunk_bytes)
{
	uint64_t slots;

	/* The header is written in a block of ALIGN. */
	if (chunk_bytes < EXSTORE_MIN_CHUNK || chunk_bytes > EXSTORE_MAX_CHUNK || chunk_bytes & (chunk_bytes - 1) ||
	    x->target->block > ALIGN)
		return -EINVAL;
	x->chunk_bytes = chunk_bytes;
	x->chunks = x->target->size / chunk_bytes;
	x->per_area = chunk_bytes / sizeof(struct disk_exception);
	x->next_slot = x->persistent ? HEADER_CHUNKS + 1 : 0;
	if (x->chunks <= x->next_slot)
		return -ENOSPC;
	slots = x->chunks - x->next_slot;
	if (x->chunks > EXTAB_MAX_CHUNK)
		return -EFBIG;
	x->buf = aligned_alloc(ALIGN, chunk_bytes);
	if (!x->buf)
		return -ENOMEM;
	memset(x->buf, 0, chunk_bytes);
	return extab_open(&x->table, slots);
}

static int begin(struct exstore *x, struct io_loop *loop, struct target *t, const struct exstore_opts *opts)
{
	memset(x, 0, sizeof(*x));
	x->loop = loop;
	x->target = t;
	x->durable = opts->durable;
	x->header = aligned_alloc(ALIGN, ALIGN);
	return x->header ? 0 : -ENOMEM;
}

void exstore_close(struct exstore *x)
{
	assert(!x->busy);
	extab_close(&x->table);
	free(x->buf);
	free(x->header);
	x->buf = x->header = NULL;
}

/* --- Header --- */

static void write_note(const struct exstore *x, char *sector)
{
	struct disk_note note = {
		.magic = htole64(NOTE_MAGIC),
		.version = htole32(NOTE_VERSION),
		.flags = htole32(x->merging ? NOTE_MERGING : 0),
		.origin_bytes = htole64(x->origin_bytes),
		.sequence = htole64(x->sequence),
		.made_s = (int64_t)htole64((uint64_t)x->made_s),
	};

	memcpy(note.name, x->name, sizeof(note.name));
	note.sum = htole64(sum_of(&note, offsetof(struct disk_note, sum)));
	memcpy(sector, &note, sizeof(note));
}

/* A kernel's store has none. */
static void read_note(struct exstore *x, const char *sector)
{
	struct disk_note note;

	memcpy(&note, sector, sizeof(note));
	if (le64toh(note.magic) != NOTE_MAGIC || le32toh(note.version) != NOTE_VERSION ||
	    le64toh(note.sum) != sum_of(&note, offsetof(struct disk_note, sum)))
		return;
	x->merging = le32toh(note.flags) & NOTE_MERGING;
	x->origin_bytes = le64toh(note.origin_bytes);
	x->sequence = le64toh(note.sequence);
	x->made_s = (int64_t)le64toh((uint64_t)note.made_s);
	memcpy(x->name, note.name, sizeof(x->name));
	x->name[sizeof(x->name) - 1] = '\0';
}

static void write_header(const struct exstore *x, char *header, bool valid)
{
	struct disk_header h = {
		.magic = htole32(SNAP_MAGIC),
		.valid = htole32(valid),
		.version = htole32(SNAP_VERSION),
		.chunk_sectors = htole32(x->chunk_bytes / SECTOR),
	};

	memset(header, 0, ALIGN);
	memcpy(header, &h, sizeof(h));
	write_note(x, header + SECTOR);
}

static int read_header(struct exstore *x, uint32_t *chunk_bytes, int64_t deadline_ns)
{
	struct disk_header h;
	int err = x->target->size < ALIGN ? -EBADMSG : step_now(x, IO_READ, 0, x->header, ALIGN, deadline_ns);

	if (err)
		return err;
	memcpy(&h, x->header, sizeof(h));
	read_note(x, x->header + SECTOR);
	if (le32toh(h.magic) != SNAP_MAGIC || le32toh(h.version) != SNAP_VERSION ||
	    le32toh(h.chunk_sectors) > EXSTORE_MAX_CHUNK / SECTOR)
		return -EBADMSG;
	*chunk_bytes = le32toh(h.chunk_sectors) * SECTOR;
	return le32toh(h.valid) ? 0 : -ESTALE;
}

/* --- Making --- */

/*
 * The header last: with one before it, what the target held before would be read as a note and as exceptions after a
 * power cut.
 */
static int format(struct exstore *x, int64_t deadline_ns)
{
	int err = step_now(x, IO_WRITE, 0, x->buf, ALIGN, deadline_ns);

	if (!err)
		err = step_now(x, IO_WRITE, exstore_offset(x, area_chunk(x, 0)), x->buf, x->chunk_bytes, deadline_ns);
	if (err)
		return err;
	write_header(x, x->header, true);
	return step_now(x, IO_WRITE, 0, x->header, ALIGN, deadline_ns);
}

int exstore_make(struct exstore *x, struct io_loop *loop, struct target *t, const struct exstore_opts *opts,
		 int64_t deadline_ns)
{
	int err = begin(x, loop, t, opts);

	x->persistent = opts->persistent;
	x->origin_bytes = opts->origin_bytes;
	x->sequence = opts->sequence;
	x->made_s = time(NULL);
	if (opts->name)
		strncpy(x->name, opts->name, sizeof(x->name) - 1);
	if (!err)
		err = lay_out(x, opts->chunk_bytes);
	if (!err && x->persistent)
		err = format(x, deadline_ns);
	if (err && !x->busy)
		exstore_close(x);
	return err;
}

/* --- Opening --- */

static struct disk_exception *exceptions(const struct exstore *x)
{
	return (struct disk_exception *)x->buf;
}

/* The exceptions of the area in buf. */
static int take_area(struct exstore *x, uint64_t origin_chunks, uint8_t *slots_seen)
{
	for (x->area_n = 0; x->area_n < x->per_area; x->area_n++) {
		const struct disk_exception *e = &exceptions(x)[x->area_n];
		uint64_t chunk = le64toh(e->chunk), slot = le64toh(e->slot);

		if (!slot)
			break;
		if (!is_slot(x, slot) || chunk >= origin_chunks || slots_seen[slot / 8] & 1 << slot % 8)
			return -EBADMSG;
		slots_seen[slot / 8] |= (uint8_t)(1 << slot % 8);
		if (extab_add(&x->table, (uint32_t)chunk, (uint32_t)slot))
			return -EBADMSG;
		if (slot >= x->next_slot)
			x->next_slot = slot + 1;
	}
	return 0;
}

static int take_areas(struct exstore *x, uint64_t origin_chunks, int64_t deadline_ns)
{
	uint8_t *slots_seen = calloc(1, x->chunks / 8 + 1);
	int err = slots_seen ? 0 : -ENOMEM;

	while (!err) {
		err = step_now(x, IO_READ, exstore_offset(x, area_chunk(x, x->area)), x->buf, x->chunk_bytes,
			       deadline_ns);
		if (!err)
			err = take_area(x, origin_chunks, slots_seen);
		if (err || x->area_n < x->per_area || area_chunk(x, x->area + 1) >= x->chunks)
			break;
		x->area++;
	}
	free(slots_seen);
	return err;
}

/* What is taken away is taken from the last area that has something. */
static int to_last_used_area(struct exstore *x, int64_t deadline_ns)
{
	if (x->area_n || !x->area)
		return 0;
	x->area--;
	x->area_n = x->per_area; /* or there would be no area after it */
	return step_now(x, IO_READ, exstore_offset(x, area_chunk(x, x->area)), x->buf, x->chunk_bytes, deadline_ns);
}

/*
 * What follows the end of the table was in a write that a power cut has torn: committed later, it would be taken for
 * exceptions as soon as those before it are there.
 */
static int drop_torn(struct exstore *x, int64_t deadline_ns)
{
	size_t used = x->area_n * sizeof(struct disk_exception);
	const char *rest = x->buf + used;
	bool torn = false;

	for (size_t i = 0; i < x->chunk_bytes - used; i++)
		torn |= rest[i] != 0;
	if (!torn)
		return 0;
	memset(x->buf + used, 0, x->chunk_bytes - used);
	return step_now(x, IO_WRITE, exstore_offset(x, area_chunk(x, x->area)), x->buf, x->chunk_bytes, deadline_ns);
}

int exstore_open(struct exstore *x, struct io_loop *loop, struct target *t, const struct exstore_opts *opts,
		 int64_t deadline_ns)
{
	uint64_t origin_chunks;
	uint32_t chunk_bytes;
	int err = begin(x, loop, t, opts);

	x->persistent = true;
	if (!err)
		err = read_header(x, &chunk_bytes, deadline_ns);
	if (!err)
		err = lay_out(x, chunk_bytes);
	if (err == -EINVAL || err == -ENOSPC)
		err = -EBADMSG;
	if (!err && x->origin_bytes && x->origin_bytes != opts->origin_bytes)
		err = -EBADMSG;
	if (!err) {
		origin_chunks = (opts->origin_bytes + chunk_bytes - 1) / chunk_bytes;
		err = take_areas(x, origin_chunks < EXTAB_MAX_CHUNK ? origin_chunks : EXTAB_MAX_CHUNK, deadline_ns);
	}
	if (!err)
		err = drop_torn(x, deadline_ns);
	if (!err)
		err = to_last_used_area(x, deadline_ns);
	x->next_slot = err ? 0 : slot_from(x, x->next_slot);
	x->given = x->table.n;
	x->dirty_from = x->area_n;
	if (err && !x->busy)
		exstore_close(x);
	return err;
}

/* --- Appending --- */

uint32_t exstore_run(const struct exstore *x, uint32_t most)
{
	uint64_t end = x->chunks, run;

	if (x->next_slot >= end)
		return 0;
	if (x->persistent) {
		uint64_t area = (x->next_slot - HEADER_CHUNKS) / (x->per_area + 1ULL);
		uint32_t left = x->per_area - (uint32_t)(x->given % x->per_area);

		if (area_chunk(x, area + 1) < end)
			end = area_chunk(x, area + 1);
		/* What is committed together lies in one area. */
		most = most < left ? most : left;
	}
	run = end - x->next_slot;
	return run < most ? (uint32_t)run : most;
}

uint64_t exstore_give(struct exstore *x, uint32_t n)
{
	uint64_t first = x->next_slot;

	x->next_slot = slot_from(x, first + n);
	x->given += n;
	return first;
}

uint32_t exstore_room(const struct exstore *x)
{
	if (x->busy)
		return 0;
	if (!x->persistent)
		return UINT32_MAX;
	/* Behind an area that is full and committed comes the next. */
	return x->dirty_from == x->per_area ? x->per_area : x->per_area - x->area_n;
}

void exstore_add(struct exstore *x, uint32_t chunk, uint64_t slot)
{
	int err = extab_add(&x->table, chunk, (uint32_t)slot);

	assert(!err && !x->busy);
	(void)err;
	if (!x->persistent)
		return;
	if (x->dirty_from == x->per_area) {
		x->area++;
		x->area_n = x->dirty_from = 0;
		memset(x->buf, 0, x->chunk_bytes);
	}
	assert(x->area_n < x->per_area);
	exceptions(x)[x->area_n++] = (struct disk_exception){ .chunk = htole64(chunk), .slot = htole64(slot) };
}

static void end_commit(struct exstore *x)
{
	x->busy = false;
	x->dirty_from = x->area_n;
	x->committed(x, x->err);
}

/* The blocks of the area in which something is new. */
static void write_area(struct exstore *x)
{
	uint32_t block = x->target->block > SECTOR ? x->target->block : SECTOR;
	uint32_t from = x->dirty_from * (uint32_t)sizeof(struct disk_exception) & ~(block - 1);
	uint32_t to = (x->area_n * (uint32_t)sizeof(struct disk_exception) + block - 1) & ~(block - 1);

	if (x->err) {
		end_commit(x);
		return;
	}
	step(x, IO_WRITE, exstore_offset(x, area_chunk(x, x->area)) + from, x->buf + from, to - from, end_commit);
}

/* All data must be on the medium before an exception says that it is. */
static void flush_data(struct exstore *x)
{
	if (x->durable && !x->err)
		step(x, IO_FLUSH, 0, NULL, 0, write_area);
	else
		write_area(x);
}

void exstore_commit(struct exstore *x)
{
	static _Alignas(ALIGN) char zeros[EXSTORE_MAX_CHUNK];

	x->err = 0;
	if (!x->persistent) {
		x->committed(x, 0);
		return;
	}
	x->busy = true;
	if (x->area_n == x->per_area && area_chunk(x, x->area + 1) < x->chunks)
		step(x, IO_WRITE, exstore_offset(x, area_chunk(x, x->area + 1)), zeros, x->chunk_bytes, flush_data);
	else
		flush_data(x);
}

/* --- Taking away --- */

uint32_t exstore_last(const struct exstore *x, uint32_t most, uint32_t *chunk, uint64_t *slot)
{
	const struct disk_exception *e = exceptions(x);
	uint32_t n = 0;

	if (!x->area_n || x->busy)
		return 0;
	while (n < most && n < x->area_n) {
		const struct disk_exception *at = &e[x->area_n - 1 - n];

		if (n && (le64toh(at->chunk) + 1 != *chunk || le64toh(at->slot) + 1 != *slot))
			break;
		*chunk = (uint32_t)le64toh(at->chunk);
		*slot = le64toh(at->slot);
		n++;
	}
	return n;
}

static void end_drop(struct exstore *x)
{
	x->busy = false;
	x->committed(x, x->err);
}

/* The area before is full: it had to be for this one to be begun. If it cannot be read we are where we were. */
static void area_is_back(struct exstore *x)
{
	if (x->err) {
		x->area++;
		memset(x->buf, 0, x->chunk_bytes);
	} else {
		x->area_n = x->dirty_from = x->per_area;
	}
	end_drop(x);
}

static void dropped(struct exstore *x)
{
	if (x->err || x->area_n || !x->area) {
		end_drop(x);
		return;
	}
	x->area--;
	step(x, IO_READ, exstore_offset(x, area_chunk(x, x->area)), x->buf, x->chunk_bytes, area_is_back);
}

static void write_whole_area(struct exstore *x)
{
	step(x, IO_WRITE, exstore_offset(x, area_chunk(x, x->area)), x->buf, x->chunk_bytes, dropped);
}

void exstore_drop(struct exstore *x, uint32_t n)
{
	assert(!x->busy && n <= x->area_n);
	for (; n; n--) {
		struct disk_exception *e = &exceptions(x)[--x->area_n];

		extab_remove(&x->table, (uint32_t)le64toh(e->chunk));
		*e = (struct disk_exception){ 0 };
	}
	x->dirty_from = x->area_n;
	x->err = 0;
	x->busy = true;
	write_whole_area(x);
}

/* --- Marks --- */

static void end_mark(struct exstore *x)
{
	x->busy = false;
	if (x->err && x->mark == EXSTORE_MERGING)
		x->merging = false;
	x->committed(x, x->err);
}

void exstore_mark(struct exstore *x, enum exstore_mark mark)
{
	assert(!x->busy);
	if (!x->persistent) {
		x->committed(x, 0);
		return;
	}
	x->mark = mark;
	if (mark == EXSTORE_MERGING)
		x->merging = true;
	x->err = 0;
	x->busy = true;
	write_header(x, x->header, mark != EXSTORE_INVALID);
	/* The note stays: if the power went and took it first, a store that was merged would be one that is not. */
	if (mark == EXSTORE_WIPED)
		memset(x->header, 0, SECTOR);
	step(x, IO_WRITE, 0, x->header, ALIGN, end_mark);
}
