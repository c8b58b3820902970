// SPDX-License-Identifier: MIT
/* What `headroom copy` does with data and holes, where the destination is not empty, and when something fails. */
#include "base/clock.h"
#include "dev/loopdev.h"
#include "engine_sim.h"
#include "run/filecopy.h"

#include <fcntl.h>

#define SIZE	   (40U << 20)
#define DEADLINE_S 60

/* The stretches of data; between them are holes. */
static const struct stretch {
	uint32_t from, len;
} stretches[] = { { 0, 5000 }, { 3U << 20, 9U << 20 }, { 20U << 20, 1 }, { SIZE - 4097, 4097 } };

struct files {
	char dir[64];
	char *holds; /* what the source is */
	struct io_loop *loop;
	struct target *source, *dest;
	struct filecopy f;
	uint64_t bad_from; /* reads of the source from here on fail */
};

static int64_t fault(void *arg, const struct io *io, uint32_t len)
{
	const struct files *t = arg;

	return io->target == t->source && io->op == IO_READ && io->offset + len > t->bad_from ? -EIO : (int64_t)len;
}

static const char *path_of(const struct files *t, const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", t->dir, name);
	return path;
}

static void make_source(struct files *t)
{
	uint64_t random = 7;
	int fd = open(path_of(t, "source"), O_RDWR | O_CREAT, 0600);

	t->holds = calloc(1, SIZE);
	assert_non_null(t->holds);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	for (size_t i = 0; i < sizeof(stretches) / sizeof(stretches[0]); i++) {
		const struct stretch *s = &stretches[i];

		for (uint32_t b = 0; b < s->len; b++)
			t->holds[s->from + b] = (char)sim_random(&random);
		assert_int_equal(pwrite(fd, t->holds + s->from, s->len, s->from), s->len);
	}
	close(fd);
}

static void begin(struct files *t, enum target_back back, uint64_t bad_from)
{
	struct io_opts opts = { .fault = fault, .fault_arg = t };

	memset(t, 0, sizeof(*t));
	snprintf(t->dir, sizeof(t->dir), "%s", t_dir());
	t->bad_from = bad_from;
	make_source(t);
	assert_int_equal(io_loop_open(&opts, &t->loop), 0);
	assert_int_equal(target_open(t->loop, path_of(t, "source"), TARGET_READ, back, &t->source), 0);
}

static void end(struct files *t)
{
	filecopy_close(&t->f);
	target_close(t->source);
	target_close(t->dest);
	io_loop_close(t->loop);
	free(t->holds);
	t_remove(t->dir);
}

static void fill(const char *path)
{
	char *garbage = malloc(SIZE);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	assert_non_null(garbage);
	memset(garbage, 0xaa, SIZE);
	assert_int_equal(pwrite(fd, garbage, SIZE, 0), SIZE);
	close(fd);
	free(garbage);
}

static void copy(struct files *t, bool dest_is_zero)
{
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;
	struct filecopy *f = &t->f;

	assert_int_equal(filecopy_open(f, t->loop, t->source, t->dest, 100), 0);
	f->dest_is_zero = dest_is_zero;
	while ((f->next < f->size && !f->err) || !filecopy_at_rest(f)) {
		assert_int_equal(filecopy_step(f, false, until), 0);
		assert_true(clock_ns() < until);
	}
	assert_true(f->done >= f->size || f->err);
}

static void compare(struct files *t)
{
	int64_t until = clock_ns() + DEADLINE_S * NS_PER_S;

	assert_int_equal(filecopy_compare_begin(&t->f), 0);
	while (!filecopy_compare_ended(&t->f)) {
		assert_int_equal(filecopy_compare_step(&t->f, false, until), 0);
		assert_true(clock_ns() < until);
	}
}

static void expect_copied(const struct files *t, const char *path)
{
	char *got = malloc(SIZE);
	int fd = open(path, O_RDONLY);

	assert_non_null(got);
	assert_int_equal(pread(fd, got, SIZE, 0), SIZE);
	assert_memory_equal(got, t->holds, SIZE);
	close(fd);
	free(got);
}

static void holes_are_made_in_what_was_there(void **state)
{
	static const enum target_back backs[] = { TARGET_AUTO, TARGET_SYNC };

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct files t;

		begin(&t, backs[i], UINT64_MAX);
		fill(path_of(&t, "dest"));
		assert_int_equal(target_open(t.loop, path_of(&t, "dest"), TARGET_WRITE, backs[i], &t.dest), 0);
		copy(&t, false);
		assert_int_equal(t.f.data_bytes + t.f.holes_bytes, SIZE);
		assert_true(t.f.holes_bytes > SIZE / 2);
		expect_copied(&t, path_of(&t, "dest"));
		compare(&t);
		assert_int_equal(t.f.differing_bytes, 0);
		end(&t);
	}
}

