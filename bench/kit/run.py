# SPDX-License-Identifier: MIT
"""Makes one run: a fresh upstream, a server, the load, a row of figures.

What is wrong with a run goes to row["why"] and does not raise. A Failure means
that the kit itself has failed: it ends the measurement.
"""

import bisect
import collections
import errno
import gzip
import hashlib
import json
import math
import os
import re
import secrets
import select
import shutil
import statistics
import subprocess
import threading
import time

from . import proc, processes, remote
from .processes import Failure, Program

# The columns of runs.tsv; the name of a figure ends in its unit.
COLUMNS = (
    "run", "contender", "entry", "model", "upstream_connection",
    "concurrency", "delay_ms", "rate_per_s", "repetition", "valid", "why",
    "disturbed", "unknown", "requests", "seconds", "throughput_per_s",
    "overhead_ratio", "fastest_us", "latency_mean_us", "latency_p50_us",
    "latency_p90_us", "latency_p99_us", "latency_p999_us", "latency_max_us",
    "cpu_per_request_us", "cpu_user_per_request_us",
    "cpu_system_per_request_us", "server_cores",
    "voluntary_switches_per_request", "involuntary_switches_per_request",
    "system_calls_per_request", "memory_idle_kib", "memory_loaded_kib",
    "memory_per_connection_kib", "memory_growth_per_request_bytes", "threads",
    "processes", "littles_law_ratio", "load_cpu_per_request_us",
    "upstream_cpu_per_request_us", "load_cores", "upstream_cores",
    "other_cores", "steal_cores", "server_host_other_cores",
    "server_host_steal_cores", "client_replies", "server_requests",
    "server_connections", "upstream_requests", "upstream_connections",
    "upstream_text_bytes", "upstream_use", "samples")

FAILURES = {
    "unmarked": "replies without the upstream's mark: what they echo was not "
                "fetched",
    "timeout": "connections dropped because a reply took too long",
    "unsent": "lines that were due but never sent",
}
LITTLES_LAW = "Little's law"
KIT_LIMIT = "the kit was the limit"
LITTLES_LAW_TOLERANCE = 0.05
LITTLES_LAW_EDGE = 0.05  # more at most, where a run has few replies in a row
KIT_LIMIT_CORES = 0.9  # each part of the kit has one thread
LATE_LIMIT = 0.05  # of the mean latency; how late an open loop may send
LATE_US = 100  # or this late, where latencies are short: a wake-up
RATE_LEAST = 0.98  # of the offered rate; below it a server falls behind
OTHER_LIMIT = 0.1  # of the cores, used by other programs
OTHER_MOST = 1.0  # cores, however many there are
STEAL_LIMIT = 0.05  # of the cores, taken by the hypervisor
TIMER_US = 20  # how much sooner than the delay a reply may come
LOAD_PATIENCE = 20.0  # seconds that a reply may take
CPU_LEAST_US = 1.0  # per request; receiving and sending alone take more
KEPT_SHARE = 0.1  # of the fetches may open a connection all the same
PROBE = b"is anybody there"
UNFETCHED = "it was not fetched"
KEY_BYTES = 32
START_PATIENCE = 30  # seconds; an interpreter has to load its imports

Reading = collections.namedtuple(
    "Reading", "ns server upstream load machine own_ns")


def mark(key, text):
    """Return the mark that the upstream adds to a text, as mark.c makes it."""
    return hashlib.blake2b(text, digest_size=16, key=key).hexdigest()[:16] \
        .encode()


