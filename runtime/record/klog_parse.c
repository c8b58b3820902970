// SPDX-License-Identifier: MIT
/*
 * Kernel-log classifier: what lines look like, and the fields in them.
 *
 * One table, klog_patterns: a string, where it stands, the event it starts or the class of line it marks, and the
 * function that reads its fields. The first row that matches wins, so a row stands before the rows whose string is part
 * of its own. Text that a user can choose (a task's name, a cgroup's path) is always bounded from both sides by the
 * kernel's own words, searched from the right.
 */
#include "record/klog.h"
#include "record/klog_int.h"

#include <stdlib.h>
#include <string.h>

/* A kill of the same memory.oom.group follows within the time that printing a line takes. */
#define GROUP_GAP_US 250000

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_xdigit(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_ident(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '$';
}

static bool starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

static void copy(char *dst, size_t size, const char *src, size_t len)
{
	if (len >= size)
		len = size - 1;
	memcpy(dst, src, len);
	dst[len] = '\0';
}

/* Without the blanks at its end. */
static void copy_trim(char *dst, size_t size, const char *src, size_t len)
{
	while (len && src[len - 1] == ' ')
		len--;
	copy(dst, size, src, len);
}

/* A decimal number at s; the position behind it, or NULL. */
static const char *number(const char *s, int64_t *out)
{
	bool negative = *s == '-';
	int64_t v = 0;
	unsigned n = 0;

	s += negative;
	for (; n < 18 && is_digit(s[n]); n++)
		v = v * 10 + (s[n] - '0');
	if (!n || is_digit(s[n]))
		return NULL;
	*out = negative ? -v : v;
	return s + n;
}

static bool number_after(const char *s, const char *key, int64_t *out)
{
	s = strstr(s, key);
	return s && number(s + strlen(key), out);
}

static const char *find_last(const char *s, const char *needle)
{
	const char *found = NULL;

	for (s = strstr(s, needle); s; s = strstr(s + 1, needle))
		found = s;
	return found;
}

/* "comm:pid" up to end, parted at the last colon: names of kworkers have colons too. */
static void task_pid(struct klog_event *ev, const char *s, const char *end)
{
	const char *colon = end;

	while (colon > s && *colon != ':')
		colon--;
	if (colon > s && number(colon + 1, &ev->pid))
		copy(ev->task, sizeof(ev->task), s, (size_t)(colon - s));
	else
		copy(ev->task, sizeof(ev->task), s, (size_t)(end - s));
}

/* "0x4030" or "0x6040c0(GFP_KERNEL|__GFP_COMP)" */
static void gfp(char *dst, size_t size, const char *s)
{
	size_t n = strcspn(s, " ,(");

	if (s[n] == '(' && strchr(s + n, ')'))
		n = (size_t)(strchr(s + n, ')') + 1 - s);
	copy(dst, size, s, n);
}

/* --- taint, CPU line, frames ------------------------------------------------------------------------------------- */

/* "Not tainted 6.1.0 #1", "Tainted: G        W  O  6.1.0 #1" */
static void parse_taint(struct klog_event *ev, const char *body)
{
	const char *clean = find_last(body, "Not tainted ");
	const char *dirty = find_last(body, "Tainted: ");
	const char *s;
	size_t n = 0;

	if (clean && (!dirty || clean > dirty)) {
		s = clean + strlen("Not tainted ");
		ev->taint[0] = '\0';
	} else if (dirty && dirty[9] != '[') {
		s = dirty + strlen("Tainted: ");
		for (; *s; s++) {
			if (*s == ' ')
				continue;
			if (*s < 'A' || *s > 'Z' || (s[1] != ' ' && s[1] != '\0'))
				break;
			if (n + 1 < sizeof(ev->taint))
				ev->taint[n++] = *s;
		}
		ev->taint[n] = '\0';
	} else {
		return;
	}
	ev->taint_known = true;
	s += strspn(s, " ");
	copy(ev->kernel, sizeof(ev->kernel), s, strcspn(s, " "));
}

/* "CPU: 7 PID: 2 Comm: kthreadd Not tainted": comm ends where the taint begins. */
static bool context_comm(const char *body, char *comm, size_t size)
{
	static const char *const after[] = { " Not tainted ", " Tainted: ", " Kdump: " };
	const char *s = strstr(body, "Comm: "), *end = NULL;

	if (s) {
		s += strlen("Comm: ");
	} else {
		s = strstr(body, "comm: ");
		if (!s)
			return false;
		s += strlen("comm: ");
	}
	for (size_t i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
		const char *e = find_last(s, after[i]);

		if (e && (!end || (i == 2 && e < end)))
			end = e;
	}
	if (!end)
		return false;
	copy(comm, size, s, (size_t)(end - s));
	return true;
}

/*
 * Can this CPU line be part of that report? The task it names must be the one that the report's first line named. The
 * first 15 bytes decide: that is all a task's name has, though a kworker's line may show more.
 */
bool klog_context_fits(const struct slot *s, const char *body)
{
	const char *want = s->ev.kind == KLOG_OOM_INVOKED ? s->ev.oom.trigger : s->ev.task;
	char comm[KLOG_COMM_MAX];
	int64_t cpu;

	if (*want && context_comm(body, comm, sizeof(comm)) && strncmp(comm, want, 15) != 0)
		return false;
	/* "task:C state:D" is of 15 bytes, padded. */
	if (starts(body, "task:") && s->ev.kind == KLOG_HUNG_TASK)
		return strncmp(body + 5, want, strlen(want) < 15 ? strlen(want) : 15) == 0;
	if (s->ev.cpu != KLOG_NONE && starts(body, "CPU: ") && number(body + 5, &cpu) && cpu != s->ev.cpu)
		return false;
	return true;
}

static bool body_context(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	struct klog_event *ev = &s->ev;
	bool oom = ev->kind == KLOG_OOM_INVOKED;

	(void)k;
	(void)hit;
	if (l->ambiguous || s->elsewhere)
		return true;
	if (!ev->taint_known)
		parse_taint(ev, l->body);
	if (starts(l->body, "CPU: ")) {
		if (ev->cpu == KLOG_NONE)
			number(l->body + 5, &ev->cpu);
		if (ev->pid == KLOG_NONE && !oom)
			number_after(l->body, " PID: ", &ev->pid);
		if (!ev->task[0] && !oom)
			context_comm(l->body, ev->task, sizeof(ev->task));
	} else if (starts(l->body, "Pid: ") && !oom) {
		if (ev->pid == KLOG_NONE)
			number(l->body + 5, &ev->pid);
	}
	return true;
}

/* "Workqueue: kcopyd do_work [dm_mod]": what else tells one kworker from another? */
static bool body_worker(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	hit += strlen("Workqueue: ");
	if (!l->ambiguous && !s->ev.workqueue[0])
		copy(s->ev.workqueue, sizeof(s->ev.workqueue), hit, strlen(hit));
	return true;
}

static bool body_trace(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	(void)hit;
	s->phase = PHASE_TRACE;
	return true;
}

static bool body_mark(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)hit;
	s->marks = true;
	if (starts(l->body, "</TASK>"))
		s->phase = PHASE_DONE;
	return true;
}

static bool body_regs(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *func;

	(void)k;
	(void)hit;
	if (l->ambiguous || s->elsewhere || s->ev.where[0] || !starts(l->body, "RIP: ") || s->ev.kind == KLOG_HUNG_TASK)
		return true;
	/* "RIP: 0010:func+0x1/0x2"; 0033 is user code */
	func = strchr(l->body + 5, ':');
	if (func && starts(l->body, "RIP: 0010:") && strstr(func, "+0x"))
		copy(s->ev.where, sizeof(s->ev.where), func + 1, strcspn(func + 1, " "));
	return true;
}

static bool body_end_trace(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)l;
	(void)hit;
	s->phase = PHASE_DONE;
	/* An oops says the registers once more behind its end; a warning is over. */
	if (s->ev.kind == KLOG_WARN)
		klog_slot_close(k, s);
	return true;
}

/*
 * A stack frame: "func+0x1f/0x30 [mod]", with "? " or an address before it. Returns the name's length and position, or
 * 0.
 */
static size_t frame_name(const char *s, const char **name, bool *guess)
{
	size_t n = 0;
	const char *p;

	*guess = false;
	if (*s == '[') {
		/* "[<ffffffff81000000>] " or what an address filter left of it */
		p = s + 1;
		if (*p == '<')
			p++;
		while (is_xdigit(*p) || *p == 'x')
			p++;
		if (*p == '>')
			p++;
		if (*p != ']')
			return 0;
		s = p + 1 + strspn(p + 1, " ");
	}
	if (s[0] == '?' && s[1] == ' ') {
		*guess = true;
		s += 2 + strspn(s + 2, " ");
	}
	*name = s;
	while (is_ident(s[n]))
		n++;
	if (!n || is_digit(*s) || strncmp(s + n, "+0x", 3) != 0)
		return 0;
	p = s + n + 3;
	while (is_xdigit(*p))
		p++;
	if (p == s + n + 3 || p[0] != '/' || p[1] != '0' || p[2] != 'x')
		return 0;
	return n;
}

