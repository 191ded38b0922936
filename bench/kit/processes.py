# SPDX-License-Identifier: MIT
"""Starts programs, and stops them with all that they have started."""

import contextlib
import ctypes
import os
import random
import select
import shlex
import signal
import socket
import subprocess
import time

from . import accounts, proc

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
ENDINGS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
REST_PATIENCE = 5  # seconds for what a program leaves to end on SIGTERM

libc = ctypes.CDLL(None, use_errno=True)
running = []  # each Program that has been started and not yet stopped


class Failure(Exception):
    """Ends the whole measurement; its text is for the user."""


@contextlib.contextmanager
def signals_held():
    """Have signals that end the kit wait; yield the mask from before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def hide_memory():
    """Have no other process of this user read our memory, which has keys."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


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
    """A program in a session of its own, with all that it starts.

    stop() ends all of these, whatever session they are in. The program itself
    is killed if we die. An untrusted one is not part of the kit. Raises
    Failure if the program cannot be run.
    """

    def __init__(self, command, log, cores=None, stdin=subprocess.DEVNULL,
                 stdout=subprocess.DEVNULL, stderr=None, cwd=None, env=None,
                 pass_fds=(), untrusted=False):
        self.command = command
        self.log = log
        # Python swallows what a handler raises while it forks.
        with signals_held() as mask:
            self.account = accounts.open_account(untrusted)
            parent = os.getpid()

            def child():
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:
                    os._exit(127)
                self.account.join()
                if cores:
                    os.sched_setaffinity(0, cores)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

            try:
                with open(log, "ab") as output:
                    self.process = subprocess.Popen(
                        command, stdin=stdin, stdout=stdout,
                        stderr=output if stderr is None else stderr, cwd=cwd,
                        env={**(os.environ if env is None else env),
                             **self.account.environment()},
                        pass_fds=pass_fds, start_new_session=True,
                        preexec_fn=child)
            except (OSError, subprocess.SubprocessError) as error:
                self.account.close()
                raise Failure(f"cannot run {shlex.join(command)}: "
                              f"{getattr(error, 'strerror', None) or error}") \
                    from error
            self.pid = self.process.pid
            proc.started.add(self.pid)
            self.account.enter(self.pid)
            running.append(self)

    def pids(self):
        """Return its live processes."""
        return self.account.pids()

    def own_ending(self):
        """Return how the program itself ended, in words; None while it
        runs."""
        status = self.process.poll()
        if status is None:
            return None
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def ended(self):
        """Return how it ended, in words; None while it runs.

        A daemon ends with status 0 and leaves a process that serves.
        """
        ending = self.own_ending()
        if self.process.poll() == 0 and self.pids():
            return None
        return ending

    def stop(self, patience=15):
        """Stop it and all that it started; return how it ended, in words.

        The program gets SIGTERM first, then what it leaves. Whatever has not
        ended after patience seconds is killed.
        """
        if self.process.poll() is None:
            proc.send_signal(self.pid, signal.SIGTERM)
        stuck = not self.wait(patience)
        if not stuck and patience:
            stuck = not self.end_rest(min(patience, REST_PATIENCE))
        gone = self.account.close() and self.wait(REST_PATIENCE)
        proc.started.discard(self.pid)
        if self in running:
            running.remove(self)
        for stream in (self.process.stdin, self.process.stdout,
                       self.process.stderr):
            if stream:
                stream.close()
        if not gone:
            return "did not end on SIGKILL"
        return "did not end on SIGTERM" if stuck else self.own_ending()

    def wait(self, patience):
        """Wait for the program itself; return whether it has ended."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end_rest(self, patience):
        """Send SIGTERM to what is left; return whether it ended on that."""
        limit = time.monotonic() + patience
        signalled: set[int] = set()
        while pids := self.account.may_end():
            for pid in set(pids) - signalled:
                proc.send_signal(pid, signal.SIGTERM)
            signalled |= set(pids)
            proc.reap_orphans()
            if time.monotonic() > limit:
                return False
            time.sleep(0.01)
        return True

    def tail(self, lines=3, between=" | "):
        """Return the last lines that it wrote to stderr."""
        with open(self.log, "rb") as file:
            text = file.read().decode("utf-8", "replace")
        return between.join(text.strip().splitlines()[-lines:])


def stop_all():
    """Kill whatever still runs."""
    for program in list(running):
        program.stop(patience=0)


def wait_for_port(program, name, patience=20):
    """Return the port that a program of the kit says it listens on.

    Raises Failure if it ends, or says nothing within patience seconds.
    """
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


def join_address(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ask(port, line, patience=20, host="127.0.0.1"):
    """Send a line on a new connection; return the reply or None.

    patience is in seconds. Raises OSError if the connection fails.
    """
    limit = time.monotonic() + patience
    with socket.create_connection((host, port), 1) as client:
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
