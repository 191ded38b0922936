/*
 * outside.h - calls that are made in a thread of the system's
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef GREEN_OUTSIDE_H
#define GREEN_OUTSIDE_H

/* Makes a call in a thread, and lets others run until it is over. errno is
 * what the call has left. If no thread can be had, all wait for it. */
void call_outside(void (*call)(void *), void *argument);

#endif
