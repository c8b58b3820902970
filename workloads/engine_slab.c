// SPDX-License-Identifier: MIT
/*
 * engine-slab: the churn of groups through our own slab allocator, in a process whose memory is limited.
 *
 * Each group has few objects of many sizes, as a cgroup has dentries, inodes and sockets. Groups come and go, and a
 * part of what they had outlives them. With caches of its own each group has its own half-empty slabs, of every size;
 * in caches that all share, an object lies beside those of others.
 *
 * Meanwhile one arena after the other is taken away and brought back, its objects being moved, and memory goes back
 * when the group is short of it. Every object holds a pattern from end to end, which is proved whenever it is moved or
 * freed.
 */
#include "workloads/common/memory_limit.h"
#include "workloads/common/sparse.h"

#include "base/clock.h"
#include "cgroups/scope.h"
#include "engine/trim.h"
#include "run/facts.h"
#include "run/workload.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLAB_GROUP     CGROUP_PARENT "/engine-slab"
#define SLAB_COMM      "hr-slab"
#define SLAB_BYTES     (512UL << 20) /* of the mapping; what limits the memory is the group */
#define MAX_WORKERS    8U
#define TELL_MS	       10
#define CURVE_MS       250
#define OFFLINE_MS     2000 /* an arena's deadline */
#define OFFLINE_GAP_MS 500
#define DAMAGED	       1000 /* the object of each worker that is spoilt */
#define ALLOC_S	       20   /* the longest an allocation may wait */
#define NO_PRESSURE    (-1)
#define SHARING	       "engine-slab-sharing"
#define REPARENTING    "engine-reparenting"
#define EMERGENCY      "engine-emergency-objects"
#define PCP	       "engine-pcp-drain"
#define TRIM	       "engine-trim"

struct slab_opts {
	uint64_t groups, objects, keep_pct, workers, time_s, limit_mib, growth_stall_ms, growth_stall_every;
	bool sharing, emergency, offline, trim, damage;
	unsigned reparent, pcp;
};

/* In the order of enum slab_reparent and enum slab_pcp. */
static const char *const reparent_choices[] = { "pointer", "walk", NULL };
static const char *const pcp_choices[] = { "disable", "retry", "once", "none", NULL };

#define FIELD(name) offsetof(struct slab_opts, name)
static const struct opt slab_options[] = {
	{ "groups", OPT_U64, FIELD(groups), "1000", 2, 4000, NULL, NULL, "groups at a time" },
	{ "objects", OPT_U64, FIELD(objects), "50", 1, 10000, NULL, NULL,
	  "objects of a group, of 20 sizes up to 4 KiB" },
	{ "keep_pct", OPT_U64, FIELD(keep_pct), "10", 0, 100, NULL, "%",
	  "of a group's objects outlive it, until as many groups more have gone" },
	{ "workers", OPT_U64, FIELD(workers), "2", 1, MAX_WORKERS, NULL, NULL, "threads that share the groups" },
	{ "time_s", OPT_U64, FIELD(time_s), "10", 1, 86400, NULL, "s", "groups come and go for so long" },
	{ "limit_mib", OPT_U64, FIELD(limit_mib), "80", 8, 1 << 20, NULL, "MiB",
	  "memory.max of the allocator's group" },
	{ "growth_stall_ms", OPT_U64, FIELD(growth_stall_ms), "0", 0, 60000, NULL, "ms",
	  "how long a growth of the memory stands still" },
	{ "growth_stall_every", OPT_U64, FIELD(growth_stall_every), "1", 1, 1 << 20, NULL, NULL,
	  "which: the first of so many" },
	{ "offline", OPT_BOOL, FIELD(offline), "yes", 0, 0, NULL, NULL,
	  "take one arena after the other away under load" },
	{ "damage", OPT_BOOL, FIELD(damage), "no", 0, 0, NULL, NULL,
	  "spoil an object behind the load's back, to see that the proof sees it" },
	{ "sharing", OPT_BOOL, FIELD(sharing), "yes", 0, 0, NULL, NULL,
	  "groups share caches (mitigation " SHARING ")" },
	{ "reparent", OPT_ENUM, FIELD(reparent), "pointer", 0, 0, reparent_choices, NULL,
	  "how a group's objects go to its parent (mitigation " REPARENTING ")" },
	{ "emergency", OPT_BOOL, FIELD(emergency), "yes", 0, 0, NULL, NULL,
	  "objects from elsewhere when growing takes too long (mitigation " EMERGENCY ")" },
	{ "pcp", OPT_ENUM, FIELD(pcp), "disable", 0, 0, pcp_choices, NULL,
	  "what becomes of threads' free objects while an arena is taken away (mitigation " PCP ")" },
	{ "trim", OPT_BOOL, FIELD(trim), "yes", 0, 0, NULL, NULL,
	  "memory goes back when the group is short of it (mitigation " TRIM ")" },
	{ 0 },
};

