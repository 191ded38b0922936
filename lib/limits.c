/*
 * limits.c - how many connections and fetches there is room for, see limits.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "limits.h"
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define OWN_FDS 8          /* standard streams, listener, pipe, epoll */
#define SPARE_FDS 56       /* for name servers, certificates, /proc */
#define MAX_REJECTS 64     /* rejected clients that linger at once */
#define FDS_PER_FETCH 3    /* libcurl's: a socket and a wakeup pair */
#define MAX_FETCHES 1024   /* unless more are asked for */
#define RESERVED_MAPS 1024 /* for libraries, heaps and the main thread */
#define MAPS_PER_THREAD 2  /* a stack and its guard page */
#define OWN_THREADS 2      /* that serve no connection */

/* A limit of the system that also bounds the number of threads. */
struct thread_limit {
    const char *name;
    const char *raise; /* what raises it: a command or a setting */
    long long value;   /* of the limit itself */
    long long threads; /* that it leaves room for */
};

static long min(long a, long b)
{
    return a < b ? a : b;
}

/* Reads a number from a file of the kernel. Returns -1 when it holds none. */
static long long read_number(const char *path)
{
    char text[32] = "";
    char *end = text;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return -1;
    long long value = -1;
    if (fgets(text, sizeof text, file) != NULL)
        value = strtoll(text, &end, 10);
    fclose(file);
    return end == text ? -1 : value; /* it may say "max" */
}

/* Returns the lowest limit of threads of the control group that this process
 * is in and of those around it, as systemd sets them, or -1 without one. */
static long long read_pids_max(void)
{
    char line[1024];
    char group[sizeof line] = "";
    char path[sizeof group + 32];
    long long lowest = -1;
    FILE *file = fopen("/proc/self/cgroup", "re");

    while (file != NULL && group[0] == '\0' &&
           fgets(line, sizeof line, file) != NULL)
        (void)sscanf(line, "0::%1023[^\n]", group); /* no other line matches */
    if (file != NULL)
        fclose(file);
    for (;;) {
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/pids.max", group);
        long long value = read_number(path);
        if (value >= 0 && (lowest < 0 || value < lowest))
            lowest = value;
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return lowest;
        *slash = '\0';
    }
}

/* Returns how many threads the machine has, or 0 where it does not tell. */
static long long read_threads(void)
{
    char line[128];
    FILE *file = fopen("/proc/loadavg", "re");
    if (file == NULL)
        return 0;
    line[fread(line, 1, sizeof line - 1, file)] = '\0';
    fclose(file);
    const char *slash = strchr(line, '/'); /* 0.10 0.05 0.01 2/345 6789 */
    return slash != NULL ? strtoll(slash + 1, NULL, 10) : 0;
}

/* Returns how much of a limit of the machine other programs have used. If they
 * have more than that, the limit is only that of our PID namespace. */
static long long taken(long long value, long long others)
{
    return others > 0 && others < value ? others : 0;
}

/* Finds the limit that leaves room for the fewest threads, with this many
 * threads of other programs. */
