// SPDX-License-Identifier: MIT
/*
 * What bench_engine.py measures with, one role a process; each prints one line of JSON.
 *
 *   copy FROM TO              the engine: all of a file into another, which is as long and is there already
 *   splice FROM TO            a peer that no package has: splice(2) through a pipe of 1 MiB
 *   cfr FROM TO               copy_file_range(2) over the whole
 *   cow ORIGIN STORE...       the engine: first writes of 4 KiB to chunks in random order, `qd` of them at a time
 *   cowlimit ORIGIN STORE     what the device gives at most: the same reads and writes, and nothing waits for another
 *   memcpy FROM TO            chunks in random order from one mapped file to another
 *   flood ORIGIN STORE...     as cow, all writes at once; the anonymous memory of this process meanwhile
 *   touch                     what the first touch of a page of memory costs, and the second
 *
 * Options go first, as NAME=VALUE; the table below has them. `sync=1` has the data on the medium before the clock
 * stops.
 */
#include "base/clock.h"
#include "base/opts.h"
#include "engine/nt.h"
#include "engine/snap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITE_BYTES  4096
#define STORE_BYTES  (512U << 10) /* of a write to a store: what a batch has at the most */
#define PIPE_BYTES   (1 << 20)
#define TOUCH_BYTES  (256UL << 20)
#define DEADLINE_S   300
#define SAMPLE_NS    (20 * NS_PER_MS)
#define MAX_STORES   SNAP_MAX_STORES
#define STORE_WRITES 8 /* of the bound, at a time; more does not make it faster */

static struct options {
	uint64_t chunk, qd, count, seed, gather, threshold, staging, split, subjob;
	bool durable, sync, nt;
	unsigned back;
} o;

static const char *const backs[] = { "auto", "uring", "sync", "map", NULL };

static const struct opt table[] = {
	{ "chunk", OPT_U64, offsetof(struct options, chunk), "4096", 4096, 1 << 20, .help = "bytes of a chunk" },
	{ "qd", OPT_U64, offsetof(struct options, qd), "128", 1, 1 << 20, .help = "writes at a time" },
	{ "count", OPT_U64, offsetof(struct options, count), "0", 0, 1 << 24, .help = "chunks; 0: all of the origin" },
	{ "seed", OPT_U64, offsetof(struct options, seed), "1", 1, UINT64_MAX, .help = "of the order of the chunks" },
	{ "gather", OPT_U64, offsetof(struct options, gather), "1000", 0, 1000, .help = "gather_jobs; 1000: default" },
	{ "threshold", OPT_U64, offsetof(struct options, threshold), "2048", 0, UINT32_MAX, .help = "cow_threshold" },
	{ "staging", OPT_U64, offsetof(struct options, staging), "0", 0, 1 << 20, .help = "KiB; 0: default" },
	{ "split", OPT_U64, offsetof(struct options, split), "0", 0, 1000, .help = "sub-jobs at a time; 0: default" },
	{ "subjob", OPT_U64, offsetof(struct options, subjob), "0", 0, 1024, .help = "KiB; 0: default" },
	{ "durable", OPT_BOOL, offsetof(struct options, durable), "0", .help = "flush and FUA" },
	{ "sync", OPT_BOOL, offsetof(struct options, sync), "0", .help = "flush the copy" },
	{ "nt", OPT_BOOL, offsetof(struct options, nt), "0", .help = "memcpy: the engine's copy, past the cache" },
	{ "back", OPT_ENUM, offsetof(struct options, back), "auto", .choices = backs, .help = "the files' back end" },
	{ 0 },
};

_Noreturn static void die(const char *what, int err)
{
	fprintf(stderr, "bench_engine: %s: %s\n", what, strerror(err));
	exit(4);
}

static void check(int err, const char *what)
{
	if (err < 0)
		die(what, -err);
}

static int64_t deadline(void)
{
	return clock_ns() + DEADLINE_S * NS_PER_S;
}

/* --- What was used --- */

struct used {
	int64_t wall_ns;
	double cpu_s;
};

/* Of all threads, io_uring's workers too. */
static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static struct used begin(void)
{
	return (struct used){ .wall_ns = clock_ns(), .cpu_s = cpu_s() };
}

static struct used end(struct used from)
{
	return (struct used){ .wall_ns = clock_ns() - from.wall_ns, .cpu_s = cpu_s() - from.cpu_s };
}

