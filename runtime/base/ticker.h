// SPDX-License-Identifier: MIT
/*
 * Progress on stderr that nobody waits for: a process of its own writes it. To say something is to write into memory
 * that it shares with us, without a system call; what it has not got round to is replaced by what is newer. Where
 * stderr leads to a terminal that stands still, or to a file on a file system that does, only that process does.
 */
#ifndef HEADROOM_TICKER_H
#define HEADROOM_TICKER_H

struct ticker;

/* 0, or -errno and *t is NULL. It ends with us, if not sooner. */
int ticker_start(struct ticker **t);
/* Show this text, as it is, up to half a kilobyte of it; then the one before need not be shown any more. */
void ticker_say(struct ticker *t, const char *text);
/* Give it half a second for what was said last, and end it. One that hangs in the kernel is left. NULL: nothing. */
void ticker_end(struct ticker *t);

#endif
