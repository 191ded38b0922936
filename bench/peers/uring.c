/*
 * uring.c - an io_uring loop, with libcurl's multi interface in it
 *
 * events.c with the ring in libevent's place. The client's bytes go through
 * the ring; libcurl does its own sending and receiving, so for the upstream
 * the ring only says when:
 *     build/peers/uring --listen HOST:PORT --upstream URL [--no-keepalive]
 *
 * Keep in your head: whose buffer the kernel has now, and that a poll which
 * you have cancelled is yours until it has said so.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SOCK_CLOEXEC */
#include "../../lib/clock.h"
#include "../../lib/lines.h"
#include "../../lib/listen.h"
#include "deadline.h"
#include "peer.h"
#include "ring.h"
#include "transfer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define SMALL_REPLY 4096 /* bytes that an idle client may keep */
#define PAUSE_MS 100     /* when descriptors or memory have run out */

/* What a completion is of. */
struct operation {
    void *owner; /* a connection or a watch; NULL: accepting */
    enum kind { ACCEPT, SEND, RECV, POLL } kind;
};

/* A client, and how far it has got. While READING or REPLYING one chain of
 * operations is under way for it; the kernel reports the last of them, or the
 * first that failed. */
struct ring_connection {
    struct loop *loop;
    struct operation send, recv;
    enum { READING, FETCHING, REPLYING } state;
    int fd;
    struct lines lines;
    bool ended; /* the client will send no more */
    struct transfer transfer;
    size_t sent; /* bytes of the reply */
    struct deadline deadline;
};

/* A socket of libcurl's. */
struct watch {
    struct loop *loop;
    struct operation poll;
    int fd;
    int what;     /* libcurl waits for */
    bool polled;  /* a poll is under way */
    bool running; /* libcurl is being told */
    bool removed; /* and to be freed when neither is so */
};

/* One process is one loop. */
struct loop {
    struct io_uring ring;
    struct transfers transfers;
    int listener;
    struct operation accept;
    long long now;          /* in ms, since the completions were taken */
    long long accept_again; /* in ms, or -1 while accepting */
    long long timer;        /* libcurl's, in ms, or -1 */
    struct deadlines replies;
};

/* Has the kernel do what no completion is awaited of. */
static void leave_alone(struct io_uring_sqe *entry)
{
    io_uring_sqe_set_flags(entry, IOSQE_CQE_SKIP_SUCCESS);
    io_uring_sqe_set_data(entry, NULL);
}

/* Cancels an operation; its completion says so, or that it is done. */
static void cancel(struct loop *loop, struct operation *operation)
{
    struct io_uring_sqe *entry = ring_next(&loop->ring);

    io_uring_prep_cancel(entry, operation, 0);
    leave_alone(entry);
}

/* Closes and frees a connection that nothing is under way for. */
static void close_connection(struct ring_connection *c)
{
    struct io_uring_sqe *entry = ring_next(&c->loop->ring);

    io_uring_prep_close(entry, c->fd);
    leave_alone(entry);
    deadline_clear(&c->deadline);
    transfer_free(&c->transfer);
    lines_free(&c->lines);
    free(c);
}

/* Receives from the client. Returns false when memory is short. */
static bool prepare_read(struct ring_connection *c)
{
    size_t room;
    char *data = lines_room(&c->lines, &room);

    if (data == NULL)
        return false;
    struct io_uring_sqe *entry = ring_next(&c->loop->ring);
    io_uring_prep_recv(entry, c->fd, data, room, 0);
    entry->ioprio = IORING_RECVSEND_POLL_FIRST;
    io_uring_sqe_set_data(entry, &c->recv);
    return true;
}

/* Sends what is left of the reply and then, in the same chain, receives, if
 * nothing is to be done between the two. */
