/*
 * log.c - one line at a time to stderr, see log.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "log.h"
#include "clock.h"
#include "streams.h"

#include <ctype.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAIT_MS 100      /* for room in the pipe that stderr may be */
#define INTERVAL_MS 5000 /* between two lines about the same fault */
#define LINE_SIZE 2048   /* longest line in bytes; a pipe takes it whole */

void log_open(void)
{
    streams_reserve();
    signal(SIGXFSZ, SIG_IGN); /* cannot fail: write then says EFBIG */
}

void log_line(const char *format, ...)
{
    char text[LINE_SIZE] = "threadecho: ";
    const size_t most = sizeof text - strlen("\n") - 1;
    struct pollfd log = {.fd = STDERR_FILENO, .events = POLLOUT};
    va_list args;

    va_start(args, format);
    size_t len = strlen(text);
    int n = vsnprintf(text + len, most + 1 - len, format, args);
    va_end(args);
    len = n < 0 ? len : len + (size_t)n;
    if (len > most)
        len = most;
    for (size_t i = 0; i < len; i++)
        if (iscntrl((unsigned char)text[i])) /* in the C locale */
            text[i] = '?';
    text[len++] = '\n';
    if (poll(&log, 1, WAIT_MS) > 0 && write(log.fd, text, len) < 0)
        return; /* dropped: there is nowhere to report it */
}

bool log_allowed(long long *last)
{
    long long now = clock_ms();
    if (*last != 0 && now - *last < INTERVAL_MS)
        return false;
    *last = now;
    return true;
}
