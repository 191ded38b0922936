/*
 * rogue.c - a faulty HTTP upstream, see rogue.h
 *
 * Every wait of a connection's thread also ends when its client leaves or when
 * the stop pipe is closed.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* POLLRDHUP, memmem */
#include "rogue.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEAD (4U << 20)
#define KEPT 4096U
#define CHUNKED "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

struct rogue {
    int listener;
    int port;
    int stop[2]; /* a pipe; its write end is closed to stop */
    pthread_t acceptor;
    pthread_mutex_t lock; /* guards all that follows */
    pthread_cond_t idle;  /* signalled when the last connection ends */
    unsigned long threads;
    struct rogue_counts counts;
    struct rogue_exchange *kept[KEPT]; /* the n-th request at n % KEPT */
    char *forced;
    char *body;
    size_t body_len;
};

struct conn {
    struct rogue *rogue;
    int fd;
    char *in; /* what was read and not used yet */
    size_t in_len;
    size_t in_size;
    char *text; /* decoded, in a buffer of its own */
    size_t text_len;
    unsigned long number; /* behind the second slash of the path */
    unsigned long served; /* requests before this one */
    char answer[ROGUE_ANSWER_KEPT];
    size_t answer_len; /* of the whole */
};

/*
 * Waits for one of events, or for timeout_ms (-1: forever). Returns false if
 * the client left or the rogue is to stop.
 */
static bool await(const struct conn *c, short events, int timeout_ms)
{
    struct pollfd fds[2] = {
        {.fd = c->fd, .events = events},
        {.fd = c->rogue->stop[0], .events = 0},
    };
    int n;

    do {
        n = poll(fds, 2, timeout_ms);
    } while (n < 0 && errno == EINTR);
    return n >= 0 && fds[1].revents == 0 &&
           (fds[0].revents & (POLLHUP | POLLERR | POLLRDHUP)) == 0;
}

/* Sleeps, or until the client leaves if ms is negative. Returns false if the
 * client left. */
static bool pause_for(const struct conn *c, int ms)
{
    return await(c, POLLRDHUP, ms);
}

/* Keeps the beginning of what is sent for a request. */
static void note_answer(struct conn *c, const void *data, size_t len)
{
    if (c->answer_len < sizeof c->answer) {
        size_t room = sizeof c->answer - c->answer_len;
        memcpy(c->answer + c->answer_len, data, len < room ? len : room);
    }
    c->answer_len += len;
}

