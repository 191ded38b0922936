/*
 * fuzz_fetch.c - raw upstream answers through fetch, against http_oracle
 *
 * An input is the longest body, the lengths of the pieces that bytes come in,
 * and up to MOST_ANSWERS answers, each a byte of enum how and what follows up
 * to the next MARK. The same fetcher gets them one after another, and at last
 * a good one, which must be served whatever came before. libcurl is the
 * system's; its network and its clock are ours, so a timeout takes no time.
 *
 * Under test: fetch.c lib/response.c
 * libFuzzer: -max_len=2048
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* as libcurl's prototypes: MSG_*, syscall */
#include "fuzz.h"
#include "http_oracle.h"

#include "../../fetch.h"
#include "../../lib/log.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 2048 /* bytes of an input */
#define MOST_ANSWERS 10
#define MOST_SENT (2 * ORACLE_MOST) /* bytes over one connection */
#define MOST_FDS 1024
#define MARK "\xfe\xfe"
#define TIMEOUT_MS 1000
#define START_SECONDS 1000 /* our clock at the start of an input */
#define SMALLEST_READ 1024 /* libcurl's smallest buffer, in bytes */

/* The good answer. */
#define GOOD_BODY "good\n"
#define GOOD "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" GOOD_BODY

/* How an answer comes. */
enum how {
    CLOSES = 1,  /* the upstream closes after it */
    RESETS = 2,  /* or resets */
    UNASKED = 4, /* it comes before its request; the request gets GOOD */
    LATER = 8,   /* a minute passes before */
    WHOLE = 16   /* in one piece */
};

/* An upstream's end of a connection. */
struct line {
    bool connected;
    char data[MOST_SENT];      /* sent to the client */
    size_t len, visible, read; /* visible: has arrived */
    bool in_pieces;
    bool closed, reset;
    bool unusable;    /* no request may be sent over it any more */
    unsigned ends_at; /* bytes of "\r\n\r\n", the end of a request, seen */
    unsigned requests;
};

/* What the upstream has for the request that is due. */
struct due {
    const char *data;
    size_t len;
    unsigned how;
    struct answer answer;
    unsigned requests; /* seen */
    bool again; /* a kept connection closes: the request must come again */
};

static struct line *lines[MOST_FDS]; /* by descriptor */
static int current = -1;             /* the descriptor connected last */
static struct due due;
static struct pieces pieces;
static long long skipped_ns; /* since the start of the input */

/* The log is not under test, and slow. */
void log_line(const char *format, ...)
{
    (void)format;
}

static struct line *find_line(int fd)
{
    return fd >= 0 && fd < MOST_FDS ? lines[fd] : NULL;
}

/* Sends to the client, as far as there is room. */
static void deliver(struct line *line, const char *data, size_t len,
                    unsigned how)
{
    REQUIRE(len <= sizeof line->data - line->len);
    memcpy(line->data + line->len, data, len);
    line->len += len;
    line->in_pieces = !(how & WHOLE);
    if (!line->in_pieces)
        line->visible = line->len;
    line->closed = how & (CLOSES | RESETS);
    line->reset = how & RESETS;
}

/* Returns whether a line of an answer begins with NUL. */
static bool has_nul_line(const char *data, size_t len)
{
    return len > 0 && memmem(data, len, "\n\0", 2) != NULL;
}

/* Answers the request that has come. */
static void answer_request(struct line *line)
{
    REQUIRE(!line->unusable && !line->closed);
    line->requests++;
    if (due.requests++ > 0) {
        /* libcurl may try a GET again if a kept connection closes before a
         * whole line (RFC 9110 9.2.2); nothing else may make two requests of
         * one. */
        REQUIRE(due.requests == 2 && memchr(due.data, '\n', due.len) == NULL);
        REQUIRE(due.how & (CLOSES | RESETS));
        REQUIRE(line->requests == 1);
        due.data = GOOD;
        due.len = strlen(GOOD);
        due.how = WHOLE;
    } else {
        due.again = line->requests > 1 && due.len == 0 &&
                    (due.how & (CLOSES | RESETS)) != 0;
    }
    oracle_read(due.data, due.len, (due.how & (CLOSES | RESETS)) == CLOSES,
                &due.answer);
    line->unusable =
        !has_nul_line(due.data, due.len) &&
        (!due.answer.persists || due.answer.used != due.len || line->closed);
    deliver(line, due.data, due.len, due.how);
}

/* The calls of libcurl and fetch.c: a program's own take precedence over the C
 * library's. Other descriptors are libcurl's own pipe. */

int socket(int domain, int type, int protocol)
{
    int fd = (int)syscall(SYS_socket, domain, type, protocol);

    REQUIRE(fd < MOST_FDS);
    return fd;
}

