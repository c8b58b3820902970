// SPDX-License-Identifier: MIT
/*
 * swap-crypt: swap on dm-crypt under a load that is larger than memory.
 *
 * Each page that is swapped out needs a page for its ciphertext, a bio and a crypt request before it gives anything
 * back: memory is needed to free memory (seed 003). What bounds that is the mitigation `swap-limit`, a cap on the swap
 * bios in flight in a device-mapper device; the others decide in whose context the pages are taken (`crypt-workqueue`),
 * in what pieces (`crypt-split`), and how much is kept back for it (`reserves`).
 *
 * The load is an allocator that fills every page with data of its own and compares it on the way back, and, beside it
 * where asked for, stress-ng's vm stressors. How long the allocator gets no page at all is the standstill that users
 * of encrypted swap complain about.
 *
 * Only the swap device that is made here is ever switched on or off, by its own path, and the undo log knows it.
 */
#include "base/clock.h"
#include "base/pattern.h"
#include "dev/dmdev.h"
#include "dev/swapdev.h"
#include "run/facts.h"
#include "run/undo.h"
#include "run/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTORS_PER_MIB 2048ULL
#define MAX_KEY_BYTES	64
#define MAX_ALLOCATORS	64
#define LOOK_MS		50
#define TELL_MS		100 /* a standstill that is not worth a word is shorter */
#define STOP_LOOK	64  /* pages between two looks at the clock */
#define AHEAD		64  /* pages that are asked for at once */
#define DAMAGE_BYTES	(32ULL << 20)
#define DAMAGE_PIECE	(1U << 20)
#define MAX_RECLAIMERS	256  /* tasks that may swap out at once: those of the load, and what runs beside it */
#define DEFAULT_LIMIT	2048 /* DEFAULT_SWAP_BIOS: 8 MiB of 4 KiB pages, drivers/md/dm.c */
#define SPLIT_KIB	128  /* DM_CRYPT_DEFAULT_MAX_WRITE_SIZE, drivers/md/dm-crypt.c, Linux 6.12 */
#define MEBI		((uint64_t)1 << 20)

#define DRIVER_KNOB    "crypto.driver"
#define WORKQUEUE_KNOB "dm_crypt.write_workqueue"

enum damage { DAMAGE_NONE, DAMAGE_SWAP };

struct swap_opts {
	uint64_t swap_pct, priority, load_memory_pct, load_swap_pct, rounds, time_s, allocators, stress_pct, stressors,
		key_bits, sector_size;
	unsigned cipher, damage;
	bool huge_pages, write_workqueue, other_swap;
};

/* The cipher as dm-crypt takes it, and the kernel's name of the algorithm behind it. */
static const char *const cipher_choices[] = { "aes-xts-plain64", "aes-cbc-plain64", "serpent-xts-plain64",
					      "twofish-xts-plain64", NULL };
static const char *const algorithms[] = { "xts(aes)", "cbc(aes)", "xts(serpent)", "xts(twofish)" };
static const char *const damage_choices[] = { "none", "swap", NULL };

