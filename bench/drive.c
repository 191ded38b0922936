// SPDX-License-Identifier: MIT
/*
 * One thread, epoll, and as few system calls as can be: a request costs one
 * recv and one send, and a share of one epoll_pwait2.
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

enum {
    /* Connecting at a time: a burst would overflow the server's backlog. */
    MAX_CONNECTING = 64,
    /* A source address has some 28,000 ports, less those in TIME_WAIT. */
    CONNECTIONS_PER_SOURCE = 20000,
    MAX_EVENTS = 512,
    BUFFER_SIZE = 64 * 1024,
    SPARE_DESCRIPTORS = 16,
    ON_STDIN = -1,
};

static const uint64_t SECOND = 1000000000;
static const uint64_t FOREVER = UINT64_MAX;

/* A line that was sent. */
struct in_flight {
    uint64_t sent_ns;
    uint64_t from_ns; /* where its latency begins */
    bool measured;
    bool answered; /* before its turn */
};

/*
 * Lines of a connection are numbered from 0; those from head up to next are
 * in flight, and those up to due (open loop) should be.
 */
struct load_connection {
    int fd;
    bool connecting;
    bool open;
    bool blocked; /* the socket's buffer is full, epoll will tell */
    uint64_t head;
    uint64_t next;
    uint64_t due;
    uint64_t early;     /* answered ones after head */
    size_t tail;        /* bytes of line next - 1 that are still unsent */
    uint64_t begun_ns;  /* connecting since */
    char *partial;      /* the beginning of a reply */
    size_t partial_len; /* all of it, of which only so much is kept */
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
    size_t partial_size; /* of a reply, what is kept in pieces */
    int epoll;
    enum phase phase;
    uint32_t asked;      /* connections that were begun */
    uint32_t connecting; /* of those, not yet there */
    uint32_t open;
    uint64_t timeout_ns;
    uint64_t tick_ns; /* when timeouts are looked for next */
    uint64_t in_flight_count;
    uint64_t measured_count; /* of those in flight, the measured ones */
    uint64_t warmup;         /* lines before the measured ones, if known */
    uint64_t total;          /* lines to be sent, warm-up and all, if known */
    uint64_t start_ns;       /* of the warm-up */
    uint64_t measure_ns;     /* when that is over; 0: it is not yet */
    uint64_t end_ns;         /* of the measured time, if plan->seconds says */
    uint64_t last_ns;        /* the last measured reply */
    uint64_t in_window;      /* right replies from measure_ns to end_ns */
    uint64_t released;       /* open loop: lines that are due, in all */
    uint64_t waiting;        /* of those, not yet sent, on open connections */
    uint32_t turn;           /* one by one: whose line it is */
    bool granted;            /* and that it may be sent */
    bool first_round;        /* one line each, before the warm-up's seconds */
    bool stopped;            /* no further line may be sent, or none yet */
    bool window_over;
    bool out_of_memory;
    bool stdin_ended;
    bool coarse; /* no epoll_pwait2: before Linux 5.11, and in valgrind */
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

/* Tell epoll what to wait for. A failure shows as a timeout later. */
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

/* The measured time begins. */
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

/* Return when line i of all of them should be sent in the open loop. */
static uint64_t intended_ns(const struct driver *driver, uint64_t i)
{
    return driver->start_ns + to_ns((double)i / driver->plan->rate);
}

/* Tell whether line number, the next but so many, may be sent now. */
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

/* Enter the connection's next line as sent. */
static void enter_line(struct driver *driver,
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

/* Note how late a line is that had to wait for nothing but this program. */
static void note_lateness(struct driver *driver, const struct in_flight *line)
{
    double late = (double)(line->sent_ns - line->from_ns) / 1e9;
    driver->outcome->on_time++;
    driver->outcome->late_sum += late;
    if (late > driver->outcome->late_max)
        driver->outcome->late_max = late;
}

/* A line is in flight no longer. */
static void leave_flight(struct driver *driver, const struct in_flight *line)
{
    driver->in_flight_count--;
    if (line->measured)
        driver->measured_count--;
}

/* Give the connection up and close its descriptor. */
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
 * A connection is lost: count each line in flight as failure, but as dropped
 * when a later one was answered.
 */
static void lose_connection(struct driver *driver,
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
        leave_flight(driver, line);
    }
    connection->head = connection->next;
    drop_connection(driver, connection);
}

/*
 * Fill the output buffer: the rest of the line that was cut, then the next
 * lines that may go. Returns how many bytes it holds; those from *begin on
 * are to be sent.
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

/* Enter what a send took: the rest of a line, whole lines, part of one. */
static void enter_sent(struct driver *driver,
                       struct load_connection *connection, size_t len,
                       uint64_t now)
{
    size_t line_len = driver->plan->line_size + 1;
    size_t rest = connection->tail < len ? connection->tail : len;
    connection->tail -= rest;
    len -= rest;
    while (len > 0) {
        enter_line(driver, connection, now);
        size_t taken = len < line_len ? len : line_len;
        connection->tail = line_len - taken;
        len -= taken;
    }
}

/* Send whatever the connection may send now. */
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
            enter_sent(driver, connection, (size_t)sent, now);
        } else if (errno == EINTR) {
            continue;
        } else if (errno != EAGAIN) {
            lose_connection(driver, connection, FAILED_CLOSED_EARLY);
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

/* Count an error reply by its reason. */
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

/* A line was answered in whatever way: it is no longer in flight. */
static void settle_line(struct driver *driver,
                        struct load_connection *connection, uint64_t number)
{
    struct in_flight *line = slot(driver, connection, number);
    leave_flight(driver, line);
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

/* Tell whether a later line of the connection was answered already. */
static bool overtaken(const struct driver *driver,
                      const struct load_connection *connection,
                      uint64_t number)
{
    uint64_t i = connection->early > 0 ? number + 1 : connection->next;
    while (i < connection->next && !slot(driver, connection, i)->answered)
        i++;
    return i < connection->next;
}

/* A line got its own reply. Keep the latency unless it came too late. */
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

/* Judge one reply line and note what it says about which line. */
static void take_reply(struct driver *driver,
                       struct load_connection *connection, const char *reply,
                       size_t len, uint64_t now)
{
    static const enum failure FAILURE_OF[] = {
        [REPLY_MIXED_UP] = FAILED_MIXED_UP,
        [REPLY_PREFIX] = FAILED_PREFIX,
        [REPLY_WRONG] = FAILED_WRONG,
    };
    uint64_t head = connection->head;
    uint64_t other = 0;
    bool asked = head < connection->next;
    enum verdict verdict =
        payload_judge(&driver->payload, index_of(driver, connection), head,
                      reply, len, &other);

    driver->outcome->replies++;
    if (verdict == REPLY_ERROR) {
        size_t skip = sizeof "error: " - 1;
        count_reason(driver->outcome, reply + skip, len - skip);
        if (asked)
            settle_line(driver, connection, head);
    } else if (!asked) {
        count_failure(driver, FAILED_SURPLUS);
    } else if (verdict == REPLY_RIGHT) {
        take_right(driver, connection, head, now);
    } else if (verdict != REPLY_OTHER_LINE) {
        count_failure(driver, FAILURE_OF[verdict]);
        settle_line(driver, connection, head);
    } else if (other > head && other < connection->next &&
               !slot(driver, connection, other)->answered) {
        take_right(driver, connection, other, now);
    } else {
        /* Its line had a reply before, or was never sent. */
        count_failure(driver, FAILED_SURPLUS);
    }
}

/* Keep a piece of a reply until the rest of it comes. */
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
    /* Of a reply that is too long to be right, more is of no use. */
    if (connection->partial_len < driver->partial_size) {
        size_t room = driver->partial_size - connection->partial_len;
        memcpy(connection->partial + connection->partial_len, piece,
               len < room ? len : room);
    }
    connection->partial_len += len;
    return true;
}

/* Take what was received apart into reply lines. */
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

/* The server closed, or reset, the connection. */
static void take_end(struct driver *driver, struct load_connection *connection)
{
    if (driver->phase != CLOSING) {
        lose_connection(driver, connection, FAILED_CLOSED_EARLY);
        return;
    }
    if (connection->partial_len > 0)
        count_failure(driver, FAILED_SURPLUS);
    drop_connection(driver, connection);
}

/* Receive once; what is left makes epoll report the connection again. */
static void receive_replies(struct driver *driver,
                            struct load_connection *connection)
{
    ssize_t len = recv(connection->fd, driver->in, BUFFER_SIZE, 0);
    if (len > 0)
        take_replies(driver, connection, driver->in, (size_t)len, clock_ns());
    else if (len == 0 || (errno != EAGAIN && errno != EINTR))
        take_end(driver, connection);
}

/* A connection could not be made. */
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

/* A connection is there. */
static void enter_open(struct driver *driver,
                       struct load_connection *connection)
{
    connection->open = true;
    driver->open++;
    driver->outcome->connected++;
}

/* epoll reports a connection that was being made. */
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
    enter_open(driver, connection);
}

