/*
 * The line protocol, seen from outside, for any server that speaks it:
 *
 *     SERVER='./other --port {port} --fetch {upstream}' test_protocol
 *
 * Without SERVER it is threadecho, the one built along with the tests.
 *
 * The suite "protocol" is what every speaker owes its clients, "robust" what
 * a server for many clients does besides; --protocol leaves that one out.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Bytes of a string literal, which may hold a NUL. */
struct bytes {
    const char *data;
    size_t len;
};
#define BYTES(literal)                                                        \
    {                                                                         \
        literal, sizeof(literal) - 1                                          \
    }

static struct server_process *server;

static void set_up(void)
{
    const char *command = getenv("SERVER");
    char url[ROGUE_URL_SIZE];

    /* On such a port it can be stopped and started again. */
    upstream = rogue_start(free_port());
    ck_assert_ptr_nonnull(upstream);
    rogue_url(upstream, "/text", url);
    server = command != NULL ? server_start(url, "%s", command)
                             : threadecho_start(upstream, "%s", "");
}

static void tear_down(void)
{
    rogue_stop(upstream); /* first: this ends fetches that hang */
    server_stop(server);
    server_free(server);
}

/* Sends it all, reads all replies, and compares byte for byte. */
static void check_exchange(const char *what, struct bytes lines,
                           struct bytes replies)
{
    struct client *c = client_open(server);
    size_t len;

    client_send(c, lines.data, lines.len);
    client_finish(c);
    const char *got = client_rest(c, &len);
    ck_assert_msg(len == replies.len && memcmp(got, replies.data, len) == 0,
                  "%s: expected %zu bytes '%s', got %zu bytes '%.200s'", what,
                  replies.len, replies.data, len, got);
    client_close(c);
}

static const struct {
    const char *what;
    struct bytes lines;
    struct bytes replies;
} exchanges[] = {
    {"a line", BYTES("hello\n"), BYTES("echo: hello\n")},
    {"no line at all", BYTES(""), BYTES("")},
    {"an empty line", BYTES("\n"), BYTES("echo: \n")},
    {"three empty lines", BYTES("\n\n\n"), BYTES("echo: \necho: \necho: \n")},
    {"two lines in a packet", BYTES("one\ntwo\n"),
     BYTES("echo: one\necho: two\n")},
    {"a line with CR LF", BYTES("one\r\ntwo\r\n"),
     BYTES("echo: one\necho: two\n")},
    {"an empty line with CR LF", BYTES("\r\n\r\n"), BYTES("echo: \necho: \n")},
    {"a CR within a line", BYTES("a\rb\n"), BYTES("echo: a b\n")},
    {"no LF at the end", BYTES("one\ntwo"), BYTES("echo: one\necho: two\n")},
    {"only a line without LF", BYTES("one"), BYTES("echo: one\n")},
    {"a NUL", BYTES("a\0b\n"), BYTES("echo: a\0b\n")},
    {"only a NUL", BYTES("\0\n"), BYTES("echo: \0\n")},
    {"a NUL without LF", BYTES("a\0b"), BYTES("echo: a\0b\n")},
    {"no UTF-8", BYTES("\xff\xfe \xc3( \xed\xa0\x80\n"),
     BYTES("echo: \xff\xfe \xc3( \xed\xa0\x80\n")},
    {"UTF-8", BYTES("gr\xc3\xbc\xc3\x9f dich \xe2\x82\xac\n"),
     BYTES("echo: gr\xc3\xbc\xc3\x9f dich \xe2\x82\xac\n")},
    {"blanks around a line", BYTES(" \t a \t \n"), BYTES("echo:  \t a \t \n")},
    {"what looks encoded already", BYTES("%41%zz%\n"),
     BYTES("echo: %41%zz%\n")},
    {"what has a meaning in a URL", BYTES("a+b&text=c#d?e;f=g\n"),
     BYTES("echo: a+b&text=c#d?e;f=g\n")},
    {"a URL", BYTES("http://[::1]:80/../?x=y\n"),
     BYTES("echo: http://[::1]:80/../?x=y\n")},
    {"what looks like a reply", BYTES("echo: a\nerror: b\n"),
     BYTES("echo: echo: a\necho: error: b\n")},
    {"what looks like a format", BYTES("%s%n%d {0} $x `y` \\n\n"),
     BYTES("echo: %s%n%d {0} $x `y` \\n\n")},
};

