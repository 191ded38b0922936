/*
 * Values on a command line: read whole or not at all, and how a bad one is
 * described.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../lib/values.h"
#include "harness.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

static const struct {
    const char *text;
    uint64_t min;
    uint64_t max;
    bool good;
    uint64_t value;
} wholes[] = {
    {"0", 0, 10, true, 0},
    {"10", 0, 10, true, 10},
    {"007", 0, 10, true, 7},
    {"18446744073709551615", 0, UINT64_MAX, true, UINT64_MAX},
    {"18446744073709551616", 0, UINT64_MAX, false, 0},
    {"11", 0, 10, false, 0},
    {"0", 1, 10, false, 0},
    {"", 0, 10, false, 0},
    {" 1", 0, 10, false, 0},
    {"1 ", 0, 10, false, 0},
    {"+1", 0, 10, false, 0},
    {"-1", 0, UINT64_MAX, false, 0},
    {"0x1", 0, 10, false, 0},
    {"1e1", 0, 10, false, 0},
    {"1.0", 0, 10, false, 0},
    {"one", 0, 10, false, 0},
};

START_TEST(test_whole_number_is_read)
{
    uint64_t value = 12345;
    ck_assert_int_eq(
        parse_whole(wholes[_i].text, wholes[_i].min, wholes[_i].max, &value),
        wholes[_i].good);
    ck_assert_uint_eq(value, wholes[_i].good ? wholes[_i].value : 12345);
}
END_TEST

static const struct {
    const char *text;
    double min;
    double max;
    bool good;
    double value;
} decimals[] = {
    {"0", 0, 10, true, 0},           {"0.5", 0, 10, true, 0.5},
    {".5", 0, 10, true, 0.5},        {"5.", 0, 10, true, 5},
    {"10", 0, 10, true, 10},         {"0.001", 0.001, 10, true, 0.001},
    {"0.0009", 0.001, 10, false, 0}, {"10.01", 0, 10, false, 0},
    {"", 0, 10, false, 0},           {".", 0, 10, false, 0},
    {"1.2.3", 0, 10, false, 0},      {"1s", 0, 10, false, 0},
    {" 1", 0, 10, false, 0},         {"-1", -10, 10, false, 0},
    {"+1", 0, 10, false, 0},         {"1e0", 0, 10, false, 0},
    {"0x1", 0, 10, false, 0},        {"inf", 0, INFINITY, false, 0},
    {"nan", 0, INFINITY, false, 0},
};

START_TEST(test_decimal_number_is_read)
{
    double value = 12345;
    ck_assert_int_eq(parse_decimal(decimals[_i].text, decimals[_i].min,
                                   decimals[_i].max, &value),
                     decimals[_i].good);
    ck_assert_double_eq(value, decimals[_i].good ? decimals[_i].value : 12345);
}
END_TEST

START_TEST(test_bad_value_is_described)
{
    char description[BAD_VALUE_SIZE];
    ck_assert_ptr_eq(
        describe_bad_value(description, "1x", "whole number", 1, 1073741824),
        description);
    ck_assert_str_eq(description,
                     "'1x' is not a whole number from 1 to 1073741824");
    describe_bad_value(description, "", "number of seconds", 0.001, 86400);
    ck_assert_str_eq(description,
                     "'' is not a number of seconds from 0.001 to 86400");
}
END_TEST

/* The range is what the user needs; the text is known already. */
START_TEST(test_range_of_a_long_value_is_described)
{
    static const char end[] = "' is not a whole number from 1 to 10";
    char text[4 * BAD_VALUE_SIZE];
    char description[BAD_VALUE_SIZE];
    memset(text, '1', sizeof text);
    text[sizeof text - 1] = '\0';
    describe_bad_value(description, text, "whole number", 1, 10);
    ck_assert_uint_ge(strlen(description), strlen(end));
    ck_assert_str_eq(description + strlen(description) - strlen(end), end);
}
END_TEST

static Suite *values_suite(void)
{
    Suite *suite = suite_create("values");
    TCase *tests = tcase_create("values");

    tcase_add_loop_test(tests, test_whole_number_is_read, 0, COUNT(wholes));
    tcase_add_loop_test(tests, test_decimal_number_is_read, 0,
                        COUNT(decimals));
    tcase_add_test(tests, test_bad_value_is_described);
    tcase_add_test(tests, test_range_of_a_long_value_is_described);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(values_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
