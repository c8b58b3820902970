// SPDX-License-Identifier: MIT
#include "run/result.h"

#include "base/jsont.h"
#include "base/log.h"
#include "base/sysfile.h"
#include "record/extract.h"
#include "run/attest.h"
#include "run/cell.h"
#include "run/mitigation.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAL_DIGITS 9

static void put_int(json_t *to, const char *key, uint64_t value)
{
	json_object_set_new(to, key, json_integer((json_int_t)value));
}

/* Three decimals: more would claim a precision that no clock of ours has. */
static void put_real(json_t *to, const char *key, double value)
{
	char text[64];

	snprintf(text, sizeof(text), "%.3f", value);
	json_object_set_new(to, key, json_real(strtod(text, NULL)));
}

/* --- Kernel configuration --- */

struct config {
	char *text; /* NULL: not known */
};

static void config_load(struct config *c, const char *path)
{
	FILE *f = *path ? fopen(path, "re") : NULL;
	size_t size = 0;

	c->text = NULL;
	if (f && getdelim(&c->text, &size, '\0', f) < 0) {
		free(c->text);
		c->text = NULL;
	}
	if (f)
		fclose(f);
}

/* The value of CONFIG_X: "y", "m", a number; "n" when it is not set; "" when the configuration is not known. */
static void config_value(const struct config *c, const char *name, char *buf, size_t size)
{
	char line[96];
	const char *at;

	buf[0] = '\0';
	if (!c->text)
		return;
	snprintf(line, sizeof(line), "\n%s=", name);
	at = strstr(c->text, line);
	if (!at) {
		snprintf(buf, size, "n");
		return;
	}
	at += strlen(line);
	snprintf(buf, size, "%.*s", (int)strcspn(at, "\n"), at);
}

static bool config_may_have(const struct config *c, const char *name)
{
	char value[64];

	config_value(c, name, value, sizeof(value));
	return strcmp(value, "n") != 0;
}

static json_t *config_json(const struct config *c)
{
	static const char *const wanted[] = {
		"CONFIG_WQ_WATCHDOG",
		"CONFIG_DETECT_HUNG_TASK",
		"CONFIG_SOFTLOCKUP_DETECTOR",
		"CONFIG_PROVE_LOCKING",
		"CONFIG_FAULT_INJECTION",
		"CONFIG_PREEMPT_DYNAMIC",
		"CONFIG_MEMCG",
		"CONFIG_MEMCG_V1",
		"CONFIG_LRU_GEN",
		"CONFIG_LRU_GEN_ENABLED",
		"CONFIG_SLUB",
		"CONFIG_PSI",
	};
	json_t *out = json_object();

	for (size_t i = 0; c->text && i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		char value[64];

		config_value(c, wanted[i], value, sizeof(value));
		json_put_text(out, wanted[i], value);
	}
	return out;
}

/* --- Parts of cell.json --- */

static void put_banner(json_t *machine, const char *cell_dir)
{
	char path[PATH_MAX], line[1024];
	FILE *f;

	snprintf(path, sizeof(path), "%s/kmsg.log", cell_dir);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f)) {
		const char *text = strchr(line, ';');

		line[strcspn(line, "\n")] = '\0';
		if (text && strncmp(text + 1, "Linux version", 13) == 0)
			json_put_text(machine, "kernel_banner", text + 1);
	}
	if (f)
		fclose(f);
}

static json_t *machine_json(const struct result_context *x, const struct facts *f, const struct config *config,
			    const char *cell_dir)
{
	json_t *m = json_object();

	json_put_text(m, "where", x->metal ? "metal" : "guest");
	json_put_text(m, "kernel", x->kernel->version);
	put_banner(m, cell_dir);
	if (!x->metal)
		json_put_text(m, "accel", x->accel->name);
	put_int(m, "cpus", x->scenario->opts.cpus);
	put_int(m, "memory_mib", x->scenario->opts.memory);
	if (x->metal && x->metal->movable_mib)
		put_int(m, "hotplug_mib", x->metal->movable_mib);
	else if (!x->metal && x->scenario->opts.dimms)
		put_int(m, "hotplug_mib", x->scenario->opts.dimms * x->scenario->opts.dimm_mib);
	if (f->memtotal_kib)
		put_int(m, "memtotal_kib", f->memtotal_kib);
	json_put_text(m, "cmdline", x->cmdline);
	json_object_set_new(m, "config", config_json(config));
	return m;
}