#define FIELD(name) offsetof(struct swap_opts, name)
static const struct opt swap_options[] = {
	{ "swap_pct", OPT_U64, FIELD(swap_pct), "200", 10, 10000, NULL, "% of memory", "size of the swap device" },
	{ "priority", OPT_U64, FIELD(priority), "100", 0, SWAPDEV_MAX_PRIORITY, NULL, NULL,
	  "of the swap device; the kernel fills the highest first" },
	{ "other_swap", OPT_BOOL, FIELD(other_swap), "no", 0, 0, NULL, NULL,
	  "run also where the machine swaps already: it would be drawn into the load" },
	{ "load_memory_pct", OPT_U64, FIELD(load_memory_pct), "100", 1, 1000, NULL, "% of memory",
	  "size of the load, one part" },
	{ "load_swap_pct", OPT_U64, FIELD(load_swap_pct), "25", 0, 100, NULL, "% of the swap device",
	  "size of the load, the other part" },
	{ "rounds", OPT_U64, FIELD(rounds), "1", 1, 1000, NULL, NULL,
	  "times that the allocator writes all of its memory; all is compared before the next, and at the end" },
	{ "time_s", OPT_U64, FIELD(time_s), "0", 0, 86400, NULL, "s",
	  "0: as long as the rounds take; else it writes for so long, in as many rounds as that gives" },
	{ "allocators", OPT_U64, FIELD(allocators), "1", 1, MAX_ALLOCATORS, NULL, NULL,
	  "processes that share its part of the load" },
	{ "stress_pct", OPT_U64, FIELD(stress_pct), "0", 0, 90, NULL, "%",
	  "share of the load that stress-ng's vm stressors take, as long as the allocator writes" },
	{ "stressors", OPT_U64, FIELD(stressors), "1", 1, 64, NULL, NULL, "of stress-ng" },
	{ "huge_pages", OPT_BOOL, FIELD(huge_pages), "no", 0, 0, NULL, NULL,
	  "transparent huge pages, which are swapped out whole, in large writes" },
	{ "cipher", OPT_ENUM, FIELD(cipher), "aes-xts-plain64", 0, 0, cipher_choices, NULL, "as dm-crypt takes it" },
	{ "key_bits", OPT_U64, FIELD(key_bits), "256", 128, 512, NULL, "bits", "random key; xts takes two in one" },
	{ "sector_size", OPT_U64, FIELD(sector_size), "512", 512, 4096, NULL, "bytes",
	  "unit of encryption, a power of two" },
	{ "write_workqueue", OPT_BOOL, FIELD(write_workqueue), "yes", 0, 0, NULL, NULL,
	  "writes are encrypted by kcryptd, not by who submits them; the mitigation crypt-workqueue sets it" },
	{ "damage", OPT_ENUM, FIELD(damage), "none", 0, 0, damage_choices, NULL,
	  "spoil swapped-out data on the disk, to see that the proof sees it" },
	{ 0 },
};

static const struct mitigation swap_mitigations[] = {
	{
		.name = "swap-limit",
		.summary = "a cap on the swap writes in flight in a device-mapper device",
		.seed = "003",
		.knobs = { { "dm_mod.swap_bios", "/sys/module/dm_mod/parameters/swap_bios" } },
		.off = "1048576", /* not the largest: the kernel takes that many steps to get there */
		.on = "2048",
		.value_help = "writes in flight; 0 and less mean the default, 2048",
		.since = "Linux 5.12",
	},
	{
		.name = "crypt-workqueue",
		.summary = "swapped pages are encrypted by a worker, not by the task that reclaims memory",
		.seed = "003",
		.knobs = { { WORKQUEUE_KNOB, NULL } },
		.option = "write_workqueue",
		.off = "no",
		.on = "yes",
		.value_help = "none",
	},
	{
		.name = "crypt-split",
		.summary = "large writes are encrypted in pieces",
		.seed = "003",
		.knobs = { { "dm_crypt.max_write_size", "/sys/module/dm_crypt/parameters/max_write_size" } },
		.off = "1048576",
		.on = "131072",
		.value_help = "bytes; 0 means the default, 131072",
		.since = "Linux 6.12",
	},
	{
		.name = "reserves",
		.summary = "more memory is kept free, and reclaim starts earlier",
		.seed = "003",
		.knobs = { { "vm.min_free_kbytes", "/proc/sys/vm/min_free_kbytes" },
			   { "vm.watermark_scale_factor", "/proc/sys/vm/watermark_scale_factor" } },
		.off = "x1/10",
		.on = "x4/200",
		.value_help = "KiB, or xN for N times the machine's own / ten-thousandths of a zone",
	},
	/* What the thread of the seed led to. The other half, mempools that eat all reserves, leaves no name behind. */
	{
		.name = "throttle-removal",
		.summary = "who encrypts is no longer put to sleep for being short of memory",
		.seed = "003",
		.knobs = { { "kernel.throttle_vm_writeout", NULL } },
		.gone = "throttle_vm_writeout",
		.off = "present",
		.on = "absent",
		.since = "2016 (commit bf48438354)",
	},
	{ 0 },
};

static const struct metric swap_metrics[] = {
	{ "load_mib", "MiB", NEITHER, "size of the load" },
	{ "allocator_mib_s", "MiB/s", MORE, "rate of the allocator, all rounds, until the last byte was compared" },
	{ "pages_compared", "pages", NEITHER, "pages that came back as they were written" },
	{ "standstill_max_ms", "ms", LESS, "longest time in which the allocator got no page" },
	{ 0 },
};

