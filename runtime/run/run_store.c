// SPDX-License-Identifier: MIT
/* The run's own files: run.json is written before the first cell, read back by resume. */
#include "run/run.h"

#include "base/jsont.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "commands.h"
#include "run/journal.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef HEADROOM_VERSION
#define HEADROOM_VERSION "unknown"
#endif

#define TOOL_TIMEOUT_S 10

/* --- Writing --- */

/* The first line that a command prints, cut to size; empty when it prints none. */
static void first_line(const char *const *argv, char *buf, size_t size)
{
	struct spawn s = {
		.argv = argv, .out = buf, .out_size = size, .stderr_path = "/dev/null", .timeout_s = TOOL_TIMEOUT_S
	};
	int status;

	if (spawn_run(&s, &status) || status != 0)
		buf[0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

static void value_in_file(const char *path, const char *key, char *buf, size_t size)
{
	FILE *f = fopen(path, "re");
	char line[512];

	buf[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		char *at = line + strlen(key);

		if (strncmp(line, key, strlen(key)) != 0)
			continue;
		at += strspn(at, " \t:=\"");
		snprintf(buf, size, "%.*s", (int)strcspn(at, "\"\n"), at);
		break;
	}
	if (f)
		fclose(f);
}

static json_t *host_json(const struct run *r)
{
	static const char *const qemu[] = { QEMU_BINARY, "--version", NULL };
	static const char *const fio[] = { "fio", "--version", NULL };
	json_t *h = json_object();
	struct utsname uts;
	char text[512];

	uname(&uts);
	json_put_text(h, "kernel", uts.release);
	json_object_set_new(h, "cpus", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
	json_object_set_new(h, "memory_mib",
			    json_integer(sysconf(_SC_PHYS_PAGES) / 1024 * (sysconf(_SC_PAGESIZE) / 1024)));
	value_in_file("/proc/cpuinfo", "model name", text, sizeof(text));
	json_put_text(h, "cpu_model", text);
	value_in_file("/etc/os-release", "PRETTY_NAME", text, sizeof(text));
	json_put_text(h, "distribution", text);
	first_line(qemu, text, sizeof(text));
	json_put_text(h, "qemu", text);
	first_line(fio, text, sizeof(text));
	json_put_text(h, "fio", text);
	if (!r->request.on_metal) {
		json_put_text(h, "accel", r->accel.name);
		json_put_text(h, "accel_reason", r->accel.reason);
	}
	return h;
}

/* The command that makes this run again: what was asked for, with the seed that was drawn. */
static char *command_line(const struct run_request *q)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	fprintf(f, "headroom run %s%s", q->scenario, q->on_metal ? " --on metal" : "");
	if (q->device)
		fprintf(f, " --device %s", q->device);
	for (size_t i = 0; i < q->n_kernels && !q->on_metal; i++)
		fprintf(f, " --kernel %s", q->kernels[i]);
	fprintf(f, " --seed %" PRIu64, q->seed);
	if (q->modules)
		fprintf(f, " --modules %s", q->modules);
	if (q->accel)
		fprintf(f, " --accel %s", q->accel);
	if (q->arms)
		fprintf(f, " --arms %s", q->arms);
	if (q->repeat != 1)
		fprintf(f, " --repeat %" PRIu64, q->repeat);
	if (q->memory_mib)
		fprintf(f, " --memory %" PRIu64, q->memory_mib);
	if (q->cpus)
		fprintf(f, " --cpus %" PRIu64, q->cpus);
	for (size_t i = 0; i < q->n_sets; i++)
		fprintf(f, " --set %s", q->sets[i]);
	fclose(f);
	return text;
}

static json_t *texts_json(const char *const *texts, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_string(texts[i]));
	return list;
}

static json_t *request_json(const struct run_request *q)
{
	json_t *o = json_object();

	json_put_text(o, "scenario", q->scenario);
	json_put_text(o, "on", q->on_metal ? "metal" : "guest");
	json_put_text(o, "device", q->device);
	if (q->n_kernels == 1)
		json_put_text(o, "kernel", q->kernels[0]);
	else
		json_object_set_new(o, "kernels", texts_json(q->kernels, q->n_kernels));
	json_put_text(o, "modules", q->modules);
	json_put_text(o, "accel", q->accel);
	json_put_text(o, "arms", q->arms);
	json_object_set_new(o, "memory_mib", json_integer((json_int_t)q->memory_mib));
	json_object_set_new(o, "cpus", json_integer((json_int_t)q->cpus));
	json_object_set_new(o, "repeat", json_integer((json_int_t)q->repeat));
	json_object_set_new(o, "set", texts_json(q->sets, q->n_sets));
	return o;
}

static json_t *plan_json(const struct run *r)
{
	json_t *plan = json_array();

	for (size_t i = 0; i < r->n_cells; i++) {
		const struct planned_cell *c = &r->plan[i];
		json_t *row = json_object();

		json_put_text(row, "cell", c->name);
		json_put_text(row, "arm", c->arm);
		if (r->request.n_kernels > 1)
			json_put_text(row, "kernel", r->request.kernels[c->kernel]);
		json_object_set_new(row, "repeat", json_integer(c->repeat));
		json_object_set_new(row, "seed", json_integer((json_int_t)c->seed));
		if (*c->replaces)
			json_put_text(row, "replaces", c->replaces);
		json_array_append_new(plan, row);
	}
	return plan;
}

static json_t *expect_json(const struct scenario *s)
{
	json_t *all = json_object();

	for (size_t i = 0; i < s->n_expect; i++) {
		json_t *list = json_array();

		for (int v = 0; v < N_VERDICTS; v++)
			if (s->expect[i].verdicts & (1U << v))
				json_array_append_new(list, json_string(verdict_name((enum verdict)v)));
		json_object_set_new(all, s->expect[i].arm, list);
	}
	return all;
}

static json_t *kernel_json(const struct kernel *k)
{
	json_t *o = json_object();

	json_put_text(o, "spec", k->spec);
	json_put_text(o, "version", k->version);
	json_put_text(o, "source", k->source);
	return o;
}

static json_t *kernels_json(const struct run *r)
{
	json_t *list = json_array();

	for (size_t i = 0; i < r->request.n_kernels; i++)
		json_array_append_new(list, kernel_json(&r->kernels[i].kernel));
	return list;
}

int run_write_json(const struct run *r)
{
	static const char *const kept[] = { "started_utc", "argv", "command", "scenario_file", "version", "host" };
	const struct run_request *q = &r->request;
	char path[PATH_MAX], utc[24], *command = command_line(q), *text;
	json_t *root = json_object(), *old;
	int err;

	json_put_text(root, "schema", "headroom.run/1");
	utc_stamp(utc, false);
	snprintf(path, sizeof(path), "%s/run.json", r->dir);
	old = json_load_file(path, 0, NULL);
	json_put_text(root, "started_utc", utc);
	json_put_text(root, "version", HEADROOM_VERSION);
	json_object_set_new(root, "argv", texts_json((const char *const *)q->argv, (size_t)q->argc));
	json_put_text(root, "command", command);
	json_put_text(root, "run_id", r->run_id);
	json_put_text(root, "scenario", r->scenario.name);
	json_put_text(root, "scenario_file", r->scenario.path);
	json_put_text(root, "scenario_text", r->scenario.text);
	json_put_text(root, "summary", r->scenario.summary);
	json_object_set_new(root, "seed", json_integer((json_int_t)q->seed));
	json_object_set_new(root, "expect", expect_json(&r->scenario));
	json_object_set_new(root, "options", request_json(q));
	if (q->n_kernels == 1)
		json_object_set_new(root, "kernel", kernel_json(&r->kernels[0].kernel));
	else
		json_object_set_new(root, "kernels", kernels_json(r));
	json_object_set_new(root, "host", host_json(r));
	json_object_set_new(root, "plan", plan_json(r));
	/* A run that is resumed keeps what it began with. */
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
		if (json_object_get(old, kept[i]))
			json_object_set(root, kept[i], json_object_get(old, kept[i]));
	text = json_dumps(root, JSON_INDENT(2));
	err = text ? sysfile_replace(path, text, strlen(text)) : -ENOMEM;
	if (err)
		log_err("%s: %s", path, strerror(-err));
	free(text);
	free(command);
	json_decref(root);
	json_decref(old);
	return err ? EXIT_BROKEN : 0;
}

int run_create_dir(struct run *r)
{
	char utc[24], parent[PATH_MAX], cells[PATH_MAX];
	int err;

	utc_stamp(utc, true);
	snprintf(parent, sizeof(parent), "%s", r->request.out);
	err = sysfile_mkdirs(parent);
	if (err) {
		log_err("--out %s: %s", parent, strerror(-err));
		return EXIT_NEED;
	}
	for (int n = 1;; n++) {
		/* Two runs may start in one second. */
		if (n == 1)
			snprintf(r->dir, sizeof(r->dir), "%s/%s-%s", parent, utc, r->scenario.name);
		else
			snprintf(r->dir, sizeof(r->dir), "%s/%s-%s-%d", parent, utc, r->scenario.name, n);
		if (mkdir(r->dir, 0755) == 0)
			break;
		if (errno != EEXIST) {
			log_err("%s: %s", r->dir, strerror(errno));
			return EXIT_NEED;
		}
	}
	snprintf(cells, sizeof(cells), "%s/cells", r->dir);
	if (mkdir(cells, 0755) < 0) {
		log_err("%s: %s", cells, strerror(errno));
		return EXIT_NEED;
	}
	snprintf(r->run_id, sizeof(r->run_id), "hr-%08" PRIx64, (uint64_t)time(NULL) & 0xffffffffU);
	return run_write_json(r);
}

/* --- Reading --- */

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

static uint64_t number_of(const json_t *object, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(object, key));

	return n > 0 ? (uint64_t)n : 0;
}