/* The functions at the bottom of every stack; older kernels have no mark for the end of a trace. */
static bool is_bottom(const char *name, size_t n)
{
	static const char *const bottoms[] = { "ret_from_fork",	   "kernel_thread_helper", "secondary_startup",
					       "entry_SYSCALL_64", "system_call_fastpath", "x86_64_start_kernel" };

	for (size_t i = 0; i < sizeof(bottoms) / sizeof(bottoms[0]); i++)
		if (n >= strlen(bottoms[i]) && starts(name, bottoms[i]))
			return true;
	return false;
}

static void add_frame(struct slot *s, const struct klog_line *l)
{
	struct klog_event *ev = &s->ev;
	const char *name;
	bool guess;
	size_t n = frame_name(l->body, &name, &guess);

	if (s->phase != PHASE_TRACE)
		return;
	/* Frames with a "?" are leftovers on the stack; they count only where the unwinder had nothing better. */
	if (!l->ambiguous && !s->elsewhere && !(guess && s->sure)) {
		if (!guess && !s->sure)
			ev->stack_n = 0;
		s->sure = !guess;
		if (ev->stack_n < KLOG_STACK_MAX)
			copy(ev->stack[ev->stack_n++], sizeof(ev->stack[0]), name, n);
	}
	/* 2.6 and hand-unwound traces consist of guesses alone, so a guessed bottom says nothing. */
	if (!guess && !s->marks && is_bottom(name, n))
		s->phase = PHASE_DONE;
}

/* --- OOM --------------------------------------------------------------------------------------------------------- */

static struct slot *oom_report(struct klog *k, const struct klog_record *rec)
{
	struct slot *found = NULL;

	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *s = &k->slot[i];

		if (s->open && s->ev.kind == KLOG_OOM_INVOKED && klog_same_caller(s, rec) &&
		    (!found || s->last_index > found->last_index))
			found = s;
	}
	return found;
}

/* Fields that a mailer may have wrapped to the next line. */
static void oom_invoked_fields(struct klog_oom *o, const char *s)
{
	const char *mask = strstr(s, "gfp_mask=");

	if (mask && !o->gfp[0])
		gfp(o->gfp, sizeof(o->gfp), mask + strlen("gfp_mask="));
	if (o->order == KLOG_NONE)
		number_after(s, "order=", &o->order);
	if (o->trigger_score_adj == KLOG_NO_SCORE)
		number_after(s, "oom_score_adj=", &o->trigger_score_adj);
}

static bool open_oom(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	if (hit == l->body)
		return false;
	/* The kernel prints one report at a time (oom_lock): the one before lacks its end. */
	s = oom_report(k, l->rec);
	if (s)
		klog_slot_close(k, s);
	k->oom.known = false;
	s = klog_slot_open(k, l, KLOG_OOM_INVOKED);
	copy(s->ev.oom.trigger, sizeof(s->ev.oom.trigger), l->body, (size_t)(hit - l->body));
	oom_invoked_fields(&s->ev.oom, hit);
	return true;
}

static void oom_kill_fields(struct klog_oom *o, const char *s)
{
	if (o->total_vm_kib == KLOG_NONE)
		number_after(s, "total-vm:", &o->total_vm_kib);
	if (o->anon_rss_kib == KLOG_NONE)
		number_after(s, "anon-rss:", &o->anon_rss_kib);
	if (o->file_rss_kib == KLOG_NONE)
		number_after(s, "file-rss:", &o->file_rss_kib);
	if (o->shmem_rss_kib == KLOG_NONE)
		number_after(s, "shmem-rss:", &o->shmem_rss_kib);
	if (o->pgtables_kib == KLOG_NONE)
		number_after(s, "pgtables:", &o->pgtables_kib);
	if (o->uid == KLOG_NONE && !number_after(s, "UID:", &o->uid))
		number_after(s, ", UID ", &o->uid);
	if (o->oom_score_adj == KLOG_NO_SCORE)
		number_after(s, "oom_score_adj:", &o->oom_score_adj);
}

static void constraint_name(char *dst, size_t size, const char *s)
{
	size_t i = 0;

	for (; i + 1 < size && ((*s >= 'A' && *s <= 'Z') || *s == '_'); i++, s++)
		dst[i] = *s == '_' ? '-' : (char)(*s - 'A' + 'a');
	dst[i] = '\0';
}

/* From 5.0 on: "oom-kill:constraint=CONSTRAINT_NONE,nodemask=...,task_memcg=/B,task=C,pid=P,uid=U". */
static bool open_oom_summary(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *memcg = strstr(hit, ",oom_memcg="), *task_memcg = find_last(hit, ",task_memcg=");
	const char *task = find_last(hit, ",task="), *pid = find_last(hit, ",pid=");
	struct klog_oom *o;

	s = oom_report(k, l->rec);
	if (s)
		klog_slot_add(k, s, l);
	else
		s = klog_slot_open(k, l, KLOG_OOM_INVOKED);
	o = &s->ev.oom;
	constraint_name(o->constraint, sizeof(o->constraint), hit + strlen("oom-kill:constraint=CONSTRAINT_"));
	if (memcg && task_memcg && memcg < task_memcg) {
		memcg += strlen(",oom_memcg=");
		copy(o->oom_memcg, sizeof(o->oom_memcg), memcg, (size_t)(task_memcg - memcg));
		o->memcg = true;
	}
	if (task_memcg && task && task_memcg < task) {
		task_memcg += strlen(",task_memcg=");
		copy(o->victim_cgroup, sizeof(o->victim_cgroup), task_memcg, (size_t)(task - task_memcg));
	}
	if (pid)
		number(pid + strlen(",pid="), &s->summary_pid);
	return true;
}

/* Before 5.0: "Task in /B killed as a result of limit of /A". */
static bool open_oom_task_in(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	static const char middle[] = " killed as a result of limit of ";
	const char *m = find_last(hit, middle), *path = hit + strlen("Task in ");

	if (!m || m < path)
		return false;
	s = oom_report(k, l->rec);
	if (s)
		klog_slot_add(k, s, l);
	else
		s = klog_slot_open(k, l, KLOG_OOM_INVOKED);
	copy(s->ev.oom.victim_cgroup, sizeof(s->ev.oom.victim_cgroup), path, (size_t)(m - path));
	copy_trim(s->ev.oom.oom_memcg, sizeof(s->ev.oom.oom_memcg), m + strlen(middle), strlen(m + strlen(middle)));
	s->ev.oom.memcg = true;
	return true;
}

enum oom_prefix { PREFIX_NONE, PREFIX_GLOBAL, PREFIX_MEMCG, PREFIX_OTHER };

/* What stands before "Killed process": nothing (4.19), or the reason. */
static enum oom_prefix oom_prefix(const char *start, const char *hit)
{
	if (hit == start)
		return PREFIX_NONE;
	if (hit - start < 2 || hit[-1] != ' ' || hit[-2] != ':')
		return PREFIX_OTHER;
	if (starts(start, "Memory cgroup out of memory"))
		return PREFIX_MEMCG;
	if (starts(start, "Out of memory"))
		return PREFIX_GLOBAL;
	return PREFIX_OTHER;
}

/* Before 5.1 a line of its own names the process that was chosen; a child of it may be killed instead. */
static bool open_oom_header(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	enum oom_prefix prefix = oom_prefix(l->body, hit);
	int64_t pid;

	if ((prefix != PREFIX_GLOBAL && prefix != PREFIX_MEMCG) || !number(hit + strlen("Kill process "), &pid))
		return false;
	s = oom_report(k, l->rec);
	if (s && !s->header) {
		klog_slot_add(k, s, l);
	} else {
		if (s)
			klog_slot_close(k, s);
		s = klog_slot_open(k, l, KLOG_OOM_INVOKED);
	}
	s->header = true;
	s->header_pid = pid;
	s->ev.oom.memcg = prefix == PREFIX_MEMCG;
	return true;
}

bool klog_is_kill_line(const char *text)
{
	const char *hit = strstr(text, "Killed process ");
	enum oom_prefix prefix;

	if (!hit)
		return false;
	prefix = oom_prefix(text + strspn(text, " "), hit);
	return prefix != PREFIX_OTHER && is_digit(hit[strlen("Killed process ")]);
}

/* Is this kill the end of that report? */
static bool kill_fits(const struct slot *s, enum oom_prefix prefix, int64_t pid)
{
	if (prefix == PREFIX_NONE)
		return true;
	/* From 5.1 on the reason stands in the same line, and summary and victim are one task. */
	if (s->header)
		return s->header_pid == pid;
	if (s->summary_pid != KLOG_NONE && s->summary_pid != pid)
		return false;
	if (s->ev.oom.constraint[0] || s->ev.oom.limit_kib != KLOG_NONE)
		return s->ev.oom.memcg == (prefix == PREFIX_MEMCG);
	return true;
}

