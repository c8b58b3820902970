// SPDX-License-Identifier: MIT
/*
 * hotremove-deadlock: the four threads of seed 002 (P. Tatashin, 2020), as they can still be had.
 *
 * One takes a memory block offline and cannot move a page of it, because a second, a program that crashed, has the page
 * in its hands: it is dumping core into a pipe that nobody reads. He who is to read it, the helper of core_pattern,
 * first wants to know something about cgroups, and waits for cgroup_mutex. The third has that, and waits for the lock
 * of memory hotplug (here: the switch of the multi-generational LRU), which the first holds for as long as he tries.
 *
 * The detector names the cycle. Then the offline is ended, and all must be over within moments.
 */
#include "base/clock.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "hotplug/detector.h"
#include "hotplug/memblock.h"
#include "run/facts.h"
#include "run/undo.h"
#include "run/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEADLOCK_GROUP CGROUP_PARENT "/deadlock"
/* Not beside the helper's: who makes a group has the lock of its parent's directory as well. */
#define BYSTANDERS     DEADLOCK_GROUP "/bystanders"
#define CORE_PATTERN   "/proc/sys/kernel/core_pattern"
#define LRU_GEN	       "/sys/kernel/mm/lru_gen/enabled"
#define KNOB_CORE      "hotremove_deadlock.core"
#define KNOB_FIRST     "hotremove_deadlock.helper_first"
#define KNOB_BOUND     "hotremove_deadlock.bound_s"
#define MAX_BYSTANDERS 16
#define LOOKS	       3 /* in a row, besides the time that a cycle must stay */
#define LOOK_MS	       500
#define SETTLE_MS      2000  /* until each has the lock that is his */
#define DRAIN_MS       10000 /* the seed's tasks went on within a second; emulation may take ten times that */
#define RETRY_MS       10000 /* for an offline that nobody is in the way of */
#define PAGE	       4096UL
/*
 * Its lowest mapping is dumped first: at the least address that a process may have (vm.mmap_min_addr is 64 KiB), larger
 * than the 64 KiB that a pipe takes, so that the dump stops in the middle of it.
 */
#define VICTIM_ADDRESS 0x20000UL
#define VICTIM_BYTES   (3UL << 20)
#define VICTIM_PAGE    14 /* about where the pipe is full: headers and notes come before */

enum core { CORE_PIPE, CORE_FILE };
enum first { FIRST_ASKS, FIRST_DRAINS };

struct deadlock_opts {
	uint64_t bound_s, hold_s, give_up_s, bystanders;
	unsigned core, helper, helper_first;
};

static const char *const core_choices[] = { "pipe", "file", NULL };
static const char *const helper_choices[] = { "read", "mkdir", NULL };
static const char *const first_choices[] = { "asks", "drains", NULL };

#define FIELD(name) offsetof(struct deadlock_opts, name)
static const struct opt deadlock_options[] = {
	{ "core", OPT_ENUM, FIELD(core), "pipe", 0, 0, core_choices, NULL,
	  "where the crashing program's core goes: a pipe to a helper, or a file" },
	{ "helper", OPT_ENUM, FIELD(helper), "read", 0, 0, helper_choices, NULL,
	  "how the helper asks about cgroups: it reads /proc/PID/cgroup (waits up to 6.1), or makes a group" },
	{ "helper_first", OPT_ENUM, FIELD(helper_first), "asks", 0, 0, first_choices, NULL,
	  "what the helper does first: it asks, or drains the pipe" },
	{ "bound_s", OPT_U64, FIELD(bound_s), "0", 0, 3600, NULL, "s",
	  "after which the offline is given up; 0: never by itself" },
	{ "hold_s", OPT_U64, FIELD(hold_s), "8", 1, 600, NULL, "s", "that a cycle must stay to be called a deadlock" },
	{ "give_up_s", OPT_U64, FIELD(give_up_s), "40", 5, 3600, NULL, "s", "after which all is ended anyway" },
	{ "bystanders", OPT_U64, FIELD(bystanders), "2", 0, MAX_BYSTANDERS, NULL, NULL,
	  "processes that make a cgroup meanwhile, and have nothing to do with it" },
	{ 0 },
};

