// SPDX-License-Identifier: MIT
/* Which disks may be overwritten: those on which nothing lies and which nobody uses. Files stand for disks here. */
#include "run/devguard.h"
#include "t.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MIB	   (1 << 20)
#define IMAGE_SIZE (64 * MIB)
#define DISK	   makedev(253, 16)

static char *dir;
static struct devguard_places places;
static char paths[5][PATH_MAX];

static const char *in_dir(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned next;
	char *p = path[next++ % 4];

	snprintf(p, PATH_MAX, "%s/%s", dir, name);
	return p;
}

static void make_dir(const char *name)
{
	assert_int_equal(mkdir(in_dir(name), 0755), 0);
}

/* A machine with one disk, 253:16, which nobody uses. */
static int make(void **state)
{
	static const char *const names[] = { "sys", "mountinfo", "swaps", "fstab", "by-id" };
	static const char *const dirs[] = { "sys",
					    "sys/block",
					    "sys/dev",
					    "sys/dev/block",
					    "sys/dev/block/253:16",
					    "sys/dev/block/253:16/holders",
					    "sys/dev/block/253:16/slaves",
					    "by-id" };

	(void)state;
	dir = t_dir();
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		snprintf(paths[i], PATH_MAX, "%s/%s", dir, names[i]);
	places = (struct devguard_places){
		.sys = paths[0], .mountinfo = paths[1], .swaps = paths[2], .fstab = paths[3], .by_id = paths[4]
	};
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		make_dir(dirs[i]);
	t_write(dir, "sys/dev/block/253:16/ro", "0\n");
	t_write(dir, "mountinfo", "22 1 254:1 / / rw - ext4 /dev/root rw\n");
	t_write(dir, "swaps", "Filename\tType\tSize\tUsed\tPriority\n");
	t_write(dir, "disk", "");
	assert_int_equal(truncate(in_dir("disk"), IMAGE_SIZE), 0);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	t_remove(dir);
	return 0;
}

/* --- Its name --- */

static int find(const char *name, char *said)
{
	char node[PATH_MAX];

	said[0] = '\0';
	return devguard_find(&places, name, node, said, PATH_MAX);
}

static void a_disk_is_named_by_id_where_disks_have_such_names(void **state)
{
	char said[PATH_MAX];

	(void)state;
	assert_int_equal(find("disk", said), -EINVAL);
	assert_non_null(strstr(said, "whole path"));
	assert_int_equal(find(in_dir("disk"), said), 0); /* as in a guest: there are no such names */
	assert_int_equal(symlink("../disk", in_dir("by-id/virtio-spare")), 0);
	assert_int_equal(find(in_dir("by-id/virtio-spare"), said), 0);
	assert_int_equal(find(in_dir("disk"), said), -EINVAL);
	assert_non_null(strstr(said, "by-id"));
	assert_int_equal(find(in_dir("by-id/../disk"), said), -EINVAL);
	assert_int_equal(find(in_dir("by-id/gone"), said), -ENOENT);
	assert_non_null(strstr(said, "gone"));
}

static void what_is_no_disk_is_refused(void **state)
{
	struct devguard g = { .fd = -1 };
	char said[PATH_MAX];

	(void)state;
	assert_int_equal(devguard_take(&g, &places, in_dir("disk"), 0, said, sizeof(said)), -EINVAL);
	assert_non_null(strstr(said, "not a block device"));
	assert_int_equal(g.fd, -1);
}

/* --- Who uses it --- */

static int used(char *what)
{
	what[0] = '\0';
	return devguard_used(&places, DISK, in_dir("disk"), what, PATH_MAX);
}

static void expect_used(const char *why)
{
	char what[PATH_MAX];

	assert_int_equal(used(what), -EBUSY);
	if (!strstr(what, why))
		fail_msg("\"%s\" does not say \"%s\"", what, why);
}

/* Not used by that, but no disk of its own either. */
static void expect_derived(const char *why)
{
	char what[PATH_MAX];

	assert_int_equal(used(what), 0);
	assert_int_equal(devguard_derived(&places, DISK, what, sizeof(what)), -EBUSY);
	if (!strstr(what, why))
		fail_msg("\"%s\" does not say \"%s\"", what, why);
}

static void a_disk_that_nobody_uses_is_free(void **state)
{
	char what[PATH_MAX];

	(void)state;
	assert_int_equal(used(what), 0);
	assert_int_equal(devguard_derived(&places, DISK, what, sizeof(what)), 0);
	assert_int_equal(devguard_used(&places, makedev(253, 32), in_dir("disk"), what, sizeof(what)), -ENODEV);
	t_write(dir, "sys/dev/block/253:16/ro", "1\n");
	assert_int_equal(used(what), -EROFS);
}

