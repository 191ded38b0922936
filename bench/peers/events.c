/* SPDX-License-Identifier: MIT */
/*
 * events.c: one thread and an event loop (libevent) that libcurl's multi
 * interface lives in as well. Nothing blocks; what a thread keeps on its
 * stack is here a struct, and where it stands in its code is a state.
 * Run: build/peers/events --listen HOST:PORT --upstream URL [--no-keepalive]
 * Keep in your head: what each state waits for, every order in which events
 * can come, and who may free the connection that you hold a pointer to.
 */
#include "peer.h"

#include <curl/curl.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_HEAD = 65536, MAX_IDLE = 4096 };

struct server {
    struct event_base *base;
    struct evconnlistener *listener;
    struct event accept_again; /* a timer, while accepting is paused */
    CURLM *multi;
    struct event timer; /* libcurl's */
    const char *url;    /* where to connect, and */
    char target[2048];  /* what to ask for there: PATH?text= */
    struct curl_slist *headers;
};

struct connection {
    struct server *server;
    int fd;
    enum { WAITING, FETCHING, SENDING } state;
    struct event readable; /* pending, but for a full buffer or its end */
    struct event writable; /* pending while the client does not read */
    struct lines *in;
    CURL *easy; /* NULL before the first fetch */
    char message[CURL_ERROR_SIZE];
    size_t head;         /* bytes of header that came from the upstream */
    const char *stopped; /* why we ended this fetch, or NULL */
    char *reply;
    size_t len; /* of the reply */
    size_t size;
    size_t sent;
};

/* Frees a connection in any state, half made ones too. */
static void close_connection(struct connection *c)
{
    if (c->state == FETCHING &&
        curl_multi_remove_handle(c->server->multi, c->easy) != CURLM_OK)
        (void)fprintf(stderr, "events: a fetch cannot be stopped\n");
    if (event_del(&c->readable) == -1 || event_del(&c->writable) == -1)
        (void)fprintf(stderr, "events: an event cannot be removed\n");
    curl_easy_cleanup(c->easy);
    (void)close(c->fd); /* all is sent, or the client is gone */
    free(c->reply);
    free(c->in);
    free(c);
}

/* Appends to the reply; false: no memory. */
static bool append(struct connection *c, const char *data, size_t len)
{
    if (len > c->size - c->len) {
        size_t size = 2 * c->size + len;
        char *larger = realloc(c->reply, size);

        if (larger == NULL)
            return false;
        c->reply = larger;
        c->size = size;
    }
    memcpy(c->reply + c->len, data, len);
    c->len += len;
    return true;
}

/* Makes an error the reply. There is always room for one. */
static void set_error(struct connection *c, const char *reason, long status)
{
    int n = status == 0 ? snprintf(c->reply, c->size, "error: %s\n", reason)
                        : snprintf(c->reply, c->size, "error: %s %03ld\n",
                                   reason, status);

    c->len = n > 0 ? (size_t)n : 0;
}

/* Sends as much as the client takes. False: not all, or it is gone. */
static bool send_reply(struct connection *c)
{
    static const struct timeval limit = {.tv_sec = SEND_SECONDS};

    while (c->sent < c->len) {
        ssize_t n =
            send(c->fd, c->reply + c->sent, c->len - c->sent, MSG_NOSIGNAL);

        if (n == -1) {
            bool full = errno == EAGAIN || errno == EWOULDBLOCK;
            if (!full || event_add(&c->writable, &limit) == -1)
                close_connection(c);
            return false;
        }
        c->sent += (size_t)n;
    }
    return true;
}

/* libcurl's: a piece of the body. */
static size_t on_body(char *data, size_t one, size_t len, void *connection)
{
    struct connection *c = connection;

    if (c->len - strlen("echo: ") + len * one > MAX_BODY)
        c->stopped = "upstream body too large";
    else if (!append(c, data, len * one))
        c->stopped = "out of memory";
    return c->stopped == NULL ? len * one : CURL_WRITEFUNC_ERROR;
}

