/*
 * upstream.c - the HTTP server that the measured servers fetch from
 *
 * It answers GET PATH?text=X with X, after an exactly timed delay:
 *     build/upstream --listen 127.0.0.1:8081 --delay 5
 *
 * SPDX-License-Identifier: MIT
 */
#include "../lib/values.h"
#include "arguments.h"
#include "mark.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#define DEFAULT_LISTEN "127.0.0.1:8081"

#define LISTEN_BACKLOG 4096 /* connections that wait for accept() */
#define MAX_DELAY_MS (3600 * 1000)
#define MAX_SIZE (1 << 30)           /* bytes of a body */
#define ACCEPT_PAUSE_US (100 * 1000) /* after accept() has failed */

static const char usage[] =
    "Usage: upstream [OPTION]...\n"
    "Answer GET PATH?text=X with X, for any PATH.\n"
    "\n"
    "  -l, --listen HOST:PORT  where to listen (" DEFAULT_LISTEN ");\n"
    "                          port 0 is any free one, [::1]:0 works too\n"
    "  -d, --delay MS          answer MS milliseconds after the request,\n"
    "                          0 to 3600000, decimals allowed (0)\n"
    "  -s, --size BYTES        repeat or cut X to BYTES, 0 to 1073741824\n"
    "                          (as it is); an empty X becomes dots\n"
    "  -c, --status CODE       status of the answers, 200 to 599 (200)\n"
    "  -k, --key-file FILE     append a blank and the mark of X, the first\n"
    "                          16 hexadecimal digits of its 16-byte BLAKE2b\n"
    "                          with the key in FILE, 16 to 64 bytes\n"
    "  -h, --help              print this and exit\n"
    "  -V, --version           print the version and exit\n"
    "\n"
    "X is percent-decoded, %00 included; a plus sign stays one. A request\n"
    "without text, or with a broken escape, gets status 400, another method\n"
    "501. When upstream accepts connections, it prints its address and port\n"
    "to standard error. It exits with 0 on SIGTERM and SIGINT.\n"
    "\n"
    "Then, and on SIGUSR1, it prints what it has counted:\n"
    "\n"
    "    upstream: connections=N requests=N text_bytes=N\n"
    "\n"
    "These are the connections that it accepted, the requests of any method\n"
    "or path, answered or not, and the bytes of each X. What is no HTTP\n"
    "request gets status 400 and is not counted.\n";

struct upstream_options {
    struct address listen;
    struct timeval delay;
    bool sized; /* size is given */
    size_t size;
    int status;
    struct mark_key key; /* of length 0: no marks */
};

struct upstream_server {
    struct upstream_options options;
    uint64_t connections;
    uint64_t requests;
    uint64_t text_bytes;
    struct event_base *base;
    struct evhttp *http;
    struct evconnlistener *listener;
    struct event *accept_again;
    LIST_HEAD(, delayed) delayed;
};

/* A request whose answer is ready but not due. */
struct delayed {
    LIST_ENTRY(delayed) entry;
    struct event timer;
    struct evhttp_request *request;
    int status;
};

/* Returns the value of a hexadecimal digit, or -1. */
static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/*
 * Finds the first parameter named text in the query of uri. Returns its value
 * and sets *len, or returns NULL if there is none.
 */
static const char *find_text(const char *uri, size_t *len)
{
    const char *parameter = strchr(uri, '?');
    while (parameter != NULL) {
        parameter++;
        if (strncmp(parameter, "text=", 5) == 0) {
            *len = strcspn(parameter + 5, "&#");
            return parameter + 5;
        }
        parameter = strchr(parameter, '&');
    }
    return NULL;
}

/* Percent-decodes len bytes to out. Returns the new length, or -1 if an escape
 * is broken. */
static ssize_t decode(const char *text, size_t len, char *out)
{
    size_t used = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '%') {
            out[used++] = text[i];
            continue;
        }
        int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
        if (low < 0)
            return -1;
        out[used++] = (char)(high * 16 + low);
        i += 2;
    }
    return (ssize_t)used;
}

/* Repeats the first used bytes of out until it holds size bytes. */
static void repeat_text(char *out, size_t used, size_t size)
{
    if (used == 0 && size > 0)
        out[used++] = '.';
    while (used < size) {
        size_t more = used < size - used ? used : size - used;
        memcpy(out + used, out, more);
        used += more;
    }
}

