// SPDX-License-Identifier: MIT
#include "record/wqtrace.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "record/ksyms.h"
#include "record/wqlatency.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <event-parse.h>
#include <fcntl.h>
#include <inttypes.h>
#include <kbuffer.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tracefs.h>
#include <unistd.h>

#define INSTANCE      "headroom"
#define SYSTEM	      "workqueue"
#define READY_WAIT_MS 30000 /* /proc/kallsyms takes seconds where the guest is emulated */
#define STOP_WAIT_MS  5000
#define PERIOD_MS     50
#define TICK_MS	      500
#define MARGIN_NS     (10 * NS_PER_MS) /* an event gets its time before it is committed */
#define JSON_SIZE     (64 * 1024)
#define TOP	      10
#define MAX_STALLS    200   /* events written; what is more is counted */
#define NICE	      (-10) /* before the load, behind the recorder */
#define MAX_RUNNERS   4096  /* slots of the hash, half of them used */
#define IN_INTERRUPT  0x18  /* TRACE_FLAG_HARDIRQ | TRACE_FLAG_SOFTIRQ of linux/trace_events.h */

struct wqtrace_shared {
	_Atomic int ready; /* 1, or -errno */
	_Atomic int stop;
	_Atomic int written; /* the result is in the box */
};

/* One of the four events: where its fields are. */
struct format {
	const char *name;
	enum wql_type type;
	int id;
	struct tep_format_field *work, *function, *cpu; /* NULL: this kernel does not have it */
};

/* A process that runs works. */
enum runner_kind {
	RUNNER_NONE,
	RUNNER_NORMAL,	/* a worker of a pool */
	RUNNER_HIGHPRI, /* of one of high priority */
	RUNNER_OTHER,	/* a rescuer */
};

struct runner {
	uint32_t pid;
	enum runner_kind kind;
};

/* The end of one CPU's buffer that we read from. */
struct cpu_reader {
	int fd;
	struct kbuffer *kbuf;
	void *page;
	void *data; /* the next event; NULL: a page is to be read */
	unsigned long long ns;
	bool empty; /* in this pass */
};

/* All state of the process. Taken before it reports ready; nothing is allocated while it follows. */
static struct {
	struct bb *box;
	struct wqtrace_config config;
	struct wqtrace_shared *shared;
	struct tracefs_instance *instance;
	struct tep_handle *tep;
	struct tep_format_field *type_field, *flags_field, *pid_field;
	struct runner *runners; /* hash table by pid */
	unsigned n_runners;
	struct cpu_reader *readers;
	unsigned cpus;
	size_t page_size;
	struct wql *wql;
	struct ksyms *names;
	int64_t fed_ns, longest_gap_ns, longest_stall_ns;
	int64_t cpu_base_ms; /* what getting ready took */
	uint64_t pages, foreign, written, symbols_ms, lost, losses_counted;
	unsigned buffer_kib;
	char *json;
} tr;

static struct format formats[] = {
	{ .name = "workqueue_queue_work", .type = WQL_QUEUE },
	{ .name = "workqueue_activate_work", .type = WQL_ACTIVATE },
	{ .name = "workqueue_execute_start", .type = WQL_START },
	{ .name = "workqueue_execute_end", .type = WQL_END },
};

#define N_FORMATS (sizeof(formats) / sizeof(formats[0]))

/* --- Events of ours --- */

static void begin_event(struct jsonw *j, const char *kind, int64_t ns)
{
	jsonw_init(j, tr.json, JSON_SIZE);
	jsonw_object(j, NULL);
	jsonw_seconds(j, "t", ns);
	jsonw_str(j, "kind", kind);
}

static void end_event(struct jsonw *j, const char *raw)
{
	size_t len;

	jsonw_str(j, "raw", raw);
	jsonw_object_end(j);
	len = jsonw_line(j);
	if (len)
		bb_append(tr.box, BB_EVENT, j->buf, len);
}

