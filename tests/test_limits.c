/*
 * threadecho at its limits: connections, descriptors, threads, memory, its
 * log. A client that it cannot serve gets a reason, and afterwards the server
 * holds what it held before.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* getdtablesize, prlimit */
#include "command.h"
#include "fixture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Sets a soft limit of the running server; returns what it was. */
static rlim_t limit(const struct server_process *s,
                    __rlimit_resource_t resource, rlim_t soft)
{
    struct rlimit was;

    ck_assert_int_eq(prlimit(s->pid, resource, NULL, &was), 0);
    const struct rlimit is = {.rlim_cur = soft, .rlim_max = was.rlim_max};
    ck_assert_int_eq(prlimit(s->pid, resource, &is, NULL), 0);
    return was.rlim_cur;
}

/* Lets the server open no descriptor more; returns what the limit was. */
static rlim_t take_descriptors(const struct server_process *s)
{
    char path[64];
    struct stat status;
    rlim_t lowest = 0;

    do
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)s->pid,
                 (int)lowest++);
    while (lstat(path, &status) == 0);
    return limit(s, RLIMIT_NOFILE, lowest - 1);
}

/* Closes a connection after the server did: its place is free then. */
static void leave(struct client *c)
{
    client_finish(c);
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
}

START_TEST(test_connections_over_the_limit_get_a_reason)
{
    struct server_process *s =
        threadecho_start(upstream, "--max-connections 3");
    struct holding before = server_rests(s);
    struct client *served[3];

    for (int i = 0; i < 3; i++) {
        served[i] = client_open(s);
        ck_assert_str_eq(client_ask(served[i], "hello"), "echo: hello");
    }
    for (int i = 0; i < 10; i++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_line(c), "error: too many connections");
        ck_assert_str_eq(client_line(c), "<end>");
        client_close(c);
    }
    ck_assert_int_eq(server_counts(s, "rejected"), 10);
    for (int i = 0; i < 3; i++) {
        ck_assert_str_eq(client_ask(served[i], "hello"), "echo: hello");
        leave(served[i]);
    }
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_place_of_a_client_that_left_is_free_at_once)
{
    struct server_process *s =
        threadecho_start(NULL, "--echo --max-connections 1");

    for (int i = 0; i < 200; i++) {
        struct client *c = client_open(s);
        client_say(c, "hello");
        client_finish(c);
        ck_assert_str_eq(client_line(c), "echo: hello");
        /* A client that saw this end may come back. */
        ck_assert_str_eq(client_line(c), "<end>");
        client_close(c);
    }
    stop_drained(s);
}
END_TEST

/* A server that closes a socket with unread input resets it, and the line
 * that it sent before is lost on the way. */
START_TEST(test_rejected_client_reads_why_whatever_it_has_sent)
{
    enum { CLIENTS = 50, MUCH = 65536 };
    struct server_process *s =
        threadecho_start(NULL, "--echo --max-connections 1");
    struct holding before = server_rests(s);
    struct client *served = client_open(s);
    struct client *clients[CLIENTS];
    char *much = calloc(1, MUCH);

    ck_assert_ptr_nonnull(much);
    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        client_say(clients[i], "one\ntwo\nthree");
        client_send(clients[i], much, i % 5 == 0 ? MUCH : 10);
    }
    let_pass(100);
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_str_eq(client_line(clients[i]),
                         "error: too many connections");
        ck_assert_str_eq(client_line(clients[i]), "<end>");
        client_close(clients[i]);
    }
    free(much);
    leave(served);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_crowd_of_rejected_clients_reads_why)
{
    enum { CLIENTS = 500 };
    struct server_process *s =
        threadecho_start(NULL, "--echo --max-connections 1");
    struct holding before = server_rests(s);
    struct client *served = client_open(s);
    struct client *clients[CLIENTS];

    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        client_say(clients[i], "hello");
    }
    let_pass(100);
    for (int i = 0; i < CLIENTS; i++)
        ck_assert_str_eq(client_line(clients[i]),
                         "error: too many connections");
    ck_assert_int_eq(server_counts(s, "rejected"), CLIENTS);
    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    leave(served);
    stop_recovered(s, before);
}
END_TEST

