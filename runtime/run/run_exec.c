// SPDX-License-Identifier: MIT
/* Walking the plan: one guest a cell, journal before and after, verdict, summary, report. */
#include "run/run.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/log.h"
#include "base/paths.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "base/ticker.h"
#include "commands.h"
#include "run/journal.h"
#include "run/mitigation.h"
#include "run/result.h"
#include "run/undo.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_S	      60 /* a kernel that has not reached us by then does not boot */
#define MAX_BOOTS     2	 /* under emulation about one boot in a hundred fails in the kernel's first two seconds */
#define PLAIN_EVERY_S 10 /* between progress lines where there is no terminal */
#define REPORT_S      300
#define GUEST_SCRATCH "/dev/vdb"
#define SCRATCH	      "scratch" /* the file */

/*
 * slab_nomerge: a cache that is merged with others has no line of its own in slabinfo. loglevel 5: what the kernel
 * warns of is on the serial console too, so that a panic's last words are found there. tsc=reliable: under emulation
 * the watchdog of the TSC, which is the host's and right, finds it late, and 6.12 can die of that while it boots
 * (clocksource_watchdog() in add_timer_on()).
 */
#define GUEST_CMDLINE "console=ttyS0 panic=-1 loglevel=5 slab_nomerge printk.devkmsg=on tsc=reliable"

/*
 * Set in every arm. The detectors' thresholds are below the kernel's defaults (21 s, 30 s, 20 s, 120 s) because a cell
 * is over in a minute or two, and so that the most specific speaks first, its latest word before the next one's
 * earliest: an RCU stall names the CPU and what runs there (from 4 s), a workqueue lockup the pool and its works
 * (looked for every 5 s: 5 to 10 s), a soft lockup the CPU (twice watchdog_thresh: from 12 s), a hung task only who
 * waits (20 to 40 s). hung_task_warnings -1 is no limit.
 */
static const struct spec_knob pins[] = {
	{ "kernel.hung_task_timeout_secs", "/proc/sys/kernel/hung_task_timeout_secs", "20", false },
	{ "kernel.hung_task_warnings", "/proc/sys/kernel/hung_task_warnings", "-1", false },
	{ "kernel.watchdog_thresh", "/proc/sys/kernel/watchdog_thresh", "6", false },
	{ "workqueue.watchdog_thresh", "/sys/module/workqueue/parameters/watchdog_thresh", "5", false },
	{ "rcupdate.rcu_cpu_stall_timeout", "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout", "4", false },
	{ "vm.oom_dump_tasks", "/proc/sys/vm/oom_dump_tasks", "1", false },
	/* Compressed in memory, what is swapped out would not reach the device. */
	{ "zswap.enabled", "/sys/module/zswap/parameters/enabled", "N", false },
};

/* --- One cell --- */

/* All that a cell needs and that has to go again. */
struct cell_files {
	char dir[PATH_MAX], box[PATH_MAX], scratch[PATH_MAX], console[PATH_MAX];
};

static void name_files(struct cell_files *f, const struct run *r, const struct planned_cell *c)
{
	snprintf(f->dir, sizeof(f->dir), "%s/cells/%s", r->dir, c->name);
	snprintf(f->box, sizeof(f->box), "%s/box", f->dir);
	snprintf(f->scratch, sizeof(f->scratch), "%s/" SCRATCH, f->dir);
	snprintf(f->console, sizeof(f->console), "%s/%s", f->dir, r->request.on_metal ? "cell.log" : "console.log");
}

/* The black box goes only when all of it is in the record; QEMU's own words stay when there are any. */
static void remove_files(const struct cell_files *f, bool recorded)
{
	char qemu_log[PATH_MAX];
	struct stat st;

	if (recorded)
		unlink(f->box);
	unlink(f->scratch);
	snprintf(qemu_log, sizeof(qemu_log), "%s.qemu", f->console);
	if (stat(qemu_log, &st) == 0 && st.st_size == 0)
		unlink(qemu_log);
}

static void add_knob(struct spec *s, const struct spec_knob *k)
{
	if (s->n_knobs < SPEC_MAX_KNOBS)
		s->knobs[s->n_knobs++] = *k;
}

