// SPDX-License-Identifier: MIT
#include "run/facts.h"

#include "run/cell.h"
#include "run/verdict.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOREVER	   1e18
#define PRINTING_S 1.0 /* a kill is printed after it is counted, and a serial console takes its time */
#define PAGE_KIB   4   /* x86-64, which is all that we boot */
/* A sample older than this says nothing about a kill: of 10 a second twenty must have been left out. */
#define STALE_S 2.0
/* The mean of fewer is chance: reclaim writes up to 32 pages in one go (SWAP_CLUSTER_MAX, include/linux/swap.h). */
#define MEAN_WRITES 16

static json_int_t integer(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

/* One of the kernel's, which are not negative. */
static uint64_t counter_value(const json_t *value)
{
	json_int_t n = json_integer_value(value);

	return n > 0 ? (uint64_t)n : 0;
}

static uint64_t counter(const json_t *object, const char *key)
{
	return counter_value(json_object_get(object, key));
}

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static const char *string(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : "";
}

const struct cache_peak *facts_cache(const struct facts *f, const char *name)
{
	for (size_t i = 0; i < f->n_caches; i++)
		if (strcmp(f->caches[i].name, name) == 0)
			return f->caches[i].seen ? &f->caches[i] : NULL;
	return NULL;
}

const struct disk_facts *facts_disk(const struct facts *f, const char *name)
{
	for (size_t i = 0; i < f->n_disks; i++)
		if (strcmp(f->disks[i].name, name) == 0)
			return &f->disks[i];
	return NULL;
}

const char *facts_device(const struct facts *f, const char *name)
{
	return json_string_value(json_object_get(f->devices, name));
}

bool facts_thread_cpu_ms(const struct facts *f, const char *name, uint64_t *ms)
{
	for (size_t i = 0; i < f->n_threads; i++) {
		if (strcmp(f->threads[i].name, name) != 0 || !f->threads[i].seen)
			continue;
		*ms = f->threads[i].cpu_ms;
		return true;
	}
	return false;
}

double facts_swap_free_pct(const struct facts *f, double t)
{
	const struct swap_point *p = NULL;

	for (size_t i = 0; i < f->n_points && f->points[i].t <= t; i++)
		p = &f->points[i];
	if (!p || t - p->t > STALE_S || !p->total_kib)
		return -1;
	return 100.0 * (double)p->free_kib / (double)p->total_kib;
}

/* --- Samples --- */

struct base {
	bool have;
	uint64_t value;
};

/* Of a row of the samples' `disk`. */
enum { READS, SECTORS_READ, WRITES, SECTORS_WRITTEN, IN_FLIGHT, BUSY_MS, N_DISK_FIELDS };

struct disk_row {
	uint64_t field[N_DISK_FIELDS];
};

struct counters {
	struct base psi_full, psi_some, oom, oom_events, allocstalls, pgscan_direct;
	struct base dying;	/* when the load had ended */
	uint64_t slab_seen_kib; /* most unreclaimable slab in a sample that has the caches */
	/* since the start line */
	struct base swap_out, swap_in, refaults, load_psi_full;
	double swap_from_t, load_psi_from_t;
	struct disk_row disk_last[FACTS_MAX_DISKS]; /* in the sample before */
	struct disk_row disk_mean[FACTS_MAX_DISKS]; /* where the mean under way began */
	size_t victims;				    /* killed before this sample, by the log */
	bool threads;				    /* a sample has had kernel threads */
	int err;
};

static void count(struct base *first, uint64_t *growth, uint64_t now)
{
	if (!first->have)
		*first = (struct base){ true, now };
	*growth = now > first->value ? now - first->value : 0;
}

static void slab_of_sample(struct facts *f, json_t *slab, double t, bool new_peak)
{
	uint64_t used = 0, at_least = 0, held = 0;
	const char *name;
	json_t *row;

	f->have_slab = true;
	for (size_t i = 0; i < f->n_caches; i++) {
		struct cache_peak *p = &f->caches[i];
		uint64_t objects, kib;

		row = json_object_get(slab, p->name);
		if (!json_is_array(row))
			continue;
		objects = (uint64_t)json_integer_value(json_array_get(row, 0));
		kib = (uint64_t)json_integer_value(json_array_get(row, 3));
		p->seen = true;
		if (objects > p->objects) {
			p->objects = objects;
			p->t = t;
		}
		if (kib > p->kib)
			p->kib = kib;
	}
	if (!new_peak)
		return;
	json_object_foreach (slab, name, row) {
		uint64_t active = (uint64_t)json_integer_value(json_array_get(row, 0));
		uint64_t size = (uint64_t)json_integer_value(json_array_get(row, 2));
		json_t *slack = json_object_get(json_object_get(f->slack, name), "slack");
		uint64_t free = (uint64_t)json_integer_value(slack);

		used += active * size;
		/* Of a cache that nothing is known about any object may be free. */
		at_least += slack && active > free ? (active - free) * size : 0;
		held += (uint64_t)json_integer_value(json_array_get(row, 3)) * 1024;
	}
	if (!held)
		return;
	f->utilisation_pct = 100.0 * (double)used / (double)held;
	f->utilisation_least_pct = 100.0 * (double)at_least / (double)held;
}

/* Bytes in use and held, of slabinfo as an event has it. False if there is nothing. */
static bool add_up_slab(json_t *slab, double *used, double *held)
{
	const char *name;
	json_t *row;

	*used = *held = 0;
	json_object_foreach (slab, name, row) {
		*used += json_number_value(json_array_get(row, 0)) * json_number_value(json_array_get(row, 2));
		*held += json_number_value(json_array_get(row, 3)) * 1024;
	}
	return *held > 0;
}

static void slab_shrunk(struct facts *f, json_t *e)
{
	json_t *before = json_object_get(json_object_get(e, "before"), "slab");
	json_t *after = json_object_get(json_object_get(e, "after"), "slab");
	double used, held, held_before;

	/* A cache that was not shrunk is not exact. */
	if (integer(e, "not_shrunk") || !add_up_slab(before, &used, &held_before) || !add_up_slab(after, &used, &held))
		return;
	f->have_exact = true;
	f->utilisation_exact_pct = 100.0 * used / held;
	f->shrink_freed_kib = held_before > held ? (uint64_t)((held_before - held) / 1024) : 0;
}

static void groups_of_sample(struct facts *f, json_t *cgroups, double t, struct counters *first)
{
	json_t *groups = json_object_get(cgroups, "groups");
	json_t *kills = json_object_get(json_object_get(groups, FACTS_GROUP), "oom_kill");
	json_t *dying = json_object_get(json_object_get(groups, "/"), "nr_dying_descendants");
	double read_t = t - number(cgroups, "age_ms") / 1000;
	uint64_t n = (uint64_t)json_integer_value(dying);

	if (json_is_integer(kills)) {
		if (!f->have_oom_events)
			f->oom_events.from_t = read_t;
		f->have_oom_events = true;
		count(&first->oom_events, &f->oom_events.kills, (uint64_t)json_integer_value(kills));
		f->oom_events.to_t = read_t;
	}
	if (!json_is_integer(dying))
		return;
	f->have_dying = true;
	if (n > f->dying_peak)
		f->dying_peak = n;
	/* Half of those that were left when the load ended: most are often gone by the next reading. */
	if (!f->run_ended || read_t < f->run_end_t) {
		first->dying = (struct base){ true, n };
		return;
	}
	if (f->dying_half_life_s < 0 && first->dying.value && n <= first->dying.value / 2)
		f->dying_half_life_s = read_t - f->run_end_t;
}

static uint64_t grown(struct base *first, uint64_t now)
{
	uint64_t growth;

	count(first, &growth, now);
	return growth;
}

static bool in_load(const struct facts *f, double t)
{
	return f->started && t >= 0 && (!f->run_ended || t <= f->run_end_t);
}

/* Of those that the log tells of. They come in order of time, as the samples do. */
static uint64_t killed_by(const struct facts *f, double t, size_t *n)
{
	while (*n < json_array_size(f->victims) && number(json_array_get(f->victims, *n), "t") <= t)
		++*n;
	return *n;
}

static int new_point(struct facts *f, struct swap_point **p)
{
	if (f->n_points == f->max_points) {
		size_t max = f->max_points ? 2 * f->max_points : 1024;
		struct swap_point *more = realloc(f->points, max * sizeof(*more));

		if (!more)
			return -ENOMEM;
		f->points = more;
		f->max_points = max;
	}
	*p = &f->points[f->n_points++];
	return 0;
}

static int add_point(struct facts *f, json_t *mem, json_t *vm, json_t *psi, double t, struct counters *first)
{
	struct swap_point *p;
	int err;

	if (!json_object_get(mem, "SwapTotal") || !json_object_get(vm, "pswpout") ||
	    (f->n_points && t <= f->points[f->n_points - 1].t))
		return 0;
	err = new_point(f, &p);
	if (err)
		return err;
	*p = (struct swap_point){
		.t = t,
		.in_load = in_load(f, t),
		.total_kib = counter(mem, "SwapTotal"),
		.free_kib = counter(mem, "SwapFree"),
		/* What zswap takes (mm/zswap.c), or is noted as zeros (mm/page_io.c, since 6.12), is not in pswpout. */
		.out = counter(vm, "pswpout") + counter(vm, "zswpout") + counter(vm, "swpout_zero"),
		.in = counter(vm, "pswpin") + counter(vm, "zswpin") + counter(vm, "swpin_zero"),
		.kills = counter(vm, "oom_kill") + killed_by(f, t, &first->victims),
		.some_us = json_object_get(psi, "some_us") ? number(psi, "some_us") : NAN,
	};
	return 0;
}

static void swap_of_sample(struct facts *f, json_t *mem, json_t *vm, double t, struct counters *first)
{
	uint64_t total = counter(mem, "SwapTotal"), left = counter(mem, "SwapFree");

	if (total) {
		if (!f->have_swap || left < f->swap_free_min_kib)
			f->swap_free_min_kib = left;
		f->have_swap = true;
	}
	if (json_object_get(vm, "pswpout")) {
		if (!f->have_swap_io)
			first->swap_from_t = t;
		f->have_swap_io = true;
		f->swap_out_mib = (double)grown(&first->swap_out, counter(vm, "pswpout")) * PAGE_KIB / 1024;
		f->swap_in_mib = (double)grown(&first->swap_in, counter(vm, "pswpin")) * PAGE_KIB / 1024;
		if (t > first->swap_from_t) {
			f->swap_out_mib_s = f->swap_out_mib / (t - first->swap_from_t);
			f->swap_in_mib_s = f->swap_in_mib / (t - first->swap_from_t);
		}
	}
	/* Two counters from Linux 5.9 on, one before (mm/vmstat.c). */
	if (json_object_get(vm, "workingset_refault_file") || json_object_get(vm, "workingset_refault")) {
		f->have_refaults = true;
		count(&first->refaults, &f->refaults,
		      counter(vm, "workingset_refault_anon") + counter(vm, "workingset_refault_file") +
			      counter(vm, "workingset_refault"));
	}
}

static struct disk_facts *disk_called(struct facts *f, const char *name, bool *is_new)
{
	struct disk_facts *d = f->disks;

	while (d < f->disks + f->n_disks && strcmp(d->name, name) != 0)
		d++;
	*is_new = d == f->disks + f->n_disks;
	if (!*is_new)
		return d;
	if (f->n_disks == FACTS_MAX_DISKS || strlen(name) >= sizeof(d->name))
		return NULL;
	f->n_disks++;
	strcpy(d->name, name);
	d->write_max_kib = -1;
	return d;
}

/* A device of the same name that was made anew counts from 0. */
static bool went_back(const struct disk_row *last, const struct disk_row *now)
{
	for (int i = 0; i < N_DISK_FIELDS; i++)
		if (i != IN_FLIGHT && now->field[i] < last->field[i])
			return true;
	return false;
}

static void disk_of_sample(struct disk_facts *d, const struct disk_row *last, struct disk_row *mean,
			   const struct disk_row *now)
{
	uint64_t writes = now->field[WRITES] - mean->field[WRITES];
	double kib = (double)(now->field[SECTORS_WRITTEN] - mean->field[SECTORS_WRITTEN]) / 2;

	d->writes += now->field[WRITES] - last->field[WRITES];
	d->sectors_written += now->field[SECTORS_WRITTEN] - last->field[SECTORS_WRITTEN];
	if (writes < MEAN_WRITES)
		return;
	if (kib / (double)writes > d->write_max_kib)
		d->write_max_kib = kib / (double)writes;
	*mean = *now;
}

static void disks_of_sample(struct facts *f, json_t *disk, struct counters *first)
{
	const char *name;
	json_t *array;

	json_object_foreach (disk, name, array) {
		struct disk_row now, *last, *mean;
		struct disk_facts *d;
		bool is_new;

		if (json_array_size(array) < N_DISK_FIELDS)
			continue;
		d = disk_called(f, name, &is_new);
		if (!d)
			continue;
		for (size_t i = 0; i < N_DISK_FIELDS; i++)
			now.field[i] = counter_value(json_array_get(array, i));
		last = &first->disk_last[d - f->disks];
		mean = &first->disk_mean[d - f->disks];
		if (is_new || went_back(last, &now))
			*mean = now;
		else
			disk_of_sample(d, last, mean, &now);
		*last = now;
	}
}

/*
 * Pages that were sent to the swap device and have not come to rest on it. Its own count of requests in flight does not
 * see those that dm-crypt has queued for a worker.
 */
static void swap_in_flight(struct facts *f, uint64_t sent)
{
	const char *name = facts_device(f, "swap");
	const struct disk_facts *d = name ? facts_disk(f, name) : NULL;
	uint64_t done;

	if (!d || !f->have_swap_io)
		return;
	done = d->sectors_written / 2 / PAGE_KIB;
	f->have_swap_in_flight = true;
	if (sent > done && sent - done > f->swap_in_flight_peak)
		f->swap_in_flight_peak = sent - done;
}

static struct thread_cpu *threads_called(struct facts *f, const char *name)
{
	struct thread_cpu *c = f->threads;

	while (c < f->threads + f->n_threads && strcmp(c->name, name) != 0)
		c++;
	if (c < f->threads + f->n_threads)
		return c;
	if (f->n_threads == FACTS_MAX_THREADS || strlen(name) >= sizeof(c->name))
		return NULL;
	f->n_threads++;
	strcpy(c->name, name);
	return c;
}

/*
 * From the last look before the start line, or the first behind it, to the last look before the load's end. A name that
 * was not there at an earlier look had used nothing until then.
 */
static void threads_of_sample(struct facts *f, json_t *threads, double t, struct counters *first)
{
	json_t *groups = json_object_get(threads, "groups"), *group;
	double read_t = t - number(threads, "age_ms") / 1000;
	const char *name;

	if (!groups || !f->started || (f->run_ended && read_t > f->run_end_t))
		return;
	json_object_foreach (groups, name, group) {
		struct thread_cpu *c = threads_called(f, name);
		uint64_t ms = counter(group, "cpu_ms");

		if (!c || !json_is_integer(json_object_get(group, "cpu_ms")))
			continue;
		c->have_first |= first->threads;
		if (c->have_first && read_t > 0) {
			c->seen = true;
			c->cpu_ms = ms > c->first_ms ? ms - c->first_ms : 0;
		} else {
			c->have_first = true;
			c->first_ms = ms;
		}
	}
	first->threads = true;
}

static void load_of_sample(struct facts *f, json_t *s, json_t *psi, double t, struct counters *first)
{
	uint64_t full_us;

	swap_of_sample(f, json_object_get(s, "mem"), json_object_get(s, "vm"), t, first);
	disks_of_sample(f, json_object_get(s, "disk"), first);
	swap_in_flight(f, grown(&first->swap_out, counter(json_object_get(s, "vm"), "pswpout")));
	if (!json_object_get(psi, "full_us"))
		return;
	if (!first->load_psi_full.have)
		first->load_psi_from_t = t;
	full_us = grown(&first->load_psi_full, counter(psi, "full_us"));
	if (t > first->load_psi_from_t)
		f->psi_full_share = (double)full_us / 1e6 / (t - first->load_psi_from_t);
}

static uint64_t sum_prefix(json_t *object, const char *prefix)
{
	uint64_t sum = 0;
	const char *key;
	json_t *value;

	json_object_foreach (object, key, value)
		if (strncmp(key, prefix, strlen(prefix)) == 0)
			sum += (uint64_t)json_integer_value(value);
	return sum;
}

static void one_sample(struct facts *f, json_t *s, struct counters *first)
{
	json_t *mem = json_object_get(s, "mem"), *vm = json_object_get(s, "vm"), *slab = json_object_get(s, "slab");
	json_t *psi = json_object_get(json_object_get(s, "psi"), "memory"), *canary = json_object_get(s, "canary");
	double t = number(s, "t"), wait;
	bool new_peak = false;

	f->samples++;
	f->last_t = t;
	if (json_object_get(mem, "MemAvailable")) {
		uint64_t kib = (uint64_t)integer(mem, "SUnreclaim"), available = (uint64_t)integer(mem, "MemAvailable");

		if (kib > f->slab_peak_kib) {
			f->slab_peak_kib = kib;
			f->slab_peak_t = t;
		}
		/* The caches are not in every sample. */
		new_peak = json_is_object(slab) && kib > first->slab_seen_kib;
		if (new_peak)
			first->slab_seen_kib = kib;
		if (!f->have_mem || available < f->available_min_kib)
			f->available_min_kib = available;
		f->memtotal_kib = (uint64_t)integer(mem, "MemTotal");
		f->have_mem = true;
	}
	if (json_is_object(slab))
		slab_of_sample(f, slab, t, new_peak);
	if (json_is_object(canary)) {
		wait = number(canary, "max_ms");
		if (number(canary, "pending_ms") > wait)
			wait = number(canary, "pending_ms");
		f->have_canary = true;
		if (wait > f->canary_max_ms && (t < f->shrink_from_t || t >= f->shrink_to_t)) {
			f->canary_max_ms = wait;
			f->canary_max_t = t;
		}
	}
	f->have_psi |= json_is_object(psi);
	f->have_oom_counter |= json_object_get(vm, "oom_kill") != NULL;
	if (json_object_get(psi, "some_us")) {
		count(&first->psi_full, &f->psi_full_us, (uint64_t)integer(psi, "full_us"));
		count(&first->psi_some, &f->psi_some_us, (uint64_t)integer(psi, "some_us"));
	}
	if (json_object_get(vm, "oom_kill")) {
		if (!first->oom.have)
			f->oom_counter.from_t = t;
		f->oom_counter.to_t = t;
		count(&first->oom, &f->oom_counter.kills, (uint64_t)integer(vm, "oom_kill"));
	}
	if (json_is_object(json_object_get(s, "cgroups")))
		groups_of_sample(f, json_object_get(s, "cgroups"), t, first);
	if (json_object_size(vm)) {
		count(&first->allocstalls, &f->allocstalls, sum_prefix(vm, "allocstall"));
		count(&first->pgscan_direct, &f->pgscan_direct, (uint64_t)integer(vm, "pgscan_direct"));
	}
	if (!first->err)
		first->err = add_point(f, mem, vm, psi, t, first);
	if (in_load(f, t))
		load_of_sample(f, s, psi, t, first);
	threads_of_sample(f, json_object_get(s, "threads"), t, first);
}

/* --- Events --- */

static void first_time(double *first, double t)
{
	if (*first <= FACTS_NEVER)
		*first = t;
}

static void on_kill(struct facts *f, json_t *e, double t)
{
	json_t *victim = json_object_get(e, "victim"), *row;
	const char *constraint = strcmp(string(e, "kind"), "oom-kill") == 0 ? "global" : "memcg";

	f->oom_log++;
	if (f->first_oom_t <= FACTS_NEVER) {
		f->first_oom_t = t;
		snprintf(f->first_victim, sizeof(f->first_victim), "%s (%s)", string(victim, "comm"),
			 string(victim, "role"));
	}
	row = json_deep_copy(victim);
	if (json_is_object(row)) {
		/* A kill on the console may have no time. */
		if (json_is_number(json_object_get(e, "t")))
			json_object_set_new(row, "t", json_real(t));
		json_object_set_new(row, "constraint", json_string(constraint));
		if (integer(e, "times") > 1)
			json_object_set(row, "times", json_object_get(e, "times"));
		if (json_is_true(json_object_get(e, "group")))
			json_object_set_new(row, "group", json_true());
		json_array_append_new(f->victims, row);
	}
}

static void kernel_event(struct facts *f, json_t *e, const char *kind, double t)
{
	if (strcmp(kind, "oom-kill") == 0 || strcmp(kind, "memcg-oom-kill") == 0) {
		on_kill(f, e, t);
	} else if (strcmp(kind, "panic") == 0) {
		if (!f->panicked) {
			snprintf(f->panic_reason, sizeof(f->panic_reason), "%s", string(e, "reason"));
			f->panic_t = t;
		}
		f->panicked = true;
	} else if (strcmp(kind, "wq-lockup") == 0) {
		f->wq_lockups++;
		if (number(e, "seconds") > f->wq_lockup_max_s)
			f->wq_lockup_max_s = number(e, "seconds");
		first_time(&f->first_lockup_t, t);
	} else if (strcmp(kind, "soft-lockup") == 0) {
		f->soft_lockups++;
		first_time(&f->first_lockup_t, t);
	} else if (strcmp(kind, "rcu-stall") == 0) {
		f->rcu_stalls++;
		first_time(&f->first_lockup_t, t);
	} else if (strcmp(kind, "hung-task") == 0) {
		f->hung_tasks++;
		first_time(&f->first_hung_t, t);
	} else if (strcmp(kind, "alloc-failure") == 0) {
		f->alloc_failures++;
	} else if (strcmp(kind, "warn") == 0) {
		f->warnings++;
	} else if (strcmp(kind, "oops") == 0 || strcmp(kind, "bug") == 0) {
		f->oopses++;
	} else if (strcmp(kind, "snapshot-invalid") == 0) {
		f->overflow = true;
		snprintf(f->overflow_text, sizeof(f->overflow_text), "%s", string(e, "reason"));
	}
}

static void keep_text(char *to, size_t size, const json_t *e)
{
	if (!*to)
		snprintf(to, size, "%s", string(e, "raw"));
}

static void wq_trace_event(struct facts *f, json_t *e, const char *kind)
{
	json_t *max = json_object_get(e, strcmp(kind, "wq-stall") == 0 ? "waited_ms" : "max_ms");

	if (strcmp(kind, "wq-trace-on") == 0)
		f->have_wq_trace = true;
	if (*string(e, "error"))
		snprintf(f->wq_trace_error, sizeof(f->wq_trace_error), "%s", string(e, "error"));
	if (json_is_number(max)) {
		f->have_wq_wait = true;
		if (json_number_value(max) > f->wq_wait_max_ms)
			f->wq_wait_max_ms = json_number_value(max);
	}
}

static void harness_event(struct facts *f, json_t *e, const char *kind, double t)
{
	if (strcmp(kind, "start") == 0) {
		f->started = true;
	} else if (strcmp(kind, "phase") == 0) {
		const char *name = string(e, "name");

		if (strcmp(name, "cool-down") == 0) {
			f->run_ended = true;
			f->run_end_t = t;
		}
		if (f->shrinking)
			f->shrink_to_t = t;
		f->shrinking = strcmp(name, PHASE_SHRINK) == 0;
		if (f->shrinking)
			f->shrink_from_t = t;
		json_array_append_new(f->phases, json_pack("{s:s, s:f}", "name", name, "t", t));
	} else if (strcmp(kind, "knob") == 0) {
		json_t *now = json_object_get(e, "read_back");

		json_object_set(f->knobs, string(e, "name"), now ? now : json_null());
		json_object_set(f->knob_values, string(e, "name"), json_object_get(e, "value"));
	} else if (strcmp(kind, "device") == 0) {
		json_object_set(f->devices, string(e, "name"), json_object_get(e, "kernel"));
	} else if (strcmp(kind, "metric") == 0) {
		json_object_set(f->metrics, string(e, "name"), json_object_get(e, "value"));
	} else if (strcmp(kind, "exit") == 0) {
		/* 137: SIGKILL that we did not send, or we would have noted the deadline as its status. */
		if (strcmp(string(e, "role"), "workload") == 0 && integer(e, "status") == 137)
			f->workload_killed = true;
		f->stuck |= integer(e, "status") == -ETIMEDOUT || integer(e, "status") == -EBUSY;
		f->load_stuck |= f->stuck && !f->run_ended;
	} else if (strcmp(kind, "bystander") == 0) {
		if (number(e, "stall_max_ms") > f->bystander_max_ms)
			f->bystander_max_ms = number(e, "stall_max_ms");
	} else if (strcmp(kind, "stuck") == 0) {
		/* A shrink that hangs is a figure that we do not have, not an end of the load. */
		f->stuck |= !f->shrinking;
	} else if (strcmp(kind, "corrupt") == 0) {
		f->corrupt = true;
		keep_text(f->corrupt_text, sizeof(f->corrupt_text), e);
	} else if (strcmp(kind, "deadlock") == 0) {
		f->deadlock = true;
		keep_text(f->deadlock_text, sizeof(f->deadlock_text), e);
	} else if (strcmp(kind, "fail") == 0) {
		keep_text(f->fail_text, sizeof(f->fail_text), e);
	} else if (strcmp(kind, "finding") == 0) {
		json_array_append_new(f->findings, json_pack("{s:f, s:s}", "t", t, "text", string(e, "raw")));
	} else if (strcmp(kind, "skip") == 0) {
		keep_text(f->skip_text, sizeof(f->skip_text), e);
	} else if (strcmp(kind, "verify") == 0) {
		bool ok = json_is_true(json_object_get(e, "ok")), whole = json_is_true(json_object_get(e, "after_run"));

		f->unverified |= !ok || !whole;
		f->verified = !f->unverified;
		f->verify_failed |= !ok;
	} else if (strcmp(kind, "snapshot-invalid") == 0) {
		f->overflow = true;
		keep_text(f->overflow_text, sizeof(f->overflow_text), e);
	} else if (strcmp(kind, "slab-caches") == 0) {
		json_object_update(f->slack, json_object_get(e, "caches"));
	} else if (strcmp(kind, "slab-shrunk") == 0) {
		slab_shrunk(f, e);
	} else if (strncmp(kind, "wq-", 3) == 0) {
		wq_trace_event(f, e, kind);
	} else if (strcmp(kind, "done") == 0) {
		f->done = true;
	}
}

static void one_event(struct facts *f, json_t *e, double *setup_t)
{
	const char *kind = string(e, "kind");
	double t = number(e, "t");

	if (strcmp(string(e, "source"), "harness") == 0) {
		if (strcmp(kind, "phase") == 0 && strcmp(string(e, "name"), "setup") == 0)
			*setup_t = t;
		harness_event(f, e, kind, t);
	} else if (t >= *setup_t || !json_is_number(json_object_get(e, "t"))) {
		/* What the kernel said while it booted is no business of the cell's. */
		kernel_event(f, e, kind, t);
	}
}

static int each_line(const char *dir, const char *name, void (*fn)(json_t *, void *), void *arg, uint64_t *bad)
{
	char path[PATH_MAX], *line = NULL;
	size_t size = 0;
	ssize_t len;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT ? 0 : -errno;
	while ((len = getline(&line, &size, f)) > 0) {
		json_t *object = json_loadb(line, (size_t)len, 0, NULL);

		if (json_is_object(object))
			fn(object, arg);
		else
			++*bad;
		json_decref(object);
	}
	free(line);
	fclose(f);
	return 0;
}

struct reading {
	struct facts *f;
	struct counters first;
	double setup_t;
};

static void on_sample_line(json_t *s, void *arg)
{
	struct reading *r = arg;

	one_sample(r->f, s, &r->first);
}

static void on_event_line(json_t *e, void *arg)
{
	struct reading *r = arg;

	one_event(r->f, e, &r->setup_t);
}

int facts_read(struct facts *f, const char *cell_dir, const char *const *caches, uint64_t *bad_lines)
{
	struct reading r = { .f = f, .setup_t = 1e18 };
	int err;

	memset(f, 0, sizeof(*f));
	f->first_oom_t = f->first_lockup_t = f->first_hung_t = f->panic_t = FACTS_NEVER;
	f->bystander_max_ms = f->dying_half_life_s = -1;
	f->swap_out_mib_s = f->swap_in_mib_s = f->psi_full_share = -1;
	f->slack = json_object();
	f->shrink_from_t = f->shrink_to_t = FOREVER;
	f->metrics = json_object();
	f->knobs = json_object();
	f->knob_values = json_object();
	f->devices = json_object();
	f->phases = json_array();
	f->victims = json_array();
	f->findings = json_array();
	for (; caches && *caches && f->n_caches < FACTS_MAX_CACHES; caches++)
		f->caches[f->n_caches++].name = *caches;
	/* The events first: they say what the samples' figures mean, and when the load was over. */
	err = each_line(cell_dir, "events.jsonl", on_event_line, &r, bad_lines);
	if (!err)
		err = each_line(cell_dir, "samples.jsonl", on_sample_line, &r, bad_lines);
	return err ? err : r.first.err;
}

void facts_free(struct facts *f)
{
	json_decref(f->metrics);
	json_decref(f->knobs);
	json_decref(f->knob_values);
	json_decref(f->devices);
	json_decref(f->phases);
	json_decref(f->victims);
	json_decref(f->findings);
	json_decref(f->slack);
	free(f->points);
}

/* --- OOM kills --- */

struct log_kills {
	uint64_t n;	/* as often as the kernel named a task */
	uint64_t again; /* ... that it had named before */
	uint64_t maybe; /* first victims of a memory.oom.group: their second naming may not be seen as one */
};

static bool is_ours(const json_t *victim)
{
	const char *cgroup = string(victim, "cgroup");
	size_t len = strlen(FACTS_GROUP);

	return strncmp(cgroup, FACTS_GROUP, len) == 0 && (cgroup[len] == '/' || !cgroup[len]);
}

/* What the log tells of, after `from` and up to `to`; of the cell's own cgroups alone with `own`. */
static struct log_kills kills_in_log(const struct facts *f, double from, double to, bool own)
{
	struct log_kills k = { 0 };
	bool in_group = false, seen_twice = false;
	json_t *victim;
	size_t i;

	json_array_foreach (f->victims, i, victim) {
		uint64_t times = integer(victim, "times") > 1 ? (uint64_t)integer(victim, "times") : 1;
		double t = number(victim, "t");
		bool group = json_is_true(json_object_get(victim, "group"));

		if (t <= from || t > to || (own && !is_ours(victim)))
			continue;
		k.n += times;
		k.again += times - 1;
		k.maybe += group && !in_group && !seen_twice;
		in_group = group;
		seen_twice = times > 1;
	}
	return k;
}

static void disagree(struct kill_count *k, const char *who, uint64_t counted, uint64_t told)
{
	size_t len = strlen(k->why);

	k->agree = false;
	snprintf(k->why + len, sizeof(k->why) - len,
		 "%s%s counts %" PRIu64 " OOM kill%s, the kernel log tells of %" PRIu64, len ? "; " : "", who, counted,
		 counted == 1 ? "" : "s", told);
}

/* By the counter, what it cannot know of by the log. */
static void count_by_vmstat(const struct facts *f, struct kill_count *k)
{
	double from = f->oom_counter.from_t, to = f->oom_counter.to_t;
	struct log_kills before = kills_in_log(f, FACTS_NEVER, from, false), seen = kills_in_log(f, from, to, false);
	struct log_kills soon = kills_in_log(f, to, to + PRINTING_S, false);
	struct log_kills rest = kills_in_log(f, to + PRINTING_S, FOREVER, false);
	uint64_t counted = f->oom_counter.kills, again = before.again + seen.again + soon.again + rest.again;
	/* Of those printed a moment behind the last reading, some were counted by it. */
	uint64_t late = counted > seen.n ? counted - seen.n : 0;

	if (late > soon.n) {
		uint64_t excess = late - soon.n;

		late = soon.n;
		if (excess <= seen.maybe + soon.maybe)
			again += excess;
		else
			disagree(k, "vmstat", counted, seen.n + soon.n);
	} else if (counted < seen.n) {
		disagree(k, "vmstat", counted, seen.n);
	}
	k->kills = before.n + counted + soon.n - late + rest.n;
	k->kills -= again < k->kills ? again : k->kills;
}

uint64_t facts_metric(const struct facts *f, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(f->metrics, name));
}

struct kill_count facts_count_kills(const struct facts *f)
{
	struct kill_count k = { .known = f->have_oom_counter, .agree = true, .kills = f->oom_log };

	if (f->have_oom_counter)
		count_by_vmstat(f, &k);
	if (f->have_oom_events) {
		struct log_kills own = kills_in_log(f, f->oom_events.from_t, f->oom_events.to_t, true);
		/* The kernel leaves a victim's cgroup out of many reports, so any of them may have been of these. */
		struct log_kills all = kills_in_log(f, f->oom_events.from_t, FOREVER, false);
		uint64_t counted = f->oom_events.kills;

		if (counted < own.n || counted > all.n + all.maybe)
			disagree(&k, "memory.events of " FACTS_GROUP, counted, counted < own.n ? own.n : all.n);
	}
	return k;
}
