// SPDX-License-Identifier: MIT
/*
 * A store that somebody else has written, whatever it holds: opened, read, written behind, merged, opened again. What
 * it means is found out a second time here, in the plainest way, from the layout of the kernel's
 * drivers/md/dm-snap-persistent.c, and has to be the same.
 *
 * Of the input:
 *   0        chunks of 4 KiB that the disk has, less one: the low eight bits
 *   1, 2     sectors of the origin, less one (of EXSTORE_CHECK_SECTORS)
 *   3        bit 0: there is a note; bit 1: with a sum that is right; bits 2, 3: the high bits of byte 0
 *   4 - 19   the header
 *   20 - 131 the note
 *   132 -    exceptions, of 16 bytes, in one area after the other
 */
#ifndef HEADROOM_TEST_EXSTORE_CHECK_H
#define HEADROOM_TEST_EXSTORE_CHECK_H

#include "engine_sim.h"

#include "base/clock.h"
#include "engine/snap.h"

#include <endian.h>

#define EXSTORE_CHECK_SECTORS 4096U
#define CHECK_UNIT	      4096U /* the disk's chunks, which need not be the store's */
#define CHECK_NOTE	      112U
#define CHECK_FIXED	      132U
#define CHECK_DEADLINE_S      20
#define CHECK_COW_THRESHOLD   16

struct check_image {
	char *disk, *origin, *snapshot; /* what reading the snapshot has to give */
	uint64_t disk_bytes, origin_bytes;
	uint32_t chunk_bytes;
	bool fits, merging; /* it is a store of this origin; which is being merged into it */
};

static inline uint64_t check_get(const char *from, unsigned bytes)
{
	uint64_t value = 0;

	memcpy(&value, from, bytes);
	return le64toh(value);
}

/* FNV-1a, as the note has it. */
static inline uint64_t check_sum(const char *data, size_t len)
{
	uint64_t sum = 0xcbf29ce484222325ULL;

	while (len--)
		sum = (sum ^ (unsigned char)*data++) * 0x100000001b3ULL;
	return sum;
}

static inline void check_fill(char *data, uint64_t bytes, uint32_t key)
{
	for (uint64_t at = 0; at + sizeof(key) <= bytes; at += sizeof(key), key++)
		memcpy(data + at, &key, sizeof(key));
}

static inline void check_build(struct check_image *im, const uint8_t *in, size_t size)
{
	uint8_t fixed[CHECK_FIXED] = { 0 };
	uint32_t sectors, chunk = 0;
	uint64_t per_area, area, place;

	memcpy(fixed, in, size < CHECK_FIXED ? size : CHECK_FIXED);
	im->disk_bytes = ((fixed[0] | (fixed[3] >> 2 & 3) << 8) + 1ULL) * CHECK_UNIT;
	im->origin_bytes = ((fixed[1] | fixed[2] << 8) % EXSTORE_CHECK_SECTORS + 1ULL) * SIM_SECTOR;
	im->disk = malloc(im->disk_bytes);
	im->origin = malloc(im->origin_bytes);
	im->snapshot = malloc(im->origin_bytes);
	assert_true(im->disk && im->origin && im->snapshot);
	check_fill(im->disk, im->disk_bytes, 0x80000000U);
	check_fill(im->origin, im->origin_bytes, 1);
	memset(im->disk, 0, CHECK_UNIT);
	memcpy(im->disk, fixed + 4, 16);
	if (fixed[3] & 1)
		memcpy(im->disk + SIM_SECTOR, fixed + 20, CHECK_NOTE);
	if (fixed[3] & 2) {
		uint64_t sum = htole64(check_sum(im->disk + SIM_SECTOR, CHECK_NOTE - 8));

		memcpy(im->disk + SIM_SECTOR + CHECK_NOTE - 8, &sum, sizeof(sum));
	}
	sectors = (uint32_t)check_get(im->disk + 12, 4);
	im->chunk_bytes = EXSTORE_MIN_CHUNK;
	for (chunk = EXSTORE_MIN_CHUNK; chunk <= EXSTORE_MAX_CHUNK; chunk *= 2)
		if (sectors == chunk / SIM_SECTOR)
			im->chunk_bytes = chunk;
	per_area = im->chunk_bytes / 16;
	for (area = 0; (place = (1 + area * (per_area + 1)) * im->chunk_bytes) + im->chunk_bytes <= im->disk_bytes;
	     area++) {
		uint64_t from = CHECK_FIXED + area * im->chunk_bytes;
		uint64_t len = from < size ? size - from : 0;

		if (len > im->chunk_bytes)
			len = im->chunk_bytes;
		memset(im->disk + place, 0, im->chunk_bytes);
		if (len)
			memcpy(im->disk + place, in + from, len);
	}
}

