/*
 * coroutine.c - coroutines, what they wait for, and who runs next
 *
 * There is no scheduler to switch to: a coroutine that has to wait looks for
 * the next one itself, and switches to it. If none is ready it sleeps in
 * epoll_wait for all of them, on its own stack.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "coroutine.h"
#include "descriptors.h"
#include "signals.h"
#include "threads.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define SECOND INT64_C(1000000000)
#define ROUND 64 /* most coroutines that run between two looks at epoll */
#define CALLS 64 /* that need not wait, and then others have a turn */
#define EVENTS 256
#define BUCKETS 1024
#define IDLE_STACKS 1024 /* kept to be used again */
#define HELD_MS 1000     /* longer without a switch is worth a warning */
#define ALT_STACK 65536

__thread bool is_carrier;

struct coroutine main_coroutine = {.state = RUNNING, .signal_fd = -1};
struct coroutine *current = &main_coroutine;
pthread_t carrier;
int carrier_id;
long coroutines;

static STAILQ_HEAD(, coroutine) ready = STAILQ_HEAD_INITIALIZER(ready);
static long round_left; /* coroutines that run before the next look */
static long calls_left = CALLS;
static int64_t looked_ns; /* when the last look was over */

static volatile sig_atomic_t looking; /* at events, or about to */
static int wake_fd = -1;
static atomic_bool woken_from_outside;
static atomic_long waiters; /* at addresses */
static TAILQ_HEAD(bucket, coroutine) buckets[BUCKETS];

static struct coroutine **timers; /* a heap; the first place stays empty */
static size_t timer_count;
static size_t timer_room;

/* What C++ has of exceptions in each thread (__cxa_eh_globals of its ABI). */
struct exceptions {
    void *caught;
    unsigned uncaught;
};

static struct exceptions *exceptions; /* the carrier's; NULL: it has no C++ */

/* A pointer, so that what C++ needs takes nothing of programs without it. */
static void (*switch_context)(struct context *,
                              struct context *) = context_switch;

static struct coroutine *ended; /* whose stack was in use until the switch */
static struct stack idle_stacks[IDLE_STACKS];
static int idle_stack_count;

void warn_once(enum warning warning, const char *format, ...)
{
    static atomic_bool warned[WARNINGS];
    char text[512] = "green: ";
    va_list values;

    if (atomic_exchange(&warned[warning], true))
        return;
    va_start(values, format);
    size_t len = strlen(text);
    int n = vsnprintf(text + len, sizeof text - len - 1, format, values);
    va_end(values);
    if (n > 0)
        len += (size_t)n;
    if (len > sizeof text - 2)
        len = sizeof text - 2;
    text[len++] = '\n';
    if (plain()->write(STDERR_FILENO, text, len) < 0)
        return; /* there is nowhere to report it */
}

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now); /* cannot fail for this clock */
    return now.tv_sec * SECOND + now.tv_nsec;
}

int64_t after_ns(int64_t ns)
{
    int64_t now = now_ns();
    return ns < NEVER - now ? now + ns : NEVER;
}

int64_t after(const struct timespec *duration)
{
    if (duration->tv_sec >= NEVER / SECOND)
        return NEVER;
    return after_ns(duration->tv_sec * SECOND + duration->tv_nsec);
}

int64_t at(clockid_t clock, const struct timespec *time)
{
    struct timespec now;

    if (time->tv_sec >= NEVER / SECOND)
        return NEVER;
    int64_t ns = time->tv_sec * SECOND + time->tv_nsec;
    if (clock == CLOCK_MONOTONIC)
        return ns;
    clock_gettime(clock, &now);
    return after_ns(ns - (now.tv_sec * SECOND + now.tv_nsec));
}

/*
 * Timers
 */

static void place_timer(size_t place, struct coroutine *coroutine)
{
    timers[place] = coroutine;
    coroutine->timer = place;
}

/* Finds a place for a coroutine, whose own place is free, from there up. */
static void sift_up(size_t place, struct coroutine *coroutine)
{
    while (place > 1 && timers[place / 2]->deadline > coroutine->deadline) {
        place_timer(place, timers[place / 2]);
        place /= 2;
    }
    place_timer(place, coroutine);
}

