/*
 * Unit tests of lib/slots: which slot a caller gets, who gets it first, and
 * that nobody else has it meanwhile. The last is for the thread sanitizer as
 * well. The file is included whole, so that its line can be looked at.
 *
 * SPDX-License-Identifier: MIT
 */
#include "allocations.h"
#include "harness.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { STEPS = 3 }; /* of an acquisition that has to wait: reads */

/* Each of them comes here, and the chosen one releases a slot. */
static void *releasing_thread(void *arg);
static _Thread_local int steps_left = -1;
static void *released_at_step;
static pthread_t releasing;
static atomic_bool released, acquired;

static void step(void)
{
    if (steps_left-- != 0)
        return;
    ck_assert_int_eq(
        pthread_create(&releasing, NULL, releasing_thread, released_at_step),
        0);
    /* It may be waiting for the lock, which this thread may hold. */
    for (int ms = 0; ms < 200 && !atomic_load(&released); ms++)
        let_pass(1);
}

static unsigned read_count(const atomic_uint *count)
{
    unsigned value = atomic_load(count);
    step();
    return value;
}

static uint64_t read_word(const _Atomic(uint64_t) *word)
{
    uint64_t value = atomic_load(word);
    step();
    return value;
}

#pragma push_macro("atomic_load")
#undef atomic_load
#define atomic_load(object)                                                   \
    _Generic((object), atomic_uint * : read_count, default : read_word)(object)
#define calloc failing_calloc
#include "../lib/slots.c"
#undef calloc
#pragma pop_macro("atomic_load")

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

/* Of words that are full, and next to them. */
static const unsigned counts[] = {1,   2,   3,   63,  64,  65,
                                  100, 127, 128, 129, 1024};

/* Waits until this many threads are in line. */
static void await_waiting(struct slots *slots, unsigned count)
{
    long long deadline = now_ms() + PATIENCE_MS;

    while (atomic_load(&slots->waiting) != count) {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(1);
    }
}

/* A thread that acquires a slot and notes when it had its turn. */
struct caller {
    pthread_t thread;
    struct slots *slots;
    atomic_int *turns;
    int turn;      /* 1 for the first that acquired one */
    unsigned slot; /* that it had */
};

static void *caller_thread(void *arg)
{
    struct caller *caller = arg;

    caller->slot = slots_acquire(caller->slots, 0);
    caller->turn = atomic_fetch_add(caller->turns, 1) + 1;
    slots_release(caller->slots, caller->slot);
    return NULL;
}

static void start_caller(struct caller *caller)
{
    ck_assert_int_eq(
        pthread_create(&caller->thread, NULL, caller_thread, caller), 0);
}

static void finish_caller(struct caller *caller)
{
    ck_assert_int_eq(pthread_join(caller->thread, NULL), 0);
}

START_TEST(test_each_slot_is_acquired_once_lowest_first)
{
    unsigned count = counts[_i];
    atomic_int turns = 0;
    struct slots slots = {0};
    struct caller late = {.slots = &slots, .turns = &turns};

    ck_assert(slots_init(&slots, count));
    for (unsigned i = 0; i < count; i++)
        ck_assert_uint_eq(slots_acquire(&slots, 0), i);
    /* There is none behind the last: one more caller waits, and is served. */
    start_caller(&late);
    await_waiting(&slots, 1);
    ck_assert_int_eq(atomic_load(&turns), 0);
    slots_release(&slots, count - 1);
    finish_caller(&late);
    ck_assert_uint_eq(late.slot, count - 1);
    ck_assert_uint_eq(atomic_load(&slots.waiting), 0);
    /* And any that is released is acquired again. */
    for (unsigned i = 0; i + 1 < count; i++)
        slots_release(&slots, i);
    for (unsigned i = 0; i < count; i++)
        ck_assert_uint_eq(slots_acquire(&slots, count - 1),
                          i == 0 ? count - 1 : i - 1);
    slots_free(&slots);
}
END_TEST

