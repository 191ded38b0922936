/*
 * Unit tests of lib/response: which bytes are an HTTP/1.x response, what its
 * body is, and which are refused. Each goes in whole and in pieces.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../lib/response.h"
#include "allocations.h"
#include "harness.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define realloc failing_realloc
#include "../lib/reply.c"
#undef realloc

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define BYTES(literal) (literal), sizeof(literal) - 1

#define MAX_BODY 16
#define MAX_HEAD (64 * 1024)

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n\r\n"
#define LENGTH_3 OK "Content-Length: 3\r\n\r\n"

/* How the reader stands when all bytes have been taken. */
enum outcome {
    WHOLE,   /* the response is complete */
    UNSIZED, /* it is, if this was the end */
    SURPLUS, /* it is, and more came */
    CUT,     /* more must come */
    BAD,
    LARGE
};

static const char *const outcomes[] = {
    "whole", "unsized", "surplus", "cut", "bad HTTP", "too large",
};

static struct response response;
static struct buffer body;

/* A response is appended to what the buffer holds. */
static void begin(void)
{
    body.len = 0;
    ck_assert(buffer_append(&body, BYTES("kept")));
    response_begin(&response, &body, MAX_BODY);
}

static void tear_down(void)
{
    free(body.data);
}

/* Takes the bytes as fetch.c passes them: heads line by line, as far as they
 * have their LF, then the body up to cut, and then in pieces. */
static enum outcome take(const char *data, size_t len, size_t cut,
                         size_t piece)
{
    enum reason reason = REASON_NONE;
    const char *end = data + len;

    begin();
    while (reason == REASON_NONE && data < end) {
        const char *next;
        if (response_has_head(&response)) {
            next = data + cut;
            if (cut == 0 || next > end)
                next = end;
            cut = piece;
        } else {
            next = memchr(data, '\n', (size_t)(end - data));
            if (next == NULL)
                break;
            next++;
        }
        reason = response_take(&response, data, (size_t)(next - data));
        data = next;
    }
    ck_assert_uint_ge(body.len, 4);
    ck_assert_uint_le(body.len, 4 + MAX_BODY);
    ck_assert_mem_eq(body.data, "kept", 4);
    if (reason != REASON_NONE) /* what was not read may be no surplus */
        ck_assert(!response.surplus);
    if (reason == REASON_BAD_HTTP)
        return BAD;
    if (reason == REASON_TOO_LARGE)
        return LARGE;
    ck_assert_int_eq(reason, REASON_NONE);
    if (!response_is_complete(&response)) {
        ck_assert(!response.surplus);
        ck_assert(!response_ends_by_close(&response));
        return CUT;
    }
    if (response_ends_by_close(&response))
        return UNSIZED;
    return response.surplus ? SURPLUS : WHOLE;
}

static void expect_body(const char *text)
{
    ck_assert_msg(body.len == 4 + strlen(text) &&
                      memcmp(body.data + 4, text, strlen(text)) == 0,
                  "body %.*s, not %s", (int)body.len - 4, body.data + 4, text);
}

/* Expects the outcome in whatever pieces the body comes. */
static void expect_bytes(const char *data, size_t len, enum outcome outcome,
                         const char *text)
{
    for (size_t piece = 0; piece <= 1; piece++)
        for (size_t cut = piece; cut <= len; cut++) {
            enum outcome got = take(data, len, cut, piece);
            ck_assert_msg(got == outcome,
                          "%s in pieces of %zu, %zu: %s, "
                          "not %s",
                          data, cut, piece, outcomes[got], outcomes[outcome]);
            if (outcome <= SURPLUS)
                expect_body(text);
        }
    /* However much of it is missing, a part does not pass for all of it. */
    for (size_t part = 0; outcome == WHOLE && part < len; part++)
        ck_assert_msg(take(data, part, 0, 0) == CUT, "%zu bytes of %s", part,
                      data);
}

/* A response that is made as by printf. */
__attribute__((format(printf, 3, 4))) static void
expect(enum outcome outcome, const char *text, const char *format, ...)
{
    char data[1024];
    va_list args;

    va_start(args, format);
    int len = vsnprintf(data, sizeof data, format, args);
    va_end(args);
    ck_assert_int_lt(len, (int)sizeof data);
    expect_bytes(data, (size_t)len, outcome, text);
}

/*
 * Heads
 */

START_TEST(test_status_line_is_taken)
{
    static const char *const lines[] = {
        "HTTP/1.1 200 OK",         "HTTP/1.0 200 OK",
        "HTTP/1.9 200 OK",         "HTTP/1.1 200",
        "HTTP/1.1 200 ",           "HTTP/1.1 200  OK ",
        "HTTP/1.1 200 \t\x80\xff", "HTTP/1.1 200 HTTP/1.1 404 No",
    };

    for (int i = 0; i < COUNT(lines); i++) {
        expect(WHOLE, "abc", "%s\r\nContent-Length: 3\r\n\r\nabc", lines[i]);
        expect(WHOLE, "abc", "%s\nContent-Length: 3\n\nabc", lines[i]);
        expect(UNSIZED, "abc", "%s\r\n\r\nabc", lines[i]);
        ck_assert_int_eq(response.status, 200);
    }
}
END_TEST