static void print(struct used u, uint64_t bytes, const char *more)
{
	double s = (double)u.wall_ns / 1e9;

	printf("{\"seconds\": %.6f, \"mb_per_s\": %.1f, \"cpu_s\": %.4f, \"cpu_s_per_gib\": %.4f%s}\n", s,
	       (double)bytes / 1e6 / s, u.cpu_s, u.cpu_s / ((double)bytes / (1 << 30)), more);
}

/* --- Plain copies --- */

static struct target *open_target(struct io_loop *loop, const char *path, unsigned flags)
{
	struct target *t;

	check(target_open(loop, path, flags, (enum target_back)o.back, &t), path);
	return t;
}

static struct copy_client *open_client(struct io_loop *loop)
{
	struct copy_opts opts = { .staging_bytes = o.staging << 10,
				  .split = (unsigned)o.split,
				  .subjob_kib = (unsigned)o.subjob };
	struct copy_client *c;

	check(copy_client_open(loop, &opts, &c), "copy client");
	return c;
}

static void flushed(struct io *io)
{
	*(bool *)io->owner = true;
}

static void flush(struct io_loop *loop, struct target *t)
{
	bool done = false;
	struct io io = { .target = t, .op = IO_FLUSH, .done = flushed, .owner = &done };

	io_start(loop, &io);
	while (!done)
		check(io_run(loop, deadline()), "flush");
	check(io.err, "flush");
}

static void copy_done(struct copy_job *job)
{
	*(bool *)job->owner = true;
}

static int copy(char **paths)
{
	struct used from = begin();
	struct io_loop *loop;
	struct copy_client *c;
	struct target *source, *dest;
	bool done = false;

	check(io_loop_open(NULL, &loop), "loop");
	c = open_client(loop);
	source = open_target(loop, paths[0], TARGET_READ);
	dest = open_target(loop, paths[1], TARGET_WRITE);

	struct copy_job job = { .source = source,
				.len = source->size,
				.n_dests = 1,
				.dests = { { dest, 0 } },
				.done = copy_done,
				.owner = &done };

	copy_submit(c, &job);
	while (!done)
		check(io_run(loop, copy_work(c) ? 0 : deadline()), "copy");
	check(job.read_err ? job.read_err : job.write_err[0], "copy");
	if (o.sync)
		flush(loop, dest);
	print(end(from), source->size, "");
	target_close(source);
	target_close(dest);
	copy_client_close(c);
	io_loop_close(loop);
	return 0;
}

static uint64_t open_pair(char **paths, int *from, int *to)
{
	struct stat st;

	*from = open(paths[0], O_RDONLY | O_CLOEXEC);
	*to = open(paths[1], O_RDWR | O_CLOEXEC);
	if (*from < 0 || *to < 0 || fstat(*from, &st) < 0)
		die("files", errno);
	return (uint64_t)st.st_size;
}

static void end_pair(int to)
{
	if (o.sync && fdatasync(to) < 0)
		die("sync", errno);
}

static int splice_all(char **paths)
{
	struct used start = begin();
	int from, to, ends[2];
	uint64_t size = open_pair(paths, &from, &to), left = size;

	if (pipe2(ends, O_CLOEXEC) < 0 || fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) < 0)
		die("pipe", errno);
	while (left) {
		ssize_t n = splice(from, NULL, ends[1], NULL, PIPE_BYTES, SPLICE_F_MOVE);

		if (n <= 0)
			die("splice", errno);
		for (ssize_t out = 0, m; out < n; out += m) {
			m = splice(ends[0], NULL, to, NULL, (size_t)(n - out), SPLICE_F_MOVE);
			if (m <= 0)
				die("splice", errno);
		}
		left -= (uint64_t)n;
	}
	end_pair(to);
	print(end(start), size, "");
	return 0;
}

static int cfr(char **paths)
{
	struct used start = begin();
	int from, to;
	uint64_t size = open_pair(paths, &from, &to), left = size;

	while (left) {
		ssize_t n = copy_file_range(from, NULL, to, NULL, left, 0);

		if (n <= 0)
			die("copy_file_range", errno);
		left -= (uint64_t)n;
	}
	end_pair(to);
	print(end(start), size, "");
	return 0;
}

/* --- Chunks in random order --- */

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

/* Shared, so that it is not counted as anonymous: it is the client's, not the engine's. */
static void *client_memory(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("memory", errno);
	return p;
}

