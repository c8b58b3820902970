// SPDX-License-Identifier: MIT
/* io_uring as io.c uses it: one issuer, files and memory known to the kernel beforehand. All return 0 or -errno. */
#ifndef HEADROOM_ENGINE_RING_H
#define HEADROOM_ENGINE_RING_H

#include "engine/io.h"

struct ring;

/* The ring of a loop, or NULL. */
struct ring *io_loop_ring(const struct io_loop *l);

int ring_open(unsigned entries, struct ring **ring);
void ring_close(struct ring *r);
int ring_memory(struct ring *r, void *memory, size_t size);
/* Place of a descriptor in the table of files, or -errno: it goes without. */
int ring_add_file(struct ring *r, int fd);
void ring_remove_file(struct ring *r, int index);
/* -EBUSY: the submission queue is full. */
int ring_start(struct ring *r, struct target *t, struct io *io);
/* Wake up once when the descriptor can be read; *readable is set then. */
int ring_poll(struct ring *r, int fd, bool *readable);
/*
 * Submit what was started; with `wait`, until something has ended or the deadline has come. Outcomes go to
 * io_result().
 */
int ring_enter(struct ring *r, bool wait, int64_t deadline_ns);

#endif
