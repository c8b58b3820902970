// SPDX-License-Identifier: MIT
/* Copy jobs by themselves: how far callbacks run, what the throttle and the cap on memory hold back, who is told what
 * went wrong, and faults at each transfer there is. */
#include "engine_sim.h"

#include "base/clock.h"
#include "engine/copy.h"

#define DEADLINE_S  20
#define SUBJOB_KIB  64U
#define SUBJOB	    (SUBJOB_KIB << 10)
#define SOURCE_SIZE (24 * SUBJOB)
#define DESTS	    2

struct rig {
	struct sim sim;
	struct copy_client *copy;
	struct target *source, *dests[DESTS];
	/* The transfer, counted from 0, that comes to this; UINT_MAX: none. */
	unsigned transfers, fault_at;
	int64_t fault_is;
	const struct target *fault_of; /* only its transfers are counted; NULL: all */
	bool fired;
	/* Reads, in the order in which they begin. */
	uint64_t reads[64];
	unsigned n_reads;
};

static int64_t deadline(void)
{
	return clock_ns() + DEADLINE_S * NS_PER_S;
}

static int64_t fault(void *arg, const struct io *io, uint32_t len)
{
	struct rig *r = arg;

	if (io->op == IO_READ && r->n_reads < 64)
		r->reads[r->n_reads++] = io->offset;
	if ((r->fault_of && io->target != r->fault_of) || r->transfers++ != r->fault_at)
		return len;
	r->fired = true;
	return r->fault_is;
}

static void set_up(struct rig *r, struct copy_opts opts)
{
	char *holds = malloc(SOURCE_SIZE);

	assert_non_null(holds);
	memset(r, 0, sizeof(*r));
	r->fault_at = UINT_MAX;
	sim_open(&r->sim, 1, fault, r);
	opts.subjob_kib = opts.subjob_kib ? opts.subjob_kib : SUBJOB_KIB;
	assert_int_equal(copy_client_open(r->sim.loop, &opts, &r->copy), 0);
	for (uint32_t i = 0; i < SOURCE_SIZE; i += sizeof(i))
		memcpy(holds + i, &i, sizeof(i));
	r->source = sim_disk(&r->sim, SOURCE_SIZE, holds);
	for (int i = 0; i < DESTS; i++)
		r->dests[i] = sim_disk(&r->sim, SOURCE_SIZE, NULL);
	free(holds);
}

static void take_down(struct rig *r)
{
	/* It asserts that nothing is left in any list. */
	copy_client_close(r->copy);
	assert_int_equal(io_pending(r->sim.loop), 0);
	target_close(r->source);
	for (int i = 0; i < DESTS; i++)
		target_close(r->dests[i]);
	sim_close(&r->sim);
}

static void told(struct copy_job *job)
{
	++*(unsigned *)job->owner;
}

static void step(struct rig *r)
{
	bool more = copy_work(r->copy);

	assert_true(io_run(r->sim.loop, more ? 0 : deadline()) >= 0);
}

static void run_until(struct rig *r, const unsigned *n, unsigned wanted)
{
	int64_t until = deadline();

	while (*n < wanted) {
		step(r);
		assert_true(clock_ns() < until);
	}
	assert_int_equal(*n, wanted);
}

static struct copy_counters counters(const struct rig *r)
{
	struct copy_counters c;

	copy_read_counters(r->copy, &c);
	return c;
}

/* From the same place of the source to all destinations. */
static struct copy_job job_of(const struct rig *r, uint64_t offset, uint64_t len, unsigned *ended)
{
	struct copy_job job = {
		.source = r->source, .offset = offset, .len = len, .n_dests = DESTS, .done = told, .owner = ended
	};

	for (int i = 0; i < DESTS; i++)
		job.dests[i] = (struct copy_dest){ r->dests[i], offset };
	return job;
}

static const char *now(const struct target *t)
{
	return ((const struct sim_disk *)t->own)->now;
}

