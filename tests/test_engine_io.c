// SPDX-License-Identifier: MIT
/* Real files through each back end that the machine has for them, with and without faults. */
#include "base/clock.h"
#include "engine/snap.h"
#include "engine_sim.h"

#include <fcntl.h>
#include <sys/stat.h>

#define BYTES	   (3U << 20)
#define ODD	   1234 /* not a multiple of any block */
#define DEADLINE_S 20

struct files {
	struct io_loop *loop;
	struct copy_client *copy;
	char dir[64];
	uint64_t random;
	unsigned faults;
};

static int64_t fault(void *arg, const struct io *io, uint32_t len)
{
	struct files *f = arg;

	(void)io;
	f->faults++;
	switch (sim_random(&f->random) % 5) {
	case 0:
		return -EINTR;
	case 1:
		return -EAGAIN;
	case 2:
		return len > 1 ? (int64_t)(1 + sim_random(&f->random) % (len - 1)) : len;
	default:
		return len;
	}
}

static void begin(struct files *f, bool no_uring, bool faults)
{
	struct io_opts opts = { .no_uring = no_uring, .fault = faults ? fault : NULL, .fault_arg = f };

	memset(f, 0, sizeof(*f));
	snprintf(f->dir, sizeof(f->dir), "%s", t_dir());
	assert_int_equal(io_loop_open(&opts, &f->loop), 0);
	assert_int_equal(
		copy_client_open(f->loop, &(struct copy_opts){ .staging_bytes = 1 << 20, .subjob_kib = 64 }, &f->copy),
		0);
}

static void end(struct files *f)
{
	copy_client_close(f->copy);
	io_loop_close(f->loop);
	t_remove(f->dir);
}

static const char *path_of(const struct files *f, const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	return path;
}

static void make_file(const struct files *f, const char *name, uint32_t size, char *data)
{
	uint64_t random = size;
	int fd = open(path_of(f, name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	for (uint32_t i = 0; i < size; i++)
		data[i] = (char)sim_random(&random);
	assert_int_equal(write(fd, data, size), size);
	close(fd);
}

static void told(struct copy_job *job)
{
	*(bool *)job->owner = true;
}

static void copy_all(struct files *f, struct target *from, struct target *to, uint64_t len)
{
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;
	bool ended = false;
	struct copy_job job = {
		.source = from, .len = len, .n_dests = 1, .dests = { { to, 0 } }, .done = told, .owner = &ended
	};

	copy_submit(f->copy, &job);
	while (!ended) {
		bool more = copy_work(f->copy);

		assert_true(io_run(f->loop, more ? 0 : until) >= 0);
		assert_true(clock_ns() < until);
	}
	assert_int_equal(job.read_err, 0);
	assert_int_equal(job.write_err[0], 0);
}

static void expect_file(const struct files *f, const char *name, const char *data, uint32_t size)
{
	char *got = malloc(size);
	int fd = open(path_of(f, name), O_RDONLY);

	assert_non_null(got);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, got, size), size);
	assert_memory_equal(got, data, size);
	close(fd);
	free(got);
}

/* The back end that `from` and `to` were given, by what was asked for. */
static void copy_files(struct files *f, enum target_back from_back, enum target_back to_back, uint32_t size)
{
	struct target *from, *to;
	char *data = malloc(size), *old = malloc(BYTES + 4096);
	uint64_t len;

	assert_true(data && old);
	make_file(f, "from", size, data);
	assert_int_equal(target_open(f->loop, path_of(f, "from"), TARGET_READ, from_back, &from), 0);
	make_file(f, "to", BYTES + 4096, old);
	assert_int_equal(target_open(f->loop, path_of(f, "to"), TARGET_WRITE, to_back, &to), 0);
	/* In whole blocks of both: what is beyond the end of the source is zero. */
	len = (size + 4095) & ~4095U;
	copy_all(f, from, to, len);
	if (to->back != TARGET_MAP)
		assert_int_equal(target_resize(to, size), 0);
	target_close(from);
	target_close(to);
	expect_file(f, "to", data, size);
	free(old);
	free(data);
}

static const enum target_back backs[] = { TARGET_AUTO, TARGET_SYNC, TARGET_MAP };

static void each_pair(bool no_uring, bool faults)
{
	for (size_t from = 0; from < 3; from++)
		for (size_t to = 0; to < 3; to++) {
			struct files f;

			begin(&f, no_uring, faults);
			copy_files(&f, backs[from], backs[to], BYTES);
			copy_files(&f, backs[from], backs[to], BYTES - ODD);
			/* From memory to memory there is no request. */
			if (faults && !(backs[from] == TARGET_MAP && backs[to] == TARGET_MAP))
				assert_true(f.faults > 0);
			end(&f);
		}
}

