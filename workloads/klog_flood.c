// SPDX-License-Identifier: MIT
/*
 * klog-flood: numbered lines into the kernel log, faster than it can be read.
 *
 * A load for the recorder: the log's ring is overwritten before anybody has seen it, and what counts is that the loss
 * is counted. Every line carries its number, so that afterwards the lines that are there and the losses that the
 * recorder admits to must add up to what was written.
 */
#include "base/clock.h"
#include "run/workload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct flood_opts {
	uint64_t lines, rate;
};

#define FIELD(name) offsetof(struct flood_opts, name)
static const struct opt flood_options[] = {
	{ "lines", OPT_U64, FIELD(lines), "200000", 1, 100000000, NULL, NULL, "lines written" },
	{ "rate", OPT_U64, FIELD(rate), "0", 0, 10000000, NULL, "lines/s", "at most so many; 0: as fast as it goes" },
	{ 0 },
};

static const struct metric flood_metrics[] = {
	{ "flood_lines", "", NEITHER, "lines written into the kernel log" },
	{ "flood_lines_s", "lines/s", NEITHER, "rate of the flood" },
	{ 0 },
};

static int setup(struct cell *c)
{
	(void)c;
	return 0;
}

static int run(struct cell *c)
{
	const struct flood_opts *o = c->opts;
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	int64_t begin = clock_ns(), took_ms;
	uint64_t n = 0;
	int err = 0;

	if (fd < 0) {
		err = -errno;
		cell_fail(c, "/dev/kmsg: %s", strerror(-err));
		return err;
	}
	for (; n < o->lines && !err; n++) {
		char line[64];
		int len = snprintf(line, sizeof(line), "<6>headroom: flood %" PRIu64 "\n", n);

		if (write(fd, line, (size_t)len) != len)
			err = -errno;
		if (n % 1000 == 0 && cell_should_stop(c))
			break;
		if (o->rate && n % (o->rate / 100 + 1) == 0) {
			int64_t due = begin + (int64_t)(n * NS_PER_S / o->rate);

			if (due > clock_ns())
				clock_sleep_ms((due - clock_ns()) / NS_PER_MS);
		}
	}
	close(fd);
	took_ms = (clock_ns() - begin) / NS_PER_MS;
	cell_metric_u64(c, "flood_lines", n);
	if (took_ms > 0)
		cell_metric_u64(c, "flood_lines_s", n * 1000 / (uint64_t)took_ms);
	if (err)
		cell_fail(c, "write /dev/kmsg: %s", strerror(-err));
	return err;
}

/* Whether lines and losses add up is seen in the record, not here: the test of this workload does it. */
static int verify(struct cell *c)
{
	(void)c;
	return 0;
}

static const struct workload klog_flood = {
	.name = "klog-flood",
	.summary = "numbered lines into the kernel log faster than it can be read: a load for the recorder",
	.exercises = (const char *const[]){ "devkmsg_write", "devkmsg_read", NULL },
	.opts = flood_options,
	.opts_size = sizeof(struct flood_opts),
	.metrics = flood_metrics,
	.setup = setup,
	.run = run,
	.verify = verify,
};
WORKLOAD_REGISTER(klog_flood);
