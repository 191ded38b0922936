/*
 * stats.c - what the server has counted, see stats.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "stats.h"
#include "log.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define WORD_SIZE 48 /* bytes of " error_REASON=COUNT" */

void stats_count_request(struct stats *stats, enum reason reason)
{
    atomic_fetch_add(&stats->requests, 1);
    if (reason != REASON_NONE)
        atomic_fetch_add(&stats->errors[reason], 1);
}

void stats_log(struct stats *stats, long peak_threads)
{
    char errors[REASONS * WORD_SIZE] = "";
    size_t len = 0;
    unsigned long long total = 0;
    struct rusage usage;

    for (unsigned i = REASON_NONE + 1; i < REASONS; i++) {
        unsigned long long count = atomic_load(&stats->errors[i]);
        if (count == 0)
            continue;
        total += count;
        int n = snprintf(errors + len, sizeof errors - len, " error_%s=%llu",
                         reason_text((enum reason)i), count);
        /* A word of the summary: its blanks become underscores. */
        for (int at = 1; at < n; at++)
            if (errors[len + (size_t)at] == ' ')
                errors[len + (size_t)at] = '_';
        len += (size_t)n;
    }
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        memset(&usage, 0, sizeof usage);

    log_line("connections=%llu rejected=%llu requests=%llu errors=%llu%s "
             "accept_errors=%llu thread_errors=%llu peak_threads=%ld "
             "cpu_user=%lld.%06ld cpu_sys=%lld.%06ld max_rss=%ld "
             "voluntary_switches=%ld involuntary_switches=%ld",
             atomic_load(&stats->connections), atomic_load(&stats->rejected),
             atomic_load(&stats->requests), total, errors,
             atomic_load(&stats->accept_errors),
             atomic_load(&stats->thread_errors), peak_threads,
             (long long)usage.ru_utime.tv_sec, (long)usage.ru_utime.tv_usec,
             (long long)usage.ru_stime.tv_sec, (long)usage.ru_stime.tv_usec,
             usage.ru_maxrss, usage.ru_nvcsw, usage.ru_nivcsw);
}
