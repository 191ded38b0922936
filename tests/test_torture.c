/*
 * Lets calls of threadecho fail, each in turn, by a preloaded shim. Whatever
 * fails while it runs, a line gets one reply or its connection ends, and the
 * next is served. What fails at the start is named, and the exit status is 1.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memfd_create */
#include "command.h"
#include "fixture.h"
#include "shim.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct shim *shim;
static int shim_file;
static bool skipped; /* a sanitizer has a malloc of its own */

static void set_up(void)
{
    struct server_process *s = threadecho_start(NULL, "--echo");
    skipped = server_sanitized(s);
    server_free(s);

    start_upstream();
    shim_file = memfd_create("shim", 0);
    ck_assert_int_ge(shim_file, 0);
    ck_assert_int_eq(ftruncate(shim_file, sizeof *shim), 0);
    shim = mmap(NULL, sizeof *shim, PROT_READ | PROT_WRITE, MAP_SHARED,
                shim_file, 0);
    ck_assert_ptr_ne(shim, MAP_FAILED);
}

static void tear_down(void)
{
    munmap(shim, sizeof *shim);
    close(shim_file);
    stop_upstream();
}

/* Starts threadecho with the shim; it fetches from the rogue by this name. */
static struct server_process *start(const char *host, const char *options)
{
    return server_start(NULL,
                        "env LD_PRELOAD=%s SHIM=/proc/%d/fd/%d %s "
                        "--listen 127.0.0.1:0 --upstream http://%s:%d/text "
                        "--max-fetches 1 %s",
                        kit_program("tests/shim.so"), (int)getpid(), shim_file,
                        threadecho(), host, rogue_port(upstream), options);
}

/* From now on this many calls succeed, then this many fail. */
static void arm(enum shim_call call, int error, long after, long count)
{
    atomic_store(&shim->call, SHIM_NONE);
    atomic_store(&shim->error, error);
    atomic_store(&shim->after, after);
    atomic_store(&shim->count, count);
    atomic_store(&shim->seen, 0);
    atomic_store(&shim->failed, 0);
    atomic_store(&shim->call, (int)call);
}

/* From now on all calls succeed. Returns how many have failed. */
static long disarm(void)
{
    atomic_store(&shim->call, SHIM_NONE);
    return atomic_load(&shim->failed);
}

/* Waits until this many calls have failed: a client may hear of it before. */
static void await_failed(long calls)
{
    long long deadline = now_ms() + PATIENCE_MS;
    while (atomic_load(&shim->failed) < calls) {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(2);
    }
}

/* A reply to "hello" must be right, or an error. */
static void check_reply(const char *reply, long n)
{
    ck_assert_msg(strcmp(reply, "echo: hello") == 0 ||
                      strncmp(reply, "error: ", 7) == 0,
                  "with call %ld failing: '%.200s'", n, reply);
}

/* How many fail at a time: one, or all from there on. */
static const long counts[] = {1, LONG_MAX};

START_TEST(test_each_allocation_of_a_warm_request_fails_in_turn)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);

    for (long n = 0;; n++) {
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        arm(SHIM_ALLOC, ENOMEM, n, counts[_i]);
        check_reply(client_ask(c, "hello"), n);
        if (disarm() == 0) {
            ck_assert_int_ge(n, 1); /* or the shim is not there */
            break;
        }
    }
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

static const char *const sources[] = {"", "--echo"};

START_TEST(test_each_allocation_of_a_long_request_fails_in_turn)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", sources[_i % 2]);
    struct holding before = server_rests(s);
    struct client *c = client_open(s);
    char line[20001];

    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    for (long n = 0;; n++) {
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        arm(SHIM_ALLOC, ENOMEM, n, counts[_i / 2]);
        const char *reply = client_ask(c, line);
        ck_assert_msg((strncmp(reply, "echo: ", 6) == 0 &&
                       strcmp(reply + 6, line) == 0) ||
                          strncmp(reply, "error: ", 7) == 0,
                      "with allocation %ld failing: '%.200s'", n, reply);
        if (disarm() == 0)
            break;
    }
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

/* Cold: the first request of a server, from accepting its client on. */
START_TEST(test_each_allocation_of_a_cold_request_fails_in_turn)
{
    for (long n = 0; !skipped; n++) {
        struct server_process *s = start("127.0.0.1", "");
        arm(SHIM_ALLOC, ENOMEM, n, counts[_i]);
        struct client *c = client_open(s);
        check_reply(client_ask(c, "hello"), n);
        long failed = disarm();
        client_close(c);
        server_rests(s); /* serving, which it does to find out */
        server_free(s);
        if (failed == 0)
            break;
    }
}
END_TEST

