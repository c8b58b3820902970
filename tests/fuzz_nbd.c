// SPDX-License-Identifier: MIT
/*
 * libFuzzer harness of the NBD server (`make fuzz FUZZ=nbd`): two clients that send what the input says, piece by
 * piece, and a third that has to be served whatever they do; at the end the server has all its memory back.
 *
 *   byte 0      bit n: client n, 0 or 1, has its handshake behind it (bit 2 + n: with the snapshot, not the origin)
 *   then        pieces: u16 (bit 15: of which client; the rest: its length), and so many bytes
 */
#include "nbd_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct rig rig;

static void drain(int fd)
{
	static char buf[1 << 16];
	ssize_t n;

	do {
		rig_run(&rig);
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	} while (n > 0);
}

static void shake_hands(int fd, const char *name)
{
	char hello[64];
	struct nbd_option_request structured = { htobe64(NBD_IHAVEOPT), htobe32(NBD_OPT_STRUCTURED_REPLY), 0 };
	struct nbd_option_request export = { htobe64(NBD_IHAVEOPT), htobe32(NBD_OPT_EXPORT_NAME),
					     htobe32((uint32_t)strlen(name)) };
	uint32_t flags = htobe32(NBD_FLAG_FIXED | NBD_FLAG_NO_ZEROES);
	size_t n = 0;

	memcpy(hello, &flags, sizeof(flags));
	n += sizeof(flags);
	memcpy(hello + n, &structured, sizeof(structured));
	n += sizeof(structured);
	memcpy(hello + n, &export, sizeof(export));
	n += sizeof(export);
	memcpy(hello + n, name, strlen(name));
	n += strlen(name);
	assert_int_equal(send(fd, hello, n, MSG_NOSIGNAL | MSG_DONTWAIT), n);
	drain(fd);
}

static void assert_served(void)
{
	struct nbd_request r = { .magic = htobe32(NBD_REQUEST_MAGIC), .len = htobe32(RIG_BLOCK), .cookie = 1 };
	char reply[sizeof(struct nbd_chunk) + 8 + RIG_BLOCK];
	int fd = rig_connect(&rig);

	shake_hands(fd, "before");
	assert_int_equal(send(fd, &r, sizeof(r), MSG_NOSIGNAL | MSG_DONTWAIT), sizeof(r));
	rig_run(&rig);
	assert_int_equal(recv(fd, reply, sizeof(reply), MSG_DONTWAIT), sizeof(reply));
	assert_int_equal(reply[sizeof(reply) - 1], RIG_FILL);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t how = size ? data[0] : 0;
	int fds[2];

	if (!rig.server)
		rig_open(&rig, false);
	for (int i = 0; i < 2; i++) {
		fds[i] = rig_connect(&rig);
		if (how & 1 << i)
			shake_hands(fds[i], how & 4 << i ? "before" : "origin");
	}
	for (size_t at = 1; at + 2 < size;) {
		uint16_t head = (uint16_t)(data[at] | data[at + 1] << 8);
		size_t len = head & 0x7fff;

		at += 2;
		if (len > size - at)
			len = size - at;
		send(fds[head >> 15], data + at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		at += len;
		drain(fds[head >> 15]);
	}
	assert_served();
	for (int i = 0; i < 2; i++)
		close(fds[i]);
	rig_assert_whole(&rig);
	return 0;
}
