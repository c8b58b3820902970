// SPDX-License-Identifier: MIT
/*
 * NBD over a snapshot engine: fixed newstyle, structured replies, flush, FUA, write zeroes, block status, any number of
 * connections to an export. One thread, the engine's: sockets are looked at from the engine's own loop, and what has
 * ended in a round is answered at the beginning of the next, all of one connection by one sendmsg(2).
 *
 *   socket -> requests -> parts, each with memory of its own, each a request of the engine -> replies
 *
 * All memory is taken at the start. Each connection has a little for itself, and may have a share of what is for all:
 * one that does not fetch its replies, or sends half of a request, keeps only itself waiting, and after NBD_STALL_S is
 * closed. A connection for whose next request there is no memory is not read from until there is. What a client does
 * wrong costs it an error where the protocol has one, and its connection where it has not.
 */
#ifndef HEADROOM_NBD_SERVER_H
#define HEADROOM_NBD_SERVER_H

#include "engine/snap.h"

#include <sys/types.h>

#define NBD_MAX_CONNS	64 /* beyond them the one that has been longest in its handshake is closed, or the new one */
#define NBD_HANDSHAKE_S 10
#define NBD_STALL_S	60

struct nbd_server;

struct nbd_export {
	char name[EXSTORE_NAME];
	int store; /* SNAP_ORIGIN, or a snapshot, which can only be read */
	uint64_t size;
	uint32_t block; /* what writes are multiples of */
};

struct nbd_opts {
	struct snap *snap;
	int events; /* where its descriptors are looked at, see evset.h */
	/* The i-th export; false: there are fewer. The first is also the one without a name. */
	bool (*export)(void *arg, unsigned i, struct nbd_export *e);
	void *arg;
	uid_t uid; /* who may connect through a UNIX socket, besides root; (uid_t)-1: all */
	/*
	 * As an arm: memory is taken for each part, and given back. So a request waits for what the kernel has to free
	 * first, perhaps by a write to this very device.
	 */
	bool no_reserve;
};

struct nbd_counters {
	uint64_t connections, refused; /* all so far; of them, for want of room or of the right user */
	uint64_t broken;	       /* connections closed for what the client did, or did not */
	uint64_t requests, errors;     /* answered; of them, with an error */
	uint64_t bytes_read, bytes_written;
	uint64_t waits; /* times that a connection was not read from for want of memory */
};

/* The loop's io_loop_each_round() is to call nbd_server_round(). 0 or -errno. */
int nbd_server_open(const struct nbd_opts *opts, struct nbd_server **server);
/* All requests have ended (nbd_server_idle()). NULL is none. */
void nbd_server_close(struct nbd_server *s);
/* Accept from this listening socket, which is the server's from here on. 0 or -errno. */
int nbd_server_listen(struct nbd_server *s, int fd, bool is_unix);
/* Send what there is to be sent, and go on with those who waited for memory. */
void nbd_server_round(struct nbd_server *s);
/* Close connections that have been waited for long enough. To be called about once a second. */
void nbd_server_tick(struct nbd_server *s);
/* How many connections are at this store. */
unsigned nbd_server_users(const struct nbd_server *s, int store);
/* Take no more connections and requests. nbd_server_idle() says when what was begun is answered. */
void nbd_server_stop(struct nbd_server *s);
/* Close all connections. What was begun goes on. */
void nbd_server_disconnect(struct nbd_server *s);
bool nbd_server_idle(const struct nbd_server *s);
const struct nbd_counters *nbd_server_counters(const struct nbd_server *s);
/* Bytes taken at the start. */
size_t nbd_server_memory(const struct nbd_server *s);

#endif
