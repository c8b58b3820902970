// SPDX-License-Identifier: MIT
/*
 * JSON writer into a caller's buffer. It never allocates, so the recorder can use it while memory is exhausted.
 *
 * Calls nest as the JSON does; commas and quotes are the writer's business. When the buffer is full the writer turns
 * `overflow` on, drops what does not fit and stays safe; jsonw_line() then refuses the line as a whole.
 */
#ifndef HEADROOM_JSONW_H
#define HEADROOM_JSONW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jsonw {
	char *buf;     /* owned by the caller */
	size_t cap;    /* bytes in buf */
	size_t len;    /* bytes written so far */
	bool comma;    /* the next value needs a comma before it */
	bool overflow; /* something did not fit */
};

void jsonw_init(struct jsonw *j, void *buf, size_t cap);

/* Containers. The `key` forms below are for members of an object; a NULL key means an element of an array. */
void jsonw_object(struct jsonw *j, const char *key);
void jsonw_object_end(struct jsonw *j);
void jsonw_array(struct jsonw *j, const char *key);
void jsonw_array_end(struct jsonw *j);

/* Values. Strings may hold any bytes: controls are escaped, bytes that are not UTF-8 become U+FFFD. NULL is null. */
void jsonw_str(struct jsonw *j, const char *key, const char *value);
void jsonw_strn(struct jsonw *j, const char *key, const char *value, size_t len);
void jsonw_strf(struct jsonw *j, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void jsonw_u64(struct jsonw *j, const char *key, uint64_t value);
void jsonw_i64(struct jsonw *j, const char *key, int64_t value);
void jsonw_bool(struct jsonw *j, const char *key, bool value);
void jsonw_null(struct jsonw *j, const char *key);
/* A fixed-point number: value divided by 10^decimals (0 to 9), so that no floating point and no locale is involved. */
void jsonw_fixed(struct jsonw *j, const char *key, int64_t value, unsigned decimals);
/* Nanoseconds, written as seconds with six decimals. */
void jsonw_seconds(struct jsonw *j, const char *key, int64_t ns);
/* A value that is JSON already. The caller vouches for it. */
void jsonw_raw(struct jsonw *j, const char *key, const char *json);

/* End the line with a newline. Returns its length, or 0 if it did not fit. */
size_t jsonw_line(struct jsonw *j);

#endif