static const struct mitigation slab_mitigations[] = {
	{
		.name = SHARING,
		.summary = "groups share slab caches, and each object has its owner beside it",
		.seed = "002",
		.knobs = { { "engine.slab_sharing", NULL } },
		.option = "sharing",
		.off = "no",
		.on = "yes",
		.value_help = "yes, or no: each group has caches of its own, as until Linux 5.9",
	},
	{
		.name = REPARENTING,
		.summary = "a group's objects go to its parent by one pointer",
		.seed = "002",
		.knobs = { { "engine.reparent", NULL } },
		.option = "reparent",
		.off = "walk",
		.on = "pointer",
		.value_help = "pointer, or walk: each object is looked at while all wait",
	},
	{
		.name = EMERGENCY,
		.summary = "who waits for memory that grows too slowly gets an object from elsewhere",
		.seed = "001",
		.knobs = { { "engine.emergency", NULL } },
		.option = "emergency",
		.off = "no",
		.on = "yes",
		.value_help = "yes or no",
	},
	{
		.name = PCP,
		.summary = "threads keep no free objects while an arena is taken away",
		.seed = "004",
		.knobs = { { "engine.pcp", NULL } },
		.option = "pcp",
		.off = "none",
		.on = "disable",
		.value_help = "disable; retry: they are emptied again and again; once; none",
	},
	{
		.name = TRIM,
		.summary = "memory that nobody uses goes back when there is pressure on the group",
		.seed = "002",
		.knobs = { { "engine.trim", NULL } },
		.option = "trim",
		.off = "no",
		.on = "yes",
		.value_help = "yes or no",
	},
	{ 0 },
};

static const struct metric slab_metrics[] = {
	{ "engine_slab_utilisation_pct", "%", MORE, "live objects, of the memory that is held for them" },
	{ "engine_slab_held_kib", "KiB", LESS, "memory held for objects, at most" },
	{ "engine_memory_peak_kib", "KiB", LESS, "memory of the allocator's group, at most" },
	{ "groups_made", "", MORE, "groups that were made" },
	{ "groups_made_s", "1/s", MORE, "rate at which groups were made" },
	{ "objects_proved", "", MORE, "objects found to hold their pattern" },
	{ "reparents", "", NEITHER, "groups whose objects went to the parent" },
	{ "reparent_walked", "", LESS, "objects that were looked at for that" },
	{ "reparent_ms", "ms", LESS, "time it took, all together" },
	{ "growth_waits", "", LESS, "allocations that waited for memory" },
	{ "alloc_max_ms", "ms", LESS, "the longest that a group's objects took" },
	{ "emergency_objects", "", NEITHER, "emergency objects" },
	{ "emergency_max", "", NEITHER, "emergency objects at a time, at most" },
	{ "dlock", "", NEITHER, "growths that somebody waited for in vain" },
	{ "arenas_tried", "", NEITHER, "arenas that were to be taken away" },
	{ "arenas_offlined", "", MORE, "arenas that were" },
	{ "objects_moved", "", NEITHER, "objects that were moved for that" },
	{ "pcp_stuck", "", LESS, "free objects with threads that held an arena" },
	{ "trims", "", NEITHER, "times that memory went back under pressure" },
	{ "trimmed_kib", "KiB", NEITHER, "what went back then" },
	{ 0 },
};

/* --- What the load tells while it runs: it may not live to the end --- */

struct telling {
	struct slab_counters slab;
	struct trim_counters trim;
	_Atomic uint64_t live_bytes, groups, made, freed, proved, alloc_ns_max, tried, offlined;
	/* Of the same moment: bytes of objects in slabs, and what is held for them. */
	_Atomic uint64_t seen_live, seen_held;
	_Atomic bool corrupt;
	int64_t began_ns;
	_Atomic int64_t ended_ns;
};

static struct telling *telling;

/* --- Objects --- */

