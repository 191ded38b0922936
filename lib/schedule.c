/*
 * schedule.c - how the kernel schedules the threads, see schedule.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SCHED_BATCH */
#include "schedule.h"

#include <errno.h>
#include <sched.h>

int set_batch_scheduling(void)
{
    const struct sched_param none = {.sched_priority = 0};

    if (sched_getscheduler(0) != SCHED_OTHER)
        return 0;
    return sched_setscheduler(0, SCHED_BATCH, &none) == 0 ? 0 : errno;
}
