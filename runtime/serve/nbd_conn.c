// SPDX-License-Identifier: MIT
/* A connection: what is received, in which order, and what is sent. */
#include "serve/nbd_int.h"

#include "base/clock.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SEND_MAX 64 /* replies by one call */

static bool is_open(const struct nbd_conn *c)
{
	return c->state != NBD_FREE && c->state != NBD_CLOSED;
}

/* --- Its end --- */

void conn_check_end(struct nbd_conn *c)
{
	if (c->state == NBD_CLOSED && !c->has[NBD_REQS])
		c->state = NBD_FREE;
}

/* What was begun goes on, and its outcome is thrown away. */
static void drop_all(struct nbd_conn *c)
{
	struct nbd_req *q = c->req;
	struct nbd_out *o;

	if (c->part)
		part_free(c->part);
	c->part = NULL;
	c->req = NULL;
	if (q)
		req_forget(q);
	while ((o = TAILQ_FIRST(&c->outs))) {
		TAILQ_REMOVE(&c->outs, o, at);
		out_gone(c, o);
	}
}

void conn_close(struct nbd_conn *c)
{
	struct nbd_server *s = c->server;

	if (!is_open(c))
		return;
	evset_del(s->opts.events, &c->ev);
	close(c->ev.fd);
	c->ev.fd = -1;
	if (c->dirty)
		TAILQ_REMOVE(&s->dirty, c, dirty_at);
	if (c->waits)
		TAILQ_REMOVE(&s->waiting, c, waits_at);
	c->dirty = c->waits = false;
	drop_all(c);
	c->state = NBD_CLOSED;
	conn_check_end(c);
}

void conn_break(struct nbd_conn *c)
{
	if (is_open(c))
		c->server->count.broken++;
	conn_close(c);
}

/* --- What is looked at --- */

static void set_events(struct nbd_conn *c, uint32_t events)
{
	if (events == c->events)
		return;
	c->events = events;
	if (evset_change(c->server->opts.events, &c->ev, events))
		conn_break(c);
}

static void look_for_more(struct nbd_conn *c)
{
	bool wants = !c->waits && c->state != NBD_LEAVING && c->in_to - c->in_from < NBD_IN && !c->server->stopping;

	if (is_open(c))
		set_events(c, (c->events & EPOLLOUT) | (wants ? EPOLLIN : 0));
}

void conn_wait(struct nbd_conn *c)
{
	if (c->waits)
		return;
	c->waits = true;
	TAILQ_INSERT_TAIL(&c->server->waiting, c, waits_at);
	c->server->count.waits++;
}

/* --- Sending --- */

void conn_queue(struct nbd_conn *c, struct nbd_out *o)
{
	if (!is_open(c)) {
		out_gone(c, o);
		return;
	}
	TAILQ_INSERT_TAIL(&c->outs, o, at);
	if (c->dirty || c->events & EPOLLOUT)
		return;
	c->dirty = true;
	TAILQ_INSERT_TAIL(&c->server->dirty, c, dirty_at);
}

static unsigned gather(const struct nbd_conn *c, struct iovec *iov)
{
	const struct nbd_out *o;
	unsigned n = 0, outs = 0;

	TAILQ_FOREACH (o, &c->outs, at) {
		uint32_t head = o->sent < o->head_len ? o->head_len - o->sent : 0;
		uint32_t data = o->head_len + o->data_len - o->sent - head;

		if (head)
			iov[n++] = (struct iovec){ (char *)o->head + o->sent, head };
		if (data)
			iov[n++] = (struct iovec){ (char *)o->data + (o->data_len - data), data };
		if (++outs == SEND_MAX)
			break;
	}
	return n;
}

static void sent(struct nbd_conn *c, size_t bytes)
{
	struct nbd_out *o;

	while ((o = TAILQ_FIRST(&c->outs))) {
		uint32_t left = o->head_len + o->data_len - o->sent;

		if (bytes < left) {
			o->sent += (uint32_t)bytes;
			return;
		}
		bytes -= left;
		TAILQ_REMOVE(&c->outs, o, at);
		out_gone(c, o);
	}
}

void conn_send(struct nbd_conn *c)
{
	while (is_open(c) && !TAILQ_EMPTY(&c->outs)) {
		struct iovec iov[2 * SEND_MAX];
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = gather(c, iov) };
		ssize_t n = sendmsg(c->ev.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			if (!(c->events & EPOLLOUT))
				c->since_ns = clock_ns();
			set_events(c, c->events | EPOLLOUT);
			return;
		}
		if (n < 0) {
			conn_close(c);
			return;
		}
		if (c->events & EPOLLOUT)
			c->since_ns = clock_ns();
		sent(c, (size_t)n);
	}
	if (!is_open(c))
		return;
	set_events(c, c->events & ~(uint32_t)EPOLLOUT);
	if (c->state == NBD_LEAVING && !c->has[NBD_REQS])
		conn_close(c);
	else if (c->state == NBD_OPTION)
		conn_go_on(c); /* the next option waited for this */
}

/* --- Receiving --- */

