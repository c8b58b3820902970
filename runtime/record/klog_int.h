// SPDX-License-Identifier: MIT
/* What the files of the kernel-log classifier share; for nobody else. */
#ifndef HEADROOM_KLOG_INT_H
#define HEADROOM_KLOG_INT_H

#include "record/klog.h"

/* Where a report with a stack trace stands. A report past its trace takes no more frames. */
enum phase { PHASE_HEAD, PHASE_TRACE, PHASE_DONE };

/* The table a report is printing: rows have no mark of their own, so they count only below their header. */
enum section {
	SECTION_NONE,
	SECTION_TASKS,
	SECTION_SLAB,
	SECTION_MEMCG,
	SECTION_FLIGHT,
	SECTION_PENDING,
	SECTION_WORKERS
};

enum column { COLUMN_OTHER, COLUMN_PID, COLUMN_RSS, COLUMN_SCORE_ADJ, COLUMN_NAME };
#define COLUMNS_MAX 16

/* Kinds of lines that can belong to a report; a report accepts a set of them (accepts() in klog.c). */
enum line_class {
	L_CONTEXT = 1 << 0, /* CPU:, Hardware name:, taint */
	L_TRACE = 1 << 1,   /* Call Trace: */
	L_MARK = 1 << 2,    /* <TASK> */
	L_FRAME = 1 << 3,
	L_REGS = 1 << 4,
	L_MODULES = 1 << 5,
	L_END = 1 << 6,	   /* ---[ end trace */
	L_MEM = 1 << 7,	   /* show_mem() */
	L_MEMCG = 1 << 8,  /* a memory cgroup's limits and statistics */
	L_STAT = 1 << 9,   /* "name 123" below them */
	L_TABLE = 1 << 10, /* task table and slab table of an OOM report */
	L_OOM = 1 << 11,
	L_WQ = 1 << 12,
	L_HUNG = 1 << 13,
	L_LOCKS = 1 << 14, /* held locks, lockdep's explanations */
	L_RCU = 1 << 15,
	L_OOPS = 1 << 16,
	L_PANIC = 1 << 17,
	L_SLUB = 1 << 18,
	L_TASK = 1 << 19,   /* sched_show_task() */
	L_WRAP = 1 << 20,   /* the rest of a line that a mailer wrapped */
	L_WORKER = 1 << 21, /* what a kworker is doing */
};

struct slot {
	bool open;
	enum phase phase;
	enum section section;
	int64_t last_usec; /* when a line last came, KLOG_NONE if the log has no times */
	uint64_t last_index;
	bool marks;	/* the trace has <TASK> marks, so </TASK> ends it */
	bool no_stack;	/* frames could not be told from another report's */
	bool sure;	/* the frames kept had no "?" */
	bool elsewhere; /* the backtrace being printed is not of the task that the report is about */
	bool nmi;	/* another CPU has been asked for its backtrace */

	/* OOM */
	bool killed;	    /* has its victim, waits for the reaper */
	bool header;	    /* has a "Kill process P" line (before 5.1) */
	int64_t header_pid; /* which it named */
	int64_t summary_pid;
	unsigned column_n;
	enum column column[COLUMNS_MAX];

	/* workqueue lockup */
	bool listing;	/* the list of busy workqueues has begun */
	bool same_pool; /* the pwq being listed belongs to the stuck pool */
	char wq[40];	/* the workqueue being listed */

	size_t raw_len;
	struct klog_event ev;
	char raw[KLOG_RAW_MAX + 1];
};

/* The OOM kill before this record, for the rest of a memory.oom.group. */
struct oom_context {
	bool known, group;
	int64_t usec;
	uint64_t index;
	uint32_t caller;
	int64_t first_pid;   /* the group's first victim: its scan of the group says it a second time */
	struct klog_oom oom; /* without its tables */
};

struct klog {
	klog_event_fn fn;
	void *arg;
	uint64_t index; /* of the record being fed; from 1 */
	int64_t seq, usec;
	struct slot *last; /* took the record before this one */
	struct oom_context oom;
	struct slot slot[KLOG_OPEN_MAX];
	char text[KLOG_LINE_MAX + 1];
};

/* A line being classified; `text` is terminated and free of controls, `body` is the same without leading blanks. */
struct klog_line {
	const struct klog_record *rec;
	const char *text, *body;
	bool may_open;	/* the first line of a record: later ones cannot start a report */
	bool ambiguous; /* more than one report could own it: no typed fields from it */
	bool cut;
};

struct klog_pattern {
	const char *text;
	bool anywhere;	  /* else at the start of the body */
	int kind;	  /* of the event that the line starts, or KLOG_NONE for a line within a report */
	unsigned classes; /* of a line within a report */
	/*
	 * For a line that starts an event: called with s NULL; opens or finds the slot, returns false if the line only
	 * looked like one. For a line within a report: reads the fields into s.
	 */
	bool (*parse)(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit);
};

extern const struct klog_pattern klog_patterns[];

/* klog.c: slots */
struct slot *klog_slot_open(struct klog *k, const struct klog_line *l, enum klog_kind kind);
void klog_slot_add(struct klog *k, struct slot *s, const struct klog_line *l);
void klog_slot_close(struct klog *k, struct slot *s);
bool klog_same_caller(const struct slot *s, const struct klog_record *rec);

/* klog_parse.c: lines that no fixed string marks */
unsigned klog_line_class(const struct klog_line *l);
bool klog_unmarked_fits(const struct slot *s, const char *body, unsigned class);
void klog_parse_unmarked(struct klog *k, struct slot *s, const struct klog_line *l, unsigned class);
bool klog_context_fits(const struct slot *s, const char *body);
bool klog_is_kill_line(const char *text);

#endif
