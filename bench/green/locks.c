/*
 * locks.c - mutexes, condition variables, semaphores, read-write locks and
 * what is done once
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
#include "outside.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* Between two looks at what a thread that is no coroutine, or another process,
 * has or posts: they do not say so. */
#define LOOK_NS 200000

/* Of the kind of a mutex. */
#define ROBUST_KIND 16
#define SHARED_KIND 128

#define THREAD_BITS 0x3FFFFFFF /* of the word that the kernel knows */

/* From here up, a robust mutex has no owner but a state: this, for good, or
 * that its owner has died. */
#define NO_OWNER (INT_MAX - 1)

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

/* Returns whether the running coroutine owns a mutex that knows its owner. */
static bool is_own(const pthread_mutex_t *mutex)
{
    int owner = mutex->__data.__owner;
    return owner == current->number ||
           (owner == carrier_id && current == &main_coroutine);
}

/* Returns whether an owner is some coroutine. */
static bool is_number(int owner)
{
    return owner > INT_MAX / 2 && owner < NO_OWNER;
}

/* Returns whether some coroutine has a mutex that knows its owner. The C
 * library would give one that is robust or has a protocol to its thread again.
 */
static bool held_here(const pthread_mutex_t *mutex)
{
    if (mutex->__data.__kind & SHARED_KIND)
        return (mutex->__data.__lock & THREAD_BITS) == carrier_id;
    return mutex->__data.__owner == carrier_id ||
           is_number(mutex->__data.__owner);
}

/* Takes a mutex if that needs no waiting. Returns what trylock does. */
static int try_lock(pthread_mutex_t *mutex)
{
    /* The C library's trylock would take it for ever (glibc 2.36). */
    if ((mutex->__data.__kind & ROBUST_KIND) != 0 &&
        mutex->__data.__owner == NO_OWNER)
        return ENOTRECOVERABLE;
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
    if (held_here(mutex))
        return EBUSY;
    int error = plain()->pthread_mutex_trylock(mutex);
    if (error == 0)
        mutex->__data.__owner = current->number;
    return error;
}

/* Returns whether a thread may hold a mutex that is no coroutine. */
static bool held_outside(const pthread_mutex_t *mutex)
{
    int owner = mutex->__data.__owner;
    return (mutex->__data.__kind & SHARED_KIND) != 0 ||
           (owner != carrier_id && !is_number(owner));
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
    if (!is_carrier)
        return plain()->pthread_mutex_lock(mutex);
    if ((mutex->__data.__kind & (ROBUST_KIND | 3)) == 0 &&
        plain()->pthread_mutex_trylock(mutex) == 0)
        return 0;
    return lock_until(mutex, NEVER);
}

EXPORT int pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    if (!is_carrier)
        return plain()->pthread_mutex_trylock(mutex);
    int error = try_lock(mutex);
    if (error == EBUSY)
        count_call(); /* a loop of these must come to an end */
    return error == EDEADLK ? EBUSY : error;
}

EXPORT int pthread_mutex_timedlock(pthread_mutex_t *mutex,
                                   const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_mutex_timedlock(mutex, time);
    return lock_until(mutex, at(CLOCK_REALTIME, time));
}

EXPORT int pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock,
                                   const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_mutex_clocklock(mutex, clock, time);
    return lock_until(mutex, at(clock, time));
}

/* Unlocks a robust mutex whose owner has died, with nothing done about it. */
static int give_up(pthread_mutex_t *mutex)
{
    int error = plain()->pthread_mutex_unlock(mutex);

    wake_all(mutex, WAKE_EVENT); /* nobody can lock it any more */
    return error;
}