static bool in_group(const struct klog *k, const struct klog_record *rec)
{
	const struct oom_context *c = &k->oom;

	if (!c->known || !c->group || (c->caller && rec->caller && c->caller != rec->caller))
		return false;
	if (rec->usec != KLOG_NONE && c->usec != KLOG_NONE)
		return rec->usec - c->usec <= GROUP_GAP_US;
	return k->index - c->index <= 2;
}

static void remember_oom(struct klog *k, const struct klog_line *l, const struct klog_oom *o, bool group)
{
	k->oom.known = true;
	k->oom.group = group;
	k->oom.usec = l->rec->usec;
	k->oom.index = k->index;
	k->oom.caller = l->rec->caller;
	if (!group)
		k->oom.first_pid = o->victim_pid;
	k->oom.oom = *o;
	k->oom.oom.tasks = 0;
	k->oom.oom.task_n = 0;
	k->oom.oom.slab_n = 0;
}

/* The kernel names, and counts, the first victim of a memory.oom.group twice; a task dies once. */
static bool killed_already(struct klog *k, const struct klog_line *l, int64_t pid, const char *comm, size_t comm_len)
{
	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *s = &k->slot[i];

		if (s->open && s->killed && s->ev.oom.victim_pid == pid && strlen(s->ev.oom.victim_comm) == comm_len &&
		    memcmp(s->ev.oom.victim_comm, comm, comm_len) == 0) {
			klog_slot_add(k, s, l);
			s->ev.count = s->ev.count < 2 ? 2 : s->ev.count + 1;
			return true;
		}
	}
	return in_group(k, l->rec) && k->oom.first_pid == pid;
}

static bool open_oom_killed(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	enum oom_prefix prefix = oom_prefix(l->body, hit);
	const char *comm, *end;
	struct klog_oom *o;
	bool group = false;
	int64_t pid;

	comm = number(hit + strlen("Killed process "), &pid);
	if (prefix == PREFIX_OTHER || !comm)
		return false;
	if (starts(comm, " ("))
		comm += 2;
	else if (starts(comm, ", UID "))
		comm = strchr(comm, '(') ? strchr(comm, '(') + 1 : comm + strlen(comm);
	else
		return false;
	end = find_last(comm, ") total-vm:");
	if (!end)
		end = find_last(comm, "), UID ");
	if (!end)
		end = find_last(comm, ") ");
	if (!end)
		end = find_last(comm, ")");
	if (!end)
		end = comm + strlen(comm);
	if (killed_already(k, l, pid, comm, (size_t)(end - comm))) {
		k->oom.usec = l->rec->usec;
		k->oom.index = k->index;
		return true;
	}

	s = oom_report(k, l->rec);
	if (s && kill_fits(s, prefix, pid)) {
		klog_slot_add(k, s, l);
		o = &s->ev.oom;
		if (s->header && s->header_pid != pid && s->summary_pid != pid) {
			/* A child in place of the chosen one, perhaps in another group. */
			o->victim_cgroup[0] = '\0';
		}
	} else {
		bool same = prefix == PREFIX_NONE || (prefix == PREFIX_MEMCG) == k->oom.oom.memcg;

		s = klog_slot_open(k, l, KLOG_OOM_INVOKED);
		o = &s->ev.oom;
		if (same && in_group(k, l->rec)) {
			const struct klog_oom *from = &k->oom.oom;

			copy(o->trigger, sizeof(o->trigger), from->trigger, strlen(from->trigger));
			copy(o->gfp, sizeof(o->gfp), from->gfp, strlen(from->gfp));
			copy(o->constraint, sizeof(o->constraint), from->constraint, strlen(from->constraint));
			copy(o->oom_memcg, sizeof(o->oom_memcg), from->oom_memcg, strlen(from->oom_memcg));
			o->order = from->order;
			o->trigger_score_adj = from->trigger_score_adj;
			o->memcg = from->memcg;
			o->group = group = true;
		}
	}
	if (prefix != PREFIX_NONE)
		o->memcg = prefix == PREFIX_MEMCG;
	if (o->memcg && !o->constraint[0])
		copy(o->constraint, sizeof(o->constraint), "memcg", 5);
	s->ev.kind = o->memcg ? KLOG_MEMCG_OOM_KILL : KLOG_OOM_KILL;
	s->ev.seq = l->rec->seq;
	s->ev.usec = l->rec->usec;
	s->ev.index = k->index;
	s->ev.pid = pid;
	s->killed = true;
	o->victim_pid = pid;
	copy(o->victim_comm, sizeof(o->victim_comm), comm, (size_t)(end - comm));
	oom_kill_fields(o, *end ? end : comm);
	for (unsigned i = 0; i < o->task_n && o->oom_score_adj == KLOG_NO_SCORE; i++)
		if (o->task[i].pid == pid)
			o->oom_score_adj = o->task[i].oom_score_adj;
	remember_oom(k, l, o, group);
	return true;
}

static bool open_oom_group(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *end = strstr(hit, " are going to be killed due to memory.oom.group set");
	const struct oom_context *c = &k->oom;
	struct klog_oom o;

	if (!end)
		return false;
	/* The first of the group was killed in the line before this one; without it nothing is known of the others. */
	if (!c->known || (c->caller && l->rec->caller && c->caller != l->rec->caller) ||
	    (l->rec->usec != KLOG_NONE && c->usec != KLOG_NONE && l->rec->usec - c->usec > GROUP_GAP_US))
		return true;
	o = c->oom;
	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		s = &k->slot[i];
		if (s->open && s->killed && s->ev.index == c->index) {
			s->ev.oom.group = true;
			klog_slot_add(k, s, l);
		}
	}
	remember_oom(k, l, &o, true);
	return true;
}

/* "oom_reaper: reaped process P (C), now anon-rss:..." and "oom_reaper: unable to reap pid:P (C)" */
static bool open_oom_reaper(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	bool reaped = starts(hit, "oom_reaper: reaped process ");
	struct slot *found = NULL;
	int64_t pid;

	if (!reaped && !starts(hit, "oom_reaper: unable to reap pid:"))
		return true;
	if (!number(hit + strlen(reaped ? "oom_reaper: reaped process " : "oom_reaper: unable to reap pid:"), &pid))
		return true;
	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		s = &k->slot[i];
		if (s->open && s->killed && s->ev.oom.victim_pid == pid && (!found || s->ev.index > found->ev.index))
			found = s;
	}
	if (!found)
		return true;
	found->ev.oom.reaped = reaped;
	klog_slot_add(k, found, l);
	klog_slot_close(k, found);
	return true;
}

static bool end_oom(struct klog *k, const struct klog_line *l, const char *outcome)
{
	struct slot *s = oom_report(k, l->rec);

	if (s)
		klog_slot_add(k, s, l);
	else
		s = klog_slot_open(k, l, KLOG_OOM_INVOKED);
	copy(s->ev.oom.outcome, sizeof(s->ev.oom.outcome), outcome, strlen(outcome));
	klog_slot_close(k, s);
	return true;
}

static bool open_oom_nobody(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)s;
	(void)hit;
	return end_oom(k, l, "no killable process");
}

static bool open_oom_exiting(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)s;
	(void)hit;
	if (!starts(l->body, "Out of memory: ") && !starts(l->body, "Memory cgroup out of memory: ") &&
	    !starts(l->body, "Out of memory (oom_kill_allocating_task): "))
		return false;
	return end_oom(k, l, "victim already exiting");
}

/* "memory: usage 51200kB, limit 51200kB, failcnt 123" */
static bool body_memcg_usage(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	if (s->ev.kind != KLOG_OOM_INVOKED)
		return true;
	s->ev.oom.memcg = true;
	number_after(hit, "usage ", &s->ev.oom.usage_kib);
	number_after(hit, "limit ", &s->ev.oom.limit_kib);
	return true;
}

static bool body_memcg_stats(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	(void)hit;
	s->section = SECTION_MEMCG;
	return true;
}

static bool is_task_header(const char *body)
{
	const char *p = body + 1;

	if (*body != '[')
		return false;
	p += strspn(p, " ");
	if (!starts(p, "pid"))
		return false;
	p += 3 + strspn(p + 3, " ");
	return *p == ']' && strstr(p, " tgid ") && strstr(p, " name");
}