static const char *function_name(uint64_t address, char *buf, size_t size)
{
	if (!address) {
		snprintf(buf, size, "(other)");
		return buf;
	}
	return ksyms_name(tr.names, address, buf, size);
}

static void on_stall(const struct wql_stall *s, void *unused)
{
	char function[160], hog[160], pool[48], raw[512];
	struct jsonw j;

	(void)unused;
	/* The worst is told even when there were many before it. */
	if (tr.written >= MAX_STALLS && s->waited_ns < tr.longest_stall_ns * 3 / 2)
		return;
	tr.written++;
	if (s->waited_ns > tr.longest_stall_ns)
		tr.longest_stall_ns = s->waited_ns;
	function_name(s->function, function, sizeof(function));
	begin_event(&j, "wq-stall", s->ns);
	jsonw_str(&j, "function", function);
	jsonw_i64(&j, "pool_cpu", s->pool_cpu);
	jsonw_bool(&j, "highpri", s->highpri);
	jsonw_fixed(&j, "waited_ms", s->waited_ns / 1000, 3);
	jsonw_bool(&j, "waiting", s->waiting);
	if (s->pool_cpu == WQL_UNBOUND)
		snprintf(pool, sizeof(pool), "an unbound pool");
	else
		snprintf(pool, sizeof(pool), "CPU %d%s", s->pool_cpu, s->highpri ? " (high priority)" : "");
	snprintf(raw, sizeof(raw), "%s %s for %.1f s for a worker of %s", function,
		 s->waiting ? "has been waiting" : "waited", (double)s->waited_ns / 1e9, pool);
	if (s->hog_ns) {
		size_t len = strlen(raw);

		jsonw_str(&j, "hog", function_name(s->hog, hog, sizeof(hog)));
		jsonw_fixed(&j, "hog_ms", s->hog_ns / 1000, 3);
		snprintf(raw + len, sizeof(raw) - len, "; %s ran for %.1f s of it", hog, (double)s->hog_ns / 1e9);
	}
	end_event(&j, raw);
}

static void put_times(struct jsonw *j, const char *prefix, const struct wql_times *t)
{
	unsigned last = WQL_BUCKETS;
	char key[32];

	snprintf(key, sizeof(key), "%s_n", prefix);
	jsonw_u64(j, key, t->n);
	snprintf(key, sizeof(key), "%s_total_ms", prefix);
	jsonw_fixed(j, key, t->total_ns / 1000, 3);
	snprintf(key, sizeof(key), "%s_max_ms", prefix);
	jsonw_fixed(j, key, t->max_ns / 1000, 3);
	snprintf(key, sizeof(key), "%s_histogram", prefix);
	while (last && !t->bucket[last - 1])
		last--;
	jsonw_array(j, key);
	for (unsigned i = 0; i < last; i++)
		jsonw_u64(j, NULL, t->bucket[i]);
	jsonw_array_end(j);
}

static bool put_pool(struct jsonw *j, int cpu, bool highpri, int64_t *max_ns)
{
	const struct wql_times *t = wql_pool(tr.wql, cpu, highpri);

	if (!t->n)
		return false;
	if (t->max_ns > *max_ns)
		*max_ns = t->max_ns;
	jsonw_object(j, NULL);
	jsonw_i64(j, "cpu", cpu);
	jsonw_bool(j, "highpri", highpri);
	put_times(j, "wait", t);
	jsonw_object_end(j);
	return true;
}

static int64_t rank_wait(const struct wql_function *f)
{
	return f->wait.n ? f->wait.max_ns : -1;
}

static int64_t rank_run(const struct wql_function *f)
{
	return f->run.n ? f->run.total_ns : -1;
}

