// SPDX-License-Identifier: MIT
/*
 * The undo log: what must be put back, on disk before the change is made. Ending a cell is playing the log back, so
 * the way that repairs after a kill -9 is the way that is taken every time.
 *
 * A line is KIND<tab>WHAT<tab>OLD: `knob` (write OLD back into the file WHAT), `dm` (remove the device WHAT), `loop`
 * (take the loop device WHAT off the file OLD), `disk` (clear what the run OLD has left on the disk WHAT), `cgroup`
 * (remove the group's directory WHAT), `cgroup-tree` (kill all in the group of the name WHAT, remove it with all
 * below), `controllers` (in the file WHAT, switch off what OLD does not have), `swap` (swap off from the device WHAT),
 * `memory-block` (write OLD into its state, the file WHAT, unless it is online), `dimm` (have the host plug in the
 * guest's DIMM of the number WHAT, unless it is in), `nbd` (end the connection of the device WHAT), `process` (end the
 * process of the number WHAT that was started at OLD, as /proc/PID/stat has it).
 */
#ifndef HEADROOM_UNDO_H
#define HEADROOM_UNDO_H

#include <sys/types.h>

/* Start a new log; there must be none at the path. 0 or -errno. One log is open at a time. */
int undo_open(const char *path);
/* Note a change that is about to be made. Without 0 the change must not be made. */
int undo_note(const char *kind, const char *what, const char *old);
/* The same of a process that is there, and does nothing yet. */
int undo_note_process(pid_t pid);
#define UNDO_LOG "undo.log" /* its name, in the directory of the cell */

/* Play a log back, newest line first, and remove it when all is undone. Things that are gone already are fine.
 * Returns the number of lines that could not be undone (the log stays), or -errno. */
int undo_play(const char *path);
/*
 * The same in a child with a deadline: taking devices down can hang where a load has left a mess. 0, -EIO when
 * something could not be undone, -ETIMEDOUT.
 */
int undo_play_within(const char *path, unsigned timeout_s);

#endif