static void a_comparison_finds_each_byte(void **state)
{
	struct files t;
	int fd;

	(void)state;
	begin(&t, TARGET_AUTO, UINT64_MAX);
	assert_int_equal(target_open(t.loop, path_of(&t, "dest"), TARGET_WRITE | TARGET_CREATE, TARGET_AUTO, &t.dest),
			 0);
	assert_int_equal(target_resize(t.dest, SIZE), 0);
	copy(&t, true);
	/* In data, in a hole of both, and in the last byte. */
	fd = open(path_of(&t, "dest"), O_RDWR);
	for (int i = 0; i < 3; i++) {
		off_t at = (off_t[]){ 4U << 20, 15U << 20, SIZE - 1 }[i];
		char c = (char)~t.holds[at];

		assert_int_equal(pwrite(fd, &c, 1, at), 1);
	}
	close(fd);
	compare(&t);
	assert_int_equal(t.f.differing_bytes, 3);
	assert_int_equal(t.f.differs_at, 4U << 20);
	end(&t);
}

/* A disk in memory. */
static char *disk;

static int disk_start(struct target *t, struct io *io)
{
	struct io_part part = io_part(io);

	(void)t;
	if (io->op == IO_WRITE)
		memcpy(disk + part.offset, part.data, part.len);
	else if (io->op == IO_READ)
		memcpy(part.data, disk + part.offset, part.len);
	io_result(io, part.len);
	return 0;
}

/* It has no descriptor that could be asked to make zeros. */
static void where_no_hole_can_be_made_zeros_are_written(void **state)
{
	static const struct target_ops ops = { .start = disk_start };
	struct files t;

	(void)state;
	begin(&t, TARGET_AUTO, UINT64_MAX);
	disk = malloc(SIZE);
	assert_non_null(disk);
	memset(disk, 0xaa, SIZE);
	assert_int_equal(target_make(t.loop, &ops, SIZE, 512, NULL, &t.dest), 0);
	copy(&t, false);
	assert_memory_equal(disk, t.holds, SIZE);
	assert_true(t.f.holes_are_data);
	assert_int_equal(t.f.data_bytes, SIZE);
	free(disk);
	end(&t);
}

static void what_cannot_be_read_is_where_it_ends(void **state)
{
	struct files t;

	(void)state;
	begin(&t, TARGET_AUTO, 9U << 20);
	assert_int_equal(target_open(t.loop, path_of(&t, "dest"), TARGET_WRITE | TARGET_CREATE, TARGET_AUTO, &t.dest),
			 0);
	assert_int_equal(target_resize(t.dest, SIZE), 0);
	copy(&t, false);
	assert_int_equal(t.f.err, -EIO);
	assert_true(t.f.err_is_read);
	/* Nothing that it says is done is not. */
	assert_int_equal(t.f.done, t.f.err_at);
	assert_true(t.f.done <= 9U << 20);
	end(&t);
}

static void a_device_is_zero_where_the_file_has_holes(void **state)
{
	char device[64], image[PATH_MAX];
	struct files t;
	bool direct;

	(void)state;
	if (geteuid() || loopdev_unused(device, sizeof(device)))
		skip();
	begin(&t, TARGET_AUTO, UINT64_MAX);
	snprintf(image, sizeof(image), "%s/image", t.dir);
	fill(image);
	assert_int_equal(loopdev_attach(device, image, &direct), 0);
	assert_int_equal(target_open(t.loop, device, TARGET_WRITE | TARGET_EXCLUSIVE, TARGET_AUTO, &t.dest), 0);
	copy(&t, false);
	compare(&t);
	assert_int_equal(t.f.differing_bytes, 0);
	assert_true(t.f.holes_bytes > SIZE / 2);
	expect_copied(&t, device);
	target_close(t.dest);
	t.dest = NULL;
	assert_int_equal(loopdev_detach(device, image), 0);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_are_made_in_what_was_there),
		cmocka_unit_test(a_comparison_finds_each_byte),
		cmocka_unit_test(where_no_hole_can_be_made_zeros_are_written),
		cmocka_unit_test(what_cannot_be_read_is_where_it_ends),
		cmocka_unit_test(a_device_is_zero_where_the_file_has_holes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
