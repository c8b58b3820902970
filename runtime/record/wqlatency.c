// SPDX-License-Identifier: MIT
#include "record/wqlatency.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define SLICE_NS	 (50 * NS_PER_MS)
#define SLICES		 1280 /* 64 s: what ran before is forgotten */
#define SLICE_FUNCTIONS	 8
#define EXPIRE_NS	 (30 * NS_PER_S)
#define EXPIRE_PARKED_NS (600 * NS_PER_S) /* max_active can hold a work back for as long as the load lasts */
#define BUCKETS		 4096		  /* of the hash; a power of two */
#define MAX_NODES	 (WQL_MAX_WAITING + WQL_MAX_RUNNING)
#define MAX_NS		 (INT64_MAX / 2) /* so that sums of times stay in range */
#define NONE		 UINT32_MAX

enum state {
	QUEUED, /* not activated: parked */
	SELF,	/* activated while it runs: parked until that run ends */
	ACTIVE, /* on the list of its pool */
	RUNNING,
};

/* A work that waits or runs. It is in one hash chain, and in the one list that its state and pool say. */
struct node {
	uint64_t work, function;
	int64_t since;
	uint32_t next; /* in the chain, or among the free */
	uint32_t before, after;
	uint32_t list;
	uint16_t pool;
	uint16_t fn;
	uint8_t state;
};

struct list {
	uint32_t head, tail;
};

struct table {
	uint32_t chain[BUCKETS];
	uint32_t free;
};

/* What a CPU did in SLICE_NS: the time of each function, under those that took most. */
struct slice {
	int64_t index; /* time / SLICE_NS */
	struct {
		uint32_t ns;
		uint16_t fn;
	} use[SLICE_FUNCTIONS];
};

struct stack {
	int64_t seen_ns; /* up to here the time is in the slices */
	struct slice *slices;
};

struct pool {
	struct wql_times wait;
	int64_t passed_ns;	/* the latest activation of those that were started */
	int64_t last_start_ns;	/* of any */
	int64_t told_ns;	/* last_start_ns when it was last said to stand still, */
	int64_t told_waited_ns; /* and for how long the first had waited then */
};

struct wql {
	unsigned cpus;
	size_t size;
	int64_t threshold_ns;
	void (*on_stall)(const struct wql_stall *, void *);
	void *arg;
	struct wql_counts counts;
	int64_t blind_until_ns;
	struct node nodes[MAX_NODES];
	struct table waiting, running;
	struct wql_function functions[WQL_MAX_FUNCTIONS];
	uint16_t by_address[WQL_MAX_FUNCTIONS * 2]; /* open addressing: index + 1; 0: empty */
	size_t n_functions;
	int64_t hog_ns[WQL_MAX_FUNCTIONS]; /* scratch */
	struct pool *pools;		   /* of the CPUs, the same of high priority, then the unbound ones as one */
	struct list *lists;		   /* as the enum below has them */
	struct stack *stacks;		   /* as the pools, but the unbound ones by CPU */
};

/* Lists: activated works by pool; parked works; running works by stack, the latest at the tail. */
static uint32_t parked(const struct wql *w)
{
	return 2 * w->cpus + 1;
}

static uint32_t running_list(const struct wql *w, uint32_t stack)
{
	return 2 * w->cpus + 2 + stack;
}

static size_t n_lists(unsigned cpus)
{
	return 2 * (size_t)cpus + 2 + 3 * (size_t)cpus;
}

static uint16_t pool_index(const struct wql *w, int cpu, bool highpri)
{
	return (uint16_t)(cpu == WQL_UNBOUND ? 2 * w->cpus : (unsigned)cpu + (highpri ? w->cpus : 0));
}

static bool is_unbound(const struct wql *w, unsigned pool)
{
	return pool == 2 * w->cpus;
}

/* --- Tables and lists --- */

