/*
 * exchange.h - a request to the upstream and its response, without the waiting
 *
 * What the peers on bare sockets have in common: which bytes to send, and what
 * the bytes that come mean. When to send and to receive is each one's model.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EXCHANGE_H
#define EXCHANGE_H

#include "../../lib/lines.h"
#include "../../lib/response.h"
#include "peer.h"

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>

#define PIECE_SIZE 4096 /* most bytes of a response received at once */

/* The upstream, taken from its URL at the start. All threads may read it. */
struct origin {
    struct addrinfo *address;
    bool keepalive;
    char before[2048]; /* of a request: what comes before the text */
    char after[512];   /* and what comes after it */
};

/* One client's requests and responses, one after the other. */
struct exchange {
    const struct origin *origin;
    struct buffer reply; /* the request, until that is sent */
    struct response response;
    struct buffer head_line; /* of the response, as far as it has come */
    bool begun;              /* a byte of the response has come */
    bool closing;            /* the upstream closes after this response */
};

/* Takes the peer's --upstream to pieces and resolves the host, once. Exits
 * with 2 if that cannot be done. */
struct origin origin_start(const struct peer *peer);

/* Returns a socket with these flags that can be connected to the upstream, or
 * -1 with errno set. */
int origin_socket(const struct origin *origin, int flags);

/* Returns why a connect failed with this errno value. */
enum reason origin_reason(int error);

/* Prepares for a client. Returns false when memory is short; exchange_free
 * frees what it holds in either case. */
bool exchange_init(struct exchange *exchange, const struct origin *origin);
void exchange_free(struct exchange *exchange);

/* Writes the request for a line to where the reply will be. Returns false when
 * memory is short. */
bool exchange_ask(struct exchange *exchange, const struct line *line);

/* Prepares for the response; the request is sent. */
void exchange_await(struct exchange *exchange);

/* Takes bytes of the response. Returns REASON_NONE, or why the response cannot
 * be used; then no more may be passed. */
enum reason exchange_take(struct exchange *exchange, const char *data,
                          size_t len);

/* Returns whether all of the response has come. */
bool exchange_is_complete(const struct exchange *exchange);

/* Returns REASON_NONE if the upstream may close where it has, or
 * REASON_CLOSED_EARLY. */
enum reason exchange_closed(const struct exchange *exchange);

/* Returns the reason of a response that was received as far as this reason
 * says: a status other than 2xx is an error as well. */
enum reason exchange_outcome(const struct exchange *exchange,
                             enum reason reason);

/* Returns whether one more request may be sent on the upstream connection,
 * after an exchange with this outcome. */
bool exchange_allows_reuse(const struct exchange *exchange,
                           enum reason reason);

/* Returns whether to ask again on a new connection: a kept one may have been
 * closed before the request came, and then no byte of a response comes. */
bool exchange_may_repeat(const struct exchange *exchange, enum reason reason);

/* Makes the reply of the body or of the reason. */
void exchange_finish(struct exchange *exchange, enum reason reason);

#endif
