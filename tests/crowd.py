# SPDX-License-Identifier: MIT
"""Opens many connections at once, from several hosts to several servers.

Each load host connects to each server. When all connections are there, each
asks one line, and all stay open until the last one has its reply. A descriptor
limit bounds a process, so each host runs as many as it takes.
"""

import collections
import contextlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import time

import namespaces
from kit import proc, processes
from kit.processes import Failure, Program

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FETCHES = 64  # handles of a server
FDS_PER_FETCH = 3
RESERVED_FDS = 128  # that a server keeps for itself, at most
RESERVED_MAPS = 1024
MAPS_PER_THREAD = 2
LOAD_FDS = 16  # that build/load keeps for itself
OTHERS = 2000  # threads of other programs that may start meanwhile
BACKLOG = 4096  # of a server
CONNECTING = 64  # connections that a build/load makes at a time
KIB_EACH = 96  # memory of a connection: both ends, and what the kernel takes
SPARE_KIB = 3 << 20  # to leave available
RATE = 4000.0  # lines per second in all
PATIENCE = 120.0  # seconds for a step
PORT = 8080  # of the first server of a host; the others have the next ones

# In KiB: what is resident of the servers and of the loads; of the kernel, the
# stacks, page tables, slabs, and the rest that it does not list.
Memory = collections.namedtuple("Memory",
                                "server load stacks tables slab rest")


class Impossible(Exception):
    """This machine can't do it; the text says why and what is possible."""


def number_in(path):
    """Return the number in a file, or None."""
    text = proc.read(path).split()
    return int(text[0]) if text and text[0].isdigit() else None


def setting(name):
    return "/proc/sys/" + name.replace(".", "/")


@contextlib.contextmanager
def raised(needed):
    """Raise settings of the machine to what is needed, and restore them.
    Raises Impossible."""
    before = {}
    try:
        for name, (value, connections) in needed.items():
            now = number_in(setting(name))
            if now is None or now >= value:
                continue
            before[name] = now
            try:
                with namespaces.signals_held(), \
                        open(setting(name), "w", encoding="ascii") as file:
                    file.write(str(value))
            except OSError as error:
                raise Impossible(
                    f"{name} is {now} and can't be raised to {value} "
                    f"({error.strerror}): {connections(now):,} are possible") \
                    from error
        yield before
    finally:
        with namespaces.signals_held():
            for name, value in before.items():
                with contextlib.suppress(OSError), \
                        open(setting(name), "w", encoding="ascii") as file:
                    file.write(str(value))


def pids_max():
    """Return the tightest limit of threads of our control groups, or None."""
    found = []
    for line in proc.read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "pids"):
            continue
        mounts = ("/sys/fs/cgroup/pids",) if controllers else (
            "/sys/fs/cgroup", "/sys/fs/cgroup/unified")
        while True:
            found += [value for mount in mounts if
                      (value := number_in(f"{mount}{path}/pids.max"))
                      is not None]
            if path in ("", "/"):
                break
            path = os.path.dirname(path)
    return min(found, default=None)


def thread_count():
    """Return how many threads the machine has."""
    return int(proc.read("/proc/loadavg").split()[3].split("/")[1])


