// SPDX-License-Identifier: MIT
/*
 * mem-offline: memory is taken away and given back, round after round, while others use it.
 *
 * A round takes a share of the movable memory offline, block by block, and brings it back. A block that does not go
 * within its bound is given up, and the next one is tried; with back-off those that refused are left alone for a while
 * that grows with every refusal, and tried again. With 2 or 10 per cent and no bound it is the kernel's own test (the
 * selftest mem-on-off-test.sh, whose ratio was 10 and is 2), which goes on to the next block as well.
 *
 * So that an offline is stuck on purpose, a page can be pinned: one that lies in a pipe, by vmsplice(2).
 */
#include "base/clock.h"
#include "base/latency.h"
#include "base/spawn.h"
#include "hotplug/memblock.h"
#include "run/undo.h"
#include "run/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_BLOCKS    4096  /* half a TiB in blocks of 128 MiB */
#define MAX_PAUSE_MS  60000 /* of back-off: no longer than a cell of the usual size lasts */
#define KNOB_BOUND    "mem_offline.bound_ms"
#define KNOB_BACK_OFF "mem_offline.back_off"
#define STRESSOR      "stress-ng"
#define WARM_MS	      3000 /* until the stressors have touched what they hold */
#define PAGE	      4096

enum pin { PIN_NONE, PIN_VMSPLICE };

struct offline_opts {
	uint64_t ratio_pct, rounds, time_s, pause_ms, bound_ms, back_off_ms, attempts, stressors, stress_pct;
	unsigned pin;
	bool back_off;
};

static const char *const pin_choices[] = { "none", "vmsplice", NULL };

#define FIELD(name) offsetof(struct offline_opts, name)
static const struct opt offline_options[] = {
	{ "ratio_pct", OPT_U64, FIELD(ratio_pct), "10", 1, 100, NULL, "%",
	  "of the movable blocks that a round takes offline, rounded up" },
	{ "rounds", OPT_U64, FIELD(rounds), "10", 1, 1000000, NULL, NULL, "of taking away and giving back" },
	{ "time_s", OPT_U64, FIELD(time_s), "0", 0, 86400, NULL, "s",
	  "no new round after so long; 0: until all were done" },
	{ "pause_ms", OPT_U64, FIELD(pause_ms), "100", 0, 60000, NULL, "ms", "between two rounds" },
	{ "attempts", OPT_U64, FIELD(attempts), "4", 1, 1000, NULL, NULL,
	  "to take a block offline in a round, for each that is wanted" },
	{ "bound_ms", OPT_U64, FIELD(bound_ms), "0", 0, 3600000, NULL, "ms",
	  "after which an offline is given up; 0: never by itself" },
	{ "back_off", OPT_BOOL, FIELD(back_off), "no", 0, 0, NULL, NULL,
	  "a block that refused is left alone for a while, twice as long with each refusal" },
	{ "back_off_ms", OPT_U64, FIELD(back_off_ms), "500", 1, 60000, NULL, "ms", "the first such while" },
	{ "stressors", OPT_U64, FIELD(stressors), "2", 0, 64, NULL, NULL,
	  "of stress-ng, which write and check memory meanwhile" },
	{ "stress_pct", OPT_U64, FIELD(stress_pct), "60", 1, 200, NULL, "% of the movable memory",
	  "that they use, all together" },
	{ "pin", OPT_ENUM, FIELD(pin), "none", 0, 0, pin_choices, NULL,
	  "a page that cannot be moved lies in one of the blocks, held by a pipe that nobody reads" },
	{ 0 },
};

static const struct mitigation offline_mitigations[] = {
	{
		.name = "offline-bound",
		.summary = "an offline that takes too long is given up",
		.seed = "002",
		.knobs = { { KNOB_BOUND, NULL } },
		.option = "bound_ms",
		.off = "0",
		.on = "5000",
		.value_help = "milliseconds; 0: none",
	},
	{
		.name = "offline-back-off",
		.summary = "a block that refused is left alone for a growing while, and others are tried",
		.seed = "002",
		.knobs = { { KNOB_BACK_OFF, NULL } },
		.option = "back_off",
		.off = "no",
		.on = "yes",
		.value_help = "none",
	},
	{ 0 },
};

