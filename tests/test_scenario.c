// SPDX-License-Identifier: MIT
/* Scenario files, arms, and the specification that the guest is handed. */
#include "run/scenario.h"
#include "run/verdict.h"
#include "t.h"

#include <dirent.h>
#include <errno.h>

static struct scenario s;
static char err[1200];

static int parse(const char *text)
{
	return scenario_parse(&s, "test", text, err, sizeof(err));
}

static void expect_error(const char *text, const char *words)
{
	assert_int_equal(parse(text), -EINVAL);
	if (!strstr(err, words))
		fail_msg("error was: %s\nshould contain: %s", err, words);
	assert_null(strchr(err, '\n'));
}

static void every_shipped_scenario_loads(void **state)
{
	DIR *d = opendir("workloads/scenarios");
	struct dirent *e;
	int n = 0;

	(void)state;
	assert_non_null(d);
	while ((e = readdir(d))) {
		char path[PATH_MAX];

		if (!strstr(e->d_name, ".ini"))
			continue;
		snprintf(path, sizeof(path), "workloads/scenarios/%s", e->d_name);
		if (scenario_load(&s, path, err, sizeof(err)))
			fail_msg("%s", err);
		assert_true(*s.summary != '\0');
		n++;
	}
	closedir(d);
	assert_true(n >= 1);
}

/* One source file is one workload: nothing has to be listed anywhere else. */
static void every_workload_file_is_registered(void **state)
{
	DIR *d = opendir("workloads");
	struct dirent *e;
	size_t files = 0, registered = 0;

	(void)state;
	assert_non_null(d);
	while ((e = readdir(d))) {
		size_t len = strlen(e->d_name);

		files += len > 2 && strcmp(e->d_name + len - 2, ".c") == 0;
	}
	closedir(d);
	while (workload_nth(registered))
		registered++;
	assert_int_equal(registered, files);
	for (size_t i = 0; i + 1 < registered; i++)
		assert_true(strcmp(workload_nth(i)->name, workload_nth(i + 1)->name) < 0);
}

static void options_have_defaults_even_in_an_empty_section(void **state)
{
	(void)state;
	assert_int_equal(parse("[snapshot-cow]\n"), 0);
	assert_int_equal(s.n_workloads, 1);
	assert_string_equal(s.workloads[0].workload->name, "snapshot-cow");
	assert_int_equal(s.opts.memory, 768);
}

static const char several[] =
	"[scenario]\nmemory = 640\nuntil = snapshot, swap\narms = before\n"
	"[snapshot-cow]\norigin_mib = 20%\n[swap-crypt]\n[cgroup-churn]\n[mem-offline]\n"
	"[arm mixed]\ncow-limit = 64\nswap-limit = off\nmem-offline.rounds = 7\nscenario.cpus = 1\n";

static void a_part_of_the_workloads_can_be_named(void **state)
{
	struct arm arm;

	(void)state;
	assert_int_equal(parse(several), 0);
	assert_int_equal(s.n_workloads, 4);
	/* By the scenario's own name too. */
	assert_int_equal(scenario_set(&s, "test.with=offline,snapshot", err, sizeof(err)), 0);
	assert_int_equal(s.n_workloads, 2);
	assert_string_equal(s.workloads[0].workload->name, "snapshot-cow");
	assert_string_equal(s.workloads[1].workload->name, "mem-offline");
	assert_int_equal(scenario_check(&s, err, sizeof(err)), 0);
	/* What an arm of the file says of the others is left out. */
	assert_int_equal(scenario_arm(&s, "mixed", &arm, err, sizeof(err)), 0);
	assert_int_equal(scenario_apply(&s, &arm, err, sizeof(err)), 0);
	for (size_t i = 0; i < arm.n_settings; i++)
		assert_true(!arm.settings[i].mitigation || strcmp(arm.settings[i].mitigation->name, "swap-limit") != 0);
	assert_int_equal(scenario_arm(&s, "only-swap-limit", &arm, err, sizeof(err)), -EINVAL);
	assert_int_equal(scenario_set(&s, "scenario.with=swap", err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "'swap' is none of this scenario's workloads: snapshot-cow mem-offline"));
	/* Nobody is left whom these could follow. */
	assert_int_equal(parse(several), 0);
	assert_int_equal(scenario_set(&s, "test.with=churn,offline", err, sizeof(err)), 0);
	assert_int_equal(scenario_check(&s, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "would never stop"));
	assert_int_equal(scenario_set(&s, "scenario.overlap_s=20", err, sizeof(err)), 0);
	assert_int_equal(scenario_check(&s, err, sizeof(err)), 0);
	expect_error("[scenario]\noverlap_s = 20\n[snapshot-cow]\n", "until must be set");
	expect_error("[scenario]\nwith = c\n[snapshot-cow]\n[swap-crypt]\n", "'c' is a part of more than one");
	expect_error("[scenario]\nwith = ,\n[snapshot-cow]\n", "names no workload");
	expect_error("[scenario]\nuntil = churn\n[snapshot-cow]\n", "'churn' is none of");
}

