// SPDX-License-Identifier: MIT
#include "run/cell.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/log.h"
#include "base/module.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "cgroups/scope.h"
#include "dev/dmdev.h"
#include "dev/loopdev.h"
#include "record/ksyms.h"
#include "record/recorder.h"
#include "record/slab.h"
#include "record/wqtrace.h"
#include "run/devguard.h"
#include "run/mitigation.h"
#include "run/undo.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BASELINE_MS	1000 /* recorded before the start line */
#define COOL_DOWN_MS	1000 /* recorded after the load has ended */
#define KILL_WAIT_MS	5000 /* after SIGKILL; what is still there then hangs in the kernel */
#define TERM_WAIT_MS	2000
#define TEARDOWN_S	40 /* swapping off takes the most */
#define DM_PERIOD_MS	1000
#define GROUP_PERIOD_MS 1000
#define TASK_PERIOD_MS	1000
#define SHRINK_S	10  /* under emulation 150 caches take about one */
#define ROUND_PAUSE_MS	500 /* of the bystander */
#define LOOP_TRIES	8
#define HOLDER_SECTORS	8	   /* a page: no disk has larger blocks */
#define LOAD_LOOK_MS	20	   /* for workloads that have ended */
#define TOOL_FILE_MAX	(4U << 20) /* of a tool's output, kept in the record */
#define EVENT_SIZE	4096
#define GROUP_SIZE	128 /* a name of a cgroup of ours */

/* Where events of this process go. Children inherit it: the box is shared memory. */
static struct bb *events_to;

static void begin_event(struct jsonw *j, char *buf, const char *kind)
{
	jsonw_init(j, buf, EVENT_SIZE);
	jsonw_object(j, NULL);
	jsonw_seconds(j, "t", clock_ns());
	jsonw_str(j, "kind", kind);
}

static void end_event(struct jsonw *j, const char *raw)
{
	size_t len;

	struct jsonw without_raw = *j;

	jsonw_str(j, "raw", raw);
	jsonw_object_end(j);
	len = jsonw_line(j);
	if (!len) {
		/* Escaped, a text can be six times as long. The event itself must not be lost for it. */
		*j = without_raw;
		jsonw_str(j, "raw", "(too long)");
		jsonw_object_end(j);
		len = jsonw_line(j);
	}
	if (len)
		bb_append(events_to, BB_EVENT, j->buf, len);
}

/* `add`: members of its own; NULL: none. */
static void write_event(const char *kind, void (*add)(struct jsonw *j, const void *arg), const void *arg,
			const char *fmt, va_list ap)
{
	char buf[EVENT_SIZE], text[1024];
	struct jsonw j;

	vsnprintf(text, sizeof(text), fmt, ap);
	begin_event(&j, buf, kind);
	if (add)
		add(&j, arg);
	end_event(&j, text);
}

void cell_event(const char *kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	write_event(kind, NULL, NULL, fmt, ap);
	va_end(ap);
}

void cell_event_with(const char *kind, void (*add)(struct jsonw *j, const void *arg), const void *arg, const char *fmt,
		     ...)
{
	va_list ap;

	va_start(ap, fmt);
	write_event(kind, add, arg, fmt, ap);
	va_end(ap);
}

/* Into the record, and onto the console, where it may be the last word. */
static void say_why(const struct cell *c, const char *kind, const char *fmt, va_list ap)
{
	char text[1024];

	vsnprintf(text, sizeof(text), fmt, ap);
	log_err("%s: %s", c->workload->name, text);
	cell_event(kind, "%s: %s", c->workload->name, text);
}

void cell_fail(const struct cell *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say_why(c, "fail", fmt, ap);
	va_end(ap);
}

void cell_finding(const struct cell *c, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cell_event("finding", "%s: %s", c->workload->name, text);
}

void cell_skip(const struct cell *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say_why(c, "skip", fmt, ap);
	va_end(ap);
}

void cell_device(const char *name, const char *kernel_name)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	begin_event(&j, buf, "device");
	jsonw_str(&j, "name", name);
	jsonw_str(&j, "kernel", kernel_name);
	end_event(&j, "");
}

void cell_deadlock(const struct cell *c, void (*add)(struct jsonw *j, const void *arg), const void *arg,
		   const char *words)
{
	cell_event_with("deadlock", add, arg, "%s: %s", c->workload->name, words);
}

void cell_corrupt(const struct cell *c, const char *fmt, ...)
{
	va_list ap;

	(void)c;
	va_start(ap, fmt);
	write_event("corrupt", NULL, NULL, fmt, ap);
	va_end(ap);
}

void cell_phase(const char *name)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	begin_event(&j, buf, "phase");
	jsonw_str(&j, "name", name);
	end_event(&j, name);
}

void cell_knob(const char *name, const char *value, const char *read_back)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	begin_event(&j, buf, "knob");
	jsonw_str(&j, "name", name);
	jsonw_str(&j, "value", value);
	if (read_back)
		jsonw_str(&j, "read_back", read_back);
	end_event(&j, "");
}

