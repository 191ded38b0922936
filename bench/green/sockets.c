/*
 * sockets.c - the calls that read, write, accept and connect
 *
 * Each is first tried in a way that cannot block: with MSG_DONTWAIT where it
 * is a socket's, or when poll says that it will not. So the file's flags stay
 * as they are, which other processes may share.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_NS 1000000 /* between two connects to a full Unix listener */

/* A transfer, whichever call asked for it. The pieces of vector are as many
 * as message has, or one. */
struct transfer {
    struct msghdr *message; /* NULL: only data and size */
    void *data;
    size_t size;
    int flags;
};

/* Returns the result of a call that has got somewhere, or must fail. */
static ssize_t outcome(size_t done)
{
    if (done == 0)
        return -1;
    count_call();
    return (ssize_t)done;
}

static size_t vector_size(const struct iovec *vector, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += vector[i].iov_len;
    return size;
}

/* Takes what was transferred off the front of a vector. */
static void advance(struct msghdr *message, size_t done)
{
    while (message->msg_iovlen > 0 && done >= message->msg_iov->iov_len) {
        done -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen > 0) {
        message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + done;
        message->msg_iov->iov_len -= done;
    }
}

static ssize_t receive_now(int fd, const struct transfer *t)
{
    int flags = t->flags | MSG_DONTWAIT;

    return t->message != NULL ? plain()->recvmsg(fd, t->message, flags)
                              : plain()->recv(fd, t->data, t->size, flags);
}

/* Notes what a look into the socket has shown. A stream that gave less than
 * was asked for has no more; epoll(7) says so, too. */
static void note_received(struct descriptor *d, const struct transfer *t,
                          size_t got)
{
    if (d->kind == KIND_TCP && !d->unsteady && got > 0 && got < t->size &&
        (t->flags & (MSG_PEEK | MSG_OOB | MSG_TRUNC | MSG_ERRQUEUE)) == 0)
        d->idle |= POLLIN;
}

static ssize_t receive(int fd, struct descriptor *d, struct transfer *t)
{
    bool all = (t->flags & MSG_WAITALL) != 0 && d->kind != KIND_DATAGRAM &&
               (t->flags & MSG_PEEK) == 0 && t->message == NULL;
    /* Nothing is taken, so each look shows all of it. */
    bool peek_all = (t->flags & MSG_WAITALL) != 0 &&
                    (t->flags & MSG_PEEK) != 0 && d->kind >= KIND_STREAM;
    const int saved = errno;
    int64_t deadline = 0;
    size_t done = 0;

    for (;;) {
        ssize_t n = -1;
        errno = EAGAIN;
        if ((d->idle & POLLIN) == 0)
            n = receive_now(fd, t);
        if (peek_all && n > 0 && (size_t)n < t->size && !d->unsteady) {
            d->idle |= POLLIN;
            if (!await(fd, INPUT, &deadline))
                return n;
            continue;
        }
        if (n >= 0) {
            note_received(d, t, (size_t)n);
            done += (size_t)n;
            if (n == 0 || !all || (size_t)n == t->size) {
                errno = saved;
                count_call();
                return (ssize_t)done;
            }
            t->data = (char *)t->data + n;
            t->size -= (size_t)n;
            continue;
        }
        if (errno != EAGAIN)
            return outcome(done);
        if ((t->flags & (MSG_OOB | MSG_ERRQUEUE)) == 0)
            d->idle |= POLLIN;
        else if (t->flags & MSG_ERRQUEUE)
            return -1; /* that never waits */
        if (!await(fd, INPUT, &deadline))
            return outcome(done);
    }
}

static ssize_t send_now(int fd, const struct transfer *t)
{
    int flags = t->flags | MSG_DONTWAIT;

    return t->message != NULL ? plain()->sendmsg(fd, t->message, flags)
                              : plain()->send(fd, t->data, t->size, flags);
}

static ssize_t transmit(int fd, struct descriptor *d, struct transfer *t)
{
    const int saved = errno;
    int64_t deadline = 0;
    size_t done = 0;

    for (;;) {
        ssize_t n = send_now(fd, t);
        if (n < 0 && errno != EAGAIN)
            return outcome(done);
        if (n < 0) {
            d->idle |= POLLOUT;
            if (!await(fd, OUTPUT, &deadline))
                return outcome(done);
            continue;
        }
        done += (size_t)n;
        t->size -= (size_t)n;
        t->flags |= MSG_NOSIGNAL; /* what has sent something does not fail */
        if (t->size == 0 || d->kind == KIND_DATAGRAM) {
            errno = saved;
            count_call();
            return (ssize_t)done;
        }
        if (t->message == NULL) {
            t->data = (char *)t->data + n;
        } else {
            advance(t->message, (size_t)n);
            t->message->msg_control = NULL; /* it went with the first piece */
            t->message->msg_controllen = 0;
        }
    }
}

