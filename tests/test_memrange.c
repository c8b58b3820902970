// SPDX-License-Identifier: MIT
/* hotplug/memrange: what the kernel has made of a stretch of physical memory. */
#include "hotplug/memrange.h"
#include "t.h"

#include <errno.h>
#include <sys/stat.h>

#define GIB (1ULL << 30)

static char *root;

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

static void block(unsigned id, const char *state)
{
	char name[64], path[PATH_MAX], index[16];

	snprintf(path, sizeof(path), "%s/memory%u", root, id);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(index, sizeof(index), "%08x\n", id);
	snprintf(name, sizeof(name), "memory%u/phys_index", id);
	t_write(root, name, index);
	snprintf(name, sizeof(name), "memory%u/state", id);
	t_write(root, name, state);
}

static void the_blocks_of_a_dimm_are_those_in_its_range(void **state)
{
	const struct memrange dimm = { 4 * GIB, GIB / 4 };
	struct memblock blocks[8];

	(void)state;
	assert_int_equal(memrange_blocks(root, &dimm, blocks, 8), -ENOENT);
	t_write(root, "block_size_bytes", "8000000\n");
	block(31, "online\n");
	block(34, "online\n");
	assert_int_equal(memrange_blocks(root, &dimm, blocks, 8), 0);
	assert_false(memrange_is_online(root, &dimm));
	block(33, "offline\n");
	block(32, "online\n");
	assert_int_equal(memrange_blocks(root, &dimm, blocks, 8), 2);
	assert_int_equal(blocks[0].id, 32);
	assert_int_equal(blocks[1].id, 33);
	assert_int_equal(blocks[1].state, MEMBLOCK_OFFLINE);
	assert_int_equal(memrange_blocks(root, &dimm, blocks, 1), 1);
	assert_false(memrange_is_online(root, &dimm));
	t_write(root, "memory33/state", "online\n");
	assert_true(memrange_is_online(root, &dimm));
}

static int ram(const char *iomem, uint64_t begin, uint64_t size, uint64_t *bytes)
{
	char path[PATH_MAX];

	t_write(root, "iomem", iomem);
	snprintf(path, sizeof(path), "%s/iomem", root);
	return memrange_ram(path, &(struct memrange){ begin, size }, bytes);
}

static void system_ram_in_the_range_is_counted(void **state)
{
	static const char iomem[] = "00000000-00000fff : Reserved\n"
				    "00100000-1ffdffff : System RAM\n"
				    "  01000000-01e02526 : Kernel code\n"
				    "fec00000-fec003ff : IOAPIC 0\n"
				    "100000000-107ffffff : System RAM\n"
				    "110000000-11fffffff : System RAM (kmem)\n"
				    "120000000-12fffffff : Persistent Memory\n"
				    "nonsense\n";
	uint64_t bytes;

	(void)state;
	assert_int_equal(ram(iomem, 4 * GIB, GIB / 4, &bytes), 0);
	assert_int_equal(bytes, GIB / 8); /* its second half is offline, or gone */
	assert_int_equal(ram(iomem, 4 * GIB, GIB / 2, &bytes), 0);
	assert_int_equal(bytes, GIB / 8 + GIB / 4);
	assert_int_equal(ram(iomem, 4 * GIB + GIB / 2, GIB / 4, &bytes), 0);
	assert_int_equal(bytes, 0);
	assert_int_equal(ram(iomem, 4 * GIB + 4096, 4096, &bytes), 0);
	assert_int_equal(bytes, 4096);
	assert_int_equal(memrange_ram("/no/such/file", &(struct memrange){ 0, 1 }, &bytes), -ENOENT);
}

/* 0 bytes would read as "the memory is gone". */
static void hidden_addresses_are_an_error(void **state)
{
	uint64_t bytes;

	(void)state;
	assert_int_equal(ram("00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n", 4 * GIB, GIB, &bytes),
			 -EACCES);
	assert_int_equal(ram("", 4 * GIB, GIB, &bytes), -EACCES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_blocks_of_a_dimm_are_those_in_its_range, setup, teardown),
		cmocka_unit_test_setup_teardown(system_ram_in_the_range_is_counted, setup, teardown),
		cmocka_unit_test_setup_teardown(hidden_addresses_are_an_error, setup, teardown),
	};

	return cmocka_run_group_tests_name("memrange", tests, NULL, NULL);
}