/* A pin whose value the scenario gives. */
static void add_text_pin(struct spec *s, const char *name, const char *path, const char *value)
{
	struct spec_knob k = { .required = false };

	snprintf(k.name, sizeof(k.name), "%s", name);
	snprintf(k.path, sizeof(k.path), "%s", path);
	snprintf(k.value, sizeof(k.value), "%s", value);
	add_knob(s, &k);
}

static void add_pin(struct spec *s, const char *name, const char *path, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	add_text_pin(s, name, path, text);
}

static void add_knobs(struct spec *s, const struct scenario *sc, const struct arm *arm)
{
	const struct scenario_opts *o = &sc->opts;

	for (size_t i = 0; i < sizeof(pins) / sizeof(pins[0]); i++)
		add_knob(s, &pins[i]);
	add_pin(s, "vm.panic_on_oom", "/proc/sys/vm/panic_on_oom", o->panic_on_oom);
	/* The kernel refuses a background above the other, so the order matters. */
	if (o->dirty_ratio)
		add_pin(s, "vm.dirty_ratio", "/proc/sys/vm/dirty_ratio", o->dirty_ratio);
	if (o->dirty_background_ratio)
		add_pin(s, "vm.dirty_background_ratio", "/proc/sys/vm/dirty_background_ratio",
			o->dirty_background_ratio);
	/* As the kernel prints it, so that reading back compares (mm/vmscan.c). */
	if (o->lru_gen < 2)
		add_text_pin(s, "lru_gen.enabled", "/sys/kernel/mm/lru_gen/enabled", o->lru_gen ? "0x0007" : "0x0000");
	/* Before the arm's knobs: reserves are told in multiples of what this leaves. */
	if (o->thp)
		add_text_pin(s, "transparent_hugepage.enabled", "/sys/kernel/mm/transparent_hugepage/enabled",
			     scenario_thp_choices[o->thp]);
	for (size_t i = 0; i < arm->n_settings; i++) {
		const struct mitigation *m = arm->settings[i].mitigation;
		struct spec_knob k = { .required = m && !m->since };

		for (unsigned n = 0; m && n < mitigation_knobs(m); n++) {
			if (!m->knobs[n].path || !mitigation_value(arm->settings[i].value, n, k.value, sizeof(k.value)))
				continue;
			snprintf(k.name, sizeof(k.name), "%s", m->knobs[n].name);
			snprintf(k.path, sizeof(k.path), "%s", m->knobs[n].path);
			add_knob(s, &k);
		}
	}
}

static void fill_spec(struct spec *s, const struct run *r, const struct planned_cell *c, const struct scenario *sc,
		      const struct arm *arm)
{
	char dir[PATH_MAX];

	memset(s, 0, sizeof(*s));
	snprintf(s->cell, sizeof(s->cell), "%s", c->name);
	snprintf(s->scenario, sizeof(s->scenario), "%s", sc->name);
	snprintf(s->arm, sizeof(s->arm), "%s", c->arm);
	snprintf(s->run_id, sizeof(s->run_id), "%s", r->run_id);
	if (r->request.device) {
		snprintf(s->scratch, sizeof(s->scratch), "%s", r->request.device);
		snprintf(s->holder, sizeof(s->holder), "%s-disk", r->run_id);
	} else if (r->request.on_metal && realpath(r->dir, dir)) {
		/* The kernel tells of files by their whole paths. */
		snprintf(s->scratch, sizeof(s->scratch), "%s/cells/%s/" SCRATCH, dir, c->name);
	} else {
		snprintf(s->scratch, sizeof(s->scratch), GUEST_SCRATCH);
	}
	s->seed = c->seed;
	s->setup_s = (unsigned)sc->opts.setup_s;
	s->run_s = (unsigned)sc->opts.run_s;
	s->ramp_s = (unsigned)sc->opts.ramp_s;
	s->overlap_s = (unsigned)sc->opts.overlap_s;
	s->verify_s = (unsigned)sc->opts.verify_s;
	s->period_ms = (unsigned)sc->opts.period_ms;
	s->canary_ms = (unsigned)sc->opts.canary_ms;
	s->wq_trace_kib = sc->opts.wq_trace ? (unsigned)sc->opts.wq_trace_kib : 0;
	s->wq_trace_ms = (unsigned)sc->opts.wq_trace_ms;
	s->bystander_mib = (unsigned)sc->opts.bystander;
	add_knobs(s, sc, arm);
	s->n_workloads = sc->n_workloads;
	memcpy(s->workloads, sc->workloads, sizeof(s->workloads));
}