START_TEST(test_preferred_slot_is_acquired_if_it_is_free)
{
    static const unsigned preferred[] = {129, 64, 63, 1, 0};
    struct slots slots = {0};

    ck_assert(slots_init(&slots, 130));
    for (int i = 0; i < COUNT(preferred); i++)
        ck_assert_uint_eq(slots_acquire(&slots, preferred[i]), preferred[i]);
    for (int i = 0; i < COUNT(preferred); i++) {
        slots_release(&slots, preferred[i]);
        ck_assert_uint_eq(slots_acquire(&slots, preferred[i]), preferred[i]);
    }
    ck_assert_uint_eq(slots_acquire(&slots, 129), 2); /* the lowest else */
    slots_release(&slots, 129);
    slots_release(&slots, 1);
    ck_assert_uint_eq(slots_acquire(&slots, 64), 1);
    ck_assert_uint_eq(slots_acquire(&slots, 64), 3);
    ck_assert_uint_eq(slots_acquire(&slots, 129), 129);
    slots_free(&slots);
}
END_TEST

START_TEST(test_first_come_is_first_served)
{
    enum { CALLERS = 12 };
    struct caller callers[CALLERS];
    atomic_int turns = 0;
    struct slots slots = {0};

    ck_assert(slots_init(&slots, 1));
    ck_assert_uint_eq(slots_acquire(&slots, 0), 0);
    for (unsigned i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){.slots = &slots, .turns = &turns};
        start_caller(&callers[i]);
        await_waiting(&slots, i + 1);
    }
    slots_release(&slots, 0);
    for (int i = 0; i < CALLERS; i++)
        finish_caller(&callers[i]);
    for (int i = 0; i < CALLERS; i++)
        ck_assert_int_eq(callers[i].turn, i + 1);
    slots_free(&slots);
}
END_TEST

/* The moment after a slot was released and before its first waiter has it. */
START_TEST(test_newcomer_does_not_overtake_who_waits)
{
    struct waiter first = {.slot = NO_SLOT};
    atomic_int turns = 0;
    struct slots slots = {0};
    struct caller newcomer = {.slots = &slots, .turns = &turns};

    ck_assert(slots_init(&slots, 1));
    ck_assert_int_eq(pthread_cond_init(&first.acquired, NULL), 0);
    STAILQ_INSERT_TAIL(&slots.line, &first, next);
    atomic_store(&slots.waiting, 1);
    start_caller(&newcomer);
    long long deadline = now_ms() + PATIENCE_MS;
    do {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(1);
        pthread_mutex_lock(&slots.mutex);
        long slot = first.slot;
        pthread_mutex_unlock(&slots.mutex);
        if (slot == 0)
            break;
        ck_assert_int_eq(atomic_load(&turns), 0);
    } while (true);
    await_waiting(&slots, 1); /* now that is the newcomer */
    ck_assert_int_eq(atomic_load(&turns), 0);
    slots_release(&slots, 0);
    finish_caller(&newcomer);
    ck_assert_int_eq(pthread_cond_destroy(&first.acquired), 0);
    slots_free(&slots);
}
END_TEST

START_TEST(test_all_that_are_released_are_handed_out)
{
    enum { SLOTS = 70 };
    struct caller callers[SLOTS];
    atomic_int turns = 0;
    struct slots slots = {0};

    ck_assert(slots_init(&slots, SLOTS));
    for (unsigned i = 0; i < SLOTS; i++)
        slots_acquire(&slots, i);
    for (unsigned i = 0; i < SLOTS; i++) {
        callers[i] = (struct caller){.slots = &slots, .turns = &turns};
        start_caller(&callers[i]);
        await_waiting(&slots, i + 1);
    }
    for (unsigned i = SLOTS; i-- > 0;)
        slots_release(&slots, i);
    for (int i = 0; i < SLOTS; i++)
        finish_caller(&callers[i]);
    ck_assert_int_eq(atomic_load(&turns), SLOTS);
    ck_assert_uint_eq(atomic_load(&slots.waiting), 0);
    slots_free(&slots);
}
END_TEST

START_TEST(test_slots_without_memory_can_be_freed)
{
    struct slots slots = {0};

    allocation_fails_after(0);
    ck_assert(!slots_init(&slots, 100));
    ck_assert(allocation_failed());
    slots_free(&slots);
}
END_TEST

/*
 * Many threads
 */

#define STRESS_THREADS 8
#define STRESS_ROUNDS 20000

/* What belongs to a slot. It is not atomic: the slot is all that guards it. */
struct guarded {
    const void *holder;
    long rounds;
};

struct stress {
    pthread_t thread;
    struct slots *slots;
    struct guarded *guarded;
    long clashes;
};