START_TEST(test_out_of_memory_is_the_reason_that_the_client_gets)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);

    arm(SHIM_ALLOC, ENOMEM, 0, LONG_MAX);
    for (int i = 0; i < 3; i++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_line(c), "error: out of memory");
        ck_assert_str_eq(client_line(c), "<end>");
        client_close(c);
    }
    disarm();
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    arm(SHIM_ALLOC, ENOMEM, 0, LONG_MAX);
    ck_assert_str_eq(client_ask(c, "hello"), "error: out of memory");
    disarm();
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    ck_assert_int_eq(server_counts(s, "error_out_of_memory"), 1);
    ck_assert_int_eq(server_counts(s, "rejected"), 3);
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

static const struct {
    int error;
    long count;
    bool counted;
    bool pauses; /* 100 ms, and says so in the log */
} accept_errors[] = {
    {EINTR, 20, false, false},       {EAGAIN, 20, false, false},
    {ECONNABORTED, 50, true, false}, {EPROTO, 50, true, false},
    {ENETDOWN, 50, true, false},     {EHOSTUNREACH, 50, true, false},
    {EMFILE, 4, true, true},         {ENFILE, 4, true, true},
    {ENOBUFS, 4, true, true},        {ENOMEM, 4, true, true},
};

START_TEST(test_accepting_goes_on_after_an_error)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);
    long count = accept_errors[_i].count;
    bool pauses = accept_errors[_i].pauses;

    arm(SHIM_ACCEPT4, accept_errors[_i].error, 0, count);
    long long start_ms = now_ms();
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    long long took = now_ms() - start_ms;
    ck_assert_int_eq(disarm(), count);
    if (pauses)
        ck_assert_int_ge(took, 100 * (count - 1));
    else
        ck_assert_int_lt(took, 50 * 50); /* half of what pauses would take */
    ck_assert_int_eq(server_counts(s, "accept_errors"),
                     accept_errors[_i].counted ? count : 0);
    ck_assert_int_eq(server_logged(s, "cannot accept"), pauses ? 1 : 0);
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_threads_that_do_not_start_are_reported_and_counted)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);

    arm(SHIM_PTHREAD_CREATE, EAGAIN, 0, 100);
    for (int i = 0; i < 100; i++) {
        struct client *c = client_open(s);
        client_say(c, "hello");
        ck_assert_str_eq(client_line(c), "error: cannot start a thread");
        ck_assert_str_eq(client_line(c), "<end>");
        client_close(c);
    }
    ck_assert_int_eq(disarm(), 100);
    ck_assert_int_eq(server_counts(s, "thread_errors"), 100);
    ck_assert_int_eq(server_counts(s, "rejected"), 100);
    ck_assert_int_le(server_logged(s, "cannot start thread"), 2);
    stop_recovered(s, before);
}
END_TEST

/* Lets threads fail until this many clients have their reason. */
static void lack_threads(const struct server_process *s, int clients)
{
    arm(SHIM_PTHREAD_CREATE, EAGAIN, 0, clients);
    for (int i = 0; i < clients; i++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_line(c), "error: cannot start a thread");
        client_close(c);
    }
    ck_assert_int_eq(disarm(), clients);
}

/* A connection whose thread did not start was listed for a moment. */
START_TEST(test_connection_without_a_thread_leaves_no_trace)
{
    enum { CLIENTS = 5, LACKING = 4000 };
    struct client *clients[CLIENTS];
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(s);
        ck_assert_str_eq(client_ask(clients[i], "hello"), "echo: hello");
    }
    ck_assert_int_eq(server_counts(s, "peak_threads"), CLIENTS);
    lack_threads(s, 100);
    ck_assert_int_eq(server_counts(s, "peak_threads"), CLIENTS);
    long memory = server_status(s, "VmRSS");
    lack_threads(s, LACKING); /* a KiB and more each, if kept */
    ck_assert_int_lt(server_status(s, "VmRSS") - memory, LACKING / 4);
    ck_assert_int_eq(server_counts(s, "peak_threads"), CLIENTS);
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
    ck_assert_int_eq(server_counts(s, "thread_errors"), 100 + LACKING);
    stop_recovered(s, before);
}
END_TEST

