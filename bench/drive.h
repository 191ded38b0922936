/*
 * drive.h - the part of the load generator that talks to the server
 *
 * It opens the connections, sends lines in a closed or an open loop, judges
 * each reply and keeps each latency.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_DRIVE_H
#define BENCH_DRIVE_H

#include "arguments.h"
#include "mark.h"
#include "samples.h"

#include <stdbool.h>
#include <stdint.h>

#define MAX_REASONS 32 /* error reasons that are counted separately */
#define REASON_LEN 64  /* bytes of a reason that are kept, with a NUL */

/* What drive() is to do. */
struct plan {
    struct address server;
    uint32_t connections;
    uint32_t depth;    /* most lines in flight on a connection */
    uint64_t requests; /* lines to measure; 0: as many as fit in seconds */
    double seconds;    /* time to measure; 0: until requests are done */
    double rate;       /* lines per second in total; 0: closed loop */
    uint64_t warmup_requests;
    double warmup_seconds;
    double timeout; /* longest wait for a reply, in seconds */
    size_t line_size;
    size_t reply_size;
    struct mark_key key; /* shared with the upstream; of length 0: none */
    bool one_by_one; /* one line in flight in total, each connection in turn */
    bool wait;       /* begin when stdin has a line or ends */
    bool hold;       /* stay connected until stdin has a line or ends */
};

/* The classes of failures. */
enum failure {
    FAILED_WRONG,        /* the reply answers no line */
    FAILED_UNMARKED,     /* the line came back, without the upstream's mark */
    FAILED_PREFIX,       /* the reply was cut short */
    FAILED_MIXED_UP,     /* the reply belongs to another connection */
    FAILED_REORDERED,    /* the reply came after the reply to a later line */
    FAILED_DROPPED,      /* no reply, though a later line had one */
    FAILED_SURPLUS,      /* a second reply to a line, or a reply to none */
    FAILED_CLOSED_EARLY, /* the server closed the connection first */
    FAILED_TIMEOUT,      /* no reply in time */
    FAILED_CONNECT,      /* no connection */
    FAILED_NOT_CLOSED,   /* the connection outlived our half-close */
    FAILED_UNSENT,       /* the line was due but never sent */
    FAILURES,
};

/* How many replies were `error: ` and this reason. */
struct error_count {
    char text[REASON_LEN]; /* the reason, cut to fit, with a NUL */
    uint64_t count;
};

/* What drive() counted and measured. */
struct outcome {
    uint32_t connected;
    uint64_t sent;    /* lines, warm-up included */
    uint64_t replies; /* reply lines, right or not */
    uint64_t right;
    uint64_t error_replies;
    struct error_count reasons[MAX_REASONS]; /* the last one sums the rest */
    size_t reason_count;
    uint64_t failures[FAILURES];
    int connect_errno;   /* of the first connection that failed */
    uint64_t fastest_ns; /* least time from a line to its right reply, or 0 */
    struct samples samples;
    uint64_t began_ns; /* start of the measured time, CLOCK_MONOTONIC */
    double seconds;    /* length of the measured time */
    double rate;       /* right replies per second of it */
    double cpu_user;   /* CPU time of this process in it, in seconds */
    double cpu_sys;
    uint64_t on_time; /* open loop: lines that only this program delayed */
    double late_sum;  /* sum of their delays, in seconds */
    double late_max;
};

/*
 * Carries out the plan. Returns false, with a message on stderr, if this
 * program lacked memory or descriptors. Whatever the server did wrong is in
 * *outcome. The caller frees outcome->samples in either case.
 */
bool drive(const struct plan *plan, struct outcome *outcome);

#endif