/* Those that close are gone at once, and no other: to close a connection
 * takes from its client what it has not read yet, once it sends more. */
START_TEST(test_rejected_clients_may_close_in_any_order)
{
    enum { CLIENTS = 30 };
    struct server_process *s =
        threadecho_start(NULL, "--echo --max-connections 1");
    struct holding before = server_rests(s);
    struct client *served = client_open(s);
    struct client *clients[CLIENTS];

    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    long long start = now_ms();
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        ck_assert(client_hears(clients[i], PATIENCE_MS));
    }
    for (int i = CLIENTS - 1; i > 0; i -= 2)
        client_close(clients[i]);
    while (server_holds(s).descriptors != before.descriptors + 1 + CLIENTS / 2)
        ck_assert_int_lt(now_ms() - start, 1900);
    for (int i = 0; i < CLIENTS; i += 2)
        client_say(clients[i], "more");
    let_pass(20); /* for a reset to come, if one does */
    for (int i = 0; i < CLIENTS; i += 2) {
        ck_assert_str_eq(client_line(clients[i]),
                         "error: too many connections");
        ck_assert_str_eq(client_line(clients[i]), "<end>");
        client_close(clients[i]);
    }
    leave(served);
    stop_recovered(s, before);
}
END_TEST

/* Takes the server's descriptors away for ms while a client connects. Returns
 * how long after the server has them back the client had its reply. */
static long long starve(const struct server_process *s, long ms)
{
    rlim_t was = take_descriptors(s);
    struct client *c = client_open(s);

    client_say(c, "hello");
    let_pass(ms);
    ck_assert(!client_hears(c, 0));
    long long start = now_ms();
    limit(s, RLIMIT_NOFILE, was);
    ck_assert_str_eq(client_line(c), "echo: hello");
    long long took = now_ms() - start;
    client_close(c);
    return took;
}

START_TEST(test_running_out_of_descriptors_pauses_accepting)
{
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct holding before = server_rests(s);
    struct client *served = client_open(s);
    long long start = now_ms();

    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    /* Accepting goes on at most 200 ms after relief; of three times the
     * shortest, since the machine may be busy with other things. */
    long long best = PATIENCE_MS;
    for (int i = 0; i < 3; i++) {
        long long took = starve(s, 350);
        best = took < best ? took : best;
        /* Clients that were there are still served. */
        ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
        server_recovers(
            s, (struct holding){before.descriptors + 1,
                                before.threads + threads_per_client()});
    }
    long long took = now_ms() - start;
    ck_assert_int_lt(best, 250);

    /* It tried at intervals and did not spin. */
    long errors = server_counts(s, "accept_errors");
    ck_assert_int_ge(errors, 3);
    ck_assert_int_le(errors, took / 100 + 4);
    if (took < 5000)
        ck_assert_int_eq(server_logged(s, "cannot accept"), 1);
    ck_assert_int_ge(server_logged(s, "cannot accept"), 1);
    client_close(served);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_fetch_without_a_descriptor_is_an_error)
{
    struct server_process *s = threadecho_start(upstream, "--no-keepalive");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);

    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    rlim_t was = take_descriptors(s);
    for (int i = 0; i < 10; i++) {
        const char *reply = client_ask(c, "hello");
        ck_assert_msg(strncmp(reply, "error: ", 7) == 0, "%s", reply);
    }
    limit(s, RLIMIT_NOFILE, was);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_client_without_a_thread_gets_a_reason)
{
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct client *served[200];
    int count = 0;

    if (server_sanitized(s)) { /* whose own memory would be missing first */
        server_free(s);
        return;
    }
    struct holding before = server_rests(s);
    served[count++] = client_open(s);
    ck_assert_str_eq(client_ask(served[0], "hello"), "echo: hello");
    /* From now on no stack can be had but those that others have left. */
    rlim_t was = limit(s, RLIMIT_AS, (rlim_t)server_status(s, "VmSize") << 10);
    for (;;) {
        struct client *c = client_open(s);
        client_say(c, "hello");
        const char *reply = client_line(c);
        if (strcmp(reply, "echo: hello") != 0) {
            ck_assert_str_eq(reply, "error: cannot start a thread");
            ck_assert_str_eq(client_line(c), "<end>");
            client_close(c);
            break;
        }
        ck_assert_int_lt(count, 200);
        served[count++] = c;
    }
    for (int i = 0; i < 20; i++) {
        struct client *c = client_open(s);
        client_send(c, "one\ntwo\nthr", 11);
        ck_assert_str_eq(client_line(c), "error: cannot start a thread");
        ck_assert_str_eq(client_line(c), "<end>");
        client_close(c);
    }
    char *summary = server_summary(s);
    ck_assert_int_eq(summary_value(summary, "thread_errors"), 21);
    ck_assert_int_eq(summary_value(summary, "rejected"), 21);
    free(summary);
    ck_assert_int_eq(server_logged(s, "cannot start thread"), 1);
    for (int i = 0; i < count; i++) {
        ck_assert_str_eq(client_ask(served[i], "hello"), "echo: hello");
        client_close(served[i]);
    }
    limit(s, RLIMIT_AS, was);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_idle_connection_costs_one_descriptor)
{
    enum { CLIENTS = 50 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 1");
    struct holding before = server_rests(s);
    struct client *clients[CLIENTS];

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        ck_assert_str_eq(client_ask(clients[i], "hello"), "echo: hello");
    }
    struct holding with = server_holds(s);
    ck_assert_int_eq(with.descriptors, before.descriptors + CLIENTS);
    ck_assert_int_eq(with.threads,
                     before.threads + CLIENTS * threads_per_client());
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    stop_recovered(s, before);
}
END_TEST

