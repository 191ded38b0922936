/*
 * processes.c - a process per connection
 *
 * Each blocks in recv, in fetch, which is the server's own, and in send:
 *     build/peers/processes --listen HOST:PORT --upstream URL [--no-keepalive]
 *
 * Keep in your head: nothing is shared, so nothing needs a lock and one
 * connection cannot harm another; nor does one find the upstream connection
 * that another has left. Children have to be reaped.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../fetch.h"
#include "../../lib/lines.h"
#include "../../lib/schedule.h"
#include "peer.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Reads a line, fetches, writes the reply, until the client has no more. Frees
 * nothing: then the process ends. */
static void serve_connection(int client, struct fetcher *fetcher)
{
    struct reader reader;
    struct buffer reply;
    struct line line;
    unsigned handle = 0;

    if (!reader_init(&reader, client, PEER_MAX_LINE, 0, 0) ||
        !reply_init(&reply))
        return;
    while (read_line(&reader, &line)) {
        enum reason reason = line.reason;
        long http_status = 0;

        reply_begin(&reply);
        if (reason == REASON_NONE)
            reason = fetch(fetcher, &handle, line.text, line.len, &reply,
                           &http_status);
        reply_finish(&reply, reason, http_status);
        if (!peer_send(client, reply.data, reply.len))
            return;
        reply_shrink(&reply);
    }
}

/* Starts a process for the client, or rejects it. */
static void start_connection(int client, int listener, struct fetcher *fetcher)
{
    const pid_t parent = getpid();
    pid_t child = fork();

    if (child == 0) {
        /* When the parent ends, so do we, even if it has just done so. */
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent)
            _exit(1);
        close(listener);
        serve_connection(client, fetcher);
        _exit(0);
    }
    if (child > 0) {
        close(client); /* the child has it */
        return;
    }
    int error = errno;
    peer_complain("processes: fork", error);
    peer_reject(client, error == ENOMEM ? REASON_NO_MEMORY
                                        : REASON_TOO_MANY_CONNECTIONS);
}

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("processes", argc, argv);
    const struct fetch_options options = {.url = peer.upstream,
                                          .timeout_ms = PEER_FETCH_MS,
                                          .connect_timeout_ms = PEER_FETCH_MS,
                                          .max_body = PEER_MAX_BODY,
                                          .max_handles = 1,
                                          .keepalive = peer.keepalive};
    const char *error;
    /* It holds no connection yet: each child makes its copy's own. */
    struct fetcher *fetcher = fetcher_create(&options, &error);

    if (fetcher == NULL) {
        fprintf(stderr, "processes: --upstream: %s\n", error);
        return 2;
    }
    int rc = set_batch_scheduling();
    if (rc != 0)
        peer_complain("processes: cannot set SCHED_BATCH", rc);
    if (signal(SIGCHLD, SIG_IGN) == SIG_ERR) { /* the kernel reaps them */
        peer_complain("processes: signal", errno);
        return 1;
    }
    int listener = peer_listen(&peer, 0);
    for (;;)
        start_connection(peer_accept(listener), listener, fetcher);
}
