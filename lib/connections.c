/*
 * connections.c - the connections that are open, see connections.h
 *
 * SPDX-License-Identifier: MIT
 */
#include "connections.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#define THREAD_EXIT_MS 100 /* longest wait for threads that are returning */

struct connection *connection_create(int fd, size_t max_line,
                                     long line_timeout_ms,
                                     long idle_timeout_ms)
{
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        return NULL;
    connection->fd = fd;
    if (reader_init(&connection->reader, fd, max_line, line_timeout_ms,
                    idle_timeout_ms) &&
        reply_init(&connection->reply))
        return connection;
    connection_free(connection);
    return NULL;
}

void connection_free(struct connection *connection)
{
    reader_free(&connection->reader);
    free(connection->reply.data);
    free(connection);
}

int connections_init(struct connections *all, long max)
{
    pthread_condattr_t monotonic;

    *all = (struct connections){.mutex = PTHREAD_MUTEX_INITIALIZER,
                                .open = LIST_HEAD_INITIALIZER(all->open),
                                .max = max};
    int error = pthread_condattr_init(&monotonic);
    if (error == 0)
        error = pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    if (error == 0)
        error = pthread_cond_init(&all->none_left, &monotonic);
    return error;
}

bool connections_full(struct connections *all)
{
    pthread_mutex_lock(&all->mutex);
    bool full = all->count >= all->max;
    pthread_mutex_unlock(&all->mutex);
    return full;
}

long connections_add(struct connections *all, struct connection *connection)
{
    pthread_mutex_lock(&all->mutex);
    LIST_INSERT_HEAD(&all->open, connection, entry);
    long count = ++all->count;
    connection->set_peak = count > all->peak;
    if (connection->set_peak)
        all->peak = count;
    pthread_mutex_unlock(&all->mutex);
    return count;
}

/* Takes a connection off the list; the mutex is held. */
static void unlist(struct connections *all, struct connection *connection)
{
    LIST_REMOVE(connection, entry);
    all->count--;
    if (all->count == 0)
        pthread_cond_signal(&all->none_left);
}

void connections_remove(struct connections *all, struct connection *connection)
{
    pthread_mutex_lock(&all->mutex);
    unlist(all, connection);
    pthread_mutex_unlock(&all->mutex);
}

void connections_undo(struct connections *all, struct connection *connection)
{
    pthread_mutex_lock(&all->mutex);
    if (connection->set_peak)
        all->peak--;
    unlist(all, connection);
    pthread_mutex_unlock(&all->mutex);
}

long connections_peak(struct connections *all)
{
    pthread_mutex_lock(&all->mutex);
    long peak = all->peak;
    pthread_mutex_unlock(&all->mutex);
    return peak;
}

long connections_drain(struct connections *all, long timeout_ms)
{
    struct connection *connection;
    struct timespec end;

    clock_gettime(CLOCK_MONOTONIC, &end); /* cannot fail for this clock */
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += timeout_ms % 1000 * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }

    pthread_mutex_lock(&all->mutex);
    /* The lock keeps the descriptors from being closed. */
    LIST_FOREACH(connection, &all->open, entry)
    {
        reader_end_input(&connection->reader);
    }
    int error = 0;
    while (all->count > 0 && error == 0)
        error = pthread_cond_timedwait(&all->none_left, &all->mutex, &end);
    long left = all->count;
    pthread_mutex_unlock(&all->mutex);
    return left;
}

bool connections_await_threads(void)
{
    struct stat tasks;

    for (int ms = 0; ms < THREAD_EXIT_MS; ms++) {
        if (stat("/proc/self/task", &tasks) != 0)
            return false;
        if (tasks.st_nlink == 3) /* ".", ".." and this thread */
            return true;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return false;
}