/* Each chunk of so many bytes once, the first o.count of a random order. */
static uint32_t *shuffle(uint64_t size)
{
	uint64_t n = size / o.chunk, random = o.seed;
	uint32_t *order = client_memory(n * sizeof(*order));

	for (uint64_t i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (uint64_t i = n - 1; i; i--) {
		uint64_t j = next_random(&random) % (i + 1);
		uint32_t x = order[i];

		order[i] = order[j];
		order[j] = x;
	}
	if (!o.count || o.count > n)
		o.count = n;
	return order;
}

/* --- Copy on write --- */

static struct load {
	struct io_loop *loop;
	struct copy_client *client;
	struct snap *snap;
	struct target *origin;
	unsigned n_stores;
	const uint32_t *order;
	uint64_t next, done;
	struct snap_req *reqs;
	char *data; /* the same for all: the engine does not look at it */
} l;

static void write_next(struct snap_req *r);

static void written(struct snap_req *r)
{
	check(r->err, "write");
	l.done++;
	write_next(r);
}

static void write_next(struct snap_req *r)
{
	if (l.next == o.count)
		return;
	*r = (struct snap_req){ .op = IO_WRITE,
				.store = SNAP_ORIGIN,
				.offset = l.order[l.next++] * o.chunk,
				.data = l.data,
				.len = WRITE_BYTES,
				.done = written };
	snap_submit(l.snap, r);
}

static void open_load(char **paths)
{
	struct snap_opts opts;

	check(io_loop_open(NULL, &l.loop), "loop");
	l.client = open_client(l.loop);
	l.origin = open_target(l.loop, *paths, TARGET_WRITE);
	snap_opts_default(&opts);
	opts.chunk_bytes = (uint32_t)o.chunk;
	opts.cow_threshold = (uint32_t)o.threshold;
	opts.durable = o.durable;
	if (o.gather != 1000)
		opts.gather_jobs = (unsigned)o.gather;
	check(snap_open(l.loop, l.client, l.origin, &opts, &l.snap), "snap_open");
	while (*++paths) {
		struct snap_store_opts store = { .persistent = true, .name = "bench" };

		check(snap_create(l.snap, open_target(l.loop, *paths, TARGET_WRITE), &store, deadline()), *paths);
		l.n_stores++;
	}
	l.order = shuffle(l.origin->size);
	l.data = client_memory(WRITE_BYTES);
	l.reqs = client_memory(o.qd * sizeof(*l.reqs));
	memset(l.data, 0x5a, WRITE_BYTES);
}

static void close_load(void)
{
	check(snap_close(l.snap, deadline()), "close");
	target_close(l.origin);
	copy_client_close(l.client);
	io_loop_close(l.loop);
}

static void print_load(struct used u, const char *more)
{
	struct snap_counters s;
	struct copy_counters c;
	char text[1024];

	snap_read_counters(l.snap, &s);
	copy_read_counters(l.client, &c);
	/* Otherwise something else than first writes was measured. */
	if (s.chunks != o.count || s.exceptions != o.count * l.n_stores || s.invalidated)
		die("not every write was the first to its chunk", EINVAL);
	snprintf(text, sizeof(text),
		 ", \"cow_per_s\": %.0f, \"cows\": %" PRIu64
		 ", \"stores\": %u, \"back\": \"%s\", \"chunks_per_batch\": %.2f"
		 ", \"exceptions_per_commit\": %.2f, \"in_progress_peak\": %" PRIu64 ", \"staging_bytes\": %" PRIu64
		 ", \"snap_bytes\": %" PRIu64 "%s",
		 (double)o.count * 1e9 / (double)u.wall_ns, o.count, l.n_stores, target_back_name(l.origin->back),
		 (double)s.chunks / (double)s.batches, (double)s.exceptions / (double)s.commits, s.in_progress_peak,
		 c.staging_bytes_peak, s.memory_bytes, more);
	print(u, o.count * o.chunk * l.n_stores, text);
}

static int cow(char **paths)
{
	struct used start;

	open_load(paths);
	start = begin();
	for (uint64_t i = 0; i < o.qd && i < o.count; i++)
		write_next(&l.reqs[i]);
	while (l.done < o.count)
		check(snap_run(l.snap, deadline()), "run");
	print_load(end(start), "");
	close_load();
	return 0;
}

/* --- The flood --- */

static uint64_t anonymous_kib(int fd)
{
	char text[4096], *at;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		die("smaps_rollup", errno);
	text[n] = '\0';
	at = strstr(text, "\nAnonymous:");
	if (!at)
		die("smaps_rollup says nothing of anonymous memory", ENOENT);
	return strtoull(at + strlen("\nAnonymous:"), NULL, 10);
}

static int flood(char **paths)
{
	int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
	uint64_t before, now, least = UINT64_MAX, most = 0, samples = 0;
	int64_t due = 0;
	struct used start;
	char text[256];

	if (fd < 0)
		die("smaps_rollup", errno);
	open_load(paths);
	if (!o.count || o.qd < o.count)
		die("flood: qd must be as large as count", EINVAL);
	before = anonymous_kib(fd);
	start = begin();
	for (uint64_t i = 0; i < o.count; i++)
		write_next(&l.reqs[i]);
	while (l.done < o.count) {
		check(snap_run(l.snap, deadline()), "run");
		if (clock_ns() < due)
			continue;
		now = anonymous_kib(fd);
		least = now < least ? now : least;
		most = now > most ? now : most;
		samples++;
		due = clock_ns() + SAMPLE_NS;
	}
	snprintf(text, sizeof(text),
		 ", \"anonymous_before_kib\": %" PRIu64 ", \"anonymous_min_kib\": %" PRIu64
		 ", \"anonymous_max_kib\": %" PRIu64 ", \"samples\": %" PRIu64,
		 before, least, most, samples);
	print_load(end(start), text);
	close_load();
	return 0;
}

/* --- The bound --- */

/* One of `qd`: a read of a chunk and a write to it, at the same time. */
struct cow_io {
	struct io read, write;
	unsigned left;
};

static struct limit {
	struct io_loop *loop;
	struct target *origin, *store;
	const uint32_t *order;
	uint64_t next, done, read_bytes, store_at, store_waits;
	unsigned store_busy;
	char *store_data, *data;
	struct io store_io[STORE_WRITES];
	struct cow_io *cows;
} b;

static void cow_begin(struct cow_io *c);
static void store_next(struct io *io);

static void store_ended(struct io *io)
{
	check(io->err, "store");
	b.store_busy--;
	io->owner = NULL;
	if (b.store_waits) {
		b.store_waits--;
		store_next(io);
	}
}

static void store_next(struct io *io)
{
	*io = (struct io){ .target = b.store,
			   .op = IO_WRITE,
			   .offset = b.store_at,
			   .data = b.store_data,
			   .len = STORE_BYTES,
			   .done = store_ended,
			   .owner = &b };
	b.store_at += STORE_BYTES;
	b.store_busy++;
	io_start(b.loop, io);
}

/* As many bytes were read as one write of the store takes. */
static void store_fill(void)
{
	struct io *io = b.store_io;

	b.read_bytes -= STORE_BYTES;
	while (io < b.store_io + STORE_WRITES && io->owner)
		io++;
	if (io == b.store_io + STORE_WRITES)
		b.store_waits++;
	else
		store_next(io);
}

static void cow_ended(struct io *io)
{
	struct cow_io *c = io->owner;

	check(io->err, "bound");
	if (io->op == IO_READ) {
		b.read_bytes += o.chunk;
		if (b.read_bytes >= STORE_BYTES)
			store_fill();
	}
	if (--c->left)
		return;
	b.done++;
	cow_begin(c);
}

static void cow_begin(struct cow_io *c)
{
	uint64_t offset;

	if (b.next == o.count)
		return;
	offset = b.order[b.next++] * o.chunk;
	c->left = 2;
	c->read = (struct io){ .target = b.origin,
			       .op = IO_READ,
			       .offset = offset,
			       .data = b.data + (uint64_t)(c - b.cows) * o.chunk,
			       .len = (uint32_t)o.chunk,
			       .done = cow_ended,
			       .owner = c };
	c->write = (struct io){ .target = b.origin,
				.op = IO_WRITE,
				.offset = offset,
				.data = b.store_data,
				.len = WRITE_BYTES,
				.done = cow_ended,
				.owner = c };
	io_start(b.loop, &c->read);
	io_start(b.loop, &c->write);
}

static int cowlimit(char **paths)
{
	size_t bytes = STORE_BYTES + o.qd * o.chunk;
	struct used start;
	char text[128];

	check(io_loop_open(NULL, &b.loop), "loop");
	b.origin = open_target(b.loop, paths[0], TARGET_WRITE);
	b.store = open_target(b.loop, paths[1], TARGET_WRITE);
	b.order = shuffle(b.origin->size);
	b.cows = client_memory(o.qd * sizeof(*b.cows));
	b.store_data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (b.store_data == MAP_FAILED)
		die("memory", errno);
	memset(b.store_data, 0x5a, bytes);
	b.data = b.store_data + STORE_BYTES;
	io_loop_memory(b.loop, b.store_data, bytes);
	start = begin();
	for (uint64_t i = 0; i < o.qd && i < o.count; i++)
		cow_begin(&b.cows[i]);
	while (b.done < o.count || b.store_busy)
		check(io_run(b.loop, deadline()), "run");
	start = end(start);
	snprintf(text, sizeof(text), ", \"cow_per_s\": %.0f, \"cows\": %" PRIu64 ", \"back\": \"%s\"",
		 (double)o.count * 1e9 / (double)start.wall_ns, o.count, target_back_name(b.origin->back));
	print(start, o.count * o.chunk, text);
	target_close(b.origin);
	target_close(b.store);
	io_loop_close(b.loop);
	return 0;
}

/* --- Memory --- */

static char *map_file(int fd, uint64_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);

	if (p == MAP_FAILED)
		die("map", errno);
	return p;
}

