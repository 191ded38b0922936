/*
 * samples.h - every latency that was measured
 *
 * All are kept, so percentiles are exact and a slow moment can be found
 * afterwards.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_SAMPLES_H
#define BENCH_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct sample {
    int64_t start_ns;    /* from the start of the measured time */
    uint64_t latency_ns; /* from start_ns to the reply's last byte */
    uint32_t connection;
    bool measured; /* sent within the measured time; others count nowhere */
};

/* All zero is empty. */
struct samples {
    struct sample **chunks;
    size_t chunk_count;
    size_t count;
    size_t measured; /* samples that are measured ones */
    uint64_t sum_ns; /* sum of their latencies */
};

/* All zero if no sample is a measured one. */
struct latency {
    double mean_ns;
    uint64_t p50_ns;
    uint64_t p90_ns;
    uint64_t p99_ns;
    uint64_t p999_ns;
    uint64_t max_ns;
};

/* Appends a sample. Returns false if memory is short. */
bool samples_add(struct samples *samples, struct sample sample);

/*
 * Computes *latency from the measured samples. A percentile p is the smallest
 * sample that p % of them do not exceed (nearest rank); nothing is
 * interpolated. Returns false if memory is short.
 */
bool samples_latency(const struct samples *samples, struct latency *latency);

/*
 * Writes the samples as text, a line each in the order of the replies: start
 * in seconds, latency in microseconds, connection, and 1 if it was measured or
 * 0. Returns false, with errno set, if a write failed.
 */
bool samples_write(const struct samples *samples, FILE *file);

void samples_free(struct samples *samples);

#endif
