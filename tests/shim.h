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
    SHIM_ALLOC, /* malloc, calloc and realloc; strdup calls malloc */
    SHIM_ACCEPT4,
    SHIM_PTHREAD_CREATE,
    SHIM_GETADDRINFO, /* which knows upstream.test: 127.0.0.1 */
    SHIM_SEND,
    SHIM_RECV,
    SHIM_POLL,       /* of three descriptors, as the accept loop does */
    SHIM_OTHER_POLL, /* of any other number */
    SHIM_PIPE2,
    SHIM_SOCKET,
    SHIM_SOCKETPAIR,
    SHIM_CONNECT,
    SHIM_BIND,
    SHIM_LISTEN,
    SHIM_SETSOCKOPT,
    SHIM_GETSOCKOPT,
    SHIM_GETSOCKNAME,
    SHIM_GETPEERNAME,
    SHIM_GETNAMEINFO,
    SHIM_SHUTDOWN,
    SHIM_EPOLL_CREATE1,
    SHIM_EPOLL_CTL,
    SHIM_EPOLL_WAIT,
    SHIM_FCNTL,
    SHIM_IOCTL,
    SHIM_OPEN,
    SHIM_FOPEN,
    SHIM_READ,
    SHIM_WRITE,
    SHIM_CLOSE, /* which closes all the same, as Linux does */
    SHIM_STAT,
    SHIM_ACCESS,
    SHIM_GETRLIMIT,
    SHIM_SETRLIMIT,
    SHIM_SCHED_GETSCHEDULER,
    SHIM_SCHED_SETSCHEDULER,
    SHIM_SIGNAL,
    SHIM_SIGACTION,
    SHIM_PTHREAD_SIGMASK,
    SHIM_PTHREAD_KILL,
    SHIM_PTHREAD_ATTR, /* init, setdetachstate and setstacksize */
    SHIM_PTHREAD_CONDATTR,
    SHIM_NANOSLEEP,
    SHIM_CALLS, /* how many there are */
    SHIM_ANY    /* for .call: none fails, and all are listed */
};

/* For .error of SHIM_SEND and SHIM_RECV: no failure, but only one byte. */
#define SHIM_ONE_BYTE (-1)

/* For .error of SHIM_GETADDRINFO: no failure, but this many seconds late. */
#define SHIM_LATE (-1000)
#define SHIM_LATE_SECONDS 8

#define SHIM_ORDER 65536    /* calls that are listed, at most */
#define SHIM_PLACE_SIZE 64  /* bytes of a place in the code */
#define SHIM_PLACES_LEFT 64 /* that still have memory at the end, at most */

struct shim {
    atomic_int call;   /* the one that is counted and fails */
    atomic_int error;  /* its errno, or what it returns */
    atomic_long after; /* this many calls succeed, */
    atomic_long count; /* this many fail, and later ones succeed again */
    atomic_long seen;
    atomic_long failed;

    char place[SHIM_PLACE_SIZE]; /* in the code, of the first that failed */

    /* With SHIM_ANY: the calls that are seen, in their order. */
    unsigned char kinds[SHIM_ORDER];
    const void *callers[SHIM_ORDER]; /* addresses in the code */

    /* The memory that was not freed at the end, by what allocated it. */
    atomic_int ended; /* SHIM_EXITED, or SHIM_LEFT while threads still ran */
    int places;       /* -1: too many */
    struct {
        char place[SHIM_PLACE_SIZE];
        long blocks;
    } left[SHIM_PLACES_LEFT];
};

enum shim_end { SHIM_RUNS, SHIM_EXITED, SHIM_LEFT };

#endif
