// SPDX-License-Identifier: MIT
#include "record/blackbox.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAGIC 0x4b43 /* "CK" */
#define ALIGN	     8U
#define COMMITTED    1U
#define MAX_TURNS    (UINT64_C(1) << 48) /* more than a ring can make; a reader's counting must not wrap */
#define ASK_MS	     5			 /* between two looks for the answer */
#define SAMPLE_BYTES 16384		 /* 13 KiB with the slab caches of a Debian kernel */

struct record {
	uint16_t magic;
	uint16_t type;
	uint32_t len;
	_Atomic uint32_t committed;
	uint32_t pad;
};

/* Where an area lies. Told by the size of the box alone, so that a scribbled header leads nobody astray. */
struct extent {
	uint64_t begin, size; /* of one part, where the area is a ring */
};

/* In hundredths of the room. Samples are the most: see SAMPLE_BYTES. */
static const unsigned percent[BB_AREAS] = {
	[BB_EVENTS] = 20,
	[BB_SAMPLES] = 45,
	[BB_KERNEL_LOG] = 20,
	[BB_USER_LOG] = 15,
};

static struct extent area_of(uint64_t box_size, enum bb_area area)
{
	uint64_t unit = (box_size - BB_LOG_OFFSET) / 100;
	struct extent e = { .begin = BB_LOG_OFFSET };

	for (unsigned i = 0; i < area; i++)
		e.begin += percent[i] * unit;
	e.begin = (e.begin + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
	e.size = (percent[area] * unit / (area == BB_EVENTS ? 1 : BB_PARTS) - ALIGN) & ~(uint64_t)(ALIGN - 1);
	return e;
}

/* The part that a turn writes: all of them in a circle, but for the first. */
static unsigned part_of(uint64_t turn)
{
	return turn == 0 ? 0 : (unsigned)(1 + (turn - 1) % (BB_PARTS - 1));
}

static uint64_t record_size(uint64_t len)
{
	return (sizeof(struct record) + len + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
}

void bb_format(struct bb *box, void *memory, uint64_t size)
{
	*box = (struct bb){ .head = memory, .size = size };
	box->head->magic = BB_MAGIC;
	box->head->version = BB_VERSION;
	box->head->size = size;
	atomic_store(&box->head->tail, area_of(size, BB_EVENTS).begin);
}

uint64_t bb_size_for(uint64_t samples)
{
	uint64_t size = BB_MIN_SIZE;

	while (size < BB_MAX_SIZE && size / 100 * percent[BB_SAMPLES] < samples * SAMPLE_BYTES)
		size *= 2;
	return size;
}

int bb_attach(struct bb *box, void *memory, uint64_t size)
{
	struct bb_header *head = memory;

	if (size < 2 * BB_LOG_OFFSET || head->magic != BB_MAGIC || head->version != BB_VERSION || head->size > size ||
	    head->size < 2 * BB_LOG_OFFSET || head->spec_len > BB_SPEC_MAX)
		return -EINVAL;
	*box = (struct bb){ .head = head, .size = head->size };
	return 0;
}

int bb_map_file(const char *path, uint64_t size, void **memory, uint64_t *mapped)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | (size ? O_CREAT : 0), 0644);
	struct stat st;
	int err = 0;

	if (fd < 0)
		return -errno;
	if (size)
		err = -posix_fallocate(fd, 0, (off_t)size);
	if (!err && fstat(fd, &st) < 0)
		err = -errno;
	if (!err && st.st_size < 2 * BB_LOG_OFFSET)
		err = -EINVAL;
	if (!err) {
		*mapped = (uint64_t)st.st_size;
		*memory = mmap(NULL, *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (*memory == MAP_FAILED)
			err = -errno;
	}
	close(fd);
	return err;
}

void bb_unmap(struct bb *box)
{
	if (box->head)
		munmap(box->head, box->size);
	box->head = NULL;
}

void bb_keep_from_children(const struct bb *box)
{
	madvise(box->head, box->size, MADV_DONTFORK);
}

static void put(struct record *r, enum bb_type type, const void *a, size_t a_len, const void *b, size_t b_len)
{
	r->len = (uint32_t)(a_len + b_len);
	r->type = (uint16_t)type;
	r->magic = RECORD_MAGIC;
	memcpy(r + 1, a, a_len);
	if (b_len)
		memcpy((char *)(r + 1) + a_len, b, b_len);
	/* The body must be there before the word that says so: the reader is another machine. */
	atomic_store_explicit(&r->committed, COMMITTED, memory_order_release);
}

/* Space in the area that everybody writes to, or NULL. */
static struct record *take(struct bb *box, enum bb_type type, uint64_t need)
{
	struct extent e = area_of(box->size, BB_EVENTS);
	uint64_t limit = e.begin + (type == BB_FILE ? e.size - e.size / 4 : e.size);
	uint64_t at = atomic_load_explicit(&box->head->tail, memory_order_relaxed);

