// SPDX-License-Identifier: MIT
/* DIMMs taken out and put in, against a QEMU whose every word is in the test. */
#include "guest/dimm.h"
#include "base/clock.h"
#include "t.h"

#include <errno.h>
#include <sys/socket.h>

#define BOX_SIZE (2 * BB_LOG_OFFSET)
#define MIB	 256
#define RETURNED "{\"return\":{},\"id\":%d}\n"

static struct qmp q;
static struct bb box;
static struct dimms d;
static struct bb_slot *slot;
static void *memory;
static int peer;
static int64_t now; /* of the state machine; no test waits */

static void hear(const char *expected)
{
	char buf[1024];
	ssize_t n = recv(peer, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	buf[n > 0 ? n : 0] = '\0';
	assert_string_equal(buf, expected);
}

static int make(void **state)
{
	int pair[2];

	(void)state;
	memory = calloc(1, BOX_SIZE);
	if (!memory || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	bb_format(&box, memory, BOX_SIZE);
	slot = &box.head->slot;
	peer = pair[1];
	now = 1000 * NS_PER_S;
	qmp_start(&q, pair[0]);
	hear("{\"execute\":\"qmp_capabilities\"}\n");
	dimm_start(&d, &q, &box, 2, MIB);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	if (q.fd >= 0)
		close(q.fd);
	if (peer >= 0)
		close(peer);
	free(memory);
	return 0;
}

/* One turn of the loop of guest_run(). */
static void turn(void)
{
	json_t *message;

	while ((message = qmp_next(&q))) {
		dimm_hear(&d, message);
		json_decref(message);
	}
	dimm_look(&d, now);
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	assert_int_equal(write(peer, text, strlen(text)), strlen(text));
	turn();
}

static void ask(uint32_t op, uint32_t dimm)
{
	slot->op = op;
	slot->dimm = dimm;
	atomic_fetch_add(&slot->asked, 1);
	turn();
}

static bool answered(void)
{
	return atomic_load(&slot->answered) == atomic_load(&slot->asked);
}

static void expect_answer(int err, const char *words)
{
	assert_true(answered());
	assert_int_equal(slot->answer.err, err);
	assert_string_equal(slot->answer.words, words);
}

/* What QEMU says at the end of all that went well. */
static void count(int id, uint64_t bytes)
{
	char line[128];

	assert_false(answered());
	snprintf(line, sizeof(line), "{\"execute\":\"query-memory-size-summary\",\"id\":%d}\n", id);
	hear(line);
	say("{\"return\":{\"base-memory\":536870912,\"plugged-memory\":%llu},\"id\":%d}\n", (unsigned long long)bytes,
	    id);
	expect_answer(0, "");
	assert_int_equal(slot->answer.plugged_bytes, bytes);
}

static void say_deleted(const char *dimm)
{
	say("{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"%s\",\"path\":\"/machine/peripheral/%s\"}}\n", dimm,
	    dimm);
}

static void a_dimm_goes_and_its_memory_with_it(void **state)
{
	(void)state;
	assert_int_equal(atomic_load(&slot->answers), 1);
	ask(BB_UNPLUG, 1);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm1\"},\"id\":1}\n");
	say(RETURNED, 1);
	hear("");
	say("{\"event\":\"DEVICE_DELETED\",\"data\":{\"path\":\"/machine/peripheral/dimm1/part\"}}\n");
	say_deleted("dimm0-something");
	hear(""); /* those are others */
	say_deleted("dimm1");
	hear("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"dimm1-memory\"},\"id\":2}\n");
	say(RETURNED, 2);
	count(3, 256 << 20);
	turn();
	hear("");
}

/* QEMU may be quicker with the event than with the answer. */
static void the_event_may_come_first(void **state)
{
	(void)state;
	ask(BB_UNPLUG, 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":1}\n");
	say_deleted("dimm0");
	hear("");
	say(RETURNED, 1);
	hear("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"dimm0-memory\"},\"id\":2}\n");
	say(RETURNED, 2);
	count(3, 0);
}

static void a_dimm_comes_and_is_found(void **state)
{
	(void)state;
	ask(BB_PLUG, 0);
	hear("{\"execute\":\"object-add\",\"arguments\":{\"qom-type\":\"memory-backend-ram\",\"id\":\"dimm0-memory\","
	     "\"size\":268435456},\"id\":1}\n");
	say(RETURNED, 1);
	hear("{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"pc-dimm\",\"id\":\"dimm0\",\"memdev\":"
	     "\"dimm0-memory\"},\"id\":2}\n");
	say(RETURNED, 2);
	hear("{\"execute\":\"query-memory-devices\",\"id\":3}\n");
	say("{\"return\":[{\"type\":\"dimm\",\"data\":{\"id\":\"dimm1\",\"addr\":1,\"size\":2}},7,{\"type\":\"dimm\","
	    "\"data\":{\"id\":\"dimm0\",\"addr\":4294967296,\"size\":268435456}}],\"id\":3}\n");
	count(4, 512 << 20);
	assert_int_equal(slot->answer.address, 1ULL << 32);
	assert_int_equal(slot->answer.bytes, 256 << 20);
}

static void a_dimm_that_came_back_can_go_again(void **state)
{
	char line[128];
	int id = 0;

	(void)state;
	ask(BB_UNPLUG, 0);
	say(RETURNED, ++id);
	say_deleted("dimm0");
	say(RETURNED, ++id);
	say("{\"return\":{\"plugged-memory\":0},\"id\":%d}\n", ++id);
	expect_answer(0, "");
	ask(BB_PLUG, 0);
	say(RETURNED, ++id);
	say(RETURNED, ++id);
	say("{\"return\":[{\"data\":{\"id\":\"dimm0\",\"addr\":8,\"size\":4}}],\"id\":%d}\n", ++id);
	say("{\"return\":{\"plugged-memory\":4},\"id\":%d}\n", ++id);
	expect_answer(0, "");
	recv(peer, (char[2048]){ 0 }, 2048, MSG_DONTWAIT);
	ask(BB_UNPLUG, 0);
	snprintf(line, sizeof(line), "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":%d}\n", ++id);
	hear(line);
}

static void a_dimm_that_is_not_there_is_said_not_to_be(void **state)
{
	(void)state;
	ask(BB_WHERE, 0);
	hear("{\"execute\":\"query-memory-devices\",\"id\":1}\n");
	say("{\"return\":[],\"id\":1}\n");
	expect_answer(-ENODEV, "dimm0 is not plugged in");
	hear("");
	/* What QEMU should not say. */
	ask(BB_WHERE, 0);
	hear("{\"execute\":\"query-memory-devices\",\"id\":2}\n");
	say("{\"return\":[{\"data\":{\"id\":\"dimm0\",\"addr\":-5,\"size\":\"x\"}}],\"id\":2}\n");
	hear("{\"execute\":\"query-memory-size-summary\",\"id\":3}\n");
	say("{\"return\":[],\"id\":3}\n");
	expect_answer(-EPROTO, "QEMU does not count plugged-memory");
}

static void what_qemu_refuses_is_said_in_its_words(void **state)
{
	(void)state;
	ask(BB_UNPLUG, 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":1}\n");
	say("{\"id\":1,\"error\":{\"class\":\"DeviceNotFound\",\"desc\":\"Device 'dimm0' not found\"}}\n");
	expect_answer(-ENODEV, "Device 'dimm0' not found");
	ask(BB_UNPLUG, 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":2}\n");
	say("{\"id\":2,\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}\n");
	expect_answer(-EIO, "no");
	hear("");
}

/* Memory without a DIMM stands in the way of the next attempt. */
static void a_dimm_that_cannot_come_leaves_no_memory(void **state)
{
	(void)state;
	ask(BB_PLUG, 1);
	recv(peer, (char[512]){ 0 }, 512, MSG_DONTWAIT);
	say(RETURNED, 1);
	recv(peer, (char[512]){ 0 }, 512, MSG_DONTWAIT);
	say("{\"id\":2,\"error\":{\"class\":\"GenericError\",\"desc\":\"no slot\"}}\n");
	expect_answer(-EIO, "no slot");
	hear("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"dimm1-memory\"},\"id\":3}\n");
	say(RETURNED, 3);
	hear("");
}

static void a_guest_that_keeps_it_is_told_by_an_event(void **state)
{
	static const char *const events[] = {
		"{\"event\":\"MEM_UNPLUG_ERROR\",\"data\":{\"device\":\"dimm0\",\"msg\":\"pages in use\"}}\n",
		"{\"event\":\"DEVICE_UNPLUG_GUEST_ERROR\",\"data\":{\"device\":\"dimm0\",\"path\":\"/machine/x\"}}\n",
		"{\"event\":\"ACPI_DEVICE_OST\",\"data\":{\"info\":{\"device\":\"dimm0\",\"source\":3,\"status\":130,"
		"\"slot\":\"0\",\"slot-type\":\"DIMM\"}}}\n",
	};
	static const char *const words[] = { "pages in use", "the guest keeps it",
					     "the guest keeps it: _OST status 0x82" };
	char line[128];

	(void)state;
	for (int i = 0; i < 3; i++) {
		ask(BB_UNPLUG, 0);
		snprintf(line, sizeof(line),
			 "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":%d}\n", i + 1);
		hear(line);
		say(RETURNED, i + 1);
		say("%s", events[i]);
		expect_answer(-EBUSY, words[i]);
		say("%s", events[i]); /* nobody asks any more */
		hear("");
	}
}

static void what_others_keep_is_no_refusal(void **state)
{
	(void)state;
	ask(BB_UNPLUG, 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":1}\n");
	say(RETURNED, 1);
	say("{\"event\":\"MEM_UNPLUG_ERROR\",\"data\":{\"device\":\"dimm1\",\"msg\":\"pages in use\"}}\n");
	say("{\"event\":\"MEM_UNPLUG_ERROR\",\"data\":{}}\n{\"event\":\"MEM_UNPLUG_ERROR\"}\n");
	say("{\"event\":\"ACPI_DEVICE_OST\",\"data\":{\"info\":{\"device\":\"dimm1\",\"source\":3,\"status\":130}}}\n");
	/* It went well; it goes on (ejection in progress); it came in. */
	say("{\"event\":\"ACPI_DEVICE_OST\",\"data\":{\"info\":{\"device\":\"dimm0\",\"source\":3,\"status\":0}}}\n");
	say("{\"event\":\"ACPI_DEVICE_OST\",\"data\":{\"info\":{\"device\":\"dimm0\",\"source\":3,\"status\":132}}}\n");
	say("{\"event\":\"ACPI_DEVICE_OST\",\"data\":{\"info\":{\"device\":\"dimm0\",\"source\":1,\"status\":1}}}\n");
	assert_false(answered());
	hear("");
}

/* An unplug that is given up, and then happens after all. */
static void a_late_end_deletes_the_memory_and_answers_nobody(void **state)
{
	(void)state;
	ask(BB_UNPLUG, 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":1}\n");
	say(RETURNED, 1);
	now += DIMM_UNPLUG_MS * NS_PER_MS - 1;
	turn();
	assert_false(answered());
	now++;
	turn();
	expect_answer(-ETIMEDOUT, "the guest does not let it go");
	ask(BB_UNPLUG, 1);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm1\"},\"id\":2}\n");
	say_deleted("dimm0");
	hear("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"dimm0-memory\"},\"id\":3}\n");
	say("{\"id\":3,\"error\":{\"class\":\"GenericError\",\"desc\":\"not what was asked for\"}}\n");
	assert_false(answered());
	say(RETURNED, 2);
	say_deleted("dimm1");
	hear("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"dimm1-memory\"},\"id\":4}\n");
	say(RETURNED, 4);
	count(5, 0);
	/* It is out: that is all that was wanted. */
	ask(BB_UNPLUG, 0);
	count(6, 0);
}

