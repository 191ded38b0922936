/*
 * pool.c - the documents' own experiment: many short sleeps over a pool of
 * threads
 *
 *     build/pool --workers 100 [--tasks 10000] [--sleep 5] [--json]
 *
 * The overhead is the total time of the tasks divided by their time if
 * starting, switching and waking cost nothing: sleep x tasks / workers.
 * bench/pool.py is the same experiment for Python threads and gevent and
 * prints the same columns. docs/pool.md explains the defaults.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* sched_setaffinity, SCHED_BATCH */

#include "../lib/values.h"
#include "arguments.h"

#include <errno.h>
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

#define MAX_WORKERS 32000
#define MAX_TASKS 10000000
#define MAX_SLEEP_MS 60000
#define MAX_SLACK_US 1000000
#define MIN_STACK_KIB 16
#define MAX_STACK_KIB 65536
#define PAGE 4096        /* bytes; stacks are aligned to it */
#define STOP_WORKER (-1) /* in place of a task: ends the worker */

/* How a task gets from the main thread to a worker. */
enum queue_kind {
    QUEUE_MUTEX,     /* the documents': bounded, one lock, two conditions */
    QUEUE_BROADCAST, /* all tasks are queued, then all workers are woken */
    QUEUE_SEMAPHORE, /* a wake-up for each task; a counter selects the task */
    QUEUE_IDLE,      /* all tasks are queued, then idle workers woken singly */
    QUEUE_KINDS
};

static const char *const queue_names[QUEUE_KINDS] = {"mutex", "broadcast",
                                                     "semaphore", "idle"};

struct pool_options {
    int workers;
    int tasks;
    double sleep_ms;
    enum queue_kind queue;
    bool whole;      /* the span includes the creation of the workers */
    bool batch;      /* SCHED_BATCH: a waking thread does not preempt */
    bool spread;     /* worker i stays on core i modulo the cores */
    double slack_us; /* timer slack; below 0: as inherited */
    int stack_kib;   /* a worker's stack */
    bool json;
    const char *samples; /* file with a line for each task, or NULL */
};

/* What happened to a task. The worker that runs it writes this. */
struct task {
    int64_t started_ns;
    int64_t ended_ns;
    _Atomic int runs;
};

/*
 * Tasks that wait for a worker. The kinds mutex and broadcast use the lock and
 * the conditions; the kinds semaphore and idle only the rest.
 */
struct task_queue {
    enum queue_kind kind;
    int *slots; /* in order of arrival; none is used twice */
    int bound;  /* most tasks that may wait before queue_put() waits */
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    _Atomic int head;
    _Atomic int tail;
    _Atomic int idle; /* workers that wait for filled, or are about to */
    bool open;        /* broadcast: workers may take tasks */
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
    cpu_set_t cpus; /* the cores that the process may run on */
};

struct worker {
    struct thread_pool *pool;
    pthread_t thread;
    int index;
};

/* What a run cost. */
struct pool_result {
    double create_ms;
    double total_ms;
    struct rusage before;
    struct rusage after;
};

static const char usage[] =
    "Usage: pool [OPTION]...\n"
    "Run sleeping tasks over a pool of threads and print what it cost.\n"
    "\n"
    "  -w, --workers N     threads in the pool, 1 to 32000 (100)\n"
    "  -n, --tasks N       total tasks, 1 to 10000000 (10000)\n"
    "  -s, --sleep MS      sleep of each task, 0 to 60000 (5)\n"
    "  -q, --queue KIND    mutex, broadcast, semaphore or idle (idle)\n"
    "      --span WHAT     tasks: start the clock when the workers wait;\n"
    "                      all: start it before they are created (tasks)\n"
    "      --policy NAME   other or batch (other)\n"
    "      --place HOW     free, or spread over the cores (spread)\n"
    "      --slack US      timer slack, 0.001 to 1000000 (as inherited)\n"
    "      --stack KIB     stack of a worker, 16 to 65536 (64)\n"
    "  -j, --json          print one JSON object, not two TSV lines\n"
    "      --samples FILE  write start, end and lateness of each task, in\n"
    "                      ns, to FILE\n"
    "  -h, --help          print this and exit\n"
    "  -V, --version       print the version and exit\n";