static struct thread_limit tightest_thread_limit(long stack_kib,
                                                 long long others)
{
    long long pid_max = read_number("/proc/sys/kernel/pid_max");
    long long threads_max = read_number("/proc/sys/kernel/threads-max");
    struct rlimit memory, processes;
    if (getrlimit(RLIMIT_AS, &memory) != 0 || memory.rlim_cur > LLONG_MAX)
        memory.rlim_cur = LLONG_MAX;
    if (getrlimit(RLIMIT_NPROC, &processes) != 0 || geteuid() == 0 ||
        processes.rlim_cur > LLONG_MAX)
        processes.rlim_cur = LLONG_MAX; /* root is not bound by it */

    const struct {
        const char *name;
        const char *raise;
        long long value;
        long long reserved;
        long long each; /* that a thread takes */
    } limits[] = {
        {"vm.max_map_count", "sysctl -w vm.max_map_count=N",
         read_number("/proc/sys/vm/max_map_count"), RESERVED_MAPS,
         MAPS_PER_THREAD},
        {"kernel.pid_max", "sysctl -w kernel.pid_max=N", pid_max,
         OWN_THREADS + taken(pid_max, others), 1},
        {"kernel.threads-max", "sysctl -w kernel.threads-max=N", threads_max,
         OWN_THREADS + taken(threads_max, others), 1},
        {"pids.max of the control group", "TasksMax= of its systemd unit",
         read_pids_max(), OWN_THREADS, 1},
        {"the limit of address space", "ulimit -v", (long long)memory.rlim_cur,
         0, stack_kib * 1024},
        {"the limit of processes", "ulimit -u", (long long)processes.rlim_cur,
         OWN_THREADS, 1},
    };
    struct thread_limit tightest = {.threads = LLONG_MAX};

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        if (limits[i].value < 0)
            continue;
        long long threads =
            (limits[i].value - limits[i].reserved) / limits[i].each;
        if (threads < tightest.threads)
            tightest = (struct thread_limit){
                .name = limits[i].name,
                .raise = limits[i].raise,
                .value = limits[i].value,
                .threads = threads > 0 ? threads : 0,
            };
    }
    return tightest;
}

/* Raises the descriptor limit to its hard limit. Returns that, or -1 with the
 * failure logged. */
static long raise_fd_limit(void)
{
    struct rlimit fds;

    if (getrlimit(RLIMIT_NOFILE, &fds) != 0) {
        log_line("cannot read the descriptor limit: %s", strerror(errno));
        return -1;
    }
    fds.rlim_cur = fds.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &fds) != 0) {
        log_line("cannot raise the descriptor limit: %s", strerror(errno));
        return -1;
    }
    return fds.rlim_cur < INT_MAX ? (long)fds.rlim_cur : INT_MAX;
}

bool limits_set(struct limits *limits, bool fetching, long stack_kib)
{
    long fds = raise_fd_limit();
    if (fds < 0)
        return false;
    limits->rejects = min(fds / 8, MAX_REJECTS);
    long reserved = OWN_FDS + limits->rejects + min(fds / 16, SPARE_FDS);
    long room = fds - reserved;
    if (room < 1 + FDS_PER_FETCH) {
        log_line("a descriptor limit of %ld is too low (raise it with "
                 "ulimit -n)",
                 fds);
        return false;
    }

    struct thread_limit tightest = tightest_thread_limit(stack_kib, 0);
    if (!fetching) {
        limits->fetches = 0;
    } else if (limits->fetches == 0) {
        long share = limits->connections > 0
                         ? (room - limits->connections) / FDS_PER_FETCH
                         : room / (2 * FDS_PER_FETCH);
        limits->fetches = min(share, MAX_FETCHES);
        if (limits->fetches < 1)
            limits->fetches = 1;
    }
    if (limits->connections == 0) {
        limits->connections = room - FDS_PER_FETCH * limits->fetches;
        if (limits->connections > tightest.threads)
            limits->connections = (long)tightest.threads;
        if (limits->connections < 1)
            limits->connections = 1;
    }

    long needed =
        limits->connections + FDS_PER_FETCH * limits->fetches + reserved;
    if (needed > fds)
        log_line("warning: %ld connections and %ld fetches may need %ld "
                 "descriptors, the limit is %ld (raise it with ulimit -n)",
                 limits->connections, limits->fetches, needed, fds);
    if (limits->connections > tightest.threads)
        log_line("warning: %s is %lld, which leaves room for %lld of %ld "
                 "connections (raise it with %s)",
                 tightest.name, tightest.value, tightest.threads,
                 limits->connections, tightest.raise);
    return true;
}

void limits_log_no_thread(long nth, int error, long stack_kib)
{
    static long long last_log;

    if (!log_allowed(&last_log))
        return;
    struct thread_limit tightest = tightest_thread_limit(
        stack_kib, read_threads() - (nth - 1 + OWN_THREADS));
    log_line("cannot start thread %ld: %s; the tightest limit is %s, %lld "
             "(raise it with %s)",
             nth, strerror(error), tightest.name, tightest.value,
             tightest.raise);
}
