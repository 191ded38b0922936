/*
 * fuzz_lines.c - the line reader against a plain one that keeps all bytes
 *
 * An input says whether to try the cutter or read_line, the limit, and how the
 * bytes that follow come: the lengths of the pieces; for read_line, which runs
 * over a network and a clock of our own, also when they come and what fails.
 *
 * Under test: lib/lines.c
 * libFuzzer: -max_len=2048 -len_control=0
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* as lines.c */
#include "fuzz.h"

#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void *network_realloc(void *data, size_t size);
static int network_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
static int network_ioctl(int fd, unsigned long request, ...);
static ssize_t network_recv(int fd, void *data, size_t size, int flags);
static int network_shutdown(int fd, int how);

#define realloc network_realloc
#define poll network_poll
#define ioctl network_ioctl
#define recv network_recv
#define shutdown network_shutdown
#define clock_ms network_clock_ms
#include "../../lib/lines.c"
#undef realloc

#define MOST_IDLE 512 /* bytes of a cutter that has nothing to cut */

/* The plain reader: all bytes, and the line that it expects next. */
struct expected {
    const char *data;
    size_t limit;
    size_t start;  /* of that line */
    bool answered; /* it was found too long, or given up */
    unsigned long breaks;
};

/* Finds the next line in the first len bytes. Returns false if it is not
 * known yet. */
static bool expect_line(struct expected *expected, size_t len,
                        struct line *line)
{
    while (expected->start < len) {
        const char *text = expected->data + expected->start;
        size_t most = len - expected->start;
        const char *lf = memchr(text, '\n', most);

        if (lf == NULL) {
            /* One byte over the limit may be the CR of a line break. */
            if (expected->answered || most <= expected->limit ||
                (most == expected->limit + 1 && text[most - 1] == '\r'))
                return false;
            expected->answered = true;
            *line = (struct line){.reason = REASON_LINE_TOO_LONG};
            return true;
        }
        size_t text_len = (size_t)(lf - text);
        expected->start += text_len + 1;
        expected->breaks++;
        if (expected->answered) {
            expected->answered = false;
            continue;
        }
        if (text_len > 0 && text[text_len - 1] == '\r')
            text_len--;
        *line = (struct line){.text = text, .len = text_len};
        if (text_len > expected->limit)
            line->reason = REASON_LINE_TOO_LONG;
        return true;
    }
    return false;
}

/* Finds the line that was begun in the first len bytes and is given up. */
static bool expect_last(struct expected *expected, size_t len,
                        enum reason reason, struct line *line)
{
    if (expected->start == len || expected->answered)
        return false;
    expected->answered = true;
    *line = (struct line){.text = expected->data + expected->start,
                          .len = len - expected->start,
                          .reason = reason};
    if (reason == REASON_NONE && line->len > expected->limit)
        line->reason = REASON_LINE_TOO_LONG;
    return true;
}

static void compare(const struct line *line, const struct line *expected)
{
    REQUIRE(line->reason == expected->reason);
    if (line->reason != REASON_NONE)
        return;
    REQUIRE(line->len == expected->len);
    REQUIRE(memcmp(line->text, expected->text, line->len) == 0);
}

static void try_cutter(struct input input)
{
    static const enum reason reasons[] = {REASON_NONE, REASON_NO_MEMORY,
                                          REASON_LINE_TIMED_OUT,
                                          REASON_SERVER_STOPPING};
    struct expected expected = {.limit = 1 + take_short(&input) % 1100};
    enum reason reason = reasons[take_byte(&input) % 4];
    size_t give_up = take_short(&input) % 2048;
    struct pieces pieces = take_pieces(&input);
    const size_t most = expected.limit + strlen("\r\n");
    struct lines lines;
    struct line line, due;
    size_t len = 0;

    expected.data = (const char *)input.data;
    REQUIRE(lines_init(&lines, expected.limit));
    for (;;) {
        while (lines_next(&lines, &line)) {
            REQUIRE(expect_line(&expected, len, &due));
            compare(&line, &due);
        }
        REQUIRE(!expect_line(&expected, len, &due));
        REQUIRE(lines.taken == expected.breaks);
        if (len >= give_up || len == input.len) {
            /* Once before the end, perhaps, and once there. */
            give_up = SIZE_MAX;
            bool due_now = expect_last(
                &expected, len, len < input.len ? reason : REASON_NONE, &due);
            REQUIRE(lines_last(&lines, len < input.len ? reason : REASON_NONE,
                               &line) == due_now);
            if (due_now)
                compare(&line, &due);
        }
        if (len == input.len)
            break;

        size_t room = 0;
        char *place = lines_room(&lines, &room);
        REQUIRE(place != NULL && room > 0);
        REQUIRE(lines.size <= (most > MOST_IDLE ? most : MOST_IDLE));
        size_t piece = next_piece(&pieces, input.len - len);
        piece = piece < room ? piece : room;
        memcpy(place, input.data + len, piece);
        lines_add(&lines, piece);
        len += piece;
    }
    REQUIRE(!lines_last(&lines, REASON_NONE, &line));
    lines_free(&lines);
}

