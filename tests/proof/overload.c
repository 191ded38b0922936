/*
 * overload.c - ten honest clients beside thousands of hostile ones
 *
 *     build/proof/overload SERVER FAULTY HOSTILE PAIRS LINE_SECONDS
 *
 * Hostile clients trickle a byte now and then, or ask for much and read none
 * of it. The server has places for four in five of them: the others are beyond
 * its limit, are told so, and try again and again.
 *
 * They cost CPU time, in the server and here, and the honest ones wait longer
 * for a busy machine whatever the server is like. So there are two servers,
 * with the same upstream and options. All hostile clients attack one of them,
 * without a break, while the honest ones ask both in turns: the machine is
 * equally busy, and what differs is what the attack does to its server. The
 * median of the 99th percentiles of the rounds must not be more than twice
 * that of the other server.
 *
 * Afterwards the hostile clients fall silent, and stay connected: it is the
 * server that has to get rid of them.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* EPOLL_CLOEXEC, EPOLLRDHUP */
#include "crowd.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HONEST 10
#define FETCHES 16     /* handles of a server's pool */
#define ROUND_MS 1500  /* of asking one of the servers */
#define ASK_US 10000   /* between two lines of an honest client */
#define SAMPLES 400    /* of an honest client in a round, at most */
#define EXTENSIONS 3   /* by as many pairs, while the ratio is too high */
#define MOST_PAIRS 100 /* of rounds, with these */
#define MOST_RATIO 2.0 /* of the 99th percentiles */
#define MOST_FOREIGN                                                          \
    20                   /* percent of the CPU time: more spoils the figures  \
                          */
#define LEAST_FULL 95    /* percent of its places taken by hostile clients */
#define CONNECTS 2500    /* of hostile clients, per second, at most */
#define RETRY_US 4000000 /* mean time until a rejected client comes again */
#define REJECTED_US 500000 /* who was connected for less was rejected */
#define TICK_MS 10         /* the hostile clients' turn */
#define REST_MS 90000      /* longest wait for the last hostile client's end */
#define HUGE_ASKED 10      /* lines of a client that never reads */
#define HUGE_LINE "/size/60000\n"
#define SEGMENT 1000 /* small ones keep the kernel's buffers small */
#define RECEIVE_BUFFER 4096

/* A hostile client. */
struct hostile {
    int fd; /* or -1 */
    bool never_reads;
    bool sent;           /* what it had to, if it never reads */
    long long connected; /* since then, in us */
    long long due;       /* when it connects or sends, in us */
};

struct attack {
    const struct crowd_server *server;
    struct hostile *all;
    size_t count;
    long long trickle_us; /* mean time between two bytes of a client */
    int epoll;
    pthread_t thread;
    atomic_bool silent; /* nobody sends or connects any more */
    atomic_bool over;
    atomic_ulong connects;
    atomic_ulong rejected;  /* and told so */
    atomic_ulong timed_out; /* likewise */
    atomic_long open[2];    /* that trickle, that never read */
};

/* One of the two servers, as the honest clients see it. */
struct side {
    struct crowd_server server;
    struct holding start;
    struct input inputs[HONEST];
    double p99_ms[MOST_PAIRS];
    double idle[MOST_PAIRS];    /* percent of the machine's CPU time */
    double foreign[MOST_PAIRS]; /* ... that other programs took */
    int rounds;
    unsigned long requests;
};

/* In ticks. */
struct times {
    double all;
    double idle;
    double own;
};

static pid_t children[3]; /* both servers and the upstream */

/* An honest client's round. */
struct honest {
    struct input *input;
    pthread_t thread;
    unsigned number;
    int count;
    double ms[SAMPLES];
};

/*
 * Hostile clients
 */

static void hostile_close(struct attack *attack, struct hostile *client,
                          uint64_t *random)
{
    close(client->fd); /* which removes it from epoll, too */
    client->fd = -1;
    client->due = now_us();
    if (client->due - client->connected < REJECTED_US)
        client->due += RETRY_US / 2 + chance(random, RETRY_US);
    atomic_fetch_sub(&attack->open[client->never_reads], 1);
}