/* A header is there: begin what it asks for. False: it has to wait. */
static bool take_header(struct nbd_conn *c)
{
	struct nbd_request r;
	struct nbd_req *q;

	memcpy(&r, c->in + c->in_from, sizeof(r));
	if (be32toh(r.magic) != NBD_REQUEST_MAGIC) {
		conn_break(c);
		return true;
	}
	if (be16toh(r.type) == NBD_CMD_DISC) {
		c->state = NBD_LEAVING;
		if (!c->has[NBD_REQS])
			conn_close(c);
		return true;
	}
	/* So much is not received only to be refused. */
	if (be16toh(r.type) == NBD_CMD_WRITE && be32toh(r.len) > NBD_MAX_LEN) {
		conn_break(c);
		return true;
	}
	q = req_new(c);
	if (!q)
		return false;
	c->in_from += (uint32_t)sizeof(r);
	q->type = be16toh(r.type);
	q->flags = be16toh(r.flags);
	q->cookie = r.cookie;
	q->offset = be64toh(r.offset);
	q->len = be32toh(r.len);
	c->large = q->type == NBD_CMD_WRITE && q->len > NBD_SMALL;
	req_begin(q);
	return true;
}

static uint32_t take_bytes(struct nbd_conn *c, char *to, uint32_t most)
{
	uint32_t n = c->in_to - c->in_from;

	if (n > most)
		n = most;
	if (to)
		memcpy(to, c->in + c->in_from, n);
	c->in_from += n;
	return n;
}

static void part_filled(struct nbd_conn *c)
{
	struct nbd_req *q = c->req;

	part_submit(c->part);
	c->part = NULL;
	if (q->begun < q->len)
		return;
	c->req = NULL;
	c->state = NBD_HEADER;
}

/* False: there is nothing more, or no memory for it. */
static bool take_payload(struct nbd_conn *c)
{
	if (!c->part)
		c->part = part_new(c->req);
	if (!c->part) {
		conn_wait(c);
		return false;
	}
	c->part->filled += take_bytes(c, c->part->buf + c->part->filled, c->part->len - c->part->filled);
	if (c->part->filled < c->part->len)
		return false;
	part_filled(c);
	return true;
}

static bool step(struct nbd_conn *c)
{
	switch (c->state) {
	case NBD_CLIENT_FLAGS:
	case NBD_OPTION:
		return option_step(c);
	case NBD_HEADER:
		if (c->in_to - c->in_from < sizeof(struct nbd_request) || c->server->stopping)
			return false;
		if (take_header(c))
			return true;
		conn_wait(c);
		return false;
	case NBD_BEGIN:
		if (!req_go_on(c->req)) {
			conn_wait(c);
			return false;
		}
		c->req = NULL;
		c->state = NBD_HEADER;
		return true;
	case NBD_PAYLOAD:
		return take_payload(c);
	case NBD_SKIP:
		c->skip -= take_bytes(c, NULL, c->skip);
		if (c->skip)
			return false;
		c->state = NBD_HEADER;
		return true;
	default:
		return false;
	}
}

void conn_go_on(struct nbd_conn *c)
{
	while (step(c))
		;
	look_for_more(c);
}

/* Behind the part that is being filled, if there is one and nothing lies before it, into the buffer. */
static void receive(struct nbd_conn *c)
{
	struct iovec iov[2];
	struct msghdr msg = { .msg_iov = iov };
	struct nbd_part *p = c->part;
	uint32_t direct = 0;
	ssize_t n;

	memmove(c->in, c->in + c->in_from, c->in_to - c->in_from);
	c->in_to -= c->in_from;
	c->in_from = 0;
	if (p && !c->in_to) {
		direct = p->len - p->filled;
		iov[msg.msg_iovlen++] = (struct iovec){ p->buf + p->filled, direct };
	}
	iov[msg.msg_iovlen++] =
		(struct iovec){ c->in + c->in_to,
				(c->large && c->in_to < NBD_IN_LARGE ? NBD_IN_LARGE : NBD_IN) - c->in_to };
	n = recvmsg(c->ev.fd, &msg, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_close(c);
		return;
	}
	if (c->state > NBD_OPTION)
		c->since_ns = clock_ns();
	if (p && direct) {
		uint32_t filled = (size_t)n < direct ? (uint32_t)n : direct;

		p->filled += filled;
		n -= filled;
		if (p->filled == p->len)
			part_filled(c);
	}
	c->in_to += (uint32_t)n;
	conn_go_on(c);
}

static void conn_event(struct ev *e, uint32_t events)
{
	struct nbd_conn *c = e->owner;

	if (!is_open(c))
		return;
	if (events & EPOLLOUT)
		conn_send(c);
	if (is_open(c) && events & c->events & EPOLLIN)
		receive(c);
	else if (events & (EPOLLHUP | EPOLLERR))
		conn_close(c);
}

void conn_open(struct nbd_conn *c, int fd)
{
	struct nbd_server *s = c->server;

	c->state = NBD_CLIENT_FLAGS;
	c->ev = (struct ev){ .fd = fd, .fn = conn_event, .owner = c };
	c->events = EPOLLIN;
	c->no_zeroes = c->structured = c->large = false;
	c->status_of = NBD_NOBODY;
	c->since_ns = clock_ns();
	c->in_from = c->in_to = c->skip = 0;
	TAILQ_INIT(&c->outs);
	if (evset_add(s->opts.events, &c->ev, c->events)) {
		c->state = NBD_FREE;
		close(fd);
		return;
	}
	option_greet(c);
}
