/*
 * deadline.c - what has to come in time, see deadline.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "deadline.h"

#include <stddef.h>

void deadlines_init(struct deadlines *queue, long ms)
{
    queue->ms = ms;
    TAILQ_INIT(&queue->waiting);
}

void deadline_set(struct deadline *deadline, struct deadlines *queue,
                  long long now)
{
    deadline_clear(deadline);
    deadline->queue = queue;
    deadline->at = now + queue->ms;
    TAILQ_INSERT_TAIL(&queue->waiting, deadline, entry);
}

void deadline_clear(struct deadline *deadline)
{
    if (deadline->queue != NULL)
        TAILQ_REMOVE(&deadline->queue->waiting, deadline, entry);
    deadline->queue = NULL;
}

void *deadlines_overdue(struct deadlines *queue, long long now)
{
    struct deadline *first = TAILQ_FIRST(&queue->waiting);

    if (first == NULL || first->at > now)
        return NULL;
    deadline_clear(first);
    return first->owner;
}

long long deadlines_next(const struct deadlines *queue, long long until)
{
    const struct deadline *first = TAILQ_FIRST(&queue->waiting);

    return first != NULL && (until < 0 || first->at < until) ? first->at
                                                             : until;
}
