/*
 * fuzz.h - what the fuzz targets share
 *
 * A target is tests/proof/fuzz_NAME.c. It defines LLVMFuzzerTestOneInput, and
 * its first comment has two lines that tests/proof/fuzz reads: "Under test:"
 * with the files whose coverage counts, and "libFuzzer:" with options.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Tries one input. Returns 0; what is wrong ends the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the process unless the condition holds; libFuzzer then saves the
 * input. */
#define REQUIRE(condition)                                                    \
    do {                                                                      \
        if (!(condition)) {                                                   \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, \
                    #condition);                                              \
            abort();                                                          \
        }                                                                     \
    } while (0)

/* What is left of an input. */
struct input {
    const uint8_t *data;
    size_t len;
};

/* Takes the next byte; 0 when none is left. */
static inline unsigned take_byte(struct input *input)
{
    if (input->len == 0)
        return 0;
    input->len--;
    return *input->data++;
}

/* Takes a number of two bytes, the lower first. */
static inline unsigned take_short(struct input *input)
{
    unsigned low = take_byte(input);
    return low | take_byte(input) << 8;
}

/* How an input is cut into pieces: by these lengths, over and over. */
struct pieces {
    uint8_t lengths[16];
    unsigned count;
    unsigned at;
};

/* Takes up to 15 lengths from the input. */
static inline struct pieces take_pieces(struct input *input)
{
    struct pieces pieces = {.count = take_byte(input) % 16};

    for (unsigned i = 0; i < pieces.count; i++)
        pieces.lengths[i] = (uint8_t)take_byte(input);
    return pieces;
}

/* Returns the length of the next piece of len bytes: 1 or more, or all. */
static inline size_t next_piece(struct pieces *pieces, size_t len)
{
    if (pieces->count == 0)
        return len;
    size_t piece = pieces->lengths[pieces->at++ % pieces->count] + 1U;
    return piece < len ? piece : len;
}

#endif
