/*
 * lines.h - a client's bytes cut into lines
 *
 * struct lines is the cutter: it makes no system call, so an event loop can
 * use it as well as a thread. read_line is the blocking call over it.
 * Neither may be used by two threads at once, except reader_end_input.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef LINES_H
#define LINES_H

#include "reply.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* A line without its LF or CR LF. */
struct line {
    const char *text; /* in the cutter, until its next call */
    size_t len;
    enum reason reason; /* why it cannot be served, or REASON_NONE */
};

/* Received bytes that are not cut yet. */
struct lines {
    size_t limit; /* longest line, in bytes, without its line break */
    char *data;   /* data[start] to data[end - 1] are not cut yet */
    size_t size;  /* bytes allocated */
    size_t start, end;
    size_t scanned;      /* this many of them are known to hold no LF */
    unsigned long taken; /* line breaks cut so far */
    bool discarding;     /* in the rest of a line that has its reply */
};

/* Prepares a cutter for lines of up to limit bytes. Returns false when memory
 * is short; else lines_free frees what it holds. */
bool lines_init(struct lines *lines, size_t limit);
void lines_free(struct lines *lines);

/*
 * Returns where to put received bytes, *room of them at least 1, or NULL when
 * memory is short. Grows up to the longest line and shrinks when empty.
 * lines_add says how many bytes were put there.
 */
char *lines_room(struct lines *lines, size_t *room);
void lines_add(struct lines *lines, size_t len);

/*
 * Cuts the next line. Returns false when more bytes are needed. A line over
 * the limit is returned as soon as that is known, once, with its reason; the
 * rest of it is discarded as it comes.
 */
bool lines_next(struct lines *lines, struct line *line);

/*
 * Cuts what was begun as a line whose LF will not come, with this reason; the
 * rest of it, if it comes after all, is discarded. Returns false when nothing
 * was begun, or its reply was sent already.
 */
bool lines_last(struct lines *lines, enum reason reason, struct line *line);

/* Why a reader has no more lines. */
enum reader_end {
    READER_OPEN,    /* it may have */
    READER_ENDED,   /* the client has finished, or is lost */
    READER_OVERDUE, /* the client took too long */
    READER_STOPPED  /* reader_end_input was called */
};

/* A socket's input, read line by line. */
struct reader {
    struct lines lines;
    int fd;               /* not closed here */
    long line_timeout_ms; /* from a line's first byte to its LF; 0: none */
    long idle_timeout_ms; /* between lines; 0: none */
    unsigned long taken;  /* line breaks when the deadline was set */
    long long deadline;   /* of the line begun, or 0 */
    enum reader_end end;
    atomic_long budget; /* bytes still to read after reader_end_input, or -1 */
};

/* Prepares a reader of fd. Returns false when memory is short; else
 * reader_free frees what it holds. */
bool reader_init(struct reader *reader, int fd, size_t limit,
                 long line_timeout_ms, long idle_timeout_ms);
void reader_free(struct reader *reader);

/*
 * Reads the next line, blocking until it is complete. A final line without LF
 * counts too, unless it is empty. A line that cannot be served has its reason:
 * too long, no memory, timed out, server stopping. Returns false when there
 * are no more lines; reader->end then says why.
 */
bool read_line(struct reader *reader, struct line *line);

/* Ends the input of a reader, from any thread, after what has arrived by now.
 * Does not block. The descriptor must not be closed meanwhile. */
void reader_end_input(struct reader *reader);

#endif
