// SPDX-License-Identifier: MIT
/*
 * The client that bench_serve.py measures NBD servers with, and looks at their data with: one connection, `qd` writes
 * at a time, one to the beginning of each chunk, in random order. (fio, told to align small writes to larger chunks,
 * forgets where it has been.)
 *
 *   fill FILE      all of it, with the blocks of `old` (base/pattern.h)
 *   compare FILE   is it still that?
 *   load URI       the writes. It says "ready" when it is connected, begins after a line on standard input, prints a
 *                  line of JSON, and disconnects when standard input ends: until then its caller can look around.
 *   read URI       is all of it the blocks of `old`?
 *
 * Options go first, as NAME=VALUE; the table below has them.
 */
#include "base/clock.h"
#include "base/latency.h"
#include "base/opts.h"
#include "base/pattern.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEADLINE_S 120
#define MAX_CHUNK  (1 << 20)

static struct options {
	uint64_t chunk, bytes, qd, count, ms, seed, old, key;
	bool again, fua;
} o;

static const struct opt table[] = {
	{ "chunk", OPT_U64, offsetof(struct options, chunk), "4096", PATTERN_BLOCK, MAX_CHUNK,
	  .help = "bytes of a chunk" },
	{ "bytes", OPT_U64, offsetof(struct options, bytes), "4096", PATTERN_BLOCK, MAX_CHUNK,
	  .help = "of a write; a chunk at most" },
	{ "qd", OPT_U64, offsetof(struct options, qd), "1", 1, 1024, .help = "writes at a time" },
	{ "count", OPT_U64, offsetof(struct options, count), "0", 0, 1 << 24, .help = "writes; 0: all of the export" },
	{ "ms", OPT_U64, offsetof(struct options, ms), "60000", 1, 60000, .help = "begin no write after so long" },
	{ "seed", OPT_U64, offsetof(struct options, seed), "1", 1, UINT64_MAX, .help = "of the order of the chunks" },
	{ "again", OPT_BOOL, offsetof(struct options, again), "0",
	  .help = "once all before the clock starts, then until it ends" },
	{ "fua", OPT_BOOL, offsetof(struct options, fua), "0", .help = "every write with FUA" },
	{ "old", OPT_U64, offsetof(struct options, old), "1", 1, UINT64_MAX, .help = "of the data before" },
	{ "key", OPT_U64, offsetof(struct options, key), "0", 0, UINT64_MAX,
	  .help = "of the data to write, which is read back; 0: always the same, and not" },
	{ 0 },
};

struct slot {
	struct slot *next;
	int64_t begin_ns;
	char *data;
};

static struct load {
	struct nbd_handle *nbd;
	struct slot *slots, *free;
	uint32_t *order;
	uint64_t size, begun, flying;
	struct latency *latency;
	bool failed;
} l;

_Noreturn static void die(const char *what, const char *why)
{
	fprintf(stderr, "nbd_load: %s: %s\n", what, why);
	exit(4);
}

static void check_nbd(int64_t rc, const char *what)
{
	if (rc < 0)
		die(what, nbd_get_error());
}

static void *memory(size_t bytes)
{
	size_t whole = (bytes + PATTERN_BLOCK - 1) / PATTERN_BLOCK * PATTERN_BLOCK;
	void *p = aligned_alloc(PATTERN_BLOCK, whole);

	if (!p)
		die("memory", strerror(ENOMEM));
	return memset(p, 0, whole);
}

/* --- Data --- */

static void fill_chunk(uint64_t key, uint64_t offset, char *data, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += PATTERN_BLOCK)
		pattern_fill(key, (offset + at) / PATTERN_BLOCK, data + at);
}

static void look_at_chunk(uint64_t key, uint64_t offset, const char *data, size_t bytes)
{
	char why[96];

	for (size_t at = 0; at < bytes; at += PATTERN_BLOCK) {
		if (pattern_matches(key, (offset + at) / PATTERN_BLOCK, data + at))
			continue;
		snprintf(why, sizeof(why), "at %" PRIu64 " is not what must be there", offset + at);
		die("the data", why);
	}
}

