// SPDX-License-Identifier: MIT
/*
 * Pages that cannot be moved, made on purpose, so that taking a memory block offline is stuck: each by a reference that
 * somebody in the kernel holds for as long as something does not go on.
 */
#ifndef HEADROOM_PINS_H
#define HEADROOM_PINS_H

#include "run/workload.h"

enum pin_kind {
	PIN_NONE,
	PIN_VMSPLICE, /* a page lies in a pipe that nobody reads */
	PIN_DIRECT,   /* a read with O_DIRECT into it, of a device-mapper device that is suspended */
	PIN_CORE,     /* a program dumps core into a pipe that nobody reads */
};

/* The names of the kinds, for an OPT_ENUM. */
extern const char *const pin_choices[];

#define PIN_DISK_SECTORS 2048 /* of scratch that PIN_DIRECT needs */

/* Pin one page by vmsplice(2) for as long as this process lives; its physical address. 0 or -errno. */
int pins_splice(uint64_t *address);

#define PIN_CORE_MAX_MS 50000 /* the reader of a core reads it after a minute, whatever happens */

struct pins {
	const struct cell *c;
	enum pin_kind kind;
	int64_t hold_ms; /* 0: until the end */
	int64_t gap_ms;	 /* between two */
	pid_t pid;	 /* of the process that does it */
};

/* In setup(): what has to be there, with its undo. 0 or -errno, after cell_fail(). */
int pins_prepare(const struct cell *c, enum pin_kind kind);
/*
 * In run(): pin a page, hold it, let it go, and so on, in a process of its own, from `c`, `kind`, `hold_ms` and
 * `gap_ms`. Each is an event of kind "pin", its end an "unpin"; of PIN_DIRECT and PIN_CORE it says where the page lay a
 * moment before it was held. 0 or -errno.
 */
int pins_start(struct pins *p);
/* Let go of the page and end it. 0, or -errno after cell_fail(): it could not do its work. */
int pins_stop(struct pins *p);

#endif
