/*
 * sweep.c - the life of a server, again and again, each time with another of
 * its calls failing
 *
 *     build/proof/sweep WORLD CALLS WORKER WORKERS
 *     build/proof/sweep WORLD CALL N ERROR [lasting]
 *
 * A life goes from the start of threadecho over its clients to SIGTERM and its
 * end. It is lived once without a failure, and all calls of all kinds that can
 * fail are counted. Then the first of them fails, and in the next life the
 * second, up to the last, with each error of its kind; and again, while as
 * well all later ones of that kind fail until a client waits in vain.
 *
 * Of the calls that one place in the code makes, no more than CALLS fail, or
 * all of them if that is 0. This process takes one life in WORKERS. WORLD is
 * what the upstream is: http, or tls. The second form lives one life alone,
 * where the N-th CALL, such as malloc, fails, counted from 0, with ERROR, its
 * errno value.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memfd_create */
#include "../command.h"
#include "../fixture.h"
#include "../shim.h"

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define VAIN_MS 400 /* a client that waits longer ends the failures */
#define END_MS 3000 /* so does a server that takes longer to end */
#define PLACES 8192 /* in the code that called what failed, at most */
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define ERRORS 4 /* of a kind of call, at most */
#define NEVER LONG_MAX

/* The kinds of calls, and what each fails with, the hardest first. */
static const struct kind {
    const char *name;
    int errors[ERRORS];
} kinds[SHIM_CALLS] = {
    [SHIM_ALLOC] = {"malloc", {ENOMEM}},
    [SHIM_ACCEPT4] = {"accept4", {EMFILE, EINTR, ECONNABORTED, ENOBUFS}},
    [SHIM_PTHREAD_CREATE] = {"pthread_create", {EAGAIN}},
    [SHIM_GETADDRINFO] = {"getaddrinfo",
                          {EAI_AGAIN, EAI_MEMORY, EAI_NONAME, EAI_FAIL}},
    [SHIM_SEND] = {"send", {ECONNRESET, EINTR, ENOBUFS, SHIM_ONE_BYTE}},
    [SHIM_RECV] = {"recv", {ECONNRESET, EINTR, EAGAIN, SHIM_ONE_BYTE}},
    [SHIM_POLL] = {"accept-poll", {ENOMEM, EINTR}},
    [SHIM_OTHER_POLL] = {"poll", {ENOMEM, EINTR}},
    [SHIM_PIPE2] = {"pipe2", {EMFILE, ENFILE}},
    [SHIM_SOCKET] = {"socket", {EMFILE, ENOBUFS, EAFNOSUPPORT}},
    [SHIM_SOCKETPAIR] = {"socketpair", {EMFILE, ENOBUFS}},
    [SHIM_CONNECT] = {"connect",
                      {ECONNREFUSED, EADDRNOTAVAIL, ENETUNREACH, EINTR}},
    [SHIM_BIND] = {"bind", {EADDRINUSE, EACCES}},
    [SHIM_LISTEN] = {"listen", {EADDRINUSE}},
    [SHIM_SETSOCKOPT] = {"setsockopt", {ENOMEM}},
    [SHIM_GETSOCKOPT] = {"getsockopt", {ENOBUFS}},
    [SHIM_GETSOCKNAME] = {"getsockname", {ENOBUFS}},
    [SHIM_GETPEERNAME] = {"getpeername", {ENOTCONN}},
    [SHIM_GETNAMEINFO] = {"getnameinfo", {EAI_MEMORY}},
    [SHIM_SHUTDOWN] = {"shutdown", {ENOTCONN}},
    [SHIM_EPOLL_CREATE1] = {"epoll_create1", {EMFILE}},
    [SHIM_EPOLL_CTL] = {"epoll_ctl", {ENOMEM, ENOSPC}},
    [SHIM_EPOLL_WAIT] = {"epoll_wait", {EINTR}},
    [SHIM_FCNTL] = {"fcntl", {0}}, /* O_NONBLOCK on a socket cannot fail, */
    [SHIM_IOCTL] = {"ioctl", {EINVAL}},
    [SHIM_OPEN] = {"open", {EMFILE, EACCES, EINTR}},
    [SHIM_FOPEN] = {"fopen", {EMFILE, ENOENT}},
    [SHIM_READ] = {"read", {EIO, EINTR}},
    [SHIM_WRITE] = {"write", {EIO, EAGAIN, ENOSPC, EINTR}},
    [SHIM_CLOSE] = {"close", {EIO, EINTR}},
    [SHIM_STAT] = {"stat", {EACCES}},
    [SHIM_ACCESS] = {"access", {EACCES}},
    [SHIM_GETRLIMIT] = {"getrlimit", {EPERM}},
    [SHIM_SETRLIMIT] = {"setrlimit", {EPERM}},
    [SHIM_SCHED_GETSCHEDULER] = {"sched_getscheduler", {EPERM}},
    [SHIM_SCHED_SETSCHEDULER] = {"sched_setscheduler", {EPERM}},
    [SHIM_SIGNAL] = {"signal", {0}}, /* nor can these, for a signal */
    [SHIM_SIGACTION] = {"sigaction", {0}},
    [SHIM_PTHREAD_SIGMASK] = {"pthread_sigmask", {0}},
    [SHIM_PTHREAD_KILL] = {"pthread_kill", {EAGAIN}},
    [SHIM_PTHREAD_ATTR] = {"pthread_attr", {ENOMEM}},
    [SHIM_PTHREAD_CONDATTR] = {"pthread_condattr", {ENOMEM}},
    [SHIM_NANOSLEEP] = {"nanosleep", {EINTR}},
};