static void those_that_are_not_named_follow(void **state)
{
	static struct spec spec, back;
	char text[65536];

	(void)state;
	assert_int_equal(parse("[snapshot-cow]\n[mem-offline]\n"), 0);
	assert_false(s.workloads[0].follows || s.workloads[1].follows);
	assert_int_equal(parse(several), 0);
	assert_false(s.workloads[0].follows || s.workloads[1].follows);
	assert_true(s.workloads[2].follows && s.workloads[3].follows);
	spec.n_workloads = s.n_workloads;
	memcpy(spec.workloads, s.workloads, sizeof(spec.workloads));
	spec.ramp_s = 3;
	assert_true(spec_write(&spec, text, sizeof(text)) > 0);
	assert_int_equal(spec_read(&back, text, strlen(text), err, sizeof(err)), 0);
	assert_true(!back.workloads[1].follows && back.workloads[2].follows && back.ramp_s == 3);
}

static const struct opt *option_of(const struct spec_workload *w, const char *name)
{
	const struct opt *o = w->workload->opts;

	while (strcmp(o->name, name) != 0)
		o++;
	return o;
}

static void sizes_follow_the_memory(void **state)
{
	char value[32];

	(void)state;
	assert_int_equal(parse(several), 0);
	opts_format(option_of(&s.workloads[0], "origin_mib"), s.workloads[0].opts, value, sizeof(value));
	assert_string_equal(value, "128");
	assert_int_equal(scenario_set(&s, "scenario.memory=1000", err, sizeof(err)), 0);
	assert_int_equal(scenario_set(&s, "scenario.dimm_mib=30%", err, sizeof(err)), 0);
	assert_int_equal(scenario_check(&s, err, sizeof(err)), 0);
	opts_format(option_of(&s.workloads[0], "origin_mib"), s.workloads[0].opts, value, sizeof(value));
	assert_string_equal(value, "200");
	assert_int_equal(s.opts.dimm_mib, 384); /* 300, in whole memory blocks */
	/* A number takes its place. */
	assert_int_equal(scenario_set(&s, "snapshot-cow.origin_mib=64", err, sizeof(err)), 0);
	assert_int_equal(scenario_check(&s, err, sizeof(err)), 0);
	opts_format(option_of(&s.workloads[0], "origin_mib"), s.workloads[0].opts, value, sizeof(value));
	assert_string_equal(value, "64");
	expect_error("[snapshot-cow]\norigin_mib = 0%\n", "must be a share of memory");
	expect_error("[snapshot-cow]\norigin_mib = x%\n", "must be a share of memory");
	expect_error("[snapshot-cow]\nsnapshots = 5%\n", "snapshots = '5%'");
	expect_error("[scenario]\nmemory = 5%\n[snapshot-cow]\n", "memory = '5%'");
	expect_error("[snapshot-cow]\norigin_mib = 1%\n", "origin_mib = '7'");
}