int cell_drop(void)
{
	struct slab_files files;
	int err = sysfile_write("/proc/sys/vm/drop_caches", "3");

	if (err)
		return err;
	slab_files_of_this_machine(&files);
	return slab_shrink_all(&files) ? -EIO : 0;
}

int cell_dimm(enum cell_dimm_op op, unsigned index, int64_t deadline_ns, struct cell_dimm *answer)
{
	static const enum bb_op ops[] = {
		[CELL_DIMM_WHERE] = BB_WHERE, [CELL_DIMM_UNPLUG] = BB_UNPLUG, [CELL_DIMM_PLUG] = BB_PLUG
	};
	struct bb_answer said;
	int err;

	*answer = (struct cell_dimm){ .words = "nobody answers" };
	if (!events_to)
		return -EOPNOTSUPP;
	err = bb_ask(events_to, ops[op], index, deadline_ns, &said);
	answer->address = said.address;
	answer->bytes = said.bytes;
	answer->plugged_bytes = said.plugged_bytes;
	snprintf(answer->words, sizeof(answer->words), "%s", *said.words ? said.words : err ? strerror(-err) : "");
	return err;
}

static bool declared(const struct cell *c, const char *name)
{
	for (const struct metric *m = c->workload->metrics; m && m->name; m++)
		if (strcmp(m->name, name) == 0)
			return true;
	cell_fail(c, "metric '%s' is not declared", name);
	return false;
}

void cell_metric_fixed(const struct cell *c, const char *name, int64_t value, unsigned decimals)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	if (!declared(c, name))
		return;
	begin_event(&j, buf, "metric");
	jsonw_str(&j, "name", name);
	jsonw_fixed(&j, "value", value, decimals);
	end_event(&j, "");
}

void cell_metric_u64(const struct cell *c, const char *name, uint64_t value)
{
	cell_metric_fixed(c, name, (int64_t)value, 0);
}

void cell_metric_bool(const struct cell *c, const char *name, bool value)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	if (!declared(c, name))
		return;
	begin_event(&j, buf, "metric");
	jsonw_str(&j, "name", name);
	jsonw_bool(&j, "value", value);
	end_event(&j, "");
}

static void spawn_event(const char *role, const char *comm, pid_t pid)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	begin_event(&j, buf, "spawn");
	jsonw_str(&j, "role", role);
	jsonw_str(&j, "comm", comm);
	jsonw_i64(&j, "pid", pid);
	end_event(&j, "");
}

static void exit_event(const char *role, const char *comm, pid_t pid, int code)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	begin_event(&j, buf, "exit");
	jsonw_str(&j, "role", role);
	jsonw_str(&j, "comm", comm);
	jsonw_i64(&j, "pid", pid);
	jsonw_i64(&j, "status", code);
	end_event(&j, "");
}

bool cell_should_stop(const struct cell *c)
{
	/* Whoever asks is at work: while devices are filled there is no recorder yet to show that we live. */
	bb_beat(events_to);
	return clock_ns() >= c->deadline_ns || cell_told_to_stop(c);
}

bool cell_told_to_stop(const struct cell *c)
{
	return c->stop && atomic_load(c->stop);
}

/* --- Children --- */

static int exit_code(int wait_status)
{
	return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

/* Wait until no process of the group is left, taking in those that became ours when their parent died. */
static bool group_gone_until(pid_t group, int64_t deadline_ns)
{
	for (;;) {
		while (waitpid(-group, NULL, WNOHANG) > 0)
			;
		if (kill(-group, 0) < 0 && errno == ESRCH)
			return true;
		if (clock_ns() >= deadline_ns)
			return false;
		clock_sleep_ms(20);
	}
}

/*
 * Wait for a child, the leader of its process group, until the deadline; then end the group: SIGTERM, SIGKILL, and
 * what does not even die of that is left. Returns the child's exit code, -ETIMEDOUT when we ended it, -EBUSY when
 * something of the group is still there.
 */
static int wait_or_end(pid_t pid, int64_t deadline_ns)
{
	int status, rc = -ETIMEDOUT;
	bool gone;

	if (spawn_wait_until(pid, deadline_ns, &status)) {
		rc = exit_code(status);
		gone = group_gone_until(pid, clock_ns() + TERM_WAIT_MS * NS_PER_MS);
	} else {
		cell_event("deadline", "pid %d is told to end", pid);
		kill(-pid, SIGTERM);
		gone = group_gone_until(pid, clock_ns() + TERM_WAIT_MS * NS_PER_MS);
	}
	if (!gone) {
		kill(-pid, SIGKILL);
		gone = group_gone_until(pid, clock_ns() + KILL_WAIT_MS * NS_PER_MS);
	}
	if (!gone) {
		cell_event("stuck", "process group %d does not die of SIGKILL", pid);
		return -EBUSY;
	}
	return rc;
}

static void redirect(const char *dir, const char *label, const char *suffix, int to)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s.%s", dir, label, suffix);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || dup2(fd, to) < 0)
		_exit(126);
}

