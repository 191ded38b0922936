/*
 * response.c - one HTTP/1.x response, read strictly, see response.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "response.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

#define MAX_HEAD (64 * 1024) /* of heads and trailers together, in bytes */
#define MAX_CHUNK_LINE 4096  /* chunk size and extension, in bytes */
#define MAX_SIZE_DIGITS 16   /* of a chunk size: 64 bits */
#define BLANKS " \t"

void response_begin(struct response *response, struct buffer *body,
                    size_t max_body)
{
    *response = (struct response){
        .length = -1,
        .max_body = max_body,
        .body = body,
        .body_start = body->len,
    };
}

/* Returns whether the byte is allowed in a field name. */
static bool is_token_byte(char byte)
{
    static const char others[] = "-!#$%&'*+.^_`|~";

    return isalnum((unsigned char)byte) != 0 || /* in the C locale */
           memchr(others, byte, strlen(others)) != NULL;
}

/* Reads "HTTP/1.x NNN", which a blank or nothing follows. */
static enum reason take_status_line(struct response *response,
                                    const char *line, size_t len)
{
    static const char pattern[] = "HTTP/1.d ddd"; /* d is a digit */
    const size_t pattern_len = sizeof pattern - 1;

    if (len < pattern_len || (len > pattern_len && line[pattern_len] != ' '))
        return REASON_BAD_HTTP;
    for (size_t i = 0; i < pattern_len; i++)
        if (pattern[i] == 'd' ? line[i] < '0' || line[i] > '9'
                              : line[i] != pattern[i])
            return REASON_BAD_HTTP;
    const char *digits = line + pattern_len - 3;
    response->status =
        (digits[0] - '0') * 100L + (digits[1] - '0') * 10L + (digits[2] - '0');
    response->old = line[pattern_len - strlen("d ddd")] == '0';
    response->state = FIRST_FIELD;
    return response->status >= 100 ? REASON_NONE : REASON_BAD_HTTP;
}

/* Reads a Content-Length: a number, or a list of equal numbers. */
static enum reason take_length(struct response *response, const char *value,
                               size_t len)
{
    for (size_t at = 0; at <= len;) {
        long long number = 0;
        size_t digits = 0;

        while (at < len && strchr(BLANKS, value[at]) != NULL)
            at++;
        for (; at < len && value[at] >= '0' && value[at] <= '9'; at++) {
            digits++;
            if (number <= (LLONG_MAX - 9) / 10) /* else too large anyway */
                number = number * 10 + (value[at] - '0');
        }
        while (at < len && strchr(BLANKS, value[at]) != NULL)
            at++;
        if (digits == 0 || (at < len && value[at] != ',') ||
            (response->length >= 0 && response->length != number))
            return REASON_BAD_HTTP;
        response->length = number;
        at++;
    }
    return REASON_NONE;
}

/* Reads a field whose value has no blanks around it. */
static enum reason take_field(struct response *response, const char *name,
                              size_t name_len, const char *value, size_t len)
{
    bool is_length = name_len == strlen("Content-Length") &&
                     strncasecmp(name, "Content-Length", name_len) == 0;
    bool is_coding = name_len == strlen("Transfer-Encoding") &&
                     strncasecmp(name, "Transfer-Encoding", name_len) == 0;

    response->framing = is_length || is_coding;
    if (!response->framing || response->status < 200)
        return REASON_NONE; /* an interim response has no content */
    if (is_length)
        return take_length(response, value, len);
    /* No other coding was asked for. */
    if (response->chunked || len != strlen("chunked") ||
        strncasecmp(value, "chunked", len) != 0)
        return REASON_BAD_HTTP;
    response->chunked = true;
    return REASON_NONE;
}