static const struct metric offline_metrics[] = {
	{ "rounds", "", NEITHER, "rounds of taking away and giving back" },
	{ "offlined", "", MORE, "blocks taken offline" },
	{ "offlined_gib_min", "GiB/min", MORE, "memory taken away, while rounds went on" },
	{ "offline_p50_ms", "ms", LESS, "taking a block offline, median of those that went" },
	{ "offline_p99_ms", "ms", LESS, "taking a block offline, 99th percentile of those that went" },
	{ "offline_max_ms", "ms", LESS, "taking a block offline, longest of those that went" },
	{ "online_p50_ms", "ms", LESS, "bringing a block online, median" },
	{ "online_max_ms", "ms", LESS, "bringing a block online, longest" },
	{ "refused_ebusy", "", LESS, "offlines that ended with EBUSY" },
	{ "refused_eintr", "", LESS, "offlines that were given up at their bound (EINTR)" },
	{ "refused_einval", "", LESS, "offlines that ended with EINVAL" },
	{ "refused_eagain", "", LESS, "offlines that ended with EAGAIN" },
	{ "refused_enomem", "", LESS, "offlines that ended with ENOMEM" },
	{ "refused_other", "", LESS, "offlines that ended otherwise" },
	{ "wasted_s", "s", LESS, "time spent on offlines that were refused" },
	{ "pages_migrated", "pages", NEITHER, "pages moved out of blocks, on all of the machine" },
	{ "pages_failed", "pages", LESS, "attempts to move a page that failed, on all of the machine" },
	{ "short_rounds", "", LESS, "rounds that could not take as much as was wanted" },
	{ "left_offline", "", LESS, "blocks that were not online again at the end" },
	{ 0 },
};

/* --- Blocks, and what they did before --- */

struct history {
	unsigned id;
	uint64_t refusals;   /* in a row */
	int64_t not_before;  /* of back-off */
	uint64_t last_round; /* that took it */
	bool offline;
};

struct offline {
	struct cell *c;
	const struct offline_opts *o;
	struct history blocks[MAX_BLOCKS];
	size_t n;
	uint64_t block_bytes, round, offlined, refused[6], wasted_ns, migrated, failed, short_rounds;
	struct latency offline, online;
	int64_t begin_ns;
};

static struct offline all;

static const struct {
	int err;
	const char *metric;
} refusals[] = {
	{ EBUSY, "refused_ebusy" },   { EINTR, "refused_eintr" },   { EINVAL, "refused_einval" },
	{ EAGAIN, "refused_eagain" }, { ENOMEM, "refused_enomem" }, { 0, "refused_other" },
};

static void count_refusal(struct offline *a, int err)
{
	size_t i = 0;

	while (refusals[i].err && refusals[i].err != -err)
		i++;
	a->refused[i]++;
}

/* The one to try now: not offline, not in its pause; the fewest refusals, then the longest not taken. NULL: none. */
static struct history *choose(struct offline *a)
{
	struct history *best = NULL;

	for (size_t i = 0; i < a->n; i++) {
		struct history *h = &a->blocks[i];

		if (h->offline || (a->o->back_off && clock_ns() < h->not_before))
			continue;
		if (!best || h->refusals < best->refusals ||
		    (h->refusals == best->refusals && h->last_round < best->last_round))
			best = h;
	}
	return best;
}

static void pause_block(const struct offline *a, struct history *h)
{
	uint64_t ms = a->o->back_off_ms;

	for (uint64_t i = 1; i < h->refusals && ms < MAX_PAUSE_MS; i++)
		ms *= 2;
	h->not_before = clock_ns() + (int64_t)(ms < MAX_PAUSE_MS ? ms : MAX_PAUSE_MS) * NS_PER_MS;
}

static bool try_offline(struct offline *a, struct history *h)
{
	struct memblock_try t =
		memblock_write(MEMBLOCK_ROOT, h->id, "offline", (int64_t)a->o->bound_ms * NS_PER_MS, a->c->deadline_ns);

	cell_event("offline", "memory%u: %s after %.1f ms, %" PRIu64 " pages moved, %" PRIu64 " attempts failed", h->id,
		   t.err ? strerror(-t.err) : "done", (double)t.took_ns / NS_PER_MS, t.migrated, t.failed);
	a->migrated += t.migrated;
	a->failed += t.failed;
	h->last_round = a->round;
	if (t.err) {
		h->refusals++;
		pause_block(a, h);
		count_refusal(a, t.err);
		a->wasted_ns += (uint64_t)t.took_ns;
		return false;
	}
	h->refusals = 0;
	h->offline = true;
	a->offlined++;
	latency_add(&a->offline, (uint64_t)t.took_ns);
	return true;
}

