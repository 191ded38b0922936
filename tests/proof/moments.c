/*
 * moments.c - signals at each moment of a server's start and end
 *
 *     build/proof/moments [--step N] -- COMMAND [ARGUMENT]...
 *
 * A moment is the return of the main thread's n-th system call, at which it is
 * held while the signals are sent; all other threads run. With --step 3, each
 * third moment is tried. A signal that comes before the server has set how it
 * handles signals ends it; from then on each later one must be handled.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* __WALL */
#include "../rogue.h"
#include "subject.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define MOST_ARGUMENTS 24 /* of the server's command line */
#define SYSCALL_STOP (SIGTRAP | 0x80)

enum { SKIPPED = 77 }; /* exit status: this machine does not permit it */

/* Signals that are sent together. */
struct salvo {
    const char *name;
    int signals[2]; /* 0: none */
    bool stops;     /* it asks for the end */
    bool twice;     /* likewise, so it may be killed at once */
};

static const struct salvo at_start[] = {
    {"SIGTERM", {SIGTERM, 0}, true, false},
    {"SIGUSR1", {SIGUSR1, 0}, false, false},
    {"SIGTERM and SIGINT", {SIGTERM, SIGINT}, true, true},
    {"SIGTERM and SIGUSR1", {SIGTERM, SIGUSR1}, true, false},
};

/* They come while it drains after a SIGTERM. */
static const struct salvo at_end[] = {
    {"a second SIGTERM", {SIGTERM, 0}, true, true},
    {"SIGUSR1", {SIGUSR1, 0}, false, false},
};

static char *command[MOST_ARGUMENTS];
static int failures;

/* Reports what went wrong, and what the server logged. */
__attribute__((format(printf, 2, 3))) static void
fail(const struct subject *subject, const char *format, ...)
{
    char *log = subject_log(subject);
    va_list args;

    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("; status %#x, the log:\n%.8000s\n", (unsigned)subject->status,
           log);
    (void)fflush(stdout);
    free(log);
    failures++;
}

/* Waits for a stop of the main thread. Returns false if the process ended. */
static bool await_stop(struct subject *subject)
{
    pid_t changed;

    do
        changed = waitpid(subject->pid, &subject->status, __WALL);
    while (changed < 0 && errno == EINTR);
    if (changed == subject->pid && WIFSTOPPED(subject->status))
        return true;
    if (changed == subject->pid)
        subject->pid = 0;
    return false;
}

/* Lets the main thread run to the return of its next system call. Returns
 * false if the process ends before that. */
static bool step(struct subject *subject)
{
    int stops = 0;
    long number = 0; /* of a signal that is to be delivered */

    while (stops < 2) {
        if (ptrace(PTRACE_SYSCALL, subject->pid, NULL, number) != 0 ||
            !await_stop(subject))
            return false;
        int stop = WSTOPSIG(subject->status);
        number = stop == SYSCALL_STOP || stop == SIGTRAP ? 0 : stop;
        stops += stop == SYSCALL_STOP;
    }
    return true;
}

/* Has the main thread go on, with the signals sent first. */
static void release(struct subject *subject, const struct salvo *salvo)
{
    for (size_t i = 0; i < COUNT(salvo->signals); i++)
        if (salvo->signals[i] != 0 &&
            kill(subject->pid, salvo->signals[i]) != 0)
            fail(subject, "cannot send a signal: %s", strerror(errno));
    /* The signals may have ended it already. */
    if (ptrace(PTRACE_DETACH, subject->pid, NULL, NULL) != 0 && errno != ESRCH)
        fail(subject, "cannot release it: %s", strerror(errno));
}

/* Starts the server, stopped before its first instruction. */
static void start(struct subject *subject)
{
    if (!subject_start(subject, command, true) || !await_stop(subject)) {
        puts("skipped: ptrace is not permitted here");
        exit(SKIPPED);
    }
    if (ptrace(PTRACE_SETOPTIONS, subject->pid, NULL,
               PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) != 0) {
        printf("cannot trace: %s\n", strerror(errno));
        exit(1);
    }
}

/* Returns whether it ended with status 0, its last words the summary, or else
 * by one of these signals. */
static bool ended_well(const struct subject *subject,
                       const struct salvo *salvo, bool may_be_killed)
{
    int status = subject->status;

    if (WIFSIGNALED(status))
        return may_be_killed && (WTERMSIG(status) == salvo->signals[0] ||
                                 WTERMSIG(status) == salvo->signals[1]);
    char *log = subject_log(subject);
    int seen = 0;
    const char *summary = subject_summary(log, &seen);
    bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
                subject_report(log) == NULL && summary != NULL &&
                summary[strcspn(summary, "\n") + 1] == '\0' &&
                (salvo->stops || seen >= 2);
    free(log);
    return well;
}

/* Sends the signals at the n-th moment of the start. Returns false when that
 * is over before. */
