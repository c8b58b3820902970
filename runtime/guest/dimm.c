// SPDX-License-Identifier: MIT
#include "guest/dimm.h"

#include "base/clock.h"
#include "guest/qemu.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/*
 * What a guest's _OST says: about which request, and how it went (include/linux/acpi.h, ACPI_OST_*). QEMU hands it on
 * in its event ACPI_DEVICE_OST: with QEMU 7.2 it is by that that one hears of a kernel that keeps a DIMM.
 */
#define OST_EJECT	0x3
#define OST_SUCCESS	0x0
#define OST_IN_PROGRESS 0x84

static json_t *device_name(const struct dimms *d)
{
	return json_sprintf(GUEST_DIMM "%u", d->dimm);
}

static json_t *memory_name(unsigned dimm)
{
	return json_sprintf(GUEST_DIMM "%u-memory", dimm);
}

static json_t *old_device(const struct dimms *d)
{
	return json_pack("{s:o}", "id", device_name(d));
}

static json_t *old_memory(const struct dimms *d)
{
	return json_pack("{s:o}", "id", memory_name(d->dimm));
}

static json_t *new_memory(const struct dimms *d)
{
	return json_pack("{s:s, s:o, s:I}", "qom-type", "memory-backend-ram", "id", memory_name(d->dimm), "size",
			 (json_int_t)d->bytes);
}

static json_t *new_device(const struct dimms *d)
{
	return json_pack("{s:s, s:o, s:o}", "driver", "pc-dimm", "id", device_name(d), "memdev", memory_name(d->dimm));
}

/* Of what a message says is `name` that of the DIMM in question? */
static bool is_ours(const struct dimms *d, const char *name)
{
	char ours[24];

	snprintf(ours, sizeof(ours), GUEST_DIMM "%u", d->dimm);
	return name && strcmp(name, ours) == 0;
}