/* Prints a message to stderr and exits with 1. */
__attribute__((format(printf, 1, 2))) static _Noreturn void
fail(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fputs("pool: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

/* Exits with 1 if a pthread call, which returns its error, failed. */
static void must(int error, const char *what)
{
    if (error != 0)
        fail("%s: %s", what, strerror(error));
}

/* Allocates count zeroed members of size bytes, or exits with 1. */
static void *must_allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL)
        fail("out of memory");
    return memory;
}

/* Returns monotonic time, in ns. */
static int64_t now_ns(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        fail("clock_gettime: %s", strerror(errno));
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Waits for a semaphore, through any signals. */
static void must_sem_wait(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        if (errno != EINTR)
            fail("sem_wait: %s", strerror(errno));
}

static void must_sem_post(sem_t *semaphore)
{
    if (sem_post(semaphore) != 0)
        fail("sem_post: %s", strerror(errno));
}

/* Creates an empty queue for at most capacity tasks in its whole life. */
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

/* Frees what queue_create made. No thread may use the queue any more. */
static void queue_destroy(struct task_queue *q)
{
    must(pthread_mutex_destroy(&q->lock), "pthread_mutex_destroy");
    must(pthread_cond_destroy(&q->not_empty), "pthread_cond_destroy");
    must(pthread_cond_destroy(&q->not_full), "pthread_cond_destroy");
    if (sem_destroy(&q->filled) != 0)
        fail("sem_destroy: %s", strerror(errno));
    free(q->slots);
}

/* Takes the next task. Returns false if there is none. */
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

/* Claims an idle worker, which the caller must then wake by must_sem_post().
 * Returns false if there is none. */
static bool claim_idle(struct task_queue *q)
{
    int idle = q->idle;
    while (idle > 0)
        if (atomic_compare_exchange_weak(&q->idle, &idle, idle - 1))
            return true;
    return false;
}

/* Puts a task in. Only the main thread calls it. */
static void queue_put(struct task_queue *q, int task)
{
    if (q->kind == QUEUE_SEMAPHORE || q->kind == QUEUE_IDLE) {
        q->slots[q->tail] = task;
        q->tail++;
        if (q->kind == QUEUE_SEMAPHORE)
            must_sem_post(&q->filled);
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

/* Announces that all tasks of this batch are in. */
static void queue_flush(struct task_queue *q)
{
    if (q->kind == QUEUE_IDLE) {
        /* A worker counts itself idle and then looks at the tail again. So
         * either it sees the tasks, or this thread sees it idle. */
        while (q->head < q->tail && claim_idle(q))
            must_sem_post(&q->filled);
    }
    if (q->kind == QUEUE_BROADCAST) {
        must(pthread_mutex_lock(&q->lock), "pthread_mutex_lock");
        q->open = true;
        must(pthread_cond_broadcast(&q->not_empty), "pthread_cond_broadcast");
        must(pthread_mutex_unlock(&q->lock), "pthread_mutex_unlock");
    }
}

/* Waits for a task and takes it. */
static int queue_take(struct task_queue *q)
{
    if (q->kind == QUEUE_SEMAPHORE) {
        must_sem_wait(&q->filled);
        return q->slots[atomic_fetch_add(&q->head, 1)];
    }
    if (q->kind == QUEUE_IDLE) {
        int task = 0;
        while (!try_take(q, &task)) {
            q->idle++;
            if (q->head < q->tail && claim_idle(q))
                continue; /* a task came meanwhile: this worker is not idle */
            must_sem_wait(&q->filled);
        }
        return task;
    }
    must(pthread_mutex_lock(&q->lock), "pthread_mutex_lock");
    while (q->head == q->tail || (q->kind == QUEUE_BROADCAST && !q->open))
        must(pthread_cond_wait(&q->not_empty, &q->lock), "pthread_cond_wait");
    int task = q->slots[q->head++];
    if (q->kind == QUEUE_MUTEX)
        must(pthread_cond_signal(&q->not_full), "pthread_cond_signal");
    must(pthread_mutex_unlock(&q->lock), "pthread_mutex_unlock");
    return task;
}

/* Runs a task: a sleep between two readings of the clock. */
static void run_task(struct task *task, struct timespec nap)
{
    task->started_ns = now_ns();
    while (nanosleep(&nap, &nap) != 0)
        if (errno != EINTR)
            fail("nanosleep: %s", strerror(errno));
    task->ended_ns = now_ns();
    atomic_fetch_add(&task->runs, 1);
}

/* Binds the calling thread to core n modulo the number of cores. */
static void stay_on_core(const cpu_set_t *cpus, int n)
{
    int nth = n % CPU_COUNT(cpus);
    int cpu;
    for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, cpus) && nth-- == 0)
            break;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        fail("sched_setaffinity: %s", strerror(errno));
}

/* A thread of the pool: takes tasks and runs them until one is STOP_WORKER. */
static void *worker_thread(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    if (pool->options->spread)
        stay_on_core(&pool->cpus, worker->index);
    must_sem_post(&pool->ready);
    for (;;) {
        int task = queue_take(&pool->queue);
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
 * Creates the workers. Their stacks are slices of one allocation: a mapping
 * and a guard page for each would cost two more system calls per thread.
 */
static void start_workers(struct thread_pool *pool, struct worker *workers)
{
    const struct pool_options *options = pool->options;
    size_t stack = (size_t)options->stack_kib * 1024;
    void *stacks = NULL;
    must(posix_memalign(&stacks, PAGE, stack * (size_t)options->workers),
         "--stack");
    pool->stacks = stacks;
    pthread_attr_t attributes;
    must(pthread_attr_init(&attributes), "pthread_attr_init");
    for (int i = 0; i < options->workers; i++) {
        workers[i].pool = pool;
        workers[i].index = i;
        must(pthread_attr_setstack(&attributes,
                                   pool->stacks + stack * (size_t)i, stack),
             "--stack");
        int error = pthread_create(&workers[i].thread, &attributes,
                                   worker_thread, &workers[i]);
        if (error != 0)
            fail("cannot start thread %d of %d: %s", i + 1, options->workers,
                 strerror(error));
    }
    must(pthread_attr_destroy(&attributes), "pthread_attr_destroy");
}

/* Waits until each worker is about to take its first task. */
static void await_workers(struct thread_pool *pool)
{
    for (int i = 0; i < pool->options->workers; i++)
        must_sem_wait(&pool->ready);
}

/* Puts all tasks in. */
static void put_tasks(struct thread_pool *pool)
{
    for (int i = 0; i < pool->options->tasks; i++)
        queue_put(&pool->queue, i);
    queue_flush(&pool->queue);
}

/* Waits until the last task is done. */
static void await_tasks(struct thread_pool *pool)
{
    must(pthread_mutex_lock(&pool->lock), "pthread_mutex_lock");
    while (pool->left > 0)
        must(pthread_cond_wait(&pool->all_done, &pool->lock),
             "pthread_cond_wait");
    must(pthread_mutex_unlock(&pool->lock), "pthread_mutex_unlock");
}

/* Stops and joins each worker. */
static void end_workers(struct thread_pool *pool, struct worker *workers)
{
    for (int i = 0; i < pool->options->workers; i++)
        queue_put(&pool->queue, STOP_WORKER);
    queue_flush(&pool->queue);
    for (int i = 0; i < pool->options->workers; i++)
        must(pthread_join(workers[i].thread, NULL), "pthread_join");
}

static void get_resources(struct rusage *resources)
{
    if (getrusage(RUSAGE_SELF, resources) != 0)
        fail("getrusage: %s", strerror(errno));
}

/*
 * Runs all tasks once over a new pool. The documents' span begins when the
 * workers wait and the first task is put in. The whole span begins when the
 * tasks wait and includes the creation of the workers. Both end when the last
 * task is done.
 */
static void run_pool(struct thread_pool *pool, struct pool_result *result)
{
    bool whole = pool->options->whole;
    struct worker *workers =
        must_allocate((size_t)pool->options->workers, sizeof workers[0]);
    if (whole)
        put_tasks(pool);
    get_resources(&result->before);
    int64_t begin = now_ns();
    start_workers(pool, workers);
    if (!whole) {
        await_workers(pool);
        get_resources(&result->before);
    }
    int64_t created = now_ns();
    if (!whole)
        put_tasks(pool);
    await_tasks(pool);
    int64_t end = now_ns();
    get_resources(&result->after);
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

/* Returns the smallest sample that this share of all does not exceed. */
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

/* A column of the output: text, or the number if text is NULL. */
struct column {
    const char *name;
    const char *text;
    double number;
    int decimals;
};

/* Prints the columns as a header and a row, or as one JSON object. */
static void print_columns(const struct column *columns, size_t count,
                          bool json)
{
    if (!json) {
        for (size_t i = 0; i < count; i++)
            printf("%s%s", i > 0 ? "\t" : "", columns[i].name);
        putchar('\n');
    }
    for (size_t i = 0; i < count; i++) {
        if (json)
            printf("%s\"%s\": ", i > 0 ? ", " : "{", columns[i].name);
        else if (i > 0)
            putchar('\t');
        if (columns[i].text != NULL)
            printf(json ? "\"%s\"" : "%s", columns[i].text);
        else
            printf("%.*f", columns[i].decimals, columns[i].number);
    }
    puts(json ? "}" : "");
}

/* Prints the result. Returns false if a task was early or not run once. */
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
    for (int i = 0; i < options->tasks; i++) {
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

/* Writes a line for each task. */
static void write_samples(const struct thread_pool *pool)
{
    const char *path = pool->options->samples;
    int64_t nap_ns =
        (int64_t)pool->nap.tv_sec * 1000000000 + pool->nap.tv_nsec;
    FILE *file = fopen(path, "w");
    if (file == NULL)
        fail("--samples %s: %s", path, strerror(errno));
    bool written = fputs("task\tstarted_ns\tended_ns\tlate_ns\n", file) >= 0;
    for (int i = 0; written && i < pool->options->tasks; i++) {
        long long started = pool->tasks[i].started_ns;
        long long ended = pool->tasks[i].ended_ns;
        written = fprintf(file, "%d\t%lld\t%lld\t%lld\n", i, started, ended,
                          ended - started - (long long)nap_ns) >= 0;
    }
    if (!close_output("pool", file, path, written ? 0 : errno))
        exit(1);
}

/* Returns which of the names text is, or exits with 2. */
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

/* Reads the command line. Exits with 0 after --help, with 2 if it is wrong. */
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
    static const struct option long_options[] = {
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
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    for (;;) {
        int option =
            next_option("pool", argc, argv, "w:n:s:q:jhV", long_options);
        if (option == -1)
            break;
        switch (option) {
        case 'w':
            o->workers = (int)whole_argument("pool", "--workers", optarg, 1,
                                             MAX_WORKERS);
            break;
        case 'n':
            o->tasks =
                (int)whole_argument("pool", "--tasks", optarg, 1, MAX_TASKS);
            break;
        case 's':
            o->sleep_ms =
                decimal_argument("pool", "--sleep", optarg,
                                 "number of milliseconds", 0, MAX_SLEEP_MS);
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
            o->slack_us = decimal_argument("pool", "--slack", optarg,
                                           "number of microseconds", 0.001,
                                           MAX_SLACK_US);
            break;
        case OPTION_STACK:
            o->stack_kib = (int)whole_argument("pool", "--stack", optarg,
                                               MIN_STACK_KIB, MAX_STACK_KIB);
            break;
        case 'j':
            o->json = true;
            break;
        case OPTION_SAMPLES:
            o->samples = optarg;
            break;
        case 'h':
            exit_printing("pool", usage);
        case 'V':
            exit_printing("pool", "pool (threadecho) " VERSION "\n");
        }
    }
    if (optind < argc)
        exit_bad_usage("pool", "unexpected argument '%s'", argv[optind]);
}

/* Sets what the workers inherit: scheduling policy and timer slack. */
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
    parse_pool_options(argc, argv, &options);

    struct thread_pool pool = {.options = &options};
    int64_t nap_ns = (int64_t)(options.sleep_ms * 1e6 + 0.5);
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

    struct pool_result result;
    run_pool(&pool, &result);
    if (options.samples != NULL)
        write_samples(&pool);
    bool good = report(&pool, &result);

    queue_destroy(&pool.queue);
    free(pool.stacks);
    free(pool.tasks);
    return close_stdout("pool") && good ? 0 : 1;
}
