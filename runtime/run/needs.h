// SPDX-License-Identifier: MIT
/* What the host has: for the checks before a run and for the doctor. */
#ifndef HEADROOM_NEEDS_H
#define HEADROOM_NEEDS_H

#include <stdbool.h>
#include <stdint.h>

/* Is the program on PATH, or where the system's own programs are? "NAME?" is always fine. */
bool need_program(const char *program);
/* MemAvailable. 0 when it cannot be read. */
uint64_t need_memory_mib(void);
/* Free space, for us, of the file system that the path is or will be on. 0 or -errno. */
int need_disk_mib(const char *path, uint64_t *mib);

#endif
