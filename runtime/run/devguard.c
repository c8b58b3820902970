// SPDX-License-Identifier: MIT
#include "run/devguard.h"

#include "base/spawn.h"
#include "base/sysfile.h"
#include "dev/swapdev.h"

#include <blkid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libmount.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define HEAD_BYTES                                                                                                     \
	(4 * MIB) /* libblkid looks no further from the beginning than 2 MiB (VMFS), but for what is at the end */
#define BLANK_STEP (64 * MIB) /* zeroed between two looks at whether we were interrupted */
#define MARK_WORDS "headroom scratch disk of run "

const struct devguard_places devguard_this_machine = {
	.sys = "/sys",
	.mountinfo = "/proc/self/mountinfo",
	.swaps = "/proc/swaps",
	.fstab = "/etc/fstab",
	.by_id = "/dev/disk/by-id",
};

static int refuse(int err, char *buf, size_t size, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static int refuse(int err, char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf, size, fmt, ap);
	va_end(ap);
	return err;
}

/* --- Its name --- */

/* The first entry of a directory that is not hidden, for which `wanted` (NULL: any) holds. */
static bool any_entry(const char *dir, bool (*wanted)(const char *path), char *name, size_t size)
{
	char path[PATH_MAX];
	DIR *d = opendir(dir);
	struct dirent *e;
	bool found = false;

	while (d && !found && (e = readdir(d))) {
		if (e->d_name[0] == '.' || snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) >= (int)sizeof(path))
			continue;
		found = !wanted || wanted(path);
		if (found)
			snprintf(name, size, "%s", e->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

int devguard_find(const struct devguard_places *p, const char *name, char *node, char *err, size_t err_size)
{
	size_t len = strlen(p->by_id);
	bool by_id = strncmp(name, p->by_id, len) == 0 && name[len] == '/' && !strchr(name + len + 1, '/');
	char other[NAME_MAX + 1];

	if (name[0] != '/')
		return refuse(-EINVAL, err, err_size, "--device %s: must be the whole path of a disk, %s/...", name,
			      p->by_id);
	if (!by_id && any_entry(p->by_id, NULL, other, sizeof(other)))
		return refuse(-EINVAL, err, err_size,
			      "--device %s: the name of a disk can change from boot to boot; one of %s/ is taken", name,
			      p->by_id);
	if (!realpath(name, node))
		return refuse(-errno, err, err_size, "--device %s: %s", name, strerror(errno));
	return 0;
}

/* --- Who uses it --- */

/* Is this path that device, or the same file where a test has files for devices? */
static bool leads_to(const char *path, dev_t number, const char *node)
{
	struct stat a, b;

	if (!path || stat(path, &a) < 0)
		return false;
	if (S_ISBLK(a.st_mode))
		return a.st_rdev == number;
	return S_ISREG(a.st_mode) && stat(node, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool is_partition(const char *path)
{
	char file[PATH_MAX];

	snprintf(file, sizeof(file), "%s/partition", path);
	return access(file, F_OK) == 0;
}

static bool entry_says(const char *dir, const char *entry, char *text, size_t size)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, entry);
	return sysfile_read(path, text, size) >= 0;
}

/* What the kernel says of the device itself. */
static int used_in_sysfs(const char *sys, dev_t number, char *what, size_t size)
{
	char dir[PATH_MAX - 32], below[PATH_MAX], other[NAME_MAX + 1], text[PATH_MAX];

	snprintf(dir, sizeof(dir), "%s/dev/block/%u:%u", sys, major(number), minor(number));
	if (access(dir, F_OK) < 0)
		return refuse(-ENODEV, what, size, "the kernel has no block device %u:%u", major(number),
			      minor(number));
	if (any_entry(dir, is_partition, other, sizeof(other)))
		return refuse(-EBUSY, what, size, "it has partitions (%s)", other);
	snprintf(below, sizeof(below), "%s/holders", dir);
	if (any_entry(below, NULL, other, sizeof(other)))
		return refuse(-EBUSY, what, size, "%s is built on it", other);
	if (entry_says(dir, "ro", text, sizeof(text)) && strcmp(text, "1") == 0)
		return refuse(-EROFS, what, size, "it is read-only");
	return 0;
}

int devguard_derived(const struct devguard_places *p, dev_t number, char *what, size_t size)
{
	char dir[PATH_MAX - 32], below[PATH_MAX], other[NAME_MAX + 1], text[PATH_MAX];

	snprintf(dir, sizeof(dir), "%s/dev/block/%u:%u", p->sys, major(number), minor(number));
	if (is_partition(dir))
		return refuse(-EBUSY, what, size, "it is a partition of a disk");
	snprintf(below, sizeof(below), "%s/slaves", dir);
	if (any_entry(below, NULL, other, sizeof(other)))
		return refuse(-EBUSY, what, size, "it is built on %s", other);
	if (entry_says(dir, "loop/backing_file", text, sizeof(text)))
		return refuse(-EBUSY, what, size, "it is a loop device over %s", text);
	return 0;
}

static int used_by_loop(const char *sys, dev_t number, const char *node, char *what, size_t size)
{
	char blocks[PATH_MAX], loop[PATH_MAX], over[PATH_MAX];
	struct dirent *e;
	int err = 0;
	DIR *d;

	snprintf(blocks, sizeof(blocks), "%s/block", sys);
	d = opendir(blocks);
	while (d && !err && (e = readdir(d))) {
		if (strncmp(e->d_name, "loop", 4) != 0)
			continue;
		snprintf(loop, sizeof(loop), "%s/%.32s", blocks, e->d_name);
		if (entry_says(loop, "loop/backing_file", over, sizeof(over)) && leads_to(over, number, node))
			err = refuse(-EBUSY, what, size, "%.32s lies over it", e->d_name);
	}
	if (d)
		closedir(d);
	return err;
}

/* A mounted file system, or one that is to be: what is in /etc/fstab is somebody's, even when it looks empty. */
static int used_in_table(const char *path, const char *how, dev_t number, const char *node, char *what, size_t size)
{
	struct libmnt_table *table = mnt_new_table();
	struct libmnt_iter *at = mnt_new_iter(MNT_ITER_FORWARD);
	struct libmnt_fs *fs;
	int err = 0;

	if (!table || !at)
		err = refuse(-ENOMEM, what, size, "%s: %s", path, strerror(ENOMEM));
	else if (mnt_table_parse_file(table, path))
		err = refuse(-EIO, what, size, "%s cannot be read, which would say who uses it", path);
	while (!err && mnt_table_next_fs(table, at, &fs) == 0) {
		/* btrfs has a device number of its own there, and names a disk; the bind of a file names none. */
		if (mnt_fs_get_devno(fs) == number || leads_to(mnt_fs_get_srcpath(fs), number, node))
			err = refuse(-EBUSY, what, size, "%s %s", how, mnt_fs_get_target(fs));
	}
	mnt_free_iter(at);
	mnt_unref_table(table);
	return err;
}

int devguard_used(const struct devguard_places *p, dev_t number, const char *node, char *what, size_t size)
{
	int err = used_in_sysfs(p->sys, number, what, size), swap;

	if (!err)
		err = used_by_loop(p->sys, number, node, what, size);
	if (!err)
		err = used_in_table(p->mountinfo, "it is mounted on", number, node, what, size);
	if (!err && access(p->fstab, F_OK) == 0)
		err = used_in_table(p->fstab, "/etc/fstab has it for", number, node, what, size);
	if (err)
		return err;
	swap = swapdev_is_on(p->swaps, node);
	if (swap < 0)
		return refuse(swap, what, size, "%s: %s", p->swaps, strerror(-swap));
	return swap ? refuse(-EBUSY, what, size, "it is swapped on") : 0;
}

int devguard_alone(const struct devguard_places *p, dev_t number)
{
	char dir[PATH_MAX];
	struct dirent *e;
	unsigned n = 0;
	DIR *d;

	snprintf(dir, sizeof(dir), "%s/dev/block/%u:%u/holders", p->sys, major(number), minor(number));
	d = opendir(dir);
	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n == 1 ? 0 : -EBUSY;
}

/* --- What lies on it --- */

/* Of what the probe has found. */
static void name_signature(blkid_probe probe, char *what, size_t size)
{
	const char *type = "?";

	if (blkid_probe_lookup_value(probe, "TYPE", &type, NULL) == 0)
		snprintf(what, size, "a signature of %s", type);
	else if (blkid_probe_lookup_value(probe, "PTTYPE", &type, NULL) == 0)
		snprintf(what, size, "a partition table (%s)", type);
	else
		snprintf(what, size, "a signature");
}

int devguard_signature(int fd, char *what, size_t size)
{
	blkid_probe probe = blkid_new_probe();
	int found = -ENOMEM;

	errno = 0;
	if (probe && blkid_probe_set_device(probe, fd, 0, 0) == 0) {
		/* As wipefs(8): also what is damaged, and a GPT whose first copy is gone. */
		blkid_probe_enable_superblocks(probe, 1);
		blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_BADCSUM);
		blkid_probe_enable_partitions(probe, 1);
		blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
		/* 0: the first of them, 1: there is none. */
		found = blkid_do_probe(probe);
		if (found == 0)
			name_signature(probe, what, size);
		found = found < 0 ? (errno ? -errno : -EIO) : !found;
	} else if (probe) {
		found = errno ? -errno : -EIO;
	}
	blkid_free_probe(probe);
	return found;
}

/* --- The mark --- */

static int64_t size_of(int fd)
{
	off_t end = lseek(fd, 0, SEEK_END);

	return end < 0 ? -errno : end;
}

static int64_t mark_offset(int fd)
{
	int64_t end = size_of(fd);

	if (end < 0)
		return end;
	return end < DEVGUARD_MARK_BYTES ? -ENOSPC
					 : end / DEVGUARD_MARK_BYTES * DEVGUARD_MARK_BYTES - DEVGUARD_MARK_BYTES;
}

/* 1 with the id of the run that left its mark, 0, or -errno. */
static int read_mark(int fd, char *run_id, size_t size)
{
	char block[DEVGUARD_MARK_BYTES + 1] = "";
	int64_t at = mark_offset(fd);

	if (at < 0)
		return (int)at;
	if (pread(fd, block, DEVGUARD_MARK_BYTES, at) != DEVGUARD_MARK_BYTES)
		return -EIO;
	if (strncmp(block, MARK_WORDS, strlen(MARK_WORDS)) != 0)
		return 0;
	snprintf(run_id, size, "%.*s", (int)strcspn(block + strlen(MARK_WORDS), "\n"), block + strlen(MARK_WORDS));
	return 1;
}

static int write_all(int fd, const char *data, size_t len, int64_t at)
{
	ssize_t n = pwrite(fd, data, len, at);

	return n < 0 ? -errno : (size_t)n != len ? -EIO : 0;
}

/* `run_id` NULL: none. */
static int write_mark(int fd, const char *run_id)
{
	char block[DEVGUARD_MARK_BYTES] = "";
	int64_t at = mark_offset(fd);
	int err;

	if (at < 0)
		return (int)at;
	if (run_id)
		snprintf(block, sizeof(block), MARK_WORDS "%s\n", run_id);
	err = write_all(fd, block, sizeof(block), at);
	return err ? err : fsync(fd) < 0 ? -errno : 0;
}

/* What others have written past the page cache, cells, must not be hidden by what was read before. */
static int open_alone(const char *name)
{
	int fd = open(name, O_RDWR | O_EXCL | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	ioctl(fd, BLKFLSBUF);
	return fd;
}

int devguard_mark(const char *name, const char *run_id)
{
	int fd = open_alone(name), err;

	if (fd < 0)
		return fd;
	err = write_mark(fd, run_id);
	close(fd);
	return err;
}

/* Where a signature at the beginning or at the end could be. */
static int clear_ends(int fd)
{
	int64_t end = size_of(fd), last = end > (int64_t)HEAD_BYTES ? end - (int64_t)HEAD_BYTES : 0;
	char *zero = end < 0 ? NULL : calloc(1, HEAD_BYTES);
	size_t len = end < (int64_t)HEAD_BYTES ? (size_t)end : HEAD_BYTES;
	int err = end < 0 ? (int)end : !zero ? -ENOMEM : write_all(fd, zero, len, 0);

	/* All but the mark, which goes last: until then the disk can be cleared again. */
	if (!err)
		err = write_all(fd, zero, (size_t)(mark_offset(fd) - last), last);
	free(zero);
	return err ? err : fsync(fd) < 0 ? -errno : 0;
}

int devguard_clear(const char *name, const char *run_id)
{
	int fd = open_alone(name), err;
	char whose[64];

	if (fd < 0)
		return fd;
	err = read_mark(fd, whose, sizeof(whose));
	if (err > 0 && strcmp(whose, run_id) == 0) {
		err = clear_ends(fd);
		if (!err)
			err = write_mark(fd, NULL);
	} else if (err > 0) {
		err = 0;
	}
	close(fd);
	return err;
}

/* --- All of it --- */

static int check_size(const struct devguard *g, uint64_t bytes, char *err, size_t err_size)
{
	int64_t have = size_of(g->fd);
	uint64_t need = bytes + DEVGUARD_MARK_BYTES;

	if (have < 0)
		return refuse((int)have, err, err_size, "--device %s: %s", g->name, strerror((int)-have));
	if ((uint64_t)have < need)
		return refuse(-ENOSPC, err, err_size,
			      "--device %s: it has %" PRIu64 " MiB, the cells need %" PRIu64
			      ": name a larger one, or size the load with --memory MIB",
			      g->name, (uint64_t)have / MIB, (need + MIB - 1) / MIB);
	return 0;
}

static int check_content(const struct devguard *g, char *err, size_t err_size)
{
	char what[128];
	int found = devguard_signature(g->fd, what, sizeof(what));

	if (found > 0)
		return refuse(-EBUSY, err, err_size,
			      "--device %s: it has %s; only a disk with nothing on it is taken ('wipefs "
			      "-a %s' takes off what is on this one)",
			      g->name, what, g->name);
	if (!found)
		found = read_mark(g->fd, what, sizeof(what));
	if (found > 0)
		return refuse(-EBUSY, err, err_size,
			      "--device %s: run %s was cut off on it; 'headroom resume' of that run clears "
			      "it",
			      g->name, what);
	return found ? refuse(found, err, err_size, "--device %s: %s", g->name, strerror(-found)) : 0;
}

static int check_use(const struct devguard *g, const struct devguard_places *p, char *err, size_t err_size)
{
	char what[PATH_MAX];
	struct stat st;
	int used;

	if (stat(g->node, &st) < 0)
		return refuse(-errno, err, err_size, "--device %s: %s", g->name, strerror(errno));
	if (!S_ISBLK(st.st_mode))
		return refuse(-EINVAL, err, err_size,
			      "--device %s: it is not a block device; without --device a file is made and used",
			      g->name);
	used = devguard_derived(p, st.st_rdev, what, sizeof(what));
	if (!used)
		used = devguard_used(p, st.st_rdev, g->node, what, sizeof(what));
	return used ? refuse(used, err, err_size, "--device %s: %s; only a whole disk that nobody uses is taken",
			     g->name, what)
		    : 0;
}

static int take_hold(struct devguard *g, char *err, size_t err_size)
{
	if (g->fd < 0)
		g->fd = open_alone(g->node);
	if (g->fd == -EBUSY)
		return refuse(-EBUSY, err, err_size,
			      "--device %s: somebody has it open for himself alone; only a disk that "
			      "nobody uses is taken",
			      g->name);
	return g->fd < 0 ? refuse(g->fd, err, err_size, "--device %s: %s", g->name, strerror(-g->fd)) : 0;
}

int devguard_take(struct devguard *g, const struct devguard_places *p, const char *name, uint64_t bytes, char *err,
		  size_t err_size)
{
	char node[PATH_MAX];
	int rc = devguard_find(p, name, node, err, err_size);

	/* Its name leads to another disk than it did. */
	if (rc || strcmp(node, g->node) != 0)
		devguard_release(g);
	if (rc)
		return rc;
	snprintf(g->name, sizeof(g->name), "%s", name);
	snprintf(g->node, sizeof(g->node), "%s", node);
	rc = check_use(g, p, err, err_size);
	if (!rc)
		rc = take_hold(g, err, err_size);
	if (!rc)
		rc = check_size(g, bytes, err, err_size);
	if (!rc)
		rc = check_content(g, err, err_size);
	if (rc)
		devguard_release(g);
	return rc;
}

void devguard_release(struct devguard *g)
{
	if (g->fd >= 0)
		close(g->fd);
	g->fd = -1;
}

int devguard_blank(const struct devguard *g, uint64_t bytes)
{
	for (uint64_t at = 0; at < bytes; at += BLANK_STEP) {
		uint64_t range[2] = { at, bytes - at < BLANK_STEP ? bytes - at : BLANK_STEP };

		if (interrupted)
			return -EINTR;
		if (ioctl(g->fd, BLKZEROOUT, range) < 0)
			return -errno;
	}
	return 0;
}
