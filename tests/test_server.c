/*
 * Unit tests of server.c: the line reader, the reply builder and the options.
 * The file is included whole, and its reader receives what a script says.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* as server.c */
#include <poll.h>
#include <sys/socket.h>

int threadecho_main(int argc, char **argv);
static ssize_t scripted_recv(int fd, void *data, size_t size, int flags);
static int scripted_poll(struct pollfd *fds, nfds_t count, int timeout);

#define main threadecho_main
#define recv scripted_recv
#define poll scripted_poll
#include "../server.c"
#undef poll
#undef recv
#undef main

#include <check.h>

/* What the reader receives: data, in pieces of so many bytes, then EOF. */
static struct {
    const char *data;
    size_t len;
    size_t piece;
    size_t most_asked; /* the largest room that recv was offered */
} script;

static ssize_t scripted_recv(int fd, void *data, size_t size, int flags)
{
    (void)fd;
    (void)flags;
    ck_assert_uint_gt(size, 0);
    size_t n = script.len < script.piece ? script.len : script.piece;
    if (n > size)
        n = size;
    if (size > script.most_asked)
        script.most_asked = size;
    memcpy(data, script.data, n);
    script.data += n;
    script.len -= n;
    return (ssize_t)n;
}

static int scripted_poll(struct pollfd *fds, nfds_t count, int timeout)
{
    (void)fds;
    (void)count;
    ck_assert_int_gt(timeout, 0);
    return 1;
}

static struct reader make_reader(size_t limit)
{
    struct reader reader = {.limit = limit,
                            .line_timeout_ms = 60000,
                            .left = -1,
                            .data = malloc(READ_SIZE),
                            .size = READ_SIZE};
    ck_assert_ptr_nonnull(reader.data);
    return reader;
}

/* Reads every line and writes down what came: <text> for a line, and
 * <!reason> for one that is not served. */
static size_t transcribe(struct reader *reader, char *out, size_t size)
{
    struct line line;
    size_t len = 0;

    while (read_line(reader, &line)) {
        const char *text = line.text;
        size_t text_len = line.len;
        const char *mark = "";
        if (line.reason != FETCH_OK) {
            text = reason_text(line.reason);
            text_len = strlen(text);
            mark = "!";
        }
        ck_assert_uint_le(len + text_len + 3, size);
        out[len++] = '<';
        memcpy(out + len, mark, strlen(mark));
        len += strlen(mark);
        memcpy(out + len, text, text_len);
        len += text_len;
        out[len++] = '>';
    }
    return len;
}

START_TEST(test_read_line_does_not_serve_half_a_line_when_stopping)
{
    struct reader reader = make_reader(8);
    char lines[64];

    script.data = "one\ntwo\n"; /* of which the last two came too late */
    script.len = 8;
    script.piece = 8;
    reader.left = 6;
    size_t len = transcribe(&reader, lines, sizeof lines);
    lines[len] = '\0';
    ck_assert_str_eq(lines, "<one><!server stopping>");
    free(reader.data);
}
END_TEST

#define BYTES(literal) (literal), sizeof(literal) - 1

