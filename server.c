/*
 * server.c - threadecho: a thread per connection, and three blocking calls
 *
 * Each line that a client sends is answered with what URL?text=LINE returns:
 *     ./threadecho --listen 127.0.0.1:8080 --upstream http://127.0.0.1:8081/
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* accept4, pipe2, POLLRDHUP */
#include "fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define VERSION "1.0.0"

#define BACKLOG 4096          /* connections that the kernel holds for us */
#define READ_SIZE 512         /* bytes of a buffer that waits for a line */
#define REPLY_SIZE 256        /* the same of a reply; any error line fits */
#define SEND_TIMEOUT_MS 10000 /* a client takes its reply, or is let go */
#define LINGER_MS 2000        /* a client takes our last words in */
#define OUTPUT_POLL_MS 5      /* between two looks at what is not yet sent */
#define LINGERING_MAX 64      /* clients turned away that linger at once */
#define ACCEPT_PAUSE_MS 100   /* when descriptors or memory have run out */
#define LOG_INTERVAL_MS 5000  /* between two log lines about that */
#define LOG_WAIT_MS 100       /* for room in the pipe that stderr may be */
#define LOG_SIZE 2048         /* bytes of a log line; a pipe takes it whole */
#define DRAIN_MS 10000        /* from the first signal to the end, at most */
#define LAST_STEPS_MS 100     /* of threads that have nothing left to do */
#define OWN_FDS 8             /* standard streams, listener, pipe */
#define SPARE_FDS 56          /* for name servers, certificates, /proc */
#define FDS_PER_FETCH 3       /* of libcurl: a socket and a wakeup pair */
#define MAX_FETCHES 1024      /* if nothing else is asked for */
#define HOST_SIZE 256         /* of a host name to listen on */
#define ADDRESS_SIZE 64       /* of an address and a port in words */
#define RESERVED_MAPS 1024    /* of libraries, heaps and the main thread */
#define MAPS_PER_THREAD 2     /* a stack and its guard page */

/* What a client can be told after "error: ": how its fetch ended, or one of
 * these. FETCH_OK is for no error. */
enum reason {
    LINE_TIMED_OUT = FETCH_STATUSES,
    SERVER_STOPPING,
    TOO_MANY_CONNECTIONS,
    CANNOT_START_THREAD,
    REASONS
};

struct options {
    const char *listen;   /* HOST:PORT */
    const char *upstream; /* URL */
    const char *cacert;   /* FILE or NULL */
    bool echo;
    bool no_keepalive;
    bool verbose;
    long timeout_ms;
    long connect_timeout_ms;
    long line_timeout_ms;
    long idle_timeout_ms; /* 0: none */
    long max_connections; /* 0: as many as the limits allow */
    long max_fetches;     /* 0: the same */
    long max_line;        /* bytes */
    long max_body;        /* bytes */
    long stack_kib;       /* of a connection's thread */
};

/* Bytes received from a client, cut into lines. Owned by its connection. */
struct reader {
    int fd;
    size_t limit; /* bytes of a line without its line break */
    long line_timeout_ms;
    long idle_timeout_ms; /* 0: none */
    char *data;
    size_t size;             /* bytes allocated */
    size_t start;            /* data[start] to data[end - 1] are received */
    size_t end;              /* and not yet returned */
    size_t scanned;          /* so many of these are known to hold no LF */
    long long line_deadline; /* of the line begun, 0 when none is */
    bool discarding;         /* the rest of a line that had its reply */
    bool overdue;            /* the client took too long */
    bool finished;           /* nothing more is read */
    atomic_long left;        /* bytes to read before the server ends, or -1 */
};

struct line {
    const char *text; /* in the reader, until the next read_line */
    size_t len;
    unsigned reason; /* FETCH_OK, or why the line cannot be served */
};

struct connection {
    LIST_ENTRY(connection) next;
    struct server *server;
    int fd;
    struct reader reader;
    struct buffer reply;
    unsigned long lines; /* replied to */
    char peer[ADDRESS_SIZE];
};

/* One process is one server. What threads share is atomic or under mutex. */
struct server {
    struct options options;
    struct fetcher *fetcher; /* NULL with --echo */
    int listener;
    long lingering_max;
    int stop_pipe[2]; /* its read end wakes the accept loop for that */
    pthread_attr_t thread_attr;
    atomic_bool stopping; /* a signal asked for the end */
    atomic_bool ended;    /* the signal thread is to return */

    atomic_ullong connections;
    atomic_ullong rejected;
    atomic_ullong requests;
    atomic_ullong errors[REASONS];
    atomic_ullong accept_errors;
    atomic_ullong thread_errors;

    pthread_mutex_t mutex; /* guards what follows, never held across I/O */
    pthread_cond_t drained;
    LIST_HEAD(, connection) open;
    long active; /* how many are open, each with its thread */
    long peak;
};

/* The reason in words. Static text. */
static const char *reason_text(unsigned reason)
{
    switch (reason) {
    case LINE_TIMED_OUT:
        return "line timed out";
    case SERVER_STOPPING:
        return "server stopping";
    case TOO_MANY_CONNECTIONS:
        return "too many connections";
    case CANNOT_START_THREAD:
        return "cannot start a thread";
    default:
        return fetch_reason((enum fetch_status)reason);
    }
}

/* Milliseconds on a clock that nobody sets. */
static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Writes one line to stderr. If nobody reads that, a log line is lost, for no
 * connection is to wait for it. */
__attribute__((format(printf, 1, 2))) static void log_line(const char *format,
                                                           ...)
{
    char text[LOG_SIZE] = "threadecho: ";
    const size_t most = sizeof text - strlen("\n") - 1;
    struct pollfd log = {.fd = STDERR_FILENO, .events = POLLOUT};
    va_list args;

    va_start(args, format);
    size_t len = strlen(text);
    int n = vsnprintf(text + len, most + 1 - len, format, args);
    va_end(args);
    len = n < 0 ? len : len + (size_t)n;
    if (len > most)
        len = most;
    text[len++] = '\n';
    if (poll(&log, 1, LOG_WAIT_MS) > 0 && write(log.fd, text, len) < 0)
        return; /* nor is there anybody else to tell */
}

