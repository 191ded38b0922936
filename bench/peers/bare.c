/* SPDX-License-Identifier: MIT */
/*
 * bare.c: a thread per connection, as in server.c, but on sockets alone: no
 * libcurl, the few lines of HTTP/1.1 that this needs are here. The limit:
 * what the model costs when the HTTP client costs next to nothing.
 * Run: build/peers/bare --listen HOST:PORT --upstream URL [--no-keepalive]
 * Keep in your head: one thread, one client, one upstream connection, so all
 * of this reads top to bottom; what you save in libcurl you owe in RFC 9112.
 */
#define _GNU_SOURCE /* memmem, strcasestr */
#include "peer.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_HEAD = 65536, /* bytes of a response's status line and header */
    STACK_SIZE = 128 * 1024,
    REASON_SIZE = 64
};

/* The one upstream, taken apart at the start; read by all threads. */
struct upstream {
    char authority[256]; /* HOST:PORT, as the URL has it */
    char target[2048];   /* PATH?text= */
    struct addrinfo *address;
    bool keepalive;
};

/* A thread's connection to it. Request and response share the buffer. */
struct exchange {
    const struct upstream *upstream;
    int fd;      /* -1: none */
    bool reuse;  /* for one more fetch: the response allows it */
    bool at_end; /* the upstream has closed it in good order */
    time_t deadline;
    char *data;
    size_t len;
    size_t size;
    char reason[REASON_SIZE];
};

struct connection {
    int fd;
    const struct upstream *upstream;
};

static const char closed_early[] = "upstream closed early";
static const char timed_out[] = "upstream timed out";
static const char bad_http[] = "upstream sent bad HTTP";
static const char too_large[] = "upstream body too large";
static const char refused[] = "upstream refused";
static const char no_memory[] = "out of memory";

/* The seconds of a clock that nobody sets; a fetch's deadline needs no more.
 */
static time_t now(void)
{
    struct timespec time;

    return clock_gettime(CLOCK_MONOTONIC, &time) == 0 ? time.tv_sec : 0;
}

static void hang_up(struct exchange *x)
{
    if (x->fd != -1)
        (void)close(x->fd); /* nothing of ours is still to be sent */
    x->fd = -1;
}

/* Makes room for more bytes behind the ones there are. */
static bool reserve(struct exchange *x, size_t more)
{
    if (x->data != NULL && x->size - x->len >= more)
        return true;
    size_t size = x->size * 2 > x->len + more ? x->size * 2 : x->len + more;
    char *data = realloc(x->data, size);
    if (data == NULL)
        return false;
    x->data = data;
    x->size = size;
    return true;
}

/* Each wait on this connection is bounded, that for connect() included. */
static const char *dial(struct exchange *x)
{
    static const struct timeval limit = {.tv_sec = FETCH_SECONDS};
    static const int on = 1;
    const struct addrinfo *to = x->upstream->address;

    x->fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (x->fd == -1)
        return "upstream failed";
    if (setsockopt(x->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) ||
        setsockopt(x->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) ||
        setsockopt(x->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
        return "upstream failed";
    if (connect(x->fd, to->ai_addr, to->ai_addrlen) == 0)
        return NULL;
    return errno == EINPROGRESS ? timed_out : refused;
}

/* Writes the request for a line into the buffer: an unreserved byte as is. */
static const char *write_request(struct exchange *x, const char *line,
                                 size_t len)
{
    static const char hex[] = "0123456789ABCDEF";
    const struct upstream *up = x->upstream;

    x->len = 0;
    if (!reserve(x, 3 * len + sizeof up->target + sizeof up->authority + 64))
        return no_memory;
    char *out = stpcpy(stpcpy(x->data, "GET "), up->target);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)line[i];

        if (isalnum(byte) || memchr("-._~", byte, 4) != NULL) {
            *out++ = (char)byte;
        } else {
            *out++ = '%';
            *out++ = hex[byte >> 4];
            *out++ = hex[byte & 15];
        }
    }
    out = stpcpy(stpcpy(out, " HTTP/1.1\r\nHost: "), up->authority);
    out = stpcpy(out,
                 up->keepalive ? "\r\n\r\n" : "\r\nConnection: close\r\n\r\n");
    x->len = (size_t)(out - x->data);
    return NULL;
}

/* One recv() more of the response. At its end: closed_early. */
static const char *receive(struct exchange *x)
{
    if (x->len > MAX_BODY + MAX_HEAD)
        return too_large;
    if (!reserve(x, 2048))
        return no_memory;
    /* One byte stays free, for the LF of a reply. */
    ssize_t n = recv(x->fd, x->data + x->len, x->size - x->len - 1, 0);
    if (n > 0) {
        x->len += (size_t)n;
        return now() > x->deadline ? timed_out : NULL;
    }
    if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return timed_out;
    x->at_end = n == 0;
    return closed_early;
}

