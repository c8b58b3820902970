// SPDX-License-Identifier: MIT
#include "guest/provision.h"

#include "base/log.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "commands.h"
#include "guest/qemu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KERNEL_TIMEOUT_S 5400 /* --kernel debug is built; the script bounds each of its steps */
#define IMAGE_TIMEOUT_S	 300
#define PROBE_S		 10 /* a guest under working KVM takes one or two */
#define MAX_ARGS	 64
#define OUTPUT_SIZE	 (4 * PATH_MAX)

/* The value of KEY=VALUE in the script's output, into buf. An absent key leaves it empty. */
static void take(const char *output, const char *key, char *buf, size_t size)
{
	size_t len = strlen(key);

	buf[0] = '\0';
	for (const char *line = output; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		if (strncmp(line, key, len) == 0 && line[len] == '=') {
			snprintf(buf, size, "%.*s", (int)strcspn(line + len + 1, "\n"), line + len + 1);
			return;
		}
	}
}

static int run_script(const char *script, const char *const *argv, int timeout_s, char *output)
{
	struct spawn s = { .argv = argv, .out = output, .out_size = OUTPUT_SIZE, .timeout_s = timeout_s };
	int status, err = spawn_run(&s, &status);

	if (err) {
		log_err("%s: %s", script, strerror(-err));
		return EXIT_BROKEN;
	}
	if (status == SPAWN_INTERRUPTED)
		return EXIT_INTERRUPTED;
	if (status == SPAWN_TIMEOUT) {
		log_err("%s: not done after %d s", script, timeout_s);
		return EXIT_NEED;
	}
	/* The scripts say themselves what is wrong, and use our exit codes. */
	return status == 0 || status == EXIT_USAGE || status == EXIT_NEED ? status : EXIT_BROKEN;
}

int provision_kernel(struct kernel *k, const char *spec, const char *modules)
{
	char script[PATH_MAX], cache[PATH_MAX], output[OUTPUT_SIZE];
	const char *argv[MAX_ARGS] = { paths_in_home(script, "runtime/guest/kernel.sh"), "--cache", paths_cache(cache),
				       spec };
	int rc;

	if (modules) {
		argv[4] = "--modules";
		argv[5] = modules;
	}
	rc = run_script("kernel.sh", argv, KERNEL_TIMEOUT_S, output);
	if (rc)
		return rc;
	memset(k, 0, sizeof(*k));
	snprintf(k->spec, sizeof(k->spec), "%s", spec);
	take(output, "version", k->version, sizeof(k->version));
	take(output, "vmlinuz", k->vmlinuz, sizeof(k->vmlinuz));
	take(output, "vmlinux", k->boot, sizeof(k->boot));
	if (!*k->boot)
		snprintf(k->boot, sizeof(k->boot), "%s", k->vmlinuz);
	take(output, "modules", k->modules, sizeof(k->modules));
	take(output, "config", k->config, sizeof(k->config));
	take(output, "source", k->source, sizeof(k->source));
	if (*k->version && *k->vmlinuz)
		return 0;
	log_err("kernel.sh: no version or no kernel in its answer");
	return EXIT_BROKEN;
}

static void add_all(const char **argv, size_t *n, const char *flag, const char *const *values)
{
	for (; values && *values; values++) {
		bool there = false;

		for (size_t i = 0; i + 1 < *n; i++)
			there |= strcmp(argv[i], flag) == 0 && strcmp(argv[i + 1], *values) == 0;
		if (there || *n + 3 > MAX_ARGS)
			continue;
		argv[(*n)++] = flag;
		argv[(*n)++] = *values;
	}
}

