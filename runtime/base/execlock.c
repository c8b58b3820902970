// SPDX-License-Identifier: MIT
#include "base/execlock.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#if defined(__x86_64__)

typedef struct user_regs_struct regs_t;
static const uint8_t call_and_trap[] = { 0x0f, 0x05, 0xcc }; /* syscall; int3 */

static uint64_t place_of(const regs_t *r)
{
	return r->rip;
}

static void put_call(regs_t *r, long number, uint64_t arg)
{
	r->rax = (uint64_t)number;
	r->rdi = arg;
	r->orig_rax = UINT64_MAX; /* we are in no call that could be begun again */
}

static int64_t result_of(const regs_t *r)
{
	return (int64_t)r->rax;
}

#elif defined(__aarch64__)

typedef struct user_regs_struct regs_t;
static const uint8_t call_and_trap[] = { 0x01, 0x00, 0x00, 0xd4, 0x00, 0x00, 0x20, 0xd4 }; /* svc #0; brk #0 */

static uint64_t place_of(const regs_t *r)
{
	return r->pc;
}

static void put_call(regs_t *r, long number, uint64_t arg)
{
	r->regs[8] = (uint64_t)number;
	r->regs[0] = arg;
}

static int64_t result_of(const regs_t *r)
{
	return (int64_t)r->regs[0];
}

#else
#define NO_SUCH_PROCESSOR
#endif

#ifndef NO_SUCH_PROCESSOR

/* Its next stop: the status, or -errno. -ECHILD: it has ended. */
static int next_stop(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFSTOPPED(status) ? status : -ECHILD;
}

/* A stop of this kind; at others it goes on, with the signals that it is sent. */
static int await(pid_t pid, enum __ptrace_request how, int wanted)
{
	int status;

	while ((status = next_stop(pid)) >= 0 && status >> 8 != wanted)
		if (ptrace(how, pid, 0, (long)(status >> 16 ? 0 : WSTOPSIG(status))) < 0)
			return -errno;
	return status < 0 ? status : 0;
}

static int go_on_until(pid_t pid, enum __ptrace_request how, int wanted)
{
	return ptrace(how, pid, 0, 0) < 0 ? -errno : await(pid, how, wanted);
}

static int get_regs(pid_t pid, regs_t *r)
{
	struct iovec v = { r, sizeof(*r) };

	return ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &v) < 0 ? -errno : 0;
}

static int set_regs(pid_t pid, const regs_t *r)
{
	struct iovec v = { (void *)r, sizeof(*r) };

	return ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &v) < 0 ? -errno : 0;
}

/* Make a call where it stands, in code that is put there for it and taken away again. *result: what it returned. */
static int call(pid_t pid, long number, uint64_t arg, int64_t *result)
{
	regs_t saved, r;
	long text, with_call;
	int err = get_regs(pid, &saved), restored;

	if (err)
		return err;
	errno = 0;
	text = with_call = ptrace(PTRACE_PEEKTEXT, pid, place_of(&saved), 0);
	if (errno)
		return -errno;
	memcpy(&with_call, call_and_trap, sizeof(call_and_trap));
	r = saved;
	put_call(&r, number, arg);
	if (ptrace(PTRACE_POKETEXT, pid, place_of(&saved), with_call) < 0)
		return -errno;
	err = set_regs(pid, &r);
	if (!err)
		err = go_on_until(pid, PTRACE_CONT, SIGTRAP);
	if (!err)
		err = get_regs(pid, &r);
	*result = err ? 0 : result_of(&r);
	if (err == -ECHILD)
		return err;
	restored = ptrace(PTRACE_POKETEXT, pid, place_of(&saved), text) < 0 ? -errno : set_regs(pid, &saved);
	return err ? err : restored;
}

int execlock_attach(pid_t pid)
{
	return ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD) < 0 ? -errno : 0;
}

int execlock_wait(pid_t pid)
{
	int err = await(pid, PTRACE_CONT, SIGTRAP | PTRACE_EVENT_EXEC << 8);

	/* Out of execve(2), or its own return would overwrite what we put into the registers. */
	return err ? err : go_on_until(pid, PTRACE_SYSCALL, SIGTRAP | 0x80);
}

int execlock_lock(pid_t pid)
{
	int64_t result;
	int err = call(pid, SYS_mlockall, MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT, &result);

	return err ? err : (int)result;
}

void execlock_end(pid_t pid, int status)
{
	int64_t result;

	call(pid, SYS_exit_group, (uint64_t)status, &result);
}

void execlock_let_go(pid_t pid)
{
	ptrace(PTRACE_DETACH, pid, 0, 0);
}

#else

int execlock_attach(pid_t pid)
{
	(void)pid;
	return -ENOSYS;
}

int execlock_wait(pid_t pid)
{
	(void)pid;
	return -ECHILD;
}

int execlock_lock(pid_t pid)
{
	(void)pid;
	return -ENOSYS;
}

void execlock_end(pid_t pid, int status)
{
	(void)pid;
	(void)status;
}

void execlock_let_go(pid_t pid)
{
	(void)pid;
}

#endif
