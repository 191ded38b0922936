/*
 * harness.c - servers and clients of the black-box tests, see harness.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memfd_create, memmem, syscall, vasprintf */
#include "harness.h"
#include "descendants.h"
#include "quote.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The Makefile says which program is built along with this file. */
#ifndef TEST_PROGRAM
#define TEST_PROGRAM "./threadecho"
#endif

#ifdef __has_feature /* clang's */
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif

#define POLL_MS 2  /* between two looks at what cannot be waited for */
#define REST_MS 10 /* for threads to end that have nothing left to do */

#define REMAINS_MS 2000 /* for what a server has left to end on SIGTERM */
#define KILL_MS 10000   /* for what was killed to end */
#define LOG_LINES 8     /* of a server that failed */
#define GUARD_MS 1000   /* between two looks for what a test has left */

long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

void let_pass(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

void (*explain)(FILE *out);

void give_up(const char *format, ...)
{
    char *text = NULL;
    size_t len = 0;
    va_list args;
    FILE *out = open_memstream(&text, &len);

    ck_assert_ptr_nonnull(out);
    va_start(args, format);
    (void)vfprintf(out, format, args);
    va_end(args);
    if (explain != NULL)
        explain(out);
    ck_assert_int_eq(fclose(out), 0);
    /* Check's own buffer has 8 KiB. */
    ck_abort_msg("%.6000s", text);
}

#define must(condition, ...)                                                  \
    ((condition) ? (void)0 : give_up(__VA_ARGS__)) /* like ck_assert_msg */

static int count_failures(SRunner *runner)
{
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    return failed < 255 ? failed : 255;
}

/* Waits until the process that runs the suite has ended. Until then it kills
 * whatever a failed test has left. Returns how many tests failed. */
static int guard(pid_t runner, const sigset_t *signals)
{
    const struct timespec timeout = {GUARD_MS / 1000, GUARD_MS % 1000};
    int status = 0;

    for (;;) {
        int number = sigtimedwait(signals, NULL, &timeout);
        if (number > 0 && number != SIGCHLD) {
            descendants_end(KILL_MS);
            signal(number, SIG_DFL);
            raise(number);
            sigprocmask(SIG_UNBLOCK, signals, NULL);
        }
        if (waitpid(runner, &status, WNOHANG) == runner)
            break;
        descendants_signal_orphans(SIGKILL);
    }
    descendants_disown(runner);
    descendants_end(KILL_MS);
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    fprintf(stderr, "the suite was killed by signal %d\n", WTERMSIG(status));
    return 1;
}

int run_suite(Suite *suite)
{
    const char *mode = getenv("CK_FORK");
    SRunner *runner = srunner_create(suite);
    sigset_t signals;
    sigset_t before;
    int failed;

    /* A server must not inherit that the caller ignores one, as nohup does. */
    signal(SIGHUP, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    descendants_adopt();
    if (mode != NULL && strcmp(mode, "no") == 0) {
        failed = count_failures(runner); /* for a debugger: in one process */
        descendants_end(KILL_MS);
        srunner_free(runner);
        return failed;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, &before);
    fflush(NULL);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
            exit(255);
        failed = count_failures(runner);
        srunner_free(runner);
        exit(failed);
    }
    srunner_free(runner);
    if (pid < 0) {
        perror("fork");
        exit(255);
    }
    descendants_own(pid);
    failed = guard(pid, &signals);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return failed;
}

void tell_skipped(const char *why)
{
    fprintf(stderr, "skipped: %s\n", why);
}

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons((in_port_t)port),
    };
}

/* Returns a socket bound to that port of the loopback, or -1. */
static int bind_port(int port)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

int free_port(void)
{
    /* Below the range that outgoing connections use: else one of them could
     * take the port before the server does. */
    static unsigned tried;
    for (;;) {
        unsigned mixed = (unsigned)getpid() * 31U + tried++ * 7U;
        int port = 10000 + (int)(mixed % 22000U);
        int fd = bind_port(port);
        if (fd >= 0) {
            close(fd);
            return port;
        }
        ck_assert_msg(tried < 22000, "no free port");
    }
}

