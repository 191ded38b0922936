/*
 * command.c - programs that run to their end
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memfd_create, pipe2, vasprintf */
#include "command.h"
#include "descendants.h"
#include "harness.h"

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The Makefile says where the kit is built along with this file. */
#ifndef TEST_BUILD
#define TEST_BUILD "build"
#endif

#define POLL_MS 2 /* between two looks at a process */

static int memory_file(void)
{
    int fd = memfd_create("output", MFD_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

/* Returns the content of a file in memory, to free(). */
static char *read_all(int fd)
{
    struct stat status;
    ck_assert_int_eq(fstat(fd, &status), 0);
    size_t size = (size_t)status.st_size;
    char *text = malloc(size + 1);
    ck_assert_ptr_nonnull(text);
    ssize_t len = pread(fd, text, size, 0);
    ck_assert_int_ge(len, 0);
    text[len] = '\0';
    return text;
}

/* Runs the command line in place of this process, which is the child. */
static _Noreturn void run_shell(const char *line, int in, int out, int err,
                                pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent &&
        dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
        dup2(err, STDERR_FILENO) >= 0)
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

static struct command *vstart(const char *format, va_list arguments)
{
    struct command *command = calloc(1, sizeof *command);
    ck_assert_ptr_nonnull(command);
    char *line = NULL;
    ck_assert_int_ge(vasprintf(&line, format, arguments), 0);
    int in[2];
    ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
    command->in = in[1];
    command->out_fd = memory_file();
    command->err_fd = memory_file();
    pid_t parent = getpid();
    command->pid = fork();
    if (command->pid == 0)
        run_shell(line, in[0], command->out_fd, command->err_fd, parent);
    ck_assert_int_gt(command->pid, 0);
    descendants_own(command->pid);
    close(in[0]);
    free(line);
    return command;
}

struct command *command_start(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    struct command *command = vstart(format, arguments);
    va_end(arguments);
    return command;
}

/* Returns whether it has ended. */
static bool ended(struct command *command)
{
    int status = 0;
    if (command->pid > 0 && waitpid(command->pid, &status, WNOHANG) != 0) {
        descendants_disown(command->pid);
        command->pid = 0;
        command->status =
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return command->pid == 0;
}

void command_says(struct command *command, const char *text)
{
    long long deadline = now_ms() + PATIENCE_MS;
    bool over = false;
    while (!over) {
        over = ended(command) || now_ms() >= deadline;
        char *err = read_all(command->err_fd);
        bool found = strstr(err, text) != NULL;
        ck_assert_msg(found || !over, "it has not said '%s' but:\n%s", text,
                      err);
        free(err);
        if (found)
            return;
        let_pass(POLL_MS);
    }
}

void command_wait(struct command *command)
{
    long long deadline = now_ms() + PATIENCE_MS;
    if (command->in >= 0) {
        close(command->in);
        command->in = -1;
    }
    while (!ended(command)) {
        ck_assert_msg(now_ms() < deadline, "the command does not end");
        let_pass(POLL_MS);
    }
    command->out = read_all(command->out_fd);
    command->err = read_all(command->err_fd);
    ck_assert_msg(strstr(command->err, "Sanitizer") == NULL &&
                      strstr(command->err, "runtime error:") == NULL,
                  "%s", command->err);
}

struct command *command_run(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    struct command *command = vstart(format, arguments);
    va_end(arguments);
    command_wait(command);
    return command;
}

void command_free(struct command *command)
{
    if (command->pid > 0) {
        kill(command->pid, SIGKILL);
        waitpid(command->pid, NULL, 0);
        descendants_disown(command->pid);
    }
    if (command->in >= 0)
        close(command->in);
    close(command->out_fd);
    close(command->err_fd);
    free(command->out);
    free(command->err);
    free(command);
}

const char *kit_program(const char *name)
{
    static char path[256];
    const char *build = getenv("BUILD");
    (void)snprintf(path, sizeof path, "%s/%s",
                   build != NULL ? build : TEST_BUILD, name);
    return path;
}
