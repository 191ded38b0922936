/*
 * descendants.c - the processes that descend from this one, see descendants.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "descendants.h"
#include "harness.h"

#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define POLL_MS 2 /* between two looks at what cannot be waited for */
#define OWN 64    /* most children of a test's own */

struct process {
    pid_t pid;
    pid_t parent;
    char state;
    bool wanted; /* below an orphan, or one */
};

static pid_t own[OWN];

/* Unlike Check's assertions this may be used while no test runs. */
static void insist(bool condition, const char *what)
{
    if (condition)
        return;
    perror(what);
    abort();
}

void descendants_adopt(void)
{
    insist(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0, "prctl");
}

/* Puts a process in the place of another; 0 is none. */
static void replace_own(pid_t old, pid_t new)
{
    for (size_t i = 0; i < OWN; i++)
        if (own[i] == old) {
            own[i] = new;
            return;
        }
    insist(old != 0, "too many children");
}

void descendants_own(pid_t child)
{
    replace_own(0, child);
}

void descendants_disown(pid_t child)
{
    replace_own(child, 0);
}

static bool is_own(pid_t pid)
{
    for (size_t i = 0; i < OWN; i++)
        if (own[i] == pid)
            return true;
    return false;
}

/* Returns whether the process is still there, and sets its parent and state.
 */
static bool read_process(const char *pid, struct process *process)
{
    char path[300];
    char text[512] = "";

    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    size_t len = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[len] = '\0';
    /* The name, in parentheses, may have any character. */
    const char *end = strrchr(text, ')');
    if (end == NULL || strlen(end) < 5)
        return false;
    process->pid = (pid_t)strtol(pid, NULL, 10);
    process->state = end[2];
    process->parent = (pid_t)strtol(end + 4, NULL, 10);
    process->wanted = false;
    return true;
}

/* Returns all processes of the machine, to free(), and sets *count. */
static struct process *read_all(size_t *count)
{
    struct process *all = NULL; /* never empty: this one is in it */
    size_t size = 0;
    DIR *dir = opendir("/proc");
    struct dirent *entry;

    *count = 0;
    insist(dir != NULL, "/proc");
    while ((entry = readdir(dir)) != NULL) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        if (*count == size) {
            size = size > 0 ? 2 * size : 256;
            struct process *more = realloc(all, size * sizeof *all);
            insist(more != NULL, "realloc");
            all = more;
        }
        *count += read_process(entry->d_name, &all[*count]);
    }
    closedir(dir);
    return all;
}

/* Marks our children, with or without our own, and all below them. */
static void mark_below(struct process *all, size_t count, bool with_own)
{
    bool more = false;

    for (size_t i = 0; i < count; i++) {
        all[i].wanted =
            all[i].parent == getpid() && (with_own || !is_own(all[i].pid));
        more = more || all[i].wanted;
    }
    while (more) {
        more = false;
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < count && !all[i].wanted; j++)
                if (all[j].wanted && all[j].pid == all[i].parent) {
                    all[i].wanted = true;
                    more = true;
                }
    }
}

static bool has_ended(const struct process *process)
{
    return process->state == 'Z' || process->state == 'X';
}

bool descendants_ended(pid_t pid)
{
    char text[16];
    struct process process;

    snprintf(text, sizeof text, "%d", (int)pid);
    return !read_process(text, &process) || has_ended(&process);
}

/* Sends the signal to all below us, and reaps. Returns how many there are. */
static size_t signal_below(int signal_number, bool with_own)
{
    size_t count;
    size_t alive = 0;
    struct process *all = read_all(&count);

    mark_below(all, count, with_own);
    for (size_t i = 0; i < count; i++) {
        if (!all[i].wanted)
            continue;
        if (!has_ended(&all[i])) {
            alive++;
            /* It may have ended since. */
            if (signal_number != 0)
                (void)kill(all[i].pid, signal_number);
        } else if (all[i].parent == getpid()) {
            (void)waitpid(all[i].pid, NULL, WNOHANG);
        }
    }
    free(all);
    return alive;
}

pid_t descendants_orphan(void)
{
    size_t count;
    pid_t first = 0;
    struct process *all = read_all(&count);

    for (size_t i = 0; i < count && first == 0; i++)
        if (all[i].parent == getpid() && !is_own(all[i].pid) &&
            !has_ended(&all[i]))
            first = all[i].pid;
    free(all);
    return first;
}

size_t descendants_signal_orphans(int signal_number)
{
    return signal_below(signal_number, false);
}

/* Kills until none is left: one may start another before it dies. */
static void end_below(long timeout_ms, bool with_own)
{
    long long deadline = now_ms() + timeout_ms;

    while (signal_below(SIGKILL, with_own) > 0 && now_ms() < deadline)
        let_pass(POLL_MS);
}

void descendants_end_orphans(long timeout_ms)
{
    end_below(timeout_ms, false);
}

void descendants_end(long timeout_ms)
{
    end_below(timeout_ms, true);
}
