// SPDX-License-Identifier: MIT
#include "record/blackbox.h"
#include "t.h"

#include <errno.h>
#include <pthread.h>

#define SIZE (1U << 20)

static void *memory;

static int make(void **state)
{
	(void)state;
	memory = calloc(1, SIZE);
	return memory ? 0 : -1;
}

static int drop(void **state)
{
	(void)state;
	free(memory);
	return 0;
}

static struct bb fresh(void)
{
	struct bb box;

	memset(memory, 0, SIZE);
	bb_format(&box, memory, SIZE);
	return box;
}

static size_t count(const struct bb *box, uint64_t *torn)
{
	uint64_t pos = 0;
	enum bb_type type;
	const char *data;
	size_t len, n = 0;

	*torn = 0;
	while (bb_next(box, &pos, &type, &data, &len, torn))
		n++;
	return n;
}

static void what_goes_in_comes_out_in_order(void **state)
{
	struct bb box = fresh(), reader;
	uint64_t pos = 0, torn = 0;
	enum bb_type type;
	const char *data;
	size_t len;

	(void)state;
	assert_int_equal(bb_append(&box, BB_EVENT, "one", 3), 0);
	assert_int_equal(bb_append2(&box, BB_FILE, "name", 5, "content", 7), 0);
	assert_int_equal(bb_append(&box, BB_SAMPLE, "", 0), 0);
	assert_int_equal(bb_attach(&reader, memory, SIZE), 0);
	assert_true(bb_next(&reader, &pos, &type, &data, &len, &torn));
	assert_int_equal(type, BB_EVENT);
	assert_int_equal(len, 3);
	assert_memory_equal(data, "one", 3);
	assert_true(bb_next(&reader, &pos, &type, &data, &len, &torn));
	assert_int_equal(len, 12);
	assert_memory_equal(data, "name\0content", 12);
	assert_true(bb_next(&reader, &pos, &type, &data, &len, &torn));
	assert_int_equal(len, 0);
	assert_false(bb_next(&reader, &pos, &type, &data, &len, &torn));
	assert_int_equal(torn, 0);
}

static void a_full_box_keeps_room_for_events_and_counts_what_it_refuses(void **state)
{
	struct bb box = fresh();
	char detail[4096] = { 0 };
	uint64_t torn;
	size_t samples = 0, kmsg = 0, events = 0;

	(void)state;
	while (bb_append(&box, BB_SAMPLE, detail, sizeof(detail)) == 0)
		samples++;
	while (bb_append(&box, BB_KMSG, detail, sizeof(detail)) == 0)
		kmsg++;
	while (bb_append(&box, BB_EVENT, detail, sizeof(detail)) == 0)
		events++;
	assert_true(samples > 0 && kmsg > 0 && events > 0);
	assert_int_equal(atomic_load(&box.head->lost), 3);
	assert_int_equal(count(&box, &torn), samples + kmsg + events);
	assert_int_equal(bb_append(&box, BB_EVENT, "x", SIZE * 2), -ENOSPC);
	assert_int_equal(bb_append(&box, BB_EVENT, "x", SIZE_MAX / 2), -ENOSPC);
}

/* A writer that dies after it took its place, or in the middle of its record, costs that record and no other. */
static void a_torn_record_is_stepped_over(void **state)
{
	struct bb box = fresh();
	uint64_t torn, hole;

	(void)state;
	bb_append(&box, BB_EVENT, "before", 6);
	hole = atomic_load(&box.head->tail);
	bb_append(&box, BB_EVENT, "the middle one", 14);
	bb_append(&box, BB_EVENT, "after", 5);
	*(uint32_t *)((char *)memory + hole + 8) = 0; /* head written, not committed */
	assert_int_equal(count(&box, &torn), 2);
	assert_int_equal(torn, 1);
	memset((char *)memory + hole, 0, 16); /* not even the head */
	assert_int_equal(count(&box, &torn), 2);
	assert_int_equal(torn, 1);
}

static void foreign_and_scribbled_boxes_do_no_harm(void **state)
{
	struct bb box = fresh(), reader;
	uint64_t torn;

	(void)state;
	assert_int_equal(bb_attach(&reader, memory, 100), -EINVAL);
	box.head->version = 99;
	assert_int_equal(bb_attach(&reader, memory, SIZE), -EINVAL);
	box.head->version = BB_VERSION;
	box.head->size = 1ULL << 40; /* larger than what is mapped */
	assert_int_equal(bb_attach(&reader, memory, SIZE), -EINVAL);
	box.head->size = SIZE;
	box.head->spec_len = UINT32_MAX;
	assert_int_equal(bb_attach(&reader, memory, SIZE), -EINVAL);
	box.head->spec_len = 0;
	atomic_store(&box.head->tail, UINT64_MAX);
	assert_int_equal(bb_attach(&reader, memory, SIZE), 0);
	assert_int_equal(count(&reader, &torn), 0);

	/* Garbage that often looks like the beginning of a record. */
	srand(11);
	for (int round = 0; round < 4; round++) {
		for (size_t i = BB_LOG_OFFSET; i < SIZE; i++)
			((char *)memory)[i] = "CK\0\1\2\3\4\377"[rand() % 8];
		count(&reader, &torn);
	}
}

static struct bb shared;

static void *writer(void *arg)
{
	char text[64];

	for (int i = 0; i < 2000; i++) {
		int len = snprintf(text, sizeof(text), "%d:%d", *(int *)arg, i);

		assert_int_equal(bb_append(&shared, BB_EVENT, text, (size_t)len), 0);
	}
	return NULL;
}

static void several_writers_lose_nothing(void **state)
{
	int ids[4] = { 0, 1, 2, 3 }, next[4] = { 0 };
	uint64_t pos = 0, torn = 0;
	pthread_t threads[4];
	enum bb_type type;
	const char *data;
	size_t len, n = 0;

	(void)state;
	shared = fresh();
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writer, &ids[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	while (bb_next(&shared, &pos, &type, &data, &len, &torn)) {
		int who, i;
		char text[64];

		snprintf(text, sizeof(text), "%.*s", (int)len, data);
		assert_int_equal(sscanf(text, "%d:%d", &who, &i), 2);
		assert_int_equal(i, next[who]++); /* each writer's own order holds */
		n++;
	}
	assert_int_equal(n, 8000);
	assert_int_equal(torn, 0);
}

static void the_stage_only_grows(void **state)
{
	struct bb box = fresh();

	(void)state;
	bb_stage(&box, BB_RUN);
	bb_stage(&box, BB_BOOTED);
	assert_int_equal(atomic_load(&box.head->stage), BB_RUN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_goes_in_comes_out_in_order),
		cmocka_unit_test(a_full_box_keeps_room_for_events_and_counts_what_it_refuses),
		cmocka_unit_test(a_torn_record_is_stepped_over),
		cmocka_unit_test(foreign_and_scribbled_boxes_do_no_harm),
		cmocka_unit_test(several_writers_lose_nothing),
		cmocka_unit_test(the_stage_only_grows),
	};

	return cmocka_run_group_tests_name("blackbox", tests, make, drop);
}
