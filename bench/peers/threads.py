#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""threads.py: a thread per connection, which blocks in readline, in the fetch
and in sendall. It is server.c, under the interpreter's lock.
Run: threads.py --listen HOST:PORT --upstream URL [--no-keepalive]
The timeout is urlopen's: it limits each wait, not the whole fetch.
Keep in your head: what two threads share. Here that is nothing.
"""

import socket
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException, IncompleteRead
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener

from line_protocol import (BACKLOG, MAX_BODY, TIMEOUT, FetchError, announce,
                           check_status, echo, error, read_lines, start,
                           url_for)


class NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


urlopen = build_opener(NoRedirect, ProxyHandler({})).open


def fetch_fresh(url):
    """Fetch as the documents do: urlopen, a new connection each time."""
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            return read_body(response)
    except HTTPError as answer:
        answer.close()
        return check_status(answer.code)
    except URLError as problem:
        if isinstance(problem.reason, OSError):
            raise problem.reason
        raise  # the reason is a string


def fetch_kept(url, upstream):
    """Fetch over a connection that is kept."""
    reused = upstream.sock is not None
    try:
        upstream.request("GET", url[url.index("/", len("http://")):])
        return read_body(upstream.getresponse())
    except ConnectionError:
        upstream.close()
        if not reused:
            raise
        return fetch_kept(url, upstream)  # it was closed while idle
    except Exception:
        upstream.close()
        raise


def read_body(response):
    check_status(response.status)
    body = response.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise FetchError("upstream body too large")
    if response.length:
        raise IncompleteRead(body, response.length)
    return body


def answer(line, upstream, options):
    """Return the reply to a line, whether the fetch succeeds or not."""
    if line is None:
        return error("line too long")
    url = url_for(options.upstream, line)
    try:
        return echo(fetch_kept(url, upstream) if options.keepalive
                    else fetch_fresh(url))
    except FetchError as problem:
        return error(problem)
    except TimeoutError:
        return error("upstream timed out")
    except ConnectionRefusedError:
        return error("upstream refused")
    except socket.gaierror:
        return error("upstream not found")
    except (ConnectionError, IncompleteRead):
        return error("upstream closed early")
    except (HTTPException, ValueError):
        return error("upstream sent bad HTTP")
    except OSError:
        return error("upstream failed")


def serve_connection(client, options):
    """Read a line, fetch, write, until the client has no more lines."""
    upstream = HTTPConnection(urlsplit(options.upstream).netloc,
                              timeout=TIMEOUT)
    try:
        with client, client.makefile("rb") as file:
            for line in read_lines(file):
                client.sendall(answer(line, upstream, options))
    except ConnectionError:
        pass  # the client has gone
    finally:
        upstream.close()


def start_connection(client, options):
    """Start a thread for a client, or tell the client that it failed."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    thread = threading.Thread(target=serve_connection, args=(client, options),
                              daemon=True)
    try:
        thread.start()
    except RuntimeError:
        with client:
            client.sendall(error("cannot start a thread"))


def main(name="threads"):
    options = start(name)
    family = socket.AF_INET6 if ":" in options.listen[0] else socket.AF_INET
    listener = socket.create_server(options.listen, family=family,
                                    backlog=BACKLOG)
    announce(name, listener.getsockname())
    while True:
        try:
            client, _ = listener.accept()
            start_connection(client, options)
        except OSError as problem:
            print(f"{name}: {problem}", file=sys.stderr, flush=True)
            time.sleep(0.1)  # out of descriptors: wait for one


if __name__ == "__main__":
    main()