class Monitor(threading.Thread):
    """Reads the CPU clocks of all parts, several times a second."""

    INTERVAL = 0.05  # seconds
    LOOK = 5  # intervals from one look for processes to the next
    REAP = 20  # intervals from one look for zombies to the next

    def __init__(self, server, upstream):
        super().__init__(daemon=True)
        self.server = server.account
        self.upstream = upstream and upstream.pid  # one of ours
        self.load = None
        self.readings = []
        self.over = threading.Event()

    def run(self):
        exact = self.server.counts_ended()
        pids = None
        count = 0
        while True:
            if not exact and count % self.LOOK == 0:
                # What ended processes have used is lost, so only the time
                # since the last change counts.
                now = self.server.pids()
                if now != pids:
                    self.readings = []
                pids = now
            self.read(pids)
            count += 1
            if count % self.REAP == 0:
                proc.reap_orphans()
            if self.over.wait(self.INTERVAL):
                return

    def read(self, pids):
        now, used = self.server.reading(pids)
        self.readings.append(Reading(
            now, used,
            proc.cpu_ns([self.upstream]) if self.upstream else None,
            proc.cpu_ns([self.load] if self.load else []), proc.machine(),
            time.process_time_ns()))

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
        self.load_patience = LOAD_PATIENCE
        self.server_cores, self.kit_cores = cores
        self.key = b""
        self.work = os.path.join(output, "work")
        os.makedirs(self.work, exist_ok=True)
        os.makedirs(os.path.join(output, "samples"), exist_ok=True)

    def new_key(self, contender):
        """Make the key of a run, which only upstream and load may know.

        A server that does not fetch can't know a mark, so there is none. An
        upstream that runs elsewhere has a key of the user's.
        """
        self.key = contender.shared_key or (
            secrets.token_bytes(KEY_BYTES) if contender.fetches else b"")

    def key_pipe(self):
        """Return a pipe that has the key; the caller closes it."""
        source, target = os.pipe()
        os.write(target, self.key)
        os.close(target)
        return source

    def program(self, name):
        return os.path.join(self.root, "build", name)

    def log(self, name):
        path = os.path.join(self.work, name + ".log")
        with open(path, "wb"):
            return path


def start_with_key(settings, command, log, **arguments):
    """Start a part of the kit that reads the key, if there is one, from a
    pipe."""
    if not settings.key:
        return Program(command, log, cores=settings.kit_cores, **arguments)
    pipe = settings.key_pipe()
    try:
        return Program([*command, "--key-file", f"/dev/fd/{pipe}"], log,
                       cores=settings.kit_cores, pass_fds=(pipe,),
                       **arguments)
    finally:
        os.close(pipe)