static json_t *options_json(const struct spec *spec)
{
	json_t *all = json_object();
	char value[64];

	for (size_t i = 0; i < spec->n_workloads; i++) {
		const struct spec_workload *w = &spec->workloads[i];
		json_t *one = json_object();

		for (const struct opt *o = w->workload->opts; o->name; o++) {
			opts_format(o, w->opts, value, sizeof(value));
			json_put_text(one, o->name, value);
		}
		json_object_set_new(all, w->workload->name, one);
	}
	return all;
}

static json_t *attest_one(const struct facts *f, const struct spec_workload *w, const struct mitigation *m,
			  const char *requested)
{
	static const char *const states[] = { "off", "on", "failed", "absent" };
	struct attestation a;
	json_t *out = json_object();
	char names[256];

	attest(f, w->workload, w->opts, m, requested, &a);
	json_put_text(out, "state", states[a.state]);
	json_object_set_new(out, "exercised", a.exercised == UNKNOWN ? json_null() : json_boolean(a.exercised == YES));
	json_put_text(out, "requested", requested);
	json_put_text(out, "read_back", a.known ? a.read_back : NULL);
	json_put_text(out, "evidence", a.evidence);
	json_put_text(out, "seed", m->seed);
	json_put_text(out, "knob", mitigation_knob_names(m, names, sizeof(names)));
	if (m->gone)
		json_object_set_new(out, "built_in", json_true());
	if (m->option) {
		snprintf(names, sizeof(names), "%s.%s", w->workload->name, m->option);
		json_put_text(out, "option", names);
	}
	return out;
}

static json_t *mitigations_json(const struct facts *f, const struct result_context *x)
{
	json_t *out = json_object();

	for (size_t i = 0; i < x->arm->n_settings; i++) {
		const struct mitigation *m = x->arm->settings[i].mitigation;

		for (size_t k = 0; m && k < x->spec->n_workloads; k++) {
			const struct spec_workload *w = &x->spec->workloads[k];

			for (const struct mitigation *own = w->workload->mitigations; own && own->name; own++)
				if (own == m)
					json_object_set_new(out, m->name,
							    attest_one(f, w, m, x->arm->settings[i].value));
		}
	}
	return out;
}

struct metrics {
	json_t *values, *units;
};

static void describe(struct metrics *m, const char *name, const char *unit, enum better better, const char *label)
{
	static const char *const words[] = { "less", "more", "none" };

	json_object_set_new(m->units, name,
			    json_pack("{s:s, s:s, s:s}", "unit", unit, "better", words[better], "label", label));
}

static void add_int(struct metrics *m, bool known, const char *name, uint64_t value, const char *unit,
		    enum better better, const char *label)
{
	if (!known)
		return;
	put_int(m->values, name, value);
	describe(m, name, unit, better, label);
}

static void add_real(struct metrics *m, bool known, const char *name, double value, const char *unit,
		     enum better better, const char *label)
{
	if (!known)
		return;
	put_real(m->values, name, value);
	describe(m, name, unit, better, label);
}

static void add_cache_peaks(struct metrics *m, const struct facts *f)
{
	json_t *kib = json_object(), *objects = json_object();

	for (size_t i = 0; i < f->n_caches; i++) {
		if (!f->caches[i].seen)
			continue;
		put_int(kib, f->caches[i].name, f->caches[i].kib);
		put_int(objects, f->caches[i].name, f->caches[i].objects);
	}
	if (json_object_size(kib)) {
		json_object_set(m->values, "cache_peak_kib", kib);
		describe(m, "cache_peak_kib", "KiB", LESS, "slab cache at its largest");
		json_object_set(m->values, "cache_peak_objects", objects);
		describe(m, "cache_peak_objects", "", LESS, "objects of the cache at its largest");
	}
	json_decref(kib);
	json_decref(objects);
}

static void add_workload_metrics(struct metrics *m, const struct facts *f, const struct spec *spec)
{
	for (size_t i = 0; i < spec->n_workloads; i++) {
		for (const struct metric *w = spec->workloads[i].workload->metrics; w && w->name; w++) {
			json_t *value = json_object_get(f->metrics, w->name);

			if (!value)
				continue;
			json_object_set(m->values, w->name, value);
			describe(m, w->name, w->unit, w->better, w->label);
		}
	}
}