/* libcurl's: a line of the header. */
static size_t on_header(char *data, size_t one, size_t len, void *connection)
{
    struct connection *c = connection;

    (void)data;
    c->head += len * one;
    if (c->head <= MAX_HEAD)
        return len * one;
    c->stopped = "upstream sent bad HTTP";
    return CURL_WRITEFUNC_ERROR;
}

/* An easy handle with all that stays the same, or NULL. */
static CURL *make_easy(struct connection *c)
{
    struct server *s = c->server;
    CURL *easy = curl_easy_init();

    if (easy == NULL || curl_easy_setopt(easy, CURLOPT_URL, s->url) ||
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") ||
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                         (long)CURL_HTTP_VERSION_1_1) ||
        curl_easy_setopt(easy, CURLOPT_NOPROXY, "*") ||
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, s->headers) ||
        curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, s->headers ? 1L : 0L) ||
        curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)FETCH_SECONDS) ||
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) ||
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) ||
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, c) ||
        curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) ||
        curl_easy_setopt(easy, CURLOPT_HEADERDATA, c) ||
        curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, c->message) ||
        curl_easy_setopt(easy, CURLOPT_PRIVATE, c)) {
        curl_easy_cleanup(easy);
        return NULL;
    }
    return easy;
}

/* Starts a fetch; false: no memory. */
static bool start_fetch(struct connection *c, const char *line, size_t len)
{
    const char *target = c->server->target;
    char *text = NULL;

    c->head = c->len = 0;
    c->stopped = NULL;
    c->message[0] = '\0';
    if (c->easy == NULL)
        c->easy = make_easy(c);
    if (c->easy == NULL)
        return false;
    if (len > 0) { /* 0 would mean strlen() */
        text = curl_easy_escape(c->easy, line, (int)len);
        if (text == NULL)
            return false;
    }
    /* The target goes where the reply will be: libcurl copies it. */
    bool ok = append(c, target, strlen(target)) &&
              append(c, text == NULL ? "" : text,
                     text == NULL ? 1 : strlen(text) + 1) &&
              curl_easy_setopt(c->easy, CURLOPT_REQUEST_TARGET, c->reply) ==
                  CURLE_OK;
    curl_free(text);
    c->len = 0;
    if (!ok || !append(c, "echo: ", strlen("echo: ")) ||
        curl_multi_add_handle(c->server->multi, c->easy) != CURLM_OK)
        return false;
    c->state = FETCHING;
    return true;
}

/* Goes on with the next line, as far as that works without waiting. */
static void advance(struct connection *c)
{
    for (;;) {
        char *line;
        size_t len;
        enum line got = next_line(c->in, &line, &len);

        if (got == LINE_READY && start_fetch(c, line, len))
            return;
        if (got == LINE_NONE)
            break;
        set_error(c, got == LINE_READY ? "out of memory" : "line too long", 0);
        c->state = SENDING;
        c->sent = 0;
        if (!send_reply(c))
            return;
    }
    c->state = WAITING;
    if (c->in->at_end || (!event_pending(&c->readable, EV_READ, NULL) &&
                          event_add(&c->readable, NULL) == -1))
        close_connection(c);
}

static void on_writable(evutil_socket_t fd, short what, void *connection)
{
    struct connection *c = connection;

    (void)fd;
    if ((what & EV_TIMEOUT) != 0)
        close_connection(c);
    else if (send_reply(c))
        advance(c);
}

static void on_readable(evutil_socket_t fd, short what, void *connection)
{
    struct connection *c = connection;
    size_t room = lines_room(c->in);
    ssize_t n = recv(fd, c->in->data + c->in->end, room, 0);

    (void)what;
    if (n > 0) {
        c->in->end += (size_t)n;
    } else if (n == 0) {
        c->in->at_end = true;
    } else if (errno != EAGAIN && errno != EWOULDBLOCK) {
        close_connection(c);
        return;
    }
    if ((c->in->at_end || (size_t)n == room) && event_del(&c->readable) == -1)
        close_connection(c);
    else if (c->state == WAITING)
        advance(c);
}

