// SPDX-License-Identifier: MIT
/* `headroom copy`: a file or a device to another, through the copy engine. */
#include "base/clock.h"
#include "base/jsonw.h"
#include "base/log.h"
#include "base/opts.h"
#include "base/spawn.h"
#include "commands.h"
#include "run/copystate.h"
#include "run/devguard.h"
#include "run/filecopy.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TICK_NS	      (200 * NS_PER_MS) /* a terminal's line; also how soon an interrupt is seen at the latest */
#define LINE_NS	      (10 * NS_PER_S)	/* elsewhere */
#define CHECKPOINT_NS (2 * NS_PER_S)	/* what a kill -9 costs at the most; a flush each */
/* A device that gives no answer: longer than the kernel's own 30 s for a command, and its retries. */
#define STALL_NS (300 * NS_PER_S)
/* How long a copy that was killed may still have its destination open; see target_open_alone(). */
#define LINGER_NS (10 * NS_PER_S)
#define LOOK_MS	  50
#define JSON_SIZE 16384 /* two paths, escaped, fit */
#define MIB	  ((uint64_t)1 << 20)

static const char help[] =
	"usage: headroom copy [options] SRC DST\n"
	"\n"
	"Copies a file or a block device to another, O_DIRECT where that can be had. Holes of a file stay holes, or "
	"become\n"
	"zeros on a device. Until it has ended, how far it is stands in DST.headroom-copy.\n"
	"\n"
	"  --resume        go on after an interrupt, a crash or a full disk; not if SRC has changed meanwhile\n"
	"  --verify        when all is copied, read both back and compare\n"
	"  --throttle PCT  do I/O in no more than this part of the time, 1 to 100 (100)\n"
	"  --force         overwrite a file that has something in it, or give up a copy that was cut off\n"
	"  --state FILE    how far it is, kept there; for a device, whose directory a reboot empties\n"
	"  --json          the result as one line of JSON\n"
	"\n"
	"Exit status: 0 copied, 1 DST is not what SRC is, 2 usage, 3 refused: nothing was written, 4 it failed,\n"
	"130 interrupted. After 4 and 130 --resume goes on.\n";

struct request {
	const char *source, *dest, *state;
	bool resume, verify, force, json;
	uint64_t throttle;
};

struct copy {
	struct request request;
	char state_path[PATH_MAX];
	struct stat source_st, dest_st;
	bool dest_there;
	bool taken_up; /* an earlier part of this copy is there */
	struct copystate state;
	uint64_t resumed_at;
	struct io_loop *loop;
	struct target *source, *dest;
	struct filecopy file;

	int64_t begin_ns, shown_ns, moved_ns, checkpoint_ns;
	uint64_t moved; /* what there was at moved_ns */
	uint64_t begun; /* bytes that were there at begin_ns */
	bool stopping;
	bool line_open; /* on the terminal */
	const char *outcome;
	double seconds;
};

/* --- Refusals. Each says why, and returns an exit status or 0. --- */

/* Of a file or a device that can be read; -errno. */
static int64_t size_of(const char *path, const struct stat *st)
{
	uint64_t size = 0;
	int fd, err = 0;

	if (!S_ISBLK(st->st_mode))
		return st->st_size;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, BLKGETSIZE64, &size) < 0)
		err = -errno;
	close(fd);
	return err ? err : (int64_t)size;
}

static bool is_copyable(const char *path, const struct stat *st)
{
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return true;
	log_err("copy: %s is neither a regular file nor a block device", path);
	return false;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
	if (S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode))
		return a->st_rdev == b->st_rdev;
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* What both are, and that they are two. */
static int look_at_both(struct copy *c)
{
	const struct request *r = &c->request;
	int64_t size;

	if (stat(r->source, &c->source_st) < 0) {
		log_err("copy: %s: %s", r->source, strerror(errno));
		return EXIT_NEED;
	}
	c->dest_there = stat(r->dest, &c->dest_st) == 0;
	if (!c->dest_there && errno != ENOENT) {
		log_err("copy: %s: %s", r->dest, strerror(errno));
		return EXIT_NEED;
	}
	if (!is_copyable(r->source, &c->source_st) || (c->dest_there && !is_copyable(r->dest, &c->dest_st)))
		return EXIT_NEED;
	if (c->dest_there && is_same(&c->source_st, &c->dest_st)) {
		log_err("copy: %s and %s are the same %s", r->source, r->dest,
			S_ISBLK(c->source_st.st_mode) ? "device" : "file");
		return EXIT_NEED;
	}
	size = size_of(r->source, &c->source_st);
	if (size < 0) {
		log_err("copy: %s: %s", r->source, strerror((int)-size));
		return EXIT_NEED;
	}
	c->state.source = copystate_file(&c->source_st, (uint64_t)size);
	return 0;
}

