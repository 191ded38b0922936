// SPDX-License-Identifier: MIT
/*
 * Lines that name themselves, and the judgement on their replies. Neither
 * keeps a copy: what a reply should be follows from the two numbers.
 */
#include "payload.h"

#include <stdlib.h>
#include <string.h>

#define ECHO "echo: "
#define ERROR "error: "

enum {
    ECHO_LEN = sizeof ECHO - 1,
    ERROR_LEN = sizeof ERROR - 1,
    CONNECTION_DIGITS = 6,
    NUMBER_DIGITS = 9,
    LETTERS = 26,
};

/* Line numbers are written modulo this. */
static const uint64_t NUMBERS = 1000000000;

bool payload_init(struct payload *payload, size_t line_size, size_t reply_size)
{
    payload->line_size = line_size;
    payload->reply_size = reply_size;
    payload->filler = malloc(line_size + LETTERS);
    if (payload->filler == NULL)
        return false;
    for (size_t i = 0; i < line_size + LETTERS; i++)
        payload->filler[i] = (char)('a' + i % LETTERS);
    return true;
}

void payload_free(struct payload *payload)
{
    free(payload->filler);
    payload->filler = NULL;
}

/* Write the last digits of value to out. */
static void write_digits(char *out, int digits, uint64_t value)
{
    for (int i = digits - 1; i >= 0; i--) {
        out[i] = (char)('0' + value % 10);
        value /= 10;
    }
}

static void write_tag(char tag[LINE_TAG], uint32_t connection, uint64_t number)
{
    write_digits(tag, CONNECTION_DIGITS, connection);
    tag[CONNECTION_DIGITS] = '-';
    write_digits(tag + CONNECTION_DIGITS + 1, NUMBER_DIGITS, number % NUMBERS);
}

/* Return what follows the tag: a different piece for neighbours. */
static const char *filler_of(const struct payload *payload,
                             uint32_t connection, uint64_t number)
{
    return payload->filler + (connection + number % NUMBERS) % LETTERS;
}

void payload_write_line(const struct payload *payload, uint32_t connection,
                        uint64_t number, char *out)
{
    write_tag(out, connection, number);
    memcpy(out + LINE_TAG, filler_of(payload, connection, number),
           payload->line_size - LINE_TAG);
    out[payload->line_size] = '\n';
}

size_t payload_reply_length(const struct payload *payload)
{
    return ECHO_LEN + payload->reply_size;
}

/* Compare the first len bytes at most of a with those of b. */
static bool same_start(const char *a, const char *b, size_t size, size_t len)
{
    return memcmp(a, b, size < len ? size : len) == 0;
}

/* Tell whether reply is the first len bytes of the right one. */
static bool begins_right(const struct payload *payload, uint32_t connection,
                         uint64_t number, const char *reply, size_t len)
{
    char tag[LINE_TAG];
    if (len > payload_reply_length(payload) ||
        !same_start(reply, ECHO, ECHO_LEN, len))
        return false;
    write_tag(tag, connection, number);
    const char *filler = filler_of(payload, connection, number);
    /* Once for a plain echo, more often for a body that repeats the line. */
    for (size_t at = ECHO_LEN; at < len; at += payload->line_size) {
        if (!same_start(reply + at, tag, LINE_TAG, len - at))
            return false;
        if (len - at > LINE_TAG &&
            !same_start(reply + at + LINE_TAG, filler,
                        payload->line_size - LINE_TAG, len - at - LINE_TAG))
            return false;
    }
    return true;
}

/* Read digits at text into *value. False when there is anything else. */
static bool read_digits(const char *text, int digits, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < digits; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *value = *value * 10 + (uint64_t)(text[i] - '0');
    }
    return true;
}

/* Return the number that is written as written and is nearest to number. */
static uint64_t nearest_number(uint64_t number, uint64_t written)
{
    uint64_t near = number - number % NUMBERS + written;
    if (near > number + NUMBERS / 2 && near >= NUMBERS)
        return near - NUMBERS;
    if (near + NUMBERS / 2 < number)
        return near + NUMBERS;
    return near;
}

enum verdict payload_judge(const struct payload *payload, uint32_t connection,
                           uint64_t number, const char *reply, size_t len,
                           uint64_t *other)
{
    if (begins_right(payload, connection, number, reply, len))
        return len == payload_reply_length(payload) ? REPLY_RIGHT
                                                    : REPLY_PREFIX;
    if (len >= ERROR_LEN && memcmp(reply, ERROR, ERROR_LEN) == 0)
        return REPLY_ERROR;
    uint64_t their_connection = 0;
    uint64_t their_number = 0;
    const char *tag = reply + ECHO_LEN;
    if (len != payload_reply_length(payload) ||
        payload->reply_size < LINE_TAG ||
        !read_digits(tag, CONNECTION_DIGITS, &their_connection) ||
        !read_digits(tag + CONNECTION_DIGITS + 1, NUMBER_DIGITS,
                     &their_number) ||
        !begins_right(payload, (uint32_t)their_connection, their_number, reply,
                      len))
        return REPLY_WRONG;
    if (their_connection != connection)
        return REPLY_MIXED_UP;
    *other = nearest_number(number, their_number);
    return REPLY_OTHER_LINE;
}
