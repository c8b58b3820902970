// SPDX-License-Identifier: MIT
/* From the files of a record to facts, and from facts to the verdict, its reason, and what is said of a mitigation. */
#include "run/attest.h"
#include "base/clock.h"
#include "run/facts.h"
#include "run/result.h"
#include "run/verdict.h"
#include "t.h"

#include <math.h>

#define SETUP	 "{\"t\":-3.0,\"source\":\"harness\",\"kind\":\"phase\",\"name\":\"setup\",\"raw\":\"setup\"}\n"
#define START	 "{\"t\":0.0,\"source\":\"harness\",\"kind\":\"start\",\"raw\":\"001-before-1\"}\n"
#define COOLDOWN "{\"t\":46.1,\"source\":\"harness\",\"kind\":\"phase\",\"name\":\"cool-down\",\"raw\":\"\"}\n"
#define VERIFIED                                                                                                       \
	"{\"t\":60.0,\"source\":\"harness\",\"kind\":\"verify\",\"workload\":\"snapshot-cow\",\"ok\":true,"            \
	"\"after_run\":true,\"status\":0,\"raw\":\"\"}\n"
#define DONE  "{\"t\":61.0,\"source\":\"harness\",\"kind\":\"done\",\"raw\":\"complete\"}\n"
#define BEGIN SETUP START
#define END   COOLDOWN VERIFIED DONE

#define KILL(t, comm, role)                                                                                            \
	"{\"t\":" t ",\"kind\":\"oom-kill\",\"source\":\"kmsg\",\"seq\":452,\"victim\":{\"pid\":213,\"comm\":\"" comm  \
	"\",\"cgroup\":\"/headroom/workload\",\"role\":\"" role "\"},\"raw\":\"\"}\n"
#define KERNEL(t, kind, more) "{\"t\":" t ",\"kind\":\"" kind "\",\"source\":\"kmsg\"," more "\"raw\":\"\"}\n"
#define HARNESS(t, kind, more, raw)                                                                                    \
	"{\"t\":" t ",\"source\":\"harness\",\"kind\":\"" kind "\"," more "\"raw\":\"" raw "\"}\n"
#define CORRUPT HARNESS("50.0", "corrupt", "", "snapshot 3: block at byte 4096 is not the old data")
#define PANIC	KERNEL("12.5", "panic", "\"reason\":\"Out of memory: system-wide panic_on_oom is enabled\",")

static const char *const caches[] = { "kcopyd_job", "dm_snap_pending_exception", NULL };
static struct facts f;
static uint64_t bad_lines;
static char *dir;

static int make(void **state)
{
	(void)state;
	dir = t_dir();
	return 0;
}

static int drop(void **state)
{
	(void)state;
	t_remove(dir);
	return 0;
}

/* The caller frees the facts. */
static void read_facts(const char *samples, const char *events)
{
	t_write(dir, "samples.jsonl", samples);
	t_write(dir, "events.jsonl", events);
	bad_lines = 0;
	assert_int_equal(facts_read(&f, dir, caches, &bad_lines), 0);
}

static struct judgement judge(const char *samples, const char *events, enum end end, bool was_interrupted)
{
	struct judgement j;

	read_facts(samples, events);
	verdict_find_out(&f, end, was_interrupted, &j);
	facts_free(&f);
	return j;
}