/*
 * Towards a server on loopback, take another source address for each 20,000
 * connections, or the ports would run out. connect() chooses the port: bind()
 * would take one that no other connection of that address may share.
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

/* Begin to connect the next connection. */
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
        enter_open(driver, connection);
    } else if (errno == EINPROGRESS) {
        connection->connecting = true;
        connection->begun_ns = clock_ns();
        driver->connecting++;
        watch(driver, connection, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    } else {
        fail_connect(driver, connection, errno);
    }
}

/* Give up what has waited for longer than the timeout. */
static void find_timeouts(struct driver *driver, uint64_t now)
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
            lose_connection(driver, connection, FAILED_TIMEOUT);
        }
    }
}

/* Deal with what epoll reports about one connection. */
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
 * Wait for events, for so long at most. Returns their number, or -1 with errno
 * set.
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
    /* Spin for the last millisecond rather than be late. */
    return epoll_wait(driver->epoll, events, MAX_EVENTS,
                      (int)(wait_ns / 1000000));
}

/* Wait for events until the given time at most, and handle them. */
static bool handle_events(struct driver *driver, uint64_t until)
{
    struct epoll_event events[MAX_EVENTS];
    uint64_t now = clock_ns();
    if (now >= driver->tick_ns) {
        find_timeouts(driver, now);
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
            driver->stdin_ended = true;
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

/* Connect all of them, a few at a time. */
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
        /* What came at once leaves nothing to wait for. */
        uint64_t until =
            driver->connecting < MAX_CONNECTING && driver->asked < all
                ? 0
                : FOREVER;
        if (!handle_events(driver, until))
            return false;
    }
    return true;
}