static void task_header(struct slot *s, const char *body)
{
	const char *p = strchr(body, ']') + 1;

	s->section = SECTION_TASKS;
	s->column_n = 0;
	s->column[s->column_n++] = COLUMN_PID;
	for (;;) {
		size_t n;
		enum column c = COLUMN_OTHER;

		p += strspn(p, " ");
		n = strcspn(p, " ");
		if (!n || s->column_n == COLUMNS_MAX)
			break;
		if (n == 3 && starts(p, "rss"))
			c = COLUMN_RSS;
		else if (n == 13 && starts(p, "oom_score_adj"))
			c = COLUMN_SCORE_ADJ;
		else if (n == 4 && starts(p, "name"))
			c = COLUMN_NAME;
		s->column[s->column_n++] = c;
		p += n;
	}
}

/* "[  213]     0   213   123456 ..." */
static bool is_task_row(const char *body)
{
	const char *p = body + 1;
	int64_t v;

	if (*body != '[')
		return false;
	p += strspn(p, " ");
	p = number(p, &v);
	if (!p || *p != ']')
		return false;
	p++;
	p += strspn(p, " ");
	p = number(p, &v);
	return p && *p == ' ';
}

static void task_row(struct slot *s, const char *body)
{
	struct klog_task t = { .pid = KLOG_NONE, .rss_pages = KLOG_NONE, .oom_score_adj = KLOG_NO_SCORE };
	struct klog_oom *o = &s->ev.oom;
	const char *p = body + 1;

	for (unsigned i = 0; i < s->column_n; i++) {
		int64_t v;

		if (s->column[i] == COLUMN_NAME) {
			/* One blank parts the columns; others are the name's own. */
			if (*p == ' ')
				p++;
			copy(t.comm, sizeof(t.comm), p, strlen(p));
			break;
		}
		p += strspn(p, " ");
		p = number(p, &v);
		if (!p)
			return;
		if (i == 0 && *p == ']')
			p++;
		if (s->column[i] == COLUMN_PID)
			t.pid = v;
		else if (s->column[i] == COLUMN_RSS)
			t.rss_pages = v;
		else if (s->column[i] == COLUMN_SCORE_ADJ)
			t.oom_score_adj = v;
	}
	o->tasks++;
	if (o->task_n < KLOG_TASK_MAX)
		o->task[o->task_n++] = t;
}

static bool body_slab_header(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	(void)hit;
	s->section = SECTION_SLAB;
	return true;
}

/* "kcopyd_job   6973427KB   6973427KB", read from the right: a cache may have any name. */
static bool slab_row(const char *body, struct klog_slab *row)
{
	const char *end = body + strlen(body);
	int64_t *value[] = { &row->total_kib, &row->used_kib };

	for (int i = 0; i < 2; i++) {
		const char *p;

		while (end > body && end[-1] == ' ')
			end--;
		if (end < body + 4 || end[-1] != 'B' || end[-2] != 'K')
			return false;
		end -= 2;
		p = end;
		while (p > body && is_digit(p[-1]))
			p--;
		if (p == end || p == body || p[-1] != ' ' || number(p, value[i]) != end)
			return false;
		end = p;
	}
	while (end > body && end[-1] == ' ')
		end--;
	copy(row->name, sizeof(row->name), body, (size_t)(end - body));
	return end > body;
}

static void add_slab(struct klog_oom *o, const struct klog_slab *row)
{
	unsigned at = o->slab_n;

	while (at && o->slab[at - 1].total_kib < row->total_kib)
		at--;
	if (at == KLOG_SLAB_MAX)
		return;
	if (o->slab_n < KLOG_SLAB_MAX)
		o->slab_n++;
	memmove(&o->slab[at + 1], &o->slab[at], (o->slab_n - 1 - at) * sizeof(o->slab[0]));
	o->slab[at] = *row;
}

/* The rest of a wrapped line. */
static bool body_wrap(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *mode = strstr(l->body, "mode:");

	(void)k;
	(void)hit;
	if (s->killed) {
		oom_kill_fields(&s->ev.oom, l->body);
	} else if (s->ev.kind == KLOG_OOM_INVOKED) {
		oom_invoked_fields(&s->ev.oom, l->body);
	} else if (s->ev.kind == KLOG_ALLOC_FAILURE || s->ev.kind == KLOG_ALLOC_STALL) {
		if (s->ev.order == KLOG_NONE)
			number_after(l->body, "order:", &s->ev.order);
		if (mode && !s->ev.mode[0])
			gfp(s->ev.mode, sizeof(s->ev.mode), mode + strlen("mode:"));
	}
	return true;
}

/* --- workqueues -------------------------------------------------------------------------------------------------- */

static bool open_wq(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *pool = strstr(hit, "pool "), *end = strstr(hit, " stuck for ");
	const char *cpus;
	struct klog_wq *w;

	/* Pools that lock up together are reported line by line, then listed once. */
	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *old = &k->slot[i];

		if (old->open && old->ev.kind == KLOG_WQ_LOCKUP && old->listing && klog_same_caller(old, l->rec))
			klog_slot_close(k, old);
	}
	s = klog_slot_open(k, l, KLOG_WQ_LOCKUP);
	w = &s->ev.wq;
	w->seconds = KLOG_NONE;
	if (end)
		number(end + strlen(" stuck for "), &w->seconds);
	if (!pool)
		return true;
	pool += strlen("pool ");
	copy(w->pool, sizeof(w->pool), pool, end && end > pool ? (size_t)(end - pool) : strlen(pool));
	cpus = strstr(w->pool, "cpus=");
	if (cpus)
		copy(w->cpus, sizeof(w->cpus), cpus + 5, strcspn(cpus + 5, " "));
	return true;
}

static bool body_wq_busy(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	(void)hit;
	s->listing = true;
	s->section = SECTION_NONE;
	return true;
}

/* "workqueue kcopyd: flags=0x8" */
static bool body_wq_name(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	struct klog_wq *w = &s->ev.wq;
	const char *name = hit + strlen("workqueue "), *end = find_last(name, ": flags=");
	unsigned i;

	(void)k;
	(void)l;
	if (!end)
		return true;
	s->listing = true;
	s->section = SECTION_NONE;
	copy(s->wq, sizeof(s->wq), name, (size_t)(end - name));
	for (i = 0; i < w->busy_n; i++)
		if (strcmp(w->busy[i], s->wq) == 0)
			return true;
	if (i < KLOG_WORK_MAX)
		memcpy(w->busy[w->busy_n++], s->wq, sizeof(s->wq));
	return true;
}

/* "pwq 8: cpus=4 node=0 flags=0x0 nice=0 active=1/256" */
static bool body_wq_pwq(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *pool = strstr(hit, ": "), *end = strstr(hit, " active=");

	(void)k;
	(void)l;
	s->same_pool = pool && end && (size_t)(end - pool - 2) == strlen(s->ev.wq.pool) &&
		       memcmp(pool + 2, s->ev.wq.pool, strlen(s->ev.wq.pool)) == 0;
	s->section = SECTION_NONE;
	return true;
}

/*
 * "67:do_work [dm_mod] for 31s f BAR(12), 13(RESCUER):g" or "cache_reap BAR(12), 3*do_work [dm_mod]": a comma parts
 * workers, and works that are not linked; what a worker has to do next, and the barrier that flush_work() links to a
 * work, follow without one.
 */
static void work_list(struct slot *s, const char *p, bool flight)
{
	const struct klog_work none = {
		.pid = KLOG_NONE, .count = 1, .seconds = KLOG_NONE, .barrier = KLOG_NONE, .same_pool = s->same_pool
	};
	struct klog_work *list = flight ? s->ev.wq.flight : s->ev.wq.pending;
	unsigned *n = flight ? &s->ev.wq.flight_n : &s->ev.wq.pending_n;
	struct klog_work item = none, past_end;
	struct klog_work *last = NULL;

	for (;;) {
		size_t blanks = strspn(p, " ,"), len;
		bool parted = !last || memchr(p, ',', blanks);
		const char *next;
		int64_t v;

		p += blanks;
		len = strcspn(p, " ,");
		if (!len)
			break;
		if (last && *p == '[') {
			size_t have = strlen(last->func);

			/* With the blank before it. */
			copy(last->func + have, sizeof(last->func) - have, p - 1, len + 1);
			p += len;
			continue;
		}
		if (last && starts(p, "for ") && (next = number(p + 4, &v)) && *next == 's') {
			last->seconds = v;
			p = next + 1;
			continue;
		}
		if (parted && flight) {
			const char *colon = memchr(p, ':', len);

			item = none;
			/* Or "bh:", which is no task. */
			next = number(p, &v);
			if (next)
				item.pid = v;
			if (colon) {
				item.rescuer = strncmp(next ? next : p, "(RESCUER):", strlen("(RESCUER):")) == 0;
				len -= (size_t)(colon + 1 - p);
				p = colon + 1;
			}
		}
		last = *n < KLOG_WORK_MAX ? &list[(*n)++] : &past_end;
		*last = item;
		last->scheduled = flight && !parted;
		copy(last->wq, sizeof(last->wq), s->wq, strlen(s->wq));
		next = number(p, &v);
		if (starts(p, "BAR(")) {
			number(p + 4, &last->barrier);
		} else if (next && *next == '*' && next < p + len) {
			last->count = v;
			copy(last->func, sizeof(last->func), next + 1, (size_t)(p + len - next - 1));
		} else {
			copy(last->func, sizeof(last->func), p, len);
		}
		p += len;
	}
}