/* What swap did, on a machine that has some. */
static void add_swap(struct metrics *m, const struct facts *f)
{
	bool have_io = f->have_swap && f->have_swap_io;

	add_int(m, f->have_swap_in_flight, "swap_in_flight_peak", f->swap_in_flight_peak, "pages", LESS,
		"pages on their way to the swap device at the most");
	add_real(m, have_io, "swap_out_mib", f->swap_out_mib, "MiB", NEITHER, "written to swap");
	add_real(m, have_io, "swap_in_mib", f->swap_in_mib, "MiB", NEITHER, "read from swap");
	add_real(m, have_io && f->swap_out_mib_s >= 0, "swap_out_mib_s", f->swap_out_mib_s, "MiB/s", MORE,
		 "written to swap, mean rate");
	add_real(m, have_io && f->swap_in_mib_s >= 0, "swap_in_mib_s", f->swap_in_mib_s, "MiB/s", NEITHER,
		 "read from swap, mean rate");
	add_int(m, f->have_swap && f->have_refaults, "refaults", f->refaults, "", LESS,
		"pages needed again soon after they were reclaimed");
	add_int(m, f->have_swap, "swap_free_min_kib", f->swap_free_min_kib, "KiB", MORE, "free swap at its lowest");
}

static void add_thread_cpu(struct metrics *m, const struct facts *f)
{
	json_t *cpu = json_object();
	uint64_t ms;

	for (size_t i = 0; i < f->n_threads; i++)
		if (facts_thread_cpu_ms(f, f->threads[i].name, &ms))
			put_real(cpu, f->threads[i].name, (double)ms / 1000);
	if (json_object_size(cpu)) {
		json_object_set(m->values, "thread_cpu_s", cpu);
		describe(m, "thread_cpu_s", "s", LESS, "CPU time of kernel threads");
	}
	json_decref(cpu);
}

static double first_failure(const struct facts *f, enum end end)
{
	double first = 1e18, times[] = { f->first_oom_t, f->first_lockup_t, f->first_hung_t, f->panic_t };
	struct livelock livelock;

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		if (times[i] > FACTS_NEVER && times[i] < first)
			first = times[i];
	if (end == END_HANG && f->last_t < first)
		first = f->last_t;
	if (verdict_livelock(f, &livelock) && livelock.from_t < first)
		first = livelock.from_t;
	return first;
}

