// SPDX-License-Identifier: MIT
/*
 * Kernel-log classifier: which line belongs to which report.
 *
 * A fixed set of slots, each one report being read. A record is cleaned, split into lines, and each line looked up in
 * klog_patterns: it starts an event, or is of a class that an open report may accept, or is nobody's. Reports have no
 * common end mark, so a slot closes at its own last line where it has one, when the next report of its kind starts,
 * when nothing came for a while, when records were lost, and when its room is needed.
 *
 * It cannot run out of memory: nothing is allocated after klog_new().
 */
#include "record/klog.h"
#include "record/klog_int.h"

#include <stdlib.h>
#include <string.h>

/* Lines of other origin that a report outlives when the log has no times. */
#define IDLE_RECORDS 256
/* A trace prints in one go: a report silent for this long is not the owner of frames that another report may own. */
#define TRACE_GAP_US 200000
/* A clock that goes back further than CPUs disagree is another boot. */
#define REBOOT_US 1000000

_Static_assert(sizeof(struct klog) < 900 * 1024, "the promise in klog.h");

struct klog *klog_new(klog_event_fn fn, void *arg)
{
	struct klog *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->fn = fn;
	k->arg = arg;
	k->seq = KLOG_NONE;
	k->usec = KLOG_NONE;
	return k;
}

void klog_free(struct klog *k)
{
	free(k);
}

bool klog_same_caller(const struct slot *s, const struct klog_record *rec)
{
	return !s->ev.caller || !rec->caller || s->ev.caller == rec->caller;
}

void klog_slot_close(struct klog *k, struct slot *s)
{
	if (k->last == s)
		k->last = NULL;
	if (s->no_stack)
		s->ev.stack_n = 0;
	s->raw[s->raw_len] = '\0';
	s->ev.raw = s->raw;
	s->ev.raw_len = s->raw_len;
	s->open = false;
	k->fn(&s->ev, k->arg);
}

static struct slot *oldest(struct klog *k, bool killed_only)
{
	struct slot *found = NULL;

	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *s = &k->slot[i];

		if (s->open && (s->killed || !killed_only) && (!found || s->last_index < found->last_index))
			found = s;
	}
	return found;
}

static struct slot *take_slot(struct klog *k)
{
	struct slot *s;

	for (int i = 0; i < KLOG_OPEN_MAX; i++)
		if (!k->slot[i].open)
			return &k->slot[i];
	/* A kill that waits for its reaper is complete but for that. */
	s = oldest(k, true);
	if (!s)
		s = oldest(k, false);
	klog_slot_close(k, s);
	return s;
}

struct slot *klog_slot_open(struct klog *k, const struct klog_line *l, enum klog_kind kind)
{
	struct slot *s = take_slot(k);
	struct klog_event *ev = &s->ev;

	memset(s, 0, offsetof(struct slot, raw));
	s->open = true;
	s->header_pid = KLOG_NONE;
	s->summary_pid = KLOG_NONE;
	ev->kind = kind;
	ev->source = l->rec->source;
	ev->seq = l->rec->seq;
	ev->usec = l->rec->usec;
	ev->index = k->index;
	ev->caller = l->rec->caller;
	ev->pid = ev->cpu = ev->seconds = ev->order = ev->count = KLOG_NONE;
	ev->self = KLOG_NONE;
	if (kind == KLOG_OOM_INVOKED) {
		ev->oom = (struct klog_oom){
			.victim_pid = KLOG_NONE,
			.order = KLOG_NONE,
			.total_vm_kib = KLOG_NONE,
			.anon_rss_kib = KLOG_NONE,
			.file_rss_kib = KLOG_NONE,
			.shmem_rss_kib = KLOG_NONE,
			.pgtables_kib = KLOG_NONE,
			.uid = KLOG_NONE,
			.usage_kib = KLOG_NONE,
			.limit_kib = KLOG_NONE,
			/* -1 is a score like any other: see KLOG_NO_SCORE. */
			.oom_score_adj = KLOG_NO_SCORE,
			.trigger_score_adj = KLOG_NO_SCORE,
		};
	}
	klog_slot_add(k, s, l);
	return s;
}

