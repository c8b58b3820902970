// SPDX-License-Identifier: MIT
/*
 * Kernel-log classifier.
 *
 * tests/fixtures/kmsg/X.log with X.jsonl beside it is a golden pair: what `headroom events X.log` prints, byte for
 * byte. After a wanted change of the output: build/headroom events X.log > X.jsonl, and read the difference.
 */
#include "record/events.h"
#include "record/klog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define CAUGHT_MAX 64

struct caught {
	struct klog_event ev;
	char raw[KLOG_RAW_MAX + 1];
};

struct result {
	unsigned n;
	uint64_t count[KLOG_KINDS];
	bool keep;
	struct caught *caught; /* CAUGHT_MAX */
};

static struct result res;

static void on_event(struct klog_event *ev, void *arg)
{
	struct result *r = arg;

	assert_true(ev->raw_len <= KLOG_RAW_MAX);
	assert_int_equal(ev->raw[ev->raw_len], '\0');
	assert_null(memchr(ev->raw, '\0', ev->raw_len));
	r->count[ev->kind]++;
	if (!r->keep)
		return;
	if (r->n < CAUGHT_MAX) {
		r->caught[r->n].ev = *ev;
		memcpy(r->caught[r->n].raw, ev->raw, ev->raw_len + 1);
		r->caught[r->n].ev.raw = r->caught[r->n].raw;
	}
	r->n++;
}

static void on_record(const struct klog_record *rec, void *arg)
{
	klog_feed(arg, rec);
}

static void run_into(struct result *r, const char *data, size_t len)
{
	struct klog *k = klog_new(on_event, r);
	struct klog_reader *reader = klog_reader_new(on_record, k);

	assert_non_null(k);
	assert_non_null(reader);
	r->n = 0;
	memset(r->count, 0, sizeof(r->count));
	klog_reader_detect(reader, data, len < 65536 ? len : 65536);
	klog_reader_push(reader, data, len);
	klog_reader_finish(reader);
	klog_flush(k);
	klog_reader_free(reader);
	klog_free(k);
}

/* Classify a text; the events are in res. */
static void run(const char *text)
{
	res.keep = true;
	run_into(&res, text, strlen(text));
}

static const struct klog_event *event(unsigned i)
{
	assert_true(i < res.n);
	return &res.caught[i].ev;
}

static const struct klog_event *only(enum klog_kind kind)
{
	const struct klog_event *found = NULL;

	for (unsigned i = 0; i < res.n; i++)
		if (res.caught[i].ev.kind == kind) {
			assert_null(found);
			found = &res.caught[i].ev;
		}
	assert_non_null(found);
	return found;
}

static uint64_t kills(const struct result *r)
{
	return r->count[KLOG_OOM_KILL] + r->count[KLOG_MEMCG_OOM_KILL];
}

/* --- fixtures ---------------------------------------------------------------------------------------------------- */

static const char *fixture_dir(void)
{
	const char *dir = getenv("HEADROOM_TESTS");

	return dir ? dir : "tests/fixtures/kmsg";
}

static char *slurp(const char *path, size_t *len)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *buf;

	if (fd < 0 || fstat(fd, &st) < 0)
		fail_msg("%s: %s", path, strerror(errno));
	buf = malloc((size_t)st.st_size + 1);
	assert_non_null(buf);
	assert_int_equal(read(fd, buf, (size_t)st.st_size), st.st_size);
	buf[st.st_size] = '\0';
	*len = (size_t)st.st_size;
	close(fd);
	return buf;
}

/* Run cmd_events with stdout into a file; returns what it wrote. */
static char *events_output(int argc, char **argv, int *code, size_t *len)
{
	char path[] = "/tmp/headroom-test-XXXXXX";
	int fd = mkstemp(path), saved;
	char *out;

	assert_true(fd >= 0);
	fflush(stdout);
	saved = dup(STDOUT_FILENO);
	assert_true(saved >= 0);
	assert_true(dup2(fd, STDOUT_FILENO) >= 0);
	*code = cmd_events(argc, argv);
	fflush(stdout);
	assert_true(dup2(saved, STDOUT_FILENO) >= 0);
	close(saved);
	close(fd);
	out = slurp(path, len);
	unlink(path);
	return out;
}

static void each_fixture(void (*fn)(const char *path, const char *golden))
{
	struct dirent **list;
	int n = scandir(fixture_dir(), &list, NULL, alphasort);
	unsigned seen = 0;

	if (n < 0)
		fail_msg("%s: %s", fixture_dir(), strerror(errno));
	for (int i = 0; i < n; i++) {
		size_t len = strlen(list[i]->d_name);

		if (len > 4 && strcmp(list[i]->d_name + len - 4, ".log") == 0) {
			char path[4096], golden[4096 + 8];

			snprintf(path, sizeof(path), "%s/%s", fixture_dir(), list[i]->d_name);
			snprintf(golden, sizeof(golden), "%.*s.jsonl", (int)(strlen(path) - 4), path);
			fn(path, golden);
			seen++;
		}
		free(list[i]);
	}
	free(list);
	assert_true(seen > 0);
}

static void check_golden(const char *path, const char *golden)
{
	char *argv[] = { (char *)"events", (char *)path, NULL };
	size_t want_len, got_len, line = 1, i = 0;
	char *want = slurp(golden, &want_len);
	int code;
	char *got = events_output(2, argv, &code, &got_len);

	assert_int_equal(code, 0);
	while (i < want_len && i < got_len && want[i] == got[i])
		if (want[i++] == '\n')
			line++;
	if (i < want_len || i < got_len)
		fail_msg("%s differs in line %zu: want \"%.80s\", got \"%.80s\"", golden, line, want + i, got + i);
	free(want);
	free(got);
}

static void test_golden(void **state)
{
	(void)state;
	each_fixture(check_golden);
}

/* A log that ends anywhere says less, never something else. */
static void check_prefixes(const char *path, const char *golden)
{
	struct result whole = { 0 }, part = { 0 };
	/* About 2 MB of log for each fixture: every byte of a short one, some of a long one. */
	size_t len, step;
	char *data = slurp(path, &len);

	(void)golden;
	run_into(&whole, data, len);
	step = 1 + len * len / (4u << 20);
	for (size_t n = 0; n < len; n += step) {
		/* A copy of exactly that size, so that the sanitizer sees a read behind it. */
		char *copy = malloc(n ? n : 1);

		assert_non_null(copy);
		memcpy(copy, data, n);
		run_into(&part, copy, n);
		free(copy);
		if (kills(&part) > kills(&whole))
			fail_msg("%s: %zu bytes give more kills than the whole", path, n);
		for (int i = 0; i < KLOG_KINDS; i++)
			if (i != KLOG_OOM_INVOKED && part.count[i] > whole.count[i])
				fail_msg("%s: %zu bytes give %d more %s than the whole", path, n,
					 (int)(part.count[i] - whole.count[i]), klog_kind_name((enum klog_kind)i));
	}
	free(data);
}

static void test_prefixes(void **state)
{
	(void)state;
	each_fixture(check_prefixes);
}

/* What the fuzzer has found its way with, cut at forty places: no crash, no sanitizer report, no event without end. */
static void test_fuzz_corpus(void **state)
{
	char dir[4096], path[4096 + 300];
	unsigned seen = 0;
	struct dirent *e;
	DIR *d;

	(void)state;
	snprintf(dir, sizeof(dir), "%s/../klog-corpus", fixture_dir());
	d = opendir(dir);
	assert_non_null(d);
	while ((e = readdir(d))) {
		struct result part = { 0 };
		size_t len;
		char *data;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		data = slurp(path, &len);
		for (size_t n = 0; n <= len; n += 1 + len / 40) {
			char *copy = malloc(n ? n : 1);

			assert_non_null(copy);
			memcpy(copy, data, n);
			run_into(&part, copy, n);
			free(copy);
		}
		free(data);
		seen++;
	}
	closedir(d);
	assert_true(seen > 40);
}

/* --- OOM --------------------------------------------------------------------------------------------------------- */

