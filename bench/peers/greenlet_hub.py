#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""greenlet_hub.py: a greenlet per connection, and nothing of gevent but that:
the hub, which waits for all of them, is here.
Run: greenlet_hub.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: who has switched to whom. Only the hub may switch to a
greenlet that waits, and what a greenlet does not catch is raised in the hub.
"""

import math
import sys
import time
from collections import deque
from contextlib import suppress
from functools import partial

from greenlet import getcurrent, greenlet

from bare_http import Upstream, answer
from line_protocol import TIMEOUT, announce, read_lines, start
from switching_sockets import SwitchingSocket

SWEEP = 0.1  # seconds from one look at the deadlines to the next
NEVER = math.inf
NONE = -1  # no descriptor
NOBODY = None, 0, NEVER


class Hub(greenlet):
    """Waits for every socket at once, and switches to whose turn it is."""

    def __init__(self):
        super().__init__()
        self.waiting = {}  # descriptor: its greenlet, events and deadline
        self.new: deque[greenlet] = deque()

    def start(self, function, *args):
        self.new.append(greenlet(partial(function, *args), self))

    def wait(self, descriptor, events):
        """Let others run until the descriptor has one of the events."""
        me = getcurrent()
        self.waiting[descriptor] = me, events, getattr(me, "deadline", NEVER)
        self.switch()

    def run(self):
        sweep = time.monotonic()
        while True:
            for descriptor, events in SwitchingSocket.epoll.poll(SWEEP):
                waiting, wanted, _ = self.waiting.get(descriptor, NOBODY)
                if events & wanted:
                    del self.waiting[descriptor]
                    waiting.switch()
            while self.new:
                self.new.popleft().switch()
            now = time.monotonic()
            if now - sweep > SWEEP:
                sweep = now
                self.end_waits(now)

    def end_waits(self, now):
        for descriptor, (waiting, _, deadline) in [*self.waiting.items()]:
            if deadline < now:
                del self.waiting[descriptor]
                waiting.throw(TimeoutError)


class Socket(SwitchingSocket):
    def wait(self, events):
        hub.wait(self.fileno(), events)


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
    """Start a greenlet for each client."""
    me = getcurrent()
    while True:
        try:
            client, _ = listener.accept()
            hub.start(serve_connection, client, options)
        except OSError as problem:
            print(f"greenlet_hub: {problem}", file=sys.stderr, flush=True)
            me.deadline = time.monotonic() + SWEEP
            with suppress(TimeoutError):
                hub.wait(NONE, 0)  # out of descriptors: wait for one
            me.deadline = NEVER


hub = Hub()


def main():
    options = start("greenlet_hub")
    listener = Socket.listener(options.listen)
    announce("greenlet_hub", listener.getsockname())
    hub.start(accept_connections, listener, options)
    hub.switch()


main()
