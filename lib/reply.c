/*
 * reply.c - the one line that answers a line, see reply.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "reply.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_SIZE 4096 /* a larger reply is given back, in bytes */

static const char prefix[] = "echo: ";

const char *reason_text(enum reason reason)
{
    static const char *const texts[REASONS] = {
        [REASON_NONE] = "ok",
        [REASON_LINE_TOO_LONG] = "line too long",
        [REASON_NO_MEMORY] = "out of memory",
        [REASON_REFUSED] = "upstream refused",
        [REASON_NO_PORT] = "no local port left",
        [REASON_NOT_FOUND] = "upstream not found",
        [REASON_TIMED_OUT] = "upstream timed out",
        [REASON_CLOSED_EARLY] = "upstream closed early",
        [REASON_BAD_HTTP] = "upstream sent bad HTTP",
        [REASON_TOO_LARGE] = "upstream body too large",
        [REASON_RETURNED] = "upstream returned",
        [REASON_NOT_TRUSTED] = "upstream not trusted",
        [REASON_TLS_FAILED] = "upstream TLS failed",
        [REASON_FAILED] = "upstream failed",
        [REASON_LINE_TIMED_OUT] = "line timed out",
        [REASON_SERVER_STOPPING] = "server stopping",
        [REASON_TOO_MANY_CONNECTIONS] = "too many connections",
        [REASON_NO_THREAD] = "cannot start a thread",
    };
    return texts[reason];
}

bool buffer_append(struct buffer *buffer, const void *data, size_t len)
{
    if (len == 0)
        return true;
    if (len > buffer->size - buffer->len) {
        size_t size = buffer->size > 0 ? buffer->size : 64;
        while (size - buffer->len < len)
            size *= 2;
        char *grown = realloc(buffer->data, size);
        if (grown == NULL)
            return false;
        buffer->data = grown;
        buffer->size = size;
    }
    memcpy(buffer->data + buffer->len, data, len);
    buffer->len += len;
    return true;
}

bool buffer_append_escaped(struct buffer *buffer, const char *text, size_t len)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t run = 0; /* bytes before text[i] that need no encoding */
    bool ok = true;

    for (size_t i = 0; i < len && ok; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (isalnum(byte) || memchr("-._~", byte, 4) != NULL) {
            run++; /* unreserved; isalnum is that of the C locale */
            continue;
        }
        const char escape[] = {'%', hex[byte / 16], hex[byte % 16]};
        ok = buffer_append(buffer, text + i - run, run) &&
             buffer_append(buffer, escape, sizeof escape);
        run = 0;
    }
    return ok && buffer_append(buffer, text + len - run, run);
}

bool reply_init(struct buffer *reply)
{
    *reply = (struct buffer){.data = malloc(ERROR_REPLY_SIZE),
                             .size = ERROR_REPLY_SIZE};
    return reply->data != NULL;
}

void reply_begin(struct buffer *reply)
{
    memcpy(reply->data, prefix, strlen(prefix));
    reply->len = strlen(prefix);
}

/* Drops line breaks at the end and turns each other run of CR and LF into a
 * space, in place. Returns the new length. */
static size_t join_lines(char *body, size_t len)
{
    size_t kept = 0;
    bool in_break = false;

    for (size_t i = 0; i < len; i++) {
        if (body[i] == '\r' || body[i] == '\n') {
            in_break = true;
            continue;
        }
        if (in_break)
            body[kept++] = ' ';
        in_break = false;
        body[kept++] = body[i];
    }
    return kept;
}

enum reason reply_finish(struct buffer *reply, enum reason reason,
                         long http_status)
{
    if (reason == REASON_NONE) {
        char *body = reply->data + strlen(prefix);
        reply->len =
            strlen(prefix) + join_lines(body, reply->len - strlen(prefix));
        if (buffer_append(reply, "\n", 1))
            return REASON_NONE;
        reason = REASON_NO_MEMORY;
    }
    int len = snprintf(reply->data, ERROR_REPLY_SIZE, "error: %s",
                       reason_text(reason));
    if (reason == REASON_RETURNED)
        len += snprintf(reply->data + len, ERROR_REPLY_SIZE - (size_t)len,
                        " %ld", http_status);
    reply->data[len] = '\n';
    reply->len = (size_t)len + 1;
    return reason;
}

void reply_shrink(struct buffer *reply)
{
    if (reply->size <= KEPT_SIZE)
        return;
    char *data = realloc(reply->data, ERROR_REPLY_SIZE);
    if (data == NULL)
        return; /* the larger one still works */
    reply->data = data;
    reply->size = ERROR_REPLY_SIZE;
}