/* What is allocated for a connection before its thread starts. */
START_TEST(test_each_allocation_of_a_connection_fails_in_turn)
{
    enum { ALLOCATIONS = 3 }; /* the connection, its line and its reply */
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);

    for (long n = 0; n < ALLOCATIONS; n++) {
        arm(SHIM_ALLOC, ENOMEM, n, 1);
        struct client *c = client_open(s);
        ck_assert_str_eq(client_line(c), "error: out of memory");
        ck_assert_str_eq(client_line(c), "<end>");
        ck_assert_int_eq(disarm(), 1);
        client_close(c);
        server_recovers(s, before);
    }
    ck_assert_int_eq(server_counts(s, "rejected"), ALLOCATIONS);
    ck_assert_int_eq(server_counts(s, "errors"), 0);
    stop_drained(s);
}
END_TEST

/* Memory to wait for its close may be short; its reason needs none. */
START_TEST(test_rejected_client_gets_a_reason_though_it_cannot_linger)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "--max-connections 1");
    struct holding before = server_rests(s);
    struct client *served = client_open(s);

    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    arm(SHIM_EPOLL_CTL, ENOMEM, 0, LONG_MAX);
    for (int i = 0; i < 10; i++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_line(c), "error: too many connections");
        ck_assert_str_eq(client_line(c), "<end>");
        client_close(c);
    }
    await_failed(10);
    ck_assert_int_eq(disarm(), 10);
    client_finish(served);
    ck_assert_str_eq(client_line(served), "<end>");
    client_close(served);
    stop_recovered(s, before);
}
END_TEST

static const struct {
    int error;
    bool pauses;
} poll_errors[] = {{EINTR, false}, {ENOMEM, true}, {EINVAL, true}};

START_TEST(test_accepting_goes_on_after_poll_has_failed)
{
    enum { FAILURES = 4 };
    bool pauses = poll_errors[_i].pauses;
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);

    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    arm(SHIM_POLL, poll_errors[_i].error, 0, FAILURES);
    client_close(client_open(s)); /* ends the poll that waits already */
    long long start_ms = now_ms();
    struct client *later = client_open(s);
    ck_assert_str_eq(client_ask(c, "while it fails"), "echo: while it fails");
    ck_assert_str_eq(client_ask(later, "hello"), "echo: hello");
    long long took = now_ms() - start_ms;
    ck_assert_int_eq(disarm(), FAILURES);
    if (pauses)
        ck_assert_int_ge(took, 100 * (FAILURES - 1));
    ck_assert_int_eq(server_logged(s, "cannot accept: "), pauses ? 1 : 0);
    ck_assert_int_eq(server_counts(s, "accept_errors"), 0);
    client_close(later);
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

/* Starts it with --echo and the shim armed, for a command_run. */
static struct command *run_armed(void)
{
    return command_start("exec env LD_PRELOAD=%s SHIM=/proc/%d/fd/%d %s "
                         "--echo --listen 127.0.0.1:0",
                         kit_program("tests/shim.so"), (int)getpid(),
                         shim_file, threadecho());
}

static const struct {
    enum shim_call call;
    int error;
    const char *says;
} start_errors[] = {
    {SHIM_PTHREAD_CREATE, EAGAIN, "cannot start: "},
    {SHIM_PIPE2, EMFILE, "cannot start: "},
    {SHIM_EPOLL_CREATE1, ENFILE, "cannot start: "},
    {SHIM_SOCKET, EMFILE, "cannot listen on 127.0.0.1:0: "},
    {SHIM_SETRLIMIT, EPERM, "cannot raise the descriptor limit: "},
};

START_TEST(test_what_fails_at_the_start_is_named)
{
    char expected[128];
    if (skipped)
        return;

    snprintf(expected, sizeof expected, "threadecho: %s%s\n",
             start_errors[_i].says, strerror(start_errors[_i].error));
    arm(start_errors[_i].call, start_errors[_i].error, 0, 1);
    struct command *run = run_armed();
    command_wait(run);
    ck_assert_int_eq(disarm(), 1);
    ck_assert_str_eq(run->err, expected);
    ck_assert_int_eq(run->status, 1);
    command_free(run);
}
END_TEST

START_TEST(test_serves_with_another_scheduling_than_it_wants)
{
    if (skipped)
        return;
    arm(SHIM_SCHED_SETSCHEDULER, EPERM, 0, 1);
    struct server_process *s = start("127.0.0.1", "");
    ck_assert_int_eq(disarm(), 1);
    ck_assert_int_eq(server_logged(s, "threadecho: warning: cannot set "
                                      "SCHED_BATCH: "),
                     1);
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    stop_drained(s);
}
END_TEST

