// SPDX-License-Identifier: MIT
#include "serve/ctl.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/opts.h"
#include "serve/sockets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WORDS 4

struct ctl {
	int events;
	uid_t uid;
	struct ev listener, client; /* fd -1: there is none */
	int64_t since_ns;
	char line[CTL_LINE];
	size_t n;
	bool complete;
	char answer[CTL_ANSWER]; /* nothing is allocated for it: memory may be short */
};

/* --- The connection --- */

static void drop_client(struct ctl *c)
{
	if (c->client.fd < 0)
		return;
	evset_del(c->events, &c->client);
	close(c->client.fd);
	c->client.fd = -1;
	/* The next may come. */
	evset_change(c->events, &c->listener, EPOLLIN);
}

static void client_event(struct ev *e, uint32_t events)
{
	struct ctl *c = e->owner;
	ssize_t n;

	(void)events;
	if (e->fd < 0 || c->complete)
		return;
	n = recv(e->fd, c->line + c->n, sizeof(c->line) - 1 - c->n, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop_client(c);
		return;
	}
	c->n += (size_t)n;
	c->line[c->n] = 0;
	c->complete = memchr(c->line, '\n', c->n) || c->n == sizeof(c->line) - 1;
	/* It is looked at no more until it is answered. */
	if (c->complete)
		evset_change(c->events, e, 0);
}

static void listener_event(struct ev *e, uint32_t events)
{
	struct ctl *c = e->owner;
	int fd = c->client.fd < 0 ? socket_accept(e->fd) : -1;

	(void)events;
	if (fd < 0)
		return;
	if (!socket_peer_is(fd, c->uid)) {
		close(fd);
		return;
	}
	c->client.fd = fd;
	c->n = 0;
	c->complete = false;
	c->since_ns = clock_ns();
	if (evset_add(c->events, &c->client, EPOLLIN)) {
		close(fd);
		c->client.fd = -1;
		return;
	}
	evset_change(c->events, e, 0);
}

int ctl_open(int events, int fd, uid_t uid, struct ctl **ctl)
{
	struct ctl *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->events = events;
	c->uid = uid;
	c->listener = (struct ev){ .fd = fd, .fn = listener_event, .owner = c };
	c->client = (struct ev){ .fd = -1, .fn = client_event, .owner = c };
	err = evset_add(events, &c->listener, EPOLLIN);
	if (err) {
		free(c);
		return err;
	}
	*ctl = c;
	return 0;
}

void ctl_close(struct ctl *c)
{
	if (!c)
		return;
	drop_client(c);
	evset_del(c->events, &c->listener);
	close(c->listener.fd);
	free(c);
}

/* --- The commands --- */

static void put_snapshots(struct jsonw *j, const struct stores *st)
{
	jsonw_array(j, "snapshots");
	for (int i = 0; i < SNAP_MAX_STORES; i++) {
		const struct stores_entry *e = &st->of[i];
		struct snap_info info;

		if (!e->used || snap_store_info(st->snap, e->store, &info))
			continue;
		jsonw_object(j, NULL);
		jsonw_str(j, "name", e->name);
		jsonw_bool(j, "valid", info.valid);
		jsonw_bool(j, "persistent", info.persistent);
		jsonw_bool(j, "merging", info.merging);
		jsonw_u64(j, "chunks_used", info.used);
		jsonw_u64(j, "chunks", info.chunks);
		jsonw_i64(j, "made_s", info.made_s);
		jsonw_object_end(j);
	}
	jsonw_array_end(j);
}

