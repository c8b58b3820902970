// SPDX-License-Identifier: MIT
#include "record/recorder.h"

#include "base/clock.h"
#include "base/jsonw.h"
#include "base/spawn.h"
#include "base/sysfile.h"
#include "record/klog.h"
#include "record/sources.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/dm-ioctl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define STOP_WAIT_MS	5000
#define READY_WAIT_MS	10000
#define KMSG_DRAIN_MS	2000
#define SLAB_WAIT_MS	500
#define STOP_LOOK_MS	100
#define TEXT_SIZE	(256 * 1024) /* slabinfo of a busy server is 30 KiB, zoneinfo of a large one more */
#define LINE_SIZE	(256 * 1024)
#define KMSG_RECORD_MAX 8192 /* CONSOLE_EXT_LOG_MAX of kernel/printk, the largest record /dev/kmsg gives */
#define STACK_SIZE	(128 * 1024)
/* of a priority as /dev/kmsg gives it (Documentation/ABI/testing/dev-kmsg) */
#define LOG_FACILITY_SHIFT 3
#define DM_REPLY_SIZE	   16384
#define ASIDE_SIZE	   (64 * 1024) /* slabinfo is 30 KiB on a busy server, its JSON half of that */
#define STAT_SIZE	   8192	       /* memory.stat of 7.2 has 3 KiB */
#define TASK_SIZE	   2048	       /* 52 numbers of 20 digits and a name in a line of /proc/PID/stat */
#define DIRENTS_SIZE	   (16 * 1024) /* 500 processes at a time */
#define LOOK_AGAIN	   16 /* looks until a task that was of no interest is read again: its pid may be another's */

#define LOST_EVENTS_MAX 10000 /* 1.4 MiB of an area that has 12 at least */
#define SLAB_MOVED	100   /* a hundredth of it */

/* Shared with the process that started us. */
struct recorder_shared {
	_Atomic int ready; /* 1, or -errno */
	_Atomic int stop;
};

enum { MEMINFO, VMSTAT, PSI_MEMORY, PSI_IO, PSI_CPU, SLABINFO, ZONEINFO, DISKSTATS, N_FILES };

static const char *const file_paths[N_FILES] = {
	[MEMINFO] = "/proc/meminfo",	[VMSTAT] = "/proc/vmstat",	  [PSI_MEMORY] = "/proc/pressure/memory",
	[PSI_IO] = "/proc/pressure/io", [PSI_CPU] = "/proc/pressure/cpu", [SLABINFO] = "/proc/slabinfo",
	[ZONEINFO] = "/proc/zoneinfo",	[DISKSTATS] = "/proc/diskstats",
};

/* A part of the sample that a thread of its own reads, because reading it may block on the machine under test. */
struct aside {
	void (*read)(struct jsonw *j); /* writes an object */
	unsigned period_ms;	       /* 0: when it is asked, by `wake` */
	int wake;
	char line[ASIDE_SIZE];
	pthread_mutex_t lock; /* protects the rest; the sampler only ever tries it */
	char json[ASIDE_SIZE];
	int64_t ns; /* when it was read; 0: not yet */
};

struct task {
	pid_t pid;
	int fd; /* of its stat, which goes on being this task's; -1: of no interest */
	uint64_t start, ticks;
	unsigned look; /* that last saw it */
};

enum { MEMORY_STAT, MEMORY_EVENTS, CGROUP_STAT, MEMORY_CURRENT, MEMORY_PRESSURE, N_GROUP_FILES };

/* All of the recorder's state. One instance, in the recorder's process, locked in memory. */
static struct {
	struct bb *box;
	struct recorder_config config;
	struct recorder_shared *shared;
	int files[N_FILES];
	uint64_t slab_kib; /* all slab when slabinfo was last asked for, and when that was */
	int64_t slab_ns;
	int kmsg;
	int wake; /* an eventfd that ends the wait for the kernel log */

	int canary;
	_Atomic int64_t canary_begin_ns; /* of the probe under way; 0: none */
	_Atomic int64_t canary_max_ns;	 /* slowest completed since the last sample */
	_Atomic unsigned canary_done;	 /* completed since the last sample */
	_Atomic bool kmsg_drained;	 /* after the stop: nothing is left in the kernel log */