static void verdicts_and_reasons(void **state)
{
	static const struct {
		const char *what, *samples, *events;
		enum end end;
		bool interrupted;
		enum verdict verdict;
		const char *reason, *outcome;
	} cases[] = {
		{ "all well", "", BEGIN END, END_ITSELF, false, VERDICT_OK, "finished in 46.1 s, data verified", NULL },
		{ "one kill", "", BEGIN KILL("9.1", "fio", "workload") END, END_ITSELF, false, VERDICT_OOM,
		  "1 OOM kill, first at 9.1 s: fio (workload)", NULL },
		{ "kills, the first is named", "",
		  BEGIN KILL("9.1", "fio", "workload") KILL("9.2", "idle", "bystander") END, END_ITSELF, false,
		  VERDICT_OOM, "2 OOM kills, first at 9.1 s: fio (workload)", NULL },
		{ "the counter saw more than the log",
		  "{\"t\":-1,\"vm\":{\"oom_kill\":2}}\n{\"t\":9,\"vm\":{\"oom_kill\":7}}\n",
		  BEGIN KILL("9.1", "fio", "workload") END, END_ITSELF, false, VERDICT_OOM,
		  "5 OOM kills, first at 9.1 s: fio (workload)", NULL },
		{ "the counter alone", "{\"t\":-1,\"vm\":{\"oom_kill\":0}}\n{\"t\":9,\"vm\":{\"oom_kill\":1}}\n",
		  BEGIN END, END_ITSELF, false, VERDICT_OOM, "1 OOM kill", NULL },
		{ "the log saw more than the last sample",
		  "{\"t\":-1,\"vm\":{\"oom_kill\":0}}\n{\"t\":9,\"vm\":{\"oom_kill\":1}}\n",
		  BEGIN KILL("9.1", "fio", "workload") KILL("9.2", "fio", "workload") END, END_ITSELF, false,
		  VERDICT_OOM, "2 OOM kills", NULL },
		{ "kills before the record are not ours",
		  "{\"t\":-1,\"vm\":{\"oom_kill\":3}}\n{\"t\":9,\"vm\":{\"oom_kill\":3}}\n", BEGIN END, END_ITSELF,
		  false, VERDICT_OK, "finished", NULL },
		{ "memcg kill", "",
		  BEGIN KERNEL("3.0", "memcg-oom-kill", "\"victim\":{\"comm\":\"fio\",\"role\":\"workload\"},") END,
		  END_ITSELF, false, VERDICT_OOM, "fio (workload)", NULL },
		{ "panic beats oom", "", BEGIN KILL("9.1", "fio", "workload") PANIC, END_PANIC, false, VERDICT_PANIC,
		  "kernel panic at 12.5 s: Out of memory: system-wide panic_on_oom is enabled; 1 OOM kill", NULL },
		{ "panic without words", "", BEGIN, END_PANIC, false, VERDICT_PANIC, "its words were lost", NULL },
		{ "panic that QEMU did not tell", "", BEGIN PANIC, END_DIED, false, VERDICT_PANIC, "12.5 s", NULL },
		{ "oops", "", BEGIN KERNEL("4.0", "oops", "") END, END_ITSELF, false, VERDICT_PANIC,
		  "1 kernel bug reported", NULL },
		{ "no heartbeat", "{\"t\":33.4}\n", BEGIN, END_HANG, false, VERDICT_HUNG,
		  "the machine stopped answering after 33.4 s", NULL },
		{ "lockup by the kernel", "", BEGIN KERNEL("20.0", "wq-lockup", "\"seconds\":34,") END, END_ITSELF,
		  false, VERDICT_LOCKUP, "1 lockup report, first at 20.0 s", NULL },
		{ "lockups of several kinds", "",
		  BEGIN KERNEL("20.0", "soft-lockup", "") KERNEL("21.0", "rcu-stall", "") END, END_ITSELF, false,
		  VERDICT_LOCKUP, "2 lockup reports, first at 20.0 s", NULL },
		{ "lockup by the canary", "{\"t\":30,\"canary\":{\"n\":0,\"pending_ms\":30000.0}}\n", BEGIN END,
		  END_ITSELF, false, VERDICT_LOCKUP, "work waited 30.0 s for a kernel worker", NULL },
		{ "lockup by a canary that came back",
		  "{\"t\":35,\"canary\":{\"n\":1,\"max_ms\":31200.5,\"pending_ms\":0}}\n", BEGIN END, END_ITSELF, false,
		  VERDICT_LOCKUP, "work waited 31.2 s", NULL },
		{ "a slow canary is no lockup", "{\"t\":35,\"canary\":{\"n\":1,\"max_ms\":29999.9,\"pending_ms\":0}}\n",
		  BEGIN END, END_ITSELF, false, VERDICT_OK, "finished", NULL },
		{ "hung task", "", BEGIN KERNEL("35.2", "hung-task", "\"task\":\"fio\",\"seconds\":20,") END,
		  END_ITSELF, false, VERDICT_HUNG, "1 hung task, first at 35.2 s", NULL },
		{ "oom beats hung task and lockup", "",
		  BEGIN KERNEL("5.0", "hung-task", "") KERNEL("6.0", "wq-lockup", "") KILL("9.1", "fio", "workload")
			  END,
		  END_ITSELF, false, VERDICT_OOM, "1 hung task, first at 5.0 s", NULL },
		{ "lockup beats hung task", "", BEGIN KERNEL("5.0", "hung-task", "") KERNEL("6.0", "wq-lockup", "") END,
		  END_ITSELF, false, VERDICT_LOCKUP, "1 lockup report, first at 6.0 s; 1 hung task", NULL },
		{ "stuck load", "", BEGIN, END_DEADLINE, false, VERDICT_STUCK, "the load was not over at its deadline",
		  NULL },
		{ "stuck after the load", "", BEGIN COOLDOWN, END_DEADLINE, false, VERDICT_STUCK,
		  "not over at the deadline", NULL },
		{ "ended at the deadline", "",
		  BEGIN HARNESS("75.0", "exit", "\"role\":\"workload\",\"status\":-110,", "") END, END_ITSELF, false,
		  VERDICT_STUCK, "the load was not over at its deadline", NULL },
		{ "does not even die", "",
		  BEGIN HARNESS("75.0", "exit", "\"role\":\"workload\",\"status\":-16,", "") END, END_ITSELF, false,
		  VERDICT_STUCK, "deadline", NULL },
		{ "corrupt beats all", "{\"t\":30,\"canary\":{\"n\":0,\"pending_ms\":40000.0}}\n",
		  BEGIN KILL("9.1", "fio", "workload") CORRUPT PANIC, END_PANIC, false, VERDICT_CORRUPT,
		  "snapshot 3: block at byte 4096 is not the old data; kernel panic at 12.5 s", NULL },
		{ "a deadlock before the tasks that hang in it", "",
		  BEGIN HARNESS("20.0", "deadlock", "", "a (pid 1) waits for b, held by c (pid 2)")
			  KERNEL("33.0", "hung-task", "") END,
		  END_ITSELF, false, VERDICT_DEADLOCK, "a (pid 1) waits for b, held by c (pid 2); 1 hung task", NULL },
		{ "set-up failed", "", SETUP HARNESS("-1.0", "fail", "", "fill /dev/x: No space left on device") DONE,
		  END_ITSELF, false, VERDICT_BROKEN, "the set-up failed: fill /dev/x: No space left on device", NULL },
		{ "the first failure is the reason", "",
		  SETUP HARNESS("-1.0", "fail", "", "one") HARNESS("-1.0", "fail", "", "two"), END_ITSELF, false,
		  VERDICT_BROKEN, "the set-up failed: one", NULL },
		{ "not verified", "", BEGIN COOLDOWN DONE, END_ITSELF, false, VERDICT_BROKEN,
		  "the data could not be verified", NULL },
		{ "verified, but not what the load wrote", "",
		  BEGIN COOLDOWN HARNESS("60.0", "verify", "\"ok\":true,\"after_run\":false,", "") DONE, END_ITSELF,
		  false, VERDICT_BROKEN, "the data could not be verified", NULL },
		{ "a failure that nothing explains", "",
		  BEGIN HARNESS("9.0", "fail", "", "fio ended with status 1") END, END_ITSELF, false, VERDICT_BROKEN,
		  "fio ended with status 1", NULL },
		{ "a failure that a kill explains", "",
		  BEGIN KILL("9.1", "fio", "workload") HARNESS("9.2", "fail", "", "fio ended with status 137") END,
		  END_ITSELF, false, VERDICT_OOM, "1 OOM kill", NULL },
		{ "QEMU died", "", BEGIN COOLDOWN, END_DIED, false, VERDICT_BROKEN,
		  "its process ended before the cell was over", NULL },
		{ "no boot", "", "", END_NO_BOOT, false, VERDICT_BROKEN, "the guest did not boot", NULL },
		{ "signal", "", BEGIN KILL("9.1", "fio", "workload"), END_SIGNAL, false, VERDICT_BROKEN, "interrupted",
		  NULL },
		{ "cut off", "", BEGIN, END_ITSELF, true, VERDICT_BROKEN, "interrupted", NULL },
		{ "an empty record", "", "", END_DIED, false, VERDICT_BROKEN, "the record does not say why", NULL },
		{ "snapshot overflow", "",
		  BEGIN KERNEL("20.0", "snapshot-invalid", "\"reason\":\"Unable to allocate exception.\",") END,
		  END_ITSELF, false, VERDICT_BROKEN, "snapshot-overflow: Unable to allocate exception.",
		  "snapshot-overflow" },
		{ "invalid for another reason", "",
		  BEGIN KERNEL("20.0", "snapshot-invalid", "\"reason\":\"Error reading/writing.\",") END, END_ITSELF,
		  false, VERDICT_BROKEN, "snapshot-invalid: Error reading/writing.", "snapshot-invalid" },
		{ "overflow under memory pressure", "",
		  BEGIN KILL("9.1", "fio", "workload")
			  KERNEL("20.0", "snapshot-invalid", "\"reason\":\"Unable to allocate exception.\",") END,
		  END_ITSELF, false, VERDICT_OOM, "1 OOM kill", "snapshot-overflow" },
		{ "found invalid when verified", "",
		  BEGIN HARNESS("50.0", "snapshot-invalid", "", "snap-0: status Invalid") END, END_ITSELF, false,
		  VERDICT_BROKEN, "snap-0: status Invalid", "snapshot-invalid" },
		{ "what the kernel said while it booted", "",
		  KERNEL("-8.0", "oops", "") KERNEL("-7.0", "wq-lockup", "\"seconds\":40,")
			  KILL("-6.0", "udevd", "bystander") BEGIN END,
		  END_ITSELF, false, VERDICT_OK, "finished", NULL },
		{ "an event without a time counts", "",
		  BEGIN "{\"t\":null,\"kind\":\"panic\",\"source\":\"console\",\"reason\":\"x\",\"raw\":\"\"}\n",
		  END_PANIC, false, VERDICT_PANIC, "kernel panic", NULL },
		/* `broken` is our own fault; what the kernel does while we set up is not. */
		{ "kill in the set-up", "", SETUP KILL("-2.0", "headroom", "harness") START END, END_ITSELF, false,
		  VERDICT_OOM, "1 OOM kill, first at -2.0 s: headroom (harness)", NULL },
		{ "the first of two kills was in the set-up", "",
		  SETUP KILL("-2.0", "one", "harness") START KILL("3.0", "two", "workload") END, END_ITSELF, false,
		  VERDICT_OOM, "2 OOM kills, first at -2.0 s: one (harness)", NULL },
		/* `skipped` is a machine on which there is nothing to find out, not one on which we failed. */
		{ "a need that is not met", "",
		  SETUP HARNESS("-1.0", "skip", "", "swap-crypt: no dm-crypt in this kernel")
			  HARNESS("-0.9", "fail", "", "swap-crypt: set-up: No such device") DONE,
		  END_ITSELF, false, VERDICT_SKIPPED, "swap-crypt: no dm-crypt in this kernel", NULL },
		{ "a need that was met after all", "", BEGIN HARNESS("1.0", "skip", "", "no dm-crypt") END, END_ITSELF,
		  false, VERDICT_OK, "finished", NULL },
		{ "a kill before it was skipped", "",
		  SETUP KILL("-2.0", "fio", "workload") HARNESS("-1.0", "skip", "", "no dm-crypt") DONE, END_ITSELF,
		  false, VERDICT_OOM, "1 OOM kill", NULL },
		{ "panic in the set-up", "", SETUP KERNEL("2.0", "panic", "\"reason\":\"dm\","), END_PANIC, false,
		  VERDICT_PANIC, "kernel panic at 2.0 s: dm", NULL },
	};

	size_t wrong = 0;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct judgement j = judge(cases[i].samples, cases[i].events, cases[i].end, cases[i].interrupted);
		const char *outcome = j.outcome ? j.outcome : "none",
			   *want = cases[i].outcome ? cases[i].outcome : "none";

		assert_int_equal(bad_lines, 0);
		if (j.verdict == cases[i].verdict && strstr(j.reason, cases[i].reason) && strcmp(outcome, want) == 0)
			continue;
		print_error("%s: %s (%s): %s\n    should be %s (%s): %s\n", cases[i].what, verdict_name(j.verdict),
			    outcome, j.reason, verdict_name(cases[i].verdict), want, cases[i].reason);
		wrong++;
	}
	assert_int_equal(wrong, 0);
}

/* Two workloads: the data is verified when all of it is. */
static void one_workload_verified_does_not_speak_for_the_other(void **state)
{
	(void)state;
	read_facts("", BEGIN COOLDOWN HARNESS("59.0", "verify", "\"ok\":true,\"after_run\":false,", "") VERIFIED DONE);
	assert_false(f.verified);
	facts_free(&f);
	read_facts("", BEGIN COOLDOWN HARNESS("59.0", "verify", "\"ok\":false,\"after_run\":true,", "") VERIFIED DONE);
	assert_false(f.verified);
	facts_free(&f);
	read_facts("", BEGIN COOLDOWN VERIFIED VERIFIED DONE);
	assert_true(f.verified);
	facts_free(&f);
}

static void samples_are_added_up(void **state)
{
	static const char samples[] =
		"{\"t\":-1,\"mem\":{\"MemTotal\":738000,\"MemAvailable\":600000,\"SUnreclaim\":30000},"
		"\"vm\":{\"oom_kill\":0,\"allocstall_normal\":5,\"allocstall_dma32\":1,\"pgscan_direct\":10},"
		"\"psi\":{\"memory\":{\"some_us\":100,\"full_us\":50}},\"slab\":{\"kmalloc-64\":[10,20,64,4]},"
		"\"canary\":{\"n\":1,\"max_ms\":2.5,\"pending_ms\":0}}\n"
		"{\"t\":5,\"mem\":{\"MemTotal\":738000,\"MemAvailable\":20000,\"SUnreclaim\":400000},"
		"\"vm\":{\"oom_kill\":1,\"allocstall_normal\":7,\"allocstall_dma32\":2,\"pgscan_direct\":1010},"
		"\"psi\":{\"memory\":{\"some_us\":5100,\"full_us\":1050}},"
		"\"slab\":{\"kcopyd_job\":[100,100,1024,200],\"kmalloc-64\":[0,0,64,0]},"
		"\"canary\":{\"n\":0,\"pending_ms\":512.5}}\n"
		"{\"t\":6,\"mem\":{\"MemTotal\":738000,\"MemAvailable\":50000,\"SUnreclaim\":300000},"
		"\"vm\":{\"oom_kill\":1,\"allocstall_normal\":7,\"allocstall_dma32\":2,\"pgscan_direct\":1010},"
		"\"psi\":{\"memory\":{\"some_us\":5100,\"full_us\":1050}},\"slab\":{\"kcopyd_job\":[90,120,1024,240]}}"
		"\n";
	const struct cache_peak *jobs;

	(void)state;
	read_facts(samples, "");
	assert_int_equal(f.samples, 3);
	assert_int_equal(f.slab_peak_kib, 400000);
	assert_true(f.slab_peak_t == 5);
	assert_int_equal(f.available_min_kib, 20000);
	assert_int_equal(f.memtotal_kib, 738000);
	assert_int_equal(f.oom_counter.kills, 1);
	assert_int_equal(f.allocstalls, 3);
	assert_int_equal(f.pgscan_direct, 1000);
	assert_int_equal(f.psi_some_us, 5000);
	assert_int_equal(f.psi_full_us, 1000);
	assert_true(f.canary_max_ms == 512.5 && f.canary_max_t == 5);
	assert_true(fabs(f.utilisation_pct - 50) < 0.001);
	assert_true(f.last_t == 6);
	jobs = facts_cache(&f, "kcopyd_job");
	assert_non_null(jobs);
	assert_int_equal(jobs->objects, 100);
	assert_int_equal(jobs->kib, 240);
	assert_true(jobs->t == 5);
	assert_null(facts_cache(&f, "dm_snap_pending_exception"));
	assert_null(facts_cache(&f, "kmalloc-64"));
	facts_free(&f);
}

