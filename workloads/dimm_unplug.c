// SPDX-License-Identifier: MIT
/*
 * dimm-unplug: a DIMM is taken out of the machine and put in again, round after round, while others use the memory.
 *
 * Offline is half of a hot-remove: the kernel still has its records of the memory. Here the host takes it away as well.
 * A round empties all blocks of one DIMM, has the host unplug it, checks that it is gone in each place where the kernel
 * and the host keep account of it, has it plugged in again, and checks that all is as before.
 */
#include "base/clock.h"
#include "base/jsonw.h"
#include "base/latency.h"
#include "base/sysfile.h"
#include "hotplug/block_event.h"
#include "hotplug/memrange.h"
#include "hotplug/stress.h"
#include "run/undo.h"
#include "run/workload.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define MAX_DIMMS  64
#define MAX_BLOCKS 1024 /* of one DIMM */
#define SETUP_MS   10000
#define RETRY_MS   100
#define END_MS	   90000 /* before the deadline of the load: to end a try (memblock_kill()), and an unplug, and to tell */

struct unplug_opts {
	uint64_t rounds, try_ms, out_s, back_s, stressors, stress_pct;
};

#define FIELD(name) offsetof(struct unplug_opts, name)
static const struct opt unplug_options[] = {
	{ "rounds", OPT_U64, FIELD(rounds), "5", 1, 1000000, NULL, NULL,
	  "of taking a DIMM out and putting it in, another one each time" },
	{ "try_ms", OPT_U64, FIELD(try_ms), "60000", 1, 3600000, NULL, "ms",
	  "after which an attempt to take a block offline is given up, and made again" },
	{ "out_s", OPT_U64, FIELD(out_s), "240", 1, 86400, NULL, "s", "that a DIMM may take to get out, all attempts" },
	{ "back_s", OPT_U64, FIELD(back_s), "30", 1, 86400, NULL, "s",
	  "that its blocks may take to be online when it is in again" },
	{ "stressors", OPT_U64, FIELD(stressors), "1", 0, 64, NULL, NULL,
	  "of stress-ng, which write and check memory meanwhile" },
	{ "stress_pct", OPT_U64, FIELD(stress_pct), "30", 1, 200, NULL, "% of the memory in DIMMs",
	  "that they use, all together" },
	{ 0 },
};

static const struct metric unplug_metrics[] = {
	{ "rounds", "", NEITHER, "rounds of taking a DIMM out and putting it in" },
	{ "unplugged_mib", "MiB", MORE, "memory that the guest lost, all rounds" },
	{ "dimm_offline_p50_ms", "ms", LESS, "taking all blocks of a DIMM offline, median" },
	{ "dimm_offline_max_ms", "ms", LESS, "taking all blocks of a DIMM offline, longest" },
	{ "unplug_p50_ms", "ms", LESS, "from the first question to the host until the DIMM was out, median" },
	{ "unplug_max_ms", "ms", LESS, "from the first question to the host until the DIMM was out, longest" },
	{ "plug_p50_ms", "ms", LESS, "from the question to the host until all blocks were online, median" },
	{ "plug_max_ms", "ms", LESS, "from the question to the host until all blocks were online, longest" },
	{ "offlines_refused", "", LESS, "attempts to take a block offline that failed" },
	{ "unplugs_refused", "", LESS, "attempts to unplug a DIMM that the kernel refused" },
	{ "left_offline", "", LESS, "blocks that were not online at the end" },
	{ "not_back", "", LESS, "DIMMs that were not in at the end" },
	{ 0 },
};

struct unplug {
	const struct cell *c;
	const struct unplug_opts *o;
	unsigned dimms[MAX_DIMMS]; /* the numbers of those that can be emptied */
	size_t n;
	uint64_t block_bytes, dimm_bytes; /* of all of them */
	uint64_t round, offlines_refused, unplugs_refused, unplugged;
	int64_t end_ns; /* no attempt to take a DIMM out goes on after it */
	struct latency offline, unplug, plug;
};

static struct unplug all;

/* Where the kernel and the host keep account of a DIMM. */
struct view {
	uint64_t blocks, online, ram, total_kib, plugged;
};

static const struct {
	const char *name;
	size_t at;
} places[] = {
	{ "memory blocks", offsetof(struct view, blocks) },
	{ "blocks online and movable", offsetof(struct view, online) },
	{ "bytes of System RAM in " MEMRANGE_IOMEM, offsetof(struct view, ram) },
	{ "KiB of MemTotal", offsetof(struct view, total_kib) },
	{ "bytes of QEMU's plugged-memory", offsetof(struct view, plugged) },
};

