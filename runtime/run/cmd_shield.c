// SPDX-License-Identifier: MIT
/*
 * `headroom shield`: the protections of a process in the write-back path, for one that does not take them itself.
 *
 * We become the command (execve(2)), so that its pid, its exit status and the signals it gets are its own. A second
 * process, nobody's child by then, follows it into its first instruction, locks its memory there, looks what is in
 * force, and looks again when its threads have been started.
 */
#include "base/clock.h"
#include "base/execlock.h"
#include "base/jsonw.h"
#include "base/log.h"
#include "base/opts.h"
#include "commands.h"
#include "engine/protect.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_CANNOT_RUN 126 /* as shells have it */
#define EXIT_NOT_FOUND	127
#define MAX_SETTLE_S	3600

static const char help[] =
	"usage: headroom shield [options] -- COMMAND [ARGUMENT...]\n"
	"       headroom shield [options] --pid PID\n"
	"\n"
	"Runs a daemon that storage depends on (for NBD, iSCSI, multipath, FUSE, swap) so that it does not wait for\n"
	"memory that only it can free: IO_FLUSHER for every thread, locked memory, and not the OOM killer's. With\n"
	"--pid it only looks what a process has that runs already.\n"
	"\n"
	"The command becomes this very process. It has to stay in the foreground: a process that is forked off has\n"
	"no locked memory (proc(5), mlockall(2)).\n"
	"\n"
	"  --without LIST   leave out some of: io-flusher, mlock, oom-protect\n"
	"  --require        do not run a command for which one that was not left out is not in force\n"
	"  --settle S       look again after so many seconds, when its threads are there, and tell then (1)\n"
	"  --report FILE    tell it there (standard error; --pid: standard output)\n"
	"  --json           as a line of JSON\n"
	"\n"
	"IO_FLUSHER needs CAP_SYS_RESOURCE, a lower oom_score_adj too; locked memory CAP_IPC_LOCK or ulimit -l.\n"
	"\n"
	"Exit status: the command's; 2 usage, 3 refused: nothing was run, 126 it cannot be run, 127 there is no such\n"
	"command. With --pid: 0 all are in force, 1 one is not, 3 there is no such process.\n";

struct request {
	char **command;
	uint64_t pid, settle_s;
	unsigned without; /* PROTECT_BIT()s */
	bool look, require, json;
	const char *report;
};

static unsigned wanted(const struct request *r)
{
	return PROTECT_ALL & ~r->without;
}

/* --- Telling --- */

static bool all_in_force(const struct request *r, const struct protect_report *p)
{
	for (unsigned i = 0; i < PROTECT_KINDS; i++)
		if (wanted(r) & PROTECT_BIT(i) && p->of[i].seen != PROTECT_ON)
			return false;
	return true;
}

static void put_text(FILE *f, pid_t pid, const char *name, const struct protect_report *p)
{
	fprintf(f, "headroom: shield: %s (pid %d):", name, (int)pid);
	for (unsigned i = 0; i < PROTECT_KINDS; i++)
		fprintf(f, "%s %s %s (%s)", i ? ";" : "", protect_name(i), protect_state_name(p->of[i].seen),
			p->of[i].evidence);
	fputc('\n', f);
}

static void put_json(FILE *f, const struct request *r, pid_t pid, const char *name, const struct protect_report *p)
{
	char buf[4096];
	struct jsonw j;

	jsonw_init(&j, buf, sizeof(buf));
	jsonw_object(&j, NULL);
	jsonw_str(&j, "command", name);
	jsonw_u64(&j, "pid", (uint64_t)pid);
	jsonw_u64(&j, "threads", p->threads);
	jsonw_bool(&j, "in_force", all_in_force(r, p));
	jsonw_object(&j, "protections");
	for (unsigned i = 0; i < PROTECT_KINDS; i++) {
		jsonw_object(&j, protect_name(i));
		jsonw_str(&j, "state", protect_state_name(p->of[i].seen));
		jsonw_str(&j, "evidence", p->of[i].evidence);
		jsonw_object_end(&j);
	}
	jsonw_object_end(&j);
	jsonw_object_end(&j);
	fwrite(buf, 1, jsonw_line(&j), f);
}

