/*
 * Unit tests of lib/connections: how many are open, how many were, and how all
 * of them end. The file is included whole, as are those that allocate for it,
 * so that its allocations can be made to fail.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* as lines.c */
#include "allocations.h"
#include "harness.h"
#include "tcp_pair.h"

#include <stdlib.h>
#include <sys/stat.h>

static bool no_proc;

static int try_stat(const char *path, struct stat *status)
{
    return no_proc ? -1 : stat(path, status);
}

#define stat(path, status) try_stat(path, status)
#define malloc failing_malloc
#define calloc failing_calloc
#define free counted_free
#include "../lib/connections.c"
#include "../lib/lines.c"
#include "../lib/reply.c"
#undef free
#undef calloc
#undef malloc
#undef stat

#include <semaphore.h>

#define PAIRS 4
#define SHORT_MS 300 /* a timeout that is meant to pass */

static struct connections all;
static struct tcp_pair pairs[PAIRS];
static struct connection *opened[PAIRS];

static void set_up(void)
{
    ck_assert_int_eq(connections_init(&all, 3), 0);
    for (int i = 0; i < PAIRS; i++) {
        pairs[i] = tcp_pair_open();
        opened[i] = connection_create(pairs[i].fd, 64, PATIENCE_MS, 0);
        ck_assert_ptr_nonnull(opened[i]);
    }
}

static void tear_down(void)
{
    for (int i = 0; i < PAIRS; i++) {
        connection_free(opened[i]);
        tcp_pair_close(&pairs[i]);
    }
}

START_TEST(test_connections_are_counted)
{
    ck_assert(!connections_full(&all));
    ck_assert_int_eq(connections_peak(&all), 0);
    for (int i = 0; i < 3; i++) {
        ck_assert(!connections_full(&all));
        ck_assert_int_eq(connections_add(&all, opened[i]), i + 1);
        ck_assert_int_eq(connections_peak(&all), i + 1);
    }
    ck_assert(connections_full(&all));
    connections_remove(&all, opened[1]);
    ck_assert(!connections_full(&all));
    ck_assert_int_eq(connections_peak(&all), 3);
    ck_assert_int_eq(connections_add(&all, opened[3]), 3);
    ck_assert_int_eq(connections_peak(&all), 3);
    ck_assert(connections_full(&all));
    /* Fewer later are no peak. */
    connections_remove(&all, opened[0]);
    connections_remove(&all, opened[3]);
    ck_assert_int_eq(connections_add(&all, opened[1]), 2);
    ck_assert_int_eq(connections_peak(&all), 3);
}
END_TEST

/* A thread that did not start was no connection. */
START_TEST(test_undone_connection_does_not_count_for_the_peak)
{
    connections_add(&all, opened[0]);
    connections_add(&all, opened[1]);
    connections_undo(&all, opened[1]);
    ck_assert_int_eq(connections_peak(&all), 1);
    ck_assert_int_eq(connections_add(&all, opened[1]), 2);
    ck_assert_int_eq(connections_peak(&all), 2);
    /* Nor does it lower a peak that others have reached. */
    connections_remove(&all, opened[1]);
    connections_add(&all, opened[2]);
    connections_undo(&all, opened[2]);
    ck_assert_int_eq(connections_peak(&all), 2);
    ck_assert_int_eq(connections_add(&all, opened[3]), 2);
}
END_TEST

START_TEST(test_connection_is_made_whole_or_not_at_all)
{
    struct connection *connection = NULL;
    int needed = -1;
    long held = allocations_held();

    for (long n = 0; connection == NULL; n++) {
        ck_assert_int_eq(allocations_held(), held);
        allocation_fails_after(n);
        connection = connection_create(pairs[0].fd, 64, 0, 0);
        ck_assert_int_eq(allocation_failed(), connection == NULL);
        needed++;
    }
    ck_assert_int_eq(needed, 3); /* itself, its buffer, and its reply's */
    ck_assert_int_eq(connection->fd, pairs[0].fd);
    ck_assert_uint_eq(connection->handle, 0);
    ck_assert_uint_eq(connection->lines, 0);
    connection_free(connection);
    ck_assert_int_eq(allocations_held(), held);
}
END_TEST

/* The thread of a connection: counts the lines, and has no peer to answer. */
static void *connection_thread(void *arg)
{
    struct connection *connection = arg;
    struct line line;

    while (read_line(&connection->reader, &line))
        connection->lines++;
    connections_remove(&all, connection);
    return NULL;
}

