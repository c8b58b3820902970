// SPDX-License-Identifier: MIT
#include "record/blackbox.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAGIC 0x4b43 /* "CK" */
#define ALIGN	     8U
#define COMMITTED    1U
#define SAMPLE_BYTES 16384 /* 13 KiB with the slab caches of a Debian kernel */

struct record {
	uint16_t magic;
	uint16_t type;
	uint32_t len;
	_Atomic uint32_t committed;
	uint32_t pad;
};

static uint64_t record_size(uint64_t len)
{
	return (sizeof(struct record) + len + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
}

void bb_format(struct bb *box, void *memory, uint64_t size)
{
	*box = (struct bb){ .head = memory, .size = size };
	box->head->magic = BB_MAGIC;
	box->head->version = BB_VERSION;
	box->head->size = size;
	atomic_store(&box->head->tail, BB_LOG_OFFSET);
}

uint64_t bb_size_for(uint64_t samples)
{
	uint64_t size = BB_MIN_SIZE;

	/* Samples may fill four fifths of it. */
	while (size < BB_MAX_SIZE && size / 5 * 4 < samples * SAMPLE_BYTES)
		size *= 2;
	return size;
}

int bb_attach(struct bb *box, void *memory, uint64_t size)
{
	struct bb_header *head = memory;

	if (size < 2 * BB_LOG_OFFSET || head->magic != BB_MAGIC || head->version != BB_VERSION || head->size > size ||
	    head->size < 2 * BB_LOG_OFFSET || head->spec_len > BB_SPEC_MAX)
		return -EINVAL;
	*box = (struct bb){ .head = head, .size = head->size };
	return 0;
}

int bb_map_file(const char *path, uint64_t size, void **memory, uint64_t *mapped)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | (size ? O_CREAT : 0), 0644);
	struct stat st;
	int err = 0;

	if (fd < 0)
		return -errno;
	if (size)
		err = -posix_fallocate(fd, 0, (off_t)size);
	if (!err && fstat(fd, &st) < 0)
		err = -errno;
	if (!err && st.st_size < 2 * BB_LOG_OFFSET)
		err = -EINVAL;
	if (!err) {
		*mapped = (uint64_t)st.st_size;
		*memory = mmap(NULL, *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (*memory == MAP_FAILED)
			err = -errno;
	}
	close(fd);
	return err;
}

void bb_unmap(struct bb *box)
{
	if (box->head)
		munmap(box->head, box->size);
	box->head = NULL;
}

static uint64_t limit_for(const struct bb *box, enum bb_type type)
{
	uint64_t room = box->size - BB_LOG_OFFSET;

	if (type == BB_SAMPLE)
		return box->size - room / 5;
	return type == BB_KMSG || type == BB_FILE ? box->size - room / 20 : box->size;
}

int bb_append2(struct bb *box, enum bb_type type, const void *a, size_t a_len, const void *b, size_t b_len)
{
	struct bb_header *head = box->head;
	uint64_t need = record_size(a_len + b_len);
	uint64_t at = atomic_load_explicit(&head->tail, memory_order_relaxed);
	struct record *r;

	do {
		if (a_len + b_len > UINT32_MAX || need > limit_for(box, type) || at > limit_for(box, type) - need) {
			atomic_fetch_add(&head->lost, 1);
			return -ENOSPC;
		}
	} while (!atomic_compare_exchange_weak(&head->tail, &at, at + need));

	r = (struct record *)((char *)head + at);
	r->len = (uint32_t)(a_len + b_len);
	r->type = (uint16_t)type;
	r->magic = RECORD_MAGIC;
	memcpy(r + 1, a, a_len);
	if (b_len)
		memcpy((char *)(r + 1) + a_len, b, b_len);
	/* The body must be there before the word that says so: the reader is another machine. */
	atomic_store_explicit(&r->committed, COMMITTED, memory_order_release);
	return 0;
}

int bb_append(struct bb *box, enum bb_type type, const void *data, size_t len)
{
	return bb_append2(box, type, data, len, NULL, 0);
}

void bb_stage(struct bb *box, enum bb_stage stage)
{
	uint32_t now = atomic_load(&box->head->stage);

	while (now < stage && !atomic_compare_exchange_weak(&box->head->stage, &now, stage))
		;
	bb_beat(box);
}

void bb_beat(struct bb *box)
{
	atomic_fetch_add(&box->head->beat, 1);
}

bool bb_next(const struct bb *box, uint64_t *pos, enum bb_type *type, const char **data, size_t *len, uint64_t *torn)
{
	const char *base = (const char *)box->head;
	uint64_t end = atomic_load(&box->head->tail);
	uint64_t at = *pos ? *pos : BB_LOG_OFFSET;
	bool in_hole = false;

	if (end > box->size)
		end = box->size; /* a scribbled header */
	while (at + sizeof(struct record) <= end) {
		struct record *r = (struct record *)(base + at);
		bool sound = r->magic == RECORD_MAGIC && r->len <= end - at - sizeof(*r) && r->type >= BB_SAMPLE &&
			     r->type <= BB_FILE;

		if (!sound) {
			/* Its writer died between taking the space and writing the head. */
			*torn += !in_hole;
			in_hole = true;
			at += ALIGN;
			continue;
		}
		in_hole = false;
		at += record_size(r->len);
		if (atomic_load_explicit(&r->committed, memory_order_acquire) != COMMITTED) {
			++*torn;
			continue;
		}
		*type = (enum bb_type)r->type;
		*data = (const char *)(r + 1);
		*len = r->len;
		*pos = at;
		return true;
	}
	*pos = at;
	return false;
}