static int bad_run(const char *dir, const char *what)
{
	log_err("%s/run.json: %s", dir, what);
	return EXIT_NEED;
}

/* `kernel` for a single one, else the list `kernels`. */
static bool read_kernels(struct run_request *q, const json_t *options)
{
	const json_t *list = json_object_get(options, "kernels");

	if (!list) {
		q->kernels[0] = text_of(options, "kernel");
		q->n_kernels = 1;
		return q->kernels[0];
	}
	for (size_t i = 0; i < json_array_size(list); i++) {
		if (i == RUN_MAX_KERNELS || !json_is_string(json_array_get(list, i)))
			return false;
		q->kernels[q->n_kernels++] = json_string_value(json_array_get(list, i));
	}
	return q->n_kernels > 1;
}

static bool read_request(struct run_request *q, const json_t *root)
{
	const json_t *o = json_object_get(root, "options"), *sets = json_object_get(o, "set");

	q->scenario = text_of(root, "scenario");
	q->on_metal = text_of(o, "on") && strcmp(text_of(o, "on"), "metal") == 0;
	q->device = text_of(o, "device");
	q->modules = text_of(o, "modules");
	q->accel = text_of(o, "accel");
	q->arms = text_of(o, "arms");
	q->memory_mib = number_of(o, "memory_mib");
	q->cpus = number_of(o, "cpus");
	q->repeat = number_of(o, "repeat");
	q->seed = number_of(root, "seed");
	for (size_t i = 0; i < json_array_size(sets) && i < RUN_MAX_SETS; i++) {
		q->sets[q->n_sets] = json_string_value(json_array_get(sets, i));
		if (!q->sets[q->n_sets++])
			return false;
	}
	return q->scenario && q->repeat && read_kernels(q, o);
}

