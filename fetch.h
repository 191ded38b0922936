/*
 * fetch.h - one blocking HTTP GET of URL?text=TEXT
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FETCH_H
#define FETCH_H

#include "lib/reply.h"

#include <stdbool.h>
#include <stddef.h>

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

/* A pool of libcurl handles for one URL. Any thread may use it. */
struct fetcher;

/* Makes a fetcher; fetcher_destroy frees it. Returns NULL when that fails,
 * and *error then says why (static text), and errno is EINVAL if the URL is
 * the reason, else ENOMEM. No handle and no connection is made before the
 * first fetch. */
struct fetcher *fetcher_create(const struct fetch_options *options,
                               const char **error);

/* Frees the fetcher and closes its connections. No fetch may be running. */
void fetcher_destroy(struct fetcher *fetcher);

/* Returns the URL without user and password, for the log. It belongs to the
 * fetcher. */
const char *fetcher_url(const struct fetcher *fetcher);

/*
 * Fetches URL?text=TEXT and appends the body, as it came, to *body. text may
 * hold any byte, NUL included.
 *
 * Blocks: for the turn, first come first served, while max_handles fetches
 * are running, and then for timeout_ms at most. Returns REASON_NONE or why
 * there is no body; *body is then as before. *http_status is the status of
 * the response, 0 if none came.
 *
 * *handle is the caller's, 0 before its first fetch, and names the handle that
 * it used last: that one is preferred, as its memory is in this core's cache.
 */
enum reason fetch(struct fetcher *fetcher, unsigned *handle, const char *text,
                  size_t len, struct buffer *body, long *http_status);

/* Returns name and version of the library that does the work. Static text. */
const char *fetch_library(void);

#endif