/* A field's value in the header (which ends with a NUL), or NULL. */
static const char *field(const char *header, const char *name)
{
    const char *found = strcasestr(header, name);

    return found == NULL ? NULL : found + strlen(name);
}

/*
 * Takes the chunks' framing out of the body, which starts at *end, while the
 * rest of it comes in; then *end is where the body ends.
 */
static const char *receive_chunks(struct exchange *x, size_t *end)
{
    size_t at = *end; /* where the framing goes on */
    size_t need = 0;  /* bytes from there on; 0: as far as a line's end */

    for (;;) {
        char *next = x->data + at;
        char *lf = memchr(next, '\n', x->len - at);

        if (need == 0 ? lf == NULL : x->len - at < need) {
            /* Close the gap first: only the body itself takes up room. */
            memmove(x->data + *end, next, x->len - at);
            x->len -= at - *end;
            at = *end;
            const char *error = receive(x);
            if (error != NULL)
                return error;
        } else if (need == 0) {
            if (!isxdigit((unsigned char)*next))
                return bad_http;
            unsigned long size = strtoul(next, NULL, 16);
            if (size > MAX_BODY)
                return too_large;
            at = (size_t)(lf + 1 - x->data);
            need = size + 2;
        } else {
            if (memcmp(next + need - 2, "\r\n", 2) != 0) {
                /* A trailer may follow the last chunk: it is of no use. */
                x->reuse = false;
                return need == 2 ? NULL : bad_http;
            }
            if (need == 2) {
                x->reuse = x->reuse && at + need == x->len;
                return NULL;
            }
            memmove(x->data + *end, next, need - 2);
            *end += need - 2;
            at += need;
            need = 0;
        }
    }
}

/* Receives up to the end of the header; *head is its length. */
static const char *receive_header(struct exchange *x, size_t *head)
{
    const char *error = NULL;

    for (;;) {
        if (memcmp(x->data, "HTTP/1.", x->len < 7 ? x->len : 7) != 0)
            return bad_http;
        char *end = memmem(x->data, x->len, "\r\n\r\n", 4);
        if (end != NULL) {
            end[2] = '\0';
            *head = (size_t)(end + 4 - x->data);
            return NULL;
        }
        if (x->len > MAX_HEAD)
            return bad_http;
        error = receive(x);
        if (error != NULL)
            return error;
    }
}

/* The response to the request just sent; its body is data[*body..*end). */
static const char *read_response(struct exchange *x, size_t *body, size_t *end)
{
    const char *error = NULL;
    const char *value;
    char *rest;
    long status;

    x->len = 0;
    x->at_end = false;
    for (;;) {
        error = receive_header(x, body);
        if (error != NULL)
            return error;
        status = strtol(x->data + strlen("HTTP/1.1"), NULL, 10);
        if (status < 100 || status > 199)
            break;
        x->len -= *body; /* an interim answer: the real one follows */
        memmove(x->data, x->data + *body, x->len);
    }
    if (status == 0)
        return bad_http;
    if (status < 200 || status > 299) {
        (void)snprintf(x->reason, sizeof x->reason, "upstream returned %03ld",
                       status);
        return x->reason;
    }
    *end = *body;
    value = field(x->data, "\r\nConnection:");
    x->reuse = x->upstream->keepalive && x->data[7] == '1' &&
               (value == NULL || strncasecmp(value, " close", 6) != 0);
    if (field(x->data, "\r\nTransfer-Encoding:") != NULL)
        return receive_chunks(x, end);
    value = status == 204 ? "0\r" : field(x->data, "\r\nContent-Length:");
    if (value == NULL) {
        x->reuse = false; /* the body's end is the connection's */
        while (error == NULL)
            error = receive(x);
        *end = x->len;
        return x->at_end ? NULL : error;
    }
    unsigned long length = strtoul(value, &rest, 10);
    if (rest == value || *rest != '\r')
        return bad_http;
    if (length > MAX_BODY)
        return too_large;
    *end += length;
    while (error == NULL && x->len < *end)
        error = receive(x);
    x->reuse = x->reuse && x->len == *end;
    return error;
}

/*
 * Asks the upstream about a line: NULL and the body in data[*body..*end), or
 * the reason why not. A connection left over from the last fetch may have
 * been closed meanwhile; then, and only then, it is tried once more.
 */