	int dm_control;
	struct aside dm, groups, slab, threads;
	int64_t slab_put_ns; /* of the slabinfo that the newest sample with one has */
	char slab_text[TEXT_SIZE];
	int group_files[RECORDER_MAX_GROUPS][N_GROUP_FILES];
	char stat[STAT_SIZE];

	/* Of the thread that follows kernel threads. */
	int proc;
	struct task tasks[RECORDER_MAX_TASKS];
	size_t n_tasks;
	unsigned look;
	uint64_t newest; /* start of the newest task that the first look saw */
	struct {
		bool seen;
		uint64_t ticks;
	} thread_cpu[RECORDER_MAX_NAMES];
	long ticks_s;
	bool left_out_told;
	char task_text[TASK_SIZE];
	_Alignas(struct dirent64) char dirents[DIRENTS_SIZE];

	char text[TEXT_SIZE];
	char line[LINE_SIZE];
	char kmsg_record[KMSG_RECORD_MAX];
	struct klog *klog; /* for lines that give way in the box; belongs to the thread of the kernel log */
	int64_t klog_seq;  /* it expects */
	char klog_text[KLOG_LINE_MAX];
	char event[KLOG_JSON_MAX];
	uint64_t lost_told; /* events that told of lost lines */
	union {
		struct dm_ioctl head;
		char bytes[DM_REPLY_SIZE];
	} dm_reply;
} rec;

static bool stopping(void)
{
	return atomic_load_explicit(&rec.shared->stop, memory_order_relaxed);
}

/* seq_file hands out a page at a time, so a file takes several reads. */
static size_t read_whole(int fd, char text[TEXT_SIZE])
{
	size_t len = 0;

	while (len < TEXT_SIZE) {
		ssize_t n = pread(fd, text + len, TEXT_SIZE - len, (off_t)len);

		if (n <= 0)
			break;
		len += (size_t)n;
	}
	return len;
}

static void sample_canary(struct jsonw *j, int64_t now)
{
	int64_t begin = atomic_load(&rec.canary_begin_ns);
	int64_t max = atomic_exchange(&rec.canary_max_ns, 0);
	unsigned done = atomic_exchange(&rec.canary_done, 0);
	int64_t pending = begin && begin < now ? now - begin : 0; /* it may have begun since `now` was read */

	if (rec.canary < 0)
		return;
	jsonw_object(j, "canary");
	jsonw_u64(j, "n", done);
	if (done)
		jsonw_fixed(j, "max_ms", max / 1000, 3);
	jsonw_fixed(j, "pending_ms", pending / 1000, 3);
	jsonw_object_end(j);
	atomic_store(&rec.box->head->live_canary_ms, (uint64_t)((max > pending ? max : pending) / NS_PER_MS));
}

static void sample_aside(struct jsonw *j, const char *name, const char *content, struct aside *a, int64_t now)
{
	if (pthread_mutex_trylock(&a->lock) != 0)
		return;
	if (a->ns) {
		jsonw_object(j, name);
		jsonw_fixed(j, "age_ms", (now - a->ns) / 1000, 3);
		jsonw_raw(j, content, a->json);
		jsonw_object_end(j);
	}
	pthread_mutex_unlock(&a->lock);
}

static void publish(struct aside *a, const struct jsonw *j, int64_t ns)
{
	if (j->overflow)
		return;
	pthread_mutex_lock(&a->lock);
	memcpy(a->json, j->buf, j->len);
	a->json[j->len] = '\0';
	a->ns = ns;
	pthread_mutex_unlock(&a->lock);
}

/* Half a period early is due: the next tick would be half a period late. */
static bool slab_is_due(uint64_t kib)
{
	int64_t now = clock_ns(), since = now - rec.slab_ns + rec.config.period_ms * NS_PER_MS / 2;
	uint64_t moved = kib > rec.slab_kib ? kib - rec.slab_kib : rec.slab_kib - kib;

	/* No meminfo, no reason to leave it out. */
	if (kib && moved < rec.slab_kib / SLAB_MOVED && since < rec.config.slab_ms * NS_PER_MS)
		return false;
	rec.slab_kib = kib;
	rec.slab_ns = now;
	return true;
}

/* The kernel takes slab_mutex for it, which a cache's creation, and memory that goes offline, hold for long. */
static void read_slab(struct jsonw *j)
{
	source_slabinfo(j, NULL, rec.slab_text, read_whole(rec.files[SLABINFO], rec.slab_text));
}

