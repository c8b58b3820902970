// SPDX-License-Identifier: MIT
#include "hotplug/pins.h"

#include "base/clock.h"
#include "dev/dmdev.h"
#include "hotplug/crasher.h"
#include "hotplug/memblock.h"
#include "run/undo.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE	   4096
#define LOOK_MS	   50
#define RELEASE_MS 10000 /* for who was held to come to his end */

const char *const pin_choices[] = { "none", "vmsplice", "direct", "core", NULL };

/* --- A page that is held --- */

struct held {
	uint64_t address; /* physical */
	char *page;
	int fds[2];
	pid_t pid; /* of the process that stands still with it */
};

static void dm_name(const struct cell *c, char *name, size_t size)
{
	snprintf(name, size, "%s-pin", c->run_id);
}

static char *new_page(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return NULL;
	*page = 1;
	return page;
}

static int let_go_of_pipe(const struct pins *p, struct held *h)
{
	(void)p;
	close(h->fds[0]);
	close(h->fds[1]);
	return munmap(h->page, PAGE) < 0 ? -errno : 0;
}

static int splice_page(struct held *h)
{
	struct iovec iov = { .iov_len = PAGE };

	h->page = new_page();
	if (!h->page)
		return -ENOMEM;
	iov.iov_base = h->page;
	if (pipe2(h->fds, O_CLOEXEC) < 0) {
		munmap(h->page, PAGE);
		return -errno;
	}
	if (vmsplice(h->fds[1], &iov, 1, 0) != PAGE) {
		int err = -errno;

		let_go_of_pipe(NULL, h);
		return err;
	}
	/* Now that it cannot be moved any more; touched, because it may have been on its way. */
	(void)*(volatile char *)h->page;
	h->address = memblock_address(h->page);
	return 0;
}

int pins_splice(uint64_t *address)
{
	struct held h = { .pid = 0 };
	int err = splice_page(&h);

	*address = h.address;
	return err ? err : h.address ? 0 : -ENODATA;
}

static int hold_in_pipe(const struct pins *p, struct held *h)
{
	(void)p;
	return splice_page(h);
}

static int let_go_of_direct_read(const struct pins *p, struct held *h)
{
	char name[64];
	int err, rc;

	dm_name(p->c, name, sizeof(name));
	err = dmdev_resume(name);
	rc = h->pid > 0 ? cell_wait(p->c, "hr-direct", h->pid) : 0;
	return err ? err : rc ? -EIO : 0;
}

/* Opened before the device is suspended: opening may read. */
static int hold_in_direct_read(const struct pins *p, struct held *h)
{
	uint64_t *address = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int64_t deadline = clock_ns() + RELEASE_MS * NS_PER_MS;
	char name[64], path[PATH_MAX];
	int fd, err;

	if (address == MAP_FAILED)
		return -ENOMEM;
	dm_name(p->c, name, sizeof(name));
	snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	err = fd < 0 ? -errno : dmdev_suspend(name);
	if (!err) {
		h->pid = cell_child(p->c, "hr-direct");
		if (h->pid == 0) {
			char *page = new_page();

			if (page)
				__atomic_store_n(address, memblock_address(page), __ATOMIC_RELEASE);
			_exit(page && pread(fd, page, PAGE, 0) == PAGE ? 0 : EIO);
		}
		err = h->pid < 0 ? h->pid : 0;
	}
	while (!err && !(h->address = __atomic_load_n(address, __ATOMIC_ACQUIRE)))
		if (clock_ns() < deadline)
			clock_sleep_ms(LOOK_MS);
		else
			err = -ETIMEDOUT;
	if (err && fd >= 0)
		let_go_of_direct_read(p, h);
	if (fd >= 0)
		close(fd);
	munmap(address, PAGE);
	return err;
}

static pid_t start_crasher(void *arg)
{
	const struct pins *p = arg;

	return cell_child(p->c, "hr-crasher");
}

static int let_go_of_core_dump(const struct pins *p, struct held *h)
{
	int err = crasher_go(p->c->work_dir), rc = cell_wait(p->c, "hr-crasher", h->pid);

	crasher_sweep(p->c->work_dir, h->pid);
	return err ? err : rc == 128 + SIGABRT ? 0 : -EIO;
}

