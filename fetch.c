/*
 * fetch.c - one blocking HTTP GET over libcurl, and the pool of its handles
 *
 * A libcurl easy handle keeps its upstream connection open and may be used by
 * one thread at a time. A handle is acquired for one fetch only, so a
 * connection that waits for its client holds none, and few of them stay busy
 * and warm.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fetch.h"
#include "lib/clock.h"
#include "lib/log.h"
#include "lib/response.h"
#include "lib/slots.h"
#include "lib/streams.h"
#include "lib/tls.h"

#include <curl/curl.h>
#include <errno.h>
#include <linux/tcp.h> /* the C library's tcp_info is shorter */
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A longer request target is refused, in bytes: libcurl takes no more than
 * 1 MiB for the whole request, and reports anything longer as out of memory.
 */
#define MAX_TARGET (1024 * 1024 - 16 * 1024)

/* A longer request target is not kept from one fetch to the next, in bytes. */
#define MAX_TARGET_KEPT 4096

/* Room beside the target for the other headers of a request, in bytes. */
#define REQUEST_HEADERS (64 * 1024)

/* libcurl's default for a request over TLS, in bytes. */
#define UPLOAD_BUFFER 65536L

/* libcurl allocates its receive buffer anew for each transfer. A small one, in
 * bytes, comes from the cache that malloc has for each thread; the default
 * takes its arena's lock. */
#define SMALL_BUFFER 1024L
#define LARGE_BUFFER 16384L

/* An easy handle that has connected this often is dropped, see
 * count_connects. */
#define MAX_CONNECTS 5

/* tcpi_state of a connection that neither end has closed; <netinet/tcp.h> has
 * it, but not the whole of tcp_info. */
#define ESTABLISHED 1

/* No connection is kept for this long after an upstream has sent something
 * that nobody asked for. */
#define DISTRUST_MS 60000

/* A place in the pool. Its easy handle is made when it is first used. */
struct handle {
    CURL *easy;
    long connects;                 /* that it has made */
    uint64_t taken;                /* bytes from its connection */
    bool large;                    /* it has the large receive buffer */
    bool openssl;                  /* as in the fetcher */
    struct buffer target;          /* of the request: path, query and a NUL */
    char message[CURL_ERROR_SIZE]; /* libcurl's, about a failed transfer */

    /* The transfer that is running. */
    struct response response;
    bool in_line;   /* the last piece of the head had no LF */
    bool divided;   /* libcurl has waited for the rest of the head */
    bool discarded; /* libcurl has discarded bytes, see has_discarded */
    struct tls_events tls;
    enum reason reason; /* why a callback ended it, or REASON_NONE */
};

struct fetcher {
    CURLU *url;   /* only read, by all handles */
    char *shown;  /* the URL without user and password */
    char *target; /* of a request, up to the text */
    const char *cacert;
    long timeout_ms;
    long connect_timeout_ms;
    size_t max_body;
    bool keepalive;
    bool tls;                      /* to the upstream */
    bool openssl;                  /* it is OpenSSL's */
    atomic_llong distrusted_until; /* monotonic ms; 0: never yet */
    struct curl_slist *headers;
    struct handle *handles;
    unsigned handle_count;
    struct slots slots; /* which handles are in use */
};

/*
 * calloc for libcurl, which calls it five times per request. glibc's calloc
 * takes its arena's lock each time before 2.41; malloc has a cache per thread.
 * Threads that wait for that lock form convoys, see docs/bench.md. malloc is
 * called through a pointer, or the compiler turns this into calloc again.
 */
static void *allocate_zeroed(size_t count, size_t size)
{
    static void *(*volatile allocate)(size_t) = malloc;

    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    void *data = allocate(count * size);
    return data != NULL ? memset(data, 0, count * size) : NULL;
}

/* Notes at the end of a response over TLS whether more has come with it. */
static void note_tls_surplus(struct handle *handle)
{
    if (response_is_complete(&handle->response) &&
        !response_ends_by_close(&handle->response) &&
        tls_has_more(handle->easy))
        handle->response.surplus = true;
}

