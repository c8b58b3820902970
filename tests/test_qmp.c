// SPDX-License-Identifier: MIT
/* The conversation with QEMU, over a socket pair, and the command line it is started with. */
#include "guest/qemu.h"
#include "guest/qmp.h"
#include "t.h"

#include <errno.h>
#include <sys/socket.h>

static struct qmp q;
static int peer;

static int make(void **state)
{
	int pair[2];

	(void)state;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	peer = pair[1];
	qmp_start(&q, pair[0]);
	return 0;
}

static int drop(void **state)
{
	(void)state;
	if (q.fd >= 0)
		close(q.fd);
	if (peer >= 0)
		close(peer);
	return 0;
}

static void say(const char *text)
{
	assert_int_equal(write(peer, text, strlen(text)), strlen(text));
}

static void hear(const char *expected)
{
	char buf[512];
	ssize_t n = recv(peer, buf, sizeof(buf) - 1, MSG_DONTWAIT);

	assert_true(n > 0);
	buf[n] = '\0';
	assert_string_equal(buf, expected);
}

static void expect_event(const char *name)
{
	json_t *message = qmp_next(&q);

	assert_non_null(message);
	assert_string_equal(json_string_value(json_object_get(message, "event")), name);
	json_decref(message);
}

static void expect_nothing(void)
{
	assert_null(qmp_next(&q));
}

static void the_first_word_ends_the_negotiation(void **state)
{
	(void)state;
	hear("{\"execute\":\"qmp_capabilities\"}\n");
	assert_int_equal(qmp_execute(&q, "quit"), 0);
	hear("{\"execute\":\"quit\"}\n");
	expect_nothing(); /* and does not block */
	assert_true(q.fd >= 0);
}

static void arguments_and_id_go_with_the_command(void **state)
{
	(void)state;
	hear("{\"execute\":\"qmp_capabilities\"}\n");
	assert_int_equal(qmp_execute_with(&q, "device_del", json_pack("{s:s}", "id", "a\"b"), 7), 0);
	hear("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"a\\\"b\"},\"id\":7}\n");
	assert_int_equal(qmp_execute_with(&q, "query-memory-devices", NULL, 8), 0);
	hear("{\"execute\":\"query-memory-devices\",\"id\":8}\n");
	close(peer);
	peer = -1;
	assert_int_equal(qmp_execute_with(&q, "device_del", json_pack("{s:s}", "id", "x"), 9), -EPIPE);
}

static void a_command_that_does_not_fit_is_not_sent_in_part(void **state)
{
	char name[1024];

	(void)state;
	hear("{\"execute\":\"qmp_capabilities\"}\n");
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(qmp_execute_with(&q, "device_del", json_pack("{s:s}", "id", name), 1), -EMSGSIZE);
	assert_int_equal(recv(peer, name, sizeof(name), MSG_DONTWAIT), -1);
}

static void a_message_may_come_in_pieces(void **state)
{
	static const char text[] = "{\"event\":\"GUEST_PANICKED\",\"data\":{\"action\":\"run\"}}\r\n";

	(void)state;
	for (size_t i = 0; i < sizeof(text) - 2; i++) {
		assert_int_equal(write(peer, text + i, 1), 1);
		expect_nothing();
	}
	say("\n");
	expect_event("GUEST_PANICKED");
	expect_nothing();
}

static void many_messages_may_come_at_once(void **state)
{
	(void)state;
	say("{\"event\":\"A\"}\n{\"event\":\"B\"}\n{\"event\":\"C\"}\n{\"eve");
	expect_event("A");
	expect_event("B");
	expect_event("C");
	expect_nothing();
	say("nt\":\"D\"}\n");
	expect_event("D");
	expect_nothing();
}

static void lines_that_are_no_json_are_dropped(void **state)
{
	static const char nul[] = "{\"event\":\"\0\"}\n{\"event\":\0}\n\0\n";

	(void)state;
	say("garbage\n\n{\n}\n{\"event\":\n{\"event\":\"A\"}\n");
	assert_int_equal(write(peer, nul, sizeof(nul) - 1), sizeof(nul) - 1);
	say("\xff\xfe{}\n{\"event\":\"B\"}\n");
	expect_event("A");
	expect_event("B");
	expect_nothing();
}

static void what_is_json_but_no_object_does_no_harm(void **state)
{
	json_t *message;

	(void)state;
	say("[1,2]\n{\"event\":7}\n{\"event\":\"A\"}\n");
	while ((message = qmp_next(&q))) {
		const char *event = json_string_value(json_object_get(message, "event"));

		assert_true(!event || strcmp(event, "A") == 0);
		json_decref(message);
		if (event)
			return;
	}
	fail_msg("the event behind them was lost");
}

