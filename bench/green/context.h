/*
 * context.h - from one stack to another
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_CONTEXT_H
#define GREEN_CONTEXT_H

#include <stddef.h>

#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(GREEN_UCONTEXT)
#define GREEN_UCONTEXT
#endif
#ifdef GREEN_UCONTEXT
#include <ucontext.h>
#endif

/* What a coroutine goes on from; valid while it does not run. */
struct context {
#ifdef GREEN_UCONTEXT
    ucontext_t machine;
#else
    void *stack_pointer;
#endif
};

/* Makes a context that calls start, which must not return, on that stack. */
void context_make(struct context *context, char *stack, size_t size,
                  void (*start)(void));

/* Leaves this context, to go on from there. Returns once some other context
 * switches back to from. */
void context_switch(struct context *from, struct context *to);

#endif
