# SPDX-License-Identifier: MIT
"""Keeps the hosts of a distributed Erlang program ready, and clean.

A keeper is a program on a host, kit/keeper.py, which we start by a command
such as 'ssh HOST sh'. It runs epmd, Erlang's name server, at a port of our
own, until its standard input ends: with us, however we end. Then it ends epmd
and the Erlang nodes that were started there, which it knows by a variable in
their environment.
"""

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import time

from .keeper import SAY
from .processes import Failure

VARIABLE = "THREADECHO_TSUNG"  # in the environment of all that a run starts
READY_PATIENCE = 30.0  # seconds; ssh has to connect
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper.py")
END_PATIENCE = 20.0  # the keeper itself takes half of it at most


class Host:
    """A host that takes part.

    name is how the remote shell calls it, address how Erlang does. sources
    are the addresses that its connections come from; empty if any will do.
    """

    def __init__(self, name, address, sources=(), remote=()):
        self.name = name
        self.address = address
        self.sources = list(sources)
        self.remote = [word.replace("{host}", name) for word in remote]
        self.keeper: Keeper | None = None
        self.mark = ""

    def shell(self):
        """Return the words that start a shell there."""
        return [*self.remote, "sh"]

    def environment(self, port, directory):
        """Return what an Erlang node there needs in its environment."""
        interface = self.address.replace(".", ",")
        return {VARIABLE: self.mark, "HOME": directory,
                "ERL_EPMD_PORT": str(port), "ERL_CRASH_DUMP_SECONDS": "0",
                "ERL_ZFLAGS": f"-kernel inet_dist_use_interface "
                f"{{{interface}}}"}

    def node_command(self, port, directory):
        """Return the shell's command that ends with the node's own words."""
        words = shlex.join(f"{name}={value}" for name, value in
                           self.environment(port, directory).items())
        return f'ulimit -n "$(ulimit -Hn)"; exec env {words}'


class Keeper:
    """A keeper on a host. Raises Failure if it can't be started."""

    def __init__(self, host, port, directory, modules):
        self.host = host
        self.log = os.path.join(directory, f"keeper-{host.address}.log")
        self.unread = b""
        self.limits: list[int] = []  # descriptors; first and last port
        with open(SCRIPT, encoding="utf-8") as file:
            script = file.read()
        # A shell that reads its input takes this command whatever way the
        # template passes words on; the keeper then has the same input.
        command = "exec python3 -c " + shlex.join(
            [script, str(port), host.address, VARIABLE, host.mark, directory,
             "" if host.remote else "1", modules]) + "\n"
        try:
            with open(self.log, "ab") as log:
                # It must outlive us, if only for a moment.
                self.process = subprocess.Popen(
                    host.shell(), stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=log,
                    start_new_session=True)
        except OSError as error:
            raise Failure(f"cannot run {shlex.join(host.shell())}: "
                          f"{error.strerror}") from error
        host.keeper = self
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # await_ready() says why
            self.process.stdin.write(command.encode())
            self.process.stdin.flush()

    def lines(self, limit):
        """Generate what it says, until the limit or its end."""
        assert self.process.stdout
        source = self.process.stdout.fileno()
        while time.monotonic() < limit:
            line, newline, rest = self.unread.partition(b"\n")
            if newline:
                self.unread = rest
                text = line.decode("utf-8", "replace")
                if text.startswith(SAY):  # or it is what a login prints
                    yield text.removeprefix(SAY)
                continue
            if select.select([source], [], [], 0.2)[0]:
                data = os.read(source, 65536)
                if not data:
                    return
                self.unread += data

    def await_ready(self, limit):
        """Wait until epmd answers there. Raises Failure."""
        for said in self.lines(limit):
            word, _, rest = said.partition(" ")
            if word == "ready":
                self.limits = [int(value) if value.isdecimal() else 1 << 20
                               for value in rest.split()]
                return
            if word == "problem":
                raise Failure(f"{self.host.name}: {rest}")
        with open(self.log, encoding="utf-8", errors="replace") as file:
            said = " | ".join(file.read().strip().splitlines()[-3:])
        raise Failure(f"{self.host.name}: no answer from "
                      f"{shlex.join(self.host.shell())}" +
                      (f": {said}" if said else ""))

    def release(self):
        """Have it end, and what it keeps."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def close(self):
        """Wait until nothing of ours is left there; return what is, in
        words."""
        self.release()
        left = ""
        for said in self.lines(time.monotonic() + END_PATIENCE):
            if said.startswith("problem"):
                left = said
        try:
            self.process.wait(END_PATIENCE)
        except subprocess.TimeoutExpired:
            left = "does not end"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_PATIENCE)
        assert self.process.stdout
        self.process.stdout.close()
        return f"{self.host.name}: {left}" if left else ""


def close_all(hosts):
    """Close all keepers; return what is left, in words."""
    open_ones = [host.keeper for host in hosts if host.keeper]
    for keeper in open_ones:
        keeper.release()
    left = [keeper.close() for keeper in open_ones]
    for host in hosts:
        host.keeper = None
    return [each for each in left if each]


REMOTE_SHELL = """#!{python}
# Erlang starts a node on another host by this program, with the host and the
# node's command as arguments. It does not look how that ended.
import os, shlex, subprocess, sys
name, shell, command = {hosts!r}[sys.argv[1]]
os.environ["HOME"] = {home!r}
try:
    done = subprocess.run(
        shell, input=command + " " + shlex.join(sys.argv[2:]) + "\\n",
        text=True, errors="replace", cwd={cwd!r}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout={patience})
    problem = " ".join(done.stdout.split()) if done.returncode else ""
    status = done.returncode
except (OSError, subprocess.TimeoutExpired) as error:
    problem, status = str(error), 1
if status:
    with open({failed!r}, "a") as file:
        file.write(name + ": no node could be started: " + problem + "\\n")
sys.exit(status)
"""


def write_remote_shell(path, hosts, port, directory):
    """Write the program that starts a node on another host. What fails is in
    the file PATH.failed then."""
    known = {host.address: (host.name, host.shell(),
                            host.node_command(port, directory))
             for host in hosts}
    with open(path, "w", encoding="utf-8") as file:
        file.write(REMOTE_SHELL.format(
            python=sys.executable, hosts=known, cwd=os.getcwd(),
            home=os.environ.get("HOME", "/"), failed=path + ".failed",
            patience=READY_PATIENCE))
    os.chmod(path, 0o700)
