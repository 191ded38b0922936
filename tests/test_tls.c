/*
 * Unit tests of fetch.c and lib/tls.c over TLS 1.2 and 1.3: what has come in
 * one record with a response, and how a connection may end. The upstream is a
 * thread of the same process, as openssl s_server cannot misbehave like that.
 *
 * SPDX-License-Identifier: MIT
 */
#include "allocations.h"
#include "fixture.h"

#include <stdlib.h>

#define malloc failing_malloc
#define realloc failing_realloc
#define calloc failing_calloc
#define strdup failing_strdup
#include "../fetch.c"
#undef strdup
#undef calloc
#undef realloc
#undef malloc
#include "../lib/tls.c"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

#define OK "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK "Transfer-Encoding: chunked\r\n\r\n"
#define UNASKED OK "Content-Length: 3\r\n\r\n999"

#define X32 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X128 X32 X32 X32 X32

/* 1,024 bytes */
#define FILL_204                                                              \
    "HTTP/1.1 204 No Content\r\n"                                             \
    "X: " X128 X128 X128 X128 X128 X128 X128 X32 X32 X32 "\r\n\r\n"

/* Each test is run by both. */
static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

/* How many lines were logged. */
static atomic_int logged_lines;

void log_line(const char *format, ...)
{
    (void)format;
    atomic_fetch_add(&logged_lines, 1);
}

/*
 * The upstream
 */

/* A response whose body is a letter, so many times. */
struct tls_answer {
    const char *head;
    size_t size; /* of the body, in bytes */
    const char *tail;
};

/* Where an unasked response follows each answer. */
enum unasked { NOWHERE, SAME_RECORD, NEXT_RECORD };

/* What ends the connection after an answer. */
enum end { KEPT, CLOSE_NOTIFY, CUT_OFF, BAD_RECORD };

struct tls_upstream {
    SSL_CTX *context;
    int listener;
    int port;
    pthread_t thread;
    atomic_int connections;
    atomic_int requests;

    /* What it does. */
    struct tls_answer answer;
    bool wants_certificate;
    bool resets;    /* who shows none, which may overtake the alert */
    bool asks_once; /* for one; resets the next connection */
    enum unasked unasked;
    enum end ends[2]; /* by turns */
};

/* Returns the letter that the n-th body is made of, counted from 1. */
static char letter(int n)
{
    return (char)('a' + n - 1);
}

/* Reads a request up to the empty line. */
static bool read_request(SSL *ssl)
{
    char request[4096];
    int len = 0;

    do {
        int n = SSL_read(ssl, request + len, (int)sizeof request - 1 - len);
        if (n <= 0)
            return false;
        len += n;
        request[len] = '\0';
    } while (strstr(request, "\r\n\r\n") == NULL);
    return true;
}

/* Writes the n-th answer, and maybe what nobody asked for. */
static bool write_answer(const struct tls_upstream *tls, SSL *ssl, int n)
{
    static char text[17000]; /* one record holds 16384 */
    const struct tls_answer *answer = &tls->answer;
    const int on = 1, off = 0;
    size_t len = strlen(answer->head);

    if (tls->asks_once && n > 1) /* a reset, since it is closed at once */
        return setsockopt(SSL_get_fd(ssl), SOL_SOCKET, SO_LINGER,
                          &(struct linger){.l_onoff = 1},
                          sizeof(struct linger)) == 0;
    memcpy(text, answer->head, len);
    memset(text + len, letter(n), answer->size);
    len += answer->size;
    int more = snprintf(text + len, sizeof text - len, "%s%s", answer->tail,
                        tls->unasked == SAME_RECORD ? UNASKED : "");
    len += (size_t)more;
    if (tls->unasked != NEXT_RECORD)
        return len == 0 || SSL_write(ssl, text, (int)len) > 0;
    /* Both records come in one segment. */
    setsockopt(SSL_get_fd(ssl), IPPROTO_TCP, TCP_CORK, &on, sizeof on);
    bool written = SSL_write(ssl, text, (int)len) > 0 &&
                   SSL_write(ssl, UNASKED, (int)strlen(UNASKED)) > 0;
    setsockopt(SSL_get_fd(ssl), IPPROTO_TCP, TCP_CORK, &off, sizeof off);
    return written;
}

