// SPDX-License-Identifier: MIT
#ifndef HEADROOM_MODULE_H
#define HEADROOM_MODULE_H

/*
 * Load a kernel module and what it depends on, by libkmod. One that is loaded already or built in is fine. A kernel
 * that has no list of modules at all is taken to have everything built in: whoever needs the feature finds out.
 * A name that ends in '?' may be missing. Returns 0 or -errno.
 */
int module_load(const char *name);

#endif
