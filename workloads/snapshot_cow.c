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
#include "workloads/common/cow_stack.h"

#include "base/clock.h"
#include "base/sysfile.h"
#include "dev/dmdev.h"
#include "run/facts.h"
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

#define DEFAULT_COW_LIMIT 2048ULL /* DEFAULT_COW_THRESHOLD, drivers/md/dm-snap.c; seed 000 */
#define WQ_MITIGATION	  "wq-cpu-intensive"
#define WQ_STALL_MS	  1000.0 /* a canary's wait that a working pool does not show, TCG included (10 to 250 ms) */
#define NO_COW_LIMIT	  UINT32_MAX /* the largest value; 0 would mean one copy at a time since Linux 5.4 */

enum prefill { PREFILL_PATTERN, PREFILL_ZERO };
enum write_snapshots { WRITE_NONE, WRITE_FIRST_AFTER, WRITE_ALL_PARALLEL };

struct snapshot_opts {
	uint64_t snapshots, chunk_kib, origin_mib, write_mib, block_kib, writers, cow_mib, scale;
	bool persistent, direct;
	unsigned pattern, prefill, write_snapshots, damage;
};

static const char *const pattern_choices[] = { "seq", "random", NULL };
static const char *const prefill_choices[] = { "pattern", "zero", NULL };
static const char *const write_snapshots_choices[] = { "none", "first-after", "all-parallel", NULL };

#define FIELD(name) offsetof(struct snapshot_opts, name)
static const struct opt snapshot_options[] = {
	{ "snapshots", OPT_U64, FIELD(snapshots), "8", 1, COW_STACK_MAX, NULL, NULL, "snapshots of the one origin" },
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
	{ "damage", OPT_ENUM, FIELD(damage), "none", 0, 0, cow_damage_choices, NULL,
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

/* Sectors of the origin after scaling, and of what is written to it. */
static uint64_t origin_sectors(const struct snapshot_opts *o)
{
	return o->origin_mib / o->scale * COW_SECTORS_PER_MIB;
}

static uint64_t written_sectors(const struct snapshot_opts *o)
{
	return o->write_mib ? o->write_mib / o->scale * COW_SECTORS_PER_MIB : origin_sectors(o);
}

/* `c` NULL: for its sizes. */
static struct cow_stack stack_of(const struct cell *c, const struct snapshot_opts *o)
{
	struct cow_stack s = {
		.cell = c,
		.origin = origin_sectors(o),
		.chunk = o->chunk_kib * 2,
		.store = o->cow_mib * COW_SECTORS_PER_MIB,
		.n = (unsigned)o->snapshots,
		.persistent = o->persistent,
		.zeros = o->prefill == PREFILL_ZERO,
	};

	if (!s.store)
		s.store = cow_store_sectors(s.origin, s.chunk, s.persistent);
	return s;
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
	struct cow_stack s = stack_of(NULL, opts);

	(void)memory_mib;
	return cow_stack_sectors(&s);
}

static bool dm_name(const void *opts, const char *run_id, unsigned i, char *buf, size_t size)
{
	const struct snapshot_opts *o = opts;

	if (i >= o->snapshots)
		return false;
	snprintf(buf, size, "%s", cow_numbered(run_id, "snap", i).text);
	return true;
}

/* --- Set-up --- */

/* A snapshot is taken while the origin stands still. */
struct taking {
	const struct cow_stack *stack;
	uint64_t number;
};

static int take_snapshot(void *arg)
{
	const struct taking *t = arg;

	return cow_map_snapshot(t->stack, t->number);
}

static int setup(struct cell *c)
{
	const struct cow_stack s = stack_of(c, c->opts);
	struct cow_name origin = cow_name(c->run_id, "origin");
	struct cow_node real = cow_node(cow_name(c->run_id, "real"));
	int err = cow_make_origin(&s);
	char params[160];

	snprintf(params, sizeof(params), "%s 0", real.path);
	if (!err)
		err = cow_create(c, origin, s.origin, "linear", params);
	for (uint64_t i = 0; !err && i < s.n; i++) {
		struct taking taking = { &s, i };

		err = cow_make_store(&s, i);
		if (!err)
			err = dmdev_swap_table(origin.text, s.origin, "snapshot-origin", real.path, take_snapshot,
					       &taking);
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
	uint64_t block = o->block_kib * 1024, bytes = written_sectors(o) * 512;
	uint64_t share = bytes / o->writers / COW_STACK_BLOCK * COW_STACK_BLOCK;
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
		block, o->pattern ? "randwrite" : "write", COW_STACK_BLOCK, c->seed);
	for (uint64_t i = 0; origin && i < o->writers; i++) {
		snprintf(name, sizeof(name), "origin-%" PRIu64, i);
		fio_section(f, name, cow_node(cow_name(c->run_id, "origin")).path, share * i,
			    i + 1 < o->writers ? share : bytes - share * i);
	}
	for (uint64_t i = 0; i < snapshots; i++) {
		snprintf(name, sizeof(name), "snap-%" PRIu64, i);
		fio_section(f, name, cow_node(cow_numbered(c->run_id, "snap", i)).path, 0, bytes);
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

static int run(struct cell *c)
{
	static const char *const buffered[2] = { "--do_verify=0", "--direct=0" };
	static const char *const direct[2] = { "--do_verify=0", "--direct=1" };
	const struct snapshot_opts *o = c->opts;
	const char *const *mode = o->direct ? direct : buffered;
	uint64_t parallel = o->write_snapshots == WRITE_ALL_PARALLEL ? o->snapshots : 0;
	uint64_t mib = written_sectors(o) / COW_SECTORS_PER_MIB * (1 + parallel);
	int64_t begin = clock_ns(), took_ms;
	int rc = run_fio(c, "fio-write", true, parallel, mode);

	took_ms = (clock_ns() - begin) / NS_PER_MS;
	if (rc == 0 && took_ms > 0)
		cell_metric_fixed(c, "write_mib_s", (int64_t)mib * 1000 * 1000 / took_ms, 3);
	if (rc == 0 && o->write_snapshots == WRITE_FIRST_AFTER)
		rc = run_fio(c, "fio-write-snapshot", false, 1, mode);
	if (rc == 0) {
		const struct cow_stack s = stack_of(c, o);

		rc = cow_do_damage(&s, o->damage);
	}
	if (rc > 0)
		cell_fail(c, "fio ended with status %d", rc);
	return rc > 0 ? -ECANCELED : rc;
}

/* --- The proof --- */

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
	const struct cow_stack s = stack_of(c, o);
	struct cow_check checks[COW_STACK_MAX];
	int64_t begin = clock_ns();
	uint64_t good;
	size_t n = 0;
	int err = cow_open_snapshots(&s, rewritten, checks, &n);

	if (!err)
		err = cow_compare(&s, checks, n);
	good = cow_close_snapshots(checks, n);
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
