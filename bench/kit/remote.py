# SPDX-License-Identifier: MIT
"""Servers that run elsewhere, and the agent that tells what they use there.

The agent is scripts/observe, started by a command template such as
'ssh {host}'. It answers each line that it gets with a sample. A sample's time
is when we sent that line and got the answer, on our own clock: clocks of two
hosts are never compared.
"""

import collections
import json
import os
import select
import shlex
import socket
import subprocess
import threading
import time
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from . import proc, processes
from .accounts import Usage
from .contenders import Contender, check_name
from .groups import OWN
from .processes import Failure, Program

OBSERVE = os.path.join("scripts", "observe")
START_PATIENCE = 20.0  # seconds; ssh has to connect
ANSWER_PATIENCE = 5.0  # seconds until an agent counts as dead
END_PATIENCE = 2.0  # seconds for it to end once its input ends
CONNECT_PATIENCE = 2.0  # seconds for a server that is said to run
LATE_SHARE = 0.1  # of the time between two samples, that answers may take
KEY_SIZES = range(16, 65)  # bytes, as load and upstream take them
DEFAULT_PORT = 80

# What is not known, in words; a check that can't be made is a "whether".
UNMARKED = ("whether it fetches: replies were compared with the lines alone, "
            "without a mark of the upstream's")
UNCOUNTED = "whether the upstream's counts agree: it runs elsewhere"
OTHERS = ("whether other programs disturbed: on this machine they can't be "
          "told from the server")
NO_AGENT = "CPU, memory and switches: there is no agent (--remote)"
LOST_AGENT = "CPU, memory and switches: "
NOT_FRESH = "memory per connection: the server had been loaded before"

# What an agent's sample costs besides the server's: on its own host.
Far = collections.namedtuple("Far", "ns busy_ns steal_ns own_ns cpu_ns")


def split_address(text, argument):
    """Return the host and the port of HOST:PORT. Raises Failure."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() \
            or not 0 < int(port) < 65536 or \
            (":" in host and not (host[0] == "[" and host[-1] == "]")):
        raise Failure(f"{argument} {text}: not HOST:PORT")
    return host.strip("[]"), int(port)


def name_of(address):
    """Return an address as a name that fits into a table and a file name."""
    name = "".join(each if each.isascii() and (each.isalnum() or each in ".-")
                   else "_" for each in address)
    return name if name[0].isalpha() else f"at-{name}"


class Server(Contender):
    """A server that runs elsewhere, already."""

    elsewhere = True

    def __init__(self, text, args, shared_key):
        name, equals, address = text.rpartition("=")
        host, port = split_address(address, f"--server {name}{equals}".strip())
        name = name.strip() if equals else name_of(address)
        check_name(name, f"--server {text}")
        super().__init__(name, "elsewhere", f"runs already, at {address}", "-")
        self.host, self.port, self.address = host, port, address
        self.listen = args.upstream_listen  # for an upstream of ours
        self.shared_key = shared_key  # with an upstream elsewhere
        self.fetches = bool(self.listen or shared_key)
        self.upstream = args.upstream
        self.remote = args.remote
        self.group = OWN
        self.loaded = False  # by an earlier run of ours
        self.seen: dict | None = None  # what the agent said first

    def problem(self, root):
        return None

    def agent_command(self):
        """Return the words that start a shell on the server's host."""
        return [word.replace("{host}", self.host).replace("{name}", self.name)
                for word in shlex.split(self.remote)] + ["sh"]

    def described(self):
        """Return what environment.json says of it."""
        return {"name": self.name, "model": self.model, "group": self.group,
                "upstream_connection": self.connection,
                "command": self.template, "upstream": self.upstream or (
                    f"ours, at {self.listen}" if self.listen else None),
                "key_shared": bool(self.shared_key), "agent": self.remote,
                "host": self.seen}


def servers(args):
    """Return the servers of --server, after a look at their options. Raises
    Failure."""
    for name in ("upstream", "upstream_listen", "key_file", "remote"):
        if getattr(args, name) and not args.server:
            raise Failure(f"--{name.replace('_', '-')} needs --server")
    if not args.server:
        return []
    if args.upstream and args.upstream_listen:
        raise Failure("--upstream and --upstream-listen exclude each other")
    if args.key_file and not args.upstream:
        raise Failure("--key-file needs --upstream: an upstream of ours gets "
                      "a new key for each run")
    if args.upstream_listen:
        split_address(args.upstream_listen, "--upstream-listen")
    if args.until and not args.remote:
        raise Failure("--until looks at CPU per request: --server needs "
                      "--remote for that")
    try:
        if args.remote is not None and not shlex.split(args.remote):
            raise ValueError("is empty")
    except ValueError as error:
        raise Failure(f"--remote '{args.remote}': {error}") from error
    key = read_key(args.key_file) if args.key_file else b""
    return [Server(text, args, key) for text in args.server]