static void send_reply(struct ring_connection *c)
{
    const struct buffer *data = &c->transfer.reply;
    bool idle = !c->ended && c->lines.start == c->lines.end &&
                data->len <= SMALL_REPLY;

    ring_reserve(&c->loop->ring, 2);
    struct io_uring_sqe *entry = ring_next(&c->loop->ring);
    io_uring_prep_send(entry, c->fd, data->data + c->sent, data->len - c->sent,
                       MSG_NOSIGNAL | MSG_WAITALL);
    io_uring_sqe_set_data(entry, &c->send);
    c->state = REPLYING;
    deadline_set(&c->deadline, &c->loop->replies, c->loop->now);
    if (idle && prepare_read(c))
        io_uring_sqe_set_flags(entry, IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
}

/* Makes the reply and sends it. */
static void reply(struct ring_connection *c, enum reason reason)
{
    transfer_finish(&c->transfer, reason);
    c->sent = 0;
    send_reply(c);
}

/* Goes on with the next line, or receives more. */
static void next_line(struct ring_connection *c)
{
    struct line line;

    if (lines_next(&c->lines, &line) ||
        (c->ended && lines_last(&c->lines, REASON_NONE, &line))) {
        enum reason reason = line.reason;
        c->state = FETCHING;
        if (reason == REASON_NONE)
            reason = transfer_start(&c->transfer, &line);
        if (reason != REASON_NONE)
            reply(c, reason);
    } else if (!c->ended && prepare_read(c)) {
        c->state = READING;
    } else if (!c->ended && lines_last(&c->lines, REASON_NO_MEMORY, &line)) {
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

/* Goes on when a part of the reply was sent: n bytes, or an error. */
static void take_sent(struct ring_connection *c, int n)
{
    deadline_clear(&c->deadline);
    if (n <= 0) {
        close_connection(c);
        return;
    }
    c->sent += (size_t)n;
    if (c->sent < c->transfer.reply.len) {
        send_reply(c); /* it took too long, but the client takes some */
        return;
    }
    reply_shrink(&c->transfer.reply);
    next_line(c);
}

/* Goes on when input has come, perhaps after the reply was sent. */
static void take_received(struct ring_connection *c, int n)
{
    deadline_clear(&c->deadline);
    take_input(c, n);
}

/* Has the kernel report, once, that libcurl can use its socket. */
static void start_poll(struct watch *watch)
{
    struct io_uring_sqe *entry = ring_next(&watch->loop->ring);
    unsigned events = ((watch->what & CURL_POLL_IN) != 0 ? POLLIN : 0) |
                      ((watch->what & CURL_POLL_OUT) != 0 ? POLLOUT : 0);

    io_uring_prep_poll_add(entry, watch->fd, events);
    io_uring_sqe_set_data(entry, &watch->poll);
    watch->polled = true;
}

/* libcurl's callback: asks for what comes from this socket. */
static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
                        void *known)
{
    struct loop *loop = arg;
    struct watch *watch = known;

    (void)easy;
    if (watch != NULL) {
        watch->what = what;
        watch->removed = what == CURL_POLL_REMOVE;
        if (watch->polled)
            cancel(loop, &watch->poll);
        return 0; /* take_poll goes on with it */
    }
    if (what == CURL_POLL_REMOVE)
        return 0;
    watch = calloc(1, sizeof *watch);
    if (watch == NULL)
        return -1;
    *watch = (struct watch){
        .loop = loop, .poll = {watch, POLL}, .fd = fd, .what = what};
    if (curl_multi_assign(loop->transfers.multi, fd, watch) != CURLM_OK) {
        free(watch);
        return -1;
    }
    start_poll(watch);
    return 0;
}

/* libcurl's callback: asks to be called after ms, or not if -1. */
static int set_timer(CURLM *multi, long ms, void *arg)
{
    struct loop *loop = arg;

    (void)multi;
    if (ms <= 0)
        loop->timer = ms == 0 ? loop->now : -1; /* run_timer comes next */
    else
        loop->timer = clock_ms() + ms;
    return 0;
}

/* Lets libcurl do what it can do now, and goes on where a fetch has ended. */
static void run_fetches(struct loop *loop, curl_socket_t fd, int what)
{
    struct transfer *transfer;
    enum reason reason;
    int count;

    if (curl_multi_socket_action(loop->transfers.multi, fd, what, &count) !=
        CURLM_OK)
        fprintf(stderr, "uring: libcurl cannot go on\n");
    while ((transfer = transfers_ended(&loop->transfers, &reason)) != NULL)
        reply(transfer->owner, reason);
}

/* Takes what a poll has reported: events, or that it was cancelled. */
static void take_poll(struct watch *watch, int events)
{
    watch->polled = false;
    if (!watch->removed && events != -ECANCELED) {
        int what = events < 0 ? CURL_CSELECT_ERR : 0;
        if (events > 0 && (events & (POLLIN | POLLHUP | POLLERR)) != 0)
            what |= CURL_CSELECT_IN;
        if (events > 0 && (events & (POLLOUT | POLLERR)) != 0)
            what |= CURL_CSELECT_OUT;
        watch->running = true;
        run_fetches(watch->loop, watch->fd, what);
        watch->running = false;
    }
    if (watch->removed)
        free(watch);
    else
        start_poll(watch);
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
    c->send = (struct operation){c, SEND};
    c->recv = (struct operation){c, RECV};
    c->fd = fd;
    c->deadline.owner = c;
    if (transfer_init(&c->transfer, &loop->transfers, c) &&
        lines_init(&c->lines, PEER_MAX_LINE)) {
        next_line(c);
        return;
    }
    transfer_free(&c->transfer);
    lines_free(&c->lines);
    free(c);
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
        peer_complain("uring: cannot accept", -cqe->res);
    if ((cqe->flags & IORING_CQE_F_MORE) == 0)
        loop->accept_again = loop->now + (transient ? 0 : PAUSE_MS);
}

/* Takes what the kernel reports of an operation. */
static void take_completion(struct loop *loop, const struct io_uring_cqe *cqe)
{
    const struct operation *operation = io_uring_cqe_get_data(cqe);

    if (operation == NULL)
        return; /* a cancel that came too late */
    switch (operation->kind) {
    case ACCEPT:
        take_client(loop, cqe);
        break;
    case SEND:
        take_sent(operation->owner, cqe->res);
        break;
    case RECV:
        take_received(operation->owner, cqe->res);
        break;
    case POLL:
        take_poll(operation->owner, cqe->res);
        break;
    }
}

/* Calls libcurl if its time has come. It may ask to be called again at once;
 * that has to wait for the next round. */
static void run_timer(struct loop *loop)
{
    if (loop->timer < 0 || loop->timer > loop->now)
        return;
    loop->timer = -1;
    run_fetches(loop, CURL_SOCKET_TIMEOUT, 0);
}

/* Waits for completions and takes them. */
static void run_round(struct loop *loop)
{
    struct ring_connection *c;
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    long long until = deadlines_next(&loop->replies, loop->accept_again);

    if (loop->timer >= 0 && (until < 0 || loop->timer < until))
        until = loop->timer;
    ring_wait(&loop->ring, loop->now, until);
    loop->now = clock_ms();
    io_uring_for_each_cqe(&loop->ring, head, cqe)
    {
        take_completion(loop, cqe);
        count++;
    }
    io_uring_cq_advance(&loop->ring, count);
    run_timer(loop);
    /* A send may have been done long ago: then there is none to cancel. */
    while ((c = deadlines_overdue(&loop->replies, loop->now)) != NULL)
        cancel(loop, &c->send);
    if (loop->accept_again >= 0 && loop->now >= loop->accept_again)
        start_accepting(loop);
}

int main(int argc, char **argv)
{
    struct loop loop = {.accept = {NULL, ACCEPT}, .timer = -1};
    ring_start(&loop.ring, "uring", argc, argv);
    const struct peer peer = peer_start("uring", argc, argv);

    transfers_start(&loop.transfers, &peer, watch_socket, set_timer, &loop);
    deadlines_init(&loop.replies, SEND_TIMEOUT_MS);
    loop.now = clock_ms();
    loop.listener = peer_listen(&peer, 0);
    start_accepting(&loop);
    for (;;)
        run_round(&loop);
}
