/*
 * arguments.h - what the kit's programs do with their arguments and outputs
 *
 * An argument program is the name that a message begins with.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_ARGUMENTS_H
#define BENCH_ARGUMENTS_H

#include <getopt.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#define ADDRESS_TEXT 96 /* bytes of "[IPv6%scope]:PORT", its NUL included */

/* A socket address of any family, with the length that bind() takes. */
struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_storage storage;
    } u;
    socklen_t len;
};

/* Prints a message and a hint at --help to stderr, and exits with 2. */
_Noreturn void exit_bad_usage(const char *program, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints text to stdout and exits with 0, or with 1 if that failed. */
_Noreturn void exit_printing(const char *program, const char *text);

/*
 * Returns the next option as getopt_long() does, or -1. After a message that
 * begins with the program's name, not its path, exits with 2 if it is wrong.
 */
int next_option(const char *program, int argc, char **argv,
                const char *letters, const struct option *options);

/*
 * Returns the value of an option: a whole number from min to max. Exits by
 * exit_bad_usage() if text is anything else.
 */
uint64_t whole_argument(const char *program, const char *option,
                        const char *text, uint64_t min, uint64_t max);

/*
 * Returns the value of an option: a number from min to max, decimals allowed.
 * Exits by exit_bad_usage() if text is anything else, and then calls it a
 * kind, such as "number of seconds".
 */
double decimal_argument(const char *program, const char *option,
                        const char *text, const char *kind, double min,
                        double max);

/*
 * Returns the address that the value of an option, HOST:PORT or [IPv6]:PORT,
 * resolves to. Exits by exit_bad_usage() if there is none.
 */
struct address address_argument(const char *program, const char *option,
                                const char *text);

/* Writes HOST:PORT or [IPv6]:PORT, all numeric, to text and returns text. */
const char *format_address(const struct address *address,
                           char text[ADDRESS_TEXT]);

/*
 * Raises the soft limit on descriptors to the hard one and, if the process is
 * privileged, the hard one to want. Returns the number of descriptors that the
 * process may have now, or 0 if that is unknown.
 */
uint64_t raise_descriptor_limit(uint64_t want);

/*
 * Closes a file that was written to. An error is the errno of a write that
 * failed, if known, or 0. Returns false, with a message on stderr that has the
 * file's name, if anything written to it was lost.
 */
bool close_output(const char *program, FILE *file, const char *name,
                  int error);

/*
 * Flushes stdout: a full disk shows here and no earlier. Returns false, with a
 * message on stderr, if anything printed to it was lost.
 */
bool close_stdout(const char *program);

#endif
