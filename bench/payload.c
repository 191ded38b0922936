/*
 * payload.c - lines that name themselves, and the classes of replies to them
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

bool payload_init(struct payload *payload, size_t line_size, size_t reply_size,
                  const struct mark_key *key)
{
    payload->line_size = line_size;
    payload->reply_size = reply_size;
    payload->key = key;
    payload->filler = malloc(line_size + LETTERS);
    payload->line = malloc(line_size + 1);
    if (payload->filler == NULL || payload->line == NULL)
        return false;
    for (size_t i = 0; i < line_size + LETTERS; i++)
        payload->filler[i] = (char)('a' + i % LETTERS);
    return true;
}

void payload_free(struct payload *payload)
{
    free(payload->filler);
    free(payload->line);
    payload->filler = NULL;
    payload->line = NULL;
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

/* Writes letters to what follows the tag. They differ between neighbours. */
static void write_letters(const struct payload *payload, uint32_t connection,
                          uint64_t number, char *out, size_t size)
{
    size_t start = (connection + number % NUMBERS) % LETTERS;
    memcpy(out, payload->filler + start, size);
    if (payload->key != NULL) {
        char salt[SALT_LEN];
        mark_salt(payload->key, connection, number % NUMBERS, salt);
        memcpy(out, salt, size < SALT_LEN ? size : SALT_LEN);
    }
}

void payload_write_line(const struct payload *payload, uint32_t connection,
                        uint64_t number, char *out)
{
    write_tag(out, connection, number);
    write_letters(payload, connection, number, out + LINE_TAG,
                  payload->line_size - LINE_TAG);
    out[payload->line_size] = '\n';
}

size_t payload_reply_length(const struct payload *payload)
{
    return ECHO_LEN + payload->reply_size +
           (payload->key != NULL ? 1 + MARK_LEN : 0);
}

/* Returns whether a and b agree in size bytes, or in len if that is less. */
static bool same_start(const char *a, const char *b, size_t size, size_t len)
{
    return memcmp(a, b, size < len ? size : len) == 0;
}

/*
 * Judges what follows the right body of a reply: nothing, or a blank and the
 * mark of the line that is in payload->line.
 */
static enum reply_class judge_mark(const struct payload *payload,
                                   const char *rest, size_t len)
{
    if (payload->key == NULL)
        return len == 0 ? REPLY_RIGHT : REPLY_WRONG;
    if (len == 0)
        return REPLY_UNMARKED;
    if (rest[0] != ' ')
        return REPLY_WRONG;
    char mark[MARK_LEN];
    mark_text(payload->key, payload->line, payload->line_size, mark);
    /* A single digit of it may be luck, but then the line fails as well. */
    if (len == 1 || !same_start(rest + 1, mark, MARK_LEN, len - 1))
        return REPLY_UNMARKED;
    if (len < 1 + MARK_LEN)
        return REPLY_PREFIX;
    return len == 1 + MARK_LEN ? REPLY_RIGHT : REPLY_WRONG;
}

/* Judges a reply as the answer to one line, without a thought of others. */
static enum reply_class judge_alone(const struct payload *payload,
                                    uint32_t connection, uint64_t number,
                                    const char *reply, size_t len)
{
    size_t body_end = ECHO_LEN + payload->reply_size;
    size_t compared = len < body_end ? len : body_end;
    if (!same_start(reply, ECHO, ECHO_LEN, compared))
        return REPLY_WRONG;
    payload_write_line(payload, connection, number, payload->line);
    /* A plain echo has the line once, a longer body repeats it. */
    for (size_t at = ECHO_LEN; at < compared; at += payload->line_size)
        if (!same_start(reply + at, payload->line, payload->line_size,
                        compared - at))
            return REPLY_WRONG;
    if (len < body_end)
        return REPLY_PREFIX;
    return judge_mark(payload, reply + body_end, len - body_end);
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

enum reply_class payload_judge(const struct payload *payload,
                               uint32_t connection, uint64_t number,
                               const char *reply, size_t len, uint64_t *other)
{
    enum reply_class class =
        judge_alone(payload, connection, number, reply, len);
    if (class != REPLY_WRONG)
        return class;
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
        judge_alone(payload, (uint32_t)their_connection, their_number, reply,
                    len) != REPLY_RIGHT)
        return REPLY_WRONG;
    if (their_connection != connection)
        return REPLY_MIXED_UP;
    *other = nearest_number(number, their_number);
    return REPLY_OTHER_LINE;
}
