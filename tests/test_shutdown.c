/*
 * How threadecho ends, and what it says of itself: SIGTERM, SIGINT and SIGHUP
 * drain, a second one kills, SIGUSR1 prints a summary that clients can
 * confirm.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Waits for the end by a signal that was sent, with status 0. */
static void end(struct server_process *s)
{
    ck_assert(server_ends(s, PATIENCE_MS));
    ck_assert_int_eq(server_stop(s), 0);
}

static const int endings[] = {SIGTERM, SIGINT, SIGHUP};

START_TEST(test_no_line_that_was_received_is_left_unanswered)
{
    enum { CLIENTS = 20 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 20");
    struct client *clients[CLIENTS];
    char much[1501];

    memset(much, 'y', sizeof much - 1);
    much[sizeof much - 1] = '\0';
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        client_say(clients[i], "/delay/500");
        client_say(clients[i], "second\nthird");
        client_say(clients[i], much); /* more than is read at a time */
        client_say(clients[i], "last");
    }
    await_requests(CLIENTS);
    long long start = now_ms();
    ck_assert_int_eq(kill(s->pid, endings[_i]), 0);
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_str_eq(client_line(clients[i]), "echo: /delay/500");
        ck_assert_str_eq(client_line(clients[i]), "echo: second");
        ck_assert_str_eq(client_line(clients[i]), "echo: third");
        const char *reply = client_line(clients[i]);
        ck_assert_int_eq(strncmp(reply, "echo: ", 6), 0);
        ck_assert_str_eq(reply + 6, much);
        ck_assert_str_eq(client_line(clients[i]), "echo: last");
        ck_assert_str_eq(client_line(clients[i]), "<end>");
        client_close(clients[i]);
    }
    end(s);
    ck_assert_int_lt(now_ms() - start, 10000);
    ck_assert_int_eq(server_logged(s, " requests=100 errors=0 "), 1);
    server_free(s);
}
END_TEST

START_TEST(test_idle_client_sees_the_end_and_half_a_line_gets_a_reason)
{
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct client *idle = client_open(s);
    struct client *half = client_open(s);

    ck_assert_str_eq(client_ask(idle, "hello"), "echo: hello");
    ck_assert_str_eq(client_ask(half, "hello"), "echo: hello");
    client_send(half, "half a", 6);
    ck_assert_int_eq(kill(s->pid, endings[_i]), 0);
    ck_assert_str_eq(client_line(idle), "<end>");
    ck_assert_str_eq(client_line(half), "error: server stopping");
    ck_assert_str_eq(client_line(half), "<end>");
    end(s);
    ck_assert_int_eq(server_logged(s, " error_server_stopping=1 "), 1);
    client_close(idle);
    client_close(half);
    server_free(s);
}
END_TEST

/* What was answered arrives, though more lines come than are read any more: a
 * close with unread input is a reset, which would take it away. */
START_TEST(test_replies_arrive_though_the_client_goes_on_sending)
{
    enum { LINES = 4, SIZE = 60000 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct client *c = client_open(s);
    long long deadline = now_ms() + PATIENCE_MS;
    const int little = 32768;

    /* So that most of the replies have to wait on the server's side. */
    ck_assert_int_eq(
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little), 0);
    for (int i = 0; i < LINES; i++)
        client_say(c, "/size/60000");
    while (rogue_counts(upstream).requests < LINES) {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(2);
    }
    let_pass(20); /* until the server waits for the next line */
    ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    for (int i = 0; i < 100; i++) { /* some of which come too late */
        let_pass(1);
        if (send(c->fd, "/text\n", 6, MSG_NOSIGNAL) < 0)
            break; /* it has gone, which the lines below will show */
    }
    for (int i = 0; i < LINES; i++)
        ck_assert_uint_eq(strlen(client_line(c)), strlen("echo: ") + SIZE);
    client_close(c);
    end(s);
    server_free(s);
}
END_TEST

