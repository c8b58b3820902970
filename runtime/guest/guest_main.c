// SPDX-License-Identifier: MIT
/*
 * `headroom guest`: what runs inside the guest, after init has mounted the image. It finds the black box (an
 * ivshmem-plain PCI device), reads the cell's specification out of it, runs the cell and powers the guest off.
 */
#include "base/log.h"
#include "base/module.h"
#include "base/sysfile.h"
#include "commands.h"
#include "run/cell.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#define PCI_DEVICES    "/sys/bus/pci/devices"
#define IVSHMEM_VENDOR "0x1af4" /* docs/specs/ivshmem-spec of QEMU */
#define IVSHMEM_DEVICE "0x1110"
#define WORK_DIR       "/run/headroom/tools"
#define STATE_DIR      "/run/headroom"

static bool is_ivshmem(const char *dir)
{
	char path[PATH_MAX], id[16];

	snprintf(path, sizeof(path), "%s/vendor", dir);
	if (sysfile_read(path, id, sizeof(id)) < 0 || strcmp(id, IVSHMEM_VENDOR) != 0)
		return false;
	snprintf(path, sizeof(path), "%s/device", dir);
	return sysfile_read(path, id, sizeof(id)) >= 0 && strcmp(id, IVSHMEM_DEVICE) == 0;
}

static int map_box(const char *dir, struct bb *box)
{
	/* Write-combining where the BAR is prefetchable, as ivshmem's is; plain memory either way. */
	static const char *const resources[] = { "resource2_wc", "resource2" };
	int err = -ENODEV;

	for (size_t i = 0; i < sizeof(resources) / sizeof(resources[0]); i++) {
		char path[PATH_MAX];
		uint64_t size;
		void *memory;

		snprintf(path, sizeof(path), "%s/%s", dir, resources[i]);
		err = bb_map_file(path, 0, &memory, &size);
		if (!err)
			return bb_attach(box, memory, size);
	}
	return err;
}

static int find_box(struct bb *box)
{
	DIR *d = opendir(PCI_DEVICES);
	struct dirent *e;
	int err = -ENODEV;

	if (!d)
		return -errno;
	while (err == -ENODEV && (e = readdir(d))) {
		char dir[PATH_MAX];

		snprintf(dir, sizeof(dir), PCI_DEVICES "/%s", e->d_name);
		if (e->d_name[0] != '.' && is_ivshmem(dir)) {
			/* Memory decoding is off until a driver, or we, enable the device. */
			char enable[PATH_MAX + 8];

			snprintf(enable, sizeof(enable), "%s/enable", dir);
			sysfile_write(enable, "1");
			err = map_box(dir, box);
		}
	}
	closedir(d);
	return err;
}

static int run_cell_of(struct bb *box)
{
	static struct spec spec;
	char err_text[512];

	if (spec_read(&spec, (const char *)box->head + BB_SPEC_OFFSET, box->head->spec_len, err_text,
		      sizeof(err_text))) {
		log_err("specification of the cell: %s", err_text);
		return -EINVAL;
	}
	if (sysfile_mkdirs(WORK_DIR))
		return -errno;
	return cell_run(&spec, box, STATE_DIR, WORK_DIR);
}

int cmd_guest(int argc, char **argv)
{
	struct bb box;
	int err;

	(void)argc, (void)argv;
	if (getpid() != 1) {
		log_err("guest: runs as the first process of a guest only");
		return EXIT_USAGE;
	}
	log_set_stamps(1);
	err = find_box(&box);
	if (err) {
		log_err("black box: %s", strerror(-err));
	} else {
		bb_stage(&box, BB_BOOTED);
		module_load("pvpanic?");
		module_load("pvpanic-pci?");
		module_load("pvpanic-mmio?");
		if (mount("none", "/sys/fs/cgroup", "cgroup2", 0, NULL) < 0)
			log_warn("mount cgroup2: %s", strerror(errno));
		/* Only wq_trace asks for it, and says so in the record where it is not there. */
		if (mount("none", "/sys/kernel/tracing", "tracefs", 0, NULL) < 0)
			log_warn("mount tracefs: %s", strerror(errno));
		err = run_cell_of(&box);
		if (err)
			log_err("cell: %s", strerror(-err));
	}
	sync();
	reboot(RB_POWER_OFF);
	/* Only reached when the kernel cannot power off; the host sees the stage and ends us. */
	for (;;)
		pause();
}
