/* SPDX-License-Identifier: MIT */
/*
 * peer.h: what the C peers have in common, so that each of their files shows
 * its model and nothing else: the command line, the listening socket, and the
 * line protocol of README.md.
 */
#ifndef PEER_H
#define PEER_H

#include <stdbool.h>
#include <stddef.h>

enum {
    MAX_LINE = 65536,       /* bytes, without CR and LF */
    MAX_BODY = 1024 * 1024, /* bytes of an upstream's answer */
    FETCH_SECONDS = 10,     /* one fetch, in all */
    SEND_SECONDS = 10       /* a client that does not read */
};

/* What the command line asked for. */
struct peer {
    const char *name;
    char *listen;         /* HOST:PORT */
    const char *upstream; /* a URL */
    bool keepalive;       /* false: a new upstream connection per fetch */
};

/* Reads the command line and raises the limit of descriptors. */
struct peer read_options(const char *name, int argc, char **argv);

/* Listens and says so on stderr. Returns the socket, or ends the process. */
int start_listening(const struct peer *peer);

/*
 * The next client, with TCP_NODELAY and a send timeout. Waits for as long as
 * it takes; where descriptors or memory are short it tries again in 100 ms.
 */
int accept_client(int listener);

/*
 * Takes HOST:PORT or [HOST]:PORT apart, in place. A port that is not there
 * leaves *port as it was. False: a part is missing.
 */
bool split_address(char *address, char **host, char **port);

/* Says on stderr what failed, and why (an errno value). */
void complain(const char *what, int error);

/* Sends all of it; false: the client is gone, or has not read for 10 s. */
bool send_all(int fd, const char *data, size_t len);

/* A connection's input. 64 KiB that cost only the pages that were used. */
struct lines {
    size_t start; /* the bytes not handed out yet: data[start..end) */
    size_t end;
    bool skipping; /* inside a line that was too long */
    bool at_end;   /* the client will send no more */
    char data[MAX_LINE + 2];
};

enum line {
    LINE_READY,    /* *line and *len, until the next call */
    LINE_TOO_LONG, /* to be answered with an error; the rest is skipped */
    LINE_NONE      /* not before more input; with at_end: never */
};

void lines_init(struct lines *in);

/* Makes room at data[end..] and says how many bytes; a line may move. */
size_t lines_room(struct lines *in);

/* The next line of what has arrived; takes no system call. */
enum line next_line(struct lines *in, char **line, size_t *len);

/* The same, blocking in recv() where need be: LINE_NONE is the end. */
enum line read_line(struct lines *in, int fd, char **line, size_t *len);

/*
 * Makes a body fit on one line, in place: line breaks at its end go, each
 * other run of CR and LF becomes a space. Returns the new length.
 */
size_t flatten(char *body, size_t len);

#endif
