// SPDX-License-Identifier: MIT
/* hotplug/memblock: blocks read from a tree, and writes that do not come back. */
#include "hotplug/memblock.h"
#include "base/clock.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char *root;

static void block(unsigned id, const char *phys_index, const char *state, const char *zones)
{
	char name[64], path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/memory%u", root, id);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(name, sizeof(name), "memory%u/phys_index", id);
	t_write(root, name, phys_index);
	snprintf(name, sizeof(name), "memory%u/state", id);
	t_write(root, name, state);
	snprintf(name, sizeof(name), "memory%u/valid_zones", id);
	if (zones)
		t_write(root, name, zones);
}

static int setup(void **state)
{
	(void)state;
	root = t_dir();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	t_remove(root);
	return 0;
}

static void blocks_are_listed_by_number(void **state)
{
	struct memblock blocks[8];
	uint64_t bytes;

	(void)state;
	t_write(root, "block_size_bytes", "8000000\n");
	t_write(root, "auto_online_blocks", "offline\n");
	block(33, "00000021\n", "offline\n", "Movable\n");
	block(4, "00000004\n", "online\n", "none\n");
	block(32, "00000020\n", "going-offline\n", "Movable\n");
	assert_int_equal(memblock_size(root, &bytes), 0);
	assert_int_equal(bytes, 128 << 20);
	assert_int_equal(memblock_list(root, blocks, 8), 3);
	assert_int_equal(blocks[0].id, 4);
	assert_int_equal(blocks[1].id, 32);
	assert_int_equal(blocks[1].phys_index, 32);
	assert_int_equal(blocks[1].state, MEMBLOCK_GOING);
	assert_int_equal(blocks[2].state, MEMBLOCK_OFFLINE);
	assert_string_equal(blocks[1].zones, "none");
	assert_false(memblock_movable(&blocks[0]));
	assert_false(memblock_movable(&blocks[2]));
	assert_string_equal(blocks[2].zones, "none"); /* not read: it is not online */
	assert_int_equal(memblock_list(root, blocks, 2), 2);
}

static void an_address_has_its_block(void **state)
{
	struct memblock b;
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	t_write(root, "block_size_bytes", "8000000\n");
	block(33, "00000021\n", "online\n", "Movable\n");
	block(32, "00000020\n", "online\n", "Movable\n");
	assert_int_equal(memblock_at(root, 0x20ULL * 0x8000000 - 1, &b), -ENOENT);
	assert_int_equal(memblock_at(root, 0x20ULL * 0x8000000, &b), 0);
	assert_int_equal(b.id, 32);
	assert_true(memblock_movable(&b));
	assert_int_equal(memblock_at(root, 0x22ULL * 0x8000000 - 1, &b), 0);
	assert_int_equal(b.id, 33);
	assert_int_equal(memblock_at(root, 0x22ULL * 0x8000000, &b), -ENOENT);
	assert_true(page != MAP_FAILED);
	assert_int_equal(memblock_address(page), 0); /* never touched: it has none */
	munmap(page, 4096);
}

static void what_is_damaged_is_no_block(void **state)
{
	struct memblock blocks[8], b;
	uint64_t bytes;

	(void)state;
	assert_int_equal(memblock_size(root, &bytes), -ENOENT);
	t_write(root, "block_size_bytes", "");
	assert_int_equal(memblock_size(root, &bytes), -EINVAL);
	t_write(root, "block_size_bytes", "0\n");
	assert_int_equal(memblock_size(root, &bytes), -EINVAL);
	t_write(root, "block_size_bytes", "8000000 or so\n");
	assert_int_equal(memblock_size(root, &bytes), -EINVAL);
	block(1, "", "online\n", "Movable\n");
	block(2, "2\n", "perhaps\n", "Movable\n");
	block(3, "3\n", "online\n", NULL);
	assert_int_equal(memblock_list(root, blocks, 8), 1);
	assert_int_equal(blocks[0].id, 3);
	assert_string_equal(blocks[0].zones, "none");
	assert_int_equal(memblock_read(root, 7, &b), -ENOENT);
	assert_int_equal(memblock_list("/no/such/tree", blocks, 8), -ENOENT);
}

