// SPDX-License-Identifier: MIT
#include "serve/stores.h"

#include "base/clock.h"
#include "base/log.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SUFFIX	   ".snap"
#define NEW_SUFFIX ".snap.new"
#define MIB	   ((uint64_t)1 << 20)
#define LINGER_NS  (5 * NS_PER_S)
#define LOOK_MS	   50

static int path_of(const struct stores *st, const char *name, const char *suffix, char path[PATH_MAX])
{
	int n = snprintf(path, PATH_MAX, "%s/%s%s", st->dir, name, suffix);

	return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* A file name, and a word on a command line. */
static bool is_name(const char *name)
{
	size_t n = strlen(name);

	if (!n || n >= EXSTORE_NAME || name[0] == '.' || name[0] == '-' || strcmp(name, STORES_ORIGIN) == 0)
		return false;
	for (; *name; name++)
		if (!isalnum((unsigned char)*name) && !strchr("._-", *name))
			return false;
	return true;
}

static struct stores_entry *find(struct stores *st, const char *name)
{
	for (int i = 0; i < SNAP_MAX_STORES; i++)
		if (st->of[i].used && strcmp(st->of[i].name, name) == 0)
			return &st->of[i];
	return NULL;
}

static void enter(struct stores *st, const char *name, int store, const struct target *t, bool persistent)
{
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		struct stores_entry *e = &st->of[i];
		struct snap_info info;

		if (e->used)
			continue;
		*e = (struct stores_entry){ .used = true, .store = store, .block = t->block, .persistent = persistent };
		snprintf(e->name, sizeof(e->name), "%s", name);
		e->merging = e->hidden = snap_store_info(st->snap, store, &info) == 0 && info.merging;
		return;
	}
}

/* --- Attaching --- */

int stores_open_target(struct io_loop *loop, const char *path, enum target_back back, struct target **t)
{
	int64_t until = clock_ns() + LINGER_NS;
	struct stat st;
	unsigned flags = TARGET_WRITE;
	int err;

	/* O_EXCL without O_CREAT is for devices alone. */
	if (stat(path, &st) == 0 && S_ISBLK(st.st_mode))
		flags |= TARGET_EXCLUSIVE;
	err = target_open_alone(loop, path, flags, back, t);
	while ((err == -EBUSY || err == -EWOULDBLOCK) && clock_ns() < until) {
		clock_sleep_ms(LOOK_MS);
		err = target_open_alone(loop, path, flags, back, t);
	}
	return err;
}

