/*
 * The kit's upstream, as its clients see it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "command.h"
#include "harness.h"

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Starts the upstream on a free port. */
static struct server_process *start(const char *options)
{
    return server_start(NULL, "%s --listen 127.0.0.1:0 %s",
                        kit_program("upstream"), options);
}

/* Stops it; it must end well. */
static void stop(struct server_process *upstream)
{
    ck_assert_int_eq(server_stop(upstream), 0);
    server_free(upstream);
}

/* An HTTP answer taken apart. */
struct answer {
    int status;
    char *body;
    size_t len;
};

static void say_request(struct client *client, const char *target,
                        const char *header)
{
    client_send(client, "GET ", 4);
    client_send(client, target, strlen(target));
    client_send(client, " HTTP/1.1\r\nHost: x\r\n", 20);
    client_send(client, header, strlen(header));
    client_send(client, "\r\n", 2);
}

/* Reads one answer and leaves what follows it. */
static struct answer take_answer(struct client *client)
{
    struct answer answer = {0};
    size_t len = 0;
    const char *line = client_line(client);
    ck_assert_msg(strncmp(line, "HTTP/1.1 ", 9) == 0, "%s", line);
    answer.status = (int)strtol(line + 9, NULL, 10);
    for (line = client_line(client); *line != '\r';
         line = client_line(client)) {
        ck_assert_msg(strchr(line, ':') != NULL, "%s", line);
        if (strncmp(line, "Content-Length: ", 16) == 0)
            len = strtoul(line + 16, NULL, 10);
    }
    answer.body = malloc(len + 1);
    ck_assert_ptr_nonnull(answer.body);
    while (answer.len < len) {
        if (client->start == client->end) {
            ck_assert(client_hears(client, PATIENCE_MS));
            ssize_t more = recv(client->fd, answer.body + answer.len,
                                len - answer.len, 0);
            ck_assert_int_gt(more, 0);
            answer.len += (size_t)more;
            continue;
        }
        answer.body[answer.len++] = client->data[client->start++];
    }
    answer.body[len] = '\0';
    return answer;
}

/* Asks on a connection of its own. */
static struct answer ask(const struct server_process *upstream,
                         const char *target)
{
    struct client *client = client_open(upstream);
    say_request(client, target, "");
    struct answer answer = take_answer(client);
    client_close(client);
    return answer;
}

static void check_body(const struct server_process *upstream,
                       const char *target, const char *body, size_t len)
{
    struct answer answer = ask(upstream, target);
    ck_assert_int_eq(answer.status, 200);
    ck_assert_uint_eq(answer.len, len);
    ck_assert_mem_eq(answer.body, body, len);
    free(answer.body);
}

static void check_status(const struct server_process *upstream,
                         const char *target, int status)
{
    struct answer answer = ask(upstream, target);
    ck_assert_int_eq(answer.status, status);
    free(answer.body);
}

static const struct {
    const char *target;
    const char *body;
    size_t len;
} echoes[] = {
    {"/arrpi.php?text=hello", "hello", 5},
    {"/?text=any+path", "any+path", 8},
    {"/a/b/c?text=%68%65%6C%6c%6f", "hello", 5},
    {"/x?text=", "", 0},
    {"/x?q=1&text=later&more=2", "later", 5},
    {"/x?text=first&text=second", "first", 5},
    {"/x?mytext=no&text=yes", "yes", 3},
    {"/x?text=a=b", "a=b", 3},
    {"/x?text=a%26b%3Dc%25%23", "a&b=c%#", 7},
    {"/x?text=a%00b%0D%0A%FF", "a\0b\r\n\xff", 6},
};

START_TEST(test_text_comes_back)
{
    struct server_process *upstream = start("");
    check_body(upstream, echoes[_i].target, echoes[_i].body, echoes[_i].len);
    stop(upstream);
}
END_TEST

static const char *const bad_targets[] = {
    "/arrpi.php",  "/x?",          "/x?texts=1",  "/x?text",      "/x?text=%",
    "/x?text=a%4", "/x?text=%zz1", "/x?text=%4g", "/x?text=%%41",
};

START_TEST(test_bad_request_is_400)
{
    struct server_process *upstream = start("");
    check_status(upstream, bad_targets[_i], 400);
    check_body(upstream, "/x?text=still+there", "still+there", 11);
    stop(upstream);
}
END_TEST

