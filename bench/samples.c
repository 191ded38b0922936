/*
 * samples.c - latency samples in chunks
 *
 * Adding a sample never copies the others: the time that this took would show
 * in the latencies.
 *
 * SPDX-License-Identifier: MIT
 */
#include "samples.h"

#include <inttypes.h>
#include <stdlib.h>

#define CHUNK (1 << 16) /* samples in a chunk */

static const struct sample *sample_at(const struct samples *samples, size_t i)
{
    return &samples->chunks[i / CHUNK][i % CHUNK];
}

bool samples_add(struct samples *samples, struct sample sample)
{
    if (samples->count == samples->chunk_count * CHUNK) {
        size_t size = (samples->chunk_count + 1) * sizeof *samples->chunks;
        struct sample **chunks = realloc(samples->chunks, size);
        if (chunks == NULL)
            return false;
        samples->chunks = chunks;
        struct sample *chunk = malloc(CHUNK * sizeof *chunk);
        if (chunk == NULL)
            return false;
        samples->chunks[samples->chunk_count++] = chunk;
    }
    samples->chunks[samples->count / CHUNK][samples->count % CHUNK] = sample;
    samples->count++;
    if (sample.measured) {
        samples->measured++;
        samples->sum_ns += sample.latency_ns;
    }
    return true;
}

static int compare_latencies(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Returns the sample at the nearest rank for a share in thousandths. */
static uint64_t percentile(const uint64_t *sorted, size_t count,
                           size_t thousandths)
{
    size_t whole = count / 1000 * thousandths;
    size_t part = (count % 1000 * thousandths + 999) / 1000;
    return sorted[whole + part - 1];
}

bool samples_latency(const struct samples *samples, struct latency *latency)
{
    *latency = (struct latency){0};
    if (samples->measured == 0)
        return true;
    uint64_t *sorted = calloc(samples->measured, sizeof *sorted);
    if (sorted == NULL)
        return false;
    size_t count = 0;
    for (size_t i = 0; i < samples->count; i++) {
        const struct sample *sample = sample_at(samples, i);
        if (sample->measured)
            sorted[count++] = sample->latency_ns;
    }
    qsort(sorted, count, sizeof *sorted, compare_latencies);
    latency->mean_ns = (double)samples->sum_ns / (double)count;
    latency->p50_ns = percentile(sorted, count, 500);
    latency->p90_ns = percentile(sorted, count, 900);
    latency->p99_ns = percentile(sorted, count, 990);
    latency->p999_ns = percentile(sorted, count, 999);
    latency->max_ns = sorted[count - 1];
    free(sorted);
    return true;
}

bool samples_write(const struct samples *samples, FILE *file)
{
    if (fputs("# start_s latency_us connection measured\n", file) == EOF)
        return false;
    for (size_t i = 0; i < samples->count; i++) {
        const struct sample *sample = sample_at(samples, i);
        if (fprintf(file, "%.6f %.3f %" PRIu32 " %d\n",
                    (double)sample->start_ns / 1e9,
                    (double)sample->latency_ns / 1e3, sample->connection,
                    sample->measured) < 0)
            return false;
    }
    return true;
}

void samples_free(struct samples *samples)
{
    for (size_t i = 0; i < samples->chunk_count; i++)
        free(samples->chunks[i]);
    free(samples->chunks);
    *samples = (struct samples){0};
}