/* Writes the answer to a request to its body. Returns the status to send. */
static int make_answer(struct upstream_server *upstream,
                       struct evhttp_request *request)
{
    const struct upstream_options *options = &upstream->options;
    size_t len = 0;
    const char *text = find_text(evhttp_request_get_uri(request), &len);
    if (text == NULL)
        return HTTP_BADREQUEST;

    struct evbuffer *body = evhttp_request_get_output_buffer(request);
    struct evbuffer_iovec space;
    /* X is decoded before it is cut. */
    size_t room = (options->size > len ? options->size : len) + 1 + MARK_LEN;
    if (evbuffer_reserve_space(body, (ev_ssize_t)room, &space, 1) != 1)
        return HTTP_INTERNAL;
    char *out = space.iov_base;
    ssize_t decoded = decode(text, len, out);
    if (decoded < 0)
        return HTTP_BADREQUEST;
    upstream->text_bytes += (uint64_t)decoded;
    /* Their answers have no body. */
    if (options->status == HTTP_NOCONTENT ||
        options->status == HTTP_NOTMODIFIED)
        return options->status;

    char mark[MARK_LEN];
    if (options->key.len > 0)
        mark_text(&options->key, out, (size_t)decoded, mark);
    space.iov_len = (size_t)decoded;
    if (options->sized) {
        repeat_text(out, (size_t)decoded, options->size);
        space.iov_len = options->size;
    }
    if (options->key.len > 0) {
        out[space.iov_len] = ' ';
        memcpy(out + space.iov_len + 1, mark, MARK_LEN);
        space.iov_len += 1 + MARK_LEN;
    }
    if (evbuffer_commit_space(body, &space, 1) != 0)
        return HTTP_INTERNAL;
    return options->status;
}

/*
 * Sends the answer that is in the request's body. evhttp would ask epoll first
 * whether the socket is writable, and it nearly always is. So this writes at
 * once and has evhttp finish the request. evhttp also handles whatever could
 * not be written.
 */
static void send_answer(struct evhttp_request *request, int status)
{
    struct evhttp_connection *connection =
        evhttp_request_get_connection(request);
    /* Frees the request if the connection is gone. */
    evhttp_send_reply(request, status, NULL, NULL);
    if (connection == NULL)
        return;
    struct bufferevent *bufferevent =
        evhttp_connection_get_bufferevent(connection);
    struct evbuffer *output = bufferevent_get_output(bufferevent);
    (void)evbuffer_unfreeze(output, 1);
    (void)evbuffer_write(output, bufferevent_getfd(bufferevent));
    (void)evbuffer_freeze(output, 1);
    if (evbuffer_get_length(output) == 0)
        bufferevent_trigger(bufferevent, EV_WRITE, 0);
}

/*
 * Answers a request whose delay is over. If its client has gone by then,
 * evhttp has detached the request from the connection and left it to us. Then
 * evhttp_send_reply() frees it and sends nothing.
 */
static void delay_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct delayed *delayed = arg;
    LIST_REMOVE(delayed, entry);
    send_answer(delayed->request, delayed->status);
    free(delayed);
}

/* Handles a request: answers it now or when its delay is over. */
static void handle_request(struct evhttp_request *request, void *arg)
{
    struct upstream_server *upstream = arg;
    const struct upstream_options *options = &upstream->options;
    upstream->requests++;
    if (evhttp_request_get_command(request) != EVHTTP_REQ_GET) {
        evhttp_send_error(request, HTTP_NOTIMPLEMENTED, NULL);
        return;
    }
    int status = make_answer(upstream, request);
    if (options->delay.tv_sec == 0 && options->delay.tv_usec == 0) {
        send_answer(request, status);
        return;
    }
    struct delayed *delayed = malloc(sizeof *delayed);
    if (delayed == NULL) {
        send_answer(request, HTTP_INTERNAL);
        return;
    }
    delayed->request = request;
    delayed->status = status;
    /*
     * The base counts from when epoll reported the request. So the delay does
     * not grow with the number of requests handled before this one.
     */
    if (evtimer_assign(&delayed->timer, upstream->base, delay_over, delayed) !=
            0 ||
        evtimer_add(&delayed->timer, &options->delay) != 0) {
        free(delayed);
        send_answer(request, HTTP_INTERNAL);
        return;
    }
    LIST_INSERT_HEAD(&upstream->delayed, delayed, entry);
}

