// SPDX-License-Identifier: MIT
/*
 * Sizes of the few objects that each of many groups has: twenty, from 64 bytes to 4 KiB, as a machine's caches are. The
 * allocator's test, its benchmark and the workload have the same, so that their figures can be set side by side.
 */
#ifndef HEADROOM_SPARSE_H
#define HEADROOM_SPARSE_H

#include <stdint.h>

static const uint16_t sparse_sizes[] = { 64,  96,  128, 160, 192,  224,	 256,  320,  384,  448,
					 512, 640, 768, 896, 1024, 1280, 1536, 2048, 3072, 4096 };

#define SPARSE_SIZES (sizeof(sparse_sizes) / sizeof(*sparse_sizes))

#endif