static void a_line_longer_than_the_buffer_is_dropped_and_no_other(void **state)
{
	size_t len = sizeof(q.buf) * 2 + 100;
	char *line = malloc(len + 1);

	(void)state;
	memset(line, 'x', len);
	line[len] = '\0';
	say("{\"event\":\"A\"}\n");
	say(line);
	expect_event("A");
	expect_nothing();
	say("\n{\"event\":\"B\"}\n");
	expect_event("B");
	/* One that fills the buffer to its last byte, newline included, is a line like any other. */
	memset(line, ' ', sizeof(q.buf));
	memcpy(line, "{\"event\":\"C\"}", 13);
	line[sizeof(q.buf) - 1] = '\n';
	line[sizeof(q.buf)] = '\0';
	say(line);
	expect_event("C");
	expect_nothing();
	free(line);
}

static void the_end_of_the_connection_is_seen_after_the_last_message(void **state)
{
	(void)state;
	say("{\"event\":\"SHUTDOWN\"}\n{\"event\":\"cut off");
	close(peer);
	peer = -1;
	expect_event("SHUTDOWN");
	expect_nothing();
	assert_int_equal(q.fd, -1);
	assert_int_equal(qmp_execute(&q, "quit"), -ENOTCONN);
	expect_nothing();
}

static void a_command_to_a_peer_that_is_gone_is_an_error_and_no_signal(void **state)
{
	(void)state;
	close(peer);
	peer = -1;
	assert_int_equal(qmp_execute(&q, "quit"), -EPIPE);
}

/* --- The command line --- */

static const struct guest_config full = {
	.accel = "tcg",
	.cpus = 3,
	.memory_mib = 768,
	.kernel = "/k/vmlinuz",
	.initramfs = "/k/initrd",
	.image = "/i/image",
	.scratch = "/c/scratch",
	.box_path = "/c/box",
	.box_size = BB_MIN_SIZE,
	.console_log = "/c/console.log",
	.cmdline = "console=ttyS0 panic=-1",
};

/* The value that follows an option for the n-th time, or NULL. */
static const char *value_of(char **argv, const char *option, int n)
{
	for (; *argv; argv++)
		if (strcmp(*argv, option) == 0 && n-- == 0)
			return argv[1];
	return NULL;
}

static const char *value_with(char **argv, const char *option, const char *words)
{
	const char *value;

	for (int i = 0; (value = value_of(argv, option, i)); i++)
		if (strstr(value, words))
			return value;
	return NULL;
}

static bool has(char **argv, const char *word)
{
	for (; *argv; argv++)
		if (strcmp(*argv, word) == 0)
			return true;
	return false;
}

static void the_guest_has_all_it_needs_and_nothing_else(void **state)
{
	char **argv = guest_argv(&full, 5);
	char size[32];

	(void)state;
	assert_string_equal(argv[0], QEMU_BINARY);
	assert_true(has(argv, "-nodefaults") && has(argv, "-no-user-config") && has(argv, "-no-reboot"));
	assert_string_equal(value_of(argv, "-accel", 0), "tcg,thread=multi");
	assert_string_equal(value_of(argv, "-cpu", 0), "max");
	assert_string_equal(value_of(argv, "-smp", 0), "3");
	assert_string_equal(value_of(argv, "-m", 0), "768M");
	assert_string_equal(value_of(argv, "-kernel", 0), "/k/vmlinuz");
	assert_string_equal(value_of(argv, "-initrd", 0), "/k/initrd");
	assert_string_equal(value_of(argv, "-append", 0), "console=ttyS0 panic=-1");
	assert_string_equal(value_of(argv, "-display", 0), "none");
	assert_non_null(value_with(argv, "-device", "pvpanic"));
	assert_non_null(value_with(argv, "-chardev", "fd=5"));
	assert_non_null(value_with(argv, "-mon", "mode=control"));
	assert_non_null(value_with(argv, "-drive", "file=/i/image"));
	assert_non_null(strstr(value_with(argv, "-drive", "file=/i/image"), "readonly=on"));
	/* The guest's names for them, vda and vdb, follow from the order. */
	assert_non_null(strstr(value_of(argv, "-drive", 0), "/i/image"));
	assert_non_null(strstr(value_of(argv, "-drive", 1), "/c/scratch"));
	assert_null(strstr(value_of(argv, "-drive", 1), "readonly"));
	assert_non_null(value_with(argv, "-object", "share=on"));
	assert_non_null(value_with(argv, "-object", "mem-path=/c/box"));
	snprintf(size, sizeof(size), "size=%llu", (unsigned long long)BB_MIN_SIZE);
	assert_non_null(value_with(argv, "-object", size));
	assert_non_null(value_with(argv, "-device", "ivshmem-plain,memdev=box"));
	assert_null(value_of(argv, "-nic", 0));
	assert_null(value_of(argv, "-netdev", 0));
	guest_argv_free(argv);
}

static void dimms_stand_beside_the_memory(void **state)
{
	struct guest_config g = full;
	char **argv;

	(void)state;
	g.dimms = 2;
	g.dimm_mib = 256;
	argv = guest_argv(&g, 5);
	assert_string_equal(value_of(argv, "-m", 0), "768M,slots=2,maxmem=1280M");
	assert_string_equal(value_with(argv, "-object", "id=dimm1"), "memory-backend-ram,id=dimm1-memory,size=256M");
	assert_string_equal(value_with(argv, "-device", "id=dimm1"), "pc-dimm,id=dimm1,memdev=dimm1-memory");
	guest_argv_free(argv);
}

