// SPDX-License-Identifier: MIT
#include "base/jsont.h"

#include "base/jsonw.h"

#include <stdlib.h>
#include <string.h>

/* jansson takes no string that is not UTF-8: a console's last words may be anything, and a cut can halve a character.
 */
static json_t *repaired(const char *text)
{
	size_t size = strlen(text) * 6 + 3; /* every byte escaped, and the quotes */
	char *buf = malloc(size);
	json_t *value = NULL;
	struct jsonw j;

	if (!buf)
		return NULL;
	jsonw_init(&j, buf, size);
	jsonw_str(&j, NULL, text);
	if (!j.overflow)
		value = json_loadb(buf, j.len, JSON_DECODE_ANY, NULL);
	free(buf);
	return value;
}

void json_put_text(json_t *to, const char *key, const char *text)
{
	json_t *value = NULL;

	if (text && *text) {
		value = json_string(text);
		if (!value)
			value = repaired(text);
	}
	json_object_set_new(to, key, value ? value : json_null());
}
