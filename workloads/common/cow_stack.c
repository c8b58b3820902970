// SPDX-License-Identifier: MIT
#include "workloads/common/cow_stack.h"

#include "base/pattern.h"
#include "dev/dmdev.h"
#include "run/undo.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXCEPTION_BYTES 16 /* struct disk_exception, drivers/md/dm-snap-persistent.c */

/* --- Names and sizes --- */

struct cow_name cow_name(const char *run_id, const char *what)
{
	struct cow_name n;

	snprintf(n.text, sizeof(n.text), "%s-%s", run_id, what);
	return n;
}

struct cow_name cow_numbered(const char *run_id, const char *what, uint64_t i)
{
	struct cow_name n;

	snprintf(n.text, sizeof(n.text), "%s-%s-%" PRIu64, run_id, what, i);
	return n;
}

struct cow_node cow_node(struct cow_name name)
{
	struct cow_node n;

	snprintf(n.path, sizeof(n.path), "/dev/mapper/%s", name.text);
	return n;
}

uint64_t cow_store_sectors(uint64_t origin, uint64_t chunk, bool persistent)
{
	uint64_t chunks = (origin + chunk - 1) / chunk, per_area = chunk * 512 / EXCEPTION_BYTES;

	/* Persistent: a header chunk, and an area of exceptions for every `per_area` chunks of data. */
	return (chunks + (persistent ? 1 + chunks / per_area + 1 : 0)) * chunk;
}

uint64_t cow_stack_sectors(const struct cow_stack *s)
{
	return s->origin + s->n * s->store;
}

/* --- The devices --- */

int cow_create(const struct cell *c, struct cow_name name, uint64_t sectors, const char *target, const char *params)
{
	int err = undo_note("dm", name.text, NULL);

	if (!err)
		err = dmdev_create(name.text, sectors, target, params);
	if (err)
		cell_fail(c, "create %s (%s %s): %s", name.text, target, params, strerror(-err));
	return err;
}

static int create_slice(const struct cell *c, struct cow_name name, uint64_t start, uint64_t sectors)
{
	char params[160];

	snprintf(params, sizeof(params), "%s %" PRIu64, c->scratch, c->scratch_start + start);
	return cow_create(c, name, sectors, "linear", params);
}

void cow_old_data(const struct cow_stack *s, uint64_t offset, void *buf, size_t len)
{
	if (s->zeros) {
		memset(buf, 0, len);
		return;
	}
	for (size_t at = 0; at < len; at += COW_STACK_BLOCK)
		pattern_fill(s->cell->seed, (offset + at) / COW_STACK_BLOCK, (char *)buf + at);
}

static size_t step_at(uint64_t at, uint64_t bytes)
{
	return bytes - at < COW_STACK_STEP ? (size_t)(bytes - at) : COW_STACK_STEP;
}

static int write_old_data(const struct cow_stack *s, const char *path)
{
	void *buf = aligned_alloc(COW_STACK_BLOCK, COW_STACK_STEP);
	int fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	int err = !buf ? -ENOMEM : fd < 0 ? -errno : 0;

	for (uint64_t at = 0, bytes = s->origin * 512; !err && at < bytes; at += COW_STACK_STEP) {
		size_t len = step_at(at, bytes);
		ssize_t n;

		cow_old_data(s, at, buf, len);
		n = pwrite(fd, buf, len, (off_t)at);
		if (n < 0)
			err = -errno;
		else if ((size_t)n != len)
			err = -EIO;
		if (!err && cell_should_stop(s->cell))
			err = -ETIMEDOUT;
	}
	if (fd >= 0)
		close(fd);
	free(buf);
	if (err)
		cell_fail(s->cell, "fill %s: %s", path, strerror(-err));
	return err;
}

int cow_make_origin(const struct cow_stack *s)
{
	struct cow_name real = cow_name(s->cell->run_id, "real");
	int err = create_slice(s->cell, real, 0, s->origin);

	return err || s->zeros ? err : write_old_data(s, cow_node(real).path);
}

/* A persistent store is made anew when its first chunk holds no header. */
static int zero_header(const struct cell *c, const char *path, size_t bytes)
{
	void *zero = aligned_alloc(COW_STACK_BLOCK, bytes);
	int fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC), err = !zero ? -ENOMEM : fd < 0 ? -errno : 0;

	if (!err) {
		memset(zero, 0, bytes);
		if (write(fd, zero, bytes) != (ssize_t)bytes)
			err = -EIO;
	}
	if (fd >= 0)
		close(fd);
	free(zero);
	if (err)
		cell_fail(c, "clear %s: %s", path, strerror(-err));
	return err;
}

int cow_make_store(const struct cow_stack *s, uint64_t number)
{
	struct cow_name store = cow_numbered(s->cell->run_id, "cow", number);
	int err = create_slice(s->cell, store, s->origin + number * s->store, s->store);

	return err ? err : zero_header(s->cell, cow_node(store).path, s->chunk * 512);
}

