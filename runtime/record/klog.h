// SPDX-License-Identifier: MIT
/*
 * Kernel-log classifier: lines in, whole events out.
 *
 * Two layers, which can be used apart:
 *   klog_reader  turns the bytes of a saved log (dmesg, journal, syslog, serial console, /dev/kmsg dump, a paste) into
 *                records, one callback a line;
 *   klog         takes records one by one, gathers the lines of a report and calls back once for each event.
 * A recorder that reads /dev/kmsg itself uses klog_parse_kmsg() and klog_feed() and no reader.
 *
 * Memory: klog_new() and klog_reader_new() allocate once (under 1 MiB together); nothing is allocated afterwards, so a
 * caller that has locked its memory can feed the classifier while the machine has none left. No globals: any number of
 * classifiers may run, each used by one thread at a time.
 *
 * Ownership: an event, its strings and its `raw` belong to the classifier and die when the callback returns; copy what
 * must last. The callback may change the event (set `role`), but must not call back into the same classifier.
 *
 * Units: time is in microseconds on the log's own axis (seconds since boot for a stamped log, since the first line for
 * a log that has wall-clock stamps only); sizes are KiB where the name says kib, pages where it says pages. A number
 * that the log did not give is KLOG_NONE, a string that it did not give is empty: absent is never 0.
 *
 * Attribution: several reports can be open at a time. A line goes to a report that can hold it, by caller id where the
 * log has them (CONFIG_PRINTK_CALLER). Where two open reports could both own a stack frame, neither gets it as a typed
 * field and both events are marked `mixed`; the raw text goes to the one written to last.
 */
#ifndef HEADROOM_KLOG_H
#define HEADROOM_KLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/jsonw.h"

#define KLOG_NONE      (-1)
#define KLOG_NO_SCORE  (-100000)    /* the same for an oom_score_adj, where -1 is a value */
#define KLOG_LINE_MAX  4096	    /* longest record text looked at; the rest is cut */
#define KLOG_RAW_MAX   (32 * 1024)  /* raw lines kept for each event */
#define KLOG_OPEN_MAX  12	    /* reports that can be open at a time; the oldest is closed to make room */
#define KLOG_COMM_MAX  64	    /* task names are 16 bytes, kworkers print more */
#define KLOG_STACK_MAX 32	    /* frames kept as typed fields */
#define KLOG_TASK_MAX  64	    /* rows of an OOM report's task table kept as typed fields */
#define KLOG_SLAB_MAX  16	    /* largest caches of an OOM report kept as typed fields */
#define KLOG_WORK_MAX  32	    /* work items of a workqueue report kept as typed fields */
#define KLOG_JSON_MAX  (256 * 1024) /* a buffer of this size holds any event's line */

/* A report that hears nothing for this long is over: reports print in one go. */
#define KLOG_IDLE_US 2000000
/* A kill waits this long for its reaper line: the reaper starts 2 s late (since 5.18) and tries for 1 s. */
#define KLOG_REAP_US 3500000
/*
 * A stall report waits this long for the backtrace that it asked another CPU for. The kernel waits 10 s; a CPU that the
 * host has stopped answers when it runs again.
 */
#define KLOG_NMI_US 20000000

enum klog_kind {
	KLOG_OOM_KILL,	     /* global; one for each task killed */
	KLOG_MEMCG_OOM_KILL, /* in a memory cgroup; one for each task killed */
	/* an OOM report that names no killed task: none was killable, panic_on_oom, or the log ends or lost lines */
	KLOG_OOM_INVOKED,
	KLOG_WQ_LOCKUP,
	KLOG_HUNG_TASK,
	KLOG_SOFT_LOCKUP,
	KLOG_HARD_LOCKUP,
	KLOG_RCU_STALL,
	KLOG_ALLOC_FAILURE,
	KLOG_ALLOC_STALL, /* an allocation that goes on trying: 4.10 to 4.14, and again in 7.x */
	KLOG_OFFLINE_FAILURE,
	KLOG_SNAPSHOT_INVALID,
	KLOG_WARN,
	KLOG_BUG,
	KLOG_OOPS,
	KLOG_PANIC,
	KLOG_SUPPRESSED, /* the kernel's own rate limit swallowed `count` messages of `what` */
	KLOG_LOST,	 /* `count` records missing between two that were seen */
	KLOG_KINDS
};