static void metrics_json(struct metrics *m, const struct facts *f, const struct result_context *x,
			 const struct config *config, uint64_t kmsg_records)
{
	bool have_wq_watchdog = f->wq_lockups || config_may_have(config, "CONFIG_WQ_WATCHDOG");
	bool have_hung_task = f->hung_tasks || config_may_have(config, "CONFIG_DETECT_HUNG_TASK");
	double failure = first_failure(f, x->ending ? x->ending->end : END_ITSELF);
	struct kill_count kills = facts_count_kills(f);
	bool log = kmsg_records > 0; /* the kernel log was followed */

	m->values = json_object();
	m->units = json_object();
	add_real(m, f->run_ended && !f->workload_killed && !f->stuck, "elapsed_s", f->run_end_t, "s", LESS,
		 "time to finish the load");
	add_real(m, failure < 1e18, "time_to_failure_s", failure, "s", MORE, "time to the first failure");
	add_int(m, kills.known || log, "oom_kills", kills.kills, "", LESS, "OOM kills");
	/* Where the detector is not compiled in, no report is no figure. */
	add_int(m, log && have_wq_watchdog, "wq_lockups", f->wq_lockups, "", LESS,
		"workqueue lockups reported by the kernel");
	add_int(m, log && have_hung_task, "hung_tasks", f->hung_tasks, "", LESS, "hung tasks reported by the kernel");
	add_real(m, f->have_canary, "wq_delay_max_ms", f->canary_max_ms, "ms", LESS,
		 "longest wait of work for a kernel worker (canary)");
	add_real(m, f->bystander_max_ms >= 0, "bystander_stall_max_ms", f->bystander_max_ms, "ms", LESS,
		 "longest round of an uninvolved process");
	add_real(m, f->have_wq_wait, "wq_trace_max_ms", f->wq_wait_max_ms, "ms", LESS,
		 "longest wait of work for a kernel worker (tracepoints)");
	add_int(m, f->have_mem, "slab_unreclaimable_peak_kib", f->slab_peak_kib, "KiB", LESS,
		"unreclaimable slab at its largest");
	add_cache_peaks(m, f);
	add_real(m, f->have_slab && f->utilisation_pct > 0, "slab_utilisation_pct", f->utilisation_pct, "%", MORE,
		 "slab memory in use by objects, at that moment");
	add_real(m, f->have_slab && f->utilisation_pct > 0 && json_object_size(f->slack), "slab_utilisation_least_pct",
		 f->utilisation_least_pct, "%", MORE, "the same, if all that CPUs may keep for themselves is free");
	add_real(m, f->have_exact, "slab_utilisation_exact_pct", f->utilisation_exact_pct, "%", MORE,
		 "slab memory in use by objects, after a shrink at the end");
	add_int(m, f->have_exact, "slab_shrink_freed_kib", f->shrink_freed_kib, "KiB", LESS,
		"slab memory that the shrink gave back");
	add_int(m, f->have_dying, "dying_cgroups_peak", f->dying_peak, "", LESS, "cgroups removed and not freed");
	add_real(m, f->dying_half_life_s >= 0, "dying_cgroups_half_life_s", f->dying_half_life_s, "s", LESS,
		 "until half of those left by the load were freed");
	add_int(m, f->have_mem, "available_min_kib", f->available_min_kib, "KiB", MORE, "MemAvailable at its lowest");
	add_real(m, f->have_psi, "psi_memory_full_s", (double)f->psi_full_us / 1e6, "s", LESS,
		 "all tasks waiting for memory (PSI full)");
	add_real(m, f->have_psi, "psi_memory_some_s", (double)f->psi_some_us / 1e6, "s", LESS,
		 "some task waiting for memory (PSI some)");
	add_int(m, f->samples > 0, "allocation_stalls", f->allocstalls, "", LESS, "allocation stalls");
	add_int(m, f->samples > 0, "direct_scans", f->pgscan_direct, "pages", LESS, "pages scanned by direct reclaim");
	add_swap(m, f);
	add_thread_cpu(m, f);
	add_workload_metrics(m, f, x->spec);
	if (f->verified || f->verify_failed || f->corrupt) {
		json_object_set_new(m->values, "data_verified", json_boolean(f->verified && !f->corrupt));
		describe(m, "data_verified", "", MORE, "all data verified");
	}
}

static json_t *detector(bool present, const char *why)
{
	json_t *d = json_object();

	json_object_set_new(d, "present", json_boolean(present));
	if (!present)
		json_put_text(d, "why", why);
	return d;
}

static json_t *detector_from_config(const struct config *c, const char *name)
{
	char value[64], why[128];
	json_t *d;

	config_value(c, name, value, sizeof(value));
	if (!*value) {
		d = json_object();
		json_object_set_new(d, "present", json_null());
		json_put_text(d, "why", "the kernel's configuration is not known");
		return d;
	}
	snprintf(why, sizeof(why), "%s not set", name);
	return detector(strcmp(value, "n") != 0, why);
}

static void put_threshold(json_t *d, const struct facts *f, const char *knob, double factor)
{
	const char *value = json_string_value(json_object_get(f->knobs, knob));

	if (value)
		put_real(d, "threshold_s", strtod(value, NULL) * factor);
}

