/*
 * transfer.c - a fetch with libcurl's multi interface, see transfer.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "transfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_IDLE 4096L /* upstream connections that are kept */

/* Parses the URL, and makes of it the request target up to the text. Returns
 * false when that cannot be done. */
static bool parse_upstream(struct transfers *all, const char *url)
{
    struct buffer *target = &all->target;
    char *path = NULL, *query = NULL;

    all->url = curl_url();
    bool ok = all->url != NULL &&
              curl_url_set(all->url, CURLUPART_URL, url, 0) == CURLUE_OK &&
              curl_url_get(all->url, CURLUPART_PATH, &path, 0) == CURLUE_OK &&
              buffer_append(target, path, strlen(path)) &&
              buffer_append(target, "?", 1);
    if (ok && curl_url_get(all->url, CURLUPART_QUERY, &query, 0) == CURLUE_OK)
        ok = buffer_append(target, query, strlen(query)) &&
             buffer_append(target, "&", 1);
    curl_free(path);
    curl_free(query);
    return ok && buffer_append(target, "text=", strlen("text="));
}

void transfers_start(struct transfers *all, const struct peer *peer,
                     curl_socket_callback watch_socket,
                     curl_multi_timer_callback set_timer, void *loop)
{
    CURLcode rc = curl_global_init(CURL_GLOBAL_DEFAULT);

    *all = (struct transfers){.multi = curl_multi_init()};
    if (!peer->keepalive)
        all->headers = curl_slist_append(NULL, "Connection: close");
    if (rc != CURLE_OK || all->multi == NULL ||
        (!peer->keepalive && all->headers == NULL) ||
        curl_multi_setopt(all->multi, CURLMOPT_SOCKETFUNCTION, watch_socket) ||
        curl_multi_setopt(all->multi, CURLMOPT_SOCKETDATA, loop) ||
        curl_multi_setopt(all->multi, CURLMOPT_TIMERFUNCTION, set_timer) ||
        curl_multi_setopt(all->multi, CURLMOPT_TIMERDATA, loop) ||
        curl_multi_setopt(all->multi, CURLMOPT_MAXCONNECTS, MAX_IDLE)) {
        fprintf(stderr, "%s: cannot start libcurl\n", peer->name);
        exit(1);
    }
    if (!parse_upstream(all, peer->upstream)) {
        fprintf(stderr, "%s: --upstream: not a URL\n", peer->name);
        exit(2);
    }
}

bool transfer_init(struct transfer *transfer, struct transfers *all,
                   void *owner)
{
    *transfer = (struct transfer){.all = all, .owner = owner};
    return reply_init(&transfer->reply);
}

void transfer_free(struct transfer *transfer)
{
    curl_easy_cleanup(transfer->easy);
    free(transfer->reply.data);
}

/* libcurl's callback for both: a line of the head, a piece of the body. */
static size_t on_piece(char *data, size_t size, size_t count, void *arg)
{
    struct transfer *transfer = arg;
    size_t len = size * count;

    if (len > 0 && !response_has_head(&transfer->response) &&
        data[len - 1] != '\n')
        return len; /* the upstream cut it off: outcome_of finds out */
    if (len > 0)
        transfer->reason = response_take(&transfer->response, data, len);
    return transfer->reason == REASON_NONE ? len : CURL_WRITEFUNC_ERROR;
}

/* Makes an easy handle, with all that stays the same from fetch to fetch.
 * Returns NULL when memory is short. */
static CURL *open_easy(struct transfer *transfer)
{
    struct transfers *all = transfer->all;
    CURL *easy = curl_easy_init();
    CURLcode rc = easy != NULL ? CURLE_OK : CURLE_OUT_OF_MEMORY;

#define SET(option, value)                                                    \
    if (rc == CURLE_OK)                                                       \
    rc = curl_easy_setopt(easy, option, value)

    SET(CURLOPT_CURLU, all->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_NOPROXY, "*"); /* whatever http_proxy says */
    SET(CURLOPT_HTTPHEADER, all->headers);
    SET(CURLOPT_FORBID_REUSE, all->headers != NULL ? 1L : 0L);
    SET(CURLOPT_TIMEOUT_MS, (long)PEER_FETCH_MS);
    SET(CURLOPT_NOSIGNAL, 1L);
    /* What comes passes through lib/response, the chunks as they are. */
    SET(CURLOPT_HTTP_TRANSFER_DECODING, 0L);
    SET(CURLOPT_HEADERFUNCTION, on_piece);
    SET(CURLOPT_HEADERDATA, transfer);
    SET(CURLOPT_WRITEFUNCTION, on_piece);
    SET(CURLOPT_WRITEDATA, transfer);
    SET(CURLOPT_ERRORBUFFER, transfer->message);
    SET(CURLOPT_PRIVATE, transfer);
#undef SET

    if (rc != CURLE_OK) {
        curl_easy_cleanup(easy);
        return NULL;
    }
    return easy;
}

