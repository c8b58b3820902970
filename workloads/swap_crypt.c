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
#include "base/pattern.h"
#include "dev/dmdev.h"
#include "dev/swapdev.h"
#include "run/facts.h"
#include "run/undo.h"
#include "run/workload.h"
#include "workloads/common/swapload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SECTORS_PER_MIB 2048ULL
#define MAX_KEY_BYTES	64
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
	struct swapload_opts load;
	uint64_t swap_pct, priority, key_bits, sector_size;
	unsigned cipher, damage;
	bool write_workqueue, other_swap;
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
	SWAPLOAD_OPTIONS(FIELD(load)),
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
	SWAPLOAD_METRICS,
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

struct looker {
	const struct cell *cell;
	bool spoilt;
};

static int look(void *arg, bool all_written)
{
	struct looker *l = arg;

	if (l->spoilt || !all_written)
		return 0;
	l->spoilt = true;
	return spoil(l->cell);
}

static int run(struct cell *c)
{
	const struct swap_opts *o = c->opts;
	struct looker l = { .cell = c, .spoilt = o->damage == DAMAGE_NONE };

	return swapload_run(c, &o->load, c->scratch_sectors * 512, look, &l);
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
	if (!f->have_swap_in_flight || o->load.huge_pages || o->other_swap) {
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
