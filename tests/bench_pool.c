/*
 * The sleep experiment's pool from outside: whatever the queue, each task
 * runs once and sleeps its time, and the Python twins print the same columns.
 *
 * SPDX-License-Identifier: MIT
 */
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { TASKS = 300 };

/* A stack that a sanitizer's run-time is content with as well. */
#define BIG_STACK " --stack 2048"

static const char *build_directory(void)
{
    const char *build = getenv("BUILD");

    return build != NULL ? build : "build";
}

/* Run a shell command; its output, to free(), and its exit status. */
static char *output_of(const char *command, int *status)
{
    size_t size = 65536;
    char *output = malloc(size);
    FILE *pipe;
    size_t len;
    int ending;

    ck_assert_ptr_nonnull(output);
    pipe = popen(command, "r"); /* NOLINT(cert-env33-c): our own words */
    ck_assert_ptr_nonnull(pipe);
    len = fread(output, 1, size - 1, pipe);
    output[len] = '\0';
    ending = pclose(pipe);
    ck_assert(WIFEXITED(ending));
    *status = WEXITSTATUS(ending);
    return output;
}

/* Run the pool with these options, and stderr where stdout goes. */
static char *pool_output(const char *options, int *status)
{
    char command[512];
    int len = snprintf(command, sizeof command, "timeout 60 %s/pool %s 2>&1",
                       build_directory(), options);

    ck_assert_int_lt(len, (int)sizeof command);
    return output_of(command, status);
}

/* The number under a column of a header line and a row. */
static double number(const char *output, const char *name)
{
    const char *head = output;
    const char *row = strchr(output, '\n');
    size_t len = strlen(name);

    ck_assert_ptr_nonnull(row);
    row++;
    while (strncmp(head, name, len) != 0 ||
           strchr("\t\n", head[len]) == NULL) {
        head += strcspn(head, "\t\n");
        ck_assert_msg(*head == '\t', "no column %s", name);
        head++;
        row += strcspn(row, "\t\n");
        ck_assert_msg(*row == '\t', "no value for %s", name);
        row++;
    }
    return strtod(row, NULL);
}

static const char *const kinds[] = {
    "--queue mutex",
    "--queue broadcast",
    "--queue semaphore",
    "--queue idle",
    "--queue mutex --span all",
    "--queue broadcast --span all",
    "--queue semaphore --span all",
    "--queue idle --span all",
    "--queue idle --policy batch --place free",
};

/* The samples file holds each task once, with its whole sleep. */
START_TEST(test_pool_runs_each_task_once_and_none_early)
{
    char options[256];
    char path[] = "/tmp/bench_pool.XXXXXX";
    int fd = mkstemp(path);
    bool seen[TASKS] = {false};
    int status;
    int count = 0;
    char line[256];

    ck_assert_int_ge(fd, 0);
    ck_assert_int_lt(snprintf(options, sizeof options,
                              "%s --workers 40 --tasks %d --sleep 2"
                              " --samples %s" BIG_STACK,
                              kinds[_i], TASKS, path),
                     (int)sizeof options);
    char *output = pool_output(options, &status);
    ck_assert_msg(status == 0, "%s: %s", options, output);
    ck_assert_double_eq(number(output, "tasks"), TASKS);
    ck_assert_double_eq(number(output, "early_tasks"), 0);
    ck_assert_double_eq(number(output, "tasks_not_run_once"), 0);
    ck_assert_double_ge(number(output, "overhead"), 1);
    ck_assert_double_eq_tol(number(output, "total_ms") /
                                number(output, "ideal_ms"),
                            number(output, "overhead"), 0.001);

    FILE *samples = fdopen(fd, "r");
    ck_assert_ptr_nonnull(samples);
    ck_assert_ptr_nonnull(fgets(line, sizeof line, samples));
    ck_assert_str_eq(line, "task\tstarted_ns\tended_ns\tlate_ns\n");
    while (fgets(line, sizeof line, samples) != NULL) {
        char *rest;
        long task = strtol(line, &rest, 10);
        long long started = strtoll(rest, &rest, 10);
        long long ended = strtoll(rest, &rest, 10);
        long long late = strtoll(rest, &rest, 10);

        ck_assert_str_eq(rest, "\n");
        ck_assert_int_ge(task, 0);
        ck_assert_int_lt(task, TASKS);
        ck_assert_msg(!seen[task], "task %ld is there twice", task);
        seen[task] = true;
        ck_assert_int_ge(late, 0);
        ck_assert_int_eq(ended - started - 2000000, late);
        count++;
    }
    ck_assert_int_eq(count, TASKS);
    ck_assert_int_eq(fclose(samples), 0);
    ck_assert_int_eq(unlink(path), 0);
    free(output);
}
END_TEST