/* What the client is told about a failure. */
static const char *reason(const struct connection *c, CURLcode result)
{
    switch (result) {
    case CURLE_COULDNT_CONNECT:
        return "upstream refused";
    case CURLE_COULDNT_RESOLVE_HOST:
        return "upstream not found";
    case CURLE_OPERATION_TIMEDOUT:
        return "upstream timed out";
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_SEND_ERROR:
        return "upstream closed early";
    case CURLE_RECV_ERROR:
        return strstr(c->message, "chunk") == NULL ? "upstream closed early"
                                                   : "upstream sent bad HTTP";
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        return "upstream sent bad HTTP";
    default:
        return "upstream failed";
    }
}

/* A fetch has ended: makes the reply of it, sends that and goes on. */
static void finish_fetch(struct connection *c, CURLcode result)
{
    const size_t prefix = strlen("echo: ");
    const char *error = c->stopped;
    long connects = 0;
    long status = 0;

    if (error == NULL && result != CURLE_OK)
        error = reason(c, result);
    else if (curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status) !=
                 CURLE_OK ||
             status / 100 == 2)
        status = 0;
    else
        error = "upstream returned";
    /* A handle counts its retries on stale connections for as long as it
     * lives and gives up at the sixth (until curl/curl#19066), so that one
     * that had to connect goes. The connection stays with the multi handle. */
    if (curl_easy_getinfo(c->easy, CURLINFO_NUM_CONNECTS, &connects) ==
            CURLE_OK &&
        connects > 0 && c->server->headers == NULL) {
        curl_easy_cleanup(c->easy);
        c->easy = NULL;
    }
    c->len = prefix + flatten(c->reply + prefix, c->len - prefix);
    if (error == NULL && !append(c, "\n", 1))
        error = "out of memory";
    if (error != NULL)
        set_error(c, error, status);
    c->state = SENDING;
    c->sent = 0;
    if (send_reply(c))
        advance(c);
}

/* Lets libcurl do what it can do now. */
static void run_fetches(struct server *s, curl_socket_t fd, int what)
{
    int count;

    if (curl_multi_socket_action(s->multi, fd, what, &count) != CURLM_OK)
        (void)fprintf(stderr, "events: libcurl cannot go on\n");
    for (;;) {
        CURLMsg *message = curl_multi_info_read(s->multi, &count);
        if (message == NULL)
            return;
        CURLcode result = message->data.result;
        CURL *easy = message->easy_handle;
        char *connection;
        if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &connection) ==
                CURLE_OK &&
            curl_multi_remove_handle(s->multi, easy) == CURLM_OK)
            finish_fetch((void *)connection, result);
    }
}