static const struct mitigation deadlock_mitigations[] = {
	{
		.name = "core-to-file",
		.summary = "cores go to a file: nobody has to read them",
		.seed = "002",
		.knobs = { { KNOB_CORE, NULL } },
		.option = "core",
		.off = "pipe",
		.on = "file",
		.value_help = "none",
	},
	{
		.name = "hotremove-bound",
		.summary = "an offline that takes too long is given up",
		.seed = "002",
		.knobs = { { KNOB_BOUND, NULL } },
		.option = "bound_s",
		.off = "0",
		.on = "5",
		.value_help = "seconds; 0: none",
	},
	{
		.name = "helper-drains-first",
		.summary = "the helper reads the dump before it asks for anything",
		.seed = "002",
		.knobs = { { KNOB_FIRST, NULL } },
		.option = "helper_first",
		.off = "asks",
		.on = "drains",
		.value_help = "none",
	},
	{ 0 },
};

static const struct metric deadlock_metrics[] = {
	{ "deadlocked", "", LESS, "a cycle of waiting was found" },
	{ "cycle_found_s", "s", NEITHER, "from the beginning of the offline until the cycle was called a deadlock" },
	{ "offline_s", "s", LESS, "duration of the offline" },
	{ "offline_errno", "", NEITHER, "what it ended with" },
	{ "drain_ms", "ms", LESS, "from the end of the offline until all others had gone on" },
	{ "retry_ms", "ms", LESS, "offline of the same block when nobody was in the way any more" },
	{ "bystander_wait_ms", "ms", LESS, "longest wait of a process that only made a cgroup" },
	{ 0 },
};

/* --- The parts --- */

/* The frame number of its page, from /proc/self/pagemap: bits 0 to 54. 0: not known. */
static uint64_t frame_of(const char *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE * sizeof(entry))) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry & ((1ULL << 55) - 1);
}

/* Says where its page lies, waits for the word, and crashes. */
static void victim(int say, int wait)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };
	char *memory = mmap((void *)VICTIM_ADDRESS, VICTIM_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	uint64_t frame = 0;
	char word;

	if (memory == (char *)VICTIM_ADDRESS) {
		madvise(memory, VICTIM_BYTES, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < VICTIM_BYTES; at += PAGE)
			memory[at] = 1;
		frame = frame_of(memory + VICTIM_PAGE * PAGE);
	}
	setrlimit(RLIMIT_CORE, &all);
	prctl(PR_SET_DUMPABLE, 1);
	if (write(say, &frame, sizeof(frame)) == sizeof(frame) && read(wait, &word, 1) == 1) {
		signal(SIGABRT, SIG_DFL);
		abort();
	}
	_exit(1);
}

/* The block that a frame lies in, if it can be taken offline. -errno after cell_fail(). */
static int find_block(const struct cell *c, uint64_t frame, unsigned *id)
{
	static struct memblock blocks[4096];
	int n = memblock_list(MEMBLOCK_ROOT, blocks, 4096);
	uint64_t size;
	int err = memblock_size(MEMBLOCK_ROOT, &size);

	for (int i = 0; !err && i < n; i++) {
		if (blocks[i].phys_index != frame * PAGE / size)
			continue;
		if (!memblock_movable(&blocks[i])) {
			cell_fail(c, "the page lies in memory%u, whose zones are '%s': no movable memory was free",
				  blocks[i].id, blocks[i].zones);
			return -EBUSY;
		}
		*id = blocks[i].id;
		return 0;
	}
	cell_fail(c, "no memory block has frame %" PRIu64 "%s%s", frame, err ? ": " : "", err ? strerror(-err) : "");
	return -ENOENT;
}

