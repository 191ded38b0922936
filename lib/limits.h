/*
 * limits.h - how many connections and fetches the system has room for
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef LIMITS_H
#define LIMITS_H

#include <stdbool.h>

/* How many of each there may be at once. */
struct limits {
    long connections; /* 0: as many as the system has room for */
    long fetches;     /* 0: the same */
    long rejects;     /* rejected clients that linger */
};

/*
 * Raises the descriptor limit to its hard limit and divides it: a connection
 * takes one descriptor, a fetch three. Fills in what is 0, no fetches unless
 * fetching, and logs a warning where more is asked for than there is room.
 * stack_kib is the address space of a connection's thread. Returns false, with
 * the reason logged, when there is room for no connection at all.
 */
bool limits_set(struct limits *limits, bool fetching, long stack_kib);

/* Logs that thread number nth could not start for this errno value, with the
 * limit that leaves room for the fewest threads; at most once in 5 s. Only
 * for the accept loop's thread. */
void limits_log_no_thread(long nth, int error, long stack_kib);

#endif
