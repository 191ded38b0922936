/*
 * waits.c - the calls that wait for descriptors and for time
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "descriptors.h"
#include "signals.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECOND INT64_C(1000000000)

/*
 * Descriptors
 */

EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    if (!is_carrier)
        return plain()->poll(fds, count, timeout_ms);
    if (timeout_ms == 0) {
        int ready = poll_now(fds, count);
        count_call();
        return ready;
    }
    return poll_until(fds, count,
                      timeout_ms < 0 ? NEVER
                                     : after_ns(timeout_ms * SECOND / 1000));
}

EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms,
                      size_t room);
EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms,
                      size_t room)
{
    if (room / sizeof *fds < count)
        abort();
    return poll(fds, count, timeout_ms);
}

EXPORT int ppoll(struct pollfd *fds, nfds_t count,
                 const struct timespec *timeout, const sigset_t *mask)
{
    if (!is_carrier)
        return plain()->ppoll(fds, count, timeout, mask);
    int64_t deadline = timeout == NULL ? NEVER : after(timeout);
    uint64_t before = begin_masked_wait(mask);
    int ready = poll_until(fds, count, deadline);
    end_masked_wait(before);
    return ready;
}

EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count,
                       const struct timespec *timeout, const sigset_t *mask,
                       size_t room);
EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count,
                       const struct timespec *timeout, const sigset_t *mask,
                       size_t room)
{
    if (room / sizeof *fds < count)
        abort();
    return ppoll(fds, count, timeout, mask);
}

/* Makes a list for poll of the sets of select. */
static nfds_t list_sets(int count, const fd_set *in, const fd_set *out,
                        const fd_set *urgent, struct pollfd *fds)
{
    nfds_t listed = 0;

    for (int fd = 0; fd < count; fd++) {
        short events = 0;
        if (in != NULL && FD_ISSET(fd, in))
            events |= POLLIN;
        if (out != NULL && FD_ISSET(fd, out))
            events |= POLLOUT;
        if (urgent != NULL && FD_ISSET(fd, urgent))
            events |= POLLPRI;
        if (events != 0)
            fds[listed++] = (struct pollfd){.fd = fd, .events = events};
    }
    return listed;
}

/* Makes sets again of what poll has found. Returns how many bits are set. */
static int set_bits(const struct pollfd *fds, nfds_t count, fd_set *in,
                    fd_set *out, fd_set *urgent)
{
    int bits = 0;

    for (nfds_t i = 0; i < count; i++) {
        const short events = fds[i].events;
        const short found = fds[i].revents;
        fd_set *const sets[] = {
            events & POLLIN && found & (POLLIN | POLLHUP | POLLERR) ? in
                                                                    : NULL,
            events & POLLOUT && found & (POLLOUT | POLLERR) ? out : NULL,
            events & POLLPRI && found & POLLPRI ? urgent : NULL,
        };
        for (size_t j = 0; j < sizeof sets / sizeof sets[0]; j++)
            if (sets[j] != NULL) {
                FD_SET(fds[i].fd, sets[j]);
                bits++;
            }
    }
    return bits;
}

/* select, until that time. */
static int select_until(int count, fd_set *in, fd_set *out, fd_set *urgent,
                        int64_t deadline)
{
    struct pollfd *fds = calloc((size_t)count + 1, sizeof *fds);
    if (fds == NULL)
        return -1;
    nfds_t listed = list_sets(count, in, out, urgent, fds);
    int ready = poll_until(fds, listed, deadline);
    for (nfds_t i = 0; ready > 0 && i < listed; i++)
        if (fds[i].revents & POLLNVAL) {
            errno = EBADF;
            ready = -1;
        }
    if (ready >= 0) {
        fd_set *const sets[] = {in, out, urgent};
        for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
            if (sets[i] != NULL)
                FD_ZERO(sets[i]);
        ready = set_bits(fds, listed, in, out, urgent);
    }
    free(fds);
    return ready;
}