/* True at most once in LOG_INTERVAL_MS for each *last. */
static bool may_log(long long *last)
{
    long long now = now_ms();
    if (*last != 0 && now - *last < LOG_INTERVAL_MS)
        return false;
    *last = now;
    return true;
}

enum received { RECEIVED, END_OF_INPUT, CONNECTION_LOST, OVERDUE, NO_MEMORY };

/* Makes room for more bytes at the end, if need be by growing to what the
 * longest line needs. A buffer that a long line left behind shrinks again. */
static bool make_room(struct reader *reader)
{
    size_t size = reader->size;

    if (reader->start == reader->end) {
        reader->start = reader->end = 0;
        size = READ_SIZE;
    } else if (reader->end < reader->size) {
        return true;
    } else if (reader->start > 0) {
        reader->end -= reader->start;
        memmove(reader->data, reader->data + reader->start, reader->end);
        reader->start = 0;
    } else {
        size_t longest = reader->limit + strlen("\r\n");
        size = size * 2 < longest ? size * 2 : longest;
    }
    if (size != reader->size) {
        char *data = realloc(reader->data, size);
        if (data == NULL) /* is there room all the same? */
            return reader->end < reader->size;
        reader->data = data;
        reader->size = size;
    }
    return true;
}

/* Waits until there is something to read. The deadline of a line counts from
 * its first byte; between lines only the idle timeout does. */
static enum received wait_for_input(struct reader *reader)
{
    bool begun = reader->start < reader->end || reader->discarding;

    if (!begun && reader->idle_timeout_ms == 0)
        return RECEIVED; /* recv itself may wait, for ever */
    long long now = now_ms();
    long long deadline = now + reader->idle_timeout_ms;
    if (begun) {
        if (reader->line_deadline == 0)
            reader->line_deadline = now + reader->line_timeout_ms;
        deadline = reader->line_deadline;
    }
    while (now < deadline) {
        struct pollfd fd = {.fd = reader->fd, .events = POLLIN};
        int ready = poll(&fd, 1, (int)(deadline - now));
        if (ready > 0)
            return RECEIVED;
        if (ready < 0 && errno != EINTR)
            return CONNECTION_LOST;
        now = now_ms();
    }
    return OVERDUE;
}

/* Receives what has come, waiting for it first. */
static enum received receive(struct reader *reader)
{
    if (!make_room(reader))
        return NO_MEMORY;
    for (;;) {
        size_t room = reader->size - reader->end;
        enum received waited = wait_for_input(reader);
        if (waited != RECEIVED)
            return waited;
        long left = atomic_load(&reader->left);
        if (left == 0)
            return END_OF_INPUT;
        if (left > 0 && (size_t)left < room)
            room = (size_t)left;
        ssize_t n = recv(reader->fd, reader->data + reader->end, room, 0);
        if (n > 0) {
            reader->end += (size_t)n;
            if (left > 0)
                atomic_fetch_sub(&reader->left, (long)n);
            return RECEIVED;
        }
        if (n == 0)
            return END_OF_INPUT;
        if (errno != EINTR)
            return CONNECTION_LOST;
    }
}

/* Takes what is left in the reader as the line; the LF is not to come. */
static bool cut_line(struct reader *reader, struct line *line, unsigned reason)
{
    *line = (struct line){.text = reader->data + reader->start,
                          .len = reader->end - reader->start,
                          .reason = reason};
    reader->start = reader->end;
    reader->scanned = 0;
    return true;
}

/*
 * Reads the next line, blocking until it is complete, and takes off its LF or
 * CR LF. What stands before the end of the input without an LF is a line too,
 * if it is not empty. False when there is none: the client has finished or is
 * lost, or did not send what it began.
 *
 * A line over the limit is returned as soon as that is known, once, with its
 * reason; what is left of it is thrown away by the next call.
 */
static bool read_line(struct reader *reader, struct line *line)
{
    while (!reader->finished) {
        char *text = reader->data + reader->start;
        size_t len = reader->end - reader->start;
        char *lf = memchr(text + reader->scanned, '\n', len - reader->scanned);

        if (lf != NULL) {
            len = (size_t)(lf - text);
            reader->start += len + 1;
            reader->scanned = 0;
            reader->line_deadline = 0;
            if (reader->discarding) {
                reader->discarding = false;
                continue;
            }
            if (len > 0 && text[len - 1] == '\r')
                len--;
            *line = (struct line){.text = text, .len = len};
            if (len > reader->limit)
                line->reason = FETCH_LINE_TOO_LONG;
            return true;
        }

        reader->scanned = len;
        if (reader->discarding) {
            reader->start = reader->end;
            reader->scanned = 0;
        } else if (len > reader->limit + 1 ||
                   (len > reader->limit && text[len - 1] != '\r')) {
            reader->discarding = true;
            return cut_line(reader, line, FETCH_LINE_TOO_LONG);
        }

        switch (receive(reader)) {
        case RECEIVED:
            break;
        case NO_MEMORY:
            reader->discarding = true;
            return cut_line(reader, line, FETCH_NO_MEMORY);
        case OVERDUE:
            reader->finished = true;
            reader->overdue = true;
            if (len > 0 && !reader->discarding)
                return cut_line(reader, line, LINE_TIMED_OUT);
            break;
        case END_OF_INPUT:
            reader->finished = true;
            if (len == 0 || reader->discarding)
                break;
            if (atomic_load(&reader->left) >= 0) /* ended by us, in a line */
                return cut_line(reader, line, SERVER_STOPPING);
            return cut_line(reader, line,
                            len > reader->limit ? FETCH_LINE_TOO_LONG
                                                : FETCH_OK);
        case CONNECTION_LOST:
            reader->finished = true;
            break;
        }
    }
    return false;
}

/* Drops line breaks at the end and turns each other run of CR and LF into a
 * space, in place. Returns the new length. */
