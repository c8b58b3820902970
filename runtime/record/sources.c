// SPDX-License-Identifier: MIT
#include "record/sources.h"

#include <string.h>
#include <unistd.h>

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

struct span {
	const char *p, *end;
};

static bool next_line(struct span *text, struct span *line)
{
	const char *nl;

	if (text->p >= text->end)
		return false;
	nl = memchr(text->p, '\n', (size_t)(text->end - text->p));
	/* A last line without its newline was cut off: its number may lack digits. */
	if (!nl)
		return false;
	*line = (struct span){ text->p, nl };
	text->p = nl + 1;
	return true;
}

static bool next_word(struct span *line, struct span *word)
{
	while (line->p < line->end && (*line->p == ' ' || *line->p == '\t'))
		line->p++;
	word->p = line->p;
	while (line->p < line->end && *line->p != ' ' && *line->p != '\t')
		line->p++;
	word->end = line->p;
	return word->p < word->end;
}

static bool span_is(const struct span *s, const char *text)
{
	size_t len = strlen(text);

	return (size_t)(s->end - s->p) == len && memcmp(s->p, text, len) == 0;
}

static bool span_starts(const struct span *s, const char *prefix)
{
	size_t len = strlen(prefix);

	return (size_t)(s->end - s->p) >= len && memcmp(s->p, prefix, len) == 0;
}

static bool span_u64(const struct span *s, uint64_t *value)
{
	uint64_t v = 0;

	if (s->p == s->end)
		return false;
	for (const char *p = s->p; p < s->end; p++) {
		if (*p < '0' || *p > '9' || v > (UINT64_MAX - 9) / 10)
			return false;
		v = v * 10 + (uint64_t)(*p - '0');
	}
	*value = v;
	return true;
}

/* A word that is a number, in one pass: most of every file is numbers. */
static bool next_u64(struct span *line, uint64_t *value)
{
	const char *p = line->p, *end = line->end, *begin;
	uint64_t v = 0;

	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	for (begin = p; p < end && *p >= '0' && *p <= '9' && v <= (UINT64_MAX - 9) / 10; p++)
		v = v * 10 + (uint64_t)(*p - '0');
	line->p = p;
	*value = v;
	return p > begin && (p == end || *p == ' ' || *p == '\t');
}

/* A name of a table, with its length, so that a line is told apart without strlen. */
struct key {
	const char *text;
	size_t len;
};
#define KEY(text)                                                                                                      \
	{                                                                                                              \
		text, sizeof(text) - 1                                                                                 \
	}

/* Copy a name into a NUL-terminated buffer. False if it does not fit: no kernel name is that long. */
static bool span_copy(const struct span *s, char *buf, size_t size)
{
	size_t len = (size_t)(s->end - s->p);

	if (len >= size)
		return false;
	memcpy(buf, s->p, len);
	buf[len] = '\0';
	return true;
}

void source_meminfo(struct jsonw *j, const char *text, size_t len, struct sample_live *live)
{
	/* In the kernel's order: the search goes on where it ended, so a wanted line is found at once. */
	static const struct key wanted[] = {
		KEY("MemTotal"),     KEY("MemFree"),	 KEY("MemAvailable"), KEY("Buffers"),	  KEY("Cached"),
		KEY("SwapCached"),   KEY("Active"),	 KEY("Inactive"),     KEY("Unevictable"), KEY("Mlocked"),
		KEY("SwapTotal"),    KEY("SwapFree"),	 KEY("Dirty"),	      KEY("Writeback"),	  KEY("AnonPages"),
		KEY("Mapped"),	     KEY("Shmem"),	 KEY("KReclaimable"), KEY("Slab"),	  KEY("SReclaimable"),
		KEY("SUnreclaim"),   KEY("KernelStack"), KEY("PageTables"),   KEY("Bounce"),	  KEY("CommitLimit"),
		KEY("Committed_AS"), KEY("VmallocUsed"), KEY("Percpu"),
	};
	enum { N_WANTED = sizeof(wanted) / sizeof(wanted[0]) };
	struct span all = { text, text + len }, line, word;
	size_t at = 0;

	jsonw_object(j, "mem");
	while (next_line(&all, &line)) {
		uint64_t kib;

		if (!next_word(&line, &word) || word.end[-1] != ':')
			continue;
		word.end--;
		for (size_t n = 0; n < N_WANTED; n++, at = at + 1 < N_WANTED ? at + 1 : 0) {
			const struct key *key = &wanted[at];

			if ((size_t)(word.end - word.p) != key->len || memcmp(word.p, key->text, key->len) != 0)
				continue;
			if (next_u64(&line, &kib)) {
				jsonw_u64(j, key->text, kib);
				if (strcmp(key->text, "Slab") == 0)
					live->slab_kib = kib;
				else if (strcmp(key->text, "SUnreclaim") == 0)
					live->slab_unreclaimable_kib = kib;
				else if (strcmp(key->text, "MemAvailable") == 0)
					live->available_kib = kib;
			}
			break;
		}
	}
	jsonw_object_end(j);
}

