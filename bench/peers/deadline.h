/*
 * deadline.h - what has to come in time, for a loop that waits for all of it
 *
 * No timer and no heap: all in one queue wait equally long, so the order in
 * which they began to wait is that of their deadlines as well. One thread at a
 * time may use a queue.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DEADLINE_H
#define DEADLINE_H

#include <sys/queue.h>

/* A place in a queue, or in none while queue is NULL. */
struct deadline {
    TAILQ_ENTRY(deadline) entry;
    struct deadlines *queue;
    long long at; /* monotonic time, in ms */
    void *owner;  /* the caller's */
};

struct deadlines {
    long ms; /* that each in here waits */
    TAILQ_HEAD(, deadline) waiting;
};

/* Prepares an empty queue. */
void deadlines_init(struct deadlines *queue, long ms);

/* Lets the time of the queue begin now, perhaps anew. now must not be less
 * than in an earlier call. */
void deadline_set(struct deadline *deadline, struct deadlines *queue,
                  long long now);

/* Takes it off its queue, if it is in one. */
void deadline_clear(struct deadline *deadline);

/* Takes the first that is over by now off the queue. Returns its owner, or
 * NULL if none is. */
void *deadlines_overdue(struct deadlines *queue, long long now);

/* Returns the earlier of the queue's first deadline and until; either may be
 * missing, and -1 then says so. */
long long deadlines_next(const struct deadlines *queue, long long until);

#endif
