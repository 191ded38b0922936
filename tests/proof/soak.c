/*
 * soak.c - mixed load for a long time, while the upstream fails
 *
 *     build/proof/soak SERVER FAULTY SECONDS RESTART_SECONDS [TC]
 *
 * Clients ask, pipeline, dawdle, idle, send lines that are too long, never end
 * a line, and reset. One line in ten makes the upstream fail. Each second a
 * fault meets all requests: of the upstream, or with TC, every other second,
 * of the network, whose delay and loss that program sets (tc of iproute2). The
 * upstream is killed and restarted again and again.
 *
 * Each reply must be the right one. Only that of a line under way during a
 * fault may be the error of this fault instead. Requests and the errors of
 * each kind must be what the server has counted. A client resets when it has
 * its reply, when its reply is there and unread, in mid-line, or while its
 * line is being fetched. These last lines nobody has seen a reply to, so they
 * are counted apart: the server must have served them all, unless the network
 * may have lost them.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* MSG_PEEK and the like, pthread_barrier_t */
#include "../upstream_faults.h"
#include "crowd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define CLIENTS 64
#define FETCHES 16
#define MAX_LINE 1000         /* --max-line, in bytes */
#define LINE_MS 2000          /* --line-timeout */
#define IDLE_MS 2000          /* --idle-timeout */
#define PAUSE_MS 60           /* longest pause of a client between visits */
#define LINES 16              /* of a visit, at most */
#define WINDOWS 64            /* faults that are remembered */
#define FAULT_MS 150          /* how long a fault lasts */
#define DOWN_MS 100           /* how long the upstream is down */
#define TENTHS 10             /* of the time, with a look after each */
#define LOOK_MS 5000          /* shortest time between two of these */
#define GROWTH_KIB 1024       /* of memory after the first tenth, at most */
#define SHORT_GROWTH_KIB 2048 /* ... if that was too short to see a peak */
#define REST_MS 20000         /* longest wait for the last connection's end */
#define REASONS 32            /* kinds of errors, at most */
#define REPLY_SIZE 1100       /* of a reply, in bytes */

/* What a client does with a connection. */
enum kind {
    ASK,
    PIPELINE,
    SLOW,
    TOO_LONG,
    IDLE,
    IDLE_TOO_LONG,
    NEVER_ENDS_LINE,
    RESET_AFTER_REPLY,
    RESET_UNREAD,
    RESET_IN_LINE,
    RESET_IN_FETCH,
    KINDS
};

/* How often of 100. */
static const unsigned weights[KINDS] = {
    [ASK] = 36,
    [PIPELINE] = 15,
    [SLOW] = 6,
    [TOO_LONG] = 10,
    [IDLE] = 4,
    [IDLE_TOO_LONG] = 2,
    [NEVER_ENDS_LINE] = 2,
    [RESET_AFTER_REPLY] = 7,
    [RESET_UNREAD] = 6,
    [RESET_IN_LINE] = 6,
    [RESET_IN_FETCH] = 6,
};

/* Faults of the upstream that meet every request for a while. */
static const char *const faults[] = {
    "/reset",      "/status/503", "/empty-reply",   "/delay/100",
    "/short",      "/garbage",    "/reset-body",    "/close-unsaid",
    "/short-head", "/bad-chunk",  "/short-chunked",
};

/* A fault, and the replies that lines under way meanwhile may get. */
struct window {
    long long to; /* when it ended, in us; INT64_MAX while it lasts */
    char replies[2][64];
    bool passes; /* the line's own text may come back, whatever it names */
};

struct counts {
    unsigned long connections;
    unsigned long requests; /* replies that have come */
    unsigned long errors;   /* of these */
    unsigned long unseen;   /* lines whose client reset before the reply */
    unsigned long kinds[KINDS];
    struct {
        char reason[48]; /* as in the summary: without a status */
        unsigned long count;
    } reasons[REASONS];
};

struct soak {
    struct crowd_server server;
    struct upstream upstream;
    const char *tc; /* or NULL */
    long seconds;
    long restart_seconds;
    atomic_bool pausing;   /* clients end after their visit */
    pthread_mutex_t mutex; /* guards the windows */
    struct window windows[WINDOWS];
    unsigned window_count; /* in all: the latest are kept */
};