/* Is this a chunk of the store that holds data? */
static inline bool check_is_slot(const struct check_image *im, uint64_t chunk)
{
	uint64_t stride = im->chunk_bytes / 16 + 1;

	return chunk >= 2 && chunk < im->disk_bytes / im->chunk_bytes && chunk % stride != 1;
}

/* One exception; false: it contradicts those before it, or makes no sense. */
static inline bool check_take(struct check_image *im, uint64_t chunk, uint64_t slot, uint8_t *chunks, uint8_t *slots)
{
	uint64_t at, len = im->chunk_bytes;

	if (!check_is_slot(im, slot) || chunk >= (im->origin_bytes + len - 1) / len || chunks[chunk] || slots[slot])
		return false;
	chunks[chunk] = slots[slot] = 1;
	at = chunk * len;
	if (len > im->origin_bytes - at)
		len = im->origin_bytes - at;
	memcpy(im->snapshot + at, im->disk + slot * im->chunk_bytes, len);
	return true;
}

static inline bool check_read_areas(struct check_image *im)
{
	uint8_t *chunks = calloc(1, im->origin_bytes / SIM_SECTOR + 1), *slots = calloc(1, im->disk_bytes / CHECK_UNIT);
	uint64_t per_area = im->chunk_bytes / 16, area = 0, i = 0;
	bool fits = true;

	assert_true(chunks && slots);
	while (fits) {
		const char *e = im->disk + (1 + area * (per_area + 1)) * im->chunk_bytes + i * 16;
		uint64_t slot = check_get(e + 8, 8);

		if (!slot)
			break;
		fits = check_take(im, check_get(e, 8), slot, chunks, slots);
		if (++i < per_area)
			continue;
		i = 0;
		if ((1 + ++area * (per_area + 1)) >= im->disk_bytes / im->chunk_bytes)
			break;
	}
	free(chunks);
	free(slots);
	return fits;
}

static inline void check_read(struct check_image *im)
{
	const char *note = im->disk + SIM_SECTOR;
	bool noted = check_get(note, 8) == 0x6d6f6f7264616568ULL && check_get(note + 8, 4) == 1 &&
		     check_get(note + CHECK_NOTE - 8, 8) == check_sum(note, CHECK_NOTE - 8);

	memcpy(im->snapshot, im->origin, im->origin_bytes);
	im->merging = noted && check_get(note + 12, 4) & 1;
	im->fits = check_get(im->disk, 4) == 0x70416e53U && check_get(im->disk + 4, 4) &&
		   check_get(im->disk + 8, 4) == 1 && check_get(im->disk + 12, 4) == im->chunk_bytes / SIM_SECTOR &&
		   im->disk_bytes / im->chunk_bytes > 2 &&
		   (!noted || !check_get(note + 16, 8) || check_get(note + 16, 8) == im->origin_bytes) &&
		   check_read_areas(im);
}

/* --- The engine --- */

struct check_run {
	struct sim sim;
	struct copy_client *copy;
	struct target *origin;
	struct snap *snap;
	bool ended;
};

static inline int64_t check_deadline(void)
{
	return clock_ns() + CHECK_DEADLINE_S * NS_PER_S;
}

static inline void check_ended(struct snap_req *r)
{
	*(bool *)r->owner = true;
}

static inline int check_io(struct check_run *c, enum io_op op, int store, uint64_t offset, char *data, uint32_t len)
{
	bool ended = false;
	struct snap_req r = { .op = op,
			      .store = store,
			      .offset = offset,
			      .data = data,
			      .len = len,
			      .done = check_ended,
			      .owner = &ended };
	int64_t until = check_deadline();

	snap_submit(c->snap, &r);
	while (!ended) {
		assert_int_equal(snap_run(c->snap, until), 0);
		assert_true(clock_ns() < until);
	}
	return r.err;
}

