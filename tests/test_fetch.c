/*
 * Unit tests of fetch.c: each way a fetch can end, against an upstream in the
 * same process. The file is included whole, as are those of lib/ that allocate
 * for it, so that each allocation can be made to fail; names are resolved by a
 * getaddrinfo of this file, so that no test depends on a name server. Calls of
 * libcurl can be made to fail, too.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE 1  /* RTLD_NEXT */
#undef _FORTIFY_SOURCE /* with it, headers define recv inline */
#include "allocations.h"
#include "harness.h"
#include "rogue.h"
#include "upstream_faults.h"

#include <curl/curl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

/* Calls of libcurl, OpenSSL and getsockopt until the one that fails, or below
 * 0. */
static long calls_left = -1;

static bool call_fails(void)
{
    return calls_left >= 0 && calls_left-- == 0;
}

/* Without a handle a call fails. */
static void *or_none(void *handle)
{
    return call_fails() ? NULL : handle;
}

static CURLcode try_global_init(long flags, curl_malloc_callback malloc_with,
                                curl_free_callback free_with,
                                curl_realloc_callback realloc_with,
                                curl_strdup_callback strdup_with,
                                curl_calloc_callback calloc_with)
{
    return call_fails()
               ? CURLE_FAILED_INIT
               : curl_global_init_mem(flags, malloc_with, free_with,
                                      realloc_with, strdup_with, calloc_with);
}

static CURLU *try_url_dup(CURLU *url)
{
    return call_fails() ? NULL : curl_url_dup(url);
}

/* The end of an upstream that comes while the kernel answers: it reads the
 * state of a connection before the count. */
static enum { NO_END, END_COMES, END_HAS_COME } end_of_upstream;

static int try_getsockopt(int fd, int level, int name, void *value,
                          socklen_t *len)
{
    if (call_fails())
        return -1;
    int rc = getsockopt(fd, level, name, value, len);
    if (rc == 0 && name == TCP_INFO && end_of_upstream != NO_END) {
        struct tcp_info *info = value;
        info->tcpi_bytes_received++;
        if (end_of_upstream == END_HAS_COME)
            info->tcpi_state = 8; /* TCP_CLOSE_WAIT */
        end_of_upstream = END_HAS_COME;
    }
    return rc;
}

/* The library that TLS is said to be by, or NULL for the real one. */
static const curl_version_info_data *claimed;

static const curl_version_info_data *version_info(CURLversion age)
{
    return claimed != NULL ? claimed : curl_version_info(age);
}

static bool no_contexts;

static SSL_CTX *try_ctx_new(const SSL_METHOD *method)
{
    return no_contexts ? NULL : SSL_CTX_new(method);
}

static int try_set_ex_data(SSL_CTX *context, int index, void *data)
{
    return call_fails() ? 0 : SSL_CTX_set_ex_data(context, index, data);
}

#undef curl_easy_setopt
#undef curl_easy_getinfo
#define curl_easy_setopt(easy, option, value)                                 \
    curl_easy_setopt(or_none(easy), option, value)
#define curl_easy_getinfo(easy, info, value)                                  \
    curl_easy_getinfo(or_none(easy), info, value)
#define curl_url_get(url, part, value, flags)                                 \
    curl_url_get(or_none((void *)(url)), part, value, flags)
#define curl_url_set(url, part, value, flags)                                 \
    curl_url_set(or_none(url), part, value, flags)
#define getsockopt try_getsockopt
#define curl_global_init_mem try_global_init
#define curl_url_dup try_url_dup
#define curl_version_info version_info
#define SSL_CTX_new try_ctx_new
#define SSL_CTX_set_ex_data try_set_ex_data
#define malloc failing_malloc
#define realloc failing_realloc
#define calloc failing_calloc
#define strdup failing_strdup
#define free counted_free
#include "../fetch.c"
#include "../lib/reply.c"
#include "../lib/slots.c"
#undef free
#undef strdup
#undef calloc
#undef realloc
#undef malloc
#include "../lib/tls.c" /* OpenSSL keeps what it has allocated */
#undef SSL_CTX_set_ex_data
#undef SSL_CTX_new
#undef curl_version_info
#undef curl_url_dup
#undef curl_global_init_mem
#undef getsockopt

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define BYTES(literal) (literal), sizeof(literal) - 1

#define OK "HTTP/1.1 200 OK\r\n"
#define LENGTH "Content-Length: 3\r\n\r\n"
#define LENGTH_3 OK LENGTH
#define OLD "HTTP/1.0 200 OK\r\n"
#define CODING "Transfer-Encoding: chunked\r\n"
#define CHUNKED OK CODING "\r\n"
#define CHUNKS "3\r\nabc\r\n0\r\n\r\n"

#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X256 X64 X64 X64 X64

#define SHORT_MS 300  /* a timeout that is meant to pass */
#define SLACK_MS 5000 /* by which a busy machine may be late */

/*
 * What stands in for the system
 */

/* How getaddrinfo answers for stuck.invalid: not before it is let go. */
static sem_t stuck;

/* What it makes of named.example, and how often it was asked for that. */
static const char *_Atomic named_address = "127.0.0.1";
static atomic_int named_lookups;

int getaddrinfo(const char *name, const char *service,
                const struct addrinfo *hints, struct addrinfo **found)
{
    int (*next)(const char *, const char *, const struct addrinfo *,
                struct addrinfo **);
    void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");

    memcpy(&next, &symbol, sizeof next); /* ISO C has no cast for it */
    if (strcmp(name, "stuck.invalid") == 0)
        sem_wait(&stuck);
    if (strstr(name, ".invalid") != NULL)
        return EAI_NONAME;
    if (strcmp(name, "named.example") == 0) {
        atomic_fetch_add(&named_lookups, 1);
        name = atomic_load(&named_address);
    }
    return next(name, service, hints, found);
}

/* What connect fails with at once, or 0. */
static atomic_int connect_error;

/* (The type of its second argument is glibc's own.) */
int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t len)
{
    int (*next)(int, __CONST_SOCKADDR_ARG, socklen_t);
    void *symbol = dlsym(RTLD_NEXT, "connect");

    memcpy(&next, &symbol, sizeof next);
    errno = atomic_load(&connect_error);
    return errno != 0 ? -1 : next(fd, address, len);
}

/* Calls of this thread, libcurl's among them. */
static _Thread_local long recv_calls, sigaction_calls;

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    ssize_t (*next)(int, void *, size_t, int);
    void *symbol = dlsym(RTLD_NEXT, "recv");

    memcpy(&next, &symbol, sizeof next);
    recv_calls++;
    errno = EAGAIN; /* which means nothing, unless it fails */
    return next(fd, data, size, flags);
}

int sigaction(int number, const struct sigaction *action,
              struct sigaction *before_it)
{
    int (*next)(int, const struct sigaction *, struct sigaction *);
    void *symbol = dlsym(RTLD_NEXT, "sigaction");

    memcpy(&next, &symbol, sizeof next);
    sigaction_calls++;
    return next(number, action, before_it);
}

/* The log: the last line, and how many there were. */
static char logged[256];
static atomic_int logged_lines;

void log_line(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(logged, sizeof logged, format, args);
    va_end(args);
    atomic_fetch_add(&logged_lines, 1);
}

/*
 * Upstreams that say what a script has for them
 */

/* Answers one connection after the other, with the same bytes. */
struct saying {
    const char *answer;
    size_t len;
    const char *repeated; /* until the client leaves, or NULL */
};

/* What it says after its answer, without being asked. */
struct unasked {
    const char *text;
    bool closes;
    bool at_once; /* together with the answer, and not when that was taken */
    bool chunked; /* the answer */
    bool once;    /* after the first answer only */
};

struct scripted_upstream {
    struct saying saying;
    void (*converse)(struct scripted_upstream *upstream, int fd);
    int listener;
    int port;
    int stop[2]; /* a pipe; its write end is closed to stop */
    pthread_t thread;
    atomic_int connections;
    atomic_int requests;
    const char *const *answers; /* see converse_in_turn */
    const struct saying *reads; /* see converse_read_by_read */
    struct unasked unasked;     /* see converse_unasked */
    sem_t taken;                /* the answer to the last request was */
};

/* Waits for the event; false if the client left or all is to stop. */
static bool upstream_awaits(struct scripted_upstream *upstream, int fd,
                            short event)
{
    struct pollfd fds[2] = {{.fd = fd, .events = event},
                            {.fd = upstream->stop[0], .events = POLLIN}};
    return poll(fds, 2, -1) > 0 && fds[1].revents == 0 &&
           (fds[0].revents & (POLLERR | POLLHUP | POLLRDHUP)) == 0;
}

/* Reads a request up to the empty line. */
static bool upstream_reads(struct scripted_upstream *upstream, int fd)
{
    char last[5] = "";
    while (strcmp(last, "\r\n\r\n") != 0) {
        memmove(last, last + 1, 3);
        if (!upstream_awaits(upstream, fd, POLLIN) ||
            recv(fd, last + 3, 1, 0) != 1)
            return false;
        if (last[0] == '\0') /* so far fewer than four bytes */
            continue;
    }
    atomic_fetch_add(&upstream->requests, 1);
    return true;
}

