# SPDX-License-Identifier: MIT
"""Makes one run: a fresh upstream, a server, the load, a row of figures."""

import bisect
import errno
import gzip
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import threading
import time

from . import processes
from .processes import Failure, Program

# The columns of runs.tsv; the name of a figure ends in its unit.
COLUMNS = (
    "run", "contender", "model", "upstream_connection", "concurrency",
    "delay_ms", "repetition", "valid", "why", "requests", "seconds",
    "throughput_per_s", "overhead_ratio", "latency_mean_us",
    "latency_p50_us", "latency_p90_us", "latency_p99_us", "latency_p999_us",
    "latency_max_us", "cpu_per_request_us", "cpu_user_per_request_us",
    "cpu_system_per_request_us", "server_cores",
    "voluntary_switches_per_request", "involuntary_switches_per_request",
    "system_calls_per_request", "memory_idle_kib", "memory_loaded_kib",
    "memory_per_connection_kib", "threads", "processes",
    "littles_law_ratio", "load_cpu_per_request_us",
    "upstream_cpu_per_request_us", "load_cores", "upstream_cores",
    "other_cores", "client_replies", "server_requests",
    "server_connections", "samples")

LITTLES_LAW = "Little's law"
LITTLES_LAW_TOLERANCE = 0.05
KIT_LIMIT_CORES = 0.9  # each part of the kit has one thread
PROBE = b"is anybody there"
START_PATIENCE = 30  # seconds; an interpreter has to load its imports


class Monitor(threading.Thread):
    """Reads the CPU clocks of all parts, several times a second."""

    def __init__(self, server, upstream):
        super().__init__(daemon=True)
        self.server = server
        self.upstream = upstream
        self.load = None
        self.readings = []  # (ns, server, upstream, load, machine)
        self.pids = []
        self.over = threading.Event()

    def run(self):
        interval = 0.1
        unchanged = 0
        for count in itertools.count():
            # Finding processes costs more than reading their clocks, so
            # look less often once they have stayed the same.
            if unchanged < 2 or count % 10 == 0:
                pids = processes.session_members(self.server)
                unchanged = unchanged + 1 if pids == self.pids else 0
                if not unchanged:
                    self.readings = []  # they were of other processes
                self.pids = pids
                interval = 0.1 if len(pids) < 50 else 0.3
            self.read()
            if self.over.wait(interval):
                return

    def read(self):
        self.readings.append((
            time.monotonic_ns(), processes.cpu_ns(self.pids),
            processes.cpu_ns([self.upstream]),
            processes.cpu_ns([self.load] if self.load else []),
            processes.machine_cpu_ns()))

    def stop(self):
        self.over.set()
        self.join()


class Settings:
    """What all runs of one measurement share."""

    def __init__(self, root, output, duration, warmup, cores):
        self.root = root
        self.output = output
        self.duration = duration
        self.warmup = warmup
        self.server_cores, self.kit_cores = cores
        self.work = os.path.join(output, "work")
        os.makedirs(self.work, exist_ok=True)
        os.makedirs(os.path.join(output, "samples"), exist_ok=True)

    def program(self, name):
        return os.path.join(self.root, "build", name)

    def log(self, name):
        path = os.path.join(self.work, name + ".log")
        with open(path, "wb"):
            return path


