// SPDX-License-Identifier: MIT
#include "guest/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void qmp_start(struct qmp *q, int fd)
{
	q->fd = fd;
	q->len = 0;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	/* QEMU reads it when it comes up; its greeting needs no look. */
	qmp_execute(q, "qmp_capabilities");
}

static int send_line(struct qmp *q, const char *line, size_t len)
{
	ssize_t n;

	if (q->fd < 0)
		return -ENOTCONN;
	n = send(q->fd, line, len, MSG_NOSIGNAL);
	if (n < 0)
		return -errno;
	return n == (ssize_t)len ? 0 : -EIO;
}

int qmp_execute(struct qmp *q, const char *name)
{
	char line[128];
	int len = snprintf(line, sizeof(line), "{\"execute\":\"%s\"}\n", name);

	return send_line(q, line, (size_t)len);
}

int qmp_execute_with(struct qmp *q, const char *name, json_t *arguments, json_int_t id)
{
	json_t *command = json_pack("{s:s, s:o*, s:I}", "execute", name, "arguments", arguments, "id", id);
	char line[512];
	size_t len = command ? json_dumpb(command, line, sizeof(line) - 1, JSON_COMPACT) : 0;

	json_decref(command);
	if (!len || len > sizeof(line) - 1)
		return -EMSGSIZE;
	line[len] = '\n';
	return send_line(q, line, len + 1);
}

static json_t *take_line(struct qmp *q)
{
	char *nl;

	while ((nl = memchr(q->buf, '\n', q->len))) {
		size_t line = (size_t)(nl - q->buf);
		json_t *message = json_loadb(q->buf, line, 0, NULL);

		q->len -= line + 1;
		memmove(q->buf, nl + 1, q->len);
		if (message)
			return message;
	}
	return NULL;
}

json_t *qmp_next(struct qmp *q)
{
	json_t *message;
	ssize_t n;

	while (!(message = take_line(q)) && q->fd >= 0) {
		if (q->len == sizeof(q->buf))
			q->len = 0; /* no message of QEMU is that long */
		n = read(q->fd, q->buf + q->len, sizeof(q->buf) - q->len);
		if (n > 0) {
			q->len += (size_t)n;
		} else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			return NULL;
		} else {
			close(q->fd);
			q->fd = -1;
		}
	}
	return message;
}
