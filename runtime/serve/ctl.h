// SPDX-License-Identifier: MIT
/*
 * The socket through which a server is told what to do: one command a connection, a line of words; the answer is a line
 * of JSON, an object with an "error" when it was not done.
 *
 *   list | status | create NAME [transient] [BYTES] | delete NAME | merge NAME
 *
 * Who may connect to the exports may connect here. One at a time, and not for longer than CTL_WAIT_S.
 */
#ifndef HEADROOM_SERVE_CTL_H
#define HEADROOM_SERVE_CTL_H

#include "base/jsonw.h"
#include "serve/evset.h"
#include "serve/stores.h"

#define CTL_LINE   256	 /* a command, at the most */
#define CTL_ANSWER 16384 /* 16 snapshots and all counters, twice over */
#define CTL_WAIT_S 5
#define CTL_WORK_S 60 /* how long a command may take */

struct ctl;

/* The listening socket is the control's from here on. 0 or -errno. */
int ctl_open(int events, int fd, uid_t uid, struct ctl **ctl);
void ctl_close(struct ctl *c);
/* Do what was asked for since the last time; also to be called once a second. Not from callbacks. */
void ctl_work(struct ctl *c, struct stores *stores, struct nbd_server *server);
/* Members "server" and "engine" of an object that is open. */
void ctl_put_counters(struct jsonw *j, const struct stores *stores, const struct nbd_server *server);

#endif
