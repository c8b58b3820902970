// SPDX-License-Identifier: MIT
/*
 * An NBD server over an origin in memory with one snapshot, and clients of it, all in one thread: rig_run() is when the
 * server does something.
 */
#ifndef HEADROOM_TEST_NBD_RIG_H
#define HEADROOM_TEST_NBD_RIG_H

#include "t.h"

#include "base/clock.h"
#include "serve/nbd_int.h"
#include "serve/sockets.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define RIG_BYTES (4U << 20)
#define RIG_BLOCK 512U
#define RIG_FILL  0x11 /* what the snapshot holds */

struct rig {
	struct io_loop *loop;
	struct copy_client *copy;
	struct target *origin;
	struct snap *snap;
	int snapshot;
	int events;
	struct nbd_server *server;
	char dir[32], path[64];
};

static inline bool rig_export(void *arg, unsigned i, struct nbd_export *e)
{
	const struct rig *r = arg;

	*e = (struct nbd_export){ .store = i ? r->snapshot : SNAP_ORIGIN, .size = RIG_BYTES, .block = RIG_BLOCK };
	snprintf(e->name, sizeof(e->name), i ? "before" : "origin");
	return i < 2;
}

static inline void rig_look(void *arg)
{
	evset_run(((struct rig *)arg)->events);
}

static inline void rig_round(void *arg)
{
	nbd_server_round(((struct rig *)arg)->server);
}

/* A file in memory that has no name any more. */
static inline struct target *rig_memory(struct rig *r, const char *name, size_t bytes, int fill)
{
	char path[128], *data = malloc(bytes);
	struct target *t = NULL;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", r->dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	memset(data, fill, bytes);
	assert_int_equal(pwrite(fd, data, bytes, 0), bytes);
	free(data);
	close(fd);
	assert_int_equal(target_open(r->loop, path, TARGET_WRITE, TARGET_MAP, &t), 0);
	unlink(path);
	return t;
}

static inline void rig_open(struct rig *r, bool no_reserve)
{
	struct io_opts io = { .no_uring = true };
	struct copy_opts copy = { .staging_bytes = 4U << 20 };
	struct snap_opts opts;
	struct snap_store_opts store = { .name = "before" };
	struct nbd_opts nbd = { .export = rig_export, .arg = r, .uid = geteuid(), .no_reserve = no_reserve };
	struct target *t;

	*r = (struct rig){ .dir = "/dev/shm/nbd-rig-XXXXXX" };
	assert_non_null(mkdtemp(r->dir));
	assert_int_equal(io_loop_open(&io, &r->loop), 0);
	assert_int_equal(copy_client_open(r->loop, &copy, &r->copy), 0);
	r->origin = rig_memory(r, "origin", RIG_BYTES, RIG_FILL);
	snap_opts_default(&opts);
	opts.durable = false;
	assert_int_equal(snap_open(r->loop, r->copy, r->origin, &opts, &r->snap), 0);
	t = rig_memory(r, "store", RIG_BYTES + 65536, 0);
	r->snapshot = snap_create(r->snap, t, &store, clock_ns() + NS_PER_S);
	assert_int_equal(r->snapshot, 0);
	nbd.snap = r->snap;
	nbd.events = r->events = evset_open();
	assert_int_equal(nbd_server_open(&nbd, &r->server), 0);
	assert_int_equal(io_loop_watch(r->loop, r->events, rig_look, r), 0);
	io_loop_each_round(r->loop, rig_round, r);
	snprintf(r->path, sizeof(r->path), "%s/socket", r->dir);
	assert_int_equal(nbd_server_listen(r->server, socket_listen_unix(r->path, 0600), true), 0);
}

/* Until nothing more comes of what the clients have done. */
static inline void rig_run(struct rig *r)
{
	for (int quiet = 0; quiet < 3; quiet++) {
		uint64_t requests = r->server->count.requests, connections = r->server->count.connections;

		assert_int_equal(snap_run(r->snap, 0), 0);
		if (!snap_idle(r->snap) || requests != r->server->count.requests ||
		    connections != r->server->count.connections)
			quiet = -1;
	}
}

/* All memory is where it was at the start, and all places are free. Clients have gone. */
static inline void rig_assert_whole(struct rig *r)
{
	const struct nbd_server *s = r->server;
	const struct nbd_part *p;
	const struct nbd_req *q;
	unsigned n[NBD_POOLS] = { 0 };

	rig_run(r);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		assert_int_equal(s->conns[i].state, NBD_FREE);
	TAILQ_FOREACH (q, &s->reqs, at)
		n[NBD_REQS]++;
	for (enum nbd_pool pool = NBD_SMALLS; pool < NBD_POOLS; pool++)
		TAILQ_FOREACH (p, &s->parts[pool], at)
			n[pool]++;
	for (enum nbd_pool pool = 0; pool < NBD_POOLS; pool++) {
		assert_int_equal(n[pool], NBD_MAX_CONNS * nbd_quota[pool].own + nbd_quota[pool].shared);
		assert_int_equal(s->shared[pool], 0);
	}
	assert_true(TAILQ_EMPTY(&s->dirty) && TAILQ_EMPTY(&s->waiting));
}

static inline void rig_close(struct rig *r)
{
	rig_assert_whole(r);
	io_loop_each_round(r->loop, NULL, NULL);
	nbd_server_close(r->server);
	assert_int_equal(snap_close(r->snap, clock_ns() + NS_PER_S), 0);
	copy_client_close(r->copy);
	target_close(r->origin);
	io_loop_close(r->loop);
	close(r->events);
	unlink(r->path);
	rmdir(r->dir);
}

static inline int rig_connect(struct rig *r)
{
	int fd = socket_connect_unix(r->path);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	rig_run(r);
	return fd;
}

#endif