struct client {
    struct soak *soak;
    pthread_t thread;
    uint64_t random;
    struct counts counts;
};

/* A line, and the reply that it must get. */
struct question {
    char text[5 * MAX_LINE];
    size_t len; /* with its LF */
    char reply[REPLY_SIZE];
    long long sent; /* in us */
};

/*
 * Faults
 */

static void open_window(struct soak *soak, const char *first,
                        const char *second, bool passes)
{
    pthread_mutex_lock(&soak->mutex);
    struct window *window = &soak->windows[soak->window_count++ % WINDOWS];
    *window = (struct window){.to = INT64_MAX, .passes = passes};
    (void)snprintf(window->replies[0], sizeof window->replies[0], "%s", first);
    (void)snprintf(window->replies[1], sizeof window->replies[1], "%s",
                   second);
    pthread_mutex_unlock(&soak->mutex);
}

/* Ends the fault that was begun last. */
static void close_window(struct soak *soak)
{
    pthread_mutex_lock(&soak->mutex);
    soak->windows[(soak->window_count - 1) % WINDOWS].to = now_us();
    pthread_mutex_unlock(&soak->mutex);
}

/* Returns whether a fault since this line was sent explains the reply. */
static bool is_excused(struct soak *soak, const struct question *question,
                       const char *reply)
{
    bool echoed = strncmp(reply, "echo: ", 6) == 0 &&
                  strlen(reply) - 6 == question->len - 1 &&
                  memcmp(reply + 6, question->text, question->len - 1) == 0;
    bool excused = false;

    pthread_mutex_lock(&soak->mutex);
    for (unsigned i = 0; i < WINDOWS && i < soak->window_count; i++) {
        const struct window *window = &soak->windows[i];
        if (window->to >= question->sent &&
            (strcmp(window->replies[0], reply) == 0 ||
             strcmp(window->replies[1], reply) == 0 ||
             (window->passes && echoed)))
            excused = true;
    }
    pthread_mutex_unlock(&soak->mutex);
    return excused;
}

/* Has the upstream fail for a while. */
static void inject_fault(struct soak *soak, const char *path)
{
    char reply[REPLY_SIZE] = "";

    for (int i = 0; i < upstream_fault_count; i++)
        if (strcmp(upstream_faults[i].path, path) == 0 &&
            upstream_faults[i].reason != NULL)
            fault_reply(&upstream_faults[i], reply, sizeof reply);
    open_window(soak, reply, "", reply[0] == '\0');
    (void)upstream_force(&soak->upstream, path);
    pause_ms(FAULT_MS);
    (void)upstream_force(&soak->upstream, NULL);
    close_window(soak);
}

static void restart_upstream(struct soak *soak)
{
    open_window(soak, "error: upstream refused",
                "error: upstream closed early", false);
    upstream_kill(&soak->upstream);
    pause_ms(DOWN_MS);
    upstream_start(&soak->upstream, soak->upstream.program);
    close_window(soak);
}

/* Sets the delay and loss of the loopback device of this network namespace. */
static void set_network(const struct soak *soak, const char *delay,
                        const char *loss)
{
    char *const environment[] = {NULL};
    const char *const argv[] = {soak->tc, "qdisc", "replace", "dev",
                                "lo",     "root",  "netem",   "delay",
                                delay,    "loss",  loss,      NULL};
    pid_t pid;
    int status;

    if (posix_spawn(&pid, soak->tc, NULL, NULL, (char *const *)argv,
                    environment) != 0 ||
        waitpid(pid, &status, 0) != pid || status != 0)
        give_up("tc fails");
}

/*
 * Clients
 */

static void count_reply(struct counts *counts, const char *reply)
{
    static const char returned[] = "upstream returned";
    size_t i = 0;

    counts->requests++;
    if (strncmp(reply, "error: ", 7) != 0)
        return;
    reply += 7;
    counts->errors++;
    if (strncmp(reply, returned, strlen(returned)) == 0)
        reply = returned; /* the summary counts all statuses together */
    while (counts->reasons[i].count > 0 &&
           strcmp(counts->reasons[i].reason, reply) != 0)
        if (++i == REASONS)
            give_up("too many kinds of errors");
    (void)snprintf(counts->reasons[i].reason, sizeof counts->reasons[i].reason,
                   "%s", reply);
    counts->reasons[i].count++;
}

