// SPDX-License-Identifier: MIT
/* Things ordered by where they are: a red-black tree whose nodes lie in the things, so that it needs no memory. */
#ifndef HEADROOM_ENGINE_ADDRTREE_H
#define HEADROOM_ENGINE_ADDRTREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct addrnode {
	struct addrnode *parent, *child[2];
	bool red;
};

struct addrtree {
	struct addrnode *root;
};

/* The node must not be in a tree. */
void addrtree_add(struct addrtree *t, struct addrnode *node);
/* The node must be in this tree. */
void addrtree_remove(struct addrtree *t, struct addrnode *node);
/* Is there a node at this address, which may be any? *steps grows by the nodes looked at. */
bool addrtree_has(const struct addrtree *t, const void *address, uint64_t *steps);

#endif