START_TEST(test_exchange)
{
    check_exchange(exchanges[_i].what, exchanges[_i].lines,
                   exchanges[_i].replies);
}
END_TEST

/* What the upstream was asked for by its n-th request, up to the blank. */
static char *request_target(unsigned long n)
{
    char *head = rogue_request(upstream, n);
    ck_assert_ptr_nonnull(head);
    char *target = strchr(head, '/');
    ck_assert_ptr_nonnull(target);
    target = strndup(target, strcspn(target, " \r"));
    ck_assert_ptr_nonnull(target);
    free(head);
    return target;
}

/* Here the reply does not tell: a CR at its end is dropped in any case. */
static const struct {
    struct bytes line;
    const char *target;
} targets[] = {
    {BYTES("a\n"), "/text?text=a"},
    {BYTES("\n"), "/text?text="},
    {BYTES("a\r\n"), "/text?text=a"},
    {BYTES("a\r\r\n"), "/text?text=a%0D"},
    {BYTES("\r\r\n"), "/text?text=%0D"},
    {BYTES("\ra\n"), "/text?text=%0Da"},
    {BYTES("azAZ09-._~\n"), "/text?text=azAZ09-._~"},
    {BYTES("\0\n"), "/text?text=%00"},
};

START_TEST(test_target_asked_for)
{
    struct client *c = client_open(server);
    client_send(c, targets[_i].line.data, targets[_i].line.len);
    ck_assert_int_eq(strncmp(client_line(c), "echo: ", 6), 0);
    char *target = request_target(0);
    ck_assert_str_eq(target, targets[_i].target);
    free(target);
    client_close(c);
}
END_TEST

START_TEST(test_every_byte_is_encoded_and_returned)
{
    struct client *c = client_open(server);
    unsigned long requests = 0;

    for (int byte = 0; byte < 256; byte++) {
        char line[] = {'x', (char)byte, 'y', '\n'};
        char reply[] = {'e', 'c', 'h', 'o', ':', ' ', 'x', (char)byte, 'y'};
        if (byte == '\n')
            continue;
        if (byte == '\r')
            reply[7] = ' ';
        client_send(c, line, sizeof line);
        const char *got = client_line(c);
        ck_assert_msg(c->line_len == sizeof reply &&
                          memcmp(got, reply, sizeof reply) == 0,
                      "byte %d gives '%s'", byte, got);
        char *target = request_target(requests++);
        ck_assert_msg(
            target[strspn(target, "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789-._~!$&'()*+,;=:@/?%")] == '\0',
            "byte %d is asked for as %s", byte, target);
        free(target);
    }
    client_close(c);
}
END_TEST

START_TEST(test_all_bytes_in_one_line)
{
    char line[256] = "";
    char reply[6 + 254] = "echo: ";
    size_t n = 0;
    size_t len;
    struct client *c = client_open(server);

    for (int byte = 0; byte < 256; byte++)
        if (byte != '\r' && byte != '\n')
            line[n++] = (char)byte;
    memcpy(reply + 6, line, n);
    client_send(c, line, n);
    client_send(c, "\n", 1);
    client_finish(c);
    const char *got = client_rest(c, &len);
    ck_assert_uint_eq(len, sizeof reply + 1);
    ck_assert_mem_eq(got, reply, sizeof reply);
    client_close(c);
}
END_TEST

START_TEST(test_a_line_of_4000_bytes)
{
    char line[4001];
    struct client *c = client_open(server);
    for (size_t i = 0; i < sizeof line - 1; i++)
        line[i] = (char)('!' + i % 94);
    line[sizeof line - 1] = '\0';
    const char *reply = client_ask(c, line);
    ck_assert_msg(strncmp(reply, "echo: ", 6) == 0 &&
                      strcmp(reply + 6, line) == 0,
                  "got %zu bytes '%.80s'", c->line_len, reply);
    client_close(c);
}
END_TEST

