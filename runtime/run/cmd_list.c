// SPDX-License-Identifier: MIT
/* `headroom list scenarios|workloads|mitigations|kernels`. */
#include "base/jsonw.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "commands.h"
#include "run/mitigation.h"
#include "run/scenario.h"

#include <dirent.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNEL_LIST_S 60
#define JSON_SIZE     (256 * 1024)

static const char help[] = "usage: headroom list scenarios|workloads|mitigations|kernels [--json]\n"
			   "\n"
			   "  scenarios    scenario files that 'headroom run' takes by name\n"
			   "  workloads    what scenarios are made of, with every option\n"
			   "  mitigations  the documented fixes that arms switch, and the knob of each\n"
			   "  kernels      kernels in the cache, and the versions that --kernel knows\n";

static char json_buf[JSON_SIZE];

static int is_scenario(const struct dirent *e)
{
	size_t len = strlen(e->d_name);

	return len > 4 && strcmp(e->d_name + len - 4, ".ini") == 0;
}

static void list_scenarios(struct jsonw *j)
{
	static struct scenario s;
	struct dirent **files;
	char dir[PATH_MAX], err[1024];
	int n = scandir(paths_in_home(dir, "workloads/scenarios"), &files, is_scenario, alphasort);

	for (int i = 0; i < n; i++) {
		char name[256];

		snprintf(name, sizeof(name), "%.*s", (int)(strlen(files[i]->d_name) - 4), files[i]->d_name);
		if (scenario_load(&s, name, err, sizeof(err))) {
			log_warn("%s", err);
		} else if (j) {
			jsonw_object(j, NULL);
			jsonw_str(j, "name", s.name);
			jsonw_str(j, "summary", s.summary);
			jsonw_u64(j, "memory_mib", s.opts.memory);
			jsonw_u64(j, "cpus", s.opts.cpus);
			jsonw_str(j, "arms", s.default_arms);
			jsonw_object_end(j);
		} else {
			printf("%-28s %5" PRIu64 " MiB  %s\n", s.name, s.opts.memory, s.summary);
		}
		free(files[i]);
	}
	if (n >= 0)
		free(files);
}

static void list_workloads(struct jsonw *j)
{
	const struct workload *w;

	for (size_t i = 0; (w = workload_nth(i)); i++) {
		if (j) {
			jsonw_object(j, NULL);
			jsonw_str(j, "name", w->name);
			jsonw_str(j, "summary", w->summary);
			jsonw_array(j, "exercises");
			for (const char *const *x = w->exercises; x && *x; x++)
				jsonw_str(j, NULL, *x);
			jsonw_array_end(j);
			jsonw_array(j, "options");
		} else {
			printf("%s: %s\n", w->name, w->summary);
		}
		for (const struct opt *o = w->opts; o->name; o++) {
			if (j) {
				jsonw_object(j, NULL);
				jsonw_str(j, "name", o->name);
				jsonw_str(j, "default", o->def);
				jsonw_str(j, "unit", o->unit);
				jsonw_str(j, "help", o->help);
				jsonw_object_end(j);
			} else {
				printf("    %-16s %s (default %s%s%s", o->name, o->help, o->def, o->unit ? " " : "",
				       o->unit ? o->unit : "");
				for (const char *const *c = o->choices; c && *c; c++)
					printf("%s%s", c == o->choices ? "; " : ", ", *c);
				printf(")\n");
			}
		}
		if (j) {
			jsonw_array_end(j);
			jsonw_object_end(j);
		}
	}
}