START_TEST(test_all_bytes_of_a_long_text_come_back)
{
    enum { REPEATS = 280 }; /* a request line of 215 KB */
    static char target[8 + 3 * 256 * REPEATS + 1] = "/x?text=";
    static char text[256 * REPEATS];
    struct server_process *upstream = start("");
    char *end = target + strlen(target);
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (char)i;
        end += snprintf(end, 4, "%%%02zx", i % 256);
    }
    check_body(upstream, target, text, sizeof text);
    stop(upstream);
}
END_TEST

static const struct {
    const char *options;
    const char *target;
    const char *body;
} sizes[] = {
    {"--size 0", "/?text=abc", ""},    {"--size 2", "/?text=abc", "ab"},
    {"--size 3", "/?text=abc", "abc"}, {"--size 8", "/?text=abc", "abcabcab"},
    {"--size 4", "/?text=", "...."},   {"--size 3", "/?text=%41%42", "ABA"},
};

START_TEST(test_size_repeats_or_cuts)
{
    struct server_process *upstream = start(sizes[_i].options);
    check_body(upstream, sizes[_i].target, sizes[_i].body,
               strlen(sizes[_i].body));
    stop(upstream);
}
END_TEST

/* A key of 17 bytes: the LF is one of them. */
#define WITH_KEY "--key-file /dev/stdin <<E\n0123456789abcdef\nE\n"

/* By Python: hashlib.blake2b(X, digest_size=16, key=...).hexdigest()[:16] */
static const struct {
    const char *options;
    const char *target;
    const char *body;
    size_t len;
} marks[] = {
    {"", "/?text=hello%20you", "hello you 5c3fbb2998f0646f", 26},
    {"", "/?text=", " 131f27d5e248a18a", 17},
    {"", "/?text=a%00b%0D%0A%FF", "a\0b\r\n\xff fc88a8a7a1eda6c1", 23},
    {"--delay 5", "/?text=AB", "AB 4ed1272cd41fdefd", 19},
    {"--size 5", "/?text=AB", "ABABA 4ed1272cd41fdefd", 22},
    {"--size 1", "/?text=AB", "A 4ed1272cd41fdefd", 18},
    {"--size 0", "/?text=AB", " 4ed1272cd41fdefd", 17},
    {"--size 2", "/?text=", ".. 131f27d5e248a18a", 19},
    {"--status 500", "/?text=AB", "AB 4ed1272cd41fdefd", 19},
};

START_TEST(test_mark_is_appended)
{
    char options[128];
    (void)snprintf(options, sizeof options, "%s %s", marks[_i].options,
                   WITH_KEY);
    struct server_process *upstream = start(options);
    struct answer answer = ask(upstream, marks[_i].target);
    ck_assert_uint_eq(answer.len, marks[_i].len);
    ck_assert_mem_eq(answer.body, marks[_i].body, marks[_i].len);
    free(answer.body);
    stop(upstream);
}
END_TEST

START_TEST(test_large_body_arrives_whole)
{
    enum { SIZE = 8 * 1024 * 1024 };
    struct server_process *upstream = start("--size 8388608");
    struct answer answer = ask(upstream, "/?text=0123456789");
    ck_assert_uint_eq(answer.len, SIZE);
    for (size_t i = 0; i < SIZE; i++) {
        if (answer.body[i] != (char)('0' + i % 10))
            ck_abort_msg("byte %zu is %d", i, answer.body[i]);
    }
    free(answer.body);
    stop(upstream);
}
END_TEST

START_TEST(test_status_is_sent)
{
    static const int statuses[] = {200, 204, 302, 304, 404, 500, 599};
    char options[32];
    (void)snprintf(options, sizeof options, "--status %d", statuses[_i]);
    struct server_process *upstream = start(options);
    check_status(upstream, "/?text=a", statuses[_i]);

    /* One that has no body must not leave one for the next answer. */
    struct client *client = client_open(upstream);
    for (int i = 0; i < 2; i++) {
        say_request(client, "/?text=a", "");
        struct answer answer = take_answer(client);
        ck_assert_int_eq(answer.status, statuses[_i]);
        free(answer.body);
    }
    client_close(client);
    stop(upstream);
}
END_TEST