/* "oom-kill", ...; NULL for a number that is no kind. */
const char *klog_kind_name(enum klog_kind kind);
/* The kind of that name, or -1. */
int klog_kind_parse(const char *name, size_t len);

enum klog_source { KLOG_SRC_KMSG, KLOG_SRC_CONSOLE };

/* One log record. `text` need not be terminated and may hold any bytes; it is not kept. */
struct klog_record {
	enum klog_source source;
	int64_t seq;  /* or KLOG_NONE */
	int64_t usec; /* or KLOG_NONE */
	int prio; /* syslog priority with facility, or KLOG_NONE; records of other facilities than kern are ignored */
	uint32_t caller; /* klog_caller(), 0 = not known */
	bool cont;	 /* continues the record before it: a late pr_cont(), or a wrapped line of a paste */
	const char *text;
	size_t len;
};

/* Task ids and CPU numbers share the caller field of a record: 'T' 17 and 'C' 0 become one number, never 0. */
uint32_t klog_caller(char type, uint32_t number);

struct klog_task {
	int64_t pid, rss_pages, oom_score_adj;
	char comm[24];
};

struct klog_slab {
	char name[48];
	int64_t used_kib, total_kib;
};

struct klog_work {
	int64_t pid;	 /* of the worker; KLOG_NONE for pending work */
	int64_t count;	 /* how often it is queued */
	int64_t seconds; /* that it has been running, where the kernel says so (7.x) */
	int64_t barrier; /* pid of the task that waits in flush_work(): this item is its barrier and has no func */
	bool same_pool;	 /* queued on the pool that is stuck */
	bool rescuer;	 /* the worker is the workqueue's rescuer */
	bool scheduled;	 /* the worker has it to do next: not begun */
	char func[64];	 /* with its module, as printed: "do_work [dm_mod]" */
	char wq[40];
};

struct klog_oom {
	int64_t victim_pid;
	char victim_comm[KLOG_COMM_MAX];
	char victim_cgroup[256]; /* from the summary line (5.0 on) or "Task in" (before) */
	char trigger[KLOG_COMM_MAX];
	char gfp[128];
	int64_t order;
	char constraint[24]; /* "none", "cpuset", "memory-policy", "memcg" */
	char oom_memcg[256];
	int64_t total_vm_kib, anon_rss_kib, file_rss_kib, shmem_rss_kib, pgtables_kib, uid;
	int64_t oom_score_adj; /* of the victim; before 5.1 only in the task table */
	int64_t trigger_score_adj;
	int64_t usage_kib, limit_kib; /* of the memory cgroup */
	bool memcg, group;	      /* killed by memory.oom.group */
	bool reaped;		      /* the oom_reaper said so before the event was closed */
	char outcome[64];	      /* why a report has no victim */
	uint64_t tasks;		      /* rows in the task table */
	unsigned task_n, slab_n;
	struct klog_task task[KLOG_TASK_MAX];
	struct klog_slab slab[KLOG_SLAB_MAX]; /* largest first */
};

struct klog_wq {
	char pool[96], cpus[40];
	int64_t seconds;
	unsigned flight_n, pending_n, busy_n;
	struct klog_work flight[KLOG_WORK_MAX], pending[KLOG_WORK_MAX];
	char busy[KLOG_WORK_MAX][40]; /* workqueues listed as busy, each name once */
};

