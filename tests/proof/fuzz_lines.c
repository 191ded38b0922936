/*
 * fuzz_lines.c - the line reader against a plain one that keeps all bytes
 *
 * An input is the limit, the lengths of the pieces that the bytes come in, and
 * the bytes.
 *
 * Under test: lib/lines.c
 * libFuzzer: -max_len=4096
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include "../../lib/lines.h"

#include <stdbool.h>
#include <string.h>

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
        size_t lf = 0;

        while (lf < most && text[lf] != '\n')
            lf++;
        if (lf == most) {
            /* One byte over the limit may be the CR of a line break. */
            if (expected->answered || most <= expected->limit ||
                (most == expected->limit + 1 && text[most - 1] == '\r'))
                return false;
            expected->answered = true;
            *line = (struct line){.reason = REASON_LINE_TOO_LONG};
            return true;
        }
        expected->start += lf + 1;
        expected->breaks++;
        if (expected->answered) {
            expected->answered = false;
            continue;
        }
        size_t text_len = lf > 0 && text[lf - 1] == '\r' ? lf - 1 : lf;
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
    size_t give_up = take_short(&input) % 4096;
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_cutter((struct input){.data = data, .len = size});
    return 0;
}
