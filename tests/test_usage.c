/*
 * What threadecho says before it serves: help, versions, bad usage (exit 2,
 * the option and its range named), and why it cannot run (exit 1).
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SCHED_BATCH, SCHED_IDLE */
#include "command.h"
#include "harness.h"

#include <dirent.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Fails the test unless it ends so and says all three things on stderr. */
static void check_refusal(const char *arguments, int status, const char *first,
                          const char *second)
{
    struct command *run = command_run("%s %s", threadecho(), arguments);
    ck_assert_msg(run->status == status, "%s: exit status %d, %s", arguments,
                  run->status, run->err);
    ck_assert_msg(strstr(run->err, first) != NULL &&
                      strstr(run->err, second) != NULL,
                  "%s: expected '%s' and '%s', got '%s'", arguments, first,
                  second, run->err);
    ck_assert_msg(run->out[0] == '\0', "%s: says '%s'", arguments, run->out);
    command_free(run);
}

/* Under a sanitizer it must be the instrumented program that all suites run,
 * and in a plain build the plain one. */
START_TEST(test_program_has_the_sanitizer_of_its_tests)
{
    struct server_process *s = threadecho_start(NULL, "--echo");
    const char *own = own_sanitizer();
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/exe", (int)s->pid);
    ck_assert_pstr_eq(sanitizer_of(path), own);
    ck_assert(server_sanitized(s) == (own != NULL));
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

static const struct {
    const char *name;
    const char *range;
    const char *below; /* the range, if anything is */
    const char *above;
} numbers[] = {
    {"--timeout", "0.001 to 86400", "0", "86401"},
    {"--connect-timeout", "0.001 to 86400", "0.0001", "86400.001"},
    {"--line-timeout", "0.001 to 86400", "0", "1000000"},
    {"--idle-timeout", "0 to 86400", "-0.001", "86401"},
    {"--max-connections", "1 to 1000000", "0", "1000001"},
    {"--max-fetches", "1 to 100000", "0", "100001"},
    {"--max-line", "1 to 1048576", "0", "1048577"},
    {"--max-body", "1 to 1073741824", "0", "1073741825"},
    {"--stack-size", "64 to 1048576", "63", "1048577"},
};

START_TEST(test_bad_number_is_refused_with_its_range)
{
    static const char *const junk[] = {
        "",
        "x",
        " ",
        "-1",
        "+1",
        "1x",
        "100x",
        "1 ",
        " 1",
        "0x10",
        "1e2",
        "1.2.3",
        ".",
        "nan",
        "inf",
        "--",
        "1,5",
        "99999999999999999999",
        "-9223372036854775809",
    };
    const char *name = numbers[_i].name;
    char arguments[128];

    for (size_t i = 0; i < COUNT(junk); i++) {
        snprintf(arguments, sizeof arguments, "%s '%s'", name, junk[i]);
        check_refusal(arguments, 2, name, numbers[_i].range);
    }
    snprintf(arguments, sizeof arguments, "%s %s", name, numbers[_i].below);
    check_refusal(arguments, 2, name, numbers[_i].range);
    snprintf(arguments, sizeof arguments, "%s=%s", name, numbers[_i].above);
    check_refusal(arguments, 2, name, numbers[_i].range);
    snprintf(arguments, sizeof arguments, "%s", name);
    check_refusal(arguments, 2, name, "requires an argument");
}
END_TEST

START_TEST(test_counts_have_no_decimals)
{
    static const char *const names[] = {"--max-connections", "--max-fetches",
                                        "--max-line", "--max-body"};
    char arguments[64];
    for (size_t i = 0; i < COUNT(names); i++) {
        snprintf(arguments, sizeof arguments, "%s 2.5", names[i]);
        check_refusal(arguments, 2, names[i], "1 to ");
    }
}
END_TEST

static const struct {
    const char *arguments;
    int status;
    const char *says;
    const char *says_too;
} refusals[] = {
    {"--nonsense", 2, "--nonsense", "--help"},
    {"-x", 2, "'x'", "--help"},
    {"--max", 2, "--max", "--help"},
    {"--echo=yes", 2, "--echo", "--help"},
    {"stray", 2, "stray", "--help"},
    {"--echo --verbose stray", 2, "stray", "--help"},
    {"-l", 2, "'l'", "--help"},
    {"--listen ''", 2, "--listen", "HOST:PORT"},
    {"--listen 8080", 2, "--listen", "HOST:PORT"},
    {"--listen localhost", 2, "--listen", "HOST:PORT"},
    {"--listen 127.0.0.1:", 2, "--listen", "HOST:PORT"},
    {"--listen 127.0.0.1:x", 2, "--listen", "HOST:PORT"},
    {"--listen 127.0.0.1:80x", 2, "--listen", "HOST:PORT"},
    {"--listen 127.0.0.1:-1", 2, "--listen", "HOST:PORT"},
    {"--listen 127.0.0.1:65536", 2, "--listen", "65535"},
    {"--listen 127.0.0.1:99999999999", 2, "--listen", "65535"},
    {"--listen ::1:80", 2, "--listen", "HOST:PORT"},
    {"--listen [::1]80", 2, "--listen", "HOST:PORT"},
    {"--listen [::1", 2, "--listen", "HOST:PORT"},
    {"--upstream ''", 2, "--upstream", ""},
    {"--upstream http://", 2, "--upstream", "http://"},
    {"--upstream ftp://127.0.0.1/", 2, "--upstream", "neither http:// nor"},
    {"--upstream file:///etc/passwd", 2, "--upstream", "neither http:// nor"},
    {"--upstream 'http://a b/'", 2, "--upstream", "http://a b/"},
    {"--upstream http://127.0.0.1:99999/", 2, "--upstream", ":99999"},
    {"--listen no-such-host.invalid:80", 1, "no-such-host.invalid:80", ""},
    {"--listen 192.0.2.1:80", 1, "192.0.2.1:80", ""},
    {"--listen 127.0.0.1:0 --cacert /no/such/file", 1, "--cacert",
     "/no/such/file"},
    /* A line break must not forge a line of the log. */
    {"--listen 127.0.0.1:0 --cacert '/no\nfile'", 1, "--cacert", "/no?file"},
    {"--listen 'no\nhost:80'", 1, "no?host:80", ""},
};

START_TEST(test_refusal_names_its_reason)
{
    check_refusal(refusals[_i].arguments, refusals[_i].status,
                  refusals[_i].says, refusals[_i].says_too);
}
END_TEST

START_TEST(test_port_that_is_taken_is_named)
{
    int port;
    int held = hold_port(&port);
    char arguments[64];
    char address[32];

    snprintf(address, sizeof address, "127.0.0.1:%d", port);
    snprintf(arguments, sizeof arguments, "--echo --listen %s", address);
    ck_assert_int_eq(listen(held, 1), 0);
    check_refusal(arguments, 1, address, "Address already in use");
    close(held);
}
END_TEST

START_TEST(test_second_server_does_not_share_the_port)
{
    struct server_process *s = threadecho_start(NULL, "--echo");
    char arguments[64];
    char address[32];

    snprintf(address, sizeof address, "127.0.0.1:%s", s->port);
    snprintf(arguments, sizeof arguments, "--echo --listen %s", address);
    check_refusal(arguments, 1, address, "Address already in use");
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

START_TEST(test_port_can_be_taken_again_at_once)
{
    int port = free_port();

    for (int i = 0; i < 3; i++) {
        struct server_process *s = server_start(
            NULL, "%s --echo --listen 127.0.0.1:%d", threadecho(), port);
        struct client *c = client_open(s);
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
        /* It closes first, and so keeps the port in TIME_WAIT. */
        ck_assert_int_eq(server_stop(s), 0);
        client_close(c);
        server_free(s);
    }
}
END_TEST

static const char *const hosts[] = {"[::1]", "localhost", "", "0.0.0.0"};

START_TEST(test_listens_on_each_kind_of_host)
{
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 loopback = {.sin6_family = AF_INET6,
                                    .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool ipv6 = fd >= 0 &&
                bind(fd, (struct sockaddr *)&loopback, sizeof loopback) == 0;
    if (fd >= 0)
        close(fd);
    if (hosts[_i][0] == '[' && !ipv6)
        return;
    struct server_process *s =
        server_start(NULL, "%s -e -l '%s:0'", threadecho(), hosts[_i]);
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

START_TEST(test_help_lists_every_option)
{
    static const char *const options[] = {
        "-l, --listen",   "-u, --upstream", "-e, --echo",
        "--no-keepalive", "--timeout",      "--connect-timeout",
        "--line-timeout", "--idle-timeout", "--max-connections",
        "--max-fetches",  "--max-line",     "--max-body",
        "--stack-size",   "--cacert",       "-v, --verbose",
        "-h, --help",     "-V, --version",
    };
    static const char *const asks[] = {"--help", "-h"};

    for (size_t ask = 0; ask < COUNT(asks); ask++) {
        struct command *run = command_run("%s %s", threadecho(), asks[ask]);
        ck_assert_int_eq(run->status, 0);
        ck_assert_str_eq(run->err, "");
        for (size_t i = 0; i < COUNT(options); i++)
            ck_assert_ptr_nonnull(strstr(run->out, options[i]));
        command_free(run);
    }
}
END_TEST

START_TEST(test_version_names_the_library_too)
{
    static const char *const asks[] = {"--version", "-V"};

    for (size_t ask = 0; ask < COUNT(asks); ask++) {
        struct command *run = command_run("%s %s", threadecho(), asks[ask]);
        ck_assert_int_eq(run->status, 0);
        ck_assert_str_eq(run->err, "");
        ck_assert_int_eq(strncmp(run->out, "threadecho ", 11), 0);
        ck_assert_ptr_nonnull(strstr(run->out, "libcurl/"));
        command_free(run);
    }
}
END_TEST

START_TEST(test_help_that_cannot_be_written_is_a_failure)
{
    struct command *run = command_run("%s --help >/dev/full", threadecho());
    ck_assert_int_eq(run->status, 1);
    command_free(run);
}
END_TEST

static const char *const closings[] = {"<&-", ">&-", "2>&-", "<&- >&- 2>&-"};

/* What takes the number of a closed one must be nothing of the server's own,
 * as long as it runs. */
START_TEST(test_closed_standard_streams_harm_nobody)
{
    struct server_process *s =
        server_start(NULL, "%s --echo --listen 127.0.0.1:{port} %s",
                     threadecho(), closings[_i]);
    struct client *c = client_open(s);

    for (int fd = 0; fd <= STDERR_FILENO; fd++) {
        char path[64], target[64] = "";
        snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)s->pid, fd);
        ck_assert_int_gt(readlink(path, target, sizeof target - 1), 0);
        ck_assert_msg(target[0] == '/', "descriptor %d: %s", fd, target);
    }
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    /* A log line must not be sent to whoever has descriptor 2 now. */
    ck_assert_int_eq(kill(s->pid, SIGUSR1), 0);
    let_pass(50);
    ck_assert_str_eq(client_ask(c, "again"), "echo: again");
    client_close(c);
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

/* The policy that it is started with, and the one that its threads have. */
static const int policies[][2] = {
    {SCHED_OTHER, SCHED_BATCH},
    {SCHED_BATCH, SCHED_BATCH},
    {SCHED_IDLE, SCHED_IDLE}, /* somebody's choice, which is kept */
};

START_TEST(test_threads_have_their_scheduling)
{
    const struct sched_param none = {.sched_priority = 0};
    struct dirent *task;
    char path[64];
    int count = 0;

    ck_assert_int_eq(sched_setscheduler(0, policies[_i][0], &none), 0);
    struct server_process *s = threadecho_start(NULL, "--echo");
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    snprintf(path, sizeof path, "/proc/%d/task", (int)s->pid);
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    while ((task = readdir(dir)) != NULL) {
        if (task->d_name[0] == '.')
            continue;
        pid_t tid = (pid_t)strtol(task->d_name, NULL, 10);
        if (own_sanitizer() == NULL) /* else it may have started one before */
            ck_assert_int_eq(sched_getscheduler(tid), policies[_i][1]);
        count++;
    }
    closedir(dir);
    /* main, signals, the connection */
    ck_assert_int_ge(count, 1 + 2 * threads_per_client());
    client_close(c);
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

START_TEST(test_long_log_line_is_cut)
{
    struct server_process *s = threadecho_start(
        NULL, "--upstream http://127.0.0.1:1/$(printf %%3000s | tr ' ' x)");
    char *log = server_log(s);

    ck_assert_uint_gt(strlen(log), 2000);
    ck_assert_uint_le(strlen(log), 2048);
    ck_assert_str_eq(log + strlen(log) - 2, "x\n");
    ck_assert_int_eq(server_stop(s), 0);
    ck_assert_int_eq(server_logged(s, "x\nthreadecho: connections=0 "), 1);
    free(log);
    server_free(s);
}
END_TEST

START_TEST(test_verbose_logs_connections_and_errors_and_nothing_secret)
{
    struct server_process *s =
        threadecho_start(NULL, "--echo -v --max-line 20");
    struct client *c = client_open(s);

    ck_assert_str_eq(client_ask(c, "password"), "echo: password");
    ck_assert_str_eq(client_ask(c, "this is a line that is too long"),
                     "error: line too long");
    client_close(c);
    ck_assert_int_eq(server_stop(s), 0);
    ck_assert_int_eq(server_logged(s, "connected"), 1);
    ck_assert_int_eq(server_logged(s, "line 2: line too long"), 1);
    ck_assert_int_eq(server_logged(s, "closed after 2 lines"), 1);
    ck_assert_int_eq(server_logged(s, "password"), 0);
    server_free(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("usage");
    TCase *usage = tcase_create("usage");
    TCase *starting = tcase_create("starting");

    tcase_set_timeout(usage, TEST_TIMEOUT);
    tcase_add_loop_test(usage, test_bad_number_is_refused_with_its_range, 0,
                        COUNT(numbers));
    tcase_add_test(usage, test_counts_have_no_decimals);
    tcase_add_loop_test(usage, test_refusal_names_its_reason, 0,
                        COUNT(refusals));
    tcase_add_test(usage, test_help_lists_every_option);
    tcase_add_test(usage, test_version_names_the_library_too);
    tcase_add_test(usage, test_help_that_cannot_be_written_is_a_failure);
    suite_add_tcase(suite, usage);

    tcase_set_timeout(starting, TEST_TIMEOUT);
    tcase_add_test(starting, test_program_has_the_sanitizer_of_its_tests);
    tcase_add_test(starting, test_port_that_is_taken_is_named);
    tcase_add_test(starting, test_second_server_does_not_share_the_port);
    tcase_add_test(starting, test_port_can_be_taken_again_at_once);
    tcase_add_loop_test(starting, test_listens_on_each_kind_of_host, 0,
                        COUNT(hosts));
    tcase_add_loop_test(starting, test_closed_standard_streams_harm_nobody, 0,
                        COUNT(closings));
    tcase_add_loop_test(starting, test_threads_have_their_scheduling, 0,
                        COUNT(policies));
    tcase_add_test(starting, test_long_log_line_is_cut);
    tcase_add_test(
        starting, test_verbose_logs_connections_and_errors_and_nothing_secret);
    suite_add_tcase(suite, starting);
    return run_suite(suite) == 0 ? 0 : 1;
}
