/* SPDX-License-Identifier: MIT */
/*
 * The documents' own experiment: many short sleeps over a pool of threads.
 *
 *   build/pool --workers 100 [--tasks 10000] [--sleep 5] [--json]
 *
 * Overhead is the time that the tasks took in all, divided by what they would
 * take if starting, switching and waking cost nothing: sleep x tasks /
 * workers. bench/pool.py is the same experiment for Python threads and gevent
 * and prints the same columns. docs/pool.md tells why the defaults are these.
 */
#define _GNU_SOURCE /* sched_setaffinity, SCHED_BATCH, getopt_long */

#include "arguments.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

enum { MAX_WORKERS = 32000, MAX_TASKS = 10000000, PAGE = 4096 };

/* A worker that is handed this task ends. */
enum { STOP_WORKER = -1 };

/* How a task gets from the main thread to a worker. */
enum queue_kind {
    QUEUE_MUTEX,     /* as the documents: bounded, one lock, two conditions */
    QUEUE_BROADCAST, /* everything queued first, then all workers woken */
    QUEUE_SEMAPHORE, /* a wake-up for each task, the task by a counter */
    QUEUE_IDLE,      /* everything queued first, then the idle woken singly */
    QUEUE_KINDS
};

static const char *const queue_names[QUEUE_KINDS] = {"mutex", "broadcast",
                                                     "semaphore", "idle"};

struct pool_options {
    int workers;
    int tasks;
    double sleep_ms;
    enum queue_kind queue;
    bool whole;      /* the span begins before the first worker is made */
    bool batch;      /* SCHED_BATCH: a waking thread does not preempt */
    bool spread;     /* worker i stays on core i modulo the cores */
    double slack_us; /* timer slack; below 0: as the process has it */
    int stack_kib;   /* of each worker */
    bool json;
    const char *samples; /* file for one line a task, or NULL */
};

/* What became of one task; written by the worker that ran it. */
struct task {
    int64_t started_ns;
    int64_t ended_ns;
    _Atomic int runs;
};

/*
 * Tasks on their way to the workers. The kinds mutex and broadcast use the
 * lock and the conditions, the kinds semaphore and idle only the rest.
 */
struct task_queue {
    enum queue_kind kind;
    int *slots; /* in order of arrival; never reused, so never overwritten */
    int bound;  /* how many may wait before put() waits */
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    _Atomic int head;
    _Atomic int tail;
    _Atomic int idle; /* workers that wait for filled, or are about to */
    bool open;        /* broadcast: workers may take */
    sem_t filled;
};

struct thread_pool {
    const struct pool_options *options;
    struct timespec nap;
    struct task *tasks;
    struct task_queue queue;
    sem_t ready; /* posted by each worker before its first take */
    pthread_mutex_t lock;
    pthread_cond_t all_done;
    _Atomic int left;
    char *stacks;
    cpu_set_t cpus; /* what the process may run on */
};

struct worker {
    struct thread_pool *pool;
    pthread_t thread;
    int index;
};

/* What one run cost, over the span that the overhead counts. */
struct pool_result {
    double create_ms;
    double total_ms;
    struct rusage before;
    struct rusage after;
};

static const char usage_text[] =
    "usage: pool [OPTION]...\n"
    "Run sleeping tasks over a pool of threads and print what it cost.\n"
    "  -w, --workers N      threads in the pool, 1..32000 (100)\n"
    "  -n, --tasks N        tasks in all, 1..10000000 (10000)\n"
    "  -s, --sleep MS       how long each task sleeps, 0..60000 (5)\n"
    "  -q, --queue KIND     mutex, broadcast, semaphore or idle (idle)\n"
    "      --span WHAT      tasks: workers wait when the clock starts; all: "
    "it\n"
    "                       starts before they are made (tasks)\n"
    "      --policy NAME    other or batch (other)\n"
    "      --place HOW      free, or spread over the cores (spread)\n"
    "      --slack US       timer slack, 0.001..1000000 (as inherited)\n"
    "      --stack KIB      stack of a worker, 16..65536 (64)\n"
    "  -j, --json           one JSON object in place of two TSV lines\n"
    "      --samples FILE   each task's start, end and lateness, in ns\n"
    "  -h, --help           this text\n";