/* stderr is a pipe that is full and that nobody reads. */
START_TEST(test_log_that_nobody_reads_stops_nothing)
{
    static const char filler[4096];
    char dir[] = "/tmp/threadecho-test-XXXXXX";
    char pipe[sizeof dir + 8];

    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(pipe, sizeof pipe, "%s/log", dir);
    ck_assert_int_eq(mkfifo(pipe, 0600), 0);
    int fd = open(pipe, O_RDWR | O_NONBLOCK);
    ck_assert_int_ge(fd, 0);
    while (write(fd, filler, sizeof filler) > 0)
        continue;
    ck_assert_int_eq(errno, EAGAIN);

    struct server_process *s =
        server_start("-", "%s --echo --verbose --listen 127.0.0.1:{port} 2>%s",
                     threadecho(), pipe);
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    ck_assert_int_eq(kill(s->pid, SIGUSR1), 0);
    ck_assert_str_eq(client_ask(c, "again"), "echo: again");
    ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
    end(s);
    server_free(s);
    close(fd);
    ck_assert_int_eq(unlink(pipe), 0);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

/* The client's end of input makes it a line; ours that follows changes
 * nothing. */
START_TEST(test_last_line_without_lf_was_received_too)
{
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct client *c = client_open(s);

    client_say(c, "/delay/500");
    client_send(c, "last", 4);
    client_finish(c);
    await_requests(1);
    ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    ck_assert_str_eq(client_line(c), "echo: /delay/500");
    ck_assert_str_eq(client_line(c), "echo: last");
    ck_assert_str_eq(client_line(c), "<end>");
    end(s);
    client_close(c);
    server_free(s);
}
END_TEST

/* A client that could connect gets a reply or a reason, never silence. */
START_TEST(test_clients_that_connect_while_it_ends_get_an_answer)
{
    enum { CLIENTS = 300 };
    struct server_process *s = threadecho_start(NULL, "--echo");
    struct client *clients[CLIENTS];

    /* All connect before it can have accepted them all. */
    ck_assert_int_eq(kill(s->pid, SIGSTOP), 0);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        client_say(clients[i], "hello");
    }
    ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    ck_assert_int_eq(kill(s->pid, SIGCONT), 0);
    for (int i = 0; i < CLIENTS; i++) {
        const char *reply = client_line(clients[i]);
        ck_assert_msg(strcmp(reply, "echo: hello") == 0 ||
                          strcmp(reply, "error: server stopping") == 0,
                      "client %d of %d: %s", i, CLIENTS, reply);
        ck_assert_str_eq(client_line(clients[i]), "<end>");
        client_close(clients[i]);
    }
    end(s);
    server_free(s);
}
END_TEST

/* Waits until a server that is to end accepts nobody. Returns the errno value
 * of connect, or 0 if it still accepts after this long. */
static int await_draining(const struct server_process *s, long limit_ms)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons((in_port_t)strtol(s->port, NULL, 10)),
    };
    long long start = now_ms();
    int error = 0;

    while (error == 0 && now_ms() - start < limit_ms) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_ge(fd, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
            error = errno;
        close(fd);
        let_pass(10);
    }
    return error;
}

START_TEST(test_nobody_is_accepted_while_it_drains)
{
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct client *c = client_open(s);

    client_say(c, "/delay/1500");
    await_requests(1);
    ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    int error = await_draining(s, 1000);
    /* The listener may close just as the connection is made. */
    ck_assert(error == ECONNREFUSED || error == ECONNRESET);
    ck_assert_str_eq(client_line(c), "echo: /delay/1500");
    ck_assert_str_eq(client_line(c), "<end>");
    end(s);
    client_close(c);
    server_free(s);
}
END_TEST

START_TEST(test_second_signal_ends_it_at_once)
{
    struct server_process *s = threadecho_start(upstream, "--timeout 60");
    struct client *c = client_open(s);

    client_say(c, "/hang");
    await_busy(1);
    ck_assert_int_eq(kill(s->pid, endings[_i]), 0);
    ck_assert_int_ne(await_draining(s, 5000), 0);
    ck_assert(!server_ends(s, 0));
    long long start = now_ms();
    ck_assert_int_eq(kill(s->pid, endings[_i]), 0);
    ck_assert(server_ends(s, PATIENCE_MS));
    ck_assert_int_lt(now_ms() - start, 5000);
    ck_assert(WIFSIGNALED(s->status));
    ck_assert_int_eq(WTERMSIG(s->status), endings[_i]);
    client_close(c);
    server_free(s);
}
END_TEST

/* A summary may be asked for at the moment of the second signal. */
START_TEST(test_second_signal_ends_it_whatever_else_comes)
{
    for (int round = 0; round < 5; round++) {
        struct server_process *s = threadecho_start(upstream, "--timeout 60");
        struct client *c = client_open(s);

        client_say(c, "/hang");
        await_busy(1);
        ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
        ck_assert_int_ne(await_draining(s, 5000), 0);
        ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
        long long start = now_ms();
        while (!server_ends(s, 0) && now_ms() - start < PATIENCE_MS)
            for (int i = 0; i < 100; i++)
                ck_assert_int_eq(kill(s->pid, SIGUSR1), 0);
        ck_assert(server_ends(s, 0));
        ck_assert(WIFSIGNALED(s->status));
        ck_assert_int_eq(WTERMSIG(s->status), SIGTERM);
        client_close(c);
        server_free(s);
    }
}
END_TEST