/* The same, from there down. */
static void sift_down(size_t place, struct coroutine *coroutine)
{
    for (;;) {
        size_t child = place * 2;
        if (child < timer_count &&
            timers[child + 1]->deadline < timers[child]->deadline)
            child++;
        if (child > timer_count ||
            timers[child]->deadline >= coroutine->deadline)
            break;
        place_timer(place, timers[child]);
        place = child;
    }
    place_timer(place, coroutine);
}

static void add_timer(struct coroutine *coroutine, int64_t deadline)
{
    coroutine->deadline = deadline;
    sift_up(++timer_count, coroutine);
}

static void remove_timer(struct coroutine *coroutine)
{
    size_t place = coroutine->timer;
    struct coroutine *last = timers[timer_count--];

    coroutine->timer = 0;
    if (last == coroutine)
        return;
    if (place > 1 && timers[place / 2]->deadline > last->deadline)
        sift_up(place, last);
    else
        sift_down(place, last);
}

/* Makes room for the timers of that many coroutines. They are never without,
 * so that a wait cannot fail. */
static bool make_timer_room(size_t count)
{
    if (count < timer_room)
        return true;
    size_t room = count * 2 + 64;
    struct coroutine **larger = realloc(timers, room * sizeof *timers);
    if (larger == NULL)
        return false;
    timers = larger;
    timer_room = room;
    return true;
}

/*
 * Stacks
 */

void *map_memory(size_t size)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
    /* cppcheck-suppress invalidFunctionArg */
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);

    if (memory == MAP_FAILED)
        return NULL;
    return memory;
}

/* Takes a stack of that size, or maps one. */
static bool take_stack(struct stack *stack, size_t size, size_t guard)
{
    if (idle_stack_count > 0 &&
        idle_stacks[idle_stack_count - 1].size == size &&
        idle_stacks[idle_stack_count - 1].guard == guard) {
        *stack = idle_stacks[--idle_stack_count];
        return true;
    }
    char *memory = map_memory(guard + size);
    if (memory == NULL)
        return false;
    if (guard > 0 && mprotect(memory, guard, PROT_NONE) != 0) {
        munmap(memory, guard + size);
        return false;
    }
    *stack =
        (struct stack){.memory = memory + guard, .size = size, .guard = guard};
    return true;
}

static void release_stack(const struct stack *stack)
{
    if (stack->borrowed)
        return;
    if (idle_stack_count < IDLE_STACKS)
        idle_stacks[idle_stack_count++] = *stack;
    else
        munmap(stack->memory - stack->guard, stack->guard + stack->size);
}

/* Sees to what the coroutine that ran before left behind. */
static void bury(void)
{
    struct coroutine *coroutine = ended;

    if (coroutine == NULL)
        return;
    ended = NULL;
    release_stack(&coroutine->stack);
    if (coroutine->detached)
        free(coroutine);
    else
        atomic_store(&coroutine->buried, true);
}

/* On a stack of its own: says so if a coroutine's stack has overflowed. Then
 * it is as if there were no handler. */
void on_fault(int number, siginfo_t *info, void *machine)
{
    static const char text[] =
        "green: a coroutine has overflowed its stack: the thread that it was "
        "needs a larger one (pthread_attr_setstacksize)\n";
    const char *address = info->si_addr;
    const struct stack *stack = &current->stack;

    (void)machine;
    if (is_carrier && address < stack->memory &&
        address >= stack->memory - stack->guard)
        (void)!plain()->write(STDERR_FILENO, text, sizeof text - 1);
    plain()->sigaction(number, &(struct sigaction){.sa_handler = SIG_DFL},
                       NULL);
    if (info->si_code <= 0) /* somebody has sent it; no fault comes again */
        raise(number);
}

/* Watches for overflows, unless the program handles faults itself. */
static void watch_stacks(void)
{
    struct sigaction old;
    struct sigaction action = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t stack = {.ss_size = ALT_STACK};

    if (plain()->sigaction(SIGSEGV, NULL, &old) != 0 ||
        (old.sa_flags & SA_SIGINFO) != 0 || old.sa_handler != SIG_DFL)
        return;
    stack.ss_sp = map_memory(ALT_STACK);
    sigemptyset(&action.sa_mask);
    if (stack.ss_sp != NULL && sigaltstack(&stack, NULL) == 0)
        plain()->sigaction(SIGSEGV, &action, NULL);
}

