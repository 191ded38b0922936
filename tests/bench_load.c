/*
 * The load generator: which failure it names for each fault of a server. The
 * servers are scripts in this process, so the test knows the fault.
 *
 * SPDX-License-Identifier: MIT
 */
#include "command.h"
#include "harness.h"

#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX_TEXT (64 * 1024) /* bytes of a line, with a NUL */
#define WITH_KEY " --key-file /dev/stdin <<E\n" KEY "E\n"
#define KEY "0123456789abcdef\n"
#define MEASURED_MS 100 /* measured time of the tests that have one */

/*
 * Scripted servers: each is a function in a thread. It handles the connections
 * one after the other and blocks, for a bounded time.
 */

struct scripted_server {
    int listener;
    int port;
    pthread_t thread;
    atomic_int count; /* input or output of the script */
};

/* Waits for a connection and returns it. */
static int next_client(const struct scripted_server *script)
{
    struct pollfd ready = {.fd = script->listener, .events = POLLIN};
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    ck_assert_int_eq(poll(&ready, 1, PATIENCE_MS), 1);
    int fd = accept(script->listener, NULL, NULL);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience),
        0);
    return fd;
}

/* Reads a line without its LF. Returns false at the end of the connection. */
static bool hear(int fd, char line[MAX_TEXT])
{
    size_t len = 0;
    while (len < MAX_TEXT - 1) {
        /* Peek first: nothing after the line may be taken. */
        ssize_t there = recv(fd, line + len, MAX_TEXT - 1 - len, MSG_PEEK);
        if (there <= 0)
            return false;
        const char *end = memchr(line + len, '\n', (size_t)there);
        size_t take =
            end == NULL ? (size_t)there : (size_t)(end - (line + len)) + 1;
        ck_assert_int_eq(recv(fd, line + len, take, 0), (ssize_t)take);
        len += take;
        if (end != NULL) {
            line[len - 1] = '\0';
            return true;
        }
    }
    return false;
}

/* Sends len bytes. The test notices if the client is gone. */
static void say_bytes(int fd, const char *bytes, size_t len)
{
    (void)!send(fd, bytes, len, MSG_NOSIGNAL);
}

static void say(int fd, const char *text)
{
    say_bytes(fd, text, strlen(text));
}

/* Sends the right reply to line. */
static void echo(int fd, const char *line)
{
    char reply[sizeof "echo: " + MAX_TEXT] = "echo: ";
    size_t start = strlen(reply);
    size_t len = strnlen(line, MAX_TEXT - 1);
    memcpy(reply + start, line, len);
    reply[start + len] = '\n';
    say_bytes(fd, reply, start + len + 1);
}

/* Replies with the line, and the mark that the upstream has for the text. */
static void echo_marked(int fd, const char *line, const char *text)
{
    unsigned char digest[16];
    char mark[2 * sizeof digest + 1];
    char reply[MAX_TEXT];
    ck_assert_int_eq(
        crypto_generichash(digest, sizeof digest, (const unsigned char *)text,
                           strlen(text), (const unsigned char *)KEY,
                           strlen(KEY)),
        0);
    (void)sodium_bin2hex(mark, sizeof mark, digest, sizeof digest);
    ck_assert_int_lt(snprintf(reply, sizeof reply, "%s %.16s", line, mark),
                     MAX_TEXT);
    echo(fd, reply);
}

/* Answers all further lines, and closes when the client does. */
static void echo_the_rest(int fd)
{
    char line[MAX_TEXT];
    while (hear(fd, line))
        echo(fd, line);
    close(fd);
}

/* Answers count lines. */
static void echo_some(int fd, int count)
{
    char line[MAX_TEXT];
    while (count-- > 0 && hear(fd, line))
        echo(fd, line);
}

static void start_script(struct scripted_server *script, void *(*run)(void *))
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    script->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(script->listener, 0);
    ck_assert_int_eq(
        bind(script->listener, (struct sockaddr *)&address, sizeof address),
        0);
    ck_assert_int_eq(listen(script->listener, 128), 0);
    ck_assert_int_eq(
        getsockname(script->listener, (struct sockaddr *)&address, &len), 0);
    script->port = ntohs(address.sin_port);
    ck_assert_int_eq(pthread_create(&script->thread, NULL, run, script), 0);
}

static void end_script(struct scripted_server *script)
{
    ck_assert_int_eq(pthread_join(script->thread, NULL), 0);
    close(script->listener);
}

/*
 * The output of load
 */

/* A line of the file that --samples names. */
struct sample_line {
    double start_s;
    double latency_us;
    int connection;
    bool measured;
};

/* Reads a file of samples. Returns their number. */
static int read_samples(FILE *file, struct sample_line *samples, int max)
{
    char text[256];
    int count = 0;
    ck_assert_ptr_nonnull(fgets(text, sizeof text, file));
    ck_assert_str_eq(text, "# start_s latency_us connection measured\n");
    while (fgets(text, sizeof text, file) != NULL) {
        char *end = NULL;
        ck_assert_int_lt(count, max);
        struct sample_line *sample = &samples[count++];
        sample->start_s = strtod(text, &end);
        sample->latency_us = strtod(end, &end);
        sample->connection = (int)strtol(end, &end, 10);
        long measured = strtol(end, &end, 10);
        ck_assert(measured == 0 || measured == 1);
        sample->measured = measured == 1;
        ck_assert_int_eq(*end, '\n');
    }
    return count;
}

/* Returns the number after "key": in JSON. Fails the test if there is none. */
static double figure(const char *json, const char *key)
{
    char name[64];
    (void)snprintf(name, sizeof name, "\"%s\": ", key);
    const char *at = strstr(json, name);
    ck_assert_msg(at != NULL, "no %s in\n%s", key, json);
    char *end = NULL;
    double number = strtod(at + strlen(name), &end);
    ck_assert_ptr_ne(end, at + strlen(name));
    return number;
}

/* In the order of the JSON and of --help. */
static const char *const failure_names[] = {
    "wrong",   "unmarked",     "prefix",  "mixed_up", "reordered",  "dropped",
    "surplus", "closed_early", "timeout", "connect",  "not_closed", "unsent",
};

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

/* Checks that all failure counts are 0 but the named one, if any. */
static void check_failures(const struct command *load, const char *name,
                           int count)
{
    for (int i = 0; i < COUNT(failure_names); i++) {
        bool named = name != NULL && strcmp(failure_names[i], name) == 0;
        int want = named ? count : 0;
        ck_assert_msg((int)figure(load->out, failure_names[i]) == want,
                      "not %d %s but\n%s%s", want, failure_names[i], load->out,
                      load->err);
    }
    bool right = name == NULL && figure(load->out, "error_replies") <= 0;
    ck_assert_ptr_nonnull(
        strstr(load->out, right ? "\"right\": true" : "\"right\": false"));
    ck_assert_int_eq(load->status, right ? 0 : 1);
}

/* Runs load against a port, with JSON on its standard output. */
static struct command *run_load(int port, const char *options)
{
    return command_run("%s --connect 127.0.0.1:%d --json - %s",
                       kit_program("load"), port, options);
}

