// SPDX-License-Identifier: MIT
/* What the record says of a try to take a memory block offline, or to bring it back (docs/record.md). */
#ifndef HEADROOM_BLOCK_EVENT_H
#define HEADROOM_BLOCK_EVENT_H

#include "hotplug/memblock.h"

struct block_event {
	const char *workload;
	unsigned block; /* N of memoryN */
	uint64_t block_bytes, round;
	const struct memblock_try *try;
	const char *reason; /* the kernel's; NULL or empty: none is known */
	uint64_t refusals;  /* of this block in a row */
	uint64_t pause_ms;  /* for which it is left alone now */
};

/* Into the record, as an event of this kind: "offline", "online", "offline-cut". */
void block_event_tell(const char *kind, const struct block_event *e);

#endif
