/*
 * bench_green.c - threads as coroutines: each call that green takes over
 *
 * The suite runs itself again with build/green.so preloaded. Each test is a
 * process of its own, and its threads are coroutines, which it asserts.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* pipe2, recursive mutexes, pthread_tryjoin_np */
#include "command.h"
#include "harness.h"

#include <arpa/inet.h>
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT_MS 40
#define SLACK_MS 5 /* that a rounded time may be short by */
#define MANY 50
#define BIG (1 << 20)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int order[MANY];
static int ordered;

static pthread_t spawn(void *(*start)(void *), void *argument)
{
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, start, argument), 0);
    return thread;
}

static void *join(pthread_t thread)
{
    void *result = NULL;
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    return result;
}

/* Returns the number of the system's threads in this process. */
static int os_threads(void)
{
    char line[256];
    int threads = 0;
    FILE *file = fopen("/proc/self/status", "re");

    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "Threads:", strlen("Threads:")) == 0)
            threads = (int)strtol(line + strlen("Threads:"), NULL, 10);
    (void)fclose(file);
    return threads;
}

static void sleep_ms(long ms)
{
    ck_assert_int_eq(
        nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL),
        0);
}

/* Fails unless there are so many, soon: the system counts a thread that was
 * joined for a moment longer. */
static void expect_os_threads(int count)
{
    long long deadline = now_ms() + PATIENCE_MS;
    int threads;

    while ((threads = os_threads()) != count && now_ms() < deadline)
        sleep_ms(1);
    ck_assert_int_eq(threads, count);
}

/* Counts while others wait: it runs if they do not stop the carrier. */
struct ticker {
    atomic_bool over;
    int ticks;
    pthread_t thread;
};

static void *tick(void *argument)
{
    struct ticker *ticker = argument;

    while (!ticker->over) {
        ticker->ticks++;
        sleep_ms(1);
    }
    return NULL;
}

static void ticker_start(struct ticker *ticker)
{
    *ticker = (struct ticker){.over = false};
    ticker->thread = spawn(tick, ticker);
}

/* Waits until it has ticked as often as ticker_end expects, which on a busy
 * machine may take its time. */
static void ticker_await(const struct ticker *ticker)
{
    while (ticker->ticks < 3)
        sleep_ms(1);
}

/* The others must have run meanwhile, in the one thread that there is. */
static void ticker_end(struct ticker *ticker)
{
    expect_os_threads(1);
    ticker->over = true;
    join(ticker->thread);
    ck_assert_int_ge(ticker->ticks, 3);
}

static void stream_pair(int pair[2])
{
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair),
                     0);
}

/* Makes a TCP connection. */
static void tcp_pair(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(listener, 0);
    ck_assert_int_eq(
        bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &size),
                     0);
    ck_assert_int_eq(listen(listener, 1), 0);
    pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(
        connect(pair[0], (struct sockaddr *)&address, sizeof address), 0);
    pair[1] = accept(listener, NULL, NULL);
    ck_assert_int_ge(pair[1], 0);
    close(listener);
}

static void *return_argument(void *argument)
{
    return argument;
}

/*
 * Threads
 */

static sem_t gate;

static void *wait_at_gate(void *argument)
{
    ck_assert_int_eq(sem_wait(&gate), 0);
    return argument;
}

START_TEST(test_threads_share_one_of_the_system)
{
    pthread_t threads[MANY];
    char values[MANY];

    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    for (int i = 0; i < MANY; i++)
        threads[i] = spawn(wait_at_gate, &values[i]);
    expect_os_threads(1);
    for (int i = 0; i < MANY; i++)
        sem_post(&gate);
    for (int i = 0; i < MANY; i++)
        ck_assert_ptr_eq(join(threads[i]), &values[i]);
}
END_TEST

static atomic_bool counted;

static int run_outside(void *argument)
{
    const struct timespec now = {0, 1000000};

    (void)argument;
    do
        nanosleep(&now, NULL); /* the plain call */
    while (!atomic_load(&counted));
    return sem_post(&gate);
}

START_TEST(test_a_librarys_thread_stays_one_and_can_post)
{
    thrd_t outside;
    struct ticker ticker;

    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    ticker_start(&ticker);
    for (int i = 0; i < 5; i++) {
        atomic_store(&counted, false);
        ck_assert_int_eq(thrd_create(&outside, run_outside, NULL),
                         thrd_success);
        expect_os_threads(2);
        atomic_store(&counted, true);
        ck_assert_int_eq(sem_wait(&gate), 0);
        ck_assert_int_eq(thrd_join(outside, NULL), thrd_success);
    }
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_join_detach_and_exit)
{
    pthread_t ended = spawn(return_argument, &gate);
    pthread_attr_t attr;

    sched_yield();
    ck_assert_ptr_eq(join(ended), &gate); /* it has ended before */
    ck_assert_ptr_eq(join(spawn(return_argument, &attr)), &attr);
    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    void *result = NULL;
    const struct timespec past = {0, 0};
    pthread_t waiting = spawn(wait_at_gate, &mutex);
    ck_assert_int_eq(pthread_tryjoin_np(waiting, &result), EBUSY);
    ck_assert_int_eq(pthread_timedjoin_np(waiting, &result, &past), ETIMEDOUT);
    sem_post(&gate);
    while (pthread_tryjoin_np(waiting, &result) == EBUSY)
        continue;
    ck_assert_ptr_eq(result, &mutex);
    pthread_t detached = spawn(wait_at_gate, NULL);
    ck_assert_int_eq(pthread_detach(detached), 0);
    ck_assert_int_eq(pthread_detach(detached), EINVAL);
    ck_assert_int_eq(pthread_join(detached, NULL), EINVAL);
    ck_assert_int_eq(pthread_attr_init(&attr), 0);
    ck_assert_int_eq(
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED), 0);
    ck_assert_int_eq(pthread_create(&detached, &attr, wait_at_gate, NULL), 0);
    ck_assert_int_eq(pthread_join(detached, NULL), EINVAL);
    sem_post(&gate);
    sem_post(&gate);
    sched_yield();
}
END_TEST

static void *exit_early(void *argument)
{
    ck_assert(!pthread_equal(pthread_self(), *(pthread_t *)argument));
    ck_assert_int_eq(pthread_join(pthread_self(), NULL), EDEADLK);
    pthread_exit(&gate);
}

START_TEST(test_self_is_ones_own_and_exit_returns_a_value)
{
    pthread_t self = pthread_self();
    pthread_t thread = spawn(exit_early, &self);

    ck_assert_ptr_eq(join(thread), &gate);
    ck_assert(pthread_equal(pthread_self(), self));
}
END_TEST

static pthread_key_t key;
static int destroyed;

static void destroy(void *value)
{
    destroyed += *(int *)value;
}

static void *keep_value(void *argument)
{
    ck_assert_ptr_null(pthread_getspecific(key));
    ck_assert_int_eq(pthread_setspecific(key, argument), 0);
    sleep_ms(2);
    ck_assert_ptr_eq(pthread_getspecific(key), argument);
    return NULL;
}

START_TEST(test_values_of_keys_are_a_threads_own)
{
    int values[] = {1, 20, 300};
    pthread_t threads[2];

    ck_assert_int_eq(pthread_key_create(&key, destroy), 0);
    for (int i = 0; i < 2; i++)
        threads[i] = spawn(keep_value, &values[i]);
    ck_assert_int_eq(pthread_setspecific(key, &values[2]), 0);
    for (int i = 0; i < 2; i++)
        join(threads[i]);
    ck_assert_ptr_eq(pthread_getspecific(key), &values[2]);
    ck_assert_int_eq(destroyed, 21);
    ck_assert_int_eq(pthread_key_delete(key), 0);
}
END_TEST

static void *keep_errno(void *argument)
{
    errno = *(int *)argument;
    for (int i = 0; i < 5; i++) {
        sleep_ms(1);
        ck_assert_int_eq(errno, *(int *)argument);
        sched_yield();
        ck_assert_int_eq(errno, *(int *)argument);
    }
    return NULL;
}

START_TEST(test_errno_is_a_threads_own)
{
    int values[] = {EPERM, ENOENT, ESRCH};
    pthread_t threads[3];

    for (int i = 0; i < 3; i++)
        threads[i] = spawn(keep_errno, &values[i]);
    for (int i = 0; i < 3; i++)
        join(threads[i]);
}
END_TEST

/* What C++ has of exceptions in each thread. */
struct exceptions {
    void *caught;
    unsigned uncaught;
};

static struct exceptions *exceptions;

static void *keep_exception(void *argument)
{
    ck_assert_ptr_null(exceptions->caught);
    ck_assert_uint_eq(exceptions->uncaught, 0);
    exceptions->caught = argument;
    exceptions->uncaught = 1;
    sleep_ms(2);
    ck_assert_ptr_eq(exceptions->caught, argument);
    ck_assert_uint_eq(exceptions->uncaught, 1);
    exceptions->caught = NULL;
    exceptions->uncaught = 0;
    return argument;
}

/* As if each were in a catch block, while another throws. */
START_TEST(test_exceptions_are_a_threads_own)
{
    pthread_t threads[3];
    void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_GLOBAL);

    ck_assert_ptr_nonnull(library);
    void *found = dlsym(library, "__cxa_get_globals");
    struct exceptions *(*find)(void);
    ck_assert_ptr_nonnull(found);
    memcpy(&find, &found, sizeof find);
    exceptions = find();
    for (int i = 0; i < 3; i++)
        threads[i] = spawn(keep_exception, &threads[i]);
    keep_exception(&gate);
    for (int i = 0; i < 3; i++)
        join(threads[i]);
}
END_TEST