static void mistakes_are_named_with_file_and_line(void **state)
{
	(void)state;
	expect_error("", "no workload");
	expect_error("[snapshot-cow]\nsnapshot = 8\n", ":2: unknown option 'snapshot' (there are: snapshots");
	expect_error("[scenario]\nmemory = 768\n[nonsense]\n", ":3: unknown section [nonsense]");
	expect_error("[snapshot-cow]\n\n\nsnapshots = many\n",
		     ":4: snapshots = 'many': must be a whole number from 1 to 64");
	expect_error("[snapshot-cow]\nsnapshots = 0\n", ":2: ");
	expect_error("[snapshot-cow]\nsnapshots = 65\n", ":2: ");
	expect_error("[snapshot-cow]\npattern = zigzag\n", "one of seq, random");
	expect_error("[snapshot-cow]\nchunk_kib = 12\n", "power of two");
	expect_error("[snapshot-cow]\nwrite_mib = 300\n", "must not exceed origin_mib (256)");
	expect_error("[snapshot-cow]\nscale = 100\n", "scale");
	expect_error("[snapshot-cow]\n[snapshot-cow]\n", ":2: section [snapshot-cow] is there twice");
	expect_error("memory = 1\n[snapshot-cow]\n", ":1: 'memory' stands before the first [section]");
	expect_error("[snapshot-cow]\nthis is no assignment\n", ":2: ");
	expect_error("[scenario]\nmemory = 191\n[snapshot-cow]\n", ":2: memory = '191'");
	expect_error("[scenario]\nexpect-after = fine\n[snapshot-cow]\n", "unknown verdict 'fine'");
	expect_error("[scenario]\nexpect-afterwards = ok\n[snapshot-cow]\n", "unknown arm 'afterwards'");
	expect_error("[scenario]\narms = before, aftr\n[snapshot-cow]\n", "unknown arm 'aftr'");
	expect_error("[snapshot-cow]\n[arm x]\nno-such = on\n", "unknown mitigation 'no-such'");
	expect_error("[snapshot-cow]\n[arm x]\nsnapshot-cow.snapshots = 0\n", "[arm x]: snapshots = '0'");
	expect_error("[snapshot-cow]\n[arm x]\nother.snapshots = 1\n", "unknown section 'other'");
}

static void dimms_are_whole_memory_blocks(void **state)
{
	(void)state;
	assert_int_equal(parse("[scenario]\ndimms = 1\ndimm_mib = 256\n[hotremove-deadlock]\n"), 0);
	expect_error("[scenario]\ndimms = 1\ndimm_mib = 200\n[hotremove-deadlock]\n", "multiple of 128");
	expect_error("[mem-offline]\npin = core\n", "pin_hold_ms = '0' must be from 1 to 50000");
	expect_error("[scenario]\ndimms = 9\n[hotremove-deadlock]\n", "from 0 to 8");
}

static void very_long_and_odd_files_are_refused(void **state)
{
	char *long_line = malloc(5000);

	(void)state;
	memset(long_line, 'x', 4999);
	long_line[4999] = '\0';
	memcpy(long_line, "[snapshot-cow]\nsnapshots = 1", 27);
	assert_int_equal(parse(long_line), -EINVAL);
	free(long_line);
	assert_int_equal(scenario_load(&s, "/nonexistent.ini", err, sizeof(err)), -EINVAL);
	assert_int_equal(scenario_load(&s, "no-such-scenario", err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "headroom list scenarios"));
	assert_int_equal(scenario_load(&s, "/dev/null/x.ini", err, sizeof(err)), -EINVAL);
	assert_int_equal(scenario_load(&s, "./Makefile", err, sizeof(err)), -EINVAL);
}

/* Cut a good file anywhere: it loads or is refused, and is never half taken. */
static void every_prefix_is_survived(void **state)
{
	static const char text[] = "[scenario]\nsummary = a test\nmemory = 512\nexpect-after = ok, oom\n"
				   "[snapshot-cow]\nsnapshots = 4\n[arm strict]\ncow-limit = 64\n";
	char part[sizeof(text)];

	(void)state;
	for (size_t len = 0; len < sizeof(text); len++) {
		snprintf(part, len + 1, "%s", text);
		if (parse(part) == 0)
			assert_int_equal(s.n_workloads, 1);
		else
			assert_true(*err != '\0');
	}
}

