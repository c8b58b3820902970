// SPDX-License-Identifier: MIT
/*
 * snapshot-cow: copy-on-write of dm-snapshot under a burst of writes to the origin.
 *
 * Every first write to a chunk of the origin makes dm-snapshot copy that chunk into each snapshot, one kcopyd job a
 * chunk and snapshot (3240 bytes of slab on 64-bit kernels: nine struct kcopyd_job). Writes that are large, or that the
 * page cache gathers, reach the device in bursts that nothing bounds but the mitigation `cow-limit`.
 *
 * The layout is that of the device-mapper test suite: origin-real (linear) under origin (snapshot-origin), and for
 * each snapshot a linear COW device; all of them are slices of the scratch disk, the origin first.
 *
 * What is proved afterwards: the origin holds the new data (fio's own checksums, read back past the page cache), and
 * every snapshot still holds the old data, compared block by block with the pattern that was written before.
 */
#include "base/clock.h"
#include "base/pattern.h"
#include "base/sysfile.h"
#include "dev/dmdev.h"
#include "run/facts.h"
#include "run/undo.h"
#include "run/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECTORS_PER_MIB	  2048ULL
#define MAX_SNAPSHOTS	  64
#define BLOCK		  PATTERN_BLOCK /* unit of the old data's pattern and of its verification */
#define SLAB_BUF	  (1U << 20)	/* read and written at once */
#define EXCEPTION_BYTES	  16		/* struct disk_exception, drivers/md/dm-snap-persistent.c */
#define DEFAULT_COW_LIMIT 2048ULL	/* DEFAULT_COW_THRESHOLD, drivers/md/dm-snap.c; seed 000 */
#define WQ_MITIGATION	  "wq-cpu-intensive"
#define WQ_STALL_MS	  1000.0 /* a canary's wait that a working pool does not show, TCG included (10 to 250 ms) */
#define NO_COW_LIMIT	  UINT32_MAX /* the largest value; 0 would mean one copy at a time since Linux 5.4 */

enum prefill { PREFILL_PATTERN, PREFILL_ZERO };
enum write_snapshots { WRITE_NONE, WRITE_FIRST_AFTER, WRITE_ALL_PARALLEL };
enum damage { DAMAGE_NONE, DAMAGE_ORIGIN, DAMAGE_SNAPSHOT };

struct snapshot_opts {
	uint64_t snapshots, chunk_kib, origin_mib, write_mib, block_kib, writers, cow_mib, scale;
	bool persistent, direct;
	unsigned pattern, prefill, write_snapshots, damage;
};

/* Sizes after scaling, in sectors. */
struct layout {
	uint64_t origin, written, cow, chunk;
};

static const char *const pattern_choices[] = { "seq", "random", NULL };
static const char *const prefill_choices[] = { "pattern", "zero", NULL };
static const char *const damage_choices[] = { "none", "origin", "snapshot", NULL };
static const char *const write_snapshots_choices[] = { "none", "first-after", "all-parallel", NULL };

