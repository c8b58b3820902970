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

#define MAX_ARGS    64
#define ASK_POLL_MS 10 /* of a guest with DIMMs, whose questions are timed */
#define QUIT_MS	    2000

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

static void end_qemu(pid_t pid, struct qmp *qmp, int *status)
{
	qmp_execute(qmp, "quit");
	if (!spawn_wait_until(pid, clock_ns() + QUIT_MS * NS_PER_MS, status)) {
		kill(pid, SIGKILL);
		waitpid(pid, status, 0);
	}
}

int guest_run(const struct guest_config *g, struct bb *box, watch_progress_fn *progress, void *arg,
	      struct ending *ending)
{
	struct watch w = watch_begin(g->limits);
	struct qmp qmp = { .fd = -1 };
	struct dimms dimms = { 0 };
	enum end why;
	bool ended_by_us = false;
	int err = 0, status = 0, poll_ms = g->dimms ? ASK_POLL_MS : WATCH_POLL_MS;
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
			watch_look(&w, box);
			dimm_look(&dimms, clock_ns());
		}
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
		if (watch_must_end(&w, &why)) {
			ended_by_us = true;
			end_qemu(pid, &qmp, &status);
			break;
		}
		if (progress && clock_ns() >= progress_due_ns) {
			progress(box, (double)(clock_ns() - w.begin_ns) / 1e9, arg);
			progress_due_ns = clock_ns() + WATCH_POLL_MS * NS_PER_MS;
		}
		if (qmp.fd < 0)
			clock_sleep_ms(WATCH_POLL_MS);
	}
	look_at_events(&qmp, &w, &dimms);
	if (qmp.fd >= 0)
		close(qmp.fd);
	if (box)
		watch_look(&w, box);
	*ending = watch_end(&w, ended_by_us ? &why : NULL, status);
	return 0;
}