/* What was read since the sample before, then ask for the next. */
static void sample_slab(struct jsonw *j, int64_t begin, uint64_t kib)
{
	if (rec.files[SLABINFO] < 0)
		return;
	if (pthread_mutex_trylock(&rec.slab.lock) == 0) {
		if (rec.slab.ns > rec.slab_put_ns) {
			rec.slab_put_ns = rec.slab.ns;
			jsonw_fixed(j, "slab_age_ms", (begin - rec.slab.ns) / 1000, 3);
			jsonw_raw(j, "slab", rec.slab.json);
		}
		pthread_mutex_unlock(&rec.slab.lock);
	}
	if (slab_is_due(kib))
		eventfd_write(rec.slab.wake, 1);
}

/* For the first sample and for the last, which have slabinfo unless the kernel does not give it in time. */
static void await_slab(unsigned ms)
{
	int64_t asked = clock_ns(), read_ns = 0;

	if (rec.files[SLABINFO] < 0)
		return;
	eventfd_write(rec.slab.wake, 1);
	for (unsigned waited = 0; read_ns < asked && waited < ms; waited++) {
		clock_sleep_ms(1);
		pthread_mutex_lock(&rec.slab.lock);
		read_ns = rec.slab.ns;
		pthread_mutex_unlock(&rec.slab.lock);
	}
}

static void sample_files(struct jsonw *j, struct sample_live *live)
{
	bool in_psi = false;

	for (int i = 0; i < N_FILES; i++) {
		size_t len;

		if (rec.files[i] < 0 || i == SLABINFO)
			continue;
		if (in_psi && (i < PSI_MEMORY || i > PSI_CPU)) {
			jsonw_object_end(j);
			in_psi = false;
		}
		len = read_whole(rec.files[i], rec.text);
		switch (i) {
		case MEMINFO:
			source_meminfo(j, rec.text, len, live);
			break;
		case VMSTAT:
			source_vmstat(j, rec.text, len, live);
			break;
		case PSI_MEMORY:
		case PSI_IO:
		case PSI_CPU:
			if (!in_psi)
				jsonw_object(j, "psi");
			in_psi = true;
			source_pressure(j, strrchr(file_paths[i], '/') + 1, rec.text, len);
			break;
		case ZONEINFO:
			source_zoneinfo(j, rec.text, len);
			break;
		case DISKSTATS:
			source_diskstats(j, rec.text, len);
			break;
		}
	}
	if (in_psi)
		jsonw_object_end(j);
}

static void take_sample(int64_t due, uint64_t missed)
{
	struct bb_header *head = rec.box->head;
	int64_t begin = clock_ns(), late = begin - due, start;
	/* From the first tick that was left out: that is how long we did not run when we should have. */
	uint64_t overdue = (uint64_t)late + missed * rec.config.period_ms * NS_PER_MS;
	struct sample_live live = { 0 };
	struct jsonw j;
	size_t len;

	jsonw_init(&j, rec.line, sizeof(rec.line));
	jsonw_object(&j, NULL);
	jsonw_seconds(&j, "t", begin);
	jsonw_fixed(&j, "late_ms", late / 1000, 3);
	jsonw_u64(&j, "missed", missed);
	sample_files(&j, &live);
	sample_slab(&j, begin, live.slab_kib);
	sample_canary(&j, clock_ns());
	sample_aside(&j, "dm", "targets", &rec.dm, begin);
	sample_aside(&j, "cgroups", "groups", &rec.groups, begin);
	sample_aside(&j, "threads", "groups", &rec.threads, begin);
	jsonw_fixed(&j, "took_ms", (clock_ns() - begin) / 1000, 3);
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	if (len && bb_append(rec.box, BB_SAMPLE, rec.line, len) == 0)
		atomic_fetch_add(&head->samples_taken, 1);
	else
		missed++;
	atomic_fetch_add(&head->samples_missed, missed);
	if (overdue > atomic_load(&head->late_max_ns))
		atomic_store(&head->late_max_ns, overdue);

	start = atomic_load(&head->start_ns);
	atomic_store(&head->live_t_ms, start ? (begin - start) / NS_PER_MS : 0);
	atomic_store(&head->live_slab_kib, live.slab_unreclaimable_kib);
	atomic_store(&head->live_available_kib, live.available_kib);
	atomic_store(&head->live_oom_kills, live.oom_kills);
	bb_beat(rec.box);
}