static volatile char deepest;

/* Uses more and more of the stack, and cannot be turned into a loop. */
static int recurse(int depth) /* NOLINT(misc-no-recursion) */
{
    char frame[512];

    memset(frame, depth, sizeof frame);
    deepest = frame[depth % 512];
    return depth == 0 ? 0 : recurse(depth - 1) + deepest;
}

static void *overflow(void *argument)
{
    (void)argument;
    recurse(1 << 20);
    return NULL;
}

/* Runs a thread in another process. Returns how that ends, and what it says.
 */
static int run_apart(void *(*start)(void *), char *text, size_t size)
{
    int err[2];
    int status = 0;
    size_t len = 0;
    ssize_t n;
    pthread_attr_t attr;
    pthread_t thread;

    ck_assert_int_eq(pipe2(err, O_CLOEXEC), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        dup2(err[1], STDERR_FILENO);
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 64 * 1024);
        pthread_create(&thread, &attr, start, NULL);
        pthread_join(thread, NULL);
        _exit(0);
    }
    close(err[1]);
    while ((n = read(err[0], text + len, size - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    close(err[0]);
    return status;
}

START_TEST(test_a_stack_that_overflows_says_so)
{
    char text[512];
    int status = run_apart(overflow, text, sizeof text);

    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    ck_assert_msg(strstr(text, "green: a coroutine has overflowed its stack"),
                  "it says: %s", text);
}
END_TEST

/* Twice holds the carrier for longer than a second. */
static void *compute(void *argument)
{
    for (int i = 0; i < 2; i++) {
        long long begin = now_ms();
        while (now_ms() - begin < 1100)
            continue;
        sleep_ms(1);
    }
    return argument;
}

START_TEST(test_one_that_holds_all_others_up_is_warned_about_once)
{
    char text[512];

    ck_assert_int_eq(run_apart(compute, text, sizeof text), 0);
    ck_assert_msg(strncmp(text, "green: one coroutine has run", 28) == 0,
                  "it says: %s", text);
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
}
END_TEST

static void *send_file(void *argument)
{
    int pair[2];
    FILE *file = tmpfile();

    stream_pair(pair);
    for (int i = 0; i < 2; i++)
        (void)!sendfile(pair[0], fileno(file), NULL, 1);
    return argument;
}

START_TEST(test_a_call_that_is_not_carried_is_warned_about_once)
{
    char text[512];

    ck_assert_int_eq(run_apart(send_file, text, sizeof text), 0);
    ck_assert_msg(strncmp(text, "green: sendfile on a blocking", 29) == 0,
                  "it says: %s", text);
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
}
END_TEST

struct child {
    const struct ticker *ticker;
    pid_t pid;
};

static void *fork_child(void *argument)
{
    struct child *child = argument;

    child->pid = fork();
    if (child->pid == 0) {
        /* It has this thread alone, and can start others. */
        int ticks = child->ticker->ticks;
        sleep_ms(TIMEOUT_MS);
        bool alone = child->ticker->ticks == ticks;
        _exit(alone && join(spawn(return_argument, &gate)) == &gate ? 7 : 1);
    }
    return NULL;
}

START_TEST(test_a_fault_that_was_sent_kills)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        join(spawn(return_argument, NULL));
        kill(getpid(), SIGSEGV);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}
END_TEST

START_TEST(test_the_child_of_a_fork_goes_on_alone)
{
    struct ticker ticker;
    struct child child = {.ticker = &ticker};
    int status = 0;

    ticker_start(&ticker);
    join(spawn(fork_child, &child));
    while (waitpid(child.pid, &status, WNOHANG) == 0)
        sleep_ms(1);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 7);
    ticker_end(&ticker);
}
END_TEST

/*
 * Locks
 */

static void *note_order(void *argument)
{
    ck_assert_int_eq(pthread_mutex_lock(&mutex), 0);
    order[ordered++] = *(int *)argument;
    sleep_ms(1);
    ck_assert_int_eq(pthread_mutex_unlock(&mutex), 0);
    return NULL;
}

START_TEST(test_a_mutex_held_in_a_sleep_stops_only_those_that_want_it)
{
    struct ticker ticker;
    int numbers[5] = {0, 1, 2, 3, 4};
    pthread_t threads[5];

    ticker_start(&ticker);
    ck_assert_int_eq(pthread_mutex_lock(&mutex), 0);
    for (int i = 0; i < 5; i++)
        threads[i] = spawn(note_order, &numbers[i]);
    sleep_ms(TIMEOUT_MS);
    ck_assert_int_eq(ordered, 0);
    ck_assert_int_eq(pthread_mutex_trylock(&mutex), EBUSY);
    ck_assert_int_eq(pthread_mutex_unlock(&mutex), 0);
    for (int i = 0; i < 5; i++)
        join(threads[i]);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(order[i], i);
    ck_assert_int_eq(pthread_mutex_trylock(&mutex), 0);
    ck_assert_int_eq(pthread_mutex_unlock(&mutex), 0);
    ticker_end(&ticker);
}
END_TEST

static void *greedy(void *argument)
{
    int *turns = argument;

    for (int i = 0; i < 20; i++) {
        pthread_mutex_lock(&mutex);
        sleep_ms(1);
        ++*turns;
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

START_TEST(test_who_locks_again_at_once_has_to_queue)
{
    int turns = 0;
    pthread_t thread = spawn(greedy, &turns);

    sched_yield();
    pthread_mutex_lock(&mutex);
    ck_assert_int_le(turns, 2);
    pthread_mutex_unlock(&mutex);
    join(thread);
}
END_TEST

static void *want_owned(void *argument)
{
    ck_assert_int_eq(pthread_mutex_trylock(argument), EBUSY);
    ck_assert_int_eq(pthread_mutex_unlock(argument), EPERM);
    ck_assert_int_eq(pthread_mutex_lock(argument), 0);
    ck_assert_int_eq(pthread_mutex_unlock(argument), 0);
    ck_assert_int_eq(pthread_mutex_unlock(argument), EPERM);
    return NULL;
}

static struct timespec time_in(clockid_t clock, long ms)
{
    struct timespec time;

    clock_gettime(clock, &time);
    time.tv_nsec += ms * 1000000;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

static void *hold_mutex(void *argument)
{
    ck_assert_int_eq(pthread_mutex_lock(&mutex), 0);
    sleep_ms(1);
    ck_assert_int_eq(pthread_mutex_unlock(&mutex), 0);
    return argument;
}

START_TEST(test_a_loop_of_trylock_ends)
{
    struct timespec end = time_in(CLOCK_MONOTONIC, 1000);
    pthread_t thread = spawn(hold_mutex, NULL);

    sched_yield();
    while (pthread_mutex_trylock(&mutex) != 0)
        ;
    ck_assert_int_eq(pthread_mutex_unlock(&mutex), 0);
    ck_assert_int_eq(pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &end),
                     0);
    expect_os_threads(1);
}
END_TEST

START_TEST(test_mutexes_know_their_owner)
{
    const int kinds[] = {PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK};
    pthread_mutexattr_t attr;
    pthread_mutex_t owned;

    for (int i = 0; i < 2; i++) {
        pthread_mutexattr_init(&attr);
        pthread_mutexattr_settype(&attr, kinds[i]);
        ck_assert_int_eq(pthread_mutex_init(&owned, &attr), 0);
        ck_assert_int_eq(pthread_mutex_lock(&owned), 0);
        pthread_t thread = spawn(want_owned, &owned);
        sleep_ms(2);
        ck_assert_int_eq(pthread_mutex_lock(&owned), i == 0 ? 0 : EDEADLK);
        if (i == 0)
            ck_assert_int_eq(pthread_mutex_unlock(&owned), 0);
        ck_assert_int_eq(pthread_mutex_unlock(&owned), 0);
        join(thread);
        ck_assert_int_eq(pthread_mutex_lock(&owned), 0);
        ck_assert_int_eq(pthread_mutex_unlock(&owned), 0);
        ck_assert_int_eq(pthread_mutex_destroy(&owned), 0);
    }
}
END_TEST

START_TEST(test_waits_for_a_condition_time_out)
{
    const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC};
    pthread_condattr_t attr;
    struct ticker ticker;

    ticker_start(&ticker);
    for (int i = 0; i < 2; i++) {
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, clocks[i]);
        ck_assert_int_eq(pthread_cond_init(&cond, &attr), 0);
        long long begin = now_ms();
        struct timespec end = time_in(clocks[i], TIMEOUT_MS);
        pthread_mutex_lock(&mutex);
        ck_assert_int_eq(pthread_cond_timedwait(&cond, &mutex, &end),
                         ETIMEDOUT);
        ck_assert_int_eq(pthread_mutex_trylock(&mutex), EBUSY);
        pthread_mutex_unlock(&mutex);
        ck_assert_int_ge(now_ms() - begin, TIMEOUT_MS - SLACK_MS);
        ck_assert_int_lt(now_ms() - begin, PATIENCE_MS / 2);
    }
    ticker_end(&ticker);
}
END_TEST

static void *await_cond(void *argument)
{
    pthread_mutex_lock(&mutex);
    ++*(int *)argument;
    pthread_cond_wait(&cond, &mutex);
    ++*(int *)argument;
    pthread_mutex_unlock(&mutex);
    return NULL;
}