pid_t cell_child(const struct cell *c, const char *comm)
{
	pid_t pid, parent = getpid();

	(void)c;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		/* In the group of the hook's child, so that ending the hook ends it. */
		spawn_die_with(parent);
		prctl(PR_SET_NAME, comm);
		return 0;
	}
	spawn_event(ROLE_WORKLOAD, comm, pid);
	return pid;
}

void cell_fork_without_record(void)
{
	bb_keep_from_children(events_to);
}

const char *cell_end_words(int rc, char *buf, size_t size)
{
	if (rc > 128 && rc < 128 + NSIG)
		snprintf(buf, size, "killed by signal %d", rc - 128);
	else
		snprintf(buf, size, "%s", strerror(abs(rc)));
	return buf;
}

int cell_wait(const struct cell *c, const char *comm, pid_t pid)
{
	int rc, status;

	/* Nobody's pid. As kill(2) has it, 0 and less are whole groups, ours among them. */
	if (pid <= 0)
		return -ECHILD;
	if (spawn_wait_until(pid, c->deadline_ns, &status)) {
		rc = exit_code(status);
	} else {
		kill(pid, SIGKILL);
		rc = spawn_wait_until(pid, clock_ns() + KILL_WAIT_MS * NS_PER_MS, &status) ? -ETIMEDOUT : -EBUSY;
	}
	exit_event(ROLE_WORKLOAD, comm, pid, rc);
	return rc;
}

pid_t cell_tool_start(const struct cell *c, const char *label, const char *const *argv)
{
	pid_t pid = cell_child(c, argv[0]);

	if (pid != 0)
		return pid;
	redirect(c->work_dir, label, "out", STDOUT_FILENO);
	redirect(c->work_dir, label, "err", STDERR_FILENO);
	execvp(argv[0], (char *const *)argv);
	_exit(127);
}

int cell_tool(const struct cell *c, const char *label, const char *const *argv)
{
	pid_t pid = cell_tool_start(c, label, argv);

	return pid < 0 ? pid : cell_wait(c, argv[0], pid);
}

/* Of a part of the cell, and of one workload's processes where it is theirs; NULL: of no workload's. */
static void name_of_group(char *buf, size_t size, const char *role, const struct workload *w)
{
	snprintf(buf, size, CGROUP_PARENT "/%s%s%s", role, w ? "/" : "", w ? w->name : "");
}

/* A child in its own process group and in this cgroup. In the child: returns 0. */
static pid_t fork_into(const char *group, const char *role, const char *comm, int oom_score_adj)
{
	char adj[16];
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid != 0) {
		if (pid > 0)
			spawn_event(role, comm, pid);
		return pid;
	}
	spawn_die_with(parent);
	setpgid(0, 0);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	prctl(PR_SET_NAME, comm);
	if (scope_attach(group, getpid()))
		cell_event("fail", "cannot join cgroup %s", group);
	snprintf(adj, sizeof(adj), "%d", oom_score_adj);
	if (sysfile_write("/proc/self/oom_score_adj", adj))
		cell_event("fail", "cannot set oom_score_adj %d", oom_score_adj);
	return 0;
}

static volatile sig_atomic_t bystander_told;

static void tell_bystander(int sig)
{
	(void)sig;
	bystander_told = 1;
}

static void touch(volatile char *memory, size_t size, unsigned round)
{
	for (size_t at = 0; at < size; at += 4096)
		memory[at] = (char)round;
}

/* How long the worst round took so far. Said again only when it has doubled: the storm is no time for many words. */
static void bystander_event(int64_t longest_ns)
{
	char buf[EVENT_SIZE];
	struct jsonw j;

	begin_event(&j, buf, "bystander");
	jsonw_fixed(&j, "stall_max_ms", longest_ns / 1000, 3);
	end_event(&j, "");
}

/*
 * Somebody who has nothing to do with it, as a service that goes on working: holds memory and looks at all of it, takes
 * as much again for a moment and gives it back, and notes how long that took. It is what the OOM killer should not
 * have had to take.
 */
static void bystander(unsigned mib)
{
	size_t size = (size_t)mib << 20;
	int64_t longest = 0, told = 0;
	/* Not reserved: it may be asked to hold more than the machine has. */
	volatile char *memory =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED) {
		cell_event("fail", "bystander: %u MiB: %s", mib, strerror(errno));
		_exit(1);
	}
	signal(SIGTERM, tell_bystander);
	touch(memory, size, 0);
	for (unsigned round = 1; !bystander_told; round++) {
		int64_t begin = clock_ns(), took;
		void *more =
			mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (more != MAP_FAILED) {
			touch(more, size, round);
			munmap(more, size);
		}
		touch(memory, size, round);
		took = clock_ns() - begin;
		if (took > longest)
			longest = took;
		if (longest > 2 * told) {
			bystander_event(longest);
			told = longest;
		}
		clock_sleep_ms(ROUND_PAUSE_MS);
	}
	bystander_event(longest);
	_exit(0);
}

