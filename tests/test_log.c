/*
 * Unit tests of lib/log: lines to stderr, and how often the same one comes.
 * The time is the test's.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memfd_create, pipe2 */
#include "harness.h"

#include "../lib/log.c"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

static long long time_ms;

long long clock_ms(void)
{
    return time_ms;
}

START_TEST(test_same_fault_is_logged_once_in_five_seconds)
{
    long long last = 0, of_another = 0;

    time_ms = 1;
    ck_assert(log_allowed(&last));
    for (int round = 0; round < 3; round++) {
        ck_assert(!log_allowed(&last));
        time_ms += 4999;
        ck_assert(!log_allowed(&last));
        time_ms += 1;
        ck_assert(log_allowed(&last));
    }
    ck_assert(log_allowed(&of_another));
    ck_assert(!log_allowed(&of_another));
}
END_TEST

/* Puts fd in the place of stderr. Returns what restore() needs. */
static int replace_stderr(int fd)
{
    int saved = dup(STDERR_FILENO);

    ck_assert_int_ge(saved, 0);
    ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    return saved;
}

static void restore_stderr(int saved)
{
    ck_assert_int_eq(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    close(saved);
}

START_TEST(test_line_is_written_whole_up_to_its_longest)
{
    static const char start[] = "threadecho: ";
    static char text[4096], written[4096];
    const size_t most = 2048 - 2 - (sizeof start - 1); /* an LF and a NUL */
    const size_t lengths[] = {0, 1, most - 1, most, most + 1, 4000};
    size_t sent = lengths[_i] < most ? lengths[_i] : most;
    int file = memfd_create("log", MFD_CLOEXEC);

    ck_assert_int_ge(file, 0);
    memset(text, 'x', lengths[_i]);
    int saved = replace_stderr(file);
    log_line("%s", text);
    log_line("%d and %s", 1, "two");
    restore_stderr(saved);

    ssize_t len = pread(file, written, sizeof written, 0);
    ck_assert_int_eq(len, 2 * (ssize_t)strlen(start) + (ssize_t)sent + 1 +
                              (ssize_t)strlen("1 and two\n"));
    ck_assert_mem_eq(written, start, strlen(start));
    ck_assert_mem_eq(written + strlen(start), text, sent);
    ck_assert_str_eq(written + strlen(start) + sent,
                     "\nthreadecho: 1 and two\n");
    close(file);
}
END_TEST

/* A text that can't be written in this locale costs no more than itself. */
START_TEST(test_line_that_cannot_be_formatted_is_empty)
{
    char written[64] = "";
    int file = memfd_create("log", MFD_CLOEXEC);

    ck_assert_int_ge(file, 0);
    int saved = replace_stderr(file);
    log_line("%ls", L"\x100");
    log_line("next");
    restore_stderr(saved);
    ck_assert_int_gt(pread(file, written, sizeof written - 1, 0), 0);
    ck_assert_str_eq(written, "threadecho: \nthreadecho: next\n");
    close(file);
}
END_TEST

/* Nobody reads it, or it is closed: the line is lost, and errno with it. */
START_TEST(test_line_without_room_is_dropped)
{
    static const char filler[4096];
    int fds[2];

    ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    while (write(fds[1], filler, sizeof filler) > 0)
        continue;
    ck_assert_int_eq(errno, EAGAIN);
    ck_assert_int_eq(fcntl(fds[1], F_SETFL, 0), 0); /* blocking, as usual */
    long long start = now_ms();
    int saved = replace_stderr(fds[1]);
    log_line("nobody reads this");
    restore_stderr(saved);
    ck_assert_int_ge(now_ms() - start, 99);
    ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
    close(fds[0]);
    close(fds[1]);
}
END_TEST

/* The lowest descriptor that is free. */
static int lowest_free(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    int lowest = fd;
    ck_assert_int_ge(fd, 0);
    close(fd);
    return lowest;
}

START_TEST(test_open_reserves_the_standard_streams_alone)
{
    int before = lowest_free();
    int saved = dup(STDIN_FILENO);

    ck_assert_int_eq(saved, before);
    log_open();
    ck_assert_int_eq(lowest_free(), before + 1);
    close(STDIN_FILENO);
    log_open();
    ck_assert_int_eq(lowest_free(), before + 1);
    ck_assert_int_ge(fcntl(STDIN_FILENO, F_GETFD), 0);
    ck_assert(signal(SIGXFSZ, SIG_DFL) == SIG_IGN);
    ck_assert_int_eq(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
}
END_TEST

/* Nothing can be reserved then, and nothing may take their places either. */
START_TEST(test_open_goes_on_without_a_descriptor)
{
    struct rlimit limit;

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = STDERR_FILENO + 1;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    log_open();
    close(STDIN_FILENO);
    log_open();
    ck_assert_int_ge(fcntl(STDIN_FILENO, F_GETFD), 0);
    limit.rlim_cur = before;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tests = tcase_create("log");

    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_test(tests, test_same_fault_is_logged_once_in_five_seconds);
    tcase_add_loop_test(tests, test_line_is_written_whole_up_to_its_longest, 0,
                        6);
    tcase_add_test(tests, test_line_that_cannot_be_formatted_is_empty);
    tcase_add_test(tests, test_line_without_room_is_dropped);
    tcase_add_test(tests, test_open_reserves_the_standard_streams_alone);
    tcase_add_test(tests, test_open_goes_on_without_a_descriptor);
    suite_add_tcase(suite, tests);
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