START_TEST(test_dribbled_bytes_make_a_line)
{
    struct client *c = client_open(server);
    client_dribble(c, "one by one\ntwo\r\n", 2);
    ck_assert_str_eq(client_line(c), "echo: one by one");
    ck_assert_str_eq(client_line(c), "echo: two");
    client_dribble(c, "three", 2);
    client_finish(c);
    ck_assert_str_eq(client_line(c), "echo: three");
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
}
END_TEST

START_TEST(test_a_packet_ends_in_mid_line)
{
    struct client *c = client_open(server);
    client_send(c, "one\ntw", 6);
    ck_assert_str_eq(client_line(c), "echo: one");
    client_send(c, "o\r", 2);
    let_pass(10);
    client_send(c, "\nthree\n", 7);
    ck_assert_str_eq(client_line(c), "echo: two");
    ck_assert_str_eq(client_line(c), "echo: three");
    client_close(c);
}
END_TEST

START_TEST(test_many_lines_before_the_first_reply_is_read)
{
    enum { LINES = 2000 };
    struct client *c = client_open(server);
    char line[32];
    char reply[48];

    for (int i = 0; i < LINES; i++) {
        snprintf(line, sizeof line, "line %d", i);
        client_say(c, line);
    }
    for (int i = 0; i < LINES; i++) {
        snprintf(reply, sizeof reply, "echo: line %d", i);
        ck_assert_str_eq(client_line(c), reply);
    }
    client_close(c);
}
END_TEST

START_TEST(test_half_close_leaves_no_line_unanswered)
{
    struct client *c = client_open(server);
    for (int i = 0; i < 10; i++)
        client_say(c, "/delay/20");
    client_send(c, "last", 4);
    client_finish(c);
    for (int i = 0; i < 10; i++)
        ck_assert_str_eq(client_line(c), "echo: /delay/20");
    ck_assert_str_eq(client_line(c), "echo: last");
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
}
END_TEST

START_TEST(test_replies_keep_the_order_of_the_lines)
{
    struct client *c = client_open(server);
    client_say(c, "/delay/200\none\n/status/404\n/delay/50\ntwo");
    ck_assert_str_eq(client_line(c), "echo: /delay/200");
    ck_assert_str_eq(client_line(c), "echo: one");
    ck_assert_int_eq(strncmp(client_line(c), "error: ", 7), 0);
    ck_assert_str_eq(client_line(c), "echo: /delay/50");
    ck_assert_str_eq(client_line(c), "echo: two");
    client_close(c);
}
END_TEST

static const struct {
    struct bytes body;
    struct bytes flat;
} bodies[] = {
    {BYTES(""), BYTES("")},
    {BYTES("a"), BYTES("a")},
    {BYTES("a\n"), BYTES("a")},
    {BYTES("a\r\n"), BYTES("a")},
    {BYTES("a\r\n\r\n\n\r"), BYTES("a")},
    {BYTES("\n"), BYTES("")},
    {BYTES("\r\n\r\n"), BYTES("")},
    {BYTES("a\nb"), BYTES("a b")},
    {BYTES("a\rb"), BYTES("a b")},
    {BYTES("a\r\nb\r\n"), BYTES("a b")},
    {BYTES("a\n\r\n\nb"), BYTES("a b")},
    {BYTES("a\nb\nc\n"), BYTES("a b c")},
    {BYTES("\na"), BYTES(" a")},
    {BYTES("\r\n\r\na"), BYTES(" a")},
    {BYTES("a \n b"), BYTES("a   b")},
    {BYTES("a \n"), BYTES("a ")},
    {BYTES("a\0b\0\n"), BYTES("a\0b\0")},
    {BYTES("\0\n\0"), BYTES("\0 \0")},
    {BYTES("a\v\f\x85\xe2\x80\xa8 b"), BYTES("a\v\f\x85\xe2\x80\xa8 b")},
    {BYTES("\xff\xfe\n\x80"), BYTES("\xff\xfe \x80")},
    {BYTES("error: a\nerror: b"), BYTES("error: a error: b")},
};