void source_vmstat(struct jsonw *j, const char *text, size_t len, struct sample_live *live)
{
	/* Prefixes: the per-zone and per-type variants differ from kernel to kernel. */
	static const struct key wanted[] = {
		KEY("oom_kill"),   KEY("allocstall"),	 KEY("pgscan_"),      KEY("pgsteal_"),	   KEY("pswp"),
		KEY("swp"),	   KEY("zswp"),		 KEY("pgmajfault"),   KEY("drop_"),	   KEY("slabs_scan"),
		KEY("nr_slab_"),   KEY("nr_dirty"),	 KEY("nr_writeback"), KEY("nr_throttled"), KEY("nr_vmscan_"),
		KEY("pgmigrate_"), KEY("compact_"),	 KEY("kswapd_"),      KEY("workingset_"),  KEY("pageoutrun"),
		KEY("balloon_"),   KEY("nr_free_pages"), KEY("nr_isolated_"),
	};
	struct span all = { text, text + len }, line, word;

	jsonw_object(j, "vm");
	while (next_line(&all, &line)) {
		char name[64];
		uint64_t value;

		if (!next_word(&line, &word))
			continue;
		for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
			const struct key *key = &wanted[i];

			if (*word.p != *key->text || (size_t)(word.end - word.p) < key->len ||
			    memcmp(word.p, key->text, key->len) != 0)
				continue;
			if (span_copy(&word, name, sizeof(name)) && next_u64(&line, &value)) {
				jsonw_u64(j, name, value);
				if (strcmp(name, "oom_kill") == 0)
					live->oom_kills = value;
			}
			break;
		}
	}
	jsonw_object_end(j);
}

/* "avg10=1.25": the kernel always prints two decimals. */
static void put_pressure_word(struct jsonw *j, const char *kind, const struct span *word)
{
	char key[24];
	struct span number = *word;
	uint64_t whole, cents;

	if (span_starts(word, "avg10=")) {
		const char *dot = memchr(word->p, '.', (size_t)(word->end - word->p));
		struct span fraction;

		if (!dot)
			return;
		number.p += strlen("avg10=");
		number.end = dot;
		fraction = (struct span){ dot + 1, word->end };
		if (fraction.end - fraction.p != 2 || !span_u64(&number, &whole) || !span_u64(&fraction, &cents) ||
		    whole > 100)
			return;
		strcpy(stpcpy(key, kind), "_avg10");
		jsonw_fixed(j, key, (int64_t)(whole * 100 + cents), 2);
	} else if (span_starts(word, "total=")) {
		number.p += strlen("total=");
		if (!span_u64(&number, &whole))
			return;
		strcpy(stpcpy(key, kind), "_us");
		jsonw_u64(j, key, whole);
	}
}

void source_pressure(struct jsonw *j, const char *name, const char *text, size_t len)
{
	struct span all = { text, text + len }, line, word;

	jsonw_object(j, name);
	while (next_line(&all, &line)) {
		char kind[8];

		if (!next_word(&line, &word) || !span_copy(&word, kind, sizeof(kind)))
			continue;
		if (strcmp(kind, "some") != 0 && strcmp(kind, "full") != 0)
			continue;
		while (next_word(&line, &word))
			put_pressure_word(j, kind, &word);
	}
	jsonw_object_end(j);
}

