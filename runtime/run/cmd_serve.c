// SPDX-License-Identifier: MIT
/* `headroom serve`: an origin and its snapshots over NBD. */
#include "base/clock.h"
#include "base/jsonw.h"
#include "base/log.h"
#include "base/opts.h"
#include "base/spawn.h"
#include "commands.h"
#include "engine/protect.h"
#include "run/devguard.h"
#include "serve/ctl.h"
#include "serve/evset.h"
#include "serve/sockets.h"
#include "serve/stores.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define KIB	       1024U
#define MIB	       ((uint64_t)1 << 20)
#define TICK_NS	       NS_PER_S
#define ATTACH_NS      (60 * NS_PER_S)	/* of all stores together */
#define ANSWER_NS      (10 * NS_PER_S)	/* for clients to fetch what is answered, when we are to end */
#define END_NS	       (300 * NS_PER_S) /* for a device to end what was begun; see cmd_copy.c */
#define PLACE	       (PATH_MAX + 32)
#define CONTROL_SUFFIX ".ctl"

static const char help[] =
	"usage: headroom serve [options] ORIGIN\n"
	"\n"
	"Serves a file or a block device over NBD, and snapshots of it, which can be made, deleted and merged back\n"
	"meanwhile (headroom snap --help). The export 'origin', also the one without a name, can be written to; each\n"
	"snapshot is an export of its name, and can be read. A flush, and a write with FUA, is on the medium, with "
	"all\n"
	"that the snapshots need of it, before it is answered.\n"
	"\n"
	"  --socket PATH    listen on this UNIX socket\n"
	"  --port N         listen on this port of 127.0.0.1; 0: any. Every user of this machine can connect to it\n"
	"  --uid N          who may connect to the UNIX socket, besides root (only the user who started the server)\n"
	"  --control PATH   the socket for `headroom snap` (the UNIX socket's PATH.ctl)\n"
	"  --stores DIR     where snapshots are kept, as NAME.snap; those that are there are served again\n"
	"  --chunk KIB      what is copied at a time, 4 to 512 (4); as it was when DIR's snapshots were made\n"
	"  --back WHAT      how files are accessed: uring, map, sync, or auto: map on tmpfs, elsewhere uring if it\n"
	"                   can be had (auto)\n"
	"  --no-durable     flush and FUA mean nothing; the loss of power may lose anything\n"
	"  --without LIST   of the protections, all of which are on: io-flusher, mlock, oom-protect, reserve,\n"
	"                   bounded-jobs\n"
	"  --require        refuse to serve when a protection that was not left out is not in force\n"
	"  --json           the line at the start, and counters at the end, as lines of JSON\n"
	"\n"
	"A line on standard output says when it listens, and which protections are in force. Writes are to be "
	"multiples\n"
	"of the block size that the handshake tells, others are refused. TRIM is accepted and does nothing.\n"
	"SIGTERM and SIGINT end it: what was begun is answered, and everything flushed.\n"
	"\n"
	"Exit status: 0 ended by a signal, 2 usage, 3 refused: nothing was served, 4 it failed.\n";

/* PROTECT_... of engine/protect.h, and two that are the server's own. */
enum { WITHOUT_RESERVE = PROTECT_KINDS, WITHOUT_BOUND, WITHOUTS };

static const char *name_of(unsigned which)
{
	return which < PROTECT_KINDS ? protect_name(which) : which == WITHOUT_RESERVE ? "reserve" : "bounded-jobs";
}

struct request {
	const char *origin, *socket, *control, *stores;
	bool tcp, durable, require, json;
	uint64_t port, uid, chunk_kib;
	enum target_back back;
	bool back_auto;
	unsigned without; /* bits */
};

struct serve {
	struct request request;
	struct protect_report protect;
	struct io_loop *loop;
	struct target *origin;
	struct copy_client *copy;
	struct snap *snap;
	struct stores stores;
	struct nbd_server *server;
	struct ctl *ctl;
	int events;
	char control_path[PLACE];
	bool listens_unix, listens_control;
};

/* --- Protections --- */

static bool is_asked(const struct serve *s, unsigned which)
{
	return !(s->request.without & 1U << which);
}

/* Before anything else is done: what is taken later is locked, and threads that are started later inherit it. */
static void protect(struct serve *s)
{
	protect_apply(PROTECT_ALL & ~s->request.without, &s->protect);
}