enum hook { HOOK_RUN, HOOK_VERIFY };

static void add_workload(struct jsonw *j, const void *arg)
{
	const struct cell *c = arg;

	jsonw_str(j, "workload", c->workload->name);
}

/* When its turn has come. */
static int begin_load(const struct cell *c, int64_t begin_ns)
{
	int64_t wait_ms = (begin_ns - clock_ns()) / NS_PER_MS;

	if (wait_ms > 0)
		clock_sleep_ms(wait_ms);
	cell_event_with("load-begin", add_workload, c, "%s", c->workload->name);
	return c->workload->run((struct cell *)c);
}

/* begin_ns: of HOOK_RUN, when its load is to begin. */
static pid_t start_hook(const struct cell *c, enum hook hook, const char *role, int oom_score_adj, int64_t begin_ns)
{
	struct cell mine = *c;
	char group[GROUP_SIZE];
	pid_t pid;

	name_of_group(group, sizeof(group), role, hook == HOOK_RUN ? c->workload : NULL);
	pid = fork_into(group, role, c->workload->name, oom_score_adj);
	if (pid != 0)
		return pid;
	munlockall();
	_exit((hook == HOOK_RUN ? begin_load(&mine, begin_ns) : c->workload->verify(&mine)) ? 1 : 0);
}

/* --- Phases --- */

struct cell_run {
	const struct spec *spec;
	struct bb *box;
	struct cell cells[SPEC_MAX_WORKLOADS];
	pid_t pids[SPEC_MAX_WORKLOADS];
	_Atomic bool *stop; /* shared with the hooks */
	char scratch[256];  /* the device */
	struct recorder recorder;
	struct wqtrace wqtrace;
	bool recording;
	bool stuck;
};

/* "xN" is N times what the kernel has chosen by itself. */
static int resolve_value(const char *value, const char *old, char *buf, size_t size)
{
	uint64_t factor, base;

	snprintf(buf, size, "%s", value);
	if (*value != 'x')
		return 0;
	if (parse_u64(value + 1, 1, UINT32_MAX, &factor) || parse_u64(old, 0, UINT32_MAX, &base))
		return -EINVAL;
	snprintf(buf, size, "%" PRIu64, base * factor);
	return 0;
}

static int set_knob(const struct spec_knob *k)
{
	char old[64] = "", now[64] = "", value[64], buf[EVENT_SIZE];
	struct jsonw j;
	int err;

	if (sysfile_read(k->path, old, sizeof(old)) < 0) {
		/* That this kernel has none is a finding, not a gap in the record. */
		cell_knob(k->name, k->value, NULL);
		if (!k->required)
			return 0;
		cell_event("fail", "%s: %s cannot be read", k->name, k->path);
		return -ENOENT;
	}
	err = resolve_value(k->value, old, value, sizeof(value));
	if (!err && strcmp(old, value) != 0) {
		err = undo_note("knob", k->path, old);
		if (!err)
			err = sysfile_write(k->path, value);
	}
	begin_event(&j, buf, "knob");
	jsonw_str(&j, "name", k->name);
	jsonw_str(&j, "value", value);
	jsonw_str(&j, "before", old);
	if (sysfile_read(k->path, now, sizeof(now)) >= 0)
		jsonw_str(&j, "read_back", now);
	if (err)
		jsonw_str(&j, "error", strerror(-err));
	end_event(&j, "");
	if (err && k->required)
		cell_event("fail", "write %s = %s: %s", k->path, value, strerror(-err));
	return k->required ? err : 0;
}

static bool offline_reasons_are_on(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[512];
	bool on = false;

	while (f && !on && fgets(line, sizeof(line), f))
		on = strstr(line, "mm/memory_hotplug.c:") && strstr(line, " =p ");
	if (f)
		fclose(f);
	return on;
}

/*
 * Why memory does not go offline is a debug message since Linux 5.16 (mm/memory_hotplug.c). Best effort: not every
 * kernel has dynamic debug, and the record says whether this one does.
 */
static void enable_offline_reasons(void)
{
	static const char path[] = "/proc/dynamic_debug/control";
	char buf[EVENT_SIZE];
	bool before = offline_reasons_are_on(path);
	struct jsonw j;
	int err = 0;

	if (access(path, F_OK) < 0)
		return;
	if (!before)
		err = undo_note("knob", path, "file mm/memory_hotplug.c -p");
	if (!before && !err)
		err = sysfile_write(path, "file mm/memory_hotplug.c +p");
	begin_event(&j, buf, "knob");
	jsonw_str(&j, "name", OFFLINE_REASONS);
	jsonw_str(&j, "value", "+p");
	jsonw_str(&j, "before", before ? "+p" : "-p");
	jsonw_str(&j, "read_back", offline_reasons_are_on(path) ? "+p" : "-p");
	if (err)
		jsonw_str(&j, "error", strerror(-err));
	end_event(&j, "");
}