static int64_t soonest(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* --- What there is --- */

static int count_blocks(const struct memrange *r, struct view *v)
{
	static struct memblock blocks[MAX_BLOCKS];
	int n = memrange_blocks(MEMBLOCK_ROOT, r, blocks, MAX_BLOCKS);

	v->blocks = v->online = 0;
	if (n < 0)
		return n;
	v->blocks = (uint64_t)n;
	for (int i = 0; i < n; i++)
		v->online += blocks[i].state == MEMBLOCK_ONLINE && memblock_movable(&blocks[i]);
	return 0;
}

static int take_view(const struct unplug *a, const struct memrange *r, uint64_t plugged, struct view *v)
{
	int err = count_blocks(r, v);

	v->plugged = plugged;
	v->total_kib = 0;
	if (!err)
		err = memrange_ram(MEMRANGE_IOMEM, r, &v->ram);
	/* Another workload may take blocks of its own offline. */
	if (!err && a->c->alone)
		err = sysfile_read_key("/proc/meminfo", "MemTotal", &v->total_kib);
	if (err)
		cell_fail(a->c, "memory blocks, " MEMRANGE_IOMEM " and /proc/meminfo: %s", strerror(-err));
	return err;
}

/* All of it is told before the first of it is an error. */
static int expect(const struct unplug *a, unsigned dimm, const char *when, const struct view *is,
		  const struct view *should_be)
{
	int err = 0;

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		uint64_t value = *(const uint64_t *)((const char *)is + places[i].at);
		uint64_t wanted = *(const uint64_t *)((const char *)should_be + places[i].at);

		if (value == wanted)
			continue;
		cell_fail(a->c, "dimm%u, %s: %" PRIu64 " %s, should be %" PRIu64, dimm, when, value, places[i].name,
			  wanted);
		err = -EPROTO;
	}
	return err;
}

/* --- Out and in --- */

struct change {
	unsigned dimm;
	uint64_t mib;
	int64_t took_ns;
	int err;
};

static void add_change(struct jsonw *j, const void *arg)
{
	const struct change *s = arg;

	jsonw_str(j, "workload", all.c->workload->name);
	jsonw_u64(j, "dimm", s->dimm);
	jsonw_u64(j, "round", all.round + 1);
	jsonw_u64(j, "mib", s->mib);
	jsonw_fixed(j, "took_ms", s->took_ns / 1000, 3);
	if (s->err)
		jsonw_str(j, "errno", strerrorname_np(-s->err));
}

static void tell_change(const char *kind, const struct change *s, const char *words)
{
	cell_event_with(kind, add_change, s, "dimm%u, %" PRIu64 " MiB: %s after %.1f ms", s->dimm, s->mib,
			s->err ? words : "done", (double)s->took_ns / NS_PER_MS);
}

static bool try_offline(struct unplug *a, unsigned id, int64_t deadline_ns)
{
	struct memblock_try t =
		memblock_write(MEMBLOCK_ROOT, id, "offline", (int64_t)a->o->try_ms * NS_PER_MS, deadline_ns);
	struct block_event e = { .workload = a->c->workload->name,
				 .block = id,
				 .block_bytes = a->block_bytes,
				 .round = a->round + 1,
				 .try = &t };

	block_event_tell("offline", &e);
	a->offlines_refused += t.err != 0;
	return !t.err;
}

/* All blocks of it offline, however often one refuses. */
static int empty(struct unplug *a, const struct memrange *r, int64_t deadline_ns)
{
	static struct memblock blocks[MAX_BLOCKS];

	for (;;) {
		int n = memrange_blocks(MEMBLOCK_ROOT, r, blocks, MAX_BLOCKS), left = 0;

		if (n < 0)
			return n;
		for (int i = 0; i < n && clock_ns() < deadline_ns; i++)
			if (blocks[i].state != MEMBLOCK_OFFLINE)
				left += !try_offline(a, blocks[i].id, deadline_ns);
		if (clock_ns() >= deadline_ns)
			return -ETIMEDOUT;
		if (!left)
			return 0;
		clock_sleep_ms(RETRY_MS);
	}
}

static int unplug_once(struct unplug *a, unsigned dimm, uint64_t bytes, struct cell_dimm *answer)
{
	struct change s = { .dimm = dimm, .mib = bytes >> 20 };
	int64_t begin_ns = clock_ns();

	s.err = cell_dimm(CELL_DIMM_UNPLUG, dimm, a->c->deadline_ns, answer);
	s.took_ns = clock_ns() - begin_ns;
	tell_change("unplug", &s, answer->words);
	return s.err;
}