static const char *state_of(const struct serve *s, unsigned which)
{
	if (which < PROTECT_KINDS)
		return protect_state_name(s->protect.of[which].seen);
	return is_asked(s, which) ? "on" : "off";
}

/* Is each in force that was asked for? Those that are not are told about. */
static bool are_in_force(struct serve *s)
{
	bool all = true;

	protect_attest(NULL, &s->protect);
	for (unsigned i = 0; i < PROTECT_KINDS; i++) {
		const struct protect_fact *f = &s->protect.of[i];

		if (!is_asked(s, i) || f->seen == PROTECT_ON)
			continue;
		log_warn("serve: %s is not in force: %s", name_of(i), f->evidence);
		all = false;
	}
	return all;
}

/* --- Opening --- */

/* On tmpfs memory is copied fastest by copying memory; see io.h. The nodes of devices lie on one, too. */
static enum target_back back_for(const struct request *r, const char *path)
{
	struct statfs fs;
	struct stat st;

	if (r->back_auto && stat(path, &st) == 0 && !S_ISBLK(st.st_mode) && statfs(path, &fs) == 0 &&
	    fs.f_type == TMPFS_MAGIC)
		return TARGET_MAP;
	return r->back;
}

/* May it be served? A device only if nobody else uses it. */
static int look_at_origin(const struct request *r)
{
	char node[PATH_MAX], what[PATH_MAX];
	struct stat st;

	if (stat(r->origin, &st) < 0) {
		log_err("serve: %s: %s", r->origin, strerror(errno));
		return EXIT_NEED;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		log_err("serve: %s is neither a regular file nor a block device", r->origin);
		return EXIT_NEED;
	}
	if (S_ISREG(st.st_mode) || !realpath(r->origin, node) ||
	    devguard_used(&devguard_this_machine, st.st_rdev, node, what, sizeof(what)) == 0)
		return 0;
	log_err("serve: %s: in use: %s", r->origin, what);
	return EXIT_NEED;
}

static int open_origin(struct serve *s)
{
	const struct request *r = &s->request;
	int rc = look_at_origin(r), err;

	if (rc)
		return rc;
	err = stores_open_target(s->loop, r->origin, back_for(r, r->origin), &s->origin);
	if (err) {
		log_err("serve: %s: %s", r->origin, err == -EWOULDBLOCK ? "another server has it" : strerror(-err));
		return EXIT_NEED;
	}
	if (s->origin->size && s->origin->size % s->origin->block == 0)
		return 0;
	log_err("serve: %s has %" PRIu64 " bytes: must be a multiple of %u, and not 0 (truncate --size=%%%u)",
		r->origin, s->origin->size, s->origin->block, s->origin->block);
	return EXIT_NEED;
}

static int open_stores(struct serve *s)
{
	const struct request *r = &s->request;
	char why[PATH_MAX + 256];

	s->stores = (struct stores){
		.loop = s->loop, .snap = s->snap, .origin = s->origin, .chunk_bytes = (uint32_t)r->chunk_kib * KIB
	};
	if (!r->stores)
		return 0;
	snprintf(s->stores.dir, sizeof(s->stores.dir), "%s", r->stores);
	s->stores.back = back_for(r, r->stores);
	if (!stores_attach(&s->stores, clock_ns() + ATTACH_NS, why, sizeof(why)))
		return 0;
	log_err("serve: %s", why);
	return EXIT_NEED;
}

static int open_engine(struct serve *s)
{
	const struct request *r = &s->request;
	struct copy_opts copy = { .staging_bytes = is_asked(s, WITHOUT_RESERVE) ? 0 : UINT64_MAX };
	struct snap_opts opts;
	int err;

	snap_opts_default(&opts);
	opts.chunk_bytes = (uint32_t)r->chunk_kib * KIB;
	opts.durable = r->durable;
	if (!is_asked(s, WITHOUT_BOUND))
		opts.cow_threshold = SNAP_UNLIMITED;
	err = copy_client_open(s->loop, &copy, &s->copy);
	if (!err)
		err = snap_open(s->loop, s->copy, s->origin, &opts, &s->snap);
	if (!err)
		return 0;
	log_err("serve: %s: %s", r->origin,
		err == -EINVAL ? "cannot be copied in such chunks (--chunk)" : strerror(-err));
	return EXIT_NEED;
}