static void read_begun_with(struct run_kernel *k, const json_t *stored)
{
	const char *version = text_of(stored, "version");

	snprintf(k->begun_with, sizeof(k->begun_with), "%s", version ? version : "");
}

static bool safe_name(const char *name)
{
	return name && *name && *name != '.' && !strchr(name, '/') &&
	       strlen(name) < sizeof(((struct planned_cell *)0)->name);
}

/* Which of the run's kernels a row of the plan names; there is nothing to name where there is only one. */
static bool read_kernel_of_cell(const struct run_request *q, const json_t *row, unsigned *kernel)
{
	const char *name = text_of(row, "kernel");

	*kernel = 0;
	if (q->n_kernels == 1)
		return true;
	while (name && *kernel < q->n_kernels && strcmp(q->kernels[*kernel], name) != 0)
		++*kernel;
	return name && *kernel < q->n_kernels;
}

static bool read_plan(struct run *r, const json_t *plan)
{
	size_t i;
	json_t *row;

	r->n_cells = 0;
	json_array_foreach (plan, i, row) {
		struct planned_cell *c = &r->plan[r->n_cells];
		const char *name = text_of(row, "cell"), *arm = text_of(row, "arm"),
			   *replaces = text_of(row, "replaces");

		if (i == RUN_MAX_CELLS || !safe_name(name) || !arm)
			return false;
		memset(c, 0, sizeof(*c));
		snprintf(c->name, sizeof(c->name), "%s", name);
		snprintf(c->arm, sizeof(c->arm), "%s", arm);
		snprintf(c->replaces, sizeof(c->replaces), "%s", replaces ? replaces : "");
		if (!read_kernel_of_cell(&r->request, row, &c->kernel))
			return false;
		c->repeat = (unsigned)number_of(row, "repeat");
		c->seed = number_of(row, "seed");
		r->n_cells++;
	}
	return r->n_cells > 0;
}

