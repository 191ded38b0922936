/*
 * bare_events.c - an event loop (epoll), on sockets alone
 *
 * The model of events.c without libraries; or bare.c without its threads, and
 * so what these cost:
 *     build/peers/bare_events --listen HOST:PORT --upstream URL
 *                             [--no-keepalive]
 *
 * Keep in your head: what each state waits for, and that epoll reports once
 * what has come: what you leave in a socket you have to remember, or nobody
 * wakes you for it.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* accept4, EPOLLRDHUP */
#include "../../lib/clock.h"
#include "../../lib/lines.h"
#include "../../lib/listen.h"
#include "../../lib/schedule.h"
#include "deadline.h"
#include "exchange.h"
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUND 256    /* most events taken at once */
#define PAUSE_MS 100 /* when descriptors or memory have run out */

/* A socket, and what epoll has reported that is not used up. */
struct watched {
    struct loop_connection *connection; /* NULL: the listener */
    int fd;                             /* -1: none */
    bool readable;
    bool ended; /* at the other end: it stays readable */
};

/* A client, and how far it has got. */
struct loop_connection {
    struct loop *loop;
    enum { READING, STARTING, ASKING, RECEIVING, REPLYING, CLOSED } state;
    struct watched client;
    struct watched upstream;
    struct lines lines;
    struct line line; /* until it is asked for */
    bool ended;       /* the client will send no more */
    bool kept;        /* the upstream connection is from another fetch */
    struct exchange exchange;
    size_t sent;  /* bytes of the request or of the reply */
    bool overdue; /* the client has taken nothing for too long */
    struct deadline deadline;
    SLIST_ENTRY(loop_connection) in_closed;
};

/* One process is one loop. */
struct loop {
    const struct origin *origin;
    int epoll;
    struct watched listener;
    long long now;          /* in ms, since the events were taken */
    long long accept_again; /* accepting is paused until then */
    struct deadlines fetches;
    struct deadlines replies;             /* that the client does not take */
    SLIST_HEAD(, loop_connection) closed; /* events may still point there */
};

/* Has epoll report, once each, that there is more to read and that there is
 * room to write again. Returns false when memory is short. */
static bool watch(struct loop *loop, struct watched *socket)
{
    struct epoll_event event = {.events =
                                    EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.ptr = socket};

    return epoll_ctl(loop->epoll, EPOLL_CTL_ADD, socket->fd, &event) == 0;
}

/* Receives once. Returns what recv does. */
static ssize_t receive(struct watched *socket, char *data, size_t size)
{
    ssize_t n = recv(socket->fd, data, size, 0);

    if (n < 0 ? errno == EAGAIN : (size_t)n < size)
        socket->readable = socket->ended && n > 0;
    return n;
}

/* Sends what is left of the request or the reply. Returns false, with errno
 * set, if that is not all. */
static bool send_rest(struct loop_connection *c, int fd)
{
    const struct buffer *data = &c->exchange.reply;

    while (c->sent < data->len) {
        ssize_t n =
            send(fd, data->data + c->sent, data->len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0)
            c->sent += (size_t)n;
    }
    return true;
}

/* Closes the connection to the upstream, if there is one. */
static void hang_up(struct loop_connection *c)
{
    if (c->upstream.fd >= 0)
        close(c->upstream.fd);
    c->upstream.fd = -1;
}

/* Closes a connection, which is freed at the end of the round. */
static void close_connection(struct loop_connection *c)
{
    deadline_clear(&c->deadline);
    hang_up(c);
    close(c->client.fd);
    c->state = CLOSED;
    SLIST_INSERT_HEAD(&c->loop->closed, c, in_closed);
}

/* Frees a connection that is closed, or did not start. */
static void free_connection(struct loop_connection *c)
{
    exchange_free(&c->exchange);
    lines_free(&c->lines);
    free(c);
}

/* Starts to connect to the upstream; the first send finds out how it went. */
static enum reason dial(struct loop_connection *c)
{
    const struct origin *origin = c->exchange.origin;
    const struct addrinfo *address = origin->address;
    int fd = origin_socket(origin, SOCK_NONBLOCK);

    c->upstream = (struct watched){.connection = c, .fd = fd};
    if (fd < 0)
        return REASON_FAILED;
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0 &&
        errno != EINPROGRESS)
        return origin_reason(errno);
    return watch(c->loop, &c->upstream) ? REASON_NONE : REASON_FAILED;
}