/* A cell's scenario, arm and specification, from the plan alone: the same when it runs and when it is taken up again.
 */
struct prepared {
	struct scenario scenario;
	struct arm arm;
	struct spec spec;
	char cmdline[1024];
	uint64_t scratch_sectors;
};

/* The guest's kernel parameters, with those that the arm sets. */
static void fill_cmdline(struct prepared *p)
{
	/* Else 6.1 leaves hot-plugged memory offline, and 6.12 has it hold anything. */
	size_t len = (size_t)snprintf(p->cmdline, sizeof(p->cmdline), "%s%s", GUEST_CMDLINE,
				      p->scenario.opts.dimms ? " memhp_default_state=online_movable" : "");

	for (size_t i = 0; i < p->arm.n_settings && len < sizeof(p->cmdline); i++) {
		const struct arm_setting *set = &p->arm.settings[i];

		if (set->mitigation && set->mitigation->boot && strcmp(set->value, BOOT_DEFAULT) != 0)
			len += (size_t)snprintf(p->cmdline + len, sizeof(p->cmdline) - len, " %s=%s",
						set->mitigation->boot, set->value);
	}
}

static int prepare(struct prepared *p, const struct run *r, const struct planned_cell *c)
{
	char err[512];

	p->scenario = r->scenario;
	if (scenario_arm(&p->scenario, c->arm, &p->arm, err, sizeof(err)) ||
	    scenario_apply(&p->scenario, &p->arm, err, sizeof(err))) {
		log_err("%s", err);
		return EXIT_BROKEN;
	}
	p->scratch_sectors = scenario_place(&p->scenario);
	fill_spec(&p->spec, r, c, &p->scenario, &p->arm);
	if (!r->request.on_metal)
		fill_cmdline(p);
	else if (sysfile_read("/proc/cmdline", p->cmdline, sizeof(p->cmdline)) < 0)
		p->cmdline[0] = '\0';
	return 0;
}

/* A disk as fresh as the sparse file would be: a load may count on zeros, and find nothing of the cell before. */
static int ready_disk(const struct run *r, const char *cell, uint64_t sectors)
{
	int rc = run_claim_disk(r), err;

	if (rc)
		return rc;
	err = metal_blank_disk(sectors * 512);
	if (err && err != -EINTR)
		log_err("%s: --device %s cannot be zeroed: %s", cell, r->request.device, strerror(-err));
	return err == -EINTR ? EXIT_INTERRUPTED : err ? EXIT_BROKEN : 0;
}

static int make_scratch(const char *path, uint64_t sectors)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), err = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)(sectors * 512)) < 0)
		err = -errno;
	close(fd);
	return err;
}

static int make_box(struct bb *box, const char *path, const struct prepared *p)
{
	uint64_t size;
	void *memory;
	int len, err = bb_map_file(path, scenario_box_size(&p->scenario), &memory, &size);

	if (err)
		return err;
	bb_format(box, memory, size);
	len = spec_write(&p->spec, (char *)memory + BB_SPEC_OFFSET, BB_SPEC_MAX);
	if (len < 0) {
		bb_unmap(box);
		return len;
	}
	box->head->spec_len = (uint32_t)len;
	return 0;
}

/* --- Progress --- */

struct progress {
	const struct run *run;
	size_t index;
	double plain_due_s;
	double typical_s; /* of a cell: the mean of those that ran, or what the scenario says */
	bool terminal;
	bool drawn;
	struct ticker *ticker; /* on metal; NULL: straight to stderr */
};

