// SPDX-License-Identifier: MIT
#include "base/sysfile.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int sysfile_write(const char *path, const char *value)
{
	size_t len = strlen(value);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, value, len);
	if (n < 0)
		err = -errno;
	else if ((size_t)n != len)
		err = -EIO;
	if (close(fd) < 0 && !err)
		err = -errno;
	return err;
}

ssize_t sysfile_read(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n, err;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, cap - 1);
	err = -errno;
	close(fd);
	if (n < 0)
		return err;
	while (n > 0 && isspace((unsigned char)buf[n - 1]))
		n--;
	buf[n] = '\0';
	return n;
}

int sysfile_read_u64(const char *path, uint64_t *value)
{
	char text[64], *end;
	ssize_t n = sysfile_read(path, text, sizeof(text));

	if (n < 0)
		return (int)n;
	errno = 0;
	*value = strtoull(text, &end, 10);
	if (errno)
		return -errno;
	return end == text || *end ? -EINVAL : 0;
}

int sysfile_read_key(const char *path, const char *key, uint64_t *value)
{
	char text[16384], *line, *rest = text, *end;
	size_t len = strlen(key);
	ssize_t n = sysfile_read(path, text, sizeof(text));

	if (n < 0)
		return (int)n;
	while ((line = strsep(&rest, "\n"))) {
		if (strncmp(line, key, len) != 0 || !line[len] || !strchr(" :", line[len]))
			continue;
		line += len + 1;
		line += strspn(line, " \t");
		if (!isdigit((unsigned char)*line))
			return -EINVAL;
		errno = 0;
		*value = strtoull(line, &end, 10);
		return -errno;
	}
	return -ENODATA;
}

int sysfile_replace(const char *path, const void *data, size_t len)
{
	char tmp[PATH_MAX];
	const char *p = data;
	int fd, err = 0;

	if (snprintf(tmp, sizeof(tmp), "%s.tmp", path) >= (int)sizeof(tmp))
		return -ENAMETOOLONG;
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	while (len && !err) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno != EINTR)
			err = -errno;
		else if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	if (!err && fsync(fd) < 0)
		err = -errno;
	if (close(fd) < 0 && !err)
		err = -errno;
	if (!err && rename(tmp, path) < 0)
		err = -errno;
	if (err)
		unlink(tmp);
	return err;
}

int sysfile_mkdirs(const char *path)
{
	char part[PATH_MAX];
	size_t len = strlen(path);

	if (len >= sizeof(part))
		return -ENAMETOOLONG;
	memcpy(part, path, len + 1);
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	if (mkdir(part, 0755) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}
