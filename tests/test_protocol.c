/*
 * The line protocol, seen from outside, for any server that speaks it:
 *
 *     SERVER='./other --port {port} --fetch {upstream}' test_protocol
 *
 * Without SERVER it is threadecho, the one built along with the tests.
 *
 * The suite "protocol" is what every server owes its clients, "robust" what a
 * server for many clients needs besides; --protocol leaves "robust" out.
 * --together starts the server once for each case and not for each test, which
 * an interpreter takes long to do. --list names the tests, --only
 * NAME[:NUMBER] runs one of them, and --upstream PORT serves what they fetch
 * from.
 *
 * SPDX-License-Identifier: MIT
 */
#include "expect.h"
#include "fixture.h"
#include "quote.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A test of Check's whose name is known to the report of a failure. */
#define TEST(name)                                                            \
    static void name(int number);                                             \
    START_TEST(test_##name)                                                   \
    {                                                                         \
        context_test(#name, _i);                                              \
        name(_i);                                                             \
    }                                                                         \
    END_TEST                                                                  \
    static void name(int number CK_ATTRIBUTE_UNUSED)

static struct server_process *server;

static void start_server(void)
{
    const char *command = getenv("SERVER");
    char url[ROGUE_URL_SIZE];

    rogue_url(upstream, UPSTREAM_PATH, url);
    server = command != NULL
                 ? server_start(url, "%s", command)
                 : server_start(NULL, "%s --listen 127.0.0.1:0 --upstream %s",
                                threadecho(), url);
}

static void stop_server(void)
{
    server_stop(server);
    server_free(server);
}

static void set_up(void)
{
    /* On such a port it can be stopped and started again. */
    upstream = rogue_start(free_port());
    ck_assert_ptr_nonnull(upstream);
    start_server();
    context_server(server, upstream);
}

static void tear_down(void)
{
    rogue_stop(upstream); /* first: this ends fetches that hang */
    context_server(NULL, NULL);
    stop_server();
}

static bool together; /* one server for all tests of a case */
static int upstream_port;

static void set_up_case(void)
{
    upstream = rogue_start(free_port());
    ck_assert_ptr_nonnull(upstream);
    upstream_port = rogue_port(upstream);
    start_server();
    rogue_stop(upstream);
}

static void set_up_together(void)
{
    upstream = rogue_start(upstream_port);
    ck_assert_msg(upstream != NULL, "upstream: %s", strerror(errno));
    context_server(server, upstream);
}

/* What a test has left must not reach the next one. */
static void tear_down_together(void)
{
    rogue_stop(upstream);
    context_server(NULL, NULL);
    server_closes_all(server);
}

/* Sends it all, reads all replies, and compares byte for byte. */
static void check_exchange(struct bytes lines, struct bytes replies)
{
    struct client *c = client_open(server);

    say_bytes(c, lines.data, lines.len);
    client_finish(c);
    expect_rest(c, lines, replies);
    expect_fetches(1);
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

TEST(exchange)
{
    context_case(exchanges[number].what);
    check_exchange(exchanges[number].lines, exchanges[number].replies);
}

/* The reply does not show these: a CR at the end of a body is dropped too. */
static const struct {
    struct bytes line;
    const char *target;
} targets[] = {
    {BYTES("a\n"), UPSTREAM_PATH "?text=a"},
    {BYTES("\n"), UPSTREAM_PATH "?text="},
    {BYTES("a\r\n"), UPSTREAM_PATH "?text=a"},
    {BYTES("a\r\r\n"), UPSTREAM_PATH "?text=a%0D"},
    {BYTES("\r\r\n"), UPSTREAM_PATH "?text=%0D"},
    {BYTES("\ra\n"), UPSTREAM_PATH "?text=%0Da"},
    {BYTES("azAZ09-._~\n"), UPSTREAM_PATH "?text=azAZ09-._~"},
    {BYTES("\0\n"), UPSTREAM_PATH "?text=%00"},
};

TEST(target_asked_for)
{
    struct client *c = client_open(server);

    say_bytes(c, targets[number].line.data, targets[number].line.len);
    client_finish(c);
    (void)client_line(c); /* other tests look at it */
    expect_target(targets[number].target);
    expect_end(c);
    client_close(c);
}

TEST(every_byte_is_encoded_and_returned)
{
    struct client *c = client_open(server);

    for (int byte = 0; byte < 256; byte++) {
        char line[] = {'x', (char)byte, 'y', '\n'};
        char reply[] = {'e', 'c', 'h', 'o', ':', ' ', 'x', (char)byte, 'y'};
        if (byte == '\n')
            continue;
        if (byte == '\r')
            reply[7] = ' ';
        say_bytes(c, line, sizeof line);
        expect_bytes(c, (struct bytes){line, 3},
                     (struct bytes){reply, sizeof reply});
        expect_target_in("abcdefghijklmnopqrstuvwxyz"
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         "0123456789-._~!$&'()*+,;=:@/?%");
    }
    expect_fetches(1);
    client_close(c);
}

TEST(all_bytes_in_one_line)
{
    char line[256] = "";
    char reply[6 + 254 + 1] = "echo: ";
    size_t n = 0;

    for (int byte = 0; byte < 256; byte++)
        if (byte != '\r' && byte != '\n')
            line[n++] = (char)byte;
    memcpy(reply + 6, line, n);
    line[n] = '\n';
    reply[6 + n] = '\n';
    check_exchange((struct bytes){line, n + 1},
                   (struct bytes){reply, 6 + n + 1});
}

TEST(a_line_of_4000_bytes)
{
    char line[4001];
    char reply[6 + sizeof line] = "echo: ";
    struct client *c = client_open(server);
    for (size_t i = 0; i < sizeof line - 1; i++)
        line[i] = (char)('!' + i % 94);
    line[sizeof line - 1] = '\0';
    memcpy(reply + 6, line, sizeof line);
    ask(c, line, reply);
    expect_fetches(1);
    client_close(c);
}

TEST(dribbled_bytes_make_a_line)
{
    struct client *c = client_open(server);
    say_slowly(c, "one by one\ntwo\r\n");
    expect(c, "one by one", "echo: one by one");
    expect(c, "two", "echo: two");
    say_slowly(c, "three");
    client_finish(c);
    expect(c, "three", "echo: three");
    expect_end(c);
    expect_fetches(1);
    client_close(c);
}

TEST(a_packet_ends_in_mid_line)
{
    struct client *c = client_open(server);
    say_bytes(c, "one\ntw", 6);
    expect(c, "one", "echo: one");
    say_bytes(c, "o\r", 2);
    let_pass(10);
    say_bytes(c, "\nthree\n", 7);
    expect(c, "two", "echo: two");
    expect(c, "three", "echo: three");
    expect_fetches(1);
    client_close(c);
}

TEST(many_lines_before_the_first_reply_is_read)
{
    enum { LINES = 2000 };
    struct client *c = client_open(server);
    char line[32];
    char reply[48];

    for (int i = 0; i < LINES; i++) {
        snprintf(line, sizeof line, "line %d", i);
        say(c, line);
    }
    for (int i = 0; i < LINES; i++) {
        snprintf(line, sizeof line, "line %d", i);
        snprintf(reply, sizeof reply, "echo: line %d", i);
        expect(c, line, reply);
    }
    expect_fetches(1);
    client_close(c);
}

TEST(half_close_leaves_no_line_unanswered)
{
    struct client *c = client_open(server);
    for (int i = 0; i < 10; i++)
        say(c, "/delay/20");
    say_bytes(c, "last", 4);
    client_finish(c);
    for (int i = 0; i < 10; i++)
        expect(c, "/delay/20", "echo: /delay/20");
    expect(c, "last", "echo: last");
    expect_end(c);
    expect_fetches(1);
    client_close(c);
}

TEST(replies_keep_the_order_of_the_lines)
{
    struct client *c = client_open(server);
    say(c, "/delay/200\none\n/status/404\n/delay/50\ntwo");
    expect(c, "/delay/200", "echo: /delay/200");
    expect(c, "one", "echo: one");
    expect_error(c, "/status/404");
    expect(c, "/delay/50", "echo: /delay/50");
    expect(c, "two", "echo: two");
    expect_fetches(1);
    client_close(c);
}

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
    char reply[64] = "echo: ";
    struct client *c = client_open(server);

    rogue_set_body(upstream, body.data, body.len);
    memcpy(reply + 6, flat.data, flat.len);
    say(c, path);
    expect_bytes(c, (struct bytes){path, strlen(path)},
                 (struct bytes){reply, 6 + flat.len});
    ask(c, "next", "echo: next");
    expect_fetches(1);
    client_close(c);
}

/* Nobody knows what it answers but the upstream. */
static void set_secret_body(char reply[48])
{
    unsigned char secret[16];
    size_t n = 0;

    ck_assert_int_eq(getentropy(secret, sizeof secret), 0);
    memcpy(reply, "echo: ", 6);
    for (n = 0; n < sizeof secret; n++)
        snprintf(reply + 6 + 2 * n, 3, "%02x", secret[n]);
    rogue_set_body(upstream, reply + 6, 2 * n);
}

TEST(only_the_upstream_knows_the_reply)
{
    struct client *c = client_open(server);
    char reply[48];

    upstream_answers_as("/body");
    for (int i = 0; i < 20; i++) {
        set_secret_body(reply);
        ask(c, i % 2 == 0 ? "hello" : "and again", reply);
    }
    expect_fetches(1);
    client_close(c);
}

TEST(body_becomes_one_line)
{
    check_body("/body", bodies[number].body, bodies[number].flat);
}

TEST(body_in_chunks_becomes_one_line)
{
    check_body("/body-chunked", bodies[number].body, bodies[number].flat);
}

TEST(empty_answers_are_empty_replies)
{
    struct client *c = client_open(server);
    ask(c, "/empty", "echo: ");
    ask(c, "/204", "echo: ");
    ask(c, "next", "echo: next");
    expect_fetches(1);
    client_close(c);
}

/* Twenty lines, answered in the manner of this path of the upstream. */
static void check_manner(const char *path)
{
    struct client *c = client_open(server);
    char line[32];
    char reply[48];

    upstream_answers_as(path);
    for (int i = 0; i < 20; i++) {
        snprintf(line, sizeof line, "line %d", i);
        snprintf(reply, sizeof reply, "echo: line %d", i);
        ask(c, line, reply);
    }
    /* Asking again is right where a kept connection was closed instead. */
    expect_fetches(strcmp(path, "/stale") == 0 ? 2 : 1);
    client_close(c);
}

TEST(upstream_may_keep_the_connection_or_not)
{
    static const char *const paths[] = {"/good", "/close"};
    check_manner(paths[number]);
}

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

TEST(upstream_failure_is_an_error_and_no_more)
{
    struct client *c = client_open(server);

    for (int i = 0; i < 3; i++) {
        ask_error(c, failures[number]);
        ask(c, "next", "echo: next");
    }
    client_finish(c);
    expect_end(c);
    client_close(c);
}

TEST(errors_in_a_pipeline_are_one_line_each)
{
    struct client *c = client_open(server);

    for (size_t i = 0; i < COUNT(failures); i++) {
        say(c, failures[i]);
        say(c, "between");
    }
    client_finish(c);
    for (size_t i = 0; i < COUNT(failures); i++) {
        expect_error(c, failures[i]);
        expect(c, "between", "echo: between");
    }
    expect_end(c);
    client_close(c);
}

TEST(redirect_is_not_followed)
{
    struct client *c = client_open(server);
    ask_error(c, "/redirect-self/302");
    ask(c, "next", "echo: next");
    expect_fetches(1);
    client_close(c);
}

TEST(line_of_4_mib_is_refused_and_the_next_served)
{
    enum { LEN = 4 << 20 };
    struct client *c = client_open(server);
    char *line = malloc(LEN + 1);

    ck_assert_ptr_nonnull(line);
    memset(line, 'x', LEN);
    line[LEN] = '\0';
    for (int i = 0; i < 2; i++) {
        ask_error(c, line);
        ask(c, "next", "echo: next");
    }
    free(line);
    client_close(c);
}

TEST(a_hundred_clients_get_their_own_replies)
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
            say(clients[i], line);
        }
        for (int i = 0; i < CLIENTS; i++) {
            snprintf(reply, sizeof reply, "echo: %.*sclient %d, round %d",
                     i % 30, "..............................", i, round);
            expect(clients[i], reply + 6, reply);
        }
    }
    expect_fetches(1);
    for (int i = 0; i < CLIENTS; i++)
        client_close(clients[i]);
}

