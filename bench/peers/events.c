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
#include "peer.h"
#include "transfer.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_US (100 * 1000) /* when descriptors or memory have run out */

/* One process is one loop. */
struct loop {
    struct event_base *base;
    struct evconnlistener *listener;
    struct event accept_again; /* a timer, pending while accepting is paused */
    struct transfers transfers;
    struct event timer; /* libcurl's */
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
    struct transfer transfer;
    size_t sent; /* bytes of it */
};

/* Closes and frees a connection that is not FETCHING. */
static void close_connection(struct loop_connection *c)
{
    if (event_del(&c->readable) != 0 || event_del(&c->writable) != 0)
        fprintf(stderr, "events: cannot remove an event\n");
    close(c->fd);
    lines_free(&c->lines);
    transfer_free(&c->transfer);
    free(c);
}

/* Sends as much as the client takes. Returns false if that is not all: then
 * on_writable goes on, or the client was gone and c is freed. */
static bool send_more(struct loop_connection *c)
{
    static const struct timeval limit = {.tv_sec = SEND_TIMEOUT_MS / 1000};
    const struct buffer *reply = &c->transfer.reply;

    while (c->sent < reply->len) {
        ssize_t n = send(c->fd, reply->data + c->sent, reply->len - c->sent,
                         MSG_NOSIGNAL);
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
static bool send_reply(struct loop_connection *c, enum reason reason)
{
    transfer_finish(&c->transfer, reason);
    c->state = SENDING;
    c->sent = 0;
    return send_more(c);
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

    reply_shrink(&c->transfer.reply);
    while (next_line(c, &line)) {
        enum reason reason = line.reason;

        if (reason == REASON_NONE)
            reason = transfer_start(&c->transfer, &line);
        if (reason == REASON_NONE) {
            c->state = FETCHING;
            return;
        }
        if (!send_reply(c, reason))
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
            send_reply(c, REASON_NO_MEMORY))
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

/* Lets libcurl do what it can do now, and goes on where a fetch has ended. */
static void run_fetches(struct loop *loop, curl_socket_t fd, int what)
{
    struct transfer *transfer;
    enum reason reason;
    int count;

    if (curl_multi_socket_action(loop->transfers.multi, fd, what, &count) !=
        CURLM_OK)
        fprintf(stderr, "events: libcurl cannot go on\n");
    while ((transfer = transfers_ended(&loop->transfers, &reason)) != NULL) {
        struct loop_connection *c = transfer->owner;
        if (send_reply(c, reason))
            advance(c);
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
                   curl_multi_assign(loop->transfers.multi, fd, watch) ==
                       CURLM_OK
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
                      struct sockaddr *address, int len, void *arg)
{
    struct loop *loop = arg;
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
    if (event_assign(&c->readable, loop->base, fd, EV_READ | EV_PERSIST,
                     on_readable, c) == 0 &&
        event_assign(&c->writable, loop->base, fd, EV_WRITE, on_writable, c) ==
            0 &&
        transfer_init(&c->transfer, &loop->transfers, c) &&
        lines_init(&c->lines, PEER_MAX_LINE)) {
        advance(c);
        return;
    }
    lines_free(&c->lines);
    transfer_free(&c->transfer);
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

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("events", argc, argv);
    struct loop loop = {.base = event_base_new()};

    transfers_start(&loop.transfers, &peer, watch_socket, set_timer, &loop);
    if (loop.base == NULL ||
        evtimer_assign(&loop.timer, loop.base, on_timer, &loop) != 0 ||
        evtimer_assign(&loop.accept_again, loop.base, on_accept_again,
                       &loop) != 0) {
        fprintf(stderr, "events: cannot start\n");
        return 1;
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
