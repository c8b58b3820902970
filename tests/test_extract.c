// SPDX-License-Identifier: MIT
/* From a black box, filled as a guest fills it, to the files of a record. */
#include "record/extract.h"
#include "t.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <sys/stat.h>

#define SIZE	 (4U << 20)
#define START_NS 6716489630LL /* the guest's clock at the start line, from a real run */
#define MARK	 "14,389,6681865,-;headroom: start line of 001-before-1 at 6716489630\n"

static const char report_head[] =
	"4,%d,%lld,-;fio invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO), order=0, "
	"oom_score_adj=0\n";
static const char report_summary[] =
	"4,%d,%lld,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
	"task_memcg=%s,task=%s,pid=%d,uid=0\n";
static const char report_kill[] =
	"3,%d,%lld,-;Out of memory: Killed process %d (%s) total-vm:2048980kB, anon-rss:220380kB, file-rss:4kB, "
	"shmem-rss:648kB, UID:0 pgtables:472kB oom_score_adj:0\n";

static void *memory;
static struct bb box;
static char *dir;
static struct extract_result result;
static int seq;

static int make(void **state)
{
	(void)state;
	memory = calloc(1, SIZE);
	if (!memory)
		return -1;
	bb_format(&box, memory, SIZE);
	atomic_store(&box.head->start_ns, START_NS);
	dir = t_dir();
	seq = 390; /* behind the mark: a gap would be a loss */
	return 0;
}

static int drop(void **state)
{
	(void)state;
	free(memory);
	t_remove(dir);
	return 0;
}

static void put(enum bb_type type, const char *text)
{
	assert_int_equal(bb_append(&box, type, text, strlen(text)), 0);
}

static void put_file(const char *name, const char *content)
{
	assert_int_equal(bb_append2(&box, BB_FILE, name, strlen(name) + 1, content, strlen(content)), 0);
}

static void kmsg(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void kmsg(const char *fmt, ...)
{
	char text[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	put(strtoul(text, NULL, 10) >> 3 ? BB_USER_KMSG : BB_KMSG, text);
}

/* The lines of a kill that matter, at a kernel stamp. No group: the kernel's rate limit swallowed the summary. */
static void oom_kill(int64_t usec, int pid, const char *comm, const char *group)
{
	if (group) {
		kmsg(report_head, seq++, (long long)usec);
		kmsg(report_summary, seq++, (long long)usec + 10, group, comm, pid);
	}
	kmsg(report_kill, seq++, (long long)usec + 20, pid, comm);
}

static void extract_with(const char *console)
{
	assert_int_equal(extract_record(&box, dir, console, &result), 0);
}

static void extract(void)
{
	extract_with(NULL);
}

/* A file of the record, NUL-terminated; "" when it is empty. The caller frees it. */
/* A JSON-lines file as an array. Every line must be an object. */
static json_t *lines_of(const char *name)
{
	char *text = t_read(dir, name), *rest = text, *line;
	json_t *all = json_array();

	while ((line = strsep(&rest, "\n"))) {
		json_t *object;

		if (!*line)
			continue;
		object = json_loads(line, 0, NULL);
		if (!json_is_object(object))
			fail_msg("%s: not an object: %s", name, line);
		json_array_append_new(all, object);
	}
	free(text);
	return all;
}

static const char *string(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : "";
}

static double time_of(const json_t *object)
{
	return json_number_value(json_object_get(object, "t"));
}

static size_t count_kind(const json_t *events, const char *kind)
{
	size_t n = 0, i;
	json_t *e;

	json_array_foreach (events, i, e)
		n += strcmp(string(e, "kind"), kind) == 0;
	return n;
}

static json_t *victim_of(const json_t *events, const char *comm)
{
	size_t i;
	json_t *e;

	json_array_foreach (events, i, e) {
		json_t *v = json_object_get(e, "victim");

		if (v && strcmp(string(v, "comm"), comm) == 0)
			return v;
	}
	return NULL;
}

static bool exists(const char *name)
{
	char path[PATH_MAX];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return lstat(path, &st) == 0;
}

static void times_are_seconds_since_the_start_line(void **state)
{
	json_t *samples, *events;

	(void)state;
	put(BB_EVENT, "{\"t\":3.716489,\"kind\":\"phase\",\"name\":\"setup\",\"raw\":\"setup\"}\n");
	put(BB_SAMPLE, "{\"t\":5.716489,\"late_ms\":0.4,\"mem\":{\"MemFree\":1}}\n");
	kmsg(MARK);
	put(BB_SAMPLE, "{\"t\":7.716489,\"late_ms\":0.4,\"mem\":{\"MemFree\":2}}\n");
	extract();
	assert_int_equal(result.samples, 2);
	assert_int_equal(result.bad_lines, 0);
	samples = lines_of("samples.jsonl");
	events = lines_of("events.jsonl");
	assert_true(time_of(json_array_get(samples, 0)) < -0.999 && time_of(json_array_get(samples, 0)) > -1.001);
	assert_true(time_of(json_array_get(samples, 1)) > 0.999 && time_of(json_array_get(samples, 1)) < 1.001);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(json_array_get(samples, 1), "mem"), "MemFree")), 2);
	assert_true(time_of(json_array_get(events, 0)) < -2.999 && time_of(json_array_get(events, 0)) > -3.001);
	assert_string_equal(string(json_array_get(events, 0), "source"), "harness");
	assert_string_equal(string(json_array_get(events, 0), "name"), "setup");
	json_decref(samples);
	json_decref(events);
}