class Load:
    """The load generator; it holds its connections once it has measured."""

    def __init__(self, settings, port, concurrency, arguments, samples,
                 host="127.0.0.1"):
        command = [settings.program("load"), "--connect",
                   processes.join_address(host, port),
                   "--connections", str(concurrency),
                   "--json", "-", "--samples", samples, "--hold",
                   "--timeout", f"{settings.load_patience:g}"] + arguments
        self.program = start_with_key(
            settings, command, settings.log("load"), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.messages = ""

    def await_hold(self, patience, watched, answered=lambda: None):
        """Wait for all replies; return False if it ends or time is up.

        patience is in seconds. Call answered() once each connection has had a
        reply. The wait is cut short if one of the watched programs ends.
        """
        stream = self.program.process.stderr
        assert stream  # it is a pipe
        limit = time.monotonic() + patience
        reported = False
        while time.monotonic() < limit:
            ready = select.select([stream], [], [], 0.2)[0]
            if ready:
                data = os.read(stream.fileno(), 65536)
                if not data:
                    return False
                self.messages += data.decode("utf-8", "replace")
                if not reported and "each answered" in self.messages:
                    reported = True
                    answered()
                if "holding" in self.messages:
                    return True
            if any(program.ended() for program in watched):
                # the load is about to fail: let it say how
                limit = min(limit, time.monotonic() + 2)
        return False

    def finish(self, patience=60):
        """Let it close its connections; return its figures or None.

        Raises Failure if it could not write them.
        """
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
        """Return its messages, except those on its progress."""
        return " | ".join(line for line in self.messages.splitlines()
                          if "holding" not in line
                          and "each answered" not in line)


def start_upstream(settings, contender, delay_ms):
    """Start a fresh upstream, without waiting until it listens; return None
    if the contender's runs elsewhere."""
    settings.new_key(contender)
    if contender.elsewhere and not contender.listen:
        return None
    return start_with_key(
        settings, [settings.program("upstream"), "--listen",
                   contender.listen or "127.0.0.1:0",
                   "--delay", f"{delay_ms:g}"], settings.log("upstream"))


def start_server(settings, contender, port, upstream_port):
    """Start a contender and send it a line; return it, and what is wrong or
    None."""
    command = contender.command(port, upstream_port)
    server = Program(command, settings.log("server"),
                     cores=settings.server_cores,
                     cwd=contender.directory or settings.root,
                     untrusted=True)
    expected = probe_reply(settings, contender)
    limit = time.monotonic() + START_PATIENCE
    while time.monotonic() < limit:
        if server.ended():
            break
        try:
            reply = processes.ask(port, PROBE)
        except OSError:
            time.sleep(0.02)
            continue
        if reply == expected + b"\n":
            # such as a service that was asked to start the server
            server.account.find_strays()
            server.account.strangers |= proc.other_holders(
                proc.sockets(port, listening=True),
                server.pids()) - proc.ancestors()
            return server, None
        return server, describe_wrong(reply, expected)
    ending = server.ended()
    if ending == "ended with status 0":
        ending += " (it must go on serving, in the foreground)"
    return server, (f"the server did not start: {ending or 'no answer'}: "
                    f"{server.tail()}")


def probe_reply(settings, contender):
    """Return the reply that the first line must get, without its LF."""
    reply = b"echo: " + PROBE
    return reply + b" " + mark(settings.key, PROBE) if contender.fetches \
        else reply


def meet_server(settings, contender):
    """Send a line to a server that runs elsewhere; return what stands for
    it, and what is wrong or None."""
    server = remote.Running(settings, contender)
    reply, problem = remote.reach(contender, PROBE)
    expected = probe_reply(settings, contender)
    if problem is None and reply != expected + b"\n":
        problem = describe_wrong(reply, expected)
    return server, problem


def describe_wrong(reply, expected):
    """Return what is wrong with the reply to the first line."""
    def shown(text):
        return repr(text.decode("latin-1"))

    sent = f"the line {shown(PROBE)}"
    if reply is None:
        return f"no reply to {sent}"
    if reply == b"echo: " + PROBE + b"\n":
        return f"a reply to {sent} without the upstream's mark: {UNFETCHED}"
    return f"a wrong reply to {sent}: {shown(reply)}, not {shown(expected)}"


def measure(settings, plan, row):
    """Fill in the row of one planned run; problems go to row['why']."""
    upstream = start_upstream(settings, plan.contender, plan.delay_ms)
    server = None
    elsewhere = plan.contender.elsewhere
    try:
        upstream_port = upstream and processes.wait_for_port(upstream,
                                                             "upstream")
        if elsewhere:
            port = plan.contender.port
            server, problem = meet_server(settings, plan.contender)
        else:
            port = processes.free_port()
            server, problem = start_server(settings, plan.contender, port,
                                           upstream_port)
        if problem:
            row["why"].append(problem)
            return
        drive(settings, plan, row, (server, upstream), (port, upstream_port))
        check_upstream(row, upstream)
    finally:
        if elsewhere and server:
            row["unknown"] = remote.unknown(server, plan.contender,
                                            row["requests"])
            plan.contender.loaded = True
        if server:
            early = server.ended()
            ending = server.stop()
            if early:
                row["why"].append(f"the server {early}: {server.tail()}")
            elif "did not" in ending:
                row["why"].append(f"the server {ending}")
            if plan.contender.entry:
                check_summary(server, row)
        if upstream:
            lost = upstream.ended()
            upstream.stop()
            if plan.contender.fetches and not lost:
                take_witness(plan, row, upstream)


def check_upstream(row, upstream):
    """Raise Failure if an upstream of ours has ended."""
    if upstream and upstream.ended():
        raise Failure(f"the upstream {upstream.ended()} in run "
                      f"{row['run']}: {upstream.tail()}")


def load_arguments(settings, plan):
    """Return the load's arguments on time and rate in this run."""
    arguments = ["--duration", f"{settings.duration:.3f}",
                 "--warmup", f"{settings.warmup:.3f}s"]
    if plan.rate:
        arguments += ["--rate", f"{plan.rate:.10g}"]
    return arguments


def drive(settings, plan, row, programs, ports):
    """Run the load against a server and record the figures."""
    server, upstream = programs
    raw = os.path.join(settings.work, "samples")
    answered = []  # memory once each connection has had a reply
    before = server.account.counters()
    monitor = Monitor(server, upstream)
    load = Load(settings, ports[0], plan.concurrency,
                load_arguments(settings, plan), raw,
                host=plan.contender.host)
    monitor.load = load.program.pid
    monitor.start()
    try:
        held = load.await_hold(
            settings.duration + settings.warmup + 60, filter(None, programs),
            lambda: answered.append(server.account.memory_kib()))
    finally:
        monitor.stop()
    strays = server.account.find_strays()
    if strays:
        row["why"].append("processes left the server's control group during "
                          "the run: what they used is not counted")
    after = server.account.counters()
    outsiders = not plan.contender.elsewhere and find_outsiders(server, ports)
    dead = server.ended()
    if dead:
        row["why"].append(f"the server {dead} during the run: "
                          f"{server.tail()}")
    figures = load.finish()
    check_upstream(row, upstream)
    if figures is None:
        row["why"].append(f"no figures: {load.complaint()}")
        return
    row["samples"] = keep_samples(settings, plan, row, raw, figures)
    take_figures(plan, row, figures)
    check_replies(row, figures)
    if not figures["requests"]:
        return
    if not held or dead:
        if not row["why"]:
            row["why"].append("the load did not finish")
        return
    if outsiders:
        row["why"].append("the CPU time of other processes that serve is not "
                          f"counted: {outsiders}")
    if before and after:
        take_counters(row, figures, before, after)
        take_memory(plan, row, figures, before.memory_kib,
                    answered[0] if answered else None, after.memory_kib)
        if not server.account.counts_ended():
            check_ended(row, before, after)
    window = find_window(row, raw, figures,
                         server.account.usable(monitor.readings))
    if window:
        take_window(plan, row, window, server.account)
    check_laws(plan, row)
    if plan.rate:
        check_rate(plan, row, raw)
    row["disturbed"] = disturbances(row["other_cores"] or 0,
                                    row["steal_cores"] or 0)
    if window and plan.contender.elsewhere:
        row["disturbed"] += far_disturbances(plan, row, window,
                                             server.account)


def find_outsiders(server, ports):
    """Return the names of processes that have the server's connections, to
    its clients or to the upstream, and are not of the server."""
    port, upstream_port = ports
    inodes = proc.sockets(port, listening=False)
    inodes |= proc.sockets(upstream_port, listening=False, remote=True)
    return ", ".join(f"{proc.name(pid)} ({pid})" for pid in sorted(
        proc.other_holders(inodes, server.pids())))


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
            raise Failure(f"cannot write {settings.output}/{name}: "
                          f"{os.strerror(error.errno or errno.EIO)}") \
                from error
    return name


def take_figures(plan, row, figures):
    """Record what the client saw."""
    latency = figures["latency_us"]
    row["requests"] = figures["requests"]
    row["seconds"] = figures["seconds"]
    row["throughput_per_s"] = figures["requests_per_second"]
    row["fastest_us"] = figures["fastest_us"]
    if plan.contender.fetches and plan.delay_ms > 0 and figures["requests"]:
        row["overhead_ratio"] = latency["mean"] / 1000 / plan.delay_ms
        check_fastest(plan, row)
    for name, key in (("mean", "mean"), ("p50", "p50"), ("p90", "p90"),
                      ("p99", "p99"), ("p999", "p99.9"), ("max", "max")):
        row[f"latency_{name}_us"] = latency[key]
    if not plan.rate:  # an open loop has no fixed number of lines in flight
        row["littles_law_ratio"] = figures["concurrency"]
    row["load_cpu_per_request_us"] = figures["cpu_us_per_request"]
    row["load_cores"] = ((figures["cpu_user"] + figures["cpu_sys"]) /
                         max(figures["seconds"], 1e-9))
    row["late_mean_us"] = figures["late_us"]["mean"]
    row["client_replies"] = figures["replies"]
    row["client_connections"] = figures["connected"]
    row["client_lines"] = figures["lines_sent"]
    row["client_text_bytes"] = figures["text_bytes"]
    row["slowest_us"] = latency["max"]


def check_fastest(plan, row):
    """Check that no reply came sooner than the upstream can have answered."""
    if row["fastest_us"] < plan.delay_ms * 1000 - TIMER_US:
        row["why"].append(f"a reply came after {row['fastest_us'] / 1000:.2f} "
                          f"ms, sooner than the upstream answers "
                          f"({plan.delay_ms:g} ms)")


def take_counters(row, figures, before, after):
    """Record the kernel's counts, from the idle server to the last reply."""
    replies = max(figures["replies"], 1)
    row["voluntary_switches_per_request"] = (
        (after.voluntary - before.voluntary) / replies)
    row["involuntary_switches_per_request"] = (
        (after.involuntary - before.involuntary) / replies)
    row["threads"] = after.threads
    row["processes"] = after.processes


def check_ended(row, before, after):
    """Check that no process has ended, where its usage would be lost."""
    if after.ended_ticks - before.ended_ticks > 1:
        row["why"].append("processes of the server ended during the run: "
                          "what they used is not counted")


def take_memory(plan, row, figures, idle, answered, last):
    """Record the memory of a connection, and what each request adds.

    The readings are of the idle server, of one that has answered each
    connection once (None without a warm-up), and of the end.
    """
    first = last if answered is None else answered
    requests = figures["replies"] - plan.concurrency
    row["memory_idle_kib"] = idle
    row["memory_loaded_kib"] = last
    # With fewer connections it depends on the allocator. A server that has
    # been loaded keeps some of that memory.
    if plan.concurrency >= 10 and not plan.contender.loaded:
        row["memory_per_connection_kib"] = (first - idle) / plan.concurrency
    if answered is not None and requests > 0:
        row["memory_growth_per_request_bytes"] = \
            (last - first) * 1024 / requests


def find_window(row, raw, figures, readings):
    """Return the first and the last reading in the measured time, and the
    number of replies between them; None if there is no such window."""
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
              if 0 <= reading.ns - zero <= figures["seconds"] * 1e9]
    if len(inside) < 2:
        row["why"].append("too few readings of the CPU clocks")
        return None
    begin, end = inside[0], inside[-1]
    requests = (bisect.bisect_right(replies, end.ns) -
                bisect.bisect_right(replies, begin.ns))
    if requests == 0:
        row["why"].append("no reply between two readings")
        return None
    return begin, end, requests