/* Limit 8 throughout. */
static const struct {
    const char *input;
    size_t input_len;
    const char *lines;
    size_t lines_len;
} reader_cases[] = {
    {BYTES(""), BYTES("")},
    {BYTES("\n"), BYTES("<>")},
    {BYTES("one\n"), BYTES("<one>")},
    {BYTES("one\ntwo\n"), BYTES("<one><two>")},
    {BYTES("one\n\n\ntwo\n"), BYTES("<one><><><two>")},
    /* The end of the input ends a line, but not an empty one. */
    {BYTES("one"), BYTES("<one>")},
    {BYTES("one\ntwo"), BYTES("<one><two>")},
    {BYTES("\r"), BYTES("<\r>")},
    {BYTES("one\r"), BYTES("<one\r>")},
    /* One CR before the LF goes, any other is data. */
    {BYTES("one\r\n"), BYTES("<one>")},
    {BYTES("\r\n"), BYTES("<>")},
    {BYTES("one\r\r\n"), BYTES("<one\r>")},
    {BYTES("o\rne\r\n"), BYTES("<o\rne>")},
    {BYTES("one\n\rtwo\n"), BYTES("<one><\rtwo>")},
    /* Any byte is data. */
    {BYTES("o\0e\n\0\n"), BYTES("<o\0e><\0>")},
    {BYTES("\xff\xc3\x28\x80\n"), BYTES("<\xff\xc3\x28\x80>")},
    {BYTES("\x01\x1b\x7f\t \n"), BYTES("<\x01\x1b\x7f\t >")},
    /* The limit counts what is served, not the line break. */
    {BYTES("12345678\n"), BYTES("<12345678>")},
    {BYTES("12345678\r\n"), BYTES("<12345678>")},
    {BYTES("12345678\r"), BYTES("<!line too long>")},
    {BYTES("12345678"), BYTES("<12345678>")},
    {BYTES("1234567\r\r\n"), BYTES("<1234567\r>")},
    {BYTES("123456789\n"), BYTES("<!line too long>")},
    {BYTES("123456789\r\n"), BYTES("<!line too long>")},
    {BYTES("123456789"), BYTES("<!line too long>")},
    {BYTES("12345678\r\r\n"), BYTES("<!line too long>")},
    {BYTES("12345678\rx\n"), BYTES("<!line too long>")},
    /* The rest of a long line is gone, and the next one is served. */
    {BYTES("123456789\none\n"), BYTES("<!line too long><one>")},
    {BYTES("1234567890abcdef0123456789abcdef\none\n"),
     BYTES("<!line too long><one>")},
    {BYTES("1234567890\r\r\n\none"), BYTES("<!line too long><><one>")},
    {BYTES("123456789\n123456789\none\n"),
     BYTES("<!line too long><!line too long><one>")},
    {BYTES("one\n1234567890abcdef0123456789abcdef"),
     BYTES("<one><!line too long>")},
    {BYTES("123456789\n12345678\n"), BYTES("<!line too long><12345678>")},
};

/* Every input in pieces of every size: the pieces must make no difference. */
START_TEST(test_read_line_cuts_lines_wherever_the_pieces_end)
{
    const size_t count = sizeof reader_cases / sizeof reader_cases[0];
    size_t c = (size_t)_i;
    char lines[256];

    ck_assert_uint_lt(c, count);
    for (size_t piece = 1; piece <= reader_cases[c].input_len + 1; piece++) {
        struct reader reader = make_reader(8);
        script.data = reader_cases[c].input;
        script.len = reader_cases[c].input_len;
        script.piece = piece;
        size_t len = transcribe(&reader, lines, sizeof lines);
        ck_assert_msg(len == reader_cases[c].lines_len &&
                          memcmp(lines, reader_cases[c].lines, len) == 0,
                      "in pieces of %zu: %.*s, not %s", piece, (int)len, lines,
                      reader_cases[c].lines);
        free(reader.data);
    }
}
END_TEST

/* A line of limit bytes is served, one of limit + 1 is not, in the buffer's
 * own sizes and around them, and the memory stays within the limit. */
START_TEST(test_read_line_holds_the_limit_in_bounded_memory)
{
    static const size_t limits[] = {1,   2,    509,  510,  511,  512,
                                    513, 1023, 1024, 5000, 65536};
    size_t limit = limits[_i];
    size_t len = 4 * limit + 6;
    char *input = malloc(len);
    ck_assert_ptr_nonnull(input);
    memset(input, 'a', len);
    input[limit] = '\n';
    input[2 * limit + 2] = '\n'; /* after limit + 1 bytes */
    input[len - 2] = 'b';
    input[len - 1] = '\n';
    /* The third is far over it, the rest a line that is not. */
    input[len - 3] = '\n';

    for (size_t piece = 1 + limit / 5000; piece < 3 * limit;
         piece = piece * 3 + 1) {
        struct reader reader = make_reader(limit);
        struct line line;
        script.data = input;
        script.len = len;
        script.piece = piece;
        script.most_asked = 0;
        ck_assert(read_line(&reader, &line));
        ck_assert_uint_eq(line.reason, FETCH_OK);
        ck_assert_uint_eq(line.len, limit);
        ck_assert(read_line(&reader, &line));
        ck_assert_uint_eq(line.reason, FETCH_LINE_TOO_LONG);
        ck_assert(read_line(&reader, &line));
        ck_assert_uint_eq(line.reason, FETCH_LINE_TOO_LONG);
        ck_assert(read_line(&reader, &line));
        ck_assert_uint_eq(line.reason, FETCH_OK);
        ck_assert_uint_eq(line.len, 1);
        ck_assert_int_eq(line.text[0], 'b');
        ck_assert(!read_line(&reader, &line));
        size_t most = limit + 2 > READ_SIZE ? limit + 2 : READ_SIZE;
        ck_assert_uint_le(reader.size, most);
        ck_assert_uint_le(script.most_asked, most);
        free(reader.data);
    }
    free(input);
}
END_TEST