/* A kernel that keeps it has all of it online again (drivers/acpi/scan.c, acpi_scan_hot_remove()). */
static int take_out(struct unplug *a, unsigned dimm, const struct memrange *r, struct cell_dimm *answer)
{
	int64_t begin_ns = clock_ns();
	int64_t deadline_ns = soonest(begin_ns + (int64_t)a->o->out_s * NS_PER_S, a->end_ns);
	int err = empty(a, r, deadline_ns);

	if (err) {
		cell_fail(a->c, "dimm%u does not go offline: %s", dimm, strerror(-err));
		return err;
	}
	latency_add(&a->offline, (uint64_t)(clock_ns() - begin_ns));
	begin_ns = clock_ns();
	while ((err = unplug_once(a, dimm, r->bytes, answer)) == -EBUSY || err == -ETIMEDOUT) {
		a->unplugs_refused++;
		clock_sleep_ms(RETRY_MS);
		if (clock_ns() >= deadline_ns || empty(a, r, deadline_ns))
			break;
	}
	if (err)
		cell_fail(a->c, "dimm%u cannot be unplugged: %s", dimm, answer->words);
	else
		latency_add(&a->unplug, (uint64_t)(clock_ns() - begin_ns));
	return err;
}

static int put_in(struct unplug *a, unsigned dimm, struct memrange *r, struct cell_dimm *answer)
{
	struct change s = { .dimm = dimm, .mib = r->bytes >> 20 };
	int64_t begin_ns = clock_ns();
	int64_t deadline_ns = soonest(begin_ns + (int64_t)a->o->back_s * NS_PER_S, a->c->deadline_ns);
	const char *words;

	s.err = cell_dimm(CELL_DIMM_PLUG, dimm, a->c->deadline_ns, answer);
	*r = (struct memrange){ answer->address, answer->bytes };
	while (!s.err && !memrange_is_online(MEMBLOCK_ROOT, r)) {
		if (clock_ns() >= deadline_ns)
			s.err = -ETIMEDOUT;
		clock_sleep_ms(1);
	}
	s.took_ns = clock_ns() - begin_ns;
	words = *answer->words ? answer->words : "not all of it is online";
	tell_change("plug", &s, words);
	if (s.err)
		cell_fail(a->c, "dimm%u does not come back: %s", dimm, words);
	else
		latency_add(&a->plug, (uint64_t)s.took_ns);
	return s.err;
}

static int one_round(struct unplug *a)
{
	unsigned dimm = a->dimms[a->round % a->n];
	struct view before, without, now;
	struct cell_dimm answer;
	struct memrange r;
	int err = cell_dimm(CELL_DIMM_WHERE, dimm, a->c->deadline_ns, &answer);

	if (err) {
		cell_fail(a->c, "where dimm%u is: %s", dimm, answer.words);
		return err;
	}
	r = (struct memrange){ answer.address, answer.bytes };
	err = take_view(a, &r, answer.plugged_bytes, &before);
	if (!err)
		err = take_out(a, dimm, &r, &answer);
	if (!err)
		err = take_view(a, &r, answer.plugged_bytes, &now);
	if (err)
		return err;
	without = (struct view){ .total_kib = a->c->alone ? before.total_kib - r.bytes / 1024 : 0,
				 .plugged = before.plugged - r.bytes };
	err = expect(a, dimm, "unplugged", &now, &without);
	a->unplugged += r.bytes;
	if (!err)
		err = put_in(a, dimm, &r, &answer);
	if (!err)
		err = take_view(a, &r, answer.plugged_bytes, &now);
	return err ? err : expect(a, dimm, "plugged in again", &now, &before);
}

/* --- Hooks --- */

static int note_blocks(const struct memrange *r)
{
	static struct memblock blocks[MAX_BLOCKS];
	int n = memrange_blocks(MEMBLOCK_ROOT, r, blocks, MAX_BLOCKS), err = n < 0 ? n : 0;
	char path[PATH_MAX];

	for (int i = 0; !err && i < n; i++) {
		snprintf(path, sizeof(path), MEMBLOCK_ROOT "/memory%u/state", blocks[i].id);
		err = undo_note("memory-block", path, "online_movable");
	}
	return err;
}

/* The blocks first: undone last, when the DIMM is in. */
static int add_dimm(struct unplug *a, unsigned dimm, const struct cell_dimm *at)
{
	struct memrange r = { at->address, at->bytes };
	char number[16];
	struct view v;
	int err = count_blocks(&r, &v);

	if (err || v.online < r.bytes / a->block_bytes)
		return err;
	err = note_blocks(&r);
	snprintf(number, sizeof(number), "%u", dimm);
	if (!err)
		err = undo_note("dimm", number, NULL);
	a->dimms[a->n++] = dimm;
	a->dimm_bytes += r.bytes;
	return err;
}

