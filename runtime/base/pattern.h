// SPDX-License-Identifier: MIT
/*
 * Data that can be told from any other: blocks of 4096 bytes, each made from a key and its number, without a byte order
 * that compresses and without a block that is all zeros.
 */
#ifndef HEADROOM_PATTERN_H
#define HEADROOM_PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#define PATTERN_BLOCK 4096U

/* splitmix64's finalizer (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) */
uint64_t pattern_mix(uint64_t x);
void pattern_fill(uint64_t key, uint64_t number, void *block);
/* Is the block what pattern_fill() made? */
bool pattern_matches(uint64_t key, uint64_t number, const void *block);

#endif