static void show_progress(const struct bb *box, double wall_s, void *arg)
{
	static const char *const stages[] = { "booting", "booted", "setting up", "running", "verifying", "ending" };
	struct progress *p = arg;
	const struct bb_header *h = box->head;
	const struct planned_cell *cell = &p->run->plan[p->index];
	unsigned stage = atomic_load(&h->stage);
	size_t left = p->run->n_cells - p->index - 1;
	double left_s =
		(double)left * p->typical_s + (p->typical_s > wall_s ? p->typical_s - wall_s : 0) + p->run->later_s;
	char live[160] = "", text[400];

	if (!p->terminal && wall_s < p->plain_due_s)
		return;
	p->plain_due_s += PLAIN_EVERY_S;
	if (atomic_load(&h->samples_taken))
		snprintf(live, sizeof(live),
			 "  slab %" PRIu64 " MiB, free %" PRIu64 " MiB, OOM kills %" PRIu64 ", canary %" PRIu64 " ms",
			 atomic_load(&h->live_slab_kib) / 1024, atomic_load(&h->live_available_kib) / 1024,
			 atomic_load(&h->live_oom_kills), atomic_load(&h->live_canary_ms));
	snprintf(text, sizeof(text), "%s[%zu/%zu] %s: %s %.0f s%s  (about %.0f s left)%s",
		 p->terminal ? "\r\033[K" : "", p->index + 1, p->run->n_cells,
		 p->run->request.n_kernels > 1 ? cell->name : cell->arm, stages[stage <= BB_DONE ? stage : BB_DONE],
		 wall_s, live, left_s, p->terminal ? "" : "\n");
	if (p->ticker)
		ticker_say(p->ticker, text);
	else
		fputs(text, stderr);
	p->drawn = p->terminal;
}

static void end_progress(struct progress *p)
{
	ticker_end(p->ticker);
	p->ticker = NULL;
	if (p->drawn)
		fprintf(stderr, "\r\033[K");
	p->drawn = false;
}

/* --- Running --- */

static bool stands_in(const char *path, const char *words)
{
	FILE *f = fopen(path, "re");
	char line[512];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, words);
	if (f)
		fclose(f);
	return found;
}

/*
 * What emulation does to a boot now and then, and not again; nothing of the cell has begun. NULL: it would end so
 * again. It had begun and neither went on nor gave up; or a processor ran into a breakpoint that the kernel had put
 * where it changed its own code (text_poke_bp() of arch/x86/kernel/alternative.c), and had taken back already.
 */
static const char *chance_in_boot(const struct guest_config *g, const struct ending *ending)
{
	struct stat console;

	if (ending->end != END_NO_BOOT || stat(g->console_log, &console) < 0 || !console.st_size)
		return NULL;
	if (ending->wall_s >= g->limits.boot_s)
		return "hung while it booted";
	return strcmp(g->accel, "tcg") == 0 && stands_in(g->console_log, "int3: 0000 [#1]")
		       ? "ran into a breakpoint that was not there any more while it booted"
		       : NULL;
}

static struct watch_limits limits_of(const struct scenario_opts *o)
{
	return (struct watch_limits){
		.boot_s = BOOT_S,
		.silence_s = (unsigned)o->silence_s,
		.deadline_s = (unsigned)(BOOT_S + o->slack_s + o->setup_s + o->run_s + o->verify_s),
	};
}

static int run_guest(const struct run *r, const struct prepared *p, const struct cell_files *files, struct bb *box,
		     struct progress *progress, struct ending *ending)
{
	const struct scenario_opts *o = &p->scenario.opts;
	const struct run_kernel *k = &r->kernels[r->plan[progress->index].kernel];
	struct guest_config g = {
		.accel = r->accel.name,
		.cpus = (unsigned)o->cpus,
		.memory_mib = (unsigned)o->memory,
		.dimms = (unsigned)o->dimms,
		.dimm_mib = (unsigned)o->dimm_mib,
		.kernel = k->kernel.boot,
		.initramfs = k->image.initramfs,
		.image = k->image.image,
		.scratch = files->scratch,
		.box_path = files->box,
		.box_size = box->size,
		.console_log = files->console,
		.cmdline = p->cmdline,
		.limits = limits_of(o),
	};
	const char *name = r->plan[progress->index].name;
	const char *const again[] = { "cell", name, NULL };
	const char *chance;
	int err = 0;

	for (int boot = 1; !err; boot++) {
		err = guest_run(&g, box, show_progress, progress, ending);
		end_progress(progress);
		chance = chance_in_boot(&g, ending);
		if (err || boot == MAX_BOOTS || !chance)
			break;
		log_warn("%s: the guest %s, it is started again", name, chance);
		err = journal_write(r->dir, "boot-again", again);
	}
	if (err)
		log_err(QEMU_BINARY ": %s", strerror(-err));
	return err;
}