/* The beginning of each; the rest is `key` again and again. */
struct object {
	uint64_t key;
	uint32_t worker, place;
};

struct place {
	struct object *object; /* NULL: none */
	uint32_t size;
};

struct load;

struct worker {
	struct load *load;
	unsigned number;
	pthread_t pthread;
	struct slab_thread *thread;
	/* Held by whoever allocates, frees or moves this worker's objects. */
	pthread_mutex_t lock;
	unsigned groups;
	struct slab_group **group;
	struct place *place; /* `objects` for each group, then those of objects that have outlived theirs */
	uint32_t kept, next_kept;
	uint64_t random, keys;
	int err;
};

struct load {
	const struct cell *cell;
	const struct slab_opts *opts;
	struct slabs *slabs;
	struct slab_thread *mover;
	uint64_t growths; /* of the growing thread */
	_Atomic bool over;
	struct worker worker[MAX_WORKERS];
};

static uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL; /* Knuth, MMIX */
	return (uint32_t)(*state >> 33);
}

static void write_pattern(struct object *object, uint32_t size)
{
	uint64_t *word = (uint64_t *)(void *)(object + 1), *end = (uint64_t *)(void *)((char *)object + size);

	while (word < end)
		*word++ = object->key;
}

static bool has_pattern(const struct object *object, uint32_t size)
{
	const uint64_t *word = (const uint64_t *)(const void *)(object + 1),
		       *end = (const uint64_t *)(const void *)((const char *)object + size);

	while (word < end)
		if (*word++ != object->key)
			return false;
	return true;
}

/* Also that it is the one that belongs here. */
static int prove(struct worker *w, uint32_t place)
{
	const struct place *p = &w->place[place];

	if (p->object->worker == w->number && p->object->place == place && has_pattern(p->object, p->size)) {
		telling->proved++;
		return 0;
	}
	telling->corrupt = true;
	return -EILSEQ;
}

/* Those that lie in slabs count: an emergency object lies elsewhere, and takes no memory of theirs. */
static void count_live(struct worker *w, const struct place *p, uint64_t sign)
{
	if (slab_arena_of(w->load->slabs, p->object) >= 0)
		telling->live_bytes += sign * p->size;
}

static int make_object(struct worker *w, uint32_t place, struct slab_group *group)
{
	uint32_t size = sparse_sizes[next_random(&w->random) % SPARSE_SIZES];
	struct object *object = slab_alloc(w->thread, group, size, clock_ns() + ALLOC_S * NS_PER_S);

	if (!object)
		return -errno;
	*object = (struct object){ .key = ++w->keys << 8 | w->number, .worker = w->number, .place = place };
	write_pattern(object, size);
	if (w->load->opts->damage && w->keys == DAMAGED)
		((char *)object)[size - 1] ^= 1;
	w->place[place] = (struct place){ object, size };
	count_live(w, &w->place[place], 1);
	telling->made++;
	return 0;
}

static int free_object(struct worker *w, uint32_t place)
{
	struct place *p = &w->place[place];
	int err;

	if (!p->object)
		return 0;
	err = prove(w, place);
	count_live(w, p, -1ULL);
	slab_free(w->thread, p->object);
	p->object = NULL;
	telling->freed += !err;
	return err;
}

/* Who outlives the group takes the place of one that did so long enough. */
static int keep_object(struct worker *w, uint32_t place)
{
	uint32_t to = w->groups * (uint32_t)w->load->opts->objects + w->next_kept;
	int err = free_object(w, to);

	w->next_kept = (w->next_kept + 1) % w->kept;
	w->place[to] = w->place[place];
	w->place[to].object->place = to;
	w->place[place].object = NULL;
	return err;
}

/* --- Groups --- */

static int end_group(struct worker *w, unsigned g)
{
	const struct slab_opts *o = w->load->opts;
	uint32_t first = g * (uint32_t)o->objects;
	int err = 0;

	for (uint32_t i = first; !err && i < first + o->objects; i++)
		err = w->kept && next_random(&w->random) % 100 < o->keep_pct ? keep_object(w, i) : free_object(w, i);
	if (!err)
		err = slab_group_close(w->group[g]);
	w->group[g] = NULL;
	return err;
}

