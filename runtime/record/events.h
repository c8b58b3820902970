// SPDX-License-Identifier: MIT
#ifndef HEADROOM_EVENTS_H
#define HEADROOM_EVENTS_H

/* headroom events [--kind K,K] [--summary] FILE|-: classify a saved kernel log. Returns the exit code. */
int cmd_events(int argc, char **argv);

#endif