/* A life: which of its calls fails, and how. */
struct fault {
    enum shim_call kind;
    long after; /* this many calls succeed, */
    long count; /* this many fail */
    int error;
};

/* What the tests of this program have in common; each is a process. */
struct common {
    struct shim normal;  /* after the life without a failure */
    struct holding rest; /* of a server that has served */
    long lives;
    long failed[SHIM_CALLS];
    long not_reached; /* lives that were over before the call */
    long refusals;    /* lives that ended at their start */
    long unfreed;     /* lives whose threads still ran at the end */
    long foreign;     /* lives that left memory of OpenSSL's own */
    long places;
    char place[PLACES][SHIM_PLACE_SIZE];
};

static struct common *common;
static struct shim *shim;
static int shim_file;
static struct fault armed; /* of the life that is lived */

static bool tls;
static struct server_process *terminator; /* of TLS, or NULL */
static struct certificate certificate;
static long most_calls, worker, workers = 1;

/*
 * The shim
 */

static void arm(const struct fault *fault)
{
    memset(shim, 0, sizeof *shim);
    atomic_store(&shim->error, fault->error);
    atomic_store(&shim->after, fault->after);
    atomic_store(&shim->count, fault->count);
    atomic_store(&shim->call, (int)fault->kind);
    armed = *fault;
}

static void disarm(void)
{
    atomic_store(&shim->call, SHIM_NONE);
}

static bool has_failed(void)
{
    return atomic_load(&shim->failed) > 0;
}

/* Says in a failed test which call was failed. */
static void explain_fault(FILE *out)
{
    if (!has_failed()) {
        fprintf(out, "; no call had failed");
        return;
    }
    fprintf(out, "; %ld calls had failed with %d, the first at %s: sweep %s ",
            atomic_load(&shim->failed), armed.error, shim->place,
            tls ? "tls" : "http");
    fprintf(out, "%s %ld %d%s", kinds[armed.kind].name, armed.after,
            armed.error, armed.count == 1 ? "" : " lasting");
}

#define must(condition, ...)                                                  \
    ((condition) ? (void)0 : give_up(__VA_ARGS__)) /* like ck_assert_msg */

/*
 * A life
 */

static struct server_process *launch(void)
{
    char upstream_options[256];

    if (tls)
        snprintf(upstream_options, sizeof upstream_options,
                 "https://127.0.0.1:%s/text --cacert %s", terminator->port,
                 certificate.path);
    else
        snprintf(upstream_options, sizeof upstream_options,
                 "http://upstream.test:%d/text", rogue_port(upstream));
    return server_launch("env LD_PRELOAD=%s SHIM=/proc/%d/fd/%d %s "
                         "--listen 127.0.0.1:{port} --upstream %s --verbose "
                         "--max-connections 2 --max-fetches 1 --timeout 2 "
                         "--line-timeout 0.15",
                         kit_program("tests/shim.so"), (int)getpid(),
                         shim_file, threadecho(), upstream_options);
}

