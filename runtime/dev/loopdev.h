// SPDX-License-Identifier: MIT
/* Loop devices over files of our own. All return 0 or -errno. */
#ifndef HEADROOM_LOOPDEV_H
#define HEADROOM_LOOPDEV_H

#include <stdbool.h>
#include <stddef.h>

/* The name of a loop device that nobody uses now, "/dev/loop3". -ENOENT: this kernel has no loop devices. */
int loopdev_unused(char *device, size_t size);
/*
 * Lay it over this file, an absolute path, past the page cache where the file system can do that (*direct says whether
 * it does). -EBUSY: somebody was faster, ask for another.
 */
int loopdev_attach(const char *device, const char *file, bool *direct);
/* Take it off this file. 0 also when it is not over that file (any more): then it is not ours. */
int loopdev_detach(const char *device, const char *file);

#endif