TEST(fifty_clients_are_served_side_by_side)
{
    enum { CLIENTS = 50 };
    struct client *clients[CLIENTS];
    long long start = now_ms();

    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(server);
        say(clients[i], "/delay/300");
    }
    for (int i = 0; i < CLIENTS; i++) {
        expect(clients[i], "/delay/300", "echo: /delay/300");
        client_close(clients[i]);
    }
    long long took = now_ms() - start;
    if (took >= 7500)
        give_up("%d clients whose fetches take 300 ms each took %lld ms:\n"
                "    little more than 300 is expected; one after the other "
                "takes 15,000",
                CLIENTS, took);
    expect_fetches(1);
}

TEST(upstream_that_comes_back_is_found_again)
{
    struct client *c = client_open(server);
    int port = rogue_port(upstream);

    for (int i = 0; i < 3; i++) {
        ask(c, "up", "echo: up");
        context_server(server, NULL);
        rogue_stop(upstream);
        ask_error(c, "down");
        upstream = rogue_start(port);
        ck_assert_ptr_nonnull(upstream);
        context_server(server, upstream);
        ask(c, "again", "echo: again");
    }
    client_close(c);
}

/* What HTTP/1.1 allows. Two of these close a connection that they left open;
 * to ask again is then the client's part. */
