/*
 * stress.c - many clients at once, most of them rude, until a drain
 *
 *     build/proof/stress [OPTION VALUE]... -- COMMAND [ARGUMENT]...
 *
 * COMMAND is threadecho, perhaps under a tool that looks for races. Each round
 * starts it anew and has two phases. In the calm one each client takes all of
 * its replies, so that the summary must equal what the clients have counted.
 * In the storm clients reset, never read and come over the limit, until a
 * signal drains the server in the midst of it. Each reply must be the right
 * one, none that was owed may be missing, and whatever stands on stderr that
 * threadecho has not written fails the round.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SO_LINGER and the like, in_port_t */
#include "../rogue.h"
#include "../upstream_faults.h"
#include "subject.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define MAX_LINE 1000       /* --max-line, in bytes */
#define MAX_LINES 24        /* of a visit */
#define CALM_VISITS 3       /* of each client */
#define MOST_ARGUMENTS 40   /* of the server's command line */
#define CLIENT_STACK 131072 /* bytes of a client's stack */

/* What was sent this long before the signal must be answered, in ms: by then
 * it has arrived, whatever the machine is busy with. */
#define OWED_MS 200

/* What a client asks for that never reads, in bytes of replies: more than the
 * kernel keeps for it. */
#define NEVER_READ_BYTES (8 << 20)
#define LARGE_BODY 60000

/* Characters that mean something to HTTP, to URLs or to C. */
static const char letters[] = "abcdefghij0123456789 %&=?#+/\"\\\t\v\xc3\xa9~";

/* How a server is run. */
static const struct mode {
    const char *name;
    const char *option; /* or NULL */
    bool echo;
} modes[] = {
    {"a pool of few handles", NULL, false},
    {"--echo", "--echo", true},
    {"--no-keepalive", "--no-keepalive", false},
    {"--verbose", "--verbose", false},
    {"unasked responses", NULL, false},
};

/* Only in the last of these: from the first one on, no connection is kept. */
static const struct upstream_fault unasked = {"/unasked", NULL, 200, "b0dy"};

/* How a round ends. */
enum ending {
    DRAIN,
    KILL,     /* by a second signal while it drains */
    STUBBORN, /* some clients hold out until it has cut them off */
};

/* What a client does with a connection. */
enum kind {
    ASK,
    PIPELINE,
    HALF_CLOSE,
    TOO_LONG,
    TRICKLE,
    HONEST,
    RESET_IN_LINE = HONEST,
    RESET_IN_FETCH,
    NEVER_READ,
    IDLE,
    KINDS
};

/* How often of 100, in the storm. */
static const unsigned weights[KINDS] = {
    [ASK] = 25,
    [PIPELINE] = 15,
    [HALF_CLOSE] = 12,
    [TOO_LONG] = 8,
    [TRICKLE] = 4,
    [RESET_IN_LINE] = 15,
    [RESET_IN_FETCH] = 13,
    [NEVER_READ] = 2,
    [IDLE] = 6,
};

struct counts {
    unsigned long connections;
    unsigned long rejected; /* of these */
    unsigned long replies;  /* of lines, checked */
    unsigned long errors;   /* of these */
    unsigned long begun;    /* lines of which at least a byte was sent */
    unsigned long resets;   /* connections that the client reset */
};

struct round {
    const struct mode *mode;
    enum ending ending;
    long max_connections;
    struct subject server;
    struct sockaddr_in address;
    pthread_barrier_t calm_over; /* all clients have done with it */
    pthread_barrier_t storm;     /* begins */
    atomic_bool draining;        /* the first signal may have been sent */
    atomic_llong signal_ms;      /* when it was sent */
    atomic_bool failed;
    pthread_mutex_t mutex; /* guards what follows */
    char failure[512];     /* the first one */
};

struct client {
    struct round *round;
    pthread_t thread;
    uint64_t random; /* state of the generator */
    struct counts counts;
};

