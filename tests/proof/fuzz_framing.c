/*
 * fuzz_framing.c - where a response ends: lib/response against a plain reading
 *
 * An input is the longest body, the lengths of the pieces that a body comes
 * in, and the response. The pieces must make no difference, and what comes out
 * must be what a reader of all its bytes at once makes of them.
 *
 * Under test: lib/response.c
 * libFuzzer: -max_len=1024
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include "../../lib/response.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#define MOST 1024      /* bytes of an input */
#define HUGE_DIGITS 18 /* of a length that may not be told from another */

/* What is known of a response when its bytes are used up. */
struct outcome {
    enum reason reason;
    bool has_head, complete, by_close, reusable, awaits_first;
    /* Two lengths differ, both absurd: whether that is noticed is left to the
     * code, because neither can be served. */
    bool huge;
    char body[MOST];
    size_t len;
};

static const char before[] = "echo: "; /* already in the buffer */

/* Reads the response with the code under test. */
static struct outcome take_response(const char *data, size_t len,
                                    size_t max_body, struct pieces *pieces)
{
    struct outcome outcome = {.len = 0};
    struct response response;
    struct buffer body = {0};

    REQUIRE(buffer_append(&body, before, strlen(before)));
    response_begin(&response, &body, max_body);
    while (len > 0 && outcome.reason == REASON_NONE) {
        size_t used;

        if (response_has_head(&response)) {
            used = next_piece(pieces, len);
        } else {
            const char *lf = memchr(data, '\n', len);
            if (lf == NULL)
                break;
            used = (size_t)(lf - data) + 1;
        }
        outcome.reason = response_take(&response, data, used);
        data += used;
        len -= used;
    }
    outcome.has_head = response_has_head(&response);
    outcome.complete = response_is_complete(&response);
    outcome.by_close = response_ends_by_close(&response);
    outcome.reusable = response_allows_reuse(&response);
    outcome.awaits_first = response_awaits_first_field(&response);
    REQUIRE(memcmp(body.data, before, strlen(before)) == 0);
    outcome.len = body.len - strlen(before);
    REQUIRE(outcome.len <= max_body && outcome.len <= sizeof outcome.body);
    memcpy(outcome.body, body.data + strlen(before), outcome.len);
    free(body.data);
    return outcome;
}

/* A plain reader: all bytes, and where it is. */
struct reading {
    const char *data;
    size_t len, at;
    size_t max_body;
    struct outcome outcome;
};

/* Why a part of it could not be read. */
enum part { READ, MISSING, BAD, TOO_LARGE };

static bool is_token(const char *text, size_t len)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "abcdefghijklmnopqrstuvwxyz";

    for (size_t i = 0; i < len; i++)
        if (text[i] == '\0' || strchr(token, text[i]) == NULL)
            return false;
    return len > 0;
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

/* Copies a line, without its line break, to text and ends it with a NUL. */
static enum part read_line_of(struct reading *reading, char text[MOST + 1],
                              bool *bare)
{
    const char *start = reading->data + reading->at;
    const char *lf = memchr(start, '\n', reading->len - reading->at);

    if (lf == NULL)
        return MISSING;
    size_t len = (size_t)(lf - start);
    reading->at += len + 1;
    *bare = len == 0 || start[len - 1] != '\r';
    if (!*bare)
        len--;
    memcpy(text, start, len);
    text[len] = '\0';
    return memchr(text, '\0', len) == NULL && memchr(text, '\r', len) == NULL
               ? READ
               : BAD;
}

/* Reads the value of a Content-Length, one number or the same one often, into
 * text. */
static enum part read_lengths(struct reading *reading, const char *value,
                              char length[MOST + 1])
{
    for (;;) {
        size_t len = strcspn(value, ","), start = 0, end = len;

        while (start < end && is_blank(value[start]))
            start++;
        while (end > start && is_blank(value[end - 1]))
            end--;
        if (start == end || strspn(value + start, "0123456789") < end - start)
            return BAD;
        while (start < end - 1 && value[start] == '0')
            start++;
        if (length[0] == '\0') {
            memcpy(length, value + start, end - start);
            length[end - start] = '\0';
        } else if (strlen(length) != end - start ||
                   memcmp(length, value + start, end - start) != 0) {
            if (strlen(length) < HUGE_DIGITS || end - start < HUGE_DIGITS)
                return BAD;
            reading->outcome.huge = true;
        }
        if (value[len] == '\0')
            return READ;
        value += len + 1;
    }
}

