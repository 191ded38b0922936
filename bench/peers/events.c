/*
 * events.c - an event loop (libevent), with libcurl's multi interface in it
 *
 * One thread, and nothing blocks. What a thread keeps on its stack is a struct
 * here, and its place in the code is a state:
 *     build/peers/events --listen HOST:PORT --upstream URL [--no-keepalive]
 *
 * Keep in your head: what each state waits for, every order in which events
 * can come, and who may free the connection that you hold a pointer to.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../lib/lines.h"
#include "../../lib/listen.h"
#include "../../lib/response.h"
#include "peer.h"

#include <curl/curl.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_IDLE 4096L        /* upstream connections that are kept */
#define PAUSE_US (100 * 1000) /* when descriptors or memory have run out */

/* One process is one loop. */
struct loop {
    struct event_base *base;
    struct evconnlistener *listener;
    struct event accept_again; /* a timer, pending while accepting is paused */
    CURLM *multi;
    struct event timer; /* libcurl's */
    CURLU *url;
    struct buffer target; /* of a request: path and query up to the text */
    struct curl_slist *headers; /* NULL where upstream connections are kept */
};

/* A client, and how far it has got. */
struct loop_connection {
    struct loop *loop;
    int fd;
    enum { READING, FETCHING, SENDING } state;
    struct event readable; /* pending, unless input came while not READING */
    struct event writable; /* pending while the client does not read */
    struct lines lines;
    bool ended; /* the client will send no more */
    CURL *easy; /* NULL before the first fetch */
    char message[CURL_ERROR_SIZE];
    struct response response; /* to the fetch that is running */
    enum reason reason;       /* why we ended it, or REASON_NONE */
    struct buffer reply;
    size_t sent; /* bytes of it */
};

/* Closes and frees a connection that is not FETCHING. */
static void close_connection(struct loop_connection *c)
{
    if (event_del(&c->readable) != 0 || event_del(&c->writable) != 0)
        fprintf(stderr, "events: cannot remove an event\n");
    curl_easy_cleanup(c->easy);
    close(c->fd);
    lines_free(&c->lines);
    free(c->reply.data);
    free(c);
}

/* Sends as much as the client takes. Returns false if that is not all: then
 * on_writable goes on, or the client was gone and c is freed. */
static bool send_more(struct loop_connection *c)
{
    static const struct timeval limit = {.tv_sec = SEND_TIMEOUT_MS / 1000};

    while (c->sent < c->reply.len) {
        ssize_t n = send(c->fd, c->reply.data + c->sent,
                         c->reply.len - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN || event_add(&c->writable, &limit) != 0)
                close_connection(c);
            return false;
        }
        c->sent += (size_t)n;
    }
    return true;
}

/* Sends the reply, made of the body or of the reason. Returns what send_more
 * returns. */
static bool send_reply(struct loop_connection *c, enum reason reason,
                       long http_status)
{
    reply_finish(&c->reply, reason, http_status);
    c->state = SENDING;
    c->sent = 0;
    return send_more(c);
}

/* libcurl's callback for both: a line of the head, a piece of the body. */
static size_t on_piece(char *data, size_t size, size_t count, void *connection)
{
    struct loop_connection *c = connection;
    size_t len = size * count;

    if (len > 0 && !response_has_head(&c->response) && data[len - 1] != '\n')
        return len; /* the upstream cut it off: finish_fetch finds out */
    if (len > 0)
        c->reason = response_take(&c->response, data, len);
    return c->reason == REASON_NONE ? len : CURL_WRITEFUNC_ERROR;
}

/* Makes an easy handle, with all that stays the same from fetch to fetch.
 * Returns NULL when memory is short. */
