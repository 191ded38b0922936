/*
 * Unit tests of lib/stats: counters that many threads add to, and the summary
 * of them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "harness.h"

#include <sys/resource.h>

static bool usage_unknown;

/* (The type of its first argument is glibc's own.) */
static int try_getrusage(__rusage_who_t who, struct rusage *usage)
{
    return usage_unknown ? -1 : getrusage(who, usage);
}

#define getrusage try_getrusage
#include "../lib/stats.c"
#undef getrusage

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>

static char logged[4096];

void log_line(const char *format, ...)
{
    va_list args;

    /* In a log, something precedes the first word. */
    memcpy(logged, "log: ", sizeof "log: ");
    size_t len = strlen(logged);
    va_start(args, format);
    vsnprintf(logged + len, sizeof logged - len, format, args);
    va_end(args);
}

enum { THREADS = 4, ROUNDS = 200000 };

static struct stats counted;

static void *counting_thread(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++)
        stats_count_request(&counted,
                            i % 2 == 0 ? REASON_NONE : REASON_REFUSED);
    return NULL;
}

START_TEST(test_no_count_of_many_threads_is_lost)
{
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, counting_thread, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    stats_log(&counted, THREADS);
    ck_assert_int_eq(summary_value(logged, "requests"), THREADS * ROUNDS);
    ck_assert_int_eq(summary_value(logged, "errors"), THREADS * ROUNDS / 2);
    ck_assert_int_eq(summary_value(logged, "error_upstream_refused"),
                     THREADS * ROUNDS / 2);
}
END_TEST

/* Each reason with a count of its own, and each other counter too. */
START_TEST(test_summary_has_each_count_under_its_name)
{
    struct stats stats = {0};
    long total = 0;

    atomic_store(&stats.connections, 1001);
    atomic_store(&stats.rejected, 1002);
    atomic_store(&stats.accept_errors, 1003);
    atomic_store(&stats.thread_errors, 1004);
    stats_count_request(&stats, REASON_NONE);
    for (int reason = REASON_NONE + 1; reason < REASONS; reason++) {
        for (int i = 0; i < reason; i++)
            stats_count_request(&stats, (enum reason)reason);
        total += reason;
    }
    stats_log(&stats, 1005);
    for (int reason = REASON_NONE + 1; reason < REASONS; reason++) {
        char key[64];
        snprintf(key, sizeof key, "error_%s",
                 reason_text((enum reason)reason));
        for (char *at = key; *at != '\0'; at++)
            if (*at == ' ')
                *at = '_';
        ck_assert_int_eq(summary_value(logged, key), reason);
    }
    ck_assert_int_eq(summary_value(logged, "connections"), 1001);
    ck_assert_int_eq(summary_value(logged, "rejected"), 1002);
    ck_assert_int_eq(summary_value(logged, "requests"), total + 1);
    ck_assert_int_eq(summary_value(logged, "errors"), total);
    ck_assert_int_eq(summary_value(logged, "accept_errors"), 1003);
    ck_assert_int_eq(summary_value(logged, "thread_errors"), 1004);
    ck_assert_int_eq(summary_value(logged, "peak_threads"), 1005);
}
END_TEST

static double seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static double summary_seconds(const char *key)
{
    const char *at = strstr(logged, key);
    ck_assert_ptr_nonnull(at);
    return strtod(at + strlen(key), NULL);
}

/* Uses the CPU in user space, and waits, each so much that its number cannot
 * be taken for another one. */
static struct rusage use_resources(void)
{
    long long deadline = now_ms() + PATIENCE_MS;
    struct rusage usage;

    do {
        for (volatile int i = 0; i < 1000000; i++)
            continue;
        for (int i = 0; i < 20; i++)
            let_pass(1);
        ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
        ck_assert_int_lt(now_ms(), deadline);
    } while (seconds(usage.ru_utime) < seconds(usage.ru_stime) + 0.05 ||
             usage.ru_nvcsw < usage.ru_nivcsw + 50);
    return usage;
}

START_TEST(test_summary_has_what_the_process_has_used)
{
    struct stats stats = {0};
    struct rusage before = use_resources(), after;

    stats_log(&stats, 0);
    ck_assert_int_eq(getrusage(RUSAGE_SELF, &after), 0);
    double user = summary_seconds("cpu_user=");
    double sys = summary_seconds("cpu_sys=");
    ck_assert(seconds(before.ru_utime) <= user + 1e-6);
    ck_assert(user <= seconds(after.ru_utime) + 1e-6);
    ck_assert(seconds(before.ru_stime) <= sys + 1e-6);
    ck_assert(sys <= seconds(after.ru_stime) + 1e-6);
    long maximum = summary_value(logged, "max_rss");
    ck_assert(before.ru_maxrss <= maximum && maximum <= after.ru_maxrss);
    long switches = summary_value(logged, "voluntary_switches");
    ck_assert(before.ru_nvcsw <= switches && switches <= after.ru_nvcsw);
    switches = summary_value(logged, "involuntary_switches");
    ck_assert(before.ru_nivcsw <= switches && switches <= after.ru_nivcsw);
}
END_TEST

/* The summary is no less right in all else. */
START_TEST(test_summary_of_an_unknown_usage_has_zeros)
{
    struct stats stats = {0};

    stats_count_request(&stats, REASON_NONE);
    usage_unknown = true;
    stats_log(&stats, 7);
    ck_assert_ptr_nonnull(
        strstr(logged, " requests=1 errors=0 accept_errors=0 thread_errors=0 "
                       "peak_threads=7 cpu_user=0.000000 cpu_sys=0.000000 "
                       "max_rss=0 voluntary_switches=0 "
                       "involuntary_switches=0"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stats");
    TCase *tests = tcase_create("stats");

    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_test(tests, test_no_count_of_many_threads_is_lost);
    tcase_add_test(tests, test_summary_has_each_count_under_its_name);
    tcase_add_test(tests, test_summary_has_what_the_process_has_used);
    tcase_add_test(tests, test_summary_of_an_unknown_usage_has_zeros);
    suite_add_tcase(suite, tests);
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