/* From " : tunables limit batchcount sharedfactor : slabdata active num shared": num. */
static bool slabs_held(const struct span *line, uint64_t *slabs)
{
	const char *tunables = memchr(line->p, ':', (size_t)(line->end - line->p));
	const char *data = tunables ? memchr(tunables + 1, ':', (size_t)(line->end - tunables - 1)) : NULL;
	struct span rest, word;

	if (!data)
		return false;
	rest = (struct span){ data + 1, line->end };
	return next_word(&rest, &word) && span_is(&word, "slabdata") && next_u64(&rest, slabs) &&
	       next_u64(&rest, slabs);
}

#define MAX_SLAB_PAGES 1024 /* MAX_ORDER of include/linux/mmzone.h */

/*
 * The pages of a cache's slabs. slabinfo has them all of one size; but where memory is in pieces, SLUB makes do with
 * the smallest slabs that an object fits into (allocate_slab() and s->min, mm/slub.c). These count as slabs too, and
 * only as many objects as they have: from both numbers it follows how many there are.
 */
static uint64_t pages_held(uint64_t objects, uint64_t size, uint64_t per_slab, uint64_t pages, uint64_t slabs,
			   uint64_t page)
{
	uint64_t small_pages = 1, small_objects, small;

	if (pages > MAX_SLAB_PAGES)
		return slabs * pages; /* no slabinfo that we know */
	while (small_pages < pages && small_pages * page < size)
		small_pages *= 2;
	small_objects = size ? small_pages * page / size : per_slab;
	if (objects >= slabs * per_slab || small_objects >= per_slab)
		return slabs * pages;
	small = (slabs * per_slab - objects) / (per_slab - small_objects);
	small = small < slabs ? small : slabs;
	return (slabs - small) * pages + small * small_pages;
}

void source_slabinfo(struct jsonw *j, const char *name, const char *text, size_t len)
{
	struct span all = { text, text + len }, line, word;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	jsonw_object(j, name);
	while (next_line(&all, &line)) {
		/* name active num objsize objperslab pagesperslab : tunables a b c : slabdata active num shared */
		uint64_t active, num, size, per_slab, pages, slabs;
		char cache[64];

		/* Nearly half of all caches have no objects. */
		if (!next_word(&line, &word) || *word.p == '#' || !next_u64(&line, &active) || !next_u64(&line, &num) ||
		    !num || !next_u64(&line, &size) || !next_u64(&line, &per_slab) || !next_u64(&line, &pages) ||
		    !slabs_held(&line, &slabs) || !span_copy(&word, cache, sizeof(cache)))
			continue;
		jsonw_array(j, cache);
		jsonw_u64(j, NULL, active);
		jsonw_u64(j, NULL, num);
		jsonw_u64(j, NULL, size);
		jsonw_u64(j, NULL, pages_held(num, size, per_slab, pages, slabs, page) * (page / 1024));
		jsonw_array_end(j);
	}
	jsonw_object_end(j);
}

void source_cgroup(struct jsonw *j, const char *text, size_t len)
{
	static const struct key wanted[] = {
		KEY("anon"),
		KEY("file"),
		KEY("kernel"),
		KEY("kernel_stack"),
		KEY("percpu"),
		KEY("sock"),
		KEY("vmalloc"),
		KEY("slab"),
		KEY("slab_reclaimable"),
		KEY("slab_unreclaimable"),
		KEY("high"),
		KEY("max"),
		KEY("oom"),
		KEY("oom_kill"),
		KEY("oom_group_kill"),
		KEY("nr_dying_descendants"),
		KEY("nr_descendants"),
	};
	struct span all = { text, text + len }, line, word;

	while (next_line(&all, &line)) {
		uint64_t value;

		if (!next_word(&line, &word))
			continue;
		for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
			if ((size_t)(word.end - word.p) != wanted[i].len ||
			    memcmp(word.p, wanted[i].text, wanted[i].len) != 0)
				continue;
			if (next_u64(&line, &value))
				jsonw_u64(j, wanted[i].text, value);
			break;
		}
	}
}

void source_number(struct jsonw *j, const char *name, const char *text, size_t len)
{
	struct span all = { text, text + len }, line;
	uint64_t value;

	if (next_line(&all, &line) && next_u64(&line, &value))
		jsonw_u64(j, name, value);
}

static bool skip_words(struct span *line, int n)
{
	struct span word;

	while (n-- > 0)
		if (!next_word(line, &word))
			return false;
	return true;
}

