# SPDX-License-Identifier: MIT
"""Reads /proc: the processes there are, what they use, what they hold.

A process that has ended counts as nothing: it is no error.
"""

import collections
import os
import time

CPUCLOCK_SCHED = 2  # in a clock id: the exact CPU time of all threads
TICKS = os.sysconf("SC_CLK_TCK")
TICK_NS = 1000000000 // TICKS
CORES = frozenset(os.sched_getaffinity(0))  # that we may use
LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp

started: set[int] = set()  # our children that somebody else reaps

Machine = collections.namedtuple("Machine", "busy_ns stolen_ns")
Counters = collections.namedtuple(
    "Counters", "ended_ticks voluntary involuntary memory_kib threads "
    "processes")


def read(path):
    """Return the text of a file, or nothing if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def stat_fields(pid):
    """Return the fields of /proc/PID/stat from the state on, or None."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split() or None


def start_ticks(pid):
    """Return when a process was started, in ticks since the boot; 0 if it is
    gone."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def now_ticks():
    """Return the time in ticks since the boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS)


def send_signal(pid, number):
    """Send a signal, unless the process is gone or not ours to signal."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def ancestors():
    """Return this process, its parent, and so on to process 1."""
    found = [os.getpid()]
    while found[-1] > 1 and (fields := stat_fields(found[-1])):
        found.append(int(fields[1]))
    return {1, *found}


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def parents():
    """Return the parent of each live process; zombies are not alive."""
    found = {}
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields and fields[0] not in "ZX":
            found[pid] = int(fields[1])
    return found


def descendants(roots, parent_of=None):
    """Return these processes and all that descend from them, if alive."""
    parent_of = parents() if parent_of is None else parent_of
    children = collections.defaultdict(list)
    for pid, parent in parent_of.items():
        children[parent].append(pid)
    found = set()
    waiting = [pid for pid in roots if pid in parent_of]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children[pid]
    return found


def environment_of(pid):
    """Return the environment that a process was started with."""
    pairs = (word.partition("=")[::2]
             for word in read(f"/proc/{pid}/environ").split("\0"))
    return dict(pairs)


def name(pid):
    return read(f"/proc/{pid}/comm").strip() or "?"


def reap_orphans():
    """Reap the children that we adopted and nobody else waits for."""
    me = str(os.getpid())
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields and fields[0] == "Z" and fields[1] == me \
                and pid not in started:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                pass


def cpu_ns(pids):
    """Return the CPU time of processes in ns, ended threads included."""
    total = 0
    for pid in pids:
        try:
            total += time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)
        except OSError:
            pass  # it has ended
    return total


def cpu_ticks(pids):
    """Return user and system time in ticks, as sampled by the kernel."""
    user = system = 0
    for pid in pids:
        fields = stat_fields(pid)
        if fields:
            user += int(fields[11])
            system += int(fields[12])
    return user, system


def machine():
    """Return the CPU time used on all cores together, plus a constant, and the
    time that the hypervisor gave to others.

    The first comes from the idle time, which the kernel measures; it only
    samples what a busy core does. It includes the interrupts of idle cores.
    """
    rest = stolen = 0
    for line in read("/proc/stat").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() \
                and int(name[3:]) in CORES:
            rest += sum(int(fields[field]) for field in (3, 4, 7))
            stolen += int(fields[7])
    return Machine(time.monotonic_ns() * len(CORES) - rest * TICK_NS,
                   stolen * TICK_NS)


def busiest(seconds, most=3):
    """Watch all programs for this many seconds.

    Return the cores that they used, the cores that the hypervisor took, and
    (name, cores) of the busiest.
    """
    def ticks():
        found = {}
        for pid in all_pids():
            fields = stat_fields(pid)
            if fields and pid != os.getpid():
                found[pid] = int(fields[11]) + int(fields[12])
        return found

    first, before, began = ticks(), machine(), time.monotonic_ns()
    own = time.process_time_ns()
    time.sleep(seconds)
    after, passed = machine(), time.monotonic_ns() - began
    own = time.process_time_ns() - own
    used = sorted(((count - first.get(pid, 0), pid)
                   for pid, count in ticks().items()), reverse=True)
    names = [(f"{name(pid)} {pid}", count * TICK_NS / passed)
             for count, pid in used[:most] if count * TICK_NS > passed / 20]
    return (max(after.busy_ns - before.busy_ns - own, 0) / passed,
            (after.stolen_ns - before.stolen_ns) / passed, names)


def read_status(path):
    """Return the numbers in a status file, by name."""
    numbers = {}
    for line in read(path).splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            numbers[key] = int(words[0])
    return numbers


def memory_kib(pids):
    """Return resident memory in KiB; shared pages are divided among their
    users."""
    total = 0
    for pid in pids:
        numbers = read_status(f"/proc/{pid}/smaps_rollup")
        total += numbers.get("Pss") or read_status(
            f"/proc/{pid}/status").get("VmRSS", 0)
    return total


def counters(pids):
    """Return what processes have used, in total.

    ended_ticks are those of children that ended and have been reaped.
    Switches are those of live threads.
    """
    ended = voluntary = involuntary = threads = 0
    for pid in pids:
        fields = stat_fields(pid)
        if not fields:
            continue
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
    return Counters(ended, voluntary, involuntary, memory_kib(pids), threads,
                    len(pids))


def sockets(port, listening, remote=False):
    """Return the inodes of the TCP sockets at a port, local or remote."""
    found = set()
    wanted = f":{port:04X} "
    for table in ("tcp", "tcp6"):
        for line in read(f"/proc/net/{table}").splitlines():
            if wanted not in line:
                continue
            words = line.split()
            if (words[2 if remote else 1] + " ").endswith(wanted) \
                    and (words[3] == LISTEN) == listening and words[9] != "0":
                found.add(words[9])
    return found


def held_sockets(pid):
    """Return the inodes of the sockets that a process holds."""
    found = set()
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # it has ended, or is somebody else's
    return found


def other_holders(inodes, pids):
    """Return the other processes that hold sockets which none of these
    holds."""
    left = set(inodes)
    for pid in pids:
        if left:
            left -= held_sockets(pid)
    if not left:
        return set()
    return {pid for pid in set(all_pids()) - set(pids)
            if left & held_sockets(pid)}
