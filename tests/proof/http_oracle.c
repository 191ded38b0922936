/*
 * http_oracle.c - a strict reader of HTTP/1.x responses, see http_oracle.h
 *
 * Where the RFCs leave a choice to the recipient, or the server keeps to less
 * than they allow, the oracle follows the server, and this is the whole list:
 *
 *   accepted, as RFC 9112 2.2 and 4 and RFC 9110 5.5 permit
 *     - a line of a head, a chunk's size line, or a trailer that ends with LF
 *       alone; after such a size line the chunk may end with LF alone, too;
 *     - a status line without the blank before a reason that is absent;
 *     - control bytes other than NUL, CR and LF in a reason, a field's value
 *       or a chunk's extension: none of them is ever shown or interpreted;
 *     - a status from 600 to 999, which RFC 9110 15 has taken for an error;
 *     - the same Content-Length more than once, in a list or in lines;
 *     - Transfer-Encoding in HTTP/1.0 or beside Content-Length (RFC 9112 6.1):
 *       it decides, and the connection isn't used again;
 *     - "keep-alive" anywhere in HTTP/1.0's Connection, and no option of a
 *       Connection that is folded, as libcurl has it: at worst the next
 *       request finds the connection closed and is sent again;
 *   refused, although a recipient might take it
 *     - Transfer-Encoding other than one "chunked": nothing is unpacked;
 *     - a Content-Length that is no number in any final response, also where
 *       it doesn't count (204, 304, beside Transfer-Encoding);
 *     - either of these two folded, where readers have differed (RFC 9112
 *       5.2 lets a proxy refuse any fold), and a fold in trailers;
 *     - HTTP/1.2 to HTTP/1.9, which do not exist: libcurl refuses them;
 *     - perhaps, two lengths of 18 digits or more that differ: neither can be
 *       served, so whether the server notices is left to it;
 *     - 101, because no upgrade was asked for;
 *     - a chunk size of more than 16 digits, zeros in front included;
 *     - perhaps, a response whose head took several reads and that more bytes
 *       follow: libcurl discards them, and nobody can tell that from the next;
 *   not judged
 *     - a NUL at the start of a line of a head: libcurl before 8.5 discards
 *       it and the rest of that read, and fetch.c notices unless the next read
 *       follows at once.
 *
 * Limits of size (a line of 100 KiB, a head of 64 KiB) are beyond the inputs
 * and left to the suites. Content-Encoding is ignored, as none was asked for.
 *
 * SPDX-License-Identifier: MIT
 */
#include "http_oracle.h"

#include <string.h>
#include <strings.h>

#define MOST_CHUNK_DIGITS 16
#define HUGE_DIGITS 18

/* The bytes, and how far they have been read. */
struct reader {
    const char *data;
    size_t len, at;
    struct answer *answer;
};

/* A piece of the bytes. */
struct text {
    const char *data;
    size_t len;
};

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

/* Returns the value of a hexadecimal digit, or -1. */
static int hex_value(char byte)
{
    static const char digits[] = "0123456789abcdef";
    char lower =
        byte >= 'A' && byte <= 'F' ? (char)(byte + ('a' - 'A')) : byte;
    const char *at = memchr(digits, lower, strlen(digits));

    return at != NULL ? (int)(at - digits) : -1;
}