static void test_oom_4_19_is_one_kill(void **state)
{
	(void)state;
	run("[1.000000] Out of memory: Kill process 10 (parent) score 900 or sacrifice child\n"
	    "[1.000100] Killed process 11 (child) total-vm:100kB, anon-rss:40kB, file-rss:4kB, shmem-rss:0kB\n");
	assert_int_equal(res.n, 1);
	assert_int_equal(event(0)->kind, KLOG_OOM_KILL);
	assert_int_equal(event(0)->oom.victim_pid, 11);
	assert_string_equal(event(0)->oom.victim_comm, "child");
	assert_false(event(0)->oom.reaped);
	/* A dump that was rate-limited away leaves nothing to make up. */
	assert_string_equal(event(0)->oom.trigger, "");
	assert_int_equal(event(0)->oom.order, KLOG_NONE);
}

static void test_oom_4_19_memcg(void **state)
{
	(void)state;
	run("[1.000000] sh invoked oom-killer: gfp_mask=0x6000c0(GFP_KERNEL), nodemask=(null), order=0, "
	    "oom_score_adj=7\n"
	    "[1.000001] Task in /A/b c killed as a result of limit of /A\n"
	    "[1.000002] memory: usage 51200kB, limit 51200kB, failcnt 99\n"
	    "[1.000003] [ pid ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name\n"
	    "[1.000004] [  213]     0   213     1127        5    53248        0          -300 hog (x) y\n"
	    "[1.000005] Memory cgroup out of memory: Kill process 213 (hog (x) y) score 5 or sacrifice child\n"
	    "[1.000006] Killed process 213 (hog (x) y) total-vm:4508kB, anon-rss:20kB, file-rss:0kB, shmem-rss:0kB\n");
	assert_int_equal(res.n, 1);
	assert_int_equal(event(0)->kind, KLOG_MEMCG_OOM_KILL);
	assert_string_equal(event(0)->oom.victim_comm, "hog (x) y");
	assert_string_equal(event(0)->oom.victim_cgroup, "/A/b c");
	assert_string_equal(event(0)->oom.oom_memcg, "/A");
	assert_int_equal(event(0)->oom.limit_kib, 51200);
	assert_int_equal(event(0)->oom.oom_score_adj, -300);
	assert_int_equal(event(0)->oom.trigger_score_adj, 7);
	assert_int_equal(event(0)->oom.tasks, 1);
	assert_string_equal(event(0)->oom.task[0].comm, "hog (x) y");
	assert_int_equal(event(0)->oom.task[0].rss_pages, 5);
}

static void test_oom_names_of_tasks(void **state)
{
	static const char *const names[] = { "a b", "a) b",	      "((", "))", ") total-vm:1", "",
					     " x",  "Killed process", "a:b" };

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char text[512];

		snprintf(text, sizeof(text),
			 "[1.000000] Out of memory: Killed process 7 (%s) total-vm:5kB, anon-rss:3kB, file-rss:2kB, "
			 "shmem-rss:1kB, UID:1000 pgtables:64kB oom_score_adj:-17\n",
			 names[i]);
		run(text);
		assert_int_equal(res.n, 1);
		assert_string_equal(event(0)->oom.victim_comm, names[i]);
		assert_int_equal(event(0)->oom.victim_pid, 7);
		assert_int_equal(event(0)->oom.total_vm_kib, 5);
		assert_int_equal(event(0)->oom.anon_rss_kib, 3);
		assert_int_equal(event(0)->oom.uid, 1000);
		assert_int_equal(event(0)->oom.oom_score_adj, -17);
	}
}

static void test_oom_name_with_newline(void **state)
{
	(void)state;
	run("4,1,1000,-;Out of memory: Killed process 7 (a\\x0aBUG: b) total-vm:5kB, anon-rss:3kB\n");
	assert_int_equal(res.n, 1);
	assert_string_equal(event(0)->oom.victim_comm, "a BUG: b");
	/* A record's second line starts nothing. */
	run("4,1,1000,-;hello\\x0aBUG: forged\n");
	assert_int_equal(res.n, 0);
}

static void test_oom_kill_without_dump(void **state)
{
	(void)state;
	/* The second kill is rate-limited: nothing of the first report may stick to it. */
	run("[1.000000] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
	    "[1.000001] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
	    "task_memcg=/x,task=a,pid=5,uid=0\n"
	    "[1.000002] Out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000003] Out of memory: Killed process 6 (b) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000004] Memory cgroup out of memory: Killed process 8 (c) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000005] oom_reaper: reaped process 6 (b), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB\n");
	assert_int_equal(res.n, 3);
	assert_int_equal(kills(&res), 3);
	for (unsigned i = 0; i < 3; i++) {
		const struct klog_event *ev = event(i);

		assert_string_equal(ev->oom.trigger, ev->oom.victim_pid == 5 ? "sh" : "");
		assert_string_equal(ev->oom.victim_cgroup, ev->oom.victim_pid == 5 ? "/x" : "");
		assert_int_equal(ev->oom.reaped, ev->oom.victim_pid == 6);
		assert_int_equal(ev->kind, ev->oom.victim_pid == 8 ? KLOG_MEMCG_OOM_KILL : KLOG_OOM_KILL);
	}
}

static void test_oom_other_pid_is_other_kill(void **state)
{
	(void)state;
	/* The end of the first report was lost; the kill that follows is another one's. */
	run("[1.000000] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
	    "[1.000001] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
	    "task_memcg=/x,task=a,pid=5,uid=0\n"
	    "[1.000002] Out of memory: Killed process 6 (b) total-vm:1kB, anon-rss:1kB\n");
	assert_int_equal(kills(&res), 1);
	assert_string_equal(only(KLOG_OOM_KILL)->oom.trigger, "");
	assert_string_equal(only(KLOG_OOM_INVOKED)->oom.trigger, "sh");
}

static void test_oom_group(void **state)
{
	(void)state;
	run("[1.000000] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
	    "[1.000001] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/A,"
	    "task_memcg=/A/x,task=a,pid=5,uid=0\n"
	    "[1.000002] Memory cgroup out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000003] Tasks in /A are going to be killed due to memory.oom.group set\n"
	    "[1.000004] Memory cgroup out of memory: Killed process 6 (b) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000005] Memory cgroup out of memory: Killed process 7 (c) total-vm:1kB, anon-rss:1kB\n"
	    /* The scan of the group names the first one once more. */
	    "[1.000006] Memory cgroup out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n"
	    "[9.000000] Memory cgroup out of memory: Killed process 8 (d) total-vm:1kB, anon-rss:1kB\n");
	assert_int_equal(res.count[KLOG_MEMCG_OOM_KILL], 4);
	for (unsigned i = 0; i < 4; i++) {
		const struct klog_oom *o = &event(i)->oom;

		/* The last one came much later and has nothing to do with the group. */
		assert_int_equal(o->group, o->victim_pid != 8);
		assert_string_equal(o->oom_memcg, o->victim_pid != 8 ? "/A" : "");
		assert_string_equal(o->trigger, o->victim_pid != 8 ? "sh" : "");
		assert_string_equal(o->victim_cgroup, o->victim_pid == 5 ? "/A/x" : "");
	}
	/* A group also dies of a global shortage. */
	run("[1.000000] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
	    "[1.000002] Out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000002] oom_reaper: reaped process 5 (a), now anon-rss:0kB\n"
	    "[1.000003] Tasks in /A are going to be killed due to memory.oom.group set\n"
	    "[1.000004] Out of memory: Killed process 6 (b) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000006] Out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n");
	assert_int_equal(res.count[KLOG_OOM_KILL], 2);
	assert_string_equal(event(1)->oom.trigger, "sh");
}

static void test_oom_without_kill(void **state)
{
	(void)state;
	run("[1.000000] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
	    "[1.000001] Out of memory: OOM victim 5 (a) is already exiting. Skip killing the task\n"
	    "[2.000000] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=-1\n"
	    "[2.000001] Out of memory and no killable processes...\n"
	    "[2.000002] Kernel panic - not syncing: System is deadlocked on memory\n");
	assert_int_equal(kills(&res), 0);
	assert_int_equal(res.count[KLOG_OOM_INVOKED], 2);
	assert_string_equal(event(0)->oom.outcome, "victim already exiting");
	assert_string_equal(event(1)->oom.outcome, "no killable process");
	assert_int_equal(event(1)->oom.trigger_score_adj, -1);
	assert_string_equal(only(KLOG_PANIC)->what, "System is deadlocked on memory");
}

