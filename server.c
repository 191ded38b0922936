/*
 * server.c - threadecho: a thread per connection, and three blocking calls
 *
 * Each line that a client sends is answered with what URL?text=LINE returns:
 *     ./threadecho --listen 127.0.0.1:8080 --upstream http://127.0.0.1:8081/
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* accept4, pipe2 */
#include "fetch.h"
#include "lib/clock.h"
#include "lib/connections.h"
#include "lib/limits.h"
#include "lib/lines.h"
#include "lib/linger.h"
#include "lib/listen.h"
#include "lib/log.h"
#include "lib/options.h"
#include "lib/reply.h"
#include "lib/schedule.h"
#include "lib/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_PAUSE_MS 100 /* when descriptors or memory have run out */
#define ACCEPT_LAST 4096    /* clients accepted after the signal to stop */
#define DRAIN_MS 10000      /* longest time from that signal to the end */

/* One process is one server. Threads share it: what changes after the start
 * is atomic, or guarded in its own room. */
struct server {
    struct options options;
    struct limits limits;
    struct fetcher *fetcher; /* NULL with --echo */
    struct connections connections;
    struct rejects *rejects;
    struct stats stats;
    pthread_attr_t thread_attr;
    char bound[ADDRESS_SIZE]; /* where it listens */
    int listener;
    int stop_pipe[2]; /* its write end is closed to wake the accept loop */
    sigset_t signals;
    pthread_t signal_thread;
    atomic_bool stopping; /* a signal asked for the end */
    atomic_bool ended;    /* the signal thread is to return */
};

/* Sends all of it, in one call unless that is interrupted. Returns false when
 * the client is gone, or has not taken all within SEND_TIMEOUT_MS. */
static bool write_all(int fd, const char *data, size_t len)
{
    long long deadline = clock_ms() + SEND_TIMEOUT_MS;

    for (;;) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
        if (len == 0)
            return true;
        if (clock_ms() >= deadline)
            return false;
    }
}

/* Reads a line, fetches, writes the reply, until the client has no more. */
static void serve_connection(struct connection *connection)
{
    struct server *server = connection->server;
    struct buffer *reply = &connection->reply;
    struct line line;

    while (read_line(&connection->reader, &line)) {
        enum reason reason = line.reason;
        long http_status = 0;

        reply_begin(reply);
        if (reason == REASON_NONE && server->fetcher != NULL)
            reason = fetch(server->fetcher, &connection->handle, line.text,
                           line.len, reply, &http_status);
        else if (reason == REASON_NONE &&
                 !buffer_append(reply, line.text, line.len))
            reason = REASON_NO_MEMORY;
        reason = reply_finish(reply, reason, http_status);

        connection->lines++;
        stats_count_request(&server->stats, reason);
        if (reason != REASON_NONE && server->options.verbose)
            log_line("%s: line %lu: %s", connection->peer, connection->lines,
                     reason_text(reason));
        if (!write_all(connection->fd, reply->data, reply->len)) {
            reset_on_close(connection->fd);
            return;
        }
        reply_shrink(reply);
    }
}

/* The thread of one connection. It is detached: nobody waits for it. */
static void *connection_thread(void *arg)
{
    struct connection *connection = arg;
    struct server *server = connection->server;
    int fd = connection->fd;

    if (server->options.verbose) {
        describe_peer(fd, connection->peer);
        log_line("%s: connected", connection->peer);
    }
    serve_connection(connection);
    if (connection->reader.end == READER_STOPPED)
        linger_until_sent(fd);
    else if (connection->reader.end == READER_OVERDUE)
        linger_until_closed(fd);
    if (server->options.verbose)
        log_line("%s: closed after %lu lines", connection->peer,
                 connection->lines);

    /* Off the list before the close: the number may be used again at once. A
     * client that sees the close may come back, and finds its place free. */
    connections_remove(&server->connections, connection);
    connection_free(connection);
    close(fd);
    return NULL;
}

/* Starts a detached thread for the client. Returns REASON_NONE, or the reason
 * to reject it; fd is then still the caller's. */
static enum reason start_connection(struct server *server, int fd)
{
    const struct options *options = &server->options;
    pthread_t thread;