START_TEST(test_pool_of_more_workers_than_tasks_ends)
{
    int status;
    char *output = pool_output("-w 50 -n 3 -s 1" BIG_STACK, &status);

    ck_assert_int_eq(status, 0);
    ck_assert_double_eq(number(output, "tasks_not_run_once"), 0);
    free(output);
}
END_TEST

START_TEST(test_pool_says_when_the_samples_do_not_fit)
{
    int status;
    char *output =
        pool_output("-n 100 -s 0 --samples /dev/full" BIG_STACK, &status);

    ck_assert_int_eq(status, 1);
    ck_assert_ptr_nonnull(strstr(output, "/dev/full: No space left"));
    free(output);
}
END_TEST

/* What is refused, and what the message has to name. */
static const struct {
    const char *options;
    const char *named;
} bad[] = {
    {"--workers 0", "--workers: '0' is not a whole number from 1 to 32000"},
    {"--workers 10x", "--workers: '10x' is not a whole number"},
    {"--workers 1.5", "--workers: '1.5' is not a whole number"},
    {"--workers ''", "from 1 to 32000"},
    {"--workers ' 1'", "from 1 to 32000"},
    {"--tasks -1", "from 1 to 10000000"},
    {"--tasks 1e3", "--tasks: '1e3'"},
    {"--sleep nan", "--sleep: 'nan' is not a number of milliseconds"},
    {"--sleep 0x5", "--sleep: '0x5'"},
    {"--sleep 60001", "from 0 to 60000"},
    {"--queue best", "'best' is not one of mutex, broadcast, semaphore, idle"},
    {"--span some", "tasks, all"},
    {"--policy fifo", "other, batch"},
    {"--place here", "free, spread"},
    {"--slack 0", "--slack: '0' is not a number of microseconds"},
    {"--stack 15", "from 16 to 65536"},
    {"--no-such-option", "no-such-option"},
    {"--workers", "workers"},
    {"more", "unexpected argument 'more'"},
};

START_TEST(test_pool_refuses_what_is_no_option)
{
    int status;
    char *output = pool_output(bad[_i].options, &status);

    ck_assert_msg(status == 2, "%s: %d", bad[_i].options, status);
    ck_assert_msg(strstr(output, bad[_i].named) != NULL, "%s: %s",
                  bad[_i].options, output);
    free(output);
}
END_TEST

START_TEST(test_pool_json_is_one_object)
{
    int status;
    char *output = pool_output("-n 10 -s 1 --json" BIG_STACK, &status);

    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(strncmp(output, "{\"model\": \"pthreads\", ", 22), 0);
    ck_assert_ptr_eq(strchr(output, '\n'), output + strlen(output) - 1);
    ck_assert_str_eq(output + strlen(output) - 2, "}\n");
    free(output);
}
END_TEST

static const char *const twins[] = {"threads", "gevent"};

START_TEST(test_python_twin_prints_the_same_columns)
{
    char command[256];
    int status;
    char *own = pool_output("-w 5 -n 50 -s 2" BIG_STACK, &status);

    ck_assert_int_eq(status, 0);
    char *missing =
        output_of("/usr/bin/python3 -c 'import gevent' 2>&1", &status);
    free(missing);
    if (status == 0 || (_i == 0 && access("/usr/bin/python3", X_OK) == 0)) {
        ck_assert_int_lt(snprintf(command, sizeof command,
                                  "timeout 60 bench/pool.py %s"
                                  " -w 5 -n 50 -s 2 2>&1",
                                  twins[_i]),
                         (int)sizeof command);
        char *output = output_of(command, &status);
        size_t header = strcspn(own, "\n");

        ck_assert_msg(status == 0, "%s", output);
        ck_assert_uint_eq(strcspn(output, "\n"), header);
        ck_assert_int_eq(strncmp(own, output, header), 0);
        ck_assert_double_eq(number(output, "tasks"), 50);
        ck_assert_double_eq(number(output, "tasks_not_run_once"), 0);
        ck_assert_double_eq_tol(number(output, "total_ms") /
                                    number(output, "ideal_ms"),
                                number(output, "overhead"), 0.001);
        free(output);
    }
    free(own);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *tests = tcase_create("pool");

    tcase_set_timeout(tests, 90);
    tcase_add_loop_test(tests, test_pool_runs_each_task_once_and_none_early, 0,
                        COUNT(kinds));
    tcase_add_test(tests, test_pool_of_more_workers_than_tasks_ends);
    tcase_add_test(tests, test_pool_says_when_the_samples_do_not_fit);
    tcase_add_loop_test(tests, test_pool_refuses_what_is_no_option, 0,
                        COUNT(bad));
    tcase_add_test(tests, test_pool_json_is_one_object);
    tcase_add_loop_test(tests, test_python_twin_prints_the_same_columns, 0,
                        COUNT(twins));
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
