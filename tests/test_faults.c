/*
 * What an upstream can do wrong, and the exact reply for it; what threadecho
 * sends upstream, and how it uses its pool of connections.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* strcasestr */
#include "command.h"
#include "fixture.h"
#include "upstream_faults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Stops the server, whose log must hold where it listened and summaries. */
static void stop_quietly(struct server_process *s)
{
    ck_assert_int_eq(server_stop(s), 0);
    char *log = server_log(s);
    char *rest = NULL;
    int number = 0;
    for (char *line = strtok_r(log, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        const char *start = number++ == 0 ? "threadecho: listening on "
                                          : "threadecho: connections=";
        ck_assert_msg(strncmp(line, start, strlen(start)) == 0, "%s", line);
    }
    ck_assert_int_ge(number, 2);
    free(log);
    server_free(s);
}

#define LATE "error: upstream timed out"
#define LARGE "error: upstream body too large"

START_TEST(test_upstream_fault_has_its_reply)
{
    const struct upstream_fault *fault = &upstream_faults[_i];
    bool late = fault_times_out(fault);
    char reply[128];
    /* Short where that is what is waited for, else out of the way. */
    struct server_process *s = threadecho_start(
        upstream, "--timeout %s --max-body 1000", late ? "0.7" : "20");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);

    fault_reply(fault, reply, sizeof reply);
    for (int i = 0; i < (late ? 1 : 2); i++) {
        long long start = now_ms();
        ck_assert_str_eq(client_ask(c, fault->path), reply);
        if (late)
            ck_assert_int_ge(now_ms() - start, 690);
        ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    }
    client_close(c);
    server_recovers(s, before);
    if (!server_sanitized(s)) /* whatever came, little of it was kept */
        ck_assert_int_lt(server_status(s, "VmHWM"), 40 << 10);
    stop_quietly(s);
}
END_TEST

START_TEST(test_body_of_the_limit_is_served_and_one_more_byte_is_not)
{
    struct server_process *s = threadecho_start(upstream, "--max-body 100000");
    struct client *c = client_open(s);
    static const char *const good[] = {"/size/100000", "/size-chunked/100000"};
    static const char *const bad[] = {"/size/100001", "/size-chunked/100001"};

    for (size_t i = 0; i < COUNT(good); i++) {
        const char *reply = client_ask(c, good[i]);
        ck_assert_uint_eq(c->line_len, 6 + 100000);
        ck_assert_uint_eq(strspn(reply + 6, "x"), 100000);
        ck_assert_str_eq(client_ask(c, bad[i]), LARGE);
    }
    client_close(c);
    stop_quietly(s);
}
END_TEST

START_TEST(test_packed_body_is_not_unpacked)
{
    struct server_process *s = threadecho_start(upstream, "--max-body 10000");
    struct client *c = client_open(s);
    size_t len;
    unsigned char *packed = rogue_packed(&len);

    ck_assert_ptr_nonnull(packed);
    const char *reply = client_ask(c, "/packed");
    ck_assert_int_eq(strncmp(reply, "echo: ", 6), 0);
    ck_assert_uint_eq(c->line_len, 6 + len);
    ck_assert_mem_eq(reply + 6, packed, len);
    ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    free(packed);
    /* Nobody asked for it. */
    char *head = rogue_request(upstream, 0);
    ck_assert_ptr_null(strcasestr(head, "accept-encoding"));
    free(head);
    client_close(c);
    stop_quietly(s);
}
END_TEST

START_TEST(test_refused)
{
    int port;
    int held = hold_port(&port);
    struct server_process *s =
        threadecho_start(NULL, "--upstream http://127.0.0.1:%d/", port);
    struct client *c = client_open(s);

    for (int i = 0; i < 3; i++)
        ck_assert_str_eq(client_ask(c, "hello"), "error: upstream refused");
    ck_assert_int_eq(server_counts(s, "error_upstream_refused"), 3);
    client_close(c);
    stop_quietly(s);
    close(held);
}
END_TEST

START_TEST(test_name_that_does_not_resolve)
{
    struct server_process *s =
        threadecho_start(NULL, "--timeout 60 --connect-timeout 60 "
                               "--upstream http://no-such-host.invalid/");
    struct client *c = client_open(s);

    ck_assert_str_eq(client_ask(c, "hello"), "error: upstream not found");
    ck_assert_str_eq(client_ask(c, "hello"), "error: upstream not found");
    ck_assert_int_eq(server_counts(s, "error_upstream_not_found"), 2);
    client_close(c);
    stop_quietly(s);
}
END_TEST

