/*
 * mark.h - the mark by which the upstream proves that it was asked
 *
 * Load and upstream share a key that no measured server knows. So a reply
 * with the right mark proves that the upstream got exactly this text.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef BENCH_MARK_H
#define BENCH_MARK_H

#include <stddef.h>
#include <stdint.h>

#define MIN_KEY 16  /* bytes */
#define MAX_KEY 64  /* bytes; BLAKE2b takes no more */
#define MARK_LEN 16 /* hexadecimal digits of a mark */
#define SALT_LEN 16 /* letters that only the holder of the key can foresee */

struct mark_key {
    unsigned char bytes[MAX_KEY];
    size_t len;
    unsigned char salt_key[16]; /* derived from bytes */
};

/* Makes a key of len bytes, MIN_KEY to MAX_KEY. */
void mark_key_init(struct mark_key *key, const void *bytes, size_t len);

/*
 * Returns the key that the value of an option, a file, holds: all its bytes,
 * an LF at the end included. Exits by exit_bad_usage() if the file cannot be
 * read or has fewer than MIN_KEY or more than MAX_KEY bytes. The file may be a
 * pipe.
 */
struct mark_key mark_key_argument(const char *program, const char *option,
                                  const char *path);

/*
 * Writes the mark of a text, MARK_LEN digits without a NUL, to mark: the first
 * half of a BLAKE2b of 16 bytes that takes the key.
 */
void mark_text(const struct mark_key *key, const void *text, size_t len,
               char mark[MARK_LEN]);

/* Writes SALT_LEN letters to salt. They follow from the key and two numbers.
 */
void mark_salt(const struct mark_key *key, uint64_t a, uint64_t b,
               char salt[SALT_LEN]);

#endif