static int begin_group(struct worker *w, unsigned g)
{
	const struct slab_opts *o = w->load->opts;
	uint32_t first = g * (uint32_t)o->objects;
	int64_t from = clock_ns();
	uint64_t took;
	int err = slab_group_open(w->load->slabs, NULL, 0, &w->group[g]);

	for (uint32_t i = first; !err && i < first + o->objects; i++)
		err = make_object(w, i, w->group[g]);
	took = (uint64_t)(clock_ns() - from);
	if (took > telling->alloc_ns_max)
		telling->alloc_ns_max = took; /* of about the longest: two may come at once */
	telling->groups++;
	return err;
}

static void *churn(void *arg)
{
	struct worker *w = arg;

	for (unsigned g = 0; !w->err && !w->load->over; g = (g + 1) % w->groups) {
		pthread_mutex_lock(&w->lock);
		if (w->group[g])
			w->err = end_group(w, g);
		if (!w->err)
			w->err = begin_group(w, g);
		pthread_mutex_unlock(&w->lock);
	}
	return NULL;
}

static int end_all(struct worker *w)
{
	const struct slab_opts *o = w->load->opts;
	int err = 0;

	for (unsigned g = 0; !err && g < w->groups; g++)
		if (w->group[g])
			err = end_group(w, g);
	for (uint32_t i = 0; !err && i < w->kept; i++)
		err = free_object(w, w->groups * (uint32_t)o->objects + i);
	return err;
}

/* --- Arenas that are taken away --- */

/* What it says of itself may be of the past, or nobody's: the place decides. */
static int move_object(void *arg, void *from, size_t size)
{
	struct load *l = arg;
	struct object old = *(const struct object *)from;
	uint32_t places;
	struct worker *w;
	struct place *p;
	void *to;
	int err = -EAGAIN;

	(void)size;
	if (old.worker >= l->opts->workers)
		return -EAGAIN;
	w = &l->worker[old.worker];
	places = w->groups * (uint32_t)l->opts->objects + w->kept;
	/* It may be waiting for memory itself. */
	if (old.place >= places || pthread_mutex_trylock(&w->lock))
		return -EAGAIN;
	p = &w->place[old.place];
	if (p->object == from && !prove(w, old.place)) {
		/* The owner of what is moved is known to the allocator only; to be one of ours is enough here. */
		to = slab_alloc(l->mover, w->group[old.place / l->opts->objects % w->groups], p->size, SLAB_NOWAIT);
		err = to ? 0 : -errno;
		if (to) {
			memcpy(to, from, p->size);
			slab_free(l->mover, from);
			p->object = to;
		}
	}
	pthread_mutex_unlock(&w->lock);
	return err;
}

static bool goes_on(const struct load *l, int64_t until)
{
	for (unsigned i = 0; i < l->opts->workers; i++)
		if (__atomic_load_n(&l->worker[i].err, __ATOMIC_RELAXED))
			return false;
	return clock_ns() < until && !cell_should_stop(l->cell);
}

static void take_arenas(struct load *l, int64_t until)
{
	for (unsigned arena = 0; goes_on(l, until); arena++) {
		struct slab_counters c;
		unsigned in_use;

		clock_sleep_ms(OFFLINE_GAP_MS);
		slab_counters(l->slabs, &c);
		in_use = (unsigned)((c.slab_bytes + SLAB_ARENA_BYTES - 1) / SLAB_ARENA_BYTES);
		if (!l->opts->offline || !in_use)
			continue;
		telling->tried++;
		if (slab_offline(l->slabs, arena % in_use,
				 &(struct slab_offline){ .deadline_ns = clock_ns() + OFFLINE_MS * NS_PER_MS,
							 .pcp = (enum slab_pcp)l->opts->pcp,
							 .move = move_object,
							 .arg = l }))
			continue;
		telling->offlined++;
		slab_online(l->slabs, arena % in_use);
	}
}

/* --- The load --- */

static int stand_still(void *arg)
{
	struct load *l = arg;

	if (l->opts->growth_stall_ms && l->growths++ % l->opts->growth_stall_every == 0)
		clock_sleep_ms((int64_t)l->opts->growth_stall_ms);
	return 0;
}

static int open_worker(struct load *l, unsigned number)
{
	const struct slab_opts *o = l->opts;
	struct worker *w = &l->worker[number];

	*w = (struct worker){ .load = l, .number = number, .random = l->cell->seed + number };
	w->groups = (unsigned)((o->groups + o->workers - 1) / o->workers);
	w->kept = (uint32_t)(w->groups * o->objects * o->keep_pct / 100);
	pthread_mutex_init(&w->lock, NULL);
	w->group = calloc(w->groups, sizeof(*w->group));
	w->place = calloc(w->groups * o->objects + w->kept, sizeof(*w->place));
	return w->group && w->place ? slab_thread_open(l->slabs, &w->thread) : -ENOMEM;
}

