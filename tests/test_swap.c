// SPDX-License-Identifier: MIT
/* Swap devices, the data that is swapped, and what is said of the mitigations of swap-crypt. */
#include "base/pattern.h"
#include "dev/swapdev.h"
#include "run/attest.h"
#include "run/mitigation.h"
#include "t.h"

#include <errno.h>

/* --- Swap devices --- */

#define HEAD "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

static char *dir;

static const char *swaps(const char *text)
{
	static char path[PATH_MAX];

	t_write(dir, "swaps", text);
	snprintf(path, sizeof(path), "%s/swaps", dir);
	return path;
}

static void any_swap_is_seen_and_named(void **state)
{
	char name[64] = "";

	(void)state;
	dir = t_dir();
	assert_int_equal(swapdev_any(swaps(""), name, sizeof(name)), 0);
	assert_int_equal(swapdev_any(swaps(HEAD), name, sizeof(name)), 0);
	assert_int_equal(swapdev_any(swaps(HEAD "/dev/sda2 partition\t1000\t0\t-2\n"), name, sizeof(name)), 1);
	assert_string_equal(name, "/dev/sda2");
	assert_int_equal(swapdev_any(swaps(HEAD "/swap\\040file file 1 0 -2\n"), name, sizeof(name)), 1);
	assert_string_equal(name, "/swap file");
	/* A kernel without swap has no such file. */
	assert_int_equal(swapdev_any("/nonexistent", name, sizeof(name)), 0);
	t_remove(dir);
}

static void a_device_is_known_by_what_it_is_not_by_its_name(void **state)
{
	char a[PATH_MAX], b[PATH_MAX], text[2 * PATH_MAX];

	(void)state;
	dir = t_dir();
	t_write(dir, "a", "");
	t_write(dir, "c", "");
	snprintf(a, sizeof(a), "%s/a", dir);
	snprintf(b, sizeof(b), "%s/b", dir);
	assert_int_equal(link(a, b), 0);
	snprintf(text, sizeof(text), HEAD "/dev/other partition 1 0 5\n%s file 1 0 -2\n", a);
	assert_int_equal(swapdev_is_on(swaps(text), a), 1);
	assert_int_equal(swapdev_is_on(swaps(text), b), 1);
	b[strlen(b) - 1] = 'c';
	assert_int_equal(swapdev_is_on(swaps(text), b), 0);
	assert_int_equal(swapdev_is_on(swaps(text), "/nonexistent"), 0);
	t_remove(dir);
}

static void a_list_that_is_cut_off_or_strange_is_survived(void **state)
{
	static const char text[] = HEAD "/dev/s\\0da2 partition\t1000\t0\t-2\n\n \n\\\n\\777x y\n";
	char part[sizeof(text)], name[8];

	(void)state;
	dir = t_dir();
	for (size_t len = 0; len < sizeof(text); len++) {
		snprintf(part, sizeof(part), "%.*s", (int)len, text);
		assert_in_range(swapdev_any(swaps(part), name, sizeof(name)), 0, 1);
		assert_int_equal(swapdev_is_on(swaps(part), "/dev/ours"), 0);
	}
	t_remove(dir);
}

static void swapping_off_what_is_not_in_use_does_nothing(void **state)
{
	char path[PATH_MAX];

	(void)state;
	dir = t_dir();
	t_write(dir, "a", "");
	snprintf(path, sizeof(path), "%s/a", dir);
	assert_int_equal(swapdev_off(path, 1000), 0);
	snprintf(path, sizeof(path), "%s/none", dir);
	assert_int_equal(swapdev_off(path, 1000), -ENOENT);
	t_remove(dir);
}

/* --- Data --- */

static void a_pattern_is_known_from_every_other(void **state)
{
	static const char zeros[PATTERN_BLOCK];
	char block[PATTERN_BLOCK], again[PATTERN_BLOCK];

	(void)state;
	pattern_fill(1, 2, block);
	pattern_fill(1, 2, again);
	assert_memory_equal(block, again, sizeof(block));
	assert_true(pattern_matches(1, 2, block));
	assert_false(pattern_matches(1, 3, block));
	assert_false(pattern_matches(2, 2, block));
	assert_false(pattern_matches(1, 2, zeros));
	for (size_t i = 0; i < PATTERN_BLOCK; i += 511) {
		block[i] ^= 1;
		assert_false(pattern_matches(1, 2, block));
		block[i] ^= 1;
	}
	for (uint64_t key = 0; key < 64; key++) {
		pattern_fill(key, key, block);
		assert_memory_not_equal(block, zeros, sizeof(block));
	}
}

/* --- Mitigations --- */

