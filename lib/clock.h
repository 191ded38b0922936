/*
 * clock.h - monotonic time
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CLOCK_H
#define CLOCK_H

/* Returns monotonic time in milliseconds. Any thread may call it. */
long long clock_ms(void);

#endif
