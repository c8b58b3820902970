// SPDX-License-Identifier: MIT
/*
 * Device-mapper devices through libdevmapper, without udev: in the guest there is none, and on a machine that has one
 * our devices are nobody else's business. Nodes are made by the library under /dev/mapper.
 *
 * All return 0 or -errno.
 */
#ifndef HEADROOM_DMDEV_H
#define HEADROOM_DMDEV_H

#include <stddef.h>
#include <stdint.h>

/* Create and activate a device with one target over its whole length. -EBUSY when the name is taken. */
int dmdev_create(const char *name, uint64_t sectors, const char *target, const char *params);
/* Give a device another table, with its I/O suspended while the tables change; `between` runs in that time. */
int dmdev_swap_table(const char *name, uint64_t sectors, const char *target, const char *params,
		     int (*between)(void *arg), void *arg);
/* I/O to it waits until it is resumed: whoever reads or writes stands still, and its pages are held. */
int dmdev_suspend(const char *name);
int dmdev_resume(const char *name);
/*
 * Remove; tries again for two seconds while something still holds it, which a suspended device lets go of when it is
 * resumed. -ENXIO when there is none.
 */
int dmdev_remove(const char *name);
/* The status line of a device's only target, and its table line (that of a crypt target has the key in it). */
int dmdev_status(const char *name, char *buf, size_t size);
int dmdev_table(const char *name, char *buf, size_t size);
/* Is the target type in the kernel (its module loaded)? */
int dmdev_have_target(const char *target);

#endif
