/*
 * What a client can make threadecho wait for, and for how long. Lower bounds
 * are exact; upper bounds only distinguish a bound from none.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fixture.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

START_TEST(test_half_a_line_times_out)
{
    struct server_process *s =
        threadecho_start(upstream, "--line-timeout 0.3");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);
    long long start = now_ms();

    client_send(c, "half a", 6);
    ck_assert_str_eq(client_line(c), "error: line timed out");
    ck_assert_int_ge(now_ms() - start, 290);
    ck_assert_str_eq(client_line(c), "<end>");
    ck_assert_int_eq(server_counts(s, "error_line_timed_out"), 1);
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_trickled_bytes_do_not_put_off_the_line_timeout)
{
    struct server_process *s =
        threadecho_start(upstream, "--line-timeout 0.3");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);
    long long start = now_ms();

    while (!client_hears(c, 20)) {
        ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
        client_send(c, "x", 1);
    }
    ck_assert_str_eq(client_line(c), "error: line timed out");
    ck_assert_int_ge(now_ms() - start, 290);
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_line_that_times_out_has_a_reply_though_the_client_sends_on)
{
    struct server_process *s =
        threadecho_start(upstream, "--line-timeout 0.2");
    struct client *c = client_open(s);
    char much[4096];

    /* What arrives after the reply must not turn its end into a reset. */
    memset(much, 'x', sizeof much);
    client_send(c, much, sizeof much);
    ck_assert(client_hears(c, PATIENCE_MS));
    for (int i = 0; i < 5; i++)
        client_send(c, much, sizeof much);
    ck_assert_str_eq(client_line(c), "error: line timed out");
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
    stop_drained(s);
}
END_TEST

START_TEST(test_rest_of_a_line_too_long_times_out_too)
{
    struct server_process *s =
        threadecho_start(upstream, "--max-line 20 --line-timeout 0.3");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);
    long long start = now_ms();

    client_send(c, "more than twenty bytes", 22);
    ck_assert_str_eq(client_line(c), "error: line too long");
    while (!client_hears(c, 20)) {
        ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
        client_send(c, "x", 1);
    }
    /* It had its reply. */
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_line_timeout_is_not_for_idle_clients_nor_fetches)
{
    struct server_process *s =
        threadecho_start(upstream, "--line-timeout 0.3");
    struct client *c = client_open(s);

    let_pass(500);
    ck_assert_str_eq(client_ask(c, "one"), "echo: one");
    let_pass(500);
    ck_assert_str_eq(client_ask(c, "two"), "echo: two");
    ck_assert_str_eq(client_ask(c, "/delay/500"), "echo: /delay/500");
    client_close(c);
    stop_drained(s);
}
END_TEST

START_TEST(test_line_timeout_begins_anew_with_each_line)
{
    struct server_process *s = threadecho_start(upstream, "--line-timeout 2");
    struct client *c = client_open(s);

    /* Always in mid-line, but each line is complete in time. */
    client_send(c, "l", 1);
    for (int i = 0; i < 8; i++) {
        let_pass(280);
        client_send(c, "ine\nl", 5);
        ck_assert_str_eq(client_line(c), "echo: line");
    }
    client_close(c);
    stop_drained(s);
}
END_TEST

START_TEST(test_idle_client_is_dropped_without_a_reply)
{
    struct server_process *s =
        threadecho_start(upstream, "--idle-timeout 0.8");
    struct holding before = server_rests(s);
    struct client *silent = client_open(s);
    struct client *served = client_open(s);
    long long start = now_ms();

    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    ck_assert_str_eq(client_line(silent), "<end>");
    ck_assert_int_ge(now_ms() - start, 790);
    ck_assert_str_eq(client_line(served), "<end>");
    ck_assert_int_eq(server_counts(s, "errors"), 0);
    client_close(silent);
    client_close(served);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_idle_timeout_is_not_for_lines_nor_fetches)
{
    struct server_process *s = threadecho_start(upstream, "--idle-timeout 1");
    struct client *c = client_open(s);

    client_dribble(c, "slowly sent\n", 120);
    ck_assert_str_eq(client_line(c), "echo: slowly sent");
    ck_assert_str_eq(client_ask(c, "/delay/1200"), "echo: /delay/1200");
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    stop_drained(s);
}
END_TEST

/* Sends lines until the server, which cannot send its replies, stops reading
 * them. */
static void stuff(struct client *c)
{
    static char lines[1 << 16];
    int refused = 0;

    memset(lines, 'x', sizeof lines);
    for (size_t i = 999; i < sizeof lines; i += 1000)
        lines[i] = '\n';
    while (refused < 100) {
        ssize_t n =
            send(c->fd, lines, sizeof lines, MSG_NOSIGNAL | MSG_DONTWAIT);
        refused = n > 0 ? 0 : refused + 1;
        if (n < 0) {
            ck_assert_int_eq(errno, EAGAIN);
            let_pass(2);
        }
    }
}