/* The mark says that kernel stamp 6.681865 is START_NS: the kernel's clock is 34.6 ms behind. */
static void kernel_stamps_are_moved_by_the_mark(void **state)
{
	json_t *events;

	(void)state;
	oom_kill(8681865, 132, "fio", "/headroom/workload"); /* before the mark in the box: order does not matter */
	kmsg(MARK);
	extract();
	events = lines_of("events.jsonl");
	assert_int_equal(json_array_size(events), 1);
	assert_true(time_of(json_array_get(events, 0)) > 1.9999 && time_of(json_array_get(events, 0)) < 2.0001);
	assert_string_equal(string(json_array_get(events, 0), "source"), "kmsg");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(events, 0), "seq")), 392);
	json_decref(events);
}

static void without_a_mark_the_two_clocks_count_as_one(void **state)
{
	json_t *events;

	(void)state;
	oom_kill(8716489, 132, "fio", "/headroom/workload");
	kmsg("14,%d,9000000,-;headroom: start line of\n", seq++); /* cut off: no mark */
	kmsg("14,%d,9000001,-;headroom: start line of 001 at never\n", seq++);
	extract();
	events = lines_of("events.jsonl");
	assert_int_equal(json_array_size(events), 1);
	assert_true(time_of(json_array_get(events, 0)) > 1.999 && time_of(json_array_get(events, 0)) < 2.001);
	json_decref(events);
}

static void load(const char *kind, const char *workload, int t)
{
	char line[160];

	snprintf(line, sizeof(line), "{\"t\":%d.000000,\"kind\":\"load-%s\",\"workload\":\"%s\",\"raw\":\"\"}\n", t,
		 kind, workload);
	put(BB_EVENT, line);
}

static json_t *active_at(const json_t *events, double t)
{
	json_t *event;
	size_t i;

	json_array_foreach (events, i, event)
		if (strcmp(string(event, "kind"), "stuck") == 0 && fabs(time_of(event) + START_NS / 1e9 - t) < 0.5)
			return json_object_get(event, "active");
	return NULL;
}

static void a_stall_says_whose_load_was_under_way(void **state)
{
	json_t *events, *active;

	(void)state;
	/* Not in order of time: the box is written by several. */
	for (int t = 2; t <= 8; t += 2) {
		char line[160];

		snprintf(line, sizeof(line), "{\"t\":%d.000000,\"kind\":\"stuck\",\"raw\":\"\"}\n", t);
		put(BB_EVENT, line);
	}
	load("begin", "swap-crypt", 3);
	load("end", "swap-crypt", 7);
	load("begin", "snapshot-cow", 1);
	load("begin", "a \\\" b", 1);  /* no name of a workload */
	load("end", "mem-offline", 5); /* never began */
	put(BB_EVENT, "{\"t\":5.000000,\"kind\":\"done\",\"raw\":\"\\\"kind\\\":\\\"oom-kill\\\"\"}\n");
	extract();
	events = lines_of("events.jsonl");
	active = active_at(events, 2);
	assert_int_equal(json_array_size(active), 1);
	assert_string_equal(json_string_value(json_array_get(active, 0)), "snapshot-cow");
	for (int t = 4; t <= 6; t += 2) {
		active = active_at(events, t);
		assert_int_equal(json_array_size(active), 2);
		assert_string_equal(json_string_value(json_array_get(active, 1)), "swap-crypt");
	}
	active = active_at(events, 8);
	assert_int_equal(json_array_size(active), 1);
	json_decref(events);
}