int connect(int fd, const struct sockaddr *address, socklen_t len)
{
    REQUIRE(fd >= 0 && fd < MOST_FDS && lines[fd] == NULL);
    REQUIRE(address->sa_family == AF_INET &&
            len == sizeof(struct sockaddr_in));
    lines[fd] = calloc(1, sizeof *lines[fd]);
    REQUIRE(lines[fd] != NULL);
    current = fd;
    return 0;
}

int getpeername(int fd, struct sockaddr *restrict address,
                socklen_t *restrict len)
{
    static const struct sockaddr_in peer = {.sin_family = AF_INET};

    REQUIRE(find_line(fd) != NULL && *len >= sizeof peer);
    memcpy(address, &peer, sizeof peer);
    *len = sizeof peer;
    return 0;
}

int getsockopt(int fd, int level, int name, void *restrict value,
               socklen_t *restrict len)
{
    const struct line *line = find_line(fd);
    struct tcp_info *info = value;

    if (line == NULL || level != IPPROTO_TCP || name != TCP_INFO)
        return (int)syscall(SYS_getsockopt, fd, level, name, value, len);
    REQUIRE(*len >= sizeof *info);
    memset(info, 0, sizeof *info);
    info->tcpi_bytes_received = line->visible;
    info->tcpi_state = 1; /* TCP_ESTABLISHED */
    if (line->closed && line->visible == line->len) {
        info->tcpi_state = line->reset ? 7 : 8; /* TCP_CLOSE, _CLOSE_WAIT */
        if (!line->reset)
            info->tcpi_bytes_received++; /* an end counts as a byte */
    }
    return 0;
}

int close(int fd)
{
    if (find_line(fd) != NULL) {
        free(lines[fd]);
        lines[fd] = NULL;
        if (current == fd)
            current = -1;
    }
    return (int)syscall(SYS_close, fd);
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
    static const char end[] = "\r\n\r\n";
    struct line *line = find_line(fd);

    if (line == NULL)
        return syscall(SYS_sendto, fd, data, len, flags, NULL, 0);
    for (size_t i = 0; i < len; i++) {
        char byte = ((const char *)data)[i];
        line->ends_at =
            byte == end[line->ends_at] ? line->ends_at + 1 : byte == end[0];
        if (line->ends_at == strlen(end)) {
            line->ends_at = 0;
            answer_request(line);
        }
    }
    return (ssize_t)len;
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    struct line *line = find_line(fd);

    if (line == NULL)
        return syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL);
    size_t len = line->visible - line->read;
    if (len == 0 && line->visible == line->len && line->closed) {
        if (!line->reset)
            return 0;
        errno = ECONNRESET;
        return -1;
    }
    if (len == 0) {
        errno = EAGAIN;
        return -1;
    }
    if (len > size)
        len = size;
    memcpy(data, line->data + line->read, len);
    if (!(flags & MSG_PEEK))
        line->read += len;
    return (ssize_t)len;
}

/* Lets the next piece arrive. Returns false when all have. */
static bool let_arrive(struct line *line)
{
    if (line->visible == line->len)
        return false;
    line->visible += next_piece(&pieces, line->len - line->visible);
    return true;
}

/* Sets what is ready; arrive: lets the next pieces arrive first. */
static int find_ready(struct pollfd *fds, nfds_t count, bool *arrived)
{
    int ready = 0;

    for (nfds_t i = 0; i < count; i++) {
        struct line *line = find_line(fds[i].fd);
        fds[i].revents = 0;
        if (line == NULL)
            continue;
        if (line->read == line->visible && (fds[i].events & POLLIN))
            *arrived |= let_arrive(line);
        short events = POLLOUT | POLLWRNORM;
        if (line->read < line->visible ||
            (line->closed && line->visible == line->len))
            events |= POLLIN | POLLRDNORM;
        fds[i].revents = (short)(fds[i].events & events);
        ready += fds[i].revents != 0;
    }
    return ready;
}

int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    bool arrived = false;
    int ready = find_ready(fds, count, &arrived);

    if (ready == 0 && timeout_ms != 0) {
        REQUIRE(timeout_ms > 0);
        skipped_ns += timeout_ms * 1000000LL;
    }
    return ready;
}

/* No time passes but what a wait takes, however busy the machine is. Only
 * libFuzzer's own clock is the real one: it must not miss any time. */
int clock_gettime(clockid_t id, struct timespec *now)
{
    if (id == CLOCK_REALTIME)
        return (int)syscall(SYS_clock_gettime, id, now);
    now->tv_sec = START_SECONDS + skipped_ns / 1000000000;
    now->tv_nsec = skipped_ns % 1000000000;
    return 0;
}