static json_t *detectors_json(const struct facts *f, const struct config *c, const struct spec *spec,
			      uint64_t kmsg_records)
{
	json_t *all = json_object(), *d;
	const char *offline;
	char value[64];

	json_object_set_new(all, "oom-log", detector(kmsg_records > 0, "nothing of the kernel log was read"));
	json_object_set_new(all, "oom-counter", detector(f->have_oom_counter, "no sample, or no oom_kill in vmstat"));
	d = detector_from_config(c, "CONFIG_WQ_WATCHDOG");
	put_threshold(d, f, "workqueue.watchdog_thresh", 1);
	json_object_set_new(all, "wq-watchdog", d);
	d = detector_from_config(c, "CONFIG_DETECT_HUNG_TASK");
	put_threshold(d, f, "kernel.hung_task_timeout_secs", 1);
	json_object_set_new(all, "hung-task", d);
	d = detector_from_config(c, "CONFIG_SOFTLOCKUP_DETECTOR");
	put_threshold(d, f, "kernel.watchdog_thresh", 2); /* softlockup reports at twice the threshold */
	json_object_set_new(all, "soft-lockup", d);
	d = detector(true, NULL); /* RCU's stall detector cannot be left out of a kernel */
	config_value(c, "CONFIG_RCU_CPU_STALL_TIMEOUT", value, sizeof(value));
	if (*value && strcmp(value, "n") != 0)
		put_real(d, "threshold_s", strtod(value, NULL));
	put_threshold(d, f, "rcupdate.rcu_cpu_stall_timeout", 1);
	json_object_set_new(all, "rcu-stall", d);
	d = detector(f->have_canary, spec->canary_ms ? "this kernel has no vm.stat_refresh" : "switched off");
	if (f->have_canary) {
		put_int(d, "period_ms", spec->canary_ms);
		put_real(d, "threshold_s", LOCKUP_S);
	}
	json_object_set_new(all, "canary", d);
	d = detector(f->have_wq_trace, !spec->wq_trace_kib  ? "switched off"
				       : *f->wq_trace_error ? f->wq_trace_error
							    : "it was not started");
	if (f->have_wq_trace)
		put_real(d, "threshold_s", spec->wq_trace_ms / 1000.0);
	json_object_set_new(all, "wq-trace", d);
	json_object_set_new(all, "psi", detector(f->have_psi, "no /proc/pressure"));
	offline = json_string_value(json_object_get(f->knobs, OFFLINE_REASONS));
	json_object_set_new(all, "offline-reasons",
			    detector(offline && strcmp(offline, "+p") == 0,
				     offline ? "dynamic debug could not be switched on for it"
					     : "this kernel has no dynamic debug"));
	return all;
}

static json_t *oom_json(const struct facts *f)
{
	struct kill_count kills = facts_count_kills(f);
	json_t *oom = json_object();

	if (f->have_oom_counter)
		put_int(oom, "vmstat", f->oom_counter.kills);
	if (f->have_oom_events)
		put_int(oom, "memory_events", f->oom_events.kills);
	put_int(oom, "log", f->oom_log);
	json_object_set_new(oom, "agree", json_boolean(kills.agree));
	if (!kills.agree)
		json_put_text(oom, "why", kills.why);
	return oom;
}

static json_t *watch_json(const char *const *caches)
{
	json_t *list = json_array();

	for (; *caches; caches++)
		json_array_append_new(list, json_string(*caches));
	return json_pack("{s:o}", "caches", list);
}

static json_t *samples_json(const struct bb *box, const struct extract_result *e, uint64_t bad_lines)
{
	struct bb_header *head = box->head;
	uint64_t dropped = atomic_load(&head->dropped[BB_USER_LOG]) + atomic_load(&head->dropped[BB_KERNEL_LOG]);
	json_t *s = json_object();

	put_int(s, "taken", atomic_load(&head->samples_taken));
	put_int(s, "missed", atomic_load(&head->samples_missed));
	put_real(s, "late_max_ms", (double)atomic_load(&head->late_max_ns) / 1e6);
	put_int(s, "kmsg_lost", atomic_load(&head->kmsg_lost));
	put_int(s, "kmsg_dropped", dropped);
	/* By the sequence numbers it must be the same. */
	if (e->kmsg_dropped != dropped)
		json_object_set_new(s, "kmsg_unaccounted",
				    json_integer((json_int_t)e->kmsg_dropped - (json_int_t)dropped));
	put_int(s, "dropped", atomic_load(&head->dropped[BB_SAMPLES]));
	put_int(s, "box_lost", atomic_load(&head->lost));
	put_int(s, "box_torn", e->torn);
	put_int(s, "bad_lines", e->bad_lines + bad_lines);
	put_int(s, "kmsg_records", e->kmsg_records);
	put_int(s, "console_records", e->console_records);
	put_int(s, "box_bytes", bb_bytes(box));
	return s;
}

static json_t *host_json(const struct ending *e, bool on_metal)
{
	json_t *h = json_object();

	if (!e)
		return h;
	if (e->boot_s >= 0)
		put_real(h, "boot_s", e->boot_s);
	put_real(h, "wall_s", e->wall_s);
	json_put_text(h, "ended_by", end_name(e->end, on_metal));
	put_int(h, on_metal ? "status" : "qemu_status", (uint64_t)e->status);
	return h;
}

