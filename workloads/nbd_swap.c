// SPDX-License-Identifier: MIT
/*
 * nbd-swap: swap on a device that a process of the same machine serves (seed 004).
 *
 * To swap a page out, the kernel sends it to the server; the server needs memory to write it; the kernel has none
 * before the page is out. Whether that is a deadlock depends on the server: one that may not wait for I/O when it
 * allocates (IO_FLUSHER), whose own pages cannot be swapped out (mlock), that the OOM killer leaves alone, that needs
 * little memory and has that from the beginning (reserve, bounded jobs).
 *
 * The servers are ours, and stock ones under `headroom shield`. They run outside of the load's cgroup, as a system's
 * daemon does. The detector looks at the server's threads: those that stand in reclaim, or wait for a page of their own
 * to come back, while the device they serve has ended nothing, stand in the deadlock. Then its connection is taken
 * away: all that waited for it must go on.
 */
#include "base/clock.h"
#include "base/sysfile.h"
#include "dev/dmdev.h"
#include "dev/nbddev.h"
#include "dev/swapdev.h"
#include "engine/protect.h"
#include "hotplug/stack.h"
#include "run/facts.h"
#include "run/undo.h"
#include "run/workload.h"
#include "workloads/common/swapload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTORS_PER_MIB 2048ULL
#define PRIORITY	100
#define START_MS	30000 /* for the server to listen, in an emulated machine */
#define BLOCK		"4096"
#define MAX_THREADS	64
#define FRAMES		8 /* of a thread's stack, to be shown */
#define LOOK_NS		(500 * NS_PER_MS)
#define DRAIN_MS	10000
#define LET_GO_MS	100
#define MAX_SOCKETS	8
#define BALLAST		((size_t)1 << 20)
#define KEY_BYTES	32 /* aes-xts-plain64 with 128 bits */

#ifndef PR_SET_IO_FLUSHER /* <linux/prctl.h> since Linux 5.6 */
#define PR_SET_IO_FLUSHER 57
#endif

enum server { SERVER_HEADROOM, SERVER_NBDKIT, SERVER_QEMU };

struct nbd_opts {
	struct swapload_opts load;
	uint64_t swap_pct, hold_s;
	unsigned server;
	bool crypt, io_flusher, mlock, oom_protect, reserve, bounded_jobs;
};

static const char *const server_choices[] = { "headroom", "nbdkit", "qemu-nbd", NULL };

#define FIELD(name) offsetof(struct nbd_opts, name)
static const struct opt nbd_options[] = {
	{ "server", OPT_ENUM, FIELD(server), "headroom", 0, 0, server_choices, NULL, "who serves the device" },
	{ "crypt", OPT_BOOL, FIELD(crypt), "no", 0, 0, NULL, NULL, "dm-crypt between swap and the device" },
	{ "swap_pct", OPT_U64, FIELD(swap_pct), "200", 10, 10000, NULL, "% of memory", "size of the device" },
	SWAPLOAD_OPTIONS(FIELD(load)),
	{ "hold_s", OPT_U64, FIELD(hold_s), "8", 2, 600, NULL, "s", "that a deadlock must stay to be called one" },
	{ "io_flusher", OPT_BOOL, FIELD(io_flusher), "yes", 0, 0, NULL, NULL,
	  "what the server allocates is not waited for at its own device" },
	{ "mlock", OPT_BOOL, FIELD(mlock), "yes", 0, 0, NULL, NULL, "the server's pages are not swapped out" },
	{ "oom_protect", OPT_BOOL, FIELD(oom_protect), "yes", 0, 0, NULL, NULL,
	  "the OOM killer leaves the server alone" },
	{ "reserve", OPT_BOOL, FIELD(reserve), "yes", 0, 0, NULL, NULL,
	  "the server has its memory from the beginning (headroom's only)" },
	{ "bounded_jobs", OPT_BOOL, FIELD(bounded_jobs), "yes", 0, 0, NULL, NULL,
	  "the server bounds the copies in flight (headroom's only)" },
	{ 0 },
};