#define FIELD(name) offsetof(struct snapshot_opts, name)
static const struct opt snapshot_options[] = {
	{ "snapshots", OPT_U64, FIELD(snapshots), "8", 1, MAX_SNAPSHOTS, NULL, NULL, "snapshots of the one origin" },
	{ "chunk_kib", OPT_U64, FIELD(chunk_kib), "4", 4, 1024, NULL, "KiB", "chunk size, a power of two" },
	{ "persistent", OPT_BOOL, FIELD(persistent), "yes", 0, 0, NULL, NULL,
	  "exceptions kept on disk (P) or not (N)" },
	{ "origin_mib", OPT_U64, FIELD(origin_mib), "256", 8, 1 << 20, NULL, "MiB", "size of the origin" },
	{ "write_mib", OPT_U64, FIELD(write_mib), "0", 0, 1 << 20, NULL, "MiB", "written to the origin; 0: all of it" },
	{ "pattern", OPT_ENUM, FIELD(pattern), "seq", 0, 0, pattern_choices, NULL, "order of the writes" },
	{ "block_kib", OPT_U64, FIELD(block_kib), "1024", 4, 1 << 20, NULL, "KiB",
	  "size of one write, at most what a writer has to write" },
	{ "writers", OPT_U64, FIELD(writers), "1", 1, 64, NULL, NULL, "threads that share the origin's range" },
	{ "direct", OPT_BOOL, FIELD(direct), "no", 0, 0, NULL, NULL, "O_DIRECT instead of the page cache" },
	{ "prefill", OPT_ENUM, FIELD(prefill), "pattern", 0, 0, prefill_choices, NULL,
	  "what the origin holds before the snapshots are taken" },
	{ "write_snapshots", OPT_ENUM, FIELD(write_snapshots), "none", 0, 0, write_snapshots_choices, NULL,
	  "snapshots that are written too: the first one afterwards, or all at the same time" },
	{ "cow_mib", OPT_U64, FIELD(cow_mib), "0", 0, 1 << 20, NULL, "MiB",
	  "size of each COW device; 0: as much as can ever be needed" },
	{ "damage", OPT_ENUM, FIELD(damage), "none", 0, 0, damage_choices, NULL,
	  "spoil a block behind the kernel's back after the load, to see that the proof sees it" },
	{ "scale", OPT_U64, FIELD(scale), "1", 1, 1024, NULL, NULL,
	  "divides origin_mib and write_mib, to run a large test on a small machine" },
	{ 0 },
};

static const struct mitigation snapshot_mitigations[] = {
	{
		.name = "cow-limit",
		.summary = "a cap on the copies in flight of each snapshot",
		.seed = "000",
		.knobs = { { "dm_snapshot.snapshot_cow_threshold",
			     "/sys/module/dm_snapshot/parameters/snapshot_cow_threshold" } },
		.off = "4294967295",
		.on = "2048",
		.value_help = "copies in flight per snapshot; 0 means one at a time, not unlimited",
	},
	/* The other half of the seed, kcopyd hogging its pool, as kernel/workqueue.c has met it since 6.5. */
	{
		.name = WQ_MITIGATION,
		.summary = "a work item that hogs the CPU no longer holds up its pool",
		.seed = "000",
		.knobs = { { "workqueue.cpu_intensive_thresh_us",
			     "/sys/module/workqueue/parameters/cpu_intensive_thresh_us" } },
		.off = "0",
		.on = "10000",
		.value_help = "microseconds after which a work item counts as a hog; 0: never",
		.since = "Linux 6.5",
	},
	{ 0 },
};

static const struct metric snapshot_metrics[] = {
	{ "write_mib_s", "MiB/s", MORE, "rate of the writes, until they were on disk" },
	{ "verify_s", "s", NEITHER, "time to verify origin and snapshots" },
	{ "snapshots_verified", "", MORE, "snapshots found to hold the old data" },
	{ 0 },
};

static struct layout layout_of(const struct snapshot_opts *o)
{
	uint64_t chunk = o->chunk_kib * 2;
	struct layout l = { .chunk = chunk };

	l.origin = o->origin_mib / o->scale * SECTORS_PER_MIB;
	l.written = o->write_mib ? o->write_mib / o->scale * SECTORS_PER_MIB : l.origin;
	l.cow = o->cow_mib * SECTORS_PER_MIB;
	if (!o->cow_mib) {
		uint64_t chunks = (l.origin + chunk - 1) / chunk;
		uint64_t per_area = o->chunk_kib * 1024 / EXCEPTION_BYTES;

		/* Persistent: a header chunk, and an area of exceptions for every `per_area` chunks of data. */
		l.cow = chunks * chunk;
		if (o->persistent)
			l.cow += chunk * (1 + chunks / per_area + 1);
	}
	return l;
}

static int check(const void *opts, char *err, size_t err_size)
{
	const struct snapshot_opts *o = opts;

	if (o->chunk_kib & (o->chunk_kib - 1))
		snprintf(err, err_size, "chunk_kib = '%" PRIu64 "': must be a power of two", o->chunk_kib);
	else if (o->write_mib > o->origin_mib)
		snprintf(err, err_size, "write_mib = '%" PRIu64 "': must not exceed origin_mib (%" PRIu64 ")",
			 o->write_mib, o->origin_mib);
	else if (o->origin_mib / o->scale < 8 || (o->write_mib && o->write_mib / o->scale < o->writers))
		snprintf(err, err_size, "scale = '%" PRIu64 "': leaves less than 8 MiB of origin, or 1 MiB a writer",
			 o->scale);
	else
		return 0;
	return -EINVAL;
}

