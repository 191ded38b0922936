/*
 * signals.c - signal masks, handlers and the waits for signals
 *
 * Each coroutine has a mask of its own. The carrier blocks what all of them
 * block, so the kernel delivers what at least one would take. Handlers run
 * where the carrier happens to be, whichever coroutine that is; what they
 * interrupt is a wait of the coroutine that the signal is for. As the kernel
 * has it, that is the main one if it takes the signal. A handler may come at
 * any time, so it only notes that; the next look at events ends the wait.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "signals.h"
#include "descriptors.h"

#include <errno.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

#define SIGNALS 64 /* the kernel's; the first is 1 */

/* Which waits of a coroutine a handler ends: bits of its interrupts. */
enum { NOTHING, NOT_RESTARTED, RESTARTED };

/* A signal mask, and who has it. */
struct mask {
    uint64_t blocked;
    TAILQ_HEAD(, coroutine) users;
    struct mask *next;
};

typedef void on_signal_info(int, siginfo_t *, void *);

__thread bool in_handler;
volatile sig_atomic_t handler_has_run;

static struct mask *masks;      /* never freed: there are few */
static uint64_t common_blocked; /* by all coroutines, and so by the carrier */
static pid_t process;

static struct sigaction handlers[SIGNALS + 1]; /* that the program has set */

/* Whom the next signal of a number is for, if it was sent to one. */
static struct coroutine *_Atomic addressees[SIGNALS + 1];
static atomic_bool any_addressee; /* ever */
static bool sending;              /* the carrier sends one to itself */

/* Those whose waits are to end. */
static struct coroutine *_Atomic interrupted;

/* What ran when the outermost handler came. */
static struct coroutine *before_handlers;

static uint64_t bit_of(int number)
{
    return UINT64_C(1) << (number - 1);
}

/* The C library has the bits where the kernel has them. */
static uint64_t bits_of(const sigset_t *set)
{
    uint64_t bits;

    memcpy(&bits, set, sizeof bits);
    return bits;
}

static sigset_t set_of(uint64_t bits)
{
    sigset_t set;

    sigemptyset(&set);
    memcpy(&set, &bits, sizeof bits);
    return set;
}

/* Returns whether a coroutine does not take a signal. */
static bool blocks(const struct coroutine *coroutine, int number)
{
    return coroutine->mask == NULL || /* it has ended */
           (coroutine->mask->blocked & bit_of(number)) != 0;
}

/*
 * Masks
 */

/* Returns the one of those bits; NULL if there is no memory for it. */
static struct mask *find_mask(uint64_t blocked)
{
    struct mask *mask = masks;

    while (mask != NULL && mask->blocked != blocked)
        mask = mask->next;
    if (mask != NULL)
        return mask;
    mask = malloc(sizeof *mask);
    if (mask == NULL)
        return NULL;
    mask->blocked = blocked;
    TAILQ_INIT(&mask->users);
    mask->next = masks;
    masks = mask;
    return mask;
}

static void set_blocked(uint64_t blocked)
{
    const sigset_t set = set_of(blocked);
    plain()->pthread_sigmask(SIG_SETMASK, &set, NULL);
}

/* Has the carrier block what all coroutines do. */
static void set_common(void)
{
    uint64_t common = ~UINT64_C(0);

    for (const struct mask *mask = masks; mask != NULL; mask = mask->next)
        if (!TAILQ_EMPTY(&mask->users))
            common &= mask->blocked;
    if (common == common_blocked)
        return;
    common_blocked = common;
    set_blocked(common);
}

static void use_mask(struct coroutine *coroutine, struct mask *mask)
{
    coroutine->mask = mask;
    TAILQ_INSERT_TAIL(&mask->users, coroutine, in_mask);
}

void signals_init(void)
{
    sigset_t set;

    process = getpid();
    plain()->pthread_sigmask(SIG_SETMASK, NULL, &set);
    common_blocked = bits_of(&set);
    struct mask *mask = find_mask(common_blocked);
    if (mask == NULL)
        abort(); /* at the start, with no memory at all */
    use_mask(&main_coroutine, mask);
}

void signals_begin(struct coroutine *coroutine)
{
    use_mask(coroutine, current->mask);
}

void signals_end(struct coroutine *coroutine)
{
    struct mask *mask = coroutine->mask;

    coroutine->mask = NULL; /* no handler is for it any more */
    TAILQ_REMOVE(&mask->users, coroutine, in_mask);
    if (TAILQ_EMPTY(&mask->users))
        set_common();
    if (coroutine->interrupts != NOTHING)
        end_interrupted_calls(); /* it is in that list */
    for (int number = 1; any_addressee && number <= SIGNALS; number++) {
        struct coroutine *addressee = coroutine;
        atomic_compare_exchange_strong(&addressees[number], &addressee, NULL);
    }
}