static void sampler(void)
{
	int64_t period = rec.config.period_ms * NS_PER_MS;
	int64_t due = clock_ns();

	while (!stopping()) {
		uint64_t missed = 0;
		struct timespec ts = clock_timespec(due);
		int64_t now;

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
			;
		/* Ticks that passed while we did not run are left out and counted, not made up for in a burst. */
		now = clock_ns();
		if (now - due >= period) {
			missed = (uint64_t)((now - due) / period);
			due += (int64_t)missed * period;
		}
		take_sample(due, missed);
		due += period;
	}
	await_slab(SLAB_WAIT_MS);
	take_sample(clock_ns(), 0);
	eventfd_write(rec.wake, 1);
	for (int waited = 0; rec.kmsg >= 0 && !atomic_load(&rec.kmsg_drained) && waited < KMSG_DRAIN_MS; waited++)
		clock_sleep_ms(1);
}

static void report_lost_kmsg(uint64_t lost, uint64_t next_seq)
{
	char line[256];
	struct jsonw j;
	size_t len;

	atomic_fetch_add(&rec.box->head->kmsg_lost, lost);
	/* The area of the events is for more than this. The count above goes on. */
	if (rec.lost_told++ >= LOST_EVENTS_MAX)
		return;
	jsonw_init(&j, line, sizeof(line));
	jsonw_object(&j, NULL);
	jsonw_seconds(&j, "t", clock_ns());
	jsonw_str(&j, "kind", "kmsg-lost");
	jsonw_u64(&j, "lost", lost);
	jsonw_u64(&j, "seq", next_seq);
	jsonw_str(&j, "raw", "");
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	if (len)
		bb_append(rec.box, BB_EVENT, line, len);
}

/* The second field of "prio,seq,usec,flag;text". */
static bool kmsg_seq(const char *record, uint64_t *seq)
{
	const char *comma = strchr(record, ',');
	char *end;

	if (!comma)
		return false;
	*seq = strtoull(comma + 1, &end, 10);
	return end != comma + 1 && *end == ',';
}

/* An event in lines of the kernel's that are about to give way in the box. */
static void keep_event(struct klog_event *ev, void *unused)
{
	struct jsonw j;
	size_t len;

	(void)unused;
	jsonw_init(&j, rec.event, sizeof(rec.event));
	klog_event_json(&j, ev, 0);
	len = jsonw_line(&j);
	if (len)
		bb_append(rec.box, BB_KERNEL_EVENT, rec.event, len);
}

/*
 * A report that goes on behind the part that gives way ends here, and what follows of it is read for itself later. The
 * gaps between the kernel's own lines are told where all lines are seen.
 */
static void keep_events_of(const struct bb_record *record)
{
	struct klog_record r;

	if (!record) {
		klog_flush(rec.klog);
		return;
	}
	if (!klog_parse_kmsg(record->data, record->len, &r, rec.klog_text, sizeof(rec.klog_text)))
		return;
	if (rec.klog_seq != KLOG_NONE && r.seq > rec.klog_seq)
		klog_left_out(rec.klog, (uint64_t)(r.seq - rec.klog_seq));
	rec.klog_seq = r.seq + 1;
	klog_feed(rec.klog, &r);
}

/* By the facility in the first field: only what the kernel itself said can be an event of the kernel's. */
static enum bb_type kmsg_type(const char *record)
{
	return strtoul(record, NULL, 10) >> LOG_FACILITY_SHIFT ? BB_USER_KMSG : BB_KMSG;
}