int hold_port(int *port)
{
    int fd;
    do {
        *port = free_port();
        fd = bind_port(*port);
    } while (fd < 0);
    return fd;
}

int deaf_port(int *port)
{
    int fd = hold_port(port);
    struct sockaddr_in address = loopback(*port);

    /* One that is never accepted fills the queue; later ones hear nothing. */
    ck_assert_int_eq(listen(fd, 0), 0);
    int filler = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(filler, 0);
    ck_assert_int_eq(
        connect(filler, (struct sockaddr *)&address, sizeof address), 0);
    close(filler);
    return fd;
}

/* Runs in the child of a process that may have threads. */
static _Noreturn void become_server(const char *command, int log, pid_t parent)
{
    int null = open("/dev/null", O_RDWR);
    pid_t now = getppid(); /* 0: it is outside of this PID namespace */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && (now == parent || now == 0) &&
        null >= 0 && dup2(null, STDIN_FILENO) >= 0 &&
        dup2(null, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0) {
        close(null);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    }
    _exit(127);
}

/* Returns "exec" and the command with {port} and {upstream} replaced; the
 * caller frees it. */
static char *fill_in(const char *command, const char *port,
                     const char *upstream)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    ck_assert_ptr_nonnull(out);
    fputs("exec ", out);
    while (*command != '\0') {
        if (strncmp(command, "{port}", 6) == 0) {
            fputs(port, out);
            command += 6;
        } else if (strncmp(command, "{upstream}", 10) == 0) {
            fputs(upstream != NULL ? upstream : "", out);
            command += 10;
        } else {
            fputc(*command++, out);
        }
    }
    ck_assert_int_eq(fclose(out), 0);
    return text;
}

static int namespaces; /* that a server is started in */
static int servers;    /* started and not freed */

/* Forks; the child is in new namespaces, which are flags of clone. */
static pid_t fork_with(int flags)
{
    if (flags == 0)
        return fork();
    return (pid_t)syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
}

bool server_as_process_1(void)
{
    pid_t pid = fork_with(CLONE_NEWPID);

    if (pid == 0)
        _exit(0);
    if (pid < 0)
        return false;
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    namespaces = CLONE_NEWPID;
    return true;
}

/* Starts the process, which need not serve yet. */
static void spawn(struct server_process *s, const char *command,
                  const char *upstream)
{
    char *filled = fill_in(command, s->port, upstream);
    pid_t parent = getpid();

    s->log = memfd_create("stderr", MFD_CLOEXEC);
    ck_assert_int_ge(s->log, 0);
    /* Each writer adds at the end, even with an offset of its own. */
    ck_assert_int_eq(fcntl(s->log, F_SETFL, O_APPEND), 0);
    descendants_adopt();
    s->pid = fork_with(namespaces);
    if (s->pid == 0)
        become_server(filled, s->log, parent);
    free(filled);
    ck_assert_int_gt(s->pid, 0);
    descendants_own(s->pid);
}

