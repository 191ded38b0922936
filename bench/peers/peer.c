/* SPDX-License-Identifier: MIT */
/* peer.c: what the C peers have in common; peer.h says what and why. */
#define _GNU_SOURCE /* accept4 */
#include "peer.h"

#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { BACKLOG = 4096, PAUSE_MS = 100 };

void complain(const char *what, int error)
{
    (void)fprintf(stderr, "%s: %s\n", what, strerror(error));
}

bool split_address(char *address, char **host, char **port)
{
    char *colon = strrchr(address, ':');
    char *bracket = strrchr(address, ']');

    if (colon != NULL && colon > bracket) {
        *colon = '\0';
        *port = colon + 1;
    }
    *host = address;
    if (*address == '[' && bracket != NULL) {
        *bracket = '\0';
        *host = address + 1;
    }
    return **host != '\0' && *port != NULL && **port != '\0';
}

/* A listening socket, or -1 with errno set. */
static int listen_on(const struct addrinfo *where)
{
    static const int on = 1;
    int fd = socket(where->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd == -1)
        return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(fd, where->ai_addr, where->ai_addrlen) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;

    int error = errno;
    (void)close(fd); /* the first error is the one to tell */
    errno = error;
    return -1;
}

int start_listening(const struct peer *peer)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE};
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    struct addrinfo *where;
    char *port = NULL;
    char *host;
    char number[NI_MAXSERV];

    if (!split_address(peer->listen, &host, &port)) {
        (void)fprintf(stderr, "%s: --listen wants HOST:PORT\n", peer->name);
        exit(2);
    }
    int error = getaddrinfo(host, port, &hints, &where);
    if (error != 0) {
        (void)fprintf(stderr, "%s: %s:%s: %s\n", peer->name, host, port,
                      gai_strerror(error));
        exit(1);
    }
    int listener = listen_on(where);
    freeaddrinfo(where);
    if (listener == -1 ||
        getsockname(listener, (struct sockaddr *)&bound, &size) == -1) {
        (void)fprintf(stderr, "%s: %s:%s: %s\n", peer->name, host, port,
                      strerror(errno));
        exit(1);
    }
    if (getnameinfo((struct sockaddr *)&bound, size, NULL, 0, number,
                    sizeof number, NI_NUMERICSERV) == 0)
        port = number;
    (void)fprintf(stderr,
                  strchr(host, ':') == NULL ? "%s: listening on %s:%s\n"
                                            : "%s: listening on [%s]:%s\n",
                  peer->name, host, port);
    return listener;
}

struct peer read_options(const char *name, int argc, char **argv)
{
    static char standard[] = "127.0.0.1:8080";
    static const struct option known[] = {
        {"listen", required_argument, NULL, 'l'},
        {"upstream", required_argument, NULL, 'u'},
        {"no-keepalive", no_argument, NULL, 'n'},
        {NULL, 0, NULL, 0}};
    struct peer peer = {.name = name,
                        .listen = standard,
                        .upstream = "http://127.0.0.1:8081/arrpi.php",
                        .keepalive = true};
    struct rlimit files;

    for (;;) {
        int option = getopt_long(argc, argv, "l:u:", known, NULL);
        if (option == -1)
            break;
        if (option == 'l')
            peer.listen = optarg;
        else if (option == 'u')
            peer.upstream = optarg;
        else if (option == 'n')
            peer.keepalive = false;
        else
            exit(2); /* getopt_long has said why */
    }
    if (optind < argc) {
        (void)fprintf(stderr, "%s: what is %s?\n", name, argv[optind]);
        exit(2);
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) == -1)
            complain("setrlimit", errno);
    }
    return peer;
}

int accept_client(int listener)
{
    static const struct timeval send_limit = {.tv_sec = SEND_SECONDS};
    static const int on = 1;

    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd != -1 &&
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_limit,
                       sizeof send_limit) == 0)
            return fd;
        if (fd != -1) {
            (void)close(fd); /* it was reset before we came to it */
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
                   errno == ENOMEM) {
            complain("accept", errno);
            (void)poll(NULL, 0, PAUSE_MS); /* woken early does no harm */
        }
    }
}

bool send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);

        if (sent == -1 && errno == EINTR)
            continue;
        if (sent == -1)
            return false;
        data += sent;
        len -= (size_t)sent;
    }
    return true;
}

void lines_init(struct lines *in)
{
    in->start = in->end = 0;
    in->skipping = in->at_end = false;
}

size_t lines_room(struct lines *in)
{
    if (in->start > 0) {
        in->end -= in->start;
        memmove(in->data, in->data + in->start, in->end);
        in->start = 0;
    }
    return sizeof in->data - in->end;
}

enum line next_line(struct lines *in, char **line, size_t *len)
{
    for (;;) {
        char *start = in->data + in->start;
        size_t held = in->end - in->start;
        char *lf = memchr(start, '\n', held);
        size_t n = lf == NULL ? held : (size_t)(lf - start);
        bool whole = lf != NULL || (in->at_end && held > 0);
        bool full = held == sizeof in->data;

        if (!whole && !full && !in->skipping)
            return LINE_NONE;
        in->start += lf == NULL ? n : n + 1;
        if (in->skipping) {
            in->skipping = !whole;
            if (!whole)
                return LINE_NONE;
            continue;
        }
        if (lf != NULL && n > 0 && start[n - 1] == '\r')
            n--;
        if (n > MAX_LINE) {
            in->skipping = !whole;
            return LINE_TOO_LONG;
        }
        *line = start;
        *len = n;
        return LINE_READY;
    }
}

enum line read_line(struct lines *in, int fd, char **line, size_t *len)
{
    for (;;) {
        enum line got = next_line(in, line, len);

        if (got != LINE_NONE || in->at_end)
            return got;
        size_t room = lines_room(in);
        ssize_t n = recv(fd, in->data + in->end, room, 0);
        if (n > 0)
            in->end += (size_t)n;
        else if (n == 0 || errno != EINTR)
            in->at_end = true;
    }
}

size_t flatten(char *body, size_t len)
{
    bool in_break = false;
    size_t out = 0;

    while (len > 0 && (body[len - 1] == '\n' || body[len - 1] == '\r'))
        len--;
    for (size_t i = 0; i < len; i++) {
        bool is_break = body[i] == '\n' || body[i] == '\r';

        if (!is_break)
            body[out++] = body[i];
        else if (!in_break)
            body[out++] = ' ';
        in_break = is_break;
    }
    return out;
}
