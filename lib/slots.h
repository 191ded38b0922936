/*
 * slots.h - numbered places, each held by one thread at a time
 *
 * While some are free and nobody waits, acquiring one takes no lock: each is a
 * bit of a map. A caller that names the slot it had last mostly gets it, so
 * what belongs to the slot stays in its core's cache; any other caller gets
 * the lowest that is free. When all are held, callers wait in line, first
 * come, first served.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef SLOTS_H
#define SLOTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct slots {
    _Atomic(uint64_t) *held; /* a bit per slot */
    unsigned words;          /* of the map */
    atomic_uint waiting;     /* threads in line; changes under the mutex */
    pthread_mutex_t mutex;   /* guards the line, never held across I/O */
    STAILQ_HEAD(, waiter) line;
};

/* Prepares the slots 0 to count - 1. Returns false when memory is short;
 * slots_free may be called then as well. */
bool slots_init(struct slots *slots, unsigned count);

/* Frees what it holds. No thread may hold a slot or wait for one. */
void slots_free(struct slots *slots);

/* Acquires a slot, if possible the preferred one, which must be a slot's
 * number. Blocks while all are held. Any thread may call it. */
unsigned slots_acquire(struct slots *slots, unsigned preferred);

/* Releases a slot that the caller holds. */
void slots_release(struct slots *slots, unsigned slot);

#endif
