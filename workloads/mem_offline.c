// SPDX-License-Identifier: MIT
/*
 * mem-offline: memory is taken away and given back, round after round, while others use it.
 *
 * A round takes a share of the memory offline, block by block, and brings it back. How it goes about that is the
 * policy: with no bound a block that does not go is waited for; with one it is given up and the next one tried; with
 * back-off (hotplug/policy.h) those that refused are left alone for a while, and tried again. With 2 or 10 per cent, of
 * all blocks and no bound it is the kernel's own test (the selftest mem-on-off-test.sh, whose ratio was 10 and is 2),
 * which also goes on to the next block, and fails when the share is not reached (`strict`).
 *
 * So that an offline is stuck on purpose, pages can be pinned (hotplug/pins.h). While a block is going, a detector
 * looks for tasks that wait for each other (hotplug/detector.h).
 */
#include "base/clock.h"
#include "base/latency.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "hotplug/block_event.h"
#include "hotplug/detector.h"
#include "hotplug/memblock.h"
#include "hotplug/pins.h"
#include "hotplug/policy.h"
#include "hotplug/reasons.h"
#include "hotplug/stress.h"
#include "run/facts.h"
#include "run/undo.h"
#include "run/workload.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define KNOB_BOUND    "mem_offline.bound_ms"
#define KNOB_BACK_OFF "mem_offline.back_off"
#define END_MS	      70000 /* before the deadline of the load: to end a try (memblock_kill()), bring all back, tell */
#define LOOKS	      4	    /* in a row with the same cycle, besides the time that it must stay */
#define LOOK_MS	      100   /* while all blocks are in their pause */
#define LRU_GEN	      "/sys/kernel/mm/lru_gen/enabled"
#define HOLD_S	      10 /* longer than tasks of a slow system stand still */

enum zones { ZONES_MOVABLE, ZONES_ANY };

struct offline_opts {
	uint64_t ratio_pct, size_mib, rounds, time_s, pause_ms, bound_ms, back_off_ms, attempts, stressors, stress_pct;
	uint64_t pin_hold_ms, pin_gap_ms, flip_ms;
	unsigned pin, zones;
	bool back_off, strict;
};

static const char *const zones_choices[] = { "movable", "any", NULL };

#define FIELD(name) offsetof(struct offline_opts, name)
static const struct opt offline_options[] = {
	{ "ratio_pct", OPT_U64, FIELD(ratio_pct), "10", 1, 100, NULL, "%",
	  "of the blocks, rounded up, that a round takes offline" },
	{ "size_mib", OPT_U64, FIELD(size_mib), "0", 0, 1 << 20, NULL, "MiB",
	  "that a round takes offline, rounded up to blocks; 0: by ratio_pct" },
	{ "zones", OPT_ENUM, FIELD(zones), "movable", 0, 0, zones_choices, NULL,
	  "blocks that are tried: those in zone Movable, or any that the kernel may take offline" },
	{ "rounds", OPT_U64, FIELD(rounds), "10", 1, 1000000, NULL, NULL, "of taking away and giving back" },
	{ "time_s", OPT_U64, FIELD(time_s), "0", 0, 86400, NULL, "s",
	  "no new round after so long; 0: until all were done" },
	{ "pause_ms", OPT_U64, FIELD(pause_ms), "100", 0, 60000, NULL, "ms", "between two rounds" },
	{ "attempts", OPT_U64, FIELD(attempts), "4", 1, 1000, NULL, NULL,
	  "to take a block offline in a round, for each that is wanted" },
	{ "strict", OPT_BOOL, FIELD(strict), "no", 0, 0, NULL, NULL,
	  "a round that does not get as much as is wanted is a failure" },
	{ "bound_ms", OPT_U64, FIELD(bound_ms), "0", 0, 3600000, NULL, "ms",
	  "after which an offline is given up; 0: never by itself" },
	{ "back_off", OPT_BOOL, FIELD(back_off), "no", 0, 0, NULL, NULL,
	  "a block that refused is left alone for a while, twice as long with each refusal, and tried again" },
	{ "back_off_ms", OPT_U64, FIELD(back_off_ms), "500", 1, 60000, NULL, "ms", "the first such while" },
	{ "stressors", OPT_U64, FIELD(stressors), "2", 0, 64, NULL, NULL,
	  "of stress-ng, which write and check memory meanwhile" },
	{ "stress_pct", OPT_U64, FIELD(stress_pct), "60", 1, 200, NULL, "% of the memory of these blocks",
	  "that they use, all together" },
	{ "pin", OPT_ENUM, FIELD(pin), "none", 0, 0, pin_choices, NULL,
	  "a page that cannot be moved: held by a pipe that nobody reads (vmsplice), by a read of a suspended "
	  "device-mapper device (direct), by a core dump into a pipe that nobody reads (core)" },
	{ "pin_hold_ms", OPT_U64, FIELD(pin_hold_ms), "0", 0, 3600000, NULL, "ms",
	  "after which it is let go of, and another one pinned; 0: at the end" },
	{ "pin_gap_ms", OPT_U64, FIELD(pin_gap_ms), "1000", 0, 3600000, NULL, "ms", "between two such pages" },
	{ "flip_ms", OPT_U64, FIELD(flip_ms), "0", 0, 3600000, NULL, "ms",
	  "between two turns of the switch of the multi-generational LRU, who turns it waits with cgroup_mutex while a "
	  "block is going; 0: nobody turns it" },
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
		.on = "10000", /* twice what a block full of pages in use took under emulation, alone on the machine */
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
	{ "rounds", "", MORE, "rounds of taking away and giving back" },
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
	{ "detector_looks", "", NEITHER, "looks for tasks that wait for each other" },
	{ "detector_dropped", "", LESS, "tasks that there was no room for in these looks" },
	{ "cycles_seen", "", LESS, "of them such in which a cycle was seen, which need not have stayed" },
	{ "left_offline", "", LESS, "blocks that were not online again at the end" },
	{ 0 },
};

