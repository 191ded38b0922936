/*
 * allocations.c - allocations that fail when a test wants it, see
 * allocations.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "allocations.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define NONE_FAILS (-1)

/* Allocations until the one that fails, or below 0. */
static atomic_long successes_left = NONE_FAILS;
static atomic_bool failed;

static atomic_long held;      /* blocks that are not freed, */
static atomic_long size_held; /* and their bytes */

void allocation_fails_after(long successes)
{
    atomic_store(&failed, false);
    atomic_store(&successes_left, successes);
}

bool allocation_failed(void)
{
    atomic_store(&successes_left, NONE_FAILS);
    return atomic_load(&failed);
}

static bool allocation_fails(void)
{
    if (atomic_load(&successes_left) < 0 ||
        atomic_fetch_sub(&successes_left, 1) != 0)
        return false;
    atomic_store(&failed, true);
    return true;
}

/* Counts a new block, if it is one. Returns it. */
static void *hold(void *data)
{
    if (data != NULL) {
        atomic_fetch_add(&held, 1);
        atomic_fetch_add(&size_held, (long)malloc_usable_size(data));
    }
    return data;
}

void *failing_malloc(size_t size)
{
    return allocation_fails() ? NULL : hold(malloc(size));
}

void *failing_calloc(size_t count, size_t size)
{
    return allocation_fails() ? NULL : hold(calloc(count, size));
}

void *failing_realloc(void *data, size_t size)
{
    if (allocation_fails())
        return NULL;
    long before = data != NULL ? (long)malloc_usable_size(data) : 0;
    void *grown = realloc(data, size);
    if (data == NULL)
        return hold(grown);
    if (grown != NULL)
        atomic_fetch_add(&size_held, (long)malloc_usable_size(grown) - before);
    return grown;
}

char *failing_strdup(const char *text)
{
    return allocation_fails() ? NULL : hold(strdup(text));
}

void counted_free(void *data)
{
    if (data != NULL) {
        atomic_fetch_sub(&held, 1);
        atomic_fetch_sub(&size_held, (long)malloc_usable_size(data));
    }
    free(data);
}

long allocations_held(void)
{
    return atomic_load(&held);
}

long allocations_size(void)
{
    return atomic_load(&size_held);
}