static int find_dimms(struct unplug *a, struct cell_dimm *answer)
{
	int64_t deadline_ns = soonest(clock_ns() + SETUP_MS * NS_PER_MS, a->c->deadline_ns);
	int err = 0;

	for (unsigned i = 0; !err && i < MAX_DIMMS; i++) {
		err = cell_dimm(CELL_DIMM_WHERE, i, deadline_ns, answer);
		if (!err)
			err = add_dimm(a, i, answer);
	}
	return err == -EINVAL ? 0 : err; /* the number behind the last */
}

static int setup(struct cell *c)
{
	struct unplug *a = &all;
	struct cell_dimm answer;
	int err = memblock_size(MEMBLOCK_ROOT, &a->block_bytes);

	a->c = c;
	if (err == -ENOENT) {
		cell_skip(c, "%s: this kernel has no memory hotplug", MEMBLOCK_ROOT);
		return err;
	}
	if (err) {
		cell_fail(c, "%s: %s", MEMBLOCK_ROOT, strerror(-err));
		return err;
	}
	err = find_dimms(a, &answer);
	if (err == -EOPNOTSUPP) {
		cell_skip(c, "nobody is there who could unplug a DIMM: only the host of a guest can");
		return err;
	}
	if (err) {
		cell_fail(c, "DIMMs: %s: %s", strerror(-err), answer.words);
		return err;
	}
	if (!a->n) {
		cell_skip(c, "no DIMM whose memory is online and movable: give the guest some (scenario.dimms)");
		return -ENODEV;
	}
	return 0;
}

static void tell_times(const struct unplug *a, const struct latency *l, const char *median, const char *longest)
{
	if (!atomic_load(&l->count))
		return;
	cell_metric_fixed(a->c, median, (int64_t)latency_quantile(l, 0.5) / 1000, 3);
	cell_metric_fixed(a->c, longest, (int64_t)latency_quantile(l, 1) / 1000, 3);
}

static void tell(const struct unplug *a)
{
	cell_metric_u64(a->c, "rounds", a->round);
	cell_metric_u64(a->c, "unplugged_mib", a->unplugged >> 20);
	tell_times(a, &a->offline, "dimm_offline_p50_ms", "dimm_offline_max_ms");
	tell_times(a, &a->unplug, "unplug_p50_ms", "unplug_max_ms");
	tell_times(a, &a->plug, "plug_p50_ms", "plug_max_ms");
	cell_metric_u64(a->c, "offlines_refused", a->offlines_refused);
	cell_metric_u64(a->c, "unplugs_refused", a->unplugs_refused);
}

static int run(struct cell *c)
{
	struct unplug *a = &all;
	const struct unplug_opts *o = c->opts;
	pid_t stress = stress_start(c, o->stressors, a->dimm_bytes / 100 * o->stress_pct);
	int err = 0, ended;

	a->c = c;
	a->o = o;
	a->end_ns = c->deadline_ns - END_MS * NS_PER_MS;
	if (stress < 0) {
		cell_fail(c, "stress-ng: %s", strerror(-stress));
		return stress;
	}
	clock_sleep_ms(stress ? STRESS_WARM_MS : 0);
	while (!err && a->round < o->rounds && clock_ns() < a->end_ns) {
		err = one_round(a);
		a->round += !err;
	}
	tell(a);
	ended = stress_stop(c, stress);
	if (!err && a->round < o->rounds) {
		cell_fail(c, "only %" PRIu64 " of %" PRIu64 " rounds until the deadline", a->round, o->rounds);
		err = -ETIMEDOUT;
	}
	return err ? err : ended;
}

/* Whatever run() came to, every DIMM should be in, and all of it online. */
static int verify(struct cell *c)
{
	uint64_t left = 0, out = 0;

	for (size_t i = 0; i < all.n; i++) {
		struct cell_dimm answer;
		struct view v = { 0 };
		int err = cell_dimm(CELL_DIMM_WHERE, all.dimms[i], c->deadline_ns, &answer);

		if (!err)
			err = count_blocks(&(struct memrange){ answer.address, answer.bytes }, &v);
		out += err != 0;
		if (!err)
			left += answer.bytes / all.block_bytes - v.online;
	}
	cell_metric_u64(c, "not_back", out);
	cell_metric_u64(c, "left_offline", left);
	if (!out && !left)
		return 0;
	cell_fail(c, "%" PRIu64 " of %zu DIMMs are not in, %" PRIu64 " blocks of the others not online", out, all.n,
		  left);
	return -EBUSY;
}

static const struct workload dimm_unplug = {
	.name = "dimm-unplug",
	.summary = "DIMMs are taken out of the machine and put in again while others use the memory",
	.programs = (const char *const[]){ STRESSOR, NULL },
	.exercises =
		(const char *const[]){ "offline_pages", "acpi_scan_hot_remove", "remove_memory", "add_memory", NULL },
	.opts = unplug_options,
	.opts_size = sizeof(struct unplug_opts),
	.metrics = unplug_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(dimm_unplug);
