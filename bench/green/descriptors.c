/*
 * descriptors.c - what is known about the program's descriptors
 *
 * Each is registered at epoll once, for everything, and edge-triggered: epoll
 * reports it when it becomes ready, and at the registration if it is. So what
 * was seen not to be ready needs no second look until epoll reports it.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "descriptors.h"
#include "outside.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

#define MAX_DESCRIPTORS (1 << 20)
#define FEW 8            /* descriptors of a poll that need no malloc */
#define LOOK_NS 10000000 /* between two looks at what epoll cannot watch */
#define INPUT_BITS (POLLIN | POLLRDNORM | POLLRDBAND | POLLPRI | POLLRDHUP)
#define OUTPUT_BITS (POLLOUT | POLLWRNORM | POLLWRBAND)

/* One coroutine's wait for one descriptor. It lives on that one's stack. */
struct watch {
    struct watch *next;
    struct watch **before; /* what points to it; NULL: it is in no list */
    struct coroutine *coroutine;
    short events;
    short revents; /* what epoll has reported */
};

static struct descriptor *table; /* by number */
static int table_size;
static int highest; /* that was ever known */
static int epoll_fd = -1;
static int own_wake_fd = -1;

bool descriptors_init(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return false;
    table_size = limit.rlim_max < MAX_DESCRIPTORS ? (int)limit.rlim_max
                                                  : MAX_DESCRIPTORS;
    table = map_memory((size_t)table_size * sizeof *table);
    if (table == NULL) {
        table_size = 0;
        return false;
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return epoll_fd >= 0;
}

void descriptors_after_fork(void)
{
    plain()->close(epoll_fd);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int fd = 0; fd <= highest; fd++) {
        table[fd].known = false;
        table[fd].watches = NULL;
    }
}

int event_fd(void)
{
    return epoll_fd;
}

bool watch_wake_fd(int fd)
{
    struct epoll_event input = {.events = EPOLLIN, .data.u64 = (uint32_t)fd};

    own_wake_fd = fd;
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &input) == 0;
}

static int64_t read_timeout(int fd, int option)
{
    struct timeval value = {0};
    socklen_t size = sizeof value;

    if (getsockopt(fd, SOL_SOCKET, option, &value, &size) != 0)
        return 0;
    return value.tv_sec * INT64_C(1000000000) + value.tv_usec * INT64_C(1000);
}

static enum kind socket_kind(int domain, int type)
{
    if (type != SOCK_STREAM)
        return KIND_DATAGRAM;
    return domain == AF_INET || domain == AF_INET6 ? KIND_TCP : KIND_STREAM;
}

/* Finds out about a descriptor. Returns false if there is no such one. */
static bool look_at(int fd, struct descriptor *d)
{
    struct stat status;
    int type = 0;
    int domain = 0;
    socklen_t size = sizeof type;
    int flags = plain()->fcntl(fd, F_GETFL);

    if (flags < 0 || fstat(fd, &status) != 0)
        return false;
    descriptor_opened(fd, KIND_PIPE, (flags & O_NONBLOCK) != 0);
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) ||
        S_ISBLK(status.st_mode)) {
        d->kind = KIND_PLAIN;
    } else if (S_ISSOCK(status.st_mode)) {
        (void)getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
        (void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
        d->kind = socket_kind(domain, type);
        d->timeouts[INPUT] = read_timeout(fd, SO_RCVTIMEO);
        d->timeouts[OUTPUT] = read_timeout(fd, SO_SNDTIMEO);
    }
    return true;
}

struct descriptor *descriptor(int fd)
{
    int saved = errno;

    if (table == NULL || fd < 0 || fd >= table_size)
        return NULL;
    struct descriptor *d = &table[fd];
    if (atomic_load_explicit(&d->known, memory_order_acquire) ||
        look_at(fd, d))
        return d;
    errno = saved;
    return NULL;
}

struct descriptor *carried(int fd)
{
    if (!is_carrier)
        return NULL;
    struct descriptor *d = descriptor(fd);
    return d == NULL || d->nonblocking || d->kind == KIND_PLAIN ? NULL : d;
}

void descriptor_opened(int fd, enum kind kind, bool nonblocking)
{
    if (fd < 0 || fd >= table_size)
        return;
    struct descriptor *d = &table[fd];
    highest = fd > highest ? fd : highest;
    d->kind = (unsigned char)kind;
    d->nonblocking = nonblocking;
    d->registered = d->unsteady = d->duplicated = false;
    d->idle = 0;
    d->timeouts[INPUT] = d->timeouts[OUTPUT] = 0;
    atomic_store_explicit(&d->known, true, memory_order_release);
}

