// SPDX-License-Identifier: MIT
/*
 * The plug-in contract. One file in workloads/ is one workload: what it needs, its options, its mitigations, its
 * metrics, and the hooks that do the work. Registering is one macro at the end of that file; nothing else knows it.
 *
 * Where the hooks run: setup() in the runner, which is protected from the OOM killer; run() and verify() each in a
 * child of its own with a deadline, run() in the cgroup of the workload and killable. attest() runs after the cell,
 * where the record is read. A hook returns 0 or -errno and says what went wrong with cell_fail().
 */
#ifndef HEADROOM_WORKLOAD_H
#define HEADROOM_WORKLOAD_H

#include "base/jsonw.h"
#include "base/opts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct facts;

/* What one cell gives to one workload. */
struct cell {
	const struct workload *workload;
	const void *opts;	  /* filled from the workload's option table */
	const char *run_id;	  /* prefix of every name we create: device-mapper devices, cgroups */
	const char *scratch;	  /* block device that may be overwritten */
	uint64_t scratch_start;	  /* first 512-byte sector of it that is ours */
	uint64_t scratch_sectors; /* as many as the workload's scratch_sectors() asked for */
	const char *work_dir;	  /* where tools write; every file in it ends in the record's tools/ */
	uint64_t seed;
	int64_t deadline_ns; /* CLOCK_MONOTONIC at which the present hook is ended */
	bool alone;	     /* no other workload is in this cell: figures of the machine are of this one */
	bool run_ok;	     /* for verify(): run() came to its end and returned 0 */
	/* Set when the workloads that this one follows have ended (see cell_told_to_stop()). NULL: it follows none. */
	const _Atomic bool *stop;
};

#define MITIGATION_MAX_KNOBS 2

/* A setting: its name in the record, and the file that holds it. No file: the workload reports it with cell_knob(). */
struct mitigation_knob {
	const char *name, *path;
};

/*
 * One documented fix and how to switch it: by files that hold its knobs, by an option of its workload, by a parameter
 * with which the kernel is booted, or not at all, because what was wrong is gone from the kernel.
 *
 * A value for two knobs is two values with a '/' between. "xN" is N times what the kernel chose by itself.
 */
struct mitigation {
	const char *name; /* kebab-case; never renamed: it stands in stored results. NULL ends the table */
	const char *summary;
	const char *seed; /* number of the source document */
	struct mitigation_knob knobs[MITIGATION_MAX_KNOBS];
	const char *option;	/* of the workload, which gets the value; NULL: the files get it */
	const char *boot;	/* the kernel parameter that gets the value; "default": it is left out */
	const char *gone;	/* the kernel function whose absence is the fix: it cannot be switched */
	const char *off, *on;	/* values */
	const char *value_help; /* what other values mean */
	const char *since;	/* the first kernel that has the knob; NULL: all of ours */
	const char *only;	/* what alone of all that the workload can be made of has the knob; NULL: all have it */
};

enum mitigation_state { MITIGATION_OFF, MITIGATION_ON, MITIGATION_FAILED, MITIGATION_ABSENT };
enum tristate { NO, YES, UNKNOWN };

/* What the record says about a mitigation that a cell asked for. */
struct attestation {
	const struct mitigation *mitigation;
	const char *requested;
	char read_back[128]; /* what the knobs read, with '/' between */
	bool known;	     /* read_back is: all of them could be read */
	enum mitigation_state state;
	enum tristate exercised; /* did the load reach the point where the mitigation makes a difference? */
	char evidence[256];
};

enum better { LESS, MORE, NEITHER };

struct metric {
	const char *name; /* NULL ends the table */
	const char *unit;
	enum better better;
	const char *label;
};

struct workload {
	const char *name; /* kebab-case, never renamed: it stands in stored results */
	const char *summary;
	const char *const *modules;	 /* kernel modules it needs; "name?" where the kernel may lack it */
	const char *const *programs;	 /* programs it runs; "name?" where it can do without */
	const char *const *watch_caches; /* slab caches whose curves tell its story */
	const char *const *exercises;	 /* kernel code it claims to hit */
	/*
	 * A cgroup ("headroom/churn") for groups of its own, beside that of its processes, which as it has members can
	 * have no groups with controllers below it. It is there for setup(), is recorded, and goes with all that was
	 * made in it. NULL: none.
	 */
	const char *group;
	/* Kernel threads whose CPU time is recorded, by how their names begin; for a kworker its work queue's. */
	const char *const *watch_threads;
	const struct opt *opts;
	size_t opts_size;
	const struct mitigation *mitigations;
	const struct metric *metrics; /* those it reports with cell_metric_*(); an undeclared one is an error */
	/* Check the options together; an error goes into err. NULL: any combination will do. */
	int (*check)(const void *opts, char *err, size_t err_size);
	/* 512-byte sectors of scratch disk that it needs, on a machine with so much memory. NULL: none. */
	uint64_t (*scratch_sectors)(const void *opts, uint64_t memory_mib);
	/* Device-mapper devices to watch: name number i into buf, false after the last. NULL: none. */
	bool (*dm_name)(const void *opts, const char *run_id, unsigned i, char *buf, size_t size);
	int (*setup)(struct cell *c);
	int (*run)(struct cell *c);
	int (*verify)(struct cell *c);
	/*
	 * Exercised and evidence of `a` from the record, where all knobs read what was asked for; state is on or off
	 * accordingly, and may become failed. NULL: that decides alone.
	 */
	void (*attest)(const struct facts *f, const void *opts, struct attestation *a);
};