static void one_that_went_late_need_not_go_again(void **state)
{
	(void)state;
	ask(BB_UNPLUG, 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":1}\n");
	say(RETURNED, 1);
	now += DIMM_UNPLUG_MS * NS_PER_MS;
	turn();
	expect_answer(-ETIMEDOUT, "the guest does not let it go");
	ask(BB_UNPLUG, 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"dimm0\"},\"id\":2}\n");
	say_deleted("dimm0"); /* of the first question, before QEMU read the second */
	say("{\"id\":2,\"error\":{\"class\":\"DeviceNotFound\",\"desc\":\"Device 'dimm0' not found\"}}\n");
	hear("{\"execute\":\"object-del\",\"arguments\":{\"id\":\"dimm0-memory\"},\"id\":3}\n");
	say(RETURNED, 3);
	count(4, 0);
}

static void answers_to_earlier_commands_are_none_to_this(void **state)
{
	(void)state;
	ask(BB_WHERE, 0);
	hear("{\"execute\":\"query-memory-devices\",\"id\":1}\n");
	now += DIMM_COMMAND_MS * NS_PER_MS;
	turn();
	expect_answer(-ETIMEDOUT, "QEMU does not answer");
	ask(BB_WHERE, 1);
	hear("{\"execute\":\"query-memory-devices\",\"id\":2}\n");
	say("{\"return\":[],\"id\":1}\n");
	say("{\"return\":[]}\n{\"return\":[],\"id\":\"2\"}\n{\"return\":[],\"id\":null}\n");
	assert_false(answered());
	say("{\"return\":[{\"data\":{\"id\":\"dimm1\",\"addr\":8,\"size\":4}}],\"id\":2}\n");
	count(3, 4);
	assert_int_equal(slot->answer.address, 8);
}