static void a_write_says_what_the_kernel_said(void **state)
{
	struct memblock_try t;
	struct memblock b;

	(void)state;
	block(5, "5\n", "online\n", "Movable\n");
	t = memblock_write(root, 5, "offline", NS_PER_S, clock_ns() + 10 * NS_PER_S);
	assert_int_equal(t.err, 0);
	assert_false(t.ended || t.hangs);
	assert_true(t.took_ns > 0 && t.took_ns < NS_PER_S);
	assert_int_equal(memblock_read(root, 5, &b), 0);
	assert_int_equal(b.state, MEMBLOCK_OFFLINE);
	assert_int_equal(memblock_write(root, 6, "offline", NS_PER_S, clock_ns() + 10 * NS_PER_S).err, -ENOENT);
}

/* Who opens a file for writing that somebody has a lease of waits, as an offline does that cannot move a page. */
static int lease(unsigned id)
{
	char path[PATH_MAX];
	int fd;

	signal(SIGIO, SIG_IGN); /* "somebody waits for it" */
	snprintf(path, sizeof(path), "%s/memory%u/state", root, id);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_SETLEASE, F_RDLCK), 0);
	return fd;
}

static void a_write_that_does_not_come_back_is_ended(void **state)
{
	struct memblock_try t;
	int fd;

	(void)state;
	block(5, "5\n", "online\n", "Movable\n");
	fd = lease(5);
	t = memblock_write(root, 5, "offline", 200 * NS_PER_MS, clock_ns() + 10 * NS_PER_S);
	assert_int_equal(t.err, -EINTR);
	assert_true(t.ended && !t.hangs && t.took_ns >= 200 * NS_PER_MS);
	t = memblock_write(root, 5, "offline", 0, clock_ns() + 100 * NS_PER_MS);
	assert_true(t.ended && t.err == -EINTR);
	close(fd);
}

/* Who began it may hang himself. */
static void one_that_nobody_ends_ends_by_itself(void **state)
{
	struct memblock_try t;
	int fd;

	(void)state;
	block(5, "5\n", "online\n", "Movable\n");
	fd = lease(5);
	t = memblock_begin(root, 5, "offline", 100 * NS_PER_MS);
	assert_true(memblock_ended(&t, clock_ns() + 10 * NS_PER_S));
	assert_true(t.err == -EINTR && t.ended && t.took_ns >= 100 * NS_PER_MS);
	close(fd);
}

/* The kernel may be through with it before it looks for the signal. */
static void one_that_was_ended_too_late_has_gone(void **state)
{
	struct memblock_try t;
	int fd;

	(void)state;
	block(5, "5\n", "offline\n", "Movable\n");
	fd = lease(5);
	t = memblock_write(root, 5, "offline", 100 * NS_PER_MS, clock_ns() + 10 * NS_PER_S);
	assert_true(t.err == 0 && !t.ended && !t.hangs);
	t = memblock_write(root, 5, "online_movable", 100 * NS_PER_MS, clock_ns() + 10 * NS_PER_S);
	assert_true(t.err == -EINTR && t.ended);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(blocks_are_listed_by_number, setup, teardown),
		cmocka_unit_test_setup_teardown(an_address_has_its_block, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_damaged_is_no_block, setup, teardown),
		cmocka_unit_test_setup_teardown(a_write_says_what_the_kernel_said, setup, teardown),
		cmocka_unit_test_setup_teardown(a_write_that_does_not_come_back_is_ended, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_nobody_ends_ends_by_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_was_ended_too_late_has_gone, setup, teardown),
	};

	return cmocka_run_group_tests_name("memblock", tests, NULL, NULL);
}
