// SPDX-License-Identifier: MIT
/*
 * Bytes of a saved log -> records.
 *
 * No format has to be named: each line is peeled from the left, mail quoting first, then journal or syslog prefix,
 * priority, stamp, caller id. What is sticky is only what one line cannot tell: a file with /dev/kmsg records holds
 * nothing else, and in a file with stamped lines an unstamped one is not the kernel speaking (a program on the same
 * console, prose around a paste), unless it goes on with the line before it.
 */
#include "record/klog.h"
#include "record/klog_int.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define READER_LINE_MAX (16 * 1024)

struct klog_reader {
	klog_record_fn fn;
	void *arg;
	bool kmsg;	    /* /dev/kmsg records were seen */
	bool stamped;	    /* lines with a stamp or a "kernel:" prefix were seen */
	bool dropping;	    /* in a kmsg record that is longer than the buffer: its rest is of no use */
	bool spilled;	    /* the buffer starts within a line whose beginning was handed on */
	bool have_wall;	    /* wall0 is set */
	bool have_mono;	    /* a stamp of the kernel's own was seen; wall clocks are not mixed in after that */
	int64_t wall0;	    /* first wall-clock time, us */
	int64_t wall_last;  /* for the turn of the year in stamps that have none */
	int64_t wall_shift; /* years added so far, us */
	int64_t relative;   /* running time of dmesg -e deltas */
	size_t fill;
	char line[READER_LINE_MAX];
	char text[KLOG_LINE_MAX];
};

