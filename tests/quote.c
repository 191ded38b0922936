/*
 * quote.c - bytes as a person can read them
 *
 * SPDX-License-Identifier: MIT
 */
#include "quote.h"

#include <stdbool.h>
#include <string.h>

#define ESCAPED 5 /* bytes of the longest escape, and a NUL */
#define COLUMNS 79

/* Writes a byte as it is shown. Returns how many columns it takes. */
static size_t escape(unsigned char byte, char shown[ESCAPED])
{
    static const char named[] = "\r\n\t\"\\";
    static const char names[] = "rnt\"\\";
    const char *at = byte != '\0' ? strchr(named, byte) : NULL;

    if (at != NULL)
        snprintf(shown, ESCAPED, "\\%c", names[at - named]);
    else if (byte == '\0')
        snprintf(shown, ESCAPED, "\\0");
    else if (byte < ' ' || byte > '~')
        snprintf(shown, ESCAPED, "\\x%02x", byte);
    else
        snprintf(shown, ESCAPED, "%c", byte);
    return strlen(shown);
}

/* Returns how many of the bytes fit into that many columns; from the end. */
static size_t fitting(const unsigned char *data, size_t len, size_t columns,
                      bool from_end)
{
    char shown[ESCAPED];
    size_t used = 0;

    for (size_t n = 0; n < len; n++) {
        used += escape(data[from_end ? len - 1 - n : n], shown);
        if (used > columns)
            return n;
    }
    return len;
}

static void put(FILE *out, const unsigned char *data, size_t len)
{
    char shown[ESCAPED];

    fputc('"', out);
    for (size_t i = 0; i < len; i++) {
        escape(data[i], shown);
        fputs(shown, out);
    }
    fputc('"', out);
}

void quote(FILE *out, const void *data, size_t len, size_t columns)
{
    const unsigned char *bytes = data;
    char length[40];

    if (fitting(bytes, len, columns - 2, false) == len) {
        put(out, bytes, len);
        return;
    }
    size_t around =
        (size_t)snprintf(length, sizeof length, "\"...\", %zu bytes", len);
    size_t room = columns - around - 2;
    size_t head = fitting(bytes, len, room * 2 / 3, false);
    size_t tail = fitting(bytes, len, room - room * 2 / 3, true);
    put(out, bytes, head);
    fputs("...", out);
    put(out, bytes + len - tail, tail);
    fprintf(out, ", %zu bytes", len);
}

/* Writes a line without quotes, cut at its end. */
static void put_line(FILE *out, const char *line, size_t len, size_t columns)
{
    char shown[ESCAPED];
    size_t used = 0;

    for (size_t i = 0; i < len; i++) {
        bool plain = line[i] == '"' || line[i] == '\\';
        size_t width = plain ? 1 : escape((unsigned char)line[i], shown);
        if (used + width > columns - 3 && len - i > 3) {
            fputs("...", out);
            break;
        }
        used += width;
        if (plain)
            fputc(line[i], out);
        else
            fputs(shown, out);
    }
    fputc('\n', out);
}

void quote_end(FILE *out, const char *text, int lines, const char *indent)
{
    size_t len = strlen(text);
    const char *from;

    while (len > 0 && text[len - 1] == '\n')
        len--;
    for (from = text + len; from > text && lines > 0; from--)
        if (from[-1] == '\n' && --lines == 0)
            break;
    while (from < text + len) {
        const char *lf = memchr(from, '\n', (size_t)(text + len - from));
        const char *end = lf != NULL ? lf : text + len;
        fputs(indent, out);
        put_line(out, from, (size_t)(end - from), COLUMNS - strlen(indent));
        from = end + 1;
    }
}
