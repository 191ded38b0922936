#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""tornado_coroutines.py: a coroutine per connection over Tornado's streams and
its HTTP client. Of its two clients only the one over libcurl keeps
connections; new ones are the business of the one that is its own.
Run: tornado_coroutines.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: at each await, and only there, other coroutines may run, and
that a stream is closed for writing too once its input has ended.
"""

import asyncio
import socket
from functools import partial

import pycurl
from tornado.curl_httpclient import CurlAsyncHTTPClient, CurlError
from tornado.httpclient import HTTPClientError
from tornado.httputil import HTTPInputError
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError
from tornado.netutil import add_accept_handler, bind_sockets
from tornado.simple_httpclient import (HTTPStreamClosedError,
                                       HTTPTimeoutError, SimpleAsyncHTTPClient)

from line_protocol import (BACKLOG, MAX_BODY, MAX_LINE, TIMEOUT, FetchError,
                           announce, check_status, echo, error, start, url_for)

CLIENTS = 1024  # fetches at a time; more of them wait in a queue
READ_SIZE = 65536
NO_RESPONSE = 599  # Tornado's status for it

CURL_REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: "upstream not found",
    pycurl.E_COULDNT_CONNECT: "upstream refused",
    pycurl.E_OPERATION_TIMEDOUT: "upstream timed out",
    pycurl.E_WRITE_ERROR: "upstream body too large",
    pycurl.E_GOT_NOTHING: "upstream closed early",
    pycurl.E_PARTIAL_FILE: "upstream closed early",
    pycurl.E_RECV_ERROR: "upstream closed early",
    pycurl.E_SEND_ERROR: "upstream closed early",
}


class ClientStream(IOStream):
    """A client may have ended its input and wait for replies all the same, so
    the socket stays open until serve_connection() closes it."""

    def close_fd(self):
        pass


async def read_lines(stream):
    """Yield each line, or None if it is too long."""
    rest, skipping = b"", False
    try:
        while True:
            *lines, rest = (rest + await stream.read_bytes(
                READ_SIZE, partial=True)).split(b"\n")
            for line in lines:
                line = line.removesuffix(b"\r")
                if not skipping:
                    yield line if len(line) <= MAX_LINE else None
                skipping = False
            if skipping or len(rest) > MAX_LINE + 1:
                if not skipping:
                    yield None
                rest, skipping = b"", True
    except StreamClosedError as end:
        if end.real_error is None and rest:
            yield rest if len(rest) <= MAX_LINE else None


class KeepingClient(CurlAsyncHTTPClient):
    def initialize(self, **settings):
        super().initialize(**settings)
        # By default it closes all but four for each transfer under way.
        self._multi.setopt(pycurl.M_MAXCONNECTS, CLIENTS)


def keep_within_limit(body, curl):
    """Have libcurl stop as soon as the body is too large."""
    def take(data):
        body.extend(data)
        return len(data) if len(body) <= MAX_BODY else 0
    curl.setopt(pycurl.WRITEFUNCTION, take)


async def fetch_kept(http, url):
    body = bytearray()
    response = await http.fetch(
        url, raise_error=False, follow_redirects=False,
        decompress_response=False, connect_timeout=TIMEOUT,
        request_timeout=TIMEOUT,
        prepare_curl_callback=partial(keep_within_limit, body))
    if isinstance(response.error, CurlError):
        raise FetchError(CURL_REASONS.get(response.error.errno,
                                          "upstream sent bad HTTP"))
    check_status(response.code)
    return bytes(body)


async def fetch_fresh(http, url):
    response = await http.fetch(
        url, raise_error=False, follow_redirects=False,
        decompress_response=False, connect_timeout=TIMEOUT,
        request_timeout=TIMEOUT)
    if response.code == NO_RESPONSE:
        raise response.error
    check_status(response.code)
    return response.body


async def answer(fetch, url):
    """Return the reply to a line, whether the fetch succeeds or not."""
    try:
        return echo(await fetch(url))
    except FetchError as problem:
        return error(problem)
    except HTTPTimeoutError:
        return error("upstream timed out")
    except socket.gaierror:
        return error("upstream not found")
    except ConnectionRefusedError:
        return error("upstream refused")
    except (HTTPStreamClosedError, ConnectionError):
        return error("upstream closed early")
    except (HTTPClientError, HTTPInputError, ValueError):
        return error("upstream sent bad HTTP")
    except Exception:  # Tornado's own for an error that it has logged
        return error("upstream failed")


async def serve_connection(client, fetch, options):
    """Read a line, fetch, write, until the client has no more lines."""
    with client:
        stream = ClientStream(client)
        stream.set_nodelay(True)
        try:
            async for line in read_lines(stream):
                if line is None:
                    reply = error("line too long")
                else:
                    reply = await answer(fetch, url_for(options.upstream,
                                                        line))
                if stream.closed():  # the last line had no LF
                    stream = ClientStream(client)
                await stream.write(reply)
        except StreamClosedError:
            pass  # the client has gone
        finally:
            stream.close()


async def main():
    options = start("tornado_coroutines")
    if options.keepalive:
        fetch = partial(fetch_kept, KeepingClient(max_clients=CLIENTS))
    else:
        fetch = partial(fetch_fresh, SimpleAsyncHTTPClient(
            max_clients=CLIENTS, max_body_size=MAX_BODY))

    def accepted(client, _):
        IOLoop.current().spawn_callback(serve_connection, client, fetch,
                                        options)

    host, port = options.listen
    listener, *_ = bind_sockets(port, host, backlog=BACKLOG)
    add_accept_handler(listener, accepted)
    announce("tornado_coroutines", listener.getsockname())
    await asyncio.Event().wait()


asyncio.run(main())