static void mute(struct target *t, bool is)
{
	((struct sim_disk *)t->own)->mute = is;
}

static bool is_copied(const struct rig *r, int dest, uint64_t offset, uint64_t len)
{
	return !memcmp(now(r->dests[dest]) + offset, now(r->source) + offset, len);
}

/* --- Callbacks that make callbacks --- */

struct chain {
	struct copy_job job;
	struct copy_client *copy;
	unsigned left, called;
};

static void call_again(struct copy_job *job)
{
	struct chain *c = job->owner;

	c->called++;
	if (--c->left)
		copy_do_callback(c->copy, job);
}

static void begin_chain(struct rig *r, struct chain *c, unsigned links)
{
	*c = (struct chain){ .copy = r->copy, .left = links };
	c->job = (struct copy_job){ .done = call_again, .owner = c };
	copy_submit(r->copy, &c->job);
}

static void end_chain(struct rig *r, struct chain *c)
{
	run_until(r, &c->called, c->called + c->left);
}

static void without_the_split_a_run_is_as_long_as_what_follows_from_it(void **state)
{
	(void)state;
	for (unsigned links = 10; links <= 10000; links *= 10) {
		struct copy_job job;
		struct chain chain;
		unsigned ended = 0;
		struct rig r;

		set_up(&r, (struct copy_opts){ .no_callback_split = true, .staging_bytes = SUBJOB });
		job = job_of(&r, 0, SUBJOB, &ended);
		begin_chain(&r, &chain, links);
		copy_submit(r.copy, &job);
		copy_work(r.copy);
		assert_int_equal(counters(&r).run_max, links);
		/* Only now has the copy its turn. */
		assert_int_equal(chain.left, 0);
		run_until(&r, &ended, 1);
		take_down(&r);
	}
}

static void with_the_split_copies_have_their_turn_after_each_callback(void **state)
{
	struct copy_job job;
	struct chain chain;
	unsigned ended = 0, called;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = SUBJOB });
	job = job_of(&r, 0, SUBJOB, &ended);
	begin_chain(&r, &chain, UINT_MAX);
	copy_submit(r.copy, &job);
	run_until(&r, &ended, 1);
	/* The chain goes on for ever, and nobody waited for that. */
	called = chain.called;
	assert_true(called > 0);
	assert_true(copy_work(r.copy));
	assert_int_equal(chain.called, called + 1);
	/* In a run with it was at the most the copy that ended. */
	assert_in_range(counters(&r).run_max, 1, 2);
	chain.left = 1;
	end_chain(&r, &chain);
	take_down(&r);
}

static void a_job_without_anything_to_copy_is_told_of_in_turn(void **state)
{
	unsigned ended = 0;
	struct copy_job nowhere, nothing;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = SUBJOB });
	nowhere = job_of(&r, 0, SUBJOB, &ended);
	nowhere.n_dests = 0;
	nothing = job_of(&r, 0, 0, &ended);
	copy_submit(r.copy, &nowhere);
	copy_submit(r.copy, &nothing);
	assert_int_equal(ended, 0);
	assert_false(copy_client_idle(r.copy));
	assert_true(copy_work(r.copy));
	assert_int_equal(ended, 2);
	assert_int_equal(counters(&r).reads, 0);
	assert_true(copy_client_idle(r.copy));
	take_down(&r);
}

/* --- The throttle --- */

#define SLEEP_MS   100 /* of drivers/md/dm-kcopyd.c, as MAX_SLEEPS */
#define MAX_SLEEPS 10

/* One copy that does not end, so that there is I/O in flight for more than half of the time since *begun. */
static void keep_busy(struct rig *r, struct copy_job *job, unsigned *ended, int64_t begun)
{
	*job = job_of(r, 0, SUBJOB, ended);
	mute(r->source, true);
	copy_submit(r->copy, job);
	step(r);
	clock_sleep_ms(2 * (clock_ns() - begun) / NS_PER_MS + 1);
}

