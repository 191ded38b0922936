/*
 * tcp_pair.h - two ends of a TCP connection over loopback
 *
 * Unlike a socketpair it goes on receiving after shutdown(SHUT_RD), and can be
 * reset. Whatever goes wrong in here fails the test that runs.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef TCP_PAIR_H
#define TCP_PAIR_H

#include <stddef.h>

/* What a test calls the two ends: the one under test, and its client. */
struct tcp_pair {
    int fd;
    int client;
};

struct tcp_pair tcp_pair_open(void);

/* Closes both ends, or those that are still open. */
void tcp_pair_close(struct tcp_pair *pair);

/* The client sends bytes; returns once they have arrived. Nobody may be
 * reading them meanwhile. */
void tcp_pair_send(const struct tcp_pair *pair, const void *data, size_t len);

/* The client sends no more, but can still receive; or it is gone, and resets
 * the connection. Each returns once that has arrived. */
void tcp_pair_finish(const struct tcp_pair *pair);
void tcp_pair_reset(struct tcp_pair *pair);

#endif
