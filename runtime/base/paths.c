// SPDX-License-Identifier: MIT
#include "base/paths.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LANDMARK "workloads/scenarios"

char *paths_self(char *buf)
{
	ssize_t n = readlink("/proc/self/exe", buf, PATH_MAX - 1);

	buf[n > 0 ? n : 0] = '\0';
	return buf;
}

static void find_home(char *home)
{
	const char *env = getenv("HEADROOM_HOME");
	char probe[PATH_MAX + sizeof(LANDMARK) + 1];

	if (env && strlen(env) < PATH_MAX) {
		strcpy(home, env);
		return;
	}
	paths_self(home);
	for (char *slash; (slash = strrchr(home, '/'));) {
		*slash = '\0';
		snprintf(probe, sizeof(probe), "%s/" LANDMARK, home);
		if (access(probe, F_OK) == 0)
			return;
	}
	home[0] = '\0';
}

const char *paths_home(void)
{
	static char home[PATH_MAX];
	static int known;

	if (!known) {
		find_home(home);
		known = 1;
	}
	return home;
}

char *paths_in_home(char *buf, const char *relative)
{
	if (snprintf(buf, PATH_MAX, "%s/%s", paths_home(), relative) >= PATH_MAX)
		buf[0] = '\0';
	return buf;
}

char *paths_cache(char *buf)
{
	const char *env = getenv("HEADROOM_CACHE");

	if (!env)
		return paths_in_home(buf, "build/cache");
	snprintf(buf, PATH_MAX, "%s", env);
	return buf;
}