static void of_one_workload_it_need_not_be_said(void **state)
{
	json_t *events;

	(void)state;
	load("begin", "swap-crypt", 1);
	put(BB_EVENT, "{\"t\":2.000000,\"kind\":\"stuck\",\"raw\":\"\"}\n");
	extract();
	events = lines_of("events.jsonl");
	assert_null(active_at(events, 2));
	json_decref(events);
}

static void events_come_out_in_order_of_time(void **state)
{
	static const char *const order[] = { "phase", "knob", "oom-kill", "exit", "oom-kill", "done" };
	json_t *events;
	double last = -1e9;

	(void)state;
	put(BB_EVENT, "{\"t\":20.000000,\"kind\":\"done\",\"raw\":\"\"}\n");
	put(BB_EVENT, "{\"t\":1.000000,\"kind\":\"phase\",\"name\":\"setup\",\"raw\":\"\"}\n");
	put(BB_EVENT,
	    "{\"t\":1.000000,\"kind\":\"knob\",\"name\":\"k\",\"raw\":\"\"}\n"); /* same instant: as it came */
	kmsg(MARK);
	oom_kill(9000000, 1, "one", "/headroom/workload");
	put(BB_EVENT, "{\"t\":11.000000,\"kind\":\"exit\",\"raw\":\"\"}\n");
	oom_kill(15000000, 2, "two", "/headroom/workload");
	extract();
	events = lines_of("events.jsonl");
	assert_int_equal(result.events, 6);
	assert_int_equal(json_array_size(events), 6);
	for (size_t i = 0; i < 6; i++) {
		assert_string_equal(string(json_array_get(events, i), "kind"), order[i]);
		assert_true(time_of(json_array_get(events, i)) >= last);
		last = time_of(json_array_get(events, i));
	}
	json_decref(events);
}

static void a_victims_role_is_its_cgroup_else_its_pid_else_bystander(void **state)
{
	static const struct {
		const char *comm, *role;
	} expected[] = {
		{ "fio", "workload" },	   { "idle", "bystander" },    { "verify", "harness" },
		{ "by-pid", "workload" },  { "unknown", "bystander" }, { "elsewhere", "workload" },
		{ "nested", "bystander" }, { "odd", "bystander" },
	};
	json_t *events;

	(void)state;
	put(BB_EVENT,
	    "{\"t\":7.000000,\"kind\":\"spawn\",\"role\":\"workload\",\"comm\":\"x\",\"pid\":213,\"raw\":\"\"}\n");
	put(BB_EVENT, "{\"t\":7.000001,\"kind\":\"exit\",\"role\":\"harness\",\"pid\":214,\"raw\":\"\"}\n");
	put(BB_EVENT, "{\"t\":7.000002,\"kind\":\"spawn\",\"role\":7,\"pid\":214,\"raw\":\"\"}\n");
	put(BB_EVENT, "{\"t\":7.000003,\"kind\":\"spawn\",\"pid\":214,\"raw\":\"\"}\n");
	kmsg(MARK);
	oom_kill(8000000, 100, "fio", "/headroom/workload");
	oom_kill(13000000, 101, "idle", "/headroom/bystander");
	oom_kill(18000000, 102, "verify", "/headroom/harness");
	oom_kill(23000000, 213, "by-pid", NULL);
	oom_kill(28000000, 214, "unknown", NULL);
	oom_kill(33000000, 213, "elsewhere", "/system.slice");
	oom_kill(38000000, 103, "nested", "/headroom/workload-not");
	oom_kill(43000000, 104, "odd", "/headroom/");
	extract();
	events = lines_of("events.jsonl");
	assert_int_equal(count_kind(events, "oom-kill"), 8);
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		json_t *v = victim_of(events, expected[i].comm);

		assert_non_null(v);
		assert_string_equal(string(v, "role"), expected[i].role);
	}
	json_decref(events);
}

