// SPDX-License-Identifier: MIT
#include "record/blackbox.h"
#include "base/clock.h"
#include "t.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

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

static size_t count(const struct bb *box, enum bb_area area, uint64_t *torn)
{
	struct bb_cursor c = bb_read(box, area);
	struct bb_record r;
	size_t n = 0;

	while (bb_next(&c, &r))
		n++;
	*torn = c.torn;
	return n;
}

static size_t count_all(const struct bb *box)
{
	uint64_t torn;
	size_t n = 0;

	for (unsigned area = 0; area < BB_AREAS; area++)
		n += count(box, area, &torn);
	return n;
}

static void what_goes_in_comes_out_in_order(void **state)
{
	struct bb box = fresh(), reader;
	struct bb_cursor c;
	struct bb_record r;

	(void)state;
	assert_int_equal(bb_append(&box, BB_EVENT, "one", 3), 0);
	assert_int_equal(bb_append2(&box, BB_FILE, "name", 5, "content", 7), 0);
	assert_int_equal(bb_append(&box, BB_SAMPLE, "", 0), 0);
	assert_int_equal(bb_append(&box, BB_KMSG, "the kernel", 10), 0);
	assert_int_equal(bb_append(&box, BB_USER_KMSG, "a user", 6), 0);
	assert_int_equal(bb_attach(&reader, memory, SIZE), 0);

	c = bb_read(&reader, BB_EVENTS);
	assert_true(bb_next(&c, &r));
	assert_int_equal(r.type, BB_EVENT);
	assert_int_equal(r.len, 3);
	assert_memory_equal(r.data, "one", 3);
	assert_true(bb_next(&c, &r));
	assert_int_equal(r.type, BB_FILE);
	assert_int_equal(r.len, 12);
	assert_memory_equal(r.data, "name\0content", 12);
	assert_false(bb_next(&c, &r));
	assert_int_equal(c.torn, 0);
	c = bb_read(&reader, BB_SAMPLES);
	assert_true(bb_next(&c, &r));
	assert_int_equal(r.len, 0);
	assert_false(bb_next(&c, &r));
	c = bb_read(&reader, BB_KERNEL_LOG);
	assert_true(bb_next(&c, &r));
	assert_memory_equal(r.data, "the kernel", 10);
	c = bb_read(&reader, BB_USER_LOG);
	assert_true(bb_next(&c, &r));
	assert_memory_equal(r.data, "a user", 6);
	assert_false(bb_next(&c, &r));
}

static void a_full_area_takes_nothing_from_another(void **state)
{
	struct bb box = fresh();
	char detail[4096] = { 0 };
	size_t files = 0, events = 0;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(bb_append(&box, BB_SAMPLE, detail, sizeof(detail)), 0);
		assert_int_equal(bb_append(&box, BB_KMSG, detail, sizeof(detail)), 0);
		assert_int_equal(bb_append(&box, BB_USER_KMSG, detail, sizeof(detail)), 0);
	}
	while (bb_append(&box, BB_FILE, detail, sizeof(detail)) == 0)
		files++;
	while (bb_append(&box, BB_EVENT, detail, sizeof(detail)) == 0)
		events++;
	/* Percentages of blackbox.c, less what no whole record fits in. */
	assert_in_range(files * sizeof(detail), SIZE / 100 * 12, SIZE / 100 * 15);
	assert_in_range(events * sizeof(detail), SIZE / 100 * 3, SIZE / 100 * 6);
	assert_int_equal(atomic_load(&box.head->lost), 2);
	assert_int_equal(bb_append(&box, BB_EVENT, "x", SIZE * 2), -ENOSPC);
	assert_int_equal(bb_append(&box, BB_EVENT, "x", SIZE_MAX / 2), -ENOSPC);
	assert_int_equal(bb_append(&box, BB_SAMPLE, detail, SIZE / 4), -ENOSPC);
	assert_int_equal(atomic_load(&box.head->lost), 5);
}

static unsigned farewells, ends, last_farewell;

static void on_drop(const struct bb_record *record)
{
	if (!record) {
		ends++;
		return;
	}
	last_farewell = (unsigned)strtoul(record->data, NULL, 10);
	farewells++;
}

static void every_line_of_the_kernels_is_told_before_it_gives_way(void **state)
{
	struct bb box = fresh();
	struct bb_cursor c;
	struct bb_record r;
	char text[512] = { 0 };
	unsigned kept = 0, first = 0;

	(void)state;
	box.on_drop = on_drop;
	farewells = ends = 0;
	for (unsigned n = 0; n < 2000; n++) {
		snprintf(text, sizeof(text), "%u", n);
		assert_int_equal(bb_append(&box, BB_KMSG, text, sizeof(text)), 0);
	}
	assert_true(farewells > 0 && ends > 1);
	assert_int_equal(farewells, atomic_load(&box.head->dropped[BB_KERNEL_LOG]));
	c = bb_read(&box, BB_KERNEL_LOG);
	while (bb_next(&c, &r)) {
		unsigned n = (unsigned)strtoul(r.data, NULL, 10);

		if (n > last_farewell && !first)
			first = n;
		kept++;
	}
	assert_int_equal(first, last_farewell + 1);
	assert_int_equal(kept + farewells, 2000);
}

