# SPDX-License-Identifier: MIT
"""Makes hosts out of network namespaces, on one subnet.

    with namespaces.Network(["load", "server"]) as network:
        server = network["server"]
        Program(server.command(["./threadecho", "--listen",
                                f"{server.address}:8080"]), log)

Each host has an interface eth0, a veth pair whose other end is a port of a
bridge. The bridge has a namespace of its own, so this machine's interfaces
stay as they are. However the program ends, all of it goes, with whatever runs
there; what a killed program has left goes when the next one starts.
"""

import contextlib
import ipaddress
import itertools
import os
import re
import signal
import subprocess
import time

SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
NAME = "threadecho-{}-{}-{}"  # process, network, host
NAMES = "/run/netns"
SUBNET = "198.18.0.0/16"  # RFC 2544: for measurements, never routed
PATIENCE = 20  # seconds for a command, and for the kernel to remove a link

counter = itertools.count(1)


class Unavailable(Exception):
    """It can't be had on this machine; the text says why."""


@contextlib.contextmanager
def signals_held():
    """Have signals wait, so that nothing is left half done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(number, _):
    """End the program by an exception, so that it cleans up. Another signal,
    as of a terminal to all, does not keep it from that."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def run(*command, **options):
    """Run a command; return what it prints. Raises Unavailable."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.PIPE, errors="replace",
                              check=False, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, **options)
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command)} does not end") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: "
                          f"{' '.join(done.stderr.split()) or 'failed'}")
    return done.stdout


def ip(line):
    return run("ip", *line.split())


def existing():
    """Return the names of this machine's namespaces."""
    return os.listdir(NAMES) if os.path.isdir(NAMES) else []


def remove(name):
    """Kill what runs in a namespace, and remove it."""
    limit = time.monotonic() + PATIENCE
    while pids := ip(f"netns pids {name}").split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > limit:
            raise Unavailable(f"{name}: {' '.join(pids)} can't be killed")
        time.sleep(0.01)
    ip(f"netns delete {name}")


def remove_stale():
    """Remove what a program has left that was killed."""
    for name in existing():
        found = re.fullmatch(NAME.format(r"(\d+)", r"\d+", ".*"), name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            with contextlib.suppress(Unavailable):  # another one removes it
                remove(name)


class Host:
    """A network namespace with one or more addresses."""

    def __init__(self, name, addresses):
        self.name = name  # of the namespace, as ip knows it
        self.addresses = addresses
        self.address = addresses[0]

    def command(self, words):
        """Return the command that runs this one in the host."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words):
        """Run a command there; return what it prints. Raises Unavailable."""
        return run(*self.command(words))

    def read(self, path):
        """Return a file of /proc as it is there. Raises Unavailable."""
        return self.run("cat", path)

    def set(self, setting, value):
        """Set a setting of the network, such as net.core.somaxconn, in this
        host alone. Raises Unavailable."""
        self.run("sh", "-c", 'echo "$1" >"/proc/sys/$2"', "sh", str(value),
                 setting.replace(".", "/"))

    def impair(self, delay_ms, loss_percent):
        """Delay what it sends, and lose some of it. Raises Unavailable."""
        run("tc", "-n", self.name, "qdisc", "replace", "dev", "eth0", "root",
            "netem", "delay", f"{delay_ms}ms", "loss", f"{loss_percent}%")

    def repair(self):
        run("tc", "-n", self.name, "qdisc", "delete", "dev", "eth0", "root")


class Network:
    """Hosts that reach each other. Entering it makes them, and raises
    Unavailable where that can't be.

    Each has this many addresses. With here=True this namespace is a host too:
    it gets an interface, and self.here is its address. Without a bridge there
    are two hosts, at the two ends of a veth pair.
    """

    def __init__(self, names, addresses=1, here=False, bridge=True,
                 subnet=SUBNET):
        number = next(counter)
        self.subnet = ipaddress.ip_network(subnet)
        free = map(str, self.subnet.hosts())
        self.hosts = {
            name: Host(NAME.format(os.getpid(), number, name),
                       list(itertools.islice(free, addresses)))
            for name in names}
        self.here = next(free) if here else None
        self.link = f"te{os.getpid()}.{number}"
        self.bridge = NAME.format(os.getpid(), number, "bridge") \
            if bridge else None
        assert bridge or len(names) + here == 2
        self.before = {}  # how signals were handled

    def __getitem__(self, name):
        return self.hosts[name]

    def namespaces(self):
        return [host.name for host in self.hosts.values()] + (
            [self.bridge] if self.bridge else [])

    def __enter__(self):
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self.before[number] = signal.signal(number, end)
        try:
            with signals_held():
                remove_stale()
                self.make()
        except BaseException as error:
            self.close()
            if isinstance(error, Unavailable) and os.geteuid():
                raise Unavailable(f"needs root: {error}") from error
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def make(self):
        """Make the namespaces and what joins them."""
        for name in self.namespaces():
            ip(f"netns add {name}")
        if self.bridge:
            # without the spanning tree a port forwards at once
            ip(f"-n {self.bridge} link add br0 type bridge stp_state 0")
            ip(f"-n {self.bridge} link set br0 up")
            for number, host in enumerate(self.hosts.values()):
                self.join(f"port{number}", f"eth0 netns {host.name}")
            if self.here:
                self.join("here", f"{self.link} netns {os.getpid()}")
        else:
            first, *rest = self.hosts.values()
            ip(f"-n {first.name} link add eth0 type veth peer name " + (
                f"eth0 netns {rest[0].name}" if rest
                else f"{self.link} netns {os.getpid()}"))
        for host in self.hosts.values():
            self.configure("eth0", host.addresses, f"-n {host.name} ")
            ip(f"-n {host.name} link set lo up")
        if self.here:
            self.configure(self.link, [self.here])

    def join(self, port, peer):
        """Connect a new interface to the bridge."""
        ip(f"-n {self.bridge} link add {port} type veth peer name {peer}")
        ip(f"-n {self.bridge} link set {port} master br0 up")

    def configure(self, link, addresses, where=""):
        for address in addresses:
            ip(f"{where}addr add {address}/{self.subnet.prefixlen} dev {link}")
        ip(f"{where}link set {link} up")

    def close(self):
        """Remove all of it. Raises Unavailable if something stays."""
        with signals_held():
            problems = []
            # Our end first: the kernel removes a link some time after the
            # namespace of its other end.
            for path, name, undo in (
                    ("/sys/class/net", self.link, "link delete"),
                    *((NAMES, name, "") for name in self.namespaces())):
                if not os.path.exists(os.path.join(path, name)):
                    continue
                try:
                    if undo:
                        ip(f"{undo} {name}")
                    else:
                        remove(name)
                except Unavailable as problem:
                    problems.append(str(problem))
            for number, handler in self.before.items():
                if signal.getsignal(number) == end:
                    signal.signal(number, handler)
            self.before.clear()
        if problems:
            raise Unavailable("; ".join(problems))

    def left(self):
        """Return what is there of it: namespaces and interfaces."""
        return sorted(set(existing()) & set(self.namespaces())) + [
            name for name in os.listdir("/sys/class/net")
            if name == self.link]