/* Waits until poll says that a call will not block. */
static bool await_ready(int fd, struct descriptor *d, enum direction direction,
                        int64_t *deadline)
{
    struct pollfd wanted = {.fd = fd,
                            .events = direction == INPUT ? POLLIN : POLLOUT};

    for (;;) {
        if (d->kind < KIND_STREAM || d->unsteady ||
            (d->idle & wanted.events) == 0) {
            if (plain()->poll(&wanted, 1, 0) != 0)
                return true;
            d->idle |= wanted.events;
        }
        if (!await(fd, direction, deadline))
            return false;
    }
}

/*
 * Sockets
 */

EXPORT ssize_t recv(int fd, void *data, size_t size, int flags)
{
    struct descriptor *d = (flags & MSG_DONTWAIT) == 0 ? carried(fd) : NULL;
    struct transfer t = {.data = data, .size = size, .flags = flags};

    if (d == NULL || d->kind == KIND_PIPE)
        return plain()->recv(fd, data, size, flags);
    return receive(fd, d, &t);
}

EXPORT ssize_t __recv_chk(int fd, void *data, size_t size, size_t room,
                          int flags);
EXPORT ssize_t __recv_chk(int fd, void *data, size_t size, size_t room,
                          int flags)
{
    if (size > room)
        abort();
    return recv(fd, data, size, flags);
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    struct descriptor *d = (flags & MSG_DONTWAIT) == 0 ? carried(fd) : NULL;

    if (d == NULL || d->kind == KIND_PIPE)
        return plain()->recvmsg(fd, message, flags);
    struct transfer t = {
        .message = message,
        .size = vector_size(message->msg_iov, message->msg_iovlen),
        .flags = flags};
    return receive(fd, d, &t);
}

EXPORT ssize_t recvfrom(int fd, void *data, size_t size, int flags,
                        __SOCKADDR_ARG address, socklen_t *address_size)
{
    struct sockaddr *from = address.__sockaddr__;

    if (from == NULL)
        return recv(fd, data, size, flags);
    struct descriptor *d = (flags & MSG_DONTWAIT) == 0 ? carried(fd) : NULL;
    if (d == NULL || d->kind == KIND_PIPE)
        return plain()->recvfrom(fd, data, size, flags, address, address_size);
    struct iovec piece = {.iov_base = data, .iov_len = size};
    struct msghdr message = {.msg_name = from,
                             .msg_namelen = *address_size,
                             .msg_iov = &piece,
                             .msg_iovlen = 1};
    struct transfer t = {.message = &message, .size = size, .flags = flags};
    ssize_t n = receive(fd, d, &t);
    if (n >= 0)
        *address_size = message.msg_namelen;
    return n;
}

EXPORT ssize_t __recvfrom_chk(int fd, void *data, size_t size, size_t room,
                              int flags, __SOCKADDR_ARG address,
                              socklen_t *address_size);
EXPORT ssize_t __recvfrom_chk(int fd, void *data, size_t size, size_t room,
                              int flags, __SOCKADDR_ARG address,
                              socklen_t *address_size)
{
    if (size > room)
        abort();
    return recvfrom(fd, data, size, flags, address, address_size);
}

EXPORT ssize_t send(int fd, const void *data, size_t size, int flags)
{
    struct descriptor *d = (flags & MSG_DONTWAIT) == 0 ? carried(fd) : NULL;
    struct transfer t = {.data = (void *)data, .size = size, .flags = flags};

    if (d == NULL || d->kind == KIND_PIPE)
        return plain()->send(fd, data, size, flags);
    return transmit(fd, d, &t);
}

