// SPDX-License-Identifier: MIT
#include "run/mitigation.h"

#include <stdio.h>
#include <string.h>

bool mitigation_switchable(const struct mitigation *m)
{
	return !m->gone;
}

unsigned mitigation_knobs(const struct mitigation *m)
{
	unsigned n = 0;

	while (n < MITIGATION_MAX_KNOBS && m->knobs[n].name)
		n++;
	return n;
}

const char *mitigation_knob_names(const struct mitigation *m, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < mitigation_knobs(m) && len < size; i++)
		len += (size_t)snprintf(buf + len, size - len, "%s%s", i ? "/" : "", m->knobs[i].name);
	return buf;
}

bool mitigation_value(const char *value, unsigned i, char *buf, size_t size)
{
	size_t len;

	for (; i; i--) {
		value = strchr(value, '/');
		if (!value)
			return false;
		value++;
	}
	len = strcspn(value, "/");
	if (!len || len >= size)
		return false;
	memcpy(buf, value, len);
	buf[len] = '\0';
	return true;
}

const char *mitigation_boot_value(const char *cmdline, const char *parameter, char *buf, size_t size)
{
	size_t len = strlen(parameter);

	snprintf(buf, size, "%s", BOOT_DEFAULT);
	for (const char *word = cmdline; *word; word += strspn(word, " \n")) {
		size_t word_len = strcspn(word, " \n");

		if (word_len > len && strncmp(word, parameter, len) == 0 && word[len] == '=')
			snprintf(buf, size, "%.*s", (int)(word_len - len - 1), word + len + 1);
		word += word_len;
	}
	return buf;
}

bool mitigation_value_fits(const struct mitigation *m, const char *value)
{
	unsigned n = mitigation_knobs(m);
	char part[64];

	for (unsigned i = 0; i < n; i++)
		if (!mitigation_value(value, i, part, sizeof(part)))
			return false;
	return !mitigation_value(value, n, part, sizeof(part)) && value[strlen(value) - 1] != '/';
}

bool mitigation_in_kernel(const struct mitigation *m, const char *version)
{
	unsigned major, minor, since_major, since_minor;

	if (!m->since || sscanf(m->since, "Linux %u.%u", &since_major, &since_minor) != 2 ||
	    sscanf(version, "%u.%u", &major, &minor) != 2)
		return true;
	return major > since_major || (major == since_major && minor >= since_minor);
}