/* libcurl's write callback: takes the body. With CURLOPT_HEADER it sees each
 * line of the head as well, before libcurl stores it. */
static size_t on_data(char *data, size_t size, size_t count, void *arg)
{
    struct handle *handle = arg;
    size_t len = size * count;

    if (len == 0)
        return 0;
    if (response_has_head(&handle->response)) {
        handle->taken += len;
        handle->reason = response_take(&handle->response, data, len);
        if (handle->openssl)
            note_tls_surplus(handle);
    } else {
        /* libcurl before 8.1.0 joins a line that begins with a blank to the
         * header before it, and after the status line that is one of the
         * handle's previous response, which it has freed. */
        if (!handle->in_line && (data[0] == ' ' || data[0] == '\t') &&
            response_awaits_first_field(&handle->response))
            handle->reason = REASON_BAD_HTTP;
        handle->in_line = data[len - 1] != '\n';
    }
    return handle->reason == REASON_NONE ? len : CURL_WRITEFUNC_ERROR;
}

/* libcurl's header callback: takes a whole line of the head. Trailers do not
 * come here, as libcurl leaves the chunks to us. */
static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
    struct handle *handle = arg;
    size_t len = size * count;

    handle->taken += len;
    if (len > 0 && data[len - 1] == '\n') /* else the upstream cut it off */
        handle->reason = response_take(&handle->response, data, len);
    if (handle->openssl)
        note_tls_surplus(handle);
    return handle->reason == REASON_NONE ? len : CURL_WRITEFUNC_ERROR;
}

/* libcurl's callback for a new socket. */
static int on_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
    struct handle *handle = arg;

    (void)fd;
    (void)purpose;
    handle->taken = 0;
    return CURL_SOCKOPT_OK;
}

/* libcurl's progress callback: comes whenever it has read all there is. */
static int on_progress(void *arg, curl_off_t download_size,
                       curl_off_t downloaded, curl_off_t upload_size,
                       curl_off_t uploaded)
{
    struct handle *handle = arg;

    (void)download_size;
    (void)downloaded;
    (void)upload_size;
    (void)uploaded;
    if (response_is_in_head(&handle->response))
        handle->divided = true;
    return 0;
}

/*
 * Returns whether the kernel has received more on a connection than libcurl
 * has passed on. An end of the upstream's output counts as a byte. The kernel
 * reads the state before the count, so an end in between is in the count but
 * not in the state: only a second answer tells it from a byte.
 */
static bool has_received_more(const struct handle *handle, curl_socket_t fd)
{
    struct tcp_info info = {0}; /* older kernels leave the count at 0 */
    socklen_t size = sizeof info;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
        info.tcpi_bytes_received <= handle->taken)
        return false;
    const uint64_t received = info.tcpi_bytes_received;
    size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 &&
           received > handle->taken + (info.tcpi_state != ESTABLISHED ? 1 : 0);
}

/* libcurl's callback that closes a connection. */
static int on_close(void *arg, curl_socket_t fd)
{
    struct handle *handle = arg;

    if (handle->divided && has_received_more(handle, fd))
        handle->discarded = true;
    return close(fd);
}

