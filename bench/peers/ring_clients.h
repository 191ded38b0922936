/*
 * ring_clients.h - the clients of a loop round an io_uring
 *
 * Accepts them, reads their lines one at a time and sends the replies. Whoever
 * uses it says what becomes of a line.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef RING_CLIENTS_H
#define RING_CLIENTS_H

#include "../../lib/lines.h"
#include "deadline.h"
#include "peer.h"
#include "ring.h"

#include <stdbool.h>
#include <stddef.h>

/* A client. Either its line is being served, or one chain of operations is
 * under way for it. */
struct ring_client {
    struct ring_clients *all;
    void *owner;          /* the caller's */
    struct buffer *reply; /* the owner's */
    int fd;
    struct lines lines;
    bool ended;  /* it will send no more */
    size_t sent; /* bytes of the reply */
    struct operation send, recv;
    struct deadline deadline;
};

/* All clients of a loop, and what becomes of them. */
struct ring_clients {
    struct ring *ring;
    void *loop; /* the caller's */
    /* Returns a new client with its owner and its reply, the rest zero, or
     * NULL when memory is short. */
    struct ring_client *(*create)(void *loop);
    /* Begins to serve a line, which stays until ring_client_reply. */
    void (*serve)(void *owner, const struct line *line);
    /* Frees what create has made; no line is being served. */
    void (*destroy)(void *owner);

    int listener;
    struct operation accept;
    long long accept_again; /* in ms, or -1 while accepting */
    struct deadlines replies;
};

/* Listens for the peer and starts to accept; what is the caller's is set.
 * Exits with 1 if that fails. */
void ring_clients_start(struct ring_clients *all, const struct peer *peer);

/* Returns the earlier of until and the time when ring_clients_sweep has to be
 * called; -1 if there is none. */
long long ring_clients_next(const struct ring_clients *all, long long until);

/* Ends the replies that have taken too long, and accepts again after a pause.
 * To be called once a round. */
void ring_clients_sweep(struct ring_clients *all);

/* Sends the reply, which is finished, and goes on with the next line. */
void ring_client_reply(struct ring_client *client);

#endif