static uint32_t hash(uint64_t value)
{
	return (uint32_t)((value * 0x9e3779b97f4a7c15ULL) >> 40);
}

static void table_init(struct wql *w, struct table *t, uint32_t first, uint32_t n)
{
	memset(t->chain, 0xff, sizeof(t->chain));
	t->free = first;
	for (uint32_t i = first; i < first + n; i++)
		w->nodes[i].next = i + 1 < first + n ? i + 1 : NONE;
}

/* The work's entry. Of several the one with this function, where both are known. */
static uint32_t table_find(const struct wql *w, const struct table *t, uint64_t work, uint64_t function)
{
	uint32_t i = t->chain[hash(work) % BUCKETS];

	while (i != NONE &&
	       (w->nodes[i].work != work || (function && w->nodes[i].function && w->nodes[i].function != function)))
		i = w->nodes[i].next;
	return i;
}

static void list_add(struct wql *w, uint32_t list, uint32_t i)
{
	struct list *l = &w->lists[list];

	w->nodes[i].list = list;
	w->nodes[i].before = l->tail;
	w->nodes[i].after = NONE;
	if (l->tail != NONE)
		w->nodes[l->tail].after = i;
	else
		l->head = i;
	l->tail = i;
}

static void list_del(struct wql *w, uint32_t i)
{
	struct node *n = &w->nodes[i];
	struct list *l = &w->lists[n->list];

	if (n->before != NONE)
		w->nodes[n->before].after = n->after;
	else
		l->head = n->after;
	if (n->after != NONE)
		w->nodes[n->after].before = n->before;
	else
		l->tail = n->before;
}

static uint32_t node_add(struct wql *w, struct table *t, uint32_t list, const struct node *from)
{
	uint32_t i = t->free, *chain = &t->chain[hash(from->work) % BUCKETS];

	if (i == NONE)
		return NONE;
	t->free = w->nodes[i].next;
	w->nodes[i] = *from;
	w->nodes[i].next = *chain;
	*chain = i;
	list_add(w, list, i);
	return i;
}

static void node_del(struct wql *w, struct table *t, uint32_t i)
{
	uint32_t *at = &t->chain[hash(w->nodes[i].work) % BUCKETS];

	while (*at != i)
		at = &w->nodes[*at].next;
	*at = w->nodes[i].next;
	list_del(w, i);
	w->nodes[i].next = t->free;
	t->free = i;
}

static uint16_t function_index(struct wql *w, uint64_t address)
{
	size_t slot = hash(address) % (WQL_MAX_FUNCTIONS * 2);
	uint16_t fn;

	if (!address)
		return WQL_MAX_FUNCTIONS - 1;
	while ((fn = w->by_address[slot])) {
		if (w->functions[fn - 1].address == address)
			return (uint16_t)(fn - 1);
		slot = (slot + 1) % (WQL_MAX_FUNCTIONS * 2);
	}
	if (w->n_functions == WQL_MAX_FUNCTIONS - 1) {
		w->counts.functions_full++;
		return WQL_MAX_FUNCTIONS - 1;
	}
	fn = (uint16_t)w->n_functions++;
	w->functions[fn].address = address;
	w->by_address[slot] = (uint16_t)(fn + 1);
	return fn;
}

static void add_time(struct wql_times *t, int64_t ns)
{
	uint64_t us = (uint64_t)ns / 1000;
	unsigned bucket = us ? 64 - (unsigned)__builtin_clzll(us) : 0;

	t->n++;
	t->total_ns += ns;
	if (ns > t->max_ns)
		t->max_ns = ns;
	t->bucket[bucket < WQL_BUCKETS ? bucket : WQL_BUCKETS - 1]++;
}

/* --- Who ran --- */