static size_t flatten(char *body, size_t len)
{
    size_t kept = 0;
    bool broken = false;

    for (size_t i = 0; i < len; i++) {
        if (body[i] == '\r' || body[i] == '\n') {
            broken = true;
            continue;
        }
        if (broken)
            body[kept++] = ' ';
        broken = false;
        body[kept++] = body[i];
    }
    return kept;
}

static const char reply_start[] = "echo: ";

/* Empties the reply for the next body. It cannot fail: REPLY_SIZE is there. */
static void begin_reply(struct buffer *reply)
{
    memcpy(reply->data, reply_start, strlen(reply_start));
    reply->len = strlen(reply_start);
}

/* Makes one line of the reply that has its body, or of the reason. */
static void finish_reply(struct buffer *reply, unsigned reason,
                         long http_status)
{
    if (reason == FETCH_OK) {
        size_t start = strlen(reply_start);
        reply->len = start + flatten(reply->data + start, reply->len - start);
        if (buffer_append(reply, "\n", 1))
            return;
        reason = FETCH_NO_MEMORY;
    }
    int len =
        snprintf(reply->data, REPLY_SIZE, "error: %s", reason_text(reason));
    if (reason == FETCH_RETURNED)
        len += snprintf(reply->data + len, REPLY_SIZE - (size_t)len, " %ld",
                        http_status);
    reply->data[len] = '\n';
    reply->len = (size_t)len + 1;
}

/* Gives back what a long reply took, so that a waiting client costs little. */
static void shrink_reply(struct buffer *reply)
{
    if (reply->size <= 16 * REPLY_SIZE)
        return;
    char *data = realloc(reply->data, REPLY_SIZE);
    if (data != NULL) { /* else the larger one does as well */
        reply->data = data;
        reply->size = REPLY_SIZE;
    }
}

/* Sends it all, in one call unless that is interrupted. False when the client
 * is gone, or did not take it in SEND_TIMEOUT_MS, which prepare_socket set. */
static bool write_all(int fd, const char *data, size_t len)
{
    long long deadline = now_ms() + SEND_TIMEOUT_MS;

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
        if (now_ms() >= deadline)
            return false;
    }
}

/* Counts a request. This comes before its reply is sent, so that who has the
 * reply finds it in the summary. */
static void count_request(struct connection *connection, unsigned reason)
{
    struct server *server = connection->server;

    connection->lines++;
    atomic_fetch_add(&server->requests, 1);
    if (reason == FETCH_OK)
        return;
    atomic_fetch_add(&server->errors[reason], 1);
    if (server->options.verbose)
        log_line("%s: line %lu: %s", connection->peer, connection->lines,
                 reason_text(reason));
}

/* Reads a line, fetches, writes the reply, until the client has no more. */
static void serve_connection(struct connection *connection)
{
    struct fetcher *fetcher = connection->server->fetcher;
    struct buffer *reply = &connection->reply;
    struct line line;

    while (read_line(&connection->reader, &line)) {
        unsigned reason = line.reason;
        long http_status = 0;

        begin_reply(reply);
        if (reason == FETCH_OK && fetcher != NULL)
            reason = fetch(fetcher, line.text, line.len, reply, &http_status);
        else if (reason == FETCH_OK &&
                 !buffer_append(reply, line.text, line.len))
            reason = FETCH_NO_MEMORY;
        finish_reply(reply, reason, http_status);
        count_request(connection, reason);
        if (!write_all(connection->fd, reply->data, reply->len))
            return;
        shrink_reply(reply);
    }
}

/* Waits, before we close a connection that the client did not, until what was
 * sent has arrived: a close with unread input is a reset, which can overtake
 * it. LINGER_MS at most. */
static void linger(int fd, bool reading)
{
    char scratch[READ_SIZE];
    long long deadline = now_ms() + LINGER_MS;
    struct pollfd input = {.fd = fd, .events = POLLIN};

    if (reading && shutdown(fd, SHUT_WR) != 0)
        return; /* the client is gone */
    for (;;) {
        int unsent = 0;
        long long left = deadline - now_ms();
        if (left <= 0)
            return;
        if (reading) { /* until the client closes too */
            if (poll(&input, 1, (int)left) <= 0 ||
                recv(fd, scratch, sizeof scratch, MSG_DONTWAIT) <= 0)
                return;
        } else { /* the input was shut down: it cannot show the close */
            if (ioctl(fd, SIOCOUTQ, &unsent) != 0 || unsent == 0)
                return;
            nanosleep(&(struct timespec){0, OUTPUT_POLL_MS * 1000000}, NULL);
        }
    }
}

