/*
 * bare_processes.c - a process per connection, on sockets alone
 *
 * The model of processes.c without libcurl, or bare.c with a fork where that
 * starts a thread:
 *     build/peers/bare_processes --listen HOST:PORT --upstream URL
 *                                [--no-keepalive]
 *
 * Keep in your head: nothing is shared, so nothing needs a lock and one
 * connection cannot harm another. Children have to be reaped.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../../lib/lines.h"
#include "../../lib/schedule.h"
#include "fetch_line.h"
#include "peer.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Reads a line, fetches, writes the reply, until the client has no more. Frees
 * nothing: then the process ends. */
static void serve_connection(int client, const struct origin *origin)
{
    struct reader reader;
    struct line_fetcher fetcher;
    struct exchange *exchange = &fetcher.exchange;
    struct line line;

    if (!reader_init(&reader, client, PEER_MAX_LINE, 0, 0) ||
        !line_fetcher_init(&fetcher, origin))
        return;
    while (read_line(&reader, &line)) {
        enum reason reason = line.reason;

        if (reason == REASON_NONE)
            reason = fetch_line(&fetcher, &line);
        exchange_finish(exchange, reason);
        if (!peer_send(client, exchange->reply.data, exchange->reply.len))
            return;
        reply_shrink(&exchange->reply);
    }
}

/* Starts a process for the client, or rejects it. */
static void start_connection(int client, int listener,
                             const struct origin *origin)
{
    const pid_t parent = getpid();
    pid_t child = fork();

    if (child == 0) {
        /* When the parent ends, so do we, even if it has just done so. */
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent)
            _exit(1);
        close(listener);
        serve_connection(client, origin);
        _exit(0);
    }
    if (child > 0) {
        close(client); /* the child has it */
        return;
    }
    int error = errno;
    peer_complain("bare-processes: fork", error);
    peer_reject(client, error == ENOMEM ? REASON_NO_MEMORY
                                        : REASON_TOO_MANY_CONNECTIONS);
}

int main(int argc, char **argv)
{
    const struct peer peer = peer_start("bare-processes", argc, argv);
    const struct origin origin = origin_start(&peer);

    int error = set_batch_scheduling();
    if (error != 0)
        peer_complain("bare-processes: cannot set SCHED_BATCH", error);
    if (signal(SIGCHLD, SIG_IGN) == SIG_ERR) { /* the kernel reaps them */
        peer_complain("bare-processes: signal", errno);
        return 1;
    }
    int listener = peer_listen(&peer, 0);
    for (;;)
        start_connection(peer_accept(listener), listener, &origin);
}