static void files_are_copied_between_all_back_ends(void **state)
{
	(void)state;
	each_pair(false, false);
}

static void also_without_a_ring(void **state)
{
	(void)state;
	each_pair(true, false);
}

static void short_transfers_and_shortages_are_survived(void **state)
{
	(void)state;
	each_pair(false, true);
}

/* --- A snapshot of one file in another --- */

#define CHUNK_BYTES 4096U
#define CHUNKS	    300		      /* more than an area of exceptions has */
#define SPARE	    (8 * CHUNK_BYTES) /* for the header and the areas */

static void req_told(struct snap_req *r)
{
	*(bool *)r->owner = true;
}

static void request(struct snap *snap, enum io_op op, int store, char *data, uint32_t len)
{
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;
	bool ended = false;
	struct snap_req r = { .op = op, .store = store, .data = data, .len = len, .done = req_told, .owner = &ended };

	snap_submit(snap, &r);
	while (!ended) {
		assert_int_equal(snap_run(snap, until), 0);
		/* Whoever waits although all is done comes here. */
		assert_true(clock_ns() < until);
	}
	assert_int_equal(r.err, 0);
}

static void snapshot_files(struct files *f, enum target_back origin_back, enum target_back store_back)
{
	const struct snap_store_opts how = { .persistent = true, .name = "before" };
	uint32_t len = CHUNKS * CHUNK_BYTES;
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;
	char *old = aligned_alloc(CHUNK_BYTES, len), *new = aligned_alloc(CHUNK_BYTES, len + SPARE);
	struct target *origin, *store;
	struct snap_opts opts;
	struct snap *snap;

	assert_true(old && new);
	snap_opts_default(&opts);
	opts.cow_threshold = 64;
	/* It held something else before. */
	make_file(f, "store", len + SPARE, new);
	make_file(f, "origin", len, old);
	assert_int_equal(target_open(f->loop, path_of(f, "origin"), TARGET_WRITE, origin_back, &origin), 0);
	assert_int_equal(target_open(f->loop, path_of(f, "store"), TARGET_WRITE, store_back, &store), 0);
	assert_int_equal(snap_open(f->loop, f->copy, origin, &opts, &snap), 0);
	assert_int_equal(snap_create(snap, store, &how, until), 0);
	memset(new, 7, len);
	request(snap, IO_WRITE, SNAP_ORIGIN, new, len);
	request(snap, IO_FLUSH, SNAP_ORIGIN, NULL, 0);
	request(snap, IO_READ, SNAP_ORIGIN, NULL, 0);
	assert_int_equal(snap_close(snap, until), 0);

	assert_int_equal(target_open(f->loop, path_of(f, "store"), TARGET_WRITE, store_back, &store), 0);
	assert_int_equal(snap_open(f->loop, f->copy, origin, &opts, &snap), 0);
	assert_int_equal(snap_attach(snap, store, until), 0);
	memset(new, 0, len);
	request(snap, IO_READ, 0, new, len);
	assert_memory_equal(new, old, len);
	request(snap, IO_READ, SNAP_ORIGIN, new, len);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(new[i], 7);
	assert_int_equal(snap_merge(snap, 0, until), 0);
	while (!snap_idle(snap))
		assert_int_equal(snap_run(snap, until), 0);
	request(snap, IO_READ, SNAP_ORIGIN, new, len);
	assert_memory_equal(new, old, len);
	assert_int_equal(snap_close(snap, until), 0);
	target_close(origin);
	expect_file(f, "origin", old, len);
	free(old);
	free(new);
}

static void snapshots_of_files_are_kept_reopened_and_merged(void **state)
{
	(void)state;
	for (int faults = 0; faults < 2; faults++)
		for (size_t origin = 0; origin < 3; origin++)
			for (size_t store = 0; store < 3; store++) {
				struct files f;

				begin(&f, false, faults);
				snapshot_files(&f, backs[origin], backs[store]);
				end(&f);
			}
}

static int64_t always_short(void *arg, const struct io *io, uint32_t len)
{
	(void)arg;
	(void)io;
	(void)len;
	return -EAGAIN;
}

static void was_told(struct io *io)
{
	*(bool *)io->owner = true;
}

