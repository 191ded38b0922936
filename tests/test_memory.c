/*
 * Runs threadecho under valgrind's memcheck: whatever its clients and its
 * upstream do, it uses no memory that is not its own or not yet set, and at
 * its end all of it is freed.
 *
 * SPDX-License-Identifier: MIT
 */
#include "command.h"
#include "fixture.h"
#include "upstream_faults.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define MEMCHECK                                                              \
    "valgrind --leak-check=full --show-leak-kinds=all "                       \
    "--errors-for-leak-kinds=definite --error-exitcode=99 "

/* Returns whether a program is on the path. */
static bool can_run(const char *name)
{
    const char *path = getenv("PATH");
    char file[512];

    while (path != NULL && *path != '\0') {
        size_t len = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)len, path, name);
        if (access(file, X_OK) == 0)
            return true;
        path += len + (path[len] == ':');
    }
    return false;
}

static struct server_process *start(const char *options)
{
    char url[ROGUE_URL_SIZE];

    rogue_url(upstream, "/text", url);
    return server_start(NULL,
                        MEMCHECK "%s --listen 127.0.0.1:0 --upstream %s %s",
                        threadecho(), url, options);
}

/* Fails the test unless a log has these words. */
static void check_said(const char *log, const char *words)
{
    const size_t most = 3000; /* of what Check takes, some is left */
    size_t len = strlen(log);

    if (strstr(log, words) == NULL)
        give_up("not said: %s\n%s", words,
                log + (len > most ? len - most : 0));
}

/* Stops it, and checks that it has made no mistake and leaves nothing. */
static void stop_clean(struct server_process *s)
{
    int status = server_stop(s);
    char *log = server_log(s);

    check_said(log, "All heap blocks were freed");
    check_said(log, "ERROR SUMMARY: 0 errors");
    ck_assert_int_eq(status, 0);
    free(log);
    server_free(s);
}

START_TEST(test_clients_leave_nothing)
{
    enum { PLACES = 4 };
    static char much[5001];
    struct client *clients[PLACES], *rejected[PLACES];
    struct server_process *s = start("--echo --verbose --max-connections 4 "
                                     "--max-line 3000 --line-timeout 5");

    memset(much, 'x', sizeof much - 1);
    for (int i = 0; i < PLACES; i++) {
        clients[i] = client_open(s);
        ck_assert_str_eq(client_ask(clients[i], "hello"), "echo: hello");
        ck_assert_str_eq(client_ask(clients[i], much + 2001 + i) + 6,
                         much + 2001 + i);
        ck_assert_str_eq(client_ask(clients[i], much), "error: line too long");
        ck_assert_str_eq(client_ask(clients[i], "next"), "echo: next");
    }
    for (int i = 0; i < PLACES; i++) { /* they stay, and linger */
        rejected[i] = client_open(s);
        ck_assert_str_eq(client_line(rejected[i]),
                         "error: too many connections");
    }
    client_close(rejected[1]);
    client_send(clients[0], "last", 4);
    client_finish(clients[0]);
    ck_assert_str_eq(client_line(clients[0]), "echo: last");
    ck_assert_str_eq(client_line(clients[0]), "<end>");
    client_reset(clients[1]);
    client_send(clients[2], "never", 5);
    ck_assert_str_eq(client_line(clients[2]), "error: line timed out");
    client_close(clients[2]);
    client_send(clients[3], "half", 4);
    stop_clean(s);
    client_close(clients[0]);
    client_close(clients[3]);
    for (int i = 0; i < PLACES; i++)
        if (i != 1)
            client_close(rejected[i]);
}
END_TEST

static const char *const keeping[] = {"", "--no-keepalive"};

START_TEST(test_faults_of_the_upstream_leave_nothing)
{
    char options[128], reply[128];
    snprintf(options, sizeof options,
             "--max-fetches 8 --timeout 3 --max-body 1000 %s", keeping[_i]);
    struct server_process *s = start(options);
    struct client **late = calloc((size_t)upstream_fault_count, sizeof *late);
    struct client *c = client_open(s);

    ck_assert_ptr_nonnull(late);
    for (int i = 0; i < upstream_fault_count; i++) {
        if (fault_times_out(&upstream_faults[i])) {
            late[i] = client_open(s);
            client_say(late[i], upstream_faults[i].path);
            continue;
        }
        fault_reply(&upstream_faults[i], reply, sizeof reply);
        ck_assert_str_eq(client_ask(c, upstream_faults[i].path), reply);
    }
    for (int i = 0; i < upstream_fault_count; i++) {
        if (late[i] == NULL)
            continue;
        ck_assert_str_eq(client_line(late[i]), "error: upstream timed out");
        client_close(late[i]);
    }
    free(late);
    client_close(c);
    stop_clean(s);
}
END_TEST

START_TEST(test_long_texts_and_bodies_leave_nothing)
{
    static char text[60001];
    struct server_process *s = start("--max-fetches 2");
    struct client *c = client_open(s);

    memset(text, '\xff', sizeof text - 1); /* three bytes each, upstream */
    for (int i = 0; i < 2; i++) {
        ck_assert_str_eq(client_ask(c, text) + 6, text);
        client_ask(c, "/size/300000");
        ck_assert_uint_eq(c->line_len, 6 + 300000);
        ck_assert_str_eq(client_ask(c, ""), "echo: ");
    }
    client_close(c);
    stop_clean(s);
}
END_TEST

/* Its threads still use what they have. */
START_TEST(test_end_that_cuts_off_a_fetch_takes_nothing_from_it)
{
    struct server_process *s = start("--timeout 60 --max-fetches 2");
    struct client *c = client_open(s);

    client_say(c, "/drip");
    await_busy(1);
    ck_assert_int_eq(server_stop(s), 0);
    ck_assert_int_eq(server_logged(s, "cut off 1 connections"), 1);
    client_close(c);
    server_free(s);
}
END_TEST

/* What it has when it ends may stay, but nothing may be lost before. */
static const char *const refusals[] = {
    "--upstream ftp://127.0.0.1/",
    "--upstream http://user:secret@127.0.0.1:99999/",
    "--upstream http://h\xc3\xb6st/",
    "--cacert /nowhere",
    "--listen 127.0.0.1:65536",
    "--listen 192.0.2.1:0",
    "--max-body",
    "--bogus",
    "--version",
    "--help",
};

START_TEST(test_refusal_to_start_loses_nothing)
{
    struct command *run = command_run(MEMCHECK "%s --listen 127.0.0.1:0 %s",
                                      threadecho(), refusals[_i]);
    ck_assert_int_lt(run->status, 3);
    check_said(run->err, "ERROR SUMMARY: 0 errors");
    command_free(run);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");

    if (own_sanitizer() != NULL) {
        tell_skipped("a sanitizer checks it already");
        return 0;
    }
    if (!can_run("valgrind")) {
        tell_skipped("there is no valgrind");
        return 0;
    }
    TCase *tcase = add_case(suite, "memory");

    tcase_add_test(tcase, test_clients_leave_nothing);
    tcase_add_loop_test(tcase, test_faults_of_the_upstream_leave_nothing, 0,
                        COUNT(keeping));
    tcase_add_test(tcase, test_long_texts_and_bodies_leave_nothing);
    tcase_add_test(tcase,
                   test_end_that_cuts_off_a_fetch_takes_nothing_from_it);
    tcase_add_loop_test(tcase, test_refusal_to_start_loses_nothing, 0,
                        COUNT(refusals));
    return run_suite(suite) == 0 ? 0 : 1;
}
