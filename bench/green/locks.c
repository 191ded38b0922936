/*
 * locks.c - mutexes, condition variables, semaphores and read-write locks
 *
 * The objects stay the C library's, so that libraries' own threads can share
 * them with coroutines. What is taken without waiting is taken there; a
 * coroutine that has to wait does so in a list of its own, and gets a mutex or
 * a semaphore handed over, in the order of arrival.
 *
 * To the C library, all coroutines are one thread. That is of no concern to a
 * normal mutex; in one that knows its owner (recursive, error-checking) the
 * owner is replaced by the coroutine's number while a coroutine holds it.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "coroutine.h"
#include "green.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* Between two looks at what a thread that is no coroutine, or another process,
 * has or posts: they do not say so. */
#define LOOK_NS 200000

/* Of the kind of a mutex: robust, with a protocol, shared by processes. */
#define SPECIAL_KIND (16 | 32 | 64 | 128)

/* Of __wrefs of a condition variable; checked at the start. */
#define SHARED_BIT 1
#define MONOTONIC_BIT 2

static int kind_of(const pthread_mutex_t *mutex)
{
    return mutex->__data.__kind & 3;
}

static bool has_owner(const pthread_mutex_t *mutex)
{
    int kind = kind_of(mutex);
    return kind == PTHREAD_MUTEX_RECURSIVE || kind == PTHREAD_MUTEX_ERRORCHECK;
}

/* Returns whether a mutex is the C library's matter alone. */
static bool is_foreign(const pthread_mutex_t *mutex)
{
    return !is_carrier || (mutex->__data.__kind & SPECIAL_KIND) != 0;
}

/* Returns whether the running coroutine owns a mutex that knows its owner. */
static bool is_own(const pthread_mutex_t *mutex)
{
    int owner = mutex->__data.__owner;
    return owner == current->number ||
           (owner == carrier_id && current == &main_coroutine);
}

/* Takes a mutex if that needs no waiting. Returns what trylock does. */
static int try_lock(pthread_mutex_t *mutex)
{
    if (!has_owner(mutex))
        return plain()->pthread_mutex_trylock(mutex);
    if (is_own(mutex)) {
        if (kind_of(mutex) == PTHREAD_MUTEX_ERRORCHECK)
            return EDEADLK;
        if (mutex->__data.__count == UINT_MAX)
            return EAGAIN;
        mutex->__data.__count++;
        return 0;
    }
    if (mutex->__data.__owner == carrier_id)
        return EBUSY; /* by the main coroutine, before there were others */
    int error = plain()->pthread_mutex_trylock(mutex);
    if (error == 0)
        mutex->__data.__owner = current->number;
    return error;
}

/* Returns whether a thread holds a mutex that is no coroutine. */
static bool held_outside(const pthread_mutex_t *mutex)
{
    int owner = mutex->__data.__owner;
    return owner != carrier_id && owner <= INT_MAX / 2;
}

/* Returns the deadline, or the time of the next look if that is earlier. */
static int64_t next_look(int64_t deadline)
{
    int64_t next = after_ns(LOOK_NS);
    return next < deadline ? next : deadline;
}

static int lock_until(pthread_mutex_t *mutex, int64_t deadline)
{
    int error;

    while ((error = try_lock(mutex)) == EBUSY) {
        int64_t until = held_outside(mutex) ? next_look(deadline) : deadline;
        enter_wait(mutex);
        enum wake why = suspend(until, UNINTERRUPTED);
        if (why == WAKE_GRANTED)
            return 0;
        if (why == WAKE_TIME && until == deadline)
            return ETIMEDOUT;
    }
    return error;
}

EXPORT int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    if (is_foreign(mutex))
        return plain()->pthread_mutex_lock(mutex);
    if (!has_owner(mutex) && plain()->pthread_mutex_trylock(mutex) == 0)
        return 0;
    return lock_until(mutex, NEVER);
}

EXPORT int pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    if (is_foreign(mutex))
        return plain()->pthread_mutex_trylock(mutex);
    int error = try_lock(mutex);
    if (error == EBUSY)
        count_call(); /* a loop of these must come to an end */
    return error == EDEADLK ? EBUSY : error;
}

EXPORT int pthread_mutex_timedlock(pthread_mutex_t *mutex,
                                   const struct timespec *time)
{
    if (is_foreign(mutex))
        return plain()->pthread_mutex_timedlock(mutex, time);
    return lock_until(mutex, at(CLOCK_REALTIME, time));
}

EXPORT int pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock,
                                   const struct timespec *time)
{
    if (is_foreign(mutex))
        return plain()->pthread_mutex_clocklock(mutex, clock, time);
    return lock_until(mutex, at(clock, time));
}

EXPORT int pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    if (is_foreign(mutex))
        return plain()->pthread_mutex_unlock(mutex);
    bool owned = has_owner(mutex);
    if (owned && !is_own(mutex))
        return EPERM;
    if (owned && kind_of(mutex) == PTHREAD_MUTEX_RECURSIVE &&
        mutex->__data.__count > 1) {
        mutex->__data.__count--;
        return 0;
    }
    /* It stays locked if it is handed over. */
    const struct coroutine *next = first_waiter(mutex);
    if (owned)
        mutex->__data.__owner = next != NULL ? next->number : carrier_id;
    if (next != NULL) {
        wake_one(mutex);
        return 0;
    }
    return plain()->pthread_mutex_unlock(mutex);
}

