// SPDX-License-Identifier: MIT
/*
 * Checked access to small control files (/proc, /sys, cgroupfs): one read(2) or write(2), every error seen.
 * All return 0 (or a length) or -errno and print nothing; the caller knows what the file means.
 */
#ifndef HEADROOM_SYSFILE_H
#define HEADROOM_SYSFILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Write the whole value with one write(2). A short write is -EIO. */
int sysfile_write(const char *path, const char *value);
/* Read up to cap - 1 bytes; the text is NUL-terminated and loses trailing white space. Returns its length. */
ssize_t sysfile_read(const char *path, char *buf, size_t cap);
int sysfile_read_u64(const char *path, uint64_t *value);
/* The number after `key` in a file of lines "key 1" or "key: 1 kB", of up to 16 KiB. -ENODATA: no such line. */
int sysfile_read_key(const char *path, const char *key, uint64_t *value);
/* Write a file anew: into PATH.tmp, fsync, rename. Readers see the old text or the new one, never a part. */
int sysfile_replace(const char *path, const void *data, size_t len);
/* mkdir -p. */
int sysfile_mkdirs(const char *path);

#endif