/* Returns a connection to it, or -1. */
static int dial(const struct server_process *s)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *address;
    ck_assert_int_eq(getaddrinfo(s->host, s->port, &hints, &address), 0);
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    int connected = connect(fd, address->ai_addr, address->ai_addrlen);
    int error = errno;
    freeaddrinfo(address);
    if (connected == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* Returns whether it accepts a connection. Waits until it has closed that one
 * too, so that a test can count what it holds. */
static bool accepts(const struct server_process *s)
{
    struct pollfd end = {.fd = dial(s), .events = POLLIN};

    if (end.fd < 0)
        return false;
    if (shutdown(end.fd, SHUT_WR) == 0)
        poll(&end, 1, 1000); /* a server may also close only after us */
    close(end.fd);
    return true;
}

char *server_log(const struct server_process *s)
{
    struct stat status;
    ck_assert_int_eq(fstat(s->log, &status), 0);
    size_t size = (size_t)status.st_size;
    char *text = malloc(size + 1);
    ck_assert_ptr_nonnull(text);
    ssize_t len = pread(s->log, text, size, 0);
    ck_assert_int_ge(len, 0);
    text[len] = '\0';
    return text;
}

void server_show_log(const struct server_process *s, FILE *out)
{
    char *log = server_log(s);

    if (log[0] == '\0')
        fputs("    its stderr is empty\n", out);
    else
        fputs("    the end of its stderr:\n", out);
    quote_end(out, log, LOG_LINES, "      | ");
    free(log);
}

/* Returns whether it has logged where it listens, and sets host and port. */
static bool says_where(struct server_process *s)
{
    static const char words[] = "listening on ";
    bool complete = false;
    char *log = server_log(s);
    char *at = strstr(log, words);
    if (at != NULL) {
        at += strlen(words);
        size_t len = strcspn(at, ", \n");
        complete = at[len] != '\0';
        at[len] = '\0';
    }
    if (complete) {
        char *colon = strrchr(at, ':');
        ck_assert_ptr_nonnull(colon);
        *colon = '\0';
        if (at[0] == '[') {
            at++;
            at[strcspn(at, "]")] = '\0';
        }
        snprintf(s->host, sizeof s->host, "%s", at);
        snprintf(s->port, sizeof s->port, "%s", colon + 1);
    }
    free(log);
    return complete;
}

/* Returns whether it has ended. */
static bool reap(struct server_process *s, int flags)
{
    if (s->pid > 0 && waitpid(s->pid, &s->status, flags) == s->pid) {
        descendants_disown(s->pid);
        s->pid = 0;
    }
    return s->pid == 0;
}

/* Returns whether a program that ended with status 0 has left a daemon, which
 * then takes its place. */
static bool becomes_daemon(struct server_process *s)
{
    if (!WIFEXITED(s->status) || WEXITSTATUS(s->status) != 0)
        return false;
    s->pid = descendants_orphan();
    if (s->pid == 0)
        return false;
    s->daemon = true;
    descendants_own(s->pid);
    return true;
}

/* Waits until it serves. Returns false if it ends or is not ready in time. */
static bool gets_ready(struct server_process *s, bool by_port)
{
    long long deadline = now_ms() + PATIENCE_MS;
    while (now_ms() < deadline) {
        if (reap(s, WNOHANG) && !(by_port && becomes_daemon(s)))
            return false;
        if (by_port ? accepts(s) : says_where(s))
            return true;
        let_pass(POLL_MS);
    }
    return false;
}

void server_ending(const struct server_process *s, char text[64])
{
    if (s->pid > 0)
        snprintf(text, 64,
                 descendants_ended(s->pid) ? "has ended" : "still runs");
    else if (WIFEXITED(s->status))
        snprintf(text, 64, "ended with status %d", WEXITSTATUS(s->status));
    else
        snprintf(text, 64, "was killed by signal %d (%s)", WTERMSIG(s->status),
                 strsignal(WTERMSIG(s->status)));
}

/* Fails the test: says what became of the program, and what it said. */
static _Noreturn void not_serving(struct server_process *s,
                                  const char *command, bool by_port)
{
    char ending[64];
    char hint[256] = "";

    server_ending(s, ending);
    if (s->pid > 0 && by_port)
        snprintf(hint, sizeof hint,
                 ",\n    but accepts no connection at %s:%s after %d s",
                 s->host, s->port, PATIENCE_MS / 1000);
    else if (s->pid > 0)
        snprintf(hint, sizeof hint,
                 ",\n    but has not logged where it listens after %d s",
                 PATIENCE_MS / 1000);
    else if (WIFEXITED(s->status) && WEXITSTATUS(s->status) == 0)
        snprintf(hint, sizeof hint,
                 " and left no process that serves:\n"
                 "    it should stay in the foreground");
    else if (WIFEXITED(s->status) && WEXITSTATUS(s->status) == 127)
        snprintf(hint, sizeof hint, ": no such command?");
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    ck_assert_ptr_nonnull(out);
    server_show_log(s, out);
    ck_assert_int_eq(fclose(out), 0);
    give_up("not serving: %s\n    the program %s%s\n%s", command, ending, hint,
            text);
}

static char *vformat(const char *format, va_list args)
{
    char *text;
    ck_assert_int_ge(vasprintf(&text, format, args), 0);
    return text;
}

struct server_process *server_start(const char *upstream, const char *format,
                                    ...)
{
    struct server_process *s = calloc(1, sizeof *s);
    va_list args;
    int attempts = 5; /* another process may take the port */

    ck_assert_ptr_nonnull(s);
    va_start(args, format);
    char *command = vformat(format, args);
    va_end(args);
    bool by_port = strstr(command, "{port}") != NULL;
    for (;;) {
        snprintf(s->host, sizeof s->host, "127.0.0.1");
        snprintf(s->port, sizeof s->port, "%d", by_port ? free_port() : 0);
        spawn(s, command, upstream);
        if (gets_ready(s, by_port))
            break;
        attempts--;
        if (s->pid != 0 || !by_port || attempts == 0)
            not_serving(s, command, by_port);
        descendants_end_orphans(KILL_MS);
        close(s->log);
    }
    free(command);
    servers++;
    return s;
}

struct server_process *server_launch(const char *format, ...)
{
    struct server_process *s = calloc(1, sizeof *s);
    va_list args;

    ck_assert_ptr_nonnull(s);
    va_start(args, format);
    char *command = vformat(format, args);
    va_end(args);
    snprintf(s->host, sizeof s->host, "127.0.0.1");
    snprintf(s->port, sizeof s->port, "%d", free_port());
    spawn(s, command, NULL);
    free(command);
    servers++;
    return s;
}

bool server_serves(struct server_process *s, long timeout_ms)
{
    long long deadline = now_ms() + timeout_ms;
    while (!reap(s, WNOHANG)) {
        if (accepts(s))
            return true;
        if (now_ms() >= deadline)
            return false;
        let_pass(POLL_MS);
    }
    return false;
}

const char *own_sanitizer(void)
{
#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
    return "__asan_init";
#elif defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
    return "__tsan_init";
#else
    return NULL;
#endif
}

const char *sanitizer_of(const char *path)
{
    static const char *const symbols[] = {"__asan_init", "__tsan_init",
                                          "__msan_init"};
    const char *found = NULL;
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    ck_assert_msg(fd >= 0, "cannot open %s: %s", path, strerror(errno));
    ck_assert_int_eq(fstat(fd, &status), 0);
    size_t size = (size_t)status.st_size;
    void *image = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    ck_assert_ptr_ne(image, MAP_FAILED);
    for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++)
        if (memmem(image, size, symbols[i], strlen(symbols[i])) != NULL)
            found = symbols[i];
    munmap(image, size);
    close(fd);
    return found;
}

