// SPDX-License-Identifier: MIT
/*
 * A disk for tests of the engine: requests end in any order; what was written is in a cache until it is flushed, and a
 * power cut may take any sector of that, and of what was being written. All from one seed.
 */
#ifndef HEADROOM_TEST_ENGINE_SIM_H
#define HEADROOM_TEST_ENGINE_SIM_H

#include "t.h"

#include "engine/io.h"

#include <errno.h>
#include <sys/eventfd.h>

#define SIM_SECTOR 512U
#define SIM_MAX	   24 /* disks */

/* splitmix64 */
static inline uint64_t sim_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

/* A write that a power cut may take. */
struct sim_write {
	uint64_t offset;
	uint32_t len;
	uint64_t number; /* in the order in which writes ended */
	char *data;
};

struct sim_io {
	struct io *io;
	uint64_t flushes; /* of a flush: the writes that ended before it began */
};

struct sim;

struct sim_disk {
	struct sim *sim;
	uint64_t id;	       /* no two of a simulation have the same */
	struct target *target; /* NULL: this one is not there */
	uint64_t size;
	char *now;    /* what a read gets */
	char *stable; /* what is left after a power cut, at the least */
	struct sim_write *writes;
	size_t n_writes, max_writes;
	struct sim_io ios[256];
	size_t n_ios;
	uint64_t ended;
	int fail;	 /* -errno of all requests from now on */
	int fail_writes; /* of writes alone */
	bool mute;	 /* nothing ends */
};

struct sim {
	struct io_loop *loop;
	uint64_t random;
	struct sim_disk disks[SIM_MAX];
	int always; /* an eventfd that can always be read: it has the loop call us */
	uint64_t steps, disks_made;
	void (*at_step)(void *arg); /* after each */
	void (*at_io)(void *arg);   /* when a write or a flush has begun, and when one has ended and nobody knows it */
	void *arg;
};

static inline void sim_keep(struct sim_disk *d, const struct io_part *part)
{
	if (d->n_writes == d->max_writes) {
		d->max_writes = d->max_writes ? 2 * d->max_writes : 64;
		d->writes = realloc(d->writes, d->max_writes * sizeof(*d->writes));
		assert_non_null(d->writes);
	}
	struct sim_write *w = &d->writes[d->n_writes++];

	*w = (struct sim_write){
		.offset = part->offset, .len = part->len, .number = d->ended, .data = malloc(part->len)
	};
	assert_non_null(w->data);
	memcpy(w->data, part->data, part->len);
}

/* Writes up to this number are on the medium. */
static inline void sim_flush(struct sim_disk *d, uint64_t number)
{
	size_t kept = 0;

	for (size_t i = 0; i < d->n_writes; i++) {
		struct sim_write *w = &d->writes[i];

		if (w->number > number) {
			d->writes[kept++] = *w;
			continue;
		}
		memcpy(d->stable + w->offset, w->data, w->len);
		free(w->data);
	}
	d->n_writes = kept;
}

static inline void sim_at_io(struct sim *s, const struct io *io)
{
	if (s->at_io && io->op != IO_READ)
		s->at_io(s->arg);
}

static inline int sim_start(struct target *t, struct io *io)
{
	struct sim_disk *d = t->own;

	if (d->n_ios == sizeof(d->ios) / sizeof(d->ios[0]))
		return -EBUSY;
	d->ios[d->n_ios++] = (struct sim_io){ .io = io, .flushes = d->ended };
	sim_at_io(d->sim, io);
	return 0;
}

static inline void sim_end_one(struct sim *s, struct sim_disk *d)
{
	size_t at = sim_random(&s->random) % d->n_ios;
	struct sim_io one = d->ios[at];
	struct io_part part = io_part(one.io);
	int64_t res = part.len;

	d->ios[at] = d->ios[--d->n_ios];
	if (d->fail) {
		res = d->fail;
	} else if (d->fail_writes && one.io->op == IO_WRITE) {
		res = d->fail_writes;
	} else if (one.io->op == IO_FLUSH) {
		sim_flush(d, one.flushes);
		res = 0;
	} else {
		assert_true(part.offset + part.len <= d->size);
		if (one.io->op == IO_READ)
			memcpy(part.data, d->now + part.offset, part.len);
		else
			memcpy(d->now + part.offset, part.data, part.len);
	}
	if (one.io->op == IO_WRITE && res > 0) {
		d->ended++;
		sim_keep(d, &part);
		/* FUA: this one, and nothing that came before it. */
		if (one.io->durable) {
			struct sim_write *w = &d->writes[--d->n_writes];

			memcpy(d->stable + w->offset, w->data, w->len);
			free(w->data);
			/* An older write to the same place must not come back. */
			for (size_t i = 0; i < d->n_writes; i++) {
				struct sim_write *old = &d->writes[i];

				for (uint64_t b = 0; b < old->len; b += SIM_SECTOR) {
					uint64_t place = old->offset + b;

					if (place >= part.offset && place < part.offset + part.len)
						memcpy(old->data + b, d->now + place, SIM_SECTOR);
				}
			}
		}
	}
	sim_at_io(s, one.io);
	io_result(one.io, res);
}

