/*
 * Unit tests of lib/options: what arrays of arguments become, what is logged
 * about those that are refused, and the help.
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* memfd_create */
#include "../lib/options.h"
#include "harness.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))
#define MEMBER(name) offsetof(struct options, name)
#define MAX_WORDS 4

static int written = -1; /* what went to stdout or stderr, in memory */

static void capture(int fd)
{
    fflush(stdout);
    written = memfd_create("written", MFD_CLOEXEC);
    ck_assert_int_ge(written, 0);
    ck_assert_int_ge(dup2(written, fd), 0);
}

static void capture_stderr(void)
{
    capture(STDERR_FILENO);
}

static void capture_stdout(void)
{
    capture(STDOUT_FILENO);
}

/* Returns what was written since the last call; it holds until the next. */
static const char *take_written(void)
{
    static char text[8192];

    ssize_t len = pread(written, text, sizeof text - 1, 0);
    ck_assert_int_ge(len, 0);
    text[len] = '\0';
    ck_assert_int_eq(ftruncate(written, 0), 0);
    ck_assert_int_eq(lseek(written, 0, SEEK_SET), 0);
    return text;
}

/* Parses the words up to the first NULL. */
static bool parse(struct options *options, const char *const words[MAX_WORDS])
{
    char *argv[MAX_WORDS + 2] = {(char[]){"threadecho"}};
    int count = 0;

    while (count < MAX_WORDS && words[count] != NULL)
        count++;
    memcpy(argv + 1, words, (size_t)count * sizeof *words);
    return parse_options(count + 1, argv, options);
}

static bool parse_pair(struct options *options, const char *option,
                       const char *value)
{
    return parse(options, (const char *[MAX_WORDS]){option, value});
}

/*
 * What is taken
 */

static void expect_defaults(const struct options *options)
{
    ck_assert_str_eq(options->listen, "127.0.0.1:8080");
    ck_assert_str_eq(options->upstream, "http://127.0.0.1:8081/arrpi.php");
    ck_assert_ptr_null(options->cacert);
    ck_assert(!options->echo);
    ck_assert(!options->no_keepalive);
    ck_assert(!options->verbose);
    ck_assert(!options->help);
    ck_assert(!options->version);
    ck_assert_int_eq(options->timeout_ms, 10000);
    ck_assert_int_eq(options->connect_timeout_ms, 3000);
    ck_assert_int_eq(options->line_timeout_ms, 60000);
    ck_assert_int_eq(options->idle_timeout_ms, 0);
    ck_assert_int_eq(options->max_connections, 0);
    ck_assert_int_eq(options->max_fetches, 0);
    ck_assert_int_eq(options->max_line, 65536);
    ck_assert_int_eq(options->max_body, 1048576);
    ck_assert_int_eq(options->stack_kib, 128);
}

START_TEST(test_defaults_are_those_that_are_documented)
{
    struct options options;

    ck_assert(parse(&options, (const char *[MAX_WORDS]){NULL}));
    expect_defaults(&options);
    ck_assert_str_eq(take_written(), "");
}
END_TEST

/* The end of the options, and nothing behind it. */
START_TEST(test_two_dashes_alone_change_nothing)
{
    struct options options;

    ck_assert(parse(&options, (const char *[MAX_WORDS]){"--"}));
    expect_defaults(&options);
}
END_TEST

START_TEST(test_each_call_starts_from_the_defaults)
{
    struct options options;

    ck_assert(
        parse(&options, (const char *[MAX_WORDS]){"-ev", "--max-line", "5"}));
    ck_assert_int_eq(options.max_line, 5);
    ck_assert(parse(&options, (const char *[MAX_WORDS]){NULL}));
    expect_defaults(&options);
    ck_assert(!parse(&options, (const char *[MAX_WORDS]){"-e", "more", "-v"}));
    ck_assert(parse(&options, (const char *[MAX_WORDS]){NULL}));
    expect_defaults(&options);
}
END_TEST

static const struct {
    const char *word;
    const char *letter; /* or NULL */
    size_t member;
} flags[] = {
    {"--echo", "-e", MEMBER(echo)},
    {"--no-keepalive", NULL, MEMBER(no_keepalive)},
    {"--verbose", "-v", MEMBER(verbose)},
    {"--help", "-h", MEMBER(help)},
    {"--version", "-V", MEMBER(version)},
};

