// SPDX-License-Identifier: MIT
/* What the slab figures mean, from a tree of files as the kernel has them. */
#include "record/blackbox.h"
#include "record/slab.h"
#include "t.h"

#include <errno.h>
#include <jansson.h>
#include <sys/stat.h>

#define SIZE (4U << 20)

static const char slabinfo[] =
	"slabinfo - version: 2.1\n"
	"# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> "
	"<batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>\n"
	"kcopyd_job           100    120   3240   10    8 : tunables    0    0    0 : slabdata     12     12      0\n"
	"kmalloc-64          2048   2048     64   64    1 : tunables    0    0    0 : slabdata     32     32      0\n"
	"no_directory           1      1     64   64    1 : tunables    0    0    0 : slabdata      1      1      0\n";

static char *dir;
static struct bb box;
static char paths[2][PATH_MAX];

static struct slab_files files(bool partial_in_slabs)
{
	return (struct slab_files){
		.slabinfo = paths[0], .caches = paths[1], .cpus = 2, .nodes = 1, .partial_in_slabs = partial_in_slabs
	};
}

static void cache(const char *name, const char *attribute, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", paths[1], name);
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "slab/%s/%s", name, attribute);
	t_write(dir, path, value);
}

static void link_to(const char *name, const char *target)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/%s", paths[1], name);
	assert_int_equal(symlink(target, path), 0);
}

static int make(void **state)
{
	static void *memory;

	(void)state;
	free(memory);
	memory = calloc(1, SIZE);
	bb_format(&box, memory, SIZE);
	dir = t_dir();
	t_write(dir, "slabinfo", slabinfo);
	snprintf(paths[0], sizeof(paths[0]), "%s/slabinfo", dir);
	snprintf(paths[1], sizeof(paths[1]), "%s/slab", dir);
	mkdir(paths[1], 0755);
	cache("kcopyd_job", "objs_per_slab", "10\n");
	cache("kcopyd_job", "cpu_partial", "24\n");
	cache("kcopyd_job", "shrink", "");
	cache(":0000064", "objs_per_slab", "64\n");
	cache(":0000064", "shrink", "");
	link_to("kmalloc-64", ":0000064");
	link_to("one_of_them", ":0000064");
	link_to("another", ":0000064");
	return 0;
}

static int drop(void **state)
{
	(void)state;
	t_remove(dir);
	return 0;
}

static json_t *event(void)
{
	struct bb_cursor c = bb_read(&box, BB_EVENTS);
	struct bb_record r;
	json_t *e;

	assert_true(bb_next(&c, &r));
	e = json_loadb(r.data, r.len, 0, NULL);
	assert_non_null(e);
	assert_false(bb_next(&c, &r));
	return e;
}

static json_int_t of(json_t *e, const char *name, const char *field)
{
	return json_integer_value(json_object_get(json_object_get(json_object_get(e, "caches"), name), field));
}

/* CPUs x (the slab in use + partial slabs) x objects a slab; slabs of 24 objects at half full: 2 x 24 / 10. */
static void the_slack_is_what_cpus_may_keep(void **state)
{
	struct slab_files f = files(true);
	json_t *e;

	(void)state;
	assert_int_equal(slab_describe(&box, &f), 0);
	e = event();
	assert_string_equal(json_string_value(json_object_get(e, "kind")), "slab-caches");
	assert_int_equal(of(e, "kcopyd_job", "per_slab"), 10);
	assert_int_equal(of(e, "kcopyd_job", "slack"), 2 * (1 + 5) * 10);
	assert_int_equal(of(e, "kmalloc-64", "slack"), 2 * 1 * 64); /* no partial slabs */
	json_decref(e);
}

static void before_5_16_each_partial_slab_may_be_almost_empty(void **state)
{
	struct slab_files f = files(false);
	json_t *e;

	(void)state;
	assert_int_equal(slab_describe(&box, &f), 0);
	e = event();
	assert_int_equal(of(e, "kcopyd_job", "slack"), 2 * (1 + 24 + 1) * 10);
	json_decref(e);
}