/*
 * Waits at addresses
 */

static struct bucket *bucket_of(const void *address)
{
    uint64_t mixed = (uintptr_t)address * UINT64_C(0x9E3779B97F4A7C15);
    return &buckets[mixed >> 54];
}

void enter_wait(const void *address)
{
    current->address = address;
    TAILQ_INSERT_TAIL(bucket_of(address), current, in_bucket);
    atomic_fetch_add(&waiters, 1);
}

static void remove_waiter(struct coroutine *coroutine)
{
    TAILQ_REMOVE(bucket_of(coroutine->address), coroutine, in_bucket);
    coroutine->address = NULL;
    atomic_fetch_sub(&waiters, 1);
}

void leave_wait(void)
{
    if (current->address != NULL)
        remove_waiter(current);
}

struct coroutine *first_waiter(const void *address)
{
    struct coroutine *coroutine;

    if (atomic_load_explicit(&waiters, memory_order_relaxed) == 0)
        return NULL;
    TAILQ_FOREACH(coroutine, bucket_of(address), in_bucket)
    {
        if (coroutine->address == address)
            return coroutine;
    }
    return NULL;
}

bool wake_one(const void *address)
{
    struct coroutine *coroutine = first_waiter(address);

    if (coroutine == NULL)
        return false;
    wake(coroutine, WAKE_GRANTED);
    return true;
}

bool wake_all(const void *address, enum wake why)
{
    struct coroutine *coroutine = first_waiter(address);
    bool any = coroutine != NULL;

    while (coroutine != NULL) {
        struct coroutine *next = TAILQ_NEXT(coroutine, in_bucket);
        if (coroutine->address == address)
            wake(coroutine, why);
        coroutine = next;
    }
    return any;
}

void wake_from_outside(void)
{
    uint64_t one = 1;
    int saved = errno;

    if (atomic_load(&waiters) > 0 &&
        !atomic_exchange(&woken_from_outside, true) &&
        plain()->write(wake_fd, &one, sizeof one) < 0)
        atomic_store(&woken_from_outside, false);
    errno = saved;
}

/* Has all that wait at an address look again, if it was another thread that
 * has ended the look at events, and no signal. */
static void answer_outside(void)
{
    uint64_t count;

    (void)!plain()->read(wake_fd, &count, sizeof count);
    if (!atomic_exchange(&woken_from_outside, false))
        return;
    for (int i = 0; i < BUCKETS; i++) {
        struct coroutine *coroutine = TAILQ_FIRST(&buckets[i]);
        while (coroutine != NULL) {
            struct coroutine *next = TAILQ_NEXT(coroutine, in_bucket);
            wake(coroutine, WAKE_EVENT);
            coroutine = next;
        }
    }
}

/*
 * Who runs next
 */

static void make_ready(struct coroutine *coroutine)
{
    coroutine->state = READY;
    STAILQ_INSERT_TAIL(&ready, coroutine, in_ready);
}

void wake(struct coroutine *coroutine, enum wake why)
{
    if (coroutine->state != WAITING)
        return;
    coroutine->wake = why;
    if (coroutine->address != NULL)
        remove_waiter(coroutine);
    if (coroutine->timer != 0)
        remove_timer(coroutine);
    make_ready(coroutine);
}

void look_soon(void)
{
    const uint64_t one = 1;

    if (is_carrier)
        round_left = 0; /* else the look comes a round later */
    if ((!is_carrier || looking) &&
        plain()->write(wake_fd, &one, sizeof one) < 0)
        return; /* it is full: that wakes as well */
}