START_TEST(test_other_method_is_501)
{
    static const char post[] = "POST /?text=a HTTP/1.1\r\nHost: x\r\n"
                               "Content-Length: 1\r\n\r\nx";
    struct server_process *upstream = start("");
    struct client *client = client_open(upstream);
    client_send(client, post, sizeof post - 1);
    struct answer answer = take_answer(client);
    ck_assert_int_eq(answer.status, 501);
    free(answer.body);
    client_close(client);
    stop(upstream);
}
END_TEST

/* A connection carries many requests, also those sent ahead. */
START_TEST(test_requests_share_a_connection)
{
    struct server_process *upstream = start(_i == 0 ? "" : "--delay 20");
    struct client *client = client_open(upstream);
    char target[32];
    for (int i = 0; i < 10; i++) {
        (void)snprintf(target, sizeof target, "/?text=%d", i);
        say_request(client, target, "");
    }
    for (int i = 0; i < 10; i++) {
        (void)snprintf(target, sizeof target, "%d", i);
        struct answer answer = take_answer(client);
        ck_assert_str_eq(answer.body, target);
        free(answer.body);
    }
    client_close(client);
    stop(upstream);
}
END_TEST

START_TEST(test_connection_close_is_obeyed)
{
    struct server_process *upstream = start(_i == 0 ? "" : "--delay 20");
    struct client *client = client_open(upstream);
    size_t len = 0;
    say_request(client, "/?text=last", "Connection: close\r\n");
    const char *all = client_rest(client, &len);
    ck_assert_ptr_nonnull(strstr(all, "\r\n\r\nlast"));
    client_close(client);
    stop(upstream);
}
END_TEST

/* A client that sends no more still gets what it asked for. */
START_TEST(test_half_closed_client_is_answered)
{
    struct server_process *upstream = start(_i == 0 ? "" : "--delay 20");
    struct client *client = client_open(upstream);
    size_t len = 0;
    say_request(client, "/?text=half", "");
    client_finish(client);
    const char *all = client_rest(client, &len);
    ck_assert_ptr_nonnull(strstr(all, "\r\n\r\nhalf"));
    client_close(client);
    stop(upstream);
}
END_TEST

/* Each of many answers at once comes when its delay is over, not before. */
START_TEST(test_delay_is_exact_for_each_request)
{
    enum { CLIENTS = 500, DELAY_MS = 300 };
    static struct client *clients[CLIENTS];
    static long long asked_ms[CLIENTS];
    struct server_process *upstream = start("--delay 300.5");
    long long late_ms = 0;

    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(upstream);
    for (int i = 0; i < CLIENTS; i++) {
        asked_ms[i] = now_ms();
        say_request(clients[i], "/?text=a", "");
    }
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert(client_hears(clients[i], PATIENCE_MS));
        long long took = now_ms() - asked_ms[i];
        ck_assert_int_ge(took, DELAY_MS);
        late_ms += took - DELAY_MS;
        client_close(clients[i]);
    }
    /* Were they served one after the other, it would be over a minute. */
    ck_assert_msg(late_ms / CLIENTS < 200, "%lld ms late on average",
                  late_ms / CLIENTS);
    stop(upstream);
}
END_TEST

/* Waits until the process has this many descriptors. */
static void await_descriptors(const struct server_process *upstream,
                              long count)
{
    long long deadline = now_ms() + PATIENCE_MS;
    while (server_holds(upstream).descriptors != count) {
        ck_assert_msg(now_ms() < deadline, "%ld descriptors, not %ld",
                      server_holds(upstream).descriptors, count);
        let_pass(2);
    }
}

/* Clients that leave while their answers wait cost nothing. */
START_TEST(test_clients_may_leave_while_they_wait)
{
    enum { CLIENTS = 200 };
    static struct client *clients[CLIENTS];
    struct server_process *upstream = start("--delay 100");
    long before = server_holds(upstream).descriptors;

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(upstream);
        say_request(clients[i], "/?text=1", "");
        say_request(clients[i], "/?text=2", "");
    }
    for (int i = 0; i < CLIENTS; i++) {
        if (i % 2 == 0) {
            client_close(clients[i]);
        } else {
            client_reset(clients[i]);
        }
    }
    check_body(upstream, "/?text=me", "me", 2);
    await_descriptors(upstream, before);
    stop(upstream);
}
END_TEST