static bool put(struct conn *c, const void *data, size_t len)
{
    const char *p = data;

    note_answer(c, data, len);

    while (len > 0) {
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            if (!await(c, POLLOUT, -1))
                return false;
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

static bool put_string(struct conn *c, const char *s)
{
    return put(c, s, strlen(s));
}

/* Sends a head with a length and the body behind it in one piece. */
static bool put_response(struct conn *c, const char *status,
                         const char *headers, const void *body, size_t len)
{
    char *all;
    int head;
    bool sent;

    head = snprintf(NULL, 0, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n",
                    status, headers, len);
    if (head < 0)
        return false;
    all = malloc((size_t)head + 1 + len);
    if (all == NULL)
        return false;
    snprintf(all, (size_t)head + 1,
             "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n", status, headers,
             len);
    if (len > 0)
        memcpy(all + head, body, len);
    sent = put(c, all, (size_t)head + len);
    free(all);
    return sent;
}

static bool put_chunk(struct conn *c, const void *data, size_t len)
{
    char head[32];

    snprintf(head, sizeof head, "%zx\r\n", len);
    return put_string(c, head) && put(c, data, len) && put_string(c, "\r\n");
}

/* Each answer returns whether the connection is kept for another request. */

static bool answer_good(struct conn *c)
{
    return put_response(c, "200 OK", "", c->text, c->text_len);
}

static bool answer_delay(struct conn *c)
{
    return pause_for(c, (int)c->number) && answer_good(c);
}

static bool answer_chunked(struct conn *c)
{
    if (!put_string(c, CHUNKED))
        return false;
    for (size_t i = 0; i < c->text_len; i++)
        if (!put_chunk(c, c->text + i, 1))
            return false;
    return put_string(c, "0\r\nX-Trailer: end\r\n\r\n");
}

static bool answer_unsized(struct conn *c)
{
    if (put_string(c, "HTTP/1.1 200 OK\r\n\r\n"))
        (void)put(c, c->text, c->text_len);
    return false;
}

static bool answer_interim(struct conn *c)
{
    return put_string(c, "HTTP/1.1 100 Continue\r\n\r\n"
                         "HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n") &&
           answer_good(c);
}

static bool answer_close(struct conn *c)
{
    (void)put_response(c, "200 OK", "Connection: close\r\n", c->text,
                       c->text_len);
    return false;
}

/* The close comes in one segment with the answer, so that whoever looks before
 * the next request sees it. When it comes too late is /stale's to show. */
static bool answer_close_unsaid(struct conn *c)
{
    const int on = 1;

    setsockopt(c->fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
    (void)answer_good(c);
    return false;
}

static bool answer_stale(struct conn *c)
{
    return c->served == 0 && answer_good(c);
}

/* Copies the body that was set, so that no lock is held while it is sent. */
static char *copy_body(struct rogue *r, size_t *len)
{
    char *copy;

    pthread_mutex_lock(&r->lock);
    *len = r->body_len;
    copy = malloc(r->body_len + 1);
    if (copy != NULL && r->body_len > 0)
        memcpy(copy, r->body, r->body_len);
    pthread_mutex_unlock(&r->lock);
    return copy;
}

static bool answer_body(struct conn *c)
{
    size_t len;
    char *body = copy_body(c->rogue, &len);
    bool sent = body != NULL && put_response(c, "200 OK", "", body, len);

    free(body);
    return sent;
}

static bool answer_body_chunked(struct conn *c)
{
    size_t len;
    char *body = copy_body(c->rogue, &len);
    bool sent = body != NULL && put_string(c, CHUNKED);

    for (size_t i = 0; sent && i < len; i++)
        sent = put_chunk(c, body + i, 1);
    free(body);
    return sent && put_string(c, "0\r\n\r\n");
}

/* Sends number bytes; in chunks or with a length. */
static bool put_size(struct conn *c, bool chunked)
{
    char piece[4096];
    unsigned long left = c->number;

    memset(piece, 'x', sizeof piece);
    while (left > 0) {
        size_t n = left < sizeof piece ? left : sizeof piece;

        if (!(chunked ? put_chunk(c, piece, n) : put(c, piece, n)))
            return false;
        left -= n;
    }
    return !chunked || put_string(c, "0\r\n\r\n");
}

static bool answer_size(struct conn *c)
{
    char head[64];

    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n", c->number);
    return put_string(c, head) && put_size(c, false);
}

static bool answer_size_chunked(struct conn *c)
{
    return put_string(c, CHUNKED) && put_size(c, true);
}

static bool answer_packed(struct conn *c)
{
    size_t len;
    unsigned char *packed = rogue_packed(&len);
    bool sent =
        packed != NULL &&
        put_response(c, "200 OK", "Content-Encoding: gzip\r\n", packed, len);

    free(packed);
    return sent;
}

static bool put_status(struct conn *c, const char *headers, const char *body)
{
    char status[32];

    snprintf(status, sizeof status, "%lu Because", c->number);
    return put_response(c, status, headers, body, strlen(body));
}

static bool answer_status(struct conn *c)
{
    return put_status(c, "Content-Type: text/html\r\n",
                      "<h1>the body of an error</h1>\r\n");
}

static bool answer_status_bare(struct conn *c)
{
    return put_status(c, "", "");
}

static bool answer_redirect_file(struct conn *c)
{
    return put_status(c, "Location: file:///etc/passwd\r\n", "gone\n");
}

static bool answer_redirect_ftp(struct conn *c)
{
    char location[64];

    snprintf(location, sizeof location, "Location: ftp://127.0.0.1:%d/x\r\n",
             c->rogue->port);
    return put_status(c, location, "gone\n");
}

static bool answer_redirect_self(struct conn *c)
{
    return put_status(c, "Location: /good?text=followed\r\n", "gone\n");
}

static const struct answer {
    const char *path; /* up to the second slash */
    bool (*give)(struct conn *c);
} answers[] = {
    {"/good", answer_good},
    {"/delay", answer_delay},
    {"/chunked", answer_chunked},
    {"/unsized", answer_unsized},
    {"/interim", answer_interim},
    {"/close", answer_close},
    {"/close-unsaid", answer_close_unsaid},
    {"/stale", answer_stale},
    {"/body", answer_body},
    {"/body-chunked", answer_body_chunked},
    {"/size", answer_size},
    {"/size-chunked", answer_size_chunked},
    {"/packed", answer_packed},
    {"/status", answer_status},
    {"/status-bare", answer_status_bare},
    {"/redirect-file", answer_redirect_file},
    {"/redirect-ftp", answer_redirect_ftp},
    {"/redirect-self", answer_redirect_self},
};

#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define SIZED(n) "HTTP/1.1 200 OK\r\nContent-Length: " #n "\r\n\r\n"

/* What needs no function: bytes to send and what to do then. */
static const struct script {
    const char *path;
    const char *head;
    enum { KEEP, CLOSE, RESET, WAIT, REPEAT } then;
    const char *piece; /* of REPEAT */
    int pause_ms;      /* before each piece */
} scripts[] = {
    {"/empty", SIZED(0), KEEP, "", 0},
    {"/204", "HTTP/1.1 204 No Content\r\n\r\n", KEEP, "", 0},
    {"/unasked", CHUNKED "4\r\nb0dy\r\n0\r\n\r\n" SIZED(0), KEEP, "", 0},
    {"/empty-reply", "", CLOSE, "", 0},
    {"/reset", "", RESET, "", 0},
    {"/short", SIZED(100) "b0dy", CLOSE, "", 0},
    {"/short-chunked", CHUNKED "4\r\nb0dy\r\n", CLOSE, "", 0},
    {"/short-head", "HTTP/1.1 200 OK\r\nContent-Le", CLOSE, "", 0},
    {"/reset-body", SIZED(100) "b0dy", RESET, "", 0},
    {"/bad-chunk", CHUNKED "4\r\nb0dy\r\nzz\r\nb0dy\r\n0\r\n\r\n", CLOSE, "",
     0},
    {"/garbage", "\x16\x03\x01\x02 not HTTP at all\r\n\r\n", CLOSE, "", 0},
    {"/http09", "a bare body\n", CLOSE, "", 0},
    {"/header-line", "HTTP/1.1 200 OK\r\nX-Long: ", REPEAT, X64, 0},
    {"/headers", "HTTP/1.1 200 OK\r\n", REPEAT, "X-Many: " X64 "\r\n", 0},
    {"/interim-flood", "", REPEAT, "HTTP/1.1 100 Continue\r\n\r\n", 0},
    {"/trailers", CHUNKED "4\r\nb0dy\r\n0\r\n", REPEAT, "X-Many: " X64 "\r\n",
     0},
    {"/hang", "", WAIT, "", 0},
    {"/hang-body", SIZED(100) "b0dy", WAIT, "", 0},
    {"/drip", SIZED(1000), REPEAT, "x", 50},
    {"/drip-head", "HTTP/1.1 200 OK\r\nX-Slow: ", REPEAT, "x", 50},
    {"/huge", SIZED(1099511627776), REPEAT, X64, 0},
    {"/huge-chunked", CHUNKED, REPEAT, "40\r\n" X64 "\r\n", 0},
    {"/huge-unsized", "HTTP/1.1 200 OK\r\n\r\n", REPEAT, X64, 0},
};

/* Repeats the piece until the client leaves, in sends of many pieces. */
static void repeat(struct conn *c, const struct script *s)
{
    char many[16384];
    size_t len = strlen(s->piece);
    size_t filled = 0;

    do {
        memcpy(many + filled, s->piece, len);
        filled += len;
    } while (s->pause_ms == 0 && filled + len <= sizeof many);
    do {
        if (s->pause_ms > 0 && !pause_for(c, s->pause_ms))
            return;
    } while (put(c, many, filled));
}

static bool play(struct conn *c, const struct script *s)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (!put_string(c, s->head))
        return false;
    switch (s->then) {
    case KEEP:
        return true;
    case CLOSE:
        break;
    case RESET:
        /* Let the client see the beginning of the body first. */
        (void)pause_for(c, s->head[0] != '\0' ? 20 : 0);
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        break;
    case WAIT:
        (void)pause_for(c, -1);
        break;
    case REPEAT:
        repeat(c, s);
        break;
    }
    return false;
}

/* Returns whether path names name, alone or before a slash or the query. */
static bool names(const char *path, const char *name)
{
    size_t len = strlen(name);

    return strncmp(path, name, len) == 0 && strchr("/? ", path[len]) != NULL;
}

static bool answer(struct conn *c, const char *path)
{
    const char *slash;

    if (names(path, "/text") || names(path, "/arrpi.php"))
        path = c->text_len > 0 && c->text[0] == '/' ? c->text : "/good";
    slash = strchr(path + 1, '/');
    c->number = slash != NULL ? strtoul(slash + 1, NULL, 10) : 0;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++)
        if (names(path, answers[i].path))
            return answers[i].give(c);
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
        if (names(path, scripts[i].path))
            return play(c, &scripts[i]);
    c->number = 404;
    return answer_status(c);
}

static int hex(char c)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;

    return at != NULL ? (int)((at - digits) % 16) : -1;
}