/*
 * Watching
 */

static void link_watch(struct watch *watch, struct descriptor *d)
{
    watch->next = d->watches;
    watch->before = &d->watches;
    if (watch->next != NULL)
        watch->next->before = &watch->next;
    d->watches = watch;
}

static void unlink_watch(struct watch *watch)
{
    if (watch->before == NULL)
        return;
    *watch->before = watch->next;
    if (watch->next != NULL)
        watch->next->before = watch->before;
    watch->before = NULL;
}

bool is_event_of(const struct epoll_event *event, int fd)
{
    return (int)(uint32_t)event->data.u64 == fd;
}

void descriptor_event(const struct epoll_event *event)
{
    struct descriptor *d = &table[(uint32_t)event->data.u64];
    const uint32_t events = event->events;
    short ready = (short)events;

    /* A file that was closed here is registered still if it is open under
     * another number, or in another process. */
    if (d->generation != event->data.u64 >> 32)
        return;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLPRI))
        ready |= POLLIN;
    if (events & (EPOLLERR | EPOLLHUP))
        ready |= POLLIN | POLLOUT;
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP | EPOLLPRI))
        d->unsteady = true;
    d->idle &= (short)~ready;
    for (struct watch *watch = d->watches; watch != NULL; watch = watch->next)
        if (watch->events & ready) {
            watch->revents |= (short)events;
            wake(watch->coroutine, WAKE_EVENT);
        }
}

void descriptor_closing(int fd)
{
    if (fd < 0 || fd >= table_size || !table[fd].known)
        return;
    struct descriptor *d = &table[fd];
    atomic_store(&d->known, false);
    while (is_carrier && d->watches != NULL) {
        wake(d->watches->coroutine, WAKE_CLOSED);
        unlink_watch(d->watches);
    }
}

/* Registers a descriptor at epoll. Returns false if that cannot be done. */
static bool registered(int fd, struct descriptor *d)
{
    struct epoll_event all = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP |
                                        EPOLLPRI | EPOLLET,
                              .data.u64 = (uint32_t)fd};

    if (d == NULL)
        return false;
    if (d->registered)
        return true;
    all.data.u64 |= (uint64_t)++d->generation << 32;
    /* The number may be registered still, for a file that a duplicate keeps
     * open; then this reports what is ready, as the first time does. */
    d->registered =
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &all) == 0 ||
        (errno == EEXIST && epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &all) == 0);
    if (!d->registered && errno != EPERM)
        warn_once(WARN_UNWATCHED,
                  "epoll does not watch descriptor %d: %s; it is looked at "
                  "every %d ms",
                  fd, strerror(errno), LOOK_NS / 1000000);
    return d->registered;
}

/* Has the coroutine watch these. Returns until when it may sleep. */
static int64_t start_watching(const struct pollfd *fds, nfds_t count,
                              struct watch *watches, int64_t deadline)
{
    for (nfds_t i = 0; i < count; i++) {
        watches[i].before = NULL;
        watches[i].revents = 0;
        if (fds[i].fd < 0)
            continue;
        struct descriptor *d = descriptor(fds[i].fd);
        if (!registered(fds[i].fd, d)) {
            int64_t next = after_ns(LOOK_NS);
            deadline = next < deadline ? next : deadline;
            if (d != NULL)
                d->idle = 0; /* epoll will not say when that changes */
            continue;
        }
        watches[i].coroutine = current;
        watches[i].events = POLLERR | POLLHUP;
        if (fds[i].events & INPUT_BITS)
            watches[i].events |= POLLIN;
        if (fds[i].events & OUTPUT_BITS)
            watches[i].events |= POLLOUT;
        link_watch(&watches[i], d);
    }
    return deadline;
}

/* Sets what poll would have found when epoll reported these. Returns how many
 * are ready; 0 also where only poll can tell. */
static int take_reports(struct pollfd *fds, nfds_t count,
                        const struct watch *watches)
{
    int ready = 0;

    for (nfds_t i = 0; i < count; i++) {
        short found = watches[i].revents;
        const struct descriptor *d =
            fds[i].fd >= 0 ? descriptor(fds[i].fd) : NULL;
        if (fds[i].fd >= 0 && (d == NULL || d->kind < KIND_STREAM))
            return 0;
        if (found & POLLIN)
            found |= POLLRDNORM;
        if (found & POLLOUT)
            found |= POLLWRNORM;
        fds[i].revents = found & (fds[i].events | POLLERR | POLLHUP);
        ready += fds[i].revents != 0;
    }
    return ready;
}

/* Sleeps until one of these may be ready, and sets *ready to the number of
 * those of which that is known. */
