/*
 * http_oracle.h - what the bytes of an HTTP/1.x response say, by the RFCs
 *
 * Written from RFC 9112 and RFC 9110 alone, over all bytes at once, so that it
 * shares neither code nor mistakes with lib/response.c or an HTTP library.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef HTTP_ORACLE_H
#define HTTP_ORACLE_H

#include <stdbool.h>
#include <stddef.h>

/* Longest input that the oracle takes, in bytes. */
#define ORACLE_MOST 4096

enum verdict {
    ORACLE_WHOLE,
    ORACLE_INCOMPLETE, /* well formed so far */
    ORACLE_NOT_HTTP
};

/* What the bytes say. */
struct answer {
    enum verdict verdict;
    long status;            /* of the last status line, 0 before the first */
    char body[ORACLE_MOST]; /* as far as it goes, without its framing */
    size_t body_len;
    size_t body_due; /* what the body would have at least, if it ended well */
    size_t used;     /* bytes of the response; those after it are surplus */
    bool may_be_bad; /* refusing it as not HTTP is right as well */
    bool by_close;   /* it ended with the connection */
    bool persists;   /* another request may be sent over the connection */
};

/* Reads the response to a GET at the start of len bytes, ORACLE_MOST at most.
 * closed: the upstream ended the connection in order after them. */
void oracle_read(const char *data, size_t len, bool closed,
                 struct answer *answer);

#endif