/* Returns whether it is process 1 of a PID namespace. */
static bool is_process_1(const struct server_process *s)
{
    char path[64], line[128], expected[64];
    bool found = false;

    snprintf(path, sizeof path, "/proc/%d/status", (int)s->pid);
    snprintf(expected, sizeof expected, "NSpid:\t%d\t1\n", (int)s->pid);
    FILE *file = fopen(path, "re");
    ck_assert_ptr_nonnull(file);
    while (!found && fgets(line, sizeof line, file) != NULL)
        found = strcmp(line, expected) == 0;
    fclose(file);
    return found;
}

/* Process 1 of a container has no default actions: what kills any other
 * process does nothing to it. */
START_TEST(test_second_signal_ends_process_1_at_once)
{
    if (!server_as_process_1()) {
        tell_skipped("no PID namespace may be made");
        return;
    }
    struct server_process *s = threadecho_start(upstream, "--timeout 60");
    ck_assert(is_process_1(s));
    struct client *c = client_open(s);

    client_say(c, "/hang");
    await_busy(1);
    ck_assert_int_eq(kill(s->pid, endings[_i]), 0);
    let_pass(100);
    ck_assert(!server_ends(s, 0));
    long long start = now_ms();
    ck_assert_int_eq(kill(s->pid, endings[_i]), 0);
    ck_assert(server_ends(s, PATIENCE_MS));
    ck_assert_int_lt(now_ms() - start, 5000);
    ck_assert_int_eq(server_stop(s), 128 + endings[_i]);
    client_close(c);
    server_free(s);
}
END_TEST

START_TEST(test_hangup_is_ignored_if_it_was_at_the_start)
{
    struct server_process *s = server_start(
        NULL, "sh -c 'trap \"\" HUP; exec %s --echo --listen 127.0.0.1:0'",
        threadecho());
    struct client *c = client_open(s);

    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(kill(s->pid, SIGHUP), 0);
        let_pass(30);
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        client_close(c);
        c = client_open(s);
    }
    client_close(c);
    stop_drained(s);
}
END_TEST

START_TEST(test_a_hanging_line_does_not_keep_other_clients_from_ending)
{
    struct server_process *s = threadecho_start(upstream, "--timeout 1.5");
    struct client *hanging = client_open(s);
    struct client *c = client_open(s);

    client_say(hanging, "/hang");
    await_busy(1);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    ck_assert_str_eq(client_line(c), "<end>");
    ck_assert_str_eq(client_line(hanging), "error: upstream timed out");
    ck_assert_str_eq(client_line(hanging), "<end>");
    end(s);
    client_close(hanging);
    client_close(c);
    server_free(s);
}
END_TEST

/* The first and the last summary, and each in between, must say what the
 * clients have counted. */
START_TEST(test_summary_equals_what_clients_counted)
{
    enum { CLIENTS = 5 };
    static const struct {
        const char *line;
        const char *key; /* of the error that it is, if it is one */
    } lines[] = {
        {"hello", NULL},
        {"", NULL},
        {"/status/404", "error_upstream_returned"},
        {"/status/500", "error_upstream_returned"},
        {"/short", "error_upstream_closed_early"},
        {"/garbage", "error_upstream_sent_bad_HTTP"},
        {"/size/1001", "error_upstream_body_too_large"},
        {"a line of more than forty bytes is too long", "error_line_too_long"},
    };
    struct server_process *s = threadecho_start(
        upstream, "--max-connections 5 --max-line 40 --max-body 1000");
    struct client *clients[CLIENTS];
    long requests = 0;
    long errors = 0;

    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(s);
    for (int i = 0; i < CLIENTS; i++)
        ck_assert_str_eq(client_ask(clients[i], "hello"), "echo: hello");
    requests += CLIENTS;
    struct client *rejected = client_open(s);
    ck_assert_str_eq(client_line(rejected), "error: too many connections");
    client_close(rejected);
    for (size_t n = 0; n < COUNT(lines); n++) {
        long before = lines[n].key ? server_counts(s, lines[n].key) : 0;
        for (int i = 0; i < CLIENTS; i++) {
            const char *reply = client_ask(clients[i], lines[n].line);
            bool failed = strncmp(reply, "error: ", 7) == 0;
            ck_assert_msg(failed == (lines[n].key != NULL), "%s: %s",
                          lines[n].line, reply);
            requests++;
            errors += failed;
        }
        char *summary = server_summary(s);
        if (lines[n].key != NULL)
            ck_assert_int_eq(summary_value(summary, lines[n].key),
                             before + CLIENTS);
        ck_assert_int_eq(summary_value(summary, "requests"), requests);
        ck_assert_int_eq(summary_value(summary, "errors"), errors);
        free(summary);
    }
    char *summary = server_summary(s);
    static const char *const keys[] = {"cpu_user",
                                       "cpu_sys",
                                       "max_rss",
                                       "voluntary_switches",
                                       "involuntary_switches",
                                       "accept_errors",
                                       "thread_errors"};
    for (size_t i = 0; i < COUNT(keys); i++)
        ck_assert_ptr_nonnull(strstr(summary, keys[i]));
    ck_assert_ptr_nonnull(strstr(summary, "connections=6 "));
    ck_assert_int_eq(summary_value(summary, "rejected"), 1);
    ck_assert_int_eq(summary_value(summary, "peak_threads"), CLIENTS);
    ck_assert_int_eq(summary_value(summary, "accept_errors"), 0);
    ck_assert_int_eq(summary_value(summary, "thread_errors"), 0);
    ck_assert_int_gt(summary_value(summary, "max_rss"), 0);
    /* Nobody is left to ask for more: the last summary says the same. */
    char *costs = strstr(summary, " peak_threads=");
    ck_assert_ptr_nonnull(costs);
    *costs = '\0';
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    ck_assert_int_eq(server_stop(s), 0);
    ck_assert_int_ge(server_logged(s, summary), 2);
    free(summary);
    server_free(s);
}
END_TEST