static void a_disk_with_partitions_is_used(void **state)
{
	char what[PATH_MAX];

	(void)state;
	make_dir("sys/dev/block/253:16/queue"); /* a directory, and no partition */
	assert_int_equal(used(what), 0);
	make_dir("sys/dev/block/253:16/vdb1");
	t_write(dir, "sys/dev/block/253:16/vdb1/partition", "1\n");
	expect_used("it has partitions (vdb1)");
}

static void a_partition_is_no_disk(void **state)
{
	(void)state;
	t_write(dir, "sys/dev/block/253:16/partition", "1\n");
	expect_derived("it is a partition");
}

static void a_disk_with_something_built_on_it_is_used(void **state)
{
	(void)state;
	make_dir("sys/dev/block/253:16/holders/dm-0");
	expect_used("dm-0 is built on it");
	assert_int_equal(devguard_alone(&places, DISK), 0);
	make_dir("sys/dev/block/253:16/holders/md0");
	assert_int_equal(devguard_alone(&places, DISK), -EBUSY);
}

static void a_device_built_on_others_is_no_disk(void **state)
{
	(void)state;
	make_dir("sys/dev/block/253:16/slaves/vda");
	expect_derived("it is built on vda");
}

static void a_loop_device_is_no_disk_and_one_over_it_uses_it(void **state)
{
	char what[PATH_MAX], text[PATH_MAX];

	(void)state;
	make_dir("sys/block/loop0");
	make_dir("sys/block/loop0/loop");
	t_write(dir, "other", "");
	snprintf(text, sizeof(text), "%s\n", in_dir("other"));
	t_write(dir, "sys/block/loop0/loop/backing_file", text);
	assert_int_equal(used(what), 0);
	snprintf(text, sizeof(text), "%s\n", in_dir("disk"));
	t_write(dir, "sys/block/loop0/loop/backing_file", text);
	expect_used("loop0 lies over it");
	make_dir("sys/dev/block/253:16/loop");
	t_write(dir, "sys/dev/block/253:16/loop/backing_file", "/var/image\n");
	t_write(dir, "sys/block/loop0/loop/backing_file", "/var/other\n");
	expect_derived("a loop device over /var/image");
}

static void a_disk_that_is_mounted_or_meant_to_be_is_used(void **state)
{
	char line[2 * PATH_MAX];

	(void)state;
	snprintf(line, sizeof(line), "%s /data ext4 defaults 0 2\n", in_dir("disk"));
	t_write(dir, "fstab", line);
	expect_used("/etc/fstab has it for /data");
	t_write(dir, "mountinfo", "22 1 254:1 / / rw - ext4 /dev/root rw\n30 22 253:16 / /mnt rw - xfs /dev/vdb rw\n");
	expect_used("it is mounted on /mnt");
	/* btrfs: a number of its own. */
	snprintf(line, sizeof(line), "30 22 0:45 / /srv rw - btrfs %s rw\n", in_dir("disk"));
	t_write(dir, "mountinfo", line);
	expect_used("it is mounted on /srv");
}

static void what_cannot_be_asked_is_not_taken_for_no(void **state)
{
	char what[PATH_MAX];

	(void)state;
	assert_int_equal(unlink(in_dir("swaps")), 0); /* a kernel without swap */
	assert_int_equal(used(what), 0);
	assert_int_equal(unlink(in_dir("mountinfo")), 0);
	assert_true(used(what) < 0);
	assert_non_null(strstr(what, "mountinfo"));
}

static void a_disk_that_is_swapped_on_is_used(void **state)
{
	char text[2 * PATH_MAX];

	(void)state;
	snprintf(text, sizeof(text), "Filename\tType\tSize\tUsed\tPriority\n%s\tpartition\t1024\t0\t-2\n",
		 in_dir("disk"));
	t_write(dir, "swaps", text);
	expect_used("swapped on");
}

/* --- What lies on it --- */

struct bytes {
	long offset; /* from the end where it is below 0 */
	const char *data;
	size_t len;
};

#define BYTES(offset, text)                                                                                            \
	{                                                                                                              \
		offset, text, sizeof(text) - 1                                                                         \
	}

/*
 * What begins a file system, a member of a volume, or a partition table: as much of it as libblkid asks for, which also
 * takes what is damaged. Offsets and magic numbers: util-linux, libblkid/src.
 */
