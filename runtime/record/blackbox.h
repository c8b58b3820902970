// SPDX-License-Identifier: MIT
/*
 * The black box: a log in memory that outlives the machine that writes it.
 *
 * In a guest the memory is an ivshmem device over a host file, so a panic loses nothing; the host reads the same bytes.
 * The log has an area for each sort of record, so that a flood of one sort takes no room from another, and what cannot
 * be had again is never given up for detail:
 *
 * - Events: what happened, and files. Appended to by any thread or process without a lock: space is taken by one atomic
 *   add, the record's head is written (so that a reader can step over it), then the body, and last the commit word. A
 *   writer that dies in the middle leaves a record that is skipped; the reader finds the next one by its magic. Full:
 *   refused and counted.
 * - Samples: a ring with one writer. Full: the oldest behind the baseline give way, and are counted.
 * - Kernel log: the kernel's own lines; a ring as well. Who appends is told of each line before it gives way (on_drop),
 *   and puts the events in them into the first area.
 * - User log: what user space wrote into the kernel log; a ring as well.
 *
 * The header page carries what the other side must know while it runs (stage, heartbeat, a few live figures), the
 * page area behind it what the host hands in (the cell's specification).
 *
 * The header has a slot as well by which the recorded machine asks something of the host: to take a DIMM out, or to put
 * one in. See struct bb_slot.
 */
#ifndef HEADROOM_BLACKBOX_H
#define HEADROOM_BLACKBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BB_MAGIC       0x786f626d6f6f7268ULL /* "hroombox" */
#define BB_VERSION     3
#define BB_SPEC_OFFSET 4096
#define BB_SPEC_MAX    (64 * 1024 - 4096)
#define BB_LOG_OFFSET  (64 * 1024)
#define BB_MIN_SIZE    (64ULL << 20) /* the samples of a cell of the usual three minutes at 10 Hz take 25 MiB of it */
#define BB_MAX_SIZE    (1024ULL << 20)

/* How far the recorded machine has come. It only ever grows. */
enum bb_stage {
	BB_EMPTY,
	BB_BOOTED, /* our process runs */
	BB_SETUP,
	BB_RUN,
	BB_VERIFY,
	BB_DONE, /* nothing more will be written */
};

enum bb_type {
	BB_SAMPLE = 1,	 /* a JSON line */
	BB_EVENT,	 /* a JSON line */
	BB_KMSG,	 /* a record of /dev/kmsg as read, the kernel's own (facility 0) */
	BB_USER_KMSG,	 /* one that user space wrote there */
	BB_FILE,	 /* name, NUL, content */
	BB_KERNEL_EVENT, /* a JSON line, its time on the kernel log's clock */
};

enum bb_area { BB_EVENTS, BB_SAMPLES, BB_KERNEL_LOG, BB_USER_LOG, BB_AREAS };

/* Of a ring. The first is never given up: it holds the baseline, and the mark that says when the start line was. */
#define BB_PARTS 8

/* A part of an area that has one writer. A record is in it when `used` covers it. */
struct bb_part {
	_Atomic uint64_t turn; /* how many parts were begun before this one */
	_Atomic uint64_t used; /* bytes */
	_Atomic uint64_t records;
};

/* What can be asked of the host. Zero is nothing. */
enum bb_op {
	BB_WHERE = 1, /* the DIMM's address and size */
	BB_UNPLUG,
	BB_PLUG,
};

#define BB_WORDS 192

struct bb_answer {
	int32_t err;		 /* 0 or -errno */
	char words[BB_WORDS];	 /* where there is an error: QEMU's own words, if it had any; always terminated */
	uint64_t address, bytes; /* of the DIMM, which is plugged in: not of BB_UNPLUG */
	uint64_t plugged_bytes;	 /* all hot-pluggable memory that the host counts afterwards */
};

/*
 * One question at a time. Each word has one side that writes it:
 *
 * - `answers` is the host's: somebody looks at the slot.
 * - `owner`, `op`, `dimm`, `asked` are the asking machine's. A process takes the slot by putting its process id where a
 *   zero is, or the id of one that is dead; it may write the others once `answered` has caught up with `asked`, and
 *   gives the slot back when it has read the answer or does not want to wait any longer.
 * - `answer`, `answered` are the host's, from when `asked` differs from `answered` until it has made them the same.
 */
struct bb_slot {
	_Atomic uint32_t answers, owner;
	uint32_t op, dimm;		  /* enum bb_op, and of which DIMM */
	_Atomic uint64_t asked, answered; /* numbers of questions */
	struct bb_answer answer;
};

