// SPDX-License-Identifier: MIT
/* The tree of addresses against a plain table of what is in it. */
#include "engine/addrtree.h"

#include "t.h"

#define NODES 500
#define STEPS 20000

static struct addrnode nodes[NODES];
static bool in[NODES];

static int black_height(const struct addrnode *n, const struct addrnode *parent)
{
	int left, right;

	if (!n)
		return 1;
	assert_ptr_equal(n->parent, parent);
	if (n->red && parent)
		assert_false(parent->red);
	if (n->child[0])
		assert_true(n->child[0] < n);
	if (n->child[1])
		assert_true(n->child[1] > n);
	left = black_height(n->child[0], n);
	right = black_height(n->child[1], n);
	assert_int_equal(left, right);
	return left + !n->red;
}

static void it_has_what_was_added_and_stays_even(void **state)
{
	struct addrtree tree = { 0 };
	uint64_t random = 1, steps = 0;

	(void)state;
	for (unsigned i = 0; i < STEPS; i++) {
		unsigned k;

		random = random * 6364136223846793005ULL + 1442695040888963407ULL;
		k = (unsigned)(random >> 33) % NODES;
		if (in[k])
			addrtree_remove(&tree, &nodes[k]);
		else
			addrtree_add(&tree, &nodes[k]);
		in[k] = !in[k];
		if (i % 100)
			continue;
		black_height(tree.root, NULL);
		for (k = 0; k < NODES; k++)
			assert_int_equal(addrtree_has(&tree, &nodes[k], &steps), in[k]);
	}
	/* 2 log2(n + 1) steps at most, each. */
	assert_true(steps <= STEPS / 100 * NODES * 18UL);
}

static void any_address_may_be_asked_for(void **state)
{
	struct addrtree tree = { 0 };
	struct addrnode two[2];
	uint64_t steps = 0;

	(void)state;
	assert_false(addrtree_has(&tree, NULL, &steps));
	addrtree_add(&tree, &two[0]);
	assert_false(addrtree_has(&tree, NULL, &steps));
	assert_false(addrtree_has(&tree, (char *)&two[0] + 1, &steps));
	assert_false(addrtree_has(&tree, (void *)UINTPTR_MAX, &steps));
	assert_true(addrtree_has(&tree, &two[0], &steps));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_has_what_was_added_and_stays_even),
		cmocka_unit_test(any_address_may_be_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
