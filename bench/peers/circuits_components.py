#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""circuits_components.py: components that fire events at each other: one that
accepts, and one per upstream connection. Its own HTTP component knows neither
limits nor errors, so what a TCPClient reads goes to bare_http.py.
Run: circuits_components.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: nothing is called, all is fired, and what a handler finds is
how things are when its event's turn has come, not when it was fired.
"""

import io
import socket
import time
from collections import deque

from circuits import Event, Timer, handler
from circuits.core.pollers import EPoll
from circuits.net.events import close, connect, read, write
from circuits.net.sockets import TCPClient, TCPServer

from bare_http import MAX_HEAD, Upstream, read_response, reason
from line_protocol import (BACKLOG, MAX_BODY, MAX_LINE, TIMEOUT, announce,
                           echo, error, start, url_for)

READ_SIZE = 65536
MOST_FETCHERS = 100  # registering one costs the more, the more there are
MOST_LINES = 100  # of a client that wait; then no more are read
MAX_RESPONSE = MAX_BODY + 2 * MAX_HEAD


class Incomplete(Exception):
    """More of the response is to come."""


class Received(io.BytesIO):
    """What has been received of a response, to read as if it were a file."""

    ended = False

    def read(self, size=-1):
        data = super().read(size)
        if len(data) < size and not self.ended:
            raise Incomplete
        return data

    def readline(self, size=-1):
        line = super().readline(size)
        if not line.endswith(b"\n") and len(line) != size and not self.ended:
            raise Incomplete
        return line


class Fetcher(TCPClient):
    """An upstream connection. For each fetch it calls done(reply) once."""

    def __init__(self, upstream, number):
        super().__init__(bufsize=READ_SIZE, channel=f"fetcher-{number}")
        self.upstream = upstream
        self.done = None
        self.open = False  # so far as events have told

    def fetch(self, url, done):
        self.request = self.upstream.request(url)
        self.done = done
        self.deadline = time.monotonic() + TIMEOUT
        self.reused = self.connected
        self.received = Received()
        if self.connected:
            self.fire(write(self.request))
        else:
            self.open = False  # the event of its end may be on its way
            self.fire(connect(*self.upstream.address))

    @handler("connected")
    def on_connected(self, *_):
        self.open = True
        self.fire(write(self.request))

    @handler("read")
    def on_read(self, data):
        if self.done:
            self.received.seek(0, io.SEEK_END)
            self.received.write(data)
            self.look()

    @handler("disconnected")
    def on_disconnected(self):
        if not self.open:
            return  # that was the one before
        self.open = False
        if self.done and self.reused and not self.received.getvalue():
            self.reused = False  # it was closed while idle
            self.fire(connect(*self.upstream.address))
        elif self.done:
            self.received.ended = True
            self.look()

    @handler("unreachable")
    def on_unreachable(self, _host, _port, problem=None):
        self._sock.close()  # the next connect() makes a new one
        self.finish(error(reason(problem or ConnectionRefusedError())))

    def look(self):
        """See whether the response is complete, or wrong."""
        self.received.seek(0)
        kept = False
        try:
            body, kept = read_response(self.received)
            reply = echo(body)
        except Incomplete:
            if len(self.received.getvalue()) <= MAX_RESPONSE:
                return
            reply = error("upstream body too large")
        except Exception as problem:
            reply = error(reason(problem))
        if not (kept and self.upstream.keepalive):
            self.hang_up()
        self.finish(reply)

    def hang_up(self):
        self.open = False
        self._close()

    def finish(self, reply):
        if self.done:
            done, self.done = self.done, None
            done(reply)

    def end_if_late(self, now):
        if self.done and now > self.deadline:
            self.hang_up()
            self.finish(error("upstream timed out"))


class Connection:
    """A client's lines, of which one at a time is answered."""

    def __init__(self, server, client):
        self.server = server
        self.client = client
        self.rest = b""  # of a line
        self.lines: deque = deque()  # None is one that was too long
        self.skipping = False  # the rest of a long line
        self.busy = self.ended = False

    def take(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.add(line.removesuffix(b"\r"))
            self.skipping = False
        if len(self.rest) > MAX_LINE + 1 or self.skipping:
            self.add(None)
            self.rest, self.skipping = b"", True
        self.advance()

    def add(self, line):
        if not self.skipping:
            long = line is None or len(line) > MAX_LINE
            self.lines.append(None if long else line)

    def end(self):
        """The client sends no more."""
        self.ended = True
        if self.rest:
            self.add(self.rest)
        self.advance()

    def advance(self):
        while self.lines and not self.busy:
            line = self.lines.popleft()
            if line is None:
                self.reply(error("line too long"))
            else:
                self.busy = True
                self.server.fetch(line, self.answered)
        if not self.busy and self.ended:
            self.server.fire(close(self.client))
        else:
            self.server.read_more(self.client, not self.ended
                                  and len(self.lines) < MOST_LINES)

    def answered(self, reply):
        self.busy = False
        self.reply(reply)
        self.advance()

    def reply(self, data):
        self.server.fire(write(self.client, data))


class Echo(TCPServer):
    def __init__(self, options):
        super().__init__(options.listen, backlog=BACKLOG, bufsize=READ_SIZE)
        self.options = options
        self.upstream = Upstream(options, None)
        self.connections = {}
        self.fetchers = []
        self.idle = []
        self.waiting: deque = deque()  # for one of them
        Timer(1, Event.create("look_for_late"), self.channel,
              persist=True).register(self)

    @handler("connect")
    def on_connect(self, client, *_):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[client] = Connection(self, client)

    @handler("read")
    def on_read(self, client, data):
        if client in self.connections:
            self.connections[client].take(data)

    @handler("disconnect")
    def on_disconnect(self, client):
        self.connections.pop(client, None)

    @handler("ended")
    def on_end(self, client):
        if client in self.connections:
            self.connections[client].end()

    @handler("look_for_late")
    def on_look_for_late(self):
        now = time.monotonic()
        for fetcher in self.fetchers:
            fetcher.end_if_late(now)

    def fetch(self, line, done):
        """Fetch over a connection that is idle, over one more, or later."""
        if not self.idle and len(self.fetchers) == MOST_FETCHERS:
            self.waiting.append((line, done))
            return
        if not self.idle:
            self.fetchers.append(Fetcher(self.upstream, len(self.fetchers))
                                 .register(self))
            self.idle.append(self.fetchers[-1])
        fetcher = self.idle.pop()

        def finished(reply):
            self.idle.append(fetcher)
            if self.waiting:
                self.fetch(*self.waiting.popleft())
            done(reply)

        fetcher.fetch(url_for(self.options.upstream, line), finished)

    def read_more(self, client, wanted):
        """Have the poller look for input of a client, or not."""
        if client not in self._clients:
            return
        if wanted and not self._poller.isReading(client):
            self._poller.addReader(self, client)
        elif not wanted and self._poller.isReading(client):
            self._poller.removeReader(client)

    def _read(self, client):
        """Read as the base class does, but let a client that has ended its
        input wait for its replies."""
        if client not in self._clients:
            return
        try:
            data = client.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._close(client)
            return
        if data:
            self.fire(read(client, data))
        else:
            self._poller.removeReader(client)
            self.fire(Event.create("ended", client))


def main():
    options = start("circuits_components")
    server = Echo(options)
    EPoll().register(server)  # its choice is select(): 1,023 descriptors
    announce("circuits_components", (server.host, server.port))
    server.run()


main()
