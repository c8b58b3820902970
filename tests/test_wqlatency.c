// SPDX-License-Identifier: MIT
/* Waits of works for a kernel worker, from made-up tracepoints. */
#include "record/wqlatency.h"
#include "t.h"

#define MS   INT64_C(1000000)
#define SEC  (1000 * MS)
#define CPUS 2
#define F    0xf000 /* functions */
#define G    0xf100
#define HOG  0xf200
#define A    0xa000 /* works */
#define B    0xb000
#define C    0xc000

static struct wql *w;
static struct wql_stall stalls[64];
static size_t n_stalls;

static void on_stall(const struct wql_stall *s, void *arg)
{
	assert_ptr_equal(arg, &n_stalls);
	assert_true(n_stalls < sizeof(stalls) / sizeof(stalls[0]));
	stalls[n_stalls++] = *s;
}

static int make(void **state)
{
	(void)state;
	n_stalls = 0;
	w = wql_new(CPUS, SEC, on_stall, &n_stalls);
	return !w;
}

static int drop(void **state)
{
	(void)state;
	wql_free(w);
	return 0;
}

static void feed(enum wql_type type, int cpu, int pool, int64_t ns, uint64_t work, uint64_t function)
{
	struct wql_event e = {
		.type = type, .cpu = cpu, .pool_cpu = pool, .ns = ns, .work = work, .function = function
	};

	wql_feed(w, &e);
}

static void queue(int pool, int64_t ns, uint64_t work, uint64_t function)
{
	feed(WQL_QUEUE, 0, pool, ns, work, function);
}

/* Queued and activated at once, as it is below max_active. */
static void put(int pool, int64_t ns, uint64_t work, uint64_t function)
{
	queue(pool, ns, work, function);
	feed(WQL_ACTIVATE, 0, 0, ns, work, 0);
}

static void start(int cpu, int64_t ns, uint64_t work, uint64_t function)
{
	feed(WQL_START, cpu, 0, ns, work, function);
}

static void end(int cpu, int64_t ns, uint64_t work, uint64_t function)
{
	feed(WQL_END, cpu, 0, ns, work, function);
}

static void lost(int cpu, int64_t ns, int64_t until)
{
	struct wql_event e = { .type = WQL_LOST, .cpu = cpu, .ns = ns, .until_ns = until };

	wql_feed(w, &e);
}

static const struct wql_function *function(uint64_t address)
{
	const struct wql_function *f;

	for (size_t i = 0; (f = wql_function(w, i)); i++)
		if (f->address == address)
			return f;
	fail_msg("no function 0x%llx", (unsigned long long)address);
	return NULL;
}

static void expect_waits(int pool, uint64_t n, int64_t max)
{
	assert_int_equal(wql_pool(w, pool, false)->n, n);
	assert_int_equal(wql_pool(w, pool, false)->max_ns, max);
}

static void a_wait_is_from_activation_to_start(void **state)
{
	(void)state;
	put(0, 10 * MS, A, F);
	start(0, 13 * MS, A, F);
	end(0, 20 * MS, A, F);
	expect_waits(0, 1, 3 * MS);
	assert_int_equal(function(F)->wait.max_ns, 3 * MS);
	assert_int_equal(function(F)->run.total_ns, 7 * MS);
	assert_int_equal(function(F)->run.bucket[13], 1); /* 4096 to 8191 us */
	assert_int_equal(function(F)->wait.bucket[12], 1);
	assert_int_equal(wql_counts(w)->events, 4);
	assert_int_equal(n_stalls, 0);
}

static void buckets_double(void **state)
{
	static const struct {
		int64_t ns;
		unsigned bucket;
	} cases[] = { { 0, 0 },	       { 999, 0 },	 { 1000, 1 },	   { 1999, 1 },	     { 2000, 2 },
		      { 1024000, 11 }, { 67 * SEC, 26 }, { 68 * SEC, 27 }, { 900 * SEC, 27 } };

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int64_t begin = (int64_t)i * 1000 * SEC;
		uint64_t address = F + i;

		n_stalls = 0;
		put(0, begin, A, address);
		start(0, begin + cases[i].ns, A, address);
		end(0, begin + cases[i].ns, A, address);
		assert_int_equal(function(address)->wait.bucket[cases[i].bucket], 1);
	}
}

