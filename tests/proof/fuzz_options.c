/*
 * fuzz_options.c - the command line, values, addresses, and what is logged
 *
 * An input's first byte says what is tried: words as a command line; one value
 * for one option, against a plain reading of it; a number in a range; an
 * address; a text that may have a password. What is logged is looked at too.
 *
 * Under test: lib/options.c lib/values.c
 * libFuzzer: -max_len=512
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

#include "../../lib/listen.h"
#include "../../lib/options.h"
#include "../../lib/values.h"

#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static int log_poll(struct pollfd *fds, nfds_t count, int timeout_ms);
static ssize_t keep_log(int fd, const void *text, size_t len);

#define poll log_poll
#define write keep_log
#include "../../lib/log.c"
#undef write
#undef poll

#define MOST_TEXT 1024
#define MOST_WORDS 24
#define LOG_PREFIX "threadecho: "

/* What was logged, ended by a NUL. */
static char logged[4096];
static unsigned logged_lines;

static int log_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    REQUIRE(count == 1 && fds->fd == STDERR_FILENO);
    REQUIRE(fds->events == POLLOUT && timeout_ms == 100);
    return 1;
}

static ssize_t keep_log(int fd, const void *text, size_t len)
{
    REQUIRE(fd == STDERR_FILENO && len <= 2048 && len < sizeof logged);
    memcpy(logged, text, len);
    logged[len] = '\0';
    logged_lines++;

    REQUIRE(strlen(logged) == len && len > strlen(LOG_PREFIX));
    REQUIRE(strncmp(logged, LOG_PREFIX, strlen(LOG_PREFIX)) == 0);
    REQUIRE(logged[len - 1] == '\n');
    for (size_t i = 0; i < len - 1; i++)
        REQUIRE((unsigned char)logged[i] >= ' ' && logged[i] != 0x7f);
    return (ssize_t)len;
}

/* Takes the rest of the input, up to a NUL, as a string. */
static void take_text(struct input *input, char text[MOST_TEXT])
{
    size_t len = 0;

    while (len < MOST_TEXT - 1 && input->len > 0) {
        text[len] = (char)take_byte(input);
        if (text[len] == '\0')
            break;
        len++;
    }
    text[len] = '\0';
}

/* All numbers, in the ranges that the manual promises. */
static const struct number {
    const char *name;
    bool is_time; /* then the member is in ms */
    uint64_t min, max;
    size_t member;
} numbers[] = {
    {"--timeout", true, 1, 86400000, offsetof(struct options, timeout_ms)},
    {"--connect-timeout", true, 1, 86400000,
     offsetof(struct options, connect_timeout_ms)},
    {"--line-timeout", true, 1, 86400000,
     offsetof(struct options, line_timeout_ms)},
    {"--idle-timeout", true, 0, 86400000,
     offsetof(struct options, idle_timeout_ms)},
    {"--max-connections", false, 1, 1000000,
     offsetof(struct options, max_connections)},
    {"--max-fetches", false, 1, 100000, offsetof(struct options, max_fetches)},
    {"--max-line", false, 1, 1048576, offsetof(struct options, max_line)},
    {"--max-body", false, 1, 1073741824, offsetof(struct options, max_body)},
    {"--stack-size", false, 64, 1048576, offsetof(struct options, stack_kib)},
};
enum { NUMBERS = sizeof numbers / sizeof numbers[0] };

static long number_of(const struct options *options, const struct number *row)
{
    return *(const long *)((const char *)options + row->member);
}

/* Reads decimal digits. Returns false if there is none or something else. */
static bool read_whole(const char *text, uint64_t *number)
{
    uint64_t sum = 0;
    size_t i = 0;

    for (; text[i] >= '0' && text[i] <= '9'; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (sum > (UINT64_MAX - digit) / 10)
            return false; /* out of every range */
        sum = sum * 10 + digit;
    }
    *number = sum;
    return i > 0 && text[i] == '\0';
}

/* Reads seconds into microseconds, 10^12 of them at most; *more if there is a
 * part of one beyond. Returns false if it is no decimal number. */
