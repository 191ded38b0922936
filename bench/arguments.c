/*
 * arguments.c - what the kit's programs do with their arguments and outputs
 *
 * SPDX-License-Identifier: MIT
 */
#include "arguments.h"
#include "../lib/values.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define HOST_TEXT 256 /* bytes of a host name, its NUL included */

void exit_bad_usage(const char *program, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fprintf(stderr, "%s: ", program);
    vfprintf(stderr, format, values);
    fprintf(stderr, "\nTry %s --help.\n", program);
    va_end(values);
    exit(2);
}

void exit_printing(const char *program, const char *text)
{
    /* close_stdout() reports an error. */
    (void)fputs(text, stdout);
    exit(close_stdout(program) ? 0 : 1);
}

int next_option(const char *program, int argc, char **argv,
                const char *letters, const struct option *options)
{
    /* getopt_long() begins its messages with this, and only reads it. */
    if (argc > 0)
        argv[0] = (char *)program;
    int option = getopt_long(argc, argv, letters, options, NULL);
    if (option == '?') {
        fprintf(stderr, "Try %s --help.\n", program);
        exit(2);
    }
    return option;
}

uint64_t whole_argument(const char *program, const char *option,
                        const char *text, uint64_t min, uint64_t max)
{
    char problem[BAD_VALUE_SIZE];
    uint64_t value = 0;
    if (!parse_whole(text, min, max, &value))
        exit_bad_usage(program, "%s: %s", option,
                       describe_bad_value(problem, text, "whole number",
                                          (double)min, (double)max));
    return value;
}

double decimal_argument(const char *program, const char *option,
                        const char *text, const char *kind, double min,
                        double max)
{
    char problem[BAD_VALUE_SIZE];
    double value = 0;
    if (!parse_decimal(text, min, max, &value))
        exit_bad_usage(program, "%s: %s", option,
                       describe_bad_value(problem, text, kind, min, max));
    return value;
}

/* Resolves HOST:PORT. Returns NULL, or a constant text that says why not. */
static const char *resolve(const char *text, struct address *address)
{
    const char *port = strrchr(text, ':');
    if (port == NULL)
        return "not HOST:PORT";
    const char *begin = text;
    const char *end = port;
    if (*begin == '[') {
        begin++;
        if (end == begin || *--end != ']')
            return "not [IPv6]:PORT";
    } else if (memchr(text, ':', (size_t)(port - text)) != NULL) {
        return "an IPv6 address needs brackets, as in [::1]:8080";
    }
    char host[HOST_TEXT];
    size_t len = (size_t)(end - begin);
    if (len == 0 || len >= sizeof host)
        return "the host is missing or too long";
    memcpy(host, begin, len);
    host[len] = '\0';

    uint64_t number = 0;
    if (!parse_whole(port + 1, 0, 65535, &number))
        return "the port is not a whole number from 0 to 65535";

    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int error = getaddrinfo(host, port + 1, &hints, &found);
    if (error != 0)
        return gai_strerror(error);
    memset(address, 0, sizeof *address);
    memcpy(&address->u, found->ai_addr, found->ai_addrlen);
    address->len = found->ai_addrlen;
    freeaddrinfo(found);
    return NULL;
}

struct address address_argument(const char *program, const char *option,
                                const char *text)
{
    struct address address;
    const char *problem = resolve(text, &address);
    if (problem != NULL)
        exit_bad_usage(program, "%s: '%s': %s", option, text, problem);
    return address;
}

const char *format_address(const struct address *address,
                           char text[ADDRESS_TEXT])
{
    char host[64];
    char port[8];
    if (getnameinfo(&address->u.any, address->len, host, sizeof host, port,
                    sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        (void)snprintf(text, ADDRESS_TEXT, "unknown address");
    else if (address->u.any.sa_family == AF_INET6)
        (void)snprintf(text, ADDRESS_TEXT, "[%s]:%s", host, port);
    else
        (void)snprintf(text, ADDRESS_TEXT, "%s:%s", host, port);
    return text;
}

uint64_t raise_descriptor_limit(uint64_t want)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    if (limit.rlim_max < want) {
        struct rlimit more = {.rlim_cur = want, .rlim_max = want};
        /* This fails unless the process is privileged, which is no fault. */
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            return want;
    }
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return before;
    return limit.rlim_cur;
}

/*
 * Returns whether nothing was lost. If something was, says so: without a
 * reason where only ferror() reports it, because errno is stale by then.
 */
static bool report_loss(const char *program, const char *name, bool lost,
                        int error)
{
    if (error != 0)
        fprintf(stderr, "%s: cannot write to %s: %s\n", program, name,
                strerror(error));
    else if (lost)
        fprintf(stderr, "%s: cannot write all to %s\n", program, name);
    return error == 0 && !lost;
}

bool close_output(const char *program, FILE *file, const char *name, int error)
{
    bool lost = ferror(file) != 0;
    if (fclose(file) != 0 && error == 0)
        error = errno;
    return report_loss(program, name, lost, error);
}

bool close_stdout(const char *program)
{
    int error = fflush(stdout) != 0 ? errno : 0;
    return report_loss(program, "standard output", ferror(stdout) != 0, error);
}