static int check(const void *opts, char *err, size_t err_size)
{
	const struct swap_opts *o = opts;
	bool xts = strstr(cipher_choices[o->cipher], "-xts-");
	uint64_t least = xts ? 256 : 128, most = xts ? 512 : 256;

	/* xts takes two keys of 128 or 256 bits, cbc one of 128, 192 or 256. */
	if (o->key_bits < least || o->key_bits > most || o->key_bits % (xts ? 256 : 64))
		snprintf(err, err_size, "key_bits = '%" PRIu64 "': %s takes %s", o->key_bits, cipher_choices[o->cipher],
			 xts ? "256 or 512" : "128, 192 or 256");
	else if (o->sector_size & (o->sector_size - 1))
		snprintf(err, err_size, "sector_size = '%" PRIu64 "': must be a power of two", o->sector_size);
	else
		return 0;
	return -EINVAL;
}

static uint64_t scratch_sectors(const void *opts, uint64_t memory_mib)
{
	const struct swap_opts *o = opts;

	return memory_mib * o->swap_pct / 100 * SECTORS_PER_MIB;
}

/* --- Set-up --- */

struct device {
	char name[64], path[96];
};

static struct device device_of(const struct cell *c)
{
	struct device d;

	snprintf(d.name, sizeof(d.name), "%s-swap", c->run_id);
	snprintf(d.path, sizeof(d.path), "/dev/mapper/%s", d.name);
	return d;
}

/* The best driver of the algorithm, by /proc/crypto: dm-crypt gets it unless it has to allocate memory for each
 * request. */
static void report_driver(const char *algorithm)
{
	FILE *f = fopen("/proc/crypto", "re");
	char line[256], value[128], driver[128] = "", best[128] = "";
	long priority, highest = -1;
	bool ours = false;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "name : %127s", value) == 1)
			ours = strcmp(value, algorithm) == 0;
		else if (ours && sscanf(line, "driver : %127s", driver) == 1)
			;
		else if (ours && sscanf(line, "priority : %ld", &priority) == 1 && priority > highest) {
			highest = priority;
			strcpy(best, driver);
		}
	}
	if (f)
		fclose(f);
	cell_knob(DRIVER_KNOB, algorithm, *best ? best : NULL);
}

static void report_number(const char *name, uint64_t wanted, uint64_t is)
{
	char value[24], now[24];

	snprintf(value, sizeof(value), "%" PRIu64, wanted);
	snprintf(now, sizeof(now), "%" PRIu64, is);
	cell_knob(name, value, now);
}

/* What the kernel says of the table, which has the key in it: nothing of it may stay. */
static int report_table(const struct cell *c, const struct device *d)
{
	const struct swap_opts *o = c->opts;
	char table[512], cipher[64] = "";
	unsigned long sector = 512;
	const char *option;
	int key_at = 0, key_end = 0, err = dmdev_table(d->name, table, sizeof(table));

	if (err) {
		cell_fail(c, "table of %s: %s", d->name, strerror(-err));
	} else {
		/* "CIPHER KEY IV DEVICE START [N OPTION...]", Documentation/admin-guide/device-mapper/dm-crypt.rst */
		sscanf(table, "%63s %n%*s%n", cipher, &key_at, &key_end);
		option = strstr(table, " sector_size:");
		if (option)
			sscanf(option, " sector_size:%lu", &sector);
		cell_knob("dm_crypt.cipher", cipher_choices[o->cipher], cipher);
		report_number("dm_crypt.key_bits", o->key_bits, (uint64_t)(key_end - key_at) * 4);
		report_number("dm_crypt.sector_size", o->sector_size, sector);
		cell_knob(WORKQUEUE_KNOB, o->write_workqueue ? "yes" : "no",
			  strstr(table, " no_write_workqueue") ? "no" : "yes");
	}
	explicit_bzero(table, sizeof(table));
	return err;
}