/* Sets the request target for this line; the reply lends it its room. Returns
 * false when memory is short. */
static bool choose_target(struct transfer *transfer, const struct line *line)
{
    struct buffer *target = &transfer->reply; /* libcurl copies it */

    target->len = 0;
    return buffer_append(target, transfer->all->target.data,
                         transfer->all->target.len) &&
           buffer_append_escaped(target, line->text, line->len) &&
           buffer_append(target, "", 1) &&
           curl_easy_setopt(transfer->easy, CURLOPT_REQUEST_TARGET,
                            target->data) == CURLE_OK;
}

enum reason transfer_start(struct transfer *transfer, const struct line *line)
{
    if (transfer->easy == NULL)
        transfer->easy = open_easy(transfer);
    if (transfer->easy == NULL || !choose_target(transfer, line))
        return REASON_NO_MEMORY;
    reply_begin(&transfer->reply);
    response_begin(&transfer->response, &transfer->reply, PEER_MAX_BODY);
    transfer->reason = REASON_NONE;
    transfer->message[0] = '\0';
    return curl_multi_add_handle(transfer->all->multi, transfer->easy) ==
                   CURLM_OK
               ? REASON_NONE
               : REASON_NO_MEMORY;
}

/* Returns the reason for a fetch that libcurl ended with rc. */
static enum reason reason_of(const struct transfer *transfer, CURLcode rc)
{
    switch (rc) {
    case CURLE_OUT_OF_MEMORY:
        return REASON_NO_MEMORY;
    case CURLE_COULDNT_CONNECT:
        return REASON_REFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
        return REASON_NOT_FOUND;
    case CURLE_OPERATION_TIMEDOUT:
        return REASON_TIMED_OUT;
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_SEND_ERROR:
        return REASON_CLOSED_EARLY;
    case CURLE_RECV_ERROR: /* a bad chunk, too; only the message tells */
        return strstr(transfer->message, "chunk") == NULL ? REASON_CLOSED_EARLY
                                                          : REASON_BAD_HTTP;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        return REASON_BAD_HTTP;
    default:
        return REASON_FAILED;
    }
}

/* A handle counts its retries on stale connections for as long as it lives and
 * gives up at the sixth (until curl/curl#19066), so one that had to connect is
 * dropped. A connection that is kept belongs to the multi handle. */
static void drop_if_connected(struct transfer *transfer)
{
    long connects;

    if (transfer->all->headers != NULL ||
        curl_easy_getinfo(transfer->easy, CURLINFO_NUM_CONNECTS, &connects) !=
            CURLE_OK ||
        connects == 0)
        return;
    curl_easy_cleanup(transfer->easy);
    transfer->easy = NULL;
}

/* Returns the reason of the reply to a fetch that libcurl ended with rc. */
static enum reason outcome_of(const struct transfer *transfer, CURLcode rc)
{
    const struct response *response = &transfer->response;
    enum reason reason = transfer->reason;

    if (reason == REASON_NONE && rc != CURLE_OK)
        reason = reason_of(transfer, rc);
    else if (reason == REASON_NONE && !response_has_head(response))
        reason = REASON_CLOSED_EARLY; /* libcurl takes that for no body */
    else if (reason == REASON_NONE && !response_is_complete(response))
        reason = REASON_BAD_HTTP;
    if ((reason == REASON_NONE || reason == REASON_TOO_LARGE) &&
        response->status / 100 != 2)
        reason = REASON_RETURNED;
    return reason;
}

struct transfer *transfers_ended(struct transfers *all, enum reason *reason)
{
    int count;

    for (;;) {
        const CURLMsg *message = curl_multi_info_read(all->multi, &count);
        if (message == NULL)
            return NULL;
        CURLcode rc = message->data.result;
        CURL *easy = message->easy_handle;
        char *private;
        if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private) != CURLE_OK ||
            curl_multi_remove_handle(all->multi, easy) != CURLM_OK)
            continue;
        struct transfer *transfer = (void *)private;
        *reason = outcome_of(transfer, rc);
        drop_if_connected(transfer);
        return transfer;
    }
}

void transfer_finish(struct transfer *transfer, enum reason reason)
{
    reply_finish(&transfer->reply, reason, transfer->response.status);
}