/* One connection of a client. */
struct visit {
    struct client *client;
    struct round *round;
    int fd;
    char *text; /* all lines, as they are sent */
    size_t len;
    unsigned lines;
    size_t ends[MAX_LINES]; /* of each line in the text */
    char *replies[MAX_LINES];
    size_t reply_lens[MAX_LINES];
    size_t sent;             /* bytes of the text */
    unsigned owed;           /* replies: these lines were sent in good time */
    unsigned got;            /* replies */
    bool rejected;           /* it was told so */
    bool stopped;            /* likewise, that the server is stopping */
    char data[2 * MAX_LINE]; /* received */
    size_t data_len;
};

/* Notes what went wrong, if it is the first. */
__attribute__((format(printf, 2, 3))) static void fail(struct round *round,
                                                       const char *format, ...)
{
    va_list args;

    va_start(args, format);
    pthread_mutex_lock(&round->mutex);
    if (!atomic_exchange(&round->failed, true))
        (void)vsnprintf(round->failure, sizeof round->failure, format, args);
    pthread_mutex_unlock(&round->mutex);
    va_end(args);
}

/*
 * Lines, and what they must be answered
 */

/* Adds a line, with its LF, and the reply to it, without one. Both are
 * copied. */
static void add_line(struct visit *visit, const char *line, size_t len,
                     const char *reply, size_t reply_len)
{
    char *copy = malloc(reply_len + 1);
    char *text = realloc(visit->text, visit->len + len + 1);

    if (copy == NULL || text == NULL)
        abort();
    memcpy(copy, reply, reply_len);
    visit->replies[visit->lines] = copy;
    visit->reply_lens[visit->lines] = reply_len;
    memcpy(text + visit->len, line, len);
    text[visit->len + len] = '\n';
    visit->text = text;
    visit->len += len + 1;
    visit->ends[visit->lines++] = visit->len;
}

/* Adds a line that the upstream answers with its text. */
static void add_plain(struct visit *visit)
{
    char reply[MAX_LINE + 6] = "echo: ";
    char *line = reply + strlen(reply);
    unsigned most = chance(&visit->client->random, 20) == 0 ? MAX_LINE : 40;
    size_t len = chance(&visit->client->random, most);

    for (size_t i = 0; i < len; i++)
        line[i] = letters[chance(&visit->client->random, sizeof letters)];
    if (len > 0 && line[0] == '/') /* the rogue takes that for a path */
        line[0] = 'x';
    add_line(visit, line, len, reply, strlen("echo: ") + len);
}

/* Adds a line that names something of the upstream. */
static void add_path(struct visit *visit, const struct upstream_fault *fault)
{
    char reply[256] = "echo: ";

    if (visit->round->mode->echo)
        (void)snprintf(reply, sizeof reply, "echo: %s", fault->path);
    else
        fault_reply(fault, reply, sizeof reply);
    add_line(visit, fault->path, strlen(fault->path), reply, strlen(reply));
}

/* Adds a line: of ten, one makes the upstream fail, and one makes it close or
 * wait. */
static void add_any(struct visit *visit)
{
    static const struct upstream_fault turns[] = {
        {"/close", NULL, 200, "/close"},
        {"/close-unsaid", NULL, 200, "/close-unsaid"},
        {"/close-unsaid", NULL, 200, "/close-unsaid"},
        {"/stale", NULL, 200, "/stale"},
        {"/stale", NULL, 200, "/stale"},
        {"/unsized", NULL, 200, "/unsized"},
        {"/delay/5", NULL, 200, "/delay/5"},
        {"/delay/30", NULL, 200, "/delay/30"},
    };
    const struct upstream_fault *fault;

    switch (chance(&visit->client->random, 10)) {
    case 0:
        do
            fault = &upstream_faults[chance(&visit->client->random,
                                            (unsigned)upstream_fault_count)];
        while (fault->reason == NULL || fault_times_out(fault));
        add_path(visit, fault);
        break;
    case 1:
        if (visit->round->mode == &modes[COUNT(modes) - 1] &&
            chance(&visit->client->random, 4) == 0)
            add_path(visit, &unasked);
        else
            add_path(visit,
                     &turns[chance(&visit->client->random, COUNT(turns))]);
        break;
    default:
        add_plain(visit);
    }
}