/* Runs load against a script. */
static struct command *run_against(void *(*run)(void *), const char *options)
{
    struct scripted_server script = {0};
    start_script(&script, run);
    struct command *load = run_load(script.port, options);
    end_script(&script);
    return load;
}

/*
 * Servers with a fault
 */

static void *serve_right(void *arg)
{
    echo_the_rest(next_client(arg));
    return NULL;
}

static void *answer_another_text(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    if (hear(fd, line))
        say(fd, "echo: something else\n");
    echo_the_rest(fd);
    return NULL;
}

static void *change_a_byte(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    if (hear(fd, line)) {
        line[strlen(line) - 1]++;
        echo(fd, line);
    }
    echo_the_rest(fd);
    return NULL;
}

static void *add_a_byte(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    if (hear(fd, line)) {
        (void)strncat(line, "x", 2);
        echo(fd, line);
    }
    echo_the_rest(fd);
    return NULL;
}

static void *keep_the_return(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    if (hear(fd, line)) {
        (void)strncat(line, "\r", 2);
        echo(fd, line);
    }
    echo_the_rest(fd);
    return NULL;
}

static void *answer_a_prefix(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    if (hear(fd, line)) {
        line[strlen(line) - 1] = '\0';
        echo(fd, line);
    }
    if (hear(fd, line))
        say(fd, "\n");
    echo_the_rest(fd);
    return NULL;
}

static void *swap_connections(void *arg)
{
    char one[MAX_TEXT];
    char other[MAX_TEXT];
    int a = next_client(arg);
    int b = next_client(arg);
    if (hear(a, one) && hear(b, other)) {
        echo(a, other);
        echo(b, one);
    }
    echo_the_rest(a);
    echo_the_rest(b);
    return NULL;
}

static void *swap_lines(void *arg)
{
    char one[MAX_TEXT];
    char other[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    if (hear(fd, one) && hear(fd, other)) {
        echo(fd, other);
        echo(fd, one);
    }
    echo_the_rest(fd);
    return NULL;
}

static void *drop_a_line(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    (void)hear(fd, line);
    echo_the_rest(fd);
    return NULL;
}

static void *answer_twice(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    if (hear(fd, line)) {
        echo(fd, line);
        echo(fd, line);
    }
    echo_the_rest(fd);
    return NULL;
}

static void *add_a_line_at_the_end(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, line))
        echo(fd, line);
    say(fd, "echo: one more\n");
    close(fd);
    return NULL;
}

static void *add_half_a_line_at_the_end(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, line))
        echo(fd, line);
    say(fd, "echo: half");
    close(fd);
    return NULL;
}

static void *close_early(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    (void)hear(fd, line);
    close(fd);
    return NULL;
}

static void *close_in_mid_reply(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    if (hear(fd, line))
        say(fd, "echo: ");
    close(fd);
    return NULL;
}

static void *reset(void *arg)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    (void)hear(fd, line);
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
    return NULL;
}

static void *fall_silent(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    bool more = true;
    while (more)
        more = hear(fd, line);
    close(fd);
    return NULL;
}

/* Sends a reply that never ends, slowly, while the client is there. */
static void *trickle(void *arg)
{
    char byte[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    (void)hear(fd, byte);
    say(fd, "echo: ");
    while (send(fd, "x", 1, MSG_NOSIGNAL) == 1)
        let_pass(5);
    close(fd);
    return NULL;
}

/* Sends a reply that never ends, as fast as it can. */
static void *flood(void *arg)
{
    static char noise[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 2);
    memset(noise, 'x', sizeof noise);
    ssize_t sent = 1;
    while (sent > 0)
        sent = send(fd, noise, sizeof noise, MSG_NOSIGNAL);
    close(fd);
    return NULL;
}

static void *stay_open(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, line))
        echo(fd, line);
    /* The end of this test closes it. */
    return NULL;
}

static void *close_while_idle(void *arg)
{
    close(next_client(arg));
    return NULL;
}

/*
 * Servers that have, or do not have, the upstream's mark for a line
 */

static void *fetch_each(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, line))
        echo_marked(fd, line, line);
    close(fd);
    return NULL;
}

static void *fetch_every_second(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    for (int i = 0; hear(fd, line); i++)
        if (i % 2 == 0)
            echo_marked(fd, line, line);
        else
            echo(fd, line);
    close(fd);
    return NULL;
}

static void *guess_the_mark(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, line)) {
        (void)strncat(line, " 0123456789abcdef", 18);
        echo(fd, line);
    }
    close(fd);
    return NULL;
}

/* Fetches the first line and has its mark for all. */
static void *fetch_once(void *arg)
{
    char line[MAX_TEXT];
    char first[MAX_TEXT] = "";
    int fd = next_client(arg);
    while (hear(fd, line)) {
        if (first[0] == '\0')
            memcpy(first, line, strlen(line) + 1);
        echo_marked(fd, line, first);
    }
    close(fd);
    return NULL;
}

static void *fetch_a_shortened_text(void *arg)
{
    char line[MAX_TEXT];
    char text[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, line)) {
        memcpy(text, line, strlen(line) + 1);
        text[strlen(text) - 1] = '\0';
        echo_marked(fd, line, text);
    }
    close(fd);
    return NULL;
}

static void *cut_the_mark(void *arg)
{
    char line[MAX_TEXT];
    char reply[MAX_TEXT];
    int fds[2];
    int fd = next_client(arg);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    while (hear(fd, line)) {
        echo_marked(fds[0], line, line);
        ck_assert(hear(fds[1], reply));
        reply[strlen(reply) - 1] = '\n';
        say(fd, reply);
    }
    close(fds[0]);
    close(fds[1]);
    close(fd);
    return NULL;
}

static void *swap_marked_lines(void *arg)
{
    char one[MAX_TEXT];
    char other[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, one) && hear(fd, other)) {
        echo_marked(fd, other, other);
        echo_marked(fd, one, one);
    }
    close(fd);
    return NULL;
}

static void *swap_marked_connections(void *arg)
{
    char one[MAX_TEXT];
    char other[MAX_TEXT];
    int a = next_client(arg);
    int b = next_client(arg);
    if (hear(a, one) && hear(b, other)) {
        echo_marked(a, other, other);
        echo_marked(b, one, one);
    }
    echo_the_rest(a);
    echo_the_rest(b);
    return NULL;
}

/* Changes a line into the one that follows it: the next number, and each
 * letter the next of the alphabet, as they are without a key. */
static void predict(char *line)
{
    for (char *digit = line + 15; ++*digit > '9'; digit--)
        *digit = '0';
    for (char *letter = line + 16; *letter != '\0'; letter++)
        if (++*letter > 'z')
            *letter = 'a';
}

/* Has fetched each line but the first before it was sent. */
static void serve_ahead(int fd, bool marked)
{
    char line[MAX_TEXT];
    char text[MAX_TEXT] = "";
    while (hear(fd, line)) {
        if (text[0] == '\0')
            memcpy(text, line, strlen(line) + 1);
        if (marked)
            echo_marked(fd, text, text);
        else
            echo(fd, text);
        predict(text);
    }
    close(fd);
}