/* A pid that is used again belongs to the process that had it last. */
static void a_pid_used_again_takes_the_newer_role(void **state)
{
	json_t *events;

	(void)state;
	put(BB_EVENT, "{\"t\":7.000000,\"kind\":\"spawn\",\"role\":\"harness\",\"pid\":300,\"raw\":\"\"}\n");
	put(BB_EVENT, "{\"t\":9.000000,\"kind\":\"spawn\",\"role\":\"workload\",\"pid\":300,\"raw\":\"\"}\n");
	kmsg(MARK);
	oom_kill(12000000, 300, "fio", NULL);
	extract();
	events = lines_of("events.jsonl");
	assert_string_equal(string(victim_of(events, "fio"), "role"), "workload");
	json_decref(events);
}

/* The rest of a memory.oom.group is named without its cgroup; a load has children that nobody told of. */
static void a_child_nobody_told_of_takes_the_role_of_its_name(void **state)
{
	json_t *events;

	(void)state;
	put(BB_EVENT,
	    "{\"t\":7.000000,\"kind\":\"spawn\",\"role\":\"workload\",\"comm\":\"a-name-longer-than-a-task-has\","
	    "\"pid\":300,\"raw\":\"\"}\n");
	put(BB_EVENT,
	    "{\"t\":77.000000,\"kind\":\"spawn\",\"role\":\"harness\",\"comm\":\"a-name-longer-than-a-task-has\","
	    "\"pid\":301,\"raw\":\"\"}\n"); /* not yet */
	kmsg(MARK);
	oom_kill(12000000, 301, "a-name-longer-t", NULL);
	oom_kill(22000000, 302, "a-name", NULL);
	extract();
	events = lines_of("events.jsonl");
	assert_string_equal(string(victim_of(events, "a-name-longer-t"), "role"), "workload");
	assert_string_equal(string(victim_of(events, "a-name"), "role"), "bystander");
	json_decref(events);
}

static void the_kernel_log_is_kept_as_it_was(void **state)
{
	char *log;

	(void)state;
	kmsg("6,1,0,-;Command line: console=ttyS0\n");
	kmsg("5,2,10,-;virtio_blk\n SUBSYSTEM=virtio\n DEVICE=+virtio:virtio0\n");
	kmsg("6,3,20,-;no newline");
	kmsg("not a record\n");
	extract();
	assert_int_equal(result.kmsg_records, 3);
	assert_int_equal(result.bad_lines, 1);
	log = t_read(dir, "kmsg.log");
	assert_string_equal(log, "6,1,0,-;Command line: console=ttyS0\n"
				 "5,2,10,-;virtio_blk\n SUBSYSTEM=virtio\n DEVICE=+virtio:virtio0\n"
				 "6,3,20,-;no newline\nnot a record\n");
	free(log);
}

static const char console_panic[] =
	"[   10.000000] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled\r\n"
	"[   10.000100] CPU: 1 PID: 97 Comm: fio Not tainted 6.1.0-56-amd64 #1  Debian 6.1.192-2\r\n"
	"[   10.000200] Call Trace:\r\n"
	"[   10.000300]  <TASK>\r\n"
	"[   10.000400]  dump_stack_lvl+0x44/0x5c\r\n"
	"[   10.000500]  panic+0x118/0x2ed\r\n"
	"[   10.000600]  </TASK>\r\n"
	"[   10.000700] ---[ end Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled "
	"]---\r\n";

/* What both have is told once: the box's part of the console is skipped, up to and including the last stamp. */
static void the_console_goes_on_where_the_box_ends(void **state)
{
	char path[PATH_MAX], text[4096];
	json_t *events, *panic = NULL;
	size_t i;
	json_t *e;

	(void)state;
	kmsg(MARK);
	oom_kill(8000000, 132, "fio", "/headroom/workload");
	snprintf(text, sizeof(text),
		 "SeaBIOS (version 1.16.2)\r\n\r\nheadroom-init: exec /usr/bin/headroom\r\n"
		 "[    8.000020] Out of memory: Killed process 132 (fio) total-vm:2048980kB, anon-rss:220380kB, "
		 "file-rss:4kB, shmem-rss:648kB, UID:0 pgtables:472kB oom_score_adj:0\r\n%s",
		 console_panic);
	t_write(dir, "console.log", text);
	snprintf(path, sizeof(path), "%s/console.log", dir);
	extract_with(path);
	events = lines_of("events.jsonl");
	assert_int_equal(count_kind(events, "oom-kill"), 1);
	assert_int_equal(count_kind(events, "panic"), 1);
	json_array_foreach (events, i, e)
		if (strcmp(string(e, "kind"), "panic") == 0)
			panic = e;
	assert_string_equal(string(panic, "source"), "console");
	assert_non_null(strstr(string(panic, "reason"), "panic_on_oom"));
	assert_true(time_of(panic) > 3.31 && time_of(panic) < 3.32);
	assert_true(result.console_records >= 8);
	json_decref(events);
}