static void *kmsg_thread(void *unused)
{
	uint64_t expected = 0, seq;
	bool first = true;

	(void)unused;
	for (;;) {
		ssize_t n = read(rec.kmsg, rec.kmsg_record, sizeof(rec.kmsg_record) - 1);

		if (n > 0) {
			rec.kmsg_record[n] = '\0';
			if (kmsg_seq(rec.kmsg_record, &seq)) {
				if (!first && seq > expected)
					report_lost_kmsg(seq - expected, seq);
				expected = seq + 1;
				first = false;
			}
			bb_append(rec.box, kmsg_type(rec.kmsg_record), rec.kmsg_record, (size_t)n);
			continue;
		}
		/* EPIPE: records were overwritten before we came. The gap in the sequence says how many. */
		if (n < 0 && (errno == EPIPE || errno == EINTR))
			continue;
		if (stopping()) {
			atomic_store(&rec.kmsg_drained, true);
			return NULL;
		}
		poll((struct pollfd[]){ { .fd = rec.kmsg, .events = POLLIN }, { .fd = rec.wake, .events = POLLIN } }, 2,
		     -1);
	}
}

/*
 * A work item on every CPU's normal-priority pool, timed. stat_refresh is schedule_on_each_cpu() (mm/vmstat.c), so a
 * pool that is hogged makes it wait as it makes everybody's work wait.
 */
static void *canary_thread(void *unused)
{
	(void)unused;
	while (!stopping()) {
		int64_t begin = clock_ns(), took;

		atomic_store(&rec.canary_begin_ns, begin);
		if (pwrite(rec.canary, "1", 1, 0) == 1) {
			took = clock_ns() - begin;
			if (took > atomic_load(&rec.canary_max_ns))
				atomic_store(&rec.canary_max_ns, took);
			atomic_fetch_add(&rec.canary_done, 1);
		}
		atomic_store(&rec.canary_begin_ns, 0);
		clock_sleep_ms(rec.config.canary_ms);
	}
	return NULL;
}

static void dm_status(struct jsonw *j, const char *name)
{
	struct dm_ioctl *io = &rec.dm_reply.head;
	const struct dm_target_spec *spec;

	memset(io, 0, sizeof(*io));
	io->version[0] = DM_VERSION_MAJOR;
	io->data_size = sizeof(rec.dm_reply);
	io->data_start = sizeof(*io);
	io->flags = DM_NOFLUSH_FLAG;
	strncpy(io->name, name, sizeof(io->name) - 1);
	if (ioctl(rec.dm_control, DM_TABLE_STATUS, io) < 0 || io->target_count < 1 ||
	    io->data_start + sizeof(*spec) >= sizeof(rec.dm_reply) || (io->flags & DM_BUFFER_FULL_FLAG))
		return;
	spec = (const struct dm_target_spec *)(rec.dm_reply.bytes + io->data_start);
	rec.dm_reply.bytes[sizeof(rec.dm_reply) - 1] = '\0';
	jsonw_str(j, name, (const char *)(spec + 1));
}

static void read_dm(struct jsonw *j)
{
	jsonw_object(j, NULL);
	for (int i = 0; i < RECORDER_MAX_DM && rec.config.dm[i]; i++)
		dm_status(j, rec.config.dm[i]);
	jsonw_object_end(j);
}

static void group_status(struct jsonw *j, int number)
{
	jsonw_object(j, rec.config.groups[number].name);
	for (int i = 0; i < N_GROUP_FILES; i++) {
		int fd = rec.group_files[number][i];
		ssize_t n = fd < 0 ? -1 : pread(fd, rec.stat, sizeof(rec.stat), 0);

		if (n <= 0)
			continue;
		if (i == MEMORY_CURRENT)
			source_number(j, "current", rec.stat, (size_t)n);
		else if (i == MEMORY_PRESSURE)
			source_pressure(j, "pressure", rec.stat, (size_t)n);
		else
			source_cgroup(j, rec.stat, (size_t)n);
	}
	jsonw_object_end(j);
}

static void read_groups(struct jsonw *j)
{
	jsonw_object(j, NULL);
	for (int i = 0; i < RECORDER_MAX_GROUPS && rec.config.groups[i].name; i++)
		group_status(j, i);
	jsonw_object_end(j);
}

/* --- Kernel threads --- */

/* Any other error than that the task is gone is the storm's, and passes. */
static bool read_task(int fd, struct task_stat *stat, bool *ended)
{
	ssize_t n = pread(fd, rec.task_text, sizeof(rec.task_text), 0);

	*ended = n < 0 && errno == ESRCH;
	return n > 0 && source_task(stat, rec.task_text, (size_t)n);
}

