/*
 * fetch_line.c - a fetch on a blocking socket, see fetch_line.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "fetch_line.h"
#include "../../lib/clock.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Closes the connection to the upstream, if there is one. */
static void hang_up(struct line_fetcher *fetcher)
{
    if (fetcher->upstream >= 0)
        close(fetcher->upstream);
    fetcher->upstream = -1;
}

bool line_fetcher_init(struct line_fetcher *fetcher,
                       const struct origin *origin)
{
    fetcher->upstream = -1;
    return exchange_init(&fetcher->exchange, origin);
}

void line_fetcher_free(struct line_fetcher *fetcher)
{
    hang_up(fetcher);
    exchange_free(&fetcher->exchange);
}

/* Connects to the upstream. No wait on that connection is longer than a fetch
 * may be. */
static enum reason dial(struct line_fetcher *fetcher)
{
    const struct timeval timeout = {.tv_sec = PEER_FETCH_MS / 1000};
    const struct origin *origin = fetcher->exchange.origin;
    int fd = origin_socket(origin, 0);

    fetcher->upstream = fd;
    if (fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) !=
            0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0)
        return REASON_FAILED;
    if (connect(fd, origin->address->ai_addr, origin->address->ai_addrlen) ==
        0)
        return REASON_NONE;
    return errno == EINPROGRESS ? REASON_TIMED_OUT : origin_reason(errno);
}

/* Receives the response to the request that was sent. */
static enum reason read_response(struct line_fetcher *fetcher,
                                 long long deadline)
{
    struct exchange *exchange = &fetcher->exchange;
    enum reason reason = REASON_NONE;
    char piece[PIECE_SIZE];

    exchange_await(exchange);
    while (reason == REASON_NONE && !exchange_is_complete(exchange)) {
        ssize_t n = recv(fetcher->upstream, piece, sizeof piece, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? REASON_TIMED_OUT : REASON_CLOSED_EARLY;
        if (n == 0) {
            reason = exchange_closed(exchange);
            break;
        }
        reason = exchange_take(exchange, piece, (size_t)n);
        if (clock_ms() > deadline)
            return REASON_TIMED_OUT;
    }
    return exchange_outcome(exchange, reason);
}

/* A connection kept from the last fetch may be closed by now; then, and only
 * then, asks again. */
enum reason fetch_line(struct line_fetcher *fetcher, const struct line *line)
{
    struct exchange *exchange = &fetcher->exchange;
    long long deadline = clock_ms() + PEER_FETCH_MS;
    enum reason reason;
    bool kept;

    do {
        kept = fetcher->upstream >= 0;
        reason = kept ? REASON_NONE : dial(fetcher);
        if (reason == REASON_NONE && !exchange_ask(exchange, line))
            reason = REASON_NO_MEMORY;
        if (reason == REASON_NONE &&
            !peer_send(fetcher->upstream, exchange->reply.data,
                       exchange->reply.len))
            reason = errno == EAGAIN ? REASON_TIMED_OUT : REASON_CLOSED_EARLY;
        if (reason == REASON_NONE)
            reason = read_response(fetcher, deadline);
        if (!exchange_allows_reuse(exchange, reason))
            hang_up(fetcher);
    } while (kept && exchange_may_repeat(exchange, reason));
    return reason;
}