static void sheaves_hold_objects_too(void **state)
{
	struct slab_files f = files(true);
	json_t *e;

	(void)state;
	cache(":0000064", "sheaf_capacity", "60\n");
	assert_int_equal(slab_describe(&box, &f), 0);
	e = event();
	assert_int_equal(of(e, "kmalloc-64", "slack"), 2 * 64 + (3 * 2 + 10) * 60);
	json_decref(e);
}

static void merged_caches_name_each_other(void **state)
{
	struct slab_files f = files(true);
	json_t *e, *merged;

	(void)state;
	assert_int_equal(slab_describe(&box, &f), 0);
	e = event();
	merged = json_object_get(json_object_get(json_object_get(e, "caches"), "kmalloc-64"), "merged");
	assert_int_equal(json_array_size(merged), 2);
	assert_null(json_object_get(json_object_get(json_object_get(e, "caches"), "kcopyd_job"), "merged"));
	json_decref(e);
}

/* What is not known is left out, not guessed. */
static void a_cache_without_attributes_is_not_described(void **state)
{
	struct slab_files f = files(true);
	json_t *e;

	(void)state;
	cache("kcopyd_job", "objs_per_slab", "many\n");
	assert_int_equal(slab_describe(&box, &f), 0);
	e = event();
	assert_null(json_object_get(json_object_get(e, "caches"), "no_directory"));
	assert_null(json_object_get(json_object_get(e, "caches"), "kcopyd_job"));
	json_decref(e);
	f.slabinfo = "/nonexistent";
	assert_int_equal(slab_describe(&box, &f), -ENOENT);
}

static void a_shrink_tells_before_and_after_and_shrinks_each_cache_once(void **state)
{
	struct slab_files f = files(true);
	json_t *e, *row;
	char *text;

	(void)state;
	assert_int_equal(slab_shrink(&box, &f), 0);
	e = event();
	assert_string_equal(json_string_value(json_object_get(e, "kind")), "slab-shrunk");
	assert_int_equal(json_integer_value(json_object_get(e, "not_shrunk")), 0);
	row = json_object_get(json_object_get(json_object_get(e, "after"), "slab"), "kcopyd_job");
	assert_int_equal(json_integer_value(json_array_get(row, 0)), 100);
	assert_int_equal(json_integer_value(json_array_get(row, 3)), 12 * 8 * 4);
	json_decref(e);
	text = t_read(dir, "slab/:0000064/shrink");
	assert_string_equal(text, "1");
	free(text);
}

static void a_cache_that_cannot_be_shrunk_is_counted(void **state)
{
	struct slab_files f = files(true);
	char path[PATH_MAX + 32];
	json_t *e;

	(void)state;
	cache("stubborn", "objs_per_slab", "1\n");
	snprintf(path, sizeof(path), "%s/stubborn/shrink", paths[1]);
	mkdir(path, 0755);
	cache("gone_meanwhile", "objs_per_slab", "1\n"); /* no such file: nothing to shrink */
	assert_int_equal(slab_shrink(&box, &f), 0);
	e = event();
	assert_int_equal(json_integer_value(json_object_get(e, "not_shrunk")), 1);
	json_decref(e);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_slack_is_what_cpus_may_keep),
		TEST(before_5_16_each_partial_slab_may_be_almost_empty),
		TEST(sheaves_hold_objects_too),
		TEST(merged_caches_name_each_other),
		TEST(a_cache_without_attributes_is_not_described),
		TEST(a_shrink_tells_before_and_after_and_shrinks_each_cache_once),
		TEST(a_cache_that_cannot_be_shrunk_is_counted),
	};

	return cmocka_run_group_tests_name("slab", tests, NULL, NULL);
}