	do {
		if (need > limit || at > limit - need)
			return NULL;
	} while (!atomic_compare_exchange_weak(&box->head->tail, &at, at + need));
	return (struct record *)((char *)box->head + at);
}

/* Tell of all records of one part. */
static void say_goodbye(struct bb *box, enum bb_area area, uint64_t turn)
{
	struct bb_cursor c = { .box = box, .area = area, .turn = turn };
	struct bb_record record;

	while (bb_next(&c, &record) && c.turn == turn)
		box->on_drop(&record);
	box->on_drop(NULL);
}

/* The part of a one-writer area that has room, begun anew where it must be; or NULL. */
static struct bb_part *part_with_room(struct bb *box, enum bb_area area, uint64_t need, uint64_t *begin)
{
	struct bb_header *head = box->head;
	struct extent e = area_of(box->size, area);
	uint64_t turn = atomic_load_explicit(&head->turns[area], memory_order_relaxed);
	struct bb_part *p = &head->parts[area][part_of(turn)];

	if (need > e.size)
		return NULL;
	if (atomic_load_explicit(&p->used, memory_order_relaxed) > e.size - need) {
		turn++;
		p = &head->parts[area][part_of(turn)];
		if (area == BB_KERNEL_LOG && box->on_drop && atomic_load(&p->records))
			say_goodbye(box, area, atomic_load(&p->turn));
		atomic_fetch_add(&head->dropped[area], atomic_load(&p->records));
		/* Emptied before it is said to be of this turn: whenever we die, no record is read twice. */
		atomic_store(&p->used, 0);
		atomic_store(&p->records, 0);
		atomic_store(&p->turn, turn);
		atomic_store(&head->turns[area], turn);
	}
	*begin = e.begin + part_of(turn) * e.size;
	return p;
}

static enum bb_area area_for(enum bb_type type)
{
	return type == BB_SAMPLE      ? BB_SAMPLES
	       : type == BB_KMSG      ? BB_KERNEL_LOG
	       : type == BB_USER_KMSG ? BB_USER_LOG
				      : BB_EVENTS;
}

int bb_append2(struct bb *box, enum bb_type type, const void *a, size_t a_len, const void *b, size_t b_len)
{
	uint64_t need = record_size(a_len + b_len), begin = 0, used;
	enum bb_area area = area_for(type);
	struct bb_part *p = NULL;
	struct record *r = NULL;

	if (a_len <= UINT32_MAX && b_len <= UINT32_MAX - a_len) {
		if (area == BB_EVENTS)
			r = take(box, type, need);
		else
			p = part_with_room(box, area, need, &begin);
	}
	if (!r && !p) {
		atomic_fetch_add(&box->head->lost, 1);
		return -ENOSPC;
	}
	if (r) {
		put(r, type, a, a_len, b, b_len);
		return 0;
	}
	used = atomic_load_explicit(&p->used, memory_order_relaxed);
	put((struct record *)((char *)box->head + begin + used), type, a, a_len, b, b_len);
	atomic_fetch_add(&p->records, 1);
	atomic_store_explicit(&p->used, used + need, memory_order_release);
	return 0;
}

int bb_append(struct bb *box, enum bb_type type, const void *data, size_t len)
{
	return bb_append2(box, type, data, len, NULL, 0);
}

void bb_stage(struct bb *box, enum bb_stage stage)
{
	uint32_t now = atomic_load(&box->head->stage);

	while (now < stage && !atomic_compare_exchange_weak(&box->head->stage, &now, stage))
		;
	bb_beat(box);
}

void bb_beat(struct bb *box)
{
	atomic_fetch_add(&box->head->beat, 1);
}

static bool take_slot(struct bb_slot *slot)
{
	uint32_t owner = atomic_load(&slot->owner), self = (uint32_t)getpid();

	if (owner && (kill((pid_t)owner, 0) == 0 || errno != ESRCH))
		return false;
	return atomic_compare_exchange_strong(&slot->owner, &owner, self);
}

static bool caught_up(struct bb_slot *slot)
{
	return atomic_load_explicit(&slot->answered, memory_order_acquire) == atomic_load(&slot->asked);
}

static bool wait_until(struct bb *box, bool (*is_so)(struct bb_slot *), int64_t deadline_ns)
{
	while (!is_so(&box->head->slot)) {
		if (clock_ns() >= deadline_ns)
			return false;
		bb_beat(box);
		clock_sleep_ms(ASK_MS);
	}
	return true;
}

int bb_ask(struct bb *box, enum bb_op op, uint32_t dimm, int64_t deadline_ns, struct bb_answer *answer)
{
	struct bb_slot *slot = &box->head->slot;
	int err = -EBUSY;

	memset(answer, 0, sizeof(*answer));
	if (!atomic_load(&slot->answers))
		return -EOPNOTSUPP;
	if (!wait_until(box, take_slot, deadline_ns))
		return -EBUSY;
	/* Of one before us, who did not wait for his answer. */
	if (wait_until(box, caught_up, deadline_ns)) {
		slot->op = op;
		slot->dimm = dimm;
		atomic_fetch_add(&slot->asked, 1);
		err = wait_until(box, caught_up, deadline_ns) ? 0 : -ETIMEDOUT;
	}
	if (!err)
		*answer = slot->answer;
	atomic_store(&slot->owner, 0);
	return err ? err : answer->err;
}

void bb_answers(struct bb *box, bool yes)
{
	atomic_store(&box->head->slot.answers, yes);
}

bool bb_question(const struct bb *box, uint64_t *number, uint32_t *op, uint32_t *dimm)
{
	const struct bb_slot *slot = &box->head->slot;

	*number = atomic_load_explicit(&slot->asked, memory_order_acquire);
	if (*number == atomic_load(&slot->answered))
		return false;
	*op = slot->op;
	*dimm = slot->dimm;
	return true;
}

void bb_answer(struct bb *box, uint64_t number, const struct bb_answer *answer)
{
	struct bb_slot *slot = &box->head->slot;

	slot->answer = *answer;
	atomic_store_explicit(&slot->answered, number, memory_order_release);
}

uint64_t bb_bytes(const struct bb *box)
{
	struct extent e = area_of(box->size, BB_EVENTS);
	uint64_t tail = atomic_load(&box->head->tail), bytes = tail < e.begin ? 0 : tail - e.begin;

	/* Of a scribbled header no more than there can be. */
	if (bytes > e.size)
		bytes = e.size;
	for (unsigned area = BB_SAMPLES; area < BB_AREAS; area++) {
		for (unsigned i = 0; i < BB_PARTS; i++) {
			uint64_t used = atomic_load(&box->head->parts[area][i].used),
				 size = area_of(box->size, area).size;

			bytes += used < size ? used : size;
		}
	}
	return bytes;
}

struct bb_cursor bb_read(const struct bb *box, enum bb_area area)
{
	return (struct bb_cursor){ .box = box, .area = area };
}

/* What is written of the part that the cursor is in: its first byte and its length. False behind the last part. */
static bool part_at(struct bb_cursor *c, const char **base, uint64_t *used)
{
	const struct bb_header *head = c->box->head;
	struct extent e = area_of(c->box->size, c->area);
	uint64_t tail = atomic_load(&head->tail), last = atomic_load(&head->turns[c->area]);
	const struct bb_part *p;

	if (last > MAX_TURNS)
		last = MAX_TURNS; /* a scribbled header, as below */

	if (c->area == BB_EVENTS) {
		*base = (const char *)head + e.begin;
		*used = tail < e.begin ? 0 : tail - e.begin;
		if (*used > e.size)
			*used = e.size;
		return c->turn == 0;
	}
	/* Of all turns there were, those whose parts were not written again. */
	if (c->turn && last >= BB_PARTS && c->turn + BB_PARTS - 1 <= last)
		c->turn = last - BB_PARTS + 2;
	if (c->turn > last)
		return false;
	p = &head->parts[c->area][part_of(c->turn)];
	*base = (const char *)head + e.begin + part_of(c->turn) * e.size;
	*used = atomic_load(&p->turn) == c->turn ? atomic_load_explicit(&p->used, memory_order_acquire) : 0;
	if (*used > e.size)
		*used = e.size;
	return true;
}

bool bb_next(struct bb_cursor *c, struct bb_record *record)
{
	const char *base;
	uint64_t end;

	for (; part_at(c, &base, &end); c->turn++, c->at = 0) {
		bool in_hole = false;

		while (c->at + sizeof(struct record) <= end) {
			struct record *r = (struct record *)(base + c->at);
			bool sound = r->magic == RECORD_MAGIC && r->len <= end - c->at - sizeof(*r) &&
				     r->type >= BB_SAMPLE && r->type <= BB_KERNEL_EVENT &&
				     area_for((enum bb_type)r->type) == c->area;

			if (!sound) {
				/* Its writer died between taking the space and writing the head. */
				c->torn += !in_hole;
				in_hole = true;
				c->at += ALIGN;
				continue;
			}
			in_hole = false;
			c->at += record_size(r->len);
			if (atomic_load_explicit(&r->committed, memory_order_acquire) != COMMITTED) {
				c->torn++;
				continue;
			}
			*record = (struct bb_record){ (enum bb_type)r->type, (const char *)(r + 1), r->len };
			return true;
		}
	}
	return false;
}