/* Accepts again after a pause. */
static void resume_accept(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct upstream_server *upstream = arg;
    if (evconnlistener_enable(upstream->listener) != 0) {
        fputs("upstream: cannot accept any more\n", stderr);
        (void)event_base_loopbreak(upstream->base);
    }
}

/* Pauses when accept() fails, for example without descriptors: no spinning. */
static void accept_failed(struct evconnlistener *listener, void *arg)
{
    struct upstream_server *upstream = arg;
    struct timeval pause = {.tv_usec = ACCEPT_PAUSE_US};
    fprintf(stderr, "upstream: cannot accept: %s\n", strerror(errno));
    if (evtimer_add(upstream->accept_again, &pause) == 0)
        (void)evconnlistener_disable(listener);
}

/* Counts an accepted connection. Returns what evhttp would make for it. */
static struct bufferevent *count_connection(struct event_base *base, void *arg)
{
    struct upstream_server *upstream = arg;
    upstream->connections++;
    return bufferevent_socket_new(base, -1, 0);
}

static void print_counts(const struct upstream_server *upstream)
{
    fprintf(stderr,
            "upstream: connections=%" PRIu64 " requests=%" PRIu64
            " text_bytes=%" PRIu64 "\n",
            upstream->connections, upstream->requests, upstream->text_bytes);
}

/* Prints the counts on SIGUSR1. */
static void report_counts(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    print_counts(arg);
}

/* Ends the event loop on SIGTERM or SIGINT. */
static void end_loop(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)event_base_loopbreak(arg);
}

/*
 * Listens with a backlog for a burst of thousands of connections. The backlog
 * of evhttp_bind_socket() is 128, and each lost SYN costs its client a second.
 * Returns the socket, or -1 with errno set.
 */
