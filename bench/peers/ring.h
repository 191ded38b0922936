/*
 * ring.h - an io_uring, for the peers that wait with one
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef RING_H
#define RING_H

#include <liburing.h>

/* What a completion is of, and who is to be told: the result, and the flags of
 * the completion. Must stay where it is until then. */
struct operation {
    void (*completed)(void *owner, int result, unsigned flags);
    void *owner;
};

/* One process is one loop round one ring. */
struct ring {
    struct io_uring uring;
    long long now; /* monotonic time in ms, when the round began */
};

/* Sets up a ring for the calling thread, or exits with 1 and says why the
 * kernel refuses it. If --probe is the only argument that is all: exits with
 * 0. */
void ring_start(struct ring *ring, const char *name, int argc, char **argv);

/* Makes room for count entries, to be submitted together. Exits with 1 if the
 * kernel takes none of those that are there. */
void ring_reserve(struct ring *ring, unsigned count);

/* Returns the next entry. */
struct io_uring_sqe *ring_next(struct ring *ring);

/* For an entry that is otherwise prepared: tells this operation's owner of its
 * completion. */
void ring_tell(struct io_uring_sqe *entry, struct operation *operation);

/* The same, but the next entry waits for this one, which reports only that it
 * has failed; then the next one is not begun, and reports nothing. */
void ring_tell_failure(struct io_uring_sqe *entry,
                       struct operation *operation);

/* Closes a descriptor, after what was submitted before. */
void ring_close(struct ring *ring, int fd);

/* Cancels an operation, which then completes with -ECANCELED, unless it is
 * done already. */
void ring_cancel(struct ring *ring, struct operation *operation);

/* Cancels the operation that is under way on a descriptor. */
void ring_cancel_fd(struct ring *ring, int fd);

/* Submits all entries, waits for a completion, until then at most (in ms; -1:
 * no limit), and tells of each that is there. Exits with 1 if that fails. */
void ring_round(struct ring *ring, long long until);

#endif