/* The knobs in the record. */
#define KNOB(name) "nbd_swap." name

static const struct mitigation nbd_mitigations[] = {
	{
		.name = "io-flusher",
		.summary = "PR_SET_IO_FLUSHER for every thread of the server",
		.seed = "004",
		.knobs = { { KNOB("io_flusher"), NULL } },
		.option = "io_flusher",
		.off = "no",
		.on = "yes",
		.value_help = "none",
	},
	{
		.name = "mlock",
		.summary = "the server's memory is locked",
		.seed = "004",
		.knobs = { { KNOB("mlock"), NULL } },
		.option = "mlock",
		.off = "no",
		.on = "yes",
		.value_help = "none",
	},
	{
		.name = "oom-protect",
		.summary = "oom_score_adj -1000 for the server",
		.seed = "004",
		.knobs = { { KNOB("oom_protect"), NULL } },
		.option = "oom_protect",
		.off = "no",
		.on = "yes",
		.value_help = "none",
	},
	{
		.name = "reserve",
		.summary = "all memory of the server's requests and copies is there before the first",
		.seed = "004",
		.knobs = { { KNOB("reserve"), NULL } },
		.option = "reserve",
		.off = "no",
		.on = "yes",
		.value_help = "none",
		.only = "headroom serve",
	},
	{
		.name = "bounded-jobs",
		.summary = "a cap on the copies in flight",
		.seed = "001",
		.knobs = { { KNOB("bounded_jobs"), NULL } },
		.option = "bounded_jobs",
		.off = "no",
		.on = "yes",
		.value_help = "none",
		.only = "headroom serve",
	},
	{ 0 },
};

static const struct metric nbd_metrics[] = {
	SWAPLOAD_METRICS,
	{ "deadlocked", "", LESS, "the server waited for its own device" },
	{ "drain_ms", "ms", LESS, "from taking the device away until the server had gone on" },
	{ 0 },
};

static uint64_t scratch_sectors(const void *opts, uint64_t memory_mib)
{
	const struct nbd_opts *o = opts;

	return memory_mib * o->swap_pct / 100 * SECTORS_PER_MIB;
}

/* --- Set-up: disk, server, device, swap --- */

/* From setup() to run(), which is its child. */
static struct served {
	pid_t pid;
	char device[32]; /* "/dev/nbd0" */
	bool jobs_known, reserve, bounded_jobs;
} served;

struct name {
	char text[64];
};

static struct name named(const struct cell *c, const char *what)
{
	struct name n;

	snprintf(n.text, sizeof(n.text), "%s-%s", c->run_id, what);
	return n;
}

static struct name node_of(const struct name *dm)
{
	struct name n;

	snprintf(n.text, sizeof(n.text), "/dev/mapper/%s", dm->text);
	return n;
}

static void socket_of(const struct cell *c, char *path, size_t size)
{
	snprintf(path, size, "%s/nbd.sock", c->work_dir);
}

static int make_dm(const struct cell *c, const struct name *name, const char *target, const char *params)
{
	int err = undo_note("dm", name->text, NULL);

	if (!err)
		err = dmdev_create(name->text, c->scratch_sectors, target, params);
	if (err)
		cell_fail(c, "create %s (%s): %s", name->text, target, strerror(-err));
	return err;
}

/* Our part of the scratch disk, as a device of its own that any server can take. */
static int make_disk(const struct cell *c)
{
	struct name name = named(c, "disk");
	char params[PATH_MAX];

	snprintf(params, sizeof(params), "%s %" PRIu64, c->scratch, c->scratch_start);
	return make_dm(c, &name, "linear", params);
}

/* Those of `headroom shield` and `headroom serve` that are to be left out. */
static void without_of(const struct nbd_opts *o, char *list, size_t size)
{
	bool ours = o->server == SERVER_HEADROOM;

	snprintf(list, size, "--without=%s%s%s%s%s", o->io_flusher ? "" : "io-flusher,", o->mlock ? "" : "mlock,",
		 o->oom_protect ? "" : "oom-protect,", !ours || o->reserve ? "" : "reserve,",
		 !ours || o->bounded_jobs ? "" : "bounded-jobs,");
}