static void kvm_takes_the_hosts_processor(void **state)
{
	struct guest_config g = full;
	char **argv;

	(void)state;
	g.accel = "kvm";
	argv = guest_argv(&g, 5);
	assert_string_equal(value_of(argv, "-accel", 0), "kvm");
	assert_string_equal(value_of(argv, "-cpu", 0), "host");
	guest_argv_free(argv);
}

static void a_probe_has_no_disks_and_no_box(void **state)
{
	struct guest_config g = full;
	char **argv;

	(void)state;
	g.image = g.scratch = g.box_path = NULL;
	argv = guest_argv(&g, 5);
	assert_null(value_of(argv, "-drive", 0));
	assert_null(value_of(argv, "-object", 0));
	assert_null(value_with(argv, "-device", "ivshmem"));
	guest_argv_free(argv);
}

/* In lists of options a comma is written twice; -kernel, -initrd and -append are no lists. */
static void commas_in_paths_are_no_options(void **state)
{
	struct guest_config g = full;
	char **argv;

	(void)state;
	g.kernel = "/k,1/vmlinuz";
	g.initramfs = "/k,1/initrd";
	g.image = "/a,b/im,,age";
	g.scratch = "/a,b/scratch,if=none";
	g.box_path = "/a,b/box";
	g.cmdline = "a=1,2";
	argv = guest_argv(&g, 5);
	assert_string_equal(value_of(argv, "-kernel", 0), "/k,1/vmlinuz");
	assert_string_equal(value_of(argv, "-initrd", 0), "/k,1/initrd");
	assert_string_equal(value_of(argv, "-append", 0), "a=1,2");
	assert_non_null(value_with(argv, "-drive", "file=/a,,b/im,,,,age"));
	assert_non_null(value_with(argv, "-drive", "file=/a,,b/scratch,,if=none"));
	assert_non_null(value_with(argv, "-object", "mem-path=/a,,b/box,size="));
	guest_argv_free(argv);
}

/* -serial file:PATH takes the path as it is (qemu_chr_parse_compat() of chardev/char.c); -chardev is a list. */
static void the_console_goes_to_its_file_whatever_its_name(void **state)
{
	struct guest_config g = full;
	char **argv;
	const char *chardev, *serial;

	(void)state;
	g.console_log = "/a,b/console.log";
	argv = guest_argv(&g, 5);
	serial = value_of(argv, "-serial", 0);
	chardev = value_with(argv, "-chardev", "file,");
	assert_non_null(serial);
	if (strncmp(serial, "file:", 5) == 0)
		assert_string_equal(serial, "file:/a,b/console.log");
	else
		assert_true(chardev && strstr(chardev, "path=/a,,b/console.log"));
	guest_argv_free(argv);
}

static void the_longest_paths_fit(void **state)
{
	struct guest_config g = full;
	char path[PATH_MAX], **argv;

	(void)state;
	memset(path, ',', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	g.scratch = path;
	argv = guest_argv(&g, 5);
	assert_int_equal(strlen(strstr(value_of(argv, "-drive", 1), "file=") + 5), 2 * strlen(path));
	guest_argv_free(argv);
}

static void every_end_has_a_name(void **state)
{
	(void)state;
	for (int end = END_ITSELF; end <= END_SIGNAL; end++)
		for (int on_metal = 0; on_metal < 2; on_metal++)
			assert_non_null(end_name((enum end)end, on_metal));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_first_word_ends_the_negotiation),
		TEST(arguments_and_id_go_with_the_command),
		TEST(a_command_that_does_not_fit_is_not_sent_in_part),
		TEST(a_message_may_come_in_pieces),
		TEST(many_messages_may_come_at_once),
		TEST(lines_that_are_no_json_are_dropped),
		TEST(what_is_json_but_no_object_does_no_harm),
		TEST(a_line_longer_than_the_buffer_is_dropped_and_no_other),
		TEST(the_end_of_the_connection_is_seen_after_the_last_message),
		TEST(a_command_to_a_peer_that_is_gone_is_an_error_and_no_signal),
		cmocka_unit_test(the_guest_has_all_it_needs_and_nothing_else),
		cmocka_unit_test(dimms_stand_beside_the_memory),
		cmocka_unit_test(kvm_takes_the_hosts_processor),
		cmocka_unit_test(a_probe_has_no_disks_and_no_box),
		cmocka_unit_test(commas_in_paths_are_no_options),
		cmocka_unit_test(the_console_goes_to_its_file_whatever_its_name),
		cmocka_unit_test(the_longest_paths_fit),
		cmocka_unit_test(every_end_has_a_name),
	};

	return cmocka_run_group_tests_name("qmp", tests, NULL, NULL);
}
