// SPDX-License-Identifier: MIT
#include "guest/qemu.h"

#include "base/clock.h"
#include "base/spawn.h"
#include "guest/dimm.h"
#include "guest/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_ARGS     64
#define POLL_MS	     100
#define ASK_POLL_MS  10	  /* of a guest with DIMMs, whose questions are timed */
#define POWER_OFF_MS 5000 /* from "done" to the end of QEMU; a kernel with stuck tasks may never get there */
#define QUIT_MS	     2000
#define PANIC_MS     3000 /* from the panic event to the reset: the kernel is printing */

const char *guest_end_name(enum guest_end end)
{
	static const char *const names[] = {
		[GUEST_OFF] = "guest",	   [GUEST_PANIC] = "panic",	  [GUEST_NO_BOOT] = "no-boot",
		[GUEST_HANG] = "hang",	   [GUEST_DEADLINE] = "deadline", [GUEST_QEMU] = "qemu",
		[GUEST_SIGNAL] = "signal",
	};

	return names[end];
}

struct args {
	char *v[MAX_ARGS];
	int n;
};

static void add(struct args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (a->n == MAX_ARGS - 1 || vasprintf(&a->v[a->n], fmt, ap) < 0)
		abort();
	a->n++;
	va_end(ap);
}

/* QEMU's option parser takes a doubled comma for one in a value. */
static void add_path(struct args *a, const char *before, const char *path, const char *after)
{
	char quoted[8192];
	size_t n = 0;

	for (; *path && n < sizeof(quoted) - 2; path++) {
		quoted[n++] = *path;
		if (*path == ',')
			quoted[n++] = ',';
	}
	quoted[n] = '\0';
	add(a, "%s%s%s", before, quoted, after);
}

char **guest_argv(const struct guest_config *g, int qmp_fd)
{
	struct args *a = calloc(1, sizeof(*a));

	if (!a)
		abort();
	add(a, QEMU_BINARY);
	add(a, "-nodefaults");
	add(a, "-no-user-config");
	add(a, "-accel");
	add(a, strcmp(g->accel, "tcg") == 0 ? "tcg,thread=multi" : "%s", g->accel);
	add(a, "-cpu");
	add(a, strcmp(g->accel, "kvm") == 0 ? "host" : "max");
	add(a, "-smp");
	add(a, "%u", g->cpus);
	add(a, "-m");
	if (g->dimms)
		add(a, "%uM,slots=%u,maxmem=%uM", g->memory_mib, g->dimms, g->memory_mib + g->dimms * g->dimm_mib);
	else
		add(a, "%uM", g->memory_mib);
	for (unsigned i = 0; i < g->dimms; i++) {
		add(a, "-object");
		add(a, "memory-backend-ram,id=" GUEST_DIMM "%u-memory,size=%uM", i, g->dimm_mib);
		add(a, "-device");
		add(a, "pc-dimm,id=" GUEST_DIMM "%u,memdev=" GUEST_DIMM "%u-memory", i, i);
	}
	add(a, "-kernel");
	add(a, "%s", g->kernel);
	add(a, "-initrd");
	add(a, "%s", g->initramfs);
	add(a, "-append");
	add(a, "%s", g->cmdline);
	add(a, "-display");
	add(a, "none");
	add(a, "-no-reboot");
	/* The kernel prints its panic and then resets; QEMU must not stop at the first word of it. */
	add(a, "-action");
	add(a, "panic=none");
	add(a, "-device");
	add(a, "pvpanic");
	/* Not -serial file:PATH, which does not know doubled commas. */
	add(a, "-chardev");
	add_path(a, "file,id=console,path=", g->console_log, "");
	add(a, "-serial");
	add(a, "chardev:console");
	add(a, "-chardev");
	add(a, "socket,id=qmp,fd=%d", qmp_fd);
	add(a, "-mon");
	add(a, "chardev=qmp,mode=control");
	if (g->image) {
		add(a, "-drive");
		add_path(a, "if=virtio,format=raw,readonly=on,file=", g->image, "");
	}
	if (g->scratch) {
		add(a, "-drive");
		add_path(a, "if=virtio,format=raw,cache=unsafe,discard=unmap,file=", g->scratch, "");
	}
	if (g->box_path) {
		char size[32];

		snprintf(size, sizeof(size), ",size=%llu", (unsigned long long)g->box_size);
		add(a, "-object");
		add_path(a, "memory-backend-file,id=box,share=on,mem-path=", g->box_path, size);
		add(a, "-device");
		add(a, "ivshmem-plain,memdev=box");
	}
	return a->v;
}

void guest_argv_free(char **argv)
{
	for (char **v = argv; *v; v++)
		free(*v);
	free(argv); /* the first member of struct args */
}

static pid_t start_qemu(const struct guest_config *g, struct qmp *qmp, int *err)
{
	pid_t parent = getpid(), pid;
	int pair[2], status[2];
	char **argv;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
		*err = -errno;
		return -1;
	}
	if (pipe2(status, O_CLOEXEC) < 0) {
		*err = -errno;
		close(pair[0]);
		close(pair[1]);
		return -1;
	}
	argv = guest_argv(g, pair[1]);
	pid = fork();
	if (pid == 0) {
		char log[4096];
		int fd;

		spawn_die_with(parent);
		setpgid(0, 0); /* Ctrl-C is for us; we end the guest in order */
		fcntl(pair[1], F_SETFD, 0);
		snprintf(log, sizeof(log), "%s.qemu", g->console_log);
		fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd >= 0) {
			dup2(fd, STDOUT_FILENO);
			dup2(fd, STDERR_FILENO);
		}
		execvp(argv[0], argv);
		fd = errno;
		if (write(status[1], &fd, sizeof(fd)) < 0)
			_exit(126);
		_exit(127);
	}
	*err = pid < 0 ? -errno : 0;
	guest_argv_free(argv);
	close(pair[1]);
	close(status[1]);
	if (pid > 0 && read(status[0], err, sizeof(*err)) == sizeof(*err)) {
		*err = -*err;
		waitpid(pid, NULL, 0);
		pid = -1;
	}
	close(status[0]);
	if (pid < 0)
		close(pair[0]);
	else
		qmp_start(qmp, pair[0]);
	return pid;
}