/* Answers requests until one of the two ends the connection. */
static void converse(struct tls_upstream *tls, SSL *ssl)
{
    static const char bad[5 + 32] = {0x17, 3, 3, 0, 32}; /* does not decrypt */
    enum end end = KEPT;

    while (end == KEPT && read_request(ssl)) {
        int n = atomic_fetch_add(&tls->requests, 1);
        if (!write_answer(tls, ssl, n + 1))
            return;
        end = tls->ends[n % COUNT(tls->ends)];
    }
    if (end == CLOSE_NOTIFY)
        SSL_shutdown(ssl);
    if (end == BAD_RECORD &&
        send(SSL_get_fd(ssl), bad, sizeof bad, MSG_NOSIGNAL) < 0)
        return; /* the client is gone */
}

static void *tls_thread(void *arg)
{
    struct tls_upstream *tls = arg;
    char rest[256];

    for (;;) {
        int fd = accept(tls->listener, NULL, NULL);
        if (fd < 0)
            return NULL; /* the listener was shut down */
        SSL *ssl = SSL_new(tls->context);
        if (atomic_fetch_add(&tls->connections, 1) == 0 && tls->asks_once)
            SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
        if (ssl != NULL && SSL_set_fd(ssl, fd) == 1 && SSL_accept(ssl) == 1)
            converse(tls, ssl);
        else if (tls->resets)
            setsockopt(fd, SOL_SOCKET, SO_LINGER,
                       &(struct linger){.l_onoff = 1}, sizeof(struct linger));
        if (tls->resets) {
            SSL_free(ssl);
            close(fd);
            continue;
        }
        /* A close with input unread would be a reset. */
        shutdown(fd, SHUT_WR);
        while (read(fd, rest, sizeof rest) > 0)
            continue;
        SSL_free(ssl);
        close(fd);
    }
}

static struct certificate certificate; /* the upstream's, and trusted */

static void tls_start(struct tls_upstream *tls, int version)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());

    ck_assert_ptr_nonnull(context);
    ck_assert_int_eq(SSL_CTX_set_min_proto_version(context, version), 1);
    ck_assert_int_eq(SSL_CTX_set_max_proto_version(context, version), 1);
    ck_assert_int_eq(SSL_CTX_use_certificate_file(context, certificate.path,
                                                  SSL_FILETYPE_PEM),
                     1);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey_file(context, certificate.key,
                                                 SSL_FILETYPE_PEM),
                     1);
    if (tls->wants_certificate)
        SSL_CTX_set_verify(
            context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    tls->context = context;
    tls->listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_ge(tls->listener, 0);
    ck_assert_int_eq(bind(tls->listener, (struct sockaddr *)&address, len), 0);
    ck_assert_int_eq(
        getsockname(tls->listener, (struct sockaddr *)&address, &len), 0);
    tls->port = ntohs(address.sin_port);
    ck_assert_int_eq(listen(tls->listener, 16), 0);
    ck_assert_int_eq(pthread_create(&tls->thread, NULL, tls_thread, tls), 0);
}

/* The fetcher must be gone, and its connection with it. */
static void tls_stop(struct tls_upstream *tls)
{
    shutdown(tls->listener, SHUT_RDWR);
    ck_assert_int_eq(pthread_join(tls->thread, NULL), 0);
    close(tls->listener);
    SSL_CTX_free(tls->context);
}

/*
 * The client
 */

static void make_certificate(void)
{
    signal(SIGPIPE, SIG_IGN); /* as threadecho has it; SSL_write raises it */
    certificate = certificate_make();
}

static void remove_certificate(void)
{
    certificate_remove(&certificate);
}

static struct fetcher *open_upstream(const struct tls_upstream *tls)
{
    char url[64];
    const char *error = NULL;

    snprintf(url, sizeof url, "https://127.0.0.1:%d/", tls->port);
    struct fetch_options options = {.url = url,
                                    .cacert = certificate.path,
                                    .timeout_ms = PATIENCE_MS,
                                    .connect_timeout_ms = PATIENCE_MS,
                                    .max_body = 1048576,
                                    .max_handles = 1,
                                    .keepalive = true};
    struct fetcher *fetcher = fetcher_create(&options, &error);
    ck_assert_msg(fetcher != NULL, "%s", error);
    return fetcher;
}

