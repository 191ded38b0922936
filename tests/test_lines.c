/*
 * Unit tests of lib/lines: the cutter, fed by hand, and read_line over a TCP
 * connection. The file is included whole, so that its allocations and its
 * calls can be made to fail.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* as lines.c */
#include "allocations.h"
#include "harness.h"
#include "tcp_pair.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Which of these calls fails, if one does. */
static enum { NO_CALL, POLL, IOCTL, SHUTDOWN } failing;

static int try_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    errno = ENOMEM;
    return failing == POLL ? -1 : poll(fds, count, timeout_ms);
}

static int try_ioctl(int fd, unsigned long request, int *value)
{
    errno = ENOTTY;
    return failing == IOCTL ? -1 : ioctl(fd, request, value);
}

static int try_shutdown(int fd, int how)
{
    errno = ENOTCONN;
    return failing == SHUTDOWN ? -1 : shutdown(fd, how);
}

#define poll try_poll
#define ioctl try_ioctl
#define shutdown try_shutdown
#define malloc failing_malloc
#define realloc failing_realloc
#include "../lib/lines.c"
#undef realloc
#undef malloc
#undef shutdown
#undef ioctl
#undef poll

#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define BYTES(literal) (literal), sizeof(literal) - 1

#define SHORT_MS 200  /* a timeout that is meant to pass */
#define SLACK_MS 5000 /* by which a busy machine may be late */

/*
 * The cutter
 */

/* What came out: <text> for a line, <!reason> for one that is not served. */
struct transcript {
    char text[512];
    size_t len;
};

static void transcribe(struct transcript *out, const struct line *line)
{
    const char *mark = line->reason == REASON_NONE ? "" : "!";
    const char *text = *mark == '\0' ? line->text : reason_text(line->reason);
    size_t len = *mark == '\0' ? line->len : strlen(text);

    ck_assert_uint_le(out->len + len + strlen("<!>"), sizeof out->text);
    out->text[out->len++] = '<';
    memcpy(out->text + out->len, mark, strlen(mark));
    out->len += strlen(mark);
    memcpy(out->text + out->len, text, len);
    out->len += len;
    out->text[out->len++] = '>';
}

/* Puts bytes into the cutter in pieces of this many at most, and cuts what
 * there is after each. */
static void feed(struct lines *lines, const char *data, size_t len,
                 size_t piece, struct transcript *out)
{
    struct line line;

    while (len > 0) {
        size_t room = 0;
        char *at = lines_room(lines, &room);
        ck_assert_ptr_nonnull(at);
        ck_assert_uint_gt(room, 0);
        size_t n = piece < room ? piece : room;
        n = n < len ? n : len;
        memcpy(at, data, n);
        lines_add(lines, n);
        data += n;
        len -= n;
        while (lines_next(lines, &line))
            transcribe(out, &line);
    }
}

/* Cuts what is left when the input has ended. */
static void end(struct lines *lines, enum reason reason,
                struct transcript *out)
{
    struct line line;
    if (lines_last(lines, reason, &line))
        transcribe(out, &line);
}

static void expect_transcript(const struct transcript *out, const char *text,
                              size_t len)
{
    ck_assert_msg(out->len == len && memcmp(out->text, text, len) == 0,
                  "%.*s, not %s", (int)out->len, out->text, text);
}

