/*
 * shim.c - preloaded into a server, fails the calls that shim.h describes
 *
 * It needs the GNU C library, whose malloc has a second name.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE    /* RTLD_NEXT, accept4 */
#undef _FORTIFY_SOURCE /* with it, headers define recv and poll inline */
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *data, size_t size);

static struct shim *shim; /* NULL until the file is mapped */

static int (*real_accept4)(int, __SOCKADDR_ARG, socklen_t *, int);
static int (*real_pthread_create)(pthread_t *, const pthread_attr_t *,
                                  void *(*)(void *), void *);
static int (*real_getaddrinfo)(const char *, const char *,
                               const struct addrinfo *, struct addrinfo **);
static ssize_t (*real_send)(int, const void *, size_t, int);
static ssize_t (*real_recv)(int, void *, size_t, int);
static int (*real_poll)(struct pollfd *, nfds_t, int);
static int (*real_pipe2)(int *, int);
static int (*real_socket)(int, int, int);
static int (*real_epoll_create1)(int);
static int (*real_epoll_ctl)(int, int, int, struct epoll_event *);
static int (*real_sched_setscheduler)(pid_t, int, const struct sched_param *);
static int (*real_setrlimit)(__rlimit_resource_t, const struct rlimit *);

/* Sets a pointer to a function to the next library's function of that name.
 * ISO C has no conversion for this, hence the copy. */
static void find(void *pointer, const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    memcpy(pointer, &found, sizeof found);
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("SHIM");

    find(&real_accept4, "accept4");
    find(&real_pthread_create, "pthread_create");
    find(&real_getaddrinfo, "getaddrinfo");
    find(&real_send, "send");
    find(&real_recv, "recv");
    find(&real_poll, "poll");
    find(&real_pipe2, "pipe2");
    find(&real_socket, "socket");
    find(&real_epoll_create1, "epoll_create1");
    find(&real_epoll_ctl, "epoll_ctl");
    find(&real_sched_setscheduler, "sched_setscheduler");
    find(&real_setrlimit, "setrlimit");
    if (path == NULL)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *map =
        mmap(NULL, sizeof *shim, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        abort();
    close(fd);
    shim = map;
}

/* Counts this call if it is the chosen one. Returns whether it must fail. */
static bool fails(enum shim_call call)
{
    if (shim == NULL || atomic_load(&shim->call) != (int)call)
        return false;
    long n = atomic_fetch_add(&shim->seen, 1) - atomic_load(&shim->after);
    if (n < 0 || n >= atomic_load(&shim->count))
        return false;
    atomic_fetch_add(&shim->failed, 1);
    return true;
}

/* The same for a call that fails with -1 and errno. */
static bool fails_with_errno(enum shim_call call)
{
    if (!fails(call))
        return false;
    errno = atomic_load(&shim->error);
    return true;
}

void *malloc(size_t size)
{
    if (fails(SHIM_ALLOC)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    if (fails(SHIM_ALLOC)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_calloc(count, size);
}

void *realloc(void *data, size_t size)
{
    if (fails(SHIM_ALLOC)) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(data, size);
}

/* The header has a type of its own for the address. */
int accept4(int fd, __SOCKADDR_ARG address, socklen_t *len, int flags)
{
    if (fails_with_errno(SHIM_ACCEPT4))
        return -1;
    return real_accept4(fd, address, len, flags);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                   void *(*routine)(void *), void *argument)
{
    if (fails(SHIM_PTHREAD_CREATE))
        return atomic_load(&shim->error);
    return real_pthread_create(thread, attributes, routine, argument);
}

int getaddrinfo(const char *node, const char *service,
                const struct addrinfo *hints, struct addrinfo **result)
{
    if (fails(SHIM_GETADDRINFO)) {
        int error = atomic_load(&shim->error);
        if (error != SHIM_LATE)
            return error;
        sleep(SHIM_LATE_SECONDS);
    }
    if (node != NULL && strcmp(node, "upstream.test") == 0)
        node = "127.0.0.1";
    return real_getaddrinfo(node, service, hints, result);
}

/* The length for a send or recv that would fail, or 0 if it is to. */
static size_t shortened(size_t len)
{
    int error = atomic_load(&shim->error);
    if (error == SHIM_ONE_BYTE)
        return len < 1 ? len : 1;
    errno = error;
    return 0;
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
    if (fails(SHIM_SEND)) {
        len = shortened(len);
        if (len == 0)
            return -1;
    }
    return real_send(fd, data, len, flags);
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    if (fails(SHIM_RECV)) {
        size = shortened(size);
        if (size == 0)
            return -1;
    }
    return real_recv(fd, data, size, flags);
}

int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    if (count == 3 && fails_with_errno(SHIM_POLL))
        return -1;
    return real_poll(fds, count, timeout_ms);
}

int pipe2(int fds[2], int flags)
{
    if (fails_with_errno(SHIM_PIPE2))
        return -1;
    return real_pipe2(fds, flags);
}

int socket(int domain, int type, int protocol)
{
    if (fails_with_errno(SHIM_SOCKET))
        return -1;
    return real_socket(domain, type, protocol);
}

int epoll_create1(int flags)
{
    if (fails_with_errno(SHIM_EPOLL_CREATE1))
        return -1;
    return real_epoll_create1(flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (fails_with_errno(SHIM_EPOLL_CTL))
        return -1;
    return real_epoll_ctl(epoll, operation, fd, event);
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    if (fails_with_errno(SHIM_SETRLIMIT))
        return -1;
    return real_setrlimit(resource, limit);
}

int sched_setscheduler(pid_t pid, int policy, const struct sched_param *param)
{
    if (fails_with_errno(SHIM_SCHED_SETSCHEDULER))
        return -1;
    return real_sched_setscheduler(pid, policy, param);
}