/* Makes the reply, which is sent next. */
static void reply(struct loop_connection *c, enum reason reason)
{
    deadline_clear(&c->deadline);
    exchange_finish(&c->exchange, reason);
    c->sent = 0;
    c->state = REPLYING;
}

/* Ends a fetch, or begins it again: a connection kept from the last one may
 * have been closed. */
static void end_fetch(struct loop_connection *c, enum reason reason)
{
    if (!exchange_allows_reuse(&c->exchange, reason))
        hang_up(c);
    if (c->kept && exchange_may_repeat(&c->exchange, reason))
        c->state = STARTING;
    else
        reply(c, reason);
}

/* Goes on while READING. Like its like for the other states it returns false
 * when the connection has to wait, or is closed. */
static bool read_client(struct loop_connection *c)
{
    size_t room;

    if (lines_next(&c->lines, &c->line) ||
        (c->ended && lines_last(&c->lines, REASON_NONE, &c->line))) {
        c->state = STARTING;
        if (c->line.reason != REASON_NONE)
            reply(c, c->line.reason);
        else
            deadline_set(&c->deadline, &c->loop->fetches, c->loop->now);
        return true;
    }
    if (c->ended) {
        close_connection(c);
        return false;
    }
    if (!c->client.readable)
        return false;
    char *data = lines_room(&c->lines, &room);
    if (data == NULL) {
        c->ended = !lines_last(&c->lines, REASON_NO_MEMORY, &c->line);
        if (!c->ended)
            reply(c, REASON_NO_MEMORY);
        return true;
    }
    ssize_t n = receive(&c->client, data, room);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        close_connection(c);
        return false;
    }
    c->ended = n == 0;
    if (n > 0)
        lines_add(&c->lines, (size_t)n);
    return true;
}

/* Goes on while STARTING, which takes no wait. */
static bool start_fetch(struct loop_connection *c)
{
    enum reason reason = REASON_NONE;

    c->kept = c->upstream.fd >= 0;
    if (!c->kept)
        reason = dial(c);
    if (reason == REASON_NONE && !exchange_ask(&c->exchange, &c->line))
        reason = REASON_NO_MEMORY;
    c->sent = 0;
    c->state = ASKING;
    if (reason != REASON_NONE)
        end_fetch(c, reason);
    return true;
}

/* Goes on while ASKING. */
static bool ask_upstream(struct loop_connection *c)
{
    if (send_rest(c, c->upstream.fd)) {
        exchange_await(&c->exchange);
        c->state = RECEIVING;
        return true;
    }
    if (errno == EAGAIN)
        return false;
    bool connected =
        c->kept || c->sent > 0 || errno == ECONNRESET || errno == EPIPE;
    end_fetch(c, connected ? REASON_CLOSED_EARLY : origin_reason(errno));
    return true;
}

/* Goes on while RECEIVING. */
static bool receive_response(struct loop_connection *c)
{
    struct exchange *exchange = &c->exchange;
    enum reason reason = REASON_CLOSED_EARLY;
    char piece[PIECE_SIZE];

    if (!c->upstream.readable)
        return false;
    ssize_t n = receive(&c->upstream, piece, sizeof piece);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n == 0)
        reason = exchange_closed(exchange);
    else if (n > 0)
        reason = exchange_take(exchange, piece, (size_t)n);
    if (n <= 0 || reason != REASON_NONE || exchange_is_complete(exchange))
        end_fetch(c, exchange_outcome(exchange, reason));
    return true;
}

/* Goes on while REPLYING. */
static bool send_reply(struct loop_connection *c)
{
    size_t before = c->sent;
    bool overdue = c->overdue;

    c->overdue = false;
    if (send_rest(c, c->client.fd)) {
        deadline_clear(&c->deadline);
        reply_shrink(&c->exchange.reply);
        c->state = READING;
        return true;
    }
    if (errno != EAGAIN || (overdue && c->sent == before))
        close_connection(c);
    else if (c->deadline.queue == NULL || c->sent > before)
        deadline_set(&c->deadline, &c->loop->replies, c->loop->now);
    return false;
}

/* Goes on with a connection as far as that works without waiting. */
static void advance(struct loop_connection *c)
{
    bool (*const steps[])(struct loop_connection *) = {
        [READING] = read_client,
        [STARTING] = start_fetch,
        [ASKING] = ask_upstream,
        [RECEIVING] = receive_response,
        [REPLYING] = send_reply};

    while (steps[c->state](c))
        continue;
}