/* The number of the name that it goes under, or RECORDER_MAX_NAMES. */
static size_t group_of(const struct task_stat *stat)
{
	for (size_t i = 0; i < RECORDER_MAX_NAMES && rec.config.threads[i]; i++)
		if (source_serves(stat, rec.config.threads[i]))
			return i;
	return RECORDER_MAX_NAMES;
}

/* To the queue that a kworker serves now, whichever it served for most of the time since the last look. */
static void count_task(struct task *task, const struct task_stat *stat)
{
	size_t group = group_of(stat);

	if (group < RECORDER_MAX_NAMES) {
		rec.thread_cpu[group].seen = true;
		rec.thread_cpu[group].ticks += stat->ticks > task->ticks ? stat->ticks - task->ticks : 0;
	}
	task->ticks = stat->ticks;
}

/* What a task had used before the first look is not counted; one that began since is new from its begin on. */
static void begin_task(struct task *task, const struct task_stat *stat)
{
	if (rec.look == 1 && stat->start > rec.newest)
		rec.newest = stat->start;
	task->start = stat->start;
	task->ticks = rec.look > 1 && stat->start > rec.newest ? 0 : stat->ticks;
}

static struct task *find_task(pid_t pid)
{
	for (size_t i = 0; i < rec.n_tasks; i++)
		if (rec.tasks[i].pid == pid)
			return &rec.tasks[i];
	return NULL;
}

static void forget_task(struct task *task)
{
	if (task->fd >= 0)
		close(task->fd);
	*task = rec.tasks[--rec.n_tasks];
}

/* A place in the table; tasks of no interest are there only to be left alone, and make room. */
static struct task *new_task(bool of_interest)
{
	if (rec.n_tasks == RECORDER_MAX_TASKS)
		for (size_t i = 0; of_interest && i < rec.n_tasks; i++)
			if (rec.tasks[i].fd < 0)
				return &rec.tasks[i];
	return rec.n_tasks < RECORDER_MAX_TASKS ? &rec.tasks[rec.n_tasks++] : NULL;
}

static void tell_left_out(const char *why)
{
	char line[256];
	struct jsonw j;
	size_t len;

	if (rec.left_out_told)
		return;
	rec.left_out_told = true;
	jsonw_init(&j, line, sizeof(line));
	jsonw_object(&j, NULL);
	jsonw_seconds(&j, "t", clock_ns());
	jsonw_str(&j, "kind", "threads-left-out");
	jsonw_str(&j, "raw", why);
	jsonw_object_end(&j);
	len = jsonw_line(&j);
	if (len)
		bb_append(rec.box, BB_EVENT, line, len);
}

static void meet_task(pid_t pid)
{
	struct task_stat stat;
	bool of_interest, ended;
	struct task *task;
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "%d/stat", (int)pid);
	fd = openat(rec.proc, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (errno != ENOENT && errno != ESRCH && errno != ENOMEM)
			tell_left_out(strerror(errno));
		return;
	}
	if (!read_task(fd, &stat, &ended)) {
		close(fd);
		return;
	}
	/* Any kworker: it may serve one of the queues later. */
	of_interest = source_is_kworker(&stat) || group_of(&stat) < RECORDER_MAX_NAMES;
	task = new_task(of_interest);
	if (!task && of_interest)
		tell_left_out("no room to follow more kernel threads");
	if (!task || !of_interest)
		close(fd);
	if (!task)
		return;
	*task = (struct task){ .pid = pid, .fd = of_interest ? fd : -1, .look = rec.look };
	begin_task(task, &stat);
	if (of_interest)
		count_task(task, &stat);
}

static void look_at_task(pid_t pid)
{
	struct task *task = find_task(pid);
	struct task_stat stat;
	bool ended = false;

	if (!task) {
		meet_task(pid);
		return;
	}
	task->look = rec.look;
	if (task->fd < 0) {
		ended = (rec.look + (unsigned)pid) % LOOK_AGAIN == 0;
	} else if (read_task(task->fd, &stat, &ended)) {
		if (stat.start != task->start)
			begin_task(task, &stat);
		count_task(task, &stat);
	}
	if (ended) {
		forget_task(task);
		meet_task(pid);
	}
}

