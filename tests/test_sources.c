// SPDX-License-Identifier: MIT
/* Kernel files to members of a sample. Texts as a 6.1 guest printed them, shortened. */
#include "record/sources.h"
#include "t.h"

#include <jansson.h>

static const char meminfo[] = "MemTotal:         723404 kB\nMemFree:          504120 kB\nMemAvailable:     542332 kB\n"
			      "SUnreclaim:        12904 kB\nHugePages_Total:       0\nDirectMap4k:       30572 kB\n";
static const char vmstat[] = "nr_free_pages 126030\nnr_zone_inactive_anon 88\noom_kill 3\nallocstall_normal 12\n"
			     "pgscan_direct 4711\nnuma_hit 9\n";
static const char psi[] = "some avg10=1.25 avg60=0.50 avg300=0.00 total=123456\n"
			  "full avg10=0.05 avg60=0.00 avg300=0.00 total=4567\n";
static const char slabinfo[] =
	"slabinfo - version: 2.1\n"
	"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> ...\n"
	"kcopyd_job          14810  14820   3240   10    8 : tunables    0    0    0 : slabdata   1482   1482      0\n"
	"dm_empty                0      0    128   32    1 : tunables    0    0    0 : slabdata      0      0      0\n";
static const char zoneinfo[] =
	"Node 0, zone    DMA32\n  pages free     1000\n        managed  2000\n"
	"Node 0, zone  Movable\n  pages free     65536\n        min      10\n        managed  65536\n"
	"Node 1, zone  Movable\n  pages free     1\n        managed  2\n";
static const char diskstats[] = "   7       0 loop0 1 0 8 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
				" 254      16 vdb 10 0 80 5 20 1 160 9 3 44 14 0 0 0 0 0 0\n"
				" 253       0 dm-0 1 2 3 4 5 6 7 8 9 10 11\n";

static struct sample_live live;

static void all(struct jsonw *j, const char *const texts[6], const size_t lens[6])
{
	jsonw_object(j, NULL);
	source_meminfo(j, texts[0], lens[0], &live);
	source_vmstat(j, texts[1], lens[1], &live);
	jsonw_object(j, "psi");
	source_pressure(j, "memory", texts[2], lens[2]);
	jsonw_object_end(j);
	source_slabinfo(j, "slab", texts[3], lens[3]);
	source_zoneinfo(j, texts[4], lens[4]);
	source_diskstats(j, texts[5], lens[5]);
	jsonw_object_end(j);
}

static json_t *parse(const struct jsonw *j)
{
	json_error_t error;
	json_t *parsed = json_loadb(j->buf, j->len, JSON_REJECT_DUPLICATES, &error);

	if (!parsed)
		print_message("%s in %.*s\n", error.text, (int)j->len, j->buf);
	assert_non_null(parsed);
	return parsed;
}

static const char *const texts[6] = { meminfo, vmstat, psi, slabinfo, zoneinfo, diskstats };
static const size_t whole[6] = { sizeof(meminfo) - 1,  sizeof(vmstat) - 1,   sizeof(psi) - 1,
				 sizeof(slabinfo) - 1, sizeof(zoneinfo) - 1, sizeof(diskstats) - 1 };