static void exec_server(const struct cell *c)
{
	const struct nbd_opts *o = c->opts;
	char socket[PATH_MAX], without[96], at[PATH_MAX + 16];
	struct name disk = named(c, "disk"), node = node_of(&disk);

	socket_of(c, socket, sizeof(socket));
	without_of(o, without, sizeof(without));
	snprintf(at, sizeof(at), "--socket=%s", socket);
	switch ((enum server)o->server) {
	case SERVER_HEADROOM:
		execlp("headroom", "headroom", "serve", "--json", without, at, node.text, NULL);
		break;
	case SERVER_NBDKIT:
		execlp("headroom", "headroom", "shield", "--settle=0", without, "--", "nbdkit", "--foreground",
		       "--unix", socket, "file", node.text, NULL);
		break;
	case SERVER_QEMU:
		execlp("headroom", "headroom", "shield", "--settle=0", without, "--", "qemu-nbd", "--persistent",
		       "--format=raw", at, node.text, NULL);
		break;
	}
	_exit(127);
}

static void redirect(const struct cell *c, const char *suffix, int to)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/server.%s", c->work_dir, suffix);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || dup2(fd, to) < 0)
		_exit(126);
}

/*
 * Nothing of the runner's protection comes with it, and it goes on when the hook is over: the undo log ends it. So it
 * may begin only when that knows it.
 */