/* Fixes that took something out of the kernel: is it out of this one? */
static void look_for_function(const struct mitigation *m)
{
	int found = ksyms_has("/proc/kallsyms", m->gone);

	cell_knob(m->knobs[0].name, m->on, found < 0 ? NULL : found ? "present" : "absent");
}

static void look_for_parameter(const struct mitigation *m)
{
	char cmdline[4096], value[64];

	if (sysfile_read("/proc/cmdline", cmdline, sizeof(cmdline)) >= 0)
		cell_knob(m->knobs[0].name, NULL, mitigation_boot_value(cmdline, m->boot, value, sizeof(value)));
}

/* What was settled before this cell began. */
static void look_at_kernel(const struct workload *w)
{
	for (const struct mitigation *m = w->mitigations; m && m->name; m++) {
		if (m->gone)
			look_for_function(m);
		if (m->boot)
			look_for_parameter(m);
	}
}

/* `tree`: workloads make groups below it, which go with it. */
static int make_group(const char *group, bool tree)
{
	char path[PATH_MAX];
	int err;

	scope_path(group, path, sizeof(path));
	err = tree ? undo_note("cgroup-tree", group, NULL) : undo_note("cgroup", path, NULL);
	if (!err)
		err = scope_create(group);
	if (err)
		cell_event("fail", "cgroup %s: %s", group, strerror(-err));
	return err;
}

/* Groups of ours need controllers, which the root then has for good: what it had before goes into the log. */
static int note_controllers(void)
{
	char path[PATH_MAX], before[256];
	ssize_t len;

	scope_path("cgroup.subtree_control", path, sizeof(path));
	len = sysfile_read(path, before, sizeof(before));
	return len < 0 ? (int)len : undo_note("controllers", path, before);
}

static int make_groups(const struct spec *s)
{
	static const char *const groups[] = { CGROUP_PARENT, CGROUP_PARENT "/" ROLE_WORKLOAD,
					      CGROUP_PARENT "/" ROLE_BYSTANDER, CGROUP_PARENT "/" ROLE_HARNESS };
	char group[GROUP_SIZE];
	int err = scope_init();

	if (!err)
		err = note_controllers();
	if (err)
		cell_event("fail", "cgroup v2: %s", strerror(-err));
	for (size_t i = 0; !err && i < sizeof(groups) / sizeof(groups[0]); i++)
		err = make_group(groups[i], false);
	for (size_t i = 0; !err && i < s->n_workloads; i++) {
		const struct workload *w = s->workloads[i].workload;

		name_of_group(group, sizeof(group), ROLE_WORKLOAD, w);
		err = make_group(group, false);
		if (!err && w->group)
			err = make_group(w->group, true);
	}
	return err;
}

static int load_modules(const struct workload *w)
{
	int err = 0;

	for (const char *const *m = w->modules; !err && m && *m; m++) {
		err = module_load(*m);
		if (err)
			cell_event("fail", "module %s: %s", *m, strerror(-err));
	}
	return err;
}

/*
 * A disk of the machine's: marked, so that what we leave on it is ours to clear, and claimed for as long as the cell
 * lasts by a device that nobody uses, of a single page. Device mapper shares its claim among its own devices only.
 */
static int claim_scratch(const struct spec *s, char *device, size_t size)
{
	char node[PATH_MAX] = "", params[PATH_MAX + 8];
	struct stat st;
	int err = realpath(s->scratch, node) && stat(node, &st) == 0 ? 0 : -errno;

	snprintf(device, size, "%s", node);
	snprintf(params, sizeof(params), "%s 0", node);
	if (!err)
		err = undo_note("disk", s->scratch, s->run_id);
	if (!err)
		err = devguard_mark(node, s->run_id);
	if (!err)
		err = undo_note("dm", s->holder, NULL);
	if (!err)
		err = dmdev_create(s->holder, HOLDER_SECTORS, "linear", params);
	/* It was nobody's for a moment. */
	if (!err)
		err = devguard_alone(&devguard_this_machine, st.st_rdev);
	if (err)
		cell_event("fail", "scratch disk %s: %s", s->scratch, strerror(-err));
	return err;
}

/* The scratch disk: the block device that the specification names, or a loop device over the file that it names. */
static int open_scratch(const struct spec *s, char *device, size_t size)
{
	struct stat st;
	bool direct;
	int err = -EBUSY;

	if (*s->holder)
		return claim_scratch(s, device, size);
	snprintf(device, size, "%s", s->scratch);
	if (stat(s->scratch, &st) < 0 || !S_ISREG(st.st_mode) || !st.st_size)
		return 0;
	/* Between asking and taking it somebody else may have taken it. */
	for (int i = 0; i < LOOP_TRIES && err == -EBUSY; i++) {
		err = loopdev_unused(device, size);
		if (!err)
			err = undo_note("loop", device, s->scratch);
		if (!err)
			err = loopdev_attach(device, s->scratch, &direct);
	}
	if (err)
		cell_event("fail", "a loop device over %s: %s", s->scratch, strerror(-err));
	else
		cell_knob("loop.direct_io", "1", direct ? "1" : "0");
	return err;
}