    if (connections_full(&server->connections))
        return REASON_TOO_MANY_CONNECTIONS;
    struct connection *connection =
        connection_create(fd, (size_t)options->max_line,
                          options->line_timeout_ms, options->idle_timeout_ms);
    if (connection == NULL)
        return REASON_NO_MEMORY;
    connection->server = server;
    long count = connections_add(&server->connections, connection);
    int error = pthread_create(&thread, &server->thread_attr,
                               connection_thread, connection);
    if (error == 0)
        return REASON_NONE;

    connections_undo(&server->connections, connection);
    connection_free(connection);
    atomic_fetch_add(&server->stats.thread_errors, 1);
    limits_log_no_thread(count, error, options->stack_kib);
    return REASON_NO_THREAD;
}

/* Accepts one client, if one is there, and starts its thread or rejects it.
 * Returns 0, or the errno value of accept. */
static int accept_client(struct server *server)
{
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        int error = errno;
        if (error != EAGAIN && error != EINTR)
            atomic_fetch_add(&server->stats.accept_errors, 1);
        return error;
    }

    atomic_fetch_add(&server->stats.connections, 1);
    enum reason reason = start_connection(server, fd);
    if (reason != REASON_NONE) {
        atomic_fetch_add(&server->stats.rejected, 1);
        reject(server->rejects, fd, reason);
    }
    return 0;
}

/* The accept loop: accepts clients until a signal asks for the end. When
 * descriptors or memory have run out it pauses, or it would spin. */
static void accept_clients(struct server *server)
{
    enum { STOP, REJECTS, LISTENER, COUNT };
    struct pollfd fds[COUNT] = {
        [STOP] = {.fd = server->stop_pipe[0], .events = POLLIN},
        [REJECTS] = {.fd = rejects_fd(server->rejects), .events = POLLIN},
        [LISTENER] = {.fd = server->listener, .events = POLLIN},
    };
    long long last_log = 0;
    int wait_ms = -1;

    while (!atomic_load(&server->stopping)) {
        int error = 0;
        int ready = poll(fds, COUNT, wait_ms);
        if (ready < 0)
            error = errno;
        else if (fds[LISTENER].revents != 0)
            error = accept_client(server);
        if (!is_transient_accept_error(error)) {
            if (log_allowed(&last_log))
                log_line("cannot accept: %s; pausing", strerror(error));
            poll(fds, STOP + 1, ACCEPT_PAUSE_MS);
        }
        wait_ms = rejects_sweep(server->rejects);
    }

    /* Clients already connected get replies to what they have sent. */
    int error = 0;
    for (int i = 0; i < ACCEPT_LAST && error != EAGAIN &&
                    is_transient_accept_error(error);
         i++)
        error = accept_client(server);
    close(server->listener);
    rejects_free(server->rejects);
}

/* Takes the signals, so that no handler interrupts any other thread. */
static void *signal_thread(void *arg)
{
    struct server *server = arg;
    bool stopping = false;

    for (;;) {
        int number;
        if (sigwait(&server->signals, &number) != 0)
            continue;
        if (atomic_load(&server->ended))
            return NULL;
        if (number == SIGUSR1) {
            stats_log(&server->stats, connections_peak(&server->connections));
        } else if (!stopping) {
            stopping = true;
            atomic_store(&server->stopping, true);
            close(server->stop_pipe[1]);
        } else {
            signal(number, SIG_DFL);
            sigdelset(&server->signals, SIGUSR1); /* it would kill as well */
            pthread_sigmask(SIG_UNBLOCK, &server->signals, NULL);
            raise(number);
            _exit(128 + number); /* process 1 of a container: no default */
        }
    }
}

/* Sets how each signal is handled, before the first thread starts. That fails
 * only for what is no signal. */
static void set_signals(struct server *server)
{
    struct sigaction hangup;

    signal(SIGPIPE, SIG_IGN); /* send and write report it */
    sigaction(SIGHUP, NULL, &hangup);
    sigemptyset(&server->signals);
    sigaddset(&server->signals, SIGTERM);
    sigaddset(&server->signals, SIGINT);
    sigaddset(&server->signals, SIGUSR1);
    if (hangup.sa_handler != SIG_IGN) /* as nohup has it */
        sigaddset(&server->signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &server->signals, NULL);
}

/* Makes the fetcher that the options ask for. Returns the status to exit with
 * if that fails, else 0. */
