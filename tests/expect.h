/*
 * expect.h - what the protocol suite expects, and the report of a failure
 *
 * A report has the line, what the upstream was asked for and answered, the
 * reply that was expected and the one received, whether the server still runs,
 * and how to run the test again.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef EXPECT_H
#define EXPECT_H

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

/* The path of this program, for the commands in a report. */
void context_program(const char *path);

/* The name of the test that runs, and the number of its case. */
void context_test(const char *name, int number);

/* That case in words. */
void context_case(const char *what);

/* The server and the upstream of the test. Each is NULL while it is down. */
void context_server(const struct server_process *server,
                    struct rogue *upstream);

/* From now on the upstream answers every request as if it were for path. */
void upstream_answers_as(const char *path);

/* Send a line, to which they add LF; bytes; a text, each byte in a packet of
 * its own. expect_fetches() counts the lines in it. */
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
 * for nothing else. At least once, and at most that many times: more than once
 * is right only after it has closed a connection that it kept open.
 */
void expect_fetches(unsigned most);

#endif
