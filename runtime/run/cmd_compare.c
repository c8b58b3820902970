// SPDX-License-Identifier: MIT
/* `headroom compare`: hands over to the report program, which reads files and nothing else. */
#include "commands.h"
#include "run/run.h"

int cmd_compare(int argc, char **argv)
{
	(void)argc;
	return report_call((const char *const *)argv + 1);
}