static const char *how_to_begin_anew(const struct copy *c)
{
	return c->dest_there && S_ISBLK(c->dest_st.st_mode) ? "to begin anew, remove that file, and wipe the device"
							    : "begin anew with --force";
}

static int take_up(struct copy *c, const struct copystate *old)
{
	if (!copystate_same_source(old, &c->state)) {
		log_err("copy: %s has changed since the copy was begun, says %s; %s", c->request.source, c->state_path,
			how_to_begin_anew(c));
		return EXIT_NEED;
	}
	c->state.dest = c->dest_there ? copystate_file(&c->dest_st, 0) : (struct copystate_file){ 0 };
	if (!copystate_same_dest(old, &c->state)) {
		log_err("copy: %s is not the one that the copy was begun to, says %s; %s", c->request.dest,
			c->state_path, how_to_begin_anew(c));
		return EXIT_NEED;
	}
	c->resumed_at = old->done;
	c->taken_up = true;
	return 0;
}

/* Is there a copy to go on with, and is that what was asked for? */
static int look_at_state(struct copy *c)
{
	const struct request *r = &c->request;
	struct copystate old;
	int err = copystate_load(c->state_path, &old);

	if (err && err != -ENOENT && !r->force) {
		log_err("copy: %s: %s; %s", c->state_path, err == -EBADMSG ? "it is damaged" : strerror(-err),
			how_to_begin_anew(c));
		return EXIT_NEED;
	}
	if (!err && r->resume)
		return take_up(c, &old);
	if (!err && !r->force) {
		log_err("copy: %s: a copy was cut off; go on with --resume, or %s", c->state_path,
			how_to_begin_anew(c));
		return EXIT_NEED;
	}
	if (r->resume && c->dest_there && (S_ISBLK(c->dest_st.st_mode) || c->dest_st.st_size)) {
		log_err("copy: %s is not there: nothing says what of %s is done", c->state_path, r->dest);
		return EXIT_NEED;
	}
	if (c->dest_there && S_ISREG(c->dest_st.st_mode) && c->dest_st.st_size && !r->force) {
		log_err("copy: %s has something in it; overwrite it with --force", r->dest);
		return EXIT_NEED;
	}
	return 0;
}

/* Does something lie on it? 0, or -errno with what it is. */
static int find_signature(const char *node, char *what, size_t size)
{
	int fd = open(node, O_RDONLY | O_CLOEXEC), found;

	if (fd < 0) {
		snprintf(what, size, "%s", strerror(errno));
		return -errno;
	}
	found = devguard_signature(fd, what, size);
	close(fd);
	if (found < 0)
		snprintf(what, size, "%s", strerror(-found));
	return found > 0 ? -EBUSY : found;
}

/*
 * May this device be written to? Only if nobody uses it, and nothing lies on it but what an earlier part of this copy
 * has put there. Whether it is open elsewhere is asked when it is opened.
 */
static int guard_device(const struct copy *c)
{
	char node[PATH_MAX], what[PATH_MAX];
	int err = 0;

	if (!c->dest_there || !S_ISBLK(c->dest_st.st_mode))
		return 0;
	if (c->request.force) {
		log_err("copy: %s is a device: --force is for files", c->request.dest);
		return EXIT_USAGE;
	}
	if (!realpath(c->request.dest, node)) {
		log_err("copy: %s: %s", c->request.dest, strerror(errno));
		return EXIT_NEED;
	}
	err = devguard_used(&devguard_this_machine, c->dest_st.st_rdev, node, what, sizeof(what));
	if (!err && !c->taken_up)
		err = find_signature(node, what, sizeof(what));
	if (!err)
		return 0;
	log_err("copy: %s: only a device that nobody uses, and with nothing on it, is written to: %s", c->request.dest,
		what);
	return EXIT_NEED;
}

