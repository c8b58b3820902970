// SPDX-License-Identifier: MIT
/*
 * The specification of one cell: all that the machine under test is told. The host writes it as JSON into the black
 * box; the guest reads it back. Settings are plain values here: arms and scenarios do not exist on this side.
 */
#ifndef HEADROOM_SPEC_H
#define HEADROOM_SPEC_H

#include "run/workload.h"

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#define SPEC_MAX_WORKLOADS 8
#define SPEC_MAX_KNOBS	   32

struct spec_knob {
	char name[96], path[192], value[64];
	bool required; /* a mitigation's knob: the cell is broken without it. Else a pin: left out where it is absent */
};

struct spec_workload {
	const struct workload *workload;
	uint64_t start_sector, sectors;
	bool follows; /* it is told to stop when those that do not follow have ended */
	bool kept;    /* of the scenario's own use */
	_Alignas(16) char opts[OPTS_MAX_SIZE];
};

struct spec {
	char cell[80], scenario[64], arm[64], run_id[32];
	char scratch[PATH_MAX]; /* the block device, or on metal the file that becomes one */
	char holder[48];	/* name of the device that is made to claim the scratch disk; "": it is ours anyway */
	uint64_t seed;
	unsigned setup_s, run_s, verify_s; /* deadlines of the phases */
	unsigned ramp_s, overlap_s; /* of the load: between two beginnings; from the last one to the stop, 0: none */
	unsigned period_ms, canary_ms;
	unsigned wq_trace_kib, wq_trace_ms; /* buffer for each CPU, 0: no trace; threshold of a stall */
	unsigned bystander_mib;		    /* memory of a process that has nothing to do with it all; 0: none */
	struct spec_knob knobs[SPEC_MAX_KNOBS];
	size_t n_knobs;
	struct spec_workload workloads[SPEC_MAX_WORKLOADS];
	size_t n_workloads;
};

/* As JSON into buf, NUL-terminated. Returns its length or -ENOSPC. */
int spec_write(const struct spec *s, char *buf, size_t size);
/* 0 or -EINVAL with a sentence in err. */
int spec_read(struct spec *s, const char *text, size_t len, char *err, size_t err_size);

#endif