def read_key(path):
    """Return the key in a file. Raises Failure."""
    try:
        with open(path, "rb") as file:
            key = file.read(KEY_SIZES[-1] + 1)
    except OSError as error:
        raise Failure(f"--key-file {path}: {error.strerror}") from error
    if len(key) not in KEY_SIZES:
        raise Failure(f"--key-file {path}: has not {KEY_SIZES[0]} to "
                      f"{KEY_SIZES[-1]} bytes")
    return key


def ask_upstream(url, text, patience=5.0):
    """Return what an upstream elsewhere answers, or None if it can't be
    reached from here. Raises Failure if the URL is none."""
    if not url.startswith("http://") and not url.startswith("https://"):
        raise Failure(f"--upstream {url}: no http:// or https:// URL")
    mark = "&" if "?" in url else "?"
    try:
        with build_opener(ProxyHandler({})).open(
                f"{url}{mark}text={quote(text)}", timeout=patience) as reply:
            return reply.read(65536)
    except (URLError, OSError, ValueError):
        return None


def is_ours(host):
    """Return whether an address is one of this machine's."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


class Agent:
    """scripts/observe on the server's host.

    Once it fails, problem says why and it has no more answers.
    """

    def __init__(self, settings, server):
        self.problem: str | None = None
        self.count = 0
        self.unread = b""
        self.lock = threading.Lock()
        self.program: Program | None = None
        self.introduction: dict[str, Any] = {}
        try:
            self.program = Program(
                server.agent_command(), settings.log("agent"),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except Failure as failure:
            self.problem = f"the agent did not start: {failure}"
            return
        with open(os.path.join(settings.root, OBSERVE),
                  encoding="utf-8") as file:
            script = file.read()
        seconds = min(settings.duration + settings.warmup + 600, 86400)
        # A shell that reads its input takes this command whatever way the
        # template passes words on; the script then has the same input.
        self.put("exec python3 -c " + shlex.join(
            [script, f":{server.port}", "--interval", "0", "--seconds",
             f"{seconds:.0f}"]))
        self.introduction = self.get(
            lambda answer: "observe" in answer, START_PATIENCE) or {}

    def fail(self, problem):
        if self.problem is None:
            said = self.program.tail() if self.program else ""
            self.problem = (f"the agent {problem}" + (
                f": {said}" if said else "")).replace(";", ",")

    def put(self, line):
        """Send it a line."""
        assert self.program and self.program.process.stdin
        data = line.encode() + b"\n"
        limit = time.monotonic() + START_PATIENCE
        target = self.program.process.stdin.fileno()
        os.set_blocking(target, False)
        while data and self.problem is None:
            if time.monotonic() > limit:
                self.fail("takes no input")
                return
            try:
                if select.select([], [target], [], 0.2)[1]:
                    data = data[os.write(target, data):]
            except OSError:
                self.fail(self.ending())

    def ending(self):
        """Return how it ended, waiting a moment for that."""
        assert self.program
        self.program.wait(1)
        return self.program.own_ending() or "has closed its streams"

    def get(self, wanted, patience):
        """Return the next answer that is wanted, or None."""
        assert self.program and self.program.process.stdout
        source = self.program.process.stdout.fileno()
        limit = time.monotonic() + patience
        while self.problem is None:
            line, newline, rest = self.unread.partition(b"\n")
            if newline:
                self.unread = rest
                try:
                    answer = json.loads(line)
                except ValueError:
                    continue  # such as what a login prints
                if isinstance(answer, dict) and wanted(answer):
                    return answer
                continue
            left = limit - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                self.fail(f"said nothing for {patience:g} s")
                break
            data = os.read(source, 65536)
            if not data:
                self.fail(self.ending())
            self.unread += data
        return None

    def sample(self, kind):
        """Return a sample, and when it was taken on our clock: the earliest
        and the latest ns. kind is cpu or all. Return None if there is none."""
        with self.lock:
            if self.problem is not None:
                return None
            self.count += 1
            mark = f"{kind} {self.count}"
            begin = time.monotonic_ns()
            self.put(mark)
            answer = self.get(lambda each: each.get("mark") == mark,
                              ANSWER_PATIENCE)
            return answer and (answer, begin, time.monotonic_ns())

    def stop(self):
        """End it: the end of its input is enough."""
        if not self.program:
            return
        with self.lock:
            process = self.program.process
            if process.stdin:
                process.stdin.close()
            self.program.wait(END_PATIENCE)
            self.program.stop(END_PATIENCE)


class Account:
    """What an accounts.Account tells of a server, for one elsewhere."""

    def __init__(self, agent):
        self.agent = agent
        self.samples = {}  # by the time on our clock
        self.late_ns = {}  # how long each answer took
        self.since_ns = 0  # when the processes last changed
        self.generation = None
        self.strangers = set()

    def counts_ended(self):
        return True  # a reading before a change does not count: see usable()

    def find_strays(self):
        return set()

    def take(self, kind):
        """Return a sample and its time on our clock, or two Nones."""
        taken = self.agent and self.agent.sample(kind)
        if not taken:
            return None, None
        sample, begin, end = taken
        ns = (begin + end) // 2
        if sample["generation"] != self.generation:
            self.generation, self.since_ns = sample["generation"], ns
        return sample, ns

    def reading(self, _pids):
        """Return the time and the CPU usage, which is None if unknown."""
        begin = time.monotonic_ns()
        sample, ns = self.take("cpu")
        if sample is None:
            return time.monotonic_ns(), None
        self.samples[ns] = Far(sample["ns"], sample["busy_ns"],
                               sample["steal_ns"], sample["own_ns"],
                               sample["cpu_ns"])
        self.late_ns[ns] = time.monotonic_ns() - begin
        return ns, Usage(sample["cpu_ns"], sample["user_ns"],
                         sample["system_ns"])

    def usable(self, readings):
        """Return the readings that can be compared with each other."""
        if not self.known():
            return [reading._replace(server=None) for reading in readings]
        return [reading for reading in readings
                if reading.server and reading.ns >= self.since_ns]

    def known(self):
        """Return whether there is an agent, and it has not failed."""
        return bool(self.agent) and self.agent.problem is None

    def counters(self):
        """Return the kernel's counts, or None."""
        sample, _ = self.take("all")
        return sample and proc.Counters(
            sample["ended_ns"] // proc.TICK_NS, sample["voluntary"],
            sample["involuntary"], memory_of(sample), sample["threads"],
            sample["processes"])

    def memory_kib(self):
        """Return resident memory, or None."""
        sample, _ = self.take("all")
        return sample and memory_of(sample)

    def lateness(self, begin, end):
        """Return how far off two readings may be, as a share of the time
        between them."""
        late = self.late_ns.get(begin.ns, 0) + self.late_ns.get(end.ns, 0)
        return late / 2 / (end.ns - begin.ns)

    def same_machine(self):
        """Return whether the agent runs on this very machine."""
        boot = proc.read("/proc/sys/kernel/random/boot_id").strip()
        return bool(boot) and self.agent.introduction.get("boot") == boot

    def host_use(self, begin, end):
        """Return the cores that others used on the server's host, and those
        that its hypervisor took."""
        early, late = self.samples[begin.ns], self.samples[end.ns]
        passed = late.ns - early.ns
        others = (late.busy_ns - early.busy_ns - (late.cpu_ns - early.cpu_ns) -
                  (late.own_ns - early.own_ns))
        return (max(others, 0) / passed,
                (late.steal_ns - early.steal_ns) / passed)

    def own_ns(self, begin, end):
        """Return the CPU time of the agent between two readings."""
        return self.samples[end.ns].own_ns - self.samples[begin.ns].own_ns