static void test_oom_allocating_task(void **state)
{
	(void)state;
	run("[1.000000] Out of memory (oom_kill_allocating_task): Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n");
	assert_int_equal(only(KLOG_OOM_KILL)->oom.victim_pid, 5);
	/* Distributions' kernels before 4.19. */
	run("[1.000000] Killed process 5 (a b), UID 1000, total-vm:7kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB\n"
	    "[2.000000] Killed process 6, UID 1001, (c d) total-vm:8kB, anon-rss:1kB, file-rss:0kB\n");
	assert_int_equal(res.n, 2);
	assert_string_equal(event(0)->oom.victim_comm, "a b");
	assert_int_equal(event(0)->oom.uid, 1000);
	assert_int_equal(event(0)->oom.total_vm_kib, 7);
	assert_string_equal(event(1)->oom.victim_comm, "c d");
	assert_int_equal(event(1)->oom.total_vm_kib, 8);
	run("[1.000000] foo: Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000000] Out of memory: Kill process 5\n");
	assert_int_equal(kills(&res), 0);
}

/* --- interleaving ------------------------------------------------------------------------------------------------ */

static void test_kill_within_hung_task(void **state)
{
	const struct klog_event *hung;

	(void)state;
	run("[1.000000] INFO: task kworker/u4:1:33 blocked for more than 20 seconds.\n"
	    "[1.000001]       Not tainted 6.1.0-56-amd64 #1 Debian 6.1.192-2\n"
	    "[1.000002] \"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.\n"
	    "[1.000003] task:kworker/u4:1    state:D stack:0     pid:33    ppid:2      flags:0x00004000\n"
	    "[1.000004] Call Trace:\n"
	    "[1.000005]  <TASK>\n"
	    "[1.000006]  __schedule+0x34d/0x9e0\n"
	    "[1.000007] Out of memory: Killed process 6 (b) total-vm:1kB, anon-rss:1kB\n"
	    "[1.000008]  schedule+0x5a/0xd0\n"
	    "[1.000009] usb 1-1: new high-speed USB device\n"
	    "[1.000010]  </TASK>\n");
	assert_int_equal(res.n, 2);
	assert_string_equal(only(KLOG_OOM_KILL)->raw, "Out of memory: Killed process 6 (b) total-vm:1kB, anon-rss:1kB");
	hung = only(KLOG_HUNG_TASK);
	assert_string_equal(hung->task, "kworker/u4:1");
	assert_int_equal(hung->pid, 33);
	assert_int_equal(hung->seconds, 20);
	assert_int_equal(hung->state, 'D');
	assert_int_equal(hung->stack_n, 2);
	assert_string_equal(hung->stack[1], "schedule");
	assert_null(strstr(hung->raw, "usb"));
	assert_null(strstr(hung->raw, "Killed"));
	assert_false(hung->mixed);
}

static void test_two_stacks_without_caller(void **state)
{
	(void)state;
	run("[1.000000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:10]\n"
	    "[1.000001] watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [b c:11]\n"
	    "[1.000002] CPU: 0 PID: 10 Comm: a Tainted: G        W          6.1.0 #1\n"
	    "[1.000003] CPU: 1 PID: 11 Comm: b c Not tainted 6.1.0 #1\n"
	    "[1.000004] Call Trace:\n"
	    "[1.000005]  foo+0x1/0x2\n"
	    "[1.000006] Call Trace:\n"
	    "[1.000007]  bar+0x1/0x2\n");
	assert_int_equal(res.count[KLOG_SOFT_LOCKUP], 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(event(i)->mixed);
		assert_int_equal(event(i)->stack_n, 0);
		assert_string_equal(event(i)->taint, event(i)->cpu == 0 ? "GW" : "");
		assert_string_equal(event(i)->task, event(i)->cpu == 0 ? "a" : "b c");
		assert_int_equal(event(i)->pid, event(i)->cpu == 0 ? 10 : 11);
	}
}

static void test_two_stacks_with_caller(void **state)
{
	(void)state;
	run("[    1.000000][    C0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:10]\n"
	    "[    1.000001][    C1] watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [b:11]\n"
	    "[    1.000004][    C1] Call Trace:\n"
	    "[    1.000004][    C0] Call Trace:\n"
	    "[    1.000005][    C0]  foo+0x1/0x2\n"
	    "[    1.000007][    C1]  bar+0x1/0x2\n"
	    "[    1.000008][  T999]  nobodys+0x1/0x2\n");
	assert_int_equal(res.count[KLOG_SOFT_LOCKUP], 2);
	for (unsigned i = 0; i < 2; i++) {
		assert_false(event(i)->mixed);
		assert_int_equal(event(i)->stack_n, 1);
		assert_string_equal(event(i)->stack[0], event(i)->cpu == 0 ? "foo" : "bar");
	}
}

/* Reports that follow each other closely are not taken for interleaved ones. */
static void test_reports_in_a_row(void **state)
{
	(void)state;
	run("[1.000000] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!\n"
	    "[1.000001] Showing busy workqueues and worker pools:\n"
	    "[1.000002] workqueue a: flags=0x8\n"
	    "[1.000003] INFO: task a:33 blocked for more than 20 seconds.\n"
	    "[1.000004] task:a    state:D stack:0     pid:33    ppid:2      flags:0x00004000\n"
	    "[1.000005] Call Trace:\n"
	    "[1.000006]  <TASK>\n"
	    "[1.000007]  hung+0x34d/0x9e0\n"
	    "[1.000008]  </TASK>\n"
	    "[1.000009] rcu: INFO: rcu_preempt self-detected stall on CPU\n"
	    "[1.000010] Call Trace:\n"
	    "[1.000011]  <TASK>\n"
	    "[1.000012]  stalled+0x34d/0x9e0\n"
	    "[1.000013]  </TASK>\n"
	    "[1.000014] watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [b:11]\n"
	    "[1.000015] CPU: 1 PID: 11 Comm: b Not tainted 6.1.0 #1\n"
	    "[1.000016] Call Trace:\n"
	    "[1.000017]  <TASK>\n"
	    "[1.000018]  soft+0x34d/0x9e0\n"
	    "[1.000019]  </TASK>\n");
	assert_int_equal(res.n, 4);
	for (unsigned i = 0; i < 4; i++)
		assert_false(event(i)->mixed);
	assert_int_equal(only(KLOG_WQ_LOCKUP)->lines, 3);
	assert_int_equal(only(KLOG_HUNG_TASK)->stack_n, 1);
	assert_string_equal(only(KLOG_HUNG_TASK)->stack[0], "hung");
	assert_int_equal(only(KLOG_RCU_STALL)->stack_n, 1);
	assert_string_equal(only(KLOG_RCU_STALL)->stack[0], "stalled");
	assert_int_equal(only(KLOG_SOFT_LOCKUP)->stack_n, 1);
	assert_string_equal(only(KLOG_SOFT_LOCKUP)->stack[0], "soft");
}

static void test_more_reports_than_slots(void **state)
{
	char text[16384];
	size_t n = 0;

	(void)state;
	for (int i = 0; i < 40; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n,
				      "[    1.%06d][ T%d] Out of memory: Killed process %d (p) total-vm:1kB\n", i, i,
				      i);
	run(text);
	assert_int_equal(res.count[KLOG_OOM_KILL], 40);
	for (unsigned i = 0; i < 40; i++)
		assert_int_equal(event(i)->oom.victim_pid, i);
}

