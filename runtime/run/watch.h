// SPDX-License-Identifier: MIT
/*
 * Looking after a cell while it runs, in a guest or on this machine: by the black box it is seen how far it has come
 * and that it lives, and from that it follows when it must be ended.
 */
#ifndef HEADROOM_WATCH_H
#define HEADROOM_WATCH_H

#include "record/blackbox.h"

#include <stdbool.h>
#include <stdint.h>

#define WATCH_POLL_MS 100

/* How a cell came to its end. */
enum end {
	END_ITSELF, /* complete */
	END_PANIC,
	END_NO_BOOT,  /* never reached our process */
	END_HANG,     /* no heartbeat */
	END_DEADLINE, /* ended by us, still alive */
	END_DIED,     /* the process that ran it, QEMU or our own, ended without being asked, the cell not complete */
	END_SIGNAL,   /* we were interrupted */
};

/* As the record has it. */
const char *end_name(enum end end, bool on_metal);

struct ending {
	enum end end;
	double boot_s; /* from QEMU's start to our process in the guest; negative: never, or there was no boot */
	double wall_s;
	int status; /* of the process that ran it: exit code, 128 + signal */
};

struct watch_limits {
	unsigned boot_s;     /* to reach our process */
	unsigned silence_s;  /* without a heartbeat it counts as hanging */
	unsigned deadline_s; /* for all of it */
};

/* What is known about a cell while it runs. Times are CLOCK_MONOTONIC; 0: not yet. */
struct watch {
	struct watch_limits limits;
	int64_t begin_ns, booted_ns, beat_ns, done_ns;
	int64_t panic_ns; /* set by who is told of one */
	uint32_t beat;
};

/* Called about ten times a second while a cell runs. */
typedef void watch_progress_fn(const struct bb *box, double wall_s, void *arg);

struct watch watch_begin(struct watch_limits limits);
/* Look at the box. */
void watch_look(struct watch *w, const struct bb *box);
/* Must it be ended now, and why? */
bool watch_must_end(const struct watch *w, enum end *why);
/* What became of it, now that its process is over with this wait status. `why`: it was ended by us; NULL: it was not.
 */
struct ending watch_end(const struct watch *w, const enum end *why, int wait_status);

#endif