START_TEST(test_signal_ends_it_with_answers_waiting)
{
    enum { CLIENTS = 50 };
    static struct client *clients[CLIENTS];
    struct server_process *upstream = start("--delay 3600000");
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(upstream);
        say_request(clients[i], "/?text=1", "");
        if (i % 2 == 0)
            client_reset(clients[i]);
    }
    ck_assert_int_eq(kill(upstream->pid, _i == 0 ? SIGINT : SIGTERM), 0);
    ck_assert(server_ends(upstream, PATIENCE_MS));
    stop(upstream);
}
END_TEST

/* More connections than evhttp's own backlog of 128, all at one moment. */
START_TEST(test_burst_of_connections_is_taken)
{
    enum { CLIENTS = 900 };
    static struct client *clients[CLIENTS];
    struct server_process *upstream = start("");
    long long begun = now_ms();

    ck_assert_int_eq(kill(upstream->pid, SIGSTOP), 0);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(upstream);
    ck_assert_int_eq(kill(upstream->pid, SIGCONT), 0);
    for (int i = 0; i < CLIENTS; i++)
        say_request(clients[i], "/?text=a", "");
    for (int i = 0; i < CLIENTS; i++) {
        struct answer answer = take_answer(clients[i]);
        ck_assert_int_eq(answer.status, 200);
        free(answer.body);
        client_close(clients[i]);
    }
    ck_assert_int_lt(now_ms() - begun, PATIENCE_MS);
    stop(upstream);
}
END_TEST

/* Sends a request, headers only, on a connection of its own and reads the
 * status of the answer. */
static int send_request(const struct server_process *upstream,
                        const char *request)
{
    struct client *client = client_open(upstream);
    client_send(client, request, strlen(request));
    const char *line = client_line(client);
    ck_assert_msg(strncmp(line, "HTTP/1.", 7) == 0, "%s", line);
    int status = (int)strtol(line + 9, NULL, 10);
    client_close(client);
    return status;
}

/* Asks for the counts and waits for the line. */
static void ask_counts(const struct server_process *upstream)
{
    long long deadline = now_ms() + PATIENCE_MS;
    int before = server_logged(upstream, "upstream: connections=");
    ck_assert_int_eq(kill(upstream->pid, SIGUSR1), 0);
    while (server_logged(upstream, "upstream: connections=") == before) {
        ck_assert_msg(now_ms() < deadline, "no counts");
        let_pass(2);
    }
}

/* Checks that the counts, asked for now, are printed for the nth time. */
static void check_counts(const struct server_process *upstream,
                         const char *counts, int nth)
{
    char line[128];
    (void)snprintf(line, sizeof line, "\nupstream: %s\n", counts);
    ask_counts(upstream);
    char *log = server_log(upstream);
    ck_assert_msg(server_logged(upstream, line) == nth, "not %s but\n%s",
                  counts, log);
    free(log);
}

START_TEST(test_it_counts_what_it_got)
{
    struct server_process *upstream = start("");
    check_counts(upstream, "connections=0 requests=0 text_bytes=0", 1);

    /* A connection that is kept. */
    struct client *client = client_open(upstream);
    for (int i = 0; i < 3; i++) {
        say_request(client, "/?text=12%334", "");
        struct answer answer = take_answer(client);
        ck_assert_int_eq(answer.status, 200);
        free(answer.body);
    }
    check_counts(upstream, "connections=1 requests=3 text_bytes=12", 1);
    check_counts(upstream, "connections=1 requests=3 text_bytes=12", 2);
    client_close(client);

    /* New connections. */
    check_body(upstream, "/other/path?text=abcde", "abcde", 5);
    check_body(upstream, "/?text=", "", 0);
    check_counts(upstream, "connections=3 requests=5 text_bytes=17", 1);

    /* No text, and a broken one. */
    check_status(upstream, "/favicon.ico", 400);
    check_status(upstream, "/?text=abc%4", 400);
    check_counts(upstream, "connections=5 requests=7 text_bytes=17", 1);
    stop(upstream);
}
END_TEST

