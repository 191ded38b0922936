/*
 * fixture.c - what suites set up before a test and check after it
 *
 * SPDX-License-Identifier: MIT
 */
#include "fixture.h"
#include "command.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

struct certificate certificate_make(void)
{
    struct certificate made = {.dir = "/tmp/threadecho-tls-XXXXXX"};

    ck_assert_ptr_nonnull(mkdtemp(made.dir));
    snprintf(made.key, sizeof made.key, "%s/key.pem", made.dir);
    snprintf(made.path, sizeof made.path, "%s/cert.pem", made.dir);
    struct command *command = command_run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 "
        "-nodes -days 2 -subj /CN=localhost -addext "
        "subjectAltName=IP:127.0.0.1 -keyout %s -out %s",
        made.key, made.path);
    ck_assert_msg(command->status == 0, "%s", command->err);
    command_free(command);
    return made;
}

void certificate_remove(const struct certificate *certificate)
{
    unlink(certificate->key);
    unlink(certificate->path);
    rmdir(certificate->dir);
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

void await_requests(unsigned long requests)
{
    long long deadline = now_ms() + PATIENCE_MS;
    while (rogue_counts(upstream).requests < requests) {
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
