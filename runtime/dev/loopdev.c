// SPDX-License-Identifier: MIT
#include "dev/loopdev.h"

#include "base/clock.h"
#include "base/sysfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define NODE_MS 2000 /* for udev to make the node of a device that is new */
#define LOOK_MS 20

int loopdev_unused(char *device, size_t size)
{
	int fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number;
	int64_t deadline = clock_ns() + NODE_MS * NS_PER_MS;

	if (fd < 0)
		return errno == ENODEV || errno == ENXIO ? -ENOENT : -errno;
	number = ioctl(fd, LOOP_CTL_GET_FREE);
	if (number < 0)
		number = -errno;
	close(fd);
	if (number < 0)
		return number;
	snprintf(device, size, "/dev/loop%d", number);
	while (access(device, F_OK) < 0) {
		if (clock_ns() >= deadline)
			return -ENODEV;
		clock_sleep_ms(LOOK_MS);
	}
	return 0;
}

/* An entry in sysfs of a device that is over a file; below 0 where it is over none. */
static ssize_t read_entry(const char *device, const char *name, char *buf, size_t size)
{
	const char *slash = strrchr(device, '/');
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/block/%s/loop/%s", slash ? slash + 1 : device, name);
	return sysfile_read(path, buf, size);
}

int loopdev_attach(const char *device, const char *file, bool *direct)
{
	struct loop_config config = { .info.lo_flags = LO_FLAGS_DIRECT_IO };
	int fd = open(device, O_RDWR | O_CLOEXEC), backing = open(file, O_RDWR | O_CLOEXEC), err = 0;
	char dio[8] = "";

	if (fd < 0 || backing < 0) {
		err = -errno;
	} else {
		config.fd = (__u32)backing;
		snprintf((char *)config.info.lo_file_name, LO_NAME_SIZE, "%s", file);
		err = ioctl(fd, LOOP_CONFIGURE, &config) < 0 ? -errno : 0;
	}
	/* What older kernels overlook newer ones refuse: a file system that cannot do direct I/O. */
	if (err == -EINVAL) {
		config.info.lo_flags = 0;
		err = ioctl(fd, LOOP_CONFIGURE, &config) < 0 ? -errno : 0;
	}
	if (backing >= 0)
		close(backing);
	if (fd >= 0)
		close(fd);
	*direct = !err && read_entry(device, "dio", dio, sizeof(dio)) >= 0 && strcmp(dio, "1") == 0;
	return err;
}

int loopdev_detach(const char *device, const char *file)
{
	char over[PATH_MAX];
	int fd, err;

	if (read_entry(device, "backing_file", over, sizeof(over)) < 0 || strcmp(over, file) != 0)
		return 0;
	fd = open(device, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = ioctl(fd, LOOP_CLR_FD) < 0 ? -errno : 0;
	close(fd);
	return err;
}
