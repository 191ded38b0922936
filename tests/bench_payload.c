/*
 * The lines of the load generator, and how it classes the replies to them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../bench/payload.c"
#include "harness.h"

#include <check.h>

#define KEY "a key for these tests"

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

START_TEST(test_line_names_its_connection_and_number)
{
    struct payload payload;
    char line[21];
    ck_assert(payload_init(&payload, 20, 20, NULL));
    payload_write_line(&payload, 12, 34, line);
    ck_assert_mem_eq(line, "000012-000000034", 16);
    ck_assert_int_eq(line[20], '\n');
    payload_write_line(&payload, 999999, 1234567890123, line);
    ck_assert_mem_eq(line, "999999-567890123", 16);
    payload_free(&payload);
}
END_TEST

/* The reply to a line of connection 7 is the right one to line other of
 * connection from, cut or extended to len bytes. */
static const struct {
    uint64_t number;
    uint32_t from;
    uint64_t other;
    size_t len;
    enum reply_class class;
} replies[] = {
    {5, 7, 5, 46, REPLY_RIGHT},
    {5, 7, 5, 45, REPLY_PREFIX},
    {5, 7, 5, 8, REPLY_PREFIX},
    {5, 7, 5, 6, REPLY_PREFIX},
    {5, 7, 5, 0, REPLY_PREFIX},
    {5, 7, 5, 47, REPLY_WRONG},
    {5, 7, 6, 46, REPLY_OTHER_LINE},
    {5, 7, 4, 46, REPLY_OTHER_LINE},
    {5, 7, 6, 45, REPLY_WRONG},
    {5, 8, 5, 46, REPLY_MIXED_UP},
    {5, 8, 5, 45, REPLY_WRONG},
    {1000000000, 7, 999999999, 46, REPLY_OTHER_LINE},
    {999999999, 7, 1000000000, 46, REPLY_OTHER_LINE},
    {999999999, 7, 999999998, 46, REPLY_OTHER_LINE},
    {3000000002, 7, 2999999997, 46, REPLY_OTHER_LINE},
    {0, 7, 1, 46, REPLY_OTHER_LINE},
};

START_TEST(test_reply_is_judged)
{
    struct payload payload;
    char reply[64] = "echo: ";
    uint64_t other = 0;
    ck_assert(payload_init(&payload, 40, 40, NULL));
    payload_write_line(&payload, replies[_i].from, replies[_i].other,
                       reply + 6);
    reply[46] = 'x';
    ck_assert_int_eq(payload_judge(&payload, 7, replies[_i].number, reply,
                                   replies[_i].len, &other),
                     replies[_i].class);
    if (replies[_i].class == REPLY_OTHER_LINE)
        ck_assert_uint_eq(other, replies[_i].other);
    payload_free(&payload);
}
END_TEST

/* No byte of a reply may differ. */
static void check_each_byte(size_t size, const struct mark_key *key)
{
    struct payload payload;
    char line[41];
    char reply[128] = "echo: ";
    uint64_t other = 0;
    size_t len = 6 + size;
    ck_assert(payload_init(&payload, 40, size, key));
    payload_write_line(&payload, 7, 5, line);
    for (size_t i = 0; i < size; i++)
        reply[6 + i] = line[i % 40];
    if (key != NULL) {
        reply[len] = ' ';
        mark_text(key, line, 40, reply + len + 1);
        len += 1 + MARK_LEN;
    }
    ck_assert_uint_eq(payload_reply_length(&payload), len);
    ck_assert_int_eq(payload_judge(&payload, 7, 5, reply, len, &other),
                     REPLY_RIGHT);
    for (size_t i = 0; i < len; i++) {
        reply[i] ^= 1;
        enum reply_class class =
            payload_judge(&payload, 7, 5, reply, len, &other);
        if (i > 6 + size)
            ck_assert_int_eq(class, REPLY_UNMARKED);
        else
            ck_assert_int_ne(class, REPLY_RIGHT);
        reply[i] ^= 1;
    }
    payload_free(&payload);
}

START_TEST(test_each_byte_counts)
{
    static const size_t reply_sizes[] = {40, 25, 16, 10, 100};
    struct mark_key key;
    mark_key_init(&key, KEY, strlen(KEY));
    check_each_byte(reply_sizes[_i], NULL);
    check_each_byte(reply_sizes[_i], &key);
}
END_TEST

/*
 * The reply to line 5 of connection 7 has the body that belongs to line body
 * of connection from, a separator and the mark of line mark of connection 7,
 * cut or extended to len bytes.
 */
