/*
 * churn.c - many connections that come and go, one line each
 *
 *     build/proof/churn SERVER FAULTY CONNECTIONS
 *
 * Each client asks one line and compares the reply. After each tenth of them
 * the server must be back at the descriptors and threads that it had at the
 * start; its memory may not grow after the first tenth. In the end the
 * clients, the server and the upstream must have counted the same.
 *
 * A client closes first or half-closes first, and never resets, which would
 * let the server take another way out. So its port rests for a minute. 64
 * addresses have ports enough, and each finds one at once.
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L
#include "crowd.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS 16     /* connections at a time */
#define FETCHES 8      /* handles of the pool */
#define TENTHS 10      /* of the connections, with a look after each */
#define ADDRESSES 64   /* of clients: 127.0.0.1 and the next ones */
#define LONGEST 4000   /* line, in bytes */
#define GROWTH_KIB 512 /* of memory after the first tenth, at most */
#define REST_MS 20000  /* longest wait for the last connection's end */

/* How a client ends. */
enum ending {
    CLOSE,           /* it has its reply and closes */
    HALF_CLOSE,      /* it half-closes after the line */
    HALF_CLOSE_LATE, /* ... after the reply */
    NO_LF,           /* ... after a line without LF */
    ENDINGS
};

struct churn {
    struct crowd_server server;
    atomic_ulong next; /* number of the next connection */
    unsigned long end; /* of this tenth */
};

/* Makes the line of a connection, no two alike. Returns its length. */
static size_t make_line(unsigned long number, char *line)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz 0123456789%&=+";
    uint64_t random = number;
    size_t end = chance(&random, 1000) == 0 ? LONGEST : chance(&random, 120);
    size_t len = (size_t)snprintf(line, LONGEST, "%lu:", number);

    while (len < end)
        line[len++] = letters[chance(&random, sizeof letters - 1)];
    return len;
}

/* Connects once. */
static void visit(struct churn *churn, unsigned long number)
{
    struct input input = {
        .fd = dial(&churn->server, (unsigned)(number % ADDRESSES))};
    enum ending ending = (number / ADDRESSES + number) % ENDINGS;
    char line[LONGEST + 1], reply[INPUT_SIZE];
    size_t len = make_line(number, line);

    line[len] = '\n';
    bool ok = send_all(input.fd, line, len + (ending != NO_LF));
    if (ok && (ending == HALF_CLOSE || ending == NO_LF))
        ok = shutdown(input.fd, SHUT_WR) == 0;
    long got = ok ? take_line(&input, reply) : RESET;
    if (got != (long)len + 6 || memcmp(reply, "echo: ", 6) != 0 ||
        memcmp(reply + 6, line, len) != 0)
        give_up("connection %lu: '%.*s' is answered '%s' (%ld)", number,
                (int)len, line, got >= 0 ? reply : "", got);
    if (ending == HALF_CLOSE_LATE && shutdown(input.fd, SHUT_WR) != 0)
        give_up("connection %lu: reset after its reply", number);
    if (ending != CLOSE && (got = take_line(&input, reply)) != ENDED)
        give_up("connection %lu: no end after its reply (%ld)", number, got);
    close(input.fd);
}

static void *client_thread(void *arg)
{
    struct churn *churn = arg;
    unsigned long number;

    while ((number = atomic_fetch_add(&churn->next, 1)) < churn->end)
        visit(churn, number);
    return NULL;
}

/* Has all connections up to the end of a tenth. */
static void run_tenth(struct churn *churn)
{
    pthread_t clients[CLIENTS];

    for (int i = 0; i < CLIENTS; i++)
        if (pthread_create(&clients[i], NULL, client_thread, churn) != 0)
            give_up("cannot start a client");
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i], NULL);
    atomic_store(&churn->next, churn->end); /* each has taken one too many */
}

int main(int argc, char **argv)
{
    static struct churn churn;
    struct upstream upstream = {0};
    long rss[TENTHS + 1];
    const char *summary;

    unsigned long connections = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
    if (connections < TENTHS) {
        fputs("usage: churn SERVER FAULTY CONNECTIONS\n", stderr);
        return 2;
    }
    upstream_start(&upstream, argv[2]);
    server_start(&churn.server, argv[1], &upstream, FETCHES,
                 (const char *const[]){NULL});
    struct holding start = server_holds(&churn.server);
    unsigned long warm = warm_pool(&churn.server);
    start.descriptors = 0;
    start = server_rests(&churn.server, &start, REST_MS);

    rss[0] = start.rss_kib;
    long long began = now_us();
    for (int i = 1; i <= TENTHS; i++) {
        churn.end = connections * (unsigned long)i / TENTHS;
        run_tenth(&churn);
        struct holding now = server_rests(&churn.server, &start, REST_MS);
        rss[i] = now.rss_kib;
        printf("%s connections, %.0f s: %ld descriptors, %ld threads, %ld "
               "KiB\n",
               grouped(churn.end), (double)(now_us() - began) / 1e6,
               now.descriptors, now.threads, now.rss_kib);
        (void)fflush(stdout);
    }
    double seconds = (double)(now_us() - began) / 1e6;
    if (rss[TENTHS] - rss[1] > GROWTH_KIB)
        give_up("memory has grown from %ld to %ld KiB", rss[1], rss[TENTHS]);

    char *log = server_summary(&churn.server, &summary);
    unsigned long all = connections + warm;
    expect_value(summary, "connections", all, all);
    unsigned long served = expect_value(summary, "requests", all, all);
    expect_value(summary, "rejected", 0, 0);
    expect_value(summary, "errors", 0, 0);
    expect_value(summary, "accept_errors", 0, 0);
    expect_value(summary, "thread_errors", 0, 0);
    free(log);
    unsigned long fetched = upstream_force(&upstream, NULL);
    if (fetched != all)
        give_up("the upstream counts %lu requests, the clients %lu", fetched,
                all);
    server_stop(&churn.server);
    upstream_kill(&upstream);

    printf("proof: connections, one line each: %s\n", grouped(connections));
    printf("proof: rate: %s per second, %d at a time\n",
           grouped((unsigned long long)((double)connections / seconds)),
           CLIENTS);
    printf("proof: requests counted by clients, server and upstream: "
           "%s, %s, %s, none lost\n",
           grouped(connections), grouped(served - warm),
           grouped(fetched - warm));
    printf("proof: descriptors at the start and after each tenth: %ld\n",
           start.descriptors);
    printf("proof: threads at the start and after each tenth: %ld\n",
           start.threads);
    printf("proof: resident memory after a tenth and at the end: %s and %s "
           "KiB\n",
           grouped((unsigned long long)rss[1]),
           grouped((unsigned long long)rss[TENTHS]));
    return 0;
}