/* What the source takes on its disk, at the most. */
static int check_room(const struct copy *c)
{
	uint64_t need = c->state.source.size, have;
	char dir[PATH_MAX];
	struct statvfs fs;

	if (c->dest_there && S_ISBLK(c->dest_st.st_mode))
		return 0;
	if (S_ISREG(c->source_st.st_mode) && (uint64_t)c->source_st.st_blocks * 512 < need)
		need = (uint64_t)c->source_st.st_blocks * 512;
	snprintf(dir, sizeof(dir), "%s", c->request.dest);
	if (statvfs(c->dest_there ? c->request.dest : dirname(dir), &fs) < 0) {
		log_err("copy: %s: %s", c->request.dest, strerror(errno));
		return EXIT_NEED;
	}
	have = (uint64_t)fs.f_bavail * fs.f_frsize + (c->dest_there ? (uint64_t)c->dest_st.st_blocks * 512 : 0);
	if (need <= have)
		return 0;
	log_err("copy: %s: no space left: %" PRIu64 " MiB are needed, %" PRIu64 " MiB are there", c->request.dest,
		(need + MIB - 1) / MIB, have / MIB);
	return EXIT_NEED;
}

/* --- Opening --- */

/* 0, or -errno. -EBUSY: a device is in use; -EWOULDBLOCK: another copy has the file. */
static int open_dest(struct copy *c)
{
	bool device = c->dest_there && S_ISBLK(c->dest_st.st_mode);
	unsigned flags = TARGET_WRITE;

	if (device)
		flags |= TARGET_EXCLUSIVE;
	else if (!c->dest_there)
		flags |= TARGET_CREATE | TARGET_EXCLUSIVE;
	return target_open_alone(c->loop, c->request.dest, flags, TARGET_AUTO, &c->dest);
}

/* Who goes on may be too soon. */
static int open_dest_at_last(struct copy *c)
{
	int64_t until = clock_ns() + LINGER_NS;
	int err = open_dest(c);

	while (c->request.resume && (err == -EBUSY || err == -EWOULDBLOCK) && clock_ns() < until && !interrupted) {
		clock_sleep_ms(LOOK_MS);
		err = open_dest(c);
	}
	return err;
}

static int open_both(struct copy *c)
{
	const struct request *r = &c->request;
	int err = target_open(c->loop, r->source, TARGET_READ, TARGET_AUTO, &c->source);

	if (err) {
		log_err("copy: %s: %s", r->source, strerror(-err));
		return EXIT_NEED;
	}
	err = open_dest_at_last(c);
	if (!err)
		return 0;
	if (err == -EWOULDBLOCK)
		log_err("copy: %s: another copy writes to it", r->dest);
	else if (err == -EBUSY)
		log_err("copy: %s: in use: mounted, swap, or part of another device", r->dest);
	else
		log_err("copy: %s: %s", r->dest, strerror(-err));
	return EXIT_NEED;
}

static uint64_t padded_size(const struct copy *c)
{
	return (c->file.size + c->file.align - 1) & ~(uint64_t)(c->file.align - 1);
}

/* With nothing written yet, so that there is never something without it. */
static int begin_state(struct copy *c)
{
	struct stat st;

	if (fstat(c->dest->fd, &st) < 0)
		return -errno;
	c->state.dest = copystate_file(&st, 0);
	c->state.done = c->resumed_at;
	return copystate_save(c->state_path, &c->state);
}

static int prepare_dest(struct copy *c)
{
	mode_t mask = umask(0);
	int err;

	umask(mask);
	if (c->dest->is_block && padded_size(c) > c->dest->size) {
		log_err("copy: %s has %" PRIu64 " bytes, and %s only %" PRIu64, c->request.source, c->file.size,
			c->request.dest, c->dest->size);
		return EXIT_NEED;
	}
	err = begin_state(c);
	if (err) {
		log_err("copy: %s: %s", c->state_path, strerror(-err));
		return EXIT_BROKEN;
	}
	if (!c->dest->is_block && !c->resumed_at) {
		err = target_resize(c->dest, 0);
		c->file.dest_is_zero = true;
	}
	/* Nobody may read in the copy what he may not read in the source. */
	if (!err && !c->dest_there && S_ISREG(c->source_st.st_mode) &&
	    fchmod(c->dest->fd, c->source_st.st_mode & 0777 & ~mask) < 0)
		err = -errno;
	/* O_DIRECT wants whole blocks; what is too much is cut off at the end. */
	if (!err && !c->dest->is_block)
		err = target_resize(c->dest, padded_size(c));
	if (!err)
		return 0;
	log_err("copy: %s: %s", c->request.dest, strerror(-err));
	return EXIT_BROKEN;
}

/* --- Progress --- */