static const char *fetch(struct exchange *x, const char *line, size_t len,
                         size_t *body, size_t *end)
{
    const char *error;
    bool again;

    x->deadline = now() + FETCH_SECONDS;
    do {
        again = x->fd != -1;
        error = write_request(x, line, len);
        if (error == NULL && x->fd == -1)
            error = dial(x);
        if (error == NULL && !send_all(x->fd, x->data, x->len)) {
            error = errno == EAGAIN ? timed_out : closed_early;
            x->len = 0;
        } else if (error == NULL) {
            error = read_response(x, body, end);
        }
        if (error != NULL || !x->reuse)
            hang_up(x);
    } while (again && error == closed_early && x->len == 0);
    return error;
}

/* Reads a line, fetches, writes the reply: until the client has no more. */
static void serve_connection(int fd, const struct upstream *upstream)
{
    struct exchange x = {.upstream = upstream, .fd = -1};
    struct lines in;
    char *line;
    size_t len;

    lines_init(&in);
    for (;;) {
        enum line got = read_line(&in, fd, &line, &len);
        const char *error = "line too long";
        char reply[REASON_SIZE + sizeof "error: \n"];
        size_t body = 0;
        size_t end = 0;

        if (got == LINE_NONE)
            break;
        if (got == LINE_READY)
            error = fetch(&x, line, len, &body, &end);
        if (error == NULL) {
            /* The header has been read; its last bytes make way. */
            end = body + flatten(x.data + body, end - body);
            body -= strlen("echo: ");
            memcpy(x.data + body, "echo: ", strlen("echo: "));
            x.data[end++] = '\n';
            if (!send_all(fd, x.data + body, end - body))
                break;
        } else {
            int n = snprintf(reply, sizeof reply, "error: %s\n", error);
            if (n < 0 || !send_all(fd, reply, (size_t)n))
                break;
        }
    }
    hang_up(&x);
    free(x.data);
}

static void *connection_thread(void *argument)
{
    struct connection connection = *(struct connection *)argument;

    free(argument);
    serve_connection(connection.fd, connection.upstream);
    (void)close(connection.fd); /* all is sent, or the client is gone */
    return NULL;
}

/* Gives a client a thread of its own, or tells it why not. */
static void start_connection(int fd, const struct upstream *upstream,
                             const pthread_attr_t *attributes)
{
    static const char sorry[] = "error: cannot start a thread\n";
    struct connection *connection = malloc(sizeof *connection);
    pthread_t thread;

    if (connection != NULL) {
        connection->fd = fd;
        connection->upstream = upstream;
        if (pthread_create(&thread, attributes, connection_thread,
                           connection) == 0)
            return;
    }
    free(connection);
    if (!send_all(fd, sorry, strlen(sorry)))
        complain("client", errno);
    (void)close(fd);
}

/* Takes http://HOST[:PORT][/PATH][?QUERY] apart and resolves the host, once.
 */
static bool parse_url(const char *url, struct upstream *up)
{
    static const char scheme[] = "http://";
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    char address[sizeof up->authority];
    char standard[] = "80";
    char *port = standard;
    char *host;

    if (strncasecmp(url, scheme, strlen(scheme)) != 0)
        return false;
    url += strlen(scheme);
    size_t len = strcspn(url, "/?#");
    const char *path = url + len;
    int path_len = (int)strcspn(path, "#");
    if (len >= sizeof address || path_len > 2000)
        return false;
    memcpy(address, url, len);
    address[len] = '\0';
    (void)stpcpy(up->authority, address); /* as large as address */
    int n = snprintf(up->target, sizeof up->target,
                     "%s%.*s%stext=", *path == '/' ? "" : "/", path_len, path,
                     memchr(path, '?', (size_t)path_len) ? "&" : "?");
    return n > 0 && (size_t)n < sizeof up->target &&
           split_address(address, &host, &port) &&
           getaddrinfo(host, port, &hints, &up->address) == 0;
}

int main(int argc, char **argv)
{
    const struct peer peer = read_options("bare", argc, argv);
    struct upstream upstream = {.keepalive = peer.keepalive};
    pthread_attr_t attributes;

    if (!parse_url(peer.upstream, &upstream)) {
        (void)fprintf(stderr, "bare: cannot use %s\n", peer.upstream);
        return 2;
    }
    int error = pthread_attr_init(&attributes);
    if (error == 0)
        error =
            pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (error == 0)
        error = pthread_attr_setstacksize(&attributes, STACK_SIZE);
    if (error != 0) {
        complain("bare: thread attributes", error);
        return 1;
    }
    int listener = start_listening(&peer);
    for (;;)
        start_connection(accept_client(listener), &upstream, &attributes);
}
