/*
 * mark.c - keyed marks of texts, and letters that a server cannot foresee
 *
 * SPDX-License-Identifier: MIT
 */
#include "mark.h"
#include "arguments.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>

#define DIGEST_SIZE 16 /* bytes, of which the first half is the mark */

_Static_assert(sizeof((struct mark_key *)0)->salt_key ==
                   crypto_shorthash_KEYBYTES,
               "the key of the short hash");
_Static_assert(SALT_LEN == 2 * crypto_shorthash_BYTES,
               "a letter for each four bits of the short hash");
_Static_assert(MAX_KEY == crypto_generichash_KEYBYTES_MAX,
               "the longest key of BLAKE2b");

void mark_key_init(struct mark_key *key, const void *bytes, size_t len)
{
    unsigned char digest[crypto_generichash_BYTES];
    memcpy(key->bytes, bytes, len);
    key->len = len;
    /*
     * The size of a digest is part of its input, so this one is unrelated to
     * any mark. With a mark's size a server could fetch "salt" and get half of
     * this key.
     */
    (void)crypto_generichash(digest, sizeof digest,
                             (const unsigned char *)"salt", 4, key->bytes,
                             key->len);
    memcpy(key->salt_key, digest, sizeof key->salt_key);
}

/*
 * Reads up to size bytes of a file. Returns their number, or -1 with errno
 * set.
 */
static ssize_t read_file(const char *path, unsigned char *bytes, size_t size)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return -1;
    size_t len = fread(bytes, 1, size, file);
    int error = ferror(file) ? errno : 0;
    /* It was only read. */
    (void)fclose(file);
    errno = error;
    return error != 0 ? -1 : (ssize_t)len;
}

struct mark_key mark_key_argument(const char *program, const char *option,
                                  const char *path)
{
    unsigned char bytes[MAX_KEY + 1];
    struct mark_key key;
    ssize_t len = read_file(path, bytes, sizeof bytes);
    if (len < 0)
        exit_bad_usage(program, "%s: %s: %s", option, path, strerror(errno));
    if (len < MIN_KEY)
        exit_bad_usage(program, "%s: %s has %zd bytes; a key has %d to %d",
                       option, path, len, MIN_KEY, MAX_KEY);
    if (len > MAX_KEY)
        exit_bad_usage(program,
                       "%s: %s has more than %d bytes; a key has %d to %d",
                       option, path, MAX_KEY, MIN_KEY, MAX_KEY);
    /* It selects the fastest code for this processor. */
    if (sodium_init() < 0) {
        fprintf(stderr, "%s: cannot initialize libsodium\n", program);
        exit(1);
    }
    mark_key_init(&key, bytes, (size_t)len);
#ifndef __SANITIZE_ADDRESS__ /* it looks for leaks in this process's memory   \
                              */
    /* A server of the same user must not read the key from our memory. */
    if (prctl(PR_SET_DUMPABLE, 0UL) != 0) {
        fprintf(stderr, "%s: cannot protect the key: %s\n", program,
                strerror(errno));
        exit(1);
    }
#endif
    return key;
}

void mark_text(const struct mark_key *key, const void *text, size_t len,
               char mark[MARK_LEN])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[DIGEST_SIZE];
    /* It fails only for sizes that are out of range. */
    (void)crypto_generichash(digest, sizeof digest, text, len, key->bytes,
                             key->len);
    for (size_t i = 0; i < MARK_LEN / 2; i++) {
        mark[2 * i] = digits[digest[i] >> 4];
        mark[2 * i + 1] = digits[digest[i] & 15];
    }
}

void mark_salt(const struct mark_key *key, uint64_t a, uint64_t b,
               char salt[SALT_LEN])
{
    const uint64_t numbers[] = {a, b};
    unsigned char hash[crypto_shorthash_BYTES];
    /* SipHash: a seventh of BLAKE2b's instructions for so short an input. */
    (void)crypto_shorthash(hash, (const unsigned char *)numbers,
                           sizeof numbers, key->salt_key);
    for (size_t i = 0; i < SALT_LEN / 2; i++) {
        salt[2 * i] = (char)('a' + (hash[i] >> 4));
        salt[2 * i + 1] = (char)('a' + (hash[i] & 15));
    }
}