static const char *const manners[] = {
    "/chunked", "/unsized", "/interim", "/stale", "/close-unsaid",
};

TEST(upstream_may_answer_in_its_own_manner)
{
    check_manner(manners[number]);
}

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
    say(c, "hello");
    ck_assert(client_hears(c, PATIENCE_MS));
    client_reset(c);
}

static void reset_with_lines_pending(struct client *c)
{
    for (int i = 0; i < 100; i++)
        say(c, "hello");
    client_reset(c);
}

static void reset_during_a_fetch(struct client *c)
{
    say(c, "/delay/100");
    let_pass(10);
    client_reset(c);
}

static void close_during_a_fetch(struct client *c)
{
    say(c, "/delay/100\nhello");
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

/* Runs this many fetches at once, so that the server has whatever it keeps for
 * each of them. */
static void warm_up(int fetches)
{
    struct client *clients[100];

    ck_assert_int_le(fetches, (int)COUNT(clients));
    for (int i = 0; i < fetches; i++) {
        clients[i] = client_open(server);
        say(clients[i], "/delay/300");
    }
    for (int i = 0; i < fetches; i++) {
        expect(clients[i], "/delay/300", "echo: /delay/300");
        client_finish(clients[i]);
        expect_end(clients[i]);
        client_close(clients[i]);
    }
}

TEST(client_that_leaves_harms_nobody)
{
    warm_up(30);
    struct holding before = server_rests(server);
    struct client *other = client_open(server);

    for (int i = 0; i < 20; i++) {
        departures[number].leave(client_open(server));
        ask(other, "hello", "echo: hello");
    }
    client_close(other);
    server_recovers(server, before);
}

TEST(client_that_never_reads_holds_nobody_up)
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
        ask(c, "hello", "echo: hello");
    client_close(c);
    client_reset(deaf);
}