/* Writes an address as HOST:PORT, or [HOST]:PORT, into ADDRESS_SIZE bytes. */
static void describe_address(const struct sockaddr_storage *address,
                             socklen_t len, char *text)
{
    char host[ADDRESS_SIZE - 16], port[8];
    const char *format = address->ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s";

    if (getnameinfo((const struct sockaddr *)address, len, host, sizeof host,
                    port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(text, ADDRESS_SIZE, "unknown address");
    else
        snprintf(text, ADDRESS_SIZE, format, host, port);
}

/* Sets what every client's socket has. False when the client is gone. */
static bool prepare_socket(int fd)
{
    const int on = 1;
    const struct timeval timeout = {.tv_sec = SEND_TIMEOUT_MS / 1000};

    /* A reply is one send: there is nothing to wait for and join it with.
     * Keepalive finds clients that vanished while no line is awaited. Urgent
     * bytes are bytes. */
    return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) ==
               0;
}

/* Makes a connection, which then owns fd. NULL when memory is short. */
static struct connection *make_connection(struct server *server, int fd)
{
    const struct options *options = &server->options;
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        return NULL;

    connection->server = server;
    connection->fd = fd;
    connection->reader = (struct reader){
        .fd = fd,
        .limit = (size_t)options->max_line,
        .line_timeout_ms = options->line_timeout_ms,
        .idle_timeout_ms = options->idle_timeout_ms,
        .left = -1,
        .data = malloc(READ_SIZE),
        .size = READ_SIZE,
    };
    connection->reply =
        (struct buffer){.data = malloc(REPLY_SIZE), .size = REPLY_SIZE};
    if (connection->reader.data == NULL || connection->reply.data == NULL) {
        free(connection->reader.data);
        free(connection->reply.data);
        free(connection);
        return NULL;
    }
    return connection;
}

/* Frees a connection, but leaves its socket. */
static void free_connection(struct connection *connection)
{
    free(connection->reader.data);
    free(connection->reply.data);
    free(connection);
}

/* Takes a connection off the list; after this the server may end. */
static void remove_connection(struct connection *connection)
{
    struct server *server = connection->server;

    pthread_mutex_lock(&server->mutex);
    LIST_REMOVE(connection, next);
    server->active--;
    if (server->active == 0)
        pthread_cond_signal(&server->drained);
    pthread_mutex_unlock(&server->mutex);
}

/* The thread of one connection. It is detached: nobody waits for it. */
static void *connection_thread(void *arg)
{
    struct connection *connection = arg;
    int fd = connection->fd;
    bool verbose = connection->server->options.verbose;

    if (verbose) {
        struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
        socklen_t len = sizeof address;
        if (getpeername(fd, (struct sockaddr *)&address, &len) != 0)
            len = 0; /* gone already: described as unknown */
        describe_address(&address, len, connection->peer);
        log_line("%s: connected", connection->peer);
    }
    if (prepare_socket(fd))
        serve_connection(connection);
    if (atomic_load(&connection->reader.left) >= 0)
        linger(fd, false);
    else if (connection->reader.overdue)
        linger(fd, true);
    if (verbose)
        log_line("%s: closed after %lu lines", connection->peer,
                 connection->lines);

    /* Off the list before the close: the number may be used again at once. A
     * client that sees the close may come back, and finds its place free. */
    remove_connection(connection);
    free_connection(connection);
    close(fd);
    return NULL;
}

/* Splits HOST:PORT or [HOST]:PORT; an empty HOST means every address. Returns
 * whether that is what it is. host has room for HOST_SIZE bytes. */
static bool split_address(const char *text, char *host, const char **port)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL)
        return false;
    size_t digits = strspn(colon + 1, "0123456789");
    if (digits == 0 || digits > 5 || colon[1 + digits] != '\0' ||
        strtol(colon + 1, NULL, 10) > 65535)
        return false;
    *port = colon + 1;

    size_t len = (size_t)(colon - text);
    if (len > 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    } else if (strcspn(text, ":[]") < len) {
        return false;
    }
    if (len >= HOST_SIZE)
        return false;
    memcpy(host, text, len);
    host[len] = '\0';
    return true;
}

/* Listens on HOST:PORT and writes the address that it got into bound. Returns
 * the listener, or -1 with the failure logged. */
