// SPDX-License-Identifier: MIT
#include "record/extract.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "record/klog.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_ACTIVE    8 /* SPEC_MAX_WORKLOADS */
#define MAX_ROLES     256
#define MAX_TAIL      16 /* kernel records that share the last stamp */
#define CONSOLE_CHUNK 65536
#define MAX_US	      INT64_C(1000000000000000) /* 31 years: a time that is larger is none */

struct line {
	int64_t t_ns;
	size_t order; /* keeps lines of one instant as they came */
	char *text;
};

struct role {
	int64_t t_ns; /* since when it plays it */
	int64_t pid;
	char name[24];
	char comm[16]; /* as long as a task's name can be */
};

/* Lines of the kernel log that were overwritten before they were read: the first that was read after them. */
struct gap {
	int64_t seq, lost;
};

/* One area of the kernel log, and the record in it that comes next. */
struct log_area {
	struct bb_cursor c;
	struct bb_record rec;
	bool have;
	int64_t seq; /* or KLOG_NONE */
};

struct extraction {
	struct extract_result *result;
	const char *dir;
	int64_t start_ns;	  /* 0: the start line was never reached; t counts from boot then */
	int64_t kernel_offset_ns; /* added to a kernel stamp to get t */
	FILE *samples, *kmsg;
	struct klog *klog;
	struct line *lines;
	size_t n_lines, lines_size;
	struct role roles[MAX_ROLES];
	size_t n_roles;
	struct gap *gaps;
	size_t n_gaps, gaps_size, gap; /* the next to be accounted for */
	int64_t next_seq;	       /* of the kernel log; KLOG_NONE before its first record */
	/* The end of what the box has of the kernel log, to find where the console goes on. */
	int64_t last_usec;
	char tail[MAX_TAIL][128];
	size_t n_tail;
	char json[KLOG_JSON_MAX];
	int err;
};

static void keep_line(struct extraction *x, int64_t t_ns, const char *text, size_t len)
{
	if (x->n_lines == x->lines_size) {
		size_t size = x->lines_size ? x->lines_size * 2 : 256;
		struct line *more = realloc(x->lines, size * sizeof(*more));

		if (!more) {
			x->err = -ENOMEM;
			return;
		}
		x->lines = more;
		x->lines_size = size;
	}
	x->lines[x->n_lines] = (struct line){ t_ns, x->n_lines, strndup(text, len) };
	if (x->lines[x->n_lines].text)
		x->n_lines++;
	else
		x->err = -ENOMEM;
}

/* A line of the box begins with {"t":SECONDS.MICROS on the machine's clock. Finds the time and the rest. */
static bool split_time(const char *line, size_t len, int64_t *ns, const char **rest)
{
	static const char head[] = "{\"t\":";
	const char *p = line + sizeof(head) - 1, *end = line + len;
	int64_t value = 0;
	int decimals = -1;

	if (len < sizeof(head) || memcmp(line, head, sizeof(head) - 1) != 0 || line[len - 1] != '\n')
		return false;
	for (; p < end && (*p == '.' || (*p >= '0' && *p <= '9')); p++) {
		if (*p == '.') {
			if (decimals >= 0)
				return false;
			decimals = 0;
			continue;
		}
		if (value > MAX_US / 10)
			return false;
		value = value * 10 + (*p - '0');
		if (decimals >= 0)
			decimals++;
	}
	*ns = value * 1000;
	*rest = p;
	return decimals == 6 && p < end && (*p == ',' || *p == '}');
}

static bool is_object(const char *data, size_t len)
{
	json_t *object = json_loadb(data, len, 0, NULL);
	bool is = json_is_object(object);

	json_decref(object);
	return is;
}

static void on_sample(struct extraction *x, const char *data, size_t len)
{
	const char *rest;
	int64_t ns;

	if (!split_time(data, len, &ns, &rest) || !is_object(data, len)) {
		x->result->bad_lines++;
		return;
	}
	fprintf(x->samples, "{\"t\":%.6f", (double)(ns - x->start_ns) / 1e9);
	fwrite(rest, 1, (size_t)(data + len - rest), x->samples);
	x->result->samples++;
}

static void learn_role(struct extraction *x, int64_t t_ns, const char *data, size_t len)
{
	json_t *event = json_loadb(data, len, 0, NULL);
	const char *kind = json_string_value(json_object_get(event, "kind"));
	const char *role = json_string_value(json_object_get(event, "role"));
	const char *comm = json_string_value(json_object_get(event, "comm"));

	if (kind && role && strcmp(kind, "spawn") == 0 && x->n_roles < MAX_ROLES) {
		struct role *r = &x->roles[x->n_roles++];

		r->t_ns = t_ns;
		r->pid = json_integer_value(json_object_get(event, "pid"));
		snprintf(r->name, sizeof(r->name), "%s", role);
		snprintf(r->comm, sizeof(r->comm), "%s", comm ? comm : "");
	}
	json_decref(event);
}

