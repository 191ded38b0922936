/*
 * transfer.h - a fetch with libcurl's multi interface, without the waiting
 *
 * What events and uring have in common. Which sockets to watch and until when,
 * libcurl tells the callbacks of the multi handle; they are each one's model.
 * One thread at a time may use any of this.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef TRANSFER_H
#define TRANSFER_H

#include "../../lib/lines.h"
#include "../../lib/response.h"
#include "peer.h"

#include <curl/curl.h>
#include <stdbool.h>

/* What all transfers of a loop share. */
struct transfers {
    CURLM *multi;
    CURLU *url;
    struct buffer target; /* of a request: path and query up to the text */
    struct curl_slist *headers; /* NULL where upstream connections are kept */
};

/* One client's fetches, one after the other. */
struct transfer {
    struct transfers *all;
    void *owner; /* the caller's */
    CURL *easy;  /* NULL before the first fetch */
    char message[CURL_ERROR_SIZE];
    struct response response; /* to the fetch that is running */
    enum reason reason;       /* why we ended it, or REASON_NONE */
    struct buffer reply;
};

/* Sets up libcurl for the peer's upstream, with these callbacks, which are
 * passed the loop. Exits with 1 if that fails, with 2 if the URL is bad. */
void transfers_start(struct transfers *all, const struct peer *peer,
                     curl_socket_callback watch_socket,
                     curl_multi_timer_callback set_timer, void *loop);

/* Returns a transfer that has ended, ready for the next, and the reason that
 * its reply is to have; NULL if there is no more. */
struct transfer *transfers_ended(struct transfers *all, enum reason *reason);

/* Prepares for a client. Returns false when memory is short; transfer_free
 * frees what it holds in either case. No fetch may be running then. */
bool transfer_init(struct transfer *transfer, struct transfers *all,
                   void *owner);
void transfer_free(struct transfer *transfer);

/* Starts a fetch of URL?text=LINE, which transfers_ended returns in the end.
 * Returns REASON_NONE, or why it does not start. */
enum reason transfer_start(struct transfer *transfer, const struct line *line);

/* Makes the reply of the body or of the reason. */
void transfer_finish(struct transfer *transfer, enum reason reason);

#endif
