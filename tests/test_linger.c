/*
 * Unit tests of lib/linger: clients that have their last reply, and when each
 * is closed. Time passes when the test says so.
 *
 * SPDX-License-Identifier: MIT
 */
#include "allocations.h"
#include "harness.h"
#include "tcp_pair.h"

#include <stdlib.h>

#include <errno.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Calls of one kind until the one that fails, or below 0; and its errno. */
static int recvs_left = -1, ioctls_left = -1, shutdowns_left = -1,
           epolls_left = -1;
static int call_error;

static bool call_fails(int *left)
{
    if (*left < 0 || (*left)-- != 0)
        return false;
    errno = call_error;
    return true;
}

static ssize_t try_recv(int fd, void *data, size_t size, int flags)
{
    return call_fails(&recvs_left) ? -1 : recv(fd, data, size, flags);
}

static int try_ioctl(int fd, unsigned long request, int *value)
{
    return call_fails(&ioctls_left) ? -1 : ioctl(fd, request, value);
}

static int try_shutdown(int fd, int how)
{
    return call_fails(&shutdowns_left) ? -1 : shutdown(fd, how);
}

static int try_epoll_create1(int flags)
{
    return call_fails(&epolls_left) ? -1 : epoll_create1(flags);
}

static int try_epoll_ctl(int epoll, int operation, int fd,
                         struct epoll_event *event)
{
    return call_fails(&epolls_left) ? -1
                                    : epoll_ctl(epoll, operation, fd, event);
}

#define recv try_recv
#define ioctl try_ioctl
#define shutdown try_shutdown
#define epoll_create1 try_epoll_create1
#define epoll_ctl try_epoll_ctl
#define calloc failing_calloc
#define free counted_free
#include "../lib/linger.c"
#undef free
#undef calloc
#undef epoll_ctl
#undef epoll_create1
#undef shutdown
#undef ioctl
#undef recv

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

#define PAIRS 4

static atomic_llong skipped_ms; /* beside the time that has passed */

long long clock_ms(void)
{
    return now_ms() + skipped_ms;
}

static struct tcp_pair pairs[PAIRS];

static void set_up(void)
{
    for (int i = 0; i < PAIRS; i++)
        pairs[i] = tcp_pair_open();
}

static void tear_down(void)
{
    for (int i = 0; i < PAIRS; i++)
        tcp_pair_close(&pairs[i]);
}

/* Returns whether this end of a pair is open. One that the code under test has
 * closed is the test's no longer. */
static bool is_open(int i)
{
    return pairs[i].fd >= 0 && fcntl(pairs[i].fd, F_GETFD) >= 0;
}

/* Checks which are open, by a string of a digit each. */
static void expect_open(const char *which)
{
    char open[PAIRS + 1] = "";
    size_t count = 0;

    for (int i = 0; i < PAIRS; i++) {
        if (is_open(i))
            open[count++] = (char)('0' + i);
        else
            pairs[i].fd = -1;
    }
    ck_assert_str_eq(open, which);
}

/* Expects this line and then the end of what the client can read. */
static void expect_line(int i, const char *line)
{
    char data[64] = "";
    size_t len = 0;
    ssize_t n;

    while ((n = recv(pairs[i].client, data + len, sizeof data - 1 - len, 0)) >
           0)
        len += (size_t)n;
    ck_assert_int_eq(n, 0);
    ck_assert_str_eq(data, line);
}

static void await_input(int fd)
{
    struct pollfd input = {.fd = fd, .events = POLLIN};
    ck_assert_int_eq(poll(&input, 1, PATIENCE_MS), 1);
}

START_TEST(test_client_has_closed_only_when_it_has)
{
    ck_assert(!has_closed(pairs[0].fd));
    tcp_pair_send(&pairs[0], "more", 4);
    ck_assert(!has_closed(pairs[0].fd));
    ck_assert(!has_closed(pairs[0].fd)); /* that was taken */
    tcp_pair_send(&pairs[0], "last", 4);
    tcp_pair_finish(&pairs[0]);
    ck_assert(!has_closed(pairs[0].fd));
    ck_assert(has_closed(pairs[0].fd));
    tcp_pair_reset(&pairs[1]);
    ck_assert(has_closed(pairs[1].fd));
}
END_TEST

START_TEST(test_rejected_client_reads_why_and_lingers)
{
    struct rejects *rejects = rejects_create(PAIRS);

    ck_assert_ptr_nonnull(rejects);
    ck_assert_int_ne(fcntl(rejects_fd(rejects), F_GETFD) & FD_CLOEXEC, 0);
    ck_assert_int_eq(rejects_sweep(rejects), -1);
    reject(rejects, pairs[0].fd, REASON_TOO_MANY_CONNECTIONS);
    expect_line(0, "error: too many connections\n");
    tcp_pair_send(&pairs[0], "more", 4);
    int wait_ms = rejects_sweep(rejects);
    ck_assert_int_gt(wait_ms, 0);
    ck_assert_int_le(wait_ms, LINGER_MS);
    expect_open("0123");
    rejects_free(rejects);
    expect_open("123");
    ck_assert_int_eq(allocations_held(), 0);
}
END_TEST