START_TEST(test_read_line_shrinks_after_a_long_line)
{
    static char input[40000];
    struct reader reader = make_reader(65536);
    struct line line;

    memset(input, 'a', sizeof input);
    input[sizeof input - 3] = '\n';
    input[sizeof input - 1] = '\n';
    script.data = input;
    script.len = sizeof input;
    script.piece = sizeof input - 2;
    ck_assert(read_line(&reader, &line));
    ck_assert_uint_eq(line.len, sizeof input - 3);
    ck_assert_uint_gt(reader.size, READ_SIZE);
    ck_assert(read_line(&reader, &line));
    ck_assert_uint_eq(line.len, 1);
    ck_assert(!read_line(&reader, &line));
    ck_assert_uint_eq(reader.size, READ_SIZE);
    free(reader.data);
}
END_TEST

static const struct {
    const char *body;
    size_t body_len;
    const char *reply;
    size_t reply_len;
} reply_cases[] = {
    {BYTES(""), BYTES("echo: \n")},
    {BYTES("one"), BYTES("echo: one\n")},
    {BYTES("one\n"), BYTES("echo: one\n")},
    {BYTES("one\r\n\r\n\n"), BYTES("echo: one\n")},
    {BYTES("\r\n\n"), BYTES("echo: \n")},
    {BYTES("one\ntwo"), BYTES("echo: one two\n")},
    {BYTES("one\r\n\n\rtwo\rthree\n"), BYTES("echo: one two three\n")},
    {BYTES("\none"), BYTES("echo:  one\n")},
    {BYTES(" one \n two "), BYTES("echo:  one   two \n")},
    {BYTES("o\0e\n\0"), BYTES("echo: o\0e \0\n")},
    {BYTES("\t\v\f\x80\xff"), BYTES("echo: \t\v\f\x80\xff\n")},
};

START_TEST(test_reply_is_one_line_whatever_the_body)
{
    struct buffer reply = {.data = malloc(REPLY_SIZE), .size = REPLY_SIZE};
    ck_assert_ptr_nonnull(reply.data);
    begin_reply(&reply);
    ck_assert(
        buffer_append(&reply, reply_cases[_i].body, reply_cases[_i].body_len));
    finish_reply(&reply, FETCH_OK, 200);
    ck_assert_uint_eq(reply.len, reply_cases[_i].reply_len);
    ck_assert_mem_eq(reply.data, reply_cases[_i].reply, reply.len);
    free(reply.data);
}
END_TEST

START_TEST(test_reply_of_a_reason_holds_no_body)
{
    struct buffer reply = {.data = malloc(REPLY_SIZE), .size = REPLY_SIZE};
    char expected[REPLY_SIZE];

    ck_assert_ptr_nonnull(reply.data);
    for (unsigned reason = FETCH_OK + 1; reason < REASONS; reason++) {
        begin_reply(&reply);
        ck_assert(buffer_append(&reply, "part of a body", 14));
        finish_reply(&reply, reason, 404);
        snprintf(expected, sizeof expected, "error: %s%s\n",
                 reason_text(reason), reason == FETCH_RETURNED ? " 404" : "");
        ck_assert_uint_eq(reply.len, strlen(expected));
        ck_assert_mem_eq(reply.data, expected, reply.len);
    }
    free(reply.data);
}
END_TEST

START_TEST(test_reply_buffer_shrinks_after_a_long_body)
{
    static char body[100000];
    struct buffer reply = {.data = malloc(REPLY_SIZE), .size = REPLY_SIZE};

    ck_assert_ptr_nonnull(reply.data);
    begin_reply(&reply);
    memset(body, 'a', sizeof body);
    ck_assert(buffer_append(&reply, body, sizeof body));
    finish_reply(&reply, FETCH_OK, 200);
    ck_assert_uint_eq(reply.len, sizeof body + 7);
    shrink_reply(&reply);
    ck_assert_uint_eq(reply.size, REPLY_SIZE);
    free(reply.data);
}
END_TEST

/* What is wrong with an option is said on stderr, which is not tested here. */
static void silence_stderr(void)
{
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr));
}