/* Clients that come, each with a line, and go, 50 at a time. */
static void come_and_go(const struct server_process *s, int rounds)
{
    struct client *clients[50];

    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 50; i++) {
            clients[i] = client_open(s);
            client_say(clients[i], "hello");
        }
        for (int i = 0; i < 50; i++) {
            ck_assert_str_eq(client_line(clients[i]), "echo: hello");
            client_close(clients[i]);
        }
    }
}

enum { HANDLES = 8 }; /* of the pool */

/* Runs a fetch for each handle, which takes a while. */
static void fetch_at_once(const struct server_process *s)
{
    struct client *clients[HANDLES];

    for (int i = 0; i < HANDLES; i++) {
        clients[i] = client_open(s);
        client_say(clients[i], "/delay/300");
    }
    for (int i = 0; i < HANDLES; i++) {
        ck_assert_str_eq(client_line(clients[i]), "echo: /delay/300");
        client_close(clients[i]);
    }
}

START_TEST(test_connections_that_come_and_go_leave_nothing)
{
    struct server_process *s = threadecho_start(upstream, "--max-fetches 8");

    come_and_go(s, 20);
    /* Until each has a connection. On a busy machine the first one is free
     * again before the last client asks. */
    int attempts = 0;
    do
        fetch_at_once(s);
    while (rogue_counts(upstream).open < HANDLES && ++attempts < 10);
    ck_assert_uint_eq(rogue_counts(upstream).open, HANDLES);
    server_closes_all(s);
    struct holding before = server_rests(s);
    long memory = server_status(s, "VmRSS");
    come_and_go(s, 80);
    server_recovers(s, before);
    if (!server_sanitized(s))
        ck_assert_int_le(server_status(s, "VmRSS") - memory, 1024);
    stop_drained(s);
}
END_TEST

START_TEST(test_long_lines_and_bodies_leave_no_memory_behind)
{
    enum { CLIENTS = 20, LEN = 60000 };
    struct server_process *s = threadecho_start(upstream, "--max-fetches 4");
    struct client *clients[CLIENTS];
    char *line = malloc(LEN + 1);

    ck_assert_ptr_nonnull(line);
    memset(line, 'x', LEN);
    line[LEN] = '\0';
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        ck_assert_str_eq(client_ask(clients[i], "hello"), "echo: hello");
    }
    long before = server_status(s, "VmRSS");
    for (int i = 0; i < CLIENTS; i++) {
        client_ask(clients[i], line);
        ck_assert_uint_eq(clients[i]->line_len, 6 + LEN);
        client_ask(clients[i], "/size/1000000");
        ck_assert_uint_eq(clients[i]->line_len, 6 + 1000000);
        ck_assert_str_eq(client_ask(clients[i], "next"), "echo: next");
    }
    /* Of 20 MB of bodies and 1.2 MB of lines, while all stay connected. */
    if (!server_sanitized(s))
        ck_assert_int_lt(server_status(s, "VmRSS") - before, 8 << 10);
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    free(line);
    stop_drained(s);
}
END_TEST

