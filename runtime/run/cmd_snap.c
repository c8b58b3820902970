// SPDX-License-Identifier: MIT
/* `headroom snap`: snapshots of a server that runs. */
#include "base/clock.h"
#include "base/log.h"
#include "base/opts.h"
#include "commands.h"
#include "serve/ctl.h"
#include "serve/sockets.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)

static const char help[] =
	"usage: headroom snap --socket PATH [options] COMMAND\n"
	"\n"
	"Snapshots of what `headroom serve` serves, while it does. PATH is that server's UNIX socket, or its "
	"--control.\n"
	"\n"
	"  list                  the snapshots (what is done without a command)\n"
	"  status                the same, and the counters of the server and of its engine\n"
	"  create NAME           a snapshot of now; from then on it is an export of this name\n"
	"  delete NAME           it is lost, and its file removed\n"
	"  merge NAME            the origin becomes what this snapshot is, at once for all who read it, and the\n"
	"                        snapshot is gone when all is copied back; other snapshots stay what they are\n"
	"\n"
	"A snapshot that a client is connected to is neither deleted nor merged.\n"
	"\n"
	"  --transient           create: it is lost when the server ends, and needs no writes of metadata\n"
	"  --size MIB            create: of its store, which is allocated; when it is full the snapshot is lost\n"
	"                        (room for every chunk of the origin)\n"
	"  --json                the server's answer as it is, a line of JSON\n"
	"\n"
	"Exit status: 0 done, 1 the server says why not, 2 usage, 3 there is no server.\n";

struct request {
	const char *socket;
	bool transient, json;
	uint64_t size_mib;
	char line[CTL_LINE];
	bool status;
};

/* Until the server closes. Its length, or -errno. */
static ssize_t read_answer(int fd, char *to, size_t size)
{
	int64_t until = clock_ns() + (CTL_WORK_S + CTL_WAIT_S) * NS_PER_S;
	size_t n = 0;

	while (n < size - 1) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int64_t left_ms = (until - clock_ns()) / NS_PER_MS;
		ssize_t got;

		if (left_ms <= 0 || poll(&p, 1, (int)left_ms) == 0)
			return -ETIMEDOUT;
		got = read(fd, to + n, size - 1 - n);
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got == 0)
			break;
		n += got > 0 ? (size_t)got : 0;
	}
	to[n] = 0;
	return (ssize_t)n;
}

/* To the control that belongs to the socket, or that it is. */
static int connect_to(const char *path)
{
	char control[PATH_MAX + 8];
	int fd;

	snprintf(control, sizeof(control), "%s.ctl", path);
	fd = access(control, F_OK) == 0 ? socket_connect_unix(control) : socket_connect_unix(path);
	return fd;
}

static int ask(const struct request *r, char *answer, size_t size)
{
	int fd = connect_to(r->socket);
	ssize_t n = fd;

	if (fd >= 0) {
		n = send(fd, r->line, strlen(r->line), MSG_NOSIGNAL);
		n = n < 0 ? -errno : read_answer(fd, answer, size);
		close(fd);
	}
	if (n > 0)
		return 0;
	log_err("snap: %s: %s", r->socket,
		n == 0		     ? "the server has not answered: not its control, or not for this user"
		: n == -ENOENT	     ? "there is no such socket"
		: n == -ECONNREFUSED ? "no server listens there"
				     : strerror((int)-n));
	return EXIT_NEED;
}

static void print_group(json_t *answer, const char *group)
{
	json_t *counters = json_object_get(answer, group);

	for (void *i = json_object_iter(counters); i; i = json_object_iter_next(counters, i))
		printf("%s %-18s %" JSON_INTEGER_FORMAT "\n", group, json_object_iter_key(i),
		       json_integer_value(json_object_iter_value(i)));
}

