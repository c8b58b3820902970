// SPDX-License-Identifier: MIT
/*
 * Where the project's own files are: scripts, scenarios, reports. The tree that the program was built in, or
 * $HEADROOM_HOME.
 */
#ifndef HEADROOM_PATHS_H
#define HEADROOM_PATHS_H

/* The root of the tree, without a trailing slash. Found once; "" if there is none (inside the guest). */
const char *paths_home(void);
/* The file `relative` of the tree, into buf (PATH_MAX bytes). Returns buf. */
char *paths_in_home(char *buf, const char *relative);
/* Kernels, images and probes are kept here: $HEADROOM_CACHE or build/cache of the tree. */
char *paths_cache(char *buf);
/* The running program's own file. */
char *paths_self(char *buf);

#endif
