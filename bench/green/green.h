/*
 * green.h - what is the program's own
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_GREEN_H
#define GREEN_GREEN_H

#include "calls.h"

#include <stdbool.h>

/* Returns whether other processes may post a semaphore. */
bool is_shared(const sem_t *semaphore);

/* Returns whether a thread with that start routine becomes a coroutine. */
bool is_programs(thread_start *start);

#endif