static int make_table(const struct cell *c, char *params, size_t size)
{
	const struct swap_opts *o = c->opts;
	unsigned char key[MAX_KEY_BYTES];
	char hex[2 * MAX_KEY_BYTES + 1], options[64] = "";
	size_t bytes = o->key_bits / 8;
	unsigned n = 0;

	if (getrandom(key, bytes, 0) != (ssize_t)bytes)
		return -EIO;
	for (size_t i = 0; i < bytes; i++)
		snprintf(hex + 2 * i, 3, "%02x", key[i]);
	if (!o->write_workqueue)
		n += (unsigned)(snprintf(options, sizeof(options), " no_write_workqueue") > 0);
	if (o->sector_size > 512) {
		size_t len = strlen(options);

		n += (unsigned)(snprintf(options + len, sizeof(options) - len, " sector_size:%" PRIu64,
					 o->sector_size) > 0);
	}
	/* IVs are counted from 0; `n` of optional parameters stands only where there are any. */
	snprintf(params, size, "%s %s 0 %s %" PRIu64, cipher_choices[o->cipher], hex, c->scratch, c->scratch_start);
	if (n) {
		size_t len = strlen(params);

		snprintf(params + len, size - len, " %u%s", n, options);
	}
	explicit_bzero(key, sizeof(key));
	explicit_bzero(hex, sizeof(hex));
	return 0;
}

static int make_device(const struct cell *c, const struct device *d)
{
	char params[512];
	struct stat st;
	int err = make_table(c, params, sizeof(params));

	if (!err)
		err = undo_note("dm", d->name, NULL);
	if (!err)
		err = dmdev_create(d->name, c->scratch_sectors, "crypt", params);
	explicit_bzero(params, sizeof(params));
	if (!err && stat(d->path, &st) < 0)
		err = -errno;
	if (err) {
		cell_fail(c, "create %s (crypt, on %s): %s", d->name, c->scratch, strerror(-err));
	} else {
		char kernel_name[32];

		snprintf(kernel_name, sizeof(kernel_name), "dm-%u", minor(st.st_rdev));
		cell_device("swap", kernel_name);
	}
	return err;
}

static int swap_on(const struct cell *c, const struct device *d)
{
	const struct swap_opts *o = c->opts;
	const char *const mkswap[] = { "mkswap", d->path, NULL };
	int err, rc = cell_tool(c, "mkswap", mkswap);

	if (rc) {
		cell_fail(c, "mkswap %s: %s", d->path, rc < 0 ? strerror(-rc) : "see mkswap.err");
		return rc < 0 ? rc : -EIO;
	}
	err = undo_note("swap", d->path, NULL);
	if (!err)
		err = swapdev_on(d->path, (int)o->priority);
	if (err)
		cell_fail(c, "swap on %s: %s", d->path, strerror(-err));
	return err;
}

static int setup(struct cell *c)
{
	const struct swap_opts *o = c->opts;
	struct device d = device_of(c);
	char other[128];
	int err = swapdev_any("/proc/swaps", other, sizeof(other));

	if (err < 0) {
		cell_fail(c, "/proc/swaps: %s", strerror(-err));
		return err;
	}
	if (err && !o->other_swap) {
		cell_skip(c,
			  "this machine swaps on %s already, and the load would go there too: swap it off, or set "
			  "swap-crypt.other_swap=yes",
			  other);
		return -EBUSY;
	}
	err = make_device(c, &d);
	if (!err)
		report_driver(algorithms[o->cipher]);
	if (!err)
		err = report_table(c, &d);
	if (!err)
		err = swap_on(c, &d);
	return err;
}

/* --- The load --- */

/* Between the allocators and the hook that watches them. Locked in memory: the hook must not wait for it. */
struct shared {
	_Atomic int64_t last_ns;    /* when the last page came, whoever got it */
	_Atomic int64_t longest_ns; /* between two pages */
	_Atomic uint64_t written, compared;
	_Atomic uint64_t writing; /* allocators that have not turned to reading back */
	_Atomic bool stop;	  /* the time for writing is over */
};

struct load {
	const struct cell *cell;
	struct shared *shared;
	uint64_t pages; /* of one allocator */
	pid_t pids[MAX_ALLOCATORS], stress;
	uint64_t n;
};

static const char allocator_name[] = "hr-allocator";

static void keep_longest(struct shared *s, int64_t ns)
{
	int64_t longest = atomic_load(&s->longest_ns);

	while (ns > longest && !atomic_compare_exchange_weak(&s->longest_ns, &longest, ns))
		;
}

/* Whoever was put to sleep between his look at the clock and here has nothing to say: others got pages since. */
static void got_page(struct shared *s)
{
	int64_t now = clock_ns(), last = atomic_load(&s->last_ns);

	while (now > last) {
		if (atomic_compare_exchange_weak(&s->last_ns, &last, now)) {
			keep_longest(s, now - last);
			break;
		}
	}
}