START_TEST(test_oldest_makes_room_for_the_next)
{
    struct rejects *rejects = rejects_create(2);

    ck_assert_ptr_nonnull(rejects);
    reject(rejects, pairs[2].fd, REASON_NO_THREAD);
    reject(rejects, pairs[0].fd, REASON_NO_THREAD);
    expect_open("0123");
    reject(rejects, pairs[3].fd, REASON_NO_THREAD);
    expect_open("013");
    reject(rejects, pairs[1].fd, REASON_NO_THREAD);
    expect_open("13");
    for (int i = 0; i < PAIRS; i++)
        expect_line(i, "error: cannot start a thread\n");
    rejects_free(rejects);
    expect_open("");
}
END_TEST

START_TEST(test_those_that_hang_up_are_closed_and_no_other)
{
    static const char *const left[] = {"123", "023", "013", "012"};
    struct rejects *rejects = rejects_create(PAIRS);

    ck_assert_ptr_nonnull(rejects);
    for (int i = 0; i < PAIRS; i++)
        reject(rejects, pairs[i].fd, REASON_NO_MEMORY);
    if (_i % 2 == 0)
        tcp_pair_finish(&pairs[_i]);
    else
        tcp_pair_reset(&pairs[_i]);
    await_input(rejects_fd(rejects));
    ck_assert_int_gt(rejects_sweep(rejects), 0);
    expect_open(left[_i]);
    for (int i = 0; i < PAIRS; i++) {
        if (i == _i)
            continue;
        expect_line(i, "error: out of memory\n");
        tcp_pair_finish(&pairs[i]);
        await_input(rejects_fd(rejects));
        ck_assert_int_ge(rejects_sweep(rejects), -1);
    }
    expect_open("");
    ck_assert_int_eq(rejects_sweep(rejects), -1);
    rejects_free(rejects);
}
END_TEST

START_TEST(test_each_lingers_for_two_seconds)
{
    struct rejects *rejects = rejects_create(PAIRS);

    ck_assert_ptr_nonnull(rejects);
    reject(rejects, pairs[1].fd, REASON_NO_MEMORY);
    reject(rejects, pairs[3].fd, REASON_NO_MEMORY);
    skipped_ms += 1000;
    reject(rejects, pairs[0].fd, REASON_NO_MEMORY);
    ck_assert_int_le(rejects_sweep(rejects), 1000);
    expect_open("0123");
    skipped_ms += 1000; /* the first two have had their time */
    int wait_ms = rejects_sweep(rejects);
    expect_open("02");
    ck_assert_int_gt(wait_ms, 0);
    ck_assert_int_le(wait_ms, 1000);
    skipped_ms += wait_ms;
    ck_assert_int_eq(rejects_sweep(rejects), -1);
    expect_open("2");
    rejects_free(rejects);
}
END_TEST

START_TEST(test_client_that_is_gone_does_not_linger)
{
    struct rejects *rejects = rejects_create(PAIRS);

    ck_assert_ptr_nonnull(rejects);
    tcp_pair_reset(&pairs[0]);
    reject(rejects, pairs[0].fd, REASON_NO_MEMORY);
    expect_open("123");
    ck_assert_int_eq(rejects_sweep(rejects), -1);
    rejects_free(rejects);
}
END_TEST

/* A signal says nothing about the client; any other failure does. */
START_TEST(test_client_is_not_gone_because_of_a_signal)
{
    recvs_left = 0;
    call_error = EINTR;
    ck_assert(!has_closed(pairs[0].fd));
    recvs_left = 0;
    call_error = ETIMEDOUT;
    ck_assert(has_closed(pairs[0].fd));
}
END_TEST

/* It can't be waited for, so it is closed at once. */
START_TEST(test_reject_that_fails_is_closed_and_not_kept)
{
    struct rejects *rejects = rejects_create(PAIRS);

    ck_assert_ptr_nonnull(rejects);
    shutdowns_left = 0;
    call_error = ENOTCONN;
    reject(rejects, pairs[0].fd, REASON_NO_MEMORY);
    expect_open("123");
    epolls_left = 0;
    call_error = ENOMEM;
    reject(rejects, pairs[1].fd, REASON_NO_MEMORY);
    expect_open("23");
    ck_assert_int_eq(rejects_sweep(rejects), -1);
    reject(rejects, pairs[2].fd, REASON_NO_MEMORY);
    expect_open("23");
    expect_line(0, "error: out of memory\n");
    expect_line(1, "error: out of memory\n");
    rejects_free(rejects);
    expect_open("3");
}
END_TEST

