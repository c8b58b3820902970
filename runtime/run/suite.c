// SPDX-License-Identifier: MIT
#include "run/suite.h"

#include "base/log.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "commands.h"
#include "run/journal.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void suite_path(char *path, const char *dir, const char *name)
{
	snprintf(path, PATH_MAX, "%s/%s", dir, name);
}

bool suite_is(const char *dir)
{
	char path[PATH_MAX];

	suite_path(path, dir, "suite.json");
	return access(path, F_OK) == 0;
}

static int make_dir(const char *out, char *dir)
{
	char utc[24];
	int err = sysfile_mkdirs(out);

	utc_stamp(utc, true);
	for (int n = 1; !err; n++) {
		/* Two may start in one second. */
		if (n == 1)
			snprintf(dir, PATH_MAX, "%s/%s-suite", out, utc);
		else
			snprintf(dir, PATH_MAX, "%s/%s-suite-%d", out, utc, n);
		if (mkdir(dir, 0755) == 0)
			return 0;
		err = errno == EEXIST ? 0 : -errno;
	}
	log_err("--out %s: %s", out, strerror(-err));
	return EXIT_NEED;
}

static int write_suite(const char *dir, const struct run_request *q, json_t *runs)
{
	json_t *root = json_pack("{s:s, s:O, s:[]}", "schema", "headroom.suite/1", "runs", runs, "argv");
	char path[PATH_MAX], *text;
	int err = -ENOMEM;

	for (int i = 0; i < q->argc; i++)
		json_array_append_new(json_object_get(root, "argv"), json_string(q->argv[i]));
	text = json_dumps(root, JSON_INDENT(1));
	suite_path(path, dir, "suite.json");
	if (text)
		err = sysfile_replace(path, text, strlen(text));
	if (err)
		log_err("%s: %s", path, strerror(-err));
	free(text);
	json_decref(root);
	return err ? EXIT_BROKEN : 0;
}

int suite_create(const struct run_request *q, char *const *scenarios, size_t n, char *dir)
{
	static struct run r;
	json_t *runs = json_array();
	int rc;

	if (n > SUITE_MAX) {
		log_err("%zu scenarios: no more than %d in one go", n, SUITE_MAX);
		return EXIT_USAGE;
	}
	rc = make_dir(q->out, dir);
	for (size_t i = 0; !rc && !interrupted && i < n; i++) {
		memset(&r, 0, sizeof(r));
		r.request = *q;
		r.request.scenario = scenarios[i];
		r.request.out = dir;
		rc = run_plan(&r, NULL);
		if (!rc)
			rc = run_begin(&r);
		if (!rc)
			json_array_append_new(runs, json_string(strrchr(r.dir, '/') + 1));
	}
	if (!rc && interrupted)
		rc = EXIT_INTERRUPTED;
	if (!rc)
		rc = write_suite(dir, q, runs);
	json_decref(runs);
	return rc;
}

/* The directories of its runs. 0, or an exit code after a line on stderr. */
static int read_suite(const char *dir, char runs[][PATH_MAX], size_t *n)
{
	char path[PATH_MAX];
	json_error_t where;
	json_t *root, *name;
	size_t i;

	*n = 0;
	suite_path(path, dir, "suite.json");
	root = json_load_file(path, 0, &where);
	json_array_foreach (json_object_get(root, "runs"), i, name) {
		const char *text = json_string_value(name);

		/* Only directories of its own. */
		if (!text || strchr(text, '/') || *text == '.' || *n == SUITE_MAX)
			break;
		suite_path(runs[(*n)++], dir, text);
	}
	if (root && *n && *n == json_array_size(json_object_get(root, "runs"))) {
		json_decref(root);
		return 0;
	}
	log_err("%s: %s", path, root ? "\"runs\" must be a list of directories in it" : where.text);
	json_decref(root);
	return EXIT_NEED;
}

/* What the open cells of these runs are expected to take. */
static double expected_s(char runs[][PATH_MAX], size_t n)
{
	static struct run r;
	double s = 0;

	for (size_t i = 0; i < n; i++) {
		memset(&r, 0, sizeof(r));
		if (run_load(&r, runs[i]))
			continue; /* it will say so when its turn comes */
		for (size_t c = 0; c < r.n_cells; c++)
			s += r.plan[c].state == CELL_ENDED ? 0 : (double)r.scenario.opts.typical_s;
	}
	return s;
}

static void make_report(const char *dir, const struct run_request *how)
{
	char html[PATH_MAX];
	const char *args[] = { "--suite", dir, NULL };

	suite_path(html, dir, "report.html");
	if (!how->no_report && report_call(args) == 0 && !how->json)
		printf("report of all: %s\n", html);
}

int suite_walk(const char *dir, const struct run_request *how)
{
	static char runs[SUITE_MAX][PATH_MAX];
	static struct run r;
	size_t n;
	int worst = 0, rc = read_suite(dir, runs, &n);

	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		memset(&r, 0, sizeof(r));
		r.later_s = expected_s(runs + i + 1, n - i - 1);
		rc = run_take_up(&r, runs[i], how);
		worst = rc > worst ? rc : worst;
		/* One that broke says nothing about the others; a need that is not met is everybody's. */
		if (rc == EXIT_USAGE || rc == EXIT_NEED || rc == EXIT_INTERRUPTED)
			break;
	}
	interrupted = 0; /* the report of what there is may still be made */
	make_report(dir, how);
	return worst;
}