def memory_of(sample):
    return sample["rss_kib"] if sample["pss_kib"] is None \
        else sample["pss_kib"]


class Running:
    """Stands for the Program of a server that is not ours: it is neither
    started nor ended."""

    def __init__(self, settings, contender):
        self.agent = Agent(settings, contender) if contender.remote else None
        self.account = Account(self.agent)
        if self.agent and self.agent.introduction:
            contender.seen = {key: value for key, value
                              in self.agent.introduction.items()
                              if key != "boot"}

    def ended(self):
        return None

    def tail(self):
        return ""

    def stop(self):
        if self.agent:
            self.agent.stop()
        return ""


def unknown(server, contender, measured):
    """Return what is not known, in words; measured: whether there was
    anything to know."""
    found = []
    if not contender.fetches:
        found.append(UNMARKED)
    elif not contender.listen:
        found.append(UNCOUNTED)
    if server.agent is None:
        found.append(NO_AGENT)
        if is_ours(contender.host):
            found.append(OTHERS)
    elif server.agent.problem is not None:
        found.append(LOST_AGENT + server.agent.problem)
    elif contender.loaded and measured:
        found.append(NOT_FRESH)
    return found


def reach(contender, line):
    """Send a server its first line; return the reply, or None, and what is
    wrong or None."""
    limit = time.monotonic() + CONNECT_PATIENCE
    while True:
        try:
            return processes.ask(contender.port, line,
                                 host=contender.host), None
        except OSError as error:
            if time.monotonic() > limit:
                return None, (f"no server at {contender.address}: "
                              f"{error.strerror or error}")
        time.sleep(0.05)