START_TEST(test_signal_wakes_one_and_broadcast_all)
{
    int count = 0;
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        threads[i] = spawn(await_cond, &count);
    sleep_ms(2);
    ck_assert_int_eq(count, 4);
    pthread_mutex_lock(&mutex);
    ck_assert_int_eq(pthread_cond_signal(&cond), 0);
    pthread_mutex_unlock(&mutex);
    sleep_ms(2);
    ck_assert_int_eq(count, 5);
    ck_assert_int_eq(pthread_cond_broadcast(&cond), 0);
    for (int i = 0; i < 4; i++)
        join(threads[i]);
    ck_assert_int_eq(count, 8);
}
END_TEST

START_TEST(test_semaphores_wait_and_time_out)
{
    struct ticker ticker;
    struct timespec end;

    ck_assert_int_eq(sem_init(&gate, 0, 1), 0);
    ticker_start(&ticker);
    ck_assert_int_eq(sem_wait(&gate), 0);
    end = time_in(CLOCK_REALTIME, TIMEOUT_MS);
    errno = 0;
    ck_assert_int_eq(sem_timedwait(&gate, &end), -1);
    ck_assert_int_eq(errno, ETIMEDOUT);
    pthread_t thread = spawn(wait_at_gate, NULL);
    sched_yield();
    ck_assert_int_eq(sem_post(&gate), 0);
    join(thread);
    ck_assert_int_eq(sem_trywait(&gate), -1); /* it went to that thread */
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_another_process_can_post_a_semaphore)
{
    struct ticker ticker;
    const int protection = PROT_READ | PROT_WRITE;
    const int flags = MAP_SHARED | MAP_ANONYMOUS;
    /* cppcheck-suppress invalidFunctionArg */
    sem_t *shared = mmap(NULL, sizeof *shared, protection, flags, -1, 0);

    ck_assert_ptr_ne(shared, MAP_FAILED);
    ck_assert_int_eq(sem_init(shared, 1, 0), 0);
    ticker_start(&ticker);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        sleep_ms(TIMEOUT_MS);
        sem_post(shared);
        _exit(0);
    }
    ck_assert_int_eq(sem_wait(shared), 0);
    ticker_end(&ticker);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    munmap(shared, sizeof *shared);
}
END_TEST

/* Mutexes of which the C library knows more than that they are locked. */
static void init_special(pthread_mutex_t *special, int kind, int way)
{
    pthread_mutexattr_t attr;

    ck_assert_int_eq(pthread_mutexattr_init(&attr), 0);
    ck_assert_int_eq(pthread_mutexattr_settype(&attr, kind), 0);
    if (way == 0)
        pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    else if (way == 1)
        pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    else
        pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    ck_assert_int_eq(pthread_mutex_init(special, &attr), 0);
}

struct turns {
    pthread_mutex_t *mutex;
    int inside;
    int done;
};

static void *take_turns(void *argument)
{
    struct turns *turns = argument;

    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(pthread_mutex_lock(turns->mutex), 0);
        ck_assert_int_eq(turns->inside++, 0);
        sleep_ms(1);
        turns->inside--;
        turns->done++;
        ck_assert_int_eq(pthread_mutex_unlock(turns->mutex), 0);
    }
    return NULL;
}

START_TEST(test_special_mutexes_exclude_and_stop_nobody)
{
    const int kinds[] = {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE,
                         PTHREAD_MUTEX_ERRORCHECK};
    struct ticker ticker;
    pthread_mutex_t special;
    pthread_t threads[3];
    struct turns turns = {.mutex = &special};

    init_special(&special, kinds[_i % 3], _i / 3);
    ticker_start(&ticker);
    for (int i = 0; i < 3; i++)
        threads[i] = spawn(take_turns, &turns);
    take_turns(&turns);
    for (int i = 0; i < 3; i++)
        join(threads[i]);
    ck_assert_int_eq(turns.done, 12);
    ck_assert_int_eq(pthread_mutex_lock(&special), 0);
    struct timespec soon = time_in(CLOCK_REALTIME, TIMEOUT_MS);
    if (_i % 3 == 0)
        ck_assert_int_eq(pthread_mutex_timedlock(&special, &soon), ETIMEDOUT);
    else
        ck_assert_int_eq(pthread_mutex_timedlock(&special, &soon),
                         _i % 3 == 1 ? 0 : EDEADLK);
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_the_death_of_an_owner_is_seen)
{
    struct ticker ticker;
    const int protection = PROT_READ | PROT_WRITE;
    const int flags = MAP_SHARED | MAP_ANONYMOUS;
    const size_t size = sizeof(pthread_mutex_t);
    /* cppcheck-suppress invalidFunctionArg */
    pthread_mutex_t *robust = mmap(NULL, size, protection, flags, -1, 0);
    pthread_mutexattr_t attr;

    ck_assert_ptr_ne(robust, MAP_FAILED);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_settype(&attr, _i == 0 ? PTHREAD_MUTEX_NORMAL
                                             : PTHREAD_MUTEX_RECURSIVE);
    ck_assert_int_eq(pthread_mutex_init(robust, &attr), 0);
    ticker_start(&ticker);
    for (int mended = 1; mended >= 0; mended--) {
        int ready[2];
        char byte;
        ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0) {
            pthread_mutex_lock(robust);
            (void)!write(ready[1], "x", 1);
            let_pass(TIMEOUT_MS);
            _exit(0);
        }
        ck_assert_int_eq(read(ready[0], &byte, 1), 1);
        ck_assert_int_eq(pthread_mutex_lock(robust), EOWNERDEAD);
        if (mended)
            ck_assert_int_eq(pthread_mutex_consistent(robust), 0);
        ck_assert_int_eq(pthread_mutex_unlock(robust), 0);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    }
    ck_assert_int_eq(pthread_mutex_lock(robust), ENOTRECOVERABLE);
    ticker_end(&ticker);
    munmap(robust, size);
}
END_TEST

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;

static void *hold_rwlock(void *argument)
{
    ck_assert_int_eq(pthread_rwlock_wrlock(&rwlock), 0);
    ck_assert_int_eq(sem_wait(&gate), 0);
    ck_assert_int_eq(pthread_rwlock_unlock(&rwlock), 0);
    return argument;
}

START_TEST(test_read_write_locks_time_out)
{
    struct ticker ticker;

    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    ticker_start(&ticker);
    pthread_t thread = spawn(hold_rwlock, NULL);
    sched_yield();
    struct timespec soon = time_in(CLOCK_REALTIME, TIMEOUT_MS);
    ck_assert_int_eq(pthread_rwlock_timedrdlock(&rwlock, &soon), ETIMEDOUT);
    soon = time_in(CLOCK_REALTIME, TIMEOUT_MS);
    ck_assert_int_eq(pthread_rwlock_timedwrlock(&rwlock, &soon), ETIMEDOUT);
    soon = time_in(CLOCK_MONOTONIC, TIMEOUT_MS);
    ck_assert_int_eq(
        pthread_rwlock_clockrdlock(&rwlock, CLOCK_MONOTONIC, &soon),
        ETIMEDOUT);
    soon = time_in(CLOCK_MONOTONIC, TIMEOUT_MS);
    ck_assert_int_eq(
        pthread_rwlock_clockwrlock(&rwlock, CLOCK_MONOTONIC, &soon),
        ETIMEDOUT);
    sem_post(&gate);
    soon = time_in(CLOCK_REALTIME, PATIENCE_MS);
    ck_assert_int_eq(pthread_rwlock_timedwrlock(&rwlock, &soon), 0);
    ck_assert_int_eq(pthread_rwlock_unlock(&rwlock), 0);
    join(thread);
    ticker_end(&ticker);
}
END_TEST

static pthread_once_t once = PTHREAD_ONCE_INIT;
static atomic_int initialized;

static void initialize(void)
{
    sleep_ms(TIMEOUT_MS);
    ck_assert_int_eq(initialized++, 0);
}

static void *call_once_and_look(void *argument)
{
    ck_assert_int_eq(pthread_once(&once, initialize), 0);
    ck_assert_int_eq(initialized, 1);
    return argument;
}

static int call_once_as_a_thread(void *argument)
{
    return call_once_and_look(argument) != NULL;
}

/* The initializer waits, the first time of a coroutine, the second of a
 * thread that is none. */
START_TEST(test_once_is_once)
{
    struct ticker ticker;
    pthread_t threads[3];
    thrd_t outside;

    ticker_start(&ticker);
    if (_i == 1)
        thrd_create(&outside, call_once_as_a_thread, NULL);
    while (_i == 1 && (*(volatile pthread_once_t *)&once & 3) == 0)
        sched_yield();
    for (int i = 0; i < 3; i++)
        threads[i] = spawn(call_once_and_look, NULL);
    call_once_and_look(NULL);
    for (int i = 0; i < 3; i++)
        join(threads[i]);
    if (_i == 1)
        thrd_join(outside, NULL);
    ticker_end(&ticker);
}
END_TEST

static mtx_t plain_mutex;
static cnd_t plain_cond;
static tss_t plain_key;
static int whose_turn;

static void *use_c11(void *argument)
{
    ck_assert_ptr_null(tss_get(plain_key));
    ck_assert_int_eq(tss_set(plain_key, argument), thrd_success);
    ck_assert_int_eq(mtx_lock(&plain_mutex), thrd_success);
    while (whose_turn != 1)
        ck_assert_int_eq(cnd_wait(&plain_cond, &plain_mutex), thrd_success);
    ck_assert_int_eq(thrd_sleep(&(struct timespec){0, 2000000}, NULL), 0);
    whose_turn = 2;
    ck_assert_int_eq(cnd_broadcast(&plain_cond), thrd_success);
    ck_assert_int_eq(mtx_unlock(&plain_mutex), thrd_success);
    ck_assert_ptr_eq(tss_get(plain_key), argument);
    return argument;
}

