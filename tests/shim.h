/*
 * shim.h - which calls of a server fail, as a test tells the preloaded shim.so
 *
 * The file that $SHIM names holds this, mapped by both.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef SHIM_H
#define SHIM_H

#include <stdatomic.h>

enum shim_call {
    SHIM_NONE,
    SHIM_ALLOC, /* malloc, calloc and realloc */
    SHIM_ACCEPT4,
    SHIM_PTHREAD_CREATE,
    SHIM_GETADDRINFO, /* which knows upstream.test: 127.0.0.1 */
    SHIM_SEND,
    SHIM_RECV,
    SHIM_POLL, /* of three descriptors, as the accept loop does */
    SHIM_PIPE2,
    SHIM_SOCKET,
    SHIM_EPOLL_CREATE1,
    SHIM_EPOLL_CTL,
    SHIM_SETRLIMIT,
    SHIM_SCHED_SETSCHEDULER
};

/* For .error of SHIM_SEND and SHIM_RECV: no failure, but only one byte. */
#define SHIM_ONE_BYTE (-1)

/* For .error of SHIM_GETADDRINFO: no failure, but this many seconds late. */
#define SHIM_LATE (-1000)
#define SHIM_LATE_SECONDS 8

struct shim {
    atomic_int call;   /* the one that is counted and fails */
    atomic_int error;  /* its errno, or what it returns */
    atomic_long after; /* this many calls succeed, */
    atomic_long count; /* this many fail, and later ones succeed again */
    atomic_long seen;
    atomic_long failed;
};

#endif
