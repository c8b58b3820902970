// SPDX-License-Identifier: MIT
/*
 * What the slab figures of the samples mean, and what they would be if they were exact.
 *
 * /proc/slabinfo counts an object as active unless it lies free on a *node's* list of partial slabs: free objects that
 * CPUs keep for themselves count as in use (mm/slub.c, get_slabinfo()). So the utilisation it gives is an upper bound,
 * and its error has a bound of its own, which slab_describe() works out for each cache. slab_shrink() makes the CPUs
 * give everything back, and then the figure is exact. From Linux 6.10 on a list of more than 10 000 partial slabs is
 * not counted but estimated (MAX_PARTIAL_TO_SCAN): of such a cache neither holds.
 */
#ifndef HEADROOM_SLAB_H
#define HEADROOM_SLAB_H

#include "record/blackbox.h"

/* Where the kernel's files are; a fixture tree in tests. */
struct slab_files {
	const char *slabinfo; /* /proc/slabinfo */
	const char *caches;   /* /sys/kernel/slab; not there with SLAB or SLOB, or without SLUB's sysfs */
	unsigned cpus;	      /* that may hold objects: those online */
	unsigned nodes;
	bool partial_in_slabs; /* cpu_partial is worked out in slabs: from Linux 5.16 on */
};

void slab_files_of_this_machine(struct slab_files *f);

/*
 * Event "slab-caches", once, before the load: for each cache the objects of a slab (`per_slab`), how many free objects
 * at most count as in use (`slack`), and the caches merged with it (`merged`). Returns 0 or -errno.
 */
int slab_describe(struct bb *box, const struct slab_files *files);
/* Shrink every cache; how many could not be. It may hang, see below. */
uint64_t slab_shrink_all(const struct slab_files *files);
/*
 * The same, told: event "slab-shrunk": slabinfo `before` and `after`, and how many caches could not be shrunk.
 * Waits for a kernel worker on every CPU, so it may hang where they do: for a child with a deadline. Returns 0 or
 * -errno.
 */
int slab_shrink(struct bb *box, const struct slab_files *files);

#endif
