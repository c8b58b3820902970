// SPDX-License-Identifier: MIT
/* Opening files and block devices, and the back ends that need no ring. */
#include "engine/io.h"
#include "engine/ring.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * What O_DIRECT into a file must be a multiple of: a page is enough for every file system. Block devices say it
 * themselves.
 */
#define FILE_BLOCK 4096

/* --- map --- */

static int map_start(struct target *t, struct io *io)
{
	struct io_part part = io_part(io);
	uint64_t room = part.offset < t->size ? t->size - part.offset : 0;

	if (part.len > room)
		part.len = (uint32_t)room;
	if (io->op == IO_READ)
		memcpy(part.data, t->map + part.offset, part.len);
	else if (io->op == IO_WRITE)
		memcpy(t->map + part.offset, part.data, part.len);
	/* For tmpfs there is nothing to do, and it says so at once; another file system has to write the pages. */
	if ((io->op == IO_FLUSH || io->durable) && fdatasync(t->fd) < 0)
		io_result(io, -errno);
	else
		io_result(io, io->op == IO_WRITE && !part.len ? -ENOSPC : (int64_t)part.len);
	return 0;
}

static void map_close(struct target *t)
{
	munmap(t->map, t->size);
	close(t->fd);
}

static const struct target_ops map_ops = { .start = map_start, .close = map_close };

/* --- sync --- */

/*
 * Pages of one file by way of a pipe into another: splice(2) with 1 MiB at a time makes 6.2 GB/s from tmpfs to tmpfs
 * where copy_file_range(2) makes 5.8. Returns bytes or -errno.
 */
static ssize_t copy_in_kernel(struct target *t, const struct io *io, const struct io_part *part)
{
	off_t from = (off_t)(io->source_offset + io->moved), to = (off_t)part->offset;
	int ends[2], err = io_loop_pipe(t->loop, ends);
	ssize_t in, out = 0, n = 1;

	if (err)
		return err;
	in = splice(io->source->fd, &from, ends[1], NULL, part->len < PIPE_BYTES ? part->len : PIPE_BYTES, 0);
	if (in <= 0)
		return in < 0 ? -errno : 0;
	for (; out < in && n > 0; out += n > 0 ? n : 0)
		n = splice(ends[0], NULL, t->fd, &to, (size_t)(in - out), 0);
	if (n < 0)
		err = -errno;
	if (out < in)
		io_loop_drop_pipe(t->loop);
	return out ? out : err;
}

static int sync_start(struct target *t, struct io *io)
{
	struct io_part part = io_part(io);
	struct iovec iov = { .iov_base = part.data, .iov_len = part.len };
	ssize_t n;

	if (io->op == IO_COPY) {
		io_result(io, copy_in_kernel(t, io, &part));
		return 0;
	}
	if (io->op == IO_READ)
		n = pread(t->fd, part.data, part.len, (off_t)part.offset);
	else if (io->op == IO_WRITE)
		n = pwritev2(t->fd, &iov, 1, (off_t)part.offset, io->durable ? RWF_DSYNC : 0);
	else
		n = fdatasync(t->fd);
	io_result(io, n < 0 ? -errno : n);
	return 0;
}

static void fd_close(struct target *t)
{
	close(t->fd);
}

static const struct target_ops sync_ops = { .start = sync_start, .close = fd_close };

/* --- uring --- */

static int uring_start(struct target *t, struct io *io)
{
	return ring_start(io_loop_ring(t->loop), t, io);
}

static void uring_close(struct target *t)
{
	if (t->file_index >= 0)
		ring_remove_file(io_loop_ring(t->loop), t->file_index);
	close(t->fd);
}

static const struct target_ops uring_ops = { .start = uring_start, .close = uring_close };

/* --- Opening --- */

const char *target_back_name(enum target_back back)
{
	static const char *const names[] = { [TARGET_AUTO] = "auto",
					     [TARGET_URING] = "uring",
					     [TARGET_SYNC] = "sync",
					     [TARGET_MAP] = "map",
					     [TARGET_OWN] = "own" };

	return names[back];
}

bool target_copies_from(const struct target *t, const struct target *source)
{
	return t->back == TARGET_SYNC && !t->is_block && source->back == TARGET_SYNC && !source->is_block;
}

static struct target *new_target(struct io_loop *loop, const struct target_ops *ops, enum target_back back)
{
	struct target *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->ops = ops;
	t->loop = loop;
	t->back = back;
	t->fd = t->file_index = -1;
	t->limit = TARGET_LIMIT;
	TAILQ_INIT(&t->waiting);
	return t;
}

int target_make(struct io_loop *loop, const struct target_ops *ops, uint64_t size, uint32_t block, void *own,
		struct target **target)
{
	struct target *t = new_target(loop, ops, TARGET_OWN);

	if (!t)
		return -ENOMEM;
	t->size = size;
	t->block = block;
	t->own = own;
	*target = t;
	return 0;
}

void target_close(struct target *t)
{
	if (!t)
		return;
	assert(!t->inflight && TAILQ_EMPTY(&t->waiting) && !t->listed);
	if (t->ops->close)
		t->ops->close(t);
	free(t);
}