static bool upstream_says(struct scripted_upstream *upstream, int fd,
                          const char *data, size_t len)
{
    while (len > 0) {
        if (!upstream_awaits(upstream, fd, POLLOUT))
            return false;
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

static void converse_once(struct scripted_upstream *upstream, int fd)
{
    const struct saying *saying = &upstream->saying;
    if (!upstream_reads(upstream, fd) ||
        !upstream_says(upstream, fd, saying->answer, saying->len))
        return;
    while (saying->repeated != NULL &&
           upstream_says(upstream, fd, saying->repeated,
                         strlen(saying->repeated)))
        continue;
}

/* Says it and closes no sooner than the client. */
static void converse_and_stay(struct scripted_upstream *upstream, int fd)
{
    if (upstream_reads(upstream, fd) &&
        upstream_says(upstream, fd, upstream->saying.answer,
                      upstream->saying.len))
        upstream_awaits(upstream, fd, POLLRDHUP);
}

/* Has an answer of its own for each request, and keeps the connection. */
static void converse_in_turn(struct scripted_upstream *upstream, int fd)
{
    while (upstream_reads(upstream, fd)) {
        const char *answer =
            upstream->answers[atomic_load(&upstream->requests) - 1];
        if (!upstream_says(upstream, fd, answer, strlen(answer)))
            return;
    }
}

/* Returns whether the main thread, which fetches, waits for something. */
static bool main_thread_waits(void)
{
    char stat[512] = "";
    FILE *file = fopen("/proc/self/stat", "re");

    if (file != NULL) {
        size_t len = fread(stat, 1, sizeof stat - 1, file);
        stat[len] = '\0';
        fclose(file);
    }
    return strstr(stat, ") S ") != NULL;
}

/* Waits until the client has read all that it was sent, and waits for more.
 * Returns false if it does not. */
static bool upstream_is_read(const struct scripted_upstream *upstream, int fd)
{
    long long deadline = now_ms() + PATIENCE_MS;
    struct sockaddr_in client = {0};
    socklen_t size = sizeof client;
    unsigned unread = 1;
    char line[256], wanted[64];

    if (getpeername(fd, (struct sockaddr *)&client, &size) != 0)
        return false;
    snprintf(wanted, sizeof wanted, " %08X:%04X %08X:%04X ",
             client.sin_addr.s_addr, ntohs(client.sin_port),
             client.sin_addr.s_addr, (unsigned)upstream->port);
    while ((unread > 0 || !main_thread_waits()) && now_ms() < deadline) {
        FILE *table = fopen("/proc/net/tcp", "re");
        if (table == NULL)
            return false;
        while (fgets(line, sizeof line, table) != NULL) {
            const char *at = strstr(line, wanted);
            if (at != NULL) /* state, and the queues of both directions */
                unread = (unsigned)strtoul(
                    at + strlen(wanted) + strlen("01 00000000:"), NULL, 16);
        }
        fclose(table);
        let_pass(1);
    }
    return now_ms() < deadline;
}

/* Answers each request in pieces that come in one read each, up to one without
 * bytes. Closes after the first answer if its repeated is "close". */
static void converse_read_by_read(struct scripted_upstream *upstream, int fd)
{
    while (upstream_reads(upstream, fd)) {
        const struct saying *piece = upstream->reads;
        for (; piece->len > 0; piece++)
            if (!upstream_says(upstream, fd, piece->answer, piece->len) ||
                (piece[1].len > 0 && !upstream_is_read(upstream, fd)))
                return;
        if (piece->repeated != NULL)
            return;
    }
}

/* Does so from the second connection on; the first gets the answer. */
static void converse_read_by_read_later(struct scripted_upstream *upstream,
                                        int fd)
{
    if (atomic_load(&upstream->connections) > 1)
        converse_read_by_read(upstream, fd);
    else
        converse_once(upstream, fd);
}

/* Answers each request with its number, of three digits, and then says more
 * without being asked, or only after the first. */
static void converse_unasked(struct scripted_upstream *upstream, int fd)
{
    const struct unasked *unasked = &upstream->unasked;
    char text[512];

    while (upstream_reads(upstream, fd)) {
        int number = atomic_load(&upstream->requests);
        bool more = number == 1 || !unasked->once;
        snprintf(text, sizeof text, "%s%03d%s%s",
                 unasked->chunked ? CHUNKED "3\r\n" : LENGTH_3, number,
                 unasked->chunked ? "\r\n0\r\n\r\n" : "",
                 more && unasked->at_once ? unasked->text : "");
        if (!upstream_says(upstream, fd, text, strlen(text)))
            return;
        if (more && !unasked->at_once) {
            sem_wait(&upstream->taken);
            if (!upstream_says(upstream, fd, unasked->text,
                               strlen(unasked->text)))
                return;
        }
        if (unasked->closes)
            return;
    }
}

/* Says it, and closes in the same segment. */
static void converse_to_the_end(struct scripted_upstream *upstream, int fd)
{
    if (upstream_reads(upstream, fd)) /* without an answer the test fails */
        (void)send(fd, upstream->saying.answer, upstream->saying.len,
                   MSG_NOSIGNAL | MSG_MORE);
}

/* Never reads a byte. */
static void converse_deaf(struct scripted_upstream *upstream, int fd)
{
    upstream_awaits(upstream, fd, POLLRDHUP);
}

static void *upstream_thread(void *arg)
{
    struct scripted_upstream *upstream = arg;

    while (upstream_awaits(upstream, upstream->listener, POLLIN)) {
        int fd = accept(upstream->listener, NULL, NULL);
        if (fd < 0)
            break;
        atomic_fetch_add(&upstream->connections, 1);
        upstream->converse(upstream, fd);
        close(fd);
    }
    return NULL;
}

/* Starts one on 127.0.0.1 or ::1. False if there is no such address. */
static bool upstream_start(struct scripted_upstream *upstream, int family)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6,
                              .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool is_v4 = family == AF_INET;
    struct sockaddr *address =
        is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    socklen_t len = is_v4 ? sizeof v4 : sizeof v6;

    if (upstream->converse == NULL)
        upstream->converse = converse_once;
    upstream->listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (upstream->listener < 0)
        return false;
    if (bind(upstream->listener, address, len) != 0) {
        close(upstream->listener);
        return false;
    }
    ck_assert_int_eq(getsockname(upstream->listener, address, &len), 0);
    upstream->port = ntohs(is_v4 ? v4.sin_port : v6.sin6_port);
    ck_assert_int_eq(listen(upstream->listener, 16), 0);
    ck_assert_int_eq(pipe(upstream->stop), 0);
    ck_assert_int_eq(
        pthread_create(&upstream->thread, NULL, upstream_thread, upstream), 0);
    return true;
}

static void upstream_stop(struct scripted_upstream *upstream)
{
    close(upstream->stop[1]);
    ck_assert_int_eq(pthread_join(upstream->thread, NULL), 0);
    close(upstream->stop[0]);
    close(upstream->listener);
}

/*
 * What each test starts with and ends with
 */

static const struct server_process self_process = {0};
static struct holding before;
static struct rogue *rogue;
static struct fetch_options options;

static struct server_process self(void)
{
    struct server_process s = self_process;
    s.pid = getpid();
    return s;
}

static void set_up(void)
{
    struct server_process s = self();
    rogue = rogue_start(0);
    ck_assert_ptr_nonnull(rogue);
    rogue_stop(rogue); /* a sanitizer's own thread comes with the first */
    before = server_holds(&s);
    for (int same = 0; same < 10; same++) { /* its threads take last steps */
        let_pass(1);
        struct holding now = server_holds(&s);
        if (now.threads != before.threads)
            same = 0;
        before = now;
    }
    rogue = rogue_start(0);
    ck_assert_ptr_nonnull(rogue);
    options = (struct fetch_options){.timeout_ms = PATIENCE_MS,
                                     .connect_timeout_ms = PATIENCE_MS,
                                     .max_body = 1048576,
                                     .max_handles = 1,
                                     .keepalive = true};
}

/* Each test has destroyed its fetchers: nothing of theirs may be left. */
static void tear_down(void)
{
    struct server_process s = self();
    long long deadline = now_ms() + PATIENCE_MS;
    struct holding now;

    rogue_stop(rogue);
    for (;;) {
        now = server_holds(&s);
        if ((now.threads == before.threads &&
             now.descriptors == before.descriptors) ||
            now_ms() >= deadline)
            break;
        let_pass(2); /* a detached thread is on its last steps */
    }
    ck_assert_int_eq(now.threads, before.threads);
    ck_assert_int_eq(now.descriptors, before.descriptors);
    ck_assert_int_eq(allocations_held(), 0); /* of ours and of libcurl */
}

static struct fetcher *open_url(const char *url)
{
    const char *error = NULL;
    struct fetch_options with_url = options;
    with_url.url = url;
    struct fetcher *fetcher = fetcher_create(&with_url, &error);
    ck_assert_msg(fetcher != NULL, "%s: %s", url, error);
    ck_assert_ptr_null(error);
    return fetcher;
}

static struct fetcher *open_path(const char *path)
{
    char url[ROGUE_URL_SIZE];
    rogue_url(rogue, path, url);
    return open_url(url);
}

static struct fetcher *open_port(const char *host, int port)
{
    char url[128];
    snprintf(url, sizeof url, "http://%s:%d/", host, port);
    return open_url(url);
}

/* Fetches and expects this end. A body is appended to what the buffer held,
 * after any failure the buffer is as before. */
static void expect_bytes(struct fetcher *fetcher, const char *text, size_t len,
                         enum reason reason, long http_status,
                         const void *body, size_t body_len)
{
    struct buffer buffer = {0};
    long got_http_status = -1;
    unsigned handle = 0;

    ck_assert(buffer_append(&buffer, BYTES("kept")));
    enum reason got =
        fetch(fetcher, &handle, text, len, &buffer, &got_http_status);
    ck_assert_msg(got == reason, "'%.80s': %s, not %s", text, reason_text(got),
                  reason_text(reason));
    ck_assert_int_eq(got_http_status, http_status);
    ck_assert_uint_ge(buffer.len, 4);
    ck_assert_mem_eq(buffer.data, "kept", 4);
    if (reason != REASON_NONE)
        body_len = 0;
    ck_assert_uint_eq(buffer.len - 4, body_len);
    if (body_len > 0)
        ck_assert_mem_eq(buffer.data + 4, body, body_len);
    counted_free(buffer.data);
}

static void expect(struct fetcher *fetcher, const char *text,
                   enum reason reason, long http_status, const char *body)
{
    expect_bytes(fetcher, text, strlen(text), reason, http_status, body,
                 strlen(body));
}

/* It took no less than ms, and hardly more. */
static void expect_took(long long start, long ms)
{
    long long took = now_ms() - start;
    ck_assert_int_ge(took, ms - 5);
    ck_assert_int_le(took, ms + SLACK_MS);
}

/* Returns the reason that has these words; NULL: none. */
static enum reason find_reason(const char *words)
{
    int i = REASON_NONE;

    if (words == NULL)
        return REASON_NONE;
    while (i < REASONS && strcmp(reason_text((enum reason)i), words) != 0)
        i++;
    ck_assert_msg(i < REASONS, "no reason '%s'", words);
    return (enum reason)i;
}

/* Expects a timeout, no sooner than after ms, and hardly later. */
static void expect_timeout(struct fetcher *fetcher, const char *text, long ms,
                           long http_status)
{
    long long start = now_ms();
    expect(fetcher, text, REASON_TIMED_OUT, http_status, "");
    expect_took(start, ms);
}

/*
 * How a fetch ends
 */

/* Each in the middle of good fetches on the same handle, with and without
 * kept connections. */
START_TEST(test_fetch_ends_as_the_upstream_made_it_end)
{
    const struct upstream_fault *fault = &upstream_faults[_i / 2];
    bool late = fault_times_out(fault);
    options.keepalive = _i % 2 == 0;
    if (late)
        options.timeout_ms = SHORT_MS;
    struct fetcher *fetcher = open_path("/text");

    expect(fetcher, "one", REASON_NONE, 200, "one");
    for (int again = 0; again < 2; again++) {
        long long start = now_ms();
        expect(fetcher, fault->path, find_reason(fault->reason), fault->status,
               fault->body != NULL ? fault->body : "");
        if (late)
            expect_took(start, SHORT_MS);
    }
    expect(fetcher, "two", REASON_NONE, 200, "two");
    fetcher_destroy(fetcher);
}
END_TEST

/* What an upstream says before it closes, and how that ends. */
#define REPEATS(text, more)                                                   \
    {                                                                         \
        (text), sizeof(text) - 1, (more)                                      \
    }
#define SAYS(text) REPEATS(text, NULL)

static const struct {
    enum reason reason;
    long http_status;
    const char *body;
    struct saying saying;
} sayings[] = {
    {REASON_NONE, 200, "old", SAYS("HTTP/1.0 200 OK\r\n\r\nold")},
    {REASON_NONE, 200, "bar", SAYS("HTTP/1.1 200\nContent-Length: 3\n\nbare")},
    {REASON_NONE, 200, "abc",
     SAYS(CHUNKED "3;extra=1\r\nabc\r\n00\r\nTrailer: x\r\n\r\n")},
    {REASON_NONE, 200, "abc",
     SAYS("HTTP/1.1 200\nTransfer-Encoding: chunked \n\n3\nabc\n0\n\n")},
    {REASON_NONE, 200, "abc",
     SAYS(OK "Content-Length: 3\r\nContent-length:3\r\n\r\nabc")},
    {REASON_NONE, 200, "abc", SAYS(OK "Content-Length: 3, 3\r\n\r\nabc")},
    {REASON_NONE, 200, "abc", SAYS(OK "Content-Length: 003\r\n\r\nabc")},
    {REASON_NONE, 200, "abc",
     SAYS(OK "X: y\r\n folded\r\nContent-Length: 3\r\n\r\nabc")},
    /* An interim response has no content, whatever it says. */
    {REASON_NONE, 200, "abc",
     SAYS("HTTP/1.1 100 x\r\nContent-Length: 5\r\n\r\n" LENGTH_3 "abc")},
    {REASON_NONE, 200, "abc",
     SAYS("HTTP/1.1 102 x\r\nTransfer-Encoding: chunked\r\n\r\n" LENGTH_3
          "abc")},
    {REASON_NONE, 200, "abc",
     SAYS("HTTP/1.1 103 x\r\nContent-Length: 9999999\r\n\r\n" CHUNKED
          "3\r\nabc\r\n0\r\n\r\n")},
    {REASON_NONE, 200, "abc",
     SAYS("HTTP/1.1 103 x\r\nTransfer-Encoding: gzip\r\n\r\n" LENGTH_3 "abc")},
    {REASON_NONE, 204, "",
     SAYS("HTTP/1.1 103 x\r\nContent-Length: 3\r\n\r\n"
          "HTTP/1.1 204 x\r\n\r\n")},
    /* A head that does not end is no answer, even if it began well. */
    {REASON_CLOSED_EARLY, 0, "", SAYS("H")},
    {REASON_CLOSED_EARLY, 0, "", SAYS("HTTP/1.1 200")},
    {REASON_CLOSED_EARLY, 200, "", SAYS(OK)},
    {REASON_CLOSED_EARLY, 200, "", SAYS(OK "Content-Length: 3\r\n")},
    {REASON_CLOSED_EARLY, 404, "", SAYS("HTTP/1.1 404 No\r\n")},
    {REASON_CLOSED_EARLY, 100, "", SAYS("HTTP/1.1 100 Go on\r\n\r\n")},
    {REASON_CLOSED_EARLY, 200, "",
     SAYS("HTTP/1.1 100 Go on\r\n\r\n" OK "X: y")},
    /* Nor are chunks that end a byte early. */
    {REASON_CLOSED_EARLY, 200, "", SAYS(CHUNKED "3\r\nabc\r\n0\r\n\r")},
    {REASON_CLOSED_EARLY, 200, "", SAYS(CHUNKED "0\r\nX: y\r\n\r")},
    {REASON_CLOSED_EARLY, 200, "", SAYS(CHUNKED "0\nX: y\n\r")},
    {REASON_CLOSED_EARLY, 404, "",
     SAYS("HTTP/1.1 404 x\r\n" CODING "\r\n0\r\n\r")},
    {REASON_BAD_HTTP, 101, "",
     SAYS("HTTP/1.1 101 What you never asked\r\n\r\n")},
    /* Not HTTP. */
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/3.1 200 OK\r\n\r\n")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/1.1 OK\r\n\r\n")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/1.1 20\r\n\r\n")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/1.1 2000 OK\r\n\r\n")},
    {REASON_BAD_HTTP, 0, "", SAYS("ICY 200 OK\r\n\r\n")},
    {REASON_BAD_HTTP, 0, "", SAYS("SSH-2.0-OpenSSH_9.2\r\n")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/2 200 OK\r\n\r\n")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/2 4294967496\r\n\r\nabc")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/1.1 4294967496 OK\r\n\r\nabc")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/1.1 +20 OK\r\n\r\nabc")},
    {REASON_BAD_HTTP, 0, "", SAYS("HTTP/1.1\t200 OK\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "X: a\0b\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "",
     SAYS(OK "Transfer-Encoding : chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length : 3\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: 3 5\r\n\r\nabcde")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: 3, 5\r\n\r\nabcde")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: 0x3\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: 3;\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: 3_0\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: 1e1\r\n\r\na")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: +3\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: \r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: 3\r\n 0\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "no colon\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: -3\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "",
     SAYS(OK "Content-Length: 3\r\nContent-Length: 2\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "",
     SAYS(OK "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Content-Length: x\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "",
     SAYS(OK "Transfer-Encoding: none such\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(OK "Transfer-Encoding: gzip\r\n\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "-1\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "fffffffffffffffff\r\nabc")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "2\r\nabc\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "0x6\r\nabcdef\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "",
     SAYS(CHUNKED "3\r\nabc\r\n0x6\r\nabcdef\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "3\r\nabc\r\n0x3\r\nd:f\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "6 \r\nabcdef\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "+6\r\nabcdef\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "6h\r\nabcdef\r\n0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "", SAYS(CHUNKED "3\r\nabc0\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "",
     SAYS(CHUNKED "3\r\nabc\r\n0\r\nno colon\r\n\r\n")},
    {REASON_BAD_HTTP, 200, "",
     SAYS(CHUNKED "3\r\nabc\r\n0\r\nabcdef\r\n\r\n")},
    /* What never ends. */
    {REASON_BAD_HTTP, 0, "", REPEATS("", X256)},
    {REASON_BAD_HTTP, 0, "", REPEATS("HTTP/", X256)},
    {REASON_BAD_HTTP, 0, "", REPEATS("HTTP/1.1 200 ", X256)},
    {REASON_BAD_HTTP, 200, "", REPEATS(OK, X256)},
    {REASON_BAD_HTTP, 200, "", REPEATS(OK, "X: y\r\n y\r\n")},
    {REASON_BAD_HTTP, 200, "", REPEATS(CHUNKED, "0000000000")},
    {REASON_BAD_HTTP, 200, "", REPEATS(CHUNKED "0\r\n", X256)},
    {REASON_TOO_LARGE, 200, "", REPEATS(OK "\r\n", X256)},
    {REASON_RETURNED, 404, "", REPEATS("HTTP/1.1 404 No\r\n\r\n", X256)},
    /* More than 64 bits, or than the limit, and what is there of it. */
    {REASON_TOO_LARGE, 200, "",
     SAYS(OK "Content-Length: 99999999999999999999\r\n\r\nabc")},
    {REASON_TOO_LARGE, 200, "", SAYS(OK "Content-Length: 1048577\r\n\r\nabc")},
    {REASON_RETURNED, 500, "",
     SAYS("HTTP/1.1 500 No\r\nContent-Length: 1048577\r\n\r\nabc")},
};

START_TEST(test_fetch_takes_nothing_for_an_answer_that_is_none)
{
    struct scripted_upstream upstream = {.saying = sayings[_i].saying};
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);

    for (int again = 0; again < 2; again++)
        expect(fetcher, upstream.saying.answer, sayings[_i].reason,
               sayings[_i].http_status, sayings[_i].body);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* What comes second on a handle. libcurl before 8.1.0 keeps a pointer to the
 * last header of the response before, which it has freed: a line that is
 * joined to it is written there. */
static const struct {
    const char *second;
    enum reason reason;
    long http_status;
    const char *body;
} seconds[] = {
    {OK " X: y\r\nContent-Length: 3\r\n\r\nabc", REASON_BAD_HTTP, 200, ""},
    {OK "\tX: y\r\nContent-Length: 3\r\n\r\nabc", REASON_BAD_HTTP, 200, ""},
    {OK "    \r\nContent-Length: 3\r\n\r\nabc", REASON_BAD_HTTP, 200, ""},
    {OK " \r\n\r\n", REASON_BAD_HTTP, 200, ""},
    {OK " " X256 "\r\n\r\n", REASON_BAD_HTTP, 200, ""},
    {"HTTP/1.1 404 No\r\n X: y\r\nContent-Length: 0\r\n\r\n", REASON_BAD_HTTP,
     404, ""},
    {"HTTP/1.1 204 x\r\n X: y\r\n\r\n", REASON_BAD_HTTP, 204, ""},
    {"HTTP/1.1 100 x\r\n X: y\r\n\r\n" LENGTH_3 "abc", REASON_BAD_HTTP, 100,
     ""},
    {"HTTP/1.1 100 x\r\n\r\n" OK " X: y\r\nContent-Length: 3\r\n\r\nabc",
     REASON_BAD_HTTP, 200, ""},
    {"HTTP/1.1 103 x\r\nX: y\r\n\r\n" OK
     "\tX: y\r\nContent-Length: 3\r\n\r\nabc",
     REASON_BAD_HTTP, 200, ""},
    {" HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", REASON_BAD_HTTP, 0,
     ""},
    /* What is like it, and good. */
    {OK "X: y\r\n folded\r\n\tagain\r\nContent-Length: 3\r\n\r\nabc",
     REASON_NONE, 200, "abc"},
    {"HTTP/1.1 100 x\r\n\r\n" LENGTH_3 "abc", REASON_NONE, 200, "abc"},
    {"HTTP/1.1 204 x\r\n\r\n", REASON_NONE, 204, ""}, /* no field at all */
};

START_TEST(test_second_response_with_a_continued_first_line_does_no_harm)
{
    int i = _i / 2;
    const char *const answers[] = {LENGTH_3 "one", seconds[i].second,
                                   LENGTH_3 "two", seconds[i].second,
                                   LENGTH_3 "end"};
    struct scripted_upstream upstream = {.converse = converse_in_turn,
                                         .answers = answers};
    options.keepalive = _i % 2 == 0;
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);

    expect(fetcher, "x", REASON_NONE, 200, "one");
    expect(fetcher, "x", seconds[i].reason, seconds[i].http_status,
           seconds[i].body);
    expect(fetcher, "x", REASON_NONE, 200, "two");
    expect(fetcher, "x", seconds[i].reason, seconds[i].http_status,
           seconds[i].body);
    expect(fetcher, "x", REASON_NONE, 200, "end");
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* libcurl passes on a long line in pieces. A blank at the start of one does
 * not continue anything. */
START_TEST(test_long_first_field_may_hold_blanks_anywhere)
{
    enum { BLANKS_LEN = 50000 };
    static char head[BLANKS_LEN + 128] = OK "X:";
    size_t len = strlen(head);

    memset(head + len, ' ', BLANKS_LEN);
    len += BLANKS_LEN;
    len += (size_t)snprintf(head + len, sizeof head - len,
                            "y\r\nContent-Length: 3\r\n\r\nabc");
    struct scripted_upstream upstream = {
        .saying = {.answer = head, .len = len}};
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int again = 0; again < 2; again++)
        expect(fetcher, "x", REASON_NONE, 200, "abc");
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* Nothing more comes, and the connection stays open. */
START_TEST(test_switch_of_protocols_is_refused_at_once)
{
    struct scripted_upstream upstream = {
        .converse = converse_and_stay,
        .saying = SAYS("HTTP/1.1 101 Switching Protocols\r\n"
                       "Connection: Upgrade\r\nUpgrade: x\r\n\r\n")};
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    long long start = now_ms();
    for (int again = 0; again < 2; again++)
        expect(fetcher, "x", REASON_BAD_HTTP, 101, "");
    ck_assert_int_lt(now_ms() - start, SLACK_MS);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* What libcurl remembers of a failure must not colour the next one. */
START_TEST(test_fetch_tells_each_failure_from_the_one_before)
{
    static const struct {
        const char *text;
        enum reason reason;
        long http_status;
    } rows[] = {
        {"/reset", REASON_CLOSED_EARLY, 0},
        {"/bad-chunk", REASON_BAD_HTTP, 200},
        {"/reset-body", REASON_CLOSED_EARLY, 200},
        {"/header-line", REASON_BAD_HTTP, 200},
        {"/empty-reply", REASON_CLOSED_EARLY, 0},
        {"/huge-chunked", REASON_TOO_LARGE, 200},
        {"/status/503", REASON_RETURNED, 503},
        {"/short-head", REASON_CLOSED_EARLY, 200},
    };
    struct fetcher *fetcher = open_path("/text");

    for (int first = 0; first < COUNT(rows); first++)
        for (int second = 0; second < COUNT(rows); second++) {
            expect(fetcher, rows[first].text, rows[first].reason,
                   rows[first].http_status, "");
            expect(fetcher, rows[second].text, rows[second].reason,
                   rows[second].http_status, "");
        }
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_fetch_leaves_an_empty_buffer_empty_when_it_fails)
{
    struct fetcher *fetcher = open_path("/text");
    struct buffer buffer = {0};
    unsigned handle = 0;
    long http_status;

    ck_assert_int_eq(
        fetch(fetcher, &handle, "/short", 6, &buffer, &http_status),
        REASON_CLOSED_EARLY);
    ck_assert_uint_eq(buffer.len, 0);
    ck_assert_int_eq(fetch(fetcher, &handle, "", 0, &buffer, &http_status),
                     REASON_NONE);
    ck_assert_uint_eq(buffer.len, 0);
    counted_free(buffer.data);
    fetcher_destroy(fetcher);
}
END_TEST

/*
 * The request
 */

/* Each byte value, and the target that must come of it. */
START_TEST(test_fetch_sends_any_byte)
{
    struct fetcher *fetcher = open_path("/good");
    char text[256];
    char line[1024] = "GET /good?text=";
    size_t len = strlen(line);

    for (int i = 0; i < 256; i++) {
        text[i] = (char)i;
        if ((i >= '0' && i <= '9') || (i >= 'A' && i <= 'Z') ||
            (i >= 'a' && i <= 'z') || (i > 0 && strchr("-._~", i) != NULL))
            line[len++] = (char)i;
        else
            len += (size_t)snprintf(line + len, 4, "%%%02X", (unsigned)i);
    }
    snprintf(line + len, sizeof line - len, " HTTP/1.1\r\n");
    expect_bytes(fetcher, text, sizeof text, REASON_NONE, 200, text,
                 sizeof text);
    char *head = rogue_request(rogue, 0);
    ck_assert_ptr_nonnull(head);
    ck_assert_msg(strncmp(head, line, strlen(line)) == 0, "%s", head);
    free(head);

    /* Alone, at either end, and doubled. */
    for (int i = 0; i < 256; i++) {
        char some[] = {(char)i, (char)i, 'x', (char)i};
        for (size_t n = 1; n <= sizeof some; n++)
            expect_bytes(fetcher, some, n, REASON_NONE, 200, some, n);
    }
    expect_bytes(fetcher, "", 0, REASON_NONE, 200, "", 0);
    expect_bytes(fetcher, "not sent", 0, REASON_NONE, 200, "", 0);
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_fetch_sends_a_long_text_and_keeps_no_copy)
{
    static const size_t sizes[] = {1, 4095, 4096, 4097, 65535, 65536, 262144};
    static char text[262144];
    struct fetcher *fetcher = open_path("/good");

    expect(fetcher, "hi", REASON_NONE, 200, "hi");
    long held = allocations_size();
    for (int fill = 0; fill < 2; fill++) {
        memset(text, fill == 0 ? 'a' : '\xff', sizeof text);
        for (int i = 0; i < COUNT(sizes); i++) {
            expect_bytes(fetcher, text, sizes[i], REASON_NONE, 200, text,
                         sizes[i]);
            ck_assert_uint_le(fetcher->handles[0].target.size,
                              MAX_TARGET_KEPT);
            /* Nor does libcurl, but for its buffers. */
            ck_assert_int_le(allocations_size() - held,
                             2 * LARGE_BUFFER + MAX_TARGET_KEPT);
        }
    }
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_fetch_refuses_what_libcurl_cannot_send)
{
    static char text[MAX_TARGET];
    struct fetcher *fetcher = open_path("/good");
    size_t longest = MAX_TARGET - strlen("/good?text=");

    memset(text, 'a', sizeof text);
    expect_bytes(fetcher, text, longest, REASON_NONE, 200, text, longest);
    expect_bytes(fetcher, text, longest + 1, REASON_LINE_TOO_LONG, 0, "", 0);
    memset(text, '\xff', sizeof text);
    longest /= 3;
    expect_bytes(fetcher, text, longest, REASON_NONE, 200, text, longest);
    expect_bytes(fetcher, text, longest + 1, REASON_LINE_TOO_LONG, 0, "", 0);
    ck_assert_uint_le(fetcher->handles[0].target.size, MAX_TARGET_KEPT);
    expect(fetcher, "next", REASON_NONE, 200, "next");
    fetcher_destroy(fetcher);
}
END_TEST

/* What stands behind the port in the URL, and what is asked for then. */
static const struct {
    const char *path;
    const char *request;
} urls[] = {
    {"", "GET /?text=hi HTTP/1.1\r\n"},
    {"/", "GET /?text=hi HTTP/1.1\r\n"},
    {"?a=b", "GET /?a=b&text=hi HTTP/1.1\r\n"},
    {"/good", "GET /good?text=hi HTTP/1.1\r\n"},
    {"/good?a=b", "GET /good?a=b&text=hi HTTP/1.1\r\n"},
    {"/good?a=b&c", "GET /good?a=b&c&text=hi HTTP/1.1\r\n"},
    {"/good#part", "GET /good?text=hi HTTP/1.1\r\n"},
    {"/good?a=b#part", "GET /good?a=b&text=hi HTTP/1.1\r\n"},
    {"/good?a=%20%26#p?q", "GET /good?a=%20%26&text=hi HTTP/1.1\r\n"},
    {"/a%2Fb/%C3%A9;c=d", "GET /a%2Fb/%C3%A9;c=d?text=hi HTTP/1.1\r\n"},
    {"//twice", "GET //twice?text=hi HTTP/1.1\r\n"},
};

START_TEST(test_fetch_keeps_the_path_and_the_query_of_the_url)
{
    struct buffer buffer = {0};
    unsigned handle = 0;
    long http_status;
    struct fetcher *fetcher = open_path(urls[_i].path);

    fetch(fetcher, &handle, "hi", 2, &buffer,
          &http_status); /* 404 for most of them */
    char *head = rogue_request(rogue, 0);
    ck_assert_ptr_nonnull(head);
    ck_assert_msg(strncmp(head, urls[_i].request, strlen(urls[_i].request)) ==
                      0,
                  "%s", head);
    /* An answer that is not asked for packed arrives as it is. */
    ck_assert_ptr_null(strcasestr(head, "accept-encoding"));
    free(head);
    counted_free(buffer.data);
    fetcher_destroy(fetcher);
}
END_TEST

static const char *const bad_urls[] = {
    "",
    "/good",
    "127.0.0.1:80/good",
    "localhost",
    "http://",
    "http://:80/",
    "http://127.0.0.1:port/",
    "http://127.0.0.1:65536/",
    "http://127.0.0.1:-1/",
    "http://a b/",
    "http://127.0.0.1/a b",
    "http://127.0.0.1/a\nb",
    "http://127.0.0.1/\x7f",
    "http://[::1/",
    "http://[::g]/",
    "http//127.0.0.1/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/",
    "gopher://127.0.0.1/",
    "ws://127.0.0.1/",
    "none://127.0.0.1/",
    /* What libcurl makes of these depends on the locale. */
    "http://b\303\274cher.example/",
    "http://b\374cher.example/",
    "http://b%C3%BCcher.example/",
    "https://\xe2\x98\x83/",
};

START_TEST(test_create_refuses_what_is_no_url_and_says_why)
{
    const char *error = NULL;
    options.url = bad_urls[_i];
    ck_assert_ptr_null(fetcher_create(&options, &error));
    ck_assert_int_eq(errno, EINVAL);
    ck_assert_ptr_nonnull(error);
    ck_assert_str_ne(error, "");
}
END_TEST

START_TEST(test_host_may_be_in_the_ascii_form)
{
    struct fetcher *fetcher = open_url("http://xn--bcher-kva.invalid/");
    expect(fetcher, "hi", REASON_NOT_FOUND, 0, "");
    fetcher_destroy(fetcher);
}
END_TEST

/* They are sent, and are nobody else's business. */
START_TEST(test_user_and_password_are_sent_and_not_shown)
{
    static const struct {
        const char *before;
        const char *header; /* base64 of USER:PASSWORD */
    } rows[] = {
        {"user:secret@", "\r\nAuthorization: Basic dXNlcjpzZWNyZXQ=\r\n"},
        {"user@", "\r\nAuthorization: Basic dXNlcjo=\r\n"},
        {"u%40s:p%2Fw@", "\r\nAuthorization: Basic dUBzOnAvdw==\r\n"},
    };
    char url[256], shown[256];

    for (int i = 0; i < COUNT(rows); i++) {
        snprintf(url, sizeof url, "http://%s127.0.0.1:%d/good?a=b",
                 rows[i].before, rogue_port(rogue));
        snprintf(shown, sizeof shown, "http://127.0.0.1:%d/good?a=b",
                 rogue_port(rogue));
        struct fetcher *fetcher = open_url(url);
        ck_assert_str_eq(fetcher_url(fetcher), shown);
        expect(fetcher, "hi", REASON_NONE, 200, "hi");
        char *head = rogue_request(rogue, (unsigned long)i);
        ck_assert_msg(strstr(head, rows[i].header) != NULL, "%s", head);
        free(head);
        fetcher_destroy(fetcher);
    }
}
END_TEST

/*
 * Limits of a body
 */

START_TEST(test_body_may_fill_the_limit_and_not_exceed_it)
{
    static char body[70000];
    static const struct {
        const char *path;
        size_t size;
    } rows[] = {
        {"/size/1", 1},         {"/size-chunked/1", 1},
        {"/size/1000", 1000},   {"/size-chunked/1000", 1000},
        {"/size/70000", 70000}, {"/size-chunked/70000", 70000},
    };
    memset(body, 'x', sizeof body);

    for (int i = 0; i < COUNT(rows); i++)
        for (size_t room = 0; room < 3; room++) {
            options.max_body = rows[i].size - 1 + room;
            if (options.max_body == 0)
                continue;
            struct fetcher *fetcher = open_path("/text");
            bool fits = room > 0;
            expect_bytes(fetcher, rows[i].path, strlen(rows[i].path),
                         fits ? REASON_NONE : REASON_TOO_LARGE, 200, body,
                         rows[i].size);
            if (options.max_body >= 4)
                expect(fetcher, "next", REASON_NONE, 200, "next");
            fetcher_destroy(fetcher);
        }
}
END_TEST

START_TEST(test_body_of_an_error_is_not_measured)
{
    options.max_body = 1;
    struct fetcher *fetcher = open_path("/text");
    expect(fetcher, "/status/404", REASON_RETURNED, 404, "");
    expect(fetcher, "/status/200", REASON_TOO_LARGE, 200, "");
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_packed_body_is_passed_on_packed)
{
    size_t len;
    unsigned char *packed = rogue_packed(&len);
    ck_assert_ptr_nonnull(packed);
    struct fetcher *fetcher = open_path("/packed");
    expect_bytes(fetcher, "x", 1, REASON_NONE, 200, packed, len);
    fetcher_destroy(fetcher);
    free(packed);
}
END_TEST

/* A transfer encoding libcurl would unpack, though nobody asked for it. */
START_TEST(test_bomb_is_not_unpacked)
{
    static const char head[] = OK "Transfer-Encoding: gzip\r\n\r\n";
    size_t len;
    unsigned char *packed = rogue_packed(&len);
    ck_assert_ptr_nonnull(packed);
    struct buffer answer = {0};
    ck_assert(buffer_append(&answer, BYTES(head)));
    ck_assert(buffer_append(&answer, packed, len));
    struct scripted_upstream upstream = {
        .saying = {.answer = answer.data, .len = answer.len}};
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    expect(fetcher, "x", REASON_BAD_HTTP, 200, "");
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
    counted_free(answer.data);
    free(packed);
}
END_TEST

START_TEST(test_flood_leaves_memory_bounded)
{
    static const char *const floods[] = {
        "/header-line", "/headers",      "/interim-flood", "/trailers",
        "/huge",        "/huge-chunked", "/huge-unsized"};
    const struct server_process s = self();
    struct fetcher *fetcher = open_path("/text");
    struct buffer buffer = {0};
    unsigned handle = 0;
    long http_status;

    long peak = server_status(&s, "VmHWM");
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < COUNT(floods); i++)
            ck_assert_int_ne(fetch(fetcher, &handle, floods[i],
                                   strlen(floods[i]), &buffer, &http_status),
                             REASON_NONE);
    /* Twice the body, and as much again for whoever allocates. */
    if (!server_sanitized(&s))
        ck_assert_int_le(server_status(&s, "VmHWM") - peak, 4096);
    counted_free(buffer.data);
    fetcher_destroy(fetcher);
}
END_TEST

/*
 * Connections
 */

START_TEST(test_connection_is_kept_and_used_again)
{
    struct fetcher *fetcher = open_path("/text");
    for (int i = 0; i < 10; i++)
        expect(fetcher, "/chunked", REASON_NONE, 200, "/chunked");
    ck_assert_uint_eq(rogue_counts(rogue).connections, 1);
    /* An error with a whole answer is no reason to part. */
    expect(fetcher, "/status/404", REASON_RETURNED, 404, "");
    expect(fetcher, "hi", REASON_NONE, 200, "hi");
    ck_assert_uint_eq(rogue_counts(rogue).connections, 1);
    char *head = rogue_request(rogue, 0);
    ck_assert_ptr_nonnull(head);
    ck_assert_ptr_null(strcasestr(head, "\r\nConnection:"));
    free(head);
    fetcher_destroy(fetcher);
}
END_TEST

/* One look at the connection, and one for the response. To change what a
 * signal does, the kernel would stop all threads. */
START_TEST(test_warm_fetch_makes_few_calls)
{
    struct fetcher *fetcher = open_path("/text");

    for (int i = 0; i < 10; i++) {
        recv_calls = sigaction_calls = 0;
        expect(fetcher, "hi", REASON_NONE, 200, "hi");
        ck_assert_int_eq(sigaction_calls, 0);
        if (i > 0)
            ck_assert_int_le(recv_calls, 3); /* it may come in two pieces */
    }
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_large_bodies_are_read_in_large_pieces)
{
    enum { SIZE = 200000 };
    struct fetcher *fetcher = open_path("/text");
    static char body[SIZE + 1];

    memset(body, 'x', SIZE);
    for (int i = 0; i < 3; i++) {
        expect(fetcher, "/size/200000", REASON_NONE, 200, body);
        recv_calls = 0; /* after the first, all others */
        expect(fetcher, "/size/200000", REASON_NONE, 200, body);
        ck_assert_int_lt(recv_calls, SIZE / 2048);
        /* The next one is on another connection. */
        expect(fetcher, "/huge-chunked", REASON_TOO_LARGE, 200, "");
    }
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_connection_is_new_each_time_without_keepalive)
{
    options.keepalive = false;
    struct fetcher *fetcher = open_path("/text");
    for (int i = 0; i < 10; i++)
        expect(fetcher, "hi", REASON_NONE, 200, "hi");
    ck_assert_uint_eq(rogue_counts(rogue).connections, 10);
    char *head = rogue_request(rogue, 9);
    ck_assert_ptr_nonnull(strcasestr(head, "\r\nConnection: close\r\n"));
    free(head);
    fetcher_destroy(fetcher);
}
END_TEST

/* More often than the five times that libcurl tries in all. */
/* There is none to keep, so nothing is said of it. */
START_TEST(test_unasked_bytes_cost_nothing_without_keepalive)
{
    struct scripted_upstream upstream = {
        .converse = converse_and_stay,
        .saying = SAYS(CHUNKED CHUNKS LENGTH_3 "999")};

    options.keepalive = false;
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int again = 0; again < 2; again++)
        expect(fetcher, "x", REASON_NONE, 200, "abc");
    ck_assert_int_eq(atomic_load(&logged_lines), 0);
    ck_assert_int_eq(atomic_load(&fetcher->distrusted_until), 0);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

START_TEST(test_stale_connection_is_replaced_however_often)
{
    static const char *const paths[] = {"/stale", "/close-unsaid", "/close",
                                        "/unsized"};
    struct fetcher *fetcher = open_path("/text");
    for (int i = 0; i < 20; i++)
        expect(fetcher, paths[_i], REASON_NONE, 200, paths[_i]);
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_upstream_may_go_away_and_come_back)
{
    struct fetcher *fetcher = open_path("/text");
    int port = rogue_port(rogue);

    for (int i = 0; i < 8; i++) {
        expect(fetcher, "hi", REASON_NONE, 200, "hi");
        rogue_stop(rogue);
        if (i % 2 == 0)
            expect(fetcher, "hi", REASON_REFUSED, 0, "");
        rogue = rogue_start(port);
        ck_assert_ptr_nonnull(rogue);
    }
    fetcher_destroy(fetcher);
}
END_TEST

/* What nobody asked for must not become the answer to the next request, nor
 * spoil it. */
static const struct unasked unasked_rows[] = {
    {.text = LENGTH_3 "999"},
    {.text = LENGTH_3 "999", .closes = true},
    {.text = CHUNKED "3\r\n999\r\n0\r\n\r\n"},
    {.text = OK "Content-Length: 3\r\n"},
    {.text = "HTTP/1.1 100 Continue\r\n\r\n"},
    {.text = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
     .closes = true},
    {.text = "\r\n"},
    {.text = "\n"},
    {.text = "x"},
    {.text = "", .closes = true},
};

/* Waits until the client's end of the handle's connection has something. */
static void await_unasked(const struct handle *handle)
{
    curl_socket_t fd = CURL_SOCKET_BAD;

    if (handle->easy == NULL ||
        curl_easy_getinfo(handle->easy, CURLINFO_ACTIVESOCKET, &fd) !=
            CURLE_OK ||
        fd == CURL_SOCKET_BAD)
        return; /* it was closed for what came along with the answer */
    struct pollfd input = {.fd = fd, .events = POLLIN};
    ck_assert_int_eq(poll(&input, 1, PATIENCE_MS), 1);
}

START_TEST(test_what_nobody_asked_for_is_nobodys_answer)
{
    struct scripted_upstream upstream = {.converse = converse_unasked,
                                         .unasked = unasked_rows[_i / 4]};
    char answer[16];

    upstream.unasked.at_once = _i % 2 == 1;
    upstream.unasked.chunked = _i / 2 % 2 == 1;
    ck_assert_int_eq(sem_init(&upstream.taken, 0, 0), 0);
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int i = 1; i <= 8; i++) {
        snprintf(answer, sizeof answer, "%03d", i);
        expect(fetcher, "x", REASON_NONE, 200, answer);
        ck_assert_int_eq(sem_post(&upstream.taken), 0);
        await_unasked(&fetcher->handles[0]);
    }
    ck_assert_int_le(atomic_load(&logged_lines), 1);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
    ck_assert_int_eq(sem_destroy(&upstream.taken), 0);
}
END_TEST

/* Whether it is seen before the next request, or came with its own. */
START_TEST(test_unasked_response_costs_the_connections_of_a_while)
{
    struct scripted_upstream upstream = {.converse = converse_unasked,
                                         .unasked = {.text = LENGTH_3 "999",
                                                     .at_once = _i == 1,
                                                     .chunked = _i == 1,
                                                     .once = true}};
    char answer[16];

    ck_assert_int_eq(sem_init(&upstream.taken, 0, 0), 0);
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int i = 1; i <= 5; i++) {
        snprintf(answer, sizeof answer, "%03d", i);
        expect(fetcher, "x", REASON_NONE, 200, answer);
        int connections = atomic_load(&upstream.connections);
        ck_assert_int_eq(connections, i);
        if (i == 1) {
            ck_assert_int_eq(sem_post(&upstream.taken), 0);
            await_unasked(&fetcher->handles[0]);
        }
    }
    ck_assert_int_eq(atomic_load(&logged_lines), 1);
    ck_assert_str_eq(logged, "the upstream sent what nobody asked for: "
                             "keeping no connection for 60 s");

    /* The while is over: the fifth connection is kept. */
    atomic_store(&fetcher->distrusted_until, clock_ms() - 1);
    expect(fetcher, "x", REASON_NONE, 200, "006");
    expect(fetcher, "x", REASON_NONE, 200, "007");
    int connections = atomic_load(&upstream.connections);
    ck_assert_int_eq(connections, 5);
    ck_assert_int_eq(atomic_load(&logged_lines), 1);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
    ck_assert_int_eq(sem_destroy(&upstream.taken), 0);
}
END_TEST

/* libcurl discards what comes along with a head that no content follows. */
START_TEST(test_surplus_after_no_content_costs_its_connection)
{
    static const struct {
        long status;
        const char *answer;
    } rows[] = {
        {200, OK "Content-Length: 0\r\n\r\n" LENGTH_3 "999"},
        {204, "HTTP/1.1 204 No Content\r\n\r\n" LENGTH_3 "999"},
        {404, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\nx"},
    };
    const char *const answers[] = {LENGTH_3 "abc", rows[_i].answer,
                                   LENGTH_3 "def", LENGTH_3 "ghi"};
    struct scripted_upstream upstream = {.converse = converse_in_turn,
                                         .answers = answers};
    bool good = rows[_i].status / 100 == 2;

    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    expect(fetcher, "x", REASON_NONE, 200, "abc");
    expect(fetcher, "x", good ? REASON_NONE : REASON_RETURNED, rows[_i].status,
           "");
    ck_assert_int_eq(atomic_load(&upstream.connections), 1);
    expect(fetcher, "x", REASON_NONE, 200, "def");
    expect(fetcher, "x", REASON_NONE, 200, "ghi");
    int connections = atomic_load(&upstream.connections);
    ck_assert_int_eq(connections, 2);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* Nothing is discarded, so the connection is kept. */
START_TEST(test_connection_is_kept_after_no_content)
{
    static const char *const answers[] = {
        LENGTH_3 "abc", OK "Content-Length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        CHUNKED CHUNKS, OK "Content-Length: 0\r\n\r\n"};
    static const char *const bodies[] = {"abc", "", "", "abc", ""};
    struct scripted_upstream upstream = {.converse = converse_in_turn,
                                         .answers = answers};

    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int i = 0; i < COUNT(answers); i++)
        expect(fetcher, "x", REASON_NONE, i == 2 ? 204 : 200, bodies[i]);
    int connections = atomic_load(&upstream.connections);
    ck_assert_int_eq(connections, 1);
    ck_assert_int_eq(atomic_load(&logged_lines), 0);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

#define PIECE(text)                                                           \
    {                                                                         \
        BYTES(text), NULL                                                     \
    }
#define STAYS                                                                 \
    {                                                                         \
        NULL, 0, NULL                                                         \
    }
#define CLOSES                                                                \
    {                                                                         \
        NULL, 0, "close"                                                      \
    }

/* libcurl discards a read from a NUL on that begins a line of the head; what
 * comes in the next one must not pass for the rest of the response. */
START_TEST(test_head_that_has_lost_a_part_is_refused)
{
    static const struct {
        long status;
        struct saying reads[4];
    } rows[] = {
        {200, {PIECE(OK "\0: "), PIECE(LENGTH "abc"), STAYS}},
        {200, {PIECE(OK "\0: "), PIECE(LENGTH "abc"), CLOSES}},
        {200, {PIECE(OK "\0" LENGTH "abc"), PIECE("\r\nabc"), CLOSES}},
        {200, {PIECE(OK), PIECE("A: b\r\n\0"), PIECE("\r\nabc"), CLOSES}},
        {200, {PIECE(OK "\0"), PIECE(CODING "\r\n" CHUNKS), STAYS}},
        {200,
         {PIECE("HTTP/1.1 103 Early Hints\r\n\r\n\0"), PIECE(LENGTH_3 "abc"),
          STAYS}},
        {204, {PIECE("HTTP/1.1 204 No Content\r\n\0"), PIECE("\r\n"), STAYS}},
        {404, {PIECE("HTTP/1.1 404 Not Found\r\n\0"), PIECE("\r\n"), CLOSES}},
    };
    struct scripted_upstream upstream = {.converse = converse_read_by_read,
                                         .reads = rows[_i].reads};

    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int i = 0; i < 2; i++)
        expect(fetcher, "x", REASON_BAD_HTTP, rows[_i].status, "");
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* However much came over an earlier connection of the same handle. */
START_TEST(test_head_that_has_lost_a_part_is_refused_on_a_later_connection)
{
    static const struct saying reads[] = {
        PIECE(OK "\0"), PIECE("Connection: close\r\n" LENGTH "abc"), STAYS};
    struct scripted_upstream upstream = {
        .converse = converse_read_by_read_later,
        .saying = {BYTES(LENGTH_3 "abc"), NULL},
        .reads = reads};

    options.keepalive = false;
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    expect(fetcher, "x", REASON_NONE, 200, "abc");
    expect(fetcher, "x", REASON_BAD_HTTP, 200, "");
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* Nothing is wrong with a head that comes bit by bit. */
START_TEST(test_head_in_many_reads_is_taken)
{
    static const struct {
        struct saying reads[5];
        bool closes;
        const char *body;
    } rows[] = {
        {{PIECE(OK), PIECE(LENGTH "ab"), PIECE("c"), STAYS}, false, "abc"},
        {{PIECE("HTT"), PIECE("P/1.1 200 OK\r\nContent-Len"),
          PIECE("gth: 3\r\n\r"), PIECE("\nabc"), STAYS},
         false,
         "abc"},
        {{PIECE(OK), PIECE(CODING "\r\n" CHUNKS), STAYS}, false, "abc"},
        {{PIECE(OK), PIECE("\r\nab"), PIECE("c"), CLOSES}, true, "abc"},
        {{PIECE(OK "Connection: close\r\n"), PIECE(LENGTH "abc"), STAYS},
         true,
         "abc"},
        {{PIECE(OK), PIECE("Content-Length: 0\r\n\r\n"), STAYS}, false, ""},
    };
    struct scripted_upstream upstream = {.converse = converse_read_by_read,
                                         .reads = rows[_i].reads};

    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int i = 1; i <= 3; i++) {
        expect(fetcher, "x", REASON_NONE, 200, rows[_i].body);
        int connections = atomic_load(&upstream.connections);
        ck_assert_int_eq(connections, rows[_i].closes ? i : 1);
    }
    ck_assert_int_eq(atomic_load(&logged_lines), 0);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* The upstream closes just when the kernel is asked what it has received. */
START_TEST(test_end_that_comes_meanwhile_is_no_byte)
{
    static const struct {
        struct saying reads[3];
    } rows[] = {
        {{PIECE(OK), PIECE(LENGTH "abc"), STAYS}},
        {{PIECE(OK "Connection: close\r\n"), PIECE(LENGTH "abc"), STAYS}},
    };
    struct scripted_upstream upstream = {.converse = converse_read_by_read,
                                         .reads = rows[_i].reads};

    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    end_of_upstream = END_COMES;
    expect(fetcher, "x", REASON_NONE, 200, "abc");
    ck_assert_int_eq(end_of_upstream, END_HAS_COME);
    end_of_upstream = NO_END;
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* An end is nothing to distrust an upstream for. */
START_TEST(test_connection_that_ends_with_no_content_is_not_kept)
{
    struct scripted_upstream upstream = {
        .converse = converse_to_the_end,
        .saying = {BYTES("HTTP/1.1 204 No Content\r\n\r\n"), NULL}};

    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    for (int i = 1; i <= 3; i++) {
        expect(fetcher, "x", REASON_NONE, 204, "");
        int connections = atomic_load(&upstream.connections);
        ck_assert_int_eq(connections, i);
    }
    ck_assert_int_eq(atomic_load(&logged_lines), 0);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/* Served as RFC 9112 has it, section 6.1, and then the connection is closed,
 * as is written there. Nobody is distrusted for it. */
START_TEST(test_response_of_doubtful_framing_costs_its_connection)
{
    static const struct {
        const char *answer;
        bool kept;
    } rows[] = {
        {LENGTH_3 "abc", true},
        {CHUNKED CHUNKS, true},
        {OK "Content-Length: 9\r\n" CODING "\r\n" CHUNKS, false},
        {OK CODING "Content-Length: 9\r\n\r\n" CHUNKS, false},
        {OLD "Connection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", true},
        {OLD "Connection: keep-alive\r\n" CODING "\r\n" CHUNKS, false},
    };
    const char *const answers[] = {rows[_i].answer, rows[_i].answer,
                                   rows[_i].answer, rows[_i].answer};
    struct scripted_upstream upstream = {.converse = converse_in_turn,
                                         .answers = answers};
    ck_assert(upstream_start(&upstream, AF_INET));
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);

    for (int i = 1; i <= COUNT(answers); i++) {
        expect(fetcher, "x", REASON_NONE, 200, "abc");
        int connections = atomic_load(&upstream.connections);
        ck_assert_int_eq(connections, rows[_i].kept ? 1 : i);
    }
    ck_assert_int_eq(atomic_load(&logged_lines), 0);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

START_TEST(test_proxies_of_the_environment_are_ignored)
{
    static const char *const names[] = {"http_proxy",  "HTTP_PROXY",
                                        "https_proxy", "HTTPS_PROXY",
                                        "all_proxy",   "ALL_PROXY"};
    char proxy[64];
    int port;
    int held = hold_port(&port);

    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", port);
    for (int i = 0; i < COUNT(names); i++)
        ck_assert_int_eq(setenv(names[i], proxy, 1), 0);
    struct fetcher *fetcher = open_path("/text");
    expect(fetcher, "hi", REASON_NONE, 200, "hi");
    fetcher_destroy(fetcher);
    for (int i = 0; i < COUNT(names); i++)
        ck_assert_int_eq(unsetenv(names[i]), 0);
    close(held);
}
END_TEST

START_TEST(test_refused_connection_is_said_to_be)
{
    int port;
    int held = hold_port(&port);
    struct fetcher *fetcher = open_port("127.0.0.1", port);
    for (int i = 0; i < 3; i++)
        expect(fetcher, "hi", REASON_REFUSED, 0, "");
    fetcher_destroy(fetcher);
    close(held);
}
END_TEST

/* Whoever measures with a connection per fetch meets it soon, and must not
 * take it for the upstream's doing. */
START_TEST(test_lack_of_a_local_port_is_told_from_a_refusal)
{
    static const struct {
        int error;
        enum reason reason;
    } rows[] = {
        {EADDRNOTAVAIL, REASON_NO_PORT}, {ECONNREFUSED, REASON_REFUSED},
        {EADDRNOTAVAIL, REASON_NO_PORT}, {ENETUNREACH, REASON_REFUSED},
        {EHOSTUNREACH, REASON_REFUSED},  {EADDRNOTAVAIL, REASON_NO_PORT},
    };
    options.keepalive = _i == 0;
    struct fetcher *fetcher = open_path("/text");

    for (int i = 0; i < COUNT(rows); i++) {
        atomic_store(&connect_error, rows[i].error);
        expect(fetcher, "hi", rows[i].reason, 0, "");
        expect(fetcher, "hi", rows[i].reason, 0, "");
    }
    atomic_store(&connect_error, 0);
    expect(fetcher, "hi", REASON_NONE, 200, "hi");
    fetcher_destroy(fetcher);
}
END_TEST

/* Nor is it the upstream's doing that there is no descriptor. */
START_TEST(test_lack_of_a_descriptor_is_told_from_a_refusal)
{
    struct rlimit was, none;
    int lowest = dup(STDIN_FILENO);

    ck_assert_int_ge(lowest, 0);
    close(lowest);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &was), 0);
    none = was;
    none.rlim_cur = (rlim_t)lowest;
    options.keepalive = false;
    struct fetcher *fetcher = open_path("/text");
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        expect(fetcher, "hi", REASON_FAILED, 0, "");
        expect(fetcher, "hi", REASON_FAILED, 0, "");
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &was), 0);
        expect(fetcher, "hi", REASON_NONE, 200, "hi");
    }
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_ipv6_upstream_is_reached)
{
    struct scripted_upstream upstream = {
        .saying = SAYS(OK "Content-Length: 3\r\n\r\nsix")};
    if (!upstream_start(&upstream, AF_INET6))
        return; /* no IPv6 on this machine */
    struct fetcher *fetcher = open_port("[::1]", upstream.port);
    expect(fetcher, "hi", REASON_NONE, 200, "six");
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/*
 * Names
 */

START_TEST(test_name_is_resolved)
{
    struct fetcher *fetcher = open_port("named.example", rogue_port(rogue));
    expect(fetcher, "hi", REASON_RETURNED, 404, "");
    char *head = rogue_request(rogue, 0);
    ck_assert_ptr_nonnull(strstr(head, "\r\nHost: named.example:"));
    free(head);
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_name_is_looked_up_for_each_new_connection)
{
    options.keepalive = _i == 0;
    struct fetcher *fetcher = open_port("named.example", rogue_port(rogue));

    for (int i = 1; i <= 5; i++) {
        expect(fetcher, "hi", REASON_RETURNED, 404, "");
        ck_assert_int_eq(atomic_load(&named_lookups),
                         options.keepalive ? 1 : i);
    }
    /* So the name may move while we run. */
    atomic_store(&named_address, "127.0.0.2");
    if (options.keepalive)
        expect(fetcher, "hi", REASON_RETURNED, 404, "");
    else
        expect(fetcher, "hi", REASON_REFUSED, 0, "");
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_name_that_does_not_exist_is_said_not_to)
{
    struct fetcher *fetcher = open_url("http://nowhere.invalid/");
    for (int i = 0; i < 3; i++)
        expect(fetcher, "hi", REASON_NOT_FOUND, 0, "");
    fetcher_destroy(fetcher);
}
END_TEST

/* A timeout cannot end the resolver's thread, but it does not wait for it,
 * nor does the destruction; the thread cleans up when it is let go. */
START_TEST(test_timeout_holds_while_the_resolver_hangs)
{
    ck_assert_int_eq(sem_init(&stuck, 0, 0), 0);
    options.connect_timeout_ms = SHORT_MS;
    struct fetcher *fetcher = open_url("http://stuck.invalid/");
    long long start = now_ms();
    expect_timeout(fetcher, "hi", SHORT_MS, 0);
    expect_timeout(fetcher, "hi", SHORT_MS, 0);
    fetcher_destroy(fetcher);
    ck_assert_int_lt(now_ms() - start, PATIENCE_MS / 2);
    ck_assert_int_eq(sem_post(&stuck), 0);
    ck_assert_int_eq(sem_post(&stuck), 0);
}
END_TEST

/*
 * Timeouts that the table of ends does not have
 */

START_TEST(test_connect_timeout_is_kept)
{
    int port;
    int deaf = deaf_port(&port);
    struct fetcher *fetcher;

    options.connect_timeout_ms = SHORT_MS;
    fetcher = open_port("127.0.0.1", port);
    expect_timeout(fetcher, "hi", SHORT_MS, 0);
    expect_timeout(fetcher, "hi", SHORT_MS, 0);
    fetcher_destroy(fetcher);

    /* The timeout of the whole counts while it connects, too. */
    options.connect_timeout_ms = PATIENCE_MS;
    options.timeout_ms = SHORT_MS;
    fetcher = open_port("127.0.0.1", port);
    expect_timeout(fetcher, "hi", SHORT_MS, 0);
    fetcher_destroy(fetcher);
    close(deaf);
}
END_TEST

START_TEST(test_connect_timeout_ends_with_the_connecting)
{
    options.connect_timeout_ms = SHORT_MS;
    struct fetcher *fetcher = open_path("/text");
    expect(fetcher, "/delay/600", REASON_NONE, 200, "/delay/600");
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_timeout_is_kept_by_an_upstream_that_never_reads)
{
    static char text[300000]; /* more than two sockets hold, once encoded */
    const int small = 4096;
    struct scripted_upstream upstream = {.converse = converse_deaf};
    ck_assert(upstream_start(&upstream, AF_INET));
    ck_assert_int_eq(setsockopt(upstream.listener, SOL_SOCKET, SO_RCVBUF,
                                &small, sizeof small),
                     0);
    options.timeout_ms = SHORT_MS;
    struct fetcher *fetcher = open_port("127.0.0.1", upstream.port);
    long long start = now_ms();
    expect_bytes(fetcher, text, sizeof text, REASON_TIMED_OUT, 0, "", 0);
    ck_assert_int_le(now_ms() - start, SHORT_MS + SLACK_MS);
    fetcher_destroy(fetcher);
    upstream_stop(&upstream);
}
END_TEST

/*
 * Many threads
 */

struct job {
    pthread_t thread;
    struct fetcher *fetcher;
    const char *text;
    int count;
    atomic_int *failed;
};

static void *job_thread(void *arg)
{
    struct job *job = arg;
    unsigned handle = 0;
    for (int i = 0; i < job->count; i++) {
        struct buffer body = {0};
        long http_status;
        enum reason reason = fetch(job->fetcher, &handle, job->text,
                                   strlen(job->text), &body, &http_status);
        if (reason != REASON_NONE || body.len != strlen(job->text) ||
            memcmp(body.data, job->text, body.len) != 0)
            atomic_fetch_add(job->failed, 1);
        counted_free(body.data);
    }
    return NULL;
}

static void start_job(struct job *job)
{
    ck_assert_int_eq(pthread_create(&job->thread, NULL, job_thread, job), 0);
}

static void finish_job(struct job *job)
{
    ck_assert_int_eq(pthread_join(job->thread, NULL), 0);
}

START_TEST(test_ceiling_holds_and_all_are_served)
{
    enum { THREADS = 20, FETCHES = 10 };
    struct job jobs[THREADS];
    char texts[THREADS][32];
    atomic_int failed = 0;

    options.max_handles = 2;
    struct fetcher *fetcher = open_path("/text");
    for (int i = 0; i < THREADS; i++) {
        snprintf(texts[i], sizeof texts[i], "/delay/%d?%d", 1 + i % 3, i);
        jobs[i] = (struct job){.fetcher = fetcher,
                               .text = texts[i],
                               .count = FETCHES,
                               .failed = &failed};
        start_job(&jobs[i]);
    }
    for (int i = 0; i < THREADS; i++)
        finish_job(&jobs[i]);
    ck_assert_int_eq(atomic_load(&failed), 0);
    struct rogue_counts counts = rogue_counts(rogue);
    ck_assert_uint_eq(counts.requests, THREADS * FETCHES);
    ck_assert_uint_le(counts.peak_busy, 2);
    ck_assert_uint_eq(counts.connections, 2);
    fetcher_destroy(fetcher);
}
END_TEST

START_TEST(test_first_come_is_first_served)
{
    enum { THREADS = 12 };
    struct job jobs[THREADS];
    char texts[THREADS][32];
    atomic_int failed = 0;

    struct fetcher *fetcher = open_path("/text");
    for (int i = 0; i < THREADS; i++) {
        /* The first holds the only handle until all are in line. */
        snprintf(texts[i], sizeof texts[i], i == 0 ? "/delay/1500" : "%d", i);
        jobs[i] = (struct job){.fetcher = fetcher,
                               .text = texts[i],
                               .count = 1,
                               .failed = &failed};
        start_job(&jobs[i]);
        long long deadline = now_ms() + PATIENCE_MS;
        while (i == 0 ? rogue_counts(rogue).busy == 0
                      : atomic_load(&fetcher->slots.waiting) < (unsigned)i) {
            ck_assert_int_lt(now_ms(), deadline);
            let_pass(1);
        }
    }
    for (int i = 0; i < THREADS; i++)
        finish_job(&jobs[i]);
    ck_assert_int_eq(atomic_load(&failed), 0);
    for (int i = 1; i < THREADS; i++) {
        char line[32];
        snprintf(line, sizeof line, "GET /text?text=%d ", i);
        char *head = rogue_request(rogue, (unsigned long)i);
        ck_assert_msg(strncmp(head, line, strlen(line)) == 0,
                      "not %s but %.20s", line, head);
        free(head);
    }
    fetcher_destroy(fetcher);
}
END_TEST

/* One thread after many keeps to one connection: to the handle that it used
 * last, and before that to the lowest. */
START_TEST(test_lonely_thread_keeps_to_one_connection)
{
    enum { THREADS = 4 };
    struct job jobs[THREADS];
    atomic_int failed = 0;

    options.max_handles = 8;
    struct fetcher *fetcher = open_path("/text");
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.fetcher = fetcher,
                               .text = "/delay/300",
                               .count = 1,
                               .failed = &failed};
        start_job(&jobs[i]);
    }
    for (int i = 0; i < THREADS; i++)
        finish_job(&jobs[i]);
    unsigned long connections = rogue_counts(rogue).connections;
    ck_assert_uint_le(connections, THREADS);
    for (unsigned first = 0; first < connections; first++) {
        unsigned handle = first;
        for (int i = 0; i < 10; i++) {
            struct buffer body = {0};
            long http_status;
            ck_assert_int_eq(
                fetch(fetcher, &handle, "hi", 2, &body, &http_status),
                REASON_NONE);
            ck_assert_uint_eq(handle, first);
            counted_free(body.data);
        }
    }
    ck_assert_uint_eq(rogue_counts(rogue).connections, connections);
    ck_assert_int_eq(atomic_load(&failed), 0);
    fetcher_destroy(fetcher);
}
END_TEST

/*
 * Memory
 */

/* Each allocation of fetch.c and of libcurl fails in turn, in the first fetch
 * of a fetcher and in one on a kept connection. */
START_TEST(test_each_allocation_may_fail)
{
    static const char *const paths[] = {"/good", "/chunked", "/status/404",
                                        "/bad-chunk"};
    const char *path = paths[_i];
    bool good = _i < 2;
    bool failed = true;

    ck_assert_int_eq(curl_global_init_mem(CURL_GLOBAL_DEFAULT, failing_malloc,
                                          counted_free, failing_realloc,
                                          failing_strdup, failing_calloc),
                     CURLE_OK);
    for (long n = 0; failed; n++) {
        for (int kept = 0; kept < 2; kept++) {
            struct buffer body = {0};
            unsigned handle = 0;
            long http_status;
            const char *error;
            char url[ROGUE_URL_SIZE];
            enum reason reason = REASON_NO_MEMORY;

            rogue_url(rogue, "/text", url);
            options.url = url;
            if (kept == 0)
                allocation_fails_after(n);
            struct fetcher *fetcher = fetcher_create(&options, &error);
            ck_assert(fetcher != NULL || errno == ENOMEM);
            if (kept == 1) {
                ck_assert_ptr_nonnull(fetcher);
                expect(fetcher, "hi", REASON_NONE, 200, "hi");
                allocation_fails_after(n);
            }
            if (fetcher != NULL)
                reason = fetch(fetcher, &handle, path, strlen(path), &body,
                               &http_status);
            else
                ck_assert_msg(strstr(error, "emory") != NULL, "%s", error);
            failed = allocation_failed();
            if (reason == REASON_NONE) {
                ck_assert(good);
                ck_assert_uint_eq(body.len, strlen(path));
                ck_assert_mem_eq(body.data, path, body.len);
            } else {
                ck_assert_uint_eq(body.len, 0);
                ck_assert_msg(failed || !good, "%s without need",
                              reason_text(reason));
            }
            if (fetcher != NULL)
                expect(fetcher, "next", REASON_NONE, 200, "next");
            fetcher_destroy(fetcher);
            counted_free(body.data);
        }
    }
    curl_global_cleanup();
}
END_TEST

/* Lengths around that of a buffer, so that memory can end at each piece. */
enum { SHORTEST = 40, LONGEST = 80 };

START_TEST(test_target_is_made_whole_or_not_at_all)
{
    static const char *const queries[] = {"", "?a", "?abcdefghijklmnop"};
    static const char *const starts[] = {
        "?text=", "?a&text=", "?abcdefghijklmnop&text="};
    char url[256], path[LONGEST + 1] = "/", target[256];

    for (int len = 1; len < LONGEST; len++) {
        path[len] = 'x';
        if (len < SHORTEST)
            continue;
        snprintf(url, sizeof url, "http://h%s%s", path, queries[_i]);
        snprintf(target, sizeof target, "%s%s", path, starts[_i]);
        bool ok = false;
        for (long n = 0; !ok; n++) {
            struct fetcher fetcher = {.url = curl_url()};
            ck_assert_ptr_nonnull(fetcher.url);
            ck_assert_int_eq(curl_url_set(fetcher.url, CURLUPART_URL, url, 0),
                             CURLUE_OK);
            allocation_fails_after(n);
            ok = make_target(&fetcher);
            ck_assert_int_eq(ok, !allocation_failed());
            if (ok)
                ck_assert_str_eq(fetcher.target, target);
            counted_free(fetcher.target);
            curl_url_cleanup(fetcher.url);
        }
    }
}
END_TEST

START_TEST(test_request_is_made_whole_or_not_at_all)
{
    struct fetcher fetcher = {.target = (char[]){"/?text="}};
    char text[LONGEST];

    memset(text, 'x', sizeof text);
    for (size_t len = SHORTEST; len < LONGEST; len++) {
        bool ok = false;
        for (long n = 0; !ok; n++) {
            struct handle handle = {.easy = curl_easy_init()};
            ck_assert_ptr_nonnull(handle.easy);
            allocation_fails_after(n);
            enum reason reason = set_target(&fetcher, &handle, text, len);
            ok = !allocation_failed();
            ck_assert_int_eq(reason, ok ? REASON_NONE : REASON_NO_MEMORY);
            if (ok)
                ck_assert_uint_eq(strlen(handle.target.data),
                                  strlen(fetcher.target) + len);
            counted_free(handle.target.data);
            curl_easy_cleanup(handle.easy);
        }
    }
}
END_TEST

/*
 * What libcurl says
 */

/* Another libcurl than ours may see an end where there is none. */
START_TEST(test_response_is_whole_only_when_both_say_so)
{
    static const char *const heads[] = {
        OK "Content-Length: 3\r\n\r\n",
        OK "Transfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        OK,
        "",
    };
    struct handle handle = {.reason = REASON_NONE};
    struct buffer body = {0};

    response_begin(&handle.response, &body, 100);
    for (const char *line = heads[_i]; *line != '\0';) {
        size_t len = strcspn(line, "\n") + 1;
        ck_assert_int_eq(response_take(&handle.response, line, len),
                         REASON_NONE);
        line += len;
    }
    ck_assert_int_eq(transfer_reason(&handle, CURLE_OK), REASON_CLOSED_EARLY);
}
END_TEST

/* Each call of libcurl fails in turn, whether or not the real one can: while a
 * fetcher is made, in its first fetch, in one on a kept connection, in one
 * without content, or in that of a long text. */
START_TEST(test_each_call_of_libcurl_may_fail)
{
    enum { CREATE, FIRST, KEPT, EMPTY, LONG };
    static char text[10001];
    size_t len = _i == LONG ? sizeof text - 1 : strlen("/status/304");
    enum reason good = _i == EMPTY ? REASON_RETURNED : REASON_NONE;
    char url[ROGUE_URL_SIZE];
    bool failed = true;
    long n;

    memset(text, 'x', sizeof text - 1);
    if (_i == EMPTY)
        memcpy(text, "/status/304", len);
    rogue_url(rogue, "/text?query", url);
    options.url = url;
    options.cacert = "/nowhere"; /* of no use for HTTP, and never read */
    for (n = 0; failed; n++) {
        struct buffer body = {0};
        unsigned handle = 0;
        long http_status;
        const char *error = NULL;

        if (_i == CREATE)
            calls_left = n;
        struct fetcher *fetcher = fetcher_create(&options, &error);
        if (_i == CREATE) {
            failed = calls_left < 0;
            calls_left = -1;
            ck_assert((fetcher == NULL) == (error != NULL));
            ck_assert_int_eq(fetcher == NULL, failed);
        }
        if (fetcher == NULL)
            continue;
        if (_i == KEPT)
            expect(fetcher, "hi", REASON_NONE, 200, "hi");
        if (_i != CREATE)
            calls_left = n;
        enum reason reason =
            fetch(fetcher, &handle, text, len, &body, &http_status);
        if (_i != CREATE)
            failed = calls_left < 0;
        calls_left = -1;
        if (reason != good) {
            ck_assert(failed);
            ck_assert_int_eq(reason, REASON_NO_MEMORY);
        }
        ck_assert_uint_eq(body.len, reason == REASON_NONE ? len : 0);
        if (reason == REASON_NONE)
            ck_assert_mem_eq(body.data, text, len);
        expect(fetcher, "next", REASON_NONE, 200, "next");
        counted_free(body.data);
        fetcher_destroy(fetcher);
    }
    ck_assert_int_ge(n, _i == FIRST ? 20 : 4); /* at least so many calls */
}
END_TEST

/* Nor can libcurl's account of a failure make it worse. */
START_TEST(test_failure_is_told_though_libcurl_does_not_tell_more)
{
    struct fetcher *fetcher = open_port("127.0.0.1", 1);
    struct handle *handle = &fetcher->handles[0];

    expect(fetcher, "hi", REASON_REFUSED, 0, "");
    handle->easy = make_easy(fetcher, handle);
    ck_assert_ptr_nonnull(handle->easy);
    calls_left = 0;
    ck_assert_int_eq(failure_reason(handle, CURLE_OPERATION_TIMEDOUT),
                     REASON_TIMED_OUT);
    ck_assert_int_lt(calls_left, 0);
    calls_left = 1;
    ck_assert_int_eq(failure_reason(handle, CURLE_COULDNT_CONNECT),
                     REASON_REFUSED);
    ck_assert_int_lt(calls_left, 0);
    fetcher_destroy(fetcher);
}
END_TEST

/* What a code means depends on whether the response had begun. */
START_TEST(test_failure_is_of_the_response_once_it_has_begun)
{
    static const struct {
        CURLcode code;
        enum reason before, after;
    } rows[] = {
        {CURLE_OUT_OF_MEMORY, REASON_NO_MEMORY, REASON_BAD_HTTP},
        {CURLE_FUNCTION_NOT_FOUND, REASON_FAILED, REASON_BAD_HTTP},
        {CURLE_RECV_ERROR, REASON_TLS_FAILED, REASON_CLOSED_EARLY},
        {CURLE_SEND_ERROR, REASON_TLS_FAILED, REASON_CLOSED_EARLY},
        {CURLE_SSL_CIPHER, REASON_TLS_FAILED, REASON_TLS_FAILED},
    };
    struct fetcher *fetcher = open_path("/text");
    struct handle *handle = &fetcher->handles[0];

    for (int i = 0; i < COUNT(rows); i++) {
        drop_easy(handle);
        handle->easy = make_easy(fetcher, handle);
        ck_assert_ptr_nonnull(handle->easy);
        handle->message[0] = '\0';
        handle->tls.certificate_wanted = true;
        ck_assert_int_eq(failure_reason(handle, rows[i].code), rows[i].before);
        expect(fetcher, "hi", REASON_NONE, 200, "hi");
        handle->tls.certificate_wanted = true;
        ck_assert_int_eq(failure_reason(handle, rows[i].code), rows[i].after);
    }
    fetcher_destroy(fetcher);
}
END_TEST

/* Whatever libcurl may hand over beside that: nothing, or half a line. */
START_TEST(test_callbacks_take_no_bytes_and_half_a_line)
{
    struct handle handle = {.reason = REASON_NONE};
    struct buffer body = {0};
    char line[] = "HTTP/1.1 200 OK\n";

    response_begin(&handle.response, &body, 100);
    ck_assert_uint_eq(on_data(line, 1, 0, &handle), 0);
    ck_assert_uint_eq(on_header(line, 1, 0, &handle), 0);
    ck_assert_uint_eq(on_header(line, 1, 8, &handle), 8);
    ck_assert_int_eq(handle.response.status, 0);
    ck_assert_uint_eq(on_header(line, 1, sizeof line - 1, &handle),
                      sizeof line - 1);
    ck_assert_int_eq(handle.response.status, 200);
}
END_TEST

START_TEST(test_zeroed_memory_is_no_less_than_asked_for)
{
    static const char zeros[64];

    ck_assert_ptr_null(allocate_zeroed(SIZE_MAX / 2 + 1, 2));
    ck_assert_ptr_null(allocate_zeroed(2, SIZE_MAX / 2 + 1));
    for (size_t size = 0; size <= sizeof zeros; size += 8) {
        void *data = allocate_zeroed(sizeof zeros / 8, size / 8);
        ck_assert_ptr_nonnull(data);
        ck_assert_mem_eq(data, zeros, sizeof zeros / 8 * (size / 8));
        counted_free(data);
    }
}
END_TEST

/* Only OpenSSL has what lib/tls.c asks for. */
START_TEST(test_another_library_of_tls_is_not_asked)
{
    static const struct {
        const char *name;
        bool openssl;
    } rows[] = {
        {"OpenSSL/3.0.19", true}, {"GnuTLS/3.7.9", false}, {NULL, false}};
    char url[] = "https://127.0.0.1:1/";

    for (int i = 0; i < COUNT(rows); i++) {
        curl_version_info_data info = {.ssl_version = rows[i].name};
        claimed = &info;
        struct fetcher *fetcher = open_url(url);
        ck_assert_int_eq(fetcher->openssl, rows[i].openssl);
        claimed = NULL;
        fetcher_destroy(fetcher);
    }
}
END_TEST

START_TEST(test_tls_that_cannot_be_prepared_is_out_of_memory)
{
    const char *error = NULL;

    options.url = "https://127.0.0.1:1/";
    no_contexts = true;
    ck_assert_ptr_null(fetcher_create(&options, &error));
    ck_assert_int_eq(errno, ENOMEM);
    ck_assert_str_eq(error, "out of memory");
    options.url = "http://127.0.0.1:1/"; /* does without */
    struct fetcher *fetcher = fetcher_create(&options, &error);
    ck_assert_ptr_nonnull(fetcher);
    fetcher_destroy(fetcher);
}
END_TEST

/* OpenSSL may not say so, and do without a part of it for good. */
START_TEST(test_tls_that_lacked_memory_is_not_prepared)
{
    const char *error = NULL;

    options.url = "https://127.0.0.1:1/";
    ck_assert_ptr_null(note(NULL, 1));
    ck_assert_ptr_null(fetcher_create(&options, &error));
    ck_assert_int_eq(errno, ENOMEM);
    ck_assert_str_eq(error, "out of memory");
}
END_TEST

/* What OpenSSL gives back by asking for no bytes is no memory it lacked. */
START_TEST(test_tls_that_gave_memory_back_is_prepared)
{
    ck_assert_ptr_null(reallocate(allocate(1, "", 0), 0, "", 0));
    ck_assert(tls_prepare());
}
END_TEST

START_TEST(test_tls_that_cannot_be_watched_is_an_error)
{
    struct tls_events events = {0};
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    CURL *easy = curl_easy_init();

    ck_assert_ptr_nonnull(context);
    ck_assert_ptr_nonnull(easy);
    for (long n = 0; n < 2; n++) {
        calls_left = n;
        ck_assert_int_ne(tls_watch(easy, &events), CURLE_OK);
        ck_assert_int_lt(calls_left, 0);
    }
    calls_left = 0;
    ck_assert_int_eq(on_context(easy, context, &events), CURLE_OUT_OF_MEMORY);
    ck_assert_int_eq(on_context(easy, context, &events), CURLE_OK);
    ck_assert_ptr_eq(SSL_CTX_get_app_data(context), &events);
    ck_assert(!tls_has_more(easy)); /* it has no connection yet */
    calls_left = 0;
    ck_assert(!tls_has_more(easy));
    curl_easy_cleanup(easy);
    SSL_CTX_free(context);
}
END_TEST

/* Of OpenSSL and others, about a read that failed. */
START_TEST(test_failure_of_tls_is_told_by_its_message)
{
    static const struct {
        const char *message;
        bool is;
    } messages[] = {
        {"OpenSSL SSL_read: OpenSSL/3.0.19: error:0A00045C:SSL "
         "routines::tlsv13 alert certificate required, errno 0",
         true},
        {"GnuTLS recv error (-12): A TLS fatal alert has been received.",
         true},
        {"OpenSSL SSL_read: error:0A000119:SSL routines::decryption failed or "
         "bad record mac, errno 0",
         true},
        {"OpenSSL SSL_read: error:1C800066:Provider routines::cipher "
         "operation failed, errno 0",
         true},
        {"OpenSSL SSL_read: error:0A000126:SSL routines::unexpected eof while "
         "reading, errno 0",
         false},
        {"OpenSSL SSL_read: Connection reset by peer, errno 104", false},
        {"Recv failure: Connection reset by peer", false},
        {"", false},
    };

    for (int i = 0; i < COUNT(messages); i++)
        ck_assert_msg(is_tls_failure(messages[i].message) == messages[i].is,
                      "%s", messages[i].message);
}
END_TEST

START_TEST(test_library_is_named)
{
    ck_assert_ptr_nonnull(strstr(fetch_library(), "libcurl/"));
}
END_TEST

static TCase *make_tests(Suite *suite, const char *name)
{
    TCase *tests = tcase_create(name);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, TEST_TIMEOUT);
    suite_add_tcase(suite, tests);
    return tests;
}