/* Waits for events for that long, in ns; below 0 for ever. */
static int wait_for_events(struct epoll_event *events, int64_t ns)
{
    static bool no_pwait2; /* it came with Linux 5.11 */
    int ms = ns < 0 ? -1 : 0;

    if (ns > 0 && !no_pwait2) {
        struct timespec timeout = {ns / SECOND, ns % SECOND};
        long n = syscall(SYS_epoll_pwait2, event_fd(), events, EVENTS,
                         &timeout, NULL, 0);
        if (n >= 0 || errno != ENOSYS)
            return (int)n;
        no_pwait2 = true;
    }
    if (ns > 0)
        ms = ns < INT64_C(1000000) * INT_MAX ? (int)((ns + 999999) / 1000000)
                                             : INT_MAX;
    return plain()->epoll_wait(event_fd(), events, EVENTS, ms);
}

static void run_timers(int64_t now)
{
    while (timer_count > 0 && timers[1]->deadline <= now)
        wake(timers[1], WAKE_TIME);
}

/* Makes those ready whose event or time has come, and waits for the first if
 * none is ready. */
static void look_around(void)
{
    static struct epoll_event events[EVENTS];
    int64_t now = now_ns();
    int64_t wait_ns = -1;

    if (now - looked_ns > HELD_MS * INT64_C(1000000))
        warn_once(WARN_HELD,
                  "one coroutine has run or blocked for %lld ms, and all "
                  "others had to wait for it",
                  (long long)(now - looked_ns) / 1000000);
    looking = true;
    if (handler_has_run)
        end_interrupted_calls();
    if (!STAILQ_EMPTY(&ready))
        wait_ns = 0;
    else if (timer_count > 0)
        wait_ns = timers[1]->deadline > now ? timers[1]->deadline - now : 0;
    int n = wait_for_events(events, wait_ns);
    looking = false;
    if (handler_has_run)
        end_interrupted_calls();
    for (int i = 0; i < n; i++) {
        if (is_event_of(&events[i], wake_fd))
            answer_outside();
        else
            descriptor_event(&events[i]);
    }
    looked_ns = now_ns();
    run_timers(looked_ns);
    round_left = ROUND;
}

/* As context_switch, with the exceptions. */
static void switch_with_exceptions(struct context *from, struct context *to)
{
    const struct exceptions own = *exceptions;

    context_switch(from, to);
    *exceptions = own;
}

/* Lets the next coroutine run, which may be the same. */
static void schedule(void)
{
    struct coroutine *self = current;

    while (round_left <= 0 || STAILQ_EMPTY(&ready))
        look_around();
    struct coroutine *next = STAILQ_FIRST(&ready);
    STAILQ_REMOVE_HEAD(&ready, in_ready);
    round_left--;
    calls_left = CALLS;
    next->state = RUNNING;
    if (next == self)
        return;
    current = next;
    switch_context(&self->context, &next->context);
    bury();
}

enum wake suspend(int64_t deadline, enum interruptible interruptible)
{
    struct coroutine *self = current;
    int saved = errno;

    self->state = WAITING;
    self->interruptible = interruptible;
    if (deadline != NEVER)
        add_timer(self, deadline);
    schedule();
    errno = saved;
    return self->wake;
}

void give_way(void)
{
    int saved = errno;

    make_ready(current);
    round_left = 0; /* events are to have their turn, too */
    schedule();
    errno = saved;
}

void count_call(void)
{
    /* A handler of a signal may call while the running one is about to wait.
     */
    if (--calls_left <= 0 && current->state == RUNNING)
        give_way();
}

/*
 * From the start to the end
 */

/* Returns a number that none has, nor one of another process, as a mutex may
 * be shared. */
static int next_number(void)
{
    static uint32_t numbers;
    uint32_t number = ((uint32_t)getpid() << 12) + numbers++;

    return INT_MAX / 2 + 1 + (int)(number % (INT_MAX / 2 - 8));
}

/* What a new stack begins with. */
static void begin(void)
{
    if (exceptions != NULL)
        *exceptions = (struct exceptions){0};
    bury();
    coroutine_end(current->start(current->argument));
}