static void *fetch_ahead(void *arg)
{
    serve_ahead(next_client(arg), false);
    return NULL;
}

static void *fetch_ahead_marked(void *arg)
{
    serve_ahead(next_client(arg), true);
    return NULL;
}

/* Answers line 1 along with line 0, in one packet, before it was sent. */
static void *answer_ahead(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    int corked = 1;
    ck_assert_int_eq(
        setsockopt(fd, IPPROTO_TCP, TCP_CORK, &corked, sizeof corked), 0);
    if (hear(fd, line)) {
        echo_marked(fd, line, line);
        predict(line);
        echo_marked(fd, line, line);
    }
    corked = 0;
    ck_assert_int_eq(
        setsockopt(fd, IPPROTO_TCP, TCP_CORK, &corked, sizeof corked), 0);
    while (hear(fd, line))
        echo_marked(fd, line, line);
    close(fd);
    return NULL;
}

static const struct faulty_server {
    void *(*run)(void *);
    const char *options;
    const char *failure;
    int count;
    int right;
} faulty_servers[] = {
    {serve_right, "-n 20", NULL, 0, 20},
    {serve_right, "-n 20 --lines-in-flight 7", NULL, 0, 20},
    {answer_another_text, "-n 10", "wrong", 1, 9},
    {answer_another_text, "-n 10 --lines-in-flight 4", "wrong", 1, 9},
    {change_a_byte, "-n 10", "wrong", 1, 9},
    {change_a_byte, "-n 10 --line-size 5000", "wrong", 1, 9},
    {add_a_byte, "-n 10", "wrong", 1, 9},
    {keep_the_return, "-n 10", "wrong", 1, 9},
    {answer_a_prefix, "-n 10", "prefix", 2, 8},
    {answer_a_prefix, "-n 10 --lines-in-flight 10", "prefix", 2, 8},
    {swap_connections, "-c 2 -n 2", "mixed_up", 2, 0},
    {swap_lines, "-n 10 --lines-in-flight 4", "reordered", 1, 9},
    {swap_lines, "-n 4 --lines-in-flight 2", "reordered", 1, 3},
    {drop_a_line, "-n 5 --lines-in-flight 5 --timeout 0.3", "dropped", 1, 4},
    {drop_a_line, "-n 3 --timeout 0.3", "timeout", 1, 2},
    {answer_twice, "-n 10", "surplus", 1, 10},
    {answer_twice, "-n 3", "surplus", 1, 3},
    {answer_twice, "-n 10 --lines-in-flight 4", "surplus", 1, 10},
    {add_a_line_at_the_end, "-n 4", "surplus", 1, 4},
    {add_half_a_line_at_the_end, "-n 4", "surplus", 1, 4},
    {close_early, "-n 3", "closed_early", 1, 2},
    {close_early, "-n 6 --lines-in-flight 6", "closed_early", 4, 2},
    {close_in_mid_reply, "-n 3", "closed_early", 1, 2},
    {reset, "-n 3", "closed_early", 1, 2},
    {fall_silent, "-n 3 --timeout 0.3", "timeout", 1, 2},
    {fall_silent, "-n 5 --timeout 0.3 --lines-in-flight 3", "timeout", 3, 2},
    {trickle, "-n 3 --timeout 0.3", "timeout", 1, 2},
    {flood, "-n 3 --timeout 0.3", "timeout", 1, 2},
    {stay_open, "-n 3 --timeout 0.3", "not_closed", 1, 3},
    {fetch_each, "-n 20" WITH_KEY, NULL, 0, 20},
    {fetch_each, "-n 20 --lines-in-flight 7" WITH_KEY, NULL, 0, 20},
    {fetch_each, "-n 20 --line-size 16" WITH_KEY, NULL, 0, 20},
    {fetch_each, "-n 20 --line-size 20" WITH_KEY, NULL, 0, 20},
    {fetch_each, "-n 20 --line-size 40000" WITH_KEY, NULL, 0, 20},
    {serve_right, "-n 20" WITH_KEY, "unmarked", 20, 0},
    {serve_right, "-n 20 --line-size 16" WITH_KEY, "unmarked", 20, 0},
    {serve_right, "-n 20 --lines-in-flight 7" WITH_KEY, "unmarked", 20, 0},
    {fetch_every_second, "-n 20" WITH_KEY, "unmarked", 10, 10},
    {guess_the_mark, "-n 20" WITH_KEY, "unmarked", 20, 0},
    {fetch_once, "-n 20" WITH_KEY, "unmarked", 19, 1},
    {fetch_a_shortened_text, "-n 20" WITH_KEY, "unmarked", 20, 0},
    {cut_the_mark, "-n 20" WITH_KEY, "prefix", 20, 0},
    {swap_marked_lines, "-n 10 --lines-in-flight 2" WITH_KEY, "reordered", 5,
     5},
    {swap_marked_connections, "-c 2 -n 2" WITH_KEY, "mixed_up", 2, 0},
    {fetch_ahead, "-n 20", NULL, 0, 20},
    {fetch_ahead_marked, "-n 20" WITH_KEY, "wrong", 19, 1},
    {answer_ahead, "-n 5" WITH_KEY, "surplus", 1, 5},
};

START_TEST(test_fault_is_named)
{
    const struct faulty_server *faulty = &faulty_servers[_i];
    struct command *load = run_against(faulty->run, faulty->options);
    check_failures(load, faulty->failure, faulty->count);
    ck_assert_int_eq((int)figure(load->out, "right_replies"), faulty->right);
    ck_assert_int_eq((int)figure(load->out, "requests"), faulty->right);
    command_free(load);
}
END_TEST

/* The test, --help and the figures name the same classes. */
START_TEST(test_classes_are_the_same_everywhere)
{
    struct command *help = command_run("%s --help", kit_program("load"));
    const char *in_help = strstr(help->out, "reason of an error reply:\n\n");
    ck_assert_ptr_nonnull(in_help);
    in_help = strstr(in_help, "\n\n") + 2;
    struct command *load = run_against(serve_right, "-n 1");
    const char *in_json = strstr(load->out, "\"failures\": {");
    ck_assert_ptr_nonnull(in_json);
    in_json = strchr(in_json, '{') + 1;

    for (int i = 0; i < COUNT(failure_names); i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "  %s ", failure_names[i]);
        ck_assert_msg(strncmp(in_help, text, strlen(text)) == 0,
                      "no %s before\n%s", failure_names[i], in_help);
        in_help = strchr(in_help, '\n') + 1;
        (void)snprintf(text, sizeof text, "%s\"%s\": 0", i > 0 ? ", " : "",
                       failure_names[i]);
        ck_assert_msg(strncmp(in_json, text, strlen(text)) == 0,
                      "no %s before\n%s", failure_names[i], in_json);
        in_json += strlen(text);
    }
    ck_assert_int_eq(*in_help, '\n');
    ck_assert_int_eq(*in_json, '}');
    command_free(help);
    command_free(load);
}
END_TEST