static const struct mitigation *called(const char *name)
{
	const struct mitigation *m = workload_find("swap-crypt")->mitigations;

	while (m->name && strcmp(m->name, name) != 0)
		m++;
	assert_non_null(m->name);
	return m;
}

static void a_value_has_a_part_for_each_knob(void **state)
{
	const struct mitigation *two = called("reserves"), *one = called("swap-limit");
	char part[16], names[128];

	(void)state;
	assert_int_equal(mitigation_knobs(two), 2);
	assert_string_equal(mitigation_knob_names(two, names, sizeof(names)),
			    "vm.min_free_kbytes/vm.watermark_scale_factor");
	assert_true(mitigation_value("x4/200", 0, part, sizeof(part)));
	assert_string_equal(part, "x4");
	assert_true(mitigation_value("x4/200", 1, part, sizeof(part)));
	assert_string_equal(part, "200");
	assert_false(mitigation_value("x4/200", 2, part, sizeof(part)));
	assert_true(mitigation_value_fits(two, "x4/200"));
	assert_true(mitigation_value_fits(one, "64"));
	for (const char *const *bad = (const char *const[]){ "", "4", "4/", "/4", "4/5/6", "4/5/", "//", NULL }; *bad;
	     bad++)
		assert_false(mitigation_value_fits(two, *bad));
	assert_false(mitigation_value_fits(one, "64/"));
	assert_false(mitigation_value_fits(one, "64/1"));
}

static void a_kernel_has_a_knob_from_its_version_on(void **state)
{
	const struct mitigation *m = called("crypt-split");

	(void)state;
	assert_false(mitigation_in_kernel(m, "6.1"));
	assert_false(mitigation_in_kernel(m, "5.20"));
	assert_false(mitigation_in_kernel(m, "6.11.9-amd64"));
	assert_true(mitigation_in_kernel(m, "6.12"));
	assert_true(mitigation_in_kernel(m, "6.12.95+deb13-amd64"));
	assert_true(mitigation_in_kernel(m, "7.0"));
	assert_true(mitigation_in_kernel(m, "default"));
	assert_true(mitigation_in_kernel(called("reserves"), "2.6"));
	assert_false(mitigation_switchable(called("throttle-removal")));
}

#define EVENT(rest) "{\"t\":-1,\"source\":\"harness\"," rest "}\n"
#define KNOB(name, value, now)                                                                                         \
	EVENT("\"kind\":\"knob\",\"name\":\"" name "\",\"value\":\"" value "\",\"read_back\":\"" now "\"")
#define NO_KNOB(name) EVENT("\"kind\":\"knob\",\"name\":\"" name "\",\"value\":\"1\"")
#define START	      EVENT("\"kind\":\"device\",\"name\":\"swap\",\"kernel\":\"dm-3\"") EVENT("\"kind\":\"start\"")
#define LIMIT	      "dm_mod.swap_bios"
#define SPLIT	      "dm_crypt.max_write_size"
#define RESERVE	      "vm.min_free_kbytes"
#define SCALE	      "vm.watermark_scale_factor"

/* Two samples of the load: so many pages sent to swap, so many sectors and writes that came to rest on the device. */
#define SAMPLE(t, pages, writes, sectors, stalls)                                                                      \
	"{\"t\":" #t ",\"mem\":{\"SwapTotal\":1000,\"SwapFree\":900},\"vm\":{\"pswpout\":" #pages                      \
	",\"pswpin\":0,\"allocstall_normal\":" #stalls "},\"disk\":{\"dm-3\":[0,0," #writes "," #sectors ",0,0]}}\n"
#define SENT_5000_DONE_1000 SAMPLE(0, 100, 10, 80, 0) SAMPLE(1, 5100, 1010, 8080, 7)
#define SENT_2050_DONE_50   SAMPLE(0, 0, 0, 0, 0) SAMPLE(1, 2050, 50, 400, 0)
#define SENT_600_DONE_0	    SAMPLE(0, 0, 0, 0, 0) SAMPLE(1, 600, 0, 0, 0)
#define WRITES_OF_128_KIB   SAMPLE(0, 0, 0, 0, 0) SAMPLE(1, 6400, 200, 51200, 0)
#define LARGE_WRITES	    SAMPLE(0, 0, 0, 0, 0) SAMPLE(1, 6400, 25, 51200, 0)