static void check_body(const char *path, struct bytes body, struct bytes flat)
{
    struct client *c = client_open(server);

    rogue_set_body(upstream, body.data, body.len);
    const char *reply = client_ask(c, path);
    ck_assert_msg(c->line_len == 6 + flat.len &&
                      memcmp(reply, "echo: ", 6) == 0 &&
                      memcmp(reply + 6, flat.data, flat.len) == 0,
                  "expected '%s', got '%.200s'", flat.data, reply);
    ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    client_close(c);
}

START_TEST(test_body_becomes_one_line)
{
    check_body("/body", bodies[_i].body, bodies[_i].flat);
}
END_TEST

START_TEST(test_body_in_chunks_becomes_one_line)
{
    check_body("/body-chunked", bodies[_i].body, bodies[_i].flat);
}
END_TEST

START_TEST(test_empty_answers_are_empty_replies)
{
    struct client *c = client_open(server);
    ck_assert_str_eq(client_ask(c, "/empty"), "echo: ");
    ck_assert_str_eq(client_ask(c, "/204"), "echo: ");
    ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    client_close(c);
}
END_TEST

/* Twenty lines, answered in the manner of this path of the upstream. */
static void check_manner(const char *path)
{
    struct client *c = client_open(server);
    char line[32];
    char reply[48];

    rogue_force(upstream, path);
    for (int i = 0; i < 20; i++) {
        snprintf(line, sizeof line, "line %d", i);
        snprintf(reply, sizeof reply, "echo: line %d", i);
        ck_assert_str_eq(client_ask(c, line), reply);
    }
    client_close(c);
}

START_TEST(test_upstream_may_keep_the_connection_or_not)
{
    static const char *const paths[] = {"/good", "/close"};
    check_manner(paths[_i]);
}
END_TEST

/* What an upstream does wrong is one error line, and no byte of its body. */
static const char *const failures[] = {
    "/status/404",
    "/status/500",
    "/status/503",
    "/status-bare/404",
    "/status-bare/500",
    "/redirect-self/302",
    "/redirect-file/301",
    "/redirect-ftp/302",
    "/empty-reply",
    "/reset",
    "/short",
    "/short-chunked",
    "/reset-body",
    "/bad-chunk",
    "/garbage",
    "/http09",
};

START_TEST(test_upstream_failure_is_an_error_and_no_more)
{
    struct client *c = client_open(server);

    for (int i = 0; i < 3; i++) {
        const char *reply = client_ask(c, failures[_i]);
        ck_assert_msg(strncmp(reply, "error: ", 7) == 0 && reply[7] != '\0' &&
                          strchr(reply, '\r') == NULL &&
                          strstr(reply, "part") == NULL &&
                          strstr(reply, "<h1>") == NULL,
                      "%s gives '%.200s'", failures[_i], reply);
        ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    }
    client_finish(c);
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
}
END_TEST

START_TEST(test_errors_in_a_pipeline_are_one_line_each)
{
    struct client *c = client_open(server);

    for (size_t i = 0; i < COUNT(failures); i++) {
        client_say(c, failures[i]);
        client_say(c, "between");
    }
    client_finish(c);
    for (size_t i = 0; i < COUNT(failures); i++) {
        const char *reply = client_line(c);
        ck_assert_msg(strncmp(reply, "error: ", 7) == 0, "%s gives '%s'",
                      failures[i], reply);
        ck_assert_str_eq(client_line(c), "echo: between");
    }
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
}
END_TEST

START_TEST(test_redirect_is_not_followed)
{
    struct client *c = client_open(server);
    ck_assert_int_eq(
        strncmp(client_ask(c, "/redirect-self/302"), "error: ", 7), 0);
    ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    ck_assert_uint_eq(rogue_counts(upstream).requests, 2);
    client_close(c);
}
END_TEST