/* Keep the line and note that the report lives. */
void klog_slot_add(struct klog *k, struct slot *s, const struct klog_line *l)
{
	size_t len = strlen(l->text);
	size_t room = KLOG_RAW_MAX - s->raw_len;

	s->last_index = k->index;
	if (l->rec->usec != KLOG_NONE)
		s->last_usec = l->rec->usec;
	else if (!s->ev.lines)
		s->last_usec = KLOG_NONE;
	k->last = s;
	s->ev.lines++;
	if (l->cut)
		s->ev.truncated = true;
	if (s->raw_len + 1 < KLOG_RAW_MAX && !(s->ev.truncated && room < len + 1)) {
		if (s->raw_len)
			s->raw[s->raw_len++] = '\n';
		room = KLOG_RAW_MAX - s->raw_len;
		if (len > room) {
			len = room;
			s->ev.truncated = true;
		}
		memcpy(s->raw + s->raw_len, l->text, len);
		s->raw_len += len;
	} else {
		s->ev.truncated = true;
	}
}

/* What a report takes in at this point. */
static unsigned accepts(const struct slot *s)
{
	const unsigned trace = s->phase == PHASE_HEAD	 ? L_CONTEXT | L_WORKER | L_TRACE
			       : s->phase == PHASE_TRACE ? L_TRACE | L_MARK | L_FRAME
							 : L_MARK;

	switch (s->ev.kind) {
	case KLOG_OOM_INVOKED:
		return trace | L_REGS | L_MEM | L_MEMCG | L_TABLE | L_OOM | L_WRAP |
		       (s->section == SECTION_MEMCG ? L_STAT : 0);
	case KLOG_OOM_KILL:
	case KLOG_MEMCG_OOM_KILL:
		return L_WRAP;
	case KLOG_ALLOC_FAILURE:
	case KLOG_ALLOC_STALL:
		return trace | L_REGS | L_MEM | L_MEMCG | L_SLUB | L_WRAP;
	case KLOG_HUNG_TASK:
		return (trace & ~L_CONTEXT) | L_HUNG | L_TASK | L_REGS | L_LOCKS;
	case KLOG_SOFT_LOCKUP:
	case KLOG_HARD_LOCKUP:
		return trace | L_REGS | L_MODULES;
	case KLOG_RCU_STALL:
		return trace | L_REGS | L_MODULES | L_RCU | L_TASK;
	case KLOG_WQ_LOCKUP:
		return L_WQ | (s->section == SECTION_WORKERS ? trace | L_TASK : 0);
	case KLOG_WARN:
		return trace | L_REGS | L_MODULES | L_END | L_LOCKS;
	case KLOG_BUG:
	case KLOG_OOPS:
		return trace | L_REGS | L_MODULES | L_END | L_OOPS | L_LOCKS;
	case KLOG_PANIC:
		return trace | L_REGS | L_PANIC;
	default:
		return 0;
	}
}

static bool stale(const struct slot *s, const struct klog_record *rec)
{
	return rec->usec != KLOG_NONE && s->last_usec != KLOG_NONE && rec->usec - s->last_usec > TRACE_GAP_US;
}

/* One listing follows the lockups of several pools: it belongs to each of them. */
static void offer_listing(struct klog *k, const struct klog_line *l, const struct klog_pattern *p, const char *hit)
{
	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *s = &k->slot[i];

		if (!s->open || s->ev.kind != KLOG_WQ_LOCKUP || l->rec->cont || !klog_same_caller(s, l->rec))
			continue;
		klog_slot_add(k, s, l);
		if (p->parse)
			p->parse(k, s, l, hit);
	}
}

