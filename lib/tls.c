/*
 * tls.c - what libcurl does not tell of a TLS connection, see tls.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "tls.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

bool tls_is_openssl(void)
{
    const char *name = curl_version_info(CURLVERSION_NOW)->ssl_version;

    return name != NULL && strncmp(name, "OpenSSL", strlen("OpenSSL")) == 0;
}

/* An allocation of OpenSSL has failed. */
static atomic_bool lacked_memory;

static void *note(void *data, size_t size)
{
    if (data == NULL && size > 0)
        atomic_store(&lacked_memory, true);
    return data;
}

static void *allocate(size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return note(malloc(size), size);
}

static void *reallocate(void *data, size_t size, const char *file, int line)
{
    (void)file;
    (void)line;
    return note(realloc(data, size), size);
}

static void release(void *data, const char *file, int line)
{
    (void)file;
    (void)line;
    free(data);
}

void tls_watch_memory(void)
{
    if (CRYPTO_set_mem_functions(allocate, reallocate, release) != 1)
        return; /* too late */
}

bool tls_prepare(const char *cacert)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    bool made = context != NULL;

    if (made && cacert != NULL &&
        SSL_CTX_load_verify_locations(context, cacert, NULL) != 1)
        ERR_clear_error(); /* a bad file is a fetch's to report */
    SSL_CTX_free(context);
    return made && !atomic_load(&lacked_memory);
}

/* OpenSSL's info callback. */
static void on_event(const SSL *ssl, int where, int value)
{
    struct tls_events *events = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    if (where == SSL_CB_READ_ALERT && (value & 0xff) == SSL_AD_CLOSE_NOTIFY)
        events->close_notify = true;
}

/* OpenSSL's callback for a client certificate: there is none. */
static int on_certificate_request(SSL *ssl, X509 **certificate, EVP_PKEY **key)
{
    struct tls_events *events = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

    (void)certificate;
    (void)key;
    events->certificate_wanted = true;
    return 0;
}

/* libcurl's, for each new TLS connection. */
static CURLcode on_context(CURL *easy, void *context, void *events)
{
    (void)easy;
    if (SSL_CTX_set_app_data((SSL_CTX *)context, events) != 1)
        return CURLE_OUT_OF_MEMORY;
    SSL_CTX_set_info_callback(context, on_event);
    SSL_CTX_set_client_cert_cb(context, on_certificate_request);
    return CURLE_OK;
}

CURLcode tls_watch(CURL *easy, struct tls_events *events)
{
    CURLcode rc = curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, on_context);
    if (rc == CURLE_OK)
        rc = curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, events);
    return rc;
}

bool tls_has_more(CURL *easy)
{
    struct curl_tlssessioninfo *tls = NULL;

    return curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &tls) == CURLE_OK &&
           tls->internals != NULL && SSL_has_pending(tls->internals) != 0;
}
