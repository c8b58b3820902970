// SPDX-License-Identifier: MIT
/*
 * Locked memory for a program that does not lock its own.
 *
 * What mlockall(2) did is undone by execve(2), so the call has to be made in the program itself. A tracer makes it
 * there, before the program's first instruction, and goes (ptrace(2)): that works for any program, also one that is
 * linked statically, and nothing of it stays behind.
 */
#ifndef HEADROOM_EXECLOCK_H
#define HEADROOM_EXECLOCK_H

#include <sys/types.h>

/*
 * Follow a process that is about to call execve(2). 0 or -errno: -EPERM: not allowed (it is another user's; Yama's
 * ptrace_scope, unless the process has named us with PR_SET_PTRACER); -ENOSYS: not on this processor.
 */
int execlock_attach(pid_t pid);
/* Wait for that; then it stands before its first instruction. -ECHILD: it ended without. */
int execlock_wait(pid_t pid);
/*
 * There: lock what it has, and what it will have as soon as it is touched (MCL_ONFAULT: a stack of which little is used
 * takes little). 0 or -errno of mlockall(2) or ptrace(2).
 */
int execlock_lock(pid_t pid);
/* There: it ends with this status instead of running. */
void execlock_end(pid_t pid, int status);
/* There: it runs, and is nobody's business any more. */
void execlock_let_go(pid_t pid);

#endif
