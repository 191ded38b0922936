/*
 * options.c - threadecho's command line, see options.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "options.h"
#include "listen.h"
#include "log.h"
#include "values.h"

#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SHOWN_SIZE 256 /* bytes of an argument that a message repeats */

/* An option: all that the parser, the help and the defaults know of it. */
struct row {
    const char *name;
    int letter; /* or a number above any letter's */
    enum { FLAG, TEXT, ADDRESS, COUNT, SECONDS } kind;
    size_t member; /* its offset in struct options */
    double min, max;
    const char *argument; /* NULL for a flag */
    const char *initial;  /* the default as an argument, or NULL */
    const char *help;
};

#define MEMBER(name) offsetof(struct options, name)
#define DAY 86400 /* seconds */

static const struct row rows[] = {
    {"listen", 'l', ADDRESS, MEMBER(listen), 0, 0, "HOST:PORT",
     "127.0.0.1:8080", "where to listen; port 0: any"},
    {"upstream", 'u', TEXT, MEMBER(upstream), 0, 0, "URL",
     "http://127.0.0.1:8081/arrpi.php", "what to fetch"},
    {"echo", 'e', FLAG, MEMBER(echo), 0, 0, NULL, NULL,
     "answer with the line itself, no upstream"},
    {"no-keepalive", 256, FLAG, MEMBER(no_keepalive), 0, 0, NULL, NULL,
     "a new upstream connection per fetch"},
    {"timeout", 257, SECONDS, MEMBER(timeout_ms), 0.001, DAY, "SEC", "10",
     "total time per fetch"},
    {"connect-timeout", 258, SECONDS, MEMBER(connect_timeout_ms), 0.001, DAY,
     "SEC", "3", "time to resolve and connect"},
    {"line-timeout", 259, SECONDS, MEMBER(line_timeout_ms), 0.001, DAY, "SEC",
     "60", "time per line, from its first byte"},
    {"idle-timeout", 260, SECONDS, MEMBER(idle_timeout_ms), 0, DAY, "SEC", "0",
     "time between lines; 0: no limit"},
    {"max-connections", 261, COUNT, MEMBER(max_connections), 1, 1000000, "N",
     NULL, "connections at once (as limits allow)"},
    {"max-fetches", 262, COUNT, MEMBER(max_fetches), 1, 100000, "N", NULL,
     "fetches at once, others wait (as limits\n"
     "allow, up to 1024)"},
    {"max-line", 263, COUNT, MEMBER(max_line), 1, 1048576, "BYTES", "65536",
     "longest line"},
    {"max-body", 264, COUNT, MEMBER(max_body), 1, 1073741824, "BYTES",
     "1048576", "longest body from the upstream"},
    {"stack-size", 265, COUNT, MEMBER(stack_kib), 64, 1048576, "KIB", "128",
     "stack per connection's thread"},
    {"cacert", 266, TEXT, MEMBER(cacert), 0, 0, "FILE", NULL,
     "certificates to trust for https"},
    {"verbose", 'v', FLAG, MEMBER(verbose), 0, 0, NULL, NULL,
     "log connections and errors"},
    {"help", 'h', FLAG, MEMBER(help), 0, 0, NULL, NULL, "print this and exit"},
    {"version", 'V', FLAG, MEMBER(version), 0, 0, NULL, NULL,
     "print the versions and exit"},
};
enum { ROWS = sizeof rows / sizeof rows[0] };