/* The empty line: decides how the body ends. */
static enum reason end_head(struct response *response)
{
    if (response->status == 101)
        return REASON_BAD_HTTP; /* a switch that nobody asked for */
    if (response->status < 200) {
        response->state = STATUS_LINE; /* interim: another head follows */
    } else if (response->status == 204 || response->status == 304) {
        response->state = COMPLETE;
    } else if (response->chunked) {
        response->state = CHUNK_SIZE_START;
    } else if (response->length < 0) {
        response->state = UNSIZED_BODY;
    } else if (response->length > (long long)response->max_body) {
        return REASON_TOO_LARGE;
    } else {
        response->left = (size_t)response->length;
        response->state = response->left > 0 ? COUNTED_BODY : COMPLETE;
    }
    return REASON_NONE;
}

/* Takes a line of a head. */
static enum reason take_head_line(struct response *response, const char *line,
                                  size_t len)
{
    response->head_size += len;
    if (response->head_size > MAX_HEAD)
        return REASON_BAD_HTTP;
    len--; /* the LF */
    if (len > 0 && line[len - 1] == '\r')
        len--;
    if (memchr(line, '\r', len) != NULL || memchr(line, '\0', len) != NULL)
        return REASON_BAD_HTTP;
    if (response->state == STATUS_LINE)
        return take_status_line(response, line, len);
    if (len == 0)
        return end_head(response);
    if (line[0] == ' ' || line[0] == '\t') /* continues the field before */
        return response->state == FIRST_FIELD || response->framing
                   ? REASON_BAD_HTTP
                   : REASON_NONE;

    response->state = FIELDS;
    size_t name_len = 0;
    while (name_len < len && is_token_byte(line[name_len]))
        name_len++;
    if (name_len == 0 || name_len == len || line[name_len] != ':')
        return REASON_BAD_HTTP;
    const char *value = line + name_len + 1;
    size_t value_len = len - name_len - 1;
    while (value_len > 0 && strchr(BLANKS, value[0]) != NULL) {
        value++;
        value_len--;
    }
    while (value_len > 0 && strchr(BLANKS, value[value_len - 1]) != NULL)
        value_len--;
    return take_field(response, line, name_len, value, value_len);
}

/* Appends bytes to the body, up to its limit. */
static enum reason take_content(struct response *response, const char *data,
                                size_t len)
{
    if (len >
        response->max_body - (response->body->len - response->body_start))
        return REASON_TOO_LARGE;
    return buffer_append(response->body, data, len) ? REASON_NONE
                                                    : REASON_NO_MEMORY;
}

/* Returns the value of a hexadecimal digit, or -1. */
static int hex_value(char byte)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *at = byte != '\0' ? strchr(digits, byte) : NULL;

    return at != NULL ? (int)((at - digits) % 16) : -1;
}

/* Takes a byte of a chunk's size line. */
static enum reason take_size_byte(struct response *response, char byte)
{
    int digit = hex_value(byte);
    bool in_size =
        response->state == CHUNK_SIZE_START || response->state == CHUNK_SIZE;

    if (++response->line_size > MAX_CHUNK_LINE || byte == '\0')
        return REASON_BAD_HTTP;
    if (in_size && digit >= 0) {
        response->state = CHUNK_SIZE;
        if (response->left <= response->max_body) /* else too large anyway */
            response->left = response->left * 16 + (size_t)digit;
        return response->line_size <= MAX_SIZE_DIGITS ? REASON_NONE
                                                      : REASON_BAD_HTTP;
    }
    if (response->state == CHUNK_SIZE_START ||
        (response->state == CHUNK_SIZE && strchr("; \t\r\n", byte) == NULL) ||
        (response->state == CHUNK_BLANKS && strchr("; \t", byte) == NULL) ||
        (response->state == CHUNK_SIZE_LF && byte != '\n'))
        return REASON_BAD_HTTP;
    if (response->left > response->max_body)
        return REASON_TOO_LARGE;

    if (byte == '\n') {
        response->bare_lf = response->state != CHUNK_SIZE_LF;
        response->state = response->left > 0 ? CHUNK_DATA : TRAILER_START;
    } else if (byte == '\r') {
        response->state = CHUNK_SIZE_LF;
    } else if (byte == ';') {
        response->state = CHUNK_EXTENSION;
    } else if (response->state == CHUNK_SIZE) {
        response->state = CHUNK_BLANKS;
    }
    return REASON_NONE;
}

