/*
 * state_threads.c - a State Threads thread per connection, on bare sockets
 *
 * bare.c on C's own ancestor of green threads: st_read, st_write and the like
 * switch to another thread of the library where recv and send would block.
 *     build/peers/state_threads --listen HOST:PORT --upstream URL
 *                               [--no-keepalive]
 *
 * Keep in your head: nothing is switched but in a call that begins with st_,
 * and whatever else blocks, such as a lookup of a name, stops all clients.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../lib/clock.h"
#include "../../lib/lines.h"
#include "../../lib/listen.h"
#include "../../lib/schedule.h"
#include "exchange.h"
#include "peer.h"

#include <errno.h>
#include <st.h>
#include <stdlib.h>
#include <unistd.h>

#define STACK_SIZE (128 * 1024)
#define PAUSE_US 100000 /* when descriptors or memory have run out */

/* A client and its thread's connection to the upstream. */
struct state_connection {
    st_netfd_t client;
    st_netfd_t upstream; /* NULL: none */
    struct lines lines;
    bool ended; /* the client sends no more */
    struct exchange exchange;
};

/* Reads the next line, as read_line does. */
static bool next_line(struct state_connection *c, struct line *line)
{
    while (!lines_next(&c->lines, line)) {
        size_t room;
        char *data = lines_room(&c->lines, &room);
        if (data == NULL)
            return lines_last(&c->lines, REASON_NO_MEMORY, line);
        ssize_t n = 0;
        if (!c->ended)
            n = st_read(c->client, data, room, ST_UTIME_NO_TIMEOUT);
        c->ended = n <= 0;
        if (c->ended)
            return n == 0 && lines_last(&c->lines, REASON_NONE, line);
        lines_add(&c->lines, (size_t)n);
    }
    return true;
}

/* Closes the connection to the upstream, if there is one. */
static void hang_up(struct state_connection *c)
{
    if (c->upstream != NULL && st_netfd_close(c->upstream) != 0)
        peer_complain("state-threads: close", errno);
    c->upstream = NULL;
}

/* Returns the time left until a deadline in ms, in the library's unit. */
static st_utime_t left(long long deadline)
{
    long long ms = deadline - clock_ms();

    return ms > 0 ? (st_utime_t)ms * 1000 : ST_UTIME_NO_WAIT;
}

/* Connects to the upstream. */
static enum reason dial(struct state_connection *c, long long deadline)
{
    const struct addrinfo *address = c->exchange.origin->address;
    int fd = origin_socket(c->exchange.origin, 0);

    if (fd < 0)
        return REASON_FAILED;
    c->upstream = st_netfd_open_socket(fd);
    if (c->upstream == NULL) {
        close(fd);
        return REASON_FAILED;
    }
    if (st_connect(c->upstream, address->ai_addr, (int)address->ai_addrlen,
                   left(deadline)) == 0)
        return REASON_NONE;
    return errno == ETIME ? REASON_TIMED_OUT : origin_reason(errno);
}

/* Sends the request and receives the response. */
static enum reason ask(struct state_connection *c, long long deadline)
{
    struct exchange *exchange = &c->exchange;
    enum reason reason = REASON_NONE;
    char piece[PIECE_SIZE];

    if (st_write(c->upstream, exchange->reply.data, exchange->reply.len,
                 left(deadline)) < 0)
        return errno == ETIME ? REASON_TIMED_OUT : REASON_CLOSED_EARLY;
    exchange_await(exchange);
    while (reason == REASON_NONE && !exchange_is_complete(exchange)) {
        ssize_t n = st_read(c->upstream, piece, sizeof piece, left(deadline));
        if (n < 0)
            return errno == ETIME ? REASON_TIMED_OUT : REASON_CLOSED_EARLY;
        if (n == 0) {
            reason = exchange_closed(exchange);
            break;
        }
        reason = exchange_take(exchange, piece, (size_t)n);
        if (clock_ms() > deadline)
            return REASON_TIMED_OUT;
    }
    return exchange_outcome(exchange, reason);
}

/* Fetches a line. A connection kept from the last fetch may be closed by now;
 * then, and only then, asks again. */
static enum reason fetch_line(struct state_connection *c,
                              const struct line *line)
{
    long long deadline = clock_ms() + PEER_FETCH_MS;
    enum reason reason;
    bool kept;

    do {
        kept = c->upstream != NULL;
        reason = kept ? REASON_NONE : dial(c, deadline);
        if (reason == REASON_NONE && !exchange_ask(&c->exchange, line))
            reason = REASON_NO_MEMORY;
        if (reason == REASON_NONE)
            reason = ask(c, deadline);
        if (!exchange_allows_reuse(&c->exchange, reason))
            hang_up(c);
    } while (kept && exchange_may_repeat(&c->exchange, reason));
    return reason;
}

/* Frees a connection but does not close its client's descriptor. */
static void free_connection(struct state_connection *c)
{
    hang_up(c);
    exchange_free(&c->exchange);
    lines_free(&c->lines);
    free(c);
}

/* The thread of one connection: reads a line, fetches, writes the reply, until
 * the client has no more. */
static void *serve_connection(void *arg)
{
    struct state_connection *c = arg;
    struct buffer *reply = &c->exchange.reply;
    st_netfd_t client = c->client;
    struct line line;

    while (next_line(c, &line)) {
        enum reason reason = line.reason;

        if (reason == REASON_NONE)
            reason = fetch_line(c, &line);
        exchange_finish(&c->exchange, reason);
        if (st_write(client, reply->data, reply->len, SEND_TIMEOUT_MS * 1000) <
            0)
            break;
        reply_shrink(reply);
    }
    free_connection(c);
    if (st_netfd_close(client) != 0)
        peer_complain("state-threads: close", errno);
    return NULL;
}

/* Starts a thread for the client, or rejects it. */
static void start_connection(st_netfd_t client, const struct origin *origin)
{
    struct state_connection *c = calloc(1, sizeof *c);
    enum reason reason = REASON_NO_MEMORY;

    if (c != NULL) {
        c->client = client;
        if (exchange_init(&c->exchange, origin) &&
            lines_init(&c->lines, PEER_MAX_LINE)) {
            if (st_thread_create(serve_connection, c, 0, STACK_SIZE) != NULL)
                return;
            reason = REASON_NO_THREAD;
        }
        free_connection(c);
    }
    int fd = st_netfd_fileno(client);
    st_netfd_free(client); /* but for the descriptor, which is closed next */
    peer_reject(fd, reason);
}

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("state-threads", argc, argv);
    const struct origin origin = origin_start(&peer);
    int error = set_batch_scheduling();

    if (error != 0)
        peer_complain("state-threads: cannot set SCHED_BATCH", error);
    /* Debian's library has no epoll, and select ends at 1,024 descriptors. */
    if (st_set_eventsys(ST_EVENTSYS_POLL) != 0 || st_init() != 0) {
        peer_complain("state-threads: cannot start", errno);
        return 1;
    }
    st_netfd_t listener = st_netfd_open_socket(peer_listen(&peer, 0));
    if (listener == NULL) {
        peer_complain("state-threads: cannot start", errno);
        return 1;
    }
    for (;;) {
        st_netfd_t client =
            st_accept(listener, NULL, NULL, ST_UTIME_NO_TIMEOUT);
        if (client != NULL) {
            start_connection(client, &origin);
        } else if (!is_transient_accept_error(errno)) {
            peer_complain("cannot accept", errno);
            st_usleep(PAUSE_US);
        }
    }
}
