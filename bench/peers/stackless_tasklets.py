#!/usr/bin/pypy3
# SPDX-License-Identifier: MIT
"""stackless_tasklets.py: a tasklet per connection, with the stackless module
that PyPy has. A tasklet that waits receives from a channel; one more tasklet
waits for all the sockets, and sends.
Run: stackless_tasklets.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: sending and receiving switch, and nothing else does. A
tasklet that waits for anything but a channel stops everybody.
"""

import math
import sys
import time
from contextlib import suppress

from stackless import channel, getcurrent, getruncount, run, schedule, tasklet

from bare_http import Upstream, answer
from line_protocol import TIMEOUT, announce, read_lines, start
from switching_sockets import SwitchingSocket

SWEEP = 0.1  # seconds from one look at the deadlines to the next
NEVER = math.inf
NONE = -1  # no descriptor
NOBODY = None, 0, NEVER

waiting = {}  # descriptor: the channel, events and deadline of its tasklet


def wait(descriptor, events):
    """Let others run until the descriptor has one of the events."""
    ready = channel()
    deadline = getattr(getcurrent(), "deadline", NEVER)
    waiting[descriptor] = ready, events, deadline
    ready.receive()


def watch():
    """Tell the tasklets that wait when their sockets are ready."""
    sweep = time.monotonic()
    while True:
        others = getruncount() > 1
        for descriptor, events in SwitchingSocket.epoll.poll(
                0 if others else SWEEP):
            ready, wanted, _ = waiting.get(descriptor, NOBODY)
            if events & wanted:
                del waiting[descriptor]
                ready.send(None)
        now = time.monotonic()
        if now - sweep > SWEEP:
            sweep = now
            end_waits(now)
        schedule()


def end_waits(now):
    for descriptor, (ready, _, deadline) in [*waiting.items()]:
        if deadline < now:
            del waiting[descriptor]
            ready.send_exception(TimeoutError, "")


class Socket(SwitchingSocket):
    def wait(self, events):
        wait(self.fileno(), events)


def serve_connection(client, options):
    """Read a line, fetch, write, until the client has no more lines."""
    me = getcurrent()
    upstream = Upstream(options, Socket.dial)
    try:
        with client, client.makefile("rb") as file:
            for line in read_lines(file):
                me.deadline = time.monotonic() + TIMEOUT
                reply = answer(line, upstream, options)
                me.deadline = time.monotonic() + TIMEOUT
                client.sendall(reply)
                me.deadline = NEVER
    except OSError:
        pass  # the client has gone
    finally:
        upstream.close()


def accept_connections(listener, options):
    """Start a tasklet for each client."""
    me = getcurrent()
    while True:
        try:
            client, _ = listener.accept()
            tasklet(serve_connection)(client, options)
        except OSError as problem:
            print(f"stackless_tasklets: {problem}", file=sys.stderr,
                  flush=True)
            me.deadline = time.monotonic() + SWEEP
            with suppress(TimeoutError):
                wait(NONE, 0)  # out of descriptors: wait for one
            me.deadline = NEVER


def main():
    options = start("stackless_tasklets")
    listener = Socket.listener(options.listen)
    announce("stackless_tasklets", listener.getsockname())
    tasklet(accept_connections)(listener, options)
    tasklet(watch)()
    run()


main()
