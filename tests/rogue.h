/*
 * rogue.h - a faulty HTTP upstream inside the test process
 *
 * It has a thread per connection. The path of a request says how it is
 * answered; the table of paths is in rogue.c.
 *
 *   struct rogue *r = rogue_start(0);
 *   rogue_url(r, "/short", url);       -> the server fetches url?text=LINE
 *   rogue_stop(r);
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef ROGUE_H
#define ROGUE_H

#include <stdbool.h>
#include <stddef.h>

#define ROGUE_URL_SIZE 256

/*
 * Paths that answer properly. TEXT is the percent-decoded parameter "text".
 *
 *   /good             TEXT, with a length, connection kept
 *   /text             what TEXT names if it begins with '/', else as /good
 *   /arrpi.php        the same: what build/upstream is asked for
 *   /delay/MS         TEXT after MS milliseconds
 *   /chunked          TEXT, each byte a chunk, with a trailer
 *   /unsized          TEXT, ended by the close
 *   /interim          TEXT after two 1xx responses
 *   /close            TEXT, with Connection: close
 *   /close-unsaid     TEXT and with it a close that was not announced
 *   /stale            TEXT once, the next request on the connection gets EOF
 *   /body             what rogue_set_body() gave; /body-chunked likewise
 *   /size/N           N bytes 'x'; /size-chunked/N likewise
 *   /empty, /204      200 with no body, 204
 *   /unasked          chunks "b0dy", and a response that nobody asked for
 *
 * Paths that return a status:
 *
 *   /status/NNN       with a body of its own; /status-bare/NNN without one
 *   /redirect-file/NNN, /redirect-ftp/NNN, /redirect-self/NNN
 *
 * Paths that misbehave, by what they do:
 *
 *   /empty-reply      reads the request and closes
 *   /reset            reads the request and resets the connection
 *   /short            closes in mid-body, a length was given
 *   /short-chunked    closes in mid-body, chunked
 *   /reset-body       resets in mid-body
 *   /short-head       closes in mid-header
 *   /bad-chunk        a chunk length that is no number, after a good chunk
 *   /garbage          bytes that are not HTTP
 *   /http09           a bare body
 *   /header-line      one header line that never ends
 *   /headers          headers that never end
 *   /interim-flood    1xx responses that never end
 *   /trailers         trailers that never end
 *   /hang             never answers
 *   /hang-body        stops in mid-body
 *   /drip, /drip-head a byte each 50 ms, forever, of the body, of a header
 *   /huge             an unbounded body: with a length of 1 TiB,
 *   /huge-chunked     chunked,
 *   /huge-unsized     or until the close
 *   /packed           Content-Encoding: gzip, see rogue_packed()
 *
 * What does not begin with a letter gets 400 and a close, as TLS does from
 * many a server.
 */

struct rogue;

/* What an upstream has seen since it was started. */
struct rogue_counts {
    unsigned long requests;    /* complete request heads read */
    unsigned long connections; /* accepted in all */
    unsigned long open;        /* open now */
    unsigned long peak_open;   /* most that were open at a time */
    unsigned long busy;        /* requests being answered, or just answered */
    unsigned long peak_busy;   /* most of these at a time */
};

/*
 * Listens on 127.0.0.1:port (0: any free port) and serves until rogue_stop().
 * Returns NULL and sets errno if it cannot. All functions below may be called
 * from any thread while it runs.
 */
struct rogue *rogue_start(int port);

/* Closes the listener and every connection, ends every thread, frees r. */
void rogue_stop(struct rogue *r);

int rogue_port(const struct rogue *r);

/* Writes "http://127.0.0.1:PORT" and path to url. */
void rogue_url(const struct rogue *r, const char *path,
               char url[ROGUE_URL_SIZE]);

/* From now on answers every request as if it asked for path; NULL ends it. */
void rogue_force(struct rogue *r, const char *path);

/* What /body and /body-chunked answer; the bytes are copied. */
void rogue_set_body(struct rogue *r, const void *data, size_t len);

struct rogue_counts rogue_counts(struct rogue *r);

/*
 * The head of the n-th request, counted from 0, as a string to free():
 * request line and headers as they came. NULL if there was none, or if more
 * than 4096 came after it.
 */
char *rogue_request(struct rogue *r, unsigned long n);

#define ROGUE_ANSWER_KEPT 512U

/* A request and its answer. */
struct rogue_exchange {
    char *head; /* as above */
    char *text; /* decoded */
    size_t text_len;
    char answer[ROGUE_ANSWER_KEPT]; /* its beginning */
    size_t answer_len;              /* of the whole, which may be longer */
    bool answered;                  /* false while it is being answered */
};

/* Returns a copy of the n-th request and its answer, which rogue_forget()
 * frees; or NULL, as rogue_request() does. */
struct rogue_exchange *rogue_recall(struct rogue *r, unsigned long n);
void rogue_forget(struct rogue_exchange *exchange);

/* What /packed sends: 8 MiB of zeros as gzip, to free(). Sets *len. */
unsigned char *rogue_packed(size_t *len);

#endif
