/*
 * coroutine.h - coroutines, what they wait for, and who runs next
 *
 * But for is_carrier, all of it is for the carrier thread alone.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_COROUTINE_H
#define GREEN_COROUTINE_H

#include "calls.h"
#include "context.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#define NEVER INT64_MAX /* instead of a time */

enum state { READY, RUNNING, WAITING, ENDED };

/* Why a coroutine goes on. */
enum wake {
    WAKE_EVENT,      /* something has happened: look again */
    WAKE_GRANTED,    /* what it waited for is its own */
    WAKE_TIME,       /* it has waited long enough */
    WAKE_CLOSED,     /* its descriptor was closed */
    WAKE_INTERRUPTED /* a signal handler has run */
};

/* Which waits a signal handler ends. */
enum interruptible { UNINTERRUPTED, UNLESS_RESTARTED, INTERRUPTED };

struct stack {
    char *memory; /* above the guard */
    size_t size;
    size_t guard; /* bytes below memory that cannot be accessed */
    bool borrowed;
};

struct mask;
struct specific;

struct coroutine {
    struct context context;
    enum state state;
    enum wake wake;
    enum interruptible interruptible;
    int number; /* no thread id, and never 0 */
    STAILQ_ENTRY(coroutine) in_ready;
    TAILQ_ENTRY(coroutine) in_bucket;
    const void *address; /* of the object that it waits for, or NULL */
    int64_t deadline;
    size_t timer; /* place among the timers, 0 for none */
    struct stack stack;
    thread_start *start;
    void *argument;
    void *result;
    bool detached;
    atomic_bool buried; /* nothing is left of it but this */
    struct coroutine *joiner;
    struct specific *specifics; /* values of pthread_setspecific */
    unsigned specific_count;
    int signal_fd;     /* of sigwait, or -1 */
    struct mask *mask; /* of signals; NULL once it has ended */
    TAILQ_ENTRY(coroutine) in_mask;
    _Atomic uint64_t pending; /* signals, for it alone, that it blocks */
    _Atomic uint64_t awaited; /* those that it waits for */
    union sigval value;       /* of the last of them */
    atomic_int interrupts;    /* which waits a handler has ended */
    struct coroutine *next_interrupted;
};

/* Whether this thread is the carrier, and there are coroutines. */
extern __thread bool is_carrier;

extern struct coroutine main_coroutine;
extern struct coroutine *current;
extern pthread_t carrier;
extern int carrier_id;  /* its thread id */
extern long coroutines; /* that have not ended, without the main one */

/* Returns monotonic time, in ns. */
int64_t now_ns(void);

/* Returns when a wait that begins now is over. */
int64_t after_ns(int64_t ns);
int64_t after(const struct timespec *duration);

/* Returns the monotonic time of a time of that clock. */
int64_t at(clockid_t clock, const struct timespec *time);

/* Maps memory of zeros, which takes none until it is used. Returns NULL if
 * that fails. */
void *map_memory(size_t size);

/* Makes the calling thread the carrier. Returns false if that fails. */
bool become_carrier(void);

/* Returns a coroutine that is ready to run, or NULL. */
struct coroutine *coroutine_create(const pthread_attr_t *attr,
                                   thread_start *start, void *argument);

_Noreturn void coroutine_end(void *result);

/* Lets others run until something wakes this one, or until the deadline.
 * errno stays what it is. */
enum wake suspend(int64_t deadline, enum interruptible interruptible);

/* Makes a coroutine that waits ready; leaves any other alone. */
void wake(struct coroutine *coroutine, enum wake why);

/* Lets those run that are ready. */
void give_way(void);

/* For a handler of a signal, and for any other thread: has the carrier soon
 * look for waits that have ended. */
void look_soon(void);

/* The handler of a fault that green sets. */
void on_fault(int number, siginfo_t *info, void *machine);

/* To be called where a call did not have to wait: now and then it gives way,
 * or one busy coroutine would keep all others from running. */
void count_call(void);

/*
 * A wait at an address: that of a mutex, a condition variable, a semaphore
 */

/* Enters the running coroutine; then it must suspend(), or leave. */
void enter_wait(const void *address);
void leave_wait(void);

/* Returns who has waited there longest, or NULL. */
struct coroutine *first_waiter(const void *address);

/* Wakes the one that has waited longest, or all. Returns false if none does.
 */
bool wake_one(const void *address);
bool wake_all(const void *address, enum wake why);

/* For any other thread: has all waits at addresses look again. */
void wake_from_outside(void);

/*
 * Warnings, each of them printed once
 */

enum warning {
    WARN_HELD,
    WARN_UNWATCHED,
    WARN_CANCEL,
    WARN_JUMP,
    WARN_BLOCKS,
    WARN_BOUND,
    WARNINGS
};

__attribute__((format(printf, 2, 3))) void warn_once(enum warning warning,
                                                     const char *format, ...);

#endif