/* Waits until it serves. Returns false if it has ended instead. */
static bool comes_up(struct server_process *s)
{
    long long vain = now_ms() + VAIN_MS;
    long long deadline = now_ms() + PATIENCE_MS;

    for (;;) {
        if (server_ends(s, 0))
            return false;
        /* It may have no way to say so. */
        bool mute = armed.kind == SHIM_OTHER_POLL || armed.kind == SHIM_WRITE;
        if (server_logged(s, "listening on ") > 0 ||
            (mute && has_failed() && server_serves(s, 0)))
            return true;
        if (now_ms() > vain && has_failed())
            disarm();
        must(now_ms() < deadline, "it neither serves nor ends");
        let_pass(1);
    }
}

/* It has ended at its start. */
static void check_refusal(const struct server_process *s)
{
    bool mute = armed.kind == SHIM_OTHER_POLL || armed.kind == SHIM_WRITE;
    char ending[64];
    char *log = server_log(s);

    server_ending(s, ending);
    must(has_failed(), "it %s: %s", ending, log);
    must(WIFEXITED(s->status) && WEXITSTATUS(s->status) == 1, "it %s: %s",
         ending, log);
    must(mute || strncmp(log, "threadecho: ", strlen("threadecho: ")) == 0,
         "it %s, and says: '%s'", ending, log);
    free(log);
    common->refusals++;
}

/* Returns the next line. If the client waits in vain nothing fails any more,
 * and then it must come. */
static const char *patient_line(struct client *c)
{
    if (!client_hears(c, VAIN_MS) && has_failed())
        disarm();
    return client_line(c);
}

/* Returns whether the client has its reply: this one, unless a call failed;
 * then it may be the other one, an error or the end. */
static bool answers_either(struct client *c, const char *reply,
                           const char *other)
{
    const char *line = patient_line(c);

    if (strcmp(line, reply) == 0)
        return true;
    must(has_failed(), "without a failure: '%.200s', not '%s'", line, reply);
    if (strncmp(line, "error: ", strlen("error: ")) == 0 ||
        strcmp(line, other) == 0)
        return true;
    /* One byte of it: a rejected client's socket is new, and takes all. */
    bool cut = armed.error == SHIM_ONE_BYTE && reply != other &&
               strcmp(line, "<end in mid-line>") == 0;
    must(cut || strcmp(line, "<end>") == 0 || strcmp(line, "<reset>") == 0,
         "'%.200s' instead of '%s'", line, reply);
    return false;
}

static bool answers(struct client *c, const char *reply)
{
    return answers_either(c, reply, reply);
}

/* Sends text, which the server may have no ear for any more. */
static void tell(const struct client *c, const char *text)
{
    ssize_t len = (ssize_t)strlen(text);
    ssize_t sent = send(c->fd, text, (size_t)len, MSG_NOSIGNAL);
    must(sent == len || has_failed(), "it does not take a line");
}

/* Asks by a client, or by another if that one's connection has ended. */
static void ask(const struct server_process *s, struct client **c,
                const char *line, const char *reply)
{
    tell(*c, line);
    tell(*c, "\n");
    if (answers(*c, reply))
        return;
    client_close(*c);
    *c = client_open(s);
}

/* Waits until there is room for as many clients as ever. */
static void await_room(const struct server_process *s)
{
    if (!has_failed())
        server_closes_all(s);
}

/* Lets clients do each thing that they may. */
static void converse(const struct server_process *s)
{
    char line[3000], reply[sizeof line + 6];
    struct client *c = client_open(s);

    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    snprintf(reply, sizeof reply, "echo: %s", line);

    ask(s, &c, "hello", "echo: hello");
    ask(s, &c, "/chunked", "echo: /chunked");
    ask(s, &c, "/status/404", "error: upstream returned 404");

    struct client *slow = client_open(s);
    tell(slow, "a line that is not");
    struct client *third = client_open(s);
    tell(third, "hello\n");
    /* Once a call has failed there may be room for this one. */
    bool rejected =
        answers_either(third, "error: too many connections", "echo: hello");
    bool timed_out = answers(slow, "error: line timed out");
    if (rejected && !has_failed())
        ck_assert_str_eq(client_line(third), "<end>");
    if (timed_out && !has_failed())
        ck_assert_str_eq(client_line(slow), "<end>");
    client_close(third);
    client_close(slow);

    ck_assert_int_eq(kill(s->pid, SIGUSR1), 0);
    ask(s, &c, "/short", "error: upstream closed early");
    ask(s, &c, line, reply);
    client_close(c);

    await_room(s);
    c = client_open(s);
    tell(c, "the last line");
    must(shutdown(c->fd, SHUT_WR) == 0 || has_failed(), "it has gone");
    answers(c, "echo: the last line");
    client_close(c);
    await_room(s);
}

