// SPDX-License-Identifier: MIT
/*
 * Which disk may be overwritten: one that a person named, that nobody uses, and on which nothing lies.
 *
 * A disk is taken by its name in /dev/disk/by-id, which stays its own when disks are added or found in another order.
 * Where there is no such name for any disk, as in a guest without udev, its kernel's name is taken.
 *
 * While it is ours it is held: by an exclusive open between cells (devguard_take()), and in a cell, whose own devices
 * have to claim it, by a device-mapper device of a few sectors, which claims it for device mapper alone. A mark in its
 * last block says whose it is, so that what a run has left on it is cleared by that run, on that disk, and by nobody
 * else, whatever the disk is called by then.
 */
#ifndef HEADROOM_DEVGUARD_H
#define HEADROOM_DEVGUARD_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DEVGUARD_MARK_BYTES 4096 /* at the end of the disk; not for cells */

/* Where a machine says what its disks are used for. Each is a path. */
struct devguard_places {
	const char *sys, *mountinfo, *swaps, *fstab, *by_id;
};
extern const struct devguard_places devguard_this_machine;

struct devguard {
	char name[PATH_MAX]; /* as it was given */
	char node[PATH_MAX]; /* where that leads to, "/dev/vdb" */
	int fd;		     /* open exclusively; below 0: it is not held */
};

/*
 * Take the disk `name` for cells that need `bytes` of it, or look again at one that is held; `g` is zeroed, with an fd
 * of -1, or what a call before left. Nothing is written. 0; -EINVAL when `name` can never be the name of such a disk;
 * another -errno when this disk is missing, too small, used or marked. Then `err` has the sentence that says what was
 * found and what is allowed, and the disk is not held.
 */
int devguard_take(struct devguard *g, const struct devguard_places *p, const char *name, uint64_t bytes, char *err,
		  size_t err_size);
/* Let go of it, so that a cell can claim it. Also where it is not held. */
void devguard_release(struct devguard *g);
/*
 * Make the first `bytes` of a disk that is held read as zero, as those of a new sparse file do. 0 or -errno (-EINTR
 * when we were interrupted).
 */
int devguard_blank(const struct devguard *g, uint64_t bytes);

/* Is the disk with this number claimed by anything but one device on top of it? 0, or -EBUSY when it is. */
int devguard_alone(const struct devguard_places *p, dev_t number);
/* Write the mark of a run onto a disk. 0 or -errno. */
int devguard_mark(const char *name, const char *run_id);
/*
 * Clear what a cell of this run has left where signatures are looked for, and the mark. 0, also when the disk does not
 * carry this run's mark (any more); -EBUSY when somebody uses it; another -errno.
 */
int devguard_clear(const char *name, const char *run_id);

/* --- The single questions; each is asked by devguard_take(). --- */

/* 0 with the node that a name leads to (PATH_MAX), or as devguard_take(). */
int devguard_find(const struct devguard_places *p, const char *name, char *node, char *err, size_t err_size);
/* Does anything use the block device of this number and node? 0, or -EBUSY with what it is. -EROFS: read-only. */
int devguard_used(const struct devguard_places *p, dev_t number, const char *node, char *what, size_t size);
/* Is it a part or a view of something else, a partition, a device-mapper or loop device? 0, or -EBUSY with of what. */
int devguard_derived(const struct devguard_places *p, dev_t number, char *what, size_t size);
/*
 * Is there a partition table, a file system or any other signature in what `fd` has open, a disk or an image of one?
 * 0: none; 1 with its kind in words; -errno.
 */
int devguard_signature(int fd, char *what, size_t size);

#endif
