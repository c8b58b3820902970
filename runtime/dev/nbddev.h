// SPDX-License-Identifier: MIT
/* Block devices of the kernel's NBD client, which somebody else connects (nbd-client(8)). */
#ifndef HEADROOM_NBDDEV_H
#define HEADROOM_NBDDEV_H

#include <stddef.h>

/*
 * The path of one that is not connected, "/dev/nbd0", and its name ("nbd0") below /sys/block. 0, or -ENOENT: there is
 * none (the module nbd is not loaded, or all are in use).
 */
int nbddev_unused(char *path, size_t size);
/*
 * End its connection, whoever made it and whatever is under way: requests that are not answered fail. 0, also when it
 * has none, or -errno.
 */
int nbddev_disconnect(const char *path);

/* The same of one that is open, without asking its server to go: it takes no memory. 0 or -errno. */
int nbddev_fail_all(int fd);

#endif
