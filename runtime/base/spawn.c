// SPDX-License-Identifier: MIT
#include "base/spawn.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS 20

volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = sig;
}

void spawn_catch_signals(void)
{
	/* No SA_RESTART: a wait that was interrupted must come back and look. */
	struct sigaction sa = { .sa_handler = on_signal };

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}

void spawn_die_with(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
}

static bool redirect(const char *path, int to)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	bool ok = fd >= 0 && dup2(fd, to) >= 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static void exec_child(const struct spawn *s, int pipe_write, pid_t parent)
{
	int null = open("/dev/null", O_RDONLY);

	spawn_die_with(parent);
	setpgid(0, 0);
	signal(SIGPIPE, SIG_DFL);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0)
		_exit(126);
	if (s->out && dup2(pipe_write, STDOUT_FILENO) < 0)
		_exit(126);
	if (s->stdout_path && !redirect(s->stdout_path, STDOUT_FILENO))
		_exit(126);
	if (s->stderr_path && !redirect(s->stderr_path, STDERR_FILENO))
		_exit(126);
	execvp(s->argv[0], (char *const *)s->argv);
	_exit(127);
}

/* Take what the pipe holds. Returns false at its end. */
static bool drain(int fd, const struct spawn *s, size_t *used)
{
	char spill[4096];

	for (;;) {
		size_t room = s->out_size - 1 - *used;
		ssize_t n = room ? read(fd, s->out + *used, room) : read(fd, spill, sizeof(spill));

		if (n == 0)
			return false;
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (room)
			*used += (size_t)n;
	}
}

/* Until the child ends or the deadline is there; sooner without pidfds, which are there since Linux 5.3. */
static void sleep_for(int pidfd, int64_t deadline_ns)
{
	struct pollfd ended = { .fd = pidfd, .events = POLLIN };
	int64_t left_ns = deadline_ns - clock_ns();
	struct timespec left = clock_timespec(left_ns);

	if (pidfd < 0)
		clock_sleep_ms(POLL_MS);
	else if (left_ns > 0)
		ppoll(&ended, 1, &left, NULL);
}

int spawn_wait_until(pid_t pid, int64_t deadline_ns, int *wait_status)
{
	int pidfd = -1, ended;

	for (;;) {
		pid_t got = waitpid(pid, wait_status, WNOHANG);

		ended = got == pid || (got < 0 && errno == ECHILD);
		if (ended || clock_ns() >= deadline_ns)
			break;
		if (pidfd < 0)
			pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		sleep_for(pidfd, deadline_ns);
	}
	if (pidfd >= 0)
		close(pidfd);
	return ended;
}

int spawn_run(const struct spawn *s, int *status)
{
	int64_t deadline = clock_ns() + s->timeout_s * NS_PER_S;
	int fds[2] = { -1, -1 };
	pid_t pid, parent = getpid();
	int wait_status = 0, ended_early = 0;
	size_t used = 0;
	bool piped;

	if (s->out && pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		int err = -errno;

		if (s->out) {
			close(fds[0]);
			close(fds[1]);
		}
		return err;
	}
	if (pid == 0)
		exec_child(s, fds[1], parent);
	setpgid(pid, pid);
	piped = s->out != NULL;
	if (piped) {
		close(fds[1]);
		fcntl(fds[0], F_SETFL, O_NONBLOCK);
	}
	for (;;) {
		struct pollfd p = { .fd = piped ? fds[0] : -1, .events = POLLIN };

		poll(&p, 1, POLL_MS);
		if (piped && p.revents)
			piped = drain(fds[0], s, &used);
		if (waitpid(pid, &wait_status, WNOHANG) == pid)
			break;
		if (interrupted)
			ended_early = SPAWN_INTERRUPTED;
		else if (clock_ns() >= deadline)
			ended_early = SPAWN_TIMEOUT;
		if (ended_early) {
			kill(-pid, SIGKILL);
			waitpid(pid, &wait_status, 0);
			break;
		}
	}
	if (s->out) {
		drain(fds[0], s, &used);
		s->out[used] = '\0';
		close(fds[0]);
	}
	if (ended_early)
		*status = ended_early;
	else
		*status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
	return 0;
}
