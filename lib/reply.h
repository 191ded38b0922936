/*
 * reply.h - the one line that answers a line: "echo: BODY" or "error: REASON"
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef REPLY_H
#define REPLY_H

#include <stdbool.h>
#include <stddef.h>

/* Why a line or a client gets an error. One table in reply.c has the words;
 * the line reader, the fetch and the server all return these. */
enum reason {
    REASON_NONE, /* no error */
    REASON_LINE_TOO_LONG,
    REASON_NO_MEMORY,
    REASON_REFUSED,      /* upstream: no connection */
    REASON_NO_PORT,      /* this host has no local port left */
    REASON_NOT_FOUND,    /* upstream: the name does not resolve */
    REASON_TIMED_OUT,    /* upstream: not done within the timeout */
    REASON_CLOSED_EARLY, /* upstream: closed or reset before the end */
    REASON_BAD_HTTP,     /* upstream: not a well-formed HTTP/1.x response */
    REASON_TOO_LARGE,    /* upstream: the body is over the limit */
    REASON_RETURNED,     /* upstream: a status other than 2xx */
    REASON_NOT_TRUSTED,  /* upstream: the certificate does not verify */
    REASON_TLS_FAILED,   /* upstream: TLS failed in another way */
    REASON_FAILED,       /* upstream: anything else */
    REASON_LINE_TIMED_OUT,
    REASON_SERVER_STOPPING,
    REASON_TOO_MANY_CONNECTIONS,
    REASON_NO_THREAD,
    REASONS /* how many there are */
};

/* Returns the reason in words, such as "upstream refused". Static text. */
const char *reason_text(enum reason reason);

/* Bytes that grow at the end. The owner frees data; all zero is empty. One
 * thread at a time may use it. */
struct buffer {
    char *data;
    size_t len;  /* bytes in use */
    size_t size; /* bytes allocated */
};

/* Appends len bytes. Returns false, and changes nothing, when memory is
 * short. */
bool buffer_append(struct buffer *buffer, const void *data, size_t len);

/* Appends text percent-encoded, all but RFC 3986's unreserved bytes. Returns
 * false when memory is short; a part may then have been appended.
 * (curl_easy_escape takes ten times the instructions.) */
bool buffer_append_escaped(struct buffer *buffer, const char *text,
                           size_t len);

/* Bytes that hold any error reply, LF included. */
#define ERROR_REPLY_SIZE 256

/* Allocates what every error reply fits into. Returns false when memory is
 * short; else the caller frees reply->data. */
bool reply_init(struct buffer *reply);

/* Empties the reply, so that the body can be appended. */
void reply_begin(struct buffer *reply);

/*
 * Makes one line, LF included, of the body that was appended since
 * reply_begin, or of the reason if there is one. Line breaks at the body's end
 * are dropped; any other run of CR and LF becomes one space. Without memory
 * for the LF the reply becomes that error. http_status is part of the text of
 * REASON_RETURNED. Returns the reason that the reply has in the end.
 */
enum reason reply_finish(struct buffer *reply, enum reason reason,
                         long http_status);

/* Gives back what a long reply took, so that an idle client costs little. */
void reply_shrink(struct buffer *reply);

#endif
