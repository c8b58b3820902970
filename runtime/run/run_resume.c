// SPDX-License-Identifier: MIT
/* A run begins, or is taken up again where it was cut off. */
#include "run/run.h"

#include "base/log.h"
#include "base/spawn.h"
#include "commands.h"
#include "run/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

/* Two programs on one run would start the same cells. */
static int lock_run(struct run *r)
{
	r->lock_fd = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->lock_fd < 0 || flock(r->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		log_err("%s: %s", r->dir, errno == EWOULDBLOCK ? "another headroom is running it" : strerror(errno));
		return EXIT_NEED;
	}
	return 0;
}

static void log_choice(const struct run *r)
{
	char versions[512];

	log_info("%s: %zu cells on %s (%s), seed %" PRIu64, r->scenario.name, r->n_cells,
		 run_versions(r, versions, sizeof(versions)), r->accel.name, r->request.seed);
}

int run_begin(struct run *r)
{
	int rc = run_check_needs(r);

	if (!rc)
		rc = run_claim_disk(r);
	if (!rc)
		rc = run_provision(r);
	if (!rc && interrupted)
		rc = EXIT_INTERRUPTED;
	if (!rc)
		rc = run_create_dir(r);
	if (!rc && journal_write(r->dir, "run-start", NULL)) {
		log_err("%s: the journal cannot be written", r->dir);
		rc = EXIT_BROKEN;
	}
	return rc;
}

int run_go(struct run *r)
{
	int rc = lock_run(r);

	if (rc)
		return rc;
	log_choice(r);
	return run_walk(r);
}

static bool is_replaced(const struct run *r, const struct planned_cell *c)
{
	for (size_t i = 0; i < r->n_cells; i++)
		if (strcmp(r->plan[i].replaces, c->name) == 0)
			return true;
	return false;
}

/* The same arm, kernel, repeat and seed once more, at the end of the plan. */
static int plan_again(struct run *r, const struct planned_cell *cut)
{
	struct planned_cell *c = run_add_cell(r, cut->arm, cut->kernel, cut->repeat);

	if (!c) {
		log_err("%s: the plan has no room for another cell", r->dir);
		return EXIT_NEED;
	}
	c->seed = cut->seed;
	snprintf(c->replaces, sizeof(c->replaces), "%s", cut->name);
	return 0;
}

static int take_up(struct run *r)
{
	size_t n = r->n_cells;
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++) {
		if (r->plan[i].state == CELL_STARTED)
			rc = run_end_interrupted(r, &r->plan[i]);
		else if (r->plan[i].state == CELL_ENDED)
			rc = run_sweep_cell(r, &r->plan[i]);
	}
	for (size_t i = 0; !rc && i < n; i++)
		if (r->plan[i].state == CELL_ENDED && r->plan[i].interrupted && !is_replaced(r, &r->plan[i]))
			rc = plan_again(r, &r->plan[i]);
	return rc ? rc : run_write_json(r);
}

static bool anything_open(const struct run *r)
{
	for (size_t i = 0; i < r->n_cells; i++)
		if (r->plan[i].state == CELL_OPEN)
			return true;
	return false;
}

static bool anything_begun(const struct run *r)
{
	for (size_t i = 0; i < r->n_cells; i++)
		if (r->plan[i].state != CELL_OPEN)
			return true;
	return false;
}

int run_take_up(struct run *r, const char *dir, const struct run_request *how)
{
	bool begun = false;
	int rc = run_load(r, dir); /* is it one? */

	if (!rc)
		rc = lock_run(r);
	/* Once more: who ran it until now may have ended a cell meanwhile. */
	if (!rc) {
		int lock = r->lock_fd;
		double later_s = r->later_s;

		memset(r, 0, sizeof(*r));
		rc = run_load(r, dir);
		r->lock_fd = lock;
		r->later_s = later_s;
	}
	r->request.json = how->json;
	r->request.no_report = how->no_report;
	r->request.argc = how->argc;
	r->request.argv = how->argv;
	r->request.out = r->dir;
	if (!rc)
		rc = run_check_needs(r);
	if (!rc)
		rc = run_provision(r);
	begun = !rc && anything_begun(r);
	if (!rc)
		rc = take_up(r);
	/* Only now: a cell that was cut off had it until it was undone. */
	if (!rc && anything_open(r))
		rc = run_claim_disk(r);
	if (rc)
		return rc;
	if (!anything_open(r))
		log_info("%s: all cells are complete", r->dir);
	else if (begun && journal_write(r->dir, "resume", NULL))
		return EXIT_BROKEN;
	log_choice(r);
	return run_walk(r);
}