static void learn_gap(struct extraction *x, const char *data, size_t len)
{
	json_t *event = json_loadb(data, len, 0, NULL);

	if (x->n_gaps == x->gaps_size) {
		size_t size = x->gaps_size ? x->gaps_size * 2 : 64;
		struct gap *more = realloc(x->gaps, size * sizeof(*more));

		if (more) {
			x->gaps = more;
			x->gaps_size = size;
		} else {
			x->err = -ENOMEM;
		}
	}
	if (x->n_gaps < x->gaps_size)
		x->gaps[x->n_gaps++] = (struct gap){
			.seq = json_integer_value(json_object_get(event, "seq")),
			.lost = json_integer_value(json_object_get(event, "lost")),
		};
	json_decref(event);
}

static void on_harness_event(struct extraction *x, const char *data, size_t len)
{
	char head[96];
	const char *rest;
	int64_t ns;
	char *line;
	int n;

	if (!split_time(data, len, &ns, &rest) || !is_object(data, len)) {
		x->result->bad_lines++;
		return;
	}
	/* The gap is found again where the log is classified, and told from there. */
	if (memmem(rest, (size_t)(data + len - rest), "\"kind\":\"kmsg-lost\"", 18)) {
		learn_gap(x, data, len);
		return;
	}
	learn_role(x, ns - x->start_ns, data, len);
	n = snprintf(head, sizeof(head), "{\"t\":%.6f,\"source\":\"harness\"", (double)(ns - x->start_ns) / 1e9);
	line = malloc((size_t)n + len);
	if (!line) {
		x->err = -ENOMEM;
		return;
	}
	memcpy(line, head, (size_t)n);
	memcpy(line + n, rest, (size_t)(data + len - rest));
	keep_line(x, ns - x->start_ns, line, (size_t)n + (size_t)(data + len - rest) - 1);
	free(line);
}

/*
 * The part a victim played: by its cgroup, which the report names; where the kernel left that out, by its pid, or by
 * the name it has from one whose pid is known: a load has children.
 */
static const char *role_of(const struct extraction *x, const char *cgroup, const char *comm, int64_t pid, int64_t t_ns)
{
	static const char prefix[] = "/headroom/";
	static const char *const groups[] = { "workload", "bystander", "harness" };
	const struct role *by_name = NULL;

	if (strncmp(cgroup, prefix, sizeof(prefix) - 1) == 0) {
		const char *group = cgroup + sizeof(prefix) - 1;
		size_t len = strcspn(group, "/"); /* a load may have groups below its own */

		for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
			if (strlen(groups[i]) == len && strncmp(group, groups[i], len) == 0)
				return groups[i];
	}
	/* Newest first, of those that had begun: pids and names are used again. */
	for (size_t i = x->n_roles; i > 0; i--) {
		const struct role *r = &x->roles[i - 1];

		if (r->t_ns > t_ns)
			continue;
		if (r->pid == pid)
			return r->name;
		if (!by_name && *r->comm && strncmp(r->comm, comm, sizeof(r->comm) - 1) == 0)
			by_name = r;
	}
	return by_name ? by_name->name : "bystander";
}

static void on_kernel_event(struct klog_event *ev, void *arg)
{
	struct extraction *x = arg;
	struct jsonw j;
	int64_t t_ns;

	if (ev->usec != KLOG_NONE && ev->usec > MAX_US)
		ev->usec = KLOG_NONE;
	t_ns = ev->usec == KLOG_NONE ? INT64_MAX : ev->usec * 1000 + x->kernel_offset_ns;
	if (ev->kind == KLOG_OOM_KILL || ev->kind == KLOG_MEMCG_OOM_KILL)
		ev->role = role_of(x, ev->oom.victim_cgroup, ev->oom.victim_comm, ev->oom.victim_pid, t_ns);
	jsonw_init(&j, x->json, sizeof(x->json));
	klog_event_json(&j, ev, x->kernel_offset_ns);
	if (!j.overflow)
		keep_line(x, t_ns, j.buf, j.len);
	else
		x->result->bad_lines++;
}