/* The objects first: a slab is there before its objects, so that these are never more than it holds. */
static void tell(const struct load *l)
{
	uint64_t live = telling->live_bytes;

	slab_counters(l->slabs, &telling->slab);
	telling->seen_live = live;
	telling->seen_held = telling->slab.slab_bytes + telling->slab.meta_bytes + telling->slab.ready_bytes;
}

static void *tell_all_the_time(void *arg)
{
	struct load *l = arg;

	while (!l->over) {
		tell(l);
		clock_sleep_ms(TELL_MS);
	}
	return NULL;
}

static int run_workers(struct load *l)
{
	int64_t until = clock_ns() + (int64_t)l->opts->time_s * NS_PER_S;
	unsigned n = 0;
	pthread_t teller;
	int err = -pthread_create(&teller, NULL, tell_all_the_time, l);

	if (err)
		return err;
	telling->began_ns = clock_ns();
	for (; !err && n < l->opts->workers; n++)
		err = -pthread_create(&l->worker[n].pthread, NULL, churn, &l->worker[n]);
	if (!err)
		take_arenas(l, until);
	l->over = true;
	n -= err != 0;
	while (n > 0)
		pthread_join(l->worker[--n].pthread, NULL);
	pthread_join(teller, NULL);
	tell(l);
	telling->ended_ns = clock_ns();
	for (unsigned i = 0; !err && i < l->opts->workers; i++)
		err = l->worker[i].err;
	return err;
}

/* Everything back, down to the last byte. */
static int close_all(struct load *l)
{
	int err = 0;

	for (unsigned i = 0; !err && i < l->opts->workers; i++) {
		err = end_all(&l->worker[i]);
		slab_thread_close(l->worker[i].thread);
	}
	slab_thread_close(l->mover);
	return err ? err : slab_close(l->slabs);
}

static int start_trim(struct load *l, int pressure, struct trim **trim)
{
	return pressure == NO_PRESSURE ? 0 : trim_start(l->slabs, pressure, 0, trim);
}

static int slab_load(const struct cell *c, int pressure)
{
	const struct slab_opts *o = c->opts;
	struct load l = { .cell = c, .opts = o };
	const struct slab_config config = {
		.size = SLAB_BYTES,
		.acct = o->sharing ? SLAB_ACCT_OBJCG : SLAB_ACCT_PER_GROUP,
		.reparent = (enum slab_reparent)o->reparent,
		.emerg = o->emergency ? SLAB_EMERG_RBTREE : SLAB_EMERG_OFF,
		/* Dead ones too, which live on by what they left. */
		.groups = (unsigned)(o->groups * 4 + 8),
		.grow_hook = stand_still,
		.grow_arg = &l,
	};
	struct trim *trim = NULL;
	int err = slab_open(&l.slabs, &config);

	if (!err)
		err = slab_thread_open(l.slabs, &l.mover);
	for (unsigned i = 0; !err && i < o->workers; i++)
		err = open_worker(&l, i);
	if (!err)
		err = start_trim(&l, pressure, &trim);
	if (!err)
		err = run_workers(&l);
	if (trim)
		trim_read_counters(trim, &telling->trim);
	trim_stop(trim);
	return err ? err : close_all(&l);
}

/* --- The hooks --- */

static void tell_knobs(const struct slab_opts *o)
{
	static const char *const words[] = { "no", "yes" };

	cell_knob("engine.slab_sharing", words[o->sharing], words[o->sharing]);
	cell_knob("engine.reparent", reparent_choices[o->reparent], reparent_choices[o->reparent]);
	cell_knob("engine.emergency", words[o->emergency], words[o->emergency]);
	cell_knob("engine.pcp", pcp_choices[o->pcp], pcp_choices[o->pcp]);
	cell_knob("engine.trim", words[o->trim], words[o->trim]);
}

