// SPDX-License-Identifier: MIT
/*
 * Messages for people, on stderr, one line an event. Data never goes through here.
 *
 * The level that knows the file and the value reports, once; leaves return -errno and say nothing.
 */
#ifndef HEADROOM_LOG_H
#define HEADROOM_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* What is shown: messages up to this level. Default LOG_INFO. */
void log_set_level(enum log_level level);
/* Stamp each line with CLOCK_MONOTONIC seconds (used inside the guest, where lines land on the console). */
void log_set_stamps(int on);

void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_err(...)  log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_dbg(...)  log_at(LOG_DEBUG, __VA_ARGS__)

#endif