static bool body_wq_flight(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	s->section = SECTION_FLIGHT;
	work_list(s, hit + strlen("in-flight:"), true);
	return true;
}

static bool body_wq_pending(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	s->section = SECTION_PENDING;
	work_list(s, strchr(hit, ':') + 1, false);
	return true;
}

static bool body_wq_pool(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	(void)hit;
	/* Among the backtraces "pool 2:" is the heading of a pool's workers. */
	if (s->section != SECTION_WORKERS)
		s->section = SECTION_NONE;
	return true;
}

static bool body_wq_workers(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	(void)hit;
	s->section = SECTION_WORKERS;
	return true;
}

/* --- stalls ------------------------------------------------------------------------------------------------------ */

static void close_same(struct klog *k, const struct klog_line *l, enum klog_kind kind, bool even_unfinished)
{
	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *s = &k->slot[i];
		bool known = s->ev.caller && l->rec->caller;

		if (!s->open || s->ev.kind != kind || !klog_same_caller(s, l->rec))
			continue;
		if (known || even_unfinished || s->phase == PHASE_DONE)
			klog_slot_close(k, s);
	}
}

/* "INFO: task C:P blocked for more than N seconds." */
static bool open_hung(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *end = find_last(hit, " blocked ");
	int64_t seconds;

	if (!end || !number_after(end, "for more than ", &seconds))
		return false;
	/* One thread prints them all. */
	close_same(k, l, KLOG_HUNG_TASK, true);
	s = klog_slot_open(k, l, KLOG_HUNG_TASK);
	s->ev.seconds = seconds;
	task_pid(&s->ev, hit + strlen("INFO: task "), end);
	return true;
}

static bool body_hung(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)hit;
	if (!s->ev.taint_known && s->ev.kind == KLOG_HUNG_TASK)
		parse_taint(&s->ev, l->body);
	return true;
}

/* "task:C state:D stack:0 pid:213 ..." */
static bool body_task(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *state = find_last(hit, "state:");

	(void)k;
	(void)l;
	if (s->ev.kind == KLOG_HUNG_TASK && state && !s->ev.state)
		s->ev.state = state[6];
	return true;
}

static bool open_soft(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *task = strstr(hit, " [");

	if (!starts(l->body, "watchdog: ") && !starts(l->body, "NMI watchdog: ") && hit != l->body)
		return false;
	close_same(k, l, KLOG_SOFT_LOCKUP, false);
	s = klog_slot_open(k, l, KLOG_SOFT_LOCKUP);
	number_after(hit, "CPU#", &s->ev.cpu);
	number_after(hit, "stuck for ", &s->ev.seconds);
	if (task) {
		const char *end = find_last(task, "]");

		task_pid(&s->ev, task + 2, end ? end : task + strlen(task));
	}
	return true;
}

static bool open_hard(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	if (!starts(l->body, "watchdog: ") && !starts(l->body, "NMI watchdog: ") && hit != l->body)
		return false;
	close_same(k, l, KLOG_HARD_LOCKUP, false);
	s = klog_slot_open(k, l, KLOG_HARD_LOCKUP);
	number_after(hit, "on cpu ", &s->ev.cpu);
	return true;
}

static bool open_rcu(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *flavour = l->body;
	bool self = starts(hit, " self-");

	if (starts(flavour, "rcu: "))
		flavour += strlen("rcu: ");
	if (!starts(flavour, "INFO: rcu"))
		return false;
	flavour += strlen("INFO: ");
	if (flavour > hit)
		return false;
	close_same(k, l, KLOG_RCU_STALL, true);
	s = klog_slot_open(k, l, KLOG_RCU_STALL);
	copy(s->ev.flavour, sizeof(s->ev.flavour), flavour, (size_t)(hit - flavour));
	s->ev.self = self;
	/* Older kernels name the CPU in the same line: "on CPU { 0}", "CPUs/tasks: { 1}". */
	if (strchr(hit, '{'))
		number(strchr(hit, '{') + 1 + strspn(strchr(hit, '{') + 1, " "), &s->ev.cpu);
	return true;
}

/* "rcu:     0-....: (5249 ticks this GP) idle=..." */
static bool body_rcu(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *p = l->body, *end;
	int64_t cpu;

	(void)k;
	(void)hit;
	if (starts(p, "rcu:"))
		p += 4;
	p += strspn(p, " ");
	end = number(p, &cpu);
	if (end && *end == '-' && strstr(end, ": (") && s->ev.cpu == KLOG_NONE)
		s->ev.cpu = cpu;
	/* "RCU grace-period kthread stack dump:", "Stack dump where RCU GP kthread last ran:" */
	if (strstr(p, " kthread stack dump") || starts(p, "Stack dump where "))
		s->elsewhere = true;
	return true;
}

/* "Sending NMI from CPU 0 to CPUs 1:" */
static bool body_nmi(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	(void)hit;
	s->nmi = true;
	return true;
}

/* "NMI backtrace for cpu 1", "Task dump for CPU 1:": the stack of the stalled CPU is the report's, and of it the first
 */
static bool body_cpu_stack(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	int64_t cpu = KLOG_NONE;

	(void)k;
	(void)l;
	s->nmi = false;
	number(strstr(hit, " for ") + strlen(" for cpu "), &cpu);
	s->elsewhere = s->ev.stack_n || (s->ev.cpu != KLOG_NONE && s->ev.cpu != cpu);
	return true;
}

/* --- allocation, hot-remove, device mapper ----------------------------------------------------------------------- */

static struct slot *alloc_report(struct klog *k, const struct klog_line *l, const char *hit, enum klog_kind kind)
{
	const char *mode = strstr(hit, "mode:");
	struct slot *s;

	close_same(k, l, kind, false);
	s = klog_slot_open(k, l, kind);
	copy(s->ev.task, sizeof(s->ev.task), l->body, (size_t)(hit - l->body));
	number_after(hit, "order:", &s->ev.order);
	if (mode)
		gfp(s->ev.mode, sizeof(s->ev.mode), mode + strlen("mode:"));
	return s;
}

static bool open_alloc(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)s;
	if (hit == l->body)
		return false;
	alloc_report(k, l, hit, KLOG_ALLOC_FAILURE);
	return true;
}

/* "sh: page allocation stall for 10 secs: order:0, ...", in 4.x "sh: page allocation stalls for 10012ms, order:0, ..."
 */
static bool open_alloc_stall(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *end;
	int64_t n;

	end = strstr(hit, " for ");
	end = number(end + strlen(" for "), &n);
	if (hit == l->body || !end)
		return false;
	s = alloc_report(k, l, hit, KLOG_ALLOC_STALL);
	s->ev.seconds = starts(end, "ms") ? n / 1000 : n;
	return true;
}

/*
 * "fx: vmalloc error: size 4096, exceeds total pages, mode:0x..", in 5.10
 * "fx: vmalloc: allocation failure: 4096 bytes, mode:0x.."
 */
static bool open_vmalloc(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *end = strstr(hit, ", mode:");

	if (hit == l->body)
		return false;
	s = alloc_report(k, l, hit, KLOG_ALLOC_FAILURE);
	copy(s->ev.what, sizeof(s->ev.what), hit + 2, end ? (size_t)(end - hit - 2) : strlen(hit + 2));
	return true;
}

/* "SLUB: Unable to allocate memory on node -1, gfp=0x..(..)" */
static bool open_slub(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *flags = strstr(hit, "gfp=");

	close_same(k, l, KLOG_ALLOC_FAILURE, false);
	s = klog_slot_open(k, l, KLOG_ALLOC_FAILURE);
	copy(s->ev.what, sizeof(s->ev.what), "SLUB", 4);
	if (flags)
		gfp(s->ev.mode, sizeof(s->ev.mode), flags + 4);
	return true;
}

/* "  cache: kmalloc-64, object size: 64, buffer size: 64, default order: 0, min order: 0" */
static bool body_slub(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)k;
	(void)l;
	if (starts(hit, "cache: ") && !s->ev.where[0])
		copy(s->ev.where, sizeof(s->ev.where), hit + 7, strcspn(hit + 7, ","));
	return true;
}

/* "memory offlining [mem 0x..-0x..] failed due to REASON"; 4.19 gives no reason */
static bool open_offline(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *range = strstr(hit, "[mem "), *end = range ? strchr(range, ']') : NULL;
	const char *reason;

	if (!end || !starts(end, "] failed"))
		return false;
	s = klog_slot_open(k, l, KLOG_OFFLINE_FAILURE);
	copy(s->ev.where, sizeof(s->ev.where), range + 5, (size_t)(end - range - 5));
	reason = strstr(end, "due to ");
	if (reason)
		copy_trim(s->ev.what, sizeof(s->ev.what), reason + 7, strlen(reason + 7));
	klog_slot_close(k, s);
	return true;
}