const char *hide_password(const char *text, char *copy, size_t size)
{
    /* The scheme may stay. All else before the last @ goes: in a URL that is
     * not well formed, a password can be anywhere. */
    size_t scheme = strspn(text, "abcdefghijklmnopqrstuvwxyz"
                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    scheme = strncmp(text + scheme, "://", 3) == 0 ? scheme + 3 : 0;
    const char *at = strrchr(text + scheme, '@');

    if (at == NULL)
        snprintf(copy, size, "%s", text);
    else
        snprintf(copy, size, "%.*s***%s", (int)scheme, text, at);
    return copy;
}

/* Sets the member that the option stands for. Returns whether its argument
 * will do; if not, logs why. */
static bool apply(const struct row *row, struct options *options,
                  const char *argument)
{
    void *member = (char *)options + row->member;
    char shown[SHOWN_SIZE], bad[BAD_VALUE_SIZE], host[HOST_SIZE];
    const char *port, *kind = "whole number";
    uint64_t count;
    double seconds;

    switch (row->kind) {
    case FLAG:
        *(bool *)member = true;
        return true;
    case COUNT:
        if (parse_whole(argument, (uint64_t)row->min, (uint64_t)row->max,
                        &count)) {
            *(long *)member = (long)count;
            return true;
        }
        break;
    case SECONDS:
        if (parse_decimal(argument, row->min, row->max, &seconds)) {
            *(long *)member = (long)(seconds * 1000 + 0.999); /* ms */
            return true;
        }
        kind = "number of seconds";
        break;
    case ADDRESS:
        if (!split_address(argument, host, &port)) {
            log_line("--%s: '%s' is not HOST:PORT with a port from 0 to 65535",
                     row->name, hide_password(argument, shown, sizeof shown));
            return false;
        }
        *(const char **)member = argument;
        return true;
    case TEXT:
        *(const char **)member = argument;
        return true;
    }
    log_line("--%s: %s", row->name,
             describe_bad_value(bad,
                                hide_password(argument, shown, sizeof shown),
                                kind, row->min, row->max));
    return false;
}

/* Finds the row of a letter; NULL if there is none. */
static const struct row *find_row(int letter)
{
    for (int i = 0; i < ROWS; i++)
        if (rows[i].letter == letter)
            return &rows[i];
    return NULL;
}

/* Logs why getopt_long returned '?' or ':'. Its own message would repeat the
 * argument, which may be a URL with a password. */
static void log_mistake(int result, const char *word)
{
    const struct row *row = find_row(optopt);
    size_t name_len = strcspn(word, "=:@");
    char shown[SHOWN_SIZE];

    if (result == ':' && strncmp(word, "--", 2) != 0)
        log_line("option requires an argument -- '%c'", row->letter);
    else if (result == ':')
        log_line("option '--%s' requires an argument", row->name);
    else if (row != NULL)
        log_line("option '--%s' takes no argument", row->name);
    else if (optopt != 0)
        log_line("invalid option -- '%c'", optopt);
    else if (name_len == strcspn(word, "="))
        log_line("unrecognized or ambiguous option '%.*s'", (int)name_len,
                 word);
    else /* a URL may lack the blank before it */
        log_line("unrecognized or ambiguous option '%s'",
                 hide_password(word, shown, sizeof shown));
}

bool parse_options(int argc, char **argv, struct options *options)
{
    char letters[2 * ROWS + 2] =
        ":"; /* makes getopt return ':' for a missing argument */
    struct option names[ROWS + 1] = {0};
    char shown[SHOWN_SIZE];
    size_t len = strlen(letters);

    *options = (struct options){0};
    for (int i = 0; i < ROWS; i++) {
        bool takes = rows[i].argument != NULL;
        names[i] = (struct option){rows[i].name,
                                   takes ? required_argument : no_argument,
                                   NULL, rows[i].letter};
        if (rows[i].letter < 256)
            letters[len++] = (char)rows[i].letter;
        if (rows[i].letter < 256 && takes)
            letters[len++] = ':';
        if (rows[i].initial != NULL &&
            !apply(&rows[i], options, rows[i].initial))
            return false;
    }

    optind = 0; /* start afresh */
    opterr = 0;
    while (!options->help && !options->version) {
        int result = getopt_long(argc, argv, letters, names, NULL);
        if (result == -1 && optind == argc)
            return true;
        const struct row *row = find_row(result);
        if (result == -1)
            log_line("unexpected argument '%s'",
                     hide_password(argv[optind], shown, sizeof shown));
        else if (row == NULL)
            log_mistake(result, argv[optind - 1]);
        if (row == NULL || !apply(row, options, optarg))
            return false;
    }
    return true;
}

/* Prints an option and its argument, then its help from column 29 on. If that
 * fails, stdout remembers it. */
static void print_row(const struct row *row)
{
    char left[64], letter[8] = "    ";

    if (row->letter < 256)
        snprintf(letter, sizeof letter, "-%c, ", row->letter);
    snprintf(left, sizeof left, "%s--%s%s%s", letter, row->name,
             row->argument != NULL ? " " : "",
             row->argument != NULL ? row->argument : "");
    int first = (int)strcspn(row->help, "\n");
    printf("  %-26s %.*s", left, first, row->help);
    if (row->help[first] == '\n')
        printf("\n%29s%s", "", row->help + first + 1);
    if (row->initial != NULL)
        printf(" (%s)", row->initial);
    printf("\n");
}

/* Returns whether all that was printed has been written. */
static bool all_written(void)
{
    return fflush(stdout) == 0 && ferror(stdout) == 0;
}

bool print_help(void)
{
    printf("Usage: threadecho [OPTION]...\n"
           "Answers each line a client sends with what URL?text=LINE "
           "returns.\n\n");
    for (int i = 0; i < ROWS; i++)
        print_row(&rows[i]);
    return all_written();
}

bool print_version(const char *library)
{
    printf("threadecho %s, %s\n", VERSION, library);
    return all_written();
}
