# SPDX-License-Identifier: MIT
"""Keeps a host ready for Erlang nodes, and clean: kit.keepers sends this file
to each host, where it needs Python 3.7.

    python3 keeper.py PORT ADDRESS VARIABLE MARK DIRECTORY OURS MODULES

It runs epmd, Erlang's name server, until its input ends. Then it ends all
processes whose environment has VARIABLE=MARK, which takes no new process: the
machine may have run out of them. It removes DIRECTORY if OURS is 1, or if it
has made it.
"""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

SAY = "threadecho-keeper: "
ANSWER_PATIENCE = 10.0  # seconds, for epmd
TERM_PATIENCE = 3.0  # seconds until what has not ended is killed
KILL_PATIENCE = 5.0
HANGUPS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def say(text):
    print(SAY + text, flush=True)


def refuse(text):
    say("problem " + text)
    sys.exit(1)


def listens(port, address="127.0.0.1"):
    """Return whether something listens there."""
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        return False
    return True


def marked(mark):
    """Return the live processes that have this in their environment."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open("/proc/" + name + "/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            pass  # it has ended, or is somebody else's
    return found


def end_marked(mark):
    """End them; return those that do not end."""
    began = time.monotonic()
    while True:
        pids = marked(mark)
        taken = time.monotonic() - began
        if not pids or taken > TERM_PATIENCE + KILL_PATIENCE:
            return pids
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL if taken > TERM_PATIENCE
                        else signal.SIGTERM)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


def start_epmd(port, address, variable):
    """Start epmd, and wait until it answers."""
    if listens(port) or listens(port, address):
        refuse(f"port {port} is taken")
    name, _, value = variable.partition("=")
    epmd = subprocess.Popen(
        ["epmd", "-port", str(port), "-address", address],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, name: value})
    limit = time.monotonic() + ANSWER_PATIENCE
    while not listens(port, address):
        if epmd.poll() is not None:
            refuse(f"epmd cannot listen on {address}:{port}")
        if time.monotonic() > limit:
            refuse("epmd does not answer")
        time.sleep(0.02)
    return epmd


def remove_directory(path):
    """Remove it. Nodes of other keepers may still write there."""
    limit = time.monotonic() + KILL_PATIENCE
    while os.path.exists(path) and time.monotonic() < limit:
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def main():
    port, address, variable, mark, directory, ours, modules = sys.argv[1:]
    mark = variable + "=" + mark
    for number in HANGUPS:
        signal.signal(number, signal.SIG_IGN)  # the end of the input tells
    for tool in ("erl", "epmd"):
        if not shutil.which(tool):
            refuse(f"there is no {tool} (Debian's package tsung)")
    if not os.path.isdir(modules):
        refuse(f"there is no {modules} (Debian's package tsung)")
    remove = ours == "1"
    epmd = None
    try:
        try:
            os.mkdir(directory, 0o700)
            remove = True
        except FileExistsError:
            pass
        epmd = start_epmd(int(port), address, mark)
        with open("/proc/sys/net/ipv4/ip_local_port_range",
                  encoding="ascii") as file:
            ports = " ".join(file.read().split())
        say(f"ready {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} {ports}")
        sys.stdin.buffer.read()
    except OSError as error:
        refuse(f"{error.filename or 'system'}: {error.strerror}")
    finally:
        left = end_marked(mark.encode())
        if epmd and not left:
            epmd.wait(KILL_PATIENCE)
        if remove:
            remove_directory(directory)
        if left:
            say("problem these do not end: " + " ".join(map(str, left)))


if __name__ == "__main__":
    main()