void ctl_put_counters(struct jsonw *j, const struct stores *st, const struct nbd_server *server)
{
	const struct nbd_counters *n = nbd_server_counters(server);
	struct snap_counters s;

	snap_read_counters(st->snap, &s);
	jsonw_object(j, "server");
	jsonw_u64(j, "connections", n->connections);
	jsonw_u64(j, "refused", n->refused);
	jsonw_u64(j, "broken", n->broken);
	jsonw_u64(j, "requests", n->requests);
	jsonw_u64(j, "errors", n->errors);
	jsonw_u64(j, "bytes_read", n->bytes_read);
	jsonw_u64(j, "bytes_written", n->bytes_written);
	jsonw_u64(j, "waits", n->waits);
	jsonw_object_end(j);
	jsonw_object(j, "engine");
	jsonw_u64(j, "in_progress", s.in_progress);
	jsonw_u64(j, "in_progress_peak", s.in_progress_peak);
	jsonw_u64(j, "gate_waits", s.gate_waits);
	jsonw_u64(j, "chunks", s.chunks);
	jsonw_u64(j, "batches", s.batches);
	jsonw_u64(j, "exceptions", s.exceptions);
	jsonw_u64(j, "commits", s.commits);
	jsonw_u64(j, "invalidated", s.invalidated);
	jsonw_u64(j, "unmarked", s.unmarked);
	jsonw_object_end(j);
}

static int create(struct stores *st, char *const words[WORDS], int n, int64_t deadline_ns, char *why, size_t size)
{
	bool transient = n > 2 && strcmp(words[2], "transient") == 0;
	const char *bytes_text = n > 2 + transient ? words[2 + transient] : NULL;
	uint64_t bytes = 0;

	if (bytes_text && parse_u64(bytes_text, 1, INT64_MAX, &bytes)) {
		snprintf(why, size, "'%.40s': must be a number of bytes", bytes_text);
		return -EINVAL;
	}
	return stores_create(st, words[1], !transient, bytes, deadline_ns, why, size);
}

/* 0, or -errno with a sentence. */
static int execute(char *const words[WORDS], int n, struct stores *st, struct nbd_server *server, char *why,
		   size_t size)
{
	int64_t deadline_ns = clock_ns() + CTL_WORK_S * NS_PER_S;
	const char *what = n ? words[0] : "";

	if (n == 1 && (strcmp(what, "list") == 0 || strcmp(what, "status") == 0))
		return 0;
	if (n >= 2 && strcmp(what, "create") == 0)
		return create(st, words, n, deadline_ns, why, size);
	if (n == 2 && strcmp(what, "delete") == 0)
		return stores_delete(st, server, words[1], deadline_ns, why, size);
	if (n == 2 && strcmp(what, "merge") == 0)
		return stores_merge(st, server, words[1], deadline_ns, why, size);
	snprintf(why, size, "'%.40s': must be list, status, create NAME [transient] [BYTES], delete NAME or merge NAME",
		 what);
	return -EINVAL;
}

static int split(char *line, char *words[WORDS])
{
	char *rest = NULL;
	int n = 0;

	for (char *w = strtok_r(line, " \r\n", &rest); w && n < WORDS; w = strtok_r(NULL, " \r\n", &rest))
		words[n++] = w;
	return n;
}

void ctl_work(struct ctl *c, struct stores *st, struct nbd_server *server)
{
	char *words[WORDS] = { 0 }, why[512] = "";
	struct jsonw j;
	size_t len;
	int n, err;

	if (c->client.fd >= 0 && !c->complete && clock_ns() - c->since_ns > CTL_WAIT_S * NS_PER_S)
		drop_client(c);
	if (c->client.fd < 0 || !c->complete)
		return;
	n = split(c->line, words);
	err = execute(words, n, st, server, why, sizeof(why));
	jsonw_init(&j, c->answer, sizeof(c->answer));
	jsonw_object(&j, NULL);
	if (err) {
		jsonw_str(&j, "error", why);
	} else {
		put_snapshots(&j, st);
		if (strcmp(words[0], "status") == 0)
			ctl_put_counters(&j, st, server);
	}
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	/* Who does not fetch it goes without: it fits into the socket's buffer. */
	send(c->client.fd, c->answer, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	drop_client(c);
}
