// SPDX-License-Identifier: MIT
/*
 * headroom events: a saved kernel log -> one JSON line an event, in the order of the log.
 *
 * Events complete in another order than they begin, so their lines wait in a short queue until the classifier's
 * watermark has passed them. The queue is bounded: when it is full its first line goes out early.
 */
#include "record/events.h"
#include "record/klog.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What is looked at to tell a stamped log from bare text, before the first line is judged. */
#define DETECT_SIZE (64 * 1024)
#define QUEUE_MAX   256

struct queued {
	uint64_t index;
	char *line;
	size_t len;
};

struct events {
	struct klog *k;
	bool summary;
	uint32_t kinds; /* bit per kind */
	uint64_t count[KLOG_KINDS];
	char *json; /* KLOG_JSON_MAX */
	unsigned queue_n;
	struct queued queue[QUEUE_MAX]; /* by index */
	bool failed;			/* no memory, or stdout is closed: said once */
};

static const char usage[] = "usage: headroom events [--kind KIND[,KIND...]] [--summary] FILE|-\n"
			    "\n"
			    "Classify a saved kernel log: one JSON line an event (OOM kill, lockup, hung task, panic, "
			    "...) on stdout, in the\n"
			    "order of the log. FILE is what dmesg, journalctl -k, /dev/kmsg or a serial console gave, "
			    "or a paste of it; \"-\" reads\n"
			    "standard input. The format is told line by line.\n"
			    "\n"
			    "  --kind KIND[,KIND]  only these kinds\n"
			    "  --summary           a count for each kind instead of the events\n"
			    "  --help              this text\n"
			    "\n"
			    "\"t\" is in seconds: since boot where the log has the kernel's own stamps, since its "
			    "first line where it has only\n"
			    "wall-clock times, null where it has none.\n"
			    "\n"
			    "Kinds:";

static void print_usage(FILE *f)
{
	fputs(usage, f);
	for (int i = 0; i < KLOG_KINDS; i++)
		fprintf(f, "%s%s", i % 8 ? " " : "\n  ", klog_kind_name((enum klog_kind)i));
	fputs("\nExit codes: 0 done (also when there was no event), 2 usage, 3 the file cannot be read.\n", f);
}

static void write_line(struct events *e, const char *line, size_t len)
{
	if (!e->failed && fwrite(line, 1, len, stdout) != len)
		e->failed = true;
}

static void pop(struct events *e)
{
	write_line(e, e->queue[0].line, e->queue[0].len);
	free(e->queue[0].line);
	e->queue_n--;
	memmove(&e->queue[0], &e->queue[1], e->queue_n * sizeof(e->queue[0]));
}

static void drain(struct events *e, uint64_t below)
{
	while (e->queue_n && e->queue[0].index < below)
		pop(e);
}

static void on_event(struct klog_event *ev, void *arg)
{
	struct events *e = arg;
	struct jsonw j;
	struct queued q = { .index = ev->index };
	unsigned at;

	if (!(e->kinds & (1u << ev->kind)))
		return;
	e->count[ev->kind]++;
	if (e->summary)
		return;
	jsonw_init(&j, e->json, KLOG_JSON_MAX);
	klog_event_json(&j, ev, 0);
	q.len = jsonw_line(&j);
	q.line = malloc(q.len ? q.len : 1);
	if (!q.len || !q.line) {
		log_err("events: no room for an event of %zu bytes", ev->raw_len);
		free(q.line);
		e->failed = true;
		return;
	}
	memcpy(q.line, e->json, q.len);
	if (e->queue_n == QUEUE_MAX)
		pop(e);
	for (at = e->queue_n; at && e->queue[at - 1].index > q.index; at--)
		;
	memmove(&e->queue[at + 1], &e->queue[at], (e->queue_n - at) * sizeof(q));
	e->queue[at] = q;
	e->queue_n++;
}

static void on_record(const struct klog_record *rec, void *arg)
{
	struct events *e = arg;

	klog_feed(e->k, rec);
	if (e->queue_n)
		drain(e, klog_watermark(e->k));
}