static void a_stall_names_the_hog(void **state)
{
	(void)state;
	put(0, 100 * MS, B, HOG);
	start(0, 100 * MS, B, HOG);
	put(0, 200 * MS, A, F);
	end(0, 3100 * MS, B, HOG);
	start(0, 3101 * MS, A, F);
	assert_int_equal(n_stalls, 1);
	assert_int_equal(stalls[0].function, F);
	assert_int_equal(stalls[0].pool_cpu, 0);
	assert_int_equal(stalls[0].waited_ns, 2901 * MS);
	assert_int_equal(stalls[0].ns, 3101 * MS);
	assert_int_equal(stalls[0].hog, HOG);
	assert_in_range(stalls[0].hog_ns, 2850 * MS, 2901 * MS); /* true: 2900 */
	assert_false(stalls[0].waiting);
	assert_int_equal(wql_counts(w)->stalls, 1);
}

/* Many short runs are as bad as a long one. */
static void runs_of_one_function_add_up(void **state)
{
	(void)state;
	put(0, 0, A, F);
	for (int i = 0; i < 2000; i++) {
		start(0, i * MS, B, HOG);
		end(0, i * MS + MS / 2, B, HOG);
		start(0, i * MS + MS / 2, C, G);
		end(0, i * MS + MS / 2 + MS / 10, C, G);
	}
	start(0, 2000 * MS, A, F);
	assert_int_equal(n_stalls, 1);
	assert_int_equal(stalls[0].hog, HOG);
	assert_in_range(stalls[0].hog_ns, 990 * MS, 1010 * MS);
}

/* What began before another on the same CPU must have slept since: it did not keep anybody waiting. */
static void a_sleeper_is_no_hog(void **state)
{
	(void)state;
	start(0, 0, C, G);
	start(0, 50 * MS, B, HOG);
	put(0, 100 * MS, A, F);
	end(0, 2000 * MS, B, HOG);
	start(0, 2001 * MS, A, F);
	end(0, 2002 * MS, A, F);
	end(0, 2003 * MS, C, G);
	assert_int_equal(n_stalls, 1);
	assert_int_equal(stalls[0].hog, HOG);
	assert_int_equal(function(G)->run.max_ns, 2003 * MS);
}

static void nobody_ran(void **state)
{
	(void)state;
	put(1, 0, A, F);
	start(0, 10 * MS, B, HOG); /* on another CPU */
	start(1, 5 * SEC, A, F);
	assert_int_equal(n_stalls, 1);
	assert_int_equal(stalls[0].hog_ns, 0);
	assert_int_equal(stalls[0].hog, 0);
}

static void what_requeues_itself_does_not_wait_for_itself(void **state)
{
	(void)state;
	put(0, 0, A, F);
	start(0, 1 * MS, A, F);
	put(0, 2 * MS, A, F);
	end(0, 9 * SEC, A, F);
	start(0, 9 * SEC + 4 * MS, A, F);
	end(0, 9 * SEC + 5 * MS, A, F);
	expect_waits(0, 2, 4 * MS);
	assert_int_equal(n_stalls, 0);
	assert_int_equal(wql_counts(w)->requeued, 1);
}

/* The same where its start was not seen, because it ran already when tracing began. */
static void what_requeues_itself_unseen(void **state)
{
	(void)state;
	put(0, 2 * MS, A, F);
	end(0, 9 * SEC, A, F);
	start(0, 9 * SEC + 4 * MS, A, F);
	expect_waits(0, 1, 4 * MS);
	assert_int_equal(n_stalls, 0);
}

static void max_active_is_no_wait(void **state)
{
	(void)state;
	queue(0, 0, A, F);
	wql_tick(w, 20 * SEC);
	feed(WQL_ACTIVATE, 0, 0, 20 * SEC, A, F);
	start(0, 20 * SEC + MS, A, F);
	expect_waits(0, 1, MS);
	assert_int_equal(n_stalls, 0);
}

