// SPDX-License-Identifier: MIT
/*
 * One run: a scenario, its plan of cells, and the directory that holds their records. `run` makes one, `resume` takes
 * one up again; both then walk the plan.
 */
#ifndef HEADROOM_RUN_H
#define HEADROOM_RUN_H

#include "guest/provision.h"
#include "run/metal.h"
#include "run/scenario.h"
#include "run/verdict.h"

#include <stdbool.h>

#define RUN_MAX_CELLS	512
#define RUN_MAX_SETS	32
#define RUN_MAX_KERNELS 8

/* What was asked for: the command line, or the stored options of a run that is resumed. */
struct run_request {
	const char *scenario;
	const char *kernels[RUN_MAX_KERNELS];
	size_t n_kernels;
	const char *modules, *accel; /* NULL when not given */
	const char *arms;	     /* NULL: the scenario's own; "all" */
	uint64_t memory_mib, cpus;   /* 0: the scenario's own */
	uint64_t repeat, seed;
	const char *sets[RUN_MAX_SETS];
	size_t n_sets;
	const char *out;    /* directory that results go into */
	bool on_metal, yes; /* on this very machine; without asking */
	const char *device; /* on metal: the disk that cells use; NULL: a file behind a loop device */
	bool dry_run, json, no_report;
	int argc;
	char **argv;
};

enum cell_state { CELL_OPEN, CELL_STARTED, CELL_ENDED };

struct planned_cell {
	char name[80]; /* 001-before-1; of several kernels 001-before-6.1-1 */
	char arm[64];
	char replaces[80]; /* a cell that was cut off; "" */
	unsigned kernel;   /* which one of the run's */
	unsigned repeat;
	uint64_t seed;
	enum cell_state state;
	enum verdict verdict;
	char reason[400];
	bool interrupted; /* cut off: says nothing about the kernel */
};

/* One of the kernels that cells run on, in the order of the request. */
struct run_kernel {
	struct kernel kernel;
	struct image image;
	char begun_with[128]; /* its version when a run that is resumed began; "" */
};

struct run {
	struct run_request request;
	char dir[PATH_MAX];
	int lock_fd;	 /* of dir; the lock goes with the process */
	char run_id[32]; /* prefix of the names of what cells create */
	struct scenario scenario;
	struct planned_cell plan[RUN_MAX_CELLS];
	size_t n_cells;
	struct run_kernel kernels[RUN_MAX_KERNELS];
	struct accel accel;
	struct metal_machine metal; /* where it runs on this machine */
	bool wedged;		    /* the file system with the results does not answer any more */
	double later_s; /* what comes after this run is expected to take; only for the time left that is shown */
};

/*
 * Each returns an exit code of the program, 0 to go on; what is wrong has been said in one line on stderr.
 */

/* Scenario, options and plan from a request. Touches nothing. */
int run_plan(struct run *r, const char *scenario_text);
/* One more cell at the end of the plan. NULL: it has no room. */
struct planned_cell *run_add_cell(struct run *r, const char *arm, unsigned kernel, unsigned repeat);
/* Is there room, memory, QEMU? Nothing has been written when this refuses. */
int run_check_needs(const struct run *r);
/* Take the disk that was named for the cells, if one was; held until the program ends but for the cells themselves. */
int run_claim_disk(const struct run *r);
/* Kernels, their images, the accelerator. */
int run_provision(struct run *r);
/* The versions of the kernels, for people to read. */
const char *run_versions(const struct run *r, char *buf, size_t size);
/* Make the result directory and run.json. */
int run_create_dir(struct run *r);
int run_write_json(const struct run *r);
/* Run what is open in the plan; journal, cells, summary, report. The program's exit code. */
int run_walk(struct run *r);
/* Of a planned run: all that is needed is there, its directory is made and its journal begun. */
int run_begin(struct run *r);
/* Walk a run that was begun. The program's exit code. */
int run_go(struct run *r);
/*
 * Take up the run in this directory, cut off or not yet walked, and walk what is open in it; of `how` only the output
 * counts, and the command line. The program's exit code.
 */
int run_take_up(struct run *r, const char *dir, const struct run_request *how);

/* Load a run from its directory: run.json and the journal. Strings stay allocated as long as the program runs. */
int run_load(struct run *r, const char *dir);
/* Take a cell that was cut off to its end: what the black box has becomes its record. */
int run_end_interrupted(struct run *r, struct planned_cell *cell);
/* Undo and remove what a killed program left of a cell that is complete: its scratch disk and its black box. */
int run_sweep_cell(const struct run *r, const struct planned_cell *cell);

/* Call the report program on directories. `argv` are its arguments, NULL-terminated. */
int report_call(const char *const *argv);

#endif