static CURL *open_easy(struct loop_connection *c)
{
    struct loop *loop = c->loop;
    CURL *easy = curl_easy_init();
    CURLcode rc = easy != NULL ? CURLE_OK : CURLE_OUT_OF_MEMORY;

#define SET(option, value)                                                    \
    if (rc == CURLE_OK)                                                       \
    rc = curl_easy_setopt(easy, option, value)

    SET(CURLOPT_CURLU, loop->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_NOPROXY, "*"); /* whatever http_proxy says */
    SET(CURLOPT_HTTPHEADER, loop->headers);
    SET(CURLOPT_FORBID_REUSE, loop->headers != NULL ? 1L : 0L);
    SET(CURLOPT_TIMEOUT_MS, (long)PEER_FETCH_MS);
    SET(CURLOPT_NOSIGNAL, 1L);
    /* What comes passes through lib/response, the chunks as they are. */
    SET(CURLOPT_HTTP_TRANSFER_DECODING, 0L);
    SET(CURLOPT_HEADERFUNCTION, on_piece);
    SET(CURLOPT_HEADERDATA, c);
    SET(CURLOPT_WRITEFUNCTION, on_piece);
    SET(CURLOPT_WRITEDATA, c);
    SET(CURLOPT_ERRORBUFFER, c->message);
    SET(CURLOPT_PRIVATE, c);
#undef SET

    if (rc != CURLE_OK) {
        curl_easy_cleanup(easy);
        return NULL;
    }
    return easy;
}

/* Sets the request target for this line; the reply lends it its room. Returns
 * false when memory is short. */
static bool choose_target(struct loop_connection *c, const struct line *line)
{
    struct buffer *target = &c->reply; /* libcurl copies it */

    target->len = 0;
    return buffer_append(target, c->loop->target.data, c->loop->target.len) &&
           buffer_append_escaped(target, line->text, line->len) &&
           buffer_append(target, "", 1) &&
           curl_easy_setopt(c->easy, CURLOPT_REQUEST_TARGET, target->data) ==
               CURLE_OK;
}

/* Starts a fetch, which finish_fetch ends. Returns REASON_NONE, or why it does
 * not start. */
static enum reason start_fetch(struct loop_connection *c,
                               const struct line *line)
{
    if (c->easy == NULL)
        c->easy = open_easy(c);
    if (c->easy == NULL || !choose_target(c, line))
        return REASON_NO_MEMORY;
    reply_begin(&c->reply);
    response_begin(&c->response, &c->reply, PEER_MAX_BODY);
    c->reason = REASON_NONE;
    c->message[0] = '\0';
    if (curl_multi_add_handle(c->loop->multi, c->easy) != CURLM_OK)
        return REASON_NO_MEMORY;
    c->state = FETCHING;
    return REASON_NONE;
}

/* Cuts the next line, the last one too. Returns false when there is none. */
static bool next_line(struct loop_connection *c, struct line *line)
{
    return lines_next(&c->lines, line) ||
           (c->ended && lines_last(&c->lines, REASON_NONE, line));
}

/* Goes on with the next line, as far as that works without waiting. */
static void advance(struct loop_connection *c)
{
    struct line line;

    reply_shrink(&c->reply);
    while (next_line(c, &line)) {
        enum reason reason = line.reason;

        if (reason == REASON_NONE)
            reason = start_fetch(c, &line);
        if (reason == REASON_NONE || !send_reply(c, reason, 0))
            return;
    }
    c->state = READING;
    if (c->ended || (!event_pending(&c->readable, EV_READ, NULL) &&
                     event_add(&c->readable, NULL) != 0))
        close_connection(c);
}

static void on_writable(evutil_socket_t fd, short what, void *connection)
{
    struct loop_connection *c = connection;

    (void)fd;
    if ((what & EV_TIMEOUT) != 0)
        close_connection(c);
    else if (send_more(c))
        advance(c);
}

static void on_readable(evutil_socket_t fd, short what, void *connection)
{
    struct loop_connection *c = connection;
    struct line line;
    size_t room;

    (void)what;
    if (c->state != READING) { /* one line at a time: it stays in the socket */
        if (event_del(&c->readable) != 0)
            fprintf(stderr, "events: cannot remove an event\n");
        return;
    }
    char *data = lines_room(&c->lines, &room);
    if (data == NULL) {
        if (!lines_last(&c->lines, REASON_NO_MEMORY, &line) ||
            send_reply(c, REASON_NO_MEMORY, 0))
            advance(c);
        return;
    }
    ssize_t n = recv(fd, data, room, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        close_connection(c);
        return;
    }
    lines_add(&c->lines, (size_t)n);
    c->ended = n == 0;
    advance(c);
}