/* Stamps are taken before the log's lock, so a CPU that was held up is stored with an older one, last of all. */
static void the_console_is_matched_although_stamps_run_back(void **state)
{
	static const char lockup[] = "BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 34s!";
	char path[PATH_MAX], text[512];
	json_t *events;

	(void)state;
	kmsg(MARK);
	kmsg("1,%d,8000020,-;%s\n", seq++, lockup);
	kmsg("4,%d,7999990,-;hrtimer: interrupt took 20011530 ns\n", seq++);
	snprintf(text, sizeof(text), "[    8.000020] %s\n[    7.999990] hrtimer: interrupt took 20011530 ns\n", lockup);
	t_write(dir, "console.log", text);
	snprintf(path, sizeof(path), "%s/console.log", dir);
	extract_with(path);
	events = lines_of("events.jsonl");
	assert_int_equal(count_kind(events, "wq-lockup"), 1);
	json_decref(events);
}

/* The serial line ends its lines with CR LF. */
static void a_panic_in_both_is_one_panic(void **state)
{
	char path[PATH_MAX];
	json_t *events;

	(void)state;
	kmsg(MARK);
	kmsg("0,390,10000000,-;Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled\n");
	t_write(dir, "console.log", console_panic);
	snprintf(path, sizeof(path), "%s/console.log", dir);
	extract_with(path);
	events = lines_of("events.jsonl");
	assert_int_equal(count_kind(events, "panic"), 1);
	json_decref(events);
}

static void a_machine_that_never_got_to_us_is_told_by_its_console(void **state)
{
	char path[PATH_MAX];
	json_t *events;

	(void)state;
	atomic_store(&box.head->start_ns, 0);
	t_write(dir, "console.log", console_panic);
	snprintf(path, sizeof(path), "%s/console.log", dir);
	extract_with(path);
	assert_int_equal(result.samples, 0);
	assert_int_equal(result.kmsg_records, 0);
	events = lines_of("events.jsonl");
	assert_int_equal(json_array_size(events), 1);
	assert_true(time_of(json_array_get(events, 0)) == 10.0); /* since boot */
	json_decref(events);
	snprintf(path, sizeof(path), "%s/no-such.log", dir);
	extract_with(path);
	assert_int_equal(result.events, 0);
}

/* One loss is one event, whoever noticed: the recorder's gap is the classifier's gap. */
static void lost_log_records_are_told_once(void **state)
{
	json_t *events;

	(void)state;
	kmsg(MARK);
	put(BB_EVENT, "{\"t\":9.000000,\"kind\":\"kmsg-lost\",\"lost\":10,\"seq\":400,\"raw\":\"\"}\n");
	kmsg("6,400,9000000,-;after the gap\n");
	extract();
	events = lines_of("events.jsonl");
	assert_int_equal(count_kind(events, "kmsg-lost"), 1);
	json_decref(events);
}

/* Its own lines and those of user space lie apart in the box; the classifier must see them in their order. */
static void the_two_parts_of_the_log_are_one_again(void **state)
{
	char *text;

	(void)state;
	kmsg("6,1,1000,-;kernel one\n");
	kmsg("6,3,3000,-;kernel three\n");
	kmsg("14,2,2000,-;user two\n");
	kmsg("14,4,4000,-;user four\n");
	kmsg("6,5,5000,-;kernel five\n");
	extract();
	text = t_read(dir, "kmsg.log");
	assert_string_equal(text, "6,1,1000,-;kernel one\n14,2,2000,-;user two\n6,3,3000,-;kernel three\n"
				  "14,4,4000,-;user four\n6,5,5000,-;kernel five\n");
	free(text);
	assert_int_equal(result.kmsg_dropped, 0);
}

