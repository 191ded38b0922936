/*
 * tcp_pair.c - two ends of a TCP connection over loopback, see tcp_pair.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* POLLRDHUP, accept4 */
#include "tcp_pair.h"
#include "harness.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct tcp_pair tcp_pair_open(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    struct tcp_pair pair;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(listener, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
    ck_assert_int_eq(listen(listener, 1), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len),
                     0);
    pair.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(pair.client, 0);
    ck_assert_int_eq(connect(pair.client, (struct sockaddr *)&address, len),
                     0);
    pair.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(pair.fd, 0);
    close(listener);
    return pair;
}

void tcp_pair_close(struct tcp_pair *pair)
{
    close(pair->fd);
    if (pair->client >= 0)
        close(pair->client);
}

static int unread(const struct tcp_pair *pair)
{
    int count;
    ck_assert_int_eq(ioctl(pair->fd, FIONREAD, &count), 0);
    return count;
}

void tcp_pair_send(const struct tcp_pair *pair, const void *data, size_t len)
{
    long long deadline = now_ms() + PATIENCE_MS;
    int expected = unread(pair) + (int)len;

    ck_assert_int_eq(send(pair->client, data, len, MSG_NOSIGNAL),
                     (ssize_t)len);
    while (unread(pair) < expected) {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(1);
    }
}

/* Waits until the client's end has arrived. */
static void await_end(const struct tcp_pair *pair)
{
    struct pollfd end = {.fd = pair->fd, .events = POLLRDHUP};
    ck_assert_int_eq(poll(&end, 1, PATIENCE_MS), 1);
}

void tcp_pair_finish(const struct tcp_pair *pair)
{
    ck_assert_int_eq(shutdown(pair->client, SHUT_WR), 0);
    await_end(pair);
}

void tcp_pair_reset(struct tcp_pair *pair)
{
    const struct linger at_once = {.l_onoff = 1};

    ck_assert_int_eq(setsockopt(pair->client, SOL_SOCKET, SO_LINGER, &at_once,
                                sizeof at_once),
                     0);
    close(pair->client);
    pair->client = -1;
    await_end(pair);
}