START_TEST(test_status_line_is_refused)
{
    static const char *const lines[] = {
        "",
        "200 OK",
        "ICY 200 OK",
        "HTTP",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1 OK",
        "HTTP/1.1 2",
        "HTTP/1.1 20",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2 0",
        "HTTP/1.1 2000",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200-OK",
        "HTTP/1.1 +20",
        "HTTP/1.1 0xc",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 4294967496 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1200 OK",
        "HTTP/1.10 200 OK",
        "HTTP/1. 200 OK",
        "HTTP/1.x 200 OK",
        "HTTP/1 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/2 200",
        "HTTP/2 200 OK",
        "HTTP/2.0 200 OK",
        "HTTP/2 4294967496",
        "HTTP/3.1 200 OK",
        "HTTP/11.1 200 OK",
        "http/1.1 200 OK",
        "Http/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "\tHTTP/1.1 200 OK",
        "HTTP /1.1 200 OK",
        "HTTP/1.1 200 a\rb",
        "\rHTTP/1.1 200 OK",
        "\xef\xbb\xbfHTTP/1.1 200 OK",
        "<html>",
    };

    for (int i = 0; i < COUNT(lines); i++)
        expect(BAD, "", "%s\r\nContent-Length: 3\r\n\r\nabc", lines[i]);
    expect_bytes(BYTES("HTTP/1.1 200 \0\r\n\r\n"), BAD, "");
    expect_bytes(BYTES("\0HTTP/1.1 200 OK\r\n\r\n"), BAD, "");
}
END_TEST

/* All of three digits; the first says what it is. */
START_TEST(test_any_status_is_taken)
{
    for (int status = 100; status <= 999; status++) {
        enum outcome outcome = WHOLE;
        if (status < 200)
            outcome =
                status == 101 ? BAD : CUT; /* the final head is to come */
        expect(outcome, "", "HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n",
               status);
        ck_assert_int_eq(response.status, status);
    }
}
END_TEST

/* Which have no body, whatever their heads say. */
START_TEST(test_status_without_a_body_ends_with_the_head)
{
    static const int statuses[] = {204, 304};

    for (int i = 0; i < COUNT(statuses); i++) {
        expect(WHOLE, "", "HTTP/1.1 %d x\r\n\r\n", statuses[i]);
        expect(WHOLE, "", "HTTP/1.1 %d x\r\nContent-Length: 3\r\n\r\n",
               statuses[i]);
        expect(WHOLE, "", "HTTP/1.1 %d x\r\nContent-Length: 9999\r\n\r\n",
               statuses[i]);
        expect(WHOLE, "",
               "HTTP/1.1 %d x\r\nTransfer-Encoding: chunked\r\n\r\n",
               statuses[i]);
        expect(SURPLUS, "", "HTTP/1.1 %d x\r\nContent-Length: 3\r\n\r\nabc",
               statuses[i]);
        expect(BAD, "", "HTTP/1.1 %d x\r\nContent-Length: x\r\n\r\n",
               statuses[i]);
    }
}
END_TEST

START_TEST(test_field_is_taken)
{
    static const char *const fields[] = {
        "X: y",
        "X:y",
        "X:",
        "X: ",
        "X:: y",
        "X: y: z",
        "X:\ty\t",
        "X: \x80\xff\x01\x7f",
        "!#$%&'*+-.^_`|~09azAZ: y",
        "Content-Lengths: 5",
        "Content-Lengt: 5",
        "Content_Length: 5",
        "X-Content-Length: 5",
        "Transfer-Encodings: gzip",
        "Transfer-Encodinh: gzip",
        "Content-Lengti: x",
        "Trailer: Content-Length",
    };

    for (int i = 0; i < COUNT(fields); i++) {
        expect(WHOLE, "abc", OK "%s\r\nContent-Length: 3\r\n\r\nabc",
               fields[i]);
        expect(WHOLE, "abc", OK "Content-Length: 3\n%s\n\nabc", fields[i]);
    }
}
END_TEST

START_TEST(test_field_is_refused)
{
    static const char *const fields[] = {
        "no colon",
        "X",
        ":",
        ": y",
        "X : y",
        "X\t: y",
        "X y: z",
        "X(y): z",
        "X;: y",
        "\"X\": y",
        "X: a\rb",
        "X: a\r",
        "\rX: y",
        "X\x80: y",
        "Content-Length : 3",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
    };

    for (int i = 0; i < COUNT(fields); i++) {
        expect(BAD, "", OK "%s\r\n\r\n3\r\nabc\r\n0\r\n\r\n", fields[i]);
        expect(BAD, "", OK "X: y\r\n%s\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
               fields[i]);
    }
    expect_bytes(BYTES(OK "X: a\0b\r\n\r\n"), BAD, "");
    expect_bytes(BYTES(OK "X\0: y\r\n\r\n"), BAD, "");
}
END_TEST