START_TEST(test_flag_sets_what_it_names_and_nothing_else)
{
    const char *const words[] = {flags[_i].word, flags[_i].letter};

    for (int i = 0; i < COUNT(words) && words[i] != NULL; i++) {
        struct options options;
        bool *member = (bool *)((char *)&options + flags[_i].member);
        ck_assert(parse(&options, (const char *[MAX_WORDS]){words[i]}));
        ck_assert(*member);
        *member = false;
        expect_defaults(&options);
    }
}
END_TEST

static const struct {
    const char *words[MAX_WORDS];
    size_t member;
    const char *value;
} texts[] = {
    {{"--listen", "[::1]:0"}, MEMBER(listen), "[::1]:0"},
    {{"--listen=:65535"}, MEMBER(listen), ":65535"},
    {{"-l", "localhost:80"}, MEMBER(listen), "localhost:80"},
    {{"-llocalhost:80"}, MEMBER(listen), "localhost:80"},
    {{"--upstream", "http://u:p@x/"}, MEMBER(upstream), "http://u:p@x/"},
    {{"--upstream="}, MEMBER(upstream), ""},
    {{"-u", "-v"}, MEMBER(upstream), "-v"},
    {{"-uhttp://x/"}, MEMBER(upstream), "http://x/"},
    {{"-evuhttp://x/"}, MEMBER(upstream), "http://x/"},
    {{"--cacert", "ca.pem"}, MEMBER(cacert), "ca.pem"},
    {{"--cac=ca.pem"}, MEMBER(cacert), "ca.pem"}, /* no other begins so */
    {{"-ua", "-ub"}, MEMBER(upstream), "b"},      /* the last one counts */
};

START_TEST(test_text_is_taken_as_it_is)
{
    struct options options;

    ck_assert(parse(&options, texts[_i].words));
    ck_assert_str_eq(*(const char **)((char *)&options + texts[_i].member),
                     texts[_i].value);
    ck_assert_str_eq(take_written(), "");
}
END_TEST

/* Each number's range, with the value next to either end outside of it. */
static const struct {
    const char *option;
    size_t member;
    const char *kind;
    const char *range;
    struct {
        const char *outside; /* NULL: there is none */
        const char *inside;
        long value;
    } ends[2];
} numbers[] = {
    {"--timeout",
     MEMBER(timeout_ms),
     "number of seconds",
     "0.001 to 86400",
     {{"0.0009", "0.001", 1}, {"86400.001", "86400", 86400000}}},
    {"--connect-timeout",
     MEMBER(connect_timeout_ms),
     "number of seconds",
     "0.001 to 86400",
     {{"0", ".001", 1}, {"86401", "86400.", 86400000}}},
    {"--line-timeout",
     MEMBER(line_timeout_ms),
     "number of seconds",
     "0.001 to 86400",
     {{"0.000", "0.0010", 1}, {"99999999999999999999", "86400", 86400000}}},
    {"--idle-timeout",
     MEMBER(idle_timeout_ms),
     "number of seconds",
     "0 to 86400",
     {{NULL, "0", 0}, {"86400.1", "86400.0", 86400000}}},
    {"--max-connections",
     MEMBER(max_connections),
     "whole number",
     "1 to 1000000",
     {{"0", "1", 1}, {"1000001", "1000000", 1000000}}},
    {"--max-fetches",
     MEMBER(max_fetches),
     "whole number",
     "1 to 100000",
     {{"0", "1", 1}, {"100001", "100000", 100000}}},
    {"--max-line",
     MEMBER(max_line),
     "whole number",
     "1 to 1048576",
     {{"0", "1", 1}, {"1048577", "1048576", 1048576}}},
    {"--max-body",
     MEMBER(max_body),
     "whole number",
     "1 to 1073741824",
     {{"0", "01", 1}, {"1073741825", "1073741824", 1073741824}}},
    {"--stack-size",
     MEMBER(stack_kib),
     "whole number",
     "64 to 1048576",
     {{"63", "64", 64}, {"1048577", "1048576", 1048576}}},
};

/* Also checks what is logged about a value that is refused. */
static void expect_refused(int row, const char *value)
{
    struct options options;
    char expected[512];

    ck_assert_msg(!parse_pair(&options, numbers[row].option, value), "%s '%s'",
                  numbers[row].option, value);
    snprintf(expected, sizeof expected,
             "threadecho: %s: '%s' is not a %s from %s\n", numbers[row].option,
             value, numbers[row].kind, numbers[row].range);
    /* A line break in a value must not forge a line of the log. */
    for (char *at = expected; at[1] != '\0'; at++)
        if (iscntrl((unsigned char)*at))
            *at = '?';
    ck_assert_str_eq(take_written(), expected);
}

