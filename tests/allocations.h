/*
 * allocations.h - allocations that fail when a test wants it
 *
 * A suite includes the file under test after it has made malloc stand for
 * failing_malloc, and so on. Any thread may call these.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef ALLOCATIONS_H
#define ALLOCATIONS_H

#include <stdbool.h>
#include <stddef.h>

/* Lets this many allocations succeed and the next one fail; those after it
 * succeed again. */
void allocation_fails_after(long successes);

/* Returns whether that one has failed. If not, it no longer will. */
bool allocation_failed(void);

/* As those of the C library, but for the allocation that is to fail. */
void *failing_malloc(size_t size);
void *failing_calloc(size_t count, size_t size);
void *failing_realloc(void *data, size_t size);
char *failing_strdup(const char *text);

/* Frees what one of them returned. */
void counted_free(void *data);

/* Returns how many of their blocks are not freed. It means something where all
 * of them are freed by counted_free. */
long allocations_held(void);

/* Returns how many bytes these have. */
long allocations_size(void);

#endif