static void *stress_thread(void *arg)
{
    struct stress *stress = arg;
    unsigned slot = 0;

    for (int i = 0; i < STRESS_ROUNDS; i++) {
        slot = slots_acquire(stress->slots, slot);
        struct guarded *guarded = &stress->guarded[slot];
        stress->clashes += guarded->holder != NULL;
        guarded->holder = stress;
        guarded->rounds++;
        stress->clashes += guarded->holder != stress;
        guarded->holder = NULL;
        slots_release(stress->slots, slot);
    }
    return NULL;
}

START_TEST(test_slot_is_held_by_one_thread_at_a_time)
{
    static const unsigned few[] = {1, 2, STRESS_THREADS - 1, STRESS_THREADS,
                                   65};
    struct stress threads[STRESS_THREADS];
    struct guarded guarded[65] = {{0}};
    struct slots slots = {0};
    long rounds = 0;

    ck_assert(slots_init(&slots, few[_i]));
    for (int i = 0; i < STRESS_THREADS; i++) {
        threads[i] = (struct stress){.slots = &slots, .guarded = guarded};
        ck_assert_int_eq(pthread_create(&threads[i].thread, NULL,
                                        stress_thread, &threads[i]),
                         0);
    }
    for (int i = 0; i < STRESS_THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i].thread, NULL), 0);
        ck_assert_int_eq(threads[i].clashes, 0);
    }
    for (unsigned i = 0; i < few[_i]; i++)
        rounds += guarded[i].rounds;
    ck_assert_int_eq(rounds, (long)STRESS_THREADS * STRESS_ROUNDS);
    ck_assert_uint_eq(atomic_load(&slots.waiting), 0);
    for (unsigned i = 0; i < few[_i]; i++) /* all are free again */
        ck_assert_uint_eq(slots_acquire(&slots, 0), i);
    slots_free(&slots);
}
END_TEST

/*
 * A release at each step of an acquisition
 */

/* Releases the slot, in a thread of its own, and reports it. */
static void *releasing_thread(void *arg)
{
    slots_release(arg, 0);
    atomic_store(&released, true);
    return NULL;
}

static void *acquiring_thread(void *arg)
{
    struct caller *caller = arg;

    steps_left = caller->turn;
    caller->slot = slots_acquire(caller->slots, 0);
    ck_assert_int_lt(steps_left, 0);
    atomic_store(&acquired, true);
    return NULL;
}

/* At whichever step: the slot is found, or the thread is woken. Nobody else
 * would do that. */
START_TEST(test_slot_released_during_an_acquisition_is_acquired)
{
    static struct slots slots;
    struct caller caller = {.slots = &slots, .turn = _i};
    long long deadline = now_ms() + PATIENCE_MS;

    ck_assert(slots_init(&slots, 1));
    ck_assert_uint_eq(slots_acquire(&slots, 0), 0);
    released_at_step = &slots;
    ck_assert_int_eq(
        pthread_create(&caller.thread, NULL, acquiring_thread, &caller), 0);
    while (!atomic_load(&acquired)) {
        ck_assert_int_lt(now_ms(), deadline);
        let_pass(1);
    }
    finish_caller(&caller);
    ck_assert_int_eq(pthread_join(releasing, NULL), 0);
    ck_assert(atomic_load(&released));
    ck_assert_uint_eq(atomic_load(&slots.waiting), 0);
    slots_free(&slots);
}
END_TEST

static Suite *slots_suite(void)
{
    Suite *suite = suite_create("slots");
    TCase *tests = tcase_create("slots");

    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_loop_test(tests, test_each_slot_is_acquired_once_lowest_first, 0,
                        COUNT(counts));
    tcase_add_test(tests, test_preferred_slot_is_acquired_if_it_is_free);
    tcase_add_test(tests, test_first_come_is_first_served);
    tcase_add_test(tests, test_newcomer_does_not_overtake_who_waits);
    tcase_add_test(tests, test_all_that_are_released_are_handed_out);
    tcase_add_test(tests, test_slots_without_memory_can_be_freed);
    tcase_add_loop_test(tests, test_slot_is_held_by_one_thread_at_a_time, 0,
                        5);
    tcase_add_loop_test(
        tests, test_slot_released_during_an_acquisition_is_acquired, 0, STEPS);
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(slots_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
