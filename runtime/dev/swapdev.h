// SPDX-License-Identifier: MIT
/*
 * Swap devices: switched on with a priority of their own, and off again in a child with a deadline.
 *
 * Never any but the one that is named. A device is known by its number, not by the path under which it was found.
 */
#ifndef HEADROOM_SWAPDEV_H
#define HEADROOM_SWAPDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SWAPDEV_MAX_PRIORITY 32767 /* SWAP_FLAG_PRIO_MASK, include/linux/swap.h */

/* swapon(2) with a priority of 0 to SWAPDEV_MAX_PRIORITY. 0 or -errno. */
int swapdev_on(const char *path, int priority);
/*
 * swapoff(2), which brings back what lies on the device and takes as long as that takes. The kernel's OOM killer takes
 * who does this first of all, whatever its oom_score_adj (oom_task_origin, mm/oom_kill.c): so it is done in a child.
 * 0, also when it is not in use; -ENOENT when there is no such device; -ENOMEM when memory does not suffice; -ETIMEDOUT
 * when it was not over in time (it may go on when it does not die of SIGKILL).
 */
int swapdev_off(const char *path, unsigned timeout_ms);
/*
 * Is anything swapped on by `proc_swaps`, a file as /proc/swaps? 1 with the name of the first in buf, 0, or -errno
 * where the file cannot be read.
 */
int swapdev_any(const char *proc_swaps, char *buf, size_t size);
/* Is this device? */
int swapdev_is_on(const char *proc_swaps, const char *path);

#endif