const char *threadecho(void)
{
    const char *path = getenv("THREADECHO");
    const char *own = own_sanitizer();

    if (path == NULL)
        path = TEST_PROGRAM;
    const char *found = sanitizer_of(path);
    ck_assert_msg(
        own == NULL ? found == NULL : found != NULL && strcmp(found, own) == 0,
        "%s has %s, its tests have %s", path,
        found != NULL ? found : "no sanitizer", own != NULL ? own : "none");
    return path;
}

struct server_process *threadecho_start(const struct rogue *rogue,
                                        const char *options, ...)
{
    char upstream[ROGUE_URL_SIZE + 16] = "--upstream ";
    va_list args;

    va_start(args, options);
    char *more = vformat(options, args);
    va_end(args);
    if (rogue != NULL)
        rogue_url(rogue, "/text", upstream + strlen(upstream));
    struct server_process *s =
        server_start(NULL, "%s --listen 127.0.0.1:0 %s %s", threadecho(),
                     rogue ? upstream : "", more);
    free(more);
    return s;
}

bool server_ends(struct server_process *s, long timeout_ms)
{
    long long deadline = now_ms() + timeout_ms;
    while (!reap(s, WNOHANG)) {
        if (now_ms() >= deadline)
            return false;
        let_pass(POLL_MS);
    }
    return true;
}

/* Ends what a server that has ended left: a wrapper does not pass SIGTERM on
 * to the server proper, and a daemon has workers. */
