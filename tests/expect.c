/*
 * expect.c - what the protocol suite expects, see expect.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "expect.h"
#include "quote.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define LABEL "    %-11s"
#define INDENT "               " /* as wide as a label */
#define WIDTH 64U                /* of what follows it, in 79 columns */
#define SHOWN_TEXTS 3            /* asked for too often, or not at all */
#define SHOWN_TARGET 17U /* bytes of an encoded text, after curl's URL */
#define CRASH_MS 100     /* for a server that just crashed to end */

/* What a failure is context. */
static struct {
    const char *program;
    const char *test;
    int number;
    const char *what; /* the case in words, or NULL */
    const struct server_process *server;
    struct rogue *upstream;
    const char *manner; /* a path of the rogue, or NULL */
    struct bytes line;  /* that was sent */
    bool line_shown;
    FILE *said; /* all lines of this test, as sent */
    char *said_text;
    size_t said_len;
} context = {.program = "test_protocol"};

static void show(FILE *out, const char *label, const void *data, size_t len)
{
    fprintf(out, LABEL, label);
    quote(out, data, len, WIDTH);
    fputc('\n', out);
}

/* Returns the ending of a word for that many. */
static const char *plural(size_t n)
{
    return n == 1 ? "" : "s";
}

static bool is_for_line(const struct rogue_exchange *exchange)
{
    return context.line.data != NULL &&
           exchange->text_len == context.line.len &&
           memcmp(exchange->text, context.line.data, context.line.len) == 0;
}

/* Returns the last request for the line, or the last one; to rogue_forget(),
 * or NULL if there was none. */
static struct rogue_exchange *last_request(unsigned long requests)
{
    struct rogue_exchange *last = NULL;

    for (unsigned long n = requests; n > 0 && n + 100 > requests; n--) {
        struct rogue_exchange *this = rogue_recall(context.upstream, n - 1);
        if (this != NULL && is_for_line(this)) {
            rogue_forget(last);
            return this;
        }
        if (last == NULL)
            last = this;
        else
            rogue_forget(this);
    }
    return last;
}

/* As last_request(), with the answer: the upstream notes that a little after
 * it has sent it. A request that hangs has none. */
static struct rogue_exchange *last_exchange(unsigned long requests)
{
    long long limit = now_ms() + 200;
    struct rogue_exchange *last = last_request(requests);

    while (last != NULL && !last->answered && now_ms() < limit) {
        let_pass(5);
        rogue_forget(last);
        last = last_request(requests);
    }
    return last;
}

static void show_upstream(FILE *out)
{
    unsigned long requests = rogue_counts(context.upstream).requests;
    struct rogue_exchange *last = last_exchange(requests);

    if (last == NULL) {
        fprintf(out, LABEL "was not asked\n", "upstream:");
        return;
    }
    fprintf(out, LABEL "got %lu request%s; the last%s:\n" INDENT,
            "upstream:", requests, plural(requests),
            is_for_line(last) ? " for this line" : " one");
    quote(out, last->head, strcspn(last->head, "\r\n"), WIDTH);
    fputc('\n', out);
    if (last->answered && last->answer_len > 0) {
        size_t kept = last->answer_len < sizeof last->answer
                          ? last->answer_len
                          : sizeof last->answer;
        show(out, "answered:", last->answer, kept);
        if (kept < last->answer_len)
            fprintf(out, INDENT "and so on, %zu bytes in all\n",
                    last->answer_len);
    } else {
        fprintf(out, LABEL "%s\n", "answered:",
                last->answered ? "nothing: it closed the connection"
                               : "not yet");
    }
    rogue_forget(last);
}

static void show_server(FILE *out)
{
    struct server_process now = *context.server;
    char ending[64];

    (void)server_ends(&now, CRASH_MS);
    server_ending(&now, ending);
    fprintf(out, LABEL "%s\n", "server:", ending);
    server_show_log(context.server, out);
}

/* Writes a word for the shell. */
static void show_word(FILE *out, const char *word)
{
    fputc('\'', out);
    for (; *word != '\0'; word++)
        if (*word == '\'')
            fputs("'\\''", out);
        else
            fputc(*word, out);
    fputc('\'', out);
}