START_TEST(test_locks_of_c11_switch)
{
    struct ticker ticker;

    ck_assert_int_eq(mtx_init(&plain_mutex, mtx_timed), thrd_success);
    ck_assert_int_eq(cnd_init(&plain_cond), thrd_success);
    ck_assert_int_eq(tss_create(&plain_key, NULL), thrd_success);
    ticker_start(&ticker);
    ck_assert_int_eq(mtx_lock(&plain_mutex), thrd_success);
    pthread_t thread = spawn(use_c11, &gate);
    sleep_ms(2);
    ck_assert_int_eq(mtx_trylock(&plain_mutex), thrd_busy);
    whose_turn = 1;
    ck_assert_int_eq(cnd_signal(&plain_cond), thrd_success);
    while (whose_turn != 2)
        ck_assert_int_eq(cnd_wait(&plain_cond, &plain_mutex), thrd_success);
    struct timespec soon = time_in(CLOCK_REALTIME, TIMEOUT_MS);
    ck_assert_int_eq(mtx_timedlock(&plain_mutex, &soon), thrd_timedout);
    soon = time_in(CLOCK_REALTIME, TIMEOUT_MS);
    ck_assert_int_eq(cnd_timedwait(&plain_cond, &plain_mutex, &soon),
                     thrd_timedout);
    ck_assert_int_eq(mtx_unlock(&plain_mutex), thrd_success);
    join(thread);
    ck_assert_ptr_null(tss_get(plain_key));
    tss_delete(plain_key);
    ticker_end(&ticker);
}
END_TEST

/*
 * What the C library waits for inside
 */

static pthread_barrier_t barrier;

static void *meet(void *argument)
{
    int result = pthread_barrier_wait(&barrier);

    ck_assert(result == 0 || result == PTHREAD_BARRIER_SERIAL_THREAD);
    *(atomic_int *)argument += result == PTHREAD_BARRIER_SERIAL_THREAD;
    return argument;
}

START_TEST(test_threads_meet_at_a_barrier)
{
    struct ticker ticker;
    pthread_t threads[3];
    atomic_int serial = 0;

    ck_assert_int_eq(pthread_barrier_init(&barrier, NULL, 4), 0);
    ticker_start(&ticker);
    for (int i = 0; i < 3; i++)
        threads[i] = spawn(meet, &serial);
    sleep_ms(TIMEOUT_MS);
    meet(&serial);
    for (int i = 0; i < 3; i++)
        join(threads[i]);
    ck_assert_int_eq(serial, 1);
    ck_assert_int_eq(pthread_barrier_destroy(&barrier), 0);
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_waiting_for_a_process_stops_nobody)
{
    struct ticker ticker;
    siginfo_t info;
    int status = 0;

    for (int way = 0; way < 4; way++) {
        ticker_start(&ticker);
        pid_t pid = way == 3 ? 0 : fork();
        if (pid == 0 && way < 3) {
            let_pass(TIMEOUT_MS);
            _exit(3);
        }
        if (way == 0) {
            ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        } else if (way == 1) {
            ck_assert_int_eq(wait(&status), pid);
        } else if (way == 2) {
            ck_assert_int_eq(waitid(P_PID, (id_t)pid, &info, WEXITED), 0);
            ck_assert_int_eq(info.si_status, 3);
        } else {
            /* NOLINTNEXTLINE(cert-env33-c) */
            status = system("sleep 0.04; kill -s TERM $$");
            ck_assert(WIFSIGNALED(status));
        }
        if (way < 2)
            ck_assert_int_eq(WEXITSTATUS(status), 3);
        errno = 0;
        ck_assert_int_eq(waitpid(-1, &status, 0), -1);
        ck_assert_int_eq(errno, ECHILD);
        ticker_end(&ticker);
    }
}
END_TEST

START_TEST(test_waiting_for_another_process_lock_stops_nobody)
{
    struct ticker ticker;
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int ready[2];
    char byte;
    FILE *file = tmpfile();

    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
    ticker_start(&ticker);
    pid_t pid = fork();
    if (pid == 0) {
        char path[64];
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(file));
        int fd = open(path, O_RDWR | O_CLOEXEC); /* a file of its own */
        if (fd < 0 || flock(fd, LOCK_EX) != 0 ||
            fcntl(fd, F_SETLK, &whole) != 0)
            _exit(1);
        (void)!write(ready[1], "x", 1);
        let_pass(TIMEOUT_MS);
        _exit(0);
    }
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    const int ticks = ticker.ticks;
    if (_i == 0)
        ck_assert_int_eq(flock(fileno(file), LOCK_EX), 0);
    else
        ck_assert_int_eq(fcntl(fileno(file), F_SETLKW, &whole), 0);
    ck_assert_int_ge(ticker.ticks, ticks + 3);
    ticker_end(&ticker);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    (void)fclose(file);
}
END_TEST

static int end_late(void *argument)
{
    const struct timespec time = {0, TIMEOUT_MS * 1000000};

    (void)argument;
    nanosleep(&time, NULL);
    return 7;
}

static int join_from_there(void *argument)
{
    return join(*(pthread_t *)argument) == &gate ? 9 : 0;
}

START_TEST(test_coroutines_and_threads_join_each_other)
{
    struct ticker ticker;
    pthread_t native;
    thrd_t joiner;
    int result = 0;
    void *value = NULL;

    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    ticker_start(&ticker);
    ck_assert_int_eq(thrd_create(&native, end_late, NULL), thrd_success);
    ck_assert_int_eq(pthread_join(native, &value), 0);
    pthread_t thread = spawn(wait_at_gate, &gate);
    ck_assert_int_eq(thrd_create(&joiner, join_from_there, &thread),
                     thrd_success);
    sleep_ms(2);
    sem_post(&gate);
    sleep_ms(TIMEOUT_MS);
    ck_assert_int_eq(thrd_join(joiner, &result), thrd_success);
    ck_assert_int_eq(result, 9);
    ticker_end(&ticker);
}
END_TEST

/* Returns the page faults of threads other than the calling one. */
static long faults_elsewhere(void)
{
    struct rusage all;
    struct rusage own;

    ck_assert_int_eq(getrusage(RUSAGE_SELF, &all), 0);
    ck_assert_int_eq(getrusage(RUSAGE_THREAD, &own), 0);
    return all.ru_minflt - own.ru_minflt;
}

/* How long a lookup takes is not the test's to say; that another thread makes
 * it shows in that one's page faults, of its stack at least. */
START_TEST(test_another_thread_looks_up_a_name)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char host[256];

    join(spawn(return_argument, NULL));
    long before = faults_elsewhere();
    ck_assert_int_eq(getaddrinfo("127.0.0.1", "1", &hints, &found), 0);
    freeaddrinfo(found);
    ck_assert_int_eq(faults_elsewhere(), before); /* nobody need be asked */
    if (_i == 0) {
        ck_assert_int_eq(getaddrinfo("localhost", "1", &hints, &found), 0);
        freeaddrinfo(found);
    } else if (_i == 1) {
        ck_assert_int_eq(getnameinfo((struct sockaddr *)&address,
                                     sizeof address, host, sizeof host, NULL,
                                     0, 0),
                         0);
    } else {
        ck_assert_ptr_nonnull(gethostbyname("localhost"));
    }
    ck_assert_int_gt(faults_elsewhere(), before);
    ck_assert_int_eq(getaddrinfo("localhost", "none", &hints, &found),
                     EAI_SERVICE);
}
END_TEST

/*
 * Descriptors
 */

static atomic_bool epoll_refuses;

/* green.so finds this one before the C library's. */
int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    if (epoll_refuses) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

static void *write_late(void *argument)
{
    sleep_ms(TIMEOUT_MS);
    ck_assert_int_eq(write(*(int *)argument, "x", 1), 1);
    return argument;
}

START_TEST(test_what_epoll_does_not_watch_is_looked_at)
{
    struct ticker ticker;
    int pair[2];
    char byte = 0;

    ticker_start(&ticker);
    epoll_refuses = true;
    stream_pair(pair);
    pthread_t thread = spawn(write_late, &pair[1]);
    ck_assert_int_eq(recv(pair[0], &byte, 1, 0), 1);
    join(thread);
    thread = spawn(write_late, &pair[1]);
    struct pollfd wanted = {.fd = pair[0], .events = POLLIN};
    ck_assert_int_eq(poll(&wanted, 1, -1), 1);
    ck_assert_int_eq(recv(pair[0], &byte, 1, 0), 1);
    join(thread);
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_errno_stays_when_nothing_fails)
{
    int pair[2];
    char byte = 0;

    stream_pair(pair);
    pthread_t thread = spawn(write_late, &pair[1]);
    errno = 0;
    ck_assert_int_eq(read(pair[0], &byte, 1), 1);
    ck_assert_int_eq(errno, 0);
    join(thread);
    errno = ERANGE;
    tcp_pair(pair);
    ck_assert_int_eq(errno, ERANGE);
}
END_TEST

static void set_timeout(int fd, int option)
{
    const struct timeval timeout = {0, TIMEOUT_MS * 1000};
    ck_assert_int_eq(
        setsockopt(fd, SOL_SOCKET, option, &timeout, sizeof timeout), 0);
}