static void add_ends(Suite *suite)
{
    TCase *tests = make_tests(suite, "ends");
    tcase_add_loop_test(tests, test_fetch_ends_as_the_upstream_made_it_end, 0,
                        2 * upstream_fault_count);
    tcase_add_loop_test(tests,
                        test_fetch_takes_nothing_for_an_answer_that_is_none, 0,
                        COUNT(sayings));
    tcase_add_loop_test(
        tests, test_second_response_with_a_continued_first_line_does_no_harm,
        0, 2 * COUNT(seconds));
    tcase_add_test(tests, test_long_first_field_may_hold_blanks_anywhere);
    tcase_add_test(tests, test_switch_of_protocols_is_refused_at_once);
    tcase_add_test(tests, test_fetch_tells_each_failure_from_the_one_before);
    tcase_add_test(tests,
                   test_fetch_leaves_an_empty_buffer_empty_when_it_fails);
}

static void add_requests(Suite *suite)
{
    TCase *tests = make_tests(suite, "requests");
    tcase_add_test(tests, test_fetch_sends_any_byte);
    tcase_add_test(tests, test_fetch_sends_a_long_text_and_keeps_no_copy);
    tcase_add_test(tests, test_fetch_refuses_what_libcurl_cannot_send);
    tcase_add_loop_test(tests,
                        test_fetch_keeps_the_path_and_the_query_of_the_url, 0,
                        COUNT(urls));
    tcase_add_loop_test(tests, test_create_refuses_what_is_no_url_and_says_why,
                        0, COUNT(bad_urls));
    tcase_add_test(tests, test_host_may_be_in_the_ascii_form);
    tcase_add_test(tests, test_user_and_password_are_sent_and_not_shown);
}