static void end_remains(void)
{
    long long deadline = now_ms() + REMAINS_MS;

    if (servers > 1 || descendants_signal_orphans(SIGTERM) == 0)
        return;
    while (descendants_signal_orphans(0) > 0 && now_ms() < deadline)
        let_pass(POLL_MS);
    descendants_end_orphans(KILL_MS);
}

int server_stop(struct server_process *s)
{
    static const char *const complaints[] = {"Sanitizer", "runtime error:"};

    if (s->pid > 0)
        ck_assert_int_eq(kill(s->pid, SIGTERM), 0);
    must(server_ends(s, PATIENCE_MS), "it does not end within %d s of SIGTERM",
         PATIENCE_MS / 1000);
    end_remains();
    char *log = server_log(s);
    for (size_t i = 0; i < sizeof complaints / sizeof complaints[0]; i++)
        ck_assert_msg(strstr(log, complaints[i]) == NULL, "%s", log);
    free(log);
    return WIFEXITED(s->status) ? WEXITSTATUS(s->status)
                                : 128 + WTERMSIG(s->status);
}

void server_free(struct server_process *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        reap(s, 0);
    }
    servers--;
    if (servers == 0)
        descendants_end_orphans(KILL_MS);
    close(s->log);
    free(s);
}

int server_logged(const struct server_process *s, const char *text)
{
    int count = 0;
    char *log = server_log(s);
    for (char *p = strstr(log, text); p != NULL; p = strstr(p + 1, text))
        count++;
    free(log);
    return count;
}

static const char summary_start[] = "threadecho: connections=";

char *server_summary(const struct server_process *s)
{
    long long deadline = now_ms() + PATIENCE_MS;
    int before = server_logged(s, summary_start);

    ck_assert_int_eq(kill(s->pid, SIGUSR1), 0);
    for (;;) {
        char *log = server_log(s);
        char *last = NULL;
        int count = 0;
        for (char *p = strstr(log, summary_start); p != NULL;
             p = strstr(p + 1, summary_start)) {
            last = p;
            count++;
        }
        char *end = last != NULL ? strchr(last, '\n') : NULL;
        if (count > before && end != NULL) {
            char *summary = strndup(last, (size_t)(end - last));
            ck_assert_ptr_nonnull(summary);
            free(log);
            return summary;
        }
        free(log);
        ck_assert_msg(now_ms() < deadline, "no summary");
        let_pass(POLL_MS);
    }
}

long summary_value(const char *summary, const char *key)
{
    size_t len = strlen(key);
    for (const char *p = strchr(summary, ' '); p != NULL;
         p = strchr(p + 1, ' '))
        if (strncmp(p + 1, key, len) == 0 && p[1 + len] == '=')
            return strtol(p + 1 + len + 1, NULL, 10);
    return 0;
}

long server_counts(const struct server_process *s, const char *key)
{
    char *summary = server_summary(s);
    long value = summary_value(summary, key);
    free(summary);
    return value;
}

bool server_sanitized(const struct server_process *s)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/exe", (int)s->pid);
    return sanitizer_of(path) != NULL;
}

long server_status(const struct server_process *s, const char *key)
{
    char path[64];
    char line[256];
    long value = -1;
    size_t len = strlen(key);

    snprintf(path, sizeof path, "/proc/%d/status", (int)s->pid);
    FILE *file = fopen(path, "re");
    must(file != NULL, "the server is gone");
    while (value < 0 && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, len) == 0 && line[len] == ':')
            value = strtol(line + len + 1, NULL, 10);
    fclose(file);
    ck_assert_msg(value >= 0, "no %s of the server", key);
    return value;
}

/* Returns how many descriptors it has. */
static long count_descriptors(const struct server_process *s)
{
    char path[64];
    long count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)s->pid);
    DIR *dir = opendir(path);
    must(dir != NULL, "the server is gone");
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count - 2; /* . and .. */
}

/* The ports of all clients of this test. */
static in_port_t *client_ports;
static size_t clients;

static void note_client(int fd)
{
    struct sockaddr_in address = {0};
    socklen_t len = sizeof address;

    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    in_port_t *more = realloc(client_ports, (clients + 1) * sizeof *more);
    ck_assert_ptr_nonnull(more);
    client_ports = more;
    client_ports[clients++] = address.sin_port;
}