def take_window(plan, row, window, account):
    """Record CPU per request, between two readings in the measured time."""
    begin, end, requests = window
    nanoseconds = end.ns - begin.ns
    ours = (end.load - begin.load) + (end.own_ns - begin.own_ns)
    if begin.upstream is not None:
        upstream = end.upstream - begin.upstream
        row["upstream_cpu_per_request_us"] = upstream / 1e3 / requests
        row["upstream_cores"] = upstream / nanoseconds
        ours += upstream
    here = not plan.contender.elsewhere
    if begin.server is not None:
        total = take_cpu(row, window)
        if here:
            ours += total
        elif account.same_machine():
            here = True
            ours += total + account.own_ns(begin, end)
    busy = end.machine.busy_ns - begin.machine.busy_ns
    stolen = end.machine.stolen_ns - begin.machine.stolen_ns
    # without an agent a server on this machine would look like others
    if here or not remote.is_ours(plan.contender.host):
        row["other_cores"] = max(busy - ours, 0) / nanoseconds
    row["steal_cores"] = stolen / nanoseconds


def take_cpu(row, window):
    """Record the server's CPU time, and return it in ns."""
    begin, end, requests = window
    total, user, system = (late - early for early, late in
                           zip(begin.server, end.server))
    # the total is exact, its split is sampled by the kernel's ticks
    share = user / (user + system) if user + system else 0.5
    each = total / 1e3 / requests
    row["cpu_per_request_us"] = each
    row["cpu_user_per_request_us"] = each * share
    row["cpu_system_per_request_us"] = each * (1 - share)
    row["server_cores"] = total / (end.ns - begin.ns)
    if each < CPU_LEAST_US:
        row["why"].append(f"the server used no CPU time ({each:.2f} us a "
                          "request): the process that serves was not found")
    return total