static int set_up(struct cell_run *r, const char *work_dir)
{
	const struct spec *s = r->spec;
	int err = make_groups(s);

	if (!err)
		err = open_scratch(s, r->scratch, sizeof(r->scratch));
	for (size_t i = 0; !err && i < s->n_workloads; i++)
		err = load_modules(s->workloads[i].workload);
	for (size_t i = 0; !err && i < s->n_knobs; i++)
		err = set_knob(&s->knobs[i]);
	for (size_t i = 0; !err && i < s->n_workloads; i++)
		look_at_kernel(s->workloads[i].workload);
	if (!err)
		enable_offline_reasons();
	for (size_t i = 0; !err && i < s->n_workloads; i++) {
		const struct spec_workload *w = &s->workloads[i];

		r->cells[i] = (struct cell){
			.workload = w->workload,
			.opts = w->opts,
			.run_id = s->run_id,
			.alone = s->n_workloads == 1,
			.scratch = r->scratch,
			.scratch_start = w->start_sector,
			.scratch_sectors = w->sectors,
			.work_dir = work_dir,
			.seed = s->seed,
			.deadline_ns = clock_ns() + s->setup_s * NS_PER_S,
		};
		err = w->workload->setup(&r->cells[i]);
	}
	return err;
}

static void watch_group(struct recorder_config *config, size_t *n, const char *group)
{
	static char names[RECORDER_MAX_GROUPS][GROUP_SIZE], dirs[RECORDER_MAX_GROUPS][PATH_MAX];

	if (*n == RECORDER_MAX_GROUPS)
		return;
	snprintf(names[*n], sizeof(names[*n]), "/%s", group);
	scope_path(group, dirs[*n], sizeof(dirs[*n]));
	config->groups[*n] = (struct recorder_group){ .name = names[*n], .dir = dirs[*n] };
	(*n)++;
}

/* All groups of the cell together and each alone; the root is the one that knows of all the dying. */
static void watch_groups(struct recorder_config *config, const struct spec *spec)
{
	static const char *const always[] = { "", CGROUP_PARENT, CGROUP_PARENT "/" ROLE_WORKLOAD,
					      CGROUP_PARENT "/" ROLE_BYSTANDER, CGROUP_PARENT "/" ROLE_HARNESS };
	size_t n = 0;

	for (size_t i = 0; i < sizeof(always) / sizeof(always[0]); i++)
		watch_group(config, &n, always[i]);
	for (size_t i = 0; i < spec->n_workloads; i++) {
		const struct workload *w = spec->workloads[i].workload;
		char group[GROUP_SIZE];

		name_of_group(group, sizeof(group), ROLE_WORKLOAD, w);
		if (spec->n_workloads > 1) /* else it is that of the role */
			watch_group(config, &n, group);
		if (w->group)
			watch_group(config, &n, w->group);
	}
}

/* Those of all workloads, each name once. */
static void watch_threads(struct recorder_config *config, const struct spec *spec)
{
	size_t n = 0, at;

	for (size_t i = 0; i < spec->n_workloads; i++) {
		const char *const *name = spec->workloads[i].workload->watch_threads;

		for (; name && *name && n < RECORDER_MAX_NAMES; name++) {
			for (at = 0; at < n && strcmp(config->threads[at], *name) != 0; at++)
				;
			config->threads[at] = *name;
			n += at == n;
		}
	}
}

static int start_recorder(struct cell_run *r)
{
	static char names[RECORDER_MAX_DM][64];
	struct recorder_config config = {
		.period_ms = r->spec->period_ms,
		.slab_ms = RECORDER_SLAB_MS,
		.canary_ms = r->spec->canary_ms,
		.dm_ms = DM_PERIOD_MS,
		.group_ms = GROUP_PERIOD_MS,
		.thread_ms = TASK_PERIOD_MS,
	};
	unsigned n = 0;
	int err;

	watch_groups(&config, r->spec);
	watch_threads(&config, r->spec);

	for (size_t i = 0; i < r->spec->n_workloads; i++) {
		const struct cell *c = &r->cells[i];

		for (unsigned k = 0; c->workload->dm_name && n < RECORDER_MAX_DM - 1 &&
				     c->workload->dm_name(c->opts, c->run_id, k, names[n], sizeof(names[n]));
		     k++) {
			config.dm[n] = names[n];
			n++;
		}
	}
	err = recorder_start(&r->recorder, r->box, &config);
	r->recording = !err;
	if (err)
		cell_event("fail", "recorder: %s", strerror(-err));
	else
		spawn_event(ROLE_HARNESS, "hr-recorder", r->recorder.pid);
	return err;
}

/* What the slab figures of the samples mean. They stand without it, but for their error. */
static void describe_slab(struct bb *box)
{
	struct slab_files files;
	int err;

	slab_files_of_this_machine(&files);
	err = slab_describe(box, &files);
	if (err)
		cell_event("slab-caches-failed", "%s", strerror(-err));
}