/* Decodes the parameter "text" of target into c->text. */
static bool decode_text(struct conn *c, const char *target)
{
    const char *p = strchr(target, '?');
    size_t n = 0;

    free(c->text);
    c->text_len = 0;
    c->text = malloc(strlen(target) + 1);
    if (c->text == NULL)
        return false;
    while (p != NULL && strncmp(p + 1, "text=", 5) != 0)
        p = strchr(p + 1, '&');
    if (p != NULL) {
        for (p += 6; *p != '\0' && *p != '&' && *p != '#'; p++) {
            int high = *p == '%' ? hex(p[1]) : -1;
            int low = high >= 0 ? hex(p[2]) : -1;

            if (low >= 0) {
                c->text[n++] = (char)(high * 16 + low);
                p += 2;
            } else {
                c->text[n++] = *p == '+' ? ' ' : *p;
            }
        }
    }
    c->text[n] = '\0';
    c->text_len = n;
    return true;
}

/*
 * Takes one request head off the connection. Returns it as a string that the
 * caller frees, or NULL if the client left or sent too much.
 */
static char *read_head(struct conn *c)
{
    for (;;) {
        char *end =
            c->in_len > 0 ? memmem(c->in, c->in_len, "\r\n\r\n", 4) : NULL;
        ssize_t n;

        if (end != NULL) {
            size_t len = (size_t)(end - c->in) + 4;
            char *head = strndup(c->in, len);

            c->in_len -= len;
            memmove(c->in, c->in + len, c->in_len);
            return head;
        }
        if (c->in_len == c->in_size) {
            size_t size = c->in_size > 0 ? 2 * c->in_size : 4096;
            char *grown = size <= MAX_HEAD ? realloc(c->in, size) : NULL;

            if (grown == NULL)
                return NULL;
            c->in = grown;
            c->in_size = size;
        }
        if (c->in_len > 0 && !isalpha((unsigned char)c->in[0])) {
            /* TLS, most likely. */
            (void)put_string(c, "HTTP/1.1 400 Bad Request\r\n\r\n");
            return NULL;
        }
        if (!await(c, POLLIN, -1))
            return NULL;
        n = recv(c->fd, c->in + c->in_len, c->in_size - c->in_len, 0);
        if (n <= 0)
            return NULL;
        c->in_len += (size_t)n;
    }
}

