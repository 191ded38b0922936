/*
 * crowd.h - what churn, soak and overload share
 *
 * A server and its upstream as processes, what the server holds, and plain
 * blocking clients. Whatever goes wrong in here ends the proof. Nothing of
 * lib/ is used: it is what is judged.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef CROWD_H
#define CROWD_H

#include "subject.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Prints what is wrong and the end of the server's log, and exits. Any thread
 * may call it. What was started is killed. */
_Noreturn void give_up(const char *format, ...)
    __attribute__((format(printf, 1, 2), noreturn));

/* Monotonic time in microseconds. */
long long now_us(void);

/* Returns a number with its thousands apart, until the 16th call from now. The
 * main thread's. */
const char *grouped(unsigned long long number);

/* Raises the limit of descriptors to its hard limit. Returns that. */
long raise_descriptors(void);

/*
 * The upstream: build/proof/faulty
 */

struct upstream {
    struct subject process;
    const char *program;
    int port; /* the same after a restart */
    int control;
};

/* Starts it on a free port, or on the one that it had. */
void upstream_start(struct upstream *upstream, const char *program);

/* Kills it. */
void upstream_kill(struct upstream *upstream);

/* From now on every request is answered as if it asked for path; NULL ends
 * that. Returns how many requests there have been since the start. */
unsigned long upstream_force(struct upstream *upstream, const char *path);

/*
 * The server
 */

struct crowd_server {
    struct subject process;
    struct sockaddr_in address;
    long fetches;  /* size of its pool of handles */
    int summaries; /* read by now */
};

/* Starts a program with up to 20 words of options beside --listen, --upstream
 * (path /text) and --max-fetches. A failure blames this server's log. */
void server_start(struct crowd_server *server, const char *program,
                  const struct upstream *upstream, long fetches,
                  const char *const options[]);

/* Asks for a summary. The caller frees the log, in which *line is. */
char *server_summary(struct crowd_server *server, const char **line);

/* Fails the proof unless the summary has low <= KEY <= high. Returns it. */
unsigned long expect_value(const char *summary, const char *key,
                           unsigned long low, unsigned long high);

/* Ends it with SIGTERM. It must exit with 0 and have logged nothing but what
 * is usual. */
void server_stop(struct crowd_server *server);

/* What a server holds. */
struct holding {
    long descriptors;
    long threads;
    long rss_kib; /* resident memory, exact */
};

struct holding server_holds(const struct crowd_server *server);

/* Waits until it holds as many descriptors and threads as wanted; 0 of either:
 * any. Fails the proof if that takes longer than timeout_ms. */
struct holding server_rests(const struct crowd_server *server,
                            const struct holding *wanted, long timeout_ms);

/*
 * Gives each handle of the pool a connection to the upstream, so that what the
 * server holds can be compared. It must be at rest, and the upstream well.
 * Returns how many requests that took, all without an error.
 */
unsigned long warm_pool(const struct crowd_server *server);

/*
 * Clients
 */

#define INPUT_SIZE 8192 /* longest line, in bytes */

enum { ENDED = -1, RESET = -2, SILENT = -3 };

struct input {
    int fd;
    size_t len;
    char data[INPUT_SIZE];
};

/* Connects, from 127.0.0.1 + source. Its receives end after patience. */
int dial(const struct crowd_server *server, unsigned source);

/* Sends all. Returns false when the server has closed. */
bool send_all(int fd, const char *data, size_t len);

/* Takes a line, without its LF, into line, a string of up to INPUT_SIZE bytes.
 * Returns its length, or what came instead. */
long take_line(struct input *input, char *line);

/* Closes with a reset. */
void close_by_reset(int fd);

#endif