/* Ends the process unless the reason is one that the oracle's answer can
 * have. */
static void check_outcome(enum reason reason, long status,
                          const struct buffer *body, size_t max_body)
{
    const struct answer *answer = &due.answer;
    const bool good_status = answer->status / 100 == 2;
    const enum reason ended =
        due.how & (CLOSES | RESETS) ? REASON_CLOSED_EARLY : REASON_TIMED_OUT;
    enum reason too_large = good_status ? REASON_TOO_LARGE : REASON_RETURNED;
    const bool in_one_read = due.how & WHOLE && due.len <= SMALLEST_READ;

    /* For these two see the oracle's list. */
    if (answer->verdict == ORACLE_NOT_HTTP && has_nul_line(due.data, due.len))
        return;
    if (answer->verdict == ORACLE_WHOLE && answer->used < due.len &&
        !in_one_read && reason == REASON_BAD_HTTP)
        return;
    if (reason == REASON_RETURNED)
        REQUIRE(status == answer->status);
    if (reason != REASON_NONE)
        REQUIRE(body->len == 0);
    if (answer->may_be_bad && reason == REASON_BAD_HTTP)
        return;
    if (answer->verdict == ORACLE_WHOLE) {
        REQUIRE(status == answer->status);
        if (!good_status) {
            REQUIRE(reason == REASON_RETURNED);
        } else if (answer->body_due > max_body) {
            REQUIRE(reason == REASON_TOO_LARGE);
        } else {
            REQUIRE(reason == REASON_NONE);
            REQUIRE(body->len == answer->body_len);
            REQUIRE(body->len == 0 ||
                    memcmp(body->data, answer->body, body->len) == 0);
        }
    } else if (answer->body_due > max_body) {
        REQUIRE(
            reason == too_large || reason == ended ||
            (answer->verdict == ORACLE_NOT_HTTP && reason == REASON_BAD_HTTP));
    } else if (answer->verdict == ORACLE_INCOMPLETE) {
        REQUIRE(reason == ended);
    } else {
        /* A line that is wrong but never ends may be waited for. */
        REQUIRE(reason == REASON_BAD_HTTP || reason == ended);
    }
}

/* One fetch, with what the upstream has for it. */
static void try_answer(struct fetcher *fetcher, const char *data, size_t len,
                       unsigned how, size_t max_body)
{
    struct line *line = find_line(current);
    struct buffer body = {0};
    unsigned handle = 0;
    long status;

    if (how & LATER)
        skipped_ns += 61 * 1000000000LL;
    if (line != NULL) /* what was on its way has arrived */
        line->visible = line->len;
    if (how & UNASKED) {
        if (line != NULL && !line->closed &&
            len <= sizeof line->data - line->len) {
            deliver(line, data, len, how | WHOLE);
            line->unusable |= len > 0;
        }
        data = GOOD;
        len = strlen(GOOD);
        how = WHOLE;
    }
    due = (struct due){.data = data, .len = len, .how = how};
    enum reason reason = fetch(fetcher, &handle, "x", 1, &body, &status);
    REQUIRE(due.requests > (due.again ? 1U : 0U));
    check_outcome(reason, status, &body, max_body);
    free(body.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fetcher *idle; /* keeps libcurl started */
    struct fetch_options options = {.url = "http://127.0.0.1/text",
                                    .timeout_ms = TIMEOUT_MS,
                                    .connect_timeout_ms = TIMEOUT_MS,
                                    .max_handles = 1,
                                    .keepalive = true};
    struct input input = {.data = data, .len = size};
    const char *error;

    if (size > MOST)
        return 0;
    if (idle == NULL) {
        options.max_body = 1;
        idle = fetcher_create(&options, &error);
        REQUIRE(idle != NULL);
    }
    unsigned most = take_byte(&input);
    options.max_body = strlen(GOOD_BODY) + most % 128;
    options.keepalive = most < 240;
    pieces = take_pieces(&input);
    struct fetcher *fetcher = fetcher_create(&options, &error);
    REQUIRE(fetcher != NULL);

    for (int i = 0; i < MOST_ANSWERS && input.len > 0; i++) {
        unsigned how = take_byte(&input);
        const char *start = (const char *)input.data;
        const char *mark = memmem(start, input.len, MARK, strlen(MARK));
        size_t len = mark != NULL ? (size_t)(mark - start) : input.len;
        try_answer(fetcher, start, len, how, options.max_body);
        size_t used = len + (mark != NULL ? strlen(MARK) : 0);
        input.data += used;
        input.len -= used;
    }
    try_answer(fetcher, GOOD, strlen(GOOD), WHOLE, options.max_body);
    fetcher_destroy(fetcher);
    REQUIRE(current == -1);
    skipped_ns = 0;
    return 0;
}