/* What the machine was like before the cell it must be after it: else nothing may follow. */
static int restore_machine(const struct cell_files *files)
{
	char text[2 * PATH_MAX];
	int err = metal_undo(files->dir);

	snprintf(text, sizeof(text), "%s/" UNDO_LOG ": not all could be put back: %s; nothing more is run", files->dir,
		 err == -ETIMEDOUT ? "something hangs in the kernel" : strerror(-err));
	if (err)
		metal_say(text);
	return err;
}

static int run_on_metal(const struct prepared *p, const struct cell_files *files, struct bb *box,
			struct progress *progress, struct ending *ending)
{
	struct metal_config m = {
		.spec = &p->spec, .dir = files->dir, .log = files->console, .limits = limits_of(&p->scenario.opts)
	};
	int err;

	metal_release_disk();
	err = ticker_start(&progress->ticker);
	if (!err)
		err = metal_run(&m, box, show_progress, progress, ending);
	end_progress(progress);
	if (err)
		log_err("%s: %s", files->dir, strerror(-err));
	return err;
}

/*
 * Put the machine back, and see whether the record can be written. `stays`: not all was put back, so what there is of
 * the cell must stay for who tries again.
 */
static int settle_machine(struct run *r, const struct cell_files *files, bool *stays)
{
	char text[2 * PATH_MAX];
	int err = restore_machine(files);

	*stays = err != 0;
	/* At once, not when the next cell begins: until then it would be anybody's. */
	if (!err && r->request.device)
		metal_claim_disk(r->request.device, 0, text, sizeof(text));
	err = metal_can_write(files->dir);
	r->wedged = err == -ETIMEDOUT;
	snprintf(text, sizeof(text), "%s: %s; 'headroom resume %s' writes the record", files->dir,
		 r->wedged ? "its file system does not answer" : strerror(-err), r->dir);
	if (err)
		metal_say(text);
	return err;
}

static int judge(const struct run *r, struct planned_cell *c, const struct prepared *p, const struct cell_files *files,
		 const struct bb *box, const struct ending *ending)
{
	struct result_context context = {
		.scenario = &p->scenario,
		.spec = &p->spec,
		.arm = &p->arm,
		.kernel = &r->kernels[c->kernel].kernel,
		.accel = &r->accel,
		.cmdline = p->cmdline,
		.repeat = c->repeat,
		.ending = ending,
		.interrupted = c->interrupted,
		.metal = r->request.on_metal ? &r->metal : NULL,
	};
	struct judgement judgement;
	const char *pairs[] = { "cell", c->name, "verdict", NULL, "reason", NULL, "interrupted", NULL, NULL };
	int err = result_write(files->dir, box, &context, &judgement);

	if (err)
		return EXIT_BROKEN;
	c->state = CELL_ENDED;
	c->verdict = judgement.verdict;
	snprintf(c->reason, sizeof(c->reason), "%s", judgement.reason);
	pairs[3] = verdict_name(c->verdict);
	pairs[5] = c->reason;
	pairs[7] = c->interrupted ? "yes" : NULL;
	if (!c->interrupted)
		pairs[6] = NULL;
	err = journal_write(r->dir, "cell-end", pairs);
	if (err) {
		log_err("%s/journal.jsonl: %s", r->dir, strerror(-err));
		return EXIT_BROKEN;
	}
	return 0;
}

static int run_one(struct run *r, struct planned_cell *c, struct progress *progress)
{
	const char *const start[] = { "cell", c->name, "arm", c->arm, NULL };
	static struct prepared p;
	struct ending ending;
	struct cell_files files;
	struct bb box = { 0 };
	bool stays = false;
	int rc = prepare(&p, r, c), err;

	if (!rc && r->request.device)
		rc = ready_disk(r, c->name, p.scratch_sectors);
	if (rc)
		return rc;
	name_files(&files, r, c);
	err = journal_write(r->dir, "cell-start", start);
	if (!err && mkdir(files.dir, 0755) < 0)
		err = -errno;
	if (!err && !r->request.device)
		err = make_scratch(files.scratch, p.scratch_sectors);
	if (!err)
		err = make_box(&box, files.box, &p);
	if (err) {
		log_err("%s: %s", files.dir, strerror(-err));
		rc = EXIT_BROKEN;
	}
	c->state = CELL_STARTED;
	if (!rc && (r->request.on_metal ? run_on_metal(&p, &files, &box, progress, &ending)
					: run_guest(r, &p, &files, &box, progress, &ending)))
		rc = EXIT_BROKEN;
	if (!rc && r->request.on_metal && settle_machine(r, &files, &stays))
		return EXIT_BROKEN; /* all stays as it is */
	if (!rc) {
		/* Neither a signal to us nor a process that somebody killed says anything about the kernel. */
		c->interrupted = ending.end == END_SIGNAL || (ending.end == END_DIED && ending.status > 128);
		rc = judge(r, c, &p, &files, &box, &ending);
	}
	bb_unmap(&box);
	if (stays)
		return EXIT_BROKEN;
	remove_files(&files, rc == 0);
	return rc;
}

