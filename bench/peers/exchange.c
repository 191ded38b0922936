/*
 * exchange.c - a request to the upstream and its response, see exchange.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SOCK_CLOEXEC */
#include "exchange.h"
#include "../../lib/listen.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEAD_LINE (64 * 1024) /* in a response's head, in bytes */

/* Takes http://HOST[:PORT][/PATH][?QUERY] to pieces and resolves the host.
 * Returns false when that cannot be done. */
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

struct origin origin_start(const struct peer *peer)
{
    struct origin origin = {.keepalive = peer->keepalive};

    if (set_origin(&origin, peer->upstream))
        return origin;
    fprintf(stderr,
            "%s: --upstream: not http://HOST[:PORT]/PATH, or not found\n",
            peer->name);
    exit(2);
}

int origin_socket(const struct origin *origin, int flags)
{
    const int on = 1;
    int fd = socket(origin->address->ai_family,
                    SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

    if (fd < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

enum reason origin_reason(int error)
{
    return error == EADDRNOTAVAIL ? REASON_NO_PORT : REASON_REFUSED;
}

bool exchange_init(struct exchange *exchange, const struct origin *origin)
{
    *exchange = (struct exchange){.origin = origin};
    return reply_init(&exchange->reply);
}

void exchange_free(struct exchange *exchange)
{
    free(exchange->reply.data);
    free(exchange->head_line.data);
}

bool exchange_ask(struct exchange *exchange, const struct line *line)
{
    const struct origin *origin = exchange->origin;
    struct buffer *request = &exchange->reply;

    exchange->begun = false;
    request->len = 0;
    return buffer_append(request, origin->before, strlen(origin->before)) &&
           buffer_append_escaped(request, line->text, line->len) &&
           buffer_append(request, origin->after, strlen(origin->after));
}

void exchange_await(struct exchange *exchange)
{
    reply_begin(&exchange->reply);
    response_begin(&exchange->response, &exchange->reply, PEER_MAX_BODY);
    exchange->head_line.len = 0;
    exchange->closing = !exchange->origin->keepalive;
}

/* Takes a line of the head, whole or in pieces. An upstream that announces the
 * close in another way costs a second attempt, see exchange_may_repeat. */
static enum reason take_head(struct exchange *exchange, const char *data,
                             size_t len)
{
    static const char close_field[] = "Connection: close\r\n";
    struct buffer *line = &exchange->head_line;

    if (line->len + len > MAX_HEAD_LINE)
        return REASON_BAD_HTTP;
    if (!buffer_append(line, data, len))
        return REASON_NO_MEMORY;
    if (data[len - 1] != '\n')
        return REASON_NONE;
    if (line->len == strlen(close_field) &&
        strncasecmp(line->data, close_field, line->len) == 0)
        exchange->closing = true;
    len = line->len;
    line->len = 0;
    return response_take(&exchange->response, line->data, len);
}

enum reason exchange_take(struct exchange *exchange, const char *data,
                          size_t len)
{
    enum reason reason = REASON_NONE;

    exchange->begun = true;
    while (len > 0 && reason == REASON_NONE) {
        if (response_has_head(&exchange->response))
            return response_take(&exchange->response, data, len);
        const char *lf = memchr(data, '\n', len);
        size_t used = lf != NULL ? (size_t)(lf - data) + 1 : len;
        reason = take_head(exchange, data, used);
        data += used;
        len -= used;
    }
    return reason;
}

bool exchange_is_complete(const struct exchange *exchange)
{
    return exchange->response.state == COMPLETE;
}

enum reason exchange_closed(const struct exchange *exchange)
{
    /* The close ends a body without a length. */
    return response_is_complete(&exchange->response) ? REASON_NONE
                                                     : REASON_CLOSED_EARLY;
}

enum reason exchange_outcome(const struct exchange *exchange,
                             enum reason reason)
{
    if ((reason == REASON_NONE || reason == REASON_TOO_LARGE) &&
        exchange->response.status / 100 != 2)
        return REASON_RETURNED;
    return reason;
}

bool exchange_allows_reuse(const struct exchange *exchange, enum reason reason)
{
    return (reason == REASON_NONE || reason == REASON_RETURNED) &&
           exchange_is_complete(exchange) &&
           response_allows_reuse(&exchange->response) && !exchange->closing;
}

bool exchange_may_repeat(const struct exchange *exchange, enum reason reason)
{
    return reason == REASON_CLOSED_EARLY && !exchange->begun;
}

void exchange_finish(struct exchange *exchange, enum reason reason)
{
    reply_finish(&exchange->reply, reason, exchange->response.status);
}