/* Returns whether the server has yet to close its end of a connection. Asks
 * for this one: a list of all takes the kernel long. */
static bool keeps_connection(int netlink, const struct server_process *s,
                             in_port_t client_port)
{
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 request;
    } question = {
        .header = {.nlmsg_len = sizeof question,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST},
        .request = {.sdiag_family = AF_INET,
                    .sdiag_protocol = IPPROTO_TCP,
                    .id = {.idiag_sport =
                               htons((in_port_t)strtoul(s->port, NULL, 10)),
                           .idiag_dport = client_port,
                           .idiag_src = {htonl(INADDR_LOOPBACK)},
                           .idiag_dst = {htonl(INADDR_LOOPBACK)},
                           .idiag_cookie = {INET_DIAG_NOCOOKIE,
                                            INET_DIAG_NOCOOKIE}}},
    };
    struct {
        struct nlmsghdr header;
        struct inet_diag_msg found;
        char rest[1024];
    } answer;

    ck_assert_int_eq(send(netlink, &question, sizeof question, 0),
                     sizeof question);
    ck_assert_int_ge(recv(netlink, &answer, sizeof answer, 0),
                     NLMSG_LENGTH(sizeof(int)));
    return answer.header.nlmsg_type == SOCK_DIAG_BY_FAMILY &&
           (answer.found.idiag_state == TCP_ESTABLISHED ||
            answer.found.idiag_state == TCP_CLOSE_WAIT);
}

/* Returns how many connections of this test it has not closed. */
static int count_connections(const struct server_process *s)
{
    int count = 0;
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

    ck_assert_int_ge(fd, 0);
    for (size_t i = 0; i < clients; i++)
        count += keeps_connection(fd, s, client_ports[i]);
    close(fd);
    return count;
}

void server_closes_all(const struct server_process *s)
{
    long long deadline = now_ms() + PATIENCE_MS;
    int count;

    while ((count = count_connections(s)) > 0) {
        must(now_ms() < deadline,
             "it keeps %d connections whose clients have gone", count);
        let_pass(POLL_MS);
    }
}

long threads_per_client(void)
{
    return getenv("GREEN") != NULL ? 0 : 1;
}

struct holding server_holds(const struct server_process *s)
{
    struct holding holding;

    /* The threads first: one that is counted no more has closed what it had.
     */
    holding.threads = server_status(s, "Threads");
    holding.descriptors = count_descriptors(s);
    return holding;
}

/* Waits until it holds that, or for timeout_ms. Returns what it holds then. */
static struct holding settle(const struct server_process *s,
                             struct holding want, long timeout_ms)
{
    long long deadline = now_ms() + timeout_ms;
    for (;;) {
        struct holding now = server_holds(s);
        if ((now.descriptors == want.descriptors &&
             now.threads == want.threads) ||
            now_ms() >= deadline)
            return now;
        let_pass(POLL_MS);
    }
}

static struct client *open_served(const struct server_process *s)
{
    struct client *c = client_open(s);
    ck_assert_str_eq(client_ask(c, "are you there?"), "echo: are you there?");
    return c;
}

struct holding server_rests(const struct server_process *s)
{
    /* It is at rest if one client less makes one descriptor less, and one
     * thread less if it has a thread for each, twice in a row. Else an
     * earlier client was still on its way out. */
    struct holding last = {0};
    for (int attempts = 0; attempts < 20; attempts++) {
        let_pass(REST_MS);
        struct client *c = open_served(s);
        struct holding with = server_holds(s);
        client_close(c);
        struct holding want = {with.descriptors - 1,
                               with.threads - threads_per_client()};
        struct holding rest = settle(s, want, 300);
        if (rest.descriptors == want.descriptors &&
            rest.descriptors == last.descriptors &&
            rest.threads == last.threads)
            return rest;
        last = rest;
    }
    give_up("the server does not come to rest");
}