static int start_server(const struct cell *c)
{
	int go[2], err;
	char byte = 0;
	pid_t pid;

	if (pipe2(go, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		close(go[1]);
		if (read(go[0], &byte, 1) != 1)
			_exit(1);
		setpgid(0, 0);
		signal(SIGINT, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		sysfile_write("/proc/self/oom_score_adj", "0");
		redirect(c, "out", STDOUT_FILENO);
		redirect(c, "err", STDERR_FILENO);
		exec_server(c);
	}
	close(go[0]);
	err = pid < 0 ? -errno : undo_note_process(pid);
	if (!err && write(go[1], &byte, 1) != 1)
		err = -EPIPE;
	close(go[1]);
	served.pid = pid;
	return err;
}

/* It listens, or has ended. */
static int await_server(const struct cell *c)
{
	char socket[PATH_MAX];
	int64_t until = clock_ns() + START_MS * NS_PER_MS;

	socket_of(c, socket, sizeof(socket));
	while (access(socket, F_OK) < 0) {
		if (waitpid(served.pid, NULL, WNOHANG) != 0) {
			cell_fail(c, "%s ended before it listened: see server.err",
				  server_choices[((const struct nbd_opts *)c->opts)->server]);
			return -ECHILD;
		}
		if (clock_ns() >= until) {
			cell_fail(c, "the server does not listen at %s", socket);
			return -ETIMEDOUT;
		}
		clock_sleep_ms(20);
	}
	return 0;
}

static int connect_device(const struct cell *c)
{
	char socket[PATH_MAX];
	const char *const argv[] = { "nbd-client", "-unix", socket, served.device, "-b", BLOCK, NULL };
	int err = nbddev_unused(served.device, sizeof(served.device)), rc;

	if (err) {
		cell_fail(c, "no NBD device is free: %s", strerror(-err));
		return err;
	}
	socket_of(c, socket, sizeof(socket));
	err = undo_note("nbd", served.device, NULL);
	if (err)
		return err;
	rc = cell_tool(c, "nbd-client", argv);
	if (!rc)
		return 0;
	cell_fail(c, "nbd-client %s: %s", served.device, rc < 0 ? strerror(-rc) : "see nbd-client.err");
	return rc < 0 ? rc : -EIO;
}

/* Random, and nobody's to know: swap is not read again by anybody else. */
static int make_crypt(const struct cell *c, const struct name *name)
{
	unsigned char key[KEY_BYTES];
	char params[256], hex[2 * KEY_BYTES + 1];
	int err;

	if (getrandom(key, sizeof(key), 0) != sizeof(key))
		return -EIO;
	for (size_t i = 0; i < sizeof(key); i++)
		snprintf(hex + 2 * i, 3, "%02x", key[i]);
	snprintf(params, sizeof(params), "aes-xts-plain64 %s 0 %s 0", hex, served.device);
	err = make_dm(c, name, "crypt", params);
	explicit_bzero(key, sizeof(key));
	explicit_bzero(hex, sizeof(hex));
	explicit_bzero(params, sizeof(params));
	return err;
}

static int swap_on(const struct cell *c)
{
	const struct nbd_opts *o = c->opts;
	struct name crypt = named(c, "swap"), node = node_of(&crypt);
	const char *path = o->crypt ? node.text : served.device;
	const char *const mkswap[] = { "mkswap", path, NULL };
	int err = o->crypt ? make_crypt(c, &crypt) : 0, rc;

	if (err)
		return err;
	rc = cell_tool(c, "mkswap", mkswap);
	if (rc) {
		cell_fail(c, "mkswap %s: %s", path, rc < 0 ? strerror(-rc) : "see mkswap.err");
		return rc < 0 ? rc : -EIO;
	}
	err = undo_note("swap", path, NULL);
	if (!err)
		err = swapdev_on(path, PRIORITY);
	if (err)
		cell_fail(c, "swap on %s: %s", path, strerror(-err));
	return err;
}

/* --- What the server has, by /proc and by its own word --- */

static const char *yes_no(enum protect_state s)
{
	return s == PROTECT_ON ? "yes" : s == PROTECT_OFF ? "no" : protect_state_name(s);
}

static void tell_protection(const char *knob, bool wanted, const struct protect_fact *f)
{
	cell_knob(knob, wanted ? "yes" : "no", f->seen == PROTECT_UNKNOWN ? NULL : yes_no(f->seen));
}

static void tell_protections(const struct cell *c)
{
	const struct nbd_opts *o = c->opts;
	struct protect_report r = { 0 };
	char proc[32];

	snprintf(proc, sizeof(proc), "/proc/%d", (int)served.pid);
	protect_attest(proc, &r);
	tell_protection(KNOB("io_flusher"), o->io_flusher, &r.of[PROTECT_IO_FLUSHER]);
	tell_protection(KNOB("mlock"), o->mlock, &r.of[PROTECT_MLOCK]);
	tell_protection(KNOB("oom_protect"), o->oom_protect, &r.of[PROTECT_OOM_SCORE]);
	cell_event("server", "%s (pid %d): io-flusher %s; mlock %s; oom-protect %s", server_choices[o->server],
		   (int)served.pid, r.of[PROTECT_IO_FLUSHER].evidence, r.of[PROTECT_MLOCK].evidence,
		   r.of[PROTECT_OOM_SCORE].evidence);
}

/* The line with which `headroom serve` begins. */
static void tell_own_word(const struct cell *c)
{
	const struct nbd_opts *o = c->opts;
	char path[PATH_MAX];
	json_t *line = NULL, *protections;
	const char *reserve, *bounded;

	snprintf(path, sizeof(path), "%s/server.out", c->work_dir);
	if (o->server == SERVER_HEADROOM)
		line = json_load_file(path, JSON_DISABLE_EOF_CHECK, NULL);
	protections = json_object_get(line, "protections");
	reserve = json_string_value(json_object_get(protections, "reserve"));
	bounded = json_string_value(json_object_get(protections, "bounded-jobs"));
	cell_knob(KNOB("reserve"), o->reserve ? "yes" : "no",
		  reserve ? strcmp(reserve, "on") == 0 ? "yes" : "no" : NULL);
	cell_knob(KNOB("bounded_jobs"), o->bounded_jobs ? "yes" : "no",
		  bounded ? strcmp(bounded, "on") == 0 ? "yes" : "no" : NULL);
	json_decref(line);
}

static int setup(struct cell *c)
{
	int err = make_disk(c);

	if (!err) {
		err = start_server(c);
		if (err)
			cell_fail(c, "start the server: %s", strerror(-err));
	}
	if (!err)
		err = await_server(c);
	if (!err)
		err = connect_device(c);
	if (!err) {
		tell_protections(c);
		tell_own_word(c);
		cell_device("swap", served.device + strlen("/dev/"));
		err = swap_on(c);
	}
	return err;
}

/* --- The detector --- */

/*
 * A thread of the server. Its stack's file is opened before anything is short: to open one takes more memory than to
 * read it again.
 */
struct thread {
	pid_t tid;
	int fd;
	char comm[20];
	struct stack stack;
	const char *why; /* how it waits for its own device; NULL: it does not */
};

struct detector {
	const struct cell *c;
	int stat, device;	  /* what the device has ended; the device itself */
	int sockets[MAX_SOCKETS]; /* the server's ends of its connections */
	unsigned n_sockets;
	struct thread threads[MAX_THREADS];
	unsigned n;
	void *ballast;	       /* memory of its own, given back when it has to look and there is no other */
	uint64_t began, ended; /* requests: before the load, and as of the last look */
	int64_t since_ns, looked_ns;
	bool found;
};

/* Of the functions that are on its stack, the one that says so. */
static const char *why_waiting(const struct stack *s)
{
	static const struct {
		const char *function, *words;
	} ways[] = {
		{ "try_to_free_pages", "in reclaim" },	     /* mm/vmscan.c, and all that it calls */
		{ "throttle_direct_reclaim", "in reclaim" }, /* inlined into the other, or not */
		{ "do_swap_page", "for a page of its own" }, /* mm/memory.c */
	};

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		if (stack_find(s, ways[i].function) < s->n)
			return ways[i].words;
	return NULL;
}

static void look_at_thread(struct thread *t)
{
	char text[STACK_TEXT];
	ssize_t n = pread(t->fd, text, sizeof(text), 0);

	stack_parse(&t->stack, text, n > 0 ? (size_t)n : 0);
	t->why = why_waiting(&t->stack);
}

static bool knows(const struct detector *d, pid_t tid)
{
	for (unsigned i = 0; i < d->n; i++)
		if (d->threads[i].tid == tid)
			return true;
	return false;
}

static void add_thread(struct detector *d, pid_t tid)
{
	struct thread *t = &d->threads[d->n];
	char path[64];

	if (d->n == MAX_THREADS || knows(d, tid))
		return;
	*t = (struct thread){ .tid = tid };
	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", (int)served.pid, (int)tid);
	if (sysfile_read(path, t->comm, sizeof(t->comm)) < 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/stack", (int)served.pid, (int)tid);
	t->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (t->fd < 0)
		return;
	look_at_thread(t);
	d->n++;
}

static void find_threads(struct detector *d)
{
	char path[64];
	const struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)served.pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		if (*e->d_name != '.')
			add_thread(d, (pid_t)strtol(e->d_name, NULL, 10));
	if (dir)
		closedir(dir);
}

/*
 * What the device has ended, and whether more is under way. Documentation/block/stat.rst: the 1st and the 5th are reads
 * and writes that have ended, the 9th what is under way.
 */
static bool read_stat(const struct detector *d, uint64_t *ended, uint64_t *in_flight)
{
	char text[512];
	ssize_t n = pread(d->stat, text, sizeof(text) - 1, 0);
	uint64_t reads, writes;

	text[n > 0 ? n : 0] = 0;
	if (sscanf(text, "%" SCNu64 " %*u %*u %*u %" SCNu64 " %*u %*u %*u %" SCNu64, &reads, &writes, in_flight) != 3)
		return false;
	*ended = reads + writes;
	return true;
}

static unsigned look_at_threads(struct detector *d)
{
	unsigned waiting = 0;

	for (unsigned i = 0; i < d->n; i++) {
		look_at_thread(&d->threads[i]);
		waiting += d->threads[i].why != NULL;
	}
	return waiting;
}

/*
 * To end a connection whose both ends stand still there is only shutdown(2): the device's own calls wait for the lock
 * of who sends to the server, and the server does not die where it stands.
 */
static void find_sockets(struct detector *d)
{
	int pidfd = (int)syscall(SYS_pidfd_open, served.pid, 0), listens;
	char path[64];
	const struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)served.pid);
	dir = pidfd < 0 ? NULL : opendir(path);
	while (dir && d->n_sockets < MAX_SOCKETS && (e = readdir(dir))) {
		int fd = *e->d_name == '.' ? -1
					   : (int)syscall(SYS_pidfd_getfd, pidfd, (int)strtol(e->d_name, NULL, 10), 0);

		if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &(socklen_t){ sizeof(int) }) == 0 &&
		    !listens)
			d->sockets[d->n_sockets++] = fd;
		else if (fd >= 0)
			close(fd);
	}
	if (dir)
		closedir(dir);
	if (pidfd >= 0)
		close(pidfd);
}