START_TEST(test_line_of_the_limit_is_served_and_one_more_byte_is_not)
{
    static const struct {
        const char *sent;
        const char *reply;
    } lines[] = {
        {"1234567890\n", "echo: 1234567890"},
        {"1234567890\r\n", "echo: 1234567890"},
        {"12345678901\n", "error: line too long"},
        {"12345678901\r\n", "error: line too long"},
        {"123456789012345678901234567890\n", "error: line too long"},
    };
    struct server_process *s = threadecho_start(upstream, "--max-line 10");
    struct client *c = client_open(s);

    for (int i = 0; i < 10; i++) {
        int n = i / 2;
        if (i % 2 == 0)
            client_send(c, lines[n].sent, strlen(lines[n].sent));
        else
            client_dribble(c, lines[n].sent, 1);
        ck_assert_str_eq(client_line(c), lines[n].reply);
        ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    }
    ck_assert_int_eq(server_counts(s, "error_line_too_long"), 6);
    client_close(c);
    stop_drained(s);
}
END_TEST

START_TEST(test_limits_of_a_start_with_few_descriptors_are_kept)
{
    struct client *clients[100];
    int count = 0;
    char url[ROGUE_URL_SIZE];

    rogue_url(upstream, "/text", url);
    struct server_process *s =
        server_start(NULL,
                     "sh -c 'ulimit -n 64 && exec %s --listen 127.0.0.1:0 "
                     "--upstream %s'",
                     threadecho(), url);
    /* As many as it logged, and a reason to each one more. */
    char *log = server_log(s);
    char *said = strstr(log, "at most ");
    ck_assert_ptr_nonnull(said);
    long most = strtol(said + 8, NULL, 10);
    free(log);
    ck_assert_int_ge(most, 8);
    ck_assert_int_lt(most, 64);
    while (count < most) {
        clients[count] = client_open(s);
        ck_assert_str_eq(client_ask(clients[count++], "hello"), "echo: hello");
    }
    for (int i = 0; i < 30; i++) {
        struct client *c = client_open(s);
        client_say(c, "hello");
        ck_assert_str_eq(client_line(c), "error: too many connections");
        client_close(c);
    }
    /* All at once they still find their upstream. */
    for (int i = 0; i < count; i++)
        client_say(clients[i], "/delay/20");
    for (int i = 0; i < count; i++)
        ck_assert_str_eq(client_line(clients[i]), "echo: /delay/20");
    ck_assert_int_eq(server_counts(s, "accept_errors"), 0);
    for (int i = 0; i < count; i++)
        client_close(clients[i]);
    stop_drained(s);
}
END_TEST

/* Each connection and each error is logged, and none of it can be. */
START_TEST(test_log_at_its_size_limit_stops_nothing)
{
    struct server_process *s = threadecho_start(NULL, "--echo --verbose");
    struct holding before = server_rests(s);
    rlim_t was = limit(s, RLIMIT_FSIZE, 0);
    char *log = server_log(s);

    for (int i = 0; i < 5; i++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        ck_assert_int_eq(kill(s->pid, SIGUSR1), 0);
        ck_assert_str_eq(client_ask(c, "again"), "echo: again");
        client_close(c);
    }
    server_recovers(s, before);
    char *later = server_log(s);
    ck_assert_str_eq(later, log);
    free(later);
    free(log);
    limit(s, RLIMIT_FSIZE, was);
    ck_assert_int_ge(server_counts(s, "requests"), 10);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_log_without_room_from_the_start_stops_nothing)
{
    if (own_sanitizer() != NULL) { /* whose run time makes a file */
        tell_skipped("a sanitizer ends without room for a file");
        return;
    }
    struct server_process *s =
        server_start(NULL,
                     "sh -c 'ulimit -f 0 && exec %s --echo --verbose "
                     "--listen 127.0.0.1:{port}'",
                     threadecho());
    struct client *c = client_open(s);

    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    stop_drained(s);
}
END_TEST