START_TEST(test_number_may_be_at_either_end_of_its_range)
{
    struct options options;
    char word[64];

    for (int i = 0; i < 2; i++) {
        const char *inside = numbers[_i].ends[i].inside;
        long *member = (long *)((char *)&options + numbers[_i].member);

        ck_assert(parse_pair(&options, numbers[_i].option, inside));
        ck_assert_int_eq(*member, numbers[_i].ends[i].value);
        snprintf(word, sizeof word, "%s=%s", numbers[_i].option, inside);
        ck_assert(parse(&options, (const char *[MAX_WORDS]){word}));
        ck_assert_int_eq(*member, numbers[_i].ends[i].value);
        ck_assert_str_eq(take_written(), "");
        if (numbers[_i].ends[i].outside != NULL)
            expect_refused(_i, numbers[_i].ends[i].outside);
    }
}
END_TEST

START_TEST(test_number_is_a_number_and_nothing_else)
{
    static const char *const junk[] = {
        "",     " 1",  "1 ", "+1",    "-1",   "1x",  "x",
        "0x40", "1e3", ".",  "1,",    "1..2", "inf", "nan",
        "1\n",  "\t1", "--", "1_000", "1 0",  "١",   "9.9.9"};

    for (int i = 0; i < COUNT(junk); i++)
        expect_refused(_i, junk[i]);
}
END_TEST

START_TEST(test_count_is_a_whole_number)
{
    for (int row = 0; row < COUNT(numbers); row++)
        if (strcmp(numbers[row].kind, "whole number") == 0)
            expect_refused(row, "64.0");
}
END_TEST

/* Down to the millisecond, and never down to nothing, which would be no limit
 * at all. */
START_TEST(test_seconds_become_milliseconds)
{
    static const struct {
        const char *seconds;
        long ms;
    } rows[] = {
        {"1.5", 1500}, {".25", 250},   {"2.", 2000},    {"0.1", 100},
        {"0.3", 300},  {"4.35", 4350}, {"1.001", 1001}, {"1.0001", 1001},
        {"0.0001", 1}, {"0.0", 0},     {"7", 7000},
    };
    struct options options;

    for (int i = 0; i < COUNT(rows); i++) {
        ck_assert(parse_pair(&options, "--idle-timeout", rows[i].seconds));
        ck_assert_msg(options.idle_timeout_ms == rows[i].ms, "%s s: %ld ms",
                      rows[i].seconds, options.idle_timeout_ms);
    }
}
END_TEST

/*
 * What is refused
 */

#define NOT_ADDRESS "' is not HOST:PORT with a port from 0 to 65535"

/* No user and no password may be in what is logged. */
static const struct {
    const char *words[MAX_WORDS];
    const char *message;
} mistakes[] = {
    {{"--nonsense"}, "unrecognized or ambiguous option '--nonsense'"},
    {{"--nonsense=secret"}, "unrecognized or ambiguous option '--nonsense'"},
    {{"--max"}, "unrecognized or ambiguous option '--max'"},
    {{"--ver"}, "unrecognized or ambiguous option '--ver'"},
    {{"---echo"}, "unrecognized or ambiguous option '---echo'"},
    {{"-z"}, "invalid option -- 'z'"},
    {{"-ez"}, "invalid option -- 'z'"},
    {{"-xhttp://secret:secret@h/"}, "invalid option -- 'x'"},
    {{"-:"}, "invalid option -- ':'"},
    /* A line break must not forge a line of the log. */
    {{"-\n"}, "invalid option -- '?'"},
    {{"--no\nnsense"}, "unrecognized or ambiguous option '--no?nsense'"},
    {{"more\r\n\x1b[2Jless"}, "unexpected argument 'more???[2Jless'"},
    {{"secret@a\nb"}, "unexpected argument '***@a?b'"},
    {{"--listen"}, "option '--listen' requires an argument"},
    {{"--max-line"}, "option '--max-line' requires an argument"},
    {{"-u"}, "option requires an argument -- 'u'"},
    {{"-eu"}, "option requires an argument -- 'u'"},
    {{"--echo=yes"}, "option '--echo' takes no argument"},
    {{"--no-keepalive=http://secret@h/"},
     "option '--no-keepalive' takes no argument"},
    {{"more"}, "unexpected argument 'more'"},
    {{""}, "unexpected argument ''"},
    {{"-"}, "unexpected argument '-'"},
    {{"-e", "more", "-v"}, "unexpected argument 'more'"},
    {{"--", "-e"}, "unexpected argument '-e'"},
    {{"http://secret:secret@h/"}, "unexpected argument 'http://***@h/'"},
    {{"--timeout", "http://secret:secret@h/"},
     "--timeout: 'http://***@h/' is not a number of seconds from 0.001 to "
     "86400"},
    {{"--max-line=secret@h"},
     "--max-line: '***@h' is not a whole number from 1 to 1048576"},
    {{"--listen", "http://secret:secret@h:80x"},
     "--listen: 'http://***@h:80x" NOT_ADDRESS},
    {{"--listen", ""}, "--listen: '" NOT_ADDRESS},
    {{"-l", "127.0.0.1"}, "--listen: '127.0.0.1" NOT_ADDRESS},
    {{"-l", "127.0.0.1:65536"}, "--listen: '127.0.0.1:65536" NOT_ADDRESS},
    {{"-l", "::1:80"}, "--listen: '::1:80" NOT_ADDRESS},
    /* The first mistake is the one that is reported. */
    {{"-z", "--nonsense"}, "invalid option -- 'z'"},
    {{"--nonsense", "--help"},
     "unrecognized or ambiguous option '--nonsense'"},
};