void server_recovers(const struct server_process *s, struct holding before)
{
    client_close(open_served(s));
    struct holding now = settle(s, before, PATIENCE_MS);
    ck_assert_int_eq(now.descriptors, before.descriptors);
    ck_assert_int_eq(now.threads, before.threads);
}

struct client *client_open(const struct server_process *s)
{
    const int on = 1;
    struct client *c = calloc(1, sizeof *c);
    ck_assert_ptr_nonnull(c);
    c->fd = dial(s);
    must(c->fd >= 0, "cannot connect: %s", strerror(errno));
    ck_assert_int_eq(
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
    note_client(c->fd);
    return c;
}

/* Waits for an event. Returns false if that takes too long. */
static bool await(const struct client *c, short event, long timeout_ms)
{
    struct pollfd fd = {.fd = c->fd, .events = event};
    int ready;
    do
        ready = poll(&fd, 1, (int)timeout_ms);
    while (ready < 0 && errno == EINTR);
    return ready > 0;
}

bool client_hears(struct client *c, long timeout_ms)
{
    return c->start < c->end || await(c, POLLIN, timeout_ms);
}

void client_send(struct client *c, const void *data, size_t len)
{
    const char *p = data;
    while (len > 0) {
        must(await(c, POLLOUT, PATIENCE_MS),
             "the server has not read for %d s", PATIENCE_MS / 1000);
        ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        must(n > 0 || errno == EAGAIN, "cannot send: %s", strerror(errno));
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
    }
}

void client_say(struct client *c, const char *line)
{
    size_t len = strlen(line);
    char *text = malloc(len + 2);
    ck_assert_ptr_nonnull(text);
    memcpy(text, line, len);
    text[len] = '\n';
    client_send(c, text, len + 1);
    free(text);
}

void client_dribble(struct client *c, const char *text, long pause_ms)
{
    for (; *text != '\0'; text++) {
        client_send(c, text, 1);
        let_pass(pause_ms);
    }
}

void client_finish(struct client *c)
{
    ck_assert_int_eq(shutdown(c->fd, SHUT_WR), 0);
}

/* Receives more. Returns what recv does, or -2 if nothing came. */
static ssize_t receive(struct client *c)
{
    if (c->start > 0) {
        c->end -= c->start;
        memmove(c->data, c->data + c->start, c->end);
        c->start = 0;
    }
    if (c->end + 1 >= c->size) {
        c->size = c->size > 0 ? 2 * c->size : 1024;
        c->data = realloc(c->data, c->size);
        ck_assert_ptr_nonnull(c->data);
    }
    if (!await(c, POLLIN, PATIENCE_MS))
        return -2;
    ssize_t n = recv(c->fd, c->data + c->end, c->size - c->end - 1, 0);
    if (n > 0)
        c->end += (size_t)n;
    return n;
}

const char *client_line(struct client *c)
{
    size_t scanned = 0;
    for (;;) {
        char *line = c->data != NULL ? c->data + c->start : NULL;
        size_t len = c->end - c->start;
        char *lf = line != NULL && len > scanned
                       ? memchr(line + scanned, '\n', len - scanned)
                       : NULL;
        if (lf != NULL) {
            *lf = '\0';
            c->line_len = (size_t)(lf - line);
            c->start += c->line_len + 1;
            return line;
        }
        scanned = len;
        ssize_t n = receive(c);
        if (n <= 0) {
            c->line_len = 0;
            if (n == 0)
                return len > 0 ? "<end in mid-line>" : "<end>";
            return n == -1 ? "<reset>" : "<silence>";
        }
    }
}

const char *client_ask(struct client *c, const char *line)
{
    client_say(c, line);
    return client_line(c);
}

const char *client_rest(struct client *c, size_t *len)
{
    ssize_t n;
    do
        n = receive(c);
    while (n > 0);
    must(n == 0, n == -1 ? "the server has reset the connection"
                         : "the server has not closed the connection");
    c->data[c->end] = '\0';
    *len = c->end - c->start;
    return c->data + c->start;
}

void client_close(struct client *c)
{
    close(c->fd);
    free(c->data);
    free(c);
}

void client_reset(struct client *c)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    ck_assert_int_eq(
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    client_close(c);
}