/* How it is switched: its files, or the option of its workload. */
static void print_mitigation(const struct workload *w, const struct mitigation *m)
{
	printf("%s (%s, seed %s): %s\n", m->name, w->name, m->seed, m->summary);
	if (m->gone) {
		printf("    cannot be switched: %s() is gone from the kernel since %s\n", m->gone, m->since);
		return;
	}
	for (unsigned i = 0; i < mitigation_knobs(m); i++)
		if (m->knobs[i].path)
			printf("    %s\n", m->knobs[i].path);
	if (m->option)
		printf("    option %s.%s\n", w->name, m->option);
	if (m->boot)
		printf("    kernel parameter %s=\n", m->boot);
	printf("    off = %s, on = %s; other values: %s%s%s\n", m->off, m->on, m->value_help,
	       m->since ? "; there since " : "", m->since ? m->since : "");
}

static void put_mitigation(struct jsonw *j, const struct workload *w, const struct mitigation *m)
{
	jsonw_object(j, NULL);
	jsonw_str(j, "name", m->name);
	jsonw_str(j, "workload", w->name);
	jsonw_str(j, "summary", m->summary);
	jsonw_str(j, "seed", m->seed);
	jsonw_bool(j, "switchable", mitigation_switchable(m));
	jsonw_array(j, "knobs");
	for (unsigned i = 0; i < mitigation_knobs(m); i++) {
		jsonw_object(j, NULL);
		jsonw_str(j, "name", m->knobs[i].name);
		jsonw_str(j, "path", m->knobs[i].path);
		jsonw_object_end(j);
	}
	jsonw_array_end(j);
	jsonw_str(j, "option", m->option);
	jsonw_str(j, "boot", m->boot);
	jsonw_str(j, "gone", m->gone);
	jsonw_str(j, "off", m->off);
	jsonw_str(j, "on", m->on);
	jsonw_str(j, "since", m->since);
	jsonw_object_end(j);
}

static void list_mitigations(struct jsonw *j)
{
	const struct workload *w;

	for (size_t i = 0; (w = workload_nth(i)); i++) {
		for (const struct mitigation *m = w->mitigations; m && m->name; m++) {
			if (j)
				put_mitigation(j, w, m);
			else
				print_mitigation(w, m);
		}
	}
}

static int list_kernels(struct jsonw *j)
{
	static char out[65536];
	char script[PATH_MAX], cache[PATH_MAX], *rest = out, *line;
	const char *argv[] = { paths_in_home(script, "runtime/guest/kernel.sh"), "--cache", paths_cache(cache),
			       "--list", NULL };
	struct spawn s = { .argv = argv, .out = out, .out_size = sizeof(out), .timeout_s = KERNEL_LIST_S };
	int status;

	if (spawn_run(&s, &status) || status != 0)
		return EXIT_BROKEN;
	while ((line = strsep(&rest, "\n"))) {
		if (!*line)
			continue;
		if (j)
			jsonw_str(j, NULL, line);
		else
			printf("%s\n", line);
	}
	return EXIT_DONE;
}

int cmd_list(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	bool json = false;
	struct jsonw j, *to = NULL;
	const char *what;
	int c, rc = EXIT_DONE;
	size_t len;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'h') {
			fputs(help, stdout);
			return EXIT_DONE;
		}
		json |= c == 'j';
		if (c == '?')
			return EXIT_USAGE;
	}
	what = argc - optind == 1 ? argv[optind] : "";
	if (json) {
		jsonw_init(&j, json_buf, sizeof(json_buf));
		jsonw_array(&j, NULL);
		to = &j;
	}
	if (strcmp(what, "scenarios") == 0) {
		list_scenarios(to);
	} else if (strcmp(what, "workloads") == 0) {
		list_workloads(to);
	} else if (strcmp(what, "mitigations") == 0) {
		list_mitigations(to);
	} else if (strcmp(what, "kernels") == 0) {
		rc = list_kernels(to);
	} else {
		log_err("list '%s': must be one of scenarios, workloads, mitigations, kernels", what);
		return EXIT_USAGE;
	}
	if (json && rc == EXIT_DONE) {
		jsonw_array_end(&j);
		len = jsonw_line(&j);
		fwrite(json_buf, 1, len, stdout);
	}
	return rc;
}