static void slice_add(struct slice *s, int64_t index, uint16_t fn, uint32_t ns)
{
	unsigned least = 0;

	if (s->index != index) {
		memset(s, 0, sizeof(*s));
		s->index = index;
	}
	for (unsigned i = 0; i < SLICE_FUNCTIONS; i++) {
		if (s->use[i].ns && s->use[i].fn == fn) {
			s->use[i].ns += ns;
			return;
		}
		if (s->use[i].ns < s->use[least].ns)
			least = i;
	}
	/* No room: the one with the least time goes, so that the hog, whoever it is, is never told too much. */
	if (ns > s->use[least].ns) {
		s->use[least].ns = ns;
		s->use[least].fn = fn;
	}
}

/* Give the time since the last look to the work that started last. */
static void credit(struct wql *w, uint32_t stack, int64_t now)
{
	struct stack *s = &w->stacks[stack];
	uint32_t top = w->lists[running_list(w, stack)].tail;
	int64_t from = s->seen_ns;

	if (now <= from)
		return;
	s->seen_ns = now;
	if (top == NONE)
		return;
	if (now - from > SLICES * SLICE_NS)
		from = now - SLICES * SLICE_NS;
	while (from < now) {
		int64_t index = from / SLICE_NS, end = (index + 1) * SLICE_NS;

		if (end > now)
			end = now;
		slice_add(&s->slices[index % SLICES], index, w->nodes[top].fn, (uint32_t)(end - from));
		from = end;
	}
}

/* Add up who ran in that time. Of a slice that is only partly in it, the same part of each function's time counts. */
static void add_hogs(struct wql *w, uint32_t stack, int64_t from, int64_t to)
{
	struct stack *s = &w->stacks[stack];

	credit(w, stack, to);
	if (to - from > (SLICES - 1) * SLICE_NS)
		from = to - (SLICES - 1) * SLICE_NS;
	for (int64_t index = from / SLICE_NS; index * SLICE_NS < to; index++) {
		const struct slice *slice = &s->slices[index % SLICES];
		int64_t begin = index * SLICE_NS, end = begin + SLICE_NS, part;

		if (slice->index != index)
			continue;
		if (begin < from)
			begin = from;
		if (end > s->seen_ns)
			end = s->seen_ns;
		/* The last slice holds no more than what has passed of it. */
		part = (end < to ? end : to) - begin;
		for (unsigned i = 0; i < SLICE_FUNCTIONS && part > 0; i++)
			if (slice->use[i].ns)
				w->hog_ns[slice->use[i].fn] +=
					(int64_t)slice->use[i].ns * part / (end - index * SLICE_NS);
	}
}

static void find_hog(struct wql *w, struct wql_stall *stall, int cpu)
{
	int64_t from = stall->ns - stall->waited_ns;
	size_t best = 0;

	memset(w->hog_ns, 0, sizeof(w->hog_ns));
	add_hogs(w, (uint32_t)cpu, from, stall->ns);
	add_hogs(w, w->cpus + (uint32_t)cpu, from, stall->ns);
	/* A worker of an unbound pool shares the CPU that it is on with whatever runs there. */
	if (stall->pool_cpu == WQL_UNBOUND)
		add_hogs(w, 2 * w->cpus + (uint32_t)cpu, from, stall->ns);
	for (size_t i = 1; i < WQL_MAX_FUNCTIONS; i++)
		if (w->hog_ns[i] > w->hog_ns[best])
			best = i;
	stall->hog_ns = w->hog_ns[best] < stall->waited_ns ? w->hog_ns[best] : stall->waited_ns;
	stall->hog = stall->hog_ns ? w->functions[best].address : 0;
}

/* --- Events --- */

static void unwait(struct wql *w, uint32_t i)
{
	node_del(w, &w->waiting, i);
}

static void unrun(struct wql *w, uint32_t i, int64_t now)
{
	credit(w, w->nodes[i].list - running_list(w, 0), now);
	node_del(w, &w->running, i);
}