START_TEST(test_counts_are_exact_with_many_clients_at_once)
{
    enum { CLIENTS = 100, LINES = 20 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 16");
    struct client *clients[CLIENTS];

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        for (int line = 0; line < LINES; line++)
            client_say(clients[i], line % 4 == 3 ? "/status/404" : "hello");
    }
    for (int i = 0; i < CLIENTS; i++)
        for (int line = 0; line < LINES; line++)
            ck_assert_str_eq(client_line(clients[i]),
                             line % 4 == 3 ? "error: upstream returned 404"
                                           : "echo: hello");
    char *summary = server_summary(s);
    ck_assert_ptr_nonnull(strstr(summary, "connections=100 "));
    ck_assert_int_eq(summary_value(summary, "requests"), CLIENTS * LINES);
    ck_assert_int_eq(summary_value(summary, "errors"), CLIENTS * LINES / 4);
    ck_assert_int_eq(summary_value(summary, "peak_threads"), CLIENTS);
    ck_assert_uint_eq(rogue_counts(upstream).requests, CLIENTS * LINES);
    free(summary);
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

START_TEST(test_signals_in_a_storm_of_requests_break_nothing)
{
    enum { CLIENTS = 10, ROUNDS = 50 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 10");
    struct client *clients[CLIENTS];

    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(s);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CLIENTS; i++)
            client_say(clients[i], "hello");
        ck_assert_int_eq(kill(s->pid, SIGUSR1), 0);
        ck_assert_int_eq(kill(s->pid, SIGPIPE), 0);
        for (int i = 0; i < CLIENTS; i++)
            ck_assert_str_eq(client_line(clients[i]), "echo: hello");
    }
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    stop_drained(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("shutdown");
    TCase *ending = add_case(suite, "end");

    tcase_add_loop_test(ending,
                        test_no_line_that_was_received_is_left_unanswered, 0,
                        COUNT(endings));
    tcase_add_loop_test(
        ending, test_idle_client_sees_the_end_and_half_a_line_gets_a_reason, 0,
        COUNT(endings));
    tcase_add_test(ending,
                   test_replies_arrive_though_the_client_goes_on_sending);
    tcase_add_test(ending, test_log_that_nobody_reads_stops_nothing);
    tcase_add_test(ending, test_last_line_without_lf_was_received_too);
    tcase_add_test(ending,
                   test_clients_that_connect_while_it_ends_get_an_answer);
    tcase_add_test(ending, test_nobody_is_accepted_while_it_drains);
    tcase_add_loop_test(ending, test_second_signal_ends_it_at_once, 0,
                        COUNT(endings));
    tcase_add_test(ending, test_second_signal_ends_it_whatever_else_comes);
    tcase_add_loop_test(ending, test_second_signal_ends_process_1_at_once, 0,
                        COUNT(endings));
    tcase_add_test(ending, test_hangup_is_ignored_if_it_was_at_the_start);
    tcase_add_test(
        ending, test_a_hanging_line_does_not_keep_other_clients_from_ending);

    TCase *summary = add_case(suite, "summary");
    tcase_add_test(summary, test_summary_equals_what_clients_counted);
    tcase_add_test(summary, test_counts_are_exact_with_many_clients_at_once);
    tcase_add_test(summary, test_signals_in_a_storm_of_requests_break_nothing);
    return run_suite(suite) == 0 ? 0 : 1;
}
