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
 * Writes the bytes in quotes, with escapes for all but printable ASCII. What
 * is wider than that many columns, 40 at least, loses its middle and is
 * followed by its length in bytes.
 */
void quote(FILE *out, const void *data, size_t len, size_t columns);

/* Writes the last lines of a text, each with that indent, fit for 80 columns
 * and with escapes for control characters. */
void quote_end(FILE *out, const char *text, int lines, const char *indent);

#endif
