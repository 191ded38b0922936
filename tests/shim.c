/*
 * shim.c - preloaded into a server, fails the calls that shim.h describes
 *
 * Not failed is what has no failure that a caller could meet: clocks, locks
 * and condition variables, sigwait, getrusage, the last steps of stdio.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE    /* RTLD_NEXT, accept4, dladdr */
#undef _FORTIFY_SOURCE /* with it, headers define recv and poll inline */
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CALLER __builtin_return_address(0)

static struct shim *shim; /* NULL until the file is mapped */

/* Sets a pointer to a function to the next library's function of that name.
 * ISO C has no conversion for this, hence the copy. */
static void find(void *pointer, const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    memcpy(pointer, &found, sizeof found);
}

/* Writes the place of an address: the file, and where it is in that. */
static void describe(const void *address, char place[SHIM_PLACE_SIZE])
{
    Dl_info info;

    if (dladdr(address, &info) == 0 || info.dli_fname == NULL) {
        snprintf(place, SHIM_PLACE_SIZE, "%p", address);
        return;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    snprintf(
        place, SHIM_PLACE_SIZE, "%.40s+0x%lx",
        slash != NULL ? slash + 1 : info.dli_fname,
        (unsigned long)((const char *)address - (const char *)info.dli_fbase));
}

/* Counts this call if it is a chosen one. Returns whether it must fail. */
static bool fails(enum shim_call call, const void *caller)
{
    int chosen = shim != NULL ? atomic_load(&shim->call) : SHIM_NONE;
    if (chosen != SHIM_ANY && (chosen == SHIM_NONE || chosen != (int)call))
        return false;
    long n = atomic_fetch_add(&shim->seen, 1);
    if (chosen == SHIM_ANY) {
        if (n < SHIM_ORDER) {
            shim->kinds[n] = (unsigned char)call;
            shim->callers[n] = caller;
        }
        return false;
    }
    n -= atomic_load(&shim->after);
    if (n < 0 || n >= atomic_load(&shim->count))
        return false;
    if (n == 0)
        describe(caller, shim->place);
    atomic_fetch_add(&shim->failed, 1);
    return true;
}

/* The same for a call that fails with an errno value. */
static bool fails_with_errno(enum shim_call call, const void *caller)
{
    if (!fails(call, caller))
        return false;
    errno = atomic_load(&shim->error);
    return true;
}

/*
 * Memory, and what allocated it: an open hash table of all blocks
 */

#define BLOCKS (1U << 18) /* places in the table */

struct block {
    uintptr_t address; /* 0: never used; GONE: was removed */
    const void *caller;
};

#define GONE ((uintptr_t)1)

static struct block blocks[BLOCKS];
static unsigned used; /* places that are not 0 */
static atomic_flag blocks_locked = ATOMIC_FLAG_INIT;

static void lock_blocks(void)
{
    while (atomic_flag_test_and_set(&blocks_locked))
        sched_yield();
}

static void unlock_blocks(void)
{
    atomic_flag_clear(&blocks_locked);
}

static unsigned first_place(uintptr_t address)
{
    return (unsigned)((address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 40) %
           BLOCKS;
}

/* Notes a block, unless it is NULL. Returns it. */
static void *note(void *data, const void *caller)
{
    uintptr_t address = (uintptr_t)data;

    if (shim == NULL || data == NULL)
        return data;
    lock_blocks();
    unsigned i = first_place(address);
    while (blocks[i].address > GONE)
        i = (i + 1) % BLOCKS;
    used += blocks[i].address == 0;
    if (used == BLOCKS)
        abort(); /* a search would never end */
    blocks[i] = (struct block){address, caller};
    unlock_blocks();
    return data;
}

/* Removes a block. Returns what allocated it, or NULL if that is unknown. */
static const void *forget(const void *data)
{
    uintptr_t address = (uintptr_t)data;
    const void *caller = NULL;

    if (shim == NULL || data == NULL)
        return NULL;
    lock_blocks();
    unsigned i = first_place(address);
    while (blocks[i].address != 0 && blocks[i].address != address)
        i = (i + 1) % BLOCKS;
    if (blocks[i].address == address) {
        caller = blocks[i].caller;
        blocks[i].address = GONE;
    }
    unlock_blocks();
    return caller;
}

/* Reports a block that was not freed. */
static void report_block(const struct block *block)
{
    char place[SHIM_PLACE_SIZE];
    int i = 0;

    describe(block->caller, place);
    while (i < shim->places && strcmp(shim->left[i].place, place) != 0)
        i++;
    if (i == SHIM_PLACES_LEFT) {
        shim->places = -1;
        return;
    }
    if (i == shim->places) {
        memcpy(shim->left[i].place, place, sizeof place);
        shim->left[i].blocks = 0;
        shim->places++;
    }
    shim->left[i].blocks++;
}

/* After main and what atexit was given: libraries have freed what they do. */
__attribute__((destructor)) static void end(void)
{
    if (shim == NULL)
        return;
    shim->places = 0;
    lock_blocks(); /* and never unlocked: nothing is to change any more */
    for (unsigned i = 0; i < BLOCKS && shim->places >= 0; i++)
        if (blocks[i].address > GONE)
            report_block(&blocks[i]);
    unlock_blocks();
    atomic_store(&shim->ended, SHIM_EXITED);
}

/* Who asked for memory, where another function only passes that on. */
static _Thread_local __attribute__((tls_model("initial-exec")))
const void *asked;

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void (*real_free)(void *);

void *malloc(size_t size)
{
    if (real_malloc == NULL)
        find(&real_malloc, "malloc");
    if (fails_with_errno(SHIM_ALLOC, asked != NULL ? asked : CALLER))
        return NULL;
    return note(real_malloc(size), asked != NULL ? asked : CALLER);
}

void *calloc(size_t count, size_t size)
{
    if (real_calloc == NULL)
        find(&real_calloc, "calloc");
    if (fails_with_errno(SHIM_ALLOC, asked != NULL ? asked : CALLER))
        return NULL;
    return note(real_calloc(count, size), asked != NULL ? asked : CALLER);
}

void *realloc(void *data, size_t size)
{
    if (real_realloc == NULL)
        find(&real_realloc, "realloc");
    if (fails_with_errno(SHIM_ALLOC, asked != NULL ? asked : CALLER))
        return NULL;
    /* Before the call: after it another thread may have the block. */
    const void *caller = forget(data);
    void *moved = real_realloc(data, size);
    if (moved == NULL && size != 0 && caller != NULL)
        note(data, caller);
    return note(moved, asked != NULL ? asked : CALLER);
}

void free(void *data)
{
    if (real_free == NULL)
        find(&real_free, "free");
    forget(data);
    real_free(data);
}

/*
 * OpenSSL's memory, which it has from functions of the server
 */

static void *(*server_malloc)(size_t, const char *, int);
static void *(*server_realloc)(void *, size_t, const char *, int);

static void *malloc_for_openssl(size_t size, const char *file, int line)
{
    asked = CALLER;
    void *data = server_malloc(size, file, line);
    asked = NULL;
    return data;
}

static void *realloc_for_openssl(void *data, size_t size, const char *file,
                                 int line)
{
    asked = CALLER;
    void *moved = server_realloc(data, size, file, line);
    asked = NULL;
    return moved;
}

int CRYPTO_set_mem_functions(void *(*malloc_with)(size_t, const char *, int),
                             void *(*realloc_with)(void *, size_t,
                                                   const char *, int),
                             void (*free_with)(void *, const char *, int));

int CRYPTO_set_mem_functions(void *(*malloc_with)(size_t, const char *, int),
                             void *(*realloc_with)(void *, size_t,
                                                   const char *, int),
                             void (*free_with)(void *, const char *, int))
{
    static __typeof__(CRYPTO_set_mem_functions) *real;

    find(&real, "CRYPTO_set_mem_functions");
    server_malloc = malloc_with;
    server_realloc = realloc_with;
    return real(malloc_for_openssl, realloc_for_openssl, free_with);
}

/*
 * Calls that return -1 with errno set, or an error value
 */

/* Defines a function that the shim has before the next library. */
#define FAILS(kind, type, name, parameters, arguments)                        \
    static __typeof__(name) *real_##name;                                     \
    __attribute__((constructor)) static void find_##name(void)                \
    {                                                                         \
        find(&real_##name, #name);                                            \
    }                                                                         \
    type name parameters                                                      \
    {                                                                         \
        if (real_##name == NULL)                                              \
            find_##name(); /* a constructor of another library calls it */    \
        if (fails_with_errno(kind, CALLER))                                   \
            return (type)-1;                                                  \
        return real_##name arguments;                                         \
    }

#define RETURNS_ERROR(kind, name, parameters, arguments)                      \
    static __typeof__(name) *real_##name;                                     \
    __attribute__((constructor)) static void find_##name(void)                \
    {                                                                         \
        find(&real_##name, #name);                                            \
    }                                                                         \
    int name parameters                                                       \
    {                                                                         \
        if (real_##name == NULL)                                              \
            find_##name();                                                    \
        if (fails(kind, CALLER))                                              \
            return atomic_load(&shim->error);                                 \
        return real_##name arguments;                                         \
    }

/* The headers have types of their own for addresses. */
FAILS(SHIM_ACCEPT4, int, accept4,
      (int fd, __SOCKADDR_ARG address, socklen_t *len, int flags),
      (fd, address, len, flags))
FAILS(SHIM_PIPE2, int, pipe2, (int fds[2], int flags), (fds, flags))
FAILS(SHIM_SOCKET, int, socket, (int domain, int type, int protocol),
      (domain, type, protocol))
FAILS(SHIM_SOCKETPAIR, int, socketpair,
      (int domain, int type, int protocol, int fds[2]),
      (domain, type, protocol, fds))
FAILS(SHIM_CONNECT, int, connect,
      (int fd, __CONST_SOCKADDR_ARG address, socklen_t len),
      (fd, address, len))
FAILS(SHIM_BIND, int, bind,
      (int fd, __CONST_SOCKADDR_ARG address, socklen_t len),
      (fd, address, len))
FAILS(SHIM_LISTEN, int, listen, (int fd, int backlog), (fd, backlog))
FAILS(SHIM_SETSOCKOPT, int, setsockopt,
      (int fd, int level, int name, const void *value, socklen_t len),
      (fd, level, name, value, len))
FAILS(SHIM_GETSOCKOPT, int, getsockopt,
      (int fd, int level, int name, void *value, socklen_t *len),
      (fd, level, name, value, len))
FAILS(SHIM_GETSOCKNAME, int, getsockname,
      (int fd, __SOCKADDR_ARG address, socklen_t *len), (fd, address, len))
FAILS(SHIM_GETPEERNAME, int, getpeername,
      (int fd, __SOCKADDR_ARG address, socklen_t *len), (fd, address, len))
FAILS(SHIM_SHUTDOWN, int, shutdown, (int fd, int how), (fd, how))
FAILS(SHIM_EPOLL_CREATE1, int, epoll_create1, (int flags), (flags))
FAILS(SHIM_EPOLL_CTL, int, epoll_ctl,
      (int epoll, int operation, int fd, struct epoll_event *event),
      (epoll, operation, fd, event))
FAILS(SHIM_EPOLL_WAIT, int, epoll_wait,
      (int epoll, struct epoll_event *events, int count, int timeout_ms),
      (epoll, events, count, timeout_ms))
FAILS(SHIM_READ, ssize_t, read, (int fd, void *data, size_t size),
      (fd, data, size))
FAILS(SHIM_WRITE, ssize_t, write, (int fd, const void *data, size_t len),
      (fd, data, len))
FAILS(SHIM_STAT, int, stat, (const char *path, struct stat *status),
      (path, status))
FAILS(SHIM_ACCESS, int, access, (const char *path, int mode), (path, mode))
FAILS(SHIM_GETRLIMIT, int, getrlimit,
      (__rlimit_resource_t resource, struct rlimit *limit), (resource, limit))
FAILS(SHIM_SETRLIMIT, int, setrlimit,
      (__rlimit_resource_t resource, const struct rlimit *limit),
      (resource, limit))
FAILS(SHIM_SCHED_GETSCHEDULER, int, sched_getscheduler, (pid_t pid), (pid))
FAILS(SHIM_SCHED_SETSCHEDULER, int, sched_setscheduler,
      (pid_t pid, int policy, const struct sched_param *parameters),
      (pid, policy, parameters))
FAILS(SHIM_SIGACTION, int, sigaction,
      (int number, const struct sigaction *action, struct sigaction *before),
      (number, action, before))
FAILS(SHIM_NANOSLEEP, int, nanosleep,
      (const struct timespec *wanted, struct timespec *left), (wanted, left))

RETURNS_ERROR(SHIM_PTHREAD_CREATE, pthread_create,
              (pthread_t * thread, const pthread_attr_t *attributes,
               void *(*routine)(void *), void *argument),
              (thread, attributes, routine, argument))
RETURNS_ERROR(SHIM_PTHREAD_SIGMASK, pthread_sigmask,
              (int how, const sigset_t *signals, sigset_t *before),
              (how, signals, before))
RETURNS_ERROR(SHIM_PTHREAD_KILL, pthread_kill, (pthread_t thread, int number),
              (thread, number))
RETURNS_ERROR(SHIM_PTHREAD_ATTR, pthread_attr_init,
              (pthread_attr_t * attributes), (attributes))
RETURNS_ERROR(SHIM_PTHREAD_ATTR, pthread_attr_setdetachstate,
              (pthread_attr_t * attributes, int state), (attributes, state))
RETURNS_ERROR(SHIM_PTHREAD_ATTR, pthread_attr_setstacksize,
              (pthread_attr_t * attributes, size_t size), (attributes, size))
RETURNS_ERROR(SHIM_PTHREAD_CONDATTR, pthread_condattr_init,
              (pthread_condattr_t * attributes), (attributes))
RETURNS_ERROR(SHIM_PTHREAD_CONDATTR, pthread_condattr_setclock,
              (pthread_condattr_t * attributes, clockid_t clock),
              (attributes, clock))
RETURNS_ERROR(SHIM_GETNAMEINFO, getnameinfo,
              (const struct sockaddr *address, socklen_t len, char *host,
               socklen_t host_size, char *port, socklen_t port_size,
               int flags),
              (address, len, host, host_size, port, port_size, flags))

/*
 * The rest
 */

static int (*real_getaddrinfo)(const char *, const char *,
                               const struct addrinfo *, struct addrinfo **);
static ssize_t (*real_send)(int, const void *, size_t, int);
static ssize_t (*real_recv)(int, void *, size_t, int);
static int (*real_poll)(struct pollfd *, nfds_t, int);
static int (*real_close)(int);
static int (*real_open)(const char *, int, ...);
static FILE *(*real_fopen)(const char *, const char *);
static FILE *(*real_fopen64)(const char *, const char *);
static int (*real_fcntl)(int, int, ...);
static int (*real_ioctl)(int, unsigned long, ...);
static __typeof__(_exit) *real_exit;

static sighandler_t (*real_signal)(int, sighandler_t);
static sighandler_t (*real_sysv_signal)(int, sighandler_t);

/* The last constructor of this file. */
__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("SHIM");

    find(&real_getaddrinfo, "getaddrinfo");
    find(&real_send, "send");
    find(&real_recv, "recv");
    find(&real_poll, "poll");
    find(&real_close, "close");
    find(&real_open, "open");
    find(&real_fopen, "fopen");
    find(&real_fopen64, "fopen64");
    find(&real_fcntl, "fcntl");
    find(&real_ioctl, "ioctl");
    find(&real_exit, "_exit");
    find(&real_signal, "signal");
    find(&real_sysv_signal, "__sysv_signal");
    if (path == NULL)
        return;
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    struct shim *map =
        mmap(NULL, sizeof *map, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        abort();
    real_close(fd);
    shim = map;
}

int getaddrinfo(const char *node, const char *service,
                const struct addrinfo *hints, struct addrinfo **result)
{
    if (fails(SHIM_GETADDRINFO, CALLER)) {
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
    if (fails(SHIM_SEND, CALLER)) {
        len = shortened(len);
        if (len == 0)
            return -1;
    }
    return real_send(fd, data, len, flags);
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    if (fails(SHIM_RECV, CALLER)) {
        size = shortened(size);
        if (size == 0)
            return -1;
    }
    return real_recv(fd, data, size, flags);
}

int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    if (real_poll == NULL)
        find(&real_poll, "poll");
    if (fails_with_errno(count == 3 ? SHIM_POLL : SHIM_OTHER_POLL, CALLER))
        return -1;
    return real_poll(fds, count, timeout_ms);
}

int close(int fd)
{
    if (real_close == NULL)
        find(&real_close, "close");
    int result = real_close(fd);
    return fails_with_errno(SHIM_CLOSE, CALLER) ? -1 : result;
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list args;

    if (real_open == NULL)
        find(&real_open, "open");
    if ((flags & O_CREAT) != 0) {
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    if (fails_with_errno(SHIM_OPEN, CALLER))
        return -1;
    return real_open(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    if (real_fopen == NULL)
        find(&real_fopen, "fopen");
    if (fails_with_errno(SHIM_FOPEN, CALLER))
        return NULL;
    return real_fopen(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    if (real_fopen64 == NULL)
        find(&real_fopen64, "fopen64");
    if (fails_with_errno(SHIM_FOPEN, CALLER))
        return NULL;
    return real_fopen64(path, mode);
}

/* These two take a number or a pointer, or nothing. */
int fcntl(int fd, int command, ...)
{
    va_list args;

    if (real_fcntl == NULL)
        find(&real_fcntl, "fcntl");
    va_start(args, command);
    void *argument = va_arg(args, void *);
    va_end(args);
    if (fails_with_errno(SHIM_FCNTL, CALLER))
        return -1;
    return real_fcntl(fd, command, argument);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    if (real_ioctl == NULL)
        find(&real_ioctl, "ioctl");
    va_start(args, request);
    void *argument = va_arg(args, void *);
    va_end(args);
    if (fails_with_errno(SHIM_IOCTL, CALLER))
        return -1;
    return real_ioctl(fd, request, argument);
}

sighandler_t signal(int number, sighandler_t handler)
{
    if (real_signal == NULL)
        find(&real_signal, "signal");
    if (fails_with_errno(SHIM_SIGNAL, CALLER))
        return SIG_ERR;
    return real_signal(number, handler);
}

/* What the header makes of signal for a source that asks for POSIX alone. */
sighandler_t __sysv_signal(int number, sighandler_t handler)
{
    if (real_sysv_signal == NULL)
        find(&real_sysv_signal, "__sysv_signal");
    if (fails_with_errno(SHIM_SIGNAL, CALLER))
        return SIG_ERR;
    return real_sysv_signal(number, handler);
}

/* Says that threads still ran, and what they had was not freed. */
void _exit(int status)
{
    if (shim != NULL)
        atomic_store(&shim->ended, SHIM_LEFT);
    if (real_exit == NULL)
        find(&real_exit, "_exit");
    real_exit(status);
    abort(); /* not reached */
}