/* At every moment: the baseline, and the newest without a gap; what is missing in between is counted. */
static void a_ring_gives_up_the_oldest_behind_the_baseline(void **state)
{
	struct bb box = fresh();
	char text[1024] = { 0 };

	(void)state;
	for (unsigned n = 0; n < 4000; n++) {
		struct bb_cursor c = bb_read(&box, BB_SAMPLES);
		unsigned seen = 0, gaps = 0, next = 0;
		struct bb_record r;

		snprintf(text, sizeof(text), "%u", n);
		assert_int_equal(bb_append(&box, BB_SAMPLE, text, 600 + n % 400), 0);
		if (n % 61)
			continue;
		while (bb_next(&c, &r)) {
			unsigned number = (unsigned)strtoul(r.data, NULL, 10);

			gaps += number != next;
			assert_true(number >= next);
			next = number + 1;
			seen++;
		}
		assert_int_equal(next, n + 1);
		assert_int_equal(seen + atomic_load(&box.head->dropped[BB_SAMPLES]), n + 1);
		assert_int_equal(gaps, atomic_load(&box.head->dropped[BB_SAMPLES]) > 0);
		assert_int_equal(c.torn, 0);
	}
	assert_true(atomic_load(&box.head->dropped[BB_SAMPLES]) > 0);
	assert_int_equal(atomic_load(&box.head->lost), 0);
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
	assert_int_equal(count(&box, BB_EVENTS, &torn), 2);
	assert_int_equal(torn, 1);
	memset((char *)memory + hole, 0, 16); /* not even the head */
	assert_int_equal(count(&box, BB_EVENTS, &torn), 2);
	assert_int_equal(torn, 1);
}

static void foreign_and_scribbled_boxes_do_no_harm(void **state)
{
	struct bb box = fresh(), reader;

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
	for (unsigned area = 0; area < BB_AREAS; area++) {
		atomic_store(&box.head->turns[area], UINT64_MAX);
		for (int i = 0; i < BB_PARTS; i++) {
			atomic_store(&box.head->parts[area][i].used, UINT64_MAX);
			atomic_store(&box.head->parts[area][i].turn, (UINT64_C(1) << 48) - (uint64_t)i);
		}
	}
	assert_int_equal(bb_attach(&reader, memory, SIZE), 0);
	assert_int_equal(count_all(&reader), 0);

	/* Garbage that often looks like the beginning of a record. */
	srand(11);
	for (int round = 0; round < 4; round++) {
		for (size_t i = BB_LOG_OFFSET; i < SIZE; i++)
			((char *)memory)[i] = "CK\0\1\2\3\4\377"[rand() % 8];
		count_all(&reader);
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
	struct bb_cursor c;
	struct bb_record r;
	pthread_t threads[4];
	size_t n = 0;

	(void)state;
	shared = fresh();
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writer, &ids[i]), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	c = bb_read(&shared, BB_EVENTS);
	while (bb_next(&c, &r)) {
		int who, i;
		char text[64];

		snprintf(text, sizeof(text), "%.*s", (int)r.len, r.data);
		assert_int_equal(sscanf(text, "%d:%d", &who, &i), 2);
		assert_int_equal(i, next[who]++); /* each writer's own order holds */
		n++;
	}
	assert_int_equal(n, 8000);
	assert_int_equal(c.torn, 0);
}

static void the_stage_only_grows(void **state)
{
	struct bb box = fresh();

	(void)state;
	bb_stage(&box, BB_RUN);
	bb_stage(&box, BB_BOOTED);
	assert_int_equal(atomic_load(&box.head->stage), BB_RUN);
}

/* --- Asking the host --- */

#define SOON (clock_ns() + 50 * NS_PER_MS)
#define LATE (clock_ns() + 20 * NS_PER_S)

static void who_is_alone_asks_nobody(void **state)
{
	struct bb box = fresh();
	struct bb_answer answer;

	(void)state;
	assert_int_equal(bb_ask(&box, BB_WHERE, 0, LATE, &answer), -EOPNOTSUPP);
	bb_answers(&box, true);
	bb_answers(&box, false);
	assert_int_equal(bb_ask(&box, BB_WHERE, 0, LATE, &answer), -EOPNOTSUPP);
}

