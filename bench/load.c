// SPDX-License-Identifier: MIT
/*
 * The load generator: it asks a line server over many connections, compares
 * each reply byte by byte and reports exact latencies. Run it as
 *     build/load --connect 127.0.0.1:8080 -c 100 -d 10 --warmup 1s
 */
#include "../lib/values.h"
#include "arguments.h"
#include "drive.h"
#include "payload.h"
#include "samples.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SERVER "127.0.0.1:8080"

enum {
    DEFAULT_REQUESTS = 10000,
    DEFAULT_LINE_SIZE = 32,
    DEFAULT_TIMEOUT = 10,
    MAX_CONNECTIONS = 500000,
    MAX_DEPTH = 4096,
    MAX_BYTES = 1 << 30,
    MAX_SECONDS = 86400,
    MAX_RATE = 10000000,
};

static const uint64_t MAX_REQUESTS = 1000000000;

static const char USAGE[] =
    "Usage: load [OPTION]...\n"
    "Send lines to a server over many connections and check each reply.\n"
    "\n"
    "  -a, --connect HOST:PORT   the server (" DEFAULT_SERVER ")\n"
    "  -c, --connections N       connections, 1 to 500000 (1)\n"
    "  -n, --requests N          lines in all, 1 to 1000000000 (10000)\n"
    "  -d, --duration SEC        or as many as fit in SEC, 0.001 to 86400\n"
    "  -r, --rate N              open loop: so many lines per second in all,\n"
    "                            0.001 to 10000000\n"
    "      --lines-in-flight N   lines that a connection sends before it has\n"
    "                            a reply, 1 to 4096 (1)\n"
    "      --line-size BYTES     without the LF, 16 to 1073741824 (32)\n"
    "      --reply-size BYTES    the reply is the line repeated or cut to\n"
    "                            that, as with upstream --size (as it is)\n"
    "      --warmup N or SECs    so many lines, or seconds (2s), come first\n"
    "                            and are not counted (0); closed loop: the\n"
    "                            seconds begin when each connection has had\n"
    "                            one line and its reply\n"
    "      --one-by-one          one line at a time in all, from connection\n"
    "                            to connection; -n is then one for each\n"
    "      --timeout SEC         for a connection, a reply and the close,\n"
    "                            0.001 to 86400 (10)\n"
    "      --hold                afterwards stay connected until there is a\n"
    "                            line, or the end, on standard input\n"
    "      --samples FILE        write every latency there\n"
    "      --json FILE           write the figures there; -: standard "
    "output,\n"
    "                            which then has nothing else\n"
    "  -h, --help                print this and exit\n"
    "  -V, --version             print the version and exit\n"
    "\n"
    "Closed loop: each connection sends its next line when it has a reply, "
    "so\n"
    "a slow server is asked less. Open loop (-r): line i is due at i/rate "
    "and\n"
    "on connection i modulo N, whether replies came or not, and its latency\n"
    "counts from then: a server that stalls for a second has a second in "
    "each\n"
    "of the latencies that it caused.\n"
    "\n"
    "With -d, latencies are of lines sent within the time, the requests per\n"
    "second of replies within it; a closed loop goes on, unmeasured, until "
    "the\n"
    "last of those lines has its reply, as fewer lines would be answered "
    "sooner.\n"
    "With -n both are of all lines. Percentiles are samples (nearest rank), "
    "none\n"
    "is estimated. Throughput x mean latency is the number of lines in "
    "flight\n"
    "(Little's law): 'concurrency' puts it in proportion to connections x "
    "lines\n"
    "in flight, and a closed loop that ran long enough has 1.00 there. A "
    "samples\n"
    "file has one line of text for each right reply since the measured time\n"
    "began: start in seconds from there, latency in microseconds, "
    "connection,\n"
    "and 1 for a measured line or 0.\n"
    "\n"
    "Lines are CCCCCC-SSSSSSSSS (connection, number) and letters. A run "
    "fails\n"
    "by class: wrong (no line's reply), prefix (cut short), mixed_up "
    "(another\n"
    "connection's), reordered (after a later line's), dropped (never, though\n"
    "a later line's came), surplus (to no line, or again), closed_early,\n"
    "timeout (the connection is then given up), connect, not_closed (after "
    "we\n"
    "half-closed), unsent (never due to be sent in time) and error replies\n"
    "by their reason. More than 20000 connections come from 127.0.0.2 and "
    "on.\n"
    "\n"
    "Exit status: 0 each reply was right, 1 not so or it could not run, 2 "
    "bad\n"
    "usage.\n";

