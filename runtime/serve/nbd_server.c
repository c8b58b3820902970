// SPDX-License-Identifier: MIT
#include "serve/nbd_int.h"

#include "base/clock.h"
#include "serve/sockets.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPTS 16 /* in a round: who has a connection has his turn in between */

static unsigned pool_size(enum nbd_pool pool)
{
	return NBD_MAX_CONNS * nbd_quota[pool].own + nbd_quota[pool].shared;
}

static size_t memory_bytes(const struct nbd_opts *opts)
{
	size_t parts = (size_t)pool_size(NBD_SMALLS) * NBD_SMALL + (size_t)pool_size(NBD_LARGES) * NBD_LARGE;

	return NBD_LARGE + (size_t)NBD_MAX_CONNS * (NBD_IN + NBD_HANDSHAKE) + (opts->no_reserve ? 0 : parts);
}

static char *lay_parts(struct nbd_server *s, struct nbd_part *p, enum nbd_pool pool, uint32_t bytes, char *at)
{
	TAILQ_INIT(&s->parts[pool]);
	for (unsigned i = 0; i < pool_size(pool); i++, p++) {
		if (!s->opts.no_reserve) {
			p->buf = at;
			at += bytes;
		}
		TAILQ_INSERT_TAIL(&s->parts[pool], p, at);
	}
	return at;
}

static void lay_out(struct nbd_server *s)
{
	char *at = s->memory;

	s->zeros = at;
	at += NBD_LARGE;
	at = lay_parts(s, s->all_parts, NBD_SMALLS, NBD_SMALL, at);
	at = lay_parts(s, s->all_parts + pool_size(NBD_SMALLS), NBD_LARGES, NBD_LARGE, at);
	for (unsigned i = 0; i < pool_size(NBD_REQS); i++)
		TAILQ_INSERT_TAIL(&s->reqs, &s->all_reqs[i], at);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++) {
		struct nbd_conn *c = &s->conns[i];

		c->server = s;
		c->in = at;
		c->hello_data = at + NBD_IN;
		at += NBD_IN + NBD_HANDSHAKE;
	}
}