static int undo_block(const struct cell *c, unsigned id)
{
	char path[PATH_MAX];
	int err;

	snprintf(path, sizeof(path), MEMBLOCK_ROOT "/memory%u/state", id);
	err = undo_note("memory-block", path, "online_movable");
	if (err)
		cell_fail(c, "undo log: %s", strerror(-err));
	return err;
}

/* --- The scene --- */

/* Which block it was, from run() to verify(). */
static struct found {
	_Atomic bool known;
	_Atomic unsigned id;
} * found_block;

struct scene {
	const struct cell *c;
	const struct deadlock_opts *o;
	unsigned block;
	pid_t victim, lru_gen, bystanders[MAX_BYSTANDERS];
	int64_t began_ns[MAX_BYSTANDERS];
	struct memblock_try offline;
	struct detector detector;
	bool found;
};

static pid_t start_lru_gen(const struct cell *c)
{
	pid_t pid = cell_child(c, "hr-lru-gen");

	if (pid == 0)
		_exit(-sysfile_write(LRU_GEN, "y"));
	return pid;
}

static pid_t start_bystander(const struct cell *c, uint64_t n)
{
	pid_t pid = cell_child(c, "hr-bystander");
	char group[64];

	if (pid)
		return pid;
	snprintf(group, sizeof(group), BYSTANDERS "/%" PRIu64, n);
	_exit(-scope_mkdir(group));
}

static int start_victim(struct scene *s)
{
	int up[2], down[2], err = 0;
	uint64_t frame = 0;

	if (pipe2(up, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(down, O_CLOEXEC) < 0) {
		err = -errno;
		close(up[0]);
		close(up[1]);
		return err;
	}
	s->victim = cell_child(s->c, "hr-victim");
	if (s->victim == 0)
		victim(up[1], down[0]);
	close(up[1]);
	close(down[0]);
	if (s->victim < 0)
		err = s->victim;
	else if (read(up[0], &frame, sizeof(frame)) != sizeof(frame) || !frame)
		err = -EIO;
	if (err)
		cell_fail(s->c, "the program that is to crash: %s", strerror(-err));
	else
		err = find_block(s->c, frame, &s->block);
	if (!err)
		err = undo_block(s->c, s->block);
	if (!err) {
		atomic_store(&found_block->id, s->block);
		atomic_store(&found_block->known, true);
	}
	if (!err && write(down[1], "!", 1) != 1)
		err = -errno;
	close(up[0]);
	close(down[1]);
	return err;
}

/* Let the helper ask, once the others have what they hold. */
static int go(const struct cell *c)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/go", c->work_dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

static bool over(pid_t pid)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid;
}

static int start_all(struct scene *s)
{
	int err = start_victim(s);

	if (err)
		return err;
	clock_sleep_ms(SETTLE_MS);
	cell_event("offline", "memory%u", s->block);
	s->offline = memblock_begin(MEMBLOCK_ROOT, s->block, "offline");
	if (s->offline.pid < 0)
		return s->offline.err;
	clock_sleep_ms(SETTLE_MS);
	s->lru_gen = start_lru_gen(s->c);
	if (s->lru_gen < 0)
		return s->lru_gen;
	clock_sleep_ms(SETTLE_MS / 2);
	err = go(s->c);
	for (uint64_t i = 0; !err && i < s->o->bystanders; i++) {
		s->began_ns[i] = clock_ns();
		s->bystanders[i] = start_bystander(s->c, i);
		err = s->bystanders[i] < 0 ? s->bystanders[i] : 0;
	}
	return err;
}

