// SPDX-License-Identifier: MIT
#include "hotplug/block_event.h"

#include "base/clock.h"
#include "run/workload.h"

#include <string.h>

static void add_members(struct jsonw *j, const void *arg)
{
	const struct block_event *e = arg;
	const struct memblock_try *t = e->try;

	jsonw_str(j, "workload", e->workload);
	jsonw_u64(j, "block", e->block);
	jsonw_u64(j, "round", e->round);
	jsonw_u64(j, "mib", e->block_bytes >> 20);
	jsonw_fixed(j, "took_ms", t->took_ns / 1000, 3);
	if (t->err)
		jsonw_str(j, "errno", strerrorname_np(-t->err));
	if (t->ended)
		jsonw_bool(j, "ended", true);
	if (e->reason && *e->reason)
		jsonw_str(j, "reason", e->reason);
	if (*t->where)
		jsonw_str(j, "where", t->where);
	if (t->counted) {
		jsonw_u64(j, "migrated", t->migrated);
		jsonw_u64(j, "failed", t->failed);
	}
	if (e->refusals)
		jsonw_u64(j, "refusals", e->refusals);
	if (e->pause_ms)
		jsonw_u64(j, "pause_ms", e->pause_ms);
}

void block_event_tell(const char *kind, const struct block_event *e)
{
	const struct memblock_try *t = e->try;

	cell_event_with(kind, add_members, e, "memory%u: %s%s after %.1f ms%s%s", e->block,
			t->err ? strerror(-t->err) : "done", t->ended ? " (ended by us)" : "",
			(double)t->took_ns / NS_PER_MS, e->reason && *e->reason ? ", " : "",
			e->reason ? e->reason : "");
}