static void on_upstream(evutil_socket_t fd, short what, void *server)
{
    run_fetches(server, fd,
                (what & EV_READ ? CURL_CSELECT_IN : 0) |
                    (what & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static void on_timer(evutil_socket_t fd, short what, void *server)
{
    (void)fd;
    (void)what;
    run_fetches(server, CURL_SOCKET_TIMEOUT, 0);
}

/* libcurl's: tell me what comes from this socket. */
static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *server,
                        void *known)
{
    struct server *s = server;
    struct event *watch = known;
    short events = EV_PERSIST;

    (void)easy;
    if (watch != NULL)
        event_free(watch);
    if (what == CURL_POLL_REMOVE)
        return 0;
    if ((what & CURL_POLL_IN) != 0)
        events |= EV_READ;
    if ((what & CURL_POLL_OUT) != 0)
        events |= EV_WRITE;
    watch = event_new(s->base, fd, events, on_upstream, s);
    return watch != NULL && event_add(watch, NULL) == 0 &&
                   curl_multi_assign(s->multi, fd, watch) == CURLM_OK
               ? 0
               : -1;
}

/* libcurl's: tell me when so many milliseconds have passed. */
static int set_timer(CURLM *multi, long ms, void *server)
{
    struct server *s = server;
    const struct timeval after = {.tv_sec = ms / 1000,
                                  .tv_usec = ms % 1000 * 1000};

    (void)multi;
    return ms == -1 ? evtimer_del(&s->timer) : evtimer_add(&s->timer, &after);
}

static void on_client(struct evconnlistener *listener, evutil_socket_t fd,
                      struct sockaddr *address, int len, void *server)
{
    static const int on = 1;
    struct connection *c = calloc(1, sizeof *c);

    (void)listener;
    (void)address;
    (void)len;
    if (c == NULL) {
        (void)close(fd); /* there is no memory to say so */
        return;
    }
    c->server = server;
    c->fd = fd;
    c->size = 256;
    c->reply = malloc(c->size);
    c->in = malloc(sizeof *c->in);
    if (event_assign(&c->readable, c->server->base, fd, EV_READ | EV_PERSIST,
                     on_readable, c) == -1 ||
        event_assign(&c->writable, c->server->base, fd, EV_WRITE, on_writable,
                     c) == -1 ||
        c->reply == NULL || c->in == NULL ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == -1) {
        close_connection(c);
        return;
    }
    lines_init(c->in);
    advance(c);
}

/* Where descriptors or memory are short: no client for the next 100 ms. */
static void on_accept_error(struct evconnlistener *listener, void *server)
{
    static const struct timeval pause = {.tv_usec = 100 * 1000};
    struct server *s = server;

    complain("events: accept", errno);
    if (evtimer_add(&s->accept_again, &pause) == -1 ||
        evconnlistener_disable(listener) == -1)
        (void)fprintf(stderr, "events: cannot pause\n");
}

static void on_accept_again(evutil_socket_t fd, short what, void *server)
{
    struct server *s = server;

    (void)fd;
    (void)what;
    if (evconnlistener_enable(s->listener) == -1)
        (void)fprintf(stderr, "events: cannot go on\n");
}

/* Opens what the server needs besides its socket; false: it cannot serve. */
static bool start(struct server *s, const struct peer *peer)
{
    const char *path = strstr(peer->upstream, "://");
    path = path == NULL ? peer->upstream : path + strlen("://");
    path += strcspn(path, "/?#");
    int path_len = (int)strcspn(path, "#");
    int n = snprintf(s->target, sizeof s->target,
                     "%s%.*s%ctext=", *path == '/' ? "" : "/", path_len, path,
                     strchr(path, '?') == NULL ? '?' : '&');

    s->url = peer->upstream;
    s->base = event_base_new();
    if (n < 0 || (size_t)n >= sizeof s->target || s->base == NULL ||
        curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return false;
    s->multi = curl_multi_init();
    if (!peer->keepalive)
        s->headers = curl_slist_append(NULL, "Connection: close");
    return s->multi != NULL && (peer->keepalive || s->headers != NULL) &&
           !curl_multi_setopt(s->multi, CURLMOPT_SOCKETFUNCTION,
                              watch_socket) &&
           !curl_multi_setopt(s->multi, CURLMOPT_SOCKETDATA, s) &&
           !curl_multi_setopt(s->multi, CURLMOPT_TIMERFUNCTION, set_timer) &&
           !curl_multi_setopt(s->multi, CURLMOPT_TIMERDATA, s) &&
           !curl_multi_setopt(s->multi, CURLMOPT_MAXCONNECTS,
                              (long)MAX_IDLE) &&
           evtimer_assign(&s->timer, s->base, on_timer, s) == 0 &&
           evtimer_assign(&s->accept_again, s->base, on_accept_again, s) == 0;
}

int main(int argc, char **argv)
{
    const struct peer peer = read_options("events", argc, argv);
    struct server server = {0};

    if (!start(&server, &peer)) {
        (void)fprintf(stderr, "events: cannot start\n");
        return 1;
    }
    int listener = start_listening(&peer);
    if (evutil_make_socket_nonblocking(listener) == 0)
        server.listener =
            evconnlistener_new(server.base, on_client, &server,
                               LEV_OPT_CLOSE_ON_EXEC, 0, listener);
    if (server.listener == NULL) {
        (void)fprintf(stderr, "events: cannot accept\n");
        return 1;
    }
    evconnlistener_set_error_cb(server.listener, on_accept_error);
    return event_base_dispatch(server.base) == -1 ? 1 : 0;
}