START_TEST(test_field_name_is_a_token)
{
    static const char others[] = "!#$%&'*+-.^_`|~";

    for (int byte = 0; byte < 256; byte++) {
        char data[] = OK "X?: y\r\n\r\n";
        bool is_token = (byte >= '0' && byte <= '9') ||
                        (byte >= 'A' && byte <= 'Z') ||
                        (byte >= 'a' && byte <= 'z') ||
                        (byte > 0 && strchr(others, byte) != NULL);
        *strchr(data, '?') = (char)byte;
        if (byte == ':') /* that ends the name, and begins the value */
            is_token = true;
        ck_assert_msg(take(data, sizeof data - 1, 0, 0) ==
                          (is_token ? UNSIZED : BAD),
                      "byte %d", byte);
    }
}
END_TEST

/* libcurl before 8.1.0 corrupts its heap on the first of these. */
START_TEST(test_continued_line_is_refused_where_it_could_mean_something)
{
    static const char *const heads[] = {
        OK "%sX: y\r\n",
        OK "%s\r\n",
        "HTTP/1.1 100 x\r\n%sX: y\r\n\r\n" OK,
        "HTTP/1.1 100 x\r\n\r\n" OK "%sX: y\r\n",
        OK "Content-Length: 3\r\n%s0\r\n",
        OK "Content-Length: 3\r\n%s\r\n",
        OK "Content-Length:\r\n%s3\r\n",
        OK "Transfer-Encoding:\r\n%schunked\r\n",
        OK "Transfer-Encoding: chunked\r\n%s,gzip\r\n",
        "HTTP/1.1 100 x\r\nContent-Length: 3\r\n%s0\r\n\r\n" OK,
    };
    static const char *const blanks[] = {" ", "\t", "  \t"};
    char data[256];

    for (int i = 0; i < COUNT(heads); i++)
        for (int j = 0; j < COUNT(blanks); j++) {
            const char *at = strstr(heads[i], "%s");
            snprintf(data, sizeof data, "%.*s%s%s\r\nabc",
                     (int)(at - heads[i]), heads[i], blanks[j], at + 2);
            expect_bytes(data, strlen(data), BAD, "");
        }
}
END_TEST

START_TEST(test_continued_line_of_another_field_is_not_looked_at)
{
    expect(UNSIZED, "abc", OK "X: y\r\n Content-Length: 2\r\n\r\nabc");
    expect(UNSIZED, "abc", OK "X: y\r\n\tz\r\n \r\n z\r\n\r\nabc");
    expect(WHOLE, "abc",
           OK "Content-Length: 3\r\nX: y\r\n no colon\r\n\r\nabc");
    expect(WHOLE, "abc", OK "X:\r\n y\r\nContent-Length: 3\r\n\r\nabc");
    expect(BAD, "", OK "X: y\r\n a\rb\r\n\r\nabc");
}
END_TEST

START_TEST(test_interim_response_has_no_content)
{
    static const char *const heads[] = {
        "HTTP/1.1 100 Continue\r\n",
        "HTTP/1.1 102 Processing\r\nX: y\r\n",
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n",
        "HTTP/1.1 100 x\r\nContent-Length: 9999\r\n",
        "HTTP/1.1 100 x\r\nContent-Length: x\r\n",
        "HTTP/1.1 100 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "HTTP/1.1 199 x\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 100 x\r\nTransfer-Encoding: gzip\r\n",
        "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 103 x\r\n",
    };

    for (int i = 0; i < COUNT(heads); i++) {
        expect(WHOLE, "abc", "%s\r\n" LENGTH_3 "abc", heads[i]);
        expect(WHOLE, "abc", "%s\r\n" CHUNKED "3\r\nabc\r\n0\r\n\r\n",
               heads[i]);
        expect(UNSIZED, "abc", "%s\r\n" OK "\r\nabc", heads[i]);
        expect(CUT, "", "%s\r\n", heads[i]);
        expect(BAD, "", "%s\r\nabc\r\n", heads[i]);
    }
}
END_TEST

/* At the empty line, and not when the upstream closes at last. */
START_TEST(test_switch_of_protocols_is_refused_at_once)
{
    expect(BAD, "",
           "HTTP/1.1 101 Switching Protocols\r\n"
           "Upgrade: x\r\nConnection: Upgrade\r\n\r\n");
    expect(BAD, "", "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 101 x\r\n\r\n");
    expect(BAD, "", "HTTP/1.1 101 x\r\n\r\n" LENGTH_3 "abc");
}
END_TEST