TEST(slow_and_silent_clients_hold_nobody_up)
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
        ask(c, "hello", "echo: hello");
    client_close(c);
    for (int i = 0; i < CLIENTS; i++) {
        bool half = i % 2 == 0;
        say(clients[i], " line");
        expect(clients[i], half ? "half a line" : " line",
               half ? "echo: half a line" : "echo:  line");
        client_close(clients[i]);
    }
}

TEST(hanging_upstream_holds_its_own_client_only)
{
    struct client *hanging[10];

    for (size_t i = 0; i < COUNT(hanging); i++) {
        hanging[i] = client_open(server);
        say(hanging[i], "/hang");
    }
    await_busy(COUNT(hanging));
    struct client *c = client_open(server);
    for (int i = 0; i < 20; i++)
        ask(c, "hello", "echo: hello");
    client_close(c);
    for (size_t i = 0; i < COUNT(hanging); i++)
        client_close(hanging[i]);
}

TEST(a_thousand_connections_come_and_go_and_leave_nothing)
{
    enum { AT_ONCE = 100, ROUNDS = 10 };
    struct holding before = server_rests(server);
    struct client *clients[AT_ONCE];

    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < AT_ONCE; i++)
            clients[i] = client_open(server);
        /* One fetch at a time, so that the pool does not grow. */
        for (int i = 0; i < AT_ONCE; i++)
            ask(clients[i], "hello", "echo: hello");
        for (int i = 0; i < AT_ONCE; i++)
            client_close(clients[i]);
    }
    server_recovers(server, before);
}

