// SPDX-License-Identifier: MIT
/* cell.json: the facts of a record, the verdict on it, and what it was made under. */
#ifndef HEADROOM_RESULT_H
#define HEADROOM_RESULT_H

#include "guest/provision.h"
#include "guest/qemu.h"
#include "record/blackbox.h"
#include "run/scenario.h"
#include "run/metal.h"
#include "run/verdict.h"

/* What cell.json says that is not in the record's other files. */
struct result_context {
	const struct scenario *scenario; /* with the arm's options applied */
	const struct spec *spec;
	const struct arm *arm;
	const struct kernel *kernel;
	const struct accel *accel;
	const char *cmdline; /* of the guest's kernel */
	unsigned repeat;
	const struct ending *ending; /* NULL: not known, the cell was cut off */
	bool interrupted;
	const struct metal_machine *metal; /* it ran on this machine; NULL: in a guest */
};

/*
 * Extract the box into the cell's directory, judge, and write cell.json. The judgement comes back too.
 * 0 or -errno.
 */
int result_write(const char *cell_dir, const struct bb *box, const struct result_context *context,
		 struct judgement *judgement);

#endif