/* Returns a request to keep, which owns the head then; or NULL. */
static struct rogue_exchange *new_exchange(char *head, const struct conn *c)
{
    struct rogue_exchange *exchange = calloc(1, sizeof *exchange);
    char *text = malloc(c->text_len + 1);

    if (exchange == NULL || text == NULL) {
        free(exchange);
        free(text);
        return NULL;
    }
    memcpy(text, c->text, c->text_len + 1);
    exchange->head = head;
    exchange->text = text;
    exchange->text_len = c->text_len;
    return exchange;
}

void rogue_forget(struct rogue_exchange *exchange)
{
    if (exchange == NULL)
        return;
    free(exchange->head);
    free(exchange->text);
    free(exchange);
}

/* Counts the request and keeps it. Sets its number. Returns a copy of the
 * forced path, or NULL. */
static char *note_request(struct rogue *r, struct rogue_exchange *exchange,
                          unsigned long *number)
{
    char *forced;
    struct rogue_exchange **slot;

    pthread_mutex_lock(&r->lock);
    *number = r->counts.requests++;
    slot = &r->kept[*number % KEPT];
    rogue_forget(*slot);
    *slot = exchange;
    r->counts.busy++;
    if (r->counts.busy > r->counts.peak_busy)
        r->counts.peak_busy = r->counts.busy;
    forced = r->forced != NULL ? strdup(r->forced) : NULL;
    pthread_mutex_unlock(&r->lock);
    return forced;
}