/* Cut off after its cell.json was written and before the journal knew: the cell is complete. 0 when it is so. */
static int adopt_record(struct run *r, struct planned_cell *c, const struct cell_files *files)
{
	const char *pairs[] = { "cell", c->name, "verdict", NULL, "reason", NULL, NULL, NULL, NULL };
	const char *verdict, *reason;
	char path[PATH_MAX];
	json_t *cell;
	int err = -ENOENT;

	snprintf(path, sizeof(path), "%s/cell.json", files->dir);
	cell = json_load_file(path, 0, NULL);
	verdict = json_string_value(json_object_get(cell, "verdict"));
	reason = json_string_value(json_object_get(cell, "reason"));
	if (verdict && verdict_find(verdict) != N_VERDICTS) {
		c->state = CELL_ENDED;
		c->verdict = verdict_find(verdict);
		c->interrupted = json_is_true(json_object_get(cell, "interrupted"));
		snprintf(c->reason, sizeof(c->reason), "%s", reason ? reason : "");
		pairs[3] = verdict;
		pairs[5] = c->reason;
		pairs[6] = c->interrupted ? "interrupted" : NULL;
		pairs[7] = "yes";
		err = journal_write(r->dir, "cell-end", pairs);
	}
	json_decref(cell);
	return err;
}

int run_end_interrupted(struct run *r, struct planned_cell *c)
{
	static struct prepared p;
	struct cell_files files;
	struct bb box = { 0 };
	uint64_t size = 0;
	void *memory = NULL;
	int rc = prepare(&p, r, c);

	if (rc)
		return rc;
	name_files(&files, r, c);
	if (adopt_record(r, c, &files) == 0)
		return run_sweep_cell(r, c);
	c->interrupted = true;
	sysfile_mkdirs(files.dir);
	if (bb_map_file(files.box, 0, &memory, &size) || bb_attach(&box, memory, size)) {
		/* Cut off before there was a box, or after it had been read: an empty one says as much. */
		if (memory)
			unlink(files.box);
		if (make_box(&box, files.box, &p)) {
			log_err("%s: %s", files.box, strerror(errno));
			return EXIT_BROKEN;
		}
	}
	rc = r->request.on_metal && restore_machine(&files) ? EXIT_BROKEN : 0;
	if (!rc)
		rc = judge(r, c, &p, &files, &box, NULL);
	bb_unmap(&box);
	remove_files(&files, rc == 0);
	return rc;
}

int run_sweep_cell(const struct run *r, const struct planned_cell *c)
{
	struct cell_files files;

	name_files(&files, r, c);
	if (r->request.on_metal && restore_machine(&files))
		return EXIT_BROKEN;
	remove_files(&files, true);
	return 0;
}

static int provision_one(struct run *r, size_t i)
{
	const char *asked = r->request.kernels[i], *spec = asked;
	struct run_kernel *k = &r->kernels[i];
	int rc;

	/* A run that is resumed goes on with the kernel it began with, whatever "default" means by now. */
	if (*k->begun_with && !strchr(spec, '/'))
		spec = k->begun_with;
	rc = provision_kernel(&k->kernel, spec, r->request.modules);
	if (!rc && *k->begun_with && strcmp(k->kernel.version, k->begun_with) != 0) {
		log_err("%s: the run began with kernel %s, '%s' is %s now", r->dir, k->begun_with, spec,
			k->kernel.version);
		return EXIT_NEED;
	}
	if (rc)
		return rc;
	snprintf(k->kernel.spec, sizeof(k->kernel.spec), "%s", asked);
	return provision_image(&k->image, &k->kernel, r->scenario.workloads, r->scenario.n_workloads);
}