static const char *const other_methods[] = {
    "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "POST", "INVENTED",
};

START_TEST(test_it_counts_other_methods)
{
    char request[128];
    struct server_process *upstream = start("--delay 3600000");
    (void)snprintf(
        request, sizeof request, "%s /?text=a HTTP/1.1\r\nHost: x\r\n%s\r\n",
        other_methods[_i],
        strcmp(other_methods[_i], "POST") == 0 ? "Content-Length: 0\r\n" : "");
    ck_assert_int_eq(send_request(upstream, request), 501);
    check_counts(upstream, "connections=1 requests=1 text_bytes=0", 1);
    stop(upstream);
}
END_TEST

/* A connection counts without a request, and a request before its answer. */
START_TEST(test_it_counts_what_it_has_not_answered)
{
    struct server_process *upstream = start("--delay 3600000");
    struct client *silent = client_open(upstream);
    struct client *client = client_open(upstream);
    say_request(client, "/?text=abc", "");
    long long deadline = now_ms() + PATIENCE_MS;
    const char *line = "connections=2 requests=1 text_bytes=3\n";
    while (server_logged(upstream, line) == 0) {
        ck_assert(now_ms() < deadline);
        ask_counts(upstream);
    }
    int before = server_logged(upstream, line);
    client_close(silent);
    client_close(client);
    ck_assert_int_eq(server_stop(upstream), 0);
    /* Once more at its end. */
    ck_assert_int_eq(server_logged(upstream, line), before + 1);
    server_free(upstream);
}
END_TEST

START_TEST(test_what_is_no_http_is_400_and_does_not_count)
{
    struct server_process *upstream = start("");
    ck_assert_int_eq(send_request(upstream, "nonsense\r\n\r\n"), 400);
    check_counts(upstream, "connections=1 requests=0 text_bytes=0", 1);
    stop(upstream);
}
END_TEST

START_TEST(test_texts_count_without_a_body_to_send)
{
    struct server_process *upstream = start("--status 204 " WITH_KEY);
    check_status(upstream, "/?text=abc", 204);
    check_counts(upstream, "connections=1 requests=1 text_bytes=3", 1);
    stop(upstream);
}
END_TEST

START_TEST(test_ipv6)
{
    struct server_process *upstream =
        server_start(NULL, "%s -l '[::1]:0'", kit_program("upstream"));
    ck_assert_str_eq(upstream->host, "::1");
    check_body(upstream, "/?text=six", "six", 3);
    stop(upstream);
}
END_TEST

START_TEST(test_port_taken_is_named)
{
    struct server_process *upstream = start("");
    char address[96];
    (void)snprintf(address, sizeof address, "%s:%s", upstream->host,
                   upstream->port);
    struct command *second =
        command_run("%s --listen %s", kit_program("upstream"), address);
    ck_assert_int_eq(second->status, 1);
    ck_assert_ptr_nonnull(strstr(second->err, address));
    ck_assert_ptr_nonnull(strstr(second->err, strerror(EADDRINUSE)));
    command_free(second);
    stop(upstream);
}
END_TEST

static const struct {
    const char *arguments;
    const char *names;
} bad_usage[] = {
    {"--delay 5x", "--delay"},
    {"--delay -1", "--delay"},
    {"--delay ''", "--delay"},
    {"--delay .", "--delay"},
    {"--delay nan", "0 to 3600000"},
    {"--delay 3600000.1", "0 to 3600000"},
    {"--size 1.5", "--size"},
    {"--size 1073741825", "0 to 1073741824"},
    {"--size 99999999999999999999999", "--size"},
    {"--status 199", "200 to 599"},
    {"--status 600", "200 to 599"},
    {"--key-file", "--key-file"},
    {"--key-file /nowhere/key", "--key-file: /nowhere/key: No such file"},
    {"--key-file /", "--key-file: /: Is a directory"},
    {"--key-file /dev/null",
     "--key-file: /dev/null has 0 bytes; a key has 16 to 64"},
    {"--key-file /dev/stdin <<E\n0123456789abcd\nE\n", "has 15 bytes"},
    {"--key-file /dev/zero", "has more than 64 bytes; a key has 16 to 64"},
    {"--listen 8081", "--listen"},
    {"--listen 127.0.0.1:", "--listen"},
    {"--listen 127.0.0.1:65536", "0 to 65535"},
    {"--listen ::1:8081", "--listen"},
    {"--listen [::1", "--listen"},
    {"--nonsense", "nonsense"},
    {"argument", "argument"},
    {"--delay", "--delay"},
};