/* Gives a coroutine the stack and the state that the attributes ask for. */
static bool set_stack(struct coroutine *coroutine, const pthread_attr_t *attr,
                      size_t page)
{
    pthread_attr_t defaults;
    void *memory = NULL;
    size_t size = 0;
    size_t guard = page;
    int state = PTHREAD_CREATE_JOINABLE;

    if (attr == NULL) {
        if (pthread_getattr_default_np(&defaults) != 0)
            return false;
        pthread_attr_getstacksize(&defaults, &size);
        pthread_attr_destroy(&defaults);
    } else {
        /* Where none was set, what comes back ends at address 0. */
        coroutine->stack.borrowed =
            pthread_attr_getstack(attr, &memory, &size) == 0 &&
            (uintptr_t)memory + size != 0;
        pthread_attr_getstacksize(attr, &size);
        pthread_attr_getguardsize(attr, &guard);
        pthread_attr_getdetachstate(attr, &state);
    }
    coroutine->detached = state == PTHREAD_CREATE_DETACHED;
    if (coroutine->stack.borrowed) {
        coroutine->stack.memory = memory;
        coroutine->stack.size = size;
        return true;
    }
    return take_stack(&coroutine->stack, (size + page - 1) / page * page,
                      (guard + page - 1) / page * page);
}

struct coroutine *coroutine_create(const pthread_attr_t *attr,
                                   thread_start *start, void *argument)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct coroutine *coroutine = calloc(1, sizeof *coroutine);

    if (coroutine == NULL || !make_timer_room((size_t)coroutines + 3) ||
        !set_stack(coroutine, attr, page)) {
        free(coroutine);
        return NULL;
    }
    coroutine->number = next_number();
    coroutine->start = start;
    coroutine->argument = argument;
    coroutine->signal_fd = -1;
    context_make(&coroutine->context, coroutine->stack.memory,
                 coroutine->stack.size, begin);
    signals_begin(coroutine);
    coroutines++;
    make_ready(coroutine);
    return coroutine;
}

_Noreturn void coroutine_end(void *result)
{
    struct coroutine *self = current;

    self->result = result;
    end_specifics(self);
    if (self->signal_fd >= 0)
        close(self->signal_fd); /* not the plain one: it is to be forgotten */
    signals_end(self);
    if (self != &main_coroutine)
        coroutines--;
    if (coroutines == 0 &&
        (main_coroutine.state == ENDED || self == &main_coroutine))
        exit(0); /* it was the last thread */
    if (self->joiner != NULL)
        wake(self->joiner, WAKE_EVENT);
    self->state = ENDED;
    if (self != &main_coroutine)
        ended = self;
    schedule();
    abort(); /* it is in no queue */
}

/* The child of a fork has the thread that called it, and no other. */
static void on_fork(void)
{
    if (!is_carrier && !in_handler)
        return;
    coroutines = current != &main_coroutine;
    current->joiner = NULL;
    current->number = next_number();
    if (coroutines > 0)
        main_coroutine.state = ENDED;
    STAILQ_INIT(&ready);
    for (size_t i = 1; i <= timer_count; i++)
        timers[i]->timer = 0;
    timer_count = 0;
    for (int i = 0; i < BUCKETS; i++)
        TAILQ_INIT(&buckets[i]);
    atomic_store(&waiters, 0);
    carrier_id = (int)syscall(SYS_gettid);
    descriptors_after_fork();
    signals_after_fork();
    if (wake_fd >= 0) {
        plain()->close(wake_fd);
        wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        watch_wake_fd(wake_fd);
    }
}

/* Finds where C++ keeps its exceptions, if the program has C++ by now. */
static void find_exceptions(void)
{
    struct exceptions *(*find)(void);
    void *found = dlsym(RTLD_DEFAULT, "__cxa_get_globals");

    memcpy(&find, &found, sizeof find); /* ISO C has no conversion */
    if (found == NULL)
        return;
    exceptions = find();
    switch_context = switch_with_exceptions;
}

bool become_carrier(void)
{
    for (int i = 0; i < BUCKETS; i++)
        TAILQ_INIT(&buckets[i]);
    if (!descriptors_init() || !make_timer_room(64))
        return false;
    wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake_fd < 0 || !watch_wake_fd(wake_fd))
        return false;
    main_coroutine.number = next_number();
    watch_stacks();
    find_exceptions();
    signals_init();
    pthread_atfork(NULL, NULL, on_fork);
    carrier = plain()->pthread_self();
    carrier_id = (int)syscall(SYS_gettid);
    looked_ns = now_ns();
    is_carrier = true;
    return true;
}
