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
#define _GNU_SOURCE /* SOCK_CLOEXEC */
#include "../../lib/clock.h"
#include "../../lib/lines.h"
#include "../../lib/listen.h"
#include "../../lib/schedule.h"
#include "deadline.h"
#include "exchange.h"
#include "peer.h"
#include "ring.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECES 256   /* buffers for responses, a power of two */
#define PAUSE_MS 100 /* when descriptors or memory have run out */

/* What a completion is of. */
struct operation {
    struct ring_connection *connection; /* NULL: accepting */
    enum kind { CONNECT, SEND, RECV } kind;
};

/* A client, and how far it has got. One chain of operations is under way for
 * it; the kernel reports the last of them, or the first that failed. */
struct ring_connection {
    struct loop *loop;
    struct operation connect, send, recv;
    enum { READING, ASKING, RECEIVING, REPLYING } state;
    int client;
    int upstream; /* -1: none */
    struct lines lines;
    struct line line; /* until it is asked for */
    bool ended;       /* the client will send no more */
    bool kept;        /* the upstream connection is from another fetch */
    bool overdue;     /* the fetch */
    struct exchange exchange;
    size_t sent; /* bytes of the reply */
    struct deadline deadline;
};

/* One process is one loop. */
struct loop {
    struct io_uring ring;
    const struct origin *origin;
    int listener;
    struct operation accept;
    long long now;          /* in ms, since the completions were taken */
    long long accept_again; /* in ms, or -1 while accepting */
    struct deadlines fetches;
    struct deadlines replies;
    struct io_uring_buf_ring *free_pieces; /* the kernel picks one of them */
    char (*pieces)[PIECE_SIZE];
};

/* Returns the next entry, for an operation of the connection. */
static struct io_uring_sqe *next_entry(struct ring_connection *c)
{
    return ring_next(&c->loop->ring);
}

/* Sends a part of the reply's buffer, all of it or an error. */
static struct io_uring_sqe *prepare_send(struct ring_connection *c, int fd)
{
    struct io_uring_sqe *entry = next_entry(c);
    const struct buffer *data = &c->exchange.reply;

    io_uring_prep_send(entry, fd, data->data + c->sent, data->len - c->sent,
                       MSG_NOSIGNAL | MSG_WAITALL);
    io_uring_sqe_set_data(entry, &c->send);
    return entry;
}

