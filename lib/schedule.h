/*
 * schedule.h - how the kernel schedules the threads
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H

/*
 * Lets a thread that wakes up wait for its turn (SCHED_BATCH), where it would
 * interrupt another by default (SCHED_OTHER), for the calling thread and for
 * all that it starts from now on. With a thread per connection the other one
 * may be holding a lock of malloc or of the kernel, and then many others queue
 * behind it: a convoy. docs/bench.md has the figures. Any other policy, which
 * somebody has chosen, is left alone. Returns 0 or an errno value.
 */
int set_batch_scheduling(void);

#endif