static int each_of_file(const char *path, bool fill)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	char *data = memory(MAX_CHUNK);
	ssize_t n = MAX_CHUNK;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		die(path, strerror(errno));
	for (off_t at = 0; at < st.st_size && n > 0; at += n) {
		size_t bytes = st.st_size - at < MAX_CHUNK ? (size_t)(st.st_size - at) : MAX_CHUNK;

		if (fill)
			fill_chunk(o.old, (uint64_t)at, data, bytes);
		n = fill ? pwrite(fd, data, bytes, at) : pread(fd, data, bytes, at);
		if (n != (ssize_t)bytes)
			die(path, "cannot be read or written in full");
		if (!fill)
			look_at_chunk(o.old, (uint64_t)at, data, bytes);
	}
	if (fill && fdatasync(fd) < 0)
		die(path, strerror(errno));
	return 0;
}

static int fill(const char *path)
{
	return each_of_file(path, true);
}

static int compare(const char *path)
{
	return each_of_file(path, false);
}

/* --- Requests --- */

static void connect_to(const char *uri)
{
	int64_t size;

	l.nbd = nbd_create();
	if (!l.nbd)
		die("libnbd", nbd_get_error());
	/* What it would do to each buffer and look at in each request costs more than some servers take for it. */
	nbd_set_pread_initialize(l.nbd, false);
	nbd_set_strict_mode(l.nbd, 0);
	check_nbd(nbd_connect_uri(l.nbd, uri), uri);
	size = nbd_get_size(l.nbd);
	check_nbd(size, uri);
	l.size = (uint64_t)size;
	if (!size || l.size % o.chunk || l.size / o.chunk > UINT32_MAX || o.bytes > o.chunk)
		die(uri, "has not the size for such chunks");
}

static uint64_t next_random(uint64_t *state)
{
	return pattern_mix(*state += 0x9e3779b97f4a7c15ULL); /* splitmix64 */
}

static void shuffle(void)
{
	uint64_t n = l.size / o.chunk, random = o.seed;

	l.order = memory(n * sizeof(*l.order));
	for (uint64_t i = 0; i < n; i++)
		l.order[i] = (uint32_t)i;
	for (uint64_t i = n - 1; i; i--) {
		uint64_t j = next_random(&random) % (i + 1);
		uint32_t x = l.order[i];

		l.order[i] = l.order[j];
		l.order[j] = x;
	}
	if (!o.count || o.count > n)
		o.count = n;
}

/* One buffer for all when nobody reads it back: the caches of this machine are the server's too. */
static void open_slots(void)
{
	char *shared = memory(o.bytes);

	l.latency = memory(sizeof(*l.latency));
	l.slots = memory(o.qd * sizeof(*l.slots));
	fill_chunk(1, 0, shared, o.bytes);
	for (uint64_t i = 0; i < o.qd; i++) {
		l.slots[i].data = o.key ? memory(o.bytes) : shared;
		l.slots[i].next = l.free;
		l.free = &l.slots[i];
	}
}

static int written(void *arg, int *err)
{
	struct slot *s = arg;

	latency_add(l.latency, (uint64_t)(clock_ns() - s->begin_ns));
	if (*err) {
		fprintf(stderr, "nbd_load: a write: %s\n", strerror(*err));
		l.failed = true;
	}
	s->next = l.free;
	l.free = s;
	l.flying--;
	return 1; /* libnbd is not to keep it for us */
}

static void begin_write(void)
{
	uint64_t offset = l.order[l.begun++ % o.count] * o.chunk;
	struct slot *s = l.free;

	l.free = s->next;
	if (o.key)
		fill_chunk(o.key, offset, s->data, o.bytes);
	l.flying++;
	s->begin_ns = clock_ns();
	check_nbd(nbd_aio_pwrite(l.nbd, s->data, o.bytes, offset,
				 (nbd_completion_callback){ .callback = written, .user_data = s },
				 o.fua ? LIBNBD_CMD_FLAG_FUA : 0),
		  "write");
}

