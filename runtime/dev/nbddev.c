// SPDX-License-Identifier: MIT
#include "dev/nbddev.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MAX_DEVICES 16 /* nbds_max, drivers/block/nbd.c */

int nbddev_unused(char *path, size_t size)
{
	for (unsigned i = 0; i < MAX_DEVICES; i++) {
		char connected[64];

		snprintf(path, size, "/dev/nbd%u", i);
		/* The attribute is there while it is connected. */
		snprintf(connected, sizeof(connected), "/sys/block/nbd%u/pid", i);
		if (access(path, F_OK) == 0 && access(connected, F_OK) < 0)
			return 0;
	}
	return -ENOENT;
}

int nbddev_fail_all(int fd)
{
	return ioctl(fd, NBD_CLEAR_SOCK) < 0 && errno != EINVAL ? -errno : 0;
}

int nbddev_disconnect(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	/* The first asks the server to go, which may not listen any more; the second lets all requests go. */
	ioctl(fd, NBD_DISCONNECT);
	err = nbddev_fail_all(fd);
	close(fd);
	return err;
}
