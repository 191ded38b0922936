/*
 * drive.c - the load generator's connections, in one thread over epoll
 *
 * A request costs one recv, one send and a share of an epoll_pwait2.
 *
 * SPDX-License-Identifier: MIT
 */
#include "drive.h"
#include "payload.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTING 64       /* at once; more might overflow the backlog */
#define MAX_EVENTS 512          /* taken from epoll at once */
#define BUFFER_SIZE (64 * 1024) /* most bytes of one recv */
#define SPARE_DESCRIPTORS 16    /* descriptors that are no connection */
#define ON_STDIN (-1)           /* in place of a connection's index */

/* A source address has some 28,000 ports. connect() tries the even ones first,
 * all of them: beyond half of the ports each call searches for long. */
#define CONNECTIONS_PER_SOURCE 14000

#define SECOND UINT64_C(1000000000) /* in ns */
#define FOREVER UINT64_MAX

/* A line that was sent. */
struct in_flight {
    uint64_t sent_ns;
    uint64_t from_ns; /* its latency counts from here */
    bool measured;
    bool answered; /* before an earlier line was */
};

/*
 * Lines of a connection are numbered from 0. Those from head up to next are in
 * flight; in the open loop those up to due should be.
 */
struct load_connection {
    int fd;
    bool connecting;
    bool open;
    bool blocked; /* the socket's buffer is full, epoll reports room */
    uint64_t head;
    uint64_t next;
    uint64_t due;
    uint64_t early;     /* lines after head that were answered */
    size_t tail;        /* bytes of line next - 1 that are still unsent */
    uint64_t begun_ns;  /* when connecting began */
    char *partial;      /* the beginning of a reply */
    size_t partial_len; /* bytes received of it; not all may be kept */
};

enum phase { CONNECTING, RUNNING, HOLDING, CLOSING };

struct driver {
    const struct plan *plan;
    struct outcome *outcome;
    struct payload payload;
    struct load_connection *connections;
    struct in_flight *in_flight; /* plan->depth for each connection */
    char *in;                    /* BUFFER_SIZE */
    char *out;
    size_t out_size;
    size_t partial_size; /* most bytes kept of a partial reply */
    int epoll;
    enum phase phase;
    uint32_t asked;      /* connections that were begun */
    uint32_t connecting; /* connections begun and not yet made */
    uint32_t open;
    uint64_t timeout_ns;
    uint64_t tick_ns; /* next look for timeouts */
    uint64_t in_flight_count;
    uint64_t measured_count; /* measured lines in flight */
    uint64_t warmup;         /* lines before the measured ones, if known */
    uint64_t total;          /* lines to send, warm-up included, if known */
    uint64_t start_ns;       /* start of the warm-up */
    uint64_t measure_ns;     /* start of the measured time; 0: not yet */
    uint64_t end_ns;         /* its end, if plan->seconds limits it */
    uint64_t last_ns;        /* the last measured reply */
    uint64_t in_window;      /* right replies from measure_ns to end_ns */
    uint64_t released;       /* open loop: lines that are due */
    uint64_t waiting;        /* due but unsent, on open connections */
    uint32_t turn;           /* one by one: the connection whose turn it is */
    bool granted;            /* one by one: its line may be sent */
    bool first_round;        /* one line each, before the timed warm-up */
    bool stopped;            /* no line may be sent: not yet, or no longer */
    bool window_over;
    bool out_of_memory;
    bool line_taken; /* of stdin, or its end */
    bool coarse;     /* no epoll_pwait2: before Linux 5.11, and in valgrind */
    struct rusage usage_before;
    struct rusage usage_after;
};

