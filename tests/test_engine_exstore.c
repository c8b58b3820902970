// SPDX-License-Identifier: MIT
/*
 * Stores that somebody else has written: a kernel, an engine before a crash, or somebody with bad intentions. What they
 * mean is found out twice (exstore_check.h). HEADROOM_SEEDS says how many damaged ones there are.
 */
#include "exstore_check.h"

#define SEEDS	 2000
#define MAX_SIZE 16384
#define AREA	 256 /* exceptions, with chunks of 4 KiB */

/* An input of check_store(). */
struct input {
	uint8_t data[MAX_SIZE];
	size_t size;
};

static void put(struct input *in, size_t at, uint64_t value, unsigned bytes)
{
	value = htole64(value);
	memcpy(in->data + at, &value, bytes);
	if (in->size < at + bytes)
		in->size = at + bytes;
}

/* A store of so many chunks of 4 KiB, of an origin of so many sectors. */
static struct input *make(unsigned chunks, unsigned sectors)
{
	struct input *in = calloc(1, sizeof(*in));

	assert_non_null(in);
	put(in, 0, (chunks - 1) & 0xff, 1);
	put(in, 1, sectors - 1, 2);
	put(in, 3, (chunks - 1) >> 8 << 2, 1);
	put(in, 4, 0x70416e53, 4);
	put(in, 8, 1, 4);
	put(in, 12, 1, 4);
	put(in, 16, 8, 4);
	return in;
}

static void note(struct input *in, uint64_t flags, uint64_t origin_bytes)
{
	in->data[3] |= 3;
	put(in, 20, 0x6d6f6f7264616568ULL, 8);
	put(in, 28, 1, 4);
	put(in, 32, flags, 4);
	put(in, 36, origin_bytes, 8);
}

static void except(struct input *in, unsigned i, uint64_t chunk, uint64_t slot)
{
	put(in, CHECK_FIXED + 16 * i, chunk, 8);
	put(in, CHECK_FIXED + 16 * i + 8, slot, 8);
}

/* What attaching it comes to, besides all that check_store() looks at. */
static int attach(struct input *in)
{
	struct check_image im = { 0 };
	struct check_run c = { 0 };
	struct sim_disk *disk;
	int n;

	check_build(&im, in->data, in->size);
	check_open(&c, &im);
	n = check_attach(&c, &im, &disk);
	check_close(&c);
	free(im.disk);
	free(im.origin);
	free(im.snapshot);
	check_store(in->data, in->size);
	free(in);
	return n;
}

static void what_a_kernel_has_written_is_taken_up(void **state)
{
	struct input *in = make(20, 64);

	(void)state;
	except(in, 0, 3, 2);
	except(in, 1, 0, 4);
	except(in, 2, 7, 3);
	assert_int_equal(attach(in), 0);
	assert_int_equal(attach(make(20, 64)), 0);
	/* The last chunk of the origin is half a chunk. */
	in = make(20, 60);
	except(in, 0, 7, 2);
	assert_int_equal(attach(in), 0);
	/* Other sizes of chunks. */
	in = make(256, 2048);
	put(in, 16, 128, 4);
	except(in, 0, 1, 2);
	assert_int_equal(attach(in), 0);
}

static void full_areas_are_followed(void **state)
{
	/* 256 chunks of store: with the header and one area, that many less two are slots. */
	struct input *in = make(256, 4096);

	(void)state;
	for (unsigned i = 0; i < AREA - 2; i++)
		except(in, i, i, i + 2);
	assert_int_equal(attach(in), 0);
	/* The next area lies in chunk 258, and holds two. */
	in = make(400, 4096);
	for (unsigned i = 0; i < AREA + 2; i++)
		except(in, i, i, i < AREA ? i + 2 : i + 3);
	assert_int_equal(attach(in), 0);
	/* It is there, and empty. */
	in = make(400, 4096);
	for (unsigned i = 0; i < AREA; i++)
		except(in, i, i, i + 2);
	assert_int_equal(attach(in), 0);
	in = make(400, 4096);
	except(in, 0, 0, 2 + AREA);
	assert_int_equal(attach(in), -EBADMSG);
	/* A chunk of 8 KiB: an area has 512, the store 126. */
	in = make(255, 4096);
	put(in, 16, 16, 4);
	for (unsigned i = 0; i < 125; i++)
		except(in, i, i, i + 2);
	assert_int_equal(attach(in), 0);
}

static void a_merge_that_was_cut_goes_on(void **state)
{
	struct input *in = make(20, 64);

	(void)state;
	note(in, 1, 64 * SIM_SECTOR);
	except(in, 0, 5, 9);
	except(in, 1, 2, 4);
	except(in, 2, 3, 5);
	assert_int_equal(attach(in), 0);
	in = make(20, 64);
	note(in, 1, 64 * SIM_SECTOR);
	assert_int_equal(attach(in), 0);
}