static void barriers_run_and_do_not_wait(void **state)
{
	(void)state;
	start(0, 5 * SEC, B, G);
	end(0, 5 * SEC + MS, B, G);
	expect_waits(0, 0, 0);
	assert_int_equal(function(G)->run.n, 1);
	assert_int_equal(wql_counts(w)->unmatched, 1);
}

static void a_cancelled_work_is_no_stall(void **state)
{
	(void)state;
	put(0, 0, A, F); /* cancelled: no event */
	for (int i = 1; i < 100; i++) {
		put(0, i * SEC, B, G);
		start(0, i * SEC + MS, B, G);
		end(0, i * SEC + 2 * MS, B, G);
		wql_tick(w, i * SEC + 3 * MS);
	}
	assert_int_equal(n_stalls, 0);
	assert_int_equal(wql_counts(w)->never_started, 1);
	assert_int_equal(wql_waiting(w), 0);
}

static void cancelled_and_queued_again(void **state)
{
	(void)state;
	put(0, 0, A, F);
	put(0, 10 * SEC, A, F);
	start(0, 10 * SEC + MS, A, F);
	expect_waits(0, 1, MS);
	assert_int_equal(n_stalls, 0);
	assert_int_equal(wql_counts(w)->replaced, 1);
}

/* A wait that is not over does not go away, however long it takes: nothing that came later was started. */
static void a_pool_that_stands_still_is_told(void **state)
{
	(void)state;
	put(0, 100 * MS, B, HOG);
	start(0, 100 * MS, B, HOG);
	put(0, 200 * MS, A, F);
	wql_tick(w, 5 * SEC);
	assert_int_equal(n_stalls, 0); /* one alone may have been cancelled */
	put(0, 300 * MS, C, G);
	for (int i = 5; i < 50; i++)
		wql_tick(w, i * SEC);
	wql_finish(w, 49 * SEC);
	assert_int_equal(n_stalls, 5); /* as soon as there are two, doubled three times, and at the end */
	assert_int_equal(stalls[1].waited_ns, 10 * SEC - 200 * MS);
	assert_int_equal(stalls[4].waited_ns, 49 * SEC - 200 * MS);
	assert_true(stalls[0].waiting);
	assert_int_equal(stalls[0].function, F);
	assert_int_equal(stalls[0].waited_ns, 5 * SEC - 200 * MS);
	assert_int_equal(stalls[0].hog, HOG);
	assert_int_equal(wql_counts(w)->stalls, 0);
	end(0, 50 * SEC, B, HOG);
	start(0, 50 * SEC, A, F);
	assert_int_equal(n_stalls, 6);
	assert_int_equal(stalls[5].waited_ns, 50 * SEC - 200 * MS);
	assert_in_range(stalls[5].hog_ns, 49 * SEC, 50 * SEC);
	wql_finish(w, 50 * SEC + MS);
	assert_int_equal(n_stalls, 6);
}

/* A rescuer starts what came later while the pool stands still: the others were not passed over, they wait. */
static void a_rescuer_does_not_speak_for_its_pool(void **state)
{
	(void)state;
	start(0, 100 * MS, B, HOG);
	put(0, 200 * MS, A, F);
	put(0, 250 * MS, 0xd000, F);
	for (int i = 1; i < 100; i++) {
		struct wql_event e = {
			.type = WQL_START, .ns = i * SEC, .work = C, .function = G, .out_of_turn = true
		};

		put(0, i * SEC - MS, C, G);
		wql_feed(w, &e);
		end(0, i * SEC + MS, C, G);
		wql_tick(w, i * SEC + 2 * MS);
	}
	assert_int_equal(wql_counts(w)->never_started, 0);
	assert_int_equal(wql_waiting(w), 2);
	assert_true(n_stalls > 3 && stalls[n_stalls - 1].waiting);
	assert_int_equal(stalls[n_stalls - 1].function, F);
	start(0, 100 * SEC, A, F);
	assert_int_equal(stalls[n_stalls - 1].waited_ns, 100 * SEC - 200 * MS);
	assert_int_equal(stalls[n_stalls - 1].hog, HOG);
}

