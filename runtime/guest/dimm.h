// SPDX-License-Identifier: MIT
/*
 * The DIMMs of a guest, taken out and put in while it runs, as it asks for it through the black box.
 *
 * A question is a row of QMP commands, one at a time, each known by an id of its own, so that an answer to an earlier
 * one is none to this. Taking out is the guest's own doing: QEMU asks it, and says with an event that the DIMM is gone.
 * Then its memory is deleted as well, for only so the host gets it back. Nothing here waits: every step is taken when
 * a message comes, or when time is up.
 */
#ifndef HEADROOM_DIMM_H
#define HEADROOM_DIMM_H

#include "guest/qmp.h"
#include "record/blackbox.h"

#include <stdbool.h>
#include <stdint.h>

#define DIMM_MAX	8     /* that a scenario may have */
#define DIMM_UNPLUG_MS	20000 /* from the question until the guest has let it go and QEMU has counted */
#define DIMM_COMMAND_MS 10000 /* for what QEMU does by itself */

enum dimm_step {
	DIMM_IDLE,
	DIMM_DEVICE_DEL,
	DIMM_DELETED, /* waits for the guest */
	DIMM_OBJECT_DEL,
	DIMM_OBJECT_ADD,
	DIMM_DEVICE_ADD,
	DIMM_DEVICES,
	DIMM_SUMMARY,
};

struct dimms {
	struct qmp *qmp;
	struct bb *box;
	unsigned n;
	uint64_t bytes;	    /* of each */
	bool out[DIMM_MAX]; /* QEMU has none of that name */
	enum dimm_step step;
	json_int_t id, awaited; /* of the last command; of the one whose answer is awaited, or 0 */
	uint64_t number;	/* of the question */
	unsigned dimm;
	int64_t deadline_ns;
	struct bb_answer answer;
};

/* Say in the box that questions are answered: about `n` DIMMs, all plugged in, of so many MiB each. */
void dimm_start(struct dimms *d, struct qmp *qmp, struct bb *box, unsigned n, unsigned mib);
/* A message that has come from QEMU. */
void dimm_hear(struct dimms *d, const json_t *message);
/* Take up a question, or give one up. To be called after the messages, again and again. */
void dimm_look(struct dimms *d, int64_t now_ns);

#endif
