# SPDX-License-Identifier: MIT
"""Measures what it costs that a load comes from another namespace.

The same server has its load from its own host, over loopback, and from
another host, over a veth pair or a bridge; the runs take turns. Its upstream
is in its own host.
"""

import collections
import json
import os
import re
import statistics
import time

import namespaces
from kit import proc, processes
from kit.processes import Program

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PORT = 8080
UPSTREAM_PORT = 8081

# CPU is of server, upstream and load, and of the kernel's threads for packets
# that none of them handles.
Run = collections.namedtuple("Run", "rate cpu_us p50_us p99_us right")

KINDS = {"veth": False, "bridge": True}


class Bed:
    """A server in one host, and another host to put a load on it."""

    def __init__(self, network, directory, echo, delay_ms):
        self.network = network
        self.directory = directory
        self.programs: list[Program] = []
        if echo:
            options = ["--echo"]
        else:
            self.start("upstream", [
                "build/upstream", "--listen", f"127.0.0.1:{UPSTREAM_PORT}",
                "--delay", f"{delay_ms:g}"])
            options = ["--upstream", f"http://127.0.0.1:{UPSTREAM_PORT}/"]
        self.start("threadecho", ["./threadecho", "--listen",
                                  f"0.0.0.0:{PORT}", *options])
        # the server first
        self.pids = [each.pid for each in reversed(self.programs)] + [
            pid for pid in proc.all_pids()
            if proc.name(pid).startswith("ksoftirqd/")]

    def start(self, name, command):
        program = Program(
            self.network["server"].command(command),
            os.path.join(self.directory, f"{name}-{time.monotonic_ns()}.log"),
            cwd=ROOT)
        self.programs.append(program)
        processes.wait_for_port(program, name)

    def load(self, far, *options):
        """Return the command that puts a load on the server."""
        host = self.network["load" if far else "server"]
        address = self.network["server"].address if far else "127.0.0.1"
        return host.command([os.path.join(ROOT, "build", "load"), "--connect",
                             f"{address}:{PORT}", *options])

    def measure(self, far, connections, seconds):
        """Put a load on the server; return its Run."""
        before = proc.cpu_ns(self.pids)
        figures = json.loads(namespaces.run(*self.load(
            far, "-c", str(connections), "-d", str(seconds), "--json", "-")))
        used = (proc.cpu_ns(self.pids) - before) / 1e3
        latency = figures["latency_us"]
        return Run(figures["requests_per_second"], figures[
            "cpu_us_per_request"] + used / max(figures["replies"], 1),
            latency["p50"], latency["p99"], figures["right"])

    def stop(self):
        for program in reversed(self.programs):
            program.stop()


def calls_per_request(bed, far, connections, lines=2000):
    """Return the server's system calls per request, or why not."""
    try:
        counting = Program([
            "perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p",
            str(bed.pids[0]), "--", *bed.load(
                far, "-c", str(connections), "-n", str(lines))],
            os.path.join(bed.directory, f"perf-{time.monotonic_ns()}.log"))
    except processes.Failure as problem:
        return str(problem)
    counting.wait(namespaces.PATIENCE)
    counting.stop()
    found = re.search(r"^(\d+),", counting.tail(100, "\n"), re.M)
    return int(found[1]) / lines if found else counting.tail()


def compare(directory, kind, connections, pairs, seconds, echo=False,
            delay_ms=5):
    """Return the runs over loopback, and those from another host; the
    server's system calls per request for both."""
    runs: tuple[list[Run], list[Run]] = ([], [])
    with namespaces.Network(["load", "server"],
                            bridge=KINDS[kind]) as network:
        bed = Bed(network, directory, echo, delay_ms)
        try:
            for far in (False, True):
                bed.measure(far, connections, seconds)  # to warm up
            for number in range(pairs):
                for far in ((False, True), (True, False))[number % 2]:
                    runs[far].append(bed.measure(far, connections, seconds))
            calls = [calls_per_request(bed, far, connections)
                     for far in (False, True)]
        finally:
            bed.stop()
    return runs, calls


def median(runs, field):
    return statistics.median(getattr(run, field) for run in runs)


def ratio(runs, field):
    """Return the median of the ratios of the pairs, far to near, and the
    quartiles."""
    low, middle, high = statistics.quantiles(
        (getattr(far, field) / getattr(near, field)
         for near, far in zip(*runs)), n=4)
    return middle, low, high
