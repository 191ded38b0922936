/*
 * subject.c - the server that a proof runs, see subject.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memfd_create */
#include "subject.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_MS 2 /* between two looks at a process */

#define NAME "threadecho: " /* begins each line of its log */

long long subject_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

unsigned chance(uint64_t *random, unsigned limit)
{
    uint64_t z = *random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (unsigned)((z ^ z >> 31) >> 32) % limit;
}

bool subject_start(struct subject *subject, char *const argv[], bool traced)
{
    *subject = (struct subject){.log = memfd_create("log", MFD_CLOEXEC)};
    /* Without O_APPEND, lines written by two threads at once can overwrite
     * each other: the offset of such a file has no lock. */
    if (subject->log < 0 || fcntl(subject->log, F_SETFL, O_APPEND) != 0)
        return false;
    pid_t parent = getpid();
    subject->pid = fork();
    if (subject->pid < 0) {
        subject->pid = 0;
        close(subject->log);
        return false;
    }
    if (subject->pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent ||
            dup2(subject->log, STDERR_FILENO) < 0 ||
            (traced && ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0))
            _exit(127);
        execvp(argv[0], argv);
        _exit(127);
    }
    return true;
}

bool subject_ends(struct subject *subject, long timeout_ms)
{
    long long deadline = subject_now_ms() + timeout_ms;

    while (subject->pid != 0) {
        pid_t ended = waitpid(subject->pid, &subject->status, WNOHANG);
        if (ended < 0 && errno != EINTR)
            return false;
        if (ended > 0)
            subject->pid = 0;
        else if (subject_now_ms() >= deadline)
            return false;
        else
            pause_ms(POLL_MS);
    }
    return true;
}

void subject_free(struct subject *subject)
{
    if (subject->pid != 0 && kill(subject->pid, SIGKILL) == 0)
        (void)subject_ends(subject, SUBJECT_PATIENCE_MS);
    if (subject->log >= 0)
        close(subject->log);
    subject->log = -1;
}

char *subject_log(const struct subject *subject)
{
    struct stat about;
    size_t len = 0;

    if (fstat(subject->log, &about) != 0)
        about.st_size = 0;
    size_t size = (size_t)about.st_size;
    char *log = malloc(size + 1);
    if (log == NULL)
        abort();
    while (len < size) {
        ssize_t n = pread(subject->log, log + len, size - len, (off_t)len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    log[len] = '\0';
    return log;
}

int subject_logged_port(const struct subject *subject)
{
    static const char text[] = NAME "listening on 127.0.0.1:";
    char *log = subject_log(subject);
    const char *at = strstr(log, text);
    int port = 0;

    if (at != NULL && strchr(at, '\n') != NULL)
        port = (int)strtol(at + strlen(text), NULL, 10);
    free(log);
    return port;
}

int subject_port(struct subject *subject)
{
    long long deadline = subject_now_ms() + SUBJECT_PATIENCE_MS;
    int port = 0;

    while (port == 0 && !subject_ends(subject, 0) &&
           subject_now_ms() < deadline) {
        port = subject_logged_port(subject);
        pause_ms(POLL_MS);
    }
    return port;
}

const char *subject_report(const char *log)
{
    while (*log != '\0') {
        if (strncmp(log, NAME, strlen(NAME)) != 0)
            return log;
        log += strcspn(log, "\n");
        log += *log == '\n';
    }
    return NULL;
}

const char *subject_summary(const char *log, int *seen)
{
    static const char text[] = NAME "connections=";
    const char *last = NULL;
    int count = 0;

    for (const char *at = strstr(log, text); at != NULL;
         at = strstr(at + 1, text))
        if (strchr(at, '\n') != NULL && ++count > *seen)
            last = at;
    if (last != NULL)
        *seen = count;
    return last;
}

long subject_value(const char *summary, const char *key)
{
    char word[64];
    size_t line = strcspn(summary, "\n");
    int len = snprintf(word, sizeof word, " %s=", key);
    const char *at = strstr(summary, word);

    return at != NULL && at < summary + line ? strtol(at + len, NULL, 10) : 0;
}