/* Returns the reason for a fetch that libcurl ended with rc. */
static enum reason reason_of(const struct loop_connection *c, CURLcode rc)
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
        return strstr(c->message, "chunk") == NULL ? REASON_CLOSED_EARLY
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
static void drop_if_connected(struct loop_connection *c)
{
    long connects;

    if (c->loop->headers != NULL ||
        curl_easy_getinfo(c->easy, CURLINFO_NUM_CONNECTS, &connects) !=
            CURLE_OK ||
        connects == 0)
        return;
    curl_easy_cleanup(c->easy);
    c->easy = NULL;
}

/* Sends the reply to a fetch that libcurl ended with rc, and goes on. */
static void finish_fetch(struct loop_connection *c, CURLcode rc)
{
    const struct response *response = &c->response;
    enum reason reason = c->reason;

    if (reason == REASON_NONE && rc != CURLE_OK)
        reason = reason_of(c, rc);
    else if (reason == REASON_NONE && !response_has_head(response))
        reason = REASON_CLOSED_EARLY; /* libcurl takes that for no body */
    else if (reason == REASON_NONE && !response_is_complete(response))
        reason = REASON_BAD_HTTP;
    if ((reason == REASON_NONE || reason == REASON_TOO_LARGE) &&
        response->status / 100 != 2)
        reason = REASON_RETURNED;
    drop_if_connected(c);
    if (send_reply(c, reason, response->status))
        advance(c);
}

/* Lets libcurl do what it can do now. */
static void run_fetches(struct loop *loop, curl_socket_t fd, int what)
{
    int count;

    if (curl_multi_socket_action(loop->multi, fd, what, &count) != CURLM_OK)
        fprintf(stderr, "events: libcurl cannot go on\n");
    for (;;) {
        CURLMsg *message = curl_multi_info_read(loop->multi, &count);
        if (message == NULL)
            return;
        CURLcode rc = message->data.result;
        CURL *easy = message->easy_handle;
        char *connection;
        if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &connection) ==
                CURLE_OK &&
            curl_multi_remove_handle(loop->multi, easy) == CURLM_OK)
            finish_fetch((void *)connection, rc);
    }
}

static void on_upstream(evutil_socket_t fd, short what, void *loop)
{
    run_fetches(loop, fd,
                ((what & EV_READ) != 0 ? CURL_CSELECT_IN : 0) |
                    ((what & EV_WRITE) != 0 ? CURL_CSELECT_OUT : 0));
}

static void on_timer(evutil_socket_t fd, short what, void *loop)
{
    (void)fd;
    (void)what;
    run_fetches(loop, CURL_SOCKET_TIMEOUT, 0);
}

/* libcurl's callback: asks for what comes from this socket. */
static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
                        void *known)
{
    struct loop *loop = arg;
    struct event *watch = known;
    short events = EV_PERSIST;

    (void)easy;
    if (watch != NULL)
        event_free(watch);
    if (what == CURL_POLL_REMOVE)
        return 0;
    if ((what & CURL_POLL_IN) != 0)
        events |= EV_READ;
    if ((what & CURL_POLL_OUT) != 0)
        events |= EV_WRITE;
    watch = event_new(loop->base, fd, events, on_upstream, loop);
    return watch != NULL && event_add(watch, NULL) == 0 &&
                   curl_multi_assign(loop->multi, fd, watch) == CURLM_OK
               ? 0
               : -1;
}

/* libcurl's callback: asks for on_timer after ms, or for none if -1. */
static int set_timer(CURLM *multi, long ms, void *arg)
{
    struct loop *loop = arg;
    const struct timeval after = {.tv_sec = ms / 1000,
                                  .tv_usec = ms % 1000 * 1000};

    (void)multi;
    return ms == -1 ? evtimer_del(&loop->timer)
                    : evtimer_add(&loop->timer, &after);
}

/* Takes over a client that was accepted. */
static void on_client(struct evconnlistener *listener, evutil_socket_t fd,
                      struct sockaddr *address, int len, void *loop)
{
    struct loop_connection *c = calloc(1, sizeof *c);