/* The limit is 8 throughout. */
static const struct {
    const char *input;
    size_t input_len;
    const char *lines;
    size_t lines_len;
} cuts[] = {
    {BYTES(""), BYTES("")},
    {BYTES("\n"), BYTES("<>")},
    {BYTES("one\n"), BYTES("<one>")},
    {BYTES("one\ntwo\n"), BYTES("<one><two>")},
    {BYTES("one\n\n\ntwo\n"), BYTES("<one><><><two>")},
    /* The end of the input ends a line, but not an empty one. */
    {BYTES("one"), BYTES("<one>")},
    {BYTES("one\ntwo"), BYTES("<one><two>")},
    {BYTES("\r"), BYTES("<\r>")},
    {BYTES("one\r"), BYTES("<one\r>")},
    /* One CR before the LF goes, any other is data. */
    {BYTES("one\r\n"), BYTES("<one>")},
    {BYTES("\r\n"), BYTES("<>")},
    {BYTES("one\r\r\n"), BYTES("<one\r>")},
    {BYTES("o\rne\r\n"), BYTES("<o\rne>")},
    {BYTES("one\n\rtwo\n"), BYTES("<one><\rtwo>")},
    /* Any byte is data. */
    {BYTES("o\0e\n\0\n"), BYTES("<o\0e><\0>")},
    {BYTES("\xff\xc3\x28\x80\n"), BYTES("<\xff\xc3\x28\x80>")},
    {BYTES("\x01\x1b\x7f\t \n"), BYTES("<\x01\x1b\x7f\t >")},
    /* The limit counts what is served, not the line break. */
    {BYTES("12345678\n"), BYTES("<12345678>")},
    {BYTES("12345678\r\n"), BYTES("<12345678>")},
    {BYTES("12345678\r"), BYTES("<!line too long>")},
    {BYTES("12345678"), BYTES("<12345678>")},
    {BYTES("1234567\r\r\n"), BYTES("<1234567\r>")},
    {BYTES("123456789\n"), BYTES("<!line too long>")},
    {BYTES("123456789\r\n"), BYTES("<!line too long>")},
    {BYTES("123456789"), BYTES("<!line too long>")},
    {BYTES("12345678\r\r\n"), BYTES("<!line too long>")},
    {BYTES("12345678\rx\n"), BYTES("<!line too long>")},
    /* The rest of a long line is gone, and the next one is served. */
    {BYTES("123456789\none\n"), BYTES("<!line too long><one>")},
    {BYTES("1234567890abcdef0123456789abcdef\none\n"),
     BYTES("<!line too long><one>")},
    {BYTES("1234567890\r\r\n\none"), BYTES("<!line too long><><one>")},
    {BYTES("123456789\n123456789\none\n"),
     BYTES("<!line too long><!line too long><one>")},
    {BYTES("one\n1234567890abcdef0123456789abcdef"),
     BYTES("<one><!line too long>")},
    {BYTES("123456789\n12345678\n"), BYTES("<!line too long><12345678>")},
};

/* Every input in pieces of every size: the pieces must make no difference. */
START_TEST(test_lines_are_the_same_wherever_the_pieces_end)
{
    for (size_t piece = 1; piece <= cuts[_i].input_len + 1; piece++) {
        struct transcript out = {.len = 0};
        struct lines lines;
        unsigned long breaks = 0;

        ck_assert(lines_init(&lines, 8));
        feed(&lines, cuts[_i].input, cuts[_i].input_len, piece, &out);
        end(&lines, REASON_NONE, &out);
        expect_transcript(&out, cuts[_i].lines, cuts[_i].lines_len);
        for (size_t i = 0; i < cuts[_i].input_len; i++)
            breaks += cuts[_i].input[i] == '\n';
        ck_assert_uint_eq(lines.taken, breaks);
        lines_free(&lines);
    }
}
END_TEST

/* Limits in the buffer's own sizes and around them. */
static const size_t limits[] = {1,   2,    509,  510,  511,  512,
                                513, 1023, 1024, 5000, 65536};

/* Lines of a byte less than the limit, of the limit, and of a byte more, with
 * and without CR. */
START_TEST(test_limit_is_held_to_the_byte)
{
    const size_t limit = limits[_i / 2];
    const char *line_break = _i % 2 == 0 ? "\n" : "\r\n";
    char *input = malloc(3 * (limit + 3));
    size_t len = 0;
    ck_assert_ptr_nonnull(input);
    for (size_t size = limit - 1; size <= limit + 1; size++) {
        memset(input + len, 'a', size);
        len += size;
        memcpy(input + len, line_break, strlen(line_break));
        len += strlen(line_break);
    }

    for (size_t piece = 1; piece < 2 * len; piece = piece * 3 + 1) {
        struct lines lines;
        size_t cut = 0;

        ck_assert(lines_init(&lines, limit));
        for (size_t at = 0; at < len;) {
            size_t room = 0;
            char *place = lines_room(&lines, &room);
            size_t n = piece < room ? piece : room;
            struct line line;

            ck_assert_ptr_nonnull(place);
            n = n < len - at ? n : len - at;
            memcpy(place, input + at, n);
            lines_add(&lines, n);
            at += n;
            while (lines_next(&lines, &line)) {
                ck_assert_int_eq(line.reason,
                                 cut < 2 ? REASON_NONE : REASON_LINE_TOO_LONG);
                if (cut < 2) {
                    ck_assert_uint_eq(line.len, limit - 1 + cut);
                    ck_assert_uint_eq(strspn(line.text, "a"), line.len);
                }
                cut++;
            }
            ck_assert_uint_le(lines.size,
                              limit + 2 > IDLE_SIZE ? limit + 2 : IDLE_SIZE);
        }
        ck_assert_uint_eq(cut, 3);
        lines_free(&lines);
    }
    free(input);
}
END_TEST