static void a_part_sleeps_ten_times_at_the_most_while_there_is_always_io(void **state)
{
	int64_t begun = clock_ns(), until = deadline();
	struct copy_job busy, job;
	unsigned ended = 0;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .throttle_pct = 50, .staging_bytes = 4 * SUBJOB });
	keep_busy(&r, &busy, &ended, begun);
	job = job_of(&r, SUBJOB, SUBJOB, &ended);
	copy_submit(r.copy, &job);
	begun = clock_ns();
	while (counters(&r).reads < 2) {
		step(&r);
		assert_true(clock_ns() < until);
	}
	assert_int_equal(counters(&r).throttle_sleeps, MAX_SLEEPS);
	/* No sleep is shorter than it should be. */
	assert_true(clock_ns() - begun >= MAX_SLEEPS * SLEEP_MS * NS_PER_MS);
	mute(r.source, false);
	/* Let go while it goes on: what sleeps does so to the end of that sleep, and no more begin. */
	copy_set_throttle(r.copy, 100);
	run_until(&r, &ended, 2);
	assert_int_equal(counters(&r).throttle_sleeps, MAX_SLEEPS);
	assert_true(is_copied(&r, 0, 0, 2 * SUBJOB));
	take_down(&r);
}

static void who_sleeps_says_until_when(void **state)
{
	int64_t begun = clock_ns(), next;
	struct copy_job busy, job;
	unsigned ended = 0;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .throttle_pct = 50, .staging_bytes = 4 * SUBJOB });
	assert_int_equal(copy_next_ns(r.copy), INT64_MAX);
	keep_busy(&r, &busy, &ended, begun);
	job = job_of(&r, SUBJOB, SUBJOB, &ended);
	begun = clock_ns();
	copy_submit(r.copy, &job);
	copy_work(r.copy);
	next = copy_next_ns(r.copy);
	assert_in_range(next, begun + SLEEP_MS * NS_PER_MS, clock_ns() + SLEEP_MS * NS_PER_MS);
	copy_set_throttle(r.copy, 100);
	mute(r.source, false);
	run_until(&r, &ended, 2);
	assert_true(clock_ns() >= next);
	assert_int_equal(copy_next_ns(r.copy), INT64_MAX);
	take_down(&r);
}

/* So much of the time there was none that a copy of less than 20 s is below 99 %. */
static void with_little_io_nothing_sleeps(void **state)
{
	unsigned ended = 0;
	struct copy_job job;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .throttle_pct = 99, .staging_bytes = SUBJOB });
	clock_sleep_ms(210);
	job = job_of(&r, 0, SOURCE_SIZE, &ended);
	copy_submit(r.copy, &job);
	run_until(&r, &ended, 1);
	assert_int_equal(counters(&r).throttle_sleeps, 0);
	take_down(&r);
}

static void without_a_throttle_always_io_is_no_reason(void **state)
{
	int64_t begun = clock_ns();
	struct copy_job busy, job;
	unsigned ended = 0;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = 4 * SUBJOB });
	keep_busy(&r, &busy, &ended, begun);
	job = job_of(&r, SUBJOB, SUBJOB, &ended);
	copy_submit(r.copy, &job);
	copy_work(r.copy);
	assert_int_equal(counters(&r).reads, 2);
	mute(r.source, false);
	run_until(&r, &ended, 2);
	assert_int_equal(counters(&r).throttle_sleeps, 0);
	take_down(&r);
}

/* --- The cap on memory --- */

#define MANY 20