static int memory_copy(char **paths)
{
	int from_fd = open(paths[0], O_RDWR | O_CLOEXEC), to_fd = open(paths[1], O_RDWR | O_CLOEXEC);
	const uint32_t *order;
	struct used start;
	struct stat st;
	char *from, *to, text[64];

	if (from_fd < 0 || to_fd < 0 || fstat(from_fd, &st) < 0)
		die("files", errno);
	from = map_file(from_fd, (uint64_t)st.st_size);
	to = map_file(to_fd, (uint64_t)st.st_size);
	order = shuffle((uint64_t)st.st_size);
	start = begin();
	/* From chunks in random order into one behind the other, as a store is filled. */
	for (uint64_t i = 0; i < o.count; i++) {
		if (o.nt)
			nt_copy(to + i * o.chunk, from + order[i] * o.chunk, o.chunk);
		else
			memcpy(to + i * o.chunk, from + order[i] * o.chunk, o.chunk);
	}
	start = end(start);
	snprintf(text, sizeof(text), ", \"chunks_per_s\": %.0f", (double)o.count * 1e9 / (double)start.wall_ns);
	print(start, o.count * o.chunk, text);
	return 0;
}

static double touch_ns(volatile char *p)
{
	int64_t from = clock_ns();

	for (size_t i = 0; i < TOUCH_BYTES; i += 4096)
		p[i] = 1;
	return (double)(clock_ns() - from) / (double)(TOUCH_BYTES / 4096);
}

