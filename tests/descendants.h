/*
 * descendants.h - the processes that descend from this one
 *
 * A server may start processes in sessions of their own, or end and leave one
 * that serves. No process group or session has them all. But after
 * descendants_adopt() each of them stays below this process: one that loses
 * its parent becomes a child of this process, an orphan.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef DESCENDANTS_H
#define DESCENDANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Makes this process the parent of all orphans among its descendants. */
void descendants_adopt(void);

/* Registers a child that the caller waits for, or removes it once it has
 * ended. Neither such a child nor anything below it is an orphan. */
void descendants_own(pid_t child);
void descendants_disown(pid_t child);

/* Returns whether a process has ended, whoever has to wait for it. */
bool descendants_ended(pid_t pid);

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
