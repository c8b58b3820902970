// SPDX-License-Identifier: MIT
/*
 * From a black box to the files of a record: samples.jsonl, events.jsonl (kernel events classified, harness events
 * merged in by time), kmsg.log and tools/. Works on whatever the box holds, however its machine ended.
 */
#ifndef HEADROOM_EXTRACT_H
#define HEADROOM_EXTRACT_H

#include "record/blackbox.h"

#include <stdint.h>

struct extract_result {
	uint64_t samples, events, kmsg_records, console_records; /* console: those the box did not have */
	uint64_t kmsg_dropped; /* lines of user space that gave way to newer ones in the box */
	uint64_t torn;	       /* records of the box that were never finished */
	uint64_t bad_lines;    /* of the box, that are not what they should be */
};

/*
 * `console` (may be NULL) is the serial console's log: what the kernel still said after the recorder had stopped
 * reading, a panic above all, is taken from there. 0 or -errno.
 */
int extract_record(const struct bb *box, const char *dir, const char *console, struct extract_result *result);

#endif