struct bb_header {
	uint64_t magic;
	uint32_t version;
	uint32_t spec_len;     /* bytes of the specification at BB_SPEC_OFFSET */
	uint64_t size;	       /* of the whole box */
	_Atomic uint64_t tail; /* of the events: where the next record goes, from the beginning of the box */
	_Atomic uint64_t lost; /* events, files and kernel lines refused because their area was full */
	struct bb_part parts[BB_AREAS][BB_PARTS]; /* of the rings */
	_Atomic uint64_t turns[BB_AREAS];	  /* parts begun, less one */
	_Atomic uint64_t dropped[BB_AREAS];	  /* records that gave way to newer ones */
	_Atomic uint32_t stage;			  /* enum bb_stage */
	_Atomic uint32_t beat;			  /* grows while the recorded machine lives */
	_Atomic int64_t start_ns;		  /* its CLOCK_MONOTONIC at the start line; 0 before */
	/* Live figures for a progress display; not part of the record. */
	_Atomic int64_t live_t_ms; /* since the start line */
	_Atomic uint64_t live_slab_kib, live_available_kib, live_oom_kills, live_canary_ms;
	/* Written by the recorder after every sample, so that they are true even if it never gets to its end. */
	_Atomic uint64_t samples_taken, samples_missed, kmsg_lost;
	_Atomic uint64_t late_max_ns;
	struct bb_slot slot;
};

_Static_assert(sizeof(struct bb_header) <= BB_SPEC_OFFSET, "the header has one page");

struct bb_record {
	enum bb_type type;
	const char *data; /* in the mapping, not terminated */
	size_t len;
};

struct bb {
	struct bb_header *head; /* the mapping */
	uint64_t size;
	/* Before records of the kernel log give way, for each of them in turn; NULL record behind the last. May be
	 * NULL. */
	void (*on_drop)(const struct bb_record *record);
};

/* Lay out an empty box in memory of `size` bytes (zeroed, at least twice BB_LOG_OFFSET). */
void bb_format(struct bb *box, void *memory, uint64_t size);
/* Take up a box that is there. Returns 0 or -EINVAL when it is none, or not one of this version. */
int bb_attach(struct bb *box, void *memory, uint64_t size);
/* How large a box must be to keep `samples` samples and what comes with them: a power of two, as QEMU wants it. */
uint64_t bb_size_for(uint64_t samples);
/*
 * Map `path` (a box file of the host, or a PCI resource) shared. With size > 0 the file is made, with its space on
 * disk: a full disk must not end the writer in the middle of a store.
 */
int bb_map_file(const char *path, uint64_t size, void **memory, uint64_t *mapped);
void bb_unmap(struct bb *box);
/* What this process forks from now on does not have the mapping. A device's memory is mapped anew by every fork. */
void bb_keep_from_children(const struct bb *box);

/*
 * Append one record, given in two parts (the second may be empty). Returns 0, or -ENOSPC, counted in head->lost. Events
 * and files are for anybody to append; of samples, and of lines of the log, there is one writer each. Files leave the
 * last quarter of their area to events.
 */
int bb_append2(struct bb *box, enum bb_type type, const void *a, size_t a_len, const void *b, size_t b_len);
int bb_append(struct bb *box, enum bb_type type, const void *data, size_t len);

/* Bytes of records in the box. */
uint64_t bb_bytes(const struct bb *box);

/* Grow the stage; a smaller one is ignored. */
void bb_stage(struct bb *box, enum bb_stage stage);
void bb_beat(struct bb *box);

/*
 * Ask the host and wait for the answer until the deadline (CLOCK_MONOTONIC), beating meanwhile. Returns the answer's
 * err, or -EOPNOTSUPP: there is nobody who answers; -EBUSY: another question was open until the deadline; -ETIMEDOUT:
 * ours was, and it may still be done.
 */
int bb_ask(struct bb *box, enum bb_op op, uint32_t dimm, int64_t deadline_ns, struct bb_answer *answer);

/* The host's side: say whether questions are answered, */
void bb_answers(struct bb *box, bool yes);
/* take up the question that is open, if there is one (nothing in it can be relied on), */
bool bb_question(const struct bb *box, uint64_t *number, uint32_t *op, uint32_t *dimm);
/* and answer it. */
void bb_answer(struct bb *box, uint64_t number, const struct bb_answer *answer);

/* A reader's place in one area. */
struct bb_cursor {
	const struct bb *box;
	enum bb_area area;
	uint64_t turn, at; /* the part, and the bytes of it that were read */
	uint64_t torn;	   /* records that were never committed, so far */
};

struct bb_cursor bb_read(const struct bb *box, enum bb_area area);
/* The next record of the area, oldest first; false at the end. Records that were never committed are stepped over. */
bool bb_next(struct bb_cursor *c, struct bb_record *record);

#endif