static void a_shortage_that_does_not_pass_is_told(void **state)
{
	struct io_opts opts = { .fault = always_short };
	bool ended = false;
	char data[4096];
	struct io_loop *loop;
	struct target *t;
	struct io io = { .op = IO_READ, .data = data, .len = sizeof(data), .done = was_told, .owner = &ended };
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;

	(void)state;
	assert_int_equal(io_loop_open(&opts, &loop), 0);
	assert_int_equal(target_open(loop, "/proc/self/exe", TARGET_READ, TARGET_SYNC, &t), 0);
	io.target = t;
	io_start(loop, &io);
	while (!ended) {
		assert_true(io_run(loop, until) >= 0);
		assert_true(clock_ns() < until);
	}
	assert_int_equal(io.err, -EAGAIN);
	target_close(t);
	io_loop_close(loop);
}

static void count_it(struct io *io)
{
	*(unsigned *)io->owner += !io->err;
}

/* More than the ring takes, of several targets: each gets its turn again and again. */
static void read_much_of_three_files(enum target_back back)
{
	enum { FILES = 3, READS = 300 };
	static struct io ios[FILES * READS];
	char *data = aligned_alloc(4096, sizeof(ios) / sizeof(*ios) * 4096), *what = malloc(BYTES);
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;
	struct target *t[FILES];
	unsigned n = 0;
	struct files f;

	assert_true(data && what);
	begin(&f, false, false);
	make_file(&f, "file", BYTES, what);
	for (unsigned i = 0; i < FILES; i++)
		assert_int_equal(target_open(f.loop, path_of(&f, "file"), TARGET_READ, back, &t[i]), 0);
	for (unsigned i = 0; i < FILES * READS; i++) {
		ios[i] = (struct io){ .target = t[i % FILES],
				      .op = IO_READ,
				      .offset = i % (BYTES / 4096) * 4096,
				      .data = data + i * 4096,
				      .len = 4096,
				      .done = count_it,
				      .owner = &n };
		io_start(f.loop, &ios[i]);
	}
	alarm(DEADLINE_S); /* when it does not come back at all */
	while (n < FILES * READS) {
		assert_true(io_run(f.loop, until) >= 0);
		assert_true(clock_ns() < until);
	}
	alarm(0);
	for (unsigned i = 0; i < FILES * READS; i++)
		assert_memory_equal(ios[i].data, what + ios[i].offset, 4096);
	for (unsigned i = 0; i < FILES; i++)
		target_close(t[i]);
	end(&f);
	free(data);
	free(what);
}

static void more_than_the_ring_takes_has_its_turn(void **state)
{
	(void)state;
	read_much_of_three_files(TARGET_AUTO);
	read_much_of_three_files(TARGET_SYNC);
}

/* A FIFO's open would wait for a writer. */
static void what_is_no_file_is_refused_at_once(void **state)
{
	struct target *t;
	struct files f;

	(void)state;
	begin(&f, false, false);
	assert_int_equal(mkfifo(path_of(&f, "fifo"), 0600), 0);
	assert_int_equal(target_open(f.loop, path_of(&f, "fifo"), TARGET_READ, TARGET_AUTO, &t), -ENOTBLK);
	assert_int_equal(target_open(f.loop, f.dir, TARGET_READ, TARGET_AUTO, &t), -ENOTBLK);
	assert_int_equal(target_open(f.loop, "/dev/null", TARGET_READ, TARGET_AUTO, &t), -ENOTBLK);
	assert_int_equal(target_open(f.loop, path_of(&f, "none"), TARGET_READ, TARGET_AUTO, &t), -ENOENT);
	end(&f);
}

/* Which requests fail, and with what; the others do not. */
struct refusal {
	unsigned copies; /* by the kernel, that go well first */
	int copy_err, read_err;
	unsigned copied, reads;
};

static int64_t refuse(void *arg, const struct io *io, uint32_t len)
{
	struct refusal *r = arg;

	if (io->op == IO_COPY)
		return r->copied++ < r->copies ? (int64_t)len : r->copy_err;
	if (io->op == IO_READ && r->reads++ && r->read_err)
		return r->read_err;
	return len;
}

