// SPDX-License-Identifier: MIT
#include "base/module.h"

#include <errno.h>
#include <libkmod.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static int have_module_list(void)
{
	struct utsname uts;
	char path[256];

	uname(&uts);
	snprintf(path, sizeof(path), "/lib/modules/%s/modules.dep.bin", uts.release);
	return access(path, R_OK) == 0;
}

int module_load(const char *name)
{
	char plain[64];
	size_t len = strcspn(name, "?");
	int optional = name[len] == '?', err;
	struct kmod_list *list = NULL, *item;
	struct kmod_ctx *ctx;

	if (!have_module_list())
		return 0;
	if (len >= sizeof(plain))
		return -ENAMETOOLONG;
	memcpy(plain, name, len);
	plain[len] = '\0';
	ctx = kmod_new(NULL, NULL);
	if (!ctx)
		return -ENOMEM;
	err = kmod_module_new_from_lookup(ctx, plain, &list);
	if (!err && !list)
		err = -ENOENT;
	kmod_list_foreach (item, list) {
		struct kmod_module *mod = kmod_module_get_module(item);

		if (!err)
			err = kmod_module_probe_insert_module(mod, 0, NULL, NULL, NULL, NULL);
		kmod_module_unref(mod);
	}
	kmod_module_unref_list(list);
	kmod_unref(ctx);
	return optional && err == -ENOENT ? 0 : err;
}
