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
MOST_INTERIM = 100  # responses before the final one

# The first that fits.
REASONS = {
    TimeoutError: "upstream timed out",
    ConnectionRefusedError: "upstream refused",
    gaierror: "upstream not found",
    ConnectionError: "upstream closed early",
    ValueError: "upstream sent bad HTTP",
    OSError: "upstream failed",
}


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
            self.socket.sendall(self.request(url))
            body, kept = read_response(self.file)
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

    def request(self, url):
        return (f"GET {url[self.origin:]} HTTP/1.1\r\n"
                f"{self.fields}\r\n").encode()

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = self.file = None


def read_response(file):
    """Return the body, and whether the connection can be used again."""
    for _ in range(MOST_INTERIM):
        status, fields = read_head(file)
        if not 100 <= status <= 199:
            break
    check_status(status)
    kept = fields.get(b"connection") != b"close"
    if fields.get(b"transfer-encoding") == b"chunked":
        return read_chunks(file), kept
    if b"content-length" in fields:
        return read_bytes(file, int(fields[b"content-length"])), kept
    if status == 204:
        return b"", kept
    return file.read(MAX_BODY + 1), False


def read_head(file):
    version, status = read_line(file).split()[:2]
    if not version.startswith(b"HTTP/1."):
        raise ValueError("not HTTP")
    return int(status), read_fields(file)


def read_fields(file):
    """Return the fields of a head or of a trailer."""
    fields = {}
    size = 0
    while (line := read_line(file)) != b"\r\n":
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip().lower()
        size += len(line)
        if size > MAX_HEAD:
            raise ValueError("header too long")
    return fields


def read_chunks(file):
    body = b""
    while size := int(read_line(file).partition(b";")[0], 16):
        body += read_bytes(file, size, MAX_BODY - len(body))
        if read_bytes(file, 2) != b"\r\n":
            raise ValueError("bad chunk")
    read_fields(file)  # a trailer
    return body


def read_line(file):
    line = file.readline(MAX_HEAD)
    if not line:
        raise ConnectionResetError
    return line


def read_bytes(file, size, limit=MAX_BODY):
    if not 0 <= size <= limit:
        raise FetchError("upstream body too large")
    data = file.read(size)
    if len(data) < size:
        raise ConnectionResetError
    return data


def reason(problem):
    """Return the reason that the client gets for a failed fetch."""
    if isinstance(problem, FetchError):
        return problem
    for kind, words in REASONS.items():
        if isinstance(problem, kind):
            return words
    raise problem


def answer(line, upstream, options):
    """Return the reply to a line, whether the fetch succeeds or not."""
    if line is None:
        return error("line too long")
    try:
        return echo(upstream.fetch(url_for(options.upstream, line)))
    except Exception as problem:
        return error(reason(problem))
