/*
 * The sleep experiment's pool: with any queue, each task runs once and sleeps
 * its time, and the Python twins print the same columns.
 *
 * SPDX-License-Identifier: MIT
 */
#include "command.h"
#include "harness.h"

#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

#define TASKS 300

/* A stack that is large enough for a sanitizer's run-time too. */
#define BIG_STACK "--stack 2048"

/* Runs the pool with these options. */
static struct command *run_pool(const char *options)
{
    return command_run("%s %s", kit_program("pool"), options);
}

/* Returns the number below a column's name. */
static double number(const char *output, const char *name)
{
    const char *head = output;
    const char *row = strchr(output, '\n');
    ck_assert_ptr_nonnull(row);
    row++;
    size_t len = strlen(name);
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

/* Checks that a file of samples has each task once, with its whole sleep. */
static void check_samples(FILE *file)
{
    bool seen[TASKS] = {false};
    int count = 0;
    char line[256];
    ck_assert_ptr_nonnull(fgets(line, sizeof line, file));
    ck_assert_str_eq(line, "task\tstarted_ns\tended_ns\tlate_ns\n");
    while (fgets(line, sizeof line, file) != NULL) {
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
}

START_TEST(test_pool_runs_each_task_once_and_none_early)
{
    char path[] = "/tmp/bench_pool.XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    struct command *pool = command_run(
        "%s %s --workers 40 --tasks %d --sleep 2 --samples %s " BIG_STACK,
        kit_program("pool"), kinds[_i], TASKS, path);
    ck_assert_msg(pool->status == 0, "%s: %s%s", kinds[_i], pool->out,
                  pool->err);
    ck_assert_double_eq(number(pool->out, "tasks"), TASKS);
    ck_assert_double_eq(number(pool->out, "early_tasks"), 0);
    ck_assert_double_eq(number(pool->out, "tasks_not_run_once"), 0);
    ck_assert_double_ge(number(pool->out, "overhead"), 1);
    ck_assert_double_eq_tol(number(pool->out, "total_ms") /
                                number(pool->out, "ideal_ms"),
                            number(pool->out, "overhead"), 0.001);
    command_free(pool);

    FILE *samples = fdopen(fd, "r");
    ck_assert_ptr_nonnull(samples);
    check_samples(samples);
    ck_assert_int_eq(fclose(samples), 0);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(test_pool_of_more_workers_than_tasks_ends)
{
    struct command *pool = run_pool("-w 50 -n 3 -s 1 " BIG_STACK);
    ck_assert_int_eq(pool->status, 0);
    ck_assert_double_eq(number(pool->out, "tasks_not_run_once"), 0);
    command_free(pool);
}
END_TEST

START_TEST(test_pool_reports_samples_that_do_not_fit)
{
    struct command *pool =
        run_pool("-n 100 -s 0 --samples /dev/full " BIG_STACK);
    ck_assert_int_eq(pool->status, 1);
    ck_assert_ptr_nonnull(strstr(pool->err, "/dev/full: No space left"));
    command_free(pool);
}
END_TEST

START_TEST(test_pool_reports_output_that_does_not_fit)
{
    static const char *const outputs[] = {
        "--help >/dev/full", "-n 1 -s 0 " BIG_STACK " >/dev/full"};
    struct command *pool = run_pool(outputs[_i]);
    ck_assert_int_eq(pool->status, 1);
    ck_assert_ptr_nonnull(strstr(pool->err, "No space left"));
    command_free(pool);
}
END_TEST

/* Bad options, and what the message must have. */
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
    struct command *pool = run_pool(bad[_i].options);
    ck_assert_msg(pool->status == 2, "%s: %d", bad[_i].options, pool->status);
    ck_assert_msg(strstr(pool->err, bad[_i].named) != NULL, "%s: %s",
                  bad[_i].options, pool->err);
    ck_assert_int_eq(strncmp(pool->err, "pool: ", 6), 0);
    ck_assert_str_eq(pool->out, "");
    command_free(pool);
}
END_TEST

START_TEST(test_pool_prints_help_and_version)
{
    static const char *const options[] = {"--help", "-h", "--version", "-V"};
    struct command *pool = run_pool(options[_i]);
    ck_assert_int_eq(pool->status, 0);
    ck_assert_str_eq(pool->err, "");
    const char *begin = _i < 2 ? "Usage: pool " : "pool (threadecho) 1.";
    ck_assert_msg(strncmp(pool->out, begin, strlen(begin)) == 0, "%s",
                  pool->out);
    command_free(pool);
}
END_TEST

START_TEST(test_pool_json_is_one_object)
{
    struct command *pool = run_pool("-n 10 -s 1 --json " BIG_STACK);
    ck_assert_int_eq(pool->status, 0);
    ck_assert_int_eq(strncmp(pool->out, "{\"model\": \"pthreads\", ", 22), 0);
    ck_assert_ptr_eq(strchr(pool->out, '\n'),
                     pool->out + strlen(pool->out) - 1);
    ck_assert_str_eq(pool->out + strlen(pool->out) - 2, "}\n");
    command_free(pool);
}
END_TEST

static const char *const twins[] = {"threads", "gevent"};

/* Returns whether the packages of a Python twin are installed. */
static bool twin_runs(const char *twin)
{
    struct command *python =
        command_run("/usr/bin/python3 -c 'import %s'",
                    strcmp(twin, "gevent") == 0 ? "gevent" : "threading");
    bool runs = python->status == 0;
    command_free(python);
    return runs;
}

START_TEST(test_python_twin_prints_the_same_columns)
{
    if (!twin_runs(twins[_i]))
        return;
    struct command *pool = run_pool("-w 5 -n 50 -s 2 " BIG_STACK);
    ck_assert_int_eq(pool->status, 0);
    struct command *twin =
        command_run("bench/pool.py %s -w 5 -n 50 -s 2", twins[_i]);
    ck_assert_msg(twin->status == 0, "%s%s", twin->out, twin->err);
    size_t header = strcspn(pool->out, "\n");
    ck_assert_uint_eq(strcspn(twin->out, "\n"), header);
    ck_assert_int_eq(strncmp(pool->out, twin->out, header), 0);
    ck_assert_double_eq(number(twin->out, "tasks"), 50);
    ck_assert_double_eq(number(twin->out, "tasks_not_run_once"), 0);
    ck_assert_double_eq_tol(number(twin->out, "total_ms") /
                                number(twin->out, "ideal_ms"),
                            number(twin->out, "overhead"), 0.001);
    command_free(pool);
    command_free(twin);
}
END_TEST

static Suite *pool_suite(void)
{
    Suite *suite = suite_create("pool");
    TCase *tests = tcase_create("pool");
    tcase_set_timeout(tests, TEST_TIMEOUT);
    tcase_add_loop_test(tests, test_pool_runs_each_task_once_and_none_early, 0,
                        COUNT(kinds));
    tcase_add_test(tests, test_pool_of_more_workers_than_tasks_ends);
    tcase_add_test(tests, test_pool_reports_samples_that_do_not_fit);
    tcase_add_loop_test(tests, test_pool_reports_output_that_does_not_fit, 0,
                        2);
    tcase_add_loop_test(tests, test_pool_prints_help_and_version, 0, 4);
    tcase_add_loop_test(tests, test_pool_refuses_what_is_no_option, 0,
                        COUNT(bad));
    tcase_add_test(tests, test_pool_json_is_one_object);
    tcase_add_loop_test(tests, test_python_twin_prints_the_same_columns, 0,
                        COUNT(twins));
    suite_add_tcase(suite, tests);
    return suite;
}

int main(void)
{
    return run_suite(pool_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