static bool read_seconds(const char *text, uint64_t *us, bool *more)
{
    static const uint64_t most = 1000000000000U;
    bool point = false, digits = false;
    uint64_t unit = 1000000;

    *us = 0;
    *more = false;
    for (; *text != '\0'; text++) {
        if (*text == '.' && !point) {
            point = true;
            continue;
        }
        if (*text < '0' || *text > '9')
            return false;
        uint64_t digit = (uint64_t)(*text - '0');
        digits = true;
        if (!point) {
            *us = *us * 10 + digit * unit;
            *us = *us < most ? *us : most;
        } else {
            unit /= 10;
            *us += digit * unit;
            *more = *more || (unit == 0 && digit != 0);
        }
    }
    return digits;
}

/* Checks a number of an option against a plain reading of its text. */
static void check_number(const struct number *row, const char *text,
                         bool taken, uint64_t value)
{
    uint64_t number = 0;
    bool more = false;

    if (!row->is_time) {
        bool due = read_whole(text, &number) && number >= row->min &&
                   number <= row->max;
        REQUIRE(taken == due);
        REQUIRE(!taken || value == number);
        return;
    }
    if (!read_seconds(text, &number, &more)) {
        REQUIRE(!taken);
        return;
    }
    /* A double can't tell the ends of the range from what is just outside. */
    const uint64_t min = row->min * 1000, max = row->max * 1000;
    bool near = more && (number == max || (min > 0 && number == min - 1));
    REQUIRE(near || taken == (number >= min &&
                              (number < max || (number == max && !more))));
    if (!taken)
        return;
    uint64_t part = number % 1000;
    uint64_t up = number / 1000 + (part > 0 || more);
    /* Up to a whole millisecond, unless almost nothing is missing. */
    REQUIRE(value == up || (part < 10 && value == number / 1000));
    REQUIRE(value >= row->min && value <= row->max);
}

/* Writes an end of the row's range, or the number before or after it. */
static void write_end(const struct number *row, unsigned which,
                      char text[MOST_TEXT])
{
    uint64_t number = (which % 2 == 0 ? row->min : row->max) + which / 2 % 3;

    number -= number > 0; /* there is none before 0 */
    if (row->is_time)
        snprintf(text, MOST_TEXT, "%" PRIu64 ".%03" PRIu64, number / 1000,
                 number % 1000);
    else
        snprintf(text, MOST_TEXT, "%" PRIu64, number);
}

static void try_number(struct input input)
{
    const struct number *row = &numbers[take_byte(&input) % NUMBERS];
    unsigned how = take_byte(&input);
    bool apart = how % 2 == 0;
    char text[MOST_TEXT], word[MOST_TEXT + 32], program[] = "threadecho";
    struct options options;

    if (how % 4 < 2)
        take_text(&input, text);
    else
        write_end(row, how / 4, text);
    snprintf(word, sizeof word, apart ? "%s" : "%s=%s", row->name, text);
    char *argv[] = {program, word, apart ? text : NULL, NULL};
    bool taken = parse_options(apart ? 3 : 2, argv, &options);

    REQUIRE(logged_lines == (taken ? 0 : 1));
    check_number(row, text, taken, (uint64_t)number_of(&options, row));
}

static void try_range(struct input input)
{
    uint64_t ends[2] = {0}, value = 0xdead, number = 0;
    char text[MOST_TEXT];

    for (int i = 0; i < 2; i++) {
        unsigned bytes = take_byte(&input) % 10;
        for (unsigned byte = 0; byte < bytes && bytes < 9; byte++)
            ends[i] = ends[i] << 8 | take_byte(&input);
        if (bytes == 9)
            ends[i] = UINT64_MAX;
    }
    take_text(&input, text);
    bool taken = parse_whole(text, ends[0], ends[1], &value);
    REQUIRE(taken == (read_whole(text, &number) && number >= ends[0] &&
                      number <= ends[1]));
    REQUIRE(value == (taken ? number : 0xdead));
}

/* Returns whether text is HOST:PORT or [HOST]:PORT, read from its end. */
static bool read_address(const char *text)
{
    size_t len = strlen(text), end = len;
    unsigned port = 0;

    while (end > 0 && text[end - 1] >= '0' && text[end - 1] <= '9')
        end--;
    if (end == len || len - end > 5 || end == 0 || text[end - 1] != ':')
        return false;
    for (size_t i = end; i < len; i++)
        port = port * 10 + (unsigned)(text[i] - '0');
    end--;
    if (port > 65535)
        return false;
    if (end > 2 && text[0] == '[' && text[end - 1] == ']')
        return end - 2 < HOST_SIZE;
    for (size_t i = 0; i < end; i++)
        if (text[i] == ':' || text[i] == '[' || text[i] == ']')
            return false;
    return end < HOST_SIZE;
}