static void test_lost_records_part_reports(void **state)
{
	(void)state;
	run("4,10,1000000,-;sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
	    " SUBSYSTEM=none\n"
	    "4,20,1000100,-;Out of memory: Killed process 5 (a) total-vm:1kB, anon-rss:1kB\n");
	assert_int_equal(res.n, 3);
	assert_int_equal(only(KLOG_LOST)->count, 9);
	assert_string_equal(only(KLOG_OOM_KILL)->oom.trigger, "");
	assert_int_equal(only(KLOG_OOM_KILL)->seq, 20);
	assert_int_equal(only(KLOG_OOM_INVOKED)->seq, 10);
	run("[1.000000] ** 57 printk messages dropped **\n");
	assert_int_equal(only(KLOG_LOST)->count, 57);
	run("[1.000000] foo\n[1.100000] bar\n** 58 printk messages dropped ** [1.200000] baz\n");
	assert_int_equal(only(KLOG_LOST)->count, 58);
}

static void test_tick_closes(void **state)
{
	const char line[] = "4,1,1000000,-;INFO: task a:1 blocked for more than 20 seconds.\n";
	struct klog_record rec;
	char buf[KLOG_LINE_MAX];
	struct klog *k;

	(void)state;
	res.keep = true;
	res.n = 0;
	k = klog_new(on_event, &res);
	assert_non_null(k);
	assert_true(klog_parse_kmsg(line, sizeof(line) - 1, &rec, buf, sizeof(buf)));
	klog_feed(k, &rec);
	assert_int_equal(klog_watermark(k), 1);
	klog_tick(k, 1000000 + KLOG_IDLE_US);
	assert_int_equal(res.n, 0);
	klog_tick(k, 1000001 + KLOG_IDLE_US);
	assert_int_equal(res.n, 1);
	assert_int_equal(klog_watermark(k), 2);
	klog_flush(k);
	assert_int_equal(res.n, 1);
	klog_free(k);
	klog_free(NULL);
}

/* --- other kinds ------------------------------------------------------------------------------------------------- */

static void test_workqueue_forms(void **state)
{
	const struct klog_wq *w;

	(void)state;
	run("[1.000000] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!\n"
	    "[1.000001] BUG: workqueue lockup - pool cpus=0-1 flags=0x4 nice=0 stuck for 33s!\n"
	    "[1.000002] Showing busy workqueues and worker pools:\n"
	    "[1.000003] workqueue a: b: flags=0x8\n"
	    "[1.000004]   pwq 0: cpus=0 node=0 flags=0x0 nice=0 active=3 refcnt=4\n"
	    "[1.000005]     in-flight: 67:do_work [dm_mod], 13(RESCUER):f\n"
	    "[1.000006]     pending: cache_reap, 3*do_work [dm_mod]\n"
	    "[1.000007] pool 0: cpus=0 node=0 flags=0x0 nice=0 hung=31s workers=3 idle: 129\n");
	assert_int_equal(res.count[KLOG_WQ_LOCKUP], 2);
	w = &event(0)->wq;
	assert_string_equal(w->pool, "cpus=0 node=0 flags=0x0 nice=0");
	assert_int_equal(w->seconds, 31);
	assert_int_equal(w->flight_n, 2);
	assert_int_equal(w->flight[0].pid, 67);
	assert_string_equal(w->flight[0].func, "do_work [dm_mod]");
	assert_true(w->flight[0].same_pool);
	assert_false(w->flight[0].rescuer);
	assert_int_equal(w->flight[1].pid, 13);
	assert_string_equal(w->flight[1].func, "f");
	assert_true(w->flight[1].rescuer);
	assert_int_equal(w->pending_n, 2);
	assert_int_equal(w->pending[1].count, 3);
	assert_string_equal(w->pending[1].func, "do_work [dm_mod]");
	assert_string_equal(w->busy[0], "a: b");
	/* The listing is the second pool's too, which is not the one that has the work. */
	w = &event(1)->wq;
	assert_string_equal(w->cpus, "0-1");
	assert_int_equal(w->flight_n, 2);
	assert_false(w->flight[0].same_pool);
	run("[1.000000] BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!\n"
	    "[1.000002] Showing busy workqueues and worker pools:\n"
	    "[1.000003] workqueue events: flags=0x8\n"
	    "[1.000004]   pwq 2: cpus=0 node=0 flags=0x0 nice=0 active=2 refcnt=3\n"
	    "[1.000005]     in-flight: 39:spin_work [x]\n"
	    "[1.000006] pool 2: cpus=0 node=0 flags=0x0 nice=0 hung=31s workers=2 idle: 9\n"
	    "[1.000007] Showing backtraces of running workers in stalled CPU-bound worker pools:\n"
	    "[1.000008] pool 2:\n"
	    "[1.000009] task:kworker/0:1     state:R  running task     stack:0     pid:39    ppid:2\n"
	    "[1.000010] Workqueue: events spin_work [x]\n"
	    "[1.000011] Call Trace:\n"
	    "[1.000012]  <TASK>\n"
	    "[1.000013]  spin_work+0x1/0x2 [x]\n"
	    "[1.000014]  </TASK>\n");
	assert_int_equal(res.n, 1);
	assert_int_equal(event(0)->lines, 14);
	assert_int_equal(event(0)->wq.flight_n, 1);
	assert_string_equal(event(0)->workqueue, "events spin_work [x]");
	/* Asked for by sysrq, a listing is no event. */
	run("[1.000002] Showing busy workqueues and worker pools:\n[1.000003] workqueue a: flags=0x8\n");
	assert_int_equal(res.n, 0);
}

static void run_works(const char *line)
{
	char text[512];

	snprintf(text, sizeof(text),
		 "[1.000000] BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 31s!\n"
		 "[1.000001] Showing busy workqueues and worker pools:\n"
		 "[1.000002] workqueue kcopyd: flags=0x8\n"
		 "[1.000003]   pwq 2: cpus=1 node=0 flags=0x0 nice=0 active=3/256 refcnt=5\n"
		 "[1.000004]     %s\n",
		 line);
	run(text);
	assert_int_equal(res.n, 1);
}

static void test_workqueue_works_behind_one_another(void **state)
{
	const struct klog_work *work;

	(void)state;
	/* What a worker has to do next stands behind its work without a comma, a barrier of flush_work() too. */
	run_works("in-flight: 109(RESCUER):do_work [dm_mod] do_work [dm_mod] BAR(12), 7:f");
	work = event(0)->wq.flight;
	assert_int_equal(event(0)->wq.flight_n, 4);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(work[i].pid, 109);
		assert_true(work[i].rescuer);
		assert_string_equal(work[i].wq, "kcopyd");
		assert_true(work[i].same_pool);
	}
	assert_string_equal(work[0].func, "do_work [dm_mod]");
	assert_false(work[0].scheduled);
	assert_int_equal(work[0].barrier, KLOG_NONE);
	assert_string_equal(work[1].func, "do_work [dm_mod]");
	assert_true(work[1].scheduled);
	assert_string_equal(work[2].func, "");
	assert_int_equal(work[2].barrier, 12);
	assert_int_equal(work[3].pid, 7);
	assert_string_equal(work[3].func, "f");
	assert_false(work[3].rescuer);
	assert_false(work[3].scheduled);

	/* A pending work and its barrier are linked: no comma there either. */
	run_works("pending: do_work, BAR(136), refresh_vm_stats BAR(137)");
	work = event(0)->wq.pending;
	assert_int_equal(event(0)->wq.pending_n, 4);
	assert_string_equal(work[0].func, "do_work");
	assert_int_equal(work[1].barrier, 136);
	assert_string_equal(work[2].func, "refresh_vm_stats");
	assert_int_equal(work[2].barrier, KLOG_NONE);
	assert_int_equal(work[3].barrier, 137);
	assert_false(work[3].scheduled);

	/* From 6.5 on the same works are folded, and softirq pools have no task; from 7.x on with the time it took. */
	run_works("in-flight: bh-hi:tasklet 3*do_work [dm_mod], 12:f [x] for 31s g for 2s");
	work = event(0)->wq.flight;
	assert_int_equal(event(0)->wq.flight_n, 4);
	assert_int_equal(work[0].pid, KLOG_NONE);
	assert_string_equal(work[0].func, "tasklet");
	assert_string_equal(work[1].func, "do_work [dm_mod]");
	assert_int_equal(work[1].count, 3);
	assert_int_equal(work[2].pid, 12);
	assert_string_equal(work[2].func, "f [x]");
	assert_int_equal(work[2].seconds, 31);
	assert_string_equal(work[3].func, "g");
	assert_true(work[3].scheduled);

	/* More than there is room for, and pieces. */
	run_works("pending: a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, "
		  "a, a, "
		  "a, a [x], BAR(1)");
	assert_int_equal(event(0)->wq.pending_n, KLOG_WORK_MAX);
	assert_string_equal(event(0)->wq.pending[KLOG_WORK_MAX - 1].func, "a");
	run_works("in-flight: [x], :, 12(RESCUER):, BAR(");
	run_works("pending: ,, 3*, for 1s, BAR(, 99999999999999999999");
}