/* What comes next over the connection. */
enum kind { BYTES, SIGNAL, RESET, END };

#define FD 3

/* The connection of the reader that is tried. */
static struct {
    struct reader *reader;
    void (*stop)(struct reader *reader);
    struct expected *expected;
    struct input input;  /* bytes that are still to come */
    struct input script; /* two bytes each: what is next, and when */
    unsigned at;         /* in the script */
    enum kind kind;      /* what is next, */
    size_t len;          /* how many bytes of it, */
    long delay;          /* in how many ms */
    long long now;
    long long came[2048]; /* when each byte was received */
    long long last_came;
    size_t received;
    int calls_to_stop; /* calls of poll and recv until the server stops */
    bool deaf, calls_fail;
    size_t most;      /* bytes that may be received at all */
    int grow_to_fail; /* calls of realloc until one fails */
    bool out_of_memory, ended, reset;
} network;

/* Reads the script's next step. */
static void next_step(void)
{
    unsigned what = 0, len = 255;

    if (network.script.len >= 2) {
        const uint8_t *step =
            network.script.data + network.at++ % (network.script.len / 2) * 2;
        what = step[0];
        len = step[1];
    }
    network.delay = what / 8;
    network.kind = what % 8 == 7 ? RESET : what % 8 == 6 ? SIGNAL : BYTES;
    network.len = len + 1 < network.input.len ? len + 1 : network.input.len;
    if (network.kind == BYTES && network.len == 0)
        network.kind = END;
    /* Signals alone would come for ever. */
    if (network.kind == SIGNAL && network.at > 64)
        network.kind = RESET;
}

long long network_clock_ms(void)
{
    return network.now;
}

static void *network_realloc(void *data, size_t size)
{
    if (network.grow_to_fail > 0 && --network.grow_to_fail == 0) {
        network.out_of_memory = true;
        return NULL;
    }
    return realloc(data, size);
}

static int network_ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    REQUIRE(fd == FD && request == FIONREAD);
    va_start(args, request);
    int *unread = va_arg(args, int *);
    va_end(args);
    if (network.calls_fail)
        return -1;
    bool some = network.kind == BYTES && network.delay == 0;
    *unread = some ? (int)network.len : 0;
    network.most = network.received + (size_t)*unread;
    return 0;
}

static int network_shutdown(int fd, int how)
{
    REQUIRE(fd == FD && how == SHUT_RD);
    network.deaf = true;
    if (!network.calls_fail)
        return 0;
    network.most = network.received;
    return -1;
}

/* Returns when the line that has begun or the silence is over, or -1 if it may
 * last for ever. */
static long long deadline(void)
{
    struct line line;

    REQUIRE(!expect_line(network.expected, network.received, &line));
    bool begun = network.expected->start < network.received;
    long timeout = begun ? network.reader->line_timeout_ms
                         : network.reader->idle_timeout_ms;
    if (timeout == 0)
        return -1;
    return timeout +
           (begun ? network.came[network.expected->start] : network.last_came);
}

/* Lets the server stop, if it is time. */
static void stop_perhaps(void)
{
    if (network.calls_to_stop == 0 || --network.calls_to_stop > 0)
        return;
    network.stop(network.reader);
}