static void print_snapshots(const json_t *answer)
{
	const json_t *list = json_object_get(answer, "snapshots");
	size_t i;
	json_t *e;

	if (!json_array_size(list))
		puts("no snapshots");
	json_array_foreach (list, i, e) {
		uint64_t used = (uint64_t)json_integer_value(json_object_get(e, "chunks_used"));
		uint64_t all = (uint64_t)json_integer_value(json_object_get(e, "chunks"));

		printf("%-20s %s%s%s, %" PRIu64 " of %" PRIu64 " chunks\n",
		       json_string_value(json_object_get(e, "name")),
		       json_is_true(json_object_get(e, "valid")) ? "valid" : "INVALID",
		       json_is_true(json_object_get(e, "persistent")) ? "" : ", transient",
		       json_is_true(json_object_get(e, "merging")) ? ", being merged" : "", used, all);
	}
}

static int print_answer(const struct request *r, const char *text)
{
	json_t *answer = json_loads(text, 0, NULL);
	const char *error = json_string_value(json_object_get(answer, "error"));
	int rc = 0;

	if (!answer) {
		log_err("snap: %s: the answer is not of a headroom server", r->socket);
		return EXIT_NEED;
	}
	if (error)
		rc = EXIT_EXPECTATION;
	if (r->json) {
		fputs(text, stdout);
	} else if (error) {
		log_err("snap: %s", error);
	} else {
		print_snapshots(answer);
		if (r->status) {
			print_group(answer, "server");
			print_group(answer, "engine");
		}
	}
	json_decref(answer);
	return rc;
}

/* --- Options --- */

/* The line for the server, which checks it; here only whether it is one. */
static int put_line(struct request *r, int argc, char **argv)
{
	const char *what = argc ? argv[0] : "list";
	bool named = strcmp(what, "create") == 0 || strcmp(what, "delete") == 0 || strcmp(what, "merge") == 0;
	char size[32] = "";
	int n;

	r->status = strcmp(what, "status") == 0;
	if (!named && !r->status && strcmp(what, "list") != 0) {
		log_err("snap: unknown command '%s': must be list, status, create, delete or merge", what);
		return EXIT_USAGE;
	}
	if (argc > 1 + named || (named && argc < 2)) {
		log_err("snap: %s needs %s", what, named ? "one NAME" : "no more words");
		return EXIT_USAGE;
	}
	if ((r->transient || r->size_mib) && strcmp(what, "create") != 0) {
		log_err("snap: --transient and --size are of create");
		return EXIT_USAGE;
	}
	if (named && strpbrk(argv[1], " \t\r\n")) {
		log_err("snap: '%s': a name has no spaces", argv[1]);
		return EXIT_USAGE;
	}
	if (r->size_mib)
		snprintf(size, sizeof(size), " %" PRIu64, r->size_mib * MIB);
	n = snprintf(r->line, sizeof(r->line), "%s%s%s%s%s\n", what, named ? " " : "", named ? argv[1] : "",
		     r->transient ? " transient" : "", size);
	if (n < (int)sizeof(r->line))
		return 0;
	log_err("snap: '%s': too long a name", argv[1]);
	return EXIT_USAGE;
}

static int parse(int argc, char **argv, struct request *r)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' }, { "transient", no_argument, NULL, 't' },
		{ "size", required_argument, NULL, 'm' },   { "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },	    { 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 's':
			r->socket = optarg;
			break;
		case 't':
			r->transient = true;
			break;
		case 'm':
			if (parse_u64(optarg, 1, INT64_MAX / MIB, &r->size_mib) == 0)
				break;
			log_err("snap: --size '%s': must be a whole number of MiB, 1 or more", optarg);
			return EXIT_USAGE;
		case 'j':
			r->json = true;
			break;
		case 'h':
			fputs(help, stdout);
			return -1;
		default:
			return EXIT_USAGE;
		}
	}
	if (!r->socket) {
		log_err("snap: needs --socket PATH (headroom snap --help)");
		return EXIT_USAGE;
	}
	return put_line(r, argc - optind, argv + optind);
}

int cmd_snap(int argc, char **argv)
{
	static char answer[CTL_ANSWER];
	struct request r = { 0 };
	int rc = parse(argc, argv, &r);

	if (rc)
		return rc < 0 ? EXIT_DONE : rc;
	rc = ask(&r, answer, sizeof(answer));
	return rc ? rc : print_answer(&r, answer);
}