/* Fetches, and expects this end and body: the letter, so many times. */
static void expect(struct fetcher *fetcher, enum reason reason,
                   long http_status, char byte, size_t size)
{
    struct buffer body = {0};
    unsigned handle = 0;
    long got_http_status;
    enum reason got = fetch(fetcher, &handle, "x", 1, &body, &got_http_status);

    ck_assert_msg(got == reason, "%s, not %s", reason_text(got),
                  reason_text(reason));
    ck_assert_int_eq(got_http_status, http_status);
    ck_assert_uint_eq(body.len, size);
    for (size_t i = 0; i < size; i++)
        ck_assert_msg(body.data[i] == byte, "byte %zu is %c, not %c", i,
                      body.data[i], byte);
    free(body.data);
}

/*
 * What nobody asked for
 */

/* libcurl reads 1,024 bytes at first, and then 16 KiB. What has come in the
 * same record is behind that in OpenSSL, where the socket does not show it. */
static const struct {
    long http_status;
    struct tls_answer answer;
    bool unseen; /* libcurl reads the second as well, and drops it */
} answers[] = {
    {200, {OK "Content-Length: 3\r\n\r\n", 3, ""}, true},
    {200, {OK "Content-Length: 984\r\n\r\n", 984, ""}, false}, /* fills it */
    {200, {OK "Content-Length: 1024\r\n\r\n", 1024, ""}, false},
    {200, {OK "Content-Length: 2000\r\n\r\n", 2000, ""}, false},
    {200, {OK "Content-Length: 16000\r\n\r\n", 16000, ""}, false},
    {200, {CHUNKED "3\r\n", 3, "\r\n0\r\n\r\n"}, false},
    {200, {CHUNKED "3c5\r\n", 965, "\r\n0\r\n\r\n"}, false}, /* fills it */
    {200, {CHUNKED "7d0\r\n", 2000, "\r\n0\r\nX: y\r\n\r\n"}, false},
    {200, {OK "Content-Length: 0\r\n\r\n", 0, ""}, true},
    {204, {"HTTP/1.1 204 No Content\r\n\r\n", 0, ""}, true},
    {204, {FILL_204, 0, ""}, false},
};

/* Each line has its own answer, on the connection that was kept if nothing
 * else came. */
static void expect_own_answers(int row, enum unasked unasked)
{
    struct tls_upstream tls = {.answer = answers[row / 2].answer,
                               .unasked = unasked};
    bool unseen = unasked == SAME_RECORD && answers[row / 2].unseen;

    tls_start(&tls, versions[row % 2]);
    struct fetcher *fetcher = open_upstream(&tls);
    for (int n = 1; n <= 4; n++) {
        expect(fetcher, REASON_NONE, answers[row / 2].http_status, letter(n),
               answers[row / 2].answer.size);
        int connections = atomic_load(&tls.connections);
        if (!unseen)
            ck_assert_int_eq(connections, unasked == NOWHERE ? 1 : n);
    }
    int lines = atomic_load(&logged_lines);
    if (!unseen) /* a record that comes later could be a ticket */
        ck_assert_int_eq(lines, unasked == SAME_RECORD ? 1 : 0);
    fetcher_destroy(fetcher);
    tls_stop(&tls);
}

START_TEST(test_connection_is_kept_after_a_response_alone)
{
    expect_own_answers(_i, NOWHERE);
}
END_TEST

START_TEST(test_second_response_in_a_record_is_nobodys_answer)
{
    expect_own_answers(_i, SAME_RECORD);
}
END_TEST

START_TEST(test_second_response_in_the_next_record_is_nobodys_answer)
{
    expect_own_answers(_i, NEXT_RECORD);
}
END_TEST

/*
 * How a connection ends
 */