/* Until the offline is over, or its bound or ours is there, or a deadlock was found. */
static void watch(struct scene *s)
{
	const struct deadlock_opts *o = s->o;
	int64_t bound = s->offline.begin_ns + (int64_t)(o->bound_s ? o->bound_s : o->give_up_s) * NS_PER_S;
	char words[1024];

	if (bound > s->c->deadline_ns - DRAIN_MS * NS_PER_MS)
		bound = s->c->deadline_ns - DRAIN_MS * NS_PER_MS;
	s->detector = (struct detector){
		.proc = "/proc", .offliner = s->offline.pid, .looks = LOOKS, .hold_ns = (int64_t)o->hold_s * NS_PER_S
	};
	while (!memblock_ended(&s->offline, clock_ns() + LOOK_MS * NS_PER_MS) && clock_ns() < bound) {
		if (s->found || !detector_look(&s->detector, clock_ns()))
			continue;
		s->found = true;
		cell_metric_fixed(s->c, "cycle_found_s", (clock_ns() - s->offline.begin_ns) / NS_PER_MS, 3);
		cell_deadlock(s->c, "%s", waitfor_words(&s->detector.watch.cycle, words, sizeof(words)));
		break;
	}
	if (!s->offline.took_ns)
		memblock_kill(&s->offline);
	cell_event("offline-end", "memory%u: %s%s after %.3f s", s->block,
		   s->offline.err ? strerror(-s->offline.err) : "offline", s->offline.ended ? " (ended by us)" : "",
		   (double)s->offline.took_ns / NS_PER_S);
}

/* How one of the others ended, if not as it should. */
static int expect_end(const struct scene *s, const char *comm, pid_t pid, int expected)
{
	int rc = cell_wait(s->c, comm, pid);
	char words[64];

	if (rc == expected)
		return 0;
	cell_fail(s->c, "%s: %s", comm, rc ? cell_end_words(rc, words, sizeof(words)) : "ended without a fault");
	return -ECANCELED;
}

/* All others go on when the offline has ended: when is the last of them over, and did each do what it was to? */
static int drain(struct scene *s)
{
	int64_t begin = clock_ns(), deadline = begin + DRAIN_MS * NS_PER_MS, longest = 0;
	bool all = false;
	int err;

	while (!all && clock_ns() < deadline) {
		all = over(s->victim) && over(s->lru_gen);
		for (uint64_t i = 0; i < s->o->bystanders; i++) {
			bool gone = over(s->bystanders[i]);

			all &= gone;
			if (gone && s->began_ns[i]) {
				longest = clock_ns() - s->began_ns[i] > longest ? clock_ns() - s->began_ns[i] : longest;
				s->began_ns[i] = 0;
			}
		}
		if (!all)
			clock_sleep_ms(10);
	}
	if (!all) {
		cell_fail(s->c, "%d s after the end of the offline not all had gone on", DRAIN_MS / 1000);
		return -ETIMEDOUT;
	}
	cell_metric_fixed(s->c, "drain_ms", (clock_ns() - begin) / 1000, 3);
	cell_metric_fixed(s->c, "bystander_wait_ms", longest / 1000, 3);
	err = expect_end(s, "hr-victim", s->victim, 128 + SIGABRT);
	if (!err)
		err = expect_end(s, "hr-lru-gen", s->lru_gen, 0);
	for (uint64_t i = 0; !err && i < s->o->bystanders; i++)
		err = expect_end(s, "hr-bystander", s->bystanders[i], 0);
	return err;
}

/* --- Hooks --- */

static int set_core_pattern(const struct cell *c)
{
	const struct deadlock_opts *o = c->opts;
	char old[256], now[PATH_MAX], self[PATH_MAX];
	int err = sysfile_read(CORE_PATTERN, old, sizeof(old)) < 0 ? -EIO : undo_note("knob", CORE_PATTERN, old);

	if (o->core == CORE_FILE)
		snprintf(now, sizeof(now), "%s/core.%%p", c->work_dir);
	else
		snprintf(now, sizeof(now), "|%s core-helper %s %s %s %%P", paths_self(self), helper_choices[o->helper],
			 first_choices[o->helper_first], c->work_dir);
	if (!err)
		err = sysfile_write(CORE_PATTERN, now);
	return err;
}