/* The last words of a guest that did not come up, onto the reason. */
static void add_console_tail(struct judgement *j, const char *console)
{
	char text[4096], *line, *rest = text, *last = NULL;
	FILE *f = fopen(console, "re");
	size_t n;

	if (!f)
		return;
	if (fseek(f, -(long)(sizeof(text) - 1), SEEK_END) < 0)
		rewind(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	while ((line = strsep(&rest, "\r\n")))
		if (strspn(line, " \t") < strlen(line))
			last = line;
	n = strlen(j->reason);
	if (last)
		snprintf(j->reason + n, sizeof(j->reason) - n, "; last on the console: %.200s", last);
	else
		snprintf(j->reason + n, sizeof(j->reason) - n, "; the console stayed empty");
}

static void put_cell(json_t *cell, const struct result_context *x, const struct judgement *j)
{
	json_put_text(cell, "schema", "headroom.cell/1");
	json_put_text(cell, "scenario", x->spec->scenario);
	json_put_text(cell, "cell", x->spec->cell);
	json_put_text(cell, "arm", x->spec->arm);
	put_int(cell, "repeat", x->repeat);
	put_int(cell, "seed", x->spec->seed);
	json_put_text(cell, "verdict", verdict_name(j->verdict));
	json_put_text(cell, "reason", j->reason);
	json_put_text(cell, "outcome", j->outcome);
	json_object_set_new(cell, "interrupted", json_boolean(x->interrupted));
}

int result_write(const char *cell_dir, const struct bb *box, const struct result_context *x,
		 struct judgement *judgement)
{
	const char *caches[FACTS_MAX_CACHES + 1] = { NULL };
	char path[PATH_MAX], console[PATH_MAX], *text;
	struct extract_result extracted;
	uint64_t bad_lines = 0;
	struct config config;
	struct metrics metrics;
	struct facts f;
	size_t n = 0;
	json_t *cell;
	int err;

	for (size_t i = 0; i < x->spec->n_workloads; i++)
		for (const char *const *c = x->spec->workloads[i].workload->watch_caches;
		     c && *c && n < FACTS_MAX_CACHES; c++)
			caches[n++] = *c;
	snprintf(console, sizeof(console), "%s/console.log", cell_dir);
	err = extract_record(box, cell_dir, x->metal ? NULL : console, &extracted);
	if (!err) {
		err = facts_read(&f, cell_dir, caches, &bad_lines);
		if (err)
			facts_free(&f);
	}
	if (err) {
		log_err("%s: the record could not be taken out of the black box: %s", cell_dir, strerror(-err));
		return err;
	}
	f.cpus = (unsigned)x->scenario->opts.cpus;
	config_load(&config, x->kernel->config);
	verdict_find_out(&f, x->ending ? x->ending->end : END_SIGNAL, x->interrupted, judgement);
	if (x->ending && x->ending->end == END_NO_BOOT)
		add_console_tail(judgement, console);
	metrics_json(&metrics, &f, x, &config, extracted.kmsg_records);

	cell = json_object();
	put_cell(cell, x, judgement);
	json_object_set_new(cell, "machine", machine_json(x, &f, &config, cell_dir));
	json_object_set_new(cell, "options", options_json(x->spec));
	json_object_set(cell, "settings", f.knobs);
	json_object_set_new(cell, "mitigations", mitigations_json(&f, x));
	json_object_set_new(cell, "metrics", metrics.values);
	json_object_set_new(cell, "units", metrics.units);
	json_object_set(cell, "victims", f.victims);
	json_object_set(cell, "findings", f.findings);
	json_object_set_new(cell, "oom", oom_json(&f));
	json_object_set_new(cell, "detectors", detectors_json(&f, &config, x->spec, extracted.kmsg_records));
	json_object_set_new(cell, "watch", watch_json(caches));
	json_object_set(cell, "phases", f.phases);
	json_object_set_new(cell, "samples", samples_json(box, &extracted, bad_lines));
	json_object_set_new(cell, "host", host_json(x->ending, x->metal != NULL));

	text = json_dumps(cell, JSON_INDENT(2) | JSON_REAL_PRECISION(REAL_DIGITS));
	snprintf(path, sizeof(path), "%s/cell.json", cell_dir);
	err = text ? sysfile_replace(path, text, strlen(text)) : -ENOMEM;
	if (err)
		log_err("%s: %s", path, strerror(-err));
	free(text);
	free(config.text);
	json_decref(cell);
	facts_free(&f);
	return err;
}
