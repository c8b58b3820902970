// SPDX-License-Identifier: MIT
/* Threads that write to one origin with a snapshot, bounded by the gate or by the semaphore that it replaced. */
#include "base/clock.h"
#include "engine/front.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK	   4096U
#define CHUNKS	   512U
#define BYTES	   (CHUNKS * CHUNK)
#define SPARE	   (1U << 20)
#define WRITERS	   4U
#define DEADLINE_S 60
#define STUCK_MS   300
#define ROUND_MS   20

struct origin {
	struct io_loop *loop;
	struct copy_client *copy;
	struct target *target;
	struct snap *snap;
	struct front *front;
	char dir[64];
	_Atomic unsigned writing;
};

struct writer {
	struct origin *origin;
	unsigned number;
	pthread_t pthread;
	int err; /* the first */
};

static const char *path_of(const struct origin *o, const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", o->dir, name);
	return path;
}

static void make_file(const struct origin *o, const char *name, uint64_t size, int fill)
{
	int fd = open(path_of(o, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	static char data[CHUNK];

	memset(data, fill, sizeof(data));
	for (uint64_t at = 0; at < size; at += sizeof(data))
		assert_int_equal(pwrite(fd, data, sizeof(data), (off_t)at), sizeof(data));
	close(fd);
}

static void begin(struct origin *o, const struct front_opts *front, uint32_t cow_threshold)
{
	const struct snap_store_opts how = { .persistent = true, .name = "before" };
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;
	struct target *store;
	struct snap_opts opts;

	memset(o, 0, sizeof(*o));
	snprintf(o->dir, sizeof(o->dir), "%s", t_dir());
	make_file(o, "origin", BYTES, 'o');
	make_file(o, "store", BYTES + SPARE, 0);
	assert_int_equal(io_loop_open(&(struct io_opts){ 0 }, &o->loop), 0);
	assert_int_equal(copy_client_open(o->loop, &(struct copy_opts){ .staging_bytes = 4 << 20 }, &o->copy), 0);
	assert_int_equal(target_open(o->loop, path_of(o, "origin"), TARGET_WRITE, TARGET_AUTO, &o->target), 0);
	assert_int_equal(target_open(o->loop, path_of(o, "store"), TARGET_WRITE, TARGET_AUTO, &store), 0);
	snap_opts_default(&opts);
	opts.cow_threshold = cow_threshold;
	opts.durable = false;
	assert_int_equal(snap_open(o->loop, o->copy, o->target, &opts, &o->snap), 0);
	assert_int_equal(snap_create(o->snap, store, &how, until), 0);
	assert_int_equal(front_open(o->loop, o->snap, front, &o->front), 0);
}

static void read_ended(struct snap_req *r)
{
	*(bool *)r->owner = true;
}

/* What is there, through the engine. */
static void read_all(struct origin *o, int store, char *data)
{
	bool done = false;
	struct snap_req r = {
		.op = IO_READ, .store = store, .data = data, .len = BYTES, .done = read_ended, .owner = &done
	};
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;

	snap_submit(o->snap, &r);
	while (!done) {
		assert_int_equal(snap_run(o->snap, until), 0);
		assert_true(clock_ns() < until);
	}
	assert_int_equal(r.err, 0);
}

static void end(struct origin *o)
{
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;

	assert_int_equal(snap_close(o->snap, until), 0);
	target_close(o->target);
	copy_client_close(o->copy);
	io_loop_close(o->loop);
	front_close(o->front);
	t_remove(o->dir);
}

/* Every WRITERS-th chunk, until nobody goes on: each time would take a deadline. */
static void *write_chunks(void *arg)
{
	struct writer *w = arg;
	char *data = aligned_alloc(CHUNK, CHUNK);

	memset(data, 'a' + (int)w->number, CHUNK);
	for (unsigned i = w->number; i < CHUNKS && !w->err; i += WRITERS)
		w->err = front_write(w->origin->front, (uint64_t)i * CHUNK, data, CHUNK);
	free(data);
	w->origin->writing--;
	return NULL;
}

static unsigned write_all(struct origin *o)
{
	struct writer w[WRITERS] = { 0 };
	unsigned deadlocks = 0;
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;

	o->writing = WRITERS;
	for (unsigned i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){ .origin = o, .number = i };
		assert_int_equal(pthread_create(&w[i].pthread, NULL, write_chunks, &w[i]), 0);
	}
	while (o->writing && clock_ns() < until)
		assert_int_equal(front_run(o->front, clock_ns() + ROUND_MS * NS_PER_MS), 0);
	assert_int_equal(o->writing, 0);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(w[i].pthread, NULL);
		assert_true(!w[i].err || w[i].err == -EDEADLK);
		deadlocks += w[i].err != 0;
	}
	return deadlocks;
}

static void expect_data(struct origin *o)
{
	char *data = aligned_alloc(CHUNK, BYTES);

	read_all(o, 0, data);
	for (unsigned i = 0; i < BYTES; i++)
		assert_int_equal(data[i], 'o');
	read_all(o, SNAP_ORIGIN, data);
	for (unsigned i = 0; i < CHUNKS; i++)
		assert_int_equal(data[i * CHUNK], 'a' + (int)(i % WRITERS));
	free(data);
}

static void threads_write_and_the_snapshot_keeps_what_was_there(void **state)
{
	struct origin o;
	struct snap_counters c;

	(void)state;
	begin(&o, &(struct front_opts){ .bound = FRONT_GATE }, 1);
	assert_int_equal(write_all(&o), 0);
	snap_read_counters(o.snap, &c);
	assert_true(c.gate_waits > 0 && c.in_progress_peak <= 2);
	expect_data(&o);
	end(&o);
}

static void the_semaphore_deadlocks_and_its_deadline_ends_that(void **state)
{
	const struct front_opts semaphore = { .bound = FRONT_SEMAPHORE, .places = 1, .stuck_ms = STUCK_MS };
	struct front_counters c;
	struct origin o;
	unsigned deadlocks;

	(void)state;
	begin(&o, &semaphore, SNAP_UNLIMITED);
	deadlocks = write_all(&o);
	front_read_counters(o.front, &c);
	assert_true(deadlocks > 0 && c.deadlocks == deadlocks);
	assert_true(c.waits >= deadlocks && c.wait_ns >= deadlocks * STUCK_MS * NS_PER_MS);
	end(&o);
}

static void a_semaphore_with_room_for_all_does_not(void **state)
{
	const struct front_opts semaphore = { .bound = FRONT_SEMAPHORE, .places = WRITERS, .stuck_ms = STUCK_MS };
	struct front_counters c;
	struct origin o;

	(void)state;
	begin(&o, &semaphore, SNAP_UNLIMITED);
	assert_int_equal(write_all(&o), 0);
	front_read_counters(o.front, &c);
	assert_int_equal(c.deadlocks, 0);
	assert_int_equal(c.writes, CHUNKS);
	expect_data(&o);
	end(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_write_and_the_snapshot_keeps_what_was_there),
		cmocka_unit_test(the_semaphore_deadlocks_and_its_deadline_ends_that),
		cmocka_unit_test(a_semaphore_with_room_for_all_does_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