def raise_descriptors(count):
    """Have our programs get this many descriptors, or as many as we may.
    Return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, count))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return number_in(setting("fs.nr_open")) or count \
        if hard == resource.RLIM_INFINITY else hard


def shares(count, parts):
    """Divide a count as evenly as it goes."""
    return [count // parts + (part < count % parts) for part in range(parts)]


class Plan:
    """How many processes it takes. Raises Impossible."""

    def __init__(self, connections, servers, loads):
        self.connections = connections
        self.servers = servers
        self.loads = loads
        most = math.ceil(connections / min(servers, loads))
        self.descriptors = raise_descriptors(
            most + FETCHES * FDS_PER_FETCH + RESERVED_FDS)
        maps = number_in(setting("vm.max_map_count")) or sys.maxsize
        # the connections that one server process can have
        room = min(self.descriptors - FETCHES * FDS_PER_FETCH - RESERVED_FDS,
                   (maps - RESERVED_MAPS) // MAPS_PER_THREAD)
        if room < 1 or self.descriptors <= LOAD_FDS:
            raise Impossible(f"RLIMIT_NOFILE is {self.descriptors} and "
                             f"vm.max_map_count {maps}: none are possible")
        # of a host
        self.server_processes = math.ceil(
            math.ceil(connections / servers) / room)
        self.load_processes = servers * self.server_processes * math.ceil(
            self.pair() / (self.descriptors - LOAD_FDS))

    def pair(self):
        """Return the most connections between an address and a server."""
        return math.ceil(self.connections / self.loads /
                         (self.servers * self.server_processes))

    def settings(self):
        """Return what each setting of the machine must be at least, and how
        many connections a lower value allows."""
        threads = thread_count() + OTHERS
        files = number_in(setting("fs.file-nr")) or 0
        return {
            "kernel.pid_max": (self.connections + threads,
                               lambda now: max(now - threads, 0)),
            "kernel.threads-max": (self.connections + threads,
                                   lambda now: max(now - threads, 0)),
            "fs.file-max": (2 * self.connections + files + OTHERS,
                            lambda now: max(now - files - OTHERS, 0) // 2),
            # of each namespace; one that has no rule tracks nothing
            "net.netfilter.nf_conntrack_max": (
                2 * self.connections // min(self.servers, self.loads),
                lambda now: now * min(self.servers, self.loads) // 2),
        }

    def check(self):
        """Check what can't be raised. Raises Impossible."""
        most = pids_max()
        if most is not None and \
                most < self.connections + thread_count() + OTHERS:
            raise Impossible(
                f"pids.max of the control group is {most}: "
                f"{max(most - thread_count() - OTHERS, 0):,} are possible")
        free = available_kib()
        if free < self.connections * KIB_EACH + SPARE_KIB:
            raise Impossible(
                f"{free >> 10} MiB of memory are available: "
                f"{max(free - SPARE_KIB, 0) // KIB_EACH:,} are possible")

    def prepare(self, network):
        """Set what each namespace has of its own. Raises Impossible."""
        for host in network.hosts.values():
            if CONNECTING * self.loads > int(
                    host.read("/proc/sys/net/core/somaxconn")):
                host.set("net.core.somaxconn", BACKLOG)
            first, last = map(int, host.read(
                "/proc/sys/net/ipv4/ip_local_port_range").split())
            if last - first < 2 * self.pair():
                host.set("net.ipv4.ip_local_port_range", "1024 65535")
                if self.pair() > 60000:
                    raise Impossible(
                        f"an address has 64,512 ports: "
                        f"{60000 * self.loads * self.servers:,} are possible")


def available_kib():
    return proc.read_status("/proc/meminfo")["MemAvailable"]


def free_in_lists_kib():
    """Return the memory in the cores' own lists of free pages."""
    return sum(map(int, re.findall(r"^\s+count: +(\d+)",
                                   proc.read("/proc/zoneinfo"), re.M))
               ) * resource.getpagesize() >> 10