START_TEST(test_drain_ends_all_after_what_their_clients_have_sent)
{
    pthread_t threads[PAIRS];

    for (int i = 0; i < PAIRS; i++) {
        connections_add(&all, opened[i]);
        for (int line = 0; line < i; line++)
            tcp_pair_send(&pairs[i], "line\n", 5);
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, connection_thread, opened[i]),
            0);
    }
    ck_assert_int_eq(connections_drain(&all, PATIENCE_MS), 0);
    for (int i = 0; i < PAIRS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_uint_eq(opened[i]->lines, (unsigned long)i);
        ck_assert_int_eq(opened[i]->reader.end, READER_STOPPED);
    }
    ck_assert_int_eq(connections_peak(&all), PAIRS);
}
END_TEST

START_TEST(test_drain_waits_no_longer_than_it_may)
{
    static const long timeouts[] = {0, SHORT_MS, 1999};

    connections_add(&all, opened[0]);
    connections_add(&all, opened[1]);
    for (int i = 0; i < 3; i++) {
        long long start = now_ms();
        ck_assert_int_eq(connections_drain(&all, timeouts[i]), 2);
        ck_assert_int_ge(now_ms() - start, timeouts[i]);
        ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
    }
}
END_TEST

START_TEST(test_drain_of_none_is_done_at_once)
{
    long long start = now_ms();
    ck_assert_int_eq(connections_drain(&all, PATIENCE_MS), 0);
    ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
}
END_TEST

/*
 * Many threads
 */

/* What changes the list, or reads what is guarded along with it. */
static void add(void)
{
    connections_add(&all, opened[1]);
}

static void remove_one(void)
{
    connections_remove(&all, opened[0]);
}

static void undo(void)
{
    connections_undo(&all, opened[0]);
}

static void ask_full(void)
{
    ck_assert(!connections_full(&all));
}

static void ask_peak(void)
{
    ck_assert_int_ge(connections_peak(&all), 1);
}

static void drain(void)
{
    ck_assert_int_ge(connections_drain(&all, 0), 1);
}

static void (*const guarded[])(void) = {add,      remove_one, undo,
                                        ask_full, ask_peak,   drain};

static atomic_bool call_done;

static void *guarded_thread(void *arg)
{
    void (*const *call)(void) = arg;

    (*call)();
    atomic_store(&call_done, true);
    return NULL;
}

/* While somebody else holds the lock, each waits; and leaves it free. */
START_TEST(test_list_is_guarded_by_its_lock)
{
    void (*call)(void) = guarded[_i];
    pthread_t thread;

    connections_add(&all, opened[0]);
    pthread_mutex_lock(&all.mutex);
    ck_assert_int_eq(pthread_create(&thread, NULL, guarded_thread, &call), 0);
    let_pass(SHORT_MS); /* in which it would be done */
    bool went_on = atomic_load(&call_done);
    ck_assert(!went_on);
    ck_assert_int_eq(all.count, 1);
    pthread_mutex_unlock(&all.mutex);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(pthread_mutex_trylock(&all.mutex), 0);
    pthread_mutex_unlock(&all.mutex);
}
END_TEST

static void *waiting_thread(void *arg)
{
    sem_wait(arg);
    return NULL;
}

START_TEST(test_threads_are_awaited_until_one_is_left)
{
    struct stat tasks;
    pthread_t thread;
    sem_t done;

    ck_assert_int_eq(stat("/proc/self/task", &tasks), 0);
    if (tasks.st_nlink != 3)
        return; /* a sanitizer has a thread of its own */
    ck_assert(connections_await_threads());
    ck_assert_int_eq(sem_init(&done, 0, 0), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, waiting_thread, &done), 0);
    long long start = now_ms();
    ck_assert(!connections_await_threads());
    ck_assert_int_ge(now_ms() - start, 100);
    ck_assert_int_eq(sem_post(&done), 0);
    ck_assert(connections_await_threads());
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(sem_destroy(&done), 0);
}
END_TEST

START_TEST(test_threads_that_cannot_be_counted_may_be_there)
{
    no_proc = true;
    ck_assert(!connections_await_threads());
}
END_TEST

static Suite *connections_suite(void)
{
    Suite *suite = suite_create("connections");
    TCase *tests = tcase_create("connections");

    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, test_connections_are_counted);
    tcase_add_test(tests, test_undone_connection_does_not_count_for_the_peak);
    tcase_add_test(tests, test_connection_is_made_whole_or_not_at_all);
    tcase_add_test(tests,
                   test_drain_ends_all_after_what_their_clients_have_sent);
    tcase_add_test(tests, test_drain_waits_no_longer_than_it_may);
    tcase_add_test(tests, test_drain_of_none_is_done_at_once);
    tcase_add_loop_test(tests, test_list_is_guarded_by_its_lock, 0,
                        sizeof guarded / sizeof guarded[0]);
    tcase_add_test(tests, test_threads_are_awaited_until_one_is_left);
    tcase_add_test(tests, test_threads_that_cannot_be_counted_may_be_there);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(connections_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