/* --- A try --- */

struct offline {
	struct cell *c;
	const struct offline_opts *o;
	struct policy policy;
	struct policy_block blocks[MEMBLOCK_MAX];
	size_t n;
	uint64_t block_bytes, round, rounds_done, turn, offlined, refused[6], wasted_ns, migrated, failed, short_rounds;
	struct latency offline, online;
	struct detector detector;
	struct reasons reasons;
	int64_t begin_ns, end_ns; /* of the load; after it nothing is begun, and what is going is ended */
	bool counted;		  /* the pages of every try */
	bool deadlock, hangs;	  /* the load ends then */
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

static void add_deadlock(struct jsonw *j, const void *arg)
{
	const struct offline *a = arg;

	jsonw_str(j, "workload", a->c->workload->name);
	waitfor_json(j, &a->detector.watch.cycle);
}

/* *cut: it was ended because the load was over, before its bound. */
static struct memblock_try watched_try(struct offline *a, unsigned id, bool *cut)
{
	int64_t bound_ns = (int64_t)a->o->bound_ms * NS_PER_MS;
	struct memblock_try t = memblock_begin(MEMBLOCK_ROOT, id, "offline", bound_ns);
	int64_t bound = t.begin_ns + bound_ns;
	int64_t until = a->o->bound_ms && bound < a->end_ns ? bound : a->end_ns;
	char words[1024];

