// SPDX-License-Identifier: MIT
/*
 * How long work waits for a kernel worker, from the workqueue tracepoints: a state machine that is fed events in order
 * of time and knows nothing of where they come from. All memory is taken by wql_new(); the tables are fixed, and what
 * they cannot take is counted and left out.
 *
 * The wait of a work begins when it is activated (put on the list of its pool) and ends when a worker starts it. The
 * tracepoints do not tell all, so:
 *  - what waits for max_active of its workqueue is not activated yet, and its time has not begun;
 *  - a work that was queued while it runs can be started by its own worker alone. Its time begins where that run ends;
 *  - a cancelled or flushed work leaves no event. A wait is told when it is over, so that such a work is never told;
 *    its entry goes when the work is queued again, or when the pool has started later ones (pools are first in, first
 *    out) and half a minute has passed. Rescuers start works out of turn, while all others of the pool stand still;
 *  - barriers of flush_work() start without having been queued: they are executions and no waits;
 *  - memory is used again: an entry whose function is another than the one that starts is not the same work;
 *  - where events were lost, all that waits is forgotten, and waits that began before the gap's end are not measured.
 *
 * Between the moment when the kernel takes a work from the list and its execute_start the same work can be queued
 * again. Its first wait is lost then (counted as `replaced`), and the second looks shorter than it was.
 *
 * Each CPU has a pool of normal and one of high priority, and either can stand still while the other goes on. A work's
 * is known from the worker that starts it, and before that from the one that started the function last.
 *
 * What ran on a pool's CPU during a wait is kept in slices of time. Of several works in progress in a pool only the one
 * that started last is taken to run: the others must sleep, or it could not have started. All unbound pools are one.
 */
#ifndef HEADROOM_WQLATENCY_H
#define HEADROOM_WQLATENCY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WQL_UNBOUND	  (-1)
#define WQL_MAX_CPUS	  256
#define WQL_MAX_FUNCTIONS 512 /* the last stands for all that found no place; a busy server has about 200 */
#define WQL_MAX_WAITING	  4096
#define WQL_MAX_RUNNING	  1024
#define WQL_BUCKETS	  28 /* under 1 us, under 2 us, 4 us, ...; the last takes all from 67 s on */
#define WQL_NO_FUNCTION	  UINT16_MAX

enum wql_type { WQL_QUEUE, WQL_ACTIVATE, WQL_START, WQL_END, WQL_LOST };

struct wql_event {
	enum wql_type type;
	int cpu;	   /* where it happened */
	int pool_cpu;	   /* QUEUE: of the pool, or WQL_UNBOUND */
	int64_t ns;	   /* LOST: what this CPU did from now on ... */
	int64_t until_ns;  /* ... and before this is not known */
	uint64_t work;	   /* its address */
	uint64_t function; /* its address; 0: the kernel does not tell */
	bool highpri;	   /* START: by a worker of a CPU's pool of high priority */
	bool out_of_turn;  /* START: not by a worker of the pool, but by a rescuer or in softirq */
};

/* Durations. */
struct wql_times {
	uint64_t n;
	int64_t total_ns, max_ns;
	uint32_t bucket[WQL_BUCKETS];
};

struct wql_function {
	uint64_t address; /* 0: those that found no place in the table */
	bool unbound;	  /* where it was queued last */
	bool highpri;	  /* which of a CPU's two pools started it last */
	struct wql_times wait, run;
};

struct wql_counts {
	uint64_t events, bad; /* bad: of an unknown type or CPU */
	uint64_t losses, dropped, blind;
	uint64_t requeued;	/* queued while they ran */
	uint64_t replaced;	/* queued again without having started: cancelled, or moved by mod_delayed_work() */
	uint64_t never_started; /* expired: cancelled or flushed */
	uint64_t unmatched;	/* started without an activation on record: barriers, and what came from before */
	uint64_t mismatched;	/* started with another function: memory used again */
	uint64_t waiting_full, running_full, functions_full;
	uint64_t stalls; /* waits over the threshold that are over */
};

/* A wait over the threshold. */
struct wql_stall {
	int64_t ns; /* now: its end, unless it goes on */
	int64_t waited_ns;
	int pool_cpu;
	bool highpri;
	uint64_t function;
	uint64_t hog; /* the function that ran longest on that CPU meanwhile, and for how long; 0 ns: none did */
	int64_t hog_ns;
	bool waiting; /* the pool stands still: nothing was started for as long as the threshold, and works wait */
};

struct wql;

/* NULL when there is no memory or the number of CPUs is out of range. `on_stall` may be NULL. */
struct wql *wql_new(unsigned cpus, int64_t threshold_ns, void (*on_stall)(const struct wql_stall *, void *), void *arg);
void wql_free(struct wql *w);
/* Bytes that wql_new() took. */
size_t wql_size(const struct wql *w);

void wql_feed(struct wql *w, const struct wql_event *e);
/* Now and then, with a time up to which all events were fed: expires entries and looks for pools that stand still. */
void wql_tick(struct wql *w, int64_t now);
/* At the end: pools that stand still are told once more. */
void wql_finish(struct wql *w, int64_t now);

const struct wql_counts *wql_counts(const struct wql *w);
/* Waits for a pool by its CPU and priority, or for the unbound ones. */
const struct wql_times *wql_pool(const struct wql *w, int pool_cpu, bool highpri);
/* NULL from the end of the table on. */
const struct wql_function *wql_function(const struct wql *w, size_t i);
/* Activated and not started, as far as is known. */
size_t wql_waiting(const struct wql *w);

#endif