START_TEST(test_rest_of_a_long_line_is_discarded_in_bounded_memory)
{
    enum { LIMIT = 10000, PIECES = 1000 };
    static char piece[4096];
    struct transcript out = {.len = 0};
    struct lines lines;

    memset(piece, 'x', sizeof piece);
    ck_assert(lines_init(&lines, LIMIT));
    for (int i = 0; i < PIECES; i++) {
        feed(&lines, piece, sizeof piece, sizeof piece, &out);
        ck_assert_uint_le(lines.size, LIMIT + 2);
    }
    expect_transcript(&out, BYTES("<!line too long>"));
    feed(&lines, BYTES("\nnext\n"), 1, &out);
    expect_transcript(&out, BYTES("<!line too long><next>"));
    ck_assert_uint_eq(lines.size, IDLE_SIZE);
    lines_free(&lines);
}
END_TEST

START_TEST(test_cutter_shrinks_after_a_long_line)
{
    static char input[40000];
    struct lines lines;
    struct line line;
    size_t len = 0;

    memset(input, 'a', sizeof input);
    ck_assert(lines_init(&lines, 65536));
    while (len < sizeof input) {
        size_t room;
        char *at = lines_room(&lines, &room);
        size_t n = sizeof input - len < room ? sizeof input - len : room;
        memcpy(at, input, n);
        lines_add(&lines, n);
        len += n;
        ck_assert(!lines_next(&lines, &line));
    }
    ck_assert_uint_gt(lines.size, IDLE_SIZE);
    ck_assert(lines_last(&lines, REASON_NONE, &line));
    ck_assert_uint_eq(line.len, sizeof input);
    ck_assert_ptr_nonnull(lines_room(&lines, &len));
    ck_assert_uint_eq(lines.size, IDLE_SIZE);
    ck_assert_uint_eq(len, IDLE_SIZE);
    lines_free(&lines);
}
END_TEST

/* A line that was begun gets the reason, once; its rest is discarded. */
START_TEST(test_last_line_has_the_reason_and_its_rest_is_discarded)
{
    const enum reason reason = (enum reason)_i;
    struct transcript out = {.len = 0}, expected = {.len = 0};
    struct lines lines;
    struct line line = {.text = "abc", .len = 3, .reason = reason};

    transcribe(&expected, &line);
    ck_assert(lines_init(&lines, 8));
    ck_assert(!lines_last(&lines, reason, &line)); /* nothing was begun */
    feed(&lines, BYTES("one\nabc"), 7, &out);
    out.len = 0;
    end(&lines, reason, &out);
    expect_transcript(&out, expected.text, expected.len);
    ck_assert(!lines_last(&lines, reason, &line));
    feed(&lines, BYTES("rest"), 2, &out);
    ck_assert(!lines_last(&lines, reason, &line));
    feed(&lines, BYTES(" of it\n"), 2, &out);
    ck_assert(!lines_last(&lines, reason, &line));
    expect_transcript(&out, expected.text, expected.len);
    out.len = 0;
    feed(&lines, BYTES("next\n"), 5, &out);
    expect_transcript(&out, BYTES("<next>"));
    lines_free(&lines);
}
END_TEST

START_TEST(test_long_line_is_not_answered_again_when_the_input_ends)
{
    struct lines lines;
    struct line line;
    struct transcript out = {.len = 0};

    ck_assert(lines_init(&lines, 8));
    feed(&lines, BYTES("123456789"), 9, &out);
    expect_transcript(&out, BYTES("<!line too long>"));
    ck_assert(!lines_last(&lines, REASON_LINE_TIMED_OUT, &line));
    lines_free(&lines);
}
END_TEST