static int hold_in_core_dump(const struct pins *p, struct held *h)
{
	struct crasher k;
	struct pins copy = *p;
	int err = crasher_start(&k, start_crasher, &copy);

	if (err)
		return err;
	h->pid = k.pid;
	h->address = k.address;
	err = crasher_crash(&k);
	if (err)
		let_go_of_core_dump(p, h);
	return err;
}

/* One that does not come about leaves nothing behind. */
static const struct {
	int (*hold)(const struct pins *p, struct held *h);
	int (*let_go)(const struct pins *p, struct held *h);
} ways[] = {
	[PIN_VMSPLICE] = { hold_in_pipe, let_go_of_pipe },
	[PIN_DIRECT] = { hold_in_direct_read, let_go_of_direct_read },
	[PIN_CORE] = { hold_in_core_dump, let_go_of_core_dump },
};

/* --- The process that does it --- */

static volatile sig_atomic_t ended;

static void on_term(int sig)
{
	(void)sig;
	ended = 1;
}

/* Until the time is up, or we are to end. 0 ms: until we are to end. */
static void hold_for(const struct cell *c, int64_t ms)
{
	int64_t until = ms ? clock_ns() + ms * NS_PER_MS : INT64_MAX;
	/* Held beyond our own end, a read of a suspended device could not even be killed. */
	int64_t last = c->deadline_ns - RELEASE_MS * NS_PER_MS;

	while (!ended && clock_ns() < until && clock_ns() < last)
		clock_sleep_ms(LOOK_MS);
	ended |= clock_ns() >= last;
}

struct pin_event {
	const char *how;
	const struct memblock *block;
	uint64_t address;
};

static void add_pin(struct jsonw *j, const void *arg)
{
	const struct pin_event *e = arg;

	jsonw_str(j, "how", e->how);
	jsonw_u64(j, "block", e->block->id);
	jsonw_strf(j, "address", "0x%" PRIx64, e->address);
}

static int pin_once(const struct pins *p)
{
	struct held h = { .pid = 0 };
	struct memblock b = { .id = 0 };
	struct pin_event event = { .how = pin_choices[p->kind], .block = &b };
	int err = ways[p->kind].hold(p, &h), let_go;

	if (err)
		return err;
	event.address = h.address;
	err = h.address ? memblock_at(MEMBLOCK_ROOT, h.address, &b) : -ENODATA;
	if (!err) {
		cell_event_with("pin", add_pin, &event, "%s holds a page of memory%u", event.how, b.id);
		hold_for(p->c, p->hold_ms);
	}
	let_go = ways[p->kind].let_go(p, &h);
	if (!err)
		cell_event_with("unpin", add_pin, &event, "%s has let go of memory%u", event.how, b.id);
	return err ? err : let_go;
}

static int pin_and_pin(const struct pins *p)
{
	const struct sigaction term = { .sa_handler = on_term };
	int err = 0;

	sigaction(SIGTERM, &term, NULL);
	while (!err && !ended) {
		err = pin_once(p);
		hold_for(p->c, p->gap_ms ? p->gap_ms : 1);
	}
	return err;
}

int pins_prepare(const struct cell *c, enum pin_kind kind)
{
	char name[64], params[128];
	int err = 0;

	if (kind == PIN_CORE)
		err = crasher_set_pattern("read", "asks", c->work_dir);
	if (kind == PIN_DIRECT) {
		dm_name(c, name, sizeof(name));
		snprintf(params, sizeof(params), "%s %" PRIu64, c->scratch, c->scratch_start);
		err = undo_note("dm", name, NULL);
		if (!err)
			err = dmdev_create(name, PIN_DISK_SECTORS, "linear", params);
	}
	if (err)
		cell_fail(c, "what is to hold a page (%s): %s", pin_choices[kind], strerror(-err));
	return err;
}

int pins_start(struct pins *p)
{
	if (p->kind == PIN_NONE)
		return 0;
	p->pid = cell_child(p->c, "hr-pin");
	if (p->pid == 0)
		_exit(-pin_and_pin(p));
	return p->pid < 0 ? p->pid : 0;
}

int pins_stop(struct pins *p)
{
	char words[64];
	int rc;

	if (p->pid <= 0)
		return 0;
	kill(p->pid, SIGTERM);
	rc = cell_wait(p->c, "hr-pin", p->pid);
	if (rc)
		cell_fail(p->c, "what holds pages (%s): %s", pin_choices[p->kind],
			  cell_end_words(rc, words, sizeof(words)));
	return rc ? -EIO : 0;
}
