// SPDX-License-Identifier: MIT
#include "base/ticker.h"

#include "base/clock.h"
#include "base/spawn.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOOK_MS	  50
#define END_MS	  500
#define TEXT_SIZE 512

struct ticker {
	_Atomic unsigned turn; /* odd while the text is being written */
	_Atomic bool over;
	pid_t pid;
	char text[TEXT_SIZE];
};

/* A whole text, or none. *turn: of the last one that was taken. */
static bool take_text(const struct ticker *t, unsigned *turn, char *text)
{
	unsigned now = atomic_load(&t->turn);

	if (now == *turn || now % 2)
		return false;
	memcpy(text, t->text, TEXT_SIZE);
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load(&t->turn) != now)
		return false;
	*turn = now;
	return true;
}

static void show(const struct ticker *t)
{
	char text[TEXT_SIZE];
	unsigned turn = 0;
	bool over;

	do {
		/* Asked before the last look, so that what was said last is shown. */
		over = atomic_load(&t->over);
		if (take_text(t, &turn, text) && write(STDERR_FILENO, text, strlen(text)) < 0)
			break; /* there is nobody to tell */
		if (!over)
			clock_sleep_ms(LOOK_MS);
	} while (!over);
	_exit(0);
}

int ticker_start(struct ticker **t)
{
	struct ticker *new = mmap(NULL, sizeof(*new), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t parent = getpid(), pid;
	int err;

	*t = NULL;
	if (new == MAP_FAILED)
		return -errno;
	pid = fork();
	if (pid == 0) {
		spawn_die_with(parent);
		show(new);
	}
	if (pid < 0) {
		err = -errno;
		munmap(new, sizeof(*new));
		return err;
	}
	new->pid = pid;
	*t = new;
	return 0;
}

void ticker_say(struct ticker *t, const char *text)
{
	atomic_fetch_add(&t->turn, 1);
	atomic_thread_fence(memory_order_release);
	snprintf(t->text, TEXT_SIZE, "%s", text);
	atomic_fetch_add(&t->turn, 1);
}

void ticker_end(struct ticker *t)
{
	int status;

	if (!t)
		return;
	atomic_store(&t->over, true);
	if (!spawn_wait_until(t->pid, clock_ns() + END_MS * NS_PER_MS, &status)) {
		kill(t->pid, SIGKILL);
		spawn_wait_until(t->pid, clock_ns() + END_MS * NS_PER_MS, &status);
	}
	munmap(t, sizeof(*t));
}