START_TEST(test_mistake_is_logged_in_one_line)
{
    struct options options;
    char expected[256];

    ck_assert(!parse(&options, mistakes[_i].words));
    snprintf(expected, sizeof expected, "threadecho: %s\n",
             mistakes[_i].message);
    const char *logged = take_written();
    ck_assert_str_eq(logged, expected);
    ck_assert_ptr_null(strstr(logged, "secret"));
}
END_TEST

/* Whatever follows is not looked at. */
START_TEST(test_help_and_version_end_the_options)
{
    static const char *const ends[] = {"--help", "-h", "--version", "-V"};
    struct options options;

    for (int i = 0; i < COUNT(ends); i++) {
        ck_assert(parse(&options, (const char *[MAX_WORDS]){
                                      "-e", ends[i], "--nonsense", "more"}));
        ck_assert(options.echo);
        ck_assert(options.help || options.version);
        ck_assert_str_eq(take_written(), "");
    }
}
END_TEST

static const struct {
    const char *text;
    const char *hidden;
} passwords[] = {
    {"", ""},
    {"@", "***@"},
    {"http://host/", "http://host/"},
    {"http://host:80/path?a=b#c", "http://host:80/path?a=b#c"},
    {"http://user@host/", "http://***@host/"},
    {"http://user:pass@host/", "http://***@host/"},
    {"HTTPS://user:pass@host/", "HTTPS://***@host/"},
    {"http://user:pa/ss@host", "http://***@host"},
    {"http://user:pa?ss#@host/x", "http://***@host/x"},
    {"http://user:p@ss@host/", "http://***@host/"},
    {"http://user:p://ss@host/", "http://***@host/"},
    {"http://:@host/", "http://***@host/"},
    {"http://user:pass@", "http://***@"},
    {"user:pass@host", "***@host"},
    {"http:/user:pass@host/", "***@host/"},
    {"http:user:pass@host/", "***@host/"},
    {"//user:pass@host/", "***@host/"},
    {"user:http://pass@host/", "***@host/"},
    {"a b://user:pass@host/", "***@host/"},
    /* No password, but who is to know? */
    {"http://host/?mail=a@b", "http://***@b"},
};

START_TEST(test_password_is_hidden)
{
    char copy[64];

    ck_assert_ptr_eq(hide_password(passwords[_i].text, copy, sizeof copy),
                     copy);
    ck_assert_str_eq(copy, passwords[_i].hidden);
    /* Also where the copy is cut. */
    for (size_t size = 1; size <= sizeof copy; size++) {
        char cut[sizeof copy];
        memset(cut, '~', sizeof cut);
        hide_password(passwords[_i].text, cut, size);
        ck_assert_uint_lt(strlen(cut), size);
        ck_assert_int_eq(strncmp(cut, copy, size - 1), 0);
        for (size_t i = size; i < sizeof cut; i++)
            ck_assert_int_eq(cut[i], '~');
    }
}
END_TEST

/*
 * What is printed
 */

