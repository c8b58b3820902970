// SPDX-License-Identifier: MIT
#include "hotplug/memrange.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SYSTEM_RAM "System RAM" /* that of drivers begins so: "System RAM (kmem)", "System RAM (virtio_mem)" */

int memrange_blocks(const char *root, const struct memrange *r, struct memblock *blocks, size_t max)
{
	static struct memblock all[MEMBLOCK_MAX];
	uint64_t size = 0;
	int n = memblock_list(root, all, MEMBLOCK_MAX), err = memblock_size(root, &size);
	size_t found = 0;

	if (n < 0 || err)
		return n < 0 ? n : err;
	for (int i = 0; i < n && found < max; i++) {
		uint64_t begin = all[i].phys_index * size;

		if (begin < r->begin + r->bytes && begin + size > r->begin)
			blocks[found++] = all[i];
	}
	return (int)found;
}

bool memrange_is_online(const char *root, const struct memrange *r)
{
	static struct memblock blocks[MEMBLOCK_MAX];
	int n = memrange_blocks(root, r, blocks, MEMBLOCK_MAX);
	uint64_t size = 0, online = 0;

	for (int i = 0; i < n; i++)
		online += blocks[i].state == MEMBLOCK_ONLINE;
	return memblock_size(root, &size) == 0 && online * size >= r->bytes;
}

static uint64_t overlap(const struct memrange *r, uint64_t begin, uint64_t end)
{
	if (begin < r->begin)
		begin = r->begin;
	if (end > r->begin + r->bytes)
		end = r->begin + r->bytes;
	return end > begin ? end - begin : 0;
}

int memrange_ram(const char *path, const struct memrange *r, uint64_t *bytes)
{
	FILE *f = fopen(path, "re");
	uint64_t begin, last, highest = 0;
	char line[256];
	int at = 0, err;

	if (!f)
		return -errno;
	*bytes = 0;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " : %n", &begin, &last, &at) != 2)
			continue;
		highest = last > highest ? last : highest;
		if (strncmp(line + at, SYSTEM_RAM, strlen(SYSTEM_RAM)) == 0)
			*bytes += overlap(r, begin, last + 1);
	}
	err = ferror(f) ? -EIO : highest ? 0 : -EACCES;
	fclose(f);
	return err;
}