/* The data of a page is of its round, so that what an older round left cannot pass for it. */
static uint64_t key_of(const struct cell *c, uint64_t allocator, uint64_t round)
{
	return c->seed ^ pattern_mix(round << 32 | allocator);
}

/* What an allocator's memory holds: the pages below `next` data of `round`, the others of the one before, if any. */
struct filled {
	char *memory;
	uint64_t round, next;
};

static bool came_back(const struct load *l, uint64_t allocator, const struct filled *f, uint64_t i)
{
	uint64_t round = i < f->next ? f->round : f->round - 1;

	if (!pattern_matches(key_of(l->cell, allocator, round), i, f->memory + i * PATTERN_BLOCK)) {
		cell_corrupt(l->cell,
			     "allocator %" PRIu64 ", page %" PRIu64 " of %" PRIu64 ": not the data that round %" PRIu64
			     " wrote",
			     allocator, i, l->pages, round);
		return false;
	}
	atomic_fetch_add(&l->shared->compared, 1);
	return true;
}

/* At the deadline the hook ends us, and says so: an end of our own would look like a failure. */
static void await_deadline(const struct load *l, uint64_t i)
{
	while (i % STOP_LOOK == 0 && clock_ns() >= l->cell->deadline_ns)
		pause();
}

/* One round, or what of it the time allows; from the second round on each page is compared before it is written. */
static int write_round(const struct load *l, uint64_t allocator, struct filled *f)
{
	for (f->next = 0; f->next < l->pages && !atomic_load(&l->shared->stop); f->next++) {
		if (f->round > 0 && !came_back(l, allocator, f, f->next))
			return 1;
		pattern_fill(key_of(l->cell, allocator, f->round), f->next, f->memory + f->next * PATTERN_BLOCK);
		atomic_fetch_add(&l->shared->written, 1);
		got_page(l->shared);
		await_deadline(l, f->next);
	}
	return 0;
}

/*
 * Compare all pages, the newest first, and give each back: what is still in memory need not be swapped out for it. The
 * kernel is asked for the next piece meanwhile, or each page would wait for the one before to be decrypted.
 */
static int read_back(const struct load *l, uint64_t allocator, const struct filled *f)
{
	for (uint64_t i = f->round > 0 ? l->pages : f->next; i-- > 0;) {
		char *page = f->memory + i * PATTERN_BLOCK;

		if (i % AHEAD == 0 && i)
			madvise(page - AHEAD * PATTERN_BLOCK, AHEAD * PATTERN_BLOCK, MADV_WILLNEED);
		if (!came_back(l, allocator, f, i))
			return 1;
		madvise(page, PATTERN_BLOCK, MADV_DONTNEED);
		got_page(l->shared);
		await_deadline(l, i);
	}
	return 0;
}

