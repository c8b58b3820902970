// SPDX-License-Identifier: MIT
#include "base/jsonw.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void jsonw_init(struct jsonw *j, void *buf, size_t cap)
{
	*j = (struct jsonw){ .buf = buf, .cap = cap };
}

static void put(struct jsonw *j, const char *s, size_t len)
{
	if (j->overflow || len > j->cap - j->len) {
		j->overflow = true;
		return;
	}
	memcpy(j->buf + j->len, s, len);
	j->len += len;
}

static void put_char(struct jsonw *j, char c)
{
	if (j->overflow || j->len == j->cap)
		j->overflow = true;
	else
		j->buf[j->len++] = c;
}

/* Length of the valid UTF-8 sequence at s (RFC 3629: no overlong forms, no surrogates), or 0. */
static size_t utf8_len(const unsigned char *s, size_t left)
{
	size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	unsigned char low = 0x80, high = 0xbf;

	if (s[0] < 0xc2 || s[0] > 0xf4 || left < n)
		return 0;
	if (s[0] == 0xe0)
		low = 0xa0;
	else if (s[0] == 0xed)
		high = 0x9f;
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f;
	if (s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

static void put_string(struct jsonw *j, const char *s, size_t len)
{
	static const char hex[] = "0123456789abcdef";
	const unsigned char *p = (const unsigned char *)s;

	put_char(j, '"');
	for (size_t i = 0; i < len;) {
		size_t run = i;

		while (run < len && p[run] >= 0x20 && p[run] < 0x7f && p[run] != '"' && p[run] != '\\')
			run++;
		put(j, s + i, run - i);
		i = run;
		if (i == len)
			break;
		if (p[i] == '"' || p[i] == '\\') {
			char esc[2] = { '\\', s[i] };

			put(j, esc, 2);
			i++;
		} else if (p[i] == '\n') {
			put(j, "\\n", 2);
			i++;
		} else if (p[i] < 0x20 || p[i] == 0x7f) {
			char esc[6] = { '\\', 'u', '0', '0', hex[p[i] >> 4], hex[p[i] & 15] };

			put(j, esc, 6);
			i++;
		} else {
			size_t n = utf8_len(p + i, len - i);

			if (n)
				put(j, s + i, n);
			else
				put(j, "\\ufffd", 6);
			i += n ? n : 1;
		}
	}
	put_char(j, '"');
}

/* A key is nearly always plain text that fits: then it is copied and checked in one pass. */
static bool put_plain_key(struct jsonw *j, const char *key)
{
	size_t room = j->overflow ? 0 : j->cap - j->len;
	char *p = j->buf + j->len, *end = p + room;

	if (room < 4)
		return false;
	*p++ = '"';
	for (; *key; key++) {
		if (end - p < 3 || *key < 0x20 || *key == 0x7f || *key == '"' || *key == '\\')
			return false;
		*p++ = *key;
	}
	*p++ = '"';
	*p++ = ':';
	j->len = (size_t)(p - j->buf);
	return true;
}

static void before_value(struct jsonw *j, const char *key)
{
	if (j->comma)
		put_char(j, ',');
	if (key && !put_plain_key(j, key)) {
		put_string(j, key, strlen(key));
		put_char(j, ':');
	}
	j->comma = true;
}

static void open_container(struct jsonw *j, const char *key, char bracket)
{
	before_value(j, key);
	put_char(j, bracket);
	j->comma = false;
}

static void close_container(struct jsonw *j, char bracket)
{
	put_char(j, bracket);
	j->comma = true;
}

void jsonw_object(struct jsonw *j, const char *key)
{
	open_container(j, key, '{');
}

void jsonw_object_end(struct jsonw *j)
{
	close_container(j, '}');
}

void jsonw_array(struct jsonw *j, const char *key)
{
	open_container(j, key, '[');
}

void jsonw_array_end(struct jsonw *j)
{
	close_container(j, ']');
}

void jsonw_strn(struct jsonw *j, const char *key, const char *value, size_t len)
{
	before_value(j, key);
	put_string(j, value, len);
}

void jsonw_str(struct jsonw *j, const char *key, const char *value)
{
	if (value)
		jsonw_strn(j, key, value, strlen(value));
	else
		jsonw_null(j, key);
}

void jsonw_strf(struct jsonw *j, const char *key, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	jsonw_str(j, key, text);
}

static void put_digits(struct jsonw *j, uint64_t value, unsigned min_digits)
{
	char digits[20];
	unsigned n = sizeof(digits);

	while (value || n > sizeof(digits) - min_digits) {
		digits[--n] = (char)('0' + value % 10);
		value /= 10;
	}
	put(j, digits + n, sizeof(digits) - n);
}

void jsonw_u64(struct jsonw *j, const char *key, uint64_t value)
{
	before_value(j, key);
	put_digits(j, value, 1);
}

void jsonw_i64(struct jsonw *j, const char *key, int64_t value)
{
	jsonw_fixed(j, key, value, 0);
}

void jsonw_fixed(struct jsonw *j, const char *key, int64_t value, unsigned decimals)
{
	uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
	uint64_t scale = 1;

	for (unsigned i = 0; i < decimals && i < 9; i++)
		scale *= 10;
	before_value(j, key);
	if (value < 0)
		put_char(j, '-');
	put_digits(j, magnitude / scale, 1);
	if (scale > 1) {
		put_char(j, '.');
		put_digits(j, magnitude % scale, decimals < 9 ? decimals : 9);
	}
}

void jsonw_seconds(struct jsonw *j, const char *key, int64_t ns)
{
	jsonw_fixed(j, key, ns / 1000, 6);
}

void jsonw_bool(struct jsonw *j, const char *key, bool value)
{
	jsonw_raw(j, key, value ? "true" : "false");
}

void jsonw_null(struct jsonw *j, const char *key)
{
	jsonw_raw(j, key, "null");
}

void jsonw_raw(struct jsonw *j, const char *key, const char *json)
{
	before_value(j, key);
	put(j, json, strlen(json));
}

size_t jsonw_line(struct jsonw *j)
{
	put_char(j, '\n');
	return j->overflow ? 0 : j->len;
}
