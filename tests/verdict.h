/*
 * verdict.h - comparisons of the protocol suite, and what a failed one tells
 *
 * A failure names the line, what the upstream was asked for and answered, what
 * was expected and what came, how the server is, and how to try it again.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERDICT_H
#define VERDICT_H

#include "harness.h"

/* Bytes of a string literal, which may hold a NUL. */
struct bytes {
    const char *data;
    size_t len;
};
#define BYTES(literal)                                                        \
    {                                                                         \
        literal, sizeof(literal) - 1                                          \
    }

/* What an upstream is asked for here, as in scripts/bench: a server cannot
 * tell the two by the path. */
#define UPSTREAM_PATH "/arrpi.php"

/* How this suite was called: for what a failure suggests. */
void verdict_program(const char *path);

/* The test that runs, by its name, and which of its cases; that one in words.
 */
void verdict_test(const char *name, int number);
void verdict_case(const char *what);

/* Whom the test is about. Either may be NULL while it does not run. */
void verdict_about(const struct server_process *server,
                   struct rogue *upstream);

/* From now on the upstream answers every request as it does for this path. */
void upstream_answers_as(const char *path);

/* Send a line, LF added; bytes of lines; a text, each byte in a packet. They
 * count among the lines that expect_fetches() knows. */
void say(struct client *c, const char *line);
void say_bytes(struct client *c, const void *data, size_t len);
void say_slowly(struct client *c, const char *text);

/* The next reply must be this one, LF not included. It answers line. */
void expect(struct client *c, const char *line, const char *reply);
void expect_bytes(struct client *c, struct bytes line, struct bytes reply);

/* The next reply must be "error: ", a reason, and nothing of a body. */
void expect_error(struct client *c, const char *line);

/* Nothing more must come, and the server must close the connection. */
void expect_end(struct client *c);

/* Send a line and expect its reply. */
void ask(struct client *c, const char *line, const char *reply);
void ask_error(struct client *c, const char *line);

/* The last request must have been for this target; its target must have only
 * these characters. */
void expect_target(const char *target);
void expect_target_in(const char *characters);

/* All that comes until the server closes must be this. */
void expect_rest(struct client *c, struct bytes lines, struct bytes replies);

/*
 * The upstream must have been asked for each line that was sent so far, and
 * for nothing else: once, or up to that many times where it may be asked again
 * since it closed a connection that it had kept.
 */
void expect_fetches(unsigned most);

#endif
