// SPDX-License-Identifier: MIT
/*
 * What one cell's record says, in numbers: the one place where samples and events are added up. Metrics, verdicts and
 * attestations are made from this.
 */
#ifndef HEADROOM_FACTS_H
#define HEADROOM_FACTS_H

#include "cgroups/scope.h"
#include "run/workload.h"

#include <jansson.h>

#define FACTS_MAX_CACHES  16
#define FACTS_MAX_DISKS	  16 /* the first that are seen; dm-crypt on a disk needs two */
#define FACTS_MAX_THREADS 16
#define FACTS_GROUP	  "/" CGROUP_PARENT /* as it is called in the record */
#define FACTS_NEVER	  (-1e18)	    /* a time that did not come; t is negative before the start line */

struct cache_peak {
	const char *name;
	bool seen;
	uint64_t objects, kib;
	double t; /* of the sample with the peak */
};

/* A block device while the load ran. */
struct disk_facts {
	char name[32]; /* the kernel's, "dm-0" */
	uint64_t writes, sectors_written;
	double write_max_kib; /* largest mean size of a write between two samples; < 0: too few writes for a mean */
};

/* Kernel threads that the recorder adds up under one name. */
struct thread_cpu {
	char name[32];
	bool have_first, seen;
	uint64_t first_ms, cpu_ms; /* what they had used when the load began; and by the load */
};

/* One sample's word on whether swapping goes on. The counters are the kernel's, from its boot on. */
struct swap_point {
	double t;
	bool in_load;
	uint64_t total_kib, free_kib;
	uint64_t out, in; /* pages: to and from the device, zswap, or noted as full of zeros */
	uint64_t kills;	  /* of the OOM killer; only growth means something */
	double some_us;	  /* memory pressure, PSI some; NaN: not known */
};

struct facts {
	/* samples */
	uint64_t samples;
	unsigned cpus; /* of the machine; set by the caller: a verdict and attestations need it */
	bool have_slab, have_mem, have_psi, have_oom_counter, have_canary;
	uint64_t slab_peak_kib, available_min_kib, memtotal_kib;
	/*
	 * Of all caches together, in the sample with the most unreclaimable slab of those that have the caches: as the
	 * kernel counts, which is the most it can be, and the least it can be, if all that CPUs may keep for themselves
	 * is free. Then after a shrink, exactly.
	 */
	double slab_peak_t, utilisation_pct, utilisation_least_pct, utilisation_exact_pct;
	bool have_exact;
	json_t *slack;		   /* object: cache -> objects that may count as in use though they are free; owned */
	uint64_t shrink_freed_kib; /* by the shrink */
	uint64_t psi_full_us, psi_some_us; /* growth of memory pressure from the start line on */
	/* Growth of vmstat's oom_kill, and of the oom_kill of the cell's own cgroups, between two moments each. */
	struct {
		uint64_t kills;
		double from_t, to_t;
	} oom_counter, oom_events;
	bool have_oom_events;
	/* cgroups that were removed and not freed */
	bool have_dying;
	uint64_t dying_peak;
	double dying_half_life_s; /* from the load's end until half of those left then were gone; < 0: not */
	uint64_t allocstalls, pgscan_direct;
	/* While the load ran: swap, if the machine has any, the devices, the kernel threads. */
	bool have_swap, have_swap_io, have_refaults;
	uint64_t swap_free_min_kib, refaults;
	bool have_swap_in_flight;
	uint64_t swap_in_flight_peak; /* pages; where cell_device() told of a "swap" */
	double swap_out_mib, swap_in_mib;
	double swap_out_mib_s, swap_in_mib_s; /* mean over the time seen; < 0: not known */
	double psi_full_share;		      /* of that time, in which all tasks waited for memory; < 0: not known */
	struct disk_facts disks[FACTS_MAX_DISKS];
	size_t n_disks;
	struct thread_cpu threads[FACTS_MAX_THREADS];
	size_t n_threads;
	struct swap_point *points; /* of all samples, in order of time; owned */
	size_t n_points, max_points;
	double canary_max_ms, canary_max_t;
	double bystander_max_ms; /* < 0: not known */
	bool have_wq_trace, have_wq_wait;
	double wq_wait_max_ms; /* by the tracepoints: of all works, or of the stalls where the sum was not written */
	char wq_trace_error[160];
	double last_t; /* of the last sample */
	bool shrinking;
	double shrink_from_t, shrink_to_t; /* when we disturb the machine ourselves */
	struct cache_peak caches[FACTS_MAX_CACHES];
	size_t n_caches;
	/* kernel events at or after the set-up */
	uint64_t oom_log, wq_lockups, hung_tasks, soft_lockups, rcu_stalls, alloc_failures, warnings, oopses;
	double wq_lockup_max_s;
	double first_oom_t, first_lockup_t, first_hung_t, panic_t;
	char first_victim[96]; /* "fio (workload)" */
	char panic_reason[160];
	bool panicked;
	/* harness events */
	bool started, run_ended, done;
	bool workload_killed; /* by a SIGKILL that was not ours */
	bool stuck;	      /* something was not over when its time was */
	bool load_stuck;      /* ... before the load had ended */
	bool verified;	      /* the data of every workload, after loads that came to their end */
	bool unverified, verify_failed, corrupt, overflow, deadlock;
	double run_end_t;
	char overflow_text[160], corrupt_text[200], deadlock_text[600], fail_text[300];
	char skip_text[300]; /* why nothing was run */
	json_t *metrics;     /* object: what workloads reported; owned */
	json_t *knobs;	     /* object: name -> read back; owned */
	json_t *knob_values; /* object: name -> what was written, as the machine resolved it; owned */
	json_t *devices;     /* object: what a workload calls it -> the kernel's name; owned */
	json_t *phases;	     /* array of {name, t}; owned */
	json_t *victims;     /* array; owned */
	json_t *findings;    /* array of {t, text}: what workloads found out; owned */
};

/* How many tasks the OOM killer killed, and whether all who count them agree. */
struct kill_count {
	uint64_t kills;
	bool known; /* somebody counted */
	bool agree;
	char why[200]; /* not */
};

/* By the counters first; by the log for what came after their last reading, or where there are none. */
struct kill_count facts_count_kills(const struct facts *f);

/* A metric that a workload told, as an integer; 0 also where there is none. */
uint64_t facts_metric(const struct facts *f, const char *name);
/* The peak of a watched cache, or NULL if it never had an object. */
const struct cache_peak *facts_cache(const struct facts *f, const char *name);
/* A block device by the kernel's name, or NULL if no sample of the load has it. */
const struct disk_facts *facts_disk(const struct facts *f, const char *name);
/* The kernel's name of what a workload told of with cell_device(), or NULL. */
const char *facts_device(const struct facts *f, const char *name);
/* The CPU time that the load cost in the kernel threads of a name in `watch_threads`. False: not known. */
bool facts_thread_cpu_ms(const struct facts *f, const char *name, uint64_t *ms);
/* How much of swap was free just before a moment, in percent. < 0: there was none, or no sample says. */
double facts_swap_free_pct(const struct facts *f, double t);

/* Read samples.jsonl and events.jsonl of a cell. Lines that are not JSON are skipped and counted in *bad_lines. */
int facts_read(struct facts *f, const char *cell_dir, const char *const *caches, uint64_t *bad_lines);
void facts_free(struct facts *f);

#endif
