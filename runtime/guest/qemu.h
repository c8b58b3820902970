// SPDX-License-Identifier: MIT
/*
 * One guest, from its start to its end. It is watched through the black box (stage and heartbeat), through QMP events
 * and as a process; it always ends, by itself or by us, and it dies with us.
 */
#ifndef HEADROOM_QEMU_H
#define HEADROOM_QEMU_H

#include "record/blackbox.h"

#include <stdbool.h>

#define QEMU_BINARY "qemu-system-x86_64"

/* What a DIMM of the guest is called, with its number behind, in the monitor's words. */
#define GUEST_DIMM "dimm"

struct guest_config {
	const char *accel; /* "kvm" or "tcg" */
	unsigned cpus, memory_mib;
	unsigned dimms, dimm_mib; /* hot-pluggable memory beside: so many, each of this size */
	const char *kernel, *initramfs, *image;
	const char *scratch;  /* NULL: no scratch disk */
	const char *box_path; /* the black box's file, formatted, `box` maps it */
	uint64_t box_size;
	const char *console_log; /* gets the serial console */
	const char *cmdline;
	unsigned boot_s;     /* to reach our process */
	unsigned silence_s;  /* without a heartbeat it counts as hanging */
	unsigned deadline_s; /* for all of it */
};

enum guest_end {
	GUEST_OFF, /* powered off by itself, the cell complete */
	GUEST_PANIC,
	GUEST_NO_BOOT,	/* never reached our process */
	GUEST_HANG,	/* no heartbeat */
	GUEST_DEADLINE, /* ended by us, still alive */
	GUEST_QEMU,	/* QEMU ended without being asked, the cell not complete */
	GUEST_SIGNAL,	/* we were interrupted */
};

const char *guest_end_name(enum guest_end end);

struct guest_result {
	enum guest_end end;
	double boot_s; /* from QEMU's start to our process in the guest; negative: never */
	double wall_s;
	int qemu_status; /* exit code, 128 + signal */
};

/* Called about ten times a second while the guest runs. */
typedef void guest_progress_fn(const struct bb *box, double wall_s, void *arg);

/* The command line, for showing and for running; NULL-terminated, owned by the caller, freed by guest_argv_free(). */
char **guest_argv(const struct guest_config *g, int qmp_fd);
void guest_argv_free(char **argv);

/* Run to the end. 0 with the result, or -errno when QEMU could not be started (-ENOENT: not installed). */
int guest_run(const struct guest_config *g, struct bb *box, guest_progress_fn *progress, void *arg,
	      struct guest_result *result);

#endif