static uint64_t number_of(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

static int find_place(struct dimms *d, const json_t *devices)
{
	const json_t *device, *data;
	size_t i;

	json_array_foreach (devices, i, device) {
		data = json_object_get(device, "data");
		if (!is_ours(d, json_string_value(json_object_get(data, "id"))))
			continue;
		d->answer.address = number_of(data, "addr");
		d->answer.bytes = number_of(data, "size");
		return 0;
	}
	snprintf(d->answer.words, sizeof(d->answer.words), GUEST_DIMM "%u is not plugged in", d->dimm);
	return -ENODEV;
}

static int find_sum(struct dimms *d, const json_t *summary)
{
	if (!json_is_integer(json_object_get(summary, "plugged-memory"))) {
		snprintf(d->answer.words, sizeof(d->answer.words), "QEMU does not count plugged-memory");
		return -EPROTO;
	}
	d->answer.plugged_bytes = number_of(summary, "plugged-memory");
	return 0;
}

static int note_in(struct dimms *d, const json_t *nothing)
{
	(void)nothing;
	d->out[d->dimm] = false;
	return 0;
}

static const struct {
	const char *command; /* NULL: nothing to say, an event is waited for */
	json_t *(*arguments)(const struct dimms *d);
	int (*take)(struct dimms *d, const json_t *value); /* what the command returned */
	enum dimm_step next;
} steps[] = {
	[DIMM_DEVICE_DEL] = { "device_del", old_device, NULL, DIMM_DELETED },
	[DIMM_DELETED] = { NULL, NULL, NULL, DIMM_OBJECT_DEL },
	[DIMM_OBJECT_DEL] = { "object-del", old_memory, NULL, DIMM_SUMMARY },
	[DIMM_OBJECT_ADD] = { "object-add", new_memory, NULL, DIMM_DEVICE_ADD },
	[DIMM_DEVICE_ADD] = { "device_add", new_device, note_in, DIMM_DEVICES },
	[DIMM_DEVICES] = { "query-memory-devices", NULL, find_place, DIMM_SUMMARY },
	[DIMM_SUMMARY] = { "query-memory-size-summary", NULL, find_sum, DIMM_IDLE },
};

/* Its answer, if there is one, is to no step. */
static void delete_memory(struct dimms *d, unsigned dimm)
{
	qmp_execute_with(d->qmp, "object-del", json_pack("{s:o}", "id", memory_name(dimm)), ++d->id);
}

static void end(struct dimms *d, int err)
{
	enum dimm_step at = d->step;

	d->step = DIMM_IDLE;
	d->awaited = 0;
	/* Memory without a DIMM would stand in the way of the next. That of one that is plugged in QEMU keeps. */
	if (err && (at == DIMM_OBJECT_ADD || at == DIMM_DEVICE_ADD))
		delete_memory(d, d->dimm);
	d->answer.err = err;
	bb_answer(d->box, d->number, &d->answer);
}

static void fail(struct dimms *d, int err, const char *words)
{
	snprintf(d->answer.words, sizeof(d->answer.words), "%s", words);
	end(d, err);
}

static void go(struct dimms *d, enum dimm_step step)
{
	const char *command = steps[step].command;
	int err = 0;

	/* The event may come before the answer to the command. */
	if (step == DIMM_DELETED && d->out[d->dimm]) {
		go(d, steps[step].next);
		return;
	}
	d->step = step;
	d->awaited = command ? ++d->id : 0;
	if (step == DIMM_IDLE)
		end(d, 0);
	else if (command)
		err = qmp_execute_with(d->qmp, command, steps[step].arguments ? steps[step].arguments(d) : NULL,
				       d->awaited);
	if (err)
		fail(d, err, "QEMU takes no commands");
}

static void hear_answer(struct dimms *d, const json_t *message)
{
	const json_t *error = json_object_get(message, "error");
	const char *words = json_string_value(json_object_get(error, "desc"));
	const char *class = json_string_value(json_object_get(error, "class"));
	int err = 0;

	/* Let go meanwhile, for a question that was given up. */
	if (error && d->step == DIMM_DEVICE_DEL && d->out[d->dimm]) {
		go(d, DIMM_DELETED);
		return;
	}
	if (error) {
		fail(d, class && strcmp(class, "DeviceNotFound") == 0 ? -ENODEV : -EIO, words ? words : "no words");
		return;
	}
	if (steps[d->step].take)
		err = steps[d->step].take(d, json_object_get(message, "return"));
	if (err)
		end(d, err);
	else
		go(d, steps[d->step].next);
}

static void hear_deleted(struct dimms *d, const char *name)
{
	unsigned dimm;
	char rest;

	/* Its parts and other devices have no such name, or none. */
	if (!name || sscanf(name, GUEST_DIMM "%u%c", &dimm, &rest) != 1 || dimm >= d->n)
		return;
	d->out[dimm] = true;
	if (d->step == DIMM_DELETED && d->dimm == dimm)
		go(d, DIMM_OBJECT_DEL);
	else if (d->step != DIMM_DEVICE_DEL || d->dimm != dimm)
		delete_memory(d, dimm); /* nobody waits for it any more */
}

static bool waits_for_guest(const struct dimms *d)
{
	return d->step == DIMM_DEVICE_DEL || d->step == DIMM_DELETED;
}

static void hear_ost(struct dimms *d, const json_t *info)
{
	json_int_t status = json_integer_value(json_object_get(info, "status"));
	char words[BB_WORDS];

	if (!is_ours(d, json_string_value(json_object_get(info, "device"))) ||
	    json_integer_value(json_object_get(info, "source")) != OST_EJECT || status == OST_SUCCESS ||
	    status == OST_IN_PROGRESS)
		return;
	snprintf(words, sizeof(words), "the guest keeps it: _OST status 0x%x", (unsigned)status);
	fail(d, -EBUSY, words);
}

static void hear_event(struct dimms *d, const char *event, const json_t *data)
{
	const char *name = json_string_value(json_object_get(data, "device"));
	const char *words = json_string_value(json_object_get(data, "msg"));

	if (strcmp(event, "DEVICE_DELETED") == 0)
		hear_deleted(d, name);
	else if (!waits_for_guest(d))
		return;
	else if (strcmp(event, "ACPI_DEVICE_OST") == 0)
		hear_ost(d, json_object_get(data, "info"));
	else if ((strcmp(event, "MEM_UNPLUG_ERROR") == 0 || strcmp(event, "DEVICE_UNPLUG_GUEST_ERROR") == 0) &&
		 is_ours(d, name))
		fail(d, -EBUSY, words ? words : "the guest keeps it");
}

void dimm_start(struct dimms *d, struct qmp *qmp, struct bb *box, unsigned n, unsigned mib)
{
	*d = (struct dimms){ .qmp = qmp, .box = box, .n = n < DIMM_MAX ? n : DIMM_MAX, .bytes = (uint64_t)mib << 20 };
	bb_answers(box, true);
}

void dimm_hear(struct dimms *d, const json_t *message)
{
	const char *event = json_string_value(json_object_get(message, "event"));
	const json_t *id = json_object_get(message, "id");

	if (event)
		hear_event(d, event, json_object_get(message, "data"));
	else if (d->awaited && json_integer_value(id) == d->awaited)
		hear_answer(d, message);
}

static void take_up(struct dimms *d, int64_t now_ns)
{
	static const enum dimm_step first[] = {
		[BB_WHERE] = DIMM_DEVICES, [BB_UNPLUG] = DIMM_DEVICE_DEL, [BB_PLUG] = DIMM_OBJECT_ADD
	};
	uint32_t op, dimm;

	if (!bb_question(d->box, &d->number, &op, &dimm))
		return;
	memset(&d->answer, 0, sizeof(d->answer));
	if (op < BB_WHERE || op > BB_PLUG || dimm >= d->n) {
		char words[BB_WORDS];

		snprintf(words, sizeof(words), "question %" PRIu32 " about DIMM %" PRIu32 " of %u", op, dimm, d->n);
		fail(d, -EINVAL, words);
		return;
	}
	d->dimm = dimm;
	d->deadline_ns = now_ns + (op == BB_UNPLUG ? DIMM_UNPLUG_MS : DIMM_COMMAND_MS) * NS_PER_MS;
	/* One that the guest let go after its question was given up is out already. */
	go(d, op == BB_UNPLUG && d->out[dimm] ? DIMM_SUMMARY : first[op]);
}

void dimm_look(struct dimms *d, int64_t now_ns)
{
	if (d->qmp->fd < 0) {
		bb_answers(d->box, false);
		if (d->step != DIMM_IDLE)
			fail(d, -ENOTCONN, "QEMU has closed the connection");
		return;
	}
	if (d->step == DIMM_IDLE)
		take_up(d, now_ns);
	else if (now_ns >= d->deadline_ns)
		fail(d, -ETIMEDOUT, waits_for_guest(d) ? "the guest does not let it go" : "QEMU does not answer");
}
