/*
 * c11.c - the locks, conditions and keys of <threads.h>
 *
 * In the C library they are those of <pthread.h> under other names, but it
 * calls its own. A thread of thrd_create stays one.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "calls.h"

#include <errno.h>
#include <threads.h>

_Static_assert(sizeof(mtx_t) == sizeof(pthread_mutex_t) &&
                   sizeof(cnd_t) == sizeof(pthread_cond_t) &&
                   sizeof(once_flag) == sizeof(pthread_once_t) &&
                   sizeof(tss_t) == sizeof(pthread_key_t),
               "the C library has types of its own for <threads.h>");

static int result_of(int error)
{
    switch (error) {
    case 0:
        return thrd_success;
    case EBUSY:
        return thrd_busy;
    case ETIMEDOUT:
        return thrd_timedout;
    case ENOMEM:
        return thrd_nomem;
    default:
        return thrd_error;
    }
}

EXPORT int mtx_lock(mtx_t *mutex)
{
    return result_of(pthread_mutex_lock((pthread_mutex_t *)mutex));
}

EXPORT int mtx_timedlock(mtx_t *restrict mutex,
                         const struct timespec *restrict time)
{
    return result_of(pthread_mutex_timedlock((pthread_mutex_t *)mutex, time));
}

EXPORT int mtx_trylock(mtx_t *mutex)
{
    return result_of(pthread_mutex_trylock((pthread_mutex_t *)mutex));
}

EXPORT int mtx_unlock(mtx_t *mutex)
{
    return result_of(pthread_mutex_unlock((pthread_mutex_t *)mutex));
}

EXPORT int cnd_wait(cnd_t *cond, mtx_t *mutex)
{
    return result_of(
        pthread_cond_wait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex));
}

EXPORT int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex,
                         const struct timespec *restrict time)
{
    return result_of(pthread_cond_timedwait((pthread_cond_t *)cond,
                                            (pthread_mutex_t *)mutex, time));
}

EXPORT int cnd_signal(cnd_t *cond)
{
    return result_of(pthread_cond_signal((pthread_cond_t *)cond));
}

EXPORT int cnd_broadcast(cnd_t *cond)
{
    return result_of(pthread_cond_broadcast((pthread_cond_t *)cond));
}

EXPORT void call_once(once_flag *flag, void (*routine)(void))
{
    (void)pthread_once((pthread_once_t *)flag, routine); /* cannot fail */
}

EXPORT int tss_create(tss_t *key, tss_dtor_t destructor)
{
    return result_of(pthread_key_create(key, destructor));
}

EXPORT void tss_delete(tss_t key)
{
    (void)pthread_key_delete(key); /* C has no way to report it */
}

EXPORT void *tss_get(tss_t key)
{
    return pthread_getspecific(key);
}

EXPORT int tss_set(tss_t key, void *value)
{
    return result_of(pthread_setspecific(key, value));
}

/* Returns 0, -1 if a handler has run, or below that for another error. */
EXPORT int thrd_sleep(const struct timespec *time, struct timespec *left)
{
    int error = clock_nanosleep(CLOCK_REALTIME, 0, time, left);

    if (error == 0)
        return 0;
    return error == EINTR ? -1 : -2;
}

EXPORT void thrd_yield(void)
{
    (void)sched_yield(); /* cannot fail */
}