/* What comes of it later is not begun, even before it is discarded. */
START_TEST(test_rest_of_an_answered_line_is_no_line)
{
    struct transcript out = {.len = 0};
    struct lines lines;
    struct line line;
    size_t room;

    ck_assert(lines_init(&lines, 8));
    feed(&lines, BYTES("abc"), 3, &out);
    end(&lines, REASON_NONE, &out);
    expect_transcript(&out, BYTES("<abc>"));
    memcpy(lines_room(&lines, &room), "rest", 4);
    ck_assert_uint_ge(room, 4);
    lines_add(&lines, 4);
    ck_assert(!lines_last(&lines, REASON_NONE, &line));
    lines_free(&lines);
}
END_TEST

/* Its CR was data after all, which makes it too long; but whoever has another
 * reason means that one. */
START_TEST(test_last_line_counts_its_cr)
{
    static const enum reason reasons[][2] = {
        {REASON_NONE, REASON_LINE_TOO_LONG},
        {REASON_LINE_TIMED_OUT, REASON_LINE_TIMED_OUT},
    };

    for (int i = 0; i < COUNT(reasons); i++) {
        struct transcript out = {.len = 0};
        struct lines lines;
        struct line line;
        ck_assert(lines_init(&lines, 8));
        feed(&lines, BYTES("12345678\r"), 9, &out);
        ck_assert(lines_last(&lines, reasons[i][0], &line));
        ck_assert_int_eq(line.reason, reasons[i][1]);
        lines_free(&lines);
    }
}
END_TEST

START_TEST(test_cutter_says_that_memory_is_short_and_goes_on)
{
    static char filling[IDLE_SIZE];
    struct lines lines;
    struct line line;
    struct transcript out = {.len = 0};
    size_t room;

    allocation_fails_after(0);
    ck_assert(!lines_init(&lines, 65536));
    lines_free(&lines);
    ck_assert(allocation_failed());

    ck_assert(lines_init(&lines, 65536));
    memset(filling, 'a', sizeof filling);
    feed(&lines, filling, sizeof filling, sizeof filling, &out);
    allocation_fails_after(0);
    ck_assert_ptr_null(lines_room(&lines, &room));
    ck_assert(allocation_failed());
    ck_assert(lines_last(&lines, REASON_NO_MEMORY, &line));
    ck_assert_int_eq(line.reason, REASON_NO_MEMORY);
    feed(&lines, BYTES("rest\nnext\n"), 3, &out);
    expect_transcript(&out, BYTES("<next>"));
    lines_free(&lines);
}
END_TEST

/* To give memory back may fail too; the larger buffer serves as well. */
START_TEST(test_cutter_needs_no_memory_to_shrink)
{
    static char text[2000];
    struct lines lines;
    struct line line;
    struct transcript out = {.len = 0};
    size_t room;

    ck_assert(lines_init(&lines, 65536));
    memset(text, 'a', sizeof text);
    feed(&lines, text, sizeof text, sizeof text, &out);
    ck_assert(lines_last(&lines, REASON_NONE, &line));
    size_t size = lines.size;
    ck_assert_uint_gt(size, IDLE_SIZE);
    allocation_fails_after(0);
    ck_assert_ptr_nonnull(lines_room(&lines, &room));
    ck_assert(allocation_failed());
    ck_assert_uint_eq(room, size);
    lines_free(&lines);
}
END_TEST

/*
 * The reader
 */

static struct tcp_pair pair;
static struct reader reader;

static void set_up(void)
{
    pair = tcp_pair_open();
    ck_assert(reader_init(&reader, pair.fd, 65536, PATIENCE_MS, 0));
}

static void tear_down(void)
{
    reader_free(&reader);
    tcp_pair_close(&pair);
}

/* Starts the reader again, with other limits. */
static void set_reader(size_t limit, long line_timeout_ms,
                       long idle_timeout_ms)
{
    reader_free(&reader);
    ck_assert(reader_init(&reader, pair.fd, limit, line_timeout_ms,
                          idle_timeout_ms));
}