	if (t.pid < 0)
		return t;
	while (!t.took_ns && !a->deadlock && clock_ns() < until && !cell_told_to_stop(a->c)) {
		int64_t next = clock_ns() + NS_PER_S;

		a->deadlock = detector_wait(&a->detector, &t, next < until ? next : until);
	}
	if (a->deadlock)
		cell_deadlock(a->c, add_deadlock, a, waitfor_words(&a->detector.watch.cycle, words, sizeof(words)));
	if (!t.took_ns)
		memblock_kill(&t);
	a->detector.offliner = 0;
	*cut = t.ended && !a->deadlock && (until == a->end_ns || cell_told_to_stop(a->c));
	return t;
}

static struct block_event event_of(const struct offline *a, const struct policy_block *b, const struct memblock_try *t)
{
	return (struct block_event){ .workload = a->c->workload->name,
				     .block = b->id,
				     .block_bytes = a->block_bytes,
				     .round = a->round,
				     .try = t };
}

static bool try_offline(struct offline *a, struct policy_block *b)
{
	bool cut = false;
	struct memblock_try t = watched_try(a, b->id, &cut);
	char reason[128] = "";
	struct block_event e = event_of(a, b, &t);

	if (t.err && reasons_last(&a->reasons, b->begin, reason, sizeof(reason)))
		e.reason = reason;
	e.pause_ms = policy_tried(&a->policy, b, a->round, ++a->turn, !t.err, clock_ns());
	e.refusals = b->refusals;
	block_event_tell(cut ? "offline-cut" : "offline", &e);
	a->counted &= t.counted;
	a->migrated += t.migrated;
	a->failed += t.failed;
	if (t.hangs) {
		cell_event("stuck", "memory%u: its offline does not even die of SIGKILL", b->id);
		a->hangs = true;
	}
	if (cut || t.hangs || a->deadlock)
		return false;
	if (t.err) {
		count_refusal(a, t.err);
		a->wasted_ns += (uint64_t)t.took_ns;
		return false;
	}
	a->offlined++;
	latency_add(&a->offline, (uint64_t)t.took_ns);
	return true;
}

static int bring_back(struct offline *a)
{
	int err = 0;

	for (size_t i = 0; i < a->n; i++) {
		struct policy_block *b = &a->blocks[i];
		struct block_event e;
		struct memblock_try t;

		if (!b->offline)
			continue;
		t = memblock_write(MEMBLOCK_ROOT, b->id, b->online, 0, a->c->deadline_ns);
		e = event_of(a, b, &t);
		block_event_tell("online", &e);
		if (t.err) {
			cell_fail(a->c, "memory%u does not come back: %s", b->id, strerror(-t.err));
			err = t.err;
			continue;
		}
		b->offline = false;
		latency_add(&a->online, (uint64_t)t.took_ns);
	}
	return err;
}

/* --- A round --- */

static bool over(const struct offline *a)
{
	return a->deadlock || a->hangs || cell_should_stop(a->c) || clock_ns() >= a->end_ns;
}

/* The load ends for another reason than that its time was spent on blocks that would not go. */
static bool cut_off(const struct offline *a)
{
	return a->deadlock || cell_told_to_stop(a->c) || (a->o->time_s && clock_ns() >= a->end_ns);
}

static uint64_t wanted_blocks(const struct offline *a)
{
	uint64_t bytes = a->o->size_mib << 20;
	uint64_t n = bytes ? (bytes + a->block_bytes - 1) / a->block_bytes : (a->n * a->o->ratio_pct + 99) / 100;

	return n < a->n ? n : a->n;
}

static int one_round(struct offline *a)
{
	uint64_t wanted = wanted_blocks(a), got = 0, tries = 0;
	int err;

	a->round++;
	while (got < wanted && tries < wanted * a->o->attempts && !over(a)) {
		int64_t wait_until;
		struct policy_block *b = policy_choose(&a->policy, a->blocks, a->n, a->round, clock_ns(), &wait_until);

		if (b) {
			tries++;
			got += try_offline(a, b);
		} else if (wait_until && wait_until < a->end_ns) {
			clock_sleep_ms(LOOK_MS);
		} else {
			break;
		}
	}
	/* One that the end of the load cut short says nothing, unless the load ends because no block would go. */
	a->rounds_done += got == wanted || !over(a);
	a->short_rounds += got < wanted && !over(a);
	err = bring_back(a);
	if (!err && a->o->strict && got < wanted && !cut_off(a)) {
		cell_fail(a->c,
			  "round %" PRIu64 ": %" PRIu64 " of %" PRIu64 " blocks went offline in %" PRIu64 " tries",
			  a->round, got, wanted, tries);
		err = -EBUSY;
	}
	return err;
}

/* --- Hooks --- */

static int note_block(const struct policy_block *b)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), MEMBLOCK_ROOT "/memory%u/state", b->id);
	return undo_note("memory-block", path, b->online);
}

static bool may_go(const struct memblock *b, enum zones zones)
{
	return b->state == MEMBLOCK_ONLINE &&
	       (zones == ZONES_ANY ? strcmp(b->zones, "none") != 0 : memblock_movable(b));
}