static void show_commands(FILE *out)
{
    const char *command = getenv("SERVER");
    char text[WIDTH] = "";
    size_t used = 0;

    fprintf(out, LABEL, "again:");
    if (command != NULL) {
        fputs("SERVER=", out);
        show_word(out, command);
        fputs(" \\\n" INDENT, out);
    }
    bool fits = strlen(context.program) + strlen(context.test) + 12 < WIDTH;
    fprintf(out, "%s%s--only %s:%d\n", context.program,
            fits ? " " : " \\\n" INDENT, context.test, context.number);
    fprintf(out, LABEL "%s --upstream 8081%s%s\n", "by hand:", context.program,
            context.manner != NULL ? " " : "",
            context.manner != NULL ? context.manner : "");
    size_t len = context.line.data != NULL ? context.line.len : 0;
    if (len > 0 && memchr(context.line.data, '\n', len) != NULL)
        len = strcspn(context.line.data, "\r\n"); /* the first of many */
    for (size_t i = 0; i < len && used <= SHOWN_TARGET; i++)
        used += (size_t)snprintf(
            text + used, sizeof text - used,
            isalnum((unsigned char)context.line.data[i]) ? "%c" : "%%%02X",
            (unsigned char)context.line.data[i]);
    fprintf(
        out, INDENT "curl -i 'http://127.0.0.1:8081" UPSTREAM_PATH "?text=%s'",
        used <= SHOWN_TARGET && context.line.data != NULL ? text : "hello");
}

/* Adds all that is not the comparison itself. */
static void explain_failure(FILE *out)
{
    fputc('\n', out);
    if (context.line.data != NULL && !context.line_shown)
        show(out, "sent:", context.line.data, context.line.len);
    if (context.upstream != NULL)
        show_upstream(out);
    if (context.server != NULL)
        show_server(out);
    if (context.test != NULL)
        show_commands(out);
}

void context_program(const char *path)
{
    context.program = path;
    explain = explain_failure;
}

void context_test(const char *name, int number)
{
    context.test = name;
    context.number = number;
}

void context_case(const char *what)
{
    context.what = what;
}

void context_server(const struct server_process *server,
                    struct rogue *upstream)
{
    context.server = server;
    context.upstream = upstream;
    if (server == NULL)
        context.line = (struct bytes){NULL, 0}; /* the test owned it */
}

void upstream_answers_as(const char *path)
{
    context.manner = path;
    rogue_force(context.upstream, path);
}

/* Adds to the lines that were sent. */
static void remember(const void *data, size_t len)
{
    if (context.said == NULL)
        context.said = open_memstream(&context.said_text, &context.said_len);
    ck_assert_ptr_nonnull(context.said);
    ck_assert_uint_eq(fwrite(data, 1, len, context.said), len);
}

void say_bytes(struct client *c, const void *data, size_t len)
{
    remember(data, len);
    client_send(c, data, len);
}

void say(struct client *c, const char *line)
{
    remember(line, strlen(line));
    remember("\n", 1);
    client_say(c, line);
}

void say_slowly(struct client *c, const char *text)
{
    remember(text, strlen(text));
    client_dribble(c, text, 2);
}

static struct bytes bytes_of(const char *text)
{
    return (struct bytes){text, strlen(text)};
}

/* What client_line() returns if no line came, in words; NULL if one came. */
static const char *missing_line(const struct client *c, const char *got)
{
    static const struct {
        const char *got;
        const char *words;
    } endings[] = {
        {"<end>", "the server closed the connection"},
        {"<end in mid-line>", "the server closed the connection"},
        {"<reset>", "the server reset the connection"},
        {"<silence>", "no more was received for 20 s"},
    };

    for (size_t i = 0;
         c->line_len == 0 && i < sizeof endings / sizeof *endings; i++)
        if (strcmp(got, endings[i].got) == 0)
            return endings[i].words;
    return NULL;
}

/* Shows where two texts differ that are too long to show whole. */
static void show_difference(FILE *out, struct bytes expected,
                            struct bytes received)
{
    size_t at = 0;

    while (at < expected.len && at < received.len &&
           expected.data[at] == received.data[at])
        at++;
    if (at < WIDTH / 3 || (expected.len < WIDTH && received.len < WIDTH))
        return;
    at -= 8; /* to see where that is */
    fprintf(out, LABEL "from byte %zu on:\n", "differ:", at);
    show(out, " expected", expected.data + at, expected.len - at);
    show(out, " received", received.data + at, received.len - at);
}

