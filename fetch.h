/*
 * fetch.h - one blocking HTTP GET of URL?text=TEXT
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FETCH_H
#define FETCH_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes that grow at the end. The owner frees data; all zero is empty. */
struct buffer {
    char *data;
    size_t len;  /* bytes in use */
    size_t size; /* bytes allocated */
};

/* Appends len bytes. False, and nothing changed, when memory is short. */
bool buffer_append(struct buffer *buffer, const void *data, size_t len);

/* What a fetcher needs to know. The strings are only read while
 * fetcher_create runs, but for cacert, which must outlive the fetcher. */
struct fetch_options {
    const char *url;         /* http:// or https://, a query is kept */
    const char *cacert;      /* PEM file to trust, or NULL: the system's */
    long timeout_ms;         /* for one whole fetch, connecting included */
    long connect_timeout_ms; /* for resolving and connecting */
    size_t max_body;         /* bytes; a longer body is an error */
    unsigned max_handles;    /* fetches at once; more wait their turn */
    bool keepalive;          /* reuse upstream connections */
};

/* How a fetch ended. In brackets, libcurl's codes that lead there. */
enum fetch_status {
    FETCH_OK,
    FETCH_LINE_TOO_LONG, /* percent-encoded, it is over libcurl's 1 MiB */
    FETCH_NO_MEMORY,     /* [27] */
    FETCH_REFUSED,       /* no connection [7] */
    FETCH_NOT_FOUND,     /* the name does not resolve [6] */
    FETCH_TIMED_OUT,     /* [28] */
    FETCH_CLOSED_EARLY,  /* empty or short answer, reset [52, 18, 55, 56] */
    FETCH_BAD_HTTP,      /* not HTTP, bad chunk, too many headers
                          * [1, 8, 27 in the head, 56, 61] */
    FETCH_TOO_LARGE,     /* the body is over max_body [63] */
    FETCH_RETURNED,      /* a status other than 2xx */
    FETCH_NOT_TRUSTED,   /* the certificate does not verify [60, 77] */
    FETCH_TLS_FAILED,    /* [35 and its kin] */
    FETCH_FAILED,        /* anything else */
    FETCH_STATUSES       /* how many there are */
};

/* A pool of libcurl handles for one URL. Any thread may use it. */
struct fetcher;

/* Makes a fetcher; fetcher_destroy frees it. Returns NULL when that fails,
 * and *error then says why (static text). No handle and no connection is
 * made before the first fetch. */
struct fetcher *fetcher_create(const struct fetch_options *options,
                               const char **error);

/* Frees the fetcher and closes its connections. No fetch may be running. */
void fetcher_destroy(struct fetcher *fetcher);

/*
 * Fetches URL?text=TEXT and appends the answer's body, as it came, to *body.
 * text may hold any byte, NUL too.
 *
 * Blocks: for the turn, first come first served, while max_handles fetches
 * are running, and then for timeout_ms at most. Unless it returns FETCH_OK,
 * *body is as before. *http_status is the answer's status, 0 if none came.
 */
enum fetch_status fetch(struct fetcher *fetcher, const char *text, size_t len,
                        struct buffer *body, long *http_status);

/* The status in words, such as "upstream refused". Static text. */
const char *fetch_reason(enum fetch_status status);

/* Name and version of the library that does the work. Static text. */
const char *fetch_library(void);

#endif