/* All options, as their help begins. */
static const char *const helps[] = {
    "  -l, --listen HOST:PORT     ", "  -u, --upstream URL         ",
    "  -e, --echo                 ", "      --no-keepalive         ",
    "      --timeout SEC          ", "      --connect-timeout SEC  ",
    "      --line-timeout SEC     ", "      --idle-timeout SEC     ",
    "      --max-connections N    ", "      --max-fetches N        ",
    "      --max-line BYTES       ", "      --max-body BYTES       ",
    "      --stack-size KIB       ", "      --cacert FILE          ",
    "  -v, --verbose              ", "  -h, --help                 ",
    "  -V, --version              ",
};

/* Every option is there, once and with a text, and no other; the defaults
 * are those that hold, and nothing is wider than a terminal. */
START_TEST(test_help_lists_each_option)
{
    static const char *const defaults[] = {
        "(127.0.0.1:8080)",
        "(http://127.0.0.1:8081/arrpi.php)",
        "(10)",
        "(3)",
        "(60)",
        "(0)",
        "(65536)",
        "(1048576)",
        "(128)",
    };
    char text[8192];
    int options = 0;
    char *rest = NULL;

    ck_assert(print_help());
    snprintf(text, sizeof text, "%s", take_written());
    ck_assert_int_eq(strncmp(text, "Usage: threadecho ", 18), 0);
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    for (int i = 0; i < COUNT(defaults); i++)
        ck_assert_msg(strstr(text, defaults[i]) != NULL, "%s", defaults[i]);
    for (int i = 0; i < COUNT(helps); i++) {
        const char *at = strstr(text, helps[i]);
        ck_assert_msg(at != NULL, "%s", helps[i]);
        ck_assert_int_eq(at[-1], '\n');
        ck_assert_int_ne(at[strlen(helps[i])], ' ');
        ck_assert_int_ne(at[strlen(helps[i])], '\n');
    }
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        ck_assert_msg(strlen(line) <= 79, "%s", line);
        ck_assert_ptr_null(strchr(line, '\t'));
        options += strncmp(line + 6, "--", 2) == 0;
    }
    ck_assert_int_eq(options, COUNT(helps));
}
END_TEST

START_TEST(test_version_names_the_program_and_its_library)
{
    ck_assert(print_version("lib/1.2"));
    ck_assert_str_eq(take_written(), "threadecho 1.0.0, lib/1.2\n");
}
END_TEST

START_TEST(test_printing_fails_where_there_is_no_room)
{
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

    ck_assert_int_ge(full, 0);
    ck_assert_int_ge(dup2(full, STDOUT_FILENO), 0);
    if (_i >= 2) /* each write fails at once, and nothing is left to flush */
        ck_assert_int_eq(setvbuf(stdout, NULL, _IONBF, 0), 0);
    if (_i % 2 == 0)
        ck_assert(!print_help());
    else
        ck_assert(!print_version("lib/1.2"));
    close(full);
}
END_TEST

static Suite *options_suite(void)
{
    Suite *suite = suite_create("options");

    TCase *parsing = tcase_create("parsing");
    tcase_add_checked_fixture(parsing, capture_stderr, NULL);
    tcase_add_test(parsing, test_defaults_are_those_that_are_documented);
    tcase_add_test(parsing, test_two_dashes_alone_change_nothing);
    tcase_add_test(parsing, test_each_call_starts_from_the_defaults);
    tcase_add_loop_test(parsing, test_flag_sets_what_it_names_and_nothing_else,
                        0, COUNT(flags));
    tcase_add_loop_test(parsing, test_text_is_taken_as_it_is, 0, COUNT(texts));
    tcase_add_loop_test(parsing, test_number_may_be_at_either_end_of_its_range,
                        0, COUNT(numbers));
    tcase_add_loop_test(parsing, test_number_is_a_number_and_nothing_else, 0,
                        COUNT(numbers));
    tcase_add_test(parsing, test_count_is_a_whole_number);
    tcase_add_test(parsing, test_seconds_become_milliseconds);
    tcase_add_loop_test(parsing, test_mistake_is_logged_in_one_line, 0,
                        COUNT(mistakes));
    tcase_add_test(parsing, test_help_and_version_end_the_options);
    tcase_add_loop_test(parsing, test_password_is_hidden, 0, COUNT(passwords));
    suite_add_tcase(suite, parsing);

    TCase *printing = tcase_create("printing");
    tcase_add_checked_fixture(printing, capture_stdout, NULL);
    tcase_add_test(printing, test_help_lists_each_option);
    tcase_add_test(printing, test_version_names_the_program_and_its_library);
    tcase_add_loop_test(printing, test_printing_fails_where_there_is_no_room,
                        0, 4);
    suite_add_tcase(suite, printing);
    return suite;
}

int main(void)
{
    return run_suite(options_suite()) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
