/*
 * fetch.c - one blocking HTTP GET over libcurl, and the pool of its handles
 *
 * A libcurl easy handle keeps its upstream connection open and may be used by
 * one thread at a time. Handles are lent for one fetch only, so a connection
 * that waits for its client holds none. The one given back last is lent
 * first: few connections stay busy and warm.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>

/* An answer whose headers are longer, trailers included, is not HTTP. */
#define MAX_HEADERS (64 * 1024)

/* A longer request target is refused: libcurl takes no more than 1 MiB for the
 * whole request, and calls the rest a lack of memory. */
#define MAX_TARGET (1024 * 1024 - 16 * 1024)

/* A request target longer than this is not kept from one fetch to the next. */
#define MAX_TARGET_KEPT 4096

/* An easy handle that has connected so often is dropped, see there. */
#define MAX_CONNECTS 5

/* What libcurl takes for a request over TLS, unless it is told of more. */
#define UPLOAD_BUFFER 65536L /* bytes */

/* A connection that was kept for longer is looked at before it is used. */
#define IDLE_MS 10

/* A place in the pool. Its easy handle is made when it is first used. */
struct handle {
    SLIST_ENTRY(handle) next;
    CURL *easy;
    long connects;                 /* that it has made */
    long long last_used;           /* in ms, on a clock that nobody sets */
    struct buffer target;          /* of the request: path, query and a NUL */
    char message[CURL_ERROR_SIZE]; /* libcurl's, of a transfer that failed */

    /* The transfer that is running. */
    struct buffer *body;
    size_t body_start;         /* length of *body before the transfer */
    size_t max_body;           /* bytes */
    size_t headers;            /* bytes */
    long long length;          /* the Content-Length, or -1 */
    bool answered;             /* the head of the final answer is complete */
    enum fetch_status stopped; /* why a callback ended it, or FETCH_OK */
};

/* A thread that waits for a handle; it lives on that thread's stack. */
struct waiter {
    STAILQ_ENTRY(waiter) next;
    pthread_cond_t lent;
    struct handle *handle;
};

struct fetcher {
    CURLU *url;   /* only read, by all handles */
    char *target; /* of a request, up to the text */
    const char *cacert;
    long timeout_ms;
    long connect_timeout_ms;
    bool keepalive;
    struct curl_slist *headers;
    struct handle *handles;
    unsigned handle_count;

    pthread_mutex_t mutex; /* guards the two lists, never held across I/O */
    SLIST_HEAD(, handle) idle;
    STAILQ_HEAD(, waiter) waiting;
};

bool buffer_append(struct buffer *buffer, const void *data, size_t len)
{
    if (len == 0)
        return true;
    if (len > buffer->size - buffer->len) {
        size_t size = buffer->size > 0 ? buffer->size : 64;
        while (size - buffer->len < len)
            size *= 2;
        char *grown = realloc(buffer->data, size);
        if (grown == NULL)
            return false;
        buffer->data = grown;
        buffer->size = size;
    }
    memcpy(buffer->data + buffer->len, data, len);
    buffer->len += len;
    return true;
}

/* libcurl's write callback: takes the body, up to the limit. */
static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct handle *handle = arg;
    size_t len = size * count;

    if (len > handle->max_body - (handle->body->len - handle->body_start)) {
        handle->stopped = FETCH_TOO_LARGE;
        return CURL_WRITEFUNC_ERROR;
    }
    if (!buffer_append(handle->body, data, len)) {
        handle->stopped = FETCH_NO_MEMORY;
        return CURL_WRITEFUNC_ERROR;
    }
    return len;
}

/* Finds the value of a header in its line, if it is that header's. */
static const char *header_value(const char *line, size_t len, const char *name)
{
    size_t name_len = strlen(name);
    if (len <= name_len || strncasecmp(line, name, name_len) != 0)
        return NULL;
    return line + name_len + strspn(line + name_len, " \t");
}

/* Whether libcurl will see the end of the body where the upstream meant it:
 * it unpacks codings that nobody asked for, and of two lengths takes one. */
static bool takes_framing(struct handle *handle, const char *line, size_t len)
{
    const char *coding = header_value(line, len, "Transfer-Encoding:");
    if (coding != NULL)
        return strncasecmp(coding, "chunked", 7) == 0 &&
               strchr("\r\n", coding[7 + strspn(coding + 7, " \t")]) != NULL;
    const char *length = header_value(line, len, "Content-Length:");
    if (length == NULL)
        return true;
    long long number = strtoll(length, NULL, 10);
    bool same = handle->length == -1 || handle->length == number;
    handle->length = number;
    return same;
}