static void lines_that_gave_way_in_the_box_are_no_loss_of_the_log(void **state)
{
	json_t *events, *e;
	size_t i;

	(void)state;
	kmsg("6,1,1000,-;kernel one\n");
	put(BB_EVENT, "{\"t\":9.000000,\"kind\":\"kmsg-lost\",\"lost\":10,\"seq\":50,\"raw\":\"\"}\n");
	kmsg("6,100,2000,-;kernel hundred\n"); /* 98 are missing: 10 were never read, 88 the box gave up */
	kmsg("14,200,3000,-;user two hundred\n");
	extract();
	assert_int_equal(result.kmsg_dropped, 88 + 99);
	events = lines_of("events.jsonl");
	assert_int_equal(count_kind(events, "kmsg-lost"), 1);
	json_array_foreach (events, i, e)
		assert_int_equal(json_integer_value(json_object_get(e, "count")) +
					 json_integer_value(json_object_get(e, "lost")),
				 10);
	json_decref(events);
}

static void an_event_kept_by_the_recorder_gets_its_time_and_its_role(void **state)
{
	json_t *events, *e;

	(void)state;
	kmsg(MARK);
	put(BB_KERNEL_EVENT,
	    "{\"t\":9.681865,\"kind\":\"oom-kill\",\"source\":\"kmsg\",\"victim\":{\"pid\":77,\"comm\":\"fio\"},"
	    "\"raw\":\"...\"}\n");
	put(BB_EVENT,
	    "{\"t\":7.000000,\"kind\":\"spawn\",\"role\":\"workload\",\"comm\":\"x\",\"pid\":77,\"raw\":\"\"}\n");
	put(BB_KERNEL_EVENT, "{\"t\":null,\"kind\":\"warn\",\"source\":\"kmsg\",\"raw\":\"\"}\n");
	put(BB_KERNEL_EVENT, "no json\n");
	put(BB_KERNEL_EVENT, "{\"t\":1e300,\"victim\":[]}\n");
	extract();
	events = lines_of("events.jsonl");
	e = json_array_get(events, 1);
	assert_string_equal(string(e, "kind"), "oom-kill");
	assert_true(fabs(time_of(e) - 3.0) < 1e-6); /* the mark is at 6.681865 */
	assert_string_equal(string(json_object_get(e, "victim"), "role"), "workload");
	assert_int_equal(result.bad_lines, 1);
	json_decref(events);
}

static void a_flood_of_users_lines_costs_no_kernel_event(void **state)
{
	json_t *events;

	(void)state;
	oom_kill(9000000, 100, "first", "/headroom/workload");
	for (int i = 0; i < 20000; i++)
		kmsg("14,%d,9500000,-;a line of user space, one of very many that nobody will ever read\n", seq++);
	oom_kill(9900000, 200, "last", "/headroom/workload");
	extract();
	assert_true(result.kmsg_dropped > 1000);
	assert_int_equal(atomic_load(&box.head->lost), 0);
	events = lines_of("events.jsonl");
	assert_int_equal(count_kind(events, "oom-kill"), 2);
	assert_int_equal(count_kind(events, "kmsg-lost"), 0);
	json_decref(events);
}

static void an_empty_box_gives_empty_files(void **state)
{
	char *text;

	(void)state;
	atomic_store(&box.head->start_ns, 0);
	extract();
	assert_int_equal(result.samples + result.events + result.kmsg_records + result.torn + result.bad_lines, 0);
	for (size_t i = 0; i < 3; i++) {
		text = t_read(dir, (const char *[]){ "samples.jsonl", "events.jsonl", "kmsg.log" }[i]);
		assert_string_equal(text, "");
		free(text);
	}
	assert_false(exists("tools"));
}

static void without_a_start_line_t_counts_from_boot(void **state)
{
	json_t *samples, *events;

	(void)state;
	atomic_store(&box.head->start_ns, 0);
	put(BB_EVENT, "{\"t\":4.671744,\"kind\":\"fail\",\"raw\":\"no scratch\"}\n");
	put(BB_SAMPLE, "{\"t\":5.000000}\n");
	oom_kill(6000000, 1, "init", "/headroom/harness");
	extract();
	samples = lines_of("samples.jsonl");
	events = lines_of("events.jsonl");
	assert_true(time_of(json_array_get(samples, 0)) == 5.0);
	assert_true(time_of(json_array_get(events, 0)) == 4.671744);
	assert_string_equal(string(json_array_get(events, 1), "kind"), "oom-kill");
	assert_true(time_of(json_array_get(events, 1)) == 6.00002);
	json_decref(samples);
	json_decref(events);
}

static void tools_files_keep_name_and_content(void **state)
{
	char *text;

	(void)state;
	put_file("fio-write.json", "{\"a\": 1}\n");
	put_file("empty", "");
	extract();
	text = t_read(dir, "tools/fio-write.json");
	assert_string_equal(text, "{\"a\": 1}\n");
	free(text);
	text = t_read(dir, "tools/empty");
	assert_string_equal(text, "");
	free(text);
}

