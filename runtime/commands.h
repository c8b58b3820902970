// SPDX-License-Identifier: MIT
/* The sub-commands, each `int cmd_NAME(argc, argv)` with argv[0] its own name, and what they return. */
#ifndef HEADROOM_COMMANDS_H
#define HEADROOM_COMMANDS_H

enum {
	EXIT_DONE = 0,
	EXIT_EXPECTATION = 1, /* it ran, and something was not as expected */
	EXIT_USAGE = 2,
	EXIT_NEED = 3,	 /* something that is needed is not there; nothing was run */
	EXIT_BROKEN = 4, /* our own failure */
	EXIT_INTERRUPTED = 130,
};

int cmd_run(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_copy(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_snap(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_shield(int argc, char **argv);
int cmd_guest(int argc, char **argv);
int cmd_core_helper(int argc, char **argv);

#endif
