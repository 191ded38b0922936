/*
 * payload.c - lines that name themselves, and the verdicts on their replies
 *
 * No line is kept: the right reply follows from the two numbers.
 *
 * SPDX-License-Identifier: MIT
 */
#include "payload.h"

#include <stdlib.h>
#include <string.h>

#define ECHO "echo: "
#define ERROR "error: "

#define ECHO_LEN (sizeof ECHO - 1)
#define ERROR_LEN (sizeof ERROR - 1)
#define CONNECTION_DIGITS 6
#define NUMBER_DIGITS 9
#define NUMBERS 1000000000 /* line numbers are written modulo this */
#define LETTERS 26         /* different letters in what follows the tag */

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

/* Writes the last digits of value to out. */
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

/* Returns what follows the tag. It differs between neighbours. */
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

/* Returns whether a and b agree in size bytes, or in len if that is less. */
static bool same_start(const char *a, const char *b, size_t size, size_t len)
{
    return memcmp(a, b, size < len ? size : len) == 0;
}

/* Returns whether reply is the first len bytes of the right one. */
static bool begins_right(const struct payload *payload, uint32_t connection,
                         uint64_t number, const char *reply, size_t len)
{
    char tag[LINE_TAG];
    if (len > payload_reply_length(payload) ||
        !same_start(reply, ECHO, ECHO_LEN, len))
        return false;
    write_tag(tag, connection, number);
    const char *filler = filler_of(payload, connection, number);
    /* A plain echo has the line once, a longer body repeats it. */
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

/* Reads digits into *value. Returns false if text has anything else. */
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

/* Returns the number nearest to number whose last digits are written. */
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