static void samples_hold_what_the_files_say(void **state)
{
	char buf[8192], *compact;
	struct jsonw j;
	json_t *got;

	(void)state;
	jsonw_init(&j, buf, sizeof(buf));
	all(&j, texts, whole);
	got = parse(&j);
	compact = json_dumps(got, JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(
		compact,
		"{\"disk\":{\"dm-0\":[1,3,5,7,9,10],\"vdb\":[10,80,20,160,3,44]},"
		"\"mem\":{\"MemAvailable\":542332,\"MemFree\":504120,\"MemTotal\":723404,\"SUnreclaim\":12904},"
		"\"psi\":{\"memory\":{\"full_avg10\":0.050000000000000003,\"full_us\":4567,\"some_avg10\":1.25,"
		"\"some_us\":123456}},"
		"\"slab\":{\"kcopyd_job\":[14810,14820,3240,47424]},"
		"\"vm\":{\"allocstall_normal\":12,\"nr_free_pages\":126030,\"oom_kill\":3,\"pgscan_direct\":4711},"
		"\"zone_movable\":{\"free_kib\":262148,\"managed_kib\":262152}}");
	assert_int_equal(live.oom_kills, 3);
	assert_int_equal(live.available_kib, 542332);
	assert_int_equal(live.slab_unreclaimable_kib, 12904);
	free(compact);
	json_decref(got);
}

/* A read that was cut short must leave figures out, not give one that lacks its last digits. */
static void a_truncated_file_gives_fewer_figures_never_wrong_ones(void **state)
{
	char buf[8192];

	(void)state;
	for (size_t f = 0; f < 6; f++) {
		for (size_t cut = 0; cut < whole[f]; cut++) {
			size_t lens[6];
			struct jsonw j;
			json_t *got, *mem;

			memcpy(lens, whole, sizeof(lens));
			lens[f] = cut;
			jsonw_init(&j, buf, sizeof(buf));
			all(&j, texts, lens);
			got = parse(&j);
			mem = json_object_get(json_object_get(got, "mem"), "MemAvailable");
			assert_true(!mem || json_integer_value(mem) == 542332);
			json_decref(got);
		}
	}
}

static void slabs_of_a_fragmented_machine_are_smaller(void **state)
{
	/* Of a 6.1 guest without memory: most slabs have one page, with one object, instead of eight with ten. */
	static const char text[] =
		"kcopyd_job 66572 72253 3240 10 8 : tunables 0 0 0 : slabdata 15742 15742 0\n"
		"whole 70 70 3240 10 8 : tunables 0 0 0 : slabdata 7 7 0\n"
		"one_page 5 5 64 64 1 : tunables 0 0 0 : slabdata 7 7 0\n"
		"strange 1 1 1 18446744073709551615 18446744073709551615 : tunables 0 0 0 : slabdata 2 2 0\n";
	char buf[4096];
	struct jsonw j;
	json_t *slab;

	(void)state;
	jsonw_init(&j, buf, sizeof(buf));
	source_slabinfo(&j, NULL, text, strlen(text));
	slab = parse(&j);
#define KIB(cache) json_integer_value(json_array_get(json_object_get(slab, cache), 3))
	assert_int_equal(KIB("kcopyd_job"), ((15742 - 9463) * 8 + 9463) * 4);
	assert_int_equal(KIB("whole"), 7 * 8 * 4);
	assert_int_equal(KIB("one_page"), 7 * 4);
#undef KIB
	json_decref(slab);
}

static void hostile_text_is_survived(void **state)
{
	static const char *const hostile[] = {
		"",
		"\n",
		"\n\n\n",
		":",
		": \n",
		"MemFree: x kB\n",
		"MemFree: 99999999999999999999999999 kB\n",
		"some avg10=1 total=\n",
		"some avg10=999999.99 total=5\n",
		"Node\n",
		"Node 0, zone\n",
		"a b c d e f g\n",
		"1 2 three 4 5 6 7 8 9 10\n",
		"kcopyd_job 1 2 3 4 5 : : slabdata 1\n",
		"kcopyd_job 1 2\n",
	};
	char buf[8192];

	(void)state;
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
		const char *same[6] = { hostile[i], hostile[i], hostile[i], hostile[i], hostile[i], hostile[i] };
		size_t len = strlen(hostile[i]), lens[6] = { len, len, len, len, len, len };
		struct jsonw j;

		jsonw_init(&j, buf, sizeof(buf));
		all(&j, same, lens);
		json_decref(parse(&j));
	}
}

/* --- /proc/PID/stat --- */