/* Each CPU has two pools: the one of high priority goes on while the other stands still. */
static void high_priority_does_not_speak_for_the_other(void **state)
{
	(void)state;
	start(0, 100 * MS, B, HOG);
	put(0, 200 * MS, A, F);
	put(0, 250 * MS, 0xd000, F);
	for (int i = 1; i < 100; i++) {
		struct wql_event e = { .type = WQL_START, .ns = i * SEC, .work = C, .function = G, .highpri = true };

		put(0, i * SEC - MS, C, G);
		wql_feed(w, &e);
		end(0, i * SEC + MS, C, G);
		wql_tick(w, i * SEC + 2 * MS);
	}
	assert_int_equal(wql_pool(w, 0, true)->n, 99);
	assert_int_equal(wql_pool(w, 0, true)->max_ns, MS);
	assert_int_equal(wql_counts(w)->never_started, 0);
	assert_int_equal(wql_waiting(w), 2);
	assert_true(n_stalls > 3 && stalls[n_stalls - 1].waiting && !stalls[n_stalls - 1].highpri);
	start(0, 100 * SEC, A, F);
	assert_int_equal(stalls[n_stalls - 1].waited_ns, 100 * SEC - 200 * MS);
	assert_int_equal(stalls[n_stalls - 1].hog, HOG);
	expect_waits(0, 1, 100 * SEC - 200 * MS);
}

static void reused_memory_is_another_work(void **state)
{
	(void)state;
	put(0, 0, A, F); /* cancelled and freed */
	start(0, 20 * SEC, A, G);
	end(0, 20 * SEC + MS, A, G);
	expect_waits(0, 0, 0);
	assert_int_equal(wql_counts(w)->mismatched, 1);
	/* Freed by its own function and used again while that still runs. */
	put(0, 30 * SEC, A, F);
	start(0, 30 * SEC, A, F);
	put(1, 31 * SEC, A, G);
	start(1, 31 * SEC + MS, A, G);
	end(0, 35 * SEC, A, F);
	end(1, 36 * SEC, A, G);
	expect_waits(1, 1, MS);
	assert_int_equal(function(F)->run.max_ns, 5 * SEC);
	assert_int_equal(function(G)->run.max_ns, 5 * SEC - MS);
	assert_int_equal(n_stalls, 0);
}

static void lost_events_are_no_waits(void **state)
{
	(void)state;
	put(0, 0, A, F);
	put(1, 0, B, F);
	queue(0, 0, C, F);
	start(1, 0, 0xd000, HOG);
	lost(0, 1 * SEC, 3 * SEC);
	assert_int_equal(wql_counts(w)->losses, 1);
	assert_int_equal(wql_counts(w)->dropped, 3);
	put(1, 2 * SEC, C, G); /* before the gap's end: it may have been cancelled and queued again unseen */
	start(1, 4 * SEC, B, F);
	start(0, 5 * SEC, A, F);
	start(1, 6 * SEC, C, G);
	expect_waits(0, 0, 0);
	expect_waits(1, 0, 0);
	assert_int_equal(wql_counts(w)->blind, 2);
	end(1, 7 * SEC, 0xd000, HOG); /* its start and end are both on the other CPU */
	assert_int_equal(function(HOG)->run.max_ns, 7 * SEC);
	put(0, 8 * SEC, B, G);
	start(0, 8 * SEC + MS, B, G);
	expect_waits(0, 1, MS);
	assert_int_equal(n_stalls, 0);
}

static void an_end_that_was_lost_is_no_run(void **state)
{
	(void)state;
	start(0, 0, A, F);
	lost(0, 1 * SEC, 2 * SEC);
	end(0, 9 * SEC, A, F);
	assert_int_equal(function(F)->run.n, 0);
	put(0, 10 * SEC, B, G);
	start(0, 12 * SEC, B, G);
	assert_int_equal(n_stalls, 1);
	assert_int_equal(stalls[0].hog_ns, 0);
}

