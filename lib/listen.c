/*
 * listen.c - HOST:PORT to listening sockets, see listen.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SOCK_CLOEXEC */
#include "listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define BACKLOG 4096 /* connections that wait to be accepted */

bool split_address(const char *text, char host[HOST_SIZE], const char **port)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL)
        return false;
    size_t digits = strspn(colon + 1, "0123456789");
    if (digits == 0 || digits > 5 || colon[1 + digits] != '\0' ||
        strtol(colon + 1, NULL, 10) > 65535)
        return false;
    *port = colon + 1;

    size_t len = (size_t)(colon - text);
    if (len > 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    } else if (strcspn(text, ":[]") < len) {
        return false;
    }
    if (len >= HOST_SIZE)
        return false;
    memcpy(host, text, len);
    host[len] = '\0';
    return true;
}

void describe_address(const struct sockaddr *address, socklen_t len,
                      char text[ADDRESS_SIZE])
{
    char host[ADDRESS_SIZE - 16], port[8];
    const char *format = address->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s";

    if (getnameinfo(address, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(text, ADDRESS_SIZE, "unknown address");
    else
        snprintf(text, ADDRESS_SIZE, format, host, port);
}

void describe_peer(int fd, char text[ADDRESS_SIZE])
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof address;

    if (getpeername(fd, (struct sockaddr *)&address, &len) != 0)
        len = 0; /* gone already: described as unknown */
    describe_address((struct sockaddr *)&address, len, text);
}

/* Sets what the listener and each socket accepted from it have. On Linux the
 * options are inherited, so they hold before the first byte comes. */
static bool set_options(int fd)
{
    const int on = 1;
    const struct timeval timeout = {.tv_sec = SEND_TIMEOUT_MS / 1000};

    /* REUSEADDR lets a server start again at once. REUSEPORT, which would let
     * two of them share the port and every measurement, is not set. A reply is
     * one send: there is nothing to wait for and join it with. Keepalive finds
     * clients that vanished while no line is awaited. Urgent bytes are data.
     */
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
           setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) ==
               0;
}

/* Listens on one address. Returns the listener, or -1 with errno set. */
static int listen_on_address(const struct addrinfo *address, int flags)
{
    const int off = 0; /* let an IPv6 listener take IPv4 clients as well */
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        return -1;
    if (set_options(fd) &&
        (address->ai_family != AF_INET6 ||
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0) &&
        bind(fd, address->ai_addr, address->ai_addrlen) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Listens on the first address of HOST that this machine has. Returns the
 * listener, or -1 with errno set, 0 if HOST has no address, and then *error
 * says why. */
static int listen_on_host(const char *host, const char *port, int flags,
                          const char **error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found;
    int fd = -1;

    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc != 0) {
        *error = gai_strerror(rc);
        errno = 0;
        return -1;
    }
    errno = EADDRNOTAVAIL;
    for (const struct addrinfo *each = found;
         each != NULL && fd < 0 &&
         (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT);
         each = each->ai_next)
        fd = listen_on_address(each, flags);
    int why = errno; /* open_listener asks for it */
    *error = strerror(why);
    freeaddrinfo(found);
    errno = why;
    return fd;
}

int open_listener(const char *listen_on, int flags, char bound[ADDRESS_SIZE],
                  const char **error)
{
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof address;
    char host[HOST_SIZE];
    const char *port;
    int fd = -1;

    if (!split_address(listen_on, host, &port)) {
        *error = "not HOST:PORT";
        return -1;
    }
    if (host[0] != '\0') {
        fd = listen_on_host(host, port, flags, error);
    } else {
        fd = listen_on_host("::", port, flags, error);
        if (fd < 0 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL))
            fd = listen_on_host("0.0.0.0", port, flags, error);
    }
    if (fd < 0)
        return -1;
    if (getsockname(fd, (struct sockaddr *)&address, &len) == 0) {
        describe_address((struct sockaddr *)&address, len, bound);
        return fd;
    }
    *error = strerror(errno);
    close(fd);
    return -1;
}

bool is_transient_accept_error(int error)
{
    return error == 0 || error == EAGAIN || error == EINTR ||
           error == ECONNABORTED || error == EPROTO || error == EPERM ||
           error == ENETDOWN || error == ENETUNREACH || error == EHOSTDOWN ||
           error == EHOSTUNREACH || error == ENOPROTOOPT || error == ENONET ||
           error == EOPNOTSUPP;
}