/* The counters first; a log that cannot be squared with them is told. */
static void kills_are_counted_by_the_counters_and_checked_by_the_log(void **state)
{
#define VM(t, n) "{\"t\":" t ",\"vm\":{\"oom_kill\":" n "}}\n"
#define GROUP(t, age, n)                                                                                               \
	"{\"t\":" t ",\"cgroups\":{\"age_ms\":" age ",\"groups\":{\"/headroom\":{\"oom_kill\":" n "}}}}\n"
#define IN_GROUP(t)                                                                                                    \
	KERNEL(t, "oom-kill",                                                                                          \
	       "\"victim\":{\"pid\":1,\"comm\":\"fio\",\"role\":\"workload\",\"cgroup\":\"/headroom/workload\"},")
	static const struct {
		const char *what, *samples, *events;
		uint64_t kills;
		const char *why; /* NULL: they agree */
	} cases[] = {
		{ "all agree", VM("-1", "0") VM("9.0", "0") VM("9.2", "1"), KILL("9.1", "fio", "workload"), 1, NULL },
		{ "counted before it was printed", VM("-1", "0") VM("9.0", "1"), KILL("9.1", "fio", "workload"), 1,
		  NULL },
		{ "the machine died after its last sample", VM("-1", "0") VM("9.0", "1"),
		  KILL("8.9", "fio", "workload") KILL("9.1", "fio", "workload") KILL("9.3", "idle", "bystander"), 3,
		  NULL },
		{ "a kill before the first sample", VM("-1", "3") VM("9.0", "3"), KILL("-2", "fio", "workload"), 1,
		  NULL },
		{ "a first victim named again unseen", VM("-1", "0") VM("9.0", "4"),
		  KILL("5.0", "a", "workload")
			  KERNEL("5.1", "memcg-oom-kill", "\"group\":true,\"victim\":{\"comm\":\"b\"},")
				  KERNEL("5.2", "memcg-oom-kill", "\"group\":true,\"victim\":{\"comm\":\"c\"},"),
		  3, NULL },
		{ "what comes much later was not counted", VM("-1", "0") VM("9.0", "2"),
		  KILL("12.0", "a", "workload") KILL("12.1", "b", "workload"), 4,
		  "vmstat counts 2 OOM kills, the kernel log tells of 0" },
		{ "a cgroup that only begins like ours", GROUP("-1", "0", "0") GROUP("9.0", "0", "0"),
		  KERNEL("8", "oom-kill", "\"victim\":{\"comm\":\"x\",\"cgroup\":\"/headroom-not\"},"), 1, NULL },
		{ "the log lost one", VM("-1", "0") VM("9.0", "2"), KILL("8.9", "fio", "workload"), 2,
		  "vmstat counts 2 OOM kills, the kernel log tells of 1" },
		{ "the log lost all", VM("-1", "0") VM("9.0", "1"), "", 1,
		  "vmstat counts 1 OOM kill, the kernel log tells of 0" },
		{ "the log tells of one that nobody counted", VM("-1", "0") VM("9.0", "0"),
		  KILL("5.0", "fio", "workload"), 0, "vmstat counts 0 OOM kills, the kernel log tells of 1" },
		{ "the kernel counted one task twice", VM("-1", "0") VM("9.0", "3"),
		  KERNEL("5.0", "memcg-oom-kill", "\"times\":2,\"victim\":{\"comm\":\"a\"},")
			  KERNEL("5.1", "memcg-oom-kill", "\"victim\":{\"comm\":\"b\"},"),
		  2, NULL },
		{ "... and no other is excused by it", VM("-1", "0") VM("9.0", "4"),
		  KERNEL("5.0", "memcg-oom-kill", "\"times\":2,\"victim\":{\"comm\":\"a\"},")
			  KERNEL("5.1", "memcg-oom-kill", "\"group\":true,\"victim\":{\"comm\":\"b\"},"),
		  3, "vmstat counts 4 OOM kills, the kernel log tells of 3" },
		{ "no counter", "{\"t\":1}\n", KILL("5.0", "fio", "workload"), 1, NULL },
		{ "the cgroups agree", GROUP("-1", "0", "0") GROUP("9.0", "100", "1"), IN_GROUP("8.0"), 1, NULL },
		{ "read before the kill", GROUP("-1", "0", "0") GROUP("9.0", "1000", "0"), IN_GROUP("8.5"), 1, NULL },
		{ "a victim without its cgroup may be theirs", GROUP("-1", "0", "0") GROUP("9.0", "0", "1"),
		  KILL("8.5", "fio", "workload"), 1, NULL },
		{ "the cgroups counted more", GROUP("-1", "0", "0") GROUP("9.0", "0", "2"), IN_GROUP("8.5"), 1,
		  "memory.events of /headroom counts 2 OOM kills, the kernel log tells of 1" },
		{ "the cgroups counted less", GROUP("-1", "0", "0") GROUP("9.0", "0", "0"), IN_GROUP("8.5"), 1,
		  "memory.events of /headroom counts 0 OOM kills, the kernel log tells of 1" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kill_count k;
		char events[2048];

		snprintf(events, sizeof(events), "%s%s", HARNESS("-5", "phase", "\"name\":\"setup\",", "setup"),
			 cases[i].events);
		read_facts(cases[i].samples, events);
		k = facts_count_kills(&f);
		if (k.kills != cases[i].kills || k.agree != !cases[i].why)
			fail_msg("%s: %d kills, %s", cases[i].what, (int)k.kills, k.agree ? "agreed" : k.why);
		if (cases[i].why)
			assert_string_equal(k.why, cases[i].why);
		facts_free(&f);
	}
}

static void a_disagreement_about_kills_stands_in_the_reason(void **state)
{
	struct judgement j = judge("{\"t\":-1,\"vm\":{\"oom_kill\":0}}\n{\"t\":9,\"vm\":{\"oom_kill\":1}}\n", BEGIN END,
				   END_ITSELF, false);

	(void)state;
	assert_string_equal(j.reason, "1 OOM kill; vmstat counts 1 OOM kill, the kernel log tells of 0");
}

/* It is our own disturbance: neither its hanging nor the wait it causes says anything about the load. */
static void a_shrink_that_hangs_costs_no_verdict(void **state)
{
#define SHRINK	 HARNESS("50", "phase", "\"name\":\"shrink\",", "shrink")
#define STUCK(t) HARNESS(t, "stuck", "", "process group 7 does not die of SIGKILL")
#define TEARDOWN HARNESS("60", "phase", "\"name\":\"teardown\",", "teardown")
	static const char slow[] = "{\"t\":55,\"canary\":{\"n\":0,\"pending_ms\":40000.0}}\n";

	(void)state;
	assert_int_equal(
		judge(slow, BEGIN COOLDOWN VERIFIED SHRINK STUCK("57") TEARDOWN DONE, END_ITSELF, false).verdict,
		VERDICT_OK);
	assert_int_equal(judge("", BEGIN COOLDOWN VERIFIED SHRINK TEARDOWN STUCK("61") DONE, END_ITSELF, false).verdict,
			 VERDICT_STUCK);
	assert_int_equal(judge("{\"t\":61,\"canary\":{\"n\":0,\"pending_ms\":40000.0}}\n",
			       BEGIN COOLDOWN VERIFIED SHRINK TEARDOWN DONE, END_ITSELF, false)
				 .verdict,
			 VERDICT_LOCKUP);
}

/* Objects of 1 KiB: 100 count as in use, of which 30 a CPU may keep; 200 KiB are held. */
static void slab_utilisation_has_its_error_and_the_exact_figure(void **state)
{
	static const char samples[] =
		"{\"t\":1,\"mem\":{\"MemAvailable\":1,\"SUnreclaim\":400},\"slab\":{\"a\":[100,200,1024,200]}}\n";
#define CACHES HARNESS("-2", "slab-caches", "\"caches\":{\"a\":{\"per_slab\":10,\"slack\":30}},", "")

	(void)state;
	read_facts(samples, CACHES HARNESS("3", "slab-shrunk",
					   "\"not_shrunk\":0,\"before\":{\"slab\":{\"a\":[100,200,1024,200]}},"
					   "\"after\":{\"slab\":{\"a\":[80,100,1024,100]}},",
					   ""));
	assert_true(fabs(f.utilisation_pct - 50) < 0.001);
	assert_true(fabs(f.utilisation_least_pct - 35) < 0.001);
	assert_true(f.have_exact);
	assert_true(fabs(f.utilisation_exact_pct - 80) < 0.001);
	assert_int_equal(f.shrink_freed_kib, 100);
	facts_free(&f);
	/* A cache that could not be shrunk, or no figures: nothing is exact. */
	read_facts(samples, HARNESS("3", "slab-shrunk",
				    "\"not_shrunk\":1,\"before\":{\"slab\":{\"a\":[100,200,1024,200]}},"
				    "\"after\":{\"slab\":{\"a\":[80,100,1024,100]}},",
				    ""));
	assert_false(f.have_exact);
	facts_free(&f);
}

static void the_half_life_of_dying_cgroups_begins_where_the_load_ended(void **state)
{
#define DYING(t, age, n)                                                                                               \
	"{\"t\":" t ",\"cgroups\":{\"age_ms\":" age ",\"groups\":{\"/\":{\"nr_dying_descendants\":" n "}}}}\n"
	static const char ended[] = HARNESS("10", "phase", "\"name\":\"cool-down\",", "cool-down");

	(void)state;
	read_facts(DYING("5", "0", "90") DYING("9.5", "0", "41") DYING("12", "0", "21") DYING("14", "500", "20")
			   DYING("15", "0", "0"),
		   ended);
	assert_int_equal(f.dying_peak, 90);
	assert_true(fabs(f.dying_half_life_s - 3.5) < 0.001);
	facts_free(&f);
	/* Not half of them went; or there were none. */
	read_facts(DYING("9", "0", "41") DYING("11", "0", "41") DYING("12", "0", "40"), ended);
	assert_true(f.dying_half_life_s < 0);
	facts_free(&f);
	/* Nearly all went at once: the one that stays does not make half of it late. */
	read_facts(DYING("9", "0", "1006") DYING("10.5", "0", "1") DYING("40", "0", "0"), ended);
	assert_true(fabs(f.dying_half_life_s - 0.5) < 0.001);
	facts_free(&f);
	read_facts(DYING("11", "0", "0") DYING("12", "0", "0"), ended);
	assert_true(f.have_dying && f.dying_half_life_s < 0);
	facts_free(&f);
}

/* "Any group can be absent": a file that could not be read in the storm is no counter that went back to 0. */
static void a_group_that_is_absent_changes_nothing(void **state)
{
	static const char *const last[] = { "{\"t\":9}\n",
					    "{\"t\":9,\"mem\":{},\"vm\":{},\"psi\":{\"memory\":{}},\"slab\":{}}\n" };
	char samples[2048];

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		snprintf(samples, sizeof(samples), "%s%s%s",
			 "{\"t\":-1,\"mem\":{\"MemTotal\":700,\"MemAvailable\":600,\"SUnreclaim\":30},"
			 "\"vm\":{\"oom_kill\":2,\"allocstall_normal\":5,\"pgscan_direct\":10},"
			 "\"psi\":{\"memory\":{\"some_us\":100,\"full_us\":50}}}\n",
			 "{\"t\":5,\"mem\":{\"MemTotal\":700,\"MemAvailable\":500,\"SUnreclaim\":40},"
			 "\"vm\":{\"oom_kill\":3,\"allocstall_normal\":7,\"pgscan_direct\":30},"
			 "\"psi\":{\"memory\":{\"some_us\":300,\"full_us\":150}}}\n",
			 last[i]);
		read_facts(samples, BEGIN END);
		assert_int_equal(f.oom_counter.kills, 1);
		assert_int_equal(f.allocstalls, 2);
		assert_int_equal(f.pgscan_direct, 20);
		assert_int_equal(f.psi_some_us, 200);
		assert_int_equal(f.psi_full_us, 100);
		assert_int_equal(f.available_min_kib, 500);
		assert_int_equal(f.memtotal_kib, 700);
		facts_free(&f);
	}
	/* And one that was absent first does not grow by all that was counted since boot. */
	read_facts("{\"t\":-1}\n{\"t\":1,\"vm\":{\"oom_kill\":7}}\n{\"t\":2,\"vm\":{\"oom_kill\":8}}\n", BEGIN END);
	assert_int_equal(f.oom_counter.kills, 1);
	facts_free(&f);
}

