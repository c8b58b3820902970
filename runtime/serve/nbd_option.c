// SPDX-License-Identifier: MIT
/* The handshake: fixed newstyle. */
#include "serve/nbd_int.h"

#include <endian.h>
#include <string.h>

#define SERVER_FLAGS (NBD_FLAG_FIXED | NBD_FLAG_NO_ZEROES)
#define CONTEXT	     "base:allocation"

struct cursor {
	const char *at;
	uint32_t left;
};

static bool get(struct cursor *from, void *to, uint32_t n)
{
	if (from->left < n)
		return false;
	memcpy(to, from->at, n);
	from->at += n;
	from->left -= n;
	return true;
}

static bool get_u32(struct cursor *from, uint32_t *value)
{
	if (!get(from, value, sizeof(*value)))
		return false;
	*value = be32toh(*value);
	return true;
}

/* A length, and so many bytes, which stay where they are. */
static bool get_text(struct cursor *from, struct cursor *text)
{
	uint32_t len;

	if (!get_u32(from, &len) || len > from->left)
		return false;
	*text = (struct cursor){ .at = from->at, .left = len };
	from->at += len;
	from->left -= len;
	return true;
}

/* --- What is sent --- */

static void put(struct nbd_conn *c, const void *data, uint32_t n)
{
	/* All replies to one option are shorter: 17 exports of 64 bytes, or what a client may ask for at a time. */
	if (n > NBD_HANDSHAKE - c->hello.data_len)
		return;
	memcpy(c->hello_data + c->hello.data_len, data, n);
	c->hello.data_len += n;
}

static void put_be16(struct nbd_conn *c, uint16_t value)
{
	value = htobe16(value);
	put(c, &value, sizeof(value));
}

static void put_be32(struct nbd_conn *c, uint32_t value)
{
	value = htobe32(value);
	put(c, &value, sizeof(value));
}

static void put_be64(struct nbd_conn *c, uint64_t value)
{
	value = htobe64(value);
	put(c, &value, sizeof(value));
}

static void reply(struct nbd_conn *c, uint32_t option, uint32_t type, uint32_t len)
{
	put_be64(c, NBD_REPLY_MAGIC);
	put_be32(c, option);
	put_be32(c, type);
	put_be32(c, len);
}

static void send_hello(struct nbd_conn *c)
{
	if (!c->hello.data_len)
		return;
	c->hello.data = c->hello_data;
	conn_queue(c, &c->hello);
}

void option_greet(struct nbd_conn *c)
{
	c->hello = (struct nbd_out){ .kind = NBD_OUT_HELLO };
	put_be64(c, NBD_MAGIC);
	put_be64(c, NBD_IHAVEOPT);
	put_be16(c, SERVER_FLAGS);
	send_hello(c);
}

/* --- Exports --- */

static bool export_at(const struct nbd_conn *c, unsigned i, struct nbd_export *e)
{
	const struct nbd_opts *opts = &c->server->opts;

	return opts->export(opts->arg, i, e);
}

static bool find_export(const struct nbd_conn *c, struct cursor name, struct nbd_export *e)
{
	for (unsigned i = 0; export_at(c, i, e); i++)
		if (!name.left || (strlen(e->name) == name.left && memcmp(e->name, name.at, name.left) == 0))
			return true;
	return false;
}

static uint16_t transmission_flags(const struct nbd_export *e, bool structured)
{
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_FLUSH | NBD_FLAG_MULTI_CONN | (structured ? NBD_FLAG_DF : 0);

	if (e->store != SNAP_ORIGIN)
		return flags | NBD_FLAG_READ_ONLY;
	return flags | NBD_FLAG_FUA | NBD_FLAG_TRIM | NBD_FLAG_WRITE_ZEROES;
}

static void enter(struct nbd_conn *c, const struct nbd_export *e)
{
	c->export = *e;
	c->state = NBD_HEADER;
}

/* --- Options --- */

static void export_name(struct nbd_conn *c, struct cursor data)
{
	static const char zeros[NBD_EXPORT_NAME_ZEROS];
	struct nbd_export e;

	/* The one option that has no way to say no. */
	if (!find_export(c, data, &e)) {
		conn_break(c);
		return;
	}
	put_be64(c, e.size);
	put_be16(c, transmission_flags(&e, c->structured));
	if (!c->no_zeroes)
		put(c, zeros, sizeof(zeros));
	enter(c, &e);
}

static void list(struct nbd_conn *c)
{
	struct nbd_export e;

	for (unsigned i = 0; export_at(c, i, &e); i++) {
		uint32_t len = (uint32_t)strlen(e.name);

		reply(c, NBD_OPT_LIST, NBD_REP_SERVER, 4 + len);
		put_be32(c, len);
		put(c, e.name, len);
	}
	reply(c, NBD_OPT_LIST, NBD_REP_ACK, 0);
}

