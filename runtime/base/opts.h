// SPDX-License-Identifier: MIT
/*
 * Option tables: one row an option, from which parsing, range checks, help text and the stored echo all follow.
 */
#ifndef HEADROOM_OPTS_H
#define HEADROOM_OPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum opt_type {
	OPT_U64,  /* field: uint64_t; min and max bound it */
	OPT_BOOL, /* field: bool; yes/no, on/off, true/false, 1/0 */
	OPT_ENUM, /* field: unsigned; the index into `choices` */
};

#define OPTS_MAX_SIZE 512 /* bytes: no options struct of a workload is larger */

struct opt {
	const char *name; /* NULL ends the table */
	enum opt_type type;
	size_t offset; /* of the field in the options struct */
	const char *def;
	uint64_t min, max;
	const char *const *choices; /* NULL-terminated */
	const char *unit;	    /* NULL: a bare number */
	const char *help;	    /* one line */
};

/* Fill the struct from the defaults of its table. A table whose default does not parse aborts: it is a bug. */
void opts_defaults(const struct opt *table, void *values);
/*
 * Set one option from text. Returns 0, or -ENOENT (no such option) or -EINVAL (bad value) with a sentence in `err`
 * that names the option, the value and what is allowed.
 */
int opts_set(const struct opt *table, void *values, const char *name, const char *value, char *err, size_t err_size);
/* The present value as text, such that opts_set() reads it back. */
void opts_format(const struct opt *opt, const void *values, char *buf, size_t size);

/* Parse a whole decimal number between min and max. Returns 0 or -EINVAL. */
int parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value);

#endif