/* Reads all lines that there are, and why there are no more. */
static void expect_lines(const char *text, enum reader_end why)
{
    struct transcript out = {.len = 0};
    struct line line;

    while (read_line(&reader, &line))
        transcribe(&out, &line);
    expect_transcript(&out, text, strlen(text));
    ck_assert_int_eq(reader.end, why);
    ck_assert(!read_line(&reader, &line)); /* nor are there later */
    ck_assert_int_eq(reader.end, why);
}

START_TEST(test_reader_reads_until_the_client_finishes)
{
    struct line line;

    tcp_pair_send(&pair, BYTES("one\ntw"));
    ck_assert(read_line(&reader, &line));
    ck_assert_uint_eq(line.len, 3);
    ck_assert_mem_eq(line.text, "one", 3);
    ck_assert_int_eq(reader.end, READER_OPEN);
    tcp_pair_send(&pair, BYTES("o\r\n\nlast"));
    tcp_pair_finish(&pair);
    expect_lines("<two><><last>", READER_ENDED);
}
END_TEST

START_TEST(test_reader_has_no_line_when_the_client_says_nothing)
{
    tcp_pair_finish(&pair);
    expect_lines("", READER_ENDED);
}
END_TEST

/* What came before the reset is gone with it, on Linux, and half a line is
 * none. */
START_TEST(test_reader_ends_when_the_client_resets)
{
    struct line line;

    tcp_pair_send(&pair, BYTES("one\nhalf"));
    ck_assert(read_line(&reader, &line));
    tcp_pair_reset(&pair);
    expect_lines("", READER_ENDED);
}
END_TEST

START_TEST(test_reader_answers_a_long_line_and_reads_on)
{
    set_reader(8, PATIENCE_MS, 0);
    tcp_pair_send(&pair, BYTES("123456789 and more\nnext\n12345678\r\nlast"));
    tcp_pair_finish(&pair);
    expect_lines("<!line too long><next><12345678><last>", READER_ENDED);
}
END_TEST

/* What the client sends while the reader is blocked, a byte at a time. */
struct dribble {
    pthread_t thread;
    const char *text;
    long pause_ms;
};

static void *dribble_thread(void *arg)
{
    const struct dribble *dribble = arg;

    for (const char *at = dribble->text; *at != '\0'; at++) {
        let_pass(dribble->pause_ms);
        if (send(pair.client, at, 1, MSG_NOSIGNAL) != 1)
            break;
    }
    return NULL;
}

static void start_dribble(struct dribble *dribble)
{
    ck_assert_int_eq(
        pthread_create(&dribble->thread, NULL, dribble_thread, dribble), 0);
}

static void finish_dribble(struct dribble *dribble)
{
    ck_assert_int_eq(pthread_join(dribble->thread, NULL), 0);
}

START_TEST(test_line_that_is_not_completed_times_out)
{
    set_reader(64, SHORT_MS, 0);
    tcp_pair_send(&pair, BYTES("one\nhalf"));
    long long start = now_ms();
    expect_lines("<one><!line timed out>", READER_OVERDUE);
    ck_assert_int_ge(now_ms() - start, SHORT_MS);
    ck_assert_int_le(now_ms() - start, SHORT_MS + SLACK_MS);
}
END_TEST

/* Each byte comes in time, the line does not. */
START_TEST(test_line_timeout_counts_from_the_first_byte)
{
    static char text[1000];
    struct dribble dribble = {.text = text, .pause_ms = 20};

    memset(text, 'a', sizeof text - 1);
    set_reader(sizeof text, SHORT_MS, 0);
    long long start = now_ms();
    start_dribble(&dribble);
    expect_lines("<!line timed out>", READER_OVERDUE);
    long long took = now_ms() - start;
    ck_assert_int_eq(shutdown(pair.client, SHUT_WR), 0); /* ends the thread */
    finish_dribble(&dribble);
    ck_assert_int_ge(took, SHORT_MS);
    ck_assert_int_le(took, SHORT_MS + SLACK_MS);
}
END_TEST