/* Lines that can no longer be sent are counted. */
START_TEST(test_lines_left_unsent_are_counted)
{
    struct command *load = run_against(close_early, "-n 10");
    ck_assert_int_eq(load->status, 1);
    ck_assert_int_eq((int)figure(load->out, "closed_early"), 1);
    ck_assert_int_eq((int)figure(load->out, "unsent"), 7);
    command_free(load);
}
END_TEST

/* Closes one of two connections: the other one takes over its lines. */
static void *lose_one_of_two(void *arg)
{
    close(next_client(arg));
    echo_the_rest(next_client(arg));
    return NULL;
}

START_TEST(test_other_connections_go_on)
{
    struct command *load = run_against(lose_one_of_two, "-c 2 -n 50");
    ck_assert_int_eq(load->status, 1);
    ck_assert_int_eq((int)figure(load->out, "closed_early"), 1);
    ck_assert_int_ge((int)figure(load->out, "right_replies"), 49);
    ck_assert_int_eq((int)figure(load->out, "unsent"), 0);
    command_free(load);
}
END_TEST

START_TEST(test_early_close_of_all_ends_the_run)
{
    struct command *load = run_against(close_while_idle, "-d 60");
    check_failures(load, "closed_early", 1);
    command_free(load);
}
END_TEST

static void *answer_errors(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    (void)hear(fd, line);
    say(fd, "error: upstream returned 404\n");
    (void)hear(fd, line);
    say(fd, "error: a \"quote\" \\ \x01\xff\n");
    (void)hear(fd, line);
    say(fd, "error: upstream returned 404\n");
    echo_the_rest(fd);
    return NULL;
}

START_TEST(test_error_replies_are_counted_by_reason)
{
    struct command *load = run_against(answer_errors, "-n 10");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "error_replies"), 3);
    ck_assert_int_eq((int)figure(load->out, "upstream returned 404"), 2);
    ck_assert_int_eq(
        (int)figure(load->out, "a \\\"quote\\\" \\\\ \\u0001\\u00ff"), 1);
    ck_assert_int_eq((int)figure(load->out, "replies"), 10);
    ck_assert_int_eq((int)figure(load->out, "right_replies"), 7);
    command_free(load);
}
END_TEST

static void *answer_many_errors(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    for (int i = 0; hear(fd, line); i++) {
        (void)snprintf(line, sizeof line, "error: reason %d\n", i % 50);
        say(fd, line);
    }
    close(fd);
    return NULL;
}

START_TEST(test_reasons_without_end_are_summed_up)
{
    struct command *load = run_against(answer_many_errors, "-n 100");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "error_replies"), 100);
    ck_assert_int_eq((int)figure(load->out, "reason 0"), 2);
    ck_assert_int_eq((int)figure(load->out, "other reasons"), 100 - 31 * 2);
    command_free(load);
}
END_TEST

/* A full server says so at once, and closes. */
static void *reject_client(void *arg)
{
    int fd = next_client(arg);
    say(fd, "error: too many connections\n");
    (void)shutdown(fd, SHUT_WR);
    echo_the_rest(fd);
    return NULL;
}

START_TEST(test_rejected_connection_is_reported)
{
    struct command *load = run_against(reject_client, "-n 1");
    ck_assert_int_eq(load->status, 1);
    ck_assert_int_eq((int)figure(load->out, "too many connections"), 1);
    command_free(load);
}
END_TEST

START_TEST(test_refused_connections_are_counted)
{
    int port = 0;
    int held = hold_port(&port);
    struct command *load = run_load(port, "-c 3 -n 5");
    ck_assert_int_eq(load->status, 1);
    ck_assert_int_eq((int)figure(load->out, "connect"), 3);
    ck_assert_int_eq((int)figure(load->out, "unsent"), 5);
    ck_assert_ptr_nonnull(strstr(load->err, strerror(ECONNREFUSED)));
    command_free(load);
    close(held);
}
END_TEST

START_TEST(test_connection_never_answered_times_out)
{
    int port = 0;
    int deaf = deaf_port(&port);
    struct command *load = run_load(port, "-c 2 -d 1 --timeout 0.3");
    ck_assert_int_eq(load->status, 1);
    ck_assert_int_ge((int)figure(load->out, "connect"), 1);
    ck_assert_ptr_nonnull(strstr(load->err, strerror(ETIMEDOUT)));
    command_free(load);
    close(deaf);
}
END_TEST

#define PER_SOURCE 14000
#define MORE 10 /* that come from the next address */

/* Closes each connection. Counts those of the first and of the next source
 * address, the latter times a million. */
static void *count_sources(void *arg)
{
    struct scripted_server *script = arg;
    for (int i = 0; i < PER_SOURCE + MORE; i++) {
        struct sockaddr_in source;
        socklen_t len = sizeof source;
        int fd = accept(script->listener, (struct sockaddr *)&source, &len);
        if (fd < 0)
            return NULL;
        uint32_t host = ntohl(source.sin_addr.s_addr);
        if (host == INADDR_LOOPBACK)
            script->count++;
        else if (host == INADDR_LOOPBACK + 1)
            script->count += 1000000;
        close(fd);
    }
    return NULL;
}

START_TEST(test_ports_of_one_address_are_not_used_up)
{
    char options[32];
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < PER_SOURCE + 100) {
        tell_skipped("a second source address takes more descriptors");
        return;
    }
    struct scripted_server script = {0};
    start_script(&script, count_sources);
    (void)snprintf(options, sizeof options, "-c %d", PER_SOURCE + MORE);
    struct command *load = run_load(script.port, options);
    end_script(&script);
    ck_assert_int_eq((int)figure(load->out, "connected"), PER_SOURCE + MORE);
    ck_assert_int_eq(script.count, PER_SOURCE + MORE * 1000000);
    command_free(load);
}
END_TEST

/*
 * The lines
 */

static void *check_lines(void *arg)
{
    struct scripted_server *script = arg;
    char line[MAX_TEXT];
    char last[MAX_TEXT] = "";
    int fd = next_client(script);
    while (hear(fd, line)) {
        ck_assert_uint_eq(strlen(line), (size_t)script->count);
        ck_assert_str_ne(line, last);
        memcpy(last, line, strlen(line) + 1);
        echo(fd, line);
    }
    close(fd);
    return NULL;
}

START_TEST(test_lines_have_the_size_asked_for)
{
    static const int sizes[] = {16, 17, 32, 4096, 60000};
    struct scripted_server script = {.count = sizes[_i]};
    char options[64];
    (void)snprintf(options, sizeof options, "-n 20 --line-size %d", sizes[_i]);
    start_script(&script, check_lines);
    struct command *load = run_load(script.port, options);
    end_script(&script);
    check_failures(load, NULL, 0);
    command_free(load);
}
END_TEST