static int network_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    REQUIRE(count == 1 && fds->fd == FD && timeout_ms >= 0);
    if (fds->events == POLLRDHUP)
        return network.kind == END && network.delay == 0;
    REQUIRE(fds->events == POLLIN);
    REQUIRE(network.now + timeout_ms == deadline());
    stop_perhaps();
    if (network.deaf)
        return 1;
    if (network.delay > timeout_ms) {
        network.now += timeout_ms;
        network.delay -= timeout_ms;
        return 0;
    }
    network.now += network.delay;
    network.delay = 0;
    if (network.kind == RESET && network.calls_fail) {
        network.reset = true;
        errno = ENOMEM;
        return -1;
    }
    if (network.kind != SIGNAL)
        return 1;
    next_step();
    errno = EINTR;
    return -1;
}

static ssize_t network_recv(int fd, void *data, size_t size, int flags)
{
    REQUIRE(fd == FD && size > 0 && flags == 0);
    if (network.delay > 0) {
        REQUIRE(network.deaf || deadline() < 0); /* else poll has waited */
        stop_perhaps();
        if (!network.deaf)
            network.now += network.delay;
        else
            network.kind = END;
        network.delay = 0;
    }
    switch (network.kind) {
    case SIGNAL:
        next_step();
        errno = EINTR;
        return -1;
    case RESET:
        network.reset = true;
        errno = ECONNRESET;
        return -1;
    case END:
        network.ended = true;
        return 0;
    case BYTES:
        break;
    }
    size_t len = network.len < size ? network.len : size;
    memcpy(data, network.input.data, len);
    network.input.data += len;
    network.input.len -= len;
    for (size_t i = 0; i < len; i++)
        network.came[network.received++] = network.now;
    REQUIRE(network.received <= network.most);
    network.last_came = network.now;
    network.len -= len;
    if (network.len == 0)
        next_step();
    return (ssize_t)len;
}

/* Finds what read_line must have returned, the reader's lines being used up.
 */
static bool expect_end(const struct reader *reader, struct line *line)
{
    struct expected *expected = network.expected;

    switch (reader->end) {
    case READER_OPEN:
        REQUIRE(network.out_of_memory);
        network.out_of_memory = false;
        REQUIRE(
            expect_last(expected, network.received, REASON_NO_MEMORY, line));
        return true;
    case READER_ENDED:
        REQUIRE(network.reset || (network.ended && !network.deaf));
        return !network.reset &&
               expect_last(expected, network.received, REASON_NONE, line);
    case READER_OVERDUE:
        REQUIRE(network.now == deadline());
        return expect_last(expected, network.received, REASON_LINE_TIMED_OUT,
                           line);
    case READER_STOPPED:
        REQUIRE(network.deaf && network.received == network.most);
        return expect_last(expected, network.received, REASON_SERVER_STOPPING,
                           line);
    }
    abort();
}

static void try_reader(struct input input)
{
    struct expected expected = {.limit = 1 + take_short(&input) % 1100};
    struct reader reader;
    struct line line = {.len = 0}, due = {.len = 0};
    bool more;

    long line_timeout_ms = (long)take_byte(&input) % 64;
    long idle_timeout_ms = (long)take_byte(&input) % 64;
    unsigned failures = take_byte(&input);
    size_t script_len = take_byte(&input) % 32 * 2UL;
    if (script_len > input.len)
        script_len = input.len;
    network.reader = &reader;
    network.stop = reader_end_input;
    network.expected = &expected;
    network.calls_to_stop = (int)failures % 16;
    network.grow_to_fail = (int)failures / 16 % 8;
    network.calls_fail = failures / 128 != 0;
    network.most = SIZE_MAX;
    network.script = (struct input){.data = input.data, .len = script_len};
    network.input = (struct input){.data = input.data + script_len,
                                   .len = input.len - script_len};
    expected.data = (const char *)network.input.data;
    REQUIRE(network.input.len <= sizeof network.came / sizeof *network.came);
    next_step();

    REQUIRE(reader_init(&reader, FD, expected.limit, line_timeout_ms,
                        idle_timeout_ms));
    do {
        more = read_line(&reader, &line);
        bool is_due = expect_line(&expected, network.received, &due) ||
                      expect_end(&reader, &due);
        REQUIRE(more == is_due);
        if (more)
            compare(&line, &due);
    } while (more);
    REQUIRE(reader.end != READER_OPEN);
    REQUIRE(!read_line(&reader, &line));
    reader_free(&reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {.data = data, .len = size};

    memset(&network, 0, sizeof network);
    if (take_byte(&input) % 2 == 0)
        try_cutter(input);
    else
        try_reader(input);
    return 0;
}