static int open_listener(const char *listen_on, char *bound)
{
    const int on = 1;
    char host[HOST_SIZE];
    const char *port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found;
    struct sockaddr_storage address = {.ss_family = AF_UNSPEC};
    socklen_t len = sizeof address;

    int error = EAI_NONAME;
    if (split_address(listen_on, host, &port))
        error =
            getaddrinfo(host[0] == '\0' ? NULL : host, port, &hints, &found);
    if (error != 0) {
        log_line("cannot listen on %s: %s", listen_on, gai_strerror(error));
        return -1;
    }
    int fd = socket(found->ai_family,
                    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* REUSEADDR lets a server start again at once. REUSEPORT, which would let
     * two of them share the port and every measurement, is not set. */
    bool ok = fd >= 0 &&
              setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
              bind(fd, found->ai_addr, found->ai_addrlen) == 0 &&
              listen(fd, BACKLOG) == 0 &&
              getsockname(fd, (struct sockaddr *)&address, &len) == 0;
    if (!ok)
        log_line("cannot listen on %s: %s", listen_on, strerror(errno));
    freeaddrinfo(found);
    if (ok) {
        describe_address(&address, len, bound);
        return fd;
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* A limit of the system that also bounds the number of threads. */
struct thread_limit {
    const char *name;
    const char *raise; /* the command that raises it */
    long long value;   /* of the limit itself */
    long long threads; /* that it leaves room for */
};

/* Reads a number from a file of the kernel; -1 when it holds none. */
static long long read_number(const char *path)
{
    char text[32] = "";
    char *end = text;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -1;
    long long value = -1;
    if (fgets(text, sizeof text, file) != NULL)
        value = strtoll(text, &end, 10);
    fclose(file);
    return end == text ? -1 : value; /* it may say "max" */
}

/* Finds the limit that leaves room for the fewest threads. */
static struct thread_limit tightest_thread_limit(const struct options *options)
{
    struct rlimit memory, processes;
    if (getrlimit(RLIMIT_AS, &memory) != 0 || memory.rlim_cur > LLONG_MAX)
        memory.rlim_cur = LLONG_MAX;
    if (getrlimit(RLIMIT_NPROC, &processes) != 0 || geteuid() == 0 ||
        processes.rlim_cur > LLONG_MAX)
        processes.rlim_cur = LLONG_MAX; /* root is not bound by it */

    const struct {
        const char *name;
        const char *raise;
        long long value;
        long long reserved;
        long long each; /* that a thread takes */
    } limits[] = {
        {"vm.max_map_count", "sysctl -w vm.max_map_count=N",
         read_number("/proc/sys/vm/max_map_count"), RESERVED_MAPS,
         MAPS_PER_THREAD},
        {"kernel.pid_max", "sysctl -w kernel.pid_max=N",
         read_number("/proc/sys/kernel/pid_max"), 0, 1},
        {"kernel.threads-max", "sysctl -w kernel.threads-max=N",
         read_number("/proc/sys/kernel/threads-max"), 0, 1},
        {"pids.max of the control group", "its manager",
         read_number("/sys/fs/cgroup/pids.max"), 0, 1},
        {"the limit of address space", "ulimit -v", (long long)memory.rlim_cur,
         0, options->stack_kib * 1024},
        {"the limit of processes", "ulimit -u", (long long)processes.rlim_cur,
         0, 1},
    };
    struct thread_limit tightest = {.threads = LLONG_MAX};

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        if (limits[i].value < 0)
            continue;
        long long threads =
            (limits[i].value - limits[i].reserved) / limits[i].each;
        if (threads < tightest.threads)
            tightest = (struct thread_limit){
                .name = limits[i].name,
                .raise = limits[i].raise,
                .value = limits[i].value,
                .threads = threads > 0 ? threads : 0,
            };
    }
    return tightest;
}

/* Starts a detached thread for the client. Returns FETCH_OK, or the reason to
 * turn it away; fd is then still the caller's. */
static unsigned start_connection(struct server *server, int fd)
{
    static long long last_log;

    pthread_mutex_lock(&server->mutex);
    bool full = server->active >= server->options.max_connections;
    pthread_mutex_unlock(&server->mutex);
    if (full)
        return TOO_MANY_CONNECTIONS;

    struct connection *connection = make_connection(server, fd);
    if (connection == NULL)
        return FETCH_NO_MEMORY;

    pthread_mutex_lock(&server->mutex);
    LIST_INSERT_HEAD(&server->open, connection, next);
    server->active++;
    if (server->active > server->peak)
        server->peak = server->active;
    long active = server->active;
    pthread_mutex_unlock(&server->mutex);

    pthread_t thread;
    int error = pthread_create(&thread, &server->thread_attr,
                               connection_thread, connection);
    if (error == 0)
        return FETCH_OK;

    remove_connection(connection);
    free_connection(connection);
    atomic_fetch_add(&server->thread_errors, 1);
    if (may_log(&last_log)) {
        struct thread_limit limit = tightest_thread_limit(&server->options);
        log_line("cannot start thread %ld: %s; the tightest limit is %s, "
                 "%lld (raise it with %s)",
                 active, strerror(error), limit.name, limit.value,
                 limit.raise);
    }
    return CANNOT_START_THREAD;
}

/* What the accept loop polls: a pipe that says stop, the listener, and then,
 * oldest first, the clients that were turned away. They linger, see linger(),
 * but not in a thread of their own: it may be that there is none. */
enum { STOP, LISTENER, LINGERING };

struct door {
    struct pollfd fds[LINGERING + LINGERING_MAX];
    long long deadlines[LINGERING + LINGERING_MAX]; /* of the lingering */
    nfds_t count;
    nfds_t max;
};

/* Closes the lingering client at this place. */
static void close_lingering(struct door *door, nfds_t i)
{
    close(door->fds[i].fd);
    door->count--;
    memmove(&door->fds[i], &door->fds[i + 1],
            (door->count - i) * sizeof door->fds[0]);
    memmove(&door->deadlines[i], &door->deadlines[i + 1],
            (door->count - i) * sizeof door->deadlines[0]);
}

/* Closes the lingering clients that have hung up or had their time. */
static void close_lingered(struct door *door)
{
    char scratch[READ_SIZE];
    long long now = now_ms();

    for (nfds_t i = LINGERING; i < door->count;) {
        bool over = now >= door->deadlines[i];
        if (!over && door->fds[i].revents != 0) {
            ssize_t n =
                recv(door->fds[i].fd, scratch, sizeof scratch, MSG_DONTWAIT);
            over = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
        }
        if (over)
            close_lingering(door, i);
        else
            i++;
    }
}

/* Tells a client why it is not served, and lets it linger. */
static void turn_away(struct door *door, int fd, unsigned reason)
{
    char text[REPLY_SIZE];
    int len = snprintf(text, sizeof text, "error: %s\n", reason_text(reason));

    if (send(fd, text, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) != len ||
        shutdown(fd, SHUT_WR) != 0) {
        close(fd); /* it is gone already */
        return;
    }
    if (door->count == door->max)
        close_lingering(door, LINGERING);
    door->fds[door->count] = (struct pollfd){.fd = fd, .events = POLLIN};
    door->deadlines[door->count] = now_ms() + LINGER_MS;
    door->count++;
}

/* Accepts one client, if one is there, and starts its thread or turns it
 * away. Returns 0, or the errno of accept. */
static int accept_client(struct server *server, struct door *door)
{
    int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return errno;

    atomic_fetch_add(&server->connections, 1);
    unsigned reason = start_connection(server, fd);
    if (reason != FETCH_OK) {
        atomic_fetch_add(&server->rejected, 1);
        turn_away(door, fd, reason);
    }
    return 0;
}

/* True for an error of accept that concerns one client, or none; the others
 * would come again at once. */
static bool is_passing(int error)
{
    return error == 0 || error == EAGAIN || error == EINTR ||
           error == ECONNABORTED || error == EPROTO || error == EPERM ||
           error == ENETDOWN || error == ENETUNREACH || error == EHOSTDOWN ||
           error == EHOSTUNREACH || error == ENOPROTOOPT || error == ENONET ||
           error == EOPNOTSUPP;
}

/* Milliseconds that the accept loop may sleep: till the listener is asked
 * again after a pause, or the first of the lingering has had its time. */
static int next_wait(const struct door *door, long long paused_until)
{
    long long next = LLONG_MAX;

    if (door->fds[LISTENER].events == 0)
        next = paused_until;
    if (door->count > LINGERING && door->deadlines[LINGERING] < next)
        next = door->deadlines[LINGERING];
    if (next == LLONG_MAX)
        return -1;
    long long wait = next - now_ms();
    return wait > 0 ? (int)wait : 0;
}

/* The accept loop: accepts clients until a signal asks for the end. When
 * descriptors or memory have run out it pauses, or it would spin. */
static void accept_clients(struct server *server)
{
    struct door door = {.count = LINGERING,
                        .max = LINGERING + (nfds_t)server->lingering_max};
    long long paused_until = 0, last_log = 0;

    door.fds[STOP] = (struct pollfd){server->stop_pipe[0], POLLIN, 0};
    door.fds[LISTENER] = (struct pollfd){server->listener, POLLIN, 0};
    while (!atomic_load(&server->stopping)) {
        int ready = poll(door.fds, door.count, next_wait(&door, paused_until));
        if (ready < 0) {
            /* No memory, or a descriptor limit that fell below the count. */
            while (errno != EINTR && door.count > LINGERING)
                close_lingering(&door, LINGERING);
            nanosleep(&(struct timespec){0, ACCEPT_PAUSE_MS * 1000000}, NULL);
            continue;
        }
        close_lingered(&door);
        if (now_ms() >= paused_until)
            door.fds[LISTENER].events = POLLIN;
        if (door.fds[LISTENER].revents == 0)
            continue;

        int error = accept_client(server, &door);
        if (error != 0 && error != EAGAIN && error != EINTR)
            atomic_fetch_add(&server->accept_errors, 1);
        if (!is_passing(error)) {
            paused_until = now_ms() + ACCEPT_PAUSE_MS;
            door.fds[LISTENER].events = 0;
            if (may_log(&last_log))
                log_line("cannot accept: %s; pausing", strerror(error));
        }
    }

    /* Who is connected already is served what was sent until now. */
    int error = 0;
    for (int i = 0; i < BACKLOG && error != EAGAIN && is_passing(error); i++)
        error = accept_client(server, &door);
    while (door.count > LINGERING)
        close_lingering(&door, LINGERING);
}

/* Lets each thread finish what its client has sent, DRAIN_MS at most. Returns
 * how many connections are left. */
static long drain(struct server *server)
{
    struct connection *connection;
    struct timespec end;

    clock_gettime(CLOCK_MONOTONIC, &end); /* cannot fail for this clock */
    end.tv_sec += DRAIN_MS / 1000;

    pthread_mutex_lock(&server->mutex);
    /* A thread reads what has come, and then meets the end of the input. None
     * of this blocks; the lock keeps the descriptors from being closed. */
    LIST_FOREACH(connection, &server->open, next)
    {
        int unread = 0;
        struct pollfd input = {.fd = connection->fd, .events = POLLRDHUP};
        if (poll(&input, 1, 0) > 0)
            continue; /* it has come already, there is nothing to end */
        if (ioctl(connection->fd, FIONREAD, &unread) != 0)
            unread = 0;
        atomic_store(&connection->reader.left, unread);
        if (shutdown(connection->fd, SHUT_RD) != 0)
            continue; /* its client is gone, and its thread finds out */
    }
    int error = 0;
    while (server->active > 0 && error == 0)
        error = pthread_cond_timedwait(&server->drained, &server->mutex, &end);
    long left = server->active;
    pthread_mutex_unlock(&server->mutex);
    return left;
}

/* Waits for detached threads that have left the list and are on their last
 * steps: a TLS library frees there what exit() would take away from under it.
 * False if there still are some, such as one that resolves a name. */
static bool await_last_steps(void)
{
    struct stat tasks;

    for (int ms = 0; ms < LAST_STEPS_MS; ms++) {
        if (stat("/proc/self/task", &tasks) != 0)
            return false;
        if (tasks.st_nlink == 3) /* ".", ".." and this thread */
            return true;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return false;
}

/* Prints the summary line; its numbers may still grow while threads run. */
static void log_summary(struct server *server)
{
    char errors[REASONS * 48] = "";
    size_t len = 0;
    unsigned long long total = 0;
    struct rusage usage;

    for (unsigned reason = FETCH_OK + 1; reason < REASONS; reason++) {
        unsigned long long count = atomic_load(&server->errors[reason]);
        if (count == 0)
            continue;
        total += count;
        int n = snprintf(errors + len, sizeof errors - len, " error_%s=%llu",
                         reason_text(reason), count);
        /* A word of the summary: its blanks become underscores. */
        for (int i = 1; i < n; i++)
            if (errors[len + (size_t)i] == ' ')
                errors[len + (size_t)i] = '_';
        len += (size_t)n;
    }
    pthread_mutex_lock(&server->mutex);
    long peak = server->peak;
    pthread_mutex_unlock(&server->mutex);
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        memset(&usage, 0, sizeof usage);

    log_line("connections=%llu rejected=%llu requests=%llu errors=%llu%s "
             "accept_errors=%llu thread_errors=%llu peak_threads=%ld "
             "cpu_user=%lld.%06ld cpu_sys=%lld.%06ld max_rss=%ld "
             "voluntary_switches=%ld involuntary_switches=%ld",
             atomic_load(&server->connections), atomic_load(&server->rejected),
             atomic_load(&server->requests), total, errors,
             atomic_load(&server->accept_errors),
             atomic_load(&server->thread_errors), peak,
             (long long)usage.ru_utime.tv_sec, (long)usage.ru_utime.tv_usec,
             (long long)usage.ru_stime.tv_sec, (long)usage.ru_stime.tv_usec,
             usage.ru_maxrss, usage.ru_nvcsw, usage.ru_nivcsw);
}

/* The signals that signal_thread takes. */
static sigset_t handled_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    return set;
}

/* Takes the signals, so that no handler interrupts any other thread. */
static void *signal_thread(void *arg)
{
    struct server *server = arg;
    sigset_t set = handled_signals();
    bool stopping = false;

    for (;;) {
        int signal_number;
        if (sigwait(&set, &signal_number) != 0)
            continue;
        if (atomic_load(&server->ended))
            return NULL;
        if (signal_number == SIGUSR1) {
            log_summary(server);
        } else if (!stopping) {
            stopping = true;
            atomic_store(&server->stopping, true);
            close(server->stop_pipe[1]);
        } else {
            signal(signal_number, SIG_DFL);
            pthread_sigmask(SIG_UNBLOCK, &set, NULL);
            raise(signal_number);
        }
    }
}

static long smaller(long a, long b)
{
    return a < b ? a : b;
}

/* Raises the descriptor limit and divides it: each connection takes one, each
 * fetch FDS_PER_FETCH. Fills in what the options left open, and warns of what
 * they ask for in vain. */
static bool set_limits(struct server *server)
{
    struct options *options = &server->options;
    struct rlimit fds;

    if (getrlimit(RLIMIT_NOFILE, &fds) != 0) {
        log_line("cannot read the descriptor limit: %s", strerror(errno));
        return false;
    }
    fds.rlim_cur = fds.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &fds) != 0) {
        log_line("cannot raise the descriptor limit: %s", strerror(errno));
        return false;
    }
    long limit = fds.rlim_cur < INT_MAX ? (long)fds.rlim_cur : INT_MAX;
    long lingering = smaller(limit / 8, LINGERING_MAX);
    long reserved = OWN_FDS + lingering + smaller(limit / 16, SPARE_FDS);
    long budget = limit - reserved;
    struct thread_limit threads = tightest_thread_limit(options);

    if (budget < 1 + FDS_PER_FETCH) {
        log_line("a descriptor limit of %ld is too low (raise it with "
                 "ulimit -n)",
                 limit);
        return false;
    }
    server->lingering_max = lingering;
    if (options->echo) {
        options->max_fetches = 0;
    } else if (options->max_fetches == 0) {
        long share = options->max_connections > 0
                         ? (budget - options->max_connections) / FDS_PER_FETCH
                         : budget / (2 * FDS_PER_FETCH);
        options->max_fetches = smaller(share, MAX_FETCHES);
        if (options->max_fetches < 1)
            options->max_fetches = 1;
    }
    if (options->max_connections == 0) {
        options->max_connections =
            budget - FDS_PER_FETCH * options->max_fetches;
        if (options->max_connections > threads.threads)
            options->max_connections = (long)threads.threads;
        if (options->max_connections < 1)
            options->max_connections = 1;
    }
    long needed = options->max_connections +
                  FDS_PER_FETCH * options->max_fetches + reserved;
    if (needed > limit)
        log_line("warning: %ld connections and %ld fetches may need %ld "
                 "descriptors, the limit is %ld (raise it with ulimit -n)",
                 options->max_connections, options->max_fetches, needed,
                 limit);
    if (options->max_connections > threads.threads)
        log_line("warning: %s is %lld, which leaves room for %lld of %ld "
                 "connections (raise it with %s)",
                 threads.name, threads.value, threads.threads,
                 options->max_connections, threads.raise);
    return true;
}