/* Of a 6.1 guest; the fields behind the start time are 30 more. */
#define STAT(name, flags, user, system, start)                                                                         \
	"37 (" name ") I 2 0 0 0 -1 " flags " 0 0 0 0 " user " " system " 0 0 20 0 1 0 " start                         \
	" 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
#define KTHREAD "69238880" /* PF_KTHREAD and others */
#define USER	"4194560"

static bool task_of(struct task_stat *task, const char *text)
{
	return source_task(task, text, strlen(text));
}

static void a_task_is_read_whatever_its_name_is(void **state)
{
	static const struct {
		const char *text, *name;
	} cases[] = {
		{ STAT("kswapd0", KTHREAD, "12", "345", "77"), "kswapd0" },
		{ STAT("kworker/u4:1-kcryptd/254:0", KTHREAD, "12", "345", "77"), "kworker/u4:1-kcryptd/254:0" },
		{ STAT("a b", KTHREAD, "12", "345", "77"), "a b" },
		{ STAT(") R 1 (", KTHREAD, "12", "345", "77"), ") R 1 (" },
		{ STAT("", KTHREAD, "12", "345", "77"), "" },
	};
	struct task_stat task;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_true(task_of(&task, cases[i].text));
		assert_string_equal(task.name, cases[i].name);
		assert_true(task.is_kernel_thread);
		assert_int_equal(task.ticks, 357);
		assert_int_equal(task.start, 77);
	}
	assert_true(task_of(&task, STAT("kswapd0", USER, "1", "2", "3")));
	assert_false(task.is_kernel_thread);
}

static void a_kworker_serves_the_queue_behind_its_name(void **state)
{
	static const struct {
		const char *name, *watched;
		bool serves;
	} cases[] = {
		{ "kswapd0", "kswapd", true },
		{ "kswapd0", "kswapd0", true },
		{ "kswapd0", "kswapd00", false },
		{ "my-kswapd0", "kswapd", false },
		{ "dmcrypt_write/254:0", "dmcrypt_write", true },
		{ "kcryptd/254:0", "kcryptd", true }, /* a rescuer, before 6.8 */
		{ "kworker/R-kcryptd/254:0", "kcryptd", true },
		{ "kworker/u4:1-kcryptd/254:0", "kcryptd", true },
		{ "kworker/u4:1+kcryptd/254:0", "kcryptd", true },
		{ "kworker/u4:1-kcryptd_io/254:0", "kcryptd_io", true },
		{ "kworker/u4:1-my-kcryptd", "kcryptd", false },
		{ "kworker/u4:1", "kcryptd", false },
		{ "kworker/u4:1-", "kcryptd", false },
		{ "kworker/u4:1-events_unbound", "kcryptd", false },
		{ "kworker/0:1H-kblockd", "kworker/0:1H", true },
	};
	struct task_stat task = { .is_kernel_thread = true };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		strcpy(task.name, cases[i].name);
		if (source_serves(&task, cases[i].watched) != cases[i].serves)
			fail_msg("%s, %s", cases[i].name, cases[i].watched);
	}
	/* A program may call itself what it likes. */
	strcpy(task.name, "kswapd0");
	task.is_kernel_thread = false;
	assert_false(source_serves(&task, "kswapd"));
	strcpy(task.name, "kworker/0:1");
	assert_false(source_is_kworker(&task));
}