class Crowd:
    """The programs, in their hosts. Raises Failure if one does not do."""

    def __init__(self, plan, network, directory, rate=RATE):
        self.plan = plan
        self.network = network
        self.directory = directory
        self.results = os.path.join(directory, "results")
        os.mkdir(self.results)
        upstream = network["upstream"]
        self.upstream = self.start(upstream, "upstream", [
            "build/upstream", "--listen", f"{upstream.address}:{PORT}"])
        processes.wait_for_port(self.upstream, "upstream")
        self.servers = []
        self.loads = []
        per_server = shares(plan.connections, plan.servers)
        for host, connections in enumerate(per_server):
            for index, share in enumerate(shares(connections,
                                                 plan.server_processes)):
                self.start_server(network[f"server{host + 1}"], index, share)
        self.before = self.memory()
        self.began = time.monotonic()
        self.start_loads(per_server, rate)

    def start(self, host, name, command, **options):
        return Program(host.command(command),
                       os.path.join(self.directory, f"{name}.log"), cwd=ROOT,
                       **options)

    def start_server(self, host, index, connections):
        program = self.start(host, f"{host.name}-{index}", [
            "./threadecho", "--listen", f"{host.address}:{PORT + index}",
            "--upstream", f"http://{self.network['upstream'].address}:{PORT}/",
            "--max-connections", str(connections), "--max-fetches",
            str(FETCHES), "--timeout", "60"])
        processes.wait_for_port(program, "threadecho")
        if "warning" in program.tail():
            raise Failure(program.tail())
        self.servers.append(program)

    def start_loads(self, per_server, rate):
        """Start what connects: from each load host to each server."""
        plan = self.plan
        each = plan.load_processes // (plan.servers * plan.server_processes)
        for host, connections in enumerate(per_server):
            for index, share in enumerate(shares(connections,
                                                 plan.server_processes)):
                address = self.network[f"server{host + 1}"].address
                for part, count in enumerate(shares(share,
                                                    plan.loads * each)):
                    self.start_load(part % plan.loads,
                                    f"{address}:{PORT + index}", count,
                                    rate * count / plan.connections)

    def start_load(self, source, server, connections, rate):
        name = os.path.join(self.results, f"load{len(self.loads)}")
        self.loads.append(self.start(
            self.network[f"load{source + 1}"], f"load{len(self.loads)}", [
                "build/load", "--connect", server, "-c", str(connections),
                "-n", str(connections), "--rate", f"{rate:.3f}", "--wait",
                "--hold", "--timeout", "60", "--json", f"{name}.json",
                "--samples", f"{name}.samples"], stdin=subprocess.PIPE))

    def until(self, what, reached):
        """Wait until something is so. Raises Failure if it is not in time, a
        program ends, or memory is short."""
        limit = time.monotonic() + PATIENCE
        while not reached():
            if available_kib() < SPARE_KIB:
                raise Failure(f"less than {SPARE_KIB >> 20} GiB are available")
            for program in [*self.loads, *self.servers, self.upstream]:
                if program.ended():
                    raise Failure(f"{program.log}: {program.ended()}: "
                                  f"{program.tail()}")
            if time.monotonic() > limit:
                raise Failure(f"not {what} within {PATIENCE:.0f} s")
            time.sleep(0.05)
        return time.monotonic()

    def said(self, word):
        """Return the connections with which the loads wait or hold."""
        return sum(int(found[1]) for program in self.loads
                   if (found := re.search(rf"{word} (\d+) connections",
                                          program.tail())))

    def all_say(self, word):
        return all(f"load: {word} " in program.tail()
                   for program in self.loads)

    def threads(self):
        """Return the threads of all servers that serve a connection."""
        return sum(proc.read_status(f"/proc/{program.pid}/status")
                   .get("Threads", 0) for program in self.servers
                   ) - 2 * len(self.servers)  # the main and the signal thread

    def sockets(self, side):
        """Return the TCP sockets in the hosts of a side."""
        text = "".join(host.read("/proc/net/sockstat") for name, host
                       in self.network.hosts.items() if name.startswith(side))
        return sum(map(int, re.findall(r"^TCP: inuse (\d+)", text, re.M)))

    def tracked(self):
        """Return how many connections conntrack knows in all hosts."""
        total = 0
        for host in self.network.hosts.values():
            with contextlib.suppress(namespaces.Unavailable):
                total += int(host.read(
                    "/proc/sys/net/netfilter/nf_conntrack_count"))
        return total

    def connect(self):
        """Wait until all connections are there, each with its thread. Return
        the seconds that it took."""
        self.until("connected", lambda: self.all_say("waiting with")
                   and self.threads() >= self.plan.connections)
        return time.monotonic() - self.began

    def ask(self):
        """Have each connection ask a line; wait until each has its reply."""
        began = time.monotonic()
        self.tell()
        return self.until("answered", lambda: self.all_say("holding")) - began

    def tell(self):
        for program in self.loads:
            program.process.stdin.write(b"\n")
            program.process.stdin.flush()

    def close(self):
        """Close all connections; wait for the ends of all load programs.
        Return the seconds, and the endings that are not good."""
        began = time.monotonic()
        self.tell()
        for program in self.loads:
            program.wait(PATIENCE)
        took = time.monotonic() - began
        # its own status is 1 if a reply was wrong
        return took, [f"{program.ended()}: {program.tail()}"
                      for program in self.loads
                      if program.own_ending() != "ended with status 0"]

    def joined(self):
        """Return the figures of all load programs, joined."""
        done = subprocess.run(
            [sys.executable, os.path.join(ROOT, "scripts", "merge"),
             "--any-server", self.results], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
        if done.returncode:
            raise Failure(done.stderr.strip())
        return json.loads(done.stdout)

    def stop(self):
        """Stop servers and upstream; return the servers' counts, added up,
        and the upstream's."""
        total: collections.Counter[str] = collections.Counter()
        for program in self.servers:
            program.stop(PATIENCE)
            total.update(counts_of(program))
        self.upstream.stop()
        return total, counts_of(self.upstream)

    def memory(self):
        """Return the memory in use; what is the kernel's, of the machine."""
        machine = proc.read_status("/proc/meminfo")
        resident = [sum(proc.read_status(f"/proc/{program.pid}/status")
                        .get("VmRSS", 0) for program in programs)
                    for programs in (self.servers, self.loads)]
        kernel = [machine[name] for name in ("KernelStack", "PageTables",
                                             "Slab")]
        named = free_in_lists_kib() + sum(machine[name] for name in (
            "MemFree", "Buffers", "Cached", "AnonPages"))
        return Memory(*(resident + kernel +
                        [machine["MemTotal"] - named - sum(kernel)]))

    def per_connection(self):
        """Return the memory of a connection in KiB, by its kind."""
        return Memory(*((now - before) / self.plan.connections for now, before
                        in zip(self.memory(), self.before)))


def counts_of(program):
    """Return the counts that a server or an upstream has printed last."""
    lines = [line for line in program.tail(1000, "\n").splitlines()
             if " requests=" in line]
    return {name: int(value) for name, value
            in re.findall(r"(\w+)=(\d+)\b(?!\.)", lines[-1])} if lines else {}


def network_for(plan):
    return namespaces.Network(
        [*(f"load{number + 1}" for number in range(plan.loads)),
         *(f"server{number + 1}" for number in range(plan.servers)),
         "upstream"])