/* The box is written by a machine that is falling over: its names are not to be trusted, and cost only themselves. */
static void hostile_file_names_cost_only_themselves(void **state)
{
	static const char *const names[] = { "../x", "/etc/x", "a/b", "..", ".", ".hidden", "" };
	char long_name[400], *text;
	size_t bad = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++, bad++)
		put_file(names[i], "evil");
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	put_file(long_name, "evil"); /* no file system takes it */
	bad++;
	put(BB_FILE, "no end of the name");
	put(BB_FILE, "");
	bad += 2;
	put_file("good", "good");
	put(BB_SAMPLE, "{\"t\":8.000000}\n");
	extract();
	assert_int_equal(result.bad_lines, bad);
	assert_int_equal(result.samples, 1);
	text = t_read(dir, "tools/good");
	assert_string_equal(text, "good");
	free(text);
	assert_false(exists("x"));
	assert_false(exists("tools/a"));
	assert_false(exists("tools/.hidden"));
}

static void lines_that_are_cut_off_are_counted_and_left_out(void **state)
{
	static const char *const bad[] = {
		"",
		"\n",
		"{",
		"{\"t\":",
		"{\"t\":7.71",
		"{\"t\":7.716489",
		"{\"t\":7.716489,\"late_ms\":0.4,\"mem\":{",
		"{\"t\":7.716489\n",
		"{\"t\":7.7164,\"x\":1}\n",
		"{\"t\":-7.716489,\"x\":1}\n",
		"{\"t\":7,\"x\":1}\n",
		"{\"x\":1,\"t\":7.716489}\n",
		"[1]\n",
		"\0\0\0\n",
	};
	size_t n = sizeof(bad) / sizeof(bad[0]);

	(void)state;
	for (size_t i = 0; i < n; i++) {
		put(BB_SAMPLE, bad[i]);
		put(BB_EVENT, bad[i]);
	}
	put(BB_SAMPLE, "{\"t\":7.716489,\"late_ms\":0.4}\n");
	put(BB_EVENT, "{\"t\":7.716489,\"kind\":\"start\",\"raw\":\"\"}\n");
	extract();
	assert_int_equal(result.samples, 1);
	assert_int_equal(result.events, 1);
	assert_int_equal(result.bad_lines, 2 * n);
	json_decref(lines_of("samples.jsonl"));
	json_decref(lines_of("events.jsonl"));
}

/* Every file of a record is JSON lines whatever the box holds: what is no object is not copied into it. */
static void a_body_that_is_no_json_does_not_get_into_the_record(void **state)
{
	static const char nul[] = "{\"t\":7.716489,\"kind\":\"st\0rt\",\"raw\":\"\"}\n";

	(void)state;
	put(BB_SAMPLE, "{\"t\":7.716489,\"mem\":{\"MemFree\":\n");
	put(BB_SAMPLE, "{\"t\":7.716489}{\"t\":0}\n");
	put(BB_EVENT, "{\"t\":7.716489,\"kind\":\"sta\n");
	assert_int_equal(bb_append(&box, BB_EVENT, nul, sizeof(nul) - 1), 0);
	extract();
	assert_int_equal(result.bad_lines, 4);
	json_decref(lines_of("samples.jsonl"));
	json_decref(lines_of("events.jsonl"));
}

static void numbers_without_end_do_no_harm(void **state)
{
	(void)state;
	put(BB_SAMPLE, "{\"t\":99999999999999999999999999999999.000000}\n");
	put(BB_EVENT, "{\"t\":9223372036854775807.000000,\"kind\":\"phase\",\"raw\":\"\"}\n");
	put(BB_SAMPLE, "{\"t\":1.2.3.000000}\n");
	kmsg("3,500,999999999999999999,-;Out of memory: Killed process 1 (x) total-vm:1kB, anon-rss:1kB, file-rss:1kB, "
	     "shmem-rss:1kB, UID:0 pgtables:1kB oom_score_adj:0\n");
	kmsg("14,501,999999999999999999,-;headroom: start line of x at 999999999999999999999\n");
	extract();
	json_decref(lines_of("samples.jsonl"));
	json_decref(lines_of("events.jsonl"));
}