/* Makes a line: one in ten makes the upstream fail. */
static void make_question(struct client *client, struct question *question)
{
    static const char letters[] = "abcdefghij 0123456789%&=?#+\"\\\xc3\xa9~";
    const struct upstream_fault *fault;
    unsigned kind = chance(&client->random, 100);

    if (kind < 10) {
        do /* a timeout takes long: few of them */
            fault = &upstream_faults[chance(&client->random,
                                            (unsigned)upstream_fault_count)];
        while (fault->reason == NULL ||
               (fault_times_out(fault) && chance(&client->random, 20) != 0));
        question->len = (size_t)snprintf(question->text, sizeof question->text,
                                         "%s", fault->path);
        fault_reply(fault, question->reply, sizeof question->reply);
    } else {
        size_t most = kind == 99 ? MAX_LINE : 60;
        size_t len = 1 + chance(&client->random, (unsigned)most);
        question->text[0] = 'x'; /* '/' would name a path */
        for (size_t i = 1; i < len; i++)
            question->text[i] =
                letters[chance(&client->random, sizeof letters - 1)];
        question->len = len;
        (void)snprintf(question->reply, sizeof question->reply, "echo: %.*s",
                       (int)len, question->text);
    }
    question->text[question->len++] = '\n';
}

static void make_too_long(struct client *client, struct question *question)
{
    size_t len =
        MAX_LINE + 1 + chance(&client->random, sizeof question->text / 2);

    memset(question->text, 'y', len);
    question->text[len] = '\n';
    question->len = len + 1;
    (void)snprintf(question->reply, sizeof question->reply,
                   "error: line too long");
}

static void send_question(struct input *input, struct question *question)
{
    question->sent = now_us();
    if (!send_all(input->fd, question->text, question->len))
        give_up("reset while a line is sent");
}

/* Judges and counts a reply. */
static void judge(struct client *client, const struct question *question,
                  const char *reply)
{
    if (strcmp(reply, question->reply) != 0 &&
        !is_excused(client->soak, question, reply))
        give_up("'%.*s' is answered '%s'", (int)question->len - 1,
                question->text, reply);
    count_reply(&client->counts, reply);
}

static void read_reply(struct client *client, struct input *input,
                       const struct question *question)
{
    char reply[INPUT_SIZE];
    long len = take_line(input, reply);

    if (len < 0)
        give_up("'%.*s' is answered by %s", (int)question->len - 1,
                question->text,
                len == ENDED   ? "a close"
                : len == RESET ? "a reset"
                               : "silence");
    judge(client, question, reply);
}

static void expect_end(struct input *input, const char *after)
{
    char reply[INPUT_SIZE];
    long len = take_line(input, reply);

    if (len != ENDED)
        give_up("%s is not followed by a close (%ld)", after, len);
}

/* Asks a line that the upstream does not fail for by itself. */
static void make_plain(struct client *client, struct question *question)
{
    do
        make_question(client, question);
    while (question->text[0] == '/');
}

static void ask(struct client *client, struct input *input)
{
    struct question question;

    make_question(client, &question);
    send_question(input, &question);
    read_reply(client, input, &question);
}

static void pipeline(struct client *client, struct input *input)
{
    struct question *questions = calloc(LINES, sizeof *questions);
    unsigned lines = 2 + chance(&client->random, LINES - 1);
    bool finish = chance(&client->random, 2) == 0;

    if (questions == NULL)
        give_up("out of memory");
    for (unsigned i = 0; i < lines; i++) {
        make_question(client, &questions[i]);
        send_question(input, &questions[i]);
    }
    if (finish && shutdown(input->fd, SHUT_WR) != 0)
        give_up("reset in mid-pipeline");
    for (unsigned i = 0; i < lines; i++)
        read_reply(client, input, &questions[i]);
    if (finish)
        expect_end(input, "a half-close");
    free(questions);
}

/* Sends a line in pieces. */
static void dawdle(struct client *client, struct input *input)
{
    struct question question;

    make_question(client, &question);
    question.sent = now_us();
    for (size_t at = 0; at < question.len;) {
        size_t piece = 1 + question.len / 8;
        if (piece > question.len - at)
            piece = question.len - at;
        if (!send_all(input->fd, question.text + at, piece))
            give_up("reset in mid-line");
        at += piece;
        pause_ms((long)chance(&client->random, LINE_MS / 40));
    }
    read_reply(client, input, &question);
}

