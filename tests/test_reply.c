/*
 * Unit tests of lib/reply: the one line that answers, the words of all
 * reasons, and the buffer beneath. The file is included whole, so that its
 * allocations can be made to fail.
 *
 * SPDX-License-Identifier: MIT
 */
#include "allocations.h"
#include "harness.h"

#include <limits.h>
#include <stdlib.h>

#define malloc failing_malloc
#define realloc failing_realloc
#include "../lib/reply.c"
#undef realloc
#undef malloc

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define BYTES(literal) (literal), sizeof(literal) - 1

static struct buffer reply;

static void set_up(void)
{
    ck_assert(reply_init(&reply));
    ck_assert_uint_eq(reply.size, ERROR_REPLY_SIZE);
}

static void tear_down(void)
{
    free(reply.data);
}

static void expect_reply(const char *text, size_t len)
{
    ck_assert_msg(reply.len == len && memcmp(reply.data, text, len) == 0,
                  "%.*s, not %s", (int)reply.len, reply.data, text);
    ck_assert_uint_le(reply.len, reply.size);
}

static const struct {
    const char *body;
    size_t body_len;
    const char *text;
    size_t len;
} bodies[] = {
    {BYTES(""), BYTES("echo: \n")},
    {BYTES("one"), BYTES("echo: one\n")},
    {BYTES("one\n"), BYTES("echo: one\n")},
    {BYTES("one\r\n\r\n\n"), BYTES("echo: one\n")},
    {BYTES("\n"), BYTES("echo: \n")},
    {BYTES("\r"), BYTES("echo: \n")},
    {BYTES("\r\n\n"), BYTES("echo: \n")},
    {BYTES("one\ntwo"), BYTES("echo: one two\n")},
    {BYTES("one\r\n\n\rtwo\rthree\n"), BYTES("echo: one two three\n")},
    {BYTES("\none"), BYTES("echo:  one\n")},
    {BYTES(" one \n two "), BYTES("echo:  one   two \n")},
    {BYTES("o\0e\n\0"), BYTES("echo: o\0e \0\n")},
    {BYTES("\t\v\f\x80\xff"), BYTES("echo: \t\v\f\x80\xff\n")},
    {BYTES("echo: \nerror: x"), BYTES("echo: echo:  error: x\n")},
};

START_TEST(test_reply_is_one_line_whatever_the_body)
{
    for (int again = 0; again < 2; again++) { /* the buffer is used again */
        reply_begin(&reply);
        ck_assert(buffer_append(&reply, bodies[_i].body, bodies[_i].body_len));
        ck_assert_int_eq(reply_finish(&reply, REASON_NONE, 200), REASON_NONE);
        expect_reply(bodies[_i].text, bodies[_i].len);
    }
}
END_TEST

/* No part of a body leaves with an error. */
START_TEST(test_reply_of_a_reason_holds_no_body)
{
    enum reason reason = (enum reason)_i;
    char expected[ERROR_REPLY_SIZE];

    reply_begin(&reply);
    ck_assert(buffer_append(&reply, BYTES("part of a body")));
    ck_assert_int_eq(reply_finish(&reply, reason, 404), reason);
    snprintf(expected, sizeof expected, "error: %s%s\n", reason_text(reason),
             reason == REASON_RETURNED ? " 404" : "");
    expect_reply(expected, strlen(expected));
    ck_assert_uint_eq(reply.size, ERROR_REPLY_SIZE);
}
END_TEST

START_TEST(test_reason_has_words_of_its_own)
{
    const char *text = reason_text((enum reason)_i);

    ck_assert_ptr_nonnull(text);
    ck_assert_str_ne(text, "");
    ck_assert_ptr_null(strpbrk(text, "\r\n"));
    ck_assert_ptr_null(strchr(text, '_')); /* a blank's, in the summary */
    for (int other = 0; other < _i; other++)
        ck_assert_str_ne(text, reason_text((enum reason)other));
}
END_TEST

