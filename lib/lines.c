/*
 * lines.c - a client's bytes cut into lines, see lines.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* POLLRDHUP */
#include "lines.h"
#include "clock.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define IDLE_SIZE 512 /* bytes of a buffer that waits for a line */

bool lines_init(struct lines *lines, size_t limit)
{
    *lines = (struct lines){
        .limit = limit, .data = malloc(IDLE_SIZE), .size = IDLE_SIZE};
    return lines->data != NULL;
}

void lines_free(struct lines *lines)
{
    free(lines->data);
}

char *lines_room(struct lines *lines, size_t *room)
{
    size_t size = lines->size;

    if (lines->start == lines->end) {
        lines->start = lines->end = 0;
        size = IDLE_SIZE;
    } else if (lines->end == lines->size && lines->start > 0) {
        lines->end -= lines->start;
        memmove(lines->data, lines->data + lines->start, lines->end);
        lines->start = 0;
    } else if (lines->end == lines->size) {
        size_t longest = lines->limit + strlen("\r\n");
        size = size * 2 < longest ? size * 2 : longest;
    }
    if (size != lines->size) {
        char *data = realloc(lines->data, size);
        if (data == NULL && lines->end == lines->size)
            return NULL;
        if (data != NULL) { /* else the buffer there is has room too */
            lines->data = data;
            lines->size = size;
        }
    }
    *room = lines->size - lines->end;
    return lines->data + lines->end;
}

void lines_add(struct lines *lines, size_t len)
{
    lines->end += len;
}

/* Cuts all that is there, and discards what follows up to the LF. */
static void cut_rest(struct lines *lines, struct line *line,
                     enum reason reason)
{
    *line = (struct line){.text = lines->data + lines->start,
                          .len = lines->end - lines->start,
                          .reason = reason};
    lines->start = lines->end;
    lines->scanned = 0;
    lines->discarding = true;
}

bool lines_next(struct lines *lines, struct line *line)
{
    for (;;) {
        char *text = lines->data + lines->start;
        size_t len = lines->end - lines->start;
        char *lf = memchr(text + lines->scanned, '\n', len - lines->scanned);

        if (lf == NULL && lines->discarding) {
            lines->start = lines->end;
            return false;
        }
        if (lf == NULL) {
            lines->scanned = len;
            if (len <= lines->limit ||
                (len == lines->limit + 1 && text[len - 1] == '\r'))
                return false;
            cut_rest(lines, line, REASON_LINE_TOO_LONG);
            return true;
        }

        len = (size_t)(lf - text);
        lines->start += len + 1;
        lines->scanned = 0;
        lines->taken++;
        if (lines->discarding) {
            lines->discarding = false;
            continue;
        }
        if (len > 0 && text[len - 1] == '\r')
            len--;
        *line = (struct line){.text = text, .len = len};
        if (len > lines->limit)
            line->reason = REASON_LINE_TOO_LONG;
        return true;
    }
}

bool lines_last(struct lines *lines, enum reason reason, struct line *line)
{
    if (lines->start == lines->end || lines->discarding)
        return false;
    cut_rest(lines, line, reason);
    if (reason == REASON_NONE && line->len > lines->limit)
        line->reason = REASON_LINE_TOO_LONG;
    return true;
}

bool reader_init(struct reader *reader, int fd, size_t limit,
                 long line_timeout_ms, long idle_timeout_ms)
{
    *reader = (struct reader){.fd = fd,
                              .line_timeout_ms = line_timeout_ms,
                              .idle_timeout_ms = idle_timeout_ms,
                              .budget = -1};
    return lines_init(&reader->lines, limit);
}

void reader_free(struct reader *reader)
{
    lines_free(&reader->lines);
}

enum received { RECEIVED, NOTHING_LEFT, LOST, OVERDUE, NO_MEMORY };

/* Waits until there is something to read. The deadline of a line counts from
 * its first byte; between lines only the idle timeout does. */
static enum received await_input(struct reader *reader)
{
    const struct lines *lines = &reader->lines;
    bool begun = lines->start < lines->end || lines->discarding;
    long timeout_ms =
        begun ? reader->line_timeout_ms : reader->idle_timeout_ms;

    if (timeout_ms == 0)
        return RECEIVED; /* recv itself may wait for ever */
    long long now = clock_ms();
    long long deadline = now + timeout_ms;
    if (begun) {
        if (reader->deadline == 0 || reader->taken != lines->taken)
            reader->deadline = deadline;
        reader->taken = lines->taken;
        deadline = reader->deadline;
    }
    while (now < deadline) {
        struct pollfd input = {.fd = reader->fd, .events = POLLIN};
        int ready = poll(&input, 1, (int)(deadline - now));
        if (ready > 0)
            return RECEIVED;
        if (ready < 0 && errno != EINTR)
            return LOST;
        now = clock_ms();
    }
    return OVERDUE;
}

/* Receives the bytes that have arrived, waiting for them first. */
static enum received receive(struct reader *reader)
{
    size_t room;
    char *data = lines_room(&reader->lines, &room);

    if (data == NULL)
        return NO_MEMORY;
    for (;;) {
        enum received waited = await_input(reader);
        if (waited != RECEIVED)
            return waited;
        long budget = atomic_load(&reader->budget);
        if (budget == 0)
            return NOTHING_LEFT;
        if (budget > 0 && (size_t)budget < room)
            room = (size_t)budget;
        ssize_t n = recv(reader->fd, data, room, 0);
        if (n > 0) {
            lines_add(&reader->lines, (size_t)n);
            if (budget > 0)
                atomic_fetch_sub(&reader->budget, (long)n);
            return RECEIVED;
        }
        if (n == 0)
            return NOTHING_LEFT;
        if (errno != EINTR)
            return LOST;
    }
}

bool read_line(struct reader *reader, struct line *line)
{
    while (!lines_next(&reader->lines, line)) {
        if (reader->end != READER_OPEN)
            return false;
        switch (receive(reader)) {
        case RECEIVED:
            break;
        case NO_MEMORY:
            return lines_last(&reader->lines, REASON_NO_MEMORY, line);
        case OVERDUE:
            reader->end = READER_OVERDUE;
            return lines_last(&reader->lines, REASON_LINE_TIMED_OUT, line);
        case NOTHING_LEFT:
            if (atomic_load(&reader->budget) < 0) {
                reader->end = READER_ENDED;
                return lines_last(&reader->lines, REASON_NONE, line);
            }
            reader->end = READER_STOPPED;
            return lines_last(&reader->lines, REASON_SERVER_STOPPING, line);
        case LOST:
            reader->end = READER_ENDED;
            return false;
        }
    }
    return true;
}

void reader_end_input(struct reader *reader)
{
    int unread = 0;
    struct pollfd input = {.fd = reader->fd, .events = POLLRDHUP};

    if (poll(&input, 1, 0) > 0)
        return; /* the client's own end has come already */
    if (ioctl(reader->fd, FIONREAD, &unread) != 0)
        unread = 0;
    atomic_store(&reader->budget, unread);
    if (shutdown(reader->fd, SHUT_RD) != 0)
        return; /* the client is gone, and its thread finds out */
}