static void round_begins(void *arg)
{
	nbd_server_round(arg);
}

static void look_at_events(void *arg)
{
	evset_run(((const struct serve *)arg)->events);
}

static int open_server(struct serve *s)
{
	struct nbd_opts opts = { .snap = s->snap,
				 .events = s->events,
				 .export = stores_export,
				 .arg = &s->stores,
				 .uid = (uid_t)s->request.uid,
				 .no_reserve = !is_asked(s, WITHOUT_RESERVE) };
	int err = nbd_server_open(&opts, &s->server);

	if (err) {
		log_err("serve: %s", strerror(-err));
		return EXIT_BROKEN;
	}
	io_loop_each_round(s->loop, round_begins, s->server);
	return 0;
}

static int refuse_socket(const char *path, int err)
{
	log_err("serve: %s: %s", path,
		err == -EADDRINUSE ? "somebody listens there already"
		: err == -EEXIST   ? "it is there, and no socket"
				   : strerror(-err));
	return EXIT_NEED;
}

/* Whom the file's mode would keep out, although he may connect, is let in; then peers' credentials alone decide. */
static mode_t socket_mode(const struct request *r)
{
	return r->uid == geteuid() ? 0600 : 0666;
}

static int listen_unix(struct serve *s)
{
	const char *path = s->request.socket;
	int fd = socket_listen_unix(path, socket_mode(&s->request));

	if (fd < 0)
		return refuse_socket(path, fd);
	s->listens_unix = true;
	return nbd_server_listen(s->server, fd, true) ? EXIT_BROKEN : 0;
}

static int listen_tcp(struct serve *s)
{
	uint16_t port = (uint16_t)s->request.port;
	int fd = socket_listen_tcp(&port);

	if (fd < 0) {
		log_err("serve: port %u of 127.0.0.1: %s", port, strerror(-fd));
		return EXIT_NEED;
	}
	s->request.port = port;
	return nbd_server_listen(s->server, fd, false) ? EXIT_BROKEN : 0;
}

static int listen_control(struct serve *s)
{
	const struct request *r = &s->request;
	int fd;

	if (r->control)
		snprintf(s->control_path, sizeof(s->control_path), "%s", r->control);
	else if (r->socket)
		snprintf(s->control_path, sizeof(s->control_path), "%s" CONTROL_SUFFIX, r->socket);
	else
		return 0;
	fd = socket_listen_unix(s->control_path, socket_mode(r));
	if (fd < 0)
		return refuse_socket(s->control_path, fd);
	s->listens_control = true;
	return ctl_open(s->events, fd, (uid_t)r->uid, &s->ctl) ? EXIT_BROKEN : 0;
}

static int open_all(struct serve *s)
{
	int rc, err;

	s->events = evset_open();
	err = s->events < 0 ? s->events : io_loop_open(NULL, &s->loop);
	if (!err)
		err = io_loop_watch(s->loop, s->events, look_at_events, s);
	if (err) {
		log_err("serve: %s", strerror(-err));
		return EXIT_BROKEN;
	}
	rc = open_origin(s);
	if (!rc)
		rc = open_engine(s);
	if (!rc)
		rc = open_stores(s);
	if (!rc)
		rc = open_server(s);
	if (!rc && s->request.socket)
		rc = listen_unix(s);
	if (!rc && s->request.tcp)
		rc = listen_tcp(s);
	return rc ? rc : listen_control(s);
}

/* --- Telling --- */

static void tell_start(const struct serve *s)
{
	const struct request *r = &s->request;
	struct nbd_export e;
	unsigned snapshots = 0;

	while (stores_export((void *)&s->stores, snapshots + 1, &e))
		snapshots++;
	printf("serving %s (%" PRIu64 " MiB, %s)", r->origin, s->origin->size / MIB, target_back_name(s->origin->back));
	if (r->socket)
		printf(" at nbd+unix:///?socket=%s", r->socket);
	if (r->tcp)
		printf(" at nbd://127.0.0.1:%" PRIu64, r->port);
	printf(", %u snapshots; in force:", snapshots);
	for (unsigned i = 0; i < WITHOUTS; i++)
		printf("%s %s %s", i ? "," : "", name_of(i), state_of(s, i));
	printf(" (%zu MiB)\n", nbd_server_memory(s->server) / MIB);
	fflush(stdout);
}