static void harness_events_are_kept(void **state)
{
	(void)state;
	read_facts("", BEGIN HARNESS("0.1", "knob", "\"name\":\"a\",\"value\":\"1\",\"read_back\":\"2\",", "")
			       HARNESS("0.2", "knob", "\"name\":\"b\",\"value\":\"1\",", "")
				       HARNESS("0.3", "metric", "\"name\":\"write_mib_s\",\"value\":12.5,", "")
					       HARNESS("0.4", "metric", "\"name\":\"none\",", "") END);
	assert_string_equal(json_string_value(json_object_get(f.knobs, "a")), "2");
	assert_true(json_is_null(json_object_get(f.knobs, "b")));
	assert_true(json_real_value(json_object_get(f.metrics, "write_mib_s")) == 12.5);
	assert_string_equal(json_string_value(json_object_get(f.knob_values, "a")), "1");
	assert_string_equal(json_string_value(json_object_get(f.knob_values, "b")), "1");
	assert_null(facts_device(&f, "swap"));
	assert_null(json_object_get(f.metrics, "none"));
	assert_int_equal(json_array_size(f.phases), 2);
	assert_true(f.started && f.done && f.run_ended && f.run_end_t == 46.1);
	assert_false(f.workload_killed);
	facts_free(&f);
	read_facts("", HARNESS("-1", "device", "\"name\":\"swap\",\"kernel\":\"dm-0\",", ""));
	assert_string_equal(facts_device(&f, "swap"), "dm-0");
	assert_null(facts_device(&f, "dm-0"));
	facts_free(&f);
	read_facts("", BEGIN HARNESS("9.0", "finding", "", "kmem-checks: kmem_basic held") END);
	assert_int_equal(json_array_size(f.findings), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(f.findings, 0), "text")),
			    "kmem-checks: kmem_basic held");
	facts_free(&f);
	read_facts("", BEGIN HARNESS("9.0", "exit", "\"role\":\"workload\",\"status\":137,", "")
			       KILL("9.1", "fio", "workload"));
	assert_true(f.workload_killed);
	assert_int_equal(json_array_size(f.victims), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(f.victims, 0), "constraint")), "global");
	assert_string_equal(json_string_value(json_object_get(json_array_get(f.victims, 0), "role")), "workload");
	facts_free(&f);
}

static void waits_by_the_tracepoints(void **state)
{
	static const char on[] = HARNESS("-2.0", "wq-trace-on", "\"threshold_ms\":1000,", "");
	static const char stall[] = HARNESS("7.0", "wq-stall", "\"waited_ms\":1982.654,\"hog\":\"do_work\",", "");
	static const char sum[] = HARNESS("9.0", "wq-trace", "\"events\":1434,\"max_ms\":1990.5,", "");
	char events[2048];

	(void)state;
	read_facts("", BEGIN END);
	assert_false(f.have_wq_trace || f.have_wq_wait);
	facts_free(&f);

	snprintf(events, sizeof(events), BEGIN "%s%s%s" END, on, stall, sum);
	read_facts("", events);
	assert_true(f.have_wq_trace && f.have_wq_wait);
	assert_true(f.wq_wait_max_ms == 1990.5);
	facts_free(&f);

	/* The machine died before the sum could be written. */
	snprintf(events, sizeof(events), BEGIN "%s%s", on, stall);
	read_facts("", events);
	assert_true(f.have_wq_trace && f.wq_wait_max_ms == 1982.654);
	facts_free(&f);

	read_facts("", BEGIN HARNESS("-2.0", "wq-trace", "\"error\":\"events/workqueue: No such device\",", "") END);
	assert_false(f.have_wq_trace || f.have_wq_wait);
	assert_string_equal(f.wq_trace_error, "events/workqueue: No such device");
	facts_free(&f);

	read_facts("", BEGIN HARNESS("1.0", "wq-stall", "\"waited_ms\":\"x\",\"error\":7,", "")
			       HARNESS("1.0", "wq-trace", "\"max_ms\":[],", "") END);
	assert_false(f.have_wq_wait);
	assert_string_equal(f.wq_trace_error, "");
	facts_free(&f);
}

