/*
 * threads.c - threads that become coroutines, and what each has of its own
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "threads.h"
#include "coroutine.h"
#include "green.h"
#include "outside.h"
#include "signals.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS 1000000 /* between two of a thread that joins a coroutine */
#define FEW_KEYS 16     /* values of a coroutine that has any, at first */

struct specific {
    unsigned generation; /* of the key, when the value was set */
    const void *value;
};

/* A key of pthread_key_create. */
struct key {
    atomic_uint generation; /* odd while it is in use */
    void (*destructor)(void *);
};

static struct key keys[PTHREAD_KEYS_MAX];

/*
 * A coroutine as pthread_t: its address with a bit set that no address of a
 * thread has.
 */

static pthread_t handle_of(const struct coroutine *coroutine)
{
    return (uintptr_t)coroutine | 1;
}

static struct coroutine *coroutine_of(pthread_t thread)
{
    struct coroutine *coroutine = NULL;

    if ((thread & 1) != 0) {
        thread--;
        memcpy(&coroutine, &thread, sizeof coroutine);
    }
    return coroutine;
}

/* The thread that a call is to be made for. */
static pthread_t thread_of(pthread_t thread)
{
    return coroutine_of(thread) != NULL ? carrier : thread;
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
                          thread_start *start, void *argument)
{
    static atomic_flag started = ATOMIC_FLAG_INIT;

    if (is_programs(start) && !is_carrier &&
        !atomic_flag_test_and_set(&started) && !become_carrier())
        warn_once(WARN_BOUND, "cannot start: %s; threads stay threads",
                  strerror(errno));
    if (!is_carrier)
        return plain()->pthread_create(thread, attr, start, argument);
    if (!is_programs(start)) {
        show_own_mask(); /* a thread inherits it */
        int error = plain()->pthread_create(thread, attr, start, argument);
        show_common_mask();
        return error;
    }
    struct coroutine *coroutine = coroutine_create(attr, start, argument);
    if (coroutine == NULL)
        return EAGAIN;
    *thread = handle_of(coroutine);
    return 0;
}

EXPORT pthread_t pthread_self(void)
{
    if ((!is_carrier && !in_handler) || current == &main_coroutine)
        return plain()->pthread_self();
    return handle_of(current);
}

/* Joins a coroutine. Returns 0, ETIMEDOUT or what is wrong. */
static int join_until(struct coroutine *coroutine, void **result,
                      int64_t deadline)
{
    if (coroutine == current)
        return EDEADLK;
    if (coroutine->detached || coroutine->joiner != NULL)
        return EINVAL;
    while (coroutine->state != ENDED) {
        coroutine->joiner = current;
        enum wake why = suspend(deadline, UNINTERRUPTED);
        coroutine->joiner = NULL;
        if (why == WAKE_TIME && coroutine->state != ENDED)
            return ETIMEDOUT;
    }
    if (result != NULL)
        *result = coroutine->result;
    free(coroutine);
    return 0;
}

/* Joins a coroutine from a thread that is none; that one may sleep. */
static int join_from_outside(struct coroutine *coroutine, void **result)
{
    const struct timespec pause = {.tv_nsec = LOOK_NS};

    while (!atomic_load(&coroutine->buried))
        (void)plain()->clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    if (result != NULL)
        *result = coroutine->result;
    free(coroutine);
    return 0;
}

/* A coroutine joins a thread that is none. */
struct join_call {
    pthread_t thread;
    void **result;
    clockid_t clock;
    const struct timespec *time; /* NULL: it waits for ever */
    int error;
};

static void call_join(void *argument)
{
    struct join_call *c = argument;

    c->error = c->time == NULL ? plain()->pthread_join(c->thread, c->result)
                               : plain()->pthread_clockjoin_np(
                                     c->thread, c->result, c->clock, c->time);
}

static int join_outside(pthread_t thread, void **result, clockid_t clock,
                        const struct timespec *time)
{
    struct join_call c = {thread, result, clock, time, 0};

    if (is_carrier && !pthread_equal(thread, carrier))
        call_outside(call_join, &c);
    else
        call_join(&c);
    return c.error;
}

