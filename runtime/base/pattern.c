// SPDX-License-Identifier: MIT
#include "base/pattern.h"

#include <stddef.h>

#define WORDS  (PATTERN_BLOCK / sizeof(uint64_t))
#define GOLDEN 0x9e3779b97f4a7c15ULL /* splitmix64's step: 2^64 over the golden ratio */

uint64_t pattern_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static uint64_t first_of(uint64_t key, uint64_t number)
{
	return pattern_mix(key ^ pattern_mix(number));
}

void pattern_fill(uint64_t key, uint64_t number, void *block)
{
	uint64_t x = first_of(key, number), *word = block;

	for (size_t i = 0; i < WORDS; i++, x += GOLDEN)
		word[i] = x ^ (x >> 29);
}

bool pattern_matches(uint64_t key, uint64_t number, const void *block)
{
	const uint64_t *word = block;
	uint64_t x = first_of(key, number), differs = 0;

	for (size_t i = 0; i < WORDS; i++, x += GOLDEN)
		differs |= word[i] ^ x ^ (x >> 29);
	return !differs;
}
