# SPDX-License-Identifier: MIT
"""What peers share that have no HTTP client of their own: a fetch over any
sockets that have sendall(), makefile() and close().
"""

from socket import gaierror
from typing import Any
from urllib.parse import urlsplit

from line_protocol import (MAX_BODY, FetchError, check_status, echo, error,
                           url_for)

MAX_HEAD = 65536


class Upstream:
    """A connection to the upstream, opened when it is needed. connect() takes
    its address and returns a socket, whose waits are the peer's own."""

    def __init__(self, options, connect):
        url = urlsplit(options.upstream)
        self.connect = connect
        self.address = url.hostname, url.port or 80
        self.origin = len(f"{url.scheme}://{url.netloc}")
        self.keepalive = options.keepalive
        self.fields = f"Host: {url.netloc}\r\n"
        if not self.keepalive:
            self.fields += "Connection: close\r\n"
        self.socket: Any = None  # until it connects

    def fetch(self, url):
        reused = self.socket is not None
        try:
            if not reused:
                self.socket = self.connect(self.address)
                self.file = self.socket.makefile("rb")
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
        return echo(upstream.fetch(url_for(options.upstream, line)))
    except FetchError as problem:
        return error(problem)
    except TimeoutError:
        return error("upstream timed out")
    except ConnectionRefusedError:
        return error("upstream refused")
    except gaierror:
        return error("upstream not found")
    except ConnectionError:
        return error("upstream closed early")
    except ValueError:
        return error("upstream sent bad HTTP")
    except OSError:
        return error("upstream failed")