static int bring_back(struct offline *a)
{
	int err = 0;

	for (size_t i = 0; i < a->n; i++) {
		struct memblock_try t;

		if (!a->blocks[i].offline)
			continue;
		t = memblock_write(MEMBLOCK_ROOT, a->blocks[i].id, "online_movable", 0, a->c->deadline_ns);
		if (t.err) {
			cell_fail(a->c, "memory%u does not come back: %s", a->blocks[i].id, strerror(-t.err));
			err = t.err;
			continue;
		}
		a->blocks[i].offline = false;
		latency_add(&a->online, (uint64_t)t.took_ns);
	}
	return err;
}

static int one_round(struct offline *a)
{
	uint64_t wanted = (a->n * a->o->ratio_pct + 99) / 100, got = 0;

	a->round++;
	for (uint64_t tries = 0; got < wanted && tries < wanted * a->o->attempts && !cell_should_stop(a->c); tries++) {
		struct history *h = choose(a);

		if (h)
			got += try_offline(a, h);
		else
			clock_sleep_ms((int64_t)a->o->back_off_ms / 2 + 1); /* all are in their pause */
	}
	a->short_rounds += got < wanted;
	return bring_back(a);
}

/* --- What uses the memory --- */

static pid_t start_stress(const struct offline *a)
{
	uint64_t bytes = a->n * a->block_bytes / 100 * a->o->stress_pct;
	char number[24], size[32], timeout[24];
	const char *argv[] = { STRESSOR,      "--vm",	      number,	     "--vm-bytes", size,
			       "--vm-keep",   "--vm-method",  "write64",     "--timeout",  timeout,
			       "--temp-path", a->c->work_dir, "--oom-avoid", NULL };

	if (!a->o->stressors)
		return 0;
	snprintf(number, sizeof(number), "%" PRIu64, a->o->stressors);
	snprintf(size, sizeof(size), "%" PRIu64 "K", bytes / a->o->stressors / 1024);
	snprintf(timeout, sizeof(timeout), "%" PRId64, (int64_t)((a->c->deadline_ns - clock_ns()) / NS_PER_S + 60));
	return cell_tool_start(a->c, "stress", argv);
}

static int stop_stress(const struct offline *a, pid_t pid)
{
	int rc;

	if (pid <= 0)
		return 0;
	kill(pid, SIGTERM);
	rc = cell_wait(a->c, STRESSOR, pid);
	/* 128 + SIGTERM, or its own 0: it was we who ended it. 2 is a failure, 3 no resources (stress-ng(1)). */
	if (rc == 0 || rc == 128 + SIGTERM)
		return 0;
	cell_fail(a->c, "stress-ng ended with %d, see stress.err", rc);
	return -ECANCELED;
}

/* A page that a pipe holds: vmsplice() takes a reference, and nobody reads. It stays until we end. */
static int pin_page(const struct cell *c)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec iov = { .iov_base = page, .iov_len = PAGE };
	int fds[2];

	if (page == MAP_FAILED || pipe2(fds, O_CLOEXEC) < 0) {
		cell_fail(c, "a page to pin: %s", strerror(errno));
		return -ENOMEM;
	}
	*page = 1;
	if (vmsplice(fds[1], &iov, 1, 0) != PAGE) {
		cell_fail(c, "vmsplice: %s", strerror(errno));
		return -EIO;
	}
	return 0;
}

/* --- Hooks --- */

static int note_block(unsigned id)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), MEMBLOCK_ROOT "/memory%u/state", id);
	return undo_note("memory-block", path, "online_movable");
}

static int find_blocks(struct offline *a)
{
	static struct memblock blocks[MAX_BLOCKS];
	int n = memblock_list(MEMBLOCK_ROOT, blocks, MAX_BLOCKS), err = 0;

	if (n < 0)
		return n;
	for (int i = 0; !err && i < n; i++) {
		if (blocks[i].state != MEMBLOCK_ONLINE || !memblock_movable(&blocks[i]))
			continue;
		a->blocks[a->n++] = (struct history){ .id = blocks[i].id };
		err = note_block(blocks[i].id);
	}
	return err;
}