/* An event that the recorder read from lines before they gave way: its time and the victim's role are still to come. */
static void on_kept_event(struct extraction *x, const char *data, size_t len)
{
	json_t *event = json_loadb(data, len, 0, NULL), *victim = json_object_get(event, "victim");
	json_t *t = json_object_get(event, "t");
	int64_t t_ns = INT64_MAX;
	char *line;

	if (json_is_number(t) && fabs(json_number_value(t)) < (double)MAX_US / 1e6) {
		t_ns = (int64_t)(json_number_value(t) * 1e9) + x->kernel_offset_ns;
		json_object_set_new(event, "t", json_real((double)t_ns / 1e9));
	}
	if (json_is_object(victim)) {
		const char *comm = json_string_value(json_object_get(victim, "comm"));
		const char *cgroup = json_string_value(json_object_get(victim, "cgroup"));

		json_object_set_new(victim, "role",
				    json_string(role_of(x, cgroup ? cgroup : "", comm ? comm : "",
							json_integer_value(json_object_get(victim, "pid")), t_ns)));
	}
	line = json_is_object(event) ? json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
	if (line)
		keep_line(x, t_ns, line, strlen(line));
	else
		x->result->bad_lines++;
	free(line);
	json_decref(event);
}

static void note_tail(struct extraction *x, const struct klog_record *r)
{
	if (r->usec < x->last_usec)
		return; /* stamps may run back; the console goes on behind the newest */
	if (r->usec != x->last_usec)
		x->n_tail = 0;
	x->last_usec = r->usec;
	if (x->n_tail < MAX_TAIL)
		snprintf(x->tail[x->n_tail++], sizeof(x->tail[0]), "%.*s", (int)r->len, r->text);
}

/*
 * Of the numbers missing before this record, those that the recorder saw missing are lost. The others gave way to newer
 * lines in the box: they were read, and what the kernel's own had to tell was told.
 */
static void account_for_gap(struct extraction *x, int64_t seq)
{
	int64_t gap = x->next_seq == KLOG_NONE || seq <= x->next_seq ? 0 : seq - x->next_seq, lost = 0;

	/* Records and gaps both come in their order. */
	for (; x->gap < x->n_gaps && x->gaps[x->gap].seq <= seq; x->gap++)
		if (x->gaps[x->gap].lost > 0 && x->gaps[x->gap].lost <= gap - lost)
			lost += x->gaps[x->gap].lost;
	if (gap > lost) {
		klog_left_out(x->klog, (uint64_t)(gap - lost));
		x->result->kmsg_dropped += (uint64_t)(gap - lost);
	}
	x->next_seq = seq + 1;
}

static void on_kmsg(struct extraction *x, const struct bb_record *rec)
{
	struct klog_record r;
	char text[KLOG_LINE_MAX];

	fwrite(rec->data, 1, rec->len, x->kmsg);
	if (!rec->len || rec->data[rec->len - 1] != '\n')
		fputc('\n', x->kmsg);
	if (!klog_parse_kmsg(rec->data, rec->len, &r, text, sizeof(text))) {
		x->result->bad_lines++;
		return;
	}
	x->result->kmsg_records++;
	if (r.usec != KLOG_NONE)
		note_tail(x, &r);
	if (r.seq != KLOG_NONE)
		account_for_gap(x, r.seq);
	klog_feed(x->klog, &r);
}

/* The two clocks meet in the mark that the runner wrote into the kernel log at the start line. */
static void find_kernel_offset(struct extraction *x, const struct bb *box)
{
	struct bb_cursor c = bb_read(box, BB_USER_LOG);
	struct bb_record rec;

	x->kernel_offset_ns = -x->start_ns;
	while (bb_next(&c, &rec)) {
		static const char mark[] = "headroom: start line of ";
		struct klog_record r;
		char text[KLOG_LINE_MAX];
		int64_t at;
		char *word;

		if (!memmem(rec.data, rec.len, mark, sizeof(mark) - 1) ||
		    !klog_parse_kmsg(rec.data, rec.len, &r, text, sizeof(text)))
			continue;
		text[r.len < sizeof(text) ? r.len : sizeof(text) - 1] = '\0';
		word = strrchr(text, ' ');
		at = word ? strtoll(word + 1, NULL, 10) : 0;
		if (at > 0 && at < MAX_US * 1000 && r.usec != KLOG_NONE && r.usec < MAX_US)
			x->kernel_offset_ns = at - x->start_ns - r.usec * 1000;
	}
}

