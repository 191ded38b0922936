/*
 * descriptors.h - what is known about the program's descriptors
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_DESCRIPTORS_H
#define GREEN_DESCRIPTORS_H

#include "coroutine.h"

enum kind {
    KIND_PLAIN,    /* a file, or what else is always ready */
    KIND_PIPE,     /* what can be waited for, but is no socket */
    KIND_DATAGRAM, /* sockets ... */
    KIND_STREAM,
    KIND_TCP
};

struct watch;

struct descriptor {
    atomic_bool known; /* else the members below mean nothing */
    unsigned char kind;
    bool nonblocking;    /* by the program's wish */
    bool registered;     /* at epoll */
    bool duplicated;     /* another number may be the same file */
    bool unsteady;       /* its end is near: idle cannot be relied on */
    short idle;          /* POLLIN, POLLOUT: not ready; epoll says when */
    uint32_t generation; /* of the registration */
    int64_t timeouts[2]; /* SO_RCVTIMEO, SO_SNDTIMEO in ns, or 0 */
    struct watch *watches;
};

enum direction { INPUT, OUTPUT };

/* Makes the table. Returns false if that fails. */
bool descriptors_init(void);

/* The same in the child of a fork, which must not use its parent's epoll. */
void descriptors_after_fork(void);

int event_fd(void);

/* Has epoll report input there. */
bool watch_wake_fd(int fd);

/* Returns whether an event is of this descriptor. */
bool is_event_of(const struct epoll_event *event, int fd);

/* Wakes those that wait for this event. */
void descriptor_event(const struct epoll_event *event);

/* Returns what is known about it, after a look if that is nothing; NULL if fd
 * is too large a number, or none. */
struct descriptor *descriptor(int fd);

/* Returns the same if a call that may block must be carried, or NULL if it
 * may be made as it is: what is called is not ours, or will not block. */
struct descriptor *carried(int fd);

/* Notes a descriptor that the program has just got. */
void descriptor_opened(int fd, enum kind kind, bool nonblocking);

/* Forgets one that is to be closed; those that wait for it are woken. */
void descriptor_closing(int fd);

/* Waits for POLLIN or POLLOUT. *deadline is 0 at the first wait of a call.
 * Returns false with errno set when there is no more point in waiting. */
bool await(int fd, enum direction direction, int64_t *deadline);

/* poll, without a wait. */
int poll_now(struct pollfd *fds, nfds_t count);

/* poll, until that time. */
int poll_until(struct pollfd *fds, nfds_t count, int64_t deadline);

#endif