/* "pid (name) state ...": fields 9, 14, 15 and 22 of proc_pid_stat(5). A name may hold blanks and parentheses. */
bool source_task(struct task_stat *task, const char *text, size_t len)
{
	const char *open = memchr(text, '(', len), *close = memrchr(text, ')', len);
	uint64_t flags, user, system;
	struct span rest, line, name;

	if (!open || !close || close < open)
		return false;
	name = (struct span){ open + 1, close };
	rest = (struct span){ close + 1, text + len };
	if (!span_copy(&name, task->name, sizeof(task->name)) || !next_line(&rest, &line) || !skip_words(&line, 6) ||
	    !next_u64(&line, &flags) || !skip_words(&line, 4) || !next_u64(&line, &user) || !next_u64(&line, &system) ||
	    !skip_words(&line, 6) || !next_u64(&line, &task->start))
		return false;
	task->is_kernel_thread = flags & PF_KTHREAD;
	task->ticks = user + system;
	return true;
}

bool source_is_kworker(const struct task_stat *task)
{
	return task->is_kernel_thread && strncmp(task->name, "kworker/", 8) == 0;
}

/*
 * "kworker/u4:1-kcryptd/254:0": behind the first '-', or '+' while it works, is what it serves, or served last
 * (wq_worker_comm(), kernel/workqueue.c).
 */
bool source_serves(const struct task_stat *task, const char *name)
{
	size_t len = strlen(name), own = strcspn(task->name, "+-");

	if (!task->is_kernel_thread)
		return false;
	return strncmp(task->name, name, len) == 0 ||
	       (source_is_kworker(task) && task->name[own] && strncmp(task->name + own + 1, name, len) == 0);
}

void source_zoneinfo(struct jsonw *j, const char *text, size_t len)
{
	struct span all = { text, text + len }, line, word;
	uint64_t page_kib = (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
	uint64_t managed = 0, free_pages = 0, value;
	bool movable = false, seen = false;

	while (next_line(&all, &line)) {
		/* Most lines belong to other zones. */
		if ((!movable && *line.p != 'N') || !next_word(&line, &word))
			continue;
		if (span_is(&word, "Node")) {
			/* "Node 0, zone  Movable" */
			movable = next_word(&line, &word) && next_word(&line, &word) && span_is(&word, "zone") &&
				  next_word(&line, &word) && span_is(&word, "Movable");
			seen |= movable;
		} else if (movable && span_is(&word, "managed") && next_u64(&line, &value)) {
			managed += value;
		} else if (movable && span_is(&word, "pages") && next_word(&line, &word) && span_is(&word, "free") &&
			   next_u64(&line, &value)) {
			free_pages += value;
		}
	}
	if (!seen)
		return;
	jsonw_object(j, "zone_movable");
	jsonw_u64(j, "managed_kib", managed * page_kib);
	jsonw_u64(j, "free_kib", free_pages * page_kib);
	jsonw_object_end(j);
}

void source_diskstats(struct jsonw *j, const char *text, size_t len)
{
	struct span all = { text, text + len }, line, word;

	jsonw_object(j, "disk");
	while (next_line(&all, &line)) {
		/* major minor name, then the fields of Documentation/admin-guide/iostats.rst, 1 to 10 */
		uint64_t number, f[10];
		char name[64];
		int i;

		if (!next_u64(&line, &number) || !next_u64(&line, &number) || !next_word(&line, &word) ||
		    span_starts(&word, "loop") || span_starts(&word, "ram") || !span_copy(&word, name, sizeof(name)))
			continue;
		for (i = 0; i < 10 && next_u64(&line, &f[i]); i++)
			;
		if (i < 10)
			continue;
		jsonw_array(j, name);
		jsonw_u64(j, NULL, f[0]); /* reads */
		jsonw_u64(j, NULL, f[2]); /* sectors read */
		jsonw_u64(j, NULL, f[4]); /* writes */
		jsonw_u64(j, NULL, f[6]); /* sectors written */
		jsonw_u64(j, NULL, f[8]); /* in flight */
		jsonw_u64(j, NULL, f[9]); /* ms busy */
		jsonw_array_end(j);
	}
	jsonw_object_end(j);
}