static int allocate(const struct load *l, uint64_t allocator)
{
	const struct swap_opts *o = l->cell->opts;
	uint64_t bytes = l->pages * PATTERN_BLOCK;
	/* Not reserved: that the machine has less is the point. */
	struct filled f = {
		.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
	};
	int err = 0;

	if (f.memory == MAP_FAILED) {
		cell_fail(l->cell, "allocator: %" PRIu64 " MiB: %s", bytes / MEBI, strerror(errno));
		return 1;
	}
	if (madvise(f.memory, bytes, o->huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0 && o->huge_pages)
		cell_event("no-huge-pages", "%s", strerror(errno));
	for (;;) {
		err = write_round(l, allocator, &f);
		if (err || (o->time_s ? atomic_load(&l->shared->stop) : f.round + 1 == o->rounds))
			break;
		f.round++;
	}
	atomic_fetch_sub(&l->shared->writing, 1);
	return err ? err : read_back(l, allocator, &f);
}

static int start_allocators(struct load *l)
{
	const struct swap_opts *o = l->cell->opts;

	for (; l->n < o->allocators; l->n++) {
		pid_t pid = cell_child(l->cell, allocator_name);

		if (pid == 0)
			_exit(allocate(l, l->n));
		if (pid < 0) {
			cell_fail(l->cell, "fork: %s", strerror(-pid));
			return pid;
		}
		l->pids[l->n] = pid;
	}
	return 0;
}

static int start_stress(struct load *l, uint64_t bytes)
{
	const struct swap_opts *o = l->cell->opts;
	char vms[16], each[32], timeout[32];
	const char *argv[] = { "stress-ng",
			       "--vm",
			       vms,
			       "--vm-bytes",
			       each,
			       "--vm-method",
			       "rand-set",
			       "--vm-keep",
			       "--oomable",
			       "--verify",
			       "--timeout",
			       timeout,
			       "--vm-madvise",
			       o->huge_pages ? "hugepage" : "nohugepage",
			       "--temp-path",
			       l->cell->work_dir,
			       NULL };

	snprintf(vms, sizeof(vms), "%" PRIu64, o->stressors);
	snprintf(each, sizeof(each), "%" PRIu64 "k", bytes / o->stressors / 1024);
	snprintf(timeout, sizeof(timeout), "%" PRId64 "s",
		 (int64_t)((l->cell->deadline_ns - clock_ns()) / NS_PER_S + 1));
	l->stress = cell_tool_start(l->cell, "stress-ng", argv);
	if (l->stress < 0)
		cell_fail(l->cell, "stress-ng: %s", strerror(-l->stress));
	return l->stress < 0 ? l->stress : 0;
}

/* Noise into the ciphertext, past dm-crypt. */
static int spoil(const struct cell *c)
{
	uint64_t bytes = c->scratch_sectors * 512 / 4 < DAMAGE_BYTES ? c->scratch_sectors * 512 / 4 : DAMAGE_BYTES;
	void *noise = aligned_alloc(PATTERN_BLOCK, DAMAGE_PIECE);
	int fd = open(c->scratch, O_WRONLY | O_DIRECT | O_CLOEXEC);
	int err = !noise ? -ENOMEM : fd < 0 ? -errno : 0;

	if (!err)
		memset(noise, 0x5a, DAMAGE_PIECE);
	/* The kernel fills a swap device from its beginning; its first page is the header. */
	for (uint64_t at = MEBI; !err && at < bytes; at += DAMAGE_PIECE)
		if (pwrite(fd, noise, DAMAGE_PIECE, (off_t)(c->scratch_start * 512 + at)) != (ssize_t)DAMAGE_PIECE)
			err = -EIO;
	if (fd >= 0)
		close(fd);
	free(noise);
	if (err)
		cell_fail(c, "damage %s: %s", c->scratch, strerror(-err));
	return err;
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = { 0 };

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

static bool allocators_ended(const struct load *l)
{
	for (uint64_t i = 0; i < l->n; i++)
		if (!has_ended(l->pids[i]))
			return false;
	return true;
}

static void tell_standstill(const struct load *l, int64_t ns)
{
	cell_metric_fixed(l->cell, "standstill_max_ms", ns / 1000, 3);
}

/* Its words for memory that is not as it was written (stress-vm.c). It ends with status 2 then, and for more besides.
 */
static bool stress_found_bad_data(const struct cell *c)
{
	char path[PATH_MAX], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s/stress-ng.err", c->work_dir);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, "fail") && strstr(line, "detected");
	if (f)
		fclose(f);
	return found;
}

/* stress-ng goes on until it is told to end. */
static int end_stress(struct load *l)
{
	bool told = !has_ended(l->stress);
	int rc;

	if (told)
		kill(l->stress, SIGTERM);
	rc = cell_wait(l->cell, "stress-ng", l->stress);
	l->stress = 0;
	if (rc > 0 && stress_found_bad_data(l->cell))
		cell_corrupt(l->cell, "stress-ng: memory is not as it was written, see stress-ng.err");
	if (rc < 0 || (rc && !told)) {
		cell_fail(l->cell, "stress-ng: %s",
			  rc < 0 ? strerror(-rc) : "ended before its time, see stress-ng.err");
		return rc < 0 ? rc : -ECANCELED;
	}
	return 0;
}

/*
 * Watch until the allocators are done. The longest standstill is told when it has doubled: the record has it even when
 * nobody lives to see its end, and the storm is no time for many words.
 */
static int watch(struct load *l)
{
	const struct swap_opts *o = l->cell->opts;
	bool spoilt = o->damage == DAMAGE_NONE;
	int64_t told = TELL_MS * NS_PER_MS / 2, begin = clock_ns(), last;
	int err = 0;

	while (!err && !allocators_ended(l) && clock_ns() < l->cell->deadline_ns) {
		clock_sleep_ms(LOOK_MS);
		if (o->time_s && clock_ns() - begin >= (int64_t)(o->time_s * NS_PER_S))
			atomic_store(&l->shared->stop, true);
		if (!err && l->stress > 0 && !atomic_load(&l->shared->writing))
			err = end_stress(l);
		last = atomic_load(&l->shared->last_ns);
		keep_longest(l->shared, clock_ns() - last);
		if (atomic_load(&l->shared->longest_ns) > 2 * told) {
			told = atomic_load(&l->shared->longest_ns);
			tell_standstill(l, told);
		}
		if (!spoilt && atomic_load(&l->shared->written) >= l->pages * l->n) {
			err = spoil(l->cell);
			spoilt = true;
		}
	}
	tell_standstill(l, atomic_load(&l->shared->longest_ns));
	return err;
}

static int end_load(struct load *l)
{
	int err = l->stress > 0 ? end_stress(l) : 0;

	for (uint64_t i = 0; i < l->n; i++) {
		int rc = cell_wait(l->cell, allocator_name, l->pids[i]);

		if (rc > 0 && !err)
			cell_fail(l->cell, "allocator %" PRIu64 " ended with status %d", i, rc);
		if (rc && !err)
			err = rc < 0 ? rc : -ECANCELED;
	}
	return err;
}

static void tell_rate(const struct cell *c, uint64_t pages, int64_t ns)
{
	double mib = (double)pages * PATTERN_BLOCK / MEBI, s = (double)ns / NS_PER_S;

	if (s > 0)
		cell_metric_fixed(c, "allocator_mib_s", (int64_t)(mib / s * 1000), 3);
}

static uint64_t load_bytes(const struct cell *c)
{
	const struct swap_opts *o = c->opts;
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * PATTERN_BLOCK;

	return memory * o->load_memory_pct / 100 + c->scratch_sectors * 512 * o->load_swap_pct / 100;
}

static int run(struct cell *c)
{
	const struct swap_opts *o = c->opts;
	struct load l = { .cell = c };
	uint64_t bytes = load_bytes(c), stress_bytes = bytes * o->stress_pct / 100;
	struct shared *shared;
	int64_t begin;
	int err, ended;

	/* A small process that must see what happens to the large ones. Best effort: without it, it is late. */
	mlockall(MCL_CURRENT | MCL_FUTURE);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED) {
		err = -errno;
		cell_fail(c, "shared memory: %s", strerror(-err));
		return err;
	}
	l.shared = shared;
	l.pages = (bytes - stress_bytes) / PATTERN_BLOCK / o->allocators;
	cell_metric_u64(c, "load_mib", bytes / MEBI);

	begin = clock_ns();
	atomic_store(&l.shared->last_ns, begin);
	atomic_store(&l.shared->writing, o->allocators);
	err = start_allocators(&l);
	if (!err && stress_bytes)
		err = start_stress(&l, stress_bytes);
	if (!err)
		err = watch(&l);
	if (err)
		for (uint64_t i = 0; i < l.n; i++)
			kill(l.pids[i], SIGTERM); /* a SIGKILL is for the record somebody else's */
	ended = end_load(&l);
	cell_metric_u64(c, "pages_compared", atomic_load(&l.shared->compared));
	if (!err && !ended)
		tell_rate(c, atomic_load(&l.shared->written), clock_ns() - begin);
	return err ? err : ended;
}

/* The allocators have compared every page themselves before run() came to its end; afterwards there is none left. */
static int verify(struct cell *c)
{
	(void)c;
	return 0;
}

/* --- The mitigations, from the record --- */

static void attest_limit(const struct facts *f, const struct swap_opts *o, struct attestation *a)
{
	int64_t want = strtoll(a->requested, NULL, 10), peak = (int64_t)f->swap_in_flight_peak;
	int64_t limit = a->state == MITIGATION_OFF || want <= 0 ? DEFAULT_LIMIT : want;

	/* The cap counts requests: of huge pages, or to another device, pages in flight say nothing about it. */
	if (!f->have_swap_in_flight || o->huge_pages || o->other_swap) {
		snprintf(a->evidence, sizeof(a->evidence), "knob reads %s; %s", a->read_back,
			 f->have_swap_in_flight ? "pages in flight are not its requests here"
						: "the device was not seen in diskstats");
		return;
	}
	/* A sampled peak is below the true one: half the cap says that the cap was reached at times. */
	a->exercised = (a->state == MITIGATION_OFF ? peak > limit : peak * 2 >= limit) ? YES : NO;
	/* A page counts as sent before its task waits for the cap, one page a task. */
	if (a->state == MITIGATION_ON && peak > limit + MAX_RECLAIMERS)
		a->state = MITIGATION_FAILED;
	snprintf(a->evidence, sizeof(a->evidence), "in-flight peak %" PRId64 " of %" PRId64 " %s", peak, limit,
		 a->state == MITIGATION_OFF ? "that the cap would allow" : "allowed");
}

/* In the one way or in the other: each page that was swapped out took it. */
static void attest_workqueue(const struct facts *f, struct attestation *a)
{
	uint64_t cpu_ms;

	a->exercised = !f->have_swap ? UNKNOWN : f->swap_out_mib > 0 ? YES : NO;
	if (facts_thread_cpu_ms(f, "kcryptd", &cpu_ms))
		snprintf(a->evidence, sizeof(a->evidence),
			 "the table says %s; %.0f MiB swapped out, kcryptd ran for %.1f s", a->read_back,
			 f->swap_out_mib, (double)cpu_ms / 1000);
	else
		snprintf(a->evidence, sizeof(a->evidence), "the table says %s; %.0f MiB swapped out", a->read_back,
			 f->swap_out_mib);
}

/*
 * Swap writes are single pages unless huge ones are swapped out: then nothing is large enough to be split. The device
 * counts each piece as a write of its own, so with the cap on it shows the cap.
 */
static void attest_split(const struct facts *f, struct attestation *a)
{
	const char *name = facts_device(f, "swap");
	const struct disk_facts *disk = name ? facts_disk(f, name) : NULL;

	if (!disk || disk->write_max_kib < 0) {
		snprintf(a->evidence, sizeof(a->evidence), "knob reads %s", a->read_back);
		return;
	}
	a->exercised = disk->write_max_kib >= (a->state == MITIGATION_ON ? SPLIT_KIB / 2 : SPLIT_KIB) ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence), "knob reads %s; swap writes of %.0f KiB at most on average",
		 a->read_back, disk->write_max_kib);
}