def far_disturbances(plan, row, window, account):
    """Record how busy the host of a server elsewhere was; return in words
    what disturbs there.

    An upstream that runs elsewhere may be on that host, among the others.
    """
    begin, end, _ = window
    if begin.server is None:
        return []
    found = []
    if account.lateness(begin, end) > remote.LATE_SHARE:
        found.append("the agent answered late, so that CPU per request may be "
                     f"{100 * remote.LATE_SHARE:.0f} % off")
    if account.same_machine():
        return found
    others, stolen = account.host_use(begin, end)
    row["server_host_other_cores"] = others
    row["server_host_steal_cores"] = stolen
    return found + [f"on the server's host {what}" for what in disturbances(
        others if plan.contender.listen else 0, stolen,
        account.agent.introduction["cores"])]


def take_witness(plan, row, upstream):
    """Record what the upstream counted, and check the client's counts."""
    found = re.findall(r"^upstream: (connections=.*)$", upstream.tail(9, "\n"),
                       re.M)
    if not found and row.get("client_lines") is None:
        return  # it was stopped as it started
    if not found:
        raise Failure(f"the upstream has not counted: {upstream.tail()}")
    counted = dict(word.split("=") for word in found[-1].split())
    for name in ("connections", "requests", "text_bytes"):
        row[f"upstream_{name}"] = int(counted[name])
    if row.get("client_lines") is None:
        return
    row["upstream_use"] = upstream_use(plan, row)
    # the probe was one more line
    for name, mine, what in (
            ("requests", row["client_lines"] + 1, "requests"),
            ("text_bytes", row["client_text_bytes"] + len(PROBE),
             "bytes of text")):
        if row[f"upstream_{name}"] != mine:
            row["why"].append(f"the upstream got {row[f'upstream_{name}']} "
                              f"{what}, the client sent {mine}")
    declared = plan.contender.connection
    if declared != "-" and row["upstream_use"] != declared:
        row["why"].append(f"its upstream connections are not '{declared}': "
                          f"{row['upstream_connections']} for "
                          f"{row['upstream_requests']} requests")


