# SPDX-License-Identifier: MIT
"""What the Python peers share: the command line and the line protocol.

A peer's own file shows only its model and its fetch.
"""

import argparse
import re
import resource
import sys
from urllib.parse import quote

MAX_LINE = 65536  # bytes, without CR and LF
MAX_BODY = 1024 * 1024  # bytes of an upstream's answer
TIMEOUT = 10  # seconds for one fetch
BACKLOG = 4096


class FetchError(Exception):
    """A failed fetch; its text is the reason in the reply."""


def start(name):
    """Parse the command line and raise the limit on descriptors."""
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--listen", default="127.0.0.1:8080", type=address,
                        metavar="HOST:PORT")
    parser.add_argument("--upstream", metavar="URL",
                        default="http://127.0.0.1:8081/arrpi.php")
    parser.add_argument("--no-keepalive", dest="keepalive",
                        action="store_false")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return options


def address(text):
    """Return HOST:PORT or [HOST]:PORT as a pair."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def announce(name, bound):
    """Report on stderr where the server listens."""
    host, port = bound[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"{name}: listening on {host}:{port}", file=sys.stderr, flush=True)


def url_for(upstream, line):
    """Return the URL that fetches the answer to a line of any bytes."""
    return f"{upstream}{'&' if '?' in upstream else '?'}text={quote(line, '')}"


def read_lines(file):
    """Yield each line of a blocking binary file, or None if it is too long."""
    while line := file.readline(MAX_LINE + 2):
        whole = line.endswith(b"\n")
        if whole:
            line = line[:-1].removesuffix(b"\r")
        if len(line) <= MAX_LINE:
            yield line
            continue
        yield None
        while not whole and (rest := file.readline(MAX_LINE)):
            whole = rest.endswith(b"\n")


def check_status(status):
    """Raise unless the status is 2xx: the client gets no other body."""
    if not 200 <= status <= 299:
        raise FetchError(f"upstream returned {status}")


def echo(body):
    """Return the reply to a successful fetch, always one line."""
    if len(body) > MAX_BODY:
        return error("upstream body too large")
    return b"echo: " + re.sub(rb"[\r\n]+", b" ", body.rstrip(b"\r\n")) + b"\n"


def error(reason):
    """Return the reply to any other line."""
    return f"error: {reason}\n".encode()