/* Sends a line but for its LF, and waits for what comes of it. */
static void never_end_line(struct client *client, struct input *input)
{
    struct question question;

    make_plain(client, &question);
    question.sent = now_us();
    if (!send_all(input->fd, question.text, question.len - 1))
        give_up("reset in mid-line");
    (void)snprintf(question.reply, sizeof question.reply,
                   "error: line timed out");
    read_reply(client, input, &question);
    expect_end(input, "a line that timed out");
}

/* Sends a line and resets when its reply is there, without taking it. */
static void reset_unread(struct client *client, struct input *input)
{
    struct question question;
    struct pollfd readable = {.fd = input->fd, .events = POLLIN};
    char reply[REPLY_SIZE];

    make_plain(client, &question);
    send_question(input, &question);
    if (poll(&readable, 1, SUBJECT_PATIENCE_MS) != 1)
        give_up("silence");
    ssize_t len = recv(input->fd, reply, sizeof reply, MSG_PEEK);
    if (len > 0 && reply[len - 1] == '\n')
        reply[len - 1] = '\0';
    else
        give_up("a reply in pieces");
    judge(client, &question, reply);
}

/* Connects once. */
static void visit(struct client *client, enum kind kind)
{
    struct counts *counts = &client->counts;
    struct input input = {
        .fd = dial(&client->soak->server, chance(&client->random, CLIENTS))};
    struct question question;

    counts->connections++;
    counts->kinds[kind]++;
    switch (kind) {
    case ASK:
        for (unsigned i = chance(&client->random, 6); i < 6; i++)
            ask(client, &input);
        break;
    case PIPELINE:
        pipeline(client, &input);
        break;
    case SLOW:
        dawdle(client, &input);
        break;
    case TOO_LONG:
        if (chance(&client->random, 2) == 0)
            ask(client, &input);
        make_too_long(client, &question);
        send_question(&input, &question);
        read_reply(client, &input, &question);
        ask(client, &input);
        break;
    case IDLE:
        ask(client, &input);
        pause_ms((long)chance(&client->random, IDLE_MS / 4));
        break;
    case IDLE_TOO_LONG:
        if (chance(&client->random, 2) == 0)
            ask(client, &input);
        expect_end(&input, "too long an idle time");
        break;
    case NEVER_ENDS_LINE:
        never_end_line(client, &input);
        break;
    case RESET_AFTER_REPLY:
        ask(client, &input);
        close_by_reset(input.fd);
        return;
    case RESET_UNREAD:
        reset_unread(client, &input);
        close_by_reset(input.fd);
        return;
    case RESET_IN_LINE:
        if (chance(&client->random, 2) == 0)
            ask(client, &input);
        make_question(client, &question);
        question.len = chance(&client->random, (unsigned)question.len);
        send_question(&input, &question);
        close_by_reset(input.fd);
        return;
    case RESET_IN_FETCH:
    case KINDS:
        (void)snprintf(question.text, sizeof question.text, "/delay/50\n");
        question.len = strlen(question.text);
        send_question(&input, &question);
        pause_ms((long)chance(&client->random, 40));
        counts->unseen++;
        close_by_reset(input.fd);
        return;
    }
    close(input.fd);
}

static void *client_thread(void *arg)
{
    struct client *client = arg;

    while (!atomic_load(&client->soak->pausing)) {
        unsigned draw = chance(&client->random, 100);
        enum kind kind = 0;
        while (draw >= weights[kind])
            draw -= weights[kind++];
        visit(client, kind);
        pause_ms((long)chance(&client->random, PAUSE_MS));
    }
    return NULL;
}

/*
 * The whole
 */

/* What the main thread has done. */
struct deeds {
    unsigned long faults;
    unsigned long network_faults; /* of these */
    unsigned long restarts;
};

/* Has the load, a fault each second, and restarts, for ms. */
static void run_load(struct soak *soak, struct client *clients,
                     struct deeds *deeds, long ms)
{
    static unsigned long second; /* since the start, without the rests */
    static long total_ms;
    long long end = now_us() + ms * 1000LL;
    struct holding now = {0};
    long most_threads = 0, most_descriptors = 0, most_kib = 0;