static const char *const FAILURE_NAMES[FAILURES] = {
    [FAILED_WRONG] = "wrong",
    [FAILED_PREFIX] = "prefix",
    [FAILED_MIXED_UP] = "mixed_up",
    [FAILED_REORDERED] = "reordered",
    [FAILED_DROPPED] = "dropped",
    [FAILED_SURPLUS] = "surplus",
    [FAILED_CLOSED_EARLY] = "closed_early",
    [FAILED_TIMEOUT] = "timeout",
    [FAILED_CONNECT] = "connect",
    [FAILED_NOT_CLOSED] = "not_closed",
    [FAILED_UNSENT] = "unsent",
};

struct load_options {
    struct plan plan;
    const char *samples;
    const char *json;
};

/* The figures that follow from an outcome, in the units of the report. */
struct figures {
    struct latency latency;
    double concurrency; /* throughput x mean latency, per line in flight */
    double cpu_us;      /* of this process, per request */
    double late_mean_us;
    bool right; /* nothing failed */
};

/* Read a number of lines or, with an s at its end, of seconds. */
static void warmup_option(struct plan *plan, const char *text)
{
    char seconds[32];
    size_t len = strlen(text);
    plan->warmup_requests = 0;
    plan->warmup_seconds = 0;
    if (len > 1 && len <= sizeof seconds && text[len - 1] == 's') {
        memcpy(seconds, text, len - 1);
        seconds[len - 1] = '\0';
        plan->warmup_seconds = decimal_argument(
            "load", "--warmup", seconds, "number of seconds", 0, MAX_SECONDS);
    } else {
        plan->warmup_requests =
            whole_argument("load", "--warmup", text, 0, MAX_REQUESTS);
    }
}

/* Fill in what the options leave open; exit with 2 where they contradict. */
static void complete_plan(struct plan *plan, const char *address, bool sized)
{
    plan->server = address_argument("load", "--connect", address);
    if (plan->requests > 0 && plan->seconds > 0)
        exit_bad_usage("load", "--requests and --duration exclude each other");
    if (plan->one_by_one && (plan->rate > 0 || plan->depth > 1))
        exit_bad_usage("load", "--one-by-one goes with neither --rate nor "
                               "--lines-in-flight");
    if (plan->requests == 0 && plan->seconds <= 0)
        plan->requests =
            plan->one_by_one ? plan->connections : DEFAULT_REQUESTS;
    if (!sized)
        plan->reply_size = plan->line_size;
}