/* Open loop: make due what is due, and return when the next one will be. */
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
            note_lateness(driver,
                          slot(driver, connection, connection->due - 1));
    }
    return FOREVER;
}

/* One by one: let the next connection that is open send its line. */
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

/* Tell whether the last line was sent and has its reply. */
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
 * Begin and end the measured time when the clock says so. Returns when it has
 * to be looked at next.
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
     * A closed loop goes on until the last of the measured lines has its
     * reply: with fewer and fewer lines beside them the slow ones would look
     * faster than they are.
     */
    if (driver->window_over && plan->rate <= 0 && driver->measured_count == 0)
        driver->stopped = true;
    return next;
}

/*
 * Open loop: once the last line has been due for as long as a reply may take,
 * what still waits stays unsent. Returns when that will be.
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

/* Closed loop: let each connection send. */
static void send_on_all(struct driver *driver)
{
    for (uint32_t i = 0; i < driver->plan->connections; i++)
        send_lines(driver, &driver->connections[i]);
}

/*
 * Once each connection has its first reply, begin the warm-up's seconds.
 * Under load right away, a server whose accepting thread gets its turn seldom
 * would keep some of the connections waiting for many seconds, and the others
 * alone would be measured.
 */
static void end_first_round(struct driver *driver)
{
    if (driver->first_round && driver->in_flight_count == 0) {
        driver->first_round = false;
        driver->start_ns = clock_ns();
        send_on_all(driver);
    }
}

/* Send the lines and take the replies, until the last one is there. */
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

/* Stay connected until there is a line, or the end, on standard input. */
static bool hold(struct driver *driver)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = ON_STDIN};
    driver->phase = HOLDING;
    if (epoll_ctl(driver->epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0) {
        /* A file or /dev/null, which is ready at once. */
        return true;
    }
    fprintf(stderr,
            "load: holding %" PRIu32 " connections until there is a line, or "
            "the end, on standard input\n",
            driver->open);
    while (!driver->stdin_ended)
        if (!handle_events(driver, FOREVER))
            return false;
    return epoll_ctl(driver->epoll, EPOLL_CTL_DEL, STDIN_FILENO, NULL) == 0;
}

/* Half-close all connections and see that nothing comes but their end. */
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
        /* Unsent bytes are of a line that was answered before its end. */
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

/* Work out how many lines there are to be. */
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

/* See that there are as many descriptors as the connections need. */
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

/* Allocate what the run needs. False, with a message, when that fails. */
static bool prepare(struct driver *driver)
{
    const struct plan *plan = driver->plan;
    size_t slots = (size_t)plan->connections * plan->depth;
    /* One byte more than is right, to see when there is one. */
    driver->partial_size = sizeof "echo: " + plan->reply_size;
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
    if (!payload_init(&driver->payload, plan->line_size, plan->reply_size) ||
        driver->in == NULL || driver->out == NULL ||
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

static void give_back(struct driver *driver)
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

/* Work the figures out once the last reply is there. */
static void conclude(const struct driver *driver)
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
    /* Else each timed wait of the open loop ends 50 microseconds late. */
    (void)prctl(PR_SET_TIMERSLACK, 1UL);

    bool done = prepare(&driver) && connect_all(&driver) && run(&driver);
    if (done) {
        conclude(&driver);
        done = (!plan->hold || hold(&driver)) && close_all(&driver);
    }
    give_back(&driver);
    return done;
}