static int listen_with_backlog(const struct address *address)
{
    int one = 1;
    int fd = socket(address->u.any.sa_family,
                    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    /* Accepted sockets inherit TCP_NODELAY on Linux. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        bind(fd, &address->u.any, address->len) != 0 ||
        listen(fd, LISTEN_BACKLOG) != 0) {
        int saved = errno;
        (void)close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* Creates the event loop and the HTTP server. Returns false on failure. */
static bool create_server(struct upstream_server *upstream)
{
    struct event_config *config = event_config_new();
    if (config == NULL)
        return false;
    /* Without the precise timer, 5 ms could be rounded up to 6. */
    if (event_config_set_flag(
            config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_PRECISE_TIMER |
                        EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST) == 0)
        upstream->base = event_base_new_with_config(config);
    event_config_free(config);
    if (upstream->base == NULL)
        return false;
    upstream->accept_again =
        evtimer_new(upstream->base, resume_accept, upstream);
    upstream->http = evhttp_new(upstream->base);
    if (upstream->accept_again == NULL || upstream->http == NULL)
        return false;
    /*
     * All of them, known to evhttp or not: those that it rejects are not
     * counted. It has no callback for what it cannot parse.
     */
    evhttp_set_allowed_methods(upstream->http, UINT16_MAX);
    evhttp_set_bevcb(upstream->http, count_connection, upstream);
    evhttp_set_default_content_type(upstream->http, NULL);
    evhttp_set_gencb(upstream->http, handle_request, upstream);
    return true;
}

/* Listens and says so. Returns false, with a message, on failure. */
static bool start_upstream(struct upstream_server *upstream)
{
    char text[ADDRESS_TEXT];
    struct address bound = {.len = sizeof bound.u};
    int fd = listen_with_backlog(&upstream->options.listen);
    if (fd < 0 || getsockname(fd, &bound.u.any, &bound.len) != 0) {
        fprintf(stderr, "upstream: cannot listen on %s: %s\n",
                format_address(&upstream->options.listen, text),
                strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        return false;
    }
    upstream->listener = evconnlistener_new(
        upstream->base, NULL, NULL,
        LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (upstream->listener == NULL) {
        fputs("upstream: out of memory\n", stderr);
        (void)close(fd);
        return false;
    }
    if (evhttp_bind_listener(upstream->http, upstream->listener) == NULL) {
        fputs("upstream: out of memory\n", stderr);
        evconnlistener_free(upstream->listener);
        return false;
    }
    evconnlistener_set_error_cb(upstream->listener, accept_failed);
    fprintf(stderr, "upstream: listening on %s\n",
            format_address(&bound, text));
    return true;
}

/* Serves until a signal. Returns false, with a message, if it cannot start. */
static bool serve(struct upstream_server *upstream)
{
    struct event *signals[] = {
        evsignal_new(upstream->base, SIGTERM, end_loop, upstream->base),
        evsignal_new(upstream->base, SIGINT, end_loop, upstream->base),
        evsignal_new(upstream->base, SIGUSR1, report_counts, upstream),
    };
    const size_t count = sizeof signals / sizeof signals[0];
    bool ready = true;
    for (size_t i = 0; i < count; i++)
        ready =
            ready && signals[i] != NULL && evsignal_add(signals[i], NULL) == 0;
    if (!ready)
        fputs("upstream: cannot handle signals\n", stderr);
    bool started = ready && start_upstream(upstream);
    bool served = started && event_base_dispatch(upstream->base) == 0;
    if (started)
        print_counts(upstream);
    for (size_t i = 0; i < count; i++)
        if (signals[i] != NULL)
            event_free(signals[i]);
    return served;
}

/* Frees what create_server() and the requests in flight hold. */
static void destroy_server(struct upstream_server *upstream)
{
    while (!LIST_EMPTY(&upstream->delayed)) {
        struct delayed *delayed = LIST_FIRST(&upstream->delayed);
        LIST_REMOVE(delayed, entry);
        (void)evtimer_del(&delayed->timer);
        /* evhttp_free() frees those that still have a connection. */
        if (evhttp_request_get_connection(delayed->request) == NULL)
            evhttp_request_free(delayed->request);
        free(delayed);
    }
    if (upstream->http != NULL)
        evhttp_free(upstream->http);
    if (upstream->accept_again != NULL)
        event_free(upstream->accept_again);
    if (upstream->base != NULL)
        event_base_free(upstream->base);
    libevent_global_shutdown();
}

/* Reads the command line. Exits with 0 after --help, with 2 if it is wrong. */
static struct upstream_options parse_upstream_options(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"listen", required_argument, NULL, 'l'},
        {"delay", required_argument, NULL, 'd'},
        {"size", required_argument, NULL, 's'},
        {"status", required_argument, NULL, 'c'},
        {"key-file", required_argument, NULL, 'k'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    struct upstream_options options = {.status = HTTP_OK};
    const char *address = DEFAULT_LISTEN;
    double delay_ms = 0;
    int option = 0;

    while (option != -1) {
        option =
            next_option("upstream", argc, argv, "l:d:s:c:k:hV", long_options);
        switch (option) {
        case -1:
            break;
        case 'l':
            address = optarg;
            break;
        case 'd':
            delay_ms =
                decimal_argument("upstream", "--delay", optarg,
                                 "number of milliseconds", 0, MAX_DELAY_MS);
            break;
        case 's':
            options.size =
                whole_argument("upstream", "--size", optarg, 0, MAX_SIZE);
            options.sized = true;
            break;
        case 'c':
            options.status =
                (int)whole_argument("upstream", "--status", optarg, 200, 599);
            break;
        case 'k':
            options.key = mark_key_argument("upstream", "--key-file", optarg);
            break;
        case 'h':
            exit_printing("upstream", usage);
        case 'V':
            exit_printing("upstream", "upstream (threadecho) " VERSION "\n");
        }
    }
    if (optind < argc)
        exit_bad_usage("upstream", "unexpected argument '%s'", argv[optind]);
    options.listen = address_argument("upstream", "--listen", address);
    /* To the nearest microsecond. */
    long delay_us = (long)(delay_ms * 1000 + 0.5);
    options.delay.tv_sec = delay_us / 1000000;
    options.delay.tv_usec = delay_us % 1000000;
    return options;
}

int main(int argc, char **argv)
{
    struct upstream_server upstream = {.options =
                                           parse_upstream_options(argc, argv)};
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    LIST_INIT(&upstream.delayed);
    (void)raise_descriptor_limit(0);
    /* A client that closes early must not end the process. */
    if (sigaction(SIGPIPE, &ignore, NULL) != 0) {
        perror("upstream: cannot ignore SIGPIPE");
        return 1;
    }
    bool served = false;
    if (create_server(&upstream))
        served = serve(&upstream);
    else
        fputs("upstream: cannot make the event loop\n", stderr);
    destroy_server(&upstream);
    return served ? 0 : 1;
}
