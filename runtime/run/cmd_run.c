// SPDX-License-Identifier: MIT
/* `headroom run` and `headroom resume`. */
#include "run/run.h"

#include "base/log.h"
#include "base/spawn.h"
#include "commands.h"
#include "run/mitigation.h"
#include "run/suite.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static const char run_help[] =
	"usage: headroom run SCENARIO... [options]\n"
	"\n"
	"Runs each scenario under every arm, in throw-away QEMU guests, and writes records and a report.\n"
	"SCENARIO is a name (headroom list scenarios) or the path of a scenario file.\n"
	"\n"
	"  --on guest|metal   default: guest. metal is this very machine, which may have to be reset: it asks before "
	"it starts\n"
	"  --device DISK      on metal: cells overwrite this whole disk, a name in /dev/disk/by-id, with nothing on it "
	"and\n"
	"                     used by nobody (default: a file in DIR, behind a loop device; storm needs a disk)\n"
	"  --yes              do not ask\n"
	"  --kernel K         default: this release's Debian kernel; a version such as 6.12; debug; or a bzImage's "
	"path.\n"
	"                     Several times: every arm on each of the kernels, a column each in the report\n"
	"  --modules ROOT     for a single bzImage: its modules lie in ROOT/lib/modules/VERSION\n"
	"  --arms A,B|all     before, after, only-X, without-X or arms of the scenario file\n"
	"  --repeat N         every arm N times, in an order drawn from the seed (1 to 100; default 1)\n"
	"  --memory MIB       memory of the guest; on metal: size the load as for so much (default: all that cannot "
	"be\n"
	"                     taken offline)\n"
	"  --cpus N           processors of the guest\n"
	"  --seed N           of data and order (default: drawn, and recorded)\n"
	"  --set S.O=V        option O of section S of the scenario\n"
	"  --accel kvm|tcg    default: KVM where a guest boots under it\n"
	"  --out DIR          results go to DIR/UTC-SCENARIO (default: results)\n"
	"  --dry-run          show the plan and what would be started; run nothing\n"
	"  --no-report        do not write report.html at the end\n"
	"  --json             the outcome as JSON on stdout\n"
	"  -v, --verbose      more words\n"
	"\n"
	"Exit status: 0 done and recorded (an expected OOM kill is a success), 1 a verdict was not the expected one,\n"
	"2 usage, 3 something needed is missing (nothing was run), 4 a cell broke, 130 interrupted.\n";

static const char resume_help[] = "usage: headroom resume DIR [--json] [--no-report]\n"
				  "\n"
				  "Goes on with a run that was cut off. The cell that was under way is recorded as "
				  "interrupted, with what its black\n"
				  "box holds, and run again; cells that are complete stay as they are.\n"
				  "\n"
				  "Exit status as of 'headroom run'.\n";

static int bad_number(const char *option, const char *value, uint64_t min, uint64_t max)
{
	log_err("%s %s: must be a whole number from %" PRIu64 " to %" PRIu64, option, value, min, max);
	return EXIT_USAGE;
}

static bool add_kernel(struct run_request *q, const char *spec)
{
	if (!*spec) {
		log_err("--kernel must not be empty");
		return false;
	}
	if (q->n_kernels == RUN_MAX_KERNELS) {
		log_err("--kernel %s: a run has %d kernels at most", spec, RUN_MAX_KERNELS);
		return false;
	}
	q->kernels[q->n_kernels++] = spec;
	return true;
}