static const struct {
    struct tls_answer answer;
    long http_status;
    enum reason noticed; /* it ended by close_notify */
    enum reason cut_off; /* by a close of TCP alone */
} ends[] = {
    /* Only the close says that this is all. */
    {{OK "\r\n", 3, ""}, 200, REASON_NONE, REASON_CLOSED_EARLY},
    {{OK "\r\n", 0, ""}, 200, REASON_NONE, REASON_CLOSED_EARLY},
    {{OK "\r\n", 1022, ""}, 200, REASON_NONE, REASON_CLOSED_EARLY},
    {{OK "\r\n", 16000, ""}, 200, REASON_NONE, REASON_CLOSED_EARLY},
    {{"HTTP/1.0 200 OK\r\n\r\n", 3, ""},
     200,
     REASON_NONE,
     REASON_CLOSED_EARLY},
    {{"HTTP/1.1 404 No\r\n\r\n", 3, ""},
     404,
     REASON_RETURNED,
     REASON_CLOSED_EARLY},
    /* This is all, or not, whatever the close says. */
    {{OK "Content-Length: 3\r\n\r\n", 3, ""}, 200, REASON_NONE, REASON_NONE},
    {{CHUNKED "3\r\n", 3, "\r\n0\r\n\r\n"}, 200, REASON_NONE, REASON_NONE},
    {{OK "Content-Length: 5\r\n\r\n", 3, ""},
     200,
     REASON_CLOSED_EARLY,
     REASON_CLOSED_EARLY},
    {{CHUNKED "3\r\n", 3, "\r\n"},
     200,
     REASON_CLOSED_EARLY,
     REASON_CLOSED_EARLY},
    {{OK "X: y", 0, ""}, 200, REASON_CLOSED_EARLY, REASON_CLOSED_EARLY},
    {{"", 0, ""}, 0, REASON_CLOSED_EARLY, REASON_CLOSED_EARLY},
};

/* By turns on one handle: no end may be taken for that of the next. */
START_TEST(test_body_without_a_length_ends_by_the_notice_of_the_close)
{
    struct tls_upstream tls = {.answer = ends[_i / 2].answer,
                               .ends = {CLOSE_NOTIFY, CUT_OFF}};
    tls_start(&tls, versions[_i % 2]);
    struct fetcher *fetcher = open_upstream(&tls);
    for (int n = 1; n <= 4; n++) {
        enum reason reason =
            n % 2 == 1 ? ends[_i / 2].noticed : ends[_i / 2].cut_off;
        expect(fetcher, reason, ends[_i / 2].http_status, letter(n),
               reason == REASON_NONE ? ends[_i / 2].answer.size : 0);
    }
    fetcher_destroy(fetcher);
    tls_stop(&tls);
}
END_TEST

static const struct {
    struct tls_answer answer;
    long http_status;
} parts[] = {
    {{"", 0, ""}, 0},
    {{OK "X: y", 0, ""}, 200},
    {{OK "\r\n", 3, ""}, 200},
    {{OK "Content-Length: 5\r\n\r\n", 3, ""}, 200},
    {{CHUNKED "3\r\n", 3, "\r\n"}, 200},
};

START_TEST(test_record_that_does_not_decrypt_is_a_tls_failure)
{
    struct tls_upstream tls = {.answer = parts[_i / 2].answer,
                               .ends = {BAD_RECORD, BAD_RECORD}};
    tls_start(&tls, versions[_i % 2]);
    struct fetcher *fetcher = open_upstream(&tls);
    for (int again = 0; again < 2; again++)
        expect(fetcher, REASON_TLS_FAILED, parts[_i / 2].http_status, 0, 0);
    fetcher_destroy(fetcher);
    tls_stop(&tls);
}
END_TEST

/* With TLS 1.3 the alert comes after the handshake. */
START_TEST(test_missing_certificate_is_a_tls_failure)
{
    struct tls_upstream tls = {.wants_certificate = true,
                               .resets = _i / 2 == 1};
    tls_start(&tls, versions[_i % 2]);
    struct fetcher *fetcher = open_upstream(&tls);
    for (int again = 0; again < 20; again++)
        expect(fetcher, REASON_TLS_FAILED, 0, 0, 0);
    fetcher_destroy(fetcher);
    tls_stop(&tls);
}
END_TEST

/* An upstream may do without, and close later for another reason. */
START_TEST(test_certificate_that_was_wanted_once_explains_no_later_close)
{
    struct tls_upstream tls = {.answer = answers[0].answer,
                               .asks_once = true,
                               .resets = true,
                               .ends = {CLOSE_NOTIFY, CUT_OFF}};
    tls_start(&tls, versions[_i]);
    struct fetcher *fetcher = open_upstream(&tls);
    expect(fetcher, REASON_NONE, 200, letter(1), answers[0].answer.size);
    expect(fetcher, REASON_CLOSED_EARLY, 0, 0, 0);
    fetcher_destroy(fetcher);
    tls_stop(&tls);
}
END_TEST