/* Makes an easy handle, with all that stays the same from fetch to fetch. */
static CURL *make_easy(const struct fetcher *fetcher, struct handle *handle)
{
    CURL *easy = curl_easy_init();
    CURLcode rc = easy != NULL ? CURLE_OK : CURLE_OUT_OF_MEMORY;
    handle->openssl = fetcher->openssl;

#define SET(option, value)                                                    \
    if (rc == CURLE_OK)                                                       \
    rc = curl_easy_setopt(easy, option, value)

    /* Parsed once, and never changed: the text goes into the request target.
     * That takes a fifth fewer instructions than a new URL for each text. */
    SET(CURLOPT_CURLU, fetcher->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_NOPROXY, "*"); /* whatever http_proxy says */
    SET(CURLOPT_HTTPHEADER, fetcher->headers);
    SET(CURLOPT_TIMEOUT_MS, fetcher->timeout_ms);
    SET(CURLOPT_CONNECTTIMEOUT_MS, fetcher->connect_timeout_ms);
    SET(CURLOPT_FORBID_REUSE, fetcher->keepalive ? 0L : 1L);
    /* Or one that cannot be used again would stay beside its successor. */
    SET(CURLOPT_MAXCONNECTS, 1L);
    /* libcurl 7.88 frees a part of it twice if memory runs out. */
    SET(CURLOPT_SSL_SESSIONID_CACHE, 0L);
    SET(CURLOPT_BUFFERSIZE, SMALL_BUFFER);
    SET(CURLOPT_DNS_CACHE_TIMEOUT, 0L); /* look up at each new connection */
    /* What comes passes through lib/response, the chunks as they are. */
    SET(CURLOPT_HTTP_TRANSFER_DECODING, 0L);
    SET(CURLOPT_HEADER, 1L);
    SET(CURLOPT_WRITEFUNCTION, on_data);
    SET(CURLOPT_WRITEDATA, handle);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, handle);
    SET(CURLOPT_ERRORBUFFER, handle->message);
    if (!fetcher->tls) { /* whose bytes the kernel cannot count */
        SET(CURLOPT_SOCKOPTFUNCTION, on_socket);
        SET(CURLOPT_SOCKOPTDATA, handle);
        SET(CURLOPT_NOPROGRESS, 0L);
        SET(CURLOPT_XFERINFOFUNCTION, on_progress);
        SET(CURLOPT_XFERINFODATA, handle);
        SET(CURLOPT_CLOSESOCKETFUNCTION, on_close);
        SET(CURLOPT_CLOSESOCKETDATA, handle);
    }
    if (rc == CURLE_OK && fetcher->openssl)
        rc = tls_watch(easy, &handle->tls);
    if (fetcher->cacert != NULL) {
        SET(CURLOPT_CAINFO, fetcher->cacert);
        SET(CURLOPT_CAPATH, NULL); /* nor the system's, built in */
    }
    /* Without NOSIGNAL each transfer changes the process's SIGPIPE action,
     * for which the kernel walks all threads. */
    SET(CURLOPT_NOSIGNAL, 1L);
    /* Or a timeout would wait for the thread that resolves the name. */
    SET(CURLOPT_QUICK_EXIT, 1L);
#undef SET

    if (rc != CURLE_OK) {
        curl_easy_cleanup(easy);
        return NULL;
    }
    return easy;
}

/* Drops an easy handle and its connection; the next fetch makes another. */
static void drop_easy(struct handle *handle)
{
    curl_easy_cleanup(handle->easy);
    handle->easy = NULL;
    handle->connects = 0;
    handle->taken = 0;
    handle->large = false;
}

/* Keeps no connection for a while. A response does not name its request, so
 * once one was sent that nobody asked for, each later one may be another
 * request's; and on a busy connection the look before a request comes too
 * early to see it. */
static void distrust(struct fetcher *fetcher)
{
    if (fetcher->keepalive &&
        atomic_exchange(&fetcher->distrusted_until, clock_ms() + DISTRUST_MS) <
            clock_ms())
        log_line("the upstream sent what nobody asked for: keeping no "
                 "connection for %d s",
                 DISTRUST_MS / 1000);
}

/*
 * Drops the easy handle if its kept connection cannot be used: the upstream
 * has closed it, or has sent something that nobody asked for, such as a second
 * response or the notice before a close. libcurl would take that for the
 * response to the next request. TLS records that arrive while a connection is
 * idle make it unusable, too, but may be tickets.
 */
