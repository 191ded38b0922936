// SPDX-License-Identifier: MIT
/*
 * The lines that the load generator sends, and the judgement on what comes
 * back. A line begins with the number of its connection and its own number on
 * it, so no two lines are alike and a reply says which line it belongs to.
 */
#ifndef BENCH_PAYLOAD_H
#define BENCH_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LINE_TAG = 16, /* bytes of "CCCCCC-SSSSSSSSS", the shortest line */
    MAX_PAYLOAD_CONNECTION = 999999,
};

struct payload {
    size_t line_size;  /* bytes of a line without its LF */
    size_t reply_size; /* bytes of a reply's body: the line repeated or cut */
    char *filler;
};

enum verdict {
    REPLY_RIGHT,      /* what the line asked for, byte by byte */
    REPLY_OTHER_LINE, /* right for another line of the same connection */
    REPLY_MIXED_UP,   /* right for a line of another connection */
    REPLY_PREFIX,     /* right as far as it goes, but cut short */
    REPLY_ERROR,      /* error: REASON */
    REPLY_WRONG,      /* none of these */
};

/*
 * Prepare lines of line_size bytes, LINE_TAG at least, answered by
 * reply_size bytes. False when memory is short. payload_free() gives it back.
 */
bool payload_init(struct payload *payload, size_t line_size,
                  size_t reply_size);
void payload_free(struct payload *payload);

/* Write a line and its LF, line_size + 1 bytes, to out. */
void payload_write_line(const struct payload *payload, uint32_t connection,
                        uint64_t number, char *out);

/* Return the bytes of a right reply, without its LF. */
size_t payload_reply_length(const struct payload *payload);

/*
 * Judge a reply, given without its LF, that should answer the line number of
 * connection. *other is set with REPLY_OTHER_LINE: the number of the line
 * that the reply belongs to.
 */
enum verdict payload_judge(const struct payload *payload, uint32_t connection,
                           uint64_t number, const char *reply, size_t len,
                           uint64_t *other);

#endif
