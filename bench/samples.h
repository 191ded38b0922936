// SPDX-License-Identifier: MIT
/*
 * Every latency that was measured, kept one by one: percentiles are exact,
 * and a slow moment can still be found afterwards.
 */
#ifndef BENCH_SAMPLES_H
#define BENCH_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct sample {
    int64_t start_ns;    /* from the beginning of the measured time */
    uint64_t latency_ns; /* from there to the reply's last byte */
    uint32_t connection;
    bool measured; /* sent within that time; else it is no latency's */
};

/* All zero is empty. */
struct samples {
    struct sample **chunks;
    size_t chunk_count;
    size_t count;
    size_t measured; /* of those */
    uint64_t sum_ns; /* latencies of the measured ones */
};

/* All zero when no sample is a measured one. */
struct latency {
    double mean_ns;
    uint64_t p50_ns;
    uint64_t p90_ns;
    uint64_t p99_ns;
    uint64_t p999_ns;
    uint64_t max_ns;
};

/* Keep one more sample. False when memory is short. */
bool samples_add(struct samples *samples, struct sample sample);

/*
 * Sort the measured latencies for *latency. A percentile is the smallest
 * sample that so many percent of them do not exceed (the nearest rank), never
 * an interpolation. False when memory is short.
 */
bool samples_latency(const struct samples *samples, struct latency *latency);

/*
 * Write them as text, one line each in the order of the replies: the start in
 * seconds, the latency in microseconds, the connection, and 1 if it was
 * measured or 0. False when a write failed, errno then says why.
 */
bool samples_write(const struct samples *samples, FILE *file);

void samples_free(struct samples *samples);

#endif
