/*
 * peer.c - what the C peers have in common, see peer.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* accept4 */
#include "peer.h"
#include "../../lib/listen.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_MS 100 /* when descriptors or memory have run out */

void peer_complain(const char *what, int error)
{
    fprintf(stderr, "%s: %s\n", what, strerror(error));
}

/* Reads argv into the peer. Returns false when the usage is bad, with the
 * mistake reported. */
static bool parse_arguments(struct peer *peer, int argc, char **argv)
{
    static const struct option options[] = {
        {"listen", required_argument, NULL, 'l'},
        {"upstream", required_argument, NULL, 'u'},
        {"no-keepalive", no_argument, NULL, 'n'},
        {NULL, 0, NULL, 0}};
    char host[HOST_SIZE];
    const char *port;

    for (;;) {
        int option = getopt_long(argc, argv, "l:u:", options, NULL);
        if (option == -1)
            break;
        if (option == 'l')
            peer->listen = optarg;
        else if (option == 'u')
            peer->upstream = optarg;
        else if (option == 'n')
            peer->keepalive = false;
        else
            return false; /* getopt_long has reported it */
    }
    if (optind < argc)
        fprintf(stderr, "%s: unexpected argument '%s'\n", peer->name,
                argv[optind]);
    else if (!split_address(peer->listen, host, &port))
        fprintf(stderr, "%s: --listen: '%s' is not HOST:PORT\n", peer->name,
                peer->listen);
    else
        return true;
    return false;
}

struct peer peer_start(const char *name, int argc, char **argv)
{
    struct peer peer = {.name = name,
                        .listen = "127.0.0.1:8080",
                        .upstream = "http://127.0.0.1:8081/arrpi.php",
                        .keepalive = true};
    struct rlimit files;

    if (!parse_arguments(&peer, argc, argv))
        exit(2);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            peer_complain("setrlimit", errno);
    }
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR) /* send reports it */
        peer_complain("signal", errno);
    return peer;
}

int peer_listen(const struct peer *peer, int flags)
{
    char bound[ADDRESS_SIZE];
    const char *error;
    int listener = open_listener(peer->listen, flags, bound, &error);

    if (listener < 0) {
        fprintf(stderr, "%s: cannot listen on %s: %s\n", peer->name,
                peer->listen, error);
        exit(1);
    }
    fprintf(stderr, "%s: listening on %s\n", peer->name, bound);
    return listener;
}

int peer_accept(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            return fd;
        if (is_transient_accept_error(errno))
            continue;
        peer_complain("cannot accept", errno);
        poll(NULL, 0, PAUSE_MS);
    }
}

void peer_reject(int fd, enum reason reason)
{
    char text[ERROR_REPLY_SIZE];
    struct buffer reply = {.data = text, .size = sizeof text};

    reply_finish(&reply, reason, 0);
    if (!peer_send(fd, reply.data, reply.len))
        peer_complain("cannot reject a client", errno);
    close(fd);
}

bool peer_send(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
    }
    return true;
}
