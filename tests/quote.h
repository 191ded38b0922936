/*
 * quote.h - bytes as a person can read them
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef QUOTE_H
#define QUOTE_H

#include <stddef.h>
#include <stdio.h>

/*
 * Writes the bytes in quotes, with escapes for all but printable ASCII. If
 * they need more columns than given (at least 40), their middle is left out
 * and their length in bytes follows.
 */
void quote(FILE *out, const void *data, size_t len, size_t columns);

/* Writes the last lines of a text, indented, within 80 columns, with escapes
 * for control characters. */
void quote_end(FILE *out, const char *text, int lines, const char *indent);

#endif