static const char usage[] =
    "Usage: threadecho [OPTION]...\n"
    "Answers each line a client sends with what URL?text=LINE returns.\n"
    "\n"
    "  -l, --listen HOST:PORT     where to listen (127.0.0.1:8080);\n"
    "                             port 0 is any free one\n"
    "  -u, --upstream URL         what to fetch\n"
    "                             (http://127.0.0.1:8081/arrpi.php)\n"
    "  -e, --echo                 answer with the line itself, no upstream\n"
    "      --no-keepalive         a new upstream connection for each fetch\n"
    "      --timeout SEC          for one fetch, in all (10)\n"
    "      --connect-timeout SEC  for its connection (3)\n"
    "      --line-timeout SEC     for a line, from its first byte (60)\n"
    "      --idle-timeout SEC     between lines; 0 is for ever (0)\n"
    "      --max-connections N    clients at once (as the limits allow)\n"
    "      --max-fetches N        fetches at once, others wait (1024, or as\n"
    "                             the limits allow)\n"
    "      --max-line BYTES       of a line (65536)\n"
    "      --max-body BYTES       of an upstream's answer (1048576)\n"
    "      --stack-size KIB       of a connection's thread (128)\n"
    "      --cacert FILE          certificates to trust for https\n"
    "  -v, --verbose              log connections and errors\n"
    "  -h, --help                 print this and exit\n"
    "  -V, --version              print the version and exit\n";

