/*
 * schedule.h - how the kernel schedules the threads
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H

/*
 * Sets SCHED_BATCH for the calling thread and all that it starts from now on:
 * a thread that wakes no longer preempts another. The other one may hold a
 * lock of malloc or of the kernel, and then many queue behind it: a convoy.
 * docs/bench.md has the figures. Only the default policy is changed, not one
 * that somebody chose. Returns 0 or an errno value.
 */
int set_batch_scheduling(void);

#endif
