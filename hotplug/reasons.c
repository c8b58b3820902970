// SPDX-License-Identifier: MIT
#include "hotplug/reasons.h"

#include "record/klog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_MAX 8192 /* /dev/kmsg gives one record a read(2), and fails when it does not fit */

static void on_event(struct klog_event *ev, void *arg)
{
	struct reasons *r = arg;

	if (ev->kind != KLOG_OFFLINE_FAILURE || !*ev->what || sscanf(ev->where, "0x%" SCNx64, &r->begin) != 1)
		return;
	snprintf(r->words, sizeof(r->words), "%s", ev->what);
	r->fresh = true;
}

int reasons_open(struct reasons *r, const char *path)
{
	*r = (struct reasons){ .fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) };
	if (r->fd < 0)
		return -errno;
	lseek(r->fd, 0, SEEK_END);
	r->klog = klog_new(on_event, r);
	if (r->klog)
		return 0;
	close(r->fd);
	r->fd = -1;
	return -ENOMEM;
}

void reasons_close(struct reasons *r)
{
	klog_free(r->klog);
	if (r->fd >= 0)
		close(r->fd);
	*r = (struct reasons){ .fd = -1 };
}

static void read_all(struct reasons *r)
{
	char record[RECORD_MAX], text[KLOG_LINE_MAX];
	struct klog_record parsed;

	for (;;) {
		ssize_t n = read(r->fd, record, sizeof(record));

		if (n < 0 && (errno == EPIPE || errno == EINTR)) /* overwritten before it was read: goes on behind */
			continue;
		if (n <= 0)
			return;
		if (klog_parse_kmsg(record, (size_t)n, &parsed, text, sizeof(text)))
			klog_feed(r->klog, &parsed);
	}
}

bool reasons_last(struct reasons *r, uint64_t begin, char *buf, size_t size)
{
	bool known;

	if (r->fd < 0)
		return false;
	read_all(r);
	known = r->fresh && r->begin == begin;
	r->fresh = false;
	if (known)
		snprintf(buf, size, "%s", r->words);
	return known;
}
