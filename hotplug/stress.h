// SPDX-License-Identifier: MIT
/* stress-ng as the load of workloads that do something else to the memory: it writes, and checks what it wrote. */
#ifndef HEADROOM_STRESS_H
#define HEADROOM_STRESS_H

#include "run/workload.h"

#define STRESSOR       "stress-ng"
#define STRESS_WARM_MS 3000 /* until the stressors have touched what they hold */

/* Start so many stressors that hold `bytes` together, until stress_stop() or the end of the hook. Its pid, 0 for no
 * stressors, or -errno. */
pid_t stress_start(const struct cell *c, uint64_t stressors, uint64_t bytes);
/* End them. 0, or -errno after cell_fail() where they found something wrong. */
int stress_stop(const struct cell *c, pid_t pid);

#endif