/* Keeps the answer of a request, unless later ones have taken its place. */
static void note_end(struct rogue *r, const struct conn *c,
                     unsigned long number)
{
    pthread_mutex_lock(&r->lock);
    r->counts.busy--;
    if (r->counts.requests - number <= KEPT) {
        struct rogue_exchange *kept = r->kept[number % KEPT];
        memcpy(kept->answer, c->answer, sizeof kept->answer);
        kept->answer_len = c->answer_len;
        kept->answered = true;
    }
    pthread_mutex_unlock(&r->lock);
}

static bool serve_request(struct conn *c)
{
    struct rogue *r = c->rogue;
    char *head = read_head(c);
    unsigned long number;
    bool keep = false;

    if (head == NULL)
        return false;
    const char *blank = strchr(head, ' ');
    char *target = blank != NULL
                       ? strndup(blank + 1, strcspn(blank + 1, " \r"))
                       : strdup("");
    struct rogue_exchange *exchange = NULL;
    if (target != NULL && decode_text(c, target))
        exchange = new_exchange(head, c);
    if (exchange != NULL) {
        c->answer_len = 0;
        char *forced = note_request(r, exchange, &number);
        if (blank != NULL)
            keep = answer(c, forced != NULL ? forced : target);
        free(forced);
        c->served++;
        note_end(r, c, number);
    } else {
        free(head);
    }
    free(target);
    return keep;
}

static void *connection_thread(void *argument)
{
    struct conn *c = argument;
    struct rogue *r = c->rogue;
    int on = 1;

    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    while (serve_request(c))
        continue;
    close(c->fd);
    free(c->in);
    free(c->text);
    free(c);
    pthread_mutex_lock(&r->lock);
    r->counts.open--;
    r->threads--;
    if (r->threads == 0)
        pthread_cond_signal(&r->idle);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static bool start_connection(struct rogue *r, int fd)
{
    struct conn *c = calloc(1, sizeof *c);
    pthread_attr_t attributes;
    pthread_t thread;
    bool started;

    if (c == NULL)
        return false;
    c->rogue = r;
    c->fd = fd;
    pthread_mutex_lock(&r->lock);
    r->threads++;
    r->counts.connections++;
    r->counts.open++;
    if (r->counts.open > r->counts.peak_open)
        r->counts.peak_open = r->counts.open;
    pthread_mutex_unlock(&r->lock);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    started = pthread_create(&thread, &attributes, connection_thread, c) == 0;
    pthread_attr_destroy(&attributes);
    if (!started) {
        pthread_mutex_lock(&r->lock);
        r->threads--;
        r->counts.open--;
        pthread_mutex_unlock(&r->lock);
        free(c);
    }
    return started;
}

static void *accept_thread(void *argument)
{
    struct rogue *r = argument;
    struct pollfd fds[2] = {
        {.fd = r->listener, .events = POLLIN},
        {.fd = r->stop[0], .events = 0},
    };

    for (;;) {
        int fd;

        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[1].revents != 0)
            return NULL;
        fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && !start_connection(r, fd))
            close(fd);
    }
}