/* Heads of this many bytes in all, and the body abc. */
static void expect_long_head(size_t size, size_t line_size, bool interim,
                             enum outcome outcome)
{
    static char data[MAX_HEAD + 64];
    const char *first = interim ? "HTTP/1.1 100 x\r\n" : OK;
    const char *rest = interim ? "\r\n" LENGTH_3 : "Content-Length: 3\r\n\r\n";
    size_t len = 0;

    memcpy(data, first, strlen(first));
    len += strlen(first);
    for (size_t filling = size - len - strlen(rest); filling > 0;) {
        size_t line = filling < 2 * line_size ? filling : line_size;
        memset(data + len, 'x', line);
        data[len + 1] = ':';
        data[len + line - 1] = '\n';
        len += line;
        filling -= line;
    }
    memcpy(data + len, rest, strlen(rest));
    len += strlen(rest);
    ck_assert_uint_eq(len, size);
    memcpy(data + len, "abc", 3);
    len += 3;
    ck_assert_str_eq(outcomes[take(data, len, 0, 0)], outcomes[outcome]);
    if (outcome == WHOLE)
        expect_body("abc");
}

/* Interim heads count as well, or they could go on for ever. */
START_TEST(test_heads_of_64_kib_are_taken_and_one_more_byte_is_not)
{
    static const size_t line_sizes[] = {4, 100, MAX_HEAD};

    for (int i = 0; i < COUNT(line_sizes); i++)
        for (int interim = 0; interim < 2; interim++) {
            expect_long_head(MAX_HEAD - 1, line_sizes[i], interim, WHOLE);
            expect_long_head(MAX_HEAD, line_sizes[i], interim, WHOLE);
            expect_long_head(MAX_HEAD + 1, line_sizes[i], interim, BAD);
        }
}
END_TEST

START_TEST(test_first_field_is_awaited_after_each_status_line)
{
    static const struct {
        const char *line;
        bool awaits;
        bool has_head;
    } rows[] = {
        {"HTTP/1.1 100 x\r\n", true, false},
        {"\r\n", false, false},
        {"HTTP/1.1 103 x\r\n", true, false},
        {"X: y\r\n", false, false},
        {"X: y\r\n", false, false},
        {"\r\n", false, false},
        {OK, true, false},
        {"X: y\r\n", false, false},
        {" z\r\n", false, false},
        {"\r\n", false, true},
        {"abc", false, true},
    };

    begin();
    ck_assert(!response_awaits_first_field(&response));
    ck_assert(!response_has_head(&response));
    for (int i = 0; i < COUNT(rows); i++) {
        ck_assert_int_eq(
            response_take(&response, rows[i].line, strlen(rows[i].line)),
            REASON_NONE);
        ck_assert_int_eq(response_awaits_first_field(&response),
                         rows[i].awaits);
        ck_assert_int_eq(response_has_head(&response), rows[i].has_head);
    }
}
END_TEST

/*
 * Bodies with a length
 */

static const struct {
    const char *value;
    enum outcome outcome;
    const char *body;
} lengths[] = {
    {"3", SURPLUS, "abc"},
    {"6", WHOLE, "abcdef"},
    {"7", CUT, ""},
    {"16", CUT, ""},
    {"0", SURPLUS, ""},
    {"006", WHOLE, "abcdef"},
    {" 6\t ", WHOLE, "abcdef"},
    {"00000000000000000000000000000000000006", WHOLE, "abcdef"},
    /* A list of equal numbers is that number. */
    {"6, 6", WHOLE, "abcdef"},
    {"6,6", WHOLE, "abcdef"},
    {"6\t, 6 ,06", WHOLE, "abcdef"},
    {"3, 5", BAD, ""},
    {"6, 6, 3", BAD, ""},
    {"6,", BAD, ""},
    {",6", BAD, ""},
    {"6,,6", BAD, ""},
    {",", BAD, ""},
    /* What libcurl takes a part of. */
    {"3 5", BAD, ""},
    {"3 3", BAD, ""},
    {"0x3", BAD, ""},
    {"3;", BAD, ""},
    {"3_0", BAD, ""},
    {"1e1", BAD, ""},
    {"+3", BAD, ""},
    {"-3", BAD, ""},
    {"3.0", BAD, ""},
    {"\"3\"", BAD, ""},
    {"3\v", BAD, ""},
    {"three", BAD, ""},
    {"", BAD, ""},
    {" ", BAD, ""},
    /* More than the limit, and more than any number here holds. */
    {"17", LARGE, ""},
    {"17, 18", BAD, ""},
    {"1000000", LARGE, ""},
    {"4294967299", LARGE, ""},           /* 2^32 + 3 */
    {"9223372036854775807", LARGE, ""},  /* 2^63 - 1 */
    {"9223372036854775808", LARGE, ""},  /* 2^63 */
    {"18446744073709551619", LARGE, ""}, /* 2^64 + 3 */
    {"99999999999999999999999999999999", LARGE, ""},
    {"99999999999999999999999999999999, 6", BAD, ""},
    {"6, 99999999999999999999999999999999", BAD, ""},
};