static void on_file(struct extraction *x, const char *data, size_t len)
{
	const char *body = memchr(data, '\0', len);
	char path[PATH_MAX];
	FILE *f;

	if (!body || body == data || body - data > NAME_MAX || memchr(data, '/', (size_t)(body - data)) ||
	    data[0] == '.') {
		x->result->bad_lines++;
		return;
	}
	snprintf(path, sizeof(path), "%s/tools", x->dir);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/tools/%s", x->dir, data);
	f = fopen(path, "we");
	if (!f) {
		x->err = -errno;
		return;
	}
	body++;
	if (fwrite(body, 1, len - (size_t)(body - data), f) != len - (size_t)(body - data))
		x->err = -EIO;
	if (fclose(f) != 0)
		x->err = -EIO;
}

static void on_console_record(const struct klog_record *r, void *arg)
{
	struct extraction *x = arg;
	struct klog_record console = *r;

	if (r->usec == KLOG_NONE || r->usec < x->last_usec)
		return;
	while (console.len && console.text[console.len - 1] == '\r')
		console.len--;
	r = &console;
	for (size_t i = 0; r->usec == x->last_usec && i < x->n_tail; i++)
		if (strncmp(x->tail[i], r->text, r->len < sizeof(x->tail[0]) - 1 ? r->len : sizeof(x->tail[0]) - 1) ==
		    0)
			return;
	console.source = KLOG_SRC_CONSOLE;
	x->result->console_records++;
	klog_feed(x->klog, &console);
}

static void read_console(struct extraction *x, const char *path)
{
	struct klog_reader *reader = klog_reader_new(on_console_record, x);
	FILE *f = fopen(path, "re");
	char *chunk = malloc(CONSOLE_CHUNK);
	size_t n;

	while (reader && f && chunk && (n = fread(chunk, 1, CONSOLE_CHUNK, f)) > 0)
		klog_reader_push(reader, chunk, n);
	if (reader)
		klog_reader_finish(reader);
	klog_reader_free(reader);
	free(chunk);
	if (f)
		fclose(f);
}