static void drop_if_unusable(struct fetcher *fetcher, struct handle *handle)
{
    long long distrusted_until = atomic_load(&fetcher->distrusted_until);
    curl_socket_t fd;
    char byte;

    if (curl_easy_getinfo(handle->easy, CURLINFO_ACTIVESOCKET, &fd) !=
            CURLE_OK ||
        fd == CURL_SOCKET_BAD)
        return; /* it has no connection */
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0 && !fetcher->openssl)
        distrust(fetcher);
    if (n >= 0 || errno != EAGAIN ||
        (distrusted_until != 0 && clock_ms() < distrusted_until))
        drop_easy(handle);
}

/* Writes the request target for this text into the handle. Returns
 * REASON_NONE, REASON_LINE_TOO_LONG or REASON_NO_MEMORY. */
static enum reason set_target(const struct fetcher *fetcher,
                              struct handle *handle, const char *text,
                              size_t len)
{
    struct buffer *target = &handle->target;

    target->len = 0;
    if (!buffer_append(target, fetcher->target, strlen(fetcher->target)) ||
        !buffer_append_escaped(target, text, len))
        return REASON_NO_MEMORY;
    if (target->len > MAX_TARGET)
        return REASON_LINE_TOO_LONG;
    if (!buffer_append(target, "", 1) ||
        curl_easy_setopt(handle->easy, CURLOPT_REQUEST_TARGET, target->data) !=
            CURLE_OK)
        return REASON_NO_MEMORY;
    /* Over TLS, libcurl 7.88 never sends what it cannot send in two pieces of
     * this buffer, so it has to hold the whole request. */
    if (target->len > MAX_TARGET_KEPT &&
        curl_easy_setopt(handle->easy, CURLOPT_UPLOAD_BUFFERSIZE,
                         (long)(target->len + REQUEST_HEADERS)) != CURLE_OK)
        return REASON_NO_MEMORY;
    return REASON_NONE;
}

/*
 * Returns whether libcurl has discarded bytes of the response, or after it. It
 * does not say so where they come in one read with a part of the head: with
 * the end of one that no content follows, or, before 8.5, from a NUL on that
 * begins a line. What comes next then looks like the rest of the head. (Unseen
 * if it comes at once, because libcurl reads on before it calls on_progress.)
 */
static bool has_discarded(const struct fetcher *fetcher,
                          const struct handle *handle)
{
    curl_socket_t fd;

    return handle->discarded ||
           (!fetcher->tls &&
            (handle->divided || response_has_no_content(&handle->response)) &&
            curl_easy_getinfo(handle->easy, CURLINFO_ACTIVESOCKET, &fd) ==
                CURLE_OK &&
            fd != CURL_SOCKET_BAD && has_received_more(handle, fd));
}

/* Drops an easy handle that has connected often. When a kept connection turns
 * out to be closed, libcurl tries again on a new one, but it counts that for
 * as long as the handle lives (until curl/curl#19066) and fails at the sixth.
 * To reset the handle would do too, but that goes wrong without memory. */
static void count_connects(const struct fetcher *fetcher,
                           struct handle *handle)
{
    long connects;

    if (fetcher->keepalive &&
        curl_easy_getinfo(handle->easy, CURLINFO_NUM_CONNECTS, &connects) ==
            CURLE_OK)
        handle->connects += connects;
    if (handle->connects >= MAX_CONNECTS)
        drop_easy(handle);
}

/* Chooses the receive buffer for the next response by the size of this one's
 * body, in bytes: a large one is usually followed by another. */
static void choose_buffer(struct handle *handle, size_t size)
{
    bool large = size > SMALL_BUFFER;

    if (large != handle->large &&
        curl_easy_setopt(handle->easy, CURLOPT_BUFFERSIZE,
                         large ? LARGE_BUFFER : SMALL_BUFFER) == CURLE_OK)
        handle->large = large;
}

/* Returns whether libcurl's message about a failed read or write reports a
 * failure of TLS: an alert after the handshake, as TLS 1.3 sends it where a
 * client certificate is missing, or a record that does not decrypt. A TLS
 * connection that was cut off is reported by the same library. */
