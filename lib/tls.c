/*
 * tls.c - what libcurl does not tell of a TLS connection, see tls.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "tls.h"

#include <openssl/crypto.h>
#include <openssl/decoder.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
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

bool tls_prepare(void)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    bool made = context != NULL;

    SSL_CTX_free(context);
    if (!made || atomic_load(&lacked_memory))
        return false; /* a half of OpenSSL may crash */
    /* With the first algorithm of a kind come all others. */
    EVP_MAC_free(EVP_MAC_fetch(NULL, "HMAC", NULL));
    EVP_KDF_free(EVP_KDF_fetch(NULL, "HKDF", NULL));
    EVP_KEYEXCH_free(EVP_KEYEXCH_fetch(NULL, "ECDH", NULL));
    EVP_SIGNATURE_free(EVP_SIGNATURE_fetch(NULL, "ECDSA", NULL));
    EVP_ASYM_CIPHER_free(EVP_ASYM_CIPHER_fetch(NULL, "RSA", NULL));
    OSSL_DECODER_free(OSSL_DECODER_fetch(NULL, "RSA", NULL));
    ERR_clear_error();
    return !atomic_load(&lacked_memory);
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
