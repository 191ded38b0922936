/*
 * bare_uring.c - completions instead of events (io_uring), on sockets alone
 *
 * bare_events.c asks what it may do now, and does it; this has the kernel do
 * it, and learns what came of it:
 *     build/peers/bare_uring --listen HOST:PORT --upstream URL
 *                            [--no-keepalive]
 *
 * Keep in your head: whose buffer the kernel has now. Until an operation has
 * completed nobody else may touch or free what it was given.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../lib/schedule.h"
#include "deadline.h"
#include "exchange.h"
#include "peer.h"
#include "ring.h"
#include "ring_clients.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECES 256 /* buffers for responses, a power of two */

/* A client and its connection to the upstream. While its line is served, one
 * chain of operations is under way there. */
struct ring_connection {
    struct loop *loop;
    struct ring_client client;
    struct line line;
    struct exchange exchange;
    int upstream; /* -1: none */
    bool kept;    /* from an earlier fetch */
    bool asking;  /* no byte of this response was received */
    bool overdue;
    struct operation connect, send, recv;
    struct deadline deadline;
};

/* One process is one loop. */
struct loop {
    struct ring ring;
    struct ring_clients clients;
    const struct origin *origin;
    struct deadlines fetches;
    struct io_uring_buf_ring *free_pieces; /* the kernel picks one of them */
    char (*pieces)[PIECE_SIZE];
};

/* Closes the connection to the upstream, if there is one. */
static void hang_up(struct ring_connection *c)
{
    if (c->upstream >= 0)
        ring_close(&c->loop->ring, c->upstream);
    c->upstream = -1;
}

/* Receives from the upstream, into any free piece. */
static void receive(struct ring_connection *c)
{
    struct io_uring_sqe *entry = ring_next(&c->loop->ring);

    io_uring_prep_recv(entry, c->upstream, NULL, PIECE_SIZE, 0);
    entry->ioprio = IORING_RECVSEND_POLL_FIRST;
    entry->flags |= IOSQE_BUFFER_SELECT;
    ring_tell(entry, &c->recv);
}

/* Asks the upstream, on a new connection if there is none: connect, send and
 * receive are one chain. Returns REASON_NONE, or why that does not start. */
static enum reason ask(struct ring_connection *c)
{
    const struct origin *origin = c->exchange.origin;
    const struct buffer *request = &c->exchange.reply;
    struct ring *ring = &c->loop->ring;
    struct io_uring_sqe *entry;

    c->kept = c->upstream >= 0;
    if (!c->kept)
        c->upstream = origin_socket(origin, 0);
    if (c->upstream < 0)
        return REASON_FAILED;
    if (!exchange_ask(&c->exchange, &c->line))
        return REASON_NO_MEMORY;
    ring_reserve(ring, 3);
    if (!c->kept) {
        entry = ring_next(ring);
        io_uring_prep_connect(entry, c->upstream, origin->address->ai_addr,
                              origin->address->ai_addrlen);
        ring_tell_failure(entry, &c->connect);
    }
    entry = ring_next(ring);
    io_uring_prep_send(entry, c->upstream, request->data, request->len,
                       MSG_NOSIGNAL | MSG_WAITALL);
    ring_tell_failure(entry, &c->send);
    receive(c);
    c->asking = true;
    return REASON_NONE;
}

/* Ends a fetch, or begins it again: a connection kept from the last one may
 * have been closed. */
static void end_fetch(struct ring_connection *c, enum reason reason)
{
    bool again = c->kept && exchange_may_repeat(&c->exchange, reason);

    if (!exchange_allows_reuse(&c->exchange, reason))
        hang_up(c);
    if (again) {
        reason = ask(c);
        if (reason == REASON_NONE)
            return;
        hang_up(c);
    }
    deadline_clear(&c->deadline);
    exchange_finish(&c->exchange, reason);
    ring_client_reply(&c->client);
}

/* The connect has failed: the send and the receive were not begun. */
static void on_connect_failed(void *owner, int result, unsigned flags)
{
    struct ring_connection *c = owner;

    (void)flags;
    end_fetch(c, c->overdue ? REASON_TIMED_OUT : origin_reason(-result));
}

/* The send has failed: the receive was not begun. */
static void on_send_failed(void *owner, int result, unsigned flags)
{
    struct ring_connection *c = owner;

    (void)result;
    (void)flags;
    end_fetch(c, c->overdue ? REASON_TIMED_OUT : REASON_CLOSED_EARLY);
}

/* Gives the kernel a piece to receive into. */
static void free_piece(struct loop *loop, unsigned id)
{
    io_uring_buf_ring_add(loop->free_pieces, loop->pieces[id], PIECE_SIZE,
                          (unsigned short)id, io_uring_buf_ring_mask(PIECES),
                          0);
    io_uring_buf_ring_advance(loop->free_pieces, 1);
}

/* Takes a piece of the response: result bytes, the upstream's end if 0, or an
 * error. Goes on if that was not all. */
