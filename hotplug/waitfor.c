// SPDX-License-Identifier: MIT
#include "hotplug/waitfor.h"

#include <stdio.h>
#include <string.h>

#define MEM_HOTPLUG    "mem_hotplug_lock"
#define DEVICE_HOTPLUG "device_hotplug_lock"
#define CGROUP_MUTEX   "cgroup_mutex"
#define IN_USE	       "pages that are in use"
#define SIGNAL	       "the signal of its supervisor"

static bool in(const struct stack *f, const char *function)
{
	return stack_find(f, function) < f->n;
}

static bool in_any(const struct stack *f, const char *const *functions)
{
	for (; *functions; functions++)
		if (in(f, *functions))
			return true;
	return false;
}

/* --- What the places mean --- */

static void waits(struct waiter *t, const char *what, const char *where)
{
	snprintf(t->waits, sizeof(t->waits), "%s", what);
	snprintf(t->where, sizeof(t->where), "%s", where);
}

static void holds(struct waiter *t, const char *what)
{
	if (t->n_holds < WAITFOR_MAX_CLAIMS)
		snprintf(t->holds[t->n_holds++], WAITFOR_NAME, "%s", what);
}

static void core_of(pid_t pid, const char *what, char *buf)
{
	snprintf(buf, WAITFOR_NAME, "%s of the core of %d", what, (int)pid);
}

/* mm/memory_hotplug.c: offline_pages() holds mem_hotplug_lock for writing from mem_hotplug_begin() on. */
static void offliner(struct waiter *t, const struct stack *f, bool migrating_fails)
{
	static const char *const begins[] = { "mem_hotplug_begin", "percpu_down_write", NULL };

	/* That pages fail is the word of one who is in the loop, and has both locks. */
	if (t->offlines && !f->n && migrating_fails) {
		holds(t, DEVICE_HOTPLUG);
		holds(t, MEM_HOTPLUG);
		waits(t, IN_USE, "offline_pages");
		return;
	}
	if (in(f, "lock_device_hotplug_sysfs")) {
		waits(t, DEVICE_HOTPLUG, "lock_device_hotplug_sysfs");
		return;
	}
	if (!in(f, "memory_subsys_offline") && !in(f, "offline_pages"))
		return;
	holds(t, DEVICE_HOTPLUG);
	if (!in(f, "offline_pages"))
		return;
	if (in_any(f, begins)) {
		waits(t, MEM_HOTPLUG, "mem_hotplug_begin");
		return;
	}
	holds(t, MEM_HOTPLUG);
	if (migrating_fails)
		waits(t, IN_USE, "offline_pages");
}

/* Readers of the lock, who hold others meanwhile. */
static void reader(struct waiter *t, const struct stack *f)
{
	/*
	 * Those that come to get_online_mems() with cgroup_mutex: the switch of the multi-generational LRU
	 * (mm/vmscan.c, lru_gen_change_state()), and, up to 5.8, what takes the caches of a dying group out of use.
	 */
	static const char *const with_mutex[] = { "store_enabled",
						  "enabled_store",
						  "lru_gen_change_state",
						  "memcg_offline_kmem",
						  "mem_cgroup_css_offline",
						  "css_killed_work_fn",
						  NULL };

	if (!in(f, "get_online_mems"))
		return;
	waits(t, MEM_HOTPLUG, "get_online_mems");
	if (in_any(f, with_mutex))
		holds(t, CGROUP_MUTEX);
}

/* The scheduler's own functions, a mutex's among them, are not in a stack: who waits for a mutex seems to be its
 * caller. */
static void wants_mutex(struct waiter *t, const struct stack *f)
{
	static const char *const callers[] = {
		"proc_cgroup_show",	 "cgroup_kn_lock_live",	 "cgroup_lock_and_drain_offline",
		"cgroup_attach_lock",	 "store_enabled",	 "enabled_store",
		"lru_gen_change_state",	 "cgroup_apply_control", "css_killed_work_fn",
		"cgroup_destroy_locked", "cgroupstats_build",	 NULL
	};

	if (!f->n || *t->waits || t->state != 'D')
		return;
	for (const char *const *c = callers; *c; c++)
		if (stack_is(f->names[0], *c) ||
		    (f->n > 1 && stack_is(f->names[0], "__mutex_lock") && stack_is(f->names[1], *c)))
			waits(t, CGROUP_MUTEX, *c);
}

/* fs/coredump.c: dump_user_range() holds a page while it is written; the reader of the pipe takes it off. */
static void dumper(struct waiter *t, const struct stack *f)
{
	static const char *const dumps[] = { "do_coredump", "elf_core_dump", "dump_user_range", "vfs_coredump", NULL };
	char what[WAITFOR_NAME];

	if (!in_any(f, dumps))
		return;
	holds(t, IN_USE);
	if (in(f, "pipe_write")) {
		core_of(t->pid, "the pipe", what);
		waits(t, what, "pipe_write");
	}
}

void waitfor_classify(struct waiter *t, const char *stack, size_t len, bool migrating_fails)
{
	struct stack f;
	char what[WAITFOR_NAME];

	stack_parse(&f, stack, len);
	t->n_holds = 0;
	t->waits[0] = '\0';
	for (t->n_frames = 0; t->n_frames < f.n && t->n_frames < WAITFOR_FRAMES; t->n_frames++)
		memcpy(t->frames[t->n_frames], f.names[t->n_frames], WAITFOR_NAME);
	snprintf(t->where, sizeof(t->where), "%s", f.n ? f.names[0] : "");
	offliner(t, &f, migrating_fails);
	reader(t, &f);
	dumper(t, &f);
	wants_mutex(t, &f);
	if (t->dumps) {
		core_of(t->dumps, "the pipe", what);
		holds(t, what);
	}
	if (t->supervises)
		holds(t, SIGNAL);
}

