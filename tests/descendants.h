/*
 * descendants.h - every process that came from this one, to the last
 *
 * A server may start others in sessions of their own, or end and leave one
 * behind that serves. No process group and no session has them all; but with
 * descendants_adopt() each of them stays below this process, and whatever has
 * lost its parent becomes a child of it: an orphan.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DESCENDANTS_H
#define DESCENDANTS_H

#include <stddef.h>
#include <sys/types.h>

/* From now on this process is the parent of what its descendants leave. */
void descendants_adopt(void);

/* Says that the caller started this child, and waits for it; or that it has
 * ended. Such a child is no orphan, and nothing below it is. */
void descendants_own(pid_t child);
void descendants_disown(pid_t child);

/* Returns an orphan that has not ended, or 0 if there is none. */
pid_t descendants_orphan(void);

/* Sends a signal to the orphans and to all below them (0: to none), and reaps
 * those that have ended. Returns how many have not. */
size_t descendants_signal_orphans(int signal_number);

/* Kills the orphans and all below them, and waits for their end, but no longer
 * than that. */
void descendants_end_orphans(long timeout_ms);

/* Likewise for every descendant, the caller's own children included. */
void descendants_end(long timeout_ms);

#endif