    (void)listener;
    (void)address;
    (void)len;
    if (c == NULL) {
        peer_reject(fd, REASON_NO_MEMORY);
        return;
    }
    c->loop = loop;
    c->fd = fd;
    if (event_assign(&c->readable, c->loop->base, fd, EV_READ | EV_PERSIST,
                     on_readable, c) == 0 &&
        event_assign(&c->writable, c->loop->base, fd, EV_WRITE, on_writable,
                     c) == 0 &&
        lines_init(&c->lines, PEER_MAX_LINE) && reply_init(&c->reply)) {
        advance(c);
        return;
    }
    lines_free(&c->lines);
    free(c->reply.data);
    free(c);
    peer_reject(fd, REASON_NO_MEMORY);
}

/* Descriptors or memory have run out: pauses, or the loop would spin. */
static void on_accept_error(struct evconnlistener *listener, void *arg)
{
    static const struct timeval pause = {.tv_usec = PAUSE_US};
    struct loop *loop = arg;

    peer_complain("events: cannot accept", errno);
    if (evtimer_add(&loop->accept_again, &pause) != 0 ||
        evconnlistener_disable(listener) != 0)
        fprintf(stderr, "events: cannot pause\n");
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    struct loop *loop = arg;

    (void)fd;
    (void)what;
    if (evconnlistener_enable(loop->listener) != 0)
        fprintf(stderr, "events: cannot accept again\n");
}

/* Parses the URL, and makes of it the request target up to the text. Returns
 * false when that cannot be done. */
static bool parse_upstream(struct loop *loop, const char *url)
{
    struct buffer *target = &loop->target;
    char *path = NULL, *query = NULL;

    loop->url = curl_url();
    bool ok = loop->url != NULL &&
              curl_url_set(loop->url, CURLUPART_URL, url, 0) == CURLUE_OK &&
              curl_url_get(loop->url, CURLUPART_PATH, &path, 0) == CURLUE_OK &&
              buffer_append(target, path, strlen(path)) &&
              buffer_append(target, "?", 1);
    if (ok && curl_url_get(loop->url, CURLUPART_QUERY, &query, 0) == CURLUE_OK)
        ok = buffer_append(target, query, strlen(query)) &&
             buffer_append(target, "&", 1);
    curl_free(path);
    curl_free(query);
    return ok && buffer_append(target, "text=", strlen("text="));
}

/* Prepares libevent and libcurl, each to call the other. Returns false when
 * that fails. */
static bool start(struct loop *loop, bool keepalive)
{
    loop->base = event_base_new();
    loop->multi = curl_multi_init();
    if (!keepalive)
        loop->headers = curl_slist_append(NULL, "Connection: close");
    return loop->base != NULL && loop->multi != NULL &&
           (keepalive || loop->headers != NULL) &&
           !curl_multi_setopt(loop->multi, CURLMOPT_SOCKETFUNCTION,
                              watch_socket) &&
           !curl_multi_setopt(loop->multi, CURLMOPT_SOCKETDATA, loop) &&
           !curl_multi_setopt(loop->multi, CURLMOPT_TIMERFUNCTION,
                              set_timer) &&
           !curl_multi_setopt(loop->multi, CURLMOPT_TIMERDATA, loop) &&
           !curl_multi_setopt(loop->multi, CURLMOPT_MAXCONNECTS, MAX_IDLE) &&
           evtimer_assign(&loop->timer, loop->base, on_timer, loop) == 0 &&
           evtimer_assign(&loop->accept_again, loop->base, on_accept_again,
                          loop) == 0;
}

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("events", argc, argv);
    struct loop loop = {0};

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
        !start(&loop, peer.keepalive)) {
        fprintf(stderr, "events: cannot start\n");
        return 1;
    }
    if (!parse_upstream(&loop, peer.upstream)) {
        fprintf(stderr, "events: --upstream: not a URL\n");
        return 2;
    }
    loop.listener =
        evconnlistener_new(loop.base, on_client, &loop, LEV_OPT_CLOSE_ON_EXEC,
                           0, peer_listen(&peer, SOCK_NONBLOCK));
    if (loop.listener == NULL) {
        fprintf(stderr, "events: cannot accept\n");
        return 1;
    }
    evconnlistener_set_error_cb(loop.listener, on_accept_error);
    return event_base_dispatch(loop.base) == 0 ? 0 : 1;
}
