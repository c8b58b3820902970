// SPDX-License-Identifier: MIT
#include "run/watch.h"

#include "base/clock.h"
#include "base/spawn.h"

#include <sys/wait.h>

#define LEAVE_MS 5000 /* from "done" to the end of the process; a kernel with stuck tasks may never get there */
#define PANIC_MS 3000 /* from the panic event to the reset: the kernel is printing */

const char *end_name(enum end end, bool on_metal)
{
	static const char *const names[] = {
		[END_ITSELF] = "guest",	     [END_PANIC] = "panic", [END_NO_BOOT] = "no-boot", [END_HANG] = "hang",
		[END_DEADLINE] = "deadline", [END_DIED] = "qemu",   [END_SIGNAL] = "signal",
	};

	if (on_metal && end == END_ITSELF)
		return "cell";
	return on_metal && end == END_DIED ? "died" : names[end];
}

struct watch watch_begin(struct watch_limits limits)
{
	return (struct watch){ .limits = limits, .begin_ns = clock_ns() };
}

void watch_look(struct watch *w, const struct bb *box)
{
	uint32_t beat = atomic_load(&box->head->beat);
	uint32_t stage = atomic_load(&box->head->stage);
	int64_t now = clock_ns();

	if (beat != w->beat) {
		w->beat = beat;
		w->beat_ns = now;
	}
	if (!w->booted_ns && stage >= BB_BOOTED)
		w->booted_ns = w->beat_ns = now;
	if (!w->done_ns && stage == BB_DONE)
		w->done_ns = now;
}

bool watch_must_end(const struct watch *w, enum end *why)
{
	int64_t now = clock_ns();

	if (w->done_ns) {
		*why = END_ITSELF;
		return now - w->done_ns > LEAVE_MS * NS_PER_MS;
	}
	if (w->panic_ns) {
		*why = END_PANIC;
		return now - w->panic_ns > PANIC_MS * NS_PER_MS;
	}
	if (interrupted)
		*why = END_SIGNAL;
	else if (!w->booted_ns && now - w->begin_ns > w->limits.boot_s * NS_PER_S)
		*why = END_NO_BOOT;
	else if (w->booted_ns && now - w->beat_ns > w->limits.silence_s * NS_PER_S)
		*why = END_HANG;
	else if (now - w->begin_ns > w->limits.deadline_s * NS_PER_S)
		*why = END_DEADLINE;
	else
		return false;
	return true;
}

struct ending watch_end(const struct watch *w, const enum end *why, int wait_status)
{
	struct ending e = {
		.boot_s = w->booted_ns ? (double)(w->booted_ns - w->begin_ns) / 1e9 : -1,
		.wall_s = (double)(clock_ns() - w->begin_ns) / 1e9,
		.status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status),
	};

	/* A process that a signal ended says nothing about the kernel, not even that it does not boot. */
	e.end = why			   ? *why
		: w->done_ns		   ? END_ITSELF
		: w->panic_ns		   ? END_PANIC
		: interrupted		   ? END_SIGNAL
		: WIFSIGNALED(wait_status) ? END_DIED
		: !w->booted_ns		   ? END_NO_BOOT
					   : END_DIED;
	return e;
}
