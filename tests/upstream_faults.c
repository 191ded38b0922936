/*
 * upstream_faults.c - how the rogue answers, see upstream_faults.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "upstream_faults.h"

#include <stdio.h>
#include <string.h>

#define RETURNED "upstream returned" /* which the status follows */
#define CLOSED "upstream closed early"
#define BAD "upstream sent bad HTTP"
#define LARGE "upstream body too large"
#define LATE "upstream timed out"

#define ERROR_PAGE "<h1>the body of an error</h1>\r\n"

const struct upstream_fault upstream_faults[] = {
    {"/good", NULL, 200, "/good"},
    {"/delay/20", NULL, 200, "/delay/20"},
    {"/chunked", NULL, 200, "/chunked"},
    {"/unsized", NULL, 200, "/unsized"},
    {"/interim", NULL, 200, "/interim"},
    {"/close", NULL, 200, "/close"},
    {"/close-unsaid", NULL, 200, "/close-unsaid"},
    {"/stale", NULL, 200, "/stale"},
    {"/size/10", NULL, 200, "xxxxxxxxxx"},
    {"/size-chunked/10", NULL, 200, "xxxxxxxxxx"},
    {"/empty", NULL, 200, ""},
    {"/204", NULL, 204, ""},
    {"/status/201", NULL, 201, ERROR_PAGE},
    {"/status/206", NULL, 206, ERROR_PAGE},
    {"/status/299", NULL, 299, ERROR_PAGE},
    {"/status-bare/299", NULL, 299, ""},
    /* Any other status, and no redirect is followed. */
    {"/status/300", RETURNED, 300, NULL},
    {"/status/304", RETURNED, 304, NULL},
    {"/status/400", RETURNED, 400, NULL},
    {"/status/401", RETURNED, 401, NULL},
    {"/status/404", RETURNED, 404, NULL},
    {"/status/407", RETURNED, 407, NULL},
    {"/status/408", RETURNED, 408, NULL},
    {"/status/429", RETURNED, 429, NULL},
    {"/status/500", RETURNED, 500, NULL},
    {"/status/503", RETURNED, 503, NULL},
    {"/status/599", RETURNED, 599, NULL},
    {"/status/999", RETURNED, 999, NULL},
    {"/status-bare/404", RETURNED, 404, NULL},
    {"/status-bare/500", RETURNED, 500, NULL},
    {"/no-such-path", RETURNED, 404, NULL},
    {"/redirect-file/301", RETURNED, 301, NULL},
    {"/redirect-file/302", RETURNED, 302, NULL},
    {"/redirect-ftp/302", RETURNED, 302, NULL},
    {"/redirect-ftp/303", RETURNED, 303, NULL},
    {"/redirect-self/307", RETURNED, 307, NULL},
    {"/redirect-self/308", RETURNED, 308, NULL},
    /* Cut off. */
    {"/empty-reply", CLOSED, 0, NULL},
    {"/reset", CLOSED, 0, NULL},
    {"/short", CLOSED, 200, NULL},
    {"/short-chunked", CLOSED, 200, NULL},
    {"/reset-body", CLOSED, 200, NULL},
    {"/short-head", CLOSED, 200, NULL},
    /* Not HTTP. */
    {"/bad-chunk", BAD, 200, NULL},
    {"/garbage", BAD, 0, NULL},
    {"/http09", BAD, 0, NULL},
    {"/header-line", BAD, 200, NULL},
    {"/headers", BAD, 200, NULL},
    {"/interim-flood", BAD, 100, NULL},
    {"/trailers", BAD, 200, NULL},
    /* Too much. */
    {"/huge", LARGE, 200, NULL},
    {"/huge-chunked", LARGE, 200, NULL},
    {"/huge-unsized", LARGE, 200, NULL},
    /* Too slow. */
    {"/hang", LATE, 0, NULL},
    {"/hang-body", LATE, 200, NULL},
    {"/drip", LATE, 200, NULL},
    {"/drip-head", LATE, 200, NULL},
};
const int upstream_fault_count =
    sizeof upstream_faults / sizeof upstream_faults[0];

bool fault_times_out(const struct upstream_fault *fault)
{
    return fault->reason != NULL && strcmp(fault->reason, LATE) == 0;
}

const char *fault_reply(const struct upstream_fault *fault, char *text,
                        size_t size)
{
    if (fault->reason == NULL) /* no body of the table has breaks inside */
        snprintf(text, size, "echo: %.*s", (int)strcspn(fault->body, "\r\n"),
                 fault->body);
    else if (strcmp(fault->reason, RETURNED) == 0)
        snprintf(text, size, "error: %s %ld", fault->reason, fault->status);
    else
        snprintf(text, size, "error: %s", fault->reason);
    return text;
}
