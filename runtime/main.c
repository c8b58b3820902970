// SPDX-License-Identifier: MIT
#include "base/log.h"
#include "commands.h"
#include "record/events.h"

#include <stdio.h>
#include <string.h>

#ifndef HEADROOM_VERSION
#define HEADROOM_VERSION "unknown"
#endif

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help; /* NULL: not for people */
} commands[] = {
	{ "doctor", cmd_doctor, "what this machine can run, and the reason for each thing it can't" },
	{ "list", cmd_list, "scenarios, workloads, mitigations, kernels" },
	{ "run", cmd_run, "run scenarios under their arms, in guests, and report" },
	{ "resume", cmd_resume, "go on with a run that was cut off" },
	{ "compare", cmd_compare, "lay runs side by side: HTML, Markdown, JSON" },
	{ "events", cmd_events, "classify a saved kernel log: one JSON line an event" },
	{ "copy", cmd_copy, "copy a file or a device through the copy engine" },
	{ "serve", cmd_serve, "a file or a device over NBD, and snapshots of it" },
	{ "snap", cmd_snap, "make, delete and merge the snapshots of a server that runs" },
	{ "shield", cmd_shield, "run a daemon that storage depends on so that it waits for no memory of its own" },
	{ "guest", cmd_guest, NULL },
	{ "core-helper", cmd_core_helper, NULL },
};

static void print_help(FILE *to)
{
	fprintf(to, "usage: headroom COMMAND [arguments]        (headroom COMMAND --help says more)\n\n"
		    "Finds out how much memory headroom a Linux storage stack needs before it falls over,\n"
		    "and what each known mitigation buys.\n\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (commands[i].help)
			fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
	fprintf(to, "\nA first run: headroom run snapshot\n");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
		print_help(stdout);
		return EXIT_DONE;
	}
	if (strcmp(name, "--version") == 0) {
		printf("headroom %s\n", HEADROOM_VERSION);
		return EXIT_DONE;
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	if (*name)
		log_err("unknown command '%s'", name);
	print_help(stderr);
	return EXIT_USAGE;
}