/* "removing memory fails, because memory [0x..-0x..] is onlined" */
static bool open_remove(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *range = strchr(hit, '['), *end = range ? strchr(range, ']') : NULL;

	if (!starts(l->body, "removing memory fails") && !strstr(l->body, ": removing memory fails"))
		return false;
	s = klog_slot_open(k, l, KLOG_OFFLINE_FAILURE);
	if (end) {
		const char *from = starts(range, "[mem ") ? range + 5 : range + 1;

		copy(s->ev.where, sizeof(s->ev.where), from, (size_t)(end - from));
		copy_trim(s->ev.what, sizeof(s->ev.what), end + 1 + strspn(end + 1, " "),
			  strlen(end + 1 + strspn(end + 1, " ")));
	}
	klog_slot_close(k, s);
	return true;
}

/* "acpi PNP0C80:00: Offline failed." */
static bool open_acpi_offline(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	if (!starts(l->body, "acpi ") || hit[strlen(": Offline failed.")])
		return false;
	s = klog_slot_open(k, l, KLOG_OFFLINE_FAILURE);
	copy(s->ev.where, sizeof(s->ev.where), l->body, (size_t)(hit - l->body));
	copy(s->ev.what, sizeof(s->ev.what), "ACPI offline failed", strlen("ACPI offline failed"));
	klog_slot_close(k, s);
	return true;
}

static bool open_snapshot(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *reason = strstr(hit, "Invalidating snapshot: ");

	if (!reason)
		return false;
	reason += strlen("Invalidating snapshot: ");
	s = klog_slot_open(k, l, KLOG_SNAPSHOT_INVALID);
	copy_trim(s->ev.what, sizeof(s->ev.what), reason, strlen(reason));
	klog_slot_close(k, s);
	return true;
}

/* "do_migrate_range: 12 callbacks suppressed", "eth0: 3 output lines suppressed due to ratelimiting" */
static bool open_suppressed(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *n = hit;
	int64_t count;

	while (n > l->body && is_digit(n[-1]))
		n--;
	if (n == hit || n - l->body < 3 || n[-1] != ' ' || n[-2] != ':' || !number(n, &count))
		return false;
	s = klog_slot_open(k, l, KLOG_SUPPRESSED);
	s->ev.count = count;
	copy(s->ev.what, sizeof(s->ev.what), l->body, (size_t)(n - 2 - l->body));
	klog_slot_close(k, s);
	return true;
}

/* "** 123 printk messages dropped **" */
static bool open_dropped(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	int64_t count;
	const char *end = number(hit + 3, &count);

	if (!end || !starts(end, " printk messages dropped"))
		return false;
	klog_flush(k);
	s = klog_slot_open(k, l, KLOG_LOST);
	s->ev.count = count;
	klog_slot_close(k, s);
	return true;
}

/* --- warnings, bugs, oopses, panics ------------------------------------------------------------------------------ */

static bool open_fault_oom(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	s = klog_slot_open(k, l, KLOG_WARN);
	copy(s->ev.what, sizeof(s->ev.what), hit, strlen(hit));
	klog_slot_close(k, s);
	return true;
}

/* "file.c:123" at s; its length, or 0 */
static size_t file_line(const char *s)
{
	size_t n = strcspn(s, " ");
	const char *colon = memchr(s, ':', n);

	return colon && is_digit(colon[1]) ? n : 0;
}

/*
 * "WARNING: CPU: 1 PID: 213 at mm/x.c:44 func+0x1/0x2", before 3.x "WARNING: at mm/x.c:44 func+0x1/0x2()", newest
 * "WARNING: mm/x.c:44 at func+0x1/0x2, CPU#1: sh/213", each also without the file, and lockdep's.
 */
static bool open_warn(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	static const char *const lockdep[] = {
		"possible ",  "suspicious ",	 "inconsistent lock",	      "bad unlock",
		"lock held ", "held lock freed", "Nested lock was not taken", "HARDIRQ-",
		"SOFTIRQ-",   "RECLAIM_FS-"
	};
	const char *p = hit + strlen("WARNING: "), *at = strstr(p, "at "), *func = NULL;
	size_t n = 0;
	bool locks = false;

	for (size_t i = 0; i < sizeof(lockdep) / sizeof(lockdep[0]); i++)
		locks |= starts(p, lockdep[i]);
	if ((starts(p, "CPU: ") || starts(p, "at ")) && at) {
		at += 3;
		n = file_line(at);
		func = at + n + strspn(at + n, " ");
	} else if (file_line(p)) {
		at = p;
		n = file_line(p);
		func = strstr(p, " at ");
		if (!func)
			return false;
		func += 4;
	}
	if (!locks && !n && !starts(p, "CPU: ") && !(func && strstr(func, "+0x")))
		return false;
	close_same(k, l, KLOG_WARN, false);
	s = klog_slot_open(k, l, KLOG_WARN);
	if (locks) {
		copy(s->ev.what, sizeof(s->ev.what), p, strlen(p));
		return true;
	}
	if (n)
		copy(s->ev.where, sizeof(s->ev.where), at, n);
	if (func)
		copy(s->ev.what, sizeof(s->ev.what), func, strcspn(func, "+, ("));
	if (starts(p, "CPU: ")) {
		number(p + 5, &s->ev.cpu);
		number_after(p, " PID: ", &s->ev.pid);
	} else if (number_after(p, ", CPU#", &s->ev.cpu)) {
		const char *task = strstr(p, ", CPU#");
		const char *slash = find_last(task, "/");

		task = strstr(task, ": ");
		if (task && slash && slash > task && number(slash + 1, &s->ev.pid))
			copy(s->ev.task, sizeof(s->ev.task), task + 2, (size_t)(slash - task - 2));
	}
	return true;
}

/* An oops says what it is in several lines ("BUG: unable to handle", "Oops: 0000 [#1]"): one event. */
static bool join_oops(struct klog *k, const struct klog_line *l)
{
	for (int i = 0; i < KLOG_OPEN_MAX; i++) {
		struct slot *s = &k->slot[i];

		if (s->open && (s->ev.kind == KLOG_OOPS || s->ev.kind == KLOG_BUG) && s->phase == PHASE_HEAD &&
		    klog_same_caller(s, l->rec) && s->last_index + 8 > k->index) {
			klog_slot_add(k, s, l);
			return true;
		}
	}
	return false;
}

static bool open_oops(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)hit;
	if (join_oops(k, l))
		return true;
	close_same(k, l, KLOG_OOPS, false);
	s = klog_slot_open(k, l, KLOG_OOPS);
	copy(s->ev.what, sizeof(s->ev.what), l->body, strlen(l->body));
	return true;
}

/* "invalid opcode: 0000 [#1] PREEMPT SMP" */
static bool open_trap(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *code = hit;

	while (code > l->body && is_xdigit(code[-1]))
		code--;
	if (hit - code != 4 || code - l->body < 3 || code[-1] != ' ' || code[-2] != ':' || !is_digit(hit[3]))
		return false;
	return open_oops(k, s, l, hit);
}

static bool open_bug(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	/* A line cut short within "BUG: soft lockup" must not turn into another kind. */
	for (const struct klog_pattern *p = klog_patterns; p->text; p++)
		if (starts(p->text, hit) && strcmp(p->text, hit) != 0)
			return false;
	close_same(k, l, KLOG_BUG, false);
	s = klog_slot_open(k, l, KLOG_BUG);
	copy(s->ev.what, sizeof(s->ev.what), hit + strlen("BUG: "), strlen(hit + strlen("BUG: ")));
	return true;
}

/* "kernel BUG at mm/slub.c:123!" */
static bool open_kernel_bug(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *at = hit + strlen("kernel BUG at ");

	close_same(k, l, KLOG_BUG, false);
	s = klog_slot_open(k, l, KLOG_BUG);
	copy(s->ev.what, sizeof(s->ev.what), "kernel BUG", strlen("kernel BUG"));
	copy(s->ev.where, sizeof(s->ev.where), at, strcspn(at, "! "));
	return true;
}

/* "BUG kmalloc-64 (Not tainted): Redzone overwritten" */
static bool open_slab_bug(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	if (!strstr(hit, " (Not tainted): ") && !strstr(hit, " (Tainted: "))
		return false;
	close_same(k, l, KLOG_BUG, false);
	s = klog_slot_open(k, l, KLOG_BUG);
	copy(s->ev.what, sizeof(s->ev.what), hit + 4, strlen(hit + 4));
	return true;
}