EXPORT int pthread_join(pthread_t thread, void **result)
{
    struct coroutine *coroutine = coroutine_of(thread);

    if (coroutine == NULL)
        return join_outside(thread, result, 0, NULL);
    return is_carrier ? join_until(coroutine, result, NEVER)
                      : join_from_outside(coroutine, result);
}

EXPORT int pthread_tryjoin_np(pthread_t thread, void **result)
{
    struct coroutine *coroutine = coroutine_of(thread);

    if (coroutine == NULL)
        return plain()->pthread_tryjoin_np(thread, result);
    if (!is_carrier)
        return coroutine->buried ? join_from_outside(coroutine, result)
                                 : EBUSY;
    if (coroutine->state != ENDED)
        give_way(); /* a loop of these must come to an end */
    return coroutine->state == ENDED ? join_until(coroutine, result, NEVER)
                                     : EBUSY;
}

EXPORT int pthread_clockjoin_np(pthread_t thread, void **result,
                                clockid_t clock, const struct timespec *time)
{
    struct coroutine *coroutine = coroutine_of(thread);

    if (coroutine == NULL)
        return join_outside(thread, result, clock, time);
    if (is_carrier)
        return join_until(coroutine, result, at(clock, time));
    while (!coroutine->buried && at(clock, time) > now_ns())
        (void)plain()->sched_yield();
    return coroutine->buried ? join_from_outside(coroutine, result)
                             : ETIMEDOUT;
}

EXPORT int pthread_timedjoin_np(pthread_t thread, void **result,
                                const struct timespec *time)
{
    return pthread_clockjoin_np(thread, result, CLOCK_REALTIME, time);
}

EXPORT int pthread_detach(pthread_t thread)
{
    struct coroutine *coroutine = coroutine_of(thread);

    if (coroutine == NULL)
        return plain()->pthread_detach(thread);
    if (coroutine->detached)
        return EINVAL;
    coroutine->detached = true;
    if (coroutine->state == ENDED)
        free(coroutine);
    return 0;
}

EXPORT _Noreturn void pthread_exit(void *result)
{
    if (is_carrier)
        coroutine_end(result);
    plain()->pthread_exit(result);
    abort(); /* it does not return */
}

/* Returns the coroutine that a signal is to be sent to, or NULL: it goes to a
 * thread. */
static struct coroutine *addressee_of(pthread_t thread)
{
    struct coroutine *coroutine = coroutine_of(thread);

    if (coroutine == NULL && carrier_id != 0 && pthread_equal(thread, carrier))
        return &main_coroutine;
    return coroutine;
}

EXPORT int pthread_kill(pthread_t thread, int number)
{
    struct coroutine *coroutine = addressee_of(thread);

    return coroutine == NULL ? plain()->pthread_kill(thread, number)
                             : send_to(coroutine, number, NULL);
}

EXPORT int pthread_sigqueue(pthread_t thread, int number,
                            const union sigval value)
{
    struct coroutine *coroutine = addressee_of(thread);

    return coroutine == NULL ? plain()->pthread_sigqueue(thread, number, value)
                             : send_to(coroutine, number, &value);
}

EXPORT int pthread_cancel(pthread_t thread)
{
    if (coroutine_of(thread) == NULL)
        return plain()->pthread_cancel(thread);
    warn_once(WARN_CANCEL, "pthread_cancel does not end a coroutine");
    return ENOSYS;
}

/* A thread's name is for those who look at it from outside. */
EXPORT int pthread_setname_np(pthread_t thread, const char *name)
{
    return coroutine_of(thread) != NULL
               ? 0
               : plain()->pthread_setname_np(thread, name);
}

/* The rest is the carrier's, if it is a coroutine's. */

EXPORT int pthread_getname_np(pthread_t thread, char *name, size_t size)
{
    return plain()->pthread_getname_np(thread_of(thread), name, size);
}

EXPORT int pthread_getcpuclockid(pthread_t thread, clockid_t *clock)
{
    return plain()->pthread_getcpuclockid(thread_of(thread), clock);
}