/* What a client programs against. */
START_TEST(test_reasons_are_those_that_are_documented)
{
    static const char *const texts[] = {
        "ok",
        "line too long",
        "out of memory",
        "upstream refused",
        "no local port left",
        "upstream not found",
        "upstream timed out",
        "upstream closed early",
        "upstream sent bad HTTP",
        "upstream body too large",
        "upstream returned",
        "upstream not trusted",
        "upstream TLS failed",
        "upstream failed",
        "line timed out",
        "server stopping",
        "too many connections",
        "cannot start a thread",
    };

    ck_assert_int_eq(COUNT(texts), REASONS);
    for (int i = 0; i < REASONS; i++)
        ck_assert_str_eq(reason_text((enum reason)i), texts[i]);
}
END_TEST

/* The buffer is made for this: an error needs no memory. */
START_TEST(test_every_error_fits_what_reply_init_allocates)
{
    for (int i = REASON_NONE + 1; i < REASONS; i++) {
        allocation_fails_after(0);
        reply_begin(&reply);
        reply_finish(&reply, (enum reason)i, LONG_MIN);
        ck_assert(!allocation_failed());
        ck_assert_uint_lt(reply.len, ERROR_REPLY_SIZE);
        ck_assert_ptr_eq(memchr(reply.data, '\n', reply.len),
                         reply.data + reply.len - 1);
    }
}
END_TEST

START_TEST(test_reply_without_memory_for_the_line_break_is_that_error)
{
    char body[ERROR_REPLY_SIZE - sizeof prefix + 1];

    memset(body, 'a', sizeof body); /* fills the buffer */
    reply_begin(&reply);
    ck_assert(buffer_append(&reply, body, sizeof body));
    ck_assert_uint_eq(reply.len, reply.size);
    allocation_fails_after(0);
    ck_assert_int_eq(reply_finish(&reply, REASON_NONE, 200), REASON_NO_MEMORY);
    ck_assert(allocation_failed());
    expect_reply(BYTES("error: out of memory\n"));
}
END_TEST

START_TEST(test_reply_init_says_that_memory_is_short)
{
    struct buffer other;

    allocation_fails_after(0);
    ck_assert(!reply_init(&other));
    ck_assert(allocation_failed());
}
END_TEST

START_TEST(test_reply_shrinks_after_a_long_body)
{
    static char body[100000];

    reply_begin(&reply);
    memset(body, 'a', sizeof body);
    ck_assert(buffer_append(&reply, body, sizeof body));
    ck_assert_int_eq(reply_finish(&reply, REASON_NONE, 200), REASON_NONE);
    ck_assert_uint_eq(reply.len, sizeof body + strlen("echo: \n"));
    size_t size = reply.size;
    allocation_fails_after(0);
    reply_shrink(&reply);
    ck_assert(allocation_failed());
    ck_assert_uint_eq(reply.size, size); /* then not, and no harm is done */
    reply_shrink(&reply);
    ck_assert_uint_eq(reply.size, ERROR_REPLY_SIZE);
    reply_begin(&reply);
    ck_assert_int_eq(reply_finish(&reply, REASON_NONE, 200), REASON_NONE);
    expect_reply(BYTES("echo: \n"));
}
END_TEST

/* One that is not long stays: the next reply needs no memory. */
START_TEST(test_reply_keeps_a_small_buffer)
{
    static char body[KEPT_SIZE - 10];

    reply_begin(&reply);
    ck_assert(buffer_append(&reply, body, sizeof body));
    ck_assert_int_eq(reply_finish(&reply, REASON_NONE, 200), REASON_NONE);
    size_t size = reply.size;
    ck_assert_uint_le(size, KEPT_SIZE);
    reply_shrink(&reply);
    ck_assert_uint_eq(reply.size, size);
}
END_TEST

