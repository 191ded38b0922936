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
#include "../../lib/clock.h"
#include "peer.h"
#include "ring.h"
#include "ring_clients.h"
#include "transfer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

/* A client and its fetches. */
struct ring_connection {
    struct ring_client client;
    struct transfer transfer;
};

/* A socket of libcurl's. */
struct watch {
    struct loop *loop;
    struct operation poll;
    int fd;
    int what;     /* libcurl waits for */
    bool polled;  /* else on_poll is telling libcurl */
    bool removed; /* on_poll is to free it */
};

/* One process is one loop. */
struct loop {
    struct ring ring;
    struct ring_clients clients;
    struct transfers transfers;
    long long timer; /* libcurl's, in ms, or -1 */
};

static void on_poll(void *owner, int events, unsigned flags);

/* Has the kernel report, once, that libcurl can use its socket. */
static void start_poll(struct watch *watch)
{
    struct io_uring_sqe *entry = ring_next(&watch->loop->ring);
    unsigned events = ((watch->what & CURL_POLL_IN) != 0 ? POLLIN : 0) |
                      ((watch->what & CURL_POLL_OUT) != 0 ? POLLOUT : 0);

    io_uring_prep_poll_add(entry, watch->fd, events);
    ring_tell(entry, &watch->poll);
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
            ring_cancel(&loop->ring, &watch->poll);
        return 0; /* on_poll goes on with it */
    }
    if (what == CURL_POLL_REMOVE)
        return 0;
    watch = calloc(1, sizeof *watch);
    if (watch == NULL)
        return -1;
    *watch = (struct watch){
        .loop = loop, .poll = {on_poll, watch}, .fd = fd, .what = what};
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
        loop->timer = ms == 0 ? loop->ring.now : -1; /* run_timer comes next */
    else
        loop->timer = clock_ms() + ms;
    return 0;
}

/* Sends the reply to a fetch that has ended, or did not start. */
static void end_fetch(struct transfer *transfer, enum reason reason)
{
    struct ring_connection *c = transfer->owner;

    transfer_finish(transfer, reason);
    ring_client_reply(&c->client);
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
        end_fetch(transfer, reason);
}

/* A poll has reported events, or that it was cancelled. */
static void on_poll(void *owner, int events, unsigned flags)
{
    struct watch *watch = owner;

    (void)flags;
    watch->polled = false;
    if (!watch->removed && events != -ECANCELED) {
        int what = events < 0 ? CURL_CSELECT_ERR : 0;
        if (events > 0 && (events & (POLLIN | POLLHUP | POLLERR)) != 0)
            what |= CURL_CSELECT_IN;
        if (events > 0 && (events & (POLLOUT | POLLERR)) != 0)
            what |= CURL_CSELECT_OUT;
        run_fetches(watch->loop, watch->fd, what);
    }
    if (watch->removed)
        free(watch);
    else
        start_poll(watch);
}

/* For ring_clients.h: makes a connection. */
static struct ring_client *create_connection(void *arg)
{
    struct loop *loop = arg;
    struct ring_connection *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->client = (struct ring_client){.owner = c, .reply = &c->transfer.reply};
    if (transfer_init(&c->transfer, &loop->transfers, c))
        return &c->client;
    free(c);
    return NULL;
}

/* For ring_clients.h: starts a fetch, which end_fetch ends. */
static void serve_line(void *owner, const struct line *line)
{
    struct ring_connection *c = owner;
    enum reason reason = transfer_start(&c->transfer, line);

    if (reason != REASON_NONE)
        end_fetch(&c->transfer, reason);
}

/* For ring_clients.h: frees a connection. */
static void destroy_connection(void *owner)
{
    struct ring_connection *c = owner;

    transfer_free(&c->transfer);
    free(c);
}

/* Calls libcurl if its time has come. It may ask to be called again at once;
 * that has to wait for the next round. */
static void run_timer(struct loop *loop)
{
    if (loop->timer < 0 || loop->timer > loop->ring.now)
        return;
    loop->timer = -1;
    run_fetches(loop, CURL_SOCKET_TIMEOUT, 0);
}

int main(int argc, char **argv)
{
    struct loop loop = {.timer = -1,
                        .clients = {.ring = &loop.ring,
                                    .loop = &loop,
                                    .create = create_connection,
                                    .serve = serve_line,
                                    .destroy = destroy_connection}};
    ring_start(&loop.ring, "uring", argc, argv);
    const struct peer peer = peer_start("uring", argc, argv);

    transfers_start(&loop.transfers, &peer, watch_socket, set_timer, &loop);
    ring_clients_start(&loop.clients, &peer);
    for (;;) {
        ring_round(&loop.ring, ring_clients_next(&loop.clients, loop.timer));
        run_timer(&loop);
        ring_clients_sweep(&loop.clients);
    }
}