/* Print a message of ours to stderr and exit with 1. */
__attribute__((noreturn, format(printf, 1, 2))) static void
fail(const char *format, ...)
{
    va_list args;

    fputs("pool: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* End the program if a pthread call, which returns its error, failed. */
static void must(int error, const char *what)
{
    if (error)
        fail("%s: %s", what, strerror(error));
}

/* Allocate count zeroed members of size bytes, or end the program. */
static void *must_allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);

    if (!memory)
        fail("out of memory");
    return memory;
}

/* Nanoseconds on a clock that is never set. */
static int64_t now_ns(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        fail("clock_gettime: %s", strerror(errno));
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Wait for a semaphore, whatever signals come. */
static void sem_wait_whole(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        if (errno != EINTR)
            fail("sem_wait: %s", strerror(errno));
}

static void sem_post_whole(sem_t *semaphore)
{
    if (sem_post(semaphore) != 0)
        fail("sem_post: %s", strerror(errno));
}

/* Set up an empty queue that will be given at most capacity tasks. */
static void queue_create(struct task_queue *q, enum queue_kind kind,
                         int capacity, int bound)
{
    q->kind = kind;
    q->slots = must_allocate((size_t)capacity, sizeof q->slots[0]);
    q->bound = bound;
    must(pthread_mutex_init(&q->lock, NULL), "pthread_mutex_init");
    must(pthread_cond_init(&q->not_empty, NULL), "pthread_cond_init");
    must(pthread_cond_init(&q->not_full, NULL), "pthread_cond_init");
    if (sem_init(&q->filled, 0, 0) != 0)
        fail("sem_init: %s", strerror(errno));
}

/* Release what queue_create made; no thread may use the queue any more. */
static void queue_destroy(struct task_queue *q)
{
    must(pthread_mutex_destroy(&q->lock), "pthread_mutex_destroy");
    must(pthread_cond_destroy(&q->not_empty), "pthread_cond_destroy");
    must(pthread_cond_destroy(&q->not_full), "pthread_cond_destroy");
    if (sem_destroy(&q->filled) != 0)
        fail("sem_destroy: %s", strerror(errno));
    free(q->slots);
}

/* Take the next task if there is one, else return false. */
static bool try_take(struct task_queue *q, int *task)
{
    int head = q->head;

    while (head < q->tail) {
        if (atomic_compare_exchange_weak(&q->head, &head, head + 1)) {
            *task = q->slots[head];
            return true;
        }
    }
    return false;
}

/* Count one idle worker off, if there is one: it is then owed a sem_post. */
static bool claim_idle(struct task_queue *q)
{
    int idle = q->idle;

    while (idle > 0)
        if (atomic_compare_exchange_weak(&q->idle, &idle, idle - 1))
            return true;
    return false;
}

/* Put a task in; only the main thread does. */
static void queue_put(struct task_queue *q, int task)
{
    if (q->kind == QUEUE_SEMAPHORE || q->kind == QUEUE_IDLE) {
        q->slots[q->tail] = task;
        q->tail++;
        if (q->kind == QUEUE_SEMAPHORE)
            sem_post_whole(&q->filled);
        return;
    }
    must(pthread_mutex_lock(&q->lock), "pthread_mutex_lock");
    while (q->tail - q->head >= q->bound)
        must(pthread_cond_wait(&q->not_full, &q->lock), "pthread_cond_wait");
    q->slots[q->tail++] = task;
    if (q->kind == QUEUE_MUTEX)
        must(pthread_cond_signal(&q->not_empty), "pthread_cond_signal");
    must(pthread_mutex_unlock(&q->lock), "pthread_mutex_unlock");
}

/* Say that all tasks of this batch are in. */
static void queue_flush(struct task_queue *q)
{
    if (q->kind == QUEUE_IDLE) {
        /* a worker counts itself idle before it looks at the tail again, so
         * either it sees the tasks or this thread sees it idle */
        while (q->head < q->tail && claim_idle(q))
            sem_post_whole(&q->filled);
    }
    if (q->kind == QUEUE_BROADCAST) {
        must(pthread_mutex_lock(&q->lock), "pthread_mutex_lock");
        q->open = true;
        must(pthread_cond_broadcast(&q->not_empty), "pthread_cond_broadcast");
        must(pthread_mutex_unlock(&q->lock), "pthread_mutex_unlock");
    }
}

/* Take a task, waiting for one. */
static int queue_take(struct task_queue *q)
{
    int task;

    if (q->kind == QUEUE_SEMAPHORE) {
        sem_wait_whole(&q->filled);
        return q->slots[atomic_fetch_add(&q->head, 1)];
    }
    if (q->kind == QUEUE_IDLE) {
        while (!try_take(q, &task)) {
            q->idle++;
            if (q->head < q->tail && claim_idle(q))
                continue; /* a task came meanwhile, and nobody was woken */
            sem_wait_whole(&q->filled);
        }
        return task;
    }
    must(pthread_mutex_lock(&q->lock), "pthread_mutex_lock");
    while (q->head == q->tail || (q->kind == QUEUE_BROADCAST && !q->open))
        must(pthread_cond_wait(&q->not_empty, &q->lock), "pthread_cond_wait");
    task = q->slots[q->head++];
    if (q->kind == QUEUE_MUTEX)
        must(pthread_cond_signal(&q->not_full), "pthread_cond_signal");
    must(pthread_mutex_unlock(&q->lock), "pthread_mutex_unlock");
    return task;
}

/* One task: a sleep between two looks at the clock. */
static void run_task(struct task *task, struct timespec nap)
{
    task->started_ns = now_ns();
    while (nanosleep(&nap, &nap) != 0)
        if (errno != EINTR)
            fail("nanosleep: %s", strerror(errno));
    task->ended_ns = now_ns();
    atomic_fetch_add(&task->runs, 1);
}

/* Keep the calling thread on the n-th, modulo their count, of the cores. */
static void stay_on_core(const cpu_set_t *cpus, int n)
{
    int nth = n % CPU_COUNT(cpus);
    cpu_set_t one;
    int cpu;

    for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, cpus) && nth-- == 0)
            break;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        fail("sched_setaffinity: %s", strerror(errno));
}

