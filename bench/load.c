/*
 * load.c - the load generator: asks a line server over many connections,
 * compares each reply byte by byte and reports exact latencies
 *
 *     build/load --connect 127.0.0.1:8080 -c 100 -d 10 --warmup 1s
 *
 * SPDX-License-Identifier: MIT
 */
#include "../lib/values.h"
#include "arguments.h"
#include "drive.h"
#include "mark.h"
#include "payload.h"
#include "samples.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SERVER "127.0.0.1:8080"

#define DEFAULT_REQUESTS 10000
#define DEFAULT_LINE_SIZE 32
#define DEFAULT_TIMEOUT 10 /* seconds */
#define MAX_CONNECTIONS 500000
#define MAX_DEPTH 4096 /* lines in flight on a connection */
#define MAX_BYTES (1 << 30)
#define MAX_SECONDS 86400
#define MAX_RATE 10000000 /* lines per second */
#define MAX_REQUESTS 1000000000

static const char usage[] =
    "Usage: load [OPTION]...\n"
    "Send lines to a server over many connections and check each reply.\n"
    "\n"
    "  -a, --connect HOST:PORT   the server (" DEFAULT_SERVER ")\n"
    "  -c, --connections N       connections, 1 to 500000 (1)\n"
    "  -n, --requests N          total lines, 1 to 1000000000 (10000)\n"
    "  -d, --duration SEC        or as many lines as fit in SEC,\n"
    "                            0.001 to 86400\n"
    "  -r, --rate N              open loop: N lines per second over all\n"
    "                            connections, 0.001 to 10000000\n"
    "      --lines-in-flight N   lines that a connection may send before\n"
    "                            their replies, 1 to 4096 (1)\n"
    "      --line-size BYTES     length of a line without its LF,\n"
    "                            16 to 1073741824 (32)\n"
    "      --reply-size BYTES    expect the line repeated or cut to BYTES,\n"
    "                            as by upstream --size (as it is)\n"
    "      --key-file FILE       expect the mark that upstream --key-file\n"
    "                            appends; FILE has 16 to 64 bytes\n"
    "      --warmup N or SECs    before measuring, send N lines, or lines\n"
    "                            for SEC seconds such as 2s (0)\n"
    "      --one-by-one          one line in flight over all connections,\n"
    "                            each in turn; -n is then one line each\n"
    "      --timeout SEC         longest wait for a connection, a reply or\n"
    "                            the close, 0.001 to 86400 (10)\n"
    "      --wait                once connected, send nothing until\n"
    "                            standard input has a line or ends\n"
    "      --hold                afterwards stay connected until standard\n"
    "                            input has a line or ends\n"
    "      --samples FILE        write every latency to FILE\n"
    "      --json FILE           write the figures to FILE; with - they\n"
    "                            replace the report on standard output\n"
    "  -h, --help                print this and exit\n"
    "  -V, --version             print the version and exit\n"
    "\n"
    "Closed loop: a connection sends its next line when it has a reply, so\n"
    "a slow server gets fewer lines. A timed warm-up starts when each\n"
    "connection has had one line and its reply; standard error says when.\n"
    "\n"
    "Open loop (-r): line i is due at i/rate on connection i modulo N,\n"
    "however slow the replies, and its latency counts from then. A server\n"
    "that stalls for a second shows that second in each latency it caused.\n"
    "\n"
    "With -d, latencies are those of lines sent within SEC, and requests\n"
    "per second are replies received within SEC. A closed loop keeps\n"
    "sending, unmeasured, until the last measured line has its reply: with\n"
    "fewer lines in flight it would have it sooner. With -n, both cover all\n"
    "lines. A percentile is always a sample (nearest rank).\n"
    "\n"
    "By Little's law, throughput x mean latency is the number of lines in\n"
    "flight. 'concurrency' is this product divided by connections x lines\n"
    "in flight; a closed loop that runs long enough has 1.00.\n"
    "\n"
    "A samples file has a text line for each right reply since measuring\n"
    "started: start in seconds, latency in microseconds, connection, and 1\n"
    "if the line was measured or 0.\n"
    "\n"
    "A line is CCCCCC-SSSSSSSSS (connection, number) and letters. With a\n"
    "key, 16 of these follow from it: nobody can fetch a line before it is\n"
    "sent.\n"
    "\n"
    "A run fails by these classes, and by each reason of an error reply:\n"
    "\n"
    "  wrong         the reply answers no line\n"
    "  unmarked      the line came back without the upstream's mark for it\n"
    "  prefix        the reply was cut short\n"
    "  mixed_up      the reply belongs to another connection\n"
    "  reordered     the reply came after the reply to a later line\n"
    "  dropped       no reply, though a later line had one\n"
    "  surplus       a second reply to a line, or a reply to none\n"
    "  closed_early  the server closed the connection first\n"
    "  timeout       no reply in time; the connection was dropped\n"
    "  connect       no connection\n"
    "  not_closed    the connection outlived our half-close\n"
    "  unsent        the line was due but never sent\n"
    "\n"
    "More than 14000 connections to loopback come from 127.0.0.2 and on.\n"
    "\n"
    "Exit status: 0 each reply was right, 1 one was not or load could not\n"
    "run, 2 bad usage.\n";