int nbd_server_open(const struct nbd_opts *opts, struct nbd_server **server)
{
	struct nbd_server *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->opts = *opts;
	TAILQ_INIT(&s->reqs);
	TAILQ_INIT(&s->dirty);
	TAILQ_INIT(&s->waiting);
	s->memory_bytes = memory_bytes(opts);
	s->all_parts = calloc(pool_size(NBD_SMALLS) + pool_size(NBD_LARGES), sizeof(*s->all_parts));
	s->all_reqs = calloc(pool_size(NBD_REQS), sizeof(*s->all_reqs));
	s->memory =
		mmap(NULL, s->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (s->memory == MAP_FAILED)
		s->memory = NULL;
	if (!s->all_parts || !s->all_reqs || !s->memory) {
		nbd_server_close(s);
		return -ENOMEM;
	}
	lay_out(s);
	*server = s;
	return 0;
}

static void close_listeners(struct nbd_server *s)
{
	for (unsigned i = 0; i < s->n_listeners; i++) {
		evset_del(s->opts.events, &s->listeners[i].ev);
		close(s->listeners[i].ev.fd);
	}
	s->n_listeners = 0;
}

void nbd_server_close(struct nbd_server *s)
{
	if (!s)
		return;
	close_listeners(s);
	nbd_server_disconnect(s);
	if (s->memory)
		munmap(s->memory, s->memory_bytes);
	free(s->all_parts);
	free(s->all_reqs);
	free(s);
}

/* --- Accepting --- */

static bool may_connect(const struct nbd_server *s, const struct nbd_listener *l, int fd)
{
	return !l->is_unix || s->opts.uid == (uid_t)-1 || socket_peer_is(fd, s->opts.uid);
}

/* Who has not said what he wants has no right to his place. */
static struct nbd_conn *find_place(struct nbd_server *s)
{
	struct nbd_conn *oldest = NULL;

	for (unsigned i = 0; i < NBD_MAX_CONNS; i++) {
		struct nbd_conn *c = &s->conns[i];

		if (c->state == NBD_FREE)
			return c;
		if (c->state <= NBD_OPTION && (!oldest || c->since_ns < oldest->since_ns))
			oldest = c;
	}
	if (oldest)
		conn_break(oldest);
	return oldest;
}

static void accepted(struct nbd_server *s, const struct nbd_listener *l, int fd)
{
	struct nbd_conn *c = may_connect(s, l, fd) ? find_place(s) : NULL;
	int on = 1;

	s->count.connections++;
	if (!c) {
		s->count.refused++;
		close(fd);
		return;
	}
	if (!l->is_unix)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	conn_open(c, fd);
}

static void listener_event(struct ev *e, uint32_t events)
{
	struct nbd_listener *l = e->owner;
	struct nbd_server *s = l->server;

	(void)events;
	for (int i = 0; i < ACCEPTS && !s->stopping; i++) {
		int fd = socket_accept(e->fd);

		if (fd < 0)
			break;
		accepted(s, l, fd);
	}
}

int nbd_server_listen(struct nbd_server *s, int fd, bool is_unix)
{
	struct nbd_listener *l = &s->listeners[s->n_listeners];
	int err;

	if (s->n_listeners == NBD_LISTENERS)
		return -ENOSPC;
	*l = (struct nbd_listener){ .ev = { .fd = fd, .fn = listener_event, .owner = l },
				    .server = s,
				    .is_unix = is_unix };
	err = evset_add(s->opts.events, &l->ev, EPOLLIN);
	if (!err)
		s->n_listeners++;
	return err;
}

/* --- Going on --- */

/* Each once, in the order in which they came; who has to wait again is the last. */
static void go_on_waiting(struct nbd_server *s)
{
	const struct nbd_conn *last = TAILQ_LAST(&s->waiting, nbd_conns);
	struct nbd_conn *c = NULL;

	s->freed = false;
	while (last && c != last) {
		c = TAILQ_FIRST(&s->waiting);
		TAILQ_REMOVE(&s->waiting, c, waits_at);
		c->waits = false;
		conn_go_on(c);
	}
}

static void send_all(struct nbd_server *s)
{
	struct nbd_conn *c;

	while ((c = TAILQ_FIRST(&s->dirty))) {
		TAILQ_REMOVE(&s->dirty, c, dirty_at);
		c->dirty = false;
		conn_send(c);
	}
}

void nbd_server_round(struct nbd_server *s)
{
	/* What was sent has freed memory, and who goes on may have something to send. */
	do {
		if (s->freed)
			go_on_waiting(s);
		send_all(s);
	} while (s->freed && !TAILQ_EMPTY(&s->waiting));
}

static bool is_owing(const struct nbd_conn *c)
{
	if (c->waits)
		return false;
	return c->events & EPOLLOUT || c->state == NBD_PAYLOAD || c->state == NBD_SKIP;
}

void nbd_server_tick(struct nbd_server *s)
{
	int64_t now = clock_ns();

	for (unsigned i = 0; i < NBD_MAX_CONNS; i++) {
		struct nbd_conn *c = &s->conns[i];
		int64_t s_for = (now - c->since_ns) / NS_PER_S;

		if (c->state == NBD_CLIENT_FLAGS || c->state == NBD_OPTION) {
			if (s_for >= NBD_HANDSHAKE_S)
				conn_break(c);
		} else if (is_owing(c) && s_for >= NBD_STALL_S) {
			conn_break(c);
		}
	}
}

unsigned nbd_server_users(const struct nbd_server *s, int store)
{
	unsigned n = 0;

	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		n += s->conns[i].state >= NBD_HEADER && s->conns[i].export.store == store;
	return n;
}

void nbd_server_stop(struct nbd_server *s)
{
	s->stopping = true;
	close_listeners(s);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++) {
		struct nbd_conn *c = &s->conns[i];

		/* In the handshake, or in a write that was not received as a whole. */
		if (c->state == NBD_CLIENT_FLAGS || c->state == NBD_OPTION || c->state == NBD_PAYLOAD)
			conn_close(c);
	}
}

void nbd_server_disconnect(struct nbd_server *s)
{
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		conn_close(&s->conns[i]);
}

bool nbd_server_idle(const struct nbd_server *s)
{
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		if (s->conns[i].has[NBD_REQS])
			return false;
	return true;
}

const struct nbd_counters *nbd_server_counters(const struct nbd_server *s)
{
	return &s->count;
}

size_t nbd_server_memory(const struct nbd_server *s)
{
	return s->memory_bytes;
}