/* Either it starts all the same, or it says why not. */
START_TEST(test_each_allocation_of_a_start_fails_in_turn)
{
    int refusals = 0;

    for (long n = 0; !skipped; n++) {
        arm(SHIM_ALLOC, ENOMEM, n, 1);
        struct command *run = run_armed();
        command_says(run, "threadecho: ");
        long failed = disarm();
        if (failed == 0)
            command_says(run, "listening on ");
        if (run->pid > 0) /* it blocks the signal before it says a word */
            ck_assert_int_eq(kill(run->pid, SIGTERM), 0);
        command_wait(run);
        bool started = strstr(run->err, "listening on ") != NULL;
        ck_assert_msg(started ? run->status == 0
                              : run->status == 1 || run->status == 2,
                      "with allocation %ld failing: status %d, %s", n,
                      run->status, run->err);
        refusals += !started;
        command_free(run);
        if (failed == 0)
            break;
    }
    ck_assert(skipped || refusals > 0);
}
END_TEST

static const int name_errors[] = {EAI_NONAME, EAI_AGAIN, EAI_FAIL, EAI_MEMORY};

START_TEST(test_names_that_do_not_resolve_may_do_so_later)
{
    if (skipped)
        return;
    struct server_process *s = start("upstream.test", "--no-keepalive");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);

    for (int i = 0; i < 3; i++) {
        let_pass(5);
        arm(SHIM_GETADDRINFO, name_errors[_i], 0, LONG_MAX);
        const char *reply = client_ask(c, "hello");
        if (disarm() > 0) /* else libcurl knew the address still */
            ck_assert_str_eq(reply, "error: upstream not found");
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    }
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

START_TEST(test_name_is_an_error_while_its_thread_cannot_be_had)
{
    if (skipped)
        return;
    struct server_process *s = start("upstream.test", "");
    struct client *c = client_open(s);

    /* libcurl resolves in a thread of its own; this server's is there. */
    client_send(c, "h", 1);
    while (server_counts(s, "peak_threads") == 0)
        let_pass(2);
    arm(SHIM_PTHREAD_CREATE, EAGAIN, 0, LONG_MAX);
    client_say(c, "ello");
    check_reply(client_line(c), 0);
    disarm();
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    stop_drained(s);
}
END_TEST

/* Where it has no memory for that thread, libcurl 7.88 closes descriptor 0. */
START_TEST(test_each_allocation_of_a_lookup_fails_in_turn)
{
    if (skipped)
        return;
    struct server_process *s = start("upstream.test", "--no-keepalive");
    struct holding before = server_rests(s);

    for (long n = 0;; n++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        arm(SHIM_ALLOC, ENOMEM, n, counts[_i]);
        check_reply(client_ask(c, "hello"), n);
        long failed = disarm();
        client_close(c);
        server_recovers(s, before);
        if (failed == 0)
            break;
    }
    stop_drained(s);
}
END_TEST

/* libcurl does not use a connection again whose other end it can't name. */
START_TEST(test_connections_of_unknown_upstreams_do_not_pile_up)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);

    ck_assert_str_eq(client_ask(c, "/close"), "echo: /close");
    arm(SHIM_GETPEERNAME, ENOTCONN, 0, LONG_MAX);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    ck_assert_int_gt(disarm(), 0);
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

/* The thread that waits for the name is libcurl's, and ends when it likes. */
START_TEST(test_end_does_not_wait_for_a_name)
{
    if (skipped)
        return;
    struct server_process *s = start("upstream.test", "--timeout 0.3");
    struct client *c = client_open(s);

    arm(SHIM_GETADDRINFO, SHIM_LATE, 0, 1);
    ck_assert_str_eq(client_ask(c, "hello"), "error: upstream timed out");
    ck_assert_int_eq(disarm(), 1);
    client_close(c);
    long long start_ms = now_ms();
    stop_drained(s);
    ck_assert_int_lt(now_ms() - start_ms, SHIM_LATE_SECONDS * 1000 / 2);
}
END_TEST

START_TEST(test_empty_host_is_ipv4_where_there_is_no_ipv6)
{
    if (skipped)
        return;
    arm(SHIM_SOCKET, EAFNOSUPPORT, 0, 1);
    struct server_process *s = start("127.0.0.1", "--listen :0");
    ck_assert_int_eq(disarm(), 1);
    ck_assert_int_eq(server_logged(s, "listening on 0.0.0.0:"), 1);
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    stop_drained(s);
}
END_TEST

/* Of sockets both the client's and the upstream's. */
static const struct {
    enum shim_call call;
    int error;
} socket_errors[] = {
    {SHIM_SEND, EINTR},         {SHIM_SEND, ECONNRESET},
    {SHIM_SEND, EPIPE},         {SHIM_SEND, ENOBUFS},
    {SHIM_SEND, SHIM_ONE_BYTE}, {SHIM_RECV, EINTR},
    {SHIM_RECV, ECONNRESET},    {SHIM_RECV, ETIMEDOUT},
    {SHIM_RECV, SHIM_ONE_BYTE},
};