/* Both bounds are ten seconds; they are waited for at once. */
START_TEST(test_deaf_client_and_hanging_fetch_are_dropped_after_ten_seconds)
{
    struct server_process *stopping =
        threadecho_start(upstream, "--timeout 60");
    struct client *hanging = client_open(stopping);
    struct server_process *s = threadecho_start(NULL, "--echo");
    struct holding before = server_rests(s);
    struct client *deaf = client_open(s);
    struct server_process *fetching =
        threadecho_start(upstream, "--timeout 20");
    struct holding fetched = server_rests(fetching);
    struct client *greedy = client_open(fetching);
    struct pollfd reset = {.fd = greedy->fd};
    long long start = now_ms();

    client_say(hanging, "/hang");
    await_busy(1);
    for (int i = 0; i < 16; i++) /* more than the system buffers */
        client_say(greedy, "/size/1000000");
    ck_assert_int_eq(kill(stopping->pid, SIGTERM), 0);

    stuff(deaf);
    struct holding with = server_holds(s);
    ck_assert_int_eq(with.descriptors, before.descriptors + 1);
    while (server_holds(s).descriptors != before.descriptors)
        let_pass(10);
    /* The send that waits began at most that long before it was noticed. */
    ck_assert_int_ge(now_ms() - start, 9900);
    client_reset(deaf);
    stop_recovered(s, before);

    /* Nothing is left that would wait for the client to read. */
    ck_assert_int_eq(poll(&reset, 1, PATIENCE_MS), 1);
    ck_assert_int_ne(reset.revents & POLLERR, 0);
    client_close(greedy);
    stop_recovered(fetching, fetched);

    ck_assert(server_ends(stopping, PATIENCE_MS));
    ck_assert_int_ge(now_ms() - start, 9900);
    ck_assert_int_lt(now_ms() - start, 15000);
    ck_assert_int_eq(server_stop(stopping), 0);
    ck_assert_int_eq(
        server_logged(stopping, "cut off 1 connections after 10 s"), 1);
    ck_assert_int_eq(server_logged(stopping, "threadecho: connections=1 "), 1);
    client_close(hanging);
    server_free(stopping);
}
END_TEST

/* A client that got its last reply has two seconds to close: one that was
 * rejected, and one whose line timed out. */
START_TEST(test_client_that_does_not_close_is_dropped_after_two_seconds)
{
    struct server_process *s = threadecho_start(
        NULL, "--echo --max-connections 1 --line-timeout 0.05");
    struct holding before = server_rests(s);
    struct client *overdue = client_open(s);

    client_send(overdue, "half a", 6);
    ck_assert_str_eq(client_line(overdue), "error: line timed out");
    long long start = now_ms();
    struct client *rejected = client_open(s);
    ck_assert_str_eq(client_line(rejected), "error: too many connections");
    ck_assert_int_eq(server_holds(s).descriptors, before.descriptors + 2);
    while (server_holds(s).descriptors != before.descriptors) {
        ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
        let_pass(5);
    }
    ck_assert_int_ge(now_ms() - start, 1900);
    ck_assert_str_eq(client_line(overdue), "<end>");
    ck_assert_str_eq(client_line(rejected), "<end>");
    client_close(overdue);
    client_close(rejected);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_client_that_reads_late_gets_a_long_reply_whole)
{
    enum { LEN = 16000000 };
    struct server_process *s =
        threadecho_start(upstream, "--max-body %d", LEN);
    struct client *c = client_open(s);

    client_say(c, "/size/16000000\nnext");
    ck_assert(client_hears(c, PATIENCE_MS));
    let_pass(300);
    const char *reply = client_line(c);
    ck_assert_uint_eq(c->line_len, 6 + LEN);
    ck_assert_uint_eq(strspn(reply + 6, "x"), LEN);
    ck_assert_str_eq(client_line(c), "echo: next");
    client_close(c);
    stop_drained(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("timeouts");
    TCase *tcase = add_case(suite, "clients");

    tcase_add_test(tcase, test_half_a_line_times_out);
    tcase_add_test(tcase, test_trickled_bytes_do_not_put_off_the_line_timeout);
    tcase_add_test(
        tcase,
        test_line_that_times_out_has_a_reply_though_the_client_sends_on);
    tcase_add_test(tcase, test_rest_of_a_line_too_long_times_out_too);
    tcase_add_test(tcase,
                   test_line_timeout_is_not_for_idle_clients_nor_fetches);
    tcase_add_test(tcase, test_line_timeout_begins_anew_with_each_line);
    tcase_add_test(tcase, test_idle_client_is_dropped_without_a_reply);
    tcase_add_test(tcase, test_idle_timeout_is_not_for_lines_nor_fetches);
    tcase_add_test(tcase, test_client_that_reads_late_gets_a_long_reply_whole);
    tcase_add_test(
        tcase,
        test_deaf_client_and_hanging_fetch_are_dropped_after_ten_seconds);
    tcase_add_test(
        tcase, test_client_that_does_not_close_is_dropped_after_two_seconds);
    return run_suite(suite) == 0 ? 0 : 1;
}