static inline void check_open(struct check_run *c, const struct check_image *im)
{
	struct copy_opts copy = { 0 };
	struct snap_opts opts;

	snap_opts_default(&opts);
	opts.cow_threshold = CHECK_COW_THRESHOLD;
	opts.chunk_bytes = im->chunk_bytes;
	sim_open(&c->sim, 1, NULL, NULL);
	/* Memory that is touched is what an input costs. */
	copy.subjob_kib = (im->chunk_bytes > 16U << 10 ? im->chunk_bytes : 16U << 10) >> 10;
	copy.staging_bytes = 2 * copy.subjob_kib << 10;
	assert_int_equal(copy_client_open(c->sim.loop, &copy, &c->copy), 0);
	c->origin = sim_disk(&c->sim, im->origin_bytes, im->origin);
	assert_int_equal(snap_open(c->sim.loop, c->copy, c->origin, &opts, &c->snap), 0);
}

static inline void check_close(struct check_run *c)
{
	assert_int_equal(snap_close(c->snap, check_deadline()), 0);
	copy_client_close(c->copy);
	target_close(c->origin);
	sim_close(&c->sim);
}

static inline int check_attach(struct check_run *c, const struct check_image *im, struct sim_disk **disk)
{
	struct target *t = sim_disk(&c->sim, im->disk_bytes, im->disk);
	int n = snap_attach(c->snap, t, check_deadline());

	*disk = t->own;
	if (n < 0)
		target_close(t);
	return n;
}

static inline void check_reads(struct check_run *c, int store, const struct check_image *im)
{
	char *data = malloc(im->origin_bytes);

	assert_non_null(data);
	assert_int_equal(check_io(c, IO_READ, store, 0, data, (uint32_t)im->origin_bytes), 0);
	assert_memory_equal(data, im->snapshot, im->origin_bytes);
	free(data);
}

static inline void check_merge(struct check_run *c, const struct check_image *im)
{
	int64_t until = check_deadline();
	struct snap_info info;

	check_reads(c, SNAP_ORIGIN, im);
	snap_resume_merge(c->snap);
	while (snap_store_info(c->snap, 0, &info) == 0) {
		assert_int_equal(snap_run(c->snap, until), 0);
		assert_true(clock_ns() < until);
	}
	check_reads(c, SNAP_ORIGIN, im);
}

/* All of the origin is written: what was in it is in the store then, if that has the room. */
static inline void check_writes(struct check_run *c, struct check_image *im, struct sim_disk *disk)
{
	char *data = calloc(1, im->origin_bytes);
	struct snap_info info;

	assert_non_null(data);
	assert_int_equal(check_io(c, IO_WRITE, SNAP_ORIGIN, 0, data, (uint32_t)im->origin_bytes), 0);
	assert_int_equal(snap_store_info(c->snap, 0, &info), 0);
	if (info.valid)
		check_reads(c, 0, im);
	else
		im->fits = false;
	memcpy(im->disk, disk->now, im->disk_bytes);
	memcpy(im->origin, data, im->origin_bytes);
	free(data);
}

static inline void check_store(const uint8_t *in, size_t size)
{
	struct check_image im = { 0 };
	struct check_run c = { 0 };
	struct sim_disk *disk;
	int n;

	check_build(&im, in, size);
	check_read(&im);
	check_open(&c, &im);
	n = check_attach(&c, &im, &disk);
	if (!im.fits) {
		assert_true(n == -EBADMSG || n == -ESTALE);
	} else if (im.merging) {
		assert_int_equal(n, 0);
		check_merge(&c, &im);
	} else {
		assert_int_equal(n, 0);
		check_reads(&c, 0, &im);
		check_writes(&c, &im, disk);
		check_close(&c);
		/* It was left as one that can be opened, or as invalid. */
		check_open(&c, &im);
		n = check_attach(&c, &im, &disk);
		assert_int_equal(n, im.fits ? 0 : -ESTALE);
		if (im.fits)
			check_reads(&c, 0, &im);
	}
	check_close(&c);
	free(im.disk);
	free(im.origin);
	free(im.snapshot);
}

#endif