/* Returns -1 to go on, or an exit code. */
static int parse_run_args(struct run_request *q, int argc, char **argv)
{
	enum {
		KERNEL = 256,
		MODULES,
		ARMS,
		REPEAT,
		MEMORY,
		CPUS,
		SEED,
		SET,
		ACCEL,
		OUT,
		DRY,
		NO_REPORT,
		JSON,
		ON,
		DEVICE,
		SURE
	};
	static const struct option options[] = {
		{ "kernel", required_argument, NULL, KERNEL },
		{ "modules", required_argument, NULL, MODULES },
		{ "arms", required_argument, NULL, ARMS },
		{ "repeat", required_argument, NULL, REPEAT },
		{ "memory", required_argument, NULL, MEMORY },
		{ "cpus", required_argument, NULL, CPUS },
		{ "seed", required_argument, NULL, SEED },
		{ "set", required_argument, NULL, SET },
		{ "accel", required_argument, NULL, ACCEL },
		{ "out", required_argument, NULL, OUT },
		{ "dry-run", no_argument, NULL, DRY },
		{ "no-report", no_argument, NULL, NO_REPORT },
		{ "json", no_argument, NULL, JSON },
		{ "verbose", no_argument, NULL, 'v' },
		{ "on", required_argument, NULL, ON },
		{ "device", required_argument, NULL, DEVICE },
		{ "yes", no_argument, NULL, SURE },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	const struct opt *limits = scenario_options;
	uint64_t memory_min = limits[0].min, memory_max = limits[0].max;
	int c;

	while ((c = getopt_long(argc, argv, "vh", options, NULL)) != -1) {
		switch (c) {
		case KERNEL:
			if (!add_kernel(q, optarg))
				return EXIT_USAGE;
			break;
		case MODULES:
			q->modules = optarg;
			break;
		case ARMS:
			q->arms = optarg;
			break;
		case REPEAT:
			if (parse_u64(optarg, 1, 100, &q->repeat))
				return bad_number("--repeat", optarg, 1, 100);
			break;
		case MEMORY:
			if (parse_u64(optarg, memory_min, memory_max, &q->memory_mib))
				return bad_number("--memory", optarg, memory_min, memory_max);
			break;
		case CPUS:
			if (parse_u64(optarg, 1, 64, &q->cpus))
				return bad_number("--cpus", optarg, 1, 64);
			break;
		case SEED:
			/* It travels through JSON integers, which end at 63 bits. */
			if (parse_u64(optarg, 0, INT64_MAX - RUN_MAX_CELLS, &q->seed))
				return bad_number("--seed", optarg, 0, INT64_MAX - RUN_MAX_CELLS);
			break;
		case SET:
			if (q->n_sets == RUN_MAX_SETS) {
				log_err("--set: more than %d of them", RUN_MAX_SETS);
				return EXIT_USAGE;
			}
			q->sets[q->n_sets++] = optarg;
			break;
		case ACCEL:
			if (strcmp(optarg, "kvm") != 0 && strcmp(optarg, "tcg") != 0) {
				log_err("--accel %s: must be kvm or tcg", optarg);
				return EXIT_USAGE;
			}
			q->accel = optarg;
			break;
		case ON:
			q->on_metal = strcmp(optarg, "metal") == 0;
			if (!q->on_metal && strcmp(optarg, "guest") != 0) {
				log_err("--on %s: must be guest or metal", optarg);
				return EXIT_USAGE;
			}
			break;
		case DEVICE:
			q->device = optarg;
			break;
		case SURE:
			q->yes = true;
			break;
		case OUT:
			q->out = optarg;
			break;
		case DRY:
			q->dry_run = true;
			break;
		case NO_REPORT:
			q->no_report = true;
			break;
		case JSON:
			q->json = true;
			break;
		case 'v':
			log_set_level(LOG_DEBUG);
			break;
		case 'h':
			fputs(run_help, stdout);
			return EXIT_DONE;
		default:
			log_err("see 'headroom run --help'");
			return EXIT_USAGE;
		}
	}
	if (optind == argc) {
		log_err("run: no scenario is named (headroom list scenarios)");
		return EXIT_USAGE;
	}
	if (!*q->out) {
		log_err("--out must not be empty");
		return EXIT_USAGE;
	}
	if (q->on_metal && (q->n_kernels > 1 || (q->n_kernels && strcmp(q->kernels[0], "default") != 0) || q->modules ||
			    q->accel || q->cpus)) {
		log_err("--on metal: the kernel and the processors are this machine's; --kernel, --modules, --accel "
			"and "
			"--cpus are for guests");
		return EXIT_USAGE;
	}
	if (q->device && !q->on_metal) {
		log_err("--device: goes with --on metal; a guest's scratch disk is a file");
		return EXIT_USAGE;
	}
	if (!q->n_kernels)
		q->kernels[q->n_kernels++] = "default";
	return -1;
}

static void show_guest(const struct run_request *q, const struct scenario_opts *o)
{
	struct guest_config g = {
		.accel = q->accel ? q->accel : "tcg",
		.cpus = (unsigned)o->cpus,
		.memory_mib = (unsigned)o->memory,
		.dimms = (unsigned)o->dimms,
		.dimm_mib = (unsigned)o->dimm_mib,
		.kernel = "VMLINUZ",
		.initramfs = "INITRAMFS",
		.image = "IMAGE",
		.scratch = "CELL/scratch",
		.box_path = "CELL/box",
		.console_log = "CELL/console.log",
		.cmdline = "...",
	};
	char **argv = guest_argv(&g, 3);

	printf("each in a guest of its own:");
	for (char **a = argv; *a; a++)
		printf(" %s", *a);
	printf("\n");
	guest_argv_free(argv);
}

static void show_plan(struct run *r)
{
	struct scenario s = r->scenario;
	uint64_t sectors = scenario_place(&s);
	char err[512], value[64], names[256];

	printf("scenario %s (%s): %s\n", s.name, s.path, s.summary);
	for (size_t i = 0; i < r->request.n_kernels; i++)
		printf("kernel %s, ", r->request.on_metal ? r->metal.kernel : r->request.kernels[i]);
	printf("%" PRIu64 " processors, %" PRIu64 " MiB, scratch disk %" PRIu64 " MiB (sparse), seed %" PRIu64 "\n",
	       s.opts.cpus, s.opts.memory, sectors / 2048, r->request.seed);
	for (size_t i = 0; i < s.n_workloads; i++) {
		printf("[%s]", s.workloads[i].workload->name);
		for (const struct opt *o = s.workloads[i].workload->opts; o->name; o++) {
			opts_format(o, s.workloads[i].opts, value, sizeof(value));
			printf(" %s=%s", o->name, value);
		}
		printf("\n");
	}
	for (size_t i = 0; i < r->n_cells; i++) {
		struct arm arm;

		printf("cell %s (seed %" PRIu64 "):", r->plan[i].name, r->plan[i].seed);
		if (scenario_arm(&s, r->plan[i].arm, &arm, err, sizeof(err)))
			arm.n_settings = 0;
		for (size_t k = 0; k < arm.n_settings; k++) {
			const struct arm_setting *set = &arm.settings[k];

			if (set->mitigation)
				printf(" %s=%s", mitigation_knob_names(set->mitigation, names, sizeof(names)),
				       set->value);
			else
				printf(" %s.%s=%s", set->section, set->option, set->value);
		}
		printf("\n");
	}
	if (r->request.on_metal)
		printf("each on this very machine\n");
	else
		show_guest(&r->request, &s.opts);
	if (r->request.device)
		printf("their scratch disk is %s, which is not looked at now\n", r->request.device);
	printf("nothing was run, nothing was written\n");
}

/*
 * This machine may die of it: whoever starts it says so. True: go on. The name is asked for, as people confirm a wrong
 * window with a "y".
 */
static bool agreed(const struct run_request *q, char *const *scenarios, int n)
{
	char host[256] = "", answer[256] = "";

	if (q->yes)
		return true;
	if (!isatty(STDIN_FILENO)) {
		log_err("--on metal: there is no terminal to ask at; --yes says that this machine may be driven into "
			"the "
			"ground");
		return false;
	}
	gethostname(host, sizeof(host) - 1);
	fprintf(stderr, "This will run on this very machine, %s, until it is out of memory:", host);
	for (int i = 0; i < n; i++)
		fprintf(stderr, " %s", scenarios[i]);
	fprintf(stderr, "\nOther programs on it may be killed, and it may stop answering and have to be reset. ");
	if (q->device)
		fprintf(stderr, "All that is on\n%s is lost, other disks are left alone.", q->device);
	else
		fprintf(stderr, "Disks are left alone: the\nscratch disk is a file in %s.", q->out);
	fprintf(stderr, " Type the name of the machine to go on: ");
	if (!fgets(answer, sizeof(answer), stdin))
		answer[0] = '\0';
	answer[strcspn(answer, "\n")] = '\0';
	if (*host && strcmp(answer, host) == 0)
		return true;
	log_err("'%s' is not its name: nothing was run", answer);
	return false;
}

/* All of them are made before the first one runs. */
static int run_suite(const struct run_request *q, char *const *scenarios, size_t n)
{
	static char dir[PATH_MAX];
	int rc = suite_create(q, scenarios, n, dir);

	return rc ? rc : suite_walk(dir, q);
}

int cmd_run(int argc, char **argv)
{
	static struct run r;
	struct run_request request = { .repeat = 1, .out = "results" };
	int rc;

	if (getrandom(&request.seed, sizeof(request.seed), 0) != sizeof(request.seed))
		request.seed = 1;
	request.seed %= 1000000; /* short enough to be typed again */
	rc = parse_run_args(&request, argc, argv);
	if (rc >= 0)
		return rc;
	request.argc = argc;
	request.argv = argv;
	/* All of them first: a typing mistake in the last must not come up after an hour. */
	for (int i = optind; i < argc; i++) {
		memset(&r, 0, sizeof(r));
		r.request = request;
		r.request.scenario = argv[i];
		rc = run_plan(&r, NULL);
		if (rc)
			return rc;
		if (request.dry_run)
			show_plan(&r);
	}
	if (request.dry_run)
		return EXIT_DONE;
	if (request.on_metal && !agreed(&request, argv + optind, argc - optind))
		return EXIT_USAGE;
	spawn_catch_signals();
	if (argc - optind > 1)
		return run_suite(&request, argv + optind, (size_t)(argc - optind));
	rc = run_begin(&r);
	return rc ? rc : run_go(&r);
}

/* --- resume --- */

int cmd_resume(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "no-report", no_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	static struct run r;
	struct run_request how = { 0 };
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 'h') {
			fputs(resume_help, stdout);
			return EXIT_DONE;
		}
		how.json |= c == 'j';
		how.no_report |= c == 'n';
		if (c == '?') {
			log_err("see 'headroom resume --help'");
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1) {
		log_err("resume: one directory of a run must be named");
		return EXIT_USAGE;
	}
	spawn_catch_signals();
	how.argc = argc;
	how.argv = argv;
	return suite_is(argv[optind]) ? suite_walk(argv[optind], &how) : run_take_up(&r, argv[optind], &how);
}