/* Of the alerts, only the upstream's own notice ends a body. */
START_TEST(test_notice_of_the_close_is_no_other_alert)
{
    enum { WARNING = 1 << 8, FATAL = 2 << 8 };
    static const struct {
        int where;
        int value;
        bool notice;
    } alerts[] = {
        {SSL_CB_READ_ALERT, WARNING | SSL_AD_CLOSE_NOTIFY, true},
        {SSL_CB_READ_ALERT, WARNING | SSL_AD_USER_CANCELLED, false},
        {SSL_CB_READ_ALERT, WARNING | SSL_AD_NO_RENEGOTIATION, false},
        {SSL_CB_READ_ALERT, FATAL | SSL_AD_HANDSHAKE_FAILURE, false},
        {SSL_CB_WRITE_ALERT, WARNING | SSL_AD_CLOSE_NOTIFY, false},
        {SSL_CB_HANDSHAKE_DONE, 0, false},
    };
    struct tls_events events = {.close_notify = false};
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    ck_assert_ptr_nonnull(context);
    ck_assert_int_eq(on_context(NULL, context, &events), CURLE_OK);
    SSL *ssl = SSL_new(context);

    ck_assert_ptr_nonnull(ssl);
    for (int i = 0; i < COUNT(alerts); i++) {
        events.close_notify = false;
        on_event(ssl, alerts[i].where, alerts[i].value);
        ck_assert_msg(events.close_notify == alerts[i].notice, "alert %d", i);
    }
    SSL_free(ssl);
    SSL_CTX_free(context);
}
END_TEST

/* Of libcurl's. Each connection is new, and brings its tickets: libcurl 7.88
 * freed twice what it kept of them. */
START_TEST(test_each_allocation_of_a_connection_may_fail)
{
    struct tls_upstream tls = {.answer = answers[0].answer,
                               .ends = {CLOSE_NOTIFY, CLOSE_NOTIFY}};
    bool failed = true;

    tls_start(&tls, versions[_i]);
    for (long n = 0; failed; n++) {
        struct fetcher *fetcher = open_upstream(&tls);
        struct buffer body = {0};
        unsigned handle = 0;
        long status;

        allocation_fails_after(n);
        enum reason reason = fetch(fetcher, &handle, "x", 1, &body, &status);
        failed = allocation_failed();
        ck_assert(failed || reason == REASON_NONE);
        for (int i = 0; i < 2; i++) {
            atomic_store(&tls.requests, 0);
            expect(fetcher, REASON_NONE, 200, letter(1), 3);
        }
        free(body.data);
        fetcher_destroy(fetcher);
    }
    tls_stop(&tls);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tls");

    if (!tls_is_openssl()) {
        tell_skipped("libcurl has its TLS from elsewhere");
        return EXIT_SUCCESS;
    }
    TCase *unasked = add_case_with(suite, "unasked", NULL, NULL);
    tcase_add_unchecked_fixture(unasked, make_certificate, remove_certificate);
    tcase_add_loop_test(unasked,
                        test_connection_is_kept_after_a_response_alone, 0,
                        2 * COUNT(answers));
    tcase_add_loop_test(unasked,
                        test_second_response_in_a_record_is_nobodys_answer, 0,
                        2 * COUNT(answers));
    tcase_add_loop_test(
        unasked, test_second_response_in_the_next_record_is_nobodys_answer, 0,
        2 * COUNT(answers));

    TCase *closes = add_case_with(suite, "ends", NULL, NULL);
    tcase_add_unchecked_fixture(closes, make_certificate, remove_certificate);
    tcase_add_loop_test(
        closes, test_body_without_a_length_ends_by_the_notice_of_the_close, 0,
        2 * COUNT(ends));
    tcase_add_loop_test(closes,
                        test_record_that_does_not_decrypt_is_a_tls_failure, 0,
                        2 * COUNT(parts));
    tcase_add_loop_test(closes, test_missing_certificate_is_a_tls_failure, 0,
                        2 * COUNT(versions));
    tcase_add_loop_test(
        closes, test_certificate_that_was_wanted_once_explains_no_later_close,
        0, COUNT(versions));
    tcase_add_test(closes, test_notice_of_the_close_is_no_other_alert);

    TCase *memory = add_case_with(suite, "memory", NULL, NULL);
    tcase_add_unchecked_fixture(memory, make_certificate, remove_certificate);
    tcase_add_loop_test(memory, test_each_allocation_of_a_connection_may_fail,
                        0, COUNT(versions));
    return run_suite(suite) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