static void hostile_files_are_survived(void **state)
{
	static const char *const texts[] = {
		"",
		"\n\n\n",
		"null\n1\n\"x\"\n[]\n",
		"{\"t\":{},\"mem\":[],\"vm\":7,\"slab\":[1],\"psi\":null,\"canary\":\"x\",\"kind\":[],\"source\":{}}\n",
		"{\"mem\":{\"MemAvailable\":\"x\",\"SUnreclaim\":1e300},\"slab\":{\"kcopyd_job\":[]}}\n",
		"{\"slab\":{\"kcopyd_job\":[-1,-1,-1,-1],\"a\":7,\"b\":[\"x\",{},[],null]}}\n",
		START "{\"t\":1,\"mem\":{\"SwapTotal\":\"x\",\"SwapFree\":[]},\"vm\":{\"pswpout\":{}},\"disk\":[1],"
		      "\"threads\":7}\n",
		START
		"{\"t\":1,\"disk\":{\"\":[],\"a\":7,\"b\":[null,\"x\",{},[],-1,1e300]},\"threads\":{\"age_ms\":\"x\","
		"\"groups\":{\"a\":7,\"b\":{\"cpu_ms\":\"x\"}}}}\n",
		"{\"source\":\"harness\",\"kind\":\"device\"}\n{\"source\":\"harness\",\"kind\":\"device\","
		"\"name\":7,\"kernel\":[]}\n{\"source\":\"harness\",\"kind\":\"skip\"}\n",
		"{\"t\":1e308,\"kind\":\"oom-kill\",\"source\":\"kmsg\"}\n{\"t\":-1e308,\"kind\":\"oom-kill\","
		"\"victim\":[]}\n",
		"{\"source\":\"harness\",\"kind\":\"phase\"}\n{\"source\":\"harness\",\"kind\":\"knob\"}\n"
		"{\"source\":\"harness\",\"kind\":\"metric\",\"value\":{}}\n{\"source\":\"harness\",\"kind\":"
		"\"verify\"}\n"
		"{\"source\":\"harness\",\"kind\":\"exit\",\"status\":\"x\"}\n{\"source\":\"harness\",\"kind\":"
		"\"corrupt\"}\n",
		"{\"t\":1,\"kind\":\"panic\"",
		"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
	};
	struct judgement j;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		read_facts(texts[i], texts[i]);
		for (int end = END_ITSELF; end <= END_SIGNAL; end++)
			verdict_find_out(&f, (enum end)end, false, &j);
		facts_free(&f);
	}
	/* Longer words than any field. */
	char *text = malloc(100000), *at = text;

	at += sprintf(at, BEGIN);
	for (int i = 0; i < 4; i++) {
		static const char *const kinds[] = { "corrupt", "panic", "fail", "oom-kill" };

		at += sprintf(at,
			      "{\"t\":1,\"source\":\"%s\",\"kind\":\"%s\",\"raw\":\"%05000d\",\"reason\":\"%05000d\","
			      "\"victim\":{\"comm\":\"%05000d\",\"role\":\"%0500d\"}}\n",
			      i % 2 ? "kmsg" : "harness", kinds[i], 1, 2, 3, 4);
	}
	read_facts("", text);
	assert_int_equal(bad_lines, 0);
	verdict_find_out(&f, END_PANIC, false, &j);
	assert_int_equal(j.verdict, VERDICT_CORRUPT);
	assert_true(strlen(j.reason) < sizeof(j.reason));
	facts_free(&f);
	free(text);
}

static void huge_numbers_are_survived(void **state)
{
	struct judgement j;

	(void)state;
	read_facts(
		"{\"t\":1,\"mem\":{\"SUnreclaim\":9223372036854775807,\"MemAvailable\":-5},"
		"\"vm\":{\"oom_kill\":-9223372036854775808,\"allocstall_a\":9223372036854775807,"
		"\"allocstall_b\":9223372036854775807},\"slab\":{\"kcopyd_job\":[9223372036854775807,1,"
		"9223372036854775807,9223372036854775807],\"x\":[9223372036854775807,1,9223372036854775807,1]}}\n"
		"{\"t\":2,\"mem\":{\"SwapTotal\":9223372036854775807,\"SwapFree\":-9223372036854775808},"
		"\"vm\":{\"pswpout\":9223372036854775807,\"zswpout\":9223372036854775807,\"swpout_zero\":"
		"9223372036854775807},\"disk\":{\"a\":[9223372036854775807,9223372036854775807,9223372036854775807,"
		"9223372036854775807,-9223372036854775808,-1]},\"psi\":{\"memory\":{\"some_us\":-9223372036854775808,"
		"\"full_us\":9223372036854775807}},\"threads\":{\"age_ms\":-9223372036854775808,\"groups\":{"
		"\"a\":{\"cpu_ms\":9223372036854775807}}}}\n"
		"{\"t\":63,\"mem\":{\"SwapTotal\":1,\"SwapFree\":9223372036854775807},\"vm\":{\"pswpout\":0},"
		"\"disk\":{\"a\":[0,0,0,0,0,0]}}\n"
		"{\"t\":99999999999999999999999999}\n",
		START "{\"t\":1,\"kind\":\"wq-lockup\",\"seconds\":99999999999999999999}\n");
	verdict_find_out(&f, END_ITSELF, false, &j);
	facts_free(&f);
}

static void bad_lines_are_counted_and_cost_no_other(void **state)
{
	static const char nul[] = "{\"t\":1,\"a\":\"\0\"}\n{\"t\":4.5}\n";
	char path[PATH_MAX];
	FILE *file;

	(void)state;
	read_facts("{\"t\":1}\ngarbage\n{\"t\":2\n{\"t\":3}\n", BEGIN "{\"t\":5,\"kind\":\"pan" END);
	assert_int_equal(f.samples, 2);
	assert_true(f.last_t == 3);
	assert_int_equal(bad_lines, 3);
	facts_free(&f);
	snprintf(path, sizeof(path), "%s/samples.jsonl", dir);
	file = fopen(path, "w");
	assert_non_null(file);
	fwrite(nul, 1, sizeof(nul) - 1, file);
	fclose(file);
	t_write(dir, "events.jsonl", "");
	bad_lines = 0;
	assert_int_equal(facts_read(&f, dir, caches, &bad_lines), 0);
	assert_int_equal(f.samples, 1);
	assert_int_equal(bad_lines, 1);
	facts_free(&f);
}

/* Cut the events anywhere: never a verdict of the kernel that they do not hold. */
static void every_prefix_of_the_events_is_survived(void **state)
{
	static const char text[] = BEGIN KILL("9.1", "fio", "workload") END;
	char part[sizeof(text)];

	(void)state;
	for (size_t len = 0; len < sizeof(text); len += 3) {
		struct judgement j;

		snprintf(part, len + 1, "%s", text);
		j = judge("", part, END_DIED, false);
		assert_true(j.verdict == VERDICT_BROKEN || j.verdict == VERDICT_OOM);
	}
}

static void files_that_are_missing_are_a_record_of_nothing(void **state)
{
	struct judgement j;

	(void)state;
	bad_lines = 0;
	assert_int_equal(facts_read(&f, dir, NULL, &bad_lines), 0);
	verdict_find_out(&f, END_DIED, false, &j);
	assert_int_equal(j.verdict, VERDICT_BROKEN);
	facts_free(&f);
}

static void verdicts_have_names(void **state)
{
	(void)state;
	for (int v = 0; v < N_VERDICTS; v++)
		assert_int_equal(verdict_find(verdict_name((enum verdict)v)), v);
	assert_int_equal(verdict_find(""), N_VERDICTS);
	assert_int_equal(verdict_find("fine"), N_VERDICTS);
}

/* --- Swap --- */

/* Samples of a machine that swaps, one a second, written as time goes on. */
struct series {
	FILE *file;
	char *text;
	size_t size;
	double t, out, in, zeros, some_us;
	unsigned free_pct, kills;
	bool no_psi;
};

#define FAST 4000 /* pages a second */

static void series_from(struct series *s, double t)
{
	*s = (struct series){ .t = t, .out = 1000000, .in = 500000, .some_us = 7e6, .free_pct = 60 };
	s->file = open_memstream(&s->text, &s->size);
	assert_non_null(s->file);
}

static void put_sample(struct series *s)
{
	fprintf(s->file,
		"{\"t\":%.6f,\"mem\":{\"SwapTotal\":1000000,\"SwapFree\":%u},"
		"\"vm\":{\"pswpout\":%.0f,\"pswpin\":%.0f,\"swpout_zero\":%.0f,\"oom_kill\":%u}",
		s->t, s->free_pct * 10000, s->out, s->in, s->zeros, s->kills);
	if (!s->no_psi)
		fprintf(s->file, ",\"psi\":{\"memory\":{\"some_us\":%.0f,\"full_us\":0}}", s->some_us);
	fprintf(s->file, "}\n");
}

/* Rates in pages a second, pressure as a share of the time; nothing of it is seen before its end with `unseen`. */
static void pass(struct series *s, int seconds, bool unseen, double out, double in, double some)
{
	for (int i = 0; i < seconds; i++) {
		s->t++;
		s->out += out;
		s->in += in;
		s->some_us += some * 1e6;
		if (!unseen || i == seconds - 1)
			put_sample(s);
	}
}

/* The caller frees the text. */
static char *text_of(struct series *s)
{
	fclose(s->file);
	return s->text;
}

static bool livelocked(struct series *s, const char *events, unsigned cpus, struct livelock *found)
{
	char *text = text_of(s);
	bool is;

	read_facts(text, events);
	f.cpus = cpus;
	is = verdict_livelock(&f, found);
	facts_free(&f);
	free(text);
	return is;
}

/* Ten fast seconds, so many of something else, ten fast ones. */
static bool livelocked_between(int seconds, bool unseen, double out, double in, double some, unsigned cpus)
{
	struct series s;
	struct livelock found;
	bool is;

	series_from(&s, 0);
	pass(&s, 10, false, FAST, FAST, 1);
	pass(&s, seconds, unseen, out, in, some);
	pass(&s, 10, false, FAST, FAST, 1);
	is = livelocked(&s, BEGIN, cpus, &found);
	if (is) {
		assert_true(found.from_t == 10 && found.to_t == 10 + seconds);
		assert_true(fabs(found.out_pages_s - out) < 0.1 && fabs(found.in_pages_s - in) < 0.1);
		assert_true(fabs(found.free_pct - 60) < 0.001);
	}
	return is;
}

static void a_minute_under_pressure_with_hardly_a_page_is_a_livelock(void **state)
{
	(void)state;
	assert_true(livelocked_between(60, false, 0, 0, 1, 1));
	assert_false(livelocked_between(59, false, 0, 0, 1, 1));
	assert_true(livelocked_between(600, false, 10, 3, 0.9, 1));
	/* The floor, of each direction. */
	assert_true(livelocked_between(60, false, 19, 19, 1, 1));
	assert_false(livelocked_between(60, false, 20, 0, 1, 1));
	assert_false(livelocked_between(60, false, 0, 20, 1, 1));
	assert_true(livelocked_between(60, false, 79, 79, 1, 4));
	assert_false(livelocked_between(60, false, 80, 0, 1, 4));
	/* The pressure. */
	assert_true(livelocked_between(60, false, 0, 0, 0.5, 1));
	assert_false(livelocked_between(60, false, 0, 0, 0.49, 1));
}

