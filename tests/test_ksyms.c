// SPDX-License-Identifier: MIT
/* Names of kernel functions from a file as /proc/kallsyms. */
#include "record/ksyms.h"
#include "t.h"

#include <errno.h>

static void names_of_functions(void **state)
{
	char *dir = t_dir(), path[PATH_MAX], name[64];
	struct ksyms *k;
	int err;

	(void)state;
	snprintf(path, sizeof(path), "%s/kallsyms", dir);
	t_write(dir, "kallsyms",
		"ffffffff81000200 T vmstat_update\nffffffff81000100 t __pfx_vmstat_update\n"
		"ffffffff81000200 t alias_of_it\nffffffff81000300 d not_code\nffffffff81000400 t part.0\n"
		"nonsense\n\nffffffff81000500 t\nffffffffc0000100 t do_work\t[dm_mod]\n"
		"ffffffffc0000200 t run_complete_job\t[dm_mod]\nffffffffc0000300 t do_work\t[dm_snapshot]\n");
	k = ksyms_load(path, &err);
	assert_non_null(k);
	assert_string_equal(ksyms_name(k, 0xffffffff81000200, name, sizeof(name)), "vmstat_update");
	assert_string_equal(ksyms_name(k, 0xffffffffc0000100, name, sizeof(name)), "do_work [dm_mod]");
	assert_string_equal(ksyms_name(k, 0xffffffffc0000200, name, sizeof(name)), "run_complete_job [dm_mod]");
	assert_string_equal(ksyms_name(k, 0xffffffffc0000300, name, sizeof(name)), "do_work [dm_snapshot]");
	assert_string_equal(ksyms_name(k, 0xffffffff81000300, name, sizeof(name)), "0xffffffff81000300");
	assert_string_equal(ksyms_name(k, 0xffffffff81000201, name, sizeof(name)), "0xffffffff81000201");
	assert_string_equal(ksyms_name(k, UINT64_MAX, name, sizeof(name)), "0xffffffffffffffff");
	assert_string_equal(ksyms_name(NULL, 16, name, sizeof(name)), "0x10");
	assert_true(ksyms_size(k) > 0 && ksyms_size(NULL) == 0);
	ksyms_free(k);
	t_write(dir, "kallsyms", "0000000000000000 T vmstat_update\n");
	assert_null(ksyms_load(path, &err));
	assert_int_equal(err, -EPERM);
	assert_null(ksyms_load("/nonexistent", &err));
	assert_int_equal(err, -ENOENT);
	t_remove(dir);
}

static void a_function_is_known_or_not(void **state)
{
	char *dir = t_dir(), path[PATH_MAX];

	(void)state;
	snprintf(path, sizeof(path), "%s/kallsyms", dir);
	t_write(dir, "kallsyms",
		"ffffffff81000100 T throttle_vm_writeout_late\n0000000000000000 T kswapd\nnonsense\nx\n\n"
		"ffffffffc0000100 t crypt_map\t[dm_crypt]\nffffffffc0000200 t crypt_dtr");
	assert_int_equal(ksyms_has(path, "throttle_vm_writeout"), 0);
	assert_int_equal(ksyms_has(path, "vm_writeout"), 0);
	assert_int_equal(ksyms_has(path, "kswapd"), 1);
	assert_int_equal(ksyms_has(path, "crypt_map"), 1);
	/* Its line was cut off, and perhaps its name. */
	assert_int_equal(ksyms_has(path, "crypt_dtr"), 1);
	t_write(dir, "kallsyms", "");
	assert_int_equal(ksyms_has(path, "kswapd"), -ENODATA);
	assert_int_equal(ksyms_has("/nonexistent", "kswapd"), -ENOENT);
	t_remove(dir);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_functions),
		cmocka_unit_test(a_function_is_known_or_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