static void test_hung_kworker_says_what_it_does(void **state)
{
	(void)state;
	run("[1.000000] INFO: task kworker/1:2:105 blocked for more than 20 seconds.\n"
	    "[1.000001]       Not tainted 6.1.192 #1\n"
	    "[1.000002] \"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message.\n"
	    "[1.000003] task:kworker/1:2     state:D stack:0     pid:105   ppid:2      flags:0x00004000\n"
	    "[1.000004] Workqueue: kcopyd do_work [dm_mod]\n"
	    "[1.000005] Call Trace:\n"
	    "[1.000006]  <TASK>\n"
	    "[1.000007]  __schedule+0x1/0x2\n"
	    "[1.000008]  </TASK>\n"
	    "[1.000009] INFO: task dd:9 blocked for more than 20 seconds.\n");
	assert_int_equal(res.n, 2);
	assert_string_equal(event(0)->task, "kworker/1:2");
	assert_string_equal(event(0)->workqueue, "kcopyd do_work [dm_mod]");
	assert_int_equal(event(0)->lines, 9);
	assert_string_equal(event(1)->workqueue, "");
}

static void test_hung_forms(void **state)
{
	(void)state;
	run("[1.000000] INFO: task dd:213 blocked for more than 120 seconds.\n"
	    "[1.000001]       Tainted: P           O      4.19.0 #1\n"
	    "[1.000002] dd              D    0   213      1 0x00000000\n"
	    "[1.000003] Call Trace:\n"
	    "[1.000004]  __schedule+0x2a2/0x870\n"
	    "[1.000005]  ? leftover+0x1/0x2\n"
	    "[1.000006]  entry_SYSCALL_64_after_hwframe+0x44/0xa9\n"
	    "[1.000007]  foreign+0x1/0x2\n"
	    "[2.000000] INFO: task a b:c:214 blocked in I/O wait for more than 7 seconds.\n"
	    "[2.000001] INFO: task x:1 is blocked on a mutex likely owned by task y:2.\n");
	assert_int_equal(res.n, 2);
	assert_string_equal(event(0)->taint, "PO");
	assert_string_equal(event(0)->kernel, "4.19.0");
	assert_int_equal(event(0)->state, 'D');
	assert_int_equal(event(0)->stack_n, 2);
	assert_string_equal(event(1)->task, "a b:c");
	assert_int_equal(event(1)->pid, 214);
	assert_int_equal(event(1)->seconds, 7);
	assert_int_equal(event(1)->lines, 2);
}

static void test_alloc_stalls(void **state)
{
	(void)state;
	run("[1.000000] a b: page allocation stall for 10 secs: order:3, mode:0xcc0(GFP_KERNEL) nodemask=(null)\n"
	    "[9.000000] sh: page allocation stalls for 20012ms, order:0, mode:0x14200ca(GFP_HIGHUSER_MOVABLE)\n");
	assert_int_equal(res.count[KLOG_ALLOC_STALL], 2);
	assert_string_equal(event(0)->task, "a b");
	assert_int_equal(event(0)->seconds, 10);
	assert_int_equal(event(0)->order, 3);
	assert_string_equal(event(0)->mode, "0xcc0(GFP_KERNEL)");
	assert_int_equal(event(1)->seconds, 20);
}

static void test_rcu_forms(void **state)
{
	(void)state;
	run("[1.000000] rcu: INFO: rcu_preempt self-detected stall on CPU\n"
	    "[1.000001] rcu: \t1-....: (5249 ticks this GP) idle=1c2c/1/0x4000000000000000 softirq=100/100 fqs=2600\n"
	    "[1.000002] \t(t=5250 jiffies g=1 q=2 ncpus=2)\n"
	    "[9.000000] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:\n"
	    "[9.000001] rcu: \t3-...!: (1 GPs behind) idle=1\n"
	    "[99.000000] INFO: rcu_sched self-detected stall on CPU { 2}  (t=60000 jiffies g=5 c=4 q=3)\n");
	assert_int_equal(res.count[KLOG_RCU_STALL], 3);
	assert_string_equal(event(0)->flavour, "rcu_preempt");
	assert_int_equal(event(0)->self, 1);
	assert_int_equal(event(0)->cpu, 1);
	assert_string_equal(event(1)->flavour, "rcu_sched");
	assert_int_equal(event(1)->self, 0);
	assert_int_equal(event(1)->cpu, 3);
	assert_int_equal(event(2)->cpu, 2);
}

static void test_rcu_stack_is_of_the_stalled_cpu(void **state)
{
	const struct klog_event *ev;

	(void)state;
	/* The grace-period kthread's stack comes before it, that of the CPU where it last ran behind it. */
	run("[1.000000] rcu: INFO: rcu_sched self-detected stall on CPU\n"
	    "[1.000001] rcu: \t1-...!: (30 ticks this GP) idle=1b2/1/0x4000000000000000 softirq=712/714 fqs=0\n"
	    "[1.000002] \t(t=2252 jiffies g=301 q=1)\n"
	    "[1.000003] rcu: rcu_sched kthread starved for 2252 jiffies! g301 f0x0 ->state=0x402 ->cpu=0\n"
	    "[1.000004] rcu: RCU grace-period kthread stack dump:\n"
	    "[1.000005] task:rcu_sched       state:I stack:    0 pid:   12 ppid:     2 flags:0x00004000\n"
	    "[1.000006] Call Trace:\n"
	    "[1.000007]  rcu_gp_kthread+0x57b/0xc30\n"
	    "[1.000008]  ret_from_fork+0x22/0x30\n"
	    "[1.000009] NMI backtrace for cpu 1\n"
	    "[1.000010] CPU: 1 PID: 153 Comm: fx Not tainted 5.10.0 #1\n"
	    "[1.000011] RIP: 0010:clear_user+0x20/0x50\n"
	    "[1.000012] Call Trace:\n"
	    "[1.000013]  read_zero+0x68/0xb0\n"
	    "[1.000014] rcu: Stack dump where RCU GP kthread last ran:\n"
	    "[1.000015] NMI backtrace for cpu 0\n"
	    "[1.000016] RIP: 0010:idle+0x20/0x50\n"
	    "[1.000017] Call Trace:\n"
	    "[1.000018]  do_idle+0x68/0xb0\n");
	assert_int_equal(res.n, 1);
	ev = only(KLOG_RCU_STALL);
	assert_string_equal(ev->task, "fx");
	assert_string_equal(ev->where, "clear_user+0x20/0x50");
	assert_int_equal(ev->stack_n, 1);
	assert_string_equal(ev->stack[0], "read_zero");
	assert_int_equal(ev->lines, 19);
}

static void test_rcu_waits_for_the_backtrace(void **state)
{
	(void)state;
	run("[1.000000] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:\n"
	    "[1.000001] rcu: \t1-...0: (6 ticks this GP) idle=1b2/1/0x4000000000000000 softirq=1095/1095 fqs=172\n"
	    "[1.000002] Sending NMI from CPU 0 to CPUs 1:\n"
	    "[16.000000] NMI backtrace for cpu 1\n"
	    "[16.000001] Call Trace:\n"
	    "[16.000002]  read_zero+0x68/0xb0\n"
	    "[19.000000] NMI backtrace for cpu 1\n");
	assert_int_equal(only(KLOG_RCU_STALL)->stack_n, 1);
	/* Answered, it is over as soon as any other. */
	assert_int_equal(only(KLOG_RCU_STALL)->lines, 6);
}