/* What the manual says: a connection takes one descriptor and a fetch three,
 * beside those that are reserved. Half of the room is for fetches, and 1,024
 * of these at most. */
static const struct {
    int descriptors;
    const char *options;
    const char *said;
} shares[] = {
    {13, "", "at most 1 connections and 1 fetches"},
    {16, "", "at most 2 connections and 1 fetches"},
    {64, "", "at most 23 connections and 7 fetches"},
    {64, "--max-fetches 1", "at most 41 connections and 1 fetches"},
    {64, "--max-connections 20", "at most 20 connections and 8 fetches"},
    {64, "--max-connections 41", "at most 41 connections and 1 fetches"},
    {64, "--echo", "at most 44 connections"},
    {512, "", "at most 204 connections and 68 fetches"},
    {1024, "", "at most 449 connections and 149 fetches"},
    {8192, "", "at most 4992 connections and 1024 fetches"},
    {8192, "--max-fetches 2000", "at most 2064 connections and 2000 fetches"},
};

START_TEST(test_descriptors_are_shared_out_to_the_last)
{
    if ((own_sanitizer() != NULL || threads_per_client() == 0) &&
        shares[_i].descriptors < 64) {
        tell_skipped("it needs descriptors of its own");
        return;
    }
    if (getdtablesize() < shares[_i].descriptors) {
        tell_skipped("the limit of descriptors is lower here");
        return;
    }
    /* The soft limit is raised. */
    struct server_process *s = server_start(
        NULL,
        "sh -c 'ulimit -n %d && ulimit -S -n 12 && exec %s "
        "--listen 127.0.0.1:0 --upstream http://127.0.0.1:%d/text %s'",
        shares[_i].descriptors, threadecho(), rogue_port(upstream),
        shares[_i].options);

    ck_assert_int_eq(server_logged(s, shares[_i].said), 1);
    ck_assert_int_eq(server_logged(s, "warning: "), 0);
    for (int i = 0; i < 3; i++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        leave(c);
    }
    stop_drained(s);
}
END_TEST

/* Returns how many pages of the server can't be touched at all, each between
 * others: below a stack it stops an overflow. */
static int guard_pages(const struct server_process *s)
{
    char path[64], line[512];
    int count = 0;

    snprintf(path, sizeof path, "/proc/%d/maps", (int)s->pid);
    FILE *file = fopen(path, "re");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL) { /* START-END RIGHTS ... */
        char *at;
        unsigned long start = strtoul(line, &at, 16);
        unsigned long end = *at == '-' ? strtoul(at + 1, &at, 16) : start;
        if (strncmp(at, " ---p ", 6) == 0 &&
            end - start == (unsigned long)sysconf(_SC_PAGESIZE))
            count++;
    }
    fclose(file);
    return count;
}

/* With one heap for all threads, only their stacks make a difference. */
START_TEST(test_stacks_have_the_size_that_was_asked_for)
{
    enum { CLIENTS = 8, SLACK_KIB = 2048 };
    static const long sizes[] = {64, 1024, 16384};
    struct client *clients[CLIENTS];
    struct server_process *s =
        server_start(NULL,
                     "env MALLOC_ARENA_MAX=1 %s --echo --listen 127.0.0.1:0 "
                     "--stack-size %ld",
                     threadecho(), sizes[_i]);

    if (!server_sanitized(s) && threads_per_client() > 0) {
        long before = server_status(s, "VmSize");
        int guards = guard_pages(s);
        for (int i = 0; i < CLIENTS; i++) {
            clients[i] = client_open(s);
            ck_assert_str_eq(client_ask(clients[i], "hello"), "echo: hello");
        }
        long more = server_status(s, "VmSize") - before;
        ck_assert_int_ge(more, CLIENTS * sizes[_i]);
        ck_assert_int_le(more, CLIENTS * sizes[_i] + SLACK_KIB);
        ck_assert_int_eq(guard_pages(s), guards + CLIENTS);
        for (int i = 0; i < CLIENTS; i++)
            client_close(clients[i]);
    }
    stop_drained(s);
}
END_TEST