/* A reading position that cannot run over its end. */
struct cur {
	const char *p, *end;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alpha(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int hex_value(char c)
{
	if (is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool eat(struct cur *c, char want)
{
	if (c->p == c->end || *c->p != want)
		return false;
	c->p++;
	return true;
}

static void eat_spaces(struct cur *c)
{
	while (c->p < c->end && (*c->p == ' ' || *c->p == '\t'))
		c->p++;
}

static bool eat_word(struct cur *c, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
		return false;
	c->p += n;
	return true;
}

/* An unsigned number of at most max_digits digits. */
static bool eat_number(struct cur *c, unsigned max_digits, int64_t *out)
{
	const char *start = c->p;
	int64_t v = 0;

	while (c->p < c->end && is_digit(*c->p) && c->p < start + max_digits)
		v = v * 10 + (*c->p++ - '0');
	if (c->p == start || (c->p < c->end && is_digit(*c->p))) {
		c->p = start;
		return false;
	}
	*out = v;
	return true;
}

/* ".123456" or ",123456" as microseconds; any number of digits from one to nine. */
static bool eat_fraction(struct cur *c, int64_t *usec)
{
	int64_t scale = 100000;
	const char *start = c->p;

	if (c->p == c->end || (*c->p != '.' && *c->p != ','))
		return false;
	c->p++;
	*usec = 0;
	while (c->p < c->end && is_digit(*c->p) && c->p < start + 10) {
		*usec += (*c->p++ - '0') * scale;
		scale /= 10;
	}
	if (c->p == start + 1) {
		c->p = start;
		return false;
	}
	return true;
}

/* "[   12.345678]" and dmesg -d's "[   12.345678 <    0.000012>]". */
static bool eat_stamp(struct cur *c, int64_t *usec)
{
	struct cur t = *c;
	int64_t sec, frac;

	if (!eat(&t, '['))
		return false;
	eat_spaces(&t);
	if (!eat_number(&t, 10, &sec) || !eat_fraction(&t, &frac))
		return false;
	if (eat_word(&t, " <")) {
		while (t.p < t.end && *t.p != '>' && *t.p != ']')
			t.p++;
		if (!eat(&t, '>'))
			return false;
	}
	if (!eat(&t, ']'))
		return false;
	*usec = sec * 1000000 + frac;
	*c = t;
	return true;
}

static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
static const char days[] = "MonTueWedThuFriSatSun";

static int eat_name(struct cur *c, const char *names, int n)
{
	for (int i = 0; i < n; i++)
		if (c->end - c->p >= 3 && memcmp(c->p, names + i * 3, 3) == 0) {
			c->p += 3;
			return i;
		}
	return -1;
}

static bool eat_clock(struct cur *c, struct tm *tm)
{
	int64_t h, m, s;

	if (!eat_number(c, 2, &h) || !eat(c, ':') || !eat_number(c, 2, &m) || !eat(c, ':') || !eat_number(c, 2, &s))
		return false;
	tm->tm_hour = (int)h;
	tm->tm_min = (int)m;
	tm->tm_sec = (int)s;
	return true;
}

static int64_t wall_usec(struct tm *tm, int64_t frac)
{
	return (int64_t)timegm(tm) * 1000000 + frac;
}

/* dmesg -T: "[Fri Nov 21 09:00:00 2025] ". */
static bool eat_ctime(struct cur *c, int64_t *wall)
{
	struct cur t = *c;
	struct tm tm = { 0 };
	int64_t day, year;

	if (!eat(&t, '[') || eat_name(&t, days, 7) < 0 || !eat(&t, ' '))
		return false;
	tm.tm_mon = eat_name(&t, months, 12);
	eat_spaces(&t);
	if (tm.tm_mon < 0 || !eat_number(&t, 2, &day) || !eat(&t, ' ') || !eat_clock(&t, &tm) || !eat(&t, ' ') ||
	    !eat_number(&t, 4, &year) || !eat(&t, ']'))
		return false;
	tm.tm_mday = (int)day;
	tm.tm_year = (int)year - 1900;
	*wall = wall_usec(&tm, 0);
	*c = t;
	return true;
}

/* dmesg -e: "[Nov21 09:00] " once a minute, "[  +0.000123] " else. */
static bool eat_reltime(struct klog_reader *r, struct cur *c, int64_t *usec)
{
	struct cur t = *c;
	int64_t sec, frac, day, hour, min;

	if (!eat(&t, '['))
		return false;
	if (eat_name(&t, months, 12) >= 0) {
		eat_spaces(&t);
		if (!eat_number(&t, 2, &day) || !eat(&t, ' ') || !eat_number(&t, 2, &hour) || !eat(&t, ':') ||
		    !eat_number(&t, 2, &min) || !eat(&t, ']'))
			return false;
		*usec = r->relative;
	} else {
		eat_spaces(&t);
		if (!eat(&t, '+') || !eat_number(&t, 10, &sec) || !eat_fraction(&t, &frac) || !eat(&t, ']'))
			return false;
		/* A sum of untrusted numbers: stop before it overflows. */
		if (r->relative < INT64_MAX / 4)
			r->relative += sec * 1000000 + frac;
		*usec = r->relative;
	}
	*c = t;
	return true;
}

/* "2025-11-21T09:00:00.123456+00:00 ", "2025-11-21T09:00:00+0000 ". */
static bool eat_iso(struct cur *c, int64_t *wall)
{
	struct cur t = *c;
	struct tm tm = { 0 };
	int64_t year, mon, day, frac = 0, zone_h = 0, zone_m = 0;
	int sign = 0;

	if (!eat_number(&t, 4, &year) || !eat(&t, '-') || !eat_number(&t, 2, &mon) || !eat(&t, '-') ||
	    !eat_number(&t, 2, &day) || !eat(&t, 'T') || !eat_clock(&t, &tm))
		return false;
	eat_fraction(&t, &frac);
	if (eat(&t, '+'))
		sign = 1;
	else if (eat(&t, '-'))
		sign = -1;
	else
		eat(&t, 'Z');
	if (sign) {
		if (!eat_number(&t, 4, &zone_h))
			return false;
		if (zone_h > 99) {
			zone_m = zone_h % 100;
			zone_h /= 100;
		} else if (eat(&t, ':') && !eat_number(&t, 2, &zone_m)) {
			return false;
		}
	}
	if (!eat(&t, ' '))
		return false;
	tm.tm_year = (int)year - 1900;
	tm.tm_mon = (int)mon - 1;
	tm.tm_mday = (int)day;
	*wall = wall_usec(&tm, frac) - sign * (zone_h * 3600 + zone_m * 60) * 1000000;
	*c = t;
	return true;
}

/* "Nov 21 09:00:00 ", "Nov 21 09:00:00.123456 ": no year, so the log is assumed to start in a leap year's place. */
static bool eat_syslog_time(struct klog_reader *r, struct cur *c, int64_t *wall)
{
	const int64_t year_us = INT64_C(366) * 86400 * 1000000;
	struct cur t = *c;
	struct tm tm = { .tm_year = 72 };
	int64_t day, frac = 0;

	tm.tm_mon = eat_name(&t, months, 12);
	if (tm.tm_mon < 0 || !eat(&t, ' '))
		return false;
	eat_spaces(&t);
	if (!eat_number(&t, 2, &day) || !eat(&t, ' ') || !eat_clock(&t, &tm))
		return false;
	eat_fraction(&t, &frac);
	if (!eat(&t, ' '))
		return false;
	tm.tm_mday = (int)day;
	*wall = wall_usec(&tm, frac) + r->wall_shift;
	if (r->have_wall && *wall < r->wall_last - year_us / 2) {
		r->wall_shift += year_us;
		*wall += year_us;
	}
	r->wall_last = *wall;
	*c = t;
	return true;
}

static bool host_char(char c)
{
	return is_alpha(c) || is_digit(c) || c == '.' || c == '-' || c == '_';
}

enum sender { SENDER_NONE, SENDER_KERNEL, SENDER_OTHER };

/* "host kernel: " or "host ident[123]: " after a journal or syslog time. */
static enum sender eat_sender(struct cur *c)
{
	struct cur t = *c;
	const char *ident;

	while (t.p < t.end && host_char(*t.p))
		t.p++;
	if (t.p == c->p || !eat(&t, ' '))
		return SENDER_NONE;
	if (eat_word(&t, "kernel: ") || eat_word(&t, "kernel:")) {
		*c = t;
		return SENDER_KERNEL;
	}
	ident = t.p;
	while (t.p < t.end && *t.p != ' ' && *t.p != ':')
		t.p++;
	if (t.p == ident || t.p == t.end || *t.p != ':')
		return SENDER_NONE;
	return SENDER_OTHER;
}

/* "<4>" */
static bool eat_prio(struct cur *c, int *prio)
{
	struct cur t = *c;
	int64_t v;

	if (!eat(&t, '<') || !eat_number(&t, 3, &v) || !eat(&t, '>'))
		return false;
	*prio = (int)v;
	*c = t;
	return true;
}

/* dmesg -x: "kern  :warn  : ". */
static bool eat_decoded_prio(struct cur *c, int *prio)
{
	static const char *const facility[] = { "kern",	  "user",   "mail",   "daemon", "auth",	    "syslog",
						"lpr",	  "news",   "uucp",   "cron",	"authpriv", "ftp",
						NULL,	  NULL,	    NULL,     NULL,	"local0",   "local1",
						"local2", "local3", "local4", "local5", "local6",   "local7" };
	static const char *const level[] = { "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug" };

	for (int f = 0; f < (int)(sizeof(facility) / sizeof(facility[0])); f++) {
		struct cur t = *c;

		if (!facility[f] || !eat_word(&t, facility[f]))
			continue;
		eat_spaces(&t);
		if (!eat(&t, ':'))
			continue;
		for (int l = 0; l < 8; l++) {
			struct cur u = t;

			if (!eat_word(&u, level[l]))
				continue;
			eat_spaces(&u);
			if (!eat(&u, ':'))
				continue;
			eat(&u, ' ');
			*prio = f * 8 + l;
			*c = u;
			return true;
		}
	}
	return false;
}

uint32_t klog_caller(char type, uint32_t number)
{
	return ((number & 0x3fffffff) + 1) | (type == 'C' ? 0x80000000u : 0);
}

/* "[  T123]", "[    C0]"; some kernels add more within the brackets. */
static bool eat_caller(struct cur *c, uint32_t *caller)
{
	struct cur t = *c;
	int64_t n;
	char type;

	eat(&t, ' ');
	if (!eat(&t, '['))
		return false;
	eat_spaces(&t);
	if (t.p == t.end || (*t.p != 'T' && *t.p != 'C'))
		return false;
	type = *t.p++;
	if (!eat_number(&t, 9, &n) || !eat(&t, ']'))
		return false;
	*caller = klog_caller(type, (uint32_t)n);
	*c = t;
	return true;
}

/*
 * Where the next "[   12.345678]" starts within a line: text that a program left on the console without a newline, or
 * a log that a web page flattened into one paragraph.
 */
static const char *find_stamp(const char *p, const char *end)
{
	while (p < end && (p = memchr(p, '[', (size_t)(end - p)))) {
		struct cur c = { p, end };
		int64_t usec;

		/* Six decimals, as the kernel prints: "[0.5]" in a message is none. */
		if (eat_stamp(&c, &usec) && c.p - p >= 9 && memchr(p, '.', (size_t)(c.p - p)) == c.p - 8)
			return p;
		p++;
	}
	return NULL;
}

static void emit(struct klog_reader *r, struct klog_record *rec, const char *text, const char *end)
{
	rec->text = text;
	rec->len = (size_t)(end - text);
	r->fn(rec, r->arg);
}

static int64_t wall_to_log(struct klog_reader *r, int64_t wall)
{
	if (!r->have_wall) {
		r->have_wall = true;
		r->wall0 = wall;
	}
	return wall - r->wall0;
}

/* One line, or one piece of a line that starts with a stamp. */
static void piece(struct klog_reader *r, const char *p, const char *end, bool first)
{
	struct klog_record rec = { .source = KLOG_SRC_CONSOLE, .seq = KLOG_NONE, .usec = KLOG_NONE, .prio = KLOG_NONE };
	struct cur c = { p, end };
	int64_t wall, mono;
	bool marked = false;

	if (first) {
		bool timed = eat_iso(&c, &wall) || eat_syslog_time(r, &c, &wall);

		if (timed) {
			/* dmesg's own ISO stamps have a comma and no host behind them. */
			if (!memchr(p, ',', (size_t)(c.p - p)) && eat_sender(&c) == SENDER_OTHER)
				return;
			rec.usec = wall_to_log(r, wall);
			marked = true;
		}
		marked |= eat_prio(&c, &rec.prio);
		marked |= eat_decoded_prio(&c, &rec.prio);
	}
	if (eat_stamp(&c, &mono)) {
		r->have_mono = true;
		rec.usec = mono;
		marked = true;
	} else if (eat_ctime(&c, &wall)) {
		rec.usec = wall_to_log(r, wall);
		marked = true;
	} else if (eat_reltime(r, &c, &mono)) {
		rec.usec = mono;
		marked = true;
	} else if (r->have_mono) {
		/* Two time axes in one file cannot be compared. */
		rec.usec = KLOG_NONE;
	}
	if (marked) {
		struct cur t;

		r->stamped = true;
		eat_caller(&c, &rec.caller);
		eat(&c, ' ');
		/* journalctl -o short-monotonic */
		t = c;
		if (eat_sender(&t) == SENDER_KERNEL)
			c = t;
	}
	rec.cont = r->stamped && !marked;
	emit(r, &rec, c.p, c.end);
}

static void text_line(struct klog_reader *r, const char *p, const char *end)
{
	const char *next;
	bool first = !r->spilled;

	/* Terminals: colour before the stamp, CR at either end. Within the text the classifier takes them out. */
	while (p < end) {
		if (*p == '\r' || *p == '\0') {
			p++;
		} else if (*p == '\033' && end - p > 1 && p[1] == '[') {
			const char *q = p + 2;

			while (q < end && (is_digit(*q) || *q == ';' || *q == '?'))
				q++;
			if (q == end)
				break;
			p = q + 1;
		} else if (*p == '>' && (end - p == 1 || p[1] == ' ' || p[1] == '>' || p[1] == '[')) {
			/* Mail quoting. */
			p++;
			if (p < end && *p == ' ')
				p++;
		} else {
			break;
		}
	}
	if (first) {
		/* The prefix proper may hold the line's own stamp; look for others behind it. */
		struct cur c = { p, end };
		int64_t t;
		int prio;

		if (eat_iso(&c, &t) || eat_syslog_time(r, &c, &t))
			eat_sender(&c);
		eat_prio(&c, &prio);
		eat_decoded_prio(&c, &prio);
		eat_stamp(&c, &t);
		next = find_stamp(c.p, end);
	} else {
		next = find_stamp(p, end);
	}
	while (next) {
		if (next > p)
			piece(r, p, next, first);
		first = false;
		p = next;
		/* It is a stamp and has a second character, so this moves on. */
		next = find_stamp(p + 1, end);
	}
	piece(r, p, end, first);
}

static size_t unescape(const char *p, const char *end, char *buf, size_t size)
{
	size_t n = 0;

	while (p < end && n < size) {
		if (*p == '\\' && end - p >= 4 && p[1] == 'x' && hex_value(p[2]) >= 0 && hex_value(p[3]) >= 0) {
			buf[n++] = (char)(hex_value(p[2]) * 16 + hex_value(p[3]));
			p += 4;
		} else {
			buf[n++] = *p++;
		}
	}
	return n;
}

bool klog_parse_kmsg(const char *data, size_t len, struct klog_record *rec, char *buf, size_t buf_size)
{
	struct cur c = { data, data + len };
	int64_t prio, seq, usec;
	const char *nl, *end, *field;

	if (!eat_number(&c, 6, &prio) || !eat(&c, ',') || !eat_number(&c, 18, &seq) || !eat(&c, ',') ||
	    !eat_number(&c, 18, &usec) || !eat(&c, ',') || c.p == c.end)
		return false;
	*rec = (struct klog_record){ .source = KLOG_SRC_KMSG, .seq = seq, .usec = usec, .prio = (int)prio };
	rec->cont = *c.p == '+';
	field = c.p;
	while (c.p < c.end && *c.p != ';' && *c.p != '\n')
		c.p++;
	if (c.p == c.end || *c.p != ';')
		return false;
	for (const char *f = field; f < c.p; f++) {
		struct cur t = { f, c.p };
		int64_t n;

		if (!eat_word(&t, ",caller="))
			continue;
		if (t.p < t.end && (*t.p == 'T' || *t.p == 'C')) {
			char type = *t.p++;

			if (eat_number(&t, 9, &n))
				rec->caller = klog_caller(type, (uint32_t)n);
		}
		break;
	}
	c.p++;
	nl = memchr(c.p, '\n', (size_t)(c.end - c.p));
	end = nl ? nl : c.end;
	rec->text = buf;
	rec->len = unescape(c.p, end, buf, buf_size);
	return true;
}

static void line(struct klog_reader *r, const char *p, size_t len)
{
	struct klog_record rec;

	if (!r->spilled && (r->kmsg || (len && is_digit(*p))) &&
	    klog_parse_kmsg(p, len, &rec, r->text, sizeof(r->text))) {
		r->kmsg = true;
		r->fn(&rec, r->arg);
		return;
	}
	/* " SUBSYSTEM=block" and the like, or damage. */
	if (r->kmsg)
		return;
	text_line(r, p, p + len);
}

struct klog_reader *klog_reader_new(klog_record_fn fn, void *arg)
{
	struct klog_reader *r = calloc(1, sizeof(*r));

	if (r) {
		r->fn = fn;
		r->arg = arg;
	}
	return r;
}

void klog_reader_free(struct klog_reader *r)
{
	free(r);
}

void klog_reader_detect(struct klog_reader *r, const char *data, size_t len)
{
	if (r->kmsg || r->stamped)
		return;
	/* One stamped line could be a quotation; a log has more of them. */
	for (unsigned seen = 0; len && seen < 2;) {
		const char *nl = memchr(data, '\n', len);
		size_t n = nl ? (size_t)(nl - data) : len;

		if (find_stamp(data, data + n) && ++seen == 2)
			r->stamped = true;
		len -= nl ? n + 1 : n;
		data += nl ? n + 1 : n;
	}
}

void klog_reader_push(struct klog_reader *r, const char *data, size_t len)
{
	while (len) {
		size_t room = sizeof(r->line) - r->fill;
		size_t n = len < room ? len : room;
		const char *nl = memchr(data, '\n', n);

		if (nl)
			n = (size_t)(nl - data);
		if (!r->dropping) {
			memcpy(r->line + r->fill, data, n);
			r->fill += n;
		}
		data += n;
		len -= n;
		if (nl) {
			data++;
			len--;
			if (!r->dropping)
				line(r, r->line, r->fill);
			r->fill = 0;
			r->dropping = false;
			r->spilled = false;
		} else if (r->fill == sizeof(r->line)) {
			/* What follows has no prefix of its own unless a stamp is found in it. */
			line(r, r->line, r->fill);
			r->fill = 0;
			r->dropping = r->kmsg;
			r->spilled = true;
		}
	}
}

void klog_reader_finish(struct klog_reader *r)
{
	if (r->fill && !r->dropping)
		line(r, r->line, r->fill);
	r->fill = 0;
	r->dropping = false;
	r->spilled = false;
}
