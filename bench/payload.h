/*
 * payload.h - the lines that the load generator sends, and the classes of
 * replies to them
 *
 * A line begins with the number of its connection and its own number. So no
 * two lines are alike, and a reply tells which line it belongs to. With a key,
 * letters follow that no server can foresee, and a reply ends in the
 * upstream's mark.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_PAYLOAD_H
#define BENCH_PAYLOAD_H

#include "mark.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINE_TAG 16 /* bytes of "CCCCCC-SSSSSSSSS", the shortest line */

struct payload {
    size_t line_size;  /* bytes of a line without its LF */
    size_t reply_size; /* bytes of a reply's body: the line repeated or cut */
    const struct mark_key *key; /* or NULL */
    char *filler;
    char *line; /* the line that a reply is compared with */
};

enum reply_class {
    REPLY_RIGHT,      /* what the line asked for, byte by byte */
    REPLY_OTHER_LINE, /* right for another line of the connection */
    REPLY_MIXED_UP,   /* right for a line of another connection */
    REPLY_UNMARKED,   /* what the line asked for, without its mark */
    REPLY_PREFIX,     /* the beginning of a right reply */
    REPLY_ERROR,      /* error: REASON */
    REPLY_WRONG,      /* anything else */
};

/*
 * Prepares lines of line_size bytes, at least LINE_TAG, and replies of
 * reply_size bytes. Unless key is NULL, a blank and the line's mark follow
 * these; the key must outlive the payload. Returns false if memory is short.
 * The caller frees it with payload_free() in either case.
 */
bool payload_init(struct payload *payload, size_t line_size, size_t reply_size,
                  const struct mark_key *key);
void payload_free(struct payload *payload);

/*
 * Writes a line and its LF, line_size + 1 bytes, to out. A connection's number
 * has up to six digits; of a line's number the last nine count.
 */
void payload_write_line(const struct payload *payload, uint32_t connection,
                        uint64_t number, char *out);

/* Returns the length of a right reply, without its LF. */
size_t payload_reply_length(const struct payload *payload);

/*
 * Judges a reply, given without its LF, as the answer to a line, given by its
 * connection and its number. Sets *other with REPLY_OTHER_LINE: the number of
 * the line that the reply belongs to.
 */
enum reply_class payload_judge(const struct payload *payload,
                               uint32_t connection, uint64_t number,
                               const char *reply, size_t len, uint64_t *other);

#endif