START_TEST(test_timeouts_of_sockets_hold)
{
    static char data[BIG];
    struct ticker ticker;
    int pair[2];
    char byte;

    for (int tcp = 0; tcp < 2; tcp++) {
        (tcp ? tcp_pair : stream_pair)(pair);
        set_timeout(pair[0], SO_RCVTIMEO);
        ticker_start(&ticker);
        set_timeout(pair[0], SO_SNDTIMEO);
        long long begin = now_ms();
        ck_assert_int_eq(recv(pair[0], &byte, 1, 0), -1);
        ck_assert_int_eq(errno, EAGAIN);
        ck_assert_int_ge(now_ms() - begin, TIMEOUT_MS - SLACK_MS);
        ck_assert_int_lt(now_ms() - begin, PATIENCE_MS / 2);
        ssize_t sent = 0, n;
        begin = now_ms();
        while ((n = send(pair[0], data, sizeof data, 0)) > 0)
            sent += n;
        ck_assert_int_eq(errno, EAGAIN);
        ck_assert_int_gt(sent, 0);
        ck_assert_int_ge(now_ms() - begin, TIMEOUT_MS - SLACK_MS);
        ticker_end(&ticker);
        close(pair[0]);
        close(pair[1]);
    }
}
END_TEST

struct source {
    int fd;
    bool is_socket;
    size_t received;
};

/* Reads all that comes, a little at a time, each time by another call. */
static void *drain(void *argument)
{
    struct source *source = argument;
    int fd = source->fd;
    char data[10000];
    ssize_t n;
    int turn = 0;

    do {
        struct iovec parts[] = {{data, 5000}, {data + 5000, 5000}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        switch (turn++ % (source->is_socket ? 5 : 2)) {
        case 0:
            n = read(fd, data, sizeof data);
            break;
        case 1:
            n = readv(fd, parts, 2);
            break;
        case 2:
            n = recv(fd, data, sizeof data, 0);
            break;
        case 3:
            n = recvmsg(fd, &message, 0);
            break;
        default:
            n = recvfrom(fd, data, sizeof data, 0, NULL, NULL);
        }
        ck_assert_int_ge(n, 0);
        source->received += (size_t)n;
    } while (n > 0);
    return NULL;
}

START_TEST(test_what_is_sent_arrives_whole)
{
    static char data[BIG];
    struct iovec parts[] = {{data, 10}, {data, BIG - 10}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    int pair[2];

    for (int kind = 0; kind < 3; kind++) {
        if (kind == 0)
            stream_pair(pair);
        else if (kind == 1)
            tcp_pair(pair);
        else
            ck_assert_int_eq(pipe2(pair, O_CLOEXEC), 0);
        struct source source = {.fd = pair[0], .is_socket = kind < 2};
        pthread_t thread = spawn(drain, &source);
        expect_os_threads(1);
        ck_assert_int_eq(write(pair[1], data, BIG), BIG);
        ck_assert_int_eq(writev(pair[1], parts, 2), BIG);
        size_t sent = 2 * BIG;
        if (kind < 2) {
            ck_assert_int_eq(send(pair[1], data, BIG, 0), BIG);
            ck_assert_int_eq(sendmsg(pair[1], &message, 0), BIG);
            ck_assert_int_eq(sendto(pair[1], data, BIG, 0, NULL, 0), BIG);
            sent = 5 * BIG;
        }
        close(pair[1]);
        join(thread);
        ck_assert_uint_eq(source.received, sent);
        ck_assert_ptr_eq(parts[1].iov_base, data);
        close(pair[0]);
    }
}
END_TEST

static void *say_late(void *argument)
{
    sleep_ms(TIMEOUT_MS);
    ck_assert_int_eq(write(*(int *)argument, "x", 1), 1);
    return NULL;
}

START_TEST(test_poll_waits_for_several_and_times_out)
{
    struct ticker ticker;
    int pipes[3][2];
    struct pollfd fds[4] = {[3] = {.fd = -1, .events = POLLIN}};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 5};
    char byte;

    ticker_start(&ticker);
    for (int i = 0; i < 3; i++) {
        if (i == 0)
            ck_assert_int_eq(pipe2(pipes[i], O_CLOEXEC), 0);
        else
            (i == 1 ? stream_pair : tcp_pair)(pipes[i]);
        fds[i] = (struct pollfd){.fd = pipes[i][0], .events = POLLIN};
        ck_assert_int_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[i][0], &event),
                         0);
    }
    for (int i = 0; i < 3; i++) {
        long long begin = now_ms();
        ck_assert_int_eq(poll(fds + i, (nfds_t)(4 - i), TIMEOUT_MS), 0);
        ck_assert_int_ge(now_ms() - begin, TIMEOUT_MS - SLACK_MS);
        ck_assert_int_eq(poll(fds, 4, 0), 0);

        pthread_t thread = spawn(say_late, &pipes[i][1]);
        ck_assert_int_eq(poll(fds, 4, PATIENCE_MS), 1);
        for (int j = 0; j < 3; j++)
            ck_assert_int_eq(fds[j].revents, i == j ? POLLIN : 0);
        join(thread);
        ck_assert_int_eq(read(pipes[i][0], &byte, 1), 1);

        fd_set set;
        FD_ZERO(&set);
        for (int j = 0; j < 3; j++)
            FD_SET(pipes[j][0], &set);
        thread = spawn(say_late, &pipes[i][1]);
        ck_assert_int_eq(
            select(FD_SETSIZE, &set, NULL, NULL, &(struct timeval){9, 0}), 1);
        ck_assert(FD_ISSET(pipes[i][0], &set));
        join(thread);
        ck_assert_int_eq(read(pipes[i][0], &byte, 1), 1);

        ck_assert_int_eq(epoll_wait(epoll, &event, 1, 2), 0);
        thread = spawn(say_late, &pipes[i][1]);
        ck_assert_int_eq(epoll_wait(epoll, &event, 1, -1), 1);
        ck_assert_int_eq(event.data.u32, 5);
        join(thread);
        ck_assert_int_eq(read(pipes[i][0], &byte, 1), 1);
    }
    ck_assert_int_eq(poll(NULL, 0, 2), 0);
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_the_end_of_a_stream_is_seen)
{
    int pair[2];
    char data[8];

    sem_init(&gate, 0, 0);
    pthread_t thread = spawn(wait_at_gate, NULL);
    tcp_pair(pair);
    for (int early = 0; early < 2; early++) {
        /* The end comes after a read that got less than it had room for. */
        struct pollfd input = {.fd = pair[0], .events = POLLIN};
        ck_assert_int_eq(write(pair[1], "abc", 3), 3);
        if (early)
            shutdown(pair[1], SHUT_WR);
        ck_assert_int_eq(poll(&input, 1, PATIENCE_MS), 1);
        ck_assert_int_eq(recv(pair[0], data, sizeof data, 0), 3);
        if (!early)
            ck_assert_int_eq(poll(&input, 1, 2), 0);
    }
    ck_assert_int_eq(recv(pair[0], data, sizeof data, 0), 0);
    ck_assert_int_eq(recv(pair[0], data, sizeof data, 0), 0);
    sem_post(&gate);
    join(thread);
}
END_TEST

static atomic_int handled;

static void handle(int number)
{
    handled = number;
}

static void *connect_twice(void *argument)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const socklen_t size = sizeof(struct sockaddr_in);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(connect(fd, argument, size), -1);
    ck_assert_int_eq(errno, EINTR);
    ck_assert_int_eq(connect(fd, argument, size), 0);
    close(fd);
    return argument;
}

/* The backlog is full, so the connection waits for its SYN to be repeated. */
START_TEST(test_a_connect_that_was_interrupted_can_go_on)
{
    const struct sigaction action = {.sa_handler = handle};
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct ticker ticker;
    int port;
    int held = hold_port(&port);

    sigaction(SIGUSR2, &action, NULL);
    address.sin_port = htons((in_port_t)port);
    ck_assert_int_eq(listen(held, 0), 0);
    int filler = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(
        connect(filler, (struct sockaddr *)&address, sizeof address), 0);
    ticker_start(&ticker);
    pthread_t thread = spawn(connect_twice, &address);
    sleep_ms(5);
    ck_assert_int_eq(pthread_kill(thread, SIGUSR2), 0);
    sleep_ms(5);
    for (int i = 0; i < 2; i++) {
        int accepted = accept(held, NULL, NULL);
        ck_assert_int_ge(accepted, 0);
        close(accepted);
    }
    join(thread);
    ticker_end(&ticker);
    close(filler);
    close(held);
}
END_TEST

static void *connect_late(void *argument)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    sleep_ms(TIMEOUT_MS);
    ck_assert_int_eq(connect(fd, argument, sizeof(struct sockaddr_in)), 0);
    close(fd);
    return NULL;
}