/* A report tells kernels apart by their versions. */
static bool same_version_twice(const struct run *r)
{
	for (size_t i = 0; i < r->request.n_kernels; i++)
		for (size_t n = 0; n < i; n++)
			if (strcmp(r->kernels[n].kernel.version, r->kernels[i].kernel.version) == 0) {
				log_err("--kernel %s and --kernel %s: both are %s, which would be one column of the "
					"report",
					r->request.kernels[n], r->request.kernels[i], r->kernels[i].kernel.version);
				return true;
			}
	return false;
}

static int provision_metal(struct run *r)
{
	struct run_kernel *k = &r->kernels[0];
	int err = metal_lock();

	if (err) {
		log_err("%s", err == -EBUSY ? "another headroom runs on this machine" : strerror(-err));
		return EXIT_NEED;
	}
	metal_kernel(&r->metal, &k->kernel);
	if (*k->begun_with && strcmp(k->kernel.version, k->begun_with) != 0) {
		log_err("%s: the run began on kernel %s, this machine runs %s now", r->dir, k->begun_with,
			k->kernel.version);
		return EXIT_NEED;
	}
	snprintf(r->accel.name, sizeof(r->accel.name), "metal");
	return 0;
}

int run_provision(struct run *r)
{
	int rc = 0;

	if (r->request.on_metal)
		return provision_metal(r);
	for (size_t i = 0; !rc && i < r->request.n_kernels; i++)
		rc = provision_one(r, i);
	if (!rc && same_version_twice(r))
		return EXIT_USAGE;
	if (!rc)
		rc = provision_accel(&r->accel, &r->kernels[0].kernel, &r->kernels[0].image, r->request.accel);
	return rc == EXIT_USAGE ? EXIT_NEED : rc;
}

const char *run_versions(const struct run *r, char *buf, size_t size)
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < r->request.n_kernels && len < size; i++)
		len += (size_t)snprintf(buf + len, size - len, "%s%s", i ? ", " : "", r->kernels[i].kernel.version);
	return buf;
}

/* --- The end --- */

static bool as_expected(const struct scenario *s, const struct planned_cell *c)
{
	for (size_t i = 0; i < s->n_expect; i++)
		if (strcmp(s->expect[i].arm, c->arm) == 0)
			return s->expect[i].verdicts & (1U << c->verdict);
	return true;
}

static bool replaced(const struct run *r, const struct planned_cell *c)
{
	for (size_t i = 0; i < r->n_cells; i++)
		if (strcmp(r->plan[i].replaces, c->name) == 0)
			return true;
	return false;
}

static int exit_code(const struct run *r)
{
	int code = EXIT_DONE;

	for (size_t i = 0; i < r->n_cells; i++) {
		const struct planned_cell *c = &r->plan[i];

		if (replaced(r, c))
			continue;
		if (c->state != CELL_ENDED || c->verdict == VERDICT_BROKEN)
			return EXIT_BROKEN;
		if (!as_expected(&r->scenario, c))
			code = EXIT_EXPECTATION;
	}
	return code;
}

static void print_json(const struct run *r, int code)
{
	static char text[RUN_MAX_CELLS * 2048];
	struct jsonw j;
	size_t len;

	jsonw_init(&j, text, sizeof(text));
	jsonw_object(&j, NULL);
	jsonw_str(&j, "dir", r->dir);
	if (r->request.n_kernels == 1)
		jsonw_str(&j, "kernel", r->kernels[0].kernel.version);
	jsonw_u64(&j, "exit", (uint64_t)code);
	jsonw_array(&j, "cells");
	for (size_t i = 0; i < r->n_cells; i++) {
		const struct planned_cell *c = &r->plan[i];

		jsonw_object(&j, NULL);
		jsonw_str(&j, "cell", c->name);
		jsonw_str(&j, "arm", c->arm);
		if (r->request.n_kernels > 1)
			jsonw_str(&j, "kernel", r->kernels[c->kernel].kernel.version);
		jsonw_u64(&j, "repeat", c->repeat);
		if (c->state == CELL_ENDED) {
			jsonw_str(&j, "verdict", verdict_name(c->verdict));
			jsonw_str(&j, "reason", c->reason);
			jsonw_bool(&j, "expected", as_expected(&r->scenario, c));
			jsonw_bool(&j, "interrupted", c->interrupted);
		}
		jsonw_object_end(&j);
	}
	jsonw_array_end(&j);
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	fwrite(text, 1, len, stdout);
}