    atomic_store(&soak->pausing, false);
    for (int i = 0; i < CLIENTS; i++)
        if (pthread_create(&clients[i].thread, NULL, client_thread,
                           &clients[i]) != 0)
            give_up("cannot start a client");
    for (; now_us() < end; second++) {
        long long next = now_us() + 1000000;
        if (second > 0 && second % (unsigned long)soak->restart_seconds == 0) {
            restart_upstream(soak);
            deeds->restarts++;
        }
        if (soak->tc != NULL && second % 2 == 0) {
            set_network(soak, "3ms", "2%");
            pause_ms(FAULT_MS);
            set_network(soak, "0ms", "0%");
            deeds->network_faults++;
        } else {
            inject_fault(soak, faults[second % COUNT(faults)]);
        }
        deeds->faults++;
        now = server_holds(&soak->server);
        if (now.threads > most_threads)
            most_threads = now.threads;
        if (now.descriptors > most_descriptors)
            most_descriptors = now.descriptors;
        if (now.rss_kib > most_kib)
            most_kib = now.rss_kib;
        if (now_us() < next)
            pause_ms((long)(next - now_us()) / 1000);
    }
    atomic_store(&soak->pausing, true);
    for (int i = 0; i < CLIENTS; i++)
        pthread_join(clients[i].thread, NULL);
    total_ms += ms;
    printf("%4ld s, meanwhile at most: %ld descriptors, %ld threads, %ld "
           "KiB\n",
           total_ms / 1000, most_descriptors, most_threads, most_kib);
}

/* Adds up what the clients have counted. */
static void add_counts(const struct client *clients, struct counts *all)
{
    for (int i = 0; i < CLIENTS; i++) {
        const struct counts *counts = &clients[i].counts;
        all->connections += counts->connections;
        all->requests += counts->requests;
        all->errors += counts->errors;
        all->unseen += counts->unseen;
        for (int kind = 0; kind < KINDS; kind++)
            all->kinds[kind] += counts->kinds[kind];
        for (int at = 0; at < REASONS && counts->reasons[at].count > 0; at++) {
            int to = 0;
            while (all->reasons[to].count > 0 &&
                   strcmp(all->reasons[to].reason,
                          counts->reasons[at].reason) != 0)
                to++;
            memcpy(all->reasons[to].reason, counts->reasons[at].reason,
                   sizeof all->reasons[to].reason);
            all->reasons[to].count += counts->reasons[at].count;
        }
    }
}

/* Compares all counts with the summary. Returns how many of the lines that
 * nobody waited for the server has counted. */
static unsigned long check_counts(struct soak *soak, struct counts *all,
                                  unsigned long warm)
{
    const char *summary;
    char *log = server_summary(&soak->server, &summary);
    unsigned long connections = all->connections + warm;
    unsigned long least = soak->tc != NULL ? 0 : all->unseen;
    unsigned long requests = all->requests + warm, errors = 0;

    printf("%.*s\n", (int)strcspn(summary, "\n"), summary);
    expect_value(summary, "connections", connections, connections);
    expect_value(summary, "rejected", 0, 0);
    expect_value(summary, "accept_errors", 0, 0);
    expect_value(summary, "thread_errors", 0, 0);
    unsigned long unseen = expect_value(summary, "requests", requests + least,
                                        requests + all->unseen) -
                           requests;
    unsigned long unseen_errors =
        expect_value(summary, "errors", all->errors, all->errors + unseen) -
        all->errors;
    for (int i = 0; i < REASONS && all->reasons[i].count > 0; i++) {
        unsigned long count = all->reasons[i].count;
        char key[64];
        (void)snprintf(key, sizeof key, "error_%s", all->reasons[i].reason);
        for (char *at = key; *at != '\0'; at++)
            if (*at == ' ')
                *at = '_';
        count = expect_value(summary, key, count, count + unseen_errors);
        errors += count;
        printf("%s: %s\n", all->reasons[i].reason, grouped(count));
    }
    /* A kind that only lines had to which nobody saw the reply. */
    if (errors < all->errors || errors > all->errors + unseen_errors)
        give_up("the server counts errors of its own");
    free(log);
    return unseen;
}