static void add_too_long(struct visit *visit)
{
    static const char reply[] = "error: line too long";
    char line[5 * MAX_LINE];
    size_t len =
        MAX_LINE + 1 + chance(&visit->client->random, 4 * MAX_LINE - 1);

    memset(line, 'y', len);
    add_line(visit, line, len, reply, strlen(reply));
}

/* Makes the lines of a visit, one at least. */
static void add_lines(struct visit *visit, unsigned most)
{
    unsigned lines = 1 + chance(&visit->client->random, most);

    while (visit->lines < lines)
        add_any(visit);
}

/*
 * What a connection does
 */

/* Connects. Returns false when that is not possible, as after the drain has
 * begun it may not be. */
static bool visit_connect(struct visit *visit)
{
    struct round *round = visit->round;
    const struct timeval patience = {.tv_sec = SUBJECT_PATIENCE_MS / 1000};
    const int on = 1;
    bool draining = atomic_load(&round->draining);

    visit->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (visit->fd < 0 ||
        setsockopt(visit->fd, SOL_SOCKET, SO_RCVTIMEO, &patience,
                   sizeof patience) != 0 ||
        setsockopt(visit->fd, SOL_SOCKET, SO_SNDTIMEO, &patience,
                   sizeof patience) != 0 ||
        setsockopt(visit->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        fail(round, "cannot make a socket: %s", strerror(errno));
    else if (connect(visit->fd, (struct sockaddr *)&round->address,
                     sizeof round->address) == 0) {
        visit->client->counts.connections++;
        return true;
    } else if (!draining && !atomic_load(&round->draining))
        fail(round, "cannot connect: %s", strerror(errno));
    return false;
}

/* Sends the text from where it is up to end. Returns false when the server has
 * closed. */
static bool visit_send(struct visit *visit, size_t end)
{
    bool ok = true;

    while (ok && visit->sent < end) {
        ssize_t n = send(visit->fd, visit->text + visit->sent,
                         end - visit->sent, MSG_NOSIGNAL);
        if (n > 0)
            visit->sent += (size_t)n;
        else if (n == 0 || errno != EINTR)
            ok = false;
    }
    if (!atomic_load(&visit->round->draining) || /* else it is not known yet */
        subject_now_ms() + OWED_MS < atomic_load(&visit->round->signal_ms))
        while (visit->owed < visit->lines &&
               visit->ends[visit->owed] <= visit->sent)
            visit->owed++;
    return ok;
}

/* The server has closed the connection: it must have a cause. Always returns
 * false. */
static bool visit_closed(struct visit *visit, const char *how)
{
    struct round *round = visit->round;

    if (visit->rejected)
        return false;
    if (!atomic_load(&round->draining))
        fail(round, "%s after %u replies to %u lines, and no cause", how,
             visit->got, visit->lines);
    return false;
}

/* Takes a line that has come. Returns false if it is the last one. */
static bool visit_take(struct visit *visit, const char *line, size_t len)
{
    static const char full[] = "error: too many connections";
    static const char stopping[] = "error: server stopping";
    struct round *round = visit->round;
    const char *reply = visit->replies[visit->got];
    size_t reply_len = visit->reply_lens[visit->got];

    if (visit->got < visit->lines && len == reply_len &&
        memcmp(line, reply, len) == 0) {
        visit->got++;
        visit->client->counts.replies++;
        if (len >= 6 && memcmp(line, "error:", 6) == 0)
            visit->client->counts.errors++;
        return true;
    }
    if (visit->got == 0 && len == strlen(full) &&
        memcmp(line, full, len) == 0) {
        visit->rejected = true;
        visit->client->counts.rejected++;
        return false;
    }
    if (len == strlen(stopping) && memcmp(line, stopping, len) == 0 &&
        atomic_load(&round->draining)) {
        visit->stopped = true;
        return false;
    }
    fail(round, "reply %u of %u is '%.*s', not '%.*s'", visit->got,
         visit->lines, (int)len, line,
         visit->got < visit->lines ? (int)reply_len : 0, reply);
    return false;
}

/* Reads replies until there are this many. Returns false when the server
 * closes before that, has rejected the client, or a reply is wrong. */
static bool visit_read(struct visit *visit, unsigned replies)
{
    while (visit->got < replies) {
        char *lf = memchr(visit->data, '\n', visit->data_len);
        if (lf != NULL) {
            size_t len = (size_t)(lf - visit->data);
            bool more = visit_take(visit, visit->data, len);
            visit->data_len -= len + 1;
            memmove(visit->data, lf + 1, visit->data_len);
            if (!more)
                return false;
            continue;
        }
        if (visit->data_len == sizeof visit->data) {
            fail(visit->round, "a reply of more than %zu bytes",
                 sizeof visit->data);
            return false;
        }
        ssize_t n = recv(visit->fd, visit->data + visit->data_len,
                         sizeof visit->data - visit->data_len, 0);
        if (n > 0)
            visit->data_len += (size_t)n;
        else if (n < 0 && errno == EINTR)
            continue;
        else if (n < 0 && errno == EAGAIN) {
            fail(visit->round, "silence after %u replies to %u lines",
                 visit->got, visit->lines);
            return false;
        } else
            return visit_closed(visit, n == 0 ? "a close" : strerror(errno));
    }
    return true;
}

/* Reads to the end, at which nothing more may come. */
static void visit_expect_end(struct visit *visit)
{
    ssize_t n;

    if (visit->data_len > 0) {
        fail(visit->round, "bytes after the last reply");
        return;
    }
    do
        n = recv(visit->fd, visit->data, sizeof visit->data, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        fail(visit->round, "bytes after the last reply");
    else if (n < 0 && errno == EAGAIN)
        fail(visit->round, "not closed after the last reply");
    else if (n < 0)
        (void)visit_closed(visit, strerror(errno));
}

/* Has the connection reset when it is closed. */
static void visit_reset(struct visit *visit)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (setsockopt(visit->fd, SOL_SOCKET, SO_LINGER, &at_once,
                   sizeof at_once) != 0)
        fail(visit->round, "cannot reset: %s", strerror(errno));
    visit->client->counts.resets++;
}

/* Waits for input, or ms. */
static void visit_wait(struct visit *visit, int ms)
{
    struct pollfd input = {.fd = visit->fd, .events = POLLIN};

    if (poll(&input, 1, ms) < 0 && errno != EINTR)
        fail(visit->round, "cannot wait: %s", strerror(errno));
}

/* Asks for much, reads nothing of it and goes. */
static void never_read(struct visit *visit)
{
    struct round *round = visit->round;
    struct pollfd gone = {.fd = visit->fd}; /* POLLHUP needs no asking */
    char line[MAX_LINE];
    size_t len, most, sent = 0;
    long long end =
        subject_now_ms() + 100 + chance(&visit->client->random, 400);

    memset(line, 'z', sizeof line);
    len = sizeof line;
    most = NEVER_READ_BYTES;
    if (!round->mode->echo) {
        len = (size_t)snprintf(line, sizeof line, "/size/%d", LARGE_BODY) + 1;
        most = len * (NEVER_READ_BYTES / LARGE_BODY);
    }
    line[len - 1] = '\n';
    for (;;) {
        ssize_t n = sent < most
                        ? send(visit->fd, line + sent % len, len - sent % len,
                               MSG_NOSIGNAL | MSG_DONTWAIT)
                        : 0;
        if (n > 0)
            sent += (size_t)n;
        else if (n < 0 && errno != EAGAIN && errno != EINTR)
            break;
        else if (poll(&gone, 1, 5) != 0) /* the server's end of it is closed */
            break;
        long long now = subject_now_ms();
        if (now >= end &&
            (round->ending != STUBBORN || !atomic_load(&round->draining) ||
             now >= end + SUBJECT_PATIENCE_MS))
            break;
    }
    visit->client->counts.begun += (sent + len - 1) / len;
    visit_reset(visit);
}

/* Plays a visit up to its close. */
static void converse(struct visit *visit, enum kind kind)
{
    struct client *client = visit->client;

    switch (kind) {
    case ASK:
        add_lines(visit, 6);
        for (unsigned i = 0; i < visit->lines; i++)
            if (!visit_send(visit, visit->ends[i]) ||
                !visit_read(visit, i + 1))
                break;
        break;
    case PIPELINE:
        add_lines(visit, MAX_LINES);
        (void)visit_send(visit, visit->len);
        break;
    case HALF_CLOSE:
        add_lines(visit, MAX_LINES);
        if (chance(&client->random, 2) == 0 && visit->len > 1 &&
            visit->text[visit->len - 2] != '\n') /* the last has no LF */
            visit->ends[visit->lines - 1] = --visit->len;
        (void)visit_send(visit, visit->len);
        /* That fails where the server has reset the connection. */
        (void)shutdown(visit->fd, SHUT_WR);
        break;
    case TOO_LONG:
        add_lines(visit, 3);
        add_too_long(visit);
        add_any(visit);
        (void)visit_send(visit, visit->len);
        break;
    case TRICKLE:
        add_plain(visit);
        for (size_t i = 1; i <= visit->len && i <= 60; i++)
            if (!visit_send(visit, i))
                break;
        (void)visit_send(visit, visit->len);
        break;
    case RESET_IN_LINE:
        add_lines(visit, MAX_LINES);
        /* All but the last LF, or less. */
        (void)visit_send(visit, visit->len - 1 - chance(&client->random, 2));
        if (chance(&client->random, 2) == 0)
            (void)visit_read(visit, visit->lines / 2);
        visit_reset(visit);
        return;
    case RESET_IN_FETCH:
        add_any(visit);
        add_path(visit, &(struct upstream_fault){"/delay/40", NULL, 200,
                                                 "/delay/40"});
        (void)visit_send(visit, visit->len);
        if (visit_read(visit, 1))
            visit_wait(visit, (int)chance(&client->random, 40));
        visit_reset(visit);
        return;
    case NEVER_READ:
        never_read(visit);
        return;
    case IDLE:
    case KINDS:
        if (chance(&client->random, 2) == 0)
            add_plain(visit);
        if (visit_send(visit, visit->len) && visit_read(visit, visit->lines))
            visit_wait(visit, (int)chance(&client->random, 500));
        break;
    }
    if (visit_read(visit, visit->lines) && kind == HALF_CLOSE)
        visit_expect_end(visit);
}

/* Connects once. Returns false when the server takes no more clients. */
static bool play(struct client *client, enum kind kind)
{
    struct round *round = client->round;
    struct visit *visit = calloc(1, sizeof *visit);

    if (visit == NULL)
        abort();
    visit->client = client;
    visit->round = round;
    bool connected = visit_connect(visit);
    if (connected) {
        converse(visit, kind);
        for (unsigned i = 0; i < visit->lines; i++)
            client->counts.begun +=
                visit->sent > (i > 0 ? visit->ends[i - 1] : 0);
    }
    if (connected && kind < HONEST && visit->got < visit->owed &&
        !visit->rejected && round->ending == DRAIN)
        fail(round, "the drain lost %u of %u replies",
             visit->owed - visit->got, visit->owed);
    if (visit->fd >= 0)
        close(visit->fd);
    for (unsigned i = 0; i < visit->lines; i++)
        free(visit->replies[i]);
    free(visit->text);
    free(visit);
    return connected;
}

static void *client_thread(void *arg)
{
    struct client *client = arg;
    struct round *round = client->round;

    for (int i = 0; i < CALM_VISITS && !atomic_load(&round->failed); i++)
        (void)play(client, chance(&client->random, HONEST));
    pthread_barrier_wait(&round->calm_over);
    pthread_barrier_wait(&round->storm);
    for (;;) {
        unsigned draw = chance(&client->random, 100);
        enum kind kind = 0;
        while (draw >= weights[kind])
            draw -= weights[kind++];
        if (atomic_load(&round->failed) || !play(client, kind))
            return NULL;
    }
}

/*
 * Rounds
 */

/* What the command line asks for. */
struct settings {
    unsigned long clients;
    unsigned long fetches; /* handles of the pool */
    unsigned long ms;      /* of a storm */
    unsigned long rounds;
    unsigned long drains; /* 1: no round ends in another way */
    unsigned long seed;
    char **command;
};

struct totals {
    struct counts counts;
    unsigned long drains;
    unsigned long kills; /* that a second signal ended */
    unsigned long summaries;
};

static struct counts sum(const struct client *clients, unsigned long count)
{
    struct counts all = {0};

    for (unsigned long i = 0; i < count; i++) {
        all.connections += clients[i].counts.connections;
        all.rejected += clients[i].counts.rejected;
        all.replies += clients[i].counts.replies;
        all.errors += clients[i].counts.errors;
        all.begun += clients[i].counts.begun;
        all.resets += clients[i].counts.resets;
    }
    return all;
}

/* Fails the round unless low <= value <= high. */
static void expect(struct round *round, const char *summary, const char *key,
                   unsigned long low, unsigned long high)
{
    unsigned long value = (unsigned long)subject_value(summary, key);

    if (value < low || value > high)
        fail(round, "the summary has %s=%lu, the clients %lu to %lu", key,
             value, low, high);
}

/* Asks for a summary, which must be what the clients have counted. */
static void check_calm(struct round *round, const struct counts *counts)
{
    int seen = 0;
    long long deadline = subject_now_ms() + SUBJECT_PATIENCE_MS;
    const char *summary = NULL;

    if (kill(round->server.pid, SIGUSR1) != 0) {
        fail(round, "cannot ask for a summary: %s", strerror(errno));
        return;
    }
    while (summary == NULL && subject_now_ms() < deadline &&
           !subject_ends(&round->server, 0)) {
        char *log = subject_log(&round->server);
        summary = subject_summary(log, &seen);
        if (summary != NULL) {
            expect(round, summary, "rejected", counts->rejected,
                   counts->rejected);
            expect(round, summary, "requests", counts->replies,
                   counts->replies);
            expect(round, summary, "errors", counts->errors, counts->errors);
            expect(round, summary, "connections", counts->connections,
                   counts->connections);
            expect(round, summary, "thread_errors", 0, 0);
            expect(round, summary, "accept_errors", 0, 0);
        }
        free(log);
        pause_ms(2);
    }
    if (summary == NULL)
        fail(round, "no summary");
}

/* Judges how the server has ended and what it has logged. */
static void check_end(struct round *round, const struct counts *counts)
{
    char *log = subject_log(&round->server);
    const char *report = subject_report(log);
    int status = round->server.status;
    int seen = 0;
    const char *summary = subject_summary(log, &seen);
    bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;

    if (report != NULL)
        fail(round, "a report:\n%.300s", report);
    if (round->server.pid != 0)
        fail(round, "it did not end");
    else if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0) &&
             !(killed && round->ending == KILL))
        fail(round, "it ended with status %#x", (unsigned)status);
    if (round->ending == DRAIN && strstr(log, "cut off") != NULL)
        fail(round, "it cut off connections");
    if (summary == NULL) {
        fail(round, "no summary at the end");
    } else if (!killed && report == NULL) {
        expect(round, summary, "requests", counts->replies, counts->begun);
        expect(round, summary, "rejected", counts->rejected,
               counts->connections);
        expect(round, summary, "peak_threads", 1,
               (unsigned long)round->max_connections);
    }
    if (atomic_load(&round->failed)) {
        fputs("the server's log:\n", stderr);
        size_t len = strlen(log), most = 12000;
        if (report != NULL)
            fprintf(stderr, "%.12000s\n", report);
        else
            fputs(log + (len > most ? len - most : 0), stderr);
    }
    free(log);
}

