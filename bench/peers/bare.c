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
#include "../../lib/clock.h"
#include "../../lib/lines.h"
#include "../../lib/listen.h"
#include "../../lib/response.h"
#include "../../lib/schedule.h"
#include "peer.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define STACK_SIZE (128 * 1024)
#define PIECE_SIZE 4096 /* most bytes of a response received at once */
#define MAX_HEAD_LINE (64 * 1024) /* in a response's head, in bytes */

/* The upstream, taken from its URL at the start. All threads read it. */
struct origin {
    struct addrinfo *address;
    bool keepalive;
    char before[2048]; /* of a request: what comes before the text */
    char after[512];   /* and what comes after it */
};

/* A client and its thread's connection to the upstream. */
struct bare_connection {
    const struct origin *origin;
    int client;
    int upstream; /* -1: none */
    struct reader reader;
    struct buffer reply;
    struct response response;
    struct buffer head_line; /* as far as it has come */
    bool begun;              /* a byte of the response has come */
    bool closing;            /* the upstream closes after this response */
};

/* Closes the connection to the upstream, if there is one. */
static void hang_up(struct bare_connection *c)
{
    if (c->upstream >= 0)
        close(c->upstream);
    c->upstream = -1;
}

/* Connects to the upstream. No wait on that connection is longer than a fetch
 * may be. */
static enum reason dial(struct bare_connection *c)
{
    const struct timeval timeout = {.tv_sec = PEER_FETCH_MS / 1000};
    const struct addrinfo *address = c->origin->address;
    const int on = 1;

    c->upstream = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->upstream < 0 ||
        setsockopt(c->upstream, SOL_SOCKET, SO_RCVTIMEO, &timeout,
                   sizeof timeout) != 0 ||
        setsockopt(c->upstream, SOL_SOCKET, SO_SNDTIMEO, &timeout,
                   sizeof timeout) != 0 ||
        setsockopt(c->upstream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        return REASON_FAILED;
    if (connect(c->upstream, address->ai_addr, address->ai_addrlen) == 0)
        return REASON_NONE;
    if (errno == EADDRNOTAVAIL)
        return REASON_NO_PORT;
    return errno == EINPROGRESS ? REASON_TIMED_OUT : REASON_REFUSED;
}

/* Writes the request to where the reply will be. Returns false when memory is
 * short. */
static bool write_request(struct bare_connection *c, const struct line *line)
{
    const struct origin *origin = c->origin;
    struct buffer *request = &c->reply;

    request->len = 0;
    return buffer_append(request, origin->before, strlen(origin->before)) &&
           buffer_append_escaped(request, line->text, line->len) &&
           buffer_append(request, origin->after, strlen(origin->after));
}

/* Takes a line of the head, whole or in pieces. An upstream that announces the
 * close in another way costs a second attempt, see fetch_line. */
static enum reason take_head(struct bare_connection *c, const char *data,
                             size_t len)
{
    static const char close_field[] = "Connection: close\r\n";
    struct buffer *line = &c->head_line;

    if (line->len + len > MAX_HEAD_LINE)
        return REASON_BAD_HTTP;
    if (!buffer_append(line, data, len))
        return REASON_NO_MEMORY;
    if (data[len - 1] != '\n')
        return REASON_NONE;
    if (line->len == strlen(close_field) &&
        strncasecmp(line->data, close_field, line->len) == 0)
        c->closing = true;
    len = line->len;
    line->len = 0;
    return response_take(&c->response, line->data, len);
}

/* Takes what has come of the response: its head line by line, then the body,
 * which goes to the reply. */
static enum reason take_piece(struct bare_connection *c, const char *data,
                              size_t len)
{
    enum reason reason = REASON_NONE;

    while (len > 0 && reason == REASON_NONE) {
        if (response_has_head(&c->response))
            return response_take(&c->response, data, len);
        const char *lf = memchr(data, '\n', len);
        size_t used = lf != NULL ? (size_t)(lf - data) + 1 : len;
        reason = take_head(c, data, used);
        data += used;
        len -= used;
    }
    return reason;
}

/* Receives the response to the request that was sent. */
static enum reason read_response(struct bare_connection *c, long long deadline)
{
    struct response *response = &c->response;
    enum reason reason = REASON_NONE;
    char piece[PIECE_SIZE];