class Load:
    """The load generator; it holds its connections once it has measured."""

    def __init__(self, settings, port, concurrency, arguments, samples):
        command = [settings.program("load"), "--connect",
                   f"127.0.0.1:{port}", "--connections", str(concurrency),
                   "--json", "-", "--samples", samples, "--hold",
                   "--timeout", "20"] + arguments
        self.program = Program(command, settings.log("load"),
                               cores=settings.kit_cores,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        self.messages = ""

    def await_hold(self, patience, watched):
        """Wait for all replies; return False if it ends or time is up.

        The wait is cut short if one of the watched programs ends.
        """
        stream = self.program.process.stderr
        assert stream  # it is a pipe
        limit = time.monotonic() + patience
        while time.monotonic() < limit:
            ready = select.select([stream], [], [], 0.2)[0]
            if ready:
                data = os.read(stream.fileno(), 65536)
                if not data:
                    return False
                self.messages += data.decode("utf-8", "replace")
                if "holding" in self.messages:
                    return True
            if any(program.ended() for program in watched):
                # the load is about to fail: let it say how
                limit = min(limit, time.monotonic() + 2)
        return False

    def finish(self, patience=60):
        """Let it close its connections; return its figures or None."""
        process = self.program.process
        try:
            output, messages = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            self.program.stop(patience=0)
            return None
        self.messages += messages.decode("utf-8", "replace")
        status = process.returncode
        self.program.stop()
        try:
            figures = json.loads(output)
        except ValueError:
            figures = None
        if "cannot write" in self.messages:
            raise Failure(self.complaint())
        if figures is None and status not in (0, 1):
            raise Failure(f"load: {self.program.ended()}: "
                          f"{self.complaint()}")
        return figures

    def complaint(self):
        """Return its messages, except that it holds."""
        return " | ".join(line for line in self.messages.splitlines()
                          if "holding" not in line)


def start_upstream(settings, delay_ms):
    """Start a fresh upstream, without waiting until it listens."""
    return Program(
        [settings.program("upstream"), "--listen", "127.0.0.1:0", "--delay",
         f"{delay_ms:g}"], settings.log("upstream"),
        cores=settings.kit_cores)


def start_server(settings, contender, port, upstream_port):
    """Start a contender; return it, and what is wrong or None."""
    command = contender.command(port, upstream_port)
    server = Program(command, settings.log("server"),
                     cores=settings.server_cores,
                     cwd=contender.directory or settings.root)
    limit = time.monotonic() + START_PATIENCE
    while time.monotonic() < limit:
        if server.ended():
            break
        try:
            reply = processes.ask(port, PROBE)
        except OSError:
            time.sleep(0.02)
            continue
        if reply == b"echo: " + PROBE + b"\n":
            return server, None
        return server, f"wrong reply to the first line: {reply!r}"
    return server, (f"the server did not start: "
                    f"{server.ended() or 'no answer'}: {server.tail()}")


def measure(settings, plan, row):
    """Fill in the row of one planned run; problems go to row['why']."""
    upstream = start_upstream(settings, plan.delay_ms)
    server = None
    try:
        upstream_port = processes.wait_for_port(upstream, "upstream")
        port = processes.free_port()
        server, problem = start_server(settings, plan.contender, port,
                                       upstream_port)
        if problem:
            row["why"].append(problem)
            return
        drive(settings, plan, row, (server, upstream), port)
        if upstream.ended():
            raise Failure(f"the upstream {upstream.ended()} in run "
                          f"{row['run']}: {upstream.tail()}")
    finally:
        if server:
            early = server.ended()
            ending = server.stop()
            if early:
                row["why"].append(f"the server {early}: {server.tail()}")
            elif "did not" in ending:
                row["why"].append(f"the server {ending}")
            check_summary(server, row)
        upstream.stop()


def drive(settings, plan, row, programs, port):
    """Run the load against a server and record the figures."""
    server, upstream = programs
    raw = os.path.join(settings.work, "samples")
    before = processes.counters(server.pid)
    monitor = Monitor(server.pid, upstream.pid)
    load = Load(settings, port, plan.concurrency,
                ["--duration", f"{settings.duration:.3f}",
                 "--warmup", f"{settings.warmup:.3f}s"], raw)
    monitor.load = load.program.pid
    monitor.start()
    try:
        held = load.await_hold(settings.duration + settings.warmup + 60,
                               programs)
    finally:
        monitor.stop()
    after = processes.counters(server.pid)
    dead = server.ended()
    if dead:
        row["why"].append(f"the server {dead} during the run: "
                          f"{server.tail()}")
    figures = load.finish()
    if upstream.ended():
        raise Failure(f"the upstream {upstream.ended()} in run "
                      f"{row['run']}: {upstream.tail()}")
    if figures is None:
        row["why"].append(f"no figures: {load.complaint()}")
        return
    row["samples"] = keep_samples(settings, plan, row, raw, figures)
    take_figures(plan, row, figures)
    check_replies(row, figures)
    if not held or dead:
        if not row["why"]:
            row["why"].append("the load did not finish")
        return
    take_counters(plan, row, figures, before, after)
    take_window(row, raw, figures, monitor.readings, (before, after))
    check_laws(row)


def keep_samples(settings, plan, row, raw, figures):
    """Compress the samples into the output; return their name there."""
    name = (f"samples/{row['run']:04d}-{plan.contender.file_name()}-"
            f"{plan.concurrency}-{plan.delay_ms:g}ms.txt.gz")
    with open(raw, "rb") as source:
        measured = sum(line.endswith(b" 1\n") for line in source)
        if measured != figures["requests"] and figures["right"]:
            row["why"].append(f"{measured} samples of {figures['requests']} "
                              f"requests")
        source.seek(0)
        try:
            with gzip.open(os.path.join(settings.output, name), "wb",
                           compresslevel=3) as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise Failure(f"cannot write {name}: "
                          f"{os.strerror(error.errno or errno.EIO)}") \
                from error
    return name


def take_figures(plan, row, figures):
    """Record what the client saw."""
    latency = figures["latency_us"]
    throughput = figures["requests_per_second"]
    row["requests"] = figures["requests"]
    row["seconds"] = figures["seconds"]
    row["throughput_per_s"] = throughput
    fetches = "{upstream}" in plan.contender.template
    if fetches and plan.delay_ms > 0 and throughput > 0:
        row["overhead_ratio"] = (plan.concurrency /
                                 (plan.delay_ms / 1000) / throughput)
    for name, key in (("mean", "mean"), ("p50", "p50"), ("p90", "p90"),
                      ("p99", "p99"), ("p999", "p99.9"), ("max", "max")):
        row[f"latency_{name}_us"] = latency[key]
    row["littles_law_ratio"] = figures["concurrency"]
    row["load_cpu_per_request_us"] = figures["cpu_us_per_request"]
    row["load_cores"] = ((figures["cpu_user"] + figures["cpu_sys"]) /
                         max(figures["seconds"], 1e-9))
    row["client_replies"] = figures["replies"]
    row["client_connections"] = figures["connected"]
    row["slowest_us"] = latency["max"]


def take_counters(plan, row, figures, before, after):
    """Record the kernel's counts, from the idle server to the last reply."""
    replies = max(figures["replies"], 1)
    row["voluntary_switches_per_request"] = (
        (after.voluntary - before.voluntary) / replies)
    row["involuntary_switches_per_request"] = (
        (after.involuntary - before.involuntary) / replies)
    row["memory_idle_kib"] = before.memory_kib
    row["memory_loaded_kib"] = after.memory_kib
    if plan.concurrency >= 10:  # with fewer it depends on the allocator
        row["memory_per_connection_kib"] = (
            (after.memory_kib - before.memory_kib) / plan.concurrency)
    ended = after.ended_ticks - before.ended_ticks
    used = (after.user_ticks + after.system_ticks -
            before.user_ticks - before.system_ticks)
    if ended > max(1, 0.01 * used):
        row["why"].append("processes of the server ended during the run: "
                          "what they used is not counted")
    row["threads"] = after.threads
    row["processes"] = after.processes


def take_window(row, raw, figures, readings, ends):
    """Record CPU per request, between two readings in the measured time."""
    zero = figures["began_ns"]
    replies = []  # when each came, those of the warm-up included
    with open(raw, encoding="ascii") as file:
        for line in file:
            if line[0] != "#":
                start, latency, _, _ = line.split()
                row["slowest_us"] = max(row["slowest_us"], float(latency))
                replies.append(zero + float(start) * 1e9 +
                               float(latency) * 1e3)
    replies.sort()
    inside = [reading for reading in readings
              if 0 <= reading[0] - zero <= figures["seconds"] * 1e9]
    if len(inside) < 2:
        row["why"].append("too few readings of the CPU clocks")
        return
    begin, end = inside[0], inside[-1]
    requests = (bisect.bisect_right(replies, end[0]) -
                bisect.bisect_right(replies, begin[0]))
    seconds = (end[0] - begin[0]) / 1e9
    if requests == 0:
        row["why"].append("no reply between two readings")
        return
    server, upstream, load, machine = (
        (late - early) / 1e3 for early, late in zip(begin[1:], end[1:]))
    before, after = ends
    user = after.user_ticks - before.user_ticks
    system = after.system_ticks - before.system_ticks
    # the total is exact, its split is sampled by the kernel's ticks
    share = user / (user + system) if user + system else 0.5
    row["cpu_per_request_us"] = server / requests
    row["cpu_user_per_request_us"] = server / requests * share
    row["cpu_system_per_request_us"] = server / requests * (1 - share)
    row["upstream_cpu_per_request_us"] = upstream / requests
    row["server_cores"] = server / 1e6 / seconds
    row["upstream_cores"] = upstream / 1e6 / seconds
    row["other_cores"] = (machine - server - upstream -
                          load) / 1e6 / seconds


def check_replies(row, figures):
    """Check that each reply was right and none was missing."""
    for name, count in figures["failures"].items():
        if count:
            row["why"].append(f"{count} {name.replace('_', ' ')}")
    for reason, count in figures["error_reasons"].items():
        row["why"].append(f"{count} error: {reason}")
    if not figures["right"] and not row["why"]:
        row["why"].append("the load found wrong replies")
    if figures["requests"] == 0:
        row["why"].append("no request was measured")


def check_laws(row):
    """Check what holds for every sound measurement."""
    ratio = row["littles_law_ratio"]
    if abs(ratio - 1) > LITTLES_LAW_TOLERANCE:
        row["why"].append(f"{LITTLES_LAW}: throughput x mean latency is "
                          f"{ratio:.3f} of the concurrency")
    for part in ("load", "upstream"):
        cores = row.get(f"{part}_cores") or 0
        if cores > KIT_LIMIT_CORES:
            row["why"].append(f"the kit was the limit: {part} used "
                              f"{cores:.2f} of its one core")


def only_too_short(row):
    """Return whether a longer run could mend all that is wrong."""
    return bool(row["why"]) and all(why.startswith(LITTLES_LAW)
                                    for why in row["why"])


def check_summary(server, row):
    """Check that the server's counters, if it prints any, are the client's."""
    with open(server.log, "rb") as file:
        text = file.read().decode("utf-8", "replace")
    summaries = [line for line in text.splitlines()
                 if " requests=" in line and " connections=" in line]
    if not summaries:
        return
    counted = {key: int(value) for key, value in
               re.findall(r"(\w+)=(\d+)(?![\d.])", summaries[-1])}
    row["server_requests"] = counted["requests"]
    row["server_connections"] = counted["connections"]
    if row["client_replies"] is None:
        return
    # the probe was one more connection and request
    for name, mine in (("requests", row["client_replies"] + 1),
                       ("connections", row["client_connections"] + 1)):
        if counted[name] != mine:
            row["why"].append(f"the server counted {counted[name]} {name}, "
                              f"the client {mine}")
    if counted.get("errors"):
        row["why"].append(f"the server counted {counted['errors']} errors")