START_TEST(test_line_of_4_mib_is_refused_and_the_next_served)
{
    enum { LEN = 4 << 20 };
    struct client *c = client_open(server);
    char *line = malloc(LEN + 1);

    ck_assert_ptr_nonnull(line);
    memset(line, 'x', LEN);
    line[LEN] = '\0';
    for (int i = 0; i < 2; i++) {
        const char *reply = client_ask(c, line);
        ck_assert_msg(strncmp(reply, "error: ", 7) == 0, "%.80s", reply);
        ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    }
    free(line);
    client_close(c);
}
END_TEST

START_TEST(test_100_clients_get_their_own_replies)
{
    enum { CLIENTS = 100, ROUNDS = 20 };
    struct client *clients[CLIENTS];
    char line[96];
    char reply[112];

    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(server);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CLIENTS; i++) {
            snprintf(line, sizeof line, "%.*sclient %d, round %d", i % 30,
                     "..............................", i, round);
            client_say(clients[i], line);
        }
        for (int i = 0; i < CLIENTS; i++) {
            snprintf(reply, sizeof reply, "echo: %.*sclient %d, round %d",
                     i % 30, "..............................", i, round);
            ck_assert_str_eq(client_line(clients[i]), reply);
        }
    }
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
}
END_TEST

START_TEST(test_50_clients_are_served_side_by_side)
{
    enum { CLIENTS = 50 };
    struct client *clients[CLIENTS];
    long long start = now_ms();

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(server);
        client_say(clients[i], "/delay/300");
    }
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_str_eq(client_line(clients[i]), "echo: /delay/300");
        client_close(clients[i]);
    }
    /* One after the other they take 15 seconds. */
    ck_assert_int_lt(now_ms() - start, 7500);
}
END_TEST

START_TEST(test_upstream_that_comes_back_is_found_again)
{
    struct client *c = client_open(server);
    int port = rogue_port(upstream);

    for (int i = 0; i < 3; i++) {
        ck_assert_str_eq(client_ask(c, "up"), "echo: up");
        rogue_stop(upstream);
        ck_assert_int_eq(strncmp(client_ask(c, "down"), "error: ", 7), 0);
        upstream = rogue_start(port);
        ck_assert_ptr_nonnull(upstream);
        ck_assert_str_eq(client_ask(c, "again"), "echo: again");
    }
    client_close(c);
}
END_TEST

/* What HTTP/1.1 allows. Two of these close a connection that they left open;
 * to ask again is then the client's part. */
static const char *const manners[] = {
    "/chunked", "/unsized", "/interim", "/stale", "/close-unsaid",
};

START_TEST(test_upstream_may_answer_in_its_own_manner)
{
    check_manner(manners[_i]);
}
END_TEST

static void reset_at_once(struct client *c)
{
    client_reset(c);
}

static void reset_in_mid_line(struct client *c)
{
    client_send(c, "half a li", 9);
    client_reset(c);
}

static void reset_before_the_reply_is_read(struct client *c)
{
    client_say(c, "hello");
    ck_assert(client_hears(c, PATIENCE_MS));
    client_reset(c);
}

static void reset_with_lines_pending(struct client *c)
{
    for (int i = 0; i < 100; i++)
        client_say(c, "hello");
    client_reset(c);
}

static void reset_during_a_fetch(struct client *c)
{
    client_say(c, "/delay/100");
    let_pass(10);
    client_reset(c);
}

static void close_during_a_fetch(struct client *c)
{
    client_say(c, "/delay/100\nhello");
    let_pass(10);
    client_close(c);
}

static const struct {
    const char *what;
    void (*leave)(struct client *c);
} departures[] = {
    {"reset at once", reset_at_once},
    {"reset in mid-line", reset_in_mid_line},
    {"reset before the reply is read", reset_before_the_reply_is_read},
    {"reset with lines pending", reset_with_lines_pending},
    {"reset during a fetch", reset_during_a_fetch},
    {"close during a fetch", close_during_a_fetch},
};