static void tell_start_json(const struct serve *s)
{
	static char buf[16384];
	const struct request *r = &s->request;
	struct jsonw j;

	jsonw_init(&j, buf, sizeof(buf));
	jsonw_object(&j, NULL);
	jsonw_str(&j, "origin", r->origin);
	jsonw_u64(&j, "bytes", s->origin->size);
	jsonw_u64(&j, "block", s->origin->block);
	jsonw_str(&j, "back", target_back_name(s->origin->back));
	if (r->socket)
		jsonw_str(&j, "socket", r->socket);
	if (r->tcp)
		jsonw_u64(&j, "port", r->port);
	if (s->listens_control)
		jsonw_str(&j, "control", s->control_path);
	jsonw_object(&j, "protections");
	for (unsigned i = 0; i < WITHOUTS; i++)
		jsonw_str(&j, name_of(i), state_of(s, i));
	jsonw_object_end(&j);
	jsonw_u64(&j, "reserve_bytes", nbd_server_memory(s->server));
	jsonw_object_end(&j);
	fwrite(buf, 1, jsonw_line(&j), stdout);
	fflush(stdout);
}

static void tell_end(const struct serve *s)
{
	const struct nbd_counters *n = nbd_server_counters(s->server);
	static char buf[4096];
	struct jsonw j;

	if (!s->request.json) {
		log_info("served %" PRIu64 " requests of %" PRIu64 " connections, %" PRIu64 " of them in vain; %" PRIu64
			 " MiB read, %" PRIu64 " MiB written",
			 n->requests, n->connections, n->errors, n->bytes_read / MIB, n->bytes_written / MIB);
		return;
	}
	jsonw_init(&j, buf, sizeof(buf));
	jsonw_object(&j, NULL);
	ctl_put_counters(&j, &s->stores, s->server);
	jsonw_object_end(&j);
	fwrite(buf, 1, jsonw_line(&j), stdout);
}

/* --- Serving --- */

static int serve(struct serve *s)
{
	int err = 0;

	while (!interrupted && !err) {
		err = snap_run(s->snap, clock_ns() + TICK_NS);
		nbd_server_tick(s->server);
		stores_look(&s->stores);
		if (s->ctl)
			ctl_work(s->ctl, &s->stores, s->server);
	}
	if (!err)
		return 0;
	log_err("serve: io_uring: %s", strerror(-err));
	return EXIT_BROKEN;
}

static bool run_until_idle(struct serve *s, int64_t deadline_ns)
{
	while (!nbd_server_idle(s->server)) {
		if (clock_ns() >= deadline_ns || snap_run(s->snap, clock_ns() + TICK_NS))
			return false;
		nbd_server_round(s->server);
	}
	return true;
}

/* Everything that was answered is where it belongs. False: a device does not end what was begun. */
static bool end_service(struct serve *s)
{
	nbd_server_stop(s->server);
	/* Who does not fetch his answer in time goes without. */
	run_until_idle(s, clock_ns() + ANSWER_NS);
	nbd_server_disconnect(s->server);
	return run_until_idle(s, clock_ns() + END_NS);
}

/* The origin's last writes, of clients that did not flush. */
static int flush_origin(const struct serve *s)
{
	if (fdatasync(s->origin->fd) == 0)
		return 0;
	log_err("serve: %s: %s", s->request.origin, strerror(errno));
	return EXIT_BROKEN;
}

/* What a device has not ended needs its memory: then all is left to the end of the process. */
static int close_all(struct serve *s)
{
	int rc = 0;

	if (s->listens_unix)
		unlink(s->request.socket);
	if (s->listens_control)
		unlink(s->control_path);
	ctl_close(s->ctl);
	if (s->server && !end_service(s)) {
		log_err("serve: %s: requests do not end", s->request.origin);
		return EXIT_BROKEN;
	}
	if (s->loop)
		io_loop_each_round(s->loop, NULL, NULL);
	if (s->server && s->request.json)
		tell_end(s);
	nbd_server_close(s->server);
	if (s->snap && snap_close(s->snap, clock_ns() + END_NS)) {
		log_err("serve: %s: copies do not end", s->request.origin);
		return EXIT_BROKEN;
	}
	if (s->copy)
		copy_client_close(s->copy);
	if (s->origin) {
		rc = flush_origin(s);
		target_close(s->origin);
	}
	io_loop_close(s->loop);
	close(s->events);
	return rc;
}

