/*
 * fixture.h - what suites set up before a test and check after it
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "harness.h"

/* The rogue of the test that runs, between its two functions. */
extern struct rogue *upstream;

void start_upstream(void);
void stop_upstream(void);

/* A key and its certificate for 127.0.0.1, which nobody has signed. */
struct certificate {
    char dir[32]; /* for the two files, and nothing else */
    char key[64];
    char path[64];
};

struct certificate certificate_make(void);
void certificate_remove(const struct certificate *certificate);

/* Adds a test case with the time limit of all tests. Around each test runs the
 * rogue, or what the caller has instead. */
TCase *add_case(Suite *suite, const char *name);
TCase *add_case_with(Suite *suite, const char *name, void (*set_up)(void),
                     void (*tear_down)(void));

/* Waits until the rogue is answering this many requests at once. They must be
 * such as "/hang": it may have answered others before the last one comes. */
void await_busy(unsigned long requests);

/* Waits until the rogue has had this many requests. */
void await_requests(unsigned long requests);

/* Stops the server with SIGTERM and frees it. It must exit with status 0 and
 * must not have cut off a connection. */
void stop_drained(struct server_process *s);

/* The end of a fault test: the server recovers, see harness.h, and stops. */
void stop_recovered(struct server_process *s, struct holding before);

#endif
