/*
 * helgrind_atomics.h - what C11 atomics order, told to helgrind
 *
 * helgrind sees an atomic operation as an instruction like any other. It knows
 * that one with a lock prefix cannot race, but not that what one thread wrote
 * before it is visible to another after it. So a build for helgrind includes
 * this file before each source (cc -include), and each operation of
 * <stdatomic.h> that threadecho uses is announced: what it releases before it,
 * what it acquires after it. All of them are sequentially consistent. The
 * program is otherwise the same, and no other operation compiles.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef HELGRIND_ATOMICS_H
#define HELGRIND_ATOMICS_H

#include <stdatomic.h>
#include <valgrind/helgrind.h>

#undef atomic_load
#undef atomic_store
#undef atomic_exchange
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_fetch_or
#undef atomic_fetch_and

#undef atomic_fetch_xor
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_weak
#undef atomic_thread_fence
#undef atomic_flag_test_and_set
#pragma GCC poison atomic_fetch_xor atomic_compare_exchange_strong
#pragma GCC poison atomic_compare_exchange_weak atomic_thread_fence
#pragma GCC poison atomic_flag_test_and_set

#define ANNOUNCED(object, operation)                                          \
    __extension__({                                                           \
        ANNOTATE_HAPPENS_BEFORE(object);                                      \
        __auto_type announced_value = (operation);                            \
        ANNOTATE_HAPPENS_AFTER(object);                                       \
        announced_value;                                                      \
    })

#define atomic_load(object)                                                   \
    __extension__({                                                           \
        __auto_type announced_value =                                         \
            atomic_load_explicit(object, memory_order_seq_cst);               \
        ANNOTATE_HAPPENS_AFTER(object);                                       \
        announced_value;                                                      \
    })
#define atomic_store(object, value)                                           \
    __extension__({                                                           \
        ANNOTATE_HAPPENS_BEFORE(object);                                      \
        atomic_store_explicit(object, value, memory_order_seq_cst);           \
    })
#define ORDER memory_order_seq_cst
#define atomic_exchange(object, value)                                        \
    ANNOUNCED(object, atomic_exchange_explicit(object, value, ORDER))
#define atomic_fetch_add(object, value)                                       \
    ANNOUNCED(object, atomic_fetch_add_explicit(object, value, ORDER))
#define atomic_fetch_sub(object, value)                                       \
    ANNOUNCED(object, atomic_fetch_sub_explicit(object, value, ORDER))
#define atomic_fetch_or(object, value)                                        \
    ANNOUNCED(object, atomic_fetch_or_explicit(object, value, ORDER))
#define atomic_fetch_and(object, value)                                       \
    ANNOUNCED(object, atomic_fetch_and_explicit(object, value, ORDER))

#endif
