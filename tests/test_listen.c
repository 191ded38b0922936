/*
 * Unit tests of lib/listen: addresses as text, what a client's socket has from
 * its listener, and calls that fail. The file is included whole, so that they
 * can be made to.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* accept4 */
#include "../lib/listen.h"
#include "harness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Calls until the one that fails, or below 0; and its errno. */
static int calls_left = -1;
static int call_error;

static bool call_fails(void)
{
    if (calls_left < 0 || calls_left-- != 0)
        return false;
    errno = call_error;
    return true;
}

/* Each of these names has two addresses, and this machine one of them. */
static int find_addresses(const char *host, const char *port,
                          const struct addrinfo *hints,
                          struct addrinfo **found)
{
    bool first = strcmp(host, "first.example") == 0;

    if (!first && strcmp(host, "second.example") != 0)
        return getaddrinfo(host, port, hints, found);
    ck_assert_int_eq(
        getaddrinfo(first ? "127.0.0.1" : "192.0.2.1", port, hints, found), 0);
    ck_assert_ptr_null((*found)->ai_next);
    return getaddrinfo(first ? "192.0.2.1" : "127.0.0.1", port, hints,
                       &(*found)->ai_next);
}

static int try_socket(int family, int type, int protocol)
{
    return call_fails() ? -1 : socket(family, type, protocol);
}

static int try_setsockopt(int fd, int level, int name, const void *value,
                          socklen_t len)
{
    return call_fails() ? -1 : setsockopt(fd, level, name, value, len);
}

static int try_bind(int fd, const struct sockaddr *address, socklen_t len)
{
    return call_fails() ? -1 : bind(fd, address, len);
}

static int try_listen(int fd, int backlog)
{
    return call_fails() ? -1 : listen(fd, backlog);
}

static int try_getsockname(int fd, struct sockaddr *address, socklen_t *len)
{
    return call_fails() ? -1 : getsockname(fd, address, len);
}

/* What succeeds may change errno, too. */
static int close_and_change_errno(int fd)
{
    int rc = close(fd);
    errno = EXDEV;
    return rc;
}

static void free_and_change_errno(struct addrinfo *addresses)
{
    freeaddrinfo(addresses);
    errno = EXDEV;
}

#define getaddrinfo find_addresses
#define socket try_socket
#define setsockopt try_setsockopt
#define bind try_bind
#define listen try_listen
#define getsockname try_getsockname
#define close close_and_change_errno
#define freeaddrinfo free_and_change_errno
#include "../lib/listen.c"
#undef freeaddrinfo
#undef close
#undef getsockname
#undef listen
#undef bind
#undef setsockopt
#undef socket
#undef getaddrinfo

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define X50 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X255 X50 X50 X50 X50 X50 "xxxxx"

static const struct {
    const char *text;
    const char *host; /* NULL: refused */
    const char *port;
} addresses[] = {
    {"127.0.0.1:8080", "127.0.0.1", "8080"},
    {"localhost:0", "localhost", "0"},
    {":65535", "", "65535"},
    {":00000", "", "00000"},
    {"[::]:80", "::", "80"},
    {"[::1]:080", "::1", "080"},
    {"[127.0.0.1]:80", "127.0.0.1", "80"},
    {X255 ":80", X255, "80"},
    {"[" X255 "]:80", X255, "80"},
    {X255 "x:80", NULL, NULL},
    {"[" X255 "x]:80", NULL, NULL},
    {"127.0.0.1", NULL, NULL},
    {"127.0.0.1:", NULL, NULL},
    {"127.0.0.1:65536", NULL, NULL},
    {"127.0.0.1:000080", NULL, NULL},
    {"127.0.0.1:99999999999", NULL, NULL},
    {"127.0.0.1:80x", NULL, NULL},
    {"127.0.0.1: 80", NULL, NULL},
    {"127.0.0.1:80 ", NULL, NULL},
    {"127.0.0.1:+80", NULL, NULL},
    {"127.0.0.1:-1", NULL, NULL},
    {"127.0.0.1:http", NULL, NULL},
    {"::1:80", NULL, NULL},
    {"::80", NULL, NULL},
    {"[::1]80", NULL, NULL},
    {"[::1:80", NULL, NULL},
    {"::1]:80", NULL, NULL},
    {"[[::1]]:80x", NULL, NULL},
    {"[]:80", NULL, NULL},
    {"[:80", NULL, NULL},
    {":", NULL, NULL},
    {"", NULL, NULL},
    {"8080", NULL, NULL},
};

