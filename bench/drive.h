// SPDX-License-Identifier: MIT
/*
 * The part of the load generator that talks to the server: it opens the
 * connections, sends lines in a closed or an open loop, judges each reply and
 * keeps each latency.
 */
#ifndef BENCH_DRIVE_H
#define BENCH_DRIVE_H

#include "arguments.h"
#include "samples.h"

#include <stdbool.h>
#include <stdint.h>

/* What is to be done. */
struct plan {
    struct address server;
    uint32_t connections;
    uint32_t depth;    /* lines in flight on a connection at most */
    uint64_t requests; /* to be measured; 0: as many as fit in seconds */
    double seconds;    /* to be measured; 0: until requests are done */
    double rate;       /* lines per second in all; 0: closed loop */
    uint64_t warmup_requests;
    double warmup_seconds;
    double timeout; /* seconds that a reply may take */
    size_t line_size;
    size_t reply_size;
    bool one_by_one;
    bool hold;
};

/* The ways in which a run fails. */
enum failure {
    FAILED_WRONG,        /* a reply that is no line's answer */
    FAILED_PREFIX,       /* a reply cut short */
    FAILED_MIXED_UP,     /* another connection's reply */
    FAILED_REORDERED,    /* came after the reply to a later line */
    FAILED_DROPPED,      /* never came, though a later line's did */
    FAILED_SURPLUS,      /* a reply to nothing, or a second one */
    FAILED_CLOSED_EARLY, /* the server closed first */
    FAILED_TIMEOUT,      /* no reply in time */
    FAILED_CONNECT,      /* no connection */
    FAILED_NOT_CLOSED,   /* still open a while after our half-close */
    FAILED_UNSENT,       /* open loop: due, but never sent */
    FAILURES,
};

enum { MAX_REASONS = 32, REASON_LEN = 64 };

/* An `error: REASON` reply, and how often it came. */
struct error_count {
    char text[REASON_LEN]; /* the beginning of it, with a NUL */
    uint64_t count;
};

/* What came of it. */
struct outcome {
    uint32_t connected;
    uint64_t sent;    /* lines, those of the warm-up too */
    uint64_t replies; /* reply lines, whatever was in them */
    uint64_t right;
    uint64_t error_replies;
    struct error_count reasons[MAX_REASONS]; /* the last one takes the rest */
    size_t reason_count;
    uint64_t failures[FAILURES];
    int connect_errno; /* of the first connection that failed */
    struct samples samples;
    uint64_t began_ns; /* when the measured time did, on CLOCK_MONOTONIC */
    double seconds;    /* that were measured */
    double rate;       /* right replies per second in them */
    double cpu_user;
    double cpu_sys;   /* both of this process, in those seconds */
    uint64_t on_time; /* open loop: lines that waited for nothing but us */
    double late_sum;  /* seconds that they were late, together */
    double late_max;
};

/*
 * Do what plan says. False, with a message on standard error, when it could
 * not be done at all (memory, descriptors); whatever the server did wrong is
 * in *outcome. The caller frees outcome->samples in either case.
 */
bool drive(const struct plan *plan, struct outcome *outcome);

#endif
