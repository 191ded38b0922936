/*
 * upstream_faults.h - how the rogue answers, and what must become of it
 *
 * One table for the suites of the fetch, of the server in front of the rogue,
 * and of the same over TLS. It shares no word with the code under test.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef UPSTREAM_FAULTS_H
#define UPSTREAM_FAULTS_H

#include <stdbool.h>
#include <stddef.h>

struct upstream_fault {
    const char *path;   /* of the rogue, or the text for its path /text */
    const char *reason; /* in words; NULL: the body is passed on */
    long status;        /* of the response; 0: none came */
    const char *body;   /* which is passed on then */
};

extern const struct upstream_fault upstream_faults[];
extern const int upstream_fault_count;

/* Returns whether the fetch must run into its timeout. */
bool fault_times_out(const struct upstream_fault *fault);

/* Writes the reply to a client, without its LF. Returns text. */
const char *fault_reply(const struct upstream_fault *fault, char *text,
                        size_t size);

#endif