/* Answers once exactly eight lines are there. */
static void *await_eight_lines(void *arg)
{
    enum { LINES = 8 };
    char lines[LINES][MAX_TEXT];
    int fd = next_client(arg);
    for (int i = 0; i < LINES; i++)
        ck_assert(hear(fd, lines[i]));
    struct pollfd more = {.fd = fd, .events = POLLIN};
    ck_assert_int_eq(poll(&more, 1, 50), 0);
    for (int i = 0; i < LINES; i++)
        echo(fd, lines[i]);
    echo_the_rest(fd);
    return NULL;
}

START_TEST(test_lines_in_flight_are_as_many_as_asked_for)
{
    struct command *load =
        run_against(await_eight_lines, "-n 20 --lines-in-flight 8");
    check_failures(load, NULL, 0);
    command_free(load);
}
END_TEST

/* Reads nothing until the lines of the client have filled every buffer. */
static void *read_late(void *arg)
{
    int fd = next_client(arg);
    let_pass(300);
    echo_the_rest(fd);
    return NULL;
}

START_TEST(test_lines_that_do_not_fit_wait)
{
    struct command *load = run_against(
        read_late, "-n 600 --line-size 60000 --lines-in-flight 300");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "right_replies"), 600);
    command_free(load);
}
END_TEST

static void *repeat_lines(void *arg)
{
    struct scripted_server *script = arg;
    char line[MAX_TEXT];
    char reply[MAX_TEXT];
    int fd = next_client(script);
    while (hear(fd, line)) {
        size_t len = strlen(line);
        size_t size = (size_t)script->count;
        for (size_t i = 0; i < size; i++)
            reply[i] = line[i % len];
        reply[size] = '\0';
        echo(fd, reply);
    }
    close(fd);
    return NULL;
}

START_TEST(test_replies_of_another_size_are_checked)
{
    static const int sizes[] = {0, 5, 20, 33, 40000};
    struct scripted_server script = {.count = sizes[_i]};
    char options[64];
    (void)snprintf(options, sizeof options, "-n 20 --reply-size %d",
                   sizes[_i]);
    start_script(&script, repeat_lines);
    struct command *load = run_load(script.port, options);
    end_script(&script);
    check_failures(load, NULL, 0);
    command_free(load);

    /* One byte less is a prefix. */
    struct scripted_server shorter = {.count =
                                          sizes[_i] > 0 ? sizes[_i] - 1 : 0};
    start_script(&shorter, repeat_lines);
    load = run_load(shorter.port, options);
    end_script(&shorter);
    check_failures(load, sizes[_i] > 0 ? "prefix" : NULL, 20);
    command_free(load);
}
END_TEST

/* Answers each connection in turn, and checks that no other has a line. */
static void *serve_one_by_one(void *arg)
{
    enum { CLIENTS = 20 };
    int fds[CLIENTS];
    char line[MAX_TEXT];
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = next_client(arg);
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert(hear(fds[i], line));
        for (int j = 0; j < CLIENTS; j++) {
            struct pollfd more = {.fd = fds[j], .events = POLLIN};
            ck_assert_int_eq(poll(&more, 1, 0), 0);
        }
        echo(fds[i], line);
    }
    for (int i = 0; i < CLIENTS; i++)
        echo_the_rest(fds[i]);
    return NULL;
}

START_TEST(test_one_by_one_asks_each_connection_once)
{
    struct command *load = run_against(serve_one_by_one, "-c 20 --one-by-one");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 20);
    command_free(load);
}
END_TEST

/* Sets count when the client has closed. */
static void *note_the_end(void *arg)
{
    struct scripted_server *script = arg;
    echo_the_rest(next_client(script));
    script->count = 1;
    return NULL;
}

START_TEST(test_hold_stays_connected)
{
    struct scripted_server script = {0};
    start_script(&script, note_the_end);
    struct command *load =
        command_start("%s --connect 127.0.0.1:%d -n 3 --hold --json -",
                      kit_program("load"), script.port);
    command_says(load, "load: holding 1 connections");
    let_pass(100);
    ck_assert_int_eq(script.count, 0);
    if (_i == 0)
        ck_assert_int_eq(write(load->in, "\n", 1), 1);
    command_wait(load); /* closes its input */
    end_script(&script);
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 3);
    command_free(load);
}
END_TEST

/* Counts the lines, and 100 for the end. */
static void *count_lines(void *arg)
{
    struct scripted_server *script = arg;
    char line[MAX_TEXT];
    int fd = next_client(script);
    while (hear(fd, line)) {
        script->count++;
        echo(fd, line);
    }
    script->count += 100;
    close(fd);
    return NULL;
}

START_TEST(test_wait_sends_nothing_until_there_is_a_line)
{
    struct scripted_server script = {0};
    start_script(&script, count_lines);
    struct command *load =
        command_start("%s --connect 127.0.0.1:%d -n 3 --wait --hold --json -",
                      kit_program("load"), script.port);
    command_says(load, "load: waiting with 1 connections");
    ck_assert_int_eq(write(load->in, "go", 2), 2);
    let_pass(100);
    ck_assert_int_eq(script.count, 0);
    /* A second line at once ends the hold as well. */
    ck_assert_int_eq(write(load->in, "\n\n", _i + 1), _i + 1);
    command_says(load, "load: holding 1 connections");
    long long limit = now_ms() + (_i == 0 ? 100 : PATIENCE_MS);
    while (script.count < 100 && now_ms() < limit)
        let_pass(1);
    ck_assert_int_eq(script.count, _i == 0 ? 3 : 103);
    command_wait(load); /* closes its input */
    end_script(&script);
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 3);
    command_free(load);
}
END_TEST

START_TEST(test_wait_takes_one_line_of_a_file)
{
    struct command *load =
        run_against(serve_right, _i == 0 ? "-n 3 --wait --hold </dev/null"
                                         : "-n 3 --wait --hold <README.md");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 3);
    ck_assert_ptr_null(strstr(load->err, "waiting"));
    command_free(load);
}
END_TEST

static void *close_after_three_lines(void *arg)
{
    struct scripted_server *script = arg;
    int fd = next_client(script);
    echo_some(fd, 3);
    close(fd);
    return NULL;
}

START_TEST(test_hold_notices_an_early_close)
{
    struct scripted_server script = {0};
    start_script(&script, close_after_three_lines);
    struct command *load =
        command_start("%s --connect 127.0.0.1:%d -n 3 --hold --json -",
                      kit_program("load"), script.port);
    command_says(load, "load: holding");
    end_script(&script);
    let_pass(100);
    command_wait(load);
    check_failures(load, "closed_early", 1);
    command_free(load);
}
END_TEST

/*
 * The figures
 */

START_TEST(test_warmup_is_not_counted)
{
    struct command *load = run_against(serve_right, "-n 30 --warmup 12");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 30);
    ck_assert_int_eq((int)figure(load->out, "lines_sent"), 42);
    command_free(load);

    load = run_against(serve_right, "-n 30 --warmup 0.1s");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 30);
    ck_assert_int_gt((int)figure(load->out, "lines_sent"), 30);
    command_free(load);

    load = run_against(serve_right, "-r 200 -n 20 --warmup 0.1s");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 20);
    ck_assert_int_eq((int)figure(load->out, "lines_sent"), 40);
    command_free(load);
}
END_TEST