static void a_gap_in_the_samples_is_time_like_any_other(void **state)
{
	(void)state;
	assert_true(livelocked_between(60, true, 0, 0, 1, 1));
	assert_true(livelocked_between(60, true, 19, 19, 1, 1));
	assert_false(livelocked_between(59, true, 0, 0, 1, 1));
	assert_false(livelocked_between(60, true, 20, 0, 1, 1));
	assert_false(livelocked_between(60, true, 0, 0, 0.49, 1));
}

static void a_crawl_that_comes_in_bursts_is_a_livelock_too(void **state)
{
	struct series s;
	struct livelock found;

	(void)state;
	series_from(&s, 0);
	/* A batch of reclaim's in one second, none in the next. */
	for (int i = 0; i < 40; i++) {
		pass(&s, 1, false, 32, 0, 1);
		pass(&s, 1, false, 0, 0, 1);
	}
	assert_true(livelocked(&s, BEGIN, 1, &found));
	assert_true(found.to_t - found.from_t > 75);
}

static void of_two_livelocks_the_first_is_told(void **state)
{
	struct series s;
	struct livelock found;

	(void)state;
	series_from(&s, 0);
	pass(&s, 70, false, 0, 0, 1);
	pass(&s, 10, false, FAST, 0, 1);
	pass(&s, 200, false, 0, 0, 1);
	assert_true(livelocked(&s, BEGIN, 1, &found));
	assert_true(found.from_t == 1 && found.to_t == 70);
}

static void stand_still(struct series *s, double from, int seconds)
{
	series_from(s, from);
	pass(s, seconds, false, 0, 0, 1);
}

static void what_is_no_livelock_though_nothing_moves(void **state)
{
	static const char kill[] = BEGIN KILL("40", "fio", "workload"), early[] = BEGIN KILL("5", "fio", "workload");
	static const char ended[] = BEGIN HARNESS("30", "phase", "\"name\":\"cool-down\",", "");
	struct series s;
	struct livelock found;

	(void)state;
	stand_still(&s, 0, 70);
	assert_true(livelocked(&s, BEGIN, 1, &found));
	/* No load, or no longer. */
	stand_still(&s, 0, 70);
	assert_false(livelocked(&s, SETUP, 1, &found));
	stand_still(&s, -65, 70);
	assert_false(livelocked(&s, BEGIN, 1, &found));
	stand_still(&s, 0, 89);
	assert_false(livelocked(&s, ended, 1, &found));
	/* A kill, by the log alone and by the counter alone. */
	stand_still(&s, 0, 90);
	assert_false(livelocked(&s, kill, 1, &found));
	stand_still(&s, 0, 90);
	assert_true(livelocked(&s, early, 1, &found));
	assert_true(found.from_t >= 5);
	stand_still(&s, 0, 40);
	s.kills++;
	pass(&s, 40, false, 0, 0, 1);
	assert_false(livelocked(&s, BEGIN, 1, &found));
	/* Full, or nearly so. */
	stand_still(&s, 0, 40);
	s.free_pct = 6;
	pass(&s, 40, false, 0, 0, 1);
	assert_true(livelocked(&s, BEGIN, 1, &found));
	stand_still(&s, 0, 40);
	s.free_pct = 5;
	pass(&s, 1, false, 0, 0, 1);
	s.free_pct = 6;
	pass(&s, 40, false, 0, 0, 1);
	assert_false(livelocked(&s, BEGIN, 1, &found));
	/* Pages of zeros go out without being written. */
	stand_still(&s, 0, 40);
	s.zeros = 1200;
	pass(&s, 40, false, 0, 0, 1);
	assert_false(livelocked(&s, BEGIN, 1, &found));
}

static void without_psi_or_without_swap_there_is_no_livelock_to_be_found(void **state)
{
	struct series s;
	struct livelock found;

	(void)state;
	series_from(&s, 0);
	s.no_psi = true;
	pass(&s, 90, false, 0, 0, 1);
	assert_false(livelocked(&s, BEGIN, 1, &found));
	read_facts("{\"t\":0,\"mem\":{\"SwapTotal\":0,\"SwapFree\":0},\"vm\":{\"pswpout\":0,\"pswpin\":0},"
		   "\"psi\":{\"memory\":{\"some_us\":0}}}\n"
		   "{\"t\":90,\"mem\":{\"SwapTotal\":0,\"SwapFree\":0},\"vm\":{\"pswpout\":0,\"pswpin\":0},"
		   "\"psi\":{\"memory\":{\"some_us\":90000000}}}\n",
		   BEGIN);
	assert_false(verdict_livelock(&f, &found));
	facts_free(&f);
}

static void a_livelock_stands_behind_kills_and_before_what_it_brings_about(void **state)
{
	static const char late_kill[] = BEGIN KILL("80.5", "fio", "workload");
	struct series s;
	struct judgement j;
	char *text;

	(void)state;
	series_from(&s, 0);
	pass(&s, 80, false, 0, 0, 1);
	text = text_of(&s);
	j = judge(text, BEGIN, END_DEADLINE, false);
	assert_int_equal(j.verdict, VERDICT_LIVELOCK);
	assert_string_equal(j.reason,
			    "livelock for 79.0 s from 1.0 s on: 0.0 pages out and 0.0 in a second, 60 % of swap "
			    "free; the load was not over at its deadline");
	assert_null(j.outcome);
	j = judge(text, BEGIN KERNEL("20", "hung-task", "") KERNEL("20", "wq-lockup", "\"seconds\":34,"), END_DEADLINE,
		  false);
	assert_int_equal(j.verdict, VERDICT_LIVELOCK);
	assert_non_null(strstr(j.reason, "1 hung task"));
	j = judge(text, late_kill, END_ITSELF, false);
	assert_int_equal(j.verdict, VERDICT_OOM);
	assert_non_null(strstr(j.reason, "livelock for"));
	j = judge(text, BEGIN PANIC, END_PANIC, false);
	assert_int_equal(j.verdict, VERDICT_PANIC);
	free(text);
}

#define SWAP(t, total, left)                                                                                           \
	"{\"t\":" t ",\"mem\":{\"SwapTotal\":" total ",\"SwapFree\":" left "},\"vm\":{\"pswpout\":1}}\n"

static void a_kill_with_more_than_half_of_swap_free_is_premature(void **state)
{
	static const char memcg[] =
		BEGIN KERNEL("9.1", "memcg-oom-kill", "\"victim\":{\"comm\":\"fio\",\"role\":\"workload\"},");
	static const char group_first[] =
		BEGIN KERNEL("3.0", "memcg-oom-kill", "\"victim\":{\"comm\":\"fio\",\"role\":\"workload\"},")
			KILL("9.1", "fio", "workload");
	static const char two[] = BEGIN KILL("9.1", "fio", "workload") KILL("11", "idle", "bystander");
	static const char timeless[] = BEGIN
		"{\"t\":null,\"kind\":\"oom-kill\",\"source\":\"console\",\"victim\":{\"comm\":\"x\"},\"raw\":\"\"}\n";
	static const char one[] = BEGIN KILL("9.1", "fio", "workload");
	static const struct {
		const char *what, *samples, *events;
		bool premature;
	} cases[] = {
		{ "most of it free", SWAP("9.0", "1000", "830") SWAP("9.2", "1000", "100"), one, true },
		{ "just more than half", SWAP("9.0", "1000", "501"), one, true },
		{ "half", SWAP("9.0", "1000", "500"), one, false },
		{ "free only after it", SWAP("9.0", "1000", "100") SWAP("9.2", "1000", "900"), one, false },
		{ "a sample of the same moment", SWAP("9.1", "1000", "830"), one, true },
		{ "a sample two seconds old", SWAP("7.1", "1000", "830"), one, true },
		{ "an older one says nothing", SWAP("7.0", "1000", "830"), one, false },
		{ "a first sample that came later", SWAP("9.2", "1000", "830"), one, false },
		{ "no swap", SWAP("9.0", "0", "0"), one, false },
		{ "swap was switched off", SWAP("8.9", "1000", "830") SWAP("9.0", "0", "0"), one, false },
		{ "a group's own limit", SWAP("9.0", "1000", "830"), memcg, false },
		{ "a group's own limit first", SWAP("9.0", "1000", "830"), group_first, true },
		{ "free by the kill before", SWAP("9.0", "1000", "10") SWAP("10.9", "1000", "900"), two, false },
		{ "nobody knows when", SWAP("0", "1000", "830"), timeless, false },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct judgement j = judge(cases[i].samples, cases[i].events, END_ITSELF, false);
		bool said = strstr(j.reason, "premature: ") != NULL;

		if (j.verdict != VERDICT_OOM || said != cases[i].premature ||
		    (j.outcome && strcmp(j.outcome, "premature-oom") == 0) != cases[i].premature)
			fail_msg("%s: %s (%s): %s", cases[i].what, verdict_name(j.verdict), j.outcome, j.reason);
	}
	assert_string_equal(judge(cases[0].samples, one, END_ITSELF, false).reason,
			    "1 OOM kill, first at 9.1 s: fio (workload); premature: 83 % of swap was free");
}

