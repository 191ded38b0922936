/*
 * Unit test of lib/clock: the time that all timeouts are measured in.
 *
 * SPDX-License-Identifier: MIT
 */
#include "harness.h"

#include "../lib/clock.c"

#include <stdlib.h>

/* The time of the harness is the system's monotonic time in ms. */
START_TEST(test_clock_is_monotonic_time_in_ms)
{
    for (int i = 0; i < 100; i++) {
        long long before = now_ms();
        long long time = clock_ms();
        long long after = now_ms();
        ck_assert_int_le(before, time);
        ck_assert_int_le(time, after);
        let_pass(1);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("clock");
    TCase *tests = tcase_create("clock");

    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_test(tests, test_clock_is_monotonic_time_in_ms);
    suite_add_tcase(suite, tests);
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