static void attest_reserves(const struct facts *f, struct attestation *a)
{
	if (f->samples)
		a->exercised = f->allocstalls ? YES : NO;
	snprintf(a->evidence, sizeof(a->evidence),
		 "knobs read %s; %" PRIu64 " allocations had to reclaim by themselves", a->read_back, f->allocstalls);
}

static void attest(const struct facts *f, const void *opts, struct attestation *a)
{
	const char *name = a->mitigation->name;

	if (strcmp(name, "swap-limit") == 0) {
		attest_limit(f, opts, a);
	} else if (strcmp(name, "crypt-workqueue") == 0) {
		attest_workqueue(f, a);
	} else if (strcmp(name, "crypt-split") == 0) {
		attest_split(f, a);
	} else {
		attest_reserves(f, a);
	}
}

static const struct workload swap_crypt = {
	.name = "swap-crypt",
	.summary = "memory pressure swaps to dm-crypt: every page written needs another page to be written",
	/* The kernel's best drivers for the ciphers are modules of their own, and not on every processor. */
	.modules = (const char *const[]){ "dm-mod", "dm-crypt", "xts?", "cbc?", "aesni-intel?", "serpent-avx2?",
					  "serpent_generic?", "twofish-x86_64-3way?", "twofish_generic?", NULL },
	.programs = (const char *const[]){ "stress-ng", "mkswap", NULL },
	.watch_caches = (const char *const[]){ "dm_io", "bio-256", "bio-512", "bio-1024", NULL },
	.watch_threads = (const char *const[]){ "kcryptd", "dmcrypt_write", "kswapd", NULL },
	.exercises = (const char *const[]){ "crypt_map", "kcryptd_crypt", "crypt_alloc_buffer", "swap_writepage",
					    "mempool_alloc", NULL },
	.opts = swap_options,
	.opts_size = sizeof(struct swap_opts),
	.mitigations = swap_mitigations,
	.metrics = swap_metrics,
	.check = check,
	.scratch_sectors = scratch_sectors,
	.setup = setup,
	.run = run,
	.verify = verify,
	.attest = attest,
};
WORKLOAD_REGISTER(swap_crypt);
