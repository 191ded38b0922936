/*
 * ring.c - an io_uring, see ring.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* for liburing's header */
#include "ring.h"
#include "../../lib/clock.h"

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

void ring_start(struct ring *ring, const char *name, int argc, char **argv)
{
    int rc = io_uring_queue_init(ENTRIES, &ring->uring, FLAGS);

    if (rc < 0)
        give_up(name, -rc);
    if (argc == 2 && strcmp(argv[1], "--probe") == 0)
        exit(0);
    ring->now = clock_ms();
}

void ring_reserve(struct ring *ring, unsigned count)
{
    while (io_uring_sq_space_left(&ring->uring) < count) {
        int rc = io_uring_submit(&ring->uring);
        if (rc <= 0 && rc != -EINTR)
            give_up("submit", -rc);
    }
}

struct io_uring_sqe *ring_next(struct ring *ring)
{
    ring_reserve(ring, 1);
    return io_uring_get_sqe(&ring->uring); /* never NULL: there is room */
}

void ring_tell(struct io_uring_sqe *entry, struct operation *operation)
{
    io_uring_sqe_set_data(entry, operation);
}

void ring_tell_failure(struct io_uring_sqe *entry, struct operation *operation)
{
    entry->flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data(entry, operation);
}

/* Nobody is told of the completion. */
static void tell_nobody(struct io_uring_sqe *entry)
{
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data(entry, NULL);
}

void ring_close(struct ring *ring, int fd)
{
    struct io_uring_sqe *entry = ring_next(ring);

    io_uring_prep_close(entry, fd);
    tell_nobody(entry);
}

void ring_cancel(struct ring *ring, struct operation *operation)
{
    struct io_uring_sqe *entry = ring_next(ring);

    io_uring_prep_cancel(entry, operation, 0);
    tell_nobody(entry);
}

void ring_cancel_fd(struct ring *ring, int fd)
{
    struct io_uring_sqe *entry = ring_next(ring);

    io_uring_prep_cancel_fd(entry, fd, IORING_ASYNC_CANCEL_ALL);
    tell_nobody(entry);
}

void ring_round(struct ring *ring, long long until)
{
    long long ms = until > ring->now ? until - ring->now : 0;
    struct __kernel_timespec timeout = {.tv_sec = ms / 1000,
                                        .tv_nsec = ms % 1000 * 1000000};
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    int rc = io_uring_submit_and_wait_timeout(
        &ring->uring, &cqe, 1, until < 0 ? NULL : &timeout, NULL);

    if (rc < 0 && rc != -ETIME && rc != -EINTR)
        give_up("wait", -rc);
    ring->now = clock_ms();
    io_uring_for_each_cqe(&ring->uring, head, cqe)
    {
        const struct operation *operation = io_uring_cqe_get_data(cqe);
        count++;
        if (operation != NULL) /* else it was too late to cancel */
            operation->completed(operation->owner, cqe->res, cqe->flags);
    }
    io_uring_cq_advance(&ring->uring, count);
}