static bool open_panic(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	const char *reason = hit + strlen("Kernel panic - not syncing: ");

	/* "Out of memory: compulsory panic_on_oom is enabled" is the end of the OOM report before it. */
	s = oom_report(k, l->rec);
	if (s && starts(reason, "Out of memory: ")) {
		copy(s->ev.oom.outcome, sizeof(s->ev.oom.outcome), "panic_on_oom", strlen("panic_on_oom"));
		klog_slot_close(k, s);
	}
	s = klog_slot_open(k, l, KLOG_PANIC);
	copy_trim(s->ev.what, sizeof(s->ev.what), reason, strlen(reason));
	return true;
}

static bool body_panic_end(struct klog *k, struct slot *s, const struct klog_line *l, const char *hit)
{
	(void)l;
	(void)hit;
	klog_slot_close(k, s);
	return true;
}

/* --- the table --------------------------------------------------------------------------------------------------- */

#define START(str, event, fn)                                                                                          \
	{                                                                                                              \
		str, false, event, 0, fn                                                                               \
	}
#define INSIDE(str, event, fn)                                                                                         \
	{                                                                                                              \
		str, true, event, 0, fn                                                                                \
	}
#define BODY(str, class, fn)                                                                                           \
	{                                                                                                              \
		str, false, KLOG_NONE, class, fn                                                                       \
	}

const struct klog_pattern klog_patterns[] = {
	/* Frequent lines of long reports first: every line of a log passes through here. */
	INSIDE(" invoked oom-killer: ", KLOG_OOM_INVOKED, open_oom),
	START("oom-kill:constraint=CONSTRAINT_", KLOG_OOM_INVOKED, open_oom_summary),
	START("Task in ", KLOG_OOM_INVOKED, open_oom_task_in),
	INSIDE("Kill process ", KLOG_OOM_INVOKED, open_oom_header),
	INSIDE("Killed process ", KLOG_OOM_KILL, open_oom_killed),
	START("Tasks in ", KLOG_OOM_INVOKED, open_oom_group),
	START("oom_reaper: ", KLOG_OOM_KILL, open_oom_reaper),
	START("Out of memory and no killable processes", KLOG_OOM_INVOKED, open_oom_nobody),
	INSIDE(" is already exiting. Skip killing the task", KLOG_OOM_INVOKED, open_oom_exiting),
	START("Huh VM_FAULT_OOM", KLOG_WARN, open_fault_oom),

	START("BUG: workqueue lockup - ", KLOG_WQ_LOCKUP, open_wq),
	INSIDE("BUG: soft lockup - CPU#", KLOG_SOFT_LOCKUP, open_soft),
	INSIDE("Watchdog detected hard LOCKUP", KLOG_HARD_LOCKUP, open_hard),
	START("INFO: task ", KLOG_HUNG_TASK, open_hung),
	INSIDE(" self-detected stall on CPU", KLOG_RCU_STALL, open_rcu),
	INSIDE(" detected stalls on ", KLOG_RCU_STALL, open_rcu),
	INSIDE(" detected expedited stalls on ", KLOG_RCU_STALL, open_rcu),

	INSIDE(": page allocation failure: ", KLOG_ALLOC_FAILURE, open_alloc),
	INSIDE(": page allocation failure. ", KLOG_ALLOC_FAILURE, open_alloc),
	INSIDE(": page allocation stall for ", KLOG_ALLOC_STALL, open_alloc_stall),
	INSIDE(": page allocation stalls for ", KLOG_ALLOC_STALL, open_alloc_stall),
	INSIDE(": vmalloc error: size ", KLOG_ALLOC_FAILURE, open_vmalloc),
	INSIDE(": vmalloc: allocation failure", KLOG_ALLOC_FAILURE, open_vmalloc),
	START("SLUB: Unable to allocate memory on ", KLOG_ALLOC_FAILURE, open_slub),
	START("memory offlining [mem ", KLOG_OFFLINE_FAILURE, open_offline),
	INSIDE("removing memory fails, because ", KLOG_OFFLINE_FAILURE, open_remove),
	INSIDE(": Offline failed.", KLOG_OFFLINE_FAILURE, open_acpi_offline),
	START("device-mapper: snapshots: ", KLOG_SNAPSHOT_INVALID, open_snapshot),

	START("WARNING: ", KLOG_WARN, open_warn),
	START("BUG: unable to handle ", KLOG_OOPS, open_oops),
	START("BUG: kernel NULL pointer dereference", KLOG_OOPS, open_oops),
	START("Unable to handle kernel ", KLOG_OOPS, open_oops),
	START("Internal error: Oops", KLOG_OOPS, open_oops),
	START("general protection fault", KLOG_OOPS, open_oops),
	START("Oops: ", KLOG_OOPS, open_oops),
	INSIDE(" [#", KLOG_OOPS, open_trap),
	START("BUG: ", KLOG_BUG, open_bug),
	START("kernel BUG at ", KLOG_BUG, open_kernel_bug),
	START("BUG ", KLOG_BUG, open_slab_bug),
	START("Kernel panic - not syncing: ", KLOG_PANIC, open_panic),

	INSIDE(" callbacks suppressed", KLOG_SUPPRESSED, open_suppressed),
	INSIDE(" output lines suppressed due to ratelimiting", KLOG_SUPPRESSED, open_suppressed),
	START("** ", KLOG_LOST, open_dropped),

	/* Lines within a report. */
	BODY("Call Trace:", L_TRACE, body_trace),
	BODY("Call trace:", L_TRACE, body_trace),
	BODY("Backtrace:", L_TRACE, body_trace),
	BODY("<TASK>", L_MARK, body_mark),
	BODY("</TASK>", L_MARK, body_mark),
	BODY("<IRQ>", L_MARK, body_mark),
	BODY("</IRQ>", L_MARK, body_mark),
	BODY("<NMI>", L_MARK, body_mark),
	BODY("</NMI>", L_MARK, body_mark),
	BODY("<SOFTIRQ>", L_MARK, body_mark),
	BODY("</SOFTIRQ>", L_MARK, body_mark),
	BODY("CPU: ", L_CONTEXT, body_context),
	BODY("Pid: ", L_CONTEXT, body_context),
	BODY("Hardware name: ", L_CONTEXT, NULL),
	BODY("Tainted: [", L_CONTEXT, NULL),
	BODY("Workqueue: ", L_WORKER, body_worker),
	BODY("RIP: ", L_REGS, body_regs),
	BODY("RIP [", L_REGS, NULL),
	BODY("IP: [", L_REGS, NULL),
	BODY("RSP: ", L_REGS, NULL),
	BODY("RAX: ", L_REGS, NULL),
	BODY("RDX: ", L_REGS, NULL),
	BODY("RBP: ", L_REGS, NULL),
	BODY("R08: ", L_REGS, NULL),
	BODY("R10: ", L_REGS, NULL),
	BODY("R13: ", L_REGS, NULL),
	BODY("FS: ", L_REGS, NULL),
	BODY("CS: ", L_REGS, NULL),
	BODY("CR2: ", L_REGS, NULL),
	BODY("DR0: ", L_REGS, NULL),
	BODY("DR3: ", L_REGS, NULL),
	BODY("PKRU: ", L_REGS, NULL),
	BODY("ORIG_RAX: ", L_REGS, NULL),
	BODY("Code: ", L_REGS, NULL),
	BODY("pstate: ", L_REGS, NULL),
	BODY("pc : ", L_REGS, NULL),
	BODY("lr : ", L_REGS, NULL),
	BODY("sp : ", L_REGS, NULL),
	BODY("Modules linked in:", L_MODULES, NULL),
	BODY("Unloaded tainted modules:", L_MODULES, NULL),
	BODY("irq event stamp:", L_MODULES, NULL),
	BODY("hardirqs last ", L_MODULES, NULL),
	BODY("softirqs last ", L_MODULES, NULL),
	BODY("---[ end trace ", L_END, body_end_trace),

	BODY("Mem-Info:", L_MEM, NULL),
	BODY("active_anon:", L_MEM, NULL),
	BODY("active_file:", L_MEM, NULL),
	BODY("unevictable:", L_MEM, NULL),
	BODY("slab_reclaimable:", L_MEM, NULL),
	BODY("mapped:", L_MEM, NULL),
	BODY("sec_pagetables:", L_MEM, NULL),
	BODY("kernel_misc_reclaimable:", L_MEM, NULL),
	BODY("free:", L_MEM, NULL),
	BODY("lowmem_reserve[]:", L_MEM, NULL),
	BODY("Swap cache stats:", L_MEM, NULL),
	BODY("Free swap ", L_MEM, NULL),
	BODY("Total swap ", L_MEM, NULL),
	BODY("memory: usage ", L_MEMCG, body_memcg_usage),
	BODY("memory+swap: usage ", L_MEMCG, NULL),
	BODY("swap: usage ", L_MEMCG, NULL),
	BODY("kmem: usage ", L_MEMCG, NULL),
	BODY("Memory cgroup stats for ", L_MEMCG, body_memcg_stats),
	BODY("Memory cgroup min protection ", L_MEMCG, NULL),
	BODY("Tasks state (memory values in pages):", L_TABLE, NULL),
	BODY("Unreclaimable slab info:", L_TABLE, body_slab_header),
	BODY("excessive unreclaimable slab but cannot dump stats", L_TABLE, NULL),

	BODY("Showing busy workqueues and worker pools:", L_WQ, body_wq_busy),
	BODY("workqueue ", L_WQ, body_wq_name),
	BODY("pwq ", L_WQ, body_wq_pwq),
	BODY("in-flight:", L_WQ, body_wq_flight),
	BODY("pending:", L_WQ, body_wq_pending),
	BODY("inactive:", L_WQ, body_wq_pool),
	BODY("delayed:", L_WQ, body_wq_pool),
	BODY("pool ", L_WQ, body_wq_pool),
	BODY("Showing backtraces of running workers in stalled", L_WQ, body_wq_workers),

	BODY("task:", L_TASK, body_task),
	/* "is blocked on a mutex likely owned by task y:2." */
	BODY("INFO: task ", L_HUNG, NULL),
	BODY("Not tainted ", L_HUNG, body_hung),
	BODY("Tainted: ", L_HUNG, body_hung),
	BODY("\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\"", L_HUNG, NULL),
	BODY("Blocked by coredump.", L_HUNG, NULL),
	BODY("Future hung task reports are suppressed", L_HUNG, NULL),
	BODY("INFO: lockdep is turned off.", L_LOCKS, NULL),

	BODY("Showing all locks held in the system:", L_LOCKS, NULL),
	BODY("-> #", L_LOCKS, NULL),
	BODY("other info that might help us debug this:", L_LOCKS, NULL),
	BODY("Possible unsafe locking scenario:", L_LOCKS, NULL),
	BODY("Possible interrupt unsafe locking scenario:", L_LOCKS, NULL),
	BODY("Chain exists of:", L_LOCKS, NULL),
	BODY("lock(", L_LOCKS, NULL),
	BODY("rlock(", L_LOCKS, NULL),
	BODY("*** DEADLOCK ***", L_LOCKS, NULL),
	BODY("the existing dependency chain (in reverse order) is:", L_LOCKS, NULL),
	BODY("which lock already depends on the new lock.", L_LOCKS, NULL),
	BODY("but task is already holding lock:", L_LOCKS, NULL),
	BODY("but there are no more locks to release!", L_LOCKS, NULL),
	BODY("stack backtrace:", L_LOCKS, NULL),
	BODY("no locks held by ", L_LOCKS, NULL),

	BODY("rcu:", L_RCU, body_rcu),
	BODY("(t=", L_RCU, NULL),
	BODY("(detected by ", L_RCU, NULL),
	BODY("NMI backtrace for cpu ", L_RCU, body_cpu_stack),
	BODY("Sending NMI from CPU ", L_RCU, body_nmi),
	BODY("Task dump for CPU ", L_RCU, body_cpu_stack),

	BODY("#PF: ", L_OOPS, NULL),
	BODY("PGD ", L_OOPS, NULL),
	BODY("note: ", L_OOPS, NULL),

	BODY("---[ end Kernel panic", L_PANIC, body_panic_end),
	BODY("Kernel Offset: ", L_PANIC, NULL),
	BODY("Rebooting in ", L_PANIC, NULL),
	BODY("Dumping ftrace buffer", L_PANIC, NULL),

	BODY("cache: ", L_SLUB, body_slub),
	BODY("node ", L_SLUB, NULL),

	/* What a mailer leaves on a line of its own. */
	BODY("nodemask=", L_WRAP, body_wrap),
	BODY("order=", L_WRAP, body_wrap),
	BODY("order:", L_WRAP, body_wrap),
	BODY("mode:", L_WRAP, body_wrap),
	BODY("oom_score_adj", L_WRAP, body_wrap),
	BODY("total-vm:", L_WRAP, body_wrap),
	BODY("anon-rss:", L_WRAP, body_wrap),
	BODY("file-rss:", L_WRAP, body_wrap),
	BODY("shmem-rss:", L_WRAP, body_wrap),
	BODY("UID:", L_WRAP, body_wrap),
	BODY("pgtables:", L_WRAP, body_wrap),
	BODY("or sacrifice child", L_WRAP, body_wrap),
	BODY("sacrifice child", L_WRAP, body_wrap),
	{ 0 },
};