static const char *value_in(const struct arm *arm, const char *mitigation)
{
	for (size_t i = 0; i < arm->n_settings; i++)
		if (arm->settings[i].mitigation && strcmp(arm->settings[i].mitigation->name, mitigation) == 0)
			return arm->settings[i].value;
	return NULL;
}

static void arms_switch_mitigations(void **state)
{
	struct arm arm;
	char all[256];

	(void)state;
	assert_int_equal(parse("[snapshot-cow]\n[arm strict]\ncow-limit = 64\nsnapshot-cow.snapshots = 2\n"), 0);
	assert_int_equal(scenario_arm(&s, "before", &arm, err, sizeof(err)), 0);
	assert_string_equal(value_in(&arm, "cow-limit"), "4294967295"); /* 0 would be the strictest limit */
	assert_int_equal(scenario_arm(&s, "after", &arm, err, sizeof(err)), 0);
	assert_string_equal(value_in(&arm, "cow-limit"), "2048");
	assert_int_equal(scenario_arm(&s, "only-cow-limit", &arm, err, sizeof(err)), 0);
	assert_string_equal(value_in(&arm, "cow-limit"), "2048");
	assert_int_equal(scenario_arm(&s, "without-cow-limit", &arm, err, sizeof(err)), 0);
	assert_string_equal(value_in(&arm, "cow-limit"), "4294967295");
	assert_int_equal(scenario_arm(&s, "strict", &arm, err, sizeof(err)), 0);
	assert_string_equal(value_in(&arm, "cow-limit"), "64");
	assert_int_equal(scenario_apply(&s, &arm, err, sizeof(err)), 0);
	/* In MiB: one left empty, then 256 of origin and two COW devices of 256 and 258 chunks of metadata, rounded up.
	 */
	assert_int_equal(scenario_place(&s) / 2048, 1 + (256 + 2 * 256 + 3));
	assert_int_equal(scenario_arm(&s, "only-nothing", &arm, err, sizeof(err)), -EINVAL);
	scenario_all_arms(&s, "6.12", all, sizeof(all));
	assert_string_equal(all, "before,after,only-cow-limit,without-cow-limit,only-wq-cpu-intensive,"
				 "without-wq-cpu-intensive,strict");
	assert_non_null(strstr(err, all));
	/* A kernel that lacks the knob gets no arms of it; of one whose version is not known nothing is left out. */
	scenario_all_arms(&s, "6.1", all, sizeof(all));
	assert_string_equal(all, "before,after,only-cow-limit,without-cow-limit,strict");
	scenario_all_arms(&s, "default", all, sizeof(all));
	assert_non_null(strstr(all, "only-wq-cpu-intensive"));
}

static bool writes_by_worker(const struct scenario *sc)
{
	char value[8];

	for (const struct opt *o = sc->workloads[0].workload->opts; o->name; o++) {
		if (strcmp(o->name, "write_workqueue") == 0) {
			opts_format(o, sc->workloads[0].opts, value, sizeof(value));
			return strcmp(value, "yes") == 0;
		}
	}
	fail();
	return false;
}

static void a_mitigation_may_be_an_option_of_its_workload(void **state)
{
	struct arm arm;

	(void)state;
	assert_int_equal(parse("[swap-crypt]\n[arm x]\ncrypt-workqueue = off\nreserves = 8192/100\n"), 0);
	assert_int_equal(scenario_arm(&s, "before", &arm, err, sizeof(err)), 0);
	assert_int_equal(scenario_apply(&s, &arm, err, sizeof(err)), 0);
	assert_false(writes_by_worker(&s));
	assert_int_equal(scenario_arm(&s, "only-crypt-workqueue", &arm, err, sizeof(err)), 0);
	assert_int_equal(scenario_apply(&s, &arm, err, sizeof(err)), 0);
	assert_true(writes_by_worker(&s));
	assert_int_equal(scenario_arm(&s, "x", &arm, err, sizeof(err)), 0);
	assert_int_equal(scenario_apply(&s, &arm, err, sizeof(err)), 0);
	assert_false(writes_by_worker(&s));
	assert_string_equal(value_in(&arm, "reserves"), "8192/100");
}