START_TEST(test_descriptor_limit_that_is_too_low_is_named)
{
    struct command *run = command_run(
        "ulimit -n 12 && exec %s --echo --listen 127.0.0.1:0", threadecho());

    if (own_sanitizer() == NULL) /* else its run time may end it before */
        ck_assert_str_eq(run->err,
                         "threadecho: a descriptor limit of 12 is too low "
                         "(raise it with ulimit -n)\n");
    ck_assert_int_ne(run->status, 0);
    command_free(run);
}
END_TEST

static const struct {
    const char *options;
    const char *warning;
} warnings[] = {
    {"--max-connections 990", "threadecho: warning: 990 connections and 1 "
                              "fetches may need "},
    {"--max-connections 300 --max-fetches 300",
     "threadecho: warning: 300 connections and 300 fetches may need "},
    {"--echo --max-connections 1000000",
     "threadecho: warning: 1000000 connections and 0 fetches may need "},
};

START_TEST(test_limits_that_are_too_high_are_warned_of)
{
    struct server_process *s = server_start(
        NULL, "sh -c 'ulimit -n 1000 && exec %s --listen 127.0.0.1:0 %s'",
        threadecho(), warnings[_i].options);

    ck_assert_int_eq(server_logged(s, warnings[_i].warning), 1);
    ck_assert_int_eq(server_logged(s, "the limit is 1000 (raise it with "
                                      "ulimit -n)"),
                     1);
    stop_drained(s);
}
END_TEST

/* Address space for 50 threads of the largest stack, and no more. */
START_TEST(test_limit_of_threads_is_named_and_kept)
{
    if (own_sanitizer() != NULL) { /* which maps far more */
        tell_skipped("a sanitizer needs its address space");
        return;
    }
    struct server_process *s =
        server_start(NULL,
                     "sh -c 'ulimit -v 52428800 && exec %s --echo "
                     "--listen 127.0.0.1:0 --stack-size 1048576'",
                     threadecho());
    ck_assert_int_eq(server_logged(s, "at most 50 connections"), 1);
    ck_assert_int_eq(server_logged(s, "warning"), 0);
    stop_drained(s);

    s = server_start(NULL,
                     "sh -c 'ulimit -v 52428800 && exec %s --echo "
                     "--listen 127.0.0.1:0 --stack-size 1048576 "
                     "--max-connections 51'",
                     threadecho());
    ck_assert_int_eq(server_logged(s, "warning: the limit of address space is "
                                      "53687091200, which leaves room for 50 "
                                      "of 51 connections (raise it with "
                                      "ulimit -v)"),
                     1);
    stop_drained(s);
}
END_TEST

/* As systemd has it: the limit is not at the root of the control groups, but
 * where the service is, or around that. */
static const struct {
    const char *group; /* a line of /proc/self/cgroup */
    const char *own;
    const char *around;
} groups[] = {
    {"0::/a.slice/b.service", "52", "60"},
    {"0::/a.slice/b.service", "60", "52"},
    {"0::/a.slice/b.service", "max", "52"},
    {"0::/a.slice", "1", "52"},
};

/* Returns whether files of the kernel can be feigned to a server; else says
 * that they can't. */
static bool can_feign(void)
{
    struct command *run =
        command_run("unshare --mount mount -t tmpfs none /sys/fs/cgroup");
    int status = run->status;

    command_free(run);
    if (status != 0)
        tell_skipped("no files of the kernel can be feigned");
    return status == 0;
}

START_TEST(test_limit_of_threads_of_a_control_group_is_kept)
{
    if (!can_feign())
        return;
    struct server_process *s = server_start(
        NULL,
        "unshare --mount sh -c 'mount -t tmpfs none /sys/fs/cgroup && "
        "mkdir -p /sys/fs/cgroup/a.slice/b.service && "
        "echo %s >/sys/fs/cgroup/a.slice/b.service/pids.max && "
        "echo %s >/sys/fs/cgroup/a.slice/pids.max && "
        "echo %s >/sys/fs/cgroup/group && "
        "mount --bind /sys/fs/cgroup/group /proc/$$/cgroup && "
        "exec %s --echo --listen 127.0.0.1:0'",
        groups[_i].own, groups[_i].around, groups[_i].group, threadecho());
    ck_assert_int_eq(server_logged(s, "at most 50 connections"), 1);
    stop_drained(s);
}
END_TEST