/* What an option sets: the member at offset, by its kind, from min to max. */
struct setting {
    const char *name;
    int letter; /* or a number above any letter's */
    enum { FLAG, TEXT, ADDRESS, COUNT, SECONDS, HELP, SHOW_VERSION } kind;
    size_t offset;
    double min, max;
};

#define MEMBER(name) offsetof(struct options, name)
static const struct setting settings[] = {
    {"listen", 'l', ADDRESS, MEMBER(listen), 0, 0},
    {"upstream", 'u', TEXT, MEMBER(upstream), 0, 0},
    {"echo", 'e', FLAG, MEMBER(echo), 0, 0},
    {"no-keepalive", 256, FLAG, MEMBER(no_keepalive), 0, 0},
    {"timeout", 257, SECONDS, MEMBER(timeout_ms), 0.001, 86400},
    {"connect-timeout", 258, SECONDS, MEMBER(connect_timeout_ms), 0.001,
     86400},
    {"line-timeout", 259, SECONDS, MEMBER(line_timeout_ms), 0.001, 86400},
    {"idle-timeout", 260, SECONDS, MEMBER(idle_timeout_ms), 0, 86400},
    {"max-connections", 261, COUNT, MEMBER(max_connections), 1, 1000000},
    {"max-fetches", 262, COUNT, MEMBER(max_fetches), 1, 100000},
    {"max-line", 263, COUNT, MEMBER(max_line), 1, 1048576},
    {"max-body", 264, COUNT, MEMBER(max_body), 1, 1073741824},
    {"stack-size", 265, COUNT, MEMBER(stack_kib), 64, 1048576},
    {"cacert", 266, TEXT, MEMBER(cacert), 0, 0},
    {"verbose", 'v', FLAG, MEMBER(verbose), 0, 0},
    {"help", 'h', HELP, 0, 0, 0},
    {"version", 'V', SHOW_VERSION, 0, 0, 0},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

/* Parses a number, with decimals only where it is one of seconds, which are
 * kept in milliseconds. Says what is wrong with it, if anything is. */
static bool parse_number(const struct setting *setting, const char *text,
                         long *value)
{
    bool seconds = setting->kind == SECONDS;
    const char *digits = seconds ? "0123456789." : "0123456789";
    char *end;
    double number = strtod(text, &end);

    if (end != text && *end == '\0' && text[strspn(text, digits)] == '\0' &&
        number >= setting->min && number <= setting->max) {
        *value = (long)(seconds ? number * 1000 + 0.999 : number);
        return true;
    }
    log_line("--%s: '%s' is not a %s from %.10g to %.10g", setting->name, text,
             seconds ? "number of seconds" : "whole number", setting->min,
             setting->max);
    return false;
}

/* Sets what the option stands for. Returns whether its argument will do; if
 * not, it has said why. */
static bool apply(const struct setting *setting, struct options *options,
                  const char *argument)
{
    void *member = (char *)options + setting->offset;
    char host[HOST_SIZE];
    const char *port;

    switch (setting->kind) {
    case COUNT:
    case SECONDS:
        return parse_number(setting, argument, member);
    case FLAG:
        *(bool *)member = true;
        return true;
    case ADDRESS:
        if (!split_address(argument, host, &port)) {
            log_line("--%s: '%s' is not HOST:PORT with a port from 0 to 65535",
                     setting->name, argument);
            return false;
        }
        break;
    default:
        break;
    }
    *(const char **)member = argument;
    return true;
}

/* Sets the defaults and then what the arguments say. Returns -1 to go on, or
 * the status to exit with. */
static int parse_options(int argc, char **argv, struct options *options)
{
    struct option names[SETTINGS + 1] = {0};

    for (int i = 0; i < SETTINGS; i++) {
        bool bare = settings[i].kind == FLAG || settings[i].kind >= HELP;
        names[i] = (struct option){settings[i].name,
                                   bare ? no_argument : required_argument,
                                   NULL, settings[i].letter};
    }
    *options = (struct options){
        .listen = "127.0.0.1:8080",
        .upstream = "http://127.0.0.1:8081/arrpi.php",
        .timeout_ms = 10000,
        .connect_timeout_ms = 3000,
        .line_timeout_ms = 60000,
        .max_line = 65536,
        .max_body = 1048576,
        .stack_kib = 128,
    };
    for (;;) {
        int letter = getopt_long(argc, argv, "l:u:evhV", names, NULL);
        if (letter == -1 && optind == argc)
            return -1;
        if (letter == -1)
            log_line("unexpected argument '%s'", argv[optind]);
        int i = 0;
        while (i < SETTINGS && settings[i].letter != letter)
            i++;
        if (i == SETTINGS) /* getopt_long has said why, or the lines above */
            break;
        if (settings[i].kind == HELP)
            return fputs(usage, stdout) < 0 || fflush(stdout) != 0;
        if (settings[i].kind == SHOW_VERSION)
            return printf("threadecho %s, %s\n", VERSION, fetch_library()) <
                       0 ||
                   fflush(stdout) != 0;
        if (!apply(&settings[i], options, optarg))
            break;
    }
    fputs("Try threadecho --help.\n", stderr);
    return 2;
}

/* Opens what the server needs before it can serve. Returns the status to exit
 * with if that fails, else 0 and the address that it listens on. */
static int start(struct server *server, char *bound)
{
    const struct options *options = &server->options;
    sigset_t set = handled_signals();
    pthread_condattr_t clock;

    if (options->cacert != NULL && access(options->cacert, R_OK) != 0) {
        log_line("--cacert: cannot read %s: %s", options->cacert,
                 strerror(errno));
        return 1;
    }
    if (!set_limits(server))
        return 1;
    if (!options->echo) {
        const struct fetch_options fetch_options = {
            .url = options->upstream,
            .cacert = options->cacert,
            .timeout_ms = options->timeout_ms,
            .connect_timeout_ms = options->connect_timeout_ms,
            .max_body = (size_t)options->max_body,
            .max_handles = (unsigned)options->max_fetches,
            .keepalive = !options->no_keepalive,
        };
        const char *why;
        server->fetcher = fetcher_create(&fetch_options, &why);
        if (server->fetcher == NULL) {
            log_line("--upstream: '%s': %s", options->upstream, why);
            return 2;
        }
    }
    int error = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (error == 0)
        error = pthread_condattr_init(&clock);
    if (error == 0)
        error = pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    if (error == 0)
        error = pthread_cond_init(&server->drained, &clock);
    if (error == 0)
        error = pthread_attr_init(&server->thread_attr);
    if (error == 0)
        error = pthread_attr_setdetachstate(&server->thread_attr,
                                            PTHREAD_CREATE_DETACHED);
    if (error == 0)
        error = pthread_attr_setstacksize(&server->thread_attr,
                                          (size_t)options->stack_kib * 1024);
    if (error == 0 && (signal(SIGPIPE, SIG_IGN) == SIG_ERR ||
                       pipe2(server->stop_pipe, O_CLOEXEC) != 0))
        error = errno;
    if (error != 0) {
        log_line("cannot start: %s", strerror(error));
        return 1;
    }
    server->listener = open_listener(options->listen, bound);
    return server->listener >= 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct server server = {
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .open = LIST_HEAD_INITIALIZER(server.open),
    };
    char bound[ADDRESS_SIZE];
    pthread_t signals;
    int fd;

    /* With a standard stream closed, a socket would get its number and, as
     * likely as not, the log. */
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
    int status = parse_options(argc, argv, &server.options);
    if (status >= 0)
        return status;
    status = start(&server, bound);
    if (status != 0)
        return status;
    int error = pthread_create(&signals, NULL, signal_thread, &server);
    if (error != 0) {
        log_line("cannot start a thread: %s", strerror(error));
        return 1;
    }
    if (server.options.echo)
        log_line("listening on %s, echo, at most %ld connections", bound,
                 server.options.max_connections);
    else
        log_line("listening on %s, upstream %s, at most %ld connections and "
                 "%ld fetches",
                 bound, server.options.upstream,
                 server.options.max_connections, server.options.max_fetches);

    accept_clients(&server);
    close(server.listener);
    long left = drain(&server);
    if (left > 0)
        log_line("cut off %ld connections after %d s", left, DRAIN_MS / 1000);
    log_summary(&server);
    if (left > 0)
        _exit(0); /* threads are still using what would be freed */
    atomic_store(&server.ended, true);
    if (pthread_kill(signals, SIGUSR1) == 0)
        pthread_join(signals, NULL);
    fetcher_destroy(server.fetcher);
    if (!await_last_steps())
        _exit(0);
    return 0;
}