int main(int argc, char **argv)
{
    static struct soak soak = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    static struct client clients[CLIENTS];
    static struct counts all;
    struct deeds deeds = {0};
    long rss[TENTHS + 1];

    if (argc == 5 || argc == 6) {
        soak.seconds = strtol(argv[3], NULL, 10);
        soak.restart_seconds = strtol(argv[4], NULL, 10);
        soak.tc = argv[5];
    }
    if (soak.seconds < TENTHS || soak.restart_seconds < 1) {
        fputs("usage: soak SERVER FAULTY SECONDS RESTART_SECONDS [TC]\n",
              stderr);
        return 2;
    }
    upstream_start(&soak.upstream, argv[2]);
    server_start(&soak.server, argv[1], &soak.upstream, FETCHES,
                 (const char *const[]){"--max-line", "1000", "--max-body",
                                       "65536", "--line-timeout", "2",
                                       "--idle-timeout", "2", "--timeout", "5",
                                       NULL});
    for (int i = 0; i < CLIENTS; i++) {
        clients[i].soak = &soak;
        clients[i].random = (uint64_t)i << 32;
    }
    struct holding start = server_holds(&soak.server);
    unsigned long warm = warm_pool(&soak.server);
    start.descriptors = 0;
    start = server_rests(&soak.server, &start, REST_MS);
    printf("at the start: %ld descriptors, %ld threads, %ld KiB\n",
           start.descriptors, start.threads, start.rss_kib);

    int looks = 0;
    for (int i = 1; i <= TENTHS; i++, looks++) {
        long ms = soak.seconds * 1000 / TENTHS;
        if (i == 2 && ms < LOOK_MS) { /* too short for more looks */
            ms *= TENTHS - 1;
            i = TENTHS;
        }
        run_load(&soak, clients, &deeds, ms);
        (void)server_rests(&soak.server,
                           &(struct holding){.threads = start.threads},
                           REST_MS);
        warm += warm_pool(&soak.server);
        struct holding now = server_rests(&soak.server, &start, REST_MS);
        rss[i] = now.rss_kib;
        printf("        at rest: %ld descriptors, %ld threads, %ld KiB\n",
               now.descriptors, now.threads, now.rss_kib);
        (void)fflush(stdout);
    }
    long bound = looks == TENTHS ? GROWTH_KIB : SHORT_GROWTH_KIB;
    if (rss[TENTHS] - rss[1] > bound)
        give_up("memory has grown from %ld to %ld KiB", rss[1], rss[TENTHS]);

    add_counts(clients, &all);
    unsigned long unseen = check_counts(&soak, &all, warm);
    server_stop(&soak.server);
    upstream_kill(&soak.upstream);

    printf("proof: duration: %s s, %d clients at a time\n",
           grouped((unsigned long long)soak.seconds), CLIENTS);
    printf("proof: connections: %s\n", grouped(all.connections));
    printf("proof: of these reset by the client: %s\n",
           grouped(all.kinds[RESET_AFTER_REPLY] + all.kinds[RESET_UNREAD] +
                   all.kinds[RESET_IN_LINE] + all.kinds[RESET_IN_FETCH]));
    printf("proof: requests counted by clients and server: %s and %s, of "
           "these %s errors, each kind alike\n",
           grouped(all.requests + unseen), grouped(all.requests + unseen),
           grouped(all.errors));
    printf("proof: of these lines whose client reset before the reply: %s "
           "sent, %s served\n",
           grouped(all.unseen), grouped(unseen));
    if (soak.tc != NULL)
        printf("proof: faults injected: %s, %s of them delay and loss by tc "
               "netem\n",
               grouped(deeds.faults), grouped(deeds.network_faults));
    else
        printf("proof: faults injected, one a second: %s, by the upstream: "
               "this machine has no netem\n",
               grouped(deeds.faults));
    printf("proof: upstream killed and restarted: %s times\n",
           grouped(deeds.restarts));
    printf("proof: descriptors at the start and at each look: %ld\n",
           start.descriptors);
    printf("proof: threads at the start and at each look: %ld\n",
           start.threads);
    printf("proof: resident memory after a tenth and at the end: %s and %s "
           "KiB\n",
           grouped((unsigned long long)rss[1]),
           grouped((unsigned long long)rss[TENTHS]));
    return 0;
}