static void put_top(struct jsonw *j, const char *key, int64_t (*rank)(const struct wql_function *))
{
	int64_t below = INT64_MAX;
	size_t after = 0, n = 0;
	char name[160];

	jsonw_array(j, key);
	/* Ten times the largest below the one before; of equal ones those further down the table. */
	while (n < TOP) {
		const struct wql_function *f, *best = NULL;
		size_t best_at = 0;

		for (size_t i = 0; (f = wql_function(tr.wql, i)); i++) {
			int64_t r = rank(f);

			if (r >= 0 && (r < below || (r == below && i > after)) && (!best || r > rank(best))) {
				best = f;
				best_at = i;
			}
		}
		if (!best)
			break;
		below = rank(best);
		after = best_at;
		n++;
		jsonw_object(j, NULL);
		jsonw_str(j, "function", function_name(best->address, name, sizeof(name)));
		put_times(j, "wait", &best->wait);
		put_times(j, "run", &best->run);
		jsonw_object_end(j);
	}
	jsonw_array_end(j);
}

/* From per_cpu/cpuN/stats: "overrun: 123". */
static uint64_t buffer_count(unsigned cpu, const char *key)
{
	char file[64], *text, *at;
	uint64_t value = 0;

	snprintf(file, sizeof(file), "per_cpu/cpu%u/stats", cpu);
	text = tracefs_instance_file_read(tr.instance, file, NULL);
	at = text ? strstr(text, key) : NULL;
	/* "commit overrun" has the other's name in it. */
	while (at && at != text && at[-1] != '\n')
		at = strstr(at + 1, key);
	if (at)
		value = strtoull(at + strlen(key), NULL, 10);
	free(text);
	return value;
}

static unsigned read_buffer_kib(void)
{
	long long kib = 0;

	return tracefs_instance_file_read_number(tr.instance, "buffer_size_kb", &kib) == 0 && kib > 0 ? (unsigned)kib
												      : 0;
}

/* Asked for when a loss was seen, and not at the end: what opens files may have to wait for memory. */
static void count_lost(void)
{
	if (tr.losses_counted == wql_counts(tr.wql)->losses)
		return;
	tr.losses_counted = wql_counts(tr.wql)->losses;
	tr.lost = 0;
	for (unsigned i = 0; i < tr.cpus; i++)
		tr.lost += buffer_count(i, "overrun: ") + buffer_count(i, "dropped events: ");
}

static void put_memory(struct jsonw *j)
{
	jsonw_u64(j, "buffer_kib_per_cpu", tr.buffer_kib);
	jsonw_u64(j, "buffers_kib", (uint64_t)tr.buffer_kib * tr.cpus);
	jsonw_u64(j, "symbols_kib", ksyms_size(tr.names) / 1024);
	jsonw_u64(j, "tables_kib", wql_size(tr.wql) / 1024);
}