static bool is_tls_failure(const char *message)
{
    return strstr(message, "alert") != NULL ||
           (strstr(message, " routines:") != NULL && /* of SSL, or a cipher */
            strstr(message, "unexpected eof") == NULL);
}

/* Returns the reason for a transfer that failed with rc. */
static enum reason failure_reason(const struct handle *handle, CURLcode rc)
{
    curl_off_t first_byte = 0; /* microseconds; 0 while there is none */
    long os_errno = 0;

    if (curl_easy_getinfo(handle->easy, CURLINFO_STARTTRANSFER_TIME_T,
                          &first_byte) != CURLE_OK)
        first_byte = 0;
    switch (rc) {
    case CURLE_OUT_OF_MEMORY:
        /* Once the response has begun, this is what libcurl calls a line of
         * more than CURL_MAX_HTTP_HEADER bytes in its head. The one thing
         * that takes more memory then, the body, is on_data's. */
        return first_byte > 0 ? REASON_BAD_HTTP : REASON_NO_MEMORY;
    case CURLE_COULDNT_CONNECT:
        if (curl_easy_getinfo(handle->easy, CURLINFO_OS_ERRNO, &os_errno) !=
            CURLE_OK)
            return REASON_REFUSED;
        if (os_errno == EADDRNOTAVAIL)
            return REASON_NO_PORT;
        /* No attempt to connect has failed: there was no socket for it. */
        return os_errno != 0 ? REASON_REFUSED : REASON_FAILED;
    case CURLE_COULDNT_RESOLVE_HOST:
        return REASON_NOT_FOUND;
    case CURLE_OPERATION_TIMEDOUT:
        return REASON_TIMED_OUT;
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
        return REASON_CLOSED_EARLY;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
        /* A bad chunk, and some failures of TLS, come with this code, and only
         * the message tells. CURLINFO_OS_ERRNO may be of an earlier transfer,
         * and a TLS connection that was cut off sets none. */
        if (strstr(handle->message, "chunk") != NULL)
            return REASON_BAD_HTTP;
        return is_tls_failure(handle->message) ||
                       (handle->tls.certificate_wanted && first_byte == 0)
                   ? REASON_TLS_FAILED
                   : REASON_CLOSED_EARLY;
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9 */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING: /* a Transfer-Encoding but chunked */
        return REASON_BAD_HTTP;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return REASON_NOT_TRUSTED;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ENGINE_INITFAILED:
        return REASON_TLS_FAILED;
    default: /* such as a field that libcurl cannot store */
        return first_byte > 0 ? REASON_BAD_HTTP : REASON_FAILED;
    }
}

/* Returns how the transfer ended that libcurl ended with rc. */
static enum reason transfer_reason(const struct handle *handle, CURLcode rc)
{
    const struct response *response = &handle->response;
    enum reason reason = handle->reason;

    if (reason == REASON_NONE && rc != CURLE_OK)
        reason = failure_reason(handle, rc);
    else if (reason == REASON_NONE && !response_is_complete(response))
        /* The upstream's close cut it off, where libcurl does not mind: in
         * the head, or before the last byte of the chunks. */
        reason = REASON_CLOSED_EARLY;
    else if (reason == REASON_NONE && handle->divided && handle->discarded)
        reason = REASON_BAD_HTTP; /* perhaps not all of it */
    else if (reason == REASON_NONE && handle->openssl &&
             response_ends_by_close(response) && !handle->tls.close_notify)
        reason = REASON_CLOSED_EARLY;
    if ((reason == REASON_NONE || reason == REASON_TOO_LARGE) &&
        response->status / 100 != 2)
        reason = REASON_RETURNED;
    return reason;
}

