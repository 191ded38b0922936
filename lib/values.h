/*
 * values.h - values on a command line, for all programs of the repo
 *
 * All functions may be called from any thread, and none keeps a pointer.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VALUES_H
#define VALUES_H

#include <stdbool.h>
#include <stdint.h>

#define VERSION "1.0.0" /* of every program: they are released together */

#define BAD_VALUE_SIZE 256 /* bytes of any description of a bad value */

/*
 * Reads text, which must be decimal digits and nothing else, into *value.
 * Returns false, and leaves *value alone, if text is anything else or the
 * number is not from min to max.
 */
bool parse_whole(const char *text, uint64_t min, uint64_t max,
                 uint64_t *value);

/* Does the same for digits with at most one decimal point, such as 0.5. */
bool parse_decimal(const char *text, double min, double max, double *value);

/*
 * Writes "'TEXT' is not a KIND from MIN to MAX" to description, cut to its
 * size. A long text is cut first, so that the range is always there. The kind
 * is what the option takes, such as "whole number" or "number of seconds".
 * Returns description.
 */
const char *describe_bad_value(char description[BAD_VALUE_SIZE],
                               const char *text, const char *kind, double min,
                               double max);

#endif
