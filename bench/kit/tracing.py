# SPDX-License-Identifier: MIT
"""Records what threads do: with perf, or strace where perf may not.

Both give the same events. perf sees each switch between threads and each
system call of the whole machine, and hardly disturbs. strace sees the system
calls of the server only, and slows it down.
"""

import functools
import os
import re
import select
import shutil
import signal
import subprocess
import time
from typing import NamedTuple

from . import proc
from .calls import attached
from .processes import Failure, Program

PERF_EVENTS = ("sched:sched_switch", "sched:sched_wakeup",
               "sched:sched_wakeup_new", "sched:sched_process_fork",
               "raw_syscalls:sys_enter", "raw_syscalls:sys_exit")
RING_EVENTS = ("io_uring:io_uring_submit_req", "io_uring:io_uring_file_get",
               "io_uring:io_uring_complete")
PERF_BUFFER = "16M"  # of each core
PATIENCE = 20  # seconds for a tracer to do as it is told
NO_DESCRIPTOR = -1

NUMBER = re.compile(r"-?\d+")
SWITCH = re.compile(r"prev_comm=.* prev_pid=(\d+) prev_prio=-?\d+ "
                    r"prev_state=(\S+) ==> next_comm=.* next_pid=(\d+)")
WAKE = re.compile(r"comm=.* pid=(\d+) prio=")
FORK = re.compile(r"child_pid=(\d+)")
PERF_CALL = re.compile(r"NR (-?\d+) (?:\(([0-9a-f]+)|= (-?\d+))")
RING_SUBMIT = re.compile(r" req (\w+), .* opcode (\w+),")
RING_FILE = re.compile(r" req (\w+), .* fd (-?\d+)")
RING_COMPLETE = re.compile(r" req (\w+), .* result (-?\d+),")
# The system calls that the operations of an io_uring stand for.
RING_CALLS = {"READ": "read", "READV": "readv", "READ_FIXED": "read",
              "RECV": "recvfrom", "RECVMSG": "recvmsg", "WRITE": "write",
              "WRITEV": "writev", "WRITE_FIXED": "write", "SEND": "sendto",
              "SENDMSG": "sendmsg", "SEND_ZC": "sendto",
              "ACCEPT": "accept4", "CONNECT": "connect"}
STRACE_LINE = re.compile(r"(\d+) +(\d+)\.(\d{6}) (.*)")
STRACE_CALL = re.compile(r"(\w+)\((.*)")
STRACE_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
STRACE_END = re.compile(r"\) += (-?\d+|\?|0x[0-9a-f]+)(?: .*)? "
                        r"<(\d+)\.(\d{6})>$")


class Busy(Failure):
    """The machine had too much else to do; it may be tried again."""


class Event(NamedTuple):
    """Something that a thread did, or that was done to it.

    kind is enter or exit (what: the system call; value: its first argument,
    or its result), out (what: the state in which it leaves the core), in,
    wake, or fork (value: the new thread); and of a request to an io_uring
    submit (what: the system call it stands for; value: its descriptor) or
    complete (value: the result).
    """
    ns: int
    tid: int
    kind: str
    what: str = ""
    value: int = NO_DESCRIPTOR
    request: str = ""  # to an io_uring


@functools.cache
def call_names():
    """Return the names of the system calls by number, from the headers of
    the C library."""
    done = subprocess.run(
        [os.environ.get("CC") or "cc", "-E", "-dM", "-"],
        input="#include <sys/syscall.h>\n", stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, check=False)
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", done.stdout, re.M)
    if not found:
        raise Failure("the compiler knows no system call "
                      "(scripts/install-deps)")
    return {int(number): name for name, number in found}


def perf_record(events):
    return ["perf", "record", "--quiet", "--all-cpus", "--clockid",
            "CLOCK_MONOTONIC", "--event", ",".join(events), "--exclude-perf"]