static int64_t cpu_ms(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

static void write_begin(void)
{
	struct jsonw j;

	tr.cpu_base_ms = cpu_ms();
	begin_event(&j, "wq-trace-on", clock_ns());
	jsonw_u64(&j, "threshold_ms", tr.config.threshold_ms);
	put_memory(&j);
	jsonw_u64(&j, "symbols_read_ms", tr.symbols_ms);
	end_event(&j, "the workqueue tracepoints are followed");
}

/* Nothing in it asks the kernel for memory, or waits. */
static void write_result(void)
{
	const struct wql_counts *c = wql_counts(tr.wql);
	int64_t max_ns = 0;
	struct jsonw j;
	bool any = false;
	char raw[256];

	begin_event(&j, "wq-trace", clock_ns());
	jsonw_u64(&j, "threshold_ms", tr.config.threshold_ms);
	jsonw_u64(&j, "events", c->events);
	jsonw_u64(&j, "lost", tr.lost);
	jsonw_u64(&j, "losses", c->losses);
	jsonw_u64(&j, "stalls", c->stalls);
	jsonw_u64(&j, "stalls_written", tr.written);
	jsonw_object(&j, "left_out");
	jsonw_u64(&j, "dropped", c->dropped);
	jsonw_u64(&j, "blind", c->blind);
	jsonw_u64(&j, "requeued", c->requeued);
	jsonw_u64(&j, "replaced", c->replaced);
	jsonw_u64(&j, "never_started", c->never_started);
	jsonw_u64(&j, "waiting", wql_waiting(tr.wql));
	jsonw_u64(&j, "unmatched", c->unmatched);
	jsonw_u64(&j, "mismatched", c->mismatched);
	jsonw_u64(&j, "tables_full", c->waiting_full + c->running_full + c->functions_full);
	jsonw_u64(&j, "bad", c->bad + tr.foreign);
	jsonw_object_end(&j);
	put_memory(&j);
	jsonw_u64(&j, "pages_read", tr.pages);
	jsonw_fixed(&j, "longest_gap_ms", tr.longest_gap_ns / 1000, 3);
	jsonw_i64(&j, "cpu_ms", cpu_ms() - tr.cpu_base_ms);
	jsonw_array(&j, "pools");
	for (int cpu = WQL_UNBOUND; cpu < (int)tr.cpus; cpu++)
		any |= put_pool(&j, cpu, false, &max_ns) | (cpu != WQL_UNBOUND && put_pool(&j, cpu, true, &max_ns));
	jsonw_array_end(&j);
	if (any)
		jsonw_fixed(&j, "max_ms", max_ns / 1000, 3);
	put_top(&j, "by_wait", rank_wait);
	put_top(&j, "by_run", rank_run);
	snprintf(raw, sizeof(raw), "%" PRIu64 " events, %" PRIu64 " lost; longest wait %.3f s", c->events, tr.lost,
		 (double)max_ns / 1e9);
	end_event(&j, raw);
}

/* --- Reading --- */

static uint64_t number_at(struct tep_format_field *field, void *data)
{
	return field ? tep_read_number(tr.tep, (char *)data + field->offset, field->size) : 0;
}

/* "kworker/1:2", "kworker/1:2H-kblockd"; a rescuer bears its workqueue's name, from 6.8 on as "kworker/R-kcopyd". */
static enum runner_kind kind_of(const char *comm)
{
	const char *colon = strchr(comm, ':');

	if (strncmp(comm, "kworker/", 8) != 0 || !colon)
		return RUNNER_OTHER;
	colon++;
	return colon[strspn(colon, "0123456789")] == 'H' ? RUNNER_HIGHPRI : RUNNER_NORMAL;
}

/*
 * Who a process is, read when it is first seen; most are there before the load. Its name does not change. Where it
 * cannot be read it has ended, as only workers of a pool do.
 */
static enum runner_kind runner(uint32_t pid)
{
	unsigned slot = pid % MAX_RUNNERS;
	enum runner_kind kind;
	char path[32], comm[64];

	while (tr.runners[slot].kind != RUNNER_NONE && tr.runners[slot].pid != pid)
		slot = (slot + 1) % MAX_RUNNERS;
	if (tr.runners[slot].kind != RUNNER_NONE)
		return tr.runners[slot].kind;
	snprintf(path, sizeof(path), "/proc/%" PRIu32 "/comm", pid);
	if (sysfile_read(path, comm, sizeof(comm)) < 0)
		return RUNNER_NORMAL;
	kind = kind_of(comm);
	if (tr.n_runners < MAX_RUNNERS / 2) {
		tr.runners[slot].pid = pid;
		tr.runners[slot].kind = kind;
		tr.n_runners++;
	}
	return kind;
}

static void who_started(struct wql_event *e, void *data)
{
	/* In softirq it runs on top of whoever was there. */
	enum runner_kind kind = (number_at(tr.flags_field, data) & IN_INTERRUPT)
					? RUNNER_OTHER
					: runner((uint32_t)number_at(tr.pid_field, data));

	e->highpri = kind == RUNNER_HIGHPRI;
	e->out_of_turn = kind == RUNNER_OTHER;
}

static void feed(const struct cpu_reader *r, int cpu)
{
	int id = (int)number_at(tr.type_field, r->data);

	for (size_t i = 0; i < N_FORMATS; i++) {
		const struct format *f = &formats[i];
		struct wql_event e = { .type = f->type, .cpu = cpu, .ns = (int64_t)r->ns };

		if (f->id != id)
			continue;
		e.work = number_at(f->work, r->data);
		e.function = number_at(f->function, r->data);
		e.pool_cpu = (int)(int32_t)number_at(f->cpu, r->data);
		if (f->type == WQL_START)
			who_started(&e, r->data);
		wql_feed(tr.wql, &e);
		return;
	}
	tr.foreign++;
}

/* Have the CPU's next event at hand. False when there is none in this pass. */
static bool have_event(struct cpu_reader *r, int cpu)
{
	while (!r->data && !r->empty) {
		int missed;

		if (read(r->fd, r->page, tr.page_size) <= 0) {
			r->empty = true;
			break;
		}
		tr.pages++;
		if (kbuffer_load_subbuffer(r->kbuf, r->page) < 0)
			continue;
		missed = kbuffer_missed_events(r->kbuf);
		r->data = kbuffer_read_event(r->kbuf, &r->ns);
		if (missed && r->data) {
			struct wql_event e = {
				.type = WQL_LOST, .cpu = cpu, .ns = tr.fed_ns, .until_ns = (int64_t)r->ns
			};

			wql_feed(tr.wql, &e);
		}
	}
	return r->data;
}

/*
 * Feed all CPUs' events up to that time in its order. What a CPU whose buffer is found empty has to say is younger
 * than the beginning of the pass.
 */
static void pass(int64_t until_ns)
{
	for (unsigned i = 0; i < tr.cpus; i++)
		tr.readers[i].empty = false;
	for (;;) {
		struct cpu_reader *first = NULL;

		for (unsigned i = 0; i < tr.cpus; i++) {
			struct cpu_reader *r = &tr.readers[i];

			if (have_event(r, (int)i) && (!first || r->ns < first->ns))
				first = r;
		}
		if (!first || (int64_t)first->ns > until_ns)
			break;
		feed(first, (int)(first - tr.readers));
		tr.fed_ns = (int64_t)first->ns;
		first->data = kbuffer_next_event(first->kbuf, &first->ns);
	}
	if (until_ns > tr.fed_ns)
		tr.fed_ns = until_ns;
}

static void follow(void)
{
	int64_t last = clock_ns(), ticked = last;

	while (!atomic_load_explicit(&tr.shared->stop, memory_order_relaxed)) {
		int64_t now = clock_ns();

		if (now - last > tr.longest_gap_ns)
			tr.longest_gap_ns = now - last;
		last = now;
		pass(now - MARGIN_NS);
		if (now - ticked >= TICK_MS * NS_PER_MS) {
			wql_tick(tr.wql, now - MARGIN_NS);
			count_lost();
			ticked = now;
		}
		clock_sleep_ms(PERIOD_MS);
	}
	clock_sleep_ms(MARGIN_NS / NS_PER_MS);
	last = clock_ns();
	pass(last);
	wql_finish(tr.wql, last);
}

/* --- Life --- */

static int find_formats(void)
{
	static const char *const systems[] = { SYSTEM, NULL };

	tr.tep = tracefs_local_events_system(NULL, systems);
	if (!tr.tep)
		return -ENODEV;
	for (size_t i = 0; i < N_FORMATS; i++) {
		struct tep_event *event = tep_find_event_by_name(tr.tep, SYSTEM, formats[i].name);

		if (!event)
			return -ENODEV;
		formats[i].id = event->id;
		formats[i].work = tep_find_field(event, "work");
		formats[i].function = tep_find_field(event, "function");
		formats[i].cpu = tep_find_field(event, "cpu");
		tr.type_field = tep_find_common_field(event, "common_type");
		tr.flags_field = tep_find_common_field(event, "common_flags");
		tr.pid_field = tep_find_common_field(event, "common_pid");
		if (!formats[i].work || !tr.type_field || !tr.flags_field || !tr.pid_field ||
		    (formats[i].type == WQL_QUEUE && !formats[i].cpu))
			return -ENODEV;
	}
	return 0;
}

/* Kernel threads that are there already, so that as few as can be are looked up in the middle of the load. */
static void meet_runners(void)
{
	DIR *d = opendir("/proc");
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]))
			runner((uint32_t)strtoul(e->d_name, NULL, 10));
	if (d)
		closedir(d);
}