START_TEST(test_rejects_without_a_descriptor_are_none)
{
    epolls_left = 0;
    call_error = EMFILE;
    ck_assert_ptr_null(rejects_create(PAIRS));
    ck_assert_int_eq(errno, EMFILE);
    ck_assert_int_eq(allocations_held(), 0);
}
END_TEST

/* Nothing says that it is sent, nor that it ever will be. */
START_TEST(test_linger_until_sent_ends_when_nobody_knows)
{
    static char much[1 << 16];

    while (send(pairs[0].fd, much, sizeof much, MSG_NOSIGNAL | MSG_DONTWAIT) >
           0)
        continue;
    long long start = now_ms();
    ioctls_left = 0;
    call_error = ENOTTY;
    linger_until_sent(pairs[0].fd);
    ck_assert_int_lt(ioctls_left, 0);
    ck_assert_int_lt(now_ms() - start, LINGER_MS);
}
END_TEST

/* Sends something, but only once the time is over. */
static void *sending_thread(void *arg)
{
    const struct tcp_pair *pair = arg;
    char byte;

    if (recv(pair->client, &byte, 1, 0) != 0) /* the wait has begun */
        return NULL;
    atomic_fetch_add(&skipped_ms, LINGER_MS);
    return send(pair->client, "more", 4, MSG_NOSIGNAL) == 4 ? arg : NULL;
}

START_TEST(test_linger_until_closed_ends_though_the_client_goes_on)
{
    pthread_t thread;
    void *result;
    long long start = now_ms();

    ck_assert_int_eq(pthread_create(&thread, NULL, sending_thread, &pairs[0]),
                     0);
    linger_until_closed(pairs[0].fd);
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_ptr_eq(result, &pairs[0]);
    ck_assert_int_lt(now_ms() - start, LINGER_MS);
}
END_TEST

START_TEST(test_rejects_without_memory_are_none)
{
    allocation_fails_after(0);
    ck_assert_ptr_null(rejects_create(PAIRS));
    ck_assert(allocation_failed());
    rejects_free(NULL);
    ck_assert_int_eq(allocations_held(), 0);
}
END_TEST

/* Until the client closes, whatever it sends, or two seconds. */
START_TEST(test_linger_until_closed_ends_with_the_client)
{
    long long start = now_ms();

    tcp_pair_send(&pairs[0], "more", 4);
    tcp_pair_finish(&pairs[0]);
    linger_until_closed(pairs[0].fd);
    expect_line(0, "");
    tcp_pair_reset(&pairs[1]);
    linger_until_closed(pairs[1].fd);
    ck_assert_int_lt(now_ms() - start, LINGER_MS);

    start = now_ms();
    tcp_pair_send(&pairs[2], "more", 4);
    linger_until_closed(pairs[2].fd);
    ck_assert_int_ge(now_ms() - start, LINGER_MS - 1);
    ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
}
END_TEST

/* Until all that was sent is acknowledged, or two seconds. */
START_TEST(test_linger_until_sent_ends_with_the_output)
{
    static char much[1 << 16];
    long long start = now_ms();

    ck_assert_int_eq(send(pairs[0].fd, "reply\n", 6, MSG_NOSIGNAL), 6);
    linger_until_sent(pairs[0].fd);
    ck_assert_int_lt(now_ms() - start, LINGER_MS);

    while (send(pairs[1].fd, much, sizeof much, MSG_NOSIGNAL | MSG_DONTWAIT) >
           0)
        continue; /* until nothing fits that nobody reads */
    start = now_ms();
    linger_until_sent(pairs[1].fd);
    ck_assert_int_ge(now_ms() - start, LINGER_MS - 1);
    ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("linger");
    TCase *tests = tcase_create("linger");

    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, test_client_has_closed_only_when_it_has);
    tcase_add_test(tests, test_rejected_client_reads_why_and_lingers);
    tcase_add_test(tests, test_oldest_makes_room_for_the_next);
    tcase_add_loop_test(tests, test_those_that_hang_up_are_closed_and_no_other,
                        0, PAIRS);
    tcase_add_test(tests, test_each_lingers_for_two_seconds);
    tcase_add_test(tests, test_client_that_is_gone_does_not_linger);
    tcase_add_test(tests, test_client_is_not_gone_because_of_a_signal);
    tcase_add_test(tests, test_reject_that_fails_is_closed_and_not_kept);
    tcase_add_test(tests, test_rejects_without_a_descriptor_are_none);
    tcase_add_test(tests, test_linger_until_sent_ends_when_nobody_knows);
    tcase_add_test(tests,
                   test_linger_until_closed_ends_though_the_client_goes_on);
    tcase_add_test(tests, test_rejects_without_memory_are_none);
    tcase_add_test(tests, test_linger_until_closed_ends_with_the_client);
    tcase_add_test(tests, test_linger_until_sent_ends_with_the_output);
    suite_add_tcase(suite, tests);
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