/* Stops it, with a request under way. */
static void stop(struct server_process *s)
{
    struct client *c = client_open(s);

    tell(c, "/delay/20\n");
    ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    answers(c, "echo: /delay/20");
    client_close(c);
    if (!server_ends(s, END_MS) && has_failed())
        disarm();
}

/* Returns how many blocks of this place are left in the end. */
static long usually_left(const char *place)
{
    for (int i = 0; i < common->normal.places; i++)
        if (strcmp(common->normal.left[i].place, place) == 0)
            return common->normal.left[i].blocks;
    return 0;
}

/* Returns whether a library leaves this block itself, which we cannot mend:
 * the loader keeps what a thread had that ends just then; OpenSSL leaves some
 * when memory runs out, and libcurl 7.88 the addresses of a name when the
 * thread that resolved it can't say so on its socket. */
static bool is_foreign(const char *place)
{
    if (strncmp(place, "ld-linux", strlen("ld-linux")) == 0)
        return true;
    if (armed.kind == SHIM_ALLOC)
        return strncmp(place, "libcrypto.", strlen("libcrypto.")) == 0 ||
               strncmp(place, "libssl.", strlen("libssl.")) == 0;
    return armed.kind == SHIM_SEND &&
           strncmp(place, "libcurl.", strlen("libcurl.")) == 0;
}

/* It must have ended well, with all memory freed. */
static void check_end(struct server_process *s)
{
    char ending[64];
    int status = server_stop(s);
    char *log = server_log(s);

    server_ending(s, ending);
    must(status == 0, "it %s: %s", ending, log);
    free(log);
    if (atomic_load(&shim->ended) == SHIM_LEFT) {
        common->unfreed++;
        return;
    }
    must(atomic_load(&shim->ended) == SHIM_EXITED, "its memory is not known");
    must(shim->places >= 0, "it leaves memory at too many places");
    int foreign = 0, libcurl = 0;
    for (int i = 0; i < shim->places; i++) {
        const char *place = shim->left[i].place;
        bool ours = strncmp(place, "threadecho+", strlen("threadecho+")) == 0;
        long normal = ours ? 0 : usually_left(place);
        if (shim->left[i].blocks <= normal ||
            (armed.kind == SHIM_ANY && !ours))
            continue; /* or it is the normal life itself */
        must(is_foreign(place), "it leaves %ld blocks of %s, not %ld",
             shim->left[i].blocks, place, normal);
        foreign++;
        libcurl += strncmp(place, "libcurl.", strlen("libcurl.")) == 0;
    }
    must(libcurl < 2, "it leaves blocks of %d places in libcurl", libcurl);
    common->foreign += foreign > 0;
}

/* Keeps figures of the life that is over. */
static void note_life(void)
{
    long i = 0;

    common->lives++;
    if (!has_failed()) {
        common->not_reached++;
        return;
    }
    common->failed[armed.kind] += atomic_load(&shim->failed);
    while (i < common->places && strcmp(common->place[i], shim->place) != 0)
        i++;
    if (i < PLACES)
        memcpy(common->place[i], shim->place, SHIM_PLACE_SIZE);
    if (i == common->places && i < PLACES)
        common->places++;
}