/* Reads chunks and trailers. */
static enum part read_chunks(struct reading *reading)
{
    char text[MOST + 1];
    struct outcome *outcome = &reading->outcome;
    bool bare;

    for (;;) {
        /* The size is looked at as its bytes come, before the line's end. */
        const char *line = reading->data + reading->at;
        size_t most = reading->len - reading->at, digits = 0, size = 0;
        while (digits < most && line[digits] != '\0' &&
               strchr("0123456789abcdefABCDEF", line[digits]) != NULL) {
            char digit[] = {line[digits++], '\0'};
            if (size < SIZE_MAX / 256)
                size = size * 16 + strtoul(digit, NULL, 16);
        }
        if (digits > 16)
            return BAD;
        if (digits == most)
            return MISSING;
        if (digits == 0 || line[digits] == '\0' ||
            strchr("; \t\r\n", line[digits]) == NULL)
            return BAD;
        if (size > reading->max_body)
            return TOO_LARGE;

        /* Blanks are allowed before an extension only. */
        size_t rest = digits;
        while (rest < most && is_blank(line[rest]))
            rest++;
        if (rest < most && rest > digits && line[rest] != ';')
            return BAD;
        /* A CR that no LF follows is wrong at once. */
        for (size_t i = rest; i < most && line[i] != '\n'; i++)
            if (line[i] == '\0' ||
                (line[i] == '\r' && i + 1 < most && line[i + 1] != '\n'))
                return BAD;
        enum part part = read_line_of(reading, text, &bare);
        if (part != READ)
            return part;
        if (size == 0)
            break;

        for (; size > 0; size--) {
            if (reading->at == reading->len)
                return MISSING;
            if (outcome->len == reading->max_body)
                return TOO_LARGE;
            outcome->body[outcome->len++] = reading->data[reading->at++];
        }
        if (reading->at == reading->len)
            return MISSING;
        if (reading->data[reading->at] == '\r') {
            reading->at++;
            if (reading->at == reading->len)
                return MISSING;
        } else if (!bare) {
            return BAD;
        }
        if (reading->data[reading->at++] != '\n')
            return BAD;
    }
    for (;;) {
        const char *line = reading->data + reading->at;
        size_t most = reading->len - reading->at;
        const char *lf = memchr(line, '\n', most);
        size_t len = lf != NULL ? (size_t)(lf - line) : most;
        size_t name = 0;

        while (name < len && is_token(line + name, 1))
            name++;
        /* Wrong at once: not a name, not a colon, a NUL, a CR alone. */
        if (name < len && line[name] != ':' && !(name == 0 && line[0] == '\r'))
            return BAD;
        if (name == 0 && len > 0 && line[0] == ':')
            return BAD;
        if (name > 0 && lf != NULL && name == len)
            return BAD;
        for (size_t i = name; i < len; i++)
            if (line[i] == '\0' ||
                (line[i] == '\r' && i + 1 < most && line[i + 1] != '\n'))
                return BAD;
        if (lf == NULL)
            return MISSING;
        reading->at += len + 1;
        if (name == 0)
            return READ;
    }
}

/* Reads heads, up to that of the final response, and its body. */
static enum part read_response(struct reading *reading)
{
    struct outcome *outcome = &reading->outcome;
    char text[MOST + 1] = "";
    char length_text[MOST + 1] = "";
    bool bare, chunked = false, old = false;
    int status = 0;
    enum part part;

