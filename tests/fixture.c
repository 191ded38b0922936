/*
 * fixture.c - what suites set up before a test and check after it
 *
 * SPDX-License-Identifier: MIT
 */
#include "fixture.h"

#define POLL_MS 2 /* between two looks at what the rogue counts */

struct rogue *upstream;

void start_upstream(void)
{
    upstream = rogue_start(0);
    ck_assert_ptr_nonnull(upstream);
}

void stop_upstream(void)
{
    rogue_stop(upstream);
}

TCase *add_case_with(Suite *suite, const char *name, void (*set_up)(void),
                     void (*tear_down)(void))
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, TEST_TIMEOUT);
    tcase_add_checked_fixture(tcase, set_up, tear_down);
    suite_add_tcase(suite, tcase);
    return tcase;
}

TCase *add_case(Suite *suite, const char *name)
{
    return add_case_with(suite, name, start_upstream, stop_upstream);
}

void await_busy(unsigned long requests)
{
    long long deadline = now_ms() + PATIENCE_MS;
    while (rogue_counts(upstream).busy < requests) {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(POLL_MS);
    }
}

void stop_drained(struct server_process *s)
{
    ck_assert_int_eq(server_stop(s), 0);
    ck_assert_int_eq(server_logged(s, "cut off"), 0);
    server_free(s);
}

void stop_recovered(struct server_process *s, struct holding before)
{
    server_recovers(s, before);
    stop_drained(s);
}