/* A listener that does not block, on a port that r->port then names. */
static bool listen_on(struct rogue *r, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    int on = 1;

    r->listener =
        socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((in_port_t)port);
    if (r->listener < 0 ||
        setsockopt(r->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) <
            0 ||
        bind(r->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(r->listener, 4096) < 0 ||
        getsockname(r->listener, (struct sockaddr *)&address, &len) < 0)
        return false;
    r->port = ntohs(address.sin_port);
    return true;
}

/* Frees a rogue that has no threads. */
static void discard(struct rogue *r)
{
    for (int i = 0; i < 2; i++)
        if (r->stop[i] >= 0)
            close(r->stop[i]);
    if (r->listener >= 0)
        close(r->listener);
    for (size_t i = 0; i < KEPT; i++)
        rogue_forget(r->kept[i]);
    free(r->forced);
    free(r->body);
    pthread_cond_destroy(&r->idle);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

struct rogue *rogue_start(int port)
{
    struct rogue *r = calloc(1, sizeof *r);
    int error;

    if (r == NULL)
        return NULL;
    r->listener = -1;
    r->stop[0] = -1;
    r->stop[1] = -1;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->idle, NULL);
    if (pipe2(r->stop, O_CLOEXEC) < 0 || !listen_on(r, port))
        error = errno;
    else
        error = pthread_create(&r->acceptor, NULL, accept_thread, r);
    if (error != 0) {
        discard(r);
        errno = error;
        return NULL;
    }
    return r;
}

void rogue_stop(struct rogue *r)
{
    close(r->stop[1]);
    r->stop[1] = -1;
    pthread_join(r->acceptor, NULL);
    pthread_mutex_lock(&r->lock);
    while (r->threads > 0)
        pthread_cond_wait(&r->idle, &r->lock);
    pthread_mutex_unlock(&r->lock);
    discard(r);
}

int rogue_port(const struct rogue *r)
{
    return r->port;
}

void rogue_url(const struct rogue *r, const char *path,
               char url[ROGUE_URL_SIZE])
{
    snprintf(url, ROGUE_URL_SIZE, "http://127.0.0.1:%d%s", r->port, path);
}

void rogue_force(struct rogue *r, const char *path)
{
    char *copy = path != NULL ? strdup(path) : NULL;

    pthread_mutex_lock(&r->lock);
    free(r->forced);
    r->forced = copy;
    pthread_mutex_unlock(&r->lock);
}

void rogue_set_body(struct rogue *r, const void *data, size_t len)
{
    char *copy = malloc(len + 1);

    if (copy == NULL)
        abort();
    if (len > 0)
        memcpy(copy, data, len);
    pthread_mutex_lock(&r->lock);
    free(r->body);
    r->body = copy;
    r->body_len = len;
    pthread_mutex_unlock(&r->lock);
}

struct rogue_counts rogue_counts(struct rogue *r)
{
    struct rogue_counts counts;

    pthread_mutex_lock(&r->lock);
    counts = r->counts;
    pthread_mutex_unlock(&r->lock);
    return counts;
}

struct rogue_exchange *rogue_recall(struct rogue *r, unsigned long n)
{
    struct rogue_exchange *copy = malloc(sizeof *copy);

    if (copy == NULL)
        return NULL;
    pthread_mutex_lock(&r->lock);
    bool known = n < r->counts.requests && r->counts.requests - n <= KEPT;
    if (known) {
        *copy = *r->kept[n % KEPT];
        copy->head = strdup(copy->head);
        copy->text = malloc(copy->text_len + 1);
        if (copy->text != NULL)
            memcpy(copy->text, r->kept[n % KEPT]->text, copy->text_len + 1);
    }
    pthread_mutex_unlock(&r->lock);
    if (known && copy->head != NULL && copy->text != NULL)
        return copy;
    if (known)
        rogue_forget(copy);
    else
        free(copy);
    return NULL;
}

char *rogue_request(struct rogue *r, unsigned long n)
{
    struct rogue_exchange *exchange = rogue_recall(r, n);

    if (exchange == NULL)
        return NULL;
    char *head = exchange->head;
    exchange->head = NULL;
    rogue_forget(exchange);
    return head;
}

unsigned char *rogue_packed(size_t *len)
{
    /* The first and the last bytes of what "gzip -9n" makes; zeros between. */
    static const unsigned char first[] = {
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02,
        0x03, 0xed, 0xc1, 0x01, 0x01, 0x00, 0x00, 0x00, 0x82,
        0x20, 0xff, 0xaf, 0x6e, 0x48, 0x40, 0x01};
    static const unsigned char last[] = {0xf0, 0x6c, 0x45, 0xbc, 0xd2,
                                         0x1a, 0x00, 0x00, 0x80, 0x00};
    const size_t size = 8162;
    unsigned char *packed = calloc(1, size);

    if (packed != NULL) {
        memcpy(packed, first, sizeof first);
        memcpy(packed + size - sizeof last, last, sizeof last);
        *len = size;
    }
    return packed;
}