/* A pointer in a linker section: a section of structs would be padded by the compiler. */
extern const struct workload *const __start_workloads[] __attribute__((visibility("hidden")));
extern const struct workload *const __stop_workloads[] __attribute__((visibility("hidden")));
#define WORKLOAD_REGISTER(ident)                                                                                       \
	static const struct workload *const ident##_registered __attribute__((used, retain, section("workloads"))) =   \
		&(ident)

const struct workload *workload_find(const char *name);
/* The i-th by name, or NULL. */
const struct workload *workload_nth(size_t i);

/* --- What hooks call. Events and metrics land in the record. --- */

/* The time of the hook is up, or it is told to stop. Whoever asks is at work. */
bool cell_should_stop(const struct cell *c);
/*
 * A load that goes on for as long as others do has to end now, in order and with success. Touches nothing but memory of
 * its own, so that a process that was forked without the record may ask.
 */
bool cell_told_to_stop(const struct cell *c);
/* Why the hook is about to return an error. */
void cell_fail(const struct cell *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cell_phase(const char *name);
/* What became of a setting that the workload made itself: what was asked for, and what the kernel says it is. */
void cell_knob(const char *name, const char *value, const char *read_back);
void cell_metric_u64(const struct cell *c, const char *name, uint64_t value);
void cell_metric_bool(const struct cell *c, const char *name, bool value);
/* value / 10^decimals */
void cell_metric_fixed(const struct cell *c, const char *name, int64_t value, unsigned decimals);
/* A harness event with a text. */
void cell_event(const char *kind, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same with members of its own, which `add` writes from `arg` (docs/record.md). */
void cell_event_with(const char *kind, void (*add)(struct jsonw *j, const void *arg), const void *arg, const char *fmt,
		     ...) __attribute__((format(printf, 4, 5)));
/*
 * Something that was found out and is no figure: whether an assertion holds, with the values; what was left over. It
 * stands in the record's `findings`, on the terminal when the cell has ended, and in the report.
 */
void cell_finding(const struct cell *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* setup() is about to return an error because a need that the workload declares is not met: the cell is `skipped`. */
void cell_skip(const struct cell *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The kernel's name ("dm-0") of the block device with which the workload does this, for the record: "swap". */
void cell_device(const char *name, const char *kernel_name);
/*
 * Have the kernel give up what it only keeps because nobody needs the room: page cache, dentries and inodes that nobody
 * uses, empty and partly empty slabs. 0 or -errno. It is felt by all loads of the cell.
 */
int cell_drop(void);

enum cell_dimm_op { CELL_DIMM_WHERE, CELL_DIMM_UNPLUG, CELL_DIMM_PLUG };

/* What the host says to it. */
struct cell_dimm {
	uint64_t address, bytes; /* of the DIMM, where it is plugged in */
	uint64_t plugged_bytes;	 /* all hot-pluggable memory that QEMU counts afterwards */
	char words[192];	 /* where there is an error: the host's reason */
};

/*
 * Ask the host where a DIMM of this guest is (they are numbered from 0), to take it out, or to put it in. It comes back
 * when that is done. 0 or -errno: -EOPNOTSUPP: nobody is there who could (no guest); -EINVAL: the guest never had a
 * DIMM of that number; -ENODEV: it is out; -EBUSY: the kernel keeps it, or the host is busy; -ETIMEDOUT: the kernel did
 * not say, or the deadline (CLOCK_MONOTONIC) came first, and it may still be done.
 */
int cell_dimm(enum cell_dimm_op op, unsigned index, int64_t deadline_ns, struct cell_dimm *answer);

/* Tasks wait for each other, in words and as members (cell_event_with()): the cell's verdict becomes `deadlock`. */
void cell_deadlock(const struct cell *c, void (*add)(struct jsonw *j, const void *arg), const void *arg,
		   const char *words);
/* Data that should be X is Y: the cell's verdict becomes `corrupt`. */
void cell_corrupt(const struct cell *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Run a program until it ends or the hook's deadline comes. Its output goes to LABEL.out and LABEL.err of the work
 * directory. Start and end become events. Returns its exit code, 128 + N if signal N ended it, or -errno
 * (-ETIMEDOUT: ended by us at the deadline; -EBUSY: it did not even die of SIGKILL).
 */
int cell_tool(const struct cell *c, const char *label, const char *const *argv);
/* Only start it. Returns its pid, for cell_wait() with argv[0], or -errno. */
pid_t cell_tool_start(const struct cell *c, const char *label, const char *const *argv);

/*
 * A process of the load, from run(): a fork that dies with the hook, under a name that the record knows as the
 * workload's. Returns as fork(2) does; errors as -errno.
 */
pid_t cell_child(const struct cell *c, const char *comm);
/*
 * For a process that forks thousands of times: what it forks from now on cannot reach the record, so that none of the
 * calls above may be made there, and each fork costs a fraction (50 ms less in an emulated guest), because the black
 * box is not mapped anew.
 */
void cell_fork_without_record(void);
/* Wait for such a process to end until the deadline of the hook; then kill it. Returns as cell_tool(). */
int cell_wait(const struct cell *c, const char *comm, pid_t pid);
/* What such a return value says, for processes that exit with an errno: "Cannot allocate memory", "killed by signal 9".
 */
const char *cell_end_words(int rc, char *buf, size_t size);

#endif