#define FULL(t, us)    "{\"t\":" t ",\"psi\":{\"memory\":{\"some_us\":0,\"full_us\":" us "}}}\n"
#define STANDSTILL(ms) HARNESS("45", "metric", "\"name\":\"standstill_max_ms\",\"value\":" ms ",", "")

static void a_load_that_hardly_moved_was_throttled(void **state)
{
	static const char half[] = FULL("-1", "0") FULL("0", "1000") FULL("40", "20001000") FULL("60", "50000000");
	static const char less[] = FULL("-1", "0") FULL("0", "1000") FULL("40", "19999999") FULL("60", "50000000");
	struct judgement j;

	(void)state;
	j = judge("", BEGIN STANDSTILL("7100") END, END_ITSELF, false);
	assert_int_equal(j.verdict, VERDICT_OK);
	assert_string_equal(j.outcome, "throttled");
	assert_string_equal(j.reason,
			    "finished in 46.1 s, data verified; throttled but alive: stood still for 7.1 s at most");
	assert_string_equal(judge("", BEGIN STANDSTILL("5000") END, END_ITSELF, false).outcome, "throttled");
	assert_null(judge("", BEGIN STANDSTILL("4999") END, END_ITSELF, false).outcome);

	j = judge(half, BEGIN END, END_ITSELF, false);
	assert_int_equal(j.verdict, VERDICT_OK);
	assert_string_equal(j.outcome, "throttled");
	assert_non_null(strstr(j.reason, "throttled but alive: for 50 % of the load all tasks waited for memory"));
	assert_null(judge(less, BEGIN END, END_ITSELF, false).outcome);

	j = judge(half, BEGIN, END_DEADLINE, false);
	assert_int_equal(j.verdict, VERDICT_STUCK);
	assert_string_equal(j.outcome, "throttled");
	/* Not where something worse was found, or nothing was proved. */
	assert_null(
		judge(half, BEGIN KILL("9.1", "fio", "workload") STANDSTILL("7100") END, END_ITSELF, false).outcome);
	assert_null(judge(half, BEGIN KERNEL("5.0", "hung-task", "") END, END_ITSELF, false).outcome);
	assert_null(judge(half, BEGIN COOLDOWN DONE, END_ITSELF, false).outcome);
	/* A full snapshot is what it is, however slow it was. */
	j = judge(half, BEGIN KERNEL("20", "snapshot-invalid", "\"reason\":\"Unable to allocate exception.\",") END,
		  END_ITSELF, false);
	assert_int_equal(j.verdict, VERDICT_BROKEN);
	assert_string_equal(j.outcome, "snapshot-overflow");
}

/* Before the start line and after the load there is swapping too. */
static const char swapping[] =
	"{\"t\":-1,\"mem\":{\"SwapTotal\":2000,\"SwapFree\":1},\"vm\":{\"pswpout\":100,\"pswpin\":10,"
	"\"workingset_refault_anon\":1,\"workingset_refault_file\":1}}\n"
	"{\"t\":0,\"mem\":{\"SwapTotal\":2000,\"SwapFree\":1900},\"vm\":{\"pswpout\":356,\"pswpin\":20,"
	"\"workingset_refault_anon\":10,\"workingset_refault_file\":100}}\n"
	"{\"t\":5}\n"
	"{\"t\":10,\"mem\":{\"SwapTotal\":2000,\"SwapFree\":500},\"vm\":{\"pswpout\":5000,\"pswpin\":30,"
	"\"workingset_refault_anon\":11,\"workingset_refault_file\":101}}\n"
	"{\"t\":40,\"mem\":{\"SwapTotal\":2000,\"SwapFree\":700},\"vm\":{\"pswpout\":5476,\"pswpin\":276,"
	"\"workingset_refault_anon\":17,\"workingset_refault_file\":110}}\n"
	"{\"t\":50,\"mem\":{\"SwapTotal\":2000,\"SwapFree\":3},\"vm\":{\"pswpout\":9999,\"pswpin\":999,"
	"\"workingset_refault_anon\":99,\"workingset_refault_file\":999}}\n";

static void swap_is_measured_while_the_load_runs(void **state)
{
	(void)state;
	read_facts(swapping, BEGIN END);
	assert_true(f.have_swap && f.have_swap_io && f.have_refaults);
	assert_true(f.swap_out_mib == 20 && f.swap_in_mib == 1);
	assert_true(f.swap_out_mib_s == 0.5 && f.swap_in_mib_s == 0.025);
	assert_int_equal(f.refaults, 17);
	assert_int_equal(f.swap_free_min_kib, 500);
	facts_free(&f);
	/* One counter, as before 5.9. One sample makes no rate. */
	read_facts("{\"t\":1,\"vm\":{\"pswpout\":1,\"workingset_refault\":5}}\n", BEGIN END);
	assert_true(f.have_refaults && !f.have_swap);
	assert_true(f.swap_out_mib_s < 0 && f.psi_full_share < 0);
	facts_free(&f);
	/* Times of a cell that was never started count from the machine's boot. */
	read_facts(swapping, SETUP DONE);
	assert_false(f.have_swap || f.have_swap_io || f.have_refaults);
	facts_free(&f);
}

static void devices_are_measured_while_the_load_runs(void **state)
{
#define DISK(t, row) "{\"t\":" t ",\"disk\":{\"vda\":[1,2,3,4,5,6],\"dm-0\":[" row "]}}\n"
	const struct disk_facts *d;
	char samples[4096], *at = samples;

	(void)state;
	read_facts(DISK("-1", "0,0,0,0,99,0") DISK("0", "10,80,100,800,1,50")
		   /* 15 writes are too few for a mean, with one more it is one over both */
		   DISK("1", "10,80,115,8000,7,60") DISK("2", "11,88,116,8008,3,70")
		   /* 16 of 8 KiB */
		   DISK("3", "11,88,132,8264,2,80") DISK("50", "99,999,999,9999999,999,999"),
		   BEGIN END);
	d = facts_disk(&f, "dm-0");
	assert_non_null(d);
	assert_int_equal(d->writes, 32);
	assert_int_equal(d->sectors_written, 7464);
	assert_true(d->write_max_kib == 225.25);
	d = facts_disk(&f, "vda");
	assert_non_null(d);
	assert_int_equal(d->writes, 0);
	assert_true(d->write_max_kib < 0);
	assert_null(facts_disk(&f, "dm-1"));
	facts_free(&f);
	/* Taken down and made again, it begins at 0, and what it did before counts. */
	read_facts(DISK("1", "0,0,0,0,0,0") DISK("2", "0,0,100,800,0,0") DISK("3", "0,0,20,160,0,0")
			   DISK("4", "0,0,40,320,0,0"),
		   BEGIN END);
	assert_int_equal(facts_disk(&f, "dm-0")->writes, 120);
	assert_true(facts_disk(&f, "dm-0")->write_max_kib == 4);
	facts_free(&f);
	/* A machine with more of them than there is room for. */
	at += sprintf(at, "{\"t\":1,\"disk\":{");
	for (int i = 0; i < FACTS_MAX_DISKS + 3; i++)
		at += sprintf(at, "%s\"sd%d\":[0,0,0,0,%d,0]", i ? "," : "", i, i + 1);
	sprintf(at, ",\"%0100d\":[0,0,0,0,0,0],\"short\":[0,0]}}\n", 1);
	read_facts(samples, BEGIN END);
	assert_int_equal(f.n_disks, FACTS_MAX_DISKS);
	assert_non_null(facts_disk(&f, "sd15"));
	assert_null(facts_disk(&f, "sd16"));
	facts_free(&f);
}

static void cpu_of_kernel_threads_is_that_of_the_load(void **state)
{
#define THREADS(t, age, ms)                                                                                            \
	"{\"t\":" t ",\"threads\":{\"age_ms\":" age ",\"groups\":{\"kcryptd\":{\"cpu_ms\":" ms "}}}}\n"
	uint64_t ms;

	(void)state;
	read_facts(THREADS("-0.5", "300", "100") THREADS("0.5", "1300", "100") THREADS("0.6", "600", "110")
			   THREADS("2", "0", "500") THREADS("46.5", "500", "1610") THREADS("48", "0", "2000"),
		   BEGIN END);
	assert_true(facts_thread_cpu_ms(&f, "kcryptd", &ms));
	assert_int_equal(ms, 1500);
	assert_false(facts_thread_cpu_ms(&f, "kswapd", &ms));
	facts_free(&f);
	/* The first look came late; and one look alone is no growth. */
	read_facts(THREADS("3", "0", "100") THREADS("4", "0", "130"), BEGIN END);
	assert_true(facts_thread_cpu_ms(&f, "kcryptd", &ms));
	assert_int_equal(ms, 30);
	facts_free(&f);
	/* They came while the load ran. */
	read_facts("{\"t\":2,\"threads\":{\"age_ms\":0,\"groups\":{}}}\n" THREADS("3", "0", "100"), BEGIN END);
	assert_true(facts_thread_cpu_ms(&f, "kcryptd", &ms));
	assert_int_equal(ms, 100);
	facts_free(&f);
	read_facts(THREADS("3", "0", "100"), BEGIN END);
	assert_false(facts_thread_cpu_ms(&f, "kcryptd", &ms));
	facts_free(&f);
}