/* A thread of the pool: take a task, run it, until told to stop. */
static void *worker_thread(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    int task;

    if (pool->options->spread)
        stay_on_core(&pool->cpus, worker->index);
    sem_post_whole(&pool->ready);
    for (;;) {
        task = queue_take(&pool->queue);
        if (task == STOP_WORKER)
            return NULL;
        run_task(&pool->tasks[task], pool->nap);
        if (atomic_fetch_sub(&pool->left, 1) == 1) {
            must(pthread_mutex_lock(&pool->lock), "pthread_mutex_lock");
            must(pthread_cond_signal(&pool->all_done), "pthread_cond_signal");
            must(pthread_mutex_unlock(&pool->lock), "pthread_mutex_unlock");
        }
    }
}

/*
 * Make the workers. Their stacks are slices of one allocation: a mapping and a
 * guard page for each would be two system calls more a thread.
 */
static void start_workers(struct thread_pool *pool, struct worker *workers)
{
    const struct pool_options *options = pool->options;
    size_t stack = (size_t)options->stack_kib * 1024;
    void *stacks = NULL;
    pthread_attr_t attributes;
    int error;
    int i;

    must(posix_memalign(&stacks, PAGE, stack * (size_t)options->workers),
         "--stack");
    pool->stacks = stacks;
    must(pthread_attr_init(&attributes), "pthread_attr_init");
    for (i = 0; i < options->workers; i++) {
        workers[i].pool = pool;
        workers[i].index = i;
        must(pthread_attr_setstack(&attributes,
                                   pool->stacks + stack * (size_t)i, stack),
             "--stack");
        error = pthread_create(&workers[i].thread, &attributes, worker_thread,
                               &workers[i]);
        if (error)
            fail("cannot start thread %d of %d: %s", i + 1, options->workers,
                 strerror(error));
    }
    must(pthread_attr_destroy(&attributes), "pthread_attr_destroy");
}

/* Return when each worker stands before its first take. */
static void await_workers(struct thread_pool *pool)
{
    int i;

    for (i = 0; i < pool->options->workers; i++)
        sem_wait_whole(&pool->ready);
}

/* Put all tasks in. */
static void put_tasks(struct thread_pool *pool)
{
    int i;

    for (i = 0; i < pool->options->tasks; i++)
        queue_put(&pool->queue, i);
    queue_flush(&pool->queue);
}

/* Return when the last task is done. */
static void await_tasks(struct thread_pool *pool)
{
    must(pthread_mutex_lock(&pool->lock), "pthread_mutex_lock");
    while (pool->left > 0)
        must(pthread_cond_wait(&pool->all_done, &pool->lock),
             "pthread_cond_wait");
    must(pthread_mutex_unlock(&pool->lock), "pthread_mutex_unlock");
}