TEST(endless_line_takes_little_memory)
{
    enum { PIECE = 1 << 20, PIECES = 48 };
    struct client *c = client_open(server);
    char *piece = malloc(PIECE);

    ck_assert_ptr_nonnull(piece);
    memset(piece, 'x', PIECE);
    ask(c, "hello", "echo: hello");
    long before = server_status(server, "VmHWM");
    for (int i = 0; i < PIECES; i++)
        client_send(c, piece, PIECE);
    free(piece);
    ask_error(c, "");
    ask(c, "next", "echo: next");
    if (!server_sanitized(server))
        ck_assert_int_lt(server_status(server, "VmHWM") - before, 16 << 10);
    client_close(c);
}

static const struct test {
    const char *tcase;
    const TTest *const *test;
    size_t count; /* its cases */
} protocol_tests[] = {
    {"lines", &test_exchange, COUNT(exchanges)},
    {"lines", &test_target_asked_for, COUNT(targets)},
    {"lines", &test_every_byte_is_encoded_and_returned, 1},
    {"lines", &test_all_bytes_in_one_line, 1},
    {"lines", &test_a_line_of_4000_bytes, 1},
    {"lines", &test_dribbled_bytes_make_a_line, 1},
    {"lines", &test_a_packet_ends_in_mid_line, 1},
    {"lines", &test_many_lines_before_the_first_reply_is_read, 1},
    {"lines", &test_half_close_leaves_no_line_unanswered, 1},
    {"lines", &test_replies_keep_the_order_of_the_lines, 1},
    {"lines", &test_line_of_4_mib_is_refused_and_the_next_served, 1},
    {"answers", &test_only_the_upstream_knows_the_reply, 1},
    {"answers", &test_body_becomes_one_line, COUNT(bodies)},
    {"answers", &test_empty_answers_are_empty_replies, 1},
    {"answers", &test_upstream_may_keep_the_connection_or_not, 2},
    {"answers", &test_upstream_failure_is_an_error_and_no_more,
     COUNT(failures)},
    {"answers", &test_errors_in_a_pipeline_are_one_line_each, 1},
    {"answers", &test_redirect_is_not_followed, 1},
    {"answers", &test_upstream_that_comes_back_is_found_again, 1},
    {"clients", &test_a_hundred_clients_get_their_own_replies, 1},
    {"clients", &test_fifty_clients_are_served_side_by_side, 1},
};

