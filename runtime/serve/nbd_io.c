// SPDX-License-Identifier: MIT
/* From requests of clients to requests of the engine, and back. */
#include "serve/nbd_int.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* --- Memory --- */

static bool pool_take(struct nbd_conn *c, enum nbd_pool pool)
{
	const struct nbd_quota *quota = &nbd_quota[pool];
	struct nbd_server *s = c->server;

	if (c->has[pool] >= quota->own) {
		if (s->shared[pool] == quota->shared || c->has[pool] == quota->own + quota->share)
			return false;
		s->shared[pool]++;
	}
	c->has[pool]++;
	return true;
}

static void pool_give(struct nbd_conn *c, enum nbd_pool pool)
{
	if (c->has[pool] > nbd_quota[pool].own)
		c->server->shared[pool]--;
	c->has[pool]--;
	c->server->freed = true;
}

struct nbd_req *req_new(struct nbd_conn *c)
{
	struct nbd_req *q;

	if (!pool_take(c, NBD_REQS))
		return NULL;
	q = TAILQ_FIRST(&c->server->reqs);
	TAILQ_REMOVE(&c->server->reqs, q, at);
	*q = (struct nbd_req){ .conn = c, .out.kind = NBD_OUT_REQ };
	return q;
}

/* Free it, if nothing more will come of it. */
static void req_check(struct nbd_req *q)
{
	struct nbd_conn *c = q->conn;

	if (q->begun < q->len || q->running || q->unsent)
		return;
	TAILQ_INSERT_HEAD(&c->server->reqs, q, at);
	pool_give(c, NBD_REQS);
	conn_check_end(c);
}

void req_forget(struct nbd_req *q)
{
	q->begun = q->len;
	req_check(q);
}

static uint32_t pool_bytes(enum nbd_pool pool)
{
	return pool == NBD_SMALLS ? NBD_SMALL : NBD_LARGE;
}

struct nbd_part *part_new(struct nbd_req *q)
{
	struct nbd_conn *c = q->conn;
	struct nbd_server *s = c->server;
	uint64_t offset = q->offset + q->begun;
	uint32_t block = c->export.block, before = (uint32_t)offset & (block - 1);
	uint32_t len = q->len - q->begun;
	enum nbd_pool pool = NBD_LARGES;
	struct nbd_part *p;
	char *buf;