/* False: not all were seen. */
static bool look_at_tasks(void)
{
	ssize_t n;

	lseek(rec.proc, 0, SEEK_SET);
	while ((n = getdents64(rec.proc, rec.dirents, sizeof(rec.dirents))) > 0) {
		const struct dirent64 *d;

		for (ssize_t at = 0; at < n; at += d->d_reclen) {
			d = (const struct dirent64 *)(rec.dirents + at);
			if (d->d_name[0] >= '1' && d->d_name[0] <= '9')
				look_at_task((pid_t)strtol(d->d_name, NULL, 10));
		}
	}
	return n == 0;
}

/* The kernel takes wq_pool_attach_mutex to tell a kworker's name, which whoever makes a new worker holds meanwhile. */
static void read_threads(struct jsonw *j)
{
	rec.look++;
	if (look_at_tasks())
		for (size_t i = rec.n_tasks; i-- > 0;)
			if (rec.tasks[i].look != rec.look)
				forget_task(&rec.tasks[i]);
	jsonw_object(j, NULL);
	for (size_t i = 0; i < RECORDER_MAX_NAMES && rec.config.threads[i]; i++) {
		if (!rec.thread_cpu[i].seen)
			continue;
		jsonw_object(j, rec.config.threads[i]);
		jsonw_u64(j, "cpu_ms", rec.thread_cpu[i].ticks * 1000 / (uint64_t)rec.ticks_s);
		jsonw_object_end(j);
	}
	jsonw_object_end(j);
}

static void *aside_thread(void *arg)
{
	struct aside *a = arg;

	do {
		int64_t begin;
		struct jsonw j;
		eventfd_t n;

		if (!a->period_ms && eventfd_read(a->wake, &n) < 0)
			break;
		begin = clock_ns();
		jsonw_init(&j, a->line, sizeof(a->line) - 1);
		a->read(&j);
		publish(a, &j, begin);
		for (unsigned waited = 0; waited < a->period_ms && !stopping(); waited += STOP_LOOK_MS)
			clock_sleep_ms(STOP_LOOK_MS);
	} while (!stopping() || !a->period_ms);
	return NULL;
}

static void open_groups(void)
{
	static const char *const names[N_GROUP_FILES] = { "memory.stat", "memory.events", "cgroup.stat",
							  "memory.current", "memory.pressure" };
	char path[PATH_MAX];

	for (int i = 0; i < RECORDER_MAX_GROUPS && rec.config.groups[i].name; i++) {
		for (int k = 0; k < N_GROUP_FILES; k++) {
			snprintf(path, sizeof(path), "%s/%s", rec.config.groups[i].dir, names[k]);
			rec.group_files[i][k] = open(path, O_RDONLY | O_CLOEXEC); /* the root has no memory.events */
		}
	}
}

static int start_thread(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	pthread_attr_init(&attr);
	/* Locked memory: eight megabytes of default stack a thread would be a load of its own. */
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	return -err;
}

static int start_aside(struct aside *a, void (*read)(struct jsonw *j), unsigned period_ms)
{
	a->read = read;
	a->period_ms = period_ms;
	a->wake = period_ms ? -1 : eventfd(0, EFD_CLOEXEC);
	return period_ms || a->wake >= 0 ? start_thread(aside_thread, a) : -errno;
}

/*
 * Whatever a sample touches, code and buffers and the kernel's own buffers behind the files, is touched here first.
 * mlockall alone does not do it where RLIMIT_MEMLOCK holds, nor for a box file whose first write to a page is a fault.
 */
static void warm_up(void)
{
	struct sample_live live = { 0 };
	struct jsonw j;

	memset(rec.text, 1, sizeof(rec.text));
	memset(rec.line, 1, sizeof(rec.line));
	memset(rec.kmsg_record, 1, sizeof(rec.kmsg_record));
	jsonw_init(&j, rec.line, sizeof(rec.line));
	sample_files(&j, &live);
	memset(rec.slab_text, 1, sizeof(rec.slab_text));
	memset(rec.slab.line, 1, sizeof(rec.slab.line));
	memset(rec.slab.json, 1, sizeof(rec.slab.json));
	/* Refused for the memory of a PCI device, which is mapped whole from the beginning, and before Linux 5.14. */
	madvise(rec.box->head, rec.box->size, MADV_POPULATE_WRITE);
}