static void torn_records_are_counted_and_cost_no_other(void **state)
{
	uint64_t hole;
	json_t *events;

	(void)state;
	put(BB_EVENT, "{\"t\":7.000000,\"kind\":\"phase\"}\n");
	hole = atomic_load(&box.head->tail);
	put(BB_EVENT, "{\"t\":7.100000,\"kind\":\"phase\"}\n");
	put(BB_EVENT, "{\"t\":7.200000,\"kind\":\"phase\"}\n");
	*(uint32_t *)((char *)memory + hole + 8) = 0; /* the commit word */
	extract();
	assert_int_equal(result.torn, 1);
	assert_int_equal(result.events, 2);
	events = lines_of("events.jsonl");
	assert_int_equal(json_array_size(events), 2);
	json_decref(events);
}

static void a_scribbled_box_is_survived(void **state)
{
	static const char *const seeds[] = {
		"{\"t\":7.000000,\"kind\":\"spawn\",\"role\":\"x\",\"pid\":1,\"raw\":\"\"}\n", MARK, "name"
	};

	(void)state;
	srand(17);
	for (int round = 0; round < 40; round++) {
		memset(memory, 0, BB_LOG_OFFSET * 3);
		bb_format(&box, memory, BB_LOG_OFFSET * 3);
		atomic_store(&box.head->start_ns, START_NS);
		for (int i = 0; i < 100; i++)
			bb_append(&box, (enum bb_type)(1 + rand() % BB_KERNEL_EVENT), seeds[i % 3],
				  strlen(seeds[i % 3]) + 1);
		for (int i = 0; i < 60; i++)
			((unsigned char *)memory)[BB_LOG_OFFSET + (unsigned)rand() % (2 * BB_LOG_OFFSET)] ^=
				(unsigned char)(1U << rand() % 8);
		if (round % 2) {
			atomic_store(&box.head->tail, (uint64_t)rand() << 32);
			atomic_store(&box.head->turns[BB_SAMPLES], UINT64_MAX);
			atomic_store(&box.head->parts[BB_USER_LOG][0].used, UINT64_MAX);
			atomic_store(&box.head->parts[BB_KERNEL_LOG][0].used, (uint64_t)rand());
		}
		assert_int_equal(extract_record(&box, dir, NULL, &result), 0);
	}
}

static void a_directory_that_is_not_there_is_an_error(void **state)
{
	(void)state;
	put(BB_SAMPLE, "{\"t\":7.000000}\n");
	assert_int_equal(extract_record(&box, "/nonexistent", NULL, &result), -ENOENT);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(times_are_seconds_since_the_start_line),
		TEST(kernel_stamps_are_moved_by_the_mark),
		TEST(without_a_mark_the_two_clocks_count_as_one),
		TEST(a_stall_says_whose_load_was_under_way),
		TEST(of_one_workload_it_need_not_be_said),
		TEST(events_come_out_in_order_of_time),
		TEST(a_victims_role_is_its_cgroup_else_its_pid_else_bystander),
		TEST(a_pid_used_again_takes_the_newer_role),
		TEST(a_child_nobody_told_of_takes_the_role_of_its_name),
		TEST(the_kernel_log_is_kept_as_it_was),
		TEST(the_console_goes_on_where_the_box_ends),
		TEST(the_console_is_matched_although_stamps_run_back),
		TEST(a_panic_in_both_is_one_panic),
		TEST(a_machine_that_never_got_to_us_is_told_by_its_console),
		TEST(lost_log_records_are_told_once),
		TEST(the_two_parts_of_the_log_are_one_again),
		TEST(lines_that_gave_way_in_the_box_are_no_loss_of_the_log),
		TEST(an_event_kept_by_the_recorder_gets_its_time_and_its_role),
		TEST(a_flood_of_users_lines_costs_no_kernel_event),
		TEST(an_empty_box_gives_empty_files),
		TEST(without_a_start_line_t_counts_from_boot),
		TEST(tools_files_keep_name_and_content),
		TEST(hostile_file_names_cost_only_themselves),
		TEST(lines_that_are_cut_off_are_counted_and_left_out),
		TEST(a_body_that_is_no_json_does_not_get_into_the_record),
		TEST(numbers_without_end_do_no_harm),
		TEST(torn_records_are_counted_and_cost_no_other),
		TEST(a_scribbled_box_is_survived),
		TEST(a_directory_that_is_not_there_is_an_error),
	};

	return cmocka_run_group_tests_name("extract", tests, NULL, NULL);
}
