/*
 * options.h - threadecho's command line
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* What the command line asks for. The strings are those of argv, or static. */
struct options {
    const char *listen;   /* HOST:PORT */
    const char *upstream; /* URL */
    const char *cacert;   /* FILE, or NULL for the system's */
    bool echo;
    bool no_keepalive;
    bool verbose;
    bool help;    /* print the help and do nothing else */
    bool version; /* print the versions and do nothing else */
    long timeout_ms;
    long connect_timeout_ms;
    long line_timeout_ms;
    long idle_timeout_ms; /* 0: none */
    long max_connections; /* 0: as many as the limits allow */
    long max_fetches;     /* 0: the same */
    long max_line;        /* bytes */
    long max_body;        /* bytes */
    long stack_kib;
};

/*
 * Sets the defaults and then what argv says, up to --help or --version.
 * Returns true, or false with the mistake logged, its option named. Uses
 * getopt_long, and so is for one thread at a time; may be called again.
 */
bool parse_options(int argc, char **argv, struct options *options);

/* Print to stdout the help, or the version of the program and that of its
 * library. Return whether all of it was written. */
bool print_help(void);
bool print_version(const char *library);

/*
 * Copies text, cut to size bytes with the NUL, with all that may be the user
 * and the password of a URL in it replaced by "***". Returns copy.
 */
const char *hide_password(const char *text, char *copy, size_t size);

#endif