START_TEST(test_bad_usage_is_named)
{
    struct command *command =
        command_run("%s %s", kit_program("upstream"), bad_usage[_i].arguments);
    ck_assert_int_eq(command->status, 2);
    ck_assert_msg(strstr(command->err, bad_usage[_i].names) != NULL, "%s",
                  command->err);
    ck_assert_int_eq(strncmp(command->err, "upstream: ", 10), 0);
    ck_assert_str_eq(command->out, "");
    command_free(command);
}
END_TEST

START_TEST(test_help_and_version)
{
    static const char *const options[] = {"--help", "--version"};
    struct command *command =
        command_run("%s %s", kit_program("upstream"), options[_i]);
    ck_assert_int_eq(command->status, 0);
    ck_assert_str_eq(command->err, "");
    ck_assert_ptr_nonnull(strstr(command->out, "upstream"));
    command_free(command);

    command =
        command_run("%s %s >/dev/full", kit_program("upstream"), options[_i]);
    ck_assert_int_eq(command->status, 1);
    ck_assert_ptr_nonnull(strstr(command->err, strerror(ENOSPC)));
    command_free(command);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

static Suite *upstream_suite(void)
{
    Suite *suite = suite_create("upstream");
    TCase *answers = tcase_create("answers");
    TCase *connections = tcase_create("connections");
    TCase *counts = tcase_create("counts");
    TCase *usage = tcase_create("usage");

    tcase_set_timeout(answers, TEST_TIMEOUT);
    tcase_add_loop_test(answers, test_text_comes_back, 0, COUNT(echoes));
    tcase_add_loop_test(answers, test_bad_request_is_400, 0,
                        COUNT(bad_targets));
    tcase_add_test(answers, test_all_bytes_of_a_long_text_come_back);
    tcase_add_loop_test(answers, test_size_repeats_or_cuts, 0, COUNT(sizes));
    tcase_add_loop_test(answers, test_mark_is_appended, 0, COUNT(marks));
    tcase_add_test(answers, test_large_body_arrives_whole);
    tcase_add_loop_test(answers, test_status_is_sent, 0, 7);
    tcase_add_test(answers, test_other_method_is_501);
    suite_add_tcase(suite, answers);

    tcase_set_timeout(connections, TEST_TIMEOUT);
    tcase_add_loop_test(connections, test_requests_share_a_connection, 0, 2);
    tcase_add_loop_test(connections, test_connection_close_is_obeyed, 0, 2);
    tcase_add_loop_test(connections, test_half_closed_client_is_answered, 0,
                        2);
    tcase_add_test(connections, test_delay_is_exact_for_each_request);
    tcase_add_test(connections, test_clients_may_leave_while_they_wait);
    tcase_add_loop_test(connections, test_signal_ends_it_with_answers_waiting,
                        0, 2);
    tcase_add_test(connections, test_burst_of_connections_is_taken);
    suite_add_tcase(suite, connections);

    tcase_set_timeout(counts, TEST_TIMEOUT);
    tcase_add_test(counts, test_it_counts_what_it_got);
    tcase_add_loop_test(counts, test_it_counts_other_methods, 0,
                        COUNT(other_methods));
    tcase_add_test(counts, test_it_counts_what_it_has_not_answered);
    tcase_add_test(counts, test_what_is_no_http_is_400_and_does_not_count);
    tcase_add_test(counts, test_texts_count_without_a_body_to_send);
    suite_add_tcase(suite, counts);

    tcase_set_timeout(usage, TEST_TIMEOUT);
    tcase_add_test(usage, test_ipv6);
    tcase_add_test(usage, test_port_taken_is_named);
    tcase_add_loop_test(usage, test_bad_usage_is_named, 0, COUNT(bad_usage));
    tcase_add_loop_test(usage, test_help_and_version, 0, 2);
    suite_add_tcase(suite, usage);
    return suite;
}

int main(void)
{
    return run_suite(upstream_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
