// SPDX-License-Identifier: MIT
/* The text of /proc/PID/stack: one line a frame, innermost first, "[<0>] percpu_rwsem_wait+0x112/0x150 [module]". */
#ifndef HEADROOM_STACK_H
#define HEADROOM_STACK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define STACK_FRAMES 64
#define STACK_NAME   48 /* longer function names are left out */
#define STACK_TEXT   4096

struct stack {
	char names[STACK_FRAMES][STACK_NAME]; /* innermost first */
	unsigned n;
};

/* Take the functions' names out of such a text; lines that are no frames are left out. */
void stack_parse(struct stack *s, const char *text, size_t len);
/*
 * Of a task, from PROC/PID/stack ("/proc"). Empty where it cannot be read (CAP_SYS_ADMIN), and often for a task that
 * runs: the kernel vouches only for those that sleep.
 */
void stack_read(struct stack *s, const char *proc, pid_t pid);
/* Is this frame of that function? A compiler may have made a part of it: "offline_pages.constprop.0". */
bool stack_is(const char *frame, const char *function);
/* The innermost frame of that function, or s->n. */
unsigned stack_find(const struct stack *s, const char *function);

#endif
