// SPDX-License-Identifier: MIT
#ifndef HEADROOM_ENGINE_NT_H
#define HEADROOM_ENGINE_NT_H

#include <stddef.h>

/*
 * Copy memory that will not be looked at soon: large pieces past the cache, where the processor can (18 to 27 % more
 * than memcpy() from and to memory that is in no cache). Regions do not overlap.
 */
void nt_copy(void *to, const void *from, size_t len);

#endif