static void on_queue(struct wql *w, const struct wql_event *e)
{
	uint32_t old = table_find(w, &w->waiting, e->work, 0);
	struct node n = { .work = e->work, .function = e->function, .since = e->ns };

	if (e->pool_cpu < WQL_UNBOUND || e->pool_cpu >= (int)w->cpus) {
		w->counts.bad++;
		return;
	}
	if (old != NONE) {
		w->counts.replaced++;
		unwait(w, old);
	}
	n.fn = function_index(w, e->function);
	n.state = QUEUED;
	n.pool = pool_index(w, e->pool_cpu, w->functions[n.fn].highpri);
	w->functions[n.fn].unbound = e->pool_cpu == WQL_UNBOUND;
	if (node_add(w, &w->waiting, parked(w), &n) == NONE)
		w->counts.waiting_full++;
}

static void move_to_pool(struct wql *w, uint32_t i, int64_t ns)
{
	struct node *n = &w->nodes[i];

	list_del(w, i);
	n->state = ACTIVE;
	n->since = ns;
	list_add(w, n->pool, i);
}

static void on_activate(struct wql *w, const struct wql_event *e)
{
	uint32_t i = table_find(w, &w->waiting, e->work, e->function);

	if (i == NONE || w->nodes[i].state != QUEUED)
		return;
	if (table_find(w, &w->running, e->work, w->nodes[i].function) != NONE)
		w->nodes[i].state = SELF;
	else
		move_to_pool(w, i, e->ns);
}

static void waited(struct wql *w, const struct node *n, const struct wql_event *e)
{
	int64_t ns = e->ns > n->since ? e->ns - n->since : 0;
	struct pool *p = &w->pools[n->pool];

	add_time(&p->wait, ns);
	add_time(&w->functions[n->fn].wait, ns);
	if (n->since > p->passed_ns && !e->out_of_turn)
		p->passed_ns = n->since;
	if (ns < w->threshold_ns)
		return;
	w->counts.stalls++;
	if (w->on_stall) {
		struct wql_stall stall = { .ns = e->ns, .waited_ns = ns, .function = n->function };
		bool unbound = is_unbound(w, n->pool);

		stall.pool_cpu = unbound ? WQL_UNBOUND : (int)(n->pool % w->cpus);
		stall.highpri = !unbound && n->pool >= w->cpus;
		find_hog(w, &stall, unbound ? e->cpu : stall.pool_cpu);
		w->on_stall(&stall, w->arg);
	}
}

static void on_start(struct wql *w, const struct wql_event *e)
{
	uint32_t i = table_find(w, &w->waiting, e->work, 0), stack;
	struct node n = { .work = e->work, .function = e->function, .since = e->ns, .state = RUNNING };

	n.fn = function_index(w, e->function);
	n.pool = pool_index(w, w->functions[n.fn].unbound ? WQL_UNBOUND : e->cpu,
			    e->out_of_turn ? w->functions[n.fn].highpri : e->highpri);
	if (i != NONE && e->function && w->nodes[i].function && w->nodes[i].function != e->function) {
		w->counts.mismatched++;
		unwait(w, i);
	} else if (i != NONE) {
		if (!e->out_of_turn) {
			w->functions[n.fn].highpri = e->highpri;
			if (!is_unbound(w, w->nodes[i].pool))
				w->nodes[i].pool = pool_index(w, (int)(w->nodes[i].pool % w->cpus), e->highpri);
		}
		n.pool = w->nodes[i].pool;
		if (w->nodes[i].state == ACTIVE)
			waited(w, &w->nodes[i], e);
		else
			w->counts.unmatched++;
		unwait(w, i);
	} else {
		w->counts.unmatched++;
	}
	if (e->ns > w->pools[n.pool].last_start_ns && !e->out_of_turn)
		w->pools[n.pool].last_start_ns = e->ns;

	/* The kernel never runs a work twice at a time: the end of the other was not seen. */
	i = table_find(w, &w->running, e->work, e->function);
	if (i != NONE)
		unrun(w, i, e->ns);
	stack = is_unbound(w, n.pool) ? n.pool + (uint32_t)e->cpu : n.pool;
	credit(w, stack, e->ns);
	if (node_add(w, &w->running, running_list(w, stack), &n) == NONE)
		w->counts.running_full++;
}