/* Fails the test: got was the reply, where expected was. */
static _Noreturn void fail_reply(struct client *c, const char *got,
                                 const char *expected_label,
                                 struct bytes expected)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    const char *missing = missing_line(c, got);

    ck_assert_ptr_nonnull(out);
    if (context.line.data != NULL)
        show(out, "sent:", context.line.data, context.line.len);
    context.line_shown = true;
    show(out, expected_label, expected.data, expected.len);
    if (missing == NULL) {
        struct bytes received = {got, c->line_len};
        show(out, "received:", received.data, received.len);
        show_difference(out, expected, received);
    } else if (c->end > c->start) {
        show(out, "received:", c->data + c->start, c->end - c->start);
        fprintf(out, INDENT "without LF; then %s\n", missing);
    } else {
        fprintf(out, LABEL "nothing: %s\n", "received:", missing);
    }
    ck_assert_int_eq(fclose(out), 0);
    text[len - 1] = '\0'; /* the last LF */
    give_up("%s%s%s\n%s",
            missing != NULL ? "a reply is missing" : "a reply is wrong",
            context.what != NULL ? ": " : "",
            context.what != NULL ? context.what : "", text);
}

void expect_bytes(struct client *c, struct bytes line, struct bytes reply)
{
    context.line = line;
    const char *got = client_line(c);
    if (c->line_len != reply.len || memcmp(got, reply.data, reply.len) != 0 ||
        missing_line(c, got) != NULL)
        fail_reply(c, got, "expected:", reply);
}

void expect(struct client *c, const char *line, const char *reply)
{
    expect_bytes(c, bytes_of(line), bytes_of(reply));
}

void expect_error(struct client *c, const char *line)
{
    static const char *const parts_of_bodies[] = {"\r", "b0dy", "<h1>"};
    context.line = bytes_of(line);
    const char *got = client_line(c);

    if (strncmp(got, "error: ", 7) != 0 || got[7] == '\0')
        fail_reply(c, got, "expected:", bytes_of("error: REASON"));
    for (size_t i = 0; i < sizeof parts_of_bodies / sizeof *parts_of_bodies;
         i++)
        if (strstr(got, parts_of_bodies[i]) != NULL)
            fail_reply(c, got, "must lack:", bytes_of(parts_of_bodies[i]));
}

void expect_end(struct client *c)
{
    const char *got = client_line(c);

    context.line = (struct bytes){0};
    if (c->line_len == 0 && strcmp(got, "<end>") == 0)
        return;
    if (missing_line(c, got) == NULL)
        fail_reply(c, got, "expected:", bytes_of(""));
    if (c->end > c->start)
        fail_reply(c, got, "expected:", bytes_of(""));
    give_up("all lines are answered and the client has half-closed, but %s",
            missing_line(c, got));
}

void ask(struct client *c, const char *line, const char *reply)
{
    say(c, line);
    expect(c, line, reply);
}

void ask_error(struct client *c, const char *line)
{
    say(c, line);
    expect_error(c, line);
}

void expect_rest(struct client *c, struct bytes lines, struct bytes replies)
{
    size_t len;

    context.line = lines;
    const char *got = client_rest(c, &len);
    c->line_len = len;
    if (len != replies.len || memcmp(got, replies.data, len) != 0)
        fail_reply(c, got, "expected:", replies);
}

/* Returns what the last request was for, as a string to free(). */
static char *last_target(void)
{
    unsigned long requests = rogue_counts(context.upstream).requests;

    if (requests == 0)
        give_up("the upstream must be asked once for each line");
    char *head = rogue_request(context.upstream, requests - 1);
    ck_assert_ptr_nonnull(head);
    size_t start = strcspn(head, " ");
    start += strspn(head + start, " ");
    char *target = strndup(head + start, strcspn(head + start, " \r"));
    ck_assert_ptr_nonnull(target);
    free(head);
    return target;
}

void expect_target(const char *target)
{
    char *got = last_target();

    if (strcmp(got, target) != 0)
        give_up("the upstream was asked for another target\n"
                "    expected:  %s\n    asked for: %.200s",
                target, got);
    free(got);
}