/* From one file to two others, in the page cache; the outcome of the read. */
static int copy_with(struct refusal *r, struct copy_counters *counters)
{
	struct io_opts opts = { .fault = refuse, .fault_arg = r };
	char *data = malloc(BYTES), *old = malloc(BYTES);
	struct target *from, *to[2];
	bool ended = false;
	struct files f;

	assert_true(data && old);
	snprintf(f.dir, sizeof(f.dir), "%s", t_dir());
	assert_int_equal(io_loop_open(&opts, &f.loop), 0);
	assert_int_equal(
		copy_client_open(f.loop, &(struct copy_opts){ .staging_bytes = 1 << 20, .subjob_kib = 64 }, &f.copy),
		0);
	make_file(&f, "from", BYTES, data);
	make_file(&f, "to", BYTES, old);
	make_file(&f, "to2", BYTES, old);
	assert_int_equal(target_open(f.loop, path_of(&f, "from"), TARGET_READ, TARGET_SYNC, &from), 0);
	assert_int_equal(target_open(f.loop, path_of(&f, "to"), TARGET_WRITE, TARGET_SYNC, &to[0]), 0);
	assert_int_equal(target_open(f.loop, path_of(&f, "to2"), TARGET_WRITE, TARGET_SYNC, &to[1]), 0);

	struct copy_job job = { .source = from,
				.len = BYTES,
				.n_dests = 2,
				.dests = { { to[0], 0 }, { to[1], 0 } },
				.done = told,
				.owner = &ended };

	copy_submit(f.copy, &job);
	while (!ended)
		assert_true(io_run(f.loop, copy_work(f.copy) ? 0 : clock_ns() + DEADLINE_S * NS_PER_S) >= 0);
	copy_read_counters(f.copy, counters);
	for (int i = 0; i < 2; i++)
		target_close(to[i]);
	target_close(from);
	if (!job.read_err) {
		assert_int_equal(job.write_err[0] | job.write_err[1], 0);
		expect_file(&f, "to", data, BYTES);
		expect_file(&f, "to2", data, BYTES);
	}
	end(&f);
	free(old);
	free(data);
	return job.read_err;
}

static void what_the_kernel_does_not_copy_is_read_and_written(void **state)
{
	struct refusal all = { .copies = UINT32_MAX }, none = { .copy_err = -EXDEV };
	struct refusal some = { .copies = 9, .copy_err = -EIO };
	struct refusal bad = { .copies = 9, .copy_err = -EIO, .read_err = -EIO };
	struct copy_counters c;

	(void)state;
	assert_int_equal(copy_with(&all, &c), 0);
	assert_int_equal(c.reads, 0);
	assert_int_equal(c.bytes, 2 * BYTES);
	assert_int_equal(copy_with(&none, &c), 0);
	assert_int_equal(c.reads, BYTES >> 16);
	assert_int_equal(c.bytes, 2 * BYTES);
	assert_int_equal(copy_with(&some, &c), 0);
	assert_true(c.reads > 0 && c.reads < BYTES >> 16);
	assert_int_equal(c.bytes, 2 * BYTES);
	/* Who failed is found by reading and writing. */
	assert_int_equal(copy_with(&bad, &c), -EIO);
}

static void make_one_in(const char *dir)
{
	char path[PATH_MAX];
	struct io_loop *loop;
	struct target *t, *again;

	snprintf(path, sizeof(path), "%s/headroom-test-%d", dir, (int)getpid());
	assert_int_equal(io_loop_open(NULL, &loop), 0);
	assert_int_equal(target_open(loop, path, TARGET_WRITE | TARGET_CREATE | TARGET_EXCLUSIVE, TARGET_AUTO, &t), 0);
	assert_int_equal(target_open(loop, path, TARGET_WRITE | TARGET_CREATE | TARGET_EXCLUSIVE, TARGET_AUTO, &again),
			 -EEXIST);
	target_close(t);
	io_loop_close(loop);
	assert_int_equal(unlink(path), 0);
}

/* Trying what a file can do must not find that it is there because we have made it. */
static void a_file_is_made_and_claimed_in_one(void **state)
{
	const char *dir = t_dir();

	(void)state;
	make_one_in(dir);
	if (access("/dev/shm", W_OK) == 0)
		make_one_in("/dev/shm");
	t_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_are_copied_between_all_back_ends),
		cmocka_unit_test(also_without_a_ring),
		cmocka_unit_test(short_transfers_and_shortages_are_survived),
		cmocka_unit_test(what_the_kernel_does_not_copy_is_read_and_written),
		cmocka_unit_test(snapshots_of_files_are_kept_reopened_and_merged),
		cmocka_unit_test(a_shortage_that_does_not_pass_is_told),
		cmocka_unit_test(more_than_the_ring_takes_has_its_turn),
		cmocka_unit_test(a_file_is_made_and_claimed_in_one),
		cmocka_unit_test(what_is_no_file_is_refused_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