static bool try_start(const struct salvo *salvo, unsigned n, bool *handled)
{
    struct subject subject;
    bool started = false;

    start(&subject);
    for (unsigned i = 0; i < n && !started; i++) {
        if (!step(&subject)) {
            fail(&subject, "it ended by itself at moment %u of %u", i, n);
            subject_free(&subject);
            return false;
        }
        started = subject_logged_port(&subject) != 0;
    }
    release(&subject, salvo);
    if (!salvo->stops && subject_port(&subject) != 0)
        kill(subject.pid, SIGTERM); /* no subject is left to wait for it */
    if (!subject_ends(&subject, SUBJECT_PATIENCE_MS))
        fail(&subject, "%s at moment %u of the start: no end", salvo->name, n);
    else if (!ended_well(&subject, salvo, !*handled || salvo->twice))
        fail(&subject, "%s at moment %u of the start: a wrong end",
             salvo->name, n);
    else if (WIFEXITED(subject.status))
        *handled = true;
    subject_free(&subject);
    return !started;
}

/* Has a line answered, and keeps the connection. Returns its descriptor. */
static int converse(struct subject *subject)
{
    static const char line[] = "hello\n", reply[] = "echo: hello\n";
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((in_port_t)subject_port(subject)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    const struct timeval patience = {.tv_sec = SUBJECT_PATIENCE_MS / 1000};
    char data[sizeof reply];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) !=
            0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        send(fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line) ||
        recv(fd, data, strlen(reply), MSG_WAITALL) != (ssize_t)strlen(reply) ||
        memcmp(data, reply, strlen(reply)) != 0)
        fail(subject, "it does not serve");
    return fd;
}

/* Sends SIGTERM, and more at the n-th moment after it. Returns false when the
 * server has ended before. */
static bool try_end(const struct salvo *salvo, unsigned n)
{
    struct subject subject;
    bool runs = true;

    start(&subject);
    release(&subject, &(struct salvo){.name = "none"});
    int fd = converse(&subject);
    if (subject.pid == 0 ||
        ptrace(PTRACE_SEIZE, subject.pid, NULL, PTRACE_O_TRACESYSGOOD) != 0 ||
        ptrace(PTRACE_INTERRUPT, subject.pid, NULL, NULL) != 0 ||
        !await_stop(&subject) || kill(subject.pid, SIGTERM) != 0) {
        fail(&subject, "cannot stop it: %s", strerror(errno));
        runs = false;
    }
    for (unsigned i = 0; i < n && runs; i++)
        runs = step(&subject);
    if (runs)
        release(&subject, salvo);
    if (!subject_ends(&subject, SUBJECT_PATIENCE_MS))
        fail(&subject, "%s at moment %u of the end: no end", salvo->name, n);
    else if (!ended_well(
                 &subject,
                 &(struct salvo){.signals = {SIGTERM, 0}, .stops = true},
                 salvo->twice))
        fail(&subject, "%s at moment %u of the end: a wrong end", salvo->name,
             n);
    if (fd >= 0)
        close(fd);
    subject_free(&subject);
    return runs;
}

int main(int argc, char **argv)
{
    unsigned long every = 1;
    unsigned long starts = 0, ends = 0;
    int at = 1;
    size_t words = 0;
    char url[ROGUE_URL_SIZE];

    if (argc > 2 && strcmp(argv[1], "--step") == 0) {
        every = strtoul(argv[2], NULL, 10);
        at = 3;
    }
    if (argc < at + 2 || strcmp(argv[at], "--") != 0 || every == 0 ||
        argc - at > MOST_ARGUMENTS - 5) {
        fputs("usage: moments [--step N] -- COMMAND [ARGUMENT]...\n", stderr);
        return 2;
    }
    struct rogue *rogue = rogue_start(0);
    if (rogue == NULL) {
        fputs("moments: cannot start the upstream\n", stderr);
        return 1;
    }
    rogue_url(rogue, "/good", url);
    while (argv[++at] != NULL)
        command[words++] = argv[at];
    command[words++] = "--listen";
    command[words++] = "127.0.0.1:0";
    command[words++] = "--upstream";
    command[words] = url;

    for (size_t i = 0; i < COUNT(at_start) && failures == 0; i++) {
        bool handled = false, more = true;
        for (unsigned n = (unsigned)(i % every); more && failures == 0;
             n += (unsigned)every) {
            more = try_start(&at_start[i], n, &handled);
            starts++;
        }
        if (!handled && !at_start[i].twice && failures == 0) {
            printf("%s: never handled\n", at_start[i].name);
            failures++;
        }
    }
    for (size_t i = 0; i < COUNT(at_end) && failures == 0; i++)
        for (unsigned n = 0; failures == 0 && try_end(&at_end[i], n);
             n += (unsigned)(every + 1) / 2) /* they are fewer */
            ends++;
    rogue_stop(rogue);
    printf("total: starts=%lu ends=%lu\n", starts, ends);
    return failures == 0 ? 0 : 1;
}
