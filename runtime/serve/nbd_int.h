// SPDX-License-Identifier: MIT
/* What the files of the NBD server share. */
#ifndef HEADROOM_NBD_INT_H
#define HEADROOM_NBD_INT_H

#include "serve/evset.h"
#include "serve/nbd.h"
#include "serve/nbd_server.h"

/*
 * Received at a time. Behind the payload of a large write it is only a few headers: what more comes is most likely
 * payload, and is received where it belongs.
 */
#define NBD_IN	      (64U << 10)
#define NBD_IN_LARGE  256U
#define NBD_HANDSHAKE (16U << 10) /* the largest option, and the most that is replied to one */
/* Memory of parts. 128 KiB: the most that the kernel's client asks for at a time (drivers/block/nbd.c, max_sectors). */
#define NBD_SMALL (16U << 10)
#define NBD_LARGE (128U << 10)
#define NBD_HEAD  32U /* the longest header of a reply, with the offset of its data */

/* Something taken from a pool of the server: what each connection may always have, all share, and one of that. */
enum nbd_pool { NBD_REQS, NBD_SMALLS, NBD_LARGES, NBD_POOLS };

struct nbd_quota {
	unsigned own, shared, share;
};

static const struct nbd_quota nbd_quota[NBD_POOLS] = {
	[NBD_REQS] = { .own = 8, .shared = 512, .share = 136 }, /* the kernel's client has 128 at a time */
	[NBD_SMALLS] = { .own = 2, .shared = 512, .share = 136 },
	[NBD_LARGES] = { .own = 1, .shared = 128, .share = 64 },
};

enum nbd_kind { NBD_OUT_HELLO, NBD_OUT_PART, NBD_OUT_REQ };

/* Something to be sent: a header, and data. */
struct nbd_out {
	TAILQ_ENTRY(nbd_out) at;
	enum nbd_kind kind;
	char head[NBD_HEAD];
	uint32_t head_len, data_len, sent;
	const char *data;
};

TAILQ_HEAD(nbd_outs, nbd_out);

/* What a request of a client is done in. */
struct nbd_part {
	struct nbd_out out; /* first: what was sent is found by it */
	struct snap_req r;
	TAILQ_ENTRY(nbd_part) at; /* free */
	struct nbd_req *req;
	char *buf;
	enum nbd_pool pool;
	uint64_t offset; /* the client's; a read of the engine may begin before it, and end behind it */
	uint32_t len, filled;
};

TAILQ_HEAD(nbd_parts, nbd_part);

struct nbd_req {
	struct nbd_out out; /* the answer, where no part is; first, as above */
	TAILQ_ENTRY(nbd_req) at;
	struct nbd_conn *conn;
	struct snap_req r; /* of a flush */
	uint16_t type, flags;
	uint64_t cookie, offset;
	uint32_t len, begun; /* bytes for which there are parts */
	unsigned running;    /* parts that have not ended */
	unsigned unsent;     /* things to be sent */
	bool headed;	     /* the header of a simple reply is out */
	uint32_t err;	     /* NBD_E... */
};

TAILQ_HEAD(nbd_reqs, nbd_req);

enum nbd_state {
	NBD_FREE,
	NBD_CLIENT_FLAGS,
	NBD_OPTION,
	NBD_HEADER,
	NBD_BEGIN,   /* a request for whose rest there is no part yet */
	NBD_PAYLOAD, /* likewise, or the part is being filled */
	NBD_SKIP,    /* the payload of a write that is refused */
	NBD_LEAVING, /* closed when all is answered */
	NBD_CLOSED,  /* something of it goes on in the engine */
};

struct nbd_conn {
	struct nbd_server *server;
	enum nbd_state state;
	struct ev ev;
	uint32_t events; /* that are asked for */
	bool no_zeroes, structured;
	int status_of;	   /* the store whose base:allocation was asked for, or NBD_NOBODY */
	bool dirty, waits; /* has something to send; for memory */
	struct nbd_export export;
	int64_t since_ns; /* when it came; later, when it last moved or had no reason to */
	char *in;
	uint32_t in_from, in_to;
	bool large;	       /* the last write was */
	struct nbd_req *req;   /* whose parts or payload are next */
	struct nbd_part *part; /* that is being filled */
	uint32_t skip;
	unsigned has[NBD_POOLS];
	struct nbd_outs outs;
	struct nbd_out hello;
	char *hello_data; /* NBD_HANDSHAKE */
	TAILQ_ENTRY(nbd_conn) dirty_at, waits_at;
};

#define NBD_NOBODY (-2)

TAILQ_HEAD(nbd_conns, nbd_conn);

struct nbd_listener {
	struct ev ev;
	struct nbd_server *server;
	bool is_unix;
};

#define NBD_LISTENERS 2

struct nbd_server {
	struct nbd_opts opts;
	struct nbd_listener listeners[NBD_LISTENERS];
	unsigned n_listeners;
	struct nbd_conn conns[NBD_MAX_CONNS];
	struct nbd_parts parts[NBD_POOLS]; /* free */
	struct nbd_reqs reqs;		   /* free */
	unsigned shared[NBD_POOLS];	   /* in use beyond what is each one's own */
	bool freed;			   /* something, since those who wait were last asked */
	struct nbd_conns dirty, waiting;
	char *memory; /* of parts and connections; then NBD_LARGE of zeros */
	size_t memory_bytes;
	char *zeros;
	struct nbd_part *all_parts;
	struct nbd_req *all_reqs;
	bool stopping;
	struct nbd_counters count;
};

/* --- nbd_conn.c --- */

void conn_open(struct nbd_conn *c, int fd);
/* Close it now. */
void conn_close(struct nbd_conn *c);
/* The same, for what the client did. */
void conn_break(struct nbd_conn *c);
/* As much as can be done with what was received. */
void conn_go_on(struct nbd_conn *c);
void conn_send(struct nbd_conn *c);
void conn_queue(struct nbd_conn *c, struct nbd_out *o);
/* Nothing of it goes on any more: its place is free. */
void conn_check_end(struct nbd_conn *c);
/* It cannot go on before something was freed. */
void conn_wait(struct nbd_conn *c);

/* --- nbd_option.c --- */

void option_greet(struct nbd_conn *c);
/* Take what is there of the handshake. False: there is not enough of it, or the reply before is not sent. */
bool option_step(struct nbd_conn *c);

/* --- nbd_io.c --- */

/* NULL: there is no memory. */
struct nbd_req *req_new(struct nbd_conn *c);
/* Begin a request whose header was received, and was found to be in order. */
void req_begin(struct nbd_req *q);
/* Parts for the rest of a read or of zeros. False: memory is missing, or its turn has not come. */
bool req_go_on(struct nbd_req *q);
/* No more of it comes, nor is asked for. */
void req_forget(struct nbd_req *q);
/* A part for the next bytes of a write, to be filled; NULL: there is no memory. */
struct nbd_part *part_new(struct nbd_req *q);
void part_submit(struct nbd_part *p);
void part_free(struct nbd_part *p);
/* It was sent, or will not be. */
void out_gone(struct nbd_conn *c, struct nbd_out *o);

#endif
