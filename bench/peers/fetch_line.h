/*
 * fetch_line.h - a fetch on a blocking socket
 *
 * What fetch.h is to server.c, this is to the peers that block and have no
 * HTTP library.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef FETCH_LINE_H
#define FETCH_LINE_H

#include "exchange.h"

/* A client's connection to the upstream, and what goes over it. */
struct line_fetcher {
    int upstream; /* -1: none */
    struct exchange exchange;
};

/* Prepares for a client. Returns false when memory is short; in either case
 * line_fetcher_free closes and frees what it holds. */
bool line_fetcher_init(struct line_fetcher *fetcher,
                       const struct origin *origin);
void line_fetcher_free(struct line_fetcher *fetcher);

/* Fetches URL?text=LINE, blocking, and appends the body to the reply of the
 * exchange. Returns REASON_NONE, or why there is none. */
enum reason fetch_line(struct line_fetcher *fetcher, const struct line *line);

#endif