def upstream_use(plan, row):
    """Return whether the server keeps its upstream connections: keep, new or
    mixed."""
    opened, requests = row["upstream_connections"], row["upstream_requests"]
    if plan.rate and opened <= plan.concurrency + 1 >= requests / 2:
        # at this rate there are too few lines to tell
        return plan.contender.connection.replace("-", "keep")
    if abs(opened - requests) <= max(1, 0.001 * requests):
        return "new"
    # each connection's own, the probe's, and those that are opened again
    if opened <= plan.concurrency + 1 + KEPT_SHARE * requests:
        return "keep"
    return "mixed"


def check_replies(row, figures):
    """Check that each reply was right and none was missing."""
    for name, count in figures["failures"].items():
        if count:
            words = FAILURES.get(name)
            row["why"].append(f"{count} {name.replace('_', ' ')}"
                              f"{f' ({words})' if words else ''}")
    for reason, count in figures["error_reasons"].items():
        row["why"].append(f"{count} error: {reason}")
    if not figures["right"] and not row["why"]:
        row["why"].append("the load found wrong replies")
    if figures["requests"] == 0:
        row["why"].append("no request was measured")


def check_laws(plan, row):
    """Check Little's law, and that the kit was not the limit.

    A connection may have one reply more or fewer in the measured time than the
    law says.
    """
    ratio = row["littles_law_ratio"]
    edge = row["latency_mean_us"] / 1e6 / row["seconds"]
    if not plan.rate and abs(ratio - 1) > LITTLES_LAW_TOLERANCE + min(
            edge, LITTLES_LAW_EDGE):
        row["why"].append(f"{LITTLES_LAW}: throughput x mean latency is "
                          f"{ratio:.3f} of the concurrency")
    for part in ("load", "upstream"):
        cores = row.get(f"{part}_cores") or 0
        if cores > KIT_LIMIT_CORES:
            row["why"].append(f"{KIT_LIMIT}: {part} used "
                              f"{cores:.2f} of its one core")