static int touch(char **paths)
{
	char *p = mmap(NULL, TOUCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	double first;

	(void)paths;
	if (p == MAP_FAILED)
		die("memory", errno);
	madvise(p, TOUCH_BYTES, MADV_NOHUGEPAGE);
	first = touch_ns(p);
	printf("{\"first_ns_per_page\": %.1f, \"again_ns_per_page\": %.1f}\n", first, touch_ns(p));
	return 0;
}

static const struct role {
	const char *name;
	int paths; /* at least */
	int (*run)(char **paths);
} roles[] = {
	{ "copy", 2, copy },	     { "splice", 2, splice_all },  { "cfr", 2, cfr },	  { "cow", 2, cow },
	{ "cowlimit", 2, cowlimit }, { "memcpy", 2, memory_copy }, { "flood", 2, flood }, { "touch", 0, touch },
};

static int usage(void)
{
	fprintf(stderr, "usage: bench_engine ROLE [OPTION=VALUE...] [FILE...]\nroles:");
	for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
		fprintf(stderr, " %s", roles[i].name);
	fprintf(stderr, "\n");
	for (const struct opt *opt = table; opt->name; opt++)
		fprintf(stderr, "  %-10s %s (%s)\n", opt->name, opt->help, opt->def);
	return 2;
}

/* The options; the files that follow them begin at the return value, or 0. */
static int parse(int argc, char **argv)
{
	char name[32], err[256];
	int i;

	opts_defaults(table, &o);
	for (i = 2; i < argc && strchr(argv[i], '=') && *argv[i] != '/' && *argv[i] != '.'; i++) {
		size_t n = strcspn(argv[i], "=");

		snprintf(name, sizeof(name), "%.*s", (int)n, argv[i]);
		if (opts_set(table, &o, name, argv[i] + n + 1, err, sizeof(err))) {
			fprintf(stderr, "bench_engine: %s\n", err);
			return 0;
		}
	}
	return i;
}

int main(int argc, char **argv)
{
	int first = argc > 1 ? parse(argc, argv) : 0;

	for (size_t i = 0; first && i < sizeof(roles) / sizeof(roles[0]); i++)
		if (strcmp(roles[i].name, argv[1]) == 0 && argc - first >= roles[i].paths &&
		    argc - first <= 1 + MAX_STORES)
			return roles[i].run(argv + first);
	return usage();
}