static void hostile_connect(struct attack *attack, struct hostile *client)
{
    static const int segment = SEGMENT, buffer = RECEIVE_BUFFER;
    struct epoll_event event = {
        .events = client->never_reads ? EPOLLRDHUP : EPOLLIN | EPOLLRDHUP,
        .data.ptr = client};

    client->fd =
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        give_up("cannot make a socket: %s", strerror(errno));
    if (client->never_reads && (setsockopt(client->fd, IPPROTO_TCP, TCP_MAXSEG,
                                           &segment, sizeof segment) != 0 ||
                                setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF,
                                           &buffer, sizeof buffer) != 0))
        give_up("cannot shrink a socket: %s", strerror(errno));
    if (connect(client->fd, (const struct sockaddr *)&attack->server->address,
                sizeof attack->server->address) != 0 &&
        errno != EINPROGRESS)
        give_up("a hostile client cannot connect: %s", strerror(errno));
    if (epoll_ctl(attack->epoll, EPOLL_CTL_ADD, client->fd, &event) != 0)
        give_up("cannot watch a socket: %s", strerror(errno));
    client->sent = false;
    client->connected = now_us();
    atomic_fetch_add(&attack->connects, 1);
    atomic_fetch_add(&attack->open[client->never_reads], 1);
}

/* Sends a byte, or all that is asked for at once. */
static void hostile_send(struct attack *attack, struct hostile *client,
                         uint64_t *random)
{
    char text[HUGE_ASKED * sizeof HUGE_LINE] = "";
    size_t len = 1;

    client->due = now_us() + attack->trickle_us / 2 +
                  chance(random, (unsigned)attack->trickle_us);
    if (client->never_reads && client->sent)
        return;
    if (client->never_reads)
        for (int i = 0; i < HUGE_ASKED; i++)
            memcpy(text + i * strlen(HUGE_LINE), HUGE_LINE, sizeof HUGE_LINE);
    else
        text[0] = 'x';
    if (client->never_reads)
        len = strlen(text);
    /* A failure shows up as an event; before it is connected, it has to wait
     * for the next turn. */
    client->sent = send(client->fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* Sees what the server sends, or that it has closed. */
static void hostile_notice(struct attack *attack, struct hostile *client,
                           uint32_t events, uint64_t *random)
{
    static const char full[] = "error: too many connections\n";
    static const char late[] = "error: line timed out\n";
    char text[256];

    if ((events & EPOLLIN) != 0 && !client->never_reads) {
        ssize_t n = recv(client->fd, text, sizeof text, 0);
        if (n == (ssize_t)strlen(full) && memcmp(text, full, (size_t)n) == 0)
            atomic_fetch_add(&attack->rejected, 1);
        else if (n == (ssize_t)strlen(late) &&
                 memcmp(text, late, (size_t)n) == 0)
            atomic_fetch_add(&attack->timed_out, 1);
        else if (n > 0)
            give_up("a byte now and then is answered '%.*s'", (int)n, text);
    }
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        hostile_close(attack, client, random);
}

static void *attack_thread(void *arg)
{
    struct attack *attack = arg;
    struct epoll_event events[256];
    uint64_t random = 1;
    size_t first = 0;

    while (!atomic_load(&attack->over)) {
        bool silent = atomic_load(&attack->silent);
        long long now = now_us();
        int connects = CONNECTS * TICK_MS / 1000;
        for (size_t i = 0; i < attack->count && !silent; i++) {
            /* Each turn begins elsewhere, so that nobody always comes first.
             */
            struct hostile *client = &attack->all[(first + i) % attack->count];
            if (client->due > now)
                continue;
            if (client->fd >= 0) {
                hostile_send(attack, client, &random);
            } else if (connects > 0) {
                connects--;
                hostile_connect(attack, client);
            }
        }
        first += 997;
        int n = epoll_wait(attack->epoll, events,
                           sizeof events / sizeof events[0], TICK_MS);
        for (int i = 0; i < n; i++)
            hostile_notice(attack, events[i].data.ptr, events[i].events,
                           &random);
        long long left = now + TICK_MS * 1000LL - now_us();
        if (n == 0 || left <= 0)
            continue;
        pause_ms((long)(left / 1000));
    }
    return NULL;
}

static void attack_start(struct attack *attack,
                         const struct crowd_server *server, size_t count,
                         long line_seconds)
{
    attack->server = server;
    attack->count = count;
    attack->trickle_us = line_seconds * 1000000LL / 3;
    attack->all = calloc(count, sizeof *attack->all);
    attack->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (attack->all == NULL || attack->epoll < 0)
        give_up("out of memory");
    for (size_t i = 0; i < count; i++) {
        attack->all[i].fd = -1;
        attack->all[i].never_reads = i % 4 == 3;
    }
    if (pthread_create(&attack->thread, NULL, attack_thread, attack) != 0)
        give_up("cannot start the attack");
}

/*
 * Honest clients
 */

static void *honest_thread(void *arg)
{
    struct honest *client = arg;
    char text[64], reply[INPUT_SIZE], expected[80];
    long long begin = now_us(), next = begin;

    while (next - begin < ROUND_MS * 1000LL && client->count < SAMPLES) {
        next += ASK_US;
        int len = snprintf(text, sizeof text, "honest %u: %d\n",
                           client->number, client->count);
        (void)snprintf(expected, sizeof expected, "echo: %.*s", len - 1, text);
        long long sent = now_us();
        if (!send_all(client->input->fd, text, (size_t)len) ||
            take_line(client->input, reply) < 0 ||
            strcmp(reply, expected) != 0)
            give_up("an honest client has no reply, or a wrong one");
        long long now = now_us();
        client->ms[client->count++] = (double)(now - sent) / 1000;
        if (now < next) {
            const struct timespec rest = {.tv_nsec =
                                              (long)(next - now) * 1000L};
            nanosleep(&rest, NULL);
        } else {
            next = now;
        }
    }
    return NULL;
}

static int compare(const void *left, const void *right)
{
    const double *a = left, *b = right;

    return (*a > *b) - (*a < *b);
}

/* Returns the nearest rank of a part, which is above 0 and at most 1. */
static double quantile(const double *values, size_t count, double part)
{
    double *sorted = malloc(count * sizeof *sorted);

    if (count == 0 || sorted == NULL)
        give_up("nothing was measured");
    memcpy(sorted, values, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare);
    size_t rank = (size_t)(part * (double)count);
    double value = sorted[rank + ((double)rank < part * (double)count) - 1];
    free(sorted);
    return value;
}

static double median(const double *values, int count)
{
    return quantile(values, (size_t)count, 0.5);
}

/* Returns the CPU time of a process so far, in ticks. */
static double process_ticks(pid_t pid)
{
    char path[64], line[1024];

    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *in = fopen(path, "re");
    if (in == NULL || fgets(line, sizeof line, in) == NULL)
        give_up("cannot read %s", path);
    (void)fclose(in);
    char *at = strrchr(line, ')');
    for (int i = 0; at != NULL && i < 12; i++) /* utime is the 12th behind */
        at = strchr(at + 1, ' ');
    if (at == NULL)
        give_up("cannot understand %s", path);
    double user = strtod(at, &at);
    return user + strtod(at, NULL);
}

/* Reads the machine's time so far in ticks: all, what was idle, and what this
 * program and those that it has started took. */
static void read_time(struct times *times)
{
    char line[256];
    FILE *in = fopen("/proc/stat", "re");

    if (in == NULL || fgets(line, sizeof line, in) == NULL)
        give_up("cannot read /proc/stat");
    (void)fclose(in);
    char *at = line + strcspn(line, " ");
    *times = (struct times){.own = process_ticks(getpid())};
    for (size_t i = 0; i < sizeof children / sizeof children[0]; i++)
        times->own += process_ticks(children[i]);
    for (int i = 0; i < 8; i++) { /* user to steal; what follows is in these */
        double ticks = strtod(at, &at);
        times->all += ticks;
        if (i == 3 || i == 4)
            times->idle += ticks;
    }
}

/* Has all honest clients ask this server for a round. */
static void run_round(struct side *side)
{
    static struct honest clients[HONEST];
    static double ms[HONEST * SAMPLES];
    struct times then, now;
    size_t count = 0;

    read_time(&then);
    for (unsigned i = 0; i < HONEST; i++) {
        clients[i].input = &side->inputs[i];
        clients[i].number = i;
        clients[i].count = 0;
        if (pthread_create(&clients[i].thread, NULL, honest_thread,
                           &clients[i]) != 0)
            give_up("cannot start a client");
    }
    for (int i = 0; i < HONEST; i++) {
        pthread_join(clients[i].thread, NULL);
        memcpy(ms + count, clients[i].ms,
               (size_t)clients[i].count * sizeof *ms);
        count += (size_t)clients[i].count;
    }
    read_time(&now);
    double all = now.all - then.all + 1e-9, idle = now.idle - then.idle;
    side->p99_ms[side->rounds] = quantile(ms, count, 0.99);
    side->idle[side->rounds] = 100 * idle / all;
    side->foreign[side->rounds++] =
        100 * (all - idle - (now.own - then.own)) / all;
    side->requests += count;
}

static void start_side(struct side *side, const char *program,
                       const struct upstream *upstream, long places,
                       const char *line_timeout)
{
    char connections[24];

    (void)snprintf(connections, sizeof connections, "%ld", places);
    server_start(&side->server, program, upstream, FETCHES,
                 (const char *const[]){"--max-connections", connections,
                                       "--line-timeout", line_timeout,
                                       "--idle-timeout", line_timeout,
                                       "--max-body", "65536", NULL});
    struct holding alone = server_holds(&side->server);
    alone.descriptors = 0;
    (void)warm_pool(&side->server);
    side->start = server_rests(&side->server, &alone, REST_MS);
    for (unsigned i = 0; i < HONEST; i++)
        side->inputs[i].fd = dial(&side->server, 0);
}

/* Returns how many connections it has beside the honest ones. */
static long count_others(const struct side *side)
{
    return server_holds(&side->server).threads - side->start.threads - HONEST;
}

/* Waits until it is as full as it must be. Returns how full that is, in
 * percent. */
static double await_full(const struct side *side, long places)
{
    long long deadline = subject_now_ms() + SUBJECT_PATIENCE_MS;

    for (;;) {
        double full = 100 * (double)count_others(side) / (double)places;
        if (full >= LEAST_FULL)
            return full;
        if (subject_now_ms() >= deadline)
            give_up("only %.0f %% of the places are taken", full);
        pause_ms(TICK_MS);
    }
}

/* Has pairs of rounds. Returns the ratio of all up to now. */
static double run_pairs(struct side *other, struct side *attacked, int pairs,
                        long places, double *least_full)
{
    for (int i = 0; i < pairs; i++) {
        run_round(other);
        double full = await_full(attacked, places);
        if (full < *least_full)
            *least_full = full;
        run_round(attacked);
        int last = attacked->rounds - 1;
        printf("p99 %.2f ms on the other server (%.0f %% idle, %.0f %% by "
               "others), %.2f ms under attack (%.0f %%, %.0f %%)\n",
               other->p99_ms[last], other->idle[last], other->foreign[last],
               attacked->p99_ms[last], attacked->idle[last],
               attacked->foreign[last]);
        (void)fflush(stdout);
    }
    return median(attacked->p99_ms, attacked->rounds) /
           median(other->p99_ms, other->rounds);
}

/* The hostile clients have fallen silent: it must get rid of them, and hold
 * what it held at the start. */
static void check_rest(struct side *side)
{
    const struct holding threads = {.threads = side->start.threads};

    (void)server_rests(&side->server, &threads, REST_MS);
    (void)warm_pool(&side->server);
    (void)server_rests(&side->server, &side->start, REST_MS);
}

int main(int argc, char **argv)
{
    static struct side other, attacked;
    static struct attack attack;
    struct upstream upstream = {0};
    const char *summary;

    unsigned long hostile = argc == 6 ? strtoul(argv[3], NULL, 10) : 0;
    int pairs = argc == 6 ? (int)strtol(argv[4], NULL, 10) : 0;
    long line_seconds = argc == 6 ? strtol(argv[5], NULL, 10) : 0;
    if (hostile < 100 || pairs < 1 || line_seconds < 1 ||
        pairs * (1 + EXTENSIONS) > MOST_PAIRS) {
        fputs("usage: overload SERVER FAULTY HOSTILE PAIRS LINE_SECONDS\n",
              stderr);
        return 2;
    }
    long descriptors = raise_descriptors();
    if (descriptors < (long)hostile + 200) {
        printf("skipped: a limit of %ld descriptors, %lu are needed\n",
               descriptors, hostile + 200);
        return 77;
    }
    long places = (long)hostile * 4 / 5;
    upstream_start(&upstream, argv[2]);
    start_side(&other, argv[1], &upstream, places + HONEST, argv[5]);
    start_side(&attacked, argv[1], &upstream, places + HONEST, argv[5]);

    children[0] = upstream.process.pid;
    children[1] = other.server.process.pid;
    children[2] = attacked.server.process.pid;

    /* Without any attack, to be told, not judged. */
    for (int i = 0; i < 3; i++) {
        run_round(&other);
        run_round(&attacked);
    }
    double quiet_ms = median(attacked.p99_ms, attacked.rounds);
    double quiet_idle = median(attacked.idle, attacked.rounds);
    printf("p99 %.2f ms without an attack (%.0f %% idle)\n", quiet_ms,
           quiet_idle);
    other.rounds = attacked.rounds = 0;

    attack_start(&attack, &attacked.server, hostile, line_seconds);
    double full = 100;
    double ratio = run_pairs(&other, &attacked, pairs, places, &full);
    for (int i = 0; i < EXTENSIONS && ratio > MOST_RATIO; i++) {
        printf("a ratio of %.2f: as many rounds again\n", ratio);
        ratio = run_pairs(&other, &attacked, pairs, places, &full);
    }
    long trickle = atomic_load(&attack.open[0]);
    long never_read = atomic_load(&attack.open[1]);
    double foreign = median(attacked.foreign, attacked.rounds);
    if (ratio > MOST_RATIO && foreign > MOST_FOREIGN) {
        printf("skipped: other programs took %.0f %% of the CPU time\n",
               foreign);
        return 77;
    }
    if (ratio > MOST_RATIO)
        give_up("the 99th percentile is %.2f times as high", ratio);

    atomic_store(&attack.silent, true);
    for (int i = 0; i < HONEST; i++) {
        close(other.inputs[i].fd);
        close(attacked.inputs[i].fd);
    }
    long long silent = now_us();
    check_rest(&attacked);
    double rest_seconds = (double)(now_us() - silent) / 1e6;
    check_rest(&other);
    /* Nor may the system keep what they have not read. */
    long long deadline = subject_now_ms() + SUBJECT_PATIENCE_MS;
    while (atomic_load(&attack.open[0]) + atomic_load(&attack.open[1]) > 0) {
        if (subject_now_ms() >= deadline)
            give_up("%ld hostile clients that trickle and %ld that never read "
                    "are still connected",
                    atomic_load(&attack.open[0]),
                    atomic_load(&attack.open[1]));
        pause_ms(TICK_MS);
    }
    atomic_store(&attack.over, true);
    pthread_join(attack.thread, NULL);
    close(attack.epoll);
    free(attack.all);

    char *log = server_summary(&attacked.server, &summary);
    unsigned long connects = atomic_load(&attack.connects);
    unsigned long rejected = expect_value(
        summary, "rejected", atomic_load(&attack.rejected), connects);
    expect_value(summary, "accept_errors", 0, 0);
    expect_value(summary, "thread_errors", 0, 0);
    unsigned long late =
        expect_value(summary, "error_line_timed_out",
                     atomic_load(&attack.timed_out), connects);
    if (rejected == 0 || late == 0)
        give_up("nobody was rejected, or nobody dropped");
    printf("%.*s\n", (int)strcspn(summary, "\n"), summary);
    free(log);
    server_stop(&other.server);
    server_stop(&attacked.server);
    upstream_kill(&upstream);

    printf("proof: hostile clients: %s, of %s places %.0f %% or more taken\n",
           grouped(hostile), grouped((unsigned long long)places), full);
    printf("proof: connected at the end of the attack: %s that trickle, %s "
           "that never read\n",
           grouped((unsigned long long)trickle),
           grouped((unsigned long long)never_read));
    printf("proof: connections over the limit and told so: %s\n",
           grouped(rejected));
    printf("proof: p99 of %d honest clients, no attack: %.2f ms, %.0f %% of "
           "the CPU time idle\n",
           HONEST, quiet_ms, quiet_idle);
    printf("proof: p99 while another server is attacked: %.2f ms, %.0f %% "
           "idle\n",
           median(other.p99_ms, other.rounds),
           median(other.idle, other.rounds));
    printf("proof: p99 while theirs is attacked: %.2f ms, %.0f %% idle\n",
           median(attacked.p99_ms, attacked.rounds),
           median(attacked.idle, attacked.rounds));
    printf("proof: ratio of these two: %.2f (medians of %d rounds)\n", ratio,
           attacked.rounds);
    printf("proof: gone by the server's deadlines after the attack: all, in "
           "%.0f s\n",
           rest_seconds);
    printf("proof: descriptors before and after: %ld\n",
           attacked.start.descriptors);
    printf("proof: threads before and after: %ld\n", attacked.start.threads);
    return 0;
}
