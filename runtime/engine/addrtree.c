// SPDX-License-Identifier: MIT
/* The text-book's red-black tree, with both sides in one: child[0] is before its parent, child[1] after. */
#include "engine/addrtree.h"

static bool is_red(const struct addrnode *n)
{
	return n && n->red;
}

/* `to`, which may be none, where `from` hangs. */
static void replace(struct addrtree *t, const struct addrnode *from, struct addrnode *to)
{
	struct addrnode *parent = from->parent;

	if (!parent)
		t->root = to;
	else
		parent->child[from == parent->child[1]] = to;
	if (to)
		to->parent = parent;
}

/* n goes down to side `side`, its other child takes its place. */
static void rotate(struct addrtree *t, struct addrnode *n, int side)
{
	struct addrnode *up = n->child[!side];

	n->child[!side] = up->child[side];
	if (up->child[side])
		up->child[side]->parent = n;
	replace(t, n, up);
	up->child[side] = n;
	n->parent = up;
}

void addrtree_add(struct addrtree *t, struct addrnode *n)
{
	struct addrnode **at = &t->root, *p = NULL, *g;

	while (*at) {
		p = *at;
		at = &p->child[n > p];
	}
	*n = (struct addrnode){ .parent = p, .red = true };
	*at = n;
	while ((p = n->parent) && p->red) {
		int side;

		g = p->parent;
		side = p == g->child[1];
		if (is_red(g->child[!side])) {
			p->red = g->child[!side]->red = false;
			g->red = true;
			n = g;
			continue;
		}
		if (n == p->child[!side]) {
			rotate(t, p, side);
			p = n;
		}
		p->red = false;
		g->red = true;
		rotate(t, g, !side);
		break;
	}
	t->root->red = false;
}

/* The way through x, which may be none, below p has one black node too few. */
static void lift(struct addrtree *t, struct addrnode *x, struct addrnode *p)
{
	while (x != t->root && !is_red(x)) {
		int side = x == p->child[1];
		struct addrnode *w = p->child[!side];

		if (w->red) {
			w->red = false;
			p->red = true;
			rotate(t, p, side);
			w = p->child[!side];
		}
		if (!is_red(w->child[0]) && !is_red(w->child[1])) {
			w->red = true;
			x = p;
			p = x->parent;
			continue;
		}
		if (!is_red(w->child[!side])) {
			w->child[side]->red = false;
			w->red = true;
			rotate(t, w, !side);
			w = p->child[!side];
		}
		w->red = p->red;
		p->red = false;
		w->child[!side]->red = false;
		rotate(t, p, side);
		x = t->root;
	}
	if (x)
		x->red = false;
}

void addrtree_remove(struct addrtree *t, struct addrnode *n)
{
	struct addrnode *next = n->child[1], *x, *p;
	bool red = n->red;

	if (!n->child[0] || !n->child[1]) {
		x = n->child[0] ? n->child[0] : n->child[1];
		p = n->parent;
		replace(t, n, x);
	} else {
		while (next->child[0])
			next = next->child[0];
		red = next->red;
		x = next->child[1];
		p = next->parent == n ? next : next->parent;
		if (p != next) {
			replace(t, next, x);
			next->child[1] = n->child[1];
			next->child[1]->parent = next;
		}
		replace(t, n, next);
		next->child[0] = n->child[0];
		next->child[0]->parent = next;
		next->red = n->red;
	}
	if (!red)
		lift(t, x, p);
}

bool addrtree_has(const struct addrtree *t, const void *address, uint64_t *steps)
{
	const struct addrnode *n = t->root;

	for (; n; n = n->child[(uintptr_t)address > (uintptr_t)n]) {
		++*steps;
		if (n == address)
			return true;
	}
	return false;
}