/* Takes note of an event, and goes on with the connection that it is for. */
static void take_event(struct watched *socket, uint32_t events)
{
    struct loop_connection *c = socket->connection;

    /* Something earlier in this round may have closed what it is for. */
    if (socket->fd < 0 || (c != NULL && c->state == CLOSED))
        return;
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        socket->ended = true;
    if ((events & EPOLLIN) != 0 || socket->ended)
        socket->readable = true;
    if (c == NULL)
        return; /* accept_clients looks there */
    if (socket == &c->upstream && socket->readable &&
        (c->state == READING || c->state == REPLYING))
        hang_up(c); /* it was closed, or speaks unasked */
    else
        advance(c);
}

/* Takes over a client, or rejects it. */
static void start_connection(struct loop *loop, int fd)
{
    struct loop_connection *c = calloc(1, sizeof *c);

    if (c == NULL) {
        peer_reject(fd, REASON_NO_MEMORY);
        return;
    }
    c->loop = loop;
    c->client = (struct watched){.connection = c, .fd = fd};
    c->upstream.fd = -1;
    c->deadline.owner = c;
    if (exchange_init(&c->exchange, loop->origin) &&
        lines_init(&c->lines, PEER_MAX_LINE) && watch(loop, &c->client))
        return;
    free_connection(c);
    peer_reject(fd, REASON_NO_MEMORY);
}

/* Accepts all clients that wait. Pauses when descriptors or memory have run
 * out, or the loop would spin. */
static void accept_clients(struct loop *loop)
{
    while (loop->listener.readable && loop->now >= loop->accept_again) {
        int fd = accept4(loop->listener.fd, NULL, NULL,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            start_connection(loop, fd);
        } else if (errno == EAGAIN) {
            loop->listener.readable = false;
        } else if (!is_transient_accept_error(errno)) {
            peer_complain("bare-events: cannot accept", errno);
            loop->accept_again = loop->now + PAUSE_MS;
        }
    }
}

/* Ends what has taken too long, and frees what was closed. */
static void sweep(struct loop *loop)
{
    struct loop_connection *c;

    while ((c = deadlines_overdue(&loop->fetches, loop->now)) != NULL) {
        end_fetch(c, REASON_TIMED_OUT);
        advance(c);
    }
    while ((c = deadlines_overdue(&loop->replies, loop->now)) != NULL) {
        c->overdue = true; /* but epoll does not report a little room */
        advance(c);
    }
    while ((c = SLIST_FIRST(&loop->closed)) != NULL) {
        SLIST_REMOVE_HEAD(&loop->closed, in_closed);
        free_connection(c);
    }
}

/* Returns how long epoll may wait, in ms, or -1 without a limit. */
static int longest_wait(const struct loop *loop)
{
    long long until = loop->listener.readable ? loop->accept_again : -1;

    until = deadlines_next(&loop->fetches, until);
    until = deadlines_next(&loop->replies, until);
    return until < 0 ? -1 : (int)(until > loop->now ? until - loop->now : 0);
}

/* Waits for events and takes them. Returns false when that cannot go on. */
static bool run_round(struct loop *loop)
{
    struct epoll_event events[ROUND];
    int count = epoll_wait(loop->epoll, events, ROUND, longest_wait(loop));

    if (count < 0 && errno != EINTR)
        return false;
    loop->now = clock_ms();
    for (int i = 0; i < count; i++)
        take_event(events[i].data.ptr, events[i].events);
    accept_clients(loop);
    sweep(loop);
    return true;
}

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("bare-events", argc, argv);
    const struct origin origin = origin_start(&peer);
    struct loop loop = {.origin = &origin, .epoll = epoll_create1(0)};

    int error = set_batch_scheduling();
    if (error != 0)
        peer_complain("bare-events: cannot set SCHED_BATCH", error);
    deadlines_init(&loop.fetches, PEER_FETCH_MS);
    deadlines_init(&loop.replies, SEND_TIMEOUT_MS);
    SLIST_INIT(&loop.closed);
    loop.listener.fd = peer_listen(&peer, SOCK_NONBLOCK);
    if (loop.epoll < 0 || !watch(&loop, &loop.listener)) {
        peer_complain("bare-events: cannot start", errno);
        return 1;
    }
    while (run_round(&loop))
        continue;
    peer_complain("bare-events: epoll_wait", errno);
    return 1;
}