START_TEST(test_length_is_a_number)
{
    static const char *const names[] = {"Content-Length", "content-length",
                                        "CONTENT-LENGTH"};

    for (int i = 0; i < COUNT(names); i++)
        expect(lengths[_i].outcome, lengths[_i].body,
               OK "%s:%s\r\nX: y\r\n\r\nabcdef", names[i], lengths[_i].value);
}
END_TEST

START_TEST(test_lengths_in_two_fields_are_equal)
{
    expect(WHOLE, "abc",
           OK "Content-Length: 3\r\ncontent-length:03\r\n\r\nabc");
    expect(WHOLE, "abc",
           OK "Content-Length: 3\r\nX: y\r\nContent-Length: 3, 3\r\n\r\nabc");
    expect(BAD, "",
           OK "Content-Length: 3\r\nX: y\r\nContent-Length: 2\r\n\r\nabc");
    expect(BAD, "", OK "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc");
    expect(BAD, "", OK "Content-Length: 3\r\nContent-Length: x\r\n\r\nabc");
    expect(BAD, "", OK "Content-Length: 3\r\nContent-Length:\r\n\r\nabc");
    expect(BAD, "", OK "Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc");
    /* Also where both are over the limit, and the body ends in another way. */
    expect(BAD, "", OK "Content-Length: 2000, 2001\r\n\r\nabc");
    expect(BAD, "", "HTTP/1.1 204 x\r\nContent-Length: 2000, 2001\r\n\r\n");
    expect(BAD, "",
           OK "Content-Length: 2000, 2001\r\n"
              "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
}
END_TEST

START_TEST(test_body_with_a_length_may_hold_any_byte)
{
    expect_bytes(BYTES(LENGTH_3 "\r\n\xff"), WHOLE, "\r\n\xff");
    ck_assert_int_eq(take(BYTES(LENGTH_3 "a\0b"), 0, 0), WHOLE);
    ck_assert_mem_eq(body.data + 4, "a\0b", 3);
    expect_bytes(BYTES(LENGTH_3 "abc" LENGTH_3 "def"), SURPLUS, "abc");
    expect_bytes(BYTES(LENGTH_3 "abc\r\n"), SURPLUS, "abc");
    expect_bytes(BYTES(LENGTH_3), CUT, "");
    expect_bytes(BYTES(LENGTH_3 "ab"), CUT, "ab");
}
END_TEST

/*
 * Bodies that the close ends
 */

START_TEST(test_unsized_body_ends_with_the_connection)
{
    expect(UNSIZED, "", OK "\r\n");
    expect(UNSIZED, "abc", OK "\r\nabc");
    expect(UNSIZED, "abc\r\n\r\n", OK "\r\nabc\r\n\r\n");
    expect(UNSIZED, "0123456789abcdef", OK "\r\n0123456789abcdef");
    expect(LARGE, "", OK "\r\n0123456789abcdefg");
    expect(LARGE, "", OK "\r\n0123456789abcdefghijklmnopqrstuvwxyz");
}
END_TEST

/*
 * Chunked bodies
 */

START_TEST(test_transfer_encoding_is_chunked_and_no_other)
{
    static const struct {
        const char *value;
        enum outcome outcome;
    } rows[] = {
        {"chunked", WHOLE},
        {" chunked\t", WHOLE},
        {"Chunked", WHOLE},
        {"CHUNKED", WHOLE},
        {"", BAD},
        {"gzip", BAD},
        {"gzip, chunked", BAD},
        {"chunked, gzip", BAD},
        {"chunked, chunked", BAD},
        {"chunked,", BAD},
        {",chunked", BAD},
        {"chunked;q=1", BAD},
        {"chunked x", BAD},
        {"xchunked", BAD},
        {"chunke", BAD},
        {"chunkedd", BAD},
        {"identity", BAD},
        {"deflate", BAD}, /* it is as long as "chunked" */
        {"none such", BAD},
        {"\"chunked\"", BAD},
        {"\vchunked", BAD},
    };

    for (int i = 0; i < COUNT(rows); i++) {
        expect(rows[i].outcome, "abc",
               OK "Transfer-Encoding:%s\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
               rows[i].value);
        expect(rows[i].outcome, "abc",
               OK "TRANSFER-encoding:%s\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
               rows[i].value);
    }
    expect(BAD, "",
           OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
              "\r\n3\r\nabc\r\n0\r\n\r\n");
}
END_TEST

/* As RFC 9112 has it: the chunks say where the body ends. */
START_TEST(test_chunks_count_more_than_a_length)
{
    expect(WHOLE, "abc",
           OK "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
              "3\r\nabc\r\n0\r\n\r\n");
    expect(WHOLE, "abc",
           OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
              "3\r\nabc\r\n0\r\n\r\n");
    expect(BAD, "",
           OK "Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n"
              "3\r\nabc\r\n0\r\n\r\n");
}
END_TEST

/* The size line of a chunk with abc in it. */
static const struct {
    const char *line;
    enum outcome outcome;
} sizes[] = {
    {"3", WHOLE},
    {"0003", WHOLE},
    {"0000000000000003", WHOLE},
    {"00000000000000003", BAD}, /* 17 digits */
    {"3;", WHOLE},
    {"3;x", WHOLE},
    {"3;x=y;z=\"\x80;\t\"", WHOLE},
    {"3;x\ry", BAD},
    {"0x3", BAD},
    {"0X3", BAD},
    {"0x6", BAD},
    {"x3", BAD},
    {"3 ", BAD},
    {"3\t", BAD},
    {"3 ;x", WHOLE}, /* RFC 9112, section 7.1.1: BWS */
    {"3\t ; x", WHOLE},
    {"3 x", BAD},
    {"3 3", BAD},
    {"3 \t", BAD},
    {" 3", BAD},
    {"+3", BAD},
    {"-3", BAD},
    {"3h", BAD},
    {"3,", BAD},
    {"3_0", BAD},
    {"3.", BAD},
    {"\"3\"", BAD},
    {"g", BAD},
    {"", BAD},
    {";", BAD},
    {";x", BAD},
    {"\x80", BAD},
    {"2", BAD}, /* and no CR LF after that many */
    {"11", LARGE},
    {"00000011", LARGE},
    {"100000003", LARGE},        /* 2^32 + 3 */
    {"ffffffffffffffff", LARGE}, /* 2^64 - 1 */
    {"10000000000000003", BAD},  /* 2^64 + 3: 17 digits */
    {"fffffffffffffffff", BAD},
};

START_TEST(test_chunk_size_is_hexadecimal_digits)
{
    expect(sizes[_i].outcome, "abc", CHUNKED "%s\r\nabc\r\n0\r\n\r\n",
           sizes[_i].line);
    expect(sizes[_i].outcome, "abc", CHUNKED "%s\nabc\n0\n\n", sizes[_i].line);
    /* After a chunk that is good, and of which no part may pass for all. */
    if (sizes[_i].outcome == BAD)
        expect(BAD, "", CHUNKED "1\r\nx\r\n%s\r\nabc\r\n0\r\n\r\n",
               sizes[_i].line);
}
END_TEST

START_TEST(test_chunk_size_may_have_any_digit)
{
    static const char data[] = "0123456789abcdef";

    for (unsigned size = 1; size <= MAX_BODY; size++) {
        char text[MAX_BODY + 1];
        snprintf(text, sizeof text, "%.*s", (int)size, data);
        expect(WHOLE, text, CHUNKED "%x\r\n%s\r\n0\r\n\r\n", size, text);
        expect(WHOLE, text, CHUNKED "%X\r\n%s\r\n0\r\n\r\n", size, text);
    }
}
END_TEST

START_TEST(test_last_chunk_is_any_that_is_zero)
{
    static const char *const lines[] = {"0", "00", "0000000000000000", "0;x",
                                        "0;"};
    static const char *const bad[] = {
        "0x0", "0 ", "-0", "+0", "0h", "0x", "00000000000000000"};

    for (int i = 0; i < COUNT(lines); i++)
        expect(WHOLE, "abc", CHUNKED "3\r\nabc\r\n%s\r\n\r\n", lines[i]);
    for (int i = 0; i < COUNT(bad); i++)
        expect(BAD, "", CHUNKED "3\r\nabc\r\n%s\r\n\r\n", bad[i]);
}
END_TEST

static const struct {
    const char *chunks;
    size_t len;
    enum outcome outcome;
    const char *body;
} chunks[] = {
    {BYTES("0\r\n\r\n"), WHOLE, ""},
    {BYTES("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), WHOLE, "abc"},
    {BYTES("4\r\n\r\n\r\n\r\n0\r\n\r\n"), WHOLE, "\r\n\r\n"},
    {BYTES("1\na\r\n2\nbc\n0\r\n\n"), WHOLE, "abc"},
    {BYTES("8\r\n01234567\r\n8\r\n89abcdef\r\n0\r\n\r\n"), WHOLE,
     "0123456789abcdef"},
    {BYTES("8\r\n01234567\r\n8\r\n89abcdef\r\n1\r\ng\r\n0\r\n\r\n"), LARGE,
     ""},
    {BYTES("8\r\n01234567\r\n9\r\n89abcdefg\r\n0\r\n\r\n"), LARGE, ""},
    /* Not the end that a chunk must have; a size that is one too large. */
    {BYTES("2\r\nbc\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nab\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\nab\n0\n\n"), BAD, ""},
    {BYTES("3\r\nabc0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabcd\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabcx0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\rx0\r\n\r\n"), BAD, ""},
    {BYTES("4\r\nab\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc \r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\rabc\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\r\r\nabc\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3\0\r\nabc\r\n0\r\n\r\n"), BAD, ""},
    {BYTES("3;\0\r\nabc\r\n0\r\n\r\n"), BAD, ""},
    /* Trailers. */
    {BYTES("3\r\nabc\r\n0\r\nX: y\r\n\r\n"), WHOLE, "abc"},
    {BYTES("3\r\nabc\r\n0\r\nX:\r\nY: \x80\xff z\n\n"), WHOLE, "abc"},
    {BYTES("3\r\nabc\r\n0\r\nContent-Length: 7\r\n\r\n"), WHOLE, "abc"},
    {BYTES("3\r\nabc\r\n0\r\nno colon\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\nnocolon\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\nX : y\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\n: y\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\n X: y\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\nX: y\rz\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\nX: y\0z\r\n\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\n\rX\r\n"), BAD, ""},
    {BYTES("3\r\nabc\r\n0\r\n\r\r\n"), BAD, ""},
    /* What libcurl takes for the end, and then for trailers. */
    {BYTES("3\r\nabc\r\n0x6\r\nabcdef\r\n0\r\n\r\n"), BAD, ""},
    /* More than the response. */
    {BYTES("3\r\nabc\r\n0\r\n\r\n\r\n"), SURPLUS, "abc"},
    {BYTES("3\r\nabc\r\n0\r\n\r\n" LENGTH_3 "def"), SURPLUS, "abc"},
    {BYTES("0\r\n\r\n\0"), SURPLUS, ""},
};

START_TEST(test_chunks_are_joined)
{
    static char data[512];
    size_t len = strlen(CHUNKED);

    memcpy(data, CHUNKED, len);
    memcpy(data + len, chunks[_i].chunks, chunks[_i].len);
    expect_bytes(data, len + chunks[_i].len, chunks[_i].outcome,
                 chunks[_i].body);
}
END_TEST

/* A size line, or trailers, that never end. */
START_TEST(test_long_lines_of_a_chunked_body_are_refused)
{
    static char data[2 * MAX_HEAD];
    static const struct {
        const char *start;
        const char *end;
        size_t most; /* bytes from the size line's start, or in heads */
    } rows[] = {
        {CHUNKED "3;", "\r\nabc\r\n0\r\n\r\n", 4096 - 2},
        {CHUNKED "0;", "\r\n\r\n", 4096 - 2},
        {CHUNKED "3\r\nabc\r\n0\r\nX:", "\r\n\r\n",
         MAX_HEAD - sizeof CHUNKED + 1 - 2},
    };

    for (int i = 0; i < COUNT(rows); i++) {
        size_t end_len = strlen(rows[i].end), len = strlen(rows[i].start);
        size_t of_end = i < 2 ? 2 : 4; /* that count: CR LF, or both */
        for (size_t more = 0; more < 2; more++) {
            size_t filling = rows[i].most - of_end + more;
            memcpy(data, rows[i].start, len);
            memset(data + len, 'x', filling);
            memcpy(data + len + filling, rows[i].end, end_len);
            enum outcome got = take(data, len + filling + end_len, 0, 0);
            ck_assert_msg(got == (more == 0 ? WHOLE : BAD), "%d, %zu: %s", i,
                          more, outcomes[got]);
        }
    }
}
END_TEST

/*
 * Connections
 */

#define OLD "HTTP/1.0 200 OK\r\n"
#define CODING "Transfer-Encoding: chunked\r\n"
#define CHUNKS "3\r\nabc\r\n0\r\n\r\n"

/* Nothing came after the response, and there is no doubt where it ends. */
START_TEST(test_connection_is_used_again_where_the_framing_is_plain)
{
    static const struct {
        const char *text;
        bool reuse;
    } rows[] = {
        {LENGTH_3 "abc", true},
        {OK "Content-Length: 0\r\n\r\n", true},
        {OLD "Content-Length: 3\r\n\r\nabc", true},
        {CHUNKED CHUNKS, true},
        {CHUNKED "3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n", true},
        {"HTTP/1.1 204 x\r\n\r\n", true},
        {"HTTP/1.1 404 x\r\nContent-Length: 3\r\n\r\nabc", true},
        /* A coding beside a length, or from before there were codings. */
        {OK CODING "Content-Length: 3\r\n\r\n" CHUNKS, false},
        {OK "Content-Length: 3\r\n" CODING "\r\n" CHUNKS, false},
        {OK "Content-Length: 0\r\n" CODING "\r\n" CHUNKS, false},
        {OLD CODING "\r\n" CHUNKS, false},
        {OLD "Connection: keep-alive\r\n" CODING "\r\n" CHUNKS, false},
        /* The final response counts, and no interim one. */
        {"HTTP/1.0 100 x\r\n\r\n" CHUNKED CHUNKS, true},
        {"HTTP/1.1 103 x\r\nContent-Length: 3\r\n\r\n" CHUNKED CHUNKS, true},
        {"HTTP/1.1 103 x\r\n" CODING "\r\n" LENGTH_3 "abc", true},
        {"HTTP/1.1 100 x\r\n\r\n" OLD CODING "\r\n" CHUNKS, false},
        /* More than the response. */
        {LENGTH_3 "abc\n", false},
        {LENGTH_3 "abc" LENGTH_3 "abc", false},
        {CHUNKED CHUNKS "x", false},
        {"HTTP/1.1 204 x\r\n\r\nabc", false},
    };

    for (int i = 0; i < COUNT(rows); i++) {
        enum outcome got = take(rows[i].text, strlen(rows[i].text), 0, 0);
        ck_assert_msg(got == WHOLE || got == SURPLUS, "%s: %s", rows[i].text,
                      outcomes[got]);
        ck_assert_msg(response_allows_reuse(&response) == rows[i].reuse, "%s",
                      rows[i].text);
    }
}
END_TEST

/*
 * Memory
 */

START_TEST(test_body_without_memory_says_so)
{
    static const char *const heads[] = {LENGTH_3 "abc", OK "\r\nabc",
                                        CHUNKED "3\r\nabc\r\n0\r\n\r\n"};

    for (int i = 0; i < COUNT(heads); i++) {
        const char *end = strstr(heads[i], "\r\n\r\n") + 4;
        free(body.data);
        body = (struct buffer){0};
        response_begin(&response, &body, MAX_BODY);
        for (const char *line = heads[i]; line < end;) {
            const char *next = strchr(line, '\n') + 1;
            ck_assert_int_eq(
                response_take(&response, line, (size_t)(next - line)),
                REASON_NONE);
            line = next;
        }
        allocation_fails_after(0);
        ck_assert_int_eq(response_take(&response, end, strlen(end)),
                         REASON_NO_MEMORY);
        ck_assert(allocation_failed());
        ck_assert_uint_eq(body.len, 0);
    }
}
END_TEST

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *tests = tcase_create(name);
    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_checked_fixture(tests, NULL, tear_down);
    suite_add_tcase(suite, tests);
    return tests;
}

int main(void)
{
    Suite *suite = suite_create("response");

    TCase *heads = add_case(suite, "heads");
    tcase_add_test(heads, test_status_line_is_taken);
    tcase_add_test(heads, test_status_line_is_refused);
    tcase_add_test(heads, test_any_status_is_taken);
    tcase_add_test(heads, test_status_without_a_body_ends_with_the_head);
    tcase_add_test(heads, test_field_is_taken);
    tcase_add_test(heads, test_field_is_refused);
    tcase_add_test(heads, test_field_name_is_a_token);
    tcase_add_test(
        heads, test_continued_line_is_refused_where_it_could_mean_something);
    tcase_add_test(heads,
                   test_continued_line_of_another_field_is_not_looked_at);
    tcase_add_test(heads, test_interim_response_has_no_content);
    tcase_add_test(heads, test_switch_of_protocols_is_refused_at_once);
    tcase_add_test(heads,
                   test_heads_of_64_kib_are_taken_and_one_more_byte_is_not);
    tcase_add_test(heads, test_first_field_is_awaited_after_each_status_line);

    TCase *bodies = add_case(suite, "bodies");
    tcase_add_loop_test(bodies, test_length_is_a_number, 0, COUNT(lengths));
    tcase_add_test(bodies, test_lengths_in_two_fields_are_equal);
    tcase_add_test(bodies, test_body_with_a_length_may_hold_any_byte);
    tcase_add_test(bodies, test_unsized_body_ends_with_the_connection);
    tcase_add_test(bodies, test_body_without_memory_says_so);

    TCase *chunked = add_case(suite, "chunks");
    tcase_add_test(chunked, test_transfer_encoding_is_chunked_and_no_other);
    tcase_add_test(chunked, test_chunks_count_more_than_a_length);
    tcase_add_loop_test(chunked, test_chunk_size_is_hexadecimal_digits, 0,
                        COUNT(sizes));
    tcase_add_test(chunked, test_chunk_size_may_have_any_digit);
    tcase_add_test(chunked, test_last_chunk_is_any_that_is_zero);
    tcase_add_loop_test(chunked, test_chunks_are_joined, 0, COUNT(chunks));
    tcase_add_test(chunked, test_long_lines_of_a_chunked_body_are_refused);

    TCase *connections = add_case(suite, "connections");
    tcase_add_test(connections,
                   test_connection_is_used_again_where_the_framing_is_plain);
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
