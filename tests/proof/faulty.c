/*
 * faulty.c - the faulty upstream of tests/rogue.h, as a process to be killed
 *
 *     build/proof/faulty PORT DESCRIPTOR
 *
 * The descriptor is a socket of packets. A packet "PATH" makes it answer every
 * request as if that had asked for PATH; an empty text ends it; each is
 * acknowledged by what it has counted. It ends when the socket does.
 *
 * SPDX-License-Identifier: MIT
 */
#include "../rogue.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Says what has been counted. Returns false when nobody listens. */
static bool report(struct rogue *rogue, int control)
{
    struct rogue_counts counts = rogue_counts(rogue);
    char text[128];
    int len =
        snprintf(text, sizeof text, "port=%d connections=%lu requests=%lu",
                 rogue_port(rogue), counts.connections, counts.requests);

    return send(control, text, (size_t)len + 1, MSG_NOSIGNAL) >= 0;
}

int main(int argc, char **argv)
{
    char path[128];

    if (argc != 3) {
        fputs("usage: faulty PORT DESCRIPTOR\n", stderr);
        return 2;
    }
    int control = (int)strtol(argv[2], NULL, 10);
    struct rogue *rogue = rogue_start((int)strtol(argv[1], NULL, 10));
    if (rogue == NULL) {
        fprintf(stderr, "faulty: cannot listen: %s\n", strerror(errno));
        return 1;
    }
    while (report(rogue, control)) {
        ssize_t len = recv(control, path, sizeof path - 1, 0);
        if (len <= 0)
            break;
        path[len] = '\0';
        rogue_force(rogue, path[0] != '\0' ? path : NULL);
    }
    rogue_stop(rogue);
    return 0;
}
