/*
 * ring.c - an io_uring, see ring.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* for liburing's header */
#include "ring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES 1024 /* that are submitted at once, at most */

/* Linux 6.1 has all that is used here. One thread submits, and completes only
 * when it asks for completions; then the kernel does not interrupt it. */
#define FLAGS (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

/* Ends the process; error is an errno value. */
static void give_up(const char *name, int error)
{
    fprintf(stderr, "%s: io_uring: %s%s\n", name, strerror(error),
            error == EINVAL ? " (it takes Linux 6.1)" : "");
    exit(1);
}

void ring_start(struct io_uring *ring, const char *name, int argc, char **argv)
{
    int rc = io_uring_queue_init(ENTRIES, ring, FLAGS);

    if (rc < 0)
        give_up(name, -rc);
    if (argc == 2 && strcmp(argv[1], "--probe") == 0)
        exit(0);
}

void ring_reserve(struct io_uring *ring, unsigned count)
{
    while (io_uring_sq_space_left(ring) < count) {
        int rc = io_uring_submit(ring);
        if (rc <= 0 && rc != -EINTR)
            give_up("submit", -rc);
    }
}

struct io_uring_sqe *ring_next(struct io_uring *ring)
{
    ring_reserve(ring, 1);
    return io_uring_get_sqe(ring); /* never NULL, since there is room */
}

void ring_wait(struct io_uring *ring, long long now, long long until)
{
    long long ms = until > now ? until - now : 0;
    struct __kernel_timespec timeout = {.tv_sec = ms / 1000,
                                        .tv_nsec = ms % 1000 * 1000000};
    struct io_uring_cqe *first;
    int rc = io_uring_submit_and_wait_timeout(
        ring, &first, 1, until < 0 ? NULL : &timeout, NULL);

    if (rc < 0 && rc != -ETIME && rc != -EINTR)
        give_up("wait", -rc);
}