static const char *const failure_names[FAILURES] = {
    [FAILED_WRONG] = "wrong",           [FAILED_UNMARKED] = "unmarked",
    [FAILED_PREFIX] = "prefix",         [FAILED_MIXED_UP] = "mixed_up",
    [FAILED_REORDERED] = "reordered",   [FAILED_DROPPED] = "dropped",
    [FAILED_SURPLUS] = "surplus",       [FAILED_CLOSED_EARLY] = "closed_early",
    [FAILED_TIMEOUT] = "timeout",       [FAILED_CONNECT] = "connect",
    [FAILED_NOT_CLOSED] = "not_closed", [FAILED_UNSENT] = "unsent",
};

struct load_options {
    struct plan plan;
    const char *samples;
    const char *json;
};

/* What follows from an outcome, in the units of the report. */
struct figures {
    struct latency latency;
    double concurrency; /* throughput x mean latency / lines in flight */
    double cpu_us;      /* CPU time of this process per request */
    double late_mean_us;
    bool right; /* nothing failed */
};

/* Reads a number of lines or, with an s at its end, of seconds. */
static void warmup_option(struct plan *plan, const char *text)
{
    char problem[BAD_VALUE_SIZE];
    char seconds[32];
    size_t len = strlen(text);
    plan->warmup_requests = 0;
    plan->warmup_seconds = 0;
    if (len > 1 && len <= sizeof seconds && text[len - 1] == 's') {
        memcpy(seconds, text, len - 1);
        seconds[len - 1] = '\0';
        if (!parse_decimal(seconds, 0, MAX_SECONDS, &plan->warmup_seconds))
            exit_bad_usage("load", "--warmup: %s",
                           describe_bad_value(problem, text,
                                              "number of seconds", 0,
                                              MAX_SECONDS));
    } else {
        plan->warmup_requests =
            whole_argument("load", "--warmup", text, 0, MAX_REQUESTS);
    }
}

/* Completes the plan. Exits with 2 if options contradict each other. */
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

/* Reads the command line. Exits with 0 after --help, with 2 if it is wrong. */
static struct load_options parse_load_options(int argc, char **argv)
{
    enum {
        OPTION_LINES_IN_FLIGHT = 256,
        OPTION_LINE_SIZE,
        OPTION_REPLY_SIZE,
        OPTION_KEY_FILE,
        OPTION_WARMUP,
        OPTION_ONE_BY_ONE,
        OPTION_TIMEOUT,
        OPTION_WAIT,
        OPTION_HOLD,
        OPTION_SAMPLES,
        OPTION_JSON,
    };
    static const struct option long_options[] = {
        {"connect", required_argument, NULL, 'a'},
        {"connections", required_argument, NULL, 'c'},
        {"requests", required_argument, NULL, 'n'},
        {"duration", required_argument, NULL, 'd'},
        {"rate", required_argument, NULL, 'r'},
        {"lines-in-flight", required_argument, NULL, OPTION_LINES_IN_FLIGHT},
        {"line-size", required_argument, NULL, OPTION_LINE_SIZE},
        {"reply-size", required_argument, NULL, OPTION_REPLY_SIZE},
        {"key-file", required_argument, NULL, OPTION_KEY_FILE},
        {"warmup", required_argument, NULL, OPTION_WARMUP},
        {"one-by-one", no_argument, NULL, OPTION_ONE_BY_ONE},
        {"timeout", required_argument, NULL, OPTION_TIMEOUT},
        {"wait", no_argument, NULL, OPTION_WAIT},
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
        option = next_option("load", argc, argv, "a:c:n:d:r:hV", long_options);
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
        case OPTION_KEY_FILE:
            plan->key = mark_key_argument("load", "--key-file", optarg);
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
        case OPTION_WAIT:
            plan->wait = true;
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
            exit_printing("load", usage);
        case 'V':
            exit_printing("load", "load (threadecho) " VERSION "\n");
        }
    }
    if (optind < argc)
        exit_bad_usage("load", "unexpected argument '%s'", argv[optind]);
    complete_plan(plan, address, sized);
    return options;
}

