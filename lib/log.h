/*
 * log.h - one line at a time to stderr, without ever stalling the caller
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef LOG_H
#define LOG_H

#include <stdbool.h>

/* Prepares stderr; call it before anything opens a descriptor. Reserves the
 * standard streams. A log file at its size limit must not end the process. */
void log_open(void);

/*
 * Writes "threadecho: ", the text and an LF to stderr in one write, cut to
 * 2,048 bytes. A control byte in the text becomes '?': a line break in what a
 * message repeats must not forge another line. Waits 100 ms at most for room
 * in a pipe; the line is dropped if stderr is full, closed or fails, because
 * logging must not stall a connection. Any thread may call it.
 */
__attribute__((format(printf, 1, 2))) void log_line(const char *format, ...);

/*
 * Returns true at most once in 5 s for each *last, which holds the monotonic
 * time in ms of the last true and begins as 0. Limits a message that a fault
 * could repeat without end; *last belongs to one thread.
 */
bool log_allowed(long long *last);

#endif
