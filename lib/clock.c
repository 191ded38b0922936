/*
 * clock.c - monotonic time, see clock.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "clock.h"

#include <time.h>

long long clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}
