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

/* Has *close_notify set to true when the upstream ends its output on purpose;
 * libcurl 7.88 takes a connection that was cut off for the same. The flag must
 * live as long as the easy handle and belongs to its thread. */
CURLcode tls_watch_close(CURL *easy, bool *close_notify);

/* Returns whether OpenSSL has decrypted bytes that libcurl has not read. The
 * socket does not show them. Only for callbacks of the transfer. */
bool tls_has_more(CURL *easy);

#endif
