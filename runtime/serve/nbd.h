// SPDX-License-Identifier: MIT
/* The NBD protocol, as far as we speak it; names and figures of the project's doc/proto.md. All is big-endian. */
#ifndef HEADROOM_NBD_H
#define HEADROOM_NBD_H

#include <stdint.h>

#define NBD_MAGIC	      0x4e42444d41474943ULL /* "NBDMAGIC" */
#define NBD_IHAVEOPT	      0x49484156454f5054ULL
#define NBD_REPLY_MAGIC	      0x0003e889045565a9ULL
#define NBD_REQUEST_MAGIC     0x25609513U
#define NBD_SIMPLE_MAGIC      0x67446698U
#define NBD_STRUCTURED_MAGIC  0x668e33efU
#define NBD_MAX_LEN	      (32U << 20) /* of a payload, for clients that were told no limit */
#define NBD_PREFERRED	      4096U	  /* a block, where a smaller one would do */
#define NBD_FLAG_FIXED	      (1U << 0)	  /* handshake */
#define NBD_FLAG_NO_ZEROES    (1U << 1)
#define NBD_EXPORT_NAME_ZEROS 124U

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ACK	     1U
#define NBD_REP_SERVER	     2U
#define NBD_REP_INFO	     3U
#define NBD_REP_META_CONTEXT 4U
#define NBD_REP_ERR_UNSUP    (1U << 31 | 1)
#define NBD_REP_ERR_INVALID  (1U << 31 | 3)
#define NBD_REP_ERR_UNKNOWN  (1U << 31 | 6)

#define NBD_INFO_EXPORT	    0U
#define NBD_INFO_BLOCK_SIZE 3U

/* Transmission flags. */
#define NBD_FLAG_HAS_FLAGS    (1U << 0)
#define NBD_FLAG_READ_ONLY    (1U << 1)
#define NBD_FLAG_FLUSH	      (1U << 2)
#define NBD_FLAG_FUA	      (1U << 3)
#define NBD_FLAG_TRIM	      (1U << 5)
#define NBD_FLAG_WRITE_ZEROES (1U << 6)
#define NBD_FLAG_DF	      (1U << 7)
#define NBD_FLAG_MULTI_CONN   (1U << 8)

enum nbd_command {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

#define NBD_CMD_FLAG_FUA     (1U << 0)
#define NBD_CMD_FLAG_NO_HOLE (1U << 1)
#define NBD_CMD_FLAG_DF	     (1U << 2)
#define NBD_CMD_FLAG_REQ_ONE (1U << 3)

#define NBD_CONTEXT_ALLOCATION 1U /* the number that we give to base:allocation */

#define NBD_CHUNK_DONE	       1U
#define NBD_CHUNK_NONE	       0U
#define NBD_CHUNK_OFFSET_DATA  1U
#define NBD_CHUNK_BLOCK_STATUS 5U
#define NBD_CHUNK_ERROR	       (1U << 15 | 1)

#define NBD_EPERM     1U
#define NBD_EIO	      5U
#define NBD_ENOMEM    12U
#define NBD_EINVAL    22U
#define NBD_ENOSPC    28U
#define NBD_EOVERFLOW 75U

struct nbd_request {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie, offset;
	uint32_t len;
} __attribute__((packed));

struct nbd_simple {
	uint32_t magic, err;
	uint64_t cookie;
} __attribute__((packed));

struct nbd_chunk {
	uint32_t magic;
	uint16_t flags, type;
	uint64_t cookie;
	uint32_t len;
} __attribute__((packed));

struct nbd_option_request {
	uint64_t magic;
	uint32_t option, len;
} __attribute__((packed));

struct nbd_option_reply {
	uint64_t magic;
	uint32_t option, type, len;
} __attribute__((packed));

#endif
