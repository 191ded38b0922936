/*
 * bare.c - a thread per connection, on sockets alone
 *
 * The model of server.c without libcurl: what the model itself costs.
 *     build/peers/bare --listen HOST:PORT --upstream URL [--no-keepalive]
 *
 * Keep in your head: a thread has one client and one upstream connection, so
 * all of this reads from top to bottom. What you save in libcurl you owe in
 * RFC 9112.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../lib/lines.h"
#include "../../lib/schedule.h"
#include "fetch_line.h"
#include "peer.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define STACK_SIZE (128 * 1024)

/* A client and its thread's connection to the upstream. */
struct bare_connection {
    int client;
    struct reader reader;
    struct line_fetcher fetcher;
};

/* Reads a line, fetches, writes the reply, until the client has no more. */
static void serve_connection(struct bare_connection *c)
{
    struct exchange *exchange = &c->fetcher.exchange;
    struct line line;

    while (read_line(&c->reader, &line)) {
        enum reason reason = line.reason;

        if (reason == REASON_NONE)
            reason = fetch_line(&c->fetcher, &line);
        exchange_finish(exchange, reason);
        if (!peer_send(c->client, exchange->reply.data, exchange->reply.len))
            return;
        reply_shrink(&exchange->reply);
    }
}

/* Frees a connection but does not close its client's descriptor. */
static void free_connection(struct bare_connection *c)
{
    line_fetcher_free(&c->fetcher);
    reader_free(&c->reader);
    free(c);
}

/* The thread of one connection. It is detached: nobody waits for it. */
static void *connection_thread(void *arg)
{
    struct bare_connection *c = arg;
    int client = c->client;

    serve_connection(c);
    free_connection(c);
    close(client);
    return NULL;
}

/* Starts a detached thread for the client, or rejects it. */
static void start_connection(int client, const struct origin *origin,
                             const pthread_attr_t *attr)
{
    struct bare_connection *c = calloc(1, sizeof *c);
    pthread_t thread;

    if (c == NULL) {
        peer_reject(client, REASON_NO_MEMORY);
        return;
    }
    c->client = client;
    bool ok = line_fetcher_init(&c->fetcher, origin) &&
              reader_init(&c->reader, client, PEER_MAX_LINE, 0, 0);
    if (ok && pthread_create(&thread, attr, connection_thread, c) == 0)
        return;
    free_connection(c);
    peer_reject(client, ok ? REASON_NO_THREAD : REASON_NO_MEMORY);
}

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("bare", argc, argv);
    const struct origin origin = origin_start(&peer);
    pthread_attr_t attr;

    int error = set_batch_scheduling();
    if (error != 0)
        peer_complain("bare: cannot set SCHED_BATCH", error);
    error = pthread_attr_init(&attr);
    if (error == 0)
        error = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (error == 0)
        error = pthread_attr_setstacksize(&attr, STACK_SIZE);
    if (error != 0) {
        peer_complain("bare: cannot start", error);
        return 1;
    }
    int listener = peer_listen(&peer, 0);
    for (;;)
        start_connection(peer_accept(listener), &origin, &attr);
}