static void a_question_that_makes_no_sense_is_answered(void **state)
{
	(void)state;
	ask(BB_UNPLUG, 2);
	expect_answer(-EINVAL, "question 2 about DIMM 2 of 2");
	ask(BB_UNPLUG, UINT32_MAX);
	expect_answer(-EINVAL, "question 2 about DIMM 4294967295 of 2");
	ask(0, 0);
	expect_answer(-EINVAL, "question 0 about DIMM 0 of 2");
	ask(BB_PLUG + 1, 0);
	expect_answer(-EINVAL, "question 4 about DIMM 0 of 2");
	hear("");
	/* Numbers that were scribbled over are numbers, and the slot is only read between two questions. */
	atomic_store(&slot->asked, UINT64_MAX);
	ask(BB_WHERE, 0);
	assert_int_equal(atomic_load(&slot->asked), 0);
	atomic_store(&slot->asked, 77);
	slot->dimm = 1;
	slot->op = 99;
	turn();
	hear("{\"execute\":\"query-memory-devices\",\"id\":1}\n");
	say("{\"return\":[{\"data\":{\"id\":\"dimm0\",\"addr\":8,\"size\":4}}],\"id\":1}\n");
	say("{\"return\":{\"plugged-memory\":4},\"id\":2}\n");
	expect_answer(-EINVAL, "question 99 about DIMM 1 of 2"); /* the one that was put over it */
}