/* Called from the loop in every round: some of what is there ends. */
static inline void sim_step(void *arg)
{
	struct sim *s = arg;

	for (size_t i = 0; i < SIM_MAX; i++) {
		struct sim_disk *d = &s->disks[i];
		size_t n = d->target && d->n_ios && !d->mute ? sim_random(&s->random) % (d->n_ios + 1) : 0;

		while (n--)
			sim_end_one(s, d);
	}
	s->steps++;
	if (s->at_step)
		s->at_step(s->arg);
}

static inline void sim_open(struct sim *s, uint64_t seed, int64_t (*fault)(void *, const struct io *, uint32_t),
			    void *arg)
{
	struct io_opts opts = { .no_uring = true, .fault = fault, .fault_arg = arg };

	memset(s, 0, sizeof(*s));
	s->random = seed;
	assert_int_equal(io_loop_open(&opts, &s->loop), 0);
	s->always = eventfd(1, EFD_CLOEXEC);
	assert_true(s->always >= 0);
	assert_int_equal(io_loop_watch(s->loop, s->always, sim_step, s), 0);
}

static inline void sim_closed(struct target *t)
{
	struct sim_disk *d = t->own;

	for (size_t i = 0; i < d->n_writes; i++)
		free(d->writes[i].data);
	free(d->writes);
	free(d->now);
	free(d->stable);
	memset(d, 0, sizeof(*d));
}

/* A disk; with what it holds, or zeros. It goes with its target. */
static inline struct target *sim_disk(struct sim *s, uint64_t size, const char *holds)
{
	static const struct target_ops ops = { .start = sim_start, .close = sim_closed };
	struct sim_disk *d = s->disks;

	while (d->target)
		assert_true(++d < s->disks + SIM_MAX);
	d->sim = s;
	d->id = ++s->disks_made;
	d->size = size;
	d->now = calloc(1, size);
	d->stable = calloc(1, size);
	assert_true(d->now && d->stable);
	if (holds) {
		memcpy(d->now, holds, size);
		memcpy(d->stable, holds, size);
	}
	assert_int_equal(target_make(s->loop, &ops, size, SIM_SECTOR, d, &d->target), 0);
	return d->target;
}

/* Of what was not flushed, and of what is being written, a power cut leaves this: */
enum sim_left { SIM_SOME, SIM_NOTHING, SIM_ALL };

static inline void sim_leave(struct sim *s, enum sim_left which, char *left, const char *data, uint32_t len)
{
	for (uint32_t b = 0; b < len; b += SIM_SECTOR)
		if (which == SIM_ALL || (which == SIM_SOME && sim_random(&s->random) & 1))
			memcpy(left + b, data + b, SIM_SECTOR);
}

/* What the disk would hold if the power went now; for the caller to free. */
static inline char *sim_cut(struct sim *s, const struct target *t, enum sim_left which)
{
	const struct sim_disk *d = t->own;
	char *left = malloc(d->size);

	assert_non_null(left);
	memcpy(left, d->stable, d->size);
	for (size_t i = 0; i < d->n_writes; i++)
		sim_leave(s, which, left + d->writes[i].offset, d->writes[i].data, d->writes[i].len);
	for (size_t i = 0; i < d->n_ios; i++) {
		struct io_part part = io_part(d->ios[i].io);

		if (d->ios[i].io->op == IO_WRITE)
			sim_leave(s, which, left + part.offset, part.data, part.len);
	}
	return left;
}

static inline void sim_close(struct sim *s)
{
	io_loop_close(s->loop);
	close(s->always);
}

#endif