/* Has this many fetches run at once: what a server keeps for each is there
 * from then on. */
static void warm_up(int fetches)
{
    struct client *clients[100];

    ck_assert_int_le(fetches, (int)COUNT(clients));
    for (int i = 0; i < fetches; i++) {
        clients[i] = client_open(server);
        client_say(clients[i], "/delay/300");
    }
    for (int i = 0; i < fetches; i++) {
        ck_assert_str_eq(client_line(clients[i]), "echo: /delay/300");
        client_finish(clients[i]);
        ck_assert_str_eq(client_line(clients[i]), "<end>");
        client_close(clients[i]);
    }
}

START_TEST(test_client_that_leaves_harms_nobody)
{
    warm_up(30);
    struct holding before = server_rests(server);
    struct client *other = client_open(server);

    for (int i = 0; i < 20; i++) {
        departures[_i].leave(client_open(server));
        ck_assert_str_eq(client_ask(other, "hello"), "echo: hello");
    }
    client_close(other);
    server_recovers(server, before);
}
END_TEST

START_TEST(test_client_that_never_reads_holds_nobody_up)
{
    struct client *deaf = client_open(server);
    char *line = malloc(8001);
    int unsent = 0;

    /* Until neither side takes more. */
    ck_assert_ptr_nonnull(line);
    memset(line, 'x', 8000);
    line[8000] = '\n';
    while (unsent < 100) {
        ssize_t n = send(deaf->fd, line, 8001, MSG_NOSIGNAL | MSG_DONTWAIT);
        unsent = n > 0 ? 0 : unsent + 1;
        if (n < 0) {
            ck_assert_int_eq(errno, EAGAIN);
            let_pass(2);
        }
    }
    free(line);
    struct client *c = client_open(server);
    for (int i = 0; i < 20; i++)
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    client_reset(deaf);
}
END_TEST

START_TEST(test_slow_and_silent_clients_hold_nobody_up)
{
    enum { CLIENTS = 300 };
    struct client *clients[CLIENTS];

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(server);
        if (i % 2 == 0)
            client_send(clients[i], "half a", 6);
    }
    struct client *c = client_open(server);
    for (int i = 0; i < 20; i++)
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    for (int i = 0; i < CLIENTS; i++) {
        ck_assert_str_eq(client_ask(clients[i], " line"),
                         i % 2 == 0 ? "echo: half a line" : "echo:  line");
        client_close(clients[i]);
    }
}
END_TEST

START_TEST(test_hanging_upstream_holds_its_own_client_only)
{
    struct client *hanging[10];

    for (size_t i = 0; i < COUNT(hanging); i++) {
        hanging[i] = client_open(server);
        client_say(hanging[i], "/hang");
    }
    await_busy(COUNT(hanging));
    struct client *c = client_open(server);
    for (int i = 0; i < 20; i++)
        ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    client_close(c);
    for (size_t i = 0; i < COUNT(hanging); i++)
        client_close(hanging[i]);
}
END_TEST

START_TEST(test_1000_connections_come_and_go_and_leave_nothing)
{
    enum { AT_ONCE = 100, ROUNDS = 10 };
    struct holding before = server_rests(server);
    struct client *clients[AT_ONCE];

    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++)
            clients[i] = client_open(server);
        /* One fetch at a time, so that the pool does not grow. */
        for (int i = 0; i < AT_ONCE; i++)
            ck_assert_str_eq(client_ask(clients[i], "hello"), "echo: hello");
        for (int i = 0; i < AT_ONCE; i++)
            client_close(clients[i]);
    }
    server_recovers(server, before);
}
END_TEST