static int start_fetcher(struct server *server)
{
    const struct options *options = &server->options;
    const struct fetch_options fetch_options = {
        .url = options->upstream,
        .cacert = options->cacert,
        .timeout_ms = options->timeout_ms,
        .connect_timeout_ms = options->connect_timeout_ms,
        .max_body = (size_t)options->max_body,
        .max_handles = (unsigned)server->limits.fetches,
        .keepalive = !options->no_keepalive,
    };
    char shown[256];
    const char *error;

    if (options->cacert != NULL && access(options->cacert, R_OK) != 0) {
        log_line("--cacert: cannot read %s: %s", options->cacert,
                 strerror(errno));
        return 1;
    }
    server->fetcher = fetcher_create(&fetch_options, &error);
    if (server->fetcher != NULL)
        return 0;
    int status = errno == EINVAL ? 2 : 1;
    log_line("--upstream: '%s': %s",
             hide_password(options->upstream, shown, sizeof shown), error);
    return status;
}

/* Opens what the server needs before it can serve. Returns the status to exit
 * with if that fails, else 0. */
static int start(struct server *server)
{
    const struct options *options = &server->options;
    const char *why;

    server->limits = (struct limits){.connections = options->max_connections,
                                     .fetches = options->max_fetches};
    if (!limits_set(&server->limits, !options->echo, options->stack_kib))
        return 1;
    int status = options->echo ? 0 : start_fetcher(server);
    if (status != 0)
        return status;

    int error = set_batch_scheduling();
    if (error != 0)
        log_line("warning: cannot set SCHED_BATCH: %s", strerror(error));
    error = connections_init(&server->connections, server->limits.connections);
    if (error == 0)
        error = pthread_attr_init(&server->thread_attr);
    if (error == 0)
        error = pthread_attr_setdetachstate(&server->thread_attr,
                                            PTHREAD_CREATE_DETACHED);
    if (error == 0)
        error = pthread_attr_setstacksize(&server->thread_attr,
                                          (size_t)options->stack_kib * 1024);
    server->rejects = rejects_create(server->limits.rejects);
    if (error == 0 &&
        (server->rejects == NULL || pipe2(server->stop_pipe, O_CLOEXEC) != 0))
        error = errno;
    if (error == 0) /* from here on a signal can end the process */
        error = pthread_create(&server->signal_thread, NULL, signal_thread,
                               server);
    if (error != 0) {
        log_line("cannot start: %s", strerror(error));
        return 1;
    }
    server->listener =
        open_listener(options->listen, SOCK_NONBLOCK, server->bound, &why);
    if (server->listener < 0)
        log_line("cannot listen on %s: %s", options->listen, why);
    return server->listener >= 0 ? 0 : 1;
}

/* Drains the connections, prints the summary and frees what is left. */
static void stop(struct server *server)
{
    long left = connections_drain(&server->connections, DRAIN_MS);

    if (left > 0)
        log_line("cut off %ld connections after %d s", left, DRAIN_MS / 1000);
    stats_log(&server->stats, connections_peak(&server->connections));
    if (left > 0)
        _exit(0); /* threads are still using what would be freed */
    atomic_store(&server->ended, true);
    if (pthread_kill(server->signal_thread, SIGUSR1) == 0)
        pthread_join(server->signal_thread, NULL);
    fetcher_destroy(server->fetcher);
    if (!connections_await_threads())
        _exit(0);
}

int main(int argc, char **argv)
{
    static struct server server;

    log_open();
    set_signals(&server);
    if (!parse_options(argc, argv, &server.options)) {
        fputs("Try threadecho --help.\n", stderr);
        return 2;
    }
    if (server.options.help)
        return print_help() ? 0 : 1;
    if (server.options.version)
        return print_version(fetch_library()) ? 0 : 1;
    int status = start(&server);
    if (status != 0)
        return status;
    if (server.options.echo)
        log_line("listening on %s, echo, at most %ld connections",
                 server.bound, server.limits.connections);
    else
        log_line("listening on %s, upstream %s, at most %ld connections and "
                 "%ld fetches",
                 server.bound, fetcher_url(server.fetcher),
                 server.limits.connections, server.limits.fetches);

    accept_clients(&server);
    stop(&server);
    return 0;
}