/* One that was deleted or merged: its header is wiped last, and then the server was killed. */
static bool is_wiped(const char *path)
{
	char header[EXSTORE_MIN_CHUNK] = { 1 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t i = 0;

	if (fd < 0)
		return false;
	if (pread(fd, header, sizeof(header), 0) == sizeof(header))
		while (i < sizeof(header) && !header[i])
			i++;
	close(fd);
	return i == sizeof(header);
}

static const char *why_not(int err)
{
	switch (-err) {
	case EBADMSG:
		return "no snapshot store of this origin, or a damaged one; move it away to serve without it";
	case EINVAL:
		return "its chunks are of another size (--chunk)";
	case EBUSY:
		return "the merge of another snapshot was cut as well; move one of them away";
	default:
		return strerror(-err);
	}
}

static int attach_one(struct stores *st, const char *name, int64_t deadline_ns, char *why, size_t size)
{
	char path[PATH_MAX];
	struct target *t;
	int n = path_of(st, name, SUFFIX, path);

	if (!n)
		n = stores_open_target(st->loop, path, st->back, &t);
	if (n) {
		snprintf(why, size, "%s: %s", path, n == -EWOULDBLOCK ? "another server has it" : strerror(-n));
		return n;
	}
	n = snap_attach(st->snap, t, deadline_ns);
	if (n >= 0) {
		enter(st, name, n, t, true);
		return 0;
	}
	target_close(t);
	if (n == -EBADMSG && is_wiped(path)) {
		unlink(path);
		return 0;
	}
	if (n == -ESTALE) {
		log_warn("serve: %s: the snapshot is invalid; its file is left alone", path);
		return 0;
	}
	snprintf(why, size, "%s: %s", path, why_not(n));
	return n;
}

/* The name of a snapshot that this is the file of. */
static bool is_store(const char *file, const char *suffix, char name[EXSTORE_NAME])
{
	size_t n = strlen(file), m = strlen(suffix);

	if (n <= m || n - m >= EXSTORE_NAME || strcmp(file + n - m, suffix) != 0)
		return false;
	memcpy(name, file, n - m);
	name[n - m] = 0;
	return is_name(name);
}

int stores_attach(struct stores *st, int64_t deadline_ns, char *why, size_t size)
{
	char name[EXSTORE_NAME], path[PATH_MAX];
	const struct dirent *d;
	int err = 0;
	DIR *dir = opendir(st->dir);

	if (!dir) {
		err = -errno;
		snprintf(why, size, "%s: %s", st->dir, strerror(-err));
		return err;
	}
	while (!err && (d = readdir(dir))) {
		if (is_store(d->d_name, NEW_SUFFIX, name) && path_of(st, name, NEW_SUFFIX, path) == 0)
			unlink(path);
		else if (is_store(d->d_name, SUFFIX, name))
			err = attach_one(st, name, deadline_ns, why, size);
	}
	closedir(dir);
	if (!err)
		snap_resume_merge(st->snap);
	return err;
}

/* --- Making --- */

/* Every chunk, the areas that say where each lies, one each 256 slots at the least, the header, and one to spare. */
static uint64_t full_size(const struct stores *st, uint32_t chunk_bytes)
{
	uint64_t chunks = (st->origin->size + chunk_bytes - 1) / chunk_bytes, per_area = chunk_bytes / 16;

	return (chunks + chunks / per_area + 3) * chunk_bytes;
}

static int allocate(struct target *t, uint64_t bytes)
{
	int err = target_resize(t, bytes);

	/* Slots in a hole would be a shortage of space, or of memory, at the worst of times. */
	if (!err && fallocate(t->fd, 0, 0, (off_t)bytes) < 0 && errno != EOPNOTSUPP)
		err = -errno;
	return err;
}

/* fallocate(2) may fill the file system up before it says that there is not enough. */
static int check_room(const struct stores *st, uint64_t bytes)
{
	struct statvfs fs;

	if (statvfs(st->dir, &fs) < 0)
		return -errno;
	return bytes / fs.f_frsize < fs.f_bavail ? 0 : -ENOSPC;
}

/* The file, of the right size, is there; -errno: it is not. */
static int make_file(struct stores *st, const char *path, uint64_t bytes)
{
	struct target *t;
	int err = check_room(st, bytes);

	/* The size has to be known before a back end that maps it is chosen. */
	if (!err)
		err = target_open(st->loop, path, TARGET_WRITE | TARGET_CREATE | TARGET_EXCLUSIVE, TARGET_SYNC, &t);
	if (err)
		return err;
	err = allocate(t, bytes);
	target_close(t);
	if (err)
		unlink(path);
	return err;
}

static int sync_dir(const struct stores *st)
{
	int fd = open(st->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0)
		err = -errno;
	close(fd);
	return err;
}

/* From its temporary name to its own, or, of one that is not to be found again, to none. */
static int settle(const struct stores *st, const char *name, const char *path, bool persistent)
{
	char final[PATH_MAX];
	int err = path_of(st, name, SUFFIX, final);

	if (!persistent)
		return unlink(path) < 0 ? -errno : 0;
	if (!err && rename(path, final) < 0)
		err = -errno;
	return err ? err : sync_dir(st);
}

static int create(struct stores *st, const char *name, bool persistent, const char *path, int64_t deadline_ns)
{
	const struct snap_store_opts opts = { .persistent = persistent, .name = name };
	struct target *t;
	int n = stores_open_target(st->loop, path, st->back, &t), err;

	if (n)
		return n;
	n = snap_create(st->snap, t, &opts, deadline_ns);
	if (n < 0) {
		if (n != -EINPROGRESS)
			target_close(t);
		return n;
	}
	err = settle(st, name, path, persistent);
	if (err)
		snap_delete(st->snap, n, deadline_ns);
	else
		enter(st, name, n, t, persistent);
	return err;
}

int stores_create(struct stores *st, const char *name, bool persistent, uint64_t bytes, int64_t deadline_ns, char *why,
		  size_t size)
{
	char path[PATH_MAX], final[PATH_MAX];
	uint32_t chunk_bytes = st->chunk_bytes;
	int err;

	if (!is_name(name)) {
		snprintf(why, size, "'%.80s': a name has 1 to %d letters, digits, '.', '_' or '-', and is not '%s'",
			 name, EXSTORE_NAME - 1, STORES_ORIGIN);
		return -EINVAL;
	}
	if (!st->dir[0]) {
		snprintf(why, size, "the server has no directory for stores (--stores DIR)");
		return -EINVAL;
	}
	if (bytes && bytes < 3 * (uint64_t)chunk_bytes) {
		snprintf(why, size, "a store of %" PRIu64 " bytes has no room for a chunk", bytes);
		return -EINVAL;
	}
	bytes = bytes ? bytes / chunk_bytes * chunk_bytes : full_size(st, chunk_bytes);
	err = path_of(st, name, NEW_SUFFIX, path);
	if (!err)
		err = path_of(st, name, SUFFIX, final);
	if (!err && (find(st, name) || access(final, F_OK) == 0))
		err = -EEXIST;
	if (!err)
		err = make_file(st, path, bytes);
	if (!err) {
		err = create(st, name, persistent, path, deadline_ns);
		if (err)
			unlink(path);
	}
	if (err)
		snprintf(why, size, "%s: %s (a store of %" PRIu64 " MiB)", final,
			 err == -ENOSPC ? "no space, or there are 16 snapshots already" : strerror(-err), bytes / MIB);
	return err;
}

/* --- Taking away --- */

static void forget(struct stores *st, struct stores_entry *e)
{
	char path[PATH_MAX];

	if (e->persistent && path_of(st, e->name, SUFFIX, path) == 0 && unlink(path) < 0)
		log_warn("serve: %s: %s", path, strerror(errno));
	e->used = false;
}

static int find_unused(struct stores *st, struct nbd_server *server, const char *name, struct stores_entry **e,
		       char *why, size_t size)
{
	*e = find(st, name);
	if (!*e) {
		snprintf(why, size, "there is no snapshot '%.80s'", name);
		return -ENOENT;
	}
	if (nbd_server_users(server, (*e)->store)) {
		snprintf(why, size, "%s: in use by %u connections", name, nbd_server_users(server, (*e)->store));
		return -EBUSY;
	}
	return 0;
}

int stores_delete(struct stores *st, struct nbd_server *server, const char *name, int64_t deadline_ns, char *why,
		  size_t size)
{
	struct stores_entry *e;
	int err = find_unused(st, server, name, &e, why, size);

	if (err)
		return err;
	e->hidden = true;
	err = snap_delete(st->snap, e->store, deadline_ns);
	if (!err) {
		forget(st, e);
		return 0;
	}
	e->hidden = e->merging;
	snprintf(why, size, "%s: %s", name, err == -EBUSY ? "it is being merged" : strerror(-err));
	return err;
}

int stores_merge(struct stores *st, struct nbd_server *server, const char *name, int64_t deadline_ns, char *why,
		 size_t size)
{
	struct stores_entry *e;
	int err = find_unused(st, server, name, &e, why, size);

	if (err)
		return err;
	e->hidden = true;
	err = snap_merge(st->snap, e->store, deadline_ns);
	if (!err) {
		e->merging = true;
		return 0;
	}
	e->hidden = e->merging;
	snprintf(why, size, "%s: %s", name,
		 err == -EBUSY	  ? "a snapshot is being merged already"
		 : err == -EINVAL ? "it is transient: only persistent snapshots can be merged"
				  : strerror(-err));
	return err;
}

void stores_look(struct stores *st)
{
	struct snap_info info;

	for (int i = 0; i < SNAP_MAX_STORES; i++)
		if (st->of[i].used && st->of[i].merging && snap_store_info(st->snap, st->of[i].store, &info) == -ENOENT)
			forget(st, &st->of[i]);
}

/* --- For clients --- */

static bool can_be_read(const struct stores *st, const struct stores_entry *e)
{
	struct snap_info info;

	return e->used && !e->hidden && snap_store_info(st->snap, e->store, &info) == 0 && info.valid;
}

static void describe(const struct stores *st, const char *name, int store, uint32_t block, struct nbd_export *e)
{
	*e = (struct nbd_export){ .store = store, .size = st->origin->size, .block = st->origin->block };
	if (block > e->block)
		e->block = block;
	snprintf(e->name, sizeof(e->name), "%s", name);
}

bool stores_export(void *arg, unsigned i, struct nbd_export *e)
{
	const struct stores *st = arg;

	if (!i) {
		describe(st, STORES_ORIGIN, SNAP_ORIGIN, 1, e);
		return true;
	}
	for (int k = 0; k < SNAP_MAX_STORES; k++)
		if (can_be_read(st, &st->of[k]) && !--i) {
			describe(st, st->of[k].name, st->of[k].store, st->of[k].block, e);
			return true;
		}
	return false;
}
