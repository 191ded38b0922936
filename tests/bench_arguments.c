/*
 * What the kit's programs say when output is lost.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../bench/arguments.h"
#include "harness.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *messages; /* in place of standard error */
static int real_stderr;

static void catch_messages(void)
{
    messages = tmpfile();
    ck_assert_ptr_nonnull(messages);
    real_stderr = dup(STDERR_FILENO);
    ck_assert_int_ge(real_stderr, 0);
    ck_assert_int_eq(dup2(fileno(messages), STDERR_FILENO), STDERR_FILENO);
}

/* Ends catch_messages(): they must be this text. */
static void check_messages(const char *text)
{
    char said[256] = "";
    ck_assert_int_eq(dup2(real_stderr, STDERR_FILENO), STDERR_FILENO);
    rewind(messages);
    size_t len = fread(said, 1, sizeof said - 1, messages);
    said[len] = '\0';
    ck_assert_str_eq(said, text);
    ck_assert_int_eq(fclose(messages), 0);
    ck_assert_int_eq(close(real_stderr), 0);
}

START_TEST(test_output_that_was_written_is_no_loss)
{
    FILE *file = fopen("/dev/null", "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs("text", file), 0);
    catch_messages();
    ck_assert(close_output("name", file, "a file", 0));
    check_messages("");
}
END_TEST

START_TEST(test_loss_at_the_close_has_its_reason)
{
    FILE *file = fopen("/dev/full", "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs("text", file), 0);
    catch_messages();
    ck_assert(!close_output("name", file, "a file", 0));
    check_messages("name: cannot write to a file: No space left on device\n");
}
END_TEST

START_TEST(test_known_error_is_reported_once)
{
    FILE *file = fopen("/dev/full", "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs("text", file), 0);
    catch_messages();
    ck_assert(!close_output("name", file, "a file", EFBIG));
    check_messages("name: cannot write to a file: File too large\n");
}
END_TEST

/* A write has failed and the close does not: errno is of something else. */
START_TEST(test_earlier_loss_has_no_reason)
{
    FILE *file = fopen("/dev/null", "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fputs("text", file), EOF);
    errno = ENOENT;
    catch_messages();
    ck_assert(!close_output("name", file, "a file", 0));
    check_messages("name: cannot write all to a file\n");

    ck_assert_ptr_nonnull(freopen("/dev/null", "r", stdout));
    ck_assert_int_eq(puts("text"), EOF);
    errno = ENOENT;
    catch_messages();
    ck_assert(!close_stdout("name"));
    check_messages("name: cannot write all to standard output\n");
}
END_TEST

static Suite *arguments_suite(void)
{
    Suite *suite = suite_create("arguments");
    TCase *tests = tcase_create("output");

    tcase_add_test(tests, test_output_that_was_written_is_no_loss);
    tcase_add_test(tests, test_loss_at_the_close_has_its_reason);
    tcase_add_test(tests, test_known_error_is_reported_once);
    tcase_add_test(tests, test_earlier_loss_has_no_reason);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(arguments_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
