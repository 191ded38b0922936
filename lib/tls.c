/*
 * tls.c - what libcurl does not tell of a TLS connection, see tls.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "tls.h"

#include <openssl/ssl.h>
#include <string.h>

bool tls_is_openssl(void)
{
    const char *name = curl_version_info(CURLVERSION_NOW)->ssl_version;

    return name != NULL && strncmp(name, "OpenSSL", strlen("OpenSSL")) == 0;
}

bool tls_prepare(void)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    bool made = context != NULL;

    SSL_CTX_free(context);
    return made;
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
