#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""gevent_sockets.py: a greenlet per connection, over gevent's own sockets.
urlopen would stop every greenlet while it waits, so this has its own fetch.
Run: gevent_sockets.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: every wait must be gevent's. Then code reads as with
threads, and between two waits no other greenlet runs.
"""

from gevent import Timeout, socket
from gevent.server import StreamServer

from bare_http import Upstream, answer
from line_protocol import BACKLOG, TIMEOUT, announce, read_lines, start


def connect(address):
    upstream = socket.create_connection(address)
    upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return upstream


def main():
    def serve_connection(client, _):
        """Read a line, fetch, write, until the client has no more lines."""
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream = Upstream(options, connect)
        try:
            with client.makefile("rb") as file:
                for line in read_lines(file):
                    with Timeout(TIMEOUT, TimeoutError):
                        reply = answer(line, upstream, options)
                    client.sendall(reply)
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