static int setup(struct cell *c)
{
	const struct deadlock_opts *o = c->opts;
	char old[64], bound[24];
	int err = set_core_pattern(c);

	if (err) {
		cell_fail(c, "%s: %s", CORE_PATTERN, strerror(-err));
		return err;
	}
	if (sysfile_read(LRU_GEN, old, sizeof(old)) < 0) {
		cell_skip(c, "%s is not there: this kernel has no such switch (since Linux 6.1)", LRU_GEN);
		return -ENOENT;
	}
	err = undo_note("knob", LRU_GEN, old);
	if (!err)
		err = scope_mkdir(BYSTANDERS);
	if (err) {
		cell_fail(c, "set-up: %s", strerror(-err));
		return err;
	}
	found_block = mmap(NULL, sizeof(*found_block), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (found_block == MAP_FAILED) {
		cell_fail(c, "shared memory: %s", strerror(errno));
		return -ENOMEM;
	}
	snprintf(bound, sizeof(bound), "%" PRIu64, o->bound_s);
	cell_knob(KNOB_CORE, core_choices[o->core], core_choices[o->core]);
	cell_knob(KNOB_FIRST, first_choices[o->helper_first], first_choices[o->helper_first]);
	cell_knob(KNOB_BOUND, bound, bound);
	return 0;
}

static int run(struct cell *c)
{
	struct scene s = { .c = c, .o = c->opts };
	int err = start_all(&s);

	if (err) {
		cell_fail(c, "%s", strerror(-err));
		return err;
	}
	watch(&s);
	cell_metric_bool(c, "deadlocked", s.found);
	cell_metric_fixed(c, "offline_s", s.offline.took_ns / NS_PER_MS, 3);
	cell_metric_u64(c, "offline_errno", (uint64_t)-s.offline.err);
	err = drain(&s);
	/* Done, or given up by us: any other end is not what this scenario is about. */
	if (!err && s.offline.err && (!s.offline.ended || s.offline.hangs)) {
		cell_fail(c, "offline of memory%u: %s", s.block, strerror(-s.offline.err));
		err = s.offline.err;
	}
	return err;
}

/* A change of the block that must succeed, now that nobody is in the way. */
static int change_block(struct cell *c, const char *state, int64_t *took_ns)
{
	unsigned id = atomic_load(&found_block->id);
	struct memblock_try t = memblock_write(MEMBLOCK_ROOT, id, state, RETRY_MS * NS_PER_MS, c->deadline_ns);

	*took_ns = t.took_ns;
	if (t.err)
		cell_fail(c, "%s of memory%u, with nobody in the way: %s", state, id, strerror(-t.err));
	return t.err;
}

/* The block can go now, if it has not gone already, and it comes back. */
static int verify(struct cell *c)
{
	struct memblock b;
	int64_t took_ns;
	int err;

	if (!c->run_ok || !atomic_load(&found_block->known))
		return 0;
	err = memblock_read(MEMBLOCK_ROOT, atomic_load(&found_block->id), &b);
	if (err) {
		cell_fail(c, "memory%u: %s", b.id, strerror(-err));
		return err;
	}
	if (b.state == MEMBLOCK_ONLINE) {
		err = change_block(c, "offline", &took_ns);
		if (!err)
			cell_metric_fixed(c, "retry_ms", took_ns / 1000, 3);
	}
	return err ? err : change_block(c, "online_movable", &took_ns);
}

static const struct workload hotremove_deadlock = {
	.name = "hotremove-deadlock",
	.summary = "four threads that wait for each other around a memory block that is to go offline",
	.exercises = (const char *const[]){ "offline_pages", "get_online_mems", "dump_user_range", "proc_cgroup_show",
					    NULL },
	.group = DEADLOCK_GROUP,
	.opts = deadlock_options,
	.opts_size = sizeof(struct deadlock_opts),
	.mitigations = deadlock_mitigations,
	.metrics = deadlock_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(hotremove_deadlock);