/* A fresh client must be served, and descriptors and threads be as ever. */
static void check_rest(const struct server_process *s)
{
    long long deadline = now_ms() + PATIENCE_MS;
    /* libcurl can do without the pair that wakes it. */
    bool fewer = armed.kind == SHIM_SOCKETPAIR;

    server_closes_all(s);
    struct client *c = client_open(s);
    tell(c, "are you there?\n");
    const char *line = client_line(c);
    must(strcmp(line, "echo: are you there?") == 0,
         "a fresh client is told '%.200s'", line);
    client_close(c);
    for (;;) {
        struct holding now = server_holds(s);
        if ((now.descriptors == common->rest.descriptors ||
             (fewer && now.descriptors == common->rest.descriptors - 2)) &&
            now.threads == common->rest.threads)
            return;
        must(now_ms() < deadline,
             "it keeps %ld descriptors and %ld threads, not %ld and %ld",
             now.descriptors, now.threads, common->rest.descriptors,
             common->rest.threads);
        let_pass(2);
    }
}

static void live(const struct fault *fault)
{
    arm(fault);
    struct server_process *s = launch();
    if (!comes_up(s)) {
        check_refusal(s);
        server_free(s);
        note_life();
        return;
    }
    converse(s);
    if (has_failed()) {
        disarm();
        check_rest(s);
    }
    stop(s);
    check_end(s);
    server_free(s);
    note_life();
}

/*
 * The lives
 */

/* Returns memory that processes share, all zero, and its file; or
 * MAP_FAILED. */
static void *share(size_t size, int *fd)
{
    *fd = memfd_create("shared", 0);
    if (*fd < 0 || ftruncate(*fd, (off_t)size) != 0)
        return MAP_FAILED;
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
}

static void set_up(void)
{
    explain = explain_fault;
    shim = share(sizeof *shim, &shim_file);
    ck_assert_ptr_ne(shim, MAP_FAILED);
}

static void tear_down(void)
{
    munmap(shim, sizeof *shim);
    close(shim_file);
}

/* What a server has open while it waits for clients. */
START_TEST(test_life_at_rest)
{
    memset(shim, 0, sizeof *shim);
    struct server_process *s = launch();
    ck_assert(comes_up(s));
    common->rest = server_rests(s);
    ck_assert_int_eq(server_stop(s), 0);
    server_free(s);
}
END_TEST

START_TEST(test_life_without_a_failure)
{
    common->lives = 0;
    live(&(struct fault){.kind = SHIM_ANY});
    ck_assert_int_eq(common->unfreed, 0);
    common->normal = *shim;
}
END_TEST

/* The lives that are to be lived. */
static struct fault lives[SHIM_ORDER * 2];
static size_t life_count;

static void add_life(enum shim_call kind, long after, long count, int error)
{
    if (life_count < COUNT(lives))
        lives[life_count++] = (struct fault){kind, after, count, error};
}

/* Adds the lives in which the n-th call of the normal one fails. */
static void add_lives_of_call(long n)
{
    const struct shim *normal = &common->normal;
    enum shim_call kind = normal->kinds[n];
    long earlier = 0; /* of its kind */

    for (long i = 0; i < n; i++)
        earlier += normal->kinds[i] == normal->kinds[n];
    for (int i = 0; i < ERRORS && kinds[kind].errors[i] != 0; i++)
        add_life(kind, earlier, 1, kinds[kind].errors[i]);
    if (kinds[kind].errors[0] != 0)
        add_life(kind, earlier, NEVER, kinds[kind].errors[0]);
}

/* Chooses calls that fail, evenly among those of each place. */
static void choose_lives(void)
{
    const struct shim *normal = &common->normal;
    long seen = atomic_load(&normal->seen);

    if (seen > SHIM_ORDER)
        seen = SHIM_ORDER;
    for (long n = 0; n < seen; n++) {
        long all = 0, earlier = 0;
        for (long i = 0; i < seen; i++) {
            bool same = normal->kinds[i] == normal->kinds[n] &&
                        normal->callers[i] == normal->callers[n];
            all += same;
            earlier += same && i < n;
        }
        if (most_calls == 0 || all <= most_calls || earlier == 0 ||
            earlier * most_calls / all != (earlier - 1) * most_calls / all)
            add_lives_of_call(n);
    }
}

START_TEST(test_life_with_a_call_failing)
{
    live(&lives[_i * workers + worker]);
}
END_TEST