struct klog_event {
	enum klog_kind kind;
	enum klog_source source;
	int64_t seq, usec; /* of the line that names the event: an OOM kill's own line, else the report's first */
	uint64_t index;	   /* rank of that record in what was fed; see klog_watermark() */
	uint32_t caller;
	bool mixed;	/* lines of another report came in between and could not be told apart */
	bool truncated; /* `raw` was full, or a line was longer than KLOG_LINE_MAX */
	unsigned lines; /* in the report, including those that `raw` had no room for */

	/* Set by whoever knows: the part the victim plays (workload, harness, ...). NULL: not printed. */
	const char *role;

	/* Where they apply (see klog_json.c for which kind prints what). */
	int64_t pid, cpu, seconds, order, count;
	char task[KLOG_COMM_MAX];
	char what[256];	     /* reason, message, function */
	char where[160];     /* file:line, memory range, RIP */
	char mode[128];	     /* gfp flags */
	char flavour[48];    /* of an RCU stall */
	int self;	     /* RCU stall: 1 self-detected, 0 not, KLOG_NONE */
	char state;	     /* hung task: D, ... or 0 */
	char workqueue[160]; /* of a kworker: "kcopyd do_work [dm_mod]", the name and the work's function */
	bool taint_known;
	char taint[32]; /* letters only, "" with taint_known = not tainted */
	char kernel[80];
	unsigned stack_n;
	char stack[KLOG_STACK_MAX][64];

	union {
		struct klog_oom oom;
		struct klog_wq wq;
	};

	const char *raw; /* the lines, parted by newlines, without stamps and prefixes; terminated */
	size_t raw_len;
};

typedef void (*klog_event_fn)(struct klog_event *ev, void *arg);

struct klog;

/* NULL when there is no memory. */
struct klog *klog_new(klog_event_fn fn, void *arg);
/* Drops what is open: klog_flush() first. NULL is fine. */
void klog_free(struct klog *k);
/* One record, in the order of the log. A gap in `seq` closes what is open and yields KLOG_LOST. */
void klog_feed(struct klog *k, const struct klog_record *rec);
/* The next `count` records are left out by the caller: a gap in `seq` that is none of the log's. */
void klog_left_out(struct klog *k, uint64_t count);
/* Time passes without a line: close the reports that are over by now. For live logs. */
void klog_tick(struct klog *k, int64_t now_usec);
/* The log ends here: close all. The classifier can be used again. */
void klog_flush(struct klog *k);
/*
 * Events come out when they are complete, so a short one can overtake a long one. No event that is still to come has an
 * `index` below this: hold events back until then to get them in the order of the log.
 */
uint64_t klog_watermark(const struct klog *k);

/*
 * One record as read(2) from /dev/kmsg gives it ("prio,seq,usec,flag[,caller=T1];text\n KEY=value..."). The text is
 * unescaped into `buf` (KLOG_LINE_MAX is enough). Returns false if it is no such record.
 */
bool klog_parse_kmsg(const char *data, size_t len, struct klog_record *rec, char *buf, size_t buf_size);

typedef void (*klog_record_fn)(const struct klog_record *rec, void *arg);

struct klog_reader;

/* The format is told line by line; prefixes may differ within a file. NULL when there is no memory. */
struct klog_reader *klog_reader_new(klog_record_fn fn, void *arg);
void klog_reader_free(struct klog_reader *r);
/*
 * Look at the beginning of a log without consuming it, so that prose before the first stamped line is not taken for
 * kernel text. Optional: without it the reader learns from the lines as they come.
 */
void klog_reader_detect(struct klog_reader *r, const char *data, size_t len);
void klog_reader_push(struct klog_reader *r, const char *data, size_t len);
/* The last line had no newline. */
void klog_reader_finish(struct klog_reader *r);

/*
 * The event as one object of the record (docs/record.md), without the newline. `t_offset_ns` is added to the event's
 * time to get `t`; an event without a time gets null.
 */
void klog_event_json(struct jsonw *j, const struct klog_event *ev, int64_t t_offset_ns);

#endif
