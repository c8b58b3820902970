// SPDX-License-Identifier: MIT
#include "serve/sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

static int fail(int fd)
{
	int err = -errno;

	close(fd);
	return err;
}

static int unix_address(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(a->sun_path))
		return -ENAMETOOLONG;
	strcpy(a->sun_path, path);
	return 0;
}

int socket_connect_unix(const char *path)
{
	struct sockaddr_un a;
	int err = unix_address(path, &a), fd;

	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	return connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 ? fail(fd) : fd;
}

/* What a server that was killed has left. */
static int clear_stale(const char *path)
{
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket_connect_unix(path);
	if (fd >= 0) {
		close(fd);
		return -EADDRINUSE;
	}
	if (fd != -ECONNREFUSED)
		return fd;
	return unlink(path) < 0 ? -errno : 0;
}

int socket_listen_unix(const char *path, mode_t mode)
{
	struct sockaddr_un a;
	mode_t mask;
	int err = unix_address(path, &a), fd, bound;

	if (!err)
		err = clear_stale(path);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* From the beginning, not from a chmod(2) on. */
	mask = umask(0777 & ~mode);
	bound = bind(fd, (const struct sockaddr *)&a, sizeof(a));
	umask(mask);
	return bound < 0 || listen(fd, BACKLOG) < 0 ? fail(fd) : fd;
}

int socket_listen_tcp(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons(*port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &size) < 0)
		return fail(fd);
	*port = ntohs(a.sin_port);
	return fd;
}

int socket_accept(int listener)
{
	/* cppcheck-suppress nullPointer ; nobody wants the address */
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return -errno;
	return fd;
}

bool socket_peer_is(int fd, uid_t uid)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (!peer.uid || peer.uid == uid);
}