static int find_blocks(struct offline *a, enum zones zones)
{
	static struct memblock blocks[MEMBLOCK_MAX];
	int n = memblock_list(MEMBLOCK_ROOT, blocks, MEMBLOCK_MAX), err = 0;

	if (n < 0)
		return n;
	for (int i = 0; !err && i < n; i++) {
		if (!may_go(&blocks[i], zones))
			continue;
		a->blocks[a->n] = (struct policy_block){
			.id = blocks[i].id,
			.begin = blocks[i].phys_index * a->block_bytes,
			.online = memblock_movable(&blocks[i]) ? "online_movable" : "online_kernel",
		};
		err = note_block(&a->blocks[a->n++]);
	}
	return err;
}

static int check(const void *opts, char *err, size_t err_size)
{
	const struct offline_opts *o = opts;

	if (o->pin != PIN_CORE || (o->pin_hold_ms && o->pin_hold_ms <= PIN_CORE_MAX_MS))
		return 0;
	snprintf(err, err_size, "pin = core: pin_hold_ms = '%" PRIu64 "' must be from 1 to %d", o->pin_hold_ms,
		 PIN_CORE_MAX_MS);
	return -EINVAL;
}

static int prepare_flips(const struct cell *c)
{
	char old[64];
	int err;

	if (sysfile_read(LRU_GEN, old, sizeof(old)) < 0) {
		cell_skip(c, "%s is not there: this kernel has no such switch (since Linux 6.1)", LRU_GEN);
		return -ENOENT;
	}
	err = undo_note("knob", LRU_GEN, old);
	if (err)
		cell_fail(c, "undo log: %s", strerror(-err));
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
		err = find_blocks(&all, o->zones);
	if (err) {
		cell_fail(c, "memory blocks: %s", strerror(-err));
		return err;
	}
	if (!all.n) {
		cell_skip(c, "no memory block is movable: give the guest DIMMs (scenario.dimms)");
		return -ENODEV;
	}
	err = pins_prepare(c, o->pin);
	if (!err && o->flip_ms)
		err = prepare_flips(c);
	if (err)
		return err;
	snprintf(bound, sizeof(bound), "%" PRIu64, o->bound_ms);
	cell_knob(KNOB_BOUND, bound, bound);
	cell_knob(KNOB_BACK_OFF, o->back_off ? "yes" : "no", o->back_off ? "yes" : "no");
	return 0;
}

static void tell(struct offline *a)
{
	int64_t took = clock_ns() - a->begin_ns;

	cell_metric_u64(a->c, "rounds", a->rounds_done);
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
	if (a->counted) {
		cell_metric_u64(a->c, "pages_migrated", a->migrated);
		cell_metric_u64(a->c, "pages_failed", a->failed);
	}
	cell_metric_u64(a->c, "short_rounds", a->short_rounds);
	cell_metric_u64(a->c, "detector_looks", a->detector.looked_n);
	cell_metric_u64(a->c, "cycles_seen", a->detector.cycles_n);
	cell_metric_u64(a->c, "detector_dropped", a->detector.dropped);
}

/* Turns the switch until it is ended. */
static pid_t start_flips(const struct offline *a)
{
	pid_t pid = a->o->flip_ms ? cell_child(a->c, "hr-lru-gen") : 0;

	if (pid || !a->o->flip_ms)
		return pid;
	for (bool on = true;; on = !on) {
		int err = sysfile_write(LRU_GEN, on ? "y" : "n");

		if (err)
			_exit(-err);
		clock_sleep_ms((int64_t)a->o->flip_ms);
	}
}

static int stop_flips(const struct offline *a, pid_t pid)
{
	int rc;

	if (pid <= 0)
		return 0;
	kill(pid, SIGTERM);
	rc = cell_wait(a->c, "hr-lru-gen", pid);
	if (rc == 128 + SIGTERM)
		return 0;
	cell_fail(a->c, "%s: %s", LRU_GEN, strerror(rc < 128 ? rc : EINTR));
	return -EIO;
}

static int do_rounds(struct offline *a)
{
	int err = 0;

	a->begin_ns = clock_ns();
	a->end_ns = a->c->deadline_ns - END_MS * NS_PER_MS;
	if (a->o->time_s && a->begin_ns + (int64_t)a->o->time_s * NS_PER_S < a->end_ns)
		a->end_ns = a->begin_ns + (int64_t)a->o->time_s * NS_PER_S;
	while (!err && a->round < a->o->rounds && !over(a)) {
		err = one_round(a);
		clock_sleep_ms((int64_t)a->o->pause_ms);
	}
	if (!err && !a->o->time_s && !a->c->stop && !a->deadlock && a->rounds_done < a->o->rounds)
		cell_event("stuck", "%" PRIu64 " of %" PRIu64 " rounds were done when the time was up", a->rounds_done,
			   a->o->rounds);
	tell(a);
	return err;
}