/* One fetch on one handle; returns what fetch returns. */
static enum reason transfer(struct fetcher *fetcher, struct handle *handle,
                            const char *text, size_t len, struct buffer *body,
                            long *http_status)
{
    const size_t body_start = body->len;

    if (handle->easy != NULL)
        drop_if_unusable(fetcher, handle);
    if (handle->easy == NULL)
        handle->easy = make_easy(fetcher, handle);
    if (handle->easy == NULL)
        return REASON_NO_MEMORY;
    enum reason reason = set_target(fetcher, handle, text, len);
    if (reason != REASON_NONE)
        return reason;
    response_begin(&handle->response, body, fetcher->max_body);
    handle->in_line = handle->divided = handle->discarded = false;
    handle->tls.close_notify = false;
    handle->reason = REASON_NONE;

    CURLcode rc = curl_easy_perform(handle->easy);

    /* Without memory for the thread that resolves a name, libcurl 7.88 closes
     * descriptor 0. */
    if (rc == CURLE_OUT_OF_MEMORY || rc == CURLE_COULDNT_RESOLVE_HOST)
        streams_reserve();
    handle->discarded = rc == CURLE_OK && has_discarded(fetcher, handle);
    reason = transfer_reason(handle, rc);
    *http_status = handle->response.status;
    handle->tls.certificate_wanted = false; /* only asked in a handshake */
    choose_buffer(handle, body->len - body_start);
    if (reason != REASON_NONE)
        body->len = body_start;
    if (handle->response.surplus)
        distrust(fetcher);
    if (rc == CURLE_OK && response_allows_reuse(&handle->response) &&
        !handle->discarded &&
        (reason == REASON_NONE || reason == REASON_RETURNED))
        count_connects(fetcher, handle);
    else /* its connection is closed, or should be */
        drop_easy(handle);
    return reason;
}

/* Frees the request target, and what libcurl has for it. */
static void drop_target(struct handle *handle)
{
    free(handle->target.data);
    handle->target = (struct buffer){0};
    if (handle->easy != NULL &&
        (curl_easy_setopt(handle->easy, CURLOPT_REQUEST_TARGET, NULL) !=
             CURLE_OK ||
         curl_easy_setopt(handle->easy, CURLOPT_UPLOAD_BUFFERSIZE,
                          UPLOAD_BUFFER) != CURLE_OK))
        return; /* it keeps them until the next target replaces them */
}

enum reason fetch(struct fetcher *fetcher, unsigned *handle, const char *text,
                  size_t len, struct buffer *body, long *http_status)
{
    *http_status = 0;
    *handle = slots_acquire(&fetcher->slots, *handle);
    struct handle *acquired = &fetcher->handles[*handle];
    enum reason reason =
        transfer(fetcher, acquired, text, len, body, http_status);
    if (acquired->target.size > MAX_TARGET_KEPT)
        drop_target(acquired);
    slots_release(&fetcher->slots, *handle);
    return reason;
}

static const char out_of_memory[] = "out of memory";

