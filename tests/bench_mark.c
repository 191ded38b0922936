/*
 * The keyed mark by which the upstream proves that it was asked.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../bench/mark.h"
#include "harness.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* Fills out with the bytes 0, 1, 2 and so on. */
static void count_up(unsigned char *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = (unsigned char)i;
}

/*
 * A key and a text of so many bytes that count up. By Python:
 * hashlib.blake2b(text, digest_size=16, key=key).hexdigest()[:16]
 */
static const struct {
    size_t key_len;
    size_t len;
    const char *mark;
} vectors[] = {
    {16, 0, "083aac7ba77bc664"},   {16, 1, "b8debbaa94db1228"},
    {16, 32, "fab3e0a2d3d662cb"},  {17, 128, "27b7fc1c22889530"},
    {64, 129, "a4f9597aae5d4f33"}, {64, 1000, "f0600062f3e2e67c"},
};

START_TEST(test_mark_is_half_a_blake2b)
{
    unsigned char bytes[1000];
    char mark[MARK_LEN + 1];
    struct mark_key key;
    count_up(bytes, sizeof bytes);
    mark[MARK_LEN] = 'x';
    mark_key_init(&key, bytes, vectors[_i].key_len);
    mark_text(&key, bytes, vectors[_i].len, mark);
    ck_assert_mem_eq(mark, vectors[_i].mark, MARK_LEN);
    ck_assert_int_eq(mark[MARK_LEN], 'x');
}
END_TEST

/* Returns whether two salts differ. */
static bool salts_differ(const struct mark_key *key, uint64_t a, uint64_t b,
                         const struct mark_key *other_key, uint64_t other_a,
                         uint64_t other_b)
{
    char salt[SALT_LEN];
    char other[SALT_LEN];
    mark_salt(key, a, b, salt);
    mark_salt(other_key, other_a, other_b, other);
    for (int i = 0; i < SALT_LEN; i++)
        ck_assert(salt[i] >= 'a' && salt[i] <= 'p');
    return memcmp(salt, other, SALT_LEN) != 0;
}

START_TEST(test_salt_follows_from_the_key_and_both_numbers)
{
    struct mark_key key;
    struct mark_key other;
    mark_key_init(&key, "0123456789abcdef", 16);
    mark_key_init(&other, "0123456789abcdeg", 16);
    ck_assert(!salts_differ(&key, 1, 2, &key, 1, 2));
    ck_assert(salts_differ(&key, 1, 2, &key, 1, 3));
    ck_assert(salts_differ(&key, 1, 2, &key, 2, 2));
    ck_assert(salts_differ(&key, 1, 2, &key, 2, 1));
    ck_assert(salts_differ(&key, 1, 2, &other, 1, 2));
}
END_TEST

static Suite *mark_suite(void)
{
    Suite *suite = suite_create("mark");
    TCase *tests = tcase_create("mark");

    tcase_add_loop_test(tests, test_mark_is_half_a_blake2b, 0, COUNT(vectors));
    tcase_add_test(tests, test_salt_follows_from_the_key_and_both_numbers);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(mark_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
