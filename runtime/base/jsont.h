// SPDX-License-Identifier: MIT
/* Putting text into jansson objects. (What must not allocate is written by jsonw instead.) */
#ifndef HEADROOM_JSONT_H
#define HEADROOM_JSONT_H

#include <jansson.h>

/* Member `key` of an object: the text, or null when it is NULL or empty. Bytes that are not UTF-8 become U+FFFD. */
void json_put_text(json_t *to, const char *key, const char *text);

#endif