static enum wake watch(struct pollfd *fds, nfds_t count, int64_t deadline,
                       enum interruptible interruptible, int *ready)
{
    struct watch few[FEW];
    struct watch *watches = few;

    *ready = 0;
    if (count > FEW) {
        watches = malloc(count * sizeof *watches);
        if (watches == NULL)
            return suspend(after_ns(LOOK_NS), interruptible);
    }
    int64_t until = start_watching(fds, count, watches, deadline);
    enum wake why = suspend(until, interruptible);
    for (nfds_t i = 0; i < count; i++)
        unlink_watch(&watches[i]);
    if (why == WAKE_EVENT)
        *ready = take_reports(fds, count, watches);
    if (watches != few)
        free(watches);
    return why == WAKE_TIME && until != deadline ? WAKE_EVENT : why;
}

bool await(int fd, enum direction direction, int64_t *deadline)
{
    struct descriptor *d = descriptor(fd);
    struct pollfd wanted = {.fd = fd,
                            .events = direction == INPUT ? POLLIN : POLLOUT};

    if (d == NULL) {
        errno = EBADF;
        return false;
    }
    int64_t timeout = d->timeouts[direction];
    if (*deadline == 0)
        *deadline = timeout == 0 ? NEVER : after_ns(timeout);
    /* As the kernel has it: no call with a timeout is restarted. */
    int ready;
    enum wake why =
        watch(&wanted, 1, *deadline,
              timeout == 0 ? UNLESS_RESTARTED : INTERRUPTED, &ready);
    if (why == WAKE_EVENT)
        return true;
    errno = why == WAKE_TIME ? EAGAIN : why == WAKE_CLOSED ? EBADF : EINTR;
    return false;
}

/* Returns whether all of these were seen not to be ready, and epoll has
 * reported none since. */
static bool all_idle(const struct pollfd *fds, nfds_t count)
{
    for (nfds_t i = 0; i < count; i++) {
        struct descriptor *d = fds[i].fd >= 0 ? descriptor(fds[i].fd) : NULL;
        short wanted = 0;
        if (d == NULL || d->kind < KIND_STREAM || d->unsteady)
            return false;
        if (fds[i].events & INPUT_BITS)
            wanted |= POLLIN;
        if (fds[i].events & OUTPUT_BITS)
            wanted |= POLLOUT;
        if (wanted == 0 || (d->idle & wanted) != wanted)
            return false;
    }
    return true;
}

/* Notes that none of these is ready. */
static void note_idle(const struct pollfd *fds, nfds_t count)
{
    for (nfds_t i = 0; i < count; i++) {
        struct descriptor *d = fds[i].fd >= 0 ? descriptor(fds[i].fd) : NULL;
        if (d == NULL)
            continue;
        if (fds[i].events & POLLIN)
            d->idle |= POLLIN;
        if (fds[i].events & POLLOUT)
            d->idle |= POLLOUT;
    }
}

int poll_now(struct pollfd *fds, nfds_t count)
{
    int ready = plain()->poll(fds, count, 0);

    if (ready == 0)
        note_idle(fds, count);
    return ready;
}

int poll_until(struct pollfd *fds, nfds_t count, int64_t deadline)
{
    int ready = 0;

    for (;;) {
        if (!all_idle(fds, count))
            ready = poll_now(fds, count);
        if (ready != 0) {
            count_call();
            return ready;
        }
        /* What epoll has reported is what a thread would have found that was
         * slow to go on. */
        enum wake why = watch(fds, count, deadline, INTERRUPTED, &ready);
        if (ready != 0)
            return ready;
        if (why == WAKE_TIME)
            return poll_now(fds, count);
        if (why == WAKE_INTERRUPTED) {
            errno = EINTR;
            return -1;
        }
    }
}

/*
 * Calls that change what is known
 */

/* Returns whether a descriptor is green's. Some programs close all that they
 * have not opened, and that would stop all coroutines for good. */
static bool is_own(int fd)
{
    return is_carrier && (fd == epoll_fd || fd == own_wake_fd);
}

EXPORT int close(int fd)
{
    if (is_own(fd)) {
        errno = EBADF;
        return -1;
    }
    descriptor_closing(fd);
    return plain()->close(fd);
}

EXPORT int fclose(FILE *file)
{
    if (file != NULL)
        descriptor_closing(fileno(file));
    return plain()->fclose(file);
}