int provision_image(struct image *img, const struct kernel *k, const struct spec_workload *workloads, size_t n)
{
	/* The last for cells on metal, which a guest can be as well. */
	static const char *const guest_modules[] = { "pvpanic?", "pvpanic-pci?", "pvpanic-mmio?", "loop?", NULL };
	char script[PATH_MAX], cache[PATH_MAX], self[PATH_MAX], init[PATH_MAX], output[OUTPUT_SIZE];
	const char *argv[MAX_ARGS + 1] = {
		paths_in_home(script, "runtime/guest/image.sh"),
		"--cache",
		paths_cache(cache),
		"--kernel-version",
		k->version,
		"--modules",
		k->modules,
		"--headroom",
		paths_self(self),
		"--init",
		init,
	};
	size_t n_args = 11;
	int rc;

	snprintf(init, sizeof(init), "%s-init", self);
	add_all(argv, &n_args, "--module", guest_modules);
	for (size_t i = 0; i < n; i++) {
		add_all(argv, &n_args, "--module", workloads[i].workload->modules);
		add_all(argv, &n_args, "--program", workloads[i].workload->programs);
	}
	rc = run_script("image.sh", argv, IMAGE_TIMEOUT_S, output);
	if (rc)
		return rc;
	take(output, "initramfs", img->initramfs, sizeof(img->initramfs));
	take(output, "image", img->image, sizeof(img->image));
	return *img->initramfs && *img->image ? 0 : EXIT_BROKEN;
}

/* Boot the guest's own kernel and init, which says "probe ok" and powers off. */
static bool kvm_boots(const struct kernel *k, const struct image *img)
{
	char console[PATH_MAX], text[65536], path[PATH_MAX];
	struct guest_config g = {
		.accel = "kvm",
		.cpus = 1,
		.memory_mib = 256,
		.kernel = k->boot,
		.initramfs = img->initramfs,
		.console_log = console,
		.cmdline = "console=ttyS0 panic=-1 headroom.probe",
		.limits = { PROBE_S, PROBE_S, PROBE_S },
	};
	struct ending ending;
	bool ok;

	paths_cache(path);
	snprintf(console, sizeof(console), "%s/kvm-probe.%d", path, getpid());
	ok = guest_run(&g, NULL, NULL, NULL, &ending) == 0 && sysfile_read(console, text, sizeof(text)) > 0 &&
	     strstr(text, "probe ok");
	unlink(console);
	snprintf(path, sizeof(path), "%s.qemu", console);
	unlink(path);
	return ok;
}

static void decide(struct accel *a, const struct kernel *k, const struct image *img)
{
	strcpy(a->name, "tcg");
	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		snprintf(a->reason, sizeof(a->reason), "/dev/kvm: %s", strerror(errno));
		return;
	}
	log_info("finding out whether KVM works here (at most %d s, once)", PROBE_S);
	if (kvm_boots(k, img)) {
		strcpy(a->name, "kvm");
		snprintf(a->reason, sizeof(a->reason), "a guest booted under KVM");
	} else {
		snprintf(a->reason, sizeof(a->reason), "/dev/kvm opens, but no guest booted with it in %d s", PROBE_S);
	}
}

int provision_accel(struct accel *a, const struct kernel *k, const struct image *img, const char *force)
{
	char cache[PATH_MAX], path[PATH_MAX], text[256], boot_id[64] = "";
	char *newline;

	if (force) {
		snprintf(a->name, sizeof(a->name), "%s", force);
		snprintf(a->reason, sizeof(a->reason), "asked for");
		return 0;
	}
	/* The answer holds for this boot of this machine: the file's first line says which. */
	sysfile_read("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
	snprintf(path, sizeof(path), "%s/accel", paths_cache(cache));
	if (sysfile_read(path, text, sizeof(text)) > 0 && strncmp(text, boot_id, strlen(boot_id)) == 0 &&
	    (newline = strchr(text, '\n')) && strlen(newline) > 5) {
		snprintf(a->name, sizeof(a->name), "%.3s", newline + 1);
		snprintf(a->reason, sizeof(a->reason), "%s", newline + 5);
		return 0;
	}
	decide(a, k, img);
	if (interrupted)
		return EXIT_INTERRUPTED;
	snprintf(text, sizeof(text), "%s\n%s %s\n", boot_id, a->name, a->reason);
	sysfile_mkdirs(cache);
	if (sysfile_replace(path, text, strlen(text)))
		log_dbg("could not remember the accelerator in %s", path);
	return 0;
}
