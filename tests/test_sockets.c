/*
 * The sockets of threadecho's clients: the addresses that they can connect to,
 * the options that they have, and urgent bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* syscall, before C libraries have the two calls */
#include "fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Returns whether this machine has IPv6. */
static bool has_ipv6(void)
{
    const struct sockaddr_in6 loopback = {.sin6_family = AF_INET6,
                                          .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool bound = fd >= 0 && bind(fd, (const struct sockaddr *)&loopback,
                                 sizeof loopback) == 0;
    if (fd >= 0)
        close(fd);
    return bound;
}

START_TEST(test_empty_host_is_every_address)
{
    static const char *const hosts[] = {"127.0.0.1", "127.0.0.2", "::1"};
    struct server_process *s =
        server_start(NULL, "%s --echo --listen :0", threadecho());

    for (size_t i = 0; i < COUNT(hosts); i++) {
        if (hosts[i][0] == ':' && !has_ipv6()) {
            tell_skipped("no IPv6");
            continue;
        }
        snprintf(s->host, sizeof s->host, "%s", hosts[i]);
        struct client *c = client_open(s);
        ck_assert_str_eq(client_ask(c, hosts[i]) + strlen("echo: "), hosts[i]);
        client_close(c);
    }
    stop_drained(s);
}
END_TEST

/* Returns a duplicate of a descriptor of the server, or -1. */
static int duplicate(const struct server_process *s, int number)
{
    int process = (int)syscall(SYS_pidfd_open, s->pid, 0);
    if (process < 0)
        return -1;
    int fd = (int)syscall(SYS_pidfd_getfd, process, number, 0);
    int error = errno;
    close(process);
    errno = error;
    return fd;
}

/* Returns whether the other end of a socket is this client. */
static bool is_peer(int fd, const struct client *c)
{
    struct sockaddr_in theirs = {0}, ours = {0};
    socklen_t len = sizeof theirs;

    if (getpeername(fd, (struct sockaddr *)&theirs, &len) != 0)
        return false;
    len = sizeof ours;
    ck_assert_int_eq(getsockname(c->fd, (struct sockaddr *)&ours, &len), 0);
    return memcmp(&theirs, &ours, sizeof ours) == 0;
}

/* Returns a duplicate of the server's socket for this client; -1 if another
 * process's descriptors may not be duplicated here. */
static int accepted_socket(const struct server_process *s,
                           const struct client *c)
{
    char path[64];
    struct dirent *entry;
    int found = -1;

    snprintf(path, sizeof path, "/proc/%d/fd", (int)s->pid);
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    while (found < 0 && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        int fd = duplicate(s, (int)strtol(entry->d_name, NULL, 10));
        if (fd < 0 && (errno == EPERM || errno == ENOSYS)) {
            closedir(dir);
            return -1;
        }
        if (fd >= 0 && is_peer(fd, c))
            found = fd;
        else if (fd >= 0)
            close(fd);
    }
    closedir(dir);
    ck_assert_int_ge(found, 0);
    return found;
}

/* Returns the value of an option that is a number. */
static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof value;

    ck_assert_int_eq(getsockopt(fd, level, name, &value, &len), 0);
    return value;
}

START_TEST(test_accepted_socket_has_its_options)
{
    struct server_process *s = threadecho_start(NULL, "--echo");
    struct client *c = client_open(s);
    struct timeval timeout = {0};
    socklen_t len = sizeof timeout;

    ck_assert_str_eq(client_ask(c, "hello"), "echo: hello");
    int fd = accepted_socket(s, c);
    if (fd < 0) {
        tell_skipped("no descriptor of another process may be had");
    } else {
        ck_assert_int_eq(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
        ck_assert_int_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
        ck_assert_int_eq(option(fd, SOL_SOCKET, SO_OOBINLINE), 1);
        ck_assert_int_eq(
            getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, &len), 0);
        ck_assert_int_eq(timeout.tv_sec, 10);
        close(fd);
    }
    client_close(c);
    stop_drained(s);
}
END_TEST

/* A socket has to have the option from its first byte on: what is urgent and
 * comes before, all but the last byte is lost. */
START_TEST(test_urgent_bytes_before_the_accept_are_data)
{
    static const char word[] = "urgently";
    struct server_process *s = threadecho_start(NULL, "--echo");

    ck_assert_int_eq(kill(s->pid, SIGSTOP), 0);
    struct client *c = client_open(s);
    for (size_t i = 0; i < strlen(word); i++)
        ck_assert_int_eq(send(c->fd, word + i, 1, MSG_OOB | MSG_NOSIGNAL), 1);
    client_say(c, " said");
    ck_assert_int_eq(send(c->fd, "!", 1, MSG_OOB | MSG_NOSIGNAL), 1);
    client_finish(c);
    let_pass(50); /* all of it is there */
    ck_assert_int_eq(kill(s->pid, SIGCONT), 0);
    ck_assert_str_eq(client_line(c), "echo: urgently said");
    ck_assert_str_eq(client_line(c), "echo: !");
    ck_assert_str_eq(client_line(c), "<end>");
    client_close(c);
    stop_drained(s);
}
END_TEST

/* Returns the flags of a descriptor of the server; -1 if it is not open. */
static long flags_of(const struct server_process *s, const char *number)
{
    char path[64], line[128];
    long flags = -1;

    snprintf(path, sizeof path, "/proc/%d/fdinfo/%.20s", (int)s->pid, number);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "flags:", 6) == 0)
            flags = strtol(line + 6, NULL, 8);
    if (file != NULL)
        fclose(file);
    return flags;
}

/* Beside its standard streams: the listener, a pipe, an epoll for rejected
 * clients, and a client of each kind. A program that a library might start
 * gets none of them; but scripts/green may hand its library down. */
#define GREEN_FD 9

START_TEST(test_descriptors_are_few_and_none_is_inherited)
{
    char path[64];
    struct dirent *entry;
    int open = 0;
    struct server_process *s =
        threadecho_start(NULL, "--echo --max-connections 1");
    struct client *served = client_open(s);
    ck_assert_str_eq(client_ask(served, "hello"), "echo: hello");
    struct client *rejected = client_open(s);
    ck_assert_str_eq(client_line(rejected), "error: too many connections");

    snprintf(path, sizeof path, "/proc/%d/fd", (int)s->pid);
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    while ((entry = readdir(dir)) != NULL) {
        int number = (int)strtol(entry->d_name, NULL, 10);
        if (entry->d_name[0] == '.' || number <= STDERR_FILENO ||
            (fcntl(number, F_GETFD) & FD_CLOEXEC) == 0)
            continue; /* the last kind comes from whoever started the test */
        long flags = flags_of(s, entry->d_name);
        if (number == GREEN_FD && threads_per_client() == 0)
            continue;
        ck_assert_msg((flags & O_CLOEXEC) != 0, "descriptor %s: flags %lo",
                      entry->d_name, flags);
        open++;
    }
    closedir(dir);
    if (!server_sanitized(s) && threads_per_client() > 0)
        ck_assert_int_eq(open, 1 + 2 + 1 + 2);
    client_close(served);
    client_close(rejected);
    stop_drained(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sockets");
    TCase *tcase = add_case(suite, "sockets");

    tcase_add_test(tcase, test_empty_host_is_every_address);
    tcase_add_test(tcase, test_accepted_socket_has_its_options);
    tcase_add_test(tcase, test_urgent_bytes_before_the_accept_are_data);
    tcase_add_test(tcase, test_descriptors_are_few_and_none_is_inherited);
    return run_suite(suite) == 0 ? 0 : 1;
}