/* Parses up to three arguments. */
static int parse(struct options *options, const char *a, const char *b,
                 const char *c)
{
    char *argv[] = {"threadecho", (char *)a, (char *)b, (char *)c, NULL};
    int argc = 1;
    while (argv[argc] != NULL)
        argc++;
    optind = 0; /* start anew, in GNU's getopt */
    return parse_options(argc, argv, options);
}

START_TEST(test_options_have_the_documented_defaults)
{
    struct options options;

    ck_assert_int_eq(parse(&options, NULL, NULL, NULL), -1);
    ck_assert_str_eq(options.listen, "127.0.0.1:8080");
    ck_assert_str_eq(options.upstream, "http://127.0.0.1:8081/arrpi.php");
    ck_assert_ptr_null(options.cacert);
    ck_assert(!options.echo);
    ck_assert(!options.no_keepalive);
    ck_assert(!options.verbose);
    ck_assert_int_eq(options.timeout_ms, 10000);
    ck_assert_int_eq(options.connect_timeout_ms, 3000);
    ck_assert_int_eq(options.line_timeout_ms, 60000);
    ck_assert_int_eq(options.idle_timeout_ms, 0);
    ck_assert_int_eq(options.max_line, 65536);
    ck_assert_int_eq(options.max_body, 1048576);
    ck_assert_int_eq(options.stack_kib, 128);
}
END_TEST

/* Which value each number goes to, and what it becomes there. */
static const struct {
    const char *option;
    const char *value;
    size_t where;
    long number;
} number_cases[] = {
    {"--timeout", "0.001", offsetof(struct options, timeout_ms), 1},
    {"--timeout", "86400", offsetof(struct options, timeout_ms), 86400000},
    {"--timeout", "1.5", offsetof(struct options, timeout_ms), 1500},
    {"--connect-timeout", ".25", offsetof(struct options, connect_timeout_ms),
     250},
    {"--line-timeout", "2.", offsetof(struct options, line_timeout_ms), 2000},
    {"--idle-timeout", "0", offsetof(struct options, idle_timeout_ms), 0},
    {"--idle-timeout", "7", offsetof(struct options, idle_timeout_ms), 7000},
    {"--max-connections", "1", offsetof(struct options, max_connections), 1},
    {"--max-connections", "1000000", offsetof(struct options, max_connections),
     1000000},
    {"--max-fetches", "100000", offsetof(struct options, max_fetches), 100000},
    {"--max-line", "1", offsetof(struct options, max_line), 1},
    {"--max-line", "1048576", offsetof(struct options, max_line), 1048576},
    {"--max-body", "1073741824", offsetof(struct options, max_body),
     1073741824},
    {"--stack-size", "64", offsetof(struct options, stack_kib), 64},
};

START_TEST(test_options_take_numbers_in_range)
{
    struct options options;
    long number;

    ck_assert_int_eq(
        parse(&options, number_cases[_i].option, number_cases[_i].value, NULL),
        -1);
    memcpy(&number, (char *)&options + number_cases[_i].where, sizeof number);
    ck_assert_int_eq(number, number_cases[_i].number);
}
END_TEST

static const char *const bad_numbers[] = {
    "",     " 1",   "1 ", "+1",   "-1",  "1x",  "x",
    "0x10", "1e3",  ".",  "1..2", "inf", "nan", "99999999999999999999",
    "0",    "86401"};

/* Each option that takes seconds or a count, against each bad number. */
START_TEST(test_options_refuse_what_is_no_number_in_range)
{
    static const char *const names[] = {"--timeout",      "--connect-timeout",
                                        "--line-timeout", "--max-fetches",
                                        "--max-line",     "--stack-size"};
    struct options options;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        bool in_range = strcmp(bad_numbers[_i], "86401") == 0 && i >= 3;
        ck_assert_int_eq(parse(&options, names[i], bad_numbers[_i], NULL),
                         in_range ? -1 : 2);
    }
}
END_TEST

START_TEST(test_options_switch_what_they_name)
{
    struct options options;

    ck_assert_int_eq(parse(&options, "-e", "-v", "--no-keepalive"), -1);
    ck_assert(options.echo);
    ck_assert(options.verbose);
    ck_assert(options.no_keepalive);
    ck_assert_int_eq(
        parse(&options, "-l[::1]:0", "-uhttp://x/", "--cacert=ca.pem"), -1);
    ck_assert_str_eq(options.listen, "[::1]:0");
    ck_assert_str_eq(options.upstream, "http://x/");
    ck_assert_str_eq(options.cacert, "ca.pem");
}
END_TEST