static void on_end(struct wql *w, const struct wql_event *e)
{
	uint32_t i = table_find(w, &w->running, e->work, e->function);
	uint64_t function = e->function;

	if (i != NONE) {
		function = w->nodes[i].function;
		add_time(&w->functions[w->nodes[i].fn].run, e->ns > w->nodes[i].since ? e->ns - w->nodes[i].since : 0);
		unrun(w, i, e->ns);
	}
	/* Queued again while it ran, also where its start was not seen: before now it could not be started. */
	i = table_find(w, &w->waiting, e->work, function);
	if (i != NONE && w->nodes[i].state != QUEUED) {
		w->counts.requeued++;
		move_to_pool(w, i, e->ns);
	}
}

static void on_lost(struct wql *w, const struct wql_event *e)
{
	w->counts.losses++;
	if (e->until_ns > w->blind_until_ns)
		w->blind_until_ns = e->until_ns;
	for (uint32_t l = 0; l <= parked(w); l++) {
		while (w->lists[l].head != NONE) {
			unwait(w, w->lists[l].head);
			w->counts.dropped++;
		}
	}
	/* An unbound worker may have ended on any CPU. */
	for (uint32_t s = 0; s < 3 * w->cpus; s++) {
		uint32_t l = running_list(w, s);

		if (s % w->cpus != (uint32_t)e->cpu && s < 2 * w->cpus)
			continue;
		while (w->lists[l].head != NONE)
			unrun(w, w->lists[l].head, e->ns);
	}
}

void wql_feed(struct wql *w, const struct wql_event *e)
{
	w->counts.events += e->type != WQL_LOST;
	if (e->cpu < 0 || e->cpu >= (int)w->cpus || e->ns < 0 || e->ns > MAX_NS) {
		w->counts.bad++;
		return;
	}
	if (e->ns < w->blind_until_ns && (e->type == WQL_QUEUE || e->type == WQL_ACTIVATE)) {
		w->counts.blind++;
		return;
	}
	switch (e->type) {
	case WQL_QUEUE:
		on_queue(w, e);
		return;
	case WQL_ACTIVATE:
		on_activate(w, e);
		return;
	case WQL_START:
		on_start(w, e);
		return;
	case WQL_END:
		on_end(w, e);
		return;
	case WQL_LOST:
		on_lost(w, e);
		return;
	}
	w->counts.bad++;
}

/* --- Now and then --- */

static void expire(struct wql *w, uint32_t list, int64_t before_ns)
{
	uint32_t i;

	while ((i = w->lists[list].head) != NONE && w->nodes[i].since < before_ns) {
		unwait(w, i);
		w->counts.never_started++;
	}
}

/*
 * Nothing was started for as long as the threshold, something runs, and at least two works wait that are not known to
 * have been passed over: one alone may have been cancelled. Told again whenever the wait has doubled, and at the end:
 * the machine may not live to see it over.
 */
static void look_for_standstill(struct wql *w, unsigned pool, int64_t now, bool last)
{
	struct pool *p = &w->pools[pool];
	uint32_t i = w->lists[pool].head;
	struct wql_stall stall = { .ns = now, .waiting = true };

	if (!w->on_stall || !p->last_start_ns || p->last_start_ns > now - w->threshold_ns ||
	    w->lists[running_list(w, pool)].head == NONE)
		return;
	while (i != NONE && w->nodes[i].since < p->passed_ns)
		i = w->nodes[i].after;
	if (i == NONE || w->nodes[i].after == NONE || w->nodes[i].since > now - w->threshold_ns)
		return;
	stall.waited_ns = now - w->nodes[i].since;
	if (!last && p->told_ns == p->last_start_ns && stall.waited_ns < 2 * p->told_waited_ns)
		return;
	p->told_ns = p->last_start_ns;
	p->told_waited_ns = stall.waited_ns;
	stall.function = w->nodes[i].function;
	stall.pool_cpu = (int)(pool % w->cpus);
	stall.highpri = pool >= w->cpus;
	find_hog(w, &stall, stall.pool_cpu);
	w->on_stall(&stall, w->arg);
}

