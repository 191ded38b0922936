/*
 * signals.h - which coroutine a signal is for
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_SIGNALS_H
#define GREEN_SIGNALS_H

#include "coroutine.h"

/* Whether a handler of the program's runs on the carrier. Meanwhile it is no
 * carrier, and each call is the plain one: whatever the handler interrupts may
 * be half done. */
extern __thread bool in_handler;

/* Gives the main coroutine the signal mask that the process has. */
void signals_init(void);

/* Gives a coroutine the mask of the running one; takes it back. */
void signals_begin(struct coroutine *coroutine);
void signals_end(struct coroutine *coroutine);

/* Leaves the running coroutine's mask alone, in the child of a fork. */
void signals_after_fork(void);

/* Sets the thread's mask to the running coroutine's own, for a thread that is
 * about to be created, and back to what all coroutines block. */
void show_own_mask(void);
void show_common_mask(void);

/* Lets the running coroutine wait with another mask, which may be NULL.
 * Returns what to end that with. */
uint64_t begin_masked_wait(const sigset_t *set);
void end_masked_wait(uint64_t blocked);

/* Sends a signal to one coroutine. Returns 0 or what is wrong. */
int send_to(struct coroutine *coroutine, int number,
            const union sigval *value);

/* Whether a handler has run, so that some coroutine's call may have to end. */
extern volatile sig_atomic_t handler_has_run;

/* Ends these calls. */
void end_interrupted_calls(void);

#endif