EXPORT int select(int count, fd_set *in, fd_set *out, fd_set *urgent,
                  struct timeval *timeout)
{
    if (!is_carrier || count < 0 || count > FD_SETSIZE)
        return plain()->select(count, in, out, urgent, timeout);
    if (timeout != NULL && (timeout->tv_sec < 0 || timeout->tv_usec < 0)) {
        errno = EINVAL;
        return -1;
    }
    int64_t deadline = NEVER;
    if (timeout != NULL) {
        const struct timespec duration = {timeout->tv_sec,
                                          timeout->tv_usec * 1000};
        deadline = after(&duration);
    }
    int ready = select_until(count, in, out, urgent, deadline);
    if (timeout != NULL) { /* Linux says how much of it is left */
        int64_t left = deadline == NEVER ? 0 : deadline - now_ns();
        left = left > 0 ? left : 0;
        *timeout = (struct timeval){left / SECOND, left % SECOND / 1000};
    }
    return ready;
}

static bool is_duration(const struct timespec *time)
{
    return time->tv_sec >= 0 && time->tv_nsec >= 0 && time->tv_nsec < SECOND;
}

EXPORT int pselect(int count, fd_set *in, fd_set *out, fd_set *urgent,
                   const struct timespec *timeout, const sigset_t *mask)
{
    if (!is_carrier || count < 0 || count > FD_SETSIZE ||
        (timeout != NULL && !is_duration(timeout)))
        return plain()->pselect(count, in, out, urgent, timeout, mask);
    int64_t deadline = timeout == NULL ? NEVER : after(timeout);
    uint64_t before = begin_masked_wait(mask);
    int ready = select_until(count, in, out, urgent, deadline);
    end_masked_wait(before);
    return ready;
}

EXPORT int epoll_wait(int epoll, struct epoll_event *events, int room,
                      int timeout_ms)
{
    int64_t deadline = NEVER;
    struct pollfd input = {.fd = epoll, .events = POLLIN};

    if (!is_carrier)
        return plain()->epoll_wait(epoll, events, room, timeout_ms);
    if (timeout_ms >= 0)
        deadline = after_ns(timeout_ms * SECOND / 1000);
    for (;;) {
        int n = plain()->epoll_wait(epoll, events, room, 0);
        if (n != 0 || (timeout_ms >= 0 && now_ns() >= deadline)) {
            count_call();
            return n;
        }
        if (poll_until(&input, 1, deadline) < 0)
            return -1;
    }
}

EXPORT int epoll_pwait(int epoll, struct epoll_event *events, int room,
                       int timeout_ms, const sigset_t *mask)
{
    if (!is_carrier)
        return plain()->epoll_pwait(epoll, events, room, timeout_ms, mask);
    uint64_t before = begin_masked_wait(mask);
    int ready = epoll_wait(epoll, events, room, timeout_ms);
    end_masked_wait(before);
    return ready;
}

/*
 * Time
 */

/* Sleeps until then. Returns 0 or EINTR. */
static int sleep_until(int64_t deadline)
{
    if (deadline <= now_ns()) {
        give_way();
        return 0;
    }
    return suspend(deadline, INTERRUPTED) == WAKE_INTERRUPTED ? EINTR : 0;
}

EXPORT int clock_nanosleep(clockid_t clock, int flags,
                           const struct timespec *time, struct timespec *left)
{
    if (!is_carrier ||
        (clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME &&
         clock != CLOCK_BOOTTIME) ||
        !is_duration(time))
        return plain()->clock_nanosleep(clock, flags, time, left);
    bool absolute = (flags & TIMER_ABSTIME) != 0;
    int64_t deadline = absolute ? at(clock, time) : after(time);
    int error = sleep_until(deadline);
    if (error != 0 && !absolute && left != NULL) {
        int64_t ns = deadline - now_ns();
        ns = ns > 0 ? ns : 0;
        *left = (struct timespec){ns / SECOND, ns % SECOND};
    }
    return error;
}

EXPORT int nanosleep(const struct timespec *time, struct timespec *left)
{
    int error = clock_nanosleep(CLOCK_REALTIME, 0, time, left);

    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

EXPORT int usleep(useconds_t us)
{
    const struct timespec time = {us / 1000000, us % 1000000 * 1000};
    return nanosleep(&time, NULL);
}

EXPORT unsigned sleep(unsigned seconds)
{
    struct timespec time = {seconds, 0};
    return nanosleep(&time, &time) == 0
               ? 0
               : (unsigned)time.tv_sec + (time.tv_nsec > 0);
}

EXPORT int sched_yield(void)
{
    if (!is_carrier)
        return plain()->sched_yield();
    give_way();
    return 0;
}
