// SPDX-License-Identifier: MIT
/*
 * Programs that run to their end: started by a command line, fed, awaited
 * within a bounded time, and what they wrote. For servers see harness.h.
 */
#ifndef COMMAND_H
#define COMMAND_H

#include <sys/types.h>

struct command {
    pid_t pid;
    int in;     /* its standard input, a pipe; -1 once closed */
    int out_fd; /* what it writes: files in memory */
    int err_fd;
    int status; /* set by command_wait: 128 + signal if one killed it */
    char *out;  /* set by command_wait, with a NUL behind */
    char *err;
};

/*
 * Starts a command line, made as by printf, in the shell. It gets SIGKILL when
 * the test ends, however it ends.
 */
__attribute__((format(printf, 1, 2))) struct command *
command_start(const char *format, ...);

/* Waits until text stands in its standard error; fails the test if it ends
 * first or that takes too long. */
void command_says(struct command *command, const char *text);

/* Closes its input and waits for its end, which must come in good time and
 * without a complaint of a sanitizer. */
void command_wait(struct command *command);

/* Starts a command line and waits for its end. */
__attribute__((format(printf, 1, 2))) struct command *
command_run(const char *format, ...);

void command_free(struct command *command);

/* The path of a program of the kit: below $BUILD, or else below build. */
const char *kit_program(const char *name);

#endif
