/*
 * What the black-box tests share: a server in a process of its own, and
 * clients that wait for its replies with a deadline. Whatever goes wrong in
 * here fails the test that runs.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef HARNESS_H
#define HARNESS_H

#include "rogue.h"

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Nothing that ought to happen takes longer, be the machine ever so busy. */
#define PATIENCE_MS 20000

/* A test's limit in seconds: for tcase_set_timeout. */
#define TEST_TIMEOUT 90

/* Milliseconds on a clock that nobody sets. */
long long now_ms(void);

/* Lets time pass that the test is about; never to wait for something. */
void let_pass(long ms);

/* Reports why the test that runs returns without having tested anything. */
void tell_skipped(const char *why);

/* Runs the suite and prints Check's totals. Returns how many tests failed. */
int run_suite(Suite *suite);

/*
 * Servers
 */

struct server {
    pid_t pid;
    char host[64];
    char port[8];
    int log;    /* its stderr: a file in memory */
    int status; /* as of waitpid, once pid is 0 */
};

/*
 * Starts a command line, made as by printf, in the shell and waits until it
 * serves. {port} in it becomes a free port, {upstream} the URL. Without
 * {port} it must say "listening on HOST:PORT" on stderr. It gets SIGKILL when
 * the test ends, however it ends.
 */
__attribute__((format(printf, 2, 3))) struct server *
server_start(const char *upstream, const char *format, ...);

/*
 * Starts the threadecho under test on a free port, with more options. It
 * fetches /text of the rogue, unless that is NULL.
 */
__attribute__((format(printf, 2, 3))) struct server *
threadecho_start(const struct rogue *rogue, const char *options, ...);

/* Path of the threadecho under test: $THREADECHO, or the one that is built
 * along with the tests. Fails the test if they differ in their sanitizer. */
const char *threadecho(void);

/* Waits for the end. False if it is still running after timeout_ms. */
bool server_ends(struct server *s, long timeout_ms);

/*
 * Ends it with SIGTERM; fails the test if that takes too long or a sanitizer
 * has complained. Returns the exit status, 128 + signal if one killed it.
 */
int server_stop(struct server *s);

/* Kills it if it still runs, and frees s. */
void server_free(struct server *s);

/* What it wrote to stderr until now, to free(). */
char *server_log(const struct server *s);

/* How often text stands in its log. */
int server_logged(const struct server *s, const char *text);

/* Asks for a summary and returns that line, to free(). */
char *server_summary(const struct server *s);

/* The number behind KEY= in a summary line; 0 if the key is not there. */
long summary_value(const char *summary, const char *key);

/* The same of a summary asked for now. */
long server_counts(const struct server *s, const char *key);

/* The sanitizer that the tests are built with, as a symbol of its run time,
 * or NULL; and that of a program, whose path may be in /proc. */
const char *own_sanitizer(void);
const char *sanitizer_of(const char *path);

/* True if it was built with a sanitizer: its memory says nothing then. */
bool server_sanitized(const struct server *s);

/* A number of /proc/PID/status, such as "VmRSS" (KiB) or "Threads". */
long server_status(const struct server *s, const char *key);

/* What a server must give back. */
struct holding {
    long descriptors;
    long threads;
};

/* What it holds now. Idle threads of ended connections may still be there. */
struct holding server_holds(const struct server *s);

/* What it holds once a first line was answered and its client has left. */
struct holding server_rests(const struct server *s);

/* The end of a fault test: a fresh client is served, and after that the
 * server holds again what it held. */
void server_recovers(const struct server *s, struct holding before);

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

struct client *client_open(const struct server *s);

/* Sends bytes; a line, LF added; a byte at a time in packets of their own. */
void client_send(struct client *c, const void *data, size_t len);
void client_say(struct client *c, const char *line);
void client_dribble(struct client *c, const char *text, long pause_ms);

/* Says that it sends no more, and may still read. */
void client_finish(struct client *c);

/*
 * The next line, without its LF and with a NUL behind, until the next call.
 * If none comes: "<end>", "<end in mid-line>", "<reset>" or "<silence>".
 */
const char *client_line(struct client *c);

/* Says a line and returns the reply. */
const char *client_ask(struct client *c, const char *line);

/* All until the server closes, with a NUL behind; *len bytes. Fails the test
 * if the server resets the connection or never closes it. */
const char *client_rest(struct client *c, size_t *len);

/* Waits until there is something to read; false if that takes longer. */
bool client_hears(struct client *c, long timeout_ms);

void client_close(struct client *c);
void client_reset(struct client *c);

/*
 * Ports
 */

/* A port that was free just now and that no client's socket is given. */
int free_port(void);

/* A socket that holds a port where every connection is refused. */
int hold_port(int *port);

/* A socket that holds a port where no connection is ever answered. */
int deaf_port(int *port);

#endif
