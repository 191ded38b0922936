/*
 * connections.h - the connections that are open: made, listed, drained
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

#include "lines.h"
#include "listen.h"
#include "reply.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

struct server; /* the caller's; never looked into here */

/* A client. It belongs to its thread, except for the list entry and for
 * reader_end_input. */
struct connection {
    LIST_ENTRY(connection) entry;
    struct server *server;
    int fd;
    struct reader reader;
    struct buffer reply;
    unsigned handle;     /* of the fetcher, used by the last fetch */
    unsigned long lines; /* replied to */
    char peer[ADDRESS_SIZE];
    bool set_peak;
};

/* All clients. The mutex is never held across anything that blocks. */
struct connections {
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t none_left;
    LIST_HEAD(, connection) open;
    long count;
    long peak; /* highest count so far */
    long max;
};

/* Makes a connection, which then owns fd, with a reader of lines of up to
 * max_line bytes. Returns NULL when memory is short; fd is then still the
 * caller's. */
struct connection *connection_create(int fd, size_t max_line,
                                     long line_timeout_ms,
                                     long idle_timeout_ms);

/* Frees a connection but does not close its descriptor. */
void connection_free(struct connection *connection);

/* Prepares an empty list of up to max connections. Returns 0 or an errno
 * value. There is one per process, and nothing to destroy. */
int connections_init(struct connections *all, long max);

/* Returns whether max are open. */
bool connections_full(struct connections *all);

/* Lists a connection. Returns how many are open then. */
long connections_add(struct connections *all, struct connection *connection);

/* Takes a connection off the list. After the last one, drain returns. */
void connections_remove(struct connections *all,
                        struct connection *connection);

/* The same for one whose thread did not start: it does not count for the
 * peak. Only for the thread that adds. */
void connections_undo(struct connections *all, struct connection *connection);

/* Returns the most connections that were open at once. */
long connections_peak(struct connections *all);

/* Ends the input of each connection after what its client has sent by now,
 * and waits timeout_ms at most until all are removed. Returns how many are
 * left. */
long connections_drain(struct connections *all, long timeout_ms);

/* Waits 100 ms at most until the calling thread is the only one: threads that
 * have been removed are still returning, and a TLS library frees there what
 * exit() would take away from under it. Returns false if some are left, such
 * as one that resolves a name. */
bool connections_await_threads(void);

#endif