/* sendmsg, with a vector that may be changed. */
static ssize_t transmit_vector(int fd, struct descriptor *d,
                               const struct msghdr *message, int flags)
{
    struct iovec few[8];
    struct iovec *vector = few;
    struct msghdr copy = *message;

    if (message->msg_iovlen > sizeof few / sizeof few[0]) {
        if (message->msg_iovlen > IOV_MAX) {
            errno = EMSGSIZE;
            return -1;
        }
        vector = malloc(message->msg_iovlen * sizeof *vector);
        if (vector == NULL) {
            errno = ENOBUFS;
            return -1;
        }
    }
    if (message->msg_iovlen > 0)
        memcpy(vector, message->msg_iov, message->msg_iovlen * sizeof *vector);
    copy.msg_iov = vector;
    struct transfer t = {.message = &copy,
                         .size = vector_size(vector, copy.msg_iovlen),
                         .flags = flags};
    ssize_t n = transmit(fd, d, &t);
    if (vector != few)
        free(vector);
    return n;
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct descriptor *d = (flags & MSG_DONTWAIT) == 0 ? carried(fd) : NULL;

    if (d == NULL || d->kind == KIND_PIPE)
        return plain()->sendmsg(fd, message, flags);
    return transmit_vector(fd, d, message, flags);
}

EXPORT ssize_t sendto(int fd, const void *data, size_t size, int flags,
                      __CONST_SOCKADDR_ARG address, socklen_t address_size)
{
    const struct sockaddr *to = address.__sockaddr__;

    if (to == NULL)
        return send(fd, data, size, flags);
    struct descriptor *d = (flags & MSG_DONTWAIT) == 0 ? carried(fd) : NULL;
    if (d == NULL || d->kind == KIND_PIPE)
        return plain()->sendto(fd, data, size, flags, address, address_size);
    struct iovec piece = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr message = {.msg_name = (void *)to,
                             .msg_namelen = address_size,
                             .msg_iov = &piece,
                             .msg_iovlen = 1};
    return transmit_vector(fd, d, &message, flags);
}

EXPORT int accept4(int fd, __SOCKADDR_ARG address, socklen_t *address_size,
                   int flags)
{
    struct descriptor *d = carried(fd);
    int64_t deadline = 0;

    if (d != NULL && !await_ready(fd, d, INPUT, &deadline))
        return -1;
    int accepted = plain()->accept4(fd, address, address_size, flags);
    if (!is_carrier || accepted < 0)
        return accepted;
    const struct descriptor *listener = descriptor(fd);
    if (listener != NULL) {
        descriptor_opened(accepted, listener->kind,
                          (flags & SOCK_NONBLOCK) != 0);
        struct descriptor *new = descriptor(accepted);
        if (new != NULL)
            memcpy(new->timeouts, listener->timeouts, sizeof new->timeouts);
    }
    count_call();
    return accepted;
}

EXPORT int accept(int fd, __SOCKADDR_ARG address, socklen_t *address_size)
{
    return accept4(fd, address, address_size, 0);
}

/* A connect that does not block. For it there is only the file's flag. */
static int connect_now(int fd, __CONST_SOCKADDR_ARG address, socklen_t size)
{
    int flags = plain()->fcntl(fd, F_GETFL);
    if (flags < 0 || plain()->fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return -1;
    int result = plain()->connect(fd, address, size);
    int error = errno;
    plain()->fcntl(fd, F_SETFL, flags);
    errno = error;
    return result;
}

EXPORT int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t size)
{
    const struct sockaddr *to = address.__sockaddr__;
    struct descriptor *d = carried(fd);
    const int saved = errno;
    int64_t deadline = 0;
    int error = 0;
    socklen_t error_size = sizeof error;

    if (d == NULL || to == NULL)
        return plain()->connect(fd, address, size);
    int result = connect_now(fd, address, size);
    while (result != 0 && errno == EAGAIN && to->sa_family == AF_UNIX) {
        if (suspend(after_ns(RETRY_NS), UNLESS_RESTARTED) ==
            WAKE_INTERRUPTED) {
            errno = EINTR;
            return -1;
        }
        result = connect_now(fd, address, size);
    }
    /* EALREADY: a handler has ended an earlier call. */
    if (result == 0 || (errno != EINPROGRESS && errno != EALREADY)) {
        count_call();
        return result;
    }
    d->idle = 0; /* what was seen before it was connecting */
    if (!await_ready(fd, d, OUTPUT, &deadline)) {
        if (errno == EAGAIN)
            errno = EINPROGRESS;
        return -1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_size) != 0)
        return -1;
    errno = error == 0 ? saved : error;
    return error == 0 ? 0 : -1;
}

/*
 * Any descriptor
 */

