// SPDX-License-Identifier: MIT
#include "engine/nt.h"

#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>

/*
 * Measured on an AMD EPYC, 1 GiB of pieces in random order, against memcpy(): 4 KiB 8 % less, 8 KiB 5 %, 16 KiB 2 %, 32
 * KiB 18 % more, 64 KiB 27 %.
 */
#define NT_MIN	   32768
#define LINE_BYTES 64

void nt_copy(void *to, const void *from, size_t len)
{
	char *t = to;
	const char *f = from;
	size_t lines = len / LINE_BYTES;

	if (len < NT_MIN || (uintptr_t)t % sizeof(__m128i)) {
		memcpy(to, from, len);
		return;
	}
	for (; lines; lines--, t += LINE_BYTES, f += LINE_BYTES) {
		__m128i a = _mm_loadu_si128((const __m128i *)f), b = _mm_loadu_si128((const __m128i *)(f + 16));
		__m128i c = _mm_loadu_si128((const __m128i *)(f + 32)), d = _mm_loadu_si128((const __m128i *)(f + 48));

		_mm_stream_si128((__m128i *)t, a);
		_mm_stream_si128((__m128i *)(t + 16), b);
		_mm_stream_si128((__m128i *)(t + 32), c);
		_mm_stream_si128((__m128i *)(t + 48), d);
	}
	_mm_sfence();
	memcpy(t, f, len % LINE_BYTES);
}
#else
void nt_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}
#endif