static void jobs_wait_for_memory_and_take_no_more_than_there_is(void **state)
{
	struct copy_job jobs[MANY];
	unsigned ended = 0;
	struct copy_counters c;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = 4 * SUBJOB });
	mute(r.source, true);
	for (unsigned i = 0; i < MANY; i++) {
		jobs[i] = job_of(&r, i * SUBJOB, SUBJOB, &ended);
		copy_submit(r.copy, &jobs[i]);
	}
	for (int i = 0; i < 10; i++)
		step(&r);
	c = counters(&r);
	assert_int_equal(c.jobs, MANY);
	assert_int_equal(c.reads, 4);
	assert_int_equal(c.parts, 4);
	assert_int_equal(c.from_reserve, 1);
	assert_true(c.waits > 0);
	mute(r.source, false);
	run_until(&r, &ended, MANY);
	c = counters(&r);
	assert_int_equal(c.parts_peak, 4);
	assert_int_equal(c.parts, 0);
	assert_int_equal(c.staging_bytes_peak, 4 * SUBJOB);
	for (int i = 0; i < DESTS; i++)
		assert_true(is_copied(&r, i, 0, MANY * SUBJOB));
	take_down(&r);
}

/* The mitigation's `off`: more than the 64 MiB that are there anyway. */
static void without_a_cap_memory_is_as_much_as_the_jobs_ask_for(void **state)
{
	struct copy_job jobs[80];
	unsigned ended = 0;
	struct copy_counters c;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = UINT64_MAX, .subjob_kib = 1024 });
	mute(r.source, true);
	for (unsigned i = 0; i < 80; i++) {
		jobs[i] = job_of(&r, 0, 1 << 20, &ended);
		copy_submit(r.copy, &jobs[i]);
	}
	for (int i = 0; i < 10; i++)
		step(&r);
	c = counters(&r);
	assert_int_equal(c.parts, 80);
	assert_int_equal(c.waits, 0);
	assert_int_equal(c.staging_bytes_peak, 80ULL << 20);
	mute(r.source, false);
	run_until(&r, &ended, 80);
	take_down(&r);
}

/* What waits goes back to the head: the first that came is read to its end before the next begins. */
static void who_waits_for_memory_keeps_the_turn(void **state)
{
	struct copy_job jobs[3];
	unsigned ended = 0;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = SUBJOB });
	for (unsigned i = 0; i < 3; i++) {
		jobs[i] = job_of(&r, i * 4 * SUBJOB, 4 * SUBJOB, &ended);
		copy_submit(r.copy, &jobs[i]);
	}
	run_until(&r, &ended, 3);
	assert_int_equal(r.n_reads, 12);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(r.reads[i], i * SUBJOB);
	take_down(&r);
}

static void a_job_has_no_more_parts_at_a_time_than_it_may(void **state)
{
	unsigned ended = 0;
	struct copy_job job;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = 16 * SUBJOB, .split = 3 });
	mute(r.source, true);
	job = job_of(&r, 0, 12 * SUBJOB, &ended);
	copy_submit(r.copy, &job);
	for (int i = 0; i < 10; i++)
		step(&r);
	assert_int_equal(counters(&r).parts, 3);
	mute(r.source, false);
	run_until(&r, &ended, 1);
	assert_int_equal(counters(&r).parts_peak, 3);
	assert_true(is_copied(&r, 1, 0, 12 * SUBJOB));
	take_down(&r);
}

static void an_impossible_size_of_sub_jobs_is_refused(void **state)
{
	static const unsigned impossible[] = { 1, 2, 3, 48, 2048 };
	struct copy_client *c;
	struct sim sim;

	(void)state;
	sim_open(&sim, 1, NULL, NULL);
	for (size_t i = 0; i < sizeof(impossible) / sizeof(impossible[0]); i++)
		assert_int_equal(copy_client_open(sim.loop, &(struct copy_opts){ .subjob_kib = impossible[i] }, &c),
				 -EINVAL);
	sim_close(&sim);
}

/* --- What went wrong --- */

static void a_read_that_fails_reaches_no_destination(void **state)
{
	unsigned ended = 0;
	struct copy_job job;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = SUBJOB });
	r.fault_of = r.source;
	r.fault_at = 0;
	r.fault_is = -EIO;
	job = job_of(&r, 0, 4 * SUBJOB, &ended);
	copy_submit(r.copy, &job);
	run_until(&r, &ended, 1);
	assert_int_equal(job.read_err, -EIO);
	for (int i = 0; i < DESTS; i++) {
		assert_int_equal(job.write_err[i], 0);
		for (uint32_t b = 0; b < SOURCE_SIZE; b++)
			assert_int_equal(now(r.dests[i])[b], 0);
	}
	/* The rest of it was not even tried. */
	assert_int_equal(counters(&r).reads, 1);
	assert_int_equal(counters(&r).writes, 0);
	take_down(&r);
}

