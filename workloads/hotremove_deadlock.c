// SPDX-License-Identifier: MIT
/*
 * hotremove-deadlock: the four threads of seed 002 (P. Tatashin, 2020), as they can still be had.
 *
 * One takes a memory block offline and cannot move a page of it, because a second, a program that crashed, has the page
 * in its hands: it is dumping core into a pipe that nobody reads. He who is to read it, the helper of core_pattern,
 * first wants to know something about cgroups, and waits for cgroup_mutex. The third has that, and waits for the lock
 * of memory hotplug (here: the switch of the multi-generational LRU), which the first holds for as long as he tries.
 *
 * In the other variant no core is dumped. A page is stuck for some other reason, and who takes the block offline has a
 * supervisor that would end it by a signal; but before it does, it reads /proc/PID/cgroup of its charge.
 *
 * The detector names the cycle. Then the offline is ended, and all must be over within moments.
 */
#include "base/clock.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "hotplug/crasher.h"
#include "hotplug/detector.h"
#include "hotplug/memblock.h"
#include "run/facts.h"
#include "run/undo.h"
#include "run/workload.h"
#include "hotplug/pins.h"

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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEADLOCK_GROUP CGROUP_PARENT "/deadlock"
/* Not beside the helper's: who makes a group has the lock of its parent's directory as well. */
#define BYSTANDERS     DEADLOCK_GROUP "/bystanders"
#define LRU_GEN	       "/sys/kernel/mm/lru_gen/enabled"
#define KNOB_CORE      "hotremove_deadlock.core"
#define KNOB_FIRST     "hotremove_deadlock.helper_first"
#define KNOB_SIGNAL    "hotremove_deadlock.supervisor_first"
#define KNOB_BOUND     "hotremove_deadlock.bound_s"
#define MAX_BYSTANDERS 16
#define LOOKS	       3     /* in a row, besides the time that a cycle must stay */
#define SETTLE_MS      2000  /* until each has the lock that is his */
#define DRAIN_MS       10000 /* the seed's tasks went on within a second; emulation may take ten times that */
#define RETRY_MS       10000 /* for an offline that nobody is in the way of */
#define SUPERVISE_MS   4000  /* after which the supervisor finds that the offline takes too long */

enum variant { VARIANT_CORE, VARIANT_SUPERVISOR };
enum core { CORE_PIPE, CORE_FILE };
enum first { FIRST_ASKS, FIRST_DRAINS };
enum signals { SUPERVISOR_READS, SUPERVISOR_SIGNALS };

struct deadlock_opts {
	uint64_t bound_s, hold_s, give_up_s, bystanders;
	unsigned variant, core, helper, helper_first, supervisor_first;
};

static const char *const variant_choices[] = { "core", "supervisor", NULL };
static const char *const core_choices[] = { "pipe", "file", NULL };
static const char *const helper_choices[] = { "read", "mkdir", NULL };
static const char *const first_choices[] = { "asks", "drains", NULL };
static const char *const signal_choices[] = { "reads", "signals", NULL };