static void what_is_in_the_kernel_for_good_has_no_arms(void **state)
{
	struct arm arm;
	char all[512];

	(void)state;
	assert_int_equal(parse("[swap-crypt]\n"), 0);
	scenario_all_arms(&s, "6.1", all, sizeof(all));
	assert_string_equal(all, "before,after,only-swap-limit,without-swap-limit,only-crypt-workqueue,"
				 "without-crypt-workqueue,only-reserves,without-reserves");
	assert_int_equal(scenario_arm(&s, "without-throttle-removal", &arm, err, sizeof(err)), -EINVAL);
	/* It stands in the record of every cell all the same. */
	assert_int_equal(scenario_arm(&s, "before", &arm, err, sizeof(err)), 0);
	assert_string_equal(value_in(&arm, "throttle-removal"), "absent");
	expect_error("[swap-crypt]\n[arm x]\nthrottle-removal = off\n", "cannot be switched");
	expect_error("[swap-crypt]\n[arm x]\nreserves = 4\n", "a value for each of vm.min_free_kbytes/");
	expect_error("[swap-crypt]\n[arm x]\nreserves = 4/5/6\n", "a value for each of vm.min_free_kbytes/");
	expect_error("[swap-crypt]\n[arm x]\nswap-limit = 1/2\n", "a value for each of dm_mod.swap_bios");
	expect_error("[swap-crypt]\n[arm x]\ncrypt-workqueue = perhaps\n", "write_workqueue");
	/* Every arm sets it: another's setting would be overwritten without a word. */
	expect_error("[swap-crypt]\nwrite_workqueue = no\n", "the mitigation crypt-workqueue sets it");
	expect_error("[swap-crypt]\n[arm x]\nswap-crypt.write_workqueue = no\n",
		     "the mitigation crypt-workqueue sets it");
	assert_int_equal(parse("[swap-crypt]\n"), 0);
	assert_int_equal(scenario_set(&s, "swap-crypt.write_workqueue=no", err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "crypt-workqueue"));
}

static void two_workloads_may_show_the_same_mitigation(void **state)
{
	const struct mitigation *m;
	struct arm arm;
	unsigned times = 0;

	(void)state;
	assert_int_equal(parse("[scenario]\n[cgroup-churn]\n[build-load]\n"), 0);
	for (size_t i = 0; (m = scenario_mitigation(&s, i)); i++)
		times += strcmp(m->name, "kmem-accounting") == 0;
	assert_int_equal(times, 1);
	assert_int_equal(scenario_arm(&s, "without-kmem-accounting", &arm, err, sizeof(err)), 0);
	times = 0;
	for (size_t i = 0; i < arm.n_settings; i++)
		times += arm.settings[i].mitigation && strcmp(arm.settings[i].value, "nokmem") == 0;
	assert_int_equal(times, 1);
}

/* An arm is named after it, and a workload's option is no other's. */
static void a_mitigation_by_an_option_has_a_name_of_its_own(void **state)
{
	const struct workload *a, *b;

	(void)state;
	for (size_t i = 0; (a = workload_nth(i)); i++)
		for (const struct mitigation *m = a->mitigations; m && m->name; m++)
			for (size_t j = 0; m->option && (b = workload_nth(j)); j++)
				for (const struct mitigation *n = b->mitigations; a != b && n && n->name; n++)
					assert_string_not_equal(m->name, n->name);
}