static void a_write_that_fails_is_told_of_its_destination_alone(void **state)
{
	static const int errs[] = { -EIO, -ENOSPC, -EROFS };

	(void)state;
	for (size_t e = 0; e < sizeof(errs) / sizeof(errs[0]); e++)
		for (int bad = 0; bad < DESTS; bad++) {
			unsigned ended = 0;
			struct copy_job job;
			struct rig r;

			set_up(&r, (struct copy_opts){ .staging_bytes = 4 * SUBJOB });
			r.fault_of = r.dests[bad];
			r.fault_at = 1;
			r.fault_is = errs[e];
			job = job_of(&r, 0, 4 * SUBJOB, &ended);
			copy_submit(r.copy, &job);
			run_until(&r, &ended, 1);
			assert_int_equal(job.read_err, 0);
			assert_int_equal(job.write_err[bad], errs[e]);
			assert_int_equal(job.write_err[!bad], 0);
			assert_true(is_copied(&r, !bad, 0, 4 * SUBJOB));
			assert_int_equal(counters(&r).bytes, 7 * SUBJOB);
			take_down(&r);
		}
}

static void the_next_use_of_a_job_begins_without_the_errors_of_the_last(void **state)
{
	unsigned ended = 0;
	struct copy_job job;
	struct rig r;

	(void)state;
	set_up(&r, (struct copy_opts){ .staging_bytes = SUBJOB });
	((struct sim_disk *)r.dests[0]->own)->fail = -ENOSPC;
	job = job_of(&r, 0, SUBJOB, &ended);
	copy_submit(r.copy, &job);
	run_until(&r, &ended, 1);
	assert_int_equal(job.write_err[0], -ENOSPC);
	((struct sim_disk *)r.dests[0]->own)->fail = 0;
	copy_submit(r.copy, &job);
	run_until(&r, &ended, 2);
	assert_int_equal(job.write_err[0], 0);
	assert_true(is_copied(&r, 0, 0, SUBJOB));
	take_down(&r);
}

/* --- A fault at each transfer --- */

#define PIECES	    4
#define PIECE_BYTES 4096U
#define GATHER_TO   (16 * SUBJOB)

/* Two of them are neighbours. */
static const struct copy_piece pieces[PIECES] = { { 9 * SUBJOB, PIECE_BYTES },
						  { 9 * SUBJOB + PIECE_BYTES, PIECE_BYTES },
						  { 7 * SUBJOB, 2 * PIECE_BYTES },
						  { 12 * SUBJOB, PIECE_BYTES } };

struct both {
	struct copy_job whole, gather;
	unsigned ended;
};

static void copy_both(struct rig *r, struct both *b)
{
	b->ended = 0;
	b->whole = job_of(r, 0, 2 * SUBJOB + PIECE_BYTES, &b->ended);
	b->gather = job_of(r, GATHER_TO, 0, &b->ended);
	b->gather.pieces = pieces;
	b->gather.n_pieces = PIECES;
	copy_submit(r->copy, &b->whole);
	copy_submit(r->copy, &b->gather);
	run_until(r, &b->ended, 2);
}

static bool is_gathered(const struct rig *r, int dest)
{
	const char *at = now(r->dests[dest]) + GATHER_TO;

	for (unsigned i = 0; i < PIECES; at += pieces[i++].len)
		if (memcmp(at, now(r->source) + pieces[i].offset, pieces[i].len))
			return false;
	return true;
}

