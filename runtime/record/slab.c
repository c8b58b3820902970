// SPDX-License-Identifier: MIT
#include "record/slab.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/sysfile.h"
#include "record/sources.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define TEXT_SIZE  (512 * 1024)
#define MAX_CACHES 1024 /* a Debian kernel has 200; more are left without a description */
#define NAME_SIZE  64

/*
 * A CPU's share where SLUB has sheaves (mm/slub.c of Linux 6.18 on: struct slub_percpu_sheaves, MAX_FULL_SHEAVES):
 * main, spare and one on its way to RCU for each CPU, and ten full ones in each node's barn.
 */
#define SHEAVES_PER_CPU	 3
#define SHEAVES_PER_NODE 10

struct entry {
	char name[NAME_SIZE];
	char id[NAME_SIZE]; /* what the name is a link to: the same for all that are merged; else empty */
};

struct caches {
	struct entry entry[MAX_CACHES];
	size_t n;
};

void slab_files_of_this_machine(struct slab_files *f)
{
	struct utsname name;
	int major = 0, minor = 0;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	char path[64];

	*f = (struct slab_files){
		.slabinfo = "/proc/slabinfo",
		.caches = "/sys/kernel/slab",
		.cpus = cpus > 0 ? (unsigned)cpus : 1,
	};
	do
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%u", ++f->nodes);
	while (access(path, F_OK) == 0);
	/* slub_set_cpu_partial(); before, a CPU kept up to cpu_partial slabs as long as each had an object free. */
	if (uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2)
		f->partial_in_slabs = major > 5 || (major == 5 && minor >= 16);
}

static ssize_t read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 0, len = 0;

	if (fd < 0)
		return -errno;
	while ((size_t)len < size - 1 && (n = read(fd, text + len, size - 1 - (size_t)len)) > 0)
		len += n;
	if (n < 0)
		len = -errno;
	close(fd);
	if (len >= 0)
		text[len] = '\0';
	return len;
}

static void list_caches(struct caches *c, const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d)) && c->n < MAX_CACHES) {
		struct entry *entry = &c->entry[c->n];
		char path[PATH_MAX];
		ssize_t len;

		if (e->d_name[0] == '.' || strlen(e->d_name) >= NAME_SIZE)
			continue;
		strcpy(entry->name, e->d_name);
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		len = readlink(path, entry->id, sizeof(entry->id) - 1);
		entry->id[len > 0 ? len : 0] = '\0';
		c->n++;
	}
	if (d)
		closedir(d);
}

static bool attribute(const struct slab_files *f, const char *cache, const char *name, uint64_t *value)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s/%s", f->caches, cache, name);
	return sysfile_read_u64(path, value) == 0;
}

static void describe_cache(struct jsonw *j, const struct slab_files *f, const struct caches *c, const char *name)
{
	uint64_t per_slab, partial = 0, capacity = 0, slabs;
	const struct entry *own = NULL;
	bool merged = false;

	/* Without its number of objects nothing can be said about a cache. */
	if (!attribute(f, name, "objs_per_slab", &per_slab) || !per_slab)
		return;
	attribute(f, name, "cpu_partial", &partial);
	attribute(f, name, "sheaf_capacity", &capacity);
	/* Before 5.16 a CPU gives its partial slabs back when their free objects are more than cpu_partial. */
	slabs = f->partial_in_slabs ? (2 * partial + per_slab - 1) / per_slab : partial + 1;
	jsonw_object(j, name);
	jsonw_u64(j, "per_slab", per_slab);
	jsonw_u64(j, "slack",
		  f->cpus * (1 + slabs) * per_slab +
			  (SHEAVES_PER_CPU * f->cpus + SHEAVES_PER_NODE * f->nodes) * capacity);
	for (size_t i = 0; i < c->n && !own; i++)
		if (strcmp(c->entry[i].name, name) == 0)
			own = &c->entry[i];
	for (size_t i = 0; own && *own->id && i < c->n; i++) {
		if (&c->entry[i] == own || strcmp(c->entry[i].id, own->id) != 0)
			continue;
		if (!merged)
			jsonw_array(j, "merged");
		merged = true;
		jsonw_str(j, NULL, c->entry[i].name);
	}
	if (merged)
		jsonw_array_end(j);
	jsonw_object_end(j);
}

static int append(struct bb *box, struct jsonw *j)
{
	size_t len;

	jsonw_str(j, "raw", "");
	jsonw_object_end(j);
	len = jsonw_line(j);
	return len ? bb_append(box, BB_EVENT, j->buf, len) : -EMSGSIZE;
}

static void begin(struct jsonw *j, char *buf, const char *kind)
{
	jsonw_init(j, buf, TEXT_SIZE);
	jsonw_object(j, NULL);
	jsonw_seconds(j, "t", clock_ns());
	jsonw_str(j, "kind", kind);
}

static void describe_all(struct jsonw *j, const struct slab_files *f, char *text)
{
	struct caches *caches = calloc(1, sizeof(*caches));
	char *line, *rest = text;

	if (!caches) {
		j->overflow = true;
		return;
	}
	list_caches(caches, f->caches);
	while ((line = strsep(&rest, "\n"))) {
		char *name = strsep(&line, " ");

		if (*name && *name != '#' && strcmp(name, "slabinfo") != 0 && strlen(name) < NAME_SIZE &&
		    !strchr(name, '/'))
			describe_cache(j, f, caches, name);
	}
	free(caches);
}

int slab_describe(struct bb *box, const struct slab_files *f)
{
	char *text = malloc(TEXT_SIZE), *out = malloc(TEXT_SIZE);
	ssize_t len = text && out ? read_text(f->slabinfo, text, TEXT_SIZE) : -ENOMEM;
	struct jsonw j;

	if (len >= 0) {
		begin(&j, out, "slab-caches");
		jsonw_u64(&j, "cpus", f->cpus);
		jsonw_object(&j, "caches");
		describe_all(&j, f, text);
		jsonw_object_end(&j);
		len = append(box, &j);
	}
	free(text);
	free(out);
	return (int)len;
}

/* How many caches there were that could not be shrunk. */
uint64_t slab_shrink_all(const struct slab_files *f)
{
	DIR *d = opendir(f->caches);
	uint64_t failed = 0;
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[PATH_MAX];
		int err;

		/* A link leads to a cache that has a directory of its own. */
		if (e->d_name[0] == '.' || e->d_type == DT_LNK)
			continue;
		snprintf(path, sizeof(path), "%s/%s/shrink", f->caches, e->d_name);
		err = sysfile_write(path, "1");
		failed += err != 0 && err != -ENOENT; /* a cache that has just gone */
	}
	if (!d)
		return 1;
	closedir(d);
	return failed;
}

int slab_shrink(struct bb *box, const struct slab_files *f)
{
	char *text = malloc(TEXT_SIZE), *out = malloc(TEXT_SIZE);
	ssize_t len = text && out ? read_text(f->slabinfo, text, TEXT_SIZE) : -ENOMEM;
	struct jsonw j;

	if (len >= 0) {
		begin(&j, out, "slab-shrunk");
		jsonw_object(&j, "before");
		source_slabinfo(&j, "slab", text, (size_t)len);
		jsonw_object_end(&j);
		jsonw_u64(&j, "not_shrunk", slab_shrink_all(f));
		len = read_text(f->slabinfo, text, TEXT_SIZE);
	}
	if (len >= 0) {
		jsonw_object(&j, "after");
		source_slabinfo(&j, "slab", text, (size_t)len);
		jsonw_object_end(&j);
		len = append(box, &j);
	}
	free(text);
	free(out);
	return (int)len;
}