static int setup(struct cell *c)
{
	const struct slab_opts *o = c->opts;

	tell_knobs(o);
	/* Before there is a load, so that it is charged to us, not to the load's group; for all hooks. */
	telling = mmap(NULL, sizeof(*telling), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (telling == MAP_FAILED) {
		cell_fail(c, "shared memory: %s", strerror(errno));
		return -ENOMEM;
	}
	memset(telling, 0, sizeof(*telling));
	return limit_memory(c, SLAB_GROUP, o->limit_mib);
}

struct seen {
	uint64_t held_max, live, held; /* the last two when it was last at work */
};

static void add_curve(struct jsonw *j, const void *arg)
{
	const struct seen *seen = arg;

	jsonw_u64(j, "live_kib", seen->live / 1024);
	jsonw_u64(j, "held_kib", seen->held / 1024);
	jsonw_u64(j, "groups", telling->groups);
}

/* Until the load has ended, however it did; cell_wait() finds out which. */
static struct seen watch(pid_t pid)
{
	struct seen seen = { 0 };
	siginfo_t info = { 0 };

	while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && !info.si_pid) {
		uint64_t held = telling->seen_held;

		if (held > seen.held_max)
			seen.held_max = held;
		if (held && !telling->ended_ns) {
			seen.live = telling->seen_live;
			seen.held = held;
			cell_event_with("engine-slab", add_curve, &seen, "%" PRIu64 " of %" PRIu64 " KiB are objects",
					seen.live / 1024, held / 1024);
		}
		clock_sleep_ms(CURVE_MS);
	}
	return seen;
}

static void tell_metrics(const struct cell *c, const struct seen *seen)
{
	const struct telling *t = telling;
	int64_t took_ms = (t->ended_ns - t->began_ns) / NS_PER_MS;
	uint64_t peak;

	if (seen->held) {
		cell_metric_fixed(c, "engine_slab_utilisation_pct", (int64_t)(seen->live * 1000 / seen->held), 1);
		cell_metric_u64(c, "engine_slab_held_kib", seen->held_max / 1024);
	}
	if (scope_get(SLAB_GROUP, "memory.peak", NULL, &peak) == 0)
		cell_metric_u64(c, "engine_memory_peak_kib", peak / 1024);
	cell_metric_u64(c, "groups_made", t->groups);
	if (t->ended_ns && took_ms > 0)
		cell_metric_fixed(c, "groups_made_s", (int64_t)t->groups * 1000 * 1000 / took_ms, 3);
	cell_metric_u64(c, "objects_proved", t->proved);
	cell_metric_u64(c, "reparents", t->slab.reparents);
	cell_metric_u64(c, "reparent_walked", t->slab.walk_objs);
	cell_metric_fixed(c, "reparent_ms", (int64_t)(t->slab.reparent_ns / 1000), 3);
	cell_metric_u64(c, "growth_waits", t->slab.waits);
	cell_metric_fixed(c, "alloc_max_ms", (int64_t)(t->alloc_ns_max / 1000), 3);
	cell_metric_u64(c, "emergency_objects", t->slab.emerg_total);
	cell_metric_u64(c, "emergency_max", t->slab.emerg_max);
	cell_metric_u64(c, "dlock", t->slab.dlock);
	cell_metric_u64(c, "arenas_tried", t->tried);
	cell_metric_u64(c, "arenas_offlined", t->offlined);
	cell_metric_u64(c, "objects_moved", t->slab.migrate_ok);
	cell_metric_u64(c, "pcp_stuck", t->slab.pcp_stuck);
	cell_metric_u64(c, "trims", t->trim.trims);
	cell_metric_u64(c, "trimmed_kib", t->trim.bytes / 1024);
}

/* A PSI trigger of the load's group, for the load to inherit. */
static int open_pressure(const struct cell *c)
{
	char path[PATH_MAX];
	int fd;

	scope_path(SLAB_GROUP "/memory.pressure", path, sizeof(path));
	fd = trim_trigger(path, 0, 0);
	if (fd < 0)
		cell_fail(c, "%s: a PSI trigger: %s", path, strerror(-fd));
	return fd;
}

static int run(struct cell *c)
{
	const struct slab_opts *o = c->opts;
	int pressure = o->trim ? open_pressure(c) : NO_PRESSURE;
	struct seen seen = { 0 };
	char words[64];
	pid_t pid;
	int rc;

	if (o->trim && pressure < 0)
		return pressure;
	pid = cell_child(c, SLAB_COMM);
	if (pid == 0) {
		rc = scope_attach(SLAB_GROUP, getpid());
		_exit(-(rc ? rc : slab_load(c, pressure)));
	}
	if (pressure >= 0)
		close(pressure);
	if (pid > 0)
		seen = watch(pid);
	rc = pid < 0 ? pid : cell_wait(c, SLAB_COMM, pid);
	tell_metrics(c, &seen);
	if (rc)
		cell_fail(c, "the allocator: %s", cell_end_words(rc, words, sizeof(words)));
	return rc > 0 ? -ECANCELED : rc;
}