/* Takes a byte of the trailers, up to the empty line. */
static enum reason take_trailer_byte(struct response *response, char byte)
{
    if (++response->head_size > MAX_HEAD || byte == '\0')
        return REASON_BAD_HTTP;
    switch (response->state) {
    case TRAILER_START:
        if (byte == '\n')
            response->state = COMPLETE;
        else if (byte == '\r')
            response->state = TRAILERS_LF;
        else if (is_token_byte(byte))
            response->state = TRAILER_NAME;
        else
            return REASON_BAD_HTTP;
        return REASON_NONE;
    case TRAILER_NAME:
        if (byte == ':')
            response->state = TRAILER_VALUE;
        else if (!is_token_byte(byte))
            return REASON_BAD_HTTP;
        return REASON_NONE;
    case TRAILER_VALUE:
        if (byte == '\n')
            response->state = TRAILER_START;
        else if (byte == '\r')
            response->state = TRAILER_LF;
        return REASON_NONE;
    default:
        if (byte != '\n')
            return REASON_BAD_HTTP;
        response->state =
            response->state == TRAILER_LF ? TRAILER_START : COMPLETE;
        return REASON_NONE;
    }
}

/* Takes bytes of a chunked body. */
static enum reason take_chunked(struct response *response, const char *data,
                                size_t len)
{
    enum reason reason = REASON_NONE;

    while (len > 0 && reason == REASON_NONE && response->state != COMPLETE) {
        size_t used = 1;

        if (response->state == CHUNK_DATA) {
            used = len < response->left ? len : response->left;
            reason = take_content(response, data, used);
            response->left -= used;
            if (response->left == 0)
                response->state = CHUNK_END;
        } else if (response->state == CHUNK_END && *data == '\r') {
            response->state = CHUNK_END_LF;
        } else if (response->state == CHUNK_END ||
                   response->state == CHUNK_END_LF) {
            bool ends = *data == '\n' &&
                        (response->state == CHUNK_END_LF || response->bare_lf);
            reason = ends ? REASON_NONE : REASON_BAD_HTTP;
            response->state = CHUNK_SIZE_START;
            response->line_size = 0;
        } else if (response->state < CHUNK_DATA) {
            reason = take_size_byte(response, *data);
        } else {
            reason = take_trailer_byte(response, *data);
        }
        data += used;
        len -= used;
    }
    if (response->state == COMPLETE && len > 0)
        response->surplus = true;
    return reason;
}

enum reason response_take(struct response *response, const char *data,
                          size_t len)
{
    size_t used = len;

    if (response->state <= FIELDS)
        return take_head_line(response, data, len);
    if (response->state == UNSIZED_BODY)
        return take_content(response, data, len);
    if (response->state != COUNTED_BODY)
        return take_chunked(response, data, len);

    if (used > response->left)
        used = response->left;
    response->surplus = used < len;
    response->left -= used;
    if (response->left == 0)
        response->state = COMPLETE;
    return take_content(response, data, used);
}

bool response_awaits_first_field(const struct response *response)
{
    return response->state == FIRST_FIELD;
}

bool response_is_in_head(const struct response *response)
{
    return response->state <= FIELDS && response->head_size > 0;
}

bool response_has_head(const struct response *response)
{
    return response->state > FIELDS;
}

bool response_is_complete(const struct response *response)
{
    return response->state == COMPLETE || response->state == UNSIZED_BODY;
}

bool response_has_no_content(const struct response *response)
{
    return response->state == COMPLETE &&
           (response->status == 204 || response->status == 304 ||
            (!response->chunked && response->length == 0));
}

bool response_ends_by_close(const struct response *response)
{
    return response->state == UNSIZED_BODY;
}

bool response_allows_reuse(const struct response *response)
{
    bool doubtful =
        response->chunked && (response->length >= 0 || response->old);

    return !response->surplus && !doubtful;
}