static void show(struct copy *c, const char *what, uint64_t at, int64_t now)
{
	bool terminal = isatty(STDERR_FILENO);
	double s = (double)(now - c->begin_ns) / 1e9;
	double mb_per_s = s > 0 ? (double)(at - c->begun) / 1e6 / s : 0;
	uint64_t pct = c->file.size ? at * 100 / c->file.size : 100;

	if (now - c->shown_ns < (terminal ? TICK_NS : LINE_NS))
		return;
	c->shown_ns = now;
	if (!terminal) {
		log_info("%s: %" PRIu64 " %% of %" PRIu64 " MiB, %.0f MB/s", what, pct, c->file.size / MIB, mb_per_s);
		return;
	}
	fprintf(stderr, "\r%s: %3" PRIu64 " %% of %" PRIu64 " MiB, %.0f MB/s\033[K", what, pct, c->file.size / MIB,
		mb_per_s);
	c->line_open = true;
}

static void end_line(struct copy *c)
{
	if (c->line_open)
		fputc('\n', stderr);
	c->line_open = false;
}

/* Has nothing moved for too long? */
static bool is_stalled(struct copy *c, uint64_t at, int64_t now)
{
	if (at != c->moved || !c->moved_ns) {
		c->moved = at;
		c->moved_ns = now;
	}
	return now - c->moved_ns > STALL_NS;
}

static void begin_clock(struct copy *c, uint64_t at)
{
	c->begin_ns = c->checkpoint_ns = c->shown_ns = clock_ns();
	c->begun = at;
	c->moved_ns = 0;
}

/* --- The copy --- */

/* The state says what is flushed, and so is flushed first. */
static int keep_state(struct copy *c)
{
	int err;

	if (c->file.flushed <= c->state.done)
		return 0;
	c->state.done = c->file.flushed < c->file.size ? c->file.flushed : c->file.size;
	err = copystate_save(c->state_path, &c->state);
	if (err)
		log_warn("copy: %s: %s", c->state_path, strerror(-err));
	return err;
}

static int tell_failure(struct copy *c)
{
	const struct filecopy *f = &c->file;

	end_line(c);
	if (f->err == -ENOSPC)
		log_err("copy: %s: no space left, %" PRIu64 " of %" PRIu64 " MiB are copied; make room and go on with "
			"--resume",
			c->request.dest, f->done / MIB, f->size / MIB);
	else if (f->err)
		log_err("copy: %s: cannot be %s near byte %" PRIu64 ": %s; --resume goes on from there",
			f->err_is_read ? c->request.source : c->request.dest, f->err_is_read ? "read" : "written",
			f->err_at, strerror(-f->err));
	else
		log_err("copy: %s: cannot be flushed: %s", c->request.dest, strerror(-f->flush_err));
	return EXIT_BROKEN;
}

static int tell_stall(struct copy *c, const char *what)
{
	end_line(c);
	log_err("copy: nothing has been %s for %lld s", what, STALL_NS / NS_PER_S);
	return EXIT_BROKEN;
}

static int round_failed(struct copy *c, int err)
{
	end_line(c);
	log_err("copy: io_uring: %s", strerror(-err));
	return EXIT_BROKEN;
}

static bool should_flush(const struct copy *c, int64_t now)
{
	return !c->file.flushing && c->file.done > c->file.flushed && now - c->checkpoint_ns >= CHECKPOINT_NS;
}

/* Until all is copied, or something has failed, or we are to stop; nothing is in flight then. */
static int copy_data(struct copy *c)
{
	struct filecopy *f = &c->file;
	int64_t now;
	int err;

	begin_clock(c, f->done);
	while ((f->next < f->size && !f->err && !c->stopping) || !filecopy_at_rest(f)) {
		if (interrupted)
			c->stopping = true;
		err = filecopy_step(f, c->stopping, clock_ns() + TICK_NS);
		if (err)
			return round_failed(c, err);
		keep_state(c);
		now = clock_ns();
		if (should_flush(c, now)) {
			filecopy_flush(f);
			c->checkpoint_ns = now;
		}
		show(c, "copied", f->done < f->size ? f->done : f->size, now);
		if (is_stalled(c, f->done, now))
			return tell_stall(c, "copied");
	}
	return 0;
}

static int flush_all(struct copy *c)
{
	struct filecopy *f = &c->file;
	int err;

	c->moved_ns = 0;
	filecopy_flush(f);
	while (!filecopy_at_rest(f)) {
		err = filecopy_step(f, true, clock_ns() + TICK_NS);
		if (err)
			return round_failed(c, err);
		if (is_stalled(c, f->done, clock_ns()))
			return tell_stall(c, "flushed");
	}
	keep_state(c);
	return f->err || f->flush_err ? tell_failure(c) : 0;
}