/* Tries an address: what is taken has the same text when put together. */
static bool check_address(const char *text)
{
    char host[HOST_SIZE], again[HOST_SIZE + 16];
    const char *port;

    if (!split_address(text, host, &port))
        return false;
    REQUIRE(port > text && port < text + strlen(text));
    snprintf(again, sizeof again, text[0] == '[' ? "[%s]:%s" : "%s:%s", host,
             port);
    REQUIRE(strcmp(again, text) == 0);
    return true;
}

static void try_address(struct input input)
{
    char text[256 + MOST_TEXT];
    size_t more = take_byte(&input); /* or the host would never be too long */

    memset(text, 'a', more);
    take_text(&input, text + more);
    REQUIRE(check_address(text) == read_address(text));
}

/* A text without what is before its last @, but for a scheme. */
static void try_password(struct input input)
{
    char text[MOST_TEXT], due[MOST_TEXT + 8], copy[MOST_TEXT + 8];
    size_t size = 1 + take_short(&input) % MOST_TEXT;
    size_t scheme = 0, len;

    take_text(&input, text);
    while (text[scheme] != '\0' && text[scheme] != ':' &&
           strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                  "0123456789+-.",
                  text[scheme]) != NULL)
        scheme++;
    scheme = strncmp(text + scheme, "://", 3) == 0 ? scheme + 3 : 0;
    len = strlen(text);
    while (len > scheme && text[len - 1] != '@')
        len--;
    if (len > scheme)
        snprintf(due, sizeof due, "%.*s***%s", (int)scheme, text,
                 text + len - 1);
    else
        snprintf(due, sizeof due, "%s", text);
    due[size - 1] = '\0';
    memset(copy, '~', sizeof copy);
    REQUIRE(hide_password(text, copy, size) == copy);
    REQUIRE(strcmp(copy, due) == 0);
    for (size_t i = size; i < sizeof copy; i++)
        REQUIRE(copy[i] == '~');
}

/* What stands for a password among the words. */
#define SECRET "hush!"

/* Finds out whether a word has it where a user or a password can be, and
 * whether it has it elsewhere: after the last @, or in an option's name. */
static void find_secret(const char *word, bool *hidden, bool *shown)
{
    const char *at = strrchr(word, '@');
    size_t name = strcspn(word, "=:@");
    const char *first =
        word[0] == '-' && word[name] == '=' ? word + name : word;

    for (const char *secret = strstr(word, SECRET); secret != NULL;
         secret = strstr(secret + 1, SECRET)) {
        bool is_hidden = at != NULL && secret < at && secret >= first;
        *hidden = *hidden || is_hidden;
        *shown = *shown || !is_hidden;
    }
}

/* Any words at all as a command line. */
static void try_words(struct input input)
{
    static char words[MOST_WORDS][MOST_TEXT];
    char program[] = "threadecho";
    char *argv[MOST_WORDS + 2] = {program};
    int argc = 1;
    bool hidden = false, shown = false;
    struct options options;

    while (input.len > 0 && argc <= MOST_WORDS) {
        char *word = words[argc - 1];
        take_text(&input, word);
        argv[argc++] = word;
        find_secret(word, &hidden, &shown);
    }
    argv[argc] = NULL;
    bool taken = parse_options(argc, argv, &options);

    REQUIRE(logged_lines == (taken ? 0 : 1));
    if (hidden && !shown)
        REQUIRE(strstr(logged, SECRET) == NULL);
    if (!taken)
        return;
    for (int i = 0; i < NUMBERS; i++) {
        long number = number_of(&options, &numbers[i]);
        bool by_limits = number == 0 && strncmp(numbers[i].name, "--max-",
                                                strlen("--max-")) == 0;
        REQUIRE(by_limits || (number >= (long)numbers[i].min &&
                              number <= (long)numbers[i].max));
    }
    REQUIRE(options.max_line > 0 && options.max_body > 0);
    REQUIRE(check_address(options.listen));
    REQUIRE(options.upstream != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(struct input) = {
        try_words, try_number, try_range, try_address, try_password};
    struct input input = {.data = data, .len = size};

    logged_lines = 0;
    logged[0] = '\0';
    tries[take_byte(&input) % 5](input);
    return 0;
}
