// SPDX-License-Identifier: MIT
/*
 * The lines that the load generator sends, and the judgement on what comes
 * back. A line begins with the number of its connection and its own number on
 * it, so no two lines are alike and a reply says which line it belongs to.
 */
#ifndef BENCH_LINES_H
#define BENCH_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LINE_TAG = 16, /* bytes of "CCCCCC-SSSSSSSSS", the shortest line */
    MAX_LINE_CONNECTION = 999999,
};

struct lines {
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
 * reply_size bytes. False when memory is short. lines_free() gives it back.
 */
bool lines_init(struct lines *lines, size_t line_size, size_t reply_size);
void lines_free(struct lines *lines);

/* Write a line and its LF, line_size + 1 bytes, to out. */
void write_line(const struct lines *lines, uint32_t connection,
                uint64_t number, char *out);

/* Return the bytes of a right reply, without its LF. */
size_t reply_length(const struct lines *lines);

/*
 * Judge a reply, given without its LF, that should answer the line number of
 * connection. *other is set with REPLY_OTHER_LINE: the number of the line
 * that the reply belongs to.
 */
enum verdict judge_reply(const struct lines *lines, uint32_t connection,
                         uint64_t number, const char *reply, size_t len,
                         uint64_t *other);

#endif