/* Hand each worker its end and wait until it has gone. */
static void end_workers(struct thread_pool *pool, struct worker *workers)
{
    int i;

    for (i = 0; i < pool->options->workers; i++)
        queue_put(&pool->queue, STOP_WORKER);
    queue_flush(&pool->queue);
    for (i = 0; i < pool->options->workers; i++)
        must(pthread_join(workers[i].thread, NULL), "pthread_join");
}

static void resources(struct rusage *usage)
{
    if (getrusage(RUSAGE_SELF, usage) != 0)
        fail("getrusage: %s", strerror(errno));
}

/*
 * Run all tasks once over a new pool. The documents' span goes from the first
 * task put to the last one done, with the workers waiting at its start; the
 * whole one has the tasks waiting, and also makes the workers.
 */
static void run_pool(struct thread_pool *pool, struct pool_result *result)
{
    bool whole = pool->options->whole;
    struct worker *workers =
        must_allocate((size_t)pool->options->workers, sizeof workers[0]);
    int64_t begin;
    int64_t created;
    int64_t end;

    if (whole)
        put_tasks(pool);
    resources(&result->before);
    begin = now_ns();
    start_workers(pool, workers);
    if (!whole) {
        await_workers(pool);
        resources(&result->before);
    }
    created = now_ns();
    if (!whole)
        put_tasks(pool);
    await_tasks(pool);
    end = now_ns();
    resources(&result->after);
    end_workers(pool, workers);
    free(workers);

    result->create_ms = (double)(created - begin) / 1e6;
    result->total_ms = (double)(end - (whole ? begin : created)) / 1e6;
}

static int compare_int64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* The smallest sample that at least share of all samples do not exceed. */
static double percentile_us(const int64_t *sorted, int count, double share)
{
    double rank = share * count;
    int index = (int)rank;

    if (index < rank)
        index++;
    return (double)sorted[index > 0 ? index - 1 : 0] / 1e3;
}

static double milliseconds(const struct timeval *from,
                           const struct timeval *to)
{
    return (double)(to->tv_sec - from->tv_sec) * 1e3 +
           (double)(to->tv_usec - from->tv_usec) / 1e3;
}

/* One column of the output; text, where it is not NULL, stands for number. */
struct column {
    const char *name;
    const char *text;
    double number;
    int decimals;
};

/* Print the columns as a header and a row, or as one JSON object. */
static void print_columns(const struct column *columns, size_t count,
                          bool json)
{
    size_t i;

    if (!json) {
        for (i = 0; i < count; i++)
            printf("%s%s", i > 0 ? "\t" : "", columns[i].name);
        putchar('\n');
    }
    for (i = 0; i < count; i++) {
        if (json)
            printf("%s\"%s\": ", i > 0 ? ", " : "{", columns[i].name);
        else if (i > 0)
            putchar('\t');
        if (columns[i].text)
            printf(json ? "\"%s\"" : "%s", columns[i].text);
        else
            printf("%.*f", columns[i].decimals, columns[i].number);
    }
    puts(json ? "}" : "");
}

