// SPDX-License-Identifier: MIT
/*
 * From the text of a kernel file to members of a sample. Nothing here allocates, opens or blocks; text that is
 * truncated or not what was expected gives fewer members, never wrong ones.
 */
#ifndef HEADROOM_SOURCES_H
#define HEADROOM_SOURCES_H

#include "base/jsonw.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Figures that the progress display wants from a sample; a field that was not in the text keeps its value. */
struct sample_live {
	uint64_t slab_kib, slab_unreclaimable_kib, available_kib, oom_kills;
};

/* /proc/meminfo, the keys of the record, in KiB. */
void source_meminfo(struct jsonw *j, const char *text, size_t len, struct sample_live *live);
/* /proc/vmstat, the counters that speak about reclaim, swap, migration and OOM. */
void source_vmstat(struct jsonw *j, const char *text, size_t len, struct sample_live *live);
/* /proc/pressure/NAME as member NAME: some_avg10, full_avg10, some_us, full_us. */
void source_pressure(struct jsonw *j, const char *name, const char *text, size_t len);
/* /proc/slabinfo as member NAME: [active objects, objects, object bytes, KiB held] of each cache with objects. */
void source_slabinfo(struct jsonw *j, const char *name, const char *text, size_t len);
/*
 * A file of "name value" lines (memory.stat, memory.events, cgroup.stat of cgroup v2): members of the open object for
 * those that speak about kernel memory, kills and dying groups, under the kernel's names and in its units (bytes).
 */
void source_cgroup(struct jsonw *j, const char *text, size_t len);
/* A file that is one number, as member NAME. */
void source_number(struct jsonw *j, const char *name, const char *text, size_t len);
/* What /proc/PID/stat says of a task. */
struct task_stat {
	char name[64]; /* as long as the kernel's own buffer for it (do_task_stat(), fs/proc/array.c) */
	bool is_kernel_thread;
	uint64_t ticks; /* user and system time, in USER_HZ */
	uint64_t start; /* ticks from boot to its start: tells tasks of one pid apart */
};

/* False: the text is cut off, or is something else. */
bool source_task(struct task_stat *task, const char *text, size_t len);
bool source_is_kworker(const struct task_stat *task);
/* Whether a kernel thread is called so, or is a kworker that serves a work queue called so: by how the name begins. */
bool source_serves(const struct task_stat *task, const char *name);
/* /proc/zoneinfo: the Movable zones of all nodes added up. */
void source_zoneinfo(struct jsonw *j, const char *text, size_t len);
/* /proc/diskstats without loop and RAM disks. */
void source_diskstats(struct jsonw *j, const char *text, size_t len);

#endif