static uint64_t scratch_sectors(const void *opts, uint64_t memory_mib)
{
	const struct snapshot_opts *o = opts;
	struct layout l = layout_of(o);

	(void)memory_mib;
	return l.origin + o->snapshots * l.cow;
}

/* --- Names --- */

struct name {
	char text[64];
};

static struct name name_of(const char *run_id, const char *what)
{
	struct name n;

	snprintf(n.text, sizeof(n.text), "%s-%s", run_id, what);
	return n;
}

static struct name numbered(const char *run_id, const char *what, uint64_t i)
{
	struct name n;

	snprintf(n.text, sizeof(n.text), "%s-%s-%" PRIu64, run_id, what, i);
	return n;
}

struct node {
	char path[96];
};

static struct node node_of(struct name name)
{
	struct node n;

	snprintf(n.path, sizeof(n.path), "/dev/mapper/%s", name.text);
	return n;
}

static bool dm_name(const void *opts, const char *run_id, unsigned i, char *buf, size_t size)
{
	const struct snapshot_opts *o = opts;

	if (i >= o->snapshots)
		return false;
	snprintf(buf, size, "%s", numbered(run_id, "snap", i).text);
	return true;
}

/* --- The old data --- */

/* What `len` bytes from `offset` of the origin held before. */
static void old_data(const struct cell *c, uint64_t offset, void *buf, size_t len)
{
	const struct snapshot_opts *o = c->opts;

	if (o->prefill == PREFILL_ZERO) {
		memset(buf, 0, len);
		return;
	}
	for (size_t at = 0; at < len; at += BLOCK)
		pattern_fill(c->seed, (offset + at) / BLOCK, (char *)buf + at);
}

static int write_old_data(const struct cell *c, const char *path, uint64_t bytes)
{
	void *buf = aligned_alloc(BLOCK, SLAB_BUF);
	int fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	int err = !buf ? -ENOMEM : fd < 0 ? -errno : 0;

	for (uint64_t at = 0; !err && at < bytes; at += SLAB_BUF) {
		size_t len = bytes - at < SLAB_BUF ? (size_t)(bytes - at) : SLAB_BUF;
		ssize_t n;

		old_data(c, at, buf, len);
		n = pwrite(fd, buf, len, (off_t)at);
		if (n < 0)
			err = -errno;
		else if ((size_t)n != len)
			err = -EIO;
		if (!err && cell_should_stop(c))
			err = -ETIMEDOUT;
	}
	if (fd >= 0)
		close(fd);
	free(buf);
	if (err)
		cell_fail(c, "fill %s: %s", path, strerror(-err));
	return err;
}

/* --- Set-up --- */

static int create(const struct cell *c, struct name name, uint64_t sectors, const char *target, const char *params)
{
	int err = undo_note("dm", name.text, NULL);

	if (!err)
		err = dmdev_create(name.text, sectors, target, params);
	if (err)
		cell_fail(c, "create %s (%s %s): %s", name.text, target, params, strerror(-err));
	return err;
}

static int create_slice(const struct cell *c, struct name name, uint64_t start, uint64_t sectors)
{
	char params[160];

	snprintf(params, sizeof(params), "%s %" PRIu64, c->scratch, c->scratch_start + start);
	return create(c, name, sectors, "linear", params);
}

/* A snapshot is taken while the origin stands still. */
struct taking {
	const struct cell *cell;
	uint64_t number;
	struct layout layout;
};

static int take_snapshot(void *arg)
{
	const struct taking *t = arg;
	const struct snapshot_opts *o = t->cell->opts;
	const char *id = t->cell->run_id;
	char params[256];

	snprintf(params, sizeof(params), "%s %s %s %" PRIu64, node_of(name_of(id, "real")).path,
		 node_of(numbered(id, "cow", t->number)).path, o->persistent ? "P" : "N", t->layout.chunk);
	return create(t->cell, numbered(id, "snap", t->number), t->layout.origin, "snapshot", params);
}