/* Five lines, each in time, take longer than one may. */
START_TEST(test_each_line_has_its_own_time)
{
    struct dribble dribble = {.text = "a\nb\nc\nd\ne\n", .pause_ms = 250};

    set_reader(64, 1200, 0);
    start_dribble(&dribble);
    for (int i = 0; i < 5; i++) {
        struct line line;
        ck_assert(read_line(&reader, &line));
        ck_assert_int_eq(line.reason, REASON_NONE);
        ck_assert_int_eq(line.text[0], 'a' + i);
    }
    finish_dribble(&dribble);
}
END_TEST

/* The rest of a line that has its reply must come in time as well, or a
 * client could hold a thread for ever; but it gets no second reply. */
START_TEST(test_rest_of_a_long_line_times_out_without_a_reply)
{
    set_reader(8, SHORT_MS, 0);
    tcp_pair_send(&pair, BYTES("123456789"));
    long long start = now_ms();
    expect_lines("<!line too long>", READER_OVERDUE);
    ck_assert_int_ge(now_ms() - start, SHORT_MS);
}
END_TEST

START_TEST(test_client_that_is_idle_times_out_without_a_reply)
{
    set_reader(64, PATIENCE_MS, SHORT_MS);
    tcp_pair_send(&pair, BYTES("one\n"));
    long long start = now_ms();
    expect_lines("<one>", READER_OVERDUE);
    ck_assert_int_ge(now_ms() - start, SHORT_MS);
    ck_assert_int_le(now_ms() - start, SHORT_MS + SLACK_MS);
}
END_TEST

START_TEST(test_idle_timeout_does_not_end_a_line_that_was_begun)
{
    struct dribble dribble = {.text = "e\n", .pause_ms = 2 * SHORT_MS};
    struct line line;

    set_reader(64, 0, SHORT_MS); /* a line itself may take for ever */
    tcp_pair_send(&pair, BYTES("on"));
    start_dribble(&dribble);
    ck_assert(read_line(&reader, &line));
    ck_assert_int_eq(line.reason, REASON_NONE);
    ck_assert_uint_eq(line.len, 3);
    finish_dribble(&dribble);
}
END_TEST

static void ignore_signal(int number)
{
    (void)number;
}

struct interruption {
    pthread_t reader;
    atomic_bool ended;
};

static void *interrupt_thread(void *arg)
{
    struct interruption *interruption = arg;

    for (int i = 0; i < 20; i++) {
        let_pass(5);
        pthread_kill(interruption->reader, SIGUSR1);
    }
    if (send(pair.client, "one\n", 4, MSG_NOSIGNAL) != 4)
        return NULL; /* the reader then waits in vain, and fails the test */
    while (!atomic_load(&interruption->ended))
        let_pass(1);
    return NULL;
}