START_TEST(test_accept_and_connect)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct ticker ticker;
    int port;
    int held = hold_port(&port);

    ticker_start(&ticker);
    address.sin_port = htons((in_port_t)port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, size), -1);
    ck_assert_int_eq(errno, ECONNREFUSED);
    ck_assert_int_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    close(fd);

    ck_assert_int_eq(listen(held, 5), 0);
    pthread_t thread = spawn(connect_late, &address);
    fd = accept(held, NULL, NULL);
    ck_assert_int_ge(fd, 0);
    join(thread);
    char byte;
    ck_assert_int_eq(recv(fd, &byte, 1, 0), 0);
    set_timeout(held, SO_RCVTIMEO);
    ck_assert_int_eq(accept(held, NULL, NULL), -1);
    ck_assert_int_eq(errno, EAGAIN);
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_what_is_non_blocking_does_not_wait)
{
    int pair[2];
    char byte;
    int yes = 1;

    sem_init(&gate, 0, 0);
    pthread_t thread = spawn(wait_at_gate, NULL);
    for (int way = 0; way < 4; way++) {
        if (way == 0)
            ck_assert_int_eq(
                socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
        else
            tcp_pair(pair);
        if (way == 1)
            ck_assert_int_eq(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
        else if (way == 2)
            ck_assert_int_eq(ioctl(pair[0], FIONBIO, &yes), 0);
        ck_assert_int_eq(recv(pair[0], &byte, 1, way == 3 ? MSG_DONTWAIT : 0),
                         -1);
        ck_assert_int_eq(errno, EAGAIN);
        close(pair[0]);
        close(pair[1]);
    }
    sem_post(&gate);
    join(thread);
}
END_TEST

static void *read_closed(void *argument)
{
    char byte;

    ck_assert_int_eq(recv(*(int *)argument, &byte, 1, 0), -1);
    ck_assert_int_eq(errno, EBADF);
    return argument;
}

START_TEST(test_who_waits_for_what_is_closed_fails)
{
    int pair[2];

    stream_pair(pair);
    pthread_t thread = spawn(read_closed, &pair[0]);
    sched_yield();
    ck_assert_int_eq(dup2(1 << 30, pair[0]), -1); /* none */
    sched_yield();
    ck_assert_int_eq(pthread_tryjoin_np(thread, NULL), EBUSY);
    close(pair[0]);
    int next[2];
    stream_pair(next); /* which has the number now */
    ck_assert_int_eq(next[0], pair[0]);
    ck_assert_int_eq(write(next[1], "x", 1), 1);
    ck_assert_ptr_eq(join(thread), &pair[0]);
    char byte = 0;
    ck_assert_int_eq(recv(next[0], &byte, 1, 0), 1);
}
END_TEST

START_TEST(test_events_of_what_was_closed_are_ignored)
{
    int old[2];
    int new[2];

    join(spawn(return_argument, NULL));
    stream_pair(old);
    struct pollfd input = {.fd = old[0], .events = POLLIN};
    ck_assert_int_eq(poll(&input, 1, 2), 0);
    int other = dup(old[0]); /* keeps it open, and with epoll */
    ck_assert_int_ge(other, 0);
    close(old[0]);
    stream_pair(new);
    ck_assert_int_eq(new[0], input.fd);
    ck_assert_int_eq(poll(&input, 1, 2), 0);
    pthread_t thread = spawn(say_late, &old[1]);
    ck_assert_int_eq(poll(&input, 1, 2 * TIMEOUT_MS), 0);
    join(thread);
    ck_assert_int_eq(write(new[1], "x", 1), 1);
    ck_assert_int_eq(poll(&input, 1, PATIENCE_MS), 1);
    ck_assert_int_eq(input.revents, POLLIN);
}
END_TEST

static int count_broken;

static void note_broken(int number)
{
    (void)number;
    count_broken++;
}

static void *read_some_and_close(void *argument)
{
    const int *fd = argument;
    static char data[1000];

    ck_assert_int_gt(read(*fd, data, sizeof data), 0);
    sleep_ms(2);
    close(*fd);
    return argument;
}

START_TEST(test_a_write_that_has_sent_something_raises_nothing)
{
    static char data[16 * BIG];
    int pair[2];

    stream_pair(pair);
    signal(SIGPIPE, note_broken);
    pthread_t thread = spawn(read_some_and_close, &pair[1]);
    ssize_t sent = write(pair[0], data, sizeof data);
    ck_assert_int_gt(sent, 0);
    ck_assert_int_lt(sent, (ssize_t)sizeof data);
    ck_assert_int_eq(count_broken, 0);
    ck_assert_int_eq(write(pair[0], data, 1), -1);
    ck_assert_int_eq(errno, EPIPE);
    ck_assert_int_eq(count_broken, 1);
    join(thread);
}
END_TEST

static void *write_in_two(void *argument)
{
    for (int i = 0; i < 2; i++) {
        sleep_ms(5);
        ck_assert_int_eq(write(*(int *)argument, "abc", 3), 3);
    }
    return argument;
}

START_TEST(test_a_peek_can_wait_for_all)
{
    struct ticker ticker;
    int pair[2];
    char data[7] = "";

    tcp_pair(pair);
    ticker_start(&ticker);
    pthread_t thread = spawn(write_in_two, &pair[1]);
    ck_assert_int_eq(recv(pair[0], data, 6, MSG_PEEK | MSG_WAITALL), 6);
    ck_assert_mem_eq(data, "abcabc", 6);
    ck_assert_int_eq(recv(pair[0], data, 6, MSG_WAITALL), 6);
    join(thread);
    thread = spawn(write_in_two, &pair[1]);
    join(thread);
    shutdown(pair[1], SHUT_WR);
    ck_assert_int_eq(recv(pair[0], data, 7, MSG_PEEK | MSG_WAITALL), 6);
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_duplicates_share_their_flag)
{
    struct ticker ticker;
    char byte;

    ticker_start(&ticker);
    for (int way = 0; way < 4; way++) {
        int pair[2];
        stream_pair(pair);
        int other = way == 0   ? dup(pair[0])
                    : way == 1 ? fcntl(pair[0], F_DUPFD_CLOEXEC, 0)
                    : way == 2 ? dup2(pair[0], 200)
                               : dup3(pair[0], 201, O_CLOEXEC);
        ck_assert_int_eq(poll(&(struct pollfd){.fd = other}, 1, 1), 0);
        ck_assert_int_eq(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
        ck_assert_int_eq(recv(other, &byte, 1, 0), -1);
        ck_assert_int_eq(errno, EAGAIN);
        ck_assert_int_eq(fcntl(other, F_SETFL, 0), 0);
        pthread_t thread = spawn(write_late, &pair[1]);
        ck_assert_int_eq(recv(pair[0], &byte, 1, 0), 1);
        join(thread);
        close(pair[0]);
        close(pair[1]);
        close(other);
    }
    ticker_end(&ticker);
}
END_TEST

START_TEST(test_who_closes_all_descriptors_goes_on)
{
    struct ticker ticker;
    int pair[2];
    char byte;
    struct timespec begin, end;

    ticker_start(&ticker);
    ticker_await(&ticker);
    if (_i == 0)
        for (int fd = 3; fd < 256; fd++)
            close(fd);
    else if (_i == 1)
        closefrom(3);
    else
        ck_assert_int_eq(close_range(3, ~0U, 0), 0);
    ticker_end(&ticker);
    stream_pair(pair);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    pthread_t thread = spawn(write_late, &pair[1]);
    ck_assert_int_eq(recv(pair[0], &byte, 1, 0), 1);
    join(thread);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    long us = (end.tv_sec - begin.tv_sec) * 1000000 +
              (end.tv_nsec - begin.tv_nsec) / 1000;
    ck_assert_int_lt(us, TIMEOUT_MS * 500); /* it has slept, not spun */
}
END_TEST

static void *keep_busy(void *argument)
{
    int pair[2];
    char byte = 'x';
    long turns = 0;

    stream_pair(pair);
    while (!*(atomic_bool *)argument && ++turns < 10000000) {
        ck_assert_int_eq(send(pair[0], &byte, 1, 0), 1);
        ck_assert_int_eq(recv(pair[1], &byte, 1, 0), 1);
    }
    ck_assert_int_lt(turns, 10000000);
    return argument;
}

START_TEST(test_one_that_never_waits_lets_others_run)
{
    atomic_bool over = false;
    int pair[2];
    char byte;

    tcp_pair(pair);
    pthread_t busy = spawn(keep_busy, &over);
    pthread_t late = spawn(say_late, &pair[1]);
    ck_assert_int_eq(recv(pair[0], &byte, 1, 0), 1);
    over = true;
    ck_assert_ptr_eq(join(busy), &over);
    join(late);
}
END_TEST

/*
 * Time and signals
 */

static void *time_out_a_signal(void *argument)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    ck_assert_int_eq(sigtimedwait(&set, NULL, &(struct timespec){0, 1}), -1);
    ck_assert_int_eq(errno, EAGAIN);
    return argument;
}

START_TEST(test_sigwait_leaves_its_descriptor_to_others)
{
    struct ticker ticker;
    int pair[2];
    char byte = 0;

    ticker_start(&ticker);
    join(spawn(time_out_a_signal, NULL));
    stream_pair(pair); /* one of these has its number now */
    for (int i = 0; i < 2; i++) {
        pthread_t thread = spawn(write_late, &pair[1 - i]);
        ck_assert_int_eq(read(pair[i], &byte, 1), 1);
        join(thread);
    }
    ticker_end(&ticker);
}
END_TEST

static void *sleep_and_note(void *argument)
{
    int ms = *(int *)argument;
    long long begin = now_ms();

    if (ms % 20 == 0)
        usleep((useconds_t)ms * 1000);
    else
        sleep_ms(ms);
    ck_assert_int_ge(now_ms() - begin, ms - 1);
    order[ordered++] = ms;
    return NULL;
}

START_TEST(test_sleepers_wake_in_order)
{
    int ms[] = {90, 20, 60, 10, 80, 50};
    const int sorted[] = {10, 20, 50, 60, 80, 90};
    pthread_t threads[6];

    long long begin = now_ms();
    for (int i = 0; i < 6; i++)
        threads[i] = spawn(sleep_and_note, &ms[i]);
    for (int i = 0; i < 6; i++)
        join(threads[i]);
    ck_assert_mem_eq(order, sorted, sizeof sorted);
    ck_assert_int_lt(now_ms() - begin, 300); /* side by side */
}
END_TEST

static void *await_signal(void *argument)
{
    int number = 0;
    ck_assert_int_eq(sigwait(argument, &number), 0);
    ck_assert_int_eq(number, SIGUSR1);
    return argument;
}

START_TEST(test_waiting_for_a_signal_stops_nobody)
{
    struct ticker ticker;
    sigset_t set;
    siginfo_t info;
    const struct timespec soon = {0, TIMEOUT_MS * 1000000};

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    ticker_start(&ticker);
    for (int way = 0; way < 3; way++) {
        pthread_t thread = spawn(await_signal, &set);
        sleep_ms(5);
        if (way == 0)
            kill(getpid(), SIGUSR1);
        else if (way == 1)
            pthread_kill(thread, SIGUSR1);
        else
            raise(SIGUSR1);
        ck_assert_ptr_eq(join(thread), &set);
    }
    ck_assert_int_eq(sigtimedwait(&set, &info, &soon), -1);
    ck_assert_int_eq(errno, EAGAIN);
    kill(getpid(), SIGUSR1);
    ck_assert_int_eq(sigtimedwait(&set, &info, NULL), SIGUSR1);
    ck_assert_int_eq(info.si_pid, getpid());
    ticker_end(&ticker);
}
END_TEST

static int alarms[2]; /* a pipe */

static void tell_of_alarm(int number)
{
    (void)number;
    (void)!write(alarms[1], "x", 1);
}

/* Whatever the number of calls is after which a coroutine gives way. */
START_TEST(test_a_handler_can_write_to_a_pipe)
{
    const struct itimerval often = {{0, 2000}, {0, 2000}};
    const struct sigaction action = {.sa_handler = tell_of_alarm,
                                     .sa_flags = SA_RESTART};
    struct ticker ticker;
    int pair[2];
    char bytes[100];

    ticker_start(&ticker);
    ticker_await(&ticker); /* it ticks: there are coroutines */
    ticker_end(&ticker);
    ck_assert_int_eq(pipe2(alarms, O_CLOEXEC), 0);
    stream_pair(pair);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int calls = 0; calls < 80; calls++) {
        for (int i = 0; i < calls; i++)
            ck_assert_int_eq(write(pair[1], "x", 1), 1);
        /* Check's own handlers may end it. */
        while (read(alarms[0], bytes, sizeof bytes) < 0)
            ck_assert_int_eq(errno, EINTR);
        ck_assert_int_eq(recv(pair[0], bytes, sizeof bytes, MSG_DONTWAIT),
                         calls > 0 ? calls : -1);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {0}}, NULL);
}
END_TEST