static void add_bodies(Suite *suite)
{
    TCase *tests = make_tests(suite, "bodies");
    tcase_add_test(tests, test_body_may_fill_the_limit_and_not_exceed_it);
    tcase_add_test(tests, test_body_of_an_error_is_not_measured);
    tcase_add_test(tests, test_packed_body_is_passed_on_packed);
    tcase_add_test(tests, test_bomb_is_not_unpacked);
    tcase_add_test(tests, test_flood_leaves_memory_bounded);
}

static void add_connections(Suite *suite)
{
    TCase *tests = make_tests(suite, "connections");
    tcase_add_test(tests, test_connection_is_kept_and_used_again);
    tcase_add_test(tests, test_warm_fetch_makes_few_calls);
    tcase_add_test(tests, test_large_bodies_are_read_in_large_pieces);
    tcase_add_test(tests, test_connection_is_new_each_time_without_keepalive);
    tcase_add_test(tests, test_unasked_bytes_cost_nothing_without_keepalive);
    tcase_add_loop_test(tests, test_stale_connection_is_replaced_however_often,
                        0, 4);
    tcase_add_test(tests, test_upstream_may_go_away_and_come_back);
    tcase_add_loop_test(tests, test_what_nobody_asked_for_is_nobodys_answer, 0,
                        4 * COUNT(unasked_rows));
    tcase_add_loop_test(
        tests, test_unasked_response_costs_the_connections_of_a_while, 0, 2);
    tcase_add_loop_test(
        tests, test_surplus_after_no_content_costs_its_connection, 0, 3);
    tcase_add_test(tests, test_connection_is_kept_after_no_content);
    tcase_add_loop_test(tests, test_head_that_has_lost_a_part_is_refused, 0,
                        8);
    tcase_add_test(
        tests,
        test_head_that_has_lost_a_part_is_refused_on_a_later_connection);
    tcase_add_loop_test(tests, test_head_in_many_reads_is_taken, 0, 6);
    tcase_add_loop_test(tests, test_end_that_comes_meanwhile_is_no_byte, 0, 2);
    tcase_add_test(tests,
                   test_connection_that_ends_with_no_content_is_not_kept);
    tcase_add_loop_test(
        tests, test_response_of_doubtful_framing_costs_its_connection, 0, 6);
    tcase_add_test(tests, test_proxies_of_the_environment_are_ignored);
    tcase_add_test(tests, test_refused_connection_is_said_to_be);
    tcase_add_loop_test(
        tests, test_lack_of_a_local_port_is_told_from_a_refusal, 0, 2);
    tcase_add_test(tests, test_lack_of_a_descriptor_is_told_from_a_refusal);
    tcase_add_test(tests, test_ipv6_upstream_is_reached);
    tcase_add_test(tests, test_name_is_resolved);
    tcase_add_loop_test(tests, test_name_is_looked_up_for_each_new_connection,
                        0, 2);
    tcase_add_test(tests, test_name_that_does_not_exist_is_said_not_to);
}