static void test_guesses_do_not_displace_frames(void **state)
{
	char text[8192] =
		"[1.000000] Kernel panic - not syncing: x\n[1.000001] Call Trace:\n[1.000002]  panic+0x1/0x2\n";

	(void)state;
	for (int i = 0; i < 2 * KLOG_STACK_MAX; i++)
		strcat(text, "[1.000003]  ? leftover+0x1/0x2\n");
	run(strcat(text, "[1.000004]  entry_SYSCALL_64_after_hwframe+0x1/0x2\n"));
	assert_int_equal(event(0)->stack_n, 2);
	assert_string_equal(event(0)->stack[0], "panic");
	assert_string_equal(event(0)->stack[1], "entry_SYSCALL_64_after_hwframe");
}

static void test_oops_is_one_event(void **state)
{
	(void)state;
	run("[1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000\n"
	    "[1.000001] #PF: supervisor write access in kernel mode\n"
	    "[1.000002] #PF: error_code(0x0002) - not-present page\n"
	    "[1.000003] PGD 0 P4D 0 \n"
	    "[1.000004] Oops: 0002 [#1] PREEMPT SMP NOPTI\n"
	    "[1.000005] CPU: 0 PID: 213 Comm: sh Tainted: G        W  O       6.1.0-56-amd64 #1\n"
	    "[1.000006] RIP: 0010:sysrq_handle_crash+0x12/0x20\n"
	    "[1.000007] Call Trace:\n"
	    "[1.000008]  <TASK>\n"
	    "[1.000009]  __handle_sysrq.cold+0x45/0x11c\n"
	    "[1.000010]  </TASK>\n"
	    "[1.000011] ---[ end trace 0000000000000000 ]---\n"
	    "[1.000012] RIP: 0010:sysrq_handle_crash+0x12/0x20\n"
	    "[1.000013] Kernel panic - not syncing: Fatal exception\n"
	    "[1.000014] Kernel Offset: disabled\n"
	    "[1.000015] ---[ end Kernel panic - not syncing: Fatal exception ]---\n");
	assert_int_equal(res.n, 2);
	assert_int_equal(only(KLOG_OOPS)->pid, 213);
	assert_string_equal(only(KLOG_OOPS)->where, "sysrq_handle_crash+0x12/0x20");
	assert_string_equal(only(KLOG_OOPS)->taint, "GWO");
	assert_string_equal(only(KLOG_OOPS)->stack[0], "__handle_sysrq.cold");
	assert_string_equal(only(KLOG_PANIC)->what, "Fatal exception");
	run("[1.000000] ------------[ cut here ]------------\n"
	    "[1.000001] kernel BUG at mm/slub.c:123!\n"
	    "[1.000002] invalid opcode: 0000 [#1] SMP\n"
	    "[1.000003] Oops: invalid opcode: 0000 [#1] SMP\n");
	assert_int_equal(res.n, 1);
	assert_string_equal(only(KLOG_BUG)->where, "mm/slub.c:123");
	run("[1.000000] general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP\n"
	    "[2.000000] traps: a[12] general protection fault ip:1 sp:2 error:0\n"
	    "[9.000000] divide error: 0000 [#2] SMP\n");
	assert_int_equal(res.count[KLOG_OOPS], 2);
	assert_int_equal(res.n, 2);
}

static void test_warnings(void **state)
{
	(void)state;
	run("[1.000000] WARNING: CPU: 1 PID: 213 at mm/page_alloc.c:4411 get_page_from_freelist+0x5/0x9\n"
	    "[1.000001] Modules linked in: a b\n"
	    "[1.000002] ---[ end trace 0000000000000000 ]---\n"
	    "[2.000000] WARNING: at fs/x.c:12 old_func+0x1/0x2()\n"
	    "[9.000000] WARNING: mm/y.c:7 at new_func+0x1/0x2, CPU#1: a b/c/77\n"
	    "[19.000000] WARNING: possible circular locking dependency detected\n"
	    "[19.000001] sh/213 is trying to acquire lock:\n"
	    "[19.000002] *** DEADLOCK ***\n"
	    "[29.000000] WARNING: this is no warning of ours\n"
	    "[39.000000] Huh VM_FAULT_OOM leaked out to the #PF handler. Retrying PF\n"
	    "[49.000000] WARNING: at lone_func+0x1/0x2, CPU#1: sh/5\n"
	    "[49.000001] ---[ end trace ]---\n");
	assert_int_equal(res.n, 6);
	assert_int_equal(res.count[KLOG_WARN], 6);
	assert_string_equal(event(5)->what, "lone_func");
	assert_int_equal(event(5)->pid, 5);
	assert_int_equal(event(5)->lines, 2);
	assert_string_equal(event(0)->where, "mm/page_alloc.c:4411");
	assert_string_equal(event(0)->what, "get_page_from_freelist");
	assert_int_equal(event(0)->lines, 3);
	assert_string_equal(event(1)->where, "fs/x.c:12");
	assert_string_equal(event(1)->what, "old_func");
	assert_string_equal(event(2)->where, "mm/y.c:7");
	assert_string_equal(event(2)->what, "new_func");
	assert_string_equal(event(2)->task, "a b/c");
	assert_int_equal(event(2)->pid, 77);
	assert_int_equal(event(3)->lines, 3);
}

static void test_bugs(void **state)
{
	(void)state;
	run("[1.000000] BUG: scheduling while atomic: sh/213/0x00000002\n"
	    "[9.000000] BUG kmalloc-64 (Not tainted): Redzone overwritten\n"
	    "[19.000000] BUG: Bad page state in process sh  pfn:12345\n"
	    "[29.000000] DEBUG: hello\n"
	    "[39.000000] BUG report follows\n");
	assert_int_equal(res.n, 3);
	assert_int_equal(res.count[KLOG_BUG], 3);
}

static void test_small_kinds(void **state)
{
	(void)state;
	run("[1.000000] memory offlining [mem 0x100000000-0x107ffffff] failed due to signal backoff\n"
	    "[1.000001] memory offlining [mem 0x100000000-0x107ffffff] failed\n"
	    "[1.000002] device-mapper: snapshots: Invalidating snapshot: Unable to allocate exception.\n"
	    "[1.000003] device-mapper: snapshots: Snapshot is marked invalid.\n"
	    "[1.000004] do_migrate_range: 412 callbacks suppressed\n"
	    "[1.000005] Offlined Pages 32768\n"
	    "[1.000006] acpi PNP0C80:00: Offline failed.\n"
	    "[1.000007] a b: page allocation failure: order:5, mode:0xcc0(GFP_KERNEL), nodemask=(null),cpuset=/\n"
	    "[1.000008] CPU: 0 PID: 5 Comm: other Not tainted 6.1.0 #1\n"
	    "[9.000000] SLUB: Unable to allocate memory on node -1, gfp=0xa20(GFP_ATOMIC)\n"
	    "[9.000001]   cache: kmalloc-64, object size: 64, buffer size: 64, default order: 0, min order: 0\n"
	    "[19.000000] watchdog: Watchdog detected hard LOCKUP on cpu 3\n");
	assert_int_equal(res.count[KLOG_OFFLINE_FAILURE], 3);
	assert_string_equal(event(0)->where, "0x100000000-0x107ffffff");
	assert_string_equal(event(0)->what, "signal backoff");
	assert_string_equal(event(1)->what, "");
	assert_string_equal(only(KLOG_SNAPSHOT_INVALID)->what, "Unable to allocate exception.");
	assert_string_equal(only(KLOG_SUPPRESSED)->what, "do_migrate_range");
	assert_int_equal(only(KLOG_SUPPRESSED)->count, 412);
	assert_int_equal(only(KLOG_HARD_LOCKUP)->cpu, 3);
	assert_int_equal(res.count[KLOG_ALLOC_FAILURE], 2);
	for (unsigned i = 0; i < res.n; i++) {
		const struct klog_event *ev = event(i);

		if (ev->kind == KLOG_ALLOC_FAILURE && ev->order == 5) {
			assert_string_equal(ev->task, "a b");
			assert_string_equal(ev->mode, "0xcc0(GFP_KERNEL)");
			/* The CPU line named another task: it is another report's. */
			assert_int_equal(ev->lines, 1);
		} else if (ev->kind == KLOG_ALLOC_FAILURE) {
			assert_string_equal(ev->where, "kmalloc-64");
		}
	}
}