/* Answers all further lines of two clients until both have closed. */
static void echo_the_rest_of_two(const int fds[])
{
    char line[MAX_TEXT];
    struct pollfd ready[] = {{.fd = fds[0], .events = POLLIN},
                             {.fd = fds[1], .events = POLLIN}};
    for (int open = 2; open > 0;) {
        ck_assert_int_gt(poll(ready, 2, PATIENCE_MS), 0);
        for (int i = 0; i < 2; i++) {
            if (ready[i].revents == 0)
                continue;
            if (hear(fds[i], line)) {
                echo(fds[i], line);
            } else {
                close(fds[i]);
                ready[i].fd = -1;
                open--;
            }
        }
    }
}

/*
 * Answers one of two clients, and the other only when the first has had time
 * to send again. If it has, the answer is wrong.
 */
static void *serve_one_late(void *arg)
{
    char line[MAX_TEXT];
    int fds[] = {next_client(arg), next_client(arg)};
    struct pollfd ready = {.fd = fds[0], .events = POLLIN};
    echo_some(fds[0], 1);
    bool again = poll(&ready, 1, 200) != 0;
    if (hear(fds[1], line))
        again ? say(fds[1], "echo: too soon\n") : echo(fds[1], line);
    echo_the_rest_of_two(fds);
    return NULL;
}

START_TEST(test_seconds_of_warmup_begin_when_each_connection_is_served)
{
    struct command *load =
        run_against(serve_one_late, "-c 2 -n 30 --warmup 0.05s");
    check_failures(load, NULL, 0);
    ck_assert_str_eq(load->err, "load: 2 connections, each answered\n");
    ck_assert_int_eq((int)figure(load->out, "requests"), 30);
    command_free(load);
}
END_TEST

/*
 * Answers one of two clients at once, and the other's first line only long
 * after the measured time. That answer is wrong if the first client has
 * stopped sending by then.
 */
static void *serve_one_slowly(void *arg)
{
    char line[MAX_TEXT];
    char slow[MAX_TEXT];
    int fds[] = {next_client(arg), next_client(arg)};
    struct pollfd ready = {.fd = fds[1], .events = POLLIN};
    bool asked = hear(fds[0], slow);
    long long end = now_ms() + 4 * MEASURED_MS;
    while (now_ms() < end && poll(&ready, 1, 2 * MEASURED_MS) == 1 &&
           hear(fds[1], line)) {
        let_pass(1);
        echo(fds[1], line);
    }
    if (asked)
        now_ms() < end ? say(fds[0], "echo: alone\n") : echo(fds[0], slow);
    echo_the_rest_of_two(fds);
    return NULL;
}

/* While slow lines are in flight, others go on and are in no figure. */
START_TEST(test_closed_loop_goes_on_until_measured_lines_are_answered)
{
    enum { MAX_SAMPLES = 4096 };
    static struct sample_line samples[MAX_SAMPLES];
    char path[] = "/tmp/bench_load.XXXXXX";
    char options[80];
    int measured = 0;
    int late = 0;
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    (void)snprintf(options, sizeof options, "-c 2 -d %g --samples %s",
                   MEASURED_MS / 1e3, path);
    struct command *load = run_against(serve_one_slowly, options);
    check_failures(load, NULL, 0);

    FILE *file = fdopen(fd, "r");
    ck_assert_ptr_nonnull(file);
    int count = read_samples(file, samples, MAX_SAMPLES);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(unlink(path), 0);
    for (int i = 0; i < count; i++) {
        bool in_time = samples[i].start_s < MEASURED_MS / 1e3;
        ck_assert_int_eq(samples[i].measured, in_time);
        measured += samples[i].measured;
        late += !in_time;
    }
    ck_assert_int_gt(late, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), measured);
    ck_assert_double_ge(figure(load->out, "max"), 3e3 * MEASURED_MS);
    ck_assert_double_eq_tol(figure(load->out, "seconds"), MEASURED_MS / 1e3,
                            1e-6);
    command_free(load);
}
END_TEST

/* Answers each line after 10 ms. */
static void *serve_in_10_ms(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    while (hear(fd, line)) {
        let_pass(10);
        echo(fd, line);
    }
    close(fd);
    return NULL;
}

START_TEST(test_closed_loop_obeys_littles_law)
{
    static const char *const options[] = {
        "-d 0.6 --warmup 0.1s", "-n 50 --warmup 5",
        "-d 0.6 --warmup 0.2s --lines-in-flight 5"};
    struct command *load = run_against(serve_in_10_ms, options[_i]);
    check_failures(load, NULL, 0);
    double concurrency = figure(load->out, "concurrency");
    ck_assert_msg(concurrency > 0.9 && concurrency < 1.1, "%s", load->out);
    double rate = figure(load->out, "requests_per_second");
    ck_assert_msg(rate > 0 && rate <= 101, "%s", load->out);
    ck_assert_double_ge(figure(load->out, "p50"), 10000);
    command_free(load);
}
END_TEST

/* Answers the first line at once and each other line after 50 ms. */
static void *serve_one_quickly(void *arg)
{
    char line[MAX_TEXT];
    int fd = next_client(arg);
    echo_some(fd, 1);
    while (hear(fd, line)) {
        let_pass(50);
        echo(fd, line);
    }
    close(fd);
    return NULL;
}

START_TEST(test_fastest_reply_may_be_one_of_the_warmup)
{
    static const char *const options[] = {"-n 9 --warmup 1",
                                          "-n 9 --warmup 0.05s"};
    struct command *load = run_against(serve_one_quickly, options[_i]);
    check_failures(load, NULL, 0);
    ck_assert_double_ge(figure(load->out, "p50"), 50000);
    double fastest = figure(load->out, "fastest_us");
    ck_assert_msg(fastest > 0 && fastest < 50000, "%s", load->out);
    command_free(load);

    load = run_against(serve_in_10_ms, options[_i]);
    ck_assert_double_ge(figure(load->out, "fastest_us"), 10000);
    command_free(load);
}
END_TEST

/* A reply that is not right does not count. */
START_TEST(test_no_right_reply_leaves_no_fastest)
{
    struct command *load = run_against(serve_right, "-n 9" WITH_KEY);
    check_failures(load, "unmarked", 9);
    ck_assert_double_eq(figure(load->out, "fastest_us"), 0);
    command_free(load);
}
END_TEST

/* Stalls once, for 300 ms. */
static void *stall_once(void *arg)
{
    int fd = next_client(arg);
    echo_some(fd, 20);
    let_pass(300);
    echo_the_rest(fd);
    return NULL;
}

/*
 * At 200 lines per second, a stall of 300 ms delays 60 of 200 lines, by 150 ms
 * on average. The closed loop sends fewer lines and sees one of them.
 */
