/*
 * crowd.c - what churn, soak and overload share, see crowd.h
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* SOCK_CLOEXEC, in_addr_t */
#include "crowd.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOKS 10           /* at what a server holds, while that changes */
#define POLL_MS 5          /* between two looks */
#define LOG_TAIL 3000      /* shown of a log, in bytes */
#define WARM_MS 300        /* of the first attempt to warm the pool */
#define WARM_ATTEMPTS 5    /* each twice as long */
#define FIRST_PORT 20000   /* of an upstream: below what the system gives */
#define PORTS 12000        /* to clients, or one could take it meanwhile */
#define MOST_WORDS 32      /* of a command line */
#define BUSY_STACK 0x20000 /* bytes of a thread's stack */

static const struct crowd_server *blamed;

void give_up(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("FAILED: ", stdout);
    (void)vprintf(format, args);
    va_end(args);
    putchar('\n');
    if (blamed != NULL) {
        char *log = subject_log(&blamed->process);
        size_t len = strlen(log);
        printf("the server's log:\n%s",
               log + (len > LOG_TAIL ? len - LOG_TAIL : 0));
        free(log);
    }
    (void)fflush(stdout);
    _exit(1); /* the main thread may be in the midst of something */
}

long long now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

const char *grouped(unsigned long long number)
{
    static char texts[16][32];
    static unsigned next;
    char *text = texts[next++ % 16], digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", number);
    char *to = text;

    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = '\0';
    return text;
}

long raise_descriptors(void)
{
    struct rlimit fds;

    if (getrlimit(RLIMIT_NOFILE, &fds) != 0)
        give_up("cannot read the limit of descriptors: %s", strerror(errno));
    fds.rlim_cur = fds.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &fds) != 0)
        give_up("cannot raise the limit of descriptors: %s", strerror(errno));
    return (long)fds.rlim_cur;
}

/*
 * The upstream
 */

/* Reads a number after KEY= of what it says. */
static unsigned long upstream_says(const struct upstream *upstream,
                                   const char *key)
{
    char text[128];
    ssize_t len = recv(upstream->control, text, sizeof text - 1, 0);

    if (len <= 0)
        return 0;
    text[len] = '\0';
    const char *at = strstr(text, key);
    return at != NULL ? strtoul(at + strlen(key), NULL, 10) : 0;
}

/* Starts it on this port. Returns whether it serves. */
static bool serves_at(struct upstream *upstream, int port)
{
    const struct timeval patience = {.tv_sec = SUBJECT_PATIENCE_MS / 1000};
    int pair[2];
    char number[12], control[12];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0 ||
        fcntl(pair[0], F_SETFD, FD_CLOEXEC) != 0 ||
        setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience,
                   sizeof patience) != 0)
        give_up("cannot make a pair of sockets: %s", strerror(errno));
    (void)snprintf(number, sizeof number, "%d", port);
    (void)snprintf(control, sizeof control, "%d", pair[1]);
    char program[256];
    (void)snprintf(program, sizeof program, "%s", upstream->program);
    char *const argv[] = {program, number, control, NULL};
    if (!subject_start(&upstream->process, argv, false))
        give_up("cannot start %s: %s", program, strerror(errno));
    close(pair[1]);
    upstream->control = pair[0];
    if (upstream_says(upstream, "port=") == (unsigned long)port)
        return true;
    upstream_kill(upstream);
    return false;
}

void upstream_start(struct upstream *upstream, const char *program)
{
    long long deadline = subject_now_ms() + SUBJECT_PATIENCE_MS;
    bool again = upstream->port != 0;
    uint64_t random = (uint64_t)getpid();

    upstream->program = program;
    do {
        if (!again)
            upstream->port = FIRST_PORT + (int)chance(&random, PORTS);
        if (serves_at(upstream, upstream->port))
            return;
    } while (subject_now_ms() < deadline);
    give_up("the upstream does not start");
}

void upstream_kill(struct upstream *upstream)
{
    subject_free(&upstream->process);
    close(upstream->control);
}

unsigned long upstream_force(struct upstream *upstream, const char *path)
{
    const char *text = path != NULL ? path : "";

    if (send(upstream->control, text, strlen(text) + 1, MSG_NOSIGNAL) < 0)
        give_up("the upstream is gone");
    return upstream_says(upstream, "requests=");
}

/*
 * The server
 */