void wql_finish(struct wql *w, int64_t now)
{
	for (unsigned p = 0; p < 2 * w->cpus; p++)
		look_for_standstill(w, p, now, true);
}

void wql_tick(struct wql *w, int64_t now)
{
	for (unsigned p = 0; p <= 2 * w->cpus; p++) {
		int64_t before = now - EXPIRE_NS;

		expire(w, p, before < w->pools[p].passed_ns ? before : w->pools[p].passed_ns);
		if (!is_unbound(w, p))
			look_for_standstill(w, p, now, false);
	}
	expire(w, parked(w), now - EXPIRE_PARKED_NS);
}

/* --- Life and results --- */

struct wql *wql_new(unsigned cpus, int64_t threshold_ns, void (*on_stall)(const struct wql_stall *, void *), void *arg)
{
	size_t pools = (2 * (size_t)cpus + 1) * sizeof(struct pool), lists = n_lists(cpus) * sizeof(struct list);
	size_t stacks = 3 * (size_t)cpus * sizeof(struct stack),
	       slices = 3 * (size_t)cpus * SLICES * sizeof(struct slice);
	struct wql *w;

	if (!cpus || cpus > WQL_MAX_CPUS)
		return NULL;
	w = calloc(1, sizeof(*w) + pools + lists + stacks + slices);
	if (!w)
		return NULL;
	w->size = sizeof(*w) + pools + lists + stacks + slices;
	w->cpus = cpus;
	w->threshold_ns = threshold_ns;
	w->on_stall = on_stall;
	w->arg = arg;
	w->pools = (struct pool *)(w + 1);
	w->stacks = (struct stack *)((char *)w->pools + pools);
	for (unsigned i = 0; i < 3 * cpus; i++)
		w->stacks[i].slices = (struct slice *)((char *)w->stacks + stacks) + (size_t)i * SLICES;
	w->lists = (struct list *)((char *)w->stacks + stacks + slices);
	memset(w->lists, 0xff, lists);
	table_init(w, &w->waiting, 0, WQL_MAX_WAITING);
	table_init(w, &w->running, WQL_MAX_WAITING, WQL_MAX_RUNNING);
	return w;
}

void wql_free(struct wql *w)
{
	free(w);
}

size_t wql_size(const struct wql *w)
{
	return w->size;
}

const struct wql_counts *wql_counts(const struct wql *w)
{
	return &w->counts;
}

const struct wql_times *wql_pool(const struct wql *w, int pool_cpu, bool highpri)
{
	return pool_cpu < WQL_UNBOUND || pool_cpu >= (int)w->cpus ? NULL
								  : &w->pools[pool_index(w, pool_cpu, highpri)].wait;
}

const struct wql_function *wql_function(const struct wql *w, size_t i)
{
	if (i < w->n_functions)
		return &w->functions[i];
	/* All that have no row of their own, as the last row. */
	if (i == w->n_functions &&
	    (w->functions[WQL_MAX_FUNCTIONS - 1].wait.n || w->functions[WQL_MAX_FUNCTIONS - 1].run.n))
		return &w->functions[WQL_MAX_FUNCTIONS - 1];
	return NULL;
}

size_t wql_waiting(const struct wql *w)
{
	size_t n = 0;

	for (unsigned p = 0; p <= 2 * w->cpus; p++)
		for (uint32_t i = w->lists[p].head; i != NONE; i = w->nodes[i].after)
			n++;
	return n;
}