static void info(struct nbd_conn *c, uint32_t option, struct cursor data)
{
	struct cursor name;
	struct nbd_export e;
	uint16_t n;

	if (!get_text(&data, &name) || !get(&data, &n, sizeof(n)) || data.left != be16toh(n) * 2U)
		return reply(c, option, NBD_REP_ERR_INVALID, 0);
	if (!find_export(c, name, &e))
		return reply(c, option, NBD_REP_ERR_UNKNOWN, 0);
	reply(c, option, NBD_REP_INFO, 12);
	put_be16(c, NBD_INFO_EXPORT);
	put_be64(c, e.size);
	put_be16(c, transmission_flags(&e, c->structured));
	reply(c, option, NBD_REP_INFO, 14);
	put_be16(c, NBD_INFO_BLOCK_SIZE);
	put_be32(c, e.block);
	put_be32(c, e.block > NBD_PREFERRED ? e.block : NBD_PREFERRED);
	put_be32(c, NBD_MAX_LEN);
	reply(c, option, NBD_REP_ACK, 0);
	if (option == NBD_OPT_GO)
		enter(c, &e);
}

static bool is_context(struct cursor query, bool listing)
{
	if (listing && query.left == strlen("base:") && memcmp(query.at, "base:", query.left) == 0)
		return true;
	return query.left == strlen(CONTEXT) && memcmp(query.at, CONTEXT, query.left) == 0;
}

static void meta_context(struct nbd_conn *c, uint32_t option, struct cursor data)
{
	bool listing = option == NBD_OPT_LIST_META_CONTEXT, found = false;
	struct cursor name, query;
	struct nbd_export e;
	uint32_t n;

	if (!listing)
		c->status_of = NBD_NOBODY;
	if (!c->structured || !get_text(&data, &name) || !get_u32(&data, &n))
		return reply(c, option, NBD_REP_ERR_INVALID, 0);
	found = listing && !n;
	for (uint32_t i = 0; i < n; i++) {
		if (!get_text(&data, &query))
			return reply(c, option, NBD_REP_ERR_INVALID, 0);
		found |= is_context(query, listing);
	}
	if (data.left)
		return reply(c, option, NBD_REP_ERR_INVALID, 0);
	if (!find_export(c, name, &e))
		return reply(c, option, NBD_REP_ERR_UNKNOWN, 0);
	if (found) {
		reply(c, option, NBD_REP_META_CONTEXT, 4 + (uint32_t)strlen(CONTEXT));
		put_be32(c, listing ? 0 : NBD_CONTEXT_ALLOCATION);
		put(c, CONTEXT, (uint32_t)strlen(CONTEXT));
		if (!listing)
			c->status_of = e.store;
	}
	reply(c, option, NBD_REP_ACK, 0);
}

static void option_one(struct nbd_conn *c, uint32_t option, struct cursor data)
{
	switch (option) {
	case NBD_OPT_EXPORT_NAME:
		return export_name(c, data);
	case NBD_OPT_ABORT:
		reply(c, option, NBD_REP_ACK, 0);
		c->state = NBD_LEAVING;
		return;
	case NBD_OPT_LIST:
		return data.left ? reply(c, option, NBD_REP_ERR_INVALID, 0) : list(c);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return info(c, option, data);
	case NBD_OPT_STRUCTURED_REPLY:
		c->structured |= !data.left;
		return reply(c, option, data.left ? NBD_REP_ERR_INVALID : NBD_REP_ACK, 0);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return meta_context(c, option, data);
	default:
		return reply(c, option, NBD_REP_ERR_UNSUP, 0);
	}
}

static bool client_flags(struct nbd_conn *c, struct cursor *in)
{
	uint32_t flags;

	if (!get_u32(in, &flags))
		return false;
	c->in_from += sizeof(flags);
	if (flags & ~(uint32_t)SERVER_FLAGS || !(flags & NBD_FLAG_FIXED)) {
		conn_break(c);
		return true;
	}
	c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
	c->state = NBD_OPTION;
	return true;
}

bool option_step(struct nbd_conn *c)
{
	struct cursor in = { .at = c->in + c->in_from, .left = c->in_to - c->in_from };
	struct nbd_option_request r;
	uint32_t len;

	if (c->hello.data_len)
		return false;
	if (c->state == NBD_CLIENT_FLAGS)
		return client_flags(c, &in);
	if (!get(&in, &r, sizeof(r)))
		return false;
	len = be32toh(r.len);
	if (be64toh(r.magic) != NBD_IHAVEOPT || len > NBD_HANDSHAKE) {
		conn_break(c);
		return true;
	}
	if (in.left < len)
		return false;
	in.left = len;
	c->in_from += (uint32_t)sizeof(r) + len;
	option_one(c, be32toh(r.option), in);
	send_hello(c);
	return true;
}