void server_start(struct crowd_server *server, const char *program,
                  const struct upstream *upstream, long fetches,
                  const char *const options[])
{
    char url[64], handles[16];
    const char *argv[MOST_WORDS] = {program,      "--listen", "127.0.0.1:0",
                                    "--upstream", url,        "--max-fetches",
                                    handles};
    size_t argc = 7;

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%d/text",
                   upstream->port);
    (void)snprintf(handles, sizeof handles, "%ld", fetches);
    while (*options != NULL && argc < MOST_WORDS - 1)
        argv[argc++] = *options++;
    *server = (struct crowd_server){.fetches = fetches};
    if (!subject_start(&server->process, (char *const *)argv, false))
        give_up("cannot start %s: %s", program, strerror(errno));
    blamed = server;
    int port = subject_port(&server->process);
    if (port == 0)
        give_up("the server does not listen");
    server->address = (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons((in_port_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}

char *server_summary(struct crowd_server *server, const char **line)
{
    long long deadline = subject_now_ms() + SUBJECT_PATIENCE_MS;

    if (kill(server->process.pid, SIGUSR1) != 0)
        give_up("cannot ask for a summary: %s", strerror(errno));
    do {
        char *log = subject_log(&server->process);
        *line = subject_summary(log, &server->summaries);
        if (*line != NULL)
            return log;
        free(log);
        pause_ms(POLL_MS);
    } while (subject_now_ms() < deadline);
    give_up("no summary");
}

unsigned long expect_value(const char *summary, const char *key,
                           unsigned long low, unsigned long high)
{
    unsigned long value = (unsigned long)subject_value(summary, key);

    if (value >= low && value <= high)
        return value;
    if (low == high)
        give_up("the server counts %s=%lu, the clients %lu", key, value, low);
    give_up("the server counts %s=%lu, the clients %lu to %lu", key, value,
            low, high);
}

void server_stop(struct crowd_server *server)
{
    struct subject *process = &server->process;

    if (kill(process->pid, SIGTERM) != 0 ||
        !subject_ends(process, SUBJECT_PATIENCE_MS))
        give_up("the server does not end");
    if (!WIFEXITED(process->status) || WEXITSTATUS(process->status) != 0)
        give_up("the server ended with status %#x", (unsigned)process->status);
    char *log = subject_log(process);
    const char *report = subject_report(log);
    if (report != NULL)
        give_up("the server's log has: %.300s", report);
    if (strstr(log, "cut off") != NULL || strstr(log, "cannot") != NULL)
        give_up("the server's log has a complaint");
    free(log);
}

/* Returns the number after "KEY:" in a file of /proc/PID. */
static long proc_number(pid_t pid, const char *file, const char *key)
{
    char path[64], line[256];
    long number = -1;

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    FILE *in = fopen(path, "re");
    if (in == NULL)
        give_up("the server is gone");
    size_t len = strlen(key);
    while (number < 0 && fgets(line, sizeof line, in) != NULL)
        if (strncmp(line, key, len) == 0 && line[len] == ':')
            number = strtol(line + len + 1, NULL, 10);
    (void)fclose(in);
    return number;
}

static long count_descriptors(pid_t pid)
{
    char path[64];
    long count = 0;

    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *all = opendir(path);
    if (all == NULL)
        give_up("the server is gone");
    while (readdir(all) != NULL) /* NOLINT(concurrency-mt-unsafe) */
        count++;
    closedir(all);
    return count - 2; /* "." and ".." */
}

struct holding server_holds(const struct crowd_server *server)
{
    pid_t pid = server->process.pid;
    struct holding holding;
    int looks = 0;

    /* The threads first: one that is counted no more has closed what it had.
     * Again if one has ended meanwhile, or begun. */
    do {
        holding.threads = proc_number(pid, "status", "Threads");
        holding.descriptors = count_descriptors(pid);
    } while (proc_number(pid, "status", "Threads") != holding.threads &&
             ++looks < LOOKS);
    /* VmRSS of status may be off by some pages of each processor. */
    holding.rss_kib = proc_number(pid, "smaps_rollup", "Rss");
    return holding;
}

struct holding server_rests(const struct crowd_server *server,
                            const struct holding *wanted, long timeout_ms)
{
    long long deadline = subject_now_ms() + timeout_ms;

    for (;;) {
        struct holding now = server_holds(server);
        if ((wanted->threads == 0 || wanted->threads == now.threads) &&
            (wanted->descriptors == 0 ||
             wanted->descriptors == now.descriptors))
            return now;
        if (subject_now_ms() >= deadline)
            give_up("the server keeps %ld descriptors and %ld threads, not "
                    "%ld and %ld",
                    now.descriptors, now.threads, wanted->descriptors,
                    wanted->threads);
        pause_ms(POLL_MS);
    }
}

/* A client that makes a handle busy. */
struct warmer {
    const struct crowd_server *server;
    pthread_t thread;
    long ms;
    long long replied; /* at this time, in us */
};

static void *warmer_thread(void *arg)
{
    struct warmer *warmer = arg;
    struct input input = {.fd = dial(warmer->server, 0)};
    char text[64], line[INPUT_SIZE];
    int len = snprintf(text, sizeof text, "/delay/%ld\n", warmer->ms);

    if (!send_all(input.fd, text, (size_t)len) ||
        take_line(&input, line) < 0 || strncmp(line, "echo: ", 6) != 0)
        give_up("no reply while the pool is warmed");
    warmer->replied = now_us();
    close(input.fd);
    return NULL;
}

/* Has each handle fetch at the same time. Returns false if that failed. */
static bool warm_at_once(const struct crowd_server *server, long ms)
{
    struct warmer *warmers = calloc((size_t)server->fetches, sizeof *warmers);
    long long first = INT64_MAX, last = 0;
    pthread_attr_t small;

    if (warmers == NULL || pthread_attr_init(&small) != 0 ||
        pthread_attr_setstacksize(&small, BUSY_STACK) != 0)
        give_up("out of memory");
    for (long i = 0; i < server->fetches; i++) {
        warmers[i].server = server;
        warmers[i].ms = ms;
        if (pthread_create(&warmers[i].thread, &small, warmer_thread,
                           &warmers[i]) != 0)
            give_up("cannot start a client");
    }
    for (long i = 0; i < server->fetches; i++) {
        pthread_join(warmers[i].thread, NULL);
        if (warmers[i].replied < first)
            first = warmers[i].replied;
        if (warmers[i].replied > last)
            last = warmers[i].replied;
    }
    pthread_attr_destroy(&small);
    free(warmers);
    /* Then each fetch began before the first one ended. */
    return last - first < ms * 1000;
}

unsigned long warm_pool(const struct crowd_server *server)
{
    unsigned long requests = 0;
    long ms = WARM_MS;
    int in_a_row = 0;

    /* Twice: after its fifth connect a handle is dropped and made again when
     * it is used next. */
    for (int i = 0; i < WARM_ATTEMPTS && in_a_row < 2; i++) {
        requests += (unsigned long)server->fetches;
        if (warm_at_once(server, ms)) {
            in_a_row++;
        } else {
            in_a_row = 0;
            ms *= 2;
        }
    }
    if (in_a_row < 2)
        give_up("cannot use all handles at once");
    return requests;
}

/*
 * Clients
 */

int dial(const struct crowd_server *server, unsigned source)
{
    const struct timeval patience = {.tv_sec = SUBJECT_PATIENCE_MS / 1000};
    const struct sockaddr_in from = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK + source),
    };
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) !=
            0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) !=
            0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
        /* The port is chosen when the other end is known, so that it only has
         * to be free towards that. */
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) !=
            0 ||
        bind(fd, (const struct sockaddr *)&from, sizeof from) != 0)
        give_up("cannot make a socket: %s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&server->address,
                sizeof server->address) != 0)
        give_up("cannot connect: %s", strerror(errno));
    return fd;
}

bool send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN) {
            give_up("the server does not read");
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

long take_line(struct input *input, char *line)
{
    for (;;) {
        char *lf = memchr(input->data, '\n', input->len);
        if (lf != NULL) {
            size_t len = (size_t)(lf - input->data);
            memcpy(line, input->data, len);
            line[len] = '\0';
            input->len -= len + 1;
            memmove(input->data, lf + 1, input->len);
            return (long)len;
        }
        if (input->len == sizeof input->data)
            give_up("a reply of more than %zu bytes", sizeof input->data);
        ssize_t n = recv(input->fd, input->data + input->len,
                         sizeof input->data - input->len, 0);
        if (n > 0)
            input->len += (size_t)n;
        else if (n == 0 && input->len > 0)
            give_up("the end in the midst of a reply");
        else if (n == 0)
            return ENDED;
        else if (errno == EAGAIN)
            return SILENT;
        else if (errno != EINTR)
            return RESET;
    }
}

void close_by_reset(int fd)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) != 0)
        give_up("cannot reset: %s", strerror(errno));
    close(fd);
}