static int open_reader(struct cpu_reader *r, unsigned cpu)
{
	char file[64];

	snprintf(file, sizeof(file), "per_cpu/cpu%u/trace_pipe_raw", cpu);
	r->fd = tracefs_instance_file_open(tr.instance, file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	r->kbuf = kbuffer_alloc(KBUFFER_LSIZE_SAME_AS_HOST, KBUFFER_ENDIAN_SAME_AS_HOST);
	r->page = malloc(tr.page_size);
	return r->fd < 0 ? -ENODEV : !r->kbuf || !r->page ? -ENOMEM : 0;
}

static int set_instance(void)
{
	char kib[16];

	snprintf(kib, sizeof(kib), "%u", tr.config.buffer_kib);
	/* So that its times are ours; and no table of process names: nobody asks for them. */
	if (tracefs_instance_file_write(tr.instance, "trace_clock", "mono") < 0 ||
	    tracefs_instance_file_write(tr.instance, "buffer_size_kb", kib) < 0)
		return -errno;
	tracefs_instance_file_write(tr.instance, "options/record-cmd", "0");
	return 0;
}

static int enable(void)
{
	for (size_t i = 0; i < N_FORMATS; i++)
		if (tracefs_event_enable(tr.instance, SYSTEM, formats[i].name) < 0)
			return -errno;
	return tracefs_trace_on(tr.instance) < 0 ? -errno : 0;
}

static void disable(void)
{
	for (size_t i = 0; tr.instance && i < N_FORMATS; i++)
		tracefs_event_disable(tr.instance, SYSTEM, formats[i].name);
}

/* A process that was killed leaves its instance, and the kernel goes on filling it. */
static void remove_left_over(void)
{
	const char *dir = tracefs_tracing_dir();
	char path[256];

	snprintf(path, sizeof(path), "%s/instances/" INSTANCE, dir ? dir : "");
	rmdir(path);
}

static int prepare(const char **what)
{
	int64_t begin = clock_ns();
	int err = 0;

	tr.cpus = (unsigned)sysconf(_SC_NPROCESSORS_CONF);
	tr.page_size = (size_t)sysconf(_SC_PAGESIZE);
	*what = "memory";
	tr.wql = wql_new(tr.cpus, tr.config.threshold_ms * NS_PER_MS, on_stall, NULL);
	tr.readers = calloc(tr.cpus, sizeof(*tr.readers));
	tr.runners = calloc(MAX_RUNNERS, sizeof(*tr.runners));
	for (unsigned i = 0; tr.readers && i < tr.cpus; i++)
		tr.readers[i].fd = -1;
	if (!tr.wql || !tr.readers || !tr.runners)
		return -ENOMEM;
	*what = "events/" SYSTEM;
	err = find_formats();
	if (err)
		return err;
	meet_runners();
	/* Without names the addresses are told. */
	tr.names = ksyms_load("/proc/kallsyms", &err);
	tr.symbols_ms = (uint64_t)((clock_ns() - begin) / NS_PER_MS);
	*what = "instances/" INSTANCE;
	remove_left_over();
	errno = ENODEV;
	tr.instance = tracefs_instance_create(INSTANCE);
	if (!tr.instance)
		return errno ? -errno : -ENODEV;
	*what = "the instance's settings";
	err = set_instance();
	tr.buffer_kib = read_buffer_kib();
	for (unsigned i = 0; !err && i < tr.cpus; i++)
		err = open_reader(&tr.readers[i], i);
	if (err)
		return err;

	/* Best effort on purpose, as in the recorder. */
	sysfile_write("/proc/self/oom_score_adj", "-1000");
	setpriority(PRIO_PROCESS, 0, NICE);
	*what = "locked memory";
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0 && errno != EPERM && errno != ENOMEM)
		return -errno;
	*what = "enabling the events";
	return enable();
}

