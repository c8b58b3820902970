// SPDX-License-Identifier: MIT
/*
 * The snapshot engine against a plain model. HEADROOM_SEEDS says how many seeds (`make check-long`), HEADROOM_SEED
 * which is the first.
 */
#include "snap_model.h"

#define SEEDS	   300
#define OPS	   120
#define MAX_BLOCKS 6400

/* Once, at its time. */
static void cut_once(void *arg)
{
	struct test *t = arg;

	if (!t->cuts && t->sim.steps >= t->cut_at)
		cut_power(t, SIM_SOME);
}

static void one_seed(uint64_t seed)
{
	uint64_t random = seed;
	struct snap_opts opts = some_opts(&random);
	/* One in eight fills areas of exceptions, of which one has 256 and more. */
	uint32_t blocks = sim_random(&random) % 8 ? 200 + (uint32_t)(sim_random(&random) % 400) : MAX_BLOCKS;
	struct test *t = test_open(seed, blocks, &opts);
	struct snap_counters counters;

	t->faults = !pick(t, 3);
	t->faults_left = (unsigned)pick(t, 200);
	t->cut_at = pick(t, 1200);
	t->sim.at_step = cut_once;
	create(t);
	for (int i = 0; i < OPS; i++)
		operate(t);
	verify(t);
	snap_read_counters(t->snap, &counters);
	if (t->opts.cow_threshold != SNAP_UNLIMITED)
		assert_true(counters.in_progress_peak <= t->opts.cow_threshold + 1ULL);
	test_close(t);
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

static void mute_open(struct mute *m, uint32_t chunks)
{
	struct snap_opts opts;

	snap_opts_default(&opts);
	sim_open(&m->sim, 1, NULL, NULL);
	assert_int_equal(copy_client_open(m->sim.loop, &(struct copy_opts){ .staging_bytes = 1 << 20 }, &m->copy), 0);
	m->origin = sim_disk(&m->sim, (uint64_t)chunks * EXSTORE_MIN_CHUNK, NULL);
	assert_int_equal(snap_open(m->sim.loop, m->copy, m->origin, &opts, &m->snap), 0);
}

static void mute_close(struct mute *m)
{
	assert_int_equal(snap_close(m->snap, deadline()), 0);
	copy_client_close(m->copy);
	target_close(m->origin);
	sim_close(&m->sim);
}

static int mute_setup(void **state)
{
	struct mute *m = calloc(1, sizeof(*m));

	assert_non_null(m);
	mute_open(m, CHUNKS);
	*state = m;
	return 0;
}

static int mute_teardown(void **state)
{
	struct mute *m = *state;

	mute_close(m);
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

static void what_is_done_in_any_order_is_what_the_model_says_also_after_a_power_cut(void **state)
{
	uint64_t first = from_environment("HEADROOM_SEED", 1), n = from_environment("HEADROOM_SEEDS", SEEDS);

	(void)state;
	for (uint64_t seed = first; seed < first + n; seed++)
		one_seed(seed);
}

/* It is in the origin, and whether the store still has it nobody knows. */
static void what_cannot_be_taken_out_of_a_store_can_be_read_but_not_written(void **state)
{
	struct mute *m = *state;
	struct sim_disk *disk;
	char *data = malloc(EXSTORE_MIN_CHUNK);
	struct snap_info info;

	assert_int_equal(make_store(m, &disk, true), 0);
	submit_write(m);
	assert_true(ends_until(m, deadline()));
	assert_int_equal(snap_merge(m->snap, 0, deadline()), 0);
	disk->fail_writes = -EIO;
	while (!snap_idle(m->snap))
		assert_int_equal(snap_run(m->snap, deadline()), 0);
	disk->fail_writes = 0;
	assert_int_equal(read_all(m->snap, SNAP_ORIGIN, EXSTORE_MIN_CHUNK, data), 0);
	assert_memory_equal(data, (char[EXSTORE_MIN_CHUNK]){ 0 }, EXSTORE_MIN_CHUNK);
	submit_write(m);
	assert_true(ends_until(m, deadline()));
	assert_int_equal(m->write.r.err, -EIO);
	m->write.ended = false;
	m->write.r.offset = EXSTORE_MIN_CHUNK;
	snap_submit(m->snap, &m->write.r);
	assert_true(ends_until(m, deadline()));
	assert_int_equal(m->write.r.err, 0);
	assert_int_equal(snap_store_info(m->snap, 0, &info), 0);
	assert_true(info.merging);
	free(data);
}

/* As many exceptions as fill areas of the store, and one more or less; in a store that may have no room for the next.
 */
static void one_merge(uint32_t chunks, uint32_t store_chunks, bool opened_again)
{
	uint32_t bytes = chunks * EXSTORE_MIN_CHUNK, most = MAX_BLOCKS * EXSTORE_MIN_CHUNK;
	struct mute m = { 0 };
	struct target *t;
	struct sim_disk *disk;
	struct snap_opts opts;
	char *data = malloc(most), *image, *zeros = calloc(1, most);

	snap_opts_default(&opts);
	mute_open(&m, MAX_BLOCKS);
	t = sim_disk(&m.sim, (uint64_t)store_chunks * EXSTORE_MIN_CHUNK, NULL);
	disk = t->own;
	assert_int_equal(snap_create(m.snap, t, &(struct snap_store_opts){ .persistent = true }, deadline()), 0);
	memset(data, 'n', most);
	assert_int_equal(whole_io(m.snap, IO_WRITE, SNAP_ORIGIN, 0, bytes, data), 0);
	if (opened_again) {
		image = malloc(disk->size);
		memcpy(image, disk->now, disk->size);
		assert_int_equal(snap_close(m.snap, deadline()), 0);
		assert_int_equal(snap_open(m.sim.loop, m.copy, m.origin, &opts, &m.snap), 0);
		assert_int_equal(snap_attach(m.snap,
					     sim_disk(&m.sim, (uint64_t)store_chunks * EXSTORE_MIN_CHUNK, image),
					     deadline()),
				 0);
		free(image);
	}
	assert_int_equal(snap_merge(m.snap, 0, deadline()), 0);
	while (!snap_idle(m.snap))
		assert_int_equal(snap_run(m.snap, deadline()), 0);
	assert_int_equal(read_all(m.snap, SNAP_ORIGIN, most, data), 0);
	if (memcmp(data, zeros, most) != 0)
		fail_msg("%u exceptions in a store of %u chunks%s: merged, the origin has something else", chunks,
			 store_chunks, opened_again ? ", opened again" : "");
	mute_close(&m);
	free(data);
	free(zeros);
}

static void what_is_merged_is_all_there_however_many_areas_it_fills(void **state)
{
	const uint32_t area = EXSTORE_MIN_CHUNK / 16;

	(void)state;
	for (uint32_t areas = 1; areas <= 3; areas++) {
		for (uint32_t chunks = areas * area - 1; chunks <= areas * area + 1; chunks++) {
			uint32_t used = 1 + chunks + (chunks + area - 1) / area; /* and the header */

			for (int again = 0; again < 2; again++) {
				one_merge(chunks, used, again);
				one_merge(chunks, used + 1, again);
				one_merge(chunks, used + 2, again);
			}
		}
	}
}

/* A merge that goes on before another snapshot is there would write to the origin behind its back. */
static void a_merge_that_was_cut_waits_for_the_other_snapshots(void **state)
{
	struct mute *m = *state;
	struct sim_disk *disks[2];
	struct snap_opts opts;
	char *images[2], data[2][EXSTORE_MIN_CHUNK] = { 0 };
	struct snap_info info;

	snap_opts_default(&opts);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(make_store(m, &disks[i], true), i);
		memset(m->data, 'a' + i, sizeof(m->data));
		submit_write(m);
		assert_true(ends_until(m, deadline()));
	}
	assert_int_equal(snap_merge(m->snap, 0, deadline()), 0);
	for (int i = 0; i < 2; i++) {
		images[i] = malloc(disks[i]->size);
		memcpy(images[i], disks[i]->now, disks[i]->size);
	}
	assert_int_equal(snap_close(m->snap, deadline()), 0);
	assert_int_equal(snap_open(m->sim.loop, m->copy, m->origin, &opts, &m->snap), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(
			snap_attach(m->snap, sim_disk(&m->sim, 2 * CHUNKS * EXSTORE_MIN_CHUNK, images[i]), deadline()),
			i);
	for (int i = 0; i < 100; i++)
		assert_int_equal(snap_run(m->snap, clock_ns()), 0);
	assert_int_equal(snap_store_info(m->snap, 0, &info), 0);
	assert_true(info.merging);
	assert_int_equal(snap_create(m->snap, NULL, &(struct snap_store_opts){ 0 }, deadline()), -EBUSY);
	assert_int_equal(read_all(m->snap, SNAP_ORIGIN, EXSTORE_MIN_CHUNK, data[0]), 0);
	assert_memory_equal(data[0], data[1], EXSTORE_MIN_CHUNK);
	struct target *second = sim_disk(&m->sim, 2 * CHUNKS * EXSTORE_MIN_CHUNK, images[0]);

	assert_int_equal(snap_attach(m->snap, second, deadline()), -EBUSY);
	target_close(second);
	snap_resume_merge(m->snap);
	while (!snap_idle(m->snap))
		assert_int_equal(snap_run(m->snap, deadline()), 0);
	assert_int_equal(snap_store_info(m->snap, 0, &info), -ENOENT);
	assert_int_equal(read_all(m->snap, SNAP_ORIGIN, EXSTORE_MIN_CHUNK, data[0]), 0);
	assert_memory_equal(data[0], data[1], EXSTORE_MIN_CHUNK);
	memset(data[1], 'a', EXSTORE_MIN_CHUNK);
	assert_int_equal(read_all(m->snap, 1, EXSTORE_MIN_CHUNK, data[0]), 0);
	assert_memory_equal(data[0], data[1], EXSTORE_MIN_CHUNK);
	for (int i = 0; i < 2; i++)
		free(images[i]);
}

/* Its header said that it was valid, and could not be made to say anything else. */
static void a_store_that_does_not_know_that_it_is_invalid_is_counted(void **state)
{
	struct mute *m = *state;
	struct snap_counters counters;
	struct sim_disk *disk;

	assert_int_equal(make_store(m, &disk, true), 0);
	disk->fail_writes = -EIO;
	submit_write(m);
	assert_true(ends_until(m, deadline()));
	assert_int_equal(m->write.r.err, 0);
	snap_read_counters(m->snap, &counters);
	assert_int_equal(counters.invalidated, 1);
	assert_int_equal(counters.unmarked, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_done_in_any_order_is_what_the_model_says_also_after_a_power_cut),
		cmocka_unit_test_setup_teardown(a_merge_that_was_cut_waits_for_the_other_snapshots, mute_setup,
						mute_teardown),
		cmocka_unit_test(what_is_merged_is_all_there_however_many_areas_it_fills),
		cmocka_unit_test_setup_teardown(a_store_that_does_not_answer_stays_invalid_until_it_is_deleted,
						mute_setup, mute_teardown),
		cmocka_unit_test_setup_teardown(writes_wait_for_a_deletion_that_goes_on, mute_setup, mute_teardown),
		cmocka_unit_test_setup_teardown(a_deletion_that_cannot_be_written_leaves_the_snapshot, mute_setup,
						mute_teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_taken_out_of_a_store_can_be_read_but_not_written,
						mute_setup, mute_teardown),
		cmocka_unit_test_setup_teardown(a_store_that_does_not_know_that_it_is_invalid_is_counted, mute_setup,
						mute_teardown),
		cmocka_unit_test_setup_teardown(an_origin_that_does_not_answer_gets_no_snapshot_yet, mute_setup,
						mute_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