START_TEST(test_connecting_is_bounded)
{
    int port;
    int deaf = deaf_port(&port);
    struct server_process *s =
        threadecho_start(NULL,
                         "--timeout 60 --connect-timeout 0.3 "
                         "--upstream http://127.0.0.1:%d/",
                         port);
    struct client *c = client_open(s);
    long long start = now_ms();

    ck_assert_str_eq(client_ask(c, "hello"), LATE);
    ck_assert_int_ge(now_ms() - start, 290);
    client_close(c);
    stop_quietly(s);
    close(deaf);
}
END_TEST

START_TEST(test_request_is_as_documented)
{
    struct server_process *s = threadecho_start(
        NULL, "--upstream 'http://127.0.0.1:%d/good?a=b%%20c'",
        rogue_port(upstream));
    struct client *c = client_open(s);
    static const char start[] = "GET /good?a=b%20c&text=x%26y HTTP/1.1\r\n";

    ck_assert_str_eq(client_ask(c, "x&y"), "echo: x&y");
    char *head = rogue_request(upstream, 0);
    ck_assert_int_eq(strncmp(head, start, strlen(start)), 0);
    free(head);
    client_close(c);
    stop_quietly(s);
}
END_TEST

START_TEST(test_proxies_of_the_environment_are_ignored)
{
    static const char *const names[] = {"http_proxy", "HTTP_PROXY",
                                        "all_proxy", "ALL_PROXY"};
    struct rogue *proxy = rogue_start(0);
    char url[ROGUE_URL_SIZE];

    ck_assert_ptr_nonnull(proxy);
    rogue_url(proxy, "", url);
    for (size_t i = 0; i < COUNT(names); i++)
        ck_assert_int_eq(setenv(names[i], url, 1), 0);
    ck_assert_int_eq(unsetenv("no_proxy"), 0);
    ck_assert_int_eq(unsetenv("NO_PROXY"), 0);
    struct server_process *s = threadecho_start(upstream, "%s", "");
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    stop_quietly(s);
    ck_assert_uint_eq(rogue_counts(proxy).connections, 0);
    rogue_stop(proxy);
}
END_TEST

START_TEST(test_no_file_of_the_user_changes_a_fetch)
{
    char home[] = "/tmp/threadecho-test-XXXXXX";
    char path[64];

    ck_assert_ptr_nonnull(mkdtemp(home));
    snprintf(path, sizeof path, "%s/.netrc", home);
    FILE *netrc = fopen(path, "we");
    ck_assert_ptr_nonnull(netrc);
    fputs("default login somebody password secret\n", netrc);
    ck_assert_int_eq(fclose(netrc), 0);
    ck_assert_int_eq(setenv("HOME", home, 1), 0);
    struct server_process *s = threadecho_start(upstream, "%s", "");
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    char *head = rogue_request(upstream, 0);
    ck_assert_ptr_null(strcasestr(head, "authorization"));
    free(head);
    client_close(c);
    stop_quietly(s);
    unlink(path);
    rmdir(home);
}
END_TEST

START_TEST(test_echo_needs_no_upstream)
{
    static const char lines[] = "hello\n\n\xff\xfe\0%41\r\nlast";
    static const char replies[] =
        "echo: hello\necho: \necho: \xff\xfe\0%41\necho: last\n";
    struct server_process *s = threadecho_start(NULL, "--echo");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);
    size_t len;

    client_send(c, lines, sizeof lines - 1);
    client_finish(c);
    const char *got = client_rest(c, &len);
    ck_assert_uint_eq(len, sizeof replies - 1);
    ck_assert_mem_eq(got, replies, len);
    client_close(c);
    server_recovers(s, before);
    ck_assert_int_eq(server_logged(s, ", echo, at most "), 1);
    stop_quietly(s);
}
END_TEST

START_TEST(test_a_warm_connection_serves_one_client_after_the_other)
{
    enum { CLIENTS = 50, LINES = 4 };
    struct server_process *s = threadecho_start(upstream, "%s", "");

    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = client_open(s);
        for (int line = 0; line < LINES; line++)
            ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        client_close(c);
    }
    struct rogue_counts counts = rogue_counts(upstream);
    ck_assert_uint_eq(counts.requests, CLIENTS * LINES);
    ck_assert_uint_eq(counts.connections, 1);
    stop_quietly(s);
}
END_TEST

START_TEST(test_no_keepalive_connects_for_each_fetch)
{
    struct server_process *s = threadecho_start(upstream, "--no-keepalive");
    struct holding before = server_rests(s);
    unsigned long earlier = rogue_counts(upstream).connections;
    struct client *c = client_open(s);

    ck_assert_uint_eq(earlier, rogue_counts(upstream).requests);
    for (int i = 0; i < 20; i++)
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    ck_assert_uint_eq(rogue_counts(upstream).connections, earlier + 20);
    client_close(c);
    server_recovers(s, before);
    stop_quietly(s);
}
END_TEST

