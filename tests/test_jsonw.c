// SPDX-License-Identifier: MIT
#include "base/jsonw.h"
#include "t.h"

#include <jansson.h>

static void nests_and_separates(void **state)
{
	char buf[256];
	struct jsonw j;

	(void)state;
	jsonw_init(&j, buf, sizeof(buf));
	jsonw_object(&j, NULL);
	jsonw_u64(&j, "a", 0);
	jsonw_array(&j, "b");
	jsonw_i64(&j, NULL, -5);
	jsonw_bool(&j, NULL, true);
	jsonw_null(&j, NULL);
	jsonw_array_end(&j);
	jsonw_object(&j, "c");
	jsonw_object_end(&j);
	jsonw_str(&j, "d", NULL);
	jsonw_object_end(&j);
	assert_int_equal(jsonw_line(&j), strlen("{\"a\":0,\"b\":[-5,true,null],\"c\":{},\"d\":null}\n"));
	assert_memory_equal(buf, "{\"a\":0,\"b\":[-5,true,null],\"c\":{},\"d\":null}\n", j.len);
}

static void writes_numbers_to_their_limits(void **state)
{
	char buf[256];
	struct jsonw j;

	(void)state;
	jsonw_init(&j, buf, sizeof(buf));
	jsonw_array(&j, NULL);
	jsonw_u64(&j, NULL, UINT64_MAX);
	jsonw_i64(&j, NULL, INT64_MIN);
	jsonw_fixed(&j, NULL, 1205, 3);
	jsonw_fixed(&j, NULL, -7, 2);
	jsonw_seconds(&j, NULL, -1500000000);
	jsonw_array_end(&j);
	buf[j.len] = '\0';
	assert_string_equal(buf, "[18446744073709551615,-9223372036854775808,1.205,-0.07,-1.500000]");
}

/* Whatever bytes go in, what comes out is JSON that another parser reads. */
static void any_bytes_become_valid_json(void **state)
{
	char buf[4096], bytes[300];

	(void)state;
	srand(7);
	for (int round = 0; round < 2000; round++) {
		size_t len = (size_t)rand() % sizeof(bytes);
		struct jsonw j;
		json_t *parsed;

		for (size_t i = 0; i < len; i++)
			bytes[i] = (char)(rand() % 256);
		jsonw_init(&j, buf, sizeof(buf));
		jsonw_object(&j, NULL);
		jsonw_strn(&j, "s", bytes, len);
		jsonw_object_end(&j);
		assert_false(j.overflow);
		parsed = json_loadb(buf, j.len, JSON_ALLOW_NUL, NULL);
		assert_non_null(parsed);
		json_decref(parsed);
	}
}

static void keeps_utf8_and_replaces_what_is_not(void **state)
{
	char buf[128];
	struct jsonw j;

	(void)state;
	jsonw_init(&j, buf, sizeof(buf));
	jsonw_str(&j, NULL, "\xc3\xa4 \xf0\x9f\x90\xa7 \xff \xed\xa0\x80 \"\\\n\x01");
	buf[j.len] = '\0';
	assert_string_equal(buf, "\"\xc3\xa4 \xf0\x9f\x90\xa7 \\ufffd \\ufffd\\ufffd\\ufffd \\\"\\\\\\n\\u0001\"");
}

static void refuses_a_line_that_does_not_fit(void **state)
{
	char buf[16];
	struct jsonw j;

	(void)state;
	jsonw_init(&j, buf, sizeof(buf));
	jsonw_str(&j, NULL, "longer than sixteen bytes");
	assert_true(j.overflow);
	assert_int_equal(jsonw_line(&j), 0);
	assert_true(j.len <= sizeof(buf));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nests_and_separates),
		cmocka_unit_test(writes_numbers_to_their_limits),
		cmocka_unit_test(any_bytes_become_valid_json),
		cmocka_unit_test(keeps_utf8_and_replaces_what_is_not),
		cmocka_unit_test(refuses_a_line_that_does_not_fit),
	};

	return cmocka_run_group_tests_name("jsonw", tests, NULL, NULL);
}
