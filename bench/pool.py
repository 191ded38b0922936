#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The documents' own experiment in Python: sleeps over a pool of workers.

    bench/pool.py threads --workers 100
    bench/pool.py gevent --workers 100

The same experiment as build/pool, with the same columns and, where they make
sense here, the same options: tasks that sleep, handed to N workers through a
queue. The pool is the documents': a queue of bounded length, and workers that
take a task, run it and mark it done.
"""

import argparse
import gc
import json
import math
import resource
import sys
import time


def number(low, high, kind=float):
    """Return an argument type: a number from low to high."""
    def parse(text):
        if not set(text) <= set("0123456789" if kind is int
                                else "0123456789."):
            raise argparse.ArgumentTypeError(f"{text}: not a number")
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text}: not from {low} to {high}")
        return value
    return parse


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Run sleeping tasks over a pool and print what it cost.",
        allow_abbrev=False)
    parser.add_argument("model", choices=("threads", "gevent"))
    parser.add_argument("-w", "--workers", type=number(1, 32000, int),
                        default=100, metavar="N")
    parser.add_argument("-n", "--tasks", type=number(1, 10000000, int),
                        default=10000, metavar="N")
    parser.add_argument("-s", "--sleep", type=number(0, 60000), default=5.0,
                        metavar="MS")
    parser.add_argument("-q", "--queue", choices=("bounded", "unbounded"),
                        default="bounded",
                        help="bounded: put() blocks while N tasks are queued")
    parser.add_argument("--span", choices=("tasks", "all"), default="tasks",
                        help="tasks: start the clock when the workers wait; "
                        "all: start it before they exist")
    parser.add_argument("-j", "--json", action="store_true")
    parser.add_argument("--samples", metavar="FILE")
    return parser.parse_args()


class ThreadPool:
    """Python threads around queue.Queue."""

    def __init__(self):
        import queue
        import threading
        self.queue_class = queue.Queue
        self.sleep = time.sleep
        self.thread_class = threading.Thread

    def start(self, function):
        thread = self.thread_class(target=function)
        thread.start()
        return thread

    def settle(self):
        """Thread.start() has already waited for each to run."""

    def end(self, workers):
        for worker in workers:
            worker.join()


class GreenletPool:
    """Greenlets around gevent.queue.JoinableQueue."""

    def __init__(self):
        import gevent
        import gevent.queue
        self.gevent = gevent
        self.queue_class = gevent.queue.JoinableQueue
        self.sleep = gevent.sleep
        gevent.sleep(0.001)  # creates the hub and its loop

    def start(self, function):
        return self.gevent.spawn(function)

    def settle(self):
        """Let each greenlet run up to its first get()."""
        self.gevent.sleep(0)

    def end(self, workers):
        self.gevent.joinall(workers)


def run(args, pool):
    """Run the tasks once; return times, resources and samples as a dict."""
    samples = [(0, 0)] * args.tasks
    runs = [0] * args.tasks
    seconds = args.sleep / 1000
    sleep = pool.sleep
    clock = time.monotonic_ns
    whole = args.span == "all"
    # a bound would block while the tasks are put before any worker exists
    bounded = args.queue == "bounded" and not whole
    tasks = pool.queue_class(args.workers) if bounded else pool.queue_class()

    def work():
        while True:
            task = tasks.get()
            if task is None:
                return
            started = clock()
            sleep(seconds)
            samples[task] = (started, clock())
            runs[task] += 1
            tasks.task_done()

    if whole:
        for task in range(args.tasks):
            tasks.put(task)
    before = resource.getrusage(resource.RUSAGE_SELF)
    begin = clock()
    workers = [pool.start(work) for _ in range(args.workers)]
    if not whole:
        pool.settle()
        before = resource.getrusage(resource.RUSAGE_SELF)
    created = clock()
    if not whole:
        for task in range(args.tasks):
            tasks.put(task)
    tasks.join()
    end = clock()
    after = resource.getrusage(resource.RUSAGE_SELF)
    for _ in workers:
        tasks.put(None)
    pool.end(workers)
    return {"samples": samples, "runs": runs,
            "create_ms": (created - begin) / 1e6,
            "total_ms": (end - (begin if whole else created)) / 1e6,
            "before": before, "after": after}


def percentile(ordered, share):
    """Return the nearest-rank percentile of sorted samples."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def columns(args, result):
    """Return the row to print, by column name."""
    ideal_ms = args.sleep * args.tasks / args.workers
    before, after = result["before"], result["after"]
    sleep_ns = round(args.sleep * 1e6)
    late = sorted((ended - started - sleep_ns) / 1000
                  for started, ended in result["samples"])
    return {
        "model": args.model,
        "queue": args.queue if args.span == "tasks" else "unbounded",
        "span": args.span,
        "policy": "other",
        "place": "free",
        "workers": args.workers,
        "tasks": args.tasks,
        "sleep_ms": round(args.sleep, 3),
        "ideal_ms": round(ideal_ms, 3),
        "total_ms": round(result["total_ms"], 3),
        "overhead": round(result["total_ms"] / ideal_ms, 4) if ideal_ms else 0,
        "create_ms": round(result["create_ms"], 3),
        "cpu_user_ms": round((after.ru_utime - before.ru_utime) * 1e3, 3),
        "cpu_system_ms": round((after.ru_stime - before.ru_stime) * 1e3, 3),
        "voluntary_switches": after.ru_nvcsw - before.ru_nvcsw,
        "involuntary_switches": after.ru_nivcsw - before.ru_nivcsw,
        "late_min_us": round(late[0], 1),
        "late_mean_us": round(sum(late) / len(late), 1),
        "late_p50_us": round(percentile(late, 0.50), 1),
        "late_p90_us": round(percentile(late, 0.90), 1),
        "late_p99_us": round(percentile(late, 0.99), 1),
        "late_p999_us": round(percentile(late, 0.999), 1),
        "late_max_us": round(late[-1], 1),
        "early_tasks": sum(value < 0 for value in late),
        "tasks_not_run_once": sum(count != 1 for count in result["runs"]),
    }


def write_samples(path, args, samples):
    sleep_ns = round(args.sleep * 1e6)
    with open(path, "w", encoding="ascii") as file:
        file.write("task\tstarted_ns\tended_ns\tlate_ns\n")
        for task, (started, ended) in enumerate(samples):
            file.write(f"{task}\t{started}\t{ended}\t"
                       f"{ended - started - sleep_ns}\n")


def main():
    args = parse_arguments()
    try:
        pool = ThreadPool() if args.model == "threads" else GreenletPool()
    except ImportError as error:
        sys.exit(f"pool.py: {error}: python3-gevent is not installed")
    gc.disable()  # no collection while the clock runs; there are no cycles
    result = run(args, pool)
    row = columns(args, result)
    if args.samples:
        try:
            write_samples(args.samples, args, result["samples"])
        except OSError as error:
            sys.exit(f"pool.py: --samples {args.samples}: {error.strerror}")
    if args.json:
        print(json.dumps(row))
    else:
        print("\t".join(row))
        print("\t".join(str(value) for value in row.values()))
    if row["early_tasks"]:
        print(f"pool.py: {row['early_tasks']} tasks ended early",
              file=sys.stderr)
    return 1 if row["early_tasks"] or row["tasks_not_run_once"] else 0


if __name__ == "__main__":
    sys.exit(main())