static void pools_are_apart(void **state)
{
	(void)state;
	put(0, 0, A, F);
	put(1, 0, B, F);
	put(WQL_UNBOUND, 0, C, F);
	start(0, 1 * MS, A, F);
	start(1, 2 * MS, B, F);
	start(0, 3 * MS, C, F);
	expect_waits(0, 1, 1 * MS);
	expect_waits(1, 1, 2 * MS);
	expect_waits(WQL_UNBOUND, 1, 3 * MS);
	assert_int_equal(function(F)->wait.n, 3);
	assert_int_equal(function(F)->wait.total_ns, 6 * MS);
}

static void an_unbound_work_waits_where_it_starts(void **state)
{
	(void)state;
	start(1, 0, B, HOG);
	put(WQL_UNBOUND, 10 * MS, A, F);
	start(1, 2 * SEC, A, F);
	assert_int_equal(n_stalls, 1);
	assert_int_equal(stalls[0].pool_cpu, WQL_UNBOUND);
	assert_int_equal(stalls[0].hog, HOG);
	/* It may end elsewhere. */
	end(0, 3 * SEC, A, F);
	assert_int_equal(function(F)->run.max_ns, SEC);
}

/* An unbound work on the CPU does not hide the hog of the CPU's own pool. */
static void an_unbound_work_hides_nobody(void **state)
{
	(void)state;
	start(0, 0, B, HOG);
	put(WQL_UNBOUND, 10 * MS, C, G);
	start(0, 20 * MS, C, G);
	put(0, 30 * MS, A, F);
	end(0, 3 * SEC, B, HOG);
	start(0, 3 * SEC, A, F);
	assert_int_equal(n_stalls, 1);
	assert_int_equal(stalls[0].hog, HOG);
}

static void full_tables_count_and_stay_right(void **state)
{
	uint64_t n = WQL_MAX_WAITING + 100;

	(void)state;
	for (uint64_t i = 0; i < n; i++)
		put(0, (int64_t)i, 0x100000 + i * 64, F);
	assert_int_equal(wql_counts(w)->waiting_full, 100);
	assert_int_equal(wql_waiting(w), WQL_MAX_WAITING);
	for (uint64_t i = 0; i < n; i++)
		start(0, MS + (int64_t)i, 0x100000 + i * 64, F);
	assert_int_equal(wql_counts(w)->unmatched, 100);
	assert_int_equal(wql_counts(w)->running_full, n - WQL_MAX_RUNNING);
	expect_waits(0, WQL_MAX_WAITING, MS);
	for (uint64_t i = 0; i < n; i++)
		end(0, 2 * MS + (int64_t)i, 0x100000 + i * 64, F);
	assert_int_equal(function(F)->run.n, WQL_MAX_RUNNING);
	assert_int_equal(function(F)->run.max_ns, MS);
}

static void many_functions_share_the_last_row(void **state)
{
	size_t rows = 0;

	(void)state;
	for (uint64_t i = 0; i < WQL_MAX_FUNCTIONS + 50; i++) {
		put(0, (int64_t)i * MS, A, F + i * 16);
		start(0, (int64_t)i * MS + 1000, A, F + i * 16);
		end(0, (int64_t)i * MS + 2000, A, F + i * 16);
	}
	assert_true(wql_counts(w)->functions_full > 0);
	expect_waits(0, WQL_MAX_FUNCTIONS + 50, 1000);
	while (wql_function(w, rows))
		rows++;
	assert_int_equal(rows, WQL_MAX_FUNCTIONS);
	assert_int_equal(function(0)->wait.n, 51);
}

