// SPDX-License-Identifier: MIT
/* `headroom doctor`: what guest runs need, what is there, and the command that mends what is not. */
#include "base/jsonw.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "commands.h"
#include "guest/qemu.h"
#include "run/needs.h"
#include "run/scenario.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PYTHON_S  20
#define JSON_SIZE 65536

static const char help[] = "usage: headroom doctor [--json] [--out DIR]\n"
			   "\n"
			   "Checks what runs in a guest need. --out is the directory that results would go to.\n"
			   "Exit status: 0 everything is there, 3 something is missing.\n";

enum level { FINE, NOTE, MISSING };

struct report {
	struct jsonw json;
	bool as_json;
	unsigned missing;
};

static void check(struct report *r, enum level level, const char *what, const char *fix, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

static void check(struct report *r, enum level level, const char *what, const char *fix, const char *fmt, ...)
{
	static const char *const words[] = { "ok", "note", "missing" };
	char detail[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	r->missing += level == MISSING;
	if (r->as_json) {
		jsonw_object(&r->json, NULL);
		jsonw_str(&r->json, "check", what);
		jsonw_str(&r->json, "state", words[level]);
		jsonw_str(&r->json, "detail", detail);
		jsonw_str(&r->json, "fix", level == MISSING ? fix : NULL);
		jsonw_object_end(&r->json);
		return;
	}
	printf("%-8s %-22s %s\n", words[level], what, detail);
	if (level == MISSING && fix)
		printf("%-8s %-22s mend: %s\n", "", "", fix);
}

static void check_programs(struct report *r)
{
	static const struct {
		const char *program, *use;
	} programs[] = {
		{ QEMU_BINARY, "runs the guests" },
		{ "mke2fs", "makes the guest's image" },
		{ "cpio", "makes the initramfs" },
		{ "modprobe", "finds the kernel modules a guest needs" },
		{ "depmod", "lists the modules of a fetched kernel" },
		{ "busybox", "the guest's shell" },
		{ "apt-get", "fetches Debian kernels (else: --kernel PATH)" },
		{ "dpkg-deb", "unpacks them" },
	};
	const struct workload *w;

	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		bool there = need_program(programs[i].program);

		check(r, there ? FINE : MISSING, programs[i].program, "make deps", "%s", programs[i].use);
	}
	for (size_t i = 0; (w = workload_nth(i)); i++)
		for (const char *const *p = w->programs; p && *p; p++)
			check(r, need_program(*p) ? FINE : MISSING, *p, "make deps", "load of workload %s", w->name);
}

static void check_python(struct report *r)
{
	static const char *const modules[] = { "jinja2", "plotly", "numpy", "scipy" };

	for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
		char code[64], what[64];
		const char *argv[] = { "/usr/bin/python3", "-c", code, NULL };
		struct spawn s = { .argv = argv, .stderr_path = "/dev/null", .timeout_s = PYTHON_S };
		int status = -1;

		/* Finding is enough: importing scipy takes seconds. */
		snprintf(code, sizeof(code), "import importlib.util as u; exit(not u.find_spec('%s'))", modules[i]);
		snprintf(what, sizeof(what), "python3-%s", modules[i]);
		if (spawn_run(&s, &status))
			status = -1;
		check(r, status == 0 ? FINE : MISSING, what, "make deps", "for the report");
	}
}

static void check_accel(struct report *r)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		check(r, NOTE, "KVM", NULL, "/dev/kvm: %s; guests are emulated (TCG), some ten times slower",
		      strerror(errno));
	else
		check(r, NOTE, "KVM", NULL,
		      "/dev/kvm opens; the first run finds out whether a guest really boots with it");
}

static void check_init(struct report *r)
{
	char init[PATH_MAX + 8];

	paths_self(init);
	strcat(init, "-init");
	check(r, access(init, X_OK) == 0 ? FINE : MISSING, "headroom-init", "make", "the guest's first process");
}

static void check_scenarios(struct report *r, const char *out)
{
	static struct scenario s;
	char dir[PATH_MAX], err[1024], what[80];
	uint64_t memory = need_memory_mib(), disk = 0;
	int disk_err = need_disk_mib(out, &disk);
	DIR *d = opendir(paths_in_home(dir, "workloads/scenarios"));
	struct dirent *e;

	check(r, FINE, "processors", NULL, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
	check(r, FINE, "memory", NULL, "%" PRIu64 " MiB available", memory);
	check(r, disk_err ? MISSING : FINE, "disk", "name another directory with --out", "%s: %" PRIu64 " MiB free%s%s",
	      out, disk, disk_err ? ": " : "", disk_err ? strerror(-disk_err) : "");
	while (d && (e = readdir(d))) {
		char *dot = strstr(e->d_name, ".ini");
		uint64_t need_disk;

		if (!dot)
			continue;
		snprintf(err, sizeof(err), "%.*s", (int)(dot - e->d_name), e->d_name);
		snprintf(what, sizeof(what), "scenario %.60s", err);
		if (scenario_load(&s, what + strlen("scenario "), err, sizeof(err))) {
			check(r, MISSING, what, "mend the file", "%s", err);
			continue;
		}
		need_disk = scenario_place(&s) / 2048;
		check(r, s.opts.memory < memory && need_disk < disk ? FINE : NOTE, what, NULL,
		      "needs %" PRIu64 " MiB of memory and up to %" PRIu64 " MiB of disk%s", s.opts.memory, need_disk,
		      s.opts.memory >= memory ? ": too little memory here"
		      : need_disk >= disk     ? ": too little disk here"
					      : "");
	}
	if (d)
		closedir(d);
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "out", required_argument, NULL, 'o' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	static char json[JSON_SIZE];
	struct report r = { 0 };
	const char *out = "results";
	size_t len;
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			r.as_json = true;
			break;
		case 'o':
			out = optarg;
			break;
		case 'h':
			fputs(help, stdout);
			return EXIT_DONE;
		default:
			return EXIT_USAGE;
		}
	}
	if (optind != argc) {
		log_err("doctor: takes no argument ('%s')", argv[optind]);
		return EXIT_USAGE;
	}
	jsonw_init(&r.json, json, sizeof(json));
	jsonw_object(&r.json, NULL);
	jsonw_array(&r.json, "checks");
	check_programs(&r);
	check_python(&r);
	check_init(&r);
	check_accel(&r);
	check_scenarios(&r, out);
	jsonw_array_end(&r.json);
	jsonw_bool(&r.json, "ready", r.missing == 0);
	jsonw_object_end(&r.json);
	if (r.as_json) {
		len = jsonw_line(&r.json);
		fwrite(json, 1, len, stdout);
	} else {
		printf("\n%s\n", r.missing ? "not ready: see above" : "ready: headroom run snapshot");
	}
	return r.missing ? EXIT_NEED : EXIT_DONE;
}