int cow_map_snapshot(const struct cow_stack *s, uint64_t number)
{
	const char *id = s->cell->run_id;
	char params[256];

	snprintf(params, sizeof(params), "%s %s %s %" PRIu64, cow_node(cow_name(id, "real")).path,
		 cow_node(cow_numbered(id, "cow", number)).path, s->persistent ? "P" : "N", s->chunk);
	return cow_create(s->cell, cow_numbered(id, "snap", number), s->origin, "snapshot", params);
}

const char *const cow_damage_choices[] = { "none", "origin", "snapshot", NULL };

int cow_do_damage(const struct cow_stack *s, enum cow_damage damage)
{
	const char *id = s->cell->run_id;
	struct cow_name name = damage == COW_DAMAGE_ORIGIN ? cow_name(id, "real") : cow_numbered(id, "cow", 0);
	/* In a persistent store chunk 0 is the header, 1 the first exceptions, 2 the first copy. */
	uint64_t chunk = damage == COW_DAMAGE_SNAPSHOT && s->persistent ? 2 : 0;
	void *noise;
	int fd, err;

	if (damage == COW_DAMAGE_NONE)
		return 0;
	noise = aligned_alloc(COW_STACK_BLOCK, COW_STACK_BLOCK);
	fd = open(cow_node(name).path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	err = !noise ? -ENOMEM : fd < 0 ? -errno : 0;
	if (!err) {
		memset(noise, 0x5a, COW_STACK_BLOCK);
		if (pwrite(fd, noise, COW_STACK_BLOCK, (off_t)(chunk * s->chunk * 512)) != COW_STACK_BLOCK)
			err = -EIO;
	}
	if (fd >= 0)
		close(fd);
	free(noise);
	if (err)
		cell_fail(s->cell, "damage %s: %s", name.text, strerror(-err));
	return err;
}

/* --- The proof --- */

int cow_open_snapshots(const struct cow_stack *s, uint64_t first, struct cow_check *checks, size_t *n)
{
	for (uint64_t i = 0; i < s->n; i++) {
		struct cow_name name = cow_numbered(s->cell->run_id, "snap", i);
		char status[128] = "";
		int err = dmdev_status(name.text, status, sizeof(status));

		if (err) {
			cell_fail(s->cell, "status of %s: %s", name.text, strerror(-err));
			return err;
		}
		/* One that overflowed holds nothing. */
		if (strcmp(status, "Invalid") == 0 || strcmp(status, "Overflow") == 0) {
			cell_event("snapshot-invalid", "%s: status %s", name.text, status);
			continue;
		}
		if (i < first)
			continue;
		checks[*n] = (struct cow_check){ .number = i };
		checks[*n].fd = open(cow_node(name).path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (checks[*n].fd < 0) {
			err = -errno;
			cell_fail(s->cell, "open %s: %s", name.text, strerror(-err));
			return err;
		}
		++*n;
	}
	return 0;
}

/* Find the blocks that differ and say which, the first ones by place. */
static void report_difference(const struct cell *c, struct cow_check *check, uint64_t at, const char *want,
			      const char *got, size_t len)
{
	for (size_t i = 0; i < len; i += COW_STACK_BLOCK) {
		if (memcmp(want + i, got + i, COW_STACK_BLOCK) == 0)
			continue;
		if (check->bad_blocks++ == 0)
			cell_corrupt(c, "snapshot %" PRIu64 ": block at byte %" PRIu64 " is not the old data",
				     check->number, at + i);
	}
}

int cow_compare(const struct cow_stack *s, struct cow_check *checks, size_t n)
{
	char *want = aligned_alloc(COW_STACK_BLOCK, COW_STACK_STEP),
	     *got = aligned_alloc(COW_STACK_BLOCK, COW_STACK_STEP);
	int err = want && got ? 0 : -ENOMEM;

	for (uint64_t at = 0, bytes = s->origin * 512; !err && n && at < bytes; at += COW_STACK_STEP) {
		size_t len = step_at(at, bytes);

		cow_old_data(s, at, want, len);
		for (size_t i = 0; !err && i < n; i++) {
			ssize_t got_len = pread(checks[i].fd, got, len, (off_t)at);

			if (got_len != (ssize_t)len) {
				err = got_len < 0 ? -errno : -EIO;
				cell_fail(s->cell, "read snapshot %" PRIu64 " at byte %" PRIu64 ": %s",
					  checks[i].number, at, strerror(-err));
			} else if (memcmp(want, got, len) != 0) {
				report_difference(s->cell, &checks[i], at, want, got, len);
			}
		}
		if (!err && cell_should_stop(s->cell))
			err = -ETIMEDOUT;
	}
	free(want);
	free(got);
	return err;
}

uint64_t cow_close_snapshots(struct cow_check *checks, size_t n)
{
	uint64_t good = 0;

	for (size_t i = 0; i < n; i++) {
		good += checks[i].bad_blocks == 0;
		close(checks[i].fd);
	}
	return good;
}