    reply_begin(&c->reply);
    response_begin(response, &c->reply, PEER_MAX_BODY);
    c->head_line.len = 0;
    c->closing = !c->origin->keepalive;
    while (reason == REASON_NONE && response->state != COMPLETE) {
        ssize_t n = recv(c->upstream, piece, sizeof piece, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 && response_is_complete(response))
            break; /* the end of a body without a length */
        if (n <= 0)
            return n < 0 && errno == EAGAIN ? REASON_TIMED_OUT
                                            : REASON_CLOSED_EARLY;
        c->begun = true;
        if (clock_ms() > deadline)
            return REASON_TIMED_OUT;
        reason = take_piece(c, piece, (size_t)n);
    }
    if ((reason == REASON_NONE || reason == REASON_TOO_LARGE) &&
        response->status / 100 != 2)
        reason = REASON_RETURNED;
    return reason;
}

/* Returns whether one more request may be sent on the upstream connection. */
static bool is_reusable(const struct bare_connection *c, enum reason reason)
{
    return (reason == REASON_NONE || reason == REASON_RETURNED) &&
           c->response.state == COMPLETE &&
           response_allows_reuse(&c->response) && !c->closing;
}

/*
 * Fetches URL?text=LINE and appends the body to the reply. A connection kept
 * from the last fetch may be closed by now; then, and only then, asks again.
 */
static enum reason fetch_line(struct bare_connection *c,
                              const struct line *line)
{
    long long deadline = clock_ms() + PEER_FETCH_MS;
    enum reason reason;
    bool kept;

    do {
        kept = c->upstream >= 0;
        c->begun = false;
        reason = kept ? REASON_NONE : dial(c);
        if (reason == REASON_NONE && !write_request(c, line))
            reason = REASON_NO_MEMORY;
        if (reason == REASON_NONE &&
            !peer_send(c->upstream, c->reply.data, c->reply.len))
            reason = errno == EAGAIN ? REASON_TIMED_OUT : REASON_CLOSED_EARLY;
        if (reason == REASON_NONE)
            reason = read_response(c, deadline);
        if (!is_reusable(c, reason))
            hang_up(c);
    } while (kept && reason == REASON_CLOSED_EARLY && !c->begun);
    return reason;
}

/* Reads a line, fetches, writes the reply, until the client has no more. */
static void serve_connection(struct bare_connection *c)
{
    struct line line;

    while (read_line(&c->reader, &line)) {
        enum reason reason = line.reason;

        if (reason == REASON_NONE)
            reason = fetch_line(c, &line);
        reply_finish(&c->reply, reason, c->response.status);
        if (!peer_send(c->client, c->reply.data, c->reply.len))
            return;
        reply_shrink(&c->reply);
    }
}

/* Frees a connection but does not close its client's descriptor. */
static void free_connection(struct bare_connection *c)
{
    hang_up(c);
    reader_free(&c->reader);
    free(c->reply.data);
    free(c->head_line.data);
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
    c->origin = origin;
    c->client = client;
    c->upstream = -1;
    bool ok = reader_init(&c->reader, client, PEER_MAX_LINE, 0, 0) &&
              reply_init(&c->reply);
    if (ok && pthread_create(&thread, attr, connection_thread, c) == 0)
        return;
    free_connection(c);
    peer_reject(client, ok ? REASON_NO_THREAD : REASON_NO_MEMORY);
}

/* Takes http://HOST[:PORT][/PATH][?QUERY] to pieces and resolves the host,
 * once. Returns false when that cannot be done. */
static bool set_origin(struct origin *origin, const char *url)
{
    static const char scheme[] = "http://";
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    char address[HOST_SIZE + 16], host[HOST_SIZE];
    const char *port;

    if (strncasecmp(url, scheme, strlen(scheme)) != 0)
        return false;
    url += strlen(scheme);
    int len = (int)strcspn(url, "/?#");
    const char *path = url + len;
    int path_len = (int)strcspn(path, "#");
    int before =
        snprintf(origin->before, sizeof origin->before,
                 "GET %s%.*s%ctext=", *path == '/' ? "" : "/", path_len, path,
                 memchr(path, '?', (size_t)path_len) != NULL ? '&' : '?');
    int after = snprintf(origin->after, sizeof origin->after,
                         " HTTP/1.1\r\nHost: %.*s\r\n%s\r\n", len, url,
                         origin->keepalive ? "" : "Connection: close\r\n");
    if (before >= (int)sizeof origin->before ||
        after >= (int)sizeof origin->after || len >= HOST_SIZE)
        return false;

    snprintf(address, sizeof address, "%.*s", len, url);
    if (!split_address(address, host, &port)) {
        snprintf(address, sizeof address, "%.*s:80", len, url);
        if (!split_address(address, host, &port))
            return false;
    }
    return getaddrinfo(host, port, &hints, &origin->address) == 0;
}

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("bare", argc, argv);
    struct origin origin = {.keepalive = peer.keepalive};
    pthread_attr_t attr;

    if (!set_origin(&origin, peer.upstream)) {
        fprintf(stderr, "bare: --upstream: not http://HOST[:PORT]/PATH, or "
                        "not found\n");
        return 2;
    }
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
