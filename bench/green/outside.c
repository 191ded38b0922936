/*
 * outside.c - calls that wait inside the C library, made in another thread
 *
 * Nothing shows when a name lookup or a child's end would wake a coroutine, so
 * a thread of the system's waits for it, one for each call.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "outside.h"
#include "coroutine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/wait.h>

struct job {
    void (*call)(void *);
    void *argument;
    int error;
    sem_t done;
};

static void *run_job(void *argument)
{
    struct job *job = argument;

    errno = job->error;
    job->call(job->argument);
    job->error = errno;
    (void)sem_post(&job->done); /* of locks.c; cannot fail */
    return NULL;
}

void call_outside(void (*call)(void *), void *argument)
{
    struct job job = {.call = call, .argument = argument, .error = errno};
    sigset_t all;
    sigset_t mask;
    pthread_t thread;

    sigfillset(&all); /* the carrier is to get the signals */
    (void)sem_init(&job.done, 0, 0);
    plain()->pthread_sigmask(SIG_SETMASK, &all, &mask);
    int error = plain()->pthread_create(&thread, NULL, run_job, &job);
    plain()->pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (error != 0) {
        call(argument);
        return;
    }
    while (sem_wait(&job.done) != 0)
        continue; /* a handler has run, but the thread has not ended */
    plain()->pthread_join(thread, NULL);
    errno = job.error;
}

/*
 * Names
 */

struct getaddrinfo_call {
    const char *node, *service;
    const struct addrinfo *hints;
    struct addrinfo **result;
    int error;
};

static void call_getaddrinfo(void *argument)
{
    struct getaddrinfo_call *c = argument;
    c->error = plain()->getaddrinfo(c->node, c->service, c->hints, c->result);
}

/* Returns whether a name is an address, which nobody need be asked for. */
static bool is_address(const char *node)
{
    struct in6_addr address; /* the larger one */

    return node == NULL || inet_pton(AF_INET, node, &address) == 1 ||
           inet_pton(AF_INET6, node, &address) == 1;
}

EXPORT int getaddrinfo(const char *node, const char *service,
                       const struct addrinfo *hints, struct addrinfo **result)
{
    struct getaddrinfo_call c = {node, service, hints, result, 0};

    if (!is_carrier || is_address(node) ||
        (hints != NULL && (hints->ai_flags & AI_NUMERICHOST) != 0))
        return plain()->getaddrinfo(node, service, hints, result);
    call_outside(call_getaddrinfo, &c);
    return c.error;
}

struct getnameinfo_call {
    const struct sockaddr *address;
    socklen_t address_size;
    char *host;
    socklen_t host_size;
    char *service;
    socklen_t service_size;
    int flags;
    int error;
};

static void call_getnameinfo(void *argument)
{
    struct getnameinfo_call *c = argument;
    c->error = plain()->getnameinfo(c->address, c->address_size, c->host,
                                    c->host_size, c->service, c->service_size,
                                    c->flags);
}

EXPORT int getnameinfo(const struct sockaddr *address, socklen_t address_size,
                       char *host, socklen_t host_size, char *service,
                       socklen_t service_size, int flags)
{
    struct getnameinfo_call c = {address, address_size, host,  host_size,
                                 service, service_size, flags, 0};

    if (is_carrier && (flags & NI_NUMERICHOST) == 0)
        call_outside(call_getnameinfo, &c);
    else
        call_getnameinfo(&c);
    return c.error;
}

struct gethostbyname_call {
    const char *name;
    int family;
    struct hostent *result;
    int error;
};

static void call_gethostbyname(void *argument)
{
    struct gethostbyname_call *c = argument;
    c->result = plain()->gethostbyname2(c->name, c->family);
    c->error = h_errno;
}

EXPORT struct hostent *gethostbyname2(const char *name, int family)
{
    struct gethostbyname_call c = {name, family, NULL, 0};

    if (!is_carrier || is_address(name))
        return plain()->gethostbyname2(name, family);
    call_outside(call_gethostbyname, &c);
    h_errno = c.error;
    return c.result;
}

EXPORT struct hostent *gethostbyname(const char *name)
{
    return gethostbyname2(name, AF_INET);
}

/*
 * Other processes, and files that they have locked
 */

struct wait4_call {
    pid_t pid;
    int *status;
    int options;
    struct rusage *usage;
    pid_t result;
};

static void call_wait4(void *argument)
{
    struct wait4_call *c = argument;
    c->result = plain()->wait4(c->pid, c->status, c->options, c->usage);
}

EXPORT pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
    struct wait4_call c = {pid, status, options | WNOHANG, usage, 0};

    if (!is_carrier)
        return plain()->wait4(pid, status, options, usage);
    call_wait4(&c); /* which may be all that it takes */
    if (c.result == 0 && (options & WNOHANG) == 0) {
        c.options = options;
        call_outside(call_wait4, &c);
    }
    return c.result;
}

EXPORT pid_t wait3(int *status, int options, struct rusage *usage)
{
    return wait4(-1, status, options, usage);
}

EXPORT pid_t waitpid(pid_t pid, int *status, int options)
{
    return wait4(pid, status, options, NULL);
}

EXPORT pid_t wait(int *status)
{
    return wait4(-1, status, 0, NULL);
}

struct waitid_call {
    idtype_t type;
    id_t id;
    siginfo_t *info;
    int options;
    int result;
};

static void call_waitid(void *argument)
{
    struct waitid_call *c = argument;
    c->result = plain()->waitid(c->type, c->id, c->info, c->options);
}

EXPORT int waitid(idtype_t type, id_t id, siginfo_t *info, int options)
{
    struct waitid_call c = {type, id, info, options, 0};

    if (is_carrier && (options & WNOHANG) == 0)
        call_outside(call_waitid, &c);
    else
        call_waitid(&c);
    return c.result;
}

struct system_call {
    const char *command;
    sigset_t mask; /* the command inherits it */
    int result;
};

static void call_system(void *argument)
{
    struct system_call *c = argument;
    plain()->pthread_sigmask(SIG_SETMASK, &c->mask, NULL);
    c->result = plain()->system(c->command);
}

EXPORT int system(const char *command)
{
    struct system_call c = {.command = command};

    if (!is_carrier || command == NULL)
        return plain()->system(command);
    pthread_sigmask(SIG_BLOCK, NULL, &c.mask);
    call_outside(call_system, &c);
    return c.result;
}

struct flock_call {
    int fd;
    int operation;
    int result;
};

static void call_flock(void *argument)
{
    struct flock_call *c = argument;
    c->result = plain()->flock(c->fd, c->operation);
}

EXPORT int flock(int fd, int operation)
{
    struct flock_call c = {fd, operation | LOCK_NB, 0};

    if (!is_carrier || (operation & (LOCK_NB | LOCK_UN)) != 0)
        return plain()->flock(fd, operation);
    const int saved = errno;
    call_flock(&c);
    if (c.result != 0 && errno == EWOULDBLOCK) {
        errno = saved;
        c.operation = operation;
        call_outside(call_flock, &c);
    }
    return c.result;
}

/*
 * Barriers
 */

struct barrier_call {
    pthread_barrier_t *barrier;
    int result;
};

static void call_barrier_wait(void *argument)
{
    struct barrier_call *c = argument;
    c->result = plain()->pthread_barrier_wait(c->barrier);
}

EXPORT int pthread_barrier_wait(pthread_barrier_t *barrier)
{
    struct barrier_call c = {barrier, 0};

    if (is_carrier)
        call_outside(call_barrier_wait, &c);
    else
        call_barrier_wait(&c);
    return c.result;
}