/* Returns what is wrong with a URL that libcurl could parse, or NULL. */
static const char *check_url(CURLU *url)
{
    const char *error = NULL;
    char *scheme = NULL, *host = NULL;

    if (curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
        error = out_of_memory;
    else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        error = "neither http:// nor https://";
    else if (curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK)
        error = out_of_memory; /* http has a host, file has none */
    /* What libcurl makes of such a name depends on the locale. */
    for (const char *at = host; at != NULL && *at != '\0'; at++)
        if ((unsigned char)*at > 127)
            error = "the host name is not ASCII: use its xn-- form";
    curl_free(host);
    curl_free(scheme);
    return error;
}

/* Makes the request target of the URL's path and query, up to the text.
 * Returns false when memory is short. */
static bool make_target(struct fetcher *fetcher)
{
    char *path = NULL, *query = NULL;
    struct buffer target = {0};

    CURLUcode rc = curl_url_get(fetcher->url, CURLUPART_PATH, &path, 0);
    bool ok = rc == CURLUE_OK && buffer_append(&target, path, strlen(path)) &&
              buffer_append(&target, "?", 1);
    rc = curl_url_get(fetcher->url, CURLUPART_QUERY, &query, 0);
    if (rc != CURLUE_NO_QUERY)
        ok = ok && rc == CURLUE_OK &&
             buffer_append(&target, query, strlen(query)) &&
             buffer_append(&target, "&", 1);
    ok = ok && buffer_append(&target, "text=", sizeof "text=");
    curl_free(query);
    curl_free(path);
    fetcher->target = target.data;
    return ok;
}

/* Makes the URL without user and password. Returns false when memory is
 * short. */
static bool make_shown(struct fetcher *fetcher)
{
    CURLU *url = curl_url_dup(fetcher->url);
    bool ok =
        url != NULL &&
        curl_url_set(url, CURLUPART_USER, NULL, 0) == CURLUE_OK &&
        curl_url_set(url, CURLUPART_PASSWORD, NULL, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_URL, &fetcher->shown, 0) == CURLUE_OK;

    curl_url_cleanup(url);
    return ok;
}

/* Sets all that follows from the URL. Returns NULL, or what is wrong. */
static const char *set_url(struct fetcher *fetcher, const char *text)
{
    fetcher->url = curl_url();
    if (fetcher->url == NULL)
        return out_of_memory;
    CURLUcode rc = curl_url_set(fetcher->url, CURLUPART_URL, text, 0);
    if (rc != CURLUE_OK)
        return rc == CURLUE_OUT_OF_MEMORY ? out_of_memory
                                          : curl_url_strerror(rc);
    const char *error = check_url(fetcher->url);
    if (error == NULL && !(make_target(fetcher) && make_shown(fetcher)))
        error = out_of_memory;
    fetcher->tls = error == NULL && strncmp(fetcher->shown, "https:", 6) == 0;
    fetcher->openssl = fetcher->tls && tls_is_openssl();
    if (fetcher->openssl && !tls_prepare())
        error = out_of_memory;
    return error;
}

struct fetcher *fetcher_create(const struct fetch_options *options,
                               const char **error)
{
    if (tls_is_openssl())
        tls_watch_memory();
    *error = "libcurl does not start";
    if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, free, realloc,
                             strdup, allocate_zeroed) != CURLE_OK) {
        errno = ENOMEM;
        return NULL;
    }

    *error = out_of_memory;
    struct fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (fetcher == NULL) {
        curl_global_cleanup();
        errno = ENOMEM;
        return NULL;
    }
    fetcher->cacert = options->cacert;
    fetcher->timeout_ms = options->timeout_ms;
    fetcher->connect_timeout_ms = options->connect_timeout_ms;
    fetcher->max_body = options->max_body;
    fetcher->keepalive = options->keepalive;
    fetcher->handle_count = options->max_handles;
    fetcher->handles = calloc(options->max_handles, sizeof *fetcher->handles);
    bool ok = slots_init(&fetcher->slots, options->max_handles) &&
              fetcher->handles != NULL;
    if (ok && !options->keepalive) {
        fetcher->headers = curl_slist_append(NULL, "Connection: close");
        ok = fetcher->headers != NULL;
    }
    if (ok)
        *error = set_url(fetcher, options->url);
    if (*error == NULL)
        return fetcher;
    fetcher_destroy(fetcher);
    errno = *error == out_of_memory ? ENOMEM : EINVAL;
    return NULL;
}

void fetcher_destroy(struct fetcher *fetcher)
{
    if (fetcher == NULL)
        return;
    for (unsigned i = 0; fetcher->handles != NULL && i < fetcher->handle_count;
         i++) {
        curl_easy_cleanup(fetcher->handles[i].easy);
        free(fetcher->handles[i].target.data);
    }
    free(fetcher->handles);
    slots_free(&fetcher->slots);
    curl_slist_free_all(fetcher->headers);
    free(fetcher->target);
    curl_free(fetcher->shown);
    curl_url_cleanup(fetcher->url);
    free(fetcher);
    curl_global_cleanup();
}

const char *fetcher_url(const struct fetcher *fetcher)
{
    return fetcher->shown;
}

const char *fetch_library(void)
{
    return curl_version();
}
