// SPDX-License-Identifier: MIT
/*
 * Why the kernel did not take a block offline, in its own words: a debug message (mm/memory_hotplug.c, "memory
 * offlining [mem ..] failed due to REASON"), which has to be switched on (the runner does).
 */
#ifndef HEADROOM_REASONS_H
#define HEADROOM_REASONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct klog;

struct reasons {
	int fd;		   /* a kernel log to follow, from /dev/kmsg */
	struct klog *klog; /* its classifier */
	/* The newest failure that was read. */
	uint64_t begin; /* physical address of the block */
	char words[128];
	bool fresh; /* nobody was told yet */
};

/* Follow `path` ("/dev/kmsg") from its present end on. 0 or -errno. */
int reasons_open(struct reasons *r, const char *path);
void reasons_close(struct reasons *r);
/*
 * Why the last offline of the block that begins at this physical address failed, into buf. False when the kernel has
 * not said anything since the last call. Never waits.
 */
bool reasons_last(struct reasons *r, uint64_t begin, char *buf, size_t size);

#endif