/* Has the next operation wait for this one, which reports a failure only. */
static void link_next(struct io_uring_sqe *entry)
{
    io_uring_sqe_set_flags(entry, IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
}

/* Receives from the client. Returns false when memory is short. */
static bool prepare_read(struct ring_connection *c)
{
    size_t room;
    char *data = lines_room(&c->lines, &room);

    if (data == NULL)
        return false;
    struct io_uring_sqe *entry = next_entry(c);
    io_uring_prep_recv(entry, c->client, data, room, 0);
    entry->ioprio = IORING_RECVSEND_POLL_FIRST;
    io_uring_sqe_set_data(entry, &c->recv);
    return true;
}

/* Receives from the upstream, into any free piece. */
static void prepare_receive(struct ring_connection *c)
{
    struct io_uring_sqe *entry = next_entry(c);

    io_uring_prep_recv(entry, c->upstream, NULL, PIECE_SIZE, 0);
    entry->ioprio = IORING_RECVSEND_POLL_FIRST;
    entry->flags |= IOSQE_BUFFER_SELECT;
    io_uring_sqe_set_data(entry, &c->recv);
}

/* Has the kernel do what no completion is awaited of. */
static void leave_alone(struct io_uring_sqe *entry)
{
    io_uring_sqe_set_flags(entry, IOSQE_CQE_SKIP_SUCCESS);
    io_uring_sqe_set_data(entry, NULL);
}

/* Closes a descriptor, if it is one. */
static void close_later(struct ring_connection *c, int fd)
{
    if (fd < 0)
        return;
    struct io_uring_sqe *entry = next_entry(c);
    io_uring_prep_close(entry, fd);
    leave_alone(entry);
}

/* Closes the connection to the upstream, if there is one. */
static void hang_up(struct ring_connection *c)
{
    close_later(c, c->upstream);
    c->upstream = -1;
}

/* Frees a connection that no operation is under way for, but does not close
 * its client's descriptor. */
static void free_connection(struct ring_connection *c)
{
    deadline_clear(&c->deadline);
    exchange_free(&c->exchange);
    lines_free(&c->lines);
    free(c);
}

/* Closes and frees a connection that no operation is under way for. */
static void close_connection(struct ring_connection *c)
{
    hang_up(c);
    close_later(c, c->client);
    free_connection(c);
}

/* Sends what is left of the reply and then, in the same chain, receives, if
 * nothing is to be done between the two. */
static void send_reply(struct ring_connection *c)
{
    ring_reserve(&c->loop->ring, 2);
    bool idle = !c->ended && c->lines.start == c->lines.end &&
                c->exchange.reply.len <= PIECE_SIZE;
    struct io_uring_sqe *entry = prepare_send(c, c->client);
    c->state = REPLYING;
    deadline_set(&c->deadline, &c->loop->replies, c->loop->now);
    if (idle && prepare_read(c))
        link_next(entry);
}

/* Makes the reply and sends it. */
static void reply(struct ring_connection *c, enum reason reason)
{
    exchange_finish(&c->exchange, reason);
    c->sent = 0;
    send_reply(c);
}

/* Asks the upstream, on a new connection if there is none: connect, send and
 * receive are one chain. Returns REASON_NONE, or why that does not start. */
static enum reason ask(struct ring_connection *c)
{
    const struct origin *origin = c->exchange.origin;

    c->kept = c->upstream >= 0;
    if (!c->kept)
        c->upstream = origin_socket(origin, 0);
    if (c->upstream < 0)
        return REASON_FAILED;
    if (!exchange_ask(&c->exchange, &c->line)) {
        hang_up(c);
        return REASON_NO_MEMORY;
    }
    ring_reserve(&c->loop->ring, 3);
    if (!c->kept) {
        struct io_uring_sqe *entry = next_entry(c);
        io_uring_prep_connect(entry, c->upstream, origin->address->ai_addr,
                              origin->address->ai_addrlen);
        io_uring_sqe_set_data(entry, &c->connect);
        link_next(entry);
    }
    c->sent = 0;
    link_next(prepare_send(c, c->upstream));
    prepare_receive(c);
    c->state = ASKING;
    return REASON_NONE;
}

/* Starts a fetch, which end_fetch ends, or replies why it does not start. */
static void fetch(struct ring_connection *c)
{
    enum reason reason = ask(c);

    if (reason != REASON_NONE)
        reply(c, reason);
}

/* Ends a fetch, or begins it again: a connection kept from the last one may
 * have been closed. */
static void end_fetch(struct ring_connection *c, enum reason reason)
{
    if (!exchange_allows_reuse(&c->exchange, reason))
        hang_up(c);
    if (c->kept && exchange_may_repeat(&c->exchange, reason))
        fetch(c);
    else
        reply(c, reason);
}

/* Goes on with the next line, or receives more. */
static void next_line(struct ring_connection *c)
{
    if (lines_next(&c->lines, &c->line) ||
        (c->ended && lines_last(&c->lines, REASON_NONE, &c->line))) {
        if (c->line.reason != REASON_NONE) {
            reply(c, c->line.reason);
            return;
        }
        c->overdue = false;
        deadline_set(&c->deadline, &c->loop->fetches, c->loop->now);
        fetch(c);
    } else if (!c->ended && prepare_read(c)) {
        c->state = READING;
    } else if (!c->ended &&
               lines_last(&c->lines, REASON_NO_MEMORY, &c->line)) {
        reply(c, REASON_NO_MEMORY);
    } else {
        close_connection(c);
    }
}

/* Takes what the client has sent: n bytes, its end if 0, or an error. */
static void take_input(struct ring_connection *c, int n)
{
    if (n < 0) {
        close_connection(c);
        return;
    }
    c->ended = n == 0;
    lines_add(&c->lines, (size_t)n);
    next_line(c);
}

/* Takes a piece of the response: n bytes, the upstream's end if 0, or an
 * error. */
static void take_response(struct ring_connection *c, const char *piece, int n)
{
    struct exchange *exchange = &c->exchange;
    enum reason reason = REASON_CLOSED_EARLY;

    if (c->overdue)
        reason = REASON_TIMED_OUT;
    else if (n == -ENOBUFS) /* those in this round have them all */
        reason = REASON_NONE;
    else if (n == 0)
        reason = exchange_closed(exchange);
    else if (n > 0)
        reason = exchange_take(exchange, piece, (size_t)n);
    if (n != 0 && reason == REASON_NONE && !exchange_is_complete(exchange))
        prepare_receive(c);
    else
        end_fetch(c, exchange_outcome(exchange, reason));
}

/* Goes on when the request was sent and a piece of the response is there, or
 * one of these failed. */
static void take_answer(struct ring_connection *c, enum kind kind,
                        const char *piece, int result)
{
    if (kind == RECV) {
        exchange_await(&c->exchange);
        c->state = RECEIVING;
        take_response(c, piece, result);
    } else if (c->overdue) {
        end_fetch(c, REASON_TIMED_OUT);
    } else {
        end_fetch(c, kind == CONNECT ? origin_reason(-result)
                                     : REASON_CLOSED_EARLY);
    }
}

/* Goes on when the reply was sent, and perhaps input has come. */
static void end_reply(struct ring_connection *c, enum kind kind, int result)
{
    deadline_clear(&c->deadline);
    if (kind == SEND && result <= 0) {
        close_connection(c);
        return;
    }
    c->sent += kind == SEND ? (size_t)result : 0;
    if (kind == SEND && c->sent < c->exchange.reply.len) {
        send_reply(c); /* it took too long, but the client takes some */
        return;
    }
    reply_shrink(&c->exchange.reply);
    if (kind == RECV)
        take_input(c, result);
    else
        next_line(c);
}

/* Takes a completion of a connection's operation. */
static void advance(struct ring_connection *c, enum kind kind,
                    const char *piece, int result)
{
    switch (c->state) {
    case READING:
        take_input(c, result);
        break;
    case ASKING:
        take_answer(c, kind, piece, result);
        break;
    case RECEIVING:
        take_response(c, piece, result);
        break;
    case REPLYING:
        end_reply(c, kind, result);
        break;
    }
}

/* Takes over a client, or rejects it. */
static void start_connection(struct loop *loop, int fd)
{
    struct ring_connection *c = calloc(1, sizeof *c);

    if (c == NULL) {
        peer_reject(fd, REASON_NO_MEMORY);
        return;
    }
    c->loop = loop;
    c->connect = (struct operation){c, CONNECT};
    c->send = (struct operation){c, SEND};
    c->recv = (struct operation){c, RECV};
    c->client = fd;
    c->upstream = -1;
    c->deadline.owner = c;
    if (exchange_init(&c->exchange, loop->origin) &&
        lines_init(&c->lines, PEER_MAX_LINE)) {
        next_line(c);
        return;
    }
    free_connection(c);
    peer_reject(fd, REASON_NO_MEMORY);
}

/* Accepts clients until further notice. */
static void start_accepting(struct loop *loop)
{
    struct io_uring_sqe *entry = ring_next(&loop->ring);

    io_uring_prep_multishot_accept(entry, loop->listener, NULL, NULL,
                                   SOCK_CLOEXEC);
    io_uring_sqe_set_data(entry, &loop->accept);
    loop->accept_again = -1;
}

/* Takes a client, or an error value. Pauses when descriptors or memory have
 * run out, or the loop would spin. */
static void take_client(struct loop *loop, const struct io_uring_cqe *cqe)
{
    bool transient = cqe->res >= 0 || is_transient_accept_error(-cqe->res);

    if (cqe->res >= 0)
        start_connection(loop, cqe->res);
    else if (!transient)
        peer_complain("bare-uring: cannot accept", -cqe->res);
    if ((cqe->flags & IORING_CQE_F_MORE) == 0)
        loop->accept_again = loop->now + (transient ? 0 : PAUSE_MS);
}

/* Gives the kernel a piece to receive into. */
static void free_piece(struct loop *loop, unsigned id)
{
    io_uring_buf_ring_add(loop->free_pieces, loop->pieces[id], PIECE_SIZE,
                          (unsigned short)id, io_uring_buf_ring_mask(PIECES),
                          0);
    io_uring_buf_ring_advance(loop->free_pieces, 1);
}

/* Takes what the kernel reports of an operation. */
static void take_completion(struct loop *loop, const struct io_uring_cqe *cqe)
{
    const struct operation *operation = io_uring_cqe_get_data(cqe);
    unsigned id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
    bool has_piece = (cqe->flags & IORING_CQE_F_BUFFER) != 0;

    if (operation == &loop->accept)
        take_client(loop, cqe);
    else if (operation != NULL) /* else a cancel that came too late */
        advance(operation->connection, operation->kind,
                has_piece ? loop->pieces[id] : NULL, cqe->res);
    if (has_piece)
        free_piece(loop, id);
}

/* Cancels what has taken too long; its completion says so. A send may have
 * been done long ago, and then there is nothing to cancel. */
static void sweep(struct loop *loop)
{
    struct ring_connection *c;
    struct io_uring_sqe *entry;

    while ((c = deadlines_overdue(&loop->fetches, loop->now)) != NULL) {
        c->overdue = true;
        entry = next_entry(c);
        io_uring_prep_cancel_fd(entry, c->upstream, IORING_ASYNC_CANCEL_ALL);
        leave_alone(entry);
    }
    while ((c = deadlines_overdue(&loop->replies, loop->now)) != NULL) {
        entry = next_entry(c);
        io_uring_prep_cancel(entry, &c->send, 0);
        leave_alone(entry);
    }
}

/* Waits for completions and takes them. */
static void run_round(struct loop *loop)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    long long until = deadlines_next(&loop->fetches, loop->accept_again);

    ring_wait(&loop->ring, loop->now, deadlines_next(&loop->replies, until));
    loop->now = clock_ms();
    io_uring_for_each_cqe(&loop->ring, head, cqe)
    {
        take_completion(loop, cqe);
        count++;
    }
    io_uring_cq_advance(&loop->ring, count);
    sweep(loop);
    if (loop->accept_again >= 0 && loop->now >= loop->accept_again)
        start_accepting(loop);
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
        rc = -io_uring_register_buf_ring(&loop->ring, &registration, 0);
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
    struct loop loop = {0};
    ring_start(&loop.ring, "bare-uring", argc, argv);
    const struct peer peer = peer_start("bare-uring", argc, argv);
    const struct origin origin = origin_start(&peer);

    loop.origin = &origin;
    deadlines_init(&loop.fetches, PEER_FETCH_MS);
    deadlines_init(&loop.replies, SEND_TIMEOUT_MS);
    int error = set_batch_scheduling();
    if (error != 0)
        peer_complain("bare-uring: cannot set SCHED_BATCH", error);
    error = make_pieces(&loop);
    if (error != 0) {
        peer_complain("bare-uring: cannot start", error);
        return 1;
    }
    loop.now = clock_ms();
    loop.listener = peer_listen(&peer, 0);
    start_accepting(&loop);
    for (;;)
        run_round(&loop);
}