/* Other programs leave fewer threads than the address space has room for.
 * Where they have more than kernel.pid_max allows, that is of a PID namespace.
 */
static const struct {
    const char *load; /* the command that makes what will be /proc/loadavg */
    const char *named;
} crowds[] = {
    {"echo 0.00 0.00 0.00 1/32700 1 >load", "kernel.pid_max, 32768"},
    {"echo 0.00 0.00 0.00 1/40000 1 >load", "the limit of address space"},
    {"echo 0.00 0.00 0.00 >load", "the limit of address space"},
    {"mknod load c 4095 4095", "the limit of address space"}, /* no such */
};

START_TEST(test_threads_of_others_count_when_a_thread_fails)
{
    char named[100];

    if (!can_feign())
        return;
    struct server_process *s = server_start(
        NULL,
        "unshare --mount sh -c 'mount -t tmpfs none /sys/fs/cgroup && "
        "(cd /sys/fs/cgroup && echo 32768 >max && %s) && "
        "mount --bind /sys/fs/cgroup/max /proc/sys/kernel/pid_max && "
        "mount --bind /sys/fs/cgroup/load /proc/loadavg && "
        "exec %s --echo --listen 127.0.0.1:0'",
        crowds[_i].load, threadecho());
    snprintf(named, sizeof named, "the tightest limit is %s",
             crowds[_i].named);
    if (server_sanitized(s)) { /* whose own memory would be missing first */
        server_free(s);
        return;
    }
    limit(s, RLIMIT_AS, (rlim_t)server_status(s, "VmSize") << 10);
    struct client *c = client_open(s);
    ck_assert_str_eq(client_line(c), "error: cannot start a thread");
    client_close(c);
    ck_assert_int_eq(server_logged(s, named), 1);
    stop_drained(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("limits");
    TCase *tcase = add_case(suite, "limits");

    tcase_add_test(tcase, test_connections_over_the_limit_get_a_reason);
    tcase_add_test(tcase, test_place_of_a_client_that_left_is_free_at_once);
    tcase_add_test(tcase, test_rejected_client_reads_why_whatever_it_has_sent);
    tcase_add_test(tcase, test_crowd_of_rejected_clients_reads_why);
    tcase_add_test(tcase, test_rejected_clients_may_close_in_any_order);
    tcase_add_test(tcase, test_running_out_of_descriptors_pauses_accepting);
    tcase_add_test(tcase, test_fetch_without_a_descriptor_is_an_error);
    tcase_add_test(tcase, test_client_without_a_thread_gets_a_reason);
    tcase_add_test(tcase, test_idle_connection_costs_one_descriptor);
    tcase_add_test(tcase, test_connections_that_come_and_go_leave_nothing);
    tcase_add_test(tcase, test_long_lines_and_bodies_leave_no_memory_behind);
    tcase_add_test(tcase,
                   test_line_of_the_limit_is_served_and_one_more_byte_is_not);
    tcase_add_test(tcase,
                   test_limits_of_a_start_with_few_descriptors_are_kept);
    tcase_add_test(tcase, test_log_at_its_size_limit_stops_nothing);
    tcase_add_test(tcase, test_log_without_room_from_the_start_stops_nothing);

    TCase *start = add_case(suite, "start");
    tcase_add_loop_test(start, test_descriptors_are_shared_out_to_the_last, 0,
                        sizeof shares / sizeof shares[0]);
    tcase_add_loop_test(start, test_stacks_have_the_size_that_was_asked_for, 0,
                        3);
    tcase_add_test(start, test_descriptor_limit_that_is_too_low_is_named);
    tcase_add_loop_test(start, test_limits_that_are_too_high_are_warned_of, 0,
                        sizeof warnings / sizeof warnings[0]);
    tcase_add_test(start, test_limit_of_threads_is_named_and_kept);
    tcase_add_loop_test(start,
                        test_limit_of_threads_of_a_control_group_is_kept, 0,
                        sizeof groups / sizeof groups[0]);
    tcase_add_loop_test(start,
                        test_threads_of_others_count_when_a_thread_fails, 0,
                        sizeof crowds / sizeof crowds[0]);
    return run_suite(suite) == 0 ? 0 : 1;
}