/* An observer among others: where it cannot be had the box says why, and the cell goes on. */
static void start_wqtrace(struct cell_run *r)
{
	struct wqtrace_config config = {
		.buffer_kib = r->spec->wq_trace_kib,
		.threshold_ms = r->spec->wq_trace_ms,
	};
	int err;

	if (!r->spec->wq_trace_kib)
		return;
	err = wqtrace_start(&r->wqtrace, r->box, &config);
	if (err)
		log_warn("workqueue tracepoints: %s", strerror(-err));
	else
		spawn_event(ROLE_HARNESS, "hr-wqtrace", r->wqtrace.pid);
}

static void start_line(struct cell_run *r)
{
	char mark[160];
	int64_t now;

	clock_sleep_ms(BASELINE_MS);
	now = clock_ns();
	snprintf(mark, sizeof(mark), "start line of %s at %" PRId64, r->spec->cell, now);
	recorder_mark(mark);
	atomic_store(&r->box->head->start_ns, now);
	bb_stage(r->box, BB_RUN);
	cell_event("start", "%s", r->spec->cell);
	cell_phase("run");
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = { 0 };

	return pid <= 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid;
}

/* It has ended, or its time is up. */
static void end_load(struct cell_run *r, size_t i, int64_t deadline)
{
	int rc = r->pids[i] > 0 ? wait_or_end(r->pids[i], deadline) : -EAGAIN;

	exit_event(ROLE_WORKLOAD, r->cells[i].workload->name, r->pids[i], rc);
	cell_event_with("load-end", add_workload, &r->cells[i], "%s", r->cells[i].workload->name);
	r->cells[i].run_ok = rc == 0;
	r->stuck |= rc == -EBUSY;
}

/* Take in who has ended. How many there still are, and *leaders: of them those that others follow. */
static size_t take_in(struct cell_run *r, bool *ended, int64_t deadline, size_t *leaders)
{
	size_t left = 0;

	*leaders = 0;
	for (size_t i = 0; i < r->spec->n_workloads; i++) {
		if (!ended[i] && (has_ended(r->pids[i]) || clock_ns() >= deadline)) {
			end_load(r, i, deadline);
			ended[i] = true;
		}
		left += !ended[i];
		*leaders += !ended[i] && !r->spec->workloads[i].follows;
	}
	return left;
}

static void tell_to_stop(struct cell_run *r, const char *why)
{
	if (atomic_exchange(r->stop, true))
		return;
	cell_phase("stop");
	cell_event("told-to-stop", "%s", why);
}

/*
 * All workloads, one after the other if they are to begin so, until the last has ended or their time is up. Those that
 * follow others are told to stop when these have ended, or when all have been at work together for long enough.
 */
static void run_load(struct cell_run *r)
{
	const struct spec *s = r->spec;
	int64_t begin = clock_ns(), deadline = begin + s->run_s * NS_PER_S;
	int64_t last_begin = begin + (int64_t)(s->n_workloads - 1) * s->ramp_s * NS_PER_S;
	int64_t overlap_end = s->overlap_s ? last_begin + s->overlap_s * NS_PER_S : INT64_MAX;
	bool ended[SPEC_MAX_WORKLOADS] = { false }, led = false;
	size_t leaders;
	int err;

	for (size_t i = 0; i < s->n_workloads; i++) {
		r->cells[i].deadline_ns = deadline - (KILL_WAIT_MS + TERM_WAIT_MS) * NS_PER_MS;
		r->cells[i].stop = s->workloads[i].follows ? r->stop : NULL;
		led |= !s->workloads[i].follows;
		r->pids[i] =
			start_hook(&r->cells[i], HOOK_RUN, ROLE_WORKLOAD, 0, begin + (int64_t)i * s->ramp_s * NS_PER_S);
	}
	while (take_in(r, ended, deadline, &leaders)) {
		if (led && !leaders)
			tell_to_stop(r, "all that others follow have ended");
		else if (clock_ns() >= overlap_end)
			tell_to_stop(r, "all were at work together for long enough");
		clock_sleep_ms(LOAD_LOOK_MS);
	}
	cell_phase("cool-down");
	clock_sleep_ms(COOL_DOWN_MS);
	err = wqtrace_stop(&r->wqtrace);
	if (err)
		cell_event("wq-trace-left", "%s",
			   err == -EBUSY ? "the kernel takes its time to remove the trace instance"
					 : "the follower of the workqueue tracepoints did not end");
}

/*
 * In a child with a deadline: the shrink may wait for kernel workers, and those may be what has failed. Behind the
 * proof, so that it can cost nothing; a phase of its own, because it is a load of its own.
 */
static void shrink_slab(struct cell_run *r)
{
	pid_t parent = getpid(), pid;
	struct slab_files files;
	int rc;

	cell_phase(PHASE_SHRINK);
	pid = fork();
	if (pid == 0) {
		spawn_die_with(parent);
		setpgid(0, 0);
		slab_files_of_this_machine(&files);
		_exit(slab_shrink(r->box, &files) ? 1 : 0);
	}
	rc = pid > 0 ? wait_or_end(pid, clock_ns() + SHRINK_S * NS_PER_S) : -EAGAIN;
	if (rc)
		cell_event("slab-shrink-failed", "%s", rc < 0 ? strerror(-rc) : "slabinfo could not be read");
}