EXPORT ssize_t read(int fd, void *data, size_t size)
{
    struct descriptor *d = size > 0 ? carried(fd) : NULL;
    struct transfer t = {.data = data, .size = size};
    int64_t deadline = 0;

    if (d != NULL && d->kind != KIND_PIPE)
        return receive(fd, d, &t);
    if (d != NULL && !await_ready(fd, d, INPUT, &deadline))
        return -1;
    ssize_t n = plain()->read(fd, data, size);
    if (d != NULL)
        count_call();
    return n;
}

EXPORT ssize_t __read_chk(int fd, void *data, size_t size, size_t room);
EXPORT ssize_t __read_chk(int fd, void *data, size_t size, size_t room)
{
    if (size > room)
        abort();
    return read(fd, data, size);
}

EXPORT ssize_t readv(int fd, const struct iovec *vector, int count)
{
    struct descriptor *d = count > 0 ? carried(fd) : NULL;
    int64_t deadline = 0;

    if (d != NULL && d->kind != KIND_PIPE) {
        struct msghdr message = {.msg_iov = (struct iovec *)vector,
                                 .msg_iovlen = (size_t)count};
        return recvmsg(fd, &message, 0);
    }
    if (d != NULL && !await_ready(fd, d, INPUT, &deadline))
        return -1;
    return plain()->readv(fd, vector, count);
}

/* Writes to a pipe as much at a time as cannot block once poll has said that
 * there is room. */
static ssize_t write_pieces(int fd, struct descriptor *d, const char *data,
                            size_t size)
{
    int64_t deadline = 0;
    size_t done = 0;

    while (done < size) {
        size_t piece = size - done < PIPE_BUF ? size - done : PIPE_BUF;
        if (!await_ready(fd, d, OUTPUT, &deadline))
            return outcome(done);
        ssize_t n = plain()->write(fd, data + done, piece);
        if (n < 0)
            return outcome(done);
        done += (size_t)n;
        count_call();
    }
    return (ssize_t)done;
}

EXPORT ssize_t write(int fd, const void *data, size_t size)
{
    struct descriptor *d = size > 0 ? carried(fd) : NULL;
    struct transfer t = {.data = (void *)data, .size = size};

    if (d == NULL)
        return plain()->write(fd, data, size);
    return d->kind == KIND_PIPE ? write_pieces(fd, d, data, size)
                                : transmit(fd, d, &t);
}

EXPORT ssize_t writev(int fd, const struct iovec *vector, int count)
{
    struct descriptor *d = count > 0 ? carried(fd) : NULL;
    size_t done = 0;

    if (d == NULL)
        return plain()->writev(fd, vector, count);
    if (d->kind != KIND_PIPE) {
        struct msghdr message = {.msg_iov = (struct iovec *)vector,
                                 .msg_iovlen = (size_t)count};
        return transmit_vector(fd, d, &message, 0);
    }
    if (vector_size(vector, (size_t)count) <= PIPE_BUF) {
        int64_t deadline = 0;
        return await_ready(fd, d, OUTPUT, &deadline)
                   ? plain()->writev(fd, vector, count)
                   : -1;
    }
    for (int i = 0; i < count; i++) {
        ssize_t n = write(fd, vector[i].iov_base, vector[i].iov_len);
        if (n < 0)
            return outcome(done);
        done += (size_t)n;
        if ((size_t)n < vector[i].iov_len)
            break;
    }
    return (ssize_t)done;
}

/*
 * What is not carried
 */

static void warn_of(const char *call, int fd)
{
    if (carried(fd) != NULL)
        warn_once(
            WARN_BLOCKS,
            "%s on a blocking descriptor: while it waits, all coroutines "
            "do",
            call);
}

EXPORT ssize_t sendfile(int to, int from, off_t *offset, size_t size)
{
    warn_of("sendfile", to);
    return plain()->sendfile(to, from, offset, size);
}

EXPORT ssize_t sendfile64(int to, int from, off64_t *offset, size_t size)
{
    warn_of("sendfile", to);
    return plain()->sendfile64(to, from, offset, size);
}

EXPORT ssize_t splice(int from, off64_t *from_offset, int to,
                      off64_t *to_offset, size_t size, unsigned flags)
{
    if ((flags & SPLICE_F_NONBLOCK) == 0) {
        warn_of("splice", from);
        warn_of("splice", to);
    }
    return plain()->splice(from, from_offset, to, to_offset, size, flags);
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count,
                    int flags, struct timespec *timeout)
{
    if ((flags & MSG_DONTWAIT) == 0)
        warn_of("recvmmsg", fd);
    return plain()->recvmmsg(fd, messages, count, flags, timeout);
}
