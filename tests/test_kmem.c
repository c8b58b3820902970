// SPDX-License-Identifier: MIT
/* cgroups/kmem: what a task is asked to hold, it holds. */
#include "cgroups/kmem.h"
#include "t.h"

#include <dirent.h>
#include <errno.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

/* In a child, which takes what it holds with it: how many more entries the directory has after the load, or -errno. */
static int grown(const char *directory, const struct kmem_load *load, unsigned fds)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		const struct rlimit limit = { fds, fds };
		int before = entries(directory), err;

		if (fds)
			setrlimit(RLIMIT_NOFILE, &limit);
		err = kmem_load(load);
		/* Not exit(): the sanitizers would wait for the threads. */
		_exit(err ? 128 - err : entries(directory) - before);
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	return WEXITSTATUS(status) > 128 ? 128 - WEXITSTATUS(status) : WEXITSTATUS(status);
}

static void each_kind_is_held(void **state)
{
	(void)state;
	assert_int_equal(grown("/proc/self/fd", &(struct kmem_load){ .inodes = 3 }, 0), 3);
	assert_int_equal(grown("/proc/self/fd", &(struct kmem_load){ .pipes = 3 }, 0), 6);
	assert_int_equal(grown("/proc/self/fd", &(struct kmem_load){ .sockets = 3, .epolls = 2 }, 0), 5);
	assert_int_equal(grown("/proc/self/task", &(struct kmem_load){ .stacks = 5 }, 0), 5);
	assert_int_equal(grown("/proc/self/fd", &(struct kmem_load){ .inodes = 4, .migrate = true }, 0), 4);
}

static void what_cannot_be_had_is_an_error(void **state)
{
	(void)state;
	assert_int_equal(grown("/proc/self/fd", &(struct kmem_load){ .inodes = 100 }, 20), -EMFILE);
	assert_int_equal(grown("/proc/self/fd", &(struct kmem_load){ .inodes = 1, .epolls = 100 }, 20), -EMFILE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kind_is_held),
		cmocka_unit_test(what_cannot_be_had_is_an_error),
	};

	return cmocka_run_group_tests_name("kmem", tests, NULL, NULL);
}