/* Hand the line to the report that it belongs to, if there is one. */
static void offer(struct klog *k, struct klog_line *l, unsigned class, const struct klog_pattern *p, const char *hit)
{
	struct slot *best = NULL;
	unsigned others = 0;

	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *s = &k->slot[i];

		if (!s->open || !(accepts(s) & class) || !klog_same_caller(s, l->rec))
			continue;
		if (l->rec->cont ? s != k->last : class == L_WRAP && s != k->last)
			continue;
		if ((class & (L_CONTEXT | L_TASK)) && !klog_context_fits(s, l->body))
			continue;
		if (!p && !klog_unmarked_fits(s, l->body, class))
			continue;
		if (best && stale(best, l->rec) && !stale(s, l->rec)) {
			best = s;
		} else if (best && stale(s, l->rec) && !stale(best, l->rec)) {
			continue;
		} else if (!best) {
			best = s;
		} else {
			others++;
			if (s->last_index > best->last_index)
				best = s;
		}
	}
	if (!best)
		return;
	/* A caller id tells the two apart already. */
	l->ambiguous = others && !l->rec->caller;
	if (l->ambiguous && (class & (L_TRACE | L_FRAME))) {
		for (int i = 0; i < KLOG_OPEN_MAX; i++) {
			struct slot *s = &k->slot[i];

			if (s->open && (accepts(s) & class) && !stale(s, l->rec)) {
				s->ev.mixed = true;
				s->no_stack = true;
			}
		}
	}
	klog_slot_add(k, best, l);
	if (class & (L_MEM | L_MEMCG | L_TABLE))
		best->phase = PHASE_DONE;
	/* Another CPU's backtrace follows, or another worker's. */
	if ((class & (L_RCU | L_TASK)) && best->ev.kind != KLOG_HUNG_TASK)
		best->phase = PHASE_HEAD;
	if (p && p->parse)
		p->parse(k, best, l, hit);
	else if (!p)
		klog_parse_unmarked(k, best, l, class);
}

static void do_line(struct klog *k, struct klog_line *l)
{
	const struct klog_pattern *p;
	const char *hit = NULL;
	unsigned class;

	for (p = klog_patterns; p->text; p++) {
		if (p->anywhere)
			hit = strstr(l->body, p->text);
		else
			hit = strncmp(l->body, p->text, strlen(p->text)) == 0 ? l->body : NULL;
		if (!hit)
			continue;
		if (p->kind == KLOG_NONE)
			break;
		/* The console's own note of what it dropped stands before the stamp. */
		if ((l->may_open || (p->kind == KLOG_LOST && l->rec->cont)) && p->parse(k, NULL, l, hit))
			return;
		hit = NULL;
	}
	class = p->text ? p->classes : klog_line_class(l);
	if (class == L_WQ)
		offer_listing(k, l, p, hit);
	else if (class)
		offer(k, l, class, p->text ? p : NULL, hit);
}

/*
 * Copy a record's text without terminal controls. Tabs become blanks; newlines stay, they part the lines of a record.
 * Returns the length; *cut when it did not fit.
 */
static size_t clean(char *dst, size_t size, const char *src, size_t len, bool *cut)
{
	size_t n = 0, i = 0;

	while (i < len && n + 1 < size) {
		unsigned char c = (unsigned char)src[i++];

		if (c == 0x1b) {
			/* CSI: parameters, then one final byte. Other escapes are two bytes long. */
			if (i < len && src[i] == '[') {
				i++;
				while (i < len && (unsigned char)src[i] >= 0x20 && (unsigned char)src[i] < 0x40)
					i++;
			}
			if (i < len && (unsigned char)src[i] >= 0x40 && (unsigned char)src[i] < 0x7f)
				i++;
		} else if (c == '\t') {
			dst[n++] = ' ';
		} else if (c == '\n' || (c >= 0x20 && c != 0x7f)) {
			dst[n++] = (char)c;
		}
	}
	*cut = i < len;
	while (n && (dst[n - 1] == '\n' || dst[n - 1] == ' '))
		n--;
	dst[n] = '\0';
	return n;
}

static int64_t patience(const struct slot *s)
{
	if (s->killed)
		return KLOG_REAP_US;
	return s->nmi ? KLOG_NMI_US : KLOG_IDLE_US;
}