EXPORT int pthread_getaffinity_np(pthread_t thread, size_t size,
                                  cpu_set_t *cpus)
{
    return plain()->pthread_getaffinity_np(thread_of(thread), size, cpus);
}

EXPORT int pthread_setaffinity_np(pthread_t thread, size_t size,
                                  const cpu_set_t *cpus)
{
    return plain()->pthread_setaffinity_np(thread_of(thread), size, cpus);
}

EXPORT int pthread_getschedparam(pthread_t thread, int *policy,
                                 struct sched_param *param)
{
    return plain()->pthread_getschedparam(thread_of(thread), policy, param);
}

EXPORT int pthread_setschedparam(pthread_t thread, int policy,
                                 const struct sched_param *param)
{
    return plain()->pthread_setschedparam(thread_of(thread), policy, param);
}

EXPORT int pthread_getattr_np(pthread_t thread, pthread_attr_t *attr)
{
    const struct coroutine *coroutine = coroutine_of(thread);

    if (coroutine == NULL)
        return plain()->pthread_getattr_np(thread, attr);
    int error = pthread_attr_init(attr);
    if (error == 0)
        error = pthread_attr_setstack(attr, coroutine->stack.memory,
                                      coroutine->stack.size);
    if (error == 0)
        error = pthread_attr_setdetachstate(
            attr, coroutine->detached ? PTHREAD_CREATE_DETACHED
                                      : PTHREAD_CREATE_JOINABLE);
    return error;
}

/*
 * pthread_key_create and what belongs to it. The main coroutine and other
 * threads have their values where the C library keeps them.
 */

EXPORT int pthread_key_create(pthread_key_t *key, void (*destructor)(void *))
{
    int error = plain()->pthread_key_create(key, destructor);

    if (error == 0 && *key < PTHREAD_KEYS_MAX) {
        keys[*key].destructor = destructor;
        atomic_fetch_add(&keys[*key].generation, 1);
    }
    return error;
}

EXPORT int pthread_key_delete(pthread_key_t key)
{
    int error = plain()->pthread_key_delete(key);

    if (error == 0 && key < PTHREAD_KEYS_MAX)
        atomic_fetch_add(&keys[key].generation, 1);
    return error;
}

EXPORT void *pthread_getspecific(pthread_key_t key)
{
    if (!is_carrier || current == &main_coroutine)
        return plain()->pthread_getspecific(key);
    if (key >= current->specific_count ||
        current->specifics[key].generation != keys[key].generation)
        return NULL;
    return (void *)current->specifics[key].value;
}

EXPORT int pthread_setspecific(pthread_key_t key, const void *value)
{
    if (!is_carrier || current == &main_coroutine)
        return plain()->pthread_setspecific(key, value);
    if (key >= PTHREAD_KEYS_MAX || keys[key].generation % 2 == 0)
        return EINVAL;
    if (key >= current->specific_count) {
        unsigned count = key < FEW_KEYS ? FEW_KEYS : PTHREAD_KEYS_MAX;
        struct specific *more =
            realloc(current->specifics, count * sizeof *more);
        if (more == NULL)
            return ENOMEM;
        memset(more + current->specific_count, 0,
               (count - current->specific_count) * sizeof *more);
        current->specifics = more;
        current->specific_count = count;
    }
    current->specifics[key] =
        (struct specific){.generation = keys[key].generation, .value = value};
    return 0;
}

void end_specifics(struct coroutine *coroutine)
{
    bool again = coroutine->specific_count > 0;

    for (int i = 0; again && i < PTHREAD_DESTRUCTOR_ITERATIONS; i++) {
        again = false;
        for (unsigned key = 0; key < coroutine->specific_count; key++) {
            struct specific *specific = &coroutine->specifics[key];
            const void *value = specific->value;
            specific->value = NULL;
            if (value == NULL || keys[key].destructor == NULL ||
                specific->generation != keys[key].generation)
                continue;
            keys[key].destructor((void *)value);
            again = true;
        }
    }
    free(coroutine->specifics);
    coroutine->specifics = NULL;
    coroutine->specific_count = 0;
}