/* What the workloads found out, below the verdict. */
static void tell_findings(const struct run *r, const struct planned_cell *c)
{
	char path[PATH_MAX];
	json_t *cell, *finding;
	size_t i;

	snprintf(path, sizeof(path), "%s/cells/%s/cell.json", r->dir, c->name);
	cell = json_load_file(path, 0, NULL);
	json_array_foreach (json_object_get(cell, "findings"), i, finding) {
		const char *text = json_string_value(json_object_get(finding, "text"));

		if (text)
			log_info("    %s", text);
	}
	json_decref(cell);
}

static void print_summary(const struct run *r)
{
	char versions[512];
	int width = 24;

	for (size_t i = 0; i < r->n_cells; i++)
		width = strlen(r->plan[i].name) > (size_t)width ? (int)strlen(r->plan[i].name) : width;
	printf("\n%s on %s (%s)\n", r->scenario.name, run_versions(r, versions, sizeof(versions)), r->accel.name);
	for (size_t i = 0; i < r->n_cells; i++) {
		const struct planned_cell *c = &r->plan[i];

		if (c->state == CELL_ENDED)
			printf("  %-*s %-9s %s%s\n", width, c->name, verdict_name(c->verdict), c->reason,
			       replaced(r, c)					? " [run again]"
			       : c->interrupted || as_expected(&r->scenario, c) ? ""
										: "  [NOT AS EXPECTED]");
		else
			printf("  %-*s not run\n", width, c->name);
	}
	printf("record: %s\n", r->dir);
	fflush(stdout);
}

int report_call(const char *const *args)
{
	const char *argv[64] = { "/usr/bin/python3" };
	char script[PATH_MAX];
	int n = 1, status, err;

	argv[n++] = paths_in_home(script, "reports/compare.py");
	while (*args && n < 63)
		argv[n++] = *args++;
	struct spawn s = { .argv = argv, .timeout_s = REPORT_S };

	err = spawn_run(&s, &status);
	if (err || status < 0 || status > EXIT_BROKEN) {
		log_err("report: %s", err			    ? strerror(-err)
				      : status == SPAWN_INTERRUPTED ? "interrupted"
				      : status == 127		    ? "no /usr/bin/python3"
								    : "the report program failed");
		return EXIT_BROKEN;
	}
	return status;
}

static void make_report(const struct run *r)
{
	char html[PATH_MAX];
	const char *args[] = { r->dir, "--html", html, NULL };

	if (r->request.no_report)
		return;
	snprintf(html, sizeof(html), "%s/report.html", r->dir);
	if (report_call(args) == 0 && !r->request.json)
		printf("report: %s\n", html);
}

int run_walk(struct run *r)
{
	struct progress progress = { .run = r,
				     .terminal = isatty(STDERR_FILENO),
				     .typical_s = (double)r->scenario.opts.typical_s };
	const char *const complete[] = { "status", "complete", NULL };
	const char *const cut[] = { "status", "interrupted", NULL };
	double spent_s = 0;
	int rc = 0, code;
	unsigned ran = 0;

	for (size_t i = 0; !rc && !interrupted && i < r->n_cells; i++) {
		int64_t begin = clock_ns();

		if (r->plan[i].state != CELL_OPEN)
			continue;
		progress.index = i;
		progress.plain_due_s = 0;
		rc = run_one(r, &r->plan[i], &progress);
		spent_s += (double)(clock_ns() - begin) / 1e9;
		progress.typical_s = spent_s / ++ran;
		if (rc)
			continue;
		log_info("[%zu/%zu] %s: %s: %s", i + 1, r->n_cells, r->plan[i].name, verdict_name(r->plan[i].verdict),
			 r->plan[i].reason);
		tell_findings(r, &r->plan[i]);
	}
	if (r->wedged)
		return rc; /* whatever is written now waits for ever */
	code = rc ? rc : interrupted ? EXIT_INTERRUPTED : exit_code(r);
	journal_write(r->dir, "run-end", rc || interrupted ? cut : complete);
	if (!r->request.json)
		print_summary(r);
	if (interrupted) {
		log_info("interrupted; 'headroom resume %s' goes on", r->dir);
		interrupted = 0; /* the report of what there is may still be made */
	}
	make_report(r);
	if (r->request.json)
		print_json(r, code);
	return code;
}