static int setup(struct cell *c)
{
	const struct offline_opts *o = c->opts;
	char bound[24];
	int err = memblock_size(MEMBLOCK_ROOT, &all.block_bytes);

	if (err == -ENOENT) {
		cell_skip(c, "%s: this kernel has no memory hotplug", MEMBLOCK_ROOT);
		return err;
	}
	if (!err)
		err = find_blocks(&all);
	if (err) {
		cell_fail(c, "memory blocks: %s", strerror(-err));
		return err;
	}
	if (!all.n) {
		cell_skip(c, "no memory block is movable: give the guest DIMMs (scenario.dimms)");
		return -ENODEV;
	}
	snprintf(bound, sizeof(bound), "%" PRIu64, o->bound_ms);
	cell_knob(KNOB_BOUND, bound, bound);
	cell_knob(KNOB_BACK_OFF, o->back_off ? "yes" : "no", o->back_off ? "yes" : "no");
	return 0;
}

static void tell(struct offline *a)
{
	int64_t took = clock_ns() - a->begin_ns;

	cell_metric_u64(a->c, "rounds", a->round);
	cell_metric_u64(a->c, "offlined", a->offlined);
	if (took > 0)
		cell_metric_fixed(
			a->c, "offlined_gib_min",
			(int64_t)((double)(a->offlined * a->block_bytes) / (1 << 30) * 60e3 * NS_PER_S / (double)took),
			3);
	if (a->offlined) {
		cell_metric_fixed(a->c, "offline_p50_ms", (int64_t)latency_quantile(&a->offline, 0.5) / 1000, 3);
		cell_metric_fixed(a->c, "offline_p99_ms", (int64_t)latency_quantile(&a->offline, 0.99) / 1000, 3);
		cell_metric_fixed(a->c, "offline_max_ms", (int64_t)latency_quantile(&a->offline, 1) / 1000, 3);
		cell_metric_fixed(a->c, "online_p50_ms", (int64_t)latency_quantile(&a->online, 0.5) / 1000, 3);
		cell_metric_fixed(a->c, "online_max_ms", (int64_t)latency_quantile(&a->online, 1) / 1000, 3);
	}
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		cell_metric_u64(a->c, refusals[i].metric, a->refused[i]);
	cell_metric_fixed(a->c, "wasted_s", (int64_t)a->wasted_ns / NS_PER_MS, 3);
	cell_metric_u64(a->c, "pages_migrated", a->migrated);
	cell_metric_u64(a->c, "pages_failed", a->failed);
	cell_metric_u64(a->c, "short_rounds", a->short_rounds);
}

static int run(struct cell *c)
{
	struct offline *a = &all;
	const struct offline_opts *o = c->opts;
	int err, ended;
	pid_t stress;

	a->c = c;
	a->o = o;
	err = o->pin == PIN_VMSPLICE ? pin_page(c) : 0;
	if (err)
		return err;
	stress = start_stress(a);
	if (stress < 0) {
		cell_fail(c, "stress-ng: %s", strerror(-stress));
		return stress;
	}
	clock_sleep_ms(stress ? WARM_MS : 0);
	a->begin_ns = clock_ns();
	while (!err && a->round < o->rounds && !cell_should_stop(c) &&
	       (!o->time_s || clock_ns() - a->begin_ns < (int64_t)o->time_s * NS_PER_S)) {
		err = one_round(a);
		clock_sleep_ms((int64_t)o->pause_ms);
	}
	tell(a);
	ended = stop_stress(a, stress);
	return err ? err : ended;
}

/* No block of ours may be left offline, whatever run() came to. */
static int verify(struct cell *c)
{
	uint64_t left = 0;

	for (size_t i = 0; i < all.n; i++) {
		struct memblock b;

		left += memblock_read(MEMBLOCK_ROOT, all.blocks[i].id, &b) != 0 || b.state != MEMBLOCK_ONLINE;
	}
	cell_metric_u64(c, "left_offline", left);
	if (!left)
		return 0;
	cell_fail(c, "%" PRIu64 " of %zu blocks are not online again", left, all.n);
	return -EBUSY;
}

static const struct workload mem_offline = {
	.name = "mem-offline",
	.summary = "memory blocks go offline and come back while others use them",
	.programs = (const char *const[]){ STRESSOR, NULL },
	.exercises = (const char *const[]){ "offline_pages", "online_pages", "migrate_pages", NULL },
	.opts = offline_options,
	.opts_size = sizeof(struct offline_opts),
	.mitigations = offline_mitigations,
	.metrics = offline_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(mem_offline);
