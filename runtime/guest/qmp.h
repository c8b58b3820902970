// SPDX-License-Identifier: MIT
/*
 * As much of the QEMU Machine Protocol as we need: commands without waiting, events as they come. JSON by jansson.
 */
#ifndef HEADROOM_QMP_H
#define HEADROOM_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct qmp {
	int fd;
	char buf[16384]; /* what has arrived and is not a whole line yet */
	size_t len;
};

/* Take up the connection (non-blocking) and leave negotiation mode. */
void qmp_start(struct qmp *q, int fd);
/* Send {"execute": NAME}. The answer is not waited for. 0 or -errno. */
int qmp_execute(struct qmp *q, const char *name);
/* The same with arguments (NULL: none; taken over, whatever comes of it) and the id that its answer will have. */
int qmp_execute_with(struct qmp *q, const char *name, json_t *arguments, json_int_t id);
/*
 * The next message that has arrived, or NULL if there is none now. Owned by the caller. A line that is not JSON is
 * dropped; at the end of the connection fd becomes -1.
 */
json_t *qmp_next(struct qmp *q);

#endif