@functools.cache
def perf_command():
    """Return the command that records with perf, or None if it may not.

    A kernel may lack the events of io_uring.
    """
    for events in (PERF_EVENTS + RING_EVENTS, PERF_EVENTS):
        command = perf_record(events)
        if shutil.which("perf") and subprocess.run(
                [*command, "--output", "/dev/null", "--", "true"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return command
    return None


def choose(wanted=None):
    """Return perf or strace: the wanted one, or the first that works."""
    if wanted != "strace" and perf_command():
        return "perf"
    if wanted != "perf" and shutil.which("strace"):
        return "strace"
    raise Failure(f"{wanted or 'neither perf nor strace'} does not work here "
                  "(scripts/install-deps bench)")


def parse_perf(lines, names, tids):
    """Yield the events of these threads; those that they start are added.

    The lines are perf script's: thread, time, event, details.
    """
    operations: dict[str, str] = {}  # by request to an io_uring
    for line in lines:
        words = line.split(None, 3)
        if len(words) < 4 or not words[0].isdigit():
            continue
        event, rest = words[2], words[3]
        seconds, _, part = words[1].rstrip(":").partition(".")
        ns = int(seconds) * 1000000000 + int(part.ljust(9, "0"))
        tid = int(words[0])
        if event.startswith("raw_syscalls:"):
            if tid not in tids:
                continue
            found = PERF_CALL.search(rest)
            if not found:
                continue
            name = names.get(int(found[1]), found[1])
            if event == "raw_syscalls:sys_enter:":
                number = int(found[2] or "0", 16)
                yield Event(ns, tid, "enter", name,
                            number if number < 1 << 31 else NO_DESCRIPTOR)
            else:
                yield Event(ns, tid, "exit", name, int(found[3] or 0))
        elif event == "sched:sched_switch:":
            found = SWITCH.search(rest)
            if not found:
                continue
            before, after = int(found[1]), int(found[3])
            if before in tids:
                yield Event(ns, before, "out", found[2])
            if after in tids:
                yield Event(ns, after, "in")
        elif event.startswith("sched:sched_wakeup"):
            found = WAKE.search(rest)
            if found and int(found[1]) in tids:
                yield Event(ns, int(found[1]), "wake")
        elif event.startswith("io_uring:") and tid in tids:
            yield from parse_ring(ns, tid, event, rest, operations)
        elif event == "sched:sched_process_fork:" and tid in tids:
            found = FORK.search(rest)
            if found:
                tids.add(int(found[1]))
                yield Event(ns, tid, "fork", "", int(found[1]))


def parse_ring(ns, tid, event, rest, operations):
    """Yield the event of a request to an io_uring; its descriptor is known
    once the kernel begins with it."""
    if event == "io_uring:io_uring_submit_req:":
        found = RING_SUBMIT.search(rest)
        if found:
            operations[found[1]] = RING_CALLS.get(found[2], found[2].lower())
    elif event == "io_uring:io_uring_file_get:":
        found = RING_FILE.search(rest)
        if found and found[1] in operations:
            yield Event(ns, tid, "submit", operations[found[1]],
                        int(found[2]), found[1])
    elif event == "io_uring:io_uring_complete:":
        found = RING_COMPLETE.search(rest)
        if found:
            yield Event(ns, tid, "complete", "", int(found[2]), found[1])


def parse_strace(lines, tids):
    """Return the same events from strace -f -ttt -T, sorted by time."""
    found = []
    for line in lines:
        words = STRACE_LINE.match(line.rstrip())
        if not words:
            continue
        tid, rest = int(words[1]), words[4]
        ns = int(words[2]) * 1000000000 + int(words[3]) * 1000
        tids.add(tid)
        resumed = STRACE_RESUMED.match(rest)
        call = resumed or STRACE_CALL.match(rest)
        if not call:
            continue
        end = STRACE_END.search(rest)
        if not resumed:
            number = NUMBER.match(call[2])
            found.append(Event(ns, tid, "enter", call[1],
                               int(number[0]) if number else NO_DESCRIPTOR))
        if end:
            took = int(end[2]) * 1000000000 + int(end[3]) * 1000
            result = int(end[1], 0) if end[1] != "?" else 0
            # a resumed call ends where its line was written
            found.append(Event(ns if resumed else ns + took, tid, "exit",
                               call[1], result))
    # one call's end comes before the next one's start
    return sorted(found, key=lambda event: event.ns)


def since(began, events):
    """Return the events from a time on; a system call that a thread was in
    starts then."""
    calls = {}
    for event in events:
        if event.ns < began:
            calls[event.tid] = event
    entered = [event._replace(ns=began) for event in calls.values()
               if event.kind == "enter"]
    return entered + [event for event in events if event.ns >= began]


class Perf:
    """perf, which records from begin() to end()."""

    name = "perf"

    def __init__(self, settings, _):
        self.path = os.path.join(settings.work, "perf.data")
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        try:
            self.program = Program(
                [*perf_command(), "--mmap-pages", PERF_BUFFER, "--delay=-1",
                 "--control", f"fd:{commands},{answers}", "--output",
                 self.path], settings.log("perf"),
                pass_fds=(commands, answers))
        finally:
            os.close(commands)
            os.close(answers)

    def tell(self, word):
        """Give perf a command, and wait until it has obeyed."""
        os.write(self.commands, f"{word}\n".encode())
        if not select.select([self.answers], [], [], PATIENCE)[0] \
                or not os.read(self.answers, 16):
            raise Failure(f"perf does not {word}: {self.program.tail()}")

    def begin(self):
        """Begin to record; return when that was."""
        began = time.monotonic_ns()
        self.tell("enable")
        return began

    def end(self):
        """Stop."""
        # a command would wait until perf has caught up, which may be never
        self.program.process.send_signal(signal.SIGINT)
        if not self.program.wait(PATIENCE):
            raise Failure("perf does not end")

    def events(self, tids):
        """Return what these threads and their children did."""
        done = subprocess.run(
            ["perf", "script", "--ns", "--fields", "tid,time,event,trace",
             "--show-lost-events", "--input", self.path],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, errors="replace",
            check=False)
        if done.returncode != 0:
            raise Failure("perf cannot read what it has recorded")
        if "PERF_RECORD_LOST" in done.stdout:
            raise Busy("perf could not keep up")
        return list(parse_perf(done.stdout.splitlines(), call_names(), tids))

    def stop(self):
        self.program.stop(patience=0)
        os.close(self.commands)
        os.close(self.answers)


class Strace:
    """strace, attached to all threads of a server."""

    name = "strace"

    def __init__(self, settings, server):
        self.path = os.path.join(settings.work, "strace")
        self.began = 0
        self.ahead = 0  # its clock before ours
        pids = server.pids()
        self.program = Program(
            ["strace", "--follow-forks", "-ttt", "-T", "-qq", "--signal=none",
             "--string-limit=0", "--output", self.path]
            + [f"--attach={pid}" for pid in pids], settings.log("strace"))
        if not attached(self.program, pids):
            problem = self.program.tail()
            self.program.stop(patience=0)
            raise Failure(f"strace cannot attach: {problem}")

    def begin(self):
        """Begin to record; return when that was."""
        self.began = time.monotonic_ns()
        self.ahead = time.time_ns() - self.began
        return self.began

    def end(self):
        """Detach from the server."""
        self.program.process.send_signal(signal.SIGINT)
        if not self.program.wait(PATIENCE):
            raise Failure("strace does not end")

    def events(self, tids):
        """Return what these threads and their children did."""
        return since(self.began, [
            event._replace(ns=event.ns - self.ahead) for event
            in parse_strace(proc.read(self.path).splitlines(), tids)])

    def stop(self):
        self.program.stop(patience=2)


def start(name, settings, server):
    """Start a tracer for a server that runs; it records from begin() on."""
    return {"perf": Perf, "strace": Strace}[name](settings, server)
