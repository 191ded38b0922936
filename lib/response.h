/*
 * response.h - one HTTP/1.x response, read strictly (RFC 9112)
 *
 * An HTTP library is lenient: it takes a length that is no number, a chunk
 * size that ends in junk. The result can be a part of the body, or of another
 * response. So each byte of a response passes through here as well, and
 * whatever is not well formed is refused.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef RESPONSE_H
#define RESPONSE_H

#include "reply.h"

#include <stdbool.h>
#include <stddef.h>

/* A response that is being read; one thread at a time may use it. */
struct response {
    /* Where the reader is: in a head line by line, then in the body. */
    enum response_state {
        STATUS_LINE,
        FIRST_FIELD,
        FIELDS,
        COUNTED_BODY,
        UNSIZED_BODY, /* ended by the close */
        CHUNK_SIZE_START,
        CHUNK_SIZE,
        CHUNK_BLANKS, /* before an extension */
        CHUNK_EXTENSION,
        CHUNK_SIZE_LF,
        CHUNK_DATA,
        CHUNK_END,
        CHUNK_END_LF,
        TRAILER_START,
        TRAILER_NAME,
        TRAILER_VALUE,
        TRAILER_LF,
        TRAILERS_LF,
        COMPLETE
    } state;
    long status;         /* of the last status line, 0 before the first */
    long long length;    /* Content-Length, or -1 */
    bool chunked;        /* Transfer-Encoding */
    bool framing;        /* the last field was one of these two */
    bool bare_lf;        /* the chunk's size line had no CR */
    bool old;            /* HTTP/1.0 */
    bool surplus;        /* more bytes came after the end of the body */
    size_t head_size;    /* bytes of heads and trailers so far */
    size_t line_size;    /* bytes of a chunk's size line so far */
    size_t left;         /* bytes of the body or chunk that are to come */
    size_t max_body;     /* bytes */
    struct buffer *body; /* the caller's; appended to */
    size_t body_start;   /* bytes in it before */
};

/* Prepares for a response whose body, max_body bytes at most, is appended to
 * *body. */
void response_begin(struct response *response, struct buffer *body,
                    size_t max_body);

/*
 * Takes the next piece: a line of the head with its LF, or any number of bytes
 * of the body. Returns REASON_NONE, or why the response cannot be used:
 * REASON_BAD_HTTP, REASON_TOO_LARGE or REASON_NO_MEMORY. Then no more may be
 * passed.
 */
enum reason response_take(struct response *response, const char *data,
                          size_t len);

/* Returns whether the next line is the first after a status line. Such a line
 * must not begin with a blank; fetch.c says what it does to libcurl. */
bool response_awaits_first_field(const struct response *response);

/* Returns whether a line of a head has been taken, and more are to come. */
bool response_is_in_head(const struct response *response);

/* Returns whether the head of the final response, not of an interim one, is
 * complete. */
bool response_has_head(const struct response *response);

/* Returns whether the response is complete when the transport reports its end
 * without an error. */
bool response_is_complete(const struct response *response);

/* Returns whether the response is complete and its head is all of it. */
bool response_has_no_content(const struct response *response);

/* Returns whether only the close of the connection ends the body, so that a
 * connection that was cut off must not pass for that. */
bool response_ends_by_close(const struct response *response);

/* Returns whether the connection may be used again: nothing came after the
 * end of the response, and its framing leaves no doubt where that is (RFC
 * 9112, section 6.1). */
bool response_allows_reuse(const struct response *response);

#endif