START_TEST(test_options_refuse_what_is_unknown_or_lacks_a_value)
{
    struct options options;

    ck_assert_int_eq(parse(&options, "--nonsense", NULL, NULL), 2);
    ck_assert_int_eq(parse(&options, "-z", NULL, NULL), 2);
    ck_assert_int_eq(parse(&options, "--listen", NULL, NULL), 2);
    ck_assert_int_eq(parse(&options, "-u", NULL, NULL), 2);
    ck_assert_int_eq(parse(&options, "--echo=yes", NULL, NULL), 2);
    ck_assert_int_eq(parse(&options, "-e", "extra", NULL), 2);
}
END_TEST

static const struct {
    const char *text;
    const char *host; /* NULL: refused */
    const char *port;
} address_cases[] = {
    {"127.0.0.1:8080", "127.0.0.1", "8080"},
    {"localhost:0", "localhost", "0"},
    {":65535", "", "65535"},
    {"[::]:80", "::", "80"},
    {"[::1]:080", "::1", "080"},
    {"127.0.0.1", NULL, NULL},
    {"127.0.0.1:", NULL, NULL},
    {"127.0.0.1:65536", NULL, NULL},
    {"127.0.0.1:99999999999", NULL, NULL},
    {"127.0.0.1:80x", NULL, NULL},
    {"127.0.0.1: 80", NULL, NULL},
    {"127.0.0.1:+80", NULL, NULL},
    {"127.0.0.1:-1", NULL, NULL},
    {"::1:80", NULL, NULL},
    {"[::1]80", NULL, NULL},
    {"[::1:80", NULL, NULL},
    {"[]:80", NULL, NULL},
    {"", NULL, NULL},
    {"8080", NULL, NULL},
};

START_TEST(test_split_address_takes_host_and_port_or_nothing)
{
    char host[HOST_SIZE];
    const char *port;
    bool ok = split_address(address_cases[_i].text, host, &port);

    ck_assert_int_eq(ok, address_cases[_i].host != NULL);
    if (ok) {
        ck_assert_str_eq(host, address_cases[_i].host);
        ck_assert_str_eq(port, address_cases[_i].port);
    }
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

static TCase *reader_tests(void)
{
    TCase *tests = tcase_create("reader");
    tcase_add_loop_test(tests,
                        test_read_line_cuts_lines_wherever_the_pieces_end, 0,
                        COUNT(reader_cases));
    tcase_add_loop_test(
        tests, test_read_line_holds_the_limit_in_bounded_memory, 0, 11);
    tcase_add_test(tests, test_read_line_shrinks_after_a_long_line);
    tcase_add_test(tests,
                   test_read_line_does_not_serve_half_a_line_when_stopping);
    return tests;
}

static TCase *reply_tests(void)
{
    TCase *tests = tcase_create("reply");
    tcase_add_loop_test(tests, test_reply_is_one_line_whatever_the_body, 0,
                        COUNT(reply_cases));
    tcase_add_test(tests, test_reply_of_a_reason_holds_no_body);
    tcase_add_test(tests, test_reply_buffer_shrinks_after_a_long_body);
    return tests;
}

static TCase *option_tests(void)
{
    TCase *tests = tcase_create("options");
    tcase_add_checked_fixture(tests, silence_stderr, NULL);
    tcase_add_test(tests, test_options_have_the_documented_defaults);
    tcase_add_loop_test(tests, test_options_take_numbers_in_range, 0,
                        COUNT(number_cases));
    tcase_add_loop_test(tests, test_options_refuse_what_is_no_number_in_range,
                        0, COUNT(bad_numbers));
    tcase_add_test(tests, test_options_switch_what_they_name);
    tcase_add_test(tests,
                   test_options_refuse_what_is_unknown_or_lacks_a_value);
    tcase_add_loop_test(tests,
                        test_split_address_takes_host_and_port_or_nothing, 0,
                        COUNT(address_cases));
    return tests;
}

int main(void)
{
    Suite *suite = suite_create("server");
    suite_add_tcase(suite, reader_tests());
    suite_add_tcase(suite, reply_tests());
    suite_add_tcase(suite, option_tests());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