static void take_response(struct ring_connection *c, const char *piece,
                          int result)
{
    struct exchange *exchange = &c->exchange;
    enum reason reason = REASON_CLOSED_EARLY;

    if (c->overdue)
        reason = REASON_TIMED_OUT;
    else if (result == -ENOBUFS) /* others of this round have all pieces */
        reason = REASON_NONE;
    else if (result == 0)
        reason = exchange_closed(exchange);
    else if (result > 0)
        reason = exchange_take(exchange, piece, (size_t)result);
    if (result != 0 && reason == REASON_NONE &&
        !exchange_is_complete(exchange))
        receive(c);
    else
        end_fetch(c, exchange_outcome(exchange, reason));
}

/* The request was sent, and the upstream has answered or closed. */
static void on_received(void *owner, int result, unsigned flags)
{
    struct ring_connection *c = owner;
    struct loop *loop = c->loop;
    unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;
    bool has_piece = (flags & IORING_CQE_F_BUFFER) != 0;

    if (c->asking)
        exchange_await(&c->exchange); /* the request has left its buffer */
    c->asking = false;
    take_response(c, has_piece ? loop->pieces[id] : NULL, result);
    if (has_piece)
        free_piece(loop, id);
}

/* For ring_clients.h: makes a connection. */
static struct ring_client *create_connection(void *arg)
{
    struct loop *loop = arg;
    struct ring_connection *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->loop = loop;
    c->client = (struct ring_client){.owner = c, .reply = &c->exchange.reply};
    c->upstream = -1;
    c->connect = (struct operation){on_connect_failed, c};
    c->send = (struct operation){on_send_failed, c};
    c->recv = (struct operation){on_received, c};
    c->deadline.owner = c;
    if (exchange_init(&c->exchange, loop->origin))
        return &c->client;
    free(c);
    return NULL;
}

/* For ring_clients.h: starts a fetch, which end_fetch ends. */
static void serve_line(void *owner, const struct line *line)
{
    struct ring_connection *c = owner;

    c->line = *line;
    c->overdue = false;
    deadline_set(&c->deadline, &c->loop->fetches, c->loop->ring.now);
    enum reason reason = ask(c);
    if (reason != REASON_NONE)
        end_fetch(c, reason);
}

/* For ring_clients.h: frees a connection. */
static void destroy_connection(void *owner)
{
    struct ring_connection *c = owner;

    hang_up(c);
    exchange_free(&c->exchange);
    free(c);
}

/* Cancels the fetches that have taken too long; their completions go on. */
static void sweep(struct loop *loop)
{
    struct ring_connection *c;

    while ((c = deadlines_overdue(&loop->fetches, loop->ring.now)) != NULL) {
        c->overdue = true;
        ring_cancel_fd(&loop->ring, c->upstream);
    }
}

/* Makes the pieces and gives all of them to the kernel. Returns 0 or an errno
 * value. */
static int make_pieces(struct loop *loop)
{
    const size_t size = PIECES * sizeof *loop->free_pieces->bufs;
    void *ring = NULL;
    int rc = posix_memalign(&ring, (size_t)sysconf(_SC_PAGESIZE), size);

    loop->pieces = calloc(PIECES, sizeof *loop->pieces);
    if (rc == 0 && loop->pieces == NULL)
        rc = ENOMEM;
    if (rc == 0) {
        struct io_uring_buf_reg registration = {.ring_addr = (uintptr_t)ring,
                                                .ring_entries = PIECES};
        loop->free_pieces = ring;
        io_uring_buf_ring_init(ring);
        rc = -io_uring_register_buf_ring(&loop->ring.uring, &registration, 0);
    }
    if (rc != 0) {
        free(ring);
        free(loop->pieces);
        return rc;
    }
    for (unsigned id = 0; id < PIECES; id++)
        free_piece(loop, id);
    return 0;
}

int main(int argc, char **argv)
{
    struct loop loop = {.clients = {.ring = &loop.ring,
                                    .loop = &loop,
                                    .create = create_connection,
                                    .serve = serve_line,
                                    .destroy = destroy_connection}};
    ring_start(&loop.ring, "bare-uring", argc, argv);
    const struct peer peer = peer_start("bare-uring", argc, argv);
    const struct origin origin = origin_start(&peer);

    loop.origin = &origin;
    deadlines_init(&loop.fetches, PEER_FETCH_MS);
    int error = set_batch_scheduling();
    if (error != 0)
        peer_complain("bare-uring: cannot set SCHED_BATCH", error);
    error = make_pieces(&loop);
    if (error != 0) {
        peer_complain("bare-uring: cannot start", error);
        return 1;
    }
    ring_clients_start(&loop.clients, &peer);
    for (;;) {
        long long until = deadlines_next(&loop.fetches, -1);
        ring_round(&loop.ring, ring_clients_next(&loop.clients, until));
        sweep(&loop);
        ring_clients_sweep(&loop.clients);
    }
}
