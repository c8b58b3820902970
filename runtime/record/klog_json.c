// SPDX-License-Identifier: MIT
/* Kernel-log classifier: an event as a line of events.jsonl. What the log did not say is left out. */
#include "record/klog.h"

#include <string.h>

static const char *const names[KLOG_KINDS] = {
	[KLOG_OOM_KILL] = "oom-kill",
	[KLOG_MEMCG_OOM_KILL] = "memcg-oom-kill",
	[KLOG_OOM_INVOKED] = "oom-invoked",
	[KLOG_WQ_LOCKUP] = "wq-lockup",
	[KLOG_HUNG_TASK] = "hung-task",
	[KLOG_SOFT_LOCKUP] = "soft-lockup",
	[KLOG_HARD_LOCKUP] = "hard-lockup",
	[KLOG_RCU_STALL] = "rcu-stall",
	[KLOG_ALLOC_FAILURE] = "alloc-failure",
	[KLOG_ALLOC_STALL] = "alloc-stall",
	[KLOG_OFFLINE_FAILURE] = "offline-failure",
	[KLOG_SNAPSHOT_INVALID] = "snapshot-invalid",
	[KLOG_WARN] = "warn",
	[KLOG_BUG] = "bug",
	[KLOG_OOPS] = "oops",
	[KLOG_PANIC] = "panic",
	[KLOG_SUPPRESSED] = "suppressed",
	[KLOG_LOST] = "kmsg-lost",
};

const char *klog_kind_name(enum klog_kind kind)
{
	return (unsigned)kind < KLOG_KINDS ? names[kind] : NULL;
}

int klog_kind_parse(const char *name, size_t len)
{
	for (int i = 0; i < KLOG_KINDS; i++)
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
			return i;
	return -1;
}

static void put_number(struct jsonw *j, const char *key, int64_t value)
{
	if (value != KLOG_NONE)
		jsonw_i64(j, key, value);
}

static void put_score(struct jsonw *j, const char *key, int64_t value)
{
	if (value != KLOG_NO_SCORE)
		jsonw_i64(j, key, value);
}

static void put_string(struct jsonw *j, const char *key, const char *value)
{
	if (*value)
		jsonw_str(j, key, value);
}

static void put_oom(struct jsonw *j, const struct klog_event *ev)
{
	const struct klog_oom *o = &ev->oom;

	if (ev->kind != KLOG_OOM_INVOKED) {
		jsonw_object(j, "victim");
		jsonw_i64(j, "pid", o->victim_pid);
		jsonw_str(j, "comm", o->victim_comm);
		put_string(j, "cgroup", o->victim_cgroup);
		if (ev->role)
			jsonw_str(j, "role", ev->role);
		jsonw_object_end(j);
	} else {
		put_string(j, "outcome", o->outcome);
	}
	put_string(j, "trigger", o->trigger);
	put_string(j, "gfp", o->gfp);
	put_number(j, "order", o->order);
	put_string(j, "constraint", o->constraint);
	put_string(j, "oom_memcg", o->oom_memcg);
	put_number(j, "memcg_usage_kib", o->usage_kib);
	put_number(j, "memcg_limit_kib", o->limit_kib);
	put_number(j, "total_vm_kib", o->total_vm_kib);
	put_number(j, "anon_rss_kib", o->anon_rss_kib);
	put_number(j, "file_rss_kib", o->file_rss_kib);
	put_number(j, "shmem_rss_kib", o->shmem_rss_kib);
	put_number(j, "pgtables_kib", o->pgtables_kib);
	put_number(j, "uid", o->uid);
	put_score(j, "oom_score_adj", o->oom_score_adj);
	put_score(j, "trigger_oom_score_adj", o->trigger_score_adj);
	if (ev->kind != KLOG_OOM_INVOKED) {
		jsonw_bool(j, "reaped", o->reaped);
		if (o->group)
			jsonw_bool(j, "group", true);
		put_number(j, "times", ev->count);
	}
	if (o->tasks) {
		jsonw_u64(j, "tasks", o->tasks);
		jsonw_array(j, "task_list");
		for (unsigned i = 0; i < o->task_n; i++) {
			jsonw_object(j, NULL);
			jsonw_i64(j, "pid", o->task[i].pid);
			jsonw_str(j, "comm", o->task[i].comm);
			put_number(j, "rss_pages", o->task[i].rss_pages);
			put_score(j, "oom_score_adj", o->task[i].oom_score_adj);
			jsonw_object_end(j);
		}
		jsonw_array_end(j);
	}
	if (o->slab_n) {
		jsonw_object(j, "slab");
		for (unsigned i = 0; i < o->slab_n; i++)
			jsonw_i64(j, o->slab[i].name, o->slab[i].total_kib);
		jsonw_object_end(j);
	}
}