static uint64_t clock_ns(void)
{
    struct timespec now;
    /* It can't fail: the clock exists and the pointer is good. */
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t to_ns(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

static void take_usage(struct rusage *usage)
{
    /* It can't fail either. */
    (void)getrusage(RUSAGE_SELF, usage);
}

static uint32_t index_of(const struct driver *driver,
                         const struct load_connection *connection)
{
    return (uint32_t)(connection - driver->connections);
}

static struct in_flight *slot(const struct driver *driver,
                              const struct load_connection *connection,
                              uint64_t number)
{
    uint32_t depth = driver->plan->depth;
    size_t first = (size_t)index_of(driver, connection) * depth;
    return &driver->in_flight[first + number % depth];
}

static void count_failure(struct driver *driver, enum failure failure)
{
    driver->outcome->failures[failure]++;
}

/* Tells epoll what to wait for. A failure shows as a timeout later. */
static void watch(const struct driver *driver,
                  struct load_connection *connection, int operation,
                  uint32_t events)
{
    struct epoll_event event = {
        .events = events,
        .data.fd = (int)index_of(driver, connection),
    };
    if (epoll_ctl(driver->epoll, operation, connection->fd, &event) != 0)
        perror("load: epoll_ctl");
}

/* Starts the measured time. */
static void begin_measuring(struct driver *driver, uint64_t now)
{
    const struct plan *plan = driver->plan;
    driver->measure_ns = now;
    if (plan->seconds > 0)
        driver->end_ns = now + to_ns(plan->seconds);
    if (driver->total == FOREVER && plan->requests > 0)
        driver->total = driver->outcome->sent + plan->requests;
    take_usage(&driver->usage_before);
}

/* Returns when the open loop should send line i of all connections. */
static uint64_t intended_ns(const struct driver *driver, uint64_t i)
{
    return driver->start_ns + to_ns((double)i / driver->plan->rate);
}

/* Returns whether a line from connection->next on may be sent now. */
static bool may_send(const struct driver *driver,
                     const struct load_connection *connection, uint64_t number)
{
    const struct plan *plan = driver->plan;
    if (driver->stopped || number - connection->head >= plan->depth)
        return false;
    if (plan->rate > 0)
        return number < connection->due;
    if (driver->first_round && number > 0)
        return false;
    if (plan->one_by_one && !(driver->granted && number == connection->next &&
                              index_of(driver, connection) == driver->turn))
        return false;
    return driver->outcome->sent + (number - connection->next) < driver->total;
}

/* Records the connection's next line as sent. */
static void record_line(struct driver *driver,
                        struct load_connection *connection, uint64_t now)
{
    const struct plan *plan = driver->plan;
    struct in_flight *line = slot(driver, connection, connection->next);
    line->sent_ns = now;
    line->from_ns = now;
    line->answered = false;
    if (plan->rate > 0) {
        uint64_t i = connection->next * plan->connections +
                     index_of(driver, connection);
        line->from_ns = intended_ns(driver, i);
        line->measured = i >= driver->warmup;
        driver->waiting--;
    } else {
        if (driver->outcome->sent == driver->warmup)
            begin_measuring(driver, now);
        line->measured = driver->measure_ns != 0 && now < driver->end_ns;
    }
    if (line->measured)
        driver->measured_count++;
    driver->granted = false;
    connection->next++;
    driver->in_flight_count++;
    driver->outcome->sent++;
}

/* Records the delay of a line that waited for nothing but this program. */
static void record_delay(struct driver *driver, const struct in_flight *line)
{
    double late = (double)(line->sent_ns - line->from_ns) / 1e9;
    driver->outcome->on_time++;
    driver->outcome->late_sum += late;
    if (late > driver->outcome->late_max)
        driver->outcome->late_max = late;
}

/* Records that a line is no longer in flight. */
static void end_flight(struct driver *driver, const struct in_flight *line)
{
    driver->in_flight_count--;
    if (line->measured)
        driver->measured_count--;
}

/* Closes a connection. */
static void drop_connection(struct driver *driver,
                            struct load_connection *connection)
{
    (void)close(connection->fd);
    connection->fd = -1;
    connection->open = false;
    free(connection->partial);
    connection->partial = NULL;
    driver->open--;
    if (driver->plan->rate > 0)
        driver->waiting -= connection->due - connection->next;
}

/*
 * Closes a connection that failed. Counts each line in flight as the failure,
 * or as dropped if a later line was answered.
 */
static void fail_connection(struct driver *driver,
                            struct load_connection *connection,
                            enum failure failure)
{
    bool later_answered = false;
    if (connection->head == connection->next)
        count_failure(driver, failure);
    for (uint64_t i = connection->next; i > connection->head; i--) {
        const struct in_flight *line = slot(driver, connection, i - 1);
        if (line->answered) {
            later_answered = true;
            continue;
        }
        count_failure(driver, later_answered ? FAILED_DROPPED : failure);
        end_flight(driver, line);
    }
    connection->head = connection->next;
    drop_connection(driver, connection);
}

/*
 * Fills the output buffer: the rest of a line that was sent in part, then the
 * lines that may be sent. Returns the end of its data and sets *begin to the
 * first byte to send.
 */
static size_t fill_out(const struct driver *driver,
                       const struct load_connection *connection, size_t *begin)
{
    size_t line_len = driver->plan->line_size + 1;
    uint64_t number = connection->next;
    uint32_t index = index_of(driver, connection);
    size_t used = 0;
    *begin = 0;
    if (connection->tail > 0) {
        payload_write_line(&driver->payload, index, number - 1, driver->out);
        used = line_len;
        *begin = line_len - connection->tail;
    }
    while (used + line_len <= driver->out_size &&
           may_send(driver, connection, number)) {
        payload_write_line(&driver->payload, index, number,
                           driver->out + used);
        used += line_len;
        number++;
    }
    return used;
}

/* Records what a send took: the rest of a line, whole lines, part of one. */
static void record_sent(struct driver *driver,
                        struct load_connection *connection, size_t len,
                        uint64_t now)
{
    size_t line_len = driver->plan->line_size + 1;
    size_t rest = connection->tail < len ? connection->tail : len;
    connection->tail -= rest;
    len -= rest;
    while (len > 0) {
        record_line(driver, connection, now);
        size_t taken = len < line_len ? len : line_len;
        connection->tail = line_len - taken;
        len -= taken;
    }
}

/* Sends what the connection may send now. */
static void send_lines(struct driver *driver,
                       struct load_connection *connection)
{
    while (connection->open) {
        size_t begin = 0;
        size_t end = fill_out(driver, connection, &begin);
        if (begin == end)
            break;
        uint64_t now = clock_ns();
        ssize_t sent = send(connection->fd, driver->out + begin, end - begin,
                            MSG_NOSIGNAL);
        if (sent >= 0) {
            record_sent(driver, connection, (size_t)sent, now);
        } else if (errno == EINTR) {
            continue;
        } else if (errno != EAGAIN) {
            fail_connection(driver, connection, FAILED_CLOSED_EARLY);
            return;
        }
        if (sent < (ssize_t)(end - begin)) {
            if (!connection->blocked) {
                connection->blocked = true;
                watch(driver, connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            }
            return;
        }
    }
    if (connection->open && connection->blocked) {
        connection->blocked = false;
        watch(driver, connection, EPOLL_CTL_MOD, EPOLLIN);
    }
}

/* Counts an error reply by its reason. */
static void count_reason(struct outcome *outcome, const char *reason,
                         size_t len)
{
    char text[REASON_LEN] = "";
    memcpy(text, reason, len < REASON_LEN ? len : REASON_LEN - 1);
    outcome->error_replies++;
    for (size_t i = 0; i < outcome->reason_count; i++) {
        if (strcmp(outcome->reasons[i].text, text) == 0) {
            outcome->reasons[i].count++;
            return;
        }
    }
    if (outcome->reason_count == MAX_REASONS) {
        outcome->reasons[MAX_REASONS - 1].count++;
        return;
    }
    struct error_count *entry = &outcome->reasons[outcome->reason_count++];
    if (outcome->reason_count == MAX_REASONS)
        memcpy(text, "other reasons", sizeof "other reasons");
    memcpy(entry->text, text, sizeof text);
    entry->count = 1;
}

/* Records a line as answered, right or not. */
static void settle_line(struct driver *driver,
                        struct load_connection *connection, uint64_t number)
{
    struct in_flight *line = slot(driver, connection, number);
    end_flight(driver, line);
    line->answered = true;
    if (number != connection->head) {
        connection->early++;
        return;
    }
    connection->head++;
    while (connection->head < connection->next &&
           slot(driver, connection, connection->head)->answered) {
        connection->head++;
        connection->early--;
    }
}

/* Returns whether a later line of the connection was answered already. */
static bool overtaken(const struct driver *driver,
                      const struct load_connection *connection,
                      uint64_t number)
{
    uint64_t i = connection->early > 0 ? number + 1 : connection->next;
    while (i < connection->next && !slot(driver, connection, i)->answered)
        i++;
    return i < connection->next;
}

/* Records the right reply to a line, and its latency if it was in order. */
static void take_right(struct driver *driver,
                       struct load_connection *connection, uint64_t number,
                       uint64_t now)
{
    const struct in_flight *line = slot(driver, connection, number);
    struct sample sample = {
        .start_ns = (int64_t)line->from_ns - (int64_t)driver->measure_ns,
        .latency_ns = now - line->from_ns,
        .connection = index_of(driver, connection),
        .measured = line->measured,
    };
    bool begun = driver->measure_ns != 0 && now >= driver->measure_ns;
    if (overtaken(driver, connection, number)) {
        count_failure(driver, FAILED_REORDERED);
    } else {
        uint64_t took = now - line->sent_ns;
        if (driver->outcome->right == 0 || took < driver->outcome->fastest_ns)
            driver->outcome->fastest_ns = took;
        driver->outcome->right++;
        if (begun && now < driver->end_ns)
            driver->in_window++;
        if (line->measured)
            driver->last_ns = now;
        if (begun && !samples_add(&driver->outcome->samples, sample))
            driver->out_of_memory = true;
    }
    settle_line(driver, connection, number);
}

/* Judges a reply and records its class. */
static void take_reply(struct driver *driver,
                       struct load_connection *connection, const char *reply,
                       size_t len, uint64_t now)
{
    static const enum failure failure_of[] = {
        [REPLY_MIXED_UP] = FAILED_MIXED_UP,
        [REPLY_UNMARKED] = FAILED_UNMARKED,
        [REPLY_PREFIX] = FAILED_PREFIX,
        [REPLY_WRONG] = FAILED_WRONG,
    };
    uint64_t head = connection->head;
    uint64_t other = 0;
    bool asked = head < connection->next;
    enum reply_class class =
        payload_judge(&driver->payload, index_of(driver, connection), head,
                      reply, len, &other);

    driver->outcome->replies++;
    if (class == REPLY_ERROR) {
        size_t skip = sizeof "error: " - 1;
        count_reason(driver->outcome, reply + skip, len - skip);
        if (asked)
            settle_line(driver, connection, head);
    } else if (!asked) {
        count_failure(driver, FAILED_SURPLUS);
    } else if (class == REPLY_RIGHT) {
        take_right(driver, connection, head, now);
    } else if (class != REPLY_OTHER_LINE) {
        count_failure(driver, failure_of[class]);
        settle_line(driver, connection, head);
    } else if (other > head && other < connection->next &&
               !slot(driver, connection, other)->answered) {
        take_right(driver, connection, other, now);
    } else {
        /* That line was answered before, or never sent. */
        count_failure(driver, FAILED_SURPLUS);
    }
}

/* Keeps a piece of a reply until the rest comes. Returns false if memory is
 * short. */
static bool keep_piece(struct driver *driver,
                       struct load_connection *connection, const char *piece,
                       size_t len)
{
    if (connection->partial == NULL) {
        connection->partial = malloc(driver->partial_size);
        if (connection->partial == NULL) {
            driver->out_of_memory = true;
            return false;
        }
    }
    /* A reply that is too long is wrong, whatever the rest of it. */
    if (connection->partial_len < driver->partial_size) {
        size_t room = driver->partial_size - connection->partial_len;
        memcpy(connection->partial + connection->partial_len, piece,
               len < room ? len : room);
    }
    connection->partial_len += len;
    return true;
}

/* Cuts what was received into reply lines. */
static void take_replies(struct driver *driver,
                         struct load_connection *connection, const char *data,
                         size_t len, uint64_t now)
{
    while (len > 0) {
        const char *end = memchr(data, '\n', len);
        size_t piece = end == NULL ? len : (size_t)(end - data);
        if (end == NULL || connection->partial_len > 0)
            if (!keep_piece(driver, connection, data, piece))
                return;
        if (end == NULL)
            return;
        if (connection->partial_len > 0) {
            size_t kept = connection->partial_len < driver->partial_size
                              ? connection->partial_len
                              : driver->partial_size;
            take_reply(driver, connection, connection->partial, kept, now);
            free(connection->partial);
            connection->partial = NULL;
            connection->partial_len = 0;
        } else {
            take_reply(driver, connection, data, piece, now);
        }
        data = end + 1;
        len -= piece + 1;
    }
}

/* Handles the close, or the reset, of a connection by the server. */
static void take_end(struct driver *driver, struct load_connection *connection)
{
    if (driver->phase != CLOSING) {
        fail_connection(driver, connection, FAILED_CLOSED_EARLY);
        return;
    }
    if (connection->partial_len > 0)
        count_failure(driver, FAILED_SURPLUS);
    drop_connection(driver, connection);
}

/* Receives once. If there is more, epoll reports the connection again. */
static void receive_replies(struct driver *driver,
                            struct load_connection *connection)
{
    ssize_t len = recv(connection->fd, driver->in, BUFFER_SIZE, 0);
    if (len > 0)
        take_replies(driver, connection, driver->in, (size_t)len, clock_ns());
    else if (len == 0 || (errno != EAGAIN && errno != EINTR))
        take_end(driver, connection);
}

/* Records that a connection could not be made. */
static void fail_connect(struct driver *driver,
                         struct load_connection *connection, int error)
{
    count_failure(driver, FAILED_CONNECT);
    if (driver->outcome->connect_errno == 0)
        driver->outcome->connect_errno = error;
    if (connection->fd >= 0) {
        (void)close(connection->fd);
        connection->fd = -1;
    }
}

/* Records that a connection was made. */
static void record_connected(struct driver *driver,
                             struct load_connection *connection)
{
    connection->open = true;
    driver->open++;
    driver->outcome->connected++;
}

/* Handles what epoll reports about a connection that is being made. */
static void end_connect(struct driver *driver,
                        struct load_connection *connection)
{
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    connection->connecting = false;
    driver->connecting--;
    if (error != 0) {
        fail_connect(driver, connection, error);
        return;
    }
    watch(driver, connection, EPOLL_CTL_MOD, EPOLLIN);
    record_connected(driver, connection);
}

/*
 * Binds a socket to another source address for each 14,000 connections to a
 * server on loopback, or the ports would run out. connect() chooses the port:
 * bind() would take one that no other connection from that address may share.
 * Returns 0, or -1 with errno set.
 */
static int bind_source(const struct driver *driver, int fd, uint32_t index)
{
    const struct address *server = &driver->plan->server;
    int one = 1;
    if (index < CONNECTIONS_PER_SOURCE || server->u.any.sa_family != AF_INET ||
        ntohl(server->u.in.sin_addr.s_addr) >> IN_CLASSA_NSHIFT !=
            IN_LOOPBACKNET)
        return 0;
    struct sockaddr_in source = {
        .sin_family = AF_INET,
        .sin_addr.s_addr =
            htonl(INADDR_LOOPBACK + index / CONNECTIONS_PER_SOURCE),
    };
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one,
                   sizeof one) != 0)
        return -1;
    return bind(fd, (struct sockaddr *)&source, sizeof source);
}

/* Starts to connect the next connection. */
static void begin_connect(struct driver *driver)
{
    const struct address *server = &driver->plan->server;
    uint32_t index = driver->asked++;
    struct load_connection *connection = &driver->connections[index];
    int one = 1;
    connection->fd = socket(server->u.any.sa_family,
                            SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 ||
        setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one,
                   sizeof one) != 0 ||
        bind_source(driver, connection->fd, index) != 0) {
        fail_connect(driver, connection, errno);
        return;
    }
    if (connect(connection->fd, &server->u.any, server->len) == 0) {
        watch(driver, connection, EPOLL_CTL_ADD, EPOLLIN);
        record_connected(driver, connection);
    } else if (errno == EINPROGRESS) {
        connection->connecting = true;
        connection->begun_ns = clock_ns();
        driver->connecting++;
        watch(driver, connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    } else {
        fail_connect(driver, connection, errno);
    }
}

/* Drops each connection that has waited for longer than the timeout. */
static void fail_timed_out(struct driver *driver, uint64_t now)
{
    for (uint32_t i = 0; i < driver->asked; i++) {
        struct load_connection *connection = &driver->connections[i];
        if (connection->connecting) {
            if (now - connection->begun_ns > driver->timeout_ns) {
                connection->connecting = false;
                driver->connecting--;
                fail_connect(driver, connection, ETIMEDOUT);
            }
        } else if (connection->open && connection->head < connection->next &&
                   now - slot(driver, connection, connection->head)->sent_ns >
                       driver->timeout_ns) {
            fail_connection(driver, connection, FAILED_TIMEOUT);
        }
    }
}

/* Takes a byte of stdin: the end of this line, not the next one, counts. */
static void take_input(struct driver *driver)
{
    char byte = '\n';
    ssize_t len = read(STDIN_FILENO, &byte, 1);
    if (len < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    driver->line_taken = len <= 0 || byte == '\n';
}

/* Handles what epoll reports about a connection. */
static void handle_event(struct driver *driver,
                         struct load_connection *connection, uint32_t events)
{
    if (connection->connecting) {
        end_connect(driver, connection);
        return;
    }
    if (connection->open && (events & ~(uint32_t)EPOLLOUT) != 0)
        receive_replies(driver, connection);
    if (connection->open)
        send_lines(driver, connection);
}

/*
 * Waits for events, for at most wait_ns. Returns their number, or -1 with
 * errno set.
 */
static int wait_for_events(struct driver *driver, uint64_t wait_ns,
                           struct epoll_event events[MAX_EVENTS])
{
    const struct timespec wait = {
        .tv_sec = (time_t)(wait_ns / SECOND),
        .tv_nsec = (long)(wait_ns % SECOND),
    };
    if (!driver->coarse) {
        int count =
            epoll_pwait2(driver->epoll, events, MAX_EVENTS, &wait, NULL);
        if (count >= 0 || errno != ENOSYS)
            return count;
        driver->coarse = true;
    }
    /* Polling through the last millisecond is better than being late. */
    return epoll_wait(driver->epoll, events, MAX_EVENTS,
                      (int)(wait_ns / 1000000));
}

/* Waits for events, at most until the given time, and handles them. Returns
 * false, with a message, on an error of this program. */
static bool handle_events(struct driver *driver, uint64_t until)
{
    struct epoll_event events[MAX_EVENTS];
    uint64_t now = clock_ns();
    if (now >= driver->tick_ns) {
        fail_timed_out(driver, now);
        uint64_t tick = driver->timeout_ns / 10;
        driver->tick_ns = now + (tick < SECOND / 4 ? tick : SECOND / 4);
    }
    if (driver->tick_ns < until)
        until = driver->tick_ns;
    int count = wait_for_events(driver, until > now ? until - now : 0, events);
    if (count < 0 && errno != EINTR) {
        perror("load: epoll_wait");
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (events[i].data.fd == ON_STDIN) {
            take_input(driver);
            continue;
        }
        handle_event(driver, &driver->connections[events[i].data.fd],
                     events[i].events);
    }
    if (driver->out_of_memory) {
        fputs("load: out of memory\n", stderr);
        return false;
    }
    return true;
}

/* Makes all connections, a few at a time. Returns as handle_events(). */
static bool connect_all(struct driver *driver)
{
    uint32_t all = driver->plan->connections;
    driver->phase = CONNECTING;
    while (driver->asked < all || driver->connecting > 0) {
        for (int i = 0; i < MAX_CONNECTING && driver->asked < all &&
                        driver->connecting < MAX_CONNECTING;
             i++) {
            begin_connect(driver);
        }
        /* Connections that were made at once leave nothing to wait for. */
        uint64_t until =
            driver->connecting < MAX_CONNECTING && driver->asked < all
                ? 0
                : FOREVER;
        if (!handle_events(driver, until))
            return false;
    }
    return true;
}

/* Open loop: releases the lines that are due. Returns when the next is. */
static uint64_t release_lines(struct driver *driver)
{
    uint32_t all = driver->plan->connections;
    while (driver->released < driver->total) {
        uint64_t intended = intended_ns(driver, driver->released);
        if (clock_ns() < intended)
            return intended;
        if (driver->released == driver->warmup)
            begin_measuring(driver, intended);
        struct load_connection *connection =
            &driver->connections[driver->released % all];
        driver->released++;
        connection->due++;
        if (!connection->open)
            continue;
        driver->waiting++;
        send_lines(driver, connection);
        if (connection->open && connection->next == connection->due)
            record_delay(driver,
                         slot(driver, connection, connection->due - 1));
    }
    return FOREVER;
}

/* One by one: lets the next open connection send its line. */
static void pass_turn(struct driver *driver)
{
    uint32_t all = driver->plan->connections;
    while (driver->in_flight_count == 0 && driver->open > 0 &&
           driver->outcome->sent < driver->total && !driver->stopped) {
        driver->turn = (driver->turn + 1) % all;
        driver->granted = true;
        send_lines(driver, &driver->connections[driver->turn]);
    }
}

/* Returns whether the last line was sent and has its reply. */
static bool all_done(const struct driver *driver)
{
    if (driver->open == 0)
        return true;
    if (driver->in_flight_count > 0)
        return false;
    if (driver->stopped)
        return true;
    if (driver->plan->rate > 0)
        return driver->released == driver->total && driver->waiting == 0;
    return driver->outcome->sent == driver->total;
}

/*
 * Starts and ends the measured time when the clock says so. Returns when to
 * call it next.
 */
static uint64_t keep_time(struct driver *driver)
{
    const struct plan *plan = driver->plan;
    uint64_t now = clock_ns();
    uint64_t next = FOREVER;
    if (plan->rate <= 0 && plan->warmup_seconds > 0 &&
        driver->measure_ns == 0 && !driver->first_round) {
        next = driver->start_ns + to_ns(plan->warmup_seconds);
        if (now >= next)
            begin_measuring(driver, now);
    }
    if (driver->measure_ns != 0 && !driver->window_over) {
        next = driver->end_ns;
        if (now >= driver->end_ns) {
            take_usage(&driver->usage_after);
            driver->window_over = true;
        }
    }
    /*
     * A closed loop goes on until the last measured line has its reply. If
     * fewer and fewer lines were in flight beside them, slow lines would look
     * faster than they are.
     */
    if (driver->window_over && plan->rate <= 0 && driver->measured_count == 0)
        driver->stopped = true;
    return next;
}

/*
 * Open loop: stops sending when the last line has been due for longer than the
 * timeout. Returns when that is.
 */
static uint64_t limit_backlog(struct driver *driver)
{
    if (driver->released < driver->total)
        return FOREVER;
    uint64_t limit = intended_ns(driver, driver->total) + driver->timeout_ns;
    if (clock_ns() >= limit)
        driver->stopped = true;
    return limit;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Closed loop: lets each connection send. */
static void send_on_all(struct driver *driver)
{
    for (uint32_t i = 0; i < driver->plan->connections; i++)
        send_lines(driver, &driver->connections[i]);
}

/*
 * Starts the timed warm-up once each connection has its first reply. Under
 * load at once, a server whose accepting thread seldom runs would leave some
 * connections waiting for many seconds, and only the others were measured.
 */
static void end_first_round(struct driver *driver)
{
    if (driver->first_round && driver->in_flight_count == 0) {
        driver->first_round = false;
        if (driver->open > 0)
            fprintf(stderr, "load: %" PRIu32 " connections, each answered\n",
                    driver->open);
        driver->start_ns = clock_ns();
        send_on_all(driver);
    }
}

/* Sends the lines and takes the replies, until the last one is there. Returns
 * as handle_events(). */
static bool run(struct driver *driver)
{
    const struct plan *plan = driver->plan;
    driver->phase = RUNNING;
    driver->stopped = false;
    driver->start_ns = clock_ns();
    if (plan->rate <= 0 && !plan->one_by_one) {
        driver->first_round = plan->warmup_seconds > 0;
        send_on_all(driver);
    }
    for (;;) {
        end_first_round(driver);
        uint64_t next = keep_time(driver);
        if (plan->one_by_one)
            pass_turn(driver);
        if (plan->rate > 0) {
            next = earlier(next, release_lines(driver));
            next = earlier(next, limit_backlog(driver));
        }
        if (all_done(driver))
            break;
        if (!handle_events(driver, next))
            return false;
    }
    driver->stopped = true;
    if (!driver->window_over)
        take_usage(&driver->usage_after);
    return true;
}

/* Stays connected until stdin has a line or ends, and says so. Returns false,
 * with a message, on an error of this program. */
static bool await_line(struct driver *driver, const char *doing)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = ON_STDIN};
    driver->line_taken = false;
    if (epoll_ctl(driver->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0) {
        /* A file or /dev/null, which has ended or has a line. With stdin
         * closed, its number may be a connection's. */
        driver->line_taken = errno != EPERM;
        while (!driver->line_taken)
            take_input(driver);
        return true;
    }
    fprintf(stderr,
            "load: %s %" PRIu32 " connections until there is a line, or the "
            "end, on standard input\n",
            doing, driver->open);
    while (!driver->line_taken)
        if (!handle_events(driver, FOREVER))
            return false;
    return epoll_ctl(driver->epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL) == 0;
}

/* Waits with all connections made for the line that starts the run. Returns as
 * await_line(). */
static bool await_start(struct driver *driver)
{
    return !driver->plan->wait || await_line(driver, "waiting with");
}

/* Stays connected after the run. Returns as await_line(). */
static bool hold(struct driver *driver)
{
    driver->phase = HOLDING;
    return !driver->plan->hold || await_line(driver, "holding");
}

/* Half-closes all connections and checks that only their end follows. Returns
 * as handle_events(). */
static bool close_all(struct driver *driver)
{
    driver->phase = CLOSING;
    for (uint32_t i = 0; i < driver->plan->connections; i++) {
        struct load_connection *connection = &driver->connections[i];
        if (!connection->open)
            continue;
        if (connection->blocked)
            watch(driver, connection, EPOLL_CTL_MOD, EPOLLIN);
        connection->blocked = false;
        /* Unsent bytes belong to a line that was answered too early. */
        connection->tail = 0;
        if (shutdown(connection->fd, SHUT_WR) != 0)
            take_end(driver, connection);
    }
    uint64_t limit = clock_ns() + driver->timeout_ns;
    while (driver->open > 0 && clock_ns() < limit)
        if (!handle_events(driver, limit))
            return false;
    driver->outcome->failures[FAILED_NOT_CLOSED] = driver->open;
    return true;
}

/* Computes how many lines to send. */
static void count_lines(struct driver *driver)
{
    const struct plan *plan = driver->plan;
    bool timed = plan->rate <= 0 && plan->warmup_seconds > 0;
    driver->warmup = plan->warmup_requests;
    if (timed)
        driver->warmup = FOREVER;
    else if (plan->rate > 0 && plan->warmup_seconds > 0)
        driver->warmup = (uint64_t)(plan->rate * plan->warmup_seconds + 0.5);
    driver->total = FOREVER;
    if (plan->requests > 0 && !timed) {
        driver->total = driver->warmup + plan->requests;
    } else if (plan->rate > 0) {
        uint64_t lines = (uint64_t)(plan->rate * plan->seconds + 0.5);
        driver->total = driver->warmup + (lines > 0 ? lines : 1);
    }
}

/* Returns whether there are descriptors for all connections; if not, prints a
 * message. */
static bool have_descriptors(const struct plan *plan)
{
    uint64_t need = (uint64_t)plan->connections + SPARE_DESCRIPTORS;
    uint64_t have = raise_descriptor_limit(need);
    if (have < need) {
        fprintf(stderr,
                "load: %" PRIu32 " connections need %" PRIu64
                " descriptors, the limit is %" PRIu64 " (ulimit -Hn)\n",
                plan->connections, need, have);
        return false;
    }
    return true;
}

/* Allocates what the run needs. Returns false, with a message, on failure. */
static bool prepare(struct driver *driver)
{
    const struct plan *plan = driver->plan;
    size_t slots = (size_t)plan->connections * plan->depth;
    if (!payload_init(&driver->payload, plan->line_size, plan->reply_size,
                      plan->key.len > 0 ? &plan->key : NULL)) {
        fputs("load: out of memory\n", stderr);
        return false;
    }
    /* One byte more than a right reply, to notice when there is one. */
    driver->partial_size = payload_reply_length(&driver->payload) + 1;
    if (driver->partial_size < sizeof "error: " + REASON_LEN)
        driver->partial_size = sizeof "error: " + REASON_LEN;
    driver->out_size = plan->line_size + 1;
    if (driver->out_size < BUFFER_SIZE)
        driver->out_size = BUFFER_SIZE;
    driver->in = malloc(BUFFER_SIZE);
    driver->out = malloc(driver->out_size);
    driver->connections =
        calloc(plan->connections, sizeof *driver->connections);
    driver->in_flight = calloc(slots, sizeof *driver->in_flight);
    if (driver->in == NULL || driver->out == NULL ||
        driver->connections == NULL || driver->in_flight == NULL) {
        fputs("load: out of memory\n", stderr);
        return false;
    }
    driver->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (driver->epoll < 0) {
        perror("load: epoll_create1");
        return false;
    }
    return have_descriptors(plan);
}

static void free_driver(struct driver *driver)
{
    for (uint32_t i = 0; i < driver->asked; i++) {
        if (driver->connections[i].fd >= 0)
            (void)close(driver->connections[i].fd);
        free(driver->connections[i].partial);
    }
    if (driver->epoll >= 0)
        (void)close(driver->epoll);
    free(driver->connections);
    free(driver->in_flight);
    free(driver->in);
    free(driver->out);
    payload_free(&driver->payload);
}

static double cpu_seconds(struct timeval before, struct timeval after)
{
    return (double)(after.tv_sec - before.tv_sec) +
           (double)(after.tv_usec - before.tv_usec) / 1e6;
}

/* Computes the figures of the outcome after the last reply. */
static void compute_figures(const struct driver *driver)
{
    const struct plan *plan = driver->plan;
    struct outcome *outcome = driver->outcome;
    if (driver->total != FOREVER)
        outcome->failures[FAILED_UNSENT] = driver->total - outcome->sent;
    if (driver->measure_ns == 0)
        return;
    outcome->began_ns = driver->measure_ns;
    if (driver->window_over) {
        outcome->seconds = plan->seconds;
        outcome->rate = (double)driver->in_window / outcome->seconds;
    } else if (driver->last_ns > driver->measure_ns) {
        double schedule =
            plan->rate > 0
                ? (double)(driver->total - driver->warmup) / plan->rate
                : 0;
        outcome->seconds =
            (double)(driver->last_ns - driver->measure_ns) / 1e9;
        if (outcome->seconds < schedule)
            outcome->seconds = schedule;
        outcome->rate = (double)outcome->samples.measured / outcome->seconds;
    }
    outcome->cpu_user = cpu_seconds(driver->usage_before.ru_utime,
                                    driver->usage_after.ru_utime);
    outcome->cpu_sys = cpu_seconds(driver->usage_before.ru_stime,
                                   driver->usage_after.ru_stime);
}

bool drive(const struct plan *plan, struct outcome *outcome)
{
    struct driver driver = {
        .plan = plan,
        .outcome = outcome,
        .epoll = -1,
        .timeout_ns = to_ns(plan->timeout),
        .end_ns = FOREVER,
        .turn = plan->connections - 1,
        .stopped = true,
    };
    *outcome = (struct outcome){0};
    count_lines(&driver);
    /* Otherwise each timed wait of the open loop ends 50 microseconds late. */
    (void)prctl(PR_SET_TIMERSLACK, 1UL);

    bool done = prepare(&driver) && connect_all(&driver) &&
                await_start(&driver) && run(&driver);
    if (done) {
        compute_figures(&driver);
        done = hold(&driver) && close_all(&driver);
    }
    free_driver(&driver);
    return done;
}