static void read_journal_line(struct run *r, const json_t *line)
{
	const char *event = text_of(line, "event"), *name = text_of(line, "cell");

	for (size_t i = 0; event && name && i < r->n_cells; i++) {
		struct planned_cell *c = &r->plan[i];
		const char *verdict = text_of(line, "verdict");

		if (strcmp(c->name, name) != 0)
			continue;
		if (strcmp(event, "cell-start") == 0)
			c->state = CELL_STARTED;
		if (strcmp(event, "cell-end") == 0 && verdict && verdict_find(verdict) != N_VERDICTS) {
			c->state = CELL_ENDED;
			c->verdict = verdict_find(verdict);
			c->interrupted =
				text_of(line, "interrupted") || json_is_true(json_object_get(line, "interrupted"));
			snprintf(c->reason, sizeof(c->reason), "%s",
				 text_of(line, "reason") ? text_of(line, "reason") : "");
		}
	}
}

/* A last line that was cut off by the crash is no line. */
static int read_journal(struct run *r)
{
	char path[PATH_MAX], *line = NULL;
	size_t size = 0;
	ssize_t len;
	FILE *f;

	snprintf(path, sizeof(path), "%s/journal.jsonl", r->dir);
	f = fopen(path, "re");
	if (!f && errno == ENOENT)
		return 0; /* cut off before its first line */
	if (!f) {
		log_err("%s: %s", path, strerror(errno));
		return EXIT_NEED;
	}
	while ((len = getline(&line, &size, f)) > 0) {
		json_t *row = json_loadb(line, (size_t)len, 0, NULL);

		read_journal_line(r, row);
		json_decref(row);
	}
	free(line);
	fclose(f);
	return 0;
}

int run_load(struct run *r, const char *dir)
{
	char path[PATH_MAX], what[JSON_ERROR_TEXT_LENGTH + 32];
	json_error_t where;
	json_t *root;
	int rc;

	snprintf(r->dir, sizeof(r->dir), "%s", dir);
	for (size_t n = strlen(r->dir); n > 1 && r->dir[n - 1] == '/'; n--)
		r->dir[n - 1] = '\0';
	snprintf(path, sizeof(path), "%s/run.json", r->dir);
	if (access(path, R_OK) < 0) {
		log_err("%s: %s: not the directory of a run", dir, strerror(errno));
		return EXIT_NEED;
	}
	root = json_load_file(path, 0, &where); /* never freed: the request points into it */
	if (!root) {
		snprintf(what, sizeof(what), "not JSON (line %d): %s", where.line, where.text);
		return bad_run(r->dir, what);
	}
	if (!text_of(root, "schema") || strcmp(text_of(root, "schema"), "headroom.run/1") != 0)
		return bad_run(r->dir, "schema is not headroom.run/1");
	if (!read_request(&r->request, root) || !text_of(root, "scenario_text") || !text_of(root, "run_id"))
		return bad_run(r->dir, "a field is missing or of the wrong type");
	snprintf(r->run_id, sizeof(r->run_id), "%s", text_of(root, "run_id"));
	for (size_t i = 0; i < r->request.n_kernels; i++)
		read_begun_with(&r->kernels[i], r->request.n_kernels == 1
							? json_object_get(root, "kernel")
							: json_array_get(json_object_get(root, "kernels"), i));
	rc = run_plan(r, text_of(root, "scenario_text"));
	if (rc)
		return EXIT_NEED;
	if (!read_plan(r, json_object_get(root, "plan")))
		return bad_run(r->dir, "the plan is not one");
	return read_journal(r);
}
