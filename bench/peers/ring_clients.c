/*
 * ring_clients.c - the clients of a loop round an io_uring, see ring_clients.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SOCK_CLOEXEC */
#include "ring_clients.h"
#include "../../lib/listen.h"

#include <errno.h>
#include <sys/socket.h>

#define SMALL_REPLY 4096 /* bytes that an idle client may keep */
#define PAUSE_MS 100     /* when descriptors or memory have run out */

/* Closes and frees a client that no operation is under way for. */
static void close_client(struct ring_client *client)
{
    ring_close(client->all->ring, client->fd);
    deadline_clear(&client->deadline);
    lines_free(&client->lines);
    client->all->destroy(client->owner);
}

/* Receives more. Returns false when memory is short. */
static bool receive(struct ring_client *client)
{
    size_t room;
    char *data = lines_room(&client->lines, &room);

    if (data == NULL)
        return false;
    struct io_uring_sqe *entry = ring_next(client->all->ring);
    io_uring_prep_recv(entry, client->fd, data, room, 0);
    entry->ioprio = IORING_RECVSEND_POLL_FIRST;
    ring_tell(entry, &client->recv);
    return true;
}

/* Sends what is left of the reply, and then receives in the same chain, if
 * nothing is to be done between the two. */
static void send_rest(struct ring_client *client)
{
    const struct buffer *reply = client->reply;
    struct ring *ring = client->all->ring;
    bool idle = !client->ended && client->lines.start == client->lines.end &&
                reply->len <= SMALL_REPLY;

    ring_reserve(ring, 2);
    struct io_uring_sqe *entry = ring_next(ring);
    io_uring_prep_send(entry, client->fd, reply->data + client->sent,
                       reply->len - client->sent, MSG_NOSIGNAL | MSG_WAITALL);
    deadline_set(&client->deadline, &client->all->replies, ring->now);
    if (idle && receive(client))
        ring_tell_failure(entry, &client->send);
    else
        ring_tell(entry, &client->send);
}

void ring_client_reply(struct ring_client *client)
{
    client->sent = 0;
    send_rest(client);
}

/* Replies to a line that cannot be served. */
static void refuse(struct ring_client *client, enum reason reason)
{
    reply_finish(client->reply, reason, 0);
    ring_client_reply(client);
}

/* Goes on with the next line, or receives more. */
static void next_line(struct ring_client *client)
{
    struct lines *lines = &client->lines;
    struct line line;

    if (lines_next(lines, &line) ||
        (client->ended && lines_last(lines, REASON_NONE, &line))) {
        if (line.reason == REASON_NONE)
            client->all->serve(client->owner, &line);
        else
            refuse(client, line.reason);
    } else if (client->ended) {
        close_client(client);
    } else if (!receive(client)) {
        if (lines_last(lines, REASON_NO_MEMORY, &line))
            refuse(client, line.reason);
        else
            close_client(client);
    }
}

/* A part of the reply was sent, result bytes of it, or an error. It is a part
 * where the client has taken some, but not all in time. */
static void on_sent(void *owner, int result, unsigned flags)
{
    struct ring_client *client = owner;

    (void)flags;
    deadline_clear(&client->deadline);
    if (result <= 0) {
        close_client(client);
        return;
    }
    client->sent += (size_t)result;
    if (client->sent < client->reply->len) {
        send_rest(client);
        return;
    }
    reply_shrink(client->reply);
    next_line(client);
}

/* The reply was sent, if there was one, and then result bytes have come, or
 * the client's end if 0, or an error. */
static void on_received(void *owner, int result, unsigned flags)
{
    struct ring_client *client = owner;

    (void)flags;
    deadline_clear(&client->deadline);
    if (result < 0) {
        close_client(client);
        return;
    }
    client->ended = result == 0;
    lines_add(&client->lines, (size_t)result);
    next_line(client);
}

/* Takes over a client, or rejects it. */
static void start_client(struct ring_clients *all, int fd)
{
    struct ring_client *client = all->create(all->loop);

    if (client == NULL) {
        peer_reject(fd, REASON_NO_MEMORY);
        return;
    }
    client->all = all;
    client->fd = fd;
    client->send = (struct operation){on_sent, client};
    client->recv = (struct operation){on_received, client};
    client->deadline.owner = client;
    if (lines_init(&client->lines, PEER_MAX_LINE)) {
        next_line(client);
        return;
    }
    all->destroy(client->owner);
    peer_reject(fd, REASON_NO_MEMORY);
}

/* Accepts clients until further notice. */
static void start_accepting(struct ring_clients *all)
{
    struct io_uring_sqe *entry = ring_next(all->ring);

    io_uring_prep_multishot_accept(entry, all->listener, NULL, NULL,
                                   SOCK_CLOEXEC);
    ring_tell(entry, &all->accept);
    all->accept_again = -1;
}

/* A client has come, or there is an error. Pauses when descriptors or memory
 * have run out, or the loop would spin. */
static void on_accepted(void *owner, int result, unsigned flags)
{
    struct ring_clients *all = owner;
    bool transient = result >= 0 || is_transient_accept_error(-result);

    if (result >= 0)
        start_client(all, result);
    else if (!transient)
        peer_complain("cannot accept", -result);
    if ((flags & IORING_CQE_F_MORE) == 0)
        all->accept_again = all->ring->now + (transient ? 0 : PAUSE_MS);
}

void ring_clients_start(struct ring_clients *all, const struct peer *peer)
{
    all->accept = (struct operation){on_accepted, all};
    deadlines_init(&all->replies, SEND_TIMEOUT_MS);
    all->listener = peer_listen(peer, 0);
    start_accepting(all);
}

long long ring_clients_next(const struct ring_clients *all, long long until)
{
    if (all->accept_again >= 0 && (until < 0 || all->accept_again < until))
        until = all->accept_again;
    return deadlines_next(&all->replies, until);
}

void ring_clients_sweep(struct ring_clients *all)
{
    struct ring_client *client;

    /* The reply may have been sent long ago: then there is no such send. */
    while ((client = deadlines_overdue(&all->replies, all->ring->now)) != NULL)
        ring_cancel(all->ring, &client->send);
    if (all->accept_again >= 0 && all->ring->now >= all->accept_again)
        start_accepting(all);
}