EXPORT int pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    if (!is_carrier)
        return plain()->pthread_mutex_unlock(mutex);
    bool owned = false;
    if ((mutex->__data.__kind & (ROBUST_KIND | 3)) != 0) {
        if (mutex->__data.__owner >= NO_OWNER)
            return give_up(mutex);
        owned = has_owner(mutex);
        if (owned && !is_own(mutex))
            return EPERM;
        if (owned && kind_of(mutex) == PTHREAD_MUTEX_RECURSIVE &&
            mutex->__data.__count > 1) {
            mutex->__data.__count--;
            return 0;
        }
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

EXPORT int pthread_mutex_consistent(pthread_mutex_t *mutex)
{
    int error = plain()->pthread_mutex_consistent(mutex);

    if (error == 0 && is_carrier && has_owner(mutex))
        mutex->__data.__owner = current->number;
    return error;
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

static int rwlock_wait(pthread_rwlock_t *lock, int (*try)(pthread_rwlock_t *),
                       int64_t deadline)
{
    int error;

    while ((error = try(lock)) == EBUSY) {
        if (deadline <= now_ns())
            return ETIMEDOUT;
        enter_wait(lock);
        suspend(next_look(deadline), UNINTERRUPTED);
    }
    return error;
}

EXPORT int pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_rdlock(lock);
    return rwlock_wait(lock, plain()->pthread_rwlock_tryrdlock, NEVER);
}

EXPORT int pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_wrlock(lock);
    return rwlock_wait(lock, plain()->pthread_rwlock_trywrlock, NEVER);
}

EXPORT int pthread_rwlock_timedrdlock(pthread_rwlock_t *lock,
                                      const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_timedrdlock(lock, time);
    return rwlock_wait(lock, plain()->pthread_rwlock_tryrdlock,
                       at(CLOCK_REALTIME, time));
}

EXPORT int pthread_rwlock_timedwrlock(pthread_rwlock_t *lock,
                                      const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_timedwrlock(lock, time);
    return rwlock_wait(lock, plain()->pthread_rwlock_trywrlock,
                       at(CLOCK_REALTIME, time));
}

EXPORT int pthread_rwlock_clockrdlock(pthread_rwlock_t *lock, clockid_t clock,
                                      const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_clockrdlock(lock, clock, time);
    return rwlock_wait(lock, plain()->pthread_rwlock_tryrdlock,
                       at(clock, time));
}

EXPORT int pthread_rwlock_clockwrlock(pthread_rwlock_t *lock, clockid_t clock,
                                      const struct timespec *time)
{
    if (!is_carrier)
        return plain()->pthread_rwlock_clockwrlock(lock, clock, time);
    return rwlock_wait(lock, plain()->pthread_rwlock_trywrlock,
                       at(clock, time));
}

EXPORT int pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
    int error = plain()->pthread_rwlock_unlock(lock);

    if (is_carrier)
        wake_all(lock, WAKE_EVENT);
    return error;
}

/*
 * What is done once
 */

/* A coroutine's call of an initializer. */
struct once {
    pthread_once_t *control;
    void (*routine)(void);
    struct once *next;
};

static struct once *onces; /* under way */

static struct once *find_once(const pthread_once_t *control)
{
    struct once *once = onces;

    while (once != NULL && once->control != control)
        once = once->next;
    return once;
}

static void end_once(const struct once *own)
{
    struct once **link = &onces;

    while (*link != own)
        link = &(*link)->next;
    *link = own->next;
    wake_all(own->control, WAKE_EVENT);
}

static void call_once_outside(void *argument)
{
    const struct once *once = argument;
    plain()->pthread_once(once->control, once->routine);
}

/* The C library has bit 0 set while a thread is about it, and then bit 1. */
EXPORT int pthread_once(pthread_once_t *control, void (*routine)(void))
{
    if (!is_carrier || (__atomic_load_n(control, __ATOMIC_ACQUIRE) & 2) != 0)
        return plain()->pthread_once(control, routine);
    while (find_once(control) != NULL) {
        enter_wait(control);
        suspend(NEVER, UNINTERRUPTED);
    }
    struct once own = {control, routine, onces};
    onces = &own;
    if (__atomic_load_n(control, __ATOMIC_ACQUIRE) & 1)
        call_outside(call_once_outside, &own); /* another thread is about it */
    else
        plain()->pthread_once(control, routine);
    end_once(&own);
    return 0;
}