/* --- Options --- */

static int parse_back(const char *text, struct request *r)
{
	r->back_auto = strcmp(text, "auto") == 0;
	for (r->back = TARGET_AUTO; r->back < TARGET_OWN && !r->back_auto; r->back++)
		if (r->back != TARGET_AUTO && strcmp(text, target_back_name(r->back)) == 0)
			return 0;
	if (r->back_auto)
		return 0;
	log_err("serve: --back '%s': must be auto, uring, map or sync", text);
	return EXIT_USAGE;
}

static int parse_without(char *list, struct request *r)
{
	char *rest = NULL;

	for (const char *w = strtok_r(list, ",", &rest); w; w = strtok_r(NULL, ",", &rest)) {
		unsigned i = 0;

		while (i < WITHOUTS && strcmp(w, name_of(i)) != 0)
			i++;
		if (i == WITHOUTS) {
			log_err("serve: --without '%s': must be io-flusher, mlock, oom-protect, reserve or "
				"bounded-jobs",
				w);
			return EXIT_USAGE;
		}
		r->without |= 1U << i;
	}
	return 0;
}

static int parse_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	if (parse_u64(text, min, max, value) == 0)
		return 0;
	log_err("serve: --%s '%s': must be a whole number, %" PRIu64 " to %" PRIu64, option, text, min, max);
	return EXIT_USAGE;
}

static int check(const struct request *r)
{
	if (!r->socket && !r->tcp) {
		log_err("serve: needs --socket PATH or --port N (headroom serve --help)");
		return EXIT_USAGE;
	}
	if (r->chunk_kib & (r->chunk_kib - 1)) {
		log_err("serve: --chunk %" PRIu64 ": must be a power of two", r->chunk_kib);
		return EXIT_USAGE;
	}
	return 0;
}

static int parse(int argc, char **argv, struct request *r)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "port", required_argument, NULL, 'p' },
		{ "uid", required_argument, NULL, 'u' },
		{ "control", required_argument, NULL, 'c' },
		{ "stores", required_argument, NULL, 'd' },
		{ "chunk", required_argument, NULL, 'k' },
		{ "back", required_argument, NULL, 'b' },
		{ "no-durable", no_argument, NULL, 'n' },
		{ "without", required_argument, NULL, 'w' },
		{ "require", no_argument, NULL, 'r' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int o, rc = 0;

	while (!rc && (o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 's':
			r->socket = optarg;
			break;
		case 'p':
			r->tcp = true;
			rc = parse_number("port", optarg, 0, 65535, &r->port);
			break;
		case 'u':
			rc = parse_number("uid", optarg, 0, UINT32_MAX - 1, &r->uid);
			break;
		case 'c':
			r->control = optarg;
			break;
		case 'd':
			r->stores = optarg;
			break;
		case 'k':
			rc = parse_number("chunk", optarg, EXSTORE_MIN_CHUNK / KIB, EXSTORE_MAX_CHUNK / KIB,
					  &r->chunk_kib);
			break;
		case 'b':
			rc = parse_back(optarg, r);
			break;
		case 'n':
			r->durable = false;
			break;
		case 'w':
			rc = parse_without(optarg, r);
			break;
		case 'r':
			r->require = true;
			break;
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
	if (rc)
		return rc;
	if (argc - optind != 1) {
		log_err("serve: needs one ORIGIN (headroom serve --help)");
		return EXIT_USAGE;
	}
	r->origin = argv[optind];
	return check(r);
}

int cmd_serve(int argc, char **argv)
{
	static struct serve s = {
		.request = { .durable = true, .chunk_kib = EXSTORE_MIN_CHUNK / KIB, .back_auto = true }, .events = -1
	};
	int rc, end;

	s.request.uid = geteuid();
	rc = parse(argc, argv, &s.request);
	if (rc)
		return rc < 0 ? EXIT_DONE : rc;
	spawn_catch_signals();
	protect(&s);
	rc = open_all(&s);
	if (!rc && !are_in_force(&s) && s.request.require)
		rc = EXIT_NEED;
	if (!rc) {
		if (s.request.json)
			tell_start_json(&s);
		else
			tell_start(&s);
		rc = serve(&s);
	}
	end = close_all(&s);
	return rc ? rc : end;
}
