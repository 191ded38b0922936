/*
 * green.c - gevent's trick for C: a program's threads, run as coroutines
 *
 *     LD_PRELOAD=build/green.so ./threadecho ...
 *     scripts/green ./threadecho ...
 *
 * One and the same binary runs either way, so the difference between the two
 * is what its threads cost.
 *
 * How it works. The library defines pthread_create and the calls in which a
 * thread can wait (calls.h lists them), and the dynamic linker finds these
 * before those of the C library. The thread that first calls pthread_create
 * becomes the carrier, and what it had to do becomes the main coroutine. From
 * then on each thread that the program itself starts from there is a coroutine
 * with a stack of its own, and a call that would block switches to the next
 * one that is ready, first come, first served. Descriptors are watched by
 * epoll, edge-triggered; times are in a heap; locks have lists. While nothing
 * is ready, the carrier sleeps in epoll_wait.
 *
 * A thread stays one if its start routine lies in a library: libcurl's
 * resolver, which calls getaddrinfo. From such a thread each call is the plain
 * one, and so is a call for a descriptor that the program has made
 * non-blocking.
 *
 *   green.c        this: the start
 *   calls.h        the calls, and the plain ones
 *   context.c      from one stack to another
 *   coroutine.c    coroutines, what they wait for, and who runs next
 *   descriptors.c  what is known about descriptors
 *   sockets.c      read, write, accept, connect and the like
 *   waits.c        poll, sleep and the like
 *   signals.c      masks, handlers, and the waits for signals
 *   locks.c        mutexes, condition variables, semaphores, pthread_once
 *   c11.c          the same for <threads.h>
 *   outside.c      calls that another thread makes: name lookups, waitpid
 *   threads.c      what a coroutine has of a thread
 *
 * What each coroutine has of its own: its stack, errno, the values of
 * pthread_setspecific, what pthread_self returns, the signal mask and the
 * signals sent to it alone, the rounding mode, and C++'s exceptions if
 * that is loaded at the first pthread_create. Whatever else the program or a
 * library keeps in __thread variables, all coroutines share. That is safe
 * where it is not needed across a call that waits: OpenSSL has its queue of
 * errors in a value of pthread_setspecific, and libcurl waits in poll only.
 *
 * What cannot be carried, and stops all coroutines while it lasts:
 *   - a file that is slow to read or write, and stdio on a socket or a pipe
 *   - computing; longer than a second is warned about, once
 *   - what a handler of a signal waits for itself
 *   - a static variable of a C++ function, if its initializer waits and
 *     another coroutine comes there: that stops them for good
 *   - sendfile, splice and recvmmsg on what may block; warned about, once
 *   - calls that calls.h does not list: open of a FIFO, lockf, message queues
 * What is not as with threads:
 *   - getaddrinfo, getnameinfo, gethostbyname, waitpid and its like, system,
 *     flock, F_SETLKW, a barrier and joining a thread that is no coroutine
 *     take a thread of the system for as long as they wait
 *   - a robust mutex does not notice that a coroutine ends with it locked
 *   - what pthread_once calls must not throw
 *   - one CPU affinity and one name for all coroutines
 *   - a handler runs on the stack of whichever coroutine it interrupts, so
 *     jumping out of it is safe only if that is the one that set the target;
 *     a call that begins just after a handler has run may end with EINTR, too
 *   - pthread_cancel does nothing, and says so; pthread_exit does not run
 *     what pthread_cleanup_push has left
 *   - threads of thrd_create and of C++'s std::thread stay threads, and so do
 *     those of a program that is linked statically
 *   - recvmsg with MSG_WAITALL may return less
 *   - two descriptors are taken, which the program cannot close, and one for
 *     each sigwait
 *   - a descriptor's O_NONBLOCK is taken to change by this process alone
 *   - one core is all that there is
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "green.h"
#include "coroutine.h"

#include <dlfcn.h>
#include <link.h>
#include <string.h>

struct calls calls;
_Bool calls_found;

/* The program's own part of memory, without its libraries. */
static uintptr_t program_start;
static uintptr_t program_end;

void find_calls(void)
{
#define X(type, name, parameters)                                             \
    {                                                                         \
        /* ISO C has no conversion to a pointer to a function. */             \
        void *found = dlsym(RTLD_NEXT, #name);                                \
        memcpy(&calls.name, &found, sizeof found);                            \
    }
    GREEN_CALLS(X)
#undef X
    calls_found = true;
}

/*
 * The caller's return address would show it as well, but not after a tail
 * call; and it is what runs in the thread that has to be fit for it.
 */
bool is_programs(thread_start *start)
{
    uintptr_t address;

    memcpy(&address, &start, sizeof address);
    return address >= program_start && address < program_end;
}

/* Notes where the program lies; it comes first. */
static int note_program(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    (void)data;
    program_start = UINTPTR_MAX;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + part->p_vaddr;
        if (part->p_type != PT_LOAD)
            continue;
        if (start < program_start)
            program_start = start;
        if (start + part->p_memsz > program_end)
            program_end = start + part->p_memsz;
    }
    return 1;
}

/* Says so if calls of the program would not come here: if another preloaded
 * library is before this one, or the C library does not let it. */
static void check_binding(const char *name)
{
    Dl_info own;
    Dl_info found;
    void *address = dlsym(RTLD_DEFAULT, name);

    if (dladdr(&calls, &own) == 0 || address == NULL ||
        dladdr(address, &found) == 0 || own.dli_fbase == found.dli_fbase)
        return;
    warn_once(WARN_BOUND,
              "%s is found in %s first: unless it is passed on from there, "
              "threads stay threads",
              name, found.dli_fname);
}

/* Whether the C library's objects are as locks.c takes them to be. */
static bool knows_objects(void)
{
    pthread_condattr_t attr;
    pthread_cond_t cond;
    pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    sem_t own;
    sem_t shared;

    if (pthread_condattr_init(&attr) != 0 ||
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) != 0 ||
        pthread_cond_init(&cond, &attr) != 0 ||
        plain()->pthread_mutex_trylock(&mutex) != 0 ||
        sem_init(&own, 0, 1) != 0 || sem_init(&shared, 1, 1) != 0)
        return false;
    bool known = !is_shared(&own) && is_shared(&shared) &&
                 (cond.__data.__wrefs & 2) != 0 &&
                 mutex.__data.__owner == getpid() && mutex.__data.__count == 1;
    plain()->pthread_mutex_unlock(&mutex);
    pthread_cond_destroy(&cond);
    return known;
}

__attribute__((constructor)) static void start(void)
{
    find_calls();
    check_binding("pthread_create");
    check_binding("poll");
    check_binding("recv");
    if (knows_objects())
        dl_iterate_phdr(note_program, NULL);
    else
        warn_once(WARN_BOUND, "the C library is not as expected, so threads "
                              "stay threads");
}