void signals_after_fork(void)
{
    process = getpid();
    for (struct mask *mask = masks; mask != NULL; mask = mask->next)
        TAILQ_INIT(&mask->users);
    use_mask(current, current->mask);
    interrupted = NULL;
    set_common();
}

void show_own_mask(void)
{
    if (current->mask->blocked != common_blocked)
        set_blocked(current->mask->blocked);
}

void show_common_mask(void)
{
    if (current->mask->blocked != common_blocked)
        set_blocked(common_blocked);
}

/* Changes the mask of the running coroutine. Returns false without memory. */
static bool change_mask(uint64_t blocked)
{
    struct coroutine *self = current;
    struct mask *mask =
        find_mask(blocked & ~(bit_of(SIGKILL) | bit_of(SIGSTOP)));

    if (mask == NULL)
        return false;
    if (mask == self->mask)
        return true;
    TAILQ_REMOVE(&self->mask->users, self, in_mask);
    use_mask(self, mask);
    set_common();
    for (int number = 1; self->pending != 0 && number <= SIGNALS; number++)
        if ((self->pending & bit_of(number)) != 0 && !blocks(self, number)) {
            atomic_fetch_and(&self->pending, ~bit_of(number));
            send_to(self, number, NULL);
        }
    return true;
}

/* Returns whether the mask is a coroutine's matter: the child of a vfork has
 * one of its own, though it has the memory in common. */