void expect_target_in(const char *characters)
{
    char *got = last_target();

    if (got[strspn(got, characters)] != '\0')
        give_up("a request has a byte that must be percent-encoded");
    free(got);
}

/* A list of texts, sorted: as many as the rogue remembers. */
struct texts {
    struct bytes list[4096];
    size_t count;
};

/* Of this test. They stay, since each test has a process of its own. */
static struct texts said;
static struct texts asked;

static void add_text(struct texts *texts, const char *data, size_t len)
{
    ck_assert_uint_lt(texts->count, sizeof texts->list / sizeof *texts->list);
    texts->list[texts->count++] = (struct bytes){data, len};
}

static int compare_bytes(const void *left, const void *right)
{
    const struct bytes *a = left;
    const struct bytes *b = right;
    int order = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);

    if (order != 0 || a->len == b->len)
        return order;
    return a->len < b->len ? -1 : 1;
}

/* Lists what the upstream must have been asked for. */
static void list_said(void)
{
    remember("", 0);
    ck_assert_int_eq(fflush(context.said), 0);
    const char *from = context.said_text;
    const char *end = context.said_text + context.said_len;
    while (from < end) {
        const char *lf = memchr(from, '\n', (size_t)(end - from));
        size_t len = (size_t)((lf != NULL ? lf : end) - from);
        bool cr = lf != NULL && len > 0 && from[len - 1] == '\r';
        add_text(&said, from, cr ? len - 1 : len);
        from += len + 1;
    }
}

/* Lists what it was asked for. */
static void list_asked(void)
{
    unsigned long requests = rogue_counts(context.upstream).requests;

    for (unsigned long n = 0; n < requests; n++) {
        struct rogue_exchange *exchange = rogue_recall(context.upstream, n);
        ck_assert_msg(exchange != NULL, "request %lu is forgotten", n);
        add_text(&asked, exchange->text, exchange->text_len);
        exchange->text = NULL; /* it is in the list now */
        rogue_forget(exchange);
    }
}

static void sort(struct texts *texts)
{
    qsort(texts->list, texts->count, sizeof *texts->list, compare_bytes);
}

/* Returns how many texts, from the first on, are the same as it. */
static size_t count_same(const struct texts *texts, size_t from,
                         const struct bytes *text)
{
    size_t n = 0;

    while (from + n < texts->count &&
           compare_bytes(&texts->list[from + n], text) == 0)
        n++;
    return n;
}

/* Returns the lesser of two elements, one of which may be behind the end. */
static const struct bytes *lesser(const struct texts *left, size_t i,
                                  const struct texts *right, size_t j)
{
    if (i == left->count)
        return &right->list[j];
    if (j == right->count)
        return &left->list[i];
    return compare_bytes(&right->list[j], &left->list[i]) < 0 ? &right->list[j]
                                                              : &left->list[i];
}

/* Writes the texts that were not asked for as often as they should. Returns
 * how many there are. */
static size_t compare_texts(FILE *out, unsigned most)
{
    size_t i = 0;
    size_t j = 0;
    size_t wrong = 0;

    while (i < said.count || j < asked.count) {
        const struct bytes *next = lesser(&said, i, &asked, j);
        size_t lines = count_same(&said, i, next);
        size_t requests = count_same(&asked, j, next);
        if (requests < lines || requests > most * lines) {
            if (wrong++ < SHOWN_TEXTS) {
                show(out, "text:", next->data, next->len);
                fprintf(out, INDENT "%zu request%s for %zu such line%s\n",
                        requests, plural(requests), lines, plural(lines));
            }
            context.line = *next;
        }
        i += lines;
        j += requests;
    }
    return wrong;
}

void expect_fetches(unsigned most)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    ck_assert_ptr_nonnull(out);
    list_said();
    list_asked();
    sort(&said);
    sort(&asked);
    size_t wrong = compare_texts(out, most);
    ck_assert_int_eq(fclose(out), 0);
    if (wrong > 0) {
        text[len - 1] = '\0'; /* the last LF */
        context.line_shown = true;
        give_up("the upstream must be asked once for each line\n"
                "    it got %zu request%s for %zu line%s; "
                "wrong for %zu text%s\n%s",
                asked.count, plural(asked.count), said.count,
                plural(said.count), wrong, plural(wrong), text);
    }
    free(text);
}
