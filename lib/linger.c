/*
 * linger.c - closing so that the last reply arrives, see linger.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "linger.h"
#include "clock.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINGER_MS 2000   /* longest wait for a client to take its last reply */
#define OUTPUT_POLL_MS 5 /* between two looks at what is not acknowledged */

struct reject {
    int fd;
    long long deadline; /* monotonic ms */
};

struct rejects {
    int epoll;
    long max;
    long count;
    struct reject oldest_first[];
};

/* Discards what has come. Returns whether the client has closed or is gone. */
static bool has_closed(int fd)
{
    char scratch[512];
    ssize_t n = recv(fd, scratch, sizeof scratch, MSG_DONTWAIT);

    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

void linger_until_closed(int fd)
{
    long long deadline = clock_ms() + LINGER_MS;
    struct pollfd input = {.fd = fd, .events = POLLIN};

    if (shutdown(fd, SHUT_WR) != 0)
        return; /* the client is gone */
    for (;;) {
        long long left = deadline - clock_ms();
        if (left <= 0 || poll(&input, 1, (int)left) <= 0 || has_closed(fd))
            return;
    }
}

void linger_until_sent(int fd)
{
    long long deadline = clock_ms() + LINGER_MS;
    int unsent = 0;

    while (clock_ms() < deadline && ioctl(fd, SIOCOUTQ, &unsent) == 0 &&
           unsent > 0)
        nanosleep(&(struct timespec){0, OUTPUT_POLL_MS * 1000000L}, NULL);
}

void reset_on_close(int fd)
{
    const struct linger none = {.l_onoff = 1, .l_linger = 0};

    /* It cannot fail on a socket. */
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

struct rejects *rejects_create(long max)
{
    struct rejects *rejects =
        calloc(1, sizeof *rejects + (size_t)max * sizeof(struct reject));
    if (rejects == NULL)
        return NULL;
    rejects->max = max;
    rejects->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (rejects->epoll >= 0)
        return rejects;
    free(rejects);
    return NULL;
}

/* Closes one; later entries move up. */
static void close_reject(struct rejects *rejects, long i)
{
    struct reject *place = &rejects->oldest_first[i];

    close(place->fd); /* which removes it from epoll, too */
    rejects->count--;
    memmove(place, place + 1, (size_t)(rejects->count - i) * sizeof *place);
}

void rejects_free(struct rejects *rejects)
{
    if (rejects == NULL)
        return;
    while (rejects->count > 0)
        close_reject(rejects, rejects->count - 1);
    close(rejects->epoll);
    free(rejects);
}

void reject(struct rejects *rejects, int fd, enum reason reason)
{
    char text[ERROR_REPLY_SIZE];
    struct epoll_event input = {.events = EPOLLIN, .data.fd = fd};
    int len = snprintf(text, sizeof text, "error: %s\n", reason_text(reason));

    if (rejects->count == rejects->max)
        close_reject(rejects, 0);
    if (send(fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) != len ||
        shutdown(fd, SHUT_WR) != 0 ||
        epoll_ctl(rejects->epoll, EPOLL_CTL_ADD, fd, &input) != 0) {
        close(fd); /* gone already, or no memory to wait for it */
        return;
    }
    rejects->oldest_first[rejects->count++] =
        (struct reject){.fd = fd, .deadline = clock_ms() + LINGER_MS};
}

int rejects_fd(const struct rejects *rejects)
{
    return rejects->epoll;
}

/* Closes the one with this descriptor. */
static void close_fd(struct rejects *rejects, int fd)
{
    long i = 0;
    while (rejects->oldest_first[i].fd != fd)
        i++;
    close_reject(rejects, i);
}

int rejects_sweep(struct rejects *rejects)
{
    struct epoll_event events[16];

    if (rejects->count == 0)
        return -1;
    int n =
        epoll_wait(rejects->epoll, events, sizeof events / sizeof events[0],
                   0); /* what is left over is reported next time */
    for (int i = 0; i < n; i++)
        if (has_closed(events[i].data.fd))
            close_fd(rejects, events[i].data.fd);
    long long now = clock_ms();
    while (rejects->count > 0 && rejects->oldest_first[0].deadline <= now)
        close_reject(rejects, 0);
    if (rejects->count == 0)
        return -1;
    return (int)(rejects->oldest_first[0].deadline - now);
}