START_TEST(test_open_loop_does_not_hide_a_stall)
{
    struct command *load = run_against(stall_once, "-r 200 -d 1");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 200);
    ck_assert_double_ge(figure(load->out, "max"), 290000);
    ck_assert_double_ge(figure(load->out, "p90"), 180000);
    ck_assert_double_ge(figure(load->out, "mean"), 35000);
    command_free(load);

    load = run_against(stall_once, "-n 200");
    ck_assert_double_ge(figure(load->out, "max"), 290000);
    ck_assert_double_lt(figure(load->out, "p90"), 180000);
    command_free(load);
}
END_TEST

START_TEST(test_open_loop_keeps_its_rate)
{
    struct command *load = run_against(serve_right, "-r 500 -d 0.5");
    check_failures(load, NULL, 0);
    ck_assert_int_eq((int)figure(load->out, "requests"), 250);
    double rate = figure(load->out, "requests_per_second");
    ck_assert_msg(rate > 400 && rate < 510, "%s", load->out);
    command_free(load);
}
END_TEST

/* A server that is too slow: lines that are due for too long stay unsent. */
START_TEST(test_open_loop_ends_when_overrun)
{
    struct command *load =
        run_against(serve_in_10_ms, "-r 1000 -d 0.5 --timeout 0.5");
    ck_assert_int_eq(load->status, 1);
    ck_assert_int_gt((int)figure(load->out, "unsent"), 100);
    ck_assert_int_eq((int)figure(load->out, "timeout"), 0);
    command_free(load);
}
END_TEST

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The file has every sample, and the figures follow from them. */
START_TEST(test_figures_follow_from_the_samples)
{
    enum { REQUESTS = 270 };
    static const struct {
        const char *key;
        int rank; /* of 270, rounded up */
    } percentiles[] = {
        {"p50", 135}, {"p90", 243}, {"p99", 268}, {"p99.9", 270}, {"max", 270},
    };
    char path[] = "/tmp/bench_load.XXXXXX";
    char options[64];
    struct sample_line samples[REQUESTS];
    double latencies[REQUESTS];
    double sum = 0;
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    (void)snprintf(options, sizeof options, "-n %d --warmup 7 --samples %s",
                   (int)REQUESTS, path);
    struct command *load = run_against(serve_right, options);
    check_failures(load, NULL, 0);

    FILE *file = fdopen(fd, "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(read_samples(file, samples, REQUESTS), REQUESTS);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(unlink(path), 0);

    for (int i = 0; i < REQUESTS; i++) {
        ck_assert_int_eq(samples[i].connection, 0);
        ck_assert(samples[i].measured);
        ck_assert_double_ge(samples[i].start_s,
                            i > 0 ? samples[i - 1].start_s : 0);
        latencies[i] = samples[i].latency_us;
    }
    qsort(latencies, REQUESTS, sizeof latencies[0], compare_doubles);
    for (int i = 0; i < COUNT(percentiles); i++)
        ck_assert_double_eq_tol(figure(load->out, percentiles[i].key),
                                latencies[percentiles[i].rank - 1], 0.0005);
    for (int i = 0; i < REQUESTS; i++)
        sum += latencies[i];
    ck_assert_double_eq_tol(figure(load->out, "mean"), sum / REQUESTS, 0.01);
    command_free(load);
}
END_TEST

START_TEST(test_full_disk_is_an_error)
{
    static const char *const outputs[] = {"--samples /dev/full",
                                          "--json /dev/full", ">/dev/full",
                                          "--json - >/dev/full"};
    struct scripted_server script = {0};
    start_script(&script, serve_right);
    struct command *load =
        command_run("%s --connect 127.0.0.1:%d -n 1000 %s",
                    kit_program("load"), script.port, outputs[_i]);
    end_script(&script);
    ck_assert_int_eq(load->status, 1);
    ck_assert_msg(strstr(load->err, strerror(ENOSPC)) != NULL, "%s",
                  load->err);
    command_free(load);
}
END_TEST

START_TEST(test_output_that_cannot_be_opened_is_named)
{
    static const char *const options[] = {"--samples", "--json"};
    struct command *load =
        command_run("%s %s /nowhere/file", kit_program("load"), options[_i]);
    ck_assert_int_eq(load->status, 1);
    ck_assert_ptr_nonnull(strstr(load->err, "/nowhere/file"));
    command_free(load);
}
END_TEST

START_TEST(test_report_names_what_failed)
{
    struct scripted_server script = {0};
    start_script(&script, answer_another_text);
    struct command *load = command_run("%s --connect 127.0.0.1:%d -n 10",
                                       kit_program("load"), script.port);
    end_script(&script);
    ck_assert_int_eq(load->status, 1);
    ck_assert_ptr_nonnull(strstr(load->out, "FAILED      wrong 1\n"));
    command_free(load);
}
END_TEST

START_TEST(test_lack_of_descriptors_is_reported)
{
    /* Sets the soft and the hard limit. */
    struct command *load =
        command_run("ulimit -n 100; exec %s -c 200 2>&1", kit_program("load"));
    if (load->status == 0 || strstr(load->out, "descriptors") == NULL) {
        /* A privileged process raises the limit, and then finds no server. */
        ck_assert_msg(strstr(load->out, "connect") != NULL, "%s", load->out);
    } else {
        ck_assert_int_eq(load->status, 1);
        ck_assert_ptr_nonnull(strstr(load->out, "the limit is 100"));
    }
    command_free(load);
}
END_TEST

/* The client's counts, the server's and the upstream's agree to the last
 * request. */
START_TEST(test_counts_equal_those_of_the_server)
{
    char text[128];
    struct server_process *upstream =
        server_start(NULL, "%s --listen 127.0.0.1:0 --delay 1" WITH_KEY,
                     kit_program("upstream"));
    (void)snprintf(text, sizeof text, "http://127.0.0.1:%s/arrpi.php",
                   upstream->port);
    struct server_process *server = server_start(
        NULL, "%s --listen 127.0.0.1:0 --upstream %s", threadecho(), text);
    struct command *load = run_load((int)strtol(server->port, NULL, 10),
                                    "-c 20 -d 0.5 --warmup 0.1s --line-size "
                                    "50 --lines-in-flight 3" WITH_KEY);
    check_failures(load, NULL, 0);
    long lines = (long)figure(load->out, "lines_sent");
    ck_assert_int_eq((long)figure(load->out, "text_bytes"), lines * 50);
    ck_assert_int_eq(server_counts(server, "requests"), lines);
    ck_assert_int_eq(server_counts(server, "connections"), 20);
    ck_assert_double_ge(figure(load->out, "fastest_us"), 1000);
    command_free(load);
    ck_assert_int_eq(server_stop(server), 0);
    ck_assert_int_eq(server_stop(upstream), 0);
    (void)snprintf(text, sizeof text, " requests=%ld text_bytes=%ld\n", lines,
                   lines * 50);
    ck_assert_int_eq(server_logged(upstream, text), 1);
    server_free(server);
    server_free(upstream);
}
END_TEST

START_TEST(test_server_without_an_upstream_is_unmarked)
{
    struct server_process *server =
        server_start(NULL, "%s --listen 127.0.0.1:0 --echo", threadecho());
    struct command *load =
        run_load((int)strtol(server->port, NULL, 10), "-c 2 -n 50" WITH_KEY);
    check_failures(load, "unmarked", 50);
    command_free(load);
    ck_assert_int_eq(server_stop(server), 0);
    server_free(server);
}
END_TEST

/*
 * Usage
 */

static const struct {
    const char *arguments;
    const char *names;
} bad_usage[] = {
    {"-c 0", "--connections: '0' is not a whole number from 1 to 500000"},
    {"-c 500001", "--connections"},
    {"-c 1x", "--connections"},
    {"-n 0", "--requests"},
    {"-n -5", "--requests"},
    {"-n 1e3", "from 1 to 1000000000"},
    {"-d 0", "'0' is not a number of seconds from 0.001 to 86400"},
    {"-d 1s", "--duration"},
    {"-r 0", "--rate"},
    {"-r inf", "--rate"},
    {"-n 5 -d 5", "--duration"},
    {"--lines-in-flight 0", "from 1 to 4096"},
    {"--lines-in-flight 4097", "--lines-in-flight"},
    {"--line-size 15", "from 16 to 1073741824"},
    {"--reply-size 1073741825", "--reply-size"},
    {"--warmup x", "--warmup: 'x' is not a whole number"},
    {"--warmup s", "--warmup"},
    {"--warmup 5ss", "--warmup: '5ss' is not a number of seconds"},
    {"--warmup 1.5", "--warmup"},
    {"--timeout 0", "--timeout"},
    {"--key-file /nowhere/key", "--key-file: /nowhere/key: No such file"},
    {"--key-file /dev/null",
     "--key-file: /dev/null has 0 bytes; a key has 16 to 64"},
    {"--key-file /dev/zero", "has more than 64 bytes; a key has 16 to 64"},
    {"--one-by-one -r 5", "--one-by-one"},
    {"--one-by-one --lines-in-flight 2", "--one-by-one"},
    {"--connect 8080", "--connect: '8080': not HOST:PORT"},
    {"--connect 127.0.0.1:65536", "from 0 to 65535"},
    {"--nonsense", "nonsense"},
    {"argument", "unexpected argument 'argument'"},
};

START_TEST(test_bad_usage_is_named)
{
    struct command *load =
        command_run("%s %s", kit_program("load"), bad_usage[_i].arguments);
    ck_assert_int_eq(load->status, 2);
    ck_assert_msg(strstr(load->err, bad_usage[_i].names) != NULL, "%s",
                  load->err);
    ck_assert_int_eq(strncmp(load->err, "load: ", 6), 0);
    ck_assert_str_eq(load->out, "");
    command_free(load);
}
END_TEST

START_TEST(test_help_and_version)
{
    static const char *const options[] = {"--help", "--version"};
    struct command *load =
        command_run("%s %s", kit_program("load"), options[_i]);
    ck_assert_int_eq(load->status, 0);
    ck_assert_str_eq(load->err, "");
    ck_assert_ptr_nonnull(strstr(load->out, "load"));
    command_free(load);
}
END_TEST

static void add_server_tests(Suite *suite)
{
    TCase *failures = tcase_create("failures");
    tcase_set_timeout(failures, TEST_TIMEOUT);
    tcase_add_loop_test(failures, test_fault_is_named, 0,
                        COUNT(faulty_servers));
    tcase_add_test(failures, test_classes_are_the_same_everywhere);
    tcase_add_test(failures, test_lines_left_unsent_are_counted);
    tcase_add_test(failures, test_other_connections_go_on);
    tcase_add_test(failures, test_early_close_of_all_ends_the_run);
    tcase_add_test(failures, test_error_replies_are_counted_by_reason);
    tcase_add_test(failures, test_reasons_without_end_are_summed_up);
    tcase_add_test(failures, test_rejected_connection_is_reported);
    tcase_add_test(failures, test_refused_connections_are_counted);
    tcase_add_test(failures, test_connection_never_answered_times_out);
    suite_add_tcase(suite, failures);

    TCase *sending = tcase_create("sending");
    tcase_set_timeout(sending, TEST_TIMEOUT);
    tcase_add_loop_test(sending, test_lines_have_the_size_asked_for, 0, 5);
    tcase_add_test(sending, test_lines_in_flight_are_as_many_as_asked_for);
    tcase_add_test(sending, test_lines_that_do_not_fit_wait);
    tcase_add_loop_test(sending, test_replies_of_another_size_are_checked, 0,
                        5);
    tcase_add_test(sending, test_one_by_one_asks_each_connection_once);
    tcase_add_loop_test(sending, test_wait_sends_nothing_until_there_is_a_line,
                        0, 2);
    tcase_add_loop_test(sending, test_wait_takes_one_line_of_a_file, 0, 2);
    tcase_add_test(sending, test_ports_of_one_address_are_not_used_up);
    tcase_add_loop_test(sending, test_hold_stays_connected, 0, 2);
    tcase_add_test(sending, test_hold_notices_an_early_close);
    suite_add_tcase(suite, sending);
}

static Suite *load_suite(void)
{
    Suite *suite = suite_create("load");
    add_server_tests(suite);

    TCase *figures = tcase_create("figures");
    tcase_set_timeout(figures, TEST_TIMEOUT);
    tcase_add_test(figures, test_warmup_is_not_counted);
    tcase_add_test(
        figures, test_seconds_of_warmup_begin_when_each_connection_is_served);
    tcase_add_loop_test(figures, test_closed_loop_obeys_littles_law, 0, 3);
    tcase_add_test(figures,
                   test_closed_loop_goes_on_until_measured_lines_are_answered);
    tcase_add_loop_test(figures, test_fastest_reply_may_be_one_of_the_warmup,
                        0, 2);
    tcase_add_test(figures, test_no_right_reply_leaves_no_fastest);
    tcase_add_test(figures, test_open_loop_does_not_hide_a_stall);
    tcase_add_test(figures, test_open_loop_keeps_its_rate);
    tcase_add_test(figures, test_open_loop_ends_when_overrun);
    tcase_add_test(figures, test_figures_follow_from_the_samples);
    tcase_add_loop_test(figures, test_full_disk_is_an_error, 0, 4);
    tcase_add_loop_test(figures, test_output_that_cannot_be_opened_is_named, 0,
                        2);
    tcase_add_test(figures, test_report_names_what_failed);
    tcase_add_test(figures, test_lack_of_descriptors_is_reported);
    tcase_add_test(figures, test_counts_equal_those_of_the_server);
    tcase_add_test(figures, test_server_without_an_upstream_is_unmarked);
    suite_add_tcase(suite, figures);

    TCase *usage = tcase_create("usage");
    tcase_set_timeout(usage, TEST_TIMEOUT);
    tcase_add_loop_test(usage, test_bad_usage_is_named, 0, COUNT(bad_usage));
    tcase_add_loop_test(usage, test_help_and_version, 0, 2);
    suite_add_tcase(suite, usage);
    return suite;
}

int main(void)
{
    return run_suite(load_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