/* Starts the server for a round. */
static bool start_server(const struct settings *settings, struct round *round,
                         const char *url)
{
    char max_line[16], connections[16], fetches[16];
    const char *argv[MOST_ARGUMENTS] = {0};
    size_t argc = 0;

    (void)snprintf(max_line, sizeof max_line, "%d", MAX_LINE);
    (void)snprintf(connections, sizeof connections, "%ld",
                   round->max_connections);
    (void)snprintf(fetches, sizeof fetches, "%lu", settings->fetches);
    while (argc < MOST_ARGUMENTS - 16 && settings->command[argc] != NULL) {
        argv[argc] = settings->command[argc];
        argc++;
    }
    const char *const options[] = {
        "--listen",      "127.0.0.1:0", "--upstream",        url,
        "--max-line",    max_line,      "--max-body",        "65536",
        "--max-fetches", fetches,       "--max-connections", connections,
        "--timeout",     "60",          round->mode->option};
    memcpy(argv + argc, options, sizeof options);
    if (!subject_start(&round->server, (char *const *)argv, false)) {
        fail(round, "cannot start %s: %s", argv[0], strerror(errno));
        return false;
    }
    int port = subject_port(&round->server);
    round->address = (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons((in_port_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    if (port == 0)
        fail(round, "the server does not listen");
    return port != 0;
}

/* Has the storm for a while and ends it with a signal. */
static void storm(const struct settings *settings, struct round *round,
                  struct client *dice, struct totals *totals)
{
    pid_t server = round->server.pid;
    long long end = subject_now_ms() + (long)settings->ms / 2 +
                    (long)chance(&dice->random, (unsigned)settings->ms + 1);

    while (!atomic_load(&round->failed) && subject_now_ms() < end) {
        pause_ms((long)chance(&dice->random, 200));
        if (kill(server, SIGUSR1) == 0)
            totals->summaries++;
    }
    atomic_store(&round->signal_ms, subject_now_ms());
    atomic_store(&round->draining, true);
    if (kill(server, SIGTERM) != 0)
        fail(round, "cannot stop it: %s", strerror(errno));
    if (round->ending == KILL) {
        pause_ms((long)chance(&dice->random, 30));
        if (kill(server, SIGTERM) != 0)
            fail(round, "cannot stop it at once: %s", strerror(errno));
    }
    if (!subject_ends(&round->server, SUBJECT_PATIENCE_MS))
        fail(round, "it does not end");
}

/* Runs a round. Returns whether all was as it must be. */
static bool run_round(const struct settings *settings, unsigned long number,
                      struct totals *totals)
{
    struct round round = {
        .mode = &modes[number % COUNT(modes)],
        .ending = settings->drains != 0 ? DRAIN
                  : number % 6 == 5     ? KILL
                  : number % 7 == 6     ? STUBBORN
                                        : DRAIN,
        .max_connections = (long)(settings->clients * 19 / 20),
        .server = {.log = -1},
        .mutex = PTHREAD_MUTEX_INITIALIZER,
    };
    struct client dice = {.round = &round,
                          .random = settings->seed * 1000 + number};
    struct client *clients = calloc(settings->clients, sizeof *clients);
    struct rogue *rogue = rogue_start(0);
    char url[ROGUE_URL_SIZE];
    pthread_attr_t small;
    unsigned waiting = (unsigned)settings->clients + 1;

    if (clients == NULL || rogue == NULL ||
        pthread_barrier_init(&round.calm_over, NULL, waiting) != 0 ||
        pthread_barrier_init(&round.storm, NULL, waiting) != 0 ||
        pthread_attr_init(&small) != 0 ||
        pthread_attr_setstacksize(&small, CLIENT_STACK) != 0) {
        fputs("stress: out of memory\n", stderr);
        exit(1);
    }
    rogue_url(rogue, "/text", url);
    bool started = start_server(settings, &round, url);
    for (unsigned long i = 0; started && i < settings->clients; i++) {
        clients[i].round = &round;
        clients[i].random = dice.random + (i + 1) * UINT64_C(0x9e3779b9);
        if (pthread_create(&clients[i].thread, &small, client_thread,
                           &clients[i]) != 0) {
            fputs("stress: cannot start a client\n", stderr);
            exit(1);
        }
    }
    if (started) {
        pthread_barrier_wait(&round.calm_over);
        struct counts counts = sum(clients, settings->clients);
        if (!atomic_load(&round.failed))
            check_calm(&round, &counts);
        pthread_barrier_wait(&round.storm);
        storm(settings, &round, &dice, totals);
        if (round.server.pid != 0)
            kill(round.server.pid, SIGKILL);
        for (unsigned long i = 0; i < settings->clients; i++)
            pthread_join(clients[i].thread, NULL);
    }
    struct counts counts = sum(clients, settings->clients);
    check_end(&round, &counts);
    bool ok = !atomic_load(&round.failed);
    printf("round %lu, %s, %s: %lu connections, %lu rejected, %lu reset, "
           "%lu replies, %lu of them errors: %s\n",
           number, round.mode->name,
           round.ending == DRAIN  ? "drained"
           : round.ending == KILL ? "a second signal"
                                  : "with stubborn clients",
           counts.connections, counts.rejected, counts.resets, counts.replies,
           counts.errors, ok ? "ok" : round.failure);
    (void)fflush(stdout);
    totals->counts.connections += counts.connections;
    totals->counts.rejected += counts.rejected;
    totals->counts.replies += counts.replies;
    totals->counts.errors += counts.errors;
    totals->counts.resets += counts.resets;
    totals->drains += round.ending != KILL;
    totals->kills += round.ending == KILL;

    subject_free(&round.server);
    rogue_stop(rogue);
    pthread_attr_destroy(&small);
    pthread_barrier_destroy(&round.storm);
    pthread_barrier_destroy(&round.calm_over);
    free(clients);
    return ok;
}

/* Reads the command line. Returns false when it makes no sense. */
static bool parse(char **argv, struct settings *settings)
{
    const struct {
        const char *name;
        unsigned long *value;
    } options[] = {
        {"--clients", &settings->clients}, {"--fetches", &settings->fetches},
        {"--ms", &settings->ms},           {"--rounds", &settings->rounds},
        {"--seed", &settings->seed},       {"--drains", &settings->drains},
    };

    for (argv++; *argv != NULL && strcmp(*argv, "--") != 0; argv += 2) {
        size_t i = 0;
        while (i < COUNT(options) && strcmp(*argv, options[i].name) != 0)
            i++;
        if (i == COUNT(options) || argv[1] == NULL)
            return false;
        char *end;
        *options[i].value = strtoul(argv[1], &end, 10);
        if (*end != '\0' || end == argv[1])
            return false;
    }
    if (*argv == NULL || argv[1] == NULL || settings->clients < 20)
        return false;
    settings->command = argv + 1;
    return true;
}

int main(int argc, char **argv)
{
    struct settings settings = {
        .clients = 200, .fetches = 8, .ms = 3000, .rounds = 5, .seed = 1};
    struct totals totals = {0};
    struct rlimit fds;
    bool ok = true;

    (void)argc;
    if (!parse(argv, &settings)) {
        fputs(
            "usage: stress [--clients N] [--fetches N] [--ms N] "
            "[--rounds N] [--drains 1] [--seed N] -- COMMAND [ARGUMENT]...\n",
            stderr);
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0) {
        fds.rlim_cur = fds.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &fds); /* it may do without */
    }
    for (unsigned long i = 0; i < settings.rounds && ok; i++)
        ok = run_round(&settings, i, &totals);
    printf("total: connections=%lu rejected=%lu resets=%lu replies=%lu "
           "errors=%lu drains=%lu kills=%lu summaries=%lu\n",
           totals.counts.connections, totals.counts.rejected,
           totals.counts.resets, totals.counts.replies, totals.counts.errors,
           totals.drains, totals.kills, totals.summaries);
    return ok ? 0 : 1;
}