static void put_work(struct jsonw *j, const char *key, const struct klog_work *work, unsigned n)
{
	jsonw_array(j, key);
	for (unsigned i = 0; i < n; i++) {
		jsonw_object(j, NULL);
		put_number(j, "pid", work[i].pid);
		put_string(j, "func", work[i].func);
		put_number(j, "barrier", work[i].barrier);
		put_string(j, "wq", work[i].wq);
		if (work[i].count != 1)
			jsonw_i64(j, "count", work[i].count);
		put_number(j, "seconds", work[i].seconds);
		jsonw_bool(j, "same_pool", work[i].same_pool);
		if (work[i].rescuer)
			jsonw_bool(j, "rescuer", true);
		if (work[i].scheduled)
			jsonw_bool(j, "scheduled", true);
		jsonw_object_end(j);
	}
	jsonw_array_end(j);
}

static void put_wq(struct jsonw *j, const struct klog_wq *w)
{
	put_string(j, "pool", w->pool);
	put_string(j, "cpus", w->cpus);
	put_number(j, "seconds", w->seconds);
	put_work(j, "in_flight", w->flight, w->flight_n);
	put_work(j, "pending", w->pending, w->pending_n);
	jsonw_array(j, "busy");
	for (unsigned i = 0; i < w->busy_n; i++)
		jsonw_str(j, NULL, w->busy[i]);
	jsonw_array_end(j);
}

void klog_event_json(struct jsonw *j, const struct klog_event *ev, int64_t t_offset_ns)
{
	static const char *const what_keys[KLOG_KINDS] = {
		[KLOG_ALLOC_FAILURE] = "what",
		[KLOG_OFFLINE_FAILURE] = "reason",
		[KLOG_SNAPSHOT_INVALID] = "reason",
		[KLOG_WARN] = "what",
		[KLOG_BUG] = "what",
		[KLOG_OOPS] = "what",
		[KLOG_PANIC] = "reason",
		[KLOG_SUPPRESSED] = "function",
	};
	static const char *const where_keys[KLOG_KINDS] = {
		[KLOG_ALLOC_FAILURE] = "cache",
		[KLOG_OFFLINE_FAILURE] = "range",
		[KLOG_WARN] = "at",
		[KLOG_BUG] = "at",
		[KLOG_OOPS] = "at",
		[KLOG_PANIC] = "at",
		[KLOG_SOFT_LOCKUP] = "at",
		[KLOG_HARD_LOCKUP] = "at",
		[KLOG_RCU_STALL] = "at",
	};
	bool oom = ev->kind == KLOG_OOM_KILL || ev->kind == KLOG_MEMCG_OOM_KILL || ev->kind == KLOG_OOM_INVOKED;
	int64_t ns;

	jsonw_object(j, NULL);
	if (ev->usec == KLOG_NONE || __builtin_mul_overflow(ev->usec, INT64_C(1000), &ns) ||
	    __builtin_add_overflow(ns, t_offset_ns, &ns))
		jsonw_null(j, "t");
	else
		jsonw_seconds(j, "t", ns);
	jsonw_str(j, "kind", klog_kind_name(ev->kind));
	jsonw_str(j, "source", ev->source == KLOG_SRC_KMSG ? "kmsg" : "console");
	put_number(j, "seq", ev->seq);
	if (oom) {
		put_oom(j, ev);
	} else if (ev->kind == KLOG_WQ_LOCKUP) {
		put_wq(j, &ev->wq);
	} else {
		put_string(j, "task", ev->task);
		put_number(j, "pid", ev->pid);
		put_number(j, "cpu", ev->cpu);
		put_number(j, "seconds", ev->seconds);
		if (ev->state) {
			char state[2] = { ev->state, '\0' };

			jsonw_str(j, "state", state);
		}
		put_number(j, "order", ev->order);
		put_string(j, "mode", ev->mode);
		put_string(j, "flavour", ev->flavour);
		if (ev->self != KLOG_NONE)
			jsonw_bool(j, "self_detected", ev->self);
		if (what_keys[ev->kind])
			put_string(j, what_keys[ev->kind], ev->what);
		if (where_keys[ev->kind])
			put_string(j, where_keys[ev->kind], ev->where);
		put_number(j, ev->kind == KLOG_LOST ? "lost" : "count", ev->count);
	}
	if (ev->taint_known)
		jsonw_str(j, "taint", ev->taint);
	put_string(j, "kernel", ev->kernel);
	if (ev->kind != KLOG_WQ_LOCKUP)
		put_string(j, "workqueue", ev->workqueue);
	if (ev->stack_n) {
		jsonw_array(j, "stack");
		for (unsigned i = 0; i < ev->stack_n; i++)
			jsonw_str(j, NULL, ev->stack[i]);
		jsonw_array_end(j);
	}
	if (ev->mixed)
		jsonw_bool(j, "mixed", true);
	if (ev->truncated)
		jsonw_bool(j, "truncated", true);
	jsonw_u64(j, "lines", ev->lines);
	jsonw_strn(j, "raw", ev->raw, ev->raw_len);
	jsonw_object_end(j);
}
