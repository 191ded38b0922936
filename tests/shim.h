/*
 * How a test tells the preloaded shim.so which calls of a server fail. The
 * file that $SHIM names holds this, mapped by both.
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
    SHIM_RECV
};

/* For .error of SHIM_SEND and SHIM_RECV: no failure, but only one byte. */
#define SHIM_ONE_BYTE (-1)

struct shim {
    atomic_int call;   /* the one that is counted and fails */
    atomic_int error;  /* its errno, or what it returns */
    atomic_long after; /* so many calls go well, */
    atomic_long count; /* so many fail, and the rest goes well again */
    atomic_long seen;
    atomic_long failed;
};

#endif
