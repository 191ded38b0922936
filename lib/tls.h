/*
 * tls.h - what libcurl does not tell of a TLS connection, asked of OpenSSL
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef TLS_H
#define TLS_H

#include <curl/curl.h>
#include <stdbool.h>

/* Returns whether libcurl uses OpenSSL, without which the rest of this file
 * has nothing to ask. */
bool tls_is_openssl(void);

/* From now on notes whether an allocation of OpenSSL fails. Call it before
 * anything uses OpenSSL, or it has no effect. */
void tls_watch_memory(void);

/* Has OpenSSL make what it makes once in a process, such as its source of
 * random numbers. Where an allocation fails just then, some of it fails for
 * good, mostly without a word: better at the start than at a client's line.
 * Returns false if one has failed by now. */
bool tls_prepare(void);

/* What has happened on a TLS connection. */
struct tls_events {
    /* The upstream has ended its output on purpose; libcurl 7.88 takes a
     * connection that was cut off for the same. */
    bool close_notify;
    /* The upstream has asked for a client certificate. In TLS 1.3 it may
     * refuse us after the handshake, and its reset may overtake the alert. */
    bool certificate_wanted;
};

/* Has the events of each new connection set to true; the caller resets them.
 * They must live as long as the easy handle and belong to its thread. */
CURLcode tls_watch(CURL *easy, struct tls_events *events);

/* Returns whether OpenSSL has decrypted bytes that libcurl has not read. The
 * socket does not show them. Only for callbacks of the transfer. */
bool tls_has_more(CURL *easy);

#endif