/* Returns how many lines a closed loop keeps in flight. */
static double lines_in_flight(const struct plan *plan)
{
    return plan->one_by_one ? 1 : (double)plan->connections * plan->depth;
}

/* Computes *figures. Returns false, with a message, if memory is short. */
static bool summarize(const struct plan *plan, const struct outcome *outcome,
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

/* Writes text with each byte that is not printable ASCII as a ?. */
static void print_plain(FILE *file, const char *text)
{
    for (; *text != '\0'; text++)
        (void)fputc(*text >= ' ' && *text <= '~' ? *text : '?', file);
}

/* Writes the figures for a person. */
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
            printf("FAILED      %s %" PRIu64 "\n", failure_names[i],
                   outcome->failures[i]);
    for (size_t i = 0; i < outcome->reason_count; i++) {
        printf("FAILED      error: ");
        print_plain(stdout, outcome->reasons[i].text);
        printf(" %" PRIu64 "\n", outcome->reasons[i].count);
    }
}

/* Writes text as a JSON string, bytes that are not ASCII as Latin-1. */
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

/* Writes the figures as one JSON object. ferror(file) tells of errors. */
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
            "  \"fastest_us\": %.3f,\n"
            "  \"concurrency\": %.6f,\n"
            "  \"cpu_user\": %.6f,\n"
            "  \"cpu_sys\": %.6f,\n"
            "  \"cpu_us_per_request\": %.3f,\n"
            "  \"late_us\": {\"mean\": %.3f, \"max\": %.3f},\n",
            us(outcome->fastest_ns), figures->concurrency, outcome->cpu_user,
            outcome->cpu_sys, figures->cpu_us, figures->late_mean_us,
            outcome->late_max * 1e6);
    fprintf(file,
            "  \"connected\": %" PRIu32 ",\n"
            "  \"lines_sent\": %" PRIu64 ",\n"
            "  \"text_bytes\": %" PRIu64 ",\n"
            "  \"replies\": %" PRIu64 ",\n"
            "  \"right_replies\": %" PRIu64 ",\n"
            "  \"error_replies\": %" PRIu64 ",\n"
            "  \"error_reasons\": {",
            outcome->connected, outcome->sent, outcome->sent * plan->line_size,
            outcome->replies, outcome->right, outcome->error_replies);
    for (size_t i = 0; i < outcome->reason_count; i++) {
        fputs(i > 0 ? ", " : "", file);
        write_json_string(file, outcome->reasons[i].text);
        fprintf(file, ": %" PRIu64, outcome->reasons[i].count);
    }
    fputs("},\n  \"failures\": {", file);
    for (int i = 0; i < FAILURES; i++)
        fprintf(file, "%s\"%s\": %" PRIu64, i > 0 ? ", " : "",
                failure_names[i], outcome->failures[i]);
    fprintf(file, "},\n  \"right\": %s\n}\n",
            figures->right ? "true" : "false");
}

/* Opens a file to write to. Returns NULL, with a message, on failure. */
static FILE *open_output(const char *path)
{
    FILE *file = fopen(path, "w");
    if (file == NULL)
        fprintf(stderr, "load: cannot write to %s: %s\n", path,
                strerror(errno));
    return file;
}

static bool same(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

/* Puts the load on the server and reports. Closes samples. Returns the exit
 * status. */
static int load(const struct load_options *options, FILE *samples, FILE *json)
{
    struct outcome outcome;
    struct figures figures;
    bool done = drive(&options->plan, &outcome) &&
                summarize(&options->plan, &outcome, &figures);
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
    int error = 0;
    if (done && samples != NULL && !samples_write(&outcome.samples, samples))
        error = errno;
    samples_free(&outcome.samples);
    if (samples != NULL &&
        !close_output("load", samples, options->samples, error))
        return 1;
    return done && figures.right ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct load_options options = parse_load_options(argc, argv);
    FILE *samples = NULL;
    FILE *json = NULL;

    /* Before the run: an hour of it must not end at a wrong file name. */
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
    if (json != NULL && json != stdout &&
        !close_output("load", json, options.json, 0))
        status = 1;
    if (!close_stdout("load"))
        status = 1;
    return status;
}