/* libcurl's header callback: bounds what an upstream can make it store, and
 * notes the empty line that ends the head, for libcurl takes a head that the
 * upstream's close cut off for an answer without a body. */
static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
    struct handle *handle = arg;
    size_t len = size * count;
    long http_status;

    handle->headers += len;
    /* A line ends in LF; a head that was cut off may not. */
    if (handle->headers > MAX_HEADERS || (len > 0 && data[len - 1] == '\n' &&
                                          !takes_framing(handle, data, len))) {
        handle->stopped = FETCH_BAD_HTTP;
        return CURL_WRITEFUNC_ERROR;
    }
    if (len > 0 && (data[0] == '\r' || data[0] == '\n') &&
        curl_easy_getinfo(handle->easy, CURLINFO_RESPONSE_CODE,
                          &http_status) == CURLE_OK &&
        http_status >= 200) /* below, another head follows */
        handle->answered = true;
    return len;
}

/* Makes an easy handle, with all that stays the same from fetch to fetch. */
static CURL *make_easy(const struct fetcher *fetcher, struct handle *handle)
{
    CURL *easy = curl_easy_init();
    CURLcode rc = easy != NULL ? CURLE_OK : CURLE_OUT_OF_MEMORY;

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
    /* What on_body would refuse, refused before it comes. */
    SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)handle->max_body);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, handle);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, handle);
    SET(CURLOPT_ERRORBUFFER, handle->message);
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

/* Borrows a handle; waits in line for one when all are lent. */
static struct handle *take_handle(struct fetcher *fetcher)
{
    pthread_mutex_lock(&fetcher->mutex);
    struct handle *handle = SLIST_FIRST(&fetcher->idle);
    if (handle != NULL) {
        SLIST_REMOVE_HEAD(&fetcher->idle, next);
    } else {
        struct waiter self = {.lent = PTHREAD_COND_INITIALIZER};
        STAILQ_INSERT_TAIL(&fetcher->waiting, &self, next);
        while (self.handle == NULL)
            pthread_cond_wait(&self.lent, &fetcher->mutex);
        handle = self.handle;
        pthread_cond_destroy(&self.lent);
    }
    pthread_mutex_unlock(&fetcher->mutex);
    return handle;
}

/* Gives a handle back, straight to the thread that has waited longest: if it
 * only became idle, a newcomer could snatch it before that one woke up. */
static void give_handle(struct fetcher *fetcher, struct handle *handle)
{
    pthread_mutex_lock(&fetcher->mutex);
    struct waiter *first = STAILQ_FIRST(&fetcher->waiting);
    if (first != NULL) {
        STAILQ_REMOVE_HEAD(&fetcher->waiting, next);
        first->handle = handle;
        pthread_cond_signal(&first->lent);
    } else {
        SLIST_INSERT_HEAD(&fetcher->idle, handle, next);
    }
    pthread_mutex_unlock(&fetcher->mutex);
}

/* Drops an easy handle and its connection; the next fetch makes another. */
static void drop_easy(struct handle *handle)
{
    curl_easy_cleanup(handle->easy);
    handle->easy = NULL;
    handle->connects = 0;
}

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Drops the easy handle if something has come on its kept connection: an
 * answer that nobody asked for, or the notice that goes before a close.
 * libcurl would take it for the answer to the next request. Back to back, the
 * look is not worth its system call: such an answer is hardly there yet. */
static void drop_spoilt(struct handle *handle)
{
    curl_socket_t fd;
    char byte;

    if (now_ms() - handle->last_used >= IDLE_MS &&
        curl_easy_getinfo(handle->easy, CURLINFO_ACTIVESOCKET, &fd) ==
            CURLE_OK &&
        fd != CURL_SOCKET_BAD &&
        recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0)
        drop_easy(handle);
}

