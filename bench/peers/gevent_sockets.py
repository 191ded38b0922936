#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""gevent_sockets.py: a greenlet per connection, over gevent's own sockets.
urlopen would stop every greenlet while it waits, so this has its own fetch.
Run: gevent_sockets.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: every wait must be gevent's. Then code reads as with
threads, and between two waits no other greenlet runs.
"""

from urllib.parse import urlsplit

from gevent import Timeout, socket
from gevent.server import StreamServer

from line_protocol import (BACKLOG, MAX_BODY, TIMEOUT, FetchError, announce,
                           check_status, echo, error, read_lines, start,
                           url_for)

MAX_HEAD = 65536


class Upstream:
    """A greenlet's connection to the upstream, opened when it is needed."""

    def __init__(self, options):
        url = urlsplit(options.upstream)
        self.address = url.hostname, url.port or 80
        self.origin = len(f"{url.scheme}://{url.netloc}")
        self.keepalive = options.keepalive
        self.fields = f"Host: {url.netloc}\r\n"
        if not self.keepalive:
            self.fields += "Connection: close\r\n"
        self.socket: socket.socket = None  # until it connects

    def fetch(self, url):
        reused = self.socket is not None
        try:
            if not reused:
                self.connect()
            request = f"GET {url[self.origin:]} HTTP/1.1\r\n{self.fields}\r\n"
            self.socket.sendall(request.encode())
            body, kept = self.read_response()
        except ConnectionError:
            self.close()
            if not reused:
                raise
            return self.fetch(url)  # it was closed while idle
        except Exception:
            self.close()
            raise
        if not (kept and self.keepalive):
            self.close()
        return body

    def connect(self):
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = self.file = None

    def read_response(self):
        """Return the body, and whether the connection can be used again."""
        status, fields = self.read_head()
        while 100 <= status <= 199:
            status, fields = self.read_head()
        check_status(status)
        kept = fields.get(b"connection") != b"close"
        if fields.get(b"transfer-encoding") == b"chunked":
            return self.read_chunks(), kept
        if b"content-length" in fields:
            return self.read(int(fields[b"content-length"])), kept
        if status == 204:
            return b"", kept
        return self.file.read(MAX_BODY + 1), False

    def read_head(self):
        version, status = self.read_line().split()[:2]
        if not version.startswith(b"HTTP/1."):
            raise ValueError("not HTTP")
        fields = {}
        size = 0
        while (line := self.read_line()) != b"\r\n":
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip().lower()
            size += len(line)
            if size > MAX_HEAD:
                raise ValueError("header too long")
        return int(status), fields

    def read_chunks(self):
        body = b""
        while size := int(self.read_line().partition(b";")[0], 16):
            body += self.read(size, MAX_BODY - len(body))
            if self.read(2) != b"\r\n":
                raise ValueError("bad chunk")
        while self.read_line() != b"\r\n":
            pass  # a trailer
        return body

    def read_line(self):
        line = self.file.readline(MAX_HEAD)
        if not line:
            raise ConnectionResetError
        return line

    def read(self, size, limit=MAX_BODY):
        if not 0 <= size <= limit:
            raise FetchError("upstream body too large")
        data = self.file.read(size)
        if len(data) < size:
            raise ConnectionResetError
        return data


def answer(line, upstream, options):
    """Return the reply to a line, whether the fetch succeeds or not."""
    if line is None:
        return error("line too long")
    try:
        with Timeout(TIMEOUT, FetchError("upstream timed out")):
            return echo(upstream.fetch(url_for(options.upstream, line)))
    except FetchError as problem:
        return error(problem)
    except ConnectionRefusedError:
        return error("upstream refused")
    except socket.gaierror:
        return error("upstream not found")
    except ConnectionError:
        return error("upstream closed early")
    except ValueError:
        return error("upstream sent bad HTTP")
    except OSError:
        return error("upstream failed")


def main():
    def serve_connection(client, _):
        """Read a line, fetch, write, until the client has no more lines."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = Upstream(options)
        try:
            with client.makefile("rb") as file:
                for line in read_lines(file):
                    client.sendall(answer(line, upstream, options))
        except ConnectionError:
            pass  # the client has gone
        finally:
            upstream.close()

    options = start("gevent_sockets")
    server = StreamServer(options.listen, serve_connection, backlog=BACKLOG)
    server.start()
    announce("gevent_sockets", server.address)
    server.serve_forever()


main()
