// SPDX-License-Identifier: MIT
/* The NBD server: what well-behaved clients get, and what others cost them, and nobody else. */
#include "engine_sim.h"
#include "nbd_rig.h"

#define LARGE_READ (1U << 20)

static struct rig rig;

static int begin(void **state)
{
	(void)state;
	rig_open(&rig, false);
	return 0;
}

/* Whatever a test has done, and left open: nothing of it is left. */
static int end(void **state)
{
	(void)state;
	rig_close(&rig);
	return 0;
}

/* --- A client --- */

struct client {
	int fd;
	bool structured;
	uint64_t size;
	uint16_t flags;
	uint32_t block;
};

static bool is_closed(int fd)
{
	char byte;

	rig_run(&rig);
	for (;;) {
		ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

		if (n <= 0)
			return n == 0 || errno == ECONNRESET;
	}
}

static void say(int fd, const void *data, size_t n)
{
	const char *at = data;

	for (int tries = 0; n; tries++) {
		ssize_t sent = send(fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		assert_true(tries < 100000);
		if (sent > 0) {
			at += sent;
			n -= (size_t)sent;
		} else {
			assert_int_equal(errno, EAGAIN);
		}
		if (n)
			rig_run(&rig);
	}
}

static void hear(int fd, void *data, size_t n)
{
	char *at = data;

	for (int tries = 0; n; tries++) {
		ssize_t got = recv(fd, at, n, MSG_DONTWAIT);

		assert_true(tries < 100000);
		assert_int_not_equal(got, 0);
		if (got > 0) {
			at += got;
			n -= (size_t)got;
		} else {
			assert_int_equal(errno, EAGAIN);
			rig_run(&rig);
		}
	}
}

static uint32_t hear_u32(int fd)
{
	uint32_t value;

	hear(fd, &value, sizeof(value));
	return be32toh(value);
}

static uint64_t hear_u64(int fd)
{
	uint64_t value;

	hear(fd, &value, sizeof(value));
	return be64toh(value);
}

static uint16_t hear_u16(int fd)
{
	uint16_t value;

	hear(fd, &value, sizeof(value));
	return be16toh(value);
}

static int greet_with(uint32_t flags)
{
	int fd = rig_connect(&rig);

	assert_int_equal(hear_u64(fd), NBD_MAGIC);
	assert_int_equal(hear_u64(fd), NBD_IHAVEOPT);
	assert_int_equal(hear_u16(fd), NBD_FLAG_FIXED | NBD_FLAG_NO_ZEROES);
	flags = htobe32(flags);
	say(fd, &flags, sizeof(flags));
	return fd;
}

static int greet(void)
{
	return greet_with(NBD_FLAG_FIXED | NBD_FLAG_NO_ZEROES);
}

static void option(int fd, uint32_t number, const void *data, uint32_t len)
{
	struct nbd_option_request r = { htobe64(NBD_IHAVEOPT), htobe32(number), htobe32(len) };

	say(fd, &r, sizeof(r));
	say(fd, data, len);
}

/* The header of a reply; what follows it is `len` bytes. */
static uint32_t hear_option(int fd, uint32_t number, uint32_t *len)
{
	struct nbd_option_reply r;

	hear(fd, &r, sizeof(r));
	assert_int_equal(be64toh(r.magic), NBD_REPLY_MAGIC);
	assert_int_equal(be32toh(r.option), number);
	*len = be32toh(r.len);
	return be32toh(r.type);
}

static uint32_t hear_empty(int fd, uint32_t number)
{
	uint32_t len, type = hear_option(fd, number, &len);

	assert_int_equal(len, 0);
	return type;
}

static uint32_t info_data(char *data, const char *name)
{
	uint32_t n = (uint32_t)strlen(name), be = htobe32(n);

	memcpy(data, &be, 4);
	memcpy(data + 4, name, n);
	memset(data + 4 + n, 0, 2);
	return n + 6;
}

static struct client go(const char *name, bool structured)
{
	struct client c = { .fd = greet(), .structured = structured };
	char data[128];
	uint32_t len;

	if (structured) {
		option(c.fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		assert_int_equal(hear_empty(c.fd, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
	}
	option(c.fd, NBD_OPT_GO, data, info_data(data, name));
	assert_int_equal(hear_option(c.fd, NBD_OPT_GO, &len), NBD_REP_INFO);
	assert_int_equal(hear_u16(c.fd), NBD_INFO_EXPORT);
	c.size = hear_u64(c.fd);
	c.flags = hear_u16(c.fd);
	assert_int_equal(hear_option(c.fd, NBD_OPT_GO, &len), NBD_REP_INFO);
	assert_int_equal(hear_u16(c.fd), NBD_INFO_BLOCK_SIZE);
	c.block = hear_u32(c.fd);
	hear_u32(c.fd);
	assert_int_equal(hear_u32(c.fd), NBD_MAX_LEN);
	assert_int_equal(hear_empty(c.fd, NBD_OPT_GO), NBD_REP_ACK);
	return c;
}

static void ask_with(const struct client *c, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset,
		     uint32_t len)
{
	struct nbd_request r = { .magic = htobe32(NBD_REQUEST_MAGIC),
				 .flags = htobe16(flags),
				 .type = htobe16(type),
				 .cookie = cookie,
				 .offset = htobe64(offset),
				 .len = htobe32(len) };

	say(c->fd, &r, sizeof(r));
}

static void ask(const struct client *c, uint16_t type, uint64_t offset, uint32_t len)
{
	ask_with(c, type, 0, offset, offset, len);
}

static uint32_t hear_simple(const struct client *c, uint64_t cookie)
{
	struct nbd_simple r;

	hear(c->fd, &r, sizeof(r));
	assert_int_equal(be32toh(r.magic), NBD_SIMPLE_MAGIC);
	assert_int_equal(r.cookie, cookie);
	return be32toh(r.err);
}

static uint32_t ask_simple(const struct client *c, uint16_t type, uint16_t flags, uint64_t offset, uint32_t len)
{
	ask_with(c, type, flags, offset, offset, len);
	return hear_simple(c, offset);
}

/* The chunks of an answer to a read: each byte once. NBD_E... of it. */
static uint32_t hear_structured(const struct client *c, uint64_t cookie, uint64_t offset, uint32_t len, char *data)
{
	uint32_t found = 0, err = 0;
	bool done = false;

	while (!done) {
		struct nbd_chunk h;

		hear(c->fd, &h, sizeof(h));
		assert_int_equal(be32toh(h.magic), NBD_STRUCTURED_MAGIC);
		assert_int_equal(h.cookie, cookie);
		done = be16toh(h.flags) & NBD_CHUNK_DONE;
		if (be16toh(h.type) == NBD_CHUNK_OFFSET_DATA) {
			uint64_t at = hear_u64(c->fd) - offset;
			uint32_t n = be32toh(h.len) - 8;

			assert_true(n && at + n <= len);
			hear(c->fd, data + at, n);
			found += n;
		} else if (be16toh(h.type) == NBD_CHUNK_ERROR) {
			assert_true(done && be32toh(h.len) == 6);
			err = hear_u32(c->fd);
			assert_int_equal(hear_u16(c->fd), 0);
		} else {
			assert_true(done && !len);
		}
	}
	assert_true(err || found == len);
	return err;
}

static uint32_t read_at(const struct client *c, uint64_t offset, uint32_t len, char *data)
{
	uint32_t err;

	ask(c, NBD_CMD_READ, offset, len);
	if (c->structured)
		return hear_structured(c, offset, offset, len, data);
	err = hear_simple(c, offset);
	if (!err)
		hear(c->fd, data, len);
	return err;
}

static uint32_t write_at(const struct client *c, uint16_t flags, uint64_t offset, const char *data, uint32_t len)
{
	ask_with(c, NBD_CMD_WRITE, flags, offset, offset, len);
	say(c->fd, data, len);
	return hear_simple(c, offset);
}

static void assert_all(const char *data, size_t n, int byte)
{
	for (size_t i = 0; i < n; i++)
		if (data[i] != (char)byte)
			fail_msg("byte %zu is %d, not %d", i, data[i], byte);
}

/* Whatever else happens: this one is served. */
static void assert_served(const struct client *c)
{
	char block[RIG_BLOCK];

	assert_int_equal(read_at(c, RIG_BYTES - RIG_BLOCK, RIG_BLOCK, block), 0);
	assert_all(block, sizeof(block), RIG_FILL);
}

/* --- Handshake --- */

static void go_tells_size_flags_and_block(void **state)
{
	struct client origin = go("origin", true), snapshot = go("before", true), unnamed = go("", false);

	(void)state;
	assert_int_equal(origin.size, RIG_BYTES);
	assert_int_equal(origin.block, RIG_BLOCK);
	assert_int_equal(origin.flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_FLUSH | NBD_FLAG_FUA | NBD_FLAG_TRIM |
					       NBD_FLAG_WRITE_ZEROES | NBD_FLAG_DF | NBD_FLAG_MULTI_CONN);
	assert_int_equal(snapshot.flags,
			 NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY | NBD_FLAG_FLUSH | NBD_FLAG_DF | NBD_FLAG_MULTI_CONN);
	assert_int_equal(unnamed.flags, origin.flags & ~NBD_FLAG_DF);
	assert_int_equal(nbd_server_users(rig.server, SNAP_ORIGIN), 2);
	assert_int_equal(nbd_server_users(rig.server, rig.snapshot), 1);
	close(origin.fd);
	close(snapshot.fd);
	close(unnamed.fd);
}

static void list_names_all_exports(void **state)
{
	static const char *const names[] = { "origin", "before" };
	int fd = greet();
	char name[8];
	uint32_t len;

	(void)state;
	option(fd, NBD_OPT_LIST, NULL, 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(hear_option(fd, NBD_OPT_LIST, &len), NBD_REP_SERVER);
		assert_int_equal(hear_u32(fd), strlen(names[i]));
		assert_int_equal(len, 4 + strlen(names[i]));
		hear(fd, name, strlen(names[i]));
		assert_memory_equal(name, names[i], strlen(names[i]));
	}
	assert_int_equal(hear_empty(fd, NBD_OPT_LIST), NBD_REP_ACK);
	option(fd, NBD_OPT_ABORT, NULL, 0);
	assert_int_equal(hear_empty(fd, NBD_OPT_ABORT), NBD_REP_ACK);
	assert_true(is_closed(fd));
	close(fd);
}

static void an_option_that_cannot_be_is_refused_and_the_next_is_taken(void **state)
{
	int fd = greet();
	char data[128];
	uint32_t n;

	(void)state;
	option(fd, NBD_OPT_GO, data, info_data(data, "nobody"));
	assert_int_equal(hear_empty(fd, NBD_OPT_GO), NBD_REP_ERR_UNKNOWN);
	option(fd, 5, NULL, 0); /* STARTTLS */
	assert_int_equal(hear_empty(fd, 5), NBD_REP_ERR_UNSUP);
	/* A name that is longer than the option, informations that are not there, and more than there should be. */
	n = info_data(data, "origin");
	data[3] = 100;
	option(fd, NBD_OPT_INFO, data, n);
	assert_int_equal(hear_empty(fd, NBD_OPT_INFO), NBD_REP_ERR_INVALID);
	n = info_data(data, "origin");
	data[n - 1] = 9;
	option(fd, NBD_OPT_INFO, data, n);
	assert_int_equal(hear_empty(fd, NBD_OPT_INFO), NBD_REP_ERR_INVALID);
	option(fd, NBD_OPT_INFO, NULL, 0);
	assert_int_equal(hear_empty(fd, NBD_OPT_INFO), NBD_REP_ERR_INVALID);
	option(fd, NBD_OPT_STRUCTURED_REPLY, data, 3);
	assert_int_equal(hear_empty(fd, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ERR_INVALID);
	/* Contexts need structured replies. */
	option(fd, NBD_OPT_SET_META_CONTEXT, data, info_data(data, "origin"));
	assert_int_equal(hear_empty(fd, NBD_OPT_SET_META_CONTEXT), NBD_REP_ERR_INVALID);
	option(fd, NBD_OPT_LIST, data, 1);
	assert_int_equal(hear_empty(fd, NBD_OPT_LIST), NBD_REP_ERR_INVALID);
	close(fd);
}

static void a_handshake_that_is_none_is_the_end_of_it(void **state)
{
	struct client other = go("origin", true);
	struct nbd_option_request r = { htobe64(NBD_MAGIC), htobe32(NBD_OPT_LIST), 0 };
	int fd = greet_with(1U << 7);

	(void)state;
	assert_true(is_closed(fd));
	close(fd);
	fd = greet_with(0); /* the newstyle that is not fixed */
	assert_true(is_closed(fd));
	close(fd);
	fd = greet();
	say(fd, &r, sizeof(r));
	assert_true(is_closed(fd));
	close(fd);
	fd = greet();
	r = (struct nbd_option_request){ htobe64(NBD_IHAVEOPT), htobe32(NBD_OPT_LIST), htobe32(NBD_HANDSHAKE + 1) };
	say(fd, &r, sizeof(r));
	assert_true(is_closed(fd));
	close(fd);
	fd = greet();
	option(fd, NBD_OPT_EXPORT_NAME, "nobody", 6);
	assert_true(is_closed(fd));
	close(fd);
	assert_int_equal(rig.server->count.broken, 5);
	assert_served(&other);
	close(other.fd);
}

static void the_old_way_to_an_export(void **state)
{
	static char zeros[NBD_EXPORT_NAME_ZEROS];
	int fd = greet_with(NBD_FLAG_FIXED);
	struct client c = { .fd = fd };

	(void)state;
	option(fd, NBD_OPT_EXPORT_NAME, "origin", 6);
	assert_int_equal(hear_u64(fd), RIG_BYTES);
	hear_u16(fd);
	hear(fd, zeros, sizeof(zeros));
	assert_all(zeros, sizeof(zeros), 0);
	assert_served(&c);
	close(fd);
}

/* --- Requests --- */

static void what_is_written_is_read_and_the_snapshot_stays(void **state)
{
	struct client c = go("origin", true), old = go("before", false), simple = go("origin", false);
	char *data = malloc(LARGE_READ), *back = malloc(LARGE_READ);
	uint64_t seed = 1;

	(void)state;
	for (size_t i = 0; i < LARGE_READ; i++)
		data[i] = (char)sim_random(&seed);
	assert_int_equal(write_at(&c, 0, 4096, data, LARGE_READ), 0);
	assert_int_equal(write_at(&c, NBD_CMD_FLAG_FUA, 2 * LARGE_READ, data, RIG_BLOCK), 0);
	assert_int_equal(ask_simple(&c, NBD_CMD_FLUSH, 0, 0, 0), 0);
	assert_int_equal(read_at(&c, 4096, LARGE_READ, back), 0);
	assert_memory_equal(back, data, LARGE_READ);
	assert_int_equal(read_at(&simple, 4096, LARGE_READ, back), 0);
	assert_memory_equal(back, data, LARGE_READ);
	assert_int_equal(read_at(&old, 4096, LARGE_READ, back), 0);
	assert_all(back, LARGE_READ, RIG_FILL);
	/* Reads may begin and end anywhere. */
	assert_int_equal(read_at(&c, 4096 + 3, 300000, back), 0);
	assert_memory_equal(back, data + 3, 300000);
	assert_int_equal(read_at(&simple, 4096 + 3, 300000, back), 0);
	assert_memory_equal(back, data + 3, 300000);
	assert_int_equal(read_at(&c, 4096 + 1, 1, back), 0);
	assert_int_equal(back[0], data[1]);
	assert_int_equal(read_at(&c, 0, 0, back), 0);
	free(data);
	free(back);
	close(c.fd);
	close(old.fd);
	close(simple.fd);
}

static void zeros_are_written_without_being_sent(void **state)
{
	struct client c = go("origin", true);
	char *back = malloc(LARGE_READ);

	(void)state;
	assert_int_equal(ask_simple(&c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, RIG_BLOCK, 3 * LARGE_READ), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(read_at(&c, RIG_BLOCK + (uint64_t)i * LARGE_READ, LARGE_READ, back), 0);
		assert_all(back, LARGE_READ, 0);
	}
	assert_int_equal(read_at(&c, 0, RIG_BLOCK, back), 0);
	assert_all(back, RIG_BLOCK, RIG_FILL);
	assert_int_equal(read_at(&c, RIG_BLOCK + 3 * LARGE_READ, RIG_BLOCK, back), 0);
	assert_all(back, RIG_BLOCK, RIG_FILL);
	/* A hint, and no more. */
	assert_int_equal(ask_simple(&c, NBD_CMD_TRIM, 0, RIG_BYTES - RIG_BLOCK, RIG_BLOCK), 0);
	assert_served(&c);
	free(back);
	close(c.fd);
}

static void block_status_for_whom_asked_for_it(void **state)
{
	struct client c = { .fd = greet(), .structured = true };
	char data[128];
	uint32_t n, len, be = htobe32(1);
	struct nbd_chunk h;

	(void)state;
	option(c.fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	hear_empty(c.fd, NBD_OPT_STRUCTURED_REPLY);
	n = info_data(data, "origin") - 2;
	memcpy(data + n, &be, 4);
	be = htobe32(15);
	memcpy(data + n + 4, &be, 4);
	memcpy(data + n + 8, "base:allocation", 15);
	option(c.fd, NBD_OPT_SET_META_CONTEXT, data, n + 23);
	assert_int_equal(hear_option(c.fd, NBD_OPT_SET_META_CONTEXT, &len), NBD_REP_META_CONTEXT);
	assert_int_equal(len, 19);
	assert_int_equal(hear_u32(c.fd), NBD_CONTEXT_ALLOCATION);
	hear(c.fd, data, 15);
	assert_int_equal(hear_empty(c.fd, NBD_OPT_SET_META_CONTEXT), NBD_REP_ACK);
	option(c.fd, NBD_OPT_EXPORT_NAME, "origin", 6);
	hear(c.fd, data, 10);
	ask(&c, NBD_CMD_BLOCK_STATUS, 0, RIG_BYTES);
	hear(c.fd, &h, sizeof(h));
	assert_int_equal(be16toh(h.type), NBD_CHUNK_BLOCK_STATUS);
	assert_int_equal(be16toh(h.flags), NBD_CHUNK_DONE);
	assert_int_equal(be32toh(h.len), 12);
	assert_int_equal(hear_u32(c.fd), NBD_CONTEXT_ALLOCATION);
	assert_int_equal(hear_u32(c.fd), RIG_BYTES);
	assert_int_equal(hear_u32(c.fd), 0);
	close(c.fd);
	c = go("origin", true);
	ask(&c, NBD_CMD_BLOCK_STATUS, 7, RIG_BLOCK);
	hear(c.fd, &h, sizeof(h));
	assert_int_equal(be16toh(h.type), NBD_CHUNK_ERROR);
	assert_int_equal(hear_u32(c.fd), NBD_EINVAL);
	close(c.fd);
}

static void what_cannot_be_done_is_an_error_and_the_next_is_done(void **state)
{
	struct client c = go("origin", true), old = go("before", true);
	static char data[NBD_LARGE + RIG_BLOCK];

	(void)state;
	assert_int_equal(read_at(&c, RIG_BYTES, 1, data), NBD_EINVAL);
	assert_int_equal(read_at(&c, UINT64_MAX, RIG_BLOCK, data), NBD_EINVAL);
	assert_int_equal(read_at(&c, 0, NBD_MAX_LEN + 1, data), NBD_EINVAL);
	assert_int_equal(write_at(&c, 0, RIG_BYTES, data, sizeof(data)), NBD_ENOSPC);
	assert_int_equal(write_at(&c, 0, RIG_BYTES - RIG_BLOCK, data, 2 * RIG_BLOCK), NBD_ENOSPC);
	assert_int_equal(write_at(&c, 0, 1, data, RIG_BLOCK), NBD_EINVAL);
	assert_int_equal(write_at(&c, 0, 0, data, 1), NBD_EINVAL);
	assert_int_equal(write_at(&c, 1 << 9, 0, data, RIG_BLOCK), NBD_EINVAL);
	assert_int_equal(ask_simple(&c, NBD_CMD_WRITE_ZEROES, 0, 0, UINT32_MAX), NBD_ENOSPC);
	assert_int_equal(ask_simple(&c, NBD_CMD_FLUSH, 0, 0, 1), NBD_EINVAL);
	assert_int_equal(ask_simple(&c, 5, 0, 0, 0), NBD_EINVAL);
	assert_int_equal(ask_simple(&c, 999, 0, 0, UINT32_MAX), NBD_EINVAL);
	assert_int_equal(write_at(&old, 0, 0, data, sizeof(data)), NBD_EPERM);
	assert_int_equal(ask_simple(&old, NBD_CMD_WRITE_ZEROES, 0, 0, RIG_BLOCK), NBD_EPERM);
	assert_int_equal(ask_simple(&old, NBD_CMD_TRIM, 0, 0, RIG_BLOCK), NBD_EPERM);
	assert_int_equal(ask_simple(&old, NBD_CMD_FLUSH, 0, 0, 0), 0);
	/* Not to be fragmented, and too long for that. */
	ask_with(&c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 3, 0, NBD_LARGE + 1);
	assert_int_equal(hear_structured(&c, 3, 0, NBD_LARGE + 1, data), NBD_EOVERFLOW);
	ask_with(&c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 3, 0, NBD_LARGE);
	assert_int_equal(hear_structured(&c, 3, 0, NBD_LARGE, data), 0);
	assert_int_equal(rig.server->count.errors, 16);
	assert_served(&c);
	assert_served(&old);
	assert_int_equal(rig.server->count.broken, 0);
	close(c.fd);
	close(old.fd);
}

static void a_device_that_fails_is_an_error_of_that_request(void **state)
{
	struct client c = go("before", true), simple = go("before", false);
	char data[RIG_BLOCK];

	(void)state;
	/* The snapshot is lost while they are connected to it. */
	rig.snapshot = SNAP_MAX_STORES - 1;
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		if (rig.server->conns[i].state == NBD_HEADER)
			rig.server->conns[i].export.store = rig.snapshot;
	assert_int_equal(read_at(&c, 0, RIG_BLOCK, data), NBD_EIO);
	assert_int_equal(read_at(&simple, 0, RIG_BLOCK, data), NBD_EIO);
	ask(&c, NBD_CMD_READ, 0, LARGE_READ);
	assert_int_equal(hear_structured(&c, 0, 0, LARGE_READ, NULL), NBD_EIO);
	assert_int_equal(rig.server->count.broken, 0);
	close(c.fd);
	close(simple.fd);
}

/* --- Others --- */

static void half_a_request_holds_nobody_up(void **state)
{
	struct client half[NBD_MAX_CONNS - 1], c = go("origin", true);
	static char data[NBD_LARGE];

	(void)state;
	for (unsigned i = 0; i < NBD_MAX_CONNS - 1; i++) {
		half[i] = go("origin", true);
		ask(&half[i], NBD_CMD_WRITE, 0, NBD_LARGE);
		say(half[i].fd, data, NBD_LARGE / 2);
	}
	for (int i = 0; i < 20; i++)
		assert_int_equal(write_at(&c, 0, 0, data, NBD_LARGE), 0);
	assert_served(&c);
	/* All of these have a part that is half full. */
	for (unsigned i = 0; i < NBD_MAX_CONNS - 1; i++)
		close(half[i].fd);
	assert_served(&c);
	close(c.fd);
}

static void who_does_not_fetch_his_replies_waits_alone(void **state)
{
	struct client greedy[4], c = go("origin", true);
	static char data[NBD_LARGE];

	(void)state;
	for (unsigned k = 0; k < 4; k++) {
		struct nbd_request r[300];

		greedy[k] = go("origin", k & 1);
		for (uint64_t i = 0; i < 300; i++)
			r[i] = (struct nbd_request){ .magic = htobe32(NBD_REQUEST_MAGIC),
						     .type = htobe16(NBD_CMD_READ),
						     .cookie = i,
						     .len = htobe32(NBD_LARGE) };
		say(greedy[k].fd, r, sizeof(r));
	}
	rig_run(&rig);
	for (int i = 0; i < 20; i++)
		assert_int_equal(write_at(&c, 0, RIG_BYTES / 2, data, NBD_LARGE), 0);
	assert_served(&c);
	assert_true(rig.server->count.waits > 0);
	for (enum nbd_pool pool = 0; pool < NBD_POOLS; pool++)
		assert_true(rig.server->shared[pool] <= nbd_quota[pool].shared);
	/* Who has only been slow gets all of it. */
	for (uint64_t i = 0; i < 300; i++) {
		assert_int_equal(hear_structured(&greedy[1], i, 0, NBD_LARGE, data), 0);
		assert_int_equal(hear_simple(&greedy[0], i), 0);
		hear(greedy[0].fd, data, NBD_LARGE);
	}
	assert_served(&c);
	for (unsigned k = 0; k < 4; k++)
		close(greedy[k].fd);
	close(c.fd);
}

static void all_at_once_get_all_they_asked_for(void **state)
{
	struct client c[16];
	static char data[NBD_LARGE];

	(void)state;
	for (unsigned k = 0; k < 16; k++)
		c[k] = go("origin", true);
	for (unsigned k = 0; k < 16; k++)
		for (uint64_t i = 0; i < 200; i++)
			ask_with(&c[k], NBD_CMD_READ, 0, i, i * RIG_BLOCK, NBD_LARGE);
	for (unsigned k = 0; k < 16; k++) {
		/* In any order. */
		for (uint64_t i = 0; i < 200; i++) {
			struct nbd_chunk h;

			hear(c[k].fd, &h, sizeof(h));
			assert_int_equal(be16toh(h.flags), NBD_CHUNK_DONE);
			assert_true(h.cookie < 200 && hear_u64(c[k].fd) == h.cookie * RIG_BLOCK);
			hear(c[k].fd, data, NBD_LARGE);
			assert_all(data, NBD_LARGE, RIG_FILL);
		}
		close(c[k].fd);
	}
}

static void gone_in_the_middle(void **state)
{
	struct client other = go("origin", true);
	static char data[NBD_LARGE];

	(void)state;
	for (int i = 0; i < 50; i++) {
		struct client c = go("origin", i & 1);

		ask(&c, NBD_CMD_READ, 0, 2 * LARGE_READ);
		ask(&c, NBD_CMD_WRITE_ZEROES, 0, 2 * LARGE_READ);
		ask(&c, NBD_CMD_FLUSH, 0, 0);
		ask(&c, NBD_CMD_WRITE, 0, LARGE_READ);
		say(c.fd, data, (size_t)i * 1000);
		close(c.fd);
	}
	assert_served(&other);
	close(other.fd);
}

static void disc_is_answered_by_all_that_was_asked_for(void **state)
{
	struct client c = go("origin", true);
	static char data[LARGE_READ];

	(void)state;
	ask(&c, NBD_CMD_READ, 0, LARGE_READ);
	ask(&c, NBD_CMD_DISC, 0, 0);
	assert_int_equal(hear_structured(&c, 0, 0, LARGE_READ, data), 0);
	assert_true(is_closed(c.fd));
	assert_int_equal(rig.server->count.broken, 0);
	close(c.fd);
}

static void ten_thousand_connections(void **state)
{
	struct client c = go("origin", true);
	int fds[100];

	(void)state;
	for (int i = 0; i < 100; i++) {
		for (int k = 0; k < 100; k++)
			fds[k] = rig_connect(&rig);
		assert_served(&c);
		for (int k = 0; k < 100; k++)
			close(fds[k]);
	}
	assert_true(rig.server->count.connections > 10000);
	close(c.fd);
}

static void whoever_is_connected_is_not_closed_for_a_new_one(void **state)
{
	struct client c[NBD_MAX_CONNS];
	int fd;

	(void)state;
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		c[i] = go("origin", true);
	fd = socket_connect_unix(rig.path);
	assert_true(is_closed(fd));
	close(fd);
	assert_int_equal(rig.server->count.refused, 1);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++) {
		assert_served(&c[i]);
		close(c[i].fd);
	}
}

static void who_owes_something_for_too_long_is_closed(void **state)
{
	struct client half = go("origin", true), idle = go("origin", true), lazy = go("origin", true);
	int greeted = greet();

	(void)state;
	ask(&half, NBD_CMD_WRITE, 0, RIG_BLOCK);
	for (int i = 0; i < 20; i++)
		ask(&lazy, NBD_CMD_READ, 0, NBD_LARGE);
	rig_run(&rig);
	nbd_server_tick(rig.server);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		rig.server->conns[i].since_ns -= (NBD_STALL_S + 1) * NS_PER_S;
	nbd_server_tick(rig.server);
	assert_true(is_closed(half.fd));
	assert_true(is_closed(lazy.fd));
	assert_true(is_closed(greeted));
	assert_int_equal(rig.server->count.broken, 3);
	assert_served(&idle); /* who asks for nothing owes nothing */
	close(half.fd);
	close(idle.fd);
	close(lazy.fd);
	close(greeted);
}

static void a_stopped_server_answers_what_it_has_begun(void **state)
{
	struct client c = go("origin", true), half = go("origin", true);
	static char data[LARGE_READ];

	(void)state;
	ask(&half, NBD_CMD_WRITE, 0, RIG_BLOCK);
	ask(&c, NBD_CMD_READ, 0, LARGE_READ);
	rig_run(&rig);
	nbd_server_stop(rig.server);
	assert_int_equal(hear_structured(&c, 0, 0, LARGE_READ, data), 0);
	assert_true(nbd_server_idle(rig.server));
	ask(&c, NBD_CMD_READ, 0, RIG_BLOCK);
	rig_run(&rig);
	assert_true(nbd_server_idle(rig.server));
	assert_true(is_closed(half.fd));
	nbd_server_disconnect(rig.server);
	assert_true(is_closed(c.fd));
	close(c.fd);
	close(half.fd);
}

/* Mostly right requests with something wrong in them, from several at a time. */
static void random_clients(void **state)
{
	uint64_t seed = 7;
	struct client good = go("before", true);
	static char data[8192];

	(void)state;
	for (int round = 0; round < 300; round++) {
		struct client c[4];

		for (int k = 0; k < 4; k++)
			c[k] = go(sim_random(&seed) & 1 ? "origin" : "before", sim_random(&seed) & 1);
		for (int i = 0; i < 40; i++) {
			const struct client *who = &c[sim_random(&seed) % 4];
			struct nbd_request r = {
				.magic = htobe32(NBD_REQUEST_MAGIC),
				.flags = htobe16(sim_random(&seed) % 8 ? 0 : (uint16_t)sim_random(&seed)),
				.type = htobe16((uint16_t)(sim_random(&seed) % 9)),
				.cookie = sim_random(&seed),
				.offset = htobe64(sim_random(&seed) % 8 ? sim_random(&seed) % 8192 * RIG_BLOCK
									: sim_random(&seed)),
				.len = htobe32(sim_random(&seed) % 8 ? (uint32_t)(sim_random(&seed) % 64) * RIG_BLOCK
								     : (uint32_t)sim_random(&seed)),
			};

			if (sim_random(&seed) % 50 == 0)
				((char *)&r)[sim_random(&seed) % sizeof(r)] ^= (char)sim_random(&seed);
			send(who->fd, &r, sizeof(r), MSG_NOSIGNAL | MSG_DONTWAIT);
			if (sim_random(&seed) % 4 == 0)
				send(who->fd, data, sim_random(&seed) % sizeof(data), MSG_NOSIGNAL | MSG_DONTWAIT);
			if (sim_random(&seed) % 4 == 0)
				rig_run(&rig);
		}
		assert_served(&good);
		for (int k = 0; k < 4; k++)
			close(c[k].fd);
	}
	close(good.fd);
}

static void memory_that_is_taken_for_each_request_is_given_back(void **state)
{
	struct client c;
	static char data[LARGE_READ];

	(void)state;
	rig_close(&rig);
	rig_open(&rig, true);
	c = go("origin", true);
	assert_int_equal(write_at(&c, 0, 0, data, LARGE_READ), 0);
	assert_int_equal(read_at(&c, 0, LARGE_READ, data), 0);
	close(c.fd);
	rig_assert_whole(&rig);
	for (unsigned i = 0; i < NBD_MAX_CONNS; i++)
		assert_null(rig.server->all_parts[i].buf);
}

#define T(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(go_tells_size_flags_and_block),
		T(list_names_all_exports),
		T(an_option_that_cannot_be_is_refused_and_the_next_is_taken),
		T(a_handshake_that_is_none_is_the_end_of_it),
		T(the_old_way_to_an_export),
		T(what_is_written_is_read_and_the_snapshot_stays),
		T(zeros_are_written_without_being_sent),
		T(block_status_for_whom_asked_for_it),
		T(what_cannot_be_done_is_an_error_and_the_next_is_done),
		T(a_device_that_fails_is_an_error_of_that_request),
		T(half_a_request_holds_nobody_up),
		T(who_does_not_fetch_his_replies_waits_alone),
		T(all_at_once_get_all_they_asked_for),
		T(gone_in_the_middle),
		T(disc_is_answered_by_all_that_was_asked_for),
		T(ten_thousand_connections),
		T(whoever_is_connected_is_not_closed_for_a_new_one),
		T(who_owes_something_for_too_long_is_closed),
		T(a_stopped_server_answers_what_it_has_begun),
		T(random_clients),
		T(memory_that_is_taken_for_each_request_is_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