/* A persistent store is made anew when its first chunk holds no header. */
static int zero_header(const struct cell *c, const char *path, size_t bytes)
{
	void *zero = aligned_alloc(BLOCK, bytes);
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

static int setup(struct cell *c)
{
	const struct snapshot_opts *o = c->opts;
	struct layout l = layout_of(o);
	struct name real = name_of(c->run_id, "real"), origin = name_of(c->run_id, "origin");
	char params[160];
	int err;

	err = create_slice(c, real, 0, l.origin);
	if (!err && o->prefill == PREFILL_PATTERN)
		err = write_old_data(c, node_of(real).path, l.origin * 512);
	snprintf(params, sizeof(params), "%s 0", node_of(real).path);
	if (!err)
		err = create(c, origin, l.origin, "linear", params);

	for (uint64_t i = 0; !err && i < o->snapshots; i++) {
		struct name cow = numbered(c->run_id, "cow", i);
		struct taking taking = { c, i, l };

		err = create_slice(c, cow, l.origin + i * l.cow, l.cow);
		if (!err)
			err = zero_header(c, node_of(cow).path, l.chunk * 512);
		if (!err)
			err = dmdev_swap_table(origin.text, l.origin, "snapshot-origin", node_of(real).path,
					       take_snapshot, &taking);
		if (err)
			cell_fail(c, "take snapshot %" PRIu64 " of %s: %s", i, origin.text, strerror(-err));
	}
	return err;
}

/* --- The load --- */

static void fio_section(FILE *f, const char *name, const char *path, uint64_t offset, uint64_t bytes)
{
	fprintf(f, "[%s]\nfilename=%s\noffset=%" PRIu64 "\nsize=%" PRIu64 "\n", name, path, offset, bytes);
}

/* The jobs that write (and later verify) the origin, `snapshots` of the snapshots, or both. */
static int write_job_file(const struct cell *c, const char *path, bool origin, uint64_t snapshots)
{
	const struct snapshot_opts *o = c->opts;
	struct layout l = layout_of(o);
	uint64_t block = o->block_kib * 1024;
	uint64_t share = l.written * 512 / o->writers / BLOCK * BLOCK;
	FILE *f = fopen(path, "we");
	char name[32];

	if (!f)
		return -errno;
	if (block > share)
		block = share;
	/* Threads, not processes: one pid for the kernel log to name. A header and checksum in every 4 KiB. */
	fprintf(f,
		"[global]\nthread=1\nioengine=psync\nbs=%" PRIu64 "\nrw=%s\nverify=crc32c\nverify_interval=%u\n"
		"verify_fatal=1\nverify_state_save=0\nend_fsync=1\nallow_file_create=0\nrandseed=%" PRIu64 "\n"
		"randrepeat=1\n",
		block, o->pattern ? "randwrite" : "write", BLOCK, c->seed);
	for (uint64_t i = 0; origin && i < o->writers; i++) {
		uint64_t bytes = i + 1 < o->writers ? share : l.written * 512 - share * i;

		snprintf(name, sizeof(name), "origin-%" PRIu64, i);
		fio_section(f, name, node_of(name_of(c->run_id, "origin")).path, share * i, bytes);
	}
	for (uint64_t i = 0; i < snapshots; i++) {
		snprintf(name, sizeof(name), "snap-%" PRIu64, i);
		fio_section(f, name, node_of(numbered(c->run_id, "snap", i)).path, 0, l.written * 512);
	}
	return fclose(f) == 0 ? 0 : -EIO;
}

/* One fio over a job file; `mode` are the options that make it write or verify. */
static int run_fio(const struct cell *c, const char *label, bool origin, uint64_t snapshots, const char *const mode[2])
{
	char jobs[PATH_MAX], output[PATH_MAX + 16];
	const char *argv[] = { "fio", "--output-format=json", output, mode[0], mode[1], jobs, NULL };
	int rc;

	snprintf(jobs, sizeof(jobs), "%s/%s.fio", c->work_dir, label);
	snprintf(output, sizeof(output), "--output=%s/%s.json", c->work_dir, label);
	rc = write_job_file(c, jobs, origin, snapshots);
	if (rc < 0)
		cell_fail(c, "write %s: %s", jobs, strerror(-rc));
	else
		rc = cell_tool(c, label, argv);
	return rc;
}

/* One block of noise, past the page cache and past dm-snapshot: onto the origin's device or into the first store. */
static int do_damage(const struct cell *c)
{
	const struct snapshot_opts *o = c->opts;
	struct name name = o->damage == DAMAGE_ORIGIN ? name_of(c->run_id, "real") : numbered(c->run_id, "cow", 0);
	/* In a persistent store chunk 0 is the header, 1 the first exceptions, 2 the first copy. */
	uint64_t chunk = o->damage == DAMAGE_SNAPSHOT && o->persistent ? 2 : 0;
	void *noise = aligned_alloc(BLOCK, BLOCK);
	int fd = open(node_of(name).path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	int err = !noise ? -ENOMEM : fd < 0 ? -errno : 0;

	if (!err) {
		memset(noise, 0x5a, BLOCK);
		if (pwrite(fd, noise, BLOCK, (off_t)(chunk * o->chunk_kib * 1024)) != BLOCK)
			err = -EIO;
	}
	if (fd >= 0)
		close(fd);
	free(noise);
	if (err)
		cell_fail(c, "damage %s: %s", name.text, strerror(-err));
	return err;
}

static int run(struct cell *c)
{
	static const char *const buffered[2] = { "--do_verify=0", "--direct=0" };
	static const char *const direct[2] = { "--do_verify=0", "--direct=1" };
	const struct snapshot_opts *o = c->opts;
	const char *const *mode = o->direct ? direct : buffered;
	uint64_t parallel = o->write_snapshots == WRITE_ALL_PARALLEL ? o->snapshots : 0;
	uint64_t mib = layout_of(o).written / SECTORS_PER_MIB * (1 + parallel);
	int64_t begin = clock_ns(), took_ms;
	int rc = run_fio(c, "fio-write", true, parallel, mode);

	took_ms = (clock_ns() - begin) / NS_PER_MS;
	if (rc == 0 && took_ms > 0)
		cell_metric_fixed(c, "write_mib_s", (int64_t)mib * 1000 * 1000 / took_ms, 3);
	if (rc == 0 && o->write_snapshots == WRITE_FIRST_AFTER)
		rc = run_fio(c, "fio-write-snapshot", false, 1, mode);
	if (rc == 0 && o->damage != DAMAGE_NONE)
		rc = do_damage(c);
	if (rc > 0)
		cell_fail(c, "fio ended with status %d", rc);
	return rc > 0 ? -ECANCELED : rc;
}

/* --- The proof --- */

struct snapshot_check {
	uint64_t number;
	int fd;
	uint64_t bad_blocks;
};

/* Find the blocks that differ and say which, the first ones by place. */
static void report_difference(const struct cell *c, struct snapshot_check *s, uint64_t at, const char *want,
			      const char *got, size_t len)
{
	for (size_t i = 0; i < len; i += BLOCK) {
		if (memcmp(want + i, got + i, BLOCK) == 0)
			continue;
		if (s->bad_blocks++ == 0)
			cell_corrupt(c, "snapshot %" PRIu64 ": block at byte %" PRIu64 " is not the old data",
				     s->number, at + i);
	}
}

static int compare_snapshots(const struct cell *c, struct snapshot_check *s, size_t n, uint64_t bytes)
{
	char *want = aligned_alloc(BLOCK, SLAB_BUF), *got = aligned_alloc(BLOCK, SLAB_BUF);
	int err = want && got ? 0 : -ENOMEM;

	for (uint64_t at = 0; !err && n && at < bytes; at += SLAB_BUF) {
		size_t len = bytes - at < SLAB_BUF ? (size_t)(bytes - at) : SLAB_BUF;

		old_data(c, at, want, len);
		for (size_t i = 0; !err && i < n; i++) {
			ssize_t got_len = pread(s[i].fd, got, len, (off_t)at);

			if (got_len != (ssize_t)len) {
				err = got_len < 0 ? -errno : -EIO;
				cell_fail(c, "read snapshot %" PRIu64 " at byte %" PRIu64 ": %s", s[i].number, at,
					  strerror(-err));
			} else if (memcmp(want, got, len) != 0) {
				report_difference(c, &s[i], at, want, got, len);
			}
		}
		if (!err && cell_should_stop(c))
			err = -ETIMEDOUT;
	}
	free(want);
	free(got);
	return err;
}

/* Open the snapshots that should hold old data; those that overflowed hold nothing and are reported as such. */
static int open_snapshots(const struct cell *c, uint64_t first, struct snapshot_check *s, size_t *n)
{
	const struct snapshot_opts *o = c->opts;

	for (uint64_t i = 0; i < o->snapshots; i++) {
		struct name name = numbered(c->run_id, "snap", i);
		char status[128] = "";
		int err = dmdev_status(name.text, status, sizeof(status));

		if (err) {
			cell_fail(c, "status of %s: %s", name.text, strerror(-err));
			return err;
		}
		if (strcmp(status, "Invalid") == 0 || strcmp(status, "Overflow") == 0) {
			cell_event("snapshot-invalid", "%s: status %s", name.text, status);
			continue;
		}
		if (i < first)
			continue;
		s[*n] = (struct snapshot_check){ .number = i };
		s[*n].fd = open(node_of(name).path, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (s[*n].fd < 0) {
			err = -errno;
			cell_fail(c, "open %s: %s", name.text, strerror(-err));
			return err;
		}
		++*n;
	}
	return 0;
}

/* Did a job of this fio find data that is not what was written? It says so with EILSEQ. */
static bool found_bad_data(const struct cell *c, const char *label)
{
	json_t *root = NULL, *job;
	char path[PATH_MAX];
	bool found = false;
	FILE *f;
	size_t i;
	int ch;

	snprintf(path, sizeof(path), "%s/%s.json", c->work_dir, label);
	f = fopen(path, "re");
	if (!f)
		return false;
	/* Its error messages stand in the same file, before the JSON. */
	while ((ch = getc(f)) != EOF && ch != '{')
		;
	if (ch == '{') {
		ungetc(ch, f);
		root = json_loadf(f, 0, NULL);
	}
	fclose(f);
	json_array_foreach (json_object_get(root, "jobs"), i, job)
		found |= json_integer_value(json_object_get(job, "error")) == EILSEQ;
	json_decref(root);
	return found;
}

/* fio reads back what it wrote. Only what it calls wrong data is corruption; that it could not check is not. */
static int verify_new_data(const struct cell *c, const char *label, bool origin, uint64_t snapshots)
{
	static const char *const only[2] = { "--verify_only=1", "--direct=1" };
	int rc = run_fio(c, label, origin, snapshots, only);

	if (rc <= 0)
		return rc;
	if (found_bad_data(c, label))
		cell_corrupt(c, "%s: data that was written is not what is read", label);
	else
		cell_fail(c, "%s: fio ended with status %d", label, rc);
	return -EIO;
}

static int verify(struct cell *c)
{
	const struct snapshot_opts *o = c->opts;
	bool parallel = o->write_snapshots == WRITE_ALL_PARALLEL, after = o->write_snapshots == WRITE_FIRST_AFTER;
	uint64_t rewritten = parallel ? o->snapshots : after ? 1 : 0;
	struct snapshot_check s[MAX_SNAPSHOTS];
	int64_t begin = clock_ns();
	uint64_t good = 0;
	size_t n = 0;
	int err = open_snapshots(c, rewritten, s, &n);

	if (!err)
		err = compare_snapshots(c, s, n, layout_of(o).origin * 512);
	for (size_t i = 0; i < n; i++) {
		good += s[i].bad_blocks == 0;
		close(s[i].fd);
	}
	/* What a writer that was killed left on the origin is anybody's guess; fio can only check what it finished. */
	if (!err && c->run_ok)
		err = verify_new_data(c, "fio-verify", true, parallel ? o->snapshots : 0);
	if (!err && c->run_ok && after)
		err = verify_new_data(c, "fio-verify-snapshot", false, 1);
	if (!err) {
		cell_metric_u64(c, "snapshots_verified", good);
		cell_metric_fixed(c, "verify_s", (clock_ns() - begin) / NS_PER_MS, 3);
	}
	return err;
}

/* --- The mitigation, from the record --- */

/*
 * Jobs that slabinfo can show beyond the true count: objects on per-CPU slabs count as in use. Per CPU one slab and
 * up to five partial ones of ten objects (mm/slub.c: 24 objects of this size may stay per CPU, doubled).
 */
static uint64_t slab_error(const struct facts *f)
{
	return f->cpus * (1 + 5) * 10;
}

static void attest_cow_limit(const struct facts *f, const void *opts, struct attestation *a)
{
	const struct snapshot_opts *o = opts;
	const struct cache_peak *jobs = facts_cache(f, "kcopyd_job");
	uint64_t limit, cap, want = strtoull(a->requested, NULL, 10);

	if (!jobs) {
		a->exercised = UNKNOWN;
		snprintf(a->evidence, sizeof(a->evidence), "knob reads %s; kcopyd_job was not seen in slabinfo",
			 a->read_back);
		return;
	}
	/* 0 lets one copy go at a time. */
	limit = a->state == MITIGATION_OFF ? DEFAULT_COW_LIMIT : want ? want : 1;
	cap = limit * o->snapshots;
	if (a->state == MITIGATION_OFF) {
		a->exercised = jobs->objects > cap ? YES : NO;
		snprintf(a->evidence, sizeof(a->evidence),
			 "in-flight peak %" PRIu64 " %s %" PRIu64 " (%" PRIu64 " x %" PRIu64
			 ", what the cap would allow)",
			 jobs->objects, jobs->objects > cap ? ">" : "<=", cap, o->snapshots, limit);
		return;
	}
	/* A sampled peak is below the true one: half the cap says that the cap was reached at times. */
	a->exercised = jobs->objects * 2 >= cap ? YES : NO;
	if (jobs->objects > cap + o->snapshots * (o->writers + f->cpus) + slab_error(f))
		a->state = MITIGATION_FAILED;
	snprintf(a->evidence, sizeof(a->evidence),
		 "in-flight peak %" PRIu64 " of %" PRIu64 " allowed (%" PRIu64 " x %" PRIu64 ")", jobs->objects, cap,
		 o->snapshots, limit);
}

/* Off, a pool that kcopyd hogs shows in the canary; on, nothing tells whether the kernel had to step in. */
static void attest_workqueue(const struct facts *f, struct attestation *a)
{
	if (a->state == MITIGATION_OFF && f->have_canary)
		a->exercised = f->canary_max_ms >= WQ_STALL_MS ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "knob reads %s; work waited %.0f ms at the longest", a->read_back,
		 f->canary_max_ms);
}

static void attest(const struct facts *f, const void *opts, struct attestation *a)
{
	if (strcmp(a->mitigation->name, WQ_MITIGATION) == 0)
		attest_workqueue(f, a);
	else
		attest_cow_limit(f, opts, a);
}

static const struct workload snapshot_cow = {
	.name = "snapshot-cow",
	.summary = "writes to the origin of many dm-snapshots: a copy for every chunk and snapshot",
	.modules = (const char *const[]){ "dm-mod", "dm-snapshot", NULL },
	.programs = (const char *const[]){ "fio", NULL },
	.watch_caches = (const char *const[]){ "kcopyd_job", "dm_snap_pending_exception", NULL },
	.exercises = (const char *const[]){ "dm_kcopyd_copy", "snapshot_map", "do_origin", "pending_complete", NULL },
	.opts = snapshot_options,
	.opts_size = sizeof(struct snapshot_opts),
	.mitigations = snapshot_mitigations,
	.metrics = snapshot_metrics,
	.check = check,
	.scratch_sectors = scratch_sectors,
	.dm_name = dm_name,
	.setup = setup,
	.run = run,
	.verify = verify,
	.attest = attest,
};
WORKLOAD_REGISTER(snapshot_cow);