static void verify_data(struct cell_run *r)
{
	int64_t deadline = clock_ns() + r->spec->verify_s * NS_PER_S;

	bb_stage(r->box, BB_VERIFY);
	cell_phase("verify");
	for (size_t i = 0; i < r->spec->n_workloads; i++) {
		char buf[EVENT_SIZE];
		struct jsonw j;
		pid_t pid;
		int rc;

		r->cells[i].deadline_ns = deadline - (KILL_WAIT_MS + TERM_WAIT_MS) * NS_PER_MS;
		r->cells[i].stop = NULL;
		pid = start_hook(&r->cells[i], HOOK_VERIFY, ROLE_HARNESS, -1000, 0);
		rc = pid > 0 ? wait_or_end(pid, deadline) : -EAGAIN;
		r->stuck |= rc == -EBUSY;
		begin_event(&j, buf, "verify");
		jsonw_str(&j, "workload", r->cells[i].workload->name);
		jsonw_bool(&j, "ok", rc == 0);
		jsonw_bool(&j, "after_run", r->cells[i].run_ok);
		jsonw_i64(&j, "status", rc);
		end_event(&j, "");
	}
}

static void keep_file(struct bb *box, const char *dir, const char *name)
{
	char path[PATH_MAX];
	struct stat st;
	char *data;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= TOOL_FILE_MAX) {
		data = malloc((size_t)st.st_size);
		if (data && read(fd, data, (size_t)st.st_size) == st.st_size)
			bb_append2(box, BB_FILE, name, strlen(name) + 1, data, (size_t)st.st_size);
		free(data);
	}
	close(fd);
}

static void keep_tool_files(struct bb *box, const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.')
			keep_file(box, dir, e->d_name);
	if (d)
		closedir(d);
}

static void tear_down(struct cell_run *r, const char *undo_log)
{
	int err = r->stuck ? -EBUSY : undo_play_within(undo_log, TEARDOWN_S);

	if (err)
		cell_event("undo-failed", "%s",
			   r->stuck	       ? "not tried: a process hangs in the kernel"
			   : err == -ETIMEDOUT ? "it was not over in time"
					       : "see the log");
}

int cell_run(const struct spec *spec, struct bb *box, const char *state_dir, const char *work_dir)
{
	struct cell_run r = { .spec = spec, .box = box };
	pid_t bystander_pid = -1;
	char undo_log[PATH_MAX];
	void *shared;
	int err;

	events_to = box;
	shared = mmap(NULL, sizeof(*r.stop), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	r.stop = shared;
	snprintf(undo_log, sizeof(undo_log), "%s/" UNDO_LOG, state_dir);
	bb_stage(box, BB_SETUP);
	cell_phase("setup");
	/* Best effort: on a machine where we may not, the record shows what became of us. */
	sysfile_write("/proc/self/oom_score_adj", "-1000");
	/* A tool whose hook has died becomes our child, so that its end can be waited for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	err = undo_open(undo_log);
	if (err)
		cell_event("fail", "undo log %s: %s", undo_log, strerror(-err));
	if (!err)
		err = set_up(&r, work_dir);
	if (!err)
		describe_slab(box);
	if (!err)
		start_wqtrace(&r);
	if (!err)
		err = start_recorder(&r);
	if (!err && spec->bystander_mib) {
		bystander_pid = fork_into(CGROUP_PARENT "/" ROLE_BYSTANDER, ROLE_BYSTANDER, "bystander", 0);
		if (bystander_pid == 0)
			bystander(spec->bystander_mib);
	}
	if (!err) {
		mlockall(MCL_CURRENT);
		start_line(&r);
		run_load(&r);
		if (r.stuck)
			cell_event("unverified", "a writer still hangs in the kernel: nothing to compare with");
		else
			verify_data(&r);
		if (!r.stuck)
			shrink_slab(&r);
	}
	wqtrace_stop(&r.wqtrace); /* where the load was never started */
	if (bystander_pid > 0) {
		int status;

		if (spawn_wait_until(bystander_pid, 0, &status))
			exit_event(ROLE_BYSTANDER, "bystander", bystander_pid, exit_code(status));
		else {
			kill(bystander_pid, SIGTERM);
			if (!spawn_wait_until(bystander_pid, clock_ns() + TERM_WAIT_MS * NS_PER_MS, &status))
				kill(bystander_pid, SIGKILL);
		}
	}
	cell_phase("teardown");
	keep_tool_files(box, work_dir);
	tear_down(&r, undo_log);
	cell_event("done", "%s", err ? strerror(-err) : "complete");
	if (r.recording && recorder_stop(&r.recorder))
		cell_event("fail", "the recorder did not stop");
	bb_stage(box, BB_DONE);
	return err;
}