static void hostile_events_are_refused(void **state)
{
	static const int64_t times[] = { INT64_MIN, -1, 0, 1, INT64_MAX / 2, INT64_MAX / 2 + 1, INT64_MAX };
	static const int cpus[] = { INT_MIN, -2, -1, 0, 1, 2, 255, INT_MAX };

	(void)state;
	for (int type = -1; type <= WQL_LOST + 1; type++)
		for (size_t c = 0; c < 8; c++)
			for (size_t p = 0; p < 8; p++)
				for (size_t t = 0; t < 7; t++) {
					struct wql_event e = { .type = (enum wql_type)type,
							       .cpu = cpus[c],
							       .pool_cpu = cpus[p],
							       .ns = times[t],
							       .until_ns = times[6 - t],
							       .work = t % 2 ? UINT64_MAX : 0,
							       .function = p % 2 ? UINT64_MAX : 0 };

					n_stalls = 0;
					wql_feed(w, &e);
				}
	n_stalls = 0;
	wql_tick(w, INT64_MAX / 2);
	assert_true(wql_counts(w)->bad > 0);
	assert_null(wql_pool(w, 2, false));
	assert_null(wql_pool(w, -2, true));
	assert_null(wql_new(0, SEC, NULL, NULL));
	assert_null(wql_new(WQL_MAX_CPUS + 1, SEC, NULL, NULL));
}

/* --- Against a plain model: arrays and nothing else --- */

#define N_WORKS	    24
#define N_FUNCTIONS 5

struct plain_work {
	bool queued, active, self, running;
	int64_t since, started;
	int pool, stack;
	uint64_t function, running_function;
};

struct plain {
	struct plain_work works[N_WORKS];
	struct wql_times pools[2 * CPUS + 1], wait[N_FUNCTIONS], run[N_FUNCTIONS];
	bool unbound[N_FUNCTIONS];
	int64_t blind_until;
	uint64_t stalls;
};

static struct plain plain;

static void plain_time(struct wql_times *t, int64_t ns)
{
	t->n++;
	t->total_ns += ns;
	if (ns > t->max_ns)
		t->max_ns = ns;
}

static void plain_feed(const struct wql_event *e, size_t i, size_t f)
{
	struct plain_work *p = &plain.works[i];
	bool same = p->running && p->running_function == e->function;

	switch (e->type) {
	case WQL_QUEUE:
		if (e->ns < plain.blind_until)
			return;
		p->queued = true;
		p->active = p->self = false;
		p->pool = e->pool_cpu;
		p->function = e->function;
		plain.unbound[f] = e->pool_cpu == WQL_UNBOUND;
		return;
	case WQL_ACTIVATE:
		if (e->ns < plain.blind_until || !p->queued || p->active || p->self)
			return;
		p->self = p->running && p->running_function == p->function;
		p->active = !p->self;
		p->since = e->ns;
		return;
	case WQL_START:
		p->stack = p->queued && p->function == e->function ? p->pool : plain.unbound[f] ? WQL_UNBOUND : e->cpu;
		if (p->queued && p->active && p->function == e->function) {
			plain_time(&plain.pools[p->pool == WQL_UNBOUND ? 2 * CPUS : p->pool + (e->highpri ? CPUS : 0)],
				   e->ns - p->since);
			plain_time(&plain.wait[f], e->ns - p->since);
			plain.stalls += e->ns - p->since >= SEC;
		}
		p->queued = p->active = p->self = false;
		p->running = true;
		p->running_function = e->function;
		p->started = e->ns;
		return;
	case WQL_END:
		if (same) {
			plain_time(&plain.run[f], e->ns - p->started);
			p->running = false;
		}
		if (p->queued && (p->active || p->self) && p->function == e->function) {
			p->active = true;
			p->self = false;
			p->since = e->ns;
		}
		return;
	case WQL_LOST:
		if (e->until_ns > plain.blind_until)
			plain.blind_until = e->until_ns;
		for (size_t k = 0; k < N_WORKS; k++) {
			struct plain_work *q = &plain.works[k];

			q->queued = q->active = q->self = false;
			if (q->stack == e->cpu || q->stack == WQL_UNBOUND)
				q->running = false;
		}
		return;
	}
}

static void expect_times(const struct wql_times *a, const struct wql_times *b)
{
	uint64_t sum = 0;

	assert_int_equal(a->n, b->n);
	assert_int_equal(a->total_ns, b->total_ns);
	assert_int_equal(a->max_ns, b->max_ns);
	for (size_t i = 0; i < WQL_BUCKETS; i++)
		sum += a->bucket[i];
	assert_int_equal(sum, a->n);
}

