/*
 * subject.h - the server that a proof runs: started, read, ended
 *
 * Nothing of lib/ is used: it is what is judged.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef SUBJECT_H
#define SUBJECT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Longest wait for what has to happen, even on a busy machine, in ms. */
#define SUBJECT_PATIENCE_MS 60000

struct subject {
    pid_t pid;  /* 0 once it has ended */
    int log;    /* its stderr: a file in memory, or -1 */
    int status; /* as of waitpid, once it has ended */
};

/* Returns monotonic time in ms. */
long long subject_now_ms(void);

/* Sleeps this long, or until a signal. */
void pause_ms(long ms);

/* Returns a number below limit, from a state that it changes (splitmix64). */
unsigned chance(uint64_t *random, unsigned limit);

/* Starts a program with these arguments. It is killed when the thread that
 * called this ends. A traced one stops at its exec and is to be waited for.
 * Returns false, with errno set, when that fails. */
bool subject_start(struct subject *subject, char *const argv[], bool traced);

/* Returns the port of "listening on 127.0.0.1:PORT" in its log, or 0. */
int subject_logged_port(const struct subject *subject);

/* Waits until it logs that. Returns the port, or 0
 * when it has ended, or has not logged that within SUBJECT_PATIENCE_MS. */
int subject_port(struct subject *subject);

/* Waits for its end. Returns false if it still runs after timeout_ms. */
bool subject_ends(struct subject *subject, long timeout_ms);

/* Kills it if it still runs, waits for its end, and drops its log. */
void subject_free(struct subject *subject);

/* Returns its stderr by now, NUL-terminated; the caller frees it. */
char *subject_log(const struct subject *subject);

/* Returns the first line of a log that threadecho has not written, such as the
 * report of a sanitizer or of valgrind, or NULL. */
const char *subject_report(const char *log);

/* Returns the last summary line of a log after *seen others, or NULL. Counts
 * all that are there into *seen. */
const char *subject_summary(const char *log, int *seen);

/* Returns the number after " KEY=" in a summary line, or 0. */
long subject_value(const char *summary, const char *key);

#endif