/* RFC 3986, section 2.3: each byte alone, and all of them in one text. */
START_TEST(test_buffer_escapes_all_but_unreserved_bytes)
{
    static const char unreserved[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    struct buffer all = {0};
    char text[256], expected[3 * 256 + 1] = "";
    size_t len = 0;

    for (int byte = 0; byte < 256; byte++) {
        struct buffer one = {0};
        bool plain = byte != 0 && strchr(unreserved, byte) != NULL;
        char escape[4];

        text[byte] = (char)byte;
        snprintf(escape, sizeof escape, plain ? "%c" : "%%%02X", byte);
        ck_assert(buffer_append_escaped(&one, &text[byte], 1));
        ck_assert_uint_eq(one.len, strlen(escape));
        ck_assert_mem_eq(one.data, escape, one.len);
        free(one.data);
        memcpy(expected + len, escape, strlen(escape));
        len += strlen(escape);
    }
    ck_assert(buffer_append_escaped(&all, text, sizeof text));
    ck_assert_uint_eq(all.len, len);
    ck_assert_mem_eq(all.data, expected, len);
    ck_assert(buffer_append_escaped(&all, "", 0));
    ck_assert_uint_eq(all.len, len);
    free(all.data);
}
END_TEST

START_TEST(test_buffer_grows_at_the_end)
{
    static const char much[4096];
    struct buffer buffer = {0};

    ck_assert(buffer_append(&buffer, "", 0));
    ck_assert_ptr_null(buffer.data);
    for (size_t i = 0; i < 1000; i++) {
        char byte = (char)i;
        ck_assert(buffer_append(&buffer, &byte, 1));
        ck_assert_uint_eq(buffer.len, i + 1);
        ck_assert_uint_ge(buffer.size, buffer.len);
    }
    allocation_fails_after(0);
    size_t size = buffer.size;
    ck_assert(!buffer_append(&buffer, much, sizeof much));
    ck_assert(allocation_failed());
    ck_assert_uint_eq(buffer.len, 1000);
    ck_assert_uint_eq(buffer.size, size);
    ck_assert(buffer_append(&buffer, much, sizeof much));
    ck_assert_uint_eq(buffer.len, 1000 + sizeof much);
    for (size_t i = 0; i < 1000; i++)
        ck_assert_int_eq(buffer.data[i], (char)i);
    free(buffer.data);
}
END_TEST

/* Whichever of its bytes memory ends at. */
START_TEST(test_escape_without_memory_is_not_left_out)
{
    static const char *const texts[] = {"%", "x%", "%x", "x%x%"};

    for (size_t i = 0; i < COUNT(texts); i++) {
        for (size_t room = 0; room <= 64; room++) {
            struct buffer buffer = {.data = malloc(64), .size = 64};
            ck_assert_ptr_nonnull(buffer.data);
            buffer.len = 64 - room;
            allocation_fails_after(0);
            bool ok =
                buffer_append_escaped(&buffer, texts[i], strlen(texts[i]));
            ck_assert_int_eq(ok, !allocation_failed());
            size_t needed = strlen(texts[i]);
            for (const char *at = texts[i]; *at != '\0'; at++)
                needed += *at == '%' ? 2 : 0;
            ck_assert_int_eq(ok, room >= needed);
            free(buffer.data);
        }
    }
}
END_TEST

static Suite *reply_suite(void)
{
    Suite *suite = suite_create("reply");
    TCase *tests = tcase_create("reply");

    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, test_reply_is_one_line_whatever_the_body, 0,
                        COUNT(bodies));
    tcase_add_loop_test(tests, test_reply_of_a_reason_holds_no_body,
                        REASON_NONE + 1, REASONS);
    tcase_add_loop_test(tests, test_reason_has_words_of_its_own, REASON_NONE,
                        REASONS);
    tcase_add_test(tests, test_reasons_are_those_that_are_documented);
    tcase_add_test(tests, test_every_error_fits_what_reply_init_allocates);
    tcase_add_test(tests,
                   test_reply_without_memory_for_the_line_break_is_that_error);
    tcase_add_test(tests, test_reply_init_says_that_memory_is_short);
    tcase_add_test(tests, test_reply_shrinks_after_a_long_body);
    tcase_add_test(tests, test_reply_keeps_a_small_buffer);
    tcase_add_test(tests, test_buffer_grows_at_the_end);
    tcase_add_test(tests, test_buffer_escapes_all_but_unreserved_bytes);
    tcase_add_test(tests, test_escape_without_memory_is_not_left_out);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(reply_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
