// SPDX-License-Identifier: MIT
/* The run's journal: a line on disk before and after every cell, so that whatever happens in between is known. */
#ifndef HEADROOM_JOURNAL_H
#define HEADROOM_JOURNAL_H

#include <stdbool.h>

/*
 * Append {"utc":...,"boot_id":...,"event":EVENT, KEY: VALUE...} to DIR/journal.jsonl and fsync it. `pairs` are
 * key, value, key, value, NULL; a NULL value leaves the pair out. 0 or -errno.
 */
int journal_write(const char *dir, const char *event, const char *const *pairs);

/* The time now, 2026-11-21T09:30:00Z or, for file names, 20261121T093000Z, into buf (at least 24 bytes). */
void utc_stamp(char *buf, bool for_file);

#endif