/* Read the command line, or exit: with 0 after --help, with 2 if wrong. */
static struct load_options parse_load_options(int argc, char **argv)
{
    enum {
        OPTION_LINES_IN_FLIGHT = 256,
        OPTION_LINE_SIZE,
        OPTION_REPLY_SIZE,
        OPTION_WARMUP,
        OPTION_ONE_BY_ONE,
        OPTION_TIMEOUT,
        OPTION_HOLD,
        OPTION_SAMPLES,
        OPTION_JSON,
    };
    static const struct option LONG_OPTIONS[] = {
        {"connect", required_argument, NULL, 'a'},
        {"connections", required_argument, NULL, 'c'},
        {"requests", required_argument, NULL, 'n'},
        {"duration", required_argument, NULL, 'd'},
        {"rate", required_argument, NULL, 'r'},
        {"lines-in-flight", required_argument, NULL, OPTION_LINES_IN_FLIGHT},
        {"line-size", required_argument, NULL, OPTION_LINE_SIZE},
        {"reply-size", required_argument, NULL, OPTION_REPLY_SIZE},
        {"warmup", required_argument, NULL, OPTION_WARMUP},
        {"one-by-one", no_argument, NULL, OPTION_ONE_BY_ONE},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {"hold", no_argument, NULL, OPTION_HOLD},
        {"samples", required_argument, NULL, OPTION_SAMPLES},
        {"json", required_argument, NULL, OPTION_JSON},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    struct load_options options = {
        .plan = {.connections = 1,
                 .depth = 1,
                 .timeout = DEFAULT_TIMEOUT,
                 .line_size = DEFAULT_LINE_SIZE},
    };
    struct plan *plan = &options.plan;
    const char *address = DEFAULT_SERVER;
    bool sized = false;
    int option = 0;

    while (option != -1) {
        option = getopt_long(argc, argv, "a:c:n:d:r:hV", LONG_OPTIONS, NULL);
        switch (option) {
        case -1:
            break;
        case 'a':
            address = optarg;
            break;
        case 'c':
            plan->connections = (uint32_t)whole_argument(
                "load", "--connections", optarg, 1, MAX_CONNECTIONS);
            break;
        case 'n':
            plan->requests =
                whole_argument("load", "--requests", optarg, 1, MAX_REQUESTS);
            break;
        case 'd':
            plan->seconds =
                decimal_argument("load", "--duration", optarg,
                                 "number of seconds", 0.001, MAX_SECONDS);
            break;
        case 'r':
            plan->rate = decimal_argument("load", "--rate", optarg,
                                          "number of lines", 0.001, MAX_RATE);
            break;
        case OPTION_LINES_IN_FLIGHT:
            plan->depth = (uint32_t)whole_argument("load", "--lines-in-flight",
                                                   optarg, 1, MAX_DEPTH);
            break;
        case OPTION_LINE_SIZE:
            plan->line_size = whole_argument("load", "--line-size", optarg,
                                             LINE_TAG, MAX_BYTES);
            break;
        case OPTION_REPLY_SIZE:
            plan->reply_size =
                whole_argument("load", "--reply-size", optarg, 0, MAX_BYTES);
            sized = true;
            break;
        case OPTION_WARMUP:
            warmup_option(plan, optarg);
            break;
        case OPTION_ONE_BY_ONE:
            plan->one_by_one = true;
            break;
        case OPTION_TIMEOUT:
            plan->timeout =
                decimal_argument("load", "--timeout", optarg,
                                 "number of seconds", 0.001, MAX_SECONDS);
            break;
        case OPTION_HOLD:
            plan->hold = true;
            break;
        case OPTION_SAMPLES:
            options.samples = optarg;
            break;
        case OPTION_JSON:
            options.json = optarg;
            break;
        case 'h':
            exit_printing("load", USAGE);
        case 'V':
            exit_printing("load", "load (threadecho) " VERSION "\n");
        default:
            fputs("Try load --help.\n", stderr);
            exit(2);
        }
    }
    if (optind < argc)
        exit_bad_usage("load", "unexpected argument '%s'", argv[optind]);
    complete_plan(plan, address, sized);
    return options;
}

/* Return how many lines are in flight when a closed loop is in full swing. */
static double lines_in_flight(const struct plan *plan)
{
    return plan->one_by_one ? 1 : (double)plan->connections * plan->depth;
}

/* Work out *figures. False when memory is short. */
static bool work_out(const struct plan *plan, const struct outcome *outcome,
                     struct figures *figures)
{
    *figures = (struct figures){.right = outcome->error_replies == 0};
    for (int i = 0; i < FAILURES; i++)
        figures->right = figures->right && outcome->failures[i] == 0;
    if (!samples_latency(&outcome->samples, &figures->latency)) {
        fputs("load: out of memory\n", stderr);
        return false;
    }
    figures->concurrency =
        outcome->rate * figures->latency.mean_ns / 1e9 / lines_in_flight(plan);
    double requests = outcome->rate * outcome->seconds;
    if (requests > 0)
        figures->cpu_us =
            (outcome->cpu_user + outcome->cpu_sys) * 1e6 / requests;
    if (outcome->on_time > 0)
        figures->late_mean_us =
            outcome->late_sum * 1e6 / (double)outcome->on_time;
    return true;
}

static double us(uint64_t ns)
{
    return (double)ns / 1e3;
}

/* Write text with nothing in it that could upset a terminal. */
static void print_plain(FILE *file, const char *text)
{
    for (; *text != '\0'; text++)
        (void)fputc(*text >= ' ' && *text <= '~' ? *text : '?', file);
}

/* Write the figures for a person to read. */
static void print_report(const struct plan *plan,
                         const struct outcome *outcome,
                         const struct figures *figures)
{
    const struct latency *latency = &figures->latency;
    printf("requests    %zu in %.3f s: %.1f per second\n",
           outcome->samples.measured, outcome->seconds, outcome->rate);
    printf("latency us  mean %.1f, p50 %.1f, p90 %.1f, p99 %.1f, "
           "p99.9 %.1f, max %.1f\n",
           latency->mean_ns / 1e3, us(latency->p50_ns), us(latency->p90_ns),
           us(latency->p99_ns), us(latency->p999_ns), us(latency->max_ns));
    printf("concurrency %.4f of %.0f lines in flight\n", figures->concurrency,
           lines_in_flight(plan));
    printf("own CPU     user %.3f s, system %.3f s: %.2f us per request\n",
           outcome->cpu_user, outcome->cpu_sys, figures->cpu_us);
    if (plan->rate > 0)
        printf("own delay   mean %.1f us, max %.1f us\n",
               figures->late_mean_us, outcome->late_max * 1e6);
    printf("in all      %" PRIu32 " connections, %" PRIu64 " lines, %" PRIu64
           " replies, %" PRIu64 " right\n",
           outcome->connected, outcome->sent, outcome->replies,
           outcome->right);
    for (int i = 0; i < FAILURES; i++)
        if (outcome->failures[i] > 0)
            printf("FAILED      %s %" PRIu64 "\n", FAILURE_NAMES[i],
                   outcome->failures[i]);
    for (size_t i = 0; i < outcome->reason_count; i++) {
        printf("FAILED      error: ");
        print_plain(stdout, outcome->reasons[i].text);
        printf(" %" PRIu64 "\n", outcome->reasons[i].count);
    }
}

/* Write text as a JSON string; bytes that are not ASCII as Latin-1. */
static void write_json_string(FILE *file, const char *text)
{
    (void)fputc('"', file);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(file, "\\%c", c);
        else if (c < ' ' || c > '~')
            fprintf(file, "\\u%04x", c);
        else
            (void)fputc(c, file);
    }
    (void)fputc('"', file);
}

