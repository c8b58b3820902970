// SPDX-License-Identifier: MIT
#include "run/needs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

bool need_program(const char *program)
{
	char *path = NULL, *rest, *dir;
	char file[PATH_MAX];
	bool found = false;

	/* "NAME?": it is taken along where there is one. */
	if (program[strlen(program) - 1] == '?')
		return true;
	/* mke2fs and modprobe are in places that are not on everybody's PATH. */
	if (asprintf(&path, "%s:/usr/sbin:/sbin", getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin") < 0)
		return false;
	rest = path;
	while (!found && (dir = strsep(&rest, ":"))) {
		snprintf(file, sizeof(file), "%s/%s", *dir ? dir : ".", program);
		found = access(file, X_OK) == 0;
	}
	free(path);
	return found;
}

uint64_t need_memory_mib(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib / 1024;
}

/* The directory itself may not be there yet: what counts is the file system it will be on. */
int need_disk_mib(const char *where, uint64_t *mib)
{
	char path[PATH_MAX];
	struct statvfs st;

	snprintf(path, sizeof(path), "%s", *where ? where : ".");
	while (statvfs(path, &st) < 0) {
		char *slash = strrchr(path, '/');

		if (errno != ENOENT)
			return -errno;
		if (!slash)
			strcpy(path, ".");
		else if (slash == path)
			strcpy(path, "/");
		else
			*slash = '\0';
	}
	*mib = st.f_bavail * (st.f_frsize / 1024) / 1024;
	return 0;
}
