/* SPDX-License-Identifier: MIT */
/*
 * processes.c: a process per connection, each blocking in recv(), in fetch()
 * (the fetch.c of the server itself) and in send().
 * Run: build/peers/processes --listen HOST:PORT --upstream URL
 * [--no-keepalive]
 * Keep in your head: nothing is shared, so nothing needs a lock and one
 * connection cannot harm another; nor does one find the upstream connection
 * that another has left. Children have to be reaped.
 */
#include "../../fetch.h"
#include "peer.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Appends "error: REASON\n"; false: no memory. */
static bool append_error(struct buffer *reply, const char *reason, long status)
{
    char text[128];
    int len = status == 0 ? snprintf(text, sizeof text, "error: %s\n", reason)
                          : snprintf(text, sizeof text, "error: %s %03ld\n",
                                     reason, status);

    return len > 0 && buffer_append(reply, text, (size_t)len);
}

/* Appends the reply to a line, whatever comes of it; false: no memory. */
static bool append_reply(struct buffer *reply, struct fetcher *fetcher,
                         const char *line, size_t len)
{
    const size_t prefix = strlen("echo: ");
    long http_status;

    if (!buffer_append(reply, "echo: ", prefix))
        return false;
    enum fetch_status status = fetch(fetcher, line, len, reply, &http_status);
    if (status != FETCH_OK) {
        reply->len = 0;
        return append_error(reply, fetch_reason(status),
                            status == FETCH_RETURNED ? http_status : 0);
    }
    reply->len = prefix + flatten(reply->data + prefix, reply->len - prefix);
    return buffer_append(reply, "\n", 1);
}

/* Reads a line, fetches, writes the reply: until the client has no more. */
static void serve_connection(int client, struct fetcher *fetcher)
{
    struct buffer reply = {0};
    struct lines in;
    char *line;
    size_t len;

    lines_init(&in);
    for (;;) {
        enum line got = read_line(&in, client, &line, &len);
        bool ready = false;

        reply.len = 0;
        if (got == LINE_READY)
            ready = append_reply(&reply, fetcher, line, len);
        else if (got == LINE_TOO_LONG)
            ready = append_error(&reply, "line too long", 0);
        if (!ready || !send_all(client, reply.data, reply.len))
            break;
    }
    free(reply.data);
}

/* Gives a client a process of its own, or tells it why not. */
static void start_connection(int client, int listener, struct fetcher *fetcher)
{
    static const char sorry[] = "error: cannot start a process\n";
    const pid_t parent = getpid();
    pid_t child = fork();

    if (child == 0) {
        /* When the parent ends, so do we, even if it has just done so. */
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) == -1 || getppid() != parent ||
            close(listener) == -1)
            _exit(1);
        serve_connection(client, fetcher);
        _exit(0);
    }
    if (child == -1) {
        complain("processes: fork", errno);
        if (!send_all(client, sorry, strlen(sorry)))
            complain("processes: client", errno);
    }
    (void)close(client); /* the child has it, or it has been told */
}

int main(int argc, char **argv)
{
    const struct peer peer = read_options("processes", argc, argv);
    const struct fetch_options options = {.url = peer.upstream,
                                          .timeout_ms = FETCH_SECONDS * 1000,
                                          .connect_timeout_ms =
                                              FETCH_SECONDS * 1000,
                                          .max_body = MAX_BODY,
                                          .max_handles = 1,
                                          .keepalive = peer.keepalive};
    const char *error;
    /* It holds no connection yet: each child makes its copy's own. */
    struct fetcher *fetcher = fetcher_create(&options, &error);

    if (fetcher == NULL) {
        (void)fprintf(stderr, "processes: %s: %s\n", peer.upstream, error);
        return 2;
    }
    /* The kernel reaps the children, and a lost client is an error. */
    if (signal(SIGCHLD, SIG_IGN) == SIG_ERR ||
        signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
        complain("processes: signal", errno);
        return 1;
    }
    int listener = start_listening(&peer);
    for (;;)
        start_connection(accept_client(listener), listener, fetcher);
}