START_TEST(test_endless_line_takes_little_memory)
{
    enum { PIECE = 1 << 20, PIECES = 48 };
    struct client *c = client_open(server);
    char *piece = malloc(PIECE);

    ck_assert_ptr_nonnull(piece);
    memset(piece, 'x', PIECE);
    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    long before = server_status(server, "VmHWM");
    for (int i = 0; i < PIECES; i++)
        client_send(c, piece, PIECE);
    free(piece);
    ck_assert_int_eq(strncmp(client_ask(c, ""), "error: ", 7), 0);
    ck_assert_str_eq(client_ask(c, "next"), "echo: next");
    if (!server_sanitized(server))
        ck_assert_int_lt(server_status(server, "VmHWM") - before, 16 << 10);
    client_close(c);
}
END_TEST

static Suite *protocol_suite(void)
{
    Suite *suite = suite_create("protocol");

    TCase *lines = add_case_with(suite, "lines", set_up, tear_down);
    tcase_add_loop_test(lines, test_exchange, 0, COUNT(exchanges));
    tcase_add_loop_test(lines, test_target_asked_for, 0, COUNT(targets));
    tcase_add_test(lines, test_every_byte_is_encoded_and_returned);
    tcase_add_test(lines, test_all_bytes_in_one_line);
    tcase_add_test(lines, test_a_line_of_4000_bytes);
    tcase_add_test(lines, test_dribbled_bytes_make_a_line);
    tcase_add_test(lines, test_a_packet_ends_in_mid_line);
    tcase_add_test(lines, test_many_lines_before_the_first_reply_is_read);
    tcase_add_test(lines, test_half_close_leaves_no_line_unanswered);
    tcase_add_test(lines, test_replies_keep_the_order_of_the_lines);
    tcase_add_test(lines, test_line_of_4_mib_is_refused_and_the_next_served);

    TCase *answers = add_case_with(suite, "answers", set_up, tear_down);
    tcase_add_loop_test(answers, test_body_becomes_one_line, 0, COUNT(bodies));
    tcase_add_test(answers, test_empty_answers_are_empty_replies);
    tcase_add_loop_test(answers, test_upstream_may_keep_the_connection_or_not,
                        0, 2);
    tcase_add_loop_test(answers, test_upstream_failure_is_an_error_and_no_more,
                        0, COUNT(failures));
    tcase_add_test(answers, test_errors_in_a_pipeline_are_one_line_each);
    tcase_add_test(answers, test_redirect_is_not_followed);
    tcase_add_test(answers, test_upstream_that_comes_back_is_found_again);

    TCase *clients = add_case_with(suite, "clients", set_up, tear_down);
    tcase_add_test(clients, test_100_clients_get_their_own_replies);
    tcase_add_test(clients, test_50_clients_are_served_side_by_side);
    return suite;
}

static Suite *robust_suite(void)
{
    Suite *suite = suite_create("robust");

    TCase *clients = add_case_with(suite, "clients", set_up, tear_down);
    tcase_add_loop_test(clients, test_client_that_leaves_harms_nobody, 0,
                        COUNT(departures));
    tcase_add_test(clients, test_client_that_never_reads_holds_nobody_up);
    tcase_add_test(clients, test_slow_and_silent_clients_hold_nobody_up);
    tcase_add_test(clients,
                   test_1000_connections_come_and_go_and_leave_nothing);
    tcase_add_test(clients, test_endless_line_takes_little_memory);

    TCase *answers = add_case_with(suite, "answers", set_up, tear_down);
    tcase_add_loop_test(answers, test_body_in_chunks_becomes_one_line, 0,
                        COUNT(bodies));
    tcase_add_loop_test(answers, test_upstream_may_answer_in_its_own_manner, 0,
                        COUNT(manners));
    tcase_add_test(answers, test_hanging_upstream_holds_its_own_client_only);
    return suite;
}

int main(int argc, char **argv)
{
    bool protocol_only = argc == 2 && strcmp(argv[1], "--protocol") == 0;

    if (argc > 1 && !protocol_only) {
        fprintf(stderr, "Usage: [SERVER=COMMAND] %s [--protocol]\n", argv[0]);
        return 2;
    }
    int failed = run_suite(protocol_suite());
    if (!protocol_only)
        failed += run_suite(robust_suite());
    return failed == 0 ? 0 : 1;
}