static void tell(const struct request *r, pid_t pid, const char *name, const struct protect_report *p)
{
	FILE *f = r->report ? fopen(r->report, "we") : r->look ? stdout : stderr;

	if (!f) {
		log_err("shield: %s: %s", r->report, strerror(errno));
		return;
	}
	if (r->json)
		put_json(f, r, pid, name, p);
	else
		put_text(f, pid, name, p);
	if (r->report)
		fclose(f);
}

static void proc_of(pid_t pid, char path[static 32])
{
	snprintf(path, 32, "/proc/%d", (int)pid);
}

static int look(const struct request *r)
{
	struct protect_report p = { 0 };
	char proc[32], path[48], name[32] = "?";
	int fd, err;

	proc_of((pid_t)r->pid, proc);
	err = protect_attest(proc, &p);
	if (err) {
		log_err("shield: %s: %s", proc, strerror(-err));
		return EXIT_NEED;
	}
	snprintf(path, sizeof(path), "%s/comm", proc);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t n = read(fd, name, sizeof(name) - 1);

		name[n > 0 ? n - 1 : 0] = 0;
		close(fd);
	}
	tell(r, (pid_t)r->pid, name, &p);
	return all_in_force(r, &p) ? EXIT_DONE : EXIT_EXPECTATION;
}

/* --- Who follows it --- */

/* What the two tell each other before the command is there. */
struct handshake {
	int to_follower[2], to_command[2];
};

static void refuse(const struct request *r, pid_t pid, const struct protect_report *p)
{
	for (unsigned i = 0; i < PROTECT_KINDS; i++)
		if (wanted(r) & PROTECT_BIT(i) && p->of[i].seen != PROTECT_ON)
			log_err("shield: %s is not in force: %s", protect_name(i), p->of[i].evidence);
	execlock_end(pid, EXIT_NEED);
}

static void settle(const struct request *r, pid_t pid, struct protect_report *p)
{
	struct protect_report first = *p;
	char proc[32];

	clock_sleep_ms((int64_t)r->settle_s * 1000);
	proc_of(pid, proc);
	if (protect_attest(proc, p)) {
		log_warn("shield: %s (pid %d) has ended, or gone to the background, where its memory is not locked: "
			 "what follows is of its first moment",
			 r->command[0], (int)pid);
		*p = first;
	}
	tell(r, pid, r->command[0], p);
}

static void follow(const struct request *r, const struct handshake *h, pid_t pid)
{
	struct protect_report p = { 0 };
	char proc[32];
	int err, answer;

	if (read(h->to_follower[0], &p, sizeof(p)) != sizeof(p))
		return; /* it has ended */
	answer = execlock_attach(pid);
	if (write(h->to_command[1], &answer, sizeof(answer)) != sizeof(answer))
		return;
	if (!answer && execlock_wait(pid))
		return; /* what was to become the command has said why not */
	p.of[PROTECT_MLOCK].asked = wanted(r) & PROTECT_BIT(PROTECT_MLOCK);
	if (p.of[PROTECT_MLOCK].asked) {
		err = answer ? answer : execlock_lock(pid);
		p.of[PROTECT_MLOCK].err = err;
	}
	proc_of(pid, proc);
	protect_attest(proc, &p);
	if (answer) {
		settle(r, pid, &p);
		return;
	}
	if (r->require && !all_in_force(r, &p)) {
		refuse(r, pid, &p);
		return;
	}
	execlock_let_go(pid);
	settle(r, pid, &p);
}

/* A process that is no child of what the command will be, which would not reap it. Its pid, or -errno. */
static pid_t start_follower(const struct request *r, const struct handshake *h)
{
	pid_t pid = getpid(), between = fork(), follower = -1;

	if (between < 0)
		return -errno;
	if (!between) {
		follower = fork();
		if (!follower) {
			close(h->to_follower[1]);
			close(h->to_command[0]);
			close(STDIN_FILENO); /* the command's; who waits for its output must not wait for us */
			close(STDOUT_FILENO);
			follow(r, h, pid);
			_exit(0);
		}
		if (write(h->to_command[1], &follower, sizeof(follower)) != sizeof(follower))
			_exit(1);
		_exit(0);
	}
	while (waitpid(between, NULL, 0) < 0 && errno == EINTR)
		;
	if (read(h->to_command[0], &follower, sizeof(follower)) != sizeof(follower) || follower < 0)
		return -EAGAIN;
	return follower;
}