/* Print the result; false if a task was early or not run exactly once. */
static bool report(const struct thread_pool *pool,
                   const struct pool_result *result)
{
    const struct pool_options *options = pool->options;
    const struct rusage *before = &result->before;
    const struct rusage *after = &result->after;
    double ideal_ms = options->sleep_ms * options->tasks / options->workers;
    int64_t nap_ns =
        (int64_t)pool->nap.tv_sec * 1000000000 + pool->nap.tv_nsec;
    int64_t *late = must_allocate((size_t)options->tasks, sizeof late[0]);
    double sum = 0;
    int early = 0;
    int wrong = 0;
    int i;

    for (i = 0; i < options->tasks; i++) {
        const struct task *task = &pool->tasks[i];

        late[i] = task->ended_ns - task->started_ns - nap_ns;
        sum += (double)late[i];
        early += late[i] < 0;
        wrong += task->runs != 1;
    }
    qsort(late, (size_t)options->tasks, sizeof late[0], compare_int64);

    const struct column columns[] = {
        {"model", "pthreads", 0, 0},
        {"queue", queue_names[options->queue], 0, 0},
        {"span", options->whole ? "all" : "tasks", 0, 0},
        {"policy", options->batch ? "batch" : "other", 0, 0},
        {"place", options->spread ? "spread" : "free", 0, 0},
        {"workers", NULL, options->workers, 0},
        {"tasks", NULL, options->tasks, 0},
        {"sleep_ms", NULL, options->sleep_ms, 3},
        {"ideal_ms", NULL, ideal_ms, 3},
        {"total_ms", NULL, result->total_ms, 3},
        {"overhead", NULL, ideal_ms > 0 ? result->total_ms / ideal_ms : 0, 4},
        {"create_ms", NULL, result->create_ms, 3},
        {"cpu_user_ms", NULL,
         milliseconds(&before->ru_utime, &after->ru_utime), 3},
        {"cpu_system_ms", NULL,
         milliseconds(&before->ru_stime, &after->ru_stime), 3},
        {"voluntary_switches", NULL,
         (double)(after->ru_nvcsw - before->ru_nvcsw), 0},
        {"involuntary_switches", NULL,
         (double)(after->ru_nivcsw - before->ru_nivcsw), 0},
        {"late_min_us", NULL, (double)late[0] / 1e3, 1},
        {"late_mean_us", NULL, sum / options->tasks / 1e3, 1},
        {"late_p50_us", NULL, percentile_us(late, options->tasks, 0.50), 1},
        {"late_p90_us", NULL, percentile_us(late, options->tasks, 0.90), 1},
        {"late_p99_us", NULL, percentile_us(late, options->tasks, 0.99), 1},
        {"late_p999_us", NULL, percentile_us(late, options->tasks, 0.999), 1},
        {"late_max_us", NULL, (double)late[options->tasks - 1] / 1e3, 1},
        {"early_tasks", NULL, early, 0},
        {"tasks_not_run_once", NULL, wrong, 0},
    };

    print_columns(columns, sizeof columns / sizeof columns[0], options->json);
    free(late);
    if (early > 0)
        fprintf(stderr, "pool: %d tasks ended early\n", early);
    if (wrong > 0)
        fprintf(stderr, "pool: %d tasks did not run exactly once\n", wrong);
    return early == 0 && wrong == 0;
}

/* Write what became of each task, a line each. */
static void write_samples(const struct thread_pool *pool)
{
    const char *path = pool->options->samples;
    int64_t nap_ns =
        (int64_t)pool->nap.tv_sec * 1000000000 + pool->nap.tv_nsec;
    FILE *file = fopen(path, "w");
    bool bad;
    int i;

    if (!file)
        fail("--samples %s: %s", path, strerror(errno));
    fputs("task\tstarted_ns\tended_ns\tlate_ns\n", file);
    for (i = 0; i < pool->options->tasks; i++) {
        long long started = pool->tasks[i].started_ns;
        long long ended = pool->tasks[i].ended_ns;

        fprintf(file, "%d\t%lld\t%lld\t%lld\n", i, started, ended,
                ended - started - (long long)nap_ns);
    }
    bad = ferror(file) != 0;
    if (fclose(file) != 0 || bad)
        fail("--samples %s: %s", path, strerror(errno));
}

/* Return which of the names text is, or exit with 2. */
static int parse_name(const char *option, const char *text,
                      const char *const *names, int count)
{
    char list[128] = "";
    for (int i = 0; i < count; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
        size_t len = strlen(list);
        (void)snprintf(list + len, sizeof list - len, "%s%s",
                       i > 0 ? ", " : "", names[i]);
    }
    exit_bad_usage("pool", "%s: '%s' is not one of %s", option, text, list);
}

