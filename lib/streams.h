/*
 * streams.h - the numbers of the standard streams
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef STREAMS_H
#define STREAMS_H

/* Reserves the numbers of standard streams that are closed, or a client's
 * socket could become the log. Any thread may call it. */
void streams_reserve(void);

#endif
