// SPDX-License-Identifier: MIT
#include "run/copystate.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/sysfile.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#define SCHEMA "headroom.copy-state/1"
#define SIZE   1024 /* it has some 300 bytes */

struct copystate_file copystate_file(const struct stat *st, uint64_t size)
{
	if (S_ISBLK(st->st_mode))
		return (struct copystate_file){ .device = st->st_rdev, .size = size };
	return (struct copystate_file){ .device = st->st_dev,
					.inode = st->st_ino,
					.size = (uint64_t)st->st_size,
					.mtime_ns = st->st_mtim.tv_sec * NS_PER_S + st->st_mtim.tv_nsec };
}

bool copystate_same_source(const struct copystate *a, const struct copystate *b)
{
	return memcmp(&a->source, &b->source, sizeof(a->source)) == 0;
}

bool copystate_same_dest(const struct copystate *a, const struct copystate *b)
{
	return a->dest.device == b->dest.device && a->dest.inode == b->dest.inode;
}

int copystate_load(const char *path, struct copystate *s)
{
	json_int_t source[4], dest[2], done;
	const char *schema;
	char text[SIZE];
	ssize_t len = sysfile_read(path, text, sizeof(text));
	json_t *root;
	int err;

	if (len < 0)
		return (int)len;
	root = json_loadb(text, (size_t)len, 0, NULL);
	err = json_unpack(root, "{s:s, s:{s:I, s:I, s:I, s:I}, s:{s:I, s:I}, s:I}", "schema", &schema, "source",
			  "device", &source[0], "inode", &source[1], "size", &source[2], "mtime_ns", &source[3], "dest",
			  "device", &dest[0], "inode", &dest[1], "done", &done);
	if (err || strcmp(schema, SCHEMA) != 0 || done < 0 || source[2] < 0 || done > source[2]) {
		json_decref(root);
		return -EBADMSG;
	}
	*s = (struct copystate){ .source = { .device = (uint64_t)source[0],
					     .inode = (uint64_t)source[1],
					     .size = (uint64_t)source[2],
					     .mtime_ns = source[3] },
				 .dest = { .device = (uint64_t)dest[0], .inode = (uint64_t)dest[1] },
				 .done = (uint64_t)done };
	json_decref(root);
	return 0;
}

int copystate_save(const char *path, const struct copystate *s)
{
	char text[SIZE];
	struct jsonw j;
	size_t len;

	jsonw_init(&j, text, sizeof(text));
	jsonw_object(&j, NULL);
	jsonw_str(&j, "schema", SCHEMA);
	jsonw_object(&j, "source");
	/* Signed, because that is what jansson reads. */
	jsonw_i64(&j, "device", (int64_t)s->source.device);
	jsonw_i64(&j, "inode", (int64_t)s->source.inode);
	jsonw_i64(&j, "size", (int64_t)s->source.size);
	jsonw_i64(&j, "mtime_ns", s->source.mtime_ns);
	jsonw_object_end(&j);
	jsonw_object(&j, "dest");
	jsonw_i64(&j, "device", (int64_t)s->dest.device);
	jsonw_i64(&j, "inode", (int64_t)s->dest.inode);
	jsonw_object_end(&j);
	jsonw_i64(&j, "done", (int64_t)s->done);
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	return len ? sysfile_replace(path, text, len) : -EOVERFLOW;
}
