/*
 * command.h - programs that run to their end
 *
 * A test starts a command line, feeds it, waits for its end within a bounded
 * time and reads what it wrote. For servers see harness.h. Whatever goes wrong
 * here fails the test that runs.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COMMAND_H
#define COMMAND_H

#include <sys/types.h>

struct command {
    pid_t pid;
    int in;     /* its standard input, a pipe; -1 once closed */
    int out_fd; /* its standard output, a file in memory */
    int err_fd; /* its standard error, likewise */
    int status; /* set by command_wait: 128 + signal if one killed it */
    char *out;  /* set by command_wait: a string */
    char *err;
};

/*
 * Starts a command line, given as for printf, in the shell. It is killed when
 * the test ends, however it ends. The caller frees it by command_free().
 */
__attribute__((format(printf, 1, 2))) struct command *
command_start(const char *format, ...);

/* Waits until its standard error has the text. Fails the test if it ends
 * before that, or if that takes too long. */
void command_says(struct command *command, const char *text);

/* Closes its input and waits for its end. Fails the test if that takes too
 * long, or if a sanitizer has reported an error. */
void command_wait(struct command *command);

/* Starts a command line and waits for its end, as the two above do. */
__attribute__((format(printf, 1, 2))) struct command *
command_run(const char *format, ...);

/* Kills it if it still runs, and frees it. */
void command_free(struct command *command);

/* Returns the path of a program of the kit, until the next call: in $BUILD, or
 * where it is built along with the tests. */
const char *kit_program(const char *name);

#endif