/* --- What becomes the command --- */

static int run(const struct request *r)
{
	struct protect_report p;
	struct handshake h;
	pid_t follower;
	int answer = 0;

	if (pipe2(h.to_follower, O_CLOEXEC) < 0 || pipe2(h.to_command, O_CLOEXEC) < 0) {
		log_err("shield: pipe: %s", strerror(errno));
		return EXIT_BROKEN;
	}
	follower = start_follower(r, &h);
	if (follower < 0) {
		log_err("shield: fork: %s", strerror(-follower));
		return EXIT_BROKEN;
	}
	/* Where Yama lets only parents trace; elsewhere there is no such call, and no need. */
	prctl(PR_SET_PTRACER, follower, 0, 0, 0);
	protect_apply(wanted(r) & ~PROTECT_BIT(PROTECT_MLOCK), &p);
	close(h.to_follower[0]);
	close(h.to_command[1]);
	if (write(h.to_follower[1], &p, sizeof(p)) != sizeof(p) ||
	    read(h.to_command[0], &answer, sizeof(answer)) != sizeof(answer)) {
		log_err("shield: the process that was to lock the command's memory has ended");
		return EXIT_BROKEN;
	}
	if (answer && r->require && wanted(r) & PROTECT_BIT(PROTECT_MLOCK)) {
		log_err("shield: mlock is not in force: ptrace: %s", strerror(-answer));
		return EXIT_NEED;
	}
	execvp(r->command[0], r->command);
	log_err("shield: %s: %s", r->command[0], strerror(errno));
	return errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN;
}

/* --- Options --- */

static int parse_without(char *list, struct request *r)
{
	char *rest = NULL;

	for (const char *w = strtok_r(list, ",", &rest); w; w = strtok_r(NULL, ",", &rest)) {
		enum protect_kind kind;

		if (!protect_find(w, &kind)) {
			log_err("shield: --without '%s': must be io-flusher, mlock or oom-protect", w);
			return EXIT_USAGE;
		}
		r->without |= PROTECT_BIT(kind);
	}
	return 0;
}

static int parse_number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	if (parse_u64(text, min, max, value) == 0)
		return 0;
	log_err("shield: --%s '%s': must be a whole number, %" PRIu64 " to %" PRIu64, option, text, min, max);
	return EXIT_USAGE;
}

static int check(const struct request *r)
{
	if (r->look == !*r->command)
		return 0;
	log_err("shield: needs either a COMMAND or --pid PID (headroom shield --help)");
	return EXIT_USAGE;
}

static int parse(int argc, char **argv, struct request *r)
{
	static const struct option options[] = {
		{ "without", required_argument, NULL, 'w' }, { "require", no_argument, NULL, 'r' },
		{ "settle", required_argument, NULL, 's' },  { "report", required_argument, NULL, 'f' },
		{ "json", no_argument, NULL, 'j' },	     { "pid", required_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },	     { 0 },
	};
	int o, rc = 0;

	/* '+': what follows the command's name is the command's. */
	while (!rc && (o = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (o) {
		case 'w':
			rc = parse_without(optarg, r);
			break;
		case 'r':
			r->require = true;
			break;
		case 's':
			rc = parse_number("settle", optarg, 0, MAX_SETTLE_S, &r->settle_s);
			break;
		case 'f':
			r->report = optarg;
			break;
		case 'j':
			r->json = true;
			break;
		case 'p':
			r->look = true;
			rc = parse_number("pid", optarg, 1, INT_MAX, &r->pid);
			break;
		case 'h':
			fputs(help, stdout);
			return -1;
		default:
			return EXIT_USAGE;
		}
	}
	r->command = argv + optind;
	return rc ? rc : check(r);
}

int cmd_shield(int argc, char **argv)
{
	struct request r = { .settle_s = 1 };
	int rc = parse(argc, argv, &r);

	if (rc)
		return rc < 0 ? EXIT_DONE : rc;
	return r.look ? look(&r) : run(&r);
}
