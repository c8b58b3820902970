// SPDX-License-Identifier: MIT
#include "base/opts.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	char *end;
	uint64_t v;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || *end || v < min || v > max)
		return -EINVAL;
	*value = v;
	return 0;
}

static int parse_bool(const char *text, bool *value)
{
	static const char *const words[] = { "no", "yes", "off", "on", "false", "true", "0", "1" };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(text, words[i]) == 0) {
			*value = i % 2 != 0;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_enum(const char *text, const char *const *choices, unsigned *value)
{
	for (unsigned i = 0; choices[i]; i++) {
		if (strcmp(text, choices[i]) == 0) {
			*value = i;
			return 0;
		}
	}
	return -EINVAL;
}

static void describe_allowed(const struct opt *opt, char *buf, size_t size)
{
	size_t len = 0;

	switch (opt->type) {
	case OPT_U64:
		snprintf(buf, size, "a whole number from %" PRIu64 " to %" PRIu64 "%s%s", opt->min, opt->max,
			 opt->unit ? " " : "", opt->unit ? opt->unit : "");
		break;
	case OPT_BOOL:
		snprintf(buf, size, "yes or no");
		break;
	case OPT_ENUM:
		buf[0] = '\0';
		for (unsigned i = 0; opt->choices[i] && len < size; i++)
			len += (size_t)snprintf(buf + len, size - len, "%s%s", i ? ", " : "one of ", opt->choices[i]);
		break;
	}
}

int opts_set(const struct opt *table, void *values, const char *name, const char *value, char *err, size_t err_size)
{
	const struct opt *opt = table;
	char allowed[512];
	void *field;
	int rc = -EINVAL;

	while (opt->name && strcmp(opt->name, name) != 0)
		opt++;
	if (!opt->name) {
		size_t len = (size_t)snprintf(err, err_size, "unknown option '%s' (there are:", name);

		for (opt = table; opt->name && len < err_size; opt++)
			len += (size_t)snprintf(err + len, err_size - len, " %s", opt->name);
		if (len < err_size)
			snprintf(err + len, err_size - len, ")");
		return -ENOENT;
	}
	field = (char *)values + opt->offset;
	switch (opt->type) {
	case OPT_U64:
		rc = parse_u64(value, opt->min, opt->max, field);
		break;
	case OPT_BOOL:
		rc = parse_bool(value, field);
		break;
	case OPT_ENUM:
		rc = parse_enum(value, opt->choices, field);
		break;
	}
	if (rc) {
		describe_allowed(opt, allowed, sizeof(allowed));
		snprintf(err, err_size, "%s = '%s': must be %s", name, value, allowed);
	}
	return rc;
}

void opts_defaults(const struct opt *table, void *values)
{
	char err[1024];

	for (const struct opt *opt = table; opt->name; opt++) {
		if (opts_set(table, values, opt->name, opt->def, err, sizeof(err))) {
			fprintf(stderr, "bad default in an option table: %s\n", err);
			abort();
		}
	}
}

void opts_format(const struct opt *opt, const void *values, char *buf, size_t size)
{
	const void *field = (const char *)values + opt->offset;

	switch (opt->type) {
	case OPT_U64:
		snprintf(buf, size, "%" PRIu64, *(const uint64_t *)field);
		break;
	case OPT_BOOL:
		snprintf(buf, size, "%s", *(const bool *)field ? "yes" : "no");
		break;
	case OPT_ENUM:
		snprintf(buf, size, "%s", opt->choices[*(const unsigned *)field]);
		break;
	}
}
