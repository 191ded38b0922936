/*
 * values.c - values on a command line, read whole or not at all
 *
 * SPDX-License-Identifier: MIT
 */
#include "values.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool parse_whole(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits] != '\0')
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, NULL, 10);
    if (errno != 0 || number < min || number > max)
        return false;
    *value = number;
    return true;
}

bool parse_decimal(const char *text, double min, double max, double *value)
{
    size_t whole = strspn(text, "0123456789");
    const char *rest = text + whole;
    size_t part = 0;
    if (*rest == '.') {
        part = strspn(rest + 1, "0123456789");
        rest += 1 + part;
    }
    if (whole + part == 0 || *rest != '\0')
        return false;
    double number = strtod(text, NULL);
    if (number < min || number > max)
        return false;
    *value = number;
    return true;
}

const char *describe_bad_value(char description[BAD_VALUE_SIZE],
                               const char *text, const char *kind, double min,
                               double max)
{
    (void)snprintf(description, BAD_VALUE_SIZE,
                   "'%.100s' is not a %s from %.10g to %.10g", text, kind, min,
                   max);
    return description;
}