static void open_detector(struct detector *d, const struct cell *c)
{
	char path[64];

	*d = (struct detector){ .c = c };
	/* Who finds out must not stand in it. */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	snprintf(path, sizeof(path), "/sys/block/%s/stat", served.device + strlen("/dev/"));
	d->stat = open(path, O_RDONLY | O_CLOEXEC);
	d->device = open(served.device, O_RDWR | O_CLOEXEC);
	d->since_ns = clock_ns();
	d->ballast = mmap(NULL, BALLAST, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
	read_stat(d, &d->began, &(uint64_t){ 0 });
	d->ended = d->began;
	find_threads(d);
	find_sockets(d);
}

static void add_threads(struct jsonw *j, const void *arg)
{
	const struct detector *d = arg;

	jsonw_str(j, "workload", d->c->workload->name);
	jsonw_array(j, "steps");
	for (unsigned i = 0; i < d->n; i++) {
		const struct thread *t = &d->threads[i];

		if (!t->why)
			continue;
		jsonw_object(j, NULL);
		jsonw_i64(j, "pid", t->tid);
		jsonw_str(j, "comm", t->comm);
		jsonw_str(j, "where", t->stack.names[0]);
		jsonw_str(j, "waits", served.device);
		jsonw_array(j, "stack");
		for (unsigned k = 0; k < t->stack.n && k < FRAMES; k++)
			jsonw_str(j, NULL, t->stack.names[k]);
		jsonw_array_end(j);
		jsonw_object_end(j);
	}
	jsonw_array_end(j);
}

static void tell_deadlock(struct detector *d, unsigned waiting, uint64_t in_flight, int64_t now)
{
	const struct thread *first = d->threads;
	char words[400];

	while (!first->why)
		first++;
	snprintf(words, sizeof(words),
		 "%u of %u threads of %s (pid %d) wait for %s, which it serves itself: %s (thread %d) %s, in %s; for "
		 "%.1f s "
		 "the device has ended none of %" PRIu64 " requests",
		 waiting, d->n, server_choices[((const struct nbd_opts *)d->c->opts)->server], (int)served.pid,
		 served.device, first->comm, (int)first->tid, first->why, first->stack.names[0],
		 (double)(now - d->since_ns) / NS_PER_S, in_flight);
	cell_deadlock(d->c, add_threads, d, words);
}

static void add_ending(struct jsonw *j, const void *arg)
{
	const struct detector *d = arg;

	jsonw_str(j, "workload", d->c->workload->name);
	jsonw_strf(j, "broken_by", "shutdown of the %u connections of the server", d->n_sockets);
	jsonw_bool(j, "drained", look_at_threads((struct detector *)d) == 0);
}

/*
 * Nobody else would ever end it: the requests fail, and with them the load. First whoever sends to the server is let
 * go, who has the device's locks; then what the server has taken and never answered.
 */
static void break_deadlock(struct detector *d)
{
	int64_t begin = clock_ns();
	bool drained = false;

	for (unsigned i = 0; i < d->n_sockets; i++)
		shutdown(d->sockets[i], SHUT_RDWR);
	clock_sleep_ms(LET_GO_MS);
	nbddev_fail_all(d->device);
	while (!drained && clock_ns() - begin < DRAIN_MS * NS_PER_MS) {
		clock_sleep_ms(20);
		drained = look_at_threads(d) == 0;
	}
	if (drained)
		cell_metric_fixed(d->c, "drain_ms", (clock_ns() - begin) / 1000, 3);
	cell_event_with("deadlock-end", add_ending, d, "the device was taken away, and the server %s",
			drained ? "went on" : "did not go on");
}

static int look(void *arg, bool all_written)
{
	struct detector *d = arg;
	const struct nbd_opts *o = d->c->opts;
	int64_t now = clock_ns();
	uint64_t ended, in_flight;
	unsigned waiting;

	(void)all_written;
	if (now - d->looked_ns < LOOK_NS || !read_stat(d, &ended, &in_flight))
		return 0;
	d->looked_ns = now;
	/* While there is memory: a directory of /proc takes more than a stack that is read again. */
	if (ended == d->began)
		find_threads(d);
	if (ended != d->ended || !in_flight) {
		d->ended = ended;
		d->since_ns = now;
		return 0;
	}
	if (d->ballast != MAP_FAILED && now - d->since_ns >= NS_PER_S) {
		munmap(d->ballast, BALLAST);
		d->ballast = MAP_FAILED;
	}
	waiting = look_at_threads(d);
	if (!waiting)
		d->since_ns = now;
	if (now - d->since_ns < (int64_t)o->hold_s * NS_PER_S)
		return 0;
	d->found = true;
	tell_deadlock(d, waiting, in_flight, now);
	break_deadlock(d);
	cell_fail(d->c, "the load had to be ended: its swap was taken away");
	return -EDEADLK;
}

/* --- Hooks --- */

static int run(struct cell *c)
{
	static struct detector d;
	const struct nbd_opts *o = c->opts;
	int err;

	open_detector(&d, c);
	err = swapload_run(c, &o->load, c->scratch_sectors * 512, look, &d);
	cell_metric_bool(c, "deadlocked", d.found);
	/* All threads are there by now, those of io_uring as well. */
	if (!d.found)
		tell_protections(c);
	return err;
}

/* The allocators have compared every page. */
static int verify(struct cell *c)
{
	(void)c;
	return 0;
}

static void attest(const struct facts *f, const void *opts, struct attestation *a)
{
	(void)opts;
	a->exercised = !f->have_swap ? UNKNOWN : f->swap_out_mib > 0 || f->deadlock ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "the server's /proc, or its own word, says %s; %.0f MiB swapped out",
		 a->read_back, f->swap_out_mib);
}

static const struct workload nbd_swap = {
	.name = "nbd-swap",
	.summary = "swap on a device that a process of the same machine serves",
	.modules = (const char *const[]){ "nbd", "dm-mod", "dm-crypt", "xts?", "aesni-intel?", NULL },
	.programs = (const char *const[]){ "stress-ng", "mkswap", "nbd-client", "nbdkit?",
					   "/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-file-plugin.so?",
					   "/usr/lib64/nbdkit/plugins/nbdkit-file-plugin.so?", "qemu-nbd?", NULL },
	.watch_threads = (const char *const[]){ "kswapd", NULL },
	.exercises = (const char *const[]){ "nbd_queue_rq", "try_to_free_pages", "swap_writepage", NULL },
	.opts = nbd_options,
	.opts_size = sizeof(struct nbd_opts),
	.mitigations = nbd_mitigations,
	.metrics = nbd_metrics,
	.scratch_sectors = scratch_sectors,
	.setup = setup,
	.run = run,
	.verify = verify,
	.attest = attest,
};
WORKLOAD_REGISTER(nbd_swap);