static unsigned errors_of(const struct copy_job *job, int err)
{
	unsigned n = 0;

	for (int i = -1; i < DESTS; i++) {
		int e = i < 0 ? job->read_err : job->write_err[i];

		assert_true(!e || e == err);
		n += e != 0;
	}
	return n;
}

/* Without an error to its name, a destination has all of it. */
static void expect_copied(const struct rig *r, const struct both *b)
{
	for (int i = 0; i < DESTS; i++) {
		if (!b->whole.read_err && !b->whole.write_err[i])
			assert_true(is_copied(r, i, 0, b->whole.len));
		if (!b->gather.read_err && !b->gather.write_err[i])
			assert_true(is_gathered(r, i));
	}
}

/* How many transfers there are to have a fault in. */
static unsigned fault_at_each(int64_t is, bool is_survived)
{
	for (unsigned at = 0;; at++) {
		struct both b;
		struct rig r;

		set_up(&r, (struct copy_opts){ .staging_bytes = 2 * SUBJOB });
		r.fault_at = at;
		r.fault_is = is;
		copy_both(&r, &b);
		assert_int_equal(errors_of(&b.whole, (int)is) + errors_of(&b.gather, (int)is),
				 r.fired && !is_survived ? 1 : 0);
		expect_copied(&r, &b);
		take_down(&r);
		if (!r.fired)
			return at;
	}
}

static void an_error_at_any_transfer_is_told_once_and_of_the_right_one(void **state)
{
	(void)state;
	/* 3 parts and 3 runs of pieces are read; 3 parts and what was gathered written, to each destination. */
	assert_int_equal(fault_at_each(-EIO, false), 6 + 4 * DESTS);
	assert_int_equal(fault_at_each(-ENOSPC, false), 6 + 4 * DESTS);
}

static void a_shortage_at_any_transfer_is_survived(void **state)
{
	(void)state;
	/* The one that is tried again counts too, and ends the search one later. */
	assert_int_equal(fault_at_each(-EINTR, true), 6 + 4 * DESTS);
	assert_int_equal(fault_at_each(-EAGAIN, true), 6 + 4 * DESTS);
}

static void a_short_transfer_at_any_place_goes_on_where_it_stopped(void **state)
{
	(void)state;
	assert_int_equal(fault_at_each(1, true), 6 + 4 * DESTS);
	assert_int_equal(fault_at_each(SIM_SECTOR, true), 6 + 4 * DESTS);
	assert_int_equal(fault_at_each(SIM_SECTOR + 1, true), 6 + 4 * DESTS);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_the_split_a_run_is_as_long_as_what_follows_from_it),
		cmocka_unit_test(with_the_split_copies_have_their_turn_after_each_callback),
		cmocka_unit_test(a_job_without_anything_to_copy_is_told_of_in_turn),
		cmocka_unit_test(a_part_sleeps_ten_times_at_the_most_while_there_is_always_io),
		cmocka_unit_test(who_sleeps_says_until_when),
		cmocka_unit_test(with_little_io_nothing_sleeps),
		cmocka_unit_test(without_a_throttle_always_io_is_no_reason),
		cmocka_unit_test(jobs_wait_for_memory_and_take_no_more_than_there_is),
		cmocka_unit_test(without_a_cap_memory_is_as_much_as_the_jobs_ask_for),
		cmocka_unit_test(who_waits_for_memory_keeps_the_turn),
		cmocka_unit_test(a_job_has_no_more_parts_at_a_time_than_it_may),
		cmocka_unit_test(an_impossible_size_of_sub_jobs_is_refused),
		cmocka_unit_test(a_read_that_fails_reaches_no_destination),
		cmocka_unit_test(a_write_that_fails_is_told_of_its_destination_alone),
		cmocka_unit_test(the_next_use_of_a_job_begins_without_the_errors_of_the_last),
		cmocka_unit_test(an_error_at_any_transfer_is_told_once_and_of_the_right_one),
		cmocka_unit_test(a_shortage_at_any_transfer_is_survived),
		cmocka_unit_test(a_short_transfer_at_any_place_goes_on_where_it_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
