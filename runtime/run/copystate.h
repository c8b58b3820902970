// SPDX-License-Identifier: MIT
/* What `headroom copy` keeps beside the destination until it has ended, so that it can go on. */
#ifndef HEADROOM_COPYSTATE_H
#define HEADROOM_COPYSTATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define COPYSTATE_SUFFIX ".headroom-copy"

/* A file or a device, and whether it is still what it was. A device has no inode and no mtime. */
struct copystate_file {
	uint64_t device, inode;
	uint64_t size; /* bytes */
	int64_t mtime_ns;
};

struct copystate {
	struct copystate_file source, dest; /* of `dest` only device and inode count */
	uint64_t done;			    /* bytes from the start that are in the destination, and flushed */
};

/* `size`: that of a device, which stat(2) does not know. */
struct copystate_file copystate_file(const struct stat *st, uint64_t size);
bool copystate_same_source(const struct copystate *a, const struct copystate *b);
bool copystate_same_dest(const struct copystate *a, const struct copystate *b);
/* 0; -ENOENT: there is none; -EBADMSG: it is not such a file, or has been damaged; or -errno. */
int copystate_load(const char *path, struct copystate *s);
/* On disk when it returns 0; until then the old one is. */
int copystate_save(const char *path, const struct copystate *s);

#endif
