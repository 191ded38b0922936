/*
 * linger.h - closing so that the last reply arrives
 *
 * A close with unread input sends a reset, which can overtake the last reply.
 * So the server reads on until the client has closed, for 2 s at most: in the
 * thread of its connection, or, for a client that is rejected and has no
 * thread, in the accept loop.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef LINGER_H
#define LINGER_H

#include "reply.h"

/* Ends our output and reads until the client closes too. Blocks for 2 s at
 * most. The caller closes fd. */
void linger_until_closed(int fd);

/* Waits until the client has acknowledged all output, where input was shut
 * down and cannot show the close. Blocks for 2 s at most. The caller closes
 * fd. */
void linger_until_sent(int fd);

/* Has close(fd) discard what the client has not taken, and reset it. Else the
 * system would keep that, without a descriptor and so beyond any limit, as
 * long as the client's system answers. */
void reset_on_close(int fd);

/* Rejected clients that linger. Used by the accept loop alone. */
struct rejects;

/* Makes room for max of them. Returns NULL with errno set when memory or
 * descriptors are short; rejects_free closes them and frees it. */
struct rejects *rejects_create(long max);
void rejects_free(struct rejects *rejects);

/* Sends "error: REASON" and lets the client linger. Takes over fd, and does
 * not block. When max are lingering already, the oldest is closed. */
void reject(struct rejects *rejects, int fd, enum reason reason);

/* Returns a descriptor that is readable when one of them may be closed. */
int rejects_fd(const struct rejects *rejects);

/* Closes those that have hung up or had their time. Returns the ms until the
 * next has had its time, or -1 when none is left. */
int rejects_sweep(struct rejects *rejects);

#endif
