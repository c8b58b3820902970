// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static enum log_level threshold = LOG_INFO;
static int stamps;

void log_set_level(enum log_level level)
{
	threshold = level;
}

void log_set_stamps(int on)
{
	stamps = on;
}

void log_at(enum log_level level, const char *fmt, ...)
{
	static const char *const prefix[] = { "error: ", "warning: ", "", "debug: " };
	char line[2048];
	struct timespec now;
	int len = 0;
	va_list ap;

	if (level > threshold)
		return;
	if (stamps) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		len = snprintf(line, sizeof(line), "[%6lld.%03ld] ", (long long)now.tv_sec, now.tv_nsec / 1000000);
	}
	len += snprintf(line + len, sizeof(line) - (size_t)len, "headroom: %s", prefix[level]);
	va_start(ap, fmt);
	len += vsnprintf(line + len, sizeof(line) - (size_t)len, fmt, ap);
	va_end(ap);
	if (len > (int)sizeof(line) - 2)
		len = (int)sizeof(line) - 2;
	line[len++] = '\n';
	/* One write, so that lines of several processes do not mix. There is nobody to tell if it fails. */
	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		return;
}
