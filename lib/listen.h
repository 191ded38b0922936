/*
 * listen.h - HOST:PORT to listening sockets, and addresses back to text
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef LISTEN_H
#define LISTEN_H

#include <stdbool.h>
#include <sys/socket.h>

#define HOST_SIZE 256   /* bytes of a host name with its NUL */
#define ADDRESS_SIZE 80 /* bytes of a numeric address and port, and a NUL */

/* A send to a client fails when it has not taken all within this. */
#define SEND_TIMEOUT_MS 10000

/* Splits HOST:PORT or [HOST]:PORT; an empty HOST is allowed. Returns whether
 * text is that, with a port from 0 to 65535; *port points into it. */
bool split_address(const char *text, char host[HOST_SIZE], const char **port);

/*
 * Listens on HOST:PORT; an empty HOST means every address, IPv6 included
 * where the machine has it. flags may be SOCK_NONBLOCK. Writes the address
 * that was bound, with its port, to bound. Returns the listener, or -1 and
 * then *error says why, until the next call of strerror.
 *
 * What is accepted from it inherits TCP_NODELAY, SO_KEEPALIVE, SO_OOBINLINE
 * and a send timeout of SEND_TIMEOUT_MS.
 */
int open_listener(const char *listen_on, int flags, char bound[ADDRESS_SIZE],
                  const char **error);

/* Returns whether an errno value of accept concerns one client or none, or is
 * 0; any other would come again at once. */
bool is_transient_accept_error(int error);

/* Writes an address as HOST:PORT, or [HOST]:PORT, all numeric. */
void describe_address(const struct sockaddr *address, socklen_t len,
                      char text[ADDRESS_SIZE]);

/* Writes the address of a socket's other end, as above. */
void describe_peer(int fd, char text[ADDRESS_SIZE]);

#endif
