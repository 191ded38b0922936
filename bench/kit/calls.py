# SPDX-License-Identifier: MIT
"""Counts system calls per request: with perf, or strace if perf may not."""

import os
import re
import shutil
import signal
import subprocess
import time

from . import proc, processes
from .processes import Program
from .run import Load, start_server, start_upstream, start_with_key

EVENT = "raw_syscalls:sys_enter"
PERF = ["perf", "stat", "--field-separator", ","]
TRIES = 3
PERF_PATIENCE = 60  # seconds for perf and the load that it runs
TRACE_PATIENCE = 10  # seconds; some servers crawl under strace
MOST_TRACED = 100  # connections, under strace


def tracer_name():
    """Return the tracer that works here: perf, strace or None."""
    if shutil.which("perf"):
        done = subprocess.run([*PERF, "--event", EVENT, "true"],
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0 and re.match(r"\s*\d+,", done.stderr):
            return "perf"
    return "strace" if shutil.which("strace") else None


def count(settings, tracer, contender, concurrency, delay_ms):
    """Return the system calls per request, or None if they can't be counted.
    """
    counted = count_events(settings, tracer, contender,
                           (concurrency, delay_ms), (EVENT,))
    return counted and counted[EVENT]


def count_events(settings, tracer, contender, point, events):
    """Return how often each event happens per request, or None if they can't
    be counted; point is the number of connections and the delay in ms.

    strace counts system calls only, each by its name beside EVENT for all.

    Two runs over the same number of connections are counted, with few lines
    and with more. Their difference leaves out the calls that belong to the
    connections themselves. A first run, which is not counted, lets the server
    open its upstream connections.
    """
    concurrency, delay_ms = point
    if tracer == "strace" and concurrency > MOST_TRACED:
        return None
    trace = {"perf": by_perf, "strace": by_strace}[tracer]
    more = 20 if tracer == "strace" else max(5, min(100, 2000 // concurrency))
    upstream = start_upstream(settings, contender, delay_ms)
    server = None
    try:
        upstream_port = processes.wait_for_port(upstream, "upstream")
        port = processes.free_port()
        server, problem = start_server(settings, contender, port,
                                       upstream_port)
        if problem:
            return None
        counts = []
        for lines in (2, 2, 2 + more):
            # a process about to end may be gone before it is traced
            traced = (trace(settings, server, port,
                            (concurrency, lines * concurrency), events)
                      for _ in range(TRIES))
            counted = next((each for each in traced if each is not None),
                           None)
            if counted is None:
                return None
            counts.append(counted)
        return {name: (counts[2][name] - counts[1].get(name, 0)) /
                (more * concurrency) for name in counts[2]}
    finally:
        if server:
            server.stop()
        upstream.stop()


def by_perf(settings, server, port, load, events):
    """Return the events of a server that gets this load, or None; the load is
    a number of connections and of lines in all.

    perf starts the load once it is counting, and ends with it.
    """
    concurrency, lines = load
    report = os.path.join(settings.work, "system-calls")
    pids = ",".join(map(str, server.pids()))
    perf = start_with_key(
        settings,
        [*PERF, "--event", ",".join(events), "--output", report, "--pid",
         pids, "--",
         settings.program("load"), "--connect", f"127.0.0.1:{port}",
         "--connections", str(concurrency), "--requests", str(lines),
         "--timeout", "20"],
        settings.log("perf"))
    try:
        # perf exits with the load's status: 0 if each reply was right
        if perf.process.wait(PERF_PATIENCE) != 0:
            return None
    except subprocess.TimeoutExpired:
        return None
    finally:
        perf.stop(patience=0)
    with open(report, encoding="utf-8") as file:
        found = re.findall(r"^\s*(\d+),[^,]*,([^,]+),", file.read(), re.M)
    counted = {name: int(number) for number, name in found}
    return counted if set(counted) == set(events) else None


def by_strace(settings, server, port, load, _events):
    """The same with strace, which detaches before the connections close."""
    concurrency, lines = load
    report = os.path.join(settings.work, "system-calls")
    pids = server.pids()
    tracer = Program(
        ["strace", "--follow-forks", "--summary-only", "--output", report,
         "--summary-columns=calls,name"] + [f"--attach={pid}"
                                            for pid in pids],
        settings.log("strace"))
    try:
        if not attached(tracer, pids):
            return None
        client = Load(settings, port, concurrency,
                      ["--requests", str(lines)], "/dev/null")
        held = client.await_hold(TRACE_PATIENCE, (server, tracer))
        tracer.process.send_signal(signal.SIGINT)
        try:
            tracer.process.wait(10)
        except subprocess.TimeoutExpired:
            held = False
        if not held:
            client.program.stop(patience=0)
            return None
        figures = client.finish()
        if not figures or not figures["right"]:
            return None
        with open(report, encoding="utf-8") as file:
            found = re.findall(r"^\s*(\d+)\s+(\w+)$", file.read(), re.M)
        counted = {name: int(number) for number, name in found}
        if "total" not in counted:
            return None
        counted[EVENT] = counted.pop("total")
        return counted
    finally:
        tracer.stop(patience=2)


def attached(tracer, pids):
    """Wait until strace traces all of these; return False if it does not."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit and not tracer.ended():
        traced = [proc.read_status(f"/proc/{pid}/status")
                  .get("TracerPid") == tracer.pid for pid in pids]
        if all(traced):
            return True
        time.sleep(0.02)
    return False