static void parse_pool_options(int argc, char **argv, struct pool_options *o)
{
    enum {
        OPTION_SPAN = 256,
        OPTION_POLICY,
        OPTION_PLACE,
        OPTION_SLACK,
        OPTION_STACK,
        OPTION_SAMPLES
    };
    static const char *const spans[] = {"tasks", "all"};
    static const char *const policies[] = {"other", "batch"};
    static const char *const places[] = {"free", "spread"};
    static const struct option longs[] = {
        {"workers", required_argument, NULL, 'w'},
        {"tasks", required_argument, NULL, 'n'},
        {"sleep", required_argument, NULL, 's'},
        {"queue", required_argument, NULL, 'q'},
        {"span", required_argument, NULL, OPTION_SPAN},
        {"policy", required_argument, NULL, OPTION_POLICY},
        {"place", required_argument, NULL, OPTION_PLACE},
        {"slack", required_argument, NULL, OPTION_SLACK},
        {"stack", required_argument, NULL, OPTION_STACK},
        {"json", no_argument, NULL, 'j'},
        {"samples", required_argument, NULL, OPTION_SAMPLES},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;

    for (;;) {
        c = getopt_long(argc, argv, "w:n:s:q:jh", longs, NULL);
        if (c == -1)
            break;
        switch (c) {
        case 'w':
            o->workers = (int)whole_argument("pool", "--workers", optarg, 1,
                                             MAX_WORKERS);
            break;
        case 'n':
            o->tasks =
                (int)whole_argument("pool", "--tasks", optarg, 1, MAX_TASKS);
            break;
        case 's':
            o->sleep_ms = decimal_argument("pool", "--sleep", optarg,
                                           "number of milliseconds", 0, 60000);
            break;
        case 'q':
            o->queue = (enum queue_kind)parse_name("--queue", optarg,
                                                   queue_names, QUEUE_KINDS);
            break;
        case OPTION_SPAN:
            o->whole = parse_name("--span", optarg, spans, 2) == 1;
            break;
        case OPTION_POLICY:
            o->batch = parse_name("--policy", optarg, policies, 2) == 1;
            break;
        case OPTION_PLACE:
            o->spread = parse_name("--place", optarg, places, 2) == 1;
            break;
        case OPTION_SLACK:
            o->slack_us =
                decimal_argument("pool", "--slack", optarg,
                                 "number of microseconds", 0.001, 1000000);
            break;
        case OPTION_STACK:
            o->stack_kib =
                (int)whole_argument("pool", "--stack", optarg, 16, 65536);
            break;
        case 'j':
            o->json = true;
            break;
        case OPTION_SAMPLES:
            o->samples = optarg;
            break;
        case 'h':
            exit_printing("pool", usage_text);
        default:
            fputs("Try pool --help.\n", stderr);
            exit(2);
        }
    }
    if (optind < argc)
        exit_bad_usage("pool", "unexpected argument '%s'", argv[optind]);
}

/* Set what the workers inherit: the scheduling policy, the timer slack. */
static void prepare_scheduling(struct thread_pool *pool)
{
    const struct pool_options *options = pool->options;
    const struct sched_param none = {0};

    if (sched_getaffinity(0, sizeof pool->cpus, &pool->cpus) != 0)
        fail("sched_getaffinity: %s", strerror(errno));
    if (options->batch && sched_setscheduler(0, SCHED_BATCH, &none) != 0)
        fail("--policy batch: %s", strerror(errno));
    if (options->slack_us > 0) {
        unsigned long slack_ns = (unsigned long)(options->slack_us * 1e3);

        if (prctl(PR_SET_TIMERSLACK, slack_ns, 0, 0, 0) != 0)
            fail("--slack: %s", strerror(errno));
    }
}

int main(int argc, char **argv)
{
    struct pool_options options = {
        .workers = 100,
        .tasks = 10000,
        .sleep_ms = 5,
        .queue = QUEUE_IDLE,
        .batch = false,
        .spread = true,
        .slack_us = -1,
        .stack_kib = 64,
    };
    struct thread_pool pool = {.options = &options};
    struct pool_result result;
    int64_t nap_ns;
    bool good;

    parse_pool_options(argc, argv, &options);
    nap_ns = (int64_t)(options.sleep_ms * 1e6 + 0.5);
    pool.nap.tv_sec = (time_t)(nap_ns / 1000000000);
    pool.nap.tv_nsec = (long)(nap_ns % 1000000000);
    pool.tasks = must_allocate((size_t)options.tasks, sizeof pool.tasks[0]);
    pool.left = options.tasks;
    queue_create(&pool.queue, options.queue, options.tasks + options.workers,
                 options.queue == QUEUE_MUTEX && !options.whole
                     ? options.workers
                     : options.tasks + options.workers);
    must(pthread_mutex_init(&pool.lock, NULL), "pthread_mutex_init");
    must(pthread_cond_init(&pool.all_done, NULL), "pthread_cond_init");
    if (sem_init(&pool.ready, 0, 0) != 0)
        fail("sem_init: %s", strerror(errno));
    prepare_scheduling(&pool);

    run_pool(&pool, &result);
    if (options.samples)
        write_samples(&pool);
    good = report(&pool, &result);

    queue_destroy(&pool.queue);
    free(pool.stacks);
    free(pool.tasks);
    if (!close_stdout("pool"))
        return 1;
    return good ? 0 : 1;
}