/* The end of the file where it belongs, and all of it on the disk. */
static int end_dest(struct copy *c)
{
	if (c->dest->is_block)
		return 0;
	if (target_resize(c->dest, c->file.size) || fsync(c->dest->fd) < 0) {
		log_err("copy: %s: its size cannot be set: %s", c->request.dest, strerror(errno));
		return EXIT_BROKEN;
	}
	return 0;
}

/* Whoever wrote to it meanwhile may have done so before or behind us. */
static int check_source(const struct copy *c)
{
	struct copystate now = c->state;
	struct stat st;

	if (fstat(c->source->fd, &st) == 0)
		now.source = copystate_file(&st, c->source->size);
	if (copystate_same_source(&now, &c->state))
		return 0;
	log_err("copy: %s was changed while it was copied", c->request.source);
	return EXIT_EXPECTATION;
}

static int verify(struct copy *c)
{
	struct filecopy *f = &c->file;
	int64_t now;
	int err = filecopy_compare_begin(f);

	if (err) {
		log_err("copy: %s", strerror(-err));
		return EXIT_BROKEN;
	}
	begin_clock(c, 0);
	while (!filecopy_compare_ended(f) && !(c->stopping && !f->n_pairs)) {
		if (interrupted)
			c->stopping = true;
		err = filecopy_compare_step(f, c->stopping, clock_ns() + TICK_NS);
		if (err)
			return round_failed(c, err);
		now = clock_ns();
		show(c, "compared", f->compared < f->size ? f->compared : f->size, now);
		if (is_stalled(c, f->compared, now))
			return tell_stall(c, "compared");
	}
	end_line(c);
	if (f->err) {
		log_err("copy: %s: cannot be read back near byte %" PRIu64 ": %s",
			f->err_is_read ? c->request.source : c->request.dest, f->err_at, strerror(-f->err));
		return EXIT_BROKEN;
	}
	if (f->differing_bytes) {
		log_err("copy: %s differs from %s in %" PRIu64 " bytes, the first is %" PRIu64, c->request.dest,
			c->request.source, f->differing_bytes, f->differs_at);
		return EXIT_EXPECTATION;
	}
	return c->stopping ? EXIT_INTERRUPTED : 0;
}

static int copy_all(struct copy *c)
{
	int rc;

	filecopy_start_at(&c->file, c->resumed_at);
	if (c->resumed_at)
		log_info("copy: going on at %" PRIu64 " of %" PRIu64 " MiB", c->resumed_at / MIB, c->file.size / MIB);
	rc = copy_data(c);
	c->seconds = (double)(clock_ns() - c->begin_ns) / 1e9;
	if (rc)
		return rc;
	end_line(c);
	/* Also after a failure or an interrupt: what is there need not be copied again. */
	rc = flush_all(c);
	c->seconds = (double)(clock_ns() - c->begin_ns) / 1e9;
	if (!rc && c->stopping && c->file.next < c->file.size) {
		log_err("copy: interrupted, %" PRIu64 " of %" PRIu64 " MiB are copied; go on with --resume",
			c->state.done / MIB, c->file.size / MIB);
		return EXIT_INTERRUPTED;
	}
	if (!rc)
		rc = end_dest(c);
	if (!rc && c->request.verify)
		rc = verify(c);
	if (!rc)
		rc = check_source(c);
	/* A copy that is wrong is nothing to go on with. */
	if (!rc || rc == EXIT_EXPECTATION)
		unlink(c->state_path);
	return rc;
}