/* --- lines without a mark ---------------------------------------------------------------------------------------- */

/* "Node 0 DMA free:...", "39 total pagecache pages", "262014 pages RAM" */
static bool is_mem_line(const char *body)
{
	static const char *const of[] = { " total pagecache pages",	" pages in swap cache", " pages RAM",
					  " pages HighMem/MovableOnly", " pages reserved",	" pages cma reserved",
					  " pages hwpoisoned",		" pages shared",	" pages non-shared" };
	int64_t v;
	const char *p;

	if (starts(body, "Node "))
		return number(body + 5, &v) != NULL;
	p = number(body, &v);
	if (!p)
		return false;
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
		if (starts(p, of[i]))
			return true;
	return false;
}

/* "anon 4096" */
static bool is_stat_line(const char *body)
{
	size_t n = 0;
	int64_t v;
	const char *end;

	while ((body[n] >= 'a' && body[n] <= 'z') || body[n] == '_' || (n && is_digit(body[n])))
		n++;
	if (!n || body[n] != ' ')
		return false;
	end = number(body + n + 1, &v);
	return end && *end == '\0';
}

unsigned klog_line_class(const struct klog_line *l)
{
	const char *name, *body = l->body;
	struct klog_slab row;
	bool guess;
	int64_t v;
	const char *p;

	if (frame_name(body, &name, &guess))
		return L_FRAME;
	if (is_task_header(body) || is_task_row(body))
		return L_TABLE;
	if (slab_row(body, &row))
		return L_TABLE;
	if (starts(body, "Name ") && strstr(body, " Used ") && strstr(body, " Total"))
		return L_TABLE;
	if (strstr(body, " cpuset=") && strstr(body, " mems_allowed="))
		return L_OOM;
	if (is_mem_line(body))
		return L_MEM;
	if (is_stat_line(body))
		return L_STAT;
	p = number(body, &v);
	if (p) {
		/* "2 locks held by sh/213:" */
		if (starts(p, " lock held by ") || starts(p, " locks held by "))
			return L_LOCKS;
		/* "0-....: (5249 ticks this GP)" */
		if (*p == '-' && strstr(p, ": ("))
			return L_RCU;
	}
	/* " #0: ffff888003a0c3e0 (sb_writers#5){.+.+}-{0:0}, at: ksys_write+0x5e/0xd0" */
	if (body[0] == '#' && is_digit(body[1]) && strstr(body, ", at: "))
		return L_LOCKS;
	if (strstr(body, " is trying to acquire lock:") || strstr(body, " is trying to release lock "))
		return L_LOCKS;
	/* "Oops" in its short forms, and sched_show_task() before 5.11: "dd              D    0   213      1
	 * 0x00000000" */
	return L_TASK;
}

/* sched_show_task() before 5.11: the name, blanks, a state letter, blanks, numbers. */
static char old_task_state(const struct slot *s, const char *body)
{
	size_t n = strlen(s->ev.task);

	if (!n || strncmp(body, s->ev.task, n) != 0 || body[n] != ' ')
		return '\0';
	n += strspn(body + n, " ");
	if (!strchr("RSDTtXZPI", body[n]) || body[n + 1] != ' ')
		return '\0';
	return is_digit(body[n + 1 + strspn(body + n + 1, " ")]) ? body[n] : '\0';
}

bool klog_unmarked_fits(const struct slot *s, const char *body, unsigned class)
{
	struct klog_slab row;

	if (class == L_TASK)
		return s->ev.kind == KLOG_HUNG_TASK && old_task_state(s, body);
	if (class == L_TABLE && !is_task_header(body)) {
		if (is_task_row(body))
			return s->section == SECTION_TASKS;
		if (slab_row(body, &row))
			return s->section == SECTION_SLAB;
	}
	return true;
}

void klog_parse_unmarked(struct klog *k, struct slot *s, const struct klog_line *l, unsigned class)
{
	struct klog_slab row;

	(void)k;
	switch (class) {
	case L_FRAME:
		add_frame(s, l);
		break;
	case L_TASK:
		if (!s->ev.state)
			s->ev.state = old_task_state(s, l->body);
		break;
	case L_RCU:
		body_rcu(k, s, l, l->body);
		break;
	case L_TABLE:
		if (is_task_header(l->body))
			task_header(s, l->body);
		else if (is_task_row(l->body))
			task_row(s, l->body);
		else if (slab_row(l->body, &row))
			add_slab(&s->ev.oom, &row);
		break;
	default:
		break;
	}
}