static void close_idle(struct klog *k, int64_t usec)
{
	for (;;) {
		struct slot *due = NULL;

		/* In the order in which they began, so that the caller sees a stable order. */
		for (int i = 0; i < KLOG_OPEN_MAX; i++) {
			struct slot *s = &k->slot[i];
			bool silent;

			if (!s->open)
				continue;
			if (usec != KLOG_NONE && s->last_usec != KLOG_NONE)
				silent = usec - s->last_usec > patience(s);
			else
				silent = k->index - s->last_index > IDLE_RECORDS;
			if (silent && (!due || s->ev.index < due->ev.index))
				due = s;
		}
		if (!due)
			return;
		klog_slot_close(k, due);
	}
}

void klog_left_out(struct klog *k, uint64_t count)
{
	if (k->seq != KLOG_NONE && count <= (uint64_t)(INT64_MAX - k->seq))
		k->seq += (int64_t)count;
}

void klog_tick(struct klog *k, int64_t now_usec)
{
	close_idle(k, now_usec);
}

void klog_flush(struct klog *k)
{
	for (;;) {
		struct slot *first = NULL;

		for (int i = 0; i < KLOG_OPEN_MAX; i++) {
			struct slot *s = &k->slot[i];

			if (s->open && (!first || s->ev.index < first->ev.index))
				first = s;
		}
		if (!first)
			break;
		klog_slot_close(k, first);
	}
	k->last = NULL;
	k->oom.known = false;
}

uint64_t klog_watermark(const struct klog *k)
{
	uint64_t lowest = k->index + 1;

	for (int i = 0; i < KLOG_OPEN_MAX; i++)
		if (k->slot[i].open && k->slot[i].ev.index < lowest)
			lowest = k->slot[i].ev.index;
	return lowest;
}

static void check_gap(struct klog *k, const struct klog_record *rec)
{
	struct klog_event lost = { .kind = KLOG_LOST, .raw = "" };

	if (rec->seq == KLOG_NONE)
		return;
	if (k->seq != KLOG_NONE && rec->seq > k->seq + 1) {
		/* What follows may be the end of another report than the one whose beginning was seen. */
		klog_flush(k);
		lost.source = rec->source;
		lost.seq = k->seq + 1;
		/* When it was over: the record behind the gap. Records of others than the kernel have stamps too. */
		lost.usec = rec->usec != KLOG_NONE ? rec->usec : k->usec;
		lost.self = KLOG_NONE;
		lost.index = k->index;
		lost.count = rec->seq - k->seq - 1;
		lost.pid = lost.cpu = lost.seconds = lost.order = KLOG_NONE;
		k->fn(&lost, k->arg);
	} else if (k->seq != KLOG_NONE && rec->seq < k->seq) {
		klog_flush(k);
	}
	k->seq = rec->seq;
}

void klog_feed(struct klog *k, const struct klog_record *rec)
{
	struct klog_line l = { .rec = rec };
	char *line = k->text;
	bool may_open = !rec->cont;

	k->index++;
	check_gap(k, rec);
	/* Anyone who may write to /dev/kmsg can put text there, but not as the kernel. */
	if (rec->prio != KLOG_NONE && rec->prio >> 3)
		return;
	if (rec->usec != KLOG_NONE) {
		if (k->usec != KLOG_NONE && rec->usec < k->usec - REBOOT_US)
			klog_flush(k);
		k->usec = rec->usec;
	}
	close_idle(k, rec->usec);
	if (!clean(k->text, sizeof(k->text), rec->text, rec->len, &l.cut))
		return;
	/* A task name may hold a newline; the kill line is one line all the same. */
	if (may_open && klog_is_kill_line(k->text)) {
		for (char *nl = strchr(k->text, '\n'); nl; nl = strchr(nl, '\n'))
			*nl = ' ';
	}
	while (line) {
		char *nl = strchr(line, '\n');

		if (nl)
			*nl = '\0';
		l.text = line;
		l.body = line + strspn(line, " ");
		l.may_open = may_open;
		l.ambiguous = false;
		if (*l.body)
			do_line(k, &l);
		may_open = false;
		line = nl ? nl + 1 : NULL;
	}
}