/* Write the figures as one JSON object. Write errors stay in file's flag. */
static void write_json(FILE *file, const struct plan *plan,
                       const struct outcome *outcome,
                       const struct figures *figures)
{
    char address[ADDRESS_TEXT];
    const struct latency *latency = &figures->latency;
    fprintf(file, "{\n  \"server\": ");
    write_json_string(file, format_address(&plan->server, address));
    fprintf(file,
            ",\n"
            "  \"connections\": %" PRIu32 ",\n"
            "  \"lines_in_flight\": %" PRIu32 ",\n"
            "  \"line_size\": %zu,\n"
            "  \"reply_size\": %zu,\n"
            "  \"loop\": \"%s\",\n"
            "  \"offered_rate\": %.3f,\n",
            plan->connections, plan->depth, plan->line_size, plan->reply_size,
            plan->rate > 0 ? "open" : "closed", plan->rate);
    fprintf(file,
            "  \"requests\": %zu,\n"
            "  \"began_ns\": %" PRIu64 ",\n"
            "  \"seconds\": %.6f,\n"
            "  \"requests_per_second\": %.3f,\n"
            "  \"latency_us\": {\"mean\": %.3f, \"p50\": %.3f, "
            "\"p90\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f, "
            "\"max\": %.3f},\n",
            outcome->samples.measured, outcome->began_ns, outcome->seconds,
            outcome->rate, latency->mean_ns / 1e3, us(latency->p50_ns),
            us(latency->p90_ns), us(latency->p99_ns), us(latency->p999_ns),
            us(latency->max_ns));
    fprintf(file,
            "  \"concurrency\": %.6f,\n"
            "  \"cpu_user\": %.6f,\n"
            "  \"cpu_sys\": %.6f,\n"
            "  \"cpu_us_per_request\": %.3f,\n"
            "  \"late_us\": {\"mean\": %.3f, \"max\": %.3f},\n",
            figures->concurrency, outcome->cpu_user, outcome->cpu_sys,
            figures->cpu_us, figures->late_mean_us, outcome->late_max * 1e6);
    fprintf(file,
            "  \"connected\": %" PRIu32 ",\n"
            "  \"lines_sent\": %" PRIu64 ",\n"
            "  \"replies\": %" PRIu64 ",\n"
            "  \"right_replies\": %" PRIu64 ",\n"
            "  \"error_replies\": %" PRIu64 ",\n"
            "  \"error_reasons\": {",
            outcome->connected, outcome->sent, outcome->replies,
            outcome->right, outcome->error_replies);
    for (size_t i = 0; i < outcome->reason_count; i++) {
        fputs(i > 0 ? ", " : "", file);
        write_json_string(file, outcome->reasons[i].text);
        fprintf(file, ": %" PRIu64, outcome->reasons[i].count);
    }
    fputs("},\n  \"failures\": {", file);
    for (int i = 0; i < FAILURES; i++)
        fprintf(file, "%s\"%s\": %" PRIu64, i > 0 ? ", " : "",
                FAILURE_NAMES[i], outcome->failures[i]);
    fprintf(file, "},\n  \"right\": %s\n}\n",
            figures->right ? "true" : "false");
}