/* Neither recv, where no time is set, nor poll, where one is. */
START_TEST(test_signal_does_not_end_the_input)
{
    const struct sigaction action = {.sa_handler = ignore_signal};
    struct interruption interruption = {.reader = pthread_self()};
    pthread_t thread;
    struct line line;

    set_reader(64, 0, _i == 0 ? 0 : PATIENCE_MS);
    ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
    ck_assert_int_eq(
        pthread_create(&thread, NULL, interrupt_thread, &interruption), 0);
    ck_assert(read_line(&reader, &line));
    atomic_store(&interruption.ended, true);
    ck_assert_int_eq(line.reason, REASON_NONE);
    ck_assert_mem_eq(line.text, "one", 3);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

START_TEST(test_reader_answers_when_memory_is_short_and_reads_on)
{
    static char text[IDLE_SIZE + 1];
    struct line line;

    allocation_fails_after(0);
    struct reader other;
    ck_assert(!reader_init(&other, pair.fd, 64, 0, 0));
    ck_assert(allocation_failed());

    memset(text, 'a', sizeof text);
    tcp_pair_send(&pair, text, sizeof text);
    allocation_fails_after(0);
    ck_assert(read_line(&reader, &line));
    ck_assert_int_eq(line.reason, REASON_NO_MEMORY);
    ck_assert(allocation_failed());
    tcp_pair_send(&pair, BYTES("\nnext\n"));
    tcp_pair_finish(&pair);
    expect_lines("<next>", READER_ENDED);
}
END_TEST

/*
 * The end of the input, as another thread asks for it
 */

/* What was sent by then is served, what is sent later is not. */
START_TEST(test_end_of_input_comes_after_what_was_sent)
{
    tcp_pair_send(&pair, BYTES("one\ntwo\n"));
    reader_end_input(&reader);
    tcp_pair_send(&pair, BYTES("three\nfour"));
    expect_lines("<one><two>", READER_STOPPED);
}
END_TEST

START_TEST(test_end_of_input_does_not_serve_half_a_line)
{
    tcp_pair_send(&pair, BYTES("one\ntw"));
    reader_end_input(&reader);
    tcp_pair_send(&pair, BYTES("o\nthree\n"));
    expect_lines("<one><!server stopping>", READER_STOPPED);
}
END_TEST

START_TEST(test_end_of_input_with_nothing_sent_is_the_end)
{
    reader_end_input(&reader);
    tcp_pair_send(&pair, BYTES("late\n"));
    expect_lines("", READER_STOPPED);
}
END_TEST

/* What was received, but not cut yet, counts as sent. */
START_TEST(test_end_of_input_comes_after_what_was_received)
{
    struct line line;

    tcp_pair_send(&pair, BYTES("one\ntwo\nthree"));
    ck_assert(read_line(&reader, &line));
    reader_end_input(&reader);
    tcp_pair_send(&pair, BYTES("\nfour\n"));
    expect_lines("<two><!server stopping>", READER_STOPPED);
}
END_TEST

/* More than fits into the buffer: it takes several calls of recv. */
START_TEST(test_end_of_input_comes_after_much_that_was_sent)
{
    enum { LINES = 500 };
    char text[32];
    struct line line;

    for (int i = 0; i < LINES; i++) {
        snprintf(text, sizeof text, "line %d\n", i);
        tcp_pair_send(&pair, text, strlen(text));
    }
    reader_end_input(&reader);
    tcp_pair_send(&pair, BYTES("late\n"));
    for (int i = 0; i < LINES; i++) {
        ck_assert(read_line(&reader, &line));
        snprintf(text, sizeof text, "line %d", i);
        ck_assert_uint_eq(line.len, strlen(text));
        ck_assert_mem_eq(line.text, text, line.len);
    }
    expect_lines("", READER_STOPPED);
}
END_TEST

/* The client's own end came first, and so its last line counts. */
START_TEST(test_end_of_input_after_the_clients_own_changes_nothing)
{
    tcp_pair_send(&pair, BYTES("one\nlast"));
    tcp_pair_finish(&pair);
    reader_end_input(&reader);
    expect_lines("<one><last>", READER_ENDED);
}
END_TEST

START_TEST(test_end_of_input_of_a_client_that_is_gone_changes_nothing)
{
    tcp_pair_reset(&pair);
    reader_end_input(&reader);
    expect_lines("", READER_ENDED);
}
END_TEST

/* A connection that can't be waited for is lost, with what came of it. */
START_TEST(test_reader_ends_when_it_cannot_wait)
{
    set_reader(64, PATIENCE_MS, PATIENCE_MS);
    tcp_pair_send(&pair, BYTES("one\n"));
    failing = POLL;
    expect_lines("", READER_ENDED);
}
END_TEST

/* Without a count of what has come, that counts for nothing. */
START_TEST(test_end_of_input_comes_at_once_when_bytes_cannot_be_counted)
{
    tcp_pair_send(&pair, BYTES("one\n"));
    failing = IOCTL;
    reader_end_input(&reader);
    expect_lines("", READER_STOPPED);
}
END_TEST

START_TEST(test_end_of_input_needs_no_shutdown_of_what_has_come)
{
    tcp_pair_send(&pair, BYTES("one\ntwo\n"));
    failing = SHUTDOWN;
    reader_end_input(&reader);
    expect_lines("<one><two>", READER_STOPPED);
}
END_TEST

static void *end_input_thread(void *arg)
{
    (void)arg;
    let_pass(50); /* most likely it is blocked by then */
    reader_end_input(&reader);
    return NULL;
}

/* With a time set and without. */
START_TEST(test_end_of_input_wakes_a_reader_that_is_blocked)
{
    pthread_t thread;

    set_reader(64, PATIENCE_MS, _i == 0 ? 0 : PATIENCE_MS);
    ck_assert_int_eq(pthread_create(&thread, NULL, end_input_thread, NULL), 0);
    long long start = now_ms();
    expect_lines("", READER_STOPPED);
    ck_assert_int_lt(now_ms() - start, PATIENCE_MS);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

static Suite *lines_suite(void)
{
    Suite *suite = suite_create("lines");

    TCase *cutter = tcase_create("cutter");
    tcase_set_timeout(cutter, TEST_TIMEOUT);
    tcase_add_loop_test(cutter,
                        test_lines_are_the_same_wherever_the_pieces_end, 0,
                        COUNT(cuts));
    tcase_add_loop_test(cutter, test_limit_is_held_to_the_byte, 0,
                        2 * COUNT(limits));
    tcase_add_test(cutter,
                   test_rest_of_a_long_line_is_discarded_in_bounded_memory);
    tcase_add_test(cutter, test_cutter_shrinks_after_a_long_line);
    tcase_add_loop_test(
        cutter, test_last_line_has_the_reason_and_its_rest_is_discarded,
        REASON_NONE, REASONS);
    tcase_add_test(cutter,
                   test_long_line_is_not_answered_again_when_the_input_ends);
    tcase_add_test(cutter, test_rest_of_an_answered_line_is_no_line);
    tcase_add_test(cutter, test_last_line_counts_its_cr);
    tcase_add_test(cutter, test_cutter_says_that_memory_is_short_and_goes_on);
    tcase_add_test(cutter, test_cutter_needs_no_memory_to_shrink);
    suite_add_tcase(suite, cutter);

    TCase *reading = tcase_create("reader");
    tcase_set_timeout(reading, TEST_TIMEOUT);
    tcase_add_checked_fixture(reading, set_up, tear_down);
    tcase_add_test(reading, test_reader_reads_until_the_client_finishes);
    tcase_add_test(reading,
                   test_reader_has_no_line_when_the_client_says_nothing);
    tcase_add_test(reading, test_reader_ends_when_the_client_resets);
    tcase_add_test(reading, test_reader_ends_when_it_cannot_wait);
    tcase_add_test(reading, test_reader_answers_a_long_line_and_reads_on);
    tcase_add_test(reading, test_line_that_is_not_completed_times_out);
    tcase_add_test(reading, test_line_timeout_counts_from_the_first_byte);
    tcase_add_test(reading, test_each_line_has_its_own_time);
    tcase_add_test(reading,
                   test_rest_of_a_long_line_times_out_without_a_reply);
    tcase_add_test(reading,
                   test_client_that_is_idle_times_out_without_a_reply);
    tcase_add_test(reading,
                   test_idle_timeout_does_not_end_a_line_that_was_begun);
    tcase_add_loop_test(reading, test_signal_does_not_end_the_input, 0, 2);
    tcase_add_test(reading,
                   test_reader_answers_when_memory_is_short_and_reads_on);
    suite_add_tcase(suite, reading);

    TCase *ending = tcase_create("end of input");
    tcase_set_timeout(ending, TEST_TIMEOUT);
    tcase_add_checked_fixture(ending, set_up, tear_down);
    tcase_add_test(ending, test_end_of_input_comes_after_what_was_sent);
    tcase_add_test(ending, test_end_of_input_does_not_serve_half_a_line);
    tcase_add_test(ending, test_end_of_input_with_nothing_sent_is_the_end);
    tcase_add_test(ending, test_end_of_input_comes_after_what_was_received);
    tcase_add_test(ending, test_end_of_input_comes_after_much_that_was_sent);
    tcase_add_test(
        ending, test_end_of_input_comes_at_once_when_bytes_cannot_be_counted);
    tcase_add_test(ending,
                   test_end_of_input_needs_no_shutdown_of_what_has_come);
    tcase_add_test(ending,
                   test_end_of_input_after_the_clients_own_changes_nothing);
    tcase_add_test(ending,
                   test_end_of_input_of_a_client_that_is_gone_changes_nothing);
    tcase_add_loop_test(
        ending, test_end_of_input_wakes_a_reader_that_is_blocked, 0, 2);
    suite_add_tcase(suite, ending);
    return suite;
}

int main(void)
{
    return run_suite(lines_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