/* Answers so many questions, each with what was asked. */
static void *host(void *arg)
{
	int64_t deadline = LATE;

	for (int n = *(int *)arg; n > 0 && clock_ns() < deadline;) {
		struct bb_answer answer = { .err = -ENODEV, .words = "word" };
		uint32_t op, dimm;
		uint64_t number;

		if (!bb_question(&shared, &number, &op, &dimm))
			continue;
		answer.address = op;
		answer.bytes = dimm;
		bb_answer(&shared, number, &answer);
		n--;
	}
	return NULL;
}

static void *asker(void *arg)
{
	for (int i = 0; i < 20; i++) {
		struct bb_answer answer;
		uint32_t dimm = (uint32_t)(*(int *)arg * 100 + i);

		assert_int_equal(bb_ask(&shared, BB_PLUG, dimm, LATE, &answer), -ENODEV);
		assert_int_equal(answer.address, BB_PLUG);
		assert_int_equal(answer.bytes, dimm);
		assert_string_equal(answer.words, "word");
	}
	return NULL;
}

/* Processes, because that is what owns the slot. */
static void each_gets_the_answer_to_its_own_question(void **state)
{
	int n = 3 * 20, status = 0;
	pthread_t thread;
	pid_t pids[3];
	void *area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_ptr_not_equal(area, MAP_FAILED);
	bb_format(&shared, area, SIZE);
	bb_answers(&shared, true);
	for (int i = 0; i < 3; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			asker(&i);
			_exit(0);
		}
	}
	assert_int_equal(pthread_create(&thread, NULL, host, &n), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&shared.head->slot.asked), n);
	munmap(area, SIZE);
}

static void who_does_not_wait_leaves_the_slot_to_the_next(void **state)
{
	struct bb box = fresh();
	struct bb_answer answer = { 0 };
	uint32_t op, dimm;
	uint64_t number;

	(void)state;
	bb_answers(&box, true);
	assert_int_equal(bb_ask(&box, BB_WHERE, 7, SOON, &answer), -ETIMEDOUT);
	/* Still open: nothing may be put over it. */
	assert_int_equal(bb_ask(&box, BB_PLUG, 8, SOON, &answer), -EBUSY);
	assert_true(bb_question(&box, &number, &op, &dimm));
	assert_int_equal(op, BB_WHERE);
	assert_int_equal(dimm, 7);
	bb_answer(&box, number, &answer);
	assert_false(bb_question(&box, &number, &op, &dimm));
	assert_int_equal(bb_ask(&box, BB_PLUG, 8, SOON, &answer), -ETIMEDOUT); /* asked, at least */
	assert_true(bb_question(&box, &number, &op, &dimm));
	assert_int_equal(dimm, 8);
}

static void the_slot_of_a_dead_process_is_free(void **state)
{
	struct bb box = fresh();
	struct bb_answer answer;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	bb_answers(&box, true);
	atomic_store(&box.head->slot.owner, (uint32_t)getppid()); /* alive */
	assert_int_equal(bb_ask(&box, BB_WHERE, 0, SOON, &answer), -EBUSY);
	assert_int_equal(atomic_load(&box.head->slot.asked), 0);
	atomic_store(&box.head->slot.owner, (uint32_t)pid);
	assert_int_equal(bb_ask(&box, BB_WHERE, 0, SOON, &answer), -ETIMEDOUT);
	assert_int_equal(atomic_load(&box.head->slot.asked), 1);
	assert_int_equal(atomic_load(&box.head->slot.owner), 0);
}

/* A guest whose only recorder is who asks must not be taken for dead. */
static void waiting_beats(void **state)
{
	struct bb box = fresh();
	struct bb_answer answer;
	uint32_t beat = atomic_load(&box.head->beat);

	(void)state;
	bb_answers(&box, true);
	assert_int_equal(bb_ask(&box, BB_WHERE, 0, SOON, &answer), -ETIMEDOUT);
	assert_true(atomic_load(&box.head->beat) > beat);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_goes_in_comes_out_in_order),
		cmocka_unit_test(a_full_area_takes_nothing_from_another),
		cmocka_unit_test(every_line_of_the_kernels_is_told_before_it_gives_way),
		cmocka_unit_test(a_ring_gives_up_the_oldest_behind_the_baseline),
		cmocka_unit_test(a_torn_record_is_stepped_over),
		cmocka_unit_test(foreign_and_scribbled_boxes_do_no_harm),
		cmocka_unit_test(several_writers_lose_nothing),
		cmocka_unit_test(the_stage_only_grows),
		cmocka_unit_test(who_is_alone_asks_nobody),
		cmocka_unit_test(each_gets_the_answer_to_its_own_question),
		cmocka_unit_test(who_does_not_wait_leaves_the_slot_to_the_next),
		cmocka_unit_test(the_slot_of_a_dead_process_is_free),
		cmocka_unit_test(waiting_beats),
	};

	return cmocka_run_group_tests_name("blackbox", tests, make, drop);
}
