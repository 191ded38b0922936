/*
 * threads.h - what a coroutine has of a thread
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_THREADS_H
#define GREEN_THREADS_H

struct coroutine;

/* Calls the destructors of the values of pthread_setspecific. */
void end_specifics(struct coroutine *coroutine);

#endif