def check_rate(plan, row, raw):
    """Check that load and server kept up with the rate of an open loop.

    A server that falls behind has ever longer latencies. One that pauses at
    the very end has also answered fewer lines by then, but it may catch up.
    """
    if row["late_mean_us"] > max(LATE_LIMIT * row["latency_mean_us"],
                                 LATE_US):
        row["why"].append(f"{KIT_LIMIT}: load sent its lines "
                          f"{row['late_mean_us']:.0f} us late")
    if row["throughput_per_s"] >= RATE_LEAST * plan.rate:
        return
    # seconds that the lines of each half took
    halves: tuple[list, list] = [], []
    with open(raw, encoding="ascii") as file:
        for line in file:
            if line.endswith(" 1\n"):
                start, latency, _, _ = line.split()
                late = float(start) >= row["seconds"] / 2
                halves[late].append(float(latency) / 1e6)
    first, second = (statistics.median(half) if half else math.inf
                     for half in halves)
    if second - first > (1 - RATE_LEAST) * row["seconds"] / 2 \
            or second == math.inf:
        row["why"].append("the server did not keep up: "
                          f"{row['throughput_per_s']:,.0f} of "
                          f"{plan.rate:,.10g} lines per second")


def disturbances(others, stolen, cores=len(proc.CORES)):
    """Return in words what disturbs: the cores that other programs use, the
    cores that the hypervisor takes; of this many."""
    found = []
    if others > min(OTHER_LIMIT * cores, OTHER_MOST):
        found.append(f"other programs used {others:.2f} cores")
    if stolen > STEAL_LIMIT * cores:
        found.append(f"the hypervisor took {stolen:.2f} cores")
    return found


def only_too_short(row):
    """Return whether a longer run could make the row valid."""
    return bool(row["why"]) and all(why.startswith(LITTLES_LAW)
                                    for why in row["why"])


def check_summary(server, row):
    """Check that the counters in a summary of ours are the client's."""
    with open(server.log, "rb") as file:
        text = file.read().decode("utf-8", "replace")
    summaries = re.findall(r"^\w+: connections=(\d+) .*?\brequests=(\d+) "
                           r"errors=(\d+)", text, re.M)
    if not summaries:
        return
    connections, requests, errors = map(int, summaries[-1])
    row["server_requests"] = requests
    row["server_connections"] = connections
    if row["client_replies"] is None:
        return
    # the probe was one more connection and request
    for name, theirs, mine in (
            ("requests", requests, row["client_replies"]),
            ("connections", connections, row["client_connections"])):
        if theirs != mine + 1:
            row["why"].append(f"the server counted {theirs} {name}, the "
                              f"client {mine + 1}")
    if errors:
        row["why"].append(f"the server counted {errors} errors")
