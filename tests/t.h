// SPDX-License-Identifier: MIT
/* What every unit test includes: cmocka with its prerequisites, and a scratch directory. */
#ifndef HEADROOM_TEST_H
#define HEADROOM_TEST_H

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* A fresh directory for one test; the name lives as long as the program. */
static inline char *t_dir(void)
{
	static char name[64];

	strcpy(name, "/tmp/headroom-test-XXXXXX");
	assert_non_null(mkdtemp(name));
	return name;
}

static inline void t_remove(const char *dir)
{
	char command[128];

	assert_int_equal(strncmp(dir, "/tmp/headroom-test-", 19), 0);
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	assert_int_equal(system(command), 0);
}

static inline void t_write(const char *dir, const char *name, const char *text)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

/* A file's whole text, for the caller to free. */
static inline char *t_read(const char *dir, const char *name)
{
	char path[PATH_MAX], *text = NULL;
	size_t size = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	assert_non_null(f);
	if (getdelim(&text, &size, '\0', f) < 0) {
		free(text);
		text = strdup("");
	}
	fclose(f);
	return text;
}

#endif
