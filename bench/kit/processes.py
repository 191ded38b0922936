# SPDX-License-Identifier: MIT
"""Starts processes, stops them without a trace, and reads their counters."""

import collections
import ctypes
import os
import random
import select
import shlex
import signal
import socket
import subprocess
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CPUCLOCK_SCHED = 2  # in a clock id: the exact CPU time of all threads
TICKS = os.sysconf("SC_CLK_TCK")

libc = ctypes.CDLL(None, use_errno=True)
running = []  # each Program that has been started and not yet reaped


class Failure(Exception):
    """Ends the whole measurement; its text is for the user."""


def adopt_orphans():
    """Become the parent of the orphans that our children leave."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port():
    """Return a free port outside the range that the kernel gives clients."""
    with open("/proc/sys/net/ipv4/ip_local_port_range",
              encoding="ascii") as file:
        first, last = map(int, file.read().split())
    for _ in range(1000):
        port = random.randrange(10000, 65000)
        if first <= port <= last:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    with socket.socket() as probe:  # that range is nearly all there is
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Program:
    """A program in a session of its own, killed if we die."""

    def __init__(self, command, log, cores=None, stdin=subprocess.DEVNULL,
                 stdout=subprocess.DEVNULL, stderr=None, cwd=None, env=None):
        self.command = command
        self.log = log
        parent = os.getpid()

        def child():
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(127)
            if cores:
                os.sched_setaffinity(0, cores)

        with open(log, "ab") as output:
            try:
                self.process = subprocess.Popen(
                    command, stdin=stdin, stdout=stdout,
                    stderr=output if stderr is None else stderr, cwd=cwd,
                    env=env,
                    start_new_session=True, preexec_fn=child)
            except OSError as error:
                raise Failure(f"cannot run {shlex.join(command)}: "
                              f"{error.strerror}") from error
        self.pid = self.process.pid
        running.append(self)

    def ended(self):
        """Return how it ended, in words; None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def stop(self, patience=15):
        """Stop it and all that it started; return how it ended, in words."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                pass
        stuck = self.process.poll() is None
        kill_session(self.pid)
        self.process.wait()
        if self in running:
            running.remove(self)
        for stream in (self.process.stdin, self.process.stdout,
                       self.process.stderr):
            if stream:
                stream.close()
        return "did not end on SIGTERM" if stuck else self.ended()

    def tail(self, lines=3, between=" | "):
        """Return the last lines that it wrote to stderr."""
        with open(self.log, "rb") as file:
            text = file.read().decode("utf-8", "replace")
        return between.join(text.strip().splitlines()[-lines:])


def kill_session(session):
    """Kill every process of a session, and reap those that are ours."""
    limit = time.monotonic() + 10  # a broken disk outlasts SIGKILL
    while (pids := session_members(session)) and time.monotonic() < limit:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in pids:
            try:
                # adopted, see adopt_orphans; Popen reaps its own
                os.waitid(os.P_PID, pid, os.WEXITED | (
                    os.WNOWAIT if pid == session else 0))
            except ChildProcessError:
                time.sleep(0.01)  # not yet adopted


def stop_all():
    """Kill whatever still runs."""
    for program in list(running):
        program.stop(patience=0)


def stat_fields(pid):
    """Return the fields of /proc/PID/stat from the state on, or None."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8",
                  errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def session_members(session):
    """Return the processes of a session."""
    members = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(name)
            if fields and fields[3] == str(session) and fields[0] != "Z":
                members.append(int(name))
    return members


def cpu_ns(pids):
    """Return the CPU time of processes in ns, ended threads included."""
    total = 0
    for pid in pids:
        try:
            total += time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
        except OSError:
            pass  # it has ended, see Counters.ended_ticks
    return total


def machine_cpu_ns():
    """Return the busy time of all cores together in ns, plus a constant.

    It comes from the idle time, which the kernel measures; it only samples
    what a busy core does.
    """
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:]]
    idle = (fields[3] + fields[4]) * (1000000000 // TICKS)
    return time.monotonic_ns() * (os.cpu_count() or 1) - idle


Counters = collections.namedtuple(
    "Counters", "user_ticks system_ticks ended_ticks voluntary involuntary "
    "memory_kib threads processes")


def counters(session):
    """Return what the processes of a session have used, in total.

    ended_ticks are those of children that ended and have been reaped.
    Switches are those of live threads.
    """
    user = system = ended = voluntary = involuntary = memory = threads = 0
    pids = session_members(session)
    for pid in pids:
        fields = stat_fields(pid)
        if not fields:
            continue
        user += int(fields[11])
        system += int(fields[12])
        ended += int(fields[13]) + int(fields[14])
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        threads += len(tasks)
        for task in tasks:
            status = read_status(f"/proc/{pid}/task/{task}/status")
            voluntary += status.get("voluntary_ctxt_switches", 0)
            involuntary += status.get("nonvoluntary_ctxt_switches", 0)
        memory += memory_kib(pid)
    return Counters(user, system, ended, voluntary, involuntary, memory,
                    threads, len(pids))


def read_status(path):
    """Return the numbers in a status file, by name."""
    numbers = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                words = value.split()
                if words and words[0].isdigit():
                    numbers[name] = int(words[0])
    except OSError:
        pass  # it has just ended
    return numbers


def memory_kib(pid):
    """Return resident memory; shared pages are divided among their users."""
    numbers = read_status(f"/proc/{pid}/smaps_rollup")
    if "Pss" in numbers:
        return numbers["Pss"]
    return read_status(f"/proc/{pid}/status").get("VmRSS", 0)


def wait_for_port(program, name, patience=20):
    """Return the port that a program of the kit says it listens on."""
    limit = time.monotonic() + patience
    while time.monotonic() < limit:
        with open(program.log, "rb") as file:
            for line in file.read().decode("utf-8", "replace").splitlines():
                if "listening on " in line:
                    return int(line.split("listening on ")[1]
                               .split(",")[0].rpartition(":")[2])
        if program.ended():
            break
        time.sleep(0.01)
    raise Failure(f"{name} did not start: {program.ended() or 'silent'}: "
                  f"{program.tail()}")


def ask(port, line, patience=20):
    """Send a line on a new connection; return the reply or None."""
    limit = time.monotonic() + patience
    with socket.create_connection(("127.0.0.1", port), 1) as client:
        client.sendall(line + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            left = limit - time.monotonic()
            if left <= 0 or not select.select([client], [], [], left)[0]:
                return None
            data = client.recv(65536)
            if not data:
                return None
            reply += data
        return reply