START_TEST(test_each_send_and_recv_of_a_request_fails_in_turn)
{
    enum shim_call call = socket_errors[_i].call;
    int error = socket_errors[_i].error;
    bool harmless = error == EINTR || error == SHIM_ONE_BYTE;
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);

    for (long n = 0;; n++) {
        struct client *c = client_open(s);
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        arm(call, error, n, 1);
        client_say(c, "hello");
        client_finish(c);
        const char *reply = client_line(c);
        if (harmless)
            ck_assert_str_eq(reply, "echo: hello");
        else if (strcmp(reply, "<end>") != 0 && strcmp(reply, "<reset>") != 0)
            check_reply(reply, n);
        client_close(c);
        if (disarm() == 0)
            break;
        server_recovers(s, before);
    }
    stop_drained(s);
}
END_TEST

static const enum shim_call byte_calls[] = {SHIM_SEND, SHIM_RECV};

START_TEST(test_one_byte_at_a_time_is_enough)
{
    if (skipped)
        return;
    struct server_process *s = start("127.0.0.1", "");
    struct holding before = server_rests(s);
    struct client *c = client_open(s);

    arm(byte_calls[_i], SHIM_ONE_BYTE, 0, LONG_MAX);
    ck_assert_str_eq(client_ask(c, "hello\nworld"), "echo: hello");
    ck_assert_str_eq(client_line(c), "echo: world");
    ck_assert_str_eq(client_ask(c, "/chunked"), "echo: /chunked");
    ck_assert_str_eq(client_ask(c, "/status/404"),
                     "error: upstream returned 404");
    ck_assert_int_gt(disarm(), 40);
    client_close(c);
    stop_recovered(s, before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("torture");

    TCase *memory = add_case_with(suite, "memory", set_up, tear_down);
    tcase_add_loop_test(memory,
                        test_each_allocation_of_a_warm_request_fails_in_turn,
                        0, COUNT(counts));
    tcase_add_loop_test(memory,
                        test_each_allocation_of_a_long_request_fails_in_turn,
                        0, COUNT(counts) * COUNT(sources));
    tcase_add_loop_test(memory,
                        test_each_allocation_of_a_cold_request_fails_in_turn,
                        0, COUNT(counts));
    tcase_add_test(memory,
                   test_out_of_memory_is_the_reason_that_the_client_gets);
    tcase_add_test(memory, test_each_allocation_of_a_connection_fails_in_turn);
    tcase_add_test(memory,
                   test_rejected_client_gets_a_reason_though_it_cannot_linger);

    TCase *threads = add_case_with(suite, "threads", set_up, tear_down);
    tcase_add_loop_test(threads, test_accepting_goes_on_after_an_error, 0,
                        COUNT(accept_errors));
    tcase_add_test(threads,
                   test_threads_that_do_not_start_are_reported_and_counted);
    tcase_add_test(threads,
                   test_name_is_an_error_while_its_thread_cannot_be_had);

    tcase_add_test(threads, test_connection_without_a_thread_leaves_no_trace);
    tcase_add_loop_test(threads, test_accepting_goes_on_after_poll_has_failed,
                        0, COUNT(poll_errors));

    TCase *starting = add_case_with(suite, "start", set_up, tear_down);
    tcase_add_loop_test(starting, test_what_fails_at_the_start_is_named, 0,
                        COUNT(start_errors));
    tcase_add_test(starting,
                   test_serves_with_another_scheduling_than_it_wants);
    tcase_add_test(starting, test_each_allocation_of_a_start_fails_in_turn);

    TCase *network = add_case_with(suite, "network", set_up, tear_down);
    tcase_add_loop_test(network,
                        test_names_that_do_not_resolve_may_do_so_later, 0,
                        COUNT(name_errors));
    tcase_add_loop_test(network,
                        test_each_send_and_recv_of_a_request_fails_in_turn, 0,
                        COUNT(socket_errors));
    tcase_add_loop_test(network,
                        test_each_allocation_of_a_lookup_fails_in_turn, 0,
                        COUNT(counts));
    tcase_add_test(network,
                   test_connections_of_unknown_upstreams_do_not_pile_up);
    tcase_add_test(network, test_end_does_not_wait_for_a_name);
    tcase_add_test(network, test_empty_host_is_ipv4_where_there_is_no_ipv6);
    tcase_add_loop_test(network, test_one_byte_at_a_time_is_enough, 0,
                        COUNT(byte_calls));
    return run_suite(suite) == 0 ? 0 : 1;
}
