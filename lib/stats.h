/*
 * stats.h - what the server has counted, and the summary line
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef STATS_H
#define STATS_H

#include "reply.h"

#include <stdatomic.h>

/* Counters since the start; all zero at first. Any thread may add to them. */
struct stats {
    atomic_ullong connections; /* accepted */
    atomic_ullong rejected;    /* of these */
    atomic_ullong requests;    /* replies to lines, errors included */
    atomic_ullong errors[REASONS];
    atomic_ullong accept_errors; /* failures of accept */
    atomic_ullong thread_errors; /* failures to start a thread */
};

/* Counts a request that ended in this reason. Call it before the reply is
 * sent, so that a client that has its reply is already counted. */
void stats_count_request(struct stats *stats, enum reason reason);

/* Logs the summary, one line of key=value words. Counters may still grow while
 * threads run. */
void stats_log(struct stats *stats, long peak_threads);

#endif