static const struct test robust_tests[] = {
    {"clients", &test_client_that_leaves_harms_nobody, COUNT(departures)},
    {"clients", &test_client_that_never_reads_holds_nobody_up, 1},
    {"clients", &test_slow_and_silent_clients_hold_nobody_up, 1},
    {"clients", &test_a_thousand_connections_come_and_go_and_leave_nothing, 1},
    {"clients", &test_endless_line_takes_little_memory, 1},
    {"answers", &test_body_in_chunks_becomes_one_line, COUNT(bodies)},
    {"answers", &test_upstream_may_answer_in_its_own_manner, COUNT(manners)},
    {"answers", &test_hanging_upstream_holds_its_own_client_only, 1},
};

/* A test's name in messages and on the command line. */
static const char *name_of(const struct test *test)
{
    return (*test->test)->name + strlen("test_");
}

/* What --only names: a test, and its case or -1 for all. */
struct only {
    const char *name; /* NULL for all tests */
    size_t name_len;
    int number;
};

/* Returns whether that text names a test; sets only. */
static bool parse_only(const char *text, struct only *only)
{
    const char *colon = strchr(text, ':');
    char *end = NULL;

    only->name = text;
    only->name_len = colon != NULL ? (size_t)(colon - text) : strlen(text);
    only->number = -1;
    if (colon != NULL) {
        long number = strtol(colon + 1, &end, 10);
        if (end == colon + 1 || *end != '\0' || number < 0 || number > 999)
            return false;
        only->number = (int)number;
    }
    return true;
}

/* Returns whether the test is wanted, and sets the range of its cases. */
static bool wanted(const struct test *test, const struct only *only,
                   int *first, int *end)
{
    const char *name = name_of(test);

    *first = 0;
    *end = (int)test->count;
    if (only->name == NULL)
        return true;
    if (strlen(name) != only->name_len ||
        strncmp(name, only->name, only->name_len) != 0)
        return false;
    if (only->number >= 0) {
        *first = only->number;
        *end = *end < only->number + 1 ? *end : only->number + 1;
    }
    return *first < *end;
}

static TCase *add_tests(Suite *suite, const char *name)
{
    TCase *tcase;

    if (!together)
        return add_case_with(suite, name, set_up, tear_down);
    tcase = add_case_with(suite, name, set_up_together, tear_down_together);
    tcase_add_unchecked_fixture(tcase, set_up_case, stop_server);
    return tcase;
}

/* Runs those tests of the table that are wanted, as a suite. Returns how many
 * failed, and adds to *found how many tests were wanted. */
static int run_tests(const char *name, const struct test *tests, size_t count,
                     const struct only *only, int *found)
{
    Suite *suite = suite_create(name);
    TCase *tcase = NULL;
    int before = *found;

    for (size_t i = 0; i < count; i++) {
        int first;
        int end;
        if (i == 0 || strcmp(tests[i].tcase, tests[i - 1].tcase) != 0)
            tcase = add_tests(suite, tests[i].tcase);
        if (!wanted(&tests[i], only, &first, &end))
            continue;
        ++*found;
        tcase_add_loop_test(tcase, *tests[i].test, first, end);
    }
    if (only->name != NULL && *found == before) {
        srunner_free(srunner_create(suite));
        return 0;
    }
    return run_suite(suite);
}

/* Before all others: if the server cannot be started, no test can pass. */
TEST(server_starts)
{
    client_close(client_open(server));
}

static int run_start(void)
{
    Suite *suite = suite_create("start");
    tcase_add_test(add_case_with(suite, "start", set_up, tear_down),
                   test_server_starts);
    return run_suite(suite);
}