static int by_time(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	if (x->t_ns != y->t_ns)
		return x->t_ns < y->t_ns ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static FILE *open_in(const char *dir, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return fopen(path, "we");
}

/* --- Who was at work --- */

struct active {
	char names[MAX_ACTIVE][48];
	size_t n;
	bool several; /* there is more than one in this record: else it need not be said */
};

/* The value of a line's first `"KEY":"VALUE"`, as long as it has no escapes. */
static bool value_of(const char *line, const char *key, char *buf, size_t size)
{
	const char *at = strstr(line, key);
	size_t len;

	if (!at)
		return false;
	at += strlen(key);
	len = strcspn(at, "\"\\");
	if (at[len] != '"' || len >= size)
		return false;
	memcpy(buf, at, len);
	buf[len] = '\0';
	return true;
}

static void learn_active(struct active *a, const char *line)
{
	char name[sizeof(a->names[0])], kind[32];
	size_t i = 0;

	if (!value_of(line, "\"kind\":\"", kind, sizeof(kind)) || strncmp(kind, "load-", 5) != 0 ||
	    !value_of(line, "\"workload\":\"", name, sizeof(name)))
		return;
	while (i < a->n && strcmp(a->names[i], name) != 0)
		i++;
	if (strcmp(kind, "load-begin") == 0 && i == a->n && a->n < MAX_ACTIVE)
		strcpy(a->names[a->n++], name);
	else if (strcmp(kind, "load-end") == 0 && i < a->n)
		memmove(a->names[i], a->names[i + 1], (--a->n - i) * sizeof(a->names[0]));
}

static bool says_who_is_active(const char *kind)
{
	static const char *const kinds[] = {
		"oom-kill",    "memcg-oom-kill", "oom-invoked",	    "panic",	"hung-task",
		"soft-lockup", "hard-lockup",	 "wq-lockup",	    "wq-stall", "rcu-stall",
		"alloc-stall", "alloc-failure",	 "offline-failure", "deadlock", "bug",
		"oops",	       "warn",		 "stuck",	    NULL
	};

	for (const char *const *k = kinds; *k; k++)
		if (strcmp(kind, *k) == 0)
			return true;
	return false;
}

/* What the record says of it: of several workloads those whose load was under way. */
static void write_event(FILE *f, struct active *a, const char *line)
{
	size_t len = strlen(line);
	char kind[32];

	learn_active(a, line);
	if (!value_of(line, "\"kind\":\"", kind, sizeof(kind)))
		*kind = '\0';
	if (!a->several || !says_who_is_active(kind) || !len || line[len - 1] != '}') {
		fprintf(f, "%s\n", line);
		return;
	}
	fprintf(f, "%.*s,\"active\":[", (int)len - 1, line);
	for (size_t i = 0; i < a->n; i++)
		fprintf(f, "%s\"%s\"", i ? "," : "", a->names[i]);
	fputs("]}\n", f);
}

static void write_events(struct extraction *x)
{
	struct active active = { .n = 0 }, all = { .n = 0 };
	FILE *f = open_in(x->dir, "events.jsonl");

	if (!f) {
		x->err = -errno;
		return;
	}
	if (x->n_lines)
		qsort(x->lines, x->n_lines, sizeof(*x->lines), by_time);
	for (size_t i = 0; i < x->n_lines; i++)
		if (strstr(x->lines[i].text, "\"kind\":\"load-begin\""))
			learn_active(&all, x->lines[i].text);
	active.several = all.n > 1;
	for (size_t i = 0; i < x->n_lines; i++)
		write_event(f, &active, x->lines[i].text);
	x->result->events = x->n_lines;
	if (fclose(f) != 0)
		x->err = -EIO;
}

static void next_of(struct log_area *a)
{
	char text[KLOG_LINE_MAX];
	struct klog_record r;

	a->have = bb_next(&a->c, &a->rec);
	a->seq = a->have && klog_parse_kmsg(a->rec.data, a->rec.len, &r, text, sizeof(text)) ? r.seq : KLOG_NONE;
}

static void walk_events(struct extraction *x, const struct bb *box)
{
	struct bb_cursor c = bb_read(box, BB_EVENTS);
	struct bb_record r;

	while (!x->err && bb_next(&c, &r)) {
		if (r.type == BB_FILE)
			on_file(x, r.data, r.len);
		else if (r.type == BB_EVENT)
			on_harness_event(x, r.data, r.len);
	}
	x->result->torn += c.torn;
}

/* Behind the others: a victim's role is told by them. */
static void walk_kernel_events(struct extraction *x, const struct bb *box)
{
	struct bb_cursor c = bb_read(box, BB_EVENTS);
	struct bb_record r;

	while (!x->err && bb_next(&c, &r))
		if (r.type == BB_KERNEL_EVENT)
			on_kept_event(x, r.data, r.len);
}

static void walk_samples(struct extraction *x, const struct bb *box)
{
	struct bb_cursor c = bb_read(box, BB_SAMPLES);
	struct bb_record r;

	while (!x->err && bb_next(&c, &r))
		on_sample(x, r.data, r.len);
	x->result->torn += c.torn;
}

/* The two areas of the kernel log, as one log again: by sequence number. What is no record goes where it stands. */
static void walk_log(struct extraction *x, const struct bb *box)
{
	struct log_area areas[] = { { .c = bb_read(box, BB_KERNEL_LOG) }, { .c = bb_read(box, BB_USER_LOG) } };
	enum { N = sizeof(areas) / sizeof(areas[0]) };

	for (size_t i = 0; i < N; i++)
		next_of(&areas[i]);
	while (!x->err && (areas[0].have || areas[1].have)) {
		struct log_area *first = areas[0].have ? &areas[0] : &areas[1];

		if (areas[1].have && areas[1].seq < first->seq)
			first = &areas[1];
		on_kmsg(x, &first->rec);
		next_of(first);
	}
	for (size_t i = 0; i < N; i++)
		x->result->torn += areas[i].c.torn;
}

int extract_record(const struct bb *box, const char *dir, const char *console, struct extract_result *result)
{
	struct extraction *x = calloc(1, sizeof(*x));
	int err;

	if (!x)
		return -ENOMEM;
	memset(result, 0, sizeof(*result));
	x->result = result;
	x->dir = dir;
	x->start_ns = atomic_load(&box->head->start_ns);
	x->next_seq = KLOG_NONE;
	x->samples = open_in(dir, "samples.jsonl");
	x->kmsg = open_in(dir, "kmsg.log");
	x->klog = klog_new(on_kernel_event, x);
	if (!x->samples || !x->kmsg || !x->klog)
		x->err = x->klog ? -errno : -ENOMEM;
	if (!x->err) {
		find_kernel_offset(x, box);
		walk_events(x, box);
		walk_kernel_events(x, box);
		walk_samples(x, box);
		walk_log(x, box);
		if (console)
			read_console(x, console);
		klog_flush(x->klog);
		write_events(x);
	}
	if (x->samples && fclose(x->samples) != 0 && !x->err)
		x->err = -EIO;
	if (x->kmsg && fclose(x->kmsg) != 0 && !x->err)
		x->err = -EIO;
	klog_free(x->klog);
	for (size_t i = 0; i < x->n_lines; i++)
		free(x->lines[i].text);
	free(x->lines);
	free(x->gaps);
	err = x->err;
	free(x);
	return err;
}