#define FIELD(name) offsetof(struct deadlock_opts, name)
static const struct opt deadlock_options[] = {
	{ "variant", OPT_ENUM, FIELD(variant), "core", 0, 0, variant_choices, NULL,
	  "who closes the ring: the reader of a core dump, or the supervisor of the offline" },
	{ "core", OPT_ENUM, FIELD(core), "pipe", 0, 0, core_choices, NULL,
	  "where the crashing program's core goes: a pipe to a helper, or a file" },
	{ "helper", OPT_ENUM, FIELD(helper), "read", 0, 0, helper_choices, NULL,
	  "how the helper asks about cgroups: it reads /proc/PID/cgroup (waits up to 6.1), or makes a group" },
	{ "helper_first", OPT_ENUM, FIELD(helper_first), "asks", 0, 0, first_choices, NULL,
	  "what the helper does first: it asks, or drains the pipe" },
	{ "supervisor_first", OPT_ENUM, FIELD(supervisor_first), "reads", 0, 0, signal_choices, NULL,
	  "what the supervisor does first: it reads /proc/PID/cgroup (waits up to 6.1), or signals" },
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
	{
		.name = "supervisor-signals-first",
		.summary = "who supervises the offline ends it before it reads anything about it",
		.seed = "002",
		.knobs = { { KNOB_SIGNAL, NULL } },
		.option = "supervisor_first",
		.off = "reads",
		.on = "signals",
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

/* The block that a page lies in, if it can be taken offline. -errno after cell_fail(). */
static int find_block(const struct cell *c, uint64_t address, unsigned *id)
{
	struct memblock b;
	int err = memblock_at(MEMBLOCK_ROOT, address, &b);

	if (err) {
		cell_fail(c, "the block of address 0x%" PRIx64 ": %s", address, strerror(-err));
		return err;
	}
	if (!memblock_movable(&b)) {
		cell_fail(c, "the page lies in memory%u, whose zones are '%s': no movable memory was free", b.id,
			  b.zones);
		return -EBUSY;
	}
	*id = b.id;
	return 0;
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

/* What processes tell each other. */
static struct shared {
	_Atomic bool known; /* which block it is, from run() to verify() */
	_Atomic unsigned id;
	_Atomic int64_t ended_ns[MAX_BYSTANDERS]; /* when each bystander had its group */
} * shared;

struct scene {
	const struct cell *c;
	const struct deadlock_opts *o;
	unsigned block;
	/* The victim or the supervisor; 0: there is none in this variant. */
	pid_t victim, supervisor, lru_gen, bystanders[MAX_BYSTANDERS];
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
	int err;

	if (pid)
		return pid;
	snprintf(group, sizeof(group), BYSTANDERS "/%" PRIu64, n);
	err = scope_mkdir(group);
	atomic_store(&shared->ended_ns[n], clock_ns());
	_exit(-err);
}

static pid_t fork_victim(void *arg)
{
	const struct scene *s = arg;

	return cell_child(s->c, "hr-victim");
}

/* What cannot be moved: a page of the program that crashes, or one that lies in a pipe of ours until we end. */
static int make_stuck_page(struct scene *s, struct crasher *victim)
{
	uint64_t address = 0;
	int err;

	if (s->o->variant == VARIANT_CORE) {
		err = crasher_start(victim, fork_victim, s);
		s->victim = victim->pid;
		address = victim->address;
	} else {
		err = pins_splice(&address);
	}
	if (err) {
		cell_fail(s->c, "a page that cannot be moved: %s", strerror(-err));
		return err;
	}
	err = find_block(s->c, address, &s->block);
	if (!err)
		err = undo_block(s->c, s->block);
	if (!err) {
		atomic_store(&shared->id, s->block);
		atomic_store(&shared->known, true);
	}
	return err;
}

static int signal_offliner(int pidfd)
{
	return syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH ? -errno : 0;
}

/* When its time is up it ends the offline; a pidfd, because by then the pid may be another's. */
static pid_t start_supervisor(const struct scene *s)
{
	int pidfd = (int)syscall(SYS_pidfd_open, s->offline.pid, 0), err;
	char path[64], text[4096];
	pid_t pid;

	if (pidfd < 0)
		return -errno;
	pid = cell_child(s->c, "hr-supervisor");
	if (pid) {
		close(pidfd);
		return pid;
	}
	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)s->offline.pid);
	clock_sleep_ms(SUPERVISE_MS);
	if (s->o->supervisor_first == SUPERVISOR_SIGNALS)
		_exit(-signal_offliner(pidfd));
	/* What it says does not matter; the offliner may be gone when it comes back. */
	(void)sysfile_read(path, text, sizeof(text));
	err = signal_offliner(pidfd);
	_exit(-err);
}

/* Has this child ended? One that was never started has. */
static bool over(pid_t pid)
{
	siginfo_t info = { 0 };

	return !pid || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid;
}

static int start_bystanders(struct scene *s)
{
	for (uint64_t i = 0; i < s->o->bystanders; i++) {
		s->began_ns[i] = clock_ns();
		s->bystanders[i] = start_bystander(s->c, i);
		if (s->bystanders[i] < 0)
			return s->bystanders[i];
	}
	return 0;
}

/* Let the others get to where they will wait, and see when the offline comes back meanwhile. */
static void settle(struct scene *s, int64_t ms)
{
	int64_t until = clock_ns() + ms * NS_PER_MS;

	if (!s->offline.took_ns)
		memblock_ended(&s->offline, until);
	if (clock_ns() < until)
		clock_sleep_ms((until - clock_ns()) / NS_PER_MS);
}

static int start_all(struct scene *s)
{
	struct crasher victim = { .pid = 0 };
	int err = make_stuck_page(s, &victim);

	if (!err && s->o->variant == VARIANT_CORE)
		err = crasher_crash(&victim);
	if (err)
		return err;
	clock_sleep_ms(SETTLE_MS);
	cell_event("offline-begin", "memory%u", s->block);
	s->offline = memblock_begin(MEMBLOCK_ROOT, s->block, "offline", 0);
	if (s->offline.pid < 0)
		return s->offline.err;
	if (s->o->variant == VARIANT_SUPERVISOR) {
		s->supervisor = start_supervisor(s);
		if (s->supervisor < 0)
			return s->supervisor;
	}
	settle(s, SETTLE_MS);
	s->lru_gen = start_lru_gen(s->c);
	if (s->lru_gen < 0)
		return s->lru_gen;
	settle(s, SETTLE_MS / 2);
	err = s->victim ? crasher_go(s->c->work_dir) : 0;
	return err ? err : start_bystanders(s);
}

static void add_cycle(struct jsonw *j, const void *arg)
{
	const struct scene *s = arg;

	jsonw_str(j, "workload", s->c->workload->name);
	waitfor_json(j, &s->detector.watch.cycle);
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
		.proc = "/proc", .supervisor = s->supervisor, .looks = LOOKS, .hold_ns = (int64_t)o->hold_s * NS_PER_S
	};
	s->found = !s->offline.took_ns && detector_wait(&s->detector, &s->offline, bound);
	if (s->found) {
		cell_metric_fixed(s->c, "cycle_found_s", (clock_ns() - s->offline.begin_ns) / NS_PER_MS, 3);
		cell_deadlock(s->c, add_cycle, s, waitfor_words(&s->detector.watch.cycle, words, sizeof(words)));
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
	int rc = pid ? cell_wait(s->c, comm, pid) : expected;
	char words[64];

	if (rc == expected)
		return 0;
	cell_fail(s->c, "%s: %s", comm, rc ? cell_end_words(rc, words, sizeof(words)) : "ended without a fault");
	return -ECANCELED;
}

/* All others go on when the offline has ended: when is the last of them over, and did each do what it was to? */
static int drain(struct scene *s, int64_t *took_ns)
{
	int64_t begin = clock_ns(), deadline = begin + DRAIN_MS * NS_PER_MS, longest = 0;
	bool all = false;
	int err;

	while (!all && clock_ns() < deadline) {
		all = over(s->victim) && over(s->supervisor) && over(s->lru_gen);
		for (uint64_t i = 0; i < s->o->bystanders; i++)
			all &= over(s->bystanders[i]);
		if (!all)
			clock_sleep_ms(10);
	}
	*took_ns = all ? clock_ns() - begin : 0;
	if (!all) {
		cell_fail(s->c, "%d s after the end of the offline not all had gone on", DRAIN_MS / 1000);
		return -ETIMEDOUT;
	}
	cell_metric_fixed(s->c, "drain_ms", *took_ns / 1000, 3);
	for (uint64_t i = 0; i < s->o->bystanders; i++) {
		int64_t waited = atomic_load(&shared->ended_ns[i]) - s->began_ns[i];

		longest = waited > longest ? waited : longest;
	}
	cell_metric_fixed(s->c, "bystander_wait_ms", longest / 1000, 3);
	err = expect_end(s, "hr-victim", s->victim, 128 + SIGABRT);
	if (!err)
		err = expect_end(s, "hr-supervisor", s->supervisor, 0);
	if (!err)
		err = expect_end(s, "hr-lru-gen", s->lru_gen, 0);
	for (uint64_t i = 0; !err && i < s->o->bystanders; i++)
		err = expect_end(s, "hr-bystander", s->bystanders[i], 0);
	return err;
}

/* --- Hooks --- */

static int setup(struct cell *c)
{
	const struct deadlock_opts *o = c->opts;
	char old[64], bound[24];
	int err = o->variant == VARIANT_CORE
			  ? crasher_set_pattern(o->core == CORE_FILE ? NULL : helper_choices[o->helper],
						first_choices[o->helper_first], c->work_dir)
			  : 0;

	if (err) {
		cell_fail(c, CRASHER_CORE_PATTERN ": %s", strerror(-err));
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
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		cell_fail(c, "shared memory: %s", strerror(errno));
		return -ENOMEM;
	}
	snprintf(bound, sizeof(bound), "%" PRIu64, o->bound_s);
	cell_knob(KNOB_CORE, core_choices[o->core], core_choices[o->core]);
	cell_knob(KNOB_FIRST, first_choices[o->helper_first], first_choices[o->helper_first]);
	cell_knob(KNOB_SIGNAL, signal_choices[o->supervisor_first], signal_choices[o->supervisor_first]);
	cell_knob(KNOB_BOUND, bound, bound);
	return 0;
}

/* How a deadlock ended. */
struct ending {
	const struct scene *scene;
	int64_t drain_ns; /* 0: it did not drain */
};

static void add_ending(struct jsonw *j, const void *arg)
{
	const struct ending *e = arg;
	const struct scene *s = e->scene;

	jsonw_str(j, "workload", s->c->workload->name);
	jsonw_strf(j, "broken_by", "SIGKILL to hr-offline (pid %d), %.1f s after the offline began",
		   (int)s->offline.pid, (double)s->offline.took_ns / NS_PER_S);
	jsonw_bool(j, "drained", e->drain_ns > 0);
	if (e->drain_ns)
		jsonw_fixed(j, "drain_ms", e->drain_ns / 1000, 3);
}

/*
 * Done, given up at its bound or by its supervisor, or ended because of the deadlock. One that we had to end only
 * because it would not come back was not let through.
 */
static bool ended_as_it_should(const struct scene *s)
{
	const struct memblock_try *t = &s->offline;

	return !t->err || (!t->hangs && ((t->ended && (s->found || s->o->bound_s)) ||
					 (!t->ended && s->supervisor && t->err == -EINTR)));
}

static int run(struct cell *c)
{
	static struct scene s;
	struct ending ending = { .scene = &s };
	int err;

	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		cell_event("unlocked", "mlockall: %s", strerror(errno));
	s.c = c;
	s.o = c->opts;
	err = start_all(&s);
	if (err) {
		cell_fail(c, "%s", strerror(-err));
		return err;
	}
	watch(&s);
	cell_metric_bool(c, "deadlocked", s.found);
	cell_metric_fixed(c, "offline_s", s.offline.took_ns / NS_PER_MS, 3);
	cell_metric_u64(c, "offline_errno", (uint64_t)-s.offline.err);
	err = drain(&s, &ending.drain_ns);
	if (s.found)
		cell_event_with("deadlock-end", add_ending, &ending, "%s",
				err ? "not all went on when the offline was ended"
				    : "all went on when the offline was ended");
	if (s.victim)
		crasher_sweep(c->work_dir, s.victim);
	if (!err && !ended_as_it_should(&s)) {
		cell_fail(c, "offline of memory%u: %s", s.block, strerror(-s.offline.err));
		err = s.offline.err;
	}
	return err;
}

/* A change of the block that must succeed, now that nobody is in the way. */
static int change_block(struct cell *c, const char *state, int64_t *took_ns)
{
	unsigned id = atomic_load(&shared->id);
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

	if (!c->run_ok || !atomic_load(&shared->known))
		return 0;
	err = memblock_read(MEMBLOCK_ROOT, atomic_load(&shared->id), &b);
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