START_TEST(test_split_address_takes_host_and_port_or_nothing)
{
    char host[HOST_SIZE];
    const char *port;
    bool good = split_address(addresses[_i].text, host, &port);

    ck_assert_int_eq(good, addresses[_i].host != NULL);
    if (good) {
        ck_assert_str_eq(host, addresses[_i].host);
        ck_assert_str_eq(port, addresses[_i].port);
    }
}
END_TEST

START_TEST(test_address_is_described_in_numbers)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(80)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_port = htons(65535)};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    char text[ADDRESS_SIZE];

    ck_assert_int_eq(inet_pton(AF_INET, "192.0.2.1", &v4.sin_addr), 1);
    describe_address((struct sockaddr *)&v4, sizeof v4, text);
    ck_assert_str_eq(text, "192.0.2.1:80");
    ck_assert_int_eq(inet_pton(AF_INET6,
                               "2001:db8:1234:5678:9abc:def0:1234:5678",
                               &v6.sin6_addr),
                     1);
    describe_address((struct sockaddr *)&v6, sizeof v6, text);
    ck_assert_str_eq(text, "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535");
    describe_address(&none, sizeof none, text);
    ck_assert_str_eq(text, "unknown address");
    int gone = dup(STDERR_FILENO);
    close(gone);
    describe_peer(gone, text);
    ck_assert_str_eq(text, "unknown address");
}
END_TEST

START_TEST(test_accept_error_is_of_one_client_or_would_come_again)
{
    static const int transient[] = {
        0,           EAGAIN,   EINTR,       ECONNABORTED, EPROTO,
        EPERM,       ENETDOWN, ENETUNREACH, EHOSTDOWN,    EHOSTUNREACH,
        ENOPROTOOPT, ENONET,   EOPNOTSUPP};
    static const int lasting[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM,
                                  EBADF,  EFAULT, EINVAL,  ENOTSOCK};

    for (int i = 0; i < COUNT(transient); i++)
        ck_assert_msg(is_transient_accept_error(transient[i]), "%s",
                      strerror(transient[i]));
    for (int i = 0; i < COUNT(lasting); i++)
        ck_assert_msg(!is_transient_accept_error(lasting[i]), "%s",
                      strerror(lasting[i]));
}
END_TEST

/* Opens a listener, which must succeed. Returns the port. */
static int listen_on(const char *address, int flags, int *listener)
{
    char bound[ADDRESS_SIZE];
    const char *error = "none";

    *listener = open_listener(address, flags, bound, &error);
    ck_assert_msg(*listener >= 0, "%s: %s", address, error);
    const char *colon = strrchr(bound, ':');
    ck_assert_ptr_nonnull(colon);
    return (int)strtol(colon + 1, NULL, 10);
}

/* Connects to the port at 127.0.0.1 or ::1. Returns the socket, or -1 with
 * errno set. */