static void a_task_that_is_cut_off_or_hostile_is_none(void **state)
{
	static const char whole_line[] = STAT("kworker/u4:1-kcryptd/254:0", KTHREAD, "12", "345", "77");
	static const char *const hostile[] = {
		"",
		"\n",
		"(",
		")",
		")(\n",
		"()",
		"()\n",
		"1 (a) R\n",
		"1 (a\n",
		"1 a) I 2 0 0 0 -1 69238880 0 0 0 0 12 345 0 0 20 0 1 0 77\n",
		STAT("a", "-1", "1", "2", "3"),
		STAT("a", "x", "1", "2", "3"),
		STAT("a", KTHREAD, "-1", "2", "3"),
		STAT("a", KTHREAD, "1", "99999999999999999999999", "3"),
		STAT("a", KTHREAD, "1", "2", "3x"),
		STAT("0123456789012345678901234567890123456789012345678901234567890123", KTHREAD, "1", "2", "3"),
	};
	struct task_stat task;

	(void)state;
	for (size_t len = 0; len < sizeof(whole_line) - 1; len++)
		assert_false(source_task(&task, whole_line, len));
	assert_true(source_task(&task, whole_line, sizeof(whole_line) - 1));
	for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++)
		if (task_of(&task, hostile[i]))
			fail_msg("%zu: %s", i, hostile[i]);
}

static void this_process_is_no_kernel_thread(void **state)
{
	char text[2048];
	struct task_stat task;
	FILE *f = fopen("/proc/self/stat", "r");
	size_t len;

	(void)state;
	assert_non_null(f);
	len = fread(text, 1, sizeof(text), f);
	fclose(f);
	assert_true(source_task(&task, text, len));
	assert_string_equal(task.name, "test_sources");
	assert_false(task.is_kernel_thread);
	assert_true(task.start > 0);
}

/* The running kernel's own files, whatever it is: they must parse, and meminfo must give its total. */
static void this_kernels_files_parse(void **state)
{
	static char text[1 << 20], buf[1 << 20];
	static const char *const files[] = { "/proc/meminfo", "/proc/vmstat", "/proc/zoneinfo", "/proc/diskstats" };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		FILE *f = fopen(files[i], "r");
		struct jsonw j;
		json_t *got;
		size_t len;

		if (!f)
			continue;
		len = fread(text, 1, sizeof(text), f);
		fclose(f);
		jsonw_init(&j, buf, sizeof(buf));
		jsonw_object(&j, NULL);
		if (i == 0)
			source_meminfo(&j, text, len, &live);
		else if (i == 1)
			source_vmstat(&j, text, len, &live);
		else if (i == 2)
			source_zoneinfo(&j, text, len);
		else
			source_diskstats(&j, text, len);
		jsonw_object_end(&j);
		got = parse(&j);
		if (i == 0)
			assert_true(json_integer_value(json_object_get(json_object_get(got, "mem"), "MemTotal")) > 0);
		json_decref(got);
	}
}

/* A line that is cut off could go on. */
static void one_number_is_a_member(void **state)
{
	static const char *const texts_of[] = { "4096\n", "", "\n", "max\n", "12" };
	static const bool there[] = { true, false, false, false, false };
	char buf[256];

	(void)state;
	for (size_t i = 0; i < sizeof(there) / sizeof(there[0]); i++) {
		struct jsonw j;
		json_t *parsed;

		jsonw_init(&j, buf, sizeof(buf));
		jsonw_object(&j, NULL);
		source_number(&j, "current", texts_of[i], strlen(texts_of[i]));
		jsonw_object_end(&j);
		parsed = parse(&j);
		assert_int_equal(json_object_get(parsed, "current") != NULL, there[i]);
		json_decref(parsed);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_number_is_a_member),
		cmocka_unit_test(samples_hold_what_the_files_say),
		cmocka_unit_test(a_truncated_file_gives_fewer_figures_never_wrong_ones),
		cmocka_unit_test(slabs_of_a_fragmented_machine_are_smaller),
		cmocka_unit_test(hostile_text_is_survived),
		cmocka_unit_test(a_task_is_read_whatever_its_name_is),
		cmocka_unit_test(a_kworker_serves_the_queue_behind_its_name),
		cmocka_unit_test(a_task_that_is_cut_off_or_hostile_is_none),
		cmocka_unit_test(this_process_is_no_kernel_thread),
		cmocka_unit_test(this_kernels_files_parse),
	};

	return cmocka_run_group_tests_name("sources", tests, NULL, NULL);
}