static bool has_masks(void)
{
    return is_carrier && getpid() == process;
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    if (!has_masks())
        return plain()->pthread_sigmask(how, set, old);
    const uint64_t before = current->mask->blocked;
    const uint64_t bits = set != NULL ? bits_of(set) : 0;
    bool good = true;
    if (set == NULL)
        ;
    else if (how == SIG_BLOCK)
        good = change_mask(before | bits);
    else if (how == SIG_UNBLOCK)
        good = change_mask(before & ~bits);
    else if (how == SIG_SETMASK)
        good = change_mask(bits);
    else
        return EINVAL;
    if (good && old != NULL)
        *old = set_of(before);
    return good ? 0 : ENOMEM;
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
    int error = pthread_sigmask(how, set, old);

    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

uint64_t begin_masked_wait(const sigset_t *set)
{
    const uint64_t before = current->mask->blocked;

    if (handler_has_run)
        end_interrupted_calls(); /* this one has not begun */
    if (set != NULL)
        change_mask(bits_of(set)); /* else it waits with its own */
    return before;
}

void end_masked_wait(uint64_t blocked)
{
    const int saved = errno;
    change_mask(blocked); /* there is one like that */
    errno = saved;
}

/*
 * Handlers
 */

/* Returns whom a signal is for that was sent to the process. */
static struct coroutine *find_receiver(int number)
{
    if (!blocks(&main_coroutine, number))
        return &main_coroutine;
    if (!blocks(current, number))
        return current;
    for (const struct mask *mask = masks; mask != NULL; mask = mask->next)
        if ((mask->blocked & bit_of(number)) == 0 &&
            !TAILQ_EMPTY(&mask->users))
            return TAILQ_FIRST(&mask->users);
    return current;
}

/* Returns whether what runs has caused a signal itself, by a fault, by raise
 * or by writing to a broken pipe: then it waits for nothing. */
static bool is_own_doing(int number, const siginfo_t *info)
{
    return number == SIGPIPE || info->si_code == SI_TKILL ||
           (info->si_code > 0 &&
            (number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
             number == SIGILL || number == SIGTRAP || number == SIGSYS));
}

/* Notes which waits of a coroutine are to end. It may be interrupted itself,
 * by another handler. */
static void interrupt(struct coroutine *coroutine, int which)
{
    if (coroutine->mask == NULL)
        return;
    if (atomic_fetch_or(&coroutine->interrupts, which) == NOTHING) {
        coroutine->next_interrupted = interrupted;
        while (!atomic_compare_exchange_weak(
            &interrupted, &coroutine->next_interrupted, coroutine))
            continue;
    }
    handler_has_run = 1;
    look_soon();
}

void end_interrupted_calls(void)
{
    handler_has_run = 0;
    struct coroutine *coroutine = atomic_exchange(&interrupted, NULL);
    while (coroutine != NULL) {
        struct coroutine *next = coroutine->next_interrupted;
        int which = atomic_exchange(&coroutine->interrupts, NOTHING);
        if (coroutine->interruptible == INTERRUPTED ||
            (coroutine->interruptible == UNLESS_RESTARTED &&
             (which & NOT_RESTARTED) != 0))
            wake(coroutine, WAKE_INTERRUPTED);
        coroutine = next;
    }
}

static void call_handler(const struct sigaction *handler, int number,
                         siginfo_t *info, void *machine)
{
    if (handler->sa_flags & SA_SIGINFO)
        handler->sa_sigaction(number, info, machine);
    else
        handler->sa_handler(number);
}

/* The handler of all signals for which the program has one. */
static void on_signal(int number, siginfo_t *info, void *machine)
{
    const struct sigaction handler = handlers[number];
    const int saved = errno;
    const bool outermost = is_carrier;

    if (!is_carrier && !in_handler) {
        call_handler(&handler, number, info, machine);
        return;
    }
    struct coroutine *running = current;
    struct coroutine *self = atomic_exchange(&addressees[number], NULL);
    bool waits = true;
    if (self != NULL) {
        waits = !sending || self != running;
    } else if (is_own_doing(number, info)) {
        self = running;
        waits = false;
    } else {
        self = find_receiver(number);
    }
    if (outermost)
        before_handlers = running;
    in_handler = true;
    is_carrier = false;
    current = self;
    call_handler(&handler, number, info, machine);
    current = running;
    is_carrier = outermost;
    in_handler = !outermost;
    if (waits)
        interrupt(self,
                  handler.sa_flags & SA_RESTART ? RESTARTED : NOT_RESTARTED);
    errno = saved;
}

static bool is_handler(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) != 0 ||
           (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

EXPORT int sigaction(int number, const struct sigaction *action,
                     struct sigaction *old)
{
    struct sigaction previous;
    struct sigaction own;
    sigset_t mask;

    if (number < 1 || number > SIGNALS)
        return plain()->sigaction(number, action, old);
    const struct sigaction kept = handlers[number];
    const bool handled = action != NULL && is_handler(action);
    if (handled) { /* none is to come between the two */
        const sigset_t all = set_of(~UINT64_C(0));
        plain()->pthread_sigmask(SIG_BLOCK, &all, &mask);
        handlers[number] = own = *action;
        own.sa_sigaction = on_signal;
        own.sa_flags |= SA_SIGINFO;
        action = &own;
    }
    int result = plain()->sigaction(number, action, &previous);
    if (handled) {
        if (result != 0)
            handlers[number] = kept;
        plain()->pthread_sigmask(SIG_SETMASK, &mask, NULL);
    }
    if (result == 0 && is_handler(&previous)) {
        if (previous.sa_sigaction == on_signal)
            previous = kept;
        else if (previous.sa_sigaction == on_fault)
            previous = (struct sigaction){.sa_handler = SIG_DFL};
    }
    if (result == 0 && old != NULL)
        *old = previous;
    return result;
}

static __sighandler_t set_handler(int number, __sighandler_t handler,
                                  int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    struct sigaction old;

    if ((flags & SA_NODEFER) == 0 && number >= 1 && number <= SIGNALS)
        action.sa_mask = set_of(bit_of(number));
    if (handler == SIG_ERR) {
        errno = EINVAL;
        return SIG_ERR;
    }
    return sigaction(number, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

EXPORT __sighandler_t signal(int number, __sighandler_t handler)
{
    return set_handler(number, handler, SA_RESTART);
}

/* What signal is for a program that was compiled for POSIX alone. */
EXPORT __sighandler_t __sysv_signal(int number, __sighandler_t handler)
{
    return set_handler(number, handler, (int)(SA_RESETHAND | SA_NODEFER));
}

EXPORT int siginterrupt(int number, int interrupts)
{
    struct sigaction action;

    if (sigaction(number, NULL, &action) != 0)
        return -1;
    action.sa_flags = interrupts ? action.sa_flags & ~SA_RESTART
                                 : action.sa_flags | SA_RESTART;
    return sigaction(number, &action, NULL);
}

/*
 * A handler may jump out.
 */

static _Noreturn void jump(struct __jmp_buf_tag *target, int value)
{
    if (in_handler) {
        if (current != before_handlers)
            warn_once(WARN_JUMP, "a handler has jumped out, and not to what "
                                 "it had interrupted");
        current = before_handlers;
        is_carrier = true;
        in_handler = false;
    }
    plain()->longjmp(target, value);
    abort(); /* it does not return */
}

EXPORT _Noreturn void longjmp(struct __jmp_buf_tag target[1], int value)
{
    jump(target, value);
}

EXPORT _Noreturn void _longjmp(struct __jmp_buf_tag target[1], int value)
{
    jump(target, value);
}

EXPORT _Noreturn void siglongjmp(sigjmp_buf target, int value)
{
    jump(target, value);
}

EXPORT _Noreturn void __longjmp_chk(struct __jmp_buf_tag target[1], int value);
EXPORT _Noreturn void __longjmp_chk(struct __jmp_buf_tag target[1], int value)
{
    jump(target, value);
}

/*
 * Sending to one
 */

int send_to(struct coroutine *coroutine, int number, const union sigval *value)
{
    struct sigaction action;
    int error;

    if (number < 0 || number > SIGNALS ||
        (number > 31 && number < SIGRTMIN)) /* the C library's own */
        return EINVAL;
    if (number == 0 || coroutine->mask == NULL)
        return 0;
    if (blocks(coroutine, number)) {
        if (value != NULL)
            coroutine->value = *value;
        atomic_fetch_or(&coroutine->pending, bit_of(number));
        if ((coroutine->awaited & bit_of(number)) != 0)
            interrupt(coroutine, NOT_RESTARTED);
        return 0;
    }
    const bool from_here = is_carrier;
    if (plain()->sigaction(number, NULL, &action) == 0 &&
        is_handler(&action) && action.sa_sigaction == on_signal) {
        any_addressee = true;
        addressees[number] = coroutine;
    }
    if (from_here)
        sending = true;
    if (value == NULL)
        error = plain()->pthread_kill(carrier, number);
    else
        error = plain()->pthread_sigqueue(carrier, number, *value);
    if (from_here)
        sending = false; /* it has come by now */
    return error;
}

/*
 * Waits
 */

EXPORT int pause(void)
{
    if (!is_carrier)
        return plain()->pause();
    while (suspend(NEVER, INTERRUPTED) != WAKE_INTERRUPTED)
        continue;
    errno = EINTR;
    return -1;
}

EXPORT int sigsuspend(const sigset_t *set)
{
    if (!is_carrier)
        return plain()->sigsuspend(set);
    uint64_t before = begin_masked_wait(set);
    pause();
    end_masked_wait(before);
    return -1;
}

/* Takes a signal of the set that was sent to this coroutine and is blocked.
 * Returns its number, or 0. */
static int take_pending(const sigset_t *set, struct signalfd_siginfo *info)
{
    const uint64_t found = current->pending & bits_of(set);

    if (found == 0)
        return 0;
    int number = __builtin_ctzll(found) + 1;
    atomic_fetch_and(&current->pending, ~bit_of(number));
    *info = (struct signalfd_siginfo){.ssi_signo = (uint32_t)number,
                                      .ssi_code = SI_TKILL,
                                      .ssi_pid = (uint32_t)getpid(),
                                      .ssi_uid = (uint32_t)getuid()};
    memcpy(&info->ssi_ptr, &current->value, sizeof info->ssi_ptr);
    return number;
}

/* Returns the number of a signal of the set, or -1 with errno set. A
 * descriptor of signalfd is ready when one is pending for the process or for
 * the carrier, so the carrier need not wait itself. */
static int await_signal(const sigset_t *set, struct signalfd_siginfo *info,
                        int64_t deadline)
{
    struct coroutine *self = current;
    bool is_new = self->signal_fd < 0;
    int fd = signalfd(self->signal_fd, set, SFD_NONBLOCK | SFD_CLOEXEC);
    struct pollfd input = {.fd = fd, .events = POLLIN};
    int number = -1;

    if (fd < 0)
        return -1;
    self->signal_fd = fd;
    if (is_new)
        descriptor_opened(fd, KIND_PIPE, true);
    self->awaited = bits_of(set);
    for (;;) {
        number = take_pending(set, info);
        if (number > 0)
            break;
        number = -1;
        if (plain()->read(fd, info, sizeof *info) == sizeof *info) {
            number = (int)info->ssi_signo;
            break;
        }
        if (errno != EAGAIN)
            break;
        int ready = poll_until(&input, 1, deadline);
        if (ready < 0 && (self->pending & self->awaited) == 0)
            break;
        if (ready == 0 && deadline <= now_ns()) {
            errno = EAGAIN;
            break;
        }
    }
    self->awaited = 0;
    return number;
}

EXPORT int sigwait(const sigset_t *set, int *number)
{
    struct signalfd_siginfo info;

    if (!is_carrier)
        return plain()->sigwait(set, number);
    do
        *number = await_signal(set, &info, NEVER);
    while (*number < 0 && errno == EINTR);
    return *number < 0 ? errno : 0;
}

EXPORT int sigtimedwait(const sigset_t *set, siginfo_t *result,
                        const struct timespec *timeout)
{
    struct signalfd_siginfo info;

    if (!is_carrier)
        return plain()->sigtimedwait(set, result, timeout);
    int number =
        await_signal(set, &info, timeout == NULL ? NEVER : after(timeout));
    if (number > 0 && result != NULL) {
        memset(result, 0, sizeof *result);
        result->si_signo = number;
        result->si_code = info.ssi_code;
        result->si_errno = info.ssi_errno;
        result->si_pid = (pid_t)info.ssi_pid;
        result->si_uid = info.ssi_uid;
        memcpy(&result->si_value, &info.ssi_ptr, sizeof result->si_value);
    }
    return number;
}

EXPORT int sigwaitinfo(const sigset_t *set, siginfo_t *result)
{
    return sigtimedwait(set, result, NULL);
}