static void start_world(void)
{
    start_upstream();
    if (!tls)
        return;
    certificate = certificate_make();
    char path[128];
    snprintf(path, sizeof path, "%s/haproxy.cfg", certificate.dir);
    char both[128];
    snprintf(both, sizeof both, "%s/both.pem", certificate.dir);
    struct command *joined =
        command_run("cat %s %s >%s", certificate.path, certificate.key, both);
    ck_assert_int_eq(joined->status, 0);
    command_free(joined);
    FILE *config = fopen(path, "we");
    ck_assert_ptr_nonnull(config);
    fprintf(config,
            "defaults\n    timeout connect 5s\n    timeout client 60s\n"
            "    timeout server 60s\nlisten tls\n    mode tcp\n"
            "    bind 127.0.0.1:\"$PORT\" ssl crt %s\n"
            "    server rogue 127.0.0.1:%d\n",
            both, rogue_port(upstream));
    ck_assert_int_eq(fclose(config), 0);
    terminator = server_start(NULL, "env PORT={port} haproxy -db -f %s", path);
}

static void end_world(void)
{
    stop_upstream();
    if (!tls)
        return;
    if (terminator->pid > 0)
        ck_assert_int_eq(kill(terminator->pid, SIGKILL), 0);
    server_free(terminator);
    char path[128];
    snprintf(path, sizeof path, "%s/haproxy.cfg", certificate.dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/both.pem", certificate.dir);
    unlink(path);
    certificate_remove(&certificate);
}

static TCase *add_world(Suite *suite, const char *name)
{
    TCase *tcase = add_case_with(suite, name, set_up, tear_down);
    tcase_add_unchecked_fixture(tcase, start_world, end_world);
    return tcase;
}

/* Prints what tests/proof/torture reads. */
static void print_figures(void)
{
    printf("calls %ld\nlives %ld\nrefusals %ld\nnot_reached %ld\n"
           "unfreed %ld\nforeign %ld\n",
           atomic_load(&common->normal.seen), common->lives, common->refusals,
           common->not_reached, common->unfreed, common->foreign);
    for (int i = 0; i < SHIM_CALLS; i++)
        if (common->failed[i] > 0)
            printf("failed %ld %s\n", common->failed[i], kinds[i].name);
    for (long i = 0; i < common->places; i++)
        printf("place %s\n", common->place[i]);
}

/* Reads a whole number, or ends the program. */
static long number(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end != '\0') {
        fprintf(stderr, "sweep: neither a call nor a number: %s\n", text);
        exit(2);
    }
    return value;
}

/* Adds the one life that the command line asks for. Returns false if there is
 * no such kind of call. */
static bool choose_life(int argc, char **argv)
{
    for (int i = 0; i < SHIM_CALLS; i++)
        if (kinds[i].name != NULL && strcmp(argv[2], kinds[i].name) == 0) {
            add_life((enum shim_call)i, number(argv[3]), argc > 5 ? NEVER : 1,
                     (int)number(argv[4]));
            return true;
        }
    return false;
}

/* Reads the command line. Returns false if it is none. */
static bool parse(int argc, char **argv)
{
    if (argc < 5 || argc > 6)
        return false;
    tls = strcmp(argv[1], "tls") == 0;
    if (!tls && strcmp(argv[1], "http") != 0)
        return false;
    if (choose_life(argc, argv))
        return true;
    most_calls = number(argv[2]);
    worker = number(argv[3]);
    workers = number(argv[4]);
    return argc == 5 && worker < workers;
}

int main(int argc, char **argv)
{
    if (!parse(argc, argv)) {
        fprintf(stderr, "usage: sweep http|tls CALLS WORKER WORKERS\n"
                        "       sweep http|tls CALL N ERROR [lasting]\n");
        return 2;
    }
    int fd;
    common = share(sizeof *common, &fd);
    if (common == MAP_FAILED)
        return 1;
    Suite *first = suite_create("a life without a failure");
    TCase *normal = add_world(first, "normal");
    tcase_add_test(normal, test_life_at_rest);
    tcase_add_test(normal, test_life_without_a_failure);
    if (run_suite(first) != 0)
        return 1;

    common->lives = common->not_reached = 0;
    Suite *suite = suite_create("lives with a call failing");
    if (life_count == 0)
        choose_lives();
    long mine = ((long)life_count - worker + workers - 1) / workers;
    tcase_add_loop_test(add_world(suite, "failing"),
                        test_life_with_a_call_failing, 0, (int)mine);
    int failures = run_suite(suite);
    print_figures();
    return failures == 0 ? 0 : 1;
}