static int connect_to(int family, int port)
{
    const struct sockaddr_in v4 = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                                    .sin6_port = htons((uint16_t)port),
                                    .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    int rc = family == AF_INET
                 ? connect(fd, (const struct sockaddr *)&v4, sizeof v4)
                 : connect(fd, (const struct sockaddr *)&v6, sizeof v6);
    if (rc == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* Whether this machine has the address ::1. */
static bool has_ipv6(void)
{
    const struct sockaddr_in6 address = {.sin6_family = AF_INET6,
                                         .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 && bind(fd, (const struct sockaddr *)&address,
                               sizeof address) == 0;
    if (fd >= 0)
        close(fd);
    return has;
}

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;
    ck_assert_int_eq(getsockopt(fd, level, name, &value, &len), 0);
    return value;
}

/* Before its thread runs, and so before its first byte. */
START_TEST(test_client_has_its_options_from_the_listener)
{
    struct timeval timeout;
    socklen_t len = sizeof timeout;
    char peer[ADDRESS_SIZE], expected[ADDRESS_SIZE];
    struct sockaddr_in own = {.sin_family = AF_UNSPEC};
    socklen_t own_len = sizeof own;
    int listener;
    int port = listen_on("127.0.0.1:0", 0, &listener);
    int client = connect_to(AF_INET, port);
    ck_assert_int_ge(client, 0);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_ne(option(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    ck_assert_int_ne(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    ck_assert_int_ne(option(fd, SOL_SOCKET, SO_OOBINLINE), 0);
    ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &len),
                     0);
    ck_assert_int_eq(timeout.tv_sec * 1000 + timeout.tv_usec / 1000,
                     SEND_TIMEOUT_MS);
    ck_assert_int_ne(option(listener, SOL_SOCKET, SO_REUSEADDR), 0);
    ck_assert_int_eq(option(listener, SOL_SOCKET, SO_REUSEPORT), 0);
    ck_assert_int_ne(fcntl(listener, F_GETFD) & FD_CLOEXEC, 0);

    ck_assert_int_eq(getsockname(client, (struct sockaddr *)&own, &own_len),
                     0);
    snprintf(expected, sizeof expected, "127.0.0.1:%d", ntohs(own.sin_port));
    describe_peer(fd, peer);
    ck_assert_str_eq(peer, expected);
    close(fd);
    close(client);
    close(listener);
}
END_TEST

/* Each urgent byte is a byte of the stream, sent before the accept or not. */
START_TEST(test_urgent_bytes_are_data)
{
    char data[8] = "";
    int listener;
    int port = listen_on("127.0.0.1:0", 0, &listener);
    int client = connect_to(AF_INET, port);

    ck_assert_int_ge(client, 0);
    for (const char *at = "abc"; *at != '\0'; at++)
        ck_assert_int_eq(send(client, at, 1, MSG_OOB), 1);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    for (size_t len = 0; len < 3;) {
        ssize_t n = recv(fd, data + len, sizeof data - len, 0);
        ck_assert_int_gt(n, 0);
        len += (size_t)n;
    }
    ck_assert_str_eq(data, "abc");
    close(fd);
    close(client);
    close(listener);
}
END_TEST

START_TEST(test_flags_are_the_listeners)
{
    int listener;

    listen_on("127.0.0.1:0", SOCK_NONBLOCK, &listener);
    ck_assert_int_lt(accept4(listener, NULL, NULL, SOCK_CLOEXEC), 0);
    ck_assert_int_eq(errno, EAGAIN);
    close(listener);
}
END_TEST

/* No host: every address, and of both kinds where the machine has them. */
START_TEST(test_empty_host_is_every_address)
{
    int listener;
    int port = listen_on(":0", 0, &listener);
    int v4 = connect_to(AF_INET, port);

    ck_assert_int_ge(v4, 0);
    close(v4);
    if (has_ipv6()) {
        int v6 = connect_to(AF_INET6, port);
        ck_assert_int_ge(v6, 0);
        close(v6);
    }
    close(listener);
}
END_TEST

START_TEST(test_host_is_that_address_alone)
{
    int listener;
    int port = listen_on("127.0.0.1:0", 0, &listener);

    if (has_ipv6()) {
        ck_assert_int_lt(connect_to(AF_INET6, port), 0);
        ck_assert_int_eq(errno, ECONNREFUSED);
    }
    close(listener);
    if (!has_ipv6())
        return;
    port = listen_on("[::1]:0", 0, &listener);
    ck_assert_int_lt(connect_to(AF_INET, port), 0);
    ck_assert_int_eq(errno, ECONNREFUSED);
    int v6 = connect_to(AF_INET6, port);
    ck_assert_int_ge(v6, 0);
    close(v6);
    close(listener);
}
END_TEST

/* Two servers on one port would share every measurement. */
START_TEST(test_port_that_is_taken_is_refused)
{
    static const char *const hosts[] = {"127.0.0.1", ""};
    char address[64], bound[ADDRESS_SIZE];
    const char *error = NULL;
    int listener;

    snprintf(address, sizeof address, "%s:0", hosts[_i]);
    int port = listen_on(address, 0, &listener);
    snprintf(address, sizeof address, "%s:%d", hosts[_i], port);
    ck_assert_int_eq(open_listener(address, 0, bound, &error), -1);
    ck_assert_str_eq(error, strerror(EADDRINUSE));
    int next = dup(listener); /* the lowest that is free, if none was lost */
    ck_assert_int_eq(next, listener + 1);
    close(next);
    close(listener);
    int again; /* but it is free as soon as the first has ended */
    ck_assert_int_eq(listen_on(address, 0, &again), port);
    close(again);
}
END_TEST

START_TEST(test_what_cannot_be_listened_on_is_refused_with_the_reason)
{
    static const struct {
        const char *address;
        const char *error; /* NULL: any */
    } rows[] = {
        {"127.0.0.1", "not HOST:PORT"},
        {"192.0.2.1:0", "Cannot assign requested address"},
        {"[2001:db8::1]:0", NULL}, /* it depends on the machine */
    };
    char bound[ADDRESS_SIZE];
    const char *error = NULL;

    for (int i = 0; i < COUNT(rows); i++) {
        ck_assert_int_eq(open_listener(rows[i].address, 0, bound, &error), -1);
        ck_assert_ptr_nonnull(error);
        ck_assert_str_ne(error, "");
        if (rows[i].error != NULL)
            ck_assert_str_eq(error, rows[i].error);
    }
}
END_TEST

/* Each is reported, and the descriptor is closed. */
START_TEST(test_each_call_of_a_listener_may_fail)
{
    static const char *const hosts[] = {"127.0.0.1:0", ":0"};
    char bound[ADDRESS_SIZE];
    const char *error;
    int lowest = dup(STDERR_FILENO);
    int fd = -1;
    int n = 0;

    ck_assert_int_ge(lowest, 0);
    close(lowest);
    call_error = ENOBUFS;
    while (fd < 0) {
        calls_left = n++;
        error = NULL;
        fd = open_listener(hosts[_i], 0, bound, &error);
        if (fd < 0)
            ck_assert_str_eq(error, strerror(ENOBUFS));
        else
            ck_assert_int_ge(calls_left, 0); /* one that failed was ignored */
    }
    ck_assert_int_gt(n, 9); /* a socket has more options than that */
    ck_assert_int_eq(fd, lowest);
    close(fd);
}
END_TEST

/* That it does not have, or cannot have; but it tries no other if the first
 * is its own. */
START_TEST(test_host_is_its_first_address_that_this_machine_has)
{
    static const struct {
        const char *address;
        int error; /* of the first socket, or 0 */
        bool listens;
    } rows[] = {{"first.example:0", 0, true},
                {"second.example:0", 0, true},
                {"second.example:0", EAFNOSUPPORT, true},
                {"second.example:0", EMFILE, false}};
    char bound[ADDRESS_SIZE];
    const char *error = "none";

    calls_left = rows[_i].error != 0 ? 0 : -1;
    call_error = rows[_i].error;
    int fd = open_listener(rows[_i].address, 0, bound, &error);
    ck_assert_int_lt(calls_left, 0);
    ck_assert_msg(rows[_i].listens == (fd >= 0), "%s", error);
    if (fd < 0) {
        ck_assert_str_eq(error, strerror(EMFILE));
    } else {
        ck_assert_int_eq(strncmp(bound, "127.0.0.1:", 10), 0);
        close(fd);
    }
}
END_TEST

/* A machine may have IPv6 and no address of it: at the socket, or the bind. */
START_TEST(test_empty_host_is_ipv4_where_ipv6_fails)
{
    static const struct {
        int call;
        int error;
    } rows[] = {{0, EAFNOSUPPORT}, {7, EADDRNOTAVAIL}};
    char bound[ADDRESS_SIZE];
    const char *error = "none";

    calls_left = rows[_i].call;
    call_error = rows[_i].error;
    int fd = open_listener(":0", 0, bound, &error);
    ck_assert_msg(fd >= 0, "%s", error);
    ck_assert_int_lt(calls_left, 0);
    ck_assert_int_eq(strncmp(bound, "0.0.0.0:", 8), 0);
    close(fd);
}
END_TEST

static Suite *listen_suite(void)
{
    Suite *suite = suite_create("listen");

    TCase *texts = tcase_create("texts");
    tcase_add_loop_test(texts,
                        test_split_address_takes_host_and_port_or_nothing, 0,
                        COUNT(addresses));
    tcase_add_test(texts, test_address_is_described_in_numbers);
    tcase_add_test(texts,
                   test_accept_error_is_of_one_client_or_would_come_again);
    suite_add_tcase(suite, texts);

    TCase *listeners = tcase_create("listeners");
    tcase_set_timeout(listeners, TEST_TIMEOUT);
    tcase_add_test(listeners, test_client_has_its_options_from_the_listener);
    tcase_add_test(listeners, test_urgent_bytes_are_data);
    tcase_add_test(listeners, test_flags_are_the_listeners);
    tcase_add_test(listeners, test_empty_host_is_every_address);
    tcase_add_test(listeners, test_host_is_that_address_alone);
    tcase_add_loop_test(listeners, test_port_that_is_taken_is_refused, 0, 2);
    tcase_add_test(listeners,
                   test_what_cannot_be_listened_on_is_refused_with_the_reason);
    tcase_add_loop_test(listeners, test_each_call_of_a_listener_may_fail, 0,
                        2);
    tcase_add_loop_test(
        listeners, test_host_is_its_first_address_that_this_machine_has, 0, 4);
    tcase_add_loop_test(listeners, test_empty_host_is_ipv4_where_ipv6_fails, 0,
                        2);
    suite_add_tcase(suite, listeners);
    return suite;
}

int main(void)
{
    return run_suite(listen_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