static const struct {
    uint32_t from;
    uint64_t body;
    char separator;
    uint64_t mark;
    size_t len;
    enum reply_class class;
} marked[] = {
    {7, 5, ' ', 5, 63, REPLY_RIGHT},    {7, 5, ' ', 5, 64, REPLY_WRONG},
    {7, 5, ' ', 5, 62, REPLY_PREFIX},   {7, 5, ' ', 5, 48, REPLY_PREFIX},
    {7, 5, ' ', 5, 47, REPLY_UNMARKED}, {7, 5, ' ', 5, 46, REPLY_UNMARKED},
    {7, 5, ' ', 5, 45, REPLY_PREFIX},   {7, 5, ' ', 6, 63, REPLY_UNMARKED},
    {7, 5, ' ', 6, 62, REPLY_UNMARKED}, {7, 5, ' ', 6, 64, REPLY_UNMARKED},
    {7, 5, '-', 5, 63, REPLY_WRONG},    {7, 6, ' ', 6, 63, REPLY_OTHER_LINE},
    {7, 6, ' ', 5, 63, REPLY_WRONG},    {7, 6, ' ', 6, 62, REPLY_WRONG},
    {7, 6, ' ', 6, 46, REPLY_WRONG},    {8, 5, ' ', 8, 63, REPLY_MIXED_UP},
    {8, 5, ' ', 5, 63, REPLY_WRONG},
};

START_TEST(test_mark_is_judged)
{
    struct payload payload;
    struct mark_key key;
    char line[41];
    char reply[80] = "echo: ";
    uint64_t other = 0;
    mark_key_init(&key, KEY, strlen(KEY));
    ck_assert(payload_init(&payload, 40, 40, &key));
    payload_write_line(&payload, marked[_i].from, marked[_i].body, reply + 6);
    reply[46] = marked[_i].separator;
    /* The other connection's line has its own mark. */
    if (marked[_i].mark == 8)
        payload_write_line(&payload, 8, 5, line);
    else
        payload_write_line(&payload, 7, marked[_i].mark, line);
    mark_text(&key, line, 40, reply + 47);
    reply[63] = 'x';
    ck_assert_int_eq(
        payload_judge(&payload, 7, 5, reply, marked[_i].len, &other),
        marked[_i].class);
    if (marked[_i].class == REPLY_OTHER_LINE)
        ck_assert_uint_eq(other, marked[_i].body);
    payload_free(&payload);
}
END_TEST

/* With a key the letters after the tag are the salt, then the alphabet. */
START_TEST(test_letters_follow_from_the_key)
{
    static const size_t sizes[] = {16, 17, 31, 32, 33, 100};
    size_t size = sizes[_i];
    struct payload payload;
    struct payload plain;
    struct mark_key key;
    char line[101];
    char plain_line[101];
    char salt[SALT_LEN];
    mark_key_init(&key, KEY, strlen(KEY));
    ck_assert(payload_init(&payload, size, size, &key));
    ck_assert(payload_init(&plain, size, size, NULL));
    payload_write_line(&payload, 7, 3000000005, line);
    payload_write_line(&plain, 7, 3000000005, plain_line);
    mark_salt(&key, 7, 5, salt);
    size_t salted = size < 32 ? size - 16 : 16;
    ck_assert_mem_eq(line, plain_line, 16);
    ck_assert_mem_eq(line + 16, salt, salted);
    ck_assert_mem_eq(line + 16 + salted, plain_line + 16 + salted,
                     size + 1 - 16 - salted);
    payload_free(&payload);
    payload_free(&plain);
}
END_TEST

static const struct {
    const char *reply;
    enum reply_class class;
} texts[] = {
    {"error: upstream refused", REPLY_ERROR},
    {"error: ", REPLY_ERROR},
    {"error:", REPLY_WRONG},
    {"errors", REPLY_WRONG},
    {"ech", REPLY_PREFIX},
    {"echo", REPLY_PREFIX},
    {"Echo: 000007-00000000", REPLY_WRONG},
    {"echo: 000007-00000000x", REPLY_WRONG},
    {"echo: xxxxxxxxxxxxxxxx", REPLY_WRONG},
    {"echo: 000007-000000005", REPLY_RIGHT},
    {"echo: 000007-000000006", REPLY_OTHER_LINE},
    {"echo: 000008-000000005", REPLY_MIXED_UP},
    {"echo: 000008+000000005", REPLY_WRONG},
};

START_TEST(test_text_is_judged)
{
    struct payload payload;
    uint64_t other = 0;
    ck_assert(payload_init(&payload, LINE_TAG, LINE_TAG, NULL));
    ck_assert_int_eq(payload_judge(&payload, 7, 5, texts[_i].reply,
                                   strlen(texts[_i].reply), &other),
                     texts[_i].class);
    payload_free(&payload);
}
END_TEST

static Suite *payload_suite(void)
{
    Suite *suite = suite_create("payload");
    TCase *tests = tcase_create("payload");

    tcase_add_test(tests, test_line_names_its_connection_and_number);
    tcase_add_loop_test(tests, test_reply_is_judged, 0, COUNT(replies));
    tcase_add_loop_test(tests, test_each_byte_counts, 0, 5);
    tcase_add_loop_test(tests, test_mark_is_judged, 0, COUNT(marked));
    tcase_add_loop_test(tests, test_letters_follow_from_the_key, 0, 6);
    tcase_add_loop_test(tests, test_text_is_judged, 0, COUNT(texts));
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(payload_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
