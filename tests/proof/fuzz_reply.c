/*
 * fuzz_reply.c - the reply's one line, and the escaped text of a request
 *
 * An input says what the replies are, which allocation fails, and how the
 * bytes that follow are appended; the replies use one buffer after another, as
 * those of a connection do.
 *
 * Under test: lib/reply.c
 * libFuzzer: -max_len=2048 -len_control=0
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>

static void *failing_realloc(void *data, size_t size);

#define realloc failing_realloc
#include "../../lib/reply.c"
#undef realloc

#define MOST_BODY (16 * 2048)
#define MOST_KEPT 4096 /* bytes of a buffer that waits for its next reply */

static unsigned calls_to_fail; /* calls of realloc until one fails, or 0 */
static bool failed;

static void *failing_realloc(void *data, size_t size)
{
    if (calls_to_fail > 0 && --calls_to_fail == 0) {
        failed = true;
        return NULL;
    }
    return realloc(data, size);
}

static bool is_break(char byte)
{
    return byte == '\r' || byte == '\n';
}

/* Checks that text is the prefix, the body as one line, and an LF. */
static void check_echo(const char *text, size_t len, const char *body,
                       size_t body_len)
{
    static const char start[] = "echo: ";
    size_t at = sizeof start - 1;

    REQUIRE(len > at && memcmp(text, start, at) == 0);
    while (body_len > 0 && is_break(body[body_len - 1]))
        body_len--;
    for (size_t i = 0; i < body_len; i++) {
        if (is_break(body[i]) && is_break(body[i + 1]))
            continue; /* the last of a run is the space */
        REQUIRE(at < len && text[at] == (is_break(body[i]) ? ' ' : body[i]));
        at++;
    }
    REQUIRE(at + 1 == len && text[at] == '\n');
}

static void check_error(const char *text, size_t len, enum reason reason,
                        long status)
{
    char due[ERROR_REPLY_SIZE];
    int due_len;

    if (reason == REASON_RETURNED)
        due_len = snprintf(due, sizeof due, "error: upstream returned %ld\n",
                           status);
    else
        due_len =
            snprintf(due, sizeof due, "error: %s\n", reason_text(reason));
    REQUIRE(len == (size_t)due_len && memcmp(text, due, len) == 0);
    for (size_t i = 0; i + 1 < len; i++)
        REQUIRE(text[i] >= ' ' && text[i] <= '~');
}

/* Makes a reply of the bytes, times over. */
static void try_reply(struct buffer *reply, struct pieces *pieces,
                      struct input part, unsigned times, enum reason reason,
                      long status)
{
    static char body[MOST_BODY];
    size_t len = 0;
    bool short_of_memory = false;

    reply_begin(reply);
    while (times-- > 0 && !short_of_memory) {
        for (size_t at = 0; at < part.len && !short_of_memory;) {
            size_t piece = next_piece(pieces, part.len - at);
            size_t before = reply->len;

            if (buffer_append(reply, part.data + at, piece)) {
                REQUIRE(len + piece <= sizeof body);
                memcpy(body + len, part.data + at, piece);
                len += piece;
                at += piece;
            } else {
                REQUIRE(failed && reply->len == before);
                short_of_memory = true;
            }
            REQUIRE(reply->len == strlen("echo: ") + len);
            REQUIRE(reply->len <= reply->size);
            REQUIRE(memcmp(reply->data + strlen("echo: "), body, len) == 0);
        }
    }
    if (short_of_memory)
        reason = REASON_NO_MEMORY;
    failed = false;
    enum reason last = reply_finish(reply, reason, status);
    REQUIRE(last == (failed ? REASON_NO_MEMORY : reason));
    REQUIRE(reply->len <= reply->size);
    if (last == REASON_NONE)
        check_echo(reply->data, reply->len, body, len);
    else
        check_error(reply->data, reply->len, last, status);

    failed = false;
    reply_shrink(reply);
    REQUIRE(reply->size >= ERROR_REPLY_SIZE);
    REQUIRE(reply->size <= MOST_KEPT || failed);
}

/* Escapes the bytes, and checks each. */
static void try_escape(struct input part)
{
    static const char start[] = "?text=";
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop"
                                "qrstuvwxyz0123456789-._~";
    struct buffer url = {0};

    failed = false;
    bool ok = buffer_append(&url, start, strlen(start)) &&
              buffer_append_escaped(&url, (const char *)part.data, part.len);
    REQUIRE(ok != failed && url.len <= url.size);
    size_t at = strlen(start);
    for (size_t i = 0; i < part.len && ok; i++) {
        char due[8] = {(char)part.data[i]};
        if (due[0] == '\0' || strchr(plain, due[0]) == NULL)
            snprintf(due, sizeof due, "%%%02X", part.data[i]);
        REQUIRE(url.len - at >= strlen(due));
        REQUIRE(memcmp(url.data + at, due, strlen(due)) == 0);
        at += strlen(due);
    }
    REQUIRE(!ok || at == url.len);
    free(url.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {.data = data, .len = size};
    struct buffer reply;

    calls_to_fail = 0;
    REQUIRE(reply_init(&reply));
    calls_to_fail = take_byte(&input) % 64;
    for (unsigned replies = 1 + take_byte(&input) % 4; replies > 0;
         replies--) {
        enum reason reason = take_byte(&input) % REASONS;
        long status = (long)take_short(&input) - 0x8000;
        unsigned times = 1 + take_byte(&input) % 16;
        struct pieces pieces = take_pieces(&input);
        struct input part = {.data = input.data, .len = input.len / replies};

        input.data += part.len;
        input.len -= part.len;
        try_reply(&reply, &pieces, part, times, reason, status);
        try_escape(part);
    }
    free(reply.data);
    return 0;
}