static void list_tests(const struct test *tests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        printf("%s", name_of(&tests[i]));
        if (tests[i].count > 1)
            printf(":0 to :%zu", tests[i].count - 1);
        putchar('\n');
    }
}

static void show_request(unsigned long n)
{
    struct rogue_exchange *exchange = rogue_recall(upstream, n);
    size_t kept;

    if (exchange == NULL)
        return;
    quote(stdout, exchange->head, strcspn(exchange->head, "\r\n"), 79);
    fputs("\n    ", stdout);
    kept = exchange->answer_len < sizeof exchange->answer
               ? exchange->answer_len
               : sizeof exchange->answer;
    if (exchange->answered)
        quote(stdout, exchange->answer, kept, 75);
    else
        fputs("not answered yet", stdout);
    putchar('\n');
    rogue_forget(exchange);
}

/* Serves what the tests fetch from, until a signal. Returns the exit status.
 */
static int serve_upstream(const char *port, const char *path)
{
    const struct timespec pause = {0, 50 * 1000000};
    sigset_t signals;
    unsigned long shown = 0;

    upstream = rogue_start((int)strtol(port, NULL, 10));
    if (upstream == NULL) {
        fprintf(stderr, "test_protocol: --upstream %s: %s\n", port,
                strerror(errno));
        return 1;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    rogue_force(upstream, path);
    rogue_set_body(upstream, "one\r\ntwo\n", 9);
    printf("listening on 127.0.0.1:%d, answers\n"
           "    curl -i 'http://127.0.0.1:%d" UPSTREAM_PATH "?text=hello'\n",
           rogue_port(upstream), rogue_port(upstream));
    if (path == NULL)
        puts("A text like /short names another answer: see tests/rogue.h");
    do {
        for (; shown < rogue_counts(upstream).requests; shown++)
            show_request(shown);
        fflush(stdout);
    } while (sigtimedwait(&signals, NULL, &pause) < 0);
    rogue_stop(upstream);
    return 0;
}

static int usage(void)
{
    fputs(
        "usage: [SERVER=COMMAND] test_protocol [OPTION]\n"
        "  --protocol              without the tests of the suite \"robust\"\n"
        "  --together              the same, with one server for many tests\n"
        "  --only NAME[:NUMBER]    one test, or one of its cases\n"
        "  --list                  the names of the tests\n"
        "  --upstream PORT [PATH]  serve what the tests fetch from; it "
        "answers\n"
        "                          each request as it does PATH\n"
        "{port} and {upstream} in COMMAND are filled in.\n",
        stderr);
    return 2;
}

int main(int argc, char **argv)
{
    const char *option = argc > 1 ? argv[1] : "";
    bool protocol_only = argc == 2 && (strcmp(option, "--protocol") == 0 ||
                                       strcmp(option, "--together") == 0);
    struct only only = {.name = NULL};
    int found = 0;

    if (argc == 2 && strcmp(option, "--list") == 0) {
        list_tests(protocol_tests, COUNT(protocol_tests));
        list_tests(robust_tests, COUNT(robust_tests));
        return 0;
    }
    if ((argc == 3 || argc == 4) && strcmp(option, "--upstream") == 0)
        return serve_upstream(argv[2], argv[3]);
    if (argc > 1 && !protocol_only &&
        (argc != 3 || strcmp(option, "--only") != 0 ||
         !parse_only(argv[2], &only)))
        return usage();

    together = strcmp(option, "--together") == 0;
    context_program(argv[0]);
    if (run_start() > 0)
        return 1;
    int failed = run_tests("protocol", protocol_tests, COUNT(protocol_tests),
                           &only, &found);
    if (!protocol_only)
        failed += run_tests("robust", robust_tests, COUNT(robust_tests), &only,
                            &found);
    if (found == 0) {
        fprintf(stderr, "test_protocol: no test %s: see --list\n", argv[2]);
        return 2;
    }
    return failed == 0 ? 0 : 1;
}