/* --- formats ----------------------------------------------------------------------------------------------------- */

static void test_prefixes_of_lines(void **state)
{
	static const struct {
		const char *prefix;
		int64_t usec;
	} forms[] = {
		{ "4,99,12345678,-;", 12345678 },
		{ "4,99,12345678,-,caller=T12;", 12345678 },
		{ "[   12.345678] ", 12345678 },
		{ "[   12.345678][  T123] ", 12345678 },
		{ "[   12.345678] [    C0] ", 12345678 },
		{ "<4>[   12.345678] ", 12345678 },
		{ "\r<4>[   12.345678] ", 12345678 },
		{ "\033[0m[   12.345678] ", 12345678 },
		{ "kern  :warn  : [   12.345678] ", 12345678 },
		{ "[   12.345678 <    0.000012>] ", 12345678 },
		{ "> [   12.345678] ", 12345678 },
		{ "> >> [12.345678] ", 12345678 },
		{ "[   12.345678] myhost kernel: ", 12345678 },
		{ "Nov 21 09:00:00 host kernel: [   12.345678] ", 12345678 },
		{ "[Fri Nov 21 09:00:00 2025] ", 0 },
		{ "Nov 21 09:00:00 host kernel: ", 0 },
		{ "Nov  1 09:00:00.123456 my-host.lan kernel: ", 0 },
		{ "2025-11-21T09:00:00+0000 host kernel: ", 0 },
		{ "2025-11-21T09:00:00.123456+01:00 host kernel: ", 0 },
		{ "2025-11-21T09:00:00,123456+01:00 ", 0 },
		{ "[Nov21 09:00] ", 0 },
		{ "[  +0.000123] ", 123 },
		{ "", KLOG_NONE },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		char text[512];

		snprintf(text, sizeof(text), "%sOut of memory: Killed process 7 (a b) total-vm:5kB, anon-rss:3kB\r\n",
			 forms[i].prefix);
		run(text);
		if (res.n != 1)
			fail_msg("\"%s\": %u events", forms[i].prefix, res.n);
		if (event(0)->usec != forms[i].usec)
			fail_msg("\"%s\": time %lld", forms[i].prefix, (long long)event(0)->usec);
		assert_string_equal(event(0)->raw, "Out of memory: Killed process 7 (a b) total-vm:5kB, anon-rss:3kB");
	}
}

static void test_foreign_lines(void **state)
{
	(void)state;
	/* Another sender in the journal, a writer to /dev/kmsg, a program on the console. */
	run("Nov 21 09:00:00 host app[12]: Out of memory: Killed process 7 (a) total-vm:5kB\n");
	assert_int_equal(res.n, 0);
	run("12,5,1000,-;Out of memory: Killed process 7 (a) total-vm:5kB\n");
	assert_int_equal(res.n, 0);
	run("<12>[1.000000] Out of memory: Killed process 7 (a) total-vm:5kB\n");
	assert_int_equal(res.n, 0);
	run("[1.000000] hello\nOut of memory: Killed process 7 (a) total-vm:5kB\n");
	assert_int_equal(res.n, 0);
	/* Prose above the first stamped line. */
	run("BUG: my machine died\n[1.000000] hello\n[1.100000] again\n");
	assert_int_equal(res.n, 0);
	run("4,5,1000,-;hello\n BUG: forged\nBUG: forged\n");
	assert_int_equal(res.n, 0);
}

static void test_wall_clock(void **state)
{
	(void)state;
	run("Dec 31 23:59:58 h kernel: hello\n"
	    "Jan  1 00:00:03 h kernel: Out of memory: Killed process 7 (a) total-vm:5kB\n");
	assert_int_equal(event(0)->usec, 5000000);
}

static void test_reboot_within_log(void **state)
{
	(void)state;
	run("[50.000000] sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
	    "[ 0.000000] Linux version 6.1\n"
	    "[ 0.500000] Out of memory: Killed process 7 (a) total-vm:5kB\n");
	assert_int_equal(res.n, 2);
	assert_string_equal(only(KLOG_OOM_KILL)->oom.trigger, "");
}

static void test_controls_and_nul(void **state)
{
	static const char text[] =
		"[1.000000] \033[1;31mOut of memory: \0Killed process 7 (a\001b) total-vm:5kB\033[0m\r\n"
		"\0\0\0\n[2.000000] \xff\xfe\x80garbage\n";
	struct jsonw j;
	char buf[2048];

	(void)state;
	res.keep = true;
	run_into(&res, text, sizeof(text) - 1);
	assert_int_equal(res.n, 1);
	assert_string_equal(event(0)->oom.victim_comm, "ab");
	assert_string_equal(event(0)->raw, "Out of memory: Killed process 7 (ab) total-vm:5kB");
	jsonw_init(&j, buf, sizeof(buf));
	klog_event_json(&j, event(0), -500000000);
	assert_true(jsonw_line(&j) > 0);
	assert_non_null(strstr(buf, "\"t\":0.500000,\"kind\":\"oom-kill\""));
}

static void test_long_lines_and_reports(void **state)
{
	size_t big = 300000, n;
	char *text = malloc(big + 1), *json = malloc(KLOG_JSON_MAX);
	struct jsonw j;

	(void)state;
	assert_non_null(text);
	assert_non_null(json);
	/* One line without an end, then a line that counts. */
	memset(text, 'x', big);
	text[big] = '\0';
	memcpy(text + big - 100, "\n[1.000000] Out of memory: Killed process 7 (a) total-vm:5kB\n", 61);
	run(text);
	assert_int_equal(kills(&res), 1);
	/* A kmsg record of that length must not spill into the next. */
	memcpy(text, "4,1,1,-;", 8);
	memcpy(text + big - 100, "\n4,2,1000000,-;Out of memory: Killed process 7 (a) total-vm:5kB\n", 65);
	run(text);
	assert_int_equal(kills(&res), 1);
	/* A report longer than its buffer, of bytes that are worst for JSON. */
	n = (size_t)snprintf(text, big, "Kernel panic - not syncing: x\nCall Trace:\n");
	while (n < big - 100) {
		memcpy(text + n, "f+0x1/0x2 ", 10);
		memset(text + n + 10, 0x80, 80);
		text[n + 90] = '\n';
		n += 91;
	}
	text[n] = '\0';
	run(text);
	assert_true(only(KLOG_PANIC)->truncated);
	assert_true(only(KLOG_PANIC)->lines > 3000);
	assert_int_equal(only(KLOG_PANIC)->stack_n, KLOG_STACK_MAX);
	jsonw_init(&j, json, KLOG_JSON_MAX);
	klog_event_json(&j, only(KLOG_PANIC), 0);
	assert_true(jsonw_line(&j) > 0);
	free(json);
	free(text);
}

static void test_role(void **state)
{
	struct klog_event ev;
	struct jsonw j;
	char buf[2048];

	(void)state;
	run("[1.000000] Out of memory: Killed process 7 (a) total-vm:5kB\n");
	ev = *event(0);
	ev.role = "workload";
	jsonw_init(&j, buf, sizeof(buf));
	klog_event_json(&j, &ev, 0);
	assert_true(jsonw_line(&j) > 0);
	assert_non_null(strstr(buf, "\"victim\":{\"pid\":7,\"comm\":\"a\",\"role\":\"workload\"}"));
}