static void no_text_of_qemus_is_too_long(void **state)
{
	char words[600];

	(void)state;
	memset(words, 'w', sizeof(words) - 1);
	words[sizeof(words) - 1] = '\0';
	ask(BB_WHERE, 0);
	say("{\"id\":1,\"error\":{\"class\":\"GenericError\",\"desc\":\"%s\"}}\n", words);
	assert_true(answered());
	assert_int_equal(strlen(slot->answer.words), BB_WORDS - 1);
}

static void nobody_waits_for_a_qemu_that_is_gone(void **state)
{
	(void)state;
	ask(BB_UNPLUG, 0);
	close(peer);
	peer = -1;
	turn();
	expect_answer(-ENOTCONN, "QEMU has closed the connection");
	assert_int_equal(atomic_load(&slot->answers), 0);
}

static void a_qemu_that_is_gone_before_the_question_is_seen(void **state)
{
	(void)state;
	close(peer);
	peer = -1;
	slot->op = BB_WHERE;
	slot->dimm = 0;
	atomic_fetch_add(&slot->asked, 1);
	dimm_look(&d, now); /* its end was not read yet: the command fails */
	expect_answer(-EPIPE, "QEMU takes no commands");
	turn();
	assert_int_equal(atomic_load(&slot->answers), 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_dimm_goes_and_its_memory_with_it),
		TEST(the_event_may_come_first),
		TEST(a_dimm_comes_and_is_found),
		TEST(a_dimm_that_came_back_can_go_again),
		TEST(a_dimm_that_is_not_there_is_said_not_to_be),
		TEST(what_qemu_refuses_is_said_in_its_words),
		TEST(a_dimm_that_cannot_come_leaves_no_memory),
		TEST(a_guest_that_keeps_it_is_told_by_an_event),
		TEST(what_others_keep_is_no_refusal),
		TEST(a_late_end_deletes_the_memory_and_answers_nobody),
		TEST(one_that_went_late_need_not_go_again),
		TEST(answers_to_earlier_commands_are_none_to_this),
		TEST(a_question_that_makes_no_sense_is_answered),
		TEST(no_text_of_qemus_is_too_long),
		TEST(nobody_waits_for_a_qemu_that_is_gone),
		TEST(a_qemu_that_is_gone_before_the_question_is_seen),
	};

	return cmocka_run_group_tests_name("dimm", tests, NULL, NULL);
}