/* What the file is, and how large. */
static int look(struct target *t)
{
	struct stat st;
	unsigned block = 0;

	if (fstat(t->fd, &st) < 0)
		return -errno;
	t->size = (uint64_t)st.st_size;
	t->block = FILE_BLOCK;
	t->is_block = S_ISBLK(st.st_mode);
	if (!t->is_block)
		return S_ISREG(st.st_mode) ? 0 : -ENOTBLK;
	if (ioctl(t->fd, BLKGETSIZE64, &t->size) < 0 || ioctl(t->fd, BLKSSZGET, &block) < 0)
		return -errno;
	t->block = block;
	return 0;
}

/*
 * Would the ring do it itself? A file that cannot be asked not to wait is given to a thread of the kernel's, request by
 * request; tmpfs says so, and the page cache of ext4.
 */
static bool takes_nowait(int fd, uint32_t block)
{
	void *buf = aligned_alloc(FILE_BLOCK, FILE_BLOCK);
	struct iovec iov = { .iov_base = buf, .iov_len = block };
	ssize_t n;

	if (!buf)
		return false;
	n = preadv2(fd, &iov, 1, 0, RWF_NOWAIT);
	free(buf);
	return n >= 0 || errno == EAGAIN;
}

static int open_flags(unsigned flags)
{
	/* O_EXCL of a block device: claimed, for as long as it is open. */
	return O_CLOEXEC | (flags & TARGET_WRITE ? O_RDWR : O_RDONLY) | (flags & TARGET_CREATE ? O_CREAT : 0) |
	       (flags & TARGET_EXCLUSIVE ? O_EXCL : 0);
}

static int map_all(struct target *t, unsigned flags)
{
	if (t->is_block || !t->size)
		return -EINVAL;
	/* A page that is not there when it is written to, and cannot be had then, is SIGBUS. */
	if (flags & TARGET_WRITE && fallocate(t->fd, 0, 0, (off_t)t->size) < 0)
		return -errno;
	t->map = mmap(NULL, t->size, flags & TARGET_WRITE ? PROT_READ | PROT_WRITE : PROT_READ,
		      MAP_SHARED | MAP_POPULATE, t->fd, 0);
	return t->map == MAP_FAILED ? -errno : 0;
}

static int set_direct(int fd, bool direct)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) < 0)
		return -errno;
	return 0;
}

/* 0, or -errno: it is not to be had this way, and is what it was. */
static int try_uring(struct target *t)
{
	int err;

	if (!io_loop_ring(t->loop))
		return -EOPNOTSUPP;
	/* Not by open(): where it cannot be had that fails too, but the file has been made. */
	err = set_direct(t->fd, true);
	if (err)
		return err;
	if (!takes_nowait(t->fd, t->block)) {
		err = set_direct(t->fd, false);
		return err ? err : -EOPNOTSUPP;
	}
	t->ops = &uring_ops;
	t->back = TARGET_URING;
	t->file_index = ring_add_file(io_loop_ring(t->loop), t->fd);
	return 0;
}

static int be_plain(struct target *t, unsigned flags, enum target_back back)
{
	int err = 0;

	if (back == TARGET_MAP) {
		err = map_all(t, flags);
		t->ops = &map_ops;
	}
	/* Memory has no blocks. */
	t->block = t->is_block ? t->block : 1;
	t->back = back == TARGET_MAP ? TARGET_MAP : TARGET_SYNC;
	return err;
}

static int open_as(struct target *t, const char *path, unsigned flags, enum target_back back)
{
	int err;

	t->fd = open(path, open_flags(flags), 0644);
	if (t->fd < 0)
		return -errno;
	err = look(t);
	if (!err && (back == TARGET_AUTO || back == TARGET_URING) && try_uring(t) == 0)
		return 0;
	if (!err)
		err = back == TARGET_URING ? -EINVAL : be_plain(t, flags, back);
	if (err)
		close(t->fd);
	return err;
}

int target_open(struct io_loop *loop, const char *path, unsigned flags, enum target_back back, struct target **target)
{
	struct target *t;
	struct stat st;
	int err;

	/* Before it is opened, because that of a FIFO would wait for somebody to write. */
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -ENOTBLK;
	t = new_target(loop, &sync_ops, TARGET_SYNC);
	if (!t)
		return -ENOMEM;
	err = open_as(t, path, flags, back);
	if (err) {
		free(t);
		return err;
	}
	*target = t;
	return 0;
}

int target_open_alone(struct io_loop *loop, const char *path, unsigned flags, enum target_back back,
		      struct target **target)
{
	int err = target_open(loop, path, flags, back, target);

	if (err)
		return err;
	if (flock((*target)->fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	err = -errno;
	target_close(*target);
	*target = NULL;
	return err;
}

int target_resize(struct target *t, uint64_t size)
{
	if (t->is_block || t->back == TARGET_MAP)
		return -EINVAL;
	if (ftruncate(t->fd, (off_t)size) < 0)
		return -errno;
	t->size = size;
	return 0;
}