/* Each object is proved when it is freed; of a load that was killed nothing is left that could be. */
static int verify(struct cell *c)
{
	if (telling->corrupt)
		cell_corrupt(c, "an object of the allocator does not hold its pattern");
	else if (c->run_ok && telling->made != telling->freed)
		cell_corrupt(c, "%" PRIu64 " objects were made, and %" PRIu64 " found to hold their pattern at the end",
			     telling->made, telling->freed);
	return 0;
}

/* --- The mitigations, from the record --- */

static void attest_sharing(const struct facts *f, struct attestation *a)
{
	a->exercised = facts_metric(f, "groups_made") > 1 ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "%.1f %% of the memory held are objects of %" PRIu64 " groups",
		 json_number_value(json_object_get(f->metrics, "engine_slab_utilisation_pct")),
		 facts_metric(f, "groups_made"));
}

static void attest_reparenting(const struct facts *f, const struct slab_opts *o, struct attestation *a)
{
	uint64_t n = facts_metric(f, "reparents"), walked = facts_metric(f, "reparent_walked");

	if (!o->sharing) {
		a->exercised = NO;
		snprintf(a->evidence, sizeof(a->evidence), "a group's own caches are walked in any case");
		return;
	}
	if (a->state == MITIGATION_ON && walked)
		a->state = MITIGATION_FAILED;
	a->exercised = n ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " groups went, %" PRIu64 " objects were looked at", n,
		 walked);
}

static void attest_emergency(const struct facts *f, struct attestation *a)
{
	uint64_t n = facts_metric(f, "emergency_objects"), waits = facts_metric(f, "growth_waits");

	if (a->state == MITIGATION_OFF && n)
		a->state = MITIGATION_FAILED;
	a->exercised = (a->state == MITIGATION_ON ? n : waits) ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " emergency objects, %" PRIu64 " waits for memory", n,
		 waits);
}

static void attest_pcp(const struct facts *f, struct attestation *a)
{
	uint64_t tried = facts_metric(f, "arenas_tried"), done = facts_metric(f, "arenas_offlined"),
		 stuck = facts_metric(f, "pcp_stuck");

	a->exercised = tried && (a->state == MITIGATION_ON || stuck) ? YES : NO;
	if (a->state == MITIGATION_ON && stuck)
		a->state = MITIGATION_FAILED;
	snprintf(a->evidence, sizeof(a->evidence),
		 "%" PRIu64 " of %" PRIu64 " arenas taken away, %" PRIu64 " free objects held one", done, tried, stuck);
}

static void attest_trim(const struct facts *f, struct attestation *a)
{
	if (a->state == MITIGATION_OFF) {
		a->exercised = UNKNOWN;
		snprintf(a->evidence, sizeof(a->evidence), "nobody listened for pressure");
		return;
	}
	a->exercised = facts_metric(f, "trims") ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "%" PRIu64 " times under pressure, %" PRIu64 " KiB",
		 facts_metric(f, "trims"), facts_metric(f, "trimmed_kib"));
}

static void attest(const struct facts *f, const void *opts, struct attestation *a)
{
	const char *name = a->mitigation->name;

	if (!json_object_get(f->metrics, "groups_made")) {
		a->exercised = UNKNOWN;
		snprintf(a->evidence, sizeof(a->evidence), "the allocator did not say");
	} else if (strcmp(name, SHARING) == 0) {
		attest_sharing(f, a);
	} else if (strcmp(name, REPARENTING) == 0) {
		attest_reparenting(f, opts, a);
	} else if (strcmp(name, EMERGENCY) == 0) {
		attest_emergency(f, a);
	} else if (strcmp(name, PCP) == 0) {
		attest_pcp(f, a);
	} else {
		attest_trim(f, a);
	}
}

static const struct workload engine_slab = {
	.name = "engine-slab",
	.summary = "groups that come and go with their objects in our slab allocator, in a group with little memory",
	.group = SLAB_GROUP,
	.opts = slab_options,
	.opts_size = sizeof(struct slab_opts),
	.mitigations = slab_mitigations,
	.metrics = slab_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
	.attest = attest,
};
WORKLOAD_REGISTER(engine_slab);
