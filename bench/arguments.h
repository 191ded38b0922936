// SPDX-License-Identifier: MIT
/*
 * What the programs of the measuring kit have in common: numbers and
 * addresses on the command line, and the limit on descriptors.
 */
#ifndef BENCH_ARGUMENTS_H
#define BENCH_ARGUMENTS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* A socket address of whichever family, with the length that bind() takes. */
struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_storage storage;
    } u;
    socklen_t len;
};

/* Holds "[IPv6%scope]:PORT" and the NUL. */
enum { ADDRESS_TEXT = 96 };

/*
 * Resolve HOST:PORT or [IPv6]:PORT into *address. NULL when it could be done,
 * else a constant text that says what is wrong.
 */
const char *parse_address(const char *text, struct address *address);

/* Write HOST:PORT or [IPv6]:PORT, all numeric, into text and return it. */
const char *format_address(const struct address *address,
                           char text[ADDRESS_TEXT]);

/*
 * Raise the soft limit on descriptors to the hard one, and where it may, the
 * hard one to want. Returns how many descriptors the process may now have.
 */
uint64_t raise_descriptor_limit(uint64_t want);

/*
 * Make sure that what went to stdout arrived, as a full disk shows no earlier
 * than here. False, with a message that begins with program, when it did not.
 */
bool close_stdout(const char *program);

#endif
