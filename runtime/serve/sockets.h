// SPDX-License-Identifier: MIT
/* Listening sockets, and connections to them. Each returns a descriptor or -errno. */
#ifndef HEADROOM_SERVE_SOCKETS_H
#define HEADROOM_SERVE_SOCKETS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * On a UNIX socket of this mode. One that nobody listens to any more is replaced. -EADDRINUSE: somebody does;
 * -EEXIST: it is something else.
 */
int socket_listen_unix(const char *path, mode_t mode);
/* On TCP, loopback only; *port 0: any, and it is told there. */
int socket_listen_tcp(uint16_t *port);
int socket_connect_unix(const char *path);
/* The next who connects, not to be waited for. */
int socket_accept(int listener);
/* Is the peer of a UNIX socket this user, or root? */
bool socket_peer_is(int fd, uid_t uid);

#endif