/*
 * Condition variables
 */

static int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex,
                           int64_t deadline)
{
    /* Each look is a spurious wakeup: the caller is to check its condition. */
    int64_t until =
        cond->__data.__wrefs & SHARED_BIT ? next_look(deadline) : deadline;
    enter_wait(cond);
    int error = pthread_mutex_unlock(mutex);
    if (error != 0) {
        leave_wait();
        return error;
    }
    enum wake why = suspend(until, UNINTERRUPTED);
    error = pthread_mutex_lock(mutex);
    return error == 0 && why == WAKE_TIME && until == deadline ? ETIMEDOUT
                                                               : error;
}

EXPORT int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    if (!is_carrier)
        return plain()->pthread_cond_wait(cond, mutex);
    return cond_wait_until(cond, mutex, NEVER);
}

EXPORT int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_cond_timedwait(cond, mutex, time);
    if (time->tv_nsec < 0 || time->tv_nsec >= 1000000000)
        return EINVAL;
    clockid_t clock = cond->__data.__wrefs & MONOTONIC_BIT ? CLOCK_MONOTONIC
                                                           : CLOCK_REALTIME;
    return cond_wait_until(cond, mutex, at(clock, time));
}

EXPORT int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  clockid_t clock, const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_cond_clockwait(cond, mutex, clock, time);
    if (time->tv_nsec < 0 || time->tv_nsec >= 1000000000)
        return EINVAL;
    return cond_wait_until(cond, mutex, at(clock, time));
}

EXPORT int pthread_cond_signal(pthread_cond_t *cond)
{
    if (is_carrier)
        return wake_one(cond) ? 0 : plain()->pthread_cond_signal(cond);
    int error = plain()->pthread_cond_signal(cond);
    wake_from_outside();
    return error;
}

EXPORT int pthread_cond_broadcast(pthread_cond_t *cond)
{
    int error = plain()->pthread_cond_broadcast(cond);

    if (is_carrier)
        wake_all(cond, WAKE_GRANTED);
    else
        wake_from_outside();
    return error;
}

/*
 * Semaphores
 */

/* Returns whether other processes may post a semaphore. The C library notes
 * that after the value; checked at the start. */
bool is_shared(const sem_t *semaphore)
{
    int shared;

    memcpy(&shared, (const char *)semaphore + sizeof(long), sizeof shared);
    return shared != 0;
}

static int sem_wait_until(sem_t *semaphore, int64_t deadline)
{
    const int saved = errno;

    for (;;) {
        if (plain()->sem_trywait(semaphore) == 0) {
            errno = saved;
            return 0;
        }
        if (errno != EAGAIN)
            return -1;
        /* Another thread that posts sees the waiter, or this one its post. */
        enter_wait(semaphore);
        if (plain()->sem_trywait(semaphore) == 0) {
            leave_wait();
            errno = saved;
            return 0;
        }
        int64_t until = is_shared(semaphore) ? next_look(deadline) : deadline;
        enum wake why = suspend(until, UNLESS_RESTARTED);
        if (why == WAKE_GRANTED) {
            errno = saved;
            return 0;
        }
        if ((why == WAKE_TIME && until == deadline) ||
            why == WAKE_INTERRUPTED) {
            errno = why == WAKE_TIME ? ETIMEDOUT : EINTR;
            return -1;
        }
    }
}

EXPORT int sem_wait(sem_t *semaphore)
{
    if (!is_carrier)
        return plain()->sem_wait(semaphore);
    return sem_wait_until(semaphore, NEVER);
}

EXPORT int sem_timedwait(sem_t *semaphore, const struct timespec *time)
{
    if (!is_carrier || time->tv_nsec < 0 || time->tv_nsec >= 1000000000)
        return plain()->sem_timedwait(semaphore, time);
    return sem_wait_until(semaphore, at(CLOCK_REALTIME, time));
}

EXPORT int sem_clockwait(sem_t *semaphore, clockid_t clock,
                         const struct timespec *time)
{
    if (!is_carrier || time->tv_nsec < 0 || time->tv_nsec >= 1000000000)
        return plain()->sem_clockwait(semaphore, clock, time);
    return sem_wait_until(semaphore, at(clock, time));
}

EXPORT int sem_post(sem_t *semaphore)
{
    if (is_carrier)
        return wake_one(semaphore) ? 0 : plain()->sem_post(semaphore);
    int result = plain()->sem_post(semaphore);
    wake_from_outside();
    return result;
}

/*
 * Read-write locks: no handing over, since several may have one
 */

static int rwlock_wait(pthread_rwlock_t *lock, int (*try)(pthread_rwlock_t *))
{
    int error;

    while ((error = try(lock)) == EBUSY) {
        enter_wait(lock);
        suspend(after_ns(LOOK_NS), UNINTERRUPTED);
    }
    return error;
}

EXPORT int pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_rdlock(lock);
    return rwlock_wait(lock, plain()->pthread_rwlock_tryrdlock);
}

EXPORT int pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_wrlock(lock);
    return rwlock_wait(lock, plain()->pthread_rwlock_trywrlock);
}

EXPORT int pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
    int error = plain()->pthread_rwlock_unlock(lock);

    if (is_carrier)
        wake_all(lock, WAKE_EVENT);
    return error;
}