static const struct image {
	const char *kind; /* in what is said */
	struct bytes bytes[4];
} images[] = {
	{ "crypto_LUKS", { BYTES(0, "LUKS\xba\xbe\0\1") } },
	{ "LVM2_member", { BYTES(512, "LABELONE\1\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001") } },
	{ "swap", { BYTES(1024, "\1\0\0\0\xff\x3f\0\0"), BYTES(4086, "SWAPSPACE2") } },
	{ "linux_raid_member", { BYTES(4096, "\xfc\x4e\x2b\xa9\1\0\0\0"), BYTES(4096 + 144, "\x08\0\0\0\0\0\0\0") } },
	{ "bcache",
	  { BYTES(4096, "\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\xc6\x85\x73\xf6\x4e\x1a\x45\xca"
			"\x82\x65\xf5\x7f\x48\xba\x6d\x81") } },
	{ "partition table (dos)", { BYTES(446, "\x80\0\1\0\x83\0\1\0\0\x08\0\0\0\x10\0\0"), BYTES(510, "\x55\xaa") } },
	{ "ddf_raid_member", { BYTES(-512, "\xde\x11\xde\x11"), BYTES(-512 + 8 + 24, "01.02.00") } },
	{ "iso9660",
	  { BYTES(32768, "\1CD001\1"), BYTES(32768 + 2048, "\xff"
							   "CD001\1") } },
	{ "squashfs", { BYTES(0, "hsqs"), BYTES(28, "\4\0\0\0") } },
	{ "DM_snapshot_cow", { BYTES(0, "SnAp\1\0\0\0\1\0\0\0\x08\0\0\0") } },
	{ "DM_verity_hash", { BYTES(0, "verity\0\0\1\0\0\0") } },
	{ "drbd", { BYTES(-4096 + 60, "\x83\x74\x02\x6b") } },
	{ "VMFS_volume_member", { BYTES(0x100000, "\x0d\xd0\x01\xc0") } },
};

static int looked_at(char *what)
{
	int fd = open(in_dir("disk"), O_RDONLY), found;

	what[0] = '\0';
	found = devguard_signature(fd, what, 128);
	close(fd);
	return found;
}

static void put_bytes(const struct bytes *b)
{
	int fd = open(in_dir("disk"), O_WRONLY);
	off_t at = b->offset < 0 ? IMAGE_SIZE + b->offset : b->offset;

	assert_int_equal(pwrite(fd, b->data, b->len, at), (ssize_t)b->len);
	close(fd);
}

static void every_signature_is_seen(void **state)
{
	char what[128];

	(void)state;
	for (size_t i = 0; i < sizeof(images) / sizeof(images[0]); i++) {
		assert_int_equal(truncate(in_dir("disk"), 0), 0);
		assert_int_equal(truncate(in_dir("disk"), IMAGE_SIZE), 0);
		assert_int_equal(looked_at(what), 0);
		for (const struct bytes *b = images[i].bytes; b->data; b++)
			put_bytes(b);
		if (looked_at(what) != 1 || !strstr(what, images[i].kind))
			fail_msg("%s: found \"%s\"", images[i].kind, what);
	}
}

static void a_file_system_as_it_is_made_is_seen(void **state)
{
	char what[128], command[PATH_MAX + 64];

	(void)state;
	snprintf(command, sizeof(command), "/sbin/mke2fs -q -F -t ext4 '%s'", in_dir("disk"));
	assert_int_equal(system(command), 0);
	assert_int_equal(looked_at(what), 1);
	assert_non_null(strstr(what, "ext4"));
}

/* --- The mark --- */

static void what_a_run_left_is_cleared_by_that_run_alone(void **state)
{
	char what[128], *text;

	(void)state;
	put_bytes(&images[0].bytes[0]);
	assert_int_equal(devguard_clear(in_dir("disk"), "20261126T000000Z-1"), 0); /* it has no mark */
	assert_int_equal(looked_at(what), 1);
	assert_int_equal(devguard_mark(in_dir("disk"), "20261126T000000Z-1"), 0);
	assert_int_equal(devguard_clear(in_dir("disk"), "20261126T000000Z-2"), 0);
	assert_int_equal(looked_at(what), 1);
	assert_int_equal(devguard_clear(in_dir("disk"), "20261126T000000Z-1"), 0);
	assert_int_equal(looked_at(what), 0);
	text = t_read(dir, "disk");
	assert_string_equal(text, "");
	free(text);
	/* Twice is once. */
	put_bytes(&images[0].bytes[0]);
	assert_int_equal(devguard_clear(in_dir("disk"), "20261126T000000Z-1"), 0);
	assert_int_equal(looked_at(what), 1);
	assert_int_equal(devguard_clear(in_dir("gone"), "20261126T000000Z-1"), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, make, drop)
		T(a_disk_is_named_by_id_where_disks_have_such_names),
		T(what_is_no_disk_is_refused),
		T(a_disk_that_nobody_uses_is_free),
		T(a_disk_with_partitions_is_used),
		T(a_partition_is_no_disk),
		T(a_disk_with_something_built_on_it_is_used),
		T(a_device_built_on_others_is_no_disk),
		T(a_loop_device_is_no_disk_and_one_over_it_uses_it),
		T(a_disk_that_is_mounted_or_meant_to_be_is_used),
		T(what_cannot_be_asked_is_not_taken_for_no),
		T(a_disk_that_is_swapped_on_is_used),
		T(every_signature_is_seen),
		T(a_file_system_as_it_is_made_is_seen),
		T(what_a_run_left_is_cleared_by_that_run_alone),
	};

	return cmocka_run_group_tests_name("devguard", tests, NULL, NULL);
}