/* Open a file to write to. NULL, with a message, when that fails. */
static FILE *open_output(const char *path)
{
    FILE *file = fopen(path, "w");
    if (file == NULL)
        fprintf(stderr, "load: cannot write %s: %s\n", path, strerror(errno));
    return file;
}

/* Close it. False, with a message, when not everything was written. */
static bool close_output(FILE *file, const char *path)
{
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed) {
        fprintf(stderr, "load: cannot write %s: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}

static bool same(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

/* Drive the server and report. Returns the exit status. */
static int load(const struct load_options *options, FILE *samples, FILE *json)
{
    struct outcome outcome;
    struct figures figures;
    bool done = drive(&options->plan, &outcome) &&
                work_out(&options->plan, &outcome, &figures);
    if (done && outcome.connect_errno != 0) {
        char address[ADDRESS_TEXT];
        fprintf(stderr, "load: cannot connect to %s: %s\n",
                format_address(&options->plan.server, address),
                strerror(outcome.connect_errno));
    }
    if (done && json != NULL)
        write_json(json, &options->plan, &outcome, &figures);
    if (done && json != stdout)
        print_report(&options->plan, &outcome, &figures);
    if (done && samples != NULL) {
        /* An error here is still known when the file is closed. */
        (void)samples_write(&outcome.samples, samples);
    }
    samples_free(&outcome.samples);
    return done && figures.right ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct load_options options = parse_load_options(argc, argv);
    FILE *samples = NULL;
    FILE *json = NULL;

    /* Opened first: an hour's run must not end with a wrong file name. */
    if (options.samples != NULL) {
        samples = open_output(options.samples);
        if (samples == NULL)
            return 1;
    }
    if (same(options.json, "-")) {
        json = stdout;
    } else if (options.json != NULL) {
        json = open_output(options.json);
        if (json == NULL) {
            if (samples != NULL)
                (void)fclose(samples);
            return 1;
        }
    }

    int status = load(&options, samples, json);
    if (samples != NULL && !close_output(samples, options.samples))
        status = 1;
    if (json != NULL && json != stdout && !close_output(json, options.json))
        status = 1;
    if (!close_stdout("load"))
        status = 1;
    return status;
}