/* RFC 9110 5.6.2: tchar */
static bool is_tchar(char byte)
{
    return is_digit(byte) || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z') ||
           (byte != '\0' && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static bool is_text(struct text text, const char *word)
{
    return text.len == strlen(word) &&
           strncasecmp(text.data, word, text.len) == 0;
}

static bool has_word(struct text text, const char *word)
{
    for (; text.len >= strlen(word); text.data++, text.len--)
        if (strncasecmp(text.data, word, strlen(word)) == 0)
            return true;
    return false;
}

static struct text trim(struct text text)
{
    while (text.len > 0 && is_blank(text.data[0])) {
        text.data++;
        text.len--;
    }
    while (text.len > 0 && is_blank(text.data[text.len - 1]))
        text.len--;
    return text;
}

/* Takes the next element of a list that commas separate. */
static bool next_element(struct text *list, struct text *element)
{
    if (list->data == NULL)
        return false;
    const char *comma = memchr(list->data, ',', list->len);
    if (comma == NULL) {
        *element = trim(*list);
        *list = (struct text){0};
        return true;
    }
    size_t len = (size_t)(comma - list->data);
    *element = trim((struct text){list->data, len});
    *list = (struct text){comma + 1, list->len - len - 1};
    return true;
}

/* Returns whether text, a line that may have been cut off, can't become one:
 * it has a NUL, or a CR before anything else than LF. */
static bool has_forbidden(struct text text, bool cut_off)
{
    for (size_t i = 0; i < text.len; i++)
        if (text.data[i] == '\0' ||
            (text.data[i] == '\r' && !(cut_off && i + 1 == text.len)))
            return true;
    return false;
}

/* Reads a line without its break. bare_lf: it has no CR; NULL if that does not
 * matter. */
static enum verdict read_line(struct reader *reader, struct text *line,
                              bool *bare_lf)
{
    const char *start = reader->data + reader->at;
    size_t left = reader->len - reader->at;
    const char *lf = left > 0 ? memchr(start, '\n', left) : NULL;

    *line = (struct text){start, lf != NULL ? (size_t)(lf - start) : left};
    if (lf == NULL)
        return has_forbidden(*line, true) ? ORACLE_NOT_HTTP
                                          : ORACLE_INCOMPLETE;
    reader->at += line->len + 1;
    bool crlf = line->len > 0 && line->data[line->len - 1] == '\r';
    if (crlf)
        line->len--;
    if (bare_lf != NULL)
        *bare_lf = !crlf;
    return has_forbidden(*line, false) ? ORACLE_NOT_HTTP : ORACLE_WHOLE;
}

/* What the head says about the rest. */
struct head {
    bool lengths_unclear; /* two huge lengths differ */
    bool old;             /* HTTP/1.0 */
    bool has_length;
    struct text length; /* its digits, without zeros in front */
    bool chunked;
    bool close, keep_alive; /* options of Connection */
};

/* Returns whether a byte of a status line is what its pattern wants. */
static bool matches(char byte, char wanted)
{
    switch (wanted) {
    case '#':
        return is_digit(byte);
    case '?':
        return byte == '0' || byte == '1';
    default:
        return byte == wanted;
    }
}

/* RFC 9112 4: status-line */
static enum verdict read_status_line(struct reader *reader, struct head *head)
{
    static const char pattern[] = "HTTP/1.? ###"; /* #: digit, ?: 0 or 1 */
    struct text line;
    enum verdict verdict = read_line(reader, &line, NULL);

    for (size_t i = 0; i < strlen(pattern); i++) {
        if (i == line.len)
            return verdict == ORACLE_WHOLE ? ORACLE_NOT_HTTP : verdict;
        if (!matches(line.data[i], pattern[i]))
            return ORACLE_NOT_HTTP;
    }
    if (line.data[9] == '0' ||
        (line.len > strlen(pattern) && line.data[strlen(pattern)] != ' '))
        return ORACLE_NOT_HTTP;
    if (verdict != ORACLE_WHOLE)
        return verdict;
    head->old = line.data[7] == '0';
    reader->answer->status = (line.data[9] - '0') * 100L +
                             (line.data[10] - '0') * 10L +
                             (line.data[11] - '0');
    return ORACLE_WHOLE;
}

/* RFC 9110 8.6: Content-Length. Returns false if it is no number, or another
 * one than before. */
static bool take_length(struct head *head, struct text value)
{
    struct text element;

    while (next_element(&value, &element)) {
        if (element.len == 0)
            return false;
        for (size_t i = 0; i < element.len; i++)
            if (!is_digit(element.data[i]))
                return false;
        while (element.len > 0 && element.data[0] == '0') {
            element.data++;
            element.len--;
        }
        if (head->has_length &&
            (element.len != head->length.len ||
             memcmp(element.data, head->length.data, element.len) != 0)) {
            if (element.len < HUGE_DIGITS || head->length.len < HUGE_DIGITS)
                return false;
            head->lengths_unclear = true;
        }
        head->has_length = true;
        head->length = element;
    }
    return true;
}

/* Takes a field of a final response. */
static bool take_field(struct head *head, struct text name, struct text value)
{
    struct text option;

    if (is_text(name, "Content-Length"))
        return take_length(head, value);
    if (is_text(name, "Transfer-Encoding")) {
        if (head->chunked || !is_text(value, "chunked"))
            return false;
        head->chunked = true;
    }
    if (is_text(name, "Connection")) {
        head->keep_alive |= has_word(value, "keep-alive");
        while (next_element(&value, &option))
            head->close |= is_text(option, "close");
    }
    return true;
}

/* RFC 9112 5: the fields of one head, up to the empty line. */
static enum verdict read_fields(struct reader *reader, struct head *head)
{
    bool may_fold = false; /* there is a field that a line may continue */

    for (;;) {
        struct text line;
        enum verdict verdict = read_line(reader, &line, NULL);
        if (verdict != ORACLE_WHOLE)
            return verdict;
        if (line.len == 0)
            return ORACLE_WHOLE;
        if (is_blank(line.data[0])) {
            if (!may_fold)
                return ORACLE_NOT_HTTP;
            continue;
        }
        struct text name = {line.data, 0};
        while (name.len < line.len && is_tchar(line.data[name.len]))
            name.len++;
        if (name.len == 0 || name.len == line.len ||
            line.data[name.len] != ':')
            return ORACLE_NOT_HTTP;
        struct text value = {line.data + name.len + 1,
                             line.len - name.len - 1};
        may_fold = !is_text(name, "Content-Length") &&
                   !is_text(name, "Transfer-Encoding");
        if (reader->answer->status >= 200 &&
            !take_field(head, name, trim(value)))
            return ORACLE_NOT_HTTP;
    }
}

/* Moves up to len bytes to the body. Returns false if there are fewer. */
static bool take_body(struct reader *reader, size_t len)
{
    struct answer *answer = reader->answer;
    size_t left = reader->len - reader->at;
    size_t taken = len < left ? len : left;

    memcpy(answer->body + answer->body_len, reader->data + reader->at, taken);
    answer->body_len += taken;
    reader->at += taken;
    return taken == len;
}

/* RFC 9112 7.1: chunk-size [ chunk-ext ] CRLF */
static enum verdict read_size(struct reader *reader, size_t *size,
                              bool *bare_lf)
{
    struct text line;
    enum verdict verdict = read_line(reader, &line, bare_lf);
    size_t at = 0;

    *size = 0;
    for (; at < line.len && hex_value(line.data[at]) >= 0; at++) {
        if (at == MOST_CHUNK_DIGITS)
            return ORACLE_NOT_HTTP;
        *size = *size << 4 | (size_t)hex_value(line.data[at]);
    }
    if (at == 0 && line.len > 0)
        return ORACLE_NOT_HTTP;
    size_t blank = at;
    while (blank < line.len && is_blank(line.data[blank]))
        blank++;
    if (verdict == ORACLE_WHOLE &&
        (at == 0 || (blank > at && blank == line.len)))
        return ORACLE_NOT_HTTP;
    if (blank < line.len && line.data[blank] != ';' &&
        (line.data[blank] != '\r' || blank > at))
        return ORACLE_NOT_HTTP;
    return verdict;
}

/* RFC 9112 7.1: what ends the data of a chunk */
static enum verdict read_chunk_end(struct reader *reader, bool bare_lf)
{
    const char *at = reader->data + reader->at;
    size_t left = reader->len - reader->at;

    if (left == 0)
        return ORACLE_INCOMPLETE;
    if (at[0] == '\n' && bare_lf) {
        reader->at++;
        return ORACLE_WHOLE;
    }
    if (at[0] != '\r')
        return ORACLE_NOT_HTTP;
    if (left == 1)
        return ORACLE_INCOMPLETE;
    reader->at += 2;
    return at[1] == '\n' ? ORACLE_WHOLE : ORACLE_NOT_HTTP;
}

/* RFC 9112 7.1.2: fields, whose values do not matter, and an empty line */
static enum verdict read_trailers(struct reader *reader)
{
    for (;;) {
        struct text line;
        enum verdict verdict = read_line(reader, &line, NULL);
        size_t name = 0;

        if (verdict == ORACLE_WHOLE && line.len == 0)
            return ORACLE_WHOLE;
        while (name < line.len && is_tchar(line.data[name]))
            name++;
        if (name < line.len && (name == 0 || line.data[name] != ':') &&
            !(verdict == ORACLE_INCOMPLETE && name == 0 &&
              line.data[0] == '\r'))
            return ORACLE_NOT_HTTP;
        if (verdict == ORACLE_WHOLE && name == line.len)
            return ORACLE_NOT_HTTP;
        if (verdict != ORACLE_WHOLE)
            return verdict;
    }
}

static enum verdict read_chunks(struct reader *reader)
{
    for (;;) {
        bool bare_lf;
        size_t size;
        enum verdict verdict = read_size(reader, &size, &bare_lf);
        reader->answer->body_due = reader->answer->body_len;
        if (size > ORACLE_MOST)
            reader->answer->body_due = ORACLE_MOST + 1;
        else
            reader->answer->body_due += size;
        if (verdict != ORACLE_WHOLE)
            return verdict;
        if (size == 0)
            return read_trailers(reader);
        if (!take_body(reader, size))
            return ORACLE_INCOMPLETE;
        verdict = read_chunk_end(reader, bare_lf);
        if (verdict != ORACLE_WHOLE)
            return verdict;
    }
}

/* RFC 9112 6.3: the rest of a final response */
static enum verdict read_body(struct reader *reader, const struct head *head,
                              bool closed)
{
    struct answer *answer = reader->answer;
    size_t length = 0;

    if (answer->status == 204 || answer->status == 304)
        return ORACLE_WHOLE;
    if (head->chunked)
        return read_chunks(reader);
    if (!head->has_length) {
        answer->by_close = true;
        take_body(reader, reader->len - reader->at);
        answer->body_due = answer->body_len;
        return closed ? ORACLE_WHOLE : ORACLE_INCOMPLETE;
    }
    for (size_t i = 0; i < head->length.len && length <= ORACLE_MOST; i++)
        length = length * 10 + (size_t)(head->length.data[i] - '0');
    answer->body_due = length;
    return take_body(reader, length) ? ORACLE_WHOLE : ORACLE_INCOMPLETE;
}

void oracle_read(const char *data, size_t len, bool closed,
                 struct answer *answer)
{
    struct reader reader = {.data = data, .len = len, .answer = answer};
    struct head head;

    memset(answer, 0, sizeof *answer);
    do {
        memset(&head, 0, sizeof head);
        answer->verdict = read_status_line(&reader, &head);
        if (answer->verdict == ORACLE_WHOLE)
            answer->verdict = read_fields(&reader, &head);
        answer->may_be_bad = head.lengths_unclear;
        if (answer->verdict != ORACLE_WHOLE)
            return;
        if (answer->status == 101)
            answer->verdict = ORACLE_NOT_HTTP;
    } while (answer->verdict == ORACLE_WHOLE && answer->status < 200);
    if (answer->verdict == ORACLE_WHOLE)
        answer->verdict = read_body(&reader, &head, closed);
    answer->used = reader.at;
    answer->persists = answer->verdict == ORACLE_WHOLE && !answer->by_close &&
                       !head.close &&
                       (head.old ? head.keep_alive && !head.chunked
                                 : !(head.chunked && head.has_length));
}