static int run(struct cell *c)
{
	struct offline *a = &all;
	const struct offline_opts *o = c->opts;
	struct pins pins = {
		.c = c, .kind = o->pin, .hold_ms = (int64_t)o->pin_hold_ms, .gap_ms = (int64_t)o->pin_gap_ms
	};
	pid_t stress, flips;
	int err, ended[3];

	a->c = c;
	a->o = o;
	a->counted = true;
	a->policy = (struct policy){ .back_off = o->back_off, .pause_ms = o->back_off_ms };
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		cell_event("unlocked", "mlockall: %s", strerror(errno));
	a->detector = (struct detector){ .proc = "/proc", .looks = LOOKS, .hold_ns = HOLD_S * NS_PER_S };
	err = reasons_open(&a->reasons, "/dev/kmsg");
	if (err)
		cell_event("no-reasons", "/dev/kmsg: %s", strerror(-err));
	err = pins_start(&pins);
	if (err) {
		cell_fail(c, "what holds pages: %s", strerror(-err));
		return err;
	}
	stress = stress_start(c, o->stressors, a->n * a->block_bytes / 100 * o->stress_pct);
	flips = start_flips(a);
	err = stress < 0 ? stress : flips < 0 ? flips : 0;
	if (err) {
		cell_fail(c, "a process of the load: %s", strerror(-err));
	} else {
		clock_sleep_ms(stress ? STRESS_WARM_MS : 0);
		err = do_rounds(a);
	}
	ended[0] = stop_flips(a, flips);
	ended[1] = stress_stop(c, stress);
	ended[2] = pins_stop(&pins);
	reasons_close(&a->reasons);
	for (size_t i = 0; !err && i < 3; i++)
		err = ended[i];
	return err;
}

static uint64_t scratch_sectors(const void *opts, uint64_t memory_mib)
{
	const struct offline_opts *o = opts;

	(void)memory_mib;
	return o->pin == PIN_DIRECT ? PIN_DISK_SECTORS : 0;
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

/* A bound that no try came to, and a back-off with nobody to leave alone, made no difference. */
static void attest(const struct facts *f, const void *opts, struct attestation *a)
{
	bool bound = strcmp(a->mitigation->option, "bound_ms") == 0, on = a->state == MITIGATION_ON;
	const json_t *given_up = json_object_get(f->metrics, "refused_eintr");
	const json_t *longest = json_object_get(f->metrics, "offline_max_ms");
	const char *limit = on ? a->requested : a->mitigation->on;
	uint64_t refused = 0;

	(void)opts;
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		refused += facts_metric(f, refusals[i].metric);
	if (!given_up)
		return; /* it never got so far as to tell */
	if (!bound) {
		a->exercised = refused ? YES : NO;
		snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " tries were refused", refused);
	} else if (on) {
		a->exercised = json_integer_value(given_up) ? YES : NO;
		snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " tries were given up at %s ms",
			 (uint64_t)json_integer_value(given_up), limit);
	} else if (longest) {
		a->exercised = json_number_value(longest) > strtod(limit, NULL) ? YES : NO;
		snprintf(a->evidence, sizeof(a->evidence),
			 "the longest try that went took %.0f ms, a bound would be %s", json_number_value(longest),
			 limit);
	}
}

static const struct workload mem_offline = {
	.name = "mem-offline",
	.summary = "memory blocks go offline and come back while others use them",
	.modules = (const char *const[]){ "dm-mod?", NULL },
	.programs = (const char *const[]){ STRESSOR, NULL },
	.exercises = (const char *const[]){ "offline_pages", "online_pages", "migrate_pages", NULL },
	.opts = offline_options,
	.opts_size = sizeof(struct offline_opts),
	.mitigations = offline_mitigations,
	.metrics = offline_metrics,
	.scratch_sectors = scratch_sectors,
	.check = check,
	.setup = setup,
	.run = run,
	.verify = verify,
	.attest = attest,
};
WORKLOAD_REGISTER(mem_offline);
