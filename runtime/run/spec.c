// SPDX-License-Identifier: MIT
#include "run/spec.h"

#include "base/jsonw.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* The numbers, once for both directions. */
#define FOR_EACH_NUMBER(X)                                                                                             \
	X(seed)                                                                                                        \
	X(setup_s)                                                                                                     \
	X(run_s)                                                                                                       \
	X(ramp_s) X(overlap_s) X(verify_s) X(period_ms) X(canary_ms) X(wq_trace_kib) X(wq_trace_ms) X(bystander_mib)
#define FOR_EACH_STRING(X) X(cell) X(scenario) X(arm) X(run_id) X(scratch) X(holder)

int spec_write(const struct spec *s, char *buf, size_t size)
{
	struct jsonw j;
	char value[64];
	size_t len;

	jsonw_init(&j, buf, size - 1);
	jsonw_object(&j, NULL);
#define PUT_NUMBER(field) jsonw_u64(&j, #field, s->field);
#define PUT_STRING(field) jsonw_str(&j, #field, s->field);
	FOR_EACH_NUMBER(PUT_NUMBER)
	FOR_EACH_STRING(PUT_STRING)
	jsonw_array(&j, "knobs");
	for (size_t i = 0; i < s->n_knobs; i++) {
		jsonw_object(&j, NULL);
		jsonw_str(&j, "name", s->knobs[i].name);
		jsonw_str(&j, "path", s->knobs[i].path);
		jsonw_str(&j, "value", s->knobs[i].value);
		jsonw_bool(&j, "required", s->knobs[i].required);
		jsonw_object_end(&j);
	}
	jsonw_array_end(&j);
	jsonw_array(&j, "workloads");
	for (size_t i = 0; i < s->n_workloads; i++) {
		const struct spec_workload *w = &s->workloads[i];

		jsonw_object(&j, NULL);
		jsonw_str(&j, "name", w->workload->name);
		jsonw_u64(&j, "start_sector", w->start_sector);
		jsonw_u64(&j, "sectors", w->sectors);
		jsonw_bool(&j, "follows", w->follows);
		jsonw_object(&j, "options");
		for (const struct opt *o = w->workload->opts; o->name; o++) {
			opts_format(o, w->opts, value, sizeof(value));
			jsonw_str(&j, o->name, value);
		}
		jsonw_object_end(&j);
		jsonw_object_end(&j);
	}
	jsonw_array_end(&j);
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	if (!len)
		return -ENOSPC;
	buf[len] = '\0';
	return (int)len;
}

static bool get_string(const json_t *from, const char *key, char *to, size_t size)
{
	const char *text = json_string_value(json_object_get(from, key));

	return text && snprintf(to, size, "%s", text) < (int)size;
}

static bool read_knob(struct spec_knob *k, const json_t *from)
{
	k->required = json_is_true(json_object_get(from, "required"));
	return get_string(from, "name", k->name, sizeof(k->name)) &&
	       get_string(from, "path", k->path, sizeof(k->path)) &&
	       get_string(from, "value", k->value, sizeof(k->value));
}

static int read_workload(struct spec_workload *w, const json_t *from, char *err, size_t err_size)
{
	const char *name = json_string_value(json_object_get(from, "name")), *key;
	json_t *options = json_object_get(from, "options"), *value;

	w->workload = name ? workload_find(name) : NULL;
	if (!w->workload) {
		snprintf(err, err_size, "unknown workload '%s'", name ? name : "");
		return -EINVAL;
	}
	w->start_sector = (uint64_t)json_integer_value(json_object_get(from, "start_sector"));
	w->sectors = (uint64_t)json_integer_value(json_object_get(from, "sectors"));
	w->follows = json_is_true(json_object_get(from, "follows"));
	opts_defaults(w->workload->opts, w->opts);
	json_object_foreach (options, key, value) {
		if (!json_is_string(value) ||
		    opts_set(w->workload->opts, w->opts, key, json_string_value(value), err, err_size))
			return -EINVAL;
	}
	return 0;
}

int spec_read(struct spec *s, const char *text, size_t len, char *err, size_t err_size)
{
	json_error_t where;
	json_t *root = json_loadb(text, len, 0, &where), *knobs, *workloads;
	bool ok = true;
	int rc = 0;

	memset(s, 0, sizeof(*s));
	if (!root) {
		snprintf(err, err_size, "not JSON: %s", where.text);
		return -EINVAL;
	}
#define GET_NUMBER(field)                                                                                              \
	ok = ok && json_is_integer(json_object_get(root, #field));                                                     \
	s->field = (typeof(s->field))json_integer_value(json_object_get(root, #field));
#define GET_STRING(field) ok = ok && get_string(root, #field, s->field, sizeof(s->field));
	FOR_EACH_NUMBER(GET_NUMBER)
	FOR_EACH_STRING(GET_STRING)
	knobs = json_object_get(root, "knobs");
	workloads = json_object_get(root, "workloads");
	s->n_knobs = json_array_size(knobs);
	s->n_workloads = json_array_size(workloads);
	ok = ok && s->n_knobs <= SPEC_MAX_KNOBS && s->n_workloads <= SPEC_MAX_WORKLOADS;
	for (size_t i = 0; ok && i < s->n_knobs; i++)
		ok = read_knob(&s->knobs[i], json_array_get(knobs, i));
	if (!ok) {
		snprintf(err, err_size, "a field is missing, too long or of the wrong type");
		rc = -EINVAL;
	}
	for (size_t i = 0; !rc && i < s->n_workloads; i++)
		rc = read_workload(&s->workloads[i], json_array_get(workloads, i), err, err_size);
	json_decref(root);
	return rc;
}