/* cell.json of a cell whose box holds these lines; times in them count from 100. */
static json_t *cell_of(const char *lines)
{
	static struct spec spec;
	static struct scenario scenario;
	static struct arm arm;
	static struct kernel kernel;
	static struct accel accel;
	static const char start[] = "{\"t\":100.000000,\"kind\":\"start\",\"raw\":\"\"}\n";
	struct result_context x = {
		.scenario = &scenario, .spec = &spec, .arm = &arm, .kernel = &kernel, .accel = &accel, .cmdline = ""
	};
	size_t size = 1 << 20;
	void *memory = calloc(1, size);
	struct judgement judgement;
	struct bb box;
	char path[PATH_MAX];
	json_t *cell;

	bb_format(&box, memory, size);
	atomic_store(&box.head->start_ns, 100 * NS_PER_S);
	assert_int_equal(bb_append(&box, BB_EVENT, start, sizeof(start) - 1), 0);
	for (const char *end; (end = strchr(lines, '\n')); lines = end + 1)
		assert_int_equal(bb_append(&box, BB_SAMPLE, lines, (size_t)(end + 1 - lines)), 0);
	assert_int_equal(result_write(dir, &box, &x, &judgement), 0);
	free(memory);
	snprintf(path, sizeof(path), "%s/cell.json", dir);
	cell = json_load_file(path, 0, NULL);
	assert_non_null(cell);
	return cell;
}

static double metric(const json_t *cell, const char *name)
{
	json_t *value = json_object_get(json_object_get(cell, "metrics"), name);
	json_t *unit = json_object_get(json_object_get(cell, "units"), name);

	assert_int_equal(value != NULL, unit != NULL);
	return value ? json_number_value(value) : -1;
}

static void metrics_of_swap_are_there_where_there_is_swap(void **state)
{
	static const char *const names[] = { "swap_out_mib",  "swap_in_mib", "swap_out_mib_s",
					     "swap_in_mib_s", "refaults",    "swap_free_min_kib" };
	json_t *cell;

	(void)state;
	cell = cell_of("{\"t\":100.000000,\"mem\":{\"SwapTotal\":2000,\"SwapFree\":1900},\"vm\":{\"pswpout\":100,"
		       "\"pswpin\":0,\"workingset_refault\":3},\"threads\":{\"age_ms\":0,\"groups\":{\"kswapd\":"
		       "{\"cpu_ms\":100}}}}\n"
		       "{\"t\":110.000000,\"mem\":{\"SwapTotal\":2000,\"SwapFree\":500},\"vm\":{\"pswpout\":2660,"
		       "\"pswpin\":256,\"workingset_refault\":10},\"threads\":{\"age_ms\":0,\"groups\":{\"kswapd\":"
		       "{\"cpu_ms\":1350}}}}\n");
	assert_true(metric(cell, "swap_out_mib") == 10);
	assert_true(metric(cell, "swap_in_mib") == 1);
	assert_true(metric(cell, "swap_out_mib_s") == 1);
	assert_true(metric(cell, "swap_in_mib_s") == 0.1);
	assert_true(metric(cell, "refaults") == 7);
	assert_true(metric(cell, "swap_free_min_kib") == 500);
	assert_true(json_number_value(json_object_get(json_object_get(json_object_get(cell, "metrics"), "thread_cpu_s"),
						      "kswapd")) == 1.25);
	assert_true(metric(cell, "time_to_failure_s") < 0);
	json_decref(cell);

	cell = cell_of("{\"t\":100.000000,\"mem\":{\"SwapTotal\":0,\"SwapFree\":0},\"vm\":{\"pswpout\":0}}\n"
		       "{\"t\":110.000000,\"mem\":{\"SwapTotal\":0,\"SwapFree\":0},\"vm\":{\"pswpout\":0}}\n");
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_true(metric(cell, names[i]) < 0);
	assert_true(metric(cell, "thread_cpu_s") < 0);
	json_decref(cell);
}

static void a_livelock_is_a_failure_from_its_begin_on(void **state)
{
	struct series s;
	char *text;
	json_t *cell;

	(void)state;
	series_from(&s, 104);
	pass(&s, 70, false, 0, 0, 1);
	text = text_of(&s);
	cell = cell_of(text);
	assert_true(metric(cell, "time_to_failure_s") == 5);
	json_decref(cell);
	free(text);
}

/* --- cow-limit --- */

static struct attestation attest_limit(const char *requested, const char *read_back, const char *jobs)
{
	const struct workload *w = workload_find("snapshot-cow");
	_Alignas(16) char opts[OPTS_MAX_SIZE];
	char samples[256], events[256] = "", err[256];
	struct attestation a;

	opts_defaults(w->opts, opts);
	assert_int_equal(opts_set(w->opts, opts, "snapshots", "8", err, sizeof(err)), 0);
	snprintf(samples, sizeof(samples), jobs ? "{\"t\":1,\"slab\":{\"kcopyd_job\":[%s,0,3240,4]}}\n" : "{\"t\":1}\n",
		 jobs);
	if (read_back)
		snprintf(events, sizeof(events),
			 "{\"t\":-1,\"kind\":\"knob\",\"source\":\"harness\",\"name\":\"%s\",\"value\":\"%s\","
			 "\"read_back\":\"%s\"}\n",
			 w->mitigations->knobs[0].name, requested, read_back);
	read_facts(samples, events);
	f.cpus = 2;
	attest(&f, w, opts, w->mitigations, requested, &a);
	facts_free(&f);
	return a;
}

static void the_cow_limit_is_attested_from_the_record(void **state)
{
	static const struct {
		const char *requested, *read_back, *jobs; /* in flight at the peak; NULL: the cache was not seen */
		enum mitigation_state state;
		enum tristate exercised;
		const char *evidence;
	} cases[] = {
		{ "4294967295", "4294967295", "54110", MITIGATION_OFF, YES, "in-flight peak 54110 > 16384 (8 x 2048" },
		{ "4294967295", "4294967295", "16384", MITIGATION_OFF, NO, "16384 <= 16384" },
		{ "4294967295", "4294967295", NULL, MITIGATION_OFF, UNKNOWN, "not seen" },
		{ "2048", "2048", "16000", MITIGATION_ON, YES, "in-flight peak 16000 of 16384 allowed (8 x 2048)" },
		{ "2048", "2048", "8192", MITIGATION_ON, YES, "8192 of 16384" },
		{ "2048", "2048", "8191", MITIGATION_ON, NO, "8191 of 16384" },
		{ "2048", "2048", "0", MITIGATION_ON, NO, "0 of 16384" },
		{ "2048", "2048", NULL, MITIGATION_ON, UNKNOWN, "not seen" },
		{ "2048", "2048", "16500", MITIGATION_ON, YES, "16500" }, /* within what slabinfo can be off by */
		{ "2048", "2048", "54110", MITIGATION_FAILED, YES, "54110 of 16384" },
		{ "64", "64", "500", MITIGATION_ON, YES, "500 of 512 allowed (8 x 64)" },
		{ "0", "0", "8", MITIGATION_ON, YES, "8 of 8 allowed (8 x 1)" }, /* one at a time */
		{ "2048", "4294967295", "54110", MITIGATION_FAILED, UNKNOWN,
		  "asked for 2048, the kernel has 4294967295" },
		{ "2048", "", "54110", MITIGATION_FAILED, UNKNOWN, "asked for 2048" },
		{ "2048", NULL, "54110", MITIGATION_FAILED, UNKNOWN, "asked for 2048, the kernel has not told" },
		{ "4294967295", "2048", "54110", MITIGATION_FAILED, UNKNOWN,
		  "asked for 4294967295, the kernel has 2048" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct attestation a = attest_limit(cases[i].requested, cases[i].read_back, cases[i].jobs);

		if (a.state != cases[i].state || a.exercised != cases[i].exercised ||
		    !strstr(a.evidence, cases[i].evidence))
			fail_msg("case %zu: state %d exercised %d: %s", i, a.state, a.exercised, a.evidence);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(verdicts_and_reasons),
		TEST(one_workload_verified_does_not_speak_for_the_other),
		TEST(samples_are_added_up),
		TEST(kills_are_counted_by_the_counters_and_checked_by_the_log),
		TEST(a_disagreement_about_kills_stands_in_the_reason),
		TEST(a_shrink_that_hangs_costs_no_verdict),
		TEST(slab_utilisation_has_its_error_and_the_exact_figure),
		TEST(the_half_life_of_dying_cgroups_begins_where_the_load_ended),
		TEST(a_group_that_is_absent_changes_nothing),
		TEST(harness_events_are_kept),
		TEST(waits_by_the_tracepoints),
		TEST(hostile_files_are_survived),
		TEST(huge_numbers_are_survived),
		TEST(bad_lines_are_counted_and_cost_no_other),
		TEST(every_prefix_of_the_events_is_survived),
		TEST(files_that_are_missing_are_a_record_of_nothing),
		TEST(verdicts_have_names),
		TEST(a_minute_under_pressure_with_hardly_a_page_is_a_livelock),
		TEST(a_gap_in_the_samples_is_time_like_any_other),
		TEST(a_crawl_that_comes_in_bursts_is_a_livelock_too),
		TEST(of_two_livelocks_the_first_is_told),
		TEST(what_is_no_livelock_though_nothing_moves),
		TEST(without_psi_or_without_swap_there_is_no_livelock_to_be_found),
		TEST(a_livelock_stands_behind_kills_and_before_what_it_brings_about),
		TEST(a_kill_with_more_than_half_of_swap_free_is_premature),
		TEST(a_load_that_hardly_moved_was_throttled),
		TEST(swap_is_measured_while_the_load_runs),
		TEST(devices_are_measured_while_the_load_runs),
		TEST(cpu_of_kernel_threads_is_that_of_the_load),
		TEST(metrics_of_swap_are_there_where_there_is_swap),
		TEST(a_livelock_is_a_failure_from_its_begin_on),
		TEST(the_cow_limit_is_attested_from_the_record),
	};

	return cmocka_run_group_tests_name("verdict", tests, NULL, NULL);
}