/* --- Cycles --- */

static bool has(const struct waiter *t, const char *what)
{
	for (unsigned i = 0; i < t->n_holds; i++)
		if (strcmp(t->holds[i], what) == 0)
			return true;
	return false;
}

void waitfor_supervised(struct waiter *tasks, unsigned n)
{
	bool supervised = false;

	for (unsigned i = 0; i < n; i++) {
		if (has(&tasks[i], IN_USE))
			return;
		supervised |= tasks[i].supervises;
	}
	for (unsigned i = 0; supervised && i < n; i++)
		if (strcmp(tasks[i].waits, IN_USE) == 0)
			snprintf(tasks[i].waits, WAITFOR_NAME, SIGNAL);
}

enum colour { NEW, ON_PATH, DONE };

/* Depth first, without recursion: path[] are the tasks from where we began, next[] how far each has looked. */
static bool search(const struct waiter *tasks, unsigned n, unsigned from, enum colour *colour, unsigned *path,
		   unsigned *depth, unsigned *begin)
{
	unsigned next[WAITFOR_MAX_TASKS] = { 0 };

	path[0] = from;
	*depth = 1;
	colour[from] = ON_PATH;
	while (*depth) {
		unsigned at = path[*depth - 1], to = next[*depth - 1]++;

		if (!*tasks[at].waits || to >= n) {
			colour[at] = DONE;
			(*depth)--;
			continue;
		}
		if (to == at || !has(&tasks[to], tasks[at].waits) || colour[to] == DONE)
			continue;
		if (colour[to] == ON_PATH) {
			for (*begin = 0; path[*begin] != to; (*begin)++)
				;
			return true;
		}
		colour[to] = ON_PATH;
		path[*depth] = to;
		next[(*depth)++] = 0;
	}
	return false;
}

bool waitfor_cycle(const struct waiter *tasks, unsigned n, struct waitfor_cycle *c)
{
	enum colour colour[WAITFOR_MAX_TASKS] = { NEW };
	unsigned path[WAITFOR_MAX_TASKS], depth, begin, least = 0;
	bool found = false;

	c->n = 0;
	if (n > WAITFOR_MAX_TASKS)
		n = WAITFOR_MAX_TASKS;
	for (unsigned i = 0; !found && i < n; i++)
		found = colour[i] == NEW && search(tasks, n, i, colour, path, &depth, &begin);
	if (!found)
		return false;
	c->n = depth - begin;
	for (unsigned i = 0; i < c->n; i++)
		if (tasks[path[begin + i]].pid < tasks[path[begin + least]].pid)
			least = i;
	for (unsigned i = 0; i < c->n; i++) {
		const struct waiter *t = &tasks[path[begin + (least + i) % c->n]];

		c->steps[i].pid = t->pid;
		c->steps[i].switches = t->state == 'D' ? t->switches : 0;
		memcpy(c->steps[i].comm, t->comm, sizeof(t->comm));
		memcpy(c->steps[i].waits, t->waits, sizeof(t->waits));
		memcpy(c->steps[i].where, t->where, sizeof(t->where));
		memcpy(c->steps[i].frames, t->frames, sizeof(t->frames));
		c->steps[i].n_frames = t->n_frames;
	}
	return true;
}

static bool same(const struct waitfor_cycle *a, const struct waitfor_cycle *b)
{
	if (a->n != b->n)
		return false;
	for (unsigned i = 0; i < a->n; i++)
		if (a->steps[i].pid != b->steps[i].pid || a->steps[i].switches != b->steps[i].switches ||
		    strcmp(a->steps[i].waits, b->steps[i].waits) != 0)
			return false;
	return true;
}

bool waitfor_add(struct waitfor_watch *w, const struct waiter *tasks, unsigned n, int64_t now_ns, unsigned looks,
		 int64_t hold_ns)
{
	struct waitfor_cycle now;

	if (!waitfor_cycle(tasks, n, &now)) {
		w->looks = 0;
		w->cycle.n = 0;
		return false;
	}
	if (!w->looks || !same(&w->cycle, &now)) {
		w->cycle = now;
		w->since_ns = now_ns;
		w->looks = 0;
	}
	w->looks++;
	return w->looks >= looks && now_ns - w->since_ns >= hold_ns;
}

const char *waitfor_words(const struct waitfor_cycle *c, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < c->n && len < size; i++)
		len += (size_t)snprintf(buf + len, size - len, "%s%s (pid %d) in %s waits for %s",
					i ? ", held by " : "", c->steps[i].comm, (int)c->steps[i].pid,
					c->steps[i].where, c->steps[i].waits);
	if (c->n && len < size)
		snprintf(buf + len, size - len, ", held by %s (pid %d)", c->steps[0].comm, (int)c->steps[0].pid);
	return buf;
}

void waitfor_json(struct jsonw *j, const void *cycle)
{
	const struct waitfor_cycle *c = cycle;

	jsonw_array(j, "steps");
	for (unsigned i = 0; i < c->n; i++) {
		jsonw_object(j, NULL);
		jsonw_i64(j, "pid", c->steps[i].pid);
		jsonw_str(j, "comm", c->steps[i].comm);
		jsonw_str(j, "where", c->steps[i].where);
		jsonw_str(j, "waits", c->steps[i].waits);
		jsonw_array(j, "stack");
		for (unsigned k = 0; k < c->steps[i].n_frames; k++)
			jsonw_str(j, NULL, c->steps[i].frames[k]);
		jsonw_array_end(j);
		jsonw_object_end(j);
	}
	jsonw_array_end(j);
}