static void mitigations_are_attested_from_the_record(void **state)
{
	static const struct {
		const char *name, *requested, *events, *samples;
		enum mitigation_state state;
		enum tristate exercised;
		const char *evidence;
	} cases[] = {
		{ "swap-limit", "1048576", KNOB(LIMIT, "1048576", "1048576") START, SENT_5000_DONE_1000, MITIGATION_OFF,
		  YES, "in-flight peak 4000 of 2048 that the cap would allow" },
		{ "swap-limit", "1048576", KNOB(LIMIT, "1048576", "1048576") START, SENT_600_DONE_0, MITIGATION_OFF, NO,
		  "600 of 2048" },
		{ "swap-limit", "2048", KNOB(LIMIT, "2048", "2048") START, SENT_2050_DONE_50, MITIGATION_ON, YES,
		  "in-flight peak 2000 of 2048 allowed" },
		{ "swap-limit", "2048", KNOB(LIMIT, "2048", "2048") START, SENT_600_DONE_0, MITIGATION_ON, NO,
		  "600 of 2048" },
		/* The knob reads well, and yet more are in flight than tasks could have sent. */
		{ "swap-limit", "2048", KNOB(LIMIT, "2048", "2048") START, SENT_5000_DONE_1000, MITIGATION_FAILED, YES,
		  "4000 of 2048" },
		{ "swap-limit", "0", KNOB(LIMIT, "0", "0") START, SENT_2050_DONE_50, MITIGATION_ON, YES,
		  "2000 of 2048 allowed" },
		{ "swap-limit", "2048", KNOB(LIMIT, "2048", "1048576") START, SENT_600_DONE_0, MITIGATION_FAILED,
		  UNKNOWN, "asked for 2048, the kernel has 1048576" },
		{ "swap-limit", "2048", KNOB(LIMIT, "2048", "2048") START, "{\"t\":1}\n", MITIGATION_ON, UNKNOWN,
		  "not seen" },
		{ "swap-limit", "-5", KNOB(LIMIT, "-5", "-5") START, SENT_2050_DONE_50, MITIGATION_ON, YES,
		  "2000 of 2048 allowed" },
		/* A kernel that has no such knob is not a record that does not say. */
		{ "swap-limit", "2048", NO_KNOB(LIMIT) START, SENT_600_DONE_0, MITIGATION_ABSENT, UNKNOWN,
		  "there since Linux 5.12" },
		{ "swap-limit", "2048", START, SENT_600_DONE_0, MITIGATION_FAILED, UNKNOWN, "has not told" },
		{ "crypt-workqueue", "no", KNOB("dm_crypt.write_workqueue", "no", "no") START, SENT_600_DONE_0,
		  MITIGATION_OFF, YES, "the table says no; 2 MiB swapped out" },
		{ "crypt-workqueue", "yes", KNOB("dm_crypt.write_workqueue", "yes", "no") START, SENT_600_DONE_0,
		  MITIGATION_FAILED, UNKNOWN, "asked for yes, the kernel has no" },
		{ "crypt-workqueue", "yes", START, SENT_600_DONE_0, MITIGATION_FAILED, UNKNOWN, "has not told" },
		{ "crypt-split", "131072", KNOB(SPLIT, "131072", "131072") START, SENT_5000_DONE_1000, MITIGATION_ON,
		  NO, "swap writes of 4 KiB at most" },
		/* The device counts the pieces. */
		{ "crypt-split", "131072", KNOB(SPLIT, "131072", "131072") START, WRITES_OF_128_KIB, MITIGATION_ON, YES,
		  "swap writes of 128 KiB at most" },
		{ "crypt-split", "1048576", KNOB(SPLIT, "1048576", "1048576") START, LARGE_WRITES, MITIGATION_OFF, YES,
		  "swap writes of 1024 KiB at most" },
		{ "crypt-split", "1048576", KNOB(SPLIT, "1048576", "1048576") START, SENT_5000_DONE_1000,
		  MITIGATION_OFF, NO, "swap writes of 4 KiB at most" },
		{ "crypt-split", "1048576", KNOB(SPLIT, "1048576", "1048576") START, SENT_600_DONE_0, MITIGATION_OFF,
		  UNKNOWN, "knob reads 1048576" },
		/* What xN came to is known where it was written. */
		{ "reserves", "x4/200", KNOB(RESERVE, "10000", "10000") KNOB(SCALE, "200", "200") START,
		  SENT_5000_DONE_1000, MITIGATION_ON, YES, "10000/200; 7 allocations" },
		{ "reserves", "x1/10", KNOB(RESERVE, "2500", "2500") KNOB(SCALE, "10", "10") START, SENT_600_DONE_0,
		  MITIGATION_OFF, NO, "2500/10; 0 allocations" },
		{ "reserves", "x4/200", KNOB(RESERVE, "10000", "2500") KNOB(SCALE, "200", "200") START, SENT_600_DONE_0,
		  MITIGATION_FAILED, UNKNOWN, "asked for x4/200, the kernel has 2500/200" },
		{ "reserves", "x4/200", KNOB(RESERVE, "10000", "10000") START, SENT_600_DONE_0, MITIGATION_FAILED,
		  UNKNOWN, "has not told" },
		{ "throttle-removal", "absent", KNOB("kernel.throttle_vm_writeout", "absent", "absent") START, "",
		  MITIGATION_ON, UNKNOWN, "cannot be switched off" },
		{ "throttle-removal", "absent", KNOB("kernel.throttle_vm_writeout", "absent", "present") START, "",
		  MITIGATION_OFF, UNKNOWN, "still has throttle_vm_writeout()" },
		{ "throttle-removal", "absent", START, "", MITIGATION_FAILED, UNKNOWN, "could not be read" },
	};
	const struct workload *w = workload_find("swap-crypt");
	_Alignas(16) char opts[OPTS_MAX_SIZE];

	(void)state;
	dir = t_dir();
	opts_defaults(w->opts, opts);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct attestation a;
		struct facts f;
		uint64_t bad = 0;

		t_write(dir, "events.jsonl", cases[i].events);
		t_write(dir, "samples.jsonl", cases[i].samples);
		assert_int_equal(facts_read(&f, dir, NULL, &bad), 0);
		assert_int_equal(bad, 0);
		f.cpus = 2;
		attest(&f, w, opts, called(cases[i].name), cases[i].requested, &a);
		facts_free(&f);
		if (a.state != cases[i].state || a.exercised != cases[i].exercised ||
		    !strstr(a.evidence, cases[i].evidence))
			fail_msg("case %zu: state %d exercised %d: %s", i, a.state, a.exercised, a.evidence);
	}
	t_remove(dir);
}

