/*
 * The samples of the load generator: their percentiles are exact.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../bench/samples.c"
#include "harness.h"

#include <check.h>

/* Returns the rank of the smallest sample that this share does not exceed. */
static uint64_t rank_by_counting(size_t count, size_t thousandths)
{
    uint64_t rank = 1;
    while (rank * 1000 < count * thousandths)
        rank++;
    return rank;
}

START_TEST(test_percentiles_are_nearest_ranks)
{
    static const size_t counts[] = {1,   2,   3,    10,   99,    100,
                                    101, 999, 1000, 1001, 12345, 70000};
    struct samples samples = {0};
    struct latency latency;
    size_t count = counts[_i];
    /* 1 to count, in another order: 7919 is a prime. */
    for (size_t i = 0; i < count; i++) {
        struct sample sample = {.latency_ns = i * 7919 % count + 1,
                                .measured = true};
        struct sample other = {.latency_ns = 1000000 + i};
        ck_assert(samples_add(&samples, sample));
        ck_assert(samples_add(&samples, other));
    }
    ck_assert_uint_eq(samples.count, 2 * count);
    ck_assert_uint_eq(samples.measured, count);
    ck_assert(samples_latency(&samples, &latency));
    ck_assert_uint_eq(latency.p50_ns, rank_by_counting(count, 500));
    ck_assert_uint_eq(latency.p90_ns, rank_by_counting(count, 900));
    ck_assert_uint_eq(latency.p99_ns, rank_by_counting(count, 990));
    ck_assert_uint_eq(latency.p999_ns, rank_by_counting(count, 999));
    ck_assert_uint_eq(latency.max_ns, count);
    ck_assert_double_eq_tol(latency.mean_ns, (double)(count + 1) / 2, 1e-6);
    samples_free(&samples);
}
END_TEST

START_TEST(test_no_sample_makes_no_percentile)
{
    struct samples samples = {0};
    struct latency latency;
    ck_assert(samples_latency(&samples, &latency));
    ck_assert_uint_eq(latency.max_ns, 0);
    samples_free(&samples);
}
END_TEST

static Suite *samples_suite(void)
{
    Suite *suite = suite_create("samples");
    TCase *tests = tcase_create("samples");

    tcase_add_loop_test(tests, test_percentiles_are_nearest_ranks, 0, 12);
    tcase_add_test(tests, test_no_sample_makes_no_percentile);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(samples_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