static void set_changes_one_option_or_says_why_not(void **state)
{
	static const char *const bad[] = {
		"",   "snapshots=8",	     "snapshot-cow.=8",		 "snapshot-cow.snapshots", "=.",
		".=", "nothing.snapshots=8", "snapshot-cow.snapshots=x", "scenario.memory=1"
	};

	(void)state;
	assert_int_equal(parse("[snapshot-cow]\n"), 0);
	assert_int_equal(scenario_set(&s, "scenario.memory=1024", err, sizeof(err)), 0);
	assert_int_equal(s.opts.memory, 1024);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(scenario_set(&s, bad[i], err, sizeof(err)), -EINVAL);
		assert_non_null(strstr(err, "--set"));
	}
}

static void fill(struct spec *spec)
{
	memset(spec, 0, sizeof(*spec));
	strcpy(spec->cell, "001-before-1");
	strcpy(spec->scenario, "a \"quoted\" name");
	strcpy(spec->arm, "before");
	strcpy(spec->run_id, "hr-1");
	strcpy(spec->scratch, "/dev/vdb");
	spec->seed = 42;
	spec->run_s = 60;
	spec->wq_trace_kib = 4096;
	spec->wq_trace_ms = 1000;
	spec->n_knobs = 1;
	strcpy(spec->knobs[0].name, "k");
	strcpy(spec->knobs[0].path, "/proc/k");
	strcpy(spec->knobs[0].value, "4294967295");
	spec->knobs[0].required = true;
	spec->n_workloads = 1;
	spec->workloads[0] = s.workloads[0];
	spec->workloads[0].start_sector = 2048;
}

static void a_specification_survives_the_way_to_the_guest(void **state)
{
	static struct spec out, back;
	char text[BUFSIZ];
	int len;

	(void)state;
	assert_int_equal(parse("[snapshot-cow]\nsnapshots = 3\npattern = random\n"), 0);
	fill(&out);
	len = spec_write(&out, text, sizeof(text));
	assert_true(len > 0);
	assert_int_equal(spec_read(&back, text, (size_t)len, err, sizeof(err)), 0);
	assert_string_equal(back.scenario, out.scenario);
	assert_int_equal(back.seed, 42);
	assert_int_equal(back.wq_trace_kib, 4096);
	assert_int_equal(back.wq_trace_ms, 1000);
	assert_true(back.knobs[0].required);
	assert_string_equal(back.knobs[0].value, "4294967295");
	assert_int_equal(back.workloads[0].start_sector, 2048);
	assert_memory_equal(back.workloads[0].opts, out.workloads[0].opts, out.workloads[0].workload->opts_size);
	assert_int_equal(spec_write(&out, text, 100), -ENOSPC);
	for (int cut = 0; cut < len - 1; cut++)
		assert_int_equal(spec_read(&back, text, (size_t)cut, err, sizeof(err)), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_shipped_scenario_loads),
		cmocka_unit_test(every_workload_file_is_registered),
		cmocka_unit_test(options_have_defaults_even_in_an_empty_section),
		cmocka_unit_test(a_part_of_the_workloads_can_be_named),
		cmocka_unit_test(those_that_are_not_named_follow),
		cmocka_unit_test(sizes_follow_the_memory),
		cmocka_unit_test(mistakes_are_named_with_file_and_line),
		cmocka_unit_test(dimms_are_whole_memory_blocks),
		cmocka_unit_test(very_long_and_odd_files_are_refused),
		cmocka_unit_test(every_prefix_is_survived),
		cmocka_unit_test(arms_switch_mitigations),
		cmocka_unit_test(a_mitigation_may_be_an_option_of_its_workload),
		cmocka_unit_test(what_is_in_the_kernel_for_good_has_no_arms),
		cmocka_unit_test(two_workloads_may_show_the_same_mitigation),
		cmocka_unit_test(a_mitigation_by_an_option_has_a_name_of_its_own),
		cmocka_unit_test(set_changes_one_option_or_says_why_not),
		cmocka_unit_test(a_specification_survives_the_way_to_the_guest),
	};

	return cmocka_run_group_tests_name("scenario", tests, NULL, NULL);
}