START_TEST(test_a_handler_interrupts_main)
{
    int pair[2];
    struct sigaction action = {.sa_handler = handle};

    stream_pair(pair);
    struct pollfd input = {.fd = pair[0], .events = POLLIN};
    sigaction(SIGUSR2, &action, NULL);
    alarm(5);
    pid_t pid = fork();
    if (pid == 0) { /* from outside, as the carrier sleeps */
        let_pass(TIMEOUT_MS);
        kill(getppid(), SIGUSR2);
        _exit(0);
    }
    sem_init(&gate, 0, 0);
    pthread_t thread = spawn(wait_at_gate, NULL);
    ck_assert_int_eq(poll(&input, 1, -1), -1);
    ck_assert_int_eq(errno, EINTR);
    ck_assert_int_eq(handled, SIGUSR2);
    waitpid(pid, NULL, 0);
    sem_post(&gate);
    join(thread);
}
END_TEST

static void set_handler(int number, int flags)
{
    const struct sigaction action = {.sa_handler = handle, .sa_flags = flags};
    struct sigaction set;

    ck_assert_int_eq(sigaction(number, &action, NULL), 0);
    ck_assert_int_eq(sigaction(number, NULL, &set), 0);
    ck_assert(set.sa_handler == handle);
    ck_assert_int_eq(set.sa_flags & SA_SIGINFO, 0);
    handled = 0;
}

/* What a main thread may wait in until a handler has run. */

static int wait_in_poll(int fd)
{
    struct pollfd input = {.fd = fd, .events = POLLIN};
    return poll(&input, 1, -1);
}

static int wait_in_select(int fd)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(fd, &set);
    return select(fd + 1, &set, NULL, NULL, NULL);
}

static int wait_in_recv(int fd)
{
    char byte;
    return (int)recv(fd, &byte, 1, 0);
}

static int wait_in_accept(int fd)
{
    int port;
    int held = hold_port(&port);

    (void)fd;
    ck_assert_int_eq(listen(held, 1), 0);
    int result = accept(held, NULL, NULL);
    int error = errno;
    close(held);
    errno = error;
    return result;
}

static int wait_in_sleep(int fd)
{
    (void)fd;
    return nanosleep(&(struct timespec){.tv_sec = 60}, NULL);
}

static int wait_in_pause(int fd)
{
    (void)fd;
    return pause();
}

static int wait_in_sem(int fd)
{
    (void)fd;
    return sem_wait(&gate);
}

static int (*const waits[])(int) = {
    wait_in_poll,  wait_in_select, wait_in_recv, wait_in_accept,
    wait_in_sleep, wait_in_pause,  wait_in_sem,
};

/* Has a process send a signal, when this one is long in its wait. */
static pid_t send_late(int number)
{
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        let_pass(TIMEOUT_MS);
        kill(getppid(), number);
        _exit(0);
    }
    return pid;
}

/* A busy thread: the carrier never sleeps. */
START_TEST(test_a_handler_interrupts_main_under_load)
{
    atomic_bool over = false;
    int pair[2];

    stream_pair(pair);
    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    set_handler(SIGUSR2, 0);
    pthread_t busy = spawn(keep_busy, &over);
    pid_t pid = send_late(SIGUSR2);
    ck_assert_int_eq(waits[_i](pair[0]), -1);
    ck_assert_int_eq(errno, EINTR);
    ck_assert_int_eq(handled, SIGUSR2);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    over = true;
    join(busy);
}
END_TEST

static int wait_in_ppoll(int fd, const sigset_t *mask)
{
    struct pollfd input = {.fd = fd, .events = POLLIN};
    return ppoll(&input, 1, NULL, mask);
}

static int wait_in_pselect(int fd, const sigset_t *mask)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(fd, &set);
    return pselect(fd + 1, &set, NULL, NULL, NULL, mask);
}

static int wait_in_epoll_pwait(int fd, const sigset_t *mask)
{
    struct epoll_event event;
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    (void)fd;
    int result = epoll_pwait(epoll, &event, 1, -1, mask);
    int error = errno;
    close(epoll);
    errno = error;
    return result;
}

static int wait_in_sigsuspend(int fd, const sigset_t *mask)
{
    (void)fd;
    return sigsuspend(mask);
}

static int (*const masked_waits[])(int, const sigset_t *) = {
    wait_in_ppoll, wait_in_pselect, wait_in_epoll_pwait, wait_in_sigsuspend};

/* The signal has come before the wait, or comes in it. */
START_TEST(test_a_wait_unblocks_signals)
{
    atomic_bool over = false;
    int pair[2];
    sigset_t set, none, now;

    stream_pair(pair);
    set_handler(SIGUSR2, SA_RESTART);
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    ck_assert_int_eq(sigprocmask(SIG_BLOCK, &set, NULL), 0);
    pthread_t busy = spawn(keep_busy, &over);
    for (int late = 0; late < 2; late++) {
        pid_t pid = -1;
        handled = 0;
        if (late)
            pid = send_late(SIGUSR2);
        else
            kill(getpid(), SIGUSR2);
        sched_yield();
        ck_assert_int_eq(handled, 0);
        ck_assert_int_eq(masked_waits[_i](pair[0], &none), -1);
        ck_assert_int_eq(errno, EINTR);
        ck_assert_int_eq(handled, SIGUSR2);
        ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
        ck_assert_int_eq(sigismember(&now, SIGUSR2), 1);
        if (late)
            ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    }
    over = true;
    join(busy);
}
END_TEST

static void *block_and_wait(void *argument)
{
    sigset_t all;

    sigfillset(&all);
    ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &all, NULL), 0);
    return wait_at_gate(argument);
}

START_TEST(test_a_thread_blocks_signals_for_itself_alone)
{
    sigset_t now;
    int pair[2];

    stream_pair(pair);
    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    set_handler(SIGUSR2, 0);
    pthread_t thread = spawn(block_and_wait, NULL);
    sched_yield();
    ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
    ck_assert_int_eq(sigismember(&now, SIGUSR2), 0);
    pid_t pid = send_late(SIGUSR2);
    ck_assert_int_eq(wait_in_poll(pair[0]), -1);
    ck_assert_int_eq(errno, EINTR);
    ck_assert_int_eq(handled, SIGUSR2);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    sem_post(&gate);
    join(thread);
}
END_TEST

static pthread_t handled_in;
static int handled_value;

static void note_thread(int number, siginfo_t *info, void *machine)
{
    (void)machine;
    handled = number;
    handled_in = pthread_self();
    handled_value = info->si_code == SI_QUEUE ? info->si_value.sival_int : 0;
}

static void *be_interrupted(void *argument)
{
    ck_assert_int_eq(wait_in_recv(*(int *)argument), -1);
    ck_assert_int_eq(errno, EINTR);
    return argument;
}

static void *receive_one(void *argument)
{
    ck_assert_int_eq(wait_in_recv(*(int *)argument), 1);
    return argument;
}

