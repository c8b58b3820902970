// SPDX-License-Identifier: MIT
/*
 * Snapshots by name, each with its store in a file NAME.snap of one directory: attached when the server starts, made,
 * deleted and merged while it serves. What lies in the directory by another name is nobody's business; a store that is
 * just being made is NAME.snap.new, and one of these that is found was never told to be there.
 *
 * The functions with a deadline are snap.h's: not for callbacks.
 */
#ifndef HEADROOM_SERVE_STORES_H
#define HEADROOM_SERVE_STORES_H

#include "serve/nbd_server.h"

#include <limits.h>

#define STORES_ORIGIN "origin" /* what the origin is called, and so no snapshot */

struct stores_entry {
	bool used;
	bool hidden; /* nobody may come to it any more */
	char name[EXSTORE_NAME];
	int store;
	uint32_t block;
	bool persistent;
	bool merging;
};

struct stores {
	struct io_loop *loop;
	struct snap *snap;
	const struct target *origin;
	uint32_t chunk_bytes; /* the engine's */
	char dir[PATH_MAX];   /* empty: there is none, and there are no snapshots */
	enum target_back back;
	struct stores_entry of[SNAP_MAX_STORES];
};

/*
 * Open what no other server has; a device only if nobody else uses it. One that was killed may still have it, so this
 * waits for some seconds. 0 or -errno, as target_open_alone().
 */
int stores_open_target(struct io_loop *loop, const char *path, enum target_back back, struct target **t);

/* All others return 0 or -errno, then with a sentence in `why`. */

/*
 * Attach what the directory holds. A store that says that it is invalid is told about, and stays as it is; one that
 * cannot be taken up for any other reason is an error, for it might be right, until the next write to the origin.
 */
int stores_attach(struct stores *st, int64_t deadline_ns, char *why, size_t size);
/*
 * A snapshot of now, in a store of `bytes`; 0: room for every chunk of the origin. All of that is allocated at once.
 * A transient one has a file without a name.
 */
int stores_create(struct stores *st, const char *name, bool persistent, uint64_t bytes, int64_t deadline_ns, char *why,
		  size_t size);
/* Neither is done while a client is connected to it. */
int stores_delete(struct stores *st, struct nbd_server *server, const char *name, int64_t deadline_ns, char *why,
		  size_t size);
int stores_merge(struct stores *st, struct nbd_server *server, const char *name, int64_t deadline_ns, char *why,
		 size_t size);
/* Forget those that are merged. To be called now and then. */
void stores_look(struct stores *st);
/* For nbd_opts. */
bool stores_export(void *arg, unsigned i, struct nbd_export *e);

#endif
