# SPDX-License-Identifier: MIT
"""What the Python peers share: the command line and the line protocol.

Each peer's own file shows its model, and its way to fetch, and nothing else.
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
    """A fetch has failed; its text is what the client is told."""


def start(name):
    """Read the command line and raise the limit of descriptors."""
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
    """HOST:PORT or [HOST]:PORT as a pair."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def announce(name, bound):
    """Say on stderr that clients may come, and where."""
    host, port = bound[:2]
    host = f"[{host}]" if ":" in host else host
    print(f"{name}: listening on {host}:{port}", file=sys.stderr, flush=True)


def url_for(upstream, line):
    """The URL that asks the upstream about a line; any byte may be in it."""
    return f"{upstream}{'&' if '?' in upstream else '?'}text={quote(line, '')}"


def read_lines(file):
    """Yield each line of a blocking binary file, None for one too long."""
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
    """Only an answer of the 2xx class has a body for the client."""
    if not 200 <= status <= 299:
        raise FetchError(f"upstream returned {status}")


def echo(body):
    """The reply to a line whose fetch went well: one line in any case."""
    if len(body) > MAX_BODY:
        return error("upstream body too large")
    return b"echo: " + re.sub(rb"[\r\n]+", b" ", body.rstrip(b"\r\n")) + b"\n"


def error(reason):
    """The reply to any other line."""
    return f"error: {reason}\n".encode()
