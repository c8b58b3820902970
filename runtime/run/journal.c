// SPDX-License-Identifier: MIT
#include "run/journal.h"

#include "base/jsonw.h"
#include "base/sysfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

void utc_stamp(char *buf, bool for_file)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	if (for_file)
		strftime(buf, 24, "%Y%m%dT%H%M%SZ", &tm);
	else
		strftime(buf, 24, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

int journal_write(const char *dir, const char *event, const char *const *pairs)
{
	char line[4096], path[PATH_MAX], utc[24], boot_id[64] = "";
	struct jsonw j;
	char last;
	int fd, err = 0;
	ssize_t n;
	size_t len;

	utc_stamp(utc, false);
	sysfile_read("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
	jsonw_init(&j, line, sizeof(line));
	jsonw_object(&j, NULL);
	jsonw_str(&j, "utc", utc);
	jsonw_str(&j, "boot_id", boot_id);
	jsonw_str(&j, "event", event);
	for (; pairs && pairs[0]; pairs += 2)
		if (pairs[1])
			jsonw_str(&j, pairs[0], pairs[1]);
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	if (!len)
		return -ENOSPC;
	snprintf(path, sizeof(path), "%s/journal.jsonl", dir);
	fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	/* A line that was cut off must not take this one with it. */
	if (lseek(fd, -1, SEEK_END) >= 0 && read(fd, &last, 1) == 1 && last != '\n' && write(fd, "\n", 1) != 1)
		err = -EIO;
	n = write(fd, line, len);
	if (n < 0)
		err = -errno;
	else if ((size_t)n != len)
		err = -EIO;
	if (!err && fsync(fd) < 0)
		err = -errno;
	close(fd);
	return err;
}