static void count_stall(const struct wql_stall *s, void *arg)
{
	(void)arg;
	assert_true(s->waiting || s->waited_ns >= SEC);
	assert_true(s->hog_ns >= 0 && s->hog_ns <= s->waited_ns);
}

static uint32_t seed;

static uint32_t dice(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed % n;
}

/* Each work keeps to its function, or (a running one told apart by it) takes another when it is not running. */
static void one_sequence(void)
{
	int64_t now = 0;

	memset(&plain, 0, sizeof(plain));
	wql_free(w);
	w = wql_new(CPUS, SEC, count_stall, NULL);
	for (int step = 0; step < 4000; step++) {
		size_t i = dice(N_WORKS), f = dice(20) ? i % N_FUNCTIONS : dice(N_FUNCTIONS);
		struct wql_event e = { .type = (enum wql_type)dice(4), .cpu = (int)dice(CPUS) };

		/* The plain model has one run a work: what runs ends before its memory is used again. */
		if (e.type != WQL_ACTIVATE && plain.works[i].running)
			f = (plain.works[i].running_function - F) / 16;
		now += dice(100) ? dice(20) * MS : dice(3) * SEC;
		if (!dice(500))
			e.type = WQL_LOST;
		e.ns = now;
		e.until_ns = now + dice(200) * MS;
		e.pool_cpu = (int)dice(CPUS + 1) - 1;
		e.work = 0x1000 + i * 0x40;
		e.function = F + f * 16;
		e.highpri = f == 3 || !dice(50);
		if (e.type == WQL_ACTIVATE)
			e.function = dice(2) ? 0 : plain.works[i].function;
		wql_feed(w, &e);
		plain_feed(&e, i, f);
		if (!dice(40) && !plain.works[i].queued)
			wql_tick(w, now - 31 * SEC); /* too early for anything to expire */
	}
	for (int p = 0; p < CPUS; p++) {
		expect_times(wql_pool(w, p, false), &plain.pools[p]);
		expect_times(wql_pool(w, p, true), &plain.pools[CPUS + p]);
	}
	expect_times(wql_pool(w, WQL_UNBOUND, false), &plain.pools[2 * CPUS]);
	assert_int_equal(wql_counts(w)->stalls, plain.stalls);
	for (size_t k = 0; wql_function(w, k); k++) {
		size_t f = (wql_function(w, k)->address - F) / 16;

		assert_true(f < N_FUNCTIONS);
		expect_times(&wql_function(w, k)->wait, &plain.wait[f]);
		expect_times(&wql_function(w, k)->run, &plain.run[f]);
	}
}

static void random_sequences_agree_with_a_plain_model(void **state)
{
	(void)state;
	print_message("seeds 1 to 200\n");
	for (uint32_t s = 1; s <= 200; s++) {
		seed = s * 2654435761U;
		one_sequence();
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(a_wait_is_from_activation_to_start),
		TEST(buckets_double),
		TEST(a_stall_names_the_hog),
		TEST(runs_of_one_function_add_up),
		TEST(a_sleeper_is_no_hog),
		TEST(nobody_ran),
		TEST(what_requeues_itself_does_not_wait_for_itself),
		TEST(what_requeues_itself_unseen),
		TEST(max_active_is_no_wait),
		TEST(barriers_run_and_do_not_wait),
		TEST(a_cancelled_work_is_no_stall),
		TEST(cancelled_and_queued_again),
		TEST(a_pool_that_stands_still_is_told),
		TEST(a_rescuer_does_not_speak_for_its_pool),
		TEST(high_priority_does_not_speak_for_the_other),
		TEST(reused_memory_is_another_work),
		TEST(lost_events_are_no_waits),
		TEST(an_end_that_was_lost_is_no_run),
		TEST(pools_are_apart),
		TEST(an_unbound_work_waits_where_it_starts),
		TEST(an_unbound_work_hides_nobody),
		TEST(full_tables_count_and_stay_right),
		TEST(many_functions_share_the_last_row),
		TEST(hostile_events_are_refused),
		TEST(random_sequences_agree_with_a_plain_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