static void add_timeouts(Suite *suite)
{
    TCase *tests = make_tests(suite, "timeouts");
    tcase_add_test(tests, test_timeout_holds_while_the_resolver_hangs);
    tcase_add_test(tests, test_connect_timeout_is_kept);
    tcase_add_test(tests, test_connect_timeout_ends_with_the_connecting);
    tcase_add_test(tests,
                   test_timeout_is_kept_by_an_upstream_that_never_reads);
}

static void add_threads(Suite *suite)
{
    TCase *tests = make_tests(suite, "threads");
    tcase_add_test(tests, test_ceiling_holds_and_all_are_served);
    tcase_add_test(tests, test_first_come_is_first_served);
    tcase_add_test(tests, test_lonely_thread_keeps_to_one_connection);
}

static void add_memory(Suite *suite)
{
    TCase *tests = make_tests(suite, "memory");
    tcase_add_loop_test(tests, test_each_allocation_may_fail, 0, 4);
    tcase_add_loop_test(tests, test_target_is_made_whole_or_not_at_all, 0, 3);
    tcase_add_test(tests, test_request_is_made_whole_or_not_at_all);
    tcase_add_loop_test(tests, test_response_is_whole_only_when_both_say_so, 0,
                        5);
    tcase_add_test(tests, test_failure_of_tls_is_told_by_its_message);
    tcase_add_loop_test(tests, test_each_call_of_libcurl_may_fail, 0, 5);
    tcase_add_test(tests,
                   test_failure_is_told_though_libcurl_does_not_tell_more);
    tcase_add_test(tests, test_failure_is_of_the_response_once_it_has_begun);
    tcase_add_test(tests, test_callbacks_take_no_bytes_and_half_a_line);
    tcase_add_test(tests, test_zeroed_memory_is_no_less_than_asked_for);
    tcase_add_test(tests, test_another_library_of_tls_is_not_asked);
    tcase_add_test(tests, test_tls_that_cannot_be_prepared_is_out_of_memory);
    tcase_add_test(tests, test_tls_that_lacked_memory_is_not_prepared);
    tcase_add_test(tests, test_tls_that_gave_memory_back_is_prepared);
    tcase_add_test(tests, test_tls_that_cannot_be_watched_is_an_error);
    tcase_add_test(tests, test_library_is_named);
}

int main(void)
{
    Suite *suite = suite_create("fetch");
    add_ends(suite);
    add_requests(suite);
    add_bodies(suite);
    add_connections(suite);
    add_timeouts(suite);
    add_threads(suite);
    add_memory(suite);
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
