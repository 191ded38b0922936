/*
 * harness.h - servers and clients of the black-box tests
 *
 * A server runs in a process of its own; clients wait for its replies with a
 * deadline. A failure in here fails the test that runs. Nothing of lib/ is
 * used: it is what the tests judge.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef HARNESS_H
#define HARNESS_H

#include "rogue.h"

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

/* Longest wait for what has to happen, even on a busy machine, in ms. */
#define PATIENCE_MS 20000

/* Longest time for one test, in seconds. */
#define TEST_TIMEOUT 90

/* Returns monotonic time in ms. */
long long now_ms(void);

/* Sleeps where the test is about time; never to wait for an event. */
void let_pass(long ms);

/* Reports why the test that runs returns without having tested anything. */
void tell_skipped(const char *why);

/*
 * Runs the suite and prints Check's totals. Returns how many tests failed, 255
 * at most. Ends whatever the tests have started and left, even if a signal
 * ends the suite.
 */
int run_suite(Suite *suite);

/* Fails the test that runs, with a message and what explain() adds to it. */
__attribute__((format(printf, 1, 2))) _Noreturn void
give_up(const char *format, ...);

/* A suite may set this, to say more about a failure. */
extern void (*explain)(FILE *out);

/*
 * Servers
 */

struct server_process {
    pid_t pid;   /* 0 once it has ended */
    bool daemon; /* the program that was started has ended, this one serves */
    char host[64];
    char port[8];
    int log;    /* its stderr: a file in memory */
    int status; /* as of waitpid, once it has ended */
};

/*
 * Starts a command line, formatted as by printf, in the shell and waits until
 * it serves. {port} in it becomes a free port, {upstream} the URL. Without
 * {port} it must log "listening on HOST:PORT". It may end with status 0 if it
 * leaves a daemon that serves the port. All that it starts is killed when the
 * test ends, however it ends. server_free frees it.
 */
__attribute__((format(printf, 2, 3))) struct server_process *
server_start(const char *upstream, const char *format, ...);

/*
 * Does the same, but returns at once. Then server_serves() waits until it
 * accepts a connection at its port, for timeout_ms, and returns false if it
 * has ended or does not; and server_free frees it.
 */
__attribute__((format(printf, 1, 2))) struct server_process *
server_launch(const char *format, ...);
bool server_serves(struct server_process *s, long timeout_ms);

/*
 * Starts the threadecho under test on a free port, with more options. It
 * fetches /text of the rogue, unless that is NULL.
 */
__attribute__((format(printf, 2, 3))) struct server_process *
threadecho_start(const struct rogue *rogue, const char *options, ...);

/* Returns the path of the threadecho under test: $THREADECHO, or the one built
 * along with the tests. Fails the test if their sanitizers differ. */
const char *threadecho(void);

/* From now on each server of this test is process 1 of a PID namespace of its
 * own. Returns false if that is not permitted. */
bool server_as_process_1(void);

/* Waits for its end. Returns false if it still runs after timeout_ms. */
bool server_ends(struct server_process *s, long timeout_ms);

/*
 * Stops it with SIGTERM, and then what it leaves. Fails the test if that takes
 * too long, or if a sanitizer has reported an error. Returns the exit status,
 * or 128 + signal if one killed it.
 */
int server_stop(struct server_process *s);

/* Kills it if it still runs, with all that it has started, and frees s. While
 * there is another server, that one may own what is left: it stays. */
void server_free(struct server_process *s);

/* Writes how a server has ended, in words, or that it runs. */
void server_ending(const struct server_process *s, char text[64]);

/* Returns its stderr by now; the caller frees it. */
char *server_log(const struct server_process *s);

/* Prints the last lines of its stderr, indented, fit for 80 columns. */
void server_show_log(const struct server_process *s, FILE *out);

/* Returns how often text is in its log. */
int server_logged(const struct server_process *s, const char *text);

/* Asks for a summary and returns that line; the caller frees it. */
char *server_summary(const struct server_process *s);

/* Returns the number after KEY= in a summary line, or 0 without that key. */
long summary_value(const char *summary, const char *key);

/* The same for a summary asked for now. */
long server_counts(const struct server_process *s, const char *key);

/* Return the sanitizer that the tests, or a program, are built with: a symbol
 * of its run time, or NULL. The path may be in /proc. */
const char *own_sanitizer(void);
const char *sanitizer_of(const char *path);

/* Returns whether it has a sanitizer, which takes memory of its own. */
bool server_sanitized(const struct server_process *s);

/* Returns a number of /proc/PID/status, such as "VmRSS" (KiB) or "Threads". */
long server_status(const struct server_process *s, const char *key);

/* What a server must release. */
struct holding {
    long descriptors;
    long threads;
};

/* Waits until it has closed the connections of all clients of this test. They
 * must all have closed theirs. It listens at 127.0.0.1. */
void server_closes_all(const struct server_process *s);

/* Returns how many threads of the system a client costs: one, or none where
 * $GREEN says that the program runs its threads as coroutines. */
long threads_per_client(void);

/* Returns what it holds now. Threads of closed connections may still end. */
struct holding server_holds(const struct server_process *s);

/* Returns what it holds when it has served a line and has no client. */
struct holding server_rests(const struct server_process *s);

/* The end of a fault test: a fresh client must be served, and after it the
 * server must hold what it held before. */
void server_recovers(const struct server_process *s, struct holding before);

/*
 * Clients
 */

struct client {
    int fd;
    char *data; /* received; data[start] to data[end - 1] not yet returned */
    size_t start;
    size_t end;
    size_t size;
    size_t line_len; /* of the last client_line() */
};

struct client *client_open(const struct server_process *s);

/* Send bytes; a line, LF added; a text byte by byte, each in a packet. */
void client_send(struct client *c, const void *data, size_t len);
void client_say(struct client *c, const char *line);
void client_dribble(struct client *c, const char *text, long pause_ms);

/* Half-closes: it can still read. */
void client_finish(struct client *c);

/*
 * Returns the next line without its LF, as a string, valid until the next
 * call. If none comes: "<end>", "<end in mid-line>", "<reset>" or "<silence>".
 */
const char *client_line(struct client *c);

/* Sends a line and returns the reply. */
const char *client_ask(struct client *c, const char *line);

/* Returns all until the server closes, *len bytes and a NUL. Fails the test if
 * the server resets the connection or never closes it. */
const char *client_rest(struct client *c, size_t *len);

/* Waits for something to read. Returns false if that takes longer. */
bool client_hears(struct client *c, long timeout_ms);

void client_close(struct client *c);
void client_reset(struct client *c);

/*
 * Ports
 */

/* Returns a free port that no client's socket is given by the system. */
int free_port(void);

/* Returns a socket that keeps a port where every connection is refused. */
int hold_port(int *port);

/* Returns a socket that keeps a port where no connection is ever answered. */
int deaf_port(int *port);

#endif