static int prepare(void)
{
	struct sched_param param = { .sched_priority = 1 };
	int err;

	for (int i = 0; i < N_FILES; i++)
		rec.files[i] = open(file_paths[i], O_RDONLY | O_CLOEXEC);
	warm_up();
	rec.wake = eventfd(0, EFD_CLOEXEC);
	if (rec.wake < 0)
		return -errno;
	rec.klog = klog_new(keep_event, NULL);
	if (!rec.klog)
		return -ENOMEM;
	rec.klog_seq = KLOG_NONE;
	rec.box->on_drop = keep_events_of;
	rec.kmsg = rec.config.kmsg_fd ? rec.config.kmsg_fd : open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	rec.canary = rec.config.canary_ms ? open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC) : -1;
	rec.dm_control = rec.config.dm[0] ? open("/dev/mapper/control", O_RDWR | O_CLOEXEC) : -1;
	open_groups();
	rec.proc = rec.config.proc_fd ? rec.config.proc_fd : open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rec.ticks_s = sysconf(_SC_CLK_TCK);
	pthread_mutex_init(&rec.dm.lock, NULL);
	pthread_mutex_init(&rec.slab.lock, NULL);
	pthread_mutex_init(&rec.threads.lock, NULL);
	pthread_mutex_init(&rec.groups.lock, NULL); /* the sampler tries them whether there is a thread or not */

	/* Best effort on purpose: without the privilege the record says how late it was. */
	sysfile_write("/proc/self/oom_score_adj", "-1000");
	prctl(PR_SET_NAME, "hr-recorder");
	sched_setscheduler(0, SCHED_RR, &param);

	err = rec.kmsg >= 0 ? start_thread(kmsg_thread, NULL) : 0;
	if (!err && rec.canary >= 0)
		err = start_thread(canary_thread, NULL);
	if (!err && rec.dm_control >= 0)
		err = start_aside(&rec.dm, read_dm, rec.config.dm_ms);
	if (!err && rec.files[SLABINFO] >= 0)
		err = start_aside(&rec.slab, read_slab, 0);
	if (!err && rec.config.groups[0].name)
		err = start_aside(&rec.groups, read_groups, rec.config.group_ms);
	if (!err && rec.config.threads[0] && rec.proc >= 0)
		err = start_aside(&rec.threads, read_threads, rec.config.thread_ms);
	/* Last, so that the threads' stacks are locked with the rest. */
	if (!err && mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		err = errno == EPERM || errno == ENOMEM ? 0 : -errno;
	if (!err)
		await_slab(READY_WAIT_MS / 2);
	return err;
}

int recorder_start(struct recorder *r, struct bb *box, const struct recorder_config *config)
{
	int64_t deadline = clock_ns() + READY_WAIT_MS * NS_PER_MS;
	pid_t parent = getpid();
	int ready = 0;

	r->shared = mmap(NULL, sizeof(*r->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r->shared == MAP_FAILED)
		return -errno;
	r->pid = fork();
	if (r->pid < 0) {
		int err = -errno;

		munmap(r->shared, sizeof(*r->shared));
		return err;
	}
	if (r->pid == 0) {
		int err;

		spawn_die_with(parent);
		/* Ctrl-C is the runner's business: it ends the recorder when the last event is written. */
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		rec.box = box;
		rec.config = *config;
		rec.shared = r->shared;
		err = prepare();
		atomic_store(&rec.shared->ready, err ? err : 1);
		if (!err)
			sampler();
		_exit(err ? 1 : 0);
	}
	while (!(ready = atomic_load(&r->shared->ready))) {
		if (clock_ns() > deadline || waitpid(r->pid, NULL, WNOHANG) == r->pid) {
			kill(r->pid, SIGKILL);
			return -ETIMEDOUT;
		}
		clock_sleep_ms(1);
	}
	return ready < 0 ? ready : 0;
}

int recorder_stop(struct recorder *r)
{
	int status, err = 0;

	atomic_store(&r->shared->stop, 1);
	if (!spawn_wait_until(r->pid, clock_ns() + STOP_WAIT_MS * NS_PER_MS, &status)) {
		kill(r->pid, SIGKILL);
		err = -ETIMEDOUT;
	}
	munmap(r->shared, sizeof(*r->shared));
	return err;
}

int recorder_mark(const char *text)
{
	char line[512];

	snprintf(line, sizeof(line), "<6>headroom: %s\n", text);
	return sysfile_write("/dev/kmsg", line);
}