static void wait_for_some(void)
{
	int events = nbd_poll(l.nbd, DEADLINE_S * 1000);

	check_nbd(events, "poll");
	if (!events)
		die("poll", "the server is silent");
	if (l.failed)
		exit(4);
}

/* `count` writes, or as many as there is time for. Nanoseconds. */
static int64_t write_chunks(uint64_t count, uint64_t ms)
{
	int64_t begin_ns = clock_ns(), stop_ns = begin_ns + (int64_t)ms * NS_PER_MS;
	bool more = true;

	l.begun = 0;
	while (more || l.flying) {
		while (more && l.free) {
			begin_write();
			more = l.begun < count && clock_ns() < stop_ns;
		}
		if (l.flying)
			wait_for_some();
	}
	return clock_ns() - begin_ns;
}

/* Its first `fresh` bytes are what was written, the others what was there before. */
static void read_chunk(uint64_t offset, size_t fresh, char *data)
{
	check_nbd(nbd_pread(l.nbd, data, o.chunk, offset, 0), "read");
	look_at_chunk(o.key, offset, data, fresh);
	look_at_chunk(o.old, offset + fresh, data + fresh, o.chunk - fresh);
}

static void read_back(void)
{
	char *data = memory(o.chunk);

	for (uint64_t i = 0; i < l.size / o.chunk; i++)
		read_chunk(l.order[i] * o.chunk, i < l.begun ? o.bytes : 0, data);
}

static int read_all(const char *uri)
{
	char *data = memory(o.chunk);

	connect_to(uri);
	for (uint64_t at = 0; at < l.size; at += o.chunk)
		read_chunk(at, 0, data);
	nbd_shutdown(l.nbd, 0);
	return 0;
}

static void wait_for_caller(char until)
{
	int c;

	do {
		c = getchar();
	} while (c != EOF && c != until);
}

static int load(const char *uri)
{
	int64_t ns;

	connect_to(uri);
	shuffle();
	open_slots();
	if (o.again) {
		write_chunks(o.count, DEADLINE_S * 1000);
		memset(l.latency, 0, sizeof(*l.latency));
	}
	printf("ready\n");
	fflush(stdout);
	wait_for_caller('\n');
	ns = write_chunks(o.again ? UINT64_MAX : o.count, o.ms);
	printf("{\"seconds\": %.6f, \"writes\": %" PRIu64 ", \"iops\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
	       (double)ns / 1e9, l.begun, (double)l.begun * 1e9 / (double)ns,
	       (double)latency_quantile(l.latency, 0.99) / 1e3, (double)latency_quantile(l.latency, 1) / 1e3);
	fflush(stdout);
	if (o.key)
		read_back();
	wait_for_caller(EOF);
	nbd_shutdown(l.nbd, 0);
	return 0;
}

/* --- The command line --- */

static const struct role {
	const char *name;
	int (*run)(const char *what);
} roles[] = { { "fill", fill }, { "compare", compare }, { "load", load }, { "read", read_all } };

static int usage(void)
{
	fprintf(stderr, "usage: nbd_load fill|compare|load|read [OPTION=VALUE...] FILE|URI\n");
	for (const struct opt *opt = table; opt->name; opt++)
		fprintf(stderr, "  %-10s %s (%s)\n", opt->name, opt->help, opt->def);
	return 2;
}

int main(int argc, char **argv)
{
	char name[32], err[256];

	opts_defaults(table, &o);
	for (int i = 2; i < argc - 1; i++) {
		size_t n = strcspn(argv[i], "=");

		snprintf(name, sizeof(name), "%.*s", (int)n, argv[i]);
		if (argv[i][n] != '=' || opts_set(table, &o, name, argv[i] + n + 1, err, sizeof(err)))
			return usage();
	}
	for (size_t i = 0; argc > 2 && i < sizeof(roles) / sizeof(roles[0]); i++)
		if (strcmp(argv[1], roles[i].name) == 0)
			return roles[i].run(argv[argc - 1]);
	return usage();
}
