/*
 * ring.h - an io_uring, for the peers that wait with one
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef RING_H
#define RING_H

#include <liburing.h>

/* Sets up a ring for the calling thread, or exits with 1 and says why the
 * kernel refuses it. If --probe is the only argument that is all: exits with
 * 0. */
void ring_start(struct io_uring *ring, const char *name, int argc,
                char **argv);

/* Makes room for count entries, to be submitted together. Exits with 1 if the
 * kernel takes none of those that are there. */
void ring_reserve(struct io_uring *ring, unsigned count);

/* Returns the next entry. */
struct io_uring_sqe *ring_next(struct io_uring *ring);

/* Submits all entries and waits for a completion, until then at most (in ms;
 * -1: no limit); now is the present. Exits with 1 if that fails. */
void ring_wait(struct io_uring *ring, long long now, long long until);

#endif
