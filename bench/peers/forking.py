#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""forking.py: a process per connection, forked by the standard library's
socketserver. Each does for its connection what a thread of threads.py does.
Run: forking.py --listen HOST:PORT --upstream URL [--no-keepalive]
Keep in your head: a child has a copy of what there was at the fork, and
nothing that it learns later is of use to another.
"""

import socket
import sys
import time
from socketserver import BaseRequestHandler, ForkingTCPServer

from line_protocol import BACKLOG, announce, error, start
from threads import serve_connection


class Connection(BaseRequestHandler):
    server: "Server"

    def handle(self):
        """Serve a client, in a process of its own."""
        self.server.socket.close()  # the parent accepts
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serve_connection(self.request, self.server.options)


class Server(ForkingTCPServer):
    allow_reuse_address = True
    request_queue_size = BACKLOG
    max_children = sys.maxsize  # with its 40, the next client would wait

    def __init__(self, options):
        self.options = options
        if ":" in options.listen[0]:
            self.address_family = socket.AF_INET6
        super().__init__(options.listen, Connection)

    def get_request(self):
        try:
            return super().get_request()
        except OSError as problem:
            print(f"forking: {problem}", file=sys.stderr, flush=True)
            time.sleep(0.1)  # out of descriptors: wait for one
            raise

    def process_request(self, request, client_address):
        """Fork a process for a client, or tell the client that it failed."""
        try:
            super().process_request(request, client_address)
        except OSError:
            with request:
                request.sendall(error("cannot start a process"))


def main():
    with Server(start("forking")) as server:
        announce("forking", server.server_address)
        server.serve_forever()


main()