/* Returns 0, or -errno of the first read that failed. */
static int classify(struct events *e, struct klog_reader *r, int fd, char *buf)
{
	size_t fill = 0;
	ssize_t n;

	do {
		n = read(fd, buf + fill, DETECT_SIZE - fill);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		fill += (size_t)n;
	} while (n && fill < DETECT_SIZE);
	klog_reader_detect(r, buf, fill);
	klog_reader_push(r, buf, fill);
	while (n && !e->failed) {
		n = read(fd, buf, DETECT_SIZE);
		if (n < 0 && errno == EINTR) {
			n = 1;
			continue;
		}
		if (n < 0)
			return -errno;
		klog_reader_push(r, buf, (size_t)n);
	}
	klog_reader_finish(r);
	klog_flush(e->k);
	drain(e, UINT64_MAX);
	return 0;
}

static bool parse_kinds(struct events *e, const char *list)
{
	e->kinds = 0;
	for (;;) {
		size_t n = strcspn(list, ",");
		int kind = klog_kind_parse(list, n);

		if (kind < 0) {
			log_err("events: --kind: there is no kind \"%.*s\"; see headroom events --help", (int)n, list);
			return false;
		}
		e->kinds |= 1u << kind;
		if (!list[n])
			return true;
		list += n + 1;
	}
}

int cmd_events(int argc, char **argv)
{
	static const struct option options[] = { { "kind", required_argument, NULL, 'k' },
						 { "summary", no_argument, NULL, 's' },
						 { "help", no_argument, NULL, 'h' },
						 { "json", no_argument, NULL, 'j' },
						 { 0 } };
	struct events *e;
	struct klog_reader *r = NULL;
	const char *path;
	char *buf = NULL;
	int fd = STDIN_FILENO, opt, err = 0, code = 4;

	e = calloc(1, sizeof(*e));
	if (!e) {
		log_err("events: out of memory");
		return 4;
	}
	e->kinds = UINT32_MAX;
	optind = 0;
	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'k':
			if (!parse_kinds(e, optarg)) {
				code = 2;
				goto out;
			}
			break;
		case 's':
			e->summary = true;
			break;
		case 'j':
			/* Every verb takes it; here it is the only output there is. */
			break;
		case 'h':
			print_usage(stdout);
			code = 0;
			goto out;
		default:
			code = 2;
			goto out;
		}
	}
	if (optind + 1 != argc) {
		log_err("events: give one FILE, or \"-\" for standard input; see headroom events --help");
		code = 2;
		goto out;
	}
	path = argv[optind];
	if (strcmp(path, "-") != 0) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			log_err("events: %s: %s", path, strerror(errno));
			code = 3;
			goto out;
		}
	}
	e->k = klog_new(on_event, e);
	r = klog_reader_new(on_record, e);
	e->json = malloc(KLOG_JSON_MAX);
	buf = malloc(DETECT_SIZE);
	if (!e->k || !r || !e->json || !buf) {
		log_err("events: out of memory");
		goto out_close;
	}
	err = classify(e, r, fd, buf);
	if (err) {
		log_err("events: %s: %s", path, strerror(-err));
		code = 3;
		goto out_close;
	}
	if (e->summary) {
		for (int i = 0; i < KLOG_KINDS; i++)
			if (e->count[i])
				printf("%-16s %llu\n", klog_kind_name((enum klog_kind)i),
				       (unsigned long long)e->count[i]);
	}
	if (fflush(stdout) != 0 || e->failed) {
		log_err("events: writing to stdout failed");
		goto out_close;
	}
	code = 0;
out_close:
	for (unsigned i = 0; i < e->queue_n; i++)
		free(e->queue[i].line);
	if (fd != STDIN_FILENO)
		close(fd);
	free(buf);
	klog_reader_free(r);
	klog_free(e->k);
out:
	free(e->json);
	free(e);
	return code;
}
