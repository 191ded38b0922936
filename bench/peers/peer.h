/*
 * peer.h - what the C peers have in common and lib does not have
 *
 * Their command line, accepting and rejecting. With that and lib out of the
 * way, the file of each peer shows its model and nothing else.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef PEER_H
#define PEER_H

#include "../../lib/reply.h"

#include <stdbool.h>
#include <stddef.h>

/* threadecho's own limits, where nothing else is said. */
#define PEER_MAX_LINE 65536         /* bytes */
#define PEER_MAX_BODY (1024 * 1024) /* bytes of a response's body */
#define PEER_FETCH_MS 10000         /* total time per fetch */

/* What the command line asks for. The strings are those of argv, or static. */
struct peer {
    const char *name;
    const char *listen;   /* HOST:PORT */
    const char *upstream; /* URL */
    bool keepalive;       /* reuse upstream connections */
};

/* Reads the command line of the peer with this name. Raises the descriptor
 * limit to its hard limit and ignores SIGPIPE. Exits with 2 on bad usage. */
struct peer peer_start(const char *name, int argc, char **argv);

/* Listens, with the flags of open_listener, and reports where. Returns the
 * listener; exits with 1 if that fails. */
int peer_listen(const struct peer *peer, int flags);

/* Returns the next client, whose sends time out after SEND_TIMEOUT_MS. Blocks;
 * pauses 100 ms when descriptors or memory are short. */
int peer_accept(int listener);

/* Sends "error: REASON" and closes fd. */
void peer_reject(int fd, enum reason reason);

/* Sends all of it. Returns false, with errno set, when the other end is gone,
 * or has taken nothing for as long as the socket's send timeout. */
bool peer_send(int fd, const char *data, size_t len);

/* Writes to stderr what failed, and why (an errno value). */
void peer_complain(const char *what, int error);

#endif
