/*
 * calls.h - the calls that green takes over, as the C library has them
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_CALLS_H
#define GREEN_CALLS_H

/* With it, headers would define some of these calls inline. */
#undef _FORTIFY_SOURCE

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A function that programs are to find in place of the C library's. */
#define EXPORT __attribute__((visibility("default")))

/* The start routine of a thread. */
typedef void *thread_start(void *);

/* X(type, name, (parameters)) */
#define GREEN_CALLS(X)                                                        \
    X(int, accept4, (int, __SOCKADDR_ARG, socklen_t *, int))                  \
    X(int, clock_nanosleep,                                                   \
      (clockid_t, int, const struct timespec *, struct timespec *))           \
    X(int, close, (int))                                                      \
    X(void, closefrom, (int))                                                 \
    X(int, close_range, (unsigned, unsigned, int))                            \
    X(int, connect, (int, __CONST_SOCKADDR_ARG, socklen_t))                   \
    X(int, dup, (int))                                                        \
    X(int, dup2, (int, int))                                                  \
    X(int, dup3, (int, int, int))                                             \
    X(int, epoll_wait, (int, struct epoll_event *, int, int))                 \
    X(int, epoll_pwait,                                                       \
      (int, struct epoll_event *, int, int, const sigset_t *))                \
    X(int, fclose, (FILE *))                                                  \
    X(int, fcntl, (int, int, ...))                                            \
    X(int, flock, (int, int))                                                 \
    X(int, getaddrinfo,                                                       \
      (const char *, const char *, const struct addrinfo *,                   \
       struct addrinfo **))                                                   \
    X(struct hostent *, gethostbyname2, (const char *, int))                  \
    X(int, getnameinfo,                                                       \
      (const struct sockaddr *, socklen_t, char *, socklen_t, char *,         \
       socklen_t, int))                                                       \
    X(int, ioctl, (int, unsigned long, ...))                                  \
    X(void, longjmp, (struct __jmp_buf_tag *, int))                           \
    X(int, pause, (void))                                                     \
    X(int, pclose, (FILE *))                                                  \
    X(int, poll, (struct pollfd *, nfds_t, int))                              \
    X(int, ppoll,                                                             \
      (struct pollfd *, nfds_t, const struct timespec *, const sigset_t *))   \
    X(int, pselect,                                                           \
      (int, fd_set *, fd_set *, fd_set *, const struct timespec *,            \
       const sigset_t *))                                                     \
    X(int, pthread_barrier_wait, (pthread_barrier_t *))                       \
    X(int, pthread_cancel, (pthread_t))                                       \
    X(int, pthread_clockjoin_np,                                              \
      (pthread_t, void **, clockid_t, const struct timespec *))               \
    X(int, pthread_cond_broadcast, (pthread_cond_t *))                        \
    X(int, pthread_cond_clockwait,                                            \
      (pthread_cond_t *, pthread_mutex_t *, clockid_t,                        \
       const struct timespec *))                                              \
    X(int, pthread_cond_signal, (pthread_cond_t *))                           \
    X(int, pthread_cond_timedwait,                                            \
      (pthread_cond_t *, pthread_mutex_t *, const struct timespec *))         \
    X(int, pthread_cond_wait, (pthread_cond_t *, pthread_mutex_t *))          \
    X(int, pthread_create,                                                    \
      (pthread_t *, const pthread_attr_t *, thread_start *, void *))          \
    X(int, pthread_detach, (pthread_t))                                       \
    X(void, pthread_exit, (void *))                                           \
    X(int, pthread_getaffinity_np, (pthread_t, size_t, cpu_set_t *))          \
    X(int, pthread_getattr_np, (pthread_t, pthread_attr_t *))                 \
    X(int, pthread_getcpuclockid, (pthread_t, clockid_t *))                   \
    X(int, pthread_getname_np, (pthread_t, char *, size_t))                   \
    X(int, pthread_getschedparam, (pthread_t, int *, struct sched_param *))   \
    X(void *, pthread_getspecific, (pthread_key_t))                           \
    X(int, pthread_join, (pthread_t, void **))                                \
    X(int, pthread_key_create, (pthread_key_t *, void (*)(void *)))           \
    X(int, pthread_key_delete, (pthread_key_t))                               \
    X(int, pthread_kill, (pthread_t, int))                                    \
    X(int, pthread_mutex_clocklock,                                           \
      (pthread_mutex_t *, clockid_t, const struct timespec *))                \
    X(int, pthread_mutex_consistent, (pthread_mutex_t *))                     \
    X(int, pthread_mutex_lock, (pthread_mutex_t *))                           \
    X(int, pthread_mutex_timedlock,                                           \
      (pthread_mutex_t *, const struct timespec *))                           \
    X(int, pthread_mutex_trylock, (pthread_mutex_t *))                        \
    X(int, pthread_mutex_unlock, (pthread_mutex_t *))                         \
    X(int, pthread_once, (pthread_once_t *, void (*)(void)))                  \
    X(int, pthread_rwlock_clockrdlock,                                        \
      (pthread_rwlock_t *, clockid_t, const struct timespec *))               \
    X(int, pthread_rwlock_clockwrlock,                                        \
      (pthread_rwlock_t *, clockid_t, const struct timespec *))               \
    X(int, pthread_rwlock_rdlock, (pthread_rwlock_t *))                       \
    X(int, pthread_rwlock_timedrdlock,                                        \
      (pthread_rwlock_t *, const struct timespec *))                          \
    X(int, pthread_rwlock_timedwrlock,                                        \
      (pthread_rwlock_t *, const struct timespec *))                          \
    X(int, pthread_rwlock_tryrdlock, (pthread_rwlock_t *))                    \
    X(int, pthread_rwlock_trywrlock, (pthread_rwlock_t *))                    \
    X(int, pthread_rwlock_unlock, (pthread_rwlock_t *))                       \
    X(int, pthread_rwlock_wrlock, (pthread_rwlock_t *))                       \
    X(pthread_t, pthread_self, (void))                                        \
    X(int, pthread_setaffinity_np, (pthread_t, size_t, const cpu_set_t *))    \
    X(int, pthread_setname_np, (pthread_t, const char *))                     \
    X(int, pthread_setschedparam,                                             \
      (pthread_t, int, const struct sched_param *))                           \
    X(int, pthread_setspecific, (pthread_key_t, const void *))                \
    X(int, pthread_sigmask, (int, const sigset_t *, sigset_t *))              \
    X(int, pthread_sigqueue, (pthread_t, int, const union sigval))            \
    X(int, pthread_timedjoin_np,                                              \
      (pthread_t, void **, const struct timespec *))                          \
    X(int, pthread_tryjoin_np, (pthread_t, void **))                          \
    X(ssize_t, read, (int, void *, size_t))                                   \
    X(ssize_t, readv, (int, const struct iovec *, int))                       \
    X(ssize_t, recv, (int, void *, size_t, int))                              \
    X(ssize_t, recvfrom,                                                      \
      (int, void *, size_t, int, __SOCKADDR_ARG, socklen_t *))                \
    X(int, recvmmsg,                                                          \
      (int, struct mmsghdr *, unsigned, int, struct timespec *))              \
    X(ssize_t, recvmsg, (int, struct msghdr *, int))                          \
    X(int, sched_yield, (void))                                               \
    X(int, select, (int, fd_set *, fd_set *, fd_set *, struct timeval *))     \
    X(int, sem_clockwait, (sem_t *, clockid_t, const struct timespec *))      \
    X(int, sem_post, (sem_t *))                                               \
    X(int, sem_timedwait, (sem_t *, const struct timespec *))                 \
    X(int, sem_trywait, (sem_t *))                                            \
    X(int, sem_wait, (sem_t *))                                               \
    X(ssize_t, send, (int, const void *, size_t, int))                        \
    X(ssize_t, sendfile, (int, int, off_t *, size_t))                         \
    X(ssize_t, sendfile64, (int, int, off64_t *, size_t))                     \
    X(ssize_t, sendmsg, (int, const struct msghdr *, int))                    \
    X(ssize_t, sendto,                                                        \
      (int, const void *, size_t, int, __CONST_SOCKADDR_ARG, socklen_t))      \
    X(int, setsockopt, (int, int, int, const void *, socklen_t))              \
    X(int, sigaction, (int, const struct sigaction *, struct sigaction *))    \
    X(int, sigsuspend, (const sigset_t *))                                    \
    X(int, sigtimedwait,                                                      \
      (const sigset_t *, siginfo_t *, const struct timespec *))               \
    X(int, sigwait, (const sigset_t *, int *))                                \
    X(int, socket, (int, int, int))                                           \
    X(ssize_t, splice, (int, off64_t *, int, off64_t *, size_t, unsigned))    \
    X(int, system, (const char *))                                            \
    X(pid_t, wait4, (pid_t, int *, int, struct rusage *))                     \
    X(int, waitid, (idtype_t, id_t, siginfo_t *, int))                        \
    X(ssize_t, write, (int, const void *, size_t))                            \
    X(ssize_t, writev, (int, const struct iovec *, int))

struct calls {
#define X(type, name, parameters) type(*name) parameters;
    GREEN_CALLS(X)
#undef X
};

extern struct calls calls;
extern _Bool calls_found;

/* Finds the calls. */
void find_calls(void);

/* Returns the calls of the C library, or of what else is preloaded. The
 * constructors of libraries may call before green's own runs. */
static inline const struct calls *plain(void)
{
    if (__builtin_expect(!calls_found, 0))
        find_calls();
    return &calls;
}

#endif
