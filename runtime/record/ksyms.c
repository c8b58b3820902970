// SPDX-License-Identifier: MIT
#include "record/ksyms.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct symbol {
	uint64_t address;
	uint32_t name, module; /* offsets into the names; module 0: none */
};

struct ksyms {
	struct symbol *symbols;
	char *names;
	size_t n, room, names_len, names_room;
};

static int keep_text(struct ksyms *k, const char *text, uint32_t *at)
{
	size_t len = strlen(text) + 1;

	if (k->names_len + len > k->names_room) {
		size_t room = k->names_room ? k->names_room * 2 : 1 << 20;
		char *more = realloc(k->names, room);

		if (!more)
			return -ENOMEM;
		k->names = more;
		k->names_room = room;
	}
	*at = (uint32_t)k->names_len;
	memcpy(k->names + k->names_len, text, len);
	k->names_len += len;
	return 0;
}

/* The compiler's fragments (".cold", ".isra.0") and the padding before functions are nobody's work function. */
static int is_function(char type, const char *name)
{
	return strchr("tTwW", type) && !strchr(name, '.') && strncmp(name, "__pfx_", 6) != 0;
}

/* "ffffffffc0a41230 t do_work	[dm_mod]" */
static int keep_line(struct ksyms *k, const char *line, char *last_module)
{
	char type, name[512], module[64] = "";
	uint64_t address;
	int err;

	if (sscanf(line, "%" SCNx64 " %c %511s [%63[^]]", &address, &type, name, module) < 3 || !address ||
	    !is_function(type, name))
		return 0;
	if (k->n == k->room) {
		size_t room = k->room ? k->room * 2 : 1 << 15;
		struct symbol *more = realloc(k->symbols, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		k->symbols = more;
		k->room = room;
	}
	k->symbols[k->n] = (struct symbol){ .address = address };
	err = keep_text(k, name, &k->symbols[k->n].name);
	if (!err && *module) {
		/* A module's symbols stand together. */
		if (strcmp(module, last_module) == 0) {
			k->symbols[k->n].module = k->symbols[k->n - 1].module;
		} else {
			err = keep_text(k, module, &k->symbols[k->n].module);
			strcpy(last_module, module);
		}
	} else {
		*last_module = '\0';
	}
	if (!err)
		k->n++;
	return err;
}

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->address != y->address ? (x->address < y->address ? -1 : 1)
					: (x->name > y->name) - (x->name < y->name);
}

static int read_all(struct ksyms *k, FILE *f)
{
	char *line = NULL, last_module[64] = "";
	size_t size = 0;
	int err = 0;

	while (!err && getline(&line, &size, f) > 0)
		err = keep_line(k, line, last_module);
	free(line);
	return err ? err : k->n ? 0 : -EPERM;
}

int ksyms_has(const char *path, const char *function)
{
	FILE *f = fopen(path, "re");
	size_t size = 0, len = strlen(function), lines = 0;
	char *line = NULL;
	bool found = false;

	if (!f)
		return -errno;
	/* "ffffffff81000200 T vmstat_update", with a tab and the module's name behind it or not */
	while (!found && getline(&line, &size, f) > 0) {
		const char *type = strchr(line, ' ');

		lines += type != NULL;
		found = type && type[1] && type[2] == ' ' && strncmp(type + 3, function, len) == 0 &&
			strchr("\t\n", type[3 + len]);
	}
	free(line);
	fclose(f);
	return found ? 1 : lines ? 0 : -ENODATA;
}

struct ksyms *ksyms_load(const char *path, int *err)
{
	struct ksyms *k = calloc(1, sizeof(*k));
	FILE *f = fopen(path, "re");
	uint32_t empty;

	*err = !k ? -ENOMEM : !f ? -errno : 0;
	if (!*err)
		*err = keep_text(k, "", &empty); /* offset 0 stands for no module */
	if (!*err)
		*err = read_all(k, f);
	if (f)
		fclose(f);
	if (*err) {
		ksyms_free(k);
		return NULL;
	}
	qsort(k->symbols, k->n, sizeof(*k->symbols), by_address);
	return k;
}

void ksyms_free(struct ksyms *k)
{
	if (!k)
		return;
	free(k->symbols);
	free(k->names);
	free(k);
}

size_t ksyms_size(const struct ksyms *k)
{
	return k ? sizeof(*k) + k->room * sizeof(*k->symbols) + k->names_room : 0;
}

const char *ksyms_name(const struct ksyms *k, uint64_t address, char *buf, size_t size)
{
	size_t low = 0, high = k ? k->n : 0;

	/* The first of several that share the address. */
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (k->symbols[middle].address < address)
			low = middle + 1;
		else
			high = middle;
	}
	if (k && low < k->n && k->symbols[low].address == address) {
		const struct symbol *s = &k->symbols[low];

		if (s->module)
			snprintf(buf, size, "%s [%s]", k->names + s->name, k->names + s->module);
		else
			snprintf(buf, size, "%s", k->names + s->name);
	} else {
		snprintf(buf, size, "0x%" PRIx64, address);
	}
	return buf;
}