static void print_result(const struct copy *c, int rc)
{
	static const char *const outcomes[] = { [EXIT_DONE] = "copied",
						[EXIT_EXPECTATION] = "different",
						[EXIT_USAGE] = "usage",
						[EXIT_NEED] = "refused",
						[EXIT_BROKEN] = "failed" };
	static char text[JSON_SIZE];
	const struct filecopy *f = &c->file;
	struct jsonw j;
	size_t len;

	if (!c->request.json) {
		if (rc == EXIT_DONE)
			log_info("copied %" PRIu64 " MiB (%" PRIu64 " MiB of it holes) in %.1f s%s", f->size / MIB,
				 f->holes_bytes / MIB, c->seconds, c->request.verify ? ", and compared" : "");
		return;
	}
	jsonw_init(&j, text, sizeof(text));
	jsonw_object(&j, NULL);
	jsonw_str(&j, "schema", "headroom.copy/1");
	jsonw_str(&j, "source", c->request.source);
	jsonw_str(&j, "dest", c->request.dest);
	jsonw_str(&j, "outcome", rc == EXIT_INTERRUPTED ? "interrupted" : outcomes[rc]);
	if (c->dest && f->client) {
		jsonw_str(&j, "source_back", target_back_name(c->source->back));
		jsonw_str(&j, "dest_back", target_back_name(c->dest->back));
		jsonw_u64(&j, "size_bytes", f->size);
		jsonw_u64(&j, "resumed_at_bytes", c->resumed_at);
		jsonw_u64(&j, "data_bytes", f->data_bytes);
		jsonw_u64(&j, "holes_bytes", f->holes_bytes);
		jsonw_fixed(&j, "seconds", (int64_t)(c->seconds * 1e6), 6);
		if (c->request.verify && (rc == EXIT_DONE || rc == EXIT_EXPECTATION))
			jsonw_u64(&j, "differing_bytes", f->differing_bytes);
	}
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	fwrite(text, 1, len, stdout);
}

static int prepare(struct copy *c)
{
	int rc = look_at_both(c);
	int err;

	if (!rc)
		rc = look_at_state(c);
	if (!rc)
		rc = guard_device(c);
	if (!rc)
		rc = check_room(c);
	if (rc)
		return rc;
	err = io_loop_open(NULL, &c->loop);
	if (!err)
		rc = open_both(c);
	if (!err && !rc)
		err = filecopy_open(&c->file, c->loop, c->source, c->dest, (unsigned)c->request.throttle);
	if (err) {
		log_err("copy: %s", strerror(-err));
		return EXIT_BROKEN;
	}
	return rc ? rc : prepare_dest(c);
}

/* What is in flight needs its memory, for as long as the device likes: then it is left to the end of the process. */
static void close_all(struct copy *c)
{
	if (c->loop && io_pending(c->loop))
		return;
	if (c->file.client && filecopy_at_rest(&c->file) && !c->file.n_pairs)
		filecopy_close(&c->file);
	target_close(c->source);
	target_close(c->dest);
	io_loop_close(c->loop);
}

static int parse(int argc, char **argv, struct request *r)
{
	static const struct option options[] = {
		{ "resume", no_argument, NULL, 'r' },	   { "verify", no_argument, NULL, 'v' },
		{ "force", no_argument, NULL, 'f' },	   { "throttle", required_argument, NULL, 't' },
		{ "state", required_argument, NULL, 's' }, { "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },	   { 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 'r':
			r->resume = true;
			break;
		case 'v':
			r->verify = true;
			break;
		case 'f':
			r->force = true;
			break;
		case 'j':
			r->json = true;
			break;
		case 's':
			r->state = optarg;
			break;
		case 't':
			if (parse_u64(optarg, 1, 100, &r->throttle) == 0)
				break;
			log_err("copy: --throttle '%s': must be a whole number, 1 to 100 (per cent)", optarg);
			return EXIT_USAGE;
		case 'h':
			fputs(help, stdout);
			return -1;
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 2) {
		log_err("copy: needs SRC and DST (headroom copy --help)");
		return EXIT_USAGE;
	}
	if (r->resume && r->force) {
		log_err("copy: --resume goes on, --force begins anew: not both");
		return EXIT_USAGE;
	}
	r->source = argv[optind];
	r->dest = argv[optind + 1];
	return 0;
}

int cmd_copy(int argc, char **argv)
{
	static struct copy c = { .request = { .throttle = 100 } };
	int rc = parse(argc, argv, &c.request);
	int len;

	if (rc)
		return rc < 0 ? EXIT_DONE : rc;
	len = c.request.state ? snprintf(c.state_path, sizeof(c.state_path), "%s", c.request.state)
			      : snprintf(c.state_path, sizeof(c.state_path), "%s%s", c.request.dest, COPYSTATE_SUFFIX);
	/* Its .tmp has to fit too. */
	if (len > PATH_MAX - 8) {
		log_err("copy: the name of the destination is too long");
		return EXIT_USAGE;
	}
	spawn_catch_signals();
	rc = prepare(&c);
	if (!rc)
		rc = copy_all(&c);
	print_result(&c, rc);
	close_all(&c);
	return rc;
}