/*
 * This waits for a grace period of SRCU, whose work is done by the very workers that we watch: where a pool stands
 * still it takes as long as that does.
 */
static void remove_instance(void)
{
	disable();
	for (unsigned i = 0; tr.readers && i < tr.cpus; i++)
		if (tr.readers[i].fd >= 0)
			close(tr.readers[i].fd);
	if (tr.instance)
		tracefs_instance_destroy(tr.instance);
}

static int trace_main(void)
{
	const char *what = "";
	struct jsonw j;
	char raw[160];
	int err;

	tr.json = malloc(JSON_SIZE);
	if (!tr.json)
		return -ENOMEM;
	err = prepare(&what);
	if (err) {
		snprintf(raw, sizeof(raw), "%s: %s", what, strerror(-err));
		begin_event(&j, "wq-trace", clock_ns());
		jsonw_str(&j, "error", raw);
		end_event(&j, raw);
		remove_instance();
		return err;
	}
	write_begin();
	atomic_store(&tr.shared->ready, 1);
	follow();
	write_result();
	atomic_store(&tr.shared->written, 1);
	remove_instance();
	return 0;
}

int wqtrace_start(struct wqtrace *t, struct bb *box, const struct wqtrace_config *config)
{
	int64_t deadline = clock_ns() + READY_WAIT_MS * NS_PER_MS;
	pid_t parent = getpid();
	int ready, err = 0;

	t->shared = mmap(NULL, sizeof(*t->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t->shared == MAP_FAILED) {
		t->shared = NULL;
		return -errno;
	}
	t->pid = fork();
	if (t->pid == 0) {
		spawn_die_with(parent);
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		prctl(PR_SET_NAME, "hr-wqtrace");
		tr.box = box;
		tr.config = *config;
		tr.shared = t->shared;
		err = trace_main();
		if (err)
			atomic_store(&t->shared->ready, err);
		_exit(err ? 1 : 0);
	}
	if (t->pid < 0)
		err = -errno;
	while (!err && (ready = atomic_load(&t->shared->ready)) != 1) {
		if (ready < 0)
			err = ready;
		else if (waitpid(t->pid, NULL, WNOHANG) == t->pid) {
			t->pid = -1;
			err = -ECHILD;
		} else if (clock_ns() > deadline)
			err = -ETIMEDOUT;
		else
			clock_sleep_ms(5);
	}
	if (err) {
		int status;

		if (t->pid > 0 && !spawn_wait_until(t->pid, clock_ns() + NS_PER_S, &status)) {
			kill(t->pid, SIGKILL);
			spawn_wait_until(t->pid, clock_ns() + NS_PER_S, &status);
		}
		munmap(t->shared, sizeof(*t->shared));
		t->shared = NULL;
		remove_left_over();
	}
	return err;
}

int wqtrace_stop(struct wqtrace *t)
{
	int status, err = 0;

	if (!t->shared)
		return 0;
	atomic_store(&t->shared->stop, 1);
	if (!spawn_wait_until(t->pid, clock_ns() + STOP_WAIT_MS * NS_PER_MS, &status)) {
		/* With the result written it can only be waiting for the kernel. It goes on cleaning up behind us. */
		err = atomic_load(&t->shared->written) ? -EBUSY : -ETIMEDOUT;
		if (err == -ETIMEDOUT)
			kill(t->pid, SIGKILL);
	}
	munmap(t->shared, sizeof(*t->shared));
	t->shared = NULL;
	return err;
}