static void keys_and_sectors_must_fit_the_cipher(void **state)
{
	static const struct {
		const char *cipher, *key_bits, *sector_size, *wrong; /* NULL: it fits */
	} cases[] = {
		{ "aes-xts-plain64", "256", "512", NULL },
		{ "aes-xts-plain64", "512", "4096", NULL },
		{ "aes-xts-plain64", "384", "512", "256 or 512" },
		{ "aes-xts-plain64", "128", "512", "256 or 512" },
		{ "aes-cbc-plain64", "128", "512", NULL },
		{ "aes-cbc-plain64", "192", "512", NULL },
		{ "aes-cbc-plain64", "512", "512", "128, 192 or 256" },
		{ "serpent-xts-plain64", "512", "1024", NULL },
		{ "twofish-xts-plain64", "256", "1000", "power of two" },
	};
	const struct workload *w = workload_find("swap-crypt");
	_Alignas(16) char opts[OPTS_MAX_SIZE];
	char err[256];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		*err = '\0';
		opts_defaults(w->opts, opts);
		assert_int_equal(opts_set(w->opts, opts, "cipher", cases[i].cipher, err, sizeof(err)), 0);
		assert_int_equal(opts_set(w->opts, opts, "key_bits", cases[i].key_bits, err, sizeof(err)), 0);
		assert_int_equal(opts_set(w->opts, opts, "sector_size", cases[i].sector_size, err, sizeof(err)), 0);
		assert_int_equal(w->check(opts, err, sizeof(err)), cases[i].wrong ? -EINVAL : 0);
		if (cases[i].wrong && !strstr(err, cases[i].wrong))
			fail_msg("case %zu: %s", i, err);
	}
}

static void the_swap_device_is_sized_by_the_memory(void **state)
{
	const struct workload *w = workload_find("swap-crypt");
	_Alignas(16) char opts[OPTS_MAX_SIZE];

	(void)state;
	opts_defaults(w->opts, opts);
	assert_int_equal(w->scratch_sectors(opts, 1024), 2048 * 2048);
	assert_int_equal(w->scratch_sectors(opts, 192), 384 * 2048);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_swap_is_seen_and_named),
		cmocka_unit_test(a_device_is_known_by_what_it_is_not_by_its_name),
		cmocka_unit_test(a_list_that_is_cut_off_or_strange_is_survived),
		cmocka_unit_test(swapping_off_what_is_not_in_use_does_nothing),
		cmocka_unit_test(a_pattern_is_known_from_every_other),
		cmocka_unit_test(a_value_has_a_part_for_each_knob),
		cmocka_unit_test(a_kernel_has_a_knob_from_its_version_on),
		cmocka_unit_test(mitigations_are_attested_from_the_record),
		cmocka_unit_test(keys_and_sectors_must_fit_the_cipher),
		cmocka_unit_test(the_swap_device_is_sized_by_the_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