/* Writes the request target for this text into the handle. */
static enum fetch_status set_target(const struct fetcher *fetcher,
                                    struct handle *handle, const char *text,
                                    size_t len)
{
    struct buffer *target = &handle->target;

    target->len = 0;
    if (!buffer_append(target, fetcher->target, strlen(fetcher->target)))
        return FETCH_NO_MEMORY;
    if (len > 0) { /* curl_easy_escape takes 0 to mean strlen */
        char *escaped = curl_easy_escape(handle->easy, text, (int)len);
        bool ok =
            escaped != NULL && buffer_append(target, escaped, strlen(escaped));
        curl_free(escaped);
        if (!ok)
            return FETCH_NO_MEMORY;
    }
    if (target->len > MAX_TARGET)
        return FETCH_LINE_TOO_LONG;
    if (!buffer_append(target, "", 1) ||
        curl_easy_setopt(handle->easy, CURLOPT_REQUEST_TARGET, target->data) !=
            CURLE_OK)
        return FETCH_NO_MEMORY;
    /* Over TLS, libcurl 7.88 never sends what it cannot send in two pieces of
     * this buffer, so it has to hold the whole request. */
    if (target->len > MAX_TARGET_KEPT &&
        curl_easy_setopt(handle->easy, CURLOPT_UPLOAD_BUFFERSIZE,
                         (long)(target->len + MAX_HEADERS)) != CURLE_OK)
        return FETCH_NO_MEMORY;
    return FETCH_OK;
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

/* Says which status a transfer that failed with rc ends in. */
static enum fetch_status failure_status(const struct handle *handle,
                                        CURLcode rc)
{
    curl_off_t first_byte = 0; /* microseconds; 0 while there is none */

    switch (rc) {
    case CURLE_OUT_OF_MEMORY:
        /* Once the answer has begun, this is what libcurl calls a line of
         * more than CURL_MAX_HTTP_HEADER bytes in its head. The one thing
         * that takes more memory then, the body, is on_body's. */
        if (curl_easy_getinfo(handle->easy, CURLINFO_STARTTRANSFER_TIME_T,
                              &first_byte) == CURLE_OK &&
            first_byte > 0)
            return FETCH_BAD_HTTP;
        return FETCH_NO_MEMORY;
    case CURLE_COULDNT_CONNECT:
        return FETCH_REFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
        return FETCH_NOT_FOUND;
    case CURLE_OPERATION_TIMEDOUT:
        return FETCH_TIMED_OUT;
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_SEND_ERROR:
        return FETCH_CLOSED_EARLY;
    case CURLE_RECV_ERROR:
        /* A bad chunk comes with this code too, and only the message tells.
         * CURLINFO_OS_ERRNO may be of an earlier transfer, and a TLS
         * connection that was cut off sets none. */
        return strstr(handle->message, "chunk") != NULL ? FETCH_BAD_HTTP
                                                        : FETCH_CLOSED_EARLY;
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9 */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING: /* a Transfer-Encoding but chunked */
        return FETCH_BAD_HTTP;
    case CURLE_FILESIZE_EXCEEDED:
        return FETCH_TOO_LARGE;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return FETCH_NOT_TRUSTED;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ENGINE_INITFAILED:
        return FETCH_TLS_FAILED;
    default:
        return FETCH_FAILED;
    }
}

/* One fetch on one handle; what it returns is what fetch returns. */
static enum fetch_status transfer(const struct fetcher *fetcher,
                                  struct handle *handle, const char *text,
                                  size_t len, struct buffer *body,
                                  long *http_status)
{
    if (handle->easy != NULL)
        drop_spoilt(handle);
    if (handle->easy == NULL) {
        handle->easy = make_easy(fetcher, handle);
        if (handle->easy == NULL)
            return FETCH_NO_MEMORY;
    }
    enum fetch_status status = set_target(fetcher, handle, text, len);
    if (status != FETCH_OK)
        return status;
    handle->body = body;
    handle->body_start = body->len;
    handle->headers = 0;
    handle->length = -1;
    handle->answered = false;
    handle->stopped = FETCH_OK;

    CURLcode rc = curl_easy_perform(handle->easy);

    if (handle->stopped != FETCH_OK)
        status = handle->stopped;
    else if (rc != CURLE_OK)
        status = failure_status(handle, rc);
    else if (!handle->answered)
        status = FETCH_CLOSED_EARLY;
    if (curl_easy_getinfo(handle->easy, CURLINFO_RESPONSE_CODE, http_status) !=
        CURLE_OK)
        *http_status = 0;
    if ((status == FETCH_OK || status == FETCH_TOO_LARGE) &&
        *http_status / 100 != 2)
        status = FETCH_RETURNED;
    if (status != FETCH_OK)
        body->len = handle->body_start;
    if (status == FETCH_OK || status == FETCH_RETURNED)
        count_connects(fetcher, handle);
    else /* its connection is closed, or should be */
        drop_easy(handle);
    return status;
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

enum fetch_status fetch(struct fetcher *fetcher, const char *text, size_t len,
                        struct buffer *body, long *http_status)
{
    *http_status = 0;
    struct handle *handle = take_handle(fetcher);
    enum fetch_status status =
        transfer(fetcher, handle, text, len, body, http_status);
    if (handle->target.size > MAX_TARGET_KEPT)
        drop_target(handle);
    /* After an answer that may have no body, it is looked at in any case. */
    handle->last_used = *http_status == 200 ? now_ms() : 0;
    give_handle(fetcher, handle);
    return status;
}

/* Parses the URL and makes the target, up to the text, of its path and query.
 * Returns NULL, or what is wrong with it. */
static const char *set_url(struct fetcher *fetcher, const char *text)
{
    const char *error = NULL;
    char *scheme = NULL, *path = NULL, *query = NULL;
    struct buffer target = {0};
    CURLU *url = curl_url();
    if (url == NULL)
        return "out of memory";
    fetcher->url = url;

    CURLUcode rc = curl_url_set(url, CURLUPART_URL, text, 0);
    if (rc == CURLUE_OK)
        rc = curl_url_get(url, CURLUPART_SCHEME, &scheme, 0);
    if (rc == CURLUE_OK)
        rc = curl_url_get(url, CURLUPART_PATH, &path, 0);
    if (rc == CURLUE_OK) {
        rc = curl_url_get(url, CURLUPART_QUERY, &query, 0);
        if (rc == CURLUE_NO_QUERY)
            rc = CURLUE_OK;
    }
    if (rc != CURLUE_OK)
        error = curl_url_strerror(rc);
    else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        error = "neither http:// nor https://";
    else if (!buffer_append(&target, path, strlen(path)) ||
             !buffer_append(&target, "?", 1) ||
             (query != NULL &&
              (!buffer_append(&target, query, strlen(query)) ||
               !buffer_append(&target, "&", 1))) ||
             !buffer_append(&target, "text=", sizeof "text="))
        error = "out of memory";
    fetcher->target = target.data;
    curl_free(query);
    curl_free(path);
    curl_free(scheme);
    return error;
}

struct fetcher *fetcher_create(const struct fetch_options *options,
                               const char **error)
{
    *error = "libcurl does not start";
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return NULL;

    *error = "out of memory";
    struct fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (fetcher == NULL) {
        curl_global_cleanup();
        return NULL;
    }
    fetcher->cacert = options->cacert;
    fetcher->timeout_ms = options->timeout_ms;
    fetcher->connect_timeout_ms = options->connect_timeout_ms;
    fetcher->keepalive = options->keepalive;
    fetcher->handle_count = options->max_handles;
    pthread_mutex_init(&fetcher->mutex, NULL);
    SLIST_INIT(&fetcher->idle);
    STAILQ_INIT(&fetcher->waiting);

    fetcher->handles = calloc(options->max_handles, sizeof *fetcher->handles);
    if (fetcher->handles == NULL)
        goto fail;
    for (unsigned i = 0; i < options->max_handles; i++) {
        fetcher->handles[i].max_body = options->max_body;
        SLIST_INSERT_HEAD(&fetcher->idle, &fetcher->handles[i], next);
    }
    if (!options->keepalive) {
        fetcher->headers = curl_slist_append(NULL, "Connection: close");
        if (fetcher->headers == NULL)
            goto fail;
    }
    *error = set_url(fetcher, options->url);
    if (*error == NULL)
        return fetcher;
fail:
    fetcher_destroy(fetcher);
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
    pthread_mutex_destroy(&fetcher->mutex);
    curl_slist_free_all(fetcher->headers);
    free(fetcher->target);
    curl_url_cleanup(fetcher->url);
    free(fetcher);
    curl_global_cleanup();
}

const char *fetch_reason(enum fetch_status status)
{
    static const char *const reasons[FETCH_STATUSES] = {
        [FETCH_OK] = "ok",
        [FETCH_LINE_TOO_LONG] = "line too long",
        [FETCH_NO_MEMORY] = "out of memory",
        [FETCH_REFUSED] = "upstream refused",
        [FETCH_NOT_FOUND] = "upstream not found",
        [FETCH_TIMED_OUT] = "upstream timed out",
        [FETCH_CLOSED_EARLY] = "upstream closed early",
        [FETCH_BAD_HTTP] = "upstream sent bad HTTP",
        [FETCH_TOO_LARGE] = "upstream body too large",
        [FETCH_RETURNED] = "upstream returned",
        [FETCH_NOT_TRUSTED] = "upstream not trusted",
        [FETCH_TLS_FAILED] = "upstream TLS failed",
        [FETCH_FAILED] = "upstream failed",
    };
    return reasons[status];
}

const char *fetch_library(void)
{
    return curl_version();
}
