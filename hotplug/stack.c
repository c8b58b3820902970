// SPDX-License-Identifier: MIT
#include "hotplug/stack.h"

#include "base/sysfile.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

void stack_parse(struct stack *s, const char *text, size_t len)
{
	const char *end = text + len;

	s->n = 0;
	while (text < end && s->n < STACK_FRAMES) {
		const char *newline = memchr(text, '\n', (size_t)(end - text)), *stop = newline ? newline : end;
		const char *name = memchr(text, ']', (size_t)(stop - text));
		size_t size;

		if (name && name + 2 < stop && name[1] == ' ') {
			name += 2;
			for (size = 0; name + size < stop && name[size] != '+' && name[size] != ' '; size++)
				;
			if (size > 0 && size < STACK_NAME) {
				memcpy(s->names[s->n], name, size);
				s->names[s->n++][size] = '\0';
			}
		}
		text = newline ? newline + 1 : end;
	}
}

void stack_read(struct stack *s, const char *proc, pid_t pid)
{
	char path[PATH_MAX], text[STACK_TEXT];
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%d/stack", proc, (int)pid);
	n = sysfile_read(path, text, sizeof(text));
	stack_parse(s, text, n > 0 ? (size_t)n : 0);
}

bool stack_is(const char *frame, const char *function)
{
	size_t len = strlen(function);

	return strncmp(frame, function, len) == 0 && (!frame[len] || frame[len] == '.');
}

unsigned stack_find(const struct stack *s, const char *function)
{
	unsigned i = 0;

	while (i < s->n && !stack_is(s->names[i], function))
		i++;
	return i;
}
