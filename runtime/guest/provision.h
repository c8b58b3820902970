// SPDX-License-Identifier: MIT
/* What a guest is made of: a kernel, its initramfs and image, and the accelerator that really works here. */
#ifndef HEADROOM_PROVISION_H
#define HEADROOM_PROVISION_H

#include "run/spec.h"

#include <limits.h>
#include <stdbool.h>

struct kernel {
	char spec[PATH_MAX]; /* as asked for */
	char version[128];   /* uname -r */
	char vmlinuz[PATH_MAX];
	char boot[PATH_MAX];	/* what a guest is started from: the same without its compression, or vmlinuz */
	char modules[PATH_MAX]; /* root of lib/modules/VERSION; "" when everything is built in */
	char config[PATH_MAX];	/* its configuration; "" when not known */
	char source[512];	/* package and suite, or the path */
};

struct image {
	char initramfs[PATH_MAX], image[PATH_MAX];
};

struct accel {
	char name[8];	  /* "kvm" or "tcg" */
	char reason[160]; /* why not the other */
};

/*
 * All of these return an exit code of the program (0, EXIT_NEED, EXIT_BROKEN, EXIT_INTERRUPTED); what is wrong has
 * been said on stderr. Progress of a download goes there too.
 */

/* Find or fetch the kernel that `spec` names. `modules`: root of a module tree for a bare bzImage, or NULL. */
int provision_kernel(struct kernel *k, const char *spec, const char *modules);
/* Make (or find in the cache) the image with all that the scenario's workloads need. */
int provision_image(struct image *i, const struct kernel *k, const struct spec_workload *workloads, size_t n);
/*
 * Decide once, and remember in the cache, whether KVM boots a guest here: a device that opens is not enough (nested
 * hosts hang the guest in early boot). `force`: "kvm", "tcg" or NULL.
 */
int provision_accel(struct accel *a, const struct kernel *k, const struct image *i, const char *force);

#endif