START_TEST(test_fetches_over_the_ceiling_wait_their_turn)
{
    enum { CLIENTS = 10, LINES = 3 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct holding before = server_rests(s);
    struct client *clients[CLIENTS];

    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(s);
    for (int i = 0; i < CLIENTS; i++)
        for (int line = 0; line < LINES; line++)
            client_say(clients[i], "/delay/10");
    for (int i = 0; i < CLIENTS; i++) {
        for (int line = 0; line < LINES; line++)
            ck_assert_str_eq(client_line(clients[i]), "echo: /delay/10");
        client_close(clients[i]);
    }
    ck_assert_uint_eq(rogue_counts(upstream).connections, 1);
    server_recovers(s, before);
    stop_quietly(s);
}
END_TEST

START_TEST(test_a_ceiling_of_fetches_is_reached_and_kept)
{
    enum { CLIENTS = 40 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 7");
    struct client *clients[CLIENTS];

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        client_say(clients[i], "/delay/100");
    }
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_str_eq(client_line(clients[i]), "echo: /delay/100");
        client_close(clients[i]);
    }
    ck_assert_uint_eq(rogue_counts(upstream).connections, 7);
    stop_quietly(s);
}
END_TEST

START_TEST(test_plain_http_behind_https_is_a_tls_failure)
{
    struct server_process *s = threadecho_start(
        NULL, "--upstream https://127.0.0.1:%d/good", rogue_port(upstream));
    struct client *c = client_open(s);

    ck_assert_str_eq(client_ask(c, "hello"), "error: upstream TLS failed");
    ck_assert_str_eq(client_ask(c, "hello"), "error: upstream TLS failed");
    client_close(c);
    stop_quietly(s);
}
END_TEST

START_TEST(test_certificate_that_does_not_verify_is_not_trusted)
{
    struct certificate certificate = certificate_make();
    const struct {
        const char *host;
        const char *cacert;
        const char *reply; /* or how it begins */
    } cases[] = {
        {"127.0.0.1", NULL, "error: upstream not trusted"},
        {"127.0.0.1", certificate.path, "echo: "},
        {"localhost", certificate.path, "error: upstream not trusted"},
        {"127.0.0.1", certificate.key, "error: upstream not trusted"},
    };
    struct server_process *other =
        server_start(NULL,
                     "openssl s_server -accept 127.0.0.1:{port} -www "
                     "-key %s -cert %s",
                     certificate.key, certificate.path);

    for (size_t i = 0; i < COUNT(cases); i++) {
        bool has_file = cases[i].cacert != NULL;
        const char *file = has_file ? cases[i].cacert : "";
        struct server_process *s = threadecho_start(
            NULL, "--upstream https://%s:%s/ %s %s", cases[i].host,
            other->port, has_file ? "--cacert" : "", file);
        struct client *c = client_open(s);
        for (int line = 0; line < 2; line++) {
            const char *reply = client_ask(c, "hello");
            ck_assert_msg(
                strncmp(reply, cases[i].reply, strlen(cases[i].reply)) == 0,
                "%s with '%s': %.80s", cases[i].host, file, reply);
        }
        client_close(c);
        stop_quietly(s);
    }
    server_free(other);
    certificate_remove(&certificate);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("faults");

    TCase *answers = add_case(suite, "answers");
    tcase_add_loop_test(answers, test_upstream_fault_has_its_reply, 0,
                        upstream_fault_count);
    tcase_add_test(answers,
                   test_body_of_the_limit_is_served_and_one_more_byte_is_not);
    tcase_add_test(answers, test_packed_body_is_not_unpacked);

    TCase *connecting = add_case(suite, "connecting");
    tcase_add_test(connecting, test_refused);
    tcase_add_test(connecting, test_name_that_does_not_resolve);
    tcase_add_test(connecting, test_connecting_is_bounded);
    tcase_add_test(connecting, test_plain_http_behind_https_is_a_tls_failure);
    tcase_add_test(connecting,
                   test_certificate_that_does_not_verify_is_not_trusted);

    TCase *requests = add_case(suite, "requests");
    tcase_add_test(requests, test_request_is_as_documented);
    tcase_add_test(requests, test_proxies_of_the_environment_are_ignored);
    tcase_add_test(requests, test_no_file_of_the_user_changes_a_fetch);
    tcase_add_test(requests, test_echo_needs_no_upstream);

    TCase *pool = add_case(suite, "pool");
    tcase_add_test(pool,
                   test_a_warm_connection_serves_one_client_after_the_other);
    tcase_add_test(pool, test_no_keepalive_connects_for_each_fetch);
    tcase_add_test(pool, test_fetches_over_the_ceiling_wait_their_turn);
    tcase_add_test(pool, test_a_ceiling_of_fetches_is_reached_and_kept);
    return run_suite(suite) == 0 ? 0 : 1;
}