/* What is known about the guest while it runs. */
struct watch {
	const struct guest_config *config;
	int64_t begin_ns, booted_ns, beat_ns, done_ns, panic_ns;
	uint32_t beat;
};

static void look_at_events(struct qmp *qmp, struct watch *w, struct dimms *dimms)
{
	json_t *message;

	while ((message = qmp_next(qmp))) {
		const char *event = json_string_value(json_object_get(message, "event"));

		if (event && strcmp(event, "GUEST_PANICKED") == 0 && !w->panic_ns)
			w->panic_ns = clock_ns();
		dimm_hear(dimms, message);
		json_decref(message);
	}
}

static void look_at_box(const struct bb *box, struct watch *w)
{
	uint32_t beat = atomic_load(&box->head->beat);
	uint32_t stage = atomic_load(&box->head->stage);
	int64_t now = clock_ns();

	if (beat != w->beat) {
		w->beat = beat;
		w->beat_ns = now;
	}
	if (!w->booted_ns && stage >= BB_BOOTED)
		w->booted_ns = w->beat_ns = now;
	if (!w->done_ns && stage == BB_DONE)
		w->done_ns = now;
}

/* Why the guest has to be ended now. False: it may go on. */
static bool must_end(const struct watch *w, enum guest_end *why)
{
	int64_t now = clock_ns();
	const struct guest_config *g = w->config;

	if (w->done_ns) {
		*why = GUEST_OFF;
		return now - w->done_ns > POWER_OFF_MS * NS_PER_MS;
	}
	if (w->panic_ns) {
		*why = GUEST_PANIC;
		return now - w->panic_ns > PANIC_MS * NS_PER_MS;
	}
	if (interrupted)
		*why = GUEST_SIGNAL;
	else if (!w->booted_ns && now - w->begin_ns > g->boot_s * NS_PER_S)
		*why = GUEST_NO_BOOT;
	else if (w->booted_ns && now - w->beat_ns > g->silence_s * NS_PER_S)
		*why = GUEST_HANG;
	else if (now - w->begin_ns > g->deadline_s * NS_PER_S)
		*why = GUEST_DEADLINE;
	else
		return false;
	return true;
}

static void end_qemu(pid_t pid, struct qmp *qmp, int *status)
{
	qmp_execute(qmp, "quit");
	if (!spawn_wait_until(pid, clock_ns() + QUIT_MS * NS_PER_MS, status)) {
		kill(pid, SIGKILL);
		waitpid(pid, status, 0);
	}
}

int guest_run(const struct guest_config *g, struct bb *box, guest_progress_fn *progress, void *arg,
	      struct guest_result *result)
{
	struct watch w = { .config = g, .begin_ns = clock_ns() };
	struct qmp qmp = { .fd = -1 };
	struct dimms dimms = { 0 };
	bool ended_by_us = false;
	int err = 0, status = 0, poll_ms = g->dimms ? ASK_POLL_MS : POLL_MS;
	int64_t progress_due_ns = 0;
	pid_t pid = start_qemu(g, &qmp, &err);

	if (pid < 0)
		return err;
	if (box)
		dimm_start(&dimms, &qmp, box, g->dimms, g->dimm_mib);
	for (;;) {
		poll(&(struct pollfd){ .fd = qmp.fd, .events = POLLIN }, 1, poll_ms);
		look_at_events(&qmp, &w, &dimms);
		if (box) {
			look_at_box(box, &w);
			dimm_look(&dimms, clock_ns());
		}
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
		if (must_end(&w, &result->end)) {
			ended_by_us = true;
			end_qemu(pid, &qmp, &status);
			break;
		}
		if (progress && clock_ns() >= progress_due_ns) {
			progress(box, (double)(clock_ns() - w.begin_ns) / 1e9, arg);
			progress_due_ns = clock_ns() + POLL_MS * NS_PER_MS;
		}
		if (qmp.fd < 0)
			clock_sleep_ms(POLL_MS);
	}
	look_at_events(&qmp, &w, &dimms);
	if (qmp.fd >= 0)
		close(qmp.fd);
	if (box)
		look_at_box(box, &w);
	/* A QEMU that a signal ended says nothing about the kernel, not even that it does not boot. */
	if (!ended_by_us)
		result->end = w.done_ns		    ? GUEST_OFF
			      : w.panic_ns	    ? GUEST_PANIC
			      : interrupted	    ? GUEST_SIGNAL
			      : WIFSIGNALED(status) ? GUEST_QEMU
			      : !w.booted_ns	    ? GUEST_NO_BOOT
						    : GUEST_QEMU;
	result->boot_s = w.booted_ns ? (double)(w.booted_ns - w.begin_ns) / 1e9 : -1;
	result->wall_s = (double)(clock_ns() - w.begin_ns) / 1e9;
	result->qemu_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	return 0;
}