static void what_contradicts_itself_is_refused(void **state)
{
	static const struct {
		uint64_t chunk, slot;
	} bad[] = {
		{ 3, 5 },  /* the chunk again */
		{ 4, 2 },  /* the slot again */
		{ 8, 5 },  /* beyond the origin */
		{ 4, 20 }, /* beyond the store */
		{ 4, 1 },  /* an area */
		{ 4, UINT64_MAX },
		{ UINT64_MAX, 5 },
		{ 4, 1ULL << 32 | 5 }, /* 5, if it was cut to 32 bits */
		{ 1ULL << 32 | 4, 5 },
		{ 4, 1ULL << 63 | 5 },
		{ 1ULL << 63 | 4, 5 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct input *in = make(20, 64);

		except(in, 0, 3, 2);
		except(in, 1, bad[i].chunk, bad[i].slot);
		assert_int_equal(attach(in), -EBADMSG);
	}
}

static void what_is_no_store_is_refused(void **state)
{
	static const struct {
		unsigned at;
		uint32_t value;
		int err;
	} bad[] = {
		{ 4, 0, -EBADMSG },
		{ 4, 0x536e4170, -EBADMSG },
		{ 12, 0, -EBADMSG },
		{ 12, 2, -EBADMSG },
		{ 16, 0, -EBADMSG },
		{ 16, 4, -EBADMSG },
		{ 16, 9, -EBADMSG },
		{ 16, 2048, -EBADMSG },
		{ 16, 1 << 23, -EBADMSG },
		{ 16, UINT32_MAX, -EBADMSG },
		{ 16, 1U << 31 | 8, -EBADMSG },
		{ 8, 0, -ESTALE },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct input *in = make(20, 64);

		put(in, bad[i].at, bad[i].value, 4);
		assert_int_equal(attach(in), bad[i].err);
	}
	/* No room for a slot. */
	assert_int_equal(attach(make(2, 64)), -EBADMSG);
	assert_int_equal(attach(make(1, 64)), -EBADMSG);
}

static void a_store_of_another_origin_is_refused(void **state)
{
	struct input *in = make(20, 64);

	(void)state;
	note(in, 0, 65 * SIM_SECTOR);
	assert_int_equal(attach(in), -EBADMSG);
	/* A note that is torn says nothing. */
	in = make(20, 64);
	note(in, 1, 65 * SIM_SECTOR);
	in->data[3] &= ~2;
	assert_int_equal(attach(in), 0);
}

/* Any of them, with a few bytes changed; and what is left of it when its end is missing. */
static void damage(struct input *in, uint64_t *random)
{
	static const uint64_t liked[] = { 0, 1, 2, 3, 8, 16, 17, 255, 256, 257, UINT32_MAX, UINT64_MAX };

	for (unsigned n = 1 + sim_random(random) % 4; n; n--) {
		size_t at = sim_random(random) % (in->size - 8);

		if (sim_random(random) % 2)
			put(in, at & ~7ULL, liked[sim_random(random) % (sizeof(liked) / sizeof(liked[0]))], 8);
		else
			in->data[at] ^= (uint8_t)(1 << sim_random(random) % 8);
	}
	if (sim_random(random) % 4 == 0)
		in->size = sim_random(random) % (in->size + 1);
}

static void what_is_damaged_is_refused_or_means_what_it_says(void **state)
{
	const char *seeds = getenv("HEADROOM_SEEDS");

	(void)state;
	for (uint64_t seed = 0; seed < (seeds ? strtoull(seeds, NULL, 10) : SEEDS); seed++) {
		uint64_t random = seed;
		struct input *in = make(8 + sim_random(&random) % 32, 8 + sim_random(&random) % 128);

		if (sim_random(&random) % 2)
			note(in, sim_random(&random) % 2, 0);
		for (unsigned i = 0; i < 6; i++)
			except(in, i, i ^ 1, 2 + i);
		damage(in, &random);
		check_store(in->data, in->size);
		free(in);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_kernel_has_written_is_taken_up),
		cmocka_unit_test(full_areas_are_followed),
		cmocka_unit_test(a_merge_that_was_cut_goes_on),
		cmocka_unit_test(what_contradicts_itself_is_refused),
		cmocka_unit_test(what_is_no_store_is_refused),
		cmocka_unit_test(a_store_of_another_origin_is_refused),
		cmocka_unit_test(what_is_damaged_is_refused_or_means_what_it_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