	if (len > NBD_LARGE - before)
		len = NBD_LARGE - before;
	/* Zeros need no memory of their own. */
	if (q->type == NBD_CMD_WRITE_ZEROES || ((before + len + block - 1) & ~(block - 1)) <= NBD_SMALL)
		pool = NBD_SMALLS;
	if (!pool_take(c, pool))
		return NULL;
	p = TAILQ_FIRST(&s->parts[pool]);
	TAILQ_REMOVE(&s->parts[pool], p, at);
	buf = p->buf;
	if (s->opts.no_reserve)
		buf = mmap(NULL, pool_bytes(pool), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*p = (struct nbd_part){
		.out.kind = NBD_OUT_PART, .req = q, .buf = buf, .pool = pool, .offset = offset, .len = len
	};
	if (buf != MAP_FAILED)
		return p;
	p->buf = NULL;
	TAILQ_INSERT_HEAD(&s->parts[pool], p, at);
	pool_give(c, pool);
	return NULL;
}

void part_free(struct nbd_part *p)
{
	struct nbd_conn *c = p->req->conn;
	struct nbd_server *s = c->server;

	if (s->opts.no_reserve) {
		munmap(p->buf, pool_bytes(p->pool));
		p->buf = NULL;
	}
	TAILQ_INSERT_HEAD(&s->parts[p->pool], p, at);
	pool_give(c, p->pool);
}

/* --- Answers --- */

static uint32_t nbd_error(int err)
{
	switch (-err) {
	case 0:
		return 0;
	case EPERM:
	case EROFS:
		return NBD_EPERM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOMEM:
		return NBD_ENOMEM;
	case ENOSPC:
		return NBD_ENOSPC;
	default:
		return NBD_EIO;
	}
}

static void put_simple(struct nbd_out *o, const struct nbd_req *q)
{
	struct nbd_simple *head = (struct nbd_simple *)o->head;

	*head = (struct nbd_simple){ .magic = htobe32(NBD_SIMPLE_MAGIC), .err = htobe32(q->err), .cookie = q->cookie };
	o->head_len = sizeof(*head);
}

static void put_chunk(struct nbd_out *o, const struct nbd_req *q, uint16_t type, bool done, uint32_t len)
{
	struct nbd_chunk *head = (struct nbd_chunk *)o->head;

	*head = (struct nbd_chunk){ .magic = htobe32(NBD_STRUCTURED_MAGIC),
				    .flags = htobe16(done ? NBD_CHUNK_DONE : 0),
				    .type = htobe16(type),
				    .cookie = q->cookie,
				    .len = htobe32(len) };
	o->head_len = sizeof(*head);
}

static void put_u32(struct nbd_out *o, uint32_t value)
{
	value = htobe32(value);
	memcpy(o->head + o->head_len, &value, sizeof(value));
	o->head_len += sizeof(value);
}

static void count_answer(struct nbd_req *q)
{
	struct nbd_counters *n = &q->conn->server->count;

	n->requests++;
	if (q->err)
		n->errors++;
	else if (q->type == NBD_CMD_READ)
		n->bytes_read += q->len;
	else if (q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES)
		n->bytes_written += q->len;
}

/* All of it has ended: say so. Reads and block status have an answer of their own kind when they may. */
static void answer(struct nbd_req *q)
{
	bool structured = q->conn->structured && (q->type == NBD_CMD_READ || q->type == NBD_CMD_BLOCK_STATUS);

	count_answer(q);
	if (!structured) {
		put_simple(&q->out, q);
	} else if (q->err) {
		put_chunk(&q->out, q, NBD_CHUNK_ERROR, true, 6);
		put_u32(&q->out, q->err);
		memset(q->out.head + q->out.head_len, 0, 2); /* no text */
		q->out.head_len += 2;
	} else if (q->type == NBD_CMD_BLOCK_STATUS) {
		put_chunk(&q->out, q, NBD_CHUNK_BLOCK_STATUS, true, 12);
		put_u32(&q->out, NBD_CONTEXT_ALLOCATION);
		put_u32(&q->out, q->len);
		put_u32(&q->out, 0); /* data, as far as anybody knows */
	} else {		     /* a read of nothing */
		put_chunk(&q->out, q, NBD_CHUNK_NONE, true, 0);
	}
	q->begun = q->len;
	q->unsent++;
	conn_queue(q->conn, &q->out);
}

static void refuse(struct nbd_req *q, uint32_t err)
{
	q->err = err;
	answer(q);
}

/* What a part has read. `last`: nothing else of its request is to come. */
static void answer_part(struct nbd_part *p, bool last)
{
	struct nbd_req *q = p->req;
	struct nbd_out *o = &p->out;

	if (q->conn->structured) {
		uint64_t offset = htobe64(p->offset);

		put_chunk(o, q, NBD_CHUNK_OFFSET_DATA, last, (uint32_t)sizeof(offset) + p->len);
		memcpy(o->head + o->head_len, &offset, sizeof(offset));
		o->head_len += sizeof(offset);
	} else if (!q->headed) {
		put_simple(o, q);
		q->headed = true;
	}
	o->data = p->buf + (p->offset & (q->conn->export.block - 1));
	o->data_len = p->len;
	if (last)
		count_answer(q);
	q->unsent++;
	conn_queue(q->conn, o);
}

void out_gone(struct nbd_conn *c, struct nbd_out *o)
{
	struct nbd_req *q;

	if (o->kind == NBD_OUT_HELLO) {
		c->hello.head_len = c->hello.data_len = 0;
		return;
	}
	if (o->kind == NBD_OUT_PART) {
		struct nbd_part *p = (struct nbd_part *)o;

		q = p->req;
		part_free(p);
	} else {
		q = (struct nbd_req *)o;
	}
	q->unsent--;
	req_check(q);
}

static void part_done(struct snap_req *r)
{
	struct nbd_part *p = r->owner;
	struct nbd_req *q = p->req;
	struct nbd_conn *c = q->conn;
	bool last, broken;

	q->running--;
	if (r->err && !q->err)
		q->err = nbd_error(r->err);
	/* Of what has failed no more is begun; but what a client will send has to be received. */
	if (q->err && q->type != NBD_CMD_WRITE)
		q->begun = q->len;
	last = q->begun == q->len && !q->running;
	c->server->freed = true;
	if (q->type == NBD_CMD_READ && !q->err) {
		answer_part(p, last);
		return;
	}
	part_free(p);
	broken = q->headed;
	if (last)
		answer(q);
	/* A part of the answer is out, and there is no other way to say that the rest is missing. */
	if (broken)
		conn_break(c);
}

void part_submit(struct nbd_part *p)
{
	struct nbd_req *q = p->req;
	const struct nbd_conn *c = q->conn;
	bool read = q->type == NBD_CMD_READ;
	uint32_t block = c->export.block, before = (uint32_t)p->offset & (block - 1);

	p->r = (struct snap_req){
		.op = read ? IO_READ : IO_WRITE,
		.store = c->export.store,
		.durable = !read && (q->flags & NBD_CMD_FLAG_FUA),
		.offset = p->offset - before,
		.data = q->type == NBD_CMD_WRITE_ZEROES ? c->server->zeros : p->buf,
		.len = (before + p->len + block - 1) & ~(block - 1),
		.done = part_done,
		.owner = p,
	};
	q->begun += p->len;
	q->running++;
	snap_submit(c->server->opts.snap, &p->r);
}

bool req_go_on(struct nbd_req *q)
{
	while (q->begun < q->len) {
		struct nbd_part *p;

		/* Parts of a simple reply have no offsets: one after the other. */
		if (q->type == NBD_CMD_READ && !q->conn->structured && q->running)
			return false;
		p = part_new(q);
		if (!p)
			return false;
		part_submit(p);
	}
	return true;
}

static void flush_done(struct snap_req *r)
{
	struct nbd_req *q = r->owner;

	q->running--;
	q->err = nbd_error(r->err);
	answer(q);
}

static void flush(struct nbd_req *q)
{
	if (q->conn->export.store != SNAP_ORIGIN)
		return answer(q); /* nobody writes to it */
	q->r = (struct snap_req){ .op = IO_FLUSH, .store = SNAP_ORIGIN, .done = flush_done, .owner = q };
	q->running++;
	snap_submit(q->conn->server->opts.snap, &q->r);
}

static bool is_write(const struct nbd_req *q)
{
	return q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES || q->type == NBD_CMD_TRIM;
}

/* FUA may be set on any, and means something for writes only. */
static bool has_known_flags(const struct nbd_req *q)
{
	uint16_t known = NBD_CMD_FLAG_FUA;

	if (q->type == NBD_CMD_READ)
		known |= NBD_CMD_FLAG_DF;
	else if (q->type == NBD_CMD_WRITE_ZEROES)
		known |= NBD_CMD_FLAG_NO_HOLE;
	else if (q->type == NBD_CMD_BLOCK_STATUS)
		known |= NBD_CMD_FLAG_REQ_ONE;
	return !(q->flags & ~known);
}

static bool is_known(const struct nbd_req *q)
{
	switch (q->type) {
	case NBD_CMD_READ:
	case NBD_CMD_WRITE:
	case NBD_CMD_FLUSH:
	case NBD_CMD_TRIM:
	case NBD_CMD_WRITE_ZEROES:
	case NBD_CMD_BLOCK_STATUS:
		return has_known_flags(q);
	default:
		return false;
	}
}

/* NBD_E..., or 0: it can be done. */
static uint32_t check(const struct nbd_req *q)
{
	const struct nbd_conn *c = q->conn;
	const struct nbd_export *e = &c->export;

	if (!is_known(q))
		return NBD_EINVAL;
	if (q->type == NBD_CMD_FLUSH)
		return q->len || q->offset ? NBD_EINVAL : 0;
	if (is_write(q) && e->store != SNAP_ORIGIN)
		return NBD_EPERM;
	if (q->offset > e->size || q->len > e->size - q->offset)
		return q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL;
	/* The rest of a block would have to be read first. The handshake has told the size of blocks. */
	if (is_write(q) && ((q->offset | q->len) & (e->block - 1)))
		return NBD_EINVAL;
	if (q->type == NBD_CMD_READ && q->len > NBD_MAX_LEN)
		return NBD_EINVAL;
	if (q->type == NBD_CMD_READ && (q->flags & NBD_CMD_FLAG_DF) && c->structured &&
	    q->len > NBD_LARGE - (q->offset & (e->block - 1)))
		return NBD_EOVERFLOW;
	if (q->type == NBD_CMD_BLOCK_STATUS && (c->status_of != e->store || !q->len))
		return NBD_EINVAL;
	return 0;
}

void req_begin(struct nbd_req *q)
{
	struct nbd_conn *c = q->conn;
	uint32_t err = check(q);

	if (err) {
		uint32_t len = q->len;

		refuse(q, err);
		if (q->type == NBD_CMD_WRITE && len) {
			c->skip = len;
			c->state = NBD_SKIP;
		}
		return;
	}
	if (q->type == NBD_CMD_FLUSH)
		return flush(q);
	/* Trimming is a hint: what was written stays, and reads as before. */
	if (q->type == NBD_CMD_TRIM || q->type == NBD_CMD_BLOCK_STATUS || !q->len)
		return answer(q);
	c->req = q;
	c->state = q->type == NBD_CMD_WRITE ? NBD_PAYLOAD : NBD_BEGIN;
}
