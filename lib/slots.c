/*
 * slots.c - numbered places, each held by one thread at a time, see slots.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "slots.h"

#include <stdlib.h>

#define BITS 64      /* of a word of the map */
#define NO_SLOT (-1) /* instead of a slot's number */

/* A thread in line. It lives on that thread's stack. */
struct waiter {
    STAILQ_ENTRY(waiter) next;
    pthread_cond_t acquired;
    long slot;
};

bool slots_init(struct slots *slots, unsigned count)
{
    slots->words = (count + BITS - 1) / BITS;
    slots->held = calloc(slots->words, sizeof *slots->held);
    pthread_mutex_init(&slots->mutex, NULL); /* cannot fail on Linux */
    STAILQ_INIT(&slots->line);
    if (slots->held == NULL)
        return false;
    if (count % BITS != 0) /* the last word has bits that are no slots */
        atomic_store(&slots->held[count / BITS], UINT64_MAX << count % BITS);
    return true;
}

void slots_free(struct slots *slots)
{
    free(slots->held);
    pthread_mutex_destroy(&slots->mutex);
}

/* Takes this slot if it is free. */
static bool take(struct slots *slots, unsigned slot)
{
    uint64_t bit = UINT64_C(1) << slot % BITS;

    return (atomic_fetch_or(&slots->held[slot / BITS], bit) & bit) == 0;
}

/* Takes the preferred slot, or else the lowest that is free. Returns it, or
 * NO_SLOT when all are held. */
static long take_any(struct slots *slots, unsigned preferred)
{
    unsigned word = 0;

    if (take(slots, preferred))
        return preferred;
    while (word < slots->words) {
        uint64_t held = atomic_load(&slots->held[word]);
        if (held == UINT64_MAX) {
            word++;
            continue;
        }
        unsigned slot = word * BITS + (unsigned)__builtin_ctzll(~held);
        if (take(slots, slot)) /* else another thread took it */
            return slot;
    }
    return NO_SLOT;
}

/* Gives free slots to the threads at the head of the line; the mutex is
 * held. */
static void serve_line(struct slots *slots)
{
    while (!STAILQ_EMPTY(&slots->line)) {
        struct waiter *first = STAILQ_FIRST(&slots->line);
        first->slot = take_any(slots, 0);
        if (first->slot == NO_SLOT)
            return;
        STAILQ_REMOVE_HEAD(&slots->line, next);
        atomic_fetch_sub(&slots->waiting, 1);
        pthread_cond_signal(&first->acquired);
    }
}

unsigned slots_acquire(struct slots *slots, unsigned preferred)
{
    struct waiter self = {.slot = NO_SLOT};

    /* While somebody waits, a newcomer joins the line as well. */
    if (atomic_load(&slots->waiting) == 0)
        self.slot = take_any(slots, preferred);
    if (self.slot != NO_SLOT)
        return (unsigned)self.slot;

    /* A waiter is counted before it looks for a free slot again, and a slot
     * is free before slots_release looks for waiters: one sees the other. */
    pthread_cond_init(&self.acquired, NULL); /* cannot fail on Linux */
    pthread_mutex_lock(&slots->mutex);
    STAILQ_INSERT_TAIL(&slots->line, &self, next);
    atomic_fetch_add(&slots->waiting, 1);
    serve_line(slots);
    while (self.slot == NO_SLOT)
        pthread_cond_wait(&self.acquired, &slots->mutex);
    pthread_mutex_unlock(&slots->mutex);
    pthread_cond_destroy(&self.acquired);
    return (unsigned)self.slot;
}

void slots_release(struct slots *slots, unsigned slot)
{
    uint64_t bit = UINT64_C(1) << slot % BITS;

    atomic_fetch_and(&slots->held[slot / BITS], ~bit);
    if (atomic_load(&slots->waiting) == 0)
        return;
    pthread_mutex_lock(&slots->mutex);
    serve_line(slots);
    pthread_mutex_unlock(&slots->mutex);
}
