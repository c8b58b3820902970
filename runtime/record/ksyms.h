// SPDX-License-Identifier: MIT
/*
 * Names of kernel functions by their address, from /proc/kallsyms. Only what a function pointer can point to is kept,
 * so that a kernel's hundred thousand symbols take about two megabytes.
 */
#ifndef HEADROOM_KSYMS_H
#define HEADROOM_KSYMS_H

#include <stddef.h>
#include <stdint.h>

struct ksyms;

/* Read a file of that format. NULL and *err = -errno; -EPERM where all addresses are zero: they are hidden from us. */
struct ksyms *ksyms_load(const char *path, int *err);
/* Does a file of that format know a function of this name? 1, 0 or -errno; -ENODATA where it names nothing at all. */
int ksyms_has(const char *path, const char *function);
void ksyms_free(struct ksyms *k);
/* Bytes that it takes. */
size_t ksyms_size(const struct ksyms *k);
/* "do_work [dm_mod]", or the address where nothing begins at it. `k` may be NULL. Returns buf. */
const char *ksyms_name(const struct ksyms *k, uint64_t address, char *buf, size_t size);

#endif
