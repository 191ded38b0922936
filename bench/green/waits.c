/*
 * waits.c - the calls that wait for descriptors, for time and for signals
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "descriptors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

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
    if (mask != NULL)
        warn_once(WARN_MASK, "ppoll does not set the signal mask: all "
                             "coroutines share one");
    return poll_until(fds, count, timeout == NULL ? NEVER : after(timeout));
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
    if (timeout != NULL) { /* Linux says how much of it is left */
        int64_t left = deadline == NEVER ? 0 : deadline - now_ns();
        left = left > 0 ? left : 0;
        *timeout = (struct timeval){left / SECOND, left % SECOND / 1000};
    }
    free(fds);
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

static bool is_duration(const struct timespec *time)
{
    return time->tv_sec >= 0 && time->tv_nsec >= 0 && time->tv_nsec < SECOND;
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

/*
 * Signals. A descriptor of signalfd is ready when one is pending for the
 * process or for the carrier, so the carrier need not wait itself.
 */

/* Returns the number of a signal of the set, or -1 with errno set. */
static int await_signal(const sigset_t *set, struct signalfd_siginfo *info,
                        int64_t deadline)
{
    bool is_new = current->signal_fd < 0;
    int fd = signalfd(current->signal_fd, set, SFD_NONBLOCK | SFD_CLOEXEC);
    struct pollfd input = {.fd = fd, .events = POLLIN};

    if (fd < 0)
        return -1;
    current->signal_fd = fd;
    if (is_new)
        descriptor_opened(fd, KIND_PIPE, true);
    for (;;) {
        if (plain()->read(fd, info, sizeof *info) == sizeof *info)
            return (int)info->ssi_signo;
        if (errno != EAGAIN)
            return -1;
        int ready = poll_until(&input, 1, deadline);
        if (ready < 0)
            return -1;
        if (ready == 0 && deadline <= now_ns()) {
            errno = EAGAIN;
            return -1;
        }
    }
}

EXPORT int sigwait(const sigset_t *set, int *number)
{
    struct signalfd_siginfo info;

    if (!is_carrier)
        return plain()->sigwait(set, number);
    do
        *number = await_signal(set, &info, NEVER);
    while (*number < 0 && errno == EINTR);
    return *number < 0 ? errno : 0;
}

EXPORT int sigtimedwait(const sigset_t *set, siginfo_t *result,
                        const struct timespec *timeout)
{
    struct signalfd_siginfo info;

    if (!is_carrier)
        return plain()->sigtimedwait(set, result, timeout);
    int number =
        await_signal(set, &info, timeout == NULL ? NEVER : after(timeout));
    if (number > 0 && result != NULL) {
        memset(result, 0, sizeof *result);
        result->si_signo = number;
        result->si_code = info.ssi_code;
        result->si_errno = info.ssi_errno;
        result->si_pid = (pid_t)info.ssi_pid;
        result->si_uid = info.ssi_uid;
        memcpy(&result->si_value, &info.ssi_ptr, sizeof result->si_value);
    }
    return number;
}

EXPORT int sigwaitinfo(const sigset_t *set, siginfo_t *result)
{
    return sigtimedwait(set, result, NULL);
}