static void test_reader_any_chunks(void **state)
{
	static const char text[] = "[1.000000] Out of memory: Kill process 5 (a) score 1 or\nsacrifice child\n"
				   "[1.000001] Killed process 5 (a) total-vm:5kB,\nanon-rss:3kB, file-rss:2kB\n"
				   "[1.000002] oom_reaper: reaped process 5 (a), now anon-rss:0kB";

	(void)state;
	for (size_t chunk = 1; chunk < sizeof(text); chunk++) {
		struct klog *k = klog_new(on_event, &res);
		struct klog_reader *r = klog_reader_new(on_record, k);

		res.n = 0;
		res.keep = true;
		for (size_t i = 0; i < sizeof(text) - 1; i += chunk)
			klog_reader_push(r, text + i, sizeof(text) - 1 - i < chunk ? sizeof(text) - 1 - i : chunk);
		klog_reader_finish(r);
		klog_flush(k);
		assert_int_equal(res.n, 1);
		assert_int_equal(event(0)->oom.anon_rss_kib, 3);
		assert_int_equal(event(0)->oom.file_rss_kib, 2);
		assert_true(event(0)->oom.reaped);
		assert_int_equal(event(0)->lines, 5);
		klog_reader_free(r);
		klog_free(k);
	}
}

static void test_kmsg_records(void **state)
{
	struct klog_record rec;
	char buf[KLOG_LINE_MAX];
	static const char *const bad[] = { "", "4", "4,1,2", "4,1,2,-", "x,1,2,-;t", "4,1,2,-\n;t", "-1,1,2,-;t" };

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(klog_parse_kmsg(bad[i], strlen(bad[i]), &rec, buf, sizeof(buf)));
	assert_true(klog_parse_kmsg("6,7,8,c,caller=C3,x=y;a\\x5cb\\x0ac\\xzz\n KEY=v\n", 42, &rec, buf, sizeof(buf)));
	assert_int_equal(rec.prio, 6);
	assert_int_equal(rec.seq, 7);
	assert_int_equal(rec.usec, 8);
	assert_int_equal(rec.caller, klog_caller('C', 3));
	assert_int_equal(rec.len, 9);
	assert_memory_equal(rec.text, "a\\b\nc\\xzz", 9);
	assert_true(klog_parse_kmsg("6,7,8,-;0123456789", 18, &rec, buf, 4));
	assert_int_equal(rec.len, 4);
	assert_int_not_equal(klog_caller('T', 0), 0);
	assert_int_not_equal(klog_caller('T', 0), klog_caller('C', 0));
}

/* --- the command ------------------------------------------------------------------------------------------------- */

static int events(const char *a, const char *b, const char *c, char **out)
{
	char *argv[] = { (char *)"events", (char *)a, (char *)b, (char *)c, NULL };
	size_t len;
	int code, n = 1 + !!a + !!b + !!c;

	*out = events_output(n, argv, &code, &len);
	return code;
}

static void write_file(char *path, const char *text)
{
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void test_command(void **state)
{
	char path[] = "/tmp/headroom-test-XXXXXX";
	char *out;
	int saved, fd;

	(void)state;
	write_file(path, "[1.000000] Out of memory: Killed process 7 (a) total-vm:5kB\n"
			 "[2.000000] x: 3 callbacks suppressed\n");
	assert_int_equal(events(path, NULL, NULL, &out), 0);
	assert_non_null(strstr(out, "\"oom-kill\""));
	/* The kill waits for its reaper and yet comes first. */
	assert_true(strstr(out, "\"oom-kill\"") < strstr(out, "\"suppressed\""));
	free(out);
	assert_int_equal(events("--kind", "suppressed,panic", path, &out), 0);
	assert_null(strstr(out, "\"oom-kill\""));
	assert_non_null(strstr(out, "\"suppressed\""));
	free(out);
	assert_int_equal(events("--summary", path, NULL, &out), 0);
	assert_string_equal(out, "oom-kill         1\nsuppressed       1\n");
	free(out);
	assert_int_equal(events("--kind", "nonsense", path, &out), 2);
	free(out);
	assert_int_equal(events("--nonsense", path, NULL, &out), 2);
	free(out);
	assert_int_equal(events(NULL, NULL, NULL, &out), 2);
	free(out);
	assert_int_equal(events(path, path, NULL, &out), 2);
	free(out);
	assert_int_equal(events("/nonexistent/x", NULL, NULL, &out), 3);
	assert_string_equal(out, "");
	free(out);
	assert_int_equal(events("/", NULL, NULL, &out), 3);
	free(out);
	assert_int_equal(events("/dev/null", NULL, NULL, &out), 0);
	assert_string_equal(out, "");
	free(out);
	assert_int_equal(events("--help", NULL, NULL, &out), 0);
	assert_non_null(strstr(out, "usage: headroom events"));
	assert_non_null(strstr(out, "memcg-oom-kill"));
	free(out);

	saved = dup(STDIN_FILENO);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0 && dup2(fd, STDIN_FILENO) >= 0);
	assert_int_equal(events("--summary", "-", NULL, &out), 0);
	assert_non_null(strstr(out, "oom-kill"));
	free(out);
	close(fd);
	if (saved >= 0) {
		dup2(saved, STDIN_FILENO);
		close(saved);
	}
	unlink(path);
}

static void test_kind_names(void **state)
{
	(void)state;
	for (int i = 0; i < KLOG_KINDS; i++) {
		const char *name = klog_kind_name((enum klog_kind)i);

		assert_non_null(name);
		assert_int_equal(klog_kind_parse(name, strlen(name)), i);
	}
	assert_null(klog_kind_name(KLOG_KINDS));
	assert_int_equal(klog_kind_parse("oom", 3), -1);
	assert_int_equal(klog_kind_parse("", 0), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_prefixes),
		cmocka_unit_test(test_fuzz_corpus),
		cmocka_unit_test(test_oom_4_19_is_one_kill),
		cmocka_unit_test(test_oom_4_19_memcg),
		cmocka_unit_test(test_oom_names_of_tasks),
		cmocka_unit_test(test_oom_name_with_newline),
		cmocka_unit_test(test_oom_kill_without_dump),
		cmocka_unit_test(test_oom_other_pid_is_other_kill),
		cmocka_unit_test(test_oom_group),
		cmocka_unit_test(test_oom_without_kill),
		cmocka_unit_test(test_oom_allocating_task),
		cmocka_unit_test(test_kill_within_hung_task),
		cmocka_unit_test(test_two_stacks_without_caller),
		cmocka_unit_test(test_two_stacks_with_caller),
		cmocka_unit_test(test_reports_in_a_row),
		cmocka_unit_test(test_more_reports_than_slots),
		cmocka_unit_test(test_lost_records_part_reports),
		cmocka_unit_test(test_tick_closes),
		cmocka_unit_test(test_workqueue_forms),
		cmocka_unit_test(test_workqueue_works_behind_one_another),
		cmocka_unit_test(test_hung_kworker_says_what_it_does),
		cmocka_unit_test(test_hung_forms),
		cmocka_unit_test(test_alloc_stalls),
		cmocka_unit_test(test_rcu_forms),
		cmocka_unit_test(test_rcu_stack_is_of_the_stalled_cpu),
		cmocka_unit_test(test_rcu_waits_for_the_backtrace),
		cmocka_unit_test(test_guesses_do_not_displace_frames),
		cmocka_unit_test(test_oops_is_one_event),
		cmocka_unit_test(test_warnings),
		cmocka_unit_test(test_bugs),
		cmocka_unit_test(test_small_kinds),
		cmocka_unit_test(test_prefixes_of_lines),
		cmocka_unit_test(test_foreign_lines),
		cmocka_unit_test(test_wall_clock),
		cmocka_unit_test(test_reboot_within_log),
		cmocka_unit_test(test_controls_and_nul),
		cmocka_unit_test(test_long_lines_and_reports),
		cmocka_unit_test(test_role),
		cmocka_unit_test(test_reader_any_chunks),
		cmocka_unit_test(test_kmsg_records),
		cmocka_unit_test(test_command),
		cmocka_unit_test(test_kind_names),
	};
	int failed;

	res.caught = calloc(CAUGHT_MAX, sizeof(*res.caught));
	if (!res.caught)
		return 1;
	failed = cmocka_run_group_tests_name("klog", tests, NULL, NULL);
	free(res.caught);
	return failed;
}