EXPORT int pclose(FILE *file)
{
    descriptor_closing(fileno(file));
    return plain()->pclose(file);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    if (flags & CLOSE_RANGE_CLOEXEC)
        return plain()->close_range(first, last, flags);
    for (unsigned fd = first; fd <= last && fd <= (unsigned)highest; fd++)
        descriptor_closing((int)fd);
    /* In up to three parts, between green's own. */
    int result = 0;
    unsigned own[] = {(unsigned)epoll_fd, (unsigned)own_wake_fd};
    if (own[0] > own[1]) {
        own[0] = own[1];
        own[1] = (unsigned)epoll_fd;
    }
    for (int i = 0; i < 2 && is_carrier && result == 0; i++) {
        if (own[i] < first || own[i] > last)
            continue;
        if (own[i] > first)
            result = plain()->close_range(first, own[i] - 1, flags);
        if (own[i] == last)
            return result;
        first = own[i] + 1;
    }
    return result == 0 ? plain()->close_range(first, last, flags) : result;
}

EXPORT void closefrom(int first)
{
    if (first < 0 || close_range((unsigned)first, UINT_MAX, 0) != 0)
        plain()->closefrom(first);
}

/* Notes that two numbers are one file, which has one O_NONBLOCK. */
static int duplicated(int from, int to)
{
    if (!is_carrier || to < 0)
        return to;
    struct descriptor *old = descriptor(from);
    struct descriptor *new = descriptor(to);
    if (old != NULL && new != NULL)
        old->duplicated = new->duplicated = true;
    return to;
}

EXPORT int dup(int from)
{
    return duplicated(from, plain()->dup(from));
}

EXPORT int dup2(int from, int to)
{
    if (is_own(to)) {
        errno = EBUSY;
        return -1;
    }
    int result = plain()->dup2(from, to);
    if (result >= 0 && from != to) {
        descriptor_closing(to);
        duplicated(from, to);
    }
    return result;
}

EXPORT int dup3(int from, int to, int flags)
{
    if (is_own(to)) {
        errno = EBUSY;
        return -1;
    }
    int result = plain()->dup3(from, to, flags);
    if (result >= 0) {
        descriptor_closing(to);
        duplicated(from, to);
    }
    return result;
}

EXPORT int socket(int domain, int type, int protocol)
{
    int fd = plain()->socket(domain, type, protocol);

    if (is_carrier)
        descriptor_opened(
            fd, socket_kind(domain, type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)),
            (type & SOCK_NONBLOCK) != 0);
    return fd;
}

static void set_nonblocking(int fd, bool nonblocking)
{
    if (fd < 0 || fd >= table_size)
        return;
    table[fd].nonblocking = nonblocking;
    if (!table[fd].known || !table[fd].duplicated)
        return;
    for (int other = 0; other <= highest; other++)
        if (table[other].known && table[other].duplicated) {
            int flags = plain()->fcntl(other, F_GETFL);
            table[other].nonblocking = (flags & O_NONBLOCK) != 0;
        }
}

struct lock_call {
    int fd;
    int command;
    void *lock;
    int result;
};

static void call_lock(void *argument)
{
    struct lock_call *c = argument;
    c->result = plain()->fcntl(c->fd, c->command, c->lock);
}

/* The third argument is passed on as the C library does it: whatever it is,
 * it fits. */
EXPORT int fcntl(int fd, int command, ...)
{
    va_list arguments;

    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (is_carrier && (command == F_SETLKW || command == F_OFD_SETLKW)) {
        struct lock_call c = {fd, command, argument, 0};
        call_outside(call_lock, &c); /* another process may have the lock */
        return c.result;
    }
    int result = plain()->fcntl(fd, command, argument);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        return duplicated(fd, result);
    if (command == F_SETFL && result == 0)
        set_nonblocking(fd, ((uintptr_t)argument & O_NONBLOCK) != 0);
    return result;
}

EXPORT int fcntl64(int fd, int command, ...)
{
    va_list arguments;

    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return fcntl(fd, command, argument);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;

    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    int result = plain()->ioctl(fd, request, argument);
    if (request == FIONBIO && result == 0)
        set_nonblocking(fd, *(int *)argument != 0);
    return result;
}

EXPORT int setsockopt(int fd, int level, int option, const void *value,
                      socklen_t size)
{
    int result = plain()->setsockopt(fd, level, option, value, size);

    if (result != 0 || fd >= table_size || !table[fd].known)
        return result;
    if (level == SOL_SOCKET && option == SO_RCVTIMEO)
        table[fd].timeouts[INPUT] = read_timeout(fd, option);
    else if (level == SOL_SOCKET && option == SO_SNDTIMEO)
        table[fd].timeouts[OUTPUT] = read_timeout(fd, option);
    else if (level == IPPROTO_TCP && option == TCP_ULP)
        table[fd].kind = KIND_STREAM; /* it may have records now */
    return result;
}