START_TEST(test_a_signal_for_a_thread_interrupts_that_one)
{
    struct sigaction action = {.sa_sigaction = note_thread,
                               .sa_flags = SA_SIGINFO};
    int pair[2];
    int other[2];

    stream_pair(pair);
    stream_pair(other);
    sigaction(SIGUSR2, &action, NULL);
    pthread_t bystander = spawn(receive_one, &other[0]);
    for (int way = 0; way < 2; way++) {
        pthread_t thread = spawn(be_interrupted, &pair[0]);
        sleep_ms(2);
        ck_assert_int_eq(pthread_kill(thread, 0), 0);
        ck_assert_int_eq(pthread_kill(thread, 100), EINVAL);
        if (way == 0)
            ck_assert_int_eq(pthread_kill(thread, SIGUSR2), 0);
        else
            ck_assert_int_eq(pthread_sigqueue(thread, SIGUSR2,
                                              (union sigval){.sival_int = 7}),
                             0);
        ck_assert_int_eq(handled, SIGUSR2);
        ck_assert(pthread_equal(handled_in, thread));
        ck_assert_int_eq(handled_value, way == 0 ? 0 : 7);
        sleep_ms(2); /* main is not interrupted */
        ck_assert_ptr_eq(join(thread), &pair[0]);
    }
    action.sa_flags |= SA_RESTART;
    sigaction(SIGUSR2, &action, NULL);
    pthread_t thread = spawn(receive_one, &pair[0]);
    sched_yield();
    ck_assert_int_eq(pthread_kill(thread, SIGUSR2), 0);
    sleep_ms(2);
    ck_assert_int_eq(pthread_tryjoin_np(thread, NULL), EBUSY);
    ck_assert_int_eq(write(pair[1], "x", 1), 1);
    join(thread);
    ck_assert_int_eq(write(other[1], "x", 1), 1);
    join(bystander);
}
END_TEST

static void *take_signal_later(void *argument)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    ck_assert_int_eq(sem_wait(&gate), 0);
    ck_assert_int_eq(handled, 0);
    ck_assert_int_eq(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
    ck_assert_int_eq(handled, SIGUSR2);
    return argument;
}

static void *take_by_sigwait(void *argument)
{
    int number = 0;
    ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, argument, NULL), 0);
    ck_assert_int_eq(sigwait(argument, &number), 0);
    ck_assert_int_eq(number, SIGUSR2);
    return argument;
}

START_TEST(test_a_signal_for_a_thread_that_blocks_it_waits)
{
    struct ticker ticker;
    sigset_t set;

    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    set_handler(SIGUSR2, 0);
    ticker_start(&ticker);
    pthread_t later = spawn(take_signal_later, NULL);
    pthread_t waiting = spawn(take_by_sigwait, &set);
    sleep_ms(2);
    ck_assert_int_eq(pthread_kill(later, SIGUSR2), 0);
    sleep_ms(2);
    ck_assert_int_eq(pthread_tryjoin_np(waiting, NULL), EBUSY);
    ck_assert_int_eq(pthread_kill(waiting, SIGUSR2), 0);
    join(waiting);
    ck_assert_int_eq(handled, 0);
    sem_post(&gate);
    join(later);
    ticker_end(&ticker);
}
END_TEST

static void post(int number)
{
    (void)number;
    errno = ERANGE; /* which is the main thread's */
    sem_post(&gate);
}

START_TEST(test_a_handler_can_post_a_semaphore)
{
    const struct itimerval often = {{0, 1000}, {0, 1000}};
    const struct sigaction action = {.sa_handler = post,
                                     .sa_flags = SA_RESTART};
    atomic_bool over = false;

    ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
    sigaction(SIGALRM, &action, NULL);
    pthread_t busy = spawn(keep_busy, &over);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 50; i++)
        join(spawn(wait_at_gate, NULL));
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {0}}, NULL);
    over = true;
    join(busy);
}
END_TEST

static sigjmp_buf way_out;

static void jump_out(int number)
{
    siglongjmp(way_out, number);
}

START_TEST(test_a_handler_can_jump_out)
{
    struct ticker ticker;
    const struct sigaction action = {.sa_handler = jump_out};

    sigaction(SIGUSR2, &action, NULL);
    ticker_start(&ticker);
    if (sigsetjmp(way_out, 1) == 0)
        raise(SIGUSR2);
    sleep_ms(TIMEOUT_MS);
    ticker_end(&ticker);
}
END_TEST

static Suite *green_suite(void)
{
    Suite *suite = suite_create("green");
    TCase *tcase;

    tcase = tcase_create("threads");
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, test_threads_share_one_of_the_system);
    tcase_add_test(tcase, test_a_librarys_thread_stays_one_and_can_post);
    tcase_add_test(tcase, test_join_detach_and_exit);
    tcase_add_test(tcase, test_self_is_ones_own_and_exit_returns_a_value);
    tcase_add_test(tcase, test_values_of_keys_are_a_threads_own);
    tcase_add_test(tcase, test_errno_is_a_threads_own);
    tcase_add_test(tcase, test_exceptions_are_a_threads_own);
    tcase_add_test(tcase, test_a_stack_that_overflows_says_so);
    tcase_add_test(tcase,
                   test_one_that_holds_all_others_up_is_warned_about_once);
    tcase_add_test(tcase,
                   test_a_call_that_is_not_carried_is_warned_about_once);
    tcase_add_test(tcase, test_a_fault_that_was_sent_kills);
    tcase_add_test(tcase, test_the_child_of_a_fork_goes_on_alone);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("locks");
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase,
                   test_a_mutex_held_in_a_sleep_stops_only_those_that_want_it);
    tcase_add_test(tcase, test_who_locks_again_at_once_has_to_queue);
    tcase_add_test(tcase, test_a_loop_of_trylock_ends);
    tcase_add_test(tcase, test_mutexes_know_their_owner);
    tcase_add_test(tcase, test_waits_for_a_condition_time_out);
    tcase_add_test(tcase, test_signal_wakes_one_and_broadcast_all);
    tcase_add_test(tcase, test_semaphores_wait_and_time_out);
    tcase_add_test(tcase, test_another_process_can_post_a_semaphore);
    tcase_add_loop_test(tcase, test_special_mutexes_exclude_and_stop_nobody, 0,
                        9);
    tcase_add_loop_test(tcase, test_the_death_of_an_owner_is_seen, 0, 2);
    tcase_add_test(tcase, test_read_write_locks_time_out);
    tcase_add_loop_test(tcase, test_once_is_once, 0, 2);
    tcase_add_test(tcase, test_locks_of_c11_switch);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("waits inside the C library");
    tcase_set_timeout(tcase, 10);
    tcase_add_test(tcase, test_threads_meet_at_a_barrier);
    tcase_add_test(tcase, test_waiting_for_a_process_stops_nobody);
    tcase_add_loop_test(
        tcase, test_waiting_for_another_process_lock_stops_nobody, 0, 2);
    tcase_add_test(tcase, test_coroutines_and_threads_join_each_other);
    tcase_add_loop_test(tcase, test_another_thread_looks_up_a_name, 0, 3);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("descriptors");
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, test_timeouts_of_sockets_hold);
    tcase_add_test(tcase, test_what_is_sent_arrives_whole);
    tcase_add_test(tcase, test_poll_waits_for_several_and_times_out);
    tcase_add_test(tcase, test_the_end_of_a_stream_is_seen);
    tcase_add_test(tcase, test_accept_and_connect);
    tcase_add_test(tcase, test_a_connect_that_was_interrupted_can_go_on);
    tcase_add_test(tcase, test_what_is_non_blocking_does_not_wait);
    tcase_add_test(tcase, test_who_waits_for_what_is_closed_fails);
    tcase_add_test(tcase, test_events_of_what_was_closed_are_ignored);
    tcase_add_test(tcase, test_a_write_that_has_sent_something_raises_nothing);
    tcase_add_test(tcase, test_a_peek_can_wait_for_all);
    tcase_add_test(tcase, test_duplicates_share_their_flag);
    tcase_add_loop_test(tcase, test_who_closes_all_descriptors_goes_on, 0, 3);
    tcase_add_test(tcase, test_one_that_never_waits_lets_others_run);
    tcase_add_test(tcase, test_what_epoll_does_not_watch_is_looked_at);
    tcase_add_test(tcase, test_errno_stays_when_nothing_fails);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("time and signals");
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, test_sleepers_wake_in_order);
    tcase_add_test(tcase, test_waiting_for_a_signal_stops_nobody);
    tcase_add_test(tcase, test_sigwait_leaves_its_descriptor_to_others);
    tcase_add_test(tcase, test_a_handler_can_write_to_a_pipe);
    tcase_add_test(tcase, test_a_handler_interrupts_main);
    tcase_add_loop_test(tcase, test_a_handler_interrupts_main_under_load, 0,
                        sizeof waits / sizeof waits[0]);
    tcase_add_loop_test(tcase, test_a_wait_unblocks_signals, 0,
                        sizeof masked_waits / sizeof masked_waits[0]);
    tcase_add_test(tcase, test_a_thread_blocks_signals_for_itself_alone);
    tcase_add_test(tcase, test_a_signal_for_a_thread_interrupts_that_one);
    tcase_add_test(tcase, test_a_signal_for_a_thread_that_blocks_it_waits);
    tcase_add_test(tcase, test_a_handler_can_post_a_semaphore);
    tcase_add_test(tcase, test_a_handler_can_jump_out);
    suite_add_tcase(suite, tcase);
    return suite;
}

int main(int argc, char **argv)
{
    (void)argc;
    if (own_sanitizer() != NULL) {
        tell_skipped("a sanitizer cannot follow its stacks");
        return 0;
    }
    if (getenv("GREEN_PRELOADED") == NULL) {
        /* Not its whole path: the list is split at blanks and colons. */
        const char *library = kit_program("green.so");
        if (access(library, R_OK) != 0) {
            perror(library);
            return 1;
        }
        setenv("LD_PRELOAD", library, 1);
        setenv("GREEN_PRELOADED", "yes", 1);
        execv("/proc/self/exe", argv);
        perror("execv");
        return 1;
    }
    unsetenv("LD_PRELOAD");
    return run_suite(green_suite()) == 0 ? 0 : 1;
}