    while (status < 200) {
        bool first = true, framing = false;

        part = read_line_of(reading, text, &bare);
        if (part != READ)
            return part;
        if (strncmp(text, "HTTP/1.", 7) != 0 || text[7] < '0' ||
            text[7] > '9' || text[8] != ' ' ||
            strspn(text + 9, "0123456789") != 3 ||
            (text[12] != '\0' && text[12] != ' '))
            return BAD;
        status = (int)strtol(text + 9, NULL, 10);
        old = text[7] == '0';
        if (status < 100)
            return BAD;
        for (;; first = false) {
            outcome->awaits_first = first;
            part = read_line_of(reading, text, &bare);
            if (part != READ)
                return part;
            outcome->awaits_first = false;
            if (text[0] == '\0')
                break;
            if (is_blank(text[0])) {
                if (first || framing)
                    return BAD;
                continue;
            }
            size_t name = strcspn(text, ":");
            if (text[name] != ':' || !is_token(text, name))
                return BAD;
            char *value = text + name + 1;
            while (is_blank(*value))
                value++;
            for (size_t len = strlen(value);
                 len > 0 && is_blank(value[len - 1]); len--)
                value[len - 1] = '\0';
            text[name] = '\0';
            bool is_length = strcasecmp(text, "Content-Length") == 0;
            bool is_coding = strcasecmp(text, "Transfer-Encoding") == 0;
            framing = is_length || is_coding;
            if (status < 200)
                continue;
            if (is_length && read_lengths(reading, value, length_text) != READ)
                return BAD;
            if (is_coding && (chunked || strcasecmp(value, "chunked") != 0))
                return BAD;
            chunked = chunked || is_coding;
        }
        if (status == 101)
            return BAD;
    }

    const bool known = length_text[0] != '\0';
    const size_t left = reading->len - reading->at;
    size_t length = strlen(length_text) < HUGE_DIGITS
                        ? strtoul(length_text, NULL, 10)
                        : SIZE_MAX;
    if (status == 204 || status == 304) {
        outcome->complete = true;
    } else if (chunked) {
        outcome->has_head = true;
        part = read_chunks(reading);
        if (part != READ)
            return part;
        outcome->complete = true;
    } else if (known && length > reading->max_body) {
        return TOO_LARGE;
    } else {
        outcome->has_head = true;
        outcome->by_close = !known;
        if (!known && left > reading->max_body)
            return TOO_LARGE;
        outcome->complete = !known || length <= left;
        outcome->len = known && length < left ? length : left;
        memcpy(outcome->body, reading->data + reading->at, outcome->len);
        reading->at += outcome->len;
    }
    outcome->has_head = true;
    outcome->reusable =
        reading->at == reading->len && !(chunked && (known || old));
    return outcome->complete ? READ : MISSING;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {.data = data, .len = size};
    struct pieces whole = {.count = 0};

    if (size > MOST)
        return 0;
    size_t max_body = 1 + take_byte(&input) % 64;
    struct pieces pieces = take_pieces(&input);
    const char *text = (const char *)input.data;
    struct outcome at_once = take_response(text, input.len, max_body, &whole);
    struct outcome cut = take_response(text, input.len, max_body, &pieces);
    REQUIRE(at_once.reason == cut.reason);

    struct reading reading = {
        .data = text, .len = input.len, .max_body = max_body};
    enum part part = read_response(&reading);
    const struct outcome *due = &reading.outcome;
    static const enum reason reasons[] = {[READ] = REASON_NONE,
                                          [MISSING] = REASON_NONE,
                                          [BAD] = REASON_BAD_HTTP,
                                          [TOO_LARGE] = REASON_TOO_LARGE};
    REQUIRE(cut.reason == reasons[part] ||
            (due->huge && cut.reason == REASON_BAD_HTTP));
    if (cut.reason != REASON_NONE)
        return 0;

    for (int i = 0; i < 2; i++) {
        const struct outcome *outcome = i == 0 ? &at_once : &cut;
        REQUIRE(outcome->has_head == due->has_head);
        REQUIRE(outcome->complete == (part == READ));
        REQUIRE(outcome->by_close == due->by_close);
        REQUIRE(outcome->awaits_first == due->awaits_first);
        REQUIRE(part != READ || outcome->reusable == due->reusable);
        REQUIRE(outcome->len == due->len);
        REQUIRE(memcmp(outcome->body, due->body, due->len) == 0);
    }
    return 0;
}
